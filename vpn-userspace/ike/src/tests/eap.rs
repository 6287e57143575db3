//! EAP inside IKE_AUTH: the exchange's part, with a method that is as simple as can be.

use culvert_crypto::{Random, Secret};

use super::*;
use crate::{
    Auth, Cause, Counts, Eap, EapFault, EapMethod, EapNote, EapRun, EapStep, LocalAuth, Psk, RemoteAuth,
};

/// What a client by EAP says of a refusal.
const EAP: &str = "way to authenticate (EAP)";

/// Asks for a word so many times; both sides know it, or not. The key is made of it.
#[derive(Clone)]
struct Word {
    word: &'static [u8],
    rounds: u8,
    server: bool,
    /// The client claims success before the server has said so.
    hasty: bool,
}

impl EapMethod for Word {
    fn begin(&self, _: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        (Box::new(self.clone()), self.server.then(|| vec![1, 0]))
    }
    fn name(&self) -> &'static str {
        "EAP-Word"
    }
}

impl Word {
    fn key(&self) -> Secret {
        Secret::new(self.word.repeat(16))
    }
}

impl EapRun for Word {
    fn handle(&mut self, message: &[u8], _: &mut dyn Random) -> EapStep {
        match (self.server, message) {
            (false, [3, ..]) => EapStep::Success(Vec::new(), self.key()),
            (false, [4, ..]) => EapStep::Failure(Vec::new(), EapFault::new("the server says no")),
            (false, _) if self.hasty => EapStep::Success(Vec::new(), self.key()),
            (false, [1, n]) => EapStep::Send([&[2, *n][..], self.word].concat()),
            (true, [2, _, word @ ..]) if word == self.word && self.rounds > 0 => {
                self.rounds -= 1;
                EapStep::Send(vec![1, self.rounds])
            }
            (true, [2, _, word @ ..]) if word == self.word => EapStep::Success(vec![3, 0], self.key()),
            (true, [2, _, word @ ..]) if word == b"early" => {
                EapStep::Refuse(vec![1, 9], EapFault::new("wrong word"))
            }
            (true, _) => EapStep::Failure(vec![4, 0], EapFault::new("wrong word")),
            (false, _) => EapStep::Failure(Vec::new(), EapFault::new("malformed")),
        }
    }
}

fn word(word: &'static [u8], server: bool) -> Word {
    Word { word, rounds: 2, server, hasty: false }
}

/// A is the client, B the server, which proves itself by the pre-shared key.
fn with(client: Word, server: Word) -> (PeerConfig, PeerConfig) {
    let (mut a, mut b) = both(|_| {});
    let psk = || Psk::new("of the server").unwrap();
    a.auth = Auth { local: LocalAuth::Eap(Eap::new(client)), remote: RemoteAuth::Psk(psk()) };
    b.auth = Auth { local: LocalAuth::Psk(psk()), remote: RemoteAuth::Eap(Eap::new(server)) };
    (a, b)
}

/// Runs an initiation to its end and gives the causes of both sides.
fn fails(a: PeerConfig, b: PeerConfig) -> (Vec<Cause>, Vec<Cause>) {
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    pair.run(secs(400));
    assert_eq!((pair.a.endpoint.counts(), pair.b.endpoint.counts()), (Counts::default(), Counts::default()));
    assert!(pair.a.log.iter().chain(&pair.b.log).all(|line| !line.contains("IkeUp")));
    let causes = |failures: &[crate::Failure]| failures.iter().map(|f| f.cause.clone()).collect();
    (causes(&pair.a.failures), causes(&pair.b.failures))
}

