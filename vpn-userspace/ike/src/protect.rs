//! The SK payload: encryption and authentication of messages (RFC 7296 3.14, RFC 5282).

use std::sync::Arc;

use culvert_crypto::{Associated, PacketCipher, Suite};

use crate::auth::int_auth::Chunks;
use crate::fragment::{Assembly, Place, SKF_HEADER, Sealed};
use crate::keymat::IkeKeys;
use crate::tap::{IkeSecrets, Tap};
use crate::window::Fingerprint;
use crate::wire::{Body, Chain, HEADER_LEN, Header, WireError, describe, kind};

/// The keys of one IKE SA at work, one cipher for each direction.
pub(crate) struct Protection {
    suite: Suite,
    initiator: bool,
    send: PacketCipher,
    receive: PacketCipher,
    /// Messages sealed so far: each has an IV of its own, a retransmission is the same bytes.
    sealed: u64,
    /// The peer takes fragments, and a datagram may be as large as this.
    limit: Option<usize>,
    /// Fragments of a request and of an answer of the peer.
    assemblies: [Option<Box<Assembly>>; 2],
    tap: Option<Arc<Tap>>,
}

/// Header of the SK payload.
const SK_HEADER: usize = 4;

/// A message that was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the message is not protected")]
    NotProtected,
    #[error("the message does not authenticate")]
    NotAuthentic,
    #[error("fragment {} of {}", .0.number, .0.total)]
    Incomplete(Place),
    #[error("fragment {} of {} again, or of another cut", .0.number, .0.total)]
    Unwanted(Place),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What stood in an SK payload: the type of the first payload and the chain.
pub(crate) struct Opened {
    first: u8,
    text: Vec<u8>,
    fingerprint: Fingerprint,
    /// The IKE header of its datagram, or of its last fragment, and the flags of the SK payload.
    head: ([u8; HEADER_LEN], u8),
}

impl Opened {
    /// What AUTH signs of it, if it is an IKE_INTERMEDIATE message.
    pub(crate) fn chunks(&self) -> Chunks {
        Chunks::new(&self.head.0, self.first, self.head.1, &self.text)
    }

    /// Tells the message from every other: of its datagram, or of its first fragment.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn body(&self) -> Result<crate::wire::Body<'_>, WireError> {
        crate::wire::Body::parse(self.first, &self.text)
    }
}

impl Protection {
    /// `initiator`: whether we are the original initiator of this IKE SA.
    pub(crate) fn new(suite: Suite, keys: &IkeKeys, initiator: bool) -> Self {
        let (ours, theirs) =
            if initiator { (&keys.initiator, &keys.responder) } else { (&keys.responder, &keys.initiator) };
        let cipher = |keys| PacketCipher::new(suite, keys).expect("derived keys have the suite's lengths");
        Self {
            suite,
            initiator,
            send: cipher(ours),
            receive: cipher(theirs),
            sealed: 0,
            limit: None,
            assemblies: [None, None],
            tap: None,
        }
    }

    /// The same with the keys after another key exchange; what is agreed on fragments stays.
    pub(crate) fn renewed(&self, suite: Suite, keys: &IkeKeys) -> Self {
        Self { limit: self.limit, ..Self::new(suite, keys, self.initiator) }
    }

    /// Has larger messages than this many bytes go in fragments from now on; `None`: never.
    pub(crate) fn fragment(&mut self, limit: Option<usize>) {
        self.limit = limit;
    }

    /// What was set so.
    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// What is sealed and opened from now on, and the keys, pass this tap.
    pub(crate) fn tapped(mut self, tap: &Arc<Tap>, spis: (u64, u64), keys: &IkeKeys) -> Self {
        let (initiator, responder) = (keys.initiator.clone(), keys.responder.clone());
        tap.secrets(|| IkeSecrets { spi_i: spis.0, spi_r: spis.1, suite: self.suite, initiator, responder });
        self.tap = Some(Arc::clone(tap));
        self
    }

    fn note(&self, sent: bool, header: &Header, first: u8, text: &[u8]) {
        if let Some(tap) = &self.tap {
            tap.message(sent, || match Body::parse(first, text) {
                Ok(body) => describe::message(header, Ok(&body)),
                Err(error) => describe::message(header, Err(error)),
            });
        }
    }

