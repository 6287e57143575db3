//! EAP-TLS (RFC 5216, with TLS 1.3 RFC 9190): TLS records of rustls in EAP fragments, and the keys that come of it.

use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use culvert_crypto::Secret;
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, ClientConnection, Connection, ProtocolVersion, ServerConnection,
    SupportedProtocolVersion,
};
use zeroize::Zeroize as _;

use crate::certificates::Verdict;
use crate::{EapError, TlsSide};

const LENGTH: u8 = 0x80;
const MORE: u8 = 0x40;
const START: u8 = 0x20;

/// TLS bytes in one EAP message: fits IKE messages that are not fragmented, with room for headers.
const FRAGMENT: usize = 1024;
/// More TLS bytes than this in one flight of the other side are refused.
const MAX_FLIGHT: usize = 64 * 1024;
/// RFC 9190 2.5: what the server says inside TLS 1.3 when it has succeeded.
const COMMITMENT: u8 = 0;

fn tls(error: rustls::Error) -> EapError {
    use AlertDescription as A;
    let rustls::Error::AlertReceived(alert) = error else { return EapError::Tls(error.to_string()) };
    // RFC 8446 6.2, RFC 5246 7.2.2.
    EapError::Alert(match alert {
        A::UnknownCA => "it does not know the authority of our certificate (unknown_ca)".to_owned(),
        A::CertificateExpired => {
            "our certificate has expired or is not valid yet (certificate_expired)".to_owned()
        }
        A::CertificateRevoked => "our certificate has been revoked (certificate_revoked)".to_owned(),
        A::BadCertificate => "our certificate is not taken (bad_certificate)".to_owned(),
        A::CertificateUnknown => "our certificate is not taken (certificate_unknown)".to_owned(),
        A::UnsupportedCertificate => {
            "our certificate is of a kind that it does not take (unsupported_certificate)".to_owned()
        }
        A::CertificateRequired | A::NoCertificate => {
            "it wants a certificate of ours (certificate_required)".to_owned()
        }
        A::AccessDenied => "our certificate is sound, but we are not let in (access_denied)".to_owned(),
        A::ProtocolVersion => "it has no TLS version of ours (protocol_version)".to_owned(),
        A::HandshakeFailure => {
            "it has no cipher suite or signature algorithm of ours (handshake_failure)".to_owned()
        }
        other => format!("alert {other:?}"),
    })
}

/// TLS over EAP, of either side.
struct Carrier {
    connection: Connection,
    /// TLS bytes to send, and how many of them have been.
    out: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    /// The TLS handshake failed; told when the alert has been sent.
    failed: Option<EapError>,
    committed: bool,
    /// What was said of the other side's certificate.
    verdict: Arc<Verdict>,
}

/// What the other side's message was good for.
enum Taken {
    /// It asks for the next fragment.
    Acknowledgement,
    /// More fragments follow: acknowledge.
    Part,
    /// TLS has taken it in.
    Flight,
}

impl Carrier {
    fn new(connection: impl Into<Connection>, verdict: Arc<Verdict>) -> Self {
        let connection = connection.into();
        let (out, incoming) = (Vec::new(), Vec::new());
        Self { connection, out, sent: 0, incoming, failed: None, committed: false, verdict }
    }

    /// Takes in flags and data.
    fn take(&mut self, data: &[u8]) -> Result<Taken, EapError> {
        let (flags, mut data) = match data.split_first() {
            Some((flags, data)) => (*flags, data),
            None => return Err(EapError::Malformed("EAP-TLS without flags")),
        };
        if flags & LENGTH != 0 {
            let Some((length, rest)) = data.split_first_chunk::<4>() else {
                return Err(EapError::Malformed("EAP-TLS length"));
            };
            // It announces; what comes counts.
            if u32::from_be_bytes(*length) as usize > MAX_FLIGHT {
                return Err(EapError::Malformed("EAP-TLS length"));
            }
            data = rest;
        }
        if self.sent < self.out.len() {
            // RFC 5216 2.1.5: only acknowledgements until everything is sent.
            return match (flags & MORE, data) {
                (0, []) => Ok(Taken::Acknowledgement),
                _ => Err(EapError::OutOfOrder("EAP-TLS data")),
            };
        }
        if self.incoming.len() + data.len() > MAX_FLIGHT {
            return Err(EapError::Malformed("too long a TLS message"));
        }
        self.incoming.extend_from_slice(data);
        if flags & MORE != 0 {
            return Ok(Taken::Part);
        }
        let flight = std::mem::take(&mut self.incoming);
        let mut rest = flight.as_slice();
        while !rest.is_empty() && self.failed.is_none() {
            match self.connection.read_tls(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(EapError::Tls(error.to_string())),
            }
            match self.connection.process_new_packets() {
                Ok(_) => {
                    let mut text = [0; 16];
                    match self.connection.reader().read(&mut text) {
                        Ok(1) if text[0] == COMMITMENT => self.committed = true,
                        Ok(0) => {}
                        Ok(_) => return Err(EapError::OutOfOrder("data inside TLS")),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(EapError::Tls(error.to_string())),
                    }
                }
                // The alert that says so to the other side waits to be written.
                Err(error) => {
                    let refused = self.verdict.refused().map(|why| EapError::Certificate(Box::new(why)));
                    self.failed = Some(refused.unwrap_or_else(|| tls(error)));
                }
            }
        }
        Ok(Taken::Flight)
    }

