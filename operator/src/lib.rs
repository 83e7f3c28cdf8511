//! The operator: turns one `ReplicatedRedis` into running instances, roles, endpoints and failover.
//!
//! - [`api`]: what a person writes. [`record`]: what all operators agree on. [`observe`]: what is seen.
//! - [`plan`]: what to do, as a pure function of the three. Nothing else decides roles.
//! - [`local`]: carries plans out with processes of this machine. [`client`]: the control protocol of the server.

pub mod api;
pub mod client;
pub mod local;
pub mod observe;
pub mod plan;
pub mod record;
