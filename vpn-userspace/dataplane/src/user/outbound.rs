//! The outbound worker: takes packets and super-packets from its LAN ports, splits, seals and sends them.

mod active;
mod frames;

use std::collections::HashMap;
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

use self::active::Active;
use super::arrange::Arranger;
use super::congestion::Congestion;
use super::control::{Control, Events, Outbound, WAKE};
use super::counters::{Counters, Reason};
use super::handover::{HandOver, HandedOver};
use super::port::tun::{LanBatch, PACKETS, TunRead};
use super::port::xsk::LanReceive;
use super::port::{LanIn, LanRead, Route, WanOut, WanPath, WanTransmit};
use super::rate::RateLimit;
use super::setup::Limits;
use super::split::{self, Plan};
use super::tunnel::TunnelShared;
use crate::DataplaneEvent;
use crate::samples::{Seen, Tap};

/// Tokens from here on are frames'; those below are tunnels'.
const FRAMES: u64 = 1 << 32;
/// Batches from one port before the others have their turn.
const BUDGET: usize = 64;

/// Batches handed over by one worker before others have their turn.
const HANDED: usize = 8;

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
}

struct Tunnel {
    shared: Arc<TunnelShared>,
    /// The device's queue that this worker reads.
    queue: usize,
    lan: LanIn,
    /// Those in use: this worker's own, and those for all packets.
    active: Active,
    standby: Vec<Owned>,
    trigger: RateLimit,
    icmp: RateLimit,
    congestion: Congestion,
}

/// What is known of a packet of the LAN that goes from the worker that read it to the one that has an SA for it.
pub(crate) type FromLan = (TunnelId, VnetHeader);

pub(crate) struct OutboundWorker {
    /// Its number.
    index: usize,
    /// By the tokens of their queues.
    tunnels: Vec<Option<Tunnel>>,
    by_id: HashMap<TunnelId, usize>,
    by_interface: HashMap<u32, usize>,
    /// To other workers, by their numbers.
    others: Vec<Option<HandOver<FromLan>>>,
    /// From other workers.
    handed: Vec<HandedOver<FromLan>>,
    wan: Vec<WanOut>,
    batch: LanBatch,
    arranger: Arranger,
    rules: Rules,
    /// Poll before sleeping while there are tunnels.
    busy: bool,
    events: Events,
    /// Frames of the LAN, by their tokens. They are of any of the tunnels whose LAN port is `xsk`.
    frames: Vec<(u64, LanReceive)>,
    next_frames: u64,
    /// Packets of tunnels that are gone.
    stray: Arc<Counters>,
    tap: Tap,
}

