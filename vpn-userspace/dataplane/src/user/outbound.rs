//! The outbound worker: takes packets and super-packets from its LAN ports, splits, seals and sends them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_esp::mss::{self, Checksum};
use culvert_esp::packet::Packet;
use culvert_esp::selectors::Selectors;
use culvert_esp::tunnel::Rules;
use culvert_esp::{OutboundSa, SealError, icmp};
use culvert_ike::Purpose;
use culvert_sys::tun::VnetHeader;
use culvert_types::{Spi, TunnelId};

use super::arrange::Arranger;
use super::congestion::Congestion;
use super::control::{Control, Events, Outbound, WAKE};
use super::counters::{Counters, Reason};
use super::port::tun::{LanBatch, PACKETS, TunRead};
use super::port::{LanIn, LanRead, Route, WanOut, WanPath, WanTransmit};
use super::rate::RateLimit;
use super::setup::Limits;
use super::split::{self, Plan};
use super::tunnel::TunnelShared;
use crate::DataplaneEvent;

/// Batches from one port before the others have their turn.
const BUDGET: usize = 64;

/// The outbound half of an SA, owned by one worker.
pub(crate) struct OutboundEntry {
    pub(crate) tunnel: TunnelId,
    /// Names the pair.
    pub(crate) inbound: Spi,
    pub(crate) purpose: Purpose,
    pub(crate) sa: OutboundSa,
    pub(crate) selectors: Selectors,
    pub(crate) path: WanPath,
    pub(crate) route: Route,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: Limits,
    pub(crate) bytes: u64,
    pub(crate) warned: Warned,
}

/// Which limit has been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Warned {
    Nothing,
    Soft,
    Hard,
}

/// An SA, and the worker's port of its path.
struct Owned {
    entry: OutboundEntry,
    port: usize,
    /// It has sent since the counters were brought up to date.
    used: bool,
}

struct Tunnel {
    shared: Arc<TunnelShared>,
    lan: LanIn,
    token: u64,
    /// Those in use, the newest first, and behind them those for a purpose of their own: a packet goes into the first
    /// whose selectors take it.
    active: Vec<Owned>,
    standby: Vec<Owned>,
    trigger: RateLimit,
    icmp: RateLimit,
    congestion: Congestion,
}

pub(crate) struct OutboundWorker {
    tunnels: Vec<Tunnel>,
    wan: Vec<WanOut>,
    batch: LanBatch,
    arranger: Arranger,
    rules: Rules,
    /// Poll before sleeping while there are tunnels.
    busy: bool,
    events: Events,
    next_token: u64,
}

