//! Keys of any type, and whole databases.

use super::{NO_ACL, R, RF, ScanArgs, W, WF, WM, family};
use crate::command::{Acl, CommandResult, Flags, Keys};
use crate::keyspace::{EntryRef, Value, ValueRef};
use crate::parse::{self, eq_ignore_case, integer};
use crate::{CommandError, Ctx, glob};

family! { Generic, Acl::KEYSPACE;
    "del" del(-2, Keys::ALL, W) "1.0.0" "O(N) where N is the number of keys that will be removed." "Deletes one or more keys." "key [key ...]";
    "unlink" del(-2, Keys::ALL, WF) "4.0.0" "O(1) for each key removed." "Asynchronously deletes one or more keys." "key [key ...]";
    "exists" exists(-2, Keys::ALL, RF) "1.0.0" "O(N) where N is the number of keys to check." "Determines whether one or more keys exist." "key [key ...]";
    "touch" touch(-2, Keys::ALL, RF) "3.2.1" "O(N) where N is the number of keys that will be touched." "Returns the number of existing keys out of those specified after updating the time they were last accessed." "key [key ...]";
    "type" type_of(2, Keys::ONE, RF) "1.0.0" "O(1)" "Determines the type of value stored at a key." "key";
    "rename" rename(3, Keys::TWO, W) "1.0.0" "O(1)" "Renames a key and overwrites the destination." "key newkey";
    "renamenx" renamenx(3, Keys::TWO, WF) "1.0.0" "O(1)" "Renames a key only when the target key name doesn't exist." "key newkey";
    "copy" copy(-3, Keys::TWO, WM) "6.2.0" "O(N) worst case for collections, where N is the number of nested items. O(1) for string values." "Copies the value of a key to a new key." "source destination [DB destination-db] [REPLACE]";
    "move" move_key(3, Keys::ONE, WF) "1.0.0" "O(1)" "Moves a key to another database." "key db";
    "expire" expire(-3, Keys::ONE, WF) "1.0.0" "O(1)" "Sets the expiration time of a key in seconds." "key seconds [NX | XX | GT | LT]";
    "pexpire" pexpire(-3, Keys::ONE, WF) "2.6.0" "O(1)" "Sets the expiration time of a key in milliseconds." "key milliseconds [NX | XX | GT | LT]";
    "expireat" expireat(-3, Keys::ONE, WF) "1.2.0" "O(1)" "Sets the expiration time of a key to a Unix timestamp." "key unix-time-seconds [NX | XX | GT | LT]";
    "pexpireat" pexpireat(-3, Keys::ONE, WF) "2.6.0" "O(1)" "Sets the expiration time of a key to a Unix milliseconds timestamp." "key unix-time-milliseconds [NX | XX | GT | LT]";
    "ttl" ttl(2, Keys::ONE, RF) "1.0.0" "O(1)" "Returns the expiration time in seconds of a key." "key";
    "pttl" pttl(2, Keys::ONE, RF) "2.6.0" "O(1)" "Returns the expiration time in milliseconds of a key." "key";
    "expiretime" expiretime(2, Keys::ONE, RF) "7.0.0" "O(1)" "Returns the expiration time of a key as a Unix timestamp." "key";
    "pexpiretime" pexpiretime(2, Keys::ONE, RF) "7.0.0" "O(1)" "Returns the expiration time of a key as a Unix milliseconds timestamp." "key";
    "persist" persist(2, Keys::ONE, WF) "2.2.0" "O(1)" "Removes the expiration time of a key." "key";
    "object" object(-2, Keys::None, Flags::empty(), NO_ACL) "2.2.3" "Depends on subcommand." "A container for object introspection commands." "" => OBJECT;
    "keys" keys(2, Keys::None, R.union(Flags::ALL_SHARDS), Acl::DANGEROUS) "1.0.0" "O(N) with N being the number of keys in the database." "Returns all key names that match a pattern." "pattern";
    "scan" scan(-2, Keys::None, R.union(Flags::ALL_SHARDS)) "2.8.0" "O(1) for every call. O(N) for a complete iteration." "Iterates over the key names in the database." "cursor [MATCH pattern] [COUNT count] [TYPE type]";
    "randomkey" randomkey(1, Keys::None, R.union(Flags::ALL_SHARDS)) "1.0.0" "O(1)" "Returns a random key name from the database." "";
    "dbsize" dbsize(1, Keys::None, RF.union(Flags::ALL_SHARDS), NO_ACL) "1.0.0" "O(1)" "Returns the number of keys in the database." "";
    "flushdb" flushdb(-1, Keys::None, W.union(Flags::ALL_SHARDS), Acl::DANGEROUS) "1.0.0" "O(N) where N is the number of keys in the selected database" "Remove all keys from the current database." "[ASYNC | SYNC]";
    "flushall" flushall(-1, Keys::None, W.union(Flags::ALL_SHARDS), Acl::DANGEROUS) "1.0.0" "O(N) where N is the total number of keys in all databases" "Removes all keys from all databases." "[ASYNC | SYNC]";
    "swapdb" swapdb(3, Keys::None, WF.union(Flags::ALL_SHARDS), Acl::DANGEROUS) "4.0.0" "O(N) where N is the count of clients watching or blocking on keys from both databases." "Swaps two Redis databases." "index1 index2";
}

