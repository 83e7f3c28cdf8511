//! Fault points: moments between two actions at which a test lets the operator die, to show that the next one goes on.
//!
//! The file that `RR_CRASH_AT` names says where: `record-written:2` is the second time that point is passed. It is read at each
//! point, so a test can say it while the operator runs, and removed by the end that it causes, so that the next
//! process lives. Without the variable a point is one comparison.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names the file.
pub const VARIABLE: &str = "RR_CRASH_AT";

macro_rules! points {
    ($($point:ident = $name:literal,)*) => {
        /// A moment before or after an action.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($point),* }

        impl Point {
            /// Every one: tests iterate them.
            pub const ALL: &[Point] = &[$(Point::$point),*];

            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name),* }
            }
        }
    };
}

points! {
    // The record, in the object's status.
    WriteRecord = "write-record",
    RecordWritten = "record-written",
    // Orders to instances: before they are sent, and when their answer has been heard.
    Promise = "promise",
    Promised = "promised",
    Promote = "promote",
    Promoted = "promoted",
    Lease = "lease",
    Leased = "leased",
    Follow = "follow",
    Followed = "followed",
    Handover = "handover",
    HandedOver = "handed-over",
    // Objects by server-side apply, the master Service first.
    ApplyObject = "apply-object",
    ObjectApplied = "object-applied",
    CreatePassword = "create-password",
    PasswordCreated = "password-created",
    // Role labels of pods.
    Label = "label",
    Labelled = "labelled",
    // What a person reads, and has asked for.
    WriteStatus = "write-status",
    StatusWritten = "status-written",
    TakeOffWish = "take-off-wish",
    WishTakenOff = "wish-taken-off",
}

/// Ends the process if a test has asked for it at this point.
pub fn point(point: Point) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Some(file) = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) else { return };
    let Ok(order) = std::fs::read_to_string(file) else { return };
    let Some((name, nth)) = order.trim().split_once(':') else { return };
    if name != point.name() || nth.parse() != Ok(PASSED.fetch_add(1, Ordering::Relaxed) + 1) {
        return;
    }
    tracing::error!("the operator ends here, as {VARIABLE} says: {}", order.trim());
    let _ = std::fs::remove_file(file);
    std::process::abort();
}
