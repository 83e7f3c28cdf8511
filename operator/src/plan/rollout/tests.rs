//! Scenarios: what is seen of instances and pods, and which pod is replaced.

use proptest::prelude::*;

use super::super::plan;
use super::super::tests::{HEALTHY, NOW, observed};
use super::*;

const MINUTE: u64 = 60_000;

/// `name [old] [unready] [leaving] [stuck] [overdue]`, one pod a line.
fn pods(text: &str) -> Vec<PodSeen> {
    let pod = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let has = |flag: &str| words[1..].contains(&flag);
        PodSeen {
            name: words[0].into(),
            outdated: has("old").then(|| "another image".into()),
            leaving: has("leaving"),
            ready: !has("unready") && !has("stuck"),
            trouble: has("stuck").then(|| "its image cannot be pulled".into()),
            unwell_ms: if has("overdue") { 11 * MINUTE } else { 0 },
        }
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(pod).collect()
}

fn wishes() -> Wishes {
    Wishes { target_revision: "new".into(), sync_timeout_ms: 10 * MINUTE, ..Wishes::default() }
}

fn before(state: UpdateState) -> UpdateStatus {
    UpdateStatus { state, target_revision: "new".into(), ..UpdateStatus::default() }
}

fn decide(o: &Observed, pods: &[PodSeen], wishes: &Wishes, state: UpdateState) -> Rollout {
    rollout(o, &plan(o, NOW), pods, wishes, &before(state))
}

fn show(rollout: &Rollout) -> String {
    let step = match &rollout.step {
        Some(Step::Replace { pod }) => format!("replace {pod}"),
        Some(Step::SwitchOver) => "switch over".into(),
        None => "nothing".into(),
    };
    let waits = rollout.status.reason.clone();
    match rollout.status.state {
        UpdateState::Idle => step,
        UpdateState::Updating => format!("updating: {step}"),
        UpdateState::Paused => format!("paused: {step} {waits}"),
        UpdateState::Halted => format!("halted: {step} {waits}"),
    }
}

/// Under way, all instances as in [`HEALTHY`].
fn check(pods_seen: &str, want: &str) {
    let o = observed(HEALTHY, Some("1 master=m"));
    let decided = decide(&o, &pods(pods_seen), &wishes(), UpdateState::Updating);
    assert_eq!(show(&decided), want, "{:?}", decided.status);
}

#[test]
fn replicas_one_by_one_then_the_role_moves_then_the_old_master() {
    check("m old\n a old\n b old", "updating: replace b");
    check("m old\n a old\n b", "updating: replace a");
    check("m old\n a\n b", "updating: switch over");
    check("m\n a\n b", "nothing");
}

#[test]
fn nobody_is_replaced_while_another_is_not_well() {
    check("m old\n a old\n b leaving unready", "updating: nothing");
    check("m old\n a old\n b unready", "updating: nothing");
    check("m old\n a old", "updating: nothing");
    let catching_up = |line: &str| {
        let o = observed(&format!("m master 1/1 1:100\n a replica 1/1 1:100\n b {line}"), Some("1 master=m"));
        show(&decide(&o, &pods("m old\n a old\n b"), &wishes(), UpdateState::Updating))
    };
    assert_eq!(catching_up("replica 1/1 1:90"), "updating: replace a");
    for line in ["replica 1/1 1:90 behind", "replica 1/1 1:90 down", "awaiting 1/0 1:90", "replica 1/1 1:90 silent", ""]
    {
        assert_eq!(catching_up(line), "updating: nothing", "b is {line}");
    }
}

/// A pod without a claim comes back with another volume: until an election has let it in it is no member.
#[test]
fn one_that_is_no_member_yet_is_waited_for() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.record.as_mut().unwrap().members[2].volume = "lost".into();
    let decided = decide(&o, &pods("m old\n a old\n b"), &wishes(), UpdateState::Updating);
    assert_eq!(show(&decided), "updating: nothing");
    assert!(decided.status.message.contains("b is no member yet"), "{}", decided.status.message);
}

