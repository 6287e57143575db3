//! Why the engine `bpf` dropped a packet; the names are those of the other engines.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why; the discriminant is the index into a [`Drops`](super::layout::Drops).
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        /// As shown to people, in the order of the discriminants.
        pub const NAMES: &[&str] = &[$($name,)*];
    };
}

reasons! {
    /// The tunnel is down.
    NoOutboundSa = "no-outbound-sa",
    /// To a multicast group of the link alone.
    LinkLocal = "link-local",
    /// The inner packet's headers make no sense.
    InnerMalformed = "inner-malformed",
    /// A super-packet where none can be.
    BadOffload = "bad-offload",
    /// No selector takes the packet.
    Selector = "selector-mismatch",
    /// Larger than this engine carries.
    TooBig = "too-big",
    /// The SA has sent all it may.
    Exhausted = "sa-exhausted",
    /// Larger than the WAN path's MTU.
    WanTooBig = "wan-too-big",
    /// No route to the peer.
    WanUnreachable = "wan-unreachable",
    /// The kernel has no room for the packet.
    WanError = "wan-error",
    /// Shorter than any packet of the SA.
    EspShort = "esp-short",
    /// Not a whole number of words.
    EspMisaligned = "esp-misaligned",
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
    /// Congestion was marked on a transport that cannot hear of it (RFC 6040 4.2).
    Ecn = "ecn-drop",
    /// The tunnel's interface is gone.
    TunDown = "tun-down",
    /// The SA is being installed or removed.
    NotReady = "not-ready",
}

/// How many there are.
pub const COUNT: usize = NAMES.len();
