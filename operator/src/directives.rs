//! What an instance says of the directives that are wanted: `REPLICATED CONFIG`. The server alone knows which of them can
//! change while it runs.

use std::time::Duration;

use resp::Value;

use crate::client::{Client, ClientError};
use crate::config::RESERVED;
use crate::fault::Act;

const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// One parameter that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Changed while it ran; or, where it was only asked, it could be.
    Set(String),
    /// Only another start can change it: the value now, and the one that is wanted.
    Restart { name: String, now: String, wanted: String },
    /// The server would not start with it.
    Refused { name: String, reason: String },
}

/// Whether anything is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Check,
    Apply,
}

/// Asks the instance at `address`, or lets it change what it can.
///
/// # Errors
/// [`ClientError::Refused`] from a server that does not know the question.
pub async fn ask(
    address: &str,
    password: &str,
    mode: Mode,
    directives: &[(String, String)],
) -> Result<Vec<Told>, ClientError> {
    let mut client = Client::connect(address, Some(password), REPLY_TIMEOUT).await?;
    let question = question(mode, directives);
    let asked = client.call(&question);
    let answer = match mode {
        Mode::Check => asked.await?,
        Mode::Apply => Act::TellDirectives.around(asked).await?,
    };
    read(&answer)
}

fn question(mode: Mode, directives: &[(String, String)]) -> Vec<String> {
    let mode = match mode {
        Mode::Check => "CHECK",
        Mode::Apply => "APPLY",
    };
    let mut words: Vec<String> = ["REPLICATED", "CONFIG", mode].map(String::from).to_vec();
    words.push(RESERVED.len().to_string());
    words.extend(RESERVED.iter().map(|name| (*name).to_string()));
    words.extend(directives.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
    words
}

fn read(reply: &Value) -> Result<Vec<Told>, ClientError> {
    let odd = || ClientError::Protocol(reply.to_string());
    let one = |value: &Value| {
        let words: Option<Vec<String>> = value.as_list()?.iter().map(|word| Some(word.as_str()?.to_string())).collect();
        match &words?[..] {
            [name, verdict] if verdict == "set" => Some(Told::Set(name.clone())),
            [name, verdict, now, wanted] if verdict == "restart" => {
                Some(Told::Restart { name: name.clone(), now: now.clone(), wanted: wanted.clone() })
            }
            [name, verdict, reason] if verdict == "refused" => {
                Some(Told::Refused { name: name.clone(), reason: reason.clone() })
            }
            _ => None,
        }
    };
    let list = reply.as_list().ok_or_else(odd)?;
    list.iter().map(|value| one(value).ok_or_else(odd)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_what_is_not_the_manifests() {
        let words = question(Mode::Check, &[("hz".into(), "20".into())]);
        let kept: usize = words[3].parse().unwrap();
        assert_eq!((words[2].as_str(), kept), ("CHECK", RESERVED.len()));
        assert!(words[4..4 + kept].contains(&"requirepass".to_string()));
        assert_eq!(words[4 + kept..], ["hz", "20"]);
    }

    #[test]
    fn the_answer_is_read_or_refused() {
        let text = |words: &[&str]| Value::Array(words.iter().map(|w| Value::Bulk(w.as_bytes().to_vec())).collect());
        let answer = Value::Array(vec![text(&["hz", "set"]), text(&["databases", "restart", "16", "32"])]);
        let restart = Told::Restart { name: "databases".into(), now: "16".into(), wanted: "32".into() };
        assert_eq!(read(&answer).unwrap(), [Told::Set("hz".into()), restart]);
        assert!(read(&Value::Array(vec![text(&["hz", "perhaps"])])).is_err());
        assert!(read(&Value::Int(1)).is_err());
    }
}
