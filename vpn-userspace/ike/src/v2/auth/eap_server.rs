//! IKE_AUTH as the responder whose peer proves itself by EAP (RFC 7296 2.16): our proof first, then the rounds.

use std::sync::Arc;

use culvert_types::TunnelId;

use super::responder::Proven;
use super::{HalfOpen, Message};
use crate::auth::{EapRun, EapStep, Psk, RemoteAuth, psk};
use crate::ctx::Ctx;
use crate::error::Cause;
use crate::v2::Sa;
use crate::v2::closed::Closed;
use crate::wire::{Chain, Id, Notify, Payload, notify};
use crate::{Identity, PeerConfig};

/// Rounds of EAP that a client may ask for.
const MAX_ROUNDS: u32 = 100;

/// EAP under way, as server.
pub(super) struct Server {
    tunnel: TunnelId,
    config: Arc<PeerConfig>,
    remote_id: Identity,
    run: Box<dyn EapRun>,
    /// The peer's first request: its identity, and what it asks for.
    first: Message,
    rounds: u32,
    /// Why it failed has been reported.
    told: bool,
    /// The master session key, once EAP has succeeded.
    msk: Option<Psk>,
}

impl HalfOpen {
    /// The peer, whose identity fits the tunnel, is to prove it by EAP; we prove ours at once.
    pub(super) fn begin_eap(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        first: Message,
        (tunnel, config, remote_id): (TunnelId, Arc<PeerConfig>, Identity),
    ) -> Sa {
        let RemoteAuth::Eap(eap) = &config.auth.remote else { return Sa::HalfOpen(self) };
        let (run, request) = eap.begin(ctx.random);
        let (kind, data) = config.local_id.to_wire();
        let id = Id { kind, reserved: [0; 3], data: &data };
        let (prf, octets) = (self.handshake.suite.prf, self.handshake.responder_octets(id));
        let proof = match config.auth.local.prove(prf, &octets, &self.handshake.peer_hashes, ctx.random) {
            Ok(proof) => proof,
            Err(cause) => {
                let failure = self.failure(&first, Some((tunnel, &*config)), cause);
                return self.reject(ctx, &first, failure);
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::IdR(id));
        if let Some(signer) = config.auth.local.as_signer() {
            signer.write_certificates(&mut chain);
        }
        chain.push(&Payload::Auth { method: proof.method, data: &proof.data });
        chain.push(&Payload::Eap(&request.unwrap_or_default()));
        self.answer(ctx, &first, &chain);
        // People type passwords: as long again, but no longer.
        self.expires = ctx.now + ctx.config.half_open_lifetime;
        self.eap = Some(Server { tunnel, config, remote_id, run, first, rounds: 0, told: false, msk: None });
        Sa::HalfOpen(self)
    }

    /// A request of the peer while EAP is under way.
    pub(super) fn on_eap(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: &Message) -> Sa {
        let Some(mut eap) = self.eap.take() else { return Sa::HalfOpen(self) };
        let body = match message.opened.body() {
            Ok(body) => body,
            Err(e) => return self.fail_eap(ctx, message, &eap, None, e.into()),
        };
        if let Some(msk) = &eap.msk {
            let Some((method, auth)) = body.auth() else {
                return self.fail_eap(ctx, message, &eap, None, Cause::MissingPayload("AUTH"));
            };
            let prf = self.handshake.suite.prf;
            let good = eap.first.opened.body().ok().and_then(|first| first.id_i()).is_some_and(|id| {
                method == psk::METHOD && psk::verify(prf, msk, &self.handshake.initiator_octets(id), auth)
            });
            if !good {
                return self.fail_eap(ctx, message, &eap, None, Cause::EapKey);
            }
            let Server { tunnel, config, remote_id, first, msk, .. } = eap;
            let proven = Proven { tunnel, config, remote_id, ppk: false };
            return self.establish(ctx, message, Some((&first, msk.as_ref())), proven);
        }
        let Some(request) = body.eap() else {
            return self.fail_eap(ctx, message, &eap, None, Cause::MissingPayload("EAP"));
        };
        eap.rounds += 1;
        let step = if eap.rounds > MAX_ROUNDS {
            EapStep::Failure(Vec::new(), "the client never comes to an end".to_owned())
        } else {
            eap.run.handle(request, ctx.random)
        };
        let answer = match step {
            EapStep::Send(answer) => answer,
            EapStep::Refuse(answer, why) => {
                if !std::mem::replace(&mut eap.told, true) {
                    let cause = Cause::EapFailed(why);
                    ctx.stranger_failed(self.failure(message, Some((eap.tunnel, &*eap.config)), cause));
                }
                answer
            }
            EapStep::Success(answer, msk) => match Psk::new(msk.to_vec()) {
                Ok(msk) => {
                    eap.msk = Some(msk);
                    answer
                }
                Err(_) => return self.fail_eap(ctx, message, &eap, None, Cause::EapKey),
            },
            EapStep::Failure(answer, why) => {
                return self.fail_eap(ctx, message, &eap, Some(answer), Cause::EapFailed(why));
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::Eap(&answer));
        self.answer(ctx, message, &chain);
        self.eap = Some(eap);
        Sa::HalfOpen(self)
    }

    /// RFC 7296 2.16: with EAP-Failure where the method says so, and that is all.
    fn fail_eap(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: &Message,
        eap: &Server,
        told: Option<Vec<u8>>,
        cause: Cause,
    ) -> Sa {
        let failure = self.failure(message, Some((eap.tunnel, &*eap.config)), cause);
        let Some(told) = told else { return self.reject(ctx, message, failure) };
        if !eap.told {
            ctx.stranger_failed(failure);
        }
        let mut chain = Chain::new();
        if !told.is_empty() {
            chain.push(&Payload::Eap(&told));
        }
        chain.push(&Payload::Notify(Notify::new(notify::AUTHENTICATION_FAILED, &[])));
        self.answer(ctx, message, &chain);
        Closed::remember(ctx.now, self.handshake.spi_i, false, self.window)
    }
}
