//! A child SA for each worker beside the first (RFC 9611), and a peer that makes none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::{Culvert, GatewayConfig, Site, SiteOptions, wait_for};
use culvert_tests::{Case, traffic};
use serde_json::Value;

use super::case;

fn start(site: &Site, at_a: bool, per_cpu: &str) -> Result<Culvert> {
    let case = Case {
        ours: vec![("esp.per_cpu".into(), per_cpu.into())],
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256")
    };
    let gateway = if at_a { &site.gateway_a } else { &site.gateway_b };
    let config = GatewayConfig::new(vec![case.culvert_connection(site, at_a)]).gateway("workers", "2");
    Culvert::start(gateway, &config)
}

/// What each child SA is for, with its SPIs, ours first.
fn children(side: &Culvert) -> Result<Vec<(String, String, String)>> {
    let site = side.site()?;
    let text = |child: &Value, key: &str| child[key].as_str().unwrap_or("").to_owned();
    let all = site.0["children"].as_array().context("no children")?;
    let mut all: Vec<_> =
        all.iter().map(|c| (text(c, "purpose"), text(c, "spi_in"), text(c, "spi_out"))).collect();
    all.sort();
    Ok(all)
}

/// Waits until both have the same child SAs, for these purposes; those of A.
fn agree(a: &Culvert, b: &Culvert, purposes: &[&str]) -> Result<Vec<(String, String, String)>> {
    let same = || {
        let (of_a, of_b) = (children(a).ok()?, children(b).ok()?);
        let turned: Vec<_> = of_b.into_iter().map(|(purpose, i, o)| (purpose, o, i)).collect();
        (of_a == turned && of_a.iter().map(|c| c.0.as_str()).eq(purposes.iter().copied())).then_some(of_a)
    };
    wait_for("the same child SAs on both sides", Duration::from_secs(15), same)
        .with_context(|| format!("a: {:?}\nb: {:?}\n{}\n{}", children(a), children(b), a.log(), b.log()))
}

#[test]
fn child_sas_for_each_worker() -> Result<()> {
    let site = Site::with(SiteOptions::default())?;
    let (b, a) = (start(&site, false, "true")?, start(&site, true, "true")?);
    a.wait_site()?;
    let all = case("", "");
    let hosts = all.hosts();
    let three = ["", "cpu0", "cpu1"];
    let first = agree(&a, &b, &three)?;
    traffic(&site, &hosts)?;
    ensure!(a.site()?.0["missing_children"].as_array().is_none_or(Vec::is_empty), "{:#}", a.site()?.0);
    // Each is rekeyed for its own purpose, by either side, and a new IKE SA carries them on.
    for (side, ike) in [(&a, false), (&b, false), (&a, true)] {
        let before = agree(&a, &b, &three)?;
        if ike {
            side.rekey_ike()?;
        } else {
            side.rekey_child()?;
            wait_for("every child SA rekeyed", Duration::from_secs(15), || {
                let now = children(&a).ok()?;
                (now.len() == 3 && now.iter().all(|child| !before.contains(child))).then_some(())
            })?;
        }
        ensure!(agree(&a, &b, &three)? != first);
    }
    traffic(&site, &hosts)
}

#[test]
fn a_peer_without_child_sas_for_a_cpu_is_left_alone() -> Result<()> {
    let site = Site::with(SiteOptions::default())?;
    let (b, a) = (start(&site, false, "false")?, start(&site, true, "2")?);
    a.wait_site()?;
    let missing = wait_for("the refusals", Duration::from_secs(15), || {
        let missing = a.site().ok()?.0["missing_children"].to_string();
        missing.contains("cpu0, cpu1").then_some(missing)
    })?;
    ensure!(
        missing.contains("TS_MAX_QUEUE") && missing.contains("the others carry its packets"),
        "{missing}"
    );
    agree(&a, &b, &[""])?;
    traffic(&site, &case("", "").hosts())
}

/// strongSwan 5.9 knows nothing of RFC 9611: it makes further child SAs as it makes any, and sends with the newest alone. So
/// one worker owns all that comes, while either sends with its own.
#[test]
fn strongswan_makes_them_and_sends_with_one() -> Result<()> {
    let mut case = Case {
        ours: vec![("esp.per_cpu".into(), "2".into())],
        ..case("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256")
    };
    case.children = 3;
    let pair = case.bring_up()?;
    let settled = || {
        let all = children(&pair.culvert).ok()?;
        all.iter().map(|child| child.0.as_str()).eq(["", "cpu0", "cpu1"]).then_some(())
    };
    let received = || -> Result<Vec<u64>> {
        let site = pair.culvert.site()?;
        let all = site.0["children"].as_array().context("no children")?;
        Ok(all.iter().filter_map(|child| child["packets_in"].as_u64()).collect())
    };
    for rekeyed in [false, true] {
        if rekeyed {
            pair.culvert.rekey_child()?;
        }
        wait_for("three child SAs", Duration::from_secs(15), settled).with_context(|| pair.culvert.log())?;
        pair.settle()?;
        pair.traffic()?;
        let before = received()?;
        pair.pings()?;
        let grown = received()?.iter().zip(&before).filter(|(after, before)| after > before).count();
        ensure!(grown == 1, "{grown} child SAs receive: {:#}", pair.culvert.site()?.0);
    }
    Ok(())
}
