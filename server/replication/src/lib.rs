//! Replication and failover as values and pure machines: no socket, file, clock or task; `now_ms` is an argument.
//!
//! - [`log`]: the replication log. Every write is appended once; backlog, feeds, partial resync and snapshots are
//!   questions about offsets in it.
//! - [`history`]: whose history a data set is: replication ids and offsets, the PSYNC decision, the history fence.
//! - [`role`]: a managed instance's role, promises and leases (FAILOVER rules R1 to R8).
//! - [`acks`]: who has acknowledged what: WAIT, min-replicas-to-write, write quorum.
//!
//! Nothing here decides by itself to act: the server's drivers feed in what happened and carry out what comes back.

#![forbid(unsafe_code)]

pub mod acks;
pub mod durable;
pub mod failover;
pub mod feed;
pub mod fence;
pub mod gate;
pub mod history;
pub mod link;
pub mod log;
pub mod orders;
pub mod records;
pub mod role;

pub use acks::{Ack, Acks};
pub use failover::Failover;
pub use feed::{Announced, Ask, Feed, FeedState, NotServed, Serving};
pub use fence::FenceView;
pub use gate::{Gate, Need, Released};
pub use history::{History, Psync, ReplId};
pub use link::{Event, Identity, Link, LinkError};
pub use log::{CutOff, Log, ReaderId};
pub use orders::{Answer, Effect, Obeyed, Order};
pub use records::Record;
pub use role::{Durable, Refusal, Reign, Role, RoleState};
