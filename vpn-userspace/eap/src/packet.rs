//! EAP packets (RFC 3748 4).

use crate::EapError;

/// Longer messages are refused: nobody needs them, and fragments of TLS are kept below.
pub const MAX_MESSAGE: usize = 4096;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Request,
    Response,
    Success,
    Failure,
}

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) code: Code,
    pub(crate) id: u8,
    /// Of requests and responses: the method and its data.
    pub(crate) method: Option<(u8, &'a [u8])>,
}

impl<'a> Packet<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, EapError> {
        let &[code, id, high, low, ref body @ ..] = bytes else {
            return Err(EapError::Malformed("shorter than its header"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length != bytes.len() {
            return Err(EapError::Malformed("the length is not the message's"));
        }
        if length > MAX_MESSAGE {
            return Err(EapError::Malformed("too long"));
        }
        let code = match code {
            1 => Code::Request,
            2 => Code::Response,
            3 => Code::Success,
            4 => Code::Failure,
            _ => return Err(EapError::Malformed("unknown code")),
        };
        let method = match (code, body) {
            (Code::Request | Code::Response, [method, data @ ..]) => Some((*method, data)),
            (Code::Request | Code::Response, []) => return Err(EapError::Malformed("no method")),
            // RFC 3748 4.2: nothing stands in these.
            (Code::Success | Code::Failure, []) => None,
            _ => return Err(EapError::Malformed("data in Success or Failure")),
        };
        Ok(Self { code, id, method })
    }
}

/// A request or response.
pub(crate) fn encode(code: Code, id: u8, method: u8, data: &[u8]) -> Vec<u8> {
    let mut out = head(code, id, 5 + data.len());
    out.push(method);
    out.extend_from_slice(data);
    out
}

/// Success or Failure.
pub(crate) fn outcome(code: Code, id: u8) -> Vec<u8> {
    head(code, id, 4)
}

fn head(code: Code, id: u8, length: usize) -> Vec<u8> {
    let code = match code {
        Code::Request => 1,
        Code::Response => 2,
        Code::Success => 3,
        Code::Failure => 4,
    };
    // Our own messages are below `MAX_MESSAGE`.
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    vec![code, id, high, low]
}
