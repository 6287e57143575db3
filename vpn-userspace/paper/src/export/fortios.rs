//! Fortinet FortiGate: a route-based tunnel for each.

use culvert_config::Start;
use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::Identity;

use super::page::{Page, distance, dpd, far, mask, name, near, put, seconds};
use super::words::{Said, Words, numbered_groups};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("": Modp1024 = "2", Modp1536 = "5", Modp2048 = "14",
    Modp3072 = "15", Modp4096 = "16", Modp6144 = "17", Modp8192 = "18", Ecp256 = "19", Ecp384 = "20", Ecp521 = "21",
    Curve25519 = "31");

fn hash(i: Integrity) -> Option<&'static str> {
    match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha1"),
        Integrity::HmacSha256_128 => Some("sha256"),
        Integrity::HmacSha384_192 => Some("sha384"),
        Integrity::HmacSha512_256 => Some("sha512"),
        _ => None,
    }
}

const WORDS: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes128"),
        Encryption::AesCbc192 => Some("aes192"),
        Encryption::AesCbc256 => Some("aes256"),
        Encryption::AesGcm128 => Some("aes128gcm"),
        Encryption::AesGcm256 => Some("aes256gcm"),
        Encryption::ChaCha20Poly1305 => Some("chacha20poly1305"),
        Encryption::TripleDes => Some("3des"),
        _ => None,
    },
    integrity: hash,
    prf: |p| match p {
        Prf::HmacSha1 => Some("prfsha1"),
        Prf::HmacSha256 => Some("prfsha256"),
        Prf::HmacSha384 => Some("prfsha384"),
        Prf::HmacSha512 => Some("prfsha512"),
        // It follows the hash.
        Prf::HmacMd5 => Some(""),
        _ => None,
    },
    group: GROUPS,
};

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "FortiOS", side, options);
    page.note(
        "wan1 stands for the interface that has the public address, internal for that of your networks",
    );
    if side.pairs().len() > 1 && !side.each {
        page.note("FortiOS negotiates each phase 2 by itself: set esp.pairs = \"each\" in Culvert");
    }
    let ike = WORDS.say(&mut page, &side.ike, true);
    let esp = WORDS.say(&mut page, &side.esp, false);
    put!(page, "config vpn ipsec phase1-interface");
    for tunnel in &side.tunnels {
        phase1(&mut page, side, tunnel, &ike);
    }
    put!(page, "end");
    put!(page, "config vpn ipsec phase2-interface");
    for tunnel in &side.tunnels {
        phase2(&mut page, side, tunnel, &esp);
    }
    put!(page, "end");
    interfaces(&mut page, side);
    routes(&mut page, side);
    policies(&mut page, side);
    page.finish()
}

fn proposals(said: &[Said], with_prf: bool) -> String {
    let mut all: Vec<String> = Vec::new();
    for one in said {
        for cipher in &one.ciphers {
            match (one.aead, with_prf) {
                (true, true) => {
                    all.extend(one.prfs.iter().filter(|p| !p.is_empty()).map(|p| format!("{cipher}-{p}")))
                }
                (true, false) => all.push((*cipher).to_owned()),
                (false, _) => all.extend(one.integrities.iter().map(|i| format!("{cipher}-{i}"))),
            }
        }
    }
    // As many as it takes.
    all.truncate(10);
    all.join(" ")
}

fn groups(said: &[Said]) -> String {
    let mut all: Vec<&str> = Vec::new();
    for group in said.iter().flat_map(|one| &one.groups) {
        if !all.contains(group) {
            all.push(group);
        }
    }
    all.truncate(3);
    all.join(" ")
}

fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn phase1(page: &mut Page, side: &Side, tunnel: &Tunnel, ike: &[Said]) {
    let psk = page.psk(tunnel);
    put!(page, "    edit \"{}\"", name(side, tunnel, 15));
    put!(page, "        set interface \"wan1\"");
    put!(page, "        set ike-version {}", side.version);
    if side.version == 1 && side.aggressive {
        put!(page, "        set mode aggressive");
    }
    match tunnel.local_address {
        Some(std::net::IpAddr::V6(address)) => {
            put!(page, "        set ip-version 6");
            put!(page, "        set local-gw6 {address}");
        }
        _ => put!(page, "        set local-gw {}", near(tunnel)),
    }
    put!(page, "        set peertype any");
    put!(page, "        set net-device disable");
    put!(page, "        set proposal {}", proposals(ike, true));
    put!(page, "        set dhgrp {}", groups(ike));
    let six = tunnel.local_address.is_some_and(|address| address.is_ipv6());
    put!(page, "        set remote-gw{} {}", if six { "6" } else { "" }, far(tunnel));
    match &tunnel.local_id {
        Some(Identity::Fqdn(id)) => {
            put!(page, "        set localid-type fqdn");
            put!(page, "        set localid {}", string(id));
        }
        Some(Identity::Email(id)) => {
            put!(page, "        set localid-type user-fqdn");
            put!(page, "        set localid {}", string(id));
        }
        Some(Identity::Ipv4(_) | Identity::Ipv6(_)) | None => put!(page, "        set localid-type address"),
        Some(id) => page.note(&format!("the identity {id} of this device is left out: say it by hand")),
    }
    put!(page, "        set psksecret {}", string(&psk));
    put!(page, "        set keylife {}", seconds(side.ike_lifetime, 28_800));
    match side.dpd.as_ref().map(dpd) {
        Some((interval, tries)) => {
            put!(page, "        set dpd on-idle");
            put!(page, "        set dpd-retrycount {tries}");
            put!(page, "        set dpd-retryinterval {interval}");
        }
        None => put!(page, "        set dpd disable"),
    }
    put!(page, "        set nattraversal {}", if side.udp { "forced" } else { "enable" });
    put!(page, "    next");
}

