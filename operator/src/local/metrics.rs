//! The operator's own `/metrics` in local mode, in Prometheus's text format.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// From 10 ms to half a minute: a failover of processes takes tens of milliseconds, one that waits for leases seconds.
const DURATION_BUCKETS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What is counted. All series carry the label `name`.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    pub has_master: IntGauge,
    pub replicas_desired: IntGauge,
    pub replicas_ready: IntGauge,
    pub max_replica_lag_bytes: IntGauge,
    pub epoch: IntGauge,
    failovers: IntCounterVec,
    failover_duration: Histogram,
    switchover_duration: Histogram,
    pub reconciles: IntCounter,
    pub reconcile_errors: IntCounter,
}

impl Metrics {
    /// The series of the ReplicatedRedis `name`.
    pub fn new(name: &str) -> Metrics {
        let registry = Registry::new();
        let opts = |metric: &str, help: &str| {
            Opts::new(format!("replicatedredis_{metric}"), help).const_label("name", name.to_string())
        };
        let gauge = |metric: &str, help: &str| {
            let gauge = IntGauge::with_opts(opts(metric, help)).expect("the name is valid");
            register(&registry, gauge)
        };
        let counter = |metric: &str, help: &str| {
            let counter = IntCounter::with_opts(opts(metric, help)).expect("the name is valid");
            register(&registry, counter)
        };
        let histogram = |metric: &str, help: &str| {
            let opts = HistogramOpts { common_opts: opts(metric, help), buckets: DURATION_BUCKETS.to_vec() };
            register(&registry, Histogram::with_opts(opts).expect("the name is valid"))
        };
        let info = IntGaugeVec::new(opts("info", "Always 1; says what runs."), &["version", "provider"])
            .expect("the name is valid");
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), "local"]).set(1);
        register(&registry, info);
        let failovers = IntCounterVec::new(
            opts("failovers_total", "Changes of the master that nobody asked for, by what made them necessary."),
            &["reason"],
        )
        .expect("the name is valid");
        Metrics {
            has_master: gauge("has_master", "1 while a master takes writes."),
            replicas_desired: gauge("replicas_desired", "Replicas that the manifest asks for."),
            replicas_ready: gauge("replicas_ready", "Replicas that the replicas endpoint uses."),
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

    pub fn failover(&self, reason: &str, took: Duration) {
        self.failovers.with_label_values(&[reason]).inc();
        self.failover_duration.observe(took.as_secs_f64());
    }

    pub fn switchover(&self, paused: Duration) {
        self.switchover_duration.observe(paused.as_secs_f64());
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
        let metrics = Metrics::new("quickstart");
        metrics.epoch.set(4);
        metrics.failover("MasterEnded", Duration::from_millis(120));
        metrics.failover("MasterEnded", Duration::from_millis(80));
        let server = MetricsServer::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), metrics).unwrap();
        let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        for line in [
            "replicatedredis_epoch{name=\"quickstart\"} 4",
            "replicatedredis_failovers_total{name=\"quickstart\",reason=\"MasterEnded\"} 2",
            "replicatedredis_failover_duration_seconds_bucket{name=\"quickstart\",le=\"0.1\"} 1",
            "replicatedredis_has_master{name=\"quickstart\"} 0",
        ] {
            assert!(answer.lines().any(|l| l == line), "{line} is missing in {answer}");
        }
    }
}
