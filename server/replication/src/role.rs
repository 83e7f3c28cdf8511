//! The role of a managed instance: promises, leases, promotion. The rules are those of FAILOVER; each is named where it
//! is kept.
//!
//! ```text
//!            PROMOTE e                       FOLLOW m e
//! Awaiting ───────────► Master(e) ─────────────────────► Replica(e, m)
//!     │                    ▲  PROMISE e' > e: takes no      │   ▲
//!     │                    │  writes any more               │   │ FOLLOW m' e'
//!     │                    └────────── PROMOTE e' ──────────┤   │
//!     └──────────────────── FOLLOW m e ─────────────────────►───┘
//! ```
//! `promised` only rises. What [`Durable`] holds is on the disk before an answer goes out: the driver writes it
//! whenever [`Role::durable`] has changed.

use std::collections::BTreeMap;
use std::fmt;

/// The part that outlives the process; a small text file beside the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// Random, made with the directory.
    pub volume: u64,
    /// Highest epoch promised.
    pub promised: u64,
    /// Belongs to this cluster and has held data.
    pub member: bool,
    /// The last shutdown was orderly and the instance was complete then.
    pub complete: bool,
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "volume {:016x}", self.volume)?;
        writeln!(f, "promised {}", self.promised)?;
        writeln!(f, "member {}", u8::from(self.member))?;
        writeln!(f, "complete {}", u8::from(self.complete))
    }
}

impl std::str::FromStr for Durable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut durable = Durable::default();
        let mut seen = 0;
        for line in text.lines() {
            let bad = || format!("replication.state: bad line {line:?}");
            let (name, value) = line.split_once(' ').ok_or_else(bad)?;
            match name {
                "volume" => durable.volume = u64::from_str_radix(value, 16).map_err(|_| bad())?,
                "promised" => durable.promised = value.parse().map_err(|_| bad())?,
                "member" => durable.member = value == "1",
                "complete" => durable.complete = value == "1",
                _ => return Err(bad()),
            }
            seen += 1;
        }
        if seen < 4 { Err("replication.state: the file is not complete".into()) } else { Ok(durable) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleState {
    Awaiting,
    Master(Reign),
    Replica { epoch: u64, host: String, port: u16 },
}

/// A master's epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reign {
    pub epoch: u64,
    /// Write quorum.
    pub k: usize,
    /// Volumes of all members, this one included.
    pub members: Vec<u64>,
    /// End of the operator's lease.
    operator_until: u64,
    /// End of each replica's lease, by volume.
    replicas_until: BTreeMap<u64, u64>,
}

/// Why an order is not obeyed; `Display` is the wire text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("STALEEPOCH {0} was promised")]
    StaleEpoch(u64),
    #[error("WRONGINCARNATION this process is {0:016x}")]
    WrongIncarnation(u64),
    #[error("NOTREADY {0}")]
    NotReady(&'static str),
    #[error("NOTMASTER {0}")]
    NotMaster(u64),
}

#[derive(Debug, Clone)]
pub struct Role {
    pub durable: Durable,
    /// Random at every start.
    pub incarnation: u64,
    pub state: RoleState,
    /// Holds everything that it ever acknowledged.
    pub complete: bool,
    /// Has once caught up with its present master.
    pub caught_up: bool,
    lease_ms: u64,
    /// Longest time for which a lease granted by this instance may still run.
    grant_until: u64,
    paused_until: u64,
}

impl Role {
    /// A process that has just started. R3: its start counts as a grant to every master, for what it granted before is
    /// not remembered. `complete` holds over an orderly shutdown only.
    pub fn new(durable: Durable, incarnation: u64, lease_ms: u64, now_ms: u64) -> Self {
        let complete = durable.complete;
        Self {
            // Whatever happens next, a crash from now on is not an orderly shutdown.
            durable: Durable { complete: false, ..durable },
            incarnation,
            state: RoleState::Awaiting,
            complete,
            caught_up: false,
            lease_ms,
            grant_until: now_ms + lease_ms,
            paused_until: 0,
        }
    }

