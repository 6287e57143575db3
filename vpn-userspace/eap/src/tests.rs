//! A client and a server against each other, message by message; and what neither may take.

use std::sync::Arc;

use culvert_crypto::sign::{PrivateKey, PublicKey};
use culvert_crypto::{NtHash, Random, Secret};
use proptest::prelude::*;

use crate::packet::{self, Code};
use crate::*;

struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(5).wrapping_add(7);
            *byte = self.0;
        }
    }
}

fn password(user: &str, password: &str) -> ClientConfig {
    let method = ClientMethod::MsChapV2 { user: user.to_owned(), hash: NtHash::of(password) };
    ClientConfig { identity: user.to_owned(), method }
}

fn passwords() -> ServerMethod {
    let users = [("alice".to_owned(), NtHash::of("wonderland"))];
    ServerMethod::MsChapV2(Arc::new(Users(users.into())))
}

fn server(methods: Vec<ServerMethod>) -> Arc<ServerConfig> {
    Arc::new(ServerConfig { name: "gw.example".to_owned(), methods, tls_versions: TlsVersions::Both })
}

/// How a run ended on either side, and how many messages the server sent.
struct Outcome {
    client: Result<Secret, EapError>,
    server: Result<(String, Secret), EapError>,
    messages: usize,
}

fn run(client: ClientConfig, server: Arc<ServerConfig>) -> Outcome {
    let (mut random, mut client) = (Counting(1), Client::new(client));
    let (mut server, mut message) = Server::begin(server, &mut random);
    let mut ended = None;
    for messages in 1..200 {
        assert!(message.len() <= MAX_MESSAGE);
        let response = match client.handle(&message, &mut random) {
            Ok(ClientStep::Respond(response)) => response,
            Ok(ClientStep::Success(msk)) => {
                let server = ended.expect("the server has ended");
                return Outcome { client: Ok(msk), server, messages };
            }
            Err(error) => {
                let server = ended.unwrap_or(Err(EapError::Failure));
                return Outcome { client: Err(error), server, messages };
            }
        };
        message = match server.handle(&response, &mut random) {
            ServerStep::Request(message) => message,
            ServerStep::Success { message, user, msk } => {
                ended = Some(Ok((user, msk)));
                message
            }
            ServerStep::Failure { message, error } => {
                ended = Some(Err(error));
                message
            }
        };
    }
    panic!("it does not end");
}

#[test]
fn a_password_lets_in_and_both_have_the_key() {
    for user in ["alice", "EXAMPLE\\alice"] {
        let outcome = run(password(user, "wonderland"), server(vec![passwords()]));
        let (name, msk) = outcome.server.unwrap();
        assert_eq!((name.as_str(), &outcome.client.unwrap()), (user, &msk));
        assert_eq!(msk.len(), 64);
    }
}

#[test]
fn a_wrong_password_and_a_stranger_are_told_alike() {
    let cases = [("alice", "Wonderland"), ("bob", "wonderland")];
    let outcomes = cases.map(|(user, word)| run(password(user, word), server(vec![passwords()])));
    let [wrong, stranger] = outcomes;
    assert_eq!(wrong.client.unwrap_err(), EapError::Password(691));
    assert_eq!(wrong.server.unwrap_err(), EapError::WrongPassword("alice".into()));
    assert_eq!(stranger.client.unwrap_err(), EapError::Password(691));
    assert_eq!(stranger.server.unwrap_err(), EapError::UnknownUser("bob".into()));
    assert_eq!(wrong.messages, stranger.messages);
}

