//! The server: the shell around the pure crates. It owns sockets, files, threads and time, and decides as little as it
//! can.
//!
//! - [`config`], [`clock`], `timers`, [`logging`]: settings, time, log lines.
//! - [`state`]: what all threads share. [`registry`]: commands by name. [`dispatch`]: one command from bytes to reply.
//! - `cron`: what happens by the clock.
//! - [`net`]: workers and connections; a command runs on the thread that read it.
//! - [`commands`]: commands about the server itself. [`info`], [`latency`], [`rates`], `metrics`, [`http`]: what it
//!   tells about itself.
//! - [`shutdown`]: ending in order. [`supervise`]: what a service manager is told.
//!   [`descriptors`]: room for connections.
//! - [`repl`]: replication and roles, both ways. [`persistence`]: RDB files and the state beside them.

pub mod acl;
pub mod clients;
pub mod clock;
pub mod commands;
pub mod config;
mod cron;
pub mod descriptors;
pub mod dispatch;
pub mod http;
pub mod info;
pub mod latency;
pub mod local_expiry;
pub mod logging;
pub mod memory;
mod metrics;
pub mod net;
pub mod persistence;
pub mod rates;
pub mod registry;
pub mod repl;
pub mod shutdown;
pub mod state;
pub mod supervise;
mod timers;

/// The Redis version whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.2.4";

pub use state::Server;
