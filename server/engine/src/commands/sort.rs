//! SORT: a list, a set or a sorted set in the order of its elements or of what other keys say about them.

use std::borrow::Cow;
use std::cmp::Ordering;

use resp::Args;

use super::{R, WM, family};
use crate::command::{Acl, CommandResult, Flags, KeyPositions, Keys};
use crate::keyspace::ValueRef;
use crate::parse::{self, eq_ignore_case, integer};
use crate::types::{Hash, List, Object, Set, ZSet};
use crate::{CommandError, Ctx, KeysView};

const TYPES: Acl = Acl::SET.union(Acl::SORTEDSET).union(Acl::LIST).union(Acl::DANGEROUS);
/// BY and GET name keys that are known only when the elements are.
const WIDE: Flags = Flags::ALL_SHARDS.union(Flags::MOVABLE_KEYS);

family! { Generic, TYPES;
    "sort" sort(-2, Keys::Fn(with_destination), WM.union(WIDE)) "1.0.0" "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N)." "Sorts the elements in a list, a set, or a sorted set, optionally storing the result." "key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] [STORE destination]";
    "sort_ro" sort_ro(-2, Keys::ONE, R.union(WIDE)) "7.0.0" "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N)." "Returns the sorted elements of a list, a set, or a sorted set." "key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]";
}

/// The sorted key, and that of STORE: the last one counts.
fn with_destination(args: Args<'_>) -> KeyPositions {
    let (mut i, mut extra) = (2, 0);
    while i < args.len() {
        let word = args.at(i);
        i += if eq_ignore_case(word, "LIMIT") {
            3
        } else if eq_ignore_case(word, "BY") || eq_ignore_case(word, "GET") {
            2
        } else if eq_ignore_case(word, "STORE") && i + 1 < args.len() {
            extra = i + 1;
            2
        } else {
            1
        };
    }
    KeyPositions { first: 1, last: 1, step: 1, extra }
}

#[derive(Default)]
struct Request<'a> {
    by: Option<&'a [u8]>,
    get: Vec<&'a [u8]>,
    limit: Option<(i64, i64)>,
    descending: bool,
    alpha: bool,
    store: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    fn parse(args: Args<'a>, may_store: bool) -> Result<Self, CommandError> {
        let mut request = Self::default();
        let mut i = 2;
        while i < args.len() {
            let (word, left) = (args.at(i), args.len() - i - 1);
            i += 1;
            if eq_ignore_case(word, "ASC") {
                request.descending = false;
            } else if eq_ignore_case(word, "DESC") {
                request.descending = true;
            } else if eq_ignore_case(word, "ALPHA") {
                request.alpha = true;
            } else if eq_ignore_case(word, "LIMIT") && left >= 2 {
                request.limit = Some((integer(args.at(i))?, integer(args.at(i + 1))?));
                i += 2;
            } else if eq_ignore_case(word, "STORE") && left >= 1 && may_store {
                request.store = Some(args.at(i));
                i += 1;
            } else if eq_ignore_case(word, "BY") && left >= 1 {
                request.by = Some(args.at(i));
                i += 1;
            } else if eq_ignore_case(word, "GET") && left >= 1 {
                request.get.push(args.at(i));
                i += 1;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(request)
    }

    /// BY a name without `*` is the same for all elements: they stay as they are.
    fn in_order(&self) -> bool {
        self.by.is_some_and(|pattern| !pattern.contains(&b'*'))
    }

    fn range(&self, len: usize) -> std::ops::Range<usize> {
        let Some((offset, count)) = self.limit else { return 0..len };
        let start = usize::try_from(offset.max(0)).map_or(len, |n| n.min(len));
        let end = usize::try_from(count).map_or(len, |n| start.saturating_add(n).min(len));
        start..end
    }
}

/// What `pattern` says about an element: the value of the key that it becomes with the element for its `*`, or a field of
/// that key behind `->`.
fn look_up(keys: &mut KeysView<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|b| *b == b'*')?;
    let (before, behind) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = behind.windows(2).position(|w| w == b"->").filter(|at| at + 2 < behind.len());
    let (suffix, field) = match arrow {
        Some(at) => (&behind[..at], Some(&behind[at + 2..])),
        None => (behind, None),
    };
    let key = [before, element, suffix].concat();
    keys.forget_hash();
    match field {
        Some(field) => keys.get::<Hash>(&key).ok()??.get(field, |value| value.map(<[u8]>::to_vec)),
        None => keys.get_str(&key).ok()?.map(<[u8]>::to_vec),
    }
}

