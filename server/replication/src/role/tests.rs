//! A test for each rule of FAILOVER that an instance keeps, named after it.

use super::*;

const LEASE: u64 = 2000;
/// With room for clocks of another pace.
const GRANT: u64 = 2040;

fn fresh() -> Role {
    Role::new(Durable { volume: 1, ..Durable::default() }, 77, LEASE, 0)
}

fn master_with(k: usize, members: &[u64]) -> Role {
    let mut role = fresh();
    role.promise(1).unwrap();
    role.promote(1, 77, k, members.to_vec(), None).unwrap();
    role
}

fn master(members: &[u64]) -> Role {
    master_with(0, members)
}

fn replica(epoch: u64) -> Role {
    let mut role = fresh();
    role.follow("m", 1, epoch).unwrap();
    role
}

#[test]
fn r1_a_started_instance_awaits_and_takes_no_writes() {
    let mut role = fresh();
    assert_eq!((role.name(), role.may_write(0), role.role_epoch()), ("awaiting", false, 0));
    assert_eq!(role.may_serve(None), Err(Refusal::NotMaster(0)));
    assert!(!role.acknowledge(0), "it grants nothing");
}

#[test]
fn r1_a_replica_is_served_by_the_master_of_exactly_its_epoch() {
    let mut role = master(&[1, 2]);
    assert_eq!(role.may_serve(Some(1)), Ok(()));
    assert_eq!(role.may_serve(Some(2)), Err(Refusal::NotMaster(1)));
    assert_eq!(role.may_serve(Some(0)), Err(Refusal::NotMaster(1)));
    assert_eq!(role.may_serve(None), Ok(()));
    role.promise(2).unwrap();
    assert_eq!(role.may_serve(Some(1)), Err(Refusal::NotMaster(0)), "its reign is not in force any more");
    assert_eq!(replica(1).may_serve(Some(1)), Err(Refusal::NotMaster(0)));
}

#[test]
fn r2_a_promise_never_goes_down_and_is_repeatable_until_a_role_is_told() {
    let mut role = fresh();
    assert_eq!(role.promise(3), Ok(()));
    assert_eq!(role.promise(3), Ok(()));
    assert_eq!(role.promise(2), Err(Refusal::StaleEpoch(3)));
    role.follow("h", 1, 3).unwrap();
    assert_eq!(role.promise(3), Err(Refusal::StaleEpoch(3)));
    assert_eq!(role.promise(4), Ok(()));
    assert_eq!(role.durable.promised, 4);
}

#[test]
fn r2_the_first_epoch_is_one() {
    assert_eq!(fresh().promise(0), Err(Refusal::StaleEpoch(0)));
}

#[test]
fn r2_after_a_promise_nothing_of_a_lower_epoch_is_applied_acknowledged_or_granted() {
    let mut role = replica(3);
    assert!(role.may_follow() && role.acknowledge(5000));
    assert_eq!(role.grant_left(5000), GRANT);
    role.promise(4).unwrap();
    assert!(!role.may_follow() && !role.acknowledge(6000));
    assert_eq!(role.grant_left(6000), GRANT - 1000, "no new grant");
    role.on_attached(10);
    assert!(!role.on_applied(10) && !role.complete);
}

#[test]
fn r2_a_master_that_promises_a_higher_epoch_stops_taking_writes() {
    let mut role = master(&[1]);
    assert!(role.may_write(10));
    role.promise(2).unwrap();
    assert!(!role.may_write(10));
    assert_eq!(role.lease(1, 77, LEASE, 10, 10), Err(Refusal::StaleEpoch(2)), "nor is it given a lease again");
}

#[test]
fn r2_a_promise_outlives_the_process() {
    let mut role = fresh();
    role.promise(5).unwrap();
    let mut role = Role::new(role.durable.to_string().parse().unwrap(), 78, LEASE, 0);
    assert_eq!(role.promise(4), Err(Refusal::StaleEpoch(5)));
    assert_eq!(role.follow("h", 1, 4), Err(Refusal::StaleEpoch(5)));
    assert_eq!(role.promise(5), Ok(()), "no role was received at 5 by this process");
}

