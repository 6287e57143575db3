//! Dropped packets are shown as they are dropped, each with its reason; a flood is shown by a few and counted whole.

use std::cell::Cell;
use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::Echo;
use culvert_lab::process::Process;
use culvert_lab::topology::{HOST_B, WAN_A, WAN_B};
use culvert_lab::{Culvert, Site, wait_for};
use culvert_tests::{Case, Twins, no_loss};
use culvert_traffic::{Injector, Link};
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

use super::case;

/// Where the SPI stands in a frame with ESP in UDP over IPv4.
const SPI: std::ops::Range<usize> = 42..46;
/// And UDP's checksum.
const CHECKSUM: std::ops::Range<usize> = 40..42;
/// Nobody's.
const WRONG: [u8; 4] = [0xc0, 0xff, 0xee, 0x02];
/// Outside the selectors.
const ELSEWHERE: &str = "10.77.0.2";
const FLOOD: u64 = 5000;

/// A frame with ESP as it came in at gateway A.
fn arrived(a: &Culvert, twins: &Twins) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.pcapng");
    let mut capture =
        a.cli_beside(&["capture", "site/a", "--write", &path.display().to_string(), "--duration", "1s"])?;
    wait_for("the capture to begin", Duration::from_secs(5), || {
        fs::metadata(&path).ok().filter(|m| m.len() > 0)
    })?;
    no_loss(&twins.site.host_a, HOST_B)?;
    capture.wait(Duration::from_secs(10))?;
    let spi = a.site()?.spi_in().context("no SPI")?.to_owned();
    let spi = u32::from_str_radix(&spi, 16)?.to_be_bytes();
    let mut reader = PcapNgReader::new(File::open(&path)?)?;
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block?
            && packet.data.get(SPI) == Some(&spi)
        {
            // What the sender's kernel left of the checksum to the device nobody finishes: none, then (RFC 768).
            let mut frame = packet.data.into_owned();
            frame[CHECKSUM].fill(0);
            return Ok(frame);
        }
    }
    anyhow::bail!("no ESP from the peer in the capture:\n{}", capture.log())
}

fn follow(a: &Culvert, more: &[&str]) -> Result<Process> {
    let mut follower = a.cli_beside(&[&["drops", "--follow", "--json"], more].concat())?;
    follower.wait_log("following dropped packets", Duration::from_secs(5))?;
    Ok(follower)
}

/// Engine `bpf` shows a packet of this side's, and a replay.
#[test]
fn drops_of_engine_bpf() -> Result<()> {
    let case = Case {
        engine: "bpf".into(),
        culvert_encap: "udp".into(),
        ..case("aes128gcm16-prfsha256-ecp256", "chacha20poly1305")
    };
    let twins = Twins::bring_up(&case)?;
    let (a, site) = (&twins.a, &twins.site);
    let frame = arrived(a, &twins)?;
    let mut follower = follow(a, &[])?;
    send_elsewhere(site)?;
    let selector = first(&mut follower, "selector-mismatch")?;
    ensure!(selector["place"] == "bpf" && selector["outward"] == true, "{selector:#}");
    ensure!(selector["tunnel"] == "a" && selector["inner"]["source"] == ELSEWHERE, "{selector:#}");
    inject(site, &frame, 1)?;
    let replay = first(&mut follower, "replay-duplicate")?;
    ensure!(
        replay["place"] == "bpf" && replay["spi"] == a.site()?.spi_in().unwrap_or_default(),
        "{replay:#}"
    );
    ensure!(replay["source"]["address"] == WAN_B && replay["source"]["port"] == 4500, "{replay:#}");
    ensure!(replay["inner"].is_null() && replay["sequence"].as_u64() > Some(0), "{replay:#}");
    Ok(())
}

/// Sends a frame to gateway A over and over; how often it went.
fn inject(site: &Site, frame: &[u8], most: u64) -> Result<u64> {
    let begin = Instant::now();
    site.wan.within(|| {
        let injector = Injector::open(&Link::find("to-a")?)?;
        let count = Cell::new(0);
        let more = || count.get() < most && begin.elapsed() < Duration::from_secs(20);
        injector.repeat(&mut [frame.to_vec()], 20_000.0, more, |_, _| count.set(count.get() + 1))
    })?
}

/// A packet that no selector takes, from host A.
fn send_elsewhere(site: &Site) -> Result<()> {
    site.host_a.ip(&format!("addr add {ELSEWHERE}/32 dev eth0"))?;
    let socket = site.host_a.within(|| UdpSocket::bind(format!("{ELSEWHERE}:0")))??;
    socket.send_to(b"secret", SocketAddr::new(HOST_B.parse()?, 9))?;
    Ok(())
}

/// What was told of this reason.
fn records(follower: &Process, reason: &str) -> Vec<Value> {
    let all = follower.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    all.filter(|record| record["reason"] == reason).collect()
}

