use super::*;
use proptest::prelude::*;

fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

/// A link with its buffer; what it sends is text with `|` for CRLF.
struct Replica {
    link: Link,
    history: History,
    end: u64,
    /// Sent, as the words of each command.
    sent: Vec<String>,
    events: Vec<Event>,
    body: Vec<u8>,
    buf: Vec<u8>,
    now_ms: u64,
}

fn words(bytes: &[u8]) -> Vec<String> {
    let mut parser = resp::RequestParser::default();
    let (mut rest, mut commands) = (bytes, Vec::new());
    while let Ok(Some(request)) = parser.parse(rest, &resp::RequestLimits::default()) {
        let len = match request {
            resp::Request::Multibulk { len } => {
                let args: Vec<_> = parser.args(rest).iter().map(String::from_utf8_lossy).collect();
                commands.push(args.join(" "));
                len
            }
            resp::Request::Inline { len, .. } => len,
        };
        rest = &rest[len..];
    }
    commands
}

impl Replica {
    fn new(identity: Identity, end: u64) -> Self {
        let mut link = Link::new(0);
        assert!(link.poll_connect(0) && !link.poll_connect(0));
        let sent = words(&link.on_connected(identity, 0));
        let history = History::new(id(1));
        Self { link, history, end, sent, events: Vec::new(), body: Vec::new(), buf: Vec::new(), now_ms: 0 }
    }

    fn plain() -> Self {
        Self::new(Identity { port: 7000, ..Identity::default() }, 100)
    }

    /// Gives it bytes; carries out what it wants.
    fn hears(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.buf.extend_from_slice(bytes);
        loop {
            let (used, event) = self.link.next(&self.buf, self.now_ms)?;
            let taken: Vec<u8> = self.buf.drain(..used).collect();
            match &event {
                Event::More | Event::Stream => return Ok(()),
                Event::Send(bytes) => self.sent.extend(words(bytes)),
                Event::WantPsync => {
                    let bytes = self.link.psync(&self.history, self.end);
                    self.sent.extend(words(&bytes));
                }
                Event::Body => self.body.extend(taken),
                Event::Nothing => continue,
                Event::BodyEnds => {
                    self.events.push(event);
                    return Ok(());
                }
                _ => {}
            }
            self.events.push(event);
        }
    }

    /// Answers the handshake up to PSYNC.
    fn shaken(mut self) -> Self {
        self.hears(b"+PONG\r\n").unwrap();
        let answers = self.sent.len() - 1;
        (0..answers).for_each(|_| self.hears(b"+OK\r\n").unwrap());
        assert!(self.sent.last().unwrap().starts_with("PSYNC"), "{:?}", self.sent);
        self
    }
}

#[test]
fn the_handshake_is_redis_s() {
    let identity = Identity {
        user: Some("u".into()),
        password: Some("p".into()),
        port: 7000,
        announce_ip: Some("10.0.0.9".into()),
        managed: Some((3, 0xAB)),
        failover: false,
    };
    let replica = Replica::new(identity, 100).shaken();
    let want = [
        "PING",
        "AUTH u p",
        "REPLCONF listening-port 7000",
        "REPLCONF ip-address 10.0.0.9",
        "REPLCONF capa eof capa psync2",
        "REPLCONF rr-epoch 3 rr-volume 00000000000000ab",
        &format!("PSYNC {} 101", id(1)),
    ];
    assert_eq!(replica.sent, want);
    assert_eq!(replica.link.info(0).state, "handshake");
}

#[test]
fn without_data_everything_is_asked_for_and_a_failover_is_announced() {
    let mut replica = Replica::new(Identity::default(), 0);
    replica.history = History::fresh(id(1));
    assert_eq!(replica.shaken().sent.last().unwrap(), "PSYNC ? -1");
    let replica = Replica::new(Identity::default(), 0).shaken();
    assert_eq!(*replica.sent.last().unwrap(), format!("PSYNC {} 1", id(1)), "nothing has happened in it yet");
    let replica = Replica::new(Identity { failover: true, ..Identity::default() }, 0).shaken();
    assert_eq!(*replica.sent.last().unwrap(), format!("PSYNC {} 1 FAILOVER", id(1)));
}

