//! H3C Comware 7: an IPsec policy for the WAN interface, an entry for each tunnel.

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::Identity;

use super::page::{Page, dpd, far, name, near, number, put, seconds, wildcard};
use super::words::{Said, Words, combinations, numbered_groups};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("group": Modp1024 = "2", Modp1536 = "5",
    Modp2048 = "14", Ecp256 = "19", Ecp384 = "20", Modp2048S256 = "24");

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

const IKE: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes-cbc-128"),
        Encryption::AesCbc192 => Some("aes-cbc-192"),
        Encryption::AesCbc256 => Some("aes-cbc-256"),
        Encryption::TripleDes => Some("3des-cbc"),
        _ => None,
    },
    integrity: hash,
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

const ESP: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes-cbc-128"),
        Encryption::AesCbc192 => Some("aes-cbc-192"),
        Encryption::AesCbc256 => Some("aes-cbc-256"),
        Encryption::AesGcm128 => Some("gcm-128"),
        Encryption::AesGcm192 => Some("gcm-192"),
        Encryption::AesGcm256 => Some("gcm-256"),
        Encryption::TripleDes => Some("3des-cbc"),
        _ => None,
    },
    integrity: hash,
    prf: |_| Some(""),
    group: GROUPS,
};

/// As many as a policy entry takes.
const TRANSFORM_SETS: usize = 6;

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "H3C Comware 7", side, options);
    page.note("WAN-INTERFACE stands for the interface that has the public address");
    if side.pairs().len() > 1 && !side.each {
        page.note(
            "Comware negotiates each rule of an access list by itself: set esp.pairs = \"each\" in Culvert",
        );
    }
    if side.tunnels.len() > 1 {
        page.note("the first policy entry whose access list matches is used: for the others to take over, apply them at another interface or track the first");
    }
    let ike = IKE.say(&mut page, &side.ike, true);
    let esp = ESP.say(&mut page, &side.esp, false);
    access_list(&mut page, side);
    let sets = transform_sets(&mut page, side, &esp);
    let proposals = if side.version == 1 {
        let mut numbers = Vec::new();
        for (index, (cipher, hash, group, _)) in combinations(&ike, 6).into_iter().enumerate() {
            let number = 100 + index;
            put!(page, "ike proposal {number}");
            put!(page, " authentication-method pre-share");
            put!(page, " encryption-algorithm {cipher}");
            put!(page, " authentication-algorithm {}", hash.unwrap_or("sha1"));
            put!(page, " dh {}", group.unwrap_or("group14"));
            put!(page, " sa duration {}", seconds(side.ike_lifetime, 28_800));
            numbers.push(number.to_string());
        }
        numbers
    } else {
        ikev2_proposals(&mut page, side, &ike);
        Vec::new()
    };
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        page.blank();
        page.say(&format!("tunnel {}", tunnel.name));
        if side.version == 1 {
            ike_profile(&mut page, side, tunnel, &proposals);
        } else {
            ikev2_profile(&mut page, side, tunnel);
        }
        policy(&mut page, side, tunnel, index, &sets);
    }
    page.blank();
    put!(page, "interface WAN-INTERFACE");
    put!(page, " ipsec apply policy {}", side.name);
    page.blank();
    routes(&mut page, side);
    page.finish()
}

fn access_list(page: &mut Page, side: &Side) {
    page.say("the networks of both sides; keep them out of NAT");
    for (six, kind) in [(false, "acl advanced"), (true, "acl ipv6 advanced")] {
        let pairs: Vec<_> = side.pairs().into_iter().filter(|(l, _)| l.addr().is_ipv6() == six).collect();
        if pairs.is_empty() {
            continue;
        }
        put!(page, "{kind} 3{}", number(0));
        for (local, remote) in pairs {
            if six {
                put!(page, " rule permit ipv6 source {local} destination {remote}");
            } else {
                let (own, far) = (wildcard(&local), wildcard(&remote));
                put!(
                    page,
                    " rule permit ip source {} {own} destination {} {far}",
                    local.network(),
                    remote.network()
                );
            }
        }
    }
}

fn transform_sets(page: &mut Page, side: &Side, esp: &[Said]) -> Vec<String> {
    let mut names = Vec::new();
    for (cipher, integrity, group, _) in combinations(esp, TRANSFORM_SETS) {
        let set = format!("{}-{}", side.name, names.len() + 1);
        put!(page, "ipsec transform-set {set}");
        put!(page, " encapsulation-mode tunnel");
        put!(page, " protocol esp");
        put!(page, " esp encryption-algorithm {cipher}");
        if let Some(integrity) = integrity {
            put!(page, " esp authentication-algorithm {integrity}");
        }
        if let Some(group) = group {
            put!(page, " pfs dh-{group}");
        }
        names.push(set);
    }
    names
}

