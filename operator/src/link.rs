//! The conversation with one instance: a connection that is kept, asked for its status at a steady pace, and used for one
//! order at a time.
//!
//! A task owns the connection, so an instance that hangs delays nobody but itself. What it says is published as a
//! [`Sighting`], together with the number of the life that said it: because an answer counts only if the same life ran
//! before the connection was made and after the answer came, a sighting's incarnation belongs to that life, and when the
//! provider has seen the end of that life the incarnation is known to have ended (rule R5).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, ClientError, Fields};
use crate::fault::Act;
use crate::observe::Status;
use crate::passwords::Passwords;
use crate::plan::Order;

/// Between two questions to an instance that is well, in quiet times.
pub const POLL_QUIET: Duration = Duration::from_millis(200);
/// The same while a role is changing hands.
pub const POLL_BUSY: Duration = Duration::from_millis(10);
/// Between two attempts to connect to a process that is starting.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// A server that is well answers within a millisecond; one that takes longer than this counts as silent.
const REPLY_TIMEOUT: Duration = Duration::from_millis(1000);

/// What became of an order.
#[derive(Debug)]
pub struct Outcome {
    pub instance: String,
    pub order: Order,
    pub result: Result<(), ClientError>,
    pub sent: Instant,
    pub answered: Instant,
}

/// The last answer of an instance.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The life that gave it.
    pub life: u64,
    /// The question was sent at this moment, so what the answer says was true at some moment after it.
    pub asked: Instant,
    pub answered: Instant,
    pub status: Status,
}

/// The last answer, and why there is none newer.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub last: Option<Sighting>,
    /// Number of the credentials that it was last told, over the present connection.
    pub told: Option<u64>,
    /// Set while the instance does not answer.
    pub trouble: Option<Trouble>,
}

/// Why an instance does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When the first question was asked that got no answer.
    pub since: Instant,
    pub why: String,
    /// Nobody listens at its address, as its node says.
    pub refused: bool,
}

/// What a provider knows of an instance's process: which of its lives runs now.
pub trait Lives: Send + Sync + 'static {
    /// The number of the life that is running, if one is.
    fn running(&self) -> Option<u64>;
}

/// Where and how to talk to an instance.
#[derive(Debug, Clone)]
pub struct Peer {
    pub instance: String,
    pub address: String,
    pub credentials: watch::Receiver<Credentials>,
}

/// How to get in, and what the instance is to be told about it.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Grows with every change.
    pub number: u64,
    /// `None`: there is no password.
    pub passwords: Option<Passwords>,
    /// The instance is told which passwords to accept and which to come with.
    pub is_told: bool,
}

impl Credentials {
    /// One password that never changes.
    pub fn fixed(password: &str) -> watch::Receiver<Credentials> {
        let passwords = Some(Passwords::first(password, String::new()));
        watch::channel(Credentials { number: 0, passwords, is_told: false }).1
    }
}

/// The owner of the conversation. Dropping it closes the connection.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::Sender<Order>,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Begins to ask. `changed` is notified after every answer and every failure; `pace` is the present poll interval.
    pub fn start<P: Lives>(
        peer: Peer,
        process: watch::Receiver<P>,
        pace: watch::Receiver<Duration>,
        outcomes: mpsc::Sender<Outcome>,
        changed: Arc<Notify>,
    ) -> Link {
        let (orders, inbox) = mpsc::channel(1);
        let (publish, seen) = watch::channel(Seen::default());
        let talk = Talk { peer, process, pace, inbox, outcomes, publish, changed };
        Link { orders, seen, task: tokio::spawn(talk.run()) }
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Hands over an order, unless the one before it is still waiting to be sent.
    pub fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }
}

/// The order that is on its way to an instance. There is at most one, and it counts as on its way until the instance has
/// been looked at again after the answer: before that the planner sees it as it was.
#[derive(Debug, Default)]
pub struct InFlight(Option<Way>);

#[derive(Debug)]
struct Way {
    answered: Option<Instant>,
}

