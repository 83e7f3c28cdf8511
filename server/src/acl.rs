//! Who may connect. There is one user so far, `default`; what it may do is everything.
//!
//! A password is kept as its SHA-256, as Redis keeps it, and several may be valid at once, so that one can be replaced while
//! clients still come with the other. Rules that would take rights from the user, and other users, are refused by name.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

/// The only user.
pub const DEFAULT: &str = "default";

/// SHA-256 of a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    pub fn of(password: &[u8]) -> Hash {
        Hash(Sha256::digest(password).into())
    }

    /// 64 lower-case hex digits.
    fn from_hex(text: &str) -> Option<Hash> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |b: u8| if b <= b'9' { b - b'0' } else { b - b'a' + 10 };
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Some(Hash(bytes))
    }

    /// In a time that does not depend on how much of it is the same.
    fn same(&self, other: &Hash) -> bool {
        self.0.iter().zip(&other.0).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// A rule that cannot be obeyed. `Display` is Redis's text for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("Syntax error")]
    Syntax,
    #[error("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")]
    NoHash,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    #[error("not supported by this server yet: its only user may do everything (~* &* +@all)")]
    NotYet,
}

/// What a user may do, so far all or nothing: a step on the way of a description that begins at `reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    keys: bool,
    channels: bool,
    commands: bool,
}

impl Rights {
    const ALL: Rights = Rights { keys: true, channels: true, commands: true };
    const NONE: Rights = Rights { keys: false, channels: false, commands: false };
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub enabled: bool,
    /// Any password will do, and a new connection needs none.
    pub nopass: bool,
    /// Shown only: payloads of RESTORE are always checked.
    sanitize: Option<bool>,
    passwords: Vec<Hash>,
    rights: Rights,
}

impl User {
    /// As `requirepass` makes it; empty is no password at all.
    pub fn with_password(password: &str) -> User {
        let passwords: Vec<Hash> = if password.is_empty() { vec![] } else { vec![Hash::of(password.as_bytes())] };
        User { enabled: true, nopass: passwords.is_empty(), sanitize: None, passwords, rights: Rights::ALL }
    }

    /// As a line `user default …` of a configuration file makes it: nothing is given but what stands there.
    pub fn from_line(rules: &[&str]) -> Result<User, (String, RuleError)> {
        User::with_password("").changed(&[&["reset"], rules].concat())
    }

    /// The user after all of `rules`, or the first of them that cannot be obeyed.
    pub fn changed(&self, rules: &[&str]) -> Result<User, (String, RuleError)> {
        let mut user = self.clone();
        for rule in rules {
            user.obey(rule).map_err(|error| (rule.to_string(), error))?;
        }
        if user.rights != Rights::ALL {
            // Whichever rule it was that took them, none gave them back.
            let missing = if !user.rights.keys {
                "~*"
            } else if !user.rights.channels {
                "&*"
            } else {
                "+@all"
            };
            return Err((format!("without {missing}"), RuleError::NotYet));
        }
        Ok(user)
    }

    fn obey(&mut self, rule: &str) -> Result<(), RuleError> {
        let word = rule.to_ascii_lowercase();
        match word.as_str() {
            "on" => self.enabled = true,
            "off" => self.enabled = false,
            "nopass" => {
                self.nopass = true;
                self.passwords.clear();
            }
            "resetpass" => {
                self.nopass = false;
                self.passwords.clear();
            }
            "sanitize-payload" => self.sanitize = Some(true),
            "skip-sanitize-payload" => self.sanitize = Some(false),
            "~*" | "allkeys" => self.rights.keys = true,
            "&*" | "allchannels" => self.rights.channels = true,
            "+@all" | "allcommands" => self.rights.commands = true,
            "resetkeys" => self.rights.keys = false,
            "resetchannels" => self.rights.channels = false,
            "-@all" | "nocommands" => self.rights.commands = false,
            "clearselectors" => {}
            "reset" => {
                (self.enabled, self.nopass, self.sanitize) = (false, false, Some(true));
                self.passwords.clear();
                self.rights = Rights::NONE;
            }
            _ => self.obey_password(rule)?,
        }
        Ok(())
    }

    fn obey_password(&mut self, rule: &str) -> Result<(), RuleError> {
        let hash = |text: &str| Hash::from_hex(text).ok_or(RuleError::NoHash);
        let mut chars = rule.chars();
        match (chars.next(), chars.as_str()) {
            (Some('>'), password) => self.add(Hash::of(password.as_bytes())),
            (Some('#'), text) => self.add(hash(text)?),
            (Some('<'), password) => self.remove(Hash::of(password.as_bytes()))?,
            (Some('!'), text) => self.remove(hash(text)?)?,
            (Some('~' | '&' | '+' | '-' | '%' | '('), _) => return Err(RuleError::NotYet),
            _ => return Err(RuleError::Syntax),
        }
        Ok(())
    }

    fn add(&mut self, hash: Hash) {
        self.nopass = false;
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
    }

