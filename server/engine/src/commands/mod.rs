//! The families of commands. Each file is a table of [`Command`]s and, right below it, their functions in that order.

mod bitmaps;
mod dump;
mod hashes;
mod keys;
mod lists;
mod scan;
mod sets;
mod sort;
mod strings;
mod zsets;

use crate::command::{Acl, Command, Flags};

pub use scan::ScanArgs;

/// Every command on the keyspace, by family.
pub const FAMILIES: &[&[Command]] = &[
    strings::COMMANDS,
    keys::COMMANDS,
    dump::COMMANDS,
    hashes::COMMANDS,
    sets::COMMANDS,
    lists::COMMANDS,
    zsets::COMMANDS,
    bitmaps::COMMANDS,
    sort::COMMANDS,
];

// The combinations of flags that nearly every command has.
const R: Flags = Flags::READONLY;
const RF: Flags = R.union(Flags::FAST);
const W: Flags = Flags::WRITE;
const WF: Flags = W.union(Flags::FAST);
/// Writes that need memory.
const WM: Flags = W.union(Flags::DENYOOM);
const WMF: Flags = WM.union(Flags::FAST);
const NO_ACL: Acl = Acl::empty();

/// A family's table: `"name" function(arity, keys, flags, further ACL categories) since complexity summary syntax;`.
macro_rules! family {
    (@subcommands) => { &[] };
    (@subcommands $subcommands:expr) => { $subcommands };
    ($group:ident, $acl:expr; $($name:literal $run:ident($arity:literal, $keys:expr, $flags:expr $(, $more:expr)?)
        $since:literal $complexity:literal $summary:literal $syntax:literal $(=> $subcommands:expr)?;)*) => {
        pub(super) const COMMANDS: &[$crate::Command] = &[$($crate::Command {
            spec: $crate::Spec {
                name: $name,
                summary: $summary,
                since: $since,
                group: $crate::command::Group::$group,
                complexity: $complexity,
                arity: $arity,
                flags: $flags,
                keys: $keys,
                acl: $acl$(.union($more))?,
                syntax: $syntax,
                subcommands: family!(@subcommands $($subcommands)?),
            },
            run: $run,
        }),*];
    };
}
use family;
