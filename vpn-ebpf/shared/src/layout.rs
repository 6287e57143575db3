//! Keys and values of the maps: repr(C), without padding, with their sizes and offsets asserted on both sides.
use crate::address::Address;
use crate::limit::Rate;
use crate::reason::Reason;
use core::mem::{offset_of, size_of};

/// Types that a map may hold.
///
/// # Safety
///
/// The type is `repr(C)`, `Copy`, has no padding (the kernel copies all of its bytes), and every pattern of bits is a
/// value of it (the kernel writes what it likes).
pub unsafe trait Plain: Copy + 'static {}

/// SAs that fit into the guard at once; each tunnel has two or three during a rekey.
pub const MAX_SAS: u32 = 16_384;
/// Addresses of the gateway itself.
pub const MAX_LOCALS: u32 = 1_024;
/// Peers that have authenticated.
pub const MAX_PROVEN: u32 = 16_384;
/// Unproven sources whose rate is remembered; the one longest silent is forgotten first.
pub const MAX_SOURCES: u32 = 65_536;

/// [`Config::mode`]: nothing is judged.
pub const MODE_OFF: u32 = 0;
/// [`Config::mode`]: packets are judged and dropped.
pub const MODE_ON: u32 = 1;
/// [`Config::mode`]: packets are judged and counted, and all of them pass.
pub const MODE_LEARN: u32 = 2;

/// Map `CONFIG`, entry 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// IKE from one unproven source.
    pub ike_source: Rate,
    /// IKE from all unproven sources.
    pub ike_ceiling: Rate,
    /// `MODE_…`
    pub mode: u32,
    /// The number of this second, while somebody looks at what is dropped; 0: nobody does.
    pub epoch: u32,
}

/// Map `SAS`, by [`SaKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sa {
    /// The peer's outer address; unspecified with [`Sa::ANY_REMOTE`].
    pub remote: Address,
    /// Our outer address.
    pub local: Address,
    /// Lowest sequence number that the replay window still takes; 0: not known.
    pub floor: u64,
    /// Index into `SA_COUNTERS`.
    pub slot: u32,
    /// Length of the SA's shortest packet, from the SPI to the ICV.
    pub min_len: u16,
    /// A packet is longer than the shortest by a multiple of this plus 1 (a power of two minus 1).
    pub align_mask: u8,
    /// `Sa::…` flags.
    pub flags: u8,
    /// Where its valid packets go: `Sa::PATH_…`.
    pub path: u32,
    /// Which of the workers behind the path owns the SA.
    pub worker: u32,
}

impl Sa {
    /// Extended sequence numbers.
    pub const ESN: u8 = 1;
    /// The peer may send from anywhere (behind a NAT that may rebind).
    pub const ANY_REMOTE: u8 = 2;

    /// [`Sa::path`]: on to the kernel's stack.
    pub const PATH_STACK: u32 = 0;
    /// [`Sa::path`]: to the AF_XDP socket of its worker at the queue where the packet arrived; without one, to the stack.
    pub const PATH_XSK: u32 = 1;
    /// [`Sa::path`]: to ESP in eBPF.
    pub const PATH_BPF: u32 = 2;
    /// [`Sa::path`]: to the kernel's stack on the CPU with the number that stands in [`Sa::worker`].
    pub const PATH_CPU: u32 = 3;
}

/// Key of `SAS`: the SPI as it is on the wire (network byte order). The gateway chooses its inbound SPIs itself, so
/// the SPI alone is unique (RFC 4301 4.1, unicast); destination and source are checked against the entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SaKey(pub u32);

/// Maps `COUNTERS` (by [`counter_index`]) and `SA_COUNTERS` (by [`Sa::slot`]), one for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; each segment of a super-packet counts.
    pub packets: u64,
    /// Bytes of outer packets, from the IP header on (SAs), or from the link header on (reasons).
    pub bytes: u64,
}

/// Map `LIMITS` (by [`Address::limited_as`]) and `CEILING` (entry 0).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// State of [`Rate::admit`].
    pub due: u64,
}

/// Values of `LOCALS` and `PROVEN`, in which the key says all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Always 1.
    pub present: u32,
}

/// Number of entries of `COUNTERS`.
pub const COUNTERS: u32 = 2 * Reason::COUNT as u32;

/// Index into `COUNTERS`: each reason has one for what was done and one for what `learn` only counted.
#[inline(always)]
pub const fn counter_index(reason: Reason, learning: bool) -> u32 {
    2 * (reason as u32) + learning as u32
}

// SAFETY: repr(C), made of integers of descending alignment, no padding (asserted below).
unsafe impl Plain for Config {}
// SAFETY: as above.
unsafe impl Plain for Sa {}
// SAFETY: as above.
unsafe impl Plain for Counter {}
// SAFETY: as above.
unsafe impl Plain for Limit {}
// SAFETY: as above.
unsafe impl Plain for Present {}
// SAFETY: one word.
unsafe impl Plain for SaKey {}
// SAFETY: four words.
unsafe impl Plain for Address {}

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<SaKey>() == 4);
    assert!(size_of::<Rate>() == 16);
    assert!(size_of::<Limit>() == 8);
    assert!(size_of::<Present>() == 4);
    assert!(size_of::<Counter>() == 16);
    assert!(offset_of!(Counter, bytes) == 8);
    assert!(size_of::<Config>() == 40);
    assert!(offset_of!(Config, ike_ceiling) == 16);
    assert!(offset_of!(Config, mode) == 32);
    assert!(offset_of!(Config, epoch) == 36);
    assert!(size_of::<Sa>() == 56);
    assert!(offset_of!(Sa, local) == 16);
    assert!(offset_of!(Sa, floor) == 32);
    assert!(offset_of!(Sa, slot) == 40);
    assert!(offset_of!(Sa, min_len) == 44);
    assert!(offset_of!(Sa, align_mask) == 46);
    assert!(offset_of!(Sa, flags) == 47);
    assert!(offset_of!(Sa, path) == 48);
    assert!(offset_of!(Sa, worker) == 52);
};
