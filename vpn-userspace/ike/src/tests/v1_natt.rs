//! NAT traversal by the drafts before RFC 3947, which old devices speak: their vendor ids, payload types and modes.

use super::v1::both_v1;
use super::*;
use crate::wire::v1::{Body, Chain, HEADER_LEN, Header, Payload};

const DRAFT_03: &[u8] = b"\x7d\x94\x19\xa6\x53\x10\xca\x6f\x2c\x17\x9d\x92\x15\x52\x9d\x56";
const DRAFT_02_LF: &[u8] = b"\x90\xcb\x80\x91\x3e\xbb\x69\x6e\x08\x63\x81\xb5\xec\x42\x7b\x1f";
const DRAFT_02: &[u8] = b"\xcd\x60\x46\x43\x35\xdf\x21\xf8\x7c\xfd\xb2\xfc\x68\xb6\xa4\x48";
/// What such devices say beside: a Unity client, one that beats, one with a long name.
const OTHERS: [&[u8]; 3] = [
    b"\x12\xf5\xf2\x8c\x45\x71\x68\xa9\x70\x2d\x9f\xe2\x74\xcc\x01\x00",
    b"HeartBeat_Notify\x38\x6b\x01\x00",
    b"\x26\x24\x4d\x38\xed\xdb\x61\xb3\x17\x2a\x36\xe3\xd0\xcf\xb8\x19",
];
/// NAT-D of the drafts, and of the RFC.
const NAT_D_DRAFT: u8 = 130;
const NAT_D: u8 = 20;

/// A first message as an old device sends it: the same offer, other vendor ids. Nothing of phase 1 vouches for those.
fn aged(message: &[u8], vendors: &[&[u8]]) -> Vec<u8> {
    let (header, whole) = Header::parse(message).unwrap();
    let body = Body::parse(header.next, &whole[HEADER_LEN..], false).unwrap();
    let mut chain = Chain::new();
    body.payloads().iter().filter(|p| !matches!(p, Payload::Vendor(_))).for_each(|p| {
        chain.push(p);
    });
    for vendor in vendors.iter().chain(&OTHERS) {
        chain.push(&Payload::Vendor(vendor));
    }
    crate::v1::phase1::plain(&header, &chain)
}

/// The types of a message's payloads.
fn kinds(message: &[u8]) -> Vec<u8> {
    let (header, whole) = Header::parse(message).unwrap();
    let body = Body::parse(header.next, &whole[HEADER_LEN..], false).unwrap();
    body.payloads().iter().map(Payload::kind).collect()
}

#[test]
fn old_drafts_are_spoken_from_end_to_end() {
    for vendors in [&[DRAFT_03][..], &[DRAFT_02_LF], &[DRAFT_02], &[DRAFT_02, DRAFT_02_LF, DRAFT_03]] {
        let (a, mut b) = both_v1(|_| {});
        b.remote = None;
        let mut pair = Pair::new(1, a, b);
        pair.link.nat = Some(100);
        pair.link.hold = true;
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.held.clear();
        let first = aged(&pair.a.sent[0], vendors);
        let (local, remote) = ("192.0.2.2:500".parse().unwrap(), "203.0.113.1:40600".parse().unwrap());
        pair.inject_from(At::B, local, remote, &first);
        pair.release();
        assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
        let (third, fourth) = (kinds(&pair.a.sent[1]), kinds(&pair.b.sent[1]));
        assert!(third.contains(&NAT_D_DRAFT) && !third.contains(&NAT_D), "{third:?}");
        assert!(fourth.contains(&NAT_D_DRAFT) && !fourth.contains(&NAT_D), "{fourth:?}");
        assert!(pair.a.only_child().encap().is_some() && pair.b.only_child().encap().is_some());
        let (a, b) = (pair.a.ike.clone().unwrap(), pair.b.ike.clone().unwrap());
        assert_eq!((a.nat_local, b.nat_remote, b.remote.port()), (true, true, 44600));
        let child = pair.a.only_child().inbound();
        pair.command(At::A, Command::RekeyChild(child));
        pair.run(secs(30));
        assert!(pair.agreed(), "{:#?} {:#?}", pair.a.log, pair.b.log);
    }
}

#[test]
fn a_peer_without_nat_traversal_has_plain_esp() {
    let (a, b) = both_v1(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.link.hold = true;
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.held.clear();
    let first = aged(&pair.a.sent[0], &[]);
    pair.inject(At::B, &first);
    pair.release();
    assert!(pair.run_until(secs(5), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    assert!(pair.a.only_child().encap().is_none() && pair.b.only_child().encap().is_none());
    assert!(kinds(&pair.b.sent[1]).iter().all(|k| ![NAT_D, NAT_D_DRAFT].contains(k)));
}
