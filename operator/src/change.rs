//! How long a change of the master takes, and how long it keeps writes waiting.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::record::Target;

/// Why the master changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// There was none before.
    First,
    /// The old master is lost. `reason` is a label of the metrics.
    Failover { reason: &'static str },
    /// Planned.
    Switchover { to: String },
    /// The present master goes on with other members or another quorum (rule R11).
    Members,
}

/// All reasons of a failover.
pub const FAILOVER_REASONS: [&str; 2] = ["MasterEnded", "MasterSilent"];

impl Kind {
    /// The kind of the change that a record with this target begins. `had_master`: this operator has seen a master that took
    /// writes; without one nothing was lost that it knows of. `has_ended`: the old master is known to have ended.
    pub fn of(target: Option<&Target>, had_master: bool, has_ended: bool) -> Kind {
        match target {
            Some(Target::Named { to }) => Kind::Switchover { to: to.clone() },
            Some(Target::Members { .. }) => Kind::Members,
            Some(Target::Pending { .. }) | None if !had_master => Kind::First,
            Some(Target::Pending { .. }) | None if has_ended => Kind::Failover { reason: FAILOVER_REASONS[0] },
            Some(Target::Pending { .. }) | None => Kind::Failover { reason: FAILOVER_REASONS[1] },
        }
    }
}

/// A change that is under way.
#[derive(Debug)]
pub struct Change {
    kind: Kind,
    old: Option<String>,
    since: Instant,
    paused_at: Option<Instant>,
}

/// A change that has come to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    pub kind: Kind,
    old: Option<String>,
    pub master: String,
    /// Since the old master was lost, or since the intent.
    pub took: Duration,
    /// Since the old master was told to pause its writes.
    pub paused: Duration,
}

impl Change {
    pub fn begin(kind: Kind, old: Option<String>, since: Instant) -> Change {
        Change { kind, old, since, paused_at: None }
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    /// The old master was told at `moment` to pause its writes, and has done it.
    pub fn on_paused(&mut self, moment: Instant) {
        self.paused_at.get_or_insert(moment);
    }

    /// `master` takes writes since `now`.
    pub fn finish(self, master: &str, now: Instant) -> Finished {
        Finished {
            kind: self.kind,
            old: self.old,
            master: master.to_string(),
            took: now - self.since,
            paused: self.paused_at.map_or(now - self.since, |at| now - at),
        }
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = self.old.as_deref().unwrap_or("the former master");
        match &self.kind {
            Kind::First => write!(f, "takes writes"),
            Kind::Failover { .. } => write!(f, "takes writes, {} ms after {old} was lost", self.took.as_millis()),
            Kind::Switchover { .. } => write!(f, "takes writes; they were paused for {} ms", self.paused.as_millis()),
            Kind::Members => write!(f, "takes writes with the new members, after {} ms", self.took.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_from_the_first_hand_over() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut change = Change::begin(Kind::Switchover { to: "b".to_string() }, Some("a".to_string()), t);
        change.on_paused(at(40));
        change.on_paused(at(60));
        let finished = change.finish("b", at(100));
        assert_eq!((finished.took.as_millis(), finished.paused.as_millis()), (100, 60));
        assert_eq!(finished.to_string(), "takes writes; they were paused for 60 ms");
    }

    #[test]
    fn a_failover_counts_from_the_loss() {
        let t = Instant::now();
        let change = Change::begin(Kind::Failover { reason: "MasterEnded" }, Some("a".to_string()), t);
        let finished = change.finish("b", t + Duration::from_millis(83));
        assert_eq!(finished.to_string(), "takes writes, 83 ms after a was lost");
    }
}
