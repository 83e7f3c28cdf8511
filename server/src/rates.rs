//! What happens per second, for INFO: the last second and a half, sampled by the clock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::state::Stats;

/// Commands, bytes in and out, bytes from our master and to our replicas.
type Counts = [u64; 5];

/// Samples that are kept: one more than the periods that are averaged.
const SAMPLES: usize = 17;

#[derive(Debug, Default)]
pub struct Rates {
    samples: Mutex<VecDeque<(u64, Counts)>>,
    peak: AtomicUsize,
}

impl Rates {
    /// Called ten times a second.
    pub(crate) fn sample(&self, now_ms: u64, stats: &Stats) {
        let counters = [
            &stats.commands,
            &stats.input_bytes,
            &stats.output_bytes,
            &stats.replica_input_bytes,
            &stats.replica_output_bytes,
        ];
        self.push(now_ms, counters.map(|n| n.load(Ordering::Relaxed)));
    }

    fn push(&self, now_ms: u64, counts: Counts) {
        let mut samples = self.samples.lock();
        samples.push_back((now_ms, counts));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    pub fn per_second(&self) -> [f64; 5] {
        let samples = self.samples.lock();
        let (Some((from_ms, from)), Some((to_ms, to))) = (samples.front(), samples.back()) else { return [0.0; 5] };
        let seconds = (to_ms - from_ms).max(1) as f64 / 1000.0;
        // CONFIG RESETSTAT sets counters back.
        std::array::from_fn(|i| to[i].saturating_sub(from[i]) as f64 / seconds)
    }

    /// The most memory that was ever in use when somebody asked, or now.
    pub fn peak_memory(&self, used: usize) -> usize {
        self.peak.fetch_max(used, Ordering::Relaxed).max(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_samples_that_are_kept() {
        let rates = Rates::default();
        assert_eq!(rates.per_second(), [0.0; 5]);
        for i in 0..100 {
            rates.push(i * 100, [i * 50, i * 1000, 0, 7, 7 - i.min(7)]);
        }
        assert_eq!(rates.per_second(), [500.0, 10_000.0, 0.0, 0.0, 0.0]);
        assert_eq!((rates.peak_memory(5), rates.peak_memory(3), rates.peak_memory(9)), (5, 5, 9));
    }
}
