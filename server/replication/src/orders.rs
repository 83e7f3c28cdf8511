//! The operator's orders to a managed instance, `REPLICATED …`: read, and obeyed as one step.
//!
//! [`Role::obey`] is a function of the role to the next role, so that an order whose promise cannot be stored has not
//! happened. A driver, in this order:
//!
//! 1. `obey`; a [`Refusal`] is the reply;
//! 2. store [`Obeyed::persist`], if any; if that fails the order is not obeyed, and the old role stays;
//! 3. put [`Obeyed::role`] in the place of the old one. What it forbids is in force from then on; what it allows that the
//!    old one did not, after the effects;
//! 4. carry out the effects, one after the other;
//! 5. reply.

use crate::durable::{Durable, parse_hex16};
use crate::role::{Access, Refusal, Role, RoleState};

/// A subcommand with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    Status,
    Promise {
        epoch: u64,
    },
    Promote {
        epoch: u64,
        incarnation: u64,
        k: usize,
        members: Vec<u64>,
    },
    Lease {
        epoch: u64,
        incarnation: u64,
        duration_ms: u64,
        token_ms: u64,
    },
    Follow {
        host: String,
        port: u16,
        epoch: u64,
    },
    /// Follow a master that is none of ours.
    FollowExternal {
        host: String,
        port: u16,
        epoch: u64,
        access: Access,
    },
    Handover {
        epoch: u64,
        timeout_ms: u64,
    },
    AcceptMaster,
    /// Have no role (R1).
    Await,
}

/// What cannot be read; `Display` is the wire text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("ERR unknown subcommand or wrong number of arguments for 'REPLICATED {0}'")]
    Unknown(String),
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR an incarnation or volume is sixteen hexadecimal digits")]
    NotHex,
    #[error("ERR Invalid master port")]
    Port,
}

impl Order {
    /// Reads the arguments behind `REPLICATED`.
    pub fn parse(args: &[&[u8]]) -> Result<Self, OrderError> {
        let Some((word, args)) = args.split_first() else { return Err(OrderError::Unknown(String::new())) };
        Ok(match (&word.to_ascii_lowercase()[..], args) {
            (b"status", []) => Order::Status,
            (b"promise", [epoch]) => Order::Promise { epoch: number(epoch)? },
            (b"promote", [epoch, incarnation, k, members @ ..]) if !members.is_empty() => Order::Promote {
                epoch: number(epoch)?,
                incarnation: hex(incarnation)?,
                k: usize::try_from(number(k)?).map_err(|_| OrderError::NotInteger)?,
                members: members.iter().map(|volume| hex(volume)).collect::<Result<_, _>>()?,
            },
            (b"lease", [epoch, incarnation, duration, token]) => Order::Lease {
                epoch: number(epoch)?,
                incarnation: hex(incarnation)?,
                duration_ms: number(duration)?,
                token_ms: number(token)?,
            },
            (b"follow", [host, port, epoch]) => Order::Follow {
                host: String::from_utf8_lossy(host).into_owned(),
                port: u16::try_from(number(port)?).map_err(|_| OrderError::Port)?,
                epoch: number(epoch)?,
            },
            (b"followexternal", [host, port, epoch, password @ ..]) if password.len() <= 1 => Order::FollowExternal {
                host: String::from_utf8_lossy(host).into_owned(),
                port: u16::try_from(number(port)?).map_err(|_| OrderError::Port)?,
                epoch: number(epoch)?,
                access: Access { password: password.first().map(|text| String::from_utf8_lossy(text).into_owned()) },
            },
            (b"handover", [epoch, timeout]) => Order::Handover { epoch: number(epoch)?, timeout_ms: number(timeout)? },
            (b"acceptmaster", []) => Order::AcceptMaster,
            (b"await", []) => Order::Await,
            _ => return Err(OrderError::Unknown(String::from_utf8_lossy(word).into_owned())),
        })
    }
}