    /// What TLS wants to send now.
    fn pump(&mut self) -> Result<(), EapError> {
        self.out.clear();
        self.sent = 0;
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.out).map_err(|error| EapError::Tls(error.to_string()))?;
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Flags and data of the next message: a fragment, or an acknowledgement where there is nothing.
    fn next(&mut self) -> Vec<u8> {
        let rest = self.out.get(self.sent..).unwrap_or_default();
        let part = rest.get(..rest.len().min(FRAGMENT)).unwrap_or_default();
        let (first, last) = (self.sent == 0, part.len() == rest.len());
        let mut message = vec![if last { 0 } else { MORE }];
        // RFC 5216 2.1.5: the first of several fragments tells the length of all.
        if first && !last {
            message[0] |= LENGTH;
            message.extend_from_slice(&u32::try_from(self.out.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
        message.extend_from_slice(part);
        self.sent += part.len();
        message
    }

    fn is_1_3(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// RFC 5216 2.3, RFC 9190 2.3: the first half of 128 exported bytes.
    fn msk(&self) -> Result<Secret, EapError> {
        let (label, context): (&[u8], Option<&[u8]>) = match self.is_1_3() {
            true => (b"EXPORTER_EAP_TLS_Key_Material", Some(&[crate::kind::TLS])),
            false => (b"client EAP encryption", None),
        };
        let exported = match &self.connection {
            Connection::Client(c) => c.export_keying_material([0; 128], label, context),
            Connection::Server(c) => c.export_keying_material([0; 128], label, context),
        };
        let mut exported = exported.map_err(tls)?;
        let msk = Secret::from(&exported[..64]);
        exported.zeroize();
        Ok(msk)
    }
}

/// The client's side.
pub(crate) struct Client {
    carrier: Carrier,
    started: bool,
}

impl Client {
    pub(crate) fn new(side: &TlsSide) -> Result<Self, EapError> {
        let (config, verdict) = side.client()?;
        // Never sent and never compared: the judge knows whom the certificate must name.
        let nobody = ServerName::from(Ipv4Addr::UNSPECIFIED);
        let connection = ClientConnection::new(config, nobody).map_err(tls)?;
        Ok(Self { carrier: Carrier::new(connection, verdict), started: false })
    }

    pub(crate) fn handle(&mut self, data: &[u8]) -> Result<Vec<u8>, EapError> {
        if !self.started {
            if data.first().is_none_or(|flags| flags & START == 0) {
                return Err(EapError::OutOfOrder("EAP-TLS before its start"));
            }
            self.started = true;
            self.carrier.pump()?;
            return Ok(self.carrier.next());
        }
        let failed = self.carrier.failed.is_some();
        match self.carrier.take(data)? {
            Taken::Acknowledgement | Taken::Part => {}
            // It has been told, or has told us; nothing but EAP-Failure follows.
            Taken::Flight if failed => return Err(self.failure()),
            Taken::Flight => self.carrier.pump()?,
        }
        Ok(self.carrier.next())
    }

    /// The master session key, where EAP-Success is in order now.
    pub(crate) fn succeed(&mut self) -> Option<Secret> {
        let carrier = &self.carrier;
        let done = self.started && carrier.failed.is_none() && !carrier.connection.is_handshaking();
        // TLS asked for a verdict on the server, and got a good one.
        let done = done && carrier.verdict.trusted();
        // RFC 9190 2.5: with TLS 1.3 only after the server has committed itself.
        let committed = !carrier.is_1_3() || carrier.committed;
        (done && committed && !carrier.has_more()).then(|| carrier.msk().ok()).flatten()
    }

    /// What EAP-Failure means now.
    pub(crate) fn failure(&self) -> EapError {
        self.carrier.failed.clone().unwrap_or(EapError::Failure)
    }
}

/// The server's side.
pub(crate) struct Server {
    carrier: Carrier,
    finished: bool,
}

impl Server {
    /// Why the handshake failed, if it has.
    pub(crate) fn refusal(&self) -> Option<&EapError> {
        self.carrier.failed.as_ref()
    }
}

/// What the server does next.
pub(crate) enum Next {
    Send(Vec<u8>),
    Success(Secret),
}

impl Server {
    pub(crate) fn begin(
        side: &TlsSide,
        identity: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<(Self, Vec<u8>), EapError> {
        let (config, verdict) = side.server(identity, versions)?;
        let connection = ServerConnection::new(config).map_err(tls)?;
        Ok((Self { carrier: Carrier::new(connection, verdict), finished: false }, vec![START]))
    }

    pub(crate) fn handle(&mut self, data: &[u8]) -> Result<Next, EapError> {
        let carrier = &mut self.carrier;
        match carrier.take(data)? {
            Taken::Acknowledgement | Taken::Part => return Ok(Next::Send(carrier.next())),
            Taken::Flight => {}
        }
        if let Some(error) = &carrier.failed {
            // The client has the alert by now, or cannot be told.
            if self.finished {
                return Err(error.clone());
            }
            self.finished = true;
            carrier.pump()?;
            return if carrier.has_more() {
                Ok(Next::Send(carrier.next()))
            } else {
                Err(carrier.failed.clone().unwrap_or(EapError::Failure))
            };
        }
        if self.finished {
            if !carrier.verdict.trusted() {
                return Err(EapError::OutOfOrder("a client without a certificate"));
            }
            return Ok(Next::Success(carrier.msk()?));
        }
        if !carrier.connection.is_handshaking() {
            self.finished = true;
            if carrier.is_1_3() {
                let written = carrier.connection.writer().write_all(&[COMMITMENT]);
                written.map_err(|error| EapError::Tls(error.to_string()))?;
            }
        }
        carrier.pump()?;
        Ok(Next::Send(carrier.next()))
    }
}
