//! Alibaba Cloud VPN Gateway: the parameters of CreateVpnConnection, with two tunnels.

use culvert_crypto::{DhGroup, Encryption, Integrity};
use serde_json::{Value, json};

use super::page::{Page, far, near, seconds};
use super::words::{Said, Words, numbered_groups};
use super::{Exported, Options};
use crate::side::{Side, Tunnel};

const GROUPS: fn(DhGroup) -> Option<&'static str> =
    numbered_groups!("group": Modp1024 = "2", Modp1536 = "5", Modp2048 = "14", Modp2048S256 = "24");

const WORDS: Words = Words {
    cipher: |e| match e {
        Encryption::AesCbc128 => Some("aes"),
        Encryption::AesCbc192 => Some("aes192"),
        Encryption::AesCbc256 => Some("aes256"),
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
    prf: |_| Some(""),
    group: GROUPS,
};

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("", "Alibaba Cloud", side, options);
    page.note("put the ids of your VPN gateway and customer gateway (whose address is Culvert's) in place of vpn-ID and cgw-ID");
    page.note("Alibaba Cloud chooses the public addresses of its ends: set remote_address in Culvert to what it shows afterwards");
    if side.tunnels.len() != 2 {
        page.note("Alibaba Cloud has two tunnels in each connection: this has another number of them");
    }
    let ike = WORDS.say(&mut page, &side.ike, true);
    let esp = WORDS.say(&mut page, &side.esp, false);
    let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut tunnels = Vec::new();
    for (index, tunnel) in side.tunnels.iter().take(2).enumerate() {
        tunnels.push(one(&mut page, side, tunnel, if index == 0 { "master" } else { "slave" }, (&ike, &esp)));
    }
    let all = json!({
        "Name": side.name,
        "VpnGatewayId": "vpn-ID",
        "LocalSubnet": list(&side.local),
        "RemoteSubnet": list(&side.remote),
        "AutoConfigRoute": true,
        "EffectImmediately": true,
        "EnableTunnelsBgp": side.bgp.is_some(),
        "TunnelOptionsSpecification": tunnels,
    });
    page.plain(format!("{all:#}\n"))
}

/// One of each is all that it takes.
fn first(page: &mut Page, what: &str, words: impl Iterator<Item = &'static str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for word in words {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    if let [first, _, ..] = all.as_slice() {
        page.note(&format!("Alibaba Cloud takes one {what}: {first}"));
    }
    all.first().copied().unwrap_or_default().to_owned()
}

fn one(page: &mut Page, side: &Side, tunnel: &Tunnel, role: &str, (ike, esp): (&[Said], &[Said])) -> Value {
    let psk = page.psk(tunnel);
    if let Some(psk) = &tunnel.psk
        && let Err(why) = culvert_config::PskRules::Alibaba.check(psk.as_bytes())
    {
        page.note(&format!("Alibaba Cloud will refuse the key of tunnel {}: {why}", tunnel.name));
    }
    let id = |id: &Option<culvert_ike::Identity>, address: String| match id {
        Some(id) => id.to_string(),
        None => address,
    };
    let mut group = first(page, "group for rekeys", esp.iter().flat_map(|s| s.groups.iter().copied()));
    if group.is_empty() {
        "disabled".clone_into(&mut group);
    }
    let mut about = json!({
        "Role": role,
        "CustomerGatewayId": "cgw-ID",
        "EnableDpd": side.dpd.is_some(),
        "EnableNatTraversal": true,
        "TunnelIkeConfig": {
            "IkeVersion": format!("ikev{}", side.version),
            "IkeMode": if side.aggressive { "aggressive" } else { "main" },
            "IkeEncAlg": first(page, "cipher for IKE", ike.iter().flat_map(|s| s.ciphers.iter().copied())),
            "IkeAuthAlg": first(page, "hash for IKE", ike.iter().flat_map(|s| s.integrities.iter().copied())),
            "IkePfs": first(page, "group for IKE", ike.iter().flat_map(|s| s.groups.iter().copied())),
            "IkeLifetime": seconds(side.ike_lifetime, 86_400).min(86_400),
            "Psk": psk,
            "LocalId": id(&tunnel.local_id, near(tunnel)),
            "RemoteId": id(&tunnel.remote_id, far(tunnel)),
        },
        "TunnelIpsecConfig": {
            "IpsecEncAlg": first(page, "cipher for ESP", esp.iter().flat_map(|s| s.ciphers.iter().copied())),
            "IpsecAuthAlg": first(page, "hash for ESP", esp.iter().flat_map(|s| s.integrities.iter().copied())),
            "IpsecPfs": group,
            "IpsecLifetime": seconds(side.esp_lifetime, 86_400).min(86_400),
        },
    });
    if let (Some(bgp), Some(net)) = (side.bgp, tunnel.inside.iter().find(|net| net.addr().is_ipv4())) {
        about["TunnelBgpConfig"] = json!({
            "LocalAsn": bgp.local,
            "LocalBgpIp": net.addr().to_string(),
            "TunnelCidr": net.trunc().to_string(),
        });
    }
    about
}