/// The elements as they lie there. `reversed`: a sorted set from its end.
fn elements(keys: &mut KeysView<'_>, key: &[u8], reversed: bool) -> Result<(Vec<Vec<u8>>, bool), CommandError> {
    let mut all = Vec::new();
    keys.count_lookups();
    let is_set = match keys.value(key) {
        None => false,
        Some(ValueRef::Str(_)) => return Err(CommandError::WrongType),
        Some(ValueRef::Object(object)) => match object {
            Object::List(list) => {
                push_list(list, &mut all);
                false
            }
            Object::Set(set) => {
                push_set(set, &mut all);
                true
            }
            Object::ZSet(zset) => {
                push_zset(zset, reversed, &mut all);
                false
            }
            Object::Hash(_) => return Err(CommandError::WrongType),
        },
    };
    Ok((all, is_set))
}

fn push_list(list: &List, all: &mut Vec<Vec<u8>>) {
    list.for_each_from(0, |_, item| {
        all.push(item.bytes().into_owned());
        true
    });
}

fn push_set(set: &Set, all: &mut Vec<Vec<u8>>) {
    set.for_each(|member| all.push(member.to_vec()));
}

fn push_zset(zset: &ZSet, reversed: bool, all: &mut Vec<Vec<u8>>) {
    let push = |member: &[u8], _| all.push(member.to_vec());
    if reversed { zset.for_each_rev(0..zset.len(), push) } else { zset.for_each(0..zset.len(), push) }
}

/// A number as C's `strtod` reads it for SORT: up to a zero byte, blanks in front are skipped, and nothing is 0.
fn weight(text: &[u8]) -> Result<f64, CommandError> {
    let text = text.split(|&b| b == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Ok(0.0);
    }
    parse::float_or_none(text.trim_ascii_start())
        .ok_or(CommandError::Static("ERR One or more scores can't be converted into double"))
}

/// Sorts by numbers, or by bytes; elements that are equal then by themselves.
fn arrange(keys: &mut KeysView<'_>, request: &Request<'_>, all: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut told = |element: &Vec<u8>| request.by.map(|pattern| look_up(keys, pattern, element));
    let mut sorted: Vec<Vec<u8>>;
    if request.alpha {
        // No answer comes before every answer.
        let mut weighed: Vec<(Option<Vec<u8>>, Vec<u8>)> =
            all.into_iter().map(|e| (told(&e).unwrap_or_else(|| Some(e.clone())), e)).collect();
        weighed.sort_by(|a, b| a.0.cmp(&b.0));
        sorted = weighed.into_iter().map(|(_, e)| e).collect();
    } else {
        let mut weighed = Vec::with_capacity(all.len());
        for element in all {
            let text = match told(&element) {
                Some(told) => told.map_or(Cow::Borrowed(&b"0"[..]), Cow::Owned),
                None => Cow::Borrowed(&element[..]),
            };
            weighed.push((weight(&text)?, element));
        }
        weighed.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(&b.1)));
        sorted = weighed.into_iter().map(|(_, e)| e).collect();
    }
    if request.descending {
        sorted.reverse();
    }
    Ok(sorted)
}

fn run(ctx: &mut Ctx<'_>, may_store: bool) -> CommandResult {
    let mut request = Request::parse(ctx.args, may_store)?;
    let reversed = request.in_order() && request.descending;
    let (mut all, is_set) = elements(&mut ctx.keys, ctx.args.at(1), reversed)?;
    if request.in_order() && is_set && request.store.is_some() {
        // A set has no order that replicas share: what is stored must have one.
        (request.by, request.alpha) = (None, true);
    }
    if !request.in_order() {
        all = arrange(&mut ctx.keys, &request, all)?;
    }
    let range = request.range(all.len());
    let chosen = &all[range];
    let patterns: &[&[u8]] = if request.get.is_empty() { &[b"#"] } else { &request.get };
    let mut results = Vec::with_capacity(chosen.len() * patterns.len());
    for element in chosen {
        results.extend(patterns.iter().map(|pattern| look_up(&mut ctx.keys, pattern, element)));
    }
    match request.store {
        None => {
            ctx.out.array(results.len());
            results.iter().for_each(|value| ctx.out.bulk_or_null(value.as_deref()));
        }
        Some(destination) => {
            let mut list = List::to_be_filled();
            let end = crate::types::list::End::Right;
            results.iter().for_each(|value| list.push(end, value.as_deref().unwrap_or_default(), ctx.limits));
            list.settle(ctx.limits);
            ctx.keys.put(destination, list);
            ctx.out.len_int(results.len());
        }
    }
    Ok(())
}

fn sort(ctx: &mut Ctx<'_>) -> CommandResult {
    run(ctx, true)
}

fn sort_ro(ctx: &mut Ctx<'_>) -> CommandResult {
    run(ctx, false)
}
