//! Many connections of two tunnels each: how long they take to come up, what they cost when nothing happens, and what a
//! change of one costs beside the others.
use super::figures::{Book, Metric, Unit};
use super::legs::{Conditions, Leg, connection};
use super::step;
use super::strain::resident;
use anyhow::{Context, Result, bail};
use culvert_lab::culvert::{Connection, GatewayConfig};
use culvert_lab::topology::{LAN_A, LAN_B};
use culvert_lab::{Culvert, Site};
use std::time::{Duration, Instant};

/// How long it may take until all are up, and until one is again.
const UP: Duration = Duration::from_secs(300);
/// How long it is watched how much is done when there is nothing to do.
const IDLE: Duration = Duration::from_secs(5);

/// Connection `number` of a side. The first has the hosts' networks.
fn site(conditions: &Conditions, number: u32, a: bool) -> Result<Connection> {
    let mut connection = connection(Leg::TunUdp, conditions.cipher, a);
    connection.name = if number == 0 { "site".to_owned() } else { format!("n{number}") };
    let nets = match number {
        0 => [LAN_A.to_owned(), LAN_B.to_owned()],
        _ => [100, 130].map(|octet| format!("10.{}.{}.0/24", octet + number / 250, number % 250)),
    };
    let [local, remote] = if a { nets } else { [nets[1].clone(), nets[0].clone()] };
    (connection.local, connection.remote) = (vec![local], vec![remote]);
    let template = connection.tunnels.pop().context("no tunnel")?;
    for name in ["a", "b"] {
        let (own, other) = if a { ("a", "b") } else { ("b", "a") };
        let mut tunnel = template.clone();
        tunnel.name = name.to_owned();
        // All between the same addresses: told apart by their ids.
        tunnel.local_id = Some(format!("{own}.{number}.{name}.bench"));
        tunnel.remote_id = Some(format!("{other}.{number}.{name}.bench"));
        connection.tunnels.push(tunnel);
    }
    Ok(connection)
}

fn config(conditions: &Conditions, count: u32, a: bool) -> Result<GatewayConfig> {
    let connections: Result<Vec<Connection>> = (0..count).map(|number| site(conditions, number, a)).collect();
    // What is said of each tunnel is not what is measured.
    Ok(GatewayConfig::new(connections?).binaries(Some(conditions.binaries.clone())).log("level", "\"warn\""))
}

/// Tunnels that are up.
fn up(culvert: &Culvert) -> Result<usize> {
    let status = culvert.status()?;
    let connections = status["connections"].as_array().into_iter().flatten();
    let tunnels = connections.filter_map(|connection| connection["tunnels"].as_array()).flatten();
    Ok(tunnels.filter(|tunnel| tunnel["state"] == "up").count())
}

/// Waits until so many are up; how long that took.
fn wait(culvert: &Culvert, wanted: usize, begun: Instant, pause: Duration) -> Result<f64> {
    loop {
        let seen = up(culvert)?;
        if seen >= wanted {
            return Ok(begun.elapsed().as_secs_f64());
        }
        if begun.elapsed() > UP {
            bail!("only {seen} of {wanted} tunnels came up");
        }
        std::thread::sleep(pause);
    }
}

/// Both gateways with `count` connections.
fn raise(conditions: &Conditions, count: u32) -> Result<(Site, [Culvert; 2], f64)> {
    let site = Site::new()?;
    let b = config(conditions, count, false)?;
    let b = Culvert::start(
        &site.gateway_b,
        &GatewayConfig { connections: b.connections.into_iter().map(Connection::respond).collect(), ..b },
    )?;
    let a = config(conditions, count, true)?;
    let begun = Instant::now();
    let a = Culvert::start(&site.gateway_a, &a)?;
    let seconds = wait(&a, 2 * count as usize, begun, Duration::from_millis(250))?;
    Ok((site, [a, b], seconds))
}

/// CPU seconds that a process has used.
fn used(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name in a process's stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    // USER_HZ is 100 on every architecture of ours.
    Ok(ticks.sum::<f64>() / 100.0)
}

/// Brings `count` connections up, and one alone to compare.
pub(super) fn many(count: u32, conditions: &Conditions, book: &mut Book) -> Result<()> {
    let tunnels = 2 * count;
    step(&format!("{count} connections of two tunnels each: tun+udp"));
    let (cipher, leg) = (conditions.cipher, Leg::TunUdp);
    let (lab, [one, _other], _) = raise(conditions, 1)?;
    let alone = resident(one.pid())?;
    drop((one, _other, lab));
    let (_lab, [a, b], seconds) = raise(conditions, count)?;
    let each = (resident(a.pid())? - alone) / 1024.0 / f64::from(tunnels - 2).max(1.0);
    println!(
        "  {tunnels} tunnels up in {seconds:.1} s; {each:.1} KiB of memory for each, its SAs and configuration included, the kernel's device with its queue not"
    );
    let before = [used(a.pid())?, used(b.pid())?];
    std::thread::sleep(IDLE);
    let idle = (used(a.pid())? - before[0]).max(used(b.pid())? - before[1]) / IDLE.as_secs_f64();
    println!("  idle: {:.1} % of a CPU", idle * 100.0);
    let asked = Instant::now();
    a.cli(&["status"])?;
    println!("  `culvert status` in {:.2} s", asked.elapsed().as_secs_f64());
    let mut changed = config(conditions, count, true)?;
    if let Some(one) = changed.connections.last_mut() {
        one.esp_lifetime = "50m".to_owned();
    }
    a.setup().write(&changed)?;
    let (begun, before) = (Instant::now(), used(a.pid())?);
    a.cli(&["reload"])?;
    let reload = wait(&a, tunnels as usize, begun, Duration::from_millis(50))?;
    println!(
        "  reload that changes one connection: all up again in {reload:.2} s, {:.2} s of CPU time",
        used(a.pid())? - before
    );
    let mut put = |key: String, title: &str, unit, value| {
        book.put(&Metric(key, format!("{title}, {tunnels} tunnels"), unit), cipher, leg, value);
    };
    put(format!("tunnels_{tunnels}_up"), "all up", Unit::Seconds, seconds);
    put("memory_tunnel".to_owned(), "memory of a tunnel", Unit::KiB, each);
    put("tunnels_idle".to_owned(), "CPU time in an idle second", Unit::Seconds, idle);
    put("tunnels_reload".to_owned(), "all up after a change of one", Unit::Seconds, reload);
    Ok(())
}
