//! Metric families as they are built for one scrape: values that are counted elsewhere already.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// In the order in which they were added; a name comes once.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<MetricFamily>);

/// Labels of one series.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Families {
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauge_with(name, help, &[], value);
    }

    pub(super) fn gauge_with(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.family(name, help, MetricType::GAUGE).mut_metric().push(metric);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counter_with(name, help, &[], value);
    }

    pub(super) fn counter_with(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.family(name, help, MetricType::COUNTER).mut_metric().push(metric);
    }

    /// `below` has the number of observations up to each of the `bounds`.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        (bounds, below): (&[u64], &[u64]),
        (count, sum): (u64, f64),
    ) {
        let bucket = |(bound, below): (&u64, &u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64);
            bucket.set_cumulative_count(*below);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(bounds.iter().zip(below).map(bucket).collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.family(name, help, MetricType::HISTOGRAM).mut_metric().push(metric);
    }

    pub(super) fn into_inner(self) -> Vec<MetricFamily> {
        self.0
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> &mut MetricFamily {
        // Series of a family are added one after the other.
        let at = self.0.iter().rposition(|family| family.name() == name).unwrap_or_else(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.into());
            family.set_help(help.into());
            family.set_field_type(kind);
            self.0.push(family);
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
