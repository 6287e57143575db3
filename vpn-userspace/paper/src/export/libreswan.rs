//! Libreswan: ipsec.conf with a conn for each tunnel, and ipsec.secrets.

use culvert_config::{DpdAction, Start};
use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::Identity;

use super::page::{Page, dpd, name, number, put, seconds};
use super::words::{Said, Words, numbered_groups};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("dh": Modp1536 = "5", Modp2048 = "14",
    Modp3072 = "15", Modp4096 = "16", Modp6144 = "17", Modp8192 = "18", Ecp256 = "19", Ecp384 = "20", Ecp521 = "21",
    Curve25519 = "31");

const WORDS: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes128"),
        Encryption::AesCbc192 => Some("aes192"),
        Encryption::AesCbc256 => Some("aes256"),
        Encryption::AesGcm128 => Some("aes_gcm128"),
        Encryption::AesGcm192 => Some("aes_gcm192"),
        Encryption::AesGcm256 => Some("aes_gcm256"),
        Encryption::ChaCha20Poly1305 => Some("chacha20_poly1305"),
        Encryption::TripleDes => Some("3des"),
        _ => None,
    },
    integrity: |i| match i {
        Integrity::HmacMd5_96 => Some("md5"),
        Integrity::HmacSha1_96 => Some("sha1"),
        Integrity::HmacSha256_128 => Some("sha2_256"),
        Integrity::HmacSha384_192 => Some("sha2_384"),
        Integrity::HmacSha512_256 => Some("sha2_512"),
        _ => None,
    },
    prf: |p| match p {
        Prf::HmacMd5 => Some("md5"),
        Prf::HmacSha1 => Some("sha1"),
        Prf::HmacSha256 => Some("sha2_256"),
        Prf::HmacSha384 => Some("sha2_384"),
        Prf::HmacSha512 => Some("sha2_512"),
        _ => None,
    },
    group: GROUPS,
};

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "Libreswan", side, options);
    let ike = WORDS.say(&mut page, &side.ike, true);
    let esp = WORDS.say(&mut page, &side.esp, false);
    page.say(&format!("Save this part as /etc/ipsec.d/{}.conf, and the keys at the end as /etc/ipsec.d/{}.secrets, mode 600.", side.name, side.name));
    for (index, tunnel) in side.tunnels.iter().enumerate() {
        conn(&mut page, side, tunnel, index, (&algorithms(&ike, true), &algorithms(&esp, false)));
    }
    page.blank();
    page.say(&format!("--- /etc/ipsec.d/{}.secrets", side.name));
    for tunnel in side.tunnels.iter().filter(|tunnel| tunnel.proof.is_none()) {
        let psk = page.psk(tunnel);
        if psk.contains('"') && psk.contains('\'') {
            page.note("a key with both kinds of quotes cannot be said in ipsec.secrets: choose another");
        }
        let quote = if psk.contains('"') { '\'' } else { '"' };
        put!(page, "{} {} : PSK {quote}{psk}{quote}", own_id(tunnel), far_id(tunnel));
    }
    page.finish()
}

fn algorithms(said: &[Said], ike: bool) -> String {
    let mut all: Vec<String> = Vec::new();
    for one in said {
        let hashes: Vec<&str> = match (one.aead, ike) {
            (true, true) => one.prfs.clone(),
            (true, false) => Vec::new(),
            (false, _) => one.integrities.clone(),
        };
        let groups = if one.groups.is_empty() { String::new() } else { format!(";{}", one.groups.join("+")) };
        let hashes = if hashes.is_empty() { String::new() } else { format!("-{}", hashes.join("+")) };
        all.push(format!("{}{hashes}{groups}", one.ciphers.join("+")));
    }
    all.join(",")
}

fn own_id(tunnel: &Tunnel) -> String {
    tunnel
        .local_id
        .as_ref()
        .map(id)
        .or_else(|| tunnel.local_address.map(|a| a.to_string()))
        .unwrap_or_else(|| "%any".into())
}

