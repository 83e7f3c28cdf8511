use super::announce::NOT_INTEGER;
use super::*;
use crate::{Durable, Role};
use resp::OwnedArgs;

const LIMITS: FeedLimits =
    FeedLimits { timeout_ms: 60_000, hard_bytes: 0, soft_bytes: 1000, soft_ms: 5000, backlog_bytes: 0 };

fn args(line: &str) -> OwnedArgs {
    let mut args = OwnedArgs::default();
    line.split(' ').filter(|word| !word.is_empty()).for_each(|word| args.push(word.as_bytes()));
    args
}

fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

fn send(text: &str) -> Output {
    Output::Send(text.as_bytes().to_vec())
}

/// The texts are those of Redis 7.0.15.
#[test]
fn replconf_is_answered_as_redis_answers_it() {
    let mut history = History::new(id(1));
    history.shift(id(2), 40);
    let check = |line: &str, want: &str| {
        let got = match Announced::default().replconf(args(line).as_args(), &history, 100) {
            Replconf::Simple(text) => format!("+{text}"),
            Replconf::Error(text) => format!("-{text}"),
            Replconf::Nothing => String::new(),
        };
        assert_eq!(got, want, "REPLCONF {line}");
    };
    check("", "+OK");
    check("a", "-ERR syntax error");
    check("listening-port", "-ERR syntax error");
    check("listening-port 7000 ip-address 10.0.0.1", "+OK");
    check("listening-port 70000", "+OK");
    check("listening-port x", "-ERR value is not an integer or out of range");
    check("capa foo", "+OK");
    check("CAPA eof capa PSYNC2", "+OK");
    check("version 8.0.0", "+OK");
    check("rdb-only 2", "-ERR value is out of range, value must between 0 and 1");
    check("foo bar", "-ERR Unrecognized REPLCONF option: foo");
    check("ack 5", "");
    check("getack *", "");
    check("rr-epoch 7 rr-volume 00000000000000ab", &format!("+OK 100 {} 40", id(1)));
    check("rdb-filter-only functions", "+OK");
    check("rdb-filter-only keys", "-ERR Unsupported rdb-filter-only option: keys");
    check("rr-epoch x", "-ERR value is not an integer or out of range");
    check("rr-volume 5", "-ERR a volume is sixteen hexadecimal digits");
    let long = "a".repeat(300);
    check(
        &format!("ip-address {long}"),
        "-ERR REPLCONF ip-address provided by replica instance is too long: 300 bytes",
    );
}

fn announced(line: &str) -> Announced {
    let mut announced = Announced::default();
    assert!(matches!(announced.replconf(args(line).as_args(), &History::new(id(1)), 0), Replconf::Simple(_)), "{line}");
    announced
}

#[test]
fn what_a_replica_announces_is_remembered() {
    let got = announced("listening-port 7000 ip-address h capa eof capa psync2 rr-epoch 3 rr-volume 00000000000000ab");
    assert_eq!((got.port, got.ip.as_deref(), got.eof, got.psync2), (7000, Some("h"), true, true));
    assert_eq!((got.epoch, got.volume, got.rdb_only), (Some(3), Some(0xAB), false));
}

#[test]
fn asks_are_read() {
    let ask = |line: &str| Ask::parse(args(line).as_args());
    assert_eq!(ask("SYNC"), Ok(Ask::Sync));
    assert_eq!(ask("PSYNC ? -1"), Ok(Ask::Psync { id: b"?".to_vec(), next: -1, failover: false }));
    assert_eq!(ask("psync a 7 FAILOVER"), Ok(Ask::Psync { id: b"a".to_vec(), next: 7, failover: true }));
    assert_eq!(ask("PSYNC a"), Err("ERR wrong number of arguments for 'psync' command"));
    assert_eq!(ask("PSYNC a x"), Err(NOT_INTEGER));
}

#[test]
fn r1_a_managed_replica_is_served_by_the_master_of_its_epoch_only() {
    let mut role = Role::new(Durable { volume: 1, ..Durable::default() }, 7, 2000, 0);
    let managed = |role: &Role, line: &str| Serving::Managed { role, link_up: true }.check(&announced(line));
    assert_eq!(managed(&role, ""), Err(NotServed::NotMaster(0)), "awaiting");
    role.promise(2).unwrap();
    role.promote(2, 7, 0, vec![1], None).unwrap();
    assert_eq!(managed(&role, "rr-epoch 2"), Ok(()));
    assert_eq!(managed(&role, "rr-epoch 1"), Err(NotServed::NotMaster(2)));
    assert_eq!(managed(&role, "rr-epoch 3"), Err(NotServed::NotMaster(2)));
    assert_eq!(managed(&role, ""), Ok(()), "a replica that knows no epochs");
    role.promise(3).unwrap();
    assert_eq!(managed(&role, "rr-epoch 2"), Err(NotServed::NotMaster(0)));
    assert_eq!(managed(&role, ""), Err(NotServed::NotMaster(0)));
    role.follow("h", 1, 3).unwrap();
    assert_eq!(managed(&role, "rr-epoch 3"), Err(NotServed::NotMaster(0)));
    assert_eq!(managed(&role, ""), Ok(()), "a tool may copy a replica");
    let down = Serving::Managed { role: &role, link_up: false };
    assert_eq!(down.check(&announced("")), Err(NotServed::NoMasterLink));
}

