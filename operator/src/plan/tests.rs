//! Scenarios: what is seen, in a few words, and what is planned.

mod external;

use super::*;
use crate::observe::Instance;
use crate::record::Previous;
use proptest::prelude::*;

pub(super) const NOW: u64 = 100_000;

/// `name role promised/role_epoch history:offset [flags]`, one instance a line; a name alone is one that is down.
pub(super) fn observed(text: &str, record: Option<&str>) -> Observed {
    let mut o = Observed {
        automatic: true,
        down_after_ms: 2000,
        lease_ms: 2000,
        me: "op".into(),
        holder_since_ms: Some(0),
        last_grant_ms: Some(0),
        election_since_ms: Some(NOW - 100),
        ..Observed::default()
    };
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words[0].to_string();
        o.wanted.push(name.clone());
        let port = 7000 + o.wanted.len() as u16;
        let mut instance = Instance { host: "h".into(), port, status_ms: NOW, answered_ms: NOW, ..Instance::default() };
        if words.len() > 1 {
            let pair = |w: &str, c: char| {
                let (a, b) = w.split_once(c).unwrap();
                (a.parse().unwrap(), b.parse().unwrap())
            };
            let (promised, role_epoch) = pair(words[2], '/');
            let (history_epoch, offset) = pair(words[3], ':');
            let has = |flag: &str| words[4..].contains(&flag);
            instance.running = true;
            instance.status = Some(Status {
                incarnation: format!("i-{name}"),
                volume: format!("v-{name}"),
                promised,
                role: match words[1] {
                    "master" => Role::Master,
                    "replica" => Role::Replica,
                    _ => Role::Awaiting,
                },
                role_epoch,
                history_epoch,
                offset,
                complete: !has("incomplete"),
                has_data: !has("empty"),
                loading: has("loading"),
                syncing: has("syncing"),
                writable: words[1] == "master" && !has("paused"),
                lease_left_ms: 2000,
                grant_left_ms: if has("granted") { 1500 } else { 0 },
                master_port: 7001,
                master_host: "h".into(),
                link_up: words[1] == "replica" && !has("down"),
                caught_up: !has("behind"),
                paused: has("paused"),
                token: 1,
                ..Status::default()
            });
            if has("silent") {
                instance.silent_since_ms = Some(NOW - 3000);
            }
            if has("refuses") {
                (instance.silent_since_ms, instance.refuses) = (Some(NOW - 20), true);
            }
            instance.leaving = has("leaving");
        }
        o.instances.insert(name, instance);
    }
    o.record = record.map(|record| {
        let mut words = record.split_whitespace();
        let epoch = words.next().unwrap().parse().unwrap();
        let mut r = Record { epoch, holder: "op".into(), initialized: true, ..Record::default() };
        r.members = o.wanted.iter().map(|n| Member { name: n.clone(), volume: format!("v-{n}") }).collect();
        for word in words {
            match word.split_once('=') {
                Some(("master", name)) => {
                    r.master = Some(Holder { name: name.into(), incarnation: format!("i-{name}") });
                }
                Some(("quorum", k)) => r.quorum = k.parse().unwrap(),
                Some(("to", name)) => r.target = Some(Target::Named { to: name.into() }),
                None if word == "pending" => r.target = Some(Target::Pending {}),
                None if word == "fresh" => r.initialized = false,
                other => panic!("{other:?}"),
            }
        }
        o.quorum = r.quorum;
        r
    });
    o
}

