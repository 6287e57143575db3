//! IKE_AUTH as responder: which tunnel the peer means, whether it proves its identity, and our own proof.

use std::sync::Arc;
use std::time::Instant;

use culvert_types::TunnelId;

use super::eap_server;
use super::intermediate::Rounds;
use super::ppk::{self, Reading};
use super::proving::Unsigned;
use super::{Handshake, Verdict, proves, repeated};
use crate::auth::signing::Signing;
use crate::auth::{self, Psk, RemoteAuth, psk, signature};
use crate::ctx::{Ctx, Effect};
use crate::endpoint::instance;
use crate::error::{Cause, Failure, Phase};
use crate::keymat::child_keys;
use crate::v2::closed::Closed;
use crate::v2::sa::IkeSa;
use crate::v2::{Arrival, Message, Sa, child, mobike, vip};
use crate::window::Window;
use crate::wire::{Body, Chain, Exchange, Header, Id, Notify, Payload, notify};
use crate::{CheckId, Childless, Event, Identity, PeerConfig, Unique};

/// Tunnels for which one peer's certificate is judged, at most: several may fit who takes anybody.
const MAX_VERDICTS: usize = 4;

/// The responder, waiting for IKE_AUTH.
pub(crate) struct HalfOpen {
    pub(crate) handshake: Handshake,
    pub(crate) expires: Instant,
    /// The tunnels that the addresses allow, best first.
    pub(super) candidates: Vec<TunnelId>,
    pub(super) window: Window,
    /// EAP, once it is under way.
    pub(super) eap: Option<eap_server::Server>,
    /// The request that waits for a verdict on the peer's certificate.
    judging: Option<Judging>,
    /// What the owner has said so far, for which tunnel.
    verdicts: Vec<(TunnelId, Verdict)>,
    /// The IKE_INTERMEDIATE exchanges that come before IKE_AUTH.
    pub(super) rounds: Rounds,
    /// Our own signature.
    pub(super) signing: Signing,
    /// The request whose answer waits for it.
    pub(super) unsigned: Option<Unsigned>,
}

struct Judging {
    tunnel: TunnelId,
    message: Message,
}

/// A peer whose AUTH verified.
pub(super) struct Proven {
    pub(super) tunnel: TunnelId,
    pub(super) config: Arc<PeerConfig>,
    pub(super) remote_id: Identity,
    /// By the tunnel's post-quantum pre-shared key as well.
    pub(super) ppk: bool,
}

/// How far a peer's request proves it.
enum Proof {
    Proven(Proven),
    /// For the owner to judge.
    Ask(TunnelId, Identity, Vec<Vec<u8>>),
    /// It is to prove itself by EAP.
    Eap(TunnelId, Arc<PeerConfig>, Identity),
}

impl HalfOpen {
    /// IKE_SA_INIT has been answered. `candidates`: the tunnels that the addresses allow, best first.
    pub(crate) fn new(ctx: &Ctx<'_>, handshake: Handshake, candidates: Vec<TunnelId>) -> Box<Self> {
        let expires = ctx.now + ctx.config.half_open_lifetime;
        let rounds = Rounds::of(&handshake);
        Box::new(Self {
            handshake,
            expires,
            candidates,
            window: Window::new(0, 1),
            judging: None,
            eap: None,
            verdicts: Vec::new(),
            rounds,
            signing: Signing::default(),
            unsigned: None,
        })
    }

    /// IKE_SA_INIT again: the same answer to the same bytes.
    pub(crate) fn repeat(&self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) {
        if arrival.bytes == self.handshake.request {
            ctx.transmit(arrival.local, arrival.remote, self.handshake.response.clone());
        }
    }

    pub(crate) fn on_request(mut self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        if header.exchange == Exchange::Informational && !header.flags.response && self.eap.is_some() {
            return Some(self.on_farewell(ctx, arrival));
        }
        // While a certificate is judged, a job is at work or EAP waits for somebody, repetitions wait as well.
        let waits = self.judging.is_some()
            || self.rounds.wait()
            || self.unsigned.is_some()
            || self.eap.as_ref().is_some_and(eap_server::Server::waits);
        let fits = !header.flags.response && !waits;
        let before = self.rounds.protection_before().unwrap_or(&self.handshake.protection);
        if !fits
            || repeated(&self.window, before, ctx, arrival)
            || header.exchange != self.rounds.expected_exchange()
        {
            return Some(Sa::HalfOpen(self));
        }
        match self.handshake.open(arrival) {
            Ok(message) if !self.rounds.done() => Some(self.on_intermediate(ctx, message)),
            Ok(message) if self.eap.is_some() => Some(self.on_eap(ctx, message)),
            Ok(message) => Some(self.on_message(ctx, message)),
            Err(e) => {
                tracing::debug!(remote = %arrival.remote, "dropped an IKE_AUTH request: {e}");
                Some(Sa::HalfOpen(self))
            }
        }
    }

