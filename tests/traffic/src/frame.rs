//! The generator's frames: Ethernet, IPv4, UDP, and a payload that names the run, the flow and the place in it.

use std::net::SocketAddrV4;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Bytes of the payload that mean something; the rest is zero.
pub(crate) const LABEL: usize = 20;
const MAGIC: u32 = 0x4376_5472;
/// The longest packet that is generated.
const LONGEST: usize = 9000;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Sizes of IP packets in bytes, by turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(Vec<usize>);

impl Sizes {
    /// The shortest packet that holds its label.
    pub const SHORTEST: usize = IPV4 + UDP + LABEL;

    /// All packets alike; held within [`Sizes::SHORTEST`] and 9000.
    pub fn fixed(bytes: usize) -> Self {
        Self(vec![bytes.clamp(Self::SHORTEST, LONGEST)])
    }

    /// Seven packets of 64 bytes, four of 576 and one of 1400, so mixed that no two long ones follow each other.
    pub fn imix() -> Self {
        Self(vec![64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 576, 64])
    }

    /// Bytes of a packet on average.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<usize>() as f64 / self.0.len() as f64
    }

    fn of(&self, packet: u64, flows: u16) -> usize {
        // Each round over the flows begins one size later, so that every flow has every size.
        let at = packet + packet / u64::from(flows);
        self.0[(at % self.0.len() as u64) as usize]
    }
}

/// One end of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    /// Address on the link: the sender's own, or the router's towards the receiver.
    pub mac: Mac,
    /// IP address and UDP port.
    pub at: SocketAddrV4,
}

/// UDP packets from here to there.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The sender. Flows differ in its port, counted from here.
    pub from: Endpoint,
    /// The sink, and the next hop to it.
    pub to: Endpoint,
    /// How many flows, at least 1; packets take them by turns.
    pub flows: u16,
    /// Sizes of the packets.
    pub sizes: Sizes,
}

/// What a payload says of its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) run: u32,
    pub(crate) flow: u16,
    pub(crate) sequence: u64,
}

impl Label {
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; LABEL] = payload.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (word(0) == MAGIC).then(|| Self {
            run: word(4),
            flow: u16::from_be_bytes([bytes[8], bytes[9]]),
            sequence: u64::from(word(12)) << 32 | u64::from(word(16)),
        })
    }

    fn write(&self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&MAGIC.to_be_bytes());
        payload[4..8].copy_from_slice(&self.run.to_be_bytes());
        payload[8..10].copy_from_slice(&self.flow.to_be_bytes());
        payload[10..12].fill(0);
        payload[12..20].copy_from_slice(&self.sequence.to_be_bytes());
    }
}

impl Stream {
    /// Bytes of the longest frame.
    pub(crate) fn longest_frame(&self) -> usize {
        ETHERNET + self.sizes.0.iter().max().copied().unwrap_or(Sizes::SHORTEST)
    }

    /// Flow and sequence number of a packet by its number.
    pub(crate) fn label(&self, run: u32, packet: u64) -> Label {
        let flows = u64::from(self.flows.max(1));
        Label { run, flow: (packet % flows) as u16, sequence: packet / flows }
    }

    /// Writes the frame of packet number `packet` over `frame`, which is zero beyond its headers; returns its length.
    pub(crate) fn write(&self, run: u32, packet: u64, frame: &mut [u8]) -> usize {
        let label = self.label(run, packet);
        let size = self.sizes.of(packet, self.flows.max(1));
        frame[..6].copy_from_slice(&self.to.mac);
        frame[6..12].copy_from_slice(&self.from.mac);
        frame[12..14].copy_from_slice(&[0x08, 0]);
        let ip = &mut frame[ETHERNET..ETHERNET + size];
        let [high, low] = (size as u16).to_be_bytes();
        // Don't fragment; TTL 64; UDP.
        ip[..12].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip[12..16].copy_from_slice(&self.from.at.ip().octets());
        ip[16..20].copy_from_slice(&self.to.at.ip().octets());
        let sum = fold(words(&ip[..IPV4]));
        ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
        let udp_len = (size - IPV4) as u16;
        let port = self.from.at.port().wrapping_add(label.flow);
        ip[20..22].copy_from_slice(&port.to_be_bytes());
        ip[22..24].copy_from_slice(&self.to.at.port().to_be_bytes());
        ip[24..26].copy_from_slice(&udp_len.to_be_bytes());
        ip[26..28].copy_from_slice(&[0, 0]);
        label.write(&mut ip[28..]);
        // Pseudo header, UDP header and label; what follows is zero and adds nothing.
        let sum = words(&ip[12..Sizes::SHORTEST]) + 17 + u32::from(udp_len);
        let checksum = match !fold(sum) {
            0 => 0xffff,
            other => other,
        };
        ip[26..28].copy_from_slice(&checksum.to_be_bytes());
        ETHERNET + size
    }
}