fn show(plan: &Plan) -> String {
    let mut lines: Vec<String> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::WriteRecord(r) => Some(match (&r.target, &r.master) {
                (Some(Target::Pending {}), _) => format!("intend {}", r.epoch),
                (Some(Target::Named { to }), _) => format!("intend {} to {to}", r.epoch),
                (Some(Target::Members { members: m, quorum: k }), _) => {
                    let names: Vec<_> = m.iter().map(|m| m.name.as_str()).collect();
                    format!("intend {} members {} quorum {k}", r.epoch, names.join(","))
                }
                (None, Some(m)) if !r.initialized => format!("record {} follower {}", r.epoch, m.name),
                (None, Some(m)) => {
                    let unsettled = if r.previous.is_some() { " unsettled" } else { "" };
                    format!("record {} master {}{unsettled}", r.epoch, m.name)
                }
                (None, None) => "record".into(),
            }),
            Action::Send { instance, order } => Some(match order {
                Order::Promise { epoch } => format!("{instance}: promise {epoch}"),
                Order::Promote { epoch, .. } => format!("{instance}: promote {epoch}"),
                Order::Lease { epoch, .. } => format!("{instance}: lease {epoch}"),
                Order::Follow { port, epoch, .. } => format!("{instance}: follow {port} {epoch}"),
                Order::FollowExternal { epoch, .. } => format!("{instance}: follow external {epoch}"),
                Order::Handover { epoch, .. } => format!("{instance}: handover {epoch}"),
                Order::Await => format!("{instance}: await"),
                Order::AcceptMaster => format!("{instance}: acceptmaster"),
            }),
            Action::Start { instance } => Some(format!("start {instance}")),
            Action::Stop { instance } => Some(format!("stop {instance}")),
            Action::Event { .. } => None,
        })
        .collect();
    lines.sort();
    lines.join("; ")
}

fn check(o: &Observed, want: &str) {
    let plan = plan(o, NOW);
    assert_eq!(show(&plan), want, "summary: {}", plan.summary);
}

pub(super) const HEALTHY: &str = "m master 1/1 1:100\n a replica 1/1 1:100\n b replica 1/1 1:90";

#[test]
fn healthy_there_is_nothing_to_do() {
    let o = observed(HEALTHY, Some("1 master=m"));
    check(&o, "");
    let plan = plan(&o, NOW);
    assert_eq!((plan.master.as_deref(), plan.ready_replicas.len(), plan.summary.as_str()), (Some("m"), 2, "well"));
}

#[test]
fn r3_a_lease_is_renewed_once_per_request() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.instances.get_mut("m").unwrap().status.as_mut().unwrap().lease_left_ms = 1000;
    check(&o, "m: lease 1");
    o.last_token = 1;
    check(&o, "");
}

#[test]
fn r9_first_start_waits_for_everybody_and_prefers_the_first() {
    check(&observed("m\n a awaiting 0/0 0:0 empty", None), "start m");
    check(&observed("m awaiting 0/0 0:0 empty\n a awaiting 0/0 0:0 empty", None), "intend 1");
    let promised = "m awaiting 1/0 0:0 empty\n a awaiting 1/0 0:0 empty";
    check(&observed(promised, Some("1 pending fresh")), "record 1 master m");
    check(&observed("m\n a awaiting 1/0 0:0 empty", Some("1 pending fresh")), "start m");
}

#[test]
fn r5_a_master_that_ended_is_replaced_by_the_most_advanced_without_waiting() {
    let mut o = observed("m\n a replica 1/1 1:100\n b replica 1/1 1:120", Some("1 master=m"));
    o.ended.insert("i-m".into());
    check(&o, "intend 2; start m");
    let mut o = observed("m\n a replica 1/1 1:100\n b replica 1/1 1:120", Some("2 master=m pending"));
    o.ended.insert("i-m".into());
    check(&o, "a: promise 2; b: promise 2; start m");
    let mut o = observed("m\n a replica 2/1 1:100 granted\n b replica 2/1 1:120 granted", Some("2 master=m pending"));
    o.ended.insert("i-m".into());
    check(&o, "record 2 master b; start m");
}

#[test]
fn r7_the_record_comes_first_then_the_promotion_then_the_others_follow() {
    let o = observed("m\n a replica 2/1 1:100\n b replica 2/1 1:120", Some("2 master=b"));
    check(&o, "b: promote 2; start m");
    let o = observed("m awaiting 1/0 1:90\n a replica 2/1 1:100\n b master 2/2 2:140", Some("2 master=b"));
    check(&o, "a: follow 7003 2; m: follow 7003 2");
}

#[test]
fn a_higher_mark_wins_over_a_higher_offset() {
    let o = observed("m awaiting 3/0 1:900\n a awaiting 3/0 2:100\n b awaiting 3/0 2:90", Some("3 pending"));
    check(&o, "record 3 master a");
}

#[test]
fn r9_an_empty_instance_is_never_chosen_once_the_cluster_had_data() {
    let o = observed("m awaiting 2/0 0:0 empty\n a awaiting 2/0 1:50", Some("2 pending"));
    check(&o, "record 2 master a");
    let o = observed("m awaiting 2/0 0:0 empty\n a awaiting 2/0 0:0 empty", Some("2 pending"));
    check(&o, "");
    assert!(plan(&o, NOW).summary.contains("NoMemberHasData"));
    check(&Observed { allow_data_loss: true, ..o }, "record 2 master m");
}