#[test]
fn r3_a_master_writes_by_the_operators_lease_counted_from_its_own_request() {
    let mut role = master(&[1, 2, 3]);
    assert!(!role.may_write(100));
    assert_eq!(role.lease(1, 77, LEASE, 100, 600), Ok(1500));
    assert!(role.may_write(2099) && !role.may_write(2100));
    assert_eq!(role.lease(1, 77, LEASE, 50, 700), Ok(1400), "an older request does not shorten it");
    assert_eq!(role.lease(1, 77, LEASE, 99_999, 700), Ok(2000), "a request from the future counts from now");
    assert_eq!(role.lease(1, 77, 99_999, 800, 800), Ok(2000), "nor is it longer than those who elect wait for");
}

#[test]
fn r3_a_lease_is_for_one_epoch_and_one_incarnation() {
    let mut role = master(&[1, 2]);
    assert_eq!(role.lease(2, 77, LEASE, 0, 0), Err(Refusal::StaleEpoch(1)));
    assert_eq!(role.lease(1, 78, LEASE, 0, 0), Err(Refusal::WrongIncarnation(77)));
    assert_eq!(replica(3).lease(3, 77, LEASE, 0, 0), Err(Refusal::NotMaster(3)));
    assert_eq!(fresh().lease(0, 77, LEASE, 0, 0), Err(Refusal::NotMaster(0)));
    assert!(!role.may_write(1));
}

#[test]
fn r3_or_by_more_than_half_of_its_replicas_that_are_members() {
    let mut role = master(&[1, 2, 3]);
    role.on_member_ack(2, 100);
    assert!(!role.may_write(200), "one of two replicas is not more than half");
    role.on_member_ack(9, 100);
    role.on_member_ack(1, 100);
    assert!(!role.may_write(200), "neither a stranger nor itself counts");
    role.on_member_ack(3, 50);
    assert!(role.may_write(2049) && !role.may_write(2050), "until the earlier of the two ends");
    let mut role = master(&[1, 2, 3, 4]);
    role.on_member_ack(2, 0);
    assert!(!role.may_write(1));
    role.on_member_ack(3, 0);
    assert!(role.may_write(1));
    let mut role = master(&[1, 2]);
    role.on_member_ack(2, 0);
    assert!(role.may_write(1), "one of one");
}

#[test]
fn r3_an_acknowledgement_is_a_lease_from_the_moment_of_the_request_that_it_covers() {
    let mut role = master(&[1, 2]);
    role.on_ack(1, 2, 50);
    assert_eq!(role.lease_until(), 0, "nothing was asked");
    role.on_lease_asked(100, 1000);
    role.on_lease_asked(200, 1500);
    role.on_ack(1, 2, 99);
    assert_eq!(role.lease_until(), 0);
    role.on_ack(1, 2, 199);
    assert_eq!(role.lease_until(), 1000 + LEASE, "the later request has not been seen yet");
    role.on_ack(1, 2, 250);
    assert_eq!(role.lease_until(), 1500 + LEASE);
    role.on_ack(1, 2, 100);
    assert_eq!(role.lease_until(), 1500 + LEASE, "an old acknowledgement takes nothing back");
}

#[test]
fn r3_requests_are_forgotten_in_time_and_never_mistaken_for_later_ones() {
    let mut role = master(&[1, 2]);
    (1..=1000).for_each(|n| role.on_lease_asked(n * 10, n * 500));
    assert!(role.reign().unwrap().asked.len() <= ASKED_MAX);
    role.on_ack(1, 2, 10);
    assert_eq!(role.lease_until(), 0, "a request that is forgotten grants nothing");
    role.on_ack(1, 2, 9999);
    assert_eq!(role.lease_until(), 999 * 500 + LEASE);
}

