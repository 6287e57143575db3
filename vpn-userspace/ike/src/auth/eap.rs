//! EAP inside IKE_AUTH (RFC 7296 2.16): what the exchange needs of a method, whoever implements it.
//!
//! The methods are handed in: TLS reads the clock and draws its own randomness, which this crate does not.

use std::fmt;
use std::sync::Arc;

use culvert_crypto::{Random, Secret};

/// One side of EAP, configured: the client of a tunnel that proves itself by it, or the server of one whose peers do.
#[derive(Clone)]
pub struct Eap(Arc<dyn EapMethod>);

/// Makes runs of one side of EAP.
pub trait EapMethod: Send + Sync {
    /// A run; as server, with the first request.
    fn begin(&self, random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>);

    /// What it is, for people.
    fn name(&self) -> &'static str;
}

/// One run of EAP, as client or as server.
pub trait EapRun: Send {
    /// Takes in a message of the other side.
    fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> EapStep;
}

/// What follows a message.
#[derive(Debug)]
pub enum EapStep {
    /// Send this and go on.
    Send(Vec<u8>),
    /// As server: send this, which tells the client that it is not let in, for this reason. It may go without a word.
    Refuse(Vec<u8>, String),
    /// Both have succeeded. As server, the message is EAP-Success; the key goes into both sides' AUTH.
    Success(Vec<u8>, Secret),
    /// It has failed, for this reason. As server, the message is EAP-Failure.
    Failure(Vec<u8>, String),
}

impl Eap {
    /// By a method.
    pub fn new(method: impl EapMethod + 'static) -> Self {
        Self(Arc::new(method))
    }

    pub(crate) fn begin(&self, random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        self.0.begin(random)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }
}

impl fmt::Debug for Eap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Eap({})", self.name())
    }
}