impl OutboundWorker {
    pub(crate) fn new(rules: Rules, busy: bool, events: Events) -> Self {
        Self {
            tunnels: Vec::new(),
            wan: Vec::new(),
            batch: LanBatch::new(),
            arranger: Arranger::new(PACKETS),
            rules,
            busy,
            events,
            next_token: 0,
        }
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self, mut control: Control<Outbound>) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            control.wait(None, self.busy && !self.tunnels.is_empty(), &mut ready)?;
            for event in &ready {
                if event.token == WAKE {
                    control.woken();
                    while let Some(command) = control.next() {
                        if !self.handle(command, &control)? {
                            return Ok(());
                        }
                    }
                } else if let Some(index) = self.tunnels.iter().position(|t| t.token == event.token) {
                    let served = self.tunnels[index].serve(
                        &mut self.wan,
                        &mut self.batch,
                        &mut self.arranger,
                        &self.rules,
                        &self.events,
                    );
                    if let Err(error) = served {
                        self.lose_device(index, &error, &control);
                    }
                }
            }
        }
    }

    /// False to stop.
    fn handle(&mut self, command: Outbound, control: &Control<Outbound>) -> io::Result<bool> {
        match command {
            Outbound::AddTunnel(shared) => {
                let token = self.next_token;
                self.next_token += 1;
                let lan = LanIn::Tun(TunRead::new(shared.clone()));
                control.poller.add(&lan, token)?;
                self.tunnels.push(Tunnel {
                    shared,
                    lan,
                    token,
                    active: Vec::new(),
                    standby: Vec::new(),
                    trigger: RateLimit::new(1, 1),
                    icmp: RateLimit::new(100, 50),
                    congestion: Congestion::default(),
                });
            }
            Outbound::RemoveTunnel(id, done) => {
                if let Some(index) = self.tunnels.iter().position(|t| t.shared.id == id) {
                    let tunnel = self.tunnels.swap_remove(index);
                    let _ = control.poller.remove(&tunnel.lan);
                }
                let _ = done.send(());
            }
            Outbound::Add(entry, use_now) => {
                let port = self.port(&entry.path);
                if let Some(tunnel) = self.tunnel(entry.tunnel) {
                    let spi = entry.inbound;
                    tunnel.standby.push(Owned { entry: *entry, port, used: false });
                    if use_now {
                        tunnel.activate(spi);
                    }
                }
            }
            Outbound::Activate(id, spi) => {
                if let Some(tunnel) = self.tunnel(id) {
                    tunnel.activate(spi);
                }
            }
            Outbound::Remove(id, spi) => {
                if let Some(tunnel) = self.tunnel(id) {
                    tunnel.standby.retain(|o| o.entry.inbound != spi);
                    tunnel.active.retain(|o| o.entry.inbound != spi);
                }
            }
            Outbound::Move(id, moving, path, route) => {
                let port = self.port(&path);
                if let Some(tunnel) = self.tunnel(id) {
                    let all = tunnel.active.iter_mut().chain(&mut tunnel.standby);
                    for owned in all.filter(|o| moving.contains(&o.entry.inbound)) {
                        owned.port = port;
                        owned.entry.path = path.clone();
                        owned.entry.route = route;
                    }
                }
            }
            Outbound::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn tunnel(&mut self, id: TunnelId) -> Option<&mut Tunnel> {
        self.tunnels.iter_mut().find(|t| t.shared.id == id)
    }

    /// This worker's port of a path: paths are few, and last as long as the workers.
    fn port(&mut self, path: &WanPath) -> usize {
        self.wan.iter().position(|p| p.is_of(path)).unwrap_or_else(|| {
            self.wan.push(path.open());
            self.wan.len() - 1
        })
    }

    /// The interface was removed under us: the tunnel stays, silent, until it is created anew.
    fn lose_device(&mut self, index: usize, error: &io::Error, control: &Control<Outbound>) {
        let tunnel = self.tunnels.swap_remove(index);
        let _ = control.poller.remove(&tunnel.lan);
        let name = tunnel.shared.tun.name();
        let cause =
            format!("interface {name} is gone ({error}): somebody removed it; take the tunnel down and up");
        let _ = self.events.send(DataplaneEvent::Fault { tunnel: Some(tunnel.shared.id), cause });
    }
}

impl Tunnel {
    /// An SA in use for the same selectors and purpose moves back to standby, from where its removal takes it.
    fn activate(&mut self, spi: Spi) {
        if let Some(index) = self.standby.iter().position(|o| o.entry.inbound == spi) {
            let owned = self.standby.swap_remove(index);
            let same = |o: &mut Owned| {
                o.entry.purpose == owned.entry.purpose && o.entry.selectors == owned.entry.selectors
            };
            let before: Vec<_> = self.active.extract_if(.., same).collect();
            self.standby.extend(before);
            let place = if owned.entry.purpose == Purpose::All { 0 } else { self.active.len() };
            self.active.insert(place, owned);
        }
    }

    /// Takes what the port has. An error means that the device is gone.
    fn serve(
        &mut self,
        wan: &mut [WanOut],
        batch: &mut LanBatch,
        arranger: &mut Arranger,
        rules: &Rules,
        events: &Events,
    ) -> io::Result<()> {
        let Self { shared, lan, active, trigger, icmp, congestion, .. } = self;
        let mut path = Path { shared, active, trigger, icmp, congestion, wan, rules, events };
        let mut empty = false;
        let mut result = Ok(());
        for _ in 0..BUDGET {
            match lan.receive(batch) {
                Ok((buf, packets)) => {
                    let order = arranger.arrange(buf, packets);
                    for packet in order.iter().filter_map(|index| packets.get(*index)) {
                        let bytes = buf.get(packet.bytes.clone()).unwrap_or_default();
                        path.take(&packet.vnet, bytes);
                    }
                }
                Err(e) => {
                    empty = true;
                    if e.kind() != io::ErrorKind::WouldBlock {
                        result = Err(e);
                    }
                    break;
                }
            }
        }
        path.flush_all();
        path.account();
        path.congestion.seen(Instant::now(), empty);
        result
    }
}

/// The packets of one tunnel on their way out.
struct Path<'a> {
    shared: &'a TunnelShared,
    active: &'a mut [Owned],
    trigger: &'a mut RateLimit,
    icmp: &'a mut RateLimit,
    congestion: &'a mut Congestion,
    wan: &'a mut [WanOut],
    rules: &'a Rules,
    events: &'a Events,
}

