//! Transaction exchanges (draft-dukes-ike-mode-cfg 3): what carries XAuth and Mode Config, in either direction.
//!
//! Until both have ended well the SA serves nothing: no quick mode is begun or answered.

use std::time::Duration;

use super::phase1::Exchanged;
use super::sa::{IkeSa, Life};
use super::{Arrival, Sa};
use crate::Virtual;
use crate::ctx::{Ctx, Effect, log};
use crate::error::{Cause, Failure, Phase};
use crate::window::{Due, Retransmission};
use crate::wire::v1::{Attribute, Chain, Config, Exchange, Payload, cfg};

/// How long all of them may take together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A transaction that we opened, or the peer's last one.
pub(crate) struct Transaction {
    message_id: u32,
    iv: Vec<u8>,
    exchanged: Exchanged,
    ours: Option<(Step, Retransmission)>,
}

/// What we wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A user's name and password.
    Credentials,
    /// The acknowledgement of the verdict on them.
    Acknowledgement(bool),
    /// Addresses for us.
    Addresses,
    /// The acknowledgement of those that we gave.
    Pushed(Virtual),
}

/// What follows a message of a transaction.
pub(crate) enum Outcome {
    /// Nothing yet.
    Wait,
    /// The peer is told this, in its own transaction.
    Answer(u8, Vec<Attribute<'static>>, Next),
    /// It is no more ours to answer.
    Done(Next),
}

/// What follows once the peer has been told.
pub(crate) enum Next {
    /// Nothing.
    Stay,
    /// The user is authenticated.
    Authenticated,
    /// The addresses are settled.
    Configured,
    /// It is over; the peer is told, or knows.
    End { tell: bool },
}

impl Transaction {
    pub(crate) fn retransmission(&self) -> Option<&Retransmission> {
        self.ours.as_ref().map(|(_, retransmission)| retransmission)
    }

    /// What we wait for, where we do.
    pub(crate) fn step(&self) -> Option<&Step> {
        self.ours.as_ref().map(|(step, _)| step)
    }
}

impl IkeSa {
    /// The user is known, or nobody asks: inner addresses are next, where the tunnel has them.
    pub(crate) fn authenticated(&mut self, ctx: &mut Ctx<'_>) {
        self.life = Life::Configuring;
        self.hard = ctx.now + PATIENCE;
        if !self.begin_mode_config(ctx) {
            self.configured(ctx);
        }
    }

    /// All that goes before children is done.
    pub(crate) fn configured(&mut self, ctx: &mut Ctx<'_>) {
        self.life = Life::Serving;
        self.hard = self.lifetime_ends;
        let (tunnel, key) = (self.tunnel, self.key());
        let (initial_contact, rekeys) = self.deferred;
        ctx.effects.push(Effect::EstablishedV1 { tunnel, key, initial_contact, rekeys });
    }

    /// Opens a transaction.
    pub(crate) fn transact(
        &mut self,
        ctx: &mut Ctx<'_>,
        kind: u8,
        attributes: Vec<Attribute<'_>>,
        step: Step,
    ) {
        let message_id = self.message_id(ctx);
        self.seen.insert(message_id);
        let identifier = (ctx.message_id() & 0xffff) as u16;
        let (message, iv) =
            self.config_message(message_id, &self.keys.iv(message_id), kind, identifier, attributes);
        let retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, None);
        let exchanged = Exchanged::sent(message.clone());
        self.transaction =
            Some(Transaction { message_id, iv, exchanged, ours: Some((step, retransmission)) });
        self.send(ctx, message);
    }

    fn config_message(
        &self,
        message_id: u32,
        iv: &[u8],
        kind: u8,
        identifier: u16,
        attributes: Vec<Attribute<'_>>,
    ) -> (Vec<u8>, Vec<u8>) {
        let mut chain = Chain::new();
        chain.push(&Payload::Config(Config { kind, identifier, attributes }));
        let chain = chain.with_hash(|bytes| self.keys.hash(message_id, &[bytes]).to_vec());
        self.keys.seal(iv, &self.header(Exchange::Transaction, message_id), &chain)
    }

