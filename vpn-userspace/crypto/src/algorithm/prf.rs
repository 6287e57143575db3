//! Pseudorandom functions (transform type 2).

use super::Weakness;

/// A pseudorandom function (transform type 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prf {
    /// PRF_HMAC_MD5 (RFC 2104). Weak.
    HmacMd5,
    /// PRF_HMAC_SHA1 (RFC 2104).
    HmacSha1,
    /// PRF_AES128_XCBC (RFC 4434).
    AesXcbc,
    /// PRF_AES128_CMAC (RFC 4615).
    AesCmac,
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256,
    /// PRF_HMAC_SHA2_384 (RFC 4868).
    HmacSha384,
    /// PRF_HMAC_SHA2_512 (RFC 4868).
    HmacSha512,
}

impl Prf {
    /// Every PRF, strongest last.
    pub const ALL: [Self; 7] = [
        Self::HmacMd5,
        Self::HmacSha1,
        Self::AesXcbc,
        Self::AesCmac,
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
    ];

    /// The transform id.
    pub const fn iana(self) -> u16 {
        match self {
            Self::HmacMd5 => 1,
            Self::HmacSha1 => 2,
            Self::AesXcbc => 4,
            Self::HmacSha256 => 5,
            Self::HmacSha384 => 6,
            Self::HmacSha512 => 7,
            Self::AesCmac => 8,
        }
    }

    /// The PRF of a transform id, if it is one of ours.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.iana() == id)
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacMd5 => "prfmd5",
            Self::HmacSha1 => "prfsha1",
            Self::AesXcbc => "prfaesxcbc",
            Self::AesCmac => "prfaescmac",
            Self::HmacSha256 => "prfsha256",
            Self::HmacSha384 => "prfsha384",
            Self::HmacSha512 => "prfsha512",
        }
    }

    /// Length of the output and preferred length of the key, in bytes.
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacMd5 | Self::AesXcbc | Self::AesCmac => 16,
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// Whether only the first eight bytes of each nonce go into the key of SKEYSEED: so it is with the two
    /// that were defined for keys of 16 bytes (RFC 7296 2.14).
    pub const fn halves_nonces(self) -> bool {
        matches!(self, Self::AesXcbc | Self::AesCmac)
    }

    /// Why it should not be used any more, if so.
    pub const fn weakness(self) -> Option<Weakness> {
        match self {
            Self::HmacMd5 => Some(Weakness::new("MD5 is broken (RFC 8247 2.2: MUST NOT)", "prfsha256")),
            Self::HmacSha1 => {
                Some(Weakness::new("SHA-1 is on its way out (RFC 8247 2.2: MUST-)", "prfsha256"))
            }
            _ => None,
        }
    }
}
