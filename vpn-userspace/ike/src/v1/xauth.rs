//! XAuth (draft-beaulieu-ike-xauth-02): a user's name and password after phase 1, in transaction exchanges; both sides.
//!
//! Until it has ended well the SA serves nothing: no quick mode is begun or answered.

use std::time::Duration;

use culvert_crypto::equal;

use super::cause::V1Cause;
use super::phase1::Exchanged;
use super::sa::{IkeSa, Life};
use super::{Arrival, Sa};
use crate::DownReason;
use crate::config::Xauth;
use crate::ctx::{Ctx, Effect, log};
use crate::error::Phase;
use crate::window::{Due, Retransmission};
use crate::wire::v1::{Attribute, Body, Chain, Config, Exchange, Payload, cfg};

/// How long the peer may take for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longer names and passwords than this are not looked at.
const MAX: usize = 255;

/// A transaction that we opened, or the peer's last one.
pub(crate) struct Transaction {
    pub(crate) message_id: u32,
    iv: Vec<u8>,
    exchanged: Exchanged,
    ours: Option<(Step, Retransmission)>,
}

/// What we wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Name and password.
    Credentials,
    /// The acknowledgement of the verdict.
    Acknowledgement(bool),
}

impl Transaction {
    pub(crate) fn retransmission(&self) -> Option<&Retransmission> {
        self.ours.as_ref().map(|(_, retransmission)| retransmission)
    }
}

impl IkeSa {
    /// After phase 1: the side that asks asks.
    pub(crate) fn begin_xauth(&mut self, ctx: &mut Ctx<'_>) {
        self.life = Life::Authenticating;
        self.hard = ctx.now + PATIENCE;
        if let Some(Xauth::Server(_)) = self.config.v1.as_ref().and_then(|v1| v1.xauth.as_ref()) {
            let attributes = vec![
                Attribute::short(cfg::XAUTH_TYPE, 0),
                Attribute::long(cfg::XAUTH_USER_NAME, Vec::new()),
                Attribute::long(cfg::XAUTH_USER_PASSWORD, Vec::new()),
            ];
            self.transact(ctx, cfg::REQUEST, attributes, Step::Credentials);
        }
    }

    fn transact(&mut self, ctx: &mut Ctx<'_>, kind: u8, attributes: Vec<Attribute<'_>>, step: Step) {
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
        if answers { self.on_reply(ctx, config) } else { self.on_request(ctx, arrival, &body, next_iv) }
    }

    /// The peer answered what we asked.
    fn on_reply(mut self: Box<Self>, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Option<Sa> {
        let Some((step, _)) = self.transaction.as_mut().and_then(|t| t.ours.take()) else {
            return Some(Sa::Up(self));
        };
        match step {
            Step::Credentials => {
                let user = value(config, cfg::XAUTH_USER_NAME);
                let known = self.knows(config);
                let name = String::from_utf8_lossy(user.get(..user.len().min(MAX)).unwrap_or_default());
                let name = name.escape_debug();
                if known {
                    log!(info, self.config.name, "XAuth: user \"{name}\" authenticated");
                } else {
                    log!(warn, self.config.name, "XAuth: user \"{name}\" or the password is wrong");
                }
                let status = Attribute::short(cfg::XAUTH_STATUS, u16::from(known));
                self.transact(ctx, cfg::SET, vec![status], Step::Acknowledgement(known));
                Some(Sa::Up(self))
            }
            Step::Acknowledgement(true) => {
                self.finish_xauth(ctx);
                Some(Sa::Up(self))
            }
            Step::Acknowledgement(false) => {
                ctx.failed(self.failure(Phase::Xauth, V1Cause::WrongUser.into()));
                self.farewell(ctx, DownReason::AuthenticationFailed);
                None
            }
        }
    }

    /// Whether the reply has the name and password of a user. Every user is compared, in constant time.
    fn knows(&self, config: &Config<'_>) -> bool {
        let (user, password) = (value(config, cfg::XAUTH_USER_NAME), value(config, cfg::XAUTH_USER_PASSWORD));
        let Some(Xauth::Server(users)) = self.config.v1.as_ref().and_then(|v1| v1.xauth.as_ref()) else {
            return false;
        };
        let fits =
            |u: &crate::XauthUser| equal(u.name.as_bytes(), user) & equal(u.password.secret(), password);
        user.len() <= MAX && password.len() <= MAX && users.iter().fold(false, |any, u| any | fits(u))
    }

    /// The peer asks or tells.
    fn on_request(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
        body: &Body<'_>,
        iv: Vec<u8>,
    ) -> Option<Sa> {
        let Some(config) = body.config() else { return Some(Sa::Up(self)) };
        let client = match self.config.v1.as_ref().and_then(|v1| v1.xauth.as_ref()) {
            Some(Xauth::Client(user)) if self.life == Life::Authenticating => Some(user.clone()),
            _ => None,
        };
        let about_user = config.attributes.iter().any(|a| a.kind >= cfg::XAUTH_TYPE);
        let status =
            config.attributes.iter().find(|a| a.kind == cfg::XAUTH_STATUS).and_then(Attribute::as_number);
        let mut end = None;
        let (kind, attributes) = match (config.kind, client) {
            (cfg::REQUEST, Some(user)) if about_user => {
                let password = user.password.secret().to_vec();
                let attributes = vec![
                    Attribute::short(cfg::XAUTH_TYPE, 0),
                    Attribute::long(cfg::XAUTH_USER_NAME, user.name.clone().into_bytes()),
                    Attribute::long(cfg::XAUTH_USER_PASSWORD, password),
                ];
                (cfg::REPLY, attributes)
            }
            (cfg::SET, Some(_)) if status.is_some() => {
                end = Some(status == Some(1));
                (cfg::ACK, vec![Attribute::short(cfg::XAUTH_STATUS, u16::from(status == Some(1)))])
            }
            // No addresses are handed out here, nor taken: an empty reply says so.
            (cfg::REQUEST, _) => (cfg::REPLY, Vec::new()),
            (cfg::SET, _) => (cfg::ACK, Vec::new()),
            (other, _) => {
                log!(debug, self.config.name, "dropped a transaction of type {other}");
                return Some(Sa::Up(self));
            }
        };
        let id = arrival.header.message_id;
        let (message, iv) = self.config_message(id, &iv, kind, config.identifier, attributes);
        let mut exchanged = Exchanged::sent(message.clone());
        exchanged.heard(arrival.bytes);
        self.transaction = Some(Transaction { message_id: id, iv, exchanged, ours: None });
        self.send(ctx, message);
        match end {
            Some(true) => self.finish_xauth(ctx),
            Some(false) => {
                ctx.failed(self.failure(Phase::Xauth, V1Cause::UserRefused.into()));
                self.leave(ctx, DownReason::AuthenticationFailed);
                return None;
            }
            None => {}
        }
        Some(Sa::Up(self))
    }

    fn finish_xauth(&mut self, ctx: &mut Ctx<'_>) {
        self.life = Life::Serving;
        self.hard = self.lifetime_ends;
        let (tunnel, key) = (self.tunnel, self.key());
        let (initial_contact, rekeys) = self.deferred;
        ctx.effects.push(Effect::EstablishedV1 { tunnel, key, initial_contact, rekeys });
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

fn value<'a>(config: &'a Config<'_>, kind: u16) -> &'a [u8] {
    config.attributes.iter().find(|a| a.kind == kind).map_or(&[], |a| &a.value)
}
