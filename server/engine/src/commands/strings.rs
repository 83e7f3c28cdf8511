//! Strings.

use smallvec::SmallVec;

use super::{R, RF, WF, WM, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::{EntryRef, Expiry};
use crate::long_double::LongDouble;
use crate::parse::{self, eq_ignore_case, integer};
use crate::{CommandError, Ctx};

family! { String, Acl::STRING;
    "get" get(2, Keys::ONE, RF) "1.0.0" "O(1)" "Returns the string value of a key." "key";
    "set" set(-3, Keys::ONE, WM) "1.0.0" "O(1)" "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist." "key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]";
    "setnx" setnx(3, Keys::ONE, WMF) "1.0.0" "O(1)" "Set the string value of a key only when the key doesn't exist." "key value";
    "setex" setex(4, Keys::ONE, WM) "2.0.0" "O(1)" "Sets the string value and expiration time of a key. Creates the key if it doesn't exist." "key seconds value";
    "psetex" psetex(4, Keys::ONE, WM) "2.6.0" "O(1)" "Sets both string value and expiration time in milliseconds of a key. The key is created if it doesn't exist." "key milliseconds value";
    "getset" getset(3, Keys::ONE, WMF) "1.0.0" "O(1)" "Returns the previous string value of a key after setting it to a new value." "key value";
    "getdel" getdel(2, Keys::ONE, WF) "6.2.0" "O(1)" "Returns the string value of a key after deleting the key." "key";
    "getex" getex(-2, Keys::ONE, WF) "6.2.0" "O(1)" "Returns the string value of a key after setting its expiration time." "key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]";
    "mget" mget(-2, Keys::ALL, RF) "1.0.0" "O(N) where N is the number of keys to retrieve." "Atomically returns the string values of one or more keys." "key [key ...]";
    "mset" mset(-3, PAIRS, WM) "1.0.1" "O(N) where N is the number of keys to set." "Atomically creates or modifies the string values of one or more keys." "key value [key value ...]";
    "msetnx" msetnx(-3, PAIRS, WM) "1.0.1" "O(N) where N is the number of keys to set." "Atomically modifies the string values of one or more keys only when all keys don't exist." "key value [key value ...]";
    "incr" incr(2, Keys::ONE, WMF) "1.0.0" "O(1)" "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist." "key";
    "decr" decr(2, Keys::ONE, WMF) "1.0.0" "O(1)" "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist." "key";
    "incrby" incrby(3, Keys::ONE, WMF) "1.0.0" "O(1)" "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist." "key increment";
    "decrby" decrby(3, Keys::ONE, WMF) "1.0.0" "O(1)" "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist." "key decrement";
    "incrbyfloat" incrbyfloat(3, Keys::ONE, WMF) "2.6.0" "O(1)" "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist." "key increment";
    "append" append(3, Keys::ONE, WMF) "2.0.0" "O(1)" "Appends a string to the value of a key. Creates the key if it doesn't exist." "key value";
    "strlen" strlen(2, Keys::ONE, RF) "2.2.0" "O(1)" "Returns the length of a string value." "key";
    "setrange" setrange(4, Keys::ONE, WM) "2.2.0" "O(1)" "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist." "key offset value";
    "getrange" getrange(4, Keys::ONE, R) "2.4.0" "O(N) where N is the length of the returned string." "Returns a substring of the string stored at a key." "key start end";
    "substr" getrange(4, Keys::ONE, R) "1.0.0" "O(N) where N is the length of the returned string." "Returns a substring from a string value." "key start end";
    "lcs" lcs(-3, Keys::TWO, R) "7.0.0" "O(N*M) where N and M are the lengths of s1 and s2, respectively" "Finds the longest common substring." "key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]";
}

const PAIRS: Keys = Keys::Range { first: 1, last: -1, step: 2 };

fn get(ctx: &mut Ctx<'_>) -> CommandResult {
    let value = ctx.keys.get_str(ctx.args.at(1))?;
    ctx.out.bulk_or_null(value);
    Ok(())
}

/// The expiry options of SET and GETEX.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExpiryUnit {
    Ex,
    Px,
    ExAt,
    PxAt,
}

