//! What stands before the text of a sealed packet: link, IP and UDP header, ESP header and IV.
use super::layout::Peer;
use super::{
    AF_INET, AF_INET6, ESP_AND_IV, ETHERNET, Fib, HEAD_WORDS, ICV, MAX_TEXT, State, TEXT_WORDS, inner,
};

const PROTOCOL_ESP: u32 = 50;
const PROTOCOL_UDP: u32 = 17;
const TTL: u32 = 64;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
/// Words of ESP header and IV.
const ESP_WORDS: usize = ESP_AND_IV as usize / 4;

/// Numbers the packet, for [`aead::seal`](super::aead::seal): ESP header, IV and what of them is authenticated. The IV
/// is the number, as `culvert-crypto` has it.
#[inline(always)]
pub fn number(s: &mut State, spi: u32, sequence: u64, esn: bool) {
    let (high, low) = (((sequence >> 32) as u32).to_be(), (sequence as u32).to_be());
    let at = HEAD_WORDS - ESP_WORDS;
    s.head[at] = spi;
    s.head[at + 1] = low;
    s.head[at + 2] = high;
    s.head[at + 3] = low;
    associate(s, spi, high, low, esn);
    s.input[14] = u32::from_le(high);
    s.input[15] = u32::from_le(low);
}

/// The same for a packet that came, whose header is in [`State::esp`]; `sequence` is its whole number.
#[inline(always)]
pub fn renumber(s: &mut State, sequence: u64, esn: bool) {
    let [spi, low, iv0, iv1] = s.esp;
    associate(s, spi, ((sequence >> 32) as u32).to_be(), low, esn);
    s.input[14] = u32::from_le(iv0);
    s.input[15] = u32::from_le(iv1);
}

/// RFC 7634 2.1: SPI and number, the latter with its upper half where there is one.
#[inline(always)]
fn associate(s: &mut State, spi: u32, high: u32, low: u32, esn: bool) {
    if esn {
        s.aad = [spi, high, low, 0];
        s.aad_len = 12;
    } else {
        s.aad = [spi, low, 0, 0];
        s.aad_len = 8;
    }
}

/// Bytes of the outer packet around the text, IP header included.
#[inline(always)]
pub fn outer_len(peer: &Peer, text_len: u32) -> u32 {
    let ip = if peer.flags & Peer::IPV6 != 0 { 40 } else { 20 };
    let udp = if peer.flags & Peer::UDP != 0 { 8 } else { 0 };
    ip + udp + ESP_AND_IV + (text_len & 0x7ff) + ICV
}

/// Asks for the next hop of the outer packet as of one of this host's own.
#[inline(always)]
pub fn ask(s: &mut State, peer: &Peer) {
    let len = outer_len(peer, s.text_len);
    let (source, destination) = (peer.local.words(), peer.remote.words());
    s.fib = Fib {
        family: AF_INET,
        protocol: PROTOCOL_ESP as u8,
        ports: [0; 2],
        len: len as u16,
        // The loopback: where what a host sends itself comes from.
        interface: 1,
        tos: 0,
        source: [source[3], 0, 0, 0],
        destination: [destination[3], 0, 0, 0],
        vlan: 0,
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };
    if peer.flags & Peer::UDP != 0 {
        s.fib.protocol = PROTOCOL_UDP as u8;
        s.fib.ports = [peer.local_port, peer.remote_port];
    }
    if peer.flags & Peer::IPV6 != 0 {
        s.fib.family = AF_INET6;
        s.fib.source = source;
        s.fib.destination = destination;
    }
}

/// Asks where the inner packet goes that came in by `interface`.
#[inline(always)]
pub fn ask_inner(s: &mut State, interface: u32) {
    let (source, destination) = (words(s.source), words(s.destination));
    let v4 = s.family == 4;
    let ports =
        if s.shows_ports != 0 { [(s.ports[0] as u16).to_be(), (s.ports[1] as u16).to_be()] } else { [0; 2] };
    s.fib = Fib {
        family: if v4 { AF_INET } else { AF_INET6 },
        protocol: s.protocol as u8,
        ports,
        len: s.inner_len as u16,
        interface,
        tos: if v4 { s.class & 0x1c } else { 0 },
        source,
        destination,
        vlan: 0,
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };
    if v4 {
        s.fib.source[0] = source[3];
        s.fib.destination[0] = destination[3];
    }
}

#[inline(always)]
fn words(address: [u64; 2]) -> [u32; 4] {
    let be = |half: u64, shift: u32| ((half >> shift) as u32).to_be();
    [be(address[0], 32), be(address[0], 0), be(address[1], 32), be(address[1], 0)]
}