#[test]
fn r6_a_restarted_master_may_win_but_only_by_election() {
    let mut o = observed("m awaiting 1/0 1:100\n a replica 1/1 1:90 down", Some("1 master=m"));
    o.record.as_mut().unwrap().master.as_mut().unwrap().incarnation = "before".into();
    o.ended.insert("before".into());
    check(&o, "intend 2");
    let mut o = observed("m awaiting 2/0 1:100\n a replica 2/1 1:90 down", Some("2 master=m pending"));
    o.record.as_mut().unwrap().master.as_mut().unwrap().incarnation = "before".into();
    o.ended.insert("before".into());
    check(&o, "record 2 master m");
}

/// Its pod and its claim were deleted, and an empty process of the same name has started: an election by leases.
#[test]
fn a_master_in_whose_place_another_process_answers_is_silent() {
    let text = "m awaiting 0/0 0:0 empty\n a replica 1/1 1:100 down\n b replica 1/1 1:100 down";
    let mut o = observed(text, Some("1 master=m"));
    o.instances.get_mut("m").unwrap().status.as_mut().unwrap().incarnation = "i-other".into();
    o.instances.get_mut("m").unwrap().status.as_mut().unwrap().volume = "v-other".into();
    o.replaced_since_ms = Some(NOW - 1000);
    let waits = plan(&o, NOW);
    assert_eq!((show(&waits).as_str(), waits.master), ("", None));
    o.replaced_since_ms = Some(NOW - 2000);
    assert_eq!(show(&plan(&o, NOW)), "intend 2");
    // Its promise counts for nothing: the others decide, when their leases to the old one have run out.
    let text = "m awaiting 2/0 0:0 empty\n a replica 2/1 1:100 down granted\n b replica 2/1 1:100 down granted";
    let mut o = observed(text, Some("2 master=m pending"));
    o.instances.get_mut("m").unwrap().status.as_mut().unwrap().incarnation = "i-other".into();
    o.instances.get_mut("m").unwrap().status.as_mut().unwrap().volume = "v-other".into();
    assert_eq!(show(&plan(&o, NOW)), "");
    assert_eq!(show(&plan(&o, NOW + 1500)), "record 2 master a");
}

/// The claim of a datastore without replicas was deleted with its pod, by force: nobody may be chosen, and the annotation
/// allow-data-loss was never heard, because no election was begun.
#[test]
fn r9_a_member_alone_that_has_lost_its_volume_is_chosen_when_a_person_says_so() {
    let replaced = |text: &str, record: &str| {
        let mut o = observed(text, Some(record));
        let status = o.instances.get_mut("m").unwrap().status.as_mut().unwrap();
        (status.incarnation, status.volume) = ("i-other".into(), "v-other".into());
        o.replaced_since_ms = Some(NOW - 2000);
        o
    };
    let mut o = replaced("m awaiting 0/0 0:0 empty", "1 master=m quorum=0");
    o.automatic = false;
    check(&o, "intend 2");
    o.replaced_since_ms = Some(NOW - 1999);
    check(&o, "");
    let mut o = replaced("m awaiting 2/0 0:0 empty", "2 master=m pending");
    check(&o, "");
    assert!(plan(&o, NOW).summary.starts_with("NoMemberHasData: m answers with another volume"));
    o.allow_data_loss = true;
    check(&o, "record 2 master m");
    // Its former process comes back after all: it is the one that the record names.
    let o = observed("m master 1/1 1:100", Some("2 master=m pending"));
    check(&o, "m: promise 2");
    let o = observed("m awaiting 2/0 1:100", Some("2 master=m pending"));
    check(&o, "record 2 master m");
    // Whoever is a member besides decides by R5, whatever a person gives up.
    let mut o = replaced("m awaiting 2/0 0:0 empty\n a replica 2/1 1:100 down granted", "2 master=m pending");
    o.allow_data_loss = true;
    check(&o, "");
}

/// It is alone: there are no replicas that could hear it.
#[test]
fn a_member_alone_that_is_silent_is_waited_for() {
    let o = observed("m master 1/1 1:100 silent", Some("1 master=m"));
    check(&o, "");
    assert_eq!(plan(&o, NOW).summary, "m does not answer");
}

