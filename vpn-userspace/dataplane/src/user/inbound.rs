//! The inbound worker: receives trains from its WAN ports, opens, checks, coalesces and gives them to the LAN.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use culvert_esp::InboundSa;
use culvert_esp::mss::{self, Checksum};
use culvert_esp::packet::Packet;
use culvert_esp::selectors::Selectors;
use culvert_esp::tunnel::{self, Overhead};
use culvert_sys::batch::Datagram;
use culvert_sys::errno;
use culvert_sys::wan::{PathError, WanKind};
use culvert_types::Spi;

use super::coalesce::Coalescer;
use super::control::{Control, ControlSender, Events, Inbound, WAKE};
use super::counters::{Counters, Flow, Reason};
use super::handover::{Batch, HandOver, HandedOver};
use super::port::memory::Memory;
use super::port::tun::TunWrite;
use super::port::xsk::LanTransmit;
use super::port::{LanOut, LanWrite, WanIn, WanReceive};
use super::rate::RateLimit;
use super::tunnel::{PATH_MTU_LIFETIME, TunnelShared};
use crate::DataplaneEvent;
use crate::bpf::OddDoor;
use crate::samples::{Seen, Tap};

/// Batches from one port before the others have their turn.
const BUDGET: usize = 16;
/// Batches handed over by one worker before others have their turn.
const HANDED: usize = 8;
/// Sequence numbers of 32 bits leave the peer this much before it must have rekeyed.
const SOFT_SEQUENCE: u64 = u32::MAX as u64 - (u32::MAX / 8) as u64;

/// The inbound half of an SA, owned by one worker.
pub(crate) struct InboundEntry {
    pub(crate) spi: Spi,
    pub(crate) sa: InboundSa,
    pub(crate) esn: bool,
    pub(crate) selectors: Selectors,
    pub(crate) tunnel: Arc<TunnelShared>,
    /// Where the peer is; port 0 without UDP encapsulation.
    pub(crate) peer: SocketAddr,
    /// Where it was seen last, elsewhere.
    pub(crate) seen: Option<SocketAddr>,
    pub(crate) overhead: Overhead,
    pub(crate) counters: Arc<Counters>,
    pub(crate) warned: bool,
    /// When it is to be forgotten.
    pub(crate) until: Option<Instant>,
}

/// What is known of a packet that goes from the worker that received it to the one that owns its SA: who sent it, and the
/// outer TOS or traffic class.
pub(crate) type FromWan = (SocketAddr, u8);

pub(crate) struct InboundWorker {
    /// By their tokens.
    ports: Vec<Option<WanIn>>,
    siblings: Vec<ControlSender<Inbound>>,
    /// To other workers, by their numbers.
    others: Vec<Option<HandOver<FromWan>>>,
    /// From other workers.
    handed: Vec<HandedOver<FromWan>>,
    /// SAs of other workers whose packets may come here, joined to those of an SA that is here.
    elsewhere: HashMap<u32, usize>,
    entries: Vec<InboundEntry>,
    by_spi: BySpi,
    /// When some of them are to be forgotten, the first first.
    drained: BTreeSet<(Instant, Spi)>,
    lan: LanOut,
    /// Packets of tunnels whose LAN port is `xsk`.
    frames: LanTransmit,
    coalescer: Coalescer,
    /// Packets that met no SA.
    unknown: Arc<Flow>,
    /// Poll before sleeping while there are SAs.
    busy: bool,
    /// Where packets of the engine `bpf` go that came here.
    door: OddDoor,
    tap: Tap,
    events: Events,
    ike: RateLimit,
    /// Tunnels with a learned path MTU, and when to forget it.
    learned: Vec<(Arc<TunnelShared>, Instant)>,
}