    /// The owner's verdict on the peer's certificate, the `number`th that was asked for.
    pub(crate) fn on_checked(mut self: Box<Self>, ctx: &mut Ctx<'_>, number: u64, verdict: Verdict) -> Sa {
        match self.judging.take_if(|_| self.verdicts.len() as u64 == number) {
            Some(Judging { tunnel, message }) => {
                self.verdicts.push((tunnel, verdict));
                self.on_message(ctx, message)
            }
            None => Sa::HalfOpen(self),
        }
    }
    pub(crate) fn on_timeout(self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        if ctx.now < self.expires {
            return Some(Sa::HalfOpen(self));
        }
        if let Some(Judging { tunnel, message }) = &self.judging {
            let config = ctx.peers.get(*tunnel).map(|c| (*tunnel, &**c));
            let failure = self.failure(message, config, Cause::Unjudged(ctx.config.half_open_lifetime));
            ctx.stranger_failed(failure);
        }
        None
    }

    fn on_message(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: Message) -> Sa {
        let proof = match message.opened.body() {
            Ok(body) => self.verify(ctx, &message, &body),
            Err(e) => Err(Box::new(self.failure(&message, None, e.into()))),
        };
        match proof {
            Ok(Proof::Proven(proven)) => self.prove_and_establish(ctx, message, proven),
            Ok(Proof::Eap(tunnel, config, identity)) => {
                self.prove_and_begin_eap(ctx, message, (tunnel, config, identity))
            }
            Ok(Proof::Ask(tunnel, identity, chain)) => {
                let check = CheckId { sa: self.handshake.spi_r, number: self.verdicts.len() as u64 };
                ctx.event(Event::CheckCertificate { check, tunnel, identity, chain });
                self.judging = Some(Judging { tunnel, message });
                Sa::HalfOpen(self)
            }
            Err(failure) => self.reject(ctx, &message, *failure),
        }
    }

    pub(super) fn failure(
        &self,
        message: &Message,
        of: Option<(TunnelId, &PeerConfig)>,
        cause: Cause,
    ) -> Failure {
        match of {
            Some((tunnel, config)) => Failure::new(Some(tunnel), &config.name, Phase::IkeAuth, cause),
            None => Failure::new(None, &message.remote.ip().to_string(), Phase::IkeAuth, cause),
        }
    }

