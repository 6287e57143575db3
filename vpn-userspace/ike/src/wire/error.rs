//! What can be wrong with the form of a message.

/// A message whose form is wrong (RFC 7296 3). Nothing of it was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside the named structure.
    #[error("the {0} is cut short")]
    Truncated(&'static str),
    /// A length field of the named structure contradicts its content.
    #[error("a length field of the {0} is wrong")]
    Length(&'static str),
    /// Bytes follow the end of the last payload.
    #[error("bytes follow the last payload")]
    Trailing,
    /// The header's major version is not 2.
    #[error("IKE version {0} is not IKEv2")]
    Version(u8),
    /// A payload that we do not know is marked critical (RFC 7296 2.5).
    #[error("payload type {0} is unknown and marked critical")]
    UnsupportedCritical(u8),
    /// A payload that may stand once stands twice.
    #[error("payload type {0} stands twice")]
    Duplicate(u8),
    /// More structures of one kind than any sane peer sends.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A field has a value that RFC 7296 forbids.
    #[error("the {0} has a forbidden value")]
    Value(&'static str),
}
