//! The rules of FAILOVER between a managed master and a managed replica.

use replication::link::LinkError;
use replication::{Acks, Order};

use crate::world::{LEASE_MS, Node, Pair, id};

/// Both are told their roles at epoch 1; the volumes are 1 and 2.
fn pair() -> Pair {
    let mut pair = Pair::new(Node::managed(1, 0), Node::managed(2, 0));
    promote(&mut pair, 1);
    pair.replica.role().follow("m", 1, 1).unwrap();
    pair
}

/// Makes the master of the pair one at this epoch.
fn promote(pair: &mut Pair, epoch: u64) {
    let role = pair.master.role();
    role.promise(epoch).unwrap();
    let incarnation = role.incarnation;
    role.promote(epoch, incarnation, 1, vec![1, 2], None).unwrap();
    pair.master.begin_reign(epoch, id(100 + epoch as u8));
}

/// What a master does each quarter of a lease.
fn ask_for_leases(pair: &mut Pair) {
    pair.master.append(replication::records::PING);
    let (end, now_ms) = (pair.master.log.end(), pair.now_ms);
    pair.master.role().on_lease_asked(end, now_ms);
}

fn may_write(pair: &mut Pair) -> bool {
    let now_ms = pair.now_ms;
    pair.master.role().may_write(now_ms)
}

#[test]
fn r1_a_replica_of_another_epoch_is_sent_away_and_keeps_its_data() {
    let mut pair = pair();
    pair.master.write("x");
    pair.settle();
    pair.assert_equal();
    let data = pair.replica.data.clone();
    pair.cut(LinkError::Changed);
    pair.replica.role().follow("m2", 1, 2).unwrap();
    pair.run(3000);
    assert!(pair.errors.contains(&LinkError::NotMaster(1)), "{:?}", pair.errors);
    assert_eq!(pair.replica.data, data);
    promote(&mut pair, 2);
    pair.run(3000);
    pair.assert_equal();
    assert_eq!((pair.replica.full_syncs, pair.replica.history.epoch), (1, 2));
}

#[test]
fn r2_after_a_promise_nothing_more_is_applied_or_acknowledged() {
    let mut pair = pair();
    pair.settle();
    pair.master.write("seen");
    pair.settle();
    let (end, acked) = (pair.replica.log.end(), pair.feed_ack());
    let obeyed = pair.replica.role().obey(&Order::Promise { epoch: 2 }, None, 0).unwrap();
    assert!(obeyed.persist.is_some());
    *pair.replica.role() = obeyed.role;
    pair.cut(LinkError::Changed);
    pair.master.write("too late");
    ask_for_leases(&mut pair);
    pair.run(5000);
    assert_eq!(pair.replica.log.end(), end);
    assert!(pair.feed_ack().is_none() && acked <= Some(end), "it is not even attached");
    assert!(!may_write(&mut pair));
}

#[test]
fn r3_the_lease_of_a_replica_runs_from_the_masters_own_clock_and_ends_with_the_link() {
    let mut pair = pair();
    pair.settle();
    assert!(!may_write(&mut pair), "nothing was granted yet");
    pair.now_ms = 1000;
    ask_for_leases(&mut pair);
    // The answer takes its time; the lease is counted from the question.
    pair.now_ms = 1700;
    pair.settle();
    assert!(may_write(&mut pair));
    assert_eq!(pair.master.role().lease_until(), 1000 + LEASE_MS);
    assert!(pair.replica.role().grant_left(1700) >= LEASE_MS, "the replica counts from later, so it ends later");
    pair.cut(LinkError::Changed);
    pair.now_ms = 1000 + LEASE_MS;
    assert!(!may_write(&mut pair));
}

#[test]
fn r4_an_acknowledged_write_is_held_by_the_replica() {
    let mut pair = pair();
    pair.settle();
    pair.master.write("x");
    let end = pair.master.log.end();
    let acks: Vec<_> =
        pair.feed_ack().map(|offset| replication::Ack { offset, at_ms: 0, volume: Some(2) }).into_iter().collect();
    assert_eq!(Acks(&acks).members_holding(end, &[1, 2]), 0);
    pair.run(1100);
    assert!(pair.feed_ack() >= Some(end));
    assert_eq!(pair.replica.data, pair.master.data);
}