/// Public mistake: auth bypass. Early EAP Success in every state, MSCHAPv2 Success before the response was checked.
#[test]
fn an_early_success_is_refused_in_every_state() {
    for after in 0..3 {
        let (mut random, mut client) = (Counting(1), Client::new(password("alice", "wonderland")));
        let (mut server, mut message) = Server::begin(server(vec![passwords()]), &mut random);
        for _ in 0..after {
            let Ok(ClientStep::Respond(response)) = client.handle(&message, &mut random) else { panic!() };
            let ServerStep::Request(next) = server.handle(&response, &mut random) else { panic!() };
            message = next;
        }
        let success = packet::outcome(Code::Success, 9);
        let error = client.handle(&success, &mut random).unwrap_err();
        assert_eq!(error, EapError::OutOfOrder("an early EAP-Success"), "after {after}");
        // And that was the end of it.
        assert!(client.handle(&message, &mut random).is_err());
    }
    // A Success of the method before its response, in a message of its own.
    let (mut random, mut client) = (Counting(1), Client::new(password("alice", "wonderland")));
    let text = [&[3, 0, 0, 46], &b"S=0000000000000000000000000000000000000000"[..]].concat();
    let early = packet::encode(Code::Request, 1, kind::MSCHAPV2, &text);
    assert!(matches!(client.handle(&early, &mut random), Err(EapError::OutOfOrder(_))));
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let (mut random, mut client) = (Counting(1), Client::new(password("alice", "wonderland")));
    let challenge = [&[1, 7, 0, 25, 16][..], &[5; 16], b"evil"].concat();
    let request = packet::encode(Code::Request, 1, kind::MSCHAPV2, &challenge);
    assert!(client.handle(&request, &mut random).is_ok());
    let claim = [&[3, 7, 0, 46][..], b"S=407A5589115FD0D6209F510FE9C04566932CDA56"].concat();
    let request = packet::encode(Code::Request, 2, kind::MSCHAPV2, &claim);
    assert_eq!(client.handle(&request, &mut random).unwrap_err(), EapError::ServerUnproven);
}

/// A certificate that stands for itself: whoever is trusted is a list, as the judge is not what is tested here.
#[derive(Clone)]
struct Site {
    chain: Vec<Vec<u8>>,
    key: Arc<PrivateKey>,
    public: PublicKey,
}

fn site(name: &str) -> Site {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let chain = vec![params.self_signed(&key).unwrap().der().to_vec()];
    let key = Arc::new(PrivateKey::from_pkcs8(&key.serialize_der()).unwrap());
    let public = key.public_key().clone();
    Site { chain, key, public }
}

struct Pki {
    server: Site,
    client: Site,
}

fn pki() -> Pki {
    Pki { server: site("gw.example"), client: site("alice.example") }
}

fn untrusted(what: &str) -> Untrusted {
    let text = || String::new();
    Untrusted { alert: Doubt::Expired, what: what.into(), mend: text(), ours: text(), theirs: text() }
}

/// `own` proves itself to who trusts it, and trusts `other` by the name.
fn side(own: &Site, other: &Site, name: &'static str) -> Arc<TlsSide> {
    let (chain, public) = (other.chain.clone(), other.public.clone());
    let judge = move |got: &[Vec<u8>], user: &str| match () {
        () if got != chain => Err(untrusted("unknown")),
        () if user != name => Err(untrusted("somebody else")),
        () => Ok(public.clone()),
    };
    Arc::new(TlsSide { chain: own.chain.clone(), key: Arc::clone(&own.key), judge: Arc::new(judge) })
}

fn by_tls(own: &Site, server: &Site, identity: &str) -> ClientConfig {
    let method = ClientMethod::Tls(side(own, server, ""));
    ClientConfig { identity: identity.into(), method }
}

fn takes_tls(pki: &Pki) -> ServerMethod {
    ServerMethod::Tls(side(&pki.server, &pki.client, "alice.example"))
}