/// Builds the outer headers of the sealed packet, with the next hop that was found. Afterwards the frame begins
/// [`frame_at`] bytes into the state.
#[inline(always)]
pub fn wrap(s: &mut State, peer: &Peer) {
    let class = {
        // RFC 6040 4.1: the congestion field goes outward as it is.
        let dscp = if peer.flags & Peer::DSCP != 0 { s.class & 0xfc } else { 0 };
        dscp | s.class & 3
    };
    let udp = peer.flags & Peer::UDP != 0;
    let total = outer_len(peer, s.text_len);
    let payload = ESP_AND_IV + (s.text_len & 0x7ff) + ICV + if udp { 8 } else { 0 };
    let protocol = if udp { PROTOCOL_UDP } else { PROTOCOL_ESP };
    // RFC 3948 2.1: IPv4's checksum is zero.
    if udp {
        let at = HEAD_WORDS - ESP_WORDS - 2;
        s.head[at] = u32::from_ne_bytes(pair(peer.local_port, peer.remote_port));
        s.head[at + 1] = (payload << 16).to_be();
    }
    if peer.flags & Peer::IPV6 == 0 {
        let df: u32 = if peer.flags & Peer::DF != 0 { 0x4000 } else { 0 };
        let (local, remote) = (peer.local.words()[3], peer.remote.words()[3]);
        let first = 0x4500_0000 | class << 16 | total;
        let third = TTL << 24 | protocol << 16;
        let sum = first as u64 + df as u64 + third as u64;
        let sum = sum + u32::from_be(local) as u64 + u32::from_be(remote) as u64;
        let checksum = !inner::fold(sum) & 0xffff;
        let header = [first.to_be(), df.to_be(), (third | checksum).to_be(), local, remote];
        let at = HEAD_WORDS - ESP_WORDS - 5;
        if udp {
            put(s, at - 2, &header)
        } else {
            put(s, at, &header)
        }
        if udp { ethernet(s, at - 2, ETHERTYPE_IPV4) } else { ethernet(s, at, ETHERTYPE_IPV4) }
    } else {
        let (l, r) = (peer.local.words(), peer.remote.words());
        let first = 0x6000_0000 | class << 20;
        let second = payload << 16 | protocol << 8 | TTL;
        let header = [first.to_be(), second.to_be(), l[0], l[1], l[2], l[3], r[0], r[1], r[2], r[3]];
        let at = HEAD_WORDS - ESP_WORDS - 10;
        if udp {
            put(s, at - 2, &header)
        } else {
            put(s, at, &header)
        }
        if udp {
            ethernet(s, at - 2, ETHERTYPE_IPV6)
        } else {
            ethernet(s, at, ETHERTYPE_IPV6)
        }
        if udp {
            checksum_udp(s, &header, payload);
        }
    }
}

#[inline(always)]
fn pair(a: u16, b: u16) -> [u8; 4] {
    let ([a0, a1], [b0, b1]) = (a.to_ne_bytes(), b.to_ne_bytes());
    [a0, a1, b0, b1]
}

#[inline(always)]
fn put<const N: usize>(s: &mut State, at: usize, words: &[u32; N]) {
    let mut i = 0;
    while i < N {
        s.head[at + i] = words[i];
        i += 1;
    }
}

/// The link header before the word `at`, between the addresses of [`State::fib`].
#[inline(always)]
fn ethernet(s: &mut State, at: usize, ethertype: u32) {
    let (d, f) = (s.fib.destination_mac, s.fib.source_mac);
    let [t0, t1] = (ethertype as u16).to_be_bytes();
    s.head[at - 4] = u32::from_ne_bytes([0, 0, d[0], d[1]]);
    s.head[at - 3] = u32::from_ne_bytes([d[2], d[3], d[4], d[5]]);
    s.head[at - 2] = u32::from_ne_bytes([f[0], f[1], f[2], f[3]]);
    s.head[at - 1] = u32::from_ne_bytes([f[4], f[5], t0, t1]);
    s.head_at = at as u32;
}

/// The link header of the opened packet, right before the text.
#[inline(always)]
pub fn unwrap(s: &mut State) {
    let ethertype = if s.family == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    ethernet(s, HEAD_WORDS, ethertype);
}

/// Where the frame begins in the state, in bytes.
#[inline(always)]
pub fn frame_at(s: &State) -> u32 {
    4 * s.head_at - ETHERNET
}

/// UDP's checksum, which IPv6 does not do without (RFC 8200 8.1).
#[inline(always)]
fn checksum_udp(s: &mut State, header: &[u32; 10], payload: u32) {
    let at = HEAD_WORDS - ESP_WORDS - 2;
    let mut sum = (PROTOCOL_UDP + payload) as u64;
    let mut i = 2;
    while i < 10 {
        sum += u32::from_be(header[i]) as u64;
        i += 1;
    }
    i = at;
    while i < HEAD_WORDS {
        sum += u32::from_be(s.head[i]) as u64;
        i += 1;
    }
    let words = (s.text_len + ICV) as usize >> 2;
    i = 0;
    while i < (MAX_TEXT + ICV) as usize / 4 {
        if i >= words {
            break;
        }
        sum += u32::from_be(s.text[i & (TEXT_WORDS - 1)]) as u64;
        i += 1;
    }
    let checksum = match !inner::fold(sum) & 0xffff {
        0 => 0xffff,
        checksum => checksum,
    };
    s.head[at + 1] = (payload << 16 | checksum).to_be();
}
