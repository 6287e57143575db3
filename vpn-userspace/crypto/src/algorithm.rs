//! The algorithms, with their IANA transform ids (RFC 7296 3.3.2) and strongSwan's names.

use std::fmt;

/// A Diffie-Hellman group (transform type 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DhGroup {
    /// Group 14 (RFC 3526).
    Modp2048,
    /// Group 19, NIST P-256 (RFC 5903).
    Ecp256,
    /// Group 20, NIST P-384 (RFC 5903).
    Ecp384,
    /// Group 31 (RFC 8031).
    Curve25519,
}

/// A pseudorandom function (transform type 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prf {
    /// PRF_HMAC_SHA1 (RFC 2104).
    HmacSha1,
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256,
    /// PRF_HMAC_SHA2_384 (RFC 4868).
    HmacSha384,
    /// PRF_HMAC_SHA2_512 (RFC 4868).
    HmacSha512,
}

/// An encryption algorithm with its key length (transform type 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encryption {
    /// ENCR_AES_CBC with a 128-bit key (RFC 3602).
    AesCbc128,
    /// ENCR_AES_CBC with a 256-bit key (RFC 3602).
    AesCbc256,
    /// ENCR_AES_GCM_16 with a 128-bit key (RFC 4106, RFC 5282).
    AesGcm128,
    /// ENCR_AES_GCM_16 with a 256-bit key (RFC 4106, RFC 5282).
    AesGcm256,
    /// ENCR_CHACHA20_POLY1305 (RFC 7634).
    ChaCha20Poly1305,
}

/// An integrity algorithm (transform type 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Integrity {
    /// AUTH_HMAC_SHA1_96 (RFC 2404).
    HmacSha1_96,
    /// AUTH_HMAC_SHA2_256_128 (RFC 4868).
    HmacSha256_128,
    /// AUTH_HMAC_SHA2_384_192 (RFC 4868).
    HmacSha384_192,
    /// AUTH_HMAC_SHA2_512_256 (RFC 4868).
    HmacSha512_256,
}

impl DhGroup {
    /// Every group, strongest last.
    pub const ALL: [Self; 4] = [Self::Modp2048, Self::Ecp256, Self::Curve25519, Self::Ecp384];

    /// The transform id, which is also the group number of the KE payload.
    pub const fn iana(self) -> u16 {
        match self {
            Self::Modp2048 => 14,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::Curve25519 => 31,
        }
    }

    /// The group of a transform id, if it is one of ours.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.iana() == id)
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modp2048 => "modp2048",
            Self::Ecp256 => "ecp256",
            Self::Ecp384 => "ecp384",
            Self::Curve25519 => "curve25519",
        }
    }

    /// Length of a public value in the KE payload, in bytes.
    pub const fn public_len(self) -> usize {
        match self {
            Self::Modp2048 => 256,
            // RFC 5903 7: x and y, without the point format byte.
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Curve25519 => 32,
        }
    }
}

impl Prf {
    /// Every PRF, strongest last.
    pub const ALL: [Self; 4] = [Self::HmacSha1, Self::HmacSha256, Self::HmacSha384, Self::HmacSha512];

    /// The transform id.
    pub const fn iana(self) -> u16 {
        match self {
            Self::HmacSha1 => 2,
            Self::HmacSha256 => 5,
            Self::HmacSha384 => 6,
            Self::HmacSha512 => 7,
        }
    }

    /// The PRF of a transform id, if it is one of ours.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.iana() == id)
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "prfsha1",
            Self::HmacSha256 => "prfsha256",
            Self::HmacSha384 => "prfsha384",
            Self::HmacSha512 => "prfsha512",
        }
    }

    /// Length of the output and preferred length of the key, in bytes.
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

impl Encryption {
    /// Every cipher, in the enum's order.
    pub const ALL: [Self; 5] =
        [Self::AesCbc128, Self::AesCbc256, Self::AesGcm128, Self::AesGcm256, Self::ChaCha20Poly1305];

    /// The transform id.
    pub const fn iana(self) -> u16 {
        match self {
            Self::AesCbc128 | Self::AesCbc256 => 12,
            Self::AesGcm128 | Self::AesGcm256 => 20,
            Self::ChaCha20Poly1305 => 28,
        }
    }

    /// The value in bits of the Key Length attribute (RFC 7296 3.3.5), for ciphers that carry one.
    /// The salt is not counted.
    pub const fn key_length_attribute(self) -> Option<u16> {
        match self {
            Self::AesCbc128 | Self::AesGcm128 => Some(128),
            Self::AesCbc256 | Self::AesGcm256 => Some(256),
            // RFC 7634 4: the key length is fixed, the attribute must not be sent.
            Self::ChaCha20Poly1305 => None,
        }
    }

