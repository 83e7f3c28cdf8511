//! The kinds of values that parameters have, with their text forms and limits.

use std::ops::RangeInclusive;

const WRONG_NUMBER: &str = "wrong number of arguments";

/// Is this the first line for a directive in its source, or a further one?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    First,
    Again,
}

/// A value that is written as words in `redis.conf`.
pub(super) trait Param: Sized {
    /// From the words behind the directive's name. CONFIG SET gives them as one.
    fn parse(words: &[&str]) -> Result<Self, String>;

    /// What these words make of the present value: nearly always a new one.
    fn merge(&self, words: &[&str], _seen: Seen) -> Result<Self, String> {
        Self::parse(words)
    }

    /// As CONFIG GET shows it.
    fn show(&self) -> String;

    /// What stands behind the name in `redis.conf`, for each of its lines.
    fn lines(&self) -> Vec<String> {
        vec![self.show()]
    }
}

fn single<'a>(words: &[&'a str]) -> Result<&'a str, String> {
    match words {
        [word] => Ok(word),
        _ => Err(WRONG_NUMBER.into()),
    }
}

/// The words of a value that has several, also if they came as one.
fn several<'a>(words: &[&'a str]) -> Vec<&'a str> {
    match words {
        [all] => all.split_whitespace().collect(),
        _ => words.to_vec(),
    }
}

/// What a value must be, beyond its kind.
pub(super) trait Limit<T> {
    fn check(&self, value: &T) -> Result<(), String>;
}

impl Limit<i64> for RangeInclusive<i64> {
    fn check(&self, value: &i64) -> Result<(), String> {
        if self.contains(value) {
            Ok(())
        } else {
            Err(format!("argument must be between {} and {} inclusive", self.start(), self.end()))
        }
    }
}

impl Limit<Memory> for RangeInclusive<i64> {
    fn check(&self, value: &Memory) -> Result<(), String> {
        self.check(&i64::try_from(value.0).unwrap_or(i64::MAX))
    }
}

/// One of these words.
pub(super) struct Among(pub &'static [&'static str]);

impl Limit<String> for Among {
    fn check(&self, value: &String) -> Result<(), String> {
        if self.0.contains(&value.as_str()) {
            Ok(())
        } else {
            Err(format!("argument(s) must be one of the following: {}", self.0.join(", ")))
        }
    }
}

/// A folder that is there.
pub(super) struct Folder;

impl Limit<String> for Folder {
    fn check(&self, value: &String) -> Result<(), String> {
        match std::fs::metadata(value) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err("Not a directory".into()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err("Permission denied".into()),
            Err(_) => Err("No such file or directory".into()),
        }
    }
}

/// The name of a file, without a path.
pub(super) struct FileName(pub &'static str);

impl Limit<String> for FileName {
    fn check(&self, value: &String) -> Result<(), String> {
        if value.contains('/') { Err(format!("{} can't be a path, just a filename", self.0)) } else { Ok(()) }
    }
}

/// The only values that ask for nothing which this server does not do yet; the first is the one to recommend.
pub(super) struct NotYetBut(pub &'static [&'static str]);

impl<T: Param> Limit<T> for NotYetBut {
    fn check(&self, value: &T) -> Result<(), String> {
        let text = value.show();
        if self.0.contains(&text.as_str()) {
            Ok(())
        } else {
            Err(format!("'{text}' is not supported by this server yet: leave it out or set it to '{}'", self.0[0]))
        }
    }
}

impl Param for i64 {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let number = resp::number::parse_i64(single(words)?.as_bytes());
        number.ok_or_else(|| "argument couldn't be parsed into an integer".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Param for bool {
    fn parse(words: &[&str]) -> Result<Self, String> {
        match single(words)? {
            word if word.eq_ignore_ascii_case("yes") => Ok(true),
            word if word.eq_ignore_ascii_case("no") => Ok(false),
            _ => Err("argument must be 'yes' or 'no'".into()),
        }
    }

    fn show(&self) -> String {
        if *self { "yes" } else { "no" }.into()
    }
}

impl Param for String {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(single(words)?.into())
    }

    fn show(&self) -> String {
        self.clone()
    }

    fn lines(&self) -> Vec<String> {
        vec![quoted(self)]
    }
}

/// In double quotes, with the escapes that `redis.conf` knows.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Bytes, written with units: `1k` is 1000, `1kb` 1024, likewise m and g.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory(pub u64);

impl Memory {
    fn read(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &lower[digits.len()..] {
            "" | "b" => 1,
            "k" => 1000,
            "kb" => 1 << 10,
            "m" => 1_000_000,
            "mb" => 1 << 20,
            "g" => 1_000_000_000,
            "gb" => 1 << 30,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit).map(Memory)
    }

