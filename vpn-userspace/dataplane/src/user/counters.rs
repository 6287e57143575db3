//! Counters with one writer each: workers add without a lock, everyone reads.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_esp::{OpenError, SealError};

/// Adds to a counter that only this thread writes: a load and a store, no locked instruction.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            const NAMES: &[&str] = &[$($name,)*];
            /// How many there are.
            pub(crate) const COUNT: usize = Self::NAMES.len();

            /// As shown to people; stable.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    // Outbound.
    /// The tunnel is down.
    NoOutboundSa = "no-outbound-sa",
    /// To a multicast group of the link alone, which the tunnel's interface is the end of.
    LinkLocal = "link-local",
    /// The inner packet's headers make no sense.
    Malformed = "inner-malformed",
    /// The virtio-net header lies.
    BadOffload = "bad-offload",
    /// No selector takes the packet.
    Selector = "selector-mismatch",
    /// Larger than the tunnel's MTU; answered with ICMP where allowed.
    TooBig = "too-big",
    /// The SA has sent all it may.
    Exhausted = "sa-exhausted",
    /// The worker that owns the SA is behind.
    HandOverFull = "handover-full",
    /// The WAN socket stayed full.
    WanBusy = "wan-busy",
    /// The WAN interface's queue dropped it.
    WanQueueFull = "wan-queue-full",
    /// Larger than the WAN path's MTU.
    WanTooBig = "wan-too-big",
    /// No route, or no host at the next hop.
    WanUnreachable = "wan-unreachable",
    /// A packet filter on this host refused it.
    WanFirewall = "wan-firewall",
    /// The kernel refused it otherwise.
    WanError = "wan-error",
    // Inbound.
    /// Shorter than any packet of the SA.
    EspShort = "esp-short",
    /// Not aligned to the cipher's block.
    EspMisaligned = "esp-misaligned",
    /// Of an SPI that is not installed.
    UnknownSpi = "unknown-spi",
    /// Seen before.
    Duplicate = "replay-duplicate",
    /// Too old for the replay window.
    TooOld = "replay-too-old",
    /// The check value is wrong.
    NotAuthentic = "not-authentic",
    /// Wrong padding.
    BadPadding = "bad-padding",
    /// A dummy packet.
    Dummy = "dummy",
    /// Neither IPv4 nor IPv6 inside.
    NextHeader = "next-header",
    /// Congestion was marked on a packet that cannot carry the mark.
    Ecn = "ecn-drop",
    /// Longer than a receive buffer.
    Truncated = "truncated",
    /// A NAT keepalive (RFC 3948 2.3).
    Keepalive = "keepalive",
    /// More IKE messages than anyone can answer.
    IkeFlood = "ike-flood",
    /// Too short for anything.
    Runt = "runt",
    /// The tunnel's interface is down.
    TunDown = "tun-down",
    /// The kernel did not take the packet.
    TunRefused = "tun-refused",
    /// The LAN's device did not take the packet.
    LanBusy = "lan-busy",
}

impl From<OpenError> for Reason {
    fn from(error: OpenError) -> Self {
        use culvert_esp::ReplayError;
        match error {
            OpenError::TooShort => Self::EspShort,
            OpenError::Misaligned => Self::EspMisaligned,
            OpenError::WrongSpi => Self::UnknownSpi,
            OpenError::Replay(ReplayError::Duplicate) => Self::Duplicate,
            OpenError::Replay(ReplayError::TooOld) => Self::TooOld,
            OpenError::NotAuthentic => Self::NotAuthentic,
            OpenError::BadPadding => Self::BadPadding,
            OpenError::Dummy => Self::Dummy,
            OpenError::NextHeader(_) => Self::NextHeader,
            OpenError::BadInner => Self::Malformed,
        }
    }
}

impl From<SealError> for Reason {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Exhausted => Self::Exhausted,
            SealError::NoRoom { .. } => Self::Malformed,
        }
    }
}

/// Dropped packets by reason.
#[derive(Debug)]
pub(crate) struct Drops([AtomicU64; Reason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    #[inline]
    pub(crate) fn add(&self, reason: Reason, packets: u64) {
        if let Some(counter) = self.0.get(reason as usize) {
            add(counter, packets);
        }
    }

    /// Adds what occurred to a list that may hold the reasons already.
    pub(crate) fn collect(&self, into: &mut Vec<(&'static str, u64)>) {
        for (name, counter) in Reason::NAMES.iter().zip(&self.0) {
            let n = counter.load(Ordering::Relaxed);
            if n == 0 {
                continue;
            }
            match into.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += n,
                None => into.push((name, n)),
            }
        }
    }
}

/// One direction of an SA, or of a tunnel without one. Written by one worker; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Flow {
    packets: AtomicU64,
    bytes: AtomicU64,
    sequence: AtomicU64,
    floor: AtomicU64,
    pub(crate) drops: Drops,
}

impl Flow {
    /// Adds packets and their inner bytes.
    #[inline]
    pub(crate) fn add(&self, packets: u64, bytes: u64) {
        add(&self.packets, packets);
        add(&self.bytes, bytes);
    }

    /// The last or highest sequence number, and the lowest that is still accepted.
    #[inline]
    pub(crate) fn set_sequence(&self, sequence: u64, floor: u64) {
        self.sequence.store(sequence, Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }
}

/// Both directions; each half has its own writer.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) out: Flow,
    pub(crate) inn: Flow,
}

impl Counters {
    /// Drops of both directions.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        let mut all = Vec::new();
        self.out.drops.collect(&mut all);
        self.inn.drops.collect(&mut all);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_both_directions_meet_under_one_reason() {
        let counters = Counters::default();
        counters.out.drops.add(Reason::Malformed, 2);
        counters.inn.drops.add(OpenError::BadInner.into(), 3);
        counters.inn.drops.add(Reason::TunRefused, 1);
        assert_eq!(counters.drops(), [("inner-malformed", 5), ("tun-refused", 1)]);
    }

    #[test]
    fn esp_errors_keep_their_reason() {
        use culvert_esp::ReplayError;
        for error in [
            OpenError::TooShort,
            OpenError::Misaligned,
            OpenError::Replay(ReplayError::Duplicate),
            OpenError::Replay(ReplayError::TooOld),
            OpenError::NotAuthentic,
            OpenError::BadPadding,
            OpenError::Dummy,
            OpenError::NextHeader(6),
            OpenError::BadInner,
        ] {
            assert_eq!(Reason::NAMES[Reason::from(error) as usize], error.reason());
        }
    }
}