#[test]
fn nothing_is_replaced_while_roles_or_members_move() {
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.switchover = Some(None);
    assert_eq!(show(&decide(&o, &pods("m\n a\n b old"), &wishes(), UpdateState::Updating)), "updating: nothing");
    let mut o = observed(HEALTHY, Some("1 master=m"));
    o.quorum = 1;
    let decided = decide(&o, &pods("m\n a\n b old"), &wishes(), UpdateState::Updating);
    assert_eq!(decided.status.reason, "WaitsForRoles", "the quorum is about to change");
}

#[test]
fn a_pod_that_does_not_come_back_halts_the_update_until_it_does_or_the_spec_is_corrected() {
    let o = observed("m master 1/1 1:100\n a replica 1/1 1:100\n b", Some("1 master=m"));
    let seen = pods("m old\n a old\n b stuck");
    let halted = decide(&o, &seen, &wishes(), UpdateState::Updating);
    assert_eq!(show(&halted), "halted: nothing PodCannotRun");
    assert_eq!(halted.status.message, "b does not come back: its image cannot be pulled");

    // The kubelet's words change with every attempt; what was told stays.
    let mut other_words = seen.clone();
    other_words[2].trouble = Some("back-off".into());
    let again = rollout(&o, &plan(&o, NOW), &other_words, &wishes(), &halted.status);
    assert_eq!(again.status, halted.status);

    // Corrected: the stuck one goes first, although it is not well.
    let corrected = decide(&o, &pods("m old\n a old\n b old stuck"), &wishes(), UpdateState::Halted);
    assert_eq!(show(&corrected), "updating: replace b");
    // Or it comes back by itself.
    let o = observed(HEALTHY, Some("1 master=m"));
    let well = rollout(&o, &plan(&o, NOW), &pods("m old\n a old\n b"), &wishes(), &halted.status);
    assert_eq!(show(&well), "updating: replace a");
}

#[test]
fn one_that_is_too_slow_halts_it_too() {
    let o = observed("m master 1/1 1:100\n a replica 1/1 1:100\n b replica 1/1 1:10 behind", Some("1 master=m"));
    let halted = decide(&o, &pods("m old\n a old\n b overdue"), &wishes(), UpdateState::Updating);
    assert_eq!(show(&halted), "halted: nothing SyncTimeout");
    assert!(halted.status.message.starts_with("b has not caught up within 600 s"), "{}", halted.status.message);
    // One that was never replaced has nothing to do with it, and may be helped by it.
    let old = decide(&o, &pods("m old\n a old\n b old overdue"), &wishes(), UpdateState::Updating);
    assert_eq!(show(&old), "updating: replace b");
}

#[test]
fn supervised_it_waits_for_a_person_before_the_master() {
    let o = observed(HEALTHY, Some("1 master=m"));
    let mut wishes = Wishes { supervised: true, ..wishes() };
    assert_eq!(show(&decide(&o, &pods("m old\n a old\n b"), &wishes, UpdateState::Updating)), "updating: replace a");
    let paused = decide(&o, &pods("m old\n a\n b"), &wishes, UpdateState::Updating);
    assert_eq!(show(&paused), "paused: nothing WaitsForAPerson");
    wishes.approved = true;
    assert_eq!(show(&decide(&o, &pods("m old\n a\n b"), &wishes, UpdateState::Paused)), "updating: switch over");
    // Or the person has moved the role: the old master is a replica now.
    wishes.approved = false;
    let o = observed("m replica 2/2 2:120\n a master 2/2 2:120\n b replica 2/2 2:120", Some("2 master=a"));
    let mut o = o;
    for name in ["m", "b"] {
        o.instances.get_mut(name).unwrap().status.as_mut().unwrap().master_port = 7002;
    }
    assert_eq!(show(&decide(&o, &pods("m old\n a\n b"), &wishes, UpdateState::Paused)), "updating: replace m");
}