impl InFlight {
    /// Sends an order unless one is still on its way.
    pub fn send(&mut self, link: &Link, order: Order) -> bool {
        let free = self.0.is_none() && link.order(order);
        if free {
            self.0 = Some(Way { answered: None });
        }
        free
    }

    pub fn on_outcome(&mut self, outcome: &Outcome) {
        self.0 = match (&outcome.order, &outcome.result) {
            // The answer to a promise is itself a look.
            (Order::Promise { .. }, Ok(())) => None,
            _ => Some(Way { answered: Some(outcome.answered) }),
        }
    }

    /// Takes note of what was last seen of the instance. `is_running`: it has a process that could answer.
    pub fn on_seen(&mut self, seen: &Seen, is_running: bool) {
        let looked_at_since = |answered: Instant| {
            seen.trouble.is_some() || seen.last.as_ref().is_some_and(|sighting| sighting.asked >= answered)
        };
        let is_done = |way: &Way| way.answered.is_some_and(looked_at_since);
        if !is_running || self.0.as_ref().is_some_and(is_done) {
            self.0 = None;
        }
    }
}

struct Talk<P> {
    peer: Peer,
    process: watch::Receiver<P>,
    pace: watch::Receiver<Duration>,
    inbox: mpsc::Receiver<Order>,
    outcomes: mpsc::Sender<Outcome>,
    publish: watch::Sender<Seen>,
    changed: Arc<Notify>,
}

impl<P: Lives> Talk<P> {
    async fn run(mut self) {
        loop {
            let Ok(life) = self.process.wait_for(|p| p.running().is_some()).await.map(|p| p.running().unwrap_or(0))
            else {
                return;
            };
            let mut asked = Instant::now();
            let Some(error) = self.with_life(life, &mut asked).await else { return };
            self.publish_trouble(Trouble { since: asked, why: error.to_string(), refused: error.nobody_listens() });
            sleep(CONNECT_PAUSE).await;
        }
    }

    /// Talks until something breaks; `None` when nobody listens any more. `asked` is when the last question was sent.
    async fn with_life(&mut self, life: u64, asked: &mut Instant) -> Option<ClientError> {
        let mut client = match self.enter().await {
            Ok(client) => client,
            Err(error) => return Some(error),
        };
        let mut told = None;
        loop {
            if let Err(error) = self.tell_credentials(&mut client, &mut told).await {
                return Some(error);
            }
            *asked = Instant::now();
            let answer = client.status().await.and_then(|fields| self.sighting(life, *asked, &fields));
            match answer {
                Ok(sighting) => self.publish_sighting(sighting),
                Err(error) => return Some(error),
            }

            // One order or the passing of time, then the next question: after an order it shows what came of it.
            let next_question = *asked + *self.pace.borrow_and_update();
            tokio::select! {
                order = self.inbox.recv() => {
                    if let Err(error) = self.carry_out(&mut client, life, order?).await {
                        return Some(error);
                    }
                }
                () = sleep_until(next_question) => {}
                // Not a matter of the next question: a master that has gone is missed at once.
                () = client.ended() => return Some(ClientError::Io(std::io::ErrorKind::UnexpectedEof.into())),
                _ = self.pace.changed() => {}
                // One that has no owner any more never changes.
                Ok(()) = self.peer.credentials.changed() => {}
                // The end of the process; the connection is useless whatever it was.
                changed = self.process.changed() => {
                    changed.ok()?;
                    if !self.is_alive(life) {
                        return Some(ClientError::Protocol("its process has ended".to_string()));
                    }
                }
            }
        }
    }

