//! What has to change so that a running server has the parameters that it would start with now: for the operator, which keeps
//! the file true and asks here what of it needs a restart.

use resp::request::split_args;

use super::{Class, PARAMETERS, Seen, Settings};

/// The way from the settings that count now to those that are wanted.
#[derive(Debug)]
pub struct Changes {
    /// The settings after all that can change while the server runs.
    pub settings: Settings,
    /// Parameters that change so.
    pub live: Vec<&'static str>,
    /// Parameters that only another start can change: what counts now, and what is wanted.
    pub restart: Vec<(&'static str, String, String)>,
}

/// Works out what changes when the file says `directives` (name and the rest of the line) and nothing else, but for the
/// parameters named in `kept`, which stay as they are.
///
/// # Errors
/// Every directive that the server would not start with, and why.
pub fn changes(
    current: &Settings,
    kept: &[String],
    directives: &[(String, String)],
) -> Result<Changes, Vec<(String, String)>> {
    let mut wanted = Settings::default();
    let (mut given, mut refused) = (Vec::new(), Vec::new());
    for (name, rest) in directives {
        if let Err(reason) = directive(&mut wanted, name, rest, &mut given) {
            refused.push((name.clone(), reason));
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    wanted.derive();
    let mut changes = Changes { settings: current.clone(), live: Vec::new(), restart: Vec::new() };
    for p in PARAMETERS {
        let (now, then) = ((p.get)(current), (p.get)(&wanted));
        let is_kept = kept.iter().filter_map(|name| Settings::parameter(name)).any(|other| other.name == p.name);
        if is_kept || now == then {
            continue;
        }
        let is_live = match p.class {
            Class::Live | Class::Hint | Class::Hidden => {
                (p.set)(&mut changes.settings, &[&then], Seen::First).is_ok() && (p.get)(&changes.settings) == then
            }
            Class::Start | Class::StartHint | Class::Protected => false,
        };
        match is_live {
            true => changes.live.push(p.name),
            false => changes.restart.push((p.name, now, then)),
        }
    }
    Ok(changes)
}

fn directive(wanted: &mut Settings, name: &str, rest: &str, given: &mut Vec<&'static str>) -> Result<(), String> {
    let parameter = Settings::parameter(name).ok_or("this server knows no such directive")?;
    let args = split_args(rest.as_bytes()).ok_or("unbalanced quotes")?;
    let words: Vec<_> = args.as_args().iter().map(String::from_utf8_lossy).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    if words.is_empty() && parameter.name != "save" {
        return Err("wrong number of arguments".into());
    }
    let seen = if given.contains(&parameter.name) { Seen::Again } else { Seen::First };
    given.push(parameter.name);
    (parameter.set)(wanted, &words, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(current: &Settings, directives: &[(&str, &str)]) -> Result<Changes, Vec<(String, String)>> {
        let directives: Vec<_> = directives.iter().map(|(name, rest)| (name.to_string(), rest.to_string())).collect();
        changes(current, &["port".into(), "slaveof".into()], &directives)
    }

    #[test]
    fn what_can_change_live_and_what_cannot_are_told_apart() {
        let current = Settings { port: 7000, ..Settings::default() };
        let asked =
            [("hz", "20"), ("databases", "32"), ("save", "900 1 300 10"), ("maxclients", "10000"), ("port", "1")];
        let changes = of(&current, &asked).unwrap();
        assert_eq!(changes.live, ["hz", "save"]);
        assert_eq!(changes.restart, [("databases", "16".into(), "32".into())]);
        assert_eq!((changes.settings.hz, changes.settings.port, changes.settings.databases), (20, 7000, 16));
    }

    /// However a value is written, it is the value that counts: an update that never ended would be the price.
    #[test]
    fn what_is_as_wanted_needs_nothing() {
        let mut current = Settings::default();
        for (name, value) in [("repl-backlog-size", "1048576"), ("databases", "20"), ("save", "900 1")] {
            (Settings::parameter(name).unwrap().set)(&mut current, &[value], Seen::First).unwrap();
        }
        let asked = [("REPL-backlog-SIZE", "1mb"), ("databases", "\"20\""), ("save", "900   1")];
        let changes = of(&current, &asked).unwrap();
        assert!(changes.live.is_empty() && changes.restart.is_empty(), "{changes:?}");
    }

    #[test]
    fn what_is_not_asked_for_any_more_goes_back_to_its_default() {
        let current = Settings { timeout: 30, databases: 20, port: 7000, ..Settings::default() };
        let changes = of(&current, &[]).unwrap();
        assert_eq!((changes.live, changes.settings.timeout, changes.settings.port), (vec!["timeout"], 0, 7000));
        assert_eq!(changes.restart, [("databases", "20".into(), "16".into())]);
    }

    #[test]
    fn every_bad_directive_is_named_and_then_nothing_changes() {
        let refused = of(&Settings::default(), &[("hz", "20"), ("hzz", "1"), ("databases", "0"), ("maxclients", "")]);
        let names: Vec<String> = refused.unwrap_err().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["hzz", "databases", "maxclients"]);
    }

    #[test]
    fn every_parameter_takes_the_value_that_it_shows() {
        let settings = Settings::default();
        for p in PARAMETERS.iter().filter(|p| matches!(p.class, Class::Live | Class::Hint | Class::Hidden)) {
            let mut copy = settings.clone();
            (p.set)(&mut copy, &[&(p.get)(&settings)], Seen::First).unwrap_or_else(|e| panic!("{}: {e}", p.name));
            assert_eq!((p.get)(&copy), (p.get)(&settings), "{}", p.name);
        }
    }
}