    /// Which tunnel the peer means, and whether it proves to be that tunnel's peer.
    fn verify(&self, ctx: &Ctx<'_>, message: &Message, body: &Body<'_>) -> Result<Proof, Box<Failure>> {
        let known: Vec<(TunnelId, &Arc<PeerConfig>)> = self
            .candidates
            .iter()
            .filter_map(|t| ctx.peers.get(*t).map(|c| (*t, c)))
            .filter(|(_, c)| c.ike_proposals.iter().any(|p| p.allows(&self.handshake.suite)))
            .collect();
        let sole = match known.as_slice() {
            [(tunnel, config)] => Some((*tunnel, &***config)),
            _ => None,
        };
        let fail = |cause| Box::new(self.failure(message, sole, cause));
        let id_i = body.id_i().ok_or_else(|| fail(Cause::MissingPayload("IDi")))?;
        let remote_id = Identity::from_wire(id_i).map_err(|e| fail(e.into()))?;
        let mut fitting = self.fitting(message, body, &known, &remote_id)?;
        // Who keeps the first refuses a second before it costs anything.
        let served = |t: TunnelId, c: &PeerConfig| match c.session.clients {
            None => ctx.is_served(t),
            Some(_) => ctx.clients.find(t, &remote_id).is_some_and(|client| ctx.is_served(client)),
        };
        let kept = |(t, c): &(TunnelId, &Arc<PeerConfig>)| c.session.unique == Unique::Keep && served(*t, c);
        if let Some((tunnel, config)) = fitting.iter().copied().find(kept) {
            fitting.retain(|f| !kept(f));
            if fitting.is_empty() {
                return Err(Box::new(self.failure(message, Some((tunnel, &**config)), Cause::AlreadyUp)));
            }
        }
        let childless = body.sa().is_none() && body.ts_i().is_none() && body.ts_r().is_none();
        if childless {
            // RFC 6023 3: where we said that we take it.
            fitting.retain(|(_, c)| c.exchange.childless != Childless::Never);
            if fitting.is_empty() {
                return Err(fail(Cause::MissingPayload("SA")));
            }
        } else if fitting.iter().all(|(_, c)| c.exchange.childless == Childless::Force) {
            return Err(fail(Cause::NotChildless));
        }
        for part in ["SA", "TSi", "TSr"] {
            let there = childless
                || match part {
                    "SA" => body.sa().is_some(),
                    "TSi" => body.ts_i().is_some(),
                    _ => body.ts_r().is_some(),
                };
            if !there {
                return Err(fail(Cause::MissingPayload(part)));
            }
        }
        // A tunnel that names this peer before one that takes many; then the first that it proves to be the peer of.
        fitting.sort_by_key(|(_, c)| c.remote_id.as_ref().map_or(2, |id| u8::from(id.is_pattern())));
        // RFC 7296 2.16: without AUTH the peer asks for EAP.
        let Some(auth) = body.auth() else {
            let by_eap = fitting.iter().find(|(_, c)| matches!(c.auth.remote, RemoteAuth::Eap(_)));
            let (tunnel, config) = by_eap.ok_or_else(|| fail(Cause::Eap))?;
            return Ok(Proof::Eap(*tunnel, Arc::clone(config), remote_id));
        };
        let handshake = &self.handshake;
        let mut refused = None;
        for (tunnel, config) in fitting {
            let verdict = self.verdicts.iter().find(|(t, _)| *t == tunnel).map(|(_, v)| v);
            let mut mixed = None;
            let reading = ppk::read(handshake, config, body, auth.1);
            let data = match &reading {
                Ok(Reading::Mixed(ppk)) => {
                    mixed = Some(handshake.keys.with_ppk(handshake.suite.prf, ppk.secret()));
                    Ok(auth.1)
                }
                Ok(Reading::Plain(data)) => Ok(*data),
                Err(cause) => Err(cause.clone()),
            };
            let sk_pi = mixed.as_ref().map_or(&handshake.keys.sk_pi, |mixed| mixed.sk_pi());
            let octets = handshake.initiator_octets_with(sk_pi, id_i);
            let proof = match data {
                Ok(data) => {
                    let auth = (auth.0, data);
                    proves(&config.auth.remote, handshake, &octets, auth, &remote_id, verdict)
                }
                Err(cause) => Some(Err(cause)),
            };
            match proof {
                Some(Ok(())) => {
                    let (config, ppk) = (Arc::clone(config), mixed.is_some());
                    return Ok(Proof::Proven(Proven { tunnel, config, remote_id, ppk }));
                }
                None if self.verdicts.len() < MAX_VERDICTS => {
                    let chain = signature::read_certificates(body).map_err(fail)?;
                    return Ok(Proof::Ask(tunnel, remote_id, chain));
                }
                None => {}
                // Of several tunnels, one that takes this kind of proof tells what is wrong with it.
                Some(Err(cause)) => {
                    let better = match &refused {
                        None => true,
                        Some((_, _, before)) => {
                            matches!(before, Cause::AuthMethod { .. })
                                && !matches!(cause, Cause::AuthMethod { .. })
                        }
                    };
                    if better {
                        refused = Some((tunnel, config, cause));
                    }
                }
            }
        }
        Err(match refused {
            Some((tunnel, config, cause)) => {
                Box::new(self.failure(message, Some((tunnel, &**config)), cause))
            }
            None => fail(Cause::Eap),
        })
    }

