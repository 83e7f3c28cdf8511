//! Local mode end to end: the operator and the server as a person runs them, every bullet of the README's tour.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::local::{LIMIT, Local, NAME, Row, kill, manifest};
use harness::{Conn, program, wait_for};

/// Writes `w:0`, `w:1`, … through the master endpoint until told to stop; remembers what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Written>,
}

struct Written {
    acknowledged: Vec<u64>,
    /// The longest time between two acknowledgements.
    gap: Duration,
    errors: BTreeMap<String, u64>,
}

impl Writer {
    fn start(local: &Local) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (port, password) = (local.master_port, local.password());
        let thread = std::thread::spawn(move || {
            let mut written = Written { acknowledged: Vec::new(), gap: Duration::ZERO, errors: BTreeMap::new() };
            let mut last = Instant::now();
            let mut conn: Option<Conn> = None;
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                let done = (|| {
                    if conn.is_none() {
                        let mut new = Conn::open(port)?;
                        new.try_call(&["AUTH", &password])?;
                        conn = Some(new);
                    }
                    let conn = conn.as_mut().expect("opened above");
                    match conn.try_call(&["SET", &format!("w:{n}"), &n.to_string()])? {
                        error if error.is_error() => Err(std::io::Error::other(error.to_string())),
                        _ => Ok(()),
                    }
                })();
                match done {
                    Ok(()) => {
                        written.acknowledged.push(n);
                        written.gap = written.gap.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(error) => {
                        *written.errors.entry(error.to_string()).or_default() += 1;
                        conn = None;
                    }
                }
                // A few thousand a second are a load, and leave the machine to the datastore.
                std::thread::sleep(Duration::from_micros(200));
            }
            written
        });
        Writer { stop, thread }
    }

    fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer ends")
    }
}

impl Written {
    /// Acknowledged writes that cannot be read through `conn`.
    fn lost(&self, conn: &mut Conn) -> Vec<u64> {
        self.acknowledged.iter().copied().filter(|n| conn.text(&format!("GET w:{n}")) != n.to_string()).collect()
    }
}

fn http_get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the HTTP server listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers with text");
    answer
}

#[test]
fn the_tour_endpoints_password_status_metrics() {
    let local = Local::start(2, "");
    let greeting = local.output();
    let password_file = local.dir().join("auth/password");
    for piece in [
        format!("master endpoint    127.0.0.1:{}", local.master_port),
        format!("replicas endpoint  127.0.0.1:{}", local.replicas_port),
        format!("password           in {}", password_file.display()),
        format!("redis-cli -p {}", local.master_port),
    ] {
        assert!(greeting.contains(&piece), "'{piece}' is missing in\n{greeting}");
    }
    assert_eq!(fs::metadata(&password_file).unwrap().permissions().mode() & 0o777, 0o600);

    let mut client = local.client();
    assert_eq!(client.text("SET greeting hello"), "OK");
    let mut reader = local.conn(local.replicas_port);
    wait_for("the write to reach the replica", LIMIT, || reader.text("GET greeting") == "hello");
    let refused = reader.text("SET greeting other");
    assert!(refused.contains("READONLY You can't write against a read only replica."), "{refused}");
    assert!(Conn::open(local.master_port).unwrap().text("GET greeting").contains("NOAUTH"));

    // Two connections to the replicas endpoint reach two replicas.
    let mut other = local.conn(local.replicas_port);
    assert_ne!(reader.info("run_id"), other.info("run_id"));

    let exposition = http_get(local.metrics_port, "/metrics");
    for series in [
        "replicatedredis_has_master{name=\"shop\",namespace=\"\"} 1",
        "replicatedredis_replicas_ready{name=\"shop\",namespace=\"\"} 2",
    ] {
        assert!(exposition.lines().any(|line| line == series), "{series} is missing in\n{exposition}");
    }
}

