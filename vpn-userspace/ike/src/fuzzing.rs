//! Entry points for fuzzing: the parsers, and endpoints that are fed what a peer who knows the keys could send.
//!
//! Each function takes any bytes, must come back, and leaves nothing behind that a peer could grow.

pub mod v1;

use std::time::Duration;

use culvert_types::Spi;

use crate::testing::{At, Pair, TUNNEL, config};
use crate::wire::{Body, Chain, HEADER_LEN, Header, describe, plain_message};
use crate::{Command, EspProposal, Identity, IkeProposal};

/// A datagram as the wire format has it: header, payloads, what a log line shows of them; what can be read is written
/// and read again.
pub fn wire(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    if let Ok(header) = Header::parse(rest) {
        let body = Body::parse(header.next, rest.get(HEADER_LEN..).unwrap_or_default());
        let _ = describe::message(&header, body.as_ref().map_err(|e| *e));
    }
    let Ok(body) = Body::parse(*first, rest) else { return };
    let mut chain = Chain::new();
    body.payloads().iter().for_each(|payload| {
        chain.push(payload);
    });
    let again = Body::parse(chain.first(), chain.bytes()).expect("what was read can be written");
    assert_eq!(again.payloads().len(), body.payloads().len());
}

/// A proposal of either kind; what can be read is written as it is read.
pub fn proposals(text: &str) {
    if let Ok(proposal) = text.parse::<IkeProposal>() {
        assert_eq!(proposal.to_string().parse(), Ok(proposal));
    }
    if let Ok(proposal) = text.parse::<EspProposal>() {
        assert_eq!(proposal.to_string().parse(), Ok(proposal));
    }
}

/// An identity; what can be read is written as it is read.
pub fn identity(text: &str) {
    if let Ok(identity) = Identity::parse(text) {
        let written = identity.to_string();
        assert!(!written.chars().any(char::is_control), "it may stand in a log line: {written:?}");
    }
}

