//! What cannot work, and what Culvert says of it.

use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "failures";

pub(crate) fn rows() -> Vec<Cell> {
    let cell = |name: &str| Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    vec![
        cell("wrong_psk")
            .theirs("/secrets.ike-site.secret", "another secret altogether")
            .fails(&["IKE_AUTH", "pre-shared key"]),
        cell("wrong_id_of_the_peer")
            .theirs("local.id", "somebody.else.test")
            .fails(&["IKE_AUTH", "remote id"])
            .says(Role::Initiates, &["AUTHENTICATION_FAILED"])
            .says(Role::Responds, &["somebody.else.test"]),
        cell("no_common_ike_proposal").theirs("proposals", "aes256-sha512-modp3072").fails(&["propos"]),
        cell("no_common_esp_proposal")
            .theirs("children.net.esp_proposals", "aes256-sha512")
            .fails(&["CHILD SA", "propos"]),
        cell("no_common_selectors")
            .by_role(|case, role| {
                let theirs = if role == Role::Initiates { "10.7.0.0/24" } else { "10.8.0.0/24" };
                case.theirs.push(("children.net.local_ts".into(), theirs.into()));
            })
            .fails(&["CHILD SA", "selectors"]),
    ]
}