#[test]
fn r1_who_is_not_managed_serves_no_managed_replica() {
    assert_eq!(Serving::Master.check(&announced("")), Ok(()));
    assert_eq!(Serving::Master.check(&announced("rr-epoch 1")), Err(NotServed::NotMaster(0)));
    assert_eq!(Serving::Replica { link_up: true }.check(&announced("")), Ok(()));
    assert_eq!(Serving::Replica { link_up: false }.check(&announced("")), Err(NotServed::NoMasterLink));
    assert_eq!(NotServed::NotMaster(4).to_string(), "NOTMASTER 4");
}

fn snapshot(eof: bool) -> Output {
    Output::Snapshot(Wanted { eof, data: true })
}

fn open(line: &str, ask: &str) -> (Feed, Vec<Output>) {
    let ask = Ask::parse(args(ask).as_args()).unwrap();
    Feed::open(announced(line), &ask, &History::new(id(1)), 100, |offset| offset >= 50, 0)
}

#[test]
fn a_replica_of_this_history_goes_on_at_once() {
    let (feed, outputs) = open("capa psync2", &format!("PSYNC {} 81", id(1)));
    assert_eq!(outputs, [send(&format!("+CONTINUE {}\r\n", id(1))), Output::Stream { from: 80 }]);
    assert_eq!((feed.state(), feed.ack_offset(), feed.full), (FeedState::Online, 80, None));
    let (_, outputs) = open("", &format!("PSYNC {} 81", id(1)));
    assert_eq!(outputs[0], send("+CONTINUE\r\n"), "one that does not know the second id");
}

#[test]
fn a_full_sync_by_length_goes_online_when_all_is_sent() {
    let (mut feed, outputs) = open("capa psync2", "PSYNC ? -1");
    assert_eq!(outputs, [snapshot(false)]);
    assert_eq!(feed.ack(), None, "it holds nothing yet");
    assert_eq!(feed.on_snapshot_begun(id(1), 120), [send(&format!("+FULLRESYNC {} 120\r\n", id(1)))]);
    assert_eq!(feed.on_body(Body::Length(999), 5), [send("$999\r\n")]);
    assert_eq!(feed.state().name(), "send_bulk");
    assert_eq!(feed.on_body_sent(9), [Output::Stream { from: 120 }]);
    assert_eq!(feed.state(), FeedState::Online);
}

#[test]
fn after_a_mark_nothing_is_sent_until_the_replica_acknowledges() {
    let (mut feed, outputs) = open("capa eof capa psync2", "PSYNC ? -1");
    assert_eq!(outputs, [snapshot(true)]);
    feed.on_snapshot_begun(id(1), 120);
    assert_eq!(feed.on_body(Body::Mark(id(9)), 5), [send(&format!("$EOF:{}\r\n", id(9)))]);
    assert_eq!(feed.on_body_sent(9), [send(id(9).as_str())]);
    assert_eq!((feed.state(), feed.ack()), (FeedState::WaitAck, None));
    assert_eq!(feed.on_command(args("REPLCONF ACK 120").as_args(), 10), [Output::Stream { from: 120 }]);
    assert_eq!(feed.ack(), Some(Ack { offset: 120, at_ms: 10, volume: None }));
    assert_eq!(feed.on_command(args("replconf ack 130 fack 10").as_args(), 11), []);
    assert_eq!(feed.ack_offset(), 130);
}

#[test]
fn an_old_replica_is_served_by_sync() {
    let (mut feed, outputs) = open("capa eof", "SYNC");
    assert_eq!(outputs, [snapshot(false)]);
    assert_eq!(feed.on_snapshot_begun(id(1), 120), [], "it does not know the line");
    assert_eq!(feed.on_body(Body::Length(3), 0), [send("$3\r\n")]);
    assert_eq!(feed.on_body_sent(0), [Output::Stream { from: 120 }]);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 10_000_000), [], "it never acknowledges, and is not timed out for it");
}

#[test]
fn who_wants_the_snapshot_only_gets_no_stream() {
    for (capa, body) in [("rdb-only 1", Body::Length(3)), ("rdb-only 1 capa eof", Body::Mark(id(9)))] {
        let (mut feed, _) = open(capa, "PSYNC ? -1");
        feed.on_snapshot_begun(id(1), 120);
        feed.on_body(body, 0);
        assert_eq!(feed.on_body_sent(0).last(), Some(&Output::Close(Close::RdbSent)));
    }
}

