//! Local mode: one `ReplicatedRedis` as processes of this machine, with the planner that serves Kubernetes.
//!
//! ```text
//!  manifest.yaml ──watch──┐                       ┌── supervisor ── process (one per instance)
//!  ports.json, record.json┤   ┌────────────────┐  ├── link ─────── REPLICATED … on its port
//!  other terminals ─control┼──►│ session: observe│─►┤
//!  processes' ends ────────┤   │ → plan → apply  │  ├── forward ──── master and replicas endpoint
//!  answers of instances ───┘   └────────────────┘  └── screen, metrics
//! ```
//! Only [`session`] knows all of these; they do not know each other, and none of them decides a role.

pub mod control;
pub mod files;
pub mod forward;
pub mod instance;
pub mod ports;
pub mod record_store;
pub mod screen;
pub mod session;
pub mod start;
pub mod supervisor;
pub mod watch;

pub use start::{LocalArgs, execute};