#[test]
fn r5_a_replica_that_is_far_behind_is_complete_only_when_it_has_caught_up() {
    let mut pair = pair();
    pair.settle();
    assert!(pair.replica.role().complete, "a full resync holds all that there was");
    pair.cut(LinkError::Changed);
    let durable = pair.replica.role().durable.clone();
    *pair.replica.role() = replication::Role::new(durable, 200, LEASE_MS, 0);
    (0..100).for_each(|n| pair.master.write(&format!("while it was down {n}")));
    pair.replica.role().follow("m", 1, 1).unwrap();
    pair.advance(100);
    let end = pair.master.log.end();
    while pair.replica.log.end() < end {
        assert!(!pair.replica.role().complete, "at {} of {end}", pair.replica.log.end());
        assert!(pair.carry(50) > 0);
    }
    assert!(pair.replica.role().complete && pair.replica.role().caught_up);
    assert_eq!(pair.replica.partial_syncs, 1);
}

#[test]
fn r7_the_epoch_of_a_replica_rises_only_when_it_holds_what_came_before() {
    let mut pair = pair();
    pair.settle();
    assert_eq!(pair.replica.history.epoch, 1);
    pair.master.write("of epoch one");
    pair.cut(LinkError::Changed);
    promote(&mut pair, 2);
    pair.replica.role().follow("m", 1, 2).unwrap();
    pair.advance(100);
    let mark_end = pair.master.log.end();
    while pair.replica.log.end() < mark_end {
        assert_eq!(pair.replica.history.epoch, 1, "at {}", pair.replica.log.end());
        assert!(pair.carry(1) > 0);
    }
    assert_eq!(pair.replica.history.epoch, 2);
    pair.assert_equal();
}

#[test]
fn r8_an_empty_master_is_refused_until_it_is_allowed_once() {
    let mut pair = pair();
    (0..20).for_each(|n| pair.master.write(&format!("{n}")));
    pair.settle();
    let data = pair.replica.data.clone();
    pair.cut(LinkError::Changed);
    pair.master = Node::managed(3, 0);
    promote_other(&mut pair, 2);
    pair.replica.role().follow("m", 1, 2).unwrap();
    pair.run(10_000);
    assert_eq!((pair.replica.refused, &pair.replica.data), ("empty-master", &data));
    assert!(!pair.replica.role().caught_up);
    let obeyed = pair.replica.role().obey(&Order::AcceptMaster, None, 0).unwrap();
    *pair.replica.role() = obeyed.role;
    pair.link.retry_now(pair.now_ms);
    pair.settle();
    pair.assert_equal();
    assert!(pair.replica.data.is_empty() && !pair.replica.role().accept_once);
}

/// A master on volume 3, which lost what the others hold.
fn promote_other(pair: &mut Pair, epoch: u64) {
    let role = pair.master.role();
    role.promise(epoch).unwrap();
    role.promote(epoch, 103, 1, vec![2, 3], None).unwrap();
    pair.master.begin_reign(epoch, id(77));
}

#[test]
fn r8_a_tail_that_the_new_master_lacks_is_replaced_and_not_joined() {
    let mut pair = pair();
    (0..20).for_each(|n| pair.master.write(&format!("{n}")));
    pair.settle();
    pair.cut(LinkError::Changed);
    pair.master.write("never acknowledged");
    pair.swap();
    promote(&mut pair, 2);
    pair.replica.role().follow("m", 1, 2).unwrap();
    pair.run(2000);
    pair.assert_equal();
    assert_eq!((pair.replica.full_syncs, pair.replica.history.epoch), (1, 2));
}

#[test]
fn r10_a_switchover_needs_no_full_resync() {
    let mut pair = pair();
    (0..20).for_each(|n| pair.master.write(&format!("{n}")));
    pair.settle();
    let now_ms = pair.now_ms;
    pair.master.role().handover(1, 500, now_ms).unwrap();
    assert!(!may_write(&mut pair));
    pair.run(1100);
    assert_eq!(pair.feed_ack(), Some(pair.master.log.end()), "the target holds the final offset");
    pair.master.role().promise(2).unwrap();
    pair.swap();
    promote(&mut pair, 2);
    pair.replica.role().follow("m", 1, 2).unwrap();
    pair.run(1000);
    pair.assert_equal();
    assert_eq!((pair.replica.full_syncs, pair.replica.partial_syncs), (0, 1));
}
