//! One tunnel of the engine `xfrm`: its SA pairs, and the policies that follow from them.
//!
//! Policies are never edited one by one: [`Tunnel::desired`] says what should be there, and
//! [`Tunnel::reconcile`] makes it so, new ones before old ones go. Whatever the state, an outbound
//! packet meets a policy: an SA's, or one that drops it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use culvert_crypto::{Suite, SuiteKeys};
use culvert_ike::Purpose;
use culvert_sys::mss::ClampedInterface;
use culvert_sys::netlink::NetlinkError;
use culvert_sys::tun::Tun;
use culvert_sys::xfrm::{
    Direction, Encapsulation, IF_ID_BASE, IF_ID_COUNT, KernelSelector, Limits, OffloadTo, Policy,
    PolicyAction, PolicyId, SaDirection, SaId, SaOptions, SaSpec, SaState, SelectorPairError, Sequence, Xfrm,
    selector_pairs,
};
use culvert_types::{Spi, TunnelId};
use ipnet::IpNet;

use super::card::tell;
use crate::KernelIpsec;
use crate::user::setup::SaSetup;

/// Priorities: the smallest number that matches decides.
const BYPASS: u32 = 500;
const PROTECT: u32 = 1000;
const TRAP: u32 = 2000;
const BLOCK: u32 = 3000;

/// After the negotiated lifetime the kernel drops an SA by itself, so much later: only if nobody did.
const AGE_MARGIN: Duration = Duration::from_secs(30);

/// Which packets meet a tunnel's policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that are routed into its xfrm interface.
    Interface {
        /// Its number.
        if_id: u32,
    },
    /// All of the host's: in transport mode, and where the kernel has no xfrm interfaces.
    Host {
        /// Transport mode.
        transport: bool,
    },
}

impl Scope {
    /// 0 where there is no xfrm interface.
    pub(super) fn if_id(self) -> u32 {
        if let Self::Interface { if_id } = self { if_id } else { 0 }
    }

    fn transport(self) -> bool {
        self == Self::Host { transport: true }
    }
}

/// A reqid that no SA of ours has, for policies that ask for one.
const NO_REQID: u32 = IF_ID_BASE;

/// Of our range, since an SA of no interface is known as ours by it; so many later it is free again.
fn new_reqid() -> u32 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    IF_ID_BASE + 1 + GIVEN.fetch_add(1, Ordering::Relaxed) % (IF_ID_COUNT - 1)
}

/// ICMPv6 types of neighbour discovery (RFC 4861 4.3, 4.4): without it no SA comes to be on a shared link.
const NEIGHBOUR_DISCOVERY: [u16; 2] = [135, 136];

/// How the engine treats outer headers.
#[derive(Debug, Clone, Copy)]
pub(super) struct OuterRules {
    pub(super) copy_df: bool,
    pub(super) copy_dscp: bool,
}

/// An SA pair.
pub(super) struct Pair {
    /// Tells it from an earlier pair of the same SPI.
    pub(super) serial: u64,
    pub(super) inbound: Spi,
    pub(super) outbound: Spi,
    suite: Suite,
    inbound_keys: SuiteKeys,
    outbound_keys: SuiteKeys,
    esn: bool,
    pub(super) replay_window: u32,
    /// Our outer address; with UDP encapsulation its port, else 0.
    pub(super) local: SocketAddr,
    /// The peer's.
    pub(super) remote: SocketAddr,
    encap: bool,
    installed: Instant,
    lifetime: Duration,
    limits: crate::user::setup::Limits,
    /// Of the inbound SA: the same for all that a pair was rekeyed to, so that its policies serve each of them.
    reqid: u32,
    /// Of the outbound SA, its alone: of several with one reqid the kernel would choose, and newer ones (6.13) choose
    /// the one that they used before. Only SAs for a CPU have that of the SA beside which they stand.
    outbound_reqid: u32,
    /// The CPU that sends with it; none for all that have no SA of their own.
    cpu: Option<u16>,
    /// Outbound.
    selectors: Vec<KernelSelector>,
    pub(super) outbound_state: OutboundState,
    /// The outer source that the kernel has for the inbound SA: it cannot be changed in place.
    inbound_source: IpAddr,
    /// The outbound SA to where the peer was before, which goes as soon as nothing leads to it.
    left_behind: Option<SaId>,
    /// The network card that does the cipher, as far as it takes it.
    pub(super) card: Option<u32>,
    /// Why it does not.
    pub(super) card_refused: Option<String>,
}

