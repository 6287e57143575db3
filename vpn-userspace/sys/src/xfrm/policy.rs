//! Policies: which inner packets an SA may carry, in the selectors that the kernel knows.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use culvert_types::TrafficSelector;
use ipnet::IpNet;
use netlink_packet_core::{Emitable, NlasIterator};
use netlink_packet_xfrm::constants as c;
use netlink_packet_xfrm::policy::{DelGetMessage, ModifyMessage};
use netlink_packet_xfrm::{
    Selector, UserPolicyInfo, UserTemplate, XFRM_USER_POLICY_ID_LEN, XFRM_USER_POLICY_INFO_LEN, XfrmAttrs,
};

use super::sa::address;

/// A dump request's body: an empty `struct xfrm_userpolicy_id`.
pub(super) const DUMP_BODY: [u8; XFRM_USER_POLICY_ID_LEN] = [0; XFRM_USER_POLICY_ID_LEN];

/// The most kernel selectors that the selectors of one SA may need.
pub const MAX_SELECTORS: usize = 1024;

/// Which packets a policy judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Sent or forwarded out.
    Out,
    /// Received for this host.
    In,
    /// Received for another host.
    Forward,
}

/// A selector as the kernel has it: networks, and a port as value and mask on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelSelector {
    /// Inner source.
    pub source: IpNet,
    /// Inner destination, of the same family.
    pub destination: IpNet,
    /// Upper protocol, 0 for any.
    pub protocol: u8,
    /// Source port (ICMP type) and mask; mask 0 for any.
    pub source_port: (u16, u16),
    /// Destination port (ICMP code) and mask; mask 0 for any.
    pub destination_port: (u16, u16),
}

/// By what a policy is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyId {
    /// Which packets.
    pub selector: KernelSelector,
    /// In which direction.
    pub direction: Direction,
    /// Of which xfrm interface; 0 for a policy that all packets of the host meet.
    pub if_id: u32,
}

/// What a policy does with its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyAction {
    /// Outbound: seal with an SA of this reqid between these outer addresses. Inbound: accept only what
    /// came by an SA of this reqid; `outer` is not looked at, so that an SA whose peer moved still serves.
    Protect {
        /// The SA's reqid.
        reqid: u32,
        /// Outer source and destination. In transport mode those of the packets themselves are.
        outer: (IpAddr, IpAddr),
        /// Transport mode.
        transport: bool,
    },
    /// Drop, and report that an SA is wanted ([`super::XfrmEvent::Acquire`]). Only outbound. The kernel
    /// remembers the packet's addresses for 30 s and reports them once.
    Trap {
        /// A reqid that no SA has.
        reqid: u32,
    },
    /// Drop; the kernel counts it as XfrmOutPolBlock or XfrmInPolBlock.
    Block,
    /// Let pass as it is.
    Bypass,
}

/// A policy to be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// By what it is found.
    pub id: PolicyId,
    /// What it does.
    pub action: PolicyAction,
    /// The smallest number that matches a packet decides.
    pub priority: u32,
}

/// Selectors that cannot be told to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorPairError {
    /// They fall apart into too many networks and port blocks.
    #[error(
        "traffic selectors {local} and {remote} need more than {MAX_SELECTORS} kernel policies; use address ranges \
         that are networks and fewer or aligned ports, or engine = \"user\""
    )]
    TooMany {
        /// Local side.
        local: TrafficSelector,
        /// Remote side.
        remote: TrafficSelector,
    },
}

impl KernelSelector {
    /// Every packet of a family.
    pub fn any(ipv4: bool) -> Self {
        let zero = if ipv4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let net = IpNet::new_assert(zero, 0);
        Self { source: net, destination: net, protocol: 0, source_port: (0, 0), destination_port: (0, 0) }
    }

