//! Signature schemes and their AlgorithmIdentifiers (RFC 7427 appendix A).

use std::fmt;

use der::Decode as _;
use der::asn1::ObjectIdentifier;
use pkcs1::RsaPssParamsOwned;
use spki::AlgorithmIdentifierRef;

use crate::Hash;

/// How a message is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 with SHA-1: IKEv2's method 1 with peers that do not speak RFC 7427. Weak.
    RsaPkcs1Sha1,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256, MGF1 of the same and a salt of the hash's length.
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384, MGF1 of the same and a salt of the hash's length.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512, MGF1 of the same and a salt of the hash's length.
    RsaPssSha512,
    /// ECDSA with SHA-256, on whichever curve the key has; DER-encoded r and s.
    EcdsaSha256,
    /// ECDSA with SHA-384, on whichever curve the key has; DER-encoded r and s.
    EcdsaSha384,
    /// ECDSA with SHA-512, on whichever curve the key has; DER-encoded r and s.
    EcdsaSha512,
    /// Ed25519 over the message itself (RFC 8420).
    Ed25519,
    /// IKEv1's RSA signature (RFC 2409 5.1): PKCS#1 v1.5 around the message as it is, a hash already,
    /// with no DigestInfo.
    RsaPkcs1Bare,
    /// ECDSA with SHA-256 on P-256, r | s in 64 bytes: IKE's authentication method 9 (RFC 4754).
    EcdsaP256Fixed,
    /// ECDSA with SHA-384 on P-384, r | s in 96 bytes: IKE's authentication method 10 (RFC 4754).
    EcdsaP384Fixed,
    /// ECDSA with SHA-512 on P-521, r | s in 132 bytes: IKE's authentication method 11 (RFC 4754).
    EcdsaP521Fixed,
}

/// SEQUENCE { OBJECT IDENTIFIER 1.2.840.113549.1.1.x, NULL }
macro_rules! pkcs1 {
    ($last:literal) => {
        &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, $last, 0x05, 0x00]
    };
}

/// SEQUENCE { OBJECT IDENTIFIER 1.2.840.10045.4.3.x }
macro_rules! ecdsa {
    ($last:literal) => {
        &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, $last]
    };
}

/// RSASSA-PSS with a hash of SHA-2's arc and a salt length. The trailer field has its default value,
/// which DER leaves out (RFC 8017 A.2.3); RFC 7427's examples write it, and we read both.
macro_rules! pss {
    ($hash:literal, $salt:literal) => {
        &[
            0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34, 0xa0,
            0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, $hash, 0x05, 0x00,
            0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30,
            0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, $hash, 0x05, 0x00, 0xa2, 0x03,
            0x02, 0x01, $salt,
        ]
    };
}

const PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

/// Algorithm identifiers longer than this are nobody's.
const MAX_IDENTIFIER: usize = 128;

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 15] = [
        Self::RsaPkcs1Sha1,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::EcdsaSha512,
        Self::Ed25519,
        Self::RsaPkcs1Bare,
        Self::EcdsaP256Fixed,
        Self::EcdsaP384Fixed,
        Self::EcdsaP521Fixed,
    ];

    /// The DER-encoded AlgorithmIdentifier, as RFC 7427's AUTH payload and certificates carry it. `None`
    /// for the schemes that an authentication method of its own names.
    pub const fn algorithm_identifier(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::RsaPkcs1Sha1 => pkcs1!(0x05),
            Self::RsaPkcs1Sha256 => pkcs1!(0x0b),
            Self::RsaPkcs1Sha384 => pkcs1!(0x0c),
            Self::RsaPkcs1Sha512 => pkcs1!(0x0d),
            Self::RsaPssSha256 => pss!(0x01, 0x20),
            Self::RsaPssSha384 => pss!(0x02, 0x30),
            Self::RsaPssSha512 => pss!(0x03, 0x40),
            Self::EcdsaSha256 => ecdsa!(0x02),
            Self::EcdsaSha384 => ecdsa!(0x03),
            Self::EcdsaSha512 => ecdsa!(0x04),
            Self::Ed25519 => &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
            Self::RsaPkcs1Bare | Self::EcdsaP256Fixed | Self::EcdsaP384Fixed | Self::EcdsaP521Fixed => {
                return None;
            }
        })
    }

    /// The scheme of an AlgorithmIdentifier, if it is one of ours. PSS's parameters may be written with or
    /// without their default values and NULLs.
    pub fn from_algorithm_identifier(der: &[u8]) -> Option<Self> {
        if der.len() > MAX_IDENTIFIER {
            return None;
        }
        if let Some(scheme) = Self::ALL.into_iter().find(|s| s.algorithm_identifier() == Some(der)) {
            return Some(scheme);
        }
        let identifier = AlgorithmIdentifierRef::from_der(der).ok()?;
        if identifier.oid == PSS {
            return pss(identifier);
        }
        // RFC 4055 5: PKCS#1's parameters are NULL, and absent ones are read all the same.
        let bare = identifier.parameters.is_none_or(|p| p.is_null());
        Self::ALL.into_iter().find(|s| {
            let known = s.algorithm_identifier().and_then(|d| AlgorithmIdentifierRef::from_der(d).ok());
            bare && !s.is_pss() && known.is_some_and(|k| k.oid == identifier.oid)
        })
    }

    /// The hash that is worked into the signature; `None` for Ed25519 (hash number 5, "identity", in
    /// RFC 8420) and for IKEv1's bare RSA, whose message is a hash already.
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs1Sha1 => Some(Hash::Sha1),
            Self::RsaPkcs1Sha256 | Self::RsaPssSha256 | Self::EcdsaSha256 | Self::EcdsaP256Fixed => {
                Some(Hash::Sha256)
            }
            Self::RsaPkcs1Sha384 | Self::RsaPssSha384 | Self::EcdsaSha384 | Self::EcdsaP384Fixed => {
                Some(Hash::Sha384)
            }
            Self::RsaPkcs1Sha512 | Self::RsaPssSha512 | Self::EcdsaSha512 | Self::EcdsaP521Fixed => {
                Some(Hash::Sha512)
            }
            Self::Ed25519 | Self::RsaPkcs1Bare => None,
        }
    }

    /// The number that SIGNATURE_HASH_ALGORITHMS must have named before a peer may be sent such a
    /// signature (RFC 7427 4, RFC 8420 2). `None` for the schemes outside RFC 7427.
    pub const fn hash_id(self) -> Option<u16> {
        match (self, self.algorithm_identifier(), self.hash()) {
            (Self::Ed25519, ..) => Some(5),
            (_, Some(_), Some(hash)) => hash.iana(),
            _ => None,
        }
    }

    const fn is_pss(self) -> bool {
        matches!(self, Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512)
    }

    /// How people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaPkcs1Sha1 => "rsa-sha1",
            Self::RsaPkcs1Sha256 => "rsa-sha256",
            Self::RsaPkcs1Sha384 => "rsa-sha384",
            Self::RsaPkcs1Sha512 => "rsa-sha512",
            Self::RsaPssSha256 => "rsa-pss-sha256",
            Self::RsaPssSha384 => "rsa-pss-sha384",
            Self::RsaPssSha512 => "rsa-pss-sha512",
            Self::EcdsaSha256 => "ecdsa-sha256",
            Self::EcdsaSha384 => "ecdsa-sha384",
            Self::EcdsaSha512 => "ecdsa-sha512",
            Self::Ed25519 => "ed25519",
            Self::RsaPkcs1Bare => "rsa-ikev1",
            Self::EcdsaP256Fixed => "ecdsa-p256",
            Self::EcdsaP384Fixed => "ecdsa-p384",
            Self::EcdsaP521Fixed => "ecdsa-p521",
        }
    }
}