impl ExpiryUnit {
    fn parse(word: &[u8]) -> Option<Self> {
        [("EX", Self::Ex), ("PX", Self::Px), ("EXAT", Self::ExAt), ("PXAT", Self::PxAt)]
            .into_iter()
            .find(|(name, _)| eq_ignore_case(word, name))
            .map(|(_, unit)| unit)
    }

    /// The unix time in ms that `arg` means.
    fn at_ms(self, arg: &[u8], now_ms: u64, command: &'static str) -> Result<u64, CommandError> {
        let invalid = CommandError::InvalidExpire(command);
        let n = integer(arg)?;
        if n <= 0 {
            return Err(invalid);
        }
        let ms = if matches!(self, Self::Ex | Self::ExAt) { n.checked_mul(1000) } else { Some(n) };
        let base = if matches!(self, Self::Ex | Self::Px) { now_ms as i64 } else { 0 };
        ms.and_then(|ms| ms.checked_add(base)).map(|at| at as u64).ok_or(invalid)
    }
}

/// Propagates `SET key value [PXAT ms]`, which means the same whenever it is applied.
fn propagate_set(ctx: &mut Ctx<'_>, key: &[u8], value: &[u8], at_ms: u64) {
    ctx.effects.replace(&[&b"SET"[..], key, value, b"PXAT", itoa::Buffer::new().format(at_ms).as_bytes()]);
}

fn set(ctx: &mut Ctx<'_>) -> CommandResult {
    let (key, value) = (ctx.args.at(1), ctx.args.at(2));
    if ctx.args.len() == 3 {
        ctx.keys.put_str(key, value, Expiry::Clear);
        ctx.out.ok();
        return Ok(());
    }
    let (mut nx, mut xx, mut get, mut expiry) = (false, false, false, Expiry::Clear);
    let mut i = 3;
    while i < ctx.args.len() {
        let word = ctx.args.at(i);
        if eq_ignore_case(word, "NX") && !xx {
            nx = true;
        } else if eq_ignore_case(word, "XX") && !nx {
            xx = true;
        } else if eq_ignore_case(word, "GET") {
            get = true;
        } else if eq_ignore_case(word, "KEEPTTL") && expiry == Expiry::Clear {
            expiry = Expiry::Keep;
        } else if let (Some(unit), Some(arg), Expiry::Clear) = (ExpiryUnit::parse(word), ctx.args.get(i + 1), expiry) {
            expiry = Expiry::At(unit.at_ms(arg, ctx.now_ms, "set")?);
            i += 1;
        } else {
            return Err(CommandError::Syntax);
        }
        i += 1;
    }
    let exists = if get {
        ctx.keys.count_lookups();
        let old = ctx.keys.get_str(key)?;
        ctx.out.bulk_or_null(old);
        old.is_some()
    } else {
        (nx || xx) && ctx.keys.exists(key)
    };
    if (nx && exists) || (xx && !exists) {
        if !get {
            ctx.out.null();
        }
        return Ok(());
    }
    set_or_expire(ctx, key, value, expiry);
    if !get {
        ctx.out.ok();
    }
    Ok(())
}

/// Sets a string; one whose time has passed already is deleted, as Redis does on a master.
fn set_or_expire(ctx: &mut Ctx<'_>, key: &[u8], value: &[u8], expiry: Expiry) {
    ctx.keys.put_str(key, value, expiry);
    if let Expiry::At(at) = expiry {
        propagate_set(ctx, key, value, at);
        if at <= ctx.now_ms && !ctx.keys.is_replica() {
            ctx.keys.remove(key);
            ctx.effects.begin();
            ctx.effects.replace(&[&b"DEL"[..], key]);
        }
    }
}

