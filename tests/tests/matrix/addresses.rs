//! Address families inside and outside, encapsulation.

use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "addresses";

pub(crate) fn rows() -> Vec<Cell> {
    let gcm = |name: &str| Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    let chacha =
        |name: &str| Cell::new(THEME, name, "chacha20poly1305-prfsha256-curve25519", "chacha20poly1305");
    vec![
        gcm("encapsulation_forced_by_culvert_alone")
            .case(|case| {
                case.swan_encap = false;
                case.culvert_encap = "udp".into();
            })
            .unable(Role::Responds, "strongSwan's user-space ESP forces it as initiator by itself"),
        gcm("ipv6_outside").case(|case| case.ipv6_outside = true),
        Cell::new(THEME, "ipv6_outside_cbc", "aes256-sha256-ecp256", "aes256-sha256")
            .case(|case| case.ipv6_outside = true),
        gcm("ipv6_inside_beside_ipv4").case(|case| case.ipv6_inside = true),
        chacha("ipv6_inside_and_outside").case(|case| {
            case.ipv6_inside = true;
            case.ipv6_outside = true;
        }),
    ]
}
