//! strongSwan: swanctl.conf, a connection for each tunnel.

use culvert_config::{DpdAction, Start};

use super::page::{Page, dpd, name, number, put, seconds};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "strongSwan", side, options);
    page.say("Save as /etc/swanctl/conf.d/culvert.conf, mode 600, and run `swanctl --load-all`.");
    for word in side.ike.iter().chain(&side.esp).flat_map(|offer| &offer.rest) {
        if word.contains("mlkem") {
            page.note(&format!("{word} needs strongSwan 6.0 or newer"));
        }
    }
    let routed = side.tunnels.len() > 1;
    put!(page, "connections {{");
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        connection(&mut page, side, tunnel, routed.then_some(number(index)));
    }
    put!(page, "}}");
    put!(page, "secrets {{");
    for tunnel in side.tunnels.iter().filter(|tunnel| tunnel.proof.is_none()) {
        let psk = page.psk(tunnel);
        put!(page, "    ike-{} {{", name(side, tunnel, 60));
        if let Some(id) = &tunnel.local_id {
            put!(page, "        id-local = {}", value(&id.to_string()));
        }
        if let Some(id) = &tunnel.remote_id {
            put!(page, "        id-remote = {}", value(&id.to_string()));
        }
        put!(page, "        secret = {}", secret(&psk));
        put!(page, "    }}");
    }
    put!(page, "}}");
    if routed {
        interfaces(&mut page, side);
    }
    page.finish()
}

fn connection(page: &mut Page, side: &Side, tunnel: &Tunnel, interface: Option<usize>) {
    put!(page, "    {} {{", name(side, tunnel, 60));
    put!(page, "        version = {}", side.version);
    if side.version == 1 && side.aggressive {
        put!(page, "        aggressive = yes");
    }
    if let Some(address) = tunnel.local_address {
        put!(page, "        local_addrs = {address}");
    }
    put!(
        page,
        "        remote_addrs = {}",
        if tunnel.remote_address.is_any() { "%any".into() } else { tunnel.remote_address.to_string() }
    );
    put!(page, "        proposals = {}", list(side.ike.iter()));
    if side.version == 2 {
        put!(page, "        mobike = no");
        put!(page, "        rekey_time = {}s", seconds(side.ike_lifetime, 14_400));
    } else {
        put!(page, "        reauth_time = {}s", seconds(side.ike_lifetime, 14_400));
    }
    if let Some((interval, tries)) = side.dpd.as_ref().map(dpd) {
        put!(page, "        dpd_delay = {interval}s");
        if side.version == 1 {
            put!(page, "        dpd_timeout = {}s", interval * tries);
        }
    }
    if side.udp {
        put!(page, "        encap = yes");
    }
    for (end, id) in [("local", &tunnel.local_id), ("remote", &tunnel.remote_id)] {
        put!(page, "        {end} {{");
        if tunnel.proof.is_some() {
            page.say("how this end proves itself goes here");
        } else {
            put!(page, "            auth = psk");
        }
        if let Some(id) = id {
            put!(page, "            id = {}", value(&id.to_string()));
        }
        put!(page, "        }}");
    }
    put!(page, "        children {{");
    child(page, side, tunnel, interface);
    put!(page, "        }}");
    put!(page, "    }}");
}

fn child(page: &mut Page, side: &Side, tunnel: &Tunnel, interface: Option<usize>) {
    let nets = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let each = if side.each { side.pairs() } else { Vec::new() };
    let selectors = match (&side.bgp, each.is_empty()) {
        (Some(_), _) => vec![("0.0.0.0/0,::/0".to_owned(), "0.0.0.0/0,::/0".to_owned())],
        (None, true) => vec![(nets(&side.local), nets(&side.remote))],
        (None, false) => each.iter().map(|(l, r)| (l.to_string(), r.to_string())).collect(),
    };
    for (index, (local, remote)) in selectors.iter().enumerate() {
        let suffix = if index == 0 { String::new() } else { format!("-{}", index + 1) };
        put!(page, "            {}{suffix} {{", name(side, tunnel, 60));
        put!(page, "                local_ts = {local}");
        put!(page, "                remote_ts = {remote}");
        put!(page, "                esp_proposals = {}", list(side.esp.iter()));
        put!(page, "                rekey_time = {}s", seconds(side.esp_lifetime, 3600));
        let action = match side.dpd.map(|dpd| dpd.action) {
            Some(DpdAction::Clear) => "clear",
            Some(DpdAction::Hold) => "trap",
            Some(DpdAction::Restart) if side.start == Start::Immediate => "restart",
            Some(DpdAction::Restart) | None => "clear",
        };
        put!(page, "                dpd_action = {action}");
        let start = match side.start {
            _ if !tunnel.enabled => "none",
            Start::Immediate => "start",
            Start::OnTraffic => "trap",
            Start::Respond => "none",
        };
        if start == "none" {
            page.say("                Culvert begins");
        }
        put!(page, "                start_action = {start}");
        if let Some(number) = interface {
            put!(page, "                if_id_in = {number}");
            put!(page, "                if_id_out = {number}");
        }
        put!(page, "            }}");
    }
}

/// More than one tunnel for the same networks: routes decide, so each has an interface.
fn interfaces(page: &mut Page, side: &Side) {
    page.note("more than one tunnel has these networks: make the interfaces at the end of this file, routes over them decide");
    page.blank();
    page.say("As root, at each start of the host; in strongswan.conf: charon.install_routes = no");
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        let (interface, number) = (format!("cv{}", number(index)), number(index));
        page.say(&format!("ip link add {interface} type xfrm dev WAN-INTERFACE if_id {number}"));
        page.say(&format!("ip link set {interface} mtu {} up", side.mtu.unwrap_or(1400)));
        for net in &tunnel.inside {
            page.say(&format!("ip address add {net} dev {interface}"));
        }
        if side.bgp.is_none() {
            for net in &side.remote {
                let metric = 100 + 100 - u32::from(tunnel.weight.min(100));
                page.say(&format!("ip route add {net} dev {interface} metric {metric}"));
            }
        }
    }
    if let Some(bgp) = side.bgp {
        page.say(&format!("BGP: own AS {}, neighbours of AS {}:", bgp.local, bgp.remote));
        for address in side.tunnels.iter().flat_map(|tunnel| &tunnel.far_inside) {
            page.say(&format!("  {address}"));
        }
    }
}

fn list<'a>(offers: impl Iterator<Item = &'a crate::Offer>) -> String {
    offers.map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A value; in quotes where something in it has a meaning of its own.
fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | ':' | '%' | '*');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A key. `0x` and `0s` before one mean hexadecimal and Base64, so that such a key is written in hexadecimal.
fn secret(text: &str) -> String {
    if text.starts_with("0x") || text.starts_with("0s") {
        return format!("0x{}", text.bytes().map(|b| format!("{b:02x}")).collect::<String>());
    }
    value(text)
}
