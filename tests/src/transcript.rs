//! Transcripts: sessions as redis-cli shows them on a terminal.
//!
//! `> COMMAND args`, then the reply as printed. `# comment`; `@resp3` switches the protocol for what follows.

use std::fmt::Write as _;

use resp::Value;
use resp::request::split_args;

use crate::Conn;

/// As redis-cli prints a reply on a terminal.
pub fn print(value: &Value, indent: usize, out: &mut String) {
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

/// Plays a transcript against a server and returns the differences, empty if there are none.
pub fn play(conn: &mut Conn, transcript: &str) -> String {
    let mut lines = transcript.lines().enumerate().peekable();
    let (mut commands, mut wrong) = (0, String::new());
    while let Some((number, line)) = lines.next() {
        if line == "@resp3" {
            conn.cmd("HELLO 3");
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        commands += 1;
        let mut want = String::new();
        while let Some((_, line)) = lines.next_if(|(_, l)| !(l.is_empty() || l.starts_with(['>', '#', '@']))) {
            want.push_str(line);
            want.push('\n');
        }
        let args = split_args(command.as_bytes()).expect("balanced quotes");
        let args: Vec<&[u8]> = args.as_args().iter().collect();
        let mut got = String::new();
        print(&conn.call(&args), 0, &mut got);
        if got != want {
            write!(wrong, "line {}: {command}\nwant {want}got  {got}\n", number + 1)
                .expect("a String takes everything");
        }
    }
    assert!(commands > 20, "{commands} commands are no transcript");
    wrong
}