#[test]
fn certificates_let_in_by_tls_1_2_and_1_3_and_both_have_the_key() {
    let pki = pki();
    for tls_versions in [TlsVersions::Only12, TlsVersions::Both] {
        let config = Arc::new(ServerConfig {
            name: "gw.example".to_owned(),
            methods: vec![takes_tls(&pki)],
            tls_versions,
        });
        let outcome = run(by_tls(&pki.client, &pki.server, "alice.example"), config);
        let (user, msk) = outcome.server.unwrap();
        assert_eq!(user, "alice.example");
        assert_eq!(outcome.client.unwrap(), msk, "{tls_versions:?}");
        assert!(msk.len() == 64 && msk.iter().any(|byte| *byte != 0));
    }
}

#[test]
fn certificates_that_are_not_trusted_let_nobody_in_and_both_know_why() {
    let (pki, other) = (pki(), self::pki());
    let why = |what: &str| EapError::Certificate(Box::new(untrusted(what)));
    // The server's.
    let outcome = run(by_tls(&pki.client, &other.server, "alice.example"), server(vec![takes_tls(&pki)]));
    assert_eq!(outcome.client.unwrap_err(), why("unknown"));
    assert!(matches!(outcome.server, Err(EapError::Alert(_))), "{:?}", outcome.server.err());
    // The client's.
    let outcome = run(by_tls(&other.client, &pki.server, "alice.example"), server(vec![takes_tls(&pki)]));
    assert_eq!(outcome.server.unwrap_err(), why("unknown"));
    let Err(EapError::Alert(told)) = &outcome.client else { panic!("{:?}", outcome.client.err()) };
    assert!(told.contains("certificate_expired"), "{told}");
    // It is trusted, and for somebody else than the identity.
    let outcome = run(by_tls(&pki.client, &pki.server, "bob.example"), server(vec![takes_tls(&pki)]));
    assert_eq!(outcome.server.unwrap_err(), why("somebody else"));
    assert!(outcome.client.is_err());
}

/// Some clients go away when they have read the alert: the reason is known before they could answer it.
#[test]
fn a_refusal_is_known_with_the_alert() {
    let (pki, other) = (pki(), self::pki());
    let mut random = Counting(1);
    let mut client = Client::new(by_tls(&other.client, &pki.server, "alice.example"));
    let (mut server, mut message) = Server::begin(server(vec![takes_tls(&pki)]), &mut random);
    for _ in 0..20 {
        let Ok(ClientStep::Respond(response)) = client.handle(&message, &mut random) else { break };
        let ServerStep::Request(request) = server.handle(&response, &mut random) else { panic!() };
        if let Some(error) = server.refusal() {
            assert_eq!(*error, EapError::Certificate(Box::new(untrusted("unknown"))));
            return;
        }
        message = request;
    }
    panic!("it was not refused");
}

/// A certificate that is not the key's: its owner is not whom it names.
#[test]
fn a_certificate_without_its_key_lets_nobody_in() {
    let pki = pki();
    let thief = Site { key: site("thief.example").key, ..pki.client.clone() };
    let outcome = run(by_tls(&thief, &pki.server, "alice.example"), server(vec![takes_tls(&pki)]));
    assert!(matches!(outcome.server, Err(EapError::Tls(_))), "{:?}", outcome.server.err());
    assert!(outcome.client.is_err());
    let config = server(vec![ServerMethod::Tls(side(
        &Site { key: site("thief.example").key, ..pki.server.clone() },
        &pki.client,
        "alice.example",
    ))]);
    let outcome = run(by_tls(&pki.client, &pki.server, "alice.example"), config);
    assert!(matches!(outcome.client, Err(EapError::Tls(_))), "{:?}", outcome.client.err());
    assert!(outcome.server.is_err());
}

#[test]
fn a_client_may_name_the_method_that_it_has() {
    let pki = pki();
    let both = || server(vec![takes_tls(&pki), passwords()]);
    assert!(run(password("alice", "wonderland"), both()).server.is_ok());
    let outcome = run(password("alice", "wonderland"), server(vec![takes_tls(&pki)]));
    assert_eq!(outcome.server.unwrap_err(), EapError::Refused { refused: 13, wanted: 26 });
}

