//! The engine: keyspace, data types and the commands on them, RDB. It knows no socket, file, clock or task, and takes
//! time and randomness as arguments, so that every behaviour of a command can be tested as a function.
//!
//! - [`keyspace`]: sharded tables of entries; the lock of a shard; [`keyspace::KeysView`], the only way a command
//!   touches data - it counts changes, tells WATCHers and hands old values to a running snapshot.
//! - [`types`]: the collections and their packed forms.
//! - [`command`]: what a command is (metadata and function in one place); [`commands`]: the families.
//! - [`rdb`]: the file and full-sync format; [`digest`]: the fingerprint that compares two data sets.
//! - [`ctx`]: what a command gets; [`effects`]: what it leaves for the replication log.

mod access;
pub mod command;
pub mod commands;
pub mod ctx;
pub mod digest;
pub mod effects;
pub mod error;
pub mod glob;
pub mod keyspace;
pub mod limits;
pub mod long_double;
pub mod parse;
pub mod rdb;
pub mod rng;
pub mod types;

pub use command::{Command, CommandResult, Spec};
pub use ctx::Ctx;
pub use effects::Effects;
pub use error::CommandError;
pub use keyspace::{KeysView, Keyspace};
pub use limits::Limits;
pub use rng::Rng;
