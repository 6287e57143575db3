//! Public keys: from SubjectPublicKeyInfo, and checking signatures with them.

use std::fmt;

use der::asn1::{ObjectIdentifier, UintRef};
use der::{Decode as _, Encode as _};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use spki::SubjectPublicKeyInfoRef;

use super::ecdsa::Curve;
use super::rsa::RsaPublic;
use super::{BadKey, KeyKind, MIN_RSA_BITS, Scheme, SignError, joined};

pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(super) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// DER before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key whose size and shape were checked when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa(RsaPublic),
    /// 04 | x | y, on its curve.
    Ecdsa(Curve, Vec<u8>),
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// From a DER-encoded SubjectPublicKeyInfo (RFC 5280 4.1). RSA moduli have 2048 to 8192 bits.
    pub fn from_spki(der: &[u8]) -> Result<Self, BadKey> {
        Self::from_spki_min_rsa(der, MIN_RSA_BITS)
    }

    /// The same, with RSA moduli down to `min_bits`, though never below 1024: for old peers whose
    /// configuration says so.
    pub fn from_spki_min_rsa(der: &[u8], min_bits: usize) -> Result<Self, BadKey> {
        let encoding = BadKey::Encoding("DER-encoded public key (SubjectPublicKeyInfo)");
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| encoding)?;
        let key = info.subject_public_key.as_bytes().ok_or(encoding)?;
        let bare = info.algorithm.parameters.is_none_or(|p| p.is_null());
        match info.algorithm.oid {
            RSA | ED25519 if !bare => Err(encoding),
            RSA => {
                let key = pkcs1::RsaPublicKeyRef::from_der(key).map_err(|_| encoding)?;
                let (n, e) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
                Ok(Self(Kind::Rsa(RsaPublic::new(n, e, min_bits)?)))
            }
            EC => {
                let curve = info.algorithm.parameters_oid().ok().and_then(Curve::from_oid);
                let curve = curve.ok_or(BadKey::Algorithm)?;
                let point = curve.point(key).ok_or(BadKey::Inconsistent("ECDSA"))?;
                Ok(Self(Kind::Ecdsa(curve, point)))
            }
            ED25519 => Ok(Self(Kind::Ed25519(key.try_into().map_err(|_| encoding)?))),
            _ => Err(BadKey::Algorithm),
        }
    }

    pub(super) fn new(kind: Kind) -> Self {
        Self(kind)
    }

    /// The DER-encoded SubjectPublicKeyInfo.
    pub fn to_spki(&self) -> Vec<u8> {
        // Encoding a handful of values that were decoded or checked before cannot fail.
        self.encode().unwrap_or_default()
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let (oid, parameters, key) = match &self.0 {
            Kind::Rsa(key) => {
                let (modulus, public_exponent) = (UintRef::new(&key.n).ok()?, UintRef::new(&key.e).ok()?);
                let key = pkcs1::RsaPublicKeyRef { modulus, public_exponent }.to_der().ok()?;
                (RSA, der::Any::null(), key)
            }
            Kind::Ecdsa(curve, point) => (EC, der::Any::encode_from(&curve.oid()).ok()?, point.clone()),
            Kind::Ed25519(key) => return Some([&ED25519_SPKI[..], key].concat()),
        };
        let algorithm = spki::AlgorithmIdentifierOwned { oid, parameters: Some(parameters) };
        let subject_public_key = der::asn1::BitString::from_bytes(&key).ok()?;
        spki::SubjectPublicKeyInfoOwned { algorithm, subject_public_key }.to_der().ok()
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        match &self.0 {
            Kind::Rsa(key) => key.kind(),
            Kind::Ecdsa(curve, _) => curve.kind(),
            Kind::Ed25519(_) => KeyKind::Ed25519,
        }
    }

    /// Whether a signature by this scheme can be this key's at all.
    pub fn fits(&self, scheme: Scheme) -> bool {
        use Scheme as S;
        match &self.0 {
            Kind::Rsa(_) => matches!(
                scheme,
                S::RsaPkcs1Sha1
                    | S::RsaPkcs1Sha256
                    | S::RsaPkcs1Sha384
                    | S::RsaPkcs1Sha512
                    | S::RsaPssSha256
                    | S::RsaPssSha384
                    | S::RsaPssSha512
                    | S::RsaPkcs1Bare
            ),
            Kind::Ecdsa(curve, _) => {
                let fixed = match curve {
                    Curve::P256 => S::EcdsaP256Fixed,
                    Curve::P384 => S::EcdsaP384Fixed,
                    Curve::P521 => S::EcdsaP521Fixed,
                };
                matches!(scheme, S::EcdsaSha256 | S::EcdsaSha384 | S::EcdsaSha512) || scheme == fixed
            }
            Kind::Ed25519(_) => scheme == S::Ed25519,
        }
    }

    /// Checks a signature over the parts of a message, one after the other.
    ///
    /// Whether the scheme is one that the caller wants (SHA-1!) is the caller's to decide before.
    pub fn verify(&self, scheme: Scheme, message: &[&[u8]], signature: &[u8]) -> Result<(), SignError> {
        if !self.fits(scheme) {
            return Err(SignError::WrongKey { key: self.kind(), scheme });
        }
        let ring = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            let key = UnparsedPublicKey::new(algorithm, key);
            key.verify(&joined(message), signature).map_err(|_| SignError::NotAuthentic)
        };
        match &self.0 {
            Kind::Rsa(key) => verify_rsa(key, scheme, message, signature),
            Kind::Ecdsa(curve, point) => match (curve, scheme) {
                (Curve::P256, Scheme::EcdsaSha256) => ring(&signature::ECDSA_P256_SHA256_ASN1, point),
                (Curve::P256, Scheme::EcdsaP256Fixed) => ring(&signature::ECDSA_P256_SHA256_FIXED, point),
                (Curve::P384, Scheme::EcdsaSha384) => ring(&signature::ECDSA_P384_SHA384_ASN1, point),
                (Curve::P384, Scheme::EcdsaP384Fixed) => ring(&signature::ECDSA_P384_SHA384_FIXED, point),
                _ => {
                    let hash = scheme.hash().ok_or(SignError::WrongKey { key: self.kind(), scheme })?;
                    let fixed = scheme == Scheme::EcdsaP521Fixed;
                    let good = curve.verify(point, &hash.digest(message), signature, fixed);
                    good.then_some(()).ok_or(SignError::NotAuthentic)
                }
            },
            Kind::Ed25519(key) => ring(&signature::ED25519, key),
        }
    }
}

fn verify_rsa(key: &RsaPublic, scheme: Scheme, message: &[&[u8]], signature: &[u8]) -> Result<(), SignError> {
    let algorithm = match scheme {
        Scheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Scheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Scheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Scheme::RsaPssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        Scheme::RsaPssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        Scheme::RsaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return key.verify_pkcs1(scheme, message, signature),
    };
    let small = matches!(key.kind(), KeyKind::Rsa(bits) if bits < MIN_RSA_BITS);
    match scheme {
        // ring takes no smaller modulus.
        Scheme::RsaPkcs1Sha256 | Scheme::RsaPkcs1Sha384 | Scheme::RsaPkcs1Sha512 if small => {
            key.verify_pkcs1(scheme, message, signature)
        }
        _ => {
            let components = RsaPublicKeyComponents { n: &key.n, e: &key.e };
            components.verify(algorithm, &joined(message), signature).map_err(|_| SignError::NotAuthentic)
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kind())
    }
}