const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

const OBJECT: &[crate::Spec] = crate::subcommands! { Generic, Acl::KEYSPACE;
    "encoding"(3, SECOND, R, Acl::KEYSPACE) "2.2.3" "O(1)" "Returns the internal encoding of a Redis object." "key";
    "freq"(3, SECOND, R, Acl::KEYSPACE) "4.0.0" "O(1)" "Returns the logarithmic access frequency counter of a Redis object." "key";
    "idletime"(3, SECOND, R, Acl::KEYSPACE) "2.2.3" "O(1)" "Returns the time since the last access to a Redis object." "key";
    "refcount"(3, SECOND, R, Acl::KEYSPACE) "2.2.3" "O(1)" "Returns the reference count of a value of a key." "key";
};

fn del(ctx: &mut Ctx<'_>) -> CommandResult {
    let gone = ctx.args.skip(1).iter().filter(|key| ctx.keys.remove(key)).count();
    ctx.out.len_int(gone);
    Ok(())
}

fn touch(ctx: &mut Ctx<'_>) -> CommandResult {
    let n = ctx.args.skip(1).iter().filter(|key| ctx.keys.exists(key)).count();
    ctx.out.len_int(n);
    Ok(())
}

/// As TOUCH, but access times stay as they are.
fn exists(ctx: &mut Ctx<'_>) -> CommandResult {
    ctx.keys.leave_access_times();
    touch(ctx)
}

fn type_of(ctx: &mut Ctx<'_>) -> CommandResult {
    ctx.out.simple(ctx.keys.type_of(ctx.args.at(1)).unwrap_or("none"));
    Ok(())
}

/// Moves the value of one key to another; the source exists and differs from the destination.
fn rename_over(ctx: &mut Ctx<'_>) {
    let (from, to) = (ctx.args.at(1), ctx.args.at(2));
    if let Some((value, expires_ms)) = ctx.keys.remove_value(from) {
        ctx.keys.put_value(to, value, expires_ms);
    }
}

fn rename(ctx: &mut Ctx<'_>) -> CommandResult {
    if !ctx.keys.exists(ctx.args.at(1)) {
        return Err(CommandError::NoSuchKey);
    }
    if ctx.args.at(1) != ctx.args.at(2) {
        rename_over(ctx);
    }
    ctx.out.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx<'_>) -> CommandResult {
    if !ctx.keys.exists(ctx.args.at(1)) {
        return Err(CommandError::NoSuchKey);
    }
    let free = !ctx.keys.exists(ctx.args.at(2));
    if free {
        rename_over(ctx);
    }
    ctx.out.int(i64::from(free));
    Ok(())
}

fn db_number(ctx: &Ctx<'_>, arg: &[u8]) -> Result<usize, CommandError> {
    usize::try_from(integer(arg)?).ok().filter(|&db| db < ctx.keys.databases()).ok_or(CommandError::DbOutOfRange)
}

fn copy(ctx: &mut Ctx<'_>) -> CommandResult {
    let (from, to) = (ctx.args.at(1), ctx.args.at(2));
    let home = ctx.keys.db();
    let (mut db, mut replace, mut i) = (home, false, 3);
    while i < ctx.args.len() {
        if eq_ignore_case(ctx.args.at(i), "REPLACE") {
            replace = true;
        } else if let (true, Some(arg)) = (eq_ignore_case(ctx.args.at(i), "DB"), ctx.args.get(i + 1)) {
            db = db_number(ctx, arg)?;
            i += 1;
        } else {
            return Err(CommandError::Syntax);
        }
        i += 1;
    }
    if db == home && from == to {
        return Err(CommandError::Static("ERR source and destination objects are the same"));
    }
    ctx.keys.count_lookups();
    let Some((value, expires_ms)) = ctx.keys.clone_value(from) else {
        ctx.out.int(0);
        return Ok(());
    };
    ctx.keys.select(db);
    let free = replace || ctx.keys.peek(to).is_none();
    if free {
        ctx.keys.put_value(to, value, expires_ms);
    }
    ctx.keys.select(home);
    ctx.out.int(i64::from(free));
    Ok(())
}

