//! Small sorted sets: a listpack in which members and scores alternate, in order. Redis's own packed form.

use std::ops::Range;

use super::super::listpack::{Item, Listpack, Pos};

/// The member at `pos` and the place of its score.
fn score_pos(list: &Listpack, pos: Pos) -> Pos {
    list.next(pos).expect("members and scores come in pairs")
}

pub(super) fn score(item: Item<'_>) -> f64 {
    match item {
        Item::Int(n) => n as f64,
        Item::Str(text) => crate::parse::float_or_none(text).unwrap_or(0.0),
    }
}

/// A score as Redis stores it: an integer where it is one (-0 is 0), else `%.17g`.
fn push_score(score: f64, out: &mut Vec<u8>) {
    resp::number::format_f64(if score == 0.0 { 0.0 } else { score }, out);
}

/// Position of a member and its score.
pub(super) fn find(list: &Listpack, member: &[u8]) -> Option<(Pos, f64)> {
    let pos = list.find(member, 2)?;
    Some((pos, score(list.get(score_pos(list, pos)))))
}

/// Adds a member that is not there.
pub(super) fn insert(list: &mut Listpack, member: &[u8], new: f64) {
    let mut text = Vec::with_capacity(24);
    push_score(new, &mut text);
    let mut at = list.first();
    while let Some(pos) = at {
        let value = score_pos(list, pos);
        let other = score(list.get(value));
        if other > new || (other == new && list.get(pos).with(|name| name > member)) {
            list.insert(pos, &text);
            list.insert(pos, member);
            return;
        }
        at = list.next(value);
    }
    push_back(list, member, new);
}

/// Adds a member that comes behind all others.
pub(super) fn push_back(list: &mut Listpack, member: &[u8], new: f64) {
    let mut text = Vec::with_capacity(24);
    push_score(new, &mut text);
    list.push_back(member);
    list.push_back(&text);
}

pub(super) fn rank(list: &Listpack, member: &[u8]) -> Option<usize> {
    list.pairs().position(|(name, _)| name.is(member))
}

pub(super) fn count_scores(list: &Listpack, before: impl Fn(f64) -> bool) -> usize {
    list.pairs().take_while(|&(_, item)| before(score(item))).count()
}

pub(super) fn count_members(list: &Listpack, before: impl Fn(&[u8]) -> bool) -> usize {
    list.pairs().take_while(|&(name, _)| name.with(&before)).count()
}

pub(super) fn for_each(list: &Listpack, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
    list.pairs().skip(ranks.start).take(ranks.len()).for_each(|(name, item)| name.with(|bytes| f(bytes, score(item))));
}

pub(super) fn for_each_rev(list: &Listpack, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
    let mut at = ranks.end.checked_sub(1).and_then(|last| list.nth(2 * last));
    for _ in ranks {
        let Some(pos) = at else { return };
        let value = score(list.get(score_pos(list, pos)));
        list.get(pos).with(|bytes| f(bytes, value));
        at = list.prev(pos).and_then(|before| list.prev(before));
    }
}
