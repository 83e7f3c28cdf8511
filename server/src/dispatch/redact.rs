//! Which arguments of a call are secrets: they are shown nowhere.

use engine::parse::eq_ignore_case;
use resp::Args;

use crate::config::Settings;

/// What is shown instead.
pub(super) const SHOWN: &[u8] = b"(redacted)";

/// Whether argument number `i` is a password or might be one, as Redis sees it.
pub(super) fn is_secret(args: Args<'_>, i: usize) -> bool {
    let is = |at: usize, word: &str| args.get(at).is_some_and(|arg| eq_ignore_case(arg, word));
    let follows = |word: &str, within: usize| (1..=within.min(i)).any(|back| is(i - back, word));
    match () {
        () if is(0, "auth") => i >= 1,
        () if is(0, "hello") => i >= 3 && follows("auth", 2),
        () if is(0, "replicated") && is(1, "followexternal") => i >= 5,
        () if is(0, "acl") && is(1, "setuser") => i >= 2,
        () if is(0, "config") && is(1, "set") => {
            let name = args.get(i.wrapping_sub(1)).map(String::from_utf8_lossy).unwrap_or_default();
            i >= 3 && i % 2 == 1 && Settings::is_secret(&name)
        }
        () => false,
    }
}

#[cfg(test)]
mod tests {
    use resp::request::split_args;

    use super::*;

    fn shown(line: &str) -> String {
        let args = split_args(line.as_bytes()).unwrap();
        let args = args.as_args();
        let word = |i: usize| if is_secret(args, i) { SHOWN } else { args.at(i) };
        let words: Vec<_> = (0..args.len()).map(|i| String::from_utf8_lossy(word(i))).collect();
        words.join(" ")
    }

    #[test]
    fn passwords_are_not_shown_and_everything_else_is() {
        assert_eq!(shown("AUTH pw"), "AUTH (redacted)");
        assert_eq!(shown("auth default pw"), "auth (redacted) (redacted)");
        assert_eq!(shown("HELLO 3 AUTH default pw SETNAME me"), "HELLO 3 AUTH (redacted) (redacted) SETNAME me");
        assert_eq!(shown("REPLICATED FOLLOWEXTERNAL h 1 7 pw"), "REPLICATED FOLLOWEXTERNAL h 1 7 (redacted)");
        assert_eq!(shown("ACL SETUSER default >pw"), "ACL SETUSER (redacted) (redacted)");
        assert_eq!(
            shown("CONFIG SET RequirePass pw maxclients 5 masterauth requirepass"),
            "CONFIG SET RequirePass (redacted) maxclients 5 masterauth (redacted)"
        );
        assert_eq!(shown("SET auth pw"), "SET auth pw");
        assert_eq!(shown("ACL GETUSER default"), "ACL GETUSER default");
    }
}
