use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Model = BTreeMap<Vec<u8>, f64>;

/// The model's members in order.
fn sorted(model: &Model) -> Vec<(Vec<u8>, f64)> {
    let mut all: Vec<_> = model.iter().map(|(name, score)| (name.clone(), *score)).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    all
}

/// Everything that a set can be asked is what the model says.
fn compare(zset: &ZSet, model: &Model) -> Result<(), TestCaseError> {
    if let ZSet::Full(full) = zset {
        full.check();
    }
    let want = sorted(model);
    prop_assert_eq!(zset.len(), want.len());
    let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
    zset.for_each(0..zset.len(), |name, score| forwards.push((name.to_vec(), score)));
    zset.for_each_rev(0..zset.len(), |name, score| backwards.push((name.to_vec(), score)));
    prop_assert_eq!(&forwards, &want);
    backwards.reverse();
    prop_assert_eq!(&backwards, &want);
    for (rank, (name, score)) in want.iter().enumerate().step_by(want.len() / 8 + 1) {
        prop_assert_eq!(zset.rank(name), Some(rank));
        prop_assert_eq!(zset.score(name), Some(*score));
        prop_assert_eq!(zset.count_scores(|s| s < *score), want.iter().filter(|(_, s)| s < score).count());
        let end = (rank + 5).min(want.len());
        let (mut part, mut back) = (Vec::new(), Vec::new());
        zset.for_each(rank..end, |name, score| part.push((name.to_vec(), score)));
        zset.for_each_rev(rank..end, |name, score| back.push((name.to_vec(), score)));
        back.reverse();
        prop_assert_eq!(&part, &want[rank..end]);
        prop_assert_eq!(&back, &want[rank..end]);
    }
    Ok(())
}

#[derive(Debug, Clone)]
enum Op {
    /// Several at once, so that a few operations make nodes that split and merge.
    Insert {
        from: u16,
        n: u16,
        score: i8,
        step: i8,
    },
    Remove {
        from: u16,
        n: u16,
    },
    RemoveRanks(prop::sample::Index, u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u16..600, 1u16..150, any::<i8>(), -1i8..=1)
            .prop_map(|(from, n, score, step)| Op::Insert { from, n, score, step }),
        2 => (0u16..600, 1u16..80).prop_map(|(from, n)| Op::Remove { from, n }),
        1 => (any::<prop::sample::Index>(), 0u16..200).prop_map(|(at, n)| Op::RemoveRanks(at, n)),
    ]
}

/// Names of every kind: numbers, short ones, ones that need an allocation.
fn name(i: u16) -> Vec<u8> {
    match i % 4 {
        0 => i.to_string().into_bytes(),
        1 => format!("m{i}").into_bytes(),
        2 => format!("a member of twenty-two {i:>6}").into_bytes(),
        _ => i.to_be_bytes().to_vec(),
    }
}

