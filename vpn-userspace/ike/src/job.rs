//! Slow cryptography as jobs: the endpoint asks for them, its owner runs them wherever it likes and hands back what came out.

use std::fmt;
use std::sync::Arc;

use culvert_crypto::sign::{PrivateKey, Scheme, SignError};
use culvert_crypto::{DhError, DhGroup, KeyPair, Prf, Random, Secret, SharedSecret};

/// A piece of slow cryptography. Its owner calls [`run`](Self::run), on any thread and at any time, and gives the
/// result to [`Endpoint::handle_job`](crate::Endpoint::handle_job). Every job must come back, if only as
/// [`lost`](JobId::lost): a negotiation waits for it.
#[must_use]
pub struct Job {
    id: JobId,
    proven: bool,
    work: Work,
}

/// What tells a job from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobId {
    /// Our SPI of the IKE SA that waits.
    pub(crate) sa: u64,
    pub(crate) number: u64,
}

/// What came out of a job. Secrets in it are zeroized when dropped.
#[must_use]
pub struct JobDone {
    pub(crate) id: JobId,
    pub(crate) done: Done,
}

/// What there is to do.
pub(crate) enum Work {
    /// A key pair of our own.
    Generate(DhGroup, Drawn),
    /// The shared secret of our pair and the peer's value.
    Agree(KeyPair, Vec<u8>),
    /// A key pair and its shared secret with the peer's value.
    Answer(DhGroup, Drawn, Vec<u8>),
    /// A signature over a message.
    Sign(Arc<PrivateKey>, Scheme, Drawn, Vec<u8>),
}

/// What came of it.
pub(crate) enum Done {
    Pair(Result<KeyPair, DhError>),
    Shared(Result<SharedSecret, DhError>),
    Answer(Result<Answered, DhError>),
    Signature(Result<Vec<u8>, SignError>),
    Lost,
}

/// A responder's half of a key exchange: its public value, and the shared secret.
pub(crate) struct Answered {
    pub(crate) public: Vec<u8>,
    pub(crate) shared: SharedSecret,
}

/// Why a job brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JobError {
    #[error(transparent)]
    Dh(#[from] DhError),
    #[error("the job was never finished")]
    Lost,
}

impl Job {
    pub(crate) fn new(id: JobId, proven: bool, work: Work) -> Self {
        Self { id, proven, work }
    }

    /// What tells it from every other.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether the peer has authenticated, or we are the ones who want it: such jobs go before those of strangers.
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// Does the work: from half a millisecond to tens of milliseconds of one core.
    pub fn run(self) -> JobDone {
        let done = match self.work {
            Work::Generate(group, mut random) => Done::Pair(KeyPair::generate(group, &mut random)),
            Work::Agree(pair, value) => Done::Shared(pair.agree(&value)),
            Work::Answer(group, mut random, value) => Done::Answer(answer(group, &mut random, &value)),
            Work::Sign(key, scheme, mut random, message) => {
                Done::Signature(key.sign(scheme, &[&message], &mut random))
            }
        };
        JobDone { id: self.id, done }
    }
}

impl JobId {
    /// The result of a job that could not be run, or never ended.
    pub fn lost(self) -> JobDone {
        JobDone { id: self, done: Done::Lost }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("proven", &self.proven).finish_non_exhaustive()
    }
}

impl fmt::Debug for JobDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobDone").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The responder's half of a key exchange with the peer's value.
pub(crate) fn answer(group: DhGroup, random: &mut dyn Random, value: &[u8]) -> Result<Answered, DhError> {
    let (public, shared) = KeyPair::respond(group, value, random)?;
    Ok(Answered { public, shared })
}

/// Whether a group is too slow for the event loop. X25519 and the two curves take well under 0.3 ms.
pub(crate) fn is_slow(group: DhGroup) -> bool {
    !matches!(group, DhGroup::Curve25519 | DhGroup::Ecp256 | DhGroup::Ecp384)
}

/// Randomness that was drawn where the job was asked for: a seed, stretched by HMAC-SHA-256 in counter mode.
pub(crate) struct Drawn {
    seed: Secret,
    counter: u64,
}

impl Drawn {
    pub(crate) fn from(random: &mut dyn Random) -> Self {
        let mut seed = vec![0; 32];
        random.fill(&mut seed);
        Self { seed: Secret::new(seed), counter: 0 }
    }
}

impl Random for Drawn {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let block = Prf::HmacSha256.compute(&self.seed, &[&self.counter.to_be_bytes()]);
            self.counter += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Seeded;

    #[test]
    fn both_halves_agree_wherever_they_are_computed() {
        let mut random = Seeded(3);
        let id = JobId { sa: 1, number: 2 };
        for group in DhGroup::ALL {
            let run = |work| Job::new(id, true, work).run().done;
            let Done::Pair(Ok(pair)) = run(Work::Generate(group, Drawn::from(&mut random))) else {
                panic!("a key pair");
            };
            let value = pair.public().to_vec();
            let Done::Answer(Ok(answer)) = run(Work::Answer(group, Drawn::from(&mut random), value)) else {
                panic!("an answer");
            };
            let Done::Shared(Ok(shared)) = run(Work::Agree(pair, answer.public)) else {
                panic!("a shared secret")
            };
            assert_eq!(shared, answer.shared, "{group}");
            // Zero is a key of ML-KEM; there coefficients that are not reduced are none.
            let bad = if group.is_kem() { 0xff } else { 0 };
            assert!(matches!(
                run(Work::Answer(group, Drawn::from(&mut random), vec![bad; group.public_len()])),
                Done::Answer(Err(_))
            ));
        }
    }

    #[test]
    fn drawn_randomness_does_not_repeat() {
        let mut random = Seeded(4);
        let (mut a, mut b) = (Drawn::from(&mut random), Drawn::from(&mut random));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            for drawn in [&mut a, &mut b] {
                let mut out = [0; 48];
                drawn.fill(&mut out);
                assert!(seen.insert(out[..16].to_vec()) && seen.insert(out[32..].to_vec()));
            }
        }
    }

    #[test]
    fn debug_tells_no_secret() {
        let job = Job::new(
            JobId { sa: 1, number: 2 },
            false,
            Work::Generate(DhGroup::Modp2048, Drawn::from(&mut Seeded(1))),
        );
        assert_eq!(format!("{job:?}"), "Job { id: JobId { sa: 1, number: 2 }, proven: false, .. }");
    }
}
