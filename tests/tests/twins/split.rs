//! `latency = "split"`: small packets in a child SA of their own, with Culvert and with strongSwan as the peer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::TunnelStatus;
use culvert_lab::measure::{Echo, echo};
use culvert_lab::topology::{HOST_A, HOST_B};
use culvert_lab::{Culvert, wait_for};
use culvert_tests::{Case, Initiator, Twins, traffic};
use serde_json::Value;

fn case(esp: &str, initiator: Initiator) -> Case {
    Case {
        ours: vec![("latency".into(), "\"split\"".into())],
        ..Case::new("aes128gcm16-prfsha256-ecp256", esp, initiator)
    }
}

/// The child SA for small packets, or the one for all.
fn child(site: &TunnelStatus, small: bool) -> Option<&Value> {
    let children = site.0["children"].as_array()?;
    children.iter().find(|child| (child["purpose"] == "small") == small)
}

fn packets(culvert: &Culvert, small: bool, way: &str) -> Result<u64> {
    let site = culvert.site()?;
    child(&site, small).and_then(|c| c[way].as_u64()).with_context(|| format!("{small}: {:#}", site.0))
}

/// Waits until there are two, of these suites.
fn both(culvert: &Culvert, suites: [&str; 2]) -> Result<()> {
    wait_for("two child SAs", Duration::from_secs(20), || {
        let site = culvert.site().ok()?;
        let two = [false, true].map(|small| child(&site, small).map(|c| c["suite"].clone()));
        let right = site.0["children"].as_array()?.len() == 2;
        (right && two == suites.map(|suite| Some(suite.into()))).then_some(())
    })
    .with_context(|| format!("{:#}\n{}", culvert.site().map(|s| s.0).unwrap_or_default(), culvert.log()))
}

const SUITES: [&str; 2] = ["aes128gcm16", "chacha20poly1305"];

#[test]
fn each_engine_has_its_packets_and_keeps_them_through_rekeys() -> Result<()> {
    let case = case("aes128gcm16-ecp256", Initiator::Culvert);
    let twins = Twins::bring_up(&case)?;
    for side in [&twins.a, &twins.b] {
        both(side, SUITES)?;
        let site = side.site()?;
        ensure!(site.0["engine"] == "user", "{:#}", site.0);
        ensure!(site.0["engine_reasons"].to_string().contains("go by engine bpf"), "{:#}", site.0);
    }
    traffic(&twins.site, &case.hosts())?;
    // One engine after the other is asked for what it alone carries.
    let (a, b) = ((&twins.site.host_a, HOST_A), (&twins.site.host_b, HOST_B));
    let before = [packets(&twins.a, false, "packets_out")?, packets(&twins.a, true, "packets_out")?];
    let seen = echo(a, b, 20, Duration::from_millis(5), 56)?;
    ensure!(seen.sent > 0 && seen.lost() == 0, "{seen:?}");
    ensure!(packets(&twins.a, false, "packets_out")? == before[0]);
    ensure!(packets(&twins.a, true, "packets_out")? >= before[1] + u64::from(seen.sent));
    let seen = echo(a, b, 20, Duration::from_millis(5), 900)?;
    ensure!(seen.sent > 0 && seen.lost() == 0, "{seen:?}");
    ensure!(packets(&twins.a, false, "packets_out")? >= before[0] + u64::from(seen.sent));

    let running = Echo::start(&twins.site.host_a, &twins.site.host_b, HOST_B, Duration::from_millis(5))?;
    let rekeys: [fn(&Twins) -> Result<()>; 3] =
        [|t| t.a.rekey_child(), |t| t.b.rekey_child(), |t| t.a.rekey_ike()];
    for rekey in rekeys {
        rekey(&twins)?;
        both(&twins.a, SUITES)?;
        both(&twins.b, SUITES)?;
    }
    let seen = running.stop()?;
    ensure!(seen.sent > 5 && seen.lost() == 0, "{seen:?}");
    ensure!(packets(&twins.b, true, "packets_in")? > 0);
    traffic(&twins.site, &case.hosts())
}

#[test]
fn a_peer_that_takes_one_child_sa_gets_one() -> Result<()> {
    let case = case("aes128gcm16-ecp256", Initiator::Culvert);
    let plain = Case { ours: Vec::new(), ..case.clone() };
    let site = case.site()?;
    let config =
        |case: &Case, at_a| culvert_lab::GatewayConfig::new(vec![case.culvert_connection(&site, at_a)]);
    let _b = Culvert::start(&site.gateway_b, &config(&plain, false))?;
    let a = Culvert::start(&site.gateway_a, &config(&case, true))?;
    a.wait_site()?;
    let said = wait_for("the reason", Duration::from_secs(15), || {
        let missing = a.site().ok()?.0["missing_children"].to_string();
        missing.contains("others carry").then_some(missing)
    })
    .with_context(|| a.log())?;
    ensure!(said.contains("small"), "{said}");
    traffic(&site, &case.hosts())?;
    ensure!(a.site()?.0["children"].as_array().is_some_and(|c| c.len() == 1));
    Ok(())
}

/// strongSwan knows nothing of purposes: its packets may come in either.
#[test]
fn strongswan_has_two_child_sas_of_one_configuration() -> Result<()> {
    let mut case = case("aes128gcm16-ecp256", Initiator::Culvert);
    case.theirs
        .push(("children.net.esp_proposals".into(), "aes128gcm16-ecp256,chacha20poly1305-ecp256".into()));
    case.children = 2;
    let pair = case.bring_up()?;
    both(&pair.culvert, SUITES)?;
    pair.traffic()?;
    let before = packets(&pair.culvert, true, "packets_out")?;
    pair.pings()?;
    ensure!(packets(&pair.culvert, true, "packets_out")? > before);
    ensure!(packets(&pair.culvert, false, "packets_out")? > 0);
    pair.swan.rekey_child("net")?;
    both(&pair.culvert, SUITES)?;
    pair.culvert.rekey_child()?;
    both(&pair.culvert, SUITES)?;
    pair.settle()?;
    pair.traffic()
}