    /// Connects with the first password that is taken.
    async fn enter(&mut self) -> Result<Client, ClientError> {
        self.publish.send_modify(|seen| seen.told = None);
        let passwords = self.peer.credentials.borrow_and_update().passwords.clone();
        let mut client = Client::connect(&self.peer.address, None, REPLY_TIMEOUT).await?;
        let Some(passwords) = passwords else { return Ok(client) };
        let mut refused = None;
        for password in passwords.tried() {
            match client.call(&["AUTH", password]).await {
                Ok(_) => return Ok(client),
                Err(error) if error.code() == Some("WRONGPASS") => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(client), Err)
    }

    /// Tells the instance which passwords to accept and which to come with, unless `told` says that it was: over this connection,
    /// by their number. One that refuses is asked again when they change or the connection does.
    async fn tell_credentials(&mut self, client: &mut Client, told: &mut Option<u64>) -> Result<(), ClientError> {
        if *told == Some(self.peer.credentials.borrow_and_update().number) {
            return Ok(());
        }
        let credentials = self.peer.credentials.borrow_and_update().clone();
        *told = Some(credentials.number);
        let Some(passwords) = credentials.passwords.filter(|_| credentials.is_told) else { return Ok(()) };
        let rules: Vec<String> = passwords.accepted().iter().map(|password| format!(">{password}")).collect();
        let mut user = vec!["ACL", "SETUSER", "default", "on", "resetpass"];
        user.extend(rules.iter().map(String::as_str));
        for command in [user, vec!["CONFIG", "SET", "masterauth", &passwords.used]] {
            match Act::TellPassword.around(client.call(&command)).await {
                Ok(_) => {}
                Err(error) if error.keeps_connection() => {
                    tracing::warn!("{} does not take its passwords: {error}", self.peer.instance);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.publish.send_modify(|seen| seen.told = Some(credentials.number));
        self.changed.notify_one();
        Ok(())
    }

    /// Sends the order and reports its outcome. An error means that the connection is of no use any more.
    async fn carry_out(&mut self, client: &mut Client, life: u64, order: Order) -> Result<(), ClientError> {
        let sent = Instant::now();
        let doing = self.order(client, life, sent, &order);
        let result = match Act::of(&order) {
            Some(act) => act.around(doing).await,
            None => doing.await,
        };
        let broken = result.as_ref().err().filter(|error| !error.keeps_connection()).map(ToString::to_string);
        let instance = self.peer.instance.clone();
        // The listener goes away only with the operator.
        let _ = self.outcomes.send(Outcome { instance, order, result, sent, answered: Instant::now() }).await;
        broken.map_or(Ok(()), |why| Err(ClientError::Protocol(why)))
    }

    async fn order(&self, client: &mut Client, life: u64, sent: Instant, order: &Order) -> Result<(), ClientError> {
        match order {
            // Published as it is: the promise and what was true at its moment belong together (rule R2).
            Order::Promise { epoch } => client
                .promise(*epoch)
                .await
                .and_then(|fields| self.sighting(life, sent, &fields))
                .map(|sighting| self.publish_sighting(sighting)),
            Order::Promote { epoch, incarnation, write_quorum, volumes } => {
                client.promote(*epoch, incarnation, *write_quorum, volumes).await
            }
            Order::Lease { epoch, incarnation, duration_ms, token } => {
                client.lease(*epoch, incarnation, *duration_ms, *token).await.map(drop)
            }
            Order::Follow { host, port, epoch } => client.follow(host, *port, *epoch).await,
            Order::FollowExternal { host, port, epoch, password } => {
                client.follow_external(host, *port, *epoch, password.as_ref().map(|p| p.0.as_str())).await
            }
            Order::Handover { epoch, timeout_ms } => client.handover(*epoch, *timeout_ms).await.map(drop),
            Order::AcceptMaster => client.accept_master().await,
            Order::Await => client.await_role().await,
        }
    }

    fn is_alive(&self, life: u64) -> bool {
        self.process.borrow().running() == Some(life)
    }

    /// An answer, if the life that was asked is still the present one.
    fn sighting(&self, life: u64, asked: Instant, fields: &Fields) -> Result<Sighting, ClientError> {
        if !self.is_alive(life) {
            return Err(ClientError::Protocol("its process has ended".to_string()));
        }
        let status = Status::from_fields(|name| fields.get(name)).map_err(ClientError::Protocol)?;
        Ok(Sighting { life, asked, answered: Instant::now(), status })
    }

    fn publish_sighting(&self, sighting: Sighting) {
        self.publish.send_modify(|seen| {
            seen.last = Some(sighting);
            seen.trouble = None;
        });
        self.changed.notify_one();
    }

    fn publish_trouble(&self, trouble: Trouble) {
        let is_news = self.publish.send_if_modified(|seen| match &mut seen.trouble {
            Some(known) => {
                let is_news = known.why != trouble.why;
                known.why = trouble.why;
                known.refused = trouble.refused;
                is_news
            }
            None => {
                seen.trouble = Some(trouble);
                true
            }
        });
        if is_news {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::local::supervisor::{Process, ProcessState};

    const SOON: Duration = Duration::from_secs(20);

    /// A whole status whose offset is `n`.
    fn status_reply(n: u64) -> String {
        let fields = format!(
            "incarnation 00 started_unix_ms 1 volume 11 promised 1 role replica role_epoch 1 history_epoch 1 offset {n} complete 1 \
             has_data 1 loading 0 syncing 0 writable 0 lease_left_ms 0 grant_left_ms 0 master_port 1 master_host h \
             link up caught_up 1 sync_refused - paused 0 token 5"
        );
        let words: Vec<&str> = fields.split_whitespace().collect();
        let mut out = Vec::new();
        resp::encode_command(&mut out, &words);
        String::from_utf8(out).unwrap()
    }

    /// Answers every STATUS with its running number and every other command with what `other` says.
    async fn answering(other: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut n = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut pending = Vec::new();
                while stream.read_buf(&mut pending).await.unwrap_or(0) > 0 {
                    // A request is an array of bulk strings, so the decoder of replies reads it.
                    let Some((request, _)) = resp::decode_reply(&pending).unwrap() else { continue };
                    let reply = if request.to_string().contains("STATUS") {
                        n += 1;
                        status_reply(n)
                    } else {
                        other.to_string()
                    };
                    pending.clear();
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            }
        });
        address
    }

    struct Bench {
        process: watch::Sender<Process>,
        pace: watch::Sender<Duration>,
        outcomes: mpsc::Receiver<Outcome>,
        changed: Arc<Notify>,
        link: Link,
    }

    fn bench(address: String) -> Bench {
        bench_with(address, watch::channel(Credentials::default()).1)
    }

    fn bench_with(address: String, credentials: watch::Receiver<Credentials>) -> Bench {
        let (process, process_seen) = watch::channel(Process { life: 1, state: ProcessState::Running { pid: 1 } });
        let (pace, pace_seen) = watch::channel(Duration::from_secs(3600));
        let (outcomes_in, outcomes) = mpsc::channel(8);
        let changed = Arc::new(Notify::new());
        let peer = Peer { instance: "x-master-0".to_string(), address, credentials };
        let link = Link::start(peer, process_seen, pace_seen, outcomes_in, Arc::clone(&changed));
        Bench { process, pace, outcomes, changed, link }
    }

    impl Bench {
        async fn until(&self, what: impl Fn(&Seen) -> bool) -> Seen {
            timeout(SOON, async {
                loop {
                    let seen = self.link.seen();
                    if what(&seen) {
                        return seen;
                    }
                    self.changed.notified().await;
                }
            })
            .await
            .expect("seen in time")
        }
    }

    /// Takes the password `old` and no other, and keeps a note of everything it is told.
    async fn guarded(notes: Arc<parking_lot::Mutex<Vec<String>>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut pending = Vec::new();
            while stream.read_buf(&mut pending).await.unwrap_or(0) > 0 {
                let Some((request, _)) = resp::decode_reply(&pending).unwrap() else { continue };
                let words: Vec<String> =
                    request.as_list().unwrap().iter().map(|word| word.as_str().unwrap().to_string()).collect();
                let line = words.join(" ");
                let reply = match line.as_str() {
                    "REPLICATED STATUS" => status_reply(1),
                    "AUTH old" => "+OK\r\n".into(),
                    _ if line.starts_with("AUTH") => "-WRONGPASS invalid\r\n".into(),
                    _ => "+OK\r\n".to_string(),
                };
                notes.lock().push(line);
                pending.clear();
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn an_instance_with_an_old_password_is_let_in_and_told_before_it_is_asked() {
        let notes = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (state, _) = Passwords::first("old", String::new()).step("new", true, 300, 0).unwrap();
        let (state, _) = state.step("new", true, 300, 0).unwrap();
        let credentials = Credentials { number: 7, passwords: Some(state), is_told: true };
        let (change, credentials) = watch::channel(credentials);
        let bench = bench_with(guarded(Arc::clone(&notes)).await, credentials);
        bench.until(|seen| seen.told == Some(7) && seen.last.is_some()).await;
        let first = [
            "AUTH new",
            "AUTH old",
            "ACL SETUSER default on resetpass >new >old",
            "CONFIG SET masterauth new",
            "REPLICATED STATUS",
        ];
        assert_eq!(*notes.lock(), first);
        change.send_modify(|credentials| {
            credentials.number = 8;
            credentials.passwords = Some(Passwords::first("new", String::new()));
        });
        // The pace is an hour: the change itself is the reason.
        bench.until(|seen| seen.told == Some(8)).await;
        assert_eq!(notes.lock()[5..7], ["ACL SETUSER default on resetpass >new", "CONFIG SET masterauth new"]);
    }

    fn number(seen: &Seen) -> u64 {
        seen.last.as_ref().map_or(0, |s| s.status.offset)
    }

    #[tokio::test]
    async fn an_order_is_followed_by_a_question() {
        let mut bench = bench(answering("+OK\r\n").await);
        bench.until(|seen| number(seen) == 1).await;
        // The pace is an hour: only the order can cause the second question.
        assert!(bench.link.order(Order::Follow { host: "127.0.0.1".to_string(), port: 7000, epoch: 3 }));
        let outcome = timeout(SOON, bench.outcomes.recv()).await.unwrap().unwrap();
        assert!(outcome.result.is_ok(), "{outcome:?}");
        bench.until(|seen| number(seen) == 2).await;
    }

    #[tokio::test]
    async fn a_refused_order_keeps_the_conversation() {
        let mut bench = bench(answering("-STALEEPOCH 9 promised more\r\n").await);
        bench.until(|seen| number(seen) == 1).await;
        assert!(bench.link.order(Order::Promise { epoch: 3 }));
        let outcome = timeout(SOON, bench.outcomes.recv()).await.unwrap().unwrap();
        assert_eq!(outcome.result.unwrap_err().code(), Some("STALEEPOCH"));
        let seen = bench.until(|seen| number(seen) == 2).await;
        assert!(seen.trouble.is_none());
    }

    #[tokio::test]
    async fn a_changed_pace_asks_at_once() {
        let bench = bench(answering("+OK\r\n").await);
        bench.until(|seen| number(seen) == 1).await;
        bench.pace.send_replace(POLL_BUSY);
        bench.until(|seen| number(seen) >= 5).await;
    }

    #[tokio::test]
    async fn sightings_carry_the_life_that_gave_them() {
        let bench = bench(answering("+OK\r\n").await);
        let seen = bench.until(|seen| number(seen) == 1).await;
        assert_eq!(seen.last.unwrap().life, 1);
        bench.process.send_replace(Process { life: 1, state: ProcessState::Resting });
        bench.until(|seen| seen.trouble.is_some()).await;
        bench.process.send_replace(Process { life: 2, state: ProcessState::Running { pid: 2 } });
        bench.until(|seen| seen.trouble.is_none() && seen.last.as_ref().is_some_and(|s| s.life == 2)).await;
    }

    #[tokio::test]
    async fn nobody_there_is_trouble_not_an_end() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let bench = bench(free.to_string());
        bench.until(|seen| seen.trouble.is_some()).await;
        let listener = TcpListener::bind(free).await.unwrap();
        let (mut stream, _) = timeout(SOON, listener.accept()).await.expect("it tries again").unwrap();
        stream.write_all(status_reply(7).as_bytes()).await.unwrap();
        bench.until(|seen| number(seen) == 7 && seen.trouble.is_none()).await;
    }
}
