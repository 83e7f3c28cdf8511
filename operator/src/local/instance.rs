//! One instance as the session holds it: process, conversation, and what was learnt from both.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::ports::InstancePorts;
use super::screen::Row;
use super::supervisor::{Launch, Process, ProcessEvent, Supervisor};
use crate::clock::Clock;
use crate::link::{Credentials, InFlight, Link, Outcome, Peer, Seen};
use crate::observe::{Instance, Role, Status};
use crate::plan::Order;

/// Where all instances listen.
pub const HOST: &str = "127.0.0.1";

/// What an instance's parts report to.
#[derive(Debug, Clone)]
pub struct Reports {
    pub process_events: mpsc::Sender<(String, ProcessEvent)>,
    pub outcomes: mpsc::Sender<Outcome>,
    pub changed: Arc<Notify>,
    pub pace: watch::Receiver<Duration>,
}

/// A supervised process and the conversation with it.
#[derive(Debug)]
pub struct LocalInstance {
    pub ports: InstancePorts,
    supervisor: Supervisor,
    process: watch::Receiver<Process>,
    link: Link,
    /// Incarnations that answered, with the life in which they did.
    incarnations: Vec<(u64, String)>,
    in_flight: InFlight,
    /// When the last life ended.
    pub ended_at: Option<Instant>,
}

impl LocalInstance {
    /// Starts the instance, or takes over its running process.
    pub fn start(name: &str, launch: Launch, ports: InstancePorts, password: &str, reports: &Reports) -> LocalInstance {
        let supervisor = Supervisor::start(name, launch, reports.process_events.clone());
        let process = supervisor.process();
        let peer = Peer {
            instance: name.to_string(),
            address: format!("{HOST}:{}", ports.port),
            credentials: Credentials::fixed(password),
        };
        let link = Link::start(
            peer,
            process.clone(),
            reports.pace.clone(),
            reports.outcomes.clone(),
            Arc::clone(&reports.changed),
        );
        LocalInstance {
            ports,
            supervisor,
            process,
            link,
            incarnations: Vec::new(),
            in_flight: InFlight::default(),
            ended_at: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.port))
    }

    pub fn process(&self) -> Process {
        self.process.borrow().clone()
    }

    /// Ends the process in order.
    pub async fn stop(self, grace: Duration) {
        drop(self.link);
        self.supervisor.stop(grace).await;
    }

    /// Sends an order unless one is still on its way.
    pub fn order(&mut self, order: Order) -> bool {
        self.in_flight.send(&self.link, order)
    }

    pub fn on_outcome(&mut self, outcome: &Outcome) {
        self.in_flight.on_outcome(outcome);
    }

    /// The last answer of the present life.
    pub fn status(&self) -> Option<Status> {
        self.look().1.last.map(|sighting| sighting.status)
    }

    /// The present process and what it has said; what a former life said is left out.
    fn look(&self) -> (Process, Seen) {
        let process = self.process();
        let mut seen = self.link.seen();
        seen.last = seen.last.filter(|sighting| process.is_running() && sighting.life == process.life);
        (process, seen)
    }

    /// Whether there is a process now.
    pub fn has_process(&self) -> bool {
        self.process.borrow().is_running()
    }

    /// Collects what is seen, and which incarnations are known to have ended (rule R5): those of lives that were reaped.
    pub fn observe(&mut self, clock: &Clock, ended: &mut BTreeSet<String>) -> Instance {
        let (process, seen) = self.look();
        if let Some(sighting) = &seen.last {
            let known = (sighting.life, sighting.status.incarnation.clone());
            if !self.incarnations.contains(&known) {
                self.incarnations.push(known);
            }
        }
        let lives_now = |life: u64| process.is_running() && life == process.life;
        for (life, incarnation) in &self.incarnations {
            if !lives_now(*life) {
                ended.insert(incarnation.clone());
            }
        }
        self.incarnations.retain(|(life, _)| lives_now(*life));

        self.in_flight.on_seen(&seen, process.is_running());

        Instance {
            // One that is about to have its first process counts as running: an election waits for it.
            running: process.is_running() || process.life == 0,
            leaving: false,
            // The end of a process is known here.
            refuses: false,
            host: HOST.to_string(),
            port: self.ports.port,
            status_ms: seen.last.as_ref().map_or(0, |sighting| clock.at(sighting.asked)),
            answered_ms: seen.last.as_ref().map_or(0, |sighting| clock.at(sighting.answered)),
            silent_since_ms: seen
                .trouble
                .filter(|_| process.is_running() && seen.last.is_some())
                .map(|trouble| clock.at(trouble.since)),
            status: seen.last.map(|sighting| sighting.status),
        }
    }

    /// The instance's line of the table. `master_offset` is the end of the master's history.
    pub fn row(&self, name: &str, master_offset: Option<u64>) -> Row {
        let (process, seen) = self.look();
        let mut row = Row {
            name: name.to_string(),
            role: "down".to_string(),
            link: "-".to_string(),
            offset: None,
            lag: None,
            port: Some(self.ports.port),
            pid: process.pid(),
            note: String::new(),
        };
        let Some(sighting) = seen.last else {
            if process.is_running() {
                row.role = "starting".to_string();
            }
            return row;
        };
        let status = sighting.status;
        row.offset = Some(status.offset);
        row.role = match status.role {
            _ if seen.trouble.is_some() => "silent",
            _ if status.loading => "loading",
            Role::Awaiting => "awaiting",
            Role::Master => "master",
            Role::Replica => "replica",
        }
        .to_string();
        match status.role {
            Role::Replica => {
                row.link = if status.syncing {
                    "syncing"
                } else if status.link_up {
                    "up"
                } else {
                    "down"
                }
                .to_string();
                row.lag = master_offset.map(|end| end.saturating_sub(status.offset));
            }
            Role::Master if status.paused => row.note = "writes are paused".to_string(),
            Role::Master if !status.writable => row.note = "takes no writes: it has no lease".to_string(),
            Role::Master if status.save_stops_writes => {
                row.note = "takes no writes: its last save failed".to_string();
            }
            Role::Awaiting | Role::Master => {}
        }
        if !status.sync_refused.is_empty() {
            row.note = format!("full resync refused: {}", status.sync_refused);
        }
        row
    }
}
