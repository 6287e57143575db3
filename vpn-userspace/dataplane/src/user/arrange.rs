//! The order in which a batch of the LAN is sealed: packets of one size next to each other, as trains want them.
//!
//! Packets are arranged before they are sealed, so that sequence numbers follow each other on the wire, and a peer with a
//! small replay window loses nothing. Within a flow the order stays: a packet goes into a train that leaves with the
//! flow's latest packet or after it.

use culvert_sys::batch::{MAX_SEGMENTS, MAX_TRAIN};
use culvert_sys::tun::GSO_NONE;

use super::port::LanPacket;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Places for the latest train of a flow. Flows that share one only have fewer trains to choose from.
const FLOWS: usize = 256;
/// How many trains are looked at for each packet.
const LOOK: usize = 32;
/// What ESP and its UDP header add at most, for the length of a train.
const OVERHEAD: usize = 64;

struct Train {
    /// Length of the sealed packets, TOS and family; `None` for what nothing may join.
    class: Option<u32>,
    packets: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

/// Arranges batches. Reused, so that arranging allocates nothing.
pub(crate) struct Arranger {
    trains: Vec<Train>,
    /// The packet behind each packet in its train.
    next: Vec<usize>,
    order: Vec<usize>,
    latest: [u16; FLOWS],
}

/// What of a packet matters.
struct Glance {
    /// `None` for what nothing may overtake, and that overtakes nothing: fragments, options.
    flow: Option<usize>,
    class: Option<u32>,
}

impl Arranger {
    /// For batches of at most that many packets.
    pub(crate) fn new(packets: usize) -> Self {
        Self {
            trains: Vec::with_capacity(packets),
            next: Vec::with_capacity(packets),
            order: Vec::with_capacity(packets),
            latest: [0; FLOWS],
        }
    }

