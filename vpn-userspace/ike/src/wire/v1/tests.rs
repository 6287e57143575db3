//! Codec properties: what is written reads back; nothing that comes in makes a parser panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::WireError;

fn header() -> impl Strategy<Value = Header> {
    (1..=u64::MAX, any::<u64>(), any::<u8>(), any::<u8>(), any::<[bool; 3]>(), any::<u32>()).prop_map(
        |(cookie_i, cookie_r, next, exchange, [encrypted, commit, auth_only], message_id)| {
            let flags = Flags { encrypted, commit, auth_only };
            Header { cookie_i, cookie_r, next, exchange: Exchange::from_wire(exchange), flags, message_id }
        },
    )
}

fn attribute() -> impl Strategy<Value = Attribute<'static>> {
    prop_oneof![
        (0..0x8000u16, any::<u16>()).prop_map(|(kind, value)| Attribute::short(kind, value)),
        (0..0x8000u16, vec(any::<u8>(), 0..20)).prop_map(|(kind, value)| Attribute::long(kind, value)),
        (0..0x8000u16, any::<u64>()).prop_map(|(kind, value)| Attribute::number(kind, value)),
    ]
}

fn proposal() -> impl Strategy<Value = Proposal<'static>> {
    let transform = (any::<u8>(), any::<u8>(), vec(attribute(), 0..6))
        .prop_map(|(number, id, attributes)| Transform { number, id, attributes });
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..9), vec(transform, 0..6))
        .prop_map(|(number, protocol, spi, transforms)| Proposal { number, protocol, spi, transforms })
}

proptest! {
    #[test]
    fn headers_read_back(header in header(), extra in 0usize..64) {
        let mut bytes = header.encode(HEADER_LEN + extra).to_vec();
        bytes.resize(HEADER_LEN + extra, 0);
        prop_assert!(Header::is_v1(&bytes));
        prop_assert_eq!(Header::parse(&bytes), Ok((header, &bytes[..])));
        // Bytes behind are cut off; a message that ends too early is none.
        let longer = [&bytes[..], &[1, 2, 3]].concat();
        prop_assert_eq!(Header::parse(&longer), Ok((header, &bytes[..])));
        bytes.pop();
        prop_assert!(Header::parse(&bytes).is_err());
    }

    #[test]
    fn payloads_read_back(
        proposals in vec(proposal(), 1..5), attributes in vec(attribute(), 0..6),
        a in vec(any::<u8>(), 1..80), nonce in vec(any::<u8>(), 8..=256), kinds in any::<(u8, u8, u16, u16)>(),
        padding in 0usize..16,
    ) {
        let want = [
            Payload::Hash(&a),
            Payload::Sa(Sa { proposals }),
            Payload::Ke(&a),
            Payload::Nonce(&nonce),
            Payload::Id(Id { kind: kinds.0, protocol: kinds.1, port: kinds.2, data: &a }),
            Payload::Cert(kinds.0, &a),
            Payload::CertRequest(kinds.0, &a),
            Payload::Signature(&a),
            Payload::Notify(Notify { protocol: kinds.0, spi: a.get(..4).unwrap_or_default(), kind: kinds.3, data: &a }),
            Payload::Delete(Delete { protocol: kinds.0, spi_len: 8, spis: &nonce[..8] }),
            Payload::Vendor(&a),
            Payload::Config(Config { kind: kinds.1, identifier: kinds.2, attributes }),
            Payload::NatD { draft: false, hash: &a },
            Payload::NatD { draft: true, hash: &a },
            Payload::NatOa { draft: false, data: &a },
        ];
        let mut chain = Chain::new();
        for payload in &want {
            chain.push(payload);
        }
        let mut bytes = chain.bytes().to_vec();
        let body = Body::parse(chain.first(), &bytes, false).unwrap();
        prop_assert_eq!(body.payloads(), want.as_slice());
        drop(body);
        bytes.resize(bytes.len() + padding, 0);
        prop_assert_eq!(Body::parse(chain.first(), &bytes, false).is_ok(), padding == 0);
        let body = Body::parse(chain.first(), &bytes, true).unwrap();
        let (hash, rest) = body.hashed().unwrap();
        prop_assert_eq!(hash, &a[..]);
        prop_assert_eq!(rest, &chain.bytes()[4 + a.len()..]);
    }

    #[test]
    fn a_hash_goes_before_what_it_covers(a in vec(any::<u8>(), 8..80)) {
        let mut chain = Chain::new();
        chain.push(&Payload::Nonce(&a)).push(&Payload::Vendor(&a));
        let plain = chain.bytes().to_vec();
        let mut seen = Vec::new();
        let mut chain = chain.with_hash(|bytes| { seen = bytes.to_vec(); vec![9; 20] });
        prop_assert_eq!(&seen, &plain);
        chain.push(&Payload::Vendor(&[7]));
        let body = Body::parse(chain.first(), chain.bytes(), false).unwrap();
        prop_assert_eq!(body.hash(), Some(&[9; 20][..]));
        prop_assert_eq!((body.nonce(), body.vendors().count()), (Some(&a[..]), 2));
    }

    #[test]
    fn random_bytes_never_panic(first in any::<u8>(), bytes in vec(any::<u8>(), 0..300)) {
        let _ = Header::parse(&bytes);
        let _ = Fragment::parse(&bytes);
        let _ = Body::parse(first, &bytes, true).map(|b| b.hashed().is_some());
        for kind in 0..=255 {
            let mut chain = vec![0, 0];
            chain.extend_from_slice(&(u16::try_from(bytes.len()).unwrap() + 4).to_be_bytes());
            chain.extend_from_slice(&bytes);
            let _ = Body::parse(kind, &chain, false);
        }
    }

    #[test]
    fn a_damaged_chain_never_panics(proposals in vec(proposal(), 1..4), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut chain = Chain::new();
        chain.push(&Payload::Sa(Sa { proposals })).push(&Payload::Nonce(&[1; 16]));
        let mut bytes = chain.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = Body::parse(chain.first(), &bytes, false);
        let _ = Body::parse(chain.first(), &bytes[..at], true);
    }

    #[test]
    fn fragments_read_back(header in header(), id in any::<u16>(), number in 1..=255u8, last in any::<bool>(), piece in vec(any::<u8>(), 0..200)) {
        let fragment = Fragment { id, number, last, piece: &piece };
        let message = fragment.message(&header);
        prop_assert_eq!(message.len(), FRAGMENT_OVERHEAD + piece.len());
        let (parsed, whole) = Header::parse(&message).unwrap();
        prop_assert_eq!(parsed.next, kind::FRAGMENT);
        prop_assert_eq!(Fragment::parse(&whole[HEADER_LEN..]), Ok(fragment));
    }
}

