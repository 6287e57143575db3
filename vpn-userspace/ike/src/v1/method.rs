//! Authentication methods of phase 1 (RFC 2409 appendix A, draft-beaulieu-ike-xauth-02 7.2).

use crate::PeerConfig;
use crate::config::Xauth;

/// Pre-shared key.
const PSK: u16 = 1;
/// The same, and then the initiator is asked for a user's name and password.
const XAUTH_INIT_PSK: u16 = 65001;
/// The same, and then the responder is.
const XAUTH_RESP_PSK: u16 = 65002;

fn xauth(config: &PeerConfig) -> Option<&Xauth> {
    config.v1.as_ref()?.xauth.as_ref()
}

/// What we offer for a tunnel.
pub(crate) fn offered(config: &PeerConfig) -> u16 {
    match xauth(config) {
        None => PSK,
        Some(Xauth::Client(_)) => XAUTH_INIT_PSK,
        Some(Xauth::Server(_)) => XAUTH_RESP_PSK,
    }
}

/// What we take from the peer of a tunnel.
pub(crate) fn accepted(config: &PeerConfig) -> [u16; 1] {
    match xauth(config) {
        None => [PSK],
        Some(Xauth::Client(_)) => [XAUTH_RESP_PSK],
        Some(Xauth::Server(_)) => [XAUTH_INIT_PSK],
    }
}

/// Whether a user's name and password follow phase 1.
pub(crate) fn uses_xauth(config: &PeerConfig) -> bool {
    xauth(config).is_some()
}

/// Whether they do by this method.
pub(crate) fn is_xauth(method: u16) -> bool {
    matches!(method, XAUTH_INIT_PSK | XAUTH_RESP_PSK)
}
