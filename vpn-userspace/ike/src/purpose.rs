//! What a CHILD SA is for, where a tunnel has several with the same selectors: the first carries everything, those
//! beside it what one resource of the sender's sends (RFC 9611), or small packets.

use std::fmt;

use crate::{EspProposal, ExchangeOptions, PeerConfig};

/// What a CHILD SA is for. Both sides of an SA that this gateway made with another of its kind see the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Purpose {
    /// Whatever its selectors take: the first one, on which every packet falls back that has no other.
    #[default]
    All,
    /// What one resource, such as a worker or a CPU, sends. The number is the resource's, counted from 0; that of a peer
    /// which names its resources in a way that we do not know is the lowest that no other of its SAs has.
    Resource(u16),
    /// Small packets, on a cipher and an engine that are good at them; bulk stays on the first.
    Small,
}

impl Purpose {
    /// What SA_RESOURCE_INFO says of it (RFC 9611 5.1: opaque to others). `None` for the first.
    pub(crate) fn name(self) -> Option<Vec<u8>> {
        (self != Self::All).then(|| self.to_string().into_bytes())
    }

    /// The purpose by that name, our own notation or the four bytes of a CPU's number; `None` if it says nothing to us.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        if name == b"small" {
            return Some(Self::Small);
        }
        let number = match <[u8; 4]>::try_from(name) {
            // Letters are beyond what 16 bits hold.
            Ok(bytes) if bytes[..2] == [0, 0] => Some(u16::from_be_bytes([bytes[2], bytes[3]])),
            _ => {
                let digits = name.strip_prefix(b"cpu").and_then(|digits| std::str::from_utf8(digits).ok());
                digits.filter(|d| !d.starts_with('+')).and_then(|digits| digits.parse().ok())
            }
        };
        number.map(Self::Resource)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Resource(number) => write!(f, "cpu{number}"),
            Self::Small => f.write_str("small"),
        }
    }
}

impl PeerConfig {
    /// The proposals of a CHILD SA for a resource of this name; `None`: of the first.
    pub(crate) fn proposals_for(&self, resource: Option<&[u8]>) -> &[EspProposal] {
        match resource.and_then(Purpose::of) {
            Some(Purpose::Small) if !self.exchange.small.is_empty() => &self.exchange.small,
            _ => &self.esp_proposals,
        }
    }
}

impl ExchangeOptions {
    /// Whether a CHILD SA for it may be asked for.
    pub(crate) fn may_ask(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::All => false,
            Purpose::Resource(_) => true,
            Purpose::Small => !self.small.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_or_left_alone() {
        for purpose in [Purpose::Small, Purpose::Resource(0), Purpose::Resource(63), Purpose::Resource(65535)]
        {
            assert_eq!(Purpose::of(&purpose.name().unwrap()), Some(purpose));
        }
        assert_eq!(Purpose::All.name(), None);
        assert_eq!(Purpose::of(&[0, 0, 1, 2]), Some(Purpose::Resource(258)));
        for other in [
            &b""[..],
            b"all",
            b"cpu",
            b"cpu-1",
            b"cpu+1",
            b"cpu65536",
            b"CPU1",
            b"\0\x01\0\0",
            b"\0\0\0",
            b"qos1",
        ] {
            assert_eq!(Purpose::of(other), None, "{other:?}");
        }
    }
}
