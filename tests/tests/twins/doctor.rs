//! `culvert doctor` on a gateway that is well, and on gateways that are not.

use anyhow::{Context, Result, ensure};
use culvert_lab::topology::{HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{Connection, Culvert, GatewayConfig, Namespace, Site, culvert, wait_for};
use serde_json::Value;

use super::failover::PATIENCE;

/// What the doctor finds in this namespace: its exit code was 0, and the findings.
fn doctor(namespace: &Namespace, daemon: &Culvert, more: &[&str]) -> Result<(bool, Vec<Value>)> {
    let (socket, config) = (daemon.setup().socket(), daemon.setup().config());
    let mut command = namespace.command(culvert::binary("culvert")?.display().to_string());
    command.arg("--socket").arg(socket).args(["doctor", "--json", "--config"]).arg(config).args(more);
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), serde_json::from_str(&text).with_context(|| format!("{text}{errors}"))?))
}

/// The texts and mends of this grade, in one.
fn of(findings: &[Value], grade: &str) -> String {
    let those = findings.iter().filter(|finding| finding["grade"] == grade);
    let line = |f: &Value| format!("{}: {} | {}\n", f["place"], f["text"], f["mend"]).replace('"', "");
    those.map(line).collect()
}

#[test]
fn b12_the_doctor_names_cause_and_mend_from_the_host_to_the_tunnels() -> Result<()> {
    let site = Site::new()?;
    let health = |source: &str, target: &str| {
        (
            "health".to_owned(),
            format!("{{ source = \"{source}\", target = \"{target}\", interval = \"200ms\" }}"),
        )
    };
    let mut starting = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    starting.tunnels[0].extra.push(health("10.1.0.1", HOST_B));
    let answering = Connection::new(WAN_B, WAN_A, &[LAN_B], &[LAN_A]).respond();
    let b = Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![answering.clone()]))?;
    let mut a = Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![starting.clone()]))?;
    a.wait_up("site", "a", PATIENCE)?;
    let gateway = &site.gateway_a;

    let (fine, found) = doctor(gateway, &a, &[])?;
    ensure!(fine && of(&found, "fault").is_empty(), "{found:#?}");
    let ok = of(&found, "fine");
    for text in ["kernel ", "IKE and child SA stand", "10.2.0.2 answers through it", "fit this host"] {
        ensure!(ok.contains(text), "`{text}` is not among\n{ok}");
    }
    let (fine, _) = doctor(gateway, &a, &["site/a"])?;
    ensure!(fine, "of one tunnel");

    // The host: forwarding off, strict return paths, a firewall that drops.
    gateway.sysctl("net/ipv4/ip_forward", "0")?;
    gateway.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    gateway.run("nft", &["table inet strict { chain input { type filter hook input priority 0; policy drop; ct state established accept; }\n }"])?;
    let (fine, found) = doctor(gateway, &a, &[])?;
    let (faults, warnings) = (of(&found, "fault"), of(&found, "warning"));
    ensure!(!fine && faults.contains("sysctl -w net.ipv4.ip_forward=1"), "{faults}");
    for text in ["rp_filter=2", "table inet strict drops", "UDP 500, UDP 4500, ESP"] {
        ensure!(warnings.contains(text), "`{text}` is not among\n{warnings}");
    }
    gateway.run("nft", &["delete table inet strict"])?;
    gateway.sysctl("net/ipv4/ip_forward", "1")?;
    gateway.sysctl("net/ipv4/conf/all/rp_filter", "0")?;

    // The peer has another key: which phase fails, whose fault it may be, what to change.
    b.setup().write(&GatewayConfig::new(vec![{
        let mut other = answering;
        other.tunnels[0].psk = "another key than that of the other side".into();
        other
    }]))?;
    b.cli(&["reload"])?;
    wait_for("the failure", PATIENCE, || {
        let (_, found) = doctor(gateway, &a, &[]).ok()?;
        let faults = of(&found, "fault");
        (faults.contains("IKE_AUTH fails") && faults.contains("pre-shared key")).then_some(())
    })?;

    // Neither the peer's route nor culvertd is there.
    a.stop()?;
    gateway.ip("route flush default")?;
    gateway.ip("route flush root 203.0.113.0/24")?;
    let (fine, found) = doctor(gateway, &a, &[])?;
    let faults = of(&found, "fault");
    for text in ["culvertd does not run", "no route to the peer 203.0.113.1"] {
        ensure!(!fine && faults.contains(text), "`{text}` is not among\n{faults}");
    }
    // Somebody else has the port; the file has a mistake.
    let _taken = gateway.within(|| std::net::UdpSocket::bind("0.0.0.0:500"))??;
    std::fs::write(a.setup().config(), "[gateway]\nwan = \"wan\"\nwann = \"x\"\n")?;
    let faults = of(&doctor(gateway, &a, &[])?.1, "fault");
    for text in ["UDP port 500 is taken by", "wann"] {
        ensure!(faults.contains(text), "`{text}` is not among\n{faults}");
    }
    Ok(())
}
