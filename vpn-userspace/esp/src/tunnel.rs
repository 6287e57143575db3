//! Tunnel-mode header rules: ECN (RFC 6040), DSCP and DF (RFC 4301 5.1.2), TTL, and how many bytes
//! a tunnel costs.

use culvert_crypto::Suite;

use crate::ESP_HEADER_LEN;
use crate::checksum;
use crate::packet::{Header, Packet};

/// ECN's two bits (RFC 3168 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecn {
    /// 00: the transport knows nothing of ECN.
    NotEct,
    /// 01.
    Ect1,
    /// 10.
    Ect0,
    /// 11: congestion was met.
    Ce,
}

impl Ecn {
    /// From a type of service or traffic class.
    #[inline]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }

    /// What the inner packet goes on with, by the outer header it came in (RFC 6040 4.2, figure 4).
    /// `None`: drop it, for congestion was marked on a transport that cannot hear of it.
    #[inline]
    pub const fn decapsulate(inner: Self, outer: Self) -> Option<Self> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect1, _) | (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (Self::Ect0, _) => Some(Self::Ect0),
        }
    }
}

/// What the outer header's DF bit becomes (RFC 4301 8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DfPolicy {
    /// As the inner packet's; an inner IPv6 packet counts as set.
    #[default]
    Copy,
    /// Always set: the outer path's MTU is learnt.
    Set,
    /// Never set: routers on the outer path may fragment.
    Clear,
}

/// How outer headers follow from inner packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Copy DSCP outward. It is never copied inward (RFC 4301 5.1.2.1, note 5).
    pub copy_dscp: bool,
    /// Carry ECN through the tunnel (RFC 6040 normal mode). Off: outer headers are Not-ECT
    /// (compatibility mode), for a peer that would lose the marks.
    pub ecn: bool,
    /// The outer DF bit.
    pub df: DfPolicy,
}

impl Default for Rules {
    fn default() -> Self {
        Self { copy_dscp: true, ecn: true, df: DfPolicy::Copy }
    }
}

impl Rules {
    /// The outer type of service or traffic class for an inner one (RFC 6040 4.1, figure 3).
    #[inline]
    pub const fn outer_traffic_class(&self, inner: u8) -> u8 {
        let dscp = if self.copy_dscp { inner & 0xfc } else { 0 };
        let ecn = if self.ecn { inner & 3 } else { 0 };
        dscp | ecn
    }

    /// The outer IPv4 DF bit for an inner packet.
    #[inline]
    pub fn outer_df(&self, inner: &Packet<'_>) -> bool {
        match self.df {
            DfPolicy::Copy => inner.dont_fragment(),
            DfPolicy::Set => true,
            DfPolicy::Clear => false,
        }
    }
}

/// Congestion was marked on the way, and the inner packet's transport cannot be told: drop the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("congestion was marked outside on a packet whose transport does not do ECN (RFC 6040 4.2)")]
pub struct CongestionDrop;

/// Carries the outer header's ECN mark into an opened inner packet, its IPv4 checksum updated
/// (RFC 6040 4.2). `outer` is the outer type of service or traffic class.
#[inline]
pub fn decapsulate_ecn(inner: &mut [u8], outer: u8) -> Result<(), CongestionDrop> {
    // An outer header without marks changes nothing: the usual case.
    if outer & 3 == 0 {
        return Ok(());
    }
    let Some((a, b)) = inner.first_chunk().map(|[a, b]| (*a, *b)) else { return Ok(()) };
    let v4 = a >> 4 == 4;
    let before = if v4 { b } else { a << 4 | b >> 4 };
    let after = Ecn::decapsulate(Ecn::of(before), Ecn::of(outer)).ok_or(CongestionDrop)?;
    let after = before & 0xfc | after.bits();
    if after != before {
        if v4 {
            set_v4_word(inner, 0, [a, after]);
        } else if let Some([a, b, ..]) = inner.first_chunk_mut::<2>() {
            *a = *a & 0xf0 | after >> 4;
            *b = *b & 0x0f | after << 4;
        }
    }
    Ok(())
}

/// The TTL is used up: the packet must be dropped, and an ICMP time exceeded sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TTL ran out")]
pub struct TtlExpired;

