//! The passes: all legs of a cipher stand side by side, and every kind of run goes over them by turns.
use super::figures::{Book, Metric, Unit};
use super::legs::{Cipher, Conditions, Leg, Standing};
use super::{Part, step};
use anyhow::{Context, Result};
use culvert_lab::load::{Load, ping_pong};
use culvert_lab::measure::{Iperf, busy_cpu_seconds};
use culvert_lab::topology::{HOST_A, HOST_B};
use culvert_traffic::{Latencies, Sizes};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// How long and how often.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Seconds of an iperf3 run.
    pub(super) seconds: u32,
    pub(super) rounds: u32,
    pub(super) tcp: Vec<Tcp>,
    pub(super) pps: Vec<Packets>,
    /// One step of a search for the largest rate.
    pub(super) step: Duration,
    /// Steps of such a search at most.
    pub(super) steps: u32,
    /// How long one measurement of round trips lasts.
    pub(super) trips: Duration,
    pub(super) parts: Vec<Part>,
    /// No round but the first begins another kind of run after that.
    pub(super) deadline: Option<Instant>,
}

impl Plan {
    fn has_time(&self, round: u32) -> bool {
        round == 1 || self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }
}

/// A kind of iperf3 run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) streams: u32,
    /// From host B to host A.
    pub(super) reverse: bool,
}

impl Tcp {
    pub(super) const ONE: Tcp = Tcp { streams: 1, reverse: false };

    fn key(self) -> String {
        format!("tcp{}{}", self.streams, if self.reverse { "_reverse" } else { "" })
    }

    fn title(self) -> String {
        let plural = if self.streams == 1 { "" } else { "s" };
        format!("TCP, {} stream{plural}, {}", self.streams, if self.reverse { "B to A" } else { "A to B" })
    }
}

/// A kind of packets whose largest rate is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packets {
    pub(super) size: Size,
    pub(super) flows: u16,
    pub(super) reverse: bool,
}

/// IP packets of so many bytes, or mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Fixed(usize),
    Imix,
}

impl Packets {
    pub(super) const SMALL: Packets = Packets { size: Size::Fixed(64), flows: 1, reverse: false };

    fn key(self) -> String {
        let size = match self.size {
            Size::Fixed(bytes) => bytes.to_string(),
            Size::Imix => "imix".into(),
        };
        format!("pps_{size}_{}{}", self.flows, if self.reverse { "_reverse" } else { "" })
    }

    fn title(self) -> String {
        let size = match self.size {
            Size::Fixed(bytes) => format!("{bytes}-byte packets"),
            Size::Imix => "mixed sizes".into(),
        };
        let plural = if self.flows == 1 { "" } else { "s" };
        let direction = if self.reverse { ", B to A" } else { "" };
        format!("{size}, {} flow{plural}{direction}", self.flows)
    }

    pub(super) fn sizes(self) -> Sizes {
        match self.size {
            Size::Fixed(bytes) => Sizes::fixed(bytes),
            Size::Imix => Sizes::imix(),
        }
    }
}

/// Something that sets a run apart from the usual ones, in keys and titles.
#[derive(Debug, Clone, Default)]
pub(super) struct Variant {
    pub(super) key: String,
    pub(super) title: String,
}

/// Brings legs up; one that does not come up is noted with its reason, and left out.
pub(super) fn raise(legs: &[Leg], conditions: &Conditions, book: &mut Book, note: bool) -> Vec<Standing> {
    let mut standing = Vec::new();
    for leg in legs.iter().filter(|leg| leg.cipher(conditions.cipher).is_some()) {
        print!("  {:<13} ", leg.name());
        let _ = std::io::stdout().flush();
        match Standing::raise(*leg, conditions) {
            Ok(this) => {
                let described = this.described.clone();
                println!("up{}", described.as_ref().map_or(String::new(), |text| format!(": {text}")));
                if let Some(text) = described.filter(|_| note) {
                    book.described.insert(*leg, text);
                }
                standing.push(this);
            }
            Err(error) => {
                let text = format!("{error:#}");
                let reason =
                    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason").to_owned();
                println!("absent: {reason}");
                if note {
                    book.absent.push((*leg, reason));
                }
            }
        }
    }
    standing
}