#[test]
fn r5_silence_alone_moves_nothing_while_replicas_hear_the_master() {
    let o = observed("m master 1/1 1:100 silent\n a replica 1/1 1:100\n b replica 1/1 1:100", Some("1 master=m"));
    check(&o, "");
    let o =
        observed("m master 1/1 1:100 silent\n a replica 1/1 1:100 down\n b replica 1/1 1:100 down", Some("1 master=m"));
    check(&o, "intend 2");
}

/// The news of a container's end takes a second: promises are collected meanwhile. It proves no end, so leases are waited for.
#[test]
fn r5_where_nobody_listens_the_election_begins_at_once() {
    let text = "m master 1/1 1:100 refuses\n a replica 1/1 1:100 down\n b replica 1/1 1:100 down";
    check(&observed(text, Some("1 master=m")), "intend 2");
    check(&observed(&text.replace("down", ""), Some("1 master=m")), "");
    let text = "m master 1/1 1:100 refuses\n a replica 2/1 1:100 down granted\n b replica 2/1 1:100 down granted";
    let mut o = observed(text, Some("2 master=m pending"));
    check(&o, "");
    assert_eq!(
        plan(&o, NOW).heir.as_deref(),
        Some("a"),
        "clients can be led there: nobody listens where they were led"
    );
    assert_eq!(plan(&observed(&text.replace("refuses", "silent"), Some("2 master=m pending")), NOW).heir, None);
    o.ended.insert("i-m".into());
    check(&o, "record 2 master a");
}

#[test]
fn r5_3_leases_are_waited_for_when_the_end_is_not_known() {
    let text = "m master 1/1 1:100 silent\n a replica 2/1 1:100 down granted\n b replica 2/1 1:100 down granted";
    check(&observed(text, Some("2 master=m pending")), "");
    let text = text.replace("granted", "");
    check(&observed(&text, Some("2 master=m pending")), "record 2 master a");
    let mut o = observed(&text, Some("2 master=m pending"));
    o.last_grant_ms = Some(NOW - 1000);
    check(&o, "");
    o.last_grant_ms = Some(NOW - 2039);
    check(&o, "");
    o.last_grant_ms = Some(NOW - 2040);
    check(&o, "record 2 master a");
    o.holder_since_ms = Some(NOW - 500);
    check(&o, "");
}

/// The question was long on its way: what is left of the grant is counted from the answer, not from the question. The
/// simulator found the former master writing beside the new one.
#[test]
fn r5_3_what_is_left_of_a_grant_is_counted_from_the_answer() {
    let text = "m master 1/1 1:100 silent\n a replica 2/1 1:100 down granted";
    let mut o = observed(text, Some("2 master=m pending"));
    let a = o.instances.get_mut("a").unwrap();
    (a.status_ms, a.answered_ms) = (NOW - 1500, NOW - 1499);
    check(&o, "");
    o.instances.get_mut("a").unwrap().answered_ms = NOW - 1500;
    check(&o, "record 2 master a");
}

#[test]
fn r9_whoever_gives_the_data_up_may_go_on_with_new_volumes() {
    let mut o = observed("m awaiting 2/0 0:0 empty\n a awaiting 2/0 0:0 empty", Some("2 pending"));
    for name in ["m", "a"] {
        o.instances.get_mut(name).unwrap().status.as_mut().unwrap().volume = format!("new-{name}");
    }
    check(&o, "");
    o.allow_data_loss = true;
    check(&o, "record 2 master m");
    let actions = plan(&o, NOW).actions;
    let Some(Action::WriteRecord(record)) = actions.iter().find(|a| matches!(a, Action::WriteRecord(_))) else {
        panic!()
    };
    assert_eq!(record.members[0].volume, "new-m", "the master must be a member by its own volume");
}

#[test]
fn r5_4_after_a_restart_of_all_those_who_are_slow_to_start_are_waited_for() {
    let text = "m awaiting 2/0 1:100\n a awaiting 2/0 1:120\n b";
    let mut o = observed(text, Some("2 master=m pending"));
    o.ended.insert("i-m".into());
    o.instances.get_mut("b").unwrap().running = true;
    o.election_since_ms = Some(NOW - 1999);
    check(&o, "");
    o.election_since_ms = Some(NOW - 2000);
    check(&o, "record 2 master a");
}

