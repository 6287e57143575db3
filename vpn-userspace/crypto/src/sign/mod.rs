//! Signatures: RSA, ECDSA and Ed25519 keys, and the schemes that IKE and certificates name.
//!
//! Private keys are worked on by ring wherever it can (RSA with SHA-2, P-256, P-384, Ed25519). What it
//! cannot is done in constant time by RustCrypto's curves (P-521) and by a blinded exponentiation of our
//! own on `crypto-bigint` (RSA with SHA-1 or without a DigestInfo, which old peers ask for); the `rsa`
//! crate is not used: its private operation leaks through timing (RUSTSEC-2023-0071).
//!
//! Signing with RSA or P-521 takes milliseconds: callers with an event loop do it elsewhere.

mod ecdsa;
mod generate;
mod private;
mod public;
mod rsa;
mod scheme;

use std::fmt;

pub use generate::generate;
pub use private::PrivateKey;
pub use public::PublicKey;
pub use scheme::Scheme;

/// The smallest RSA modulus that is accepted unless the caller says otherwise, in bits.
pub const MIN_RSA_BITS: usize = 2048;

/// What kind of key, without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA with a modulus of so many bits.
    Rsa(usize),
    /// ECDSA on NIST P-256.
    EcdsaP256,
    /// ECDSA on NIST P-384.
    EcdsaP384,
    /// ECDSA on NIST P-521.
    EcdsaP521,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::EcdsaP521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// A key that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The bytes are not what they should be.
    #[error("this is no {0}")]
    Encoding(&'static str),
    /// An algorithm that signs nothing here.
    #[error("the key's algorithm is not one of RSA, ECDSA P-256, P-384, P-521 and Ed25519")]
    Algorithm,
    /// A modulus that others can factor, or one that costs too much to use.
    #[error("an RSA modulus of {bits} bits is not accepted; it must have {min} to {max} (RFC 8247 4.1)")]
    RsaSize {
        /// The modulus.
        bits: usize,
        /// The least that is accepted.
        min: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// e must be odd, at least 3 and of at most 33 bits; with e = 1 anyone can sign.
    #[error("the RSA key's public exponent is even, 1 or too large")]
    RsaExponent,
    /// A point that is not on its curve, or parts of a private key that do not belong together.
    #[error("the {0} key is inconsistent: its parts do not belong together")]
    Inconsistent(&'static str),
}

/// Why something was not signed, or why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The signature is not this key's over this message.
    #[error("the signature does not fit the message and the key")]
    NotAuthentic,
    /// Key and scheme do not go together.
    #[error("a key of kind {key} does not sign by {scheme}")]
    WrongKey {
        /// The key.
        key: KeyKind,
        /// The scheme.
        scheme: Scheme,
    },
    /// The modulus has no room for the padded hash (RFC 8017 9.2).
    #[error("the RSA modulus is too short for a hash of this length")]
    TooShort,
    /// The computation did not come out right: a fault of the machine, or a broken key. Nothing
    /// was given away.
    #[error("the signature came out wrong and was thrown away; check the private key and this machine")]
    Fault,
}

/// The parts one after the other, for libraries that want a message in one piece.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}
