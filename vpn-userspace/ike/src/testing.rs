//! Two endpoints back to back on virtual time, with loss, duplication, delay, reordering and a NAT between.
//!
//! For tests of this crate, and for those of others that need real CHILD SAs: [`pair`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use culvert_crypto::Random;
use culvert_crypto::sign::PublicKey;
use culvert_types::{Spi, TrafficSelector, TunnelId};

use crate::{
    Auth, CertificateRefused, CheckId, ChildSa, Command, DownReason, Dpd, Endpoint, EndpointConfig, Event,
    ExchangeOptions, Failure, Identity, IkeInfo, Job, JobDone, Output, PeerConfig, Psk, Session,
};

/// The tunnel that [`Pair`] sets up on both sides.
pub const TUNNEL: TunnelId = TunnelId(1);

/// Which side of a [`Pair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// 192.0.2.1, with 10.1.0.0/16 inside.
    A,
    /// 192.0.2.2, with 10.2.0.0/16 inside.
    B,
}

impl At {
    /// The other side.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn ip(self) -> IpAddr {
        match self {
            Self::A => IpAddr::from([192, 0, 2, 1]),
            Self::B => IpAddr::from([192, 0, 2, 2]),
        }
    }
}

/// Bytes from a seed, the same each time (splitmix64). For simulations only.
#[derive(Debug, Clone)]
pub struct Seeded(pub u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, share: f64) -> bool {
        ((self.next() >> 11) as f64) < share * (1u64 << 53) as f64
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A tunnel's configuration on one side, which goes with that of the other side.
pub fn config(at: At) -> PeerConfig {
    let net = |at| match at {
        At::A => "10.1.0.0/16",
        At::B => "10.2.0.0/16",
    };
    let selectors = |at| vec![TrafficSelector::from_net(net(at).parse().expect("a network"))];
    let id = |at| Identity::parse(if at == At::A { "a.example" } else { "b.example" }).expect("an identity");
    PeerConfig {
        name: if at == At::A { "test/a" } else { "test/b" }.to_owned(),
        local: SocketAddr::new(at.ip(), 500),
        local_natt: SocketAddr::new(at.ip(), 4500),
        remote: Some(SocketAddr::new(at.other().ip(), 500)),
        anywhere: false,
        remote_natt_port: 4500,
        local_id: id(at),
        remote_id: Some(id(at.other())),
        auth: Auth::psk(Psk::new("correct horse battery staple").expect("a key")),
        ike_proposals: vec!["aes128gcm16-prfsha256-curve25519".parse().expect("a proposal")],
        esp_proposals: vec!["aes128gcm16".parse().expect("a proposal")],
        local_ts: selectors(at),
        remote_ts: selectors(at.other()),
        ike_lifetime: Duration::from_secs(4 * 3600),
        child_lifetime: Duration::from_secs(3600),
        dpd: Some(Dpd { interval: Duration::from_secs(10), timeout: Duration::from_secs(30) }),
        force_encap: false,
        spi_parity: None,
        esn: true,
        replay_window: 1024,
        session: Session::default(),
        exchange: ExchangeOptions::default(),
        v1: None,
    }
}

/// What the link between the sides does to datagrams.
#[derive(Debug, Clone)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Up to this much more, each datagram its own: beyond `delay` it reorders.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
    /// Nothing passes to this side.
    pub cut_to: Option<At>,
    /// Larger IP packets vanish, as where a firewall drops their fragments.
    pub mtu: Option<usize>,
    /// A is behind a NAT that makes its ports 40000 + port + this.
    pub nat: Option<u16>,
    /// Datagrams stay in [`Pair::held`] until they are delivered by hand.
    pub hold: bool,
}

impl Default for Link {
    fn default() -> Self {
        let delay = Duration::from_millis(20);
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            cut_to: None,
            mtu: None,
            nat: None,
            hold: false,
        }
    }
}

/// When the jobs of both sides come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// Before anything else happens.
    AtOnce,
    /// After this long; each at the same pace.
    After(Duration),
    /// They stay in [`Side::jobs`].
    Held,
}

/// A datagram on its way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    when: Instant,
    number: u64,
    to_b: bool,
    local: SocketAddr,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

/// Judges a chain of certificates.
pub type Judge = fn(&[Vec<u8>]) -> Result<PublicKey, CertificateRefused>;

