//! EAP inside IKE_AUTH: the exchange's part, with a method that is as simple as can be.

use culvert_crypto::{Random, Secret};

use super::*;
use crate::{Auth, Cause, Counts, Eap, EapMethod, EapRun, EapStep, LocalAuth, Psk, RemoteAuth};

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
            (false, [4, ..]) => EapStep::Failure(Vec::new(), "the server says no".to_owned()),
            (false, _) if self.hasty => EapStep::Success(Vec::new(), self.key()),
            (false, [1, n]) => EapStep::Send([&[2, *n][..], self.word].concat()),
            (true, [2, _, word @ ..]) if word == self.word && self.rounds > 0 => {
                self.rounds -= 1;
                EapStep::Send(vec![1, self.rounds])
            }
            (true, [2, _, word @ ..]) if word == self.word => EapStep::Success(vec![3, 0], self.key()),
            (true, [2, _, word @ ..]) if word == b"early" => {
                EapStep::Refuse(vec![1, 9], "wrong word".to_owned())
            }
            (true, _) => EapStep::Failure(vec![4, 0], "wrong word".to_owned()),
            (false, _) => EapStep::Failure(Vec::new(), "malformed".to_owned()),
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
    assert_eq!(of_a, [Cause::EapFailed("the server says no".into())]);
    assert_eq!(of_b, [Cause::EapFailed("wrong word".into())]);
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
    assert_eq!(causes, [Cause::EapFailed("wrong word".into())]);
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

/// The method believes both, but their keys differ: whoever stands between has not got it.
#[test]
fn another_key_on_either_side() {
    struct Liar(Word);
    impl EapMethod for Liar {
        fn begin(&self, _: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
            (Box::new(Self(self.0.clone())), None)
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
    let (mut a, b) = with(word(b"open", false), word(b"open", true));
    a.auth.local = LocalAuth::Eap(Eap::new(Liar(word(b"open", false))));
    let (of_a, of_b) = fails(a, b);
    assert_eq!((of_a, of_b), (vec![Cause::AuthenticationRefused], vec![Cause::EapKey]));
}

#[test]
fn the_server_proves_itself_first() {
    let (mut a, b) = with(word(b"open", false), word(b"open", true));
    a.auth.remote = RemoteAuth::Psk(Psk::new("another").unwrap());
    let (of_a, _) = fails(a, b);
    assert!(matches!(of_a[..], [Cause::WrongPsk(_)]), "{of_a:?}");
}

#[test]
fn who_does_not_do_eap_is_refused() {
    let (a, mut b) = with(word(b"open", false), word(b"open", true));
    b.auth.remote = RemoteAuth::Psk(Psk::new("key").unwrap());
    let (of_a, of_b) = fails(a.clone(), b.clone());
    assert_eq!((of_a, of_b), (vec![Cause::AuthenticationRefused], vec![Cause::Eap]));
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
    assert!(matches!(&of_a[..], [Cause::EapFailed(_)] | [Cause::AuthenticationRefused]), "{of_a:?}");
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