fn setnx(ctx: &mut Ctx<'_>) -> CommandResult {
    let (key, value) = (ctx.args.at(1), ctx.args.at(2));
    let new = !ctx.keys.exists(key);
    if new {
        ctx.keys.put_str(key, value, Expiry::Clear);
    }
    ctx.out.int(i64::from(new));
    Ok(())
}

fn setex(ctx: &mut Ctx<'_>) -> CommandResult {
    set_with_ttl(ctx, ExpiryUnit::Ex, "setex")
}

fn psetex(ctx: &mut Ctx<'_>) -> CommandResult {
    set_with_ttl(ctx, ExpiryUnit::Px, "psetex")
}

fn set_with_ttl(ctx: &mut Ctx<'_>, unit: ExpiryUnit, name: &'static str) -> CommandResult {
    let at = unit.at_ms(ctx.args.at(2), ctx.now_ms, name)?;
    set_or_expire(ctx, ctx.args.at(1), ctx.args.at(3), Expiry::At(at));
    ctx.out.ok();
    Ok(())
}

fn getset(ctx: &mut Ctx<'_>) -> CommandResult {
    let (key, value) = (ctx.args.at(1), ctx.args.at(2));
    ctx.keys.count_lookups();
    let old = ctx.keys.get_str(key)?;
    ctx.out.bulk_or_null(old);
    ctx.keys.put_str(key, value, Expiry::Clear);
    ctx.effects.replace(&[&b"SET"[..], key, value]);
    Ok(())
}

fn getdel(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    ctx.keys.count_lookups();
    let old = ctx.keys.get_str(key)?;
    ctx.out.bulk_or_null(old);
    if ctx.keys.remove(key) {
        ctx.effects.replace(&[&b"DEL"[..], key]);
    }
    Ok(())
}

fn getex(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let change = match ctx.args.len() {
        2 => None,
        3 if eq_ignore_case(ctx.args.at(2), "PERSIST") => Some(None),
        4 => {
            let unit = ExpiryUnit::parse(ctx.args.at(2)).ok_or(CommandError::Syntax)?;
            Some(Some(unit.at_ms(ctx.args.at(3), ctx.now_ms, "getex")?))
        }
        _ => return Err(CommandError::Syntax),
    };
    ctx.keys.count_lookups();
    let value = ctx.keys.get_str(key)?;
    ctx.out.bulk_or_null(value);
    if value.is_none() {
        return Ok(());
    }
    match change {
        Some(Some(at)) if at <= ctx.now_ms && !ctx.keys.is_replica() => {
            ctx.keys.remove(key);
            ctx.effects.replace(&[&b"DEL"[..], key]);
        }
        Some(Some(at)) => {
            ctx.keys.set_expires_ms(key, Some(at));
            ctx.effects.replace(&[&b"PEXPIREAT"[..], key, itoa::Buffer::new().format(at).as_bytes()]);
        }
        Some(None) if ctx.keys.peek(key).and_then(EntryRef::expires_ms).is_some() => {
            ctx.keys.set_expires_ms(key, None);
            ctx.effects.replace(&[&b"PERSIST"[..], key]);
        }
        Some(None) | None => {}
    }
    Ok(())
}

fn mget(ctx: &mut Ctx<'_>) -> CommandResult {
    ctx.out.array(ctx.args.len() - 1);
    for key in ctx.args.skip(1).iter() {
        // Another type counts as no value here.
        let value = ctx.keys.get_str(key).unwrap_or(None);
        ctx.out.bulk_or_null(value);
    }
    Ok(())
}

fn check_pairs(ctx: &Ctx<'_>, name: &str) -> CommandResult {
    if ctx.args.len().is_multiple_of(2) { Err(CommandError::Arity(name.into())) } else { Ok(()) }
}

fn put_pairs(ctx: &mut Ctx<'_>) {
    for i in (1..ctx.args.len()).step_by(2) {
        ctx.keys.put_str(ctx.args.at(i), ctx.args.at(i + 1), Expiry::Clear);
    }
}

