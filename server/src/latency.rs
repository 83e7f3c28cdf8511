//! How long commands take: a histogram of each, and the events that took longer than `latency-monitor-threshold`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Four buckets for each power of two of nanoseconds: a value is known to a fifth. The last one is from 18 minutes on.
const BUCKETS: usize = 160;

/// The bucket of a duration.
#[inline]
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(4);
    let exponent = 63 - nanos.leading_zeros();
    let quarter = nanos >> (exponent - 2) & 3;
    (exponent as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The end of a bucket, ns.
fn bound(bucket: usize) -> u64 {
    let (exponent, quarter) = (bucket / 4, bucket as u64 % 4);
    if exponent < 2 { 4 } else { (5 + quarter) << (exponent - 2) }
}

/// How many durations of a batch there were in each bucket.
#[derive(Debug)]
pub struct Counts {
    of: [u8; BUCKETS],
    /// The others are all 0.
    used: Range<usize>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { of: [0; BUCKETS], used: 0..0 }
    }
}

impl Counts {
    /// Counts a duration; not more than 255 of them between [`Counts::clear`]s.
    #[inline]
    pub fn add(&mut self, nanos: u64) {
        let bucket = bucket(nanos);
        self.of[bucket] += 1;
        let used = &self.used;
        let start = if used.is_empty() { bucket } else { used.start.min(bucket) };
        self.used = start..used.end.max(bucket + 1);
    }

    pub fn clear(&mut self) {
        self.of[std::mem::take(&mut self.used)].fill(0);
    }
}

/// Durations by bucket. It takes memory when the first one is counted.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<[AtomicU64; BUCKETS]>>);

impl Histogram {
    /// Counts the buckets of a batch.
    pub fn add(&self, counts: &Counts) {
        let all = self.0.get_or_init(|| Box::new([const { AtomicU64::new(0) }; BUCKETS]));
        let used = counts.used.clone();
        for (sum, n) in all[used.clone()].iter().zip(&counts.of[used]).filter(|(_, n)| **n > 0) {
            sum.fetch_add(u64::from(*n), Ordering::Relaxed);
        }
    }

    pub fn reset(&self) {
        self.0.get().into_iter().flat_map(|all| all.iter()).for_each(|n| n.store(0, Ordering::Relaxed));
    }

    fn counts(&self) -> Vec<u64> {
        self.0.get().map_or_else(Vec::new, |all| all.iter().map(|n| n.load(Ordering::Relaxed)).collect())
    }

