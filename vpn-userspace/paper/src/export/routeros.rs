//! MikroTik RouterOS 7: policies, a peer for each tunnel.

use culvert_config::Start;
use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::Identity;

use super::page::{Page, dpd, far, name, near, put, seconds};
use super::words::{Said, Words};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const IKE: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes-128"),
        Encryption::AesCbc192 => Some("aes-192"),
        Encryption::AesCbc256 => Some("aes-256"),
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
        // It follows the hash.
        Prf::HmacMd5 | Prf::HmacSha1 | Prf::HmacSha256 | Prf::HmacSha384 | Prf::HmacSha512 => Some("auto"),
        _ => None,
    },
    group,
};

const ESP: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes-128-cbc"),
        Encryption::AesCbc192 => Some("aes-192-cbc"),
        Encryption::AesCbc256 => Some("aes-256-cbc"),
        Encryption::AesCtr128 => Some("aes-128-ctr"),
        Encryption::AesCtr192 => Some("aes-192-ctr"),
        Encryption::AesCtr256 => Some("aes-256-ctr"),
        Encryption::AesGcm128 => Some("aes-128-gcm"),
        Encryption::AesGcm192 => Some("aes-192-gcm"),
        Encryption::AesGcm256 => Some("aes-256-gcm"),
        Encryption::ChaCha20Poly1305 => Some("chacha20poly1305"),
        Encryption::TripleDes => Some("3des"),
        _ => None,
    },
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha1"),
        Integrity::HmacSha256_128 => Some("sha256"),
        Integrity::HmacSha512_256 => Some("sha512"),
        _ => None,
    },
    prf: |_| Some(""),
    group,
};

fn group(group: DhGroup) -> Option<&'static str> {
    match group {
        DhGroup::Modp1024 => Some("modp1024"),
        DhGroup::Modp1536 => Some("modp1536"),
        DhGroup::Modp2048 => Some("modp2048"),
        DhGroup::Modp3072 => Some("modp3072"),
        DhGroup::Modp4096 => Some("modp4096"),
        DhGroup::Modp6144 => Some("modp6144"),
        DhGroup::Modp8192 => Some("modp8192"),
        DhGroup::Ecp256 => Some("ecp256"),
        DhGroup::Ecp384 => Some("ecp384"),
        DhGroup::Ecp521 => Some("ecp521"),
        DhGroup::Curve25519 => Some("x25519"),
        _ => None,
    }
}