#[test]
fn editing_replicas_scales_and_leaves_the_others_alone() {
    let local = Local::start(2, "");
    local.client().text("SET kept 1");
    let before = local.status();
    let writer = Writer::start(&local);

    local.write_manifest(&manifest(4, ""));
    let four = local.wait_well(4);
    local.write_manifest(&manifest(1, ""));
    let one = local.wait_well(1);
    for (name, row) in &before {
        assert_eq!(four[name].pid, row.pid, "{name} was touched by scaling up");
    }
    assert_eq!(one["shop-master-0"].pid, before["shop-master-0"].pid);
    assert_eq!(one["shop-replica-0"].pid, before["shop-replica-0"].pid);

    local.write_manifest(&manifest(0, ""));
    local.wait_well(0);
    local.write_manifest(&manifest(2, ""));
    let again = local.wait_well(2);
    assert_eq!(again["shop-master-0"].pid, before["shop-master-0"].pid);

    let written = writer.finish();
    println!("scaling 2-4-1-0-2: longest gap {:?}", written.gap);
    assert_eq!(written.errors, BTreeMap::new(), "scaling keeps writes waiting for a moment, and refuses none");
    let mut client = local.client();
    assert_eq!(written.lost(&mut client), Vec::<u64>::new());
    assert_eq!(client.text("GET kept"), "1");
    let read = |port: u16| local.conn(port).text("GET kept");
    wait_for("the new replicas to hold it", LIMIT, || {
        local.status().values().filter(|row| row.role == "replica").all(|row| read(row.port) == "1")
    });
}

#[test]
fn a_killed_master_is_replaced_and_comes_back_as_a_replica() {
    let local = Local::start(2, "");
    let mut client = local.client();
    for i in 0..200 {
        client.text(&format!("SET k:{i} {i}"));
    }
    local.wait_well(2);
    let (old, row) = local.master();
    let begun = Instant::now();
    kill("-9", row.pid);
    wait_for("a write to be accepted", LIMIT, || {
        local
            .try_conn(local.master_port)
            .is_ok_and(|mut conn| conn.try_call(&["SET", "after", "1"]).is_ok_and(|v| !v.is_error()))
    });
    let took = begun.elapsed();
    println!("first accepted write {took:?} after kill -9");
    assert!(took < Duration::from_secs(10), "{took:?}");

    // The connection to the old master is gone, it does not hang.
    assert!(client.try_call(&["PING"]).is_err());
    let rows = local.wait_well(2);
    let (new, master) = local.master();
    assert_ne!(new, old);
    assert_eq!(rows[&old].role, "replica");
    let mut client = local.client();
    assert_eq!(client.text("GET k:199"), "199");
    assert_eq!(client.text("GET after"), "1");
    // The other replica went on where it was. (The old master had nothing on its disk: it needs a full resync.)
    assert!(local.count("sync_partial_ok", master.port) >= 1);
    assert!(local.count("sync_full", master.port) <= 1);
    let output = local.output();
    assert!(output.contains(&format!("{old}: was killed (signal 9)")), "{output}");
    assert!(output.contains(&format!("{new}: takes writes, ")), "{output}");
}

/// Nothing closes its connections: its replicas miss its sign of life. It was waited for as long as repl-timeout, a minute.
#[test]
fn a_master_that_hangs_is_replaced_and_comes_back_as_a_replica() {
    let local = Local::start(2, "");
    local.client().text("SET before 1");
    local.wait_well(2);
    let (old, row) = local.master();
    let begun = Instant::now();
    kill("-STOP", row.pid);
    wait_for("a write to be accepted", LIMIT, || {
        local
            .try_conn(local.master_port)
            .is_ok_and(|mut conn| conn.try_call(&["SET", "after", "1"]).is_ok_and(|v| !v.is_error()))
    });
    let took = begun.elapsed();
    println!("first accepted write {took:?} after kill -STOP");
    kill("-CONT", row.pid);
    assert!(took < Duration::from_secs(20), "{took:?}");
    let rows = local.wait_well(2);
    assert_ne!(local.master().0, old);
    assert_eq!(rows[&old].role, "replica");
    assert_eq!(local.client().text("GET before"), "1");
}

#[test]
fn a_killed_replica_resyncs_partially() {
    let local = Local::start(2, "");
    let mut client = local.client();
    for i in 0..100 {
        client.text(&format!("SET k:{i} {i}"));
    }
    local.wait_well(2);
    let (_, master) = local.master();
    let full = local.count("sync_full", master.port);
    let partial = local.count("sync_partial_ok", master.port);
    local.kill_instance("shop-replica-0");
    for i in 100..200 {
        client.text(&format!("SET k:{i} {i}"));
    }
    let rows = local.wait_well(2);
    assert_eq!(local.count("sync_full", master.port), full, "a killed replica must not need a full resync");
    assert!(local.count("sync_partial_ok", master.port) > partial);
    let mut replica = local.conn(rows["shop-replica-0"].port);
    wait_for("all keys", LIMIT, || replica.text("DBSIZE") == "200");
    assert_eq!(replica.text("GET k:150"), "150");
}

