//! Mode Config (draft-dukes-ike-mode-cfg): inner addresses asked for and handed out (pull), or told unasked (push).

use std::sync::Arc;

use super::sa::{IkeSa, Life};
use super::transaction::{Next, Outcome, Step};
use crate::config::ModeConfig;
use crate::ctx::{Ctx, log};
use crate::error::{Cause, Phase};
use crate::v2::vip;
use crate::wire::v1::{Attribute, Config, cfg};
use crate::wire::{ConfigKind, Configuration, attribute};
use crate::{Addresses, Identity, Virtual};

/// INTERNAL_IP4_NETMASK: some old clients will not do without.
const IP4_NETMASK: u16 = 2;

/// A list of attributes in IKEv2's terms: the draft's numbers are the same.
fn read(config: &Config<'_>, kind: ConfigKind) -> Configuration {
    let mut all = Configuration::new(kind);
    config.attributes.iter().for_each(|a| all.push(a.kind, a.value.to_vec()));
    all
}

/// The other way round.
fn write(all: &Configuration) -> Vec<Attribute<'static>> {
    let known = all.attributes.iter().filter(|a| a.kind != attribute::DNS_DOMAIN);
    let value = |a: &crate::wire::ConfigAttribute| match a.kind {
        // An address alone, where IKEv2 adds a prefix length.
        attribute::IP6_ADDRESS => a.value.get(..16).unwrap_or_default().to_vec(),
        _ => a.value.clone(),
    };
    known.map(|a| Attribute::long(a.kind, value(a))).collect()
}

impl IkeSa {
    /// Whether peers of the tunnel get their addresses from us.
    pub(crate) fn hands_out(&self) -> bool {
        matches!(self.config.session.addresses, Addresses::Pool(_))
    }

    fn pushes(&self) -> bool {
        self.config.v1.as_ref().is_some_and(|v1| v1.mode_config == ModeConfig::Push)
    }

    /// Begins, or waits for the peer to begin. `false`: the tunnel has nothing of it.
    pub(crate) fn begin_mode_config(&mut self, ctx: &mut Ctx<'_>) -> bool {
        match (&self.config.session.addresses, self.pushes()) {
            (Addresses::Own, _) => return false,
            (Addresses::Request(_), true) | (Addresses::Pool(_), false) => {}
            (Addresses::Request(_), false) => {
                if let Some(request) = vip::wanted(&self.config) {
                    self.transact(ctx, cfg::REQUEST, write(&request), Step::Addresses);
                }
            }
            (Addresses::Pool(pool), true) => {
                let mut all = Configuration::new(ConfigKind::Request);
                for net in &pool.nets {
                    let six = net.addr().is_ipv6();
                    all.push(if six { attribute::IP6_ADDRESS } else { attribute::IP4_ADDRESS }, []);
                }
                for dns in &pool.dns {
                    all.push(if dns.is_ipv6() { attribute::IP6_DNS } else { attribute::IP4_DNS }, []);
                }
                match self.assign(ctx, &all) {
                    Some((addresses, attributes)) => {
                        self.transact(ctx, cfg::SET, attributes, Step::Pushed(addresses));
                    }
                    // It was reported; the peer learns of it by the SA's end, which is at once.
                    None => {
                        self.supersede(ctx.now, true);
                        self.hard = ctx.now;
                    }
                }
            }
        }
        true
    }

    /// Whose lease it is: the user's, or the peer's itself.
    fn leaseholder(&self) -> Identity {
        match &self.user {
            Some(user) => Identity::KeyId(user.clone().into_bytes()),
            None => self.remote_id.clone(),
        }
    }

    /// Addresses for the peer, as it asks for them.
    fn assign(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: &Configuration,
    ) -> Option<(Virtual, Vec<Attribute<'static>>)> {
        let holder = self.leaseholder();
        match vip::given(ctx, &self.config, &holder, request, self.key()) {
            Ok((addresses, reply)) => {
                let mut attributes = write(&reply);
                if request.has(IP4_NETMASK) && addresses.theirs.iter().any(std::net::IpAddr::is_ipv4) {
                    attributes.push(Attribute::long(IP4_NETMASK, vec![0xff; 4]));
                }
                Some((addresses, attributes))
            }
            Err(cause) => {
                ctx.failed(self.failure(Phase::ModeConfig, cause));
                None
            }
        }
    }

    /// The SA goes on with these addresses, and with selectors for nothing else on the side that has them.
    pub(crate) fn take_addresses(&mut self, ctx: &mut Ctx<'_>, addresses: Virtual) {
        self.addresses = addresses;
        self.refresh_config(ctx);
    }

    /// What was configured meanwhile holds from now on.
    pub(crate) fn refresh_config(&mut self, ctx: &Ctx<'_>) {
        if let Some(config) = ctx.peers.get(self.tunnel) {
            self.config = vip::narrowed(config, &self.addresses);
        } else {
            self.config = vip::narrowed(&Arc::clone(&self.config), &self.addresses);
        }
    }

    /// The peer answers our request.
    pub(crate) fn on_addresses(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        match vip::taken(&self.config, &read(config, ConfigKind::Reply)) {
            Ok(addresses) => {
                self.take_addresses(ctx, addresses);
                Outcome::Done(Next::Configured)
            }
            Err(cause) => Outcome::Done(self.without(ctx, cause)),
        }
    }

    fn without(&self, ctx: &mut Ctx<'_>, cause: Cause) -> Next {
        ctx.failed(self.failure(Phase::ModeConfig, cause));
        Next::End { tell: true }
    }

    /// The peer asks for addresses.
    pub(crate) fn on_addresses_asked(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        let request = read(config, ConfigKind::Request);
        let asks = request.has(attribute::IP4_ADDRESS) || request.has(attribute::IP6_ADDRESS);
        // Nothing is handed out before the user is known, nor by a tunnel without a pool: an empty reply says so.
        if !asks || !self.hands_out() || self.life == Life::Authenticating {
            return Outcome::Answer(cfg::REPLY, Vec::new(), Next::Stay);
        }
        let next = if self.life == Life::Configuring { Next::Configured } else { Next::Stay };
        match self.assign(ctx, &request) {
            Some((addresses, attributes)) => {
                self.take_addresses(ctx, addresses);
                Outcome::Answer(cfg::REPLY, attributes, next)
            }
            None if self.life == Life::Configuring => {
                Outcome::Answer(cfg::REPLY, Vec::new(), Next::End { tell: true })
            }
            None => Outcome::Answer(cfg::REPLY, Vec::new(), Next::Stay),
        }
    }

    /// The peer tells us addresses unasked.
    pub(crate) fn on_addresses_pushed(&mut self, ctx: &mut Ctx<'_>, config: &Config<'_>) -> Outcome {
        let wanted = matches!(self.config.session.addresses, Addresses::Request(_)) && self.pushes();
        if !wanted || self.life != Life::Configuring {
            log!(debug, self.config.name, "passed over addresses that the peer sets unasked");
            return Outcome::Answer(cfg::ACK, Vec::new(), Next::Stay);
        }
        match vip::taken(&self.config, &read(config, ConfigKind::Set)) {
            Ok(addresses) => {
                self.take_addresses(ctx, addresses);
                // draft-dukes-ike-mode-cfg 3.2: what is accepted, without values.
                let taken = config.attributes.iter().map(|a| Attribute::long(a.kind, Vec::new())).collect();
                Outcome::Answer(cfg::ACK, taken, Next::Configured)
            }
            Err(cause) => {
                let next = self.without(ctx, cause);
                Outcome::Answer(cfg::ACK, Vec::new(), next)
            }
        }
    }
}
