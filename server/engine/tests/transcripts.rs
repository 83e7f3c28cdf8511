//! The transcripts of `tests/transcripts` on the engine alone: no socket, no server. The harness runs the same files
//! against a server of ours and against redis-server; here a wrong reply is found in a second.

use std::fmt::Write as _;

use engine::keyspace::ExpiredKeys;
use engine::{Command, Ctx, Effects, KeysView, Keyspace, Limits, Rng, commands};
use resp::request::split_args;
use resp::{Args, Encoder, Protocol, Value, decode_reply};

struct Session {
    keyspace: Keyspace,
    limits: Limits,
    effects: Effects,
    rng: Rng,
    protocol: Protocol,
}

impl Session {
    fn new() -> Self {
        Self {
            keyspace: Keyspace::new(4, 16, [1, 2]),
            limits: Limits::default(),
            effects: Effects::default(),
            rng: Rng::new(1),
            protocol: Protocol::Resp2,
        }
    }

    fn call(&mut self, args: Args<'_>) -> Value {
        const NOW_MS: u64 = 1_700_000_000_000;
        let name = String::from_utf8_lossy(&args[0]).to_lowercase();
        let command: &Command = commands::FAMILIES
            .iter()
            .copied()
            .flatten()
            .find(|c| c.spec.name == name)
            .expect("a command of the engine");
        if !command.spec.arity_ok(args.len()) {
            return Value::Error(format!("ERR wrong number of arguments for '{name}' command"));
        }
        let mut out = Encoder::new(self.protocol);
        self.effects.begin();
        let mut locked = self.keyspace.lock_all();
        let keys = KeysView::new(&self.keyspace, &mut locked, &self.limits, 0, ExpiredKeys::Delete, NOW_MS);
        let mut ctx = Ctx {
            args,
            keys,
            out: &mut out,
            effects: &mut self.effects,
            rng: &mut self.rng,
            limits: &self.limits,
            now_ms: NOW_MS,
        };
        let result = (command.run)(&mut ctx);
        drop(ctx);
        if let Err(error) = result {
            assert!(out.is_empty(), "{args:?} fails after it began to answer");
            return Value::Error(error.to_string());
        }
        let (value, len) = decode_reply(out.buffer()).expect("valid RESP").expect("a whole reply");
        assert_eq!(len, out.len(), "{args:?} answers more than once");
        value
    }
}

/// As redis-cli prints a reply on a terminal.
fn print(value: &Value, indent: usize, out: &mut String) {
    let items = |out: &mut String, mark: char, empty: &str, all: &[(&Value, Option<&Value>)]| {
        if all.is_empty() {
            out.push_str(empty);
            out.push('\n');
        }
        let width = all.len().to_string().len();
        for (i, (item, value)) in all.iter().enumerate() {
            let margin = if i == 0 { 0 } else { indent };
            write!(out, "{:margin$}{:width$}{mark} ", "", i + 1).expect("a String takes everything");
            print(item, indent + width + 2, out);
            if let Some(value) = value {
                out.truncate(out.trim_end().len());
                out.push_str(" => ");
                print(value, indent + width + 2, out);
            }
        }
    };
    match value {
        Value::Simple(text) => writeln!(out, "{text}").expect("a String takes everything"),
        Value::Error(text) => writeln!(out, "(error) {text}").expect("a String takes everything"),
        Value::Int(n) => writeln!(out, "(integer) {n}").expect("a String takes everything"),
        Value::Double(n) => writeln!(out, "(double) {n}").expect("a String takes everything"),
        Value::Bool(b) => writeln!(out, "({b})").expect("a String takes everything"),
        Value::Null => out.push_str("(nil)\n"),
        Value::Bulk(bytes) | Value::Verbatim(_, bytes) => {
            out.push('"');
            for &byte in bytes {
                match byte {
                    b'\\' | b'"' => write!(out, "\\{}", char::from(byte)),
                    b'\n' => write!(out, "\\n"),
                    b'\r' => write!(out, "\\r"),
                    b'\t' => write!(out, "\\t"),
                    7 => write!(out, "\\a"),
                    8 => write!(out, "\\b"),
                    b' '..=b'~' => write!(out, "{}", char::from(byte)),
                    _ => write!(out, "\\x{byte:02x}"),
                }
                .expect("a String takes everything");
            }
            out.push_str("\"\n");
        }
        Value::BigNumber(text) => writeln!(out, "{text}").expect("a String takes everything"),
        Value::Array(all) => items(out, ')', "(empty array)", &all.iter().map(|v| (v, None)).collect::<Vec<_>>()),
        Value::Push(all) => items(out, '>', "(empty push)", &all.iter().map(|v| (v, None)).collect::<Vec<_>>()),
        Value::Set(all) => items(out, '~', "(empty set)", &all.iter().map(|v| (v, None)).collect::<Vec<_>>()),
        Value::Map(all) => {
            items(out, '#', "(empty hash)", &all.iter().map(|(k, v)| (k, Some(v))).collect::<Vec<_>>());
        }
    }
}

fn check(transcript: &str) {
    let mut session = Session::new();
    let mut lines = transcript.lines().enumerate().peekable();
    let (mut commands, mut wrong) = (0, String::new());
    while let Some((number, line)) = lines.next() {
        if line == "@resp3" {
            session.protocol = Protocol::Resp3;
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        commands += 1;
        let mut want = String::new();
        while let Some((_, line)) = lines.next_if(|(_, l)| !(l.is_empty() || l.starts_with(['>', '#', '@']))) {
            want.push_str(line);
            want.push('\n');
        }
        let args = split_args(command.as_bytes()).expect("balanced quotes");
        let mut got = String::new();
        print(&session.call(args.as_args()), 0, &mut got);
        if got != want {
            write!(wrong, "line {}: {command}\nwant {want}got  {got}\n", number + 1)
                .expect("a String takes everything");
        }
    }
    assert!(commands > 0, "a transcript has commands");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn hashes() {
    check(include_str!("../../../tests/transcripts/hashes.txt"));
}

#[test]
fn lists() {
    check(include_str!("../../../tests/transcripts/lists.txt"));
}

#[test]
fn sets() {
    check(include_str!("../../../tests/transcripts/sets.txt"));
}

#[test]
fn zsets() {
    check(include_str!("../../../tests/transcripts/zsets.txt"));
}

#[test]
fn bitmaps() {
    check(include_str!("../../../tests/transcripts/bitmaps.txt"));
}

#[test]
fn what_redis_7_0_does_otherwise() {
    check(include_str!("../../../tests/transcripts/lists.ours.txt"));
    check(include_str!("../../../tests/transcripts/zsets.ours.txt"));
}
