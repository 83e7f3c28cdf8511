//! Under construction.

pub mod client;
