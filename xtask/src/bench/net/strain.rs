//! Culvert under strain: floods beside valid traffic, rekeys at full load, thousands of SAs.
use super::figures::{Book, Metric, Unit};
use super::legs::{Conditions, Leg, Standing, connection, culverts};
use super::measure::{Packets, Plan, Tcp, Variant, packets, tcp};
use super::step;
use anyhow::{Context, Result, ensure};
use culvert_lab::load::{Load, Outcome};
use culvert_lab::measure::IperfServer;
use culvert_lab::topology::{LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{Culvert, Site, wait_for};
use culvert_traffic::{Endpoint, Injector, Link, Sizes, datagram};
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NATT: u16 = 4500;
/// Forged packets per second.
const FLOOD: f64 = 50_000.0;
/// Valid packets per second beside a flood, unless the gateways carry less than twice as much.
const VALID: f64 = 50_000.0;

/// What is sent to gateway B's WAN address in the peer's name.
#[derive(Debug, Clone, Copy)]
enum Flood {
    UnknownSpi,
    ForgedSequence,
    Truncated,
    OtherPort,
}

impl Flood {
    const ALL: [Flood; 4] = [Flood::UnknownSpi, Flood::ForgedSequence, Flood::Truncated, Flood::OtherPort];

    fn key(self) -> &'static str {
        match self {
            Flood::UnknownSpi => "flood_unknown_spi",
            Flood::ForgedSequence => "flood_forged_sequence",
            Flood::Truncated => "flood_truncated",
            Flood::OtherPort => "flood_other_port",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Flood::UnknownSpi => "beside ESP of unknown SPIs",
            Flood::ForgedSequence => "beside forged sequence numbers of the right SPI",
            Flood::Truncated => "beside truncated and unaligned ESP of the right SPI",
            Flood::OtherPort => "beside ESP-in-UDP from other ports",
        }
    }

    /// 32 frames to send over and over.
    fn frames(self, from: Endpoint, to: &Endpoint, spi: u32) -> Vec<Vec<u8>> {
        (0..32_u32)
            .map(|number| {
                let (spi, length, port) = match self {
                    // Not below 256, which are reserved, and far from ours.
                    Flood::UnknownSpi => (spi ^ (0x5555_0000 + number), 100, NATT),
                    Flood::ForgedSequence => (spi, 100, NATT),
                    Flood::Truncated => (spi, 9 + number as usize % 27, NATT),
                    Flood::OtherPort => (spi, 100, 30_000 + number as u16),
                };
                let mut esp = vec![0xa5; length];
                esp[..4].copy_from_slice(&spi.to_be_bytes());
                let from = Endpoint { at: SocketAddrV4::new(*from.at.ip(), port), ..from };
                datagram(&from, to, &esp)
            })
            .collect()
    }
}

/// Offset of the sequence number in a frame: Ethernet, IPv4, UDP, SPI.
const SEQUENCE: usize = 14 + 20 + 8 + 4;