    /// The selector of packets that go the other way. ICMP type and code stay what they are.
    pub fn reversed(self) -> Self {
        let (source_port, destination_port) = if is_icmp(self.protocol) {
            (self.source_port, self.destination_port)
        } else {
            (self.destination_port, self.source_port)
        };
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port,
            destination_port,
        }
    }

    fn encode(&self) -> Selector {
        let mut selector = Selector::default();
        selector.source_prefix(&self.source.network(), self.source.prefix_len());
        selector.destination_prefix(&self.destination.network(), self.destination.prefix_len());
        selector.proto = self.protocol;
        (selector.sport, selector.sport_mask) = self.source_port;
        (selector.dport, selector.dport_mask) = self.destination_port;
        selector
    }

    fn decode(selector: &Selector) -> Option<Self> {
        let net = |raw, prefix| IpNet::new(address(raw, selector.family)?, prefix).ok();
        Some(Self {
            source: net(&selector.saddr, selector.prefixlen_s)?,
            destination: net(&selector.daddr, selector.prefixlen_d)?,
            protocol: selector.proto,
            source_port: (selector.sport, selector.sport_mask),
            destination_port: (selector.dport, selector.dport_mask),
        })
    }
}

/// The outbound kernel selectors that cover exactly what both lists of traffic selectors allow: every
/// local one with every remote one of its family.
pub fn selector_pairs(
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
) -> Result<Vec<KernelSelector>, SelectorPairError> {
    let mut selectors = Vec::new();
    for l in local {
        for r in remote.iter().filter(|r| r.is_ipv4() == l.is_ipv4()) {
            let protocol = match (l.protocol(), r.protocol()) {
                (0, p) | (p, 0) => p,
                (a, b) if a == b => a,
                _ => continue,
            };
            let ports = port_pairs(protocol, l.ports(), r.ports());
            let (sources, destinations) = (l.nets(), r.nets());
            let more = sources.len().saturating_mul(destinations.len()).saturating_mul(ports.len());
            if selectors.len().saturating_add(more) > MAX_SELECTORS {
                return Err(SelectorPairError::TooMany { local: l.clone(), remote: r.clone() });
            }
            for source in &sources {
                for destination in &destinations {
                    for (source_port, destination_port) in &ports {
                        let selector = KernelSelector {
                            source: *source,
                            destination: *destination,
                            protocol,
                            source_port: *source_port,
                            destination_port: *destination_port,
                        };
                        if !selectors.contains(&selector) {
                            selectors.push(selector);
                        }
                    }
                }
            }
        }
    }
    Ok(selectors)
}

type Masked = (u16, u16);

fn port_pairs(
    protocol: u8,
    local: RangeInclusive<u16>,
    remote: RangeInclusive<u16>,
) -> Vec<(Masked, Masked)> {
    if is_icmp(protocol) {
        // RFC 7296 3.13.1: type in the upper, code in the lower byte. The kernel takes the type for the
        // source port and the code for the destination port. Either side may carry the restriction.
        let both = *local.start().max(remote.start())..=*local.end().min(remote.end());
        return blocks(both).into_iter().map(icmp_block).collect();
    }
    let remotes = blocks(remote);
    blocks(local).into_iter().flat_map(|l| remotes.iter().map(move |r| (l, *r))).collect()
}

fn icmp_block((value, mask): Masked) -> (Masked, Masked) {
    let ((kind, code), (kind_mask, code_mask)) = ((value >> 8, value & 0xff), (mask >> 8, mask & 0xff));
    // The kernel compares 16 bits; type and code stand in the lower eight.
    let widen = |m: u16| if m == 0 { 0 } else { 0xff00 | m };
    ((kind, widen(kind_mask)), (code, widen(code_mask)))
}

/// The fewest value-and-mask blocks that cover exactly a range of ports.
fn blocks(range: RangeInclusive<u16>) -> Vec<Masked> {
    let (mut at, end) = (u32::from(*range.start()), u32::from(*range.end()));
    let mut blocks = Vec::new();
    while at <= end {
        let aligned = if at == 0 { 1 << 16 } else { at & at.wrapping_neg() };
        let mut size = aligned.min(1 << 16);
        while at + size - 1 > end {
            size /= 2;
        }
        blocks.push((at as u16, !(size - 1) as u16));
        at += size;
    }
    blocks
}

fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, c::IPPROTO_ICMP | c::IPPROTO_ICMPV6)
}