/// RSASSA-PSS: one SHA-2 hash for both uses, the salt as long as the hash.
fn pss(identifier: AlgorithmIdentifierRef<'_>) -> Option<Scheme> {
    let params: RsaPssParamsOwned = identifier.parameters?.decode_as().ok()?;
    let null = |p: &Option<der::Any>| p.as_ref().is_none_or(der::Any::is_null);
    let mask = params.mask_gen.parameters?;
    if params.mask_gen.oid != MGF1 || mask.oid != params.hash.oid {
        return None;
    }
    if !null(&params.hash.parameters) || !null(&mask.parameters) {
        return None;
    }
    match (params.hash.oid, params.salt_len) {
        (SHA256, 32) => Some(Scheme::RsaPssSha256),
        (SHA384, 48) => Some(Scheme::RsaPssSha384),
        (SHA512, 64) => Some(Scheme::RsaPssSha512),
        _ => None,
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_lead_back() {
        for scheme in Scheme::ALL {
            if let Some(der) = scheme.algorithm_identifier() {
                assert_eq!(Scheme::from_algorithm_identifier(der), Some(scheme));
                assert_eq!(usize::from(der[1]) + 2, der.len(), "{scheme}");
            }
        }
    }

    #[test]
    fn rfc_7427_appendix_a() {
        // A.1.2, A.3.2, A.4.3 (with the trailer field) and RFC 8420 A.
        for (der, want) in [
            ("300d06092a864886f70d01010b0500", Scheme::RsaPkcs1Sha256),
            ("300a06082a8648ce3d040302", Scheme::EcdsaSha256),
            (
                "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a864886f70d01\
                 0108300d06096086480165030402010500a203020120a303020101",
                Scheme::RsaPssSha256,
            ),
            ("300506032b6570", Scheme::Ed25519),
        ] {
            let der = hex::decode(der).unwrap();
            assert_eq!(Scheme::from_algorithm_identifier(&der), Some(want));
        }
    }

    #[test]
    fn other_spellings_and_other_algorithms() {
        let read = |digits: &str| Scheme::from_algorithm_identifier(&hex::decode(digits).unwrap());
        // PKCS#1 without the NULL; PSS without NULLs.
        assert_eq!(read("300b06092a864886f70d01010b"), Some(Scheme::RsaPkcs1Sha256));
        assert_eq!(
            read(
                "303d06092a864886f70d01010a3030a00d300b0609608648016503040201a11a301806092a864886f70d010108\
                 300b0609608648016503040201a203020120"
            ),
            Some(Scheme::RsaPssSha256)
        );
        // PSS by its defaults (SHA-1), a salt of 20 with SHA-256, MGF1 of another hash.
        assert_eq!(read("300d06092a864886f70d01010a3000"), None);
        let pss256 = hex::encode(Scheme::RsaPssSha256.algorithm_identifier().unwrap());
        assert_eq!(read(&pss256.replace("a203020120", "a203020114")), None);
        assert_eq!(read(&pss256.replacen("0402010500a1", "0402020500a1", 1)), None);
        // MD5 with RSA, ecdsa-with-SHA1, DSA; no DER at all.
        for other in ["300d06092a864886f70d0101040500", "300906072a8648ce3d0401", "300906072a8648ce380403"] {
            assert_eq!(read(other), None);
        }
        for broken in ["", "30", "3003", "ff00ff", "300506032b65", "300506032b657000"] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }
}