/// Valid packets at a steady pace, alone and beside each kind of flood, by turns.
pub(super) fn flood(leg: Leg, conditions: &Conditions, plan: &Plan, book: &mut Book) -> Result<()> {
    step(&format!("Floods of {FLOOD:.0}/s against gateway B beside valid traffic: {}", leg.name()));
    let this = Standing::raise(leg, conditions)?;
    let (_, b) = this.culvert().context("only Culvert is flooded")?;
    let spi = b.site()?.spi_in().context("gateway B has no child SA")?;
    let spi = u32::from_str_radix(spi.trim_start_matches("0x"), 16)?;
    let address = |text: &str, port| Ok::<_, anyhow::Error>(SocketAddrV4::new(text.parse()?, port));
    let (injector, router) = this.site.wan.within(|| {
        let link = Link::find("to-b")?;
        Ok::<_, anyhow::Error>((Injector::open(&link)?, link.mac))
    })??;
    let to =
        Endpoint { mac: this.site.gateway_b.within(|| Link::find("wan"))??.mac, at: address(WAN_B, NATT)? };
    let from = Endpoint { mac: router, at: address(WAN_A, NATT)? };
    let mut load = Load::new(&this.site, false)?;
    let (sizes, time) = (Sizes::fixed(512), Duration::from_millis(1000));
    let largest = load.largest(&sizes, 4, plan.step, plan.steps)?.rate;
    let rate = VALID.min(largest / 2.0);
    println!("  valid traffic: {rate:.0} packets of 512 bytes a second, of {largest:.0} that pass alone");
    let run = |load: &mut Load| load.run(&sizes, 4, Some(rate), time);
    let arrived = |seen: &Outcome| seen.received.tally.packets as f64 / seen.sent.seconds;
    for round in 1..=plan.rounds {
        for kind in Flood::ALL {
            let alone = run(&mut load)?;
            let stop = AtomicBool::new(false);
            let (beside, sent) = std::thread::scope(|scope| {
                let flood = scope.spawn(|| {
                    let mut frames = kind.frames(from, &to, spi);
                    injector.repeat(
                        &mut frames,
                        FLOOD,
                        || !stop.load(Ordering::Relaxed),
                        |number, frame| {
                            // Far ahead of the window, so that each is worth a look at its tag.
                            let sequence = 0x4000_0000_u32.wrapping_add((number as u32).wrapping_mul(7919));
                            if let Some(field) = frame.get_mut(SEQUENCE..SEQUENCE + 4) {
                                field.copy_from_slice(&sequence.to_be_bytes());
                            }
                        },
                    )
                });
                std::thread::sleep(Duration::from_millis(100));
                let beside = run(&mut load);
                stop.store(true, Ordering::Relaxed);
                (beside, flood.join())
            });
            let (beside, sent) =
                (beside?, sent.map_err(|_| anyhow::anyhow!("the flood's thread has panicked"))??);
            ensure!(arrived(&alone) > 0.0, "nothing arrives without a flood");
            let kept = arrived(&beside) / arrived(&alone);
            println!(
                "  round {round}, {:<52} {:.1} % kept ({sent} forged; lost {:.2} % alone, {:.2} % beside)",
                kind.title(),
                kept * 100.0,
                alone.loss() * 100.0,
                beside.loss() * 100.0
            );
            let metric = Metric(kind.key().into(), format!("valid packets {}", kind.title()), Unit::Share);
            book.put(&metric, conditions.cipher, leg, kept);
        }
    }
    println!("  what gateway B counted: {}", counters(b)?);
    Ok(())
}

/// The drops that have counted, the largest first.
fn counters(culvert: &Culvert) -> Result<String> {
    let status = culvert.status()?;
    let list = status["counters"].as_array().into_iter().flatten();
    let mut drops: Vec<(u64, String)> = list
        .filter(|counter| counter["verdict"] == "drop")
        .filter_map(|counter| Some((counter["packets"].as_u64()?, counter["reason"].as_str()?.to_owned())))
        .collect();
    let tunnel = culvert.site()?;
    let mut add = |drops_of: &serde_json::Value| {
        let counted = drops_of.as_object().into_iter().flatten();
        drops.extend(counted.filter_map(|(reason, count)| Some((count.as_u64()?, reason.clone()))));
    };
    add(&tunnel.0["drops"]);
    tunnel.0["children"].as_array().into_iter().flatten().for_each(|child| add(&child["drops"]));
    drops.sort_by(|a, b| b.cmp(a));
    let shown: Vec<String> = drops
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{reason} {count}"))
        .collect();
    Ok(if shown.is_empty() { "nothing dropped".into() } else { shown.join(", ") })
}

