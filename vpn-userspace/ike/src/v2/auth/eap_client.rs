//! IKE_AUTH as the initiator that proves itself by EAP (RFC 7296 2.16): the rounds after the responder's own proof.

use super::ppk::Offered;
use super::{AuthSent, Handshake, Message};
use crate::auth::{EapRun, EapStep, Psk, psk};
use crate::ctx::Ctx;
use crate::error::{Cause, Failure};
use crate::v2::Sa;
use crate::window::Retransmission;
use crate::wire::{Body, Chain, Exchange, Id, Payload, notify};
use crate::{Identity, LocalAuth};

/// Rounds of EAP that a server may ask for.
const MAX_ROUNDS: u32 = 100;

/// EAP under way, as client.
pub(super) struct Client {
    run: Box<dyn EapRun>,
    remote_id: Identity,
    /// The responder's ID payload, which it signs once more.
    id_r: (u8, [u8; 3], Vec<u8>),
    rounds: u32,
    /// The master session key, once EAP has succeeded.
    msk: Option<Psk>,
}

impl AuthSent {
    /// The responder has proven itself, and asks us to do the same by EAP. `None`: there is nothing for EAP to do.
    pub(super) fn begin_eap(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>, remote_id: &Identity) -> bool {
        let LocalAuth::Eap(eap) = &self.config.auth.local else { return false };
        let Some(id) = body.id_r() else { return false };
        let (run, _) = eap.begin(ctx.random);
        let id_r = (id.kind, id.reserved, id.data.to_vec());
        self.eap = Some(Client { run, remote_id: remote_id.clone(), id_r, rounds: 0, msk: None });
        true
    }

    /// An answer of the responder while EAP is under way.
    pub(super) fn on_eap(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: &Message) -> Option<Sa> {
        let step = match message.opened.body() {
            Ok(body) => self.step_eap(ctx, &body),
            Err(e) => Err((e.into(), true)),
        };
        match step {
            Ok(None) => {
                let remote_id = self.eap.take()?.remote_id;
                Some(self.establish(ctx, message, remote_id))
            }
            Ok(Some(chain)) => {
                let header = self.handshake.header(true, false, Exchange::Auth, self.window.next_id());
                let request = self.handshake.protection.seal(&header, &chain);
                self.window.sent(request.clone(), Retransmission::new(ctx.now, &ctx.config.retransmit, None));
                ctx.send(&self.handshake.path, request);
                Some(Sa::AuthSent(self))
            }
            Err((cause, tell)) => {
                self.abandon(ctx, cause, tell);
                None
            }
        }
    }

    /// The next request, or `None` when the responder has proven that it has the same key.
    fn step_eap(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Result<Option<Chain>, (Cause, bool)> {
        let Some(eap) = &mut self.eap else { return Err((Cause::Eap, true)) };
        let prf = self.handshake.suite.prf;
        if let Some(msk) = &eap.msk {
            let Some((method, auth)) = body.auth() else {
                return Err(match body.error() {
                    Some(n) if n.kind == notify::AUTHENTICATION_FAILED => {
                        (self.config.auth.local.refused(), false)
                    }
                    Some(n) => (Cause::Refused(n.kind), false),
                    None => (Cause::MissingPayload("AUTH"), true),
                });
            };
            if let Some(offered) = self.ppk.take() {
                offered.settle(&mut self.handshake, body).map_err(|cause| (cause, true))?;
            }
            let (kind, reserved, data) = &eap.id_r;
            let octets = self.handshake.responder_octets(Id { kind: *kind, reserved: *reserved, data });
            let good = method == psk::METHOD && psk::verify(prf, msk, &octets, auth);
            return if good { Ok(None) } else { Err((Cause::EapKey, true)) };
        }
        let Some(message) = body.eap() else {
            return Err(match body.error() {
                Some(n) if n.kind == notify::AUTHENTICATION_FAILED => {
                    (self.config.auth.local.refused(), false)
                }
                Some(n) => (Cause::Refused(n.kind), false),
                None => (Cause::MissingPayload("EAP"), true),
            });
        };
        eap.rounds += 1;
        if eap.rounds > MAX_ROUNDS {
            return Err((Failure::of_eap("the server never comes to an end"), true));
        }
        let mut chain = Chain::new();
        match eap.run.handle(message, ctx.random) {
            EapStep::Send(response) | EapStep::Refuse(response, _) => {
                chain.push(&Payload::Eap(&response));
            }
            EapStep::Ask(_) => return Err((Failure::of_eap("a client asks nobody"), true)),
            EapStep::Success(_, msk) => {
                let msk = Psk::new(msk.to_vec()).map_err(|_| (Cause::EapKey, true))?;
                let (kind, data) = self.config.local_id.to_wire();
                let id = Id { kind, reserved: [0; 3], data: &data };
                let sign = |handshake: &Handshake| psk::sign(prf, &msk, &handshake.initiator_octets(id));
                let plain = sign(&self.handshake);
                // RFC 8784 3: with EAP the PPK is named, and used, in the last round; the responder's first AUTH goes
                // without.
                self.ppk =
                    Offered::start(&mut self.handshake, &self.config).map_err(|cause| (cause, true))?;
                let auth = sign(&self.handshake);
                chain.push(&Payload::Auth { method: psk::METHOD, data: &auth });
                if let (Some(offered), Some(ppk)) = (&self.ppk, &self.config.exchange.ppk) {
                    Offered::write(&mut chain, ppk, offered.optional().then_some(&plain[..]));
                }
                eap.msk = Some(msk);
            }
            // RFC 7296 2.16: after an EAP-Failure of the responder there is nothing to tell it.
            EapStep::Failure(_, why) => {
                return Err((Cause::EapFailed(Box::new(why)), message.first() != Some(&4)));
            }
        }
        Ok(Some(chain))
    }
}
