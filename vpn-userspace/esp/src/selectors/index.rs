//! Which of many SAs may take a packet, without asking each: the addresses of either side divided into intervals, each
//! with the SAs whose selectors cover it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Entry, Selectors, Side};
use crate::packet::{Header, Packet};

/// SAs by the addresses of their selectors. An SA has a number, which is the owner's to give.
#[derive(Debug, Default)]
pub struct Index {
    local: Lines,
    remote: Lines,
}

/// The addresses of one side.
#[derive(Debug, Default)]
struct Lines {
    v4: Line<u32>,
    v6: Line<u128>,
}

/// All addresses of a family, in intervals.
#[derive(Debug)]
struct Line<A> {
    /// By where an interval begins, the SAs there, in order; it ends where the next begins.
    cuts: BTreeMap<A, Vec<u32>>,
    /// SAs in all intervals together.
    entries: usize,
}

impl<A> Default for Line<A> {
    fn default() -> Self {
        Self { cuts: BTreeMap::new(), entries: 0 }
    }
}

trait Address: Ord + Copy {
    /// The next higher one.
    fn next(self) -> Option<Self>;
}

impl Address for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Index {
    /// Adds an SA.
    pub fn add(&mut self, number: u32, selectors: &Selectors) {
        self.local.each(&selectors.local, |line, e| line.add(number, e), |line, e| line.add(number, e));
        self.remote.each(&selectors.remote, |line, e| line.add(number, e), |line, e| line.add(number, e));
    }

    /// Takes an SA away. The selectors must be those that it was added with.
    pub fn remove(&mut self, number: u32, selectors: &Selectors) {
        self.local.each(&selectors.local, |line, e| line.remove(number, e), |line, e| line.remove(number, e));
        self.remote.each(
            &selectors.remote,
            |line, e| line.remove(number, e),
            |line, e| line.remove(number, e),
        );
    }

    /// The SAs that may take an outbound packet: all that do are among them. Which of them does, their selectors say.
    #[must_use]
    pub fn candidates(&self, packet: &Packet<'_>) -> &[u32] {
        match packet.header() {
            Header::V4(h) => {
                let from = self.local.v4.at(u32::from_be_bytes([h[12], h[13], h[14], h[15]]));
                let to = self.remote.v4.at(u32::from_be_bytes([h[16], h[17], h[18], h[19]]));
                shorter(from, to)
            }
            Header::V6(_) => {
                let (IpAddr::V6(from), IpAddr::V6(to)) = (packet.source(), packet.destination()) else {
                    return &[];
                };
                shorter(self.local.v6.at(from.to_bits()), self.remote.v6.at(to.to_bits()))
            }
        }
    }

    /// SAs among which are all that have these very selectors.
    #[must_use]
    pub fn alike(&self, selectors: &Selectors) -> &[u32] {
        match (&*selectors.remote.v4, &*selectors.remote.v6) {
            ([first, ..], _) => self.remote.v4.at(first.start),
            ([], [first, ..]) => self.remote.v6.at(first.start),
            ([], []) => &[],
        }
    }

    /// How large it is: SAs, each counted in every interval that it is in. Selectors that lie one inside the other make
    /// that grow by the square.
    #[must_use]
    pub fn entries(&self) -> usize {
        let of = |lines: &Lines| lines.v4.entries + lines.v6.entries;
        of(&self.local) + of(&self.remote)
    }
}

fn shorter<'a>(a: &'a [u32], b: &'a [u32]) -> &'a [u32] {
    if a.len() < b.len() { a } else { b }
}

impl Lines {
    fn each(
        &mut self,
        side: &Side,
        mut v4: impl FnMut(&mut Line<u32>, &Entry<u32>),
        mut v6: impl FnMut(&mut Line<u128>, &Entry<u128>),
    ) {
        side.v4.iter().for_each(|entry| v4(&mut self.v4, entry));
        side.v6.iter().for_each(|entry| v6(&mut self.v6, entry));
    }
}

impl<A: Address> Line<A> {
    fn at(&self, address: A) -> &[u32] {
        self.cuts.range(..=address).next_back().map_or(&[], |(_, there)| there)
    }

    /// Has an interval begin there.
    fn cut(&mut self, at: A) {
        if !self.cuts.contains_key(&at) {
            let before = self.at(at).to_vec();
            self.entries += before.len();
            self.cuts.insert(at, before);
        }
    }

    fn add(&mut self, number: u32, Entry { start, end, .. }: &Entry<A>) {
        if start > end {
            return;
        }
        self.cut(*start);
        end.next().into_iter().for_each(|next| self.cut(next));
        for (_, there) in self.cuts.range_mut(*start..=*end) {
            // Another selector of the same SA may cover it too.
            if let Err(place) = there.binary_search(&number) {
                there.insert(place, number);
                self.entries += 1;
            }
        }
    }

