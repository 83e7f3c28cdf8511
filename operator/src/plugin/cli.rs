//! Commands of Redis to an instance. On a terminal replies look as in redis-cli; into a pipe they are plain.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use resp::Value;

use super::cluster::{Cluster, Talk};
use crate::client::ClientError;

/// A command may wait, as BLPOP does.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// They have no end, so there is no reply to wait for.
const ENDLESS: [&str; 6] = ["monitor", "subscribe", "psubscribe", "ssubscribe", "psync", "sync"];

pub(super) async fn cli(cluster: &Cluster, name: &str, instance: Option<&str>, command: Vec<String>) -> Result<()> {
    let datastore = cluster.datastore(name).await?;
    let master = datastore.status.as_ref().and_then(|s| s.current_master.clone());
    let instance = match instance {
        Some(instance) => instance.to_string(),
        None => master.ok_or_else(|| anyhow!("{name} has no master now; name an instance with --instance"))?,
    };
    let pod = cluster.pod(&datastore, &instance).await?;
    let mut talk = cluster.talk(&pod, &cluster.password(&datastore).await?).await?;
    let pretty = std::io::stdout().is_terminal();
    if !command.is_empty() {
        let words: Vec<Vec<u8>> = command.into_iter().map(String::into_bytes).collect();
        return match call(&mut talk, &words).await? {
            Ok(value) => print(&value, pretty),
            Err(refused) => bail!("{refused}"),
        };
    }
    loop {
        if std::io::stdin().is_terminal() {
            eprint!("{instance}> ");
        }
        let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().transpose()).await??;
        let Some(line) = line else { return Ok(()) };
        let Some(args) = resp::request::split_args(line.as_bytes()) else {
            eprintln!("(error) unbalanced quotes");
            continue;
        };
        let words: Vec<Vec<u8>> = args.as_args().iter().map(<[u8]>::to_vec).collect();
        if words.is_empty() {
            continue;
        }
        match call(&mut talk, &words).await? {
            Ok(value) => print(&value, pretty)?,
            Err(refused) => println!("(error) {refused}"),
        }
    }
}

/// The reply; an error reply is the inner error.
async fn call(talk: &mut Talk, words: &[Vec<u8>]) -> Result<Result<Value, String>> {
    let first = words.first().map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).unwrap_or_default();
    if ENDLESS.contains(&first.as_str()) {
        bail!("{first} has no end; use kubectl port-forward and redis-cli for it");
    }
    match talk.client.call_within(words, LIMIT).await {
        Ok(value) => Ok(Ok(value)),
        Err(ClientError::Refused { code, message }) => Ok(Err(format!("{code} {message}"))),
        Err(error) => Err(error.into()),
    }
}

fn print(value: &Value, pretty: bool) -> Result<()> {
    use std::io::Write as _;
    let mut text = if pretty { shown(value, 0).into_bytes() } else { plain(value) };
    text.push(b'\n');
    Ok(std::io::stdout().write_all(&text)?)
}

/// As redis-cli shows it; `indent`: of the lines behind the first.
fn shown(value: &Value, indent: usize) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| {
        let mut out = String::new();
        for (i, item) in items.enumerate() {
            let pad = if i == 0 { String::new() } else { format!("\n{:indent$}", "") };
            let _ = write!(out, "{pad}{}) {item}", i + 1);
        }
        if out.is_empty() { "(empty array)".into() } else { out }
    };
    match value {
        Value::Int(n) => format!("(integer) {n}"),
        Value::Bulk(bytes) => quoted(bytes),
        Value::Verbatim(_, bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            let digits = items.len().to_string().len();
            list(&mut items.iter().map(|item| shown(item, indent + digits + 2)))
        }
        Value::Map(pairs) => {
            list(&mut pairs.iter().map(|(k, v)| format!("{} => {}", shown(k, indent), shown(v, indent + 4))))
        }
        Value::Simple(_) | Value::Error(_) | Value::Null | Value::Double(_) | Value::Bool(_) | Value::BigNumber(_) => {
            value.to_string()
        }
    }
}

fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push('"');
    out
}

/// One element a line, as it is.
fn plain(value: &Value) -> Vec<u8> {
    let joined = |items: Vec<Vec<u8>>| items.join(&b'\n');
    match value {
        Value::Bulk(bytes) | Value::Verbatim(_, bytes) => bytes.clone(),
        Value::Null => Vec::new(),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => joined(items.iter().map(plain).collect()),
        Value::Map(pairs) => joined(pairs.iter().flat_map(|(k, v)| [plain(k), plain(v)]).collect()),
        Value::Simple(_)
        | Value::Error(_)
        | Value::Int(_)
        | Value::Double(_)
        | Value::Bool(_)
        | Value::BigNumber(_) => value.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_look_as_in_redis_cli() {
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        assert_eq!(shown(&Value::Simple("OK".into()), 0), "OK");
        assert_eq!(shown(&Value::Int(3), 0), "(integer) 3");
        assert_eq!(shown(&Value::Null, 0), "(nil)");
        assert_eq!(shown(&Value::Bulk(b"a\"\x01".to_vec()), 0), "\"a\\\"\\x01\"");
        assert_eq!(shown(&Value::Array(vec![]), 0), "(empty array)");
        let nested = Value::Array(vec![bulk("a"), Value::Array(vec![Value::Int(1), Value::Int(2)])]);
        assert_eq!(shown(&nested, 0), "1) \"a\"\n2) 1) (integer) 1\n   2) (integer) 2");
        assert_eq!(plain(&nested), b"a\n1\n2");
    }
}
