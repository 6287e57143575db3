//! The SAs that a tunnel sends with, and which of them takes a packet: by their numbers it does not matter.

use std::collections::HashMap;

use culvert_esp::packet::Packet;
use culvert_esp::selectors::{Index, Selectors};
use culvert_types::Spi;

use super::Owned;
use crate::user::arrange::flow_of;

/// So many are looked through faster one by one.
const FEW: usize = 8;
/// What the index may hold for each SA. Selectors of a peer that lie one inside the other make it larger: then SAs
/// are looked through one by one.
const ENTRIES: usize = 64;

/// The SAs in use of one tunnel and worker.
#[derive(Default)]
pub(super) struct Active {
    /// An SA keeps its place until it, or one in an earlier place, goes.
    all: Vec<Place>,
    by_spi: HashMap<Spi, usize>,
    /// Places of the worker's own, the newest first.
    own: Vec<usize>,
    /// Where they are many.
    index: Option<Index>,
    /// The index would be too large.
    tangled: bool,
    /// Places of those that have sent since the counters were brought up to date.
    used: Vec<usize>,
    next: u64,
}

struct Place {
    owned: Owned,
    /// Higher is newer.
    age: u64,
    used: bool,
}

impl Active {
    /// Whether there is one for all packets.
    pub(super) fn has_common(&self) -> bool {
        self.all.len() > self.own.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<&Owned> {
        self.all.get(place).map(|place| &place.owned)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Owned> {
        self.all.get_mut(place).map(|place| &mut place.owned)
    }

    /// The SA by its inbound SPI.
    pub(super) fn find(&mut self, inbound: Spi) -> Option<&mut Owned> {
        let place = *self.by_spi.get(&inbound)?;
        self.get_mut(place)
    }

    /// The newest.
    pub(super) fn newest(&self) -> Option<usize> {
        self.own.first().copied().or_else(|| self.best(0..self.all.len()))
    }

    /// Uses an SA; returns the one whose place it takes, if there is one of the same purpose and selectors.
    pub(super) fn insert(&mut self, owned: Owned) -> Option<Owned> {
        let same = |place: &usize| {
            self.get(*place).is_some_and(|other| {
                other.entry.purpose == owned.entry.purpose && other.entry.selectors == owned.entry.selectors
            })
        };
        let before = match &self.index {
            Some(index) => index.alike(&owned.entry.selectors).iter().map(|n| *n as usize).find(same),
            None => (0..self.all.len()).find(same),
        };
        let before = before.and_then(|place| self.take(place));
        let place = self.all.len();
        if owned.is_own() {
            self.own.insert(0, place);
        }
        if let Some(index) = &mut self.index {
            index.add(place as u32, &owned.entry.selectors);
        }
        self.by_spi.insert(owned.entry.inbound, place);
        self.all.push(Place { owned, age: self.next, used: false });
        self.next += 1;
        self.tend();
        before
    }

    pub(super) fn remove(&mut self, inbound: Spi) -> Option<Owned> {
        let place = *self.by_spi.get(&inbound)?;
        self.take(place)
    }

    /// Takes the SA out of its place, which the last one gets..
    fn take(&mut self, place: usize) -> Option<Owned> {
        let last = self.all.len().checked_sub(1)?;
        let gone = &self.all.get(place)?.owned.entry;
        self.by_spi.remove(&gone.inbound);
        self.own.retain(|own| *own != place);
        if let Some(index) = &mut self.index {
            index.remove(place as u32, &gone.selectors);
        }
        if place != last
            && let Some(moved) = self.all.get(last).map(|last| &last.owned.entry)
        {
            self.by_spi.insert(moved.inbound, place);
            self.own.iter_mut().filter(|own| **own == last).for_each(|own| *own = place);
            if let Some(index) = &mut self.index {
                index.remove(last as u32, &moved.selectors);
                index.add(place as u32, &moved.selectors);
            }
        }
        // Those are places of before.
        while self.take_used().is_some() {}
        let gone = self.all.swap_remove(place);
        self.tend();
        Some(gone.owned)
    }

    /// Makes the index, or does without.
    fn tend(&mut self) {
        let many = self.all.len() > FEW;
        if !many {
            (self.index, self.tangled) = (None, false);
        } else if self.index.is_none() && !self.tangled {
            let mut index = Index::default();
            for (number, place) in self.all.iter().enumerate() {
                index.add(number as u32, &place.owned.entry.selectors);
            }
            self.index = Some(index);
        }
        if self.index.as_ref().is_some_and(|index| index.entries() > ENTRIES * self.all.len()) {
            (self.index, self.tangled) = (None, true);
        }
    }

    /// The SA for a packet: the worker's own before those for all, the newest first; of several of its own, each flow
    /// into one.
    #[inline]
    pub(super) fn choose(&self, packet: &Packet<'_>, bytes: &[u8]) -> Option<usize> {
        let fits = |place: &usize| self.get(*place).is_some_and(|o| fits(&o.entry.selectors, packet));
        if let [first, ..] = self.own[..] {
            let of_flow = match self.own.len() {
                1 => first,
                several => self.own[flow_of(bytes) % several],
            };
            let own = Some(of_flow).filter(fits).or_else(|| self.own.iter().copied().find(fits));
            if own.is_some() {
                return own;
            }
        }
        match &self.index {
            None if self.all.len() == 1 => Some(0).filter(fits),
            None => self.best((0..self.all.len()).filter(fits)),
            Some(index) => match index.candidates(packet) {
                [one] => Some(*one as usize).filter(fits),
                some => self.best(some.iter().map(|number| *number as usize).filter(fits)),
            },
        }
    }

    /// The newest of those in some places.
    fn best(&self, places: impl Iterator<Item = usize>) -> Option<usize> {
        places.max_by_key(|place| self.all.get(*place).map(|place| place.age))
    }

    /// The SA in that place has sent.
    #[inline]
    pub(super) fn sent(&mut self, place: usize) {
        if let Some(there) = self.all.get_mut(place).filter(|there| !there.used) {
            there.used = true;
            self.used.push(place);
        }
    }

    /// One that has sent since this was asked last, until there is no more.
    pub(super) fn take_used(&mut self) -> Option<&mut Owned> {
        let there = self.all.get_mut(self.used.pop()?)?;
        there.used = false;
        Some(&mut there.owned)
    }
}

#[inline]
fn fits(selectors: &Selectors, packet: &Packet<'_>) -> bool {
    selectors.matches_outbound(packet)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use culvert_crypto::{Suite, SuiteKeys};
    use culvert_esp::{OutboundSa, packet::Packet};
    use culvert_ike::Purpose;
    use culvert_sys::wan::{WanOptions, WanSocket};
    use culvert_types::{TrafficSelector, TunnelId};

    use super::*;
    use crate::user::outbound::{OutboundEntry, Warned};
    use crate::user::port::{Route, WanPath};
    use crate::user::setup::Limits;

    fn net(text: &str) -> TrafficSelector {
        TrafficSelector::from_net(text.parse().unwrap())
    }

    fn owned(socket: &Arc<WanSocket>, number: u32, purpose: Purpose, [local, remote]: [&str; 2]) -> Owned {
        let suite = Suite::all().find(|suite| suite.to_string() == "aes128gcm16").unwrap();
        let keys = SuiteKeys::new(&vec![7; suite.encryption_key_len()], &[]);
        let spi = Spi::new(0x1000 + number).unwrap();
        let local_address = socket.local();
        let entry = OutboundEntry {
            tunnel: TunnelId(1),
            inbound: spi,
            purpose,
            sa: OutboundSa::new(spi, suite, &keys, true).unwrap(),
            selectors: Selectors::new(&[net(local)], &[net(remote)]),
            path: WanPath::Socket(socket.clone()),
            route: Route { local: local_address.ip(), remote: local_address, may_fragment: false },
            counters: Arc::default(),
            limits: Limits { soft_packets: 1, hard_packets: 1, soft_bytes: 1, hard_bytes: 1 },
            bytes: 0,
            warned: Warned::Nothing,
        };
        Owned { entry, port: 0 }
    }

    fn socket() -> Arc<WanSocket> {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Arc::new(WanSocket::udp(free, &WanOptions::default()).unwrap())
    }

    fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![0; 28];
        bytes[..12].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        bytes[12..16].copy_from_slice(&from);
        bytes[16..20].copy_from_slice(&to);
        bytes[25] = 8;
        bytes
    }

    fn chosen(active: &Active, bytes: &[u8]) -> Option<Spi> {
        let place = active.choose(&Packet::parse(bytes).unwrap(), bytes)?;
        active.get(place).map(|owned| owned.entry.inbound)
    }

    /// Whatever comes and goes: a packet goes into the newest that takes it, as looking through all of them finds it.
    #[test]
    fn the_newest_that_takes_a_packet_is_found_among_few_and_among_many() {
        let socket = socket();
        let (mut active, mut model) = (Active::default(), Vec::<(Spi, Selectors)>::new());
        let mut state = 12345_u32;
        let mut random = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for number in 0..3000 {
            // Now more come than go, now more go.
            if random(100) < if (number / 300) % 2 == 0 { 70 } else { 30 } {
                let remote = match random(4) {
                    0 => format!("172.16.{}.0/{}", random(8) * 32, 19 + random(6)),
                    _ => format!("172.16.{}.0/24", random(256)),
                };
                let local = if random(8) == 0 { "10.0.0.0/8" } else { "10.1.0.0/24" };
                let new = owned(&socket, number, Purpose::All, [local, &remote]);
                let (spi, selectors) = (new.entry.inbound, new.entry.selectors.clone());
                let same = model.iter().position(|(_, other)| *other == selectors);
                let before = same.map(|at| model.remove(at).0);
                assert_eq!(active.insert(new).map(|owned| owned.entry.inbound), before);
                model.push((spi, selectors));
            } else if !model.is_empty() {
                let (spi, _) = model.remove(random(model.len() as u32) as usize);
                assert_eq!(active.remove(spi).map(|owned| owned.entry.inbound), Some(spi));
                assert!(active.remove(spi).is_none() && active.find(spi).is_none());
            }
            let bytes = packet([10, 1, random(2) as u8, 9], [172, 16, random(256) as u8, 7]);
            let wanted = model.iter().rfind(|(_, s)| s.matches_outbound(&Packet::parse(&bytes).unwrap()));
            assert_eq!(chosen(&active, &bytes), wanted.map(|(spi, _)| *spi), "after {number}");
            let newest = active.newest().and_then(|place| active.get(place)).map(|owned| owned.entry.inbound);
            assert_eq!(newest, model.last().map(|(spi, _)| *spi));
            assert_eq!(active.has_common(), !model.is_empty());
            if let Some((spi, _)) = model.first() {
                assert_eq!(active.find(*spi).map(|owned| owned.entry.inbound), Some(*spi));
            }
        }
    }

    #[test]
    fn a_workers_own_come_before_those_for_all_packets() {
        let (socket, mut active) = (socket(), Active::default());
        let (nets, narrow) = (["10.1.0.0/24", "172.16.0.0/16"], ["10.1.0.0/24", "172.16.1.0/24"]);
        active.insert(owned(&socket, 1, Purpose::All, nets));
        active.insert(owned(&socket, 2, Purpose::Resource(0), narrow));
        active.insert(owned(&socket, 3, Purpose::All, narrow));
        let spi = |number: u32| Spi::new(0x1000 + number).ok();
        let (inside, outside) =
            (packet([10, 1, 0, 1], [172, 16, 1, 1]), packet([10, 1, 0, 1], [172, 16, 2, 1]));
        assert_eq!((chosen(&active, &inside), chosen(&active, &outside)), (spi(2), spi(1)));
        // Of several of its own, each flow has one.
        active.insert(owned(&socket, 4, Purpose::Resource(2), narrow));
        let flow = chosen(&active, &inside);
        assert!(flow == spi(2) || flow == spi(4));
        assert_eq!(active.remove(flow.unwrap()).map(|owned| owned.entry.inbound), flow);
        assert_ne!(chosen(&active, &inside), flow);
        assert!(active.has_common());
        active.remove(spi(1).unwrap());
        active.remove(spi(3).unwrap());
        assert!(!active.has_common() && chosen(&active, &outside).is_none());
    }

    #[test]
    fn each_that_has_sent_is_accounted_for_once() {
        let (socket, mut active) = (socket(), Active::default());
        for number in 0..20 {
            let remote = format!("172.16.{number}.0/24");
            active.insert(owned(&socket, number, Purpose::All, ["10.1.0.0/24", &remote]));
        }
        [3, 5, 3, 19].into_iter().for_each(|place| active.sent(place));
        let mut used: Vec<Spi> = std::iter::from_fn(|| active.take_used().map(|o| o.entry.inbound)).collect();
        used.sort();
        assert_eq!(used, [3, 5, 19].map(|number| Spi::new(0x1000 + number).unwrap()));
        assert!(active.take_used().is_none());
    }
}