    fn remove(&mut self, number: u32, Entry { start, end, .. }: &Entry<A>) {
        if start > end {
            return;
        }
        // Borders between what was equal may be gone.
        self.cut(*start);
        end.next().into_iter().for_each(|next| self.cut(next));
        for (_, there) in self.cuts.range_mut(*start..=*end) {
            if let Ok(place) = there.binary_search(&number) {
                there.remove(place);
                self.entries -= 1;
            }
        }
        // Those that are no borders any more.
        let last = end.next().unwrap_or(*end);
        let cuts: Vec<A> = self.cuts.range(*start..=last).map(|(at, _)| *at).collect();
        for at in cuts {
            let before = self.cuts.range(..at).next_back().map_or(&[][..], |(_, there)| there);
            if self.cuts.get(&at).is_some_and(|there| there == before) {
                self.entries -= before.len();
                self.cuts.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ipv4, ipv6};
    use culvert_types::TrafficSelector;
    use proptest::prelude::*;

    /// A range near the lower or the upper end of the addresses of a family.
    fn range() -> impl Strategy<Value = TrafficSelector> {
        (any::<bool>(), any::<bool>(), 0_u32..24, 0_u32..24).prop_map(|(four, high, a, b)| {
            let at = |n: u32| -> IpAddr {
                match (four, high) {
                    (true, false) => IpAddr::from(n.to_be_bytes()),
                    (true, true) => IpAddr::from((u32::MAX - n).to_be_bytes()),
                    (false, false) => IpAddr::from(u128::from(n).to_be_bytes()),
                    (false, true) => IpAddr::from((u128::MAX - u128::from(n)).to_be_bytes()),
                }
            };
            let (first, last) = if high { (a.max(b), a.min(b)) } else { (a.min(b), a.max(b)) };
            TrafficSelector::new(at(first), at(last), 0, 0..=65535).unwrap()
        })
    }

    fn selectors() -> impl Strategy<Value = Selectors> {
        let side = || prop::collection::vec(range(), 0..3);
        (side(), side()).prop_map(|(local, remote)| Selectors::new(&local, &remote))
    }

    proptest! {
        #[test]
        fn nothing_that_takes_a_packet_is_missed_and_nothing_stays_behind(
            all in prop::collection::vec((selectors(), any::<bool>()), 0..24),
            packets in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0_u32..28, 0_u32..28), 32),
        ) {
            let mut index = Index::default();
            for (number, (selectors, _)) in all.iter().enumerate() {
                index.add(number as u32, selectors);
            }
            for (number, (selectors, stays)) in all.iter().enumerate() {
                if !stays {
                    index.remove(number as u32, selectors);
                }
            }
            let standing = || all.iter().enumerate().filter(|(_, (_, stays))| *stays);
            for (four, from_high, to_high, from, to) in packets {
                let v4 = |n: u32, high: bool| if high { u32::MAX - n } else { n }.to_be_bytes();
                let v6 = |n: u32, high: bool| {
                    let bits = if high { u128::MAX - u128::from(n) } else { u128::from(n) };
                    std::net::Ipv6Addr::from_bits(bits).to_string()
                };
                let bytes = if four {
                    ipv4(v4(from, from_high), v4(to, to_high), 17, &[0; 8])
                } else {
                    ipv6(&v6(from, from_high), &v6(to, to_high), 17, &[0; 8])
                };
                let packet = Packet::parse(&bytes).unwrap();
                let candidates = index.candidates(&packet);
                for (number, (selectors, _)) in standing() {
                    if selectors.matches_outbound(&packet) {
                        prop_assert!(candidates.contains(&(number as u32)));
                    }
                }
                prop_assert!(candidates.iter().all(|n| all[*n as usize].1));
            }
            for (number, (selectors, _)) in standing() {
                let has = index.alike(selectors).contains(&(number as u32));
                prop_assert!(has || (selectors.remote.v4.is_empty() && selectors.remote.v6.is_empty()));
            }
            for (number, (selectors, stays)) in all.iter().enumerate() {
                if *stays {
                    index.remove(number as u32, selectors);
                }
            }
            prop_assert_eq!(index.entries(), 0);
            prop_assert!(index.local.v4.cuts.is_empty() && index.remote.v6.cuts.is_empty());
        }
    }

    #[test]
    fn of_many_networks_a_packet_meets_one_candidate() {
        let net = |s: String| TrafficSelector::from_net(s.parse().unwrap());
        let mut index = Index::default();
        let here = net("10.0.0.0/8".to_owned());
        for n in 0..10_000_u32 {
            let there = net(format!("172.{}.{}.0/24", 16 + n / 250, n % 250));
            index.add(n, &Selectors::new(std::slice::from_ref(&here), &[there]));
        }
        let bytes = ipv4([10, 1, 2, 3], [172, 16 + 37, 123, 9], 17, &[0; 8]);
        assert_eq!(index.candidates(&Packet::parse(&bytes).unwrap()), [37 * 250 + 123]);
        assert!(index.entries() < 40_000);
    }
}
