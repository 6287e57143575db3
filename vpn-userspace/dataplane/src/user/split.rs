//! Super-packets into packets: TCP and UDP segmentation as a NIC with TSO and USO does it.
//!
//! Each segment's header comes from the super-packet's, with lengths, identification, sequence number,
//! flags and checksums of its own; the payload is copied and summed in one pass, straight to where it
//! will be sealed. Nothing that the virtio-net header claims is believed unchecked.

use culvert_esp::checksum;
use culvert_esp::packet::{Header, Packet, PacketError};
use culvert_sys::tun::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Why a packet from the TUN device was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    /// No IP packet.
    #[error("no IP packet: {0}")]
    Packet(#[from] PacketError),
    /// The bytes read are not the packet's length.
    #[error("the packet's length is not what was read")]
    Length,
    /// The segment size is 0 or more than the whole packet.
    #[error("a segment size of {0} bytes")]
    SegmentSize(u16),
    /// The length of the headers is more than the packet's.
    #[error("headers of {0} bytes are more than the packet")]
    HeaderLength(u16),
    /// A kind of super-packet that was not agreed on, or that the packet is not.
    #[error("super-packet type {0}")]
    Kind(u8),
    /// The checksum is not where the packet's protocol has it.
    #[error("a checksum at {0} + {1}")]
    Checksum(u16, u16),
    /// A super-packet that is a fragment, or whose TCP or UDP header does not fit.
    #[error("no whole TCP or UDP header")]
    Transport,
}

/// What a read from the TUN device holds.
#[derive(Debug)]
pub(crate) enum Plan<'a> {
    /// One packet.
    Single(Single<'a>),
    /// Several, to be written one by one.
    Segments(Segments<'a>),
}

/// One packet, its checksum perhaps to be finished.
#[derive(Debug)]
pub(crate) struct Single<'a> {
    packet: &'a [u8],
    partial: Option<(usize, usize)>,
}

impl Single<'_> {
    /// Bytes of the packet.
    pub(crate) fn len(&self) -> usize {
        self.packet.len()
    }

    /// Writes the packet to the start of `out`, its checksum finished. False if it does not fit.
    #[must_use]
    pub(crate) fn write(&self, out: &mut [u8]) -> bool {
        let Some(out) = out.get_mut(..self.packet.len()) else { return false };
        out.copy_from_slice(self.packet);
        match self.partial {
            Some((start, offset)) => checksum::finish_partial(out, start, offset),
            None => true,
        }
    }
}

/// A super-packet, cut where its sender wants it cut.
#[derive(Debug)]
pub(crate) struct Segments<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    size: usize,
    /// Offset of the TCP or UDP header.
    transport: usize,
    tcp: bool,
    v4: bool,
    identification: u16,
    sequence: u32,
    flags: u8,
    /// Of the IPv4 header, without length, identification and checksum.
    ip_sum: u64,
    /// Of pseudo-header and TCP or UDP header, without what differs between segments.
    transport_sum: u64,
}

/// Reads what was read from the TUN device: a packet and the virtio-net header before it.
pub(crate) fn plan<'a>(vnet: &VnetHeader, packet: &Packet<'a>, read: usize) -> Result<Plan<'a>, SplitError> {
    let bytes = packet.bytes();
    if bytes.len() != read {
        return Err(SplitError::Length);
    }
    if usize::from(vnet.hdr_len) > bytes.len() {
        return Err(SplitError::HeaderLength(vnet.hdr_len));
    }
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    let misplaced = SplitError::Checksum(vnet.csum_start, vnet.csum_offset);
    let partial = vnet.flags & NEEDS_CSUM != 0;
    let kind = vnet.gso_type & !GSO_ECN;
    if kind == GSO_NONE {
        // Inside a tunnel's own headers the checksum may belong to a deeper one, so only the bounds count.
        if partial && (start < packet.transport_offset() || start + offset + 2 > bytes.len()) {
            return Err(misplaced);
        }
        return Ok(Plan::Single(Single { packet: bytes, partial: partial.then_some((start, offset)) }));
    }

    let v4 = packet.is_ipv4();
    let tcp = match (kind, v4, packet.protocol()) {
        (GSO_TCPV4, true, TCP) | (GSO_TCPV6, false, TCP) => true,
        (GSO_UDP_L4, _, UDP) => false,
        _ => return Err(SplitError::Kind(vnet.gso_type)),
    };
    if packet.fragment().is_some() {
        return Err(SplitError::Transport);
    }
    let size = usize::from(vnet.gso_size);
    if size == 0 || size > bytes.len() {
        return Err(SplitError::SegmentSize(vnet.gso_size));
    }
    let transport = packet.transport_offset();
    if partial && (start != transport || offset != if tcp { 16 } else { 6 }) {
        return Err(misplaced);
    }
    let segment = packet.transport();
    let header_len = match (tcp, segment) {
        (true, [_, _, _, _, _, _, _, _, _, _, _, _, offset, ..]) => usize::from(offset >> 4) * 4,
        (true, _) => return Err(SplitError::Transport),
        (false, _) => 8,
    };
    if header_len < if tcp { 20 } else { 8 } || header_len > segment.len() {
        return Err(SplitError::Transport);
    }
    let (transport_header, payload) = segment.split_at(header_len);
    let header = &bytes[..transport + header_len];
    let word = |at: usize| u16::from_be_bytes([transport_header[at], transport_header[at + 1]]);

    let pseudo = checksum::pseudo_header(packet.header(), packet.protocol(), 0);
    let (sequence, flags, transport_sum) = if tcp {
        // All but sequence number (4..8), the word of the flags (12..14) and the checksum (16..18).
        let sum = checksum::sum(&transport_header[..4], pseudo);
        let sum = checksum::sum(&transport_header[8..12], sum);
        let sum = checksum::sum(&transport_header[14..16], sum);
        let sum = checksum::sum(&transport_header[18..], sum);
        (u32::from(word(4)) << 16 | u32::from(word(6)), transport_header[13], sum)
    } else {
        (0, 0, checksum::sum(&transport_header[..4], pseudo))
    };
    let (identification, ip_sum) = match packet.header() {
        Header::V4(h) => {
            let sum = checksum::sum(&bytes[..2], 0);
            let sum = checksum::sum(&bytes[6..10], sum);
            (u16::from_be_bytes([h[4], h[5]]), checksum::sum(&bytes[12..transport], sum))
        }
        Header::V6(_) => (0, 0),
    };
    Ok(Plan::Segments(Segments {
        header,
        payload,
        size,
        transport,
        tcp,
        v4,
        identification,
        sequence,
        flags,
        ip_sum,
        transport_sum,
    }))
}

