//! Ending in order: writes are held back, replicas catch up, the data is saved, then the process ends.
//!
//! ```text
//! SHUTDOWN, SIGTERM ──► writes held ──► replicas hold all, or `shutdown-timeout` ──► saved ──► end
//!                            ▲                      │ ABORT                            │ it failed, without FORCE
//!                            └──── as before ◄──────┴──────────────────────────────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::clock;
use crate::config::OnSignal;
use crate::persistence;
use crate::repl::Hold;
use crate::state::Server;
use crate::timers::{sleep, timeout};

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// `None`: if there are `save` rules.
    pub save: Option<bool>,
    /// Do not wait for replicas.
    pub now: bool,
    /// End also if the data cannot be saved.
    pub force: bool,
}

impl From<OnSignal> for Request {
    fn from(on: OnSignal) -> Self {
        let save = if on.save || on.nosave { Some(on.save) } else { None };
        Self { save, now: on.now, force: on.force }
    }
}

/// What the clients and the main thread tell each other about it.
#[derive(Debug, Default)]
pub struct Shutdown {
    asked: Mutex<Option<Request>>,
    asked_wake: Notify,
    running: AtomicBool,
    aborted: AtomicBool,
    abort_wake: Notify,
    /// Attempts that came to nothing.
    pub failures: AtomicU64,
    pub failed: Notify,
}

impl Shutdown {
    /// SHUTDOWN: the process ends, or [`Shutdown::failures`] is counted up.
    pub fn ask(&self, request: Request) {
        *self.asked.lock() = Some(request);
        self.asked_wake.notify_one();
    }

    /// SHUTDOWN ABORT; `false` if nothing is to be ended.
    pub fn abort(&self) -> bool {
        let waiting = self.asked.lock().take().is_some();
        let running = self.running.load(Ordering::Acquire);
        if running {
            self.aborted.store(true, Ordering::Release);
            self.abort_wake.notify_one();
        } else if waiting {
            self.fail();
        }
        waiting || running
    }

    fn fail(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.failed.notify_waiters();
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Waits for an order to end, carries it out, and returns whether the data was saved. An order that fails is forgotten.
pub async fn wait(server: &Arc<Server>) -> std::io::Result<bool> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    loop {
        let request = tokio::select! {
            _ = signals.terminate.recv() => {
                tracing::warn!("Received SIGTERM scheduling shutdown...");
                server.settings().shutdown_on_sigterm.into()
            }
            _ = signals.interrupt.recv() => {
                tracing::warn!("Received SIGINT scheduling shutdown...");
                server.settings().shutdown_on_sigint.into()
            }
            () = server.shutdown.asked_wake.notified() => match server.shutdown.asked.lock().take() {
                Some(request) => request,
                None => continue,
            },
        };
        if let Some(saved) = attempt(server, request, &mut signals).await {
            return Ok(saved);
        }
        server.shutdown.fail();
    }
}

/// `None`: the process goes on.
async fn attempt(server: &Arc<Server>, request: Request, signals: &mut Signals) -> Option<bool> {
    let shutdown = &server.shutdown;
    shutdown.aborted.store(false, Ordering::Release);
    shutdown.running.store(true, Ordering::Release);
    // DEBUG PAUSE-CRON: what is done by the clock waits, this too.
    while server.cron_paused.load(Ordering::Acquire) && !shutdown.aborted.load(Ordering::Acquire) {
        sleep(Duration::from_millis(10)).await;
    }
    server.hold_writes(Hold::Shutdown);
    if !request.now {
        wait_for_replicas(server, signals).await;
    }
    let save = request.save.unwrap_or(!server.settings().save.0.is_empty());
    let mut ended = None;
    if shutdown.aborted.load(Ordering::Acquire) {
        tracing::warn!("Shutdown manually aborted");
    } else if !save {
        ended = Some(false);
    } else {
        tracing::warn!("Saving the final RDB snapshot before exiting.");
        ended = match persistence::save(server) {
            Ok(()) => Some(true),
            Err(_) if request.force => {
                tracing::warn!("Error trying to save the DB, exiting anyway.");
                Some(false)
            }
            Err(_) => {
                tracing::warn!("Error trying to save the DB, can't exit. SHUTDOWN NOSAVE ends the server without.");
                None
            }
        };
    }
    if ended.is_none() {
        server.release_writes(Hold::Shutdown);
        shutdown.running.store(false, Ordering::Release);
    }
    ended
}

/// Until every replica holds everything, the time is over, somebody says ABORT, or a second signal says not to wait.
async fn wait_for_replicas(server: &Arc<Server>, signals: &mut Signals) {
    let limit = Duration::from_secs(server.settings().shutdown_timeout as u64);
    let end = server.repl.log.lock().log.end();
    let lagging = || server.repl.feeds().into_iter().filter(|f| f.ack_offset() < end).collect::<Vec<_>>();
    if limit.is_zero() || lagging().is_empty() {
        return;
    }
    tracing::info!(
        "{} of {} replicas are in sync when shutting down, waiting.",
        in_sync(server, end),
        server.repl.feed_count()
    );
    let begun = clock::instant();
    if !server.repl.is_replica() {
        server.repl.append_getack();
    }
    while let Some(left) = limit.checked_sub(begun.elapsed()) {
        let acked = server.repl.acked.notified();
        if lagging().is_empty() || server.shutdown.aborted.load(Ordering::Acquire) {
            break;
        }
        tokio::select! {
            _ = timeout(left.min(Duration::from_millis(100)), acked) => {}
            () = server.shutdown.abort_wake.notified() => {}
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    for feed in lagging() {
        let (state, offset, lag) = (feed.state().name(), feed.ack_offset(), feed.lag_s(clock::monotonic_ms()));
        tracing::info!(
            "Lagging replica {}:{} reported offset {} behind master, lag={lag}, state={state}.",
            feed.ip,
            feed.port,
            end - offset.min(end),
        );
    }
    tracing::info!("{} of {} replicas are in sync when shutting down.", in_sync(server, end), server.repl.feed_count());
}

fn in_sync(server: &Server, end: u64) -> usize {
    server.repl.feeds().iter().filter(|f| f.ack_offset() >= end).count()
}
