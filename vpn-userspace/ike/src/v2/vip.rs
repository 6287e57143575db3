//! Configuration payloads in IKE_AUTH (RFC 7296 2.19, RFC 8598): inner addresses asked for and handed out.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_types::TrafficSelector;
use ipnet::IpNet;

use super::ctx::Ctx;
use crate::error::Cause;
use crate::wire::{Body, Chain, ConfigKind, Configuration, Payload, attribute};
use crate::{Addresses, Identity, PeerConfig, Pool, Virtual};

/// DNS servers and domains taken from one peer, at most.
const MAX_DNS: usize = 16;

/// Our request, where we ask for addresses.
pub(crate) fn request(chain: &mut Chain, config: &PeerConfig) {
    if let Some(request) = wanted(config) {
        chain.push(&Payload::Config(request));
    }
}

/// What we ask for.
pub(crate) fn wanted(config: &PeerConfig) -> Option<Configuration> {
    let Addresses::Request(wanted) = &config.session.addresses else { return None };
    let mut request = Configuration::new(ConfigKind::Request);
    for address in wanted {
        match address {
            any if any.is_unspecified() => {
                let kind = if any.is_ipv4() { attribute::IP4_ADDRESS } else { attribute::IP6_ADDRESS };
                request.push(kind, []);
            }
            wish => request.push_address(*wish),
        }
        let dns = if address.is_ipv4() { attribute::IP4_DNS } else { attribute::IP6_DNS };
        request.push(dns, []);
    }
    // RFC 8598 3.1: the domains that those servers are for.
    request.push(attribute::DNS_DOMAIN, []);
    Some(request)
}

/// What the peer gave us.
pub(crate) fn read_reply(body: &Body<'_>, config: &PeerConfig) -> Result<Virtual, Cause> {
    if !matches!(config.session.addresses, Addresses::Request(_)) {
        return Ok(Virtual::default());
    }
    let reply = body.config().filter(|c| c.kind == ConfigKind::Reply).ok_or(Cause::MissingPayload("CP"))?;
    taken(config, reply)
}

/// What of a list we take: an address of each family that we asked for, DNS servers, domains.
pub(crate) fn taken(config: &PeerConfig, reply: &Configuration) -> Result<Virtual, Cause> {
    let Addresses::Request(wanted) = &config.session.addresses else { return Ok(Virtual::default()) };
    let usable = |a: &IpAddr| !(a.is_unspecified() || a.is_multicast() || a.is_loopback());
    let mut ours: Vec<IpAddr> = Vec::new();
    for kind in [attribute::IP4_ADDRESS, attribute::IP6_ADDRESS] {
        let asked = wanted.iter().any(|w| w.is_ipv6() == (kind == attribute::IP6_ADDRESS));
        ours.extend(reply.addresses(kind).find(usable).filter(|_| asked));
    }
    if ours.is_empty() {
        return Err(Cause::NoAddress);
    }
    let dns = [attribute::IP4_DNS, attribute::IP6_DNS].into_iter().flat_map(|kind| reply.addresses(kind));
    let domains = reply.attributes.iter().filter(|a| a.kind == attribute::DNS_DOMAIN);
    Ok(Virtual {
        ours,
        theirs: Vec::new(),
        dns: dns.filter(usable).take(MAX_DNS).collect(),
        domains: domains.filter_map(|a| domain(&a.value)).take(MAX_DNS).collect(),
    })
}

/// RFC 8598 3.1: a fully qualified name; what could not be one is passed over.
fn domain(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ((1..=253).contains(&text.len()) && text.chars().all(name)).then(|| text.to_owned())
}

/// Gives the peer what it asks for; the addresses are held by the IKE SA `sa`. The second part is the answer.
pub(crate) fn hand_out(
    ctx: &mut Ctx<'_>,
    config: &PeerConfig,
    identity: &Identity,
    body: &Body<'_>,
    sa: u64,
) -> Result<(Virtual, Option<Configuration>), Cause> {
    if !matches!(config.session.addresses, Addresses::Pool(_)) {
        return Ok((Virtual::default(), None));
    }
    let request = body.config().filter(|c| c.kind == ConfigKind::Request).ok_or(Cause::NoAddressAsked)?;
    given(ctx, config, identity, request, sa).map(|(addresses, reply)| (addresses, Some(reply)))
}

/// Addresses from the pool of a tunnel, as a list asks for them, and the list that says so.
pub(crate) fn given(
    ctx: &mut Ctx<'_>,
    config: &PeerConfig,
    identity: &Identity,
    request: &Configuration,
    sa: u64,
) -> Result<(Virtual, Configuration), Cause> {
    let Addresses::Pool(pool) = &config.session.addresses else { return Err(Cause::PoolExhausted) };
    let mut theirs = Vec::new();
    for (kind, ipv6) in [(attribute::IP4_ADDRESS, false), (attribute::IP6_ADDRESS, true)] {
        if request.has(kind) {
            let wish = request.addresses(kind).next();
            theirs.extend(ctx.leases.assign(pool, identity, ipv6, wish, sa));
        }
    }
    if theirs.is_empty() {
        return Err(Cause::PoolExhausted);
    }
    let reply = reply(pool, request, &theirs);
    Ok((Virtual { theirs, ..Virtual::default() }, reply))
}

fn reply(pool: &Pool, request: &Configuration, theirs: &[IpAddr]) -> Configuration {
    let mut reply = Configuration::new(ConfigKind::Reply);
    theirs.iter().for_each(|address| reply.push_address(*address));
    for dns in &pool.dns {
        let kind = if dns.is_ipv4() { attribute::IP4_DNS } else { attribute::IP6_DNS };
        if request.has(kind) {
            reply.push_dns(*dns);
        }
    }
    // RFC 8598 3.2: only to a peer that asks for domains.
    if request.has(attribute::DNS_DOMAIN) {
        pool.domains.iter().for_each(|domain| reply.push(attribute::DNS_DOMAIN, domain.as_bytes()));
    }
    reply
}

/// Selectors for exactly these addresses.
pub(crate) fn selectors(addresses: &[IpAddr]) -> Vec<TrafficSelector> {
    addresses.iter().map(|a| TrafficSelector::from_net(IpNet::from(*a))).collect()
}

/// The configuration as it holds for an IKE SA with these addresses: a side that got some has them and nothing else.
pub(crate) fn narrowed(config: &Arc<PeerConfig>, addresses: &Virtual) -> Arc<PeerConfig> {
    if addresses.ours.is_empty() && addresses.theirs.is_empty() {
        return Arc::clone(config);
    }
    let mut narrowed = PeerConfig::clone(config);
    if !addresses.ours.is_empty() {
        narrowed.local_ts = selectors(&addresses.ours);
    }
    if !addresses.theirs.is_empty() {
        narrowed.remote_ts = selectors(&addresses.theirs);
    }
    Arc::new(narrowed)
}