fn phase2(page: &mut Page, side: &Side, tunnel: &Tunnel, esp: &[Said]) {
    let phase1 = name(side, tunnel, 15);
    let any = || vec![("0.0.0.0/0".parse().ok(), "0.0.0.0/0".parse().ok())];
    let pairs: Vec<(Option<ipnet::IpNet>, Option<ipnet::IpNet>)> = if side.bgp.is_some() {
        any()
    } else {
        side.pairs().into_iter().map(|(local, remote)| (Some(local), Some(remote))).collect()
    };
    for (index, (local, remote)) in pairs.into_iter().enumerate() {
        let (Some(local), Some(remote)) = (local, remote) else { continue };
        put!(page, "    edit \"{phase1}-{}\"", index + 1);
        put!(page, "        set phase1name \"{phase1}\"");
        put!(page, "        set proposal {}", proposals(esp, false));
        let groups = groups(esp);
        if groups.is_empty() {
            put!(page, "        set pfs disable");
        } else {
            put!(page, "        set pfs enable");
            put!(page, "        set dhgrp {groups}");
        }
        put!(page, "        set keylifeseconds {}", seconds(side.esp_lifetime, 3600));
        put!(
            page,
            "        set auto-negotiate {}",
            if side.start == Start::Immediate { "enable" } else { "disable" }
        );
        if local.addr().is_ipv6() {
            put!(page, "        set src-addr-type subnet6");
            put!(page, "        set dst-addr-type subnet6");
            put!(page, "        set src-subnet6 {local}");
            put!(page, "        set dst-subnet6 {remote}");
        } else {
            put!(page, "        set src-subnet {} {}", local.network(), mask(&local));
            put!(page, "        set dst-subnet {} {}", remote.network(), mask(&remote));
        }
        put!(page, "    next");
    }
}

fn interfaces(page: &mut Page, side: &Side) {
    let with: Vec<_> = side.tunnels.iter().filter(|t| t.inside.iter().any(|n| n.addr().is_ipv4())).collect();
    if with.is_empty() {
        return;
    }
    put!(page, "config system interface");
    for tunnel in with {
        put!(page, "    edit \"{}\"", name(side, tunnel, 15));
        let own = tunnel.inside.iter().find(|net| net.addr().is_ipv4());
        let far = tunnel.far_inside.iter().find(|address| address.is_ipv4());
        if let Some(own) = own {
            put!(page, "        set ip {} 255.255.255.255", own.addr());
            if let Some(far) = far {
                put!(page, "        set remote-ip {far} {}", mask(own));
            }
        }
        put!(page, "        set allowaccess ping");
        if !tunnel.enabled {
            put!(page, "        set status down");
        }
        put!(page, "    next");
    }
    put!(page, "end");
}

fn routes(page: &mut Page, side: &Side) {
    if let Some(bgp) = side.bgp {
        put!(page, "config router bgp");
        put!(page, "    set as {}", bgp.local);
        put!(page, "    config neighbor");
        for address in side.tunnels.iter().flat_map(|tunnel| &tunnel.far_inside) {
            put!(page, "        edit \"{address}\"");
            put!(page, "            set remote-as {}", bgp.remote);
            put!(page, "        next");
        }
        put!(page, "    end");
        put!(page, "    config network");
        for (index, net) in side.local.iter().filter(|net| net.addr().is_ipv4()).enumerate() {
            put!(page, "        edit {}", index + 1);
            put!(page, "            set prefix {} {}", net.network(), mask(net));
            put!(page, "        next");
        }
        put!(page, "    end");
        put!(page, "end");
        return;
    }
    for (table, six) in [("config router static", false), ("config router static6", true)] {
        let nets: Vec<_> = side.remote.iter().filter(|net| net.addr().is_ipv6() == six).collect();
        if nets.is_empty() {
            continue;
        }
        put!(page, "{table}");
        for net in nets {
            for tunnel in &side.tunnels {
                put!(page, "    edit 0");
                if six {
                    put!(page, "        set dst {net}");
                } else {
                    put!(page, "        set dst {} {}", net.network(), mask(net));
                }
                put!(page, "        set device \"{}\"", name(side, tunnel, 15));
                put!(page, "        set distance {}", distance(tunnel) + 9);
                put!(page, "    next");
            }
            page.say("nothing of it leaves in clear while the tunnels are down");
            put!(page, "    edit 0");
            if six {
                put!(page, "        set dst {net}");
            } else {
                put!(page, "        set dst {} {}", net.network(), mask(net));
            }
            put!(page, "        set blackhole enable");
            put!(page, "        set distance 254");
            put!(page, "    next");
        }
        put!(page, "end");
    }
}

fn policies(page: &mut Page, side: &Side) {
    page.say("what may pass; narrow it as you see fit");
    put!(page, "config firewall policy");
    for tunnel in &side.tunnels {
        let interface = name(side, tunnel, 15);
        for (from, to) in [("internal", interface.as_str()), (interface.as_str(), "internal")] {
            put!(page, "    edit 0");
            put!(page, "        set srcintf \"{from}\"");
            put!(page, "        set dstintf \"{to}\"");
            put!(page, "        set srcaddr \"all\"");
            put!(page, "        set dstaddr \"all\"");
            put!(page, "        set service \"ALL\"");
            put!(page, "        set schedule \"always\"");
            put!(page, "        set action accept");
            put!(page, "    next");
        }
    }
    put!(page, "end");
}
