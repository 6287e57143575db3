//! Cipher suites of IKE and ESP: DH groups, PRFs, ciphers, integrity. No I/O, no clock.
//!
//! Algorithms carry their IANA numbers and strongSwan's names; keys are zeroized and redacted in
//! `Debug`. [`PacketCipher`] is the one thing here that packets touch: it holds a direction's keys
//! ready for use and neither allocates nor derives anything per packet.
//!
//! Randomness is handed in as [`Random`], with one exception that ring forces: it imports no
//! private key, so the ECP groups and Curve25519 draw theirs from the operating system.
//!
//! Knows nothing of IKE messages, of ESP headers or of the kernel.

mod aead;
mod algorithm;
mod chain;
mod cipher;
mod dh;
mod hash;
mod kem;
mod mac;
mod modp;
mod mschap;
mod packet;
mod prf;
mod random;
mod secret;
pub mod sign;
mod suite;

pub use algorithm::{DhGroup, Encryption, Integrity, Mode, Prf, Weakness};
pub use chain::CbcChain;
pub use dh::{DhError, KeyPair};
pub use hash::Hash;
pub use mschap::{MsChap, NtHash};
pub use packet::{Associated, CipherError, KeyError, PacketCipher};
pub use prf::{PrfPlusError, prf_plus, sha1};
pub use random::{Random, SystemRandom};
pub use secret::{Secret, equal};
pub use suite::{Suite, SuiteError, SuiteKeys};

/// What a Diffie-Hellman exchange agreed on: g^ir of RFC 7296, as its group's RFC encodes it.
pub type SharedSecret = Secret;
