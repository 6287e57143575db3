//! The SK payload: encryption and authentication of messages (RFC 7296 3.14, RFC 5282).

use culvert_crypto::{Associated, PacketCipher, Suite};

use crate::keymat::IkeKeys;
use crate::wire::{Chain, HEADER_LEN, Header, WireError, kind};

/// The keys of one IKE SA at work, one cipher for each direction.
pub(crate) struct Protection {
    suite: Suite,
    send: PacketCipher,
    receive: PacketCipher,
    /// Messages sealed so far: each has an IV of its own, a retransmission is the same bytes.
    sealed: u64,
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
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What stood in an SK payload: the type of the first payload and the chain.
pub(crate) struct Opened {
    first: u8,
    text: Vec<u8>,
}

impl Opened {
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
        Self { suite, send: cipher(ours), receive: cipher(theirs), sealed: 0 }
    }

    /// A whole message with these payloads in an SK payload.
    pub(crate) fn seal(&mut self, header: &Header, chain: &Chain) -> Vec<u8> {
        let suite = self.suite;
        let (iv_len, icv_len, block) = (suite.iv_len(), suite.icv_len(), suite.encryption().block_len());
        // Payloads, padding, and the pad length byte: a multiple of the block (RFC 7296 3.14).
        let text_len = (chain.bytes().len() + 1).next_multiple_of(block);
        let pad = text_len - chain.bytes().len() - 1;
        let length = HEADER_LEN + SK_HEADER + iv_len + text_len + icv_len;
        let sk_len = u16::try_from(length - HEADER_LEN).expect("our own messages are below 64 KiB");

        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&Header { next: kind::SK, ..*header }.encode(length));
        out.extend_from_slice(&[chain.first(), 0]);
        out.extend_from_slice(&sk_len.to_be_bytes());
        out.resize(out.len() + iv_len, 0);
        out.extend_from_slice(chain.bytes());
        out.resize(out.len() + pad, 0);
        out.push(u8::try_from(pad).expect("padding is shorter than a block"));
        out.resize(length, 0);

        self.sealed += 1;
        let (head, rest) = out.split_at_mut(HEADER_LEN + SK_HEADER);
        let (iv, rest) = rest.split_at_mut(iv_len);
        let (text, icv) = rest.split_at_mut(text_len);
        let sealed = self.send.write_iv(self.sealed, iv);
        let sealed = sealed.and_then(|()| self.send.seal(Associated::new(head), iv, text, icv));
        sealed.expect("the lengths are the suite's");
        out
    }

    /// Checks and decrypts a whole message.
    pub(crate) fn open(&self, datagram: &[u8]) -> Result<Opened, OpenError> {
        let cut = || OpenError::Wire(WireError::Truncated("SK payload"));
        let header = Header::parse(datagram)?;
        // RFC 7296 3.14: the SK payload is the last one; nobody puts others before it.
        if header.next != kind::SK {
            return Err(OpenError::NotProtected);
        }
        let (head, rest) = datagram.split_at_checked(HEADER_LEN + SK_HEADER).ok_or_else(cut)?;
        let [.., first, _, high, low] = *head else { return Err(cut()) };
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
        Ok(Opened { first, text })
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
        let suite = IkeSuite { protection, prf: Prf::HmacSha256, group: DhGroup::Ecp256 };
        let nonces = Nonces { initiator: &[1; 32], responder: &[2; 32] };
        let seed = first_seed(suite.prf, nonces, &Secret::from(&[3; 32][..]));
        let keys = IkeKeys::derive(&suite, &seed, nonces, 4, 5);
        (Protection::new(protection, &keys, true), Protection::new(protection, &keys, false))
    }

    fn header() -> Header {
        let flags = Flags { initiator: true, response: false };
        Header { spi_i: 4, spi_r: 5, next: 0, exchange: Exchange::Informational, flags, message_id: 7 }
    }

    #[test]
    fn every_suite_seals_what_the_other_side_opens() {
        for suite in Suite::all() {
            let (mut i, r) = sides(suite);
            for len in 0..40 {
                let data = vec![0xab; len];
                let mut chain = Chain::new();
                chain.push(&Payload::Notify(Notify::new(notify::COOKIE, &data)));
                let message = i.seal(&header(), &chain);
                let opened = r.open(&message).unwrap();
                assert_eq!(opened.body().unwrap().notify(notify::COOKIE).unwrap().data, data);
                assert_eq!(i.open(&message).err(), Some(OpenError::NotAuthentic), "a reflection is refused");
            }
            let empty = i.seal(&header(), &Chain::new());
            assert!(r.open(&empty).unwrap().body().unwrap().error().is_none());
        }
    }

    #[test]
    fn every_bit_and_length_counts() {
        for suite in Suite::all() {
            let (mut i, r) = sides(suite);
            let mut chain = Chain::new();
            chain.push(&Payload::Nonce(&[1; 16]));
            let message = i.seal(&header(), &chain);
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
        for suite in Suite::all() {
            let (mut i, _) = sides(suite);
            let mut ivs = std::collections::HashSet::new();
            for _ in 0..100 {
                let message = i.seal(&header(), &Chain::new());
                assert!(ivs.insert(message[32..32 + suite.iv_len()].to_vec()));
            }
        }
    }
}