#[test]
fn a_waiting_replica_hears_a_sign_of_life_each_second_and_is_not_timed_out() {
    let (mut feed, _) = open("", "PSYNC ? -1");
    assert_eq!(feed.tick(Ok(0), &LIMITS, 999), []);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 1000), [send("\n")]);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 1500), []);
    feed.on_snapshot_begun(id(1), 120);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 500_000), [send("\n")]);
    feed.on_body(Body::Length(10), 500_000);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 502_000), [], "not inside the body");
}

#[test]
fn a_silent_replica_is_timed_out() {
    let (mut feed, _) = open("", &format!("PSYNC {} 101", id(1)));
    feed.on_ack(100, 5000);
    assert_eq!(feed.lag_s(7999), 2);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 65_000), []);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 65_001), [Output::Close(Close::StreamTimeout)]);
    let (mut feed, _) = open("capa eof", "PSYNC ? -1");
    feed.on_snapshot_begun(id(1), 120);
    feed.on_body(Body::Mark(id(9)), 0);
    feed.on_progress(50_000);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 110_000), []);
    assert_eq!(feed.tick(Ok(0), &LIMITS, 110_001), [Output::Close(Close::SyncTimeout)]);
    feed.on_body_sent(110_001);
    assert_eq!(
        feed.tick(Ok(0), &LIMITS, 170_002),
        [Output::Close(Close::SyncTimeout)],
        "it never acknowledged the mark"
    );
}

#[test]
fn a_replica_that_stays_behind_is_cut_off_after_a_while() {
    let (mut feed, _) = open("", &format!("PSYNC {} 101", id(1)));
    assert_eq!(feed.tick(Ok(1001), &LIMITS, 1000), []);
    assert_eq!(feed.tick(Ok(1000), &LIMITS, 3000), [], "it recovered");
    assert_eq!(feed.tick(Ok(5000), &LIMITS, 4000), []);
    assert_eq!(feed.tick(Ok(5000), &LIMITS, 9000), []);
    let close = Close::SoftLimit { behind: 5000, ms: 5001 };
    assert_eq!(feed.tick(Ok(5000), &LIMITS, 9001), [Output::Close(close)]);
    let in_backlog = FeedLimits { backlog_bytes: 5000, ..LIMITS };
    assert_eq!(feed.tick(Ok(5000), &in_backlog, 10_000), [], "which is kept anyway");
    let cut_off = CutOff { limit: 8 };
    assert_eq!(feed.tick(Err(cut_off), &LIMITS, 10_001), [Output::Close(Close::HardLimit(cut_off))]);
    let no_limit = FeedLimits { soft_bytes: 0, ..LIMITS };
    assert_eq!(feed.tick(Ok(u64::MAX), &no_limit, 20_000), []);
}

#[test]
fn what_is_not_an_acknowledgement_is_ignored() {
    let (mut feed, _) = open("", &format!("PSYNC {} 101", id(1)));
    for line in ["PING", "REPLCONF", "REPLCONF ACK", "REPLCONF ACK x", "REPLCONF ACK -1", "SET ack 5"] {
        assert_eq!(feed.on_command(args(line).as_args(), 9), [], "{line}");
    }
    assert_eq!((feed.ack_offset(), feed.lag_s(5000)), (100, 5), "nor a sign of life");
}

#[test]
fn a_replica_that_loads_its_snapshot_shows_that_it_is_there() {
    let (mut feed, _) = open("capa eof", "PSYNC ? -1");
    feed.on_snapshot_begun(id(1), 120);
    feed.on_body(Body::Mark(id(9)), 0);
    feed.on_body_sent(0);
    assert_eq!(feed.on_command(args("").as_args(), 60_000), []);
    assert_eq!((feed.tick(Ok(0), &LIMITS, 120_000), feed.state()), (vec![], FeedState::WaitAck));
}

#[test]
fn who_holds_a_snapshot_up_for_too_long_is_given_up() {
    let (mut feed, _) = open("capa eof", "PSYNC ? -1");
    let limits = FeedLimits { hard_bytes: 10, ..LIMITS };
    assert_eq!((feed.on_held_up(10, &limits), feed.on_held_up(99, &LIMITS)), (None, None));
    assert_eq!(feed.on_held_up(11, &limits), Some(Close::SnapshotLimit(11)));
    assert_eq!(feed.on_no_snapshot(), [Output::Close(Close::NoSnapshot)]);
}

#[test]
fn a_snapshot_without_keys_is_for_who_asks_for_it() {
    let (_, outputs) = open("rdb-only 1 rdb-filter-only functions", "PSYNC ? -1");
    assert_eq!(outputs, [Output::Snapshot(Wanted { eof: false, data: false })]);
}

#[test]
fn nobody_is_served_while_loading_or_failing_over() {
    for (serving, text) in [
        (Serving::Loading, "LOADING Redis is loading the dataset in memory"),
        (Serving::FailingOver, "NOMASTERLINK Can't SYNC while failing over"),
    ] {
        assert_eq!(serving.check(&announced("")).unwrap_err().to_string(), text);
    }
}
