//! Strangers and broken peers: no panic, no lasting state, nothing that disturbs a tunnel.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::testing::Seeded;
use crate::wire::{
    Body, Chain, Exchange, Flags, HEADER_LEN, Header, Notify, Payload, Proposal, kind, notify, plain_message,
};
use crate::{Counts, EndpointConfig, proposal::select};
use culvert_crypto::Random as _;

fn up() -> Pair {
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair
}

fn idle() -> Pair {
    let (a, b) = both(|_| {});
    Pair::new(1, a, b)
}

/// The messages of a connection, a rekey of each kind and a delete; those of A and those of B.
fn conversation() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut pair = up();
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    pair.run(secs(1));
    pair.command(At::B, Command::RekeyIke(TUNNEL));
    pair.run(secs(1));
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.run(secs(1));
    (pair.a.sent.clone(), pair.b.sent.clone())
}

/// Every byte of a message set to something that lengths, counts and types dislike.
fn mutations(message: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..message.len()).flat_map(move |at| {
        let old = message[at];
        let values = [0, 1, 0x7f, 0x80, 0xff, old.wrapping_add(1), old.wrapping_sub(1), old ^ 0x80];
        values.into_iter().filter(move |v| *v != old).map(move |value| {
            let mut bad = message.to_vec();
            bad[at] = value;
            bad
        })
    })
}

/// With the header's length field made true, so that what is inside is read.
fn sized(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    if let Some(field) = message.get_mut(24..28) {
        field.copy_from_slice(&length);
    }
    message
}

/// Public mistake: lengths. Datagrams of 0 to 64 bytes.
#[test]
fn short_datagrams_of_every_length() {
    let mut random = Seeded(5);
    let mut pair = up();
    let before = (pair.a.endpoint.counts(), pair.b.endpoint.counts());
    let real = pair.a.sent[0].clone();
    for len in 0..=64 {
        for round in 0..40 {
            let mut bytes = vec![0; len];
            match round {
                0 => {}
                1 => bytes.fill(0xff),
                2 => bytes.copy_from_slice(&real[..len]),
                3 => bytes = sized(real[..len].to_vec()),
                _ => {
                    random.fill(&mut bytes);
                    if round % 2 == 0 {
                        // A header that gets past the first checks.
                        for (at, value) in [(17, 0x20), (18, 34 + (round as u8 % 4))] {
                            if let Some(b) = bytes.get_mut(at) {
                                *b = value;
                            }
                        }
                        bytes = sized(bytes);
                    }
                }
            }
            pair.inject(At::A, &bytes);
            pair.inject(At::B, &bytes);
        }
    }
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), before);
    assert!(pair.agreed());
}

/// Public mistake: lengths. Every length field, and every other byte, off by one, zero, and at its maximum.
#[test]
fn damaged_messages_do_not_disturb_a_tunnel() {
    let (from_a, from_b) = conversation();
    let mut pair = up();
    // The seed is the same: these are this tunnel's own messages, with its SPIs.
    assert_eq!(pair.a.sent[0][..16], from_a[0][..16]);
    let key = pair.a.only_child().inbound_keys().clone();
    for (at, messages) in [(At::B, &from_a), (At::A, &from_b)] {
        for bad in messages.iter().flat_map(|m| mutations(m)) {
            pair.inject(at, &bad);
            pair.inject(at, &sized(bad));
        }
    }
    pair.run(secs(100));
    assert!(pair.agreed() && pair.a.downs.is_empty() && pair.b.downs.is_empty());
    assert_eq!(*pair.a.only_child().inbound_keys(), key);
    let one = Counts { ike_sas: 1, half_open: 0, spis: 1 };
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (one, one));
}

