//! An edited Secret: the new password comes into force under clients, replicas and operators that use the old one. On a real
//! API server, with real servers as the processes of pods. Their files are written when a pod begins and never renewed, so
//! every container that starts again here starts with the password of the very beginning.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use harness::cluster::pods::{Datastore, NS, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet, until};
use harness::{Conn, wait_for};
use parking_lot::Mutex;

const OVERLAP_S: u64 = 25;

/// Whether an instance takes a password.
fn takes(store: &Datastore<'_>, pod: &str, password: &str) -> bool {
    let address = store.kubelet.address(NS, pod).unwrap();
    Conn::open_at((address, 6379).into()).is_ok_and(|mut conn| conn.text(&format!("AUTH {password}")) == "OK")
}

fn all_take(store: &Datastore<'_>, password: &str) -> bool {
    store.pods().iter().all(|pod| takes(store, pod, password))
}

fn set_password(store: &Datastore<'_>, password: &str) {
    let patch = format!(r#"{{"stringData": {{"password": "{password}"}}}}"#);
    store.api.kubectl_ok(&["patch", "secret", &format!("{}-auth", store.name), "-p", &patch]);
}

/// Two clients of an instance: one that keeps its connection, and one that comes anew for every command, with the password
/// that it knows at the moment. Whatever is not answered with OK is a complaint.
struct Clients {
    stop: Arc<AtomicBool>,
    known: Arc<Mutex<String>>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(store: &Datastore<'_>, pod: &str, password: &str) -> Clients {
        let address = (store.kubelet.address(NS, pod).unwrap(), 6379).into();
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let known = Arc::new(Mutex::new(password.to_string()));
        let mut kept = Conn::open_at(address).unwrap();
        assert_eq!(kept.text(&format!("AUTH {password}")), "OK");
        let run = |mut once: Box<dyn FnMut() -> String + Send>| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut complaints = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let answer = once();
                    if answer != "OK" {
                        complaints.push(answer);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                complaints
            })
        };
        let anew = Arc::clone(&known);
        let threads = vec![
            run(Box::new(move || kept.text("SET kept yes"))),
            run(Box::new(move || {
                let password = anew.lock().clone();
                let Ok(mut conn) = Conn::open_at(address) else { return "no connection".into() };
                let entered = conn.text(&format!("AUTH {password}"));
                if entered == "OK" { conn.text("SET anew yes") } else { entered }
            })),
        ];
        Clients { stop, known, done, threads }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Release);
        let complaints: Vec<String> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(complaints.is_empty(), "{} of {:?}: {:?}", complaints.len(), self.done, complaints.first());
    }
}

#[test]
fn an_edited_secret_is_rotated_without_a_refused_command() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let mut first = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "safe" };
    store.apply(&format!("{{replicas: 2, auth: {{rotation: {{overlapSeconds: {OVERLAP_S}}}}}}}"));
    store.wait_ready();
    let old = store.password();
    let hash = store.field(".status.auth.appliedSecretHash");
    assert!(hash.starts_with("sha256:"), "{hash}");
    assert_eq!(store.condition("CredentialsApplied", "reason"), "Applied");

    // A client that follows the status has no command refused; nor has one that stays with the old password for now.
    let clients = Clients::start(&store, "safe-master-0", &old);
    set_password(&store, "second-password");
    wait_for("the new password to be in force", SOON, || store.field(".status.auth.appliedSecretHash") != hash);
    *clients.known.lock() = "second-password".into();
    assert!(!store.field(".status.auth.previousValidUntil").is_empty());
    wait_for("the overlap to be told", SOON, || store.condition("CredentialsApplied", "reason") == "Overlap");
    assert!(all_take(&store, &old) && all_take(&store, "second-password") && !takes(&store, "safe-master-0", "third"));
    let events = api.kubectl_ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {end}"]);
    assert!(events.contains("PasswordRotated"), "{events}");
    let before = clients.done.load(Ordering::Relaxed);
    wait_for("the clients to go on", SOON, || clients.done.load(Ordering::Relaxed) > before + 200);

    // Links that are made now work, and a container that starts with the old password finds in.
    store.call("safe-master-0", "CLIENT KILL TYPE replica");
    store.call("safe-master-0", "SET after links");
    wait_for("the links to be back", SOON, || store.call("safe-replica-1", "GET after") == "links");
    kubelet.signal(NS, "safe-replica-0", "-9");
    wait_for("the replica to be back", SOON, || {
        store.conn("safe-replica-0").is_some_and(|mut conn| conn.text("GET after") == "links")
    });
    clients.finish();

    // Another operator and another master, both in the overlap.
    first.end("-TERM");
    let second = Operator::start(&api, "operator-b");
    wait_for("the other to lead", SOON, || store.field(".status.record.holder").starts_with("operator-b"));
    kubelet.signal(NS, "safe-master-0", "-9");
    let next = until("another master", SOON, || Some(store.master()).filter(|name| name != "safe-master-0"));
    wait_for("a write", SOON, || store.conn(&next).is_some_and(|mut conn| conn.text("SET over there") == "OK"));
    wait_for("the old master to follow", SOON, || {
        store.conn("safe-master-0").is_some_and(|mut conn| conn.text("GET over") == "there")
    });
    assert_eq!(store.condition("CredentialsApplied", "reason"), "Overlap", "the steps must fit into the overlap");
    assert!(all_take(&store, &old));

    // Its time is over.
    wait_for("the end of the overlap", SOON, || store.condition("CredentialsApplied", "reason") == "Applied");
    assert!(store.field(".status.auth.previousValidUntil").is_empty());
    wait_for("the old password to be refused", SOON, || !store.pods().iter().any(|pod| takes(&store, pod, &old)));
    assert!(all_take(&store, "second-password"));
    kubelet.signal(NS, "safe-replica-1", "-9");
    wait_for("a container that knows only the first password to be taught", SOON, || {
        store.conn("safe-replica-1").is_some_and(|mut conn| conn.text("GET over") == "there")
            && !takes(&store, "safe-replica-1", &old)
    });
    store.wait_ready();

    // Deleted, the Secret comes back with the password that is in force.
    api.kubectl_ok(&["delete", "secret", "safe-auth"]);
    wait_for("the Secret to be back", SOON, || api.kubectl(&["get", "secret", "safe-auth"]).status.success());
    assert_eq!(store.password(), "second-password");

    // No password is where it does not belong.
    let shown =
        [api.kubectl_ok(&["get", "rr,configmaps,statefulsets,pods,events", "-o", "yaml"]), first.log(), second.log()];
    for text in shown {
        assert!(!text.contains("second-password") && !text.contains(&old));
    }
}
