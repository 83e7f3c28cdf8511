//! Replicas that wait for a snapshot, and which of them share one.
//!
//! Walking the data set costs the same for one replica as for ten. So before a walk that goes straight to the sockets
//! others are waited for a while (`repl-diskless-sync-delay`), unless there are enough of them; a walk to the disk
//! begins at once. Those that come during a walk wait for the next one.

use crate::feed::Wanted;

/// Settings that may change while replicas wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// `repl-diskless-sync`.
    pub diskless: bool,
    /// `repl-diskless-sync-delay`.
    pub delay_ms: u64,
    /// `repl-diskless-sync-max-replicas`; 0: any number is worth waiting for.
    pub enough: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To a file, which is sent with its length.
    Disk,
    /// While the data set is walked; the end is a mark.
    Sockets,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    Idle,
    /// Ask again then, or when another replica has come.
    Wait {
        until_ms: u64,
    },
    /// The caller does this, then asks again. `data`: with the keys.
    Begin {
        target: Target,
        data: bool,
        replicas: Vec<T>,
    },
}

#[derive(Debug)]
pub struct Snapshots<T> {
    /// In the order in which they came.
    waiting: Vec<(T, Wanted, u64)>,
}

impl<T> Default for Snapshots<T> {
    fn default() -> Self {
        Self { waiting: Vec::new() }
    }
}

impl<T> Snapshots<T> {
    pub fn ask(&mut self, replica: T, wanted: Wanted, now_ms: u64) {
        self.waiting.push((replica, wanted, now_ms));
    }

    /// Forgets replicas that have gone.
    pub fn forget(&mut self, mut gone: impl FnMut(&T) -> bool) {
        self.waiting.retain(|(replica, ..)| !gone(replica));
    }

    pub fn next(&mut self, settings: &SnapshotSettings, now_ms: u64) -> Next<T> {
        let Some(&(_, Wanted { data, .. }, since_ms)) = self.waiting.first() else { return Next::Idle };
        let same = |(_, wanted, _): &&(T, Wanted, u64)| wanted.data == data;
        // One that knows no marks makes it a file for all.
        let sockets = settings.diskless && self.waiting.iter().filter(same).all(|(_, wanted, _)| wanted.eof);
        let enough = settings.enough > 0 && self.waiting.iter().filter(same).count() >= settings.enough;
        let until_ms = since_ms.saturating_add(settings.delay_ms);
        if sockets && !enough && now_ms < until_ms {
            return Next::Wait { until_ms };
        }
        let target = if sockets { Target::Sockets } else { Target::Disk };
        let (chosen, rest) = std::mem::take(&mut self.waiting).into_iter().partition(|(_, w, _)| w.data == data);
        self.waiting = rest;
        let chosen: Vec<_> = chosen;
        Next::Begin { target, data, replicas: chosen.into_iter().map(|(replica, ..)| replica).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKLESS: SnapshotSettings = SnapshotSettings { diskless: true, delay_ms: 5000, enough: 0 };
    const NEW: Wanted = Wanted { eof: true, data: true };
    const OLD: Wanted = Wanted { eof: false, data: true };

    fn asked(who: &[(&'static str, Wanted, u64)]) -> Snapshots<&'static str> {
        let mut snapshots = Snapshots::default();
        who.iter().for_each(|&(name, wanted, at)| snapshots.ask(name, wanted, at));
        snapshots
    }

    fn begin(target: Target, data: bool, replicas: &[&'static str]) -> Next<&'static str> {
        Next::Begin { target, data, replicas: replicas.to_vec() }
    }

    #[test]
    fn those_that_come_within_the_delay_share_one() {
        let mut snapshots = asked(&[("a", NEW, 1000)]);
        assert_eq!(snapshots.next(&DISKLESS, 1000), Next::Wait { until_ms: 6000 });
        snapshots.ask("b", NEW, 5000);
        assert_eq!(snapshots.next(&DISKLESS, 5999), Next::Wait { until_ms: 6000 }, "the first one decides");
        assert_eq!(snapshots.next(&DISKLESS, 6000), begin(Target::Sockets, true, &["a", "b"]));
        assert_eq!(snapshots.next(&DISKLESS, 6000), Next::Idle);
    }

    #[test]
    fn enough_of_them_are_not_kept_waiting() {
        let settings = SnapshotSettings { enough: 2, ..DISKLESS };
        let mut snapshots = asked(&[("a", NEW, 0)]);
        assert_eq!(snapshots.next(&settings, 0), Next::Wait { until_ms: 5000 });
        snapshots.ask("b", NEW, 1);
        assert_eq!(snapshots.next(&settings, 1), begin(Target::Sockets, true, &["a", "b"]));
    }

    #[test]
    fn a_file_is_made_at_once_and_for_all_if_one_needs_it() {
        let mut snapshots = asked(&[("new", NEW, 0), ("old", OLD, 0)]);
        assert_eq!(snapshots.next(&DISKLESS, 0), begin(Target::Disk, true, &["new", "old"]));
        let by_disk = SnapshotSettings { diskless: false, ..DISKLESS };
        assert_eq!(asked(&[("a", NEW, 0)]).next(&by_disk, 0), begin(Target::Disk, true, &["a"]));
    }

    #[test]
    fn who_wants_no_keys_gets_one_of_its_own() {
        let none = Wanted { data: false, ..NEW };
        let mut snapshots = asked(&[("none", none, 0), ("all", NEW, 0)]);
        let at_once = SnapshotSettings { delay_ms: 0, ..DISKLESS };
        assert_eq!(snapshots.next(&at_once, 0), begin(Target::Sockets, false, &["none"]));
        assert_eq!(snapshots.next(&at_once, 0), begin(Target::Sockets, true, &["all"]));
    }

    #[test]
    fn who_has_gone_is_not_waited_for() {
        let mut snapshots = asked(&[("a", OLD, 0), ("b", NEW, 3000)]);
        snapshots.forget(|name| *name == "a");
        assert_eq!(snapshots.next(&DISKLESS, 3000), Next::Wait { until_ms: 8000 });
    }
}
