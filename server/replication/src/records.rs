//! The records that replication itself puts into the log, and how a replica tells them from commands.
//!
//! Whatever they mean, their bytes count: a replica appends them verbatim, so that offsets agree down a chain.

use resp::Args;

use crate::history::ReplId;

/// The master's sign of life.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// Begins a transaction.
pub const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
/// Asks for an acknowledgement at once.
pub const GETACK: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";

/// The first record of a reign (R7): `REPLCONF RR-EPOCH <epoch> <replication id of the reign>`.
pub fn epoch_mark(epoch: u64, id: ReplId) -> Vec<u8> {
    let mut mark = Vec::new();
    resp::encode_command(&mut mark, &["REPLCONF", "RR-EPOCH", &epoch.to_string(), id.as_str()]);
    mark
}

/// What a record of the stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// To be run.
    Command,
    Ping,
    GetAck,
    /// R7: who applies it holds everything before that reign.
    EpochMark {
        epoch: u64,
        id: ReplId,
    },
    /// A REPLCONF that this version does not know.
    Unknown,
}

impl Record {
    pub fn of(args: Args<'_>) -> Self {
        let Some(name) = args.get(0) else { return Record::Unknown };
        if name.eq_ignore_ascii_case(b"ping") {
            return Record::Ping;
        }
        if !name.eq_ignore_ascii_case(b"replconf") {
            return Record::Command;
        }
        let word = args.get(1).unwrap_or_default();
        let mark = args.get(2).and_then(resp::number::parse_u64).zip(args.get(3).and_then(ReplId::parse));
        match mark {
            _ if word.eq_ignore_ascii_case(b"getack") => Record::GetAck,
            Some((epoch, id)) if word.eq_ignore_ascii_case(b"rr-epoch") => Record::EpochMark { epoch, id },
            _ => Record::Unknown,
        }
    }

    /// True if the replica answers by an acknowledgement at once. A managed replica does so to each PING: it is its
    /// master's request for a lease (R3).
    pub fn wants_ack(self, managed: bool) -> bool {
        match self {
            Record::GetAck => true,
            Record::Ping => managed,
            // The sooner a new master knows that its mark is held, the sooner R11 can settle.
            Record::EpochMark { .. } => true,
            Record::Command | Record::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resp::{Request, RequestLimits, RequestParser};

    fn record(bytes: &[u8]) -> Record {
        let mut parser = RequestParser::default();
        let Ok(Some(Request::Multibulk { len })) = parser.parse(bytes, &RequestLimits::default()) else {
            panic!("not one record: {bytes:?}")
        };
        assert_eq!(len, bytes.len());
        Record::of(parser.args(bytes))
    }

    fn command(line: &str) -> Record {
        let mut bytes = Vec::new();
        resp::encode_command(&mut bytes, &line.split(' ').collect::<Vec<_>>());
        record(&bytes)
    }

    #[test]
    fn each_record_is_recognised() {
        let id = ReplId::from_random([7; 20]);
        assert_eq!(record(PING), Record::Ping);
        assert_eq!(record(GETACK), Record::GetAck);
        assert_eq!(record(&epoch_mark(12, id)), Record::EpochMark { epoch: 12, id });
        assert_eq!(command("ping"), Record::Ping);
        assert_eq!(command("SET k v"), Record::Command);
        assert_eq!(command("replconf rr-epoch x y"), Record::Unknown);
        assert_eq!(command("replconf"), Record::Unknown);
        assert_eq!(command("REPLCONF RR-EPOCH -1 0"), Record::Unknown);
    }

    #[test]
    fn r3_a_managed_replica_answers_each_ping() {
        assert!(Record::Ping.wants_ack(true) && !Record::Ping.wants_ack(false));
        assert!(Record::GetAck.wants_ack(false) && !Record::Command.wants_ack(true));
    }
}