fn ikev2_proposals(page: &mut Page, side: &Side, ike: &[Said]) {
    for (index, said) in ike.iter().enumerate() {
        put!(page, "ikev2 proposal {}-{}", side.name, index + 1);
        put!(page, " encryption {}", said.ciphers.join(" "));
        put!(page, " integrity {}", said.integrities.join(" "));
        put!(page, " prf {}", said.prfs.join(" "));
        put!(page, " dh {}", said.groups.join(" "));
    }
    put!(page, "ikev2 policy {}", side.name);
    for index in 0..ike.len() {
        put!(page, " proposal {}-{}", side.name, index + 1);
    }
}

fn ikev2_profile(page: &mut Page, side: &Side, tunnel: &Tunnel) {
    let (name, far, psk) = (name(side, tunnel, 60), far(tunnel), page.psk(tunnel));
    put!(page, "ikev2 keychain {name}");
    put!(page, " peer culvert");
    put!(page, "  address {far} 255.255.255.255");
    put!(page, "  pre-shared-key plaintext {psk}");
    put!(page, "ikev2 profile {name}");
    put!(page, " authentication-method local pre-share");
    put!(page, " authentication-method remote pre-share");
    put!(page, " keychain {name}");
    put!(page, " identity local {}", identity(page, tunnel.local_id.as_ref(), &near(tunnel), ""));
    put!(
        page,
        " match remote identity {}",
        identity(page, tunnel.remote_id.as_ref(), &far, " 255.255.255.255")
    );
    put!(page, " sa duration {}", seconds(side.ike_lifetime, 28_800));
    if let Some((interval, _)) = side.dpd.as_ref().map(dpd) {
        put!(page, " dpd interval {} retry 5 periodic", interval.max(10));
    }
}

fn ike_profile(page: &mut Page, side: &Side, tunnel: &Tunnel, proposals: &[String]) {
    let (name, far, psk) = (name(side, tunnel, 60), far(tunnel), page.psk(tunnel));
    put!(page, "ike keychain {name}");
    put!(page, " pre-shared-key address {far} 255.255.255.255 key simple {psk}");
    put!(page, "ike profile {name}");
    put!(page, " keychain {name}");
    put!(page, " exchange-mode {}", if side.aggressive { "aggressive" } else { "main" });
    put!(page, " local-identity {}", identity(page, tunnel.local_id.as_ref(), &near(tunnel), ""));
    put!(
        page,
        " match remote identity {}",
        identity(page, tunnel.remote_id.as_ref(), &far, " 255.255.255.255")
    );
    put!(page, " proposal {}", proposals.join(" "));
    if let Some((interval, _)) = side.dpd.as_ref().map(dpd) {
        put!(page, " dpd interval {} retry 5 periodic", interval.max(10));
    }
}

fn identity(page: &mut Page, id: Option<&Identity>, address: &str, after_address: &str) -> String {
    match id {
        Some(Identity::Fqdn(id)) => format!("fqdn {id}"),
        Some(Identity::Email(id)) => format!("email {id}"),
        Some(Identity::Ipv4(id)) => format!("address {id}{after_address}"),
        Some(Identity::Ipv6(id)) => format!("address ipv6 {id}"),
        Some(id) => {
            page.note(&format!("the identity {id} cannot be said here: an address is taken for it"));
            format!("address {address}{after_address}")
        }
        None => format!("address {address}{after_address}"),
    }
}

fn policy(page: &mut Page, side: &Side, tunnel: &Tunnel, index: usize, sets: &[String]) {
    let profile = name(side, tunnel, 60);
    put!(page, "ipsec policy {} {} isakmp", side.name, index + 1);
    put!(page, " transform-set {}", sets.join(" "));
    put!(page, " security acl 3{}", number(0));
    put!(page, " local-address {}", near(tunnel));
    put!(page, " remote-address {}", far(tunnel));
    put!(page, " {} {profile}", if side.version == 1 { "ike-profile" } else { "ikev2-profile" });
    put!(page, " sa duration time-based {}", seconds(side.esp_lifetime, 3600));
}

fn routes(page: &mut Page, side: &Side) {
    if side.bgp.is_some() {
        page.note("BGP needs a tunnel interface (`interface tunnel N mode ipsec`) with an ipsec profile in place of the policy; its addresses are in the comments at the end");
        for tunnel in &side.tunnels {
            for (own, far) in tunnel.inside.iter().zip(&tunnel.far_inside) {
                page.say(&format!("tunnel {}: {own} here, {far} at Culvert", tunnel.name));
            }
        }
        return;
    }
    page.say("the way to Culvert's networks leads out of the WAN interface; NEXT-HOP is its gateway");
    for net in side.remote.iter().filter(|net| net.addr().is_ipv4()) {
        put!(page, "ip route-static {} {} NEXT-HOP", net.network(), net.prefix_len());
    }
    for net in side.remote.iter().filter(|net| net.addr().is_ipv6()) {
        put!(page, "ipv6 route-static {} {} NEXT-HOP", net.network(), net.prefix_len());
    }
}