    /// With the largest unit that leaves no remainder.
    fn with_unit(self) -> String {
        match self.0 {
            n if n > 0 && n.is_multiple_of(1 << 30) => format!("{}gb", n >> 30),
            n if n > 0 && n.is_multiple_of(1 << 20) => format!("{}mb", n >> 20),
            n if n > 0 && n.is_multiple_of(1 << 10) => format!("{}kb", n >> 10),
            n => n.to_string(),
        }
    }
}

impl Param for Memory {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Self::read(single(words)?).ok_or_else(|| "argument must be a memory value".into())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn lines(&self) -> Vec<String> {
        vec![self.with_unit()]
    }
}

/// Bytes, or a share of another amount: `10%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryOrShare {
    Bytes(Memory),
    Percent(u64),
}

impl Param for MemoryOrShare {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let word = single(words)?;
        let bad = || "argument must be a memory or percent value".to_string();
        let Some(percent) = word.strip_suffix('%') else { return Memory::read(word).map(Self::Bytes).ok_or_else(bad) };
        match percent.parse().map_err(|_| bad())? {
            n @ 0..=100 => Ok(Self::Percent(n)),
            _ => Err("percentage argument must be less or equal to 100".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.show(),
            Self::Percent(n) => format!("{n}%"),
        }
    }
}

/// File permissions, in octal; 0: as the process's mask has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(pub u32);

impl Param for Permissions {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let bits = u32::from_str_radix(single(words)?, 8);
        let bits = bits.map_err(|_| "argument couldn't be parsed into an integer")?;
        if bits <= 0o777 { Ok(Self(bits)) } else { Err("argument must be between 0 and 777 inclusive".into()) }
    }

    fn show(&self) -> String {
        format!("{:o}", self.0)
    }
}

/// Words in their order: numbers, or addresses to listen on (a `-` in front: it is no error if that one is not there).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words(pub Vec<String>);

impl Words {
    pub(super) fn new(words: &[&str]) -> Self {
        Self(words.iter().map(|w| (*w).into()).collect())
    }
}

impl Param for Words {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(Self::new(&several(words)))
    }

    fn show(&self) -> String {
        self.0.join(" ")
    }

    fn lines(&self) -> Vec<String> {
        vec![if self.0.is_empty() { "\"\"".into() } else { self.show() }]
    }
}

/// Percentiles that INFO's `latencystats` tells, 0 … 100.
#[derive(Debug, Clone, PartialEq)]
pub struct Percentiles(pub Vec<f64>);

impl Default for Percentiles {
    fn default() -> Self {
        Self(vec![50.0, 99.0, 99.9])
    }
}

impl Param for Percentiles {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let numbers = several(words).iter().map(|w| w.parse::<f64>()).collect::<Result<Vec<_>, _>>();
        let numbers = numbers.map_err(|_| "Invalid latency-tracking-info-percentiles parameters")?;
        if numbers.iter().all(|p| (0.0..=100.0).contains(p)) {
            Ok(Self(numbers))
        } else {
            Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]".into())
        }
    }

    fn show(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn lines(&self) -> Vec<String> {
        vec![if self.0.is_empty() { "\"\"".into() } else { self.show() }]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveRule {
    pub seconds: u64,
    pub changes: u64,
}

/// Save the data set when so many changes happened within so many seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveRules(pub Vec<SaveRule>);

impl Default for SaveRules {
    fn default() -> Self {
        let rule = |seconds, changes| SaveRule { seconds, changes };
        Self(vec![rule(3600, 1), rule(300, 100), rule(60, 10000)])
    }
}

impl Param for SaveRules {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let bad = || "Invalid save parameters".to_string();
        let words = several(words);
        let words: &[&str] = if words == [""] { &[] } else { &words };
        let numbers = words.iter().map(|w| w.parse()).collect::<Result<Vec<u64>, _>>().map_err(|_| bad())?;
        if numbers.len() % 2 != 0 {
            return Err(bad());
        }
        let rules: Vec<_> = numbers.chunks_exact(2).map(|c| SaveRule { seconds: c[0], changes: c[1] }).collect();
        if rules.iter().any(|r| r.seconds == 0) { Err(bad()) } else { Ok(Self(rules)) }
    }

    fn merge(&self, words: &[&str], seen: Seen) -> Result<Self, String> {
        let more = Self::parse(words)?;
        if seen == Seen::First || more.0.is_empty() {
            return Ok(more);
        }
        Ok(Self([&self.0[..], &more.0[..]].concat()))
    }

    fn show(&self) -> String {
        self.0.iter().map(|r| format!("{} {}", r.seconds, r.changes)).collect::<Vec<_>>().join(" ")
    }

    fn lines(&self) -> Vec<String> {
        if self.0.is_empty() {
            return vec!["\"\"".into()];
        }
        self.0.iter().map(|r| format!("{} {}", r.seconds, r.changes)).collect()
    }
}

/// The master to follow at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaOf(pub Option<(String, u16)>);

impl Param for ReplicaOf {
    fn parse(words: &[&str]) -> Result<Self, String> {
        match several(words)[..] {
            [no, one] if no.eq_ignore_ascii_case("no") && one.eq_ignore_ascii_case("one") => Ok(Self(None)),
            [host, port] => {
                let port = port.parse().map_err(|_| "Invalid master port")?;
                Ok(Self(Some((host.into(), port))))
            }
            _ => Err(WRONG_NUMBER.into()),
        }
    }

    fn show(&self) -> String {
        self.0.as_ref().map(|(host, port)| format!("{host} {port}")).unwrap_or_default()
    }

    fn lines(&self) -> Vec<String> {
        self.0.iter().map(|(host, port)| format!("{host} {port}")).collect()
    }
}

/// A parameter that is one of some words.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl Param for $name {
            fn parse(words: &[&str]) -> Result<Self, String> {
                let word = single(words)?;
                $(if word.eq_ignore_ascii_case($word) { return Ok(Self::$variant); })*
                Err(format!("argument(s) must be one of the following: {}", [$($word),*].join(", ")))
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $word),* }.into()
            }
        }
    };
}

