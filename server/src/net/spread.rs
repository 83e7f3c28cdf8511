//! How many of the workers serve: as few as do.
//!
//! Two workers cost more per command than one: each finds fewer sockets ready and fewer commands to run together, and
//! what one has written the other fetches from its CPU. So all connections are the first worker's until it uses a whole
//! CPU and another one is idle; then half of them move. They move back when fewer workers can do it. A worker without
//! connections sleeps.
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
    last: Option<(f64, Vec<f64>)>,
    need: Need,
    /// All serve, because the settings say so.
    all: bool,
}

impl Watch {
    pub(crate) fn look(&mut self, spread: &Spread, adaptive: bool) {
        let workers = spread.threads.len();
        if workers == 1 {
            return;
        }
        let now_s = clock::monotonic_ns() as f64 / 1e9;
        let was_all = std::mem::replace(&mut self.all, !adaptive);
        let serving = match spread.on_cpu_s().filter(|_| adaptive) {
            None => workers,
            Some(_) if was_all => 1,
            Some(on_cpu_s) => {
                let serving = on_cpu_s.len();
                let last = self.last.replace((now_s, on_cpu_s.clone())).filter(|(_, before)| before.len() == serving);
                last.map_or(serving, |(last_s, before)| {
                    let busy = on_cpu_s.iter().zip(&before).map(|(now, then)| (now - then) / (now_s - last_s));
                    self.need.after(now_s, &busy.collect::<Vec<_>>(), workers, idle_s)
                })
            }
        };
        if serving != spread.serving() {
            tracing::debug!("{serving} of {workers} io-threads serve");
            spread.serving.store(serving as u32, Ordering::Relaxed);
        }
    }
}

/// The decision, from what was measured.
#[derive(Debug, Default)]
struct Need {
    /// Looks at which one worker was saturated, without a gap; when the first was, and the machine's idle time then.
    saturated: Option<(u32, f64, f64)>,
    /// Looks at which fewer would have done, without a gap.
    quiet: u32,
}

impl Need {
    /// How many of `workers` are to serve. `busy`: for each that does, the part of the time that it was on a CPU;
    /// `idle_s`: of all CPUs since the machine started, asked for only where it matters.
    fn after(&mut self, now_s: f64, busy: &[f64], workers: usize, idle_s: impl FnOnce() -> Option<f64>) -> usize {
        let serving = busy.len();
        let enough = ((busy.iter().sum::<f64>() / FULL).ceil() as usize).clamp(1, serving);
        self.quiet = if enough < serving { self.quiet + 1 } else { 0 };
        if self.quiet == FEWER_AFTER {
            *self = Self::default();
            return enough;
        }
        if serving == workers || busy.iter().all(|busy| *busy < SATURATED) {
            self.saturated = None;
            return serving;
        }
        let Some(idle_s) = idle_s() else { return workers };
        let (looks, from_s, idle_from_s) = self.saturated.get_or_insert((0, now_s, idle_s));
        if *looks < MORE_AFTER {
            *looks += 1;
            return serving;
        }
        let idle_cpus = (idle_s - *idle_from_s) / (now_s - *from_s);
        self.saturated = None;
        let more = if idle_cpus < IDLE_CPUS_MIN { 0 } else { (idle_cpus.round() as usize).clamp(1, serving) };
        (serving + more).min(workers)
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

    /// Looks at workers that are so busy on a machine with so many idle CPUs; how many serve after each look.
    fn looks(need: &mut Need, busy: &[f64], workers: usize, idle_cpus: f64, count: usize) -> Vec<usize> {
        (0..count).map(|i| 0.1 * i as f64).map(|s| need.after(s, busy, workers, || Some(idle_cpus * s))).collect()
    }

    #[test]
    fn another_worker_serves_when_one_is_saturated_for_a_while_and_a_cpu_is_idle() {
        assert_eq!(looks(&mut Need::default(), &[0.9], 4, 1.0, 4), [1, 1, 1, 2]);
        assert_eq!(looks(&mut Need::default(), &[0.3, 0.9], 8, 9.0, 4), [2, 2, 2, 4], "not more than twice as many");
        assert_eq!(looks(&mut Need::default(), &[0.9, 0.9], 3, 9.0, 4), [2, 2, 2, 3], "not more than there are");
        assert_eq!(looks(&mut Need::default(), &[0.9], 4, 0.4, 9), [1; 9], "no CPU is free");
        assert_eq!(looks(&mut Need::default(), &[0.8], 4, 3.0, 9), [1; 9], "it has time");
    }

    #[test]
    fn a_moment_without_saturation_begins_again() {
        let mut need = Need::default();
        looks(&mut need, &[0.9], 2, 1.0, 3);
        looks(&mut need, &[0.2], 2, 1.0, 1);
        assert_eq!(looks(&mut need, &[0.9], 2, 1.0, 4), [1, 1, 1, 2]);
    }

    #[test]
    fn fewer_serve_when_they_would_have_done_for_a_while() {
        let mut need = Need::default();
        assert_eq!(looks(&mut need, &[0.3, 0.3], 2, 1.0, 10), [[2; 9].as_slice(), &[1]].concat());
        assert_eq!(looks(&mut need, &[0.4, 0.4], 2, 1.0, 20), [2; 20], "one would have too much to do");
        assert_eq!(looks(&mut need, &[0.5, 0.4, 0.1, 0.1], 4, 1.0, 10)[9], 2);
        assert_eq!(looks(&mut need, &[0.0; 4], 4, 1.0, 10)[9], 1);
    }

    #[test]
    fn all_serve_where_the_kernel_does_not_tell() {
        assert_eq!(Need::default().after(0.0, &[0.9], 4, || None), 4);
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
        watch.look(&Spread::new(1, true), true);
        let spread = Spread::new(3, true);
        assert_eq!([0, 1, 2, 3].map(|seat| spread.worker_of(seat)), [0; 4]);
        watch.look(&spread, false);
        assert_eq!(spread.serving(), 3, "not adaptive: all of them");
        (0..3).for_each(|worker| spread.begin(worker));
        watch.look(&spread, true);
        assert_eq!(spread.serving(), 1, "as at the beginning");
    }
}