#[test]
fn damaged_requests_leave_nothing_at_a_responder() {
    let (from_a, _) = conversation();
    let limits = EndpointConfig::default();
    let mut pair = idle();
    for bad in mutations(&from_a[0]) {
        pair.inject(At::B, &bad);
        pair.inject(At::B, &sized(bad));
        assert!(pair.b.endpoint.counts().half_open <= limits.half_open_per_address);
    }
    pair.run(secs(31));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
    assert!(pair.b.ike.is_none());
    // Cut short at every length, with and without a true length field.
    for len in 0..from_a[0].len() {
        pair.inject(At::B, &from_a[0][..len]);
        pair.inject(At::B, &sized(from_a[0][..len].to_vec()));
    }
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

#[test]
fn damaged_answers_do_not_end_a_negotiation() {
    let (a, b) = both(|_| {});
    let mut honest = Pair::new(1, a, b);
    honest.connect();
    let (init, auth) = (honest.b.sent[0].clone(), honest.b.sent[1].clone());
    let mut pair = idle();
    pair.command(At::A, Command::Initiate(TUNNEL));
    for bad in mutations(&auth) {
        pair.inject(At::A, &sized(bad));
    }
    // Forged before the true one: only what is well-formed and decisive may end it, so keep to the lengths.
    for len in 0..init.len() {
        pair.inject(At::A, &init[..len]);
        pair.inject(At::A, &sized(init[..len].to_vec()));
    }
    pair.run(secs(1));
    assert!(pair.agreed(), "{:#?}", pair.a.log);
    for bad in mutations(&init) {
        let mut pair = idle();
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.inject(At::A, &sized(bad));
        pair.run(secs(400));
        assert!(pair.a.endpoint.counts().ike_sas <= 1);
    }
}

/// A plain IKE_SA_INIT request as [`config`]'s peer would take it, but for what `change` does.
struct Crafted {
    spi: u64,
    sa: Vec<Proposal>,
    group: u16,
    public: Vec<u8>,
    nonce: Vec<u8>,
}

impl Crafted {
    fn new(spi: u64) -> Self {
        let mut public = vec![9; 32];
        public[0] = spi as u8 | 1;
        let sa = select::offer_ike(&config(At::A).ike_proposals, &[]);
        Self { spi, sa, group: 31, public, nonce: vec![spi as u8; 32] }
    }

    fn bytes(&self, extra: &[Payload<'_>]) -> Vec<u8> {
        let mut chain = Chain::new();
        extra.iter().filter(|p| p.kind() == kind::NOTIFY).for_each(|p| {
            chain.push(p);
        });
        chain.push(&Payload::Sa(self.sa.clone()));
        chain.push(&Payload::Ke { group: self.group, data: &self.public });
        chain.push(&Payload::Nonce(&self.nonce));
        extra.iter().filter(|p| p.kind() != kind::NOTIFY).for_each(|p| {
            chain.push(p);
        });
        let flags = Flags { initiator: true, response: false };
        let header =
            Header { spi_i: self.spi, spi_r: 0, next: 0, exchange: Exchange::SaInit, flags, message_id: 0 };
        plain_message(&header, &chain)
    }
}

/// The error notification of the last answer of B.
fn last_notify(pair: &Pair) -> Option<(u16, Vec<u8>)> {
    let last = pair.b.sent.last()?;
    let body = Body::parse(last[16], &last[HEADER_LEN..]).unwrap();
    body.notifies().next().map(|n| (n.kind, n.data.to_vec()))
}

/// Public mistake: amplification.
#[test]
fn a_flood_from_many_addresses_stays_bounded() {
    let mut pair = idle();
    let to = SocketAddr::from(([192, 0, 2, 2], 500));
    // Addresses that no tunnel names are refused without state; so let the tunnel take anybody.
    let anybody = PeerConfig { remote: None, ..config(At::B) };
    pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(anybody)));
    for n in 0..5000u32 {
        let from = SocketAddr::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 500);
        let before = pair.b.sent.len();
        let request = Crafted::new(u64::from(n) + 1).bytes(&[]);
        pair.inject_from(At::B, to, from, &request);
        let out: usize = pair.b.sent[before..].iter().map(Vec::len).sum();
        if n >= 30 {
            assert_eq!(last_notify(&pair).unwrap().0, notify::COOKIE);
            assert!(out <= request.len(), "a cookie is no amplifier");
        }
    }
    let counts = pair.b.endpoint.counts();
    assert_eq!((counts.ike_sas, counts.half_open), (30, 30));
    pair.run(secs(31));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

