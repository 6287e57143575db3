//! Vendor ids: what a peer of IKEv1 says that it can beyond the RFCs of 1998.

use crate::PeerConfig;
use crate::exchange::Fragmentation;
use crate::wire::v1::{Body, Chain, Payload};

const DPD: [u8; 16] = *b"\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57\x01\x00";
const NATT_RFC: [u8; 16] = *b"\x4a\x13\x1c\x81\x07\x03\x58\x45\x5c\x57\x28\xf2\x0e\x95\x45\x2f";
const NATT_03: [u8; 16] = *b"\x7d\x94\x19\xa6\x53\x10\xca\x6f\x2c\x17\x9d\x92\x15\x52\x9d\x56";
/// The hash of the draft's name with a line feed at its end, as most devices send it, and without.
const NATT_02_LF: [u8; 16] = *b"\x90\xcb\x80\x91\x3e\xbb\x69\x6e\x08\x63\x81\xb5\xec\x42\x7b\x1f";
const NATT_02: [u8; 16] = *b"\xcd\x60\x46\x43\x35\xdf\x21\xf8\x7c\xfd\xb2\xfc\x68\xb6\xa4\x48";
const XAUTH: [u8; 8] = *b"\x09\x00\x26\x89\xdf\xd6\xb7\x12";
/// MD5 of "FRAGMENTATION"; four bytes of capabilities follow.
const FRAGMENTATION: [u8; 16] = *b"\x40\x48\xb7\xd5\x6e\xbc\xe8\x85\x25\xe7\xde\x7f\x00\xd6\xc2\xd3";
/// Fragments in main mode.
const FRAGMENTATION_MAIN: [u8; 4] = [0x80, 0, 0, 0];

/// Which NAT traversal a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Natt {
    /// draft-ietf-ipsec-nat-t-ike-02 or 03: numbers from the private ranges.
    Draft,
    /// RFC 3947.
    Rfc,
}

/// What a peer can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Vendor {
    /// The best that it names.
    pub(crate) natt: Option<Natt>,
    pub(crate) dpd: bool,
    pub(crate) xauth: bool,
    pub(crate) fragmentation: bool,
}

impl Vendor {
    /// With fragments as a tunnel has them: never, where the peer takes them, or always.
    pub(crate) fn fragmented(self, config: &PeerConfig) -> Self {
        let fragmentation = match config.exchange.fragmentation {
            Fragmentation::Yes => self.fragmentation,
            Fragmentation::No => false,
            Fragmentation::Force => true,
        };
        Self { fragmentation, ..self }
    }
}

/// Whether a tunnel takes fragments.
pub(crate) fn takes_fragments(config: &PeerConfig) -> bool {
    config.exchange.fragmentation != Fragmentation::No
}

/// Reads a message's vendor ids.
pub(crate) fn read(body: &Body<'_>) -> Vendor {
    let mut all = Vendor::default();
    for id in body.vendors() {
        match id {
            _ if id == NATT_RFC => all.natt = all.natt.max(Some(Natt::Rfc)),
            _ if [NATT_03, NATT_02_LF, NATT_02].iter().any(|v| id == v) => {
                all.natt = all.natt.max(Some(Natt::Draft));
            }
            // RFC 3706 5.1: the last two bytes are a version.
            _ if id.get(..14) == DPD.get(..14) => all.dpd = true,
            _ if id == XAUTH => all.xauth = true,
            _ if id.starts_with(&FRAGMENTATION) => all.fragmentation = true,
            _ => {}
        }
    }
    all
}

/// Says what we can, best first: to a peer that has said nothing yet.
pub(crate) fn announce(chain: &mut Chain, xauth: bool, fragmentation: bool) {
    if xauth {
        chain.push(&Payload::Vendor(&XAUTH));
    }
    chain.push(&Payload::Vendor(&DPD));
    if fragmentation {
        chain.push(&Payload::Vendor(&[&FRAGMENTATION[..], &FRAGMENTATION_MAIN].concat()));
    }
    for id in [&NATT_RFC, &NATT_03, &NATT_02_LF, &NATT_02] {
        chain.push(&Payload::Vendor(id));
    }
}

/// Says what we can of what the peer can, so that an answer is never larger than what it answers.
pub(crate) fn answer(chain: &mut Chain, theirs: &Body<'_>, xauth: bool, fragmentation: bool) {
    let vendor = read(theirs);
    if vendor.xauth && xauth {
        chain.push(&Payload::Vendor(&XAUTH));
    }
    if vendor.dpd {
        chain.push(&Payload::Vendor(&DPD));
    }
    if vendor.fragmentation && fragmentation {
        chain.push(&Payload::Vendor(&[&FRAGMENTATION[..], &FRAGMENTATION_MAIN].concat()));
    }
    // RFC 3947 3.1, and the drafts: the one that is spoken from now on.
    let natt = [NATT_RFC, NATT_03, NATT_02_LF, NATT_02];
    if let Some(best) = natt.iter().find(|id| theirs.vendors().any(|v| v == *id)) {
        chain.push(&Payload::Vendor(best));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_read_and_answered_in_fewer_bytes() {
        let mut chain = Chain::new();
        announce(&mut chain, true, true);
        let body = Body::parse(chain.first(), chain.bytes(), false).unwrap();
        let all = Vendor { natt: Some(Natt::Rfc), dpd: true, xauth: true, fragmentation: true };
        assert_eq!(read(&body), all);
        let mut back = Chain::new();
        answer(&mut back, &body, true, true);
        assert!(back.bytes().len() < chain.bytes().len());
        let back = Body::parse(back.first(), back.bytes(), false).unwrap();
        assert_eq!((read(&back), back.vendors().count()), (all, 4));
    }

    #[test]
    fn old_drafts_are_spoken_too() {
        for id in [NATT_03, NATT_02, NATT_02_LF] {
            let mut chain = Chain::new();
            chain.push(&Payload::Vendor(&id));
            let body = Body::parse(chain.first(), chain.bytes(), false).unwrap();
            assert_eq!(read(&body), Vendor { natt: Some(Natt::Draft), ..Vendor::default() });
            let mut back = Chain::new();
            answer(&mut back, &body, true, true);
            assert_eq!(back.bytes(), chain.bytes());
        }
    }
}