/// Decrements TTL or hop limit as a router does, the IPv4 checksum updated (RFC 1812 5.3.1). For paths
/// that the kernel does not forward. On an error the packet is as it was.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Result<(), TtlExpired> {
    match packet {
        [first, ..] if *first >> 4 == 4 => {
            let Some([ttl, protocol]) = packet.get(8..10).and_then(|w| w.first_chunk()).copied() else {
                return Err(TtlExpired);
            };
            if ttl <= 1 {
                return Err(TtlExpired);
            }
            set_v4_word(packet, 8, [ttl - 1, protocol]);
            Ok(())
        }
        _ => {
            let hops = packet.get_mut(7).filter(|h| **h > 1).ok_or(TtlExpired)?;
            *hops -= 1;
            Ok(())
        }
    }
}

/// Replaces an even-offset word of an IPv4 header and updates the header's checksum.
#[inline]
fn set_v4_word(packet: &mut [u8], at: usize, new: [u8; 2]) {
    let Some(header) = packet.first_chunk_mut::<20>() else { return };
    let Some(word) = header.get_mut(at..at + 2).and_then(|w| w.first_chunk_mut::<2>()) else { return };
    let old = std::mem::replace(word, new);
    let field = checksum::update([header[10], header[11]], old, new);
    [header[10], header[11]] = field;
}

/// What stands between the inner packet and the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overhead {
    /// The outer header is IPv6's.
    pub outer_ipv6: bool,
    /// ESP is in UDP (RFC 3948).
    pub udp: bool,
    /// The SA's suite.
    pub suite: Suite,
}

impl Overhead {
    /// Bytes before ESP: outer IP header, and UDP's if there is one.
    pub const fn outer_headers(&self) -> usize {
        (if self.outer_ipv6 { 40 } else { 20 }) + (if self.udp { 8 } else { 0 })
    }

    /// Bytes of the outer packet, IP header included, around an inner packet of `inner_len` bytes.
    pub const fn outer_len(&self, inner_len: usize) -> usize {
        let fixed = self.outer_headers() + ESP_HEADER_LEN + self.suite.iv_len() + self.suite.icv_len();
        fixed + (inner_len + 2).next_multiple_of(self.suite.alignment())
    }

    /// The largest inner packet, in bytes, whose outer packet fits an outer MTU. 0 if none does.
    pub const fn inner_mtu(&self, outer_mtu: usize) -> usize {
        let fixed = self.outer_headers() + ESP_HEADER_LEN + self.suite.iv_len() + self.suite.icv_len();
        let text = outer_mtu.saturating_sub(fixed);
        (text - text % self.suite.alignment()).saturating_sub(2)
    }
}

