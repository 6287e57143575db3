//! Slow cryptography of the IKE core on the blocking pool: as many jobs at once as there are cores.

use std::collections::VecDeque;

use culvert_ike::{Job, JobDone, JobId};
use tokio::task::JoinSet;

/// Jobs that run and jobs that wait. Those of strangers wait for all others; how many there may be is bounded by the
/// half-open IKE SAs that the core allows.
pub(crate) struct Jobs {
    running: JoinSet<JobDone>,
    ids: Vec<(tokio::task::Id, JobId)>,
    limit: usize,
    proven: VecDeque<Job>,
    strangers: VecDeque<Job>,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        let limit = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            running: JoinSet::new(),
            ids: Vec::new(),
            limit,
            proven: VecDeque::new(),
            strangers: VecDeque::new(),
        }
    }

    /// Runs a job as soon as a core is free.
    pub(crate) fn add(&mut self, job: Job) {
        let queue = if job.proven() { &mut self.proven } else { &mut self.strangers };
        queue.push_back(job);
        self.start();
    }

    fn start(&mut self) {
        while self.running.len() < self.limit {
            let Some(job) = self.proven.pop_front().or_else(|| self.strangers.pop_front()) else { return };
            let id = job.id();
            let task = self.running.spawn_blocking(move || job.run());
            self.ids.push((task.id(), id));
        }
    }

    /// The next result; waits for ever while there are no jobs. Nothing is lost when this is dropped half-way.
    pub(crate) async fn next(&mut self) -> JobDone {
        loop {
            let Some(ended) = self.running.join_next_with_id().await else {
                return std::future::pending().await;
            };
            let (task, done) = match ended {
                Ok((task, done)) => (task, Some(done)),
                Err(error) => (error.id(), None),
            };
            let at = self.ids.iter().position(|(id, _)| *id == task);
            let id = at.map(|at| self.ids.swap_remove(at).1);
            self.start();
            if let Some(done) = done.or_else(|| id.map(JobId::lost)) {
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use culvert_crypto::SystemRandom;
    use culvert_ike::testing::{At, TUNNEL, config};
    use culvert_ike::{Command, Endpoint, EndpointConfig, Output, PeerConfig};
    use culvert_types::TunnelId;

    use super::*;

    /// More negotiations at once than there are cores: each gets its key pair, and leaves.
    #[tokio::test]
    async fn every_job_comes_back() {
        let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(SystemRandom::new()));
        let mut jobs = Jobs::new();
        let slow =
            PeerConfig { ike_proposals: vec!["aes128-sha256-modp2048".parse().unwrap()], ..config(At::A) };
        for n in 0..20 {
            let tunnel = TunnelId(TUNNEL.0 + n);
            let now = Instant::now();
            endpoint.handle_command(now, Command::AddPeer(tunnel, Box::new(slow.clone()))).unwrap();
            endpoint.handle_command(now, Command::Initiate(tunnel)).unwrap();
        }
        let mut requests = 0;
        while requests < 20 {
            match endpoint.poll() {
                Output::Job(job) => jobs.add(job),
                Output::Transmit { .. } => requests += 1,
                Output::Deadline(..) => {
                    assert!(jobs.running.len() <= jobs.limit);
                    let done = tokio::time::timeout(Duration::from_secs(20), jobs.next()).await.unwrap();
                    endpoint.handle_job(Instant::now(), done);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(jobs.ids.is_empty() && jobs.running.is_empty());
    }
}
