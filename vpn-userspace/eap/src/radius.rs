//! RADIUS (RFC 2865) as far as EAP needs it (RFC 3579): an Access-Request with an EAP message, and what a server answers,
//! checked by its Message-Authenticator.
//!
//! Every answer must carry a Message-Authenticator, whatever the server is used to: without it MD5's weakness lets
//! somebody on the way turn a reject into an accept (CVE-2024-3596). Sockets, repetition and the choice of a server are
//! the caller's.

use culvert_crypto::{Hash, Prf, Secret, equal};
use zeroize::Zeroize as _;

const ACCESS_REQUEST: u8 = 1;
const ACCESS_ACCEPT: u8 = 2;
const ACCESS_REJECT: u8 = 3;
const ACCESS_CHALLENGE: u8 = 11;

const USER_NAME: u8 = 1;
const NAS_IP_ADDRESS: u8 = 4;
const SERVICE_TYPE: u8 = 6;
const FRAMED_MTU: u8 = 12;
const REPLY_MESSAGE: u8 = 18;
const STATE: u8 = 24;
const VENDOR_SPECIFIC: u8 = 26;
const CALLING_STATION_ID: u8 = 31;
const NAS_IDENTIFIER: u8 = 32;
const NAS_PORT_TYPE: u8 = 61;
const EAP_MESSAGE: u8 = 79;
const MESSAGE_AUTHENTICATOR: u8 = 80;
const NAS_IPV6_ADDRESS: u8 = 95;

/// Microsoft (RFC 2548).
const MICROSOFT: [u8; 4] = 311_u32.to_be_bytes();
const MS_MPPE_SEND_KEY: u8 = 16;
const MS_MPPE_RECV_KEY: u8 = 17;

/// Code, identifier, length, authenticator.
const HEADER: usize = 20;
/// RFC 2865 3.
const MAX_PACKET: usize = 4096;
/// Of an attribute's value.
const MAX_VALUE: usize = 253;

/// What a RADIUS server is asked.
#[derive(Debug, Clone)]
pub struct AccessRequest<'a> {
    /// Who the client says it is.
    pub user: &'a str,
    /// What this gateway calls itself.
    pub nas_identifier: &'a str,
    /// This gateway's address, where it is known.
    pub nas_address: Option<std::net::IpAddr>,
    /// Where the client calls from.
    pub calling_station: &'a str,
    /// The server's own of its last challenge; empty at the beginning.
    pub state: &'a [u8],
    /// The client's EAP message.
    pub eap: &'a [u8],
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it decided.
    pub verdict: Verdict,
    /// The EAP message for the client; may be empty.
    pub eap: Vec<u8>,
    /// For the people who look for faults, in the server's words; may be empty.
    pub message: String,
}

/// What a server decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on: with this state in the next request.
    Challenge(Vec<u8>),
    /// The client is let in, with this master session key (64 bytes); `None`: the server gave none.
    Accept(Option<Secret>),
    /// It is not.
    Reject,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RadiusError {
    /// Lengths that cannot be (RFC 2865 3, 5).
    #[error("the answer is malformed")]
    Malformed,
    /// The answer to something else.
    #[error("the answer has another identifier")]
    Stray,
    /// Another kind of packet than those that answer.
    #[error("the answer is of code {0}")]
    Code(u8),
    /// The server does not have our secret, or somebody has changed the packet.
    #[error("the answer is not by our secret: its Response Authenticator is wrong")]
    Authenticator,
    /// No Message-Authenticator: nothing proves that nobody has changed the packet.
    #[error("the answer has no Message-Authenticator")]
    Unprotected,
    /// A wrong Message-Authenticator.
    #[error("the answer is not by our secret: its Message-Authenticator is wrong")]
    MessageAuthenticator,
    /// A key that cannot be decrypted (RFC 2548 2.4).
    #[error("the answer's key cannot be decrypted")]
    Key,
    /// More than fits a packet.
    #[error("the request is too long for RADIUS")]
    TooLong,
}