#[test]
fn both_sides_come_up_with_the_key_of_eap() {
    for loss in [0.0, 0.3] {
        let (a, b) = with(word(b"open", false), word(b"open", true));
        let mut pair = Pair::new(7, a, b);
        pair.link.loss = loss;
        pair.command(At::A, Command::Initiate(TUNNEL));
        assert!(pair.run_until(secs(300), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
        pair.link.loss = 0.0;
        pair.command(At::A, Command::RekeyIke(TUNNEL));
        pair.run(secs(30));
        assert!(pair.agreed());
    }
}

#[test]
fn a_wrong_word_is_told_on_both_sides() {
    let (a, b) = with(word(b"shut", false), word(b"open", true));
    let (of_a, of_b) = fails(a, b);
    assert_eq!(of_a, [crate::Failure::of_eap("the server says no")]);
    assert_eq!(of_b, [crate::Failure::of_eap("wrong word")]);
}

/// The reason is told when the client is, once, though it may go away without a word.
#[test]
fn a_refusal_is_reported_at_once_and_once() {
    let (a, b) = with(word(b"early", false), word(b"open", true));
    let mut pair = Pair::new(1, a, b);
    pair.command(At::A, Command::Initiate(TUNNEL));
    assert!(pair.run_until(secs(5), |p| !p.b.failures.is_empty()));
    pair.run(secs(400));
    let causes: Vec<_> = pair.b.failures.iter().map(|f| f.cause.clone()).collect();
    assert_eq!(causes, [crate::Failure::of_eap("wrong word")]);
    assert!(pair.b.ike.is_none() && pair.a.ike.is_none());
}

/// Without the server's Success there is no AUTH that it would take.
/// Public mistake: auth bypass. AUTH before EAP has succeeded.
#[test]
fn a_hasty_client_is_not_let_in() {
    let (a, b) = with(Word { hasty: true, ..word(b"open", false) }, word(b"open", true));
    let (of_a, of_b) = fails(a, b);
    assert_eq!(of_a, [Cause::Refused(7)]);
    assert_eq!(of_b, [Cause::MissingPayload("EAP")]);
}

/// Has another key than the other side.
struct Liar(Word);
impl EapMethod for Liar {
    fn begin(&self, _: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        (Box::new(Self(self.0.clone())), self.0.server.then(|| vec![1, 0]))
    }
    fn name(&self) -> &'static str {
        "EAP-Liar"
    }
}
impl EapRun for Liar {
    fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> EapStep {
        match self.0.handle(message, random) {
            EapStep::Success(message, _) => EapStep::Success(message, Secret::new(vec![7; 64])),
            other => other,
        }
    }
}

/// The method believes both, but their keys differ: whoever stands between has not got it.
#[test]
fn another_key_on_either_side() {
    let (mut a, b) = with(word(b"open", false), word(b"open", true));
    a.auth.local = LocalAuth::Eap(Eap::new(Liar(word(b"open", false))));
    let (of_a, of_b) = fails(a, b);
    assert_eq!((of_a, of_b), (vec![Cause::ProofRefused(EAP)], vec![Cause::EapKey]));
}

#[test]
fn the_server_proves_itself_first() {
    let (mut a, b) = with(word(b"open", false), word(b"open", true));
    a.auth.remote = RemoteAuth::Psk(Psk::new("another").unwrap());
    let (of_a, of_b) = fails(a, b);
    assert!(matches!(of_a[..], [Cause::WrongPsk(_)]), "{of_a:?}");
    // It is told, before EAP has begun.
    assert_eq!(of_b, [Cause::AuthenticationRefused]);
}

#[test]
fn who_does_not_do_eap_is_refused() {
    let (a, mut b) = with(word(b"open", false), word(b"open", true));
    b.auth.remote = RemoteAuth::Psk(Psk::new("key").unwrap());
    let (of_a, of_b) = fails(a.clone(), b.clone());
    assert_eq!((of_a, of_b), (vec![Cause::ProofRefused(EAP)], vec![Cause::Eap]));
    // And the other way round: a pre-shared key where EAP is asked for.
    let (mut a, b) = with(word(b"open", false), word(b"open", true));
    a.auth.local = LocalAuth::Psk(Psk::new("key").unwrap());
    let (_, of_b) = fails(a, b);
    assert_eq!(of_b, [Cause::AuthMethod { got: 2, expected: "EAP-Word".into() }]);
}

#[test]
fn eap_without_end_is_ended() {
    let (a, b) = with(word(b"open", false), Word { rounds: 255, ..word(b"open", true) });
    let (of_a, of_b) = fails(a, b);
    assert!(matches!(&of_a[..], [Cause::EapFailed(_)] | [Cause::ProofRefused(EAP)]), "{of_a:?}");
    assert!(matches!(&of_b[..], [Cause::EapFailed(_)] | []), "{of_b:?}");
}

#[test]
fn eap_on_both_sides_is_no_configuration() {
    let (a, b) = with(word(b"open", false), word(b"open", true));
    let mut pair = Pair::new(1, a.clone(), b.clone());
    let time = pair.time;
    let config = PeerConfig { auth: Auth { remote: b.auth.remote, ..a.auth.clone() }, ..a };
    let refused = pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(config)));
    assert!(refused.unwrap_err().to_string().contains("EAP"));
}

