//! Carries out FAILOVER: what `replication::Failover` decides, on the sockets and the log of this instance.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replication::failover::{Address, Candidate, Effect, FailoverError, Request};

use super::{FeedState, Hold, Target};
use crate::clock;
use crate::state::Server;
use crate::timers::timeout;

/// How long an acknowledgement is waited for before it is asked for again.
const ASK_MS: u64 = 100;

/// FAILOVER …
pub fn begin(server: &Server, request: Request) -> Result<(), FailoverError> {
    let mut failover = server.repl.failover.lock();
    let replicas = candidates(server);
    let effects = failover.begin(request, server.repl.is_replica(), &replicas, clock::monotonic_ms())?;
    carry_out(server, effects);
    drop(failover);
    server.repl.failover_begun.notify_one();
    Ok(())
}

/// Watches over failovers, for ever: their replicas, and their time.
pub(crate) async fn run(server: Arc<Server>) {
    loop {
        let active = server.repl.failover.lock().is_active();
        if active {
            let _ = timeout(Duration::from_millis(ASK_MS), server.repl.acked.notified()).await;
        } else {
            server.repl.failover_begun.notified().await;
        }
        let mut failover = server.repl.failover.lock();
        let end = server.repl.log.lock().log.end();
        let effects = failover.poll(end, &candidates(&server), clock::monotonic_ms());
        carry_out(&server, effects);
    }
}

/// The target answered `PSYNC … FAILOVER`.
pub(super) fn on_answer(server: &Server, accepted: bool) {
    let mut failover = server.repl.failover.lock();
    let effects = failover.on_psync_answer(accepted);
    carry_out(server, effects);
}

fn candidates(server: &Server) -> Vec<Candidate> {
    let candidate = |feed: Arc<super::Attached>| Candidate {
        address: Address { host: feed.ip.clone(), port: feed.port },
        online: feed.state() == FeedState::Online,
        ack_offset: feed.ack_offset(),
    };
    server.repl.feeds().into_iter().map(candidate).collect()
}

/// The machine is locked meanwhile: effects happen in the order in which they were decided.
fn carry_out(server: &Server, effects: Vec<Effect>) {
    for effect in effects {
        match effect {
            Effect::PauseWrites => server.hold_writes(Hold::Failover),
            Effect::ResumeWrites => server.release_writes(Hold::Failover),
            Effect::AskAcks => ask_acks(server),
            Effect::Follow(Address { host, port }) => server.repl.follow(Target::unmanaged(host, port)),
            Effect::BecomeMaster => server.repl.remain_master(),
            Effect::Note(text) => tracing::info!("{text}"),
        }
    }
}

/// What is asked moves the log's end by itself, so it is asked once for each end.
fn ask_acks(server: &Server) {
    let asked = &server.repl.acks_asked;
    let end = server.repl.log.lock().log.end();
    if asked.load(Ordering::Acquire) != end {
        server.repl.append_getack();
        asked.store(server.repl.log.lock().log.end(), Ordering::Release);
    } else {
        server.repl.wake_feeds();
    }
}