fn run(ops: &[Op], limits: &Limits) -> Result<(), TestCaseError> {
    let (mut zset, mut model) = (ZSet::new(limits), Model::new());
    for op in ops {
        match *op {
            Op::Insert { from, n, score, step } => {
                for i in 0..n {
                    let name = name(from.wrapping_add(i));
                    let score = f64::from(score) / 4.0 + f64::from(step) * f64::from(i);
                    prop_assert_eq!(zset.insert(&name, score, limits), model.insert(name, score).is_none());
                }
            }
            Op::Remove { from, n } => {
                for i in 0..n {
                    let name = name(from.wrapping_add(i));
                    prop_assert_eq!(zset.remove(&name), model.remove(&name));
                }
            }
            Op::RemoveRanks(at, n) => {
                let all = sorted(&model);
                let start = at.index(all.len() + 1);
                let end = (start + usize::from(n)).min(all.len());
                zset.remove_ranks(start..end);
                all[start..end].iter().for_each(|(name, _)| {
                    model.remove(name);
                });
            }
        }
        compare(&zset, &model)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_sorted_set_is_a_map_in_order(ops in prop::collection::vec(op(), 1..30)) {
        run(&ops, &Limits { zset_max_listpack_entries: 0, ..Limits::default() })?;
    }

    #[test]
    fn a_packed_set_is_one_too(ops in prop::collection::vec(op(), 1..12)) {
        run(&ops, &Limits { zset_max_listpack_entries: usize::MAX, ..Limits::default() })?;
    }

    #[test]
    fn and_one_that_is_unpacked_as_it_grows(ops in prop::collection::vec(op(), 1..12)) {
        run(&ops, &Limits::default())?;
    }
}

fn full_limits() -> Limits {
    Limits { zset_max_listpack_entries: 0, ..Limits::default() }
}

fn full(zset: &ZSet) -> &Full {
    match zset {
        ZSet::Full(full) => full,
        ZSet::Packed(_) => panic!("it is packed"),
    }
}

fn filled(scores: impl Iterator<Item = u32>) -> ZSet {
    let mut zset = ZSet::new(&full_limits());
    scores.for_each(|i| {
        zset.insert(format!("member:{i:08}").as_bytes(), f64::from(i), &full_limits());
    });
    zset
}

#[test]
fn ranks_hold_in_a_set_of_many_levels() {
    const N: u32 = 100_000;
    let zset = filled((0..N).map(|i| i.wrapping_mul(7919) % N));
    full(&zset).check();
    for i in (0..N).step_by(997) {
        assert_eq!(zset.rank(format!("member:{i:08}").as_bytes()), Some(i as usize));
        assert_eq!(zset.count_scores(|score| score <= f64::from(i)), i as usize + 1);
    }
}

#[test]
fn members_that_come_in_order_fill_their_nodes() {
    assert!(full(&filled(0..10_000)).fill() > 60.0, "rising scores");
    assert!(full(&filled((0..10_000).rev())).fill() > 60.0, "falling scores, as an RDB file has them");
    assert!(full(&filled((0..10_000u32).map(|i| i.wrapping_mul(7919) % 10_000))).fill() > 38.0, "any order");
}

#[test]
fn a_set_that_shrinks_gives_its_places_back() {
    let mut zset = filled(0..20_000);
    for i in (0..20_000).filter(|i| i % 100 != 0) {
        zset.remove(format!("member:{i:08}").as_bytes());
    }
    full(&zset).check();
    assert_eq!(zset.len(), 200);
    assert!(full(&zset).numbers() < 1_000, "{} numbers for 200 members", full(&zset).numbers());
    let mut zset = filled(0..20_000);
    zset.remove_ranks(100..19_900);
    full(&zset).check();
    assert!(full(&zset).numbers() < 1_000, "{} numbers for 200 members", full(&zset).numbers());
}

#[test]
fn a_scan_sees_every_member_that_stays_while_others_come_and_go() {
    let mut zset = filled(0..5_000);
    let (mut seen, mut cursor, mut round) = (std::collections::BTreeSet::new(), 0, 0u32);
    loop {
        cursor = zset.scan(cursor, 10, |name, _| {
            seen.insert(name.to_vec());
        });
        if cursor == 0 {
            break;
        }
        // All members but each fiftieth go within the first quarter of the scan; new ones come in their places.
        (0..40).map(|i| round * 40 + i).filter(|i| i % 50 != 0).for_each(|i| {
            zset.remove(format!("member:{i:08}").as_bytes());
        });
        if round % 3 == 0 {
            zset.insert(format!("new:{round}").as_bytes(), 1.0, &full_limits());
        }
        round += 1;
    }
    full(&zset).check();
    for i in (0..5_000).step_by(50) {
        assert!(seen.contains(format!("member:{i:08}").as_bytes()), "member {i} was there throughout");
    }
}

#[test]
fn a_negative_zero_keeps_its_sign_only_in_a_full_set() {
    let mut zset = ZSet::new(&Limits::default());
    zset.insert(b"a", -0.0, &Limits::default());
    assert!(zset.score(b"a").is_some_and(f64::is_sign_positive));
    let mut zset = ZSet::new(&full_limits());
    zset.insert(b"a", -0.0, &full_limits());
    assert!(zset.score(b"a").is_some_and(f64::is_sign_negative));
}

#[test]
fn limits_decide_when_a_set_is_unpacked() {
    let limits = Limits { zset_max_listpack_entries: 3, zset_max_listpack_value: 5, ..Limits::default() };
    let mut zset = ZSet::new(&limits);
    for member in ["a", "bb", "12345"] {
        zset.insert(member.as_bytes(), 1.0, &limits);
    }
    zset.insert(b"a", 2.0, &limits);
    assert_eq!(zset.encoding(), "listpack");
    zset.insert(b"c", 1.0, &limits);
    assert_eq!((zset.encoding(), zset.len()), ("skiplist", 4));
    let mut zset = ZSet::new(&limits);
    zset.insert(b"123456", 1.0, &limits);
    assert_eq!(zset.encoding(), "skiplist");
}

#[test]
fn a_result_is_packed_if_the_limits_allow_it() {
    let limits = Limits { zset_max_listpack_entries: 3, zset_max_listpack_value: 5, ..Limits::default() };
    let mut zset = ZSet::unpacked();
    for (member, score) in [("b", 2.5), ("a", 2.5), ("12345", -1.0)] {
        zset.insert(member.as_bytes(), score, &limits);
    }
    let mut members = Vec::new();
    let packed = zset.clone().pack(&limits);
    packed.for_each(0..3, |member, score| members.push((String::from_utf8_lossy(member).into_owned(), score)));
    assert_eq!(packed.encoding(), "listpack");
    assert_eq!(members, [("12345".into(), -1.0), ("a".into(), 2.5), ("b".into(), 2.5)]);
    let mut long = zset.clone();
    long.remove(b"a");
    long.insert(b"123456", 0.0, &limits);
    assert_eq!(long.pack(&limits).encoding(), "skiplist");
    zset.insert(b"d", 0.0, &limits);
    assert_eq!(zset.pack(&limits).encoding(), "skiplist");
}
