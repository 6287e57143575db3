//! Cisco IOS and IOS XE: a virtual tunnel interface for each tunnel. The networks are its policy (IOS XE 16.12), so that both
//! sides mean the same ones.

use culvert_config::Start;
use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::Identity;

use super::page::{Page, distance, dpd, far, mask, name, near, number, put, seconds, wildcard};
use super::words::{Said, Words, combinations, numbered_groups, pfs};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("": Modp1024 = "2", Modp1536 = "5", Modp2048 = "14",
    Modp3072 = "15", Modp4096 = "16", Ecp256 = "19", Ecp384 = "20", Ecp521 = "21", Modp2048S256 = "24");

const IKE: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes-cbc-128"),
        Encryption::AesCbc192 => Some("aes-cbc-192"),
        Encryption::AesCbc256 => Some("aes-cbc-256"),
        Encryption::AesGcm128 => Some("aes-gcm-128"),
        Encryption::AesGcm256 => Some("aes-gcm-256"),
        Encryption::TripleDes => Some("3des"),
        _ => None,
    },
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha1"),
        Integrity::HmacSha256_128 => Some("sha256"),
        Integrity::HmacSha384_192 => Some("sha384"),
        Integrity::HmacSha512_256 => Some("sha512"),
        _ => None,
    },
    prf: |p| match p {
        Prf::HmacMd5 => Some("md5"),
        Prf::HmacSha1 => Some("sha1"),
        Prf::HmacSha256 => Some("sha256"),
        Prf::HmacSha384 => Some("sha384"),
        Prf::HmacSha512 => Some("sha512"),
        _ => None,
    },
    group: GROUPS,
};

/// Of IKEv1.
const ISAKMP: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes"),
        Encryption::AesCbc192 => Some("aes 192"),
        Encryption::AesCbc256 => Some("aes 256"),
        Encryption::TripleDes => Some("3des"),
        _ => None,
    },
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha"),
        Integrity::HmacSha256_128 => Some("sha256"),
        Integrity::HmacSha384_192 => Some("sha384"),
        Integrity::HmacSha512_256 => Some("sha512"),
        _ => None,
    },
    // IKEv1 has that of the hash.
    prf: |_| Some(""),
    group: GROUPS,
};

const ESP: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("esp-aes"),
        Encryption::AesCbc192 => Some("esp-aes 192"),
        Encryption::AesCbc256 => Some("esp-aes 256"),
        Encryption::AesGcm128 => Some("esp-gcm"),
        Encryption::AesGcm192 => Some("esp-gcm 192"),
        Encryption::AesGcm256 => Some("esp-gcm 256"),
        Encryption::TripleDes => Some("esp-3des"),
        _ => None,
    },
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("esp-md5-hmac"),
        Integrity::HmacSha1_96 => Some("esp-sha-hmac"),
        Integrity::HmacSha256_128 => Some("esp-sha256-hmac"),
        Integrity::HmacSha384_192 => Some("esp-sha384-hmac"),
        Integrity::HmacSha512_256 => Some("esp-sha512-hmac"),
        _ => None,
    },
    prf: |_| Some(""),
    group: GROUPS,
};

/// As many as a profile takes.
const TRANSFORM_SETS: usize = 6;

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("!", "Cisco IOS", side, options);
    page.note("the networks of a tunnel interface need IOS XE 16.12 or newer; older ones need a crypto map with the same access list");
    if side.pairs().len() > 1 && !side.each {
        page.note(
            "IOS negotiates each line of an access list by itself: set esp.pairs = \"each\" in Culvert",
        );
    }
    let ike = if side.version == 1 {
        ISAKMP.say(&mut page, &side.ike, true)
    } else {
        IKE.say(&mut page, &side.ike, true)
    };
    let esp = ESP.say(&mut page, &side.esp, false);
    let sets = transform_sets(&mut page, side, &esp);
    access_lists(&mut page, side);
    if side.version == 1 {
        isakmp_policies(&mut page, side, &ike);
    } else {
        proposals(&mut page, side, &ike);
    }
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        page.blank();
        page.say(&format!("--- tunnel {}", tunnel.name));
        if side.version == 1 {
            isakmp(&mut page, side, tunnel);
        } else {
            ikev2(&mut page, side, tunnel);
        }
        interface(&mut page, side, tunnel, index, &sets, pfs(&esp));
    }
    if let Some(bgp) = side.bgp {
        page.blank();
        put!(page, "router bgp {}", bgp.local);
        for address in side.tunnels.iter().flat_map(|tunnel| &tunnel.far_inside) {
            put!(page, " neighbor {address} remote-as {}", bgp.remote);
            put!(page, " neighbor {address} timers 10 30");
        }
        for net in side.local.iter().filter(|net| net.addr().is_ipv4()) {
            put!(page, " network {} mask {}", net.network(), mask(net));
        }
    }
    page.finish()
}