fn move_key(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let home = ctx.keys.db();
    let db = db_number(ctx, ctx.args.at(2))?;
    if db == home {
        return Err(CommandError::Static("ERR source and destination objects are the same"));
    }
    ctx.keys.select(db);
    let taken = ctx.keys.peek(key).is_some();
    ctx.keys.select(home);
    let moved = (!taken).then(|| ctx.keys.remove_value(key)).flatten();
    let done = moved.is_some();
    if let Some((value, expires_ms)) = moved {
        ctx.keys.select(db);
        ctx.keys.put_value(key, value, expires_ms);
        ctx.keys.select(home);
    }
    ctx.out.int(i64::from(done));
    Ok(())
}

fn expire(ctx: &mut Ctx<'_>) -> CommandResult {
    expire_at(ctx, ctx.now_ms as i64, 1000, "expire")
}

fn pexpire(ctx: &mut Ctx<'_>) -> CommandResult {
    expire_at(ctx, ctx.now_ms as i64, 1, "pexpire")
}

fn expireat(ctx: &mut Ctx<'_>) -> CommandResult {
    expire_at(ctx, 0, 1000, "expireat")
}

fn pexpireat(ctx: &mut Ctx<'_>) -> CommandResult {
    expire_at(ctx, 0, 1, "pexpireat")
}

/// The EXPIRE family: `base` is added to the argument, which is in units of so many ms.
fn expire_at(ctx: &mut Ctx<'_>, base: i64, unit: i64, name: &'static str) -> CommandResult {
    let key = ctx.args.at(1);
    let n = integer(ctx.args.at(2))?;
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for word in ctx.args.skip(3).iter() {
        let flag = match word.to_ascii_uppercase().as_slice() {
            b"NX" => &mut nx,
            b"XX" => &mut xx,
            b"GT" => &mut gt,
            b"LT" => &mut lt,
            _ => return Err(CommandError::text(format!("ERR Unsupported option {}", String::from_utf8_lossy(word)))),
        };
        *flag = true;
    }
    if nx && (xx || gt || lt) {
        return Err(CommandError::Static("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if gt && lt {
        return Err(CommandError::Static("ERR GT and LT options at the same time are not compatible"));
    }
    let at = n.checked_mul(unit).and_then(|ms| ms.checked_add(base)).ok_or(CommandError::InvalidExpire(name))?;
    let Some(old) = ctx.keys.expires_ms(key) else {
        ctx.out.int(0);
        return Ok(());
    };
    // No expiry counts as one that is infinitely far.
    let allowed = match old {
        None => !xx && !gt,
        Some(old) => !(nx || (gt && at <= old as i64) || (lt && at >= old as i64)),
    };
    if !allowed {
        ctx.out.int(0);
        return Ok(());
    }
    if at <= ctx.now_ms as i64 && !ctx.keys.is_replica() {
        ctx.keys.remove(key);
        ctx.effects.replace(&[ctx.limits.expire_del(), key]);
    } else {
        ctx.keys.set_expires_ms(key, Some(at.max(0) as u64));
        ctx.effects.replace(&[&b"PEXPIREAT"[..], key, itoa::Buffer::new().format(at).as_bytes()]);
    }
    ctx.out.int(1);
    Ok(())
}

/// Replies -2 for no key, -1 for no expiry, else `f` of the expiry in unix ms.
fn reply_expiry(ctx: &mut Ctx<'_>, f: impl Fn(i64) -> i64) -> CommandResult {
    let reply = match ctx.keys.expires_ms(ctx.args.at(1)) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => f(at as i64),
    };
    ctx.out.int(reply);
    Ok(())
}

fn ttl(ctx: &mut Ctx<'_>) -> CommandResult {
    let now = ctx.now_ms as i64;
    reply_expiry(ctx, |at| ((at - now).max(0) + 500) / 1000)
}

fn pttl(ctx: &mut Ctx<'_>) -> CommandResult {
    let now = ctx.now_ms as i64;
    reply_expiry(ctx, |at| (at - now).max(0))
}

fn expiretime(ctx: &mut Ctx<'_>) -> CommandResult {
    reply_expiry(ctx, |at| (at + 500) / 1000)
}

fn pexpiretime(ctx: &mut Ctx<'_>) -> CommandResult {
    reply_expiry(ctx, |at| at)
}

fn persist(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let had = ctx.keys.expires_ms(key).flatten().is_some();
    if had {
        ctx.keys.set_expires_ms(key, None);
    }
    ctx.out.int(i64::from(had));
    Ok(())
}

/// `OBJECT ENCODING` of a string: what Redis would have chosen.
fn string_encoding(bytes: &[u8], raw: bool) -> &'static str {
    match bytes.len() {
        _ if raw => "raw",
        0..=20 if resp::number::parse_i64(bytes).is_some() => "int",
        0..=44 => "embstr",
        _ => "raw",
    }
}

