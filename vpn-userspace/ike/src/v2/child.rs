//! CHILD SAs (RFC 7296 1.2, 1.3.1, 2.9, 2.17): what is offered, chosen and agreed, whatever exchange carries it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::DhGroup;
use culvert_types::{Spi, TrafficSelector};

use super::ctx::{Ctx, Path};
use super::pairs::{Pair, Scope};
use crate::error::Cause;
use crate::proposal::{self, select};
use crate::wire::{Body, Chain, Notify, Payload, Proposal, notify};
use crate::{EspMode, EspSuite, Pairs, PeerConfig, Purpose, selector};

/// Bytes of the name of a resource.
pub(crate) const MAX_RESOURCE: usize = 64;

/// A CHILD SA of an established IKE SA.
pub(crate) struct Child {
    pub(crate) inbound: Spi,
    pub(crate) outbound: Spi,
    pub(crate) state: State,
    /// We asked for it, or for the one that it took the place of.
    pub(crate) ours: bool,
    /// What is offered when it is rekeyed.
    pub(crate) scope: Scope,
    /// What it carries.
    pub(crate) selectors: Arc<Pair>,
    pub(crate) purpose: Purpose,
    /// Inbound SPI of the SA that it took the place of.
    pub(crate) replaces: Option<Spi>,
    /// It has a key exchange of its own.
    pub(crate) keyed: bool,
    /// When we rekey it.
    pub(crate) soft: Option<Instant>,
    /// While its rekeying is being tested: when it would be rekeyed without that.
    pub(crate) tested: Option<Instant>,
    /// When it must be gone.
    pub(crate) hard: Instant,
    /// When its outbound side is used even though the peer has not deleted the one before.
    pub(crate) outbound_due: Option<Instant>,
}

/// Where a CHILD SA is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In use.
    Live,
    /// Another one took its place; who initiated that one will delete this one.
    Replaced,
    /// Lost a collision; who initiated it will delete it.
    Redundant,
    /// We are about to delete it, or have asked the peer to.
    Deleting,
}

/// What both sides agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Agreed {
    pub(crate) inbound: Spi,
    pub(crate) outbound: Spi,
    pub(crate) suite: EspSuite,
    pub(crate) local_ts: Vec<TrafficSelector>,
    pub(crate) remote_ts: Vec<TrafficSelector>,
    /// We asked for it.
    pub(crate) ours: bool,
    /// For what it was asked.
    pub(crate) scope: Scope,
    /// As responder: the peer may have the rest of what it asked for in others (RFC 7296 2.9).
    pub(crate) more: bool,
    pub(crate) transport: bool,
    /// As responder of transport mode through a NAT: the initiator's selectors and ours, as the initiator knows them.
    told: Option<(Vec<TrafficSelector>, Vec<TrafficSelector>)>,
}

/// Why there is no CHILD SA, with what either side had.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// The peer believes that the SA exists.
    pub(crate) peer_has_it: bool,
}

impl Refusal {
    fn new(cause: Cause, ours: String, theirs: String) -> Self {
        Self { cause, ours, theirs, peer_has_it: false }
    }

    pub(crate) fn plain(cause: Cause) -> Self {
        Self::new(cause, String::new(), String::new())
    }
}

/// Our offer of a CHILD SA.
pub(crate) struct Offer {
    pub(crate) inbound: Spi,
    pub(crate) scope: Scope,
    offered: Vec<Proposal>,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
    proposals: String,
    transport: bool,
}

impl Offer {
    /// Reserves an SPI for the IKE SA `owner`. `with_groups`: in CREATE_CHILD_SA.
    pub(crate) fn new(
        ctx: &mut Ctx<'_>,
        config: &PeerConfig,
        owner: u64,
        with_groups: bool,
        scope: Scope,
    ) -> Self {
        let inbound = ctx.esp_spi(owner, config.spi_parity);
        let proposals = config.proposals_for(resource_of(&scope));
        let (local_ts, remote_ts) = match &scope {
            Some(pair) => (pair.local.clone(), pair.remote.clone()),
            None => (config.local_ts.clone(), config.remote_ts.clone()),
        };
        Self {
            inbound,
            offered: select::offer_esp(proposals, config.esn, with_groups, &inbound.to_bytes()),
            local_ts,
            remote_ts,
            proposals: proposal::list(proposals),
            scope,
            transport: config.exchange.mode == EspMode::Transport,
        }
    }