fn transform_sets(page: &mut Page, side: &Side, esp: &[Said]) -> Vec<String> {
    let without_groups: Vec<Said> = esp.iter().map(|s| Said { groups: Vec::new(), ..s.clone() }).collect();
    let mut names = Vec::new();
    let mut seen = Vec::new();
    for (cipher, integrity, _, _) in combinations(&without_groups, usize::MAX) {
        if names.len() == TRANSFORM_SETS || seen.contains(&(cipher, integrity)) {
            continue;
        }
        seen.push((cipher, integrity));
        let set = format!("{}-{}", side.name, names.len() + 1);
        let integrity = integrity.map(|i| format!(" {i}")).unwrap_or_default();
        put!(page, "crypto ipsec transform-set {set} {cipher}{integrity}");
        put!(page, " mode tunnel");
        names.push(set);
    }
    names
}

fn access_lists(page: &mut Page, side: &Side) {
    for (six, kind) in [(false, "ip access-list extended"), (true, "ipv6 access-list")] {
        let pairs: Vec<_> =
            side.pairs().into_iter().filter(|(local, _)| local.addr().is_ipv6() == six).collect();
        if pairs.is_empty() {
            continue;
        }
        page.say("the networks of both sides");
        put!(page, "{kind} {}{}", side.name, if six { "-v6" } else { "" });
        for (local, remote) in pairs {
            if six {
                put!(page, " permit ipv6 {local} {remote}");
            } else {
                let (own, far) = (wildcard(&local), wildcard(&remote));
                put!(page, " permit ip {} {own} {} {far}", local.network(), remote.network());
            }
        }
    }
}

fn proposals(page: &mut Page, side: &Side, ike: &[Said]) {
    for (index, said) in ike.iter().enumerate() {
        put!(page, "crypto ikev2 proposal {}-{}", side.name, index + 1);
        put!(page, " encryption {}", said.ciphers.join(" "));
        if said.aead {
            put!(page, " prf {}", said.prfs.join(" "));
        } else {
            put!(page, " integrity {}", said.integrities.join(" "));
        }
        put!(page, " group {}", said.groups.join(" "));
    }
    put!(page, "crypto ikev2 policy {}", side.name);
    for index in 0..ike.len() {
        put!(page, " proposal {}-{}", side.name, index + 1);
    }
}

fn ikev2(page: &mut Page, side: &Side, tunnel: &Tunnel) {
    let name = name(side, tunnel, 60);
    let (near, far, psk) = (near(tunnel), far(tunnel), page.psk(tunnel));
    question_mark(page, &psk);
    put!(page, "crypto ikev2 keyring {name}");
    put!(page, " peer culvert");
    put!(page, "  address {far}");
    put!(page, "  pre-shared-key {psk}");
    put!(page, "crypto ikev2 profile {name}");
    put!(page, " match address local {near}");
    match &tunnel.remote_id {
        Some(Identity::Fqdn(id)) => put!(page, " match identity remote fqdn {id}"),
        Some(Identity::Email(id)) => put!(page, " match identity remote email {id}"),
        Some(Identity::Ipv4(id)) => put!(page, " match identity remote address {id} 255.255.255.255"),
        Some(Identity::Ipv6(id)) => put!(page, " match identity remote address {id}/128"),
        Some(Identity::KeyId(_)) | Some(Identity::Dn(_)) | None => {
            page.note("the identity of Culvert cannot be said here: an address is taken for it");
            put!(page, " match identity remote address {far} 255.255.255.255");
        }
    }
    match &tunnel.local_id {
        Some(Identity::Fqdn(id)) => put!(page, " identity local fqdn {id}"),
        Some(Identity::Email(id)) => put!(page, " identity local email {id}"),
        Some(Identity::Ipv4(id)) => put!(page, " identity local address {id}"),
        Some(Identity::Ipv6(id)) => put!(page, " identity local address {id}"),
        Some(Identity::KeyId(_)) | Some(Identity::Dn(_)) => {
            page.note(
                "the identity of this device cannot be said here: set remote_id in Culvert to its address",
            );
        }
        None => put!(page, " identity local address {near}"),
    }
    put!(page, " authentication remote pre-share");
    put!(page, " authentication local pre-share");
    put!(page, " keyring local {name}");
    put!(page, " lifetime {}", seconds(side.ike_lifetime, 28_800));
    if let Some((interval, tries)) = side.dpd.as_ref().map(dpd) {
        put!(page, " dpd {} {tries} periodic", interval.max(10));
    }
}