    /// Epoch at which the present role was told; 0: none.
    pub fn role_epoch(&self) -> u64 {
        match &self.state {
            RoleState::Awaiting => 0,
            RoleState::Master(reign) => reign.epoch,
            RoleState::Replica { epoch, .. } => *epoch,
        }
    }

    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// R2. After `Ok` the driver drops the link to a master of a lower epoch before it answers.
    pub fn promise(&mut self, epoch: u64) -> Result<(), Refusal> {
        let again = epoch == self.durable.promised && self.role_epoch() != epoch;
        if epoch > self.durable.promised {
            self.durable.promised = epoch;
            self.paused_until = 0;
            Ok(())
        } else if again {
            Ok(())
        } else {
            Err(Refusal::StaleEpoch(self.durable.promised))
        }
    }

    /// True while the link to the present master may be kept: not between a promise and the role at that epoch (R2).
    pub fn may_follow(&self) -> bool {
        matches!(self.state, RoleState::Replica { epoch, .. } if epoch == self.durable.promised)
    }

    /// R7. `busy`: a reason why the data is not whole now (loading, a full resync).
    pub fn promote(
        &mut self,
        epoch: u64,
        incarnation: u64,
        k: usize,
        members: Vec<u64>,
        busy: Option<&'static str>,
    ) -> Result<(), Refusal> {
        if epoch != self.durable.promised || self.role_epoch() == epoch {
            return Err(Refusal::StaleEpoch(self.durable.promised));
        }
        if incarnation != self.incarnation {
            return Err(Refusal::WrongIncarnation(self.incarnation));
        }
        if let Some(reason) = busy {
            return Err(Refusal::NotReady(reason));
        }
        self.state = RoleState::Master(Reign { epoch, k, members, ..Reign::default() });
        self.durable.member = true;
        self.complete = true;
        self.caught_up = true;
        self.paused_until = 0;
        Ok(())
    }

    /// R8. `true` if the master or the epoch is another than before.
    pub fn follow(&mut self, host: &str, port: u16, epoch: u64) -> Result<bool, Refusal> {
        if epoch < self.durable.promised || matches!(&self.state, RoleState::Master(reign) if reign.epoch >= epoch) {
            return Err(Refusal::StaleEpoch(self.durable.promised));
        }
        self.durable.promised = epoch;
        let state = RoleState::Replica { epoch, host: host.into(), port };
        let changed = state != self.state;
        if changed {
            self.state = state;
            self.caught_up = false;
        }
        Ok(changed)
    }

    /// R3: the operator's lease, counted from `token_ms`, the moment at which this master sent its request.
    pub fn lease(
        &mut self,
        epoch: u64,
        incarnation: u64,
        duration_ms: u64,
        token_ms: u64,
        now_ms: u64,
    ) -> Result<u64, Refusal> {
        if incarnation != self.incarnation {
            return Err(Refusal::WrongIncarnation(self.incarnation));
        }
        let promised = self.durable.promised;
        match &mut self.state {
            RoleState::Master(reign) if reign.epoch == epoch && promised == epoch => {
                // A request from the future was never sent.
                let until = token_ms.min(now_ms) + duration_ms.min(self.lease_ms);
                reign.operator_until = reign.operator_until.max(until);
                Ok(reign.operator_until.saturating_sub(now_ms))
            }
            RoleState::Master(_) => Err(Refusal::StaleEpoch(promised)),
            RoleState::Awaiting | RoleState::Replica { .. } => Err(Refusal::NotMaster(self.role_epoch())),
        }
    }

    /// R3: a member acknowledged what this master appended at `sent_ms`: it grants a lease counted from then.
    pub fn on_member_ack(&mut self, volume: u64, sent_ms: u64) {
        if let RoleState::Master(reign) = &mut self.state {
            if reign.members.contains(&volume) && volume != self.durable.volume {
                let until = reign.replicas_until.entry(volume).or_default();
                *until = (*until).max(sent_ms + self.lease_ms);
            }
        }
    }

    /// This replica acknowledges, which grants its master a lease (R3, R4).
    pub fn granted(&mut self, now_ms: u64) {
        self.grant_until = self.grant_until.max(now_ms + self.lease_ms);
    }

