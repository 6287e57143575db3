//! What a firewall must let through for a connection: IKE, ESP in UDP, and ESP, in and out, for each tunnel.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use culvert_config::{Config, Connection, Encap, Remote};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To this gateway.
    In,
    /// From this gateway.
    Out,
}

/// What goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// IKE, on this UDP port of the gateway.
    Ike(u16),
    /// IKE and ESP through NAT, on this UDP port of the gateway.
    NatT(u16),
    /// IP protocol 50.
    Esp,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `CONNECTION/TUNNEL`
    pub tunnel: String,
    /// Which way.
    pub direction: Direction,
    /// What goes there.
    pub packets: Packets,
    /// The gateway's address; `None`: any that it has.
    pub local: Option<IpAddr>,
    /// The peer's; `None`: any.
    pub remote: Option<IpAddr>,
    /// The peer's name, where it has one: firewalls cannot match it.
    pub name: Option<String>,
}

impl Rule {
    /// Whether it is about IPv6; `None`: about both.
    fn six(&self) -> Option<bool> {
        self.local.or(self.remote).map(|address| address.is_ipv6())
    }

    /// The rule for a chain of this family (`inet`, `ip`, `ip6`) as nftables takes it, with this word before the
    /// verdict; `None`: not in this family.
    pub fn nft(&self, family: &str, word: &str) -> Option<String> {
        match (family, self.six()) {
            ("ip", Some(true)) | ("ip6", Some(false)) => return None,
            _ => {}
        }
        let mut text = String::new();
        let (own, far) = match self.direction {
            Direction::In => ("daddr", "saddr"),
            Direction::Out => ("saddr", "daddr"),
        };
        for (key, address) in [(far, self.remote), (own, self.local)] {
            if let Some(address) = address {
                let ip = if address.is_ipv6() { "ip6" } else { "ip" };
                let _ = write!(text, "{ip} {key} {address} ");
            }
        }
        let port = if self.direction == Direction::In { "dport" } else { "sport" };
        match self.packets {
            Packets::Ike(number) | Packets::NatT(number) => {
                let _ = write!(text, "udp {port} {number} ");
            }
            Packets::Esp => text.push_str("meta l4proto esp "),
        }
        let _ = write!(text, "{word}accept comment \"culvert: {}\"", self.tunnel);
        Some(text)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = || "any".to_owned();
        let own = self.local.map_or_else(any, |a| a.to_string());
        let far = self.remote.map(|a| a.to_string()).or_else(|| self.name.clone()).unwrap_or_else(any);
        let (way, from, to) = match self.direction {
            Direction::In => ("in", far, own),
            Direction::Out => ("out", own, far),
        };
        let side = if self.direction == Direction::In { "to port" } else { "from port" };
        let what = match self.packets {
            Packets::Ike(port) => format!("UDP {side} {port} (IKE)"),
            Packets::NatT(port) => format!("UDP {side} {port} (IKE and ESP through NAT)"),
            Packets::Esp => "IP protocol 50 (ESP)".to_owned(),
        };
        write!(f, "{way:<4}{from:<24} -> {to:<24} {what}")
    }
}

/// The rules of these connections.
pub fn rules<'a>(config: &Config, connections: impl IntoIterator<Item = &'a Connection>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for connection in connections {
        for tunnel in &connection.tunnels {
            let mut packets =
                vec![Packets::Ike(config.gateway.ike_port), Packets::NatT(config.gateway.natt_port)];
            if connection.encap != Encap::Udp {
                packets.push(Packets::Esp);
            }
            for packets in packets {
                for direction in [Direction::In, Direction::Out] {
                    rules.push(Rule {
                        tunnel: format!("{}/{}", connection.name, tunnel.name),
                        direction,
                        packets,
                        local: tunnel.local_address,
                        remote: tunnel.remote_address.address(),
                        name: match &tunnel.remote_address {
                            Remote::Name(name) => Some(name.clone()),
                            Remote::Any | Remote::Address(_) => None,
                        },
                    });
                }
            }
        }
    }
    rules
}

/// The table of our own, as a script for `nft -f`: what was there of it goes first. It counts what passes.
pub fn table(rules: &[Rule]) -> String {
    let mut text = String::from("table inet culvert\ndelete table inet culvert\ntable inet culvert {\n");
    for (chain, direction) in [("input", Direction::In), ("output", Direction::Out)] {
        let _ = writeln!(text, "    chain {chain} {{");
        let _ = writeln!(text, "        type filter hook {chain} priority filter - 10; policy accept;");
        for rule in rules.iter().filter(|rule| rule.direction == direction) {
            if let Some(line) = rule.nft("inet", "counter ") {
                let _ = writeln!(text, "        {line}");
            }
        }
        text.push_str("    }\n");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[gateway]\nwan = \"eth0\"\n[connection.a]\nlocal = [\"10.1.0.0/24\"]\nremote = [\"10.2.0.0/24\"]\n\
        [connection.a.tunnel.a]\nlocal_address = \"198.51.100.1\"\nremote_address = \"203.0.113.1\"\npsk_file = \"x\"\n\
        [connection.a.tunnel.b]\nremote_address = \"2001:db8::1\"\npsk_file = \"x\"\n\
        [connection.a.tunnel.c]\nremote_address = \"vpn.example\"\nweight = 50\npsk_file = \"x\"\n";

    #[test]
    fn rules_are_as_reviewed() {
        let config = Config::of_text(CONFIG, b"key").unwrap();
        let rules = rules(&config, &config.connections);
        let text: String = rules.iter().map(|rule| format!("{:<8}{rule}\n", rule.tunnel)).collect();
        insta::assert_snapshot!("firewall", format!("{text}\n{}", table(&rules)));
        assert_eq!(rules[0].nft("ip6", ""), None);
        assert!(rules[6].nft("ip", "").is_none() && rules[6].nft("ip6", "").is_some());
    }
}
