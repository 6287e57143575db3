//! What of the configuration cannot work on this host.

use std::net::IpAddr;

use culvert_config::{Config, Connection, LocalProof, Tunnel};
use culvert_pki::Facts;
use ipnet::IpNet;

use crate::{Finding, Grade, Host};

/// IPv6 needs it inside; less is left to nothing.
const LEAST_MTU: u32 = 1280;
/// A certificate is told of so long before its end, in seconds.
const SOON: u64 = 30 * 86_400;

/// Judges the connections that are `wanted` on this host.
pub fn judge(host: &Host, config: &Config, wanted: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in config.gateway.wan.iter().chain(&config.gateway.lan) {
        findings.extend(interface(host, config, name));
    }
    for connection in config.connections.iter().filter(|connection| wanted(&connection.name)) {
        let before = findings.len();
        forwarding(host, connection, &mut findings);
        overlaps(host, connection, &mut findings);
        for tunnel in connection.tunnels.iter().filter(|tunnel| tunnel.enabled) {
            addresses(host, config, connection, tunnel, &mut findings);
            certificate(host, connection, tunnel, &mut findings);
        }
        if findings.len() == before {
            let text = "addresses, routes and networks fit this host";
            findings.push(Finding::fine(format!("connection {}", connection.name), text));
        }
    }
    findings
}

fn interface(host: &Host, config: &Config, name: &str) -> Option<Finding> {
    let place = "configuration";
    let Some(mtu) = host.interfaces.get(name) else {
        let names: Vec<&str> =
            host.interfaces.keys().map(String::as_str).filter(|n| !n.starts_with("cv-")).collect();
        let mend = format!("name one that is there: {}", names.join(", "));
        return Some(Finding::new(Grade::Fault, place, format!("there is no interface {name}"), mend));
    };
    if host.down.iter().any(|down| down == name) {
        let text = format!("interface {name} is down or has no carrier");
        return Some(Finding::new(
            Grade::Fault,
            place,
            text,
            format!("`ip link set {name} up`, or see to its cable"),
        ));
    }
    if !config.gateway.wan.iter().any(|wan| wan == name) {
        return None;
    }
    if !host.addresses.iter().any(|(interface, _)| interface == name) {
        let text = format!("WAN interface {name} has no address");
        return Some(Finding::new(Grade::Fault, place, text, "give it one, or see to its DHCP"));
    }
    if let Some(mtu) = mtu.filter(|mtu| *mtu < LEAST_MTU) {
        let text =
            format!("WAN interface {name} has an MTU of {mtu} bytes: full packets have to be fragmented");
        return Some(Finding::new(
            Grade::Warning,
            place,
            text,
            format!("`ip link set {name} mtu 1500` if the link allows"),
        ));
    }
    None
}

/// Hosts behind the gateway need it; the gateway's own traffic does not.
fn forwarding(host: &Host, connection: &Connection, findings: &mut Vec<Finding>) {
    for (key, v4, name) in [
        ("net/ipv4/ip_forward", true, "net.ipv4.ip_forward"),
        ("net/ipv6/conf/all/forwarding", false, "net.ipv6.conf.all.forwarding"),
    ] {
        let concerned = connection.local.iter().any(|net| matches!(net, IpNet::V4(_)) == v4 && !is_host(net));
        if concerned && host.on(key) == Some(false) {
            findings.push(Finding::new(
                Grade::Fault,
                format!("connection {}", connection.name),
                format!("{name} is 0: packets of hosts behind this gateway are not forwarded"),
                format!("sysctl -w {name}=1, and keep it in /etc/sysctl.d"),
            ));
        }
    }
}

fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Networks of the far side that this host has on a link: its packets never reach the tunnel.
fn overlaps(host: &Host, connection: &Connection, findings: &mut Vec<Finding>) {
    for remote in &connection.remote {
        let clash = host.addresses.iter().find(|(interface, net)| {
            // The tunnels' own, link-local ones and the loopback are on no link that matters.
            let apart = interface == "lo" || interface.starts_with("cv-") || is_link_local(net.addr());
            !apart && (remote.contains(&net.network()) || net.contains(&remote.network()))
        });
        if let Some((interface, net)) = clash {
            findings.push(Finding::new(
                Grade::Fault,
                format!("connection {}", connection.name),
                format!("remote network {remote} overlaps {} on {interface}", net.trunc()),
                "one of the two sites must use other addresses; or name smaller networks in `remote`",
            ));
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn addresses(
    host: &Host,
    config: &Config,
    connection: &Connection,
    tunnel: &Tunnel,
    findings: &mut Vec<Finding>,
) {
    let place = format!("tunnel {}/{}", connection.name, tunnel.name);
    let on_wan = |address: IpAddr| {
        let wan = |name: &String| config.gateway.wan.iter().any(|wan| wan == name);
        host.addresses.iter().any(|(interface, net)| net.addr() == address && wan(interface))
    };
    if let Some(local) = tunnel.local_address
        && !on_wan(local)
    {
        let wan = config.gateway.wan.join(" and ");
        findings.push(Finding::new(
            Grade::Fault,
            &place,
            format!("local_address {local} is no address of {wan}"),
            "write one that is, or take local_address out; behind NAT it is the private one",
        ));
    }
    let Some(peer) = tunnel.remote_address.address() else { return };
    match host.sources.get(&peer) {
        Some(None) => findings.push(Finding::new(
            Grade::Fault,
            &place,
            format!("this host has no route to the peer {peer}"),
            format!("add one by the WAN: `ip route add {peer} via GATEWAY`, or a default route"),
        )),
        Some(Some(source)) if tunnel.local_address.is_none() && !on_wan(*source) => {
            findings.push(Finding::new(
                Grade::Warning,
                &place,
                format!("packets to the peer {peer} would leave from {source}, which is on no WAN interface"),
                "route the peer by the WAN, or name that interface in `wan`",
            ))
        }
        _ => {}
    }
}

fn certificate(host: &Host, connection: &Connection, tunnel: &Tunnel, findings: &mut Vec<Finding>) {
    let credentials = match &tunnel.auth.local {
        LocalProof::Certificate { credentials, .. } | LocalProof::EapTls { credentials, .. } => credentials,
        _ => return,
    };
    let place = format!("tunnel {}/{}", connection.name, tunnel.name);
    for facts in credentials.chain().iter().filter_map(|der| Facts::of(der).ok()) {
        let days = |until: u64| until.saturating_sub(host.now) / 86_400;
        let (grade, text) = if facts.not_after < host.now {
            (Grade::Fault, format!("the certificate of {} has expired", facts.subject))
        } else if facts.not_before > host.now {
            (Grade::Fault, format!("the certificate of {} is not valid yet: see to the clock", facts.subject))
        } else if facts.not_after - host.now < SOON {
            (
                Grade::Warning,
                format!("the certificate of {} expires in {} days", facts.subject, days(facts.not_after)),
            )
        } else {
            continue;
        };
        findings.push(Finding::new(
            grade,
            &place,
            text,
            "have it made anew, put it in place, and `culvert reload`",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[gateway]\nwan = \"wan\"\nlan = \"lan\"\n[connection.site]\nlocal = [\"10.1.0.0/24\"]\n\
        remote = [\"10.2.0.0/16\"]\n[connection.site.tunnel.a]\nlocal_address = \"198.51.100.1\"\n\
        remote_address = \"203.0.113.1\"\npsk_file = \"a\"\n";

    fn sound() -> Host {
        let net = |name: &str, net: &str| (name.to_owned(), net.parse().unwrap());
        Host {
            addresses: vec![
                net("wan", "198.51.100.1/24"),
                net("lan", "10.1.0.1/24"),
                net("cv-site-a", "10.2.9.1/30"),
            ],
            interfaces: [("wan", 1500), ("lan", 1500)].map(|(name, mtu)| (name.to_owned(), Some(mtu))).into(),
            sysctl: [("net/ipv4/ip_forward".to_owned(), "1".to_owned())].into(),
            sources: [("203.0.113.1".parse().unwrap(), "198.51.100.1".parse().ok())].into(),
            ..Host::default()
        }
    }

    fn worst(host: &Host) -> (Grade, String) {
        let config = Config::of_text(FILE, b"a pre-shared key").unwrap();
        let all = judge(host, &config, |_| true);
        let worst = all.iter().max_by_key(|finding| finding.grade).unwrap();
        (worst.grade, format!("{}: {} | {}", worst.place, worst.text, worst.mend))
    }

    #[test]
    fn what_does_not_fit_the_host_is_found() {
        assert_eq!(worst(&sound()).0, Grade::Fine);
        let with = |change: &dyn Fn(&mut Host)| {
            let mut host = sound();
            change(&mut host);
            worst(&host)
        };
        let peer: IpAddr = "203.0.113.1".parse().unwrap();
        for ((grade, said), expected, text) in [
            (
                with(&|h| h.interfaces.retain(|name, _| name != "lan")),
                Grade::Fault,
                "there is no interface lan",
            ),
            (with(&|h| h.down.push("wan".into())), Grade::Fault, "`ip link set wan up`"),
            (with(&|h| h.addresses.retain(|(name, _)| name != "wan")), Grade::Fault, "is no address of wan"),
            (with(&|h| h.interfaces.extend([("wan".to_owned(), Some(1200))])), Grade::Warning, "MTU of 1200"),
            (
                with(&|h| drop(h.sysctl.insert("net/ipv4/ip_forward".into(), "0".into()))),
                Grade::Fault,
                "sysctl -w net.ipv4.ip_forward=1",
            ),
            (
                with(&|h| h.addresses.push(("lan".into(), "10.2.3.4/24".parse().unwrap()))),
                Grade::Fault,
                "10.2.0.0/16 overlaps 10.2.3.0/24 on lan",
            ),
            (with(&|h| h.sources.extend([(peer, None)])), Grade::Fault, "no route to the peer 203.0.113.1"),
        ] {
            assert!(grade == expected && said.contains(text), "{text}: {grade:?} {said}");
        }
    }
}