#[test]
fn after_a_restart_of_all_the_master_that_came_back_complete_goes_on() {
    let mut o = observed("m awaiting 2/0 1:100\n a awaiting 2/0 1:100", Some("2 master=a pending"));
    o.record.as_mut().unwrap().master.as_mut().unwrap().incarnation = "before".into();
    o.ended.insert("before".into());
    check(&o, "record 2 master a");
    o.instances.get_mut("a").unwrap().status.as_mut().unwrap().complete = false;
    check(&o, "record 2 master m");
}

#[test]
fn r5_with_a_quorum_enough_complete_members_must_answer() {
    let text = "m\n a replica 2/1 1:100\n b replica 2/1 1:90 incomplete";
    let mut o = observed(text, Some("2 master=m pending quorum=1"));
    o.ended.insert("i-m".into());
    check(&o, "start m");
    let mut o = observed(&text.replace("incomplete", ""), Some("2 master=m pending quorum=1"));
    o.ended.insert("i-m".into());
    check(&o, "record 2 master a; start m");
}

#[test]
fn r10_a_switchover_pauses_then_waits_for_the_target_then_elects() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.switchover = Some(Some("b".into()));
    check(&o, "intend 2 to b");
    let o = observed(HEALTHY, Some("2 master=m to=b"));
    check(&o, "m: handover 1");
    assert_eq!(plan(&o, NOW).heir, None);
    let o = observed(&HEALTHY.replace("1:100\n a", "1:100 paused\n a"), Some("2 master=m to=b"));
    check(&o, "");
    assert_eq!(plan(&o, NOW).heir.as_deref(), Some("b"));
    let held = HEALTHY.replace("1:100\n a", "1:100 paused\n a").replace("1:90", "1:100");
    check(&observed(&held, Some("2 master=m to=b")), "a: promise 2; b: promise 2; m: promise 2");
    let promised = held.replace("1/1", "2/1");
    check(&observed(&promised, Some("2 master=m to=b")), "record 2 master b");
}

#[test]
fn r10_after_its_time_the_old_master_goes_on_in_the_new_epoch() {
    let mut o = observed(&HEALTHY.replace("1:100\n a", "1:100 paused\n a"), Some("2 master=m to=b"));
    o.election_since_ms = Some(NOW - SWITCHOVER_MS - 1);
    check(&o, "m: promise 2");
    let mut o = observed(&HEALTHY.replace("master 1/1", "master 2/1"), Some("2 master=m to=b"));
    o.election_since_ms = Some(NOW - SWITCHOVER_MS - 1);
    check(&o, "record 2 master m");
}

/// The operator that began the switchover ended in the middle of it, and the target with it: the next one waited for ever,
/// with the writes paused.
#[test]
fn r10_who_takes_a_switchover_over_gives_it_its_time_and_no_more() {
    let mut o = observed(&HEALTHY.replace("1:100\n a", "1:100 paused\n a"), Some("2 master=m to=b"));
    (o.election_since_ms, o.holder_since_ms) = (None, Some(NOW - SWITCHOVER_MS));
    check(&o, "");
    o.holder_since_ms = Some(NOW - SWITCHOVER_MS - 1);
    check(&o, "m: promise 2");
}

/// One that came back with another volume could never win: the role was moved to it again and again.
#[test]
fn r10_only_a_member_is_a_target() {
    let mut o = observed("m master 1/1 1:100\n a replica 1/1 1:100", Some("1 master=a"));
    o.record.as_mut().unwrap().master.as_mut().unwrap().name = "m".into();
    o.record.as_mut().unwrap().master.as_mut().unwrap().incarnation = "i-m".into();
    o.instances.get_mut("a").unwrap().status.as_mut().unwrap().volume = "v-new".into();
    o.wanted = vec!["a".into()];
    check(&o, "intend 2 members m,a quorum 0");
    o.record.as_mut().unwrap().members[1].volume = "v-new".into();
    check(&o, "intend 2 to a");
}