/// Takes the first certificate for a bare SubjectPublicKeyInfo and trusts it: these tests are of IKE.
pub fn as_spki(chain: &[Vec<u8>]) -> Result<PublicKey, CertificateRefused> {
    let first = chain.first().map(Vec::as_slice).unwrap_or_default();
    let refused = |e| CertificateRefused { what: format!("{e}"), ..CertificateRefused::default() };
    PublicKey::from_spki(first).map_err(refused)
}

/// A datagram that waits to be delivered by hand, see [`Link::hold`].
#[derive(Debug, Clone)]
pub struct Held {
    /// To which side.
    pub to: At,
    /// How many its sender had sent before: with the sender's side, its name.
    pub number: usize,
    local: SocketAddr,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

/// What became of a CHILD SA, for who replays it in order.
#[derive(Debug, Clone)]
pub enum Turn {
    /// It is there, in the place of another, and sent on at once or not.
    Up(Box<ChildSa>, Option<Spi>, bool),
    /// It is sent on from now on.
    Ready(Spi),
    /// It is gone, and receives for so long still.
    Down(Spi, Duration),
}

/// One side and what its owner knows from its events.
pub struct Side {
    /// The endpoint itself.
    pub endpoint: Endpoint,
    /// Every event so far but for CHILD SAs and failures, as text.
    pub log: Vec<String>,
    /// Failures so far.
    pub failures: Vec<Failure>,
    /// CHILD SAs that are up.
    pub children: BTreeMap<Spi, ChildSa>,
    /// Those whose outbound side is in use.
    pub outbound: BTreeSet<Spi>,
    /// Those that are gone, with the reason.
    pub gone: Vec<(Spi, DownReason)>,
    /// What became of them all, in order.
    pub turns: Vec<Turn>,
    /// The tunnel's IKE SA.
    pub ike: Option<IkeInfo>,
    /// Why it went down, each time.
    pub downs: Vec<DownReason>,
    /// NAT keepalives sent.
    pub keepalives: usize,
    /// Every message sent.
    pub sent: Vec<Vec<u8>>,
    /// Who answers checks of certificates, at once; `None`: the test itself, or nobody.
    pub judge: Option<Judge>,
    /// Checks of certificates that nobody has answered.
    pub checks: Vec<(CheckId, Vec<Vec<u8>>)>,
    /// Questions of EAP's that nobody has answered.
    pub questions: Vec<(CheckId, crate::EapNote)>,
    /// Where the peer moved, each time.
    pub moves: Vec<SocketAddr>,
    /// Jobs that were asked for and are held.
    pub jobs: Vec<Job>,
    /// Jobs asked for so far.
    pub asked: usize,
    done: VecDeque<(Instant, JobDone)>,
    deadline: Option<Instant>,
}

impl Side {
    fn new(config: EndpointConfig, seed: u64) -> Self {
        Self {
            endpoint: Endpoint::new(config, Box::new(Seeded(seed))),
            log: Vec::new(),
            failures: Vec::new(),
            children: BTreeMap::new(),
            outbound: BTreeSet::new(),
            gone: Vec::new(),
            turns: Vec::new(),
            ike: None,
            downs: Vec::new(),
            keepalives: 0,
            sent: Vec::new(),
            judge: Some(as_spki),
            checks: Vec::new(),
            questions: Vec::new(),
            moves: Vec::new(),
            jobs: Vec::new(),
            asked: 0,
            done: VecDeque::new(),
            deadline: None,
        }
    }