#[test]
fn a_flood_that_returns_its_cookies_stays_bounded() {
    let mut pair = idle();
    for n in 1..500u64 {
        let crafted = Crafted::new(n);
        pair.inject(At::B, &crafted.bytes(&[]));
        if let Some((notify::COOKIE, cookie)) = last_notify(&pair) {
            pair.inject(At::B, &crafted.bytes(&[Payload::Notify(Notify::new(notify::COOKIE, &cookie))]));
            // Another nonce does not go with it.
            let other = Crafted { nonce: vec![0xee; 32], ..Crafted::new(n) };
            let before = pair.b.endpoint.counts();
            pair.inject(At::B, &other.bytes(&[Payload::Notify(Notify::new(notify::COOKIE, &cookie))]));
            assert_eq!(pair.b.endpoint.counts(), before);
        }
    }
    assert_eq!(pair.b.endpoint.counts().half_open, EndpointConfig::default().half_open_per_address);
    pair.run(secs(31));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

#[test]
fn peers_without_the_key_leave_nothing_and_are_reported_seldom() {
    let (mut a, b) = both(|_| {});
    a.auth = crate::Auth::psk(crate::Psk::new("guess").unwrap());
    let mut pair = Pair::new(1, a, b);
    for _ in 0..100 {
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.run(Duration::from_millis(100));
    }
    assert!(pair.b.failures.len() <= 31, "{}", pair.b.failures.len());
    assert!(pair.b.endpoint.counts().ike_sas <= EndpointConfig::default().half_open_per_address);
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.run(secs(200));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

/// Public mistake: internal value on the wire. Every group number that is not the configured one.
#[test]
fn every_dh_group_number_and_bad_public_values() {
    let mut pair = idle();
    for group in (0..=1100).chain([0x7fff, 0x8000, 0xffff]).filter(|g| *g != 31) {
        let crafted = Crafted { group, ..Crafted::new(1) };
        pair.inject(At::B, &crafted.bytes(&[]));
        assert_eq!(last_notify(&pair), Some((notify::INVALID_KE_PAYLOAD, vec![0, 31])), "group {group}");
    }
    for public in
        [vec![], vec![0; 32], vec![1; 31], vec![1; 33], [vec![1], vec![0; 31]].concat(), vec![7; 9000]]
    {
        pair.inject(At::B, &Crafted { public, ..Crafted::new(1) }.bytes(&[]));
        assert_eq!(last_notify(&pair).unwrap().0, notify::INVALID_SYNTAX);
    }
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

/// Public mistake: DH values.
#[test]
fn modp_values_out_of_range() {
    let (a, b) = both(|c| c.ike_proposals = vec!["aes128-sha256-modp2048".parse().unwrap()]);
    let sa = select::offer_ike(&a.ike_proposals, &[]);
    let mut pair = Pair::new(1, a, b);
    let one = [vec![0; 255], vec![1]].concat();
    for public in [vec![0; 256], one, vec![0xff; 256], vec![2; 255], vec![2; 257]] {
        let crafted = Crafted { sa: sa.clone(), group: 14, public, ..Crafted::new(1) };
        pair.inject(At::B, &crafted.bytes(&[]));
        assert_eq!(last_notify(&pair).unwrap().0, notify::INVALID_SYNTAX);
    }
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

/// Public mistake: proposals.
#[test]
fn odd_proposals_are_refused() {
    let mut pair = idle();
    let good = Crafted::new(1).sa[0].clone();
    let without = |kind: u8| {
        let mut p = good.clone();
        p.transforms.retain(|t| t.kind != kind);
        vec![p]
    };
    let mut many: Vec<Proposal> =
        (1..=255u8).map(|n| Proposal { number: n, transforms: vec![], ..good.clone() }).collect();
    let empty = vec![Proposal { transforms: vec![], ..good.clone() }];
    let mut zero_key = vec![good.clone()];
    zero_key[0].transforms[0].key_bits = Some(0);
    let esp = vec![Proposal { protocol: 3, ..good.clone() }];
    let spi = vec![Proposal { spi: vec![1; 8], ..good.clone() }];
    for sa in [without(1), without(2), without(4), empty, zero_key, esp, spi, many.clone()] {
        pair.inject(At::B, &Crafted { sa, ..Crafted::new(1) }.bytes(&[]));
        assert_eq!(last_notify(&pair).unwrap().0, notify::NO_PROPOSAL_CHOSEN);
    }
    // A good one among 255 is found.
    many[200] = Proposal { number: 201, ..good };
    pair.inject(At::B, &Crafted { sa: many, ..Crafted::new(1) }.bytes(&[]));
    assert_eq!(pair.b.endpoint.counts().half_open, 1);
}

/// Public mistake: missing payload. In IKE_SA_INIT.
#[test]
fn required_payloads_left_out_and_unknown_critical_ones() {
    let mut pair = idle();
    let whole = Crafted::new(1).bytes(&[]);
    let body = Body::parse(whole[16], &whole[HEADER_LEN..]).unwrap();
    for skip in 0..body.payloads().len() {
        let mut chain = Chain::new();
        body.payloads().iter().enumerate().filter(|(i, _)| *i != skip).for_each(|(_, p)| {
            chain.push(p);
        });
        let header = Header::parse(&whole).unwrap();
        pair.inject(At::B, &plain_message(&header, &chain));
    }
    assert!(pair.b.sent.is_empty());
    for unknown in (1..=255u8).filter(|k| !(33..=48).contains(k)) {
        // Critical: at the end of the chain, its generic header by hand.
        let mut message = Crafted::new(1).bytes(&[Payload::Other { kind: unknown, data: &[0; 40] }]);
        let at = message.len() - 43;
        message[at] = 0x80;
        pair.inject(At::B, &message);
        assert_eq!(last_notify(&pair), Some((notify::UNSUPPORTED_CRITICAL_PAYLOAD, vec![unknown])));
    }
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

/// Public mistake: dead state. Everything again, before and after the end.
#[test]
fn replays_do_nothing() {
    let (from_a, from_b) = conversation();
    let mut pair = up();
    pair.command(At::A, Command::RekeyChild(pair.a.only_child().inbound()));
    pair.run(secs(1));
    let (a, b) = (pair.a.sent.clone(), pair.b.sent.clone());
    let log = (pair.a.log.len(), pair.b.log.len());
    for _ in 0..3 {
        a.iter().chain(&from_a).for_each(|m| pair.inject(At::B, m));
        b.iter().chain(&from_b).for_each(|m| pair.inject(At::A, m));
        // Reflected, too.
        a.iter().for_each(|m| pair.inject(At::A, m));
        b.iter().for_each(|m| pair.inject(At::B, m));
    }
    pair.run(secs(1));
    assert!(pair.agreed());
    assert_eq!((pair.a.log.len(), pair.b.log.len()), log, "{:#?}", &pair.b.log[log.1..]);
    pair.run(secs(60));
    assert_eq!(pair.b.endpoint.counts().ike_sas, 1);
    // After the end: answered at most with what was said before, and no state.
    pair.command(At::A, Command::Terminate(TUNNEL, true));
    pair.run(secs(1));
    for _ in 0..2 {
        pair.a.sent.clone().iter().skip(1).for_each(|m| pair.inject(At::B, m));
        pair.b.sent.clone().iter().for_each(|m| pair.inject(At::A, m));
    }
    pair.run(secs(100));
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (Counts::default(), Counts::default()));
}

/// Public mistake: state order.
#[test]
fn nothing_but_ike_auth_goes_on_from_ike_sa_init() {
    let mut pair = idle();
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(1), |p| p.a.sent.len() == 2));
    // IKE_AUTH is on its way: the same under every other exchange type and id goes nowhere.
    let auth = pair.a.sent[1].clone();
    for exchange in 0..=255u8 {
        for id in [0, 2, 3] {
            let mut bad = auth.clone();
            (bad[18], bad[23]) = (exchange, id);
            pair.inject(At::B, &bad);
        }
    }
    assert!(pair.b.ike.is_none() && pair.b.log.is_empty());
    pair.run(secs(1));
    assert!(pair.agreed());
}

#[test]
fn ikev1_and_newer_versions() {
    let mut pair = idle();
    let mut message = Crafted::new(1).bytes(&[]);
    message[17] = 0x10;
    pair.inject(At::B, &message);
    assert!(pair.b.sent.is_empty());
    message[17] = 0x30;
    pair.inject(At::B, &message);
    assert_eq!(last_notify(&pair), Some((notify::INVALID_MAJOR_VERSION, vec![])));
    pair.inject(At::B, &message[..28]);
    assert_eq!(pair.b.sent.len(), 1, "never more bytes than came");
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

#[test]
fn cookies_and_groups_without_end_are_given_up() {
    for kind in [notify::COOKIE, notify::INVALID_KE_PAYLOAD] {
        let (a, b) =
            both(|c| c.ike_proposals = vec!["aes128gcm16-prfsha256-curve25519-ecp256".parse().unwrap()]);
        let mut pair = Pair::new(1, a, b);
        pair.link.cut_to = Some(At::B);
        pair.command(At::A, Command::Initiate(TUNNEL));
        for round in 0..10 {
            let header = Header::parse(pair.a.sent.last().unwrap()).unwrap();
            let group = if round % 2 == 0 { [0, 19] } else { [0, 31] };
            let data: &[u8] = if kind == notify::COOKIE { &[round; 32] } else { &group };
            pair.inject(At::A, &crate::v2::init::refusal(&header, kind, data));
        }
        assert_eq!(pair.a.sent.len(), 6);
        assert!(matches!(pair.a.failures[0].cause, crate::Cause::Endless(_)));
        assert_eq!(pair.a.endpoint.counts(), Counts::default());
    }
    // A group that was not offered.
    let mut pair = idle();
    pair.link.cut_to = Some(At::B);
    pair.command(At::A, Command::Initiate(TUNNEL));
    let header = Header::parse(pair.a.sent.last().unwrap()).unwrap();
    pair.inject(At::A, &crate::v2::init::refusal(&header, notify::INVALID_KE_PAYLOAD, &[0, 14]));
    assert_eq!(pair.a.failures[0].cause, crate::Cause::GroupRefused(14));
    assert_eq!(pair.a.failures[0].offered_remote, "modp2048");
}
