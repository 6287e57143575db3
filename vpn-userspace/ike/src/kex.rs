//! Key exchanges whose arithmetic may take a job: the initiator's half and the responder's, at once or later.

use culvert_crypto::{DhGroup, KeyPair, Random, SharedSecret};

use crate::job::{Answered, Done, Drawn, JobError, Work, answer, is_slow};

/// The surroundings of a state, as far as jobs go.
pub(crate) trait Spawn {
    fn random(&mut self) -> &mut dyn Random;
    /// Has work done for the IKE SA `sa`; returns the job's number. `proven`: not on behalf of a stranger.
    fn spawn(&mut self, sa: u64, proven: bool, work: Work) -> u64;
}

/// Our half of a key exchange that we opened.
pub(crate) struct Half {
    sa: u64,
    group: DhGroup,
    state: State,
}

enum State {
    Making(u64),
    Made(KeyPair),
    Agreeing(u64),
    Agreed(Result<SharedSecret, JobError>),
    Spent,
}

/// What an agreement came to.
pub(crate) enum Agreement {
    Done(Result<SharedSecret, JobError>),
    /// A job has been asked for, or is at work.
    Later,
}

impl Half {
    /// A half for the IKE SA `sa`; with a slow group its public value is a job away.
    pub(crate) fn start(jobs: &mut dyn Spawn, sa: u64, group: DhGroup) -> Result<Self, JobError> {
        let state = if is_slow(group) {
            let drawn = Drawn::from(jobs.random());
            State::Making(jobs.spawn(sa, true, Work::Generate(group, drawn)))
        } else {
            State::Made(KeyPair::generate(group, jobs.random())?)
        };
        Ok(Self { sa, group, state })
    }

    pub(crate) fn group(&self) -> DhGroup {
        self.group
    }

    /// Our public value, once there is one and as long as no agreement has begun.
    pub(crate) fn public(&self) -> Option<&[u8]> {
        match &self.state {
            State::Made(pair) => Some(pair.public()),
            _ => None,
        }
    }

    /// Whether a job is at work for it.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.state, State::Making(_) | State::Agreeing(_))
    }

    /// Takes a job's result in. `None`: it is another's.
    pub(crate) fn on_job(&mut self, number: u64, done: &mut Option<Done>) -> Option<Result<(), JobError>> {
        match self.state {
            State::Making(n) if n == number => match done.take() {
                Some(Done::Pair(Ok(pair))) => {
                    self.state = State::Made(pair);
                    Some(Ok(()))
                }
                Some(Done::Pair(Err(e))) => Some(Err(e.into())),
                _ => Some(Err(JobError::Lost)),
            },
            State::Agreeing(n) if n == number => {
                self.state = State::Agreed(match done.take() {
                    Some(Done::Shared(shared)) => shared.map_err(JobError::Dh),
                    _ => Err(JobError::Lost),
                });
                Some(Ok(()))
            }
            _ => None,
        }
    }

    /// Asks for the job that [`agree`](Self::agree) needs with the peer's value. `true`: it is at work, wait for it.
    pub(crate) fn prepare(&mut self, jobs: &mut dyn Spawn, value: &[u8]) -> bool {
        if is_slow(self.group) && matches!(self.state, State::Made(_)) {
            let State::Made(pair) = std::mem::replace(&mut self.state, State::Spent) else { return false };
            self.state = State::Agreeing(jobs.spawn(self.sa, true, Work::Agree(pair, value.to_vec())));
        }
        self.waits()
    }

    /// The shared secret with the peer's value. The pair is used up by it, so that a second value gets nothing.
    pub(crate) fn agree(&mut self, jobs: &mut dyn Spawn, value: &[u8]) -> Agreement {
        if self.prepare(jobs, value) {
            return Agreement::Later;
        }
        match std::mem::replace(&mut self.state, State::Spent) {
            State::Made(pair) => Agreement::Done(pair.agree(value).map_err(JobError::Dh)),
            State::Agreed(result) => Agreement::Done(result),
            State::Making(_) | State::Agreeing(_) | State::Spent => Agreement::Done(Err(JobError::Lost)),
        }
    }
}

/// The responder's half of a key exchange, when it takes a job.
pub(crate) struct Answering {
    number: u64,
    group: DhGroup,
    result: Option<Result<Answered, JobError>>,
}

impl Answering {
    /// Takes a job's result in; `false`: it is another's.
    pub(crate) fn on_job(&mut self, number: u64, done: &mut Option<Done>) -> bool {
        let ours = self.number == number && self.result.is_none();
        if ours {
            self.result = Some(match done.take() {
                Some(Done::Answer(answer)) => answer.map_err(JobError::Dh),
                _ => Err(JobError::Lost),
            });
        }
        ours
    }

    /// The responder's half for the peer's value: at once where the group is fast or the job is done; otherwise
    /// `None`, a job has been asked for and stands in `slot`.
    pub(crate) fn answer(
        slot: &mut Option<Self>,
        jobs: &mut dyn Spawn,
        (sa, proven): (u64, bool),
        (group, value): (DhGroup, &[u8]),
    ) -> Option<Result<Answered, JobError>> {
        if !is_slow(group) {
            return Some(answer(group, jobs.random(), value).map_err(JobError::Dh));
        }
        match slot.take() {
            // The configuration may have changed while the job was at work: another group is another job.
            Some(Self { group: g, result: Some(result), .. }) if g == group => Some(result),
            _ => {
                let drawn = Drawn::from(jobs.random());
                let number = jobs.spawn(sa, proven, Work::Answer(group, drawn, value.to_vec()));
                *slot = Some(Self { number, group, result: None });
                None
            }
        }
    }
}
