//! EAP's methods (`culvert-eap`) in the shape in which the IKE core takes them, and their failures in its words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use culvert_config::{Authorities, Credentials};
use culvert_crypto::{NtHash, Random};
use culvert_eap::{
    CertificateJudge, Client, ClientConfig, ClientMethod, ClientStep, Doubt, EapError, Server, ServerConfig,
    ServerMethod, ServerStep, TlsSide, TlsVersions, Untrusted, Users,
};
use culvert_ike::{Blame, Eap, EapFault, EapMethod, EapRun, EapStep, Identity};

use crate::trust::{self, Expected};

/// EAP-MSCHAPv2 as client.
pub(crate) fn client(user: &str, hash: &NtHash) -> Eap {
    let method = ClientMethod::MsChapV2 { user: user.to_owned(), hash: hash.clone() };
    let config = ClientConfig { identity: user.to_owned(), method };
    Eap::new(ClientSide { config, name: "EAP-MSCHAPv2", about: String::new() })
}

/// EAP-MSCHAPv2 as server of these users.
pub(crate) fn server(users: &BTreeMap<String, NtHash>) -> Eap {
    let methods = vec![ServerMethod::MsChapV2(Arc::new(Users(users.clone())))];
    serve(methods, "EAP-MSCHAPv2", String::new())
}

/// EAP-TLS as client of a server whose certificate names `server`.
pub(crate) fn tls_client(
    user: &str,
    credentials: &Credentials,
    authorities: &Authorities,
    server: &Identity,
) -> Eap {
    let (authorities, server) = (authorities.clone(), server.clone());
    let judge = move |chain: &[Vec<u8>], _: &str| judge(chain, &authorities, Expected::Peer(&server));
    let method = ClientMethod::Tls(Arc::new(side(credentials, Arc::new(judge))));
    let config = ClientConfig { identity: user.to_owned(), method };
    Eap::new(ClientSide { config, name: "EAP-TLS", about: about(credentials) })
}

/// EAP-TLS as server of clients whose certificates name them.
pub(crate) fn tls_server(credentials: &Credentials, authorities: &Authorities) -> Eap {
    let authorities = authorities.clone();
    let judge = move |chain: &[Vec<u8>], user: &str| {
        let identity = Identity::parse(user).map_err(|error| Untrusted {
            alert: Doubt::Other,
            what: format!("the client calls itself {user:?}, which no certificate can be for: {error}"),
            mend: "give the client an EAP identity that is in its certificate".to_owned(),
            ours: String::new(),
            theirs: chain.first().map(|own| trust::about(own)).unwrap_or_default(),
        })?;
        judge(chain, &authorities, Expected::User(&identity))
    };
    let methods = vec![ServerMethod::Tls(Arc::new(side(credentials, Arc::new(judge))))];
    serve(methods, "EAP-TLS", about(credentials))
}

fn serve(methods: Vec<ServerMethod>, name: &'static str, about: String) -> Eap {
    let config = ServerConfig { name: "culvert".to_owned(), methods, tls_versions: TlsVersions::Both };
    Eap::new(ServerSide { config: Arc::new(config), name, about })
}

fn side(credentials: &Credentials, judge: Arc<CertificateJudge>) -> TlsSide {
    TlsSide { chain: credentials.chain().to_vec(), key: Arc::clone(credentials.key()), judge }
}

fn about(credentials: &Credentials) -> String {
    credentials.chain().first().map(|own| format!("certificate {}", trust::about(own))).unwrap_or_default()
}

fn judge(
    chain: &[Vec<u8>],
    authorities: &Authorities,
    expected: Expected<'_>,
) -> Result<culvert_crypto::sign::PublicKey, Untrusted> {
    let (certificates, crls) = (authorities.certificates(), authorities.crls());
    let verified = trust::verify(chain, certificates, crls, expected, SystemTime::now());
    verified.map(|verified| verified.key).map_err(|refused| {
        let trust::Refused { why, doubt } = refused;
        Untrusted { alert: doubt, what: why.what, mend: why.mend, ours: why.ours, theirs: why.theirs }
    })
}

/// `about`: what this side proves itself by, for people.
struct ClientSide {
    config: ClientConfig,
    name: &'static str,
    about: String,
}

struct ServerSide {
    config: Arc<ServerConfig>,
    name: &'static str,
    about: String,
}

struct ClientRun {
    client: Client,
    user: String,
    about: String,
}

struct ServerRun {
    server: Server,
    name: &'static str,
    about: String,
}

