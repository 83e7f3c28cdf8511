//! Lists, without the blocking commands.

use super::hashes::signed_count;
use super::{R, RF, W, WF, WM, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case, integer};
use crate::types::List;
use crate::types::list::End;
use crate::types::listpack::Item;
use crate::{CommandError, Ctx};

family! { List, Acl::LIST;
    "lpush" lpush(-3, Keys::ONE, WMF) "1.0.0" "O(1) for each element added." "Prepends one or more elements to a list. Creates the key if it doesn't exist." "key element [element ...]";
    "rpush" rpush(-3, Keys::ONE, WMF) "1.0.0" "O(1) for each element added." "Appends one or more elements to a list. Creates the key if it doesn't exist." "key element [element ...]";
    "lpushx" lpushx(-3, Keys::ONE, WMF) "2.2.0" "O(1) for each element added." "Prepends one or more elements to a list only when the list exists." "key element [element ...]";
    "rpushx" rpushx(-3, Keys::ONE, WMF) "2.2.0" "O(1) for each element added." "Appends an element to a list only when the list exists." "key element [element ...]";
    "lpop" lpop(-2, Keys::ONE, WF) "1.0.0" "O(N) where N is the number of elements returned" "Returns the first elements in a list after removing it. Deletes the list if the last element was popped." "key [count]";
    "rpop" rpop(-2, Keys::ONE, WF) "1.0.0" "O(N) where N is the number of elements returned" "Returns and removes the last elements of a list. Deletes the list if the last element was popped." "key [count]";
    "llen" llen(2, Keys::ONE, RF) "1.0.0" "O(1)" "Returns the length of a list." "key";
    "lindex" lindex(3, Keys::ONE, R) "1.0.0" "O(N) where N is the number of elements to traverse to get to the element at index." "Returns an element from a list by its index." "key index";
    "lset" lset(4, Keys::ONE, WM) "1.0.0" "O(N) where N is the length of the list." "Sets the value of an element in a list by its index." "key index element";
    "linsert" linsert(5, Keys::ONE, WM) "2.2.0" "O(N) where N is the number of elements to traverse before seeing the value pivot." "Inserts an element before or after another element in a list." "key <BEFORE | AFTER> pivot element";
    "lrange" lrange(4, Keys::ONE, R) "1.0.0" "O(S+N) where S is the distance of start offset from the nearer end and N is the number of elements in the range." "Returns a range of elements from a list." "key start stop";
    "lrem" lrem(4, Keys::ONE, W) "1.0.0" "O(N+M) where N is the length of the list and M is the number of elements removed." "Removes elements from a list. Deletes the list if the last element was removed." "key count element";
    "ltrim" ltrim(4, Keys::ONE, W) "1.0.0" "O(N) where N is the number of elements to be removed by the operation." "Removes elements from both ends a list. Deletes the list if all elements were trimmed." "key start stop";
    "lpos" lpos(-3, Keys::ONE, R) "6.0.6" "O(N) where N is the number of elements in the list." "Returns the index of matching elements in a list." "key element [RANK rank] [COUNT num-matches] [MAXLEN len]";
    "rpoplpush" rpoplpush(3, Keys::TWO, WM) "1.2.0" "O(1)" "Returns the last element of a list after removing and pushing it to another list. Deletes the list if the last element was popped." "source destination";
    "lmove" lmove(5, Keys::TWO, WM) "6.2.0" "O(1)" "Returns an element after popping it from one list and pushing it to another. Deletes the list if the last element was moved." "source destination <LEFT | RIGHT> <LEFT | RIGHT>";
    "lmpop" lmpop(-4, Keys::Counted { at: 1, extra: 0 }, W) "7.0.0" "O(N+M) where N is the number of provided keys and M is the number of elements returned." "Returns multiple elements from a list after removing them. Deletes the list if the last element was popped." "numkeys key [key ...] <LEFT | RIGHT> [COUNT count]";
}

fn push(ctx: &mut Ctx<'_>, end: End, absent: Absent) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    let len = ctx.keys.edit(args.at(1), absent, |list: &mut List| {
        list.push_all(end, args.skip(2).iter(), limits);
        (list.len(), args.len() as u64 - 2)
    })?;
    ctx.out.len_int(len.unwrap_or(0));
    Ok(())
}

