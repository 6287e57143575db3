//! Addresses that change under a tunnel that stands: MOBIKE (RFC 4555), either side as the one that moves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::{Namespace, wait_for};
use culvert_tests::Pair;
use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "mobility";

pub(crate) fn rows() -> Vec<Cell> {
    let cell = |name: &str| {
        Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .ours("ike.mobike", "\"yes\"")
            .ours("tunnel.a.local_address", "")
            .theirs("mobike", "yes")
            .theirs("local_addrs", "")
            .then("only IPv4 passes", |pair| ipv6(pair, false))
    };
    vec![
        cell("culvert_moves_and_moves_back")
            .then("another address", |pair| moves(pair, true, 7))
            .then("the first address", |pair| moves(pair, true, 1))
            .then("IPv6 passes again", |pair| ipv6(pair, true)),
        cell("strongswan_moves_and_moves_back")
            .then("another address", |pair| moves(pair, false, 7))
            .then("the first address", |pair| moves(pair, false, 1))
            .then("IPv6 passes again", |pair| ipv6(pair, true)),
        Cell::new(THEME, "a_nat_gets_another_address", "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .behind_nat()
            .theirs("dpd_delay", "2s")
            .then("another address", |pair| renat(pair, 7))
            .then("the first address", |pair| renat(pair, 1)),
        Cell::new(THEME, "peer_by_name", "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .by_role(|case, role| {
                let peer = if role == Role::Initiates { "203.0.113.1" } else { "198.51.100.1" };
                // The first has no route here: the next one has its turn.
                case.our_hosts = Some(format!("2001:db8:dead::1 peer.test\n{peer} peer.test\n"));
                case.ours.push(("tunnel.a.remote_address".into(), "\"peer.test\"".into()));
                case.theirs.push(("local_addrs".into(), String::new()));
                case.theirs.push((
                    "remote_addrs".into(),
                    if role == Role::Initiates { "%any".into() } else { "203.0.113.1".into() },
                ));
            })
            .then("the status names it", |pair| {
                let now = pair.culvert.site()?.0;
                ensure!(now["remote_name"] == "peer.test", "{now:#}");
                ensure!(
                    now["ike"]["remote"]["address"].as_str().is_some_and(|a| a.ends_with(".1:4500")),
                    "{now:#}"
                );
                Ok(())
            })
            .then("the name leads elsewhere", |pair| renamed(pair, 7))
            .then("and back", |pair| renamed(pair, 1))
            .then("and nowhere", |pair| {
                pair.culvert.cli(&["down", "site"])?;
                pair.culvert.setup().hosts("127.0.0.1 localhost\n")?;
                // It waits, and says in the end why it failed.
                let _ = pair.culvert.cli(&["up", "site"]);
                let line =
                    pair.culvert.wait_log(&["peer.test cannot be resolved"], Duration::from_secs(15))?;
                ensure!(line.contains("to mend: "), "{line}");
                let told = pair.culvert.cli(&["explain", "site"])?;
                ensure!(told.contains("name resolution"), "{told}");
                Ok(())
            })
            .ends_down(),
    ]
}

/// strongSwan's gateway gets another address, and its name leads there; the next negotiation finds it.
fn renamed(pair: &mut Pair, host: u8) -> Result<()> {
    let at_a = !pair.case.culvert_at_a();
    let (gateway, net) =
        if at_a { (&pair.site.gateway_a, "198.51.100") } else { (&pair.site.gateway_b, "203.0.113") };
    pair.culvert.cli(&["down", "site"])?;
    readdress(gateway, net, host)?;
    pair.culvert.setup().hosts(&format!("{net}.{host} peer.test\n"))?;
    pair.culvert.cli(&["up", "site"])?;
    let now = pair.culvert.wait_site()?;
    let expected = format!("{net}.{host}:4500");
    ensure!(now.0["ike"]["remote"]["address"] == expected.as_str(), "{:#}", now.0);
    Ok(())
}

/// The NAT in front of site A has another address from now on, and forgets its mappings.
fn renat(pair: &Pair, host: u8) -> Result<()> {
    let before = pair.culvert.site()?;
    let nat = pair.site.nat.as_ref().context("no NAT")?;
    let old = if host == 1 { 7 } else { 1 };
    nat.ip(&format!("addr del 198.51.100.{old}/24 dev outside"))?;
    nat.ip(&format!("addr add 198.51.100.{host}/24 dev outside"))?;
    nat.ip("route replace default via 198.51.100.254")?;
    wait_for("packets to pass again", Duration::from_secs(12), || pair.pings().ok())?;
    let now = pair.culvert.site()?;
    // strongSwan's user-space ESP cannot move an SA: it rekeys it.
    ensure!(now.ike_spis() == before.ike_spis(), "negotiated anew");
    if !pair.case.culvert_at_a() {
        let expected = format!("198.51.100.{host}:");
        let remote = now.0["ike"]["remote"]["address"].as_str().unwrap_or_default();
        ensure!(remote.starts_with(&expected), "the peer is at {remote}");
    }
    Ok(())
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

/// Whether the gateways reach each other by IPv6: either of them might well move there, too.
fn ipv6(pair: &Pair, passes: bool) -> Result<()> {
    let verb = if passes { "del" } else { "add" };
    pair.site.wan.ip(&format!("-6 route {verb} blackhole {}", culvert_lab::topology::WAN_A6))?;
    pair.site.wan.ip(&format!("-6 route {verb} blackhole {}", culvert_lab::topology::WAN_B6))
}

fn readdress(gateway: &Namespace, net: &str, host: u8) -> Result<()> {
    let old = if host == 1 { 7 } else { 1 };
    gateway.ip(&format!("addr del {net}.{old}/24 dev wan"))?;
    gateway.ip(&format!("addr add {net}.{host}/24 dev wan"))?;
    gateway.ip(&format!("route replace default via {net}.254"))
}