choices! {
    LogLevel { Debug = "debug", Verbose = "verbose", Notice = "notice", Warning = "warning", Nothing = "nothing" }
}

choices! {
    /// Who may use what is dangerous.
    Access {
        No = "no",
        Yes = "yes",
        /// Connections of this machine.
        Local = "local",
    }
}

choices! {
    /// Where a full resync is received.
    DisklessLoad {
        /// In a file.
        Disabled = "disabled",
        /// In memory, if there is no data here.
        OnEmptyDb = "on-empty-db",
        /// In memory, beside the data that is here.
        SwapDb = "swapdb",
    }
}

choices! {
    Supervised { Upstart = "upstart", Systemd = "systemd", Auto = "auto", No = "no" }
}

choices! {
    /// What a replica does when a command of its master fails.
    PropagationErrors { Ignore = "ignore", Panic = "panic", PanicOnReplicas = "panic-on-replicas" }
}

/// What a signal to end means: any of these together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnSignal {
    pub save: bool,
    pub nosave: bool,
    /// Do not wait for replicas.
    pub now: bool,
    /// End also if the data cannot be saved.
    pub force: bool,
}

impl Param for OnSignal {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut how = Self::default();
        let words = several(words);
        for word in if words.is_empty() { &[""] } else { &words[..] } {
            match word.to_ascii_lowercase().as_str() {
                "default" => {}
                "save" => how.save = true,
                "nosave" => how.nosave = true,
                "now" => how.now = true,
                "force" => how.force = true,
                _ => {
                    let words = "argument(s) must be one of the following: default, save, nosave, now, force";
                    return Err(words.into());
                }
            }
        }
        if how.save && how.nosave {
            return Err("shutdown options SAVE and NOSAVE can't be used simultaneously".into());
        }
        Ok(how)
    }

    fn show(&self) -> String {
        let words = [(self.save, "save"), (self.nosave, "nosave"), (self.now, "now"), (self.force, "force")];
        let words: Vec<_> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if words.is_empty() { "default".into() } else { words.join(" ") }
    }
}

/// Bytes that may wait for a client: at once, and for longer than `seconds`. 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputLimit {
    pub hard: u64,
    pub soft: u64,
    pub seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputLimits {
    pub normal: OutputLimit,
    pub replica: OutputLimit,
    pub pubsub: OutputLimit,
}

impl Default for OutputLimits {
    fn default() -> Self {
        let limit = |hard, soft, seconds| OutputLimit { hard, soft, seconds };
        Self {
            normal: OutputLimit::default(),
            replica: limit(256 << 20, 64 << 20, 60),
            pubsub: limit(32 << 20, 8 << 20, 60),
        }
    }
}

impl Param for OutputLimits {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Self::default().merge(words, Seen::First)
    }

    /// Classes that are not named stay as they are.
    fn merge(&self, words: &[&str], _: Seen) -> Result<Self, String> {
        let words = several(words);
        let mut limits = self.clone();
        if words.is_empty() || !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".into());
        }
        for class in words.chunks_exact(4) {
            let target = match class[0].to_ascii_lowercase().as_str() {
                "normal" => &mut limits.normal,
                "replica" | "slave" => &mut limits.replica,
                "pubsub" => &mut limits.pubsub,
                _ => return Err("Invalid client class specified in buffer limit configuration.".into()),
            };
            let limit = || {
                let (hard, soft) = (Memory::read(class[1])?.0, Memory::read(class[2])?.0);
                Some(OutputLimit { hard, soft, seconds: class[3].parse().ok()? })
            };
            *target = limit().ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.")?;
        }
        Ok(limits)
    }

    fn show(&self) -> String {
        let class = |name, l: &OutputLimit| format!("{name} {} {} {}", l.hard, l.soft, l.seconds);
        [class("normal", &self.normal), class("slave", &self.replica), class("pubsub", &self.pubsub)].join(" ")
    }

    fn lines(&self) -> Vec<String> {
        let class = |name, l: &OutputLimit| {
            format!("{name} {} {} {}", Memory(l.hard).with_unit(), Memory(l.soft).with_unit(), l.seconds)
        };
        vec![class("normal", &self.normal), class("replica", &self.replica), class("pubsub", &self.pubsub)]
    }
}