/// Public mistake: EAP. Challenge, Success and Failure of MSCHAPv2 and fragments of TLS, cut at every length, with every
/// length that they may claim.
#[test]
fn every_length_is_survived() {
    let text = b"E=691 R=1 C=00000000000000000000000000000000 V=3 M=no";
    for (op, claimed) in [1, 3, 4].into_iter().flat_map(|op| (0..=255).map(move |n| (op, n))) {
        for len in 0..=text.len() {
            let (mut random, mut client) = (Counting(1), Client::new(password("alice", "wonderland")));
            let data = [&[op, 7, 0, claimed, claimed][..], &text[..len]].concat();
            for cut in [data.as_slice(), data.get(..len).unwrap_or_default()] {
                let request = packet::encode(Code::Request, 1, kind::MSCHAPV2, cut);
                let step = client.handle(&request, &mut random);
                assert!(!matches!(step, Ok(ClientStep::Success(_))));
            }
        }
    }
    for (flags, claimed) in [0, 0x20, 0x40, 0x80, 0xc0, 0xff]
        .into_iter()
        .flat_map(|f| [0, 1, 4, 1024, 0xffff, 0x0001_0000, 0x7fff_ffff, u32::MAX].map(|claimed| (f, claimed)))
    {
        for len in [0, 1, 3, 4, 5, 64] {
            let mut random = Counting(1);
            let data = [&[flags][..], &claimed.to_be_bytes(), &[0x16; 64][..len]].concat();
            let mut client = Client::new(by_tls(&PKI.client, &PKI.server, "alice.example"));
            let request = packet::encode(Code::Request, 1, kind::TLS, &data);
            assert!(!matches!(client.handle(&request, &mut random), Ok(ClientStep::Success(_))));
            let (mut server, first) = Server::begin(server(vec![takes_tls(&PKI)]), &mut random);
            let identity = packet::encode(Code::Response, first[1], kind::IDENTITY, b"alice");
            let ServerStep::Request(second) = server.handle(&identity, &mut random) else { panic!() };
            let response = packet::encode(Code::Response, second[1], kind::TLS, &data);
            assert!(!matches!(server.handle(&response, &mut random), ServerStep::Success { .. }));
        }
    }
}

#[test]
fn nothing_secret_is_printed() {
    let text = format!("{:?} {:?}", password("alice", "wonderland"), server(vec![passwords()]));
    assert_eq!(text, "ClientConfig(\"alice\" by MSCHAPv2) ServerConfig(\"gw.example\", EAP-MSCHAPv2)");
}

proptest! {
    /// Whatever comes in whatever order: no panic, and no success.
    #[test]
    fn noise_lets_nobody_in(messages in prop::collection::vec(noise(), 0..8), tls in any::<bool>()) {
        let mut random = Counting(3);
        let method = if tls { takes_tls(&PKI) } else { passwords() };
        let (mut server, _) = Server::begin(server(vec![method]), &mut random);
        let config = if tls { by_tls(&PKI.client, &PKI.server, "alice.example") } else { password("alice", "wonderland") };
        let mut client = Client::new(config);
        for message in &messages {
            let admitted = matches!(server.handle(message, &mut random), ServerStep::Success { .. });
            prop_assert!(!admitted);
            let convinced = matches!(client.handle(message, &mut random), Ok(ClientStep::Success(_)));
            prop_assert!(!convinced);
        }
    }
}

static PKI: std::sync::LazyLock<Pki> = std::sync::LazyLock::new(pki);

/// Bytes, and packets with sound headers around bytes.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let packet = (1..5u8, any::<u8>(), prop::sample::select(vec![1, 2, 3, 13, 26, 99]), bytes());
    let packet = packet.prop_map(|(code, id, kind, data)| {
        let mut out = packet::encode(Code::Request, id, kind, &data);
        out[0] = code;
        out
    });
    prop_oneof![bytes(), packet]
}
