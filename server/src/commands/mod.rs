//! Commands about the server and the connection.

mod acl;
mod config;
mod connection;
mod debug;
pub(crate) mod directives;
mod introspection;
mod metadata;
mod replication;
mod server;
mod syntax;

use engine::CommandError;
use engine::command::Group;
use engine::keyspace::{Figures, Shards};
use resp::{Args, Encoder};

use crate::config::Settings;
use crate::dispatch::{Next, Session};
use crate::registry::{Entry, Registry, ServerCommand};
use crate::state::Server;

/// One call of a server command.
#[derive(Debug)]
pub struct ServerCtx<'a> {
    pub server: &'a Server,
    pub settings: &'a Settings,
    pub session: &'a mut Session,
    pub args: Args<'a>,
    /// All shards, where EXEC holds them around this command.
    pub held: Option<&'a mut (dyn Shards + 'a)>,
}

impl ServerCtx<'_> {
    /// Calls `f` with all shards locked.
    pub fn with_shards<R>(&mut self, f: impl FnOnce(&mut Self, &mut dyn Shards) -> R) -> R {
        match self.held.take() {
            Some(held) => {
                let result = f(self, &mut *held);
                self.held = Some(held);
                result
            }
            None => f(self, &mut self.server.keyspace.lock_all()),
        }
    }

    pub fn figures(&mut self) -> Figures<'_> {
        let locked = self.held.as_mut().map(|held| &mut **held as &mut dyn Shards);
        Figures { keyspace: &self.server.keyspace, locked }
    }
}

/// May this command run while EXEC holds the shards around it? Those that may not lock shards, or wait for somebody who
/// does: they would wait for ever.
pub(crate) fn runs_under_locks(entry: &Entry, args: Args<'_>) -> bool {
    const DEBUG: &[&str] =
        &["object", "digest", "digest-value", "populate", "sleep", "error", "log", "protocol", "jmap"];
    match entry.name.as_str() {
        // What is about connections needs no keys.
        _ if entry.spec.group == Group::Connection => true,
        "debug" => DEBUG.iter().any(|word| args.get(1).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))),
        "info" | "memory|usage" | "memory|stats" | "memory|doctor" => true,
        "bgsave" | "lastsave" | "time" | "role" | "wait" | "lolwut" | "config|get" => true,
        name => ["command", "slowlog", "latency"].contains(&name.split('|').next().unwrap_or_default()),
    }
}

/// Writes one reply and says what the connection does next; an error is the reply.
pub type Run = fn(&mut ServerCtx<'_>) -> Result<Next, CommandError>;

/// Every command of the server, by family.
pub static FAMILIES: &[&[ServerCommand]] = &[
    connection::COMMANDS,
    acl::COMMANDS,
    server::COMMANDS,
    introspection::COMMANDS,
    metadata::COMMANDS,
    debug::COMMANDS,
    replication::COMMANDS,
];

/// A family's table, as in the engine: `"name" function(arity, flags, ACL categories) since summary syntax;`.
macro_rules! family {
    ($group:ident; $($name:literal $run:ident($arity:literal, $flags:expr, $acl:expr $(, $keys:expr)?) $since:literal $summary:literal $syntax:literal $(=> $subcommands:expr)?;)*) => {
        pub(super) const COMMANDS: &[$crate::registry::ServerCommand] = &[$($crate::registry::ServerCommand {
            spec: engine::command::Spec {
                name: $name,
                summary: $summary,
                since: $since,
                group: engine::command::Group::$group,
                arity: $arity,
                flags: $flags,
                acl: $acl,
                syntax: $syntax,
                $(keys: $keys,)?
                $(subcommands: $subcommands,)?
                ..engine::command::Spec::DEFAULT
            },
            run: $run,
        }),*];
    };
}
use family;

/// `ERR unknown subcommand …`, as every container command says it.
pub(crate) fn unknown_subcommand(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.at(0)).to_uppercase();
    let sub = String::from_utf8_lossy(args.at(1)).into_owned();
    CommandError::text(format!("ERR unknown subcommand '{sub}'. Try {name} HELP."))
}

/// A container's HELP, from its table.
pub(crate) fn help(out: &mut Encoder, container: &[u8]) {
    let subcommands = Registry::get().find(container).map_or(&[][..], |e| e.spec.subcommands);
    out.array(1 + 2 * subcommands.len());
    let name = String::from_utf8_lossy(container).to_uppercase();
    out.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for spec in subcommands {
        out.simple(format!("{} {}", spec.name.to_uppercase(), spec.syntax).trim_end());
        out.simple(&format!("    {}", spec.summary));
    }
}
