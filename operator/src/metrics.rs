//! The operator's own `/metrics`, in Prometheus's text format.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api::Phase;
use crate::change::FAILOVER_REASONS;

/// From 10 ms to half a minute: a failover of processes takes tens of milliseconds, one that waits for leases seconds.
const DURATION_BUCKETS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// From 50 µs on: a plan is made in memory; one that writes the record waits for the API server.
const TURN_BUCKETS: [f64; 9] = [0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5];
/// All phases, each of which has a series.
const PHASES: [Phase; 7] = [
    Phase::Pending,
    Phase::Ready,
    Phase::Degraded,
    Phase::FailingOver,
    Phase::SwitchingOver,
    Phase::Unavailable,
    Phase::Failed,
];

/// What is counted. Series about a datastore carry the labels `namespace` (empty in local mode) and `name`.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    has_master: IntGaugeVec,
    replicas_desired: IntGaugeVec,
    replicas_ready: IntGaugeVec,
    max_replica_lag_bytes: IntGaugeVec,
    epoch: IntGaugeVec,
    failover_ready: IntGaugeVec,
    phase: IntGaugeVec,
    condition: IntGaugeVec,
    failovers: IntCounterVec,
    failover_duration: HistogramVec,
    switchover_duration: HistogramVec,
    pub reconciles: IntCounter,
    pub reconcile_errors: IntCounter,
    pub reconcile_duration: Histogram,
    /// 1 while this operator leads.
    pub leader: IntGauge,
    /// Answers of the API server, by verb, kind and code.
    pub api_requests: IntCounterVec,
    /// By verb.
    pub api_request_duration: HistogramVec,
    resident: Gauge,
}

/// What is true of a datastore now.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub has_master: bool,
    pub replicas_desired: i32,
    pub replicas_ready: usize,
    pub max_replica_lag_bytes: u64,
    pub epoch: u64,
    /// A replica could be promoted now.
    pub failover_ready: bool,
    /// As the status has it, where there is one.
    pub phase: Option<Phase>,
    /// Conditions of the status, and whether they are true.
    pub conditions: Vec<(String, bool)>,
}

const LABELS: [&str; 2] = ["namespace", "name"];