    fn on_event(&mut self, event: Event) {
        self.log.push(match &event {
            Event::ChildUp { sa, replaces, use_outbound } => {
                format!("ChildUp in {} replaces {replaces:?} use {use_outbound}", sa.inbound())
            }
            Event::CheckCertificate { identity, .. } => format!("CheckCertificate of {identity}"),
            Event::Failed(failure) => failure.to_string(),
            other => format!("{other:?}"),
        });
        match event {
            Event::IkeUp { info, .. } | Event::IkeRekeyed { info, .. } => self.ike = Some(info),
            Event::IkeDown { reason, .. } => {
                assert!(self.ike.take().is_some(), "an IKE SA goes down once: {:#?}", self.log);
                assert!(self.children.is_empty(), "children go first: {:#?}", self.log);
                self.downs.push(reason);
            }
            Event::ChildUp { sa, replaces, use_outbound } => {
                self.turns.push(Turn::Up(Box::new(sa.clone()), replaces, use_outbound));
                if use_outbound {
                    self.outbound.insert(sa.inbound());
                }
                assert!(self.children.insert(sa.inbound(), sa).is_none(), "an SPI is used once");
            }
            Event::OutboundReady { inbound, .. } => {
                assert!(
                    self.children.contains_key(&inbound),
                    "outbound of an SA that is there: {:#?}",
                    self.log
                );
                self.outbound.insert(inbound);
                self.turns.push(Turn::Ready(inbound));
            }
            Event::ChildDown { inbound, outbound, reason, drain, .. } => {
                self.turns.push(Turn::Down(inbound, drain));
                let sa = self.children.remove(&inbound).expect("an SA that is there goes down");
                assert_eq!(sa.outbound(), outbound);
                self.outbound.remove(&inbound);
                self.gone.push((inbound, reason));
            }
            Event::PeerMoved { remote, .. } => self.moves.push(remote),
            Event::CheckCertificate { check, chain, .. } => self.checks.push((check, chain)),
            Event::Failed(failure) => self.failures.push(failure),
            // Their text is in the log above.
            Event::Message { .. }
            | Event::Secrets(_)
            | Event::ClientUp { .. }
            | Event::ClientGone { .. }
            | Event::AdditionalRefused { .. } => {}
            Event::EapAsk { check, note, .. } => self.questions.push((check, note)),
        }
    }

    /// The only CHILD SA. Panics if there is none or more.
    pub fn only_child(&self) -> &ChildSa {
        assert_eq!(self.children.len(), 1, "one CHILD SA: {:#?}", self.log);
        self.children.values().next().expect("one CHILD SA")
    }
}

/// Two endpoints, a link and a clock.
pub struct Pair {
    /// Now.
    pub time: Instant,
    /// The link.
    pub link: Link,
    /// When jobs come back.
    pub jobs: Jobs,
    /// Side A.
    pub a: Side,
    /// Side B.
    pub b: Side,
    /// Datagrams that wait, see [`Link::hold`].
    pub held: Vec<Held>,
    /// Further addresses of a side.
    pub also: Vec<(At, IpAddr)>,
    /// What goes to these addresses vanishes.
    pub unreachable: Vec<IpAddr>,
    started: Instant,
    ips: (IpAddr, IpAddr),
    flights: BinaryHeap<Reverse<Flight>>,
    random: Seeded,
    number: u64,
}

impl Pair {
    /// Both sides know their tunnel; nothing has happened.
    pub fn new(seed: u64, a: PeerConfig, b: PeerConfig) -> Self {
        Self::with(seed, EndpointConfig::default(), a, b)
    }

    /// With limits and times of its own.
    pub fn with(seed: u64, endpoint: EndpointConfig, a: PeerConfig, b: PeerConfig) -> Self {
        let time = Instant::now();
        let mut pair = Self {
            time,
            link: Link::default(),
            jobs: Jobs::AtOnce,
            a: Side::new(endpoint.clone(), seed.wrapping_mul(2)),
            b: Side::new(endpoint, seed.wrapping_mul(2) + 1),
            held: Vec::new(),
            also: Vec::new(),
            unreachable: Vec::new(),
            started: time,
            ips: (a.local.ip(), b.local.ip()),
            flights: BinaryHeap::new(),
            random: Seeded(seed ^ 0xdead_beef),
            number: 0,
        };
        pair.command(At::A, Command::AddPeer(TUNNEL, Box::new(a)));
        pair.command(At::B, Command::AddPeer(TUNNEL, Box::new(b)));
        pair
    }

    /// A side.
    pub fn side(&mut self, at: At) -> &mut Side {
        match at {
            At::A => &mut self.a,
            At::B => &mut self.b,
        }
    }

    /// A command that must be possible.
    pub fn command(&mut self, at: At, command: Command) {
        let time = self.time;
        self.side(at).endpoint.handle_command(time, command).expect("the command is possible");
        self.drain(at);
    }

    /// Hands a datagram to a side, as from the other side's address.
    pub fn inject(&mut self, at: At, bytes: &[u8]) {
        let (local, remote) = (SocketAddr::new(self.ip(at), 500), SocketAddr::new(self.ip(at.other()), 500));
        self.inject_from(at, local, remote, bytes);
    }