impl Segments<'_> {
    /// How many packets it makes; one if there is no payload.
    pub(crate) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Bytes of the `index`th packet.
    #[inline]
    pub(crate) fn len(&self, index: usize) -> usize {
        let rest = self.payload.len().saturating_sub(index.saturating_mul(self.size));
        self.header.len() + rest.min(self.size)
    }

    /// Bytes of the longest packet, the first.
    pub(crate) fn max_len(&self) -> usize {
        self.len(0)
    }

    /// Writes the `index`th packet to the start of `out`. False if it does not fit.
    #[inline]
    #[must_use]
    pub(crate) fn write(&self, index: usize, out: &mut [u8]) -> bool {
        let from = index.saturating_mul(self.size).min(self.payload.len());
        let to = (from + self.size).min(self.payload.len());
        let (piece, last) = (&self.payload[from..to], to == self.payload.len());
        let len = self.header.len() + piece.len();
        let Some(out) = out.get_mut(..len) else { return false };
        let (header, data) = out.split_at_mut(self.header.len());
        header.copy_from_slice(self.header);
        let payload_sum = copy_and_sum(data, piece);

        let be = |v: usize| u64::from((v as u16).to_be());
        let (ip, transport) = header.split_at_mut(self.transport);
        if self.v4 {
            let identification = self.identification.wrapping_add(index as u16);
            let sum = self.ip_sum + be(len) + u64::from(identification.to_be());
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&identification.to_be_bytes());
            ip[10..12].copy_from_slice(&checksum::finish(sum));
        } else {
            ip[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }

        let transport_len = len - self.transport;
        let sum = self.transport_sum + payload_sum + be(transport_len);
        if self.tcp {
            let sequence = self.sequence.wrapping_add(from as u32).to_be_bytes();
            let mut flags = self.flags;
            if !last {
                flags &= !FIN_PSH;
            }
            if index > 0 {
                // RFC 3168 6.1.2: CWR is said once.
                flags &= !CWR;
            }
            transport[4..8].copy_from_slice(&sequence);
            transport[13] = flags;
            let sum = checksum::sum(&sequence, sum);
            let sum = checksum::sum(&transport[12..14], sum);
            transport[16..18].copy_from_slice(&checksum::finish(sum));
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            // The length counts twice: in the pseudo-header and in its own field.
            let sum = checksum::finish(sum + be(transport_len));
            // RFC 768: a sum of zero is sent as all ones.
            transport[6..8].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
        }
        true
    }
}

/// Copies and sums (as [`checksum::sum`]) in one pass. Both are of one length.
#[inline]
fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    let mut lanes = [0u64; 16];
    let (to_chunks, to_rest) = to.as_chunks_mut::<64>();
    let (from_chunks, from_rest) = from.as_chunks::<64>();
    for (to, from) in to_chunks.iter_mut().zip(from_chunks) {
        *to = *from;
        let (words, _) = from.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    to_rest.copy_from_slice(from_rest);
    checksum::sum(from_rest, lanes.iter().sum())
}

#[cfg(test)]
#[path = "split_tests.rs"]
pub(crate) mod tests;
