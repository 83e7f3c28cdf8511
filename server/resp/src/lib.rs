//! The Redis serialisation protocol (RESP2 and RESP3), pure: bytes in, values out, and back.
//!
//! - [`request`]: what a client sends - multibulk and inline requests - parsed in place, without copies.
//! - [`encode`]: replies, written straight into the output buffer in the protocol the client speaks.
//! - [`value`]: replies as a client reads them (operator, replication link, tests).
//!
//! Nothing here knows what a command means. Source: the Redis protocol specification.

#![forbid(unsafe_code)]

pub mod args;
pub mod encode;
pub mod number;
pub mod request;
pub mod value;

pub use args::{Args, OwnedArgs, Span};
pub use encode::{Encoder, Protocol};
pub use request::{ProtocolError, Request, RequestLimits, RequestParser};
pub use value::{DecodeError, Value, decode_reply, encode_command};