    /// A message of a transaction exchange.
    pub(crate) fn on_transaction(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
    ) -> Option<Sa> {
        let id = arrival.header.message_id;
        if let Some(t) =
            self.transaction.as_ref().filter(|t| t.message_id == id && t.exchanged.is_repeated(arrival.bytes))
        {
            let again = t.exchanged.sent.clone();
            self.send(ctx, again);
            return Some(Sa::Up(self));
        }
        let ours = self.transaction.as_ref().filter(|t| t.message_id == id && t.ours.is_some());
        let iv = match ours {
            Some(t) => t.iv.clone(),
            None if self.seen.contains(&id) => return Some(Sa::Up(self)),
            None => self.keys.iv(id),
        };
        let answers = ours.is_some();
        let Some((text, next_iv)) = self.opened(arrival, &iv) else { return Some(Sa::Up(self)) };
        let Some(body) = self.parsed(arrival, &text) else { return Some(Sa::Up(self)) };
        if !body.hashed().is_some_and(|(hash, rest)| self.keys.hash_fits(id, &[rest], hash)) {
            log!(debug, self.config.name, "dropped a transaction with a wrong hash from {}", arrival.remote);
            return Some(Sa::Up(self));
        }
        self.seen.insert(id);
        self.heard(ctx, arrival);
        let Some(config) = body.config() else { return Some(Sa::Up(self)) };
        let outcome = if answers { self.on_reply(ctx, config) } else { self.on_request(ctx, config) };
        let next = match outcome {
            Outcome::Wait => Next::Stay,
            Outcome::Done(next) => next,
            Outcome::Answer(kind, attributes, next) => {
                let (message, iv) = self.config_message(id, &next_iv, kind, config.identifier, attributes);
                let mut exchanged = Exchanged::sent(message.clone());
                exchanged.heard(arrival.bytes);
                self.transaction = Some(Transaction { message_id: id, iv, exchanged, ours: None });
                self.send(ctx, message);
                next
            }
        };
        match next {
            Next::Stay => {}
            Next::Authenticated => self.authenticated(ctx),
            Next::Configured => self.configured(ctx),
            Next::End { tell: true } => {
                self.farewell(ctx, crate::DownReason::AuthenticationFailed);
                return None;
            }
            Next::End { tell: false } => {
                self.leave(ctx, crate::DownReason::AuthenticationFailed);
                return None;
            }
        }
        Some(Sa::Up(self))
    }

    /// The peer answered what we asked.
    fn on_reply(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        let Some((step, _)) = self.transaction.as_mut().and_then(|t| t.ours.take()) else {
            return Outcome::Wait;
        };
        match step {
            Step::Credentials => self.on_credentials(ctx, config),
            Step::Acknowledgement(true) => Outcome::Done(Next::Authenticated),
            Step::Acknowledgement(false) => Outcome::Done(Next::End { tell: true }),
            Step::Addresses => self.on_addresses(ctx, config),
            Step::Pushed(addresses) => {
                self.take_addresses(ctx, addresses);
                Outcome::Done(Next::Configured)
            }
        }
    }

    /// The peer asks or tells.
    fn on_request(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        let about_user =
            config.attributes.iter().any(|a| a.kind >= cfg::XAUTH_TYPE && a.kind <= cfg::XAUTH_LAST);
        match config.kind {
            _ if about_user => self.on_user_asked(ctx, config),
            cfg::REQUEST => self.on_addresses_asked(ctx, config),
            cfg::SET => self.on_addresses_pushed(ctx, config),
            other => {
                log!(debug, self.config.name, "dropped a transaction of type {other}");
                Outcome::Wait
            }
        }
    }

    /// Why an SA that has waited too long before it could serve has failed; `None` if that has been said.
    pub(crate) fn impatience(&self) -> Option<Failure> {
        let waits = self.transaction.as_ref().and_then(Transaction::step);
        match (self.life, waits) {
            (_, Some(Step::Acknowledgement(false))) => None,
            (Life::Authenticating, _) => Some(self.failure(Phase::Xauth, Cause::Silent(PATIENCE))),
            (_, None) if self.hands_out() => Some(self.failure(Phase::ModeConfig, Cause::NoAddressAsked)),
            _ => Some(self.failure(Phase::ModeConfig, Cause::Silent(PATIENCE))),
        }
    }

    /// Repetitions of our transaction that are due.
    pub(crate) fn transaction_clock(&mut self, ctx: &mut Ctx<'_>) {
        let Some(t) = self.transaction.as_mut() else { return };
        let Some((_, retransmission)) = t.ours.as_mut() else { return };
        match retransmission.on_timeout(ctx.now) {
            Due::Nothing => {}
            Due::Again => {
                let again = t.exchanged.sent.clone();
                self.send(ctx, again);
            }
            // The SA's own end is near; it says what is the matter.
            Due::GiveUp(_) => t.ours = None,
        }
    }
}