fn mset(ctx: &mut Ctx<'_>) -> CommandResult {
    check_pairs(ctx, "mset")?;
    put_pairs(ctx);
    ctx.out.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx<'_>) -> CommandResult {
    check_pairs(ctx, "msetnx")?;
    let free = (1..ctx.args.len()).step_by(2).all(|i| !ctx.keys.exists(ctx.args.at(i)));
    if free {
        put_pairs(ctx);
    }
    ctx.out.int(i64::from(free));
    Ok(())
}

fn incr(ctx: &mut Ctx<'_>) -> CommandResult {
    add(ctx, 1)
}

fn decr(ctx: &mut Ctx<'_>) -> CommandResult {
    add(ctx, -1)
}

fn incrby(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = integer(ctx.args.at(2))?;
    add(ctx, by)
}

fn decrby(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = integer(ctx.args.at(2))?;
    add(ctx, by.checked_neg().ok_or(CommandError::Static("ERR decrement would overflow"))?)
}

fn add(ctx: &mut Ctx<'_>, by: i64) -> CommandResult {
    let mut new = 0;
    ctx.keys.update_str(ctx.args.at(1), |old| {
        new = old.map_or(Ok(0), integer)?.checked_add(by).ok_or(CommandError::Overflow)?;
        Ok(SmallVec::<[u8; 20]>::from_slice(itoa::Buffer::new().format(new).as_bytes()))
    })?;
    ctx.out.int(new);
    Ok(())
}

fn incrbyfloat(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let read = |text: &[u8]| LongDouble::parse(text).ok_or(CommandError::NotFloat);
    let by = ctx.args.at(2);
    let text = ctx.keys.update_str(key, |old| {
        let new = old.map_or(Ok(LongDouble::ZERO), read)? + read(by)?;
        if new.is_finite() {
            Ok(new.format())
        } else {
            Err(CommandError::Static("ERR increment would produce NaN or Infinity"))
        }
    })?;
    ctx.effects.replace(&[&b"SET"[..], key, text.as_bytes(), b"KEEPTTL"]);
    ctx.out.bulk(text.as_bytes());
    Ok(())
}

fn check_length(ctx: &Ctx<'_>, len: usize) -> CommandResult {
    if len > ctx.limits.proto_max_bulk_len { Err(CommandError::StringTooLong) } else { Ok(()) }
}

fn append(ctx: &mut Ctx<'_>) -> CommandResult {
    let (key, tail) = (ctx.args.at(1), ctx.args.at(2));
    let Some(old) = ctx.keys.get_str(key)?.map(<[u8]>::len) else {
        ctx.keys.put_str(key, tail, Expiry::Clear);
        ctx.out.len_int(tail.len());
        return Ok(());
    };
    check_length(ctx, old.saturating_add(tail.len()))?;
    let len = ctx.keys.edit_str(
        key,
        |len| len + tail.len(),
        |bytes| {
            bytes[old..].copy_from_slice(tail);
            bytes.len()
        },
    )?;
    ctx.out.len_int(len);
    Ok(())
}

fn strlen(ctx: &mut Ctx<'_>) -> CommandResult {
    let len = ctx.keys.get_str(ctx.args.at(1))?.map_or(0, <[u8]>::len);
    ctx.out.len_int(len);
    Ok(())
}

fn setrange(ctx: &mut Ctx<'_>) -> CommandResult {
    let (key, patch) = (ctx.args.at(1), ctx.args.at(3));
    let offset = usize::try_from(integer(ctx.args.at(2))?);
    let offset = offset.map_err(|_| CommandError::Static("ERR offset is out of range"))?;
    let old = ctx.keys.get_str(key)?.map_or(0, <[u8]>::len);
    if patch.is_empty() {
        ctx.out.len_int(old);
        return Ok(());
    }
    let end = offset.saturating_add(patch.len());
    check_length(ctx, end)?;
    let len = ctx.keys.edit_str(
        key,
        |len| len.max(end),
        |bytes| {
            bytes[offset..end].copy_from_slice(patch);
            bytes.len()
        },
    )?;
    ctx.out.len_int(len);
    Ok(())
}