fn isakmp_policies(page: &mut Page, side: &Side, ike: &[Said]) {
    for (index, (cipher, hash, group, _)) in combinations(ike, 10).into_iter().enumerate() {
        put!(page, "crypto isakmp policy {}", 200 + index);
        put!(page, " encryption {cipher}");
        put!(page, " hash {}", hash.unwrap_or("sha"));
        put!(page, " authentication pre-share");
        put!(page, " group {}", group.unwrap_or("14"));
        put!(page, " lifetime {}", seconds(side.ike_lifetime, 28_800));
    }
    if let Some((interval, _)) = side.dpd.as_ref().map(dpd) {
        put!(page, "crypto isakmp keepalive {} 3 periodic", interval.max(10));
    }
}

fn isakmp(page: &mut Page, side: &Side, tunnel: &Tunnel) {
    let name = name(side, tunnel, 60);
    let (near, far, psk) = (near(tunnel), far(tunnel), page.psk(tunnel));
    question_mark(page, &psk);
    if side.aggressive {
        page.note("aggressive mode: IOS answers it; set `crypto isakmp peer` with an aggressive-mode password if IOS is to begin");
    }
    put!(page, "crypto keyring {name}");
    put!(page, " local-address {near}");
    put!(page, " pre-shared-key address {far} key {psk}");
    put!(page, "crypto isakmp profile {name}");
    put!(page, " keyring {name}");
    match &tunnel.remote_id {
        Some(Identity::Fqdn(id)) => put!(page, " match identity host {id}"),
        Some(Identity::Email(id)) => put!(page, " match identity user {id}"),
        Some(Identity::Ipv4(id)) => put!(page, " match identity address {id} 255.255.255.255"),
        _ => put!(page, " match identity address {far} 255.255.255.255"),
    }
    match &tunnel.local_id {
        Some(Identity::Fqdn(id)) => {
            put!(page, " self-identity fqdn {id}");
        }
        Some(Identity::Email(id)) => put!(page, " self-identity user-fqdn {id}"),
        _ => put!(page, " self-identity address"),
    }
    put!(page, " local-address {near}");
}

fn interface(
    page: &mut Page,
    side: &Side,
    tunnel: &Tunnel,
    index: usize,
    sets: &[String],
    group: Option<&str>,
) {
    let profile = name(side, tunnel, 60);
    put!(page, "crypto ipsec profile {profile}");
    put!(page, " set transform-set {}", sets.join(" "));
    match group {
        Some(group) => put!(page, " set pfs group{group}"),
        None => page.say("no perfect forward secrecy"),
    }
    put!(page, " set security-association lifetime seconds {}", seconds(side.esp_lifetime, 3600));
    let kind = if side.version == 1 { "isakmp-profile" } else { "ikev2-profile" };
    put!(page, " set {kind} {profile}");
    if side.start == Start::Respond {
        page.say("Culvert begins; this device answers");
        put!(page, " responder-only");
    }
    let number = number(index);
    put!(page, "interface Tunnel{number}");
    put!(page, " description Culvert {}/{}", side.name, tunnel.name);
    let v4 = tunnel.inside.iter().find(|net| net.addr().is_ipv4());
    match v4 {
        Some(net) => put!(page, " ip address {} {}", net.addr(), mask(net)),
        None => {
            page.say("no inner address is known: it borrows that of an interface of yours");
            put!(page, " ip unnumbered WAN-INTERFACE");
        }
    }
    for net in tunnel.inside.iter().filter(|net| net.addr().is_ipv6()) {
        put!(page, " ipv6 address {net}");
    }
    put!(page, " ip mtu {}", side.mtu.unwrap_or(1400));
    put!(page, " ip tcp adjust-mss {}", side.mtu.unwrap_or(1400).saturating_sub(40));
    put!(page, " tunnel source {}", near(tunnel));
    put!(page, " tunnel destination {}", far(tunnel));
    let six = tunnel.local_address.is_some_and(|address| address.is_ipv6());
    put!(page, " tunnel mode ipsec {}", if six { "ipv6" } else { "ipv4" });
    for (family, six) in [("ipv4", false), ("ipv6", true)] {
        if side.bgp.is_none() && side.pairs().iter().any(|(local, _)| local.addr().is_ipv6() == six) {
            let suffix = if six { "-v6" } else { "" };
            put!(page, " tunnel protection ipsec policy {family} {}{suffix}", side.name);
        }
    }
    put!(page, " tunnel protection ipsec profile {profile}");
    if !tunnel.enabled {
        put!(page, " shutdown");
    }
    if side.bgp.is_none() {
        for net in &side.remote {
            let distance = distance(tunnel);
            if net.addr().is_ipv4() {
                put!(page, "ip route {} {} Tunnel{number} {distance}", net.network(), mask(net));
            } else {
                put!(page, "ipv6 route {net} Tunnel{number} {distance}");
            }
        }
    }
}

/// The console takes a question mark for a call for help.
fn question_mark(page: &mut Page, psk: &str) {
    if psk.contains('?') {
        page.note("type Ctrl-V before each question mark of a key: the console takes it for a call for help");
    }
}