impl Path<'_> {
    fn flush_all(&mut self) {
        let active = &*self.active;
        for port in self.wan.iter_mut().filter(|p| !p.is_empty()) {
            flush(port, active);
        }
    }

    /// Brings the counters of those that have sent up to date.
    fn account(&mut self) {
        for owned in self.active.iter_mut().filter(|o| o.used) {
            owned.used = false;
            let entry = &mut owned.entry;
            entry.counters.out.set_sequence(entry.sa.sequence(), 0);
            entry.check_limits(self.events);
        }
    }

    fn take(&mut self, vnet: &VnetHeader, bytes: &[u8]) {
        let packet = Packet::parse(bytes);
        let fits = |o: &Owned| packet.as_ref().is_ok_and(|p| o.entry.selectors.matches_outbound(p));
        let found = self.active.iter().position(fits);
        // What no SA takes is counted by the newest.
        let index = found.unwrap_or(0);
        let Self { shared, active, trigger, icmp: icmp_limit, congestion, wan, rules, events } = self;
        let Some(owned) = active.get_mut(index) else {
            // The kernel's own chatter on a new interface (MLD, IGMP) asks for no tunnel.
            if packet.is_ok_and(|p| is_link_local(&p)) {
                shared.counters.out.drops.add(Reason::LinkLocal, 1);
                return;
            }
            shared.counters.out.drops.add(Reason::NoOutboundSa, 1);
            if trigger.allow(Instant::now()) {
                let _ = events.send(DataplaneEvent::Trigger { tunnel: shared.id });
            }
            return;
        };
        let drops = &owned.entry.counters.out.drops;
        let Ok(packet) = packet else {
            drops.add(Reason::Malformed, 1);
            return;
        };
        if found.is_none() {
            if is_link_local(&packet) {
                drops.add(Reason::LinkLocal, 1);
                return;
            }
            drops.add(Reason::Selector, 1);
            // The SA for it may be missing: of several, one can be lost alone.
            if trigger.allow(Instant::now()) {
                let _ = events.send(DataplaneEvent::Trigger { tunnel: shared.id });
            }
            answer(shared, icmp_limit, || icmp::unreachable(bytes, packet.destination()));
            return;
        }
        let plan = match split::plan(vnet, &packet, bytes.len()) {
            Ok(plan) => plan,
            Err(error) => {
                let reason = match error {
                    split::SplitError::Packet(_) | split::SplitError::Length => Reason::Malformed,
                    _ => Reason::BadOffload,
                };
                drops.add(reason, 1);
                return;
            }
        };
        let (count, longest) = match &plan {
            Plan::Single(single) => (1, single.len()),
            Plan::Segments(segments) => (segments.count(), segments.max_len()),
        };
        let mtu = shared.carried();
        let mut route = owned.entry.route;
        if longest > mtu && longest <= shared.mtu() && may_be_cut(&packet) {
            route.may_fragment = true;
        } else if longest > mtu {
            drops.add(Reason::TooBig, count as u64);
            answer(shared, icmp_limit, || icmp::packet_too_big(bytes, packet.destination(), mtu));
            return;
        }
        let Some(port) = wan.get_mut(owned.port) else { return };
        let tos = congestion.mark(rules.outer_traffic_class(packet.traffic_class()));
        let next_header = if packet.is_ipv4() { 4 } else { 41 };
        let header_len = owned.entry.sa.header_len();
        let (mut packets, mut inner_bytes) = (0, 0);
        for segment in 0..count {
            if port.is_full() {
                flush(port, active);
            }
            let Some(Owned { entry, .. }) = active.get_mut(index) else { break };
            if entry.warned == Warned::Hard {
                entry.counters.out.drops.add(Reason::Exhausted, (count - segment) as u64);
                break;
            }
            let len = match &plan {
                Plan::Single(single) => single.len(),
                Plan::Segments(segments) => segments.len(segment),
            };
            let Some(slot) = port.slot(entry.sa.sealed_len(len)) else {
                entry.counters.out.drops.add(Reason::WanBusy, 1);
                continue;
            };
            let Some(room) = slot.get_mut(header_len..) else { break };
            let written = match &plan {
                Plan::Single(single) => {
                    let written = single.write(room);
                    mss::clamp(room, mtu, Checksum::Complete);
                    written
                }
                Plan::Segments(segments) => segments.write(segment, room),
            };
            let sealed = if written {
                entry.sa.seal(slot, len, next_header)
            } else {
                Err(SealError::NoRoom { need: header_len + len, have: slot.len() })
            };
            match sealed {
                Ok(sealed) => {
                    port.commit(sealed, tos, &route, index as u32);
                    packets += 1;
                    inner_bytes += len as u64;
                }
                Err(SealError::Exhausted) => entry.counters.out.drops.add(Reason::Exhausted, 1),
                Err(SealError::NoRoom { .. }) => entry.counters.out.drops.add(Reason::Malformed, 1),
            }
        }
        let Some(Owned { entry, used, .. }) = active.get_mut(index) else { return };
        *used = true;
        entry.bytes += inner_bytes;
        entry.counters.out.add(packets, inner_bytes);
        if entry.sa.sequence() >= entry.limits.hard_packets || entry.bytes >= entry.limits.hard_bytes {
            entry.check_limits(events);
        }
    }
}

