//! The role of an instance that nobody manages: REPLICAOF, REPLICAOF NO ONE, SLAVEOF.
//!
//! ```text
//!          REPLICAOF host port
//! Master ─────────────────────► Replica of host:port ──┐ REPLICAOF other port
//!    ▲                                │   ▲            │
//!    └────────── NO ONE ──────────────┘   └────────────┘
//! ```
//! What matters is what is *kept*, for that is what makes the next resync a partial one:
//!
//! - to follow, an instance keeps its log, its ids and its offset: if its history is a prefix of the new master's, PSYNC
//!   continues it. Its own replicas stay attached: whether they have to go is known only when the resync is partial
//!   under another id, or full;
//! - to stand alone, it keeps its log too, and its id as the second one, valid up to here; its replicas are
//!   disconnected, so that they come back and learn the new id.

use resp::Args;

/// The master's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
}

/// `REPLICAOF host port`, `REPLICAOF NO ONE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicaof {
    NoOne,
    Follow(Target),
}

/// `Display` is the wire text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaofError {
    #[error("ERR Invalid master port")]
    Port,
    #[error("ERR REPLICAOF not allowed while failing over.")]
    FailingOver,
    #[error("ERR role is managed by the operator")]
    Managed,
}

impl Replicaof {
    /// The two arguments behind the name.
    pub fn parse(args: Args<'_>) -> Result<Self, ReplicaofError> {
        let (host, port) = (args.get(0).unwrap_or_default(), args.get(1).unwrap_or_default());
        if host.eq_ignore_ascii_case(b"no") && port.eq_ignore_ascii_case(b"one") {
            return Ok(Replicaof::NoOne);
        }
        let port =
            resp::number::parse_i64(port).and_then(|port| u16::try_from(port).ok()).ok_or(ReplicaofError::Port)?;
        Ok(Replicaof::Follow(Target { host: String::from_utf8_lossy(host).into_owned(), port }))
    }
}

/// What the driver does, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The link to the former master goes; what came and is not applied yet is dropped, log and ids stay.
    DropLink,
    /// [`crate::History::shift`] at the log's end, and a SELECT before the next record.
    BeginHistory,
    /// Attached replicas come back and learn the new id.
    DropReplicas,
    /// Blocked clients are told that this is a replica now (`UNBLOCKED`), and clients may not write.
    BecomeReplica,
    BecomeMaster,
    /// Connect at once.
    Follow(Target),
}

/// The reply, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub reply: &'static str,
    pub changes: Vec<Change>,
}

/// What REPLICAOF does to an instance that follows `present`.
pub fn replicaof(present: Option<&Target>, order: Replicaof) -> Done {
    match (present, order) {
        (None, Replicaof::NoOne) => Done { reply: "OK", changes: vec![] },
        (Some(_), Replicaof::NoOne) => {
            let changes = vec![Change::DropLink, Change::BeginHistory, Change::DropReplicas, Change::BecomeMaster];
            Done { reply: "OK", changes }
        }
        (Some(present), Replicaof::Follow(target)) if *present == target => {
            Done { reply: "OK Already connected to specified master", changes: vec![] }
        }
        (Some(_), Replicaof::Follow(target)) => {
            Done { reply: "OK", changes: vec![Change::DropLink, Change::Follow(target)] }
        }
        (None, Replicaof::Follow(target)) => {
            Done { reply: "OK", changes: vec![Change::BecomeReplica, Change::Follow(target)] }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resp::OwnedArgs;

    fn parse(line: &str) -> Result<Replicaof, ReplicaofError> {
        let mut args = OwnedArgs::default();
        line.split(' ').for_each(|word| args.push(word.as_bytes()));
        Replicaof::parse(args.as_args())
    }

    fn target(host: &str) -> Target {
        Target { host: host.into(), port: 7000 }
    }

    #[test]
    fn arguments_are_read_as_redis_reads_them() {
        assert_eq!(parse("no ONE"), Ok(Replicaof::NoOne));
        assert_eq!(parse("h 7000"), Ok(Replicaof::Follow(target("h"))));
        for line in ["h 99999", "h b", "h -1", "no two", "h"] {
            assert_eq!(parse(line), Err(ReplicaofError::Port), "{line}");
        }
    }

    #[test]
    fn following_keeps_the_own_replicas_and_standing_alone_sends_them_for_the_new_id() {
        let follow = |host| Replicaof::Follow(target(host));
        let changes = |present: Option<&str>, order| replicaof(present.map(target).as_ref(), order).changes;
        assert_eq!(changes(None, Replicaof::NoOne), []);
        assert_eq!(changes(None, follow("a")), [Change::BecomeReplica, Change::Follow(target("a"))]);
        assert_eq!(changes(Some("a"), follow("b")), [Change::DropLink, Change::Follow(target("b"))]);
        let alone = [Change::DropLink, Change::BeginHistory, Change::DropReplicas, Change::BecomeMaster];
        assert_eq!(changes(Some("a"), Replicaof::NoOne), alone);
        let same = replicaof(Some(&target("a")), follow("a"));
        assert_eq!((same.reply, same.changes), ("OK Already connected to specified master", vec![]));
    }
}
