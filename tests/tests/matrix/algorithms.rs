//! Every algorithm: the usual suites without a NAT and behind one, and all others packed into few handshakes.

use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "algorithms";

/// Name, IKE proposal, ESP proposal.
const SUITES: [(&str, &str, &str); 7] = [
    ("aes128gcm16_ecp256", "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"),
    ("aes256gcm16_ecp384", "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
    ("chacha20poly1305_curve25519", "chacha20poly1305-prfsha256-curve25519", "chacha20poly1305-curve25519"),
    ("aes128_sha1_modp2048", "aes128-sha1-modp2048", "aes128-sha1-modp2048"),
    ("aes256_sha256_ecp256", "aes256-sha256-ecp256", "aes256-sha256-ecp256"),
    ("aes256_sha384_modp2048", "aes256-sha384-modp2048", "aes256-sha384-modp2048"),
    ("aes256_sha512_curve25519", "aes256-sha512-curve25519", "aes256-sha512-curve25519"),
];

/// The rest: each cipher, integrity algorithm, PRF and group at least once.
const OTHERS: [(&str, &str, &str); 14] = [
    ("aes192_aesxcbc_modp3072", "aes192-aesxcbc-modp3072", "aes192-aesxcbc-modp3072"),
    ("aes128_aescmac_modp4096", "aes128-aescmac-modp4096", "aes128-aescmac-modp4096"),
    ("3des_md5_modp1024", "3des-md5-modp1024", "3des-md5-modp1024"),
    ("3des_sha1_modp1536", "3des-sha1-modp1536", "3des-sha1-modp1536"),
    ("aes128ctr_modp6144", "aes128ctr-sha256-modp6144", "aes128ctr-sha256-ecp256"),
    ("aes256ctr_modp8192", "aes256ctr-sha512-modp8192", "aes256ctr-sha512-ecp384"),
    ("aes128ccm16_modp1024s160", "aes128ccm16-prfaesxcbc-modp1024s160", "aes128ccm16-modp1024s160"),
    ("aes192ccm12_modp2048s224", "aes192ccm12-prfaescmac-modp2048s224", "aes192ccm12-modp2048s224"),
    ("aes256ccm8_modp2048s256", "aes256ccm8-prfmd5-modp2048s256", "aes256ccm8-modp2048s256"),
    ("aes128gcm8_ecp521", "aes128gcm8-prfsha512-ecp521", "aes128gcm8-ecp521"),
    ("aes192gcm12_ecp256", "aes192gcm12-prfsha1-ecp256", "aes192gcm12"),
    ("aes192gcm16_ecp384", "aes192gcm16-prfsha384-ecp384", "aes192gcm16-ecp384"),
    ("aes192ctr_curve25519", "aes192ctr-aesxcbc-curve25519", "aes192ctr-aesxcbc-curve25519"),
    ("aes256ccm16_curve25519", "aes256ccm16-prfsha256-curve25519", "aes256gcm8"),
];

pub(crate) fn rows() -> Vec<Cell> {
    let mut rows = Vec::new();
    for (name, ike, esp) in OTHERS {
        rows.push(Cell::new(THEME, &format!("b2_{name}"), ike, esp));
    }
    let why = "strongSwan's ESP in user space has no GMAC; not tested with kernel ESP, no virtual machine runs this row";
    let cell = Cell::new(THEME, "aes256gmac", "aes256gcm16-prfsha384-ecp384", "aes256gmac");
    rows.push(cell.unable(Role::Initiates, why).unable(Role::Responds, why));
    let why = "strongSwan has ML-KEM since 6.0; between two Culverts it is tested on virtual time";
    let cell = Cell::new(THEME, "mlkem768", "aes256gcm16-prfsha384-mlkem768", "aes256gcm16");
    rows.push(cell.unable(Role::Initiates, why).unable(Role::Responds, why));
    // strongSwan has additional key exchanges (RFC 9370) since 6.0: offered with and without, it takes without. Two
    // Culverts agree on them in twins.rs.
    let hybrid = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768";
    let plain = "aes256gcm16-prfsha384-curve25519";
    let cell = Cell::new(THEME, "hybrid_falls_back", plain, "aes256gcm16-curve25519")
        .ours("ike.proposals", &format!("[\"{hybrid}\", \"{plain}\"]"))
        .ours("esp.proposals", "[\"aes256gcm16-curve25519-ke1_mlkem768-ke1_none\"]")
        .then("Culvert rekeys the IKE SA", |pair| pair.culvert.rekey_ike())
        .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child())
        .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"));
    rows.push(cell);
    for (name, ike, esp) in SUITES {
        let cell = |name: &str| Cell::new(THEME, name, ike, esp);
        rows.push(cell(&format!("b2_{name}")).bulk());
        rows.push(cell(&format!("b1_b2_{name}_nat")).behind_nat());
    }
    rows
}