#[test]
fn r3_grants_to_an_earlier_reign_do_not_count_in_the_next() {
    let mut role = master(&[1, 2]);
    role.on_lease_asked(10, 100);
    role.on_ack(1, 2, 10);
    assert_eq!(role.lease(1, 77, LEASE, 100, 100), Ok(LEASE));
    role.promise(2).unwrap();
    role.promote(2, 77, 0, vec![1, 2], None).unwrap();
    assert_eq!(role.lease_until(), 0);
    role.on_ack(2, 2, 10);
    assert_eq!(role.lease_until(), 0, "what was asked then was asked for that epoch");
    role.on_lease_asked(20, 200);
    role.on_ack(1, 2, 20);
    assert_eq!(role.lease_until(), 0, "who follows the master of another epoch grants it nothing");
    role.on_ack(2, 2, 20);
    assert_eq!(role.lease_until(), 200 + LEASE);
}

#[test]
fn r3_without_replicas_no_lease_is_needed() {
    assert!(master(&[1]).may_write(u64::MAX - 1));
    assert!(!master(&[1, 2]).may_write(0));
}

#[test]
fn r3_a_start_counts_as_a_grant_to_every_master() {
    let mut role = Role::new(Durable::default(), 1, LEASE, 400);
    assert_eq!(role.grant_left(900), GRANT - 500);
    role.granted(1000);
    assert_eq!(role.grant_left(1000), GRANT);
    role.granted(500);
    assert_eq!(role.grant_left(1000), GRANT);
}

#[test]
fn r4_only_the_master_of_the_promised_epoch_is_acknowledged() {
    let mut role = replica(3);
    assert!(role.acknowledge(0));
    role.promise(9).unwrap();
    assert!(!role.acknowledge(0));
    role.follow("other", 2, 9).unwrap();
    assert!(role.acknowledge(0));
    assert!(!master(&[1, 2]).acknowledge(0), "a master acknowledges nothing");
}

#[test]
fn r5_complete_is_kept_over_an_orderly_shutdown_only() {
    let mut role = replica(1);
    role.on_caught_up();
    let stopped = role.at_shutdown(true);
    assert!(!role.at_shutdown(false).complete, "what was not saved is not held");
    let role = Role::new(stopped, 2, LEASE, 0);
    assert!(role.complete && !role.durable.complete);
    let crashed = Role::new(role.durable, 3, LEASE, 0);
    assert!(!crashed.complete);
    assert!(!Role::new(Durable::default(), 1, LEASE, 0).complete, "a new volume");
    assert!(!crashed.at_shutdown(true).complete, "not even orderly, if it was not complete before");
}

#[test]
fn r5_complete_comes_with_having_caught_up_with_the_promised_epochs_master() {
    let mut role = replica(1);
    assert!(!role.on_applied(u64::MAX) && !role.complete, "it does not know yet what the master has");
    role.on_attached(500);
    assert!(!role.on_applied(499) && !role.complete && !role.caught_up);
    assert!(role.on_applied(500), "that it is a member is to be stored");
    assert!(role.complete && role.caught_up && role.durable.member);
    assert!(!role.on_applied(501), "and only once");
}

#[test]
fn r5_another_link_in_the_same_epoch_leaves_it_caught_up() {
    let mut role = replica(1);
    role.on_attached(500);
    role.on_applied(500);
    role.on_attached(900);
    assert!(role.caught_up && role.complete);
    role.follow("m2", 1, 2).unwrap();
    assert!(!role.caught_up && role.complete, "another master is still to be caught up with, nothing is lost");
    role.on_applied(u64::MAX);
    assert!(!role.caught_up, "what the former master had says nothing of this one");
}

#[test]
fn r5_lost_data_is_not_complete() {
    let mut role = replica(1);
    role.on_caught_up();
    role.on_data_lost();
    assert!(!role.complete && !role.caught_up);
}

#[test]
fn r6_another_incarnation_refuses_promotion() {
    let mut role = fresh();
    role.promise(1).unwrap();
    assert_eq!(role.promote(1, 78, 0, vec![1], None), Err(Refusal::WrongIncarnation(77)));
    assert_eq!(role.name(), "awaiting");
}

#[test]
fn r6_a_restarted_master_has_no_role_and_no_lease() {
    let mut role = master(&[1, 2]);
    role.lease(1, 77, LEASE, 0, 0).unwrap();
    let mut role = Role::new(role.durable, 78, LEASE, 10);
    assert!(!role.may_write(10));
    assert_eq!(role.lease(1, 77, LEASE, 10, 10), Err(Refusal::WrongIncarnation(78)));
    assert_eq!(role.lease(1, 78, LEASE, 10, 10), Err(Refusal::NotMaster(0)));
    assert_eq!(role.promote(1, 77, 0, vec![1, 2], None), Err(Refusal::WrongIncarnation(78)));
}

