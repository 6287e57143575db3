//! What a state is handed to work with: time, randomness, the tunnels, and where its output goes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_crypto::Random;
use culvert_types::{Spi, TunnelId};

use crate::endpoint::{AnySa, Clients, Leases, Line, Peers, Spis};
use crate::fragment::Sealed;
use crate::job::Work;
use crate::kex::Spawn;
use crate::tap::Tap;
use crate::v1;
use crate::v2::{Sa, child::Child, sa::IkeSa, sa::Task};
use crate::{DownReason, EndpointConfig, Event, Failure, Job, JobId, Output, Parity, PeerConfig};

/// Where messages of an IKE SA go, and what lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) nat_local: bool,
    pub(crate) nat_remote: bool,
    /// ESP goes in UDP on this path.
    pub(crate) encap: bool,
}

/// The surroundings of one step of one IKE SA.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) random: &'a mut dyn Random,
    pub(crate) peers: &'a Peers,
    pub(crate) spis: &'a mut Spis,
    pub(crate) leases: &'a mut Leases,
    pub(crate) others: &'a HashMap<u64, AnySa>,
    pub(crate) tunnels: &'a HashMap<TunnelId, Line>,
    pub(crate) clients: &'a mut Clients,
    pub(crate) tap: &'a Arc<Tap>,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    /// Leave after the events of this step.
    pub(crate) transmits: Vec<Output>,
    /// What concerns other IKE SAs of the tunnel; the endpoint does it after this step.
    pub(crate) effects: Vec<Effect>,
    /// Unproven strangers may cause this many more reports now.
    pub(crate) may_report: bool,
    /// Jobs asked for so far.
    pub(crate) jobs: &'a mut u64,
}

/// What one IKE SA's step means for others.
pub(crate) enum Effect {
    /// This IKE SA of the tunnel is up: others of the tunnel give way.
    Established { tunnel: TunnelId, key: u64, initial_contact: bool },
    /// A client has an instance of its tunnel from now on.
    Client { tunnel: TunnelId, config: Arc<PeerConfig> },
    /// A rekeyed IKE SA comes to life beside the old one.
    Spawn(Box<IkeSa>),
    /// The children of `from` live on in `to`, which becomes the tunnel's IKE SA.
    Adopt { tunnel: TunnelId, from: u64, to: u64, children: Vec<Child>, tasks: Vec<Task> },
    /// A phase 1 of IKEv1 has ended well. `rekeys`: it was opened in place of another one.
    EstablishedV1 { tunnel: TunnelId, key: u64, initial_contact: bool, rekeys: bool },
    /// A phase 1 of IKEv1 is to be replaced.
    RenewV1 { tunnel: TunnelId },
    /// The peer has shown that it has this SA of IKEv1.
    KnownV1 { tunnel: TunnelId, key: u64 },
    /// A child of IKEv1 came to an end on an SA that serves no more.
    AdoptV1 { tunnel: TunnelId, from: u64, children: Vec<v1::child::Child> },
    /// The peer has proven that it has the keys of a child that its SA handed on.
    ConfirmV1 { tunnel: TunnelId, inbound: Spi },
    /// The peer deleted a child that its SA handed on, by the SPI of its own.
    DeleteV1 { tunnel: TunnelId, outbound: u32 },
    /// The tunnel is to authenticate anew, beside the IKE SA that it has.
    Reauthenticate { tunnel: TunnelId },
    /// This IKE SA serves the tunnel no more.
    Left { tunnel: TunnelId, key: u64, reason: DownReason },
}

impl Ctx<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Sends a message: one datagram, or all its fragments.
    pub(crate) fn transmit(&mut self, local: SocketAddr, remote: SocketAddr, message: impl Into<Sealed>) {
        for bytes in message.into().datagrams().cloned() {
            self.transmits.push(Output::Transmit { local, remote, bytes });
        }
    }

    pub(crate) fn send(&mut self, path: &Path, message: impl Into<Sealed>) {
        self.transmit(path.local, path.remote, message);
    }

    /// Reports a failure, in the log and as an event.
    pub(crate) fn failed(&mut self, failure: Failure) {
        let text = failure.to_string();
        match failure.name.split_once('/') {
            // The fields name the tunnel; the text need not do so again.
            Some((connection, tunnel)) => {
                let text = text.strip_prefix(&format!("{}: ", failure.name)).unwrap_or(&text);
                tracing::warn!(connection, tunnel, "{text}");
            }
            None => tracing::warn!("{text}"),
        }
        self.event(Event::Failed(failure));
    }

    /// Reports what an unproven stranger caused: only so often.
    pub(crate) fn stranger_failed(&mut self, failure: Failure) {
        if self.may_report {
            self.may_report = false;
            self.failed(failure);
        } else {
            tracing::debug!("{failure}");
        }
    }

    pub(crate) fn nonce(&mut self) -> Vec<u8> {
        // RFC 7296 2.10: at least half the key size of the PRF; 32 bytes are half of 512 bits.
        let mut nonce = vec![0; 32];
        self.random.fill(&mut nonce);
        nonce
    }

    /// Whether another IKE SA serves the tunnel.
    pub(crate) fn is_served(&self, tunnel: TunnelId) -> bool {
        let all = self.tunnels.get(&tunnel).into_iter().flat_map(|line| &line.all);
        all.filter_map(|key| self.others.get(key))
            .any(|sa| matches!(sa, AnySa::V2(Sa::Up(s)) if s.tunnel == tunnel && s.serves()))
    }

    /// An IKE SPI of ours that no IKE SA has.
    pub(crate) fn ike_spi(&mut self) -> u64 {
        loop {
            let mut bytes = [0; 8];
            self.random.fill(&mut bytes);
            let spi = u64::from_be_bytes(bytes);
            if spi != 0 && !self.others.contains_key(&spi) {
                return spi;
            }
        }
    }

    /// A message id of IKEv1: random and not 0.
    pub(crate) fn message_id(&mut self) -> u32 {
        loop {
            let mut bytes = [0; 4];
            self.random.fill(&mut bytes);
            if bytes != [0; 4] {
                return u32::from_be_bytes(bytes);
            }
        }
    }

    /// An inbound ESP SPI that nobody has, reserved for the IKE SA `owner`.
    pub(crate) fn esp_spi(&mut self, owner: u64, parity: Option<Parity>) -> Spi {
        self.spis.reserve(self.random, owner, parity)
    }

    /// A time between `part` of the whole and the whole.
    pub(crate) fn jittered(&mut self, whole: Duration, part: f64) -> Duration {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes);
        let share = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
        whole.mul_f64(part + (1.0 - part) * share)
    }
}

impl Spawn for Ctx<'_> {
    fn random(&mut self) -> &mut dyn Random {
        self.random
    }

    fn spawn(&mut self, sa: u64, proven: bool, work: Work) -> u64 {
        *self.jobs += 1;
        let number = *self.jobs;
        self.outputs.push_back(Output::Job(Job::new(JobId { sa, number }, proven, work)));
        number
    }
}

/// The parts of a tunnel's name for the fields of a log line.
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, ""))
}

/// A log line of a tunnel: level, name, text.
macro_rules! log {
    ($level:ident, $name:expr, $($text:tt)+) => {{
        let (connection, tunnel) = $crate::ctx::split(&$name);
        tracing::$level!(connection, tunnel, $($text)+);
    }};
}
pub(crate) use log;