impl Policy {
    /// With an index of our range, by which a policy of no interface is known to be ours; 0 leaves it to the kernel.
    pub(super) fn encode(&self, index: u32) -> Vec<u8> {
        let mut message = ModifyMessage {
            user_policy_info: UserPolicyInfo {
                selector: self.id.selector.encode(),
                priority: self.priority,
                index,
                direction: self.id.direction.code(),
                action: match self.action {
                    PolicyAction::Block => c::XFRM_POLICY_BLOCK,
                    _ => c::XFRM_POLICY_ALLOW,
                },
                share: c::XFRM_SHARE_ANY,
                ..UserPolicyInfo::default()
            },
            nlas: if_id(self.id.if_id),
        };
        let mut template = UserTemplate::default();
        template.protocol(c::IPPROTO_ESP);
        match self.action {
            PolicyAction::Block | PolicyAction::Bypass => {}
            PolicyAction::Protect { reqid, outer: (source, destination), transport } => {
                template.source(&source);
                template.destination(&destination);
                if self.id.direction != Direction::Out {
                    template.saddr = Default::default(); // any
                }
                template.mode(if transport { c::XFRM_MODE_TRANSPORT } else { c::XFRM_MODE_TUNNEL });
                template.reqid(reqid);
                message.nlas.push(XfrmAttrs::Template(vec![template]));
            }
            PolicyAction::Trap { reqid } => {
                // Transport mode needs no peer address, and no SA of ours is of that mode.
                template.family = self.id.selector.encode().family;
                template.mode(c::XFRM_MODE_TRANSPORT);
                template.reqid(reqid);
                message.nlas.push(XfrmAttrs::Template(vec![template]));
            }
        }
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        body
    }
}

impl PolicyId {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut message = DelGetMessage { nlas: if_id(self.if_id), ..Default::default() };
        message.user_policy_id.selector = self.selector.encode();
        message.user_policy_id.direction = self.direction.code();
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        body
    }

    /// From the body of an XFRM_MSG_NEWPOLICY; `None` for those of sockets, and for policies without an interface id that
    /// are not ours.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (fixed, attributes) = body.split_at_checked(XFRM_USER_POLICY_INFO_LEN)?;
        let info = UserPolicyInfo::parse(fixed).ok()?;
        let if_id = NlasIterator::new(attributes)
            .flatten()
            .find(|nla| nla.kind() == c::XFRMA_IF_ID)
            .and_then(|nla| nla.value().first_chunk::<4>().copied())
            .map(u32::from_ne_bytes);
        let if_id = if_id.or_else(|| super::is_our_if_id(info.index).then_some(0))?;
        let direction = match info.direction {
            c::XFRM_POLICY_OUT => Direction::Out,
            c::XFRM_POLICY_IN => Direction::In,
            c::XFRM_POLICY_FWD => Direction::Forward,
            _ => return None,
        };
        Some(Self { selector: KernelSelector::decode(&info.selector)?, direction, if_id })
    }
}

fn if_id(if_id: u32) -> Vec<XfrmAttrs> {
    if if_id == 0 { Vec::new() } else { vec![XfrmAttrs::IfId(if_id)] }
}

