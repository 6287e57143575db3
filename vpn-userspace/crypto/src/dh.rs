//! Diffie-Hellman key pairs of every group, in the encoding of IKE's KE payload.

use std::fmt;

use p521::elliptic_curve::sec1::ToSec1Point as _;
use ring::agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

use crate::kem::{self, KemKey};
use crate::{DhGroup, Random, Secret, SharedSecret, modp};

/// Why there is no shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DhError {
    /// The peer's value has a length that its group does not have.
    #[error("the peer sent a {group} value of {got} bytes, it must be {want} (RFC 7296 3.4)")]
    Length {
        /// The group.
        group: DhGroup,
        /// What came.
        got: usize,
        /// What the group has.
        want: usize,
    },
    /// The peer's value is out of range, not on the curve or of small order.
    #[error("the peer sent a {0} value that is not a valid public key (RFC 6989 2)")]
    Invalid(DhGroup),
    /// The operating system gave no randomness for a key pair.
    #[error("no {0} key pair: the operating system gave no random bytes")]
    Random(DhGroup),
}

/// An ephemeral key pair, good for one exchange. It may be handed to another thread.
///
/// The side that begins makes one and agrees with what comes back; the side that answers needs only
/// [`respond`](Self::respond), which serves key encapsulation (ML-KEM) as well.
pub struct KeyPair {
    group: DhGroup,
    private: Private,
    public: Vec<u8>,
}

enum Private {
    Modp(Box<modp::Exponent>),
    Ring(EphemeralPrivateKey),
    P521(Box<p521::SecretKey>),
    Kem(Box<KemKey>),
}

impl KeyPair {
    /// Makes a key pair. Randomness comes from `random`, but for P-256, P-384 and Curve25519: ring draws theirs from
    /// the operating system, as it imports no private key. Those three take well under a millisecond, ML-KEM a
    /// tenth of one, P-521 one, MODP up to tens of them.
    pub fn generate(group: DhGroup, random: &mut dyn Random) -> Result<Self, DhError> {
        let no_random = DhError::Random(group);
        let (private, public) = if let Some(group) = modp::group(group) {
            let exponent = modp::Exponent::generate(group, random);
            let public = exponent.public();
            (Private::Modp(Box::new(exponent)), public)
        } else if group.is_kem() {
            let key = KemKey::generate(group, random);
            let public = key.public().ok_or(no_random)?;
            (Private::Kem(Box::new(key)), public)
        } else if let Some(algorithm) = ring_algorithm(group) {
            let rng = ring::rand::SystemRandom::new();
            let private = EphemeralPrivateKey::generate(algorithm, &rng).map_err(|_| no_random)?;
            let public = private.compute_public_key().map_err(|_| no_random)?;
            (Private::Ring(private), without_format(group, public.as_ref()))
        } else {
            let private = p521_key(random).ok_or(no_random)?;
            let public = private.public_key().to_sec1_point(false);
            (Private::P521(Box::new(private)), without_format(group, public.as_bytes()))
        };
        Ok(Self { group, private, public })
    }

    /// The answer to a peer's public value: our own, and the secret that both have then. With ML-KEM ours is the
    /// ciphertext (RFC 9370 2.1).
    pub fn respond(
        group: DhGroup,
        peer_public: &[u8],
        random: &mut dyn Random,
    ) -> Result<(Vec<u8>, SharedSecret), DhError> {
        if group.is_kem() {
            check_length(group, peer_public.len(), group.public_len())?;
            return kem::encapsulate(group, peer_public, random).ok_or(DhError::Invalid(group));
        }
        let pair = Self::generate(group, random)?;
        let public = pair.public.clone();
        Ok((public, pair.agree(peer_public)?))
    }

    /// The group.
    pub fn group(&self) -> DhGroup {
        self.group
    }

    /// The public value as the KE payload carries it, [`DhGroup::public_len`] bytes.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// g^ir. Refuses values out of range or of a small order, points off the curve, and the all-zero result of a
    /// small-order Curve25519 point (RFC 6989, RFC 8031 2, RFC 7748 6.1). With ML-KEM the peer's value is the
    /// ciphertext, and one that was not made for our key gives a secret that nobody else has.
    pub fn agree(self, peer_public: &[u8]) -> Result<SharedSecret, DhError> {
        let group = self.group;
        check_length(group, peer_public.len(), group.response_len())?;
        let invalid = DhError::Invalid(group);
        let with_format = || {
            let format: &[u8] = if is_ecp(group) { &[4] } else { &[] };
            [format, peer_public].concat()
        };
        match (self.private, ring_algorithm(group)) {
            (Private::Modp(exponent), _) => exponent.agree(peer_public).ok_or(invalid),
            (Private::Kem(key), _) => key.decapsulate(peer_public).ok_or(invalid),
            (Private::P521(private), _) => {
                let peer = p521::PublicKey::from_sec1_bytes(&with_format()).map_err(|_| invalid)?;
                let shared = p521::ecdh::diffie_hellman(private.to_nonzero_scalar(), peer.as_affine());
                Ok(Secret::from(shared.raw_secret_bytes().as_slice()))
            }
            (Private::Ring(private), Some(algorithm)) => {
                let peer = UnparsedPublicKey::new(algorithm, with_format());
                agreement::agree_ephemeral(private, &peer, |shared| Secret::from(shared)).map_err(|_| invalid)
            }
            (Private::Ring(_), None) => Err(invalid),
        }
    }
}

