//! EAP inside IKE_AUTH (RFC 7296 2.16): what the exchange needs of a method, whoever implements it.
//!
//! The methods are handed in: TLS reads the clock and draws its own randomness, which this crate does not.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use culvert_crypto::{Random, Secret};

use crate::Blame;

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

    /// Takes in what the owner found out after [`EapStep::Ask`].
    fn answered(&mut self, _note: &EapNote, _random: &mut dyn Random) -> EapStep {
        EapStep::Failure(Vec::new(), EapFault::new("an answer to no question"))
    }
}

/// What a method that cannot go on alone tells the endpoint's owner, and is told: of types that these two agree on.
#[derive(Debug, Clone)]
pub struct EapNote(Arc<dyn Any + Send + Sync>);

impl EapNote {
    /// Of any type.
    pub fn new(note: impl Any + Send + Sync) -> Self {
        Self(Arc::new(note))
    }

    /// What it holds, if it is of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// What follows a message.
#[derive(Debug)]
pub enum EapStep {
    /// Send this and go on.
    Send(Vec<u8>),
    /// As server: let the owner find out, by [`Event::EapAsk`](crate::Event::EapAsk), and go on with its answer.
    Ask(EapNote),
    /// As server: send this, which tells the client that it is not let in, for this reason. It may go without a word.
    Refuse(Vec<u8>, EapFault),
    /// Both have succeeded. As server, the message is EAP-Success; the key goes into both sides' AUTH.
    Success(Vec<u8>, Secret),
    /// It has failed, for this reason. As server, the message is EAP-Failure.
    Failure(Vec<u8>, EapFault),
}

/// Why EAP failed, as its method tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EapFault {
    /// What happened.
    pub what: String,
    /// Where to look.
    pub blame: Blame,
    /// What this side has or expects; may be empty.
    pub ours: String,
    /// What the other side has; may be empty.
    pub theirs: String,
    /// What to change, and on which side.
    pub mend: String,
    /// Where the rule stands.
    pub rfc: &'static str,
}

impl EapFault {
    /// A fault of which nothing more is known.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            blame: Blame::Configuration,
            ours: String::new(),
            theirs: String::new(),
            mend: "compare the user's name, password or certificate with what the server has".to_owned(),
            rfc: "RFC 7296 2.16",
        }
    }
}

impl fmt::Display for EapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
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