#[test]
fn masters_of_all_ages_are_greeted() {
    for pong in ["+PONG", "-NOAUTH Authentication required.", "-NOPERM no", "-ERR operation not permitted"] {
        let mut replica = Replica::plain();
        replica.hears(format!("{pong}\r\n").as_bytes()).expect(pong);
    }
    // An old one knows no REPLCONF at all.
    let mut replica = Replica::plain();
    replica.hears(b"+PONG\r\n-ERR unknown command\r\n-ERR unknown command\r\n").unwrap();
    replica.hears(b"-ERR unknown command 'PSYNC'\r\n").unwrap();
    assert_eq!(replica.sent.last().unwrap(), "SYNC");
    replica.hears(b"\n\n$3\r\nabc").unwrap();
    assert_eq!((&replica.body[..], replica.link.on_loaded(0, 0)), (&b"abc"[..], vec![]), "and takes no ACK");
    assert!(replica.link.is_streaming());
}

#[test]
fn what_the_master_answers_says_whether_to_come_back_soon() {
    let later = |text: &str| LinkError::Later(text.into());
    let check = |answer: &str, want: LinkError| {
        let mut replica = Replica::plain().shaken();
        assert_eq!(replica.hears(format!("{answer}\r\n").as_bytes()), Err(want), "{answer}");
    };
    check("-LOADING loading", later("-LOADING loading"));
    check("-NOMASTERLINK x", later("-NOMASTERLINK x"));
    check("-NOTMASTER 7", LinkError::NotMaster(7));
    check("-NOAUTH x", LinkError::Auth("-NOAUTH x".into()));
    check("-FOO x", LinkError::Refused("-FOO x".into()));
    check("hello", LinkError::Protocol("hello".into()));
    check("+FULLRESYNC", LinkError::Protocol("+FULLRESYNC".into()));
    check("+FULLRESYNC abc 5", LinkError::Protocol("+FULLRESYNC abc 5".into()));
    let mut replica = Replica::plain();
    assert_eq!(replica.hears(b"-LOADING x\r\n"), Err(later("-LOADING x")));
    let mut replica = Replica::plain();
    assert!(matches!(replica.hears(&[b'x'; LINE_MAX]), Err(LinkError::Protocol(_))));
}

#[test]
fn a_wrong_masterauth_is_told() {
    let mut replica = Replica::new(Identity { password: Some("bad".into()), ..Identity::default() }, 0);
    let answer = "-WRONGPASS invalid username-password pair";
    let got = replica.hears(format!("+PONG\r\n{answer}\r\n").as_bytes());
    assert_eq!(got, Err(LinkError::Auth(answer.into())));
}

fn managed() -> Replica {
    Replica::new(Identity { managed: Some((3, 1)), ..Identity::default() }, 100)
}

#[test]
fn r1_a_managed_replica_follows_nobody_who_knows_no_epochs() {
    let mut replica = managed();
    let got = replica.hears(b"+PONG\r\n+OK\r\n+OK\r\n-ERR Unrecognized REPLCONF option: rr-epoch\r\n");
    assert_eq!(got, Err(LinkError::NotMaster(0)));
    let mut replica = managed().shaken();
    assert!(replica.hears(b"-ERR what\r\n").is_err(), "nor does it fall back to SYNC, which names no epoch");
    assert!(!replica.sent.contains(&"SYNC".to_string()));
}

#[test]
fn r5_a_managed_master_says_what_is_still_to_come() {
    let mut replica = managed();
    replica.hears(b"+PONG\r\n+OK\r\n+OK\r\n+OK 12345\r\n").unwrap();
    assert_eq!(replica.link.master_end(), Some(12345));
    assert_eq!(managed().shaken().link.master_end(), None, "one that does not say so is never caught up with");
}

#[test]
fn a_failover_that_is_refused_does_not_become_a_sync() {
    let mut replica = Replica::new(Identity { failover: true, ..Identity::default() }, 100).shaken();
    let got = replica.hears(b"-ERR PSYNC FAILOVER replid must match my replid.\r\n");
    assert!(matches!(got, Err(LinkError::Refused(_))));
}

