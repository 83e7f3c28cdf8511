//! Fault points: moments before and after every act that changes something outside the operator. A test lets the operator die
//! there, to show that the next one goes on.
//!
//! The file that `RR_CRASH_AT` names says where: `after-write-record:2` is the second time, since the file says so, that a
//! record was written. It is read at each point, so a test can say it while the operator runs, and removed by the
//! end that it causes, so that the next process lives. `trace` asks for no end: the name of each point that is passed
//! becomes a line of FILE.passed. Without the variable a point is one comparison.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::plan::Order;

/// Names the file.
pub const VARIABLE: &str = "RR_CRASH_AT";
/// What the file says when nobody is to die.
pub const TRACE: &str = "trace";

macro_rules! acts {
    ($($act:ident = $name:literal,)*) => {
        /// Something that the operator does to the world.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Act { $($act),* }

        impl Act {
            /// Every one.
            pub const ALL: &[Act] = &[$(Act::$act),*];

            pub fn name(self) -> &'static str {
                match self { $(Act::$act => $name),* }
            }
        }
    };
}

acts! {
    // The record, in the object's status.
    WriteRecord = "write-record",
    // Orders to instances.
    Promise = "promise",
    Promote = "promote",
    Lease = "lease",
    Follow = "follow",
    FollowExternal = "follow-external",
    Handover = "handover",
    Await = "await",
    // What else an instance is told.
    TellPassword = "tell-password",
    TellDirectives = "tell-directives",
    // Objects.
    Apply = "apply",
    ApplyExtra = "apply-extra",
    DeleteExtra = "delete-extra",
    CreatePassword = "create-password",
    OrphanPods = "orphan-pods",
    GrowClaim = "grow-claim",
    OwnClaim = "own-claim",
    // Pods.
    Label = "label",
    Evict = "evict",
    // What a person reads, and has asked for.
    WriteStatus = "write-status",
    PublishEvent = "publish-event",
    TakeOffWish = "take-off-wish",
    // Among operators.
    WriteLead = "write-lead",
    GiveUpLead = "give-up-lead",
}

impl Act {
    /// `None` for what no plan orders.
    pub fn of(order: &Order) -> Option<Act> {
        match order {
            Order::Promise { .. } => Some(Act::Promise),
            Order::Promote { .. } => Some(Act::Promote),
            Order::Lease { .. } => Some(Act::Lease),
            Order::Follow { .. } => Some(Act::Follow),
            Order::FollowExternal { .. } => Some(Act::FollowExternal),
            Order::Handover { .. } => Some(Act::Handover),
            Order::Await => Some(Act::Await),
            Order::AcceptMaster => None,
        }
    }

    /// The names of its two points.
    pub fn points(self) -> [String; 2] {
        [Moment::Before, Moment::After].map(|moment| moment.of(self))
    }

    /// Does it, between its two points; a failure does not reach the second one.
    ///
    /// # Errors
    /// Those of `doing`.
    pub async fn around<T, E>(self, doing: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        pass(Moment::Before, self);
        let done = doing.await?;
        pass(Moment::After, self);
        Ok(done)
    }
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Before,
    After,
}

impl Moment {
    fn of(self, act: Act) -> String {
        let moment = match self {
            Moment::Before => "before",
            Moment::After => "after",
        };
        format!("{moment}-{}", act.name())
    }
}

/// What the file said last, and how often its point was passed since.
#[derive(Debug, Default)]
struct Heard {
    order: String,
    passed: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Live,
    Note,
    Die,
}

impl Heard {
    fn judge(&mut self, order: &str, point: &str) -> Verdict {
        if self.order != order {
            *self = Heard { order: order.to_string(), passed: 0 };
        }
        match order.split_once(':') {
            None if order == TRACE => Verdict::Note,
            Some((name, nth)) if name == point => {
                self.passed += 1;
                if nth.parse() == Ok(self.passed) { Verdict::Die } else { Verdict::Live }
            }
            Some(_) | None => Verdict::Live,
        }
    }
}

fn pass(moment: Moment, act: Act) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    static HEARD: Mutex<Heard> = Mutex::new(Heard { order: String::new(), passed: 0 });
    let Some(file) = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) else { return };
    let order = fs::read_to_string(file).unwrap_or_default();
    let point = moment.of(act);
    let mut heard = HEARD.lock();
    match heard.judge(order.trim(), &point) {
        Verdict::Live => {}
        Verdict::Note => note(file, &point),
        Verdict::Die => {
            tracing::error!("the operator ends here, as {VARIABLE} says: {}", order.trim());
            let _ = fs::remove_file(file);
            std::process::abort();
        }
    }
}

fn note(file: &Path, point: &str) {
    let passed = fs::File::options().create(true).append(true).open(passed(file));
    if let Err(error) = passed.and_then(|mut passed| writeln!(passed, "{point}")) {
        tracing::warn!("cannot note {point}: {error}");
    }
}

/// Where points are noted that are passed while `file` asks for it.
pub fn passed(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".passed");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_pass_since_it_was_asked_for_is_the_last() {
        let mut heard = Heard::default();
        let mut judge = |order, point| heard.judge(order, point);
        assert_eq!(judge("", "after-evict"), Verdict::Live);
        assert_eq!(judge("trace", "after-evict"), Verdict::Note);
        assert_eq!(judge("after-evict:2", "after-evict"), Verdict::Live);
        assert_eq!(judge("after-evict:2", "before-evict"), Verdict::Live);
        assert_eq!(judge("after-label:1", "after-evict"), Verdict::Live, "another order: counted anew");
        assert_eq!(judge("after-evict:2", "after-evict"), Verdict::Live);
        assert_eq!(judge("after-evict:2", "after-evict"), Verdict::Die);
    }

    #[test]
    fn no_two_points_have_one_name() {
        let mut points: Vec<String> = Act::ALL.iter().flat_map(|act| act.points()).collect();
        points.sort();
        points.dedup();
        assert_eq!(points.len(), Act::ALL.len() * 2);
    }
}
