//! The client: who asks to be let in.

use std::fmt;
use std::sync::Arc;

use culvert_crypto::{NtHash, Random, Secret};

use crate::packet::{self, Code, Packet};
use crate::{EapError, TlsSide, kind, mschapv2, tls};

/// Who the client is, and how it proves it.
#[derive(Clone)]
pub struct ClientConfig {
    /// The identity that it presents, in clear to whoever carries the messages; at most 253 bytes.
    pub identity: String,
    /// How it proves it.
    pub method: ClientMethod,
}

/// How a client proves who it is.
#[derive(Clone)]
pub enum ClientMethod {
    /// A password, by EAP-MSCHAPv2.
    MsChapV2 {
        /// The user's name, with or without a domain before a backslash.
        user: String,
        /// Of the password.
        hash: NtHash,
    },
    /// A certificate, by EAP-TLS (RFC 5216, RFC 9190).
    Tls(Arc<TlsSide>),
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            ClientMethod::MsChapV2 { .. } => "MSCHAPv2",
            ClientMethod::Tls(_) => "TLS",
        };
        write!(f, "ClientConfig({:?} by {method})", self.identity)
    }
}

/// One run of EAP.
pub struct Client {
    config: ClientConfig,
    method: Option<Method>,
    done: bool,
}

enum Method {
    MsChapV2(mschapv2::Client),
    Tls(Box<tls::Client>),
}

/// What follows a message.
#[derive(Debug)]
pub enum ClientStep {
    /// Send this response.
    Respond(Vec<u8>),
    /// Both sides have succeeded: the master session key (64 bytes).
    Success(Secret),
}

impl Client {
    /// A client that waits for the server's first request.
    pub fn new(config: ClientConfig) -> Self {
        Self { config, method: None, done: false }
    }

    /// Takes in a message of the server.
    ///
    /// # Errors
    /// When EAP has failed, for good.
    pub fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> Result<ClientStep, EapError> {
        if self.done {
            return Err(EapError::OutOfOrder("a message after the end"));
        }
        let step = self.step(message, random);
        self.done = !matches!(step, Ok(ClientStep::Respond(_)));
        step
    }

    fn step(&mut self, message: &[u8], random: &mut dyn Random) -> Result<ClientStep, EapError> {
        let packet = Packet::parse(message)?;
        match (packet.code, packet.method) {
            (Code::Success, _) => self.succeed(),
            (Code::Failure, _) => Err(match &self.method {
                Some(Method::MsChapV2(method)) => method.failure(),
                Some(Method::Tls(method)) => method.failure(),
                None => EapError::Failure,
            }),
            (Code::Response, _) => Err(EapError::OutOfOrder("a response of the server")),
            (Code::Request, None) => Err(EapError::Malformed("no method")),
            (Code::Request, Some((method, data))) => {
                let (method, answer) = self.answer(method, data, random)?;
                Ok(ClientStep::Respond(packet::encode(Code::Response, packet.id, method, &answer)))
            }
        }
    }

    /// The method and the data of the response.
    fn answer(&mut self, kind: u8, data: &[u8], random: &mut dyn Random) -> Result<(u8, Vec<u8>), EapError> {
        let ours = match self.config.method {
            ClientMethod::MsChapV2 { .. } => kind::MSCHAPV2,
            ClientMethod::Tls(_) => kind::TLS,
        };
        match kind {
            kind::IDENTITY if self.method.is_some() => {
                Err(EapError::OutOfOrder("a request for the identity"))
            }
            kind::IDENTITY => {
                let identity = self.config.identity.as_bytes();
                Ok((kind::IDENTITY, identity.get(..identity.len().min(253)).unwrap_or_default().to_vec()))
            }
            // RFC 3748 5.2: acknowledged, and shown to nobody: it is not authenticated.
            kind::NOTIFICATION => Ok((kind::NOTIFICATION, Vec::new())),
            kind if kind == ours => Ok((ours, self.method()?.handle(data, random)?)),
            // RFC 3748 5.3.1: only to the first request of a method.
            _ if self.method.is_none() => Ok((kind::NAK, vec![ours])),
            other => Err(EapError::Method(other)),
        }
    }

    fn method(&mut self) -> Result<&mut Method, EapError> {
        let new = match &self.config.method {
            _ if self.method.is_some() => None,
            ClientMethod::MsChapV2 { user, hash } => {
                Some(Method::MsChapV2(mschapv2::Client::new(user, hash.clone())))
            }
            ClientMethod::Tls(side) => Some(Method::Tls(Box::new(tls::Client::new(side)?))),
        };
        let slot = &mut self.method;
        if new.is_some() {
            *slot = new;
        }
        slot.as_mut().ok_or(EapError::OutOfOrder("a method"))
    }

    /// A Success is taken only where the method has succeeded on our side.
    fn succeed(&mut self) -> Result<ClientStep, EapError> {
        let msk = match &mut self.method {
            Some(Method::MsChapV2(method)) => method.succeed().cloned(),
            Some(Method::Tls(method)) => method.succeed(),
            None => None,
        };
        msk.map(ClientStep::Success).ok_or(EapError::OutOfOrder("an early EAP-Success"))
    }
}

impl Method {
    fn handle(&mut self, data: &[u8], random: &mut dyn Random) -> Result<Vec<u8>, EapError> {
        match self {
            Self::MsChapV2(method) => method.handle(data, random),
            Self::Tls(method) => method.handle(data),
        }
    }
}
