//! The role of a managed instance: promises, leases, promotion. The rules are those of FAILOVER, its sharper ones
//! included; each is named where it is kept.
//!
//! ```text
//!            PROMOTE e                       FOLLOW m e
//! Awaiting ───────────► Master(e) ─────────────────────► Replica(e, m)
//!     │                    ▲  PROMISE e' > e: takes no      │   ▲
//!     │                    │  writes any more               │   │ FOLLOW m' e'
//!     │                    └────────── PROMOTE e' ──────────┤   │
//!     └──────────────────── FOLLOW m e ─────────────────────►───┘
//! ```
//! AWAIT leads back from each to Awaiting: a person has taken the instance out of service.
//!
//! A role is *in force* while its epoch is the promised one. `promised` only rises; between a promise and the next role
//! nothing is in force: no write, no acknowledgement, no grant, nothing applied (R2).
//!
//! What [`Durable`] holds is on the disk before an answer goes out, see [`Role::obey`] in `orders`.
//!
//! A replica may be told to follow a master that is not one of ours ([`Access`], `FOLLOWEXTERNAL`): before the cluster has
//! had a master of its own. It is the one of its epoch, as a master would be: the others follow it. Nobody is master in
//! that epoch, so nobody takes writes, and its acknowledgements bind nobody. The election that ends it is one like every
//! other.
//!
//! `now_ms` is of a clock that also counts suspend: a lease that ran out while the machine slept has run out (R3).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

pub use crate::durable::Durable;

/// Requests for leases that are remembered. At four in a lease, this is four leases back: older ones have run out.
const ASKED_MAX: usize = 16;

/// How long the writes of a master wait for the end of an election. One that takes longer is waiting for something else,
/// and then a client is better off with an error.
const ELECTION_PAUSE_MS: u64 = 1500;

/// FAILOVER's D: after so long on this clock, a lease has run out on every other. Clocks may differ in pace by 2 %.
fn outlasting(lease_ms: u64) -> u64 {
    lease_ms + lease_ms / 50
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleState {
    Awaiting,
    Master(Reign),
    /// `external`: the master is none of ours.
    Replica {
        epoch: u64,
        host: String,
        port: u16,
        external: Option<Access>,
    },
}

/// How a master that is none of ours lets its replicas in.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Access {
    pub password: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.password.is_some() { "with a password" } else { "without a password" })
    }
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
    /// Log offsets with the moment at which they were reached: an acknowledgement of one is a lease from then.
    asked: VecDeque<(u64, u64)>,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    pub durable: Durable,
    /// Random at every start.
    pub incarnation: u64,
    pub state: RoleState,
    /// Holds everything that it ever acknowledged.
    pub complete: bool,
    /// Has once caught up with its present master.
    pub caught_up: bool,
    /// The history fence lets the next full resync pass.
    pub accept_once: bool,
    lease_ms: u64,
    /// Longest time for which a lease granted by this instance may still run.
    grant_until: u64,
    paused_until: u64,
    /// Up to when the writes of a master that has promised wait for the election.
    election_until: u64,
    /// What the present master had when this replica attached; holding it is having caught up.
    catch_up_offset: Option<u64>,
}

impl Role {
    /// R1: a process that has just started has no role.
    ///
    /// R3: its start counts as a grant to every master, for what it granted before is not remembered. R5: `complete`
    /// holds over an orderly shutdown only, so it is taken out of the file: a crash from now on is not orderly. The
    /// driver stores `durable` before anything else.
    pub fn new(durable: Durable, incarnation: u64, lease_ms: u64, now_ms: u64) -> Self {
        let complete = durable.complete;
        Self {
            durable: Durable { complete: false, ..durable },
            incarnation,
            state: RoleState::Awaiting,
            complete,
            caught_up: false,
            accept_once: false,
            lease_ms,
            grant_until: now_ms + outlasting(lease_ms),
            paused_until: 0,
            election_until: 0,
            catch_up_offset: None,
        }
    }

    /// What is stored at an orderly shutdown. `saved`: everything that this instance holds is on the disk.
    pub fn at_shutdown(&self, saved: bool) -> Durable {
        Durable { complete: self.complete && saved, ..self.durable.clone() }
    }

    /// Epoch at which the present role was told; 0: none.
    pub fn role_epoch(&self) -> u64 {
        match &self.state {
            RoleState::Awaiting => 0,
            RoleState::Master(reign) => reign.epoch,
            RoleState::Replica { epoch, .. } => *epoch,
        }
    }

