//! `redis.conf` and the command line: one text, line by line.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use resp::request::split_args;

use super::values::quoted;
use super::{Seen, Settings};
use crate::acl::{DEFAULT, RuleError, User};

/// Why the server cannot start with what it was given. `Display` is Redis's message for it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("\n*** FATAL CONFIG FILE ERROR (Redis {version}) ***\nReading the configuration file, at line {line}\n>>> '{text}'\n{reason}", version = crate::REDIS_VERSION)]
    Directive { line: usize, text: String, reason: String },
    #[error("Fatal error, can't open config file '{path}': {source}")]
    Open { path: String, source: std::io::Error },
}

/// Directives of Redis that are no parameters, and what to do about them.
const REFUSED: &[(&str, &str)] = &[
    ("rename-command", "'rename-command' is not supported by this server: leave it out"),
    ("loadmodule", "'loadmodule' is not supported: this server has no modules"),
    ("sentinel", "'sentinel' is not supported: run redis-sentinel beside this server"),
];

/// Include files within include files, at most.
const DEPTH_MAX: usize = 16;

struct Loader {
    settings: Settings,
    seen: Vec<&'static str>,
}

impl Loader {
    fn directive(&mut self, words: &[&str]) -> Result<(), String> {
        if words[0].eq_ignore_ascii_case("user") {
            return self.user(words);
        }
        let Some(parameter) = Settings::parameter(words[0]) else {
            let refused = REFUSED.iter().find(|(name, _)| words[0].eq_ignore_ascii_case(name));
            return Err(refused.map_or("Bad directive or wrong number of arguments", |(_, sentence)| sentence).into());
        };
        // `save` alone asks for no saving, as `save ""` does; the others say themselves what they want.
        if words.len() < 2 && !["save", "shutdown-on-sigint", "shutdown-on-sigterm"].contains(&parameter.name) {
            return Err("wrong number of arguments".into());
        }
        let seen = if self.seen.contains(&parameter.name) { Seen::Again } else { Seen::First };
        self.seen.push(parameter.name);
        (parameter.set)(&mut self.settings, &words[1..], seen)
    }

    /// `user default rule …`
    fn user(&mut self, words: &[&str]) -> Result<(), String> {
        let (name, rules) = words[1..].split_first().ok_or("wrong number of arguments")?;
        if *name != DEFAULT {
            return Err(format!("user {name}: users other than 'default' are not supported by this server yet"));
        }
        if self.settings.default_user.is_some() {
            let reason = "Duplicate user found. A user can only be defined once in config files";
            return Err(format!("Error in user declaration '{name}': {reason}"));
        }
        let user = User::from_line(rules).map_err(|(rule, error)| {
            // The rule may be a mistyped password.
            let is_shown = error == RuleError::NotYet;
            format!("Error in user declaration '{}': {error}", if is_shown { &rule } else { DEFAULT })
        })?;
        if !user.enabled {
            tracing::warn!(
                "The user '{name}' is disabled (there is no 'on' modifier in the user description). Make sure this is not a configuration error."
            );
        }
        self.settings.default_user = Some(user);
        Ok(())
    }

    fn text(&mut self, text: &str, depth: usize) -> Result<(), ConfigError> {
        for (number, line) in text.split('\n').enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let error =
                |reason: String| ConfigError::Directive { line: number + 1, text: without_secret(line), reason };
            let args =
                split_args(line.as_bytes()).ok_or_else(|| error("Unbalanced quotes in configuration line".into()))?;
            let words: Vec<_> = args.as_args().iter().map(String::from_utf8_lossy).collect();
            let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
            match words[..] {
                [name, _] if name.eq_ignore_ascii_case("include") && depth == DEPTH_MAX => {
                    return Err(error("include files are nested too deep".into()));
                }
                [name, pattern] if name.eq_ignore_ascii_case("include") => {
                    for path in included(pattern) {
                        self.text(&read(&path)?, depth + 1)?;
                    }
                }
                _ => self.directive(&words).map_err(error)?,
            }
        }
        Ok(())
    }
}

/// The files that an `include` means: its last part may be a pattern, which may match nothing.
fn included(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.contains(['*', '?', '[']) {
        return vec![path.into()];
    }
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let matching = entries.filter(|e| engine::glob::matches(name.as_bytes(), e.file_name().as_encoded_bytes()));
    let mut files: Vec<_> = matching.map(|e| e.path()).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let open = |source: std::io::Error| {
        let path = path.to_string_lossy().into_owned();
        ConfigError::Open { path, source: without_number(&source) }
    };
    let bytes = std::fs::read(path).map_err(open)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line as it may be shown.
fn without_secret(line: &str) -> String {
    let name = line.split_whitespace().next().unwrap_or_default();
    if Settings::is_secret(name.trim_matches(['"', '\''])) { format!("{name} (redacted)") } else { line.into() }
}

/// An error of the operating system in its words only: `No such file or directory`.
fn without_number(error: &std::io::Error) -> std::io::Error {
    let text = error.to_string();
    std::io::Error::new(error.kind(), text.split(" (os error").next().unwrap_or_default().to_string())
}

/// `--directive value …` arguments as lines; a `-` at either end asks for standard input.
fn lines_of(args: &[String]) -> (Vec<String>, bool) {
    let (mut lines, mut stdin): (Vec<Vec<String>>, bool) = (Vec::new(), false);
    for (i, arg) in args.iter().enumerate() {
        // An option that has no value yet takes what follows, whatever it looks like; but `--save` alone is complete.
        let bare = lines.last().is_some_and(|line| line.len() == 1 && !line[0].eq_ignore_ascii_case("save"));
        match arg.strip_prefix("--") {
            _ if arg == "-" && (i == 0 || i == args.len() - 1) => stdin = true,
            Some(name) if !bare => lines.push(vec![name.into()]),
            Some(_) | None => match lines.last_mut() {
                Some(line) => line.push(quoted(arg)),
                None => lines.push(vec![quoted(arg)]),
            },
        }
    }
    for line in lines.iter_mut().filter(|line| line.len() == 1 && line[0].eq_ignore_ascii_case("save")) {
        line.push("\"\"".into());
    }
    // `--save 900 1 ""`, as wrappers write it: the empty word adds nothing.
    for line in lines.iter_mut().filter(|line| line.len() > 2 && line[0].eq_ignore_ascii_case("save")) {
        line.retain(|word| word != "\"\"");
    }
    (lines.iter().map(|words| words.join(" ")).collect(), stdin)
}

/// The settings that the program's arguments ask for, and the file among them, if there is one.
pub fn read_settings(args: &[String]) -> Result<(Settings, Option<PathBuf>), ConfigError> {
    let (file, rest) = match args.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (Some(PathBuf::from(first)), rest),
        _ => (None, args),
    };
    // CONFIG REWRITE finds the file wherever the process is then.
    let file = file.map(|f| std::path::absolute(&f).unwrap_or(f));
    let mut text = file.as_deref().map(read).transpose()?.unwrap_or_default();
    let (lines, stdin) = lines_of(rest);
    if stdin {
        let open = |source| ConfigError::Open { path: "standard input".into(), source };
        std::io::stdin().read_to_string(&mut text).map_err(open)?;
    }
    for line in lines {
        text.push('\n');
        text.push_str(&line);
    }
    Ok((read_text(&text)?, file))
}

/// The settings of a configuration text.
pub(super) fn read_text(text: &str) -> Result<Settings, ConfigError> {
    let mut loader = Loader { settings: Settings::default(), seen: Vec::new() };
    loader.text(text, 0)?;
    loader.settings.derive();
    Ok(loader.settings)
}