fn lpush(ctx: &mut Ctx<'_>) -> CommandResult {
    push(ctx, End::Left, Absent::Create)
}

fn rpush(ctx: &mut Ctx<'_>) -> CommandResult {
    push(ctx, End::Right, Absent::Create)
}

fn lpushx(ctx: &mut Ctx<'_>) -> CommandResult {
    push(ctx, End::Left, Absent::Skip)
}

fn rpushx(ctx: &mut Ctx<'_>) -> CommandResult {
    push(ctx, End::Right, Absent::Skip)
}

/// Removes up to `count` elements of a list that exists and replies them as an array.
fn pop_many(ctx: &mut Ctx<'_>, key: &[u8], end: End, count: usize) -> Result<usize, CommandError> {
    let (out, limits) = (&mut *ctx.out, ctx.limits);
    let popped = ctx.keys.edit(key, Absent::Skip, |list: &mut List| {
        let n = count.min(list.len());
        out.array(n);
        for _ in 0..n {
            list.pop(end, |value| out.bulk(value));
        }
        list.shrunk(limits);
        (n, n as u64)
    })?;
    Ok(popped.unwrap_or(0))
}

fn pop(ctx: &mut Ctx<'_>, end: End) -> CommandResult {
    let key = ctx.args.at(1);
    match ctx.args.len() {
        2 => {
            let (out, limits) = (&mut *ctx.out, ctx.limits);
            let popped = ctx.keys.edit(key, Absent::Skip, |list: &mut List| {
                let popped = list.pop(end, |value| out.bulk(value)).is_some();
                list.shrunk(limits);
                (popped, u64::from(popped))
            })?;
            if popped != Some(true) {
                ctx.out.null();
            }
        }
        3 => {
            let count = parse::count(ctx.args.at(2))?;
            if ctx.keys.get::<List>(key)?.is_none() {
                ctx.out.null_array();
            } else {
                pop_many(ctx, key, end, count)?;
            }
        }
        _ => return Err(CommandError::Arity(if end == End::Left { "lpop" } else { "rpop" }.into())),
    }
    Ok(())
}

fn lpop(ctx: &mut Ctx<'_>) -> CommandResult {
    pop(ctx, End::Left)
}

fn rpop(ctx: &mut Ctx<'_>) -> CommandResult {
    pop(ctx, End::Right)
}

fn llen(ctx: &mut Ctx<'_>) -> CommandResult {
    let len = ctx.keys.get::<List>(ctx.args.at(1))?.map_or(0, List::len);
    ctx.out.len_int(len);
    Ok(())
}

fn reply(out: &mut resp::Encoder, item: Item<'_>) {
    match item {
        Item::Int(n) => out.bulk_int(n),
        Item::Str(bytes) => out.bulk(bytes),
    }
}

fn lindex(ctx: &mut Ctx<'_>) -> CommandResult {
    // The key is looked up first: of a list that is not there any index is nil.
    let Some(list) = ctx.keys.get::<List>(ctx.args.at(1))? else {
        ctx.out.null();
        return Ok(());
    };
    let index = integer(ctx.args.at(2))?;
    match list.index(index).and_then(|at| list.get(at)) {
        Some(item) => reply(ctx.out, item),
        None => ctx.out.null(),
    }
    Ok(())
}

fn lset(ctx: &mut Ctx<'_>) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    ctx.keys.check::<List>(args.at(1))?.then_some(()).ok_or(CommandError::NoSuchKey)?;
    let index = integer(args.at(2))?;
    let set = ctx.keys.edit(args.at(1), Absent::Skip, |list: &mut List| {
        list.prepare(args.at(3).len(), 1, limits);
        let set = list.index(index).is_some_and(|at| list.set(at, args.at(3), limits));
        if set {
            list.shrunk(limits);
        }
        (set, u64::from(set))
    })?;
    if set != Some(true) {
        return Err(CommandError::IndexOutOfRange);
    }
    ctx.out.ok();
    Ok(())
}