/// Two pods ended at once, and the role went back and forth between them.
#[test]
fn r10_one_that_is_about_to_end_hands_over_and_is_given_nothing() {
    let leaving = |names: &[&str]| {
        let line = |line: &str| match names.contains(&line.trim().split(' ').next().unwrap()) {
            true => format!("{line} leaving"),
            false => line.to_string(),
        };
        HEALTHY.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    check(&observed(&leaving(&["m"]), Some("1 master=m")), "intend 2 to a");
    check(&observed(&leaving(&["m", "a"]), Some("1 master=m")), "intend 2 to b");
    check(&observed(&leaving(&["m", "a", "b"]), Some("1 master=m")), "");
    check(&observed(&leaving(&["a"]), Some("1 master=m")), "");
}

/// Fenced instances are leaving ones, as the provider says it.
fn fence(o: &mut Observed, names: &[&str]) {
    for name in names {
        o.fenced.insert(name.to_string());
        o.instances.get_mut(*name).unwrap().leaving = true;
    }
}

#[test]
fn r1_a_fenced_replica_has_no_role_and_is_given_none() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    fence(&mut o, &["a"]);
    check(&o, "a: await");
    let mut o = observed(&HEALTHY.replace("a replica 1/1", "a awaiting 1/0"), Some("1 master=m"));
    fence(&mut o, &["a"]);
    check(&o, "");
    assert_eq!(plan(&o, NOW).summary, "a is fenced");
    (o.fenced, o.instances.get_mut("a").unwrap().leaving) = (Default::default(), false);
    check(&o, "a: follow 7001 1");
}

#[test]
fn r10_a_fenced_master_hands_over_and_one_alone_stops() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    fence(&mut o, &["m"]);
    check(&o, "intend 2 to a");
    let after = "m master 2/1 1:100\n a master 2/2 2:140\n b replica 2/2 2:140";
    let mut o = observed(after, Some("2 master=a"));
    fence(&mut o, &["m"]);
    check(&o, "b: follow 7002 2; m: await");
    // All of them: nobody takes writes, and the master is not promoted again before it may serve.
    let mut o = observed(HEALTHY, Some("1 master=m"));
    fence(&mut o, &["m", "a", "b"]);
    check(&o, "a: await; b: await; m: await");
    let text = "m awaiting 1/0 1:100\n a replica 1/1 1:100\n b awaiting 1/0 1:90";
    let mut o = observed(text, Some("1 master=m"));
    fence(&mut o, &["m", "a", "b"]);
    check(&o, "a: await");
    // The simulator found it promoted again in the epoch in which it had reigned.
    (o.fenced, o.instances.get_mut("m").unwrap().leaving) = (Default::default(), false);
    check(&o, "intend 2");
}

#[test]
fn r11_the_quorum_is_lowered_before_the_members_are_too_few_for_it() {
    let mut o = observed(HEALTHY, Some("1 master=m quorum=2"));
    o.wanted.pop();
    check(&o, "intend 2 members m,a,b quorum 1");
    o.record.as_mut().unwrap().quorum = 1;
    check(&o, "intend 2 members m,a quorum 1");
}

/// After the loss of volumes a quorum was asked for that nobody was there to give, and nothing could be changed any more.
#[test]
fn r11_a_change_waits_for_those_who_can_settle_it() {
    let mut o = observed(&HEALTHY.replace("1:90", "1:90 behind"), Some("1 master=m quorum=1"));
    o.quorum = 2;
    check(&o, "");
    o.instances.get_mut("b").unwrap().status.as_mut().unwrap().caught_up = true;
    check(&o, "intend 2 members m,a,b quorum 2");
}

/// A volume was lost in the middle of a change, so that it could never be settled, and nothing be changed any more.
#[test]
fn r11_a_lost_volume_is_replaced_also_in_the_middle_of_a_change() {
    let text = "m master 2/2 2:100\n a replica 2/2 2:90\n b replica 2/2 2:90 behind";
    let mut o = unsettled(text, "2 master=m quorum=2", &["m", "a", "b"]);
    o.record.as_mut().unwrap().previous.as_mut().unwrap().quorum = 1;
    o.instances.get_mut("b").unwrap().status.as_mut().unwrap().volume = "v-new".into();
    check(&o, "");
    o.instances.get_mut("b").unwrap().status.as_mut().unwrap().caught_up = true;
    check(&o, "intend 3 members m,a,b quorum 2");
    // What was asked for before the change is asked for as long as it is not settled.
    let mut o = unsettled(&text.replace("2/2", "3/2"), "3 master=m quorum=2", &["m", "a", "b"]);
    let record = o.record.as_mut().unwrap();
    let mut members = record.members.clone();
    members[2].volume = "v-new".into();
    record.target = Some(Target::Members { members: members.clone(), quorum: 2 });
    let Some(Action::WriteRecord(after)) = plan(&o, NOW).actions.pop() else { panic!() };
    assert_eq!((after.members, after.previous), (members, o.record.unwrap().previous));
}