fn getrange(ctx: &mut Ctx<'_>) -> CommandResult {
    let (start, end) = (integer(ctx.args.at(2))?, integer(ctx.args.at(3))?);
    let value = ctx.keys.get_str(ctx.args.at(1))?.unwrap_or_default();
    let backwards = start < 0 && end < 0 && start > end;
    // An end before the beginning means the first byte here, unlike in other ranges.
    let end = if end < 0 { (end.saturating_add(value.len() as i64)).max(0) } else { end };
    let range = parse::range(start, end, value.len()).filter(|_| !backwards);
    ctx.out.bulk(range.map_or(&[][..], |range| &value[range]));
    Ok(())
}

/// A run of bytes that both strings have: its place in each and its length.
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

fn lcs(ctx: &mut Ctx<'_>) -> CommandResult {
    let (mut want_len, mut want_idx, mut with_len, mut min_len) = (false, false, false, 0usize);
    let mut i = 3;
    while i < ctx.args.len() {
        let word = ctx.args.at(i);
        if eq_ignore_case(word, "IDX") {
            want_idx = true;
        } else if eq_ignore_case(word, "LEN") {
            want_len = true;
        } else if eq_ignore_case(word, "WITHMATCHLEN") {
            with_len = true;
        } else if let (true, Some(n)) = (eq_ignore_case(word, "MINMATCHLEN"), ctx.args.get(i + 1)) {
            min_len = integer(n)?.max(0) as usize;
            i += 1;
        } else {
            return Err(CommandError::Syntax);
        }
        i += 1;
    }
    if want_idx && want_len {
        return Err(CommandError::Static("ERR If you want both the length and indexes, please just use IDX."));
    }
    let wrong = |_| CommandError::Static("ERR The specified keys must contain string values");
    let a = ctx.keys.get_str(ctx.args.at(1)).map_err(wrong)?.unwrap_or_default().to_vec();
    let b = ctx.keys.get_str(ctx.args.at(2)).map_err(wrong)?.unwrap_or_default().to_vec();
    let cells = (a.len() + 1).checked_mul(b.len() + 1).filter(|&n| n <= 512 << 20);
    let cells = cells
        .ok_or(CommandError::Static("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"))?;
    let width = b.len() + 1;
    let mut table = vec![0u32; cells];
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            table[i * width + j] = if a[i - 1] == b[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let total = table[a.len() * width + b.len()] as usize;
    if want_len {
        ctx.out.len_int(total);
        return Ok(());
    }
    let (mut i, mut j) = (a.len(), b.len());
    let (mut common, mut matches) = (Vec::with_capacity(total), Vec::<Match>::new());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            common.push(a[i - 1]);
            i -= 1;
            j -= 1;
            match matches.last_mut() {
                Some(m) if m.a == i + 1 && m.b == j + 1 => *m = Match { a: i, b: j, len: m.len + 1 },
                _ => matches.push(Match { a: i, b: j, len: 1 }),
            }
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !want_idx {
        common.reverse();
        ctx.out.bulk(&common);
        return Ok(());
    }
    matches.retain(|m| m.len >= min_len);
    ctx.out.map(2);
    ctx.out.bulk(b"matches");
    ctx.out.array(matches.len());
    for m in &matches {
        ctx.out.array(2 + usize::from(with_len));
        for start in [m.a, m.b] {
            ctx.out.array(2);
            ctx.out.len_int(start);
            ctx.out.len_int(start + m.len - 1);
        }
        if with_len {
            ctx.out.len_int(m.len);
        }
    }
    ctx.out.bulk(b"len");
    ctx.out.len_int(total);
    Ok(())
}
