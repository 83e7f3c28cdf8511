//! The passwords of one datastore while one replaces another. Pure; what is here is kept in the Secret NAME-credentials.
//!
//! ```text
//!  a new one is wanted ──► next ──every instance accepts it──► used ──another one is used──► earlier ──its time is over──► retired ──► forgotten
//!                          │                                   │                            │                              │
//!   instances accept it:   yes                                 yes                          yes                            no
//!   replicas come with it:                                     yes
//!   this operator tries:   yes                                 first                        yes                            last
//! ```
//! So there is no moment at which a link, a client or an operator that comes with the used one or with an earlier one is
//! refused. A retired one is tried because a container may start from a copy of the Secret that its kubelet has not renewed.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A kubelet renews the files of a Secret within two minutes; s.
const RETIRED_S: i64 = 600;
/// Of passwords that are replaced quickly, so many earlier ones stay valid.
const EARLIER_MAX: usize = 8;

/// A password and the moment until which it counts, Unix s.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    pub password: String,
    pub until_s: i64,
}

impl fmt::Debug for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Until({})", self.until_s)
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passwords {
    pub used: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Until>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Until>,
    /// Random: without it the fingerprint says nothing about the password.
    pub salt: String,
}

/// Passwords are not for logs.
impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.next.is_some();
        write!(f, "Passwords {{ next: {next}, earlier: {}, retired: {} }}", self.earlier.len(), self.retired.len())
    }
}

/// What has happened to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another one is wanted; instances must accept it before it is used.
    Wanted,
    /// The new one is used; the one before it is valid until this moment, Unix s.
    Rotated { until_s: i64 },
    /// An earlier one has ceased to be valid.
    Retired,
    /// One that had ceased to be valid was forgotten.
    Forgotten,
}

impl Passwords {
    pub fn first(used: &str, salt: String) -> Passwords {
        Passwords { used: used.into(), next: None, earlier: Vec::new(), retired: Vec::new(), salt }
    }

    /// What follows now, if anything does. `wanted` is what a person wants, `all_accept` that every instance that answers
    /// has been told what [`Passwords::accepted`] says.
    pub fn step(&self, wanted: &str, all_accept: bool, overlap_s: i64, now_s: i64) -> Option<(Passwords, Step)> {
        let mut after = self.clone();
        let next = Some(wanted.to_string()).filter(|wanted| *wanted != self.used);
        if self.next != next {
            after.next = next;
            return Some((after, Step::Wanted));
        }
        if all_accept && let Some(used) = after.next.take() {
            let until_s = now_s + overlap_s;
            let before = std::mem::replace(&mut after.used, used);
            after.earlier.push(Until { password: before, until_s });
            after.earlier.retain(|old| old.password != after.used);
            after.retired.retain(|old| old.password != after.used);
            let surplus = after.earlier.len().saturating_sub(EARLIER_MAX);
            after.earlier.drain(..surplus);
            return Some((after, Step::Rotated { until_s }));
        }
        let (over, earlier): (Vec<Until>, Vec<Until>) = after.earlier.into_iter().partition(|old| old.until_s <= now_s);
        after.earlier = earlier;
        if !over.is_empty() {
            after.retired.extend(over.into_iter().map(|old| Until { until_s: now_s + RETIRED_S, ..old }));
            return Some((after, Step::Retired));
        }
        let known = after.retired.len();
        after.retired.retain(|old| old.until_s > now_s);
        (after.retired.len() < known).then_some((after, Step::Forgotten))
    }

    /// What an instance accepts, each once.
    pub fn accepted(&self) -> Vec<&str> {
        distinct([self.used.as_str()].into_iter().chain(self.next.as_deref()).chain(passwords(&self.earlier)))
    }

    /// What this operator tries, in this order.
    pub fn tried(&self) -> Vec<&str> {
        distinct(self.accepted().into_iter().chain(passwords(&self.retired)))
    }

    /// Until when an earlier one is valid.
    pub fn previous_until_s(&self) -> Option<i64> {
        self.earlier.iter().map(|old| old.until_s).max()
    }

