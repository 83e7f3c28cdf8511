//! How many of the workers serve: as few as do.
//!
//! Two workers cost more per command than one: each finds fewer sockets ready and fewer commands to run together, it locks
//! a shard for each key where one that serves alone has one lock for all, and what one has written the other fetches from
//! its CPU. So all connections are the first worker's until it uses a whole CPU and another one is idle; then half of them
//! move. They move back when fewer workers can do it. A worker without connections sleeps.
//!
//! Whether more workers get more done depends on what the clients ask for: replies of single commands, yes; writes of one
//! key, or of many keys each, no - they wait for each other's locks. So more serve on trial: what they do in a few tenths of
//! a second decides. When a command has become much dearer since, fewer are tried in the same manner.
//!
//! A connection has a seat for as long as it lives; seats are dealt out over the workers that serve. It moves when it
//! has read something, run it and answered, so those that are silent cost nothing.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::clock;

/// Of the time between two looks on a CPU: this worker could not do more.
const SATURATED: f64 = 0.85;
/// So many looks, ten a second, before more workers serve; and before fewer do.
const MORE_AFTER: u32 = 3;
const FEWER_AFTER: u32 = 10;
/// CPUs that nobody uses, before one more worker is of any use: clients may be on this machine too.
const IDLE_CPUS_MIN: f64 = 0.5;
/// Fewer workers serve when each of them had this to do: less than what wakes another one.
const FULL: f64 = 0.7;
/// Looks of a trial, beside the one at connections that move; more, if they saw few commands.
const TRIAL: u32 = 3;
const TRIAL_MAX: u32 = 30;
const TRIAL_COMMANDS: f64 = 300.0;
/// What more workers have to get done, of what fewer did, to go on.
const MORE_WORTH: f64 = 1.2;
/// What fewer workers have to get done, of what more did, to go on.
const FEWER_WORTH: f64 = 0.95;
/// A command costs so much more than when fewer served that fewer are tried.
const DEAR: f64 = 1.5;
/// From a trial that came to nothing to the next one; twice as long each time.
const WAIT_MIN_S: f64 = 4.0;
const WAIT_MAX_S: f64 = 64.0;
/// From one that told nothing.
const WAIT_FOR_LOAD_S: f64 = 1.0;

/// Which workers serve, for all threads.
#[derive(Debug)]
pub struct Spread {
    serving: AtomicU32,
    /// The workers' threads as the kernel counts them; 0 before they run.
    threads: Box<[AtomicU32]>,
}

impl Spread {
    pub fn new(workers: usize, adaptive: bool) -> Self {
        let threads: Box<[AtomicU32]> = (0..workers).map(|_| AtomicU32::new(0)).collect();
        Self { serving: AtomicU32::new(if adaptive { 1 } else { threads.len() as u32 }), threads }
    }

    /// Workers that serve: from the first one on.
    pub fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed) as usize
    }

    /// The worker of the connection in this seat.
    #[inline]
    pub(super) fn worker_of(&self, seat: u32) -> usize {
        (seat % self.serving.load(Ordering::Relaxed)) as usize
    }

    /// The calling thread is this worker's.
    pub(super) fn begin(&self, worker: usize) {
        self.threads[worker].store(rustix::thread::gettid().as_raw_pid() as u32, Ordering::Relaxed);
    }

    /// Time that the serving workers have been on a CPU since they began, s; `None` where the kernel does not tell.
    fn on_cpu_s(&self) -> Option<Vec<f64>> {
        self.threads[..self.serving()].iter().map(|thread| on_cpu_s(thread.load(Ordering::Relaxed))).collect()
    }
}

/// Looks ten times a second whether the workers that serve are too few, or more than are needed.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    last: Option<Counts>,
    need: Need,
    /// All serve, because the settings say so.
    all: bool,
}

/// What grows.
#[derive(Debug)]
struct Counts {
    now_s: f64,
    on_cpu_s: Vec<f64>,
    commands: u64,
}

