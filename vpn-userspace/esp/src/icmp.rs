//! ICMP and ICMPv6 errors about inner packets: too big, expired, not allowed.
//!
//! What must not be answered is not: ICMP errors, later fragments, multicast, broadcast and
//! unspecified addresses (RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4(e)). Who calls limits the
//! rate: there is no clock here.

use std::fmt;
use std::net::IpAddr;

use crate::checksum;
use crate::packet::{Header, Packet};

/// RFC 1812 4.3.2.3: an ICMP error is at most 576 bytes.
const MAX_V4: usize = 576;
/// RFC 4443 2.4(c): an ICMPv6 error is at most the minimum MTU.
const MAX_V6: usize = 1280;

/// A whole ICMP error packet, IP header included, without an allocation.
#[derive(Clone)]
pub struct IcmpError {
    bytes: [u8; MAX_V6],
    len: usize,
}

impl std::ops::Deref for IcmpError {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl AsRef<[u8]> for IcmpError {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IcmpError({} bytes)", self.len)
    }
}

/// Tells the sender that a packet is larger than the tunnel's `mtu` in bytes: "fragmentation needed and
/// DF set" (RFC 1191 4) or "packet too big" (RFC 4443 3.2). `source` is our address on the sender's
/// side, of the packet's family. `None` where no answer may be given, and for IPv4 without DF, which is
/// to be fragmented instead.
pub fn packet_too_big(original: &[u8], source: IpAddr, mtu: usize) -> Option<IcmpError> {
    let packet = Packet::parse(original).ok()?;
    if !packet.dont_fragment() {
        return None;
    }
    // RFC 8200 5: IPv6 senders ignore less than 1280.
    let mtu = if packet.is_ipv4() { mtu } else { mtu.max(MAX_V6) };
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    // RFC 4443 2.4(e.3): packet too big is answered to multicast too, or PMTU discovery fails there.
    build(&packet, source, Kind { v4: (3, 4), v6: (2, 0), parameter: u32::from(mtu), multicast: true })
}

/// Tells the sender that a packet's TTL or hop limit ran out on its way (RFC 792, RFC 4443 3.3).
pub fn time_exceeded(original: &[u8], source: IpAddr) -> Option<IcmpError> {
    let packet = Packet::parse(original).ok()?;
    build(&packet, source, Kind { v4: (11, 0), v6: (3, 0), parameter: 0, multicast: false })
}

/// Tells the sender that a packet is administratively prohibited: no selector takes it, or its tunnel is
/// down (RFC 4301 6, RFC 1812 5.2.7.1, RFC 4443 3.1).
pub fn unreachable(original: &[u8], source: IpAddr) -> Option<IcmpError> {
    let packet = Packet::parse(original).ok()?;
    build(&packet, source, Kind { v4: (3, 13), v6: (1, 1), parameter: 0, multicast: false })
}

struct Kind {
    v4: (u8, u8),
    v6: (u8, u8),
    /// The second word of the ICMP header.
    parameter: u32,
    /// Whether ICMPv6 answers packets to multicast addresses with it.
    multicast: bool,
}

