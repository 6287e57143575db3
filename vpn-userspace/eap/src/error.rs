//! Why EAP did not succeed.

use crate::{Untrusted, kind};

/// Why EAP did not succeed. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EapError {
    /// Lengths or fields that cannot be (RFC 3748 4).
    #[error("the EAP message is malformed: {0}")]
    Malformed(&'static str),
    /// A message that has no place here, above all an early Success.
    #[error("{0} is out of order")]
    OutOfOrder(&'static str),
    /// The other side wants a method that is not configured.
    #[error("the server wants {}, which is not configured", kind::name(*.0))]
    Method(u8),
    /// The client takes none of the methods that are configured.
    #[error("the client refuses {}, and wants {}", kind::name(*.refused), kind::name(*.wanted))]
    Refused {
        /// What was offered.
        refused: u8,
        /// What the client named instead, 0 for nothing.
        wanted: u8,
    },
    /// Nobody of that name.
    #[error("there is no user {0:?}")]
    UnknownUser(String),
    /// The client does not know the password.
    #[error("the password of user {0:?} is wrong")]
    WrongPassword(String),
    /// The server does not know the password, though it claims success.
    #[error("the server does not know the password: it is not who it seems to be")]
    ServerUnproven,
    /// The server refuses, with MSCHAPv2's error code (RFC 2759 6).
    #[error("the server refuses the user name or password: {}", mschap(*.0))]
    Password(u32),
    /// The server refuses without saying why.
    #[error("the server answered EAP-Failure")]
    Failure,
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The other side says by a TLS alert what it does not like.
    #[error("the other side ended TLS: {0}")]
    Alert(String),
    /// The other side's certificate is not trusted here.
    #[error("the other side's certificate is not trusted: {}", .0.what)]
    Certificate(Box<Untrusted>),
}

/// RFC 2759 6.
fn mschap(code: u32) -> String {
    match code {
        646 => "outside the hours of the account (646)".to_owned(),
        647 => "the account is disabled (647)".to_owned(),
        648 => "the password has expired (648)".to_owned(),
        649 => "the account may not dial in (649)".to_owned(),
        691 => "authentication failed (691)".to_owned(),
        709 => "the password could not be changed (709)".to_owned(),
        other => format!("error {other}"),
    }
}
