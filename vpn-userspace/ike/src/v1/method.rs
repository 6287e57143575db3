//! Authentication methods of phase 1 (RFC 2409 appendix A; draft-beaulieu-ike-xauth 7.2, draft-ietf-ipsec-isakmp-hybrid-auth 3.2).

use crate::PeerConfig;

/// Pre-shared key.
pub(crate) const PSK: u16 = 1;

/// What we offer for a tunnel.
pub(crate) fn offered(_config: &PeerConfig) -> u16 {
    PSK
}

/// What we take from the peer of a tunnel.
pub(crate) fn accepted(_config: &PeerConfig) -> Vec<u16> {
    vec![PSK]
}

/// Whether a user's name and password follow phase 1.
pub(crate) fn uses_xauth(_config: &PeerConfig) -> bool {
    false
}
