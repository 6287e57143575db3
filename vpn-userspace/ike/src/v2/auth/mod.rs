//! IKE_AUTH (RFC 7296 1.2, 2.15): identities, proofs and the first CHILD SA. `initiator` and `responder` are its two
//! roles. A message that waits for somebody's judgement is kept, and read again with the judgement at hand.

mod eap_client;
mod eap_server;
mod initiator;
mod intermediate;
mod ppk;
mod proving;
mod responder;

use std::time::{Duration, Instant};

use culvert_crypto::sign::PublicKey;

pub(crate) use initiator::AuthSent;
pub(crate) use intermediate::{Intermediate, announce, go_on};
pub(crate) use proving::Proving;
pub(crate) use responder::HalfOpen;

use super::mobike::Mobility;
use super::{Arrival, Message, Path};
use crate::auth::int_auth::IntAuth;
use crate::auth::{RemoteAuth, SignedOctets, psk, signature};
use crate::ctx::Ctx;
use crate::error::Cause;
use crate::keymat::{IkeKeys, Nonces};
use crate::protect::{OpenError, Protection};
use crate::window::{Incoming, Window};
use crate::wire::{Exchange, Flags, Header, Id};
use crate::{CertificateRefused, Identity, IkeSuite, Virtual};

/// How long the owner may take to judge a certificate.
const JUDGEMENT: Duration = Duration::from_secs(10);

/// What IKE_SA_INIT left: keys, and what AUTH signs.
pub(crate) struct Handshake {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) suite: IkeSuite,
    pub(crate) keys: IkeKeys,
    pub(crate) protection: Protection,
    pub(crate) ni: Vec<u8>,
    pub(crate) nr: Vec<u8>,
    /// Both messages as they were on the wire.
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    /// The peer's SIGNATURE_HASH_ALGORITHMS (RFC 7427 4).
    pub(crate) peer_hashes: Vec<u16>,
    /// What IKE_AUTH's configuration payload has brought.
    pub(crate) addresses: Virtual,
    /// Whether the addresses may change, once IKE_AUTH has said so.
    pub(crate) mobility: Option<Box<Mobility>>,
    /// Both sides use post-quantum pre-shared keys (RFC 8784).
    pub(crate) peer_ppk: bool,
    /// One is in the keys.
    pub(crate) ppk: bool,
    /// The peer takes an IKE_AUTH that makes no CHILD SA (RFC 6023 3).
    pub(crate) peer_childless: bool,
    /// What AUTH signs of the IKE_INTERMEDIATE exchanges.
    pub(crate) int_auth: IntAuth,
    pub(crate) path: Path,
    pub(crate) started: Instant,
}

impl Handshake {
    fn nonces(&self) -> Nonces<'_> {
        Nonces { initiator: &self.ni, responder: &self.nr }
    }

    /// InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI.
    fn initiator_octets<'a>(&'a self, id: Id<'a>) -> SignedOctets<'a> {
        self.initiator_octets_with(&self.keys.sk_pi, id)
    }

    /// The same with another SK_pi.
    fn initiator_octets_with<'a>(&'a self, sk_p: &'a [u8], id: Id<'a>) -> SignedOctets<'a> {
        SignedOctets {
            message: &self.request,
            peer_nonce: &self.nr,
            sk_p,
            id,
            int_auth: self.int_auth.octets(),
        }
    }

    /// ResponderSignedOctets = RealMessage2 | NonceIData | MACedIDForR.
    fn responder_octets<'a>(&'a self, id: Id<'a>) -> SignedOctets<'a> {
        let int_auth = self.int_auth.octets();
        SignedOctets { message: &self.response, peer_nonce: &self.ni, sk_p: &self.keys.sk_pr, id, int_auth }
    }

    fn header(&self, initiator: bool, response: bool, exchange: Exchange, message_id: u32) -> Header {
        let flags = Flags { initiator, response };
        Header { spi_i: self.spi_i, spi_r: self.spi_r, next: 0, exchange, flags, message_id }
    }

    fn open(&mut self, arrival: &Arrival<'_>) -> Result<Message, OpenError> {
        let Arrival { local, remote, header, bytes } = *arrival;
        let opened = self.protection.open(bytes)?;
        Ok(Message { local, remote, header, opened })
    }
}

/// What the owner said of a certificate.
pub(crate) type Verdict = Result<PublicKey, CertificateRefused>;

/// Whether a peer's AUTH proves what a tunnel asks for. `None`: that takes a verdict on its certificate.
fn proves(
    remote: &RemoteAuth,
    handshake: &Handshake,
    octets: &SignedOctets<'_>,
    (method, data): (u8, &[u8]),
    identity: &Identity,
    verdict: Option<&Verdict>,
) -> Option<Result<(), Cause>> {
    let prf = handshake.suite.prf;
    if !remote.takes(method) {
        return Some(Err(Cause::AuthMethod { got: method, expected: remote.to_string() }));
    }
    Some(match (remote, verdict) {
        (RemoteAuth::Psk(key), _) if psk::verify(prf, key, octets, data) => Ok(()),
        (RemoteAuth::Psk(_), _) => Err(Cause::WrongPsk(identity.clone())),
        (RemoteAuth::Eap(eap), _) => Err(Cause::AuthMethod { got: method, expected: eap.name().to_owned() }),
        (RemoteAuth::User, _) => Err(Cause::Eap),
        (RemoteAuth::Certificate(_), None) => return None,
        (RemoteAuth::Certificate(_), Some(Err(refused))) => {
            Err(Cause::Certificate { identity: identity.clone(), refused: Box::new(refused.clone()) })
        }
        (RemoteAuth::Certificate(trust), Some(Ok(key))) => {
            signature::verify(prf, trust, key, octets, (method, data))
        }
    })
}

/// A repeated request, answered again.
pub(crate) fn repeated(
    window: &Window,
    protection: &Protection,
    ctx: &mut Ctx<'_>,
    arrival: &Arrival<'_>,
) -> bool {
    match window.incoming(arrival.header.message_id, arrival.bytes) {
        Incoming::Repeated(response) => {
            let response = response.clone();
            ctx.transmit(arrival.local, arrival.remote, response);
            true
        }
        // RFC 7383 2.6.1: only its first fragment has it answered again.
        Incoming::Altered(response) => {
            if protection.is_authentic(arrival.bytes) {
                ctx.transmit(arrival.local, arrival.remote, response.clone());
            }
            true
        }
        Incoming::Stale => true,
        Incoming::Next => false,
    }
}
