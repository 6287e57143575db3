//! Writes the seed corpora: `cargo xtask fuzz --seeds`. From real conversations, the example configuration, and the
//! packets of the classifier's own tests.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::PathBuf;

use culvert_ebpf_shared::testing;

fn main() -> std::io::Result<()> {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut seeds = culvert_ike::fuzzing::seeds();
    let (a, b) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let (a6, b6) = ("2001:db8::1".parse().expect("an address"), "2001:db8::2".parse().expect("an address"));
    for (from, to) in [(a, b), (a6, b6)] {
        for payload in
            [testing::esp(0x1000, 1, 64), testing::ike(80), testing::marked(&testing::ike(80)), vec![0xff]]
        {
            for ports in [(500, 500), (4500, 4500), (53, 53)] {
                let packet = testing::udp(from, to, ports, &payload);
                let frame = testing::ethernet([2; 6], [4; 6], &[], &testing::ip(from, to, 17, &packet));
                seeds.push(("classifier", frame));
                seeds.push(("esp_packet", testing::ip(from, to, 17, &packet)));
            }
        }
        let esp = testing::ip(from, to, 50, &testing::esp(0x1000, 1, 64));
        seeds.push(("classifier", testing::ethernet([2; 6], [4; 6], &[7, 9], &esp)));
        let inner = testing::ip(from, to, 17, &testing::udp(from, to, (7, 7), b"hello"));
        for choice in 0..64_u8 {
            let next = if from == a { 4 } else { 41 };
            seeds.push(("esp_open", [&[choice], inner.as_slice(), &[1, 2, 2, next]].concat()));
        }
    }
    for section in include_str!("../../../../scripts/culvert.toml").split("\n\n") {
        seeds.push(("config_file", format!("[gateway]\nwan = \"eth0\"\n{section}\n").into_bytes()));
    }
    seeds.push(("config_file", include_bytes!("../../../../scripts/culvert.toml").to_vec()));
    for line in [
        r#"{"version":1,"request":"status"}"#,
        r#"{"version":1,"request":"up","target":"site/a"}"#,
        r#"{"version":1,"request":"logs","follow":true}"#,
    ] {
        seeds.push(("api_request", line.as_bytes().to_vec()));
    }
    seeds.push(("api_response", br#"{"response":"done","message":"up"}"#.to_vec()));
    seeds.push((
        "api_response",
        br#"{"response":"error","code":"internal","message":"m","mend":"n"}"#.to_vec(),
    ));
    for key in KEYS {
        seeds.push(("keys", key.to_vec()));
    }
    for seed in culvert_fuzz::engine_seeds() {
        seeds.push(("esp_engines", seed));
    }
    for seed in culvert_fuzz::eap_seeds() {
        seeds.push(("eap", seed));
    }
    for file in [CERTIFICATE, AUTHORITY] {
        seeds.push(("certificates", file.to_vec()));
        let (_, block) = culvert_pki::blocks(file).next().expect("a certificate");
        seeds.push(("certificates", culvert_pki::decode(block).expect("base 64")));
    }
    seeds.push(("certificates", [CERTIFICATE, AUTHORITY].concat()));
    seeds.push(("certificates", culvert_fuzz::revocation_list()));
    for (target, seed) in seeds {
        let directory = corpora.join(target);
        std::fs::create_dir_all(&directory)?;
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        std::fs::write(directory.join(format!("{:016x}", hasher.finish())), seed)?;
    }
    Ok(())
}

/// Of the configuration's tests.
const CERTIFICATE: &[u8] = include_bytes!("../../../../vpn-userspace/config/tests/pki/gw.pem");
const AUTHORITY: &[u8] = include_bytes!("../../../../vpn-userspace/config/tests/pki/ca.pem");

/// Shapes of keys: an Ed25519 private key of zeros, and public keys of an EC point and of RSA with a tiny modulus.
const KEYS: [&[u8]; 3] = [
    &[
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ],
    &[
        0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
        9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
    ],
    &[
        0x30, 0x1c, 0x30, 0xd, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0xd, 1, 1, 1, 5, 0, 3, 0xb, 0, 0x30, 8, 2,
        3, 1, 0, 1, 2, 1, 3,
    ],
];
