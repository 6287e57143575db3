//! Hash functions, by IANA's numbers for signatures (RFC 7427 7) and by name.

use std::fmt;

use md5::Md5;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hash {
    /// MD5 (RFC 1321): for IKEv1 with old peers only; broken, and never for signatures.
    Md5,
    /// SHA-1: for old peers only; collisions are known.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Every hash, strongest last.
    pub const ALL: [Self; 5] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The number in IANA's "IKEv2 Hash Algorithms" (RFC 7427 7), as the notify
    /// SIGNATURE_HASH_ALGORITHMS carries it. MD5 has none. (5, "identity", goes with Ed25519: RFC 8420.)
    pub const fn iana(self) -> Option<u16> {
        match self {
            Self::Md5 => None,
            Self::Sha1 => Some(1),
            Self::Sha256 => Some(2),
            Self::Sha384 => Some(3),
            Self::Sha512 => Some(4),
        }
    }

    /// The hash of such a number, if it is one of ours.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.iana() == Some(id))
    }

    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of a digest in bytes.
    pub const fn output_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The hash of the parts, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn run<D: sha1::Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut hash = D::new();
            for part in parts {
                hash.update(part);
            }
            hash.finalize().to_vec()
        }
        match self {
            Self::Md5 => run::<Md5>(parts),
            Self::Sha1 => run::<Sha1>(parts),
            Self::Sha256 => run::<Sha256>(parts),
            Self::Sha384 => run::<Sha384>(parts),
            Self::Sha512 => run::<Sha512>(parts),
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_abc() {
        // RFC 1321 A.5, FIPS 180-4 examples (first eight bytes).
        for (hash, want) in [
            (Hash::Md5, "900150983cd24fb0"),
            (Hash::Sha1, "a9993e364706816a"),
            (Hash::Sha256, "ba7816bf8f01cfea"),
            (Hash::Sha384, "cb00753f45a35e8b"),
            (Hash::Sha512, "ddaf35a193617aba"),
        ] {
            let digest = hash.digest(&[b"a", b"", b"bc"]);
            assert_eq!(digest.len(), hash.output_len());
            assert_eq!(hex::encode(&digest[..8]), want, "{hash}");
        }
    }

    #[test]
    fn the_registrys_numbers() {
        let ids: Vec<_> = (0..7).map(Hash::from_iana).collect();
        let (a, b, c, d) = (Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512);
        assert_eq!(ids, [None, Some(a), Some(b), Some(c), Some(d), None, None]);
    }
}