    /// "awaiting", "master" or "replica", as STATUS says it.
    pub fn name(&self) -> &'static str {
        match &self.state {
            RoleState::Awaiting => "awaiting",
            RoleState::Master(_) => "master",
            RoleState::Replica { .. } => "replica",
        }
    }

    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// The reign, if it is in force: not after a promise of a higher epoch (R2).
    pub fn reign(&self) -> Option<&Reign> {
        match &self.state {
            RoleState::Master(reign) if reign.epoch == self.durable.promised => Some(reign),
            RoleState::Master(_) | RoleState::Awaiting | RoleState::Replica { .. } => None,
        }
    }

    fn reign_mut(&mut self) -> Option<&mut Reign> {
        let promised = self.durable.promised;
        match &mut self.state {
            RoleState::Master(reign) if reign.epoch == promised => Some(reign),
            RoleState::Master(_) | RoleState::Awaiting | RoleState::Replica { .. } => None,
        }
    }

    /// R2. After `Ok` the driver drops the link to a master of a lower epoch, and gives up an unfinished full resync,
    /// before it answers. The same epoch may be promised again as long as no role was received at it.
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

    /// R1: may a replica be served that was told to follow a master of epoch `wanted`? `None`: one that is not managed,
    /// to which epochs mean nothing. A refusal names the epoch that this instance is master of. In an epoch in which a master
    /// that is none of ours is followed, the one that follows it serves the others, as a master would, once it has caught up.
    pub fn may_serve(&self, wanted: Option<u64>) -> Result<(), Refusal> {
        if let RoleState::Replica { epoch, external: Some(_), .. } = self.state
            && self.may_follow()
            && self.caught_up
            && wanted.is_none_or(|wanted| wanted == epoch)
        {
            return Ok(());
        }
        match self.reign() {
            Some(reign) if wanted.is_none_or(|wanted| wanted == reign.epoch) => Ok(()),
            Some(reign) => Err(Refusal::NotMaster(reign.epoch)),
            None => Err(Refusal::NotMaster(0)),
        }
    }

    /// R7. `busy`: a reason why the data is not whole now (loading, a full resync). After `Ok` the driver begins a
    /// history of its own with the epoch mark as first record.
    pub fn promote(
        &mut self,
        epoch: u64,
        incarnation: u64,
        k: usize,
        mut members: Vec<u64>,
        busy: Option<&'static str>,
    ) -> Result<(), Refusal> {
        if epoch != self.durable.promised || self.role_epoch() == epoch {
            return Err(Refusal::StaleEpoch(self.durable.promised));
        }
        // R6: the record names the incarnation that was chosen.
        if incarnation != self.incarnation {
            return Err(Refusal::WrongIncarnation(self.incarnation));
        }
        if let Some(reason) = busy {
            return Err(Refusal::NotReady(reason));
        }
        // R5.4: never one that is not a member. The volume may have been lost since the choice.
        if !members.contains(&self.durable.volume) {
            return Err(Refusal::NotReady("this volume is not among the members"));
        }
        members.sort_unstable();
        members.dedup();
        self.state = RoleState::Master(Reign { epoch, k, members, ..Reign::default() });
        self.durable.member = true;
        self.complete = true;
        self.caught_up = true;
        self.paused_until = 0;
        if self.lease_until() == u64::MAX {
            // None comes to end the wait.
            self.election_until = 0;
        }
        Ok(())
    }

    /// R8. `true` if the master or the epoch is another than before; repeating the same is harmless.
    pub fn follow(&mut self, host: &str, port: u16, epoch: u64) -> Result<bool, Refusal> {
        self.attach(host, port, epoch, None)
    }

    /// As [`Role::follow`], to a master that is none of ours.
    pub fn follow_external(&mut self, host: &str, port: u16, epoch: u64, access: Access) -> Result<bool, Refusal> {
        self.attach(host, port, epoch, Some(access))
    }

    fn attach(&mut self, host: &str, port: u16, epoch: u64, external: Option<Access>) -> Result<bool, Refusal> {
        if epoch < self.durable.promised || matches!(&self.state, RoleState::Master(reign) if reign.epoch >= epoch) {
            return Err(Refusal::StaleEpoch(self.durable.promised));
        }
        self.durable.promised = epoch;
        let state = RoleState::Replica { epoch, host: host.into(), port, external };
        let changed = state != self.state;
        if changed {
            self.state = state;
            self.caught_up = false;
            self.catch_up_offset = None;
            (self.paused_until, self.election_until) = (0, 0);
        }
        Ok(changed)
    }

    /// R1: it has no role any more, as if it had just started, but that it knows what it holds and what it has granted. `true`
    /// if it had one.
    pub fn give_up(&mut self) -> bool {
        self.caught_up = false;
        self.catch_up_offset = None;
        (self.paused_until, self.election_until) = (0, 0);
        std::mem::replace(&mut self.state, RoleState::Awaiting) != RoleState::Awaiting
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
        // R6
        if incarnation != self.incarnation {
            return Err(Refusal::WrongIncarnation(self.incarnation));
        }
        let (promised, lease_ms, role_epoch) = (self.durable.promised, self.lease_ms, self.role_epoch());
        let is_master = matches!(self.state, RoleState::Master(_));
        let Some(reign) = self.reign_mut().filter(|reign| reign.epoch == epoch) else {
            return Err(if is_master { Refusal::StaleEpoch(promised) } else { Refusal::NotMaster(role_epoch) });
        };
        // A request from the future was never sent, and no lease is longer than those who elect wait for.
        let until = token_ms.min(now_ms).saturating_add(duration_ms.min(lease_ms));
        reign.operator_until = reign.operator_until.max(until);
        let left = reign.operator_until.saturating_sub(now_ms);
        self.election_until = 0;
        Ok(left)
    }

    /// R3: this master has appended something that its replicas will acknowledge at once. `end`: of the log, behind it.
    pub fn on_lease_asked(&mut self, end: u64, now_ms: u64) {
        if let Some(reign) = self.reign_mut() {
            reign.asked.push_back((end, now_ms));
            if reign.asked.len() > ASKED_MAX {
                reign.asked.pop_front();
            }
        }
    }

    /// R3: the replica on this volume, attached to follow the master of `epoch`, acknowledged `offset`: it grants a lease
    /// counted from the moment when the newest request that this covers was made.
    pub fn on_ack(&mut self, epoch: u64, volume: u64, offset: u64) {
        let newest = |reign: &Reign| reign.asked.iter().rev().find(|(end, _)| *end <= offset).map(|(_, at)| *at);
        if let Some(sent_ms) = self.reign().filter(|reign| reign.epoch == epoch).and_then(newest) {
            self.on_member_ack(volume, sent_ms);
        }
    }

    /// R3: a grant of a replica, counted from `sent_ms`. Only members of this epoch count, each once, and not itself.
    pub fn on_member_ack(&mut self, volume: u64, sent_ms: u64) {
        let (own, lease_ms) = (self.durable.volume, self.lease_ms);
        let member = |reign: &&mut Reign| volume != own && reign.members.contains(&volume);
        if let Some(reign) = self.reign_mut().filter(member) {
            let until = reign.replicas_until.entry(volume).or_default();
            *until = (*until).max(sent_ms.saturating_add(lease_ms));
        }
    }

    /// R2, R4: asked before each acknowledgement is sent. `true`: send it; it is also a grant to the master (R3).
    /// `false`: nothing of a lower epoch is acknowledged, the link has to go.
    pub fn acknowledge(&mut self, now_ms: u64) -> bool {
        if self.may_follow() {
            self.granted(now_ms);
        }
        self.may_follow()
    }

    /// This replica acknowledges, which grants its master a lease (R3, R4).
    pub fn granted(&mut self, now_ms: u64) {
        self.grant_until = self.grant_until.max(now_ms.saturating_add(outlasting(self.lease_ms)));
    }

    /// R2's `lease-left`.
    pub fn grant_left(&self, now_ms: u64) -> u64 {
        self.grant_until.saturating_sub(now_ms)
    }

    /// The link is attached to the master, whose log ended at `master_end` a moment ago.
    pub fn on_attached(&mut self, master_end: u64) {
        if self.may_follow() && !self.caught_up {
            self.catch_up_offset = Some(master_end);
        }
    }

    /// Everything up to `offset` is applied. `true` if `durable` has changed and has to be stored.
    pub fn on_applied(&mut self, offset: u64) -> bool {
        if !self.caught_up && self.catch_up_offset.is_some_and(|needed| offset >= needed) {
            self.on_caught_up()
        } else {
            false
        }
    }

    /// R5: it has applied all that the master of its promised epoch had: from now on it holds what it acknowledges.
    /// `true` if `durable` has changed and has to be stored.
    pub fn on_caught_up(&mut self) -> bool {
        if !self.may_follow() {
            return false;
        }
        self.caught_up = true;
        self.complete = true;
        !std::mem::replace(&mut self.durable.member, true)
    }

    /// The data set is gone, with what was acknowledged: a full resync that could not be loaded after the former data
    /// had been given up.
    pub fn on_data_lost(&mut self) {
        self.complete = false;
        self.caught_up = false;
    }

    /// R10: writes pause for at most so long; they go on by themselves if no promise comes.
    pub fn handover(&mut self, epoch: u64, timeout_ms: u64, now_ms: u64) -> Result<(), Refusal> {
        if self.reign().is_none_or(|reign| reign.epoch != epoch) {
            return Err(Refusal::NotMaster(self.role_epoch()));
        }
        self.paused_until = now_ms.saturating_add(timeout_ms);
        Ok(())
    }

    pub fn paused(&self, now_ms: u64) -> bool {
        now_ms < self.paused_until
    }

    /// A master that takes part in an election may be elected again (R11): until then its writes wait rather than fail. If
    /// it is told to follow, its clients are disconnected.
    pub fn wait_for_election(&mut self, now_ms: u64) {
        self.election_until = now_ms.saturating_add(ELECTION_PAUSE_MS);
    }

    /// Up to when writes wait, for a handover or an election; 0: they do not.
    pub fn writes_wait_until(&self) -> u64 {
        self.paused_until.max(self.election_until)
    }

    /// End of the lease by which this instance may take writes (R3); 0: it may not; `u64::MAX`: without end.
    pub fn lease_until(&self) -> u64 {
        let Some(reign) = self.reign() else { return 0 };
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

    /// R3: looked at before a write is appended and again before it is answered. A reply to what was appended before a
    /// pause is not held back by it: ask [`Role::lease_until`] for that.
    pub fn may_write(&self, now_ms: u64) -> bool {
        now_ms < self.lease_until() && !self.paused(now_ms)
    }
}

#[cfg(test)]
mod tests;
