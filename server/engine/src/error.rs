//! What a command can answer instead of a result. `Display` is the wire text without the `-`, as Redis words it.

use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR value is not a valid float")]
    NotFloat,
    #[error("ERR value is out of range, must be positive")]
    NotPositive,
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("ERR index out of range")]
    IndexOutOfRange,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    StringTooLong,
    #[error("ERR DB index is out of range")]
    DbOutOfRange,
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    #[error("ERR invalid cursor")]
    InvalidCursor,
    /// Any other text, with its code.
    #[error("{0}")]
    Text(Cow<'static, str>),
}

impl CommandError {
    #[expect(non_upper_case_globals, reason = "reads as a variant: CommandError::Static(\"ERR …\")")]
    pub const Static: fn(&'static str) -> CommandError = |text| CommandError::Text(Cow::Borrowed(text));

    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        CommandError::Text(text.into())
    }
}