/// Whether the outbound SA of a pair is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutboundState {
    /// Not yet.
    Waiting,
    /// It is, and policies lead to it.
    Active,
    /// It is, but a newer one took over; about to go.
    Superseded,
    /// Gone; its last counters.
    Gone { packets: u64, bytes: u64, sequence: u64 },
}

pub(super) struct Tunnel {
    pub(super) id: TunnelId,
    pub(super) interface: String,
    pub(super) scope: Scope,
    /// Its interface; none in transport mode.
    pub(super) link: Option<u32>,
    /// The interface, where it is none of the kernel's IPsec: routes lead there, policies take the packets before.
    pub(super) placeholder: Option<Tun>,
    /// From the configuration; else it follows the path.
    pub(super) fixed_mtu: Option<u32>,
    pub(super) mtu: u32,
    /// Whether a packet without an SA is to be reported.
    pub(super) armed: bool,
    pub(super) last_trigger: Option<Instant>,
    pub(super) remote_nets: Vec<IpNet>,
    rules: OuterRules,
    pub(super) kernel: KernelIpsec,
    pub(super) pairs: BTreeMap<Spi, Pair>,
    policies: HashMap<PolicyId, (PolicyAction, u32)>,
    /// Held for what dropping it does.
    pub(super) clamped: Option<ClampedInterface>,
}

impl Tunnel {
    pub(super) fn new(
        id: TunnelId,
        interface: String,
        scope: Scope,
        mtu: (Option<u32>, u32),
        remote_nets: Vec<IpNet>,
        rules: OuterRules,
    ) -> Self {
        Self {
            id,
            interface,
            scope,
            link: None,
            placeholder: None,
            fixed_mtu: mtu.0,
            mtu: mtu.1,
            armed: true,
            last_trigger: None,
            remote_nets,
            rules,
            kernel: KernelIpsec::default(),
            pairs: BTreeMap::new(),
            policies: HashMap::new(),
            clamped: None,
        }
    }

    /// A pair that is not installed yet. Pairs of the same selectors share the reqid of their inbound SAs: a rekeyed
    /// one serves the policies of its predecessor, also when the tunnel's networks are others by then.
    pub(super) fn pair(
        &mut self,
        setup: &SaSetup,
        local_port: u16,
        lifetime: Duration,
        serial: u64,
    ) -> Result<Pair, SelectorPairError> {
        let selectors = selector_pairs(&setup.local_ts, &setup.remote_ts)?;
        let same = self.pairs.values().find(|p| p.selectors == selectors);
        let overlapping = || {
            let shared = |p: &&Pair| p.selectors.iter().any(|selector| selectors.contains(selector));
            self.pairs.values().filter(shared).max_by_key(|p| p.serial)
        };
        let reqid = same.or_else(overlapping).map_or_else(new_reqid, |pair| pair.reqid);
        let cpu = if let Purpose::Resource(number) = setup.purpose { Some(number) } else { None };
        let beside = |p: &&Pair| {
            let sends = matches!(p.outbound_state, OutboundState::Waiting | OutboundState::Active);
            p.selectors == selectors && sends && (p.cpu.is_some() || cpu.is_some())
        };
        // Of an SA for all packets that stands alone none other may have the reqid.
        let outbound_reqid = self.pairs.values().find(beside).map_or_else(new_reqid, |p| p.outbound_reqid);
        Ok(Pair {
            serial,
            inbound: setup.inbound,
            outbound: setup.outbound,
            suite: setup.suite,
            inbound_keys: setup.inbound_keys.clone(),
            outbound_keys: setup.outbound_keys.clone(),
            esn: setup.esn,
            replay_window: setup.replay_window.max(1),
            local: SocketAddr::new(setup.local, if setup.encap { local_port } else { 0 }),
            remote: setup.remote,
            encap: setup.encap,
            installed: Instant::now(),
            lifetime: lifetime.saturating_add(AGE_MARGIN),
            limits: setup.limits,
            reqid,
            outbound_reqid,
            cpu,
            selectors,
            outbound_state: OutboundState::Waiting,
            inbound_source: setup.remote.ip(),
            left_behind: None,
            card: None,
            card_refused: None,
        })
    }

    fn any_active(&self) -> bool {
        self.pairs.values().any(|p| p.outbound_state == OutboundState::Active)
    }

    /// Its interface, where that is the kernel's and must be deleted.
    pub(super) fn xfrm_link(&self) -> Option<u32> {
        self.link.filter(|_| self.placeholder.is_none())
    }

