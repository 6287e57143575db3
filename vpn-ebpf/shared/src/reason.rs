//! Why a packet was passed or dropped: one table, from which the programs count and user space reports.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// On to the kernel's stack.
    Pass,
    /// Discarded where it arrived.
    Drop,
}

impl Verdict {
    /// As shown to people and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $verdict:ident,)*) => {
        /// Why; each has its counter. The discriminant is the index into the counters.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// As shown to people and in the API; stable.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// What a guard that is on does for this reason.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Reason::$variant => Verdict::$verdict,)* }
            }
        }
    };
}

reasons! {
    /// Neither ESP nor IKE.
    Other = "other" => Pass,
    /// ESP or IKE for an address that is not one of the gateway's.
    NotLocal = "not-local" => Pass,
    /// ESP of a known SA that nothing here speaks against.
    Esp = "esp" => Pass,
    /// A fragment of an outer packet that may carry ESP or IKE: the stack reassembles it first.
    Fragment = "fragment" => Pass,
    /// More extension headers than are followed here: left to the stack.
    Odd = "odd-header" => Pass,
    /// IKE from a peer that has authenticated.
    IkeProven = "ike-proven" => Pass,
    /// IKE from somebody unknown, within the limits.
    Ike = "ike" => Pass,
    /// IKE from one unproven source beyond its rate.
    IkeSourceRate = "ike-source-rate" => Drop,
    /// IKE from unproven sources, all together beyond the ceiling.
    IkeCeiling = "ike-ceiling" => Drop,
    /// Shorter than an IKE header (RFC 7296 3.1).
    IkeShort = "ike-short" => Drop,
    /// NAT keepalive: one octet 0xFF on UDP 4500 (RFC 3948 2.3); has done its work on its way here.
    Keepalive = "nat-keepalive" => Drop,
    /// No SA has this SPI.
    UnknownSpi = "unknown-spi" => Drop,
    /// The SA's peer does not send from there.
    WrongSource = "wrong-source" => Drop,
    /// The SA is of another of the gateway's addresses.
    WrongDestination = "wrong-destination" => Drop,
    /// Shorter than the shortest packet of its SA.
    EspShort = "esp-short" => Drop,
    /// Not a whole number of the SA's blocks.
    EspMisaligned = "esp-misaligned" => Drop,
    /// Older than the SA's replay window.
    Stale = "stale" => Drop,
    /// Lengths that contradict each other, or a packet that ends before its headers do.
    Malformed = "malformed" => Drop,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Reason::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_are_indices_and_names_are_unique() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
