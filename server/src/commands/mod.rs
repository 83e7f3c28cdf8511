//! Commands about the server and the connection.

mod config;
mod connection;
mod debug;
mod introspection;
mod replication;
mod server;

use engine::CommandError;
use resp::Args;

use crate::config::Settings;
use crate::dispatch::{Next, Session};
use crate::registry::ServerCommand;
use crate::state::Server;

/// One call of a server command.
#[derive(Debug)]
pub struct ServerCtx<'a> {
    pub server: &'a Server,
    pub settings: &'a Settings,
    pub session: &'a mut Session,
    pub args: Args<'a>,
}

/// Writes one reply and says what the connection does next; an error is the reply.
pub type Run = fn(&mut ServerCtx<'_>) -> Result<Next, CommandError>;

/// Every command of the server, by family.
pub static FAMILIES: &[&[ServerCommand]] =
    &[connection::COMMANDS, server::COMMANDS, introspection::COMMANDS, debug::COMMANDS, replication::COMMANDS];

/// A family's table, as in the engine: `"name" function(arity, flags, ACL categories) since summary syntax;`.
macro_rules! family {
    ($group:ident; $($name:literal $run:ident($arity:literal, $flags:expr, $acl:expr $(, $keys:expr)?) $since:literal $summary:literal $syntax:literal;)*) => {
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
                ..engine::command::Spec::DEFAULT
            },
            run: $run,
        }),*];
    };
}
use family;

/// `ERR unknown subcommand …`, as every container command says it.
fn unknown_subcommand(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.at(0)).to_uppercase();
    let sub = String::from_utf8_lossy(args.at(1)).into_owned();
    CommandError::text(format!("ERR unknown subcommand '{sub}'. Try {name} HELP."))
}

/// Replies lines of help.
fn help(ctx: &mut ServerCtx<'_>, lines: &[&str]) -> Result<Next, CommandError> {
    ctx.session.out.array(lines.len());
    lines.iter().for_each(|line| ctx.session.out.simple(line));
    Ok(Next::Continue)
}