    pub fn total(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// The duration below which this share (0 … 100) of the calls stayed, ns.
    pub fn percentile(&self, percent: f64) -> u64 {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        let wanted = ((total as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut sum = 0;
        for (i, n) in counts.iter().enumerate() {
            sum += n;
            if sum >= wanted {
                return bound(i);
            }
        }
        0
    }

    /// Numbers of calls that took at most so many µs: powers of two, as long as the number grows.
    pub fn cumulative_us(&self) -> Vec<(u64, u64)> {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        let mut out = Vec::new();
        let mut last = 0;
        for us in (0..).map(|n| 1u64 << n).take(40) {
            let below = counts.iter().enumerate().filter(|(i, _)| bound(*i) <= us * 1024).map(|(_, n)| n).sum();
            if below > last {
                out.push((us, below));
                last = below;
            }
            if below == total {
                break;
            }
        }
        out
    }
}

impl Histogram {
    /// Numbers of calls that took at most each of these µs, and of all. A µs counts 1,024 ns, as in LATENCY HISTOGRAM.
    pub fn at_most_us(&self, bounds: &[u64]) -> (Vec<u64>, u64) {
        let counts = self.counts();
        let below = |us: &u64| counts.iter().enumerate().filter(|(i, _)| bound(*i) <= us * 1024).map(|(_, n)| n).sum();
        (bounds.iter().map(below).collect(), counts.iter().sum())
    }
}

/// Samples kept of an event.
const SAMPLES: usize = 160;

#[derive(Debug, Clone, Default)]
pub struct Event {
    /// (unix s, ms): the worst of each second.
    pub samples: VecDeque<(u64, u64)>,
    pub max_ms: u64,
}

/// The events, by name: `command`, `fast-command`, `expire-cycle`, …
#[derive(Debug, Default)]
pub struct Events(Mutex<BTreeMap<&'static str, Event>>);

impl Events {
    pub fn note(&self, event: &'static str, at_s: u64, ms: u64) {
        let mut events = self.0.lock();
        let event = events.entry(event).or_default();
        event.max_ms = event.max_ms.max(ms);
        match event.samples.back_mut() {
            Some(last) if last.0 == at_s => last.1 = last.1.max(ms),
            _ => event.samples.push_back((at_s, ms)),
        }
        if event.samples.len() > SAMPLES {
            event.samples.pop_front();
        }
    }

    pub fn all(&self) -> BTreeMap<&'static str, Event> {
        self.0.lock().clone()
    }

    pub fn get(&self, name: &[u8]) -> Option<Event> {
        self.0.lock().iter().find(|(n, _)| n.as_bytes() == name).map(|(_, event)| event.clone())
    }

    /// Forgets these events (none: all) and returns how many there were.
    pub fn reset(&self, names: &[&[u8]]) -> usize {
        let mut events = self.0.lock();
        let before = events.len();
        events.retain(|name, _| !names.is_empty() && !names.contains(&name.as_bytes()));
        before - events.len()
    }
}

impl Event {
    /// The samples as columns of `#` above their age.
    pub fn graph(&self, name: &str, now_s: u64) -> String {
        const ROWS: u64 = 4;
        let (mut low, mut high) = (u64::MAX, 0);
        for (_, ms) in &self.samples {
            (low, high) = (low.min(*ms), high.max(*ms));
        }
        let mut out = format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n", self.max_ms);
        let _ = writeln!(out, "{}", "-".repeat(80));
        for row in (1..=ROWS).rev() {
            let column = |(_, ms): &(u64, u64)| if ms * ROWS >= high * row || row == 1 { '#' } else { ' ' };
            let line: String = self.samples.iter().map(column).collect();
            let _ = writeln!(out, "{}", line.trim_end());
        }
        // Ages are read from top to bottom.
        let ages: Vec<_> = self.samples.iter().map(|(at, _)| age(now_s.saturating_sub(*at))).collect();
        for row in 0..ages.iter().map(String::len).max().unwrap_or(0) {
            let line: String = ages.iter().map(|a| a.chars().nth(row).unwrap_or(' ')).collect();
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }
}

/// `5s`, `3m`, `2h`, `1d`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// LATENCY DOCTOR.
pub fn doctor(events: &BTreeMap<&'static str, Event>, threshold_ms: i64) -> String {
    if threshold_ms == 0 && events.is_empty() {
        return "Nothing is monitored: latency-monitor-threshold is 0. CONFIG SET latency-monitor-threshold <milliseconds> \
                makes this server note what takes longer.\n"
            .into();
    }
    if events.is_empty() {
        return format!("Nothing took {threshold_ms} ms or longer. There is nothing to do.\n");
    }
    let mut out = format!("{} kinds of events took {threshold_ms} ms or longer:\n", events.len());
    for (name, event) in events {
        let n = event.samples.len().max(1) as u64;
        let mean = event.samples.iter().map(|(_, ms)| ms).sum::<u64>() / n;
        let _ = writeln!(out, "- {name}: {n} samples, {mean} ms on average, {} ms at worst.", event.max_ms);
    }
    if events.contains_key("command") || events.contains_key("fast-command") {
        out.push_str("SLOWLOG GET shows which commands they were.\n");
    }
    if events.contains_key("expire-cycle") {
        out.push_str("Many keys expire at the same moments: spread their times, or lower active-expire-effort.\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_below_the_end_of_its_bucket_and_not_far() {
        for nanos in [0u64, 1, 3, 4, 5, 7, 8, 100, 999, 1000, 123_456, 10_000_000, 3_000_000_000] {
            let end = bound(bucket(nanos));
            assert!(nanos < end && (end <= 8 || end <= nanos + nanos / 4 + 1), "{nanos} {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_cumulative_counts_come_from_the_buckets() {
        let histogram = Histogram::default();
        assert_eq!((histogram.total(), histogram.percentile(50.0)), (0, 0));
        let mut counts = Counts::default();
        counts.add(5);
        counts.clear();
        counts.clear();
        (0..98).for_each(|_| counts.add(1000));
        (0..2).for_each(|_| counts.add(1_000_000));
        histogram.add(&counts);
        assert!((1000..1300).contains(&histogram.percentile(50.0)));
        assert!((1_000_000..1_300_000).contains(&histogram.percentile(99.0)));
        assert_eq!(histogram.cumulative_us().last().map(|(_, n)| *n), Some(100));
        histogram.reset();
        assert_eq!(histogram.total(), 0);
    }

    #[test]
    fn an_event_keeps_the_worst_of_each_second() {
        let events = Events::default();
        for (at, ms) in [(1, 5), (1, 9), (1, 7), (2, 3)] {
            events.note("command", at, ms);
        }
        let event = events.get(b"command").unwrap();
        assert_eq!((event.samples.as_slices().0, event.max_ms), (&[(1, 9), (2, 3)][..], 9));
        let graph = event.graph("command", 62);
        assert!(graph.starts_with("command - high 9 ms, low 3 ms (all time high 9 ms)\n---"), "{graph}");
        assert!(graph.contains("\n##\n11\nmm\n"), "{graph}");
        assert_eq!((events.reset(&[b"nosuch"]), events.reset(&[])), (0, 1));
    }
}
