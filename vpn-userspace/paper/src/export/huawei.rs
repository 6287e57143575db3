//! Huawei VRP (AR routers, USG firewalls): an IPsec policy for the WAN interface, an entry for each tunnel.

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::Identity;

use super::page::{Page, dpd, far, name, near, number, put, seconds, wildcard};
use super::words::{Said, Words, combinations, numbered_groups, pfs};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("group": Modp1024 = "2", Modp1536 = "5",
    Modp2048 = "14", Modp3072 = "15", Modp4096 = "16", Ecp256 = "19", Ecp384 = "20", Ecp521 = "21");

fn hash(i: Integrity) -> Option<&'static str> {
    match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha1"),
        Integrity::HmacSha256_128 => Some("sha2-256"),
        Integrity::HmacSha384_192 => Some("sha2-384"),
        Integrity::HmacSha512_256 => Some("sha2-512"),
        _ => None,
    }
}

fn cbc(e: Encryption) -> Option<&'static str> {
    match e {
        Encryption::AesCbc128 => Some("aes-128"),
        Encryption::AesCbc192 => Some("aes-192"),
        Encryption::AesCbc256 => Some("aes-256"),
        Encryption::TripleDes => Some("3des"),
        _ => None,
    }
}

const IKE: Words = Words {
    cipher: cbc,
    integrity: hash,
    prf: |p| match p {
        Prf::HmacMd5 => Some("hmac-md5"),
        Prf::HmacSha1 => Some("hmac-sha1"),
        Prf::HmacSha256 => Some("hmac-sha2-256"),
        Prf::HmacSha384 => Some("hmac-sha2-384"),
        Prf::HmacSha512 => Some("hmac-sha2-512"),
        _ => None,
    },
    group: GROUPS,
};

const ESP: Words = Words {
    cipher: |e| match e {
        Encryption::AesGcm128 => Some("aes-128-gcm-128"),
        Encryption::AesGcm192 => Some("aes-192-gcm-128"),
        Encryption::AesGcm256 => Some("aes-256-gcm-128"),
        e => cbc(e),
    },
    integrity: hash,
    prf: |_| Some(""),
    group: GROUPS,
};

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "Huawei VRP", side, options);
    page.note("WAN-INTERFACE stands for the interface that has the public address");
    if side.pairs().len() > 1 && !side.each {
        page.note(
            "VRP negotiates each rule of an access list by itself: set esp.pairs = \"each\" in Culvert",
        );
    }
    if side.tunnels.len() > 1 {
        page.note("the first policy entry whose access list matches is used: for the others to take over, apply them at another interface or track the first");
    }
    let ike = IKE.say(&mut page, &side.ike, true);
    let esp = ESP.say(&mut page, &side.esp, false);
    page.say("the networks of both sides; keep them out of NAT");
    put!(page, "acl number 3{}", number(0));
    for (index, (local, remote)) in side.pairs().into_iter().enumerate() {
        if local.addr().is_ipv6() {
            page.note("IPv6 networks need `acl ipv6` and an IPv6 policy of their own: they are left out");
            continue;
        }
        let (own, far) = (wildcard(&local), wildcard(&remote));
        put!(
            page,
            " rule {} permit ip source {} {own} destination {} {far}",
            5 * (index + 1),
            local.network(),
            remote.network()
        );
    }
    page.say("SHA-2 as the standard has it (RFC 4868)");
    put!(page, "undo ipsec authentication sha2 compatible enable");
    let sets = ipsec_proposals(&mut page, side, &esp);
    let proposals = ike_proposals(&mut page, side, &ike);
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        page.blank();
        page.say(&format!("tunnel {}", tunnel.name));
        peer(&mut page, side, tunnel, proposals.first().copied().unwrap_or(100));
        put!(page, "ipsec policy {} {} isakmp", side.name, index + 1);
        put!(page, " security acl 3{}", number(0));
        put!(page, " ike-peer {}", name(side, tunnel, 31));
        put!(page, " proposal {}", sets.join(" "));
        put!(page, " tunnel local {}", near(tunnel));
        if let Some(group) = pfs(&esp) {
            put!(page, " pfs dh-{group}");
        }
        put!(page, " sa duration time-based {}", seconds(side.esp_lifetime, 3600));
    }
    page.blank();
    put!(page, "interface WAN-INTERFACE");
    put!(page, " ipsec policy {}", side.name);
    page.blank();
    if side.bgp.is_some() {
        page.note("BGP needs a tunnel interface (`tunnel-protocol ipsec`) with an ipsec profile in place of the policy: write it by hand");
    } else {
        page.say("the way to Culvert's networks leads out of the WAN interface; NEXT-HOP is its gateway");
        for net in side.remote.iter().filter(|net| net.addr().is_ipv4()) {
            put!(page, "ip route-static {} {} NEXT-HOP", net.network(), net.prefix_len());
        }
    }
    page.finish()
}