#[test]
fn a_partial_resync_streams_at_once() {
    let mut replica = Replica::plain().shaken();
    replica.now_ms = 500;
    replica.hears(format!("\n+CONTINUE {}\r\n*1\r\n$4\r\nPING\r\n", id(2)).as_bytes()).unwrap();
    assert_eq!(replica.events.last(), Some(&Event::Continue { id: Some(id(2)) }));
    assert_eq!(replica.buf, b"*1\r\n$4\r\nPING\r\n", "the stream stays where it is");
    let info = replica.link.info(600);
    assert_eq!((info.state, info.up, info.down_ms, info.silent_ms), ("connected", true, None, Some(100)));
    let mut replica = Replica::plain().shaken();
    replica.hears(b"+CONTINUE\r\n").unwrap();
    assert_eq!(replica.events.last(), Some(&Event::Continue { id: None }));
}

#[test]
fn a_full_resync_by_length_takes_that_much_and_no_more() {
    let mut replica = Replica::plain().shaken();
    replica.hears(format!("+FULLRESYNC {} 55\r\n", id(2)).as_bytes()).unwrap();
    assert_eq!(replica.events.last(), Some(&Event::FullResync(Sync { id: Some(id(2)), offset: 55 })));
    assert!(replica.link.is_syncing());
    replica.hears(b"\n$6\r\nabc").unwrap();
    assert_eq!(replica.link.info(0).sync_total, Some(6));
    replica.hears(b"def*1\r\n").unwrap();
    assert_eq!((&replica.body[..], replica.link.info(0).sync_read), (&b"abcdef"[..], 6));
    assert_eq!(replica.events.last(), Some(&Event::BodyEnds));
    assert_eq!(words(&replica.link.on_loaded(55, 10)), ["REPLCONF ACK 55"]);
    assert_eq!(replica.buf, b"*1\r\n");
}

#[test]
fn a_bad_body_is_not_taken() {
    for head in ["-ERR no", "$x", "$-5", "$EOF:short", "hello", "$"] {
        let mut replica = Replica::plain().shaken();
        replica.hears(format!("+FULLRESYNC {} 55\r\n", id(2)).as_bytes()).unwrap();
        assert!(replica.hears(format!("{head}\r\n").as_bytes()).is_err(), "{head}");
    }
}

proptest! {
    /// A body that ends with a mark is what stands before the mark, wherever the network cuts it - also when it is full
    /// of beginnings of the mark.
    #[test]
    fn a_mark_ends_the_body_wherever_it_is_cut(
        pieces in prop::collection::vec((any::<[u8; 3]>(), 0usize..=39), 0..20),
        cuts in prop::collection::vec(1usize..60, 1..40),
    ) {
        // Its first letter comes once: no end of it is a beginning of it, so that only the whole can be taken for it.
        let mark = ReplId::parse(b"a012345678901234567890123456789012345678").unwrap();
        let mut body = Vec::new();
        for (bytes, n) in pieces {
            body.extend_from_slice(&bytes);
            body.extend_from_slice(&mark.as_str().as_bytes()[..n]);
        }
        let mut replica = Replica::plain().shaken();
        replica.hears(format!("+FULLRESYNC {} 55\r\n$EOF:{mark}\r\n", id(2)).as_bytes()).unwrap();
        let wire: Vec<u8> = body.iter().chain(mark.as_str().as_bytes()).copied().collect();
        // A body that contains the whole mark has no end that anybody could find.
        prop_assume!(!wire[..wire.len() - 1].windows(40).any(|w| w == mark.as_str().as_bytes()));
        let (mut rest, mut cuts) = (&wire[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            prop_assert!(replica.events.last() != Some(&Event::BodyEnds), "it ended too early");
            let n = cuts.next().unwrap().min(rest.len());
            replica.hears(&rest[..n]).unwrap();
            rest = &rest[n..];
        }
        prop_assert_eq!(replica.events.last(), Some(&Event::BodyEnds));
        prop_assert_eq!(&replica.body, &body);
        prop_assert!(replica.buf.is_empty());
    }

    #[test]
    fn nothing_that_a_master_sends_makes_it_panic(
        chunks in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..50),
                prop::sample::select(vec![
                    "+PONG\r\n", "+OK\r\n", "+CONTINUE\r\n", "+FULLRESYNC 0123456789012345678901234567890123456789 5\r\n",
                    "$5\r\n", "$EOF:0123456789012345678901234567890123456789\r\n", "\n", "-ERR x\r\n", "$99999999999\r\n",
                ]).prop_map(|text| text.as_bytes().to_vec()),
            ],
            0..30,
        )
    ) {
        let mut replica = Replica::plain();
        for chunk in chunks {
            if replica.hears(&chunk).is_err() {
                break;
            }
        }
    }
}