impl Watch {
    /// `commands`: how many have been run since the server began.
    pub(crate) fn look(&mut self, spread: &Spread, adaptive: bool, commands: u64) {
        let workers = spread.threads.len();
        if workers == 1 {
            return;
        }
        let was_all = std::mem::replace(&mut self.all, !adaptive);
        let serving = match spread.on_cpu_s().filter(|_| adaptive) {
            None => workers,
            Some(_) if was_all => 1,
            Some(on_cpu_s) => {
                let now = Counts { now_s: clock::monotonic_ns() as f64 / 1e9, on_cpu_s, commands };
                let serving = now.on_cpu_s.len();
                // The first look after a change is at connections that move.
                // Nor is one after CONFIG RESETSTAT of any use.
                let comparable = |last: &&Counts| last.on_cpu_s.len() == serving && last.commands <= now.commands;
                let seen = self.last.as_ref().filter(comparable).map(|last| now.since(last));
                self.last = Some(now);
                seen.map_or(serving, |seen| self.need.after(&seen, workers, idle_s))
            }
        };
        if serving != spread.serving() {
            tracing::debug!("{serving} of {workers} io-threads serve");
            spread.serving.store(serving as u32, Ordering::Relaxed);
        }
    }
}

impl Counts {
    fn since(&self, last: &Self) -> Seen {
        let s = self.now_s - last.now_s;
        let busy = self.on_cpu_s.iter().zip(&last.on_cpu_s).map(|(now, then)| (now - then) / s).collect();
        Seen { now_s: self.now_s, busy, commands_per_s: (self.commands - last.commands) as f64 / s }
    }
}

/// What a look has seen.
#[derive(Debug, Clone)]
struct Seen {
    now_s: f64,
    /// For each worker that serves, the part of the time that it was on a CPU.
    busy: Vec<f64>,
    /// Of all workers.
    commands_per_s: f64,
}

impl Seen {
    /// Workers that could do this.
    fn enough(&self) -> usize {
        ((self.cpus() / FULL).ceil() as usize).clamp(1, self.busy.len())
    }

    fn is_saturated(&self) -> bool {
        self.busy.iter().any(|busy| *busy >= SATURATED)
    }

    /// On how many CPUs the workers were, together.
    fn cpus(&self) -> f64 {
        self.busy.iter().sum()
    }

    fn cost_s(&self) -> f64 {
        cost_s(self.cpus(), self.commands_per_s)
    }
}

/// CPU time of a command, s.
fn cost_s(cpus: f64, commands_per_s: f64) -> f64 {
    cpus / commands_per_s.max(1.0)
}

/// What some looks in a row have seen on average.
#[derive(Debug, Default, Clone, Copy)]
struct Mean {
    looks: u32,
    commands_per_s: f64,
    cpus: f64,
}

impl Mean {
    fn add(&mut self, seen: &Seen) {
        self.looks += 1;
        let part = 1.0 / f64::from(self.looks);
        self.commands_per_s += (seen.commands_per_s - self.commands_per_s) * part;
        self.cpus += (seen.cpus() - self.cpus) * part;
    }

    fn cost_s(&self) -> f64 {
        cost_s(self.cpus, self.commands_per_s)
    }
}

/// The decision, from what was measured.
#[derive(Debug, Default)]
struct Need {
    /// Since when a worker is saturated, without a gap.
    saturated: Option<Saturated>,
    /// Looks at which fewer would have done, without a gap.
    quiet: u32,
    trial: Option<Trial>,
    /// CPU time of a command when fewer workers served last, s.
    cost_s: Option<f64>,
    /// Looks at which a command was dear, without a gap.
    dear: Mean,
    /// When there may be the next trial, and what was waited for the last one.
    next_trial_s: f64,
    wait_s: f64,
}

#[derive(Debug)]
struct Saturated {
    from_s: f64,
    /// The machine's idle time then.
    idle_from_s: f64,
    mean: Mean,
}

/// More workers, or fewer, for a few looks.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// How many served before, and what was seen of them.
    from: usize,
    before: Mean,
    mean: Mean,
}