#[test]
fn a_master_alone_is_restarted_because_there_is_no_other_way() {
    let o = observed("m master 1/1 1:100", Some("1 master=m"));
    let alone = decide(&o, &pods("m old"), &wishes(), UpdateState::Idle);
    assert_eq!(show(&alone), "updating: replace m");
    assert!(alone.status.message.contains("writes stop meanwhile"), "{}", alone.status.message);
    let supervised = Wishes { supervised: true, ..wishes() };
    assert_eq!(show(&decide(&o, &pods("m old"), &supervised, UpdateState::Idle)), "paused: nothing WaitsForAPerson");
}

#[test]
fn held_it_says_what_is_to_be_restarted_and_touches_nothing() {
    let o = observed(HEALTHY, Some("1 master=m"));
    let wishes = Wishes { held: Some(("NoRestarts", "spec.reconciliation is NoRestarts")), ..wishes() };
    let held = decide(&o, &pods("m\n a old\n b old stuck"), &wishes, UpdateState::Idle);
    assert_eq!(show(&held), "paused: nothing NoRestarts");
    assert!(held.status.message.ends_with("to be restarted: a (another image), b (another image)"));
    assert_eq!(held.status.updated_pods, 1);
}

/// A failure has nothing to do with updates as long as none is under way; one that is goes on until all are well.
#[test]
fn an_update_ends_when_everybody_is_well() {
    let o = observed("m master 1/1 1:100\n a replica 1/1 1:100\n b", Some("1 master=m"));
    assert_eq!(show(&decide(&o, &pods("m\n a\n b unready"), &wishes(), UpdateState::Idle)), "nothing");
    assert_eq!(show(&decide(&o, &pods("m\n a\n b unready"), &wishes(), UpdateState::Updating)), "updating: nothing");
}

#[test]
fn with_no_master_only_what_cannot_run_is_replaced_and_only_if_its_data_stays() {
    let o = observed("m\n a\n b", Some("1 master=m"));
    let seen = pods("m old stuck\n a old stuck\n b old stuck");
    assert_eq!(show(&decide(&o, &seen, &wishes(), UpdateState::Updating)), "updating: replace m");
    let ephemeral = Wishes { ephemeral: true, ..wishes() };
    assert_eq!(show(&decide(&o, &seen, &ephemeral, UpdateState::Updating)), "updating: nothing");
    let never_had_data = observed("m\n a\n b", Some("1 pending fresh"));
    assert_eq!(show(&decide(&never_had_data, &seen, &ephemeral, UpdateState::Updating)), "updating: replace m");
}

fn flags() -> impl Strategy<Value = String> {
    prop::collection::vec(0usize..5, 0..3).prop_map(|flags| {
        let names = ["old", "unready", "leaving", "stuck", "overdue"];
        flags.iter().map(|&flag| names[flag]).collect::<Vec<_>>().join(" ")
    })
}

fn instance() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("replica 1/1 1:100"),
        Just("replica 1/1 1:100 down"),
        Just("replica 1/1 1:100 behind"),
        Just("awaiting 1/0 1:100"),
        Just("replica 1/1 1:100 silent"),
        Just("")
    ]
    .prop_map(String::from)
}

