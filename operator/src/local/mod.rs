//! Local mode.
pub mod files;
pub mod forward;
pub mod ports;
pub mod record_store;
pub mod supervisor;
pub mod watch;