fn build(packet: &Packet<'_>, source: IpAddr, kind: Kind) -> Option<IcmpError> {
    if !may_answer(packet, kind.multicast) {
        return None;
    }
    let mut out = IcmpError { bytes: [0; MAX_V6], len: 0 };
    match (packet.header(), source) {
        (Header::V4(h), IpAddr::V4(source)) => {
            let quoted = packet.bytes().get(..packet.total_len().min(MAX_V4 - 28))?;
            out.len = 28 + quoted.len();
            let (header, message) = out.bytes.get_mut(..out.len)?.split_first_chunk_mut::<20>()?;
            let [len_high, len_low] = (28 + quoted.len() as u16).to_be_bytes();
            // RFC 1812 4.3.2.5: precedence 6, internetwork control. DF with identification 0 (RFC 6864 4.1).
            header[..10].copy_from_slice(&[0x45, 0xc0, len_high, len_low, 0, 0, 0x40, 0, 64, 1]);
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&h[12..16]);
            checksum::write_ipv4_header(header);
            write_message(message, kind.v4, kind.parameter, quoted, 0)?;
        }
        (Header::V6(h), IpAddr::V6(source)) => {
            let quoted = packet.bytes().get(..packet.total_len().min(MAX_V6 - 48))?;
            out.len = 48 + quoted.len();
            let (header, message) = out.bytes.get_mut(..out.len)?.split_first_chunk_mut::<40>()?;
            let [len_high, len_low] = (8 + quoted.len() as u16).to_be_bytes();
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, len_high, len_low, 58, 64]);
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&h[8..24]);
            let pseudo = checksum::pseudo_header(Header::V6(header), 58, message.len());
            write_message(message, kind.v6, kind.parameter, quoted, pseudo)?;
        }
        _ => return None,
    }
    Some(out)
}

fn write_message(
    message: &mut [u8],
    (kind, code): (u8, u8),
    parameter: u32,
    quoted: &[u8],
    pseudo: u64,
) -> Option<()> {
    let (head, tail) = message.split_first_chunk_mut::<8>()?;
    let [a, b, c, d] = parameter.to_be_bytes();
    *head = [kind, code, 0, 0, a, b, c, d];
    if tail.len() != quoted.len() {
        return None;
    }
    tail.copy_from_slice(quoted);
    let [x, y] = checksum::finish(checksum::sum(message, pseudo));
    let head = message.first_chunk_mut::<8>()?;
    [head[2], head[3]] = [x, y];
    Some(())
}

fn may_answer(packet: &Packet<'_>, multicast: bool) -> bool {
    if !packet.has_transport_header() || is_icmp_error(packet) {
        return false;
    }
    match (packet.source(), packet.destination()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let one_host = |a: std::net::Ipv4Addr| {
                !(a.is_unspecified() || a.is_multicast() || a.octets()[0] >= 240 || a.octets()[0] == 0)
            };
            one_host(from) && !from.is_loopback() && one_host(to)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            !(from.is_unspecified() || from.is_multicast() || from.is_loopback())
                && (multicast || !to.is_multicast())
        }
        _ => false,
    }
}

