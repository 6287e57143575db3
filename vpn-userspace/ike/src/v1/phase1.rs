//! What main and aggressive mode share: cookies, public values, the last messages either way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::{Hash, Secret};
use culvert_types::TunnelId;

use super::keys::{Keys, Public};
use super::proposal::IkeChoice;
use super::vendor::Vendor;
use crate::ctx::{Ctx, Path, log};
use crate::error::{Cause, Failure, Phase};
use crate::window::{Due, Retransmission};
use crate::wire::v1::{
    Body, Chain, Exchange, Flags, HEADER_LEN, Header, Id, Notify, Payload, notify, protocol,
};
use crate::{Identity, PeerConfig};

/// The last message that came and the last that went: IKEv1 has no numbers to tell a repetition by.
#[derive(Default)]
pub(crate) struct Exchanged {
    heard: Option<Vec<u8>>,
    pub(crate) sent: Vec<u8>,
}

impl Exchanged {
    /// We spoke first.
    pub(crate) fn sent(message: Vec<u8>) -> Self {
        Self { heard: None, sent: message }
    }

    fn print(message: &[u8]) -> Vec<u8> {
        Hash::Sha256.digest(&[message])
    }

    /// Whether a message is the one before, again.
    pub(crate) fn is_repeated(&self, message: &[u8]) -> bool {
        self.heard.as_ref().is_some_and(|h| *h == Self::print(message))
    }

    pub(crate) fn heard(&mut self, message: &[u8]) {
        self.heard = Some(Self::print(message));
    }
}

/// A phase 1 in the making, in either role.
pub(crate) struct Opening {
    pub(crate) initiator: bool,
    pub(crate) aggressive: bool,
    pub(crate) cookie_i: u64,
    pub(crate) cookie_r: u64,
    pub(crate) started: Instant,
    pub(crate) path: Path,
    pub(crate) vendor: Vendor,
    /// SAi_b: the body of the initiator's SA payload, as it was on the wire.
    pub(crate) sa: Vec<u8>,
    pub(crate) ni: Vec<u8>,
    pub(crate) nr: Vec<u8>,
    pub(crate) gxi: Vec<u8>,
    pub(crate) gxr: Vec<u8>,
    pub(crate) exchanged: Exchanged,
}

impl Opening {
    pub(crate) fn public(&self) -> Public<'_> {
        Public {
            cookie_i: self.cookie_i,
            cookie_r: self.cookie_r,
            ni: &self.ni,
            nr: &self.nr,
            gxi: &self.gxi,
            gxr: &self.gxr,
        }
    }

    /// Our cookie: the endpoint knows this phase 1 by it.
    pub(crate) fn key(&self) -> u64 {
        if self.initiator { self.cookie_i } else { self.cookie_r }
    }

    pub(crate) fn header(&self) -> Header {
        let exchange = if self.aggressive { Exchange::Aggressive } else { Exchange::Main };
        let (cookie_i, cookie_r) = (self.cookie_i, self.cookie_r);
        Header { cookie_i, cookie_r, next: 0, exchange, flags: Flags::default(), message_id: 0 }
    }

    pub(crate) fn exchange(&self) -> Phase {
        if self.aggressive { Phase::AggressiveMode } else { Phase::MainMode }
    }

    /// Sends a message in the clear.
    pub(crate) fn send(&mut self, ctx: &mut Ctx<'_>, chain: &Chain) {
        let message = plain(&self.header(), chain);
        self.send_bytes(ctx, message);
    }

    /// Sends an encrypted message.
    pub(crate) fn send_sealed(&mut self, ctx: &mut Ctx<'_>, keys: &mut Keys, chain: &Chain) {
        let message = keys.seal_phase1(&self.header(), chain);
        self.send_bytes(ctx, message);
    }

    fn send_bytes(&mut self, ctx: &mut Ctx<'_>, message: Vec<u8>) {
        self.exchanged.sent = message;
        self.send_again(ctx);
    }

    /// Sends the last message again.
    pub(crate) fn send_again(&self, ctx: &mut Ctx<'_>) {
        super::fragment::send(ctx, &self.path, self.vendor.fragmentation, self.exchanged.sent.clone());
    }

    /// The proof of either side over its identity.
    pub(crate) fn proof(&self, keys: &Keys, id: &[u8], of_initiator: bool) -> Secret {
        keys.proof(&self.public(), &self.sa, id, of_initiator)
    }
}

/// A message without encryption.
pub(crate) fn plain(header: &Header, chain: &Chain) -> Vec<u8> {
    let length = HEADER_LEN + chain.bytes().len();
    let mut out = Header { next: chain.first(), ..*header }.encode(length).to_vec();
    out.extend_from_slice(chain.bytes());
    out
}

/// The body of our identification payload. RFC 2407 4.6.2: no protocol and no port.
pub(crate) fn id_body(identity: &Identity) -> Vec<u8> {
    let (kind, data) = identity.to_wire();
    Id { kind, protocol: 0, port: 0, data: &data }.to_bytes()
}

/// The identity in an identification payload.
pub(crate) fn read_id(id: Id<'_>) -> Result<Identity, Cause> {
    let id = crate::wire::Id { kind: id.kind, reserved: [0; 3], data: id.data };
    Identity::from_wire(id).map_err(Cause::from)
}

