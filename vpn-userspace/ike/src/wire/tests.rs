//! Codec properties: what is written reads back; nothing that comes in makes a parser panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_types::TrafficSelector;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn header() -> impl Strategy<Value = Header> {
    (1..=u64::MAX, any::<u64>(), any::<u8>(), any::<u8>(), any::<bool>(), any::<bool>(), any::<u32>())
        .prop_map(|(spi_i, spi_r, next, exchange, initiator, response, message_id)| {
            let flags = Flags { initiator, response };
            Header { spi_i, spi_r, next, exchange: Exchange::from_wire(exchange), flags, message_id }
        })
}

fn transform_() -> impl Strategy<Value = Transform> {
    (any::<u8>(), any::<u16>(), any::<Option<u16>>())
        .prop_map(|(kind, id, bits)| Transform::new(kind, id, bits))
}

fn proposal_() -> impl Strategy<Value = Proposal> {
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..9), vec(transform_(), 0..20))
        .prop_map(|(number, protocol, spi, transforms)| Proposal { number, protocol, spi, transforms })
}

fn selector_() -> impl Strategy<Value = TrafficSelector> {
    let ports = || (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let four = (any::<u32>(), any::<u32>(), any::<u8>(), ports()).prop_map(|(a, b, protocol, ports)| {
        let at = |v: u32| IpAddr::V4(Ipv4Addr::from(v));
        TrafficSelector::new(at(a.min(b)), at(a.max(b)), protocol, ports).unwrap()
    });
    let six = (any::<u128>(), any::<u128>(), any::<u8>(), ports()).prop_map(|(a, b, protocol, ports)| {
        let at = |v: u128| IpAddr::V6(Ipv6Addr::from(v));
        TrafficSelector::new(at(a.min(b)), at(a.max(b)), protocol, ports).unwrap()
    });
    prop_oneof![four, six]
}

/// A payload with its own bytes, so that borrowed parts have something to borrow from.
#[derive(Debug, Clone)]
enum Made {
    Sa(Vec<Proposal>),
    Ke(u16, Vec<u8>),
    Id(bool, u8, Vec<u8>),
    Auth(u8, Vec<u8>),
    Nonce(Vec<u8>),
    Notify(u8, Vec<u8>, u16, Vec<u8>),
    Delete(u8, Vec<u32>),
    Ts(bool, Vec<TrafficSelector>),
    Vendor(Vec<u8>),
    Cert(bool, u8, Vec<u8>),
    Config(u8, Vec<(u16, Vec<u8>)>),
    Eap(Vec<u8>),
}

impl Made {
    fn spis(spis: &[u32]) -> Vec<u8> {
        spis.iter().flat_map(|s| s.to_be_bytes()).collect()
    }

    fn payload<'a>(&'a self, scratch: &'a [u8]) -> Payload<'a> {
        match self {
            Self::Sa(p) => Payload::Sa(p.clone()),
            Self::Ke(group, data) => Payload::Ke { group: *group, data },
            Self::Id(true, kind, data) => Payload::IdI(Id { kind: *kind, reserved: [0; 3], data }),
            Self::Id(false, kind, data) => Payload::IdR(Id { kind: *kind, reserved: [1, 2, 3], data }),
            Self::Auth(method, data) => Payload::Auth { method: *method, data },
            Self::Nonce(data) => Payload::Nonce(data),
            Self::Notify(protocol, spi, kind, data) => {
                Payload::Notify(Notify { protocol: *protocol, spi, kind: *kind, data })
            }
            Self::Delete(protocol, _) => {
                Payload::Delete(Delete { protocol: *protocol, spi_len: 4, spis: scratch })
            }
            Self::Ts(true, ts) => Payload::TsI(ts.clone()),
            Self::Ts(false, ts) => Payload::TsR(ts.clone()),
            Self::Vendor(data) => Payload::Other { kind: kind::VENDOR, data },
            Self::Cert(true, encoding, data) => Payload::Cert { encoding: *encoding, data },
            Self::Cert(false, encoding, data) => Payload::CertRequest { encoding: *encoding, data },
            Self::Config(kind, attributes) => {
                let kinds = [ConfigKind::Request, ConfigKind::Reply, ConfigKind::Set, ConfigKind::Ack];
                let mut configuration = Configuration::new(kinds[usize::from(kind % 4)]);
                for (kind, value) in attributes {
                    configuration.push(kind & 0x7fff, value.clone());
                }
                Payload::Config(configuration)
            }
            Self::Eap(data) => Payload::Eap(data),
        }
    }
}

fn made() -> impl Strategy<Value = Made> {
    let bytes = || vec(any::<u8>(), 0..80);
    prop_oneof![
        vec(proposal_(), 1..5).prop_map(Made::Sa),
        (any::<u16>(), bytes()).prop_map(|(g, d)| Made::Ke(g, d)),
        (any::<bool>(), any::<u8>(), bytes()).prop_map(|(i, k, d)| Made::Id(i, k, d)),
        (any::<u8>(), bytes()).prop_map(|(m, d)| Made::Auth(m, d)),
        vec(any::<u8>(), 16..=256).prop_map(Made::Nonce),
        (any::<u8>(), vec(any::<u8>(), 0..9), any::<u16>(), bytes())
            .prop_map(|(p, s, k, d)| Made::Notify(p, s, k, d)),
        (any::<u8>(), vec(any::<u32>(), 0..6)).prop_map(|(p, s)| Made::Delete(p, s)),
        (any::<bool>(), vec(selector_(), 0..8)).prop_map(|(i, ts)| Made::Ts(i, ts)),
        bytes().prop_map(Made::Vendor),
        (any::<bool>(), any::<u8>(), bytes()).prop_map(|(c, e, d)| Made::Cert(c, e, d)),
        (any::<u8>(), vec((any::<u16>(), bytes()), 0..6)).prop_map(|(k, a)| Made::Config(k, a)),
        bytes().prop_map(Made::Eap),
    ]
}

proptest! {
    #[test]
    fn headers_read_back(header in header(), extra in 0usize..64) {
        let mut bytes = header.encode(HEADER_LEN + extra).to_vec();
        bytes.resize(HEADER_LEN + extra, 0);
        prop_assert_eq!(Header::parse(&bytes), Ok(header));
        bytes.push(0);
        prop_assert_eq!(Header::parse(&bytes), Err(WireError::Length("IKE header")));
    }

    #[test]
    fn payloads_read_back(all in vec(made(), 0..8)) {
        let scratch: Vec<Vec<u8>> = all.iter().map(|m| match m {
            Made::Delete(_, spis) => Made::spis(spis),
            _ => Vec::new(),
        }).collect();
        let mut chain = Chain::new();
        let mut want = Vec::new();
        for (m, s) in all.iter().zip(&scratch) {
            let payload = m.payload(s);
            let once = !matches!(payload, Payload::Notify(_) | Payload::Delete(_) | Payload::Other { .. } | Payload::Cert { .. } | Payload::CertRequest { .. } | Payload::Config(_));
            if once && want.iter().any(|p: &Payload<'_>| p.kind() == payload.kind()) {
                continue;
            }
            chain.push(&payload);
            want.push(payload);
        }
        let body = Body::parse(chain.first(), chain.bytes()).unwrap();
        prop_assert_eq!(body.payloads(), want.as_slice());
    }

    #[test]
    fn random_bytes_never_panic(first in any::<u8>(), bytes in vec(any::<u8>(), 0..300)) {
        let _ = Header::parse(&bytes);
        let _ = Body::parse(first, &bytes);
        for kind in 0..=60 {
            let mut chain = vec![0, 0x80];
            chain.extend_from_slice(&(u16::try_from(bytes.len()).unwrap() + 4).to_be_bytes());
            chain.extend_from_slice(&bytes);
            let _ = Body::parse(kind, &chain);
        }
    }

    #[test]
    fn a_damaged_chain_never_panics(all in vec(made(), 1..6), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut chain = Chain::new();
        for m in &all {
            chain.push(&m.payload(&[]));
        }
        let mut bytes = chain.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = Body::parse(chain.first(), &bytes);
        let _ = Body::parse(chain.first(), &bytes[..at]);
    }
}

fn body(kind: u8, flags: u8, payload: &[u8]) -> Result<usize, WireError> {
    let mut bytes = vec![0, flags];
    bytes.extend_from_slice(&(u16::try_from(payload.len()).unwrap() + 4).to_be_bytes());
    bytes.extend_from_slice(payload);
    Body::parse(kind, &bytes).map(|b| b.payloads().len())
}

#[test]
fn unknown_payloads_are_judged_by_the_critical_bit() {
    for kind in 1..=255u8 {
        let known = matches!(kind, 33..=48);
        if known {
            // RFC 7296 2.5: the critical bit of a known payload is overlooked.
            assert_eq!(body(kind, 0x80, &[]), body(kind, 0, &[]), "{kind}");
            assert!(
                !matches!(body(kind, 0x80, &[]), Err(WireError::UnsupportedCritical(_))) || kind == kind::SK
            );
        } else {
            assert_eq!(body(kind, 0, &[1, 2, 3]), Ok(1), "{kind}");
            assert_eq!(body(kind, 0x80, &[1, 2, 3]), Err(WireError::UnsupportedCritical(kind)), "{kind}");
        }
    }
}

/// Public mistake: traffic selectors.
#[test]
fn selectors_that_select_nothing_are_left_out_and_bad_lengths_refused() {
    let one = |kind: u8, ports: [u8; 4], start: u8, end: u8| {
        let mut s = vec![kind, 0, 0, 16];
        s.extend_from_slice(&ports);
        s.extend_from_slice(&[10, 0, 0, start, 10, 0, 0, end]);
        s
    };
    let count = |n: u8, selectors: &[Vec<u8>]| {
        let mut p = vec![n, 0, 0, 0];
        p.extend(selectors.concat());
        let mut bytes = vec![0, 0];
        bytes.extend_from_slice(&(u16::try_from(p.len()).unwrap() + 4).to_be_bytes());
        bytes.extend_from_slice(&p);
        Body::parse(kind::TS_I, &bytes).map(|b| b.ts_i().map_or(0, <[_]>::len))
    };
    let good = one(7, [0, 0, 255, 255], 1, 9);
    let inverted = one(7, [0, 0, 255, 255], 9, 1);
    let opaque = one(7, [255, 255, 0, 0], 1, 9);
    let other = one(9, [0, 0, 255, 255], 1, 9);
    assert_eq!(count(4, &[good.clone(), inverted, opaque, other]), Ok(1));
    assert_eq!(count(0, &[]), Ok(0));
    assert!(count(1, &[]).is_err() && count(0, std::slice::from_ref(&good)).is_err());
    for length in 0..=255 {
        let mut bad = good.clone();
        bad[3] = length;
        assert_eq!(count(1, &[bad]).is_ok(), length == 16, "{length}");
    }
}

#[test]
fn proposals_of_odd_shapes() {
    let wrap = |p: Vec<u8>| body(kind::SA, 0, &p);
    // No transforms at all: readable, and never chosen.
    assert_eq!(wrap(vec![0, 0, 0, 8, 1, 1, 0, 0]), Ok(1));
    // An empty SA payload, a count beyond the content, a last-marker with more to come.
    assert!(wrap(vec![]).is_err());
    assert!(wrap(vec![0, 0, 0, 8, 1, 1, 0, 1]).is_err());
    assert!(wrap([vec![0, 0, 0, 8, 1, 1, 0, 0], vec![0, 0, 0, 8, 2, 1, 0, 0]].concat()).is_err());
    // A zero-length key stays a zero: no cipher of ours has one.
    let zero = vec![0, 0, 0, 20, 1, 1, 0, 1, 0, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 0, 0];
    assert_eq!(wrap(zero), Ok(1));
    // 255 proposals are read, 256 are too many.
    let many = |n: usize| {
        let all: Vec<u8> =
            (0..n).flat_map(|i| [if i + 1 == n { 0 } else { 2 }, 0, 0, 8, 1, 1, 0, 0]).collect();
        body(kind::SA, 0, &all)
    };
    assert_eq!(many(255), Ok(1));
    assert_eq!(many(256), Err(WireError::TooMany("proposals")));
}

#[test]
fn nonces_have_16_to_256_bytes() {
    for len in [0, 15, 16, 256, 257] {
        assert_eq!(body(kind::NONCE, 0, &vec![1; len]).is_ok(), (16..=256).contains(&len), "{len}");
    }
}