fn union(said: &[Said], of: impl Fn(&Said) -> &[&'static str]) -> Vec<&'static str> {
    let mut all = Vec::new();
    for word in said.iter().flat_map(|one| of(one).iter().copied()) {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    all
}

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "RouterOS 7", side, options);
    let ike = IKE.say(&mut page, &side.ike, true);
    let esp = ESP.say(&mut page, &side.esp, false);
    if side.pairs().len() > 1 && !side.each {
        page.note("RouterOS negotiates each policy by itself: set esp.pairs = \"each\" in Culvert");
    }
    if side.tunnels.len() > 1 {
        page.note("of policies for the same networks RouterOS uses the first that is not disabled: switch over by script (/tool netwatch), or use one tunnel");
    }
    if side.bgp.is_some() {
        page.note("RouterOS has no tunnel interface for IPsec alone: BGP needs GRE or IPIP beside it, which Culvert has not");
    }
    let hashes = union(&ike, |s| &s.integrities);
    let lifetime = seconds(side.ike_lifetime, 28_800);
    let detection = match side.dpd.as_ref().map(dpd) {
        Some((interval, tries)) => format!("dpd-interval={interval}s dpd-maximum-failures={tries}"),
        None => "dpd-interval=disable-dpd".to_owned(),
    };
    put!(page, "/ip ipsec profile");
    if let [first, others @ ..] = hashes.as_slice() {
        if !others.is_empty() {
            page.note(&format!("a profile has one hash algorithm: {first}; left out: {}", others.join(", ")));
        }
        put!(
            page,
            "add name={} enc-algorithm={} hash-algorithm={first} dh-group={} lifetime={lifetime}s {detection} nat-traversal=yes",
            side.name,
            union(&ike, |s| &s.ciphers).join(","),
            union(&ike, |s| &s.groups).join(",")
        );
    }
    put!(page, "/ip ipsec proposal");
    let groups = union(&esp, |s| &s.groups);
    if let [first, others @ ..] = groups.as_slice()
        && !others.is_empty()
    {
        page.note(&format!("a proposal has one group for rekeys: {first}; left out: {}", others.join(", ")));
    }
    let auth = union(&esp, |s| &s.integrities);
    put!(
        page,
        "add name={} enc-algorithms={} auth-algorithms={} pfs-group={} lifetime={}s",
        side.name,
        union(&esp, |s| &s.ciphers).join(","),
        if auth.is_empty() { "null".to_owned() } else { auth.join(",") },
        groups.first().copied().unwrap_or("none"),
        seconds(side.esp_lifetime, 3600)
    );
    for tunnel in &side.tunnels {
        page.blank();
        page.say(&format!("tunnel {}", tunnel.name));
        one(&mut page, side, tunnel);
    }
    page.blank();
    page.say("before any masquerading: what goes to Culvert keeps its address");
    put!(page, "/ip firewall nat");
    for (local, remote) in side.pairs().into_iter().filter(|(local, _)| local.addr().is_ipv4()) {
        put!(
            page,
            "add chain=srcnat action=accept src-address={local} dst-address={remote} place-before=0 comment=\"Culvert {}\"",
            side.name
        );
    }
    page.finish()
}

fn string(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('?', "\\?");
    format!("\"{escaped}\"")
}

fn one(page: &mut Page, side: &Side, tunnel: &Tunnel) {
    let peer = name(side, tunnel, 60);
    let psk = page.psk(tunnel);
    let mode = match (side.version, side.aggressive) {
        (2, _) => "ike2",
        (_, true) => "aggressive",
        (_, false) => "main",
    };
    let six = tunnel.local_address.is_some_and(|address| address.is_ipv6());
    let passive = if side.start == Start::Respond { " passive=yes" } else { "" };
    let disabled = if tunnel.enabled { "" } else { " disabled=yes" };
    put!(page, "/ip ipsec peer");
    put!(
        page,
        "add name={peer} address={}/{} local-address={} exchange-mode={mode} profile={}{passive}{disabled}",
        far(tunnel),
        if six { 128 } else { 32 },
        near(tunnel),
        side.name
    );
    let id = |id: &Option<Identity>| match id {
        Some(Identity::Fqdn(id)) => format!("fqdn:{id}"),
        Some(Identity::Email(id)) => format!("user-fqdn:{id}"),
        Some(Identity::Ipv4(id)) => format!("address:{id}"),
        Some(Identity::Ipv6(id)) => format!("address:{id}"),
        Some(Identity::KeyId(id)) => format!("key-id:{}", String::from_utf8_lossy(id)),
        Some(Identity::Dn(_)) | None => "auto".to_owned(),
    };
    let remote = match id(&tunnel.remote_id) {
        auto if auto == "auto" => "ignore".to_owned(),
        id => id,
    };
    put!(page, "/ip ipsec identity");
    put!(
        page,
        "add peer={peer} auth-method=pre-shared-key secret={} my-id={} remote-id={remote}",
        string(&psk),
        id(&tunnel.local_id)
    );
    put!(page, "/ip ipsec policy");
    let level = if side.each { "unique" } else { "require" };
    for (local, remote) in side.pairs() {
        put!(
            page,
            "add peer={peer} tunnel=yes src-address={local} dst-address={remote} protocol=all action=encrypt level={level} proposal={}{}",
            side.name,
            if tunnel.weight == 0 { " disabled=yes" } else { "" }
        );
    }
}