    pub fn grant_left(&self, now_ms: u64) -> u64 {
        self.grant_until.saturating_sub(now_ms)
    }

    /// It has applied all that the master of its promised epoch had: from now on it holds what it acknowledges.
    pub fn on_caught_up(&mut self) {
        if self.may_follow() {
            self.caught_up = true;
            self.complete = true;
            self.durable.member = true;
        }
    }

    /// R10: writes pause for at most so long.
    pub fn handover(&mut self, epoch: u64, timeout_ms: u64, now_ms: u64) -> Result<(), Refusal> {
        match &self.state {
            RoleState::Master(reign) if reign.epoch == epoch && self.durable.promised == epoch => {
                self.paused_until = now_ms + timeout_ms;
                Ok(())
            }
            _ => Err(Refusal::NotMaster(self.role_epoch())),
        }
    }

    pub fn paused(&self, now_ms: u64) -> bool {
        now_ms < self.paused_until
    }

    /// End of the lease by which this instance may take writes; 0: it may not; `u64::MAX`: without end.
    pub fn lease_until(&self) -> u64 {
        let RoleState::Master(reign) = &self.state else { return 0 };
        // R2: a promise of a higher epoch ends the reign.
        if self.durable.promised != reign.epoch {
            return 0;
        }
        let replicas = reign.members.iter().filter(|&&volume| volume != self.durable.volume).count();
        if replicas == 0 {
            return u64::MAX;
        }
        // More than half of the N replicas: the lease that N/2 + 1 of them grant at least.
        let mut until: Vec<u64> = reign.replicas_until.values().copied().collect();
        until.sort_unstable_by(|a, b| b.cmp(a));
        let by_replicas = until.get(replicas / 2).copied().unwrap_or(0);
        reign.operator_until.max(by_replicas)
    }