impl OutboundWorker {
    pub(crate) fn new(
        index: usize,
        rules: Rules,
        busy: bool,
        stray: Arc<Counters>,
        tap: Tap,
        events: Events,
    ) -> Self {
        Self {
            index,
            tunnels: Vec::new(),
            by_id: HashMap::new(),
            by_interface: HashMap::new(),
            others: Vec::new(),
            handed: Vec::new(),
            wan: Vec::new(),
            batch: LanBatch::new(),
            arranger: Arranger::new(PACKETS),
            rules,
            busy,
            events,
            frames: Vec::new(),
            next_frames: FRAMES,
            stray,
            tap,
        }
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self, mut control: Control<Outbound>) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            control.wait(None, self.busy && !self.by_id.is_empty(), &mut ready)?;
            for event in &ready {
                if event.token == WAKE {
                    control.woken();
                    while let Some(command) = control.next() {
                        if !self.handle(command, &control)? {
                            return Ok(());
                        }
                    }
                    // Another worker may have asked for what waits.
                    self.others.iter_mut().flatten().for_each(HandOver::flush);
                    if self.take_handed() {
                        control.again();
                    }
                } else if let Some(Some(tunnel)) = self.tunnels.get_mut(event.token as usize) {
                    let mut around = Around {
                        index: self.index,
                        others: &mut self.others,
                        wan: &mut self.wan,
                        rules: &self.rules,
                        tap: &mut self.tap,
                        events: &self.events,
                    };
                    let served = tunnel.serve(&mut around, &mut self.batch, &mut self.arranger);
                    if let Err(error) = served {
                        self.lose_device(event.token as usize, &error, &control);
                    }
                } else if let Some(index) = self.frames.iter().position(|(token, _)| *token == event.token) {
                    self.serve_frames(index);
                }
            }
        }
    }

    /// False to stop.
    fn handle(&mut self, command: Outbound, control: &Control<Outbound>) -> io::Result<bool> {
        match command {
            Outbound::AddTunnel(shared, queue) => {
                let token = self.tunnels.iter().position(Option::is_none).unwrap_or_else(|| {
                    self.tunnels.push(None);
                    self.tunnels.len() - 1
                });
                let lan = LanIn::Tun(TunRead::new(shared.clone(), queue));
                control.poller.add(&lan, token as u64)?;
                self.by_id.insert(shared.id, token);
                self.by_interface.insert(shared.index, token);
                self.tunnels[token] = Some(Tunnel {
                    shared,
                    queue,
                    lan,
                    active: Active::default(),
                    standby: Vec::new(),
                    trigger: RateLimit::new(1, 1),
                    icmp: RateLimit::new(100, 50),
                    congestion: Congestion::default(),
                });
            }
            Outbound::RemoveTunnel(id, done) => {
                let token = self.by_id.remove(&id);
                if let Some(tunnel) = token.and_then(|token| self.tunnels[token].take()) {
                    self.by_interface.remove(&tunnel.shared.index);
                    let _ = control.poller.remove(&tunnel.lan);
                }
                let _ = done.send(());
            }
            Outbound::Other(index, over) => {
                let places = self.others.len().max(index + 1);
                self.others.resize_with(places, || None);
                self.others[index] = Some(over);
            }
            Outbound::Handed(from) => self.handed.push(from),
            Outbound::Add(entry, use_now) => {
                let (port, worker) = (self.port(&entry.path), self.index);
                if let Some(tunnel) = self.tunnel(entry.tunnel) {
                    let spi = entry.inbound;
                    tunnel.standby.push(Owned { entry: *entry, port });
                    if use_now {
                        tunnel.activate(spi, worker);
                    }
                }
            }
            Outbound::Activate(id, spi) => {
                let worker = self.index;
                if let Some(tunnel) = self.tunnel(id) {
                    tunnel.activate(spi, worker);
                }
            }
            Outbound::Remove(id, spi) => {
                let worker = self.index;
                if let Some(tunnel) = self.tunnel(id) {
                    tunnel.standby.retain(|o| o.entry.inbound != spi);
                    tunnel.active.remove(spi);
                    tunnel.arranged(worker);
                }
            }
            Outbound::Move(id, moving, path, route) => {
                let port = self.port(&path);
                if let Some(tunnel) = self.tunnel(id) {
                    let go = |owned: &mut Owned| {
                        owned.port = port;
                        owned.entry.path = path.clone();
                        owned.entry.route = route;
                    };
                    for spi in moving.iter() {
                        tunnel.active.find(*spi).into_iter().for_each(go);
                    }
                    let standby = tunnel.standby.iter_mut();
                    standby.filter(|o| moving.contains(&o.entry.inbound)).for_each(go);
                }
            }
            Outbound::AddFrames(port) => {
                control.poller.add(&port, self.next_frames)?;
                self.frames.push((self.next_frames, *port));
                self.next_frames += 1;
            }
            Outbound::DropFrames => {
                for (_, port) in self.frames.drain(..) {
                    let _ = control.poller.remove(&port);
                }
            }
            Outbound::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn tunnel(&mut self, id: TunnelId) -> Option<&mut Tunnel> {
        self.by_id.get(&id).and_then(|token| self.tunnels.get_mut(*token)?.as_mut())
    }

    /// Works on what other workers have handed over, a few batches of each. Whether there may be more.
    fn take_handed(&mut self) -> bool {
        let Self { index, tunnels, by_id, others, handed, wan, rules, tap, events, .. } = self;
        let mut around = Around { index: *index, others, wan, rules, tap, events };
        let mut more = false;
        for other in handed {
            let mut left = HANDED;
            while left > 0
                && let Some(batch) = other.take()
            {
                left -= 1;
                for run in batch.packets.chunk_by(|a, b| a.0.0 == b.0.0) {
                    let id = run.first().map(|(about, _)| about.0);
                    let token = id.and_then(|id| by_id.get(&id));
                    let Some(Some(tunnel)) = token.and_then(|token| tunnels.get_mut(*token)) else {
                        continue;
                    };
                    let (mut path, ..) = tunnel.path(&mut around);
                    for ((_, vnet), range) in run {
                        path.take(vnet, batch.buf.get(range.clone()).unwrap_or_default(), true);
                    }
                    path.flush_all();
                    path.account();
                }
                other.done(batch);
            }
            more |= left == 0;
        }
        more
    }

    /// This worker's port of a path: paths are few, and last as long as the workers.
    fn port(&mut self, path: &WanPath) -> usize {
        self.wan.iter().position(|p| p.is_of(path)).unwrap_or_else(|| {
            self.wan.push(path.open(self.index));
            self.wan.len() - 1
        })
    }

    /// The interface was removed under us: the tunnel stays, silent, until it is created anew.
    fn lose_device(&mut self, token: usize, error: &io::Error, control: &Control<Outbound>) {
        let Some(tunnel) = self.tunnels.get_mut(token).and_then(Option::take) else { return };
        self.by_id.remove(&tunnel.shared.id);
        self.by_interface.remove(&tunnel.shared.index);
        let _ = control.poller.remove(&tunnel.lan);
        if tunnel.queue > 0 {
            return;
        }
        let name = tunnel.shared.tun().name();
        let cause =
            format!("interface {name} is gone ({error}): somebody removed it; take the tunnel down and up");
        let _ = self.events.send(DataplaneEvent::Fault { tunnel: Some(tunnel.shared.id), cause });
    }
}

impl Tunnel {
    /// An SA in use for the same selectors and purpose moves back to standby, from where its removal takes it.
    fn activate(&mut self, spi: Spi, worker: usize) {
        if let Some(index) = self.standby.iter().position(|o| o.entry.inbound == spi) {
            let owned = self.standby.swap_remove(index);
            self.standby.extend(self.active.insert(owned));
            self.arranged(worker);
        }
    }

    /// Other SAs are in use than before.
    fn arranged(&mut self, worker: usize) {
        self.shared.set_owner(worker, self.active.has_common());
    }

    fn path<'a>(&'a mut self, around: &'a mut Around<'_>) -> (Path<'a>, &'a mut LanIn) {
        let Self { shared, queue, lan, active, trigger, icmp, congestion, .. } = self;
        let Around { index, others, wan, rules, tap, events } = around;
        let (queue, worker) = (*queue, *index);
        let path = Path {
            shared,
            queue,
            worker,
            active,
            trigger,
            icmp,
            congestion,
            others,
            wan,
            rules,
            tap,
            events,
        };
        (path, lan)
    }

    /// Takes what the port has. An error means that the device is gone.
    fn serve(
        &mut self,
        around: &mut Around<'_>,
        batch: &mut LanBatch,
        arranger: &mut Arranger,
    ) -> io::Result<()> {
        let (mut path, lan) = self.path(around);
        let mut empty = false;
        let mut result = Ok(());
        for _ in 0..BUDGET {
            match lan.receive(batch) {
                Ok((buf, packets)) => {
                    let order = arranger.arrange(buf, packets);
                    for packet in order.iter().filter_map(|index| packets.get(*index)) {
                        let bytes = buf.get(packet.bytes.clone()).unwrap_or_default();
                        path.take(&packet.vnet, bytes, false);
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
        path.others.iter_mut().flatten().for_each(HandOver::flush);
        path.flush_all();
        path.account();
        path.congestion.seen(Instant::now(), empty);
        result
    }
}

impl Owned {
    /// It is for one worker alone.
    fn is_own(&self) -> bool {
        matches!(self.entry.purpose, Purpose::Resource(_))
    }
}

/// What a worker has for all its tunnels.
struct Around<'a> {
    index: usize,
    others: &'a mut [Option<HandOver<FromLan>>],
    wan: &'a mut [WanOut],
    rules: &'a Rules,
    tap: &'a mut Tap,
    events: &'a Events,
}

/// The packets of one tunnel on their way out.
struct Path<'a> {
    shared: &'a TunnelShared,
    queue: usize,
    worker: usize,
    active: &'a mut Active,
    trigger: &'a mut RateLimit,
    icmp: &'a mut RateLimit,
    congestion: &'a mut Congestion,
    others: &'a mut [Option<HandOver<FromLan>>],
    wan: &'a mut [WanOut],
    rules: &'a Rules,
    tap: &'a mut Tap,
    events: &'a Events,
}

impl Path<'_> {
    fn flush_all(&mut self) {
        let active = &*self.active;
        for port in self.wan.iter_mut().filter(|p| !p.is_empty()) {
            flush(port, active, self.tap);
        }
    }

    /// Brings the counters of those that have sent up to date.
    fn account(&mut self) {
        while let Some(owned) = self.active.take_used() {
            let entry = &mut owned.entry;
            entry.counters.out.set_sequence(entry.sa.sequence(), 0);
            entry.check_limits(self.events);
        }
    }

    /// Gives a packet that no SA of this worker takes to the one that has SAs for all. `false`: there is none.
    fn hand_over(&mut self, vnet: &VnetHeader, bytes: &[u8]) -> bool {
        let other = self.shared.owner().filter(|owner| *owner != self.worker);
        let Some(Some(other)) = other.and_then(|owner| self.others.get_mut(owner)) else { return false };
        if !other.push((self.shared.id, *vnet), bytes) {
            let drops = &self.shared.counters(self.queue).out.drops;
            self.tap.dropped(drops, Reason::HandOverFull, 1, || Seen::outward(self.shared.id, bytes));
        }
        true
    }

    /// The SA that takes the packet, by its place; `None` if none does, which has been counted and told, or if the worker
    /// that has SAs for all was given the packet, as `vnet` describes it.
    #[inline]
    fn select<'p>(&mut self, bytes: &'p [u8], vnet: Option<&VnetHeader>) -> Option<(usize, Packet<'p>)> {
        let packet = Packet::parse(bytes);
        let found = packet.as_ref().ok().and_then(|packet| self.active.choose(packet, bytes));
        if found.is_none()
            && let Some(vnet) = vnet.filter(|_| self.shared.width() > 1)
            && self.hand_over(vnet, bytes)
        {
            return None;
        }
        // What no SA takes is counted by the newest.
        let Self { shared, queue, active, trigger, icmp: icmp_limit, tap, events, .. } = self;
        let seen = || Seen::outward(shared.id, bytes);
        let counting = found.or_else(|| active.newest()).and_then(|place| active.get(place));
        let Some(owned) = counting else {
            // The kernel's own chatter on a new interface (MLD, IGMP) asks for no tunnel.
            if packet.is_ok_and(|p| is_link_local(&p)) {
                tap.dropped(&shared.counters(*queue).out.drops, Reason::LinkLocal, 1, seen);
                return None;
            }
            tap.dropped(&shared.counters(*queue).out.drops, Reason::NoOutboundSa, 1, seen);
            if trigger.allow(Instant::now()) {
                let _ = events.send(DataplaneEvent::Trigger { tunnel: shared.id });
            }
            return None;
        };
        let drops = &owned.entry.counters.out.drops;
        let Ok(packet) = packet else {
            tap.dropped(drops, Reason::Malformed, 1, seen);
            return None;
        };
        let Some(index) = found else {
            if is_link_local(&packet) {
                tap.dropped(drops, Reason::LinkLocal, 1, seen);
                return None;
            }
            tap.dropped(drops, Reason::Selector, 1, seen);
            // The SA for it may be missing: of several, one can be lost alone.
            if trigger.allow(Instant::now()) {
                let _ = events.send(DataplaneEvent::Trigger { tunnel: shared.id });
            }
            answer(shared, icmp_limit, || icmp::unreachable(bytes, packet.destination()));
            return None;
        };
        Some((index, packet))
    }

    /// `handed`: by another worker, whose packet it was.
    fn take(&mut self, vnet: &VnetHeader, bytes: &[u8], handed: bool) {
        let Some((index, packet)) = self.select(bytes, (!handed).then_some(vnet)) else { return };
        let Self { shared, active, icmp: icmp_limit, congestion, wan, rules, tap, events, .. } = self;
        let Some(owned) = active.get(index) else { return };
        let seen = || Seen::outward(shared.id, bytes);
        let drops = &owned.entry.counters.out.drops;
        let plan = match split::plan(vnet, &packet, bytes.len()) {
            Ok(plan) => plan,
            Err(error) => {
                let reason = match error {
                    split::SplitError::Packet(_) | split::SplitError::Length => Reason::Malformed,
                    _ => Reason::BadOffload,
                };
                return tap.dropped(drops, reason, 1, seen);
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
            tap.dropped(drops, Reason::TooBig, count as u64, seen);
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
                flush(port, active, tap);
            }
            let Some(Owned { entry, .. }) = active.get_mut(index) else { break };
            if entry.warned == Warned::Hard {
                let left = (count - segment) as u64;
                tap.dropped(&entry.counters.out.drops, Reason::Exhausted, left, seen);
                break;
            }
            let len = match &plan {
                Plan::Single(single) => single.len(),
                Plan::Segments(segments) => segments.len(segment),
            };
            let Some(slot) = port.slot(entry.sa.sealed_len(len)) else {
                tap.dropped(&entry.counters.out.drops, Reason::WanBusy, 1, seen);
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
                Err(error) => tap.dropped(&entry.counters.out.drops, error.into(), 1, seen),
            }
        }
        active.sent(index);
        if let Some(owned) = active.get_mut(index) {
            owned.sent(packets, inner_bytes, events);
        }
    }
}

impl Owned {
    /// Takes packets that were sealed into account.
    #[inline]
    fn sent(&mut self, packets: u64, inner_bytes: u64, events: &Events) {
        let Self { entry, .. } = self;
        entry.bytes += inner_bytes;
        entry.counters.out.add(packets, inner_bytes);
        if entry.sa.sequence() >= entry.limits.hard_packets || entry.bytes >= entry.limits.hard_bytes {
            entry.check_limits(events);
        }
    }
}

/// Sends what the port holds. What is lost is counted by its SA.
fn flush(port: &mut WanOut, active: &Active, tap: &mut Tap) {
    port.flush(&mut |owner, reason, packets| {
        if let Some(owned) = active.get(owner as usize) {
            let seen = || Seen::of(owned.entry.tunnel, true);
            tap.dropped(&owned.entry.counters.out.drops, reason, packets, seen);
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
        let _ = shared.tun().write(&[io::IoSlice::new(&header), io::IoSlice::new(&packet)]);
    }
}
