//! EAP-MSCHAPv2's messages (draft-kamath-pppext-eap-mschapv2) around RFC 2759's values.

use std::fmt::Write;

use culvert_crypto::{MsChap, NtHash, Random, Secret, equal};

use crate::EapError;

const CHALLENGE: u8 = 1;
const RESPONSE: u8 = 2;
const SUCCESS: u8 = 3;
const FAILURE: u8 = 4;

/// Longest user name taken, in bytes.
const MAX_NAME: usize = 256;

/// A message: code, and what follows code, identifier and length.
struct Message<'a> {
    code: u8,
    id: u8,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, EapError> {
        match data {
            // The client's answers to Success and Failure are their code alone.
            [code @ (SUCCESS | FAILURE)] => Ok(Self { code: *code, id: 0, body: &[] }),
            [code, id, high, low, body @ ..]
                if usize::from(u16::from_be_bytes([*high, *low])) == data.len() =>
            {
                Ok(Self { code: *code, id: *id, body })
            }
            [_, _, _, _, ..] => Err(EapError::Malformed("MSCHAPv2 length")),
            _ => Err(EapError::Malformed("MSCHAPv2 message cut short")),
        }
    }
}

fn encode(code: u8, id: u8, body: &[&[u8]]) -> Vec<u8> {
    let length = 4 + body.iter().map(|part| part.len()).sum::<usize>();
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = vec![code, id, high, low];
    body.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// RFC 2759 4: without what stands before a backslash.
fn without_domain(name: &[u8]) -> &[u8] {
    name.rsplit(|byte| *byte == b'\\').next().unwrap_or(name)
}

/// The client's side.
pub(crate) struct Client {
    user: String,
    hash: NtHash,
    state: ClientState,
}

enum ClientState {
    Begin,
    /// Waiting for what proves the server.
    Answered {
        authenticator: [u8; 20],
        msk: Secret,
    },
    /// Waiting for EAP-Success.
    Proven {
        msk: Secret,
    },
    /// The server refused with this code; waiting for EAP-Failure.
    Refused(u32),
}

impl Client {
    pub(crate) fn new(user: &str, hash: NtHash) -> Self {
        Self { user: user.to_owned(), hash, state: ClientState::Begin }
    }

    pub(crate) fn handle(&mut self, data: &[u8], random: &mut dyn Random) -> Result<Vec<u8>, EapError> {
        let message = Message::parse(data)?;
        match (message.code, &self.state) {
            // The server may begin anew as long as nothing is proven.
            (CHALLENGE, ClientState::Begin | ClientState::Answered { .. }) => self.answer(&message, random),
            (SUCCESS, ClientState::Answered { authenticator, msk }) => {
                let proven = authenticator_of(message.body).is_some_and(|got| equal(&got, authenticator));
                if !proven {
                    return Err(EapError::ServerUnproven);
                }
                self.state = ClientState::Proven { msk: msk.clone() };
                Ok(vec![SUCCESS])
            }
            (FAILURE, ClientState::Answered { .. }) => {
                self.state = ClientState::Refused(error_code(message.body));
                Ok(vec![FAILURE])
            }
            (SUCCESS, _) => Err(EapError::OutOfOrder("MSCHAPv2 Success")),
            (FAILURE, _) => Err(EapError::OutOfOrder("MSCHAPv2 Failure")),
            (CHALLENGE, _) => Err(EapError::OutOfOrder("MSCHAPv2 Challenge")),
            _ => Err(EapError::Malformed("MSCHAPv2 code")),
        }
    }

    fn answer(&mut self, message: &Message<'_>, random: &mut dyn Random) -> Result<Vec<u8>, EapError> {
        let cut = EapError::Malformed("MSCHAPv2 Challenge");
        let Some((16, rest)) = message.body.split_first() else { return Err(cut) };
        let Some((server_challenge, _name)) = rest.split_first_chunk::<16>() else { return Err(cut) };
        let mut client_challenge = [0; 16];
        random.fill(&mut client_challenge);
        let user = without_domain(self.user.as_bytes());
        let run = MsChap { server_challenge, client_challenge: &client_challenge, user };
        let response = self.hash.response(&run);
        self.state = ClientState::Answered {
            authenticator: self.hash.authenticator(&run, &response),
            msk: self.hash.msk(&response),
        };
        let name = self.user.as_bytes();
        Ok(encode(RESPONSE, message.id, &[&[49], &client_challenge, &[0; 8], &response, &[0], name]))
    }

    /// What EAP-Success means now.
    pub(crate) fn succeed(&self) -> Option<&Secret> {
        match &self.state {
            ClientState::Proven { msk } => Some(msk),
            _ => None,
        }
    }

    /// What EAP-Failure means now.
    pub(crate) fn failure(&self) -> EapError {
        match self.state {
            ClientState::Refused(code) => EapError::Password(code),
            _ => EapError::Failure,
        }
    }
}

/// `S=` and forty hexadecimal digits, at the start of a Success (RFC 2759 5).
fn authenticator_of(body: &[u8]) -> Option<[u8; 20]> {
    let digits = body.strip_prefix(b"S=")?.get(..40)?;
    let mut out = [0; 20];
    for (byte, pair) in out.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// The number after `E=` in a Failure (RFC 2759 6), 0 where there is none.
fn error_code(body: &[u8]) -> u32 {
    let text = body.strip_prefix(b"E=").unwrap_or_default();
    let digits = text.iter().take(9).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |code, digit| code * 10 + u32::from(digit - b'0'))
}

/// The server's side.
pub(crate) struct Server {
    name: String,
    state: ServerState,
}

enum ServerState {
    Challenged {
        challenge: [u8; 16],
        id: u8,
    },
    /// Waiting for the client to acknowledge.
    Proven {
        user: String,
        msk: Secret,
    },
    /// Waiting for the client to acknowledge the refusal.
    Refused(EapError),
    Done,
}

/// What the server does next.
pub(crate) enum Next {
    Send(Vec<u8>),
    Success { user: String, msk: Secret },
    Failure(EapError),
}

impl Server {
    /// The first message, and the state that waits for the answer.
    pub(crate) fn begin(name: &str, random: &mut dyn Random) -> (Self, Vec<u8>) {
        let (mut challenge, mut id) = ([0; 16], [0]);
        random.fill(&mut challenge);
        random.fill(&mut id);
        let [id] = id;
        let first = encode(CHALLENGE, id, &[&[16], &challenge, name.as_bytes()]);
        (Self { name: name.to_owned(), state: ServerState::Challenged { challenge, id } }, first)
    }

    /// `users` finds a password's hash by the name without its domain.
    pub(crate) fn handle(
        &mut self,
        data: &[u8],
        users: impl Fn(&str) -> Option<NtHash>,
    ) -> Result<Next, EapError> {
        let message = Message::parse(data)?;
        match (message.code, std::mem::replace(&mut self.state, ServerState::Done)) {
            (RESPONSE, ServerState::Challenged { challenge, id }) => {
                self.judge(&message, &challenge, id, users)
            }
            (SUCCESS, ServerState::Proven { user, msk }) => Ok(Next::Success { user, msk }),
            (FAILURE, ServerState::Refused(why)) => Ok(Next::Failure(why)),
            (RESPONSE | SUCCESS | FAILURE, _) => Err(EapError::OutOfOrder("an MSCHAPv2 answer")),
            _ => Err(EapError::Malformed("MSCHAPv2 code")),
        }
    }

    fn judge(
        &mut self,
        message: &Message<'_>,
        challenge: &[u8; 16],
        id: u8,
        users: impl Fn(&str) -> Option<NtHash>,
    ) -> Result<Next, EapError> {
        let cut = || EapError::Malformed("MSCHAPv2 Response");
        let (49, rest) = message.body.split_first().ok_or_else(cut)? else { return Err(cut()) };
        let (client_challenge, rest) = rest.split_first_chunk::<16>().ok_or_else(cut)?;
        let (_reserved, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (response, rest) = rest.split_first_chunk::<24>().ok_or_else(cut)?;
        let (_flags, name) = rest.split_first().ok_or_else(cut)?;
        if message.id != id {
            return Err(EapError::OutOfOrder("an MSCHAPv2 Response with another identifier"));
        }
        let user = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME).ok_or_else(cut)?;
        let plain = without_domain(name);
        let run = MsChap { server_challenge: challenge, client_challenge, user: plain };
        let hash = users(std::str::from_utf8(plain).map_err(|_| cut())?);
        let why = match &hash {
            Some(hash) if hash.accepts(&run, response) => {
                let mut text = String::from("S=");
                for byte in hash.authenticator(&run, response) {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{byte:02X}");
                }
                let _ = write!(text, " M=Welcome to {}", self.name);
                self.state = ServerState::Proven { user: user.to_owned(), msk: hash.msk(response) };
                return Ok(Next::Send(encode(SUCCESS, id, &[text.as_bytes()])));
            }
            Some(_) => EapError::WrongPassword(user.to_owned()),
            None => EapError::UnknownUser(user.to_owned()),
        };
        self.state = ServerState::Refused(why);
        // The client learns no more than that it failed, and may not try again on this challenge.
        let text = "E=691 R=0 C=00000000000000000000000000000000 V=3 M=Authentication failed";
        Ok(Next::Send(encode(FAILURE, id, &[text.as_bytes()])))
    }
}
