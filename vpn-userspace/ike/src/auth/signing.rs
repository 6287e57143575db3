//! Signatures of ours whose arithmetic takes a job: asked for once, and found again when the message that needs them is
//! put together anew.

use std::sync::Arc;

use culvert_crypto::sign::{KeyKind, PrivateKey, Scheme};

use crate::error::Cause;
use crate::job::{Done, Drawn, Work};
use crate::kex::Spawn;

/// Makes a signature over the parts of a message, or `None` while a job is at work on it.
pub(crate) type Make<'m> =
    dyn FnMut(&Arc<PrivateKey>, Scheme, &[&[u8]]) -> Option<Result<Vec<u8>, Cause>> + 'm;

/// The signatures of one IKE SA's authentication, made or being made.
#[derive(Default)]
pub(crate) struct Signing {
    made: Vec<Made>,
}

struct Made {
    number: u64,
    scheme: Scheme,
    message: Vec<u8>,
    result: Option<Result<Vec<u8>, Cause>>,
}

/// Whether a key is too slow for the event loop: RSA takes a millisecond and more, P-521 as much; the others well under
/// a tenth of one.
fn is_slow(kind: KeyKind) -> bool {
    matches!(kind, KeyKind::Rsa(_) | KeyKind::EcdsaP521)
}

impl Signing {
    /// The signature: at once where the key is fast or the job is done. `None`: a job has been asked for on behalf of
    /// the IKE SA `owner`; the second part says that its peer has proven itself, or that we want it.
    pub(crate) fn sign(
        &mut self,
        jobs: &mut dyn Spawn,
        (owner, proven): (u64, bool),
        key: &Arc<PrivateKey>,
        scheme: Scheme,
        parts: &[&[u8]],
    ) -> Option<Result<Vec<u8>, Cause>> {
        if !is_slow(key.kind()) {
            return Some(key.sign(scheme, parts, jobs.random()).map_err(Cause::from));
        }
        let message = parts.concat();
        if let Some(made) = self.made.iter().find(|m| m.scheme == scheme && m.message == message) {
            return made.result.clone();
        }
        let drawn = Drawn::from(jobs.random());
        let work = Work::Sign(Arc::clone(key), scheme, drawn, message.clone());
        let number = jobs.spawn(owner, proven, work);
        self.made.push(Made { number, scheme, message, result: None });
        None
    }

    /// Takes a job's result in; `false`: it is another's.
    pub(crate) fn on_job(&mut self, number: u64, done: &mut Option<Done>) -> bool {
        let Some(made) = self.made.iter_mut().find(|m| m.number == number && m.result.is_none()) else {
            return false;
        };
        made.result = Some(match done.take() {
            Some(Done::Signature(signature)) => signature.map_err(Cause::from),
            _ => Err(Cause::Unfinished),
        });
        true
    }

    /// Whether a job is at work.
    pub(crate) fn waits(&self) -> bool {
        self.made.iter().any(|m| m.result.is_none())
    }
}