fn check_length(group: DhGroup, got: usize, want: usize) -> Result<(), DhError> {
    if got == want { Ok(()) } else { Err(DhError::Length { group, got, want }) }
}

const fn is_ecp(group: DhGroup) -> bool {
    matches!(group, DhGroup::Ecp256 | DhGroup::Ecp384 | DhGroup::Ecp521)
}

/// SEC 1 writes points as 0x04 | x | y; RFC 5903 7 leaves the 0x04 away.
fn without_format(group: DhGroup, public: &[u8]) -> Vec<u8> {
    public.get(usize::from(is_ecp(group))..).unwrap_or_default().to_vec()
}

fn ring_algorithm(group: DhGroup) -> Option<&'static agreement::Algorithm> {
    match group {
        DhGroup::Ecp256 => Some(&ECDH_P256),
        DhGroup::Ecp384 => Some(&ECDH_P384),
        DhGroup::Curve25519 => Some(&X25519),
        _ => None,
    }
}

/// A scalar in 1..n, drawn again while it is not. `None` from a source that never gives one.
fn p521_key(random: &mut dyn Random) -> Option<p521::SecretKey> {
    (0..64).find_map(|_| {
        let mut bytes = Zeroizing::new([0; 66]);
        random.fill(bytes.as_mut());
        // 521 bits: of the first byte only the lowest.
        bytes[0] &= 1;
        p521::SecretKey::from_slice(bytes.as_ref()).ok()
    })
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;

    fn pair(group: DhGroup) -> KeyPair {
        KeyPair::generate(group, &mut SystemRandom::new()).unwrap()
    }

    fn respond(group: DhGroup, public: &[u8]) -> Result<(Vec<u8>, SharedSecret), DhError> {
        KeyPair::respond(group, public, &mut SystemRandom::new())
    }

    #[test]
    fn both_sides_agree_in_every_group() {
        for group in DhGroup::ALL {
            let a = pair(group);
            assert_eq!(a.public().len(), group.public_len());
            assert_ne!(a.public(), pair(group).public());
            let (answer, ba) = respond(group, a.public()).unwrap();
            assert_eq!(answer.len(), group.response_len());
            let ab = a.agree(&answer).unwrap();
            assert_eq!(ab, ba, "{group}");
            // RFC 5903 7: the x coordinate alone. RFC 8031: 32 bytes. RFC 7296 2.14: MODP with zeros.
            let want = match group {
                DhGroup::Ecp256 | DhGroup::Curve25519 => 32,
                DhGroup::Ecp384 => 48,
                DhGroup::Ecp521 => 66,
                group if group.is_kem() => 32,
                group => group.public_len(),
            };
            assert_eq!(ab.len(), want, "{group}");
        }
    }

    #[test]
    fn key_pairs_may_work_on_another_thread() {
        fn sendable<T: Send + 'static>(_: &T) {}
        for group in DhGroup::ALL {
            sendable(&pair(group));
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for group in DhGroup::ALL {
            let want = group.public_len();
            for got in [0, 1, want - 1, want + 1, 65, 97, 4096] {
                let error = respond(group, &vec![2; got]).unwrap_err();
                assert_eq!(error, DhError::Length { group, got, want });
            }
            let want = group.response_len();
            for got in [0, 1, want - 1, want + 1, 4096] {
                let error = pair(group).agree(&vec![2; got]).unwrap_err();
                assert_eq!(error, DhError::Length { group, got, want });
            }
        }
    }

    /// FIPS 203 6.3: a ciphertext that was changed gives another secret and no error.
    #[test]
    fn changed_ciphertexts_give_other_secrets() {
        for group in [DhGroup::MlKem512, DhGroup::MlKem768, DhGroup::MlKem1024] {
            let a = pair(group);
            let (mut answer, ba) = respond(group, a.public()).unwrap();
            answer[7] ^= 1;
            assert_ne!(a.agree(&answer).unwrap(), ba, "{group}");
            // FIPS 203 7.2: coefficients that are not reduced.
            let unreduced = respond(group, &vec![0xff; group.public_len()]);
            assert_eq!(unreduced.unwrap_err(), DhError::Invalid(group));
        }
    }

    #[test]
    fn points_off_the_curve_are_refused() {
        for group in [DhGroup::Ecp256, DhGroup::Ecp384, DhGroup::Ecp521] {
            let invalid = Err(DhError::Invalid(group));
            let mut point = pair(group).public().to_vec();
            *point.last_mut().unwrap() ^= 1;
            assert_eq!(pair(group).agree(&point), invalid);
            for fill in [0, 1, 0xff] {
                assert_eq!(pair(group).agree(&vec![fill; group.public_len()]), invalid);
            }
        }
    }

    /// The points of small order (RFC 7748 6.1): ring must refuse the all-zero result of each.
    #[test]
    fn small_order_points_are_refused() {
        let points = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in points {
            let agreed = pair(DhGroup::Curve25519).agree(&hex::decode(point).unwrap());
            assert_eq!(agreed, Err(DhError::Invalid(DhGroup::Curve25519)), "{point}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", pair(DhGroup::Curve25519)), "KeyPair(curve25519)");
    }
}