    fn remove(&mut self, hash: Hash) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|own| *own == hash).ok_or(RuleError::NoSuchPassword)?;
        self.passwords.remove(at);
        Ok(())
    }

    /// Every password is looked at, so that the time tells nothing about them.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let given = Hash::of(password);
        let right = self.passwords.iter().fold(false, |right, own| own.same(&given) | right);
        self.enabled && (self.nopass || right)
    }

    pub fn passwords(&self) -> &[Hash] {
        &self.passwords
    }

    /// The flags of ACL GETUSER.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        flags.extend(self.nopass.then_some("nopass"));
        flags.extend(self.sanitize.map(|on| if on { "sanitize-payload" } else { "skip-sanitize-payload" }));
        flags
    }

    /// The rules that make this user, as in ACL LIST and in a configuration file, behind the name.
    pub fn describe(&self) -> String {
        let mut text = self.flags().join(" ");
        for hash in &self.passwords {
            write!(text, " #{hash}").expect("a String takes everything");
        }
        text + " ~* &* +@all"
    }
}

/// The users of a running server.
#[derive(Debug)]
pub struct Users(RwLock<Arc<User>>);

impl Users {
    pub fn new(default: User) -> Users {
        Users(RwLock::new(Arc::new(default)))
    }

    pub fn default_user(&self) -> Arc<User> {
        Arc::clone(&self.0.read())
    }

    /// CONFIG SET requirepass: this password and no other.
    pub fn require(&self, password: &str) {
        let rules =
            if password.is_empty() { vec!["nopass".into()] } else { vec!["resetpass".into(), format!(">{password}")] };
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let changed = self.change(&rules);
        debug_assert!(changed.is_ok(), "passwords alone take no right away");
    }

    /// ACL SETUSER: all of the rules, or none.
    pub fn change(&self, rules: &[&str]) -> Result<(), (String, RuleError)> {
        let mut user = self.0.write();
        *user = Arc::new(user.changed(rules)?);
        Ok(())
    }

    /// A connection that has not said who it is may do everything.
    pub fn is_open(&self) -> bool {
        let user = self.0.read();
        user.enabled && user.nopass
    }

    /// The time this takes tells nothing about any password.
    pub fn accepts(&self, name: &[u8], password: &[u8]) -> bool {
        let right = self.default_user().accepts(password);
        name == DEFAULT.as_bytes() && right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_passwords_are_valid_until_one_is_taken_away() {
        let user = User::with_password("old").changed(&[">new", ">new"]).unwrap();
        assert!(user.accepts(b"old") && user.accepts(b"new") && !user.accepts(b"") && !user.accepts(b"ol"));
        assert_eq!(user.passwords().len(), 2);
        let user = user.changed(&["<old"]).unwrap();
        assert!(!user.accepts(b"old") && user.accepts(b"new"));
        assert!(!user.changed(&["off"]).unwrap().accepts(b"new"));
        let open = user.changed(&["nopass"]).unwrap();
        assert!(open.accepts(b"anything") && open.passwords().is_empty());
    }

    #[test]
    fn a_description_makes_the_same_user_again() {
        let user = User::from_line(&["on", ">a", ">b", "~*", "&*", "+@all"]).unwrap();
        let text = user.describe();
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(User::from_line(&words).unwrap(), user);
        assert!(!text.contains(">a"), "{text}");
        assert!(!format!("{user:?}").contains("ca978112"), "{user:?}");
    }

    #[test]
    fn what_would_take_rights_away_is_refused_by_name_and_nothing_is_changed() {
        let refused = |rules: &[&str]| User::with_password("x").changed(rules).unwrap_err();
        assert_eq!(refused(&[">y", "~foo"]), ("~foo".into(), RuleError::NotYet));
        assert_eq!(refused(&["-flushall"]), ("-flushall".into(), RuleError::NotYet));
        assert_eq!(refused(&["resetkeys"]), ("without ~*".into(), RuleError::NotYet));
        assert_eq!(refused(&["reset"]), ("without ~*".into(), RuleError::NotYet));
        assert_eq!(refused(&["blah"]), ("blah".into(), RuleError::Syntax));
        assert_eq!(refused(&["#ABC"]), ("#ABC".into(), RuleError::NoHash));
        assert_eq!(refused(&["<nosuch"]), ("<nosuch".into(), RuleError::NoSuchPassword));
        assert_eq!(User::from_line(&["on", ">a"]).unwrap_err().1, RuleError::NotYet);
        assert!(User::with_password("x").changed(&["reset", "on", ">y", "allkeys", "&*", "+@ALL"]).is_ok());
    }

    #[test]
    fn requirepass_replaces_all_passwords() {
        let users = Users::new(User::with_password(""));
        assert!(users.is_open());
        users.change(&[">a", ">b"]).unwrap();
        assert!(!users.is_open() && users.accepts(b"default", b"a") && !users.accepts(b"other", b"a"));
        users.require("c");
        assert!(!users.accepts(b"default", b"a") && users.accepts(b"default", b"c"));
        users.require("");
        assert!(users.is_open());
    }
}
