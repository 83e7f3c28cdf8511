//! The operator's own `/metrics`, in Prometheus's text format.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// From 10 ms to half a minute: a failover of processes takes tens of milliseconds, one that waits for leases seconds.
const DURATION_BUCKETS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What is counted. Series about a datastore carry the labels `namespace` (empty in local mode) and `name`.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    has_master: IntGaugeVec,
    replicas_desired: IntGaugeVec,
    replicas_ready: IntGaugeVec,
    max_replica_lag_bytes: IntGaugeVec,
    epoch: IntGaugeVec,
    failovers: IntCounterVec,
    failover_duration: HistogramVec,
    switchover_duration: HistogramVec,
    pub reconciles: IntCounter,
    pub reconcile_errors: IntCounter,
}

/// What is true of a datastore now.
#[derive(Debug, Clone, Copy)]
pub struct State {
    pub has_master: bool,
    pub replicas_desired: i32,
    pub replicas_ready: usize,
    pub max_replica_lag_bytes: u64,
    pub epoch: u64,
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
            registry,
        }
    }

    pub fn set(&self, namespace: &str, name: &str, state: State) {
        let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[namespace, name]).set(value);
        let clamped = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        set(&self.has_master, i64::from(state.has_master));
        set(&self.replicas_desired, i64::from(state.replicas_desired));
        set(&self.replicas_ready, clamped(state.replicas_ready as u64));
        set(&self.max_replica_lag_bytes, clamped(state.max_replica_lag_bytes));
        set(&self.epoch, clamped(state.epoch));
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
        let gauges =
            [&self.has_master, &self.replicas_desired, &self.replicas_ready, &self.max_replica_lag_bytes, &self.epoch];
        // An error says that there was no such series.
        for gauge in gauges {
            let _ = gauge.remove_label_values(&[namespace, name]);
        }
        for reason in ["MasterEnded", "MasterSilent"] {
            let _ = self.failovers.remove_label_values(&[namespace, name, reason]);
        }
        for histogram in [&self.failover_duration, &self.switchover_duration] {
            let _ = histogram.remove_label_values(&[namespace, name]);
        }
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("the series are well-formed");
        String::from_utf8(out).expect("the exposition format is text")
    }
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
        let state =
            State { has_master: false, replicas_desired: 2, replicas_ready: 1, max_replica_lag_bytes: 0, epoch: 4 };
        metrics.set("", "quickstart", state);
        metrics.failover("", "quickstart", "MasterEnded", Duration::from_millis(120));
        metrics.failover("", "quickstart", "MasterEnded", Duration::from_millis(80));
        metrics.set("ns", "other", state);
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
            "replicatedredis_has_master{name=\"quickstart\",namespace=\"\"} 0",
        ] {
            assert!(answer.lines().any(|l| l == line), "{line} is missing in {answer}");
        }
        assert!(!answer.contains("other"), "{answer}");
    }
}