fn far_id(tunnel: &Tunnel) -> String {
    tunnel.remote_id.as_ref().map(id).unwrap_or_else(|| "%any".into())
}

fn id(id: &Identity) -> String {
    match id {
        Identity::Fqdn(name) => format!("@{name}"),
        Identity::KeyId(key) => format!("@#{}", key.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        Identity::Dn(name) => format!("\"{name}\""),
        other => other.to_string(),
    }
}

fn conn(page: &mut Page, side: &Side, tunnel: &Tunnel, index: usize, (ike, esp): (&str, &str)) {
    page.blank();
    put!(page, "conn {}", name(side, tunnel, 60));
    put!(page, "    ikev2={}", if side.version == 2 { "insist" } else { "no" });
    if side.version == 1 && side.aggressive {
        put!(page, "    aggressive=yes");
    }
    match tunnel.proof {
        None => put!(page, "    authby=secret"),
        Some(_) => page.say("    how the ends prove themselves goes here"),
    }
    put!(page, "    left={}", tunnel.local_address.map_or_else(|| "%defaultroute".into(), |a| a.to_string()));
    put!(page, "    leftid={}", own_id(tunnel));
    put!(
        page,
        "    right={}",
        if tunnel.remote_address.is_any() { "%any".into() } else { tunnel.remote_address.to_string() }
    );
    put!(page, "    rightid={}", far_id(tunnel));
    let many = side.tunnels.len() > 1;
    if many || side.bgp.is_some() {
        // Routes decide between tunnels for the same networks.
        let interface = number(index);
        put!(page, "    ipsec-interface={interface}");
        for net in &tunnel.inside {
            put!(page, "    interface-ip={net}");
        }
    }
    if side.bgp.is_some() {
        put!(page, "    leftsubnet=0.0.0.0/0");
        put!(page, "    rightsubnet=0.0.0.0/0");
        page.note("BGP is left to a daemon such as FRR over the ipsec interfaces");
    } else {
        for (key, nets) in [("left", &side.local), ("right", &side.remote)] {
            match nets.as_slice() {
                [one] => put!(page, "    {key}subnet={one}"),
                many => {
                    let list: Vec<String> = many.iter().map(ToString::to_string).collect();
                    put!(page, "    {key}subnets={{{}}}", list.join(" "));
                }
            }
        }
        if side.pairs().len() > 1 && !side.each {
            page.note(
                "Libreswan negotiates each pair of networks by itself: set esp.pairs = \"each\" in Culvert",
            );
        }
    }
    put!(page, "    ike={ike}");
    put!(page, "    esp={esp}");
    let pfs = if side.esp.iter().any(|offer| !offer.groups.is_empty()) { "yes" } else { "no" };
    put!(page, "    pfs={pfs}");
    put!(page, "    ikelifetime={}s", seconds(side.ike_lifetime, 28_800));
    put!(page, "    salifetime={}s", seconds(side.esp_lifetime, 3600));
    if let Some(detection) = &side.dpd {
        let (interval, tries) = dpd(detection);
        put!(page, "    dpddelay={interval}s");
        if side.version == 1 {
            put!(page, "    dpdtimeout={}s", interval * tries);
        }
        let action = match detection.action {
            DpdAction::Hold => "hold",
            DpdAction::Restart if side.start == Start::Immediate => "restart",
            DpdAction::Clear | DpdAction::Restart => "clear",
        };
        if side.version == 1 {
            put!(page, "    dpdaction={action}");
        }
    }
    if side.udp {
        put!(page, "    encapsulation=yes");
    }
    if let Some(mtu) = side.mtu {
        put!(page, "    mtu={mtu}");
    }
    let auto = match side.start {
        _ if !tunnel.enabled => "ignore",
        Start::Immediate => "start",
        Start::OnTraffic => "ondemand",
        Start::Respond => "add",
    };
    put!(page, "    auto={auto}");
}