    /// A message with these payloads: in an SK payload, or cut into as many SKF payloads as it takes.
    pub(crate) fn seal(&mut self, header: &Header, chain: &Chain) -> Sealed {
        self.note(true, header, chain.first(), chain.bytes());
        let whole = HEADER_LEN + SK_HEADER + self.overhead(chain.bytes().len()) + chain.bytes().len();
        let Some(limit) = self.limit.filter(|limit| whole > *limit) else {
            return Sealed::from(self.seal_part(header, chain.first(), chain.bytes(), None));
        };
        let suite = self.suite;
        let fixed = HEADER_LEN + SKF_HEADER + suite.iv_len() + suite.icv_len();
        let block = suite.encryption().block_len();
        // A pad length byte ends each fragment; there is room for one block at least.
        let room = (limit.saturating_sub(fixed) / block * block).max(block.max(16)) - 1;
        let parts = chain.bytes().chunks(room);
        let total = u16::try_from(parts.len()).expect("our own messages are below 64 KiB");
        let sealed: Vec<_> = (1..=total)
            .zip(parts)
            .map(|(number, part)| {
                // RFC 7383 2.5: the first fragment names the type of the first payload, the others none.
                let first = if number == 1 { chain.first() } else { kind::NONE };
                self.seal_part(header, first, part, Some(Place { number, total }))
            })
            .collect();
        Sealed::from(sealed)
    }

    /// What AUTH signs of an IKE_INTERMEDIATE message of ours.
    pub(crate) fn chunks(header: &Header, chain: &Chain) -> Chunks {
        Chunks::new(&header.encode(0), chain.first(), 0, chain.bytes())
    }