fn linsert(ctx: &mut Ctx<'_>) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    let after = match args.at(2) {
        word if eq_ignore_case(word, "AFTER") => true,
        word if eq_ignore_case(word, "BEFORE") => false,
        _ => return Err(CommandError::Syntax),
    };
    let len = ctx.keys.edit(args.at(1), Absent::Skip, |list: &mut List| {
        list.prepare(args.at(4).len(), 1, limits);
        let (mut pivot, wanted) = (None, Item::of(args.at(3)));
        list.for_each_from(0, |i, item| {
            pivot = (item == wanted).then_some(i);
            pivot.is_none()
        });
        match pivot {
            Some(at) => {
                list.insert(at + usize::from(after), args.at(4), limits);
                (list.len() as i64, 1)
            }
            None => (-1, 0),
        }
    })?;
    ctx.out.int(len.unwrap_or(0));
    Ok(())
}

fn lrange(ctx: &mut Ctx<'_>) -> CommandResult {
    let (start, stop) = (integer(ctx.args.at(2))?, integer(ctx.args.at(3))?);
    let list = ctx.keys.get::<List>(ctx.args.at(1))?;
    let Some((list, range)) = list.and_then(|list| Some((list, parse::range(start, stop, list.len())?))) else {
        ctx.out.array(0);
        return Ok(());
    };
    ctx.out.array(range.len());
    let out = &mut *ctx.out;
    list.for_each_from(range.start, |i, item| {
        reply(out, item);
        i + 1 < range.end
    });
    Ok(())
}

fn lrem(ctx: &mut Ctx<'_>) -> CommandResult {
    let args = ctx.args;
    let count = integer(args.at(2))?;
    let end = if count < 0 { End::Right } else { End::Left };
    let max = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let limits = ctx.limits;
    let gone = ctx.keys.edit(args.at(1), Absent::Skip, |list: &mut List| {
        let gone = list.remove_value(end, args.at(3), max);
        if gone > 0 {
            list.shrunk(limits);
        }
        (gone, gone as u64)
    })?;
    ctx.out.len_int(gone.unwrap_or(0));
    Ok(())
}

fn ltrim(ctx: &mut Ctx<'_>) -> CommandResult {
    let (start, stop) = (integer(ctx.args.at(2))?, integer(ctx.args.at(3))?);
    let limits = ctx.limits;
    ctx.keys.edit(ctx.args.at(1), Absent::Skip, |list: &mut List| {
        let before = list.len();
        let keep = parse::range(start, stop, before).unwrap_or(0..0);
        list.remove_range(keep.end..before);
        list.remove_range(0..keep.start);
        list.shrunk(limits);
        ((), (before - list.len()) as u64)
    })?;
    ctx.out.ok();
    Ok(())
}

fn lpos(ctx: &mut Ctx<'_>) -> CommandResult {
    let (mut rank, mut count, mut maxlen) = (1i64, None, 0usize);
    let natural = |arg: &[u8], error| {
        let n = resp::number::parse_i64(arg).and_then(|n| usize::try_from(n).ok());
        n.ok_or(CommandError::Static(error))
    };
    for i in (3..ctx.args.len()).step_by(2) {
        let (word, value) = (ctx.args.at(i), ctx.args.get(i + 1).ok_or(CommandError::Syntax)?);
        if eq_ignore_case(word, "RANK") {
            rank = signed_count(value)?;
            if rank == 0 {
                return Err(CommandError::Static(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list",
                ));
            }
        } else if eq_ignore_case(word, "COUNT") {
            count = Some(natural(value, "ERR COUNT can't be negative")?);
        } else if eq_ignore_case(word, "MAXLEN") {
            maxlen = natural(value, "ERR MAXLEN can't be negative")?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let max = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(n) => n,
    };
    let mut found = Vec::new();
    if let Some(list) = ctx.keys.get::<List>(ctx.args.at(1))? {
        let (mut skip, mut looked, wanted) = (rank.unsigned_abs() - 1, 0, Item::of(ctx.args.at(2)));
        let visit = |index: usize, item: Item<'_>| {
            looked += 1;
            if item == wanted {
                if skip > 0 {
                    skip -= 1;
                } else {
                    found.push(index);
                }
            }
            found.len() < max && (maxlen == 0 || looked < maxlen)
        };
        if rank > 0 {
            list.for_each_from(0, visit);
        } else {
            list.for_each_back_from(list.len() - 1, visit);
        }
    }
    match (count, found.first()) {
        (Some(_), _) => {
            ctx.out.array(found.len());
            found.iter().for_each(|&i| ctx.out.len_int(i));
        }
        (None, Some(&i)) => ctx.out.len_int(i),
        (None, None) => ctx.out.null(),
    }
    Ok(())
}