/// Datagrams without keys to a responder, to an initiator that waits, and to a tunnel that is up. The first byte says
/// where; the rest is the datagram.
pub fn endpoint(bytes: &[u8]) {
    let Some((choice, datagram)) = bytes.split_first() else { return };
    let mut pair = Pair::new(1, config(At::A), config(At::B));
    let at = if choice & 1 == 0 { At::B } else { At::A };
    match choice >> 1 & 3 {
        0 => {}
        1 => {
            pair.link.hold = true;
            pair.command(At::A, Command::Initiate(TUNNEL));
        }
        _ => pair.connect(),
    }
    let mut datagram = datagram.to_vec();
    // With the SPIs of the conversation, so that it finds its way.
    if choice & 0x40 != 0 {
        let known = pair.a.sent.last().map(|sent| sent[..16].to_vec()).unwrap_or_default();
        datagram.iter_mut().zip(known).for_each(|(byte, known)| *byte = known);
    }
    if let (true, Ok(length)) = (datagram.len() >= HEADER_LEN, u32::try_from(datagram.len())) {
        datagram[24..HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    }
    pair.inject(at, &datagram);
    pair.run(Duration::from_secs(40));
}

/// What a peer with the keys could send inside the encrypted payload: the first byte chooses role, state and what the
/// victim waits for, the second the exchange, the third the type of the first payload; the rest are the payloads.
pub fn sealed(bytes: &[u8]) {
    let [choice, exchange, first, text @ ..] = bytes else { return };
    let mut pair = Pair::new(1, config(At::A), config(At::B));
    // Any exchange type, the real ones most often.
    let exchange = if exchange & 0x80 == 0 { 34 + exchange % 10 } else { *exchange };
    let victim = if choice & 1 == 0 { At::B } else { At::A };
    pair.link.hold = true;
    if choice & 2 != 0 {
        // IKE_AUTH, from an initiator who knows the keys of IKE_SA_INIT and perhaps nothing else.
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.deliver(0, false);
        pair.deliver(0, false);
        pair.held.clear();
        if let Some(message) = pair.a.endpoint.craft(TUNNEL, exchange, None, (*first, text)) {
            pair.inject(At::B, &message);
            assert!(pair.b.children.is_empty() || pair.b.ike.is_some(), "a child without an IKE SA");
        }
    } else {
        pair.link.hold = false;
        pair.connect();
        pair.link.hold = true;
        let child = pair.side(victim).only_child().inbound();
        let response = (choice & 4 != 0).then(|| ask(&mut pair, victim, choice >> 3, child));
        pair.held.clear();
        let from = pair.side(victim.other());
        if let Some(message) = from.endpoint.craft(TUNNEL, exchange, response, (*first, text)) {
            pair.inject(victim, &message);
        }
    }
    pair.held.clear();
    pair.link.hold = false;
    pair.run(Duration::from_secs(20));
    for at in [At::A, At::B] {
        let counts = pair.side(at).endpoint.counts();
        assert!(counts.ike_sas <= 4 && counts.spis <= 4, "left behind: {counts:?}");
    }
}

/// Has the victim wait for an answer; returns the message id.
fn ask(pair: &mut Pair, victim: At, what: u8, child: Spi) -> u32 {
    let command = match what & 3 {
        0 => Command::RekeyChild(child),
        1 => Command::RekeyIke(TUNNEL),
        2 => Command::CheckLiveness(TUNNEL),
        _ => Command::Terminate(TUNNEL, true),
    };
    pair.command(victim, command);
    let sent = pair.side(victim).sent.last().expect("it has asked");
    Header::parse(sent).expect("our own message").message_id
}

/// Inputs from real conversations, for the corpora: the target's name and the input.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut pair = Pair::new(1, config(At::A), config(At::B));
    pair.connect();
    let sent: Vec<Vec<u8>> = pair.a.sent.iter().chain(&pair.b.sent).cloned().collect();
    let mut seeds = Vec::new();
    for message in &sent {
        seeds.push(("ike_wire", [&[0], message.as_slice()].concat()));
        for choice in [0, 2, 0x42, 0x44, 0x45] {
            seeds.push(("ike_endpoint", [&[choice], message.as_slice()].concat()));
        }
        if let (Ok(header), Some(body)) = (Header::parse(message), message.get(HEADER_LEN..)) {
            seeds.push(("ike_wire", [&[header.next], body].concat()));
        }
    }
    // The payloads of a rekey, which hold everything that an encrypted payload may.
    let init = &sent[0];
    for choice in [0, 1, 2, 4, 5, 12, 13, 20, 28] {
        for exchange in [1, 2, 3] {
            seeds.push(("ike_sealed", [&[choice, exchange, init[16]], &init[HEADER_LEN..]].concat()));
            seeds.push(("ike_sealed", [choice, exchange, 42, 0, 0, 0, 12, 3, 4, 0, 1, 1, 2, 3, 4].to_vec()));
            seeds.push(("ike_sealed", [choice, exchange, 41, 0, 0, 0, 8, 0, 0, 0x40, 9].to_vec()));
        }
    }
    for text in ["aes128gcm16-prfsha256-ecp256", "aes256-sha384-modp2048-curve25519", "chacha20poly1305-esn"]
    {
        seeds.push(("proposals", text.as_bytes().to_vec()));
    }
    for text in
        ["192.0.2.1", "gw.example", "user@example.org", "keyid:0a0b", "C=CH, O=x, CN=gw", "2001:db8::1"]
    {
        seeds.push(("identity", text.as_bytes().to_vec()));
    }
    // A header without a body is what a stranger sends most easily.
    if let Ok(header) = Header::parse(init) {
        seeds.push(("ike_endpoint", [&[0], plain_message(&header, &Chain::new()).as_slice()].concat()));
    }
    seeds.extend(v1::seeds());
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_is_taken() {
        for (target, seed) in super::seeds() {
            match target {
                "ike_wire" => super::wire(&seed),
                "ike_endpoint" => super::endpoint(&seed),
                "ike_sealed" => super::sealed(&seed),
                "ike_v1" => super::v1::endpoint(&seed),
                "ike_v1_sealed" => super::v1::sealed(&seed),
                "proposals" => super::proposals(&String::from_utf8(seed).unwrap()),
                "identity" => super::identity(&String::from_utf8(seed).unwrap()),
                other => panic!("no such target: {other}"),
            }
        }
    }
}