impl Metrics {
    /// The series of an operator whose instances are made by `provider`.
    pub fn new(provider: &str) -> Metrics {
        let registry = Registry::new();
        let opts = |metric: &str, help: &str| Opts::new(format!("replicatedredis_{metric}"), help);
        let gauge = |metric: &str, help: &str| {
            let gauge = IntGaugeVec::new(opts(metric, help), &LABELS).expect("the name is valid");
            register(&registry, gauge)
        };
        let counter = |metric: &str, help: &str| {
            let counter = IntCounter::with_opts(opts(metric, help)).expect("the name is valid");
            register(&registry, counter)
        };
        let histogram = |metric: &str, help: &str| {
            let opts = HistogramOpts { common_opts: opts(metric, help), buckets: DURATION_BUCKETS.to_vec() };
            register(&registry, HistogramVec::new(opts, &LABELS).expect("the name is valid"))
        };
        let plain = |metric: &str, help: &str| {
            register(&registry, IntGauge::with_opts(opts(metric, help)).expect("the name is valid"))
        };
        let labelled = |metric: &str, help: &str, label: &str| {
            let labels = ["namespace", "name", label];
            register(&registry, IntGaugeVec::new(opts(metric, help), &labels).expect("the name is valid"))
        };
        let turns =
            HistogramOpts::new("replicatedredis_reconcile_duration_seconds", "Time that a plan and its actions take.")
                .buckets(TURN_BUCKETS.to_vec());
        let calls = opts("api_requests_total", "Answers of the API server; code 0 for none.");
        let call_times = HistogramOpts::new(
            "replicatedredis_api_request_duration_seconds",
            "Time until the API server answers; watches begin to answer.",
        )
        .buckets(DURATION_BUCKETS.to_vec());
        let resident = Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.");
        let info = IntGaugeVec::new(opts("info", "Always 1; says what runs."), &["version", "provider"])
            .expect("the name is valid");
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), provider]).set(1);
        register(&registry, info);
        let failovers = IntCounterVec::new(
            opts("failovers_total", "Changes of the master that nobody asked for, by what made them necessary."),
            &["namespace", "name", "reason"],
        )
        .expect("the name is valid");
        Metrics {
            has_master: gauge("has_master", "1 while a master takes writes."),
            replicas_desired: gauge("replicas_desired", "Replicas that are asked for."),
            replicas_ready: gauge("replicas_ready", "Replicas that follow the master."),
            max_replica_lag_bytes: gauge("max_replica_lag_bytes", "Bytes that the slowest replica is behind."),
            epoch: gauge("epoch", "Epoch of the present master."),
            failover_ready: gauge("failover_ready", "1 while a replica could be promoted."),
            phase: labelled("phase", "1 for the phase that the status says.", "phase"),
            condition: labelled("condition", "1 while a condition of the status is true.", "condition"),
            failovers: register(&registry, failovers),
            failover_duration: histogram(
                "failover_duration_seconds",
                "From the loss of a master to the next one that takes writes.",
            ),
            switchover_duration: histogram(
                "switchover_duration_seconds",
                "Time for which a switchover has paused writes.",
            ),
            reconciles: counter("reconcile_total", "Plans made."),
            reconcile_errors: counter("reconcile_errors_total", "Actions of a plan that failed."),
            reconcile_duration: register(&registry, Histogram::with_opts(turns).expect("the name is valid")),
            leader: plain("leader", "1 while this operator leads, and serves datastores."),
            api_requests: register(
                &registry,
                IntCounterVec::new(calls, &["verb", "kind", "code"]).expect("the name is valid"),
            ),
            api_request_duration: register(
                &registry,
                HistogramVec::new(call_times, &["verb"]).expect("the name is valid"),
            ),
            resident: register(&registry, resident.expect("the name is valid")),
            registry,
        }
    }

    pub fn set(&self, namespace: &str, name: &str, state: &State) {
        let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[namespace, name]).set(value);
        let clamped = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        set(&self.has_master, i64::from(state.has_master));
        set(&self.replicas_desired, i64::from(state.replicas_desired));
        set(&self.replicas_ready, clamped(state.replicas_ready as u64));
        set(&self.max_replica_lag_bytes, clamped(state.max_replica_lag_bytes));
        set(&self.epoch, clamped(state.epoch));
        set(&self.failover_ready, i64::from(state.failover_ready));
        // They begin at 0: an increase is seen from the first one on.
        for reason in FAILOVER_REASONS {
            self.failovers.with_label_values(&[namespace, name, reason]);
        }
        self.failover_duration.with_label_values(&[namespace, name]);
        self.switchover_duration.with_label_values(&[namespace, name]);
        if let Some(present) = state.phase {
            for phase in PHASES {
                let text = format!("{phase:?}");
                self.phase.with_label_values(&[namespace, name, &text]).set(i64::from(phase == present));
            }
        }
        for (kind, holds) in &state.conditions {
            self.condition.with_label_values(&[namespace, name, kind]).set(i64::from(*holds));
        }
    }

    pub fn failover(&self, namespace: &str, name: &str, reason: &str, took: Duration) {
        self.failovers.with_label_values(&[namespace, name, reason]).inc();
        self.failover_duration.with_label_values(&[namespace, name]).observe(took.as_secs_f64());
    }

    pub fn switchover(&self, namespace: &str, name: &str, paused: Duration) {
        self.switchover_duration.with_label_values(&[namespace, name]).observe(paused.as_secs_f64());
    }

    /// A datastore is gone, and its series with it.
    pub fn forget(&self, namespace: &str, name: &str) {
        let gauges = [
            &self.has_master,
            &self.replicas_desired,
            &self.replicas_ready,
            &self.max_replica_lag_bytes,
            &self.epoch,
            &self.failover_ready,
        ];
        // An error says that there was no such series.
        for gauge in gauges {
            let _ = gauge.remove_label_values(&[namespace, name]);
        }
        for (gauge, label) in [(&self.phase, "phase"), (&self.condition, "condition")] {
            for third in values_of(gauge, label, namespace, name) {
                let _ = gauge.remove_label_values(&[namespace, name, &third]);
            }
        }
        for reason in FAILOVER_REASONS {
            let _ = self.failovers.remove_label_values(&[namespace, name, reason]);
        }
        for histogram in [&self.failover_duration, &self.switchover_duration] {
            let _ = histogram.remove_label_values(&[namespace, name]);
        }
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        self.resident.set(resident_bytes());
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("the series are well-formed");
        String::from_utf8(out).expect("the exposition format is text")
    }
}