    /// R3: looked at before a write is appended and again before it is answered.
    pub fn may_write(&self, now_ms: u64) -> bool {
        now_ms < self.lease_until() && !self.paused(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 2000;

    fn fresh() -> Role {
        Role::new(Durable { volume: 1, ..Durable::default() }, 77, LEASE, 0)
    }

    fn master(members: &[u64]) -> Role {
        let mut role = fresh();
        role.promise(1).unwrap();
        role.promote(1, 77, 0, members.to_vec(), None).unwrap();
        role
    }

    #[test]
    fn r1_a_started_instance_awaits_and_takes_no_writes() {
        let role = fresh();
        assert_eq!((role.state.clone(), role.may_write(0), role.role_epoch()), (RoleState::Awaiting, false, 0));
    }

    #[test]
    fn r2_a_promise_never_goes_down_and_is_repeatable_until_a_role_is_told() {
        let mut role = fresh();
        assert_eq!(role.promise(3), Ok(()));
        assert_eq!(role.promise(3), Ok(()));
        assert_eq!(role.promise(2), Err(Refusal::StaleEpoch(3)));
        role.follow("h", 1, 3).unwrap();
        assert_eq!(role.promise(3), Err(Refusal::StaleEpoch(3)));
        assert!(role.may_follow());
        assert_eq!(role.promise(4), Ok(()));
        assert!(!role.may_follow(), "from the promise on nothing of a lower epoch is applied or acknowledged");
    }

    #[test]
    fn r2_a_master_that_promises_a_higher_epoch_stops_taking_writes() {
        let mut role = master(&[1]);
        assert!(role.may_write(10));
        role.promise(2).unwrap();
        assert!(!role.may_write(10));
    }

    #[test]
    fn r3_a_master_writes_by_the_operators_lease_counted_from_its_own_request() {
        let mut role = master(&[1, 2, 3]);
        assert!(!role.may_write(100));
        assert_eq!(role.lease(1, 77, LEASE, 100, 600), Ok(1500));
        assert!(role.may_write(2099) && !role.may_write(2100));
        assert_eq!(role.lease(1, 77, LEASE, 99_999, 700), Ok(2000), "a token from the future counts from now");
        assert_eq!(role.lease(2, 77, LEASE, 0, 0), Err(Refusal::StaleEpoch(1)));
        assert_eq!(role.lease(1, 78, LEASE, 0, 0), Err(Refusal::WrongIncarnation(77)));
    }

    #[test]
    fn r3_or_by_more_than_half_of_its_replicas_that_are_members() {
        let mut role = master(&[1, 2, 3]);
        role.on_member_ack(2, 100);
        assert!(!role.may_write(200), "one of two replicas is not more than half");
        role.on_member_ack(9, 100);
        role.on_member_ack(1, 100);
        assert!(!role.may_write(200), "neither a stranger nor itself counts");
        role.on_member_ack(3, 50);
        assert!(role.may_write(2049) && !role.may_write(2050), "until the earlier of the two ends");
        let mut role = master(&[1, 2, 3, 4]);
        role.on_member_ack(2, 0);
        assert!(!role.may_write(1));
        role.on_member_ack(3, 0);
        assert!(role.may_write(1));
    }

    #[test]
    fn r3_without_replicas_no_lease_is_needed() {
        assert!(master(&[1]).may_write(u64::MAX - 1));
    }

    #[test]
    fn r3_a_start_counts_as_a_grant_to_every_master() {
        let mut role = fresh();
        assert_eq!(role.grant_left(500), 1500);
        role.granted(1000);
        assert_eq!(role.grant_left(1000), LEASE);
    }

    #[test]
    fn r5_complete_is_kept_over_an_orderly_shutdown_only() {
        let durable = Durable { complete: true, ..Durable::default() };
        let role = Role::new(durable, 1, LEASE, 0);
        assert!(role.complete && !role.durable.complete);
        let crashed = Role::new(role.durable, 2, LEASE, 0);
        assert!(!crashed.complete);
    }

    #[test]
    fn r6_another_incarnation_refuses_promotion() {
        let mut role = fresh();
        role.promise(1).unwrap();
        assert_eq!(role.promote(1, 78, 0, vec![1], None), Err(Refusal::WrongIncarnation(77)));
    }

    #[test]
    fn r7_promotion_needs_the_promise_and_whole_data() {
        let mut role = fresh();
        assert_eq!(role.promote(1, 77, 0, vec![1], None), Err(Refusal::StaleEpoch(0)));
        role.promise(1).unwrap();
        assert_eq!(role.promote(1, 77, 0, vec![1], Some("syncing")), Err(Refusal::NotReady("syncing")));
        assert_eq!(role.promote(1, 77, 0, vec![1], None), Ok(()));
        assert!(role.complete);
        assert_eq!(role.promote(1, 77, 0, vec![1], None), Err(Refusal::StaleEpoch(1)), "a reign begins once");
    }

    #[test]
    fn r8_follow_stores_the_epoch_and_never_a_lower_one() {
        let mut role = fresh();
        assert_eq!(role.follow("a", 1, 5), Ok(true));
        assert_eq!(role.follow("a", 1, 5), Ok(false));
        assert_eq!(role.follow("b", 1, 4), Err(Refusal::StaleEpoch(5)));
        assert_eq!(role.durable.promised, 5);
        assert!(!role.complete);
        role.on_caught_up();
        assert!(role.complete && role.caught_up);
    }

    #[test]
    fn r8_a_master_does_not_follow_in_its_own_epoch() {
        assert_eq!(master(&[1, 2]).follow("a", 1, 1), Err(Refusal::StaleEpoch(1)));
    }

    #[test]
    fn r10_a_handover_pauses_writes_for_a_bounded_time() {
        let mut role = master(&[1]);
        role.handover(1, 500, 1000).unwrap();
        assert!(!role.may_write(1499) && role.may_write(1500));
        assert_eq!(role.handover(2, 500, 1000), Err(Refusal::NotMaster(1)));
    }

    #[test]
    fn the_durable_part_reads_back_and_a_damaged_one_is_refused() {
        let durable = Durable { volume: 0xABC, promised: 9, member: true, complete: false };
        assert_eq!(durable.to_string().parse(), Ok(durable));
        assert!("volume 12".parse::<Durable>().unwrap_err().contains("not complete"));
        assert!("promised x\n".parse::<Durable>().is_err());
    }
}