/// RFC 5998: the method proves the server, too, where both sides want that.
#[test]
fn eap_alone_proves_both_where_both_want_it() {
    for (client, server) in [(true, true), (true, false), (false, true)] {
        let (mut a, mut b) = with(word(b"open", false), word(b"open", true));
        (a.exchange.eap_only, b.exchange.eap_only) = (client, server);
        // What the server would prove itself by shows whether it did.
        let only = client && server;
        if only {
            b.auth.local = LocalAuth::Psk(Psk::new("unknown to the client").unwrap());
        }
        let mut pair = Pair::new(3, a, b);
        pair.command(At::A, Command::Initiate(TUNNEL));
        assert!(pair.run_until(secs(60), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
    }
}

#[test]
fn eap_alone_proves_nobody_else() {
    let (mut a, mut b) = with(word(b"open", false), word(b"open", true));
    (a.exchange.eap_only, b.exchange.eap_only) = (true, true);
    // It has to be whom the client expects all the same.
    b.local_id = crate::Identity::parse("c.example").unwrap();
    a.remote_id = Some(crate::Identity::parse("b.example").unwrap());
    let (_, of_b) = fails(a.clone(), b.clone());
    assert!(matches!(of_b[..], [Cause::NoSuchPeer { .. }]), "{of_b:?}");
    // And has to have the same key in the end.
    (a.remote_id, b.auth.remote) = (None, RemoteAuth::Eap(Eap::new(Liar(word(b"open", true)))));
    assert_eq!(fails(a, b), (vec![Cause::ProofRefused(EAP)], vec![Cause::EapKey]));
    // It is nothing without EAP.
    let (a, b) = both(|_| {});
    let mut pair = Pair::new(1, a.clone(), b);
    let config =
        PeerConfig { exchange: crate::ExchangeOptions { eap_only: true, ..a.exchange.clone() }, ..a };
    let time = pair.time;
    let refused = pair.a.endpoint.handle_command(time, Command::AddPeer(TUNNEL, Box::new(config)));
    assert!(refused.is_err());
}

/// RFC 8784 3: with EAP the post-quantum key is used in the last round.
#[test]
fn a_ppk_goes_with_eap() {
    let same = "a:0123456789abcdef0123456789abcdef";
    let must = "a:0123456789abcdef0123456789abcdef!";
    for (client, server, used) in [
        (same, same, true),
        (must, must, true),
        (same, "", false),
        ("", same, false),
        (same, "b:another", false),
    ] {
        for eap_only in [false, true] {
            let (mut a, mut b) = with(word(b"open", false), word(b"open", true));
            (a.exchange.ppk, b.exchange.ppk) = (super::ppk::ppk(client), super::ppk::ppk(server));
            (a.exchange.eap_only, b.exchange.eap_only) = (eap_only, eap_only);
            let mut pair = Pair::new(5, a, b);
            pair.command(At::A, Command::Initiate(TUNNEL));
            assert!(pair.run_until(secs(60), Pair::agreed), "{:#?} {:#?}", pair.a.log, pair.b.log);
            for side in [&pair.a, &pair.b] {
                assert_eq!(side.ike.as_ref().map(|ike| ike.ppk), Some(used), "{client} {server}");
            }
            pair.command(At::B, Command::RekeyIke(TUNNEL));
            pair.run(secs(2));
            assert!(pair.agreed());
        }
    }
    let (mut a, mut b) = with(word(b"open", false), word(b"open", true));
    (a.exchange.ppk, b.exchange.ppk) = (super::ppk::ppk(must), None);
    assert_eq!(fails(a, b).0, [Cause::PpkUnsupported]);
    let (mut a, mut b) = with(word(b"open", false), word(b"open", true));
    (a.exchange.ppk, b.exchange.ppk) = (super::ppk::ppk("a:another"), super::ppk::ppk(must));
    assert_eq!(fails(a, b).1, [Cause::EapKey]);
}

/// Somebody else knows the word: the owner is asked each time.
struct Asks(Word);

impl EapMethod for Asks {
    fn begin(&self, _: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        (Box::new(Self(self.0.clone())), Some(vec![1, 0]))
    }
    fn name(&self) -> &'static str {
        "EAP-Asks"
    }
}

impl EapRun for Asks {
    fn handle(&mut self, message: &[u8], _: &mut dyn Random) -> EapStep {
        EapStep::Ask(EapNote::new(message.to_vec()))
    }
    fn answered(&mut self, note: &EapNote, random: &mut dyn Random) -> EapStep {
        self.0.handle(note.get::<Vec<u8>>().unwrap(), random)
    }
}

#[test]
fn the_owner_may_be_asked_and_takes_its_time() {
    for (client, loss) in [(&b"open"[..], 0.0), (b"open", 0.3), (b"shut", 0.0)] {
        let (a, mut b) = with(word(client, false), word(b"open", true));
        b.auth.remote = RemoteAuth::Eap(Eap::new(Asks(word(b"open", true))));
        let mut pair = Pair::new(9, a, b);
        pair.link.loss = loss;
        pair.command(At::A, Command::Initiate(TUNNEL));
        let mut answered = Vec::new();
        for _ in 0..8 {
            if !pair.run_until(secs(60), |p| !p.b.questions.is_empty()) {
                break;
            }
            // Longer than the client waits until it repeats itself; it is asked once all the same.
            pair.run(secs(if loss > 0.0 { 1 } else { 5 }));
            assert_eq!(pair.b.questions.len(), 1);
            let (check, note) = pair.b.questions.remove(0);
            pair.command(At::B, Command::EapAnswered(check, note.clone()));
            // Twice, and an old one: nothing happens.
            pair.command(At::B, Command::EapAnswered(check, note));
            answered.push(check);
            if answered.len() == 3 {
                break;
            }
        }
        pair.run_until(secs(60), Pair::agreed);
        if client == b"open" {
            assert!(answered.len() == 3 && pair.agreed(), "{answered:?} {:#?}", pair.b.log);
        } else {
            assert!(pair.a.ike.is_none() && pair.b.failures.len() == 1, "{:#?}", pair.b.failures);
        }
    }
    // Nobody answers: it goes without a trace.
    let (a, mut b) = with(word(b"open", false), word(b"open", true));
    b.auth.remote = RemoteAuth::Eap(Eap::new(Asks(word(b"open", true))));
    let (of_a, _) = fails(a, b);
    assert!(matches!(of_a[..], [Cause::GoneAfterInit(_)]), "{of_a:?}");
}