#[test]
fn r7_promotion_needs_the_promise_and_whole_data() {
    let mut role = fresh();
    assert_eq!(role.promote(1, 77, 0, vec![1], None), Err(Refusal::StaleEpoch(0)));
    role.promise(1).unwrap();
    assert_eq!(role.promote(1, 77, 0, vec![1], Some("syncing")), Err(Refusal::NotReady("syncing")));
    assert_eq!(role.promote(2, 77, 0, vec![1], None), Err(Refusal::StaleEpoch(1)), "not ahead of the promise");
    assert_eq!(role.promote(1, 77, 0, vec![1], None), Ok(()));
    assert!(role.complete && role.durable.member);
    assert_eq!(role.promote(1, 77, 0, vec![1], None), Err(Refusal::StaleEpoch(1)), "a reign begins once");
}

#[test]
fn r7_a_replica_of_an_epoch_is_not_promoted_in_it() {
    let mut role = replica(1);
    assert_eq!(role.promote(1, 77, 0, vec![1], None), Err(Refusal::StaleEpoch(1)));
}

#[test]
fn r7_a_promoted_instance_waits_for_a_lease() {
    assert!(!master(&[1, 2]).may_write(0));
}

#[test]
fn r8_follow_stores_the_epoch_and_never_a_lower_one() {
    let mut role = fresh();
    assert_eq!(role.follow("a", 1, 5), Ok(true));
    assert_eq!(role.follow("a", 1, 5), Ok(false));
    assert_eq!(role.follow("b", 1, 4), Err(Refusal::StaleEpoch(5)));
    assert_eq!(role.durable.promised, 5);
    assert_eq!(role.follow("b", 1, 5), Ok(true), "its address may change");
}

#[test]
fn r8_a_master_does_not_follow_in_its_own_epoch() {
    assert_eq!(master(&[1, 2]).follow("a", 1, 1), Err(Refusal::StaleEpoch(1)));
}

#[test]
fn r9_a_volume_that_is_not_listed_is_not_promoted() {
    let mut role = fresh();
    role.promise(1).unwrap();
    assert!(matches!(role.promote(1, 77, 0, vec![2, 3], None), Err(Refusal::NotReady(_))));
}

#[test]
fn r10_a_handover_pauses_writes_for_a_bounded_time() {
    let mut role = master(&[1]);
    role.handover(1, 500, 1000).unwrap();
    assert!(role.paused(1499) && !role.may_write(1499) && role.may_write(1500));
    assert_eq!(role.handover(2, 500, 1000), Err(Refusal::NotMaster(1)));
    role.promise(2).unwrap();
    assert_eq!(role.handover(1, 500, 1000), Err(Refusal::NotMaster(1)), "it is master no more");
    assert_eq!(replica(4).handover(4, 500, 0), Err(Refusal::NotMaster(4)));
}

#[test]
fn r10_a_pause_does_not_outlive_the_role() {
    let mut role = master(&[1]);
    role.handover(1, 60_000, 0).unwrap();
    role.promise(2).unwrap();
    role.promote(2, 77, 0, vec![1], None).unwrap();
    assert!(role.may_write(1));
}

#[test]
fn r11_members_and_quorum_belong_to_the_epoch() {
    let mut role = master_with(1, &[1, 2, 2, 3]);
    assert_eq!(role.reign().map(|reign| (reign.k, reign.members.len())), Some((1, 3)), "each volume once");
    role.on_member_ack(2, 0);
    role.on_member_ack(3, 0);
    assert!(role.may_write(1));
    role.promise(2).unwrap();
    role.promote(2, 77, 2, vec![1, 2], None).unwrap();
    role.on_member_ack(3, 0);
    assert!(!role.may_write(1), "a removed member grants nothing");
    assert_eq!(role.reign().map(|reign| reign.k), Some(2));
}