impl EapMethod for ClientSide {
    fn begin(&self, _random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        let user = self.config.identity.clone();
        let client = Client::new(self.config.clone());
        (Box::new(ClientRun { client, user, about: self.about.clone() }), None)
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

impl EapMethod for ServerSide {
    fn begin(&self, random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        let (server, request) = Server::begin(Arc::clone(&self.config), random);
        (Box::new(ServerRun { server, name: self.name, about: self.about.clone() }), Some(request))
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

impl EapRun for ClientRun {
    fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> EapStep {
        match self.client.handle(message, random) {
            Ok(ClientStep::Respond(response)) => EapStep::Send(response),
            Ok(ClientStep::Success(msk)) => EapStep::Success(Vec::new(), msk),
            Err(error) => EapStep::Failure(Vec::new(), fault(&error, &self.user, &self.about)),
        }
    }
}

impl EapRun for ServerRun {
    fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> EapStep {
        match self.server.handle(message, random) {
            // RFC 2759 6: an MSCHAPv2 Failure (type 26, code 4); some clients go away without acknowledging it.
            ServerStep::Request(request) if matches!(request[..], [1, _, _, _, 26, 4, ..]) => {
                let user = self.server.identity();
                EapStep::Refuse(request, password(user))
            }
            ServerStep::Request(request) => match self.server.refusal() {
                // A TLS alert, after which many clients go away.
                Some(error) => {
                    let why = fault(error, self.server.identity(), &self.about);
                    EapStep::Refuse(request, why)
                }
                None => EapStep::Send(request),
            },
            ServerStep::Success { message, user, msk } => {
                tracing::info!("{}: user {user:?} is let in", self.name);
                EapStep::Success(message, msk)
            }
            ServerStep::Failure { message, error } => {
                let user = self.server.identity();
                EapStep::Failure(message, fault(&error, user, &self.about))
            }
        }
    }
}

/// A user who does not exist and a wrong password are told alike, also here: a password typed as a name is in no log.
fn password(user: &str) -> EapFault {
    EapFault {
        theirs: format!("user {user:?}"),
        mend: "set the same password at the client (eap_password_file) and for this user in the server's users_file; or let the client use a name that stands there".to_owned(),
        rfc: "RFC 2759 6",
        ..EapFault::new(format!("user {user:?} does not exist, or its password is wrong"))
    }
}

/// What an error of a method means. `user`: the client's; `about`: what this side proves itself by.
fn fault(error: &EapError, user: &str, about: &str) -> EapFault {
    let plain = EapFault { ours: about.to_owned(), ..EapFault::new(error.to_string()) };
    match error {
        EapError::UnknownUser(_) | EapError::WrongPassword(_) => password(user),
        EapError::Password(_) => EapFault {
            ours: format!("user {user:?}"),
            mend: "set the password that the server has for this user, or a name that it knows".to_owned(),
            rfc: "RFC 2759 6",
            ..plain
        },
        EapError::ServerUnproven => EapFault {
            blame: Blame::Peer,
            mend: "set the same password on both sides; if it is, somebody poses as the server".to_owned(),
            rfc: "RFC 2759 5",
            ..plain
        },
        EapError::Method(_) | EapError::Refused { .. } => EapFault {
            mend: "let client and server use the same EAP method: auth of the client, remote_auth of the server"
                .to_owned(),
            rfc: "RFC 3748 5.3.1",
            ..plain
        },
        EapError::Certificate(untrusted) => EapFault {
            ours: untrusted.ours.clone(),
            theirs: untrusted.theirs.clone(),
            mend: untrusted.mend.clone(),
            rfc: "RFC 5216 5.3",
            ..plain
        },
        EapError::Alert(_) => EapFault {
            mend: "see that the other side trusts the authority of our certificate, that it is neither out of date nor revoked, and that our EAP identity (or server name) is in it; the other side's log says which".to_owned(),
            rfc: "RFC 5216 2.1.4",
            ..plain
        },
        EapError::Tls(_) => EapFault {
            mend: "see that both sides speak TLS 1.2 or 1.3 and that each has the key of its certificate"
                .to_owned(),
            rfc: "RFC 5216 2.1.4",
            ..plain
        },
        EapError::Malformed(_) | EapError::OutOfOrder(_) => EapFault {
            blame: Blame::Peer,
            mend: "ask the peer's vendor: its EAP breaks RFC 3748".to_owned(),
            rfc: "RFC 3748 4",
            ..plain
        },
        _ => plain,
    }
}
