//! Authentication methods of phase 1 (RFC 2409 appendix A, draft-beaulieu-ike-xauth-02 7.2,
//! draft-ietf-ipsec-isakmp-hybrid-auth-05 3.2).

use culvert_crypto::sign::KeyKind;

use crate::config::Xauth;
use crate::{LocalAuth, PeerConfig, RemoteAuth};

/// How one side proves its identity in phase 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// By the pre-shared key that is in SKEYID.
    Psk,
    /// By an RSA signature of its hash.
    Rsa,
    /// Not at all: a user's name and password follow (hybrid).
    Nothing,
}

/// Which side is asked for a user's name and password after phase 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Initiator,
    Responder,
}

/// One method: who proves what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// Its number on the wire.
    pub(crate) code: u16,
    initiator: How,
    responder: How,
    asked: Option<Asked>,
}

const fn method(code: u16, initiator: How, responder: How, asked: Option<Asked>) -> Method {
    Method { code, initiator, responder, asked }
}

const ALL: [Method; 8] = [
    method(1, How::Psk, How::Psk, None),
    method(3, How::Rsa, How::Rsa, None),
    method(64221, How::Nothing, How::Rsa, Some(Asked::Initiator)),
    method(64222, How::Rsa, How::Nothing, Some(Asked::Responder)),
    method(65001, How::Psk, How::Psk, Some(Asked::Initiator)),
    method(65002, How::Psk, How::Psk, Some(Asked::Responder)),
    method(65005, How::Rsa, How::Rsa, Some(Asked::Initiator)),
    method(65006, How::Rsa, How::Rsa, Some(Asked::Responder)),
];

impl Method {
    /// The method with this number, if we have it.
    pub(crate) fn of(code: u16) -> Option<Self> {
        ALL.into_iter().find(|m| m.code == code)
    }

    /// How a side proves its identity.
    pub(crate) fn how(self, initiator: bool) -> How {
        if initiator { self.initiator } else { self.responder }
    }

    /// Whether the pre-shared key is in the keys of phase 1.
    pub(crate) fn by_psk(self) -> bool {
        self.initiator == How::Psk
    }
}

fn of_key(kind: KeyKind) -> Option<How> {
    match kind {
        KeyKind::Rsa(_) => Some(How::Rsa),
        // RFC 4754 has methods for ECDSA, which nobody has tried here with a peer.
        _ => None,
    }
}

/// How we and the peer of a tunnel prove ourselves; `None`: IKEv1 cannot say it.
fn ways(config: &PeerConfig) -> Option<(How, How)> {
    let own = |signer: &crate::Signer| of_key(signer.key.kind());
    match (&config.auth.local, &config.auth.remote) {
        (LocalAuth::Psk(_), RemoteAuth::Psk(_)) => Some((How::Psk, How::Psk)),
        // One method for both: the peer's key is of our key's kind.
        (LocalAuth::Signature(signer), RemoteAuth::Certificate(_)) => own(signer).map(|how| (how, how)),
        (LocalAuth::User, RemoteAuth::Certificate(_)) => Some((How::Nothing, How::Rsa)),
        (LocalAuth::Signature(signer), RemoteAuth::User) => own(signer).map(|how| (how, How::Nothing)),
        _ => None,
    }
}

fn find(config: &PeerConfig, initiator: bool) -> Option<Method> {
    let (ours, theirs) = ways(config)?;
    let (first, second) = if initiator { (ours, theirs) } else { (theirs, ours) };
    let asked = config.v1.as_ref()?.xauth.as_ref().map(|xauth| match (xauth, initiator) {
        (Xauth::Client(_), true) | (Xauth::Server(_), false) => Asked::Initiator,
        (Xauth::Client(_), false) | (Xauth::Server(_), true) => Asked::Responder,
    });
    ALL.into_iter().find(|m| (m.initiator, m.responder, m.asked) == (first, second, asked))
}

/// What we offer for a tunnel; `None`: IKEv1 has no method for how it authenticates.
pub(crate) fn offered(config: &PeerConfig) -> Option<Method> {
    find(config, true)
}

/// What we take from the peer of a tunnel, by number.
pub(crate) fn accepted(config: &PeerConfig) -> Option<u16> {
    find(config, false).map(|m| m.code)
}

/// Whether a user's name and password follow phase 1.
pub(crate) fn uses_xauth(config: &PeerConfig) -> bool {
    config.v1.as_ref().is_some_and(|v1| v1.xauth.is_some())
}

/// Whether they do by this method.
pub(crate) fn is_xauth(code: u16) -> bool {
    Method::of(code).is_some_and(|m| m.asked.is_some())
}
