//! Two instances, a feed and a link between them, and a clock that is moved by hand.
//!
//! The driver in `world` does what the server's drivers do, with a `Vec` for the socket and another for the data set. An
//! RDB is, here, the data itself behind a line that says its epoch.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

mod managed;
mod unmanaged;
mod world;