/// OBJECT REFCOUNT: Redis shares the small integers, and says so by the largest number.
fn references(entry: EntryRef<'_>) -> i64 {
    const SHARED: i64 = 10_000;
    match entry.value() {
        ValueRef::Str(bytes) if string_encoding(bytes, entry.is_raw()) == "int" => {
            let shared = resp::number::parse_i64(bytes).is_some_and(|n| (0..SHARED).contains(&n));
            if shared { i64::from(i32::MAX) } else { 1 }
        }
        _ => 1,
    }
}

fn object(ctx: &mut Ctx<'_>) -> CommandResult {
    let word = ctx.args.at(1).to_ascii_lowercase();
    if ctx.args.len() != 3 {
        return Err(CommandError::Arity(format!("object|{}", String::from_utf8_lossy(&word))));
    }
    let key = ctx.args.at(2);
    let Some(entry) = ctx.keys.look(key) else {
        ctx.out.null();
        return Ok(());
    };
    match &word[..] {
        b"encoding" => {
            let encoding = match entry.value() {
                ValueRef::Str(bytes) => string_encoding(bytes, entry.is_raw()),
                ValueRef::Object(object) => object.encoding(),
            };
            ctx.out.bulk(encoding.as_bytes());
        }
        b"refcount" => ctx.out.int(references(entry)),
        b"idletime" => {
            let seconds = ctx.keys.idle_seconds(key).unwrap_or(0);
            ctx.out.int(seconds as i64);
        }
        _ => {
            return Err(CommandError::Static(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

fn keys(ctx: &mut Ctx<'_>) -> CommandResult {
    let pattern = ctx.args.at(1);
    let out = &mut *ctx.out;
    let (mark, mut n) = (out.begin(), 0);
    ctx.keys.for_each(|entry| {
        if glob::matches(pattern, entry.key()) {
            out.bulk(entry.key());
            n += 1;
        }
    });
    out.end_array(mark, n);
    Ok(())
}

fn scan(ctx: &mut Ctx<'_>) -> CommandResult {
    let args = ScanArgs::parse(ctx.args, 1, true)?;
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let next = ctx.keys.scan(args.cursor, args.count, |entry| {
        let type_name = match entry.value() {
            ValueRef::Str(_) => "string",
            ValueRef::Object(object) => object.type_name(),
        };
        if args.matches(entry.key()) && args.type_name.is_none_or(|t| eq_ignore_case(t, type_name)) {
            found.push(entry.key().into());
        }
    });
    ctx.out.array(2);
    ctx.out.bulk(next.to_string().as_bytes());
    ctx.out.array(found.len());
    found.iter().for_each(|key| ctx.out.bulk(key));
    Ok(())
}

fn randomkey(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.keys.random_key(ctx.rng);
    ctx.out.bulk_or_null(key.as_deref());
    Ok(())
}

fn dbsize(ctx: &mut Ctx<'_>) -> CommandResult {
    let n = ctx.keys.len();
    ctx.out.len_int(n);
    Ok(())
}

fn check_flush_option(ctx: &Ctx<'_>) -> CommandResult {
    match ctx.args.len() {
        1 => Ok(()),
        2 if eq_ignore_case(ctx.args.at(1), "ASYNC") || eq_ignore_case(ctx.args.at(1), "SYNC") => Ok(()),
        _ => Err(CommandError::Syntax),
    }
}

fn flushdb(ctx: &mut Ctx<'_>) -> CommandResult {
    check_flush_option(ctx)?;
    ctx.keys.flush();
    // Propagated even when nothing was there: replicas may differ.
    ctx.keys.add_changes(1);
    ctx.out.ok();
    Ok(())
}

fn flushall(ctx: &mut Ctx<'_>) -> CommandResult {
    check_flush_option(ctx)?;
    let home = ctx.keys.db();
    for db in 0..ctx.keys.databases() {
        ctx.keys.select(db);
        ctx.keys.flush();
    }
    ctx.keys.select(home);
    ctx.keys.add_changes(1);
    ctx.out.ok();
    Ok(())
}

fn swapdb(ctx: &mut Ctx<'_>) -> CommandResult {
    let number = |arg, text| {
        parse::integer(arg).map_err(|_| CommandError::Static(text)).and_then(|n| {
            usize::try_from(n).ok().filter(|&db| db < ctx.keys.databases()).ok_or(CommandError::DbOutOfRange)
        })
    };
    let a = number(ctx.args.at(1), "ERR invalid first DB index")?;
    let b = number(ctx.args.at(2), "ERR invalid second DB index")?;
    ctx.keys.swap_dbs(a, b);
    ctx.out.ok();
    Ok(())
}

/// A string value, for callers that build one.
impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::Str(bytes.into())
    }
}
