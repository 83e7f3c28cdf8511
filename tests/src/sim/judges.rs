//! The judges of FAILOVER. They see everything, and share no code with what they judge.

use std::collections::BTreeMap;

use operator::record::Record;

use super::data::Data;
use super::net::INSTANCES_MAX;
use super::process::{Note, Process};
use super::world::{Node, World, note};

#[derive(Debug, Default)]
pub struct Judges {
    /// What was wrong, at once when it was.
    pub verdict: Option<String>,
    /// Quorum writes whose clients have their reply, with the epoch in which they got it.
    acknowledged: Vec<(u64, u64)>,
    /// What each master held when it began.
    reigns: BTreeMap<u64, (usize, Data)>,
    /// Highest promise, by volume.
    promised: BTreeMap<u64, u64>,
    /// Latest epoch without a quorum. It promises nothing, of what came before neither.
    without_quorum: u64,
    /// A person has given data up: what was acknowledged before is not asked for.
    pub given_up: bool,
    pub acknowledged_in_all: usize,
    pub reigns_in_all: usize,
}

impl Judges {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        if self.verdict.is_none() {
            self.verdict = Some(what());
        }
    }
}

impl World {
    /// Without a quorum nothing is promised, from the moment when the record says so (R11: a change to K = 0 is settled at
    /// once).
    pub fn judge_record(&mut self, record: &Record) {
        if record.quorum == 0 && record.target.is_none() {
            self.judges.without_quorum = self.judges.without_quorum.max(record.epoch);
            self.judges.acknowledged.clear();
        }
    }

