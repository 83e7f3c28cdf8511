//! Every `ReplicatedRedis` of a cluster, as pods, with the planner that serves local mode.
//!
//! ```text
//!  API server ──watch──► caches ──rings──► session (one per datastore): observe → plan → apply
//!      ▲                                     │  │  └── pod: link ─── REPLICATED … on the pod's port
//!      ├── record (status, precondition) ────┘  └── beside the loop: labels, objects, status
//!      └── Lease ── leader: sessions run, and leases are granted, only while it leads
//! ```
//! None of these decides a role. The record is the only thing that outlives an operator.

mod caches;
mod calls;
mod claims;
mod extras;
mod leader;
mod objects;
mod pod;
mod recreate;
mod session;
mod start;

use std::fmt;

use kube::Client;
use kube::runtime::events::Reporter;

use crate::metrics::Metrics;

pub use session::{ALLOW_DATA_LOSS, CONTINUE_UPDATE, FENCED, PROMOTE, SWITCHOVER, fenced_instances};
pub use start::{RunArgs, execute};

/// What all sessions share.
struct Context {
    client: Client,
    caches: caches::Caches,
    leadership: leader::Leadership,
    /// This operator's own name, in the record and in the Lease.
    identity: String,
    /// The server's image where a spec names none.
    image: String,
    /// Where the operator's pods run.
    namespace: String,
    /// What there is of the objects that only some datastores have.
    extras: extras::Extras,
    reporter: Reporter,
    metrics: Metrics,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("identity", &self.identity).finish_non_exhaustive()
    }
}