fn end(word: &[u8]) -> Result<End, CommandError> {
    match word {
        _ if eq_ignore_case(word, "LEFT") => Ok(End::Left),
        _ if eq_ignore_case(word, "RIGHT") => Ok(End::Right),
        _ => Err(CommandError::Syntax),
    }
}

fn move_element(ctx: &mut Ctx<'_>, from_end: End, to_end: End) -> CommandResult {
    let (from, to, limits) = (ctx.args.at(1), ctx.args.at(2), ctx.limits);
    if ctx.keys.get::<List>(from)?.is_none() {
        ctx.out.null();
        return Ok(());
    }
    ctx.keys.check::<List>(to)?;
    if from == to {
        // In one step, so that a list of one element is not removed in between, with its expiry.
        let value = ctx.keys.edit(from, Absent::Skip, |list: &mut List| {
            let value = list.pop(from_end, <[u8]>::to_vec);
            value.iter().for_each(|value| list.push(to_end, value, limits));
            list.shrunk(limits);
            (value, 1)
        })?;
        ctx.out.bulk_or_null(value.flatten().as_deref());
        return Ok(());
    }
    let value = ctx.keys.edit(from, Absent::Skip, |list: &mut List| {
        let value = list.pop(from_end, <[u8]>::to_vec);
        list.shrunk(limits);
        (value, 1)
    })?;
    let value = value.flatten().expect("a list in the keyspace is not empty");
    ctx.keys.edit(to, Absent::Create, |list: &mut List| (list.push(to_end, &value, limits), 1))?;
    ctx.out.bulk(&value);
    Ok(())
}

fn rpoplpush(ctx: &mut Ctx<'_>) -> CommandResult {
    move_element(ctx, End::Right, End::Left)
}

fn lmove(ctx: &mut Ctx<'_>) -> CommandResult {
    let (from_end, to_end) = (end(ctx.args.at(3))?, end(ctx.args.at(4))?);
    move_element(ctx, from_end, to_end)
}

/// `[COUNT count]` as the only option from argument `at` on.
pub(super) fn count_option(ctx: &Ctx<'_>, at: usize) -> Result<usize, CommandError> {
    match ctx.args.len() - at {
        0 => Ok(1),
        2 if eq_ignore_case(ctx.args.at(at), "COUNT") => resp::number::parse_i64(ctx.args.at(at + 1))
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n > 0)
            .ok_or(CommandError::Static("ERR count should be greater than 0")),
        _ => Err(CommandError::Syntax),
    }
}

/// `numkeys key [key ...]` of LMPOP and ZMPOP: the keys, and the number of the argument behind them, which is there.
pub(super) fn popped_keys<'a>(
    ctx: &Ctx<'a>,
) -> Result<(impl Iterator<Item = &'a [u8]> + use<'a>, usize), CommandError> {
    let n = resp::number::parse_i64(ctx.args.at(1)).and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let n = n.ok_or(CommandError::Static("ERR numkeys should be greater than 0"))?;
    let behind = n.checked_add(2).filter(|&at| at < ctx.args.len()).ok_or(CommandError::Syntax)?;
    Ok((ctx.args.iter().skip(2).take(n), behind))
}

fn lmpop(ctx: &mut Ctx<'_>) -> CommandResult {
    let (keys, behind) = popped_keys(ctx)?;
    let end = end(ctx.args.at(behind))?;
    let count = count_option(ctx, behind + 1)?;
    for key in keys {
        if ctx.keys.check::<List>(key)? {
            ctx.out.array(2);
            ctx.out.bulk(key);
            let n = pop_many(ctx, key, end, count)?;
            let verb: &[u8] = if end == End::Left { b"LPOP" } else { b"RPOP" };
            ctx.effects.replace(&[verb, key, itoa::Buffer::new().format(n).as_bytes()]);
            return Ok(());
        }
    }
    ctx.out.null_array();
    Ok(())
}
