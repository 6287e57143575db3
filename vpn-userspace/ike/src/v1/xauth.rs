//! XAuth (draft-beaulieu-ike-xauth-02): a user's name and password after phase 1; both sides.

use culvert_crypto::equal;

use super::cause::V1Cause;
use super::sa::{IkeSa, Life};
use super::transaction::{Next, Outcome, PATIENCE, Step};
use crate::config::Xauth;
use crate::ctx::{Ctx, log};
use crate::error::Phase;
use crate::wire::v1::{Attribute, Config, cfg};

/// Longer names and passwords than this are not looked at.
const MAX: usize = 255;

impl IkeSa {
    /// After phase 1: the side that asks asks.
    pub(crate) fn begin_xauth(&mut self, ctx: &mut Ctx<'_>) {
        self.life = Life::Authenticating;
        self.hard = ctx.now + PATIENCE;
        if self.asks_for_users() {
            let attributes = vec![
                Attribute::short(cfg::XAUTH_TYPE, 0),
                Attribute::long(cfg::XAUTH_USER_NAME, Vec::new()),
                Attribute::long(cfg::XAUTH_USER_PASSWORD, Vec::new()),
            ];
            self.transact(ctx, cfg::REQUEST, attributes, Step::Credentials);
        }
    }

    /// Whether the peer must be one of our users.
    pub(crate) fn asks_for_users(&self) -> bool {
        matches!(self.xauth(), Some(Xauth::Server(_)))
    }

    fn xauth(&self) -> Option<&Xauth> {
        self.config.v1.as_ref()?.xauth.as_ref()
    }

    /// The peer says who its user is.
    pub(crate) fn on_credentials(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        let user = value(config, cfg::XAUTH_USER_NAME);
        let known = self.knows(config);
        let name = String::from_utf8_lossy(user.get(..user.len().min(MAX)).unwrap_or_default()).into_owned();
        let shown = name.escape_debug();
        if known {
            log!(info, self.config.name, "XAuth: user \"{shown}\" authenticated");
        } else {
            // Reported at once: a client that is refused may go without another word.
            let failure = self.failure(Phase::Xauth, V1Cause::WrongUser.into());
            ctx.failed(failure.offered(String::new(), format!("user \"{shown}\"")));
        }
        self.user = known.then_some(name);
        let status = Attribute::short(cfg::XAUTH_STATUS, u16::from(known));
        self.transact(ctx, cfg::SET, vec![status], Step::Acknowledgement(known));
        Outcome::Wait
    }

    /// Whether the reply has the name and password of a user. Every user is compared, in constant time.
    fn knows(&self, config: &Config<'_>) -> bool {
        let (user, password) = (value(config, cfg::XAUTH_USER_NAME), value(config, cfg::XAUTH_USER_PASSWORD));
        let Some(Xauth::Server(users)) = self.xauth() else { return false };
        let fits =
            |u: &crate::XauthUser| equal(u.name.as_bytes(), user) & equal(u.password.secret(), password);
        user.len() <= MAX && password.len() <= MAX && users.iter().fold(false, |any, u| any | fits(u))
    }

    /// The peer asks who our user is, or says what it thinks of it.
    pub(crate) fn on_user_asked(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        let user = match self.xauth() {
            Some(Xauth::Client(user)) if self.life == Life::Authenticating => user.clone(),
            // Nobody is told a password after that, nor a peer that has no business with it.
            _ if config.kind == cfg::SET => return Outcome::Answer(cfg::ACK, Vec::new(), Next::Stay),
            _ => return Outcome::Answer(cfg::REPLY, Vec::new(), Next::Stay),
        };
        let status =
            config.attributes.iter().find(|a| a.kind == cfg::XAUTH_STATUS).and_then(Attribute::as_number);
        match (config.kind, status) {
            (cfg::REQUEST, _) => {
                let attributes = vec![
                    Attribute::short(cfg::XAUTH_TYPE, 0),
                    Attribute::long(cfg::XAUTH_USER_NAME, user.name.into_bytes()),
                    Attribute::long(cfg::XAUTH_USER_PASSWORD, user.password.secret().to_vec()),
                ];
                Outcome::Answer(cfg::REPLY, attributes, Next::Stay)
            }
            (cfg::SET, Some(status)) => {
                let good = status == 1;
                let next = if good {
                    Next::Authenticated
                } else {
                    ctx.failed(self.failure(Phase::Xauth, V1Cause::UserRefused.into()));
                    Next::End { tell: false }
                };
                let status = Attribute::short(cfg::XAUTH_STATUS, u16::from(good));
                Outcome::Answer(cfg::ACK, vec![status], next)
            }
            (cfg::SET, None) => Outcome::Answer(cfg::ACK, Vec::new(), Next::Stay),
            (other, _) => {
                log!(debug, self.config.name, "dropped a transaction of type {other}");
                Outcome::Wait
            }
        }
    }
}

fn value<'a>(config: &'a Config<'_>, kind: u16) -> &'a [u8] {
    config.attributes.iter().find(|a| a.kind == kind).map_or(&[], |a| &a.value)
}