impl Need {
    /// How many of `workers` are to serve. `idle_s`: of all CPUs since the machine started, asked for only where it matters.
    fn after(&mut self, seen: &Seen, workers: usize, idle_s: impl FnOnce() -> Option<f64>) -> usize {
        let (serving, enough) = (seen.busy.len(), seen.enough());
        self.quiet = if enough < serving { self.quiet + 1 } else { 0 };
        if self.quiet == FEWER_AFTER {
            *self = Self { next_trial_s: self.next_trial_s, wait_s: self.wait_s, ..Self::default() };
            return enough;
        }
        if let Some(trial) = self.trial.take() {
            return self.go_on(trial, seen);
        }
        if seen.now_s < self.next_trial_s {
            self.saturated = None;
            return serving;
        }
        self.fewer_on_trial(seen).or_else(|| self.more_on_trial(seen, workers, idle_s)).unwrap_or(serving)
    }

    fn go_on(&mut self, mut trial: Trial, seen: &Seen) -> usize {
        let serving = seen.busy.len();
        trial.mean.add(seen);
        let Trial { from, before, mean } = trial;
        // Ten looks are a second.
        let commands = mean.commands_per_s * f64::from(mean.looks) / 10.0;
        if mean.looks < TRIAL || (commands < TRIAL_COMMANDS && mean.looks < TRIAL_MAX) {
            self.trial = Some(trial);
            return serving;
        }
        let (more, fewer) = (serving > from, serving.min(from));
        if mean.cpus <= FULL * fewer as f64 {
            // The load has gone.
            self.next_trial_s = seen.now_s + WAIT_FOR_LOAD_S;
            return fewer;
        }
        if mean.commands_per_s >= before.commands_per_s * if more { MORE_WORTH } else { FEWER_WORTH } {
            self.wait_s = 0.0;
            self.cost_s = more.then_some(before.cost_s());
            return serving;
        }
        self.wait_s = (2.0 * self.wait_s).clamp(WAIT_MIN_S, WAIT_MAX_S);
        self.next_trial_s = seen.now_s + self.wait_s;
        if !more {
            self.cost_s = Some(mean.cost_s());
        }
        from
    }

    /// Half of them, where a command has become dear.
    fn fewer_on_trial(&mut self, seen: &Seen) -> Option<usize> {
        let serving = seen.busy.len();
        let dear = serving > 1 && self.cost_s.is_some_and(|cost_s| seen.cost_s() > DEAR * cost_s);
        if !dear {
            self.dear = Mean::default();
            return None;
        }
        self.dear.add(seen);
        if self.dear.looks < MORE_AFTER {
            return None;
        }
        self.trial = Some(Trial { from: serving, before: std::mem::take(&mut self.dear), mean: Mean::default() });
        Some(serving.div_ceil(2))
    }

    /// Up to twice as many, where one is saturated and there are CPUs for them.
    fn more_on_trial(&mut self, seen: &Seen, workers: usize, idle_s: impl FnOnce() -> Option<f64>) -> Option<usize> {
        let serving = seen.busy.len();
        if serving == workers || !seen.is_saturated() {
            self.saturated = None;
            return None;
        }
        let Some(idle_s) = idle_s() else { return Some(workers) };
        let Some(saturated) = &mut self.saturated else {
            self.saturated = Some(Saturated { from_s: seen.now_s, idle_from_s: idle_s, mean: Mean::default() });
            return None;
        };
        saturated.mean.add(seen);
        if saturated.mean.looks < MORE_AFTER {
            return None;
        }
        let idle_cpus = (idle_s - saturated.idle_from_s) / (seen.now_s - saturated.from_s);
        let before = saturated.mean;
        self.saturated = None;
        if idle_cpus < IDLE_CPUS_MIN {
            return None;
        }
        self.trial = Some(Trial { from: serving, before, mean: Mean::default() });
        Some((serving + (idle_cpus.round() as usize).clamp(1, serving)).min(workers))
    }
}