    /// Changes with the used password and tells nothing else about it.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.salt.as_bytes());
        hasher.update(self.used.as_bytes());
        let digest = hasher.finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

fn passwords(list: &[Until]) -> impl Iterator<Item = &str> {
    list.iter().map(|old| old.password.as_str())
}

fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut out = Vec::new();
    all.for_each(|password| {
        if !out.contains(&password) {
            out.push(password);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stepped(p: &Passwords, wanted: &str, all: bool, now_s: i64) -> (Passwords, Step) {
        p.step(wanted, all, 300, now_s).expect("something follows")
    }

    #[test]
    fn every_instance_accepts_the_new_one_before_it_is_used_and_the_old_one_until_its_time_is_over() {
        let first = Passwords::first("old", "s".into());
        assert_eq!(first.step("old", true, 300, 0), None);
        let (wanted, step) = stepped(&first, "new", true, 0);
        assert_eq!((step, wanted.used.as_str(), wanted.accepted()), (Step::Wanted, "old", vec!["old", "new"]));
        assert_eq!(wanted.step("new", false, 300, 5), None, "an instance has not been told");
        let (rotated, step) = stepped(&wanted, "new", true, 10);
        assert_eq!((step, rotated.used.as_str()), (Step::Rotated { until_s: 310 }, "new"));
        assert_eq!((rotated.accepted(), rotated.previous_until_s()), (vec!["new", "old"], Some(310)));
        assert_ne!(rotated.fingerprint(), first.fingerprint());
        assert_eq!(rotated.step("new", true, 300, 309), None);
        let (retired, step) = stepped(&rotated, "new", true, 310);
        assert_eq!((step, retired.accepted(), retired.tried()), (Step::Retired, vec!["new"], vec!["new", "old"]));
        let (forgotten, step) = stepped(&retired, "new", true, 310 + RETIRED_S);
        assert_eq!((step, forgotten.tried()), (Step::Forgotten, vec!["new"]));
        assert_eq!(forgotten.step("new", true, 300, 10_000), None);
    }

    #[test]
    fn one_who_thinks_again_has_the_old_one_back() {
        let first = Passwords::first("old", "s".into());
        let (wanted, _) = stepped(&first, "typo", false, 0);
        let (back, step) = stepped(&wanted, "old", false, 1);
        assert_eq!((step, &back), (Step::Wanted, &first));
        let (rotated, _) = stepped(&wanted, "typo", true, 1);
        let (again, _) = stepped(&rotated, "old", true, 2);
        assert_eq!(again.accepted(), ["typo", "old"]);
        let (again, _) = stepped(&again, "old", true, 3);
        assert_eq!((again.accepted(), again.previous_until_s()), (vec!["old", "typo"], Some(303)));
    }

    #[test]
    fn it_is_kept_as_json_and_not_shown() {
        let (state, _) = stepped(&Passwords::first("hidden", "s".into()), "hidden2", false, 0);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<Passwords>(&text).unwrap(), state);
        assert!(!format!("{state:?}").contains("hidden"));
    }

    proptest! {
        /// Whatever is wanted when, and however slowly instances are told: what was accepted and used goes on to be accepted for
        /// the whole overlap, and in the end the wanted one is used and no other accepted.
        #[test]
        fn nobody_is_refused_within_the_overlap(wishes in proptest::collection::vec((0..4u8, any::<bool>(), 0..200i64), 1..40)) {
            const OVERLAP_S: i64 = 100;
            let (mut state, mut now) = (Passwords::first("0", "s".into()), 0);
            let mut used_last: Vec<(String, i64)> = Vec::new();
            let mut wanted = String::from("0");
            for (wish, all, pause) in wishes {
                wanted = wish.to_string();
                if let Some((after, step)) = state.step(&wanted, all, OVERLAP_S, now) {
                    if let Step::Rotated { .. } = step {
                        prop_assert!(state.accepted().contains(&after.used.as_str()), "accepted before it is used");
                        used_last.push((state.used.clone(), now));
                    }
                    state = after;
                }
                for (password, at) in &used_last {
                    prop_assert!(now >= at + OVERLAP_S || state.accepted().contains(&password.as_str()));
                }
                now += pause;
            }
            for _ in 0..20 {
                now += RETIRED_S;
                if let Some((after, _)) = state.step(&wanted, true, OVERLAP_S, now) {
                    state = after;
                }
            }
            prop_assert_eq!((state.used.as_str(), state.tried()), (wanted.as_str(), vec![wanted.as_str()]));
        }
    }
}
