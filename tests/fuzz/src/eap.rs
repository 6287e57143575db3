//! EAP messages to a client and to servers: what a peer sends before it has proven anything.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use culvert_crypto::sign::{KeyKind, PrivateKey, generate};
use culvert_crypto::{NtHash, Random, Secret};
use culvert_eap::{
    Answer, Client, ClientConfig, ClientMethod, ClientStep, Server, ServerConfig, ServerMethod, ServerStep,
    TlsSide, TlsVersions, Users,
};
use culvert_pki::{Authority, Revoked, Subject};

/// The same bytes each time, so that a crash can be reproduced.
struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(31).wrapping_add(7);
            *byte = self.0;
        }
    }
}

/// An authority and its key, in PKCS#8.
fn authority(random: &mut Counting) -> (Authority, Secret) {
    let der = generate(KeyKind::Ed25519, random).expect("a key");
    let key = PrivateKey::from_pkcs8(&der).expect("a key");
    let subject = Subject::parse("fuzz").expect("a name");
    let span = (1_600_000_000, 4_000_000_000);
    (Authority::create(key, &subject, span, random).expect("an authority"), der)
}

/// A revocation list, for the corpus of certificates.
pub fn revocation_list() -> Vec<u8> {
    let random = &mut Counting(1);
    let revoked = [Revoked { serial: vec![7; 16], since: 1_700_000_000 }];
    let (authority, _) = authority(random);
    authority.crl(&revoked, 3, (1_700_000_000, 1_900_000_000), random).expect("a list")
}

/// A server that takes certificates by one authority.
static TLS: LazyLock<ServerMethod> = LazyLock::new(|| {
    let (authority, der) = authority(&mut Counting(1));
    let key = Arc::new(PrivateKey::from_pkcs8(&der).expect("a key"));
    let public = key.public_key().clone();
    // Whoever has this authority's own key is trusted: nobody who sends noise.
    let judge = Arc::new(move |_: &[Vec<u8>], _: &str| Ok(public.clone()));
    ServerMethod::Tls(Arc::new(TlsSide { chain: vec![authority.certificate().to_vec()], key, judge }))
});

/// The first byte chooses the role; then messages, each behind its length of one byte. What they say the side's own
/// state fills in: a client's responses get the identifier of the request, or nothing would get past it.
pub(super) fn eap(input: &[u8]) {
    let Some((choice, mut rest)) = input.split_first() else { return };
    // What a RADIUS server that does not have the secret may answer.
    assert!(Answer::read(input, 0, &[0; 16], b"secret").is_err());
    let random = &mut Counting(*choice);
    let hash = NtHash::of("password");
    let mut messages = std::iter::from_fn(|| {
        let (length, after) = rest.split_first()?;
        let (message, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        Some(message.to_vec())
    });
    if choice & 1 == 0 {
        let method = ClientMethod::MsChapV2 { user: "user".to_owned(), hash };
        let mut client = Client::new(ClientConfig { identity: "user".to_owned(), method });
        for message in messages {
            match client.handle(&message, random) {
                Ok(ClientStep::Respond(answer)) => assert!(answer.len() >= 4),
                Ok(ClientStep::Success(_)) => panic!("success without the password"),
                Err(_) => break,
            }
        }
        return;
    }
    let passwords = ServerMethod::MsChapV2(Arc::new(Users(BTreeMap::from([("user".to_owned(), hash)]))));
    let methods = if choice & 2 == 0 { vec![passwords] } else { vec![TLS.clone(), passwords] };
    let config = ServerConfig { name: "fuzz".to_owned(), methods, tls_versions: TlsVersions::Both };
    let (mut server, mut request) = Server::begin(Arc::new(config), random);
    while let Some(mut message) = messages.next() {
        if let (true, Some(id), Some(own)) = (choice & 4 == 0, message.get_mut(1), request.get(1)) {
            *id = *own;
        }
        match server.handle(&message, random) {
            ServerStep::Request(next) => request = next,
            ServerStep::Success { .. } => panic!("success without password or certificate"),
            ServerStep::Failure { .. } => break,
        }
    }
}

/// What a conversation looks like, from both sides.
pub fn seeds() -> Vec<Vec<u8>> {
    let hash = NtHash::of("password");
    let method = ClientMethod::MsChapV2 { user: "user".to_owned(), hash: hash.clone() };
    let mut client = Client::new(ClientConfig { identity: "user".to_owned(), method });
    let users = Users(BTreeMap::from([("user".to_owned(), hash)]));
    let methods = vec![ServerMethod::MsChapV2(Arc::new(users))];
    let config = ServerConfig { name: "fuzz".to_owned(), methods, tls_versions: TlsVersions::Both };
    let random = &mut Counting(9);
    let (mut server, mut request) = Server::begin(Arc::new(config), random);
    let (mut to_client, mut to_server) = (vec![0], vec![1]);
    let push = |stream: &mut Vec<u8>, message: &[u8]| {
        stream.push(u8::try_from(message.len()).expect("short messages"));
        stream.extend_from_slice(message);
    };
    loop {
        push(&mut to_client, &request);
        let Ok(ClientStep::Respond(answer)) = client.handle(&request, random) else { break };
        push(&mut to_server, &answer);
        match server.handle(&answer, random) {
            ServerStep::Request(next) => request = next,
            _ => break,
        }
    }
    // The server's challenge is another one in the target: what follows it fails, as it must.
    let tls_start = [1, 9, 2, 0, 0, 9, 1, b'u', b's', b'e', b'r', 10, 2, 0, 0, 10, 13, 0x80, 0, 0, 0, 0];
    vec![to_client, to_server, [&[3], &tls_start[1..]].concat()]
}