/// The values of one label in the series of a datastore.
fn values_of(gauge: &IntGaugeVec, label: &str, namespace: &str, name: &str) -> Vec<String> {
    let mut values = Vec::new();
    for family in gauge.collect() {
        for metric in family.get_metric() {
            let value = |label: &str| metric.get_label().iter().find(|l| l.name() == label).map(|l| l.value());
            if (value("namespace"), value("name")) == (Some(namespace), Some(name)) {
                values.extend(value(label).map(String::from));
            }
        }
    }
    values
}

/// Of this process, from `/proc`; 0 where that is not to be had.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kb.unwrap_or(0.0) * 1024.0
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}

/// The HTTP server of `/metrics` and `/healthz`; ends when dropped.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MetricsServer {
    pub fn start(listener: TcpListener, metrics: Metrics) -> std::io::Result<MetricsServer> {
        let address = listener.local_addr()?;
        let exposition = move || {
            let text = metrics.text();
            async move { ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text) }
        };
        let router = Router::new().route("/metrics", get(exposition)).route("/healthz", get(async || "ok\n"));
        // Serving ends only by being aborted: `axum::serve` handles its own accept errors.
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(MetricsServer { address, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_series_are_served() {
        let metrics = Metrics::new("local");
        let state = State {
            replicas_desired: 2,
            replicas_ready: 1,
            epoch: 4,
            phase: Some(Phase::Degraded),
            conditions: vec![("Ready".into(), false), ("MasterAvailable".into(), true)],
            ..State::default()
        };
        metrics.set("", "quickstart", &state);
        metrics.failover("", "quickstart", "MasterEnded", Duration::from_millis(120));
        metrics.failover("", "quickstart", "MasterEnded", Duration::from_millis(80));
        metrics.set("ns", "other", &state);
        metrics.forget("ns", "other");
        let server = MetricsServer::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), metrics).unwrap();
        let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        for line in [
            "replicatedredis_epoch{name=\"quickstart\",namespace=\"\"} 4",
            "replicatedredis_failovers_total{name=\"quickstart\",namespace=\"\",reason=\"MasterEnded\"} 2",
            "replicatedredis_failover_duration_seconds_bucket{name=\"quickstart\",namespace=\"\",le=\"0.1\"} 1",
            "replicatedredis_failovers_total{name=\"quickstart\",namespace=\"\",reason=\"MasterSilent\"} 0",
            "replicatedredis_has_master{name=\"quickstart\",namespace=\"\"} 0",
            "replicatedredis_phase{name=\"quickstart\",namespace=\"\",phase=\"Degraded\"} 1",
            "replicatedredis_phase{name=\"quickstart\",namespace=\"\",phase=\"Ready\"} 0",
            "replicatedredis_condition{condition=\"MasterAvailable\",name=\"quickstart\",namespace=\"\"} 1",
        ] {
            assert!(answer.lines().any(|l| l == line), "{line} is missing in {answer}");
        }
        assert!(!answer.contains("other"), "{answer}");
    }
}
