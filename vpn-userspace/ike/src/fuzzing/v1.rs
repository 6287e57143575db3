//! Entry points for fuzzing IKEv1: what strangers may send, and what a peer who knows the keys may.

use std::time::Duration;

use crate::testing::{At, Pair, TUNNEL, config};
use crate::wire::v1::{Body, Chain, HEADER_LEN, Header, Payload};
use crate::{Command, PeerConfig, Psk, V1Mode, V1Options, Xauth, XauthUser};

// There may be more options than these two.
#[allow(clippy::needless_update)]
fn side(at: At, mode: V1Mode, xauth: bool) -> PeerConfig {
    let user = XauthUser { name: "user".to_owned(), password: Psk::new("secret").expect("a password") };
    let xauth = xauth.then(|| match at {
        At::A => Xauth::Client(user),
        At::B => Xauth::Server(vec![user]),
    });
    PeerConfig {
        v1: Some(V1Options { mode, xauth, ..V1Options::default() }),
        ike_proposals: vec!["aes128-sha256-curve25519".parse().expect("a proposal")],
        esp_proposals: vec!["aes128-sha256".parse().expect("a proposal")],
        ..config(at)
    }
}

fn pair(mode: V1Mode, xauth: bool) -> Pair {
    Pair::new(1, side(At::A, mode, xauth), side(At::B, mode, xauth))
}

/// Datagrams without keys to a responder, to an initiator that waits, and to a tunnel that is up. The first byte says
/// where; the rest is the datagram, of which the parser sees the payloads, too.
pub fn endpoint(bytes: &[u8]) {
    let Some((choice, datagram)) = bytes.split_first() else { return };
    for padded in [false, true] {
        if let Ok(body) = Body::parse(*choice, datagram, padded) {
            let _ = (body.sa().is_some(), body.ke(), body.hashed());
            body.deletes().count();
            body.notifies().count();
        }
    }
    let mode = if choice & 0x20 == 0 { V1Mode::Main } else { V1Mode::Aggressive };
    let mut pair = pair(mode, false);
    let at = if choice & 1 == 0 { At::B } else { At::A };
    match choice >> 1 & 3 {
        0 => {}
        1 | 2 => {
            pair.link.hold = true;
            pair.command(At::A, Command::Initiate(TUNNEL));
            // One message further each: the other side waits, too.
            for _ in 1..choice >> 1 & 3 {
                pair.deliver(0, false);
            }
            pair.held.clear();
        }
        _ => pair.connect(),
    }
    let mut datagram = datagram.to_vec();
    // With the cookies of the conversation, so that it finds its way.
    if choice & 0x40 != 0 {
        let sent = pair.b.sent.last().or(pair.a.sent.last());
        let known = sent.map(|sent| sent[..16].to_vec()).unwrap_or_default();
        datagram.iter_mut().zip(known).for_each(|(byte, known)| *byte = known);
    }
    if let (true, Ok(length)) = (datagram.len() >= HEADER_LEN, u32::try_from(datagram.len())) {
        datagram[24..HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    }
    pair.inject(at, &datagram);
    pair.run(Duration::from_secs(40));
}

/// What a peer with the keys could send in phase 2: the first byte chooses the victim, whether it waits for an answer
/// and to which exchange, the second the exchange, the third the type of the first payload after the hash; the rest are
/// the payloads.
pub fn sealed(bytes: &[u8]) {
    let [choice, exchange, first, text @ ..] = bytes else { return };
    let exchange = match exchange % 4 {
        0 => 32,
        1 => 5,
        2 => 6,
        _ => *exchange,
    };
    let mut pair = pair(V1Mode::Main, choice & 8 != 0);
    let victim = if choice & 1 == 0 { At::B } else { At::A };
    pair.connect();
    pair.run(Duration::from_secs(1));
    pair.link.hold = true;
    let mut id = 0x0bad_cafe;
    if let (true, Some(child)) = (choice & 2 != 0, pair.side(victim).children.values().next()) {
        // An answer to a quick mode that the victim has begun.
        let child = child.inbound();
        pair.command(victim, Command::RekeyChild(child));
        if let Some(header) = pair.side(victim).sent.last().and_then(|sent| Header::parse(sent).ok()) {
            id = header.0.message_id;
        }
    }
    pair.held.clear();
    if let Some(message) = pair.side(victim.other()).endpoint.craft_v1(TUNNEL, exchange, id, (*first, text)) {
        pair.inject(victim, &message);
    }
    pair.held.clear();
    pair.link.hold = false;
    pair.run(Duration::from_secs(20));
    for at in [At::A, At::B] {
        let counts = pair.side(at).endpoint.counts();
        assert!(counts.ike_sas <= 4 && counts.spis <= 4, "left behind: {counts:?}");
    }
}

/// Inputs from real conversations, for the corpora: the target's name and the input.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    for mode in [V1Mode::Main, V1Mode::Aggressive] {
        let mut pair = pair(mode, false);
        pair.connect();
        let flag = if mode == V1Mode::Main { 0 } else { 0x20 };
        for message in pair.a.sent.iter().chain(&pair.b.sent) {
            for choice in [0, 2, 0x42, 0x44, 0x45, 0x46] {
                seeds.push(("ike_v1", [&[choice | flag], message.as_slice()].concat()));
            }
            if let (Ok((header, _)), Some(body)) = (Header::parse(message), message.get(HEADER_LEN..)) {
                seeds.push(("ike_v1", [&[header.next], body].concat()));
                if !header.flags.encrypted {
                    // SA, KE, nonce and ids: what a quick mode holds as well.
                    for choice in 0..4 {
                        seeds.push(("ike_v1_sealed", [&[choice, 0, header.next], body].concat()));
                    }
                }
            }
        }
    }
    let mut delete = Chain::new();
    delete.push(&Payload::Delete(crate::wire::v1::Delete { protocol: 3, spi_len: 4, spis: &[1, 2, 3, 4] }));
    for choice in [0, 1, 8, 9] {
        seeds.push(("ike_v1_sealed", [&[choice, 1, delete.first()], delete.bytes()].concat()));
    }
    seeds
}
