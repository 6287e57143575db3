//! Integrity algorithms (transform type 3).

use super::Weakness;
use crate::Prf;

/// An integrity algorithm (transform type 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Integrity {
    /// AUTH_HMAC_MD5_96 (RFC 2403). Weak.
    HmacMd5_96,
    /// AUTH_HMAC_SHA1_96 (RFC 2404).
    HmacSha1_96,
    /// AUTH_AES_XCBC_96 (RFC 3566).
    AesXcbc96,
    /// AUTH_AES_CMAC_96 (RFC 4494).
    AesCmac96,
    /// AUTH_HMAC_SHA2_256_128 (RFC 4868).
    HmacSha256_128,
    /// AUTH_HMAC_SHA2_384_192 (RFC 4868).
    HmacSha384_192,
    /// AUTH_HMAC_SHA2_512_256 (RFC 4868).
    HmacSha512_256,
}

impl Integrity {
    /// Every integrity algorithm, strongest last.
    pub const ALL: [Self; 7] = [
        Self::HmacMd5_96,
        Self::HmacSha1_96,
        Self::AesXcbc96,
        Self::AesCmac96,
        Self::HmacSha256_128,
        Self::HmacSha384_192,
        Self::HmacSha512_256,
    ];

    /// The transform id.
    pub const fn iana(self) -> u16 {
        match self {
            Self::HmacMd5_96 => 1,
            Self::HmacSha1_96 => 2,
            Self::AesXcbc96 => 5,
            Self::AesCmac96 => 8,
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
            Self::HmacMd5_96 => "md5",
            Self::HmacSha1_96 => "sha1",
            Self::AesXcbc96 => "aesxcbc",
            Self::AesCmac96 => "aescmac",
            Self::HmacSha256_128 => "sha256",
            Self::HmacSha384_192 => "sha384",
            Self::HmacSha512_256 => "sha512",
        }
    }

    /// Length of the key in bytes (RFC 2403 3, RFC 2404 3, RFC 4868 2.1.1: the hash's output).
    pub const fn key_len(self) -> usize {
        self.prf().output_len()
    }

    /// Length of the truncated check value in bytes.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::HmacMd5_96 | Self::HmacSha1_96 | Self::AesXcbc96 | Self::AesCmac96 => 12,
            Self::HmacSha256_128 => 16,
            Self::HmacSha384_192 => 24,
            Self::HmacSha512_256 => 32,
        }
    }

    /// The PRF that is built of the same parts: strongSwan's choice where a proposal names none.
    pub const fn prf(self) -> Prf {
        match self {
            Self::HmacMd5_96 => Prf::HmacMd5,
            Self::HmacSha1_96 => Prf::HmacSha1,
            Self::AesXcbc96 => Prf::AesXcbc,
            Self::AesCmac96 => Prf::AesCmac,
            Self::HmacSha256_128 => Prf::HmacSha256,
            Self::HmacSha384_192 => Prf::HmacSha384,
            Self::HmacSha512_256 => Prf::HmacSha512,
        }
    }

    /// Why it should not be used any more, if so.
    pub const fn weakness(self) -> Option<Weakness> {
        match self {
            Self::HmacMd5_96 => {
                Some(Weakness::new("MD5 is broken (RFC 8221 6: MUST NOT)", "sha256 or an AEAD"))
            }
            Self::HmacSha1_96 => {
                Some(Weakness::new("SHA-1 is on its way out (RFC 8221 6: MUST-)", "sha256 or an AEAD"))
            }
            _ => None,
        }
    }
}