    /// SA, selectors and what we cannot do; nonce and key come before, from exchanges that have them.
    pub(crate) fn write(&self, chain: &mut Chain) {
        chain.push(&Payload::Sa(self.offered.clone()));
        self.write_selectors(chain);
    }

    pub(crate) fn write_sa(&self, chain: &mut Chain) {
        chain.push(&Payload::Sa(self.offered.clone()));
    }

    pub(crate) fn write_selectors(&self, chain: &mut Chain) {
        chain.push(&Payload::TsI(self.local_ts.clone()));
        chain.push(&Payload::TsR(self.remote_ts.clone()));
        if let Some(resource) = resource_of(&self.scope) {
            chain.push(&Payload::Notify(Notify::new(notify::SA_RESOURCE_INFO, resource)));
        }
        if self.transport {
            chain.push(&Payload::Notify(Notify::new(notify::USE_TRANSPORT_MODE, &[])));
        }
        // RFC 7296 1.3.1: we do not unpad traffic flow confidentiality padding.
        chain.push(&Payload::Notify(Notify::new(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[])));
    }

    fn selectors(&self) -> String {
        format!("{} === {}", selector::describe(&self.local_ts), selector::describe(&self.remote_ts))
    }

    /// Reads the responder's answer.
    pub(crate) fn accept(&self, body: &Body<'_>) -> Result<Agreed, Refusal> {
        let Some(answer) = body.sa() else {
            let ours = self.proposals.clone();
            return Err(match body.error().map(|n| n.kind) {
                Some(notify::NO_PROPOSAL_CHOSEN) => {
                    Refusal::new(Cause::ProposalsRefused, ours, String::new())
                }
                Some(notify::TS_UNACCEPTABLE) => {
                    Refusal::new(Cause::SelectorsRefused, self.selectors(), String::new())
                }
                Some(other) => Refusal::plain(Cause::Refused(other)),
                None => Refusal::plain(Cause::MissingPayload("SA")),
            });
        };
        self.check(body, answer).map_err(|refusal| Refusal { peer_has_it: true, ..refusal })
    }

    fn check(&self, body: &Body<'_>, answer: &[Proposal]) -> Result<Agreed, Refusal> {
        let wrong = || Refusal::new(Cause::WrongChoice, self.proposals.clone(), proposal::describe(answer));
        let suite = select::accept_esp(&self.offered, answer).ok_or_else(wrong)?;
        let outbound = peer_spi(answer.first())?;
        // RFC 7296 1.3.1: transport mode only where both ask for it; who insists on it deletes an SA of the other kind.
        match (self.transport, body.notify(notify::USE_TRANSPORT_MODE).is_some()) {
            (false, true) => return Err(Refusal::plain(Cause::TransportMode)),
            (true, false) => return Err(Refusal::plain(Cause::TunnelMode)),
            (true, true) | (false, false) => {}
        }
        let missing = |what| Refusal::plain(Cause::MissingPayload(what));
        let ts_i = body.ts_i().ok_or_else(|| missing("TSi"))?;
        let ts_r = body.ts_r().ok_or_else(|| missing("TSr"))?;
        if !selector::is_part_of(ts_i, &self.local_ts) || !selector::is_part_of(ts_r, &self.remote_ts) {
            let theirs = format!("{} === {}", selector::describe(ts_i), selector::describe(ts_r));
            return Err(Refusal::new(Cause::SelectorsWidened, self.selectors(), theirs));
        }
        let (local_ts, remote_ts) = (ts_i.to_vec(), ts_r.to_vec());
        let scope = self.scope.clone();
        let (inbound, ours, more) = (self.inbound, true, false);
        let (transport, told) = (self.transport, None);
        Ok(Agreed { inbound, outbound, suite, local_ts, remote_ts, ours, scope, more, transport, told })
    }
}

fn peer_spi(proposal: Option<&Proposal>) -> Result<Spi, Refusal> {
    let bytes = proposal.and_then(|p| <[u8; 4]>::try_from(p.spi.as_slice()).ok());
    let value = bytes.map_or(0, u32::from_be_bytes);
    Spi::new(value).map_err(|_| Refusal::plain(Cause::BadSpi(value.into())))
}