    /// Hands a datagram to a side, as between these addresses.
    pub fn inject_from(&mut self, at: At, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let time = self.time;
        self.side(at).endpoint.handle_datagram(time, local, remote, bytes);
        self.drain(at);
    }

    /// A side has another address in place of its own, and its endpoint is told.
    pub fn move_to(&mut self, at: At, ip: IpAddr) {
        match at {
            At::A => self.ips.0 = ip,
            At::B => self.ips.1 = ip,
        }
        self.command(at, Command::Relocate(TUNNEL, ip));
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.time - self.started
    }

    /// Takes out what a side has for the world.
    pub fn drain(&mut self, at: At) {
        loop {
            let (time, side) = (self.time, self.side(at));
            if let Some(judge) = side.judge
                && let Some((check, chain)) = side.checks.pop()
            {
                let verdict = Command::CertificateChecked(check, judge(&chain));
                side.endpoint.handle_command(time, verdict).expect("a verdict is taken");
            }
            match self.side(at).endpoint.poll() {
                Output::Event(event) => self.side(at).on_event(event),
                Output::Job(job) => self.work(at, job),
                Output::Transmit { local, remote, bytes } => {
                    self.side(at).sent.push(bytes.clone());
                    self.transmit(at, local, remote, bytes);
                }
                Output::Keepalive { .. } => self.side(at).keepalives += 1,
                Output::Deadline(when, _) => {
                    self.side(at).deadline = Some(when);
                    return;
                }
                Output::Idle => {
                    self.side(at).deadline = None;
                    return;
                }
            }
        }
    }

    fn work(&mut self, at: At, job: Job) {
        let (time, jobs) = (self.time, self.jobs);
        let side = self.side(at);
        side.asked += 1;
        match jobs {
            Jobs::AtOnce => side.endpoint.handle_job(time, job.run()),
            Jobs::After(wait) => side.done.push_back((time + wait, job.run())),
            Jobs::Held => side.jobs.push(job),
        }
    }

    /// Runs the jobs that are held, in order.
    pub fn run_held(&mut self, at: At) {
        let (time, held) = (self.time, std::mem::take(&mut self.side(at).jobs));
        for job in held {
            self.side(at).endpoint.handle_job(time, job.run());
            self.drain(at);
        }
    }

    fn ip(&self, at: At) -> IpAddr {
        match at {
            At::A => self.ips.0,
            At::B => self.ips.1,
        }
    }

    fn nat_ip() -> IpAddr {
        IpAddr::from([203, 0, 113, 1])
    }

    fn transmit(&mut self, at: At, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        // As the receiver sees it: to `local`, from `remote`.
        let (mut to, mut from) = (remote, local);
        if let Some(shift) = self.link.nat {
            let base = 40_000 + shift;
            if at == At::A {
                from = SocketAddr::new(Self::nat_ip(), base + from.port());
            } else if to.ip() == Self::nat_ip()
                && to.port() > base
                && [500, 4500].contains(&(to.port() - base))
            {
                to = SocketAddr::new(self.ips.0, to.port() - base);
            } else {
                return;
            }
        }
        let arrives = to.ip() == self.ip(at.other()) || self.also.contains(&(at.other(), to.ip()));
        if !arrives
            || self.unreachable.contains(&to.ip())
            || ![500, 4500].contains(&to.port())
            || self.link.cut_to == Some(at.other())
            || self.link.mtu.is_some_and(|mtu| packet_len(to, &bytes) > mtu)
        {
            return;
        }
        if self.link.hold {
            let number = self.side(at).sent.len();
            self.held.push(Held { to: at.other(), number, local: to, remote: from, bytes });
            return;
        }
        let copies = if self.random.chance(self.link.loss) {
            0
        } else {
            1 + usize::from(self.random.chance(self.link.duplicate))
        };
        for _ in 0..copies {
            let share = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
            let when = self.time + self.link.delay + self.link.jitter.mul_f64(share);
            self.number += 1;
            let flight = Flight {
                when,
                number: self.number,
                to_b: at == At::A,
                local: to,
                remote: from,
                bytes: bytes.clone(),
            };
            self.flights.push(Reverse(flight));
        }
    }

    /// Delivers a datagram that waits; it is taken out, or stays as a duplicate would.
    pub fn deliver(&mut self, at: usize, stays: bool) {
        let held = if stays { self.held[at].clone() } else { self.held.remove(at) };
        self.inject_from(held.to, held.local, held.remote, &held.bytes);
    }

