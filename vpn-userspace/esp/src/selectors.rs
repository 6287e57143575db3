//! Traffic selectors against packets: what an SA may carry (RFC 4301 4.4.1, 5.2).

mod index;

use std::net::IpAddr;

use culvert_types::TrafficSelector;

use crate::packet::{Header, Packet};

pub use index::Index;

/// An SA's selectors of both sides, ready to be matched. A packet fits if one selector of each side
/// takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors {
    local: Side,
    remote: Side,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Side {
    v4: Box<[Entry<u32>]>,
    v6: Box<[Entry<u128>]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<A> {
    start: A,
    end: A,
    /// 0 for any.
    protocol: u8,
    /// `None` for any, also where a packet shows no port.
    ports: Option<(u16, u16)>,
}

impl Selectors {
    /// Our side's and the peer's selectors.
    pub fn new(local: &[TrafficSelector], remote: &[TrafficSelector]) -> Self {
        Self { local: Side::new(local), remote: Side::new(remote) }
    }

    /// Whether a packet that came out of the SA may go on: from the peer's side to ours (RFC 4301 5.2,
    /// step 4). If not, drop and count it.
    #[inline]
    #[must_use]
    pub fn matches_inbound(&self, packet: &Packet<'_>) -> bool {
        matches(packet, &self.remote, &self.local)
    }

    /// Whether a packet may go into the SA: from our side to the peer's.
    #[inline]
    #[must_use]
    pub fn matches_outbound(&self, packet: &Packet<'_>) -> bool {
        matches(packet, &self.local, &self.remote)
    }
}

#[inline]
fn matches(packet: &Packet<'_>, source: &Side, destination: &Side) -> bool {
    let protocol = packet.protocol();
    // RFC 7296 3.13.1: ICMP's type and code are one 16-bit "port", of either side. A fragment without the
    // upper-layer header shows no port and fits only selectors of any port (RFC 4301 4.4.1.1, OPAQUE).
    let ports = || match packet.icmp() {
        Some((kind, code)) => {
            let both = u16::from_be_bytes([kind, code]);
            Some((both, both))
        }
        None => packet.ports(),
    };
    match packet.header() {
        Header::V4(h) => {
            let from = u32::from_be_bytes([h[12], h[13], h[14], h[15]]);
            let to = u32::from_be_bytes([h[16], h[17], h[18], h[19]]);
            takes(&source.v4, from, protocol, || ports().map(|p| p.0))
                && takes(&destination.v4, to, protocol, || ports().map(|p| p.1))
        }
        Header::V6(_) => {
            let (IpAddr::V6(from), IpAddr::V6(to)) = (packet.source(), packet.destination()) else {
                return false;
            };
            takes(&source.v6, from.to_bits(), protocol, || ports().map(|p| p.0))
                && takes(&destination.v6, to.to_bits(), protocol, || ports().map(|p| p.1))
        }
    }
}

/// The port is asked for only where a selector looks at it.
#[inline]
fn takes<A: Ord + Copy>(entries: &[Entry<A>], addr: A, protocol: u8, port: impl Fn() -> Option<u16>) -> bool {
    entries.iter().any(|e| {
        e.start <= addr
            && addr <= e.end
            && (e.protocol == 0 || e.protocol == protocol)
            && e.ports.is_none_or(|(first, last)| port().is_some_and(|p| first <= p && p <= last))
    })
}

impl Side {
    fn new(selectors: &[TrafficSelector]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for s in selectors {
            let protocol = s.protocol();
            let ports = (!s.any_port()).then(|| (*s.ports().start(), *s.ports().end()));
            match (s.start(), s.end()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    v4.push(Entry { start: a.to_bits(), end: b.to_bits(), protocol, ports });
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    v6.push(Entry { start: a.to_bits(), end: b.to_bits(), protocol, ports });
                }
                // `TrafficSelector` refuses mixed families.
                _ => {}
            }
        }
        Self { v4: v4.into(), v6: v6.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ipv4, ipv6};
    use proptest::prelude::*;

    fn net(s: &str) -> TrafficSelector {
        TrafficSelector::from_net(s.parse().unwrap())
    }

    fn with(s: &str, protocol: u8, ports: std::ops::RangeInclusive<u16>) -> TrafficSelector {
        TrafficSelector::new(net(s).start(), net(s).end(), protocol, ports).unwrap()
    }

    const HERE: [u8; 4] = [10, 0, 0, 7];
    const THERE: [u8; 4] = [172, 16, 3, 4];

    #[test]
    fn directions_and_edges() {
        let s = Selectors::new(&[net("192.168.0.0/24"), net("10.0.0.0/24")], &[net("172.16.0.0/16")]);
        let out = ipv4(HERE, THERE, 17, &[0; 8]);
        let p = Packet::parse(&out).unwrap();
        assert!(s.matches_outbound(&p) && !s.matches_inbound(&p));
        let back = ipv4(THERE, HERE, 17, &[0; 8]);
        let p = Packet::parse(&back).unwrap();
        assert!(s.matches_inbound(&p) && !s.matches_outbound(&p));
        for (source, want) in [
            ([10, 0, 0, 0], true),
            ([10, 0, 0, 255], true),
            ([10, 0, 1, 0], false),
            ([9, 255, 255, 255], false),
        ] {
            let bytes = ipv4(source, THERE, 17, &[0; 8]);
            assert_eq!(s.matches_outbound(&Packet::parse(&bytes).unwrap()), want, "{source:?}");
        }
        let six = ipv6("::a00:7", "::ac10:304", 17, &[0; 8]);
        assert!(!s.matches_outbound(&Packet::parse(&six).unwrap()), "IPv6 is not IPv4 with zeros");
        assert!(!Selectors::default().matches_outbound(&p));
    }

    #[test]
    fn ports_and_fragments() {
        let web = Selectors::new(&[net("10.0.0.0/24")], &[with("172.16.0.0/16", 6, 80..=90)]);
        let all_tcp = Selectors::new(&[net("10.0.0.0/24")], &[with("172.16.0.0/16", 6, 0..=65535)]);
        let tcp = |port: u8| ipv4(HERE, THERE, 6, &[0x80, 1, 0, port, 0, 0, 0, 0]);
        for (port, want) in [(79, false), (80, true), (90, true), (91, false)] {
            let bytes = tcp(port);
            assert_eq!(web.matches_outbound(&Packet::parse(&bytes).unwrap()), want, "{port}");
        }
        let mut udp = tcp(80);
        udp[9] = 17;
        assert!(!web.matches_outbound(&Packet::parse(&udp).unwrap()));
        // First fragment: shows its ports. Later ones: only selectors of any port take them.
        let mut fragment = tcp(80);
        fragment[6] = 0x20;
        assert!(web.matches_outbound(&Packet::parse(&fragment).unwrap()));
        fragment[7] = 10;
        let later = Packet::parse(&fragment).unwrap();
        assert!(!web.matches_outbound(&later) && all_tcp.matches_outbound(&later));
    }

    #[test]
    fn icmp_type_and_code_are_the_port() {
        // Echo request and reply of ICMPv6, any code.
        let echo = |side: &str| with(side, 58, 0x8000..=0x81ff);
        let s = Selectors::new(&[echo("2001:db8:1::/48")], &[echo("2001:db8:2::/48")]);
        let packet = |kind: u8| ipv6("2001:db8:1::1", "2001:db8:2::1", 58, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        for (kind, want) in [(127, false), (128, true), (129, true), (130, false), (1, false)] {
            let bytes = packet(kind);
            assert_eq!(s.matches_outbound(&Packet::parse(&bytes).unwrap()), want, "{kind}");
        }
        let unreachable = Selectors::new(&[with("10.0.0.0/8", 1, 0x0301..=0x0301)], &[net("0.0.0.0/0")]);
        let bytes = ipv4(HERE, THERE, 1, &[3, 1, 0, 0, 0, 0, 0, 0]);
        assert!(unreachable.matches_outbound(&Packet::parse(&bytes).unwrap()));
        let bytes = ipv4(HERE, THERE, 1, &[3, 2, 0, 0, 0, 0, 0, 0]);
        assert!(!unreachable.matches_outbound(&Packet::parse(&bytes).unwrap()));
    }

    proptest! {
        /// The same answer as the selectors' own definition.
        #[test]
        fn agrees_with_traffic_selector(
            nets in proptest::collection::vec((any::<u8>(), 0u8..=32, 0usize..3, any::<u16>(), any::<u16>()), 1..5),
            src: u8, dst: u8, protocol in 0usize..3, sport: u16, dport: u16, later: bool,
        ) {
            let protocols = [0u8, 6, 17];
            let ts: Vec<_> = nets.iter().map(|(a, len, p, x, y)| {
                let net: ipnet::IpNet = format!("10.0.0.{a}/{len}").parse().unwrap();
                let net = TrafficSelector::from_net(net);
                let ports = if x % 2 == 0 { 0..=u16::MAX } else { *x.min(y)..=*x.max(y) };
                TrafficSelector::new(net.start(), net.end(), protocols[*p], ports).unwrap()
            }).collect();
            let payload = [sport.to_be_bytes(), dport.to_be_bytes(), [0; 2], [0; 2]].concat();
            let (from, to) = ([10, 0, 0, src], [10, 0, 0, dst]);
            let mut bytes = ipv4(from, to, protocols[protocol], &payload);
            if later {
                bytes[7] = 3;
            }
            let packet = Packet::parse(&bytes).unwrap();
            let shown = (!later && protocol != 0).then_some((sport, dport));
            let fits = |addr: [u8; 4], port: Option<u16>| ts.iter().any(|t| t.matches(addr.into(), protocols[protocol], port));
            let want = fits(from, shown.map(|p| p.0)) && fits(to, shown.map(|p| p.1));
            let selectors = Selectors::new(&ts, &ts);
            prop_assert_eq!(selectors.matches_outbound(&packet), want);
            prop_assert_eq!(selectors.matches_inbound(&packet), want);
        }
    }
}
