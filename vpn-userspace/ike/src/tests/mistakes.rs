//! Regressions for mistakes that IKE daemons have made in public, as a peer makes them who has the keys, or as good as.
//!
//! Each test says `Public mistake:` and the class; so do the tests elsewhere that stand for a class. `cargo xtask test`
//! counts them, and fails when a class has none.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use super::*;
use crate::Counts;
use crate::proposal::select;
use crate::wire::{Chain, Delete, Id, Notify, Payload, Proposal, notify};

const CREATE_CHILD_SA: u8 = 36;
const INFORMATIONAL: u8 = 37;
const IKE_AUTH: u8 = 35;
const ONE: Counts = Counts { ike_sas: 1, half_open: 0, spis: 1 };

/// A tunnel that is up, whose side B says in its log what it sends.
fn up() -> Pair {
    let (a, b) = both(|c| c.dpd = None);
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    pair.run(secs(1));
    pair.command(At::B, Command::Trace(true));
    pair.link.hold = true;
    pair
}

/// Has A's keys send B a request with any text where its payloads should be. Returns what B logged.
fn request(pair: &mut Pair, exchange: u8, first: u8, text: &[u8]) -> String {
    let message = pair.a.endpoint.craft(TUNNEL, exchange, None, (first, text)).expect("an IKE SA that is up");
    let before = pair.b.log.len();
    pair.inject(At::B, &message);
    pair.b.log[before..].join("\n")
}