fn first(follower: &mut Process, reason: &str) -> Result<Value> {
    let line = follower.wait_log(&format!("\"{reason}\""), Duration::from_secs(5))?;
    Ok(serde_json::from_str(&line)?)
}

#[test]
fn drops_are_followed() -> Result<()> {
    let case = Case {
        engine: "user".into(),
        culvert_encap: "udp".into(),
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16")
    };
    let twins = Twins::bring_up(&case)?;
    let (a, site) = (&twins.a, &twins.site);
    let frame = arrived(a, &twins)?;
    let mut follower = follow(a, &[])?;
    let spi = a.site()?.spi_in().context("no SPI")?.to_owned();

    // A replay: of the tunnel, with the outer addresses; nothing of what is inside.
    inject(site, &frame, 1)?;
    let replay = first(&mut follower, "replay-duplicate")?;
    ensure!(replay["place"] == "user" && replay["tunnel"] == "a" && replay["spi"] == spi, "{replay:#}");
    ensure!(replay["source"]["address"] == WAN_B && replay["source"]["port"] == 4500, "{replay:#}");
    ensure!(replay["sequence"].as_u64() > Some(0) && replay["inner"].is_null(), "{replay:#}");

    // An SPI of nobody's, which the guard drops.
    let mut wrong = frame.clone();
    wrong[SPI].copy_from_slice(&WRONG);
    inject(site, &wrong, 1)?;
    let unknown = first(&mut follower, "unknown-spi")?;
    ensure!(unknown["place"] == "guard" && unknown["interface"] == "wan", "{unknown:#}");
    ensure!(unknown["spi"] == "c0ffee02" && unknown["destination"]["address"] == WAN_A, "{unknown:#}");
    ensure!(unknown["source"]["port"] == 4500 && unknown["length"] == frame.len(), "{unknown:#}");

    // A packet that no selector takes; it is this side's own, and shown.
    send_elsewhere(site)?;
    let selector = first(&mut follower, "selector-mismatch")?;
    ensure!(selector["outward"] == true && selector["tunnel"] == "a", "{selector:#}");
    ensure!(selector["inner"]["source"] == ELSEWHERE && selector["inner"]["protocol"] == 17, "{selector:#}");
    ensure!(!follower.log().contains("secret"), "a payload was shown");

    // A flood: a few of them each second, all of them counted, and the tunnel beside it loses nothing.
    let echo = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(10))?;
    let mut all = 1;
    while all < FLOOD {
        all += inject(site, &wrong, FLOOD - all)?;
    }
    let seen = echo.stop()?;
    ensure!(seen.lost() == 0, "the tunnel was disturbed: {seen:?}");
    let told = |follower: &Process| {
        let packets = |record: &Value| record["packets"].as_u64().unwrap_or(0);
        records(follower, "unknown-spi").iter().map(packets).sum::<u64>()
    };
    wait_for("the flood to be counted", Duration::from_secs(5), || (told(&follower) >= all).then_some(()))?;
    ensure!(told(&follower) == all, "{} of {all}:\n{}", told(&follower), follower.log());
    let shown = records(&follower, "unknown-spi");
    let (counts, packets): (Vec<_>, Vec<_>) = shown.iter().partition(|record| record["unshown"] == true);
    ensure!(!counts.is_empty() && packets.len() <= 100, "{}", follower.log());
    follower.kill();

    // Nobody follows any more; another one does, for one reason and one line. And the counts.
    let mut one = follow(a, &["--reason", "replay-duplicate", "--tunnel", "site/a", "--count", "1"])?;
    inject(site, &wrong, 1)?;
    inject(site, &frame, 1)?;
    ensure!(one.wait(Duration::from_secs(5))?.success(), "{}", one.log());
    let lines = one.lines().iter().filter(|line| line.starts_with('{')).count();
    ensure!(lines == 1 && records(&one, "replay-duplicate").len() == 1, "{}", one.log());
    let counted: Value = serde_json::from_str(&a.cli(&["drops", "--json"])?)?;
    let count = |place: &str, reason: &str| {
        let all = counted["drops"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().find(|d| d["place"] == place && d["reason"] == reason).and_then(|d| d["packets"].as_u64())
    };
    ensure!(count("guard", "unknown-spi") == Some(all + 1), "{counted:#}");
    ensure!(count("user", "replay-duplicate") == Some(2), "{counted:#}");
    let text = a.cli(&["drops", "--tunnel", "site/a"])?;
    ensure!(text.contains("replay-duplicate") && !text.contains("unknown-spi"), "{text}");
    let refused =
        a.cli(&["drops", "--follow", "--tunnel", "nowhere"]).err().context("nowhere was followed")?;
    ensure!(format!("{refused:#}").contains("no connection or tunnel `nowhere`"), "{refused:#}");
    Ok(())
}
