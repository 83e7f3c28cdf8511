//! Under construction.

pub mod client;
pub mod local;