impl InboundWorker {
    pub(crate) fn new(
        index: usize,
        unknown: Arc<Flow>,
        busy: bool,
        door: OddDoor,
        tap: Tap,
        events: Events,
    ) -> Self {
        Self {
            ports: Vec::new(),
            siblings: Vec::new(),
            others: Vec::new(),
            handed: Vec::new(),
            elsewhere: HashMap::new(),
            entries: Vec::new(),
            by_spi: BySpi::default(),
            drained: BTreeSet::new(),
            lan: LanOut::Tun(TunWrite(index)),
            frames: LanTransmit::new(index),
            coalescer: Coalescer::new(),
            unknown,
            busy,
            door,
            tap,
            events,
            ike: RateLimit::new(20_000, 4_000),
            learned: Vec::new(),
        }
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self, mut control: Control<Inbound>) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            let deadline = self.deadline();
            let timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            control.wait(timeout, self.busy && !self.entries.is_empty(), &mut ready)?;
            if deadline.is_some() {
                self.expire(Instant::now());
            }
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
                    continue;
                }
                let Some(Some(port)) = self.ports.get(event.token as usize) else { continue };
                if event.error {
                    let errors = port.path_errors();
                    self.path_errors(&errors);
                    self.tell_siblings(errors);
                }
                if event.readable {
                    self.serve(event.token as usize);
                }
            }
        }
    }

    /// False to stop.
    fn handle(&mut self, command: Inbound, control: &Control<Inbound>) -> io::Result<bool> {
        match command {
            Inbound::AddPort(port) => {
                let free = self.ports.iter().position(Option::is_none).unwrap_or_else(|| {
                    self.ports.push(None);
                    self.ports.len() - 1
                });
                control.poller.add(&port, free as u64)?;
                self.ports[free] = Some(port);
            }
            Inbound::DropReceivers => {
                for place in &mut self.ports {
                    if let Some(port) = place.take_if(|port| matches!(port, WanIn::Xsk(_))) {
                        let _ = control.poller.remove(&port);
                    }
                }
            }
            Inbound::Sibling(other) => self.siblings.push(other),
            Inbound::Other(index, over) => {
                let places = self.others.len().max(index + 1);
                self.others.resize_with(places, || None);
                self.others[index] = Some(over);
            }
            Inbound::Handed(from) => self.handed.push(from),
            Inbound::Elsewhere(spi, Some(worker)) => {
                self.elsewhere.insert(spi.value(), worker);
            }
            Inbound::Elsewhere(spi, None) => {
                self.elsewhere.remove(&spi.value());
            }
            Inbound::PathErrors(errors) => self.path_errors(&errors),
            Inbound::Add(entry, done) => {
                self.adopt(*entry);
                let _ = done.send(());
            }
            Inbound::Adopt(entry) => self.adopt(*entry),
            Inbound::Remove(spi, drain) => {
                if let Some(&index) = self.by_spi.get(&spi.value()) {
                    let until = Instant::now() + drain;
                    self.entries[index].until = Some(until);
                    self.drained.insert((until, spi));
                    self.expire(Instant::now());
                }
            }
            Inbound::RemoveTunnel(id) => {
                self.learned.retain(|(t, _)| t.id != id);
                self.take_out(|e| e.tunnel.id == id);
                let Self { by_spi, drained, .. } = self;
                drained.retain(|(_, spi)| by_spi.contains_key(&spi.value()));
            }
            Inbound::Move(moving, to) => {
                for spi in moving.iter() {
                    if let Some(entry) = self.by_spi.get(&spi.value()).and_then(|i| self.entries.get_mut(*i))
                    {
                        (entry.peer, entry.seen) = (to, None);
                    }
                }
            }
            Inbound::HandOver(moving, to, other) => {
                for spi in moving.iter() {
                    let Some(mut entry) = self.take(*spi) else { continue };
                    (entry.peer, entry.seen) = (to, None);
                    // A worker that is gone has said so.
                    let _ = other.send(Inbound::Adopt(Box::new(entry)));
                }
            }
            Inbound::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn adopt(&mut self, entry: InboundEntry) {
        // One that drained when its number came again.
        self.take(entry.spi);
        self.by_spi.insert(entry.spi.value(), self.entries.len());
        self.drained.extend(entry.until.map(|until| (until, entry.spi)));
        self.entries.push(entry);
    }

    /// Removes one, whose place the last one gets.
    fn take(&mut self, spi: Spi) -> Option<InboundEntry> {
        let index = self.by_spi.remove(&spi.value())?;
        let entry = self.entries.swap_remove(index);
        if let Some(moved) = self.entries.get(index) {
            self.by_spi.insert(moved.spi.value(), index);
        }
        Some(entry)
    }

    /// Removes the entries that are meant. The index is made anew: this is rare, and packets use it often.
    fn take_out(&mut self, meant: impl Fn(&InboundEntry) -> bool) {
        self.entries.retain(|entry| !meant(entry));
        self.by_spi = self.entries.iter().enumerate().map(|(i, e)| (e.spi.value(), i)).collect();
    }

    fn deadline(&self) -> Option<Instant> {
        // The one that was learned first is forgotten first.
        let learned = self.learned.first().map(|(_, until)| *until);
        self.drained.first().map(|(until, _)| *until).into_iter().chain(learned).min()
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(until, spi)) = self.drained.first()
            && until <= now
        {
            self.drained.remove(&(until, spi));
            let entry = self.by_spi.get(&spi.value()).and_then(|index| self.entries.get(*index));
            if entry.is_some_and(|entry| entry.until == Some(until)) {
                self.take(spi);
            }
        }
        if self.learned.first().is_none_or(|(_, until)| *until > now) {
            return;
        }
        let events = &self.events;
        self.learned.retain(|(tunnel, until)| {
            if *until > now {
                return true;
            }
            report_mtu(tunnel, tunnel.expire(now), events);
            false
        });
    }

    /// What the path said about packets that we sent.
    fn path_errors(&mut self, errors: &[PathError]) {
        let now = Instant::now();
        for error in errors {
            let Some(outer) = error.mtu else { continue };
            for entry in self.entries.iter().filter(|e| e.peer.ip() == error.to.ip()) {
                let inner = entry.overhead.inner_mtu(outer as usize) as u32;
                if let Some(mtu) = entry.tunnel.learn(inner, now) {
                    report_mtu(&entry.tunnel, Some(mtu), &self.events);
                    self.learned.retain(|(t, _)| t.id != entry.tunnel.id);
                    self.learned.push((entry.tunnel.clone(), now + PATH_MTU_LIFETIME));
                }
            }
        }
    }

    /// All sockets of a port are one to those who report errors: they may be about another worker's SAs.
    fn tell_siblings(&self, mut errors: Vec<PathError>) {
        errors.retain(|e| e.mtu.is_some());
        if errors.is_empty() {
            return;
        }
        let errors: Arc<[PathError]> = errors.into();
        for sibling in &self.siblings {
            // One that is gone has said so.
            let _ = sibling.send(Inbound::PathErrors(errors.clone()));
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(mut port) = self.ports.get_mut(index).and_then(Option::take) else { return };
        match &mut port {
            WanIn::Socket(port) => self.serve_port(port),
            WanIn::Xsk(port) => self.serve_port(port),
        }
        if let Some(place) = self.ports.get_mut(index) {
            *place = Some(port);
        }
    }

    fn serve_port<P: WanReceive>(&mut self, port: &mut P) {
        for _ in 0..BUDGET {
            // Anything but packets: nothing there, or an error that the error queue explains.
            let Ok(more) = port.receive() else { return };
            let mut path = self.path(port.kind(), port.local(), true);
            let (memory, datagrams) = port.parts();
            for datagram in datagrams {
                path.datagram(memory, datagram);
            }
            path.flush(memory);
            path.account();
            path.others.iter_mut().flatten().for_each(HandOver::flush);
            port.release();
            if !more {
                return;
            }
        }
    }

    /// Works on what other workers have handed over, a few batches of each. Whether there may be more.
    fn take_handed(&mut self) -> bool {
        let nowhere = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        let mut more = false;
        let handed = std::mem::take(&mut self.handed);
        for other in &handed {
            let mut left = HANDED;
            while left > 0
                && let Some(mut batch) = other.take()
            {
                left -= 1;
                // One that is not here is nowhere any more.
                let mut path = self.path(WanKind::Esp, nowhere, false);
                let Batch { buf, packets } = &mut batch;
                let buf = &mut buf[..];
                for ((from, tos), range) in packets.drain(..) {
                    let (start, len) = (range.start, range.len());
                    let datagram = Datagram { start, len, segment: len, from, tos, truncated: false };
                    if path.coalescer.is_full() || path.frames.is_full() {
                        path.flush(buf);
                    }
                    path.esp(buf, range, &datagram);
                }
                path.flush(buf);
                path.account();
                other.done(batch);
            }
            more |= left == 0;
        }
        self.handed = handed;
        more
    }

    /// The way of one batch from a port. Packets of other workers' SAs go `onward` to those, or are of nobody.
    fn path(&mut self, kind: WanKind, local: SocketAddr, onward: bool) -> Path<'_> {
        Path {
            entries: &mut self.entries,
            by_spi: &self.by_spi,
            elsewhere: &self.elsewhere,
            others: if onward { &mut self.others } else { &mut [] },
            lan: &mut self.lan,
            frames: &mut self.frames,
            coalescer: &mut self.coalescer,
            unknown: &self.unknown,
            door: &self.door,
            tap: &mut self.tap,
            events: &self.events,
            ike: &mut self.ike,
            kind,
            local,
            latest: None,
            packets: 0,
            bytes: 0,
        }
    }
}

