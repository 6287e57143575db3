//! Private keys: from PKCS#8, and signing with them.

use std::fmt;

use der::Decode as _;
use pkcs8::PrivateKeyInfoRef;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use zeroize::Zeroizing;

use super::ecdsa::{Curve, P521Key};
use super::public::{EC, ED25519, Kind as PublicKind, RSA};
use super::rsa::RsaPrivate;
use super::{BadKey, KeyKind, PublicKey, Scheme, SignError, joined};
use crate::Random;

/// ring signs with moduli of up to so many bits.
const MOST_RSA_BITS: usize = 4096;

/// A private key: redacted in `Debug`. The parts that we hold are zeroized when it is dropped; those
/// that ring holds are not, as it offers no way to.
pub struct PrivateKey {
    kind: Kind,
    public: PublicKey,
}

enum Kind {
    Rsa {
        ring: Box<RsaKeyPair>,
        own: Box<RsaPrivate>,
    },
    /// With ring's keys for DER and for r | s.
    Ecdsa {
        der: Box<EcdsaKeyPair>,
        fixed: Box<EcdsaKeyPair>,
    },
    P521(P521Key),
    Ed25519(Box<Ed25519KeyPair>),
}

impl PrivateKey {
    /// From a DER-encoded, unencrypted PKCS#8 PrivateKeyInfo (RFC 5208, RFC 5958): RSA of 2048 to 4096
    /// bits, ECDSA on P-256, P-384 or P-521, Ed25519.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, BadKey> {
        let encoding = BadKey::Encoding("DER-encoded private key (PKCS#8)");
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| encoding)?;
        let key = info.private_key.as_bytes();
        match info.algorithm.oid {
            RSA => Self::from_pkcs1(key),
            EC => {
                let curve = info.algorithm.parameters_oid().ok().and_then(Curve::from_oid);
                Self::from_sec1_on(key, curve)
            }
            ED25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                    .map_err(|_| BadKey::Inconsistent("Ed25519"))?;
                let public = pair.public_key().as_ref().try_into().map_err(|_| encoding)?;
                let public = PublicKey::new(PublicKind::Ed25519(public));
                Ok(Self { kind: Kind::Ed25519(Box::new(pair)), public })
            }
            _ => Err(BadKey::Algorithm),
        }
    }

    /// From a DER-encoded RSAPrivateKey (PKCS#1, RFC 8017 A.1.2), as `BEGIN RSA PRIVATE KEY` has it.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, BadKey> {
        let encoding = BadKey::Encoding("DER-encoded RSA private key (PKCS#1)");
        let parts = pkcs1::RsaPrivateKeyRef::from_der(der).map_err(|_| encoding)?;
        let (n, e) = (parts.modulus.as_bytes(), parts.public_exponent.as_bytes());
        let own = RsaPrivate::new(n, e, parts.private_exponent.as_bytes())?;
        if let KeyKind::Rsa(bits) = own.public.kind()
            && bits > MOST_RSA_BITS
        {
            return Err(BadKey::RsaSize { bits, min: super::MIN_RSA_BITS, max: MOST_RSA_BITS });
        }
        // ring signs with no smaller exponent.
        if own.public.e.len() < 3 {
            return Err(BadKey::RsaExponent);
        }
        // ring checks that p, q, d and the CRT values belong together.
        let ring = RsaKeyPair::from_der(der).map_err(|_| BadKey::Inconsistent("RSA"))?;
        let public = PublicKey::new(PublicKind::Rsa(own.public.clone()));
        Ok(Self { kind: Kind::Rsa { ring: Box::new(ring), own: Box::new(own) }, public })
    }

    /// From a DER-encoded ECPrivateKey (RFC 5915) that names its curve, as `BEGIN EC PRIVATE KEY` has it.
    pub fn from_sec1(der: &[u8]) -> Result<Self, BadKey> {
        Self::from_sec1_on(der, None)
    }

    fn from_sec1_on(der: &[u8], curve: Option<Curve>) -> Result<Self, BadKey> {
        let encoding = BadKey::Encoding("DER-encoded EC private key (SEC 1)");
        let inconsistent = BadKey::Inconsistent("ECDSA");
        let parts = sec1::EcPrivateKey::from_der(der).map_err(|_| encoding)?;
        let own = parts.parameters.and_then(|p| p.named_curve());
        let curve = match (curve, own) {
            (Some(curve), Some(own)) if curve.oid() != own => return Err(inconsistent),
            (Some(curve), _) => curve,
            (None, Some(own)) => Curve::from_oid(own).ok_or(BadKey::Algorithm)?,
            (None, None) => return Err(BadKey::Algorithm),
        };
        // RFC 5915 3: as long as the order; some writers leave leading zeros away.
        let missing = curve.len().checked_sub(parts.private_key.len()).ok_or(encoding)?;
        let mut scalar = Zeroizing::new(vec![0; missing]);
        scalar.reserve_exact(parts.private_key.len());
        scalar.extend_from_slice(parts.private_key);
        let point = curve.public(&scalar).ok_or(inconsistent)?;
        if let Some(stated) = parts.public_key
            && curve.point(stated).as_ref() != Some(&point)
        {
            return Err(inconsistent);
        }
        let ring = |algorithm| {
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, &scalar, &point, &SystemRandom::new())
                .map(Box::new)
                .map_err(|_| inconsistent)
        };
        let kind = match curve {
            Curve::P256 => Kind::Ecdsa {
                der: ring(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)?,
                fixed: ring(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)?,
            },
            Curve::P384 => Kind::Ecdsa {
                der: ring(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)?,
                fixed: ring(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)?,
            },
            Curve::P521 => Kind::P521(P521Key::new(&scalar)),
        };
        Ok(Self { kind, public: PublicKey::new(PublicKind::Ecdsa(curve, point)) })
    }

    /// Its public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.public.kind()
    }

    /// The schemes of RFC 7427 by which it signs, first preferred. SHA-1 is not among them.
    pub fn schemes(&self) -> &'static [Scheme] {
        use Scheme as S;
        match self.kind() {
            // RFC 8247 4.2: PKCS#1 v1.5 with SHA-2 is what every peer has; PSS should be there.
            KeyKind::Rsa(_) => &[
                S::RsaPssSha256,
                S::RsaPssSha384,
                S::RsaPssSha512,
                S::RsaPkcs1Sha256,
                S::RsaPkcs1Sha384,
                S::RsaPkcs1Sha512,
            ],
            KeyKind::EcdsaP256 => &[S::EcdsaSha256],
            KeyKind::EcdsaP384 => &[S::EcdsaSha384],
            KeyKind::EcdsaP521 => &[S::EcdsaSha512],
            KeyKind::Ed25519 => &[S::Ed25519],
        }
    }

    /// Whether signing takes milliseconds (RSA, P-521): not on an event loop.
    pub fn is_slow(&self) -> bool {
        matches!(self.kind, Kind::Rsa { .. } | Kind::P521(_))
    }

    /// Signs the parts of a message, one after the other.
    ///
    /// Beside [`schemes`](Self::schemes) it serves those of older authentication methods: with RSA
    /// [`Scheme::RsaPkcs1Sha1`] and [`Scheme::RsaPkcs1Bare`], with ECDSA RFC 4754's fixed encoding.
    /// `random` blinds; ring draws what it needs from the operating system.
    pub fn sign(
        &self,
        scheme: Scheme,
        message: &[&[u8]],
        random: &mut dyn Random,
    ) -> Result<Vec<u8>, SignError> {
        let wrong = SignError::WrongKey { key: self.kind(), scheme };
        let system = SystemRandom::new();
        match (&self.kind, scheme) {
            (Kind::Rsa { own, .. }, Scheme::RsaPkcs1Sha1 | Scheme::RsaPkcs1Bare) => {
                own.sign_pkcs1(scheme, message, random)
            }
            (Kind::Rsa { ring, .. }, _) => {
                let padding: &'static dyn signature::RsaEncoding = match scheme {
                    Scheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    Scheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
                    Scheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
                    Scheme::RsaPssSha256 => &signature::RSA_PSS_SHA256,
                    Scheme::RsaPssSha384 => &signature::RSA_PSS_SHA384,
                    Scheme::RsaPssSha512 => &signature::RSA_PSS_SHA512,
                    _ => return Err(wrong),
                };
                let mut out = vec![0; ring.public().modulus_len()];
                ring.sign(padding, &system, &joined(message), &mut out).map_err(|_| SignError::Fault)?;
                Ok(out)
            }
            (Kind::Ecdsa { der, fixed }, _) => {
                let fixed_scheme = match self.kind() {
                    KeyKind::EcdsaP256 => Scheme::EcdsaP256Fixed,
                    _ => Scheme::EcdsaP384Fixed,
                };
                let key = if self.schemes().contains(&scheme) {
                    der
                } else if scheme == fixed_scheme {
                    fixed
                } else {
                    return Err(wrong);
                };
                let signature = key.sign(&system, &joined(message)).map_err(|_| SignError::Fault)?;
                Ok(signature.as_ref().to_vec())
            }
            (Kind::P521(key), Scheme::EcdsaSha512 | Scheme::EcdsaP521Fixed) => {
                let fixed = scheme == Scheme::EcdsaP521Fixed;
                key.sign(message, fixed, random).ok_or(SignError::Fault)
            }
            (Kind::Ed25519(pair), Scheme::Ed25519) => Ok(pair.sign(&joined(message)).as_ref().to_vec()),
            _ => Err(wrong),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.kind())
    }
}