    /// What waits goes on its way, in the order in which it was sent, and nothing waits any more.
    pub fn release(&mut self) {
        self.link.hold = false;
        while !self.held.is_empty() {
            self.deliver(0, false);
        }
    }

    /// When the next deadline of either side is, and why.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.a.deadline.into_iter().chain(self.b.deadline).min()
    }

    /// The next thing happens. `false` if nothing is left to happen, or not before `limit`.
    pub fn step(&mut self, limit: Instant) -> bool {
        let flight = self.flights.peek().map(|f| f.0.when);
        let done = |side: &Side| side.done.iter().map(|(when, _)| *when).min();
        let job = [done(&self.a), done(&self.b)].into_iter().flatten().min();
        let next = [flight, job, self.a.deadline, self.b.deadline].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= limit) else {
            self.time = self.time.max(limit);
            return false;
        };
        self.time = self.time.max(next);
        if flight.is_some_and(|when| when <= self.time) {
            if let Some(Reverse(f)) = self.flights.pop() {
                let at = if f.to_b { At::B } else { At::A };
                self.inject_from(at, f.local, f.remote, &f.bytes);
            }
            return true;
        }
        for at in [At::A, At::B] {
            let time = self.time;
            let side = self.side(at);
            if let Some(at_work) = side.done.iter().position(|(when, _)| *when <= time)
                && let Some((_, done)) = side.done.remove(at_work)
            {
                side.endpoint.handle_job(time, done);
                self.drain(at);
                return true;
            }
        }
        for at in [At::A, At::B] {
            let time = self.time;
            let side = self.side(at);
            if side.deadline.is_some_and(|when| when <= time) {
                side.endpoint.handle_timeout(time);
                self.drain(at);
            }
        }
        true
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let limit = self.time + duration;
        let mut steps = 0u32;
        while self.step(limit) {
            steps += 1;
            assert!(steps < 1_000_000, "the endpoints never come to rest");
        }
    }

    /// Lets time pass until something holds; `false` if it does not within the limit.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let limit = self.time + limit;
        while !holds(self) {
            if !self.step(limit) {
                return holds(self);
            }
        }
        true
    }

    /// Whether both sides have one IKE SA, the same, and one CHILD SA, the same, in use both ways.
    pub fn agreed(&self) -> bool {
        let (Some(a), Some(b)) = (&self.a.ike, &self.b.ike) else { return false };
        let one = |side: &Side| side.children.len() == 1 && side.outbound.len() == 1;
        if (a.spi_initiator, a.spi_responder) != (b.spi_initiator, b.spi_responder)
            || !one(&self.a)
            || !one(&self.b)
        {
            return false;
        }
        let (a, b) = (self.a.only_child(), self.b.only_child());
        a.inbound() == b.outbound()
            && a.outbound() == b.inbound()
            && a.inbound_keys() == b.outbound_keys()
            && a.outbound_keys() == b.inbound_keys()
    }

    /// A initiates and both sides come up. Panics if they do not.
    pub fn connect(&mut self) {
        self.command(At::A, Command::Initiate(TUNNEL));
        let up = self.run_until(Duration::from_secs(200), Self::agreed);
        assert!(up, "both sides come up: {:#?} {:#?}", self.a.log, self.b.log);
    }
}

/// Length of the IP packet with a message.
fn packet_len(to: SocketAddr, bytes: &[u8]) -> usize {
    let marker = if to.port() == 500 { 0 } else { 4 };
    bytes.len() + marker + 8 + if to.is_ipv4() { 20 } else { 40 }
}

/// A real CHILD SA between two endpoints, seen from both: with the ESP proposal `esp`, such as `aes128gcm16`.
pub fn pair(esp: &str) -> (ChildSa, ChildSa) {
    let with = |at| PeerConfig { esp_proposals: vec![esp.parse().expect("an ESP proposal")], ..config(at) };
    pair_with(with(At::A), with(At::B))
}

/// The same with configurations of one's own; the first side initiates. Addresses are free, ports are 500 and 4500.
pub fn pair_with(a: PeerConfig, b: PeerConfig) -> (ChildSa, ChildSa) {
    let mut pair = Pair::new(1, a, b);
    pair.connect();
    (pair.a.only_child().clone(), pair.b.only_child().clone())
}