/// The responder's choice from an offer: what was agreed, and the proposal that says so. The SPI is reserved for
/// the IKE SA `owner` only on success.
pub(crate) fn choose(
    ctx: &mut Ctx<'_>,
    config: &PeerConfig,
    owner: u64,
    body: &Body<'_>,
    with_groups: bool,
    old: Option<&Pair>,
    path: &Path,
) -> Result<(Agreed, Proposal), Refusal> {
    #[cfg(test)]
    quirks(ctx, body, with_groups)?;
    let missing = |what| Refusal::plain(Cause::MissingPayload(what));
    let offers = body.sa().ok_or_else(|| missing("SA"))?;
    let (ts_i, ts_r) =
        (body.ts_i().ok_or_else(|| missing("TSi"))?, body.ts_r().ok_or_else(|| missing("TSr"))?);
    // RFC 9611 5.1: what it says is the peer's affair; it tells one of several from the others.
    let resource = match old {
        Some(old) => old.resource.clone(),
        None => named_resource(body).map(Arc::from),
    };
    let proposals = config.proposals_for(resource.as_deref());
    let Some(chosen) = select::choose_esp(proposals, config.esn, with_groups, offers) else {
        let ours = proposal::list(proposals);
        let but_for_groups =
            with_groups && select::choose_esp(proposals, config.esn, false, offers).is_some();
        let cause = if but_for_groups { Cause::NoGroup } else { Cause::NoProposal };
        return Err(Refusal::new(cause, ours, proposal::describe(offers)));
    };
    let outbound = peer_spi(Some(&chosen.answer))?;
    let transport = config.exchange.mode == EspMode::Transport;
    if transport && body.notify(notify::USE_TRANSPORT_MODE).is_none() {
        return Err(Refusal::plain(Cause::TunnelMode));
    }
    // RFC 7296 2.23.1: the addresses in the selectors are those that the initiator knows; ours are what counts here.
    let through_nat = transport && (path.nat_local || path.nat_remote);
    let seen = through_nat.then(|| (replaced(ts_i, path.remote.ip()), replaced(ts_r, path.local.ip())));
    let (known_i, known_r) = (ts_i, ts_r);
    let (ts_i, ts_r) = seen.as_ref().map_or((ts_i, ts_r), |(i, r)| (i.as_slice(), r.as_slice()));
    let (mut remote_ts, mut local_ts) =
        (selector::narrow(ts_i, &config.remote_ts), selector::narrow(ts_r, &config.local_ts));
    let told = through_nat.then(|| (as_known(&remote_ts, known_i), as_known(&local_ts, known_r)));
    let mut more = false;
    if config.exchange.pairs == Pairs::Each {
        // A rekeyed one carries what the old one did; a new one the first pair of what the peer asks for.
        if let Some(old) = old {
            remote_ts = selector::narrow(&remote_ts, &old.remote);
            local_ts = selector::narrow(&local_ts, &old.local);
        }
        let before = (remote_ts.len(), local_ts.len());
        first_pair(&mut remote_ts, &mut local_ts);
        more = before != (remote_ts.len(), local_ts.len());
    }
    if remote_ts.is_empty() || local_ts.is_empty() {
        let ours =
            format!("{} === {}", selector::describe(&config.local_ts), selector::describe(&config.remote_ts));
        let theirs = format!("{} === {}", selector::describe(ts_i), selector::describe(ts_r));
        return Err(Refusal::new(Cause::NoSelectors, ours, theirs));
    }
    let inbound = ctx.esp_spi(owner, config.spi_parity);
    let answer = Proposal { spi: inbound.to_bytes().to_vec(), ..chosen.answer };
    let all = local_ts == config.local_ts && remote_ts == config.remote_ts;
    let scope = (!all || resource.is_some())
        .then(|| Arc::new(Pair { local: local_ts.clone(), remote: remote_ts.clone(), resource }));
    let suite = chosen.suite;
    let ours = false;
    let agreed = Agreed { inbound, outbound, suite, local_ts, remote_ts, ours, scope, more, transport, told };
    Ok((agreed, answer))
}