    /// Whether a packet to `to` that met one of our policies of no interface is this tunnel's.
    pub(super) fn leads_to(&self, to: IpAddr) -> bool {
        matches!(self.scope, Scope::Host { .. }) && self.remote_nets.iter().any(|net| net.contains(&to))
    }

    /// Every policy that the tunnel should have now.
    fn desired(&self) -> HashMap<PolicyId, (PolicyAction, u32)> {
        let mut desired = HashMap::new();
        let (if_id, transport) = (self.scope.if_id(), self.scope.transport());
        let id = |selector, direction| PolicyId { selector, direction, if_id };
        // In the order of installation: of two pairs that claim the same packets the newer one has them.
        let mut pairs: Vec<&Pair> = self.pairs.values().collect();
        pairs.sort_by_key(|p| p.serial);
        for pair in pairs {
            let (local, remote) = (pair.local.ip(), pair.remote.ip());
            let protect = |reqid, outer| (PolicyAction::Protect { reqid, outer, transport }, PROTECT);
            for selector in &pair.selectors {
                let inward = protect(pair.reqid, (remote, local));
                desired.insert(id(selector.reversed(), Direction::In), inward);
                if !transport {
                    desired.insert(id(selector.reversed(), Direction::Forward), inward);
                }
                if pair.outbound_state == OutboundState::Active {
                    desired
                        .insert(id(*selector, Direction::Out), protect(pair.outbound_reqid, (local, remote)));
                }
            }
        }
        let to = |net: &IpNet| KernelSelector {
            destination: net.trunc(),
            ..KernelSelector::any(net.addr().is_ipv4())
        };
        let block = (PolicyAction::Block, BLOCK);
        match self.scope {
            // An SA may have just these selectors.
            Scope::Interface { .. } => {
                for ipv4 in [true, false] {
                    desired.entry(id(KernelSelector::any(ipv4), Direction::Out)).or_insert(block);
                }
            }
            Scope::Host { transport } => {
                for net in &self.remote_nets {
                    desired.entry(id(to(net), Direction::Out)).or_insert(block);
                    if !transport {
                        continue;
                    }
                    desired.entry(id(to(net).reversed(), Direction::In)).or_insert(block);
                    for kind in NEIGHBOUR_DISCOVERY.into_iter().filter(|_| net.addr().is_ipv6()) {
                        let found = KernelSelector { protocol: 58, source_port: (kind, u16::MAX), ..to(net) };
                        let bypass = (PolicyAction::Bypass, BYPASS);
                        desired.insert(id(found, Direction::Out), bypass);
                        desired.insert(id(found.reversed(), Direction::In), bypass);
                    }
                }
            }
        }
        if self.armed && !self.any_active() {
            for net in &self.remote_nets {
                let trap = (PolicyAction::Trap { reqid: NO_REQID }, TRAP);
                desired.insert(id(to(net), Direction::Out), trap);
            }
        }
        desired
    }

