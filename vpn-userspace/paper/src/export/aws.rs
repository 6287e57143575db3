//! AWS Site-to-Site VPN: what `aws ec2 create-vpn-connection --cli-input-json` takes.

use culvert_config::Start;
use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use serde_json::{Map, Value, json};

use super::page::{Page, seconds};
use super::words::{Said, Words, numbered_groups};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> = numbered_groups!("": Modp1024 = "2", Modp1536 = "5", Modp2048 = "14",
    Modp3072 = "15", Modp4096 = "16", Modp6144 = "17", Modp8192 = "18", Ecp256 = "19", Ecp384 = "20", Ecp521 = "21",
    Modp1024S160 = "22", Modp2048S224 = "23", Modp2048S256 = "24");

const WORDS: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("AES128"),
        Encryption::AesCbc256 => Some("AES256"),
        Encryption::AesGcm128 => Some("AES128-GCM-16"),
        Encryption::AesGcm256 => Some("AES256-GCM-16"),
        _ => None,
    },
    integrity: |i| match i {
        Integrity::HmacSha1_96 => Some("SHA1"),
        Integrity::HmacSha256_128 => Some("SHA2-256"),
        Integrity::HmacSha384_192 => Some("SHA2-384"),
        Integrity::HmacSha512_256 => Some("SHA2-512"),
        _ => None,
    },
    prf: |p| match p {
        Prf::HmacSha1 => Some("SHA1"),
        Prf::HmacSha256 => Some("SHA2-256"),
        Prf::HmacSha384 => Some("SHA2-384"),
        Prf::HmacSha512 => Some("SHA2-512"),
        _ => None,
    },
    group: GROUPS,
};

/// The clouds say a list of words as a list of objects.
fn values(said: &[Said], of: impl Fn(&Said) -> Vec<&'static str>, number: bool) -> Value {
    let mut all: Vec<&str> = Vec::new();
    for word in said.iter().flat_map(of) {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    all.iter()
        .map(|word| match word.parse::<u64>() {
            Ok(n) if number => json!({ "Value": n }),
            _ => json!({ "Value": word }),
        })
        .collect()
}

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("", "AWS", side, options);
    page.note("put the ids of your customer gateway (whose address is Culvert's) and of the virtual private gateway or transit gateway in place of cgw-ID and vgw-ID");
    page.note("AWS chooses the public addresses of its ends: set remote_address in Culvert to what it shows afterwards");
    if side.tunnels.len() != 2 {
        page.note("AWS has two tunnels in each connection: this has another number of them");
    }
    let ike = WORDS.say(&mut page, &side.ike, true);
    let esp = WORDS.say(&mut page, &side.esp, false);
    let tunnels: Vec<Value> =
        side.tunnels.iter().take(2).map(|tunnel| one(&mut page, side, tunnel, &ike, &esp)).collect();
    let mut about = json!({
        "StaticRoutesOnly": side.bgp.is_none(),
        "TunnelOptions": tunnels,
    });
    // It has one of each: several networks are between any and any.
    for (key, nets) in [("LocalIpv4NetworkCidr", &side.remote), ("RemoteIpv4NetworkCidr", &side.local)] {
        let v4: Vec<_> = nets.iter().filter(|net| net.addr().is_ipv4()).collect();
        let cidr = match v4.as_slice() {
            [one] if side.bgp.is_none() => one.to_string(),
            _ => "0.0.0.0/0".to_owned(),
        };
        about[key] = Value::String(cidr);
    }
    if side.remote.iter().any(|net| net.addr().is_ipv6()) {
        page.note("IPv6 inside needs a connection of its own at AWS (TunnelInsideIpVersion): it is left out");
    }
    for net in &side.remote {
        if side.bgp.is_none() {
            page.note(&format!(
                "afterwards: aws ec2 create-vpn-connection-route --vpn-connection-id ID --destination-cidr-block {net}"
            ));
        }
    }
    if let Some(bgp) = side.bgp {
        page.note(&format!(
            "the customer gateway needs BgpAsn {} and the virtual private gateway AmazonSideAsn {}",
            bgp.remote, bgp.local
        ));
    }
    let all = json!({
        "Type": "ipsec.1",
        "CustomerGatewayId": "cgw-ID",
        "VpnGatewayId": "vgw-ID",
        "Options": about,
    });
    page.plain(format!("{all:#}\n"))
}

fn one(page: &mut Page, side: &Side, tunnel: &Tunnel, ike: &[Said], esp: &[Said]) -> Value {
    let mut about = Map::new();
    let mut put = |key: &str, value: Value| about.insert(key.to_owned(), value);
    if let Some(net) = tunnel.inside.iter().find(|net| net.addr().is_ipv4()) {
        put("TunnelInsideCidr", json!(net.trunc().to_string()));
        if net.prefix_len() != 30 || !net.trunc().to_string().starts_with("169.254.") {
            page.note("AWS takes inside networks of 169.254.0.0/16 with 30 bits alone");
        }
    }
    put("PreSharedKey", json!(page.psk(tunnel)));
    if let Some(psk) = &tunnel.psk
        && let Err(why) = culvert_config::PskRules::Aws.check(psk.as_bytes())
    {
        page.note(&format!("AWS will refuse the key of tunnel {}: {why}", tunnel.name));
    }
    // Its own go on a little longer than Culvert's, which rekeys first.
    let longer = |seconds: u64, most: u64| (seconds + seconds / 35).clamp(900, most);
    let phase1 = longer(seconds(side.ike_lifetime, 28_000), 28_800);
    put("Phase1LifetimeSeconds", json!(phase1));
    put("Phase2LifetimeSeconds", json!(longer(seconds(side.esp_lifetime, 3000), 3600).min(phase1)));
    for (phase, said) in [("Phase1", ike), ("Phase2", esp)] {
        put(&format!("{phase}EncryptionAlgorithms"), values(said, |s| s.ciphers.clone(), false));
        // Beside AEADs it is the PRF.
        let hash = |s: &'_ Said| if s.aead { s.prfs.clone() } else { s.integrities.clone() };
        let mut integrity = values(said, hash, false);
        if integrity.as_array().is_some_and(Vec::is_empty) {
            integrity = json!([{ "Value": "SHA2-256" }, { "Value": "SHA2-384" }, { "Value": "SHA2-512" }]);
        }
        put(&format!("{phase}IntegrityAlgorithms"), integrity);
        put(&format!("{phase}DHGroupNumbers"), values(said, |s| s.groups.clone(), true));
    }
    put("IKEVersions", json!([{ "Value": format!("ikev{}", side.version) }]));
    let begin = if side.start == Start::Immediate { "start" } else { "add" };
    put("StartupAction", json!(begin));
    if let Some(dpd) = &side.dpd {
        put("DPDTimeoutSeconds", json!(dpd.timeout.as_secs().max(30)));
        put("DPDTimeoutAction", json!(if begin == "start" { "restart" } else { "clear" }));
    }
    Value::Object(about)
}
