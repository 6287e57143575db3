//! Maps of the engine `bpf`. What the programs write (numbers, windows, counters) user space inserts once and only
//! reads after; what user space changes stands in entries of its own, which it replaces whole.
use super::reason;
use super::window::Window;
use crate::address::Address;
use crate::layout::Plain;
use core::mem::{offset_of, size_of};
use core::net::IpAddr;

/// SA pairs at once.
pub const MAX_PAIRS: u32 = 8_192;
/// Tunnels at once.
pub const MAX_TUNNELS: u32 = 4_096;
/// Devices of LAN and WAN, and backs of tunnels.
pub const MAX_DEVICES: u32 = 8_192;
/// Bytes of the ring `REFUSED`.
pub const REFUSED_BYTES: u32 = 1 << 16;
/// SAs of a tunnel that are in use at once.
pub const MAX_ACTIVE: usize = 8;
/// Selectors of each side of an SA.
pub const MAX_SELECTORS: usize = 8;

/// Map `KEYS`, at twice the pair's slot inbound and one behind outbound. User space writes it and cannot read it back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Key {
    /// As ChaCha20's input has it.
    pub key: [u32; 8],
    /// RFC 7634 2: the first four bytes of the nonce.
    pub salt: u32,
    /// 1 in an entry that is in use.
    pub present: u32,
}

/// Packets by reason.
pub type Drops = [u64; reason::COUNT];

/// Map `OUTBOUND`, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Outbound {
    /// The number of the last packet; each takes the next one.
    pub sequence: u64,
    /// The last number there may be.
    pub last: u64,
    /// Inner bytes.
    pub bytes: u64,
    /// No more than these.
    pub most_bytes: u64,
    /// SPI as on the wire.
    pub spi: u32,
    /// Extended sequence numbers.
    pub esn: u32,
    /// What was not sent.
    pub drops: Drops,
}

/// The kernel's lock in a map value; it finds it by the name of the type.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct bpf_spin_lock {
    /// The kernel's.
    pub val: u32,
}

/// Map `INBOUND`, by the SPI as on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// Of `window`, the counters and what was seen.
    pub lock: bpf_spin_lock,
    /// Of the pair.
    pub slot: u32,
    /// Index of the tunnel's interface.
    pub tunnel: u32,
    /// Port from which the newest packet came, in network byte order; 0 without UDP.
    pub seen_port: u32,
    /// Address from which it came.
    pub seen: Address,
    /// Packets opened and delivered.
    pub packets: u64,
    /// Their inner bytes.
    pub bytes: u64,
    /// What was not delivered.
    pub drops: Drops,
    /// Numbers received.
    pub window: Window,
}

/// Map `PEERS`, by slot: where packets of a pair go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Our outer address.
    pub local: Address,
    /// The peer's.
    pub remote: Address,
    /// UDP ports in network byte order; 0 without encapsulation.
    pub local_port: u16,
    /// The peer's.
    pub remote_port: u16,
    /// `Peer::…`
    pub flags: u32,
}

impl Peer {
    /// The outer addresses are IPv6.
    pub const IPV6: u32 = 1;
    /// ESP in UDP.
    pub const UDP: u32 = 2;
    /// Set DF outside.
    pub const DF: u32 = 4;
    /// Copy the DSCP outward.
    pub const DSCP: u32 = 8;
}

/// One traffic selector.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// First address, as [`State::source`](super::State::source).
    pub first: [u64; 2],
    /// Last address.
    pub last: [u64; 2],
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// Upper-layer protocol; 0 for any.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// 1 for any port, also where a packet shows none.
    pub any_port: u8,
    /// Always 0.
    pub reserved: u8,
}

impl Selector {
    /// Of these addresses and ports, first and last; all ports are any port. `protocol`: 0 for any.
    pub const fn new(addresses: (IpAddr, IpAddr), ports: (u16, u16), protocol: u8) -> Selector {
        let (first, last) = addresses;
        Selector {
            first: halves(first),
            last: halves(last),
            first_port: ports.0,
            last_port: ports.1,
            protocol,
            family: if first.is_ipv4() { 4 } else { 6 },
            any_port: (ports.0 == 0 && ports.1 == u16::MAX) as u8,
            reserved: 0,
        }
    }
}

/// An address as the programs compare it; IPv4 is mapped into IPv6.
const fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// Map `SELECTORS`, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selectors {
    /// Our side.
    pub local: [Selector; MAX_SELECTORS],
    /// The peer's.
    pub remote: [Selector; MAX_SELECTORS],
    /// How many there are of ours.
    pub locals: u32,
    /// And of the peer's.
    pub remotes: u32,
}

