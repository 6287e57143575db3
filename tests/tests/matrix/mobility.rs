//! Addresses that change under a tunnel that stands: MOBIKE (RFC 4555), either side as the one that moves.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::{Namespace, wait_for};
use culvert_tests::Pair;
use culvert_tests::matrix::Cell;

const THEME: &str = "mobility";

pub(crate) fn rows() -> Vec<Cell> {
    let cell = |name: &str| {
        Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .ours("ike.mobike", "\"yes\"")
            .ours("tunnel.a.local_address", "")
            .theirs("mobike", "yes")
            .theirs("local_addrs", "")
    };
    vec![
        cell("culvert_moves_and_moves_back")
            .then("another address", |pair| moves(pair, true, 7))
            .then("the first address", |pair| moves(pair, true, 1)),
        cell("strongswan_moves_and_moves_back")
            .then("another address", |pair| moves(pair, false, 7))
            .then("the first address", |pair| moves(pair, false, 1)),
    ]
}

/// Gives one side's gateway another address in place of its own; the tunnel goes on with the same IKE SA. (strongSwan's
/// user-space ESP cannot move an SA: it rekeys it.)
fn moves(pair: &Pair, culvert: bool, host: u8) -> Result<()> {
    let before = pair.culvert.site()?;
    ensure!(before.0["ike"]["mobike"] == true, "no MOBIKE: {:#}", before.0);
    let at_a = pair.case.culvert_at_a() == culvert;
    let (gateway, net) =
        if at_a { (&pair.site.gateway_a, "198.51.100") } else { (&pair.site.gateway_b, "203.0.113") };
    readdress(gateway, net, host)?;
    let end = if culvert { "local" } else { "remote" };
    let expected = format!("{net}.{host}:");
    wait_for("Culvert to have moved", Duration::from_secs(10), || {
        let now = pair.culvert.site().ok()?;
        now.0["ike"][end]["address"].as_str()?.starts_with(&expected).then_some(())
    })?;
    let there = wait_for("packets to pass again", Duration::from_secs(10), || pair.pings().ok());
    let now = pair.culvert.site()?;
    ensure!(there.is_ok(), "no packet passes: {:#}", now.0);
    ensure!(now.ike_spis() == before.ike_spis(), "negotiated anew");
    Ok(())
}

fn readdress(gateway: &Namespace, net: &str, host: u8) -> Result<()> {
    let old = if host == 1 { 7 } else { 1 };
    gateway.ip(&format!("addr del {net}.{old}/24 dev wan"))?;
    gateway.ip(&format!("addr add {net}.{host}/24 dev wan"))?;
    gateway.ip(&format!("route replace default via {net}.254"))
}