    /// The cipher of a transform id and Key Length attribute, if it is one of ours. AES without the
    /// attribute is none: RFC 7296 3.3.5 makes it mandatory there.
    pub fn from_iana(id: u16, key_length: Option<u16>) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.iana() == id && e.key_length_attribute() == key_length)
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCbc128 => "aes128",
            Self::AesCbc256 => "aes256",
            Self::AesGcm128 => "aes128gcm16",
            Self::AesGcm256 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
        }
    }

    /// Whether it authenticates too, so that no integrity algorithm goes with it.
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm128 | Self::AesGcm256 | Self::ChaCha20Poly1305)
    }

    /// Length of the key proper, in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesCbc128 | Self::AesGcm128 => 16,
            Self::AesCbc256 | Self::AesGcm256 | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Length of the salt taken from the key material after the key, in bytes (RFC 4106 8.1, RFC 7634 2).
    pub const fn salt_len(self) -> usize {
        if self.is_aead() { 4 } else { 0 }
    }

    /// Length of the IV in the packet, in bytes.
    pub const fn iv_len(self) -> usize {
        if self.is_aead() { 8 } else { 16 }
    }

    /// The cipher's block in bytes: the encrypted text is a multiple of it.
    pub const fn block_len(self) -> usize {
        if self.is_aead() { 1 } else { 16 }
    }

    /// Length of the AEAD's tag in bytes; 0 for a cipher that has none.
    pub const fn tag_len(self) -> usize {
        if self.is_aead() { 16 } else { 0 }
    }
}

impl Integrity {
    /// Every integrity algorithm, strongest last.
    pub const ALL: [Self; 4] =
        [Self::HmacSha1_96, Self::HmacSha256_128, Self::HmacSha384_192, Self::HmacSha512_256];

    /// The transform id.
    pub const fn iana(self) -> u16 {
        match self {
            Self::HmacSha1_96 => 2,
            Self::HmacSha256_128 => 12,
            Self::HmacSha384_192 => 13,
            Self::HmacSha512_256 => 14,
        }
    }

    /// The algorithm of a transform id, if it is one of ours.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|i| i.iana() == id)
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1_96 => "sha1",
            Self::HmacSha256_128 => "sha256",
            Self::HmacSha384_192 => "sha384",
            Self::HmacSha512_256 => "sha512",
        }
    }

    /// Length of the key in bytes (RFC 2404 3, RFC 4868 2.1.1: the hash's output).
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 20,
            Self::HmacSha256_128 => 32,
            Self::HmacSha384_192 => 48,
            Self::HmacSha512_256 => 64,
        }
    }

    /// Length of the truncated check value in bytes.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 12,
            Self::HmacSha256_128 => 16,
            Self::HmacSha384_192 => 24,
            Self::HmacSha512_256 => 32,
        }
    }
}

macro_rules! display_by_name {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    )*};
}
display_by_name!(DhGroup, Prf, Encryption, Integrity);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iana_numbers_lead_back() {
        for g in DhGroup::ALL {
            assert_eq!(DhGroup::from_iana(g.iana()), Some(g));
        }
        for p in Prf::ALL {
            assert_eq!(Prf::from_iana(p.iana()), Some(p));
        }
        for i in Integrity::ALL {
            assert_eq!(Integrity::from_iana(i.iana()), Some(i));
        }
        for e in Encryption::ALL {
            assert_eq!(Encryption::from_iana(e.iana(), e.key_length_attribute()), Some(e));
        }
        // The registry's numbers, by hand (IKEv2 parameters).
        assert_eq!(DhGroup::from_iana(31), Some(DhGroup::Curve25519));
        assert_eq!(DhGroup::from_iana(2), None);
        assert_eq!(Encryption::from_iana(20, Some(256)), Some(Encryption::AesGcm256));
        assert_eq!(Encryption::from_iana(20, Some(192)), None);
        assert_eq!(Encryption::from_iana(12, None), None);
        assert_eq!(Encryption::from_iana(28, Some(256)), None);
        assert_eq!(Integrity::from_iana(12), Some(Integrity::HmacSha256_128));
        assert_eq!(Prf::from_iana(6), Some(Prf::HmacSha384));
    }

    #[test]
    fn names_are_strongswans() {
        assert_eq!(format!("{:>12}", Encryption::AesGcm128), " aes128gcm16");
        assert_eq!(Integrity::HmacSha256_128.to_string(), "sha256");
        assert_eq!(Prf::HmacSha512.to_string(), "prfsha512");
        assert_eq!(DhGroup::Modp2048.to_string(), "modp2048");
    }
}