fn streaming() -> Replica {
    let mut replica = Replica::plain().shaken();
    replica.hears(b"+CONTINUE\r\n").unwrap();
    replica
}

#[test]
fn it_acknowledges_each_second_and_when_asked() {
    let mut link = streaming().link;
    assert_eq!(link.on_applied(110, false, 999), None);
    assert_eq!(words(&link.on_applied(110, true, 999).unwrap()), ["REPLCONF ACK 110"]);
    assert_eq!(link.on_applied(120, false, 1998), None);
    assert_eq!(words(&link.on_applied(120, false, 1999).unwrap()), ["REPLCONF ACK 120"]);
    assert_eq!(link.tick(120, 60_000, 2998), Ok(None));
    assert_eq!(words(&link.tick(120, 60_000, 2999).unwrap().unwrap()), ["REPLCONF ACK 120"]);
}

#[test]
fn a_silent_master_is_given_up_at_every_stage() {
    let check = |mut link: Link, what: &str| {
        assert!(link.tick(0, 60_000, 60_000).is_ok(), "{what}");
        assert_eq!(link.tick(0, 60_000, 60_001), Err(LinkError::Timeout), "{what}");
    };
    check(Replica::plain().link, "ping");
    check(Replica::plain().shaken().link, "psync");
    check(streaming().link, "streaming");
    let mut connecting = Link::new(0);
    connecting.poll_connect(0);
    check(connecting, "connecting");
    let mut head = Replica::plain().shaken();
    head.hears(format!("+FULLRESYNC {} 55\r\n", id(2)).as_bytes()).unwrap();
    check(head.link.clone(), "head");
    head.now_ms = 50_000;
    head.hears(b"\n").unwrap();
    assert!(head.link.tick(0, 60_000, 110_000).is_ok(), "a line feed is a sign of life");
    head.hears(b"$3\r\n").unwrap();
    assert_eq!(head.link.tick(0, 60_000, 110_001), Err(LinkError::Timeout));
}

#[test]
fn while_it_loads_it_shows_that_it_lives_and_does_not_listen() {
    let mut replica = Replica::plain().shaken();
    replica.hears(format!("+FULLRESYNC {} 55\r\n$0\r\n", id(2)).as_bytes()).unwrap();
    assert_eq!(replica.events.last(), Some(&Event::BodyEnds));
    assert_eq!(replica.link.tick(0, 60_000, 500_000), Ok(Some(b"\n".to_vec())));
    assert_eq!(replica.link.tick(0, 60_000, 500_999), Ok(None));
    replica.link.on_loaded(55, 501_000);
    assert!(replica.link.tick(55, 60_000, 501_500).is_ok());
}

#[test]
fn it_waits_before_it_tries_again_and_counts_how_long_it_is_down() {
    let mut link = streaming().link;
    let pause = link.fail(&LinkError::Timeout, 0, 10_000);
    assert!(!link.poll_connect(10_000 + pause - 1) && link.poll_connect(10_000 + pause));
    link.fail(&LinkError::Io("refused".into()), 0, 11_000);
    let info = link.info(15_000);
    assert_eq!((info.state, info.up, info.down_ms, info.silent_ms), ("connect", false, Some(5000), None));
    link.fail(&LinkError::Fenced("empty-master"), 0, 12_000);
    assert!(!link.poll_connect(12_100));
    link.retry_now(12_100);
    assert!(link.poll_connect(12_100), "an allowance is used at once");
}
