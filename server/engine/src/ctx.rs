//! What a command gets to work with.

use resp::{Args, Encoder};

use crate::{Effects, KeysView, Limits, Rng};

/// One call of one command. The fields are separate borrows on purpose: a value read from `keys` can be written to
/// `out` without a copy.
#[derive(Debug)]
pub struct Ctx<'a> {
    /// `args[0]` is the command's name.
    pub args: Args<'a>,
    /// The selected database; the shards of the command's keys are locked.
    pub keys: KeysView<'a>,
    pub out: &'a mut Encoder,
    pub effects: &'a mut Effects,
    pub rng: &'a mut Rng,
    pub limits: &'a Limits,
    /// Unix time in ms, the same throughout a command and a transaction.
    pub now_ms: u64,
}
