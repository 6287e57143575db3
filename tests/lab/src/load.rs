//! Packets from one host of a site to the other, counted one by one: the generator and the sink of `culvert-traffic`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_traffic::{
    Endpoint, Injector, Link, Part, PingPong, Received, Search, Sent, Sink, Sizes, Step, Stream, generate,
};

use crate::netns::Namespace;
use crate::topology::{HOST_A, HOST_B, Site};

/// The sink's UDP port.
const PORT: u16 = 7000;
/// The flows' source ports, from here on.
const SOURCE_PORT: u16 = 20_000;
/// After a run the last packets may be so far behind; queues on the way hold no more.
const QUIET: Duration = Duration::from_millis(60);
const QUIET_AT_MOST: Duration = Duration::from_millis(1500);

/// What one run sent and what of it arrived.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// By the generator.
    pub sent: Sent,
    /// By the sink.
    pub received: Received,
}

impl Outcome {
    /// The share that did not arrive, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.received.tally.loss(self.sent.packets)
    }

    /// Packets that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent.packets.saturating_sub(self.received.tally.packets)
    }

    fn step(&self) -> Step {
        Step { offered: self.sent.rate(), loss: self.loss() }
    }
}

/// What a search for the largest rate without loss has found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Largest {
    /// Packets per second.
    pub rate: f64,
    /// The generator could send no more, and all of it passed.
    pub limited_by_sender: bool,
}

/// A generator in one host and a sink in the other.
#[derive(Debug)]
pub struct Load {
    injector: Injector,
    /// How many threads send: see [`Load::largest`].
    senders: u16,
    sink: Sink,
    from: Endpoint,
    to: Endpoint,
    run: u32,
}

impl Load {
    /// From host A to host B, or the other way.
    ///
    /// # Errors
    /// When sockets cannot be opened.
    pub fn new(site: &Site, reverse: bool) -> Result<Self> {
        let (a, b) = ((&site.host_a, &site.gateway_a, HOST_A), (&site.host_b, &site.gateway_b, HOST_B));
        let ((host, gateway, source), (other, _, target)) = if reverse { (b, a) } else { (a, b) };
        let address = |text: &str| text.parse::<Ipv4Addr>().context("no address");
        let at = SocketAddrV4::new(address(target)?, PORT);
        let sink = other.within(|| Sink::bind(at))??;
        let (injector, own) = host.within(|| {
            let link = Link::find("eth0")?;
            Ok::<_, anyhow::Error>((Injector::open(&link)?, link.mac))
        })??;
        let next_hop = gateway.within(|| Link::find("lan"))??.mac;
        Ok(Self {
            injector,
            senders: 1,
            sink: Sink::start(sink),
            from: Endpoint { mac: own, at: SocketAddrV4::new(address(source)?, SOURCE_PORT) },
            to: Endpoint { mac: next_hop, at },
            run: 0,
        })
    }

    /// Sends for `duration`, `rate` packets a second or as fast as possible, and waits for what is on its way.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn run(
        &mut self,
        sizes: &Sizes,
        flows: u16,
        rate: Option<f64>,
        duration: Duration,
    ) -> Result<Outcome> {
        self.run += 1;
        let stream = Stream { from: self.from, to: self.to, flows, sizes: sizes.clone() };
        self.sink.begin(self.run);
        let of = u64::from(self.senders.min(flows).max(1));
        let (injector, stream, run) = (&self.injector, &stream, self.run);
        let rate = rate.map(|rate| rate / of as f64);
        let sent = if of == 1 {
            generate(injector, stream, Part::WHOLE, run, rate, duration)?
        } else {
            std::thread::scope(|scope| -> Result<Sent> {
                let parts = (0..of).map(|number| Part { number, of });
                let threads: Vec<_> = parts
                    .map(|part| scope.spawn(move || generate(injector, stream, part, run, rate, duration)))
                    .collect();
                let mut all = Sent { packets: 0, bytes: 0, seconds: 0.0, refused: 0 };
                for thread in threads {
                    let sent = thread.join().map_err(|_| anyhow::anyhow!("a generator has panicked"))??;
                    all.packets += sent.packets;
                    all.bytes += sent.bytes;
                    all.refused += sent.refused;
                    all.seconds = all.seconds.max(sent.seconds);
                }
                Ok(all)
            })?
        };
        Ok(Outcome { sent, received: self.sink.finish(QUIET, QUIET_AT_MOST) })
    }

    /// The largest rate of which less than 0.5 % is lost, by at most `steps` runs of `duration` after two at full speed.
    /// A run that loses more is repeated once: other work on the machine must not decide.
    ///
    /// Without a queue on the way, as a tunnel's device has one, veths and routers forward in the context of who sends, which is
    /// then as slow as all of them together. Where everything passes that one thread sends, each CPU gets one, if there are
    /// flows for them.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn largest(&mut self, sizes: &Sizes, flows: u16, duration: Duration, steps: u32) -> Result<Largest> {
        self.senders = 1;
        let mut full = self.run(sizes, flows, None, duration)?.step();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(64) as u16;
        if full.passed() && cpus.min(flows) > 1 {
            self.senders = cpus;
            full = self.run(sizes, flows, None, duration)?.step();
        }
        let again = self.run(sizes, flows, None, duration)?.step();
        let arrived = |step: &Step| step.offered * (1.0 - step.loss);
        let full = if arrived(&again) > arrived(&full) { again } else { full };
        let mut search = Search::new(full, steps);
        while let Some(rate) = search.rate() {
            let mut step = self.run(sizes, flows, Some(rate), duration)?.step();
            if !step.passed() {
                let again = self.run(sizes, flows, Some(rate), duration)?.step();
                step = if again.passed() { again } else { step };
            }
            search.tried(rate, step);
        }
        Ok(Largest { rate: search.best(), limited_by_sender: search.limited_by_sender() })
    }
}

/// A ping-pong between two addresses, each of its namespace.
///
/// # Errors
/// When the sockets cannot be opened.
pub fn ping_pong(from: (&Namespace, &str), to: (&Namespace, &str)) -> Result<PingPong> {
    let open = |(namespace, address): (&Namespace, &str)| -> Result<UdpSocket> {
        namespace
            .within(|| UdpSocket::bind((address, 0)))?
            .with_context(|| format!("cannot open a UDP socket at {address}"))
    };
    PingPong::start(open(from)?, open(to)?)
}
