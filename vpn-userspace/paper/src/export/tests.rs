//! Every target, from the same configurations.

use culvert_config::Config;

use super::*;

const TWO: &str = r#"
[gateway]
wan = "eth0"
[connection.hangzhou]
local = ["192.168.0.0/24"]
remote = ["172.16.0.0/16"]
ike.proposals = ["aes256gcm16-prfsha384-ecp384", "aes256-sha256-modp2048", "chacha20poly1305-prfsha256-curve25519"]
ike.lifetime = "28000s"
esp.proposals = ["aes256gcm16-ecp384", "aes256-sha256-modp2048"]
esp.lifetime = "50m"
[connection.hangzhou.tunnel.a]
local_address = "198.51.100.20"
remote_address = "203.0.113.21"
psk_file = "a.psk"
inside = "169.254.10.2/30"
[connection.hangzhou.tunnel.b]
local_address = "198.51.100.20"
remote_address = "203.0.113.22"
local_id = "gw.example"
remote_id = "cloud@example"
psk_file = "b.psk"
inside = "169.254.10.6/30"
"#;

const OLD: &str = r#"
[gateway]
wan = "eth0"
[connection.branch]
local = ["192.168.0.0/24", "fd00:1::/64"]
remote = ["10.7.0.0/16", "fd00:2::/64"]
start = "respond"
encap = "udp"
ike.version = 1
ike.proposals = ["aes128-sha1-modp1024"]
esp.proposals = ["aes128-sha1"]
esp.pairs = "each"
[connection.branch.tunnel.a]
remote_address = "203.0.113.21"
psk_file = "a.psk"
"#;

const KEY: &[u8] = b"a?b\\c'd{e}";

fn side(text: &str) -> Side {
    let config = Config::of_text(text, KEY).unwrap();
    Side::of(&config, &config.connections[0])
}

#[test]
fn every_target_is_as_reviewed() {
    let (two, old) = (side(TWO), side(OLD));
    for target in Target::ALL {
        let all = format!(
            "{}\n======== IKEv1, with secrets\n{}",
            export(&two, target, Options::default()).text,
            export(&old, target, Options { secrets: true }).text
        );
        insta::assert_snapshot!(target.as_str(), all);
    }
}

/// No key leaves unless it is asked for, not even in notes or `Debug`.
#[test]
fn keys_stay_here_unless_asked_for() {
    let key = std::str::from_utf8(KEY).unwrap();
    for target in Target::ALL {
        let without = export(&side(TWO), target, Options::default());
        assert!(!without.text.contains(key) && !format!("{without:?}").contains(key), "{target}");
        assert!(without.text.contains("KEY-OF-TUNNEL-B"), "{target}");
        assert!(without.notes.iter().any(|note| note.contains("--with-secrets")), "{target}");
        let with = export(&side(TWO), target, Options { secrets: true });
        assert!(!with.notes.iter().any(|note| note.contains(key)) && !format!("{with:?}").contains(key));
        assert!(!with.text.contains("KEY-OF-TUNNEL"), "{target}");
    }
}

/// Every tunnel, network and inner address is there, whatever the target, and what is not is told.
#[test]
fn nothing_is_lost_without_a_word() {
    let side = side(TWO);
    for target in Target::ALL {
        let Exported { text, notes } = export(&side, target, Options::default());
        for word in ["198.51.100.20", "203.0.113.22", "172.16.0.0", "192.168.0.0", "169.254.10."] {
            let told = match (target, word) {
                // AWS knows neither address before it has them; RouterOS and the policies of H3C and Huawei have no inner ones.
                (Target::AwsJson | Target::AlibabaJson, "198.51.100.20" | "203.0.113.22") => {
                    notes.iter().any(|n| n.contains("address"))
                }
                (Target::RouterOs | Target::H3c | Target::Huawei | Target::AlibabaJson, "169.254.10.") => {
                    true
                }
                _ => text.contains(word),
            };
            assert!(told, "{target}: {word}\n{text}");
        }
        let chacha = text.contains("chacha20") || notes.iter().any(|note| note.contains("chacha20poly1305"));
        assert!(chacha, "{target}: {notes:?}");
    }
}

/// What Culvert writes for a Culvert it reads again, and that one's mirror is where it began.
#[test]
fn a_mirror_of_a_mirror_is_the_same() {
    let dynamic = TWO.replace("[gateway]", "[gateway]\nasn = 65001").replace(
        "remote = [\"172.16.0.0/16\"]",
        "remote = [\"172.16.0.0/16\"]\nrouting = \"bgp\"\nbgp.remote_asn = 64512",
    );
    assert_eq!(side(&dynamic).bgp, Some(crate::Bgp { local: 65001, remote: 64512 }));
    for text in [TWO, OLD, &dynamic] {
        let own = side(text).with_address("198.51.100.20".parse().unwrap());
        let exported = export(&own, Target::Culvert, Options { secrets: true });
        let read =
            Config::of_text(&exported.text, KEY).unwrap_or_else(|e| panic!("{e:?}\n{}", exported.text));
        let back = Side::of(&read, &read.connections[0]).mirror();
        let (mut back, mut own) = (back, own);
        // Ids that were left out are the addresses.
        for side in [&mut back, &mut own] {
            side.tunnels.iter_mut().for_each(|t| {
                t.local_id = t.local_id.take().or_else(|| t.local_address.map(Into::into));
            });
        }
        assert_eq!(back, own, "{}", exported.text);
    }
}