proptest! {
    #[test]
    fn whatever_is_seen_a_pod_that_runs_is_replaced_only_beside_others_that_are_all_well(
        instances in prop::collection::vec((instance(), flags()), 0..4), master in flags(), ephemeral in any::<bool>(),
    ) {
        let mut text = vec!["n0 master 1/1 1:100".to_string()];
        let mut seen = vec![format!("n0 {master}")];
        for (i, (instance, flags)) in instances.iter().enumerate() {
            text.push(format!("n{} {instance}", i + 1));
            seen.push(format!("n{} {flags}", i + 1));
        }
        let o = observed(&text.join("\n"), Some("1 master=n0"));
        let seen = pods(&seen.join("\n"));
        let plan = plan(&o, NOW);
        let decided = rollout(&o, &plan, &seen, &Wishes { ephemeral, ..wishes() }, &before(UpdateState::Updating));
        if let Some(Step::Replace { pod }) = &decided.step {
            let of = |name: &str| seen.iter().find(|pod| pod.name == name);
            let target = of(pod).unwrap();
            prop_assert!(target.outdated.is_some() && !target.leaving);
            prop_assert!(plan.master.as_ref() != Some(pod) || o.wanted.len() == 1, "the master of others is never replaced");
            let others = o.wanted.iter().filter(|name| *name != pod);
            let all_well = others.clone().all(|name| well(&o, &plan, of(name), name).is_ok());
            prop_assert!(all_well || o.answering(pod).is_none(), "{pod} runs, and another is not well");
        }
        if decided.step == Some(Step::SwitchOver) {
            prop_assert!(o.wanted.iter().all(|name| well(&o, &plan, seen.iter().find(|p| p.name == *name), name).is_ok()));
        }
    }

    /// A replaced pod comes back well, sooner or later; a switchover takes place: it comes to its end in as few steps as there are pods.
    #[test]
    fn it_comes_to_its_end_with_each_pod_replaced_once(
        replicas in 0usize..5, old in prop::collection::vec(any::<bool>(), 5), delay in 0usize..3, supervised in any::<bool>(),
    ) {
        let names: Vec<String> = (0..=replicas).map(|i| format!("n{i}")).collect();
        let mut outdated: Vec<bool> = names.iter().enumerate().map(|(i, _)| old[i]).collect();
        let (mut master, mut epoch, mut down): (usize, u64, Option<(usize, usize)>) = (0, 1, None);
        let (mut replaced, mut switched) = (vec![0; names.len()], 0);
        let wishes = Wishes { supervised, approved: true, ..wishes() };
        let mut status = before(UpdateState::Updating);
        for _ in 0..50 {
            let line = |i: usize| match down {
                Some((d, _)) if d == i => format!("n{i}"),
                _ if i == master => format!("n{i} master {epoch}/{epoch} 1:100"),
                _ => format!("n{i} replica {epoch}/{epoch} 1:100"),
            };
            let text: Vec<String> = (0..names.len()).map(line).collect();
            let mut o = observed(&text.join("\n"), Some(&format!("{epoch} master=n{master}")));
            let port = o.instances[&names[master]].port;
            for instance in o.instances.values_mut() {
                instance.status.iter_mut().for_each(|s| s.master_port = port);
            }
            let flags = |i: usize| format!("n{i}{}{}", if outdated[i] { " old" } else { "" }, if down.is_some_and(|(d, _)| d == i) { " unready" } else { "" });
            let seen: Vec<String> = (0..names.len()).map(flags).collect();
            let decided = rollout(&o, &plan(&o, NOW), &pods(&seen.join("\n")), &wishes, &status);
            status = decided.status;
            match decided.step {
                Some(Step::Replace { pod }) => {
                    let i = names.iter().position(|name| *name == pod).unwrap();
                    prop_assert!(down.is_none(), "two pods down");
                    (outdated[i], down) = (false, Some((i, delay)));
                    replaced[i] += 1;
                }
                Some(Step::SwitchOver) => {
                    prop_assert!(down.is_none());
                    let next = (0..names.len()).find(|i| *i != master && !outdated[*i]).expect("an updated replica");
                    (master, epoch) = (next, epoch + 1);
                    switched += 1;
                }
                None => {}
            }
            // A master alone comes back as the master.
            down = match down {
                Some((_, 0)) => None,
                Some((i, left)) => Some((i, left - 1)),
                None => None,
            };
        }
        prop_assert_eq!(status.state, UpdateState::Idle);
        prop_assert!(outdated.iter().all(|old| !old));
        for (i, times) in replaced.iter().enumerate() {
            prop_assert_eq!(*times, u32::from(old[i]), "n{}", i);
        }
        prop_assert!(switched <= 1 && (switched == 1) == (old[0] && replicas > 0));
    }
}
