//! `bootstrap.externalMaster`: from the first start to the first master of its own.

use super::*;
use crate::observe::{External, Promotion};

/// As `observed`, told to follow an external master that has got to offset 100.
fn following(text: &str, record: Option<&str>, promotion: Promotion) -> Observed {
    let mut o = observed(text, record);
    if let Some(record) = &mut o.record {
        record.initialized = false;
    }
    let external = External { host: "old".into(), port: 6379, ready: true, offset: Some(100), ..External::default() };
    o.external = Some(External { promotion, ..external });
    for (name, instance) in &mut o.instances {
        let follows = o.record.as_ref().and_then(|r| r.master.as_ref()).is_some_and(|m| m.name == *name);
        if let Some(status) = instance.status.as_mut().filter(|_| follows) {
            (status.master_host, status.master_port) = ("old".into(), 6379);
        }
    }
    o
}

const FOLLOWING: &str = "m replica 1/1 0:100\n a replica 1/1 0:100\n b replica 1/1 0:90";

#[test]
fn the_first_epoch_has_no_master_but_one_who_follows() {
    let empty = "m awaiting 0/0 0:0 empty\n a awaiting 0/0 0:0 empty";
    check(&following(empty, None, Promotion::Later), "intend 1");
    check(&following(empty, Some("1 pending"), Promotion::Later), "a: promise 1; m: promise 1");
    let promised = empty.replace("0/0", "1/0");
    check(&following(&promised, Some("1 pending"), Promotion::Later), "record 1 follower m");
    let mut o = following(&promised, Some("1 master=m"), Promotion::Later);
    check(&o, "a: follow 7001 1; m: follow external 1");
    o.external.as_mut().unwrap().ready = false;
    check(&o, "a: follow 7001 1");
}

#[test]
fn while_it_follows_nobody_is_promoted_and_nobody_gets_a_lease() {
    let o = following(FOLLOWING, Some("1 master=m"), Promotion::Later);
    check(&o, "");
    let plan = plan(&o, NOW);
    assert_eq!((plan.master.as_deref(), plan.ready_replicas.len()), (Some("m"), 2), "clients read");
    assert_eq!(plan.summary, "m follows old:6379");
    // The link to it is down: told again, for the password may be another.
    check(
        &following(&FOLLOWING.replacen("0:100", "0:100 down", 1), Some("1 master=m"), Promotion::Later),
        "m: follow external 1",
    );
}

#[test]
fn one_who_is_lost_is_followed_by_another_who_holds_most() {
    let mut o =
        following("m\n a replica 1/1 0:90 down\n b replica 1/1 0:100 down", Some("1 master=m"), Promotion::Later);
    check(&o, "start m");
    o.ended.insert("i-m".into());
    check(&o, "intend 2; start m");
    let silent = FOLLOWING.replacen("0:100", "0:100 silent", 1);
    check(&following(&silent, Some("1 master=m"), Promotion::Later), "intend 2");
    // No fence: that one may be there still, but it takes no writes.
    let promised = "m replica 1/1 0:100 silent\n a replica 2/1 0:90 granted\n b replica 2/1 0:95 granted";
    check(&following(promised, Some("2 master=m pending"), Promotion::Later), "record 2 follower b");
    let mut o = following(&FOLLOWING.replace("m replica", "m awaiting"), Some("1 master=m"), Promotion::Later);
    o.record.as_mut().unwrap().master.as_mut().unwrap().incarnation = "before".into();
    check(&o, "intend 2");
}

#[test]
fn one_who_is_to_go_is_replaced_first() {
    let mut o = following(FOLLOWING, Some("1 master=m"), Promotion::Later);
    o.wanted.remove(0);
    check(&o, "intend 2");
    let o = following(
        "m replica 1/1 0:100 leaving\n a awaiting 0/0 0:0 empty loading",
        Some("1 master=m"),
        Promotion::Later,
    );
    check(&o, "");
}

