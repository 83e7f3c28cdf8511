//! A command's arguments, read from the line that documents it: `key [NX | XX] value [value ...]`. What COMMAND DOCS tells
//! of arguments comes from here.
//!
//! In a line, words in capitals are sent as they are, others stand for a value; `[…]` may be left out, `|` separates
//! alternatives, `<…>` groups, and `...` repeats what stands in front of it.

use std::iter::Peekable;

use resp::Encoder;

/// One argument, or several that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub name: String,
    pub kind: Kind,
    /// The word in front of the value.
    pub token: Option<String>,
    pub optional: bool,
    pub multiple: bool,
    /// With `multiple`: the token is repeated too.
    pub multiple_token: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A plain value: Redis's word for its type.
    Value(&'static str),
    PureToken,
    OneOf(Vec<Argument>),
    Block(Vec<Argument>),
}

impl Argument {
    fn new(name: &str, kind: Kind) -> Self {
        let name = name.to_ascii_lowercase();
        Self { name, kind, token: None, optional: false, multiple: false, multiple_token: false }
    }

    fn of_word(word: &str) -> Self {
        if word.bytes().any(|b| b.is_ascii_lowercase()) {
            return Self::new(word, Kind::Value(type_of(word)));
        }
        Self { token: Some(word.into()), ..Self::new(word, Kind::PureToken) }
    }

    /// The same value in another place?
    fn repeats(&self, other: &Self) -> bool {
        (&self.name, &self.kind, &self.token) == (&other.name, &other.kind, &other.token)
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        let flags = [
            (self.optional, "optional"),
            (self.multiple, "multiple"),
            (self.multiple && self.multiple_token, "multiple_token"),
        ];
        let flags: Vec<_> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        let (kind, parts) = match &self.kind {
            Kind::Value(kind) => (*kind, None),
            Kind::PureToken => ("pure-token", None),
            Kind::OneOf(parts) => ("oneof", Some(parts)),
            Kind::Block(parts) => ("block", Some(parts)),
        };
        let is_key = kind == "key";
        let fields = 2
            + usize::from(is_key)
            + usize::from(self.token.is_some())
            + usize::from(!flags.is_empty())
            + usize::from(parts.is_some());
        out.map(fields);
        out.bulk(b"name");
        out.bulk(self.name.as_bytes());
        out.bulk(b"type");
        out.bulk(kind.as_bytes());
        if is_key {
            out.bulk(b"key_spec_index");
            out.int(0);
        }
        if let Some(token) = &self.token {
            out.bulk(b"token");
            out.bulk(token.as_bytes());
        }
        if !flags.is_empty() {
            out.bulk(b"flags");
            out.set(flags.len());
            flags.iter().for_each(|flag| out.simple(flag));
        }
        if let Some(parts) = parts {
            out.bulk(b"arguments");
            out.array(parts.len());
            parts.iter().for_each(|part| part.encode(out));
        }
    }
}

/// Redis's type for a value of this name.
fn type_of(name: &str) -> &'static str {
    match name {
        "key" | "newkey" | "key1" | "key2" | "source" | "destination" | "destkey" => "key",
        "pattern" => "pattern",
        "seconds" | "milliseconds" | "count" | "offset" | "index" | "start" | "stop" | "end" | "numkeys" | "cursor"
        | "rank" | "num-matches" | "len" | "min-match-len" | "increment-integer" | "db" | "destination-db"
        | "index1" | "index2" | "limit" | "bit" | "port" | "client-id" | "numreplicas" | "protover" | "frequency"
        | "decrement" | "timeout" => "integer",
        "score" => "double",
        _ if name.starts_with("unix-time") => "unix-time",
        _ => "string",
    }
}

/// The arguments of a line.
pub(super) fn parse(line: &str) -> Vec<Argument> {
    let spaced: String =
        line.chars().flat_map(|c| if "[]<>|".contains(c) { vec![' ', c, ' '] } else { vec![c] }).collect();
    let mut words = spaced.split_whitespace().peekable();
    let mut alternatives = read(&mut words, None).alternatives;
    if alternatives.len() == 1 { join(alternatives.remove(0)) } else { vec![one_of(alternatives)] }
}

#[derive(Default)]
struct Group {
    alternatives: Vec<Vec<Part>>,
    repeated: bool,
}

enum Part {
    Word(String),
    /// Something in brackets; whether it may be left out.
    Group(Group, bool),
}

fn read<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, end: Option<&str>) -> Group {
    let mut group = Group { alternatives: vec![Vec::new()], repeated: false };
    while let Some(word) = words.next() {
        let parts = group.alternatives.last_mut().expect("there is always one");
        match word {
            _ if Some(word) == end => break,
            "|" => group.alternatives.push(Vec::new()),
            "..." => group.repeated = true,
            "[" => parts.push(Part::Group(read(words, Some("]")), true)),
            "<" => parts.push(Part::Group(read(words, Some(">")), false)),
            _ => parts.push(Part::Word(word.into())),
        }
    }
    group
}