/// One pass over standing legs: latency, TCP, packets, each where the plan has it.
pub(super) fn pass(standing: &[Standing], cipher: Cipher, plan: &Plan, variant: &Variant, book: &mut Book) {
    for round in 1..=plan.rounds {
        let has = |part: Part| plan.parts.contains(&part) && plan.has_time(round);
        if has(Part::Latency) {
            by_turns(round, "round trip, idle", standing, book, |this, book| {
                let seen = trips(this, plan.trips)?;
                Ok(put_trips(book, cipher, this.leg, false, variant, &seen))
            });
        }
        if has(Part::Tcp) {
            for run in plan.tcp.iter().filter(|_| plan.has_time(round)) {
                by_turns(round, &run.title(), standing, book, |this, book| {
                    tcp(this, cipher, *run, plan.seconds, variant, book)
                });
            }
        }
        if has(Part::Latency) {
            by_turns(round, "round trip beside TCP", standing, book, |this, book| {
                // The stream first finds its speed.
                let run_up = Duration::from_millis(500);
                let seconds = (plan.trips + run_up).as_secs_f64().ceil() as u32;
                let what = Iperf { seconds, ..Iperf::default() };
                let job = this.server.begin(&this.site.host_a, HOST_B, &what)?;
                std::thread::sleep(run_up);
                let seen = trips(this, plan.trips);
                job.finish()?;
                Ok(put_trips(book, cipher, this.leg, true, variant, &seen?))
            });
        }
        if has(Part::Pps) {
            for what in plan.pps.iter().filter(|_| plan.has_time(round)) {
                by_turns(round, &what.title(), standing, book, |this, book| {
                    packets(this, cipher, *what, plan, variant, book)
                });
            }
        }
        if has(Part::NoGso) {
            let apart = Variant {
                key: format!("{}_nogso", variant.key),
                title: format!("{}, WAN without GSO", variant.title),
            };
            by_turns(
                round,
                &format!("{}, WAN without GSO", Tcp::ONE.title()),
                standing,
                book,
                |this, book| {
                    this.wan_offload(false)?;
                    let shown = tcp(this, cipher, Tcp::ONE, plan.seconds, &apart, book);
                    this.wan_offload(true)?;
                    shown
                },
            );
        }
    }
}

/// Runs `work` for each leg and shows what it answers; a run that fails is noted, and the others go on.
fn by_turns(
    round: u32,
    title: &str,
    standing: &[Standing],
    book: &mut Book,
    mut work: impl FnMut(&Standing, &mut Book) -> Result<String>,
) {
    print!("  round {round}, {title:<34}");
    for this in standing {
        match this.awake(|this| work(this, book)) {
            Ok(shown) => print!("  {} {shown}", this.leg.name()),
            Err(error) => {
                print!("  {} failed", this.leg.name());
                let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                book.failures.push(format!("{}, {title}, round {round}: {first}", this.leg.name()));
            }
        }
        let _ = std::io::stdout().flush();
    }
    println!();
}

pub(super) fn tcp(
    this: &Standing,
    cipher: Cipher,
    run: Tcp,
    seconds: u32,
    variant: &Variant,
    book: &mut Book,
) -> Result<String> {
    let what = Iperf { seconds, streams: run.streams, reverse: run.reverse, ..Iperf::default() };
    let before = busy_cpu_seconds()?;
    let result = this.server.measure(&this.site.host_a, HOST_B, &what)?;
    let cpu = busy_cpu_seconds()? - before;
    let (key, title) = (format!("{}{}", run.key(), variant.key), format!("{}{}", run.title(), variant.title));
    book.put(&Metric(key.clone(), title.clone(), Unit::Gbps), cipher, this.leg, result.gbps);
    if result.bytes > 0 {
        let cost = Metric(format!("{key}_cpu"), title, Unit::CpuPerGb);
        book.put(&cost, cipher, this.leg, cpu / (result.bytes as f64 / 1e9));
    }
    Ok(format!("{:.2}", result.gbps))
}

pub(super) fn packets(
    this: &Standing,
    cipher: Cipher,
    what: Packets,
    plan: &Plan,
    variant: &Variant,
    book: &mut Book,
) -> Result<String> {
    let mut load = Load::new(&this.site, what.reverse)?;
    let found = load.largest(&what.sizes(), what.flows, plan.step, plan.steps)?;
    let metric = Metric(
        format!("{}{}", what.key(), variant.key),
        format!("{}{}", what.title(), variant.title),
        Unit::Pps,
    );
    book.put(&metric, cipher, this.leg, found.rate);
    if found.limited_by_sender {
        book.bounded(&metric, cipher, this.leg);
    }
    Ok(format!("{:.0}k", found.rate / 1000.0))
}

