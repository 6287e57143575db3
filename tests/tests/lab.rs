//! The lab itself, with strongSwan on both sides: what fails here is not Culvert's fault.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::load::{Load, ping_pong};
use culvert_lab::measure::{Iperf, IperfServer, ping, reaches};
use culvert_lab::topology::{
    HOST_A, HOST_A6, HOST_B, HOST_B6, LAN_A, LAN_A6, LAN_B, LAN_B6, WAN_A, WAN_A6, WAN_B, WAN_B6,
};
use culvert_lab::{Capture, Site, SiteOptions, StrongSwan, SwanConnection, SwanEngine, capture};
use culvert_traffic::Sizes;

#[test]
fn plain_forwarding_and_the_watch_that_sees_it() -> Result<()> {
    let site = Site::new()?;
    ensure!(
        ping(&site.host_a, HOST_B, 1, Duration::from_millis(10))?.received == 0,
        "no route yet, and yet an answer"
    );
    site.route_plain()?;
    let watch = Capture::start(&site.wan)?;
    ensure!(reaches(&site.host_a, HOST_B)?);
    ensure!(reaches(&site.host_b, HOST_A6)?);
    let flows = watch.finish();
    ensure!(!capture::within(&flows, &[LAN_A]).is_empty(), "the watch saw no IPv4: {flows:?}");
    ensure!(!capture::within(&flows, &[LAN_A6]).is_empty(), "the watch saw no IPv6: {flows:?}");
    let result = IperfServer::start(&site.host_b)?.measure(&site.host_a, HOST_B, &Iperf::default())?;
    ensure!(result.bytes > 0, "{result:?}");
    Ok(())
}

/// Every packet is counted where nothing is lost, and what a rule takes away is noticed.
#[test]
fn generator_and_sink() -> Result<()> {
    let site = Site::new()?;
    site.route_plain()?;
    let (mut load, time) = (Load::new(&site, false)?, Duration::from_millis(500));
    for (sizes, flows) in [(Sizes::fixed(64), 1), (Sizes::imix(), 64)] {
        let seen = load.run(&sizes, flows, Some(4000.0), time)?;
        let tally = &seen.received.tally;
        ensure!(seen.sent.packets > 1000 && seen.lost() == 0, "{seen:?}");
        ensure!((tally.duplicates, tally.reordered) == (0, 0), "{seen:?}");
        // The sink counts UDP payloads.
        ensure!(tally.bytes == seen.sent.bytes - 28 * seen.sent.packets, "{seen:?}");
    }
    site.wan.run("nft", &["add table ip few"])?;
    site.wan.run("nft", &["add chain ip few pass { type filter hook forward priority 0; }"])?;
    site.wan.run("nft", &["add rule ip few pass udp sport & 3 == 1 drop"])?;
    let seen = load.run(&Sizes::fixed(512), 64, Some(4000.0), time)?;
    ensure!((0.24..0.26).contains(&seen.loss()), "{seen:?}");
    let found = load.largest(&Sizes::fixed(64), 3, Duration::from_millis(100), 3)?;
    ensure!(found.rate == 0.0 && !found.limited_by_sender, "a third is always lost: {found:?}");
    // The rule would meet the ping-pong too, whose ports the kernel chooses.
    site.wan.run("nft", &["delete table ip few"])?;
    let back = Load::new(&site, true)?.run(&Sizes::fixed(64), 1, Some(4000.0), time)?;
    ensure!(back.sent.packets > 1000 && back.lost() == 0, "{back:?}");
    let trips =
        ping_pong((&site.host_a, HOST_A), (&site.host_b, HOST_B))?.measure(50, Duration::from_secs(5))?;
    ensure!(trips.count() == 50, "{trips:?}");
    Ok(())
}

#[test]
fn strongswan_with_strongswan() -> Result<()> {
    let site = Site::new()?;
    let a = StrongSwan::start(
        &site.gateway_a,
        SwanEngine::User,
        &[SwanConnection::new(WAN_A, WAN_B, LAN_A, LAN_B)],
    )?;
    let b = StrongSwan::start(
        &site.gateway_b,
        SwanEngine::User,
        &[SwanConnection::new(WAN_B, WAN_A, LAN_B, LAN_A)],
    )?;
    let watch = Capture::start(&site.wan)?;
    a.initiate("net")?;
    ensure!(reaches(&site.host_a, HOST_B)?);
    let (child_a, child_b) = (a.wait_child("net", Duration::ZERO)?, b.wait_child("net", Duration::ZERO)?);
    ensure!(child_a.spi_in == child_b.spi_out && child_a.encap, "{child_a:?} {child_b:?}");
    b.rekey_child("net")?;
    a.rekey_ike("site")?;
    ensure!(reaches(&site.host_a, HOST_B)?);
    a.terminate("site")?;
    ensure!(b.ike_count()? == 0);
    let flows = watch.finish();
    ensure!(capture::within(&flows, &[LAN_A, LAN_B]).is_empty(), "in clear on the WAN: {flows:?}");
    Ok(())
}

#[test]
fn strongswan_with_strongswan_behind_nat() -> Result<()> {
    let site = Site::with(SiteOptions { nat: true, ..SiteOptions::default() })?;
    let mut behind = SwanConnection::new(site.local_a(), WAN_B, LAN_A, LAN_B);
    behind.encap = false;
    let mut before = SwanConnection::new(WAN_B, "%any", LAN_B, LAN_A);
    before.remote_id = site.local_a().into();
    before.encap = false;
    let a = StrongSwan::start(&site.gateway_a, SwanEngine::User, &[behind])?;
    let b = StrongSwan::start(&site.gateway_b, SwanEngine::User, &[before])?;
    a.initiate("net")?;
    ensure!(reaches(&site.host_a, HOST_B)?);
    let seen = b.ike("site")?;
    ensure!(seen.as_ref().is_some_and(|ike| ike.nat_remote && !ike.nat_local), "{seen:?}");
    Ok(())
}

#[test]
fn strongswan_with_strongswan_over_ipv6() -> Result<()> {
    let site = Site::new()?;
    let a = StrongSwan::start(
        &site.gateway_a,
        SwanEngine::User,
        &[SwanConnection::new(WAN_A6, WAN_B6, LAN_A6, LAN_B6)],
    )?;
    let b = StrongSwan::start(
        &site.gateway_b,
        SwanEngine::User,
        &[SwanConnection::new(WAN_B6, WAN_A6, LAN_B6, LAN_A6)],
    )?;
    a.initiate("net")?;
    ensure!(b.child("net")?.is_some());
    ensure!(reaches(&site.host_a, HOST_B6)?);
    Ok(())
}