/// SAs by their SPIs, of which only we choose those that are in it: no hash against attackers is needed.
pub(crate) type BySpi = HashMap<u32, usize, BuildHasherDefault<SpiHasher>>;

#[derive(Default)]
pub(crate) struct SpiHasher(u64);

impl Hasher for SpiHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    #[inline]
    fn write_u32(&mut self, spi: u32) {
        // The upper bits choose among equals of one place, the lower ones the place.
        let mixed = (self.0 ^ u64::from(spi)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

fn report_mtu(tunnel: &TunnelShared, changed: Option<u32>, events: &Events) {
    if let Some(mtu) = changed {
        let _ = events.send(DataplaneEvent::Mtu { tunnel: tunnel.id, mtu });
    }
}

/// One batch on its way in.
struct Path<'a> {
    entries: &'a mut [InboundEntry],
    by_spi: &'a BySpi,
    elsewhere: &'a HashMap<u32, usize>,
    others: &'a mut [Option<HandOver<FromWan>>],
    lan: &'a mut LanOut,
    frames: &'a mut LanTransmit,
    coalescer: &'a mut Coalescer,
    unknown: &'a Flow,
    door: &'a OddDoor,
    tap: &'a mut Tap,
    events: &'a Events,
    ike: &'a mut RateLimit,
    kind: WanKind,
    local: SocketAddr,
    /// The SA of the last packet: most often the next one's too.
    latest: Option<usize>,
    /// Delivered of that SA, not yet counted.
    packets: u64,
    bytes: u64,
}

impl Path<'_> {
    fn datagram<M: Memory + ?Sized>(&mut self, memory: &mut M, datagram: &Datagram) {
        if datagram.truncated {
            let kept = datagram.start..datagram.start + datagram.len;
            return self.stranger(Reason::Truncated, memory, &kept, datagram);
        }
        let end = datagram.start + datagram.len;
        let mut start = datagram.start;
        while start < end {
            let range = start..end.min(start + datagram.segment);
            start = range.end;
            if self.coalescer.is_full() || self.frames.is_full() {
                self.flush(memory);
            }
            match self.kind {
                WanKind::Udp => self.udp(memory, range, datagram),
                WanKind::Esp => self.esp(memory, range, datagram),
            }
        }
    }

    /// RFC 3948 2: a keepalive, IKE behind four zero bytes, or ESP.
    fn udp<M: Memory + ?Sized>(&mut self, memory: &mut M, range: Range<usize>, datagram: &Datagram) {
        match memory.bytes(&range) {
            [0xff] => self.stranger(Reason::Keepalive, memory, &range, datagram),
            [0, 0, 0, 0, message @ ..] => {
                if self.ike.allow(Instant::now()) {
                    let _ = self.events.send(DataplaneEvent::Ike {
                        local: self.local,
                        remote: datagram.from,
                        bytes: message.to_vec(),
                    });
                } else {
                    self.stranger(Reason::IkeFlood, memory, &range, datagram);
                }
            }
            _ => self.esp(memory, range, datagram),
        }
    }

    /// Counts a packet that no SA of ours has.
    #[cold]
    fn stranger<M: Memory + ?Sized>(
        &mut self,
        reason: Reason,
        memory: &M,
        range: &Range<usize>,
        datagram: &Datagram,
    ) {
        let seen = || Seen::esp(memory.bytes(range), datagram.from, self.local);
        self.tap.dropped(&self.unknown.drops, reason, 1, seen);
    }

    #[inline]
    fn esp<M: Memory + ?Sized>(&mut self, memory: &mut M, range: Range<usize>, datagram: &Datagram) {
        let Some(spi) = memory.bytes(&range).first_chunk().map(|b| u32::from_be_bytes(*b)) else {
            return self.stranger(Reason::Runt, memory, &range, datagram);
        };
        let index = match self.latest {
            Some(index) if self.entries[index].spi.value() == spi => index,
            _ => {
                self.account();
                let Some(&index) = self.by_spi.get(&spi) else {
                    let owner = self.elsewhere.get(&spi).copied();
                    if let Some(Some(other)) = owner.and_then(|owner| self.others.get_mut(owner)) {
                        if !other.push((datagram.from, datagram.tos), memory.bytes(&range)) {
                            self.stranger(Reason::HandOverFull, memory, &range, datagram);
                        }
                        self.latest = None;
                        return;
                    }
                    let ends = (datagram.from, self.local);
                    if !self.door.open(spi, ends, datagram.tos, memory.bytes(&range)) {
                        self.stranger(Reason::UnknownSpi, memory, &range, datagram);
                    }
                    return;
                };
                self.latest = Some(index);
                index
            }
        };
        let entry = &mut self.entries[index];
        let drops = &entry.counters.inn.drops;
        let (tunnel, ends) = (Some(entry.tunnel.id), (datagram.from, self.local));
        let opened = match entry.sa.open(memory.bytes_mut(&range)) {
            Ok(opened) => opened,
            Err(error) => {
                let seen = || Seen { tunnel, ..Seen::esp(memory.bytes(&range), ends.0, ends.1) };
                return self.tap.dropped(drops, error.into(), 1, seen);
            }
        };
        if datagram.from != entry.peer
            && entry.seen != Some(datagram.from)
            && opened.sequence == entry.sa.highest_sequence()
        {
            // RFC 7296 2.23: only an authentic packet moves the peer, and only the newest one.
            entry.seen = Some(datagram.from);
            let _ = self.events.send(DataplaneEvent::PeerMoved {
                inbound: entry.spi,
                from: entry.peer,
                to: datagram.from,
            });
        }
        let inner = range.start + opened.inner.start..range.start + opened.inner.end;
        let bytes = memory.bytes_mut(&inner);
        let refused = match Packet::parse(bytes) {
            Ok(packet) if entry.selectors.matches_inbound(&packet) => {
                tunnel::decapsulate_ecn(bytes, datagram.tos).err().map(|_| Reason::Ecn)
            }
            Ok(_) => Some(Reason::Selector),
            Err(_) => Some(Reason::Malformed),
        };
        if let Some(reason) = refused {
            let esp = || Seen { tunnel, ..Seen::esp(memory.bytes(&range), ends.0, ends.1) };
            let seen = || esp().opened(opened.sequence, memory.bytes(&inner));
            return self.tap.dropped(drops, reason, 1, seen);
        }
        let bytes = memory.bytes_mut(&inner);
        mss::clamp(bytes, entry.tunnel.carried(), Checksum::Complete);
        self.packets += 1;
        self.bytes += inner.len() as u64;
        if let Some(devices) = &entry.tunnel.frames
            && self.frames.take(devices, memory, &inner, index as u32)
        {
            return;
        }
        let join = self.lan.offloads(&entry.tunnel);
        self.coalescer.push(index, memory, inner, join);
    }

    /// Gives what the coalescer holds to the LAN.
    fn flush<M: Memory + ?Sized>(&mut self, memory: &M) {
        let Self { entries, lan, frames, coalescer, tap, .. } = self;
        let mut lost = |entry: &InboundEntry, reason, packets| {
            let seen = || Seen::of(entry.tunnel.id, false).with_spi(entry.spi);
            tap.dropped(&entry.counters.inn.drops, reason, packets, seen);
        };
        frames.flush(&mut |owner, reason, packets| {
            if let Some(entry) = entries.get(owner as usize) {
                lost(entry, reason, packets);
            }
        });
        coalescer.drain(|joined| {
            let entry = &entries[joined.tunnel];
            if let Err(error) = lan.write(&entry.tunnel, memory, &joined) {
                let reason = match error.raw_os_error().unwrap_or(0) {
                    errno::EIO | errno::EBADFD | errno::EFAULT => Reason::TunDown,
                    _ => Reason::TunRefused,
                };
                lost(entry, reason, joined.pieces.len() as u64);
            }
        });
        lan.flush();
    }

    /// Counts what was delivered of the latest SA.
    fn account(&mut self) {
        let Some(entry) = self.latest.and_then(|index| self.entries.get_mut(index)) else { return };
        let inn = &entry.counters.inn;
        inn.add(std::mem::take(&mut self.packets), std::mem::take(&mut self.bytes));
        inn.set_sequence(entry.sa.highest_sequence(), entry.sa.replay_floor());
        if !entry.esn && !entry.warned && entry.sa.highest_sequence() >= SOFT_SEQUENCE {
            entry.warned = true;
            let _ = self.events.send(DataplaneEvent::SoftLimit { inbound: entry.spi });
        }
    }
}
