//! Redis's replication between two instances that nobody manages.

use proptest::prelude::*;
use replication::FeedState;
use replication::link::LinkError;

use crate::world::{Node, Pair, Snapshots, id};

fn pair() -> Pair {
    Pair::new(Node::new(1), Node::new(2))
}

fn lost() -> LinkError {
    LinkError::Io("lost".into())
}

#[test]
fn a_new_replica_copies_everything_and_then_follows() {
    for snapshots in [Snapshots::ByLength, Snapshots::ByMark] {
        let mut pair = pair();
        pair.snapshots = snapshots;
        (0..50).for_each(|n| pair.master.write(&format!("before {n}")));
        pair.settle();
        pair.assert_equal();
        assert_eq!(pair.state(), Some(FeedState::Online));
        pair.master.write("after");
        pair.settle();
        pair.assert_equal();
        assert_eq!((pair.replica.full_syncs, pair.replica.partial_syncs), (1, 0));
    }
}

#[test]
fn writes_during_a_sync_by_mark_wait_for_the_acknowledgement() {
    let mut pair = pair();
    pair.snapshots = Snapshots::ByMark;
    (0..50).for_each(|n| pair.master.write(&format!("before {n}")));
    pair.advance(0);
    let mut states = Vec::new();
    for n in 0..400 {
        if n % 10 == 0 {
            pair.master.write(&format!("during {n}"));
        }
        pair.carry(7);
        states.extend(pair.state().filter(|state| states.last() != Some(state)));
        pair.check();
    }
    assert_eq!(states, [FeedState::Sending, FeedState::WaitAck, FeedState::Online]);
    pair.settle();
    pair.assert_equal();
}

#[test]
fn a_cut_link_goes_on_where_it_was() {
    let mut pair = pair();
    pair.master.write("one");
    pair.settle();
    for n in 0..20 {
        pair.master.write(&format!("more {n}"));
        pair.carry(13);
        pair.cut(lost());
        pair.master.write(&format!("meanwhile {n}"));
        pair.run(2000);
        pair.assert_equal();
    }
    assert_eq!((pair.replica.full_syncs, pair.replica.partial_syncs), (1, 20));
}

#[test]
fn too_long_an_absence_costs_a_full_resync() {
    let mut pair = pair();
    pair.master.write("one");
    pair.settle();
    pair.cut(lost());
    (0..1000).for_each(|n| pair.master.write(&format!("meanwhile {n}")));
    pair.run(2000);
    pair.assert_equal();
    assert_eq!((pair.replica.full_syncs, pair.replica.partial_syncs), (2, 0));
}

#[test]
fn a_promoted_replica_is_followed_by_its_former_master_without_a_full_resync() {
    let mut pair = pair();
    (0..10).for_each(|n| pair.master.write(&format!("{n}")));
    pair.settle();
    pair.swap();
    pair.master.stand_alone(id(3));
    pair.master.write("of the new master");
    pair.run(1000);
    pair.assert_equal();
    assert_eq!((pair.replica.full_syncs, pair.replica.partial_syncs), (0, 1));
    assert_eq!(pair.replica.history.second, id(1));
}

#[test]
fn a_tail_that_the_new_master_does_not_have_is_not_kept() {
    let mut pair = pair();
    (0..10).for_each(|n| pair.master.write(&format!("{n}")));
    pair.settle();
    pair.cut(lost());
    pair.master.write("never replicated");
    pair.swap();
    pair.master.stand_alone(id(3));
    pair.run(1000);
    pair.assert_equal();
    assert_eq!((pair.replica.full_syncs, pair.replica.partial_syncs), (1, 0));
}

#[test]
fn silence_ends_the_connection_on_both_sides() {
    let mut pair = pair();
    pair.settle();
    // Nothing is carried: each side is alone with its clock.
    (0..70).for_each(|_| pair.advance(1000));
    assert!(pair.closed.is_some() || pair.errors.contains(&LinkError::Timeout));
    pair.master.write("later");
    pair.run(5000);
    pair.assert_equal();
}

#[test]
fn an_empty_master_does_not_empty_its_replica() {
    let mut pair = pair();
    (0..10).for_each(|n| pair.master.write(&format!("{n}")));
    pair.settle();
    let data = pair.replica.data.clone();
    pair.cut(lost());
    pair.master = Node::new(9);
    pair.run(10_000);
    assert_eq!((pair.replica.refused, &pair.replica.data), ("empty-master", &data));
    assert!(pair.errors.len() < 10, "it does not ask all the time: {}", pair.errors.len());
}

#[derive(Debug, Clone)]
enum Step {
    Write(u8),
    Carry(usize),
    Advance(u64),
    Cut,
    Swap { at_once: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any::<u8>().prop_map(Step::Write),
        8 => (1usize..300).prop_map(Step::Carry),
        3 => (1u64..3000).prop_map(Step::Advance),
        1 => Just(Step::Cut),
        1 => any::<bool>().prop_map(|at_once| Step::Swap { at_once }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever is written, lost and swapped: a replica that streams holds how its master began; left alone, both are
    /// equal, unless the fence protects data.
    #[test]
    fn a_replica_is_never_silently_wrong(steps in prop::collection::vec(step(), 1..150), by_mark: bool) {
        let mut pair = pair();
        pair.snapshots = if by_mark { Snapshots::ByMark } else { Snapshots::ByLength };
        pair.master.write("first");
        pair.settle();
        let mut next_id = 10u8;
        for step in steps {
            match step {
                Step::Write(n) => pair.master.write(&format!("{n}")),
                Step::Carry(n) => _ = pair.carry(n),
                Step::Advance(ms) => pair.advance(ms),
                Step::Cut => pair.cut(lost()),
                Step::Swap { at_once } => {
                    if !at_once {
                        pair.settle();
                    }
                    pair.swap();
                    next_id = next_id.wrapping_add(1);
                    pair.master.stand_alone(id(next_id));
                }
            }
            pair.check();
        }
        pair.run(40_000);
        prop_assert_eq!(pair.replica.refused, "");
        pair.assert_equal();
    }
}
