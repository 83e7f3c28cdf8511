//! The operator: turns one `ReplicatedRedis` into running instances, roles, endpoints and failover.
//!
//! - [`api`]: what a person writes. [`record`]: what all operators agree on. [`observe`]: what is seen.
//! - [`plan`]: what to do, as a pure function of the three. Nothing else decides roles.
//! - [`local`] carries plans out with processes of this machine, [`kubernetes`] with pods.
//! - [`plugin`]: `kubectl rr`.
//! - What both need: [`client`] and [`link`] (the conversation with a server), [`tenure`], [`change`], [`config`], [`directives`], [`clock`], [`fault`].

pub mod api;
pub mod change;
pub mod client;
pub mod clock;
pub mod config;
pub mod directives;
pub mod fault;
pub mod healthz;
pub mod kubernetes;
pub mod link;
pub mod local;
pub mod metrics;
pub mod observe;
pub mod passwords;
pub mod plan;
pub mod plugin;
pub mod record;
pub mod resources;
pub mod status;
pub mod storage;
pub mod tenure;
