//! ACL: the user `default` and its passwords (see [`crate::acl`]).

use engine::CommandError;
use engine::Spec;
use engine::command::{ACL_NAMES, Acl, Flags, Keys};
use engine::parse::{eq_ignore_case, integer};

use super::{ServerCtx, family, unknown_subcommand};
use crate::acl::{DEFAULT, RuleError};
use crate::dispatch::Next;
use crate::registry::Registry;
use crate::state::random;

const OPEN: Flags = Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING);
const ADMIN: Flags = OPEN.union(Flags::ADMIN);
const NONE: Acl = Acl::empty();

family! { Server;
    "acl" acl(-2, Flags::empty(), NONE) "6.0.0" "A container for Access List Control commands." "" => ACL;
}

const ACL: &[Spec] = engine::subcommands! { Server, Acl::empty();
    "cat"(-2, Keys::None, OPEN, NONE) "6.0.0" "O(1) since the categories and commands are a fixed set." "Lists the ACL categories, or the commands inside a category." "[category]";
    "deluser"(-3, Keys::None, ADMIN, NONE) "6.0.0" "O(1) amortized time considering the typical user." "Deletes ACL users, and terminates their connections." "username [username ...]";
    "genpass"(-2, Keys::None, OPEN, NONE) "6.0.0" "O(1)" "Generates a pseudorandom, secure password that can be used to identify ACL users." "[bits]";
    "getuser"(3, Keys::None, ADMIN, NONE) "6.0.0" "O(N). Where N is the number of password, command and pattern rules that the user has." "Lists the ACL rules of a user." "username";
    "list"(2, Keys::None, ADMIN, NONE) "6.0.0" "O(N). Where N is the number of configured users." "Dumps the effective rules in ACL file format." "";
    "load"(2, Keys::None, ADMIN, NONE) "6.0.0" "O(N). Where N is the number of configured users." "Reloads the rules from the configured ACL file." "";
    "save"(2, Keys::None, ADMIN, NONE) "6.0.0" "O(N). Where N is the number of configured users." "Saves the effective ACL rules in the configured ACL file." "";
    "setuser"(-3, Keys::None, ADMIN, NONE) "6.0.0" "O(N). Where N is the number of rules provided." "Creates and modifies an ACL user and its rules." "username [rule [rule ...]]";
    "users"(2, Keys::None, ADMIN, NONE) "6.0.0" "O(N). Where N is the number of configured users." "Lists all ACL users." "";
    "whoami"(2, Keys::None, OPEN, NONE) "6.0.0" "O(1)" "Returns the authenticated username of the current connection." "";
};

const NO_FILE: &str = "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.";

fn acl(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    let out = &mut ctx.session.out;
    match (&word[..], ctx.args.len()) {
        (b"whoami", 2) => out.bulk(DEFAULT.as_bytes()),
        (b"users", 2) => {
            out.array(1);
            out.bulk(DEFAULT.as_bytes());
        }
        (b"list", 2) => {
            out.array(1);
            out.bulk(format!("user {DEFAULT} {}", ctx.server.users.default_user().describe()).as_bytes());
        }
        (b"getuser", 3) => getuser(ctx),
        (b"setuser", 3..) => setuser(ctx)?,
        (b"deluser", 3..) => {
            if ctx.args.skip(2).iter().any(|name| name == DEFAULT.as_bytes()) {
                return Err(CommandError::Static("ERR The 'default' user cannot be removed"));
            }
            out.int(0);
        }
        (b"cat", 2 | 3) => cat(ctx)?,
        (b"genpass", 2 | 3) => genpass(ctx)?,
        (b"load" | b"save", 2) => return Err(CommandError::Static(NO_FILE)),
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

fn getuser(ctx: &mut ServerCtx<'_>) {
    let out = &mut ctx.session.out;
    if ctx.args.at(2) != DEFAULT.as_bytes() {
        return out.null();
    }
    let user = ctx.server.users.default_user();
    out.map(6);
    out.bulk(b"flags");
    let flags = user.flags();
    out.set(flags.len());
    flags.iter().for_each(|flag| out.bulk(flag.as_bytes()));
    out.bulk(b"passwords");
    out.array(user.passwords().len());
    user.passwords().iter().for_each(|hash| out.bulk(hash.to_string().as_bytes()));
    for (name, value) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"selectors");
    out.array(0);
}

fn setuser(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let name = ctx.args.at(2);
    if name.iter().any(|b| b.is_ascii_whitespace() || *b == 0) {
        return Err(CommandError::Static("ERR Usernames can't contain spaces or null characters"));
    }
    if name != DEFAULT.as_bytes() {
        let name = String::from_utf8_lossy(name);
        return Err(CommandError::text(format!(
            "ERR ACL SETUSER {name}: users other than 'default' are not supported by this server yet"
        )));
    }
    let rules: Vec<_> = ctx.args.skip(3).iter().map(String::from_utf8_lossy).collect();
    let rules: Vec<&str> = rules.iter().map(AsRef::as_ref).collect();
    ctx.server.users.change(&rules).map_err(|(rule, error)| match error {
        RuleError::NotYet => CommandError::text(format!("ERR ACL SETUSER modifier '{rule}': {error}")),
        RuleError::Syntax | RuleError::NoHash | RuleError::NoSuchPassword => {
            CommandError::text(format!("ERR Error in ACL SETUSER modifier '{rule}': {error}"))
        }
    })?;
    tracing::info!("user default was changed by ACL SETUSER");
    ctx.session.out.ok();
    Ok(())
}

/// The categories, or the commands of one.
fn cat(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let out = &mut ctx.session.out;
    let Some(wanted) = ctx.args.get(2) else {
        out.array(ACL_NAMES.len());
        ACL_NAMES.iter().for_each(|(_, name)| out.bulk(name.as_bytes()));
        return Ok(());
    };
    let Some((category, _)) = ACL_NAMES.iter().find(|(_, name)| eq_ignore_case(wanted, name)) else {
        return Err(CommandError::text(format!("ERR Unknown category '{}'", String::from_utf8_lossy(wanted))));
    };
    let all = Registry::get().all().filter(|e| e.subcommands.is_empty() && e.spec.acl_all().contains(*category));
    let names: Vec<_> = all.map(|e| e.name.as_str()).collect();
    out.array(names.len());
    names.iter().for_each(|name| out.bulk(name.as_bytes()));
    Ok(())
}

/// Hex digits for so many bits, rounded up.
fn genpass(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    const BITS_MAX: usize = 4096;
    let bits = ctx.args.get(2).map_or(Ok(256), integer)?;
    let bits = usize::try_from(bits).ok().filter(|bits| (1..=BITS_MAX).contains(bits)).ok_or(CommandError::Static(
        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
    ))?;
    let bytes: [u8; BITS_MAX / 8] = random();
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(bits.div_ceil(4));
    ctx.session.out.bulk(text.as_bytes());
    Ok(())
}