/// CPU time of a thread of this process.
fn on_cpu_s(thread: u32) -> Option<f64> {
    // Its first number: ns on a CPU. The usual ones count in hundredths of a second.
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// Time for which CPUs of the machine had nothing to do, or waited for a disk.
fn idle_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    // `cpu user nice system idle iowait …`, in hundredths of a second.
    let mut numbers = text.lines().next()?.split_whitespace().skip(4).map(str::parse::<f64>);
    Some((numbers.next()?.ok()? + numbers.next()?.ok()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose clients want everything that there is.
    struct Machine {
        need: Need,
        workers: usize,
        idle_cpus: f64,
        now_s: f64,
        serving: usize,
    }

    impl Machine {
        fn new(workers: usize, serving: usize, idle_cpus: f64) -> Self {
            Self { need: Need::default(), workers, idle_cpus, now_s: 0.0, serving }
        }

        /// Looks at workers that are so busy and run so many commands; how many serve after each look.
        fn look(&mut self, busy: &[f64], commands_per_s: f64, count: usize) -> Vec<usize> {
            let look = |_| {
                self.now_s += 0.1;
                let seen = Seen { now_s: self.now_s, busy: busy.to_vec(), commands_per_s };
                let idle_s = self.idle_cpus * self.now_s;
                self.serving = self.need.after(&seen, self.workers, || Some(idle_s));
                self.serving
            };
            (0..count).map(look).collect()
        }

        /// For so long all workers that serve do all they can; what `gain` says they get done for each number of them.
        /// How often a number of workers began to serve.
        fn run(&mut self, s: f64, gain: &[f64]) -> Vec<usize> {
            let end_s = self.now_s + s;
            let mut changes = Vec::new();
            while self.now_s < end_s {
                let serving = self.serving;
                if self.look(&vec![0.95; serving], 1e5 * gain[serving - 1], 1) != [serving] {
                    changes.push(self.serving);
                    // The look at connections that move is not told.
                    self.now_s += 0.1;
                }
            }
            changes
        }
    }

    #[test]
    fn another_worker_serves_when_one_is_saturated_for_a_while_and_a_cpu_is_idle() {
        let looks = |busy: &[f64], workers, idle_cpus, count| {
            Machine::new(workers, busy.len(), idle_cpus).look(busy, 1e5, count)
        };
        assert_eq!(looks(&[0.9], 4, 1.0, 4), [1, 1, 1, 2]);
        assert_eq!(looks(&[0.3, 0.9], 8, 9.0, 4), [2, 2, 2, 4], "not more than twice as many");
        assert_eq!(looks(&[0.9, 0.9], 3, 9.0, 4), [2, 2, 2, 3], "not more than there are");
        assert_eq!(looks(&[0.9], 4, 0.4, 9), [1; 9], "no CPU is free");
        assert_eq!(looks(&[0.8], 4, 3.0, 9), [1; 9], "it has time");
    }

    #[test]
    fn a_moment_without_saturation_begins_again() {
        let mut machine = Machine::new(2, 1, 1.0);
        machine.look(&[0.9], 1e5, 3);
        machine.look(&[0.2], 1e5, 1);
        assert_eq!(machine.look(&[0.9], 1e5, 4), [1, 1, 1, 2]);
    }

    #[test]
    fn more_go_on_serving_when_they_get_more_done() {
        assert_eq!(Machine::new(2, 1, 1.0).run(100.0, &[1.0, 1.5]), [2]);
        assert_eq!(Machine::new(8, 1, 7.0).run(100.0, &[1.0, 1.9, 0.0, 3.6, 0.0, 0.0, 0.0, 6.0]), [2, 4, 8]);
        assert_eq!(Machine::new(4, 1, 3.0).run(4.0, &[1.0, 1.9, 0.0, 2.0]), [2, 4, 2], "four do no more than two");
    }

    #[test]
    fn where_more_get_no_more_done_it_is_tried_ever_more_seldom() {
        let mut machine = Machine::new(2, 1, 1.0);
        assert_eq!(machine.run(4.0, &[1.0, 0.5]), [2, 1]);
        assert_eq!(machine.run(300.0, &[1.0, 1.1]).len(), 2 * 7, "after 8, 16, 32, 64, 64 … s");
        assert_eq!(machine.run(70.0, &[1.0, 1.5]), [2], "other commands now");
    }

    #[test]
    fn fewer_are_tried_when_commands_become_dear() {
        let mut machine = Machine::new(2, 1, 1.0);
        machine.run(2.0, &[1.0, 1.6]);
        assert_eq!(machine.run(1.0, &[0.8, 0.5]), [1], "other commands, of which one worker does more");
        let mut machine = Machine::new(2, 1, 1.0);
        machine.run(2.0, &[1.0, 1.6]);
        assert_eq!(machine.run(300.0, &[0.1, 0.16]), [1, 2], "other commands, of which two do more");
    }

    #[test]
    fn a_load_that_goes_during_a_trial_tells_nothing() {
        let mut machine = Machine::new(2, 1, 1.0);
        machine.look(&[0.9], 1e5, 4);
        assert_eq!(machine.look(&[0.1, 0.0], 1e4, 3), [2, 2, 1]);
        assert_eq!(machine.look(&[0.9], 1e5, 13)[9..], [1, 1, 1, 2], "it is tried again soon");
    }

    #[test]
    fn a_trial_sees_some_commands() {
        let mut machine = Machine::new(2, 1, 1.0);
        machine.look(&[0.9], 100.0, 4);
        assert_eq!(machine.look(&[0.9, 0.9], 105.0, 28)[27], 2, "it is not over yet");
        assert_eq!(machine.look(&[0.9, 0.9], 105.0, 1), [1]);
        let mut machine = Machine::new(2, 1, 1.0);
        machine.look(&[0.9], 10.0, 4);
        assert_eq!(machine.look(&[0.9, 0.9], 9.0, 30)[29], 1, "not for ever");
    }

    #[test]
    fn fewer_serve_when_they_would_have_done_for_a_while() {
        let looks = |busy: &[f64], count| Machine::new(busy.len(), busy.len(), 1.0).look(busy, 1e5, count);
        assert_eq!(looks(&[0.3, 0.3], 10), [[2; 9].as_slice(), &[1]].concat());
        assert_eq!(looks(&[0.4, 0.4], 20), [2; 20], "one would have too much to do");
        assert_eq!(looks(&[0.5, 0.4, 0.1, 0.1], 10)[9], 2);
        assert_eq!(looks(&[0.0; 4], 10)[9], 1);
    }

    #[test]
    fn all_serve_where_the_kernel_does_not_tell() {
        let seen = Seen { now_s: 0.0, busy: vec![0.9], commands_per_s: 1.0 };
        assert_eq!(Need::default().after(&seen, 4, || None), 4);
    }

    #[test]
    fn a_thread_and_the_machine_tell_their_times() {
        let spread = Spread::new(1, true);
        spread.begin(0);
        let before = spread.on_cpu_s().expect("Linux tells")[0];
        let until = std::time::Instant::now() + std::time::Duration::from_millis(50);
        while std::time::Instant::now() < until {}
        // What counts is brought up to date at least with each tick of the clock.
        assert!(spread.on_cpu_s().expect("Linux tells")[0] > before);
        assert!(idle_s().is_some_and(|s| s > 0.0));
    }

    #[test]
    fn seats_are_dealt_out_over_those_that_serve() {
        let spread = Spread::new(3, false);
        assert_eq!([0, 1, 2, 3].map(|seat| spread.worker_of(seat)), [0, 1, 2, 0]);
        let mut watch = Watch::default();
        watch.look(&Spread::new(1, true), true, 0);
        let spread = Spread::new(3, true);
        assert_eq!([0, 1, 2, 3].map(|seat| spread.worker_of(seat)), [0; 4]);
        watch.look(&spread, false, 0);
        assert_eq!(spread.serving(), 3, "not adaptive: all of them");
        (0..3).for_each(|worker| spread.begin(worker));
        watch.look(&spread, true, 0);
        assert_eq!(spread.serving(), 1, "as at the beginning");
    }
}
