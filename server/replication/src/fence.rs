//! The history fence: may a full resync replace what is here?
//!
//! Redis replaces a replica's data by whatever its master holds, also by nothing: a master without persistence that
//! restarts empty empties its replicas. Here the replica judges first (DESIGN section 4, FAILOVER R8), twice: at
//! `+FULLRESYNC`, when only the offered id and offset are known, and again when the RDB's aux fields and sizes are. Up
//! to an `Accept` the data here is kept.
//!
//! The rules, the first that applies:
//!
//! 1. No keys here: nothing can be lost. Accept.
//! 2. A person, or the operator whose record proves it, allowed the next one. Accept.
//! 3. The offered history is our own (its id is ours) and not behind us: what the master holds came after what we hold,
//!    even if that was a FLUSHALL. Accept.
//! 4. The master is empty. Refuse: `empty-master`.
//! 5. Both have held marks: the later epoch is the later reign, whatever the sizes. A later or the same one: accept. An
//!    earlier one: refuse, `older-history`.
//! 6. A master without a mark, more than [`SMALL`] keys here, and there less than a tenth of them: refuse,
//!    `much-smaller-master`. (A tenth: a data set that shrinks by that much between two syncs is rarer than a master
//!    that lost its disk; a wrong refusal costs a question, a wrong acceptance the data.)
//! 7. Accept.

use crate::history::{History, ReplId};

/// So few keys are never "much more" than those of another.
pub const SMALL: u64 = 1000;

/// What is compared of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceView {
    pub keys: u64,
    /// Epoch of the last mark that it holds; 0: none.
    pub epoch: u64,
}

/// What is here.
#[derive(Debug, Clone, Copy)]
pub struct Own<'h> {
    pub data: FenceView,
    pub history: &'h History,
    /// End of the own history.
    pub offset: u64,
    /// The next full resync was allowed by `REPLICATED ACCEPTMASTER`.
    pub allowed_once: bool,
}

/// What the master offers.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Of `+FULLRESYNC`; `None` after SYNC.
    pub id: Option<ReplId>,
    pub offset: u64,
    /// As soon as the RDB has told it.
    pub data: Option<FenceView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// Receive the RDB, keep the data here, ask again when its sizes are known.
    AskAgain,
    /// The reason, as `master_sync_refused` reports it.
    Refuse(&'static str),
}

/// Applies the rules above.
pub fn judge(own: &Own<'_>, offered: &Offered) -> Verdict {
    let continues = offered.id == Some(own.history.id) && offered.offset >= own.offset;
    if own.data.keys == 0 || own.allowed_once || continues {
        return Verdict::Accept;
    }
    match offered.data.map(|data| own.data.judge(data)) {
        None => Verdict::AskAgain,
        Some(Ok(())) => Verdict::Accept,
        Some(Err(reason)) => Verdict::Refuse(reason),
    }
}

impl FenceView {
    /// The rules 1 and 4 to 7, for which the two data sets suffice. `Err`: the reason to refuse.
    pub fn judge(self, offered: FenceView) -> Result<(), &'static str> {
        if self.keys == 0 {
            return Ok(());
        }
        if offered.keys == 0 {
            return Err("empty-master");
        }
        if self.epoch > 0 && offered.epoch > 0 {
            return if offered.epoch >= self.epoch { Ok(()) } else { Err("older-history") };
        }
        if offered.epoch == 0 && self.keys > SMALL && offered.keys < self.keys / 10 {
            return Err("much-smaller-master");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    fn view(keys: u64, epoch: u64) -> FenceView {
        FenceView { keys, epoch }
    }

    #[test]
    fn the_data_alone_decides_by_emptiness_then_epoch_then_size() {
        let check = |own: (u64, u64), offered: (u64, u64), want: Result<(), &'static str>| {
            let got = view(own.0, own.1).judge(view(offered.0, offered.1));
            assert_eq!(got, want, "own {own:?}, offered {offered:?}");
        };
        check((0, 5), (0, 0), Ok(()));
        check((0, 5), (3, 1), Ok(()));
        check((1, 0), (0, 0), Err("empty-master"));
        check((1, 0), (0, 9), Err("empty-master"));
        check((10, 3), (1, 4), Ok(()));
        check((5000, 3), (1, 4), Ok(()));
        check((5000, 3), (1, 3), Ok(()));
        check((10, 3), (10, 2), Err("older-history"));
        check((10, 3), (10, 0), Ok(()));
        check((5000, 3), (10, 0), Err("much-smaller-master"));
        check((5000, 0), (499, 0), Err("much-smaller-master"));
        check((5000, 0), (500, 0), Ok(()));
        check((1000, 0), (1, 0), Ok(()));
        check((5000, 0), (1, 7), Ok(()));
    }

    fn verdict(own_keys: u64, allowed_once: bool, offered_id: u8, offset: u64, data: Option<FenceView>) -> Verdict {
        let history = History::new(id(1));
        let own = Own { data: view(own_keys, 0), history: &history, offset: 100, allowed_once };
        judge(&own, &Offered { id: Some(id(offered_id)), offset, data })
    }

    #[test]
    fn r8_an_empty_or_much_smaller_master_never_replaces_data() {
        assert_eq!(verdict(5, false, 2, 500, None), Verdict::AskAgain, "nothing is given up on an id alone");
        assert_eq!(verdict(5, false, 2, 500, Some(view(0, 0))), Verdict::Refuse("empty-master"));
        assert_eq!(verdict(5000, false, 2, 500, Some(view(9, 0))), Verdict::Refuse("much-smaller-master"));
        assert_eq!(verdict(5, false, 2, 500, Some(view(1, 0))), Verdict::Accept);
        assert_eq!(verdict(0, false, 2, 0, None), Verdict::Accept);
    }

    #[test]
    fn r8_the_own_history_is_followed_even_into_emptiness_unless_it_went_back() {
        assert_eq!(verdict(5, false, 1, 100, None), Verdict::Accept);
        assert_eq!(verdict(5, false, 1, 99, None), Verdict::AskAgain);
        assert_eq!(verdict(5, false, 1, 99, Some(view(0, 0))), Verdict::Refuse("empty-master"));
    }

    #[test]
    fn r8_a_person_may_allow_it_once() {
        assert_eq!(verdict(5000, true, 2, 0, None), Verdict::Accept);
        assert_eq!(verdict(5000, true, 2, 0, Some(view(0, 0))), Verdict::Accept);
    }

    #[test]
    fn r8_after_sync_no_history_is_known() {
        let history = History::new(id(1));
        let own = Own { data: view(5, 0), history: &history, offset: 0, allowed_once: false };
        assert_eq!(judge(&own, &Offered { id: None, offset: 0, data: None }), Verdict::AskAgain);
    }
}
