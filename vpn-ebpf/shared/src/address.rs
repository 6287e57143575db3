//! An outer IP address as the maps have it: 16 bytes for both families, IPv4 as `::ffff:a.b.c.d`.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in network byte order; IPv4 is mapped into IPv6 (RFC 4291 2.5.5.2), so one map serves both.
///
/// Four words, not an array, so that comparing two is four comparisons: the BPF target has no `memcmp` worth a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
}

impl Address {
    /// The unspecified address; no packet that a host accepts bears it.
    pub const UNSPECIFIED: Address = Address { a: 0, b: 0, c: 0, d: 0 };

    /// From the four bytes of an IPv4 address.
    #[inline(always)]
    pub const fn from_v4(bytes: [u8; 4]) -> Address {
        Address { a: 0, b: 0, c: 0xffff_u32.to_be(), d: u32::from_ne_bytes(bytes) }
    }

    /// From the sixteen bytes of an IPv6 address.
    #[inline(always)]
    pub const fn from_v6(bytes: [u8; 16]) -> Address {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = bytes;
        Address {
            a: u32::from_ne_bytes([a0, a1, a2, a3]),
            b: u32::from_ne_bytes([b0, b1, b2, b3]),
            c: u32::from_ne_bytes([c0, c1, c2, c3]),
            d: u32::from_ne_bytes([d0, d1, d2, d3]),
        }
    }

    /// The four words, in network byte order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        [self.a, self.b, self.c, self.d]
    }

    /// True for an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.a == 0 && self.b == 0 && self.c == 0xffff_u32.to_be()
    }

    /// Whom a rate limit counts as one: an IPv4 address, or the /64 of an IPv6 address, within which a single host can
    /// take any address it likes.
    #[inline(always)]
    pub const fn limited_as(self) -> Address {
        if self.is_v4() { self } else { Address { c: 0, d: 0, ..self } }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Address {
        match address {
            IpAddr::V4(v4) => Address::from_v4(v4.octets()),
            IpAddr::V6(v6) => Address::from_v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> IpAddr {
        if address.is_v4() {
            return IpAddr::V4(Ipv4Addr::from(address.d.to_ne_bytes()));
        }
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip([address.a, address.b, address.c, address.d]) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for text in ["192.0.2.1", "2001:db8::1", "::1", "255.255.255.255"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn an_ipv6_host_is_limited_by_its_64() {
        let limited = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).limited_as();
        assert_eq!(limited("2001:db8:0:1::1"), limited("2001:db8:0:1:ffff::2"));
        assert_ne!(limited("2001:db8:0:1::1"), limited("2001:db8:0:2::1"));
        assert_ne!(limited("192.0.2.1"), limited("192.0.2.2"));
    }
}
