//! HTTP on `metrics-port`: `/metrics` (Prometheus text), `/livez`, `/readyz`.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::state::Server;
use crate::{metrics, net};

/// Serves until the process ends, on a thread of its own, at the addresses of `bind`. Fails if the port is taken.
pub fn start(server: &Arc<Server>) -> Result<(), String> {
    let settings = server.settings();
    let port = settings.metrics_port as u16;
    if port == 0 {
        return Ok(());
    }
    let sockets = net::bind_all(&settings, port).map_err(|e| format!("metrics-port: {e}"))?;
    let server = Arc::clone(server);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the operating system gives an event queue");
        runtime.block_on(async move {
            let routes = Router::new()
                .route("/metrics", get(exposition))
                .route("/livez", get(|| async { "ok\n" }))
                .route("/readyz", get(readyz))
                .with_state(server);
            let mut serving = tokio::task::JoinSet::new();
            for socket in sockets {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(listener) => {
                        serving.spawn(axum::serve(listener, routes.clone()).into_future());
                    }
                    Err(error) => tracing::error!("The metrics server could not start: {error}"),
                }
            }
            while let Some(ended) = serving.join_next().await {
                tracing::error!("A metrics server ended: {ended:?}");
            }
        });
    };
    std::thread::Builder::new().name("metrics".into()).spawn(run).map_err(|e| e.to_string())?;
    Ok(())
}

/// Signs of life of its master that may stay away before a replica's data counts as old; half of the time after which the
/// link is given up may pass in any case, because the period is the master's setting. One that follows a managed master
/// gives its link up sooner.
const SILENT_PERIODS_MAX: i64 = 2;

/// Ready: data loaded, role given, and for a replica its link up and its master heard. Otherwise the reason.
pub fn readiness(server: &Server) -> Result<(), String> {
    let repl = &server.repl;
    if server.loading.load(Ordering::Acquire) {
        return Err("loading the data set".into());
    }
    if repl.is_awaiting() {
        return Err("awaiting a role from the operator".into());
    }
    if !repl.is_replica() {
        return Ok(());
    }
    if !repl.link_up() {
        let syncing = repl.link.syncing.load(Ordering::Acquire);
        return Err(if syncing { "full resync under way" } else { "the link to the master is down" }.into());
    }
    let (silent_s, settings) = (repl.link.silent_s(), server.settings());
    if silent_s > (SILENT_PERIODS_MAX * settings.repl_ping_replica_period).max(settings.repl_timeout / 2) as u64 {
        return Err(format!("nothing was heard of the master for {silent_s} s"));
    }
    Ok(())
}

async fn readyz(State(server): State<Arc<Server>>) -> (StatusCode, String) {
    match readiness(&server) {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn exposition(State(server): State<Arc<Server>>) -> impl IntoResponse {
    match metrics::text(&server) {
        Ok(text) => Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
