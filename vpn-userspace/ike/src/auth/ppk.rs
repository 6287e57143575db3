//! Post-quantum pre-shared keys (RFC 8784): a secret beside the authentication that protects recorded traffic from
//! whoever can break the key exchange later.

use culvert_crypto::Secret;

use super::Psk;

/// A post-quantum pre-shared key and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ppk {
    /// What the initiator calls it on the wire, in clear but for the IKE SA's protection.
    pub id: String,
    /// The key: 32 random bytes or more (RFC 8784 6).
    pub secret: Psk,
    /// Refuse peers that do not use it; otherwise they are served without.
    pub required: bool,
}

/// PPK_ID_FIXED (RFC 8784 5.1): the identity as both sides have it configured.
const FIXED: u8 = 2;

impl Ppk {
    /// The data of PPK_IDENTITY.
    pub(crate) fn identity(&self) -> Vec<u8> {
        let mut data = vec![FIXED];
        data.extend_from_slice(self.id.as_bytes());
        data
    }

    /// Whether the data of a PPK_IDENTITY means this key.
    pub(crate) fn is(&self, data: &[u8]) -> bool {
        matches!(data, [FIXED, id @ ..] if id == self.id.as_bytes())
    }

    pub(crate) fn secret(&self) -> &Secret {
        self.secret.as_secret()
    }
}