fn trips(this: &Standing, time: Duration) -> Result<Latencies> {
    let game = ping_pong((&this.site.host_a, HOST_A), (&this.site.host_b, HOST_B))?;
    // The first ones find caches cold and threads asleep.
    game.measure(20, Duration::from_millis(100))?;
    let seen = game.measure(u32::MAX >> 8, time)?;
    anyhow::ensure!(seen.count() > 0, "no answer came back");
    Ok(seen)
}

fn put_trips(
    book: &mut Book,
    cipher: Cipher,
    leg: Leg,
    loaded: bool,
    variant: &Variant,
    seen: &Latencies,
) -> String {
    let (key, title) = if loaded { ("loaded", "beside one TCP stream") } else { ("idle", "idle") };
    let mut shown = Vec::new();
    for (rank, share) in [("p50", 0.5), ("p99", 0.99)] {
        let metric = Metric(
            format!("rtt_{key}_{rank}{}", variant.key),
            format!("round trip {rank}, {title}{}", variant.title),
            Unit::Micros,
        );
        if let Some(value) = seen.rank(share) {
            book.put(&metric, cipher, leg, value);
            shown.push(format!("{value:.0}"));
        }
    }
    shown.join("/") + " µs"
}

/// Jumbo frames: everything again with links of 9000 bytes, TCP in one stream and packets of 8900 bytes.
pub(super) fn jumbo(legs: &[Leg], conditions: &Conditions, plan: &Plan, book: &mut Book) {
    step("Jumbo frames: links of 9000 bytes");
    let conditions = Conditions { mtu: 9000, ..conditions.clone() };
    let standing = raise(legs, &conditions, book, false);
    let plan = Plan {
        tcp: vec![Tcp::ONE],
        pps: vec![Packets { size: Size::Fixed(8900), flows: 1, reverse: false }],
        parts: vec![Part::Tcp, Part::Pps],
        ..plan.clone()
    };
    let variant = Variant { key: "_jumbo".into(), title: ", MTU 9000".into() };
    pass(&standing, conditions.cipher, &plan, &variant, book);
}

/// One Culvert at a time with more and more workers.
pub(super) fn cores(conditions: &Conditions, plan: &Plan, book: &mut Book) -> Result<()> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    step(&format!("Cores: 1 to {all} workers"));
    let mut workers = 1;
    loop {
        let conditions = Conditions { workers: Some(workers), ..conditions.clone() };
        let this = Standing::raise(Leg::TunUdp, &conditions).context("tun+udp")?;
        let variant = Variant { key: format!("_workers{workers}"), title: format!(", {workers} workers") };
        let plan = Plan {
            tcp: vec![Tcp { streams: 16, reverse: false }],
            pps: vec![Packets { size: Size::Fixed(64), flows: 64, reverse: false }],
            parts: vec![Part::Tcp, Part::Pps],
            ..plan.clone()
        };
        pass(&[this], conditions.cipher, &plan, &variant, book);
        if workers >= all {
            return Ok(());
        }
        workers = (workers * 2).min(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_titles() {
        assert_eq!(Tcp::ONE.key(), "tcp1");
        assert_eq!(Tcp { streams: 4, reverse: true }.title(), "TCP, 4 streams, B to A");
        let mixed = Packets { size: Size::Imix, flows: 64, reverse: false };
        assert_eq!((mixed.key().as_str(), mixed.title().as_str()), ("pps_imix_64", "mixed sizes, 64 flows"));
        assert_eq!(Packets::SMALL.key(), "pps_64_1");
    }

    #[test]
    fn round_trips_become_two_rows() {
        let mut book = Book::default();
        let seen = Latencies::new((1..=100).map(f64::from).collect(), 0);
        let variant = Variant::default();
        assert_eq!(put_trips(&mut book, Cipher::Aes128Gcm, Leg::TunUdp, false, &variant, &seen), "50/99 µs");
        assert_eq!(book.median("rtt_idle_p99", Leg::TunUdp), Some(99.0));
    }
}
