//! Which frames of a LAN may go into a tunnel past the stack: the plain ones. Whatever has an odd side to it is the
//! stack's, and comes to the same tunnel by its interface.
use crate::esp::{AF_INET, AF_INET6, ETHERNET, Fib};
use crate::layout::Plain;
use crate::packet::Bytes;
use core::mem::size_of;

/// Interfaces that the map `LANS` has room for.
pub const MAX_LANS: u32 = 256;
/// Tunnels that the map `LAN_TUNNELS` has room for.
pub const MAX_TUNNELS: u32 = 16_384;
/// Set in [`crate::redirect::XskKey::worker`] for workers that seal; those that open have the same numbers without it.
pub const SEALS: u32 = 1 << 31;
/// Bytes before a redirected frame, in which the tunnel's interface is told by its index.
pub const META: usize = 4;

/// Value of `LANS`, by the index of the interface: its link-layer address, of which the stack takes packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lan {
    /// The first four bytes.
    pub high: u32,
    /// The last two.
    pub low: u32,
}

impl Lan {
    /// Of a link-layer address.
    #[inline(always)]
    pub const fn new(mac: [u8; 6]) -> Lan {
        let [a, b, c, d, e, f] = mac;
        Lan { high: u32::from_ne_bytes([a, b, c, d]), low: u16::from_ne_bytes([e, f]) as u32 }
    }
}

/// Value of `LAN_TUNNELS`, by the index of the tunnel's interface, to which routes lead.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanTunnel {
    /// The worker that seals its packets, without [`SEALS`].
    pub worker: u32,
}

// SAFETY: repr(C), words of one size, no padding.
unsafe impl Plain for Lan {}
// SAFETY: as above.
unsafe impl Plain for LanTunnel {}

const _: () = {
    assert!(size_of::<Lan>() == 8);
    assert!(size_of::<LanTunnel>() == 4);
};

/// An IPv4 header without options, its fragment field without DF.
const PLAIN_V4: u8 = 0x45;
const FRAGMENTED: u16 = 0xbfff;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What is to be asked of the routes about a frame that came in by `interface`; of family 0 if it is the stack's: for
/// another link-layer address, with a VLAN tag, with options, extension headers or in fragments, at its last hop, or
/// cut short.
#[inline(always)]
pub fn question<B: Bytes + ?Sized>(frame: &B, lan: &Lan, interface: u32) -> Fib {
    let mut fib = Fib::EMPTY;
    let ([a, b, c, d, e, f, _, _, _, _, _, _, high, low], true) = frame.load::<14>(0) else { return fib };
    if Lan::new([a, b, c, d, e, f]) != *lan {
        return fib;
    }
    fib.interface = interface;
    let transport = match u16::from_be_bytes([high, low]) {
        0x0800 => ipv4(frame, &mut fib),
        0x86dd => ipv6(frame, &mut fib),
        _ => 0,
    };
    // Rules of routing, and the choice among several paths, may look at ports.
    if transport != 0
        && (fib.protocol == TCP || fib.protocol == UDP)
        && let ([a, b, c, d], true) = frame.load::<4>(transport)
    {
        fib.ports = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])];
    }
    fib
}

/// Where the header of the upper layer is; 0, and no family, if it is the stack's.
#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(frame: &B, fib: &mut Fib) -> u32 {
    let (h, true) = frame.load::<20>(ETHERNET) else { return 0 };
    let total = u16::from_be_bytes([h[2], h[3]]);
    let fragment = u16::from_be_bytes([h[6], h[7]]) & FRAGMENTED;
    if h[0] != PLAIN_V4 || total < 20 || ETHERNET + total as u32 > frame.length() || fragment != 0 || h[8] < 2
    {
        return 0;
    }
    fib.family = AF_INET;
    fib.protocol = h[9];
    fib.len = total;
    fib.tos = (h[1] & 0x1c) as u32;
    fib.source[0] = u32::from_ne_bytes([h[12], h[13], h[14], h[15]]);
    fib.destination[0] = u32::from_ne_bytes([h[16], h[17], h[18], h[19]]);
    ETHERNET + 20
}

