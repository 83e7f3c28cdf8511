//! Redis's glob patterns: `*`, `?`, `[a-z]`, `[^a]`, `\x`. Bounded: after the last star that matters, a mismatch goes
//! back to that star alone, so the work is at most pattern length times text length.

/// True if all of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, false)
}

/// As [`matches`], without regard to ASCII case.
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, true)
}

fn matches_folded(pattern: &[u8], text: &[u8], fold: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star: (pattern position, text position to try next).
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = if p < pattern.len() {
            if pattern[p] == b'*' {
                while pattern.get(p) == Some(&b'*') {
                    p += 1;
                }
                if p == pattern.len() {
                    return true;
                }
                retry = Some((p, t));
                continue;
            }
            (t < text.len()).then(|| one(&pattern[p..], text[t], fold)).flatten()
        } else if t == text.len() {
            return true;
        } else {
            None
        };
        match (step, retry) {
            (Some(len), _) => {
                p += len;
                t += 1;
            }
            (None, Some((star, at))) if at < text.len() => {
                retry = Some((star, at + 1));
                p = star;
                t = at + 1;
            }
            (None, _) => return false,
        }
    }
}

/// If the first element of `pattern` matches `byte`: its length.
fn one(pattern: &[u8], byte: u8, fold: bool) -> Option<usize> {
    let f = |b: u8| if fold { b.to_ascii_lowercase() } else { b };
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (f(*escaped) == f(byte)).then_some(2),
        [b'[', rest @ ..] => {
            let (negated, mut rest) = match rest {
                [b'^', tail @ ..] => (true, tail),
                _ => (false, rest),
            };
            let mut hit = false;
            loop {
                match rest {
                    [b'\\', escaped, tail @ ..] => {
                        hit |= f(*escaped) == f(byte);
                        rest = tail;
                    }
                    [b']', tail @ ..] => {
                        rest = tail;
                        break;
                    }
                    [low, b'-', high, tail @ ..] => {
                        let (low, high) = (f(*low).min(f(*high)), f(*low).max(f(*high)));
                        hit |= (low..=high).contains(&f(byte));
                        rest = tail;
                    }
                    [single, tail @ ..] => {
                        hit |= f(*single) == f(byte);
                        rest = tail;
                    }
                    // Not closed: Redis takes the end of the pattern for the bracket.
                    [] => break,
                }
            }
            (hit != negated).then_some(pattern.len() - rest.len())
        }
        [literal, ..] => (f(*literal) == f(byte)).then_some(1),
        [] => None,
    }
}

/// The text that a pattern without special characters stands for: lets KEYS look up one key.
pub fn literal(pattern: &[u8]) -> Option<&[u8]> {
    (!pattern.iter().any(|b| b"*?[\\".contains(b))).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("[\\]]", "]", true),
            ("abc", "abcd", false),
            ("", "", true),
            ("", "a", false),
            ("[a", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
        assert!(matches_ignore_case(b"H[A-C]*", b"hbX"));
    }

    #[test]
    fn a_hostile_pattern_takes_bounded_time() {
        let pattern = b"*a".repeat(500);
        assert!(!matches(&pattern, &b"a".repeat(499)));
        assert!(matches(&[&pattern[..], b"*"].concat(), &b"a".repeat(5_000)));
    }
}