#[test]
fn a_switchover_loses_no_write_and_pauses_shortly() {
    let local = Local::start(2, "");
    let writer = Writer::start(&local);
    let mut pauses = Vec::new();
    for to in ["shop-replica-1", "shop-replica-0", "shop-master-0"] {
        local.wait_well(2);
        let output = local.order(&["switchover", NAME, "--to", to]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.starts_with(&format!("{to} is master of epoch ")), "{text}");
        let pause = text.split("paused for ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        pauses.push(pause.unwrap_or_else(|| panic!("no pause in {text}")));
        assert_eq!(local.master().0, to);
    }
    let output = local.order(&["switchover", NAME]);
    assert!(output.status.success());
    assert_ne!(local.master().0, "shop-master-0");
    let written = writer.finish();
    println!(
        "switchovers paused writes for {pauses:?} ms; {} writes, longest gap {:?}, errors {:?}",
        written.acknowledged.len(),
        written.gap,
        written.errors
    );
    assert!(pauses.iter().all(|ms| *ms < 2000), "{pauses:?}");
    assert!(!written.acknowledged.is_empty());
    assert_eq!(written.lost(&mut local.client()), Vec::<u64>::new());
}

#[test]
fn a_switchover_that_cannot_be_is_refused_with_a_sentence() {
    let local = Local::start(1, "");
    let refused = |args: &[&str]| {
        let output = local.order(args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(&["switchover", NAME, "--to", "shop-replica-7"]);
    assert_eq!(text.trim(), "there is no instance 'shop-replica-7'; there are shop-master-0, shop-replica-0");
    let text = refused(&["switchover", "nobody"]);
    assert!(text.starts_with("there is no 'nobody' in "), "{text}");
    let text = refused(&["allow-data-loss", NAME]);
    assert!(text.starts_with("'shop' has a master"), "{text}");
    let output = local.order(&["switchover", NAME, "--to", "shop-master-0"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "shop-master-0 is the master already");
}

/// The oldest accident of Redis replication: a master without persistence restarts empty, and its replicas copy that.
#[test]
fn a_master_that_restarts_empty_wipes_nobody() {
    let local = Local::start(2, "  config:\n    save: \"\"\n");
    let mut client = local.client();
    for i in 0..500 {
        client.text(&format!("SET k:{i} {i}"));
    }
    local.wait_well(2);
    local.kill_instance("shop-master-0");
    let rows = local.wait_well(2);
    assert_eq!(rows["shop-master-0"].role, "replica");
    for (name, row) in &rows {
        assert_eq!(local.conn(row.port).text("DBSIZE"), "500", "{name}");
    }
    // And once more, with what is now the master.
    let (name, _) = local.master();
    local.kill_instance(&name);
    let rows = local.wait_well(2);
    for (name, row) in &rows {
        assert_eq!(local.conn(row.port).text("DBSIZE"), "500", "{name}");
    }
}

#[test]
fn when_everything_is_killed_and_only_replicas_have_data_they_win() {
    let mut local = Local::start(2, "  config:\n    save: \"\"\n");
    let mut client = local.client();
    for i in 0..300 {
        client.text(&format!("SET k:{i} {i}"));
    }
    let rows = local.wait_well(2);
    for (name, row) in rows.iter().filter(|(_, row)| row.role == "replica") {
        assert_eq!(local.conn(row.port).text("SAVE"), "OK", "{name}");
    }
    local.kill_operator();
    for pid in local.processes() {
        kill("-9", pid);
    }
    wait_for("the end of all", LIMIT, || local.processes().is_empty());
    let of_master = fs::read_dir(local.dir().join("shop-master-0")).unwrap().flatten();
    let on_disk: Vec<String> = of_master.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(!on_disk.iter().any(|name| name.ends_with(".rdb")), "the master has saved nothing: {on_disk:?}");

    local.run();
    let rows = local.wait_well(2);
    assert_eq!(rows["shop-master-0"].role, "replica");
    for (name, row) in &rows {
        assert_eq!(local.conn(row.port).text("DBSIZE"), "300", "{name}");
    }
}

#[test]
fn when_nobody_has_data_a_person_decides() {
    let mut local = Local::start(1, "  config:\n    save: \"\"\n");
    local.client().text("SET gone 1");
    local.wait_well(1);
    local.kill_operator();
    for pid in local.processes() {
        kill("-9", pid);
    }
    wait_for("the end of all", LIMIT, || local.processes().is_empty());
    // A replica keeps what it was sent at its first sync; this one has lost its disk.
    for name in ["shop-master-0", "shop-replica-0"] {
        for entry in fs::read_dir(local.dir().join(name)).unwrap().flatten() {
            if entry.file_name() != "redis.conf" {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    local.run();
    wait_for("the reason to be told", LIMIT, || {
        local.try_status().is_some_and(|(head, _)| head.contains("NoMemberHasData"))
    });
    let output = local.order(&["allow-data-loss", NAME]);
    assert!(output.status.success(), "{output:?}");
    local.wait_well(1);
    assert_eq!(local.client().text("GET gone"), "(nil)");
}

#[test]
fn ctrl_c_loses_nothing_and_the_next_start_resumes() {
    let mut local = Local::start(2, "");
    assert!(local.order(&["switchover", NAME, "--to", "shop-replica-1"]).status.success());
    local.wait_well(2);
    let writer = Writer::start(&local);
    let mut client = local.client();
    wait_for("some writes", LIMIT, || client.text("DBSIZE").parse::<u64>().is_ok_and(|keys| keys > 200));
    let epoch = local.epoch();
    local.interrupt();
    let written = writer.finish();
    assert!(local.processes().is_empty(), "no process is left");
    assert!(local.output().trim_end().ends_with(&format!("stopped; the data is in {}", local.dir().display())));

    local.run();
    let rows = local.wait_well(2);
    let (master, row) = local.master();
    assert_eq!(master, "shop-replica-1", "the role stays where it was");
    assert_eq!(local.epoch(), epoch + 1, "one election, for the new processes");
    assert!(written.acknowledged.len() > 100, "{}", written.acknowledged.len());
    assert_eq!(written.lost(&mut local.client()), Vec::<u64>::new());
    assert_eq!(local.count("sync_full", row.port), 0, "replicas go on where they were: {rows:#?}");
}

#[test]
fn an_operator_that_is_killed_is_replaced_without_touching_the_servers() {
    let mut local = Local::start(2, "");
    local.client().text("SET a 1");
    let before = local.wait_well(2);
    local.kill_operator();
    let mut direct = local.conn(before["shop-master-0"].port);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(direct.text("SET b 2"), "OK", "the replicas' leases keep the master going");
    local.run();
    let after = local.wait_well(2);
    for (name, row) in &before {
        assert_eq!((after[name].pid, &after[name].role), (row.pid, &row.role), "{name}");
    }
    assert_eq!(local.client().text("GET b"), "2");
    // It is as able as the one that had started them.
    local.kill_instance("shop-master-0");
    local.wait_well(2);
    assert_ne!(local.master().0, "shop-master-0");
}

#[test]
fn a_broken_edit_is_told_and_changes_nothing() {
    let local = Local::start(1, "");
    let before = local.status();
    local.write_manifest(&manifest(2, "  replicaz: 3\n"));
    wait_for("the refusal", LIMIT, || local.output().contains("unknown field spec.replicaz"));
    local.write_manifest(&manifest(2, "").replace("name: shop", "name: shoe"));
    wait_for("the refusal", LIMIT, || local.output().contains("metadata.name cannot change from 'shop'"));
    fs::remove_file(local.manifest_path()).unwrap();
    wait_for("the refusal", LIMIT, || local.output().contains("cannot read "));
    let pids = |rows: &BTreeMap<String, Row>| rows.iter().map(|(n, r)| (n.clone(), r.pid)).collect::<Vec<_>>();
    assert_eq!(pids(&local.status()), pids(&before));
    local.write_manifest(&manifest(2, ""));
    local.wait_well(2);
}

/// Runs the operator with input that it must refuse, and returns its sentence.
fn refusal(local: &Local, change: impl FnOnce(&mut Command)) -> String {
    let mut command = local.command();
    change(&mut command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the operator starts");
    let output = child.wait_with_output().expect("the operator ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(text.trim().lines().count(), 1, "one sentence: {text}");
    text.trim().to_string()
}

/// R8: a write that only the lost master had is not in the datastore any more, but it is not gone either.
#[test]
fn what_only_the_old_master_had_is_saved_aside() {
    let local = Local::start(1, "");
    local.client().cmd("SET base 1");
    let (old, was) = local.master();
    let (new, replica) = local.status().into_iter().find(|(name, _)| *name != old).unwrap();
    // Cut off without anything in a socket's buffer.
    kill("-STOP", replica.pid);
    let mut conn = local.conn(was.port);
    conn.cmd("CLIENT KILL TYPE replica");
    assert_eq!(conn.text("SET tail only-here"), "OK");
    kill("-STOP", was.pid);
    kill("-CONT", replica.pid);
    wait_for("the failover", LIMIT, || local.try_status().is_some_and(|(_, rows)| rows[&new].role == "master"));
    wait_for("a write", LIMIT, || local.try_conn(local.master_port).is_ok_and(|mut c| c.text("SET base 2") == "OK"));
    kill("-CONT", was.pid);
    local.wait_well(1);
    let mut conn = local.conn(was.port);
    assert_eq!((conn.text("GET base").as_str(), conn.text("EXISTS tail").as_str()), ("2", "0"));
    let saved = fs::read(local.dir().join(&old).join("divergent-1.log")).expect("the tail was saved");
    let saved = String::from_utf8_lossy(&saved);
    assert!(saved.contains("only-here") && !saved.contains("base"), "{saved}");
    assert_ne!(conn.info("divergent_bytes_saved"), "");
}

#[test]
fn bad_input_is_refused_with_a_sentence_that_names_it() {
    let local = Local::prepare();
    let says = |text: &str, pieces: &[&str]| {
        for piece in pieces {
            assert!(text.contains(piece), "'{piece}' is missing in: {text}");
        }
    };
    says(&refusal(&local, |_| {}), &["cannot read the manifest", "manifest.yaml"]);
    let with = |manifest: &str| {
        local.write_manifest(manifest);
        refusal(&local, |_| {})
    };
    says(&with("kind: ["), &["manifest.yaml: not a YAML document"]);
    says(&with(&manifest(2, "  replicaz: 2\n")), &["manifest.yaml", "unknown field spec.replicaz"]);
    says(&with(&manifest(-1, "")), &["spec.replicas is -1"]);
    says(&with(&manifest(2, "").replace("replicas: 2", "replicas: two")), &["spec.replicas", "invalid type"]);
    says(&with(&manifest(2, "  config:\n    port: \"1\"\n")), &["spec.config: 'port' is set by the operator"]);

    local.write_manifest(&manifest(0, ""));
    let squatter = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = squatter.local_addr().unwrap().port();
    for (flag, place) in [("--master-port", 0), ("--replicas-port", 1), ("--metrics-port", 2)] {
        let mut ports = [local.master_port, local.replicas_port, local.metrics_port];
        ports[place] = taken;
        let mut command = Command::new(program("replicated-redis-operator"));
        command.arg("local").arg("-f").arg(local.manifest_path()).arg("--data-dir").arg(local.data_dir());
        for (flag, port) in ["--master-port", "--replicas-port", "--metrics-port"].into_iter().zip(ports) {
            command.args([flag, &port.to_string()]);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        says(&String::from_utf8_lossy(&output.stderr), &[&format!("port {taken} of 127.0.0.1 is taken"), flag]);
    }
    let missing = refusal(&local, |command| {
        command.args(["--server-binary", "/nowhere/server"]);
    });
    says(&missing, &["the server's program /nowhere/server is not there"]);

    // A folder below a file cannot be made, whoever asks.
    let mut unwritable = Command::new(program("replicated-redis-operator"));
    unwritable.arg("local").arg("-f").arg(local.manifest_path()).arg("--data-dir");
    unwritable.arg(local.manifest_path()).args(["--master-port", &local.master_port.to_string()]);
    let output = unwritable.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    says(&String::from_utf8_lossy(&output.stderr), &["cannot write to the data folder", "manifest.yaml/shop"]);
}

#[test]
fn a_second_operator_on_the_same_folder_is_refused() {
    let local = Local::start(0, "");
    let first = local.operator.as_ref().map(Child::id).unwrap();
    let text = refusal(&local, |_| {});
    assert!(text.starts_with(&format!("another operator (process {first}) already runs 'shop' in ")), "{text}");
    assert_eq!(local.client().text("PING"), "PONG");
}

#[test]
fn a_directive_that_the_server_refuses_is_told_with_the_servers_words() {
    let mut local = Local::prepare();
    local.write_manifest(&manifest(0, "  config:\n    no-such-directive: \"1\"\n"));
    local.run();
    let words = "exited with code 1 (Reading the configuration file, at line 3 >>> 'no-such-directive 1' Bad directive";
    wait_for("the server's words", LIMIT, || local.output().contains(words));
}
