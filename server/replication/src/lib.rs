//! Replication and failover as values and pure machines: bytes and milliseconds in, bytes and effects out.
//!
//! # What holds what
//!
//! The log and whose it is:
//! - [`log`]: the replication log. Every write is appended once; backlog, feeds, partial resync and snapshots are
//!   questions about offsets in it.
//! - [`history`]: replication ids and offsets, the PSYNC decision, the shift at a promotion.
//! - [`records`]: what replication itself puts into the log: PING, GETACK, the epoch mark.
//! - [`fence`]: may a full resync replace what is here?
//!
//! The two ends of a connection:
//! - [`feed`]: the master's: REPLCONF, PSYNC, the snapshot, when the log may follow, time-outs. [`snapshots`]: who shares one.
//! - [`link`]: the replica's: handshake, the answers to PSYNC, the body of an RDB, acknowledgements, when to try again.
//!
//! Acknowledgements:
//! - [`acks`]: who holds what: WAIT, min-replicas-to-write, the write quorum.
//! - [`gate`]: "hold this until offset X is acknowledged by Y".
//!
//! Roles. Managed ones, by the rules of FAILOVER, which the code names where it keeps them:
//! - [`role`]: promises, leases, promotion (R1 to R11, the instance's part); [`durable`]: what of it is on the disk.
//! - [`orders`]: `REPLICATED …`, each as one function from a role to the next role with what to store and to do.
//!
//! And Redis's own:
//! - [`replicaof`]: REPLICAOF and NO ONE. [`failover`]: the FAILOVER command.
//!
//! # What is never here
//!
//! No socket, file, clock, task, lock or randomness: `now_ms`, ids and jitter are arguments. The server's drivers and the
//! simulator run the same machines, so what the simulator finds is true of the server.
//!
//! # Invariants
//!
//! - Under one replication id there is one sequence of bytes. Who begins to write takes a new id first.
//! - A replica's log is, byte for byte, its master's: offsets agree down a chain, and nothing but the master's bytes is
//!   appended while an instance follows.
//! - The epoch of a history is that of the last mark that the data really holds. It is never stored ahead of the data.
//! - `promised` never goes down, and is on the disk before it is answered. A role is in force only while its epoch is
//!   the promised one.
//! - A master's leases are counted from its own requests, a replica's grants from its own answers: clocks are never
//!   compared, and the grant always ends later than the lease.
//! - What a peer sends is never a reason to panic or to hold memory without a limit.

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
pub mod replicaof;
pub mod role;
pub mod snapshots;

pub use acks::{Ack, Acks};
pub use failover::Failover;
pub use feed::{Announced, Ask, Feed, FeedState, NotServed, Serving};
pub use fence::FenceView;
pub use gate::{Gate, Need, Released};
pub use history::{History, Psync, ReplId};
pub use link::{Event, Identity, Link, LinkError, Sync};
pub use log::{CutOff, Log, ReaderId};
pub use orders::{Answer, Effect, Obeyed, Order};
pub use records::Record;
pub use role::{Access, Durable, Refusal, Reign, Role, RoleState};
pub use snapshots::Snapshots;
