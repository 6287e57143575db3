//! How peers prove who they are.

pub(crate) mod eap;
pub(crate) mod int_auth;
mod ppk;
pub(crate) mod psk;
pub(crate) mod signature;
pub(crate) mod signing;

use std::fmt;

use culvert_crypto::{Prf, Secret};

use crate::Identity;
use crate::error::Cause;
use crate::wire::Id;
pub use eap::{Eap, EapFault, EapMethod, EapNote, EapRun, EapStep};
pub use ppk::Ppk;
pub use psk::{Psk, PskError};
pub use signature::{MAX_CERTIFICATES, MAX_CHAIN, Signer, Trust};
use signing::Make;

/// How both sides of a tunnel prove who they are. The two need not be of a kind (RFC 7296 2.15).
#[derive(Debug, Clone)]
pub struct Auth {
    /// What we prove our identity with.
    pub local: LocalAuth,
    /// What the peer must prove its identity with.
    pub remote: RemoteAuth,
}

/// What we prove our identity with.
#[derive(Debug, Clone)]
pub enum LocalAuth {
    /// The key that the peer has as well.
    Psk(Psk),
    /// A private key and the certificates of its public half.
    Signature(Signer),
    /// EAP, as client, once the peer has proven itself (RFC 7296 2.16).
    Eap(Eap),
    /// IKEv1 only: nothing but the user of [`Xauth`](crate::Xauth), once the peer has proven itself (hybrid).
    User,
}

/// What the peer must prove its identity with.
#[derive(Debug, Clone)]
pub enum RemoteAuth {
    /// The key that we have as well.
    Psk(Psk),
    /// A signature, by a key whose certificate the endpoint's owner trusts.
    Certificate(Trust),
    /// EAP, as server, once we have proven ourselves (RFC 7296 2.16).
    Eap(Eap),
    /// IKEv1 only: nothing but the user of [`Xauth`](crate::Xauth), once we have proven ourselves (hybrid).
    User,
}

impl Auth {
    /// One key for both sides.
    pub fn psk(psk: Psk) -> Self {
        Self { local: LocalAuth::Psk(psk.clone()), remote: RemoteAuth::Psk(psk) }
    }
}

impl LocalAuth {
    /// The pre-shared key, where that is the way.
    pub fn as_psk(&self) -> Option<&Psk> {
        match self {
            Self::Psk(psk) => Some(psk),
            Self::Signature(_) | Self::Eap(_) | Self::User => None,
        }
    }

    /// The private key with its certificates, where that is the way.
    pub fn as_signer(&self) -> Option<&Signer> {
        match self {
            Self::Signature(signer) => Some(signer),
            Self::Psk(_) | Self::Eap(_) | Self::User => None,
        }
    }

    /// What it means that the peer answers AUTHENTICATION_FAILED.
    pub(crate) fn refused(&self) -> Cause {
        match self {
            Self::Psk(_) | Self::User => Cause::AuthenticationRefused,
            Self::Signature(_) => Cause::ProofRefused("certificate"),
            Self::Eap(_) => Cause::ProofRefused("way to authenticate (EAP)"),
        }
    }

    /// Who we say that we are, and by what, for people.
    pub(crate) fn describe(&self, local_id: &Identity) -> String {
        match self {
            Self::Signature(signer) if !signer.about.is_empty() => {
                format!("local id {local_id}, certificate {}", signer.about)
            }
            _ => format!("local id {local_id}"),
        }
    }

    /// The AUTH payload: method and data. `None`: a job is at work on it.
    pub(crate) fn prove(
        &self,
        prf: Prf,
        octets: &SignedOctets<'_>,
        peer_hashes: &[u16],
        make: &mut Make<'_>,
    ) -> Option<Result<Proof, Cause>> {
        match self {
            Self::Psk(key) => {
                Some(Ok(Proof { method: psk::METHOD, data: psk::sign(prf, key, octets).to_vec() }))
            }
            Self::Signature(signer) => signer.sign(prf, octets, peer_hashes, make),
            // There is a key for it only after EAP.
            Self::Eap(_) | Self::User => Some(Err(Cause::Eap)),
        }
    }
}

impl RemoteAuth {
    /// The pre-shared key, where that is the way.
    pub fn as_psk(&self) -> Option<&Psk> {
        match self {
            Self::Psk(psk) => Some(psk),
            Self::Certificate(_) | Self::Eap(_) | Self::User => None,
        }
    }

    /// What is trusted, where certificates are the way.
    pub fn as_trust(&self) -> Option<&Trust> {
        match self {
            Self::Certificate(trust) => Some(trust),
            Self::Psk(_) | Self::Eap(_) | Self::User => None,
        }
    }

    /// Whether a peer may prove itself by this method of AUTH (RFC 7296 3.8).
    pub(crate) fn takes(&self, method: u8) -> bool {
        match self {
            Self::Psk(_) => method == psk::METHOD,
            Self::Certificate(_) => signature::is_method(method),
            // An AUTH payload in the first request is no EAP.
            Self::Eap(_) | Self::User => false,
        }
    }
}

impl fmt::Display for RemoteAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Psk(_) => "pre-shared key",
            Self::Certificate(_) => "certificate",
            Self::Eap(eap) => eap.name(),
            Self::User => "user of XAuth",
        })
    }
}

/// An AUTH payload of ours.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) method: u8,
    pub(crate) data: Vec<u8>,
}

/// What a side signs: its first message as sent, the other side's nonce, and its own identity under
/// its SK_p (RFC 7296 2.15).
pub(crate) struct SignedOctets<'a> {
    pub(crate) message: &'a [u8],
    pub(crate) peer_nonce: &'a [u8],
    pub(crate) sk_p: &'a [u8],
    /// The body of its ID payload.
    pub(crate) id: Id<'a>,
    /// What stands for the IKE_INTERMEDIATE exchanges (RFC 9242 3.3.2); empty without any.
    pub(crate) int_auth: &'a [u8],
}

impl SignedOctets<'_> {
    /// MACedIDForX = prf(SK_px, RestOfIDPayload).
    fn maced_id(&self, prf: Prf) -> Secret {
        prf.compute(self.sk_p, &[&[self.id.kind], &self.id.reserved, self.id.data])
    }
}
