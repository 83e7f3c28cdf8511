//! An edited Secret: the new password comes into force under clients that go on with the old one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use harness::cluster::history::{Operation, Promise};
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, Scene};
use harness::{Conn, wait_for};
use parking_lot::Mutex;

pub(super) const CASES: &[Case] =
    &[Case { name: "secret_rotation", needs: Needs::Namespace, limit: Duration::from_secs(480), run: rotation }];

/// The steps in between must fit into the overlap, also on a machine that is busy.
const SPEC: &str = "{replicas: 2, durability: {writeQuorum: 1}, storage: {size: 64Mi}, \
                    auth: {rotation: {overlapSeconds: 45}}, failover: {downAfterSeconds: 30}}";
const LIMIT: Duration = Duration::from_secs(90);
const NEW: &str = "second-one";
/// What is answered to a wrong password, and to none.
const NO_ENTRY: [&str; 2] = ["WRONGPASS", "NOAUTH"];
/// What a client of the witness notes when AUTH was refused.
const NOT_AUTHENTICATED: &str = "Other";

fn rotation(scene: &Scene<'_>) {
    let store = scene.ready_store("safe", SPEC);
    store.wait_for_members(3);
    let (old, hash) = (store.password(), store.field(".status.auth.appliedSecretHash"));
    let addresses: Vec<SocketAddr> = store.pods().iter().map(|pod| store.pod_address(pod)).collect();
    let all_take = |password: &str| addresses.iter().all(|address| takes(*address, password));
    let none_takes = |password: &str| !addresses.iter().any(|address| takes(*address, password));
    let witness = store.witness();
    let follower = Follower::start(store.service("master"), &old);

    store.kubectl_ok(&["patch", "secret", "safe-auth", "-p", &format!(r#"{{"stringData": {{"password": "{NEW}"}}}}"#)]);
    wait_for("the new password to be in force", LIMIT, || store.field(".status.auth.appliedSecretHash") != hash);
    follower.learn(NEW);
    assert!(all_take(&old) && all_take(NEW), "both are valid");
    assert_eq!(store.condition("CredentialsApplied", "reason"), "Overlap");
    scene.step("both passwords are valid");

    // A container that starts again has the files of before its kubelet has looked at the Secret, or those of after.
    store.signal("safe-replica-0", "-KILL");
    wait_for("the replica to follow again", LIMIT, || {
        let conn = store.conn(store.pod_address("safe-replica-0"));
        conn.is_some_and(|mut conn| conn.info("master_link_status") == "up")
    });
    wait_for("the end of the overlap", LIMIT, || store.condition("CredentialsApplied", "reason") == "Applied");
    wait_for("the old password to be refused", LIMIT, || none_takes(&old));
    assert!(all_take(NEW));
    witness.accepted_after(now_us(), LIMIT);
    store.wait_ready(LIMIT);
    let events = store.events();
    assert!(events.contains("PasswordRotated") && events.contains("PasswordRetired"), "{events}");
    scene.step("the old password is over");

    // No client and no replica was refused for its password.
    scene.step(&follower.finish());
    let operations = witness.operations();
    let is_shut_out = |o: &&Operation| NO_ENTRY.contains(&o.note.as_str()) || o.note == NOT_AUTHENTICATED;
    let shut_out: Vec<_> = operations.iter().filter(is_shut_out).collect();
    assert!(shut_out.is_empty(), "{} clients were shut out; the first: {}", shut_out.len(), shut_out[0]);
    for pod in store.pods() {
        let log = store.kubectl_ok(&["logs", &pod]);
        assert!(!NO_ENTRY.iter().any(|word| log.contains(word)), "{pod} was shut out: {log}");
    }
    store.judge(vec![witness], Promise::Quorum);
}

fn takes(address: SocketAddr, password: &str) -> bool {
    Conn::open_at(address).is_ok_and(|mut conn| conn.text(&format!("AUTH {password}")) == "OK")
}

/// A client that comes anew for every command, with the password that it knows. One that is refused for it is a complaint;
/// what else goes wrong on a busy machine is not.
struct Follower {
    stop: Arc<AtomicBool>,
    known: Arc<Mutex<String>>,
    thread: JoinHandle<(usize, usize, Vec<String>)>,
}

impl Follower {
    fn start(address: SocketAddr, password: &str) -> Follower {
        let (stop, known) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(password.to_string())));
        let (is_over, password) = (Arc::clone(&stop), Arc::clone(&known));
        let thread = spawn(move || {
            let (mut done, mut failed, mut complaints) = (0, 0, Vec::new());
            while !is_over.load(Ordering::Acquire) {
                let password = password.lock().clone();
                match once(address, &password) {
                    Ok(()) => done += 1,
                    Err(text) if NO_ENTRY.iter().any(|word| text.contains(word)) => complaints.push(text),
                    Err(_) => failed += 1,
                }
                sleep(Duration::from_millis(5));
            }
            (done, failed, complaints)
        });
        Follower { stop, known, thread }
    }

    /// It hears of another password.
    fn learn(&self, password: &str) {
        *self.known.lock() = password.to_string();
    }

    fn finish(self) -> String {
        self.stop.store(true, Ordering::Release);
        let (done, failed, complaints) = self.thread.join().expect("the client does not panic");
        assert!(complaints.is_empty(), "{} complaints after {done} commands: {}", complaints.len(), complaints[0]);
        assert!(done > 50, "only {done} commands");
        format!("a client that follows: {done} commands, each over a new connection, {failed} failed otherwise")
    }
}

fn once(address: SocketAddr, password: &str) -> Result<(), String> {
    let mut conn = Conn::open_at(address).map_err(|error| error.to_string())?;
    for command in [["AUTH", password].as_slice(), &["SET", "followed", "yes"]] {
        let answer = conn.try_call(command).map_err(|error| error.to_string())?;
        if answer.as_str() != Some("OK") {
            return Err(answer.to_string());
        }
    }
    Ok(())
}