#[test]
fn members_come_and_go_without_an_election() {
    let mut o = following(FOLLOWING, Some("1 master=m"), Promotion::Later);
    o.wanted.pop();
    let actions = plan(&o, NOW).actions;
    let Some(Action::WriteRecord(record)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!((record.members.len(), record.epoch, record.initialized), (2, 1, false));
    o.record = Some((**record).clone());
    check(&o, "stop b");
}

#[test]
fn r9_the_end_of_it_is_the_election_of_the_first_master() {
    let asked = |text: &str| following(text, Some("1 master=m"), Promotion::Asked);
    check(&asked(FOLLOWING), "intend 2 to m");
    check(&asked(&FOLLOWING.replacen("0:100", "0:99", 1)), "");
    check(&asked(&FOLLOWING.replacen("0:100", "0:100 down", 1)), "m: follow external 1");
    // Whether or not it is there.
    check(
        &following(&FOLLOWING.replacen("0:100", "0:99 down", 1), Some("1 master=m"), Promotion::Now),
        "intend 2 to m; m: follow external 1",
    );
    check(&following(FOLLOWING, Some("2 master=m to=m"), Promotion::Later), "a: promise 2; b: promise 2; m: promise 2");
    let promised = FOLLOWING.replace("1/1", "2/1");
    let o = following(&promised, Some("2 master=m to=m quorum=1"), Promotion::Later);
    check(&o, "record 2 master m");
    let actions = plan(&o, NOW).actions;
    let Some(Action::WriteRecord(record)) = actions.iter().find(|a| matches!(a, Action::WriteRecord(_))) else {
        panic!()
    };
    assert!(record.initialized && record.quorum == 1 && record.members.len() == 3, "{record:?}");
    // From there on all is as ever.
    let mut o = following(&promised, None, Promotion::Later);
    o.record = Some((**record).clone());
    check(&o, "m: promote 2");
}

#[test]
fn when_synced_means_everybody() {
    let when = |text: &str| following(text, Some("1 master=m"), Promotion::WhenSynced);
    check(&when(FOLLOWING), "intend 2 to m");
    for behind in ["0:90 behind", "0:90 down", "0:90 silent"] {
        let o = when(&FOLLOWING.replace("0:90", behind));
        check(&o, "");
        assert!(plan(&o, NOW).summary.starts_with("waiting for b to catch up"), "{}", plan(&o, NOW).summary);
    }
}

#[test]
fn one_who_is_lost_at_the_last_moment_does_not_become_master() {
    let text = "m\n a replica 2/1 0:100 down\n b replica 2/1 0:90 down";
    let mut o = following(text, Some("2 master=m to=m"), Promotion::Later);
    check(&o, "start m");
    o.election_since_ms = Some(NOW - SWITCHOVER_MS - 1);
    check(&o, "intend 2; start m");
    // It is back as another process: what it had acknowledged of the stream it may have lost.
    let mut o = following(&FOLLOWING.replace("1/1", "2/0"), Some("2 master=m to=m"), Promotion::Later);
    o.record.as_mut().unwrap().master.as_mut().unwrap().incarnation = "before".into();
    check(&o, "intend 2");
}

/// It may be a ReplicatedRedis of another cluster, whose marks came along with its data.
#[test]
fn r5_4_our_marks_are_higher_than_those_of_the_external_master() {
    let o = following(&FOLLOWING.replace("0:", "41:"), Some("1 master=m"), Promotion::Asked);
    check(&o, "intend 42 to m");
}

#[test]
fn a_lost_record_does_not_end_it() {
    let data = "m awaiting 0/0 0:100\n a awaiting 0/0 0:90";
    let o = following(data, None, Promotion::Later);
    let actions = plan(&o, NOW).actions;
    let Some(Action::WriteRecord(record)) = actions.first() else { panic!("{actions:?}") };
    assert!(!record.initialized);
}

#[test]
fn r9_without_it_whoever_holds_its_data_is_the_first_master() {
    let mut o = following(FOLLOWING, Some("1 master=m"), Promotion::Later);
    o.external = None;
    check(&o, "intend 2");
    let text = "m awaiting 2/0 0:0 empty\n a replica 2/1 0:100\n b replica 2/1 0:90";
    let mut o = following(text, Some("2 master=m pending"), Promotion::Later);
    o.external = None;
    o.ended.insert("i-m".into());
    check(&o, "record 2 master a");
}

proptest! {
    #[test]
    fn before_the_first_master_nobody_is_promoted_and_its_choice_is_the_one_that_followed(
        statuses in prop::collection::vec(prop::option::of(status()), 1..5),
        epoch in 1u64..4, target in 0u8..3, ended in any::<bool>(), promotion in 0u8..4,
    ) {
        let text: Vec<_> = statuses.iter().enumerate().map(|(i, s)| format!("n{i} {}", s.clone().unwrap_or_default())).collect();
        let target = ["", "pending", "to=n0"][usize::from(target)];
        let promotion = [Promotion::Later, Promotion::WhenSynced, Promotion::Asked, Promotion::Now][usize::from(promotion)];
        let mut o = following(&text.join("\n"), Some(&format!("{epoch} master=n0 {target}")), promotion);
        if ended {
            o.ended.insert("i-n0".into());
        }
        let plan = plan(&o, NOW);
        let orders = plan.actions.iter().filter_map(|a| match a { Action::Send { order, .. } => Some(order), _ => None });
        for order in orders {
            let gives_a_role = matches!(order, Order::Promote { .. } | Order::Lease { .. } | Order::Handover { .. });
            prop_assert!(!gives_a_role, "{order:?}");
        }
        let writes: Vec<_> = plan.actions.iter().filter_map(|a| match a { Action::WriteRecord(r) => Some(r), _ => None }).collect();
        prop_assert!(writes.len() <= 1, "one write of the record at a time");
        for r in writes {
            prop_assert!(r.epoch >= epoch, "the epoch never goes back");
            let is_end = matches!(r.target, Some(Target::Named { .. }));
            prop_assert!(!is_end || promotion != Promotion::Later || target == "to=n0", "nobody has asked for it");
            if r.initialized {
                let s = o.answering("n0").unwrap();
                prop_assert!(target == "to=n0" && r.master.as_ref().unwrap().name == "n0" && r.target.is_none());
                prop_assert!(s.promised == r.epoch && s.role_epoch < r.epoch && !s.loading && !s.syncing);
                prop_assert!(s.has_data || s.caught_up);
                prop_assert!(r.members.iter().any(|m| m.name == "n0"));
            }
        }
    }
}
