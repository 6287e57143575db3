//! The server: who lets in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use culvert_crypto::{NtHash, Random, Secret};

use crate::packet::{self, Code, Packet};
use crate::{EapError, TlsSide, TlsVersions, kind, mschapv2, tls};

/// The passwords of users, by name without a domain.
#[derive(Debug, Clone, Default)]
pub struct Users(pub BTreeMap<String, NtHash>);

/// How clients may prove who they are.
#[derive(Clone)]
pub struct ServerConfig {
    /// The server's name, which MSCHAPv2 clients see.
    pub name: String,
    /// First preferred; a client that refuses one may name the other.
    pub methods: Vec<ServerMethod>,
    /// Of EAP-TLS.
    pub tls_versions: TlsVersions,
}

/// A way for clients to prove who they are.
#[derive(Clone)]
pub enum ServerMethod {
    /// Passwords, by EAP-MSCHAPv2.
    MsChapV2(Arc<Users>),
    /// Certificates, by EAP-TLS.
    Tls(Arc<TlsSide>),
}

impl ServerMethod {
    fn kind(&self) -> u8 {
        match self {
            Self::MsChapV2(_) => kind::MSCHAPV2,
            Self::Tls(_) => kind::TLS,
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<String> = self.methods.iter().map(|m| kind::name(m.kind())).collect();
        write!(f, "ServerConfig({:?}, {})", self.name, methods.join(", "))
    }
}

/// One run of EAP.
pub struct Server {
    config: Arc<ServerConfig>,
    /// Of the request that waits for its response.
    id: u8,
    identity: String,
    state: State,
}

enum State {
    Identity,
    /// `first`: nothing but a NAK or the first answer may follow; `tried`: methods that the client refused.
    MsChapV2 {
        server: mschapv2::Server,
        users: Arc<Users>,
        first: bool,
    },
    Tls {
        server: Box<tls::Server>,
        first: bool,
    },
    Done,
}

/// What follows a message.
#[derive(Debug)]
pub enum ServerStep {
    /// Send this request.
    Request(Vec<u8>),
    /// The client is who it says: send the message; the master session key (64 bytes) is for both sides.
    Success {
        /// EAP-Success.
        message: Vec<u8>,
        /// Who the client proved to be.
        user: String,
        /// The key.
        msk: Secret,
    },
    /// Send the message; that was all.
    Failure {
        /// EAP-Failure.
        message: Vec<u8>,
        /// Why.
        error: EapError,
    },
}

impl Server {
    /// A server, and its first request, which asks for the identity.
    pub fn begin(config: Arc<ServerConfig>, random: &mut dyn Random) -> (Self, Vec<u8>) {
        let mut id = [0];
        random.fill(&mut id);
        let [id] = id;
        let request = packet::encode(Code::Request, id, kind::IDENTITY, &[]);
        (Self { config, id, identity: String::new(), state: State::Identity }, request)
    }

    /// The identity that the client presents, once it has; unproven.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Why the client will not be let in, where that is certain though a message is still to be sent: some clients go away
    /// without an answer to it.
    pub fn refusal(&self) -> Option<&EapError> {
        match &self.state {
            State::Tls { server, .. } => server.refusal(),
            _ => None,
        }
    }

    /// Takes in a message of the client.
    pub fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> ServerStep {
        match self.step(message, random) {
            Ok(step) => step,
            Err(error) => {
                self.state = State::Done;
                ServerStep::Failure { message: packet::outcome(Code::Failure, self.id), error }
            }
        }
    }

    fn step(&mut self, message: &[u8], random: &mut dyn Random) -> Result<ServerStep, EapError> {
        let packet = Packet::parse(message)?;
        let (Code::Response, Some((kind, data))) = (packet.code, packet.method) else {
            return Err(EapError::OutOfOrder("what is no response"));
        };
        // RFC 3748 4.1: a response has the identifier of its request. The carrier repeats nothing to us.
        if packet.id != self.id {
            return Err(EapError::OutOfOrder("a response with another identifier"));
        }
        let next = match (&mut self.state, kind) {
            (State::Identity, kind::IDENTITY) => {
                let identity = std::str::from_utf8(data).ok().filter(|id| id.len() <= 253);
                self.identity = identity.ok_or(EapError::Malformed("the identity"))?.to_owned();
                let method = self.config.methods.first().cloned();
                return self.propose(&method.ok_or(EapError::OutOfOrder("a client"))?, random);
            }
            (
                State::MsChapV2 { first: first @ true, .. } | State::Tls { first: first @ true, .. },
                kind::NAK,
            ) => {
                *first = false;
                let refused = self.method();
                let wanted = data.first().copied().unwrap_or_default();
                let other =
                    self.config.methods.iter().find(|m| m.kind() != refused && data.contains(&m.kind()));
                let other = other.cloned().ok_or(EapError::Refused { refused, wanted })?;
                let step = self.propose(&other, random);
                // One change of mind is enough.
                if let State::MsChapV2 { first, .. } | State::Tls { first, .. } = &mut self.state {
                    *first = false;
                }
                return step;
            }
            (State::MsChapV2 { server, users, first }, kind::MSCHAPV2) => {
                *first = false;
                server.handle(data, |name| users.0.get(name).cloned())?
            }
            (State::Tls { server, first }, kind::TLS) => {
                *first = false;
                match server.handle(data)? {
                    tls::Next::Send(data) => mschapv2::Next::Send(data),
                    tls::Next::Success(msk) => mschapv2::Next::Success { user: self.identity.clone(), msk },
                }
            }
            _ => return Err(EapError::OutOfOrder("a response of another method")),
        };
        match next {
            mschapv2::Next::Send(data) => Ok(self.request(&data)),
            mschapv2::Next::Success { user, msk } => {
                self.state = State::Done;
                Ok(ServerStep::Success { message: packet::outcome(Code::Success, self.id), user, msk })
            }
            mschapv2::Next::Failure(error) => Err(error),
        }
    }

    fn propose(&mut self, method: &ServerMethod, random: &mut dyn Random) -> Result<ServerStep, EapError> {
        let first = true;
        let data = match method {
            ServerMethod::MsChapV2(users) => {
                let (server, data) = mschapv2::Server::begin(&self.config.name, random);
                self.state = State::MsChapV2 { server, users: Arc::clone(users), first };
                data
            }
            ServerMethod::Tls(side) => {
                let versions = self.config.tls_versions.versions();
                let (server, data) = tls::Server::begin(side, &self.identity, versions)?;
                self.state = State::Tls { server: Box::new(server), first };
                data
            }
        };
        Ok(self.request(&data))
    }

    fn method(&self) -> u8 {
        match self.state {
            State::MsChapV2 { .. } => kind::MSCHAPV2,
            State::Tls { .. } => kind::TLS,
            State::Identity => kind::IDENTITY,
            State::Done => 0,
        }
    }

    fn request(&mut self, data: &[u8]) -> ServerStep {
        self.id = self.id.wrapping_add(1);
        ServerStep::Request(packet::encode(Code::Request, self.id, self.method(), data))
    }
}
