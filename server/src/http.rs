//! HTTP on `metrics-port`: `/metrics` (Prometheus text), `/livez`, `/readyz`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{Encoder, GaugeVec, IntGauge, Opts, Registry as Metrics, TextEncoder};

use crate::clients::Kind;
use crate::clock;
use crate::info;
use crate::state::Server;

/// Serves until the process ends, on a thread of its own. Fails if the port is taken.
pub fn start(server: &Arc<Server>) -> Result<(), String> {
    let port = server.settings().metrics_port;
    if port == 0 {
        return Ok(());
    }
    let listener = std::net::TcpListener::bind(("0.0.0.0", port as u16))
        .and_then(|l| l.set_nonblocking(true).map(|()| l))
        .map_err(|e| format!("Failed listening on metrics-port {port}: {e}"))?;
    let server = Arc::clone(server);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the operating system gives an event queue");
        runtime.block_on(async move {
            let routes = Router::new()
                .route("/metrics", get(metrics))
                .route("/livez", get(|| async { "ok\n" }))
                .route("/readyz", get(readyz))
                .with_state(server);
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    if let Err(error) = axum::serve(listener, routes).await {
                        tracing::error!("The metrics server ended: {error}");
                    }
                }
                Err(error) => tracing::error!("The metrics server could not start: {error}"),
            }
        });
    };
    std::thread::Builder::new().name("metrics".into()).spawn(run).map_err(|e| e.to_string())?;
    Ok(())
}

/// Ready: data loaded, role given, and for a replica its link up. Otherwise the reason.
pub fn readiness(server: &Server) -> Result<(), &'static str> {
    let repl = &server.repl;
    if server.loading.load(Ordering::Acquire) {
        Err("loading the data set")
    } else if repl.is_awaiting() {
        Err("awaiting a role from the operator")
    } else if repl.is_replica() && !repl.link_up() {
        Err(if repl.link.syncing.load(Ordering::Acquire) {
            "full resync under way"
        } else {
            "the link to the master is down"
        })
    } else {
        Ok(())
    }
}

async fn readyz(State(server): State<Arc<Server>>) -> (StatusCode, String) {
    match readiness(&server) {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Result<String, (StatusCode, String)> {
    gather(&server).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// Names as redis_exporter has them where they mean the same; ours begin with `replicated_redis_`.
fn gather(server: &Server) -> Result<String, prometheus::Error> {
    let metrics = Metrics::new();
    let gauge = |name: &str, help: &str, value: i64| -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        metrics.register(Box::new(gauge))
    };
    let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed) as i64;
    let (used, resident) = info::memory_used();
    let (stats, keys, repl) = (&server.stats, server.keyspace.stats(), &server.repl);
    let end = repl.log.lock().log.end();
    let clients = server.clients.list();
    gauge("redis_up", "1 while the server answers", 1)?;
    gauge("redis_uptime_in_seconds", "Seconds since the start", clock::uptime().as_secs() as i64)?;
    gauge(
        "redis_connected_clients",
        "Client connections",
        clients.iter().filter(|c| c.kind() == Kind::Normal).count() as i64,
    )?;
    gauge("redis_memory_used_bytes", "Allocated bytes", used as i64)?;
    gauge("redis_memory_used_rss_bytes", "Resident bytes", resident as i64)?;
    gauge("redis_commands_processed_total", "Commands", get(&stats.commands))?;
    gauge("redis_connections_received_total", "Connections accepted", get(&stats.connections))?;
    gauge("redis_rejected_connections_total", "Connections refused", get(&stats.rejected_connections))?;
    gauge("redis_net_input_bytes_total", "Bytes read from clients", get(&stats.input_bytes))?;
    gauge("redis_net_output_bytes_total", "Bytes written to clients", get(&stats.output_bytes))?;
    gauge("redis_keyspace_hits_total", "Look-ups that found a key", keys.hits as i64)?;
    gauge("redis_keyspace_misses_total", "Look-ups that found none", keys.misses as i64)?;
    gauge("redis_expired_keys_total", "Keys deleted because their time had passed", keys.expired as i64)?;
    gauge("redis_connected_slaves", "Attached replicas", repl.feed_count() as i64)?;
    gauge("redis_master_repl_offset", "End of the replication log", end as i64)?;
    gauge("redis_replica_resyncs_full", "Full resyncs served", get(&stats.sync_full))?;
    gauge("redis_replica_partial_resync_accepted", "Partial resyncs served", get(&stats.sync_partial_ok))?;
    gauge(
        "redis_rdb_last_bgsave_status",
        "1 if the last save went well",
        server.persistence.last_ok.load(Ordering::Relaxed).into(),
    )?;
    gauge("redis_rdb_changes_since_last_save", "Changes not yet in an RDB file", get(&server.dirty))?;
    gauge("redis_loading_dump_file", "1 while data is being loaded", server.loading.load(Ordering::Relaxed).into())?;
    if repl.is_replica() {
        gauge("redis_master_link_up", "1 while the link to the master is up", repl.link_up().into())?;
        gauge("redis_slave_repl_offset", "Offset that this replica has applied", end as i64)?;
    }
    let now = clock::monotonic_ms();
    if repl.managed {
        let role = repl.role.lock();
        gauge("replicated_redis_epoch", "Epoch of the present role", role.role_epoch() as i64)?;
        gauge("replicated_redis_promised_epoch", "Highest epoch promised", role.durable.promised as i64)?;
    }
    gauge("replicated_redis_ready", "1 if /readyz says so", readiness(server).is_ok().into())?;
    gauge(
        "replicated_redis_writable",
        "1 if this instance takes writes",
        (!repl.is_replica() && !repl.is_awaiting() && repl.may_write(now)).into(),
    )?;
    gauge(
        "replicated_redis_snapshot_overhead_bytes",
        "Bytes kept for a running snapshot",
        server.keyspace.snapshot_side_bytes() as i64,
    )?;
    gauge("replicated_redis_log_bytes", "Bytes of replication log held", repl.log.lock().log.held() as i64)?;
    let vector = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
    let db_keys = vector("redis_db_keys", "Keys of a database", &["db"])?;
    let db_expiring = vector("redis_db_keys_expiring", "Keys of a database that have an expiry", &["db"])?;
    for (db, (keys, expiring)) in server.keyspace.sizes().into_iter().enumerate() {
        if keys > 0 || db == 0 {
            db_keys.with_label_values(&[&format!("db{db}")]).set(keys as f64);
            db_expiring.with_label_values(&[&format!("db{db}")]).set(expiring as f64);
        }
    }
    let offset = vector(
        "redis_connected_slave_offset_bytes",
        "Offset that a replica has acknowledged",
        &["slave_ip", "slave_port"],
    )?;
    let lag = vector(
        "redis_connected_slave_lag_seconds",
        "Seconds since a replica was last heard from",
        &["slave_ip", "slave_port"],
    )?;
    for (feed, ack) in repl.feeds().iter().filter_map(|feed| Some((feed, feed.ack()?))) {
        let port = feed.port.to_string();
        offset.with_label_values(&[&feed.ip, &port]).set(ack.offset as f64);
        lag.with_label_values(&[&feed.ip, &port]).set(now.saturating_sub(ack.at_ms) as f64 / 1000.0);
    }
    for vector in [db_keys, db_expiring, offset, lag] {
        metrics.register(Box::new(vector))?;
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&metrics.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