impl AccessRequest<'_> {
    /// The packet. `authenticator` must be fresh random bytes.
    ///
    /// # Errors
    /// When it would not fit.
    pub fn encode(
        &self,
        identifier: u8,
        authenticator: &[u8; 16],
        secret: &[u8],
    ) -> Result<Vec<u8>, RadiusError> {
        let mut out = vec![ACCESS_REQUEST, identifier, 0, 0];
        out.extend_from_slice(authenticator);
        // First, so that nobody can prepare a collision behind what precedes it.
        attribute(&mut out, MESSAGE_AUTHENTICATOR, &[0; 16])?;
        attribute(&mut out, USER_NAME, self.user.as_bytes())?;
        attribute(&mut out, NAS_IDENTIFIER, self.nas_identifier.as_bytes())?;
        match self.nas_address {
            Some(std::net::IpAddr::V4(a)) => attribute(&mut out, NAS_IP_ADDRESS, &a.octets())?,
            Some(std::net::IpAddr::V6(a)) => attribute(&mut out, NAS_IPV6_ADDRESS, &a.octets())?,
            None => {}
        }
        // Framed, over something virtual.
        attribute(&mut out, SERVICE_TYPE, &2_u32.to_be_bytes())?;
        attribute(&mut out, NAS_PORT_TYPE, &5_u32.to_be_bytes())?;
        // RFC 3579 2.4: how long an EAP message may be; leaves room for IKE's headers.
        attribute(&mut out, FRAMED_MTU, &1200_u32.to_be_bytes())?;
        attribute(&mut out, CALLING_STATION_ID, self.calling_station.as_bytes())?;
        if !self.state.is_empty() {
            attribute(&mut out, STATE, self.state)?;
        }
        for part in self.eap.chunks(MAX_VALUE) {
            attribute(&mut out, EAP_MESSAGE, part)?;
        }
        let length = u16::try_from(out.len()).map_err(|_| RadiusError::TooLong)?;
        if out.len() > MAX_PACKET {
            return Err(RadiusError::TooLong);
        }
        out[2..4].copy_from_slice(&length.to_be_bytes());
        let mac = hmac(secret, &[&out]);
        out[HEADER + 2..HEADER + 18].copy_from_slice(&mac);
        Ok(out)
    }
}

fn attribute(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), RadiusError> {
    let length = u8::try_from(value.len() + 2).map_err(|_| RadiusError::TooLong)?;
    // RFC 2865 5: nothing without a value.
    if !value.is_empty() {
        out.extend_from_slice(&[kind, length]);
        out.extend_from_slice(value);
    }
    Ok(())
}

fn hmac(secret: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = [0; 16];
    mac.copy_from_slice(&Prf::HmacMd5.compute(secret, parts)[..16]);
    mac
}

impl Answer {
    /// Reads the answer to the request of this identifier and authenticator, once it is proven to be by who has the
    /// secret.
    ///
    /// # Errors
    /// When it is not; the caller goes on waiting for one that is.
    pub fn read(
        packet: &[u8],
        identifier: u8,
        authenticator: &[u8; 16],
        secret: &[u8],
    ) -> Result<Self, RadiusError> {
        let packet = whole(packet)?;
        let (header, attributes) = packet.split_first_chunk::<HEADER>().ok_or(RadiusError::Malformed)?;
        if header[1] != identifier {
            return Err(RadiusError::Stray);
        }
        if ![ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE].contains(&header[0]) {
            return Err(RadiusError::Code(header[0]));
        }
        // RFC 2865 3: MD5(Code | ID | Length | Request Authenticator | Attributes | Secret).
        let expected = Hash::Md5.digest(&[&header[..4], authenticator, attributes, secret]);
        if !equal(&expected, &header[4..]) {
            return Err(RadiusError::Authenticator);
        }
        // RFC 3579 3.2: over the packet with the request's authenticator, and zeroes in its own place.
        let mut found = None;
        for item in Attributes(attributes) {
            let (at, kind, value) = item?;
            if kind == MESSAGE_AUTHENTICATOR && found.replace((at, value)).is_some() {
                return Err(RadiusError::Malformed);
            }
        }
        let (at, mac) = found.ok_or(RadiusError::Unprotected)?;
        if mac.len() != 16 {
            return Err(RadiusError::Malformed);
        }
        let (before, rest) = attributes.split_at(at);
        let after = rest.get(16..).unwrap_or_default();
        let expected = hmac(secret, &[&header[..4], authenticator, before, &[0; 16], after]);
        if !equal(&expected, mac) {
            return Err(RadiusError::MessageAuthenticator);
        }
        Self::read_proven(header[0], attributes, authenticator, secret)
    }

