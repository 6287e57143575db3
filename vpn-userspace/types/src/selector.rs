//! Traffic selectors (RFC 7296 2.9 and 3.13.1): which inner packets an SA may carry.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// One side of a selector: an address range, an upper protocol and a port range.
///
/// `protocol` 0 is any; ports `0..=65535` are any. For ICMP the "ports" are type and code as in
/// RFC 7296 3.13.1. Both ends of the address range are inclusive and of one family.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    start: IpAddr,
    end: IpAddr,
    protocol: u8,
    first_port: u16,
    last_port: u16,
}

/// A selector that cannot exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The two ends of the range are of different address families.
    #[error("a traffic selector mixes IPv4 and IPv6 ({0} - {1})")]
    MixedFamilies(IpAddr, IpAddr),
    /// The range ends before it starts.
    #[error("a traffic selector ends before it starts ({0} - {1})")]
    InvertedAddresses(IpAddr, IpAddr),
    /// The port range ends before it starts. (RFC 7296 3.13.1's OPAQUE, 65535-0, is not supported.)
    #[error("a traffic selector's ports end before they start ({0} - {1})")]
    InvertedPorts(u16, u16),
}

impl TrafficSelector {
    /// A selector from its parts; refuses mixed families and inverted ranges.
    pub fn new(
        start: IpAddr,
        end: IpAddr,
        protocol: u8,
        ports: RangeInclusive<u16>,
    ) -> Result<Self, SelectorError> {
        if start.is_ipv4() != end.is_ipv4() {
            return Err(SelectorError::MixedFamilies(start, end));
        }
        if start > end {
            return Err(SelectorError::InvertedAddresses(start, end));
        }
        if ports.start() > ports.end() {
            return Err(SelectorError::InvertedPorts(*ports.start(), *ports.end()));
        }
        Ok(Self { start, end, protocol, first_port: *ports.start(), last_port: *ports.end() })
    }

    /// Every protocol and port of a network.
    pub fn from_net(net: IpNet) -> Self {
        Self { start: net.network(), end: net.broadcast(), protocol: 0, first_port: 0, last_port: u16::MAX }
    }

    /// First address of the range.
    pub fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address of the range, inclusive.
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// Upper-layer protocol, 0 for any.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Port range, inclusive; `0..=65535` for any.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.first_port..=self.last_port
    }

    /// Whether every port is allowed.
    pub fn any_port(&self) -> bool {
        self.first_port == 0 && self.last_port == u16::MAX
    }

    /// Whether the range is of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.start.is_ipv4()
    }

    /// Whether the address lies in the range.
    pub fn contains_addr(&self, addr: IpAddr) -> bool {
        // IpAddr orders every IPv4 address before every IPv6 one, so the family needs its own check.
        addr.is_ipv4() == self.start.is_ipv4() && self.start <= addr && addr <= self.end
    }

    /// Whether a packet's side matches. `port` is `None` where the packet shows none (fragments,
    /// protocols without ports): it then matches only a selector of any port.
    pub fn matches(&self, addr: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        self.contains_addr(addr)
            && (self.protocol == 0 || self.protocol == protocol)
            && (self.any_port() || port.is_some_and(|p| self.first_port <= p && p <= self.last_port))
    }

    /// What both selectors allow, if anything (RFC 7296 2.9, narrowing).
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.is_ipv4() != other.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (0, p) | (p, 0) => p,
            (a, b) if a == b => a,
            _ => return None,
        };
        let first = self.first_port.max(other.first_port);
        let last = self.last_port.min(other.last_port);
        (first <= last)
            .then(|| {
                Self::new(self.start.max(other.start), self.end.min(other.end), protocol, first..=last).ok()
            })
            .flatten()
    }

    /// Whether everything this selector allows is allowed by `other`.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.intersect(other).as_ref() == Some(self)
    }

    /// The fewest CIDR networks that cover exactly the address range.
    pub fn nets(&self) -> Vec<IpNet> {
        match (self.start, self.end) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Ipv4Subnets::new(a, b, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(a), IpAddr::V6(b)) => Ipv6Subnets::new(a, b, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }

    /// `0.0.0.0/0`, every protocol and port.
    pub fn any_ipv4() -> Self {
        Self::from_net(IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }

    /// `::/0`, every protocol and port.
    pub fn any_ipv6() -> Self {
        Self::from_net(IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0))
    }
}

impl From<IpNet> for TrafficSelector {
    fn from(net: IpNet) -> Self {
        Self::from_net(net)
    }
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nets().as_slice() {
            [net] => write!(f, "{net}")?,
            _ => write!(f, "{}-{}", self.start, self.end)?,
        }
        match (self.protocol, self.any_port()) {
            (0, true) => Ok(()),
            (p, true) => write!(f, "[{p}]"),
            (p, false) if self.first_port == self.last_port => write!(f, "[{p}/{}]", self.first_port),
            (p, false) => write!(f, "[{p}/{}-{}]", self.first_port, self.last_port),
        }
    }
}

impl fmt::Debug for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> TrafficSelector {
        TrafficSelector::from_net(s.parse().unwrap())
    }

    #[test]
    fn intersection_narrows_and_is_symmetric() {
        let cases = [
            ("10.0.0.0/8", "10.1.0.0/16", Some("10.1.0.0/16")),
            ("10.0.0.0/16", "10.1.0.0/16", None),
            ("0.0.0.0/0", "2001:db8::/32", None),
            ("::/0", "2001:db8::/32", Some("2001:db8::/32")),
        ];
        for (a, b, want) in cases {
            let got = net(a).intersect(&net(b)).map(|s| s.to_string());
            assert_eq!(got.as_deref(), want, "{a} with {b}");
            assert_eq!(net(b).intersect(&net(a)).map(|s| s.to_string()), got);
        }
        let tcp = TrafficSelector::new("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap(), 6, 80..=90)
            .unwrap();
        let both = tcp.intersect(&net("10.0.0.4/30")).unwrap();
        assert_eq!(both.to_string(), "10.0.0.4/30[6/80-90]");
        assert!(both.is_subset_of(&tcp) && !tcp.is_subset_of(&both));
        let udp = TrafficSelector::new(tcp.start(), tcp.end(), 17, 80..=90).unwrap();
        assert_eq!(tcp.intersect(&udp), None);
    }

    #[test]
    fn packets_without_ports_match_only_any_port() {
        let all = net("10.0.0.0/24");
        let web = TrafficSelector::new(all.start(), all.end(), 6, 80..=80).unwrap();
        let addr = "10.0.0.7".parse().unwrap();
        assert!(all.matches(addr, 6, None) && web.matches(addr, 6, Some(80)));
        assert!(
            !web.matches(addr, 6, None)
                && !web.matches(addr, 6, Some(81))
                && !web.matches(addr, 17, Some(80))
        );
        assert!(!all.matches("::".parse().unwrap(), 6, None));
    }

    #[test]
    fn impossible_selectors_are_refused() {
        let (a, b) = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!(TrafficSelector::new(a, b, 0, 0..=1), Err(SelectorError::InvertedAddresses(a, b)));
        let six = "::1".parse().unwrap();
        assert_eq!(TrafficSelector::new(a, six, 0, 0..=1), Err(SelectorError::MixedFamilies(a, six)));
        #[allow(clippy::reversed_empty_ranges)]
        let ports = 5..=4;
        assert_eq!(TrafficSelector::new(a, a, 0, ports), Err(SelectorError::InvertedPorts(5, 4)));
    }
}