/// The DSCP of an inner packet, the upper six bits moved down.
pub fn dscp(header: Header<'_>) -> u8 {
    header.traffic_class() >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ipv4, ipv6};
    use culvert_crypto::{Encryption, Integrity};

    /// RFC 6040 4.2, figure 4, as it stands there: rows are the inner header, columns the outer one.
    const FIGURE_4: [(Ecn, [Option<Ecn>; 4]); 4] = {
        use Ecn::*;
        [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ]
    };
    const COLUMNS: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    fn v4_checksum_is_right(bytes: &[u8]) -> bool {
        checksum::fold(checksum::sum(&bytes[..20], 0)) == 0xffff
    }

    #[test]
    fn rfc_6040_figure_4() {
        for (inner, row) in FIGURE_4 {
            for (outer, want) in COLUMNS.into_iter().zip(row) {
                assert_eq!(Ecn::decapsulate(inner, outer), want, "{inner:?} in {outer:?}");
                for dscp in [0u8, 0xb8, 0xfc] {
                    let mut four = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &[0; 20]);
                    four[1] = dscp | inner.bits();
                    checksum::write_ipv4_header(&mut four[..20]);
                    let mut six = ipv6("::1", "::2", 6, &[0; 20]);
                    six[0] |= dscp >> 4;
                    six[1] = (dscp | inner.bits()) << 4 | 0x0a;
                    for packet in [&mut four, &mut six] {
                        let before = packet.clone();
                        let done = decapsulate_ecn(packet, 0xe0 | outer.bits());
                        assert_eq!(done.is_ok(), want.is_some());
                        let parsed = Packet::parse(packet).unwrap();
                        let want = dscp | want.unwrap_or(inner).bits();
                        assert_eq!(parsed.traffic_class(), want, "the inner DSCP stays");
                        assert_eq!(packet[2..10], before[2..10]);
                        assert_eq!(packet[1] & 0x0f, if packet[0] >> 4 == 6 { 0x0a } else { want & 0x0f });
                    }
                    assert!(v4_checksum_is_right(&four));
                }
            }
        }
    }

    #[test]
    fn rfc_6040_figure_3_and_dscp() {
        let class =
            |copy_dscp, ecn, inner| Rules { copy_dscp, ecn, ..Rules::default() }.outer_traffic_class(inner);
        for ecn in COLUMNS {
            let inner = 0xb8 | ecn.bits();
            assert_eq!(class(true, true, inner), inner, "normal mode");
            assert_eq!(class(true, false, inner), 0xb8, "compatibility mode");
            assert_eq!(class(false, true, inner), ecn.bits());
        }
    }

    #[test]
    fn df_by_policy() {
        let mut bytes = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &[0; 20]);
        let six = ipv6("::1", "::2", 6, &[0; 20]);
        let df = |policy, bytes: &[u8]| {
            Rules { df: policy, ..Rules::default() }.outer_df(&Packet::parse(bytes).unwrap())
        };
        assert!(!df(DfPolicy::Copy, &bytes) && df(DfPolicy::Set, &bytes) && !df(DfPolicy::Clear, &bytes));
        bytes[6] = 0x40;
        assert!(df(DfPolicy::Copy, &bytes) && !df(DfPolicy::Clear, &bytes));
        assert!(df(DfPolicy::Copy, &six) && !df(DfPolicy::Clear, &six));
    }

    #[test]
    fn ttl_counts_down_to_one() {
        let mut four = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &[0; 20]);
        let mut six = ipv6("::1", "::2", 6, &[0; 20]);
        for left in (1..64).rev() {
            decrement_ttl(&mut four).unwrap();
            decrement_ttl(&mut six).unwrap();
            assert_eq!((four[8], six[7]), (left, left));
            assert!(v4_checksum_is_right(&four));
        }
        let before = four.clone();
        assert_eq!(decrement_ttl(&mut four), Err(TtlExpired));
        assert_eq!(decrement_ttl(&mut six), Err(TtlExpired));
        assert_eq!(four, before);
        for len in 0..10 {
            let _ = (decrement_ttl(&mut vec![0x45; len]), decapsulate_ecn(&mut vec![0x45; len], 3));
            let _ = (decrement_ttl(&mut vec![0x60; len]), decapsulate_ecn(&mut vec![0x60; len], 3));
        }
    }

    #[test]
    fn inner_mtu_is_the_largest_that_fits() {
        for suite in Suite::all() {
            for (outer_ipv6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
                let overhead = Overhead { outer_ipv6, udp, suite };
                for outer_mtu in (576..1600).chain([9000, 65535]) {
                    let mtu = overhead.inner_mtu(outer_mtu);
                    assert!(overhead.outer_len(mtu) <= outer_mtu, "{suite} {outer_mtu}");
                    assert!(overhead.outer_len(mtu + 1) > outer_mtu, "{suite} {outer_mtu}");
                }
                assert_eq!(overhead.inner_mtu(40), 0);
            }
        }
    }

    #[test]
    fn well_known_sizes() {
        let gcm = Suite::new(Encryption::AesGcm128, None).unwrap();
        let cbc = Suite::new(Encryption::AesCbc128, Some(Integrity::HmacSha1_96)).unwrap();
        let size = |outer_ipv6, udp, suite| Overhead { outer_ipv6, udp, suite }.inner_mtu(1500);
        // AES-GCM in UDP over IPv4: 20 + 8 + 8 + 8 + 16 + 2 = 62 bytes at the least.
        assert_eq!(size(false, true, gcm), 1438);
        assert_eq!(size(false, false, gcm), 1446);
        // The figure that every vendor prints for AES-CBC with SHA-1.
        assert_eq!(size(false, false, cbc), 1438);
        assert_eq!(size(true, true, gcm), 1418);
    }
}
