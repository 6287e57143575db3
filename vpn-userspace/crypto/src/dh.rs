//! Diffie-Hellman key pairs of every group, in the encoding of IKE's KE payload.

use std::fmt;

use ring::agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, X25519};

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

/// An ephemeral key pair, good for one exchange.
pub struct KeyPair {
    group: DhGroup,
    private: Private,
    public: Vec<u8>,
}

enum Private {
    Modp(Box<modp::Exponent>),
    Ring(EphemeralPrivateKey),
}

impl KeyPair {
    /// Makes a key pair. MODP exponents come from `random`; ring draws the others from the operating
    /// system, as it imports no private key. Takes well under a millisecond, MODP a few.
    pub fn generate(group: DhGroup, random: &mut dyn Random) -> Result<Self, DhError> {
        let Some(algorithm) = ring_algorithm(group) else {
            let exponent = modp::Exponent::generate(random);
            let public = exponent.public().to_vec();
            return Ok(Self { group, private: Private::Modp(Box::new(exponent)), public });
        };
        let rng = ring::rand::SystemRandom::new();
        let private = EphemeralPrivateKey::generate(algorithm, &rng).map_err(|_| DhError::Random(group))?;
        let public = private.compute_public_key().map_err(|_| DhError::Random(group))?;
        // ring writes points as SEC 1 does, 0x04 | x | y; RFC 5903 7 leaves the 0x04 away.
        let public = match group {
            DhGroup::Ecp256 | DhGroup::Ecp384 => public.as_ref().get(1..).unwrap_or_default().to_vec(),
            DhGroup::Curve25519 | DhGroup::Modp2048 => public.as_ref().to_vec(),
        };
        Ok(Self { group, private: Private::Ring(private), public })
    }

    /// The group.
    pub fn group(&self) -> DhGroup {
        self.group
    }

    /// The public value as the KE payload carries it, [`DhGroup::public_len`] bytes.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// g^ir. Refuses values out of range, points off the curve, and the all-zero result of a small-order
    /// Curve25519 point (RFC 8031 2, RFC 7748 6.1).
    pub fn agree(self, peer_public: &[u8]) -> Result<SharedSecret, DhError> {
        let group = self.group;
        let (got, want) = (peer_public.len(), group.public_len());
        if got != want {
            return Err(DhError::Length { group, got, want });
        }
        let invalid = DhError::Invalid(group);
        match (self.private, ring_algorithm(group)) {
            (Private::Modp(exponent), _) => exponent.agree(peer_public).ok_or(invalid),
            (Private::Ring(private), Some(algorithm)) => {
                let mut point = Vec::with_capacity(1 + want);
                if matches!(group, DhGroup::Ecp256 | DhGroup::Ecp384) {
                    point.push(4);
                }
                point.extend_from_slice(peer_public);
                let peer = UnparsedPublicKey::new(algorithm, &point);
                agreement::agree_ephemeral(private, &peer, |shared| Secret::from(shared)).map_err(|_| invalid)
            }
            (Private::Ring(_), None) => Err(invalid),
        }
    }
}

fn ring_algorithm(group: DhGroup) -> Option<&'static agreement::Algorithm> {
    match group {
        DhGroup::Modp2048 => None,
        DhGroup::Ecp256 => Some(&ECDH_P256),
        DhGroup::Ecp384 => Some(&ECDH_P384),
        DhGroup::Curve25519 => Some(&X25519),
    }
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

    #[test]
    fn both_sides_agree_in_every_group() {
        for group in DhGroup::ALL {
            let (a, b) = (pair(group), pair(group));
            assert_eq!(a.public().len(), group.public_len());
            assert_ne!(a.public(), b.public());
            let (ga, gb) = (a.public().to_vec(), b.public().to_vec());
            let (ab, ba) = (a.agree(&gb).unwrap(), b.agree(&ga).unwrap());
            assert_eq!(ab, ba, "{group}");
            // RFC 5903 7: the x coordinate alone. RFC 8031: 32 bytes. RFC 7296 2.14: MODP with zeros.
            let want = match group {
                DhGroup::Ecp256 | DhGroup::Curve25519 => 32,
                DhGroup::Ecp384 => 48,
                DhGroup::Modp2048 => 256,
            };
            assert_eq!(ab.len(), want, "{group}");
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for group in DhGroup::ALL {
            let want = group.public_len();
            for got in [0, 1, want - 1, want + 1, 65, 97, 4096] {
                let error = pair(group).agree(&vec![2; got]).unwrap_err();
                assert_eq!(error, DhError::Length { group, got, want });
            }
        }
    }

    #[test]
    fn points_off_the_curve_are_refused() {
        for group in [DhGroup::Ecp256, DhGroup::Ecp384] {
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