fn body(kind: u8, payload: &[u8]) -> Result<usize, WireError> {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&(u16::try_from(payload.len()).unwrap() + 4).to_be_bytes());
    bytes.extend_from_slice(payload);
    Body::parse(kind, &bytes, false).map(|b| b.payloads().len())
}

#[test]
fn payloads_of_the_other_version_and_unknown_ones_are_refused() {
    for kind in 1..=255u8 {
        let known = matches!(kind, 1 | 4..=14 | 20 | 21 | 130 | 131);
        let unknown = matches!(body(kind, &[1; 16]), Err(WireError::UnsupportedCritical(k)) if k == kind);
        assert_eq!(unknown, !known, "{kind}");
    }
}

#[test]
fn an_sa_payload_of_another_domain_or_situation_is_refused() {
    let proposal = [0, 0, 0, 8, 1, 1, 0, 0];
    let sa = |doi: u8, situation: u8| {
        body(kind::SA, &[&[0, 0, 0, doi, 0, 0, 0, situation][..], &proposal].concat())
    };
    assert_eq!(sa(1, 1), Ok(1));
    assert!(sa(0, 1).is_err() && sa(2, 1).is_err() && sa(1, 0).is_err() && sa(1, 3).is_err());
}

#[test]
fn every_length_of_a_proposal_counts() {
    let transform = [0, 0, 0, 12, 1, 1, 0, 0, 0x80, 1, 0, 7];
    let build = |proposal_length: u8, transform_length: u8, count: u8, spi_len: u8| {
        let mut t = transform;
        t[3] = transform_length;
        let sa = [&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, proposal_length, 1, 1, spi_len, count][..], &t].concat();
        body(kind::SA, &sa)
    };
    for length in 0..=255 {
        assert_eq!(build(length, 12, 1, 0).is_ok(), length == 20, "proposal {length}");
        assert_eq!(build(20, length, 1, 0).is_ok(), length == 12, "transform {length}");
        assert_eq!(build(20, 12, length, 0).is_ok(), length == 1, "count {length}");
        assert_eq!(build(20, 12, 1, length).is_ok(), length == 0, "SPI {length}");
    }
}

#[test]
fn numbers_of_attributes() {
    for n in [0, 1, 65_535, 65_536, 28_800, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(Attribute::number(12, n).as_number(), Some(n));
    }
    assert_eq!(Attribute::long(12, vec![0, 0, 0, 0, 0, 0, 0, 0, 0x70, 0x80]).as_number(), Some(28_800));
    assert_eq!(Attribute::long(12, vec![1; 9]).as_number(), None);
    assert_eq!(Attribute::long(12, vec![]).as_number(), Some(0));
}
