//! Writing a chain of payloads, each naming the type of the next (RFC 7296 3.2).

use super::{Flags, HEADER_LEN, Header, Payload};

/// Payloads in wire form, ready to follow a header or to be encrypted into an SK payload.
#[derive(Default, Clone)]
pub(crate) struct Chain {
    first: u8,
    last_header: Option<usize>,
    bytes: Vec<u8>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends one payload.
    pub(crate) fn push(&mut self, payload: &Payload<'_>) -> &mut Self {
        let kind = payload.kind();
        let at = self.bytes.len();
        match self.last_header {
            Some(last) => self.bytes[last] = kind,
            None => self.first = kind,
        }
        self.last_header = Some(at);
        self.bytes.extend_from_slice(&[0; 4]);
        payload.encode_body(&mut self.bytes);
        let length = u16::try_from(self.bytes.len() - at).expect("our own payloads are below 64 KiB");
        self.bytes[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// The type of the first payload, 0 for an empty chain.
    pub(crate) fn first(&self) -> u8 {
        self.first
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message without protection: IKE_SA_INIT and nothing else.
pub(crate) fn plain_message(header: &Header, chain: &Chain) -> Vec<u8> {
    let header = Header { next: chain.first(), ..*header };
    let length = HEADER_LEN + chain.bytes().len();
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&header.encode(length));
    out.extend_from_slice(chain.bytes());
    out
}

impl Header {
    /// The header of the answer to this request, sent by the side with the other flag.
    pub(crate) fn answer(&self) -> Self {
        Self { flags: Flags { initiator: !self.flags.initiator, response: true }, ..*self }
    }
}
