//! What a command leaves for the replication log: commands as RESP bytes.
//!
//! By default a command that changed something is propagated as the client sent it. A command whose effect depends on
//! time, chance or the state found says instead what it did, by [`Effects::replace`]. Keys that were found expired are
//! deleted by a record of their own in front.

use resp::encode_command;

/// Commands to propagate, in order. The dispatcher appends them while the keys are still locked.
#[derive(Debug, Default)]
pub struct Effects {
    bytes: Vec<u8>,
    count: usize,
    verbatim: bool,
}

impl Effects {
    /// For a new command: nothing recorded yet, propagated verbatim if it changes something.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.verbatim = true;
    }

    /// Propagate `argv` instead of the client's command; may be called several times, in order.
    pub fn replace<A: AsRef<[u8]>>(&mut self, argv: &[A]) {
        self.verbatim = false;
        self.push(argv);
    }

    /// Do not propagate the client's command.
    pub fn suppress(&mut self) {
        self.verbatim = false;
    }

    /// Adds a record that goes along with the command, whatever it does: the deletion of an expired key.
    pub fn push<A: AsRef<[u8]>>(&mut self, argv: &[A]) {
        encode_command(&mut self.bytes, argv);
        self.count += 1;
    }

    /// Records so far, as RESP.
    pub fn records(&self) -> (&[u8], usize) {
        (&self.bytes, self.count)
    }

    /// True as long as the client's command itself is to be propagated when it changes something.
    pub fn verbatim(&self) -> bool {
        self.verbatim
    }
}