/// Selectors of single addresses, with this one in their place.
fn replaced(selectors: &[TrafficSelector], address: IpAddr) -> Vec<TrafficSelector> {
    let one = |ts: &TrafficSelector| {
        let host = ts.start() == ts.end() && ts.is_ipv4() == address.is_ipv4();
        let with = host.then(|| TrafficSelector::new(address, address, ts.protocol(), ts.ports()).ok());
        with.flatten().unwrap_or_else(|| ts.clone())
    };
    selectors.iter().map(one).collect()
}

/// What was agreed, with the addresses that the initiator has for it.
fn as_known(agreed: &[TrafficSelector], known: &[TrafficSelector]) -> Vec<TrafficSelector> {
    match known.iter().find(|ts| ts.start() == ts.end()) {
        Some(host) => replaced(agreed, host.start()),
        None => agreed.to_vec(),
    }
}

/// Leaves one selector on each side, both of one family: the first of the peer's that has a counterpart (RFC 7296 2.9
/// puts the packet that it wants to send first).
fn first_pair(remote: &mut Vec<TrafficSelector>, local: &mut Vec<TrafficSelector>) {
    let pair = remote.iter().find_map(|r| {
        let other = local.iter().find(|l| l.is_ipv4() == r.is_ipv4())?;
        Some((r.clone(), other.clone()))
    });
    if let Some((r, l)) = pair {
        (*remote, *local) = (vec![r], vec![l]);
    }
}

#[cfg(test)]
fn quirks(ctx: &Ctx<'_>, body: &Body<'_>, create: bool) -> Result<(), Refusal> {
    let quirks = ctx.config.quirks;
    let several = body.ts_i().is_some_and(|ts| ts.len() > 1) || body.ts_r().is_some_and(|ts| ts.len() > 1);
    match quirks.refuse {
        Some(kind) if create => Err(Refusal::plain(Cause::Refused(kind))),
        _ if quirks.single_pair && several => {
            Err(Refusal::plain(Cause::Refused(notify::SINGLE_PAIR_REQUIRED)))
        }
        _ => Ok(()),
    }
}

/// SA and selectors of an answer in IKE_AUTH.
pub(crate) fn write_answer(chain: &mut Chain, answer: Proposal, agreed: &Agreed) {
    chain.push(&Payload::Sa(vec![answer]));
    write_answer_selectors(chain, agreed);
}

/// The selectors of an answer: the initiator's side is the peer's.
pub(crate) fn write_answer_selectors(chain: &mut Chain, agreed: &Agreed) {
    let (ts_i, ts_r) = agreed.told.clone().unwrap_or((agreed.remote_ts.clone(), agreed.local_ts.clone()));
    chain.push(&Payload::TsI(ts_i));
    chain.push(&Payload::TsR(ts_r));
    if agreed.transport {
        chain.push(&Payload::Notify(Notify::new(notify::USE_TRANSPORT_MODE, &[])));
    }
    if agreed.more {
        chain.push(&Payload::Notify(Notify::new(notify::ADDITIONAL_TS_POSSIBLE, &[])));
    }
    // RFC 9611 3: that we know what it is about.
    if let Some(resource) = resource_of(&agreed.scope) {
        chain.push(&Payload::Notify(Notify::new(notify::SA_RESOURCE_INFO, resource)));
    }
    chain.push(&Payload::Notify(Notify::new(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[])));
}

/// The name of the resource that a CHILD SA of this scope is for.
pub(crate) fn resource_of(scope: &Scope) -> Option<&[u8]> {
    scope.as_ref().and_then(|pair| pair.resource.as_deref())
}

/// The resource that a request names, as much of it as is kept.
pub(crate) fn named_resource<'a>(body: &Body<'a>) -> Option<&'a [u8]> {
    body.notify(notify::SA_RESOURCE_INFO).map(|n| n.data.get(..MAX_RESOURCE).unwrap_or(n.data))
}

/// The first group that the ESP proposals of this scope name, for the KE payload of a CREATE_CHILD_SA request.
pub(crate) fn first_group(config: &PeerConfig, scope: &Scope) -> Option<DhGroup> {
    config.proposals_for(resource_of(scope)).iter().find_map(|p| p.groups().first().copied())
}