/// A sequence: tokens are joined with what they introduce, and repetitions with what they repeat.
fn join(parts: Vec<Part>) -> Vec<Argument> {
    let mut out: Vec<Argument> = Vec::new();
    for part in parts {
        match part {
            Part::Word(word) => {
                let argument = Argument::of_word(&word);
                match out.last_mut() {
                    // `EX seconds`: a value with a token.
                    Some(last) if last.kind == Kind::PureToken && argument.kind != Kind::PureToken => {
                        *last = Argument { token: last.token.take(), ..argument };
                    }
                    _ => out.push(argument),
                }
            }
            Part::Group(group, optional) => {
                let repeated = group.repeated;
                let items = match group.alternatives.len() {
                    1 => join(group.alternatives.into_iter().next().unwrap_or_default()),
                    _ => vec![one_of(group.alternatives)],
                };
                let n = items.len();
                let same = out.len() >= n && out[out.len() - n..].iter().zip(&items).all(|(a, b)| a.repeats(b));
                if repeated && same && n > 0 {
                    // `key [key ...]`, `score member [score member ...]`
                    let first = out.split_off(out.len() - n);
                    let mut argument = block("data", first);
                    argument.multiple = true;
                    argument.multiple_token = argument.token.is_some();
                    out.push(argument);
                    continue;
                }
                let mut argument = block("data", items);
                argument.optional |= optional;
                argument.multiple |= repeated;
                match out.last_mut() {
                    // `OVERFLOW <WRAP | SAT | FAIL>`
                    Some(last) if last.kind == Kind::PureToken && !optional => {
                        *last = Argument { name: last.name.clone(), token: last.token.take(), ..argument };
                    }
                    _ => out.push(argument),
                }
            }
        }
    }
    out
}

/// Several arguments as one; a token in front of several is the block's.
fn block(name: &str, mut items: Vec<Argument>) -> Argument {
    if items.len() == 1 {
        return items.remove(0);
    }
    let leads = items.first().is_some_and(|a| a.token.is_some() && a.kind != Kind::PureToken)
        && items[1..].iter().all(|a| a.token.is_none());
    let token = if leads { items[0].token.take() } else { None };
    let name = token.as_ref().map_or_else(|| name.to_string(), |t| t.to_ascii_lowercase());
    Argument { token, ..Argument::new(&name, Kind::Block(items)) }
}

fn one_of(alternatives: Vec<Vec<Part>>) -> Argument {
    let choices: Vec<_> = alternatives.into_iter().map(|parts| block("data", join(parts))).collect();
    let name = choices.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join("-");
    Argument::new(&name, Kind::OneOf(choices))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short form: `name`, `TOKEN:name`, `?` optional, `*` repeated, `(a|b)` a choice, `{a b}` a block.
    fn show(arguments: &[Argument]) -> String {
        let one = |a: &Argument| {
            let inner = match &a.kind {
                Kind::Value(_) => a.name.clone(),
                Kind::PureToken => String::new(),
                Kind::OneOf(parts) => {
                    format!("({})", parts.iter().map(|p| show(std::slice::from_ref(p))).collect::<Vec<_>>().join("|"))
                }
                Kind::Block(parts) => format!("{{{}}}", show(parts)),
            };
            let token = a.token.as_ref().map(|t| format!("{t}:")).unwrap_or_default();
            let marks = [(a.optional, "?"), (a.multiple, "*"), (a.multiple_token, "+")];
            let marks: String = marks.iter().filter(|(on, _)| *on).map(|(_, m)| *m).collect();
            format!("{token}{inner}{marks}")
        };
        arguments.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_are_read_as_they_are_meant() {
        for (line, want) in [
            ("", ""),
            ("key", "key"),
            ("key [key ...]", "key*"),
            ("key value [key value ...]", "{key value}*"),
            ("key seconds [NX | XX | GT | LT]", "key seconds (NX:|XX:|GT:|LT:)?"),
            ("key [EX seconds | PERSIST]", "key (EX:seconds|PERSIST:)?"),
            ("key [LIMIT offset count]", "key LIMIT:{offset count}?"),
            ("[GET pattern [GET pattern ...]] [ALPHA]", "GET:pattern?*+ ALPHA:?"),
            ("<host port | NO ONE>", "({host port}|{NO: ONE:})"),
            ("[OVERFLOW <WRAP | SAT>]", "OVERFLOW:(WRAP:|SAT:)?"),
            ("[section [section ...]]", "section?*"),
            ("numkeys key [key ...] <MIN | MAX> [COUNT count]", "numkeys key* (MIN:|MAX:) COUNT:count?"),
        ] {
            assert_eq!(show(&parse(line)), want, "{line}");
        }
    }

    #[test]
    fn every_command_s_line_can_be_read() {
        for entry in crate::registry::Registry::get().entries() {
            let arguments = parse(entry.spec.syntax);
            let least = arguments.iter().filter(|a| !a.optional).count() + 1;
            assert!(least <= entry.spec.arity.unsigned_abs().into(), "{}: {:?}", entry.spec.name, entry.spec.syntax);
        }
    }
}
