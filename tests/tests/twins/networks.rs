//! Networks of a connection that come and go while it carries others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::{Echo, reaches};
use culvert_lab::topology::{HOST_B, WAN_A, WAN_B};
use culvert_lab::{Capture, Culvert, GatewayConfig, capture, wait_for};
use culvert_tests::{Case, Twins};

use super::case;
use super::failover::PATIENCE;

/// A network behind gateway B, and its only host.
const MORE: &str = "10.22.0.0/24";
const MORE_HOST: &str = "10.22.0.1";

fn config(twins: &Twins, case: &Case, at_a: bool, more: bool) -> GatewayConfig {
    let mut connection = case.culvert_connection(&twins.site, at_a);
    if more {
        if at_a { &mut connection.remote } else { &mut connection.local }.push(MORE.into());
    }
    GatewayConfig::new(vec![connection])
}

/// What the child SAs carry to and from the new network, of side A's.
fn carried(a: &Culvert) -> Result<Vec<String>> {
    let site = a.site()?;
    let children = site.0["children"].as_array().context("no children")?;
    let nets = children.iter().flat_map(|child| child["remote_ts"].as_array().cloned().unwrap_or_default());
    Ok(nets.map(|net| net.as_str().unwrap_or_default().to_owned()).collect())
}

fn come_and_go(case: &Case) -> Result<()> {
    let twins = Twins::bring_up(case)?;
    let site = &twins.site;
    site.host_b.ip(&format!("addr add {MORE_HOST}/32 dev lo"))?;
    site.gateway_b.ip(&format!("route add {MORE} via {HOST_B}"))?;
    let before = twins.a.site()?;
    let start = || Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(5));
    let undisturbed = |echo: Echo| -> Result<()> {
        let seen = echo.stop()?;
        let logs = || format!("a: {}\nb: {}", twins.a.log(), twins.b.log());
        ensure!(seen.lost() == 0 && seen.sent > 20, "{seen:?}\n{}", logs());
        Ok(())
    };
    let reload = |at_a: bool, more| -> Result<()> {
        let side = if at_a { &twins.a } else { &twins.b };
        side.setup().write(&config(&twins, case, at_a, more))?;
        let said = side.cli(&["reload"])?;
        ensure!(!said.contains("negotiated anew"), "{said}");
        Ok(())
    };
    let has = |wanted: bool| {
        wait_for("the child SAs to follow", PATIENCE, || {
            let nets = carried(&twins.a).ok()?;
            let old = nets.iter().any(|net| net.starts_with("10.2.0.0"));
            (old && nets.iter().any(|net| net.starts_with("10.22.0.0")) == wanted).then_some(())
        })
        .with_context(|| format!("a: {}\nb: {}", twins.a.log(), twins.b.log()))
    };
    // One side after the other, as it is where two people do it. What the other side does not know yet is not in clear.
    let (watch, echo) = (Capture::start(&site.wan)?, start()?);
    reload(true, true)?;
    ensure!(!reaches(&site.host_a, MORE_HOST)?, "the peer does not know it yet");
    reload(false, true)?;
    has(true)?;
    wait_for("the new network to be reached", PATIENCE, || {
        reaches(&site.host_a, MORE_HOST).ok()?.then_some(())
    })
    .with_context(|| format!("a: {}\nb: {}", twins.a.log(), twins.b.log()))?;
    undisturbed(echo)?;
    let flows = watch.finish();
    ensure!(capture::within(&flows, &["10.0.0.0/8"]).is_empty(), "in clear: {flows:?}");
    let route = site.gateway_a.ip_text(&format!("route get {MORE_HOST}"))?;
    ensure!(route.contains("cv-site-a"), "{route}");
    let echo = start()?;
    reload(true, false)?;
    reload(false, false)?;
    has(false)?;
    let route = site.gateway_a.ip_text(&format!("route get {MORE_HOST}"))?;
    ensure!(!route.contains("cv-site-a"), "{route}");
    ensure!(!reaches(&site.host_a, MORE_HOST)?, "it is no network of the connection any more");
    undisturbed(echo)?;
    ensure!(
        twins.a.site()?.ike_spis() == before.ike_spis(),
        "from {WAN_A} to {WAN_B} it was negotiated anew:\n{}",
        twins.a.log()
    );
    Ok(())
}

#[test]
fn b9_networks_come_and_go_and_the_others_lose_nothing() -> Result<()> {
    come_and_go(&case("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"))
}

#[test]
fn b9_networks_come_and_go_by_quick_modes() -> Result<()> {
    let case = Case {
        ours: vec![("ike.version".into(), "1".into())],
        ..case("aes128-sha256-prfsha256-ecp256", "aes128-sha256-ecp256")
    };
    come_and_go(&case)
}