/// A frame with one UDP datagram, whose checksum is left out (RFC 768): its payload may be changed later.
pub fn datagram(from: &Endpoint, to: &Endpoint, payload: &[u8]) -> Vec<u8> {
    let size = IPV4 + UDP + payload.len();
    let mut frame = [&to.mac[..], &from.mac, &[0x08, 0]].concat();
    let [high, low] = (size as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(from.at.ip().octets());
    ip.extend(to.at.ip().octets());
    let sum = fold(words(&ip));
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    for word in [from.at.port(), to.at.port(), (UDP + payload.len()) as u16, 0] {
        ip.extend(word.to_be_bytes());
    }
    frame.extend(ip);
    frame.extend(payload);
    frame
}

/// Sum of the 16-bit words of an even number of bytes, fewer than 65536 of them.
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(flows: u16, sizes: Sizes) -> Stream {
        Stream {
            from: Endpoint { mac: [2; 6], at: "10.1.0.2:4000".parse().unwrap() },
            to: Endpoint { mac: [4; 6], at: "10.2.0.2:7000".parse().unwrap() },
            flows,
            sizes,
        }
    }

    #[test]
    fn frames_have_right_checksums_and_tell_their_place() {
        let stream = stream(64, Sizes::imix());
        let mut frame = vec![0; stream.longest_frame()];
        for packet in [0, 1, 63, 64, 1000, u64::from(u32::MAX) * 64 + 65] {
            frame.fill(0);
            let length = stream.write(9, packet, &mut frame);
            let ip = &frame[ETHERNET..length];
            assert_eq!(fold(words(&ip[..20])), 0xffff);
            assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
            assert_eq!(fold(words(&ip[12..]) + 17 + (ip.len() as u32 - 20)), 0xffff);
            assert_eq!(u16::from_be_bytes([ip[20], ip[21]]), 4000 + (packet % 64) as u16);
            let expected = Label { run: 9, flow: (packet % 64) as u16, sequence: packet / 64 };
            assert_eq!(Label::read(&ip[28..]), Some(expected));
        }
        assert_eq!(Label::read(&[0; LABEL]), None);
        assert_eq!(Label::read(&[0; 3]), None);
    }

    #[test]
    fn single_datagrams_are_whole() {
        let stream = stream(1, Sizes::imix());
        let frame = datagram(&stream.from, &stream.to, b"hello");
        assert_eq!(frame.len(), ETHERNET + 33);
        assert_eq!(fold(words(&frame[ETHERNET..ETHERNET + 20])), 0xffff);
        assert_eq!(frame[ETHERNET + 24..], [0, 13, 0, 0, b'h', b'e', b'l', b'l', b'o']);
    }

    #[test]
    fn every_flow_has_every_size() {
        for flows in [1, 4, 12, 64] {
            let sizes = Sizes::imix();
            for flow in 0..u64::from(flows) {
                let mut seen: Vec<usize> =
                    (0..12).map(|round| sizes.of(round * u64::from(flows) + flow, flows)).collect();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen, [64, 576, 1400], "{flows} flows, flow {flow}");
            }
        }
        assert_eq!(Sizes::imix().mean(), (7. * 64. + 4. * 576. + 1400.) / 12.);
        assert_eq!(Sizes::fixed(1), Sizes::fixed(48));
    }
}
