//! Our own proof, where it takes a job: the initiator that has not sent IKE_AUTH yet, and what the responder's answer
//! waits with.

use std::sync::Arc;
use std::time::Instant;

use culvert_types::TunnelId;

use super::responder::Proven;
use super::{AuthSent, HalfOpen, Handshake};
use crate::auth::signing::Signing;
use crate::auth::{Proof, SignedOctets};
use crate::ctx::Ctx;
use crate::error::{Cause, Failure, Phase};
use crate::job::Done;
use crate::v2::{Message, Sa};
use crate::window::Window;
use crate::wire::Id;
use crate::{Identity, PeerConfig};

/// The initiator, whose signature is being made.
pub(crate) struct Proving {
    pub(crate) tunnel: TunnelId,
    pub(super) config: Arc<PeerConfig>,
    pub(crate) handshake: Handshake,
    pub(super) window: Window,
    pub(super) beside: bool,
    pub(super) signing: Signing,
    /// When the job must have come back.
    pub(crate) patience: Instant,
}

impl Proving {
    pub(crate) fn on_job(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        number: u64,
        done: &mut Option<Done>,
    ) -> Option<Sa> {
        if !self.signing.on_job(number, done) || self.signing.waits() {
            return Some(Sa::Proving(self));
        }
        let Self { tunnel, config, handshake, window, beside, signing, .. } = *self;
        AuthSent::start(ctx, tunnel, config, handshake, window, beside, signing)
    }

    pub(crate) fn on_timeout(self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        if ctx.now < self.patience {
            return Some(Sa::Proving(self));
        }
        let cause = Cause::Unfinished;
        ctx.failed(Failure::new(Some(self.tunnel), &self.config.name, Phase::IkeAuth, cause));
        None
    }
}

/// A peer's request, while our own signature is being made.
pub(super) enum Unsigned {
    /// It has proven itself.
    Proven(Message, Proven),
    /// It is to prove itself by EAP.
    Eap(Message, TunnelId, Arc<PeerConfig>, Identity),
}

/// The proof of our identity over these octets, for the IKE SA `owner`.
pub(super) fn prove(
    ctx: &mut Ctx<'_>,
    config: &PeerConfig,
    (prf, hashes): (culvert_crypto::Prf, &[u16]),
    octets: &SignedOctets<'_>,
    owner: (u64, bool),
    signing: &mut Signing,
) -> Option<Result<Proof, Cause>> {
    let mut make = |key: &_, scheme, parts: &[&[u8]]| signing.sign(ctx, owner, key, scheme, parts);
    config.auth.local.prove(prf, octets, hashes, &mut make)
}

impl HalfOpen {
    /// Our own proof. `None`: a job is at work on it.
    pub(super) fn own_proof(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: &PeerConfig,
        proven: bool,
    ) -> Option<Result<Proof, Cause>> {
        let (kind, data) = config.local_id.to_wire();
        let handshake = &self.handshake;
        let octets = handshake.responder_octets(Id { kind, reserved: [0; 3], data: &data });
        let (prf, hashes) = (handshake.suite.prf, handshake.peer_hashes.as_slice());
        prove(ctx, config, (prf, hashes), &octets, (handshake.spi_r, proven), &mut self.signing)
    }

    /// Whether our own proof is there, with the tunnel's PPK in the keys or without; if not, a job has been asked for.
    pub(super) fn presign(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: &PeerConfig,
        (ppk, proven): (bool, bool),
    ) -> bool {
        let ppk = config.exchange.ppk.as_ref().filter(|_| ppk);
        let plain = ppk.map(|ppk| self.handshake.mix(ppk));
        let made = self.own_proof(ctx, config, proven).is_some();
        if let Some(plain) = plain {
            self.handshake.unmix(plain);
        }
        made
    }

    /// The peer has proven itself: we do, at once or when our signature is made.
    pub(super) fn prove_and_establish(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: Message,
        proven: Proven,
    ) -> Sa {
        if self.presign(ctx, &Arc::clone(&proven.config), (proven.ppk, true)) {
            return self.establish(ctx, &message, None, proven);
        }
        self.unsigned = Some(Unsigned::Proven(message, proven));
        Sa::HalfOpen(self)
    }

    /// The peer is to prove itself by EAP, after us.
    pub(super) fn prove_and_begin_eap(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: Message,
        (tunnel, config, identity): (TunnelId, Arc<PeerConfig>, Identity),
    ) -> Sa {
        if self.presign(ctx, &config, (false, false)) {
            return self.begin_eap(ctx, message, (tunnel, config, identity));
        }
        self.unsigned = Some(Unsigned::Eap(message, tunnel, config, identity));
        Sa::HalfOpen(self)
    }

    /// Our signature is made.
    pub(super) fn on_signature(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Sa {
        match self.unsigned.take() {
            Some(Unsigned::Proven(message, proven)) => self.prove_and_establish(ctx, message, proven),
            Some(Unsigned::Eap(message, tunnel, config, identity)) => {
                self.prove_and_begin_eap(ctx, message, (tunnel, config, identity))
            }
            None => Sa::HalfOpen(self),
        }
    }
}
