//! ECDSA beyond ring: P-521, and hashes that ring does not pair with P-256 and P-384.

use der::asn1::ObjectIdentifier;
use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
use p521::elliptic_curve::sec1::ToSec1Point as _;
use zeroize::Zeroizing;

use super::KeyKind;
use crate::{Hash, Prf, Random, Secret, prf_plus};

/// A NIST curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(super) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    pub(super) const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::P256 => ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
            Self::P384 => ObjectIdentifier::new_unwrap("1.3.132.0.34"),
            Self::P521 => ObjectIdentifier::new_unwrap("1.3.132.0.35"),
        }
    }

    pub(super) fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.oid() == oid)
    }

    pub(super) const fn kind(self) -> KeyKind {
        match self {
            Self::P256 => KeyKind::EcdsaP256,
            Self::P384 => KeyKind::EcdsaP384,
            Self::P521 => KeyKind::EcdsaP521,
        }
    }

    /// Length of a scalar and of a coordinate, in bytes.
    pub(super) const fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// A point in any of SEC 1's encodings as 04 | x | y; `None` where it is not on the curve or is the
    /// point at infinity.
    pub(super) fn point(self, sec1: &[u8]) -> Option<Vec<u8>> {
        Some(match self {
            Self::P256 => {
                p256::PublicKey::from_sec1_bytes(sec1).ok()?.to_sec1_point(false).as_bytes().to_vec()
            }
            Self::P384 => {
                p384::PublicKey::from_sec1_bytes(sec1).ok()?.to_sec1_point(false).as_bytes().to_vec()
            }
            Self::P521 => {
                p521::PublicKey::from_sec1_bytes(sec1).ok()?.to_sec1_point(false).as_bytes().to_vec()
            }
        })
    }

    /// The public point of a private scalar of [`len`](Self::len) bytes, as 04 | x | y.
    pub(super) fn public(self, scalar: &[u8]) -> Option<Vec<u8>> {
        Some(match self {
            Self::P256 => p256::SecretKey::from_slice(scalar)
                .ok()?
                .public_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
            Self::P384 => p384::SecretKey::from_slice(scalar)
                .ok()?
                .public_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
            Self::P521 => p521::SecretKey::from_slice(scalar)
                .ok()?
                .public_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
        })
    }

    /// Whether the signature (DER, or r | s where `fixed`) over a digest is right. Zero r or s, values
    /// not below the order and non-canonical DER never are.
    pub(super) fn verify(self, point: &[u8], digest: &[u8], signature: &[u8], fixed: bool) -> bool {
        macro_rules! verify {
            ($curve:ident) => {{
                let key = $curve::ecdsa::VerifyingKey::from_sec1_bytes(point);
                let signature = if fixed {
                    $curve::ecdsa::Signature::from_slice(signature)
                } else {
                    $curve::ecdsa::Signature::from_der(signature)
                };
                match (key, signature) {
                    (Ok(key), Ok(signature)) => key.verify_prehash(digest, &signature).is_ok(),
                    _ => false,
                }
            }};
        }
        match self {
            Self::P256 => verify!(p256),
            Self::P384 => verify!(p384),
            Self::P521 => verify!(p521),
        }
    }
}

/// A P-521 private key.
pub(super) struct P521Key(Secret);

impl P521Key {
    /// From a scalar that [`Curve::public`] has accepted.
    pub(super) fn new(scalar: &[u8]) -> Self {
        Self(scalar.into())
    }

    /// Signs a message with SHA-512: DER, or r | s where `fixed`.
    pub(super) fn sign(&self, message: &[&[u8]], fixed: bool, random: &mut dyn Random) -> Option<Vec<u8>> {
        use p521::elliptic_curve::PrimeField as _;
        let digest = Hash::Sha512.digest(message);
        let d = p521::SecretKey::from_slice(&self.0).ok()?.to_nonzero_scalar();
        // The nonce comes from fresh randomness, the key and the message together: neither a poor source
        // of randomness nor two signatures of one message repeat or bias one (after RFC 6979 3.6).
        let mut fresh = Zeroizing::new([0; 66 + 64]);
        let (copy, drawn) = fresh.split_at_mut(66);
        copy.copy_from_slice(self.0.get(..66)?);
        random.fill(drawn);
        for attempt in 0..=u8::MAX {
            let mut k = Zeroizing::new([0; 66]);
            prf_plus(Prf::HmacSha512, fresh.as_ref(), &[&digest[..], &[attempt]].concat(), k.as_mut())
                .ok()?;
            // 521 bits: of the first byte only the lowest. Anything not below the order is drawn again.
            k[0] &= 1;
            let mut repr = p521::FieldBytes::default();
            repr.copy_from_slice(k.as_ref());
            let k = p521::Scalar::from_repr(repr)
                .into_option()
                .and_then(|k| p521::NonZeroScalar::new(k).into_option());
            let Some(k) = k else { continue };
            if let Ok((signature, _)) = ecdsa::hazmat::sign_prehashed(&d, &k, &digest) {
                return Some(if fixed {
                    signature.to_bytes().to_vec()
                } else {
                    signature.to_der().as_bytes().to_vec()
                });
            }
        }
        None
    }
}