    fn read_proven(
        code: u8,
        attributes: &[u8],
        authenticator: &[u8; 16],
        secret: &[u8],
    ) -> Result<Self, RadiusError> {
        let (mut eap, mut message, mut state) = (Vec::new(), Vec::new(), Vec::new());
        let (mut send, mut receive) = (None, None);
        for item in Attributes(attributes) {
            let (_, kind, value) = item?;
            match (kind, value) {
                (EAP_MESSAGE, part) => eap.extend_from_slice(part),
                (REPLY_MESSAGE, text) => message.extend_from_slice(text),
                (STATE, value) => state = value.to_vec(),
                (VENDOR_SPECIFIC, [a, b, c, d, kind, length, value @ ..])
                    if [*a, *b, *c, *d] == MICROSOFT && usize::from(*length) == value.len() + 2 =>
                {
                    let slot = match *kind {
                        MS_MPPE_SEND_KEY => &mut send,
                        MS_MPPE_RECV_KEY => &mut receive,
                        _ => continue,
                    };
                    *slot = Some(decrypt(value, authenticator, secret)?);
                }
                _ => {}
            }
        }
        let verdict = match code {
            ACCESS_CHALLENGE => Verdict::Challenge(state),
            ACCESS_REJECT => Verdict::Reject,
            _ => Verdict::Accept(match (receive, send) {
                (Some(receive), Some(send)) => Some(msk(&receive, &send)),
                _ => None,
            }),
        };
        let mut message = String::from_utf8_lossy(&message).into_owned();
        message.retain(|c| !c.is_control());
        Ok(Self { verdict, eap, message })
    }
}

/// RFC 5216 2.3, and Microsoft's keys: what the server receives by, then what it sends by; EAP-MSCHAPv2's are 16 bytes
/// each, and zeroes fill the rest.
fn msk(receive: &Secret, send: &Secret) -> Secret {
    let mut key = Vec::with_capacity(64);
    key.extend_from_slice(receive);
    key.extend_from_slice(send);
    key.resize(64, 0);
    Secret::new(key)
}

/// A packet without padding, of the length that it tells.
fn whole(packet: &[u8]) -> Result<&[u8], RadiusError> {
    let Some([_, _, high, low]) = packet.first_chunk() else { return Err(RadiusError::Malformed) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if !(HEADER..=MAX_PACKET).contains(&length) {
        return Err(RadiusError::Malformed);
    }
    // RFC 2865 3: what follows is padding.
    packet.get(..length).ok_or(RadiusError::Malformed)
}

/// RFC 2548 2.4.2, 2.4.3: a salt, then the key and its length under a chain of MD5.
fn decrypt(value: &[u8], authenticator: &[u8; 16], secret: &[u8]) -> Result<Secret, RadiusError> {
    let Some((salt, cipher)) = value.split_first_chunk::<2>() else { return Err(RadiusError::Key) };
    let (blocks, rest) = cipher.as_chunks::<16>();
    if blocks.is_empty() || !rest.is_empty() {
        return Err(RadiusError::Key);
    }
    let mut plain = Vec::with_capacity(cipher.len());
    let mut mask = Hash::Md5.digest(&[secret, authenticator, salt]);
    for block in blocks {
        plain.extend(block.iter().zip(&mask).map(|(c, m)| c ^ m));
        mask = Hash::Md5.digest(&[secret, block]);
    }
    let length = plain.first().map_or(0, |length| usize::from(*length));
    let key = plain.get(1..=length).filter(|key| (1..=32).contains(&key.len())).map(Secret::from);
    plain.zeroize();
    key.ok_or(RadiusError::Key)
}

/// Attributes: where the value begins, type and value.
struct Attributes<'a>(&'a [u8]);

impl<'a> IntoIterator for Attributes<'a> {
    type Item = Result<(usize, u8, &'a [u8]), RadiusError>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter { rest: self.0, at: 0 }
    }
}

struct Iter<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Result<(usize, u8, &'a [u8]), RadiusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, length) = match self.rest {
            [] => return None,
            [kind, length, ..] => (*kind, usize::from(*length)),
            [_] => (0, 0),
        };
        let value = self.rest.get(2..length).filter(|_| length >= 2);
        let at = self.at + 2;
        self.rest = self.rest.get(length..).unwrap_or_default();
        self.at += length;
        match value {
            Some(value) => Some(Ok((at, kind, value))),
            None => {
                self.rest = &[];
                Some(Err(RadiusError::Malformed))
            }
        }
    }
}

#[cfg(test)]
#[path = "radius_tests.rs"]
mod tests;
