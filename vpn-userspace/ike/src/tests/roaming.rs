//! Peers that come from elsewhere without MOBIKE (RFC 7296 2.23), ESP as a sign of life, and floods.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::wire::{HEADER_LEN, Header, notify};
use crate::{EndpointConfig, Output};

fn behind_nat() -> Pair {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(3, a, PeerConfig { remote: None, ..b });
    pair.link.nat = Some(0);
    pair.connect();
    assert!(pair.b.ike.as_ref().unwrap().nat_remote);
    pair
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_peer_behind_a_nat_is_where_its_last_valid_packet_came_from() {
    let mut pair = behind_nat();
    // Its NAT gives it another port: the next ESP packet, which passed its check, says so.
    pair.link.nat = Some(1000);
    pair.command(At::B, Command::PeerSeen(TUNNEL, addr("203.0.113.1:45500")));
    assert_eq!(pair.b.moves, [addr("203.0.113.1:45500")]);
    let heard = pair.a.sent.len();
    pair.run(secs(2));
    assert!(pair.a.sent.len() > heard, "it was asked there, and answered");
    assert!(pair.agreed() && pair.b.failures.is_empty());
    // An IKE message does the same.
    pair.link.nat = Some(2000);
    pair.command(At::A, Command::CheckLiveness(TUNNEL));
    pair.run(secs(1));
    assert_eq!(pair.b.moves.last(), Some(&addr("203.0.113.1:46500")));
}

#[test]
fn who_is_behind_a_nat_follows_nobody() {
    let mut pair = behind_nat();
    let moves = pair.a.moves.clone();
    pair.command(At::A, Command::PeerSeen(TUNNEL, addr("203.0.113.66:4500")));
    assert_eq!(pair.a.moves, moves);
}

#[test]
fn a_peer_without_a_nat_is_asked_and_not_followed() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(3, a, b);
    pair.connect();
    let sent = pair.b.sent.len();
    pair.command(At::B, Command::PeerSeen(TUNNEL, addr("203.0.113.66:4500")));
    assert!(pair.b.moves.is_empty() && pair.b.sent.len() == sent + 1);
    pair.run(secs(1));
    assert!(pair.agreed() && pair.b.moves.is_empty());
}

#[test]
fn esp_is_a_sign_of_life() {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(3, a, b);
    pair.connect();
    pair.run(secs(1));
    let sent = (pair.a.sent.len(), pair.b.sent.len());
    for _ in 0..30 {
        pair.run(secs(4));
        pair.command(At::A, Command::Heard(TUNNEL));
        pair.command(At::B, Command::Heard(TUNNEL));
    }
    assert_eq!((pair.a.sent.len(), pair.b.sent.len()), sent, "two minutes, and nobody had to ask");
    // Silence, and they ask.
    pair.run(secs(11));
    assert!(pair.a.sent.len() + pair.b.sent.len() > sent.0 + sent.1);
    // A peer that is gone is found out all the same: ESP that was heard before does not count.
    pair.link.cut_to = Some(At::A);
    pair.run(secs(60));
    assert_eq!(pair.a.downs, [crate::DownReason::LivenessTimeout]);
}

/// The request with the cookie that B asks of this source, if it does.
fn with_cookie(pair: &mut Pair, source: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
    let time = pair.time;
    let ours = addr("192.0.2.2:500");
    pair.b.endpoint.handle_datagram(time, ours, source, request);
    let mut asked = None;
    loop {
        match pair.b.endpoint.poll() {
            Output::Transmit { remote, bytes, .. } if remote == source => asked = Some(bytes),
            Output::Deadline(..) | Output::Idle => break,
            _ => {}
        }
    }
    let answer = asked?;
    let header = Header::parse(&answer).unwrap();
    let body = crate::wire::Body::parse(header.next, &answer[HEADER_LEN..]).unwrap();
    let cookie = body.notify(notify::COOKIE)?.data.to_vec();
    let length = u16::try_from(cookie.len() + 8).unwrap();
    let mut payload = vec![request[16], 0];
    payload.extend_from_slice(&length.to_be_bytes());
    payload.extend_from_slice(&[0, 0]);
    payload.extend_from_slice(&notify::COOKIE.to_be_bytes());
    payload.extend_from_slice(&cookie);
    let mut again = request.to_vec();
    again[16] = 41;
    again.splice(HEADER_LEN..HEADER_LEN, payload);
    let total = u32::try_from(again.len()).unwrap();
    again[24..28].copy_from_slice(&total.to_be_bytes());
    Some(again)
}

#[test]
fn a_flood_from_many_addresses_keeps_no_honest_peer_out() {
    let (a, b) = both(|_| {});
    let limits = EndpointConfig { half_open_limit: 64, ..EndpointConfig::default() };
    let mut pair = Pair::with(3, limits, a, PeerConfig { remote: None, ..b });
    pair.link.cut_to = Some(At::B);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.command(At::A, Command::Terminate(TUNNEL, false));
    pair.link.cut_to = None;
    let request = pair.a.sent.pop().unwrap();
    let source = |n: u32| SocketAddr::new(IpAddr::from([10, 66, (n >> 8) as u8, n as u8]), 500);
    // Who cannot receive gets no further than a cookie, however many they are.
    for n in 0..1000 {
        with_cookie(&mut pair, source(n), &request);
    }
    assert!(pair.b.endpoint.counts().half_open <= 31, "{:?}", pair.b.endpoint.counts());
    // Who can, in numbers, fills the table to its limit and no further.
    for n in 1000..1400 {
        if let Some(again) = with_cookie(&mut pair, source(n), &request) {
            with_cookie(&mut pair, source(n), &again);
        }
        assert!(pair.b.endpoint.counts().half_open <= 64);
    }
    assert_eq!(pair.b.endpoint.counts().half_open, 64);
    pair.connect();
    assert!(pair.agreed());
}
