//! Packets into super-packets: generic receive offload by the kernel's own rules, per flow.
//!
//! TCP segments that follow each other and UDP datagrams of one size are joined, so that the kernel
//! routes and delivers them as one. Whatever is not plainly joinable goes as it came; the order
//! within a flow never changes, and what is joined is what segmentation would make again.

use std::ops::Range;

use culvert_esp::checksum;
use culvert_esp::packet::Header;
use culvert_sys::tun::{DATA_VALID, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Offloads, VnetHeader};

use super::port::memory::Memory;

const TCP: u8 = 6;
const UDP: u8 = 17;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Packets and super-packets that wait at most, before [`Coalescer::is_full`].
const MAX_ITEMS: usize = 256;
/// Segments of a super-packet at most: each is a part of one gathered write.
pub(crate) const MAX_TCP_SEGMENTS: usize = 128;
/// UDP_MAX_SEGMENTS of Linux before 6.9.
pub(crate) const MAX_UDP_SEGMENTS: usize = 64;
/// The longest super-packet, headers included.
const MAX_LEN: usize = 65535;
/// IPv6 and TCP with all its options.
const MAX_HEADER: usize = 100;
/// Places in the table of flows: a power of two, and so many that few of [`MAX_ITEMS`] flows share one.
const PLACES: usize = 1024;

/// Addresses, ports, protocol, tunnel.
type FlowKey = [u64; 5];

/// Joins the packets of a batch.
pub(crate) struct Coalescer {
    items: Vec<Item>,
    used: usize,
    /// The latest item, counted from 1, of flows whose hash leads here; 0 for none.
    latest: Vec<u16>,
}

struct Item {
    tunnel: usize,
    /// `None` for what has no flow: it is never joined and never looked for.
    flow: Option<FlowKey>,
    kind: Kind,
    /// Nothing can be joined any more.
    closed: bool,
    /// The checksum of the packet was verified.
    verified: bool,
    /// The first packet.
    first: Range<usize>,
    header_len: usize,
    transport: usize,
    segment: usize,
    payload: usize,
    next_sequence: u32,
    next_identification: u16,
    header: [u8; MAX_HEADER],
    pieces: Vec<Range<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Tcp,
    Udp,
}

/// What is written to a TUN device at once.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    /// The tunnel that was given with the packets.
    pub(crate) tunnel: usize,
    /// The virtio-net header.
    pub(crate) vnet: VnetHeader,
    /// The headers of a super-packet; empty for a single packet.
    pub(crate) header: &'a [u8],
    /// Where the payloads stand in the buffer; for a single packet its one range.
    pub(crate) pieces: &'a [Range<usize>],
}

/// What the joining looks at.
struct Parsed {
    flow: FlowKey,
    kind: Kind,
    verified: bool,
    header_len: usize,
    transport: usize,
    payload: usize,
}

impl Coalescer {
    /// One with nothing in it. Allocates all that it will ever need.
    pub(crate) fn new() -> Self {
        let item = || Item {
            tunnel: 0,
            flow: None,
            kind: Kind::Single,
            closed: true,
            verified: false,
            first: 0..0,
            header_len: 0,
            transport: 0,
            segment: 0,
            payload: 0,
            next_sequence: 0,
            next_identification: 0,
            header: [0; MAX_HEADER],
            pieces: Vec::with_capacity(MAX_TCP_SEGMENTS),
        };
        Self {
            items: std::iter::repeat_with(item).take(MAX_ITEMS).collect(),
            used: 0,
            latest: vec![0; PLACES],
        }
    }

    /// Whether [`drain`](Self::drain) must be called before the next [`push`](Self::push).
    pub(crate) fn is_full(&self) -> bool {
        self.used == self.items.len()
    }

    /// Adds the IP packet at `range` of `memory`, which must stay as it is until [`drain`](Self::drain).
    /// What is joined, the device must take: `join`.
    pub(crate) fn push<M: Memory + ?Sized>(
        &mut self,
        tunnel: usize,
        memory: &M,
        range: Range<usize>,
        join: Offloads,
    ) {
        let packet = memory.bytes(&range);
        let parsed = parse(tunnel, packet, join);
        let mut place = None;
        if let Some(p) = &parsed {
            let at = hash(&p.flow);
            // Of two flows in one place the latest is known: the other begins anew, behind what it has there.
            if let Some(latest) = self.latest.get(at)
                && let Some(item) = self.items.get_mut(usize::from(*latest).wrapping_sub(1))
                && item.flow.as_ref() == Some(&p.flow)
                && item.takes(p, packet)
            {
                item.join(p, packet, range);
                return;
            }
            place = Some(at);
        }
        let Some(item) = self.items.get_mut(self.used) else { return };
        self.used += 1;
        item.start(tunnel, parsed, packet, range);
        if let Some(latest) = place.and_then(|at| self.latest.get_mut(at)) {
            *latest = self.used as u16;
        }
    }