    /// What can be seen at any moment.
    pub fn judge(&mut self) {
        let mut writable = [0; INSTANCES_MAX];
        let mut n = 0;
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { continue };
            let durable = &process.role.durable;
            let promised = self.judges.promised.entry(durable.volume).or_default();
            if durable.promised < *promised {
                let (now, before) = (durable.promised, *promised);
                self.judges.wrong(|| format!("a promise went down: {at} had promised {before}, now {now}"));
            } else {
                *promised = durable.promised;
            }
            if !node.paused && process.role.reign().is_some() && process.role.may_write(node.clock.at(self.now_us)) {
                writable[n] = at;
                n += 1;
            }
        }
        if n > 1 {
            self.judges.wrong(|| format!("two writable masters: {:?}", &writable[..n]));
        }
    }

    pub fn judge_note(&mut self, node: usize, said: Note) {
        match said {
            Note::Promoted { epoch } => self.judge_promotion(node, epoch),
            Note::Acknowledged { write, epoch, k } => self.judge_acknowledgement(node, write, epoch, k),
            Note::Replaced { before, allowed } => self.judge_full_resync(node, &before, allowed),
            Note::Applied => self.judge_prefix(node),
        }
    }

    fn judge_promotion(&mut self, node: usize, epoch: u64) {
        let Some(process) = &self.nodes[node].process else { return };
        let data = process.data.clone();
        note!(self, "{node} is master of epoch {epoch}, {} writes, last {:?}", data.keys(), data.last());
        let is_lost = |&&(write, acknowledged_in): &&(u64, u64)| acknowledged_in < epoch && !data.contains(write);
        let lost: Vec<_> = self.judges.acknowledged.iter().filter(is_lost).copied().collect();
        let held = lost.iter().find_map(|&(write, in_epoch)| Some((write, in_epoch, self.holder_of(write)?)));
        if let Some((write, in_epoch, holder)) = held.filter(|_| !self.judges.given_up) {
            self.judges.wrong(|| {
                format!(
                    "{node}, master of epoch {epoch}, lacks write {write}, acknowledged in epoch {in_epoch}; {holder} \
                     holds it"
                )
            });
        }
        // What no member held is gone for good, also if one who is none comes back with it.
        self.judges.acknowledged.retain(|acknowledged| !lost.contains(acknowledged));
        if let Some((other, _)) = self.judges.reigns.get(&epoch) {
            let other = *other;
            self.judges.wrong(|| format!("two masters of epoch {epoch}: {other} and {node}"));
        }
        let somebody = (0..INSTANCES_MAX).find(|&other| self.has_data(other));
        if let Some(other) = somebody.filter(|_| data.is_empty() && !self.judges.given_up && self.writes > 0) {
            let initialized = self.store.record.as_ref().is_some_and(|record| record.epoch > 1);
            if initialized && self.history_epoch(node) == Some(epoch) && self.was_empty(node) {
                self.judges.wrong(|| format!("{node} became master of epoch {epoch} without data, {other} has some"));
            }
        }
        self.judges.reigns_in_all += 1;
        self.judges.reigns.insert(epoch, (node, data));
    }

    /// Whether its log held nothing before the mark of its reign.
    fn was_empty(&self, node: usize) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|process| process.history.second_offset == Some(0))
    }

    fn history_epoch(&self, node: usize) -> Option<u64> {
        self.nodes[node].process.as_ref().map(|process| process.history.epoch)
    }

    fn has_data(&self, node: usize) -> bool {
        let at = &self.nodes[node];
        at.process.as_ref().is_some_and(|process| !process.data.is_empty())
            || at.disk.snapshot.as_ref().is_some_and(|snapshot| !snapshot.data.is_empty())
    }

    /// Which member holds a write, in memory or on the disk. What none holds any more cannot be kept by any rule. What
    /// one who is becoming a member has from before the change does not count (R11).
    fn holder_of(&self, write: u64) -> Option<usize> {
        let record = self.store.record.as_ref()?;
        (0..INSTANCES_MAX).find(|&node| {
            let at = &self.nodes[node];
            let volume = format!("{:016x}", at.disk.durable.as_ref().map_or(0, |durable| durable.volume));
            let is_member = |epoch: u64| match &record.previous {
                Some(previous) => {
                    previous.has(&at.name, &volume) || record.has(&at.name, &volume) && epoch >= previous.until
                }
                None => record.has(&at.name, &volume),
            };
            let (memory, disk) = (at.process.as_ref(), at.disk.snapshot.as_ref());
            memory.is_some_and(|process| process.data.contains(write) && is_member(process.history.epoch))
                || disk.is_some_and(|snapshot| snapshot.data.contains(write) && is_member(snapshot.epoch))
        })
    }

    fn judge_acknowledgement(&mut self, node: usize, write: u64, epoch: u64, k: usize) {
        if k == 0 {
            return;
        }
        self.judges.acknowledged_in_all += 1;
        if epoch < self.judges.without_quorum {
            return;
        }
        self.judges.acknowledged.push((write, epoch));
        let later = self.judges.reigns.range(epoch + 1..).find(|(_, (_, data))| !data.contains(write));
        if let Some((&later, &(master, _))) = later {
            self.judges.wrong(|| {
                format!("{node} acknowledged write {write} in epoch {epoch}, {master} began epoch {later} without it")
            });
        }
    }

    fn judge_full_resync(&mut self, node: usize, before: &Data, allowed: bool) {
        let Some(process) = &self.nodes[node].process else { return };
        let (had, has) = (before.keys(), process.data.keys());
        note!(self, "{node} has taken over a full resync: {has} writes for {had}");
        let emptied = had > 0 && has == 0 && !allowed;
        if emptied {
            self.judges.wrong(|| format!("{node} lost its {had} writes to an empty master"));
        }
    }

    /// What it holds is how its master's data begins.
    fn judge_prefix(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let master = process.conn.and_then(|conn| self.net.conns.get(&conn)).map(|conn| conn.ends[1]);
        let Some(master) = master.filter(|end| self.nodes[end.node].life == end.life) else { return };
        let Some(other) = &self.nodes[master.node].process else { return };
        let same_reign = other.role.reign().is_some_and(|reign| reign.epoch == process.role.role_epoch());
        if same_reign && (process.log.end() > other.log.end() || !process.data.is_prefix_of(&other.data)) {
            let (last, others) = (process.data.last(), other.data.last());
            let master = master.node;
            self.judges.wrong(|| format!("{node} is not a prefix of its master {master}: {last:?}, {others:?}"));
        }
    }

    /// R1: an instance that is out of service has no role; another one takes writes, if there is one. `Err`: what is wrong.
    pub fn is_out_of_service(&self, node: usize) -> Result<(), String> {
        let at = &self.nodes[node];
        let process = at.process.as_ref().ok_or("the fenced instance does not run")?;
        if process.role.role_epoch() > 0 {
            return Err(format!("{node} is fenced and has a role"));
        }
        let writes = |node: &Node| {
            let may = |process: &Process| process.role.may_write(node.clock.at(self.now_us));
            node.process.as_ref().is_some_and(|process| process.role.reign().is_some() && may(process))
        };
        match self.nodes.iter().any(writes) || self.spec.instances == 1 {
            true => Ok(()),
            false => Err(format!("{node} is fenced, and no other takes writes")),
        }
    }

    /// One master serves, every replica equals it, the record says so, and it is what is wanted. `Err`: what is missing.
    pub fn well(&self) -> Result<(), String> {
        let Some(record) = &self.store.record else { return Err("there is no record".into()) };
        let Some(holder) = record.master.as_ref().filter(|_| record.target.is_none()) else {
            return Err("an election is under way".into());
        };
        let master = self.nodes.iter().position(|node| node.name == holder.name).ok_or("an unknown master")?;
        let at = &self.nodes[master];
        let process = at.process.as_ref().ok_or("the master does not run")?;
        if format!("{:016x}", process.role.incarnation) != holder.incarnation {
            return Err("the master has another incarnation".into());
        }
        if process.role.reign().is_none_or(|reign| reign.epoch != record.epoch) {
            return Err("the master does not reign in the record's epoch".into());
        }
        if !process.role.may_write(at.clock.at(self.now_us)) {
            return Err("the master takes no writes".into());
        }
        let wanted = &self.nodes[..self.spec.instances];
        for (n, node) in wanted.iter().enumerate() {
            let replica = node.process.as_ref().ok_or_else(|| format!("{n} does not run"))?;
            let volume = format!("{:016x}", replica.role.durable.volume);
            if !record.has(&node.name, &volume) {
                return Err(format!("{n} is no member"));
            }
            if n != master && (replica.role.role_epoch() != record.epoch || !replica.link.is_streaming()) {
                return Err(format!("{n} does not follow"));
            }
            if replica.data != process.data || replica.history.id != process.history.id {
                return Err(format!("{n} does not equal the master"));
            }
        }
        if record.members.len() != wanted.len() || record.quorum != self.spec.quorum || record.previous.is_some() {
            return Err("members or quorum are not what is wanted".into());
        }
        if self.nodes.iter().skip(self.spec.instances).any(|node| node.process.is_some()) {
            return Err("an instance runs that is not wanted".into());
        }
        Ok(())
    }
}