    /// Makes the kernel's policies those that should be. Tries everything, returns the first error.
    pub(super) fn reconcile(&mut self, xfrm: &Xfrm) -> Result<(), NetlinkError> {
        let desired = self.desired();
        let mut outcome = Ok(());
        for (id, what) in &desired {
            if self.policies.get(id) == Some(what) {
                continue;
            }
            let policy = Policy { id: *id, action: what.0, priority: what.1 };
            // What is of no interface may meet a policy of others, which is not ours to replace.
            let ours = id.if_id != 0 || self.policies.contains_key(id);
            match if ours { xfrm.put_policy(&policy) } else { xfrm.add_policy(&policy) } {
                Ok(()) => drop(self.policies.insert(*id, *what)),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        let surplus: Vec<PolicyId> =
            self.policies.keys().filter(|id| !desired.contains_key(id)).copied().collect();
        for id in surplus {
            match xfrm.delete_policy(&id) {
                Ok(_) => drop(self.policies.remove(&id)),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    /// An SA of a pair as the kernel is to have it, which counts its age from `born`.
    fn spec<'a>(&self, pair: &'a Pair, direction: SaDirection, born: Instant) -> SaSpec<'a> {
        let spent = born.saturating_duration_since(pair.installed);
        let age = Some(pair.lifetime.saturating_sub(spent).max(Duration::from_secs(1)));
        let (spi, source, destination, keys, limits) = match direction {
            SaDirection::Inbound => (
                pair.inbound,
                pair.remote,
                pair.local,
                &pair.inbound_keys,
                Limits { age, ..Limits::default() },
            ),
            SaDirection::Outbound => (
                pair.outbound,
                pair.local,
                pair.remote,
                &pair.outbound_keys,
                Limits { age, ..outbound_limits(pair.limits) },
            ),
        };
        SaSpec {
            direction,
            spi,
            source: if direction == SaDirection::Inbound { pair.inbound_source } else { source.ip() },
            destination: destination.ip(),
            suite: pair.suite,
            keys,
            esn: pair.esn,
            replay_window: pair.replay_window,
            encapsulation: pair.encap.then_some(Encapsulation {
                source_port: source.port(),
                destination_port: destination.port(),
            }),
            if_id: self.scope.if_id(),
            reqid: if direction == SaDirection::Inbound { pair.reqid } else { pair.outbound_reqid },
            copy_df: self.rules.copy_df,
            copy_dscp: self.rules.copy_dscp,
            limits,
            sequence: Sequence::default(),
            options: SaOptions {
                transport: self.scope.transport(),
                cpu: pair.cpu.filter(|_| direction == SaDirection::Outbound).map(u32::from),
                output_mark: self.kernel.output_mark.filter(|_| direction == SaDirection::Outbound),
                offload: pair.card.map(|device| OffloadTo { device, packet: false }),
            },
        }
    }

    /// Installs the inbound SA of a pair and has its packets accepted. Leaves nothing behind if it fails.
    pub(super) fn add(&mut self, xfrm: &Xfrm, pair: Pair) -> Result<(), NetlinkError> {
        let inbound = pair.inbound;
        let mut pair = pair;
        let sa = self.spec(&pair, SaDirection::Inbound, Instant::now());
        if let Some(why) = tell(xfrm, &sa)? {
            (pair.card, pair.card_refused) = (None, Some(why));
        }
        self.pairs.insert(inbound, pair);
        let accepted = self.reconcile(xfrm);
        if accepted.is_err() {
            let _ = self.end(xfrm, inbound);
        }
        accepted
    }

    /// Installs the outbound SA of a pair and leads the policies to it. Returns the serials of the pairs
    /// that it takes over from: their outbound SAs may go as soon as no packet is on its way with them.
    pub(super) fn activate(&mut self, xfrm: &Xfrm, inbound: Spi) -> Result<Vec<u64>, NetlinkError> {
        let Some(pair) = self.pairs.get(&inbound) else { return Ok(Vec::new()) };
        if pair.outbound_state != OutboundState::Waiting {
            return Ok(Vec::new());
        }
        let (reqid, serial, outbound_reqid, cpu) = (pair.reqid, pair.serial, pair.outbound_reqid, pair.cpu);
        // A peer may have more CPUs: what it sends with them is received.
        if cpu.is_some_and(|cpu| available_parallelism().is_ok_and(|n| usize::from(cpu) >= n.get())) {
            return Ok(Vec::new());
        }
        let refused = tell(xfrm, &self.spec(pair, SaDirection::Outbound, Instant::now()))?;
        let mut superseded = Vec::new();
        for pair in self.pairs.values_mut().filter(|p| p.reqid == reqid && p.cpu == cpu) {
            if pair.serial == serial {
                pair.outbound_state = OutboundState::Active;
                if let Some(why) = &refused {
                    tracing::warn!(inbound = %inbound, "the network card opens for this SA, and does not seal: {why}");
                }
            } else if pair.outbound_state == OutboundState::Active {
                pair.outbound_state = OutboundState::Superseded;
                superseded.push(pair.serial);
            }
        }
        self.armed = true; // for the next time that there is none
        // Each policy is exchanged in one step: from here on packets go out by this SA.
        self.reconcile(xfrm)?;
        // The kernel remembers with a policy which SAs it chose for it: a new policy has to choose again.
        if self.pairs.values().any(|p| p.outbound_reqid == outbound_reqid && p.serial != serial) {
            for (id, (action, priority)) in &self.policies {
                if matches!(action, PolicyAction::Protect { reqid, .. } if *reqid == outbound_reqid) {
                    xfrm.put_policy(&Policy { id: *id, action: *action, priority: *priority })?;
                }
            }
        }
        Ok(superseded)
    }

    /// SAs for a CPU that are older than this one for all, beside which they stand. The kernel may take the newer of the two
    /// on every CPU, by the accident of its lists' order: they want rekeying.
    pub(super) fn overtaken_by(&self, inbound: Spi) -> Vec<Spi> {
        let Some(all) = self.pairs.get(&inbound).filter(|p| p.cpu.is_none()) else { return Vec::new() };
        let older = self.pairs.values().filter(|p| {
            p.outbound_reqid == all.outbound_reqid
                && p.outbound_state == OutboundState::Active
                && p.cpu.is_some()
        });
        older.map(|p| p.inbound).collect()
    }

    /// Removes the outbound SA of a pair, keeping its last counters. Policies that led to it go first. To be called
    /// for one that was superseded only after a while: a packet that had found it is lost if it then goes.
    pub(super) fn end_outbound(&mut self, xfrm: &Xfrm, inbound: Spi) -> Result<(), NetlinkError> {
        let Some(pair) = self.pairs.get_mut(&inbound) else { return Ok(()) };
        let id = pair.outbound_id();
        match pair.outbound_state {
            OutboundState::Gone { .. } => return Ok(()),
            OutboundState::Waiting => {
                pair.outbound_state = OutboundState::Gone { packets: 0, bytes: 0, sequence: 0 };
                return Ok(());
            }
            OutboundState::Active | OutboundState::Superseded => {}
        }
        let last = xfrm.sa(id).ok().flatten();
        pair.outbound_state = OutboundState::Gone {
            packets: last.as_ref().map_or(0, |s| s.packets),
            bytes: last.as_ref().map_or(0, |s| s.bytes),
            sequence: last.as_ref().map_or(0, |s| s.sequence.outbound),
        };
        let reconciled = self.reconcile(xfrm);
        xfrm.delete_sa(id)?;
        reconciled
    }

    /// Removes what is left of a pair.
    pub(super) fn end(&mut self, xfrm: &Xfrm, inbound: Spi) -> Result<(), NetlinkError> {
        let outbound = self.leave_behind(xfrm, inbound).and(self.end_outbound(xfrm, inbound));
        let Some(pair) = self.pairs.remove(&inbound) else { return outbound };
        let removed = xfrm.delete_sa(pair.inbound_id()).map(drop);
        outbound.and(removed).and(self.reconcile(xfrm))
    }

    /// Removes every policy and SA. Tries everything, returns the first error.
    pub(super) fn clear(&mut self, xfrm: &Xfrm) -> Result<(), NetlinkError> {
        let mut outcome = Ok(());
        for id in std::mem::take(&mut self.policies).into_keys() {
            outcome = outcome.and(xfrm.delete_policy(&id).map(drop));
        }
        for pair in std::mem::take(&mut self.pairs).into_values() {
            for id in [pair.outbound_id(), pair.inbound_id()].into_iter().chain(pair.left_behind) {
                outcome = outcome.and(xfrm.delete_sa(id).map(drop));
            }
        }
        outcome
    }

    /// The peer, or we, are somewhere else now. Only a port that changed is told to the SAs in place;
    /// for the rest the kernel wants new ones, which go on counting where the old ones stopped.
    pub(super) fn move_sas_to(
        &mut self,
        xfrm: &Xfrm,
        moving: &[Spi],
        ends: (SocketAddr, SocketAddr),
        encap: bool,
    ) -> Result<(), NetlinkError> {
        let mut outcome = Ok(());
        for inbound in moving {
            outcome = outcome.and(self.move_pair(xfrm, *inbound, ends, encap));
        }
        outcome.and(self.reconcile(xfrm))
    }

    /// Removes the outbound SA to where the peer of a pair was before it moved.
    pub(super) fn leave_behind(&mut self, xfrm: &Xfrm, inbound: Spi) -> Result<(), NetlinkError> {
        let left = self.pairs.get_mut(&inbound).and_then(|p| p.left_behind.take());
        left.map_or(Ok(()), |id| xfrm.delete_sa(id).map(drop))
    }

    fn move_pair(
        &mut self,
        xfrm: &Xfrm,
        inbound: Spi,
        (local, remote): (SocketAddr, SocketAddr),
        encap: bool,
    ) -> Result<(), NetlinkError> {
        self.leave_behind(xfrm, inbound)?;
        let Some(mut pair) = self.pairs.remove(&inbound) else { return Ok(()) };
        let (was_local, was_remote) = (pair.local, pair.remote);
        let otherwise = std::mem::replace(&mut pair.encap, encap) != encap;
        // The way may lead by another device now; the next SA asks again.
        pair.card = None;
        let port = |a: SocketAddr| if encap { a.port() } else { 0 };
        (pair.local, pair.remote) =
            (SocketAddr::new(local.ip(), port(local)), SocketAddr::new(remote.ip(), port(remote)));
        let outcome = self.move_sas(xfrm, &mut pair, (was_local, was_remote), otherwise);
        self.pairs.insert(inbound, pair);
        outcome
    }

    fn move_sas(
        &mut self,
        xfrm: &Xfrm,
        pair: &mut Pair,
        (was_local, was_remote): (SocketAddr, SocketAddr),
        otherwise: bool,
    ) -> Result<(), NetlinkError> {
        if !otherwise && (was_local, was_remote) == (pair.local, pair.remote) {
            return Ok(());
        }
        if matches!(pair.outbound_state, OutboundState::Active | OutboundState::Superseded) {
            self.move_outbound(xfrm, pair, (was_local.ip(), was_remote.ip()), otherwise)?;
        }
        // The kernel finds an inbound SA by our address and its SPI, and does not care where its packets come from.
        if !otherwise && was_local.ip() == pair.local.ip() {
            let ports_alone = pair.encap && pair.inbound_source == pair.remote.ip();
            return if ports_alone {
                xfrm.update_sa(&self.spec(pair, SaDirection::Inbound, pair.installed))
            } else {
                Ok(())
            };
        }
        let old = SaId { destination: was_local.ip(), spi: pair.inbound };
        let seen = xfrm.sa(old)?.map_or(0, |s| s.sequence.inbound);
        xfrm.delete_sa(old)?;
        pair.inbound_source = pair.remote.ip();
        let sequence = Sequence { outbound: 0, inbound: seen };
        xfrm.add_sa(&SaSpec { sequence, ..self.spec(pair, SaDirection::Inbound, Instant::now()) })
    }

    /// XFRM_MSG_MIGRATE would do this in one step, but the clone that it makes begins to count where the original,
    /// which still sends, stood: two packets with one IV.
    fn move_outbound(
        &mut self,
        xfrm: &Xfrm,
        pair: &mut Pair,
        was: (IpAddr, IpAddr),
        otherwise: bool,
    ) -> Result<(), NetlinkError> {
        // The kernel changes neither addresses nor whether there is encapsulation in place.
        if !otherwise && was == (pair.local.ip(), pair.remote.ip()) {
            return xfrm.update_sa(&self.spec(pair, SaDirection::Outbound, pair.installed));
        }
        let old = SaId { destination: was.1, spi: pair.outbound };
        let asked = Instant::now();
        let before = xfrm.sa(old)?;
        // To another destination the new one can stand beside the old one until the policies lead to it.
        let beside = was.1 != pair.remote.ip();
        if !beside {
            xfrm.delete_sa(old)?;
        }
        let first = resume_after(before.as_ref(), asked.elapsed());
        let sequence = Sequence { outbound: first, inbound: 0 };
        xfrm.add_sa(&SaSpec { sequence, ..self.spec(pair, SaDirection::Outbound, Instant::now()) })?;
        if beside {
            pair.left_behind = Some(old);
        }
        Ok(())
    }
}

impl Pair {
    pub(super) fn inbound_id(&self) -> SaId {
        SaId { destination: self.local.ip(), spi: self.inbound }
    }

    pub(super) fn outbound_id(&self) -> SaId {
        SaId { destination: self.remote.ip(), spi: self.outbound }
    }
}

/// From what sequence number on an SA that takes over may count: beyond all that its predecessor may
/// have sent after it was asked, while it may still stand beside it; never again one that it did. The peer's window
/// follows the leap.
fn resume_after(state: Option<&SaState>, elapsed: Duration) -> u64 {
    /// More packets per microsecond than any machine seals.
    const PACKETS_PER_MICROSECOND: u64 = 64;
    const MARGIN: u64 = 1 << 20;
    let sent = state.map_or(0, |s| s.sequence.outbound);
    let since = (elapsed.as_micros() as u64).saturating_mul(PACKETS_PER_MICROSECOND);
    sent.saturating_add(MARGIN).saturating_add(since)
}

/// The limits of sending that the kernel watches; those out of reach are left out.
fn outbound_limits(limits: crate::user::setup::Limits) -> Limits {
    let finite = |soft: u64, hard: u64| (hard != u64::MAX).then_some((soft, hard));
    Limits {
        packets: finite(limits.soft_packets, limits.hard_packets),
        bytes: finite(limits.soft_bytes, limits.hard_bytes),
        age: None,
    }
}
