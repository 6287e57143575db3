//! Pre-shared keys and the AUTH payload that proves one (RFC 7296 2.15).

use std::fmt;

use culvert_crypto::{Prf, Secret, equal};

use super::SignedOctets;

/// A pre-shared key. Zeroized when dropped, redacted in `Debug`; compares in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Secret);

/// A pre-shared key that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PskError {
    /// There is nothing in it.
    #[error("the pre-shared key is empty; write one of 16 or more random characters")]
    Empty,
}

impl Psk {
    /// The key's bytes as they are: no trimming, no decoding.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PskError> {
        let secret = Secret::new(bytes.into());
        if secret.is_empty() { Err(PskError::Empty) } else { Ok(Self(secret)) }
    }

    /// Its bytes, for whoever needs the secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key as IKEv1's PRF takes it.
    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }
}

impl Psk {
    pub(super) fn as_secret(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(redacted)")
    }
}

/// AUTH method 2: shared key message integrity code (RFC 7296 3.8).
pub(crate) const METHOD: u8 = 2;

/// AUTH = prf(prf(PSK, "Key Pad for IKEv2"), message | nonce | prf(SK_p, RestOfID)).
pub(crate) fn sign(prf: Prf, psk: &Psk, octets: &SignedOctets<'_>) -> Secret {
    let key = prf.compute(&psk.0, &[b"Key Pad for IKEv2"]);
    prf.compute(&key, &[octets.message, octets.peer_nonce, &octets.maced_id(prf), octets.int_auth])
}

/// Whether `auth` is what the holder of the key would have sent.
pub(crate) fn verify(prf: Prf, psk: &Psk, octets: &SignedOctets<'_>, auth: &[u8]) -> bool {
    equal(&sign(prf, psk, octets), auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Id;

    #[test]
    fn only_the_same_key_and_octets_verify() {
        let psk = Psk::new("swordfish").unwrap();
        let id = Id { kind: 2, reserved: [0; 3], data: b"gw" };
        let octets =
            SignedOctets { message: b"message", peer_nonce: b"nonce", sk_p: b"skp", id, int_auth: &[] };
        for prf in Prf::ALL {
            let auth = sign(prf, &psk, &octets);
            assert_eq!(auth.len(), prf.output_len());
            assert!(verify(prf, &psk, &octets, &auth));
            assert!(!verify(prf, &Psk::new("swordfisi").unwrap(), &octets, &auth));
            assert!(!verify(prf, &psk, &SignedOctets { id: Id { kind: 3, ..id }, ..octets }, &auth));
            assert!(!verify(prf, &psk, &SignedOctets { message: b"messagf", ..octets }, &auth));
            assert!(!verify(prf, &psk, &SignedOctets { int_auth: &[0], ..octets }, &auth));
            assert!(!verify(prf, &psk, &octets, &auth[1..]));
        }
    }

    #[test]
    fn nothing_shows_the_key() {
        assert_eq!(format!("{:?}", Psk::new("swordfish").unwrap()), "Psk(redacted)");
        assert_eq!(Psk::new("").unwrap_err(), PskError::Empty);
    }
}
