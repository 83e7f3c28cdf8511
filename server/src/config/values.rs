//! The kinds of values that parameters have, with their text forms.

/// A value that is written as text in `redis.conf`.
pub(super) trait Param: Sized {
    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

/// A value that lies between two others, both allowed.
pub(super) trait Ranged {
    fn check(&self, range: (i64, i64)) -> Result<(), String>;
}

impl Ranged for i64 {
    fn check(&self, (min, max): (i64, i64)) -> Result<(), String> {
        if (min..=max).contains(self) {
            Ok(())
        } else {
            Err(format!("argument must be between {min} and {max} inclusive"))
        }
    }
}

impl Ranged for Memory {
    fn check(&self, range: (i64, i64)) -> Result<(), String> {
        i64::try_from(self.0).unwrap_or(i64::MAX).check(range)
    }
}

impl Param for i64 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "argument couldn't be parsed into an integer".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Param for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err("argument must be 'yes' or 'no'".into()),
        }
    }

    fn show(&self) -> String {
        if *self { "yes" } else { "no" }.into()
    }
}

impl Param for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// Bytes, written with units: `1k` is 1000, `1kb` 1024, likewise m and g.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub u64);

impl Param for Memory {
    fn parse(text: &str) -> Result<Self, String> {
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
            _ => return Err("argument must be a memory value".into()),
        };
        let n = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        n.map(Memory).ok_or_else(|| "argument must be a memory value".into())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Addresses to listen on; a `-` in front: it is no error if that one is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindList(pub Vec<String>);

impl Default for BindList {
    fn default() -> Self {
        Self(vec!["*".into(), "-::*".into()])
    }
}

impl Param for BindList {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.split_whitespace().map(Into::into).collect()))
    }

    fn show(&self) -> String {
        self.0.join(" ")
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
    fn parse(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        let numbers = numbers.ok().filter(|n| n.len() % 2 == 0).ok_or("Invalid save parameters")?;
        let rules = numbers.chunks_exact(2).map(|c| SaveRule { seconds: c[0], changes: c[1] });
        let rules: Vec<_> = rules.collect();
        if rules.iter().any(|r| r.seconds == 0) { Err("Invalid save parameters".into()) } else { Ok(Self(rules)) }
    }

    fn show(&self) -> String {
        self.0.iter().map(|r| format!("{} {}", r.seconds, r.changes)).collect::<Vec<_>>().join(" ")
    }
}

/// The master to follow at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaOf(pub Option<(String, u16)>);

impl Param for ReplicaOf {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(no), Some(one), None) if no.eq_ignore_ascii_case("no") && one.eq_ignore_ascii_case("one") => {
                Ok(Self(None))
            }
            (Some(host), Some(port), None) => {
                let port = port.parse().map_err(|_| "Invalid master port".to_string())?;
                Ok(Self(Some((host.into(), port))))
            }
            _ => Err("wrong number of arguments".into()),
        }
    }

    fn show(&self) -> String {
        self.0.as_ref().map(|(host, port)| format!("{host} {port}")).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Verbose,
    Notice,
    Warning,
}

impl Param for LogLevel {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "verbose" => Ok(Self::Verbose),
            "notice" => Ok(Self::Notice),
            "warning" | "nothing" => Ok(Self::Warning),
            _ => Err("argument(s) must be one of the following: debug, verbose, notice, warning, nothing".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Debug => "debug",
            Self::Verbose => "verbose",
            Self::Notice => "notice",
            Self::Warning => "warning",
        }
        .into()
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
    fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut limits = Self::default();
        if words.is_empty() || !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".into());
        }
        for class in words.chunks_exact(4) {
            let bad = |_| "Error in hard, soft or soft_seconds setting in buffer limit configuration.".to_string();
            let limit = OutputLimit {
                hard: Memory::parse(class[1]).map_err(bad)?.0,
                soft: Memory::parse(class[2]).map_err(bad)?.0,
                seconds: class[3].parse().map_err(|_| bad(String::new()))?,
            };
            match class[0].to_ascii_lowercase().as_str() {
                "normal" => limits.normal = limit,
                "replica" | "slave" => limits.replica = limit,
                "pubsub" => limits.pubsub = limit,
                _ => return Err("Invalid client class specified in buffer limit configuration.".into()),
            }
        }
        Ok(limits)
    }

    fn show(&self) -> String {
        let class = |name, l: &OutputLimit| format!("{name} {} {} {}", l.hard, l.soft, l.seconds);
        [class("normal", &self.normal), class("slave", &self.replica), class("pubsub", &self.pubsub)].join(" ")
    }
}