    /// A message with any text where its payloads should be.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn seal_raw(&mut self, header: &Header, first: u8, text: &[u8]) -> Vec<u8> {
        self.seal_part(header, first, text, None)
    }

    /// IV, padding, pad length byte and check value around a text.
    fn overhead(&self, text: usize) -> usize {
        let block = self.suite.encryption().block_len();
        self.suite.iv_len() + (text + 1).next_multiple_of(block) - text + self.suite.icv_len()
    }

    fn seal_part(&mut self, header: &Header, first: u8, part: &[u8], place: Option<Place>) -> Vec<u8> {
        let suite = self.suite;
        let (iv_len, icv_len, block) = (suite.iv_len(), suite.icv_len(), suite.encryption().block_len());
        // Payloads, padding, and the pad length byte: a multiple of the block (RFC 7296 3.14).
        let text_len = (part.len() + 1).next_multiple_of(block);
        let pad = text_len - part.len() - 1;
        let (next, head_len) = match place {
            None => (kind::SK, HEADER_LEN + SK_HEADER),
            Some(_) => (kind::SKF, HEADER_LEN + SKF_HEADER),
        };
        let length = head_len + iv_len + text_len + icv_len;
        let sk_len = u16::try_from(length - HEADER_LEN).expect("our own messages are below 64 KiB");

        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&Header { next, ..*header }.encode(length));
        out.extend_from_slice(&[first, 0]);
        out.extend_from_slice(&sk_len.to_be_bytes());
        if let Some(Place { number, total }) = place {
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&total.to_be_bytes());
        }
        out.resize(out.len() + iv_len, 0);
        out.extend_from_slice(part);
        out.resize(out.len() + pad, 0);
        out.push(u8::try_from(pad).expect("padding is shorter than a block"));
        out.resize(length, 0);

        self.sealed += 1;
        let (head, rest) = out.split_at_mut(head_len);
        let (iv, rest) = rest.split_at_mut(iv_len);
        let (text, icv) = rest.split_at_mut(text_len);
        let sealed = self.send.write_iv(self.sealed, iv);
        let sealed = sealed.and_then(|()| self.send.seal(Associated::new(head), iv, text, icv));
        sealed.expect("the lengths are the suite's");
        out
    }

    /// Checks and decrypts a message. A fragment is kept until the others are there: [`OpenError::Incomplete`]. To be
    /// called only with message ids that are waited for.
    pub(crate) fn open(&mut self, datagram: &[u8]) -> Result<Opened, OpenError> {
        let header = Header::parse(datagram)?;
        let opened = self.open_message(&header, datagram)?;
        self.note(false, &header, opened.first, &opened.text);
        Ok(opened)
    }

    fn open_message(&mut self, header: &Header, datagram: &[u8]) -> Result<Opened, OpenError> {
        let fingerprint = Fingerprint::of(datagram);
        let cut = || OpenError::Wire(WireError::Truncated("SK payload"));
        let head =
            datagram.first_chunk().copied().zip(datagram.get(HEADER_LEN + 1).copied()).ok_or_else(cut)?;
        // RFC 7296 3.14: the SK payload is the last one; nobody puts others before it.
        if header.next == kind::SK {
            let (first, text) = self.open_part(datagram, SK_HEADER)?;
            // RFC 7383 2.6: what came in fragments is void.
            self.drop_fragments(header.flags.response);
            return Ok(Opened { first, text, fingerprint, head });
        }
        let slot = usize::from(header.flags.response);
        // Fragments are for who agreed on them (RFC 7383 2.3).
        if header.next != kind::SKF || self.limit.is_none() {
            return Err(OpenError::NotProtected);
        }
        let place = Place::read(datagram)?;
        let so_far = self.assemblies.get(slot).and_then(Option::as_deref);
        if !Assembly::wants(so_far, header.message_id, place) {
            return Err(OpenError::Unwanted(place));
        }
        let part = self.open_part(datagram, SKF_HEADER)?;
        let Some(slot) = self.assemblies.get_mut(slot) else { return Err(OpenError::NotProtected) };
        match Assembly::add(slot, header.message_id, place, part, fingerprint)? {
            Some(whole) => {
                Ok(Opened { first: whole.first, text: whole.text, fingerprint: whole.fingerprint, head })
            }
            None => Err(OpenError::Incomplete(place)),
        }
    }

    /// Whether a datagram, not necessarily the next one, is authentic; a fragment must be the first of its message.
    /// What was kept of others stays.
    pub(crate) fn is_authentic(&self, datagram: &[u8]) -> bool {
        let Ok(header) = Header::parse(datagram) else { return false };
        match header.next {
            kind::SK => self.open_part(datagram, SK_HEADER).is_ok(),
            kind::SKF if self.limit.is_some() => {
                Place::read(datagram).is_ok_and(Place::is_first)
                    && self.open_part(datagram, SKF_HEADER).is_ok()
            }
            _ => false,
        }
    }

    fn drop_fragments(&mut self, response: bool) {
        if let Some(slot) = self.assemblies.get_mut(usize::from(response)) {
            *slot = None;
        }
    }

    /// Checks and decrypts one SK or SKF payload: the type of the first payload in it, and the text.
    fn open_part(&self, datagram: &[u8], payload_header: usize) -> Result<(u8, Vec<u8>), OpenError> {
        let cut = || OpenError::Wire(WireError::Truncated("SK payload"));
        let (head, rest) = datagram.split_at_checked(HEADER_LEN + payload_header).ok_or_else(cut)?;
        let Some(&[first, _, high, low]) = head.get(HEADER_LEN..HEADER_LEN + 4) else { return Err(cut()) };
        if usize::from(u16::from_be_bytes([high, low])) != datagram.len() - HEADER_LEN {
            return Err(WireError::Length("SK payload").into());
        }
        let (iv, rest) = rest.split_at_checked(self.suite.iv_len()).ok_or_else(cut)?;
        let text_len = rest.len().checked_sub(self.suite.icv_len()).ok_or_else(cut)?;
        let (text, icv) = rest.split_at_checked(text_len).ok_or_else(cut)?;
        let mut text = text.to_vec();
        let opened = self.receive.open(Associated::new(head), iv, &mut text, icv);
        opened.map_err(|_| OpenError::NotAuthentic)?;
        let pad = usize::from(text.pop().ok_or_else(cut)?);
        let length = text.len().checked_sub(pad).ok_or(WireError::Length("SK payload's padding"))?;
        text.truncate(length);
        Ok((first, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IkeSuite;
    use crate::keymat::{Nonces, first_seed};
    use crate::wire::{Exchange, Flags, Notify, Payload, notify};
    use culvert_crypto::{DhGroup, Prf, Secret};

    fn sides(protection: Suite) -> (Protection, Protection) {
        let suite = IkeSuite {
            protection,
            prf: Prf::HmacSha256,
            group: DhGroup::Ecp256,
            additional: Default::default(),
        };
        let nonces = Nonces { initiator: &[1; 32], responder: &[2; 32] };
        let seed = first_seed(suite.prf, nonces, &Secret::from(&[3; 32][..]));
        let keys = IkeKeys::derive(&suite, &seed, nonces, 4, 5);
        (Protection::new(protection, &keys, true), Protection::new(protection, &keys, false))
    }

    fn one(sealed: &Sealed) -> Vec<u8> {
        let all: Vec<_> = sealed.datagrams().cloned().collect();
        assert_eq!(all.len(), 1);
        all.concat()
    }

    fn header() -> Header {
        let flags = Flags { initiator: true, response: false };
        Header { spi_i: 4, spi_r: 5, next: 0, exchange: Exchange::Informational, flags, message_id: 7 }
    }

    #[test]
    fn every_suite_seals_what_the_other_side_opens() {
        for suite in Suite::all().filter(|s| s.serves_ike()) {
            let (mut i, mut r) = sides(suite);
            for len in 0..40 {
                let data = vec![0xab; len];
                let mut chain = Chain::new();
                chain.push(&Payload::Notify(Notify::new(notify::COOKIE, &data)));
                let message = one(&i.seal(&header(), &chain));
                let opened = r.open(&message).unwrap();
                assert_eq!(opened.body().unwrap().notify(notify::COOKIE).unwrap().data, data);
                assert_eq!(i.open(&message).err(), Some(OpenError::NotAuthentic), "a reflection is refused");
            }
            let empty = one(&i.seal(&header(), &Chain::new()));
            assert!(r.open(&empty).unwrap().body().unwrap().error().is_none());
        }
    }

    #[test]
    fn every_bit_and_length_counts() {
        for suite in Suite::all().filter(|s| s.serves_ike()) {
            let (mut i, mut r) = sides(suite);
            let mut chain = Chain::new();
            chain.push(&Payload::Nonce(&[1; 16]));
            let message = one(&i.seal(&header(), &chain));
            for at in 0..message.len() {
                let mut bad = message.clone();
                bad[at] ^= 1;
                assert!(r.open(&bad).is_err(), "{suite} byte {at}");
                assert!(r.open(&message[..at]).is_err());
            }
            // Consistent lengths over a cut text.
            for cut in HEADER_LEN..message.len() {
                let mut bad = message[..cut].to_vec();
                bad[24..28].copy_from_slice(&u32::try_from(cut).unwrap().to_be_bytes());
                if let Some(length) = bad.get_mut(HEADER_LEN + 2..HEADER_LEN + 4) {
                    length.copy_from_slice(&u16::try_from(cut - HEADER_LEN).unwrap().to_be_bytes());
                }
                assert!(r.open(&bad).is_err());
            }
        }
    }

    #[test]
    fn no_iv_serves_twice() {
        for suite in Suite::all().filter(|s| s.serves_ike()) {
            let (mut i, _) = sides(suite);
            let mut ivs = std::collections::HashSet::new();
            for _ in 0..100 {
                let message = one(&i.seal(&header(), &Chain::new()));
                assert!(ivs.insert(message[32..32 + suite.iv_len()].to_vec()));
            }
        }
    }

    #[test]
    fn fragments_fit_and_come_together() {
        for suite in Suite::all().filter(|s| s.serves_ike()) {
            let (mut i, mut r) = sides(suite);
            for limit in [150, 300, 544, 1232] {
                i.fragment(Some(limit));
                r.fragment(Some(limit));
                for len in [0, 1, limit - 60, limit, 3 * limit, 3000] {
                    let data = vec![0xcd; len];
                    let mut chain = Chain::new();
                    chain.push(&Payload::Notify(Notify::new(notify::COOKIE, &data)));
                    let sealed = i.seal(&header(), &chain);
                    let all: Vec<_> = sealed.datagrams().cloned().collect();
                    assert!(all.iter().all(|d| d.len() <= limit), "{suite} {limit} {len}");
                    let (last, before) = all.split_last().unwrap();
                    for datagram in before.iter().rev() {
                        assert!(matches!(r.open(datagram), Err(OpenError::Incomplete(_))));
                        assert!(matches!(r.open(datagram), Err(OpenError::Unwanted(_))));
                    }
                    let opened = r.open(last).unwrap();
                    assert_eq!(opened.body().unwrap().notify(notify::COOKIE).unwrap().data, data);
                    assert!(r.is_authentic(&all[0]) && all[1..].iter().all(|d| !r.is_authentic(d)));
                }
            }
        }
    }

    #[test]
    fn every_bit_of_a_fragment_counts_and_none_is_taken_unasked() {
        for suite in Suite::all().filter(|s| s.serves_ike()) {
            let (mut i, mut r) = sides(suite);
            i.fragment(Some(200));
            let mut chain = Chain::new();
            chain.push(&Payload::Nonce(&[1; 250]));
            let all: Vec<_> = i.seal(&header(), &chain).datagrams().cloned().collect();
            assert_eq!(r.open(&all[0]).err(), Some(OpenError::NotProtected), "it was not agreed on");
            r.fragment(Some(200));
            for datagram in &all {
                for at in 0..datagram.len() {
                    let mut bad = datagram.clone();
                    bad[at] ^= 1;
                    assert!(!matches!(r.open(&bad), Ok(_) | Err(OpenError::Incomplete(_))), "{suite} {at}");
                }
            }
            assert!(r.assemblies.iter().all(Option::is_none), "what does not authenticate leaves nothing");
        }
    }
}
