//! The `redis.conf` of one instance.
//!
//! The operator's own directives come last, so nothing in the manifest can displace them even if the check of reserved
//! names had a hole: of a directive that is given twice a server takes the last.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

/// Directives that belong to the operator: they decide addresses, credentials, places and roles.
pub const RESERVED: &[&str] = &[
    "aclfile",
    "bind",
    "daemonize",
    "dir",
    "include",
    "logfile",
    "managed",
    "masterauth",
    "masteruser",
    "metrics-port",
    "pidfile",
    "port",
    "protected-mode",
    "replica-announce-ip",
    "replica-announce-port",
    "replicaof",
    "requirepass",
    "slaveof",
    "tls-port",
    "unixsocket",
];

/// Why an entry of the manifest's `spec.config` cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("spec.config: '{0}' is set by the operator and cannot be given here")]
    Reserved(String),
    #[error("spec.config: '{0}' is no name of a directive")]
    Name(String),
    #[error("spec.config: the value of '{0}' contains a line break or another control character")]
    Value(String),
}

/// Where an instance has its password from.
#[derive(Debug, Clone, Copy)]
pub enum Credentials<'a> {
    /// In the file itself, which then is a secret.
    Inline(&'a str),
    /// In another file, made by [`render_credentials`].
    Include(&'a Path),
}

/// What an instance's file is made of.
#[derive(Debug, Clone)]
pub struct ServerConfig<'a> {
    /// Addresses to listen on.
    pub bind: &'a str,
    pub port: u16,
    /// 0: no metrics.
    pub metrics_port: u16,
    /// Absolute.
    pub dir: &'a Path,
    pub credentials: Credentials<'a>,
    /// Directives that follow from other fields of the manifest, before those of `spec.config`.
    pub derived: &'a [(String, String)],
    /// `spec.config` as it is in the manifest.
    pub extra: &'a BTreeMap<String, String>,
}

/// Checks the entries of `spec.config`; the first bad one is named.
pub fn check_extra(extra: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in extra {
        let lower = name.to_ascii_lowercase();
        if RESERVED.contains(&lower.as_str()) {
            return Err(ConfigError::Reserved(name.clone()));
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(ConfigError::Name(name.clone()));
        }
        if value.chars().any(char::is_control) {
            return Err(ConfigError::Value(name.clone()));
        }
    }
    Ok(())
}

/// The file's text.
///
/// # Errors
/// As [`check_extra`].
pub fn render(config: &ServerConfig<'_>) -> Result<String, ConfigError> {
    check_extra(config.extra)?;
    let mut lines =
        vec!["# Written by replicated-redis-operator at every start. Change the manifest instead.".to_string()];
    lines.extend(config.derived.iter().map(|(name, value)| directive(name, value)));
    lines.extend(config.extra.iter().map(|(name, value)| directive(name, value)));
    lines.push(directive("bind", config.bind));
    lines.push(directive("port", &config.port.to_string()));
    lines.push(directive("metrics-port", &config.metrics_port.to_string()));
    lines.push(directive("dir", &quoted(&config.dir.to_string_lossy())));
    lines.push(directive("daemonize", "no"));
    match config.credentials {
        Credentials::Inline(password) => lines.extend(credentials(password)),
        Credentials::Include(path) => lines.push(directive("include", &quoted(&path.to_string_lossy()))),
    }
    lines.push(directive("managed", "yes"));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// The text of a file for [`Credentials::Include`]: the passwords that are accepted, and the one that a replica comes with.
pub fn render_credentials(accepted: &[&str], used: &str) -> String {
    let lines = match accepted {
        [] | [_] => credentials(used),
        several => {
            let passwords: Vec<String> = several.iter().map(|password| quoted(&format!(">{password}"))).collect();
            let user = directive("user", &format!("default on {} ~* &* +@all", passwords.join(" ")));
            [user, directive("masterauth", &quoted(used))]
        }
    };
    lines.join("\n") + "\n"
}

fn credentials(password: &str) -> [String; 2] {
    ["requirepass", "masterauth"].map(|name| directive(name, &quoted(password)))
}

fn directive(name: &str, value: &str) -> String {
    // `save: ""` in the manifest must stay an argument, an empty one.
    format!("{name} {}", if value.is_empty() { "\"\"" } else { value })
}

/// One argument in double quotes, with the escapes that redis.conf knows.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_file_ends_with_what_the_operator_decides() {
        let extra = extra(&[("maxmemory-policy", "noeviction"), ("save", "")]);
        let text = render(&ServerConfig {
            bind: "127.0.0.1",
            port: 20_001,
            metrics_port: 0,
            dir: Path::new("/data/my \"db\"/x-master-0"),
            credentials: Credentials::Inline("s3cret"),
            derived: &[("appendonly".to_string(), "yes".to_string())],
            extra: &extra,
        })
        .unwrap();
        let expected = "\
# Written by replicated-redis-operator at every start. Change the manifest instead.
appendonly yes
maxmemory-policy noeviction
save \"\"
bind 127.0.0.1
port 20001
metrics-port 0
dir \"/data/my \\\"db\\\"/x-master-0\"
daemonize no
requirepass \"s3cret\"
masterauth \"s3cret\"
managed yes
";
        assert_eq!(text, expected);
    }

    #[test]
    fn bad_entries_are_named() {
        let refused = |name: &str, value: &str| check_extra(&extra(&[(name, value)])).unwrap_err().to_string();
        assert_eq!(refused("Port", "1"), "spec.config: 'Port' is set by the operator and cannot be given here");
        assert_eq!(refused("save 1", "1"), "spec.config: 'save 1' is no name of a directive");
        assert_eq!(
            refused("maxmemory", "1\nport 1"),
            "spec.config: the value of 'maxmemory' contains a line break or another control character"
        );
        assert_eq!(check_extra(&extra(&[("maxmemory", "100mb"), ("save", "900 1")])), Ok(()));
    }
}