    /// Gives everything, in the order in which it came, and forgets it.
    pub(crate) fn drain(&mut self, mut write: impl FnMut(Joined<'_>)) {
        for item in self.items.iter_mut().take(self.used) {
            if let Some(latest) = item.flow.as_ref().and_then(|flow| self.latest.get_mut(hash(flow))) {
                *latest = 0;
            }
            write(item.finish());
        }
        self.used = 0;
    }
}

/// The place of a flow.
#[inline]
fn hash(flow: &FlowKey) -> usize {
    let mixed = flow
        .iter()
        .fold(0u64, |mixed, word| (mixed ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % PLACES
}

/// `None` for what is neither TCP nor UDP in a plain packet.
#[inline]
fn parse(tunnel: usize, p: &[u8], join: Offloads) -> Option<Parsed> {
    let (header, protocol, transport) = match p.first()? >> 4 {
        4 => {
            let h: &[u8; 20] = p.first_chunk()?;
            let whole = usize::from(u16::from_be_bytes([h[2], h[3]])) == p.len();
            // Options and fragments are not for joining, nor for following.
            if h[0] != 0x45 || h[6] & 0x3f != 0 || h[7] != 0 || !whole {
                return None;
            }
            (Header::V4(h), h[9], 20)
        }
        6 => {
            let h: &[u8; 40] = p.first_chunk()?;
            if 40 + usize::from(u16::from_be_bytes([h[4], h[5]])) != p.len() {
                return None;
            }
            (Header::V6(h), h[6], 40)
        }
        _ => return None,
    };
    let segment = p.get(transport..)?;
    let t: &[u8; 8] = segment.first_chunk()?;
    let quad = |b: &[u8]| b.first_chunk().map_or(0, |b: &[u8; 8]| u64::from_ne_bytes(*b));
    let ports = u64::from(u32::from_ne_bytes([t[0], t[1], t[2], t[3]]));
    let end = ports << 32 | (tunnel as u64 & 0xff_ffff) << 8 | u64::from(protocol);
    let flow = match header {
        Header::V4(h) => [quad(&h[12..20]), 0, 0, 0, end],
        Header::V6(h) => [quad(&h[8..16]), quad(&h[16..24]), quad(&h[24..32]), quad(&h[32..40]), end],
    };
    let (joinable, header_len) = match protocol {
        TCP => {
            let tcp: &[u8; 20] = segment.first_chunk()?;
            let len = usize::from(tcp[12] >> 4) * 4;
            if len < 20 || len > segment.len() {
                return None;
            }
            // Only plain data: ACK, with or without PSH.
            (join.tso && tcp[12] & 0x0f == 0 && tcp[13] & !PSH == ACK, transport + len)
        }
        UDP => {
            let whole = usize::from(u16::from_be_bytes([t[4], t[5]])) == segment.len();
            (join.uso && whole && [t[6], t[7]] != [0, 0], transport + 8)
        }
        _ => return None,
    };
    let payload = p.len() - header_len;
    let mut parsed = Parsed { flow, kind: Kind::Single, verified: false, header_len, transport, payload };
    if joinable && payload > 0 {
        // Joined packets lose their checksums: those must have been right.
        let pseudo = checksum::pseudo_header(header, protocol, segment.len());
        if checksum::fold(checksum::sum(segment, pseudo)) == 0xffff {
            parsed.verified = true;
            parsed.kind = if protocol == TCP { Kind::Tcp } else { Kind::Udp };
        }
    }
    Some(parsed)
}

impl Item {
    fn start(&mut self, tunnel: usize, parsed: Option<Parsed>, packet: &[u8], range: Range<usize>) {
        self.tunnel = tunnel;
        self.pieces.clear();
        self.first = range.clone();
        self.closed = true;
        self.kind = Kind::Single;
        self.verified = false;
        self.flow = None;
        let Some(p) = parsed else { return };
        self.flow = Some(p.flow);
        self.kind = p.kind;
        self.verified = p.verified;
        if p.kind == Kind::Single {
            return;
        }
        self.header_len = p.header_len;
        self.transport = p.transport;
        self.segment = p.payload;
        self.payload = p.payload;
        let (Some(header), Some(from)) = (self.header.get_mut(..p.header_len), packet.get(..p.header_len))
        else {
            self.kind = Kind::Single;
            return;
        };
        header.copy_from_slice(from);
        self.closed = p.kind == Kind::Tcp && packet[p.transport + 13] & PSH != 0;
        self.next_sequence = sequence(packet, p.transport).wrapping_add(p.payload as u32);
        self.next_identification = identification(packet).wrapping_add(1);
        self.pieces.push(range.start + p.header_len..range.end);
    }

    /// Whether the packet, of the same flow, continues this item.
    #[inline]
    fn takes(&self, p: &Parsed, packet: &[u8]) -> bool {
        let most = if self.kind == Kind::Tcp { MAX_TCP_SEGMENTS } else { MAX_UDP_SEGMENTS };
        if self.closed
            || self.kind != p.kind
            || self.header_len != p.header_len
            || p.payload > self.segment
            || self.header_len + self.payload + p.payload > MAX_LEN
            || self.pieces.len() >= most
        {
            return false;
        }
        let same = |range: Range<usize>| self.header.get(range.clone()) == packet.get(range);
        let ip = if self.transport == 20 {
            // Type of service, DF, TTL. The identification counts on, or does not matter (RFC 6864 4.1).
            same(0..2)
                && same(6..7)
                && same(8..9)
                && (packet[6] & 0x40 != 0 || identification(packet) == self.next_identification)
        } else {
            // Traffic class, flow label, hop limit.
            same(0..4) && same(7..8)
        };
        let t = self.transport;
        ip && match self.kind {
            // Acknowledgement, window and options are the same, urgent pointer too.
            Kind::Tcp => {
                sequence(packet, t) == self.next_sequence
                    && same(t + 8..t + 12)
                    && same(t + 14..t + 16)
                    && same(t + 18..self.header_len)
            }
            _ => true,
        }
    }

    #[inline]
    fn join(&mut self, p: &Parsed, packet: &[u8], range: Range<usize>) {
        self.pieces.push(range.start + p.header_len..range.end);
        self.payload += p.payload;
        self.next_sequence = self.next_sequence.wrapping_add(p.payload as u32);
        self.next_identification = self.next_identification.wrapping_add(1);
        // Only the last may be shorter.
        self.closed = p.payload < self.segment;
        if self.kind == Kind::Tcp && packet[p.transport + 13] & PSH != 0 {
            self.closed = true;
            self.header[p.transport + 13] |= PSH;
        }
    }

    fn finish(&mut self) -> Joined<'_> {
        if self.pieces.len() < 2 {
            let flags = if self.verified { DATA_VALID } else { 0 };
            self.pieces.clear();
            self.pieces.push(self.first.clone());
            let vnet = VnetHeader { flags, ..VnetHeader::default() };
            return Joined { tunnel: self.tunnel, vnet, header: &[], pieces: &self.pieces };
        }
        let (v4, tcp, t) = (self.transport == 20, self.kind == Kind::Tcp, self.transport);
        let len = self.header_len + self.payload;
        let transport_len = len - t;
        if v4 {
            self.header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            checksum::write_ipv4_header(&mut self.header[..20]);
        } else {
            self.header[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        }
        if !tcp {
            self.header[t + 4..t + 6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        }
        let (protocol, csum_offset) = if tcp { (TCP, 16) } else { (UDP, 6) };
        let pseudo = match (self.header.first_chunk(), self.header.first_chunk()) {
            (Some(h), _) if v4 => checksum::pseudo_header(Header::V4(h), protocol, transport_len),
            (_, Some(h)) => checksum::pseudo_header(Header::V6(h), protocol, transport_len),
            _ => 0,
        };
        let field = t + usize::from(csum_offset);
        self.header[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
        let vnet = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: match (tcp, v4) {
                (true, true) => GSO_TCPV4,
                (true, false) => GSO_TCPV6,
                _ => GSO_UDP_L4,
            },
            hdr_len: self.header_len as u16,
            gso_size: self.segment as u16,
            csum_start: t as u16,
            csum_offset,
        };
        Joined {
            tunnel: self.tunnel,
            vnet,
            header: self.header.get(..self.header_len).unwrap_or_default(),
            pieces: &self.pieces,
        }
    }
}

#[inline]
fn sequence(packet: &[u8], transport: usize) -> u32 {
    packet.get(transport + 4..).and_then(|p| p.first_chunk()).map_or(0, |b: &[u8; 4]| u32::from_be_bytes(*b))
}

#[inline]
fn identification(packet: &[u8]) -> u16 {
    packet.get(4..).and_then(|p| p.first_chunk()).map_or(0, |b: &[u8; 2]| u16::from_be_bytes(*b))
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