/// Map `TUNNELS`, by the index of the tunnel's interface and by that of its back, if it has one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Slots of the outbound SAs in use, the newest first.
    pub slots: [u32; MAX_ACTIVE],
    /// How many.
    pub active: u32,
    /// Index of the interface.
    pub interface: u32,
    /// Index of its back; 0 for a TUN device, whose other packets are another engine's.
    pub back: u32,
    /// Largest inner packet in bytes.
    pub mtu: u32,
    /// The interface's address on its link.
    pub mac: [u8; 6],
    /// Not 0: opened packets may go straight to a device of `LANS`.
    pub direct: u16,
    /// Of a TUN device: the DSCPs, a bit each, whose packets are this engine's whatever their length.
    pub dscp: u64,
    /// Of a TUN device: the longest packet in bytes that is this engine's whatever its DSCP.
    pub longest: u32,
    /// Always 0.
    pub reserved: u32,
}

impl Tunnel {
    /// The tunnel has two engines.
    pub const fn is_split(&self) -> bool {
        self.back == 0
    }
}

/// Map `DEVICES`, by the index of the device.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its address on its link: what is for others there is not ours.
    pub mac: [u8; 6],
    /// `Device::…`
    pub flags: u16,
}

impl Device {
    /// Of the LAN: opened packets may go out there past the stack.
    pub const LAN: u16 = 1;
    /// The programs under XDP take the packets that come in there.
    pub const EARLY: u16 = 2;
    /// Its driver sends what XDP redirects to it (ndo_xdp_xmit).
    pub const FRAMES: u16 = 4;

    /// Whether it is all of that.
    #[inline(always)]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

/// Map `TUNNEL_DROPS`, by the index of the tunnel's interface: what met no SA.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TunnelDrops {
    /// Packets by reason.
    pub drops: Drops,
}

/// A dropped packet, in the ring `SAMPLES`, out of what the state said of it. What was not found out yet is an older packet's: see
/// [`EspSample::knows_inner`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspSample {
    /// When: nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// Inner source and destination, as [`State::source`](super::State::source).
    pub source: [u64; 2],
    /// The other.
    pub destination: [u64; 2],
    /// Of a packet that came: from where.
    pub outer_source: Address,
    /// To where.
    pub outer_destination: Address,
    /// Why, and on which way: [`sample_kind`].
    pub kind: u32,
    /// Index of the tunnel's interface.
    pub interface: u32,
    /// Of a packet that came: its SPI as on the wire.
    pub spi: u32,
    /// The low 32 bits of its sequence number.
    pub sequence: u32,
    /// Bytes from its SPI to the end of the check value.
    pub esp_len: u32,
    /// Bytes of the inner packet.
    pub inner_len: u32,
    /// UDP port that it came from, in network byte order; 0 without UDP.
    pub outer_port: u32,
    /// Upper-layer protocol of the inner packet.
    pub protocol: u32,
}

/// Kinds of samples: each reason on either way.
pub const SAMPLE_KINDS: u32 = 2 * reason::COUNT as u32;

/// [`EspSample::kind`] of a packet dropped on its way to the peer, or from there.
#[inline(always)]
pub const fn sample_kind(reason: reason::Reason, outward: bool) -> u32 {
    2 * reason as u32 + outward as u32
}

impl EspSample {
    /// Whether it was on its way to the peer.
    pub const fn is_outward(&self) -> bool {
        self.kind % 2 == 1
    }

    /// Whether the inner packet had been looked at, and was ours or authentic.
    pub fn knows_inner(&self) -> bool {
        use reason::Reason;
        let is = |reason: Reason| self.kind / 2 == reason as u32;
        if self.is_outward() {
            !(is(Reason::TooBig) || is(Reason::BadOffload) || is(Reason::InnerMalformed))
        } else {
            is(Reason::Selector) || is(Reason::Ecn) || is(Reason::TunDown)
        }
    }
}

// SAFETY: repr(C), made of integers, no padding (asserted below).
unsafe impl Plain for EspSample {}
// SAFETY: as above.
unsafe impl Plain for Key {}
// SAFETY: as above.
unsafe impl Plain for Outbound {}
// SAFETY: as above.
unsafe impl Plain for Inbound {}
// SAFETY: as above.
unsafe impl Plain for Peer {}
// SAFETY: as above.
unsafe impl Plain for Selectors {}
// SAFETY: as above.
unsafe impl Plain for Tunnel {}
// SAFETY: as above.
unsafe impl Plain for TunnelDrops {}
// SAFETY: as above.
unsafe impl Plain for Device {}

const _: () = {
    assert!(size_of::<EspSample>() == 8 + 32 + 32 + 32);
    assert!(size_of::<Key>() == 40);
    assert!(size_of::<Outbound>() == 40 + 8 * reason::COUNT);
    assert!(offset_of!(Outbound, drops) == 40);
    assert!(size_of::<Inbound>() == 48 + 8 * reason::COUNT + size_of::<Window>());
    assert!(offset_of!(Inbound, packets) == 32);
    assert!(size_of::<Peer>() == 40);
    assert!(size_of::<Selector>() == 40);
    assert!(size_of::<Selectors>() == 2 * 40 * MAX_SELECTORS + 8);
    assert!(size_of::<Tunnel>() == 4 * MAX_ACTIVE + 40);
    assert!(size_of::<Device>() == 8);
};
