//! Every suite and group, without a NAT and behind one.

use culvert_tests::matrix::Cell;

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

pub(crate) fn rows() -> Vec<Cell> {
    let mut rows = Vec::new();
    for (name, ike, esp) in SUITES {
        let cell = |name: &str| Cell::new(THEME, name, ike, esp);
        rows.push(cell(name).bulk());
        rows.push(cell(&format!("{name}_nat")).behind_nat());
    }
    rows
}
