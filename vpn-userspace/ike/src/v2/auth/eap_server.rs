//! IKE_AUTH as the responder whose peer proves itself by EAP (RFC 7296 2.16): our proof first, then the rounds.

use std::sync::Arc;

use culvert_types::TunnelId;

use super::ppk::{self, Reading};
use super::responder::Proven;
use super::{Arrival, HalfOpen, Message, repeated};
use crate::auth::{EapFault, EapNote, EapRun, EapStep, Psk, RemoteAuth, psk};
use crate::ctx::Ctx;
use crate::error::{Cause, Failure};
use crate::v2::Sa;
use crate::v2::closed::Closed;
use crate::wire::{Body, Chain, Exchange, Id, Notify, Payload, notify};
use crate::{CheckId, Event, Identity, PeerConfig};

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
    /// The request that waits for an answer of the owner's.
    asking: Option<Message>,
    /// Why it failed has been reported.
    told: bool,
    /// The master session key, once EAP has succeeded.
    msk: Option<Psk>,
}

impl Server {
    /// The owner has a question to answer first.
    pub(super) fn waits(&self) -> bool {
        self.asking.is_some()
    }
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
        let asks = |body: Body<'_>| body.notify(notify::EAP_ONLY_AUTHENTICATION).is_some();
        let eap_only = config.exchange.eap_only && first.opened.body().is_ok_and(asks);
        let mut chain = Chain::new();
        chain.push(&Payload::IdR(id));
        if !eap_only {
            let proof = match self.own_proof(ctx, &config, false).unwrap_or(Err(Cause::Unfinished)) {
                Ok(proof) => proof,
                Err(cause) => {
                    let failure = self.failure(&first, Some((tunnel, &*config)), cause);
                    return self.reject(ctx, &first, failure);
                }
            };
            if let Some(signer) = config.auth.local.as_signer() {
                signer.write_certificates(&mut chain);
            }
            chain.push(&Payload::Auth { method: proof.method, data: &proof.data });
        }
        chain.push(&Payload::Eap(&request.unwrap_or_default()));
        self.answer(ctx, &first, &chain);
        // People type passwords: as long again, but no longer.
        self.expires = ctx.now + ctx.config.half_open_lifetime;
        self.eap = Some(Server {
            tunnel,
            config,
            remote_id,
            run,
            first,
            rounds: 0,
            asking: None,
            told: false,
            msk: None,
        });
        Sa::HalfOpen(self)
    }

    /// A request of the peer while EAP is under way.
    pub(super) fn on_eap(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Sa {
        let Some(mut eap) = self.eap.take() else { return Sa::HalfOpen(self) };
        let body = match message.opened.body() {
            Ok(body) => body,
            Err(e) => return self.fail_eap(ctx, &message, &eap, None, e.into()),
        };
        if let Some(msk) = &eap.msk {
            let Some((method, auth)) = body.auth() else {
                return self.fail_eap(ctx, &message, &eap, None, Cause::MissingPayload("AUTH"));
            };
            let prf = self.handshake.suite.prf;
            // RFC 8784 3: with EAP the PPK is named in the last round.
            let (mixed, auth) = match ppk::read(&self.handshake, &eap.config, &body, auth) {
                Ok(Reading::Mixed(ppk)) => (Some(self.handshake.keys.with_ppk(prf, ppk.secret())), auth),
                Ok(Reading::Plain(auth)) => (None, auth),
                Err(cause) => return self.fail_eap(ctx, &message, &eap, None, cause),
            };
            let sk_pi = mixed.as_ref().map_or(&self.handshake.keys.sk_pi, |mixed| mixed.sk_pi());
            let good = eap.first.opened.body().ok().and_then(|first| first.id_i()).is_some_and(|id| {
                let octets = self.handshake.initiator_octets_with(sk_pi, id);
                method == psk::METHOD && psk::verify(prf, msk, &octets, auth)
            });
            if !good {
                return self.fail_eap(ctx, &message, &eap, None, Cause::EapKey);
            }
            let Server { tunnel, config, remote_id, first, msk, .. } = eap;
            let proven = Proven { tunnel, config, remote_id, ppk: mixed.is_some() };
            return self.establish(ctx, &message, Some((&first, msk.as_ref())), proven);
        }
        let Some(request) = body.eap() else {
            return self.fail_eap(ctx, &message, &eap, None, Cause::MissingPayload("EAP"));
        };
        eap.rounds += 1;
        let step = if eap.rounds > MAX_ROUNDS {
            EapStep::Failure(Vec::new(), EapFault::new("the client never comes to an end"))
        } else {
            eap.run.handle(request, ctx.random)
        };
        self.on_step(ctx, message, eap, step)
    }

    /// The client ends it, and says so (RFC 7296 2.21.2): it does not believe who we are, or did not come to an end with
    /// EAP.
    pub(super) fn on_farewell(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Sa {
        if repeated(&self.window, &self.handshake.protection, ctx, arrival) {
            return Sa::HalfOpen(self);
        }
        let Ok(message) = self.handshake.open(arrival) else { return Sa::HalfOpen(self) };
        let ends = |body: Body<'_>| {
            body.notify(notify::AUTHENTICATION_FAILED).is_some() || body.deletes().next().is_some()
        };
        if !message.opened.body().is_ok_and(ends) {
            return Sa::HalfOpen(self);
        }
        if let Some(eap) = self.eap.take().filter(|eap| !eap.told) {
            let of = Some((eap.tunnel, &*eap.config));
            let local = &eap.config.auth.local;
            // Before its first message of EAP it has seen nothing but our proof.
            let failure = if eap.rounds == 0 {
                let ours = local.describe(&eap.config.local_id);
                self.failure(&message, of, local.refused()).offered(ours, "")
            } else {
                self.failure(
                    &message,
                    of,
                    Failure::of_eap("the client gave up (AUTHENTICATION_FAILED); its log says why"),
                )
            };
            ctx.stranger_failed(failure);
        }
        let header = self.handshake.header(false, true, Exchange::Informational, message.header.message_id);
        let response = self.handshake.protection.seal(&header, &Chain::new());
        ctx.transmit(message.local, message.remote, response.clone());
        self.window.respond_to(message.opened.fingerprint(), response);
        Closed::remember(ctx.now, self.handshake.spi_i, false, self.window)
    }

    /// The owner's answer to the `number`th question.
    pub(crate) fn on_eap_answered(mut self: Box<Self>, ctx: &mut Ctx<'_>, number: u64, note: &EapNote) -> Sa {
        let Some(mut eap) = self.eap.take() else { return Sa::HalfOpen(self) };
        match eap.asking.take_if(|_| u64::from(eap.rounds) == number) {
            Some(message) => {
                let step = eap.run.answered(note, ctx.random);
                self.on_step(ctx, message, eap, step)
            }
            None => {
                self.eap = Some(eap);
                Sa::HalfOpen(self)
            }
        }
    }

    /// What the method wants done about a request.
    fn on_step(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: Message,
        mut eap: Server,
        step: EapStep,
    ) -> Sa {
        let answer = match step {
            EapStep::Send(answer) => answer,
            EapStep::Ask(note) => {
                let check = CheckId { sa: self.handshake.spi_r, number: u64::from(eap.rounds) };
                ctx.event(Event::EapAsk { check, remote: message.remote, note });
                eap.asking = Some(message);
                self.eap = Some(eap);
                return Sa::HalfOpen(self);
            }
            EapStep::Refuse(answer, why) => {
                if !std::mem::replace(&mut eap.told, true) {
                    let cause = Cause::EapFailed(Box::new(why));
                    ctx.stranger_failed(self.failure(&message, Some((eap.tunnel, &*eap.config)), cause));
                }
                answer
            }
            EapStep::Success(answer, msk) => match Psk::new(msk.to_vec()) {
                Ok(msk) => {
                    eap.msk = Some(msk);
                    answer
                }
                Err(_) => return self.fail_eap(ctx, &message, &eap, None, Cause::EapKey),
            },
            EapStep::Failure(answer, why) => {
                return self.fail_eap(ctx, &message, &eap, Some(answer), Cause::EapFailed(Box::new(why)));
            }
        };
        let mut chain = Chain::new();
        chain.push(&Payload::Eap(&answer));
        self.answer(ctx, &message, &chain);
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