/// Rekeys of the child SA, ten a second, from both sides by turns, under packets both ways that are counted one by one.
pub(super) fn rekeys(leg: Leg, conditions: &Conditions, seconds: u32, book: &mut Book) -> Result<()> {
    let wanted = seconds * 10;
    step(&format!("{wanted} rekeys in {seconds} s under load: {}", leg.name()));
    let this = Standing::raise(leg, conditions)?;
    let (a, b) = this.culvert().context("only Culvert is rekeyed")?;
    let (sizes, length) = (Sizes::fixed(512), Duration::from_secs(u64::from(seconds)));
    let mut both = [Load::new(&this.site, false)?, Load::new(&this.site, true)?];
    // So much as passes both ways at once with room to spare: what is lost then is lost by rekeys.
    let largest = both[0].largest(&sizes, 8, Duration::from_millis(200), 4)?.rate;
    let rate = (largest / 4.0).min(20_000.0);
    let start = Instant::now();
    let (outcomes, done) = std::thread::scope(|scope| {
        let jobs: Vec<_> = both
            .iter_mut()
            .map(|load| scope.spawn(|| load.run(&sizes, 8, Some(rate), length + Duration::from_secs(1))))
            .collect();
        let mut done = 0;
        let mut failure = None;
        while done < wanted && start.elapsed() < length {
            let due = Duration::from_millis(100) * done;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            let side = if done % 2 == 0 { a } else { b };
            match rekey(side) {
                Ok(()) => done += 1,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let outcomes: Vec<_> = jobs.into_iter().map(|job| job.join()).collect();
        (outcomes, failure.map_or(Ok(done), Err))
    });
    let done = done?;
    let mut lost = 0;
    for (direction, outcome) in ["A to B", "B to A"].into_iter().zip(outcomes) {
        let seen = outcome.map_err(|_| anyhow::anyhow!("a generator has panicked"))??;
        let tally = &seen.received.tally;
        println!(
            "  {direction}: {} packets sent ({:.0}/s), {} lost, {} twice, {} out of order",
            seen.sent.packets,
            seen.sent.rate(),
            seen.lost(),
            tally.duplicates,
            tally.reordered
        );
        lost += seen.lost();
    }
    println!("  {done} rekeys in {seconds} s; drops at A: {}; at B: {}", counters(a)?, counters(b)?);
    let put = |book: &mut Book, key: &str, title: String, unit, value| {
        book.put(&Metric(key.into(), title, unit), conditions.cipher, leg, value);
    };
    put(book, "rekey_lost", "packets lost by rekeys under load".into(), Unit::Packets, lost as f64);
    put(book, "rekey_count", format!("rekeys in {seconds} s"), Unit::Rekeys, f64::from(done));
    Ok(())
}

/// Rekeys and waits for the new child SA, at a finer grain than tests do.
fn rekey(side: &Culvert) -> Result<()> {
    let before = side.site()?.spi_in().context("no child SA")?;
    side.cli(&["rekey", "site"])?;
    wait_for("the rekeyed child SA", Duration::from_secs(10), || {
        side.site().ok()?.spi_in().filter(|spi| *spi != before).map(drop)
    })
}

/// What one flow costs beside many SAs: `counts` child SAs, one for each pair of networks, up to 250 in a tunnel,
/// each with keys, counters, window and an entry of the classifier of its own.
pub(super) fn many(counts: &[usize], conditions: &Conditions, plan: &Plan, book: &mut Book) -> Result<()> {
    step("Cost against the number of SAs: tun+udp");
    let (cipher, leg) = (conditions.cipher, Leg::TunUdp);
    let mut first: Option<f64> = None;
    // All stand side by side, so that runs are interleaved.
    let mut standing = Vec::new();
    for count in counts {
        let begun = Instant::now();
        let (site, pair) = match raise_many(*count, conditions) {
            Ok(raised) => raised,
            Err(error) => {
                let text = format!("{error:#}");
                let reason = text.lines().next().unwrap_or_default();
                println!("  {count:>6} SAs: failed: {reason}");
                book.failures.push(format!("{count} SAs: {reason}"));
                continue;
            }
        };
        let resident = resident(pair.0.pid())?;
        print!("  {count:>6} SAs each way: up in {:.1} s", begun.elapsed().as_secs_f64());
        match first {
            None => first = Some(resident),
            Some(one) => {
                let each = (resident - one) / 1024.0 / *count as f64;
                print!(", {each:.1} KiB of memory for each");
                let metric = Metric(
                    format!("memory_sas_{count}"),
                    format!("memory per child SA, at {count}"),
                    Unit::KiB,
                );
                book.put(&metric, cipher, leg, each);
            }
        }
        println!();
        let server = IperfServer::start(&site.host_b)?;
        standing.push((*count, Standing::of_culvert(leg, site, server, pair)));
    }
    for round in 1..=plan.rounds {
        for (count, this) in &standing {
            let plural = if *count == 1 { "" } else { "s" };
            let variant = Variant { key: format!("_sas_{count}"), title: format!(", {count} SA{plural}") };
            let gbps = tcp(this, cipher, Tcp::ONE, plan.seconds, &variant, book)?;
            let pps = packets(this, cipher, Packets::SMALL, plan, &variant, book)?;
            println!("  round {round}, {count:>6} SAs: {gbps} Gbit/s, {pps} packets/s of 64 bytes");
        }
    }
    Ok(())
}

fn raise_many(count: usize, conditions: &Conditions) -> Result<(Site, (Culvert, Culvert))> {
    let site = Site::new()?;
    // Full tunnels, and one with the rest.
    let mut tunnels = vec![PER_TUNNEL; count / PER_TUNNEL];
    tunnels.extend((!count.is_multiple_of(PER_TUNNEL)).then_some(count % PER_TUNNEL));
    let mut networks = [Networks::new(101, LAN_A), Networks::new(120, LAN_B)];
    let mut sides = [Vec::new(), Vec::new()];
    for (number, children) in tunnels.into_iter().enumerate() {
        let (near, far) = factors(children);
        let (a_nets, b_nets) = (networks[0].take(near), networks[1].take(far));
        for (a, side) in [true, false].into_iter().zip(&mut sides) {
            let mut connection = connection(Leg::TunUdp, conditions.cipher, a);
            let (local, remote) = if a { (&a_nets, &b_nets) } else { (&b_nets, &a_nets) };
            (connection.local, connection.remote) = (local.clone(), remote.clone());
            if children > 1 {
                connection.set.push(("esp.pairs".into(), "\"each\"".into()));
            }
            if number > 0 {
                // All between the same addresses: told apart by their ids.
                connection.name = format!("n{number}");
                let (own, other) = if a { ("a", "b") } else { ("b", "a") };
                let tunnel = connection.tunnels.first_mut().context("no tunnel")?;
                tunnel.local_id = Some(format!("{own}{number}.bench"));
                tunnel.remote_id = Some(format!("{other}{number}.bench"));
            }
            side.push(connection);
        }
    }
    let pair = culverts(&site, conditions, Leg::TunUdp, sides)?;
    let children = |culvert: &Culvert| -> usize {
        let Ok(status) = culvert.status() else { return 0 };
        let connections = status["connections"].as_array().into_iter().flatten();
        connections
            .filter_map(|connection| connection["tunnels"][0]["children"].as_array())
            .map(Vec::len)
            .sum()
    };
    let (end, mut seen) = (Instant::now() + Duration::from_secs(30 + count as u64 / 50), 0);
    while Instant::now() < end {
        seen = children(&pair.0).min(children(&pair.1));
        if seen >= count {
            return Ok((site, pair));
        }
        std::thread::sleep(Duration::from_millis(if count > 100 { 500 } else { 50 }));
    }
    anyhow::bail!("only {seen} of {count} child SAs came up")
}

/// Child SAs of one tunnel: an IKE SA holds no more than 256.
const PER_TUNNEL: usize = 250;

/// Networks of 24 bits, each given once; the first is that of the host.
struct Networks {
    octet: u8,
    first: Option<&'static str>,
    given: u32,
}

impl Networks {
    fn new(octet: u8, first: &'static str) -> Self {
        Self { octet, first: Some(first), given: 0 }
    }

    fn take(&mut self, count: usize) -> Vec<String> {
        let mut next = || match self.first.take() {
            Some(first) => first.to_owned(),
            None => {
                let (high, low) = (self.given / 250, self.given % 250);
                self.given += 1;
                format!("10.{}.{low}.0/24", u32::from(self.octet) + high)
            }
        };
        (0..count).map(|_| next()).collect()
    }
}

/// Two numbers, near to each other, whose product is `count`.
fn factors(count: usize) -> (usize, usize) {
    let near = (1..=count).rfind(|near| near * near <= count && count.is_multiple_of(*near)).unwrap_or(1);
    (near, count / near.max(1))
}

/// Resident bytes of a process.
pub(super) fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_networks_make_the_count() {
        assert_eq!(factors(1), (1, 1));
        assert_eq!(factors(100), (10, 10));
        assert_eq!(factors(PER_TUNNEL), (10, 25));
        let mut networks = Networks::new(101, LAN_A);
        assert_eq!(networks.take(2), [LAN_A, "10.101.0.0/24"]);
        assert_eq!(networks.take(250).last().unwrap(), "10.102.0.0/24");
    }

    #[test]
    fn forged_packets_are_what_they_claim() {
        let from = Endpoint { mac: [2; 6], at: "198.51.100.1:4500".parse().unwrap() };
        let to = Endpoint { mac: [4; 6], at: "203.0.113.1:4500".parse().unwrap() };
        for kind in Flood::ALL {
            let frames = kind.frames(from, &to, 0xc000_1234);
            assert_eq!(frames.len(), 32);
            for frame in &frames {
                let spi = u32::from_be_bytes(frame[42..46].try_into().unwrap());
                let port = u16::from_be_bytes(frame[34..36].try_into().unwrap());
                assert_eq!(matches!(kind, Flood::UnknownSpi), spi != 0xc000_1234);
                assert!(spi > 255);
                assert_eq!(matches!(kind, Flood::OtherPort), port != NATT);
                assert!(frame.len() >= SEQUENCE + 4, "there is a sequence number to forge");
            }
        }
    }
}
