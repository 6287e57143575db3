//! The outbound worker: reads super-packets from its tunnels' devices, splits, seals and sends them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use culvert_esp::mss::{self, Checksum};
use culvert_esp::packet::Packet;
use culvert_esp::selectors::Selectors;
use culvert_esp::tunnel::Rules;
use culvert_esp::{OutboundSa, SealError, icmp};
use culvert_sys::errno;
use culvert_sys::tun::{MAX_READ, VNET_HEADER_LEN, VnetHeader};
use culvert_sys::wan::WanSocket;
use culvert_types::{Spi, TunnelId};

use super::control::{Control, Events, Outbound, WAKE};
use super::counters::{Counters, Reason};
use super::rate::RateLimit;
use super::setup::Limits;
use super::split::{self, Plan};
use super::transmit::SendQueue;
use super::tunnel::TunnelShared;
use crate::DataplaneEvent;

/// Reads from one device before the others have their turn.
const BUDGET: usize = 256;

/// The outbound half of an SA, owned by one worker.
pub(crate) struct OutboundEntry {
    pub(crate) tunnel: TunnelId,
    /// Names the pair.
    pub(crate) inbound: Spi,
    pub(crate) sa: OutboundSa,
    pub(crate) selectors: Selectors,
    pub(crate) socket: Arc<WanSocket>,
    pub(crate) to: SocketAddr,
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

struct Tunnel {
    shared: Arc<TunnelShared>,
    token: u64,
    /// Those in use, the newest first: a packet goes into the first whose selectors take it.
    active: Vec<OutboundEntry>,
    standby: Vec<OutboundEntry>,
    trigger: RateLimit,
    icmp: RateLimit,
}

pub(crate) struct OutboundWorker {
    tunnels: Vec<Tunnel>,
    queue: SendQueue,
    buf: Vec<u8>,
    rules: Rules,
    events: Events,
    next_token: u64,
}

impl OutboundWorker {
    pub(crate) fn new(rules: Rules, events: Events) -> Self {
        Self {
            tunnels: Vec::new(),
            queue: SendQueue::new(),
            buf: vec![0; MAX_READ],
            rules,
            events,
            next_token: 0,
        }
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self, mut control: Control<Outbound>) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            ready.extend(control.poller.wait(None)?);
            for event in &ready {
                if event.token == WAKE {
                    control.woken();
                    while let Some(command) = control.next() {
                        if !self.handle(command, &control)? {
                            return Ok(());
                        }
                    }
                } else if let Some(index) = self.tunnels.iter().position(|t| t.token == event.token) {
                    let served =
                        self.tunnels[index].serve(&mut self.queue, &mut self.buf, &self.rules, &self.events);
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
                control.poller.add(&shared.tun, token)?;
                self.tunnels.push(Tunnel {
                    shared,
                    token,
                    active: Vec::new(),
                    standby: Vec::new(),
                    trigger: RateLimit::new(1, 1),
                    icmp: RateLimit::new(100, 50),
                });
            }
            Outbound::RemoveTunnel(id, done) => {
                if let Some(index) = self.tunnels.iter().position(|t| t.shared.id == id) {
                    let tunnel = self.tunnels.swap_remove(index);
                    let _ = control.poller.remove(&tunnel.shared.tun);
                }
                let _ = done.send(());
            }
            Outbound::Add(entry, use_now) => {
                if let Some(tunnel) = self.tunnel(entry.tunnel) {
                    let spi = entry.inbound;
                    tunnel.standby.push(*entry);
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
                    tunnel.standby.retain(|e| e.inbound != spi);
                    tunnel.active.retain(|e| e.inbound != spi);
                }
            }
            Outbound::Move(id, moving, socket, to) => {
                if let Some(tunnel) = self.tunnel(id) {
                    let all = tunnel.active.iter_mut().chain(&mut tunnel.standby);
                    for entry in all.filter(|e| moving.contains(&e.inbound)) {
                        entry.socket = socket.clone();
                        entry.to = to;
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

    /// The interface was removed under us: the tunnel stays, silent, until it is created anew.
    fn lose_device(&mut self, index: usize, error: &io::Error, control: &Control<Outbound>) {
        let tunnel = self.tunnels.swap_remove(index);
        let _ = control.poller.remove(&tunnel.shared.tun);
        let name = tunnel.shared.tun.name();
        let cause =
            format!("interface {name} is gone ({error}): somebody removed it; take the tunnel down and up");
        let _ = self.events.send(DataplaneEvent::Fault { tunnel: Some(tunnel.shared.id), cause });
    }
}

impl Tunnel {
    /// An SA in use for the same selectors moves back to standby, from where its removal takes it.
    fn activate(&mut self, spi: Spi) {
        if let Some(index) = self.standby.iter().position(|e| e.inbound == spi) {
            let entry = self.standby.swap_remove(index);
            let before = self.active.extract_if(.., |e| e.selectors == entry.selectors);
            self.standby.extend(before);
            self.active.insert(0, entry);
        }
    }

    /// Takes what the device has. An error means that the device is gone.
    fn serve(
        &mut self,
        queue: &mut SendQueue,
        buf: &mut [u8],
        rules: &Rules,
        events: &Events,
    ) -> io::Result<()> {
        let mut result = Ok(());
        // Whose packets are in the queue.
        let mut last = None;
        for _ in 0..BUDGET {
            let read = match self.shared.tun.read(buf) {
                Ok(read) => read,
                Err(e) => {
                    match e.raw_os_error().unwrap_or(0) {
                        // EFAULT: the interface is down.
                        errno::EAGAIN | errno::EINTR | errno::EFAULT => {}
                        _ => result = Err(e),
                    }
                    break;
                }
            };
            let Some((header, packet)) = buf.get(..read).and_then(|b| b.split_at_checked(VNET_HEADER_LEN))
            else {
                continue;
            };
            let vnet = VnetHeader::decode(header).unwrap_or_default();
            self.take(&vnet, packet, &mut last, queue, rules, events);
        }
        self.flush(last, queue);
        for entry in &mut self.active {
            entry.check_limits(events);
        }
        result
    }

    fn flush(&mut self, last: Option<usize>, queue: &mut SendQueue) {
        if let Some(entry) = last.and_then(|index| self.active.get_mut(index)) {
            entry.flush(queue);
        }
    }

    fn take(
        &mut self,
        vnet: &VnetHeader,
        bytes: &[u8],
        last: &mut Option<usize>,
        queue: &mut SendQueue,
        rules: &Rules,
        events: &Events,
    ) {
        let packet = Packet::parse(bytes);
        let fits = |entry: &OutboundEntry| packet.as_ref().is_ok_and(|p| entry.selectors.matches_outbound(p));
        // What no SA takes is counted by the newest.
        let index = self.active.iter().position(fits).unwrap_or(0);
        if *last != Some(index) {
            // Another SA may send from another socket.
            self.flush(last.take(), queue);
            *last = Some(index);
        }
        let Tunnel { shared, active, trigger, icmp: icmp_limit, .. } = self;
        let Some(entry) = active.get_mut(index) else {
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
        let drops = &entry.counters.out.drops;
        let Ok(packet) = packet else {
            drops.add(Reason::Malformed, 1);
            return;
        };
        if !entry.selectors.matches_outbound(&packet) {
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
        let mtu = shared.mtu();
        if longest > mtu {
            drops.add(Reason::TooBig, count as u64);
            answer(shared, icmp_limit, || icmp::packet_too_big(bytes, packet.destination(), mtu));
            return;
        }
        let tos = rules.outer_traffic_class(packet.traffic_class());
        let next_header = if packet.is_ipv4() { 4 } else { 41 };
        let header_len = entry.sa.header_len();
        let (mut packets, mut inner_bytes) = (0, 0);
        for index in 0..count {
            if queue.is_full() {
                entry.flush(queue);
            }
            if entry.warned == Warned::Hard {
                entry.counters.out.drops.add(Reason::Exhausted, (count - index) as u64);
                break;
            }
            let slot = queue.slot();
            let Some(room) = slot.get_mut(header_len..) else { break };
            let (written, len) = match &plan {
                Plan::Single(single) => {
                    let written = single.write(room);
                    mss::clamp(room, mtu, Checksum::Complete);
                    (written, single.len())
                }
                Plan::Segments(segments) => (segments.write(index, room), segments.len(index)),
            };
            let sealed = if written {
                entry.sa.seal(slot, len, next_header)
            } else {
                Err(SealError::NoRoom { need: header_len + len, have: slot.len() })
            };
            match sealed {
                Ok(sealed) => {
                    queue.commit(sealed, tos, entry.to, entry.socket.segmentation());
                    packets += 1;
                    inner_bytes += len as u64;
                }
                Err(SealError::Exhausted) => entry.counters.out.drops.add(Reason::Exhausted, 1),
                Err(SealError::NoRoom { .. }) => entry.counters.out.drops.add(Reason::Malformed, 1),
            }
        }
        entry.bytes += inner_bytes;
        entry.counters.out.add(packets, inner_bytes);
        if entry.sa.sequence() >= entry.limits.hard_packets || entry.bytes >= entry.limits.hard_bytes {
            entry.check_limits(events);
        }
    }
}

impl OutboundEntry {
    fn flush(&mut self, queue: &mut SendQueue) {
        if !queue.is_empty() {
            queue.flush(&self.socket, &self.counters.out.drops);
            self.counters.out.set_sequence(self.sa.sequence(), 0);
        }
    }

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
