//! A suite: the encryption and integrity algorithms that go together, and their keys.

use std::fmt;

use crate::{Encryption, Integrity, Secret};

/// Encryption with the integrity algorithm that it needs, if any. Always a pair that can serve.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Suite {
    encryption: Encryption,
    integrity: Option<Integrity>,
}

/// A pair of algorithms that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// RFC 7296 3.3: an AEAD brings its own integrity.
    #[error("{0} authenticates by itself: leave {1} out of the proposal")]
    NeedlessIntegrity(Encryption, Integrity),
    /// Encryption without integrity is never acceptable.
    #[error("{0} needs an integrity algorithm: add one, for instance sha256")]
    MissingIntegrity(Encryption),
}

impl Suite {
    /// Pairs them: an AEAD takes no integrity algorithm, CBC and CTR need one.
    pub const fn new(encryption: Encryption, integrity: Option<Integrity>) -> Result<Self, SuiteError> {
        match (encryption.is_aead(), integrity) {
            (true, Some(integrity)) => Err(SuiteError::NeedlessIntegrity(encryption, integrity)),
            (false, None) => Err(SuiteError::MissingIntegrity(encryption)),
            _ => Ok(Self { encryption, integrity }),
        }
    }

    /// Every suite there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let integrities = || std::iter::once(None).chain(Integrity::ALL.into_iter().map(Some));
        Encryption::ALL.into_iter().flat_map(move |e| integrities().filter_map(move |i| Self::new(e, i).ok()))
    }

    /// The cipher.
    pub const fn encryption(self) -> Encryption {
        self.encryption
    }

    /// The integrity algorithm; `None` with an AEAD.
    pub const fn integrity(self) -> Option<Integrity> {
        self.integrity
    }

    /// Whether one algorithm does both.
    pub const fn is_aead(self) -> bool {
        self.encryption.is_aead()
    }

    /// Whether it may protect IKE's own messages (all but GMAC).
    pub const fn serves_ike(self) -> bool {
        self.encryption.serves_ike()
    }

    /// Bytes of key material for the cipher, its salt included ([`Encryption::salt_len`]).
    pub const fn encryption_key_len(self) -> usize {
        self.encryption.key_len() + self.encryption.salt_len()
    }

    /// Bytes of key material for the integrity algorithm; 0 with an AEAD.
    pub const fn integrity_key_len(self) -> usize {
        match self.integrity {
            Some(integrity) => integrity.key_len(),
            None => 0,
        }
    }

    /// Bytes of IV in a packet: 8 with an AEAD or CTR, a block with CBC.
    pub const fn iv_len(self) -> usize {
        self.encryption.iv_len()
    }

    /// Bytes of check value at a packet's end.
    pub const fn icv_len(self) -> usize {
        match self.integrity {
            Some(integrity) => integrity.icv_len(),
            None => self.encryption.tag_len(),
        }
    }

    /// What the encrypted part of an ESP packet is a multiple of, in bytes: the cipher's block, and at
    /// least 4 (RFC 4303 2.4).
    pub const fn alignment(self) -> usize {
        if self.encryption.block_len() > 4 { self.encryption.block_len() } else { 4 }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        match self.integrity {
            Some(integrity) => write!(f, "-{integrity}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys of one direction of an SA. Zeroized when dropped, redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SuiteKeys {
    encryption: Secret,
    integrity: Secret,
}

impl SuiteKeys {
    /// From the cipher's key material (with an AEAD or CTR: the key, then the salt) and the integrity
    /// algorithm's (with an AEAD: empty). Lengths are checked where a suite meets them.
    pub fn new(encryption: &[u8], integrity: &[u8]) -> Self {
        Self { encryption: encryption.into(), integrity: integrity.into() }
    }

    /// The cipher's key material, an AEAD's salt included, as XFRM takes it too.
    pub fn encryption(&self) -> &[u8] {
        &self.encryption
    }

    /// The integrity algorithm's key; empty with an AEAD.
    pub fn integrity(&self) -> &[u8] {
        &self.integrity
    }
}

impl fmt::Debug for SuiteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SuiteKeys({} + {} bytes)", self.encryption.len(), self.integrity.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_that_can_serve() {
        assert_eq!(
            Suite::new(Encryption::AesCbc128, None),
            Err(SuiteError::MissingIntegrity(Encryption::AesCbc128))
        );
        let (gcm, sha) = (Encryption::AesGcm128, Integrity::HmacSha256_128);
        assert_eq!(Suite::new(gcm, Some(sha)), Err(SuiteError::NeedlessIntegrity(gcm, sha)));
        let names: Vec<String> = Suite::all().map(|s| s.to_string()).collect();
        // Seven ciphers with seven MACs each, nine GCMs, nine CCMs, three GMACs, ChaCha20-Poly1305.
        assert_eq!(names.len(), 7 * 7 + 9 + 9 + 3 + 1);
        for name in ["3des-md5", "aes128-sha1", "aes256ctr-aesxcbc", "aes192gcm12", "aes256gmac"] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
        assert_eq!(Suite::all().filter(|s| !s.serves_ike()).count(), 3);
    }

    #[test]
    fn lengths_of_every_suite() {
        let lengths = |s: Suite| {
            (s.encryption_key_len(), s.integrity_key_len(), s.iv_len(), s.icv_len(), s.alignment())
        };
        let gcm = Suite::new(Encryption::AesGcm256, None).unwrap();
        assert_eq!(lengths(gcm), (36, 0, 8, 16, 4));
        let cbc = Suite::new(Encryption::AesCbc128, Some(Integrity::HmacSha384_192)).unwrap();
        assert_eq!(lengths(cbc), (16, 48, 16, 24, 16));
        let ccm = Suite::new(Encryption::AesCcm12_192, None).unwrap();
        assert_eq!(lengths(ccm), (27, 0, 8, 12, 4));
        let tdes = Suite::new(Encryption::TripleDes, Some(Integrity::HmacMd5_96)).unwrap();
        assert_eq!(lengths(tdes), (24, 16, 8, 12, 8));
    }

    #[test]
    fn debug_of_keys_is_redacted() {
        let keys = SuiteKeys::new(&[0xaa; 20], &[]);
        assert_eq!(format!("{keys:?}"), "SuiteKeys(20 + 0 bytes)");
    }
}
