//! A connection as it stands in culvert.toml.

use std::fmt::Write as _;
use std::time::Duration;

use culvert_config::{DpdAction, Start};

use crate::side::{Side, Tunnel, opposite};

/// A string as TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A duration as the configuration has it: in its largest whole unit.
pub fn duration(value: Duration) -> String {
    let seconds = value.as_secs();
    match seconds {
        0 => format!("{}ms", value.as_millis()),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 && s < 3600 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// The section `[connection.NAME]` with its tunnels. `psk_file` says where the key of a tunnel is, and each of `comments` is a
/// line before the section. What the side does not say is left to Culvert's defaults.
pub fn section(side: &Side, psk_file: impl Fn(&Tunnel) -> String, comments: &[String]) -> String {
    let mut out = String::new();
    for comment in comments {
        // A comment ends with its line.
        for line in comment.lines() {
            let _ = writeln!(out, "# {}", line.replace(|c: char| c.is_control(), " "));
        }
    }
    let _ = writeln!(out, "[connection.{}]", side.name);
    let list = |items: &mut dyn Iterator<Item = String>| {
        format!("[{}]", items.map(|item| quoted(&item)).collect::<Vec<_>>().join(", "))
    };
    for (key, nets, whose) in [("local", &side.local, "this side"), ("remote", &side.remote, "the far side")]
    {
        if nets.is_empty() {
            let _ =
                writeln!(out, "{key} = []   # <- list the networks of {whose}: nothing says which they are");
        } else {
            let _ = writeln!(out, "{key} = {}", list(&mut nets.iter().map(ToString::to_string)));
        }
    }
    match side.start {
        Start::Immediate => {}
        Start::OnTraffic => out.push_str("start = \"on-traffic\"\n"),
        Start::Respond => out.push_str("start = \"respond\"\n"),
    }
    if let Some(bgp) = side.bgp {
        let _ = writeln!(out, "routing = \"bgp\"   # asn = {} in [gateway]", bgp.local);
        let _ = writeln!(out, "bgp = {{ remote_asn = {} }}", bgp.remote);
    }
    if side.udp {
        out.push_str("encap = \"udp\"\n");
    }
    if let Some(mtu) = side.mtu {
        let _ = writeln!(out, "mtu = {mtu}");
    }
    if side.version == 1 {
        out.push_str("ike.version = 1\n");
        if side.aggressive {
            out.push_str("ike.mode = \"aggressive\"\n");
        }
    }
    for (phase, offers, lifetime) in
        [("ike", &side.ike, side.ike_lifetime), ("esp", &side.esp, side.esp_lifetime)]
    {
        if let Some(profile) = side.profile {
            let _ = writeln!(out, "{phase}.profile = {}", quoted(profile.as_str()));
        } else if !offers.is_empty() {
            let _ =
                writeln!(out, "{phase}.proposals = {}", list(&mut offers.iter().map(ToString::to_string)));
        }
        if let Some(lifetime) = lifetime {
            let _ = writeln!(out, "{phase}.lifetime = {}", quoted(&duration(lifetime)));
        }
    }
    if side.each {
        out.push_str("esp.pairs = \"each\"\n");
    }
    if let Some(dpd) = side.dpd {
        let action = match dpd.action {
            DpdAction::Restart => "restart",
            DpdAction::Clear => "clear",
            DpdAction::Hold => "hold",
        };
        let (interval, timeout) = (duration(dpd.interval), duration(dpd.timeout));
        let _ = writeln!(
            out,
            "dpd = {{ interval = \"{interval}\", timeout = \"{timeout}\", action = \"{action}\" }}"
        );
    }
    for tunnel in &side.tunnels {
        let _ = writeln!(out, "\n[connection.{}.tunnel.{}]", side.name, tunnel.name);
        let mut put = |key: &str, value: String| {
            let _ = writeln!(out, "{key} = {}", quoted(&value));
        };
        if let Some(address) = tunnel.local_address {
            put("local_address", address.to_string());
        }
        put("remote_address", tunnel.remote_address.to_string());
        if let Some(id) = &tunnel.local_id {
            put("local_id", id.to_string());
        }
        if let Some(id) = &tunnel.remote_id {
            put("remote_id", id.to_string());
        }
        put("psk_file", psk_file(tunnel));
        if !tunnel.inside.is_empty() {
            let _ = writeln!(out, "inside = {}", list(&mut tunnel.inside.iter().map(ToString::to_string)));
        }
        // What follows from `inside` need not be said.
        let opposites: Vec<_> = tunnel.inside.iter().filter_map(opposite).map(|net| net.addr()).collect();
        if side.bgp.is_some() && !tunnel.far_inside.is_empty() && tunnel.far_inside != opposites {
            let neighbors = list(&mut tunnel.far_inside.iter().map(ToString::to_string));
            let _ = writeln!(out, "bgp = {{ neighbor = {neighbors} }}");
        }
        let _ = writeln!(out, "weight = {}", tunnel.weight);
        if !tunnel.enabled {
            out.push_str("enabled = false\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_strings_are_tomls() {
        let cases = [(28_800, "8h"), (3000, "50m"), (90, "90s"), (28_000, "28000s"), (86_400, "24h")];
        for (seconds, want) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), want);
        }
        let odd = "a\"b\\c\nd'e";
        let table: toml::Table = format!("k = {}", quoted(odd)).parse().unwrap();
        assert_eq!(table["k"].as_str(), Some(odd));
    }
}
