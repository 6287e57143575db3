//! The lab itself, with strongSwan on both sides: what fails here is not Culvert's fault.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::measure::{Iperf, IperfServer, ping, reaches};
use culvert_lab::topology::{
    HOST_A6, HOST_B, HOST_B6, LAN_A, LAN_A6, LAN_B, LAN_B6, WAN_A, WAN_A6, WAN_B, WAN_B6,
};
use culvert_lab::{Capture, Site, SiteOptions, StrongSwan, SwanConnection, SwanEngine, capture};

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
