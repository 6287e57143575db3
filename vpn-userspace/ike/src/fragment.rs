//! IKEv2 message fragmentation (RFC 7383): the SKF payload's header, how large a datagram may be, and putting messages
//! together again within bounds.

use std::net::IpAddr;
use std::sync::Arc;

use crate::window::Fingerprint;
use crate::wire::{HEADER_LEN, WireError};
use crate::{ExchangeOptions, Fragmentation};

/// Header of the SKF payload: the generic four bytes, fragment number, total fragments.
pub(crate) const SKF_HEADER: usize = 8;
/// A message in more fragments than this is refused.
const MAX_FRAGMENTS: u16 = 64;
/// A message of more bytes than this, in fragments, is refused.
const MAX_BYTES: usize = 32 * 1024;

/// A message as it goes out: one datagram, or one for each fragment. Shared, as it is kept for repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed(Arc<[Vec<u8>]>);

impl From<Vec<u8>> for Sealed {
    fn from(datagram: Vec<u8>) -> Self {
        Self(Arc::new([datagram]))
    }
}

impl From<Vec<Vec<u8>>> for Sealed {
    fn from(datagrams: Vec<Vec<u8>>) -> Self {
        Self(datagrams.into())
    }
}

impl Sealed {
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.0.iter()
    }

    /// Bytes of all datagrams.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

/// How large a datagram with an IKE message may be towards a peer: what is larger goes in fragments.
pub(crate) fn limit(options: &ExchangeOptions, remote: IpAddr) -> usize {
    // RFC 7383 2.5.1: datagrams of 1280 bytes for IPv6 and 576 for IPv4 pass everywhere.
    let (ip, default) = if remote.is_ipv4() { (20, 576) } else { (40, 1280) };
    let packet = options.fragment_size.unwrap_or(default);
    // UDP, and the marker before IKE on the port of NAT traversal.
    usize::from(packet).saturating_sub(ip + 8 + 4)
}

/// Whether both sides take fragments.
pub(crate) fn agreed(options: &ExchangeOptions, peer_says_so: bool) -> bool {
    peer_says_so && options.fragmentation != Fragmentation::No
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u16,
    pub(crate) total: u16,
}

impl Place {
    /// Reads fragment number and total from a datagram whose first payload is SKF.
    pub(crate) fn read(datagram: &[u8]) -> Result<Self, WireError> {
        let fields = datagram.get(HEADER_LEN + 4..HEADER_LEN + SKF_HEADER);
        let Some(&[a, b, c, d]) = fields else { return Err(WireError::Truncated("SKF payload")) };
        let (number, total) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        // RFC 7383 2.5: numbers start with one, none is above the total.
        if number == 0 || number > total {
            return Err(WireError::Value("fragment number"));
        }
        if total > MAX_FRAGMENTS {
            return Err(WireError::TooMany("fragments"));
        }
        Ok(Self { number, total })
    }

    pub(crate) fn is_first(self) -> bool {
        self.number == 1
    }
}

/// The fragments of one message so far, each checked and decrypted.
pub(crate) struct Assembly {
    message_id: u32,
    parts: Vec<Option<Vec<u8>>>,
    missing: u16,
    bytes: usize,
    /// Type of the first payload, from the first fragment.
    first: u8,
    fingerprint: Option<Fingerprint>,
}

/// A message whose fragments are all there.
pub(crate) struct Assembled {
    pub(crate) first: u8,
    pub(crate) text: Vec<u8>,
    /// Of its first fragment.
    pub(crate) fingerprint: Fingerprint,
}

impl Assembly {
    fn new(message_id: u32, total: u16) -> Self {
        let parts = vec![None; usize::from(total)];
        Self { message_id, parts, missing: total, bytes: 0, first: 0, fingerprint: None }
    }

    /// Whether a fragment is worth decrypting, by what has come before (RFC 7383 2.6): not one that is there, and not
    /// one of a message cut into fewer pieces.
    pub(crate) fn wants(slot: Option<&Self>, message_id: u32, place: Place) -> bool {
        let Some(one) = slot.filter(|a| a.message_id == message_id) else { return true };
        let total = usize::from(place.total);
        total > one.parts.len()
            || (total == one.parts.len()
                && one.parts.get(usize::from(place.number) - 1).is_some_and(Option::is_none))
    }

