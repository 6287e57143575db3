//! MOBIKE (RFC 4555): addresses of an IKE SA and its CHILD SAs that change, without negotiating anew; both roles.
//!
//! Who opened the first of a line of IKE SAs decides which addresses are used (RFC 4555 3.5); the other side follows,
//! and checks that the peer can be reached where it says (3.7) before ESP goes there.

use std::net::{IpAddr, SocketAddr};

use super::ctx::{Ctx, log};
use super::nat;
use super::sa::{IkeSa, Pending, Task};
use crate::error::{Cause, Phase};
use crate::wire::{Body, Chain, Exchange, Notify, Payload, notify};
use crate::{DownReason, Event, Mobike, PeerConfig};

/// Further addresses of one peer that are remembered, and ours that are told, at most.
const MAX_ADDRESSES: usize = 8;
/// Bytes of a COOKIE2 (RFC 4555 4.2.5: 8 to 64).
const COOKIE2: usize = 16;
/// Repetitions of a request on one path before the others are tried as well.
const PATIENCE: u32 = 2;

/// What an IKE SA that may move knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mobility {
    /// We opened the first IKE SA of this line: the addresses are ours to choose.
    decides: bool,
    /// Where the peer can be reached as well.
    peers: Vec<IpAddr>,
    /// How the peer last saw us (NAT_DETECTION_DESTINATION_IP), to notice that a NAT gave us another port.
    seen: Option<Vec<u8>>,
}

impl Mobility {
    /// The same for a rekeyed IKE SA: what the peer says of a mapping depends on the SPIs.
    pub(crate) fn rekeyed(&mut self) {
        self.seen = None;
    }
}

/// An UPDATE_SA_ADDRESSES that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    cookie: [u8; COOKIE2],
}

/// What a request about addresses means for its answer.
pub(crate) enum Moved {
    /// Nothing but what was added to the answer.
    Answered,
    /// The answer is this error alone.
    Refused(u16),
}

/// In IKE_AUTH's request: we can move, and where we are as well (RFC 4555 3.1, 3.2).
pub(crate) fn offer(chain: &mut Chain, ctx: &Ctx<'_>, config: &PeerConfig) {
    if config.exchange.mobike.offers() {
        say(chain, ctx, config.local.ip());
    }
}

fn say(chain: &mut Chain, ctx: &Ctx<'_>, used: IpAddr) {
    chain.push(&Payload::Notify(Notify::new(notify::MOBIKE_SUPPORTED, &[])));
    tell_addresses(chain, ctx, used, false);
}

