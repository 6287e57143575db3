//! What AUTH signs of the IKE_INTERMEDIATE exchanges (RFC 9242 3.3.2).

use culvert_crypto::{Prf, Secret};

use crate::wire::{HEADER_LEN, kind};

/// Generic header of the SK payload.
const SK_HEADER: usize = 4;

/// All IKE_INTERMEDIATE messages so far, condensed: IntAuth_iN, IntAuth_rN and IKE_AUTH_MID. Empty without any.
#[derive(Default)]
pub(crate) struct IntAuth {
    initiator: Option<Secret>,
    responder: Option<Secret>,
    octets: Vec<u8>,
}

/// The two chunks of one message: A, up to the header of its SK payload as if nothing were around the payloads in it,
/// and P, those payloads. Fragmented or not, it is the same.
pub(crate) struct Chunks {
    head: [u8; HEADER_LEN + SK_HEADER],
    payloads: Vec<u8>,
}

impl Chunks {
    /// Of a message with this IKE header, whatever its lengths, the first byte being the first of the header; `first` is
    /// the type of the first payload in the SK payload, `flags` the byte after it.
    pub(crate) fn new(header: &[u8; HEADER_LEN], first: u8, flags: u8, payloads: &[u8]) -> Self {
        let mut head = [0; HEADER_LEN + SK_HEADER];
        let (ike, sk) = head.split_at_mut(HEADER_LEN);
        ike.copy_from_slice(header);
        // RFC 9242 3.3.2: a message that came in fragments counts as the one that was cut.
        ike[16] = kind::SK;
        // The lengths without IV, padding and check value. A message is below 64 KiB.
        let length = u16::try_from(SK_HEADER + payloads.len()).unwrap_or(u16::MAX);
        ike[24..].copy_from_slice(&(HEADER_LEN as u32 + u32::from(length)).to_be_bytes());
        sk[..2].copy_from_slice(&[first, flags]);
        sk[2..].copy_from_slice(&length.to_be_bytes());
        Self { head, payloads: payloads.to_vec() }
    }
}

impl IntAuth {
    /// Adds an exchange: the request, under the initiator's SK_p, and the response, under the responder's; both keys
    /// are those from before the exchange. `next_id` is the message id of the exchange that comes next.
    pub(crate) fn add(
        &mut self,
        prf: Prf,
        (sk_pi, request): (&Secret, &Chunks),
        (sk_pr, response): (&Secret, &Chunks),
        next_id: u32,
    ) {
        let next = |before: &Option<Secret>, sk_p: &Secret, chunks: &Chunks| {
            let before: &[u8] = before.as_ref().map_or(&[], |before| before);
            prf.compute(sk_p, &[before, &chunks.head, &chunks.payloads])
        };
        let initiator = next(&self.initiator, sk_pi, request);
        let responder = next(&self.responder, sk_pr, response);
        self.octets = [&initiator[..], &responder, &next_id.to_be_bytes()].concat();
        (self.initiator, self.responder) = (Some(initiator), Some(responder));
    }

    /// IntAuth, the last part of what AUTH signs.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Exchange, Flags, Header};

    /// By the text of RFC 9242 3.3.2, byte for byte.
    #[test]
    fn the_chain_of_rfc_9242() {
        let prf = Prf::HmacSha256;
        let key = |byte: u8| Secret::new(vec![byte; 32]);
        let header = |response: bool, message_id: u32| {
            let flags = Flags { initiator: !response, response };
            Header { spi_i: 1, spi_r: 2, next: 53, exchange: Exchange::Intermediate, flags, message_id }
        };
        let mut auth = IntAuth::default();
        assert!(auth.octets().is_empty());
        let mut want: [Vec<u8>; 2] = Default::default();
        for round in 1..=3_u8 {
            let payloads = vec![round; 10 * usize::from(round)];
            let length = 32 + 10 * u32::from(round);
            let chunks = |response| {
                // As a fragment of whatever length says it.
                Chunks::new(&header(response, round.into()).encode(999), 34, 0, &payloads)
            };
            let (request, response) = (chunks(false), chunks(true));
            let next = u32::from(round) + 1;
            auth.add(prf, (&key(round), &request), (&key(100 + round), &response), next);
            let step = |before: &[u8], flags: u8, key: &Secret| {
                let mut a = [0; 32];
                a[7] = 1;
                a[15] = 2;
                a[16..20].copy_from_slice(&[46, 0x20, 43, flags]);
                a[23] = round;
                a[24..28].copy_from_slice(&length.to_be_bytes());
                a[28] = 34;
                a[30..].copy_from_slice(&u16::to_be_bytes(4 + 10 * u16::from(round)));
                prf.compute(key, &[before, &a, &payloads]).to_vec()
            };
            want = [step(&want[0], 0x08, &key(round)), step(&want[1], 0x20, &key(100 + round))];
            assert_eq!(auth.octets(), [&want[0][..], &want[1], &[0, 0, 0, round + 1]].concat());
        }
    }
}
