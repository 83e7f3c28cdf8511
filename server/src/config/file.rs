//! `redis.conf` and the command line.

use std::fmt::Write as _;
use std::path::Path;

use resp::request::split_args;

use super::{NOT_YET, PARAMETERS, Settings};

/// A directive that cannot be obeyed. `Display` is Redis's message for it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("\n*** FATAL CONFIG FILE ERROR (Redis {version}) ***\nReading the configuration file, at line {line}\n>>> '{text}'\n{reason}", version = crate::REDIS_VERSION)]
    Directive { line: usize, text: String, reason: String },
    #[error("Fatal error, can't open config file '{path}': {source}")]
    Open { path: String, source: std::io::Error },
}

/// Sets one directive. `save` and `client-output-buffer-limit` add to what the same source said before.
fn apply(settings: &mut Settings, words: &[String], seen: &mut Vec<&'static str>) -> Result<(), String> {
    let name = words[0].to_ascii_lowercase();
    let value = words[1..].join(" ");
    if let Some((name, accepted)) = NOT_YET.iter().find(|(n, _)| *n == name) {
        return if accepted.contains(&value.as_str()) {
            Ok(())
        } else {
            Err(format!("{name} {value} is not supported by this server yet; remove it or set it to {:?}", accepted[0]))
        };
    }
    let Some(parameter) = Settings::parameter(&name) else {
        return Err("Bad directive or wrong number of arguments".into());
    };
    if words.len() < 2 {
        return Err("wrong number of arguments".into());
    }
    let again = seen.contains(&parameter.name);
    seen.push(parameter.name);
    let value = match parameter.name {
        "save" if again && !value.is_empty() => format!("{} {value}", (parameter.get)(settings)),
        "client-output-buffer-limit" => format!("{} {value}", (parameter.get)(settings)),
        _ => value,
    };
    (parameter.set)(settings, value.trim())
}

/// Reads a configuration text. `include` is followed.
fn apply_text(
    settings: &mut Settings,
    text: &str,
    seen: &mut Vec<&'static str>,
    depth: usize,
) -> Result<(), ConfigError> {
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = |reason: String| ConfigError::Directive { line: number + 1, text: line.into(), reason };
        let args =
            split_args(line.as_bytes()).ok_or_else(|| error("Unbalanced quotes in configuration line".into()))?;
        let words: Vec<String> = args.as_args().iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        if words[0].eq_ignore_ascii_case("include") && words.len() == 2 {
            if depth > 8 {
                return Err(error("include files are nested too deep".into()));
            }
            let text = read(&words[1])?;
            apply_text(settings, &text, seen, depth + 1)?;
            continue;
        }
        apply(settings, &words, seen).map_err(error)?;
    }
    Ok(())
}

fn read(path: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Open { path: path.into(), source })
}

/// Reads a configuration file.
pub fn load(settings: &mut Settings, path: &Path) -> Result<(), ConfigError> {
    let text = read(&path.to_string_lossy())?;
    apply_text(settings, &text, &mut Vec::new(), 0)?;
    settings.derive();
    Ok(())
}

/// Applies `--directive value…` arguments, as if they were lines behind the file.
pub fn apply_args(settings: &mut Settings, args: &[String]) -> Result<(), ConfigError> {
    let mut lines: Vec<Vec<String>> = Vec::new();
    for arg in args {
        match arg.strip_prefix("--").filter(|name| !name.is_empty()) {
            Some(name) => lines.push(vec![name.into()]),
            None => match lines.last_mut() {
                Some(line) => line.push(arg.clone()),
                None => {
                    let reason = "Bad directive or wrong number of arguments".into();
                    return Err(ConfigError::Directive { line: 1, text: arg.clone(), reason });
                }
            },
        }
    }
    let mut seen = Vec::new();
    for (number, words) in lines.iter().enumerate() {
        let mut words = words.clone();
        // `--save 900 1 ''` and `--save ''`: an empty word alone is an empty value.
        if words.len() > 2 {
            words.retain(|w| !w.is_empty());
        }
        apply(settings, &words, &mut seen).map_err(|reason| ConfigError::Directive {
            line: number + 1,
            text: words.join(" "),
            reason,
        })?;
    }
    settings.derive();
    Ok(())
}

fn quoted(value: &str) -> String {
    if value.is_empty() || value.contains(|c: char| c == '"' || c == '\\' || c == '#' || c.is_control()) {
        format!("{value:?}")
    } else {
        value.into()
    }
}

/// CONFIG REWRITE: the old text with its lines brought up to date, and what differs from the defaults at its end.
pub fn rewrite(settings: &Settings, old: &str) -> String {
    const MARK: &str = "# Generated by CONFIG REWRITE";
    let defaults = Settings::default();
    let (mut out, mut written) = (String::new(), Vec::new());
    for line in old.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        match Settings::parameter(word) {
            Some(p) if written.contains(&p.name) => {}
            Some(p) => {
                written.push(p.name);
                let value = (p.get)(settings);
                if p.name != "replicaof" || !value.is_empty() {
                    let _ = writeln!(out, "{} {}", p.name, quoted(&value));
                }
            }
            None => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    let mut marked = old.contains(MARK);
    for p in PARAMETERS.iter().filter(|p| !written.contains(&p.name)) {
        let value = (p.get)(settings);
        if value != (p.get)(&defaults) {
            if !marked {
                let _ = writeln!(out, "{MARK}");
                marked = true;
            }
            let _ = writeln!(out, "{} {}", p.name, quoted(&value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        apply_text(&mut settings, text, &mut Vec::new(), 0).map_err(|e| e.to_string())?;
        Ok(settings)
    }

    #[test]
    fn a_file_is_read_with_quotes_comments_and_repeated_lines() {
        let s = text("# c\nport 7000\nrequirepass \"a b\"\nsave 900 1\nsave 60 5\nslaveof h 1\n").unwrap();
        assert_eq!((s.port, s.requirepass.as_str(), s.save.0.len()), (7000, "a b", 2));
        assert_eq!(s.replicaof.0, Some(("h".into(), 1)));
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_reason() {
        let error = text("port 1\n\nnonsense 1\n").unwrap_err();
        assert!(error.contains("at line 3") && error.contains(">>> 'nonsense 1'"), "{error}");
        assert!(text("appendonly yes").unwrap_err().contains("not supported by this server yet"));
        assert!(text("appendonly no\nmaxmemory 0").is_ok());
        assert!(text("port \"1").unwrap_err().contains("Unbalanced quotes"));
    }

    #[test]
    fn arguments_are_lines() {
        let args = ["--port", "7001", "--replicaof", "127.0.0.1", "6379", "--save", ""].map(String::from);
        let mut s = Settings::default();
        apply_args(&mut s, &args).unwrap();
        assert_eq!((s.port, s.save.0.len()), (7001, 0));
        assert_eq!(s.replicaof.0, Some(("127.0.0.1".into(), 6379)));
    }

    #[test]
    fn a_rewritten_file_reads_back_the_same_and_keeps_comments() {
        let old = "# keep me\nport 7000\nport 7000\n";
        let mut s = text(old).unwrap();
        s.timeout = 5;
        s.requirepass = "x \"y\"".into();
        let new = rewrite(&s, old);
        assert!(new.contains("# keep me") && new.matches("port 7000").count() == 1, "{new}");
        let back = text(&new).unwrap();
        assert_eq!((back.timeout, back.requirepass.as_str()), (5, "x \"y\""));
        assert_eq!(rewrite(&back, &new), new);
    }
}