/// In IKE_AUTH's last answer, to a peer that can move as well.
pub(crate) fn accept(
    chain: &mut Chain,
    ctx: &Ctx<'_>,
    config: &PeerConfig,
    (request, used): (&Body<'_>, IpAddr),
) -> Option<Mobility> {
    let both = config.exchange.mobike != Mobike::No && request.notify(notify::MOBIKE_SUPPORTED).is_some();
    both.then(|| {
        say(chain, ctx, used);
        Mobility { decides: false, peers: addresses(request).unwrap_or_default(), seen: None }
    })
}

/// What the answer to our offer says.
pub(crate) fn agreed(config: &PeerConfig, answer: &Body<'_>) -> Option<Mobility> {
    let both = config.exchange.mobike.offers() && answer.notify(notify::MOBIKE_SUPPORTED).is_some();
    both.then(|| Mobility { decides: true, peers: addresses(answer).unwrap_or_default(), seen: None })
}

/// Our addresses beside the one in use (RFC 4555 3.4, 3.6). With `none`, that there are none is said as well.
fn tell_addresses(chain: &mut Chain, ctx: &Ctx<'_>, used: IpAddr, none: bool) {
    let mut told = 0;
    for address in ctx.config.addresses.iter().filter(|a| **a != used).take(MAX_ADDRESSES) {
        told += 1;
        match address {
            IpAddr::V4(a) => {
                let data = a.octets();
                chain.push(&Payload::Notify(Notify::new(notify::ADDITIONAL_IP4_ADDRESS, &data)));
            }
            IpAddr::V6(a) => {
                let data = a.octets();
                chain.push(&Payload::Notify(Notify::new(notify::ADDITIONAL_IP6_ADDRESS, &data)));
            }
        }
    }
    if told == 0 && none {
        chain.push(&Payload::Notify(Notify::new(notify::NO_ADDITIONAL_ADDRESSES, &[])));
    }
}

/// The peer's further addresses, where it says something of them. Each list replaces the one before (RFC 4555 3.6).
fn addresses(body: &Body<'_>) -> Option<Vec<IpAddr>> {
    let mut said = body.notify(notify::NO_ADDITIONAL_ADDRESSES).is_some();
    let mut list = Vec::new();
    for n in body.notifies() {
        let address = match n.kind {
            notify::ADDITIONAL_IP4_ADDRESS => <[u8; 4]>::try_from(n.data).ok().map(IpAddr::from),
            notify::ADDITIONAL_IP6_ADDRESS => <[u8; 16]>::try_from(n.data).ok().map(IpAddr::from),
            _ => continue,
        };
        said = true;
        let usable = address.filter(|a| !(a.is_unspecified() || a.is_multicast() || a.is_loopback()));
        list.extend(usable.filter(|a| !list.contains(a)));
    }
    list.truncate(MAX_ADDRESSES);
    said.then_some(list)
}

/// The data of NO_NATS_ALLOWED (RFC 4555 4.2.6): addresses and ports of a message from `local` to `remote`.
fn no_nats(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut data = Vec::with_capacity(36);
    for end in [local, remote] {
        match end.ip() {
            IpAddr::V4(a) => data.extend_from_slice(&a.octets()),
            IpAddr::V6(a) => data.extend_from_slice(&a.octets()),
        }
    }
    data.extend_from_slice(&local.port().to_be_bytes());
    data.extend_from_slice(&remote.port().to_be_bytes());
    data
}

impl Mobike {
    /// Whether the initiator offers it.
    pub fn offers(self) -> bool {
        matches!(self, Self::Yes | Self::WithoutNat)
    }
}

impl IkeSa {
    /// Our side has another address from now on. `false`: the peer cannot follow.
    pub(crate) fn relocate(&mut self, ctx: &mut Ctx<'_>, local: IpAddr) -> bool {
        let Some(mobility) = &self.carried.mobility else { return false };
        let decides = mobility.decides;
        if self.path.local.ip() == local {
            return true;
        }
        log!(info, self.config.name, "this gateway moves from {} to {local}", self.path.local.ip());
        self.path.local = SocketAddr::new(local, self.path.local.port());
        if local.is_ipv4() != self.path.remote.is_ipv4() {
            // A path of our new family, if the peer has told of one.
            let known = self.carried.mobility.iter().flat_map(|m| &m.peers);
            let other = known.into_iter().find(|a| a.is_ipv4() == local.is_ipv4());
            let Some(other) = other else { return false };
            self.path.remote = SocketAddr::new(*other, self.path.remote.port());
        }
        self.tasks.push_front(if decides { Task::UpdateAddresses } else { Task::TellAddresses });
        if !decides {
            // Who decides may follow without a word of its own (strongSwan does): our end is where it is.
            self.tell_moved(ctx);
        }
        // RFC 4555 3.5: what waits for an answer goes on, from the new address.
        self.repeat_now(ctx);
        true
    }

    /// Sends the request that waits for its answer once more, and begins its waiting anew.
    fn repeat_now(&mut self, ctx: &mut Ctx<'_>) {
        let timeout = self.config.dpd.map(|dpd| dpd.timeout);
        let Some(inflight) = self.window.inflight_mut() else { return };
        inflight.retransmission =
            crate::window::Retransmission::new(ctx.now, &ctx.config.retransmit, timeout);
        let message = inflight.message.clone();
        self.last_sent = ctx.now;
        ctx.send(&self.path, message);
    }

    /// Learns how a NAT shows us to the peer, to notice when that changes.
    pub(crate) fn learn_mapping(&mut self) {
        if self.path.nat_local && self.carried.mobility.as_ref().is_some_and(|m| m.decides) {
            self.queue(Task::Liveness);
        }
    }

    /// Whether the addresses of this IKE SA change by MOBIKE alone: never by what merely comes from elsewhere.
    pub(crate) fn is_mobile(&self) -> bool {
        self.carried.mobility.is_some()
    }

    pub(crate) fn start_update(&mut self, ctx: &mut Ctx<'_>) {
        let mut chain = Chain::new();
        chain.push(&Payload::Notify(Notify::new(notify::UPDATE_SA_ADDRESSES, &[])));
        let (local, remote) = (self.path.local, self.path.remote);
        if self.config.exchange.mobike == Mobike::WithoutNat {
            let data = no_nats(local, remote);
            chain.push(&Payload::Notify(Notify::new(notify::NO_NATS_ALLOWED, &data)));
        } else {
            self.announce(&mut chain, ctx, (local, remote));
        }
        tell_addresses(&mut chain, ctx, local.ip(), true);
        let mut cookie = [0; COOKIE2];
        ctx.random.fill(&mut cookie);
        chain.push(&Payload::Notify(Notify::new(notify::COOKIE2, &cookie)));
        let pending = Pending::Update(Update { cookie });
        self.request(ctx, Exchange::Informational, &chain, pending);
    }

    pub(crate) fn start_tell_addresses(&mut self, ctx: &mut Ctx<'_>) {
        let mut chain = Chain::new();
        tell_addresses(&mut chain, ctx, self.path.local.ip(), true);
        self.request(ctx, Exchange::Informational, &chain, Pending::Liveness);
    }

    pub(crate) fn start_return_check(&mut self, ctx: &mut Ctx<'_>) {
        let mut cookie = [0; COOKIE2];
        ctx.random.fill(&mut cookie);
        let mut chain = Chain::new();
        chain.push(&Payload::Notify(Notify::new(notify::COOKIE2, &cookie)));
        self.request(ctx, Exchange::Informational, &chain, Pending::ReturnCheck(Update { cookie }));
    }

    /// Whether the peer lives; who decides and is behind a NAT asks as well whether that has given it another port
    /// (RFC 4555 3.8).
    pub(crate) fn start_liveness(&mut self, ctx: &mut Ctx<'_>) {
        let mut chain = Chain::new();
        if self.path.nat_local && self.carried.mobility.as_ref().is_some_and(|m| m.decides) {
            self.announce(&mut chain, ctx, (self.path.local, self.path.remote));
        }
        self.request(ctx, Exchange::Informational, &chain, Pending::Liveness);
    }

    fn announce(&self, chain: &mut Chain, ctx: &mut Ctx<'_>, ends: (SocketAddr, SocketAddr)) {
        nat::announce(chain, ctx.random, (self.spi_i, self.spi_r), ends, self.config.force_encap);
    }

    /// What a request of the peer, from `remote` to `local`, says of addresses.
    pub(crate) fn on_mobility(
        &mut self,
        ctx: &mut Ctx<'_>,
        body: &Body<'_>,
        (local, remote): (SocketAddr, SocketAddr),
        answer: &mut Chain,
    ) -> Moved {
        if let Some(n) = body.notify(notify::NO_NATS_ALLOWED)
            && n.data != no_nats(remote, local)
        {
            log!(warn, self.config.name, "the peer wants no NAT between, but there is one before {remote}");
            return Moved::Refused(notify::UNEXPECTED_NAT_DETECTED);
        }
        let Some(mobility) = &mut self.carried.mobility else { return Moved::Answered };
        let decides = mobility.decides;
        let told = addresses(body);
        let news = told.is_some();
        if let Some(told) = told {
            mobility.peers = told;
        }
        let found = nat::detect(body, (self.spi_i, self.spi_r), local, remote);
        let elsewhere = (local, remote) != (self.path.local, self.path.remote);
        if !decides && body.notify(notify::UPDATE_SA_ADDRESSES).is_some() {
            let hosts = |a: SocketAddr, b: SocketAddr| (a.ip(), b.ip());
            let moved = hosts(local, remote) != hosts(self.path.local, self.path.remote);
            (self.path.local, self.path.remote) = (local, remote);
            self.set_nat(found);
            log!(info, self.config.name, "the peer says that it is at {remote} now (here {local})");
            self.tasks.retain(|t| *t != Task::ReturnCheck);
            if moved {
                // RFC 4555 3.7: no ESP goes there before the peer has answered from there.
                self.tasks.push_front(Task::ReturnCheck);
            } else {
                self.tell_moved(ctx);
            }
        } else if decides && news && elsewhere {
            // RFC 4555 3.6: the peer speaks from another of its addresses: the one that we used may be gone.
            (self.path.local, self.path.remote) = (local, remote);
            self.tasks.retain(|t| *t != Task::UpdateAddresses);
            self.tasks.push_front(Task::UpdateAddresses);
        }
        if found.supported {
            self.announce(answer, ctx, (local, remote));
        }
        if let Some(cookie) = body.notify(notify::COOKIE2) {
            answer.push(&Payload::Notify(Notify::new(notify::COOKIE2, cookie.data)));
        }
        Moved::Answered
    }

    fn set_nat(&mut self, found: nat::Found) {
        if found.supported {
            let path = &mut self.path;
            (path.nat_local, path.nat_remote) = (found.local, found.remote);
            path.encap = found.local || found.remote || self.config.force_encap;
        }
    }

    fn tell_moved(&self, ctx: &mut Ctx<'_>) {
        let (local, remote, encap) = (self.path.local, self.path.remote, self.path.encap);
        log!(info, self.config.name, "the path is now {local} - {remote}");
        ctx.event(Event::PeerMoved { tunnel: self.tunnel, local, remote, encap });
    }

    /// The answer to UPDATE_SA_ADDRESSES, which came from `remote` to `local`.
    pub(crate) fn finish_update(
        &mut self,
        ctx: &mut Ctx<'_>,
        update: &Update,
        body: &Body<'_>,
        (local, remote): (SocketAddr, SocketAddr),
    ) {
        // RFC 4555 3.5: the addresses changed once more: this answer says nothing of them.
        if self.tasks.contains(&Task::UpdateAddresses) {
            return;
        }
        if let Some(error) = body.error() {
            return self.mobility_failed(ctx, Cause::Refused(error.kind));
        }
        if !self.cookie_returns(ctx, update, body) {
            return;
        }
        (self.path.local, self.path.remote) = (local, remote);
        self.set_nat(nat::detect(body, (self.spi_i, self.spi_r), local, remote));
        self.note_mapping(body);
        self.tell_moved(ctx);
    }

    /// The answer to COOKIE2 of its own: the peer is where it says.
    pub(crate) fn finish_return_check(&mut self, ctx: &mut Ctx<'_>, check: &Update, body: &Body<'_>) {
        // It moved once more, or another check is to come.
        if self.tasks.contains(&Task::ReturnCheck) {
            return;
        }
        if self.cookie_returns(ctx, check, body) {
            self.tell_moved(ctx);
        }
    }

    /// RFC 4555 3.7: another COOKIE2 than ours ends the IKE SA.
    fn cookie_returns(&mut self, ctx: &mut Ctx<'_>, sent: &Update, body: &Body<'_>) -> bool {
        let same = body.notify(notify::COOKIE2).is_some_and(|n| n.data == sent.cookie);
        if !same {
            self.mobility_failed(ctx, Cause::ReturnRoutability);
        }
        same
    }

    fn mobility_failed(&mut self, ctx: &mut Ctx<'_>, cause: Cause) {
        if self.serves() {
            ctx.failed(self.failure(Phase::Informational, cause));
        }
        self.close(ctx, DownReason::PeerError);
    }

    /// An answer to any request of ours: it may come by another path than the one in use, or tell that a NAT has given
    /// us another port.
    pub(crate) fn on_answer_path(&mut self, body: &Body<'_>, (local, remote): (SocketAddr, SocketAddr)) {
        let Some(mobility) = self.carried.mobility.as_ref().filter(|m| m.decides) else { return };
        let before = mobility.seen.clone();
        let other_path = (local, remote) != (self.path.local, self.path.remote);
        if other_path {
            (self.path.local, self.path.remote) = (local, remote);
        }
        let mapping = self.note_mapping(body);
        let remapped = before.is_some() && mapping.is_some() && mapping != before;
        if (other_path || remapped) && !self.tasks.contains(&Task::UpdateAddresses) {
            self.tasks.push_front(Task::UpdateAddresses);
        }
    }

    fn note_mapping(&mut self, body: &Body<'_>) -> Option<Vec<u8>> {
        let seen = body.notify(notify::NAT_DETECTION_DESTINATION_IP).map(|n| n.data.to_vec())?;
        // A hash of 20 bytes; what is longer is none.
        let seen = (seen.len() == 20).then_some(seen)?;
        let mobility = self.carried.mobility.as_mut()?;
        mobility.seen = Some(seen.clone());
        Some(seen)
    }

    /// The other paths to the peer, to be tried when the one in use is silent (RFC 4555 3.10).
    pub(crate) fn other_paths(&self, ctx: &Ctx<'_>) -> Vec<(SocketAddr, SocketAddr)> {
        let repeated = self.window.inflight().map_or(0, |i| i.retransmission.repeated());
        let Some(mobility) = self.carried.mobility.as_ref().filter(|m| m.decides && repeated > PATIENCE)
        else {
            return Vec::new();
        };
        let own = std::iter::once(self.path.local.ip()).chain(ctx.config.addresses.iter().copied());
        let own: Vec<IpAddr> = own.fold(Vec::new(), |mut list, a| {
            if !list.contains(&a) {
                list.push(a);
            }
            list
        });
        let theirs = std::iter::once(self.path.remote.ip()).chain(mobility.peers.iter().copied());
        let in_use = (self.path.local.ip(), self.path.remote.ip());
        theirs
            .flat_map(|remote| own.iter().map(move |local| (*local, remote)))
            .filter(|(local, remote)| local.is_ipv4() == remote.is_ipv4() && (*local, *remote) != in_use)
            .take(MAX_ADDRESSES)
            .map(|(local, remote)| {
                let (ours, theirs) = (self.path.local.port(), self.path.remote.port());
                (SocketAddr::new(local, ours), SocketAddr::new(remote, theirs))
            })
            .collect()
    }
}