#[test]
fn r11_a_new_replica_counts_after_an_election_that_the_present_master_wins() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.record.as_mut().unwrap().members.retain(|m| m.name != "b");
    check(&o, "intend 2 members m,a,b quorum 0");
    o.instances.get_mut("b").unwrap().status.as_mut().unwrap().caught_up = false;
    check(&o, "");
}

#[test]
fn r11_an_unwanted_replica_leaves_the_members_before_it_ends() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.wanted.pop();
    check(&o, "intend 2 members m,a quorum 0");
    o.record.as_mut().unwrap().members.pop();
    check(&o, "stop b");
}

#[test]
fn r11_the_masters_own_instance_is_not_removed_before_the_role_has_moved() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.wanted.remove(0);
    check(&o, "intend 2 to a");
}

/// `observed`, in the middle of a change that began with epoch 2: before it the members were `before`, with the present
/// quorum.
fn unsettled(text: &str, record: &str, before: &[&str]) -> Observed {
    let mut o = observed(text, Some(record));
    let r = o.record.as_mut().unwrap();
    let members = before.iter().map(|n| Member { name: n.to_string(), volume: format!("v-{n}") }).collect();
    r.previous = Some(Previous { members, quorum: r.quorum, until: 2 });
    o
}

#[test]
fn r11_with_a_quorum_a_change_is_settled_by_those_who_hold_the_new_mark() {
    // Begun: the present master wins, and the configuration before is kept.
    let mut o = observed(&HEALTHY.replace("1/1", "2/1"), Some("2 master=m quorum=1"));
    let r = o.record.as_mut().unwrap();
    r.target = Some(Target::Members { members: r.members[..2].to_vec(), quorum: 1 });
    check(&o, "record 2 master m unsettled");
    // The replica has not got the mark yet.
    let reign = "m master 2/2 2:100\n a replica 2/2 1:90";
    check(&unsettled(reign, "2 master=m quorum=1", &["m", "a", "b"]), "");
    check(&unsettled(&reign.replace("1:90", "2:100"), "2 master=m quorum=1", &["m", "a", "b"]), "record 2 master m");
}

#[test]
fn r11_while_a_change_is_not_settled_nothing_else_changes_and_nobody_ends() {
    let text = "m master 2/2 2:100\n a replica 2/2 1:90\n b replica 2/2 1:90";
    let mut o = unsettled(text, "2 master=m quorum=1", &["m", "a", "b"]);
    o.wanted.pop();
    o.record.as_mut().unwrap().members.pop();
    check(&o, "");
    o.quorum = 0;
    check(&o, "");
    o.instances.get_mut("a").unwrap().status.as_mut().unwrap().history_epoch = 2;
    check(&o, "record 2 master m");
    o.record.as_mut().unwrap().previous = None;
    o.quorum = 1;
    check(&o, "stop b");
}

#[test]
fn r11_an_election_in_between_needs_both_configurations_and_chooses_from_both() {
    // K = 1: two complete ones of (m, a, b), and three of (m, a, b, c).
    let text = "m\n a replica 3/1 1:90\n b replica 3/1 1:90 incomplete\n c replica 3/1 1:120";
    let check = |text: &str, want: &str| {
        let mut o = unsettled(text, "3 master=m pending quorum=1", &["m", "a", "b"]);
        o.ended.insert("i-m".into());
        check(&o, want);
    };
    check(text, "start m");
    // What c holds from before it was a member does not count; with the mark it does, and it shows the change settled.
    let text = text.replace("incomplete", "");
    check(&text, "record 3 master a unsettled; start m");
    check(&text.replace("1:120", "2:120"), "record 3 master c unsettled; start m");
}

#[test]
fn r11_who_joins_is_not_chosen_before_a_quorum_has_seen_the_change() {
    let text = "m\n a replica 3/1 1:90\n b replica 3/1 1:90\n c replica 3/1 2:120";
    let mut o = unsettled(text, "3 master=m pending quorum=2", &["m", "a", "b"]);
    o.ended.insert("i-m".into());
    check(&o, "start m");
    assert!(plan(&o, NOW).summary.contains("becoming a member"));
    // All have answered: nobody holds more, and it was waited for ever.
    let text = text.replace("m\n", "m awaiting 3/0 1:80 incomplete\n");
    let mut o = unsettled(&text, "3 master=m pending quorum=2", &["m", "a", "b"]);
    o.ended.insert("i-m".into());
    check(&o, "record 3 master c unsettled");
}

