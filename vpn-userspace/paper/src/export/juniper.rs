//! Juniper SRX: a secure tunnel interface for each tunnel, as `set` commands.

use culvert_config::Start;
use culvert_crypto::{DhGroup, Encryption, Integrity};
use culvert_ike::Identity;

use super::page::{Page, distance, dpd, far, name, near, number, put, seconds};
use super::words::{Words, combinations, numbered_groups, pfs};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("group": Modp1024 = "2", Modp1536 = "5",
    Modp2048 = "14", Modp3072 = "15", Modp4096 = "16", Ecp256 = "19", Ecp384 = "20", Ecp521 = "21", Modp2048S256 = "24");

fn cipher(e: Encryption) -> Option<&'static str> {
    match e {
        Encryption::AesCbc128 => Some("aes-128-cbc"),
        Encryption::AesCbc192 => Some("aes-192-cbc"),
        Encryption::AesCbc256 => Some("aes-256-cbc"),
        Encryption::AesGcm128 => Some("aes-128-gcm"),
        Encryption::AesGcm256 => Some("aes-256-gcm"),
        Encryption::TripleDes => Some("3des-cbc"),
        _ => None,
    }
}

const IKE: Words = Words {
    cipher,
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha1"),
        Integrity::HmacSha256_128 => Some("sha-256"),
        Integrity::HmacSha384_192 => Some("sha-384"),
        Integrity::HmacSha512_256 => Some("sha-512"),
        _ => None,
    },
    // Junos takes the one that belongs to the rest.
    prf: |_| Some(""),
    group: GROUPS,
};

const ESP: Words = Words {
    cipher: |e| if e == Encryption::AesGcm192 { Some("aes-192-gcm") } else { cipher(e) },
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("hmac-md5-96"),
        Integrity::HmacSha1_96 => Some("hmac-sha1-96"),
        Integrity::HmacSha256_128 => Some("hmac-sha-256-128"),
        Integrity::HmacSha384_192 => Some("hmac-sha-384"),
        Integrity::HmacSha512_256 => Some("hmac-sha-512"),
        _ => None,
    },
    prf: |_| Some(""),
    group: GROUPS,
};

/// A policy takes at most so many.
const PROPOSALS: usize = 10;

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "Juniper Junos", side, options);
    page.note("WAN-INTERFACE stands for the interface that has the public address, as ge-0/0/0.0");
    page.note(
        "zone `vpn` has the tunnels: allow traffic between it and the zone of your networks by policies",
    );
    let pairs = side.pairs();
    if pairs.len() > 1 && !side.each {
        page.note("Junos negotiates each traffic selector by itself: set esp.pairs = \"each\" in Culvert");
    }
    let ike = IKE.say(&mut page, &side.ike, true);
    let esp = ESP.say(&mut page, &side.esp, false);
    let mut proposals = Vec::new();
    for (cipher, hash, group, _) in combinations(&ike, PROPOSALS) {
        let at = format!("set security ike proposal {}-{}", side.name, proposals.len() + 1);
        put!(page, "{at} authentication-method pre-shared-keys");
        put!(page, "{at} encryption-algorithm {cipher}");
        if let Some(hash) = hash {
            put!(page, "{at} authentication-algorithm {hash}");
        }
        put!(page, "{at} dh-group {}", group.unwrap_or("group14"));
        put!(page, "{at} lifetime-seconds {}", seconds(side.ike_lifetime, 28_800));
        proposals.push(format!("{}-{}", side.name, proposals.len() + 1));
    }
    let mut sets = Vec::new();
    let without_groups: Vec<_> =
        esp.iter().map(|s| super::words::Said { groups: Vec::new(), ..s.clone() }).collect();
    for (cipher, hash, _, _) in combinations(&without_groups, PROPOSALS) {
        let at = format!("set security ipsec proposal {}-{}", side.name, sets.len() + 1);
        put!(page, "{at} protocol esp");
        put!(page, "{at} encryption-algorithm {cipher}");
        if let Some(hash) = hash {
            put!(page, "{at} authentication-algorithm {hash}");
        }
        put!(page, "{at} lifetime-seconds {}", seconds(side.esp_lifetime, 3600));
        sets.push(format!("{}-{}", side.name, sets.len() + 1));
    }
    if let Some(group) = pfs(&esp) {
        put!(page, "set security ipsec policy {} perfect-forward-secrecy keys {group}", side.name);
    }
    put!(page, "set security ipsec policy {} proposals [ {} ]", side.name, sets.join(" "));
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        page.blank();
        page.say(&format!("tunnel {}", tunnel.name));
        gateway(&mut page, side, tunnel, &proposals);
        vpn(&mut page, side, tunnel, index);
    }
    if let Some(bgp) = side.bgp {
        page.blank();
        put!(page, "set routing-options autonomous-system {}", bgp.local);
        for address in side.tunnels.iter().flat_map(|tunnel| &tunnel.far_inside) {
            put!(page, "set protocols bgp group {} neighbor {address} peer-as {}", side.name, bgp.remote);
        }
        put!(page, "set protocols bgp group {} type external", side.name);
        page.note("the BGP group exports nothing before it has an export policy for your networks");
    }
    page.finish()
}