fn ipsec_proposals(page: &mut Page, side: &Side, esp: &[Said]) -> Vec<String> {
    let without_groups: Vec<Said> = esp.iter().map(|s| Said { groups: Vec::new(), ..s.clone() }).collect();
    let mut names = Vec::new();
    for (cipher, integrity, _, _) in combinations(&without_groups, 6) {
        let name = format!("{}-{}", side.name, names.len() + 1);
        put!(page, "ipsec proposal {name}");
        put!(page, " transform esp");
        put!(page, " esp encryption-algorithm {cipher}");
        if let Some(integrity) = integrity {
            put!(page, " esp authentication-algorithm {integrity}");
        }
        names.push(name);
    }
    names
}

fn ike_proposals(page: &mut Page, side: &Side, ike: &[Said]) -> Vec<usize> {
    let mut numbers = Vec::new();
    // A peer has one: the rest would be in vain.
    for (index, (cipher, hash, group, _)) in combinations(ike, 1).into_iter().enumerate() {
        let number = 100 + index;
        put!(page, "ike proposal {number}");
        put!(page, " encryption-algorithm {cipher}");
        put!(page, " dh {}", group.unwrap_or("group14"));
        let hash = hash.unwrap_or("sha2-256");
        put!(page, " authentication-algorithm {hash}");
        put!(page, " authentication-method pre-share");
        if side.version == 2 {
            put!(page, " integrity-algorithm hmac-{hash}");
            let prf = ike.first().and_then(|said| said.prfs.first()).copied().unwrap_or("hmac-sha2-256");
            put!(page, " prf {prf}");
        }
        put!(page, " sa duration {}", seconds(side.ike_lifetime, 28_800));
        numbers.push(number);
    }
    numbers
}

fn peer(page: &mut Page, side: &Side, tunnel: &Tunnel, proposal: usize) {
    let psk = page.psk(tunnel);
    put!(page, "ike peer {}", name(side, tunnel, 31));
    if side.version == 1 {
        put!(page, " undo version 2");
        put!(page, " exchange-mode {}", if side.aggressive { "aggressive" } else { "main" });
    } else {
        put!(page, " undo version 1");
    }
    put!(page, " pre-shared-key {psk}");
    put!(page, " ike-proposal {proposal}");
    for (whose, id, address) in
        [("local", &tunnel.local_id, near(tunnel)), ("remote", &tunnel.remote_id, far(tunnel))]
    {
        match id {
            Some(Identity::Fqdn(id)) => {
                put!(page, " {whose}-id-type fqdn");
                put!(page, " {whose}-id {id}");
            }
            Some(Identity::Email(id)) => {
                put!(page, " {whose}-id-type user-fqdn");
                put!(page, " {whose}-id {id}");
            }
            Some(Identity::Dn(_) | Identity::KeyId(_)) => {
                page.note(&format!("the {whose} identity cannot be said here: an address is taken for it"));
                put!(page, " {whose}-id-type ip");
                put!(page, " {whose}-id {address}");
            }
            Some(id) => {
                put!(page, " {whose}-id-type ip");
                put!(page, " {whose}-id {id}");
            }
            None => {
                put!(page, " {whose}-id-type ip");
                put!(page, " {whose}-id {address}");
            }
        }
    }
    put!(page, " remote-address {}", far(tunnel));
    if let Some((interval, _)) = side.dpd.as_ref().map(dpd) {
        put!(page, " dpd type periodic");
        put!(page, " dpd idle-time {}", interval.max(10));
        put!(page, " dpd retransmit-interval 5");
    }
}