fn send(pair: &mut Pair, exchange: u8, payloads: &[Payload<'_>]) -> String {
    let mut chain = Chain::new();
    payloads.iter().for_each(|payload| {
        chain.push(payload);
    });
    request(pair, exchange, chain.first(), chain.bytes())
}

/// Lets what is held go, and some time pass: the tunnel is what it was.
fn unharmed(mut pair: Pair, what: &str) {
    pair.held.clear();
    pair.link.hold = false;
    pair.run(secs(20));
    assert!(pair.b.ike.is_some() && pair.b.children.len() == 1, "{what}: {:#?}", pair.b.log);
    assert_eq!(pair.b.endpoint.counts(), ONE, "{what}");
}

/// Public mistake: cross-version payloads. Each type that IKEv2 does not know, IKEv1's among them, critical or not.
#[test]
fn payloads_of_every_unknown_type() {
    for kind in (1..=255u8).filter(|kind| !(33..=54).contains(kind)) {
        for critical in [0, 0x80] {
            let mut pair = up();
            let text = [0, critical, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8];
            let said = request(&mut pair, INFORMATIONAL, kind, &text);
            let refused = said.contains("UNSUPPORTED_CRITICAL_PAYLOAD");
            assert_eq!(refused, critical != 0, "payload {kind}, critical {critical}: {said}");
            unharmed(pair, &format!("payload {kind}"));
        }
    }
}

/// Public mistake: cross-version payloads. Each known type where it does not belong, with a body that it cannot have.
#[test]
fn known_payloads_in_the_wrong_place() {
    for kind in 33..=54u8 {
        for exchange in [CREATE_CHILD_SA, INFORMATIONAL, IKE_AUTH] {
            for body in [&[][..], &[0], &[0xff; 4], &[0; 8], &[0xff; 40]] {
                let mut pair = up();
                let length = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
                let text = [&[0, 0][..], &length, body].concat();
                request(&mut pair, exchange, kind, &text);
                pair.held.clear();
                pair.link.hold = false;
                pair.run(secs(1));
                let counts = pair.b.endpoint.counts();
                assert!(counts.ike_sas <= 1 && counts.spis <= 1, "payload {kind} in {exchange}: {counts:?}");
            }
        }
    }
}

/// What the requests of CREATE_CHILD_SA hold, by A of [`up`].
struct Requests {
    esp: Vec<Proposal>,
    ike: Vec<Proposal>,
    rekeyed: [u8; 4],
    config: PeerConfig,
}

impl Requests {
    fn of(pair: &Pair) -> Self {
        let config = config(At::A);
        Self {
            esp: select::offer_esp(&config.esp_proposals, config.esn, false, &[0, 0, 0x10, 9]),
            ike: select::offer_ike(&config.ike_proposals, &[7; 8]),
            rekeyed: pair.a.only_child().inbound().to_bytes(),
            config,
        }
    }

    /// A rekey of the child, and one of the IKE SA.
    fn all(&self) -> [Vec<Payload<'_>>; 2] {
        let rekey = Notify { protocol: 3, spi: &self.rekeyed, kind: notify::REKEY_SA, data: &[] };
        [
            vec![
                Payload::Notify(rekey),
                Payload::Sa(self.esp.clone()),
                Payload::Nonce(&[5; 32]),
                Payload::TsI(self.config.local_ts.clone()),
                Payload::TsR(self.config.remote_ts.clone()),
            ],
            vec![
                Payload::Sa(self.ike.clone()),
                Payload::Nonce(&[5; 32]),
                Payload::Ke { group: 31, data: &[9; 32] },
            ],
        ]
    }
}

/// Public mistake: missing payload. Each one left out of each request of CREATE_CHILD_SA; whole, they are taken.
#[test]
fn requests_without_a_payload_that_they_need() {
    for what in 0..2 {
        let parts = Requests::of(&up()).all()[what].len();
        for skip in 0..=parts {
            let mut pair = up();
            let requests = Requests::of(&pair);
            let mut payloads = requests.all()[what].clone();
            if skip < parts {
                payloads.remove(skip);
            }
            let said = send(&mut pair, CREATE_CHILD_SA, &payloads);
            let made = pair.b.children.len() + pair.b.endpoint.counts().ike_sas;
            // Without REKEY_SA it asks for another child, which is no mistake.
            if skip == parts || (what, skip) == (0, 0) {
                assert_eq!(made, 3, "request {what} whole: {said}");
            } else {
                assert_eq!(made, 2, "request {what} without payload {skip}: {said}");
                assert!(!said.is_empty(), "it is answered");
            }
        }
    }
}

/// Public mistake: reflection. REKEY_SA of protocols and SPIs that there are none of is answered, and no more.
#[test]
fn rekeys_of_what_is_no_child() {
    for protocol in [0, 1, 2, 4, 255] {
        for spi in [&[][..], &[1], &[0; 4], &[9; 4], &[9; 8], &[9; 200]] {
            let mut pair = up();
            let requests = Requests::of(&pair);
            let mut payloads = requests.all()[0].clone();
            payloads[0] = Payload::Notify(Notify { protocol, spi, kind: notify::REKEY_SA, data: &[] });
            let sent = pair.b.sent.len();
            send(&mut pair, CREATE_CHILD_SA, &payloads);
            assert_eq!(pair.b.sent.len(), sent + 1, "protocol {protocol}: answered once");
            assert_eq!(pair.b.children.len(), 1, "protocol {protocol}: no child is made");
        }
    }
}

/// Public mistake: traffic selectors. Every count and every length over one selector, and ranges upside down.
#[test]
fn selectors_of_every_count_and_length() {
    let selector = |length: u8| [7, 0, 0, length, 0, 0, 0xff, 0xff, 10, 1, 0, 0, 10, 1, 0xff, 0xff].to_vec();
    let bodies = (0..=255u8).flat_map(|n| {
        let counted = [&[n, 0, 0, 0][..], &selector(16)].concat();
        let sized = [&[1, 0, 0, 0][..], &selector(n)].concat();
        let mut inverted = [&[1, 0, 0, 0][..], &selector(16)].concat();
        inverted[12] = n;
        [counted, sized, inverted]
    });
    for body in bodies {
        let mut pair = up();
        let requests = Requests::of(&pair);
        let mut chain = Chain::new();
        for payload in &requests.all()[0] {
            match payload {
                Payload::TsI(_) => chain.push(&Payload::Other { kind: 44, data: &body }),
                other => chain.push(other),
            };
        }
        let sent = pair.b.sent.len();
        request(&mut pair, CREATE_CHILD_SA, chain.first(), chain.bytes());
        assert_eq!(pair.b.sent.len(), sent + 1, "it is answered: {body:?}");
        // What is no payload at all ends the IKE SA (RFC 7296 2.21.3), which A of the same making would know.
        let counts = pair.b.endpoint.counts();
        assert!(counts.ike_sas <= 1 && counts.spis <= 2, "{body:?}: {counts:?}");
    }
}

/// Public mistake: dead state. The child is deleted twice, then the IKE SA, twice, and what came before comes again.
#[test]
fn deletes_come_twice() {
    let mut pair = up();
    let spi = pair.a.only_child().inbound().to_bytes();
    let child = Payload::Delete(Delete { protocol: 3, spi_len: 4, spis: &spi });
    let both = [child.clone(), child];
    send(&mut pair, INFORMATIONAL, &both);
    assert!(pair.b.children.is_empty());
    let counts = pair.b.endpoint.counts();
    assert_eq!((counts.ike_sas, counts.spis), (1, 0));

    let mut pair = up();
    let mut chain = Chain::new();
    for _ in 0..2 {
        chain.push(&Payload::Delete(Delete { protocol: 1, spi_len: 0, spis: &[] }));
    }
    let message = pair.a.endpoint.craft(TUNNEL, INFORMATIONAL, None, (chain.first(), chain.bytes())).unwrap();
    let earlier = pair.a.sent.clone();
    for _ in 0..3 {
        pair.inject(At::B, &message);
        assert_eq!(pair.b.downs.len(), 1);
        // All but the first, with which an honest peer begins anew.
        earlier.iter().skip(1).for_each(|m| pair.inject(At::B, m));
    }
    // It stays for a while to answer who has not heard.
    pair.held.clear();
    pair.run(secs(100));
    assert_eq!(pair.b.endpoint.counts(), Counts::default());
}

/// Public mistake: auth bypass. Who has the keys of IKE_SA_INIT, which anybody has, gets nothing without AUTH.
#[test]
fn nobody_gets_past_authentication() {
    let config = config(At::A);
    let esp = select::offer_esp(&config.esp_proposals, config.esn, false, &[0, 0, 0x10, 9]);
    let id = Payload::IdI(Id { kind: 2, reserved: [0; 3], data: b"a.example" });
    let rest = [
        Payload::Sa(esp.clone()),
        Payload::TsI(config.local_ts.clone()),
        Payload::TsR(config.remote_ts.clone()),
    ];
    let with = |first: &[Payload<'static>]| [first, &rest].concat();
    let empty_auth = Payload::Auth { method: 2, data: &[] };
    let zero_auth = Payload::Auth { method: 2, data: &[0; 32] };
    let other_method = Payload::Auth { method: 13, data: &[0; 32] };
    let eap_success = Payload::Eap(&[3, 1, 0, 4]);
    let rekey =
        Requests { esp: esp.clone(), ike: Vec::new(), rekeyed: [0, 0, 0x10, 9], config: config.clone() };
    let cases: Vec<(u8, Vec<Payload<'_>>)> = vec![
        (IKE_AUTH, rest.to_vec()),
        (IKE_AUTH, with(std::slice::from_ref(&id))),
        (IKE_AUTH, with(&[id.clone(), empty_auth])),
        (IKE_AUTH, with(&[id.clone(), zero_auth])),
        (IKE_AUTH, with(&[id.clone(), other_method])),
        (IKE_AUTH, with(&[id, eap_success.clone()])),
        (IKE_AUTH, vec![eap_success]),
        (CREATE_CHILD_SA, rekey.all()[0].clone()),
        (CREATE_CHILD_SA, rest.to_vec()),
        (INFORMATIONAL, vec![Payload::Delete(Delete { protocol: 1, spi_len: 0, spis: &[] })]),
        (INFORMATIONAL, Vec::new()),
    ];
    for (number, (exchange, payloads)) in cases.iter().enumerate() {
        let (a, b) = both(|_| {});
        let mut pair = Pair::new(1, a, b);
        pair.link.hold = true;
        pair.command(At::A, Command::Initiate(TUNNEL));
        pair.deliver(0, false);
        pair.deliver(0, false);
        pair.held.clear();
        send(&mut pair, *exchange, payloads);
        assert!(pair.b.ike.is_none() && pair.b.children.is_empty(), "case {number}: {:#?}", pair.b.log);
        assert_eq!(pair.b.endpoint.counts().spis, 0, "case {number}");
    }
}

/// Takes every log line at every level and puts it into words, as a daemon at trace level does.
#[derive(Clone, Default)]
struct EveryLine(Arc<Mutex<Vec<String>>>);

struct Words<'a>(&'a mut String);

impl tracing::field::Visit for Words<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl tracing::Subscriber for EveryLine {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = String::new();
        event.record(&mut Words(&mut line));
        self.0.lock().unwrap().push(line);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Public mistake: log path. What is refused without any state is put into words all the same, on one line, and shows
/// no secret.
#[test]
fn refusals_are_logged_at_every_level() {
    let lines = EveryLine::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let mut honest = up();
        let requests = Requests::of(&honest);
        for payloads in requests.all() {
            for at in 0..payloads.len() {
                let mut pair = up();
                pair.command(At::A, Command::Trace(true));
                let mut short = payloads.clone();
                short.truncate(at);
                send(&mut pair, CREATE_CHILD_SA, &short);
            }
        }
        honest.held.clear();
        let real = honest.a.sent.clone();
        let (a, b) = both(|_| {});
        let mut idle = Pair::new(7, a, b);
        idle.command(At::B, Command::Trace(true));
        for message in &real {
            for byte in 0..message.len().min(200) {
                let mut bad = message.clone();
                bad[byte] ^= 0xff;
                idle.inject(At::B, &bad);
                honest.inject(At::B, &bad);
            }
        }
        lines.0.lock().unwrap().extend(idle.b.log.iter().chain(&honest.b.log).cloned());
    });
    let lines = lines.0.lock().unwrap();
    assert!(lines.len() > 100, "{} lines", lines.len());
    for line in lines.iter() {
        assert!(!line.chars().any(|c| c.is_control()), "{line:?}");
        assert!(!line.contains("correct horse"), "{line}");
    }
}