/// Whether the packet is, or may be, an ICMP error: a first fragment too short to tell counts as one.
fn is_icmp_error(packet: &Packet<'_>) -> bool {
    if packet.is_ipv4() {
        packet.protocol() == 1
            // RFC 1122 3.2.2: all types but the queries and their answers.
            && !packet.icmp().is_some_and(|(kind, _)| matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43))
    } else {
        // RFC 4443 2.1: errors are below 128. 2.4(e.2): redirects (137) are not answered either.
        packet.protocol() == 58 && packet.icmp().is_none_or(|(kind, _)| kind < 128 || kind == 137)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ipv4, ipv6};
    use proptest::prelude::*;

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [172, 16, 0, 1];
    const US: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 254));

    fn us6() -> IpAddr {
        "2001:db8:1::fe".parse().unwrap()
    }

    fn with_df(mut packet: Vec<u8>) -> Vec<u8> {
        packet[6] |= 0x40;
        packet
    }

    fn check(error: &IcmpError, original: &[u8], source: IpAddr, kind: (u8, u8), parameter: [u8; 4]) {
        let p = Packet::parse(error).unwrap();
        assert_eq!(p.total_len(), error.len());
        assert_eq!((p.source(), p.destination()), (source, Packet::parse(original).unwrap().source()));
        assert_eq!(p.icmp(), Some(kind));
        assert_eq!(p.transport()[4..8], parameter);
        let quoted = &p.transport()[8..];
        assert_eq!(quoted, &original[..quoted.len()]);
        let most = if p.is_ipv4() { 576 } else { 1280 };
        assert!(error.len() == most || quoted.len() == original.len(), "as much as fits");
        assert!(checksum::transport_is_right(&p));
        if p.is_ipv4() {
            assert_eq!(checksum::fold(checksum::sum(&error[..20], 0)), 0xffff);
        }
    }

    #[test]
    fn errors_of_either_family() {
        for len in [8, 9, 500, 520, 521, 1400, 8972] {
            let four = with_df(ipv4(A, B, 17, &vec![0x5a; len]));
            check(&packet_too_big(&four, US, 1438).unwrap(), &four, US, (3, 4), [0, 0, 0x05, 0x9e]);
            check(&time_exceeded(&four, US).unwrap(), &four, US, (11, 0), [0; 4]);
            check(&unreachable(&four, US).unwrap(), &four, US, (3, 13), [0; 4]);
            let six = ipv6("2001:db8:1::1", "2001:db8:2::1", 17, &vec![0x5a; len]);
            check(&packet_too_big(&six, us6(), 1418).unwrap(), &six, us6(), (2, 0), [0, 0, 0x05, 0x8a]);
            check(&time_exceeded(&six, us6()).unwrap(), &six, us6(), (3, 0), [0; 4]);
            check(&unreachable(&six, us6()).unwrap(), &six, us6(), (1, 1), [0; 4]);
        }
    }

    #[test]
    fn ipv6_is_never_told_less_than_1280() {
        let six = ipv6("2001:db8:1::1", "2001:db8:2::1", 17, &[0; 1300]);
        check(&packet_too_big(&six, us6(), 1000).unwrap(), &six, us6(), (2, 0), [0, 0, 0x05, 0]);
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let icmp = |kind: u8| ipv4(A, B, 1, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        for kind in 0..=255 {
            let query = matches!(kind, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43);
            assert_eq!(unreachable(&icmp(kind), US).is_some(), query, "ICMP {kind}");
            let six = ipv6("2001:db8:1::1", "2001:db8:2::1", 58, &[kind, 0, 0, 0]);
            assert_eq!(unreachable(&six, us6()).is_some(), kind >= 128 && kind != 137, "ICMPv6 {kind}");
        }
        let mut later = ipv4(A, B, 17, &[0; 64]);
        later[7] = 1;
        let mut cases = vec![later, ipv4(A, B, 1, &[8])];
        for bad in
            [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [255, 255, 255, 255], [240, 0, 0, 1]]
        {
            cases.push(ipv4(bad, B, 17, &[0; 8]));
        }
        for bad in [[224, 0, 0, 5], [255, 255, 255, 255]] {
            cases.push(ipv4(A, bad, 17, &[0; 8]));
        }
        for case in &cases {
            assert!(unreachable(case, US).is_none() && time_exceeded(case, US).is_none(), "{case:?}");
            assert!(packet_too_big(&with_df(case.clone()), US, 1400).is_none(), "{case:?}");
        }
        for bad in ["::", "::1", "ff02::1"] {
            let case = ipv6(bad, "2001:db8:2::1", 17, &[0; 8]);
            assert!(unreachable(&case, us6()).is_none() && packet_too_big(&case, us6(), 1400).is_none());
        }
        let to_group = ipv6("2001:db8:1::1", "ff0e::1", 17, &[0; 8]);
        assert!(unreachable(&to_group, us6()).is_none());
        assert!(packet_too_big(&to_group, us6(), 1400).is_some(), "RFC 4443 2.4(e.3)");
        // Without DF it is to be fragmented; another family's address cannot speak.
        let four = ipv4(A, B, 17, &[0; 8]);
        assert!(packet_too_big(&four, US, 1400).is_none() && unreachable(&four, us6()).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if !v6 && bytes.len() > 20 {
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
            let source = if v6 { us6() } else { US };
            for error in [packet_too_big(&bytes, source, 1400), time_exceeded(&bytes, source), unreachable(&bytes, source)] {
                // An error is itself never answered.
                prop_assert!(error.is_none_or(|e| unreachable(&e, source).is_none()));
            }
        }
    }
}