/// Sends what the port holds. What is lost is counted by its SA.
fn flush(port: &mut WanOut, active: &[Owned]) {
    port.flush(&mut |owner, reason, packets| {
        if let Some(owned) = active.get(owner as usize) {
            owned.entry.counters.out.drops.add(reason, packets);
        }
    });
}

impl OutboundEntry {
    fn check_limits(&mut self, events: &Events) {
        let (sequence, limits) = (self.sa.sequence(), &self.limits);
        let hard = sequence >= limits.hard_packets || self.bytes >= limits.hard_bytes;
        let soft = sequence >= limits.soft_packets || self.bytes >= limits.soft_bytes;
        let inbound = self.inbound;
        if hard && self.warned < Warned::Hard {
            self.warned = Warned::Hard;
            let _ = events.send(DataplaneEvent::HardLimit { inbound });
        } else if soft && self.warned < Warned::Soft {
            self.warned = Warned::Soft;
            let _ = events.send(DataplaneEvent::SoftLimit { inbound });
        }
    }
}

/// Whether its sender could not make it smaller, so that the packet around it may be cut: IPv6 of 1280 bytes or less
/// (RFC 8200 5), and IPv4 without DF.
fn may_be_cut(packet: &Packet<'_>) -> bool {
    !packet.is_ipv4() || !packet.dont_fragment()
}

/// Whether the packet goes to a multicast group that no router forwards (RFC 5771 4, RFC 4291 2.7).
fn is_link_local(packet: &Packet<'_>) -> bool {
    match packet.destination() {
        IpAddr::V4(to) => to.octets()[..3] == [224, 0, 0],
        IpAddr::V6(to) => matches!(to.octets(), [0xff, scope, ..] if scope & 0x0f <= 2),
    }
}

/// Answers with ICMP into the device that the packet came from, at a limited rate. The answer claims to
/// come from the packet's destination: the kernel takes no packet from outside with an address of its own.
fn answer(shared: &TunnelShared, limit: &mut RateLimit, error: impl FnOnce() -> Option<icmp::IcmpError>) {
    if !limit.allow(Instant::now()) {
        return;
    }
    if let Some(packet) = error() {
        let header = VnetHeader::default().encode();
        // Best effort, as ICMP is.
        let _ = shared.tun.write(&[io::IoSlice::new(&header), io::IoSlice::new(&packet)]);
    }
}