impl Direction {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Out => c::XFRM_POLICY_OUT,
            Self::In => c::XFRM_POLICY_IN,
            Self::Forward => c::XFRM_POLICY_FWD,
        }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Out => "outbound",
            Direction::In => "inbound",
            Direction::Forward => "forward",
        };
        write!(f, "{direction} policy from {} to {}", self.selector.source, self.selector.destination)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(blocks: &[Masked], port: u16) -> usize {
        blocks.iter().filter(|(value, mask)| port & mask == value & mask).count()
    }

    #[test]
    fn port_blocks_cover_each_port_of_the_range_once_and_no_other() {
        for (range, count) in [
            (0..=65535, 1),
            (80..=80, 1),
            (1024..=65535, 6),
            (0..=1023, 1),
            (33434..=33523, 6),
            (1..=65534, 30),
            (65535..=65535, 1),
        ] {
            let blocks = blocks(range.clone());
            assert_eq!(blocks.len(), count, "{range:?} {blocks:x?}");
            for port in 0..=u16::MAX {
                assert_eq!(covered(&blocks, port), usize::from(range.contains(&port)), "{range:?} {port}");
            }
        }
    }

    fn selector(net: &str, protocol: u8, ports: RangeInclusive<u16>) -> TrafficSelector {
        let net = TrafficSelector::from_net(net.parse().unwrap());
        TrafficSelector::new(net.start(), net.end(), protocol, ports).unwrap()
    }

    #[test]
    fn pairs_are_of_one_family_and_one_protocol() {
        let any = 0..=65535;
        let local = [selector("10.0.0.0/24", 0, any.clone()), selector("2001:db8::/64", 0, any.clone())];
        let remote = [selector("172.16.0.0/16", 6, 443..=443), selector("2001:db8:1::/64", 0, any.clone())];
        let pairs = selector_pairs(&local, &remote).unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!(
            (pairs[0].protocol, pairs[0].source_port, pairs[0].destination_port),
            (6, (0, 0), (443, 0xffff))
        );
        assert_eq!(pairs[0].reversed().source_port, (443, 0xffff));
        assert_eq!(pairs[0].reversed().reversed(), pairs[0]);
        let udp = [selector("10.0.0.0/24", 17, any)];
        assert_eq!(selector_pairs(&udp, &remote[..1]).unwrap(), []);
    }

    #[test]
    fn icmp_type_and_code_go_where_the_kernel_looks() {
        let any = 0..=65535;
        let remote = [selector("172.16.0.0/16", 0, any)];
        let echo = [selector("10.0.0.0/24", 1, 0x0800..=0x08ff)];
        let pair = selector_pairs(&echo, &remote).unwrap()[0];
        assert_eq!((pair.source_port, pair.destination_port), ((8, 0xffff), (0, 0)));
        assert_eq!(pair.reversed().source_port, (8, 0xffff));
        let unreachable_port = [selector("10.0.0.0/24", 1, 0x0303..=0x0303)];
        let pair = selector_pairs(&unreachable_port, &remote).unwrap()[0];
        assert_eq!((pair.source_port, pair.destination_port), ((3, 0xffff), (3, 0xffff)));
    }

    #[test]
    fn selectors_that_explode_are_refused() {
        let wide = [selector("10.0.0.0/24", 6, 1..=65534)];
        assert!(selector_pairs(&wide, &[selector("10.1.0.0/24", 6, 1..=65534)]).is_ok()); // 900
        let range =
            TrafficSelector::new("10.0.0.1".parse().unwrap(), "10.0.0.254".parse().unwrap(), 6, 1..=65534)
                .unwrap();
        let error = selector_pairs(&[range], &[selector("10.1.0.0/24", 6, 1..=65534)]).unwrap_err();
        assert!(error.to_string().contains("engine = \"user\""), "{error}");
    }

    #[test]
    fn a_policy_is_recognised_in_what_the_kernel_would_say_of_it() {
        let selector = selector_pairs(
            &[selector("10.0.0.0/24", 6, 0..=65535)],
            &[selector("172.16.0.0/16", 6, 80..=80)],
        )
        .unwrap()[0];
        let id = PolicyId { selector, direction: Direction::Forward, if_id: 0x4300_0001 };
        let outer = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let action = PolicyAction::Protect { reqid: 7, outer, transport: false };
        let policy = Policy { id, action, priority: 1 };
        let body = policy.encode(0);
        assert_eq!(PolicyId::parse(&body), Some(id));
        for cut in 0..XFRM_USER_POLICY_INFO_LEN + 8 {
            assert_eq!(PolicyId::parse(&body[..cut]), None, "{cut}");
        }
        // Of no interface, ours are told by their index.
        let policy = Policy { id: PolicyId { if_id: 0, ..id }, ..policy };
        assert_eq!(PolicyId::parse(&policy.encode(crate::xfrm::IF_ID_BASE + 9)), Some(policy.id));
        assert_eq!(PolicyId::parse(&policy.encode(9)), None);
    }
}