fn gateway(page: &mut Page, side: &Side, tunnel: &Tunnel, proposals: &[String]) {
    let name = name(side, tunnel, 31);
    let psk = page.psk(tunnel);
    if side.version == 1 {
        let mode = if side.aggressive { "aggressive" } else { "main" };
        put!(page, "set security ike policy {name} mode {mode}");
    }
    put!(page, "set security ike policy {name} proposals [ {} ]", proposals.join(" "));
    let escaped = psk.replace('\\', "\\\\").replace('"', "\\\"");
    put!(page, "set security ike policy {name} pre-shared-key ascii-text \"{escaped}\"");
    let at = format!("set security ike gateway {name}");
    put!(page, "{at} ike-policy {name}");
    put!(page, "{at} address {}", far(tunnel));
    put!(page, "{at} external-interface WAN-INTERFACE");
    put!(page, "{at} local-address {}", near(tunnel));
    put!(page, "{at} version {}", if side.version == 1 { "v1-only" } else { "v2-only" });
    if let Some((interval, tries)) = side.dpd.as_ref().map(dpd) {
        put!(page, "{at} dead-peer-detection always-send");
        put!(page, "{at} dead-peer-detection interval {}", interval.clamp(2, 60));
        put!(page, "{at} dead-peer-detection threshold {}", tries.clamp(1, 5));
    }
    for (whose, id) in [("local", &tunnel.local_id), ("remote", &tunnel.remote_id)] {
        match id {
            Some(Identity::Fqdn(id)) => put!(page, "{at} {whose}-identity hostname {id}"),
            Some(Identity::Email(id)) => put!(page, "{at} {whose}-identity user-at-hostname \"{id}\""),
            Some(Identity::Ipv4(id)) => put!(page, "{at} {whose}-identity inet {id}"),
            Some(Identity::Ipv6(id)) => put!(page, "{at} {whose}-identity inet6 {id}"),
            Some(id) => page.note(&format!("the {whose} identity {id} is left out: say it by hand")),
            None => {}
        }
    }
    if side.udp {
        put!(page, "{at} nat-keepalive 20");
    }
}

fn vpn(page: &mut Page, side: &Side, tunnel: &Tunnel, index: usize) {
    let name = name(side, tunnel, 31);
    let unit = number(index);
    let at = format!("set security ipsec vpn {name}");
    put!(page, "{at} bind-interface st0.{unit}");
    put!(page, "{at} ike gateway {name}");
    put!(page, "{at} ike ipsec-policy {}", side.name);
    let pairs = side.pairs();
    if let [(local, remote)] = pairs.as_slice() {
        put!(page, "{at} ike proxy-identity local {local}");
        put!(page, "{at} ike proxy-identity remote {remote}");
    } else if side.bgp.is_none() {
        for (index, (local, remote)) in pairs.iter().enumerate() {
            put!(page, "{at} traffic-selector ts{} local-ip {local}", index + 1);
            put!(page, "{at} traffic-selector ts{} remote-ip {remote}", index + 1);
        }
    }
    let begin = match side.start {
        Start::Immediate => "immediately",
        Start::OnTraffic => "on-traffic",
        Start::Respond => "responder-only",
    };
    put!(page, "{at} establish-tunnels {begin}");
    for (family, six) in [("inet", false), ("inet6", true)] {
        let mut inside = tunnel.inside.iter().filter(|net| net.addr().is_ipv6() == six).peekable();
        if inside.peek().is_none() && !six {
            put!(page, "set interfaces st0 unit {unit} family inet");
        }
        for net in inside {
            put!(page, "set interfaces st0 unit {unit} family {family} address {net}");
        }
    }
    if let Some(mtu) = side.mtu {
        put!(page, "set interfaces st0 unit {unit} family inet mtu {mtu}");
    }
    put!(page, "set security zones security-zone vpn interfaces st0.{unit}");
    if !tunnel.enabled {
        put!(page, "deactivate security ipsec vpn {name}");
    }
    // Traffic selectors bring their routes.
    if side.bgp.is_none() && pairs.len() == 1 {
        for net in &side.remote {
            let table = if net.addr().is_ipv6() { "rib inet6.0 static" } else { "static" };
            put!(
                page,
                "set routing-options {table} route {net} qualified-next-hop st0.{unit} preference {}",
                distance(tunnel) + 4
            );
        }
    }
}