/// RFC 2407 4.6.3.3: we know no other SA with the peer.
pub(crate) fn initial_contact(chain: &mut Chain, opening: &Opening) {
    let spi = [opening.cookie_i.to_be_bytes(), opening.cookie_r.to_be_bytes()].concat();
    let (kind, protocol) = (notify::INITIAL_CONTACT, protocol::ISAKMP);
    chain.push(&Payload::Notify(Notify { protocol, spi: &spi, kind, data: &[] }));
}

/// An error to tell a peer in the clear, never in more bytes than came.
pub(crate) fn tell(
    ctx: &mut Ctx<'_>,
    local: SocketAddr,
    remote: SocketAddr,
    header: &Header,
    kind: u16,
    came: usize,
) {
    let mut chain = Chain::new();
    chain.push(&Payload::Notify(Notify { protocol: protocol::ISAKMP, spi: &[], kind, data: &[] }));
    let header = Header {
        exchange: Exchange::Informational,
        flags: Flags::default(),
        message_id: ctx.message_id(),
        ..*header
    };
    let bytes = plain(&header, &chain);
    if bytes.len() <= came {
        ctx.transmit(local, remote, bytes);
    }
}

/// The error that a message in the clear names. Nobody vouches for it: it only hastens the end, and explains it.
pub(crate) fn hinted(header: &Header, bytes: &[u8]) -> Option<u16> {
    if header.exchange != Exchange::Informational || header.flags.encrypted {
        return None;
    }
    let body = Body::parse(header.next, bytes.get(HEADER_LEN..)?, false).ok()?;
    body.notifies().map(|n| n.kind).find(|kind| *kind < notify::STATUS)
}

/// An initiator's patience: repetitions, and what a doubtful answer may have meant.
pub(crate) struct Patience {
    pub(crate) retransmission: Retransmission,
    doubt: Option<Cause>,
}

impl Patience {
    pub(crate) fn new(ctx: &Ctx<'_>) -> Self {
        Self { retransmission: Retransmission::new(ctx.now, &ctx.config.retransmit, None), doubt: None }
    }

    /// Something that may be a forgery says that it will not work: one repetition more, then we believe it.
    pub(crate) fn doubt(&mut self, ctx: &Ctx<'_>, cause: Cause) {
        if self.doubt.is_none() {
            self.doubt = Some(cause);
            let policy = crate::Retransmit { tries: 1, ..ctx.config.retransmit };
            self.retransmission = Retransmission::new(ctx.now, &policy, None);
        }
    }

    /// What is due; the end with its cause.
    pub(crate) fn on_timeout(
        &mut self,
        ctx: &mut Ctx<'_>,
        opening: &Opening,
        name: &str,
        silence: impl FnOnce(std::time::Duration) -> Cause,
    ) -> Result<(), Cause> {
        match self.retransmission.on_timeout(ctx.now) {
            Due::Nothing => {}
            Due::Again => {
                if self.retransmission.worrying() {
                    let remote = opening.path.remote;
                    log!(
                        warn,
                        name,
                        "no answer from {remote} in {} yet; to mend: see that the peer runs IKEv1 and that UDP {} passes both ways",
                        opening.exchange(),
                        remote.port()
                    );
                }
                log!(debug, name, "repeating a message of {} to {}", opening.exchange(), opening.path.remote);
                opening.send_again(ctx);
            }
            Due::GiveUp(after) => return Err(self.doubt.take().unwrap_or_else(|| silence(after))),
        }
        Ok(())
    }
}

/// Why phase 1 cannot go on, with what either side had.
pub(crate) struct Stop {
    pub(crate) cause: Cause,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self { cause, ours: String::new(), theirs: String::new() }
    }
}

impl Stop {
    pub(crate) fn with(cause: Cause, ours: String, theirs: String) -> Self {
        Self { cause, ours, theirs }
    }

    pub(crate) fn failure(self, tunnel: Option<TunnelId>, name: &str, phase: Phase) -> Failure {
        Failure::new(tunnel, name, phase, self.cause).offered(self.ours, self.theirs)
    }
}

/// What a finished phase 1 hands on.
pub(crate) struct Proven {
    pub(crate) tunnel: TunnelId,
    pub(crate) config: Arc<PeerConfig>,
    pub(crate) opening: Opening,
    pub(crate) choice: IkeChoice,
    pub(crate) keys: Keys,
    pub(crate) remote_id: Identity,
    /// It takes the place of another phase 1: no quick mode follows of itself.
    pub(crate) rekeys: bool,
    /// RFC 2407 4.6.3.3: the peer knows no other SA with us.
    pub(crate) initial_contact: bool,
}

/// Whether a peer that proved this identity is the one of a tunnel.
pub(crate) fn check_id(config: &PeerConfig, id: &Identity) -> Result<(), Stop> {
    match &config.remote_id {
        Some(expected) if !expected.matches(id) => {
            let (ours, theirs) = (expected.to_string(), id.to_string());
            let cause = Cause::WrongRemoteId { expected: expected.clone(), got: id.clone() };
            Err(Stop::with(cause, ours, theirs))
        }
        _ => Ok(()),
    }
}