fn number(text: &[u8]) -> Result<u64, OrderError> {
    resp::number::parse_u64(text).ok_or(OrderError::NotInteger)
}

fn hex(text: &[u8]) -> Result<u64, OrderError> {
    parse_hex16(text).ok_or(OrderError::NotHex)
}

/// What the driver carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Writes that have begun end, and are in the log before the reply is made; no other begins (the role says so).
    SettleWrites,
    /// R2: the link to the old master goes, with what it has not applied; an unfinished full resync is given up, and the
    /// former data set counts again.
    DropLink,
    /// Attached replicas are disconnected: their master is another, or has another history.
    DropReplicas,
    /// R7: a new replication id, the old one is kept as the second; the epoch mark is the first record.
    BeginReign { epoch: u64 },
    /// R8: attach to this master by PSYNC. `external`: it is none of ours, and is told neither epoch nor volume.
    Follow { host: String, port: u16, epoch: u64, external: Option<Access> },
    /// The link is tried again at once.
    RetryLink,
    /// R1: nothing is served or followed until the next role.
    Await,
    /// Clients are to look for another: this one is not any more what they came for.
    CloseClients,
}

/// What the reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ok,
    /// The STATUS array, taken after the effects.
    Status,
    /// The end of the log, taken after the effects.
    Offset,
    /// Milliseconds.
    Left(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obeyed {
    pub role: Role,
    /// To be on the disk before the rest happens.
    pub persist: Option<Durable>,
    pub effects: Vec<Effect>,
    pub answer: Answer,
}

impl Role {
    /// What an order makes of this role. `busy`: a reason why the data is not whole now.
    pub fn obey(&self, order: &Order, busy: Option<&'static str>, now_ms: u64) -> Result<Obeyed, Refusal> {
        let mut role = self.clone();
        let (effects, answer) = match order {
            Order::Status => (vec![], Answer::Status),
            Order::Promise { epoch } => {
                role.promise(*epoch)?;
                if self.reign().is_some() {
                    role.wait_for_election(now_ms);
                }
                (self.left_behind_by_promise(), Answer::Status)
            }
            Order::Promote { epoch, incarnation, k, members } => {
                role.promote(*epoch, *incarnation, *k, members.clone(), busy)?;
                let effects = vec![Effect::DropLink, Effect::BeginReign { epoch: *epoch }, Effect::DropReplicas];
                (effects, Answer::Ok)
            }
            Order::Lease { epoch, incarnation, duration_ms, token_ms } => {
                let left = role.lease(*epoch, *incarnation, *duration_ms, *token_ms, now_ms)?;
                (vec![], Answer::Left(left))
            }
            Order::Follow { host, port, epoch } => {
                let changed = role.follow(host, *port, *epoch)?;
                let follow = Effect::Follow { host: host.clone(), port: *port, epoch: *epoch, external: None };
                (if changed { self.left_behind_by_follow(follow) } else { vec![] }, Answer::Ok)
            }
            Order::FollowExternal { host, port, epoch, access } => {
                let changed = role.follow_external(host, *port, *epoch, access.clone())?;
                let external = Some(access.clone());
                let follow = Effect::Follow { host: host.clone(), port: *port, epoch: *epoch, external };
                (if changed { self.left_behind_by_follow(follow) } else { vec![] }, Answer::Ok)
            }
            Order::Handover { epoch, timeout_ms } => {
                role.handover(*epoch, *timeout_ms, now_ms)?;
                (vec![Effect::SettleWrites], Answer::Offset)
            }
            Order::AcceptMaster => {
                role.accept_once = true;
                (vec![Effect::RetryLink], Answer::Ok)
            }
            Order::Await => {
                let had_a_role = role.give_up();
                (if had_a_role { self.left_behind_by_await() } else { vec![] }, Answer::Ok)
            }
        };
        let persist = (role.durable != self.durable).then(|| role.durable.clone());
        Ok(Obeyed { role, persist, effects, answer })
    }

    /// R2: a master stops, a replica leaves its master. Its own replicas learn by the epoch that they are told.
    fn left_behind_by_promise(&self) -> Vec<Effect> {
        match self.state {
            RoleState::Awaiting => vec![],
            RoleState::Master(_) => vec![Effect::SettleWrites],
            RoleState::Replica { .. } => vec![Effect::DropLink],
        }
    }

    fn left_behind_by_await(&self) -> Vec<Effect> {
        let first = if let RoleState::Master(_) = self.state { Effect::SettleWrites } else { Effect::DropLink };
        vec![first, Effect::DropReplicas, Effect::Await, Effect::CloseClients]
    }

    fn left_behind_by_follow(&self, follow: Effect) -> Vec<Effect> {
        match self.state {
            RoleState::Awaiting => vec![follow],
            RoleState::Master(_) => vec![Effect::SettleWrites, Effect::DropReplicas, Effect::CloseClients, follow],
            RoleState::Replica { .. } => vec![Effect::DropLink, Effect::DropReplicas, follow],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 2000;

    fn parse(line: &str) -> Result<Order, OrderError> {
        Order::parse(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn orders_are_read_and_what_is_not_one_is_refused() {
        assert_eq!(parse("STATUS"), Ok(Order::Status));
        assert_eq!(parse("promise 7"), Ok(Order::Promise { epoch: 7 }));
        assert_eq!(
            parse("PROMOTE 7 00000000000000ff 1 0000000000000001 0000000000000002"),
            Ok(Order::Promote { epoch: 7, incarnation: 255, k: 1, members: vec![1, 2] })
        );
        assert_eq!(
            parse("LEASE 7 00000000000000ff 2000 55"),
            Ok(Order::Lease { epoch: 7, incarnation: 255, duration_ms: 2000, token_ms: 55 })
        );
        assert_eq!(parse("follow h 6379 7"), Ok(Order::Follow { host: "h".into(), port: 6379, epoch: 7 }));
        let access = |password: Option<&str>| Access { password: password.map(String::from) };
        for (line, password) in [("followexternal h 6379 7", None), ("FOLLOWEXTERNAL h 6379 7 s3cret", Some("s3cret"))]
        {
            let (host, access) = ("h".into(), access(password));
            assert_eq!(parse(line), Ok(Order::FollowExternal { host, port: 6379, epoch: 7, access }));
        }
        assert_eq!(format!("{:?}", access(Some("s3cret"))), "with a password", "it is not for logs");
        assert_eq!(parse("HANDOVER 7 500"), Ok(Order::Handover { epoch: 7, timeout_ms: 500 }));
        assert_eq!(parse("acceptmaster"), Ok(Order::AcceptMaster));
        let unknown = |word: &str| OrderError::Unknown(word.into());
        for (line, want) in [
            ("PROMISE", unknown("PROMISE")),
            ("PROMISE 1 2", unknown("PROMISE")),
            ("PROMISE -1", OrderError::NotInteger),
            ("PROMISE 18446744073709551616", OrderError::NotInteger),
            ("PROMOTE 1 00000000000000ff 0", unknown("PROMOTE")),
            ("PROMOTE 1 ff 0 0000000000000001", OrderError::NotHex),
            ("PROMOTE 1 00000000000000fg 0 0000000000000001", OrderError::NotHex),
            ("FOLLOW h 70000 1", OrderError::Port),
            ("FOLLOWEXTERNAL h 70000 1", OrderError::Port),
            ("FOLLOWEXTERNAL h 7000 1 p x", unknown("FOLLOWEXTERNAL")),
            ("FROB", unknown("FROB")),
        ] {
            assert_eq!(parse(line), Err(want), "{line}");
        }
        assert!(Order::parse(&[]).is_err());
    }

    fn fresh() -> Role {
        Role::new(Durable { volume: 1, ..Durable::default() }, 0xFF, LEASE, 0)
    }

    fn obey(role: &mut Role, line: &str) -> Obeyed {
        let obeyed = role.obey(&parse(line).unwrap(), None, 100).expect(line);
        *role = obeyed.role.clone();
        obeyed
    }

    const PROMOTE: &str = "PROMOTE 1 00000000000000ff 0 0000000000000001";

    #[test]
    fn r2_a_promise_is_stored_before_it_is_answered_and_leaves_the_old_master() {
        let mut role = fresh();
        let obeyed = obey(&mut role, "PROMISE 1");
        assert_eq!(obeyed.persist.map(|durable| durable.promised), Some(1));
        assert_eq!((obeyed.effects, obeyed.answer), (vec![], Answer::Status));
        assert_eq!(obey(&mut role, "PROMISE 1").persist, None, "it is on the disk already");
        obey(&mut role, "FOLLOW h 1 1");
        assert_eq!(obey(&mut role, "PROMISE 2").effects, [Effect::DropLink]);
    }

    #[test]
    fn r2_an_order_whose_promise_cannot_be_stored_has_not_happened() {
        let role = fresh();
        let _ = role.obey(&Order::Promise { epoch: 4 }, None, 0).unwrap();
        assert_eq!(role, fresh());
    }

    #[test]
    fn r2_a_master_that_promises_settles_its_writes_before_it_answers() {
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        obey(&mut role, PROMOTE);
        let obeyed = obey(&mut role, "PROMISE 2");
        assert_eq!(obeyed.effects, [Effect::SettleWrites]);
        assert!(!role.may_write(100));
    }

    #[test]
    fn writes_wait_for_the_end_of_an_election_that_may_make_it_master_again() {
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        assert_eq!(role.writes_wait_until(), 0, "it was no master");
        let two = format!("{PROMOTE} 0000000000000002");
        obey(&mut role, &two);
        obey(&mut role, "PROMISE 2");
        assert_eq!(role.writes_wait_until(), 100 + 1500);
        obey(&mut role, "PROMISE 2");
        let again = role.obey(&Order::Promise { epoch: 3 }, None, 900).expect("a later one").role;
        assert_eq!(again.writes_wait_until(), 1600, "an election that goes on and on does not hold writes for ever");
        let mut elected = role.clone();
        obey(&mut elected, &two.replace("PROMOTE 1", "PROMOTE 2"));
        assert_eq!(elected.writes_wait_until(), 1600, "it has no lease yet");
        obey(&mut elected, "LEASE 2 00000000000000ff 2000 50");
        assert_eq!((elected.writes_wait_until(), elected.may_write(100)), (0, true));
        let mut alone = role.clone();
        obey(&mut alone, &PROMOTE.replace("PROMOTE 1", "PROMOTE 2"));
        assert_eq!((alone.writes_wait_until(), alone.may_write(100)), (0, true), "it needs none");
        obey(&mut role, "FOLLOW h 1 2");
        assert_eq!(role.writes_wait_until(), 0);
    }

    #[test]
    fn r7_a_promotion_begins_a_reign_with_its_mark() {
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        let obeyed = obey(&mut role, PROMOTE);
        assert_eq!(obeyed.effects, [Effect::DropLink, Effect::BeginReign { epoch: 1 }, Effect::DropReplicas]);
        assert!(obeyed.persist.is_some_and(|durable| durable.member));
    }

    #[test]
    fn r8_follow_is_stored_and_repeating_it_is_harmless() {
        let mut role = fresh();
        let follow = Effect::Follow { host: "h".into(), port: 1, epoch: 3, external: None };
        let obeyed = obey(&mut role, "FOLLOW h 1 3");
        assert_eq!((obeyed.effects, obeyed.persist.map(|d| d.promised)), (vec![follow], Some(3)));
        let obeyed = obey(&mut role, "FOLLOW h 1 3");
        assert_eq!((obeyed.effects, obeyed.persist), (vec![], None));
    }

    /// The operator's data sets begin with one of another's.
    #[test]
    fn r8_one_who_follows_a_master_that_is_none_of_ours_serves_the_others_of_its_epoch() {
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        let obeyed = obey(&mut role, "FOLLOWEXTERNAL h 1 1 s3cret");
        let access = Access { password: Some("s3cret".into()) };
        assert_eq!(obeyed.effects, [Effect::Follow { host: "h".into(), port: 1, epoch: 1, external: Some(access) }]);
        assert_eq!(role.may_serve(Some(1)), Err(Refusal::NotMaster(0)), "it has nothing to give yet");
        assert!(role.on_caught_up());
        assert_eq!((role.may_serve(Some(1)), role.may_serve(None)), (Ok(()), Ok(())));
        assert_eq!(role.may_serve(Some(2)), Err(Refusal::NotMaster(0)));
        assert!(!role.may_write(100), "nobody takes writes in that epoch");
        let repeated = obey(&mut role, "FOLLOWEXTERNAL h 1 1 s3cret");
        assert_eq!(repeated.effects, []);
        assert_ne!(obey(&mut role, "FOLLOWEXTERNAL h 1 1 another").effects, [], "the password has changed");
        // The election that ends it.
        assert_eq!(obey(&mut role, "PROMISE 2").effects, [Effect::DropLink]);
        assert_eq!(role.may_serve(Some(1)), Err(Refusal::NotMaster(0)));
        obey(&mut role, "PROMOTE 2 00000000000000ff 0 0000000000000001");
        assert!(role.may_write(100));
    }

    #[test]
    fn r8_a_demoted_master_sends_its_clients_away() {
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        obey(&mut role, PROMOTE);
        let effects = obey(&mut role, "FOLLOW h 1 2").effects;
        assert_eq!(effects[..3], [Effect::SettleWrites, Effect::DropReplicas, Effect::CloseClients]);
    }

    #[test]
    fn r10_a_handover_answers_with_the_offset_after_the_last_write() {
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        obey(&mut role, PROMOTE);
        let obeyed = obey(&mut role, "HANDOVER 1 500");
        assert_eq!((obeyed.effects, obeyed.answer), (vec![Effect::SettleWrites], Answer::Offset));
        assert!(!role.may_write(599) && role.may_write(600));
        assert_eq!(role.writes_wait_until(), 600);
    }

    /// The operator was asked to take it out of service.
    #[test]
    fn r1_one_who_gives_its_role_up_serves_nothing_until_it_is_given_one() {
        let mut role = fresh();
        assert_eq!(obey(&mut role, "AWAIT").effects, [], "it has none");
        obey(&mut role, "FOLLOW h 1 1");
        let effects = obey(&mut role, "AWAIT").effects;
        assert_eq!(effects, [Effect::DropLink, Effect::DropReplicas, Effect::Await, Effect::CloseClients]);
        assert!(!role.acknowledge(100) && role.durable.promised == 1, "nothing is granted, and no promise forgotten");
        assert_ne!(obey(&mut role, "FOLLOW h 1 1").effects, []);
        let mut role = fresh();
        obey(&mut role, "PROMISE 1");
        obey(&mut role, PROMOTE);
        assert!(role.may_write(100));
        assert_eq!(obey(&mut role, "AWAIT").effects[0], Effect::SettleWrites);
        assert!(!role.may_write(100) && role.may_serve(Some(1)).is_err());
        obey(&mut role, PROMOTE);
        assert!(role.may_write(100), "back in service, in the epoch that nobody else was master of");
    }

    #[test]
    fn r8_acceptmaster_is_remembered_once() {
        let mut role = fresh();
        assert_eq!(obey(&mut role, "ACCEPTMASTER").effects, [Effect::RetryLink]);
        assert!(role.accept_once);
    }
}
