//! Parameters: one table ([`table`](self::PARAMETERS)) from which come the parser of `redis.conf`, `--directive value`
//! arguments, CONFIG GET, SET and REWRITE. A parameter is one line; its field, default, limits and text form follow from
//! that line. What this server does not do yet is refused in a sentence; what has no meaning here is kept and shown.

mod file;
mod rewrite;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod wanted;

pub use file::{ConfigError, read_settings};
pub use rewrite::rewrite;
pub use table::{Class, PARAMETERS, Parameter, Settings};
pub use values::{
    Access, DisklessLoad, LogLevel, Memory, MemoryOrShare, OnSignal, OutputLimit, OutputLimits, Percentiles,
    Permissions, PropagationErrors, ReplicaOf, SaveRule, SaveRules, Seen, Supervised, Words,
};
pub use wanted::changes;