#[test]
fn r11_a_change_that_nobody_has_seen_is_taken_back_for_one_who_was_leaving() {
    let text = "m\n a replica 3/1 1:90\n b replica 3/1 1:100";
    let mut o = unsettled(text, "3 master=m pending quorum=1", &["m", "a", "b"]);
    o.record.as_mut().unwrap().members.pop();
    o.ended.insert("i-m".into());
    check(&o, "record 3 master b; start m");
    let Some(Action::WriteRecord(record)) = plan(&o, NOW).actions.pop() else { panic!() };
    assert_eq!(record.members.len(), 3);
}

#[test]
fn r11_one_who_is_leaving_still_has_a_voice() {
    let text = "m\n a replica 3/2 2:90\n b replica 2/2 2:90";
    let mut o = unsettled(text, "3 master=m pending quorum=1", &["m", "a", "b"]);
    o.record.as_mut().unwrap().members.pop();
    o.wanted.pop();
    o.ended.insert("i-m".into());
    check(&o, "b: promise 3; start m");
}

#[test]
fn another_operator_in_the_record_is_taken_over_from_before_anything_else() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.record.as_mut().unwrap().holder = "other".into();
    o.ended.insert("i-m".into());
    check(&o, "record 1 master m");
}

#[test]
fn an_election_behind_a_higher_promise_goes_on_with_the_next_epoch() {
    let o = observed("m awaiting 5/0 1:1\n a awaiting 2/0 1:1", Some("2 pending"));
    check(&o, "intend 6");
}

fn status() -> impl Strategy<Value = String> {
    (0u8..3, 0u64..4, 0u64..4, 0u64..3, 0u64..5, prop::collection::vec(0u8..7, 0..3)).prop_map(
        |(role, p, e, h, off, flags)| {
            let role = ["awaiting", "replica", "master"][usize::from(role)];
            let names = ["empty", "loading", "syncing", "silent", "granted", "incomplete", "down"];
            let flags: Vec<_> = flags.iter().map(|&f| names[usize::from(f)]).collect();
            format!("{role} {}/{} {h}:{off} {}", p.max(e), e, flags.join(" "))
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_seen_nobody_without_data_and_nobody_unfinished_is_chosen(
        statuses in prop::collection::vec(prop::option::of(status()), 1..5),
        epoch in 1u64..4, pending in any::<bool>(), ended in any::<bool>(), quorum in 0u32..2,
    ) {
        let text: Vec<_> = statuses.iter().enumerate().map(|(i, s)| format!("n{i} {}", s.clone().unwrap_or_default())).collect();
        let mut o = observed(&text.join("\n"), Some(&format!("{epoch} master=n0 {} quorum={quorum}", if pending { "pending" } else { "" })));
        if ended {
            o.ended.insert("i-n0".into());
        }
        let plan = plan(&o, NOW);
        let writes: Vec<_> = plan.actions.iter().filter_map(|a| match a { Action::WriteRecord(r) => Some(r), _ => None }).collect();
        prop_assert!(writes.len() <= 1, "one write of the record at a time");
        for r in writes {
            prop_assert!(r.epoch >= epoch, "the epoch never goes back");
            if let (true, None, Some(master)) = (pending, &r.target, &r.master) {
                let s = o.instances[&master.name].status.as_ref().unwrap();
                prop_assert!(s.has_data && !s.loading && !s.syncing && s.promised == r.epoch && s.role_epoch < r.epoch);
                let better = o.instances.iter().any(|(n, i)| o.answering(n).is_some() && i.status.as_ref().is_some_and(|t| {
                    t.promised == r.epoch && t.role_epoch < r.epoch && t.has_data && (t.history_epoch, t.offset) > (s.history_epoch, s.offset)
                }));
                prop_assert!(!better, "the highest history is chosen");
            }
        }
        let promoted: Vec<_> = plan.actions.iter().filter(|a| matches!(a, Action::Send { order: Order::Promote { .. }, .. })).collect();
        prop_assert!(promoted.is_empty() || (!pending && promoted.len() == 1), "only the record's master is promoted");
    }
}