/// The same of IPv6.
#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(frame: &B, fib: &mut Fib) -> u32 {
    let (h, true) = frame.load::<40>(ETHERNET) else { return 0 };
    let payload = u16::from_be_bytes([h[4], h[5]]) as u32;
    if h[0] >> 4 != 6 || payload == 0 || ETHERNET + 40 + payload > frame.length() || h[7] < 2 || extends(h[6])
    {
        return 0;
    }
    fib.family = AF_INET6;
    fib.protocol = h[6];
    fib.len = (40 + payload) as u16;
    let word = |at: usize| u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    fib.source = [word(8), word(12), word(16), word(20)];
    fib.destination = [word(24), word(28), word(32), word(36)];
    ETHERNET + 40
}

/// Extension headers of IPv6 (RFC 8200 4, RFC 7045 4), and what says that nothing follows.
#[inline(always)]
pub const fn extends(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 51 | 59 | 60 | 135 | 139 | 140 | 253 | 254)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::testing::{ethernet, ip, udp};
    use core::net::IpAddr;
    use std::vec::Vec;

    const OURS: [u8; 6] = [2, 0, 0, 0, 1, 1];
    const HOST: [u8; 6] = [2, 0, 0, 0, 1, 2];

    fn frame(from: &str, to: &str, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut packet = ip(from, to, 17, &udp(from, to, (7, 9), b"payload"));
        change(&mut packet);
        ethernet(OURS, HOST, &[], &packet)
    }

    fn family(frame: &[u8]) -> u8 {
        question(frame, &Lan::new(OURS), 5).family
    }

    #[test]
    fn plain_packets_are_asked_about_with_all_that_routes_look_at() {
        let v4 = frame("10.1.0.2", "10.2.0.9", |p| p[1] = 0xb9);
        let fib = question(&v4[..], &Lan::new(OURS), 5);
        assert_eq!((fib.family, fib.protocol, fib.interface, fib.len), (AF_INET, 17, 5, 35));
        assert_eq!((fib.ports, fib.tos), ([7u16.to_be(), 9u16.to_be()], 0x18));
        assert_eq!(
            (fib.source[0].to_ne_bytes(), fib.destination[0].to_ne_bytes()),
            ([10, 1, 0, 2], [10, 2, 0, 9])
        );
        let v6 = frame("fd01::2", "fd02::9", |_| {});
        let fib = question(&v6[..], &Lan::new(OURS), 5);
        assert_eq!((fib.family, fib.protocol, fib.len), (AF_INET6, 17, 55));
        assert_eq!(fib.destination, [0xfd02_0000u32.to_be(), 0, 0, 9u32.to_be()]);
        // What fills a short frame up is nobody's.
        assert_eq!(family(&[&v4[..], &[0; 20]].concat()), AF_INET);
    }

    #[test]
    fn what_is_odd_is_the_stacks() {
        let v4 = |change: &dyn Fn(&mut Vec<u8>)| family(&frame("10.1.0.2", "10.2.0.9", change));
        let v6 = |change: &dyn Fn(&mut Vec<u8>)| family(&frame("fd01::2", "fd02::9", change));
        assert_eq!((v4(&|p| p[8] = 2), v4(&|p| p[6] = 0x40)), (AF_INET, AF_INET));
        for (at, value) in
            [(8, 1), (8, 0), (6, 0x20), (7, 1), (6, 0x80), (0, 0x46), (0, 0x65), (3, 19), (3, 36)]
        {
            assert_eq!(v4(&|p| p[at] = value), 0, "byte {at} is {value}");
        }
        for (at, value) in [(7, 1), (6, 0), (6, 44), (6, 59), (6, 60), (0, 0x45), (5, 16), (5, 0)] {
            assert_eq!(v6(&|p| p[at] = value), 0, "byte {at} is {value}");
        }
        let plain = frame("10.1.0.2", "10.2.0.9", |_| {});
        assert_eq!((family(&plain[..33]), family(&plain[..13]), family(&[])), (0, 0, 0));
        for mac in [HOST, [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            assert_eq!(question(&plain[..], &Lan::new(mac), 5).family, 0);
        }
        let from_to: [IpAddr; 2] = ["10.1.0.2".parse().unwrap(), "10.2.0.9".parse().unwrap()];
        let packet = ip(from_to[0], from_to[1], 17, &udp(from_to[0], from_to[1], (7, 9), b"payload"));
        assert_eq!(family(&ethernet(OURS, HOST, &[0x8100], &packet)), 0);
    }
}