    /// Takes an authentic fragment in. The message, once it is complete; an error drops all of it.
    pub(crate) fn add(
        slot: &mut Option<Box<Self>>,
        message_id: u32,
        place: Place,
        (first, text): (u8, Vec<u8>),
        fingerprint: Fingerprint,
    ) -> Result<Option<Assembled>, WireError> {
        // RFC 7383 2.6: more pieces than before: the peer cuts it anew, what came is void.
        let total = usize::from(place.total);
        let mut one = match slot.take().filter(|a| a.message_id == message_id && a.parts.len() == total) {
            Some(one) => one,
            None => Box::new(Self::new(message_id, place.total)),
        };
        if let Some(part @ None) = one.parts.get_mut(usize::from(place.number) - 1) {
            one.bytes += text.len();
            *part = Some(text);
            one.missing -= 1;
        }
        if place.is_first() {
            one.first = first;
            one.fingerprint = Some(fingerprint);
        }
        if one.bytes > MAX_BYTES {
            return Err(WireError::TooMany("bytes in fragments"));
        }
        match one.fingerprint {
            Some(fingerprint) if one.missing == 0 => {
                let text = one.parts.into_iter().flatten().flatten().collect();
                Ok(Some(Assembled { first: one.first, text, fingerprint }))
            }
            _ => {
                *slot = Some(one);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(
        slot: &mut Option<Box<Assembly>>,
        id: u32,
        number: u16,
        total: u16,
        text: &[u8],
    ) -> Option<Vec<u8>> {
        let place = Place { number, total };
        if !Assembly::wants(slot.as_deref(), id, place) {
            return None;
        }
        let added = Assembly::add(slot, id, place, (33, text.to_vec()), Fingerprint::of(text)).unwrap();
        added.map(|a| a.text)
    }

    #[test]
    fn pieces_come_in_any_order_and_once() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
            let mut slot = None;
            for (at, number) in order.into_iter().enumerate() {
                let text = [b'0' + number as u8; 3];
                let got = add(&mut slot, 7, number, 3, &text);
                assert_eq!(got, (at == 2).then(|| b"111222333".to_vec()));
                assert_eq!(add(&mut slot, 7, number, 3, b"xxx").filter(|_| at < 2), None, "a duplicate");
            }
        }
    }

    #[test]
    fn a_new_cut_voids_the_old_one_only_if_it_is_finer() {
        let mut slot = None;
        assert_eq!(add(&mut slot, 7, 1, 3, b"a"), None);
        assert_eq!(add(&mut slot, 7, 1, 2, b"b"), None, "fewer pieces: dropped");
        assert_eq!(add(&mut slot, 7, 2, 3, b"c"), None);
        assert_eq!(add(&mut slot, 7, 1, 4, b"w"), None, "more pieces: begun anew");
        assert_eq!(add(&mut slot, 7, 3, 3, b"d"), None);
        assert_eq!(add(&mut slot, 7, 2, 4, b"x"), None);
        assert_eq!(add(&mut slot, 7, 3, 4, b"y"), None);
        assert_eq!(add(&mut slot, 7, 4, 4, b"z"), Some(b"wxyz".to_vec()));
        // Another message takes the place of an unfinished one.
        assert_eq!(add(&mut slot, 8, 1, 2, b"a"), None);
        assert_eq!(add(&mut slot, 9, 2, 2, b"b"), None);
        assert_eq!(add(&mut slot, 9, 1, 2, b"a"), Some(b"ab".to_vec()));
    }

    #[test]
    fn numbers_totals_and_sizes_are_bounded() {
        let read = |number: u16, total: u16| {
            let mut datagram = vec![0; HEADER_LEN + SKF_HEADER];
            datagram[HEADER_LEN + 4..HEADER_LEN + 6].copy_from_slice(&number.to_be_bytes());
            datagram[HEADER_LEN + 6..].copy_from_slice(&total.to_be_bytes());
            Place::read(&datagram)
        };
        for total in (0..=300).chain([u16::MAX]) {
            for number in (0..=300).chain([u16::MAX]) {
                let good = (1..=total).contains(&number) && total <= MAX_FRAGMENTS;
                assert_eq!(read(number, total).is_ok(), good, "{number}/{total}");
            }
        }
        for len in 0..HEADER_LEN + SKF_HEADER {
            assert!(Place::read(&vec![1; len]).is_err());
        }
        let mut slot = None;
        let mut grow = |number| {
            let place = Place { number, total: 64 };
            Assembly::add(&mut slot, 1, place, (33, vec![0; 9000]), Fingerprint::of(&[]))
        };
        assert!(grow(1).is_ok() && grow(2).is_ok() && grow(3).is_ok() && grow(4).is_err());
        assert!(slot.is_none(), "nothing stays");
    }
}
