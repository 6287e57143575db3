//! TSi and TSr payloads (RFC 7296 3.13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_types::TrafficSelector;

use super::{Reader, WireError};

const IPV4_RANGE: u8 = 7;
const IPV6_RANGE: u8 = 8;

/// The selectors that we can use. Types that we do not know, OPAQUE ports and inverted ranges select
/// nothing here and are left out (RFC 7296 2.9: the responder narrows to what it can serve); lengths
/// that contradict each other make the payload malformed.
pub(super) fn parse_all(body: &[u8]) -> Result<Vec<TrafficSelector>, WireError> {
    let mut r = Reader::new(body, "traffic selector payload");
    let count = r.u8()?;
    r.take(3)?;
    let mut out = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (kind, protocol, length) = (r.u8()?, r.u8()?, r.u16()?);
        let mut s = Reader::new(r.sized(length, 4)?, "traffic selector");
        let (first, last, start, end) = match kind {
            IPV4_RANGE => {
                let ports = (s.u16()?, s.u16()?);
                let (start, end) = (Ipv4Addr::from(s.u32()?), Ipv4Addr::from(s.u32()?));
                (ports.0, ports.1, IpAddr::V4(start), IpAddr::V4(end))
            }
            IPV6_RANGE => {
                let ports = (s.u16()?, s.u16()?);
                let (start, end) = (Ipv6Addr::from(s.array::<16>()?), Ipv6Addr::from(s.array::<16>()?));
                (ports.0, ports.1, IpAddr::V6(start), IpAddr::V6(end))
            }
            _ => continue,
        };
        if !s.is_empty() {
            return Err(WireError::Length("traffic selector"));
        }
        out.extend(TrafficSelector::new(start, end, protocol, first..=last).ok());
    }
    if r.is_empty() { Ok(out) } else { Err(WireError::Length("traffic selector payload")) }
}

pub(super) fn encode_all(selectors: &[TrafficSelector], out: &mut Vec<u8>) {
    let count = u8::try_from(selectors.len()).expect("at most 255 selectors are configured");
    out.extend_from_slice(&[count, 0, 0, 0]);
    for s in selectors {
        let (kind, length) = if s.is_ipv4() { (IPV4_RANGE, 16u16) } else { (IPV6_RANGE, 40) };
        out.extend_from_slice(&[kind, s.protocol()]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&s.ports().start().to_be_bytes());
        out.extend_from_slice(&s.ports().end().to_be_bytes());
        for addr in [s.start(), s.end()] {
            match addr {
                IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
                IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
            }
        }
    }
}