    /// Indices of the packets, in the order in which they should be sealed.
    pub(crate) fn arrange(&mut self, buf: &[u8], packets: &[LanPacket]) -> &[usize] {
        self.order.clear();
        if packets.len() < 3 {
            self.order.extend(0..packets.len());
            return &self.order;
        }
        self.trains.clear();
        self.next.clear();
        self.latest.fill(0);
        let mut floor = 0;
        for (index, packet) in packets.iter().enumerate() {
            let bytes = buf.get(packet.bytes.clone()).unwrap_or_default();
            let glance = glance(bytes, packet.vnet.gso_type == GSO_NONE);
            let earliest = match glance.flow {
                Some(flow) => floor.max(usize::from(self.latest[flow])),
                None => self.trains.len(),
            };
            self.next.push(usize::MAX);
            let place = glance.class.and_then(|class| {
                let open = self.trains.iter().enumerate().skip(earliest).take(LOOK);
                let takes = |t: &Train| {
                    t.class == Some(class)
                        && t.packets < MAX_SEGMENTS
                        && t.bytes + bytes.len() + OVERHEAD <= MAX_TRAIN
                };
                open.into_iter().find(|(_, t)| takes(t)).map(|(place, _)| place)
            });
            let place = match place.and_then(|place| Some((place, self.trains.get_mut(place)?))) {
                Some((place, train)) => {
                    if let Some(next) = self.next.get_mut(train.last) {
                        *next = index;
                    }
                    train.last = index;
                    train.packets += 1;
                    train.bytes += bytes.len() + OVERHEAD;
                    place
                }
                None => {
                    let bytes = bytes.len() + OVERHEAD;
                    self.trains.push(Train {
                        class: glance.class,
                        packets: 1,
                        bytes,
                        first: index,
                        last: index,
                    });
                    self.trains.len() - 1
                }
            };
            match glance.flow {
                Some(flow) => self.latest[flow] = place as u16,
                None => floor = place,
            }
        }
        for train in &self.trains {
            let mut at = train.first;
            while let Some(next) = self.next.get(at) {
                self.order.push(at);
                at = *next;
            }
        }
        &self.order
    }
}

/// A number that packets of one flow have in common; packets that may belong to any have one as well.
#[inline]
pub(crate) fn flow_of(packet: &[u8]) -> usize {
    glance(packet, true).flow.unwrap_or(0)
}

#[inline]
fn glance(p: &[u8], single: bool) -> Glance {
    let word = |at: usize| p.get(at..).and_then(|p| p.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b));
    let (protocol, transport, mut mix, tos) = match p.first() {
        Some(0x45) if word(4).to_be() & 0x3fff == 0 => {
            (p.get(9).copied().unwrap_or(0), 20, word(12).rotate_left(7) ^ word(16), p[1])
        }
        Some(first) if first >> 4 == 6 => {
            let mix = (8..40).step_by(4).fold(0, |mix: u32, at| mix.rotate_left(7) ^ word(at));
            (p.get(6).copied().unwrap_or(0), 40, mix, (first << 4) | (p.get(1).copied().unwrap_or(0) >> 4))
        }
        _ => return Glance { flow: None, class: None },
    };
    match protocol {
        TCP | UDP => mix ^= word(transport).rotate_left(13),
        // Extension headers of IPv6, a fragment's among them.
        0 | 43 | 44 | 51 | 60 | 135 if transport == 40 => return Glance { flow: None, class: None },
        _ => {}
    }
    mix ^= u32::from(protocol);
    let flow = (mix.wrapping_mul(0x9e37_79b1) >> 24) as usize % FLOWS;
    // RFC 4303 2.4: packets end on a multiple of four bytes, the trailer's two included.
    let class = ((p.len() as u32 + 5) / 4) << 9 | u32::from(tos) << 1 | u32::from(transport == 40);
    Glance { flow: Some(flow), class: single.then_some(class) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_sys::tun::{GSO_TCPV4, VnetHeader};
    use proptest::prelude::*;

    fn batch(packets: &[(u16, usize, u8)]) -> (Vec<u8>, Vec<LanPacket>) {
        let (mut buf, mut list) = (Vec::new(), Vec::new());
        for (port, len, tos) in packets {
            let start = buf.len();
            buf.extend([0x45, *tos, (len >> 8) as u8, *len as u8, 0, 0, 0x40, 0, 64, UDP, 0, 0]);
            buf.extend([10, 1, 0, 2, 10, 2, 0, 2]);
            buf.extend(port.to_be_bytes());
            buf.resize(start + len, 0);
            list.push(LanPacket { bytes: start..buf.len(), vnet: VnetHeader::default() });
        }
        (buf, list)
    }

    fn arranged(packets: &[(u16, usize, u8)]) -> Vec<usize> {
        let (buf, list) = batch(packets);
        Arranger::new(128).arrange(&buf, &list).to_vec()
    }

    #[test]
    fn sizes_of_several_flows_come_together() {
        let mixed = [(1, 64, 0), (2, 576, 0), (3, 64, 0), (4, 1400, 0), (5, 576, 0), (6, 66, 0), (7, 64, 1)];
        assert_eq!(
            arranged(&mixed),
            [0, 2, 5, 1, 4, 3, 6],
            "64 and 66 seal to one length; another TOS is another train"
        );
        assert_eq!(arranged(&[(1, 64, 0), (2, 576, 0)]), [0, 1]);
    }

    #[test]
    fn one_flow_stays_as_it_is_and_nothing_passes_a_fragment() {
        let one = [(1, 64, 0), (1, 576, 0), (1, 64, 0), (1, 576, 0), (1, 576, 0), (1, 64, 0)];
        assert_eq!(arranged(&one), [0, 1, 2, 3, 4, 5]);
        let (mut buf, mut list) = batch(&[(1, 64, 0), (2, 64, 0), (3, 64, 0), (4, 64, 0)]);
        buf[list[1].bytes.start + 6] = 0x20;
        assert_eq!(Arranger::new(8).arrange(&buf, &list), [0, 1, 2, 3]);
        buf[list[1].bytes.start + 6] = 0x40;
        list[1].vnet.gso_type = GSO_TCPV4;
        assert_eq!(
            Arranger::new(8).arrange(&buf, &list),
            [0, 2, 3, 1],
            "a super-packet is a train of its own"
        );
    }

    proptest! {
        #[test]
        fn every_packet_comes_once_and_flows_keep_their_order(
            packets in prop::collection::vec((0..20u16, 28..200usize, 0..2u8), 0..128),
            cuts in prop::collection::vec(0..128usize, 0..4),
        ) {
            let (mut buf, list) = batch(&packets);
            for cut in &cuts {
                if let Some(packet) = list.get(*cut) {
                    buf[packet.bytes.start + 7] = 9; // a fragment
                }
            }
            let order = Arranger::new(128).arrange(&buf, &list).to_vec();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..packets.len()).collect::<Vec<_>>());
            for port in 0..20 {
                let of_flow: Vec<_> = order.iter().filter(|i| packets[**i].0 == port).collect();
                prop_assert!(of_flow.is_sorted(), "{of_flow:?}");
            }
            for cut in cuts.iter().filter(|c| **c < packets.len()) {
                let at = order.iter().position(|i| i == cut).unwrap();
                prop_assert!(order[..at].iter().all(|i| i < cut) && order[at + 1..].iter().all(|i| i > cut));
            }
        }
    }
}