    /// The tunnels whose identities fit.
    fn fitting<'c>(
        &self,
        message: &Message,
        body: &Body<'_>,
        known: &[(TunnelId, &'c Arc<PeerConfig>)],
        remote_id: &Identity,
    ) -> Result<Vec<(TunnelId, &'c Arc<PeerConfig>)>, Box<Failure>> {
        let asked = body.id_r().map(|id| (Identity::from_wire(id).ok(), id));
        let local_fits = |c: &PeerConfig| match &asked {
            None => true,
            Some((Some(id), _)) => *id == c.local_id,
            Some((None, _)) => false,
        };
        let remote_fits = |c: &PeerConfig| c.remote_id.as_ref().is_none_or(|id| id.matches(remote_id));
        let fitting: Vec<_> =
            known.iter().filter(|(_, c)| local_fits(c) && remote_fits(c)).copied().collect();
        if !fitting.is_empty() {
            return Ok(fitting);
        }
        let wrong_remote = known.iter().find(|(_, c)| local_fits(c)).filter(|_| known.len() == 1);
        let cause = match wrong_remote.and_then(|(_, c)| c.remote_id.clone()) {
            Some(expected) => Cause::WrongRemoteId { expected, got: remote_id.clone() },
            None => {
                let local = match &asked {
                    None => "any".to_owned(),
                    Some((Some(id), _)) => id.to_string(),
                    Some((None, id)) => format!("of type {}", id.kind),
                };
                Cause::NoSuchPeer { local, remote: remote_id.clone() }
            }
        };
        let pairs = known.iter().take(8).map(|(_, c)| {
            let remote = c.remote_id.as_ref().map_or_else(|| "any".to_owned(), Identity::to_string);
            format!("local id {}, remote id {remote}", c.local_id)
        });
        let ours = pairs.collect::<Vec<_>>().join("; ");
        let sole = match known {
            [(tunnel, config)] => Some((*tunnel, &***config)),
            _ => None,
        };
        Err(Box::new(self.failure(message, sole, cause).offered(ours, format!("remote id {remote_id}"))))
    }

    /// RFC 7296 2.21.2: the error goes back protected, and that is all.
    pub(super) fn reject(mut self: Box<Self>, ctx: &mut Ctx<'_>, message: &Message, failure: Failure) -> Sa {
        let told = failure.cause.notify().unwrap_or(notify::AUTHENTICATION_FAILED);
        let data = failure.cause.notify_data();
        let mut chain = Chain::new();
        chain.push(&Payload::Notify(Notify::new(told, &data)));
        ctx.stranger_failed(failure);
        self.answer(ctx, message, &chain);
        Closed::remember(ctx.now, self.handshake.spi_i, false, self.window)
    }

    /// Sends the answer to a request, and remembers it.
    pub(super) fn answer(&mut self, ctx: &mut Ctx<'_>, message: &Message, chain: &Chain) {
        let Header { exchange, message_id, .. } = message.header;
        let header = self.handshake.header(false, true, exchange, message_id);
        let response = self.handshake.protection.seal(&header, chain);
        ctx.transmit(message.local, message.remote, response.clone());
        self.window.respond_to(message.opened.fingerprint(), response);
        self.rounds.answered();
    }

    /// Answers the last request, and goes on with an IKE SA. `eap`: the first request, which says what is asked for,
    /// and the key that EAP gave; our identity has been told and proven before.
    pub(super) fn establish(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        message: &Message,
        eap: Option<(&Message, Option<&Psk>)>,
        proven: Proven,
    ) -> Sa {
        let Proven { tunnel, config, remote_id, ppk } = proven;
        let asked = eap.map_or(message, |(first, _)| first);
        let Ok(body) = asked.opened.body() else { return Sa::HalfOpen(self) };
        let path = &mut self.handshake.path;
        (path.local, path.remote) = (message.local, message.remote);
        // Only a peer that came to port 4500 takes ESP in UDP there (RFC 7296 2.23).
        path.encap &= message.local.port() == config.local_natt.port();

        let ppk = config.exchange.ppk.as_ref().filter(|_| ppk);
        if let Some(ppk) = ppk {
            drop(self.handshake.mix(ppk));
        }
        let (id_kind, id_data) = config.local_id.to_wire();
        let id = Id { kind: id_kind, reserved: [0; 3], data: &id_data };
        let prf = self.handshake.suite.prf;
        let proof = match eap.and_then(|(_, msk)| msk) {
            Some(msk) => {
                let octets = self.handshake.responder_octets(id);
                Ok(auth::Proof { method: psk::METHOD, data: psk::sign(prf, msk, &octets).to_vec() })
            }
            None => self.own_proof(ctx, &config, true).unwrap_or(Err(Cause::Unfinished)),
        };
        let proof = match proof {
            Ok(proof) => proof,
            Err(cause) => {
                let failure = self.failure(message, Some((tunnel, &*config)), cause);
                return self.reject(ctx, message, failure);
            }
        };
        let (tunnel, config) = match self.client(ctx, message, (tunnel, &config), &remote_id) {
            Ok(client) => client,
            Err(failure) => return self.reject(ctx, message, *failure),
        };
        let mut chain = Chain::new();
        if eap.is_none() {
            chain.push(&Payload::IdR(id));
            if let Some(signer) = config.auth.local.as_signer() {
                signer.write_certificates(&mut chain);
            }
        }
        chain.push(&Payload::Auth { method: proof.method, data: &proof.data });
        if ppk.is_some() {
            // RFC 8784 3: without data: the key that the initiator named is in use.
            chain.push(&Payload::Notify(Notify::new(notify::PPK_IDENTITY, &[])));
        }
        let addressed = vip::hand_out(ctx, &config, &remote_id, &body, self.handshake.spi_r);
        let childless = body.sa().is_none();
        let chosen = addressed.map_err(child::Refusal::plain).and_then(|(addresses, reply)| {
            let narrowed = vip::narrowed(&config, &addresses);
            self.handshake.addresses = addresses;
            reply.into_iter().for_each(|reply| {
                chain.push(&Payload::Config(reply));
            });
            if childless {
                return Ok(None);
            }
            child::choose(ctx, &narrowed, self.handshake.spi_r, &body, false, None, &self.handshake.path)
                .map(Some)
        });
        let handshake = &self.handshake;
        let made = chosen.map(|chosen| {
            let (agreed, answer) = chosen?;
            let suite = agreed.suite.protection;
            let keys = child_keys(prf, &handshake.keys.sk_d, None, &[], handshake.nonces(), suite);
            child::write_answer(&mut chain, answer, &agreed);
            Some((agreed, keys))
        });
        if let Err(refusal) = &made {
            // RFC 7296 1.2: the IKE SA stands although the CHILD SA failed.
            let told = refusal.cause.notify().unwrap_or(notify::NO_PROPOSAL_CHOSEN);
            chain.push(&Payload::Notify(Notify::new(told, &[])));
        }
        let mobility = mobike::accept(&mut chain, ctx, &config, (&body, message.local.ip()));
        self.answer(ctx, message, &chain);
        let Self { mut handshake, window, .. } = *self;
        handshake.mobility = mobility.map(Box::new);
        let mut sa = IkeSa::establish(ctx, tunnel, config, handshake, false, remote_id, window);
        match made {
            Ok(Some((agreed, (in_keys, out_keys)))) => sa.install(ctx, agreed, in_keys, out_keys, None, true),
            Ok(None) => {}
            Err(refusal) => {
                let failure = sa.failure(Phase::ChildSa, refusal.cause);
                ctx.failed(failure.offered(refusal.ours, refusal.theirs));
            }
        }
        let initial_contact = body.notify(notify::INITIAL_CONTACT).is_some();
        ctx.effects.push(Effect::Established { tunnel, key: sa.key(), initial_contact });
        Sa::Up(sa)
    }
    /// The tunnel that the peer has: its own instance, where there is one for each client.
    fn client(
        &self,
        ctx: &mut Ctx<'_>,
        message: &Message,
        (of, config): (TunnelId, &Arc<PeerConfig>),
        identity: &Identity,
    ) -> Result<(TunnelId, Arc<PeerConfig>), Box<Failure>> {
        let Some(most) = config.session.clients else { return Ok((of, Arc::clone(config))) };
        let Some((tunnel, new)) = ctx.clients.assign(of, identity, most) else {
            let cause = Cause::TooManyClients(most);
            return Err(Box::new(self.failure(message, Some((of, &**config)), cause)));
        };
        let Some(number) = new else {
            return Ok((tunnel, ctx.peers.get(tunnel).map_or_else(|| Arc::clone(config), Arc::clone)));
        };
        let config = instance(config, identity, number);
        ctx.event(Event::ClientUp { tunnel, of, number });
        ctx.effects.push(Effect::Client { tunnel, config: Arc::clone(&config) });
        Ok((tunnel, config))
    }
}
