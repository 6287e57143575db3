//! IKEv1.

use anyhow::{Result, ensure};
use culvert_tests::Pair;
use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "v1";

fn cell(name: &str, ike: &str, esp: &str) -> Cell {
    Cell::new(THEME, name, ike, esp)
        .ours("ike.version", "1")
        .theirs("version", "1")
        // Otherwise strongSwan leaves what it rekeyed to its lifetime.
        .charon("delete_rekeyed", "yes")
}

fn log_has(pair: &Pair, words: &str) -> Result<()> {
    ensure!(pair.swan.log().contains(words), "strongSwan never said \"{words}\"");
    Ok(())
}

pub(crate) fn rows() -> Vec<Cell> {
    let plain = |name: &str| cell(name, "aes256-sha256-modp2048", "aes256-sha256-modp2048");
    vec![
        plain("main_mode")
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child())
            .then("Culvert replaces phase 1", |pair| pair.culvert.rekey_ike()),
        cell("main_mode_sha1_without_pfs", "aes128-sha1-modp2048", "aes128-sha1"),
        cell("main_mode_ecp_gcm", "aes256-sha384-ecp384", "aes256gcm16-ecp384"),
        cell("main_mode_curve25519_gcm", "aes128-sha512-curve25519", "aes128gcm16-curve25519"),
        plain("behind_nat").behind_nat(),
        plain("aggressive_mode")
            .ours("ike.mode", "\"aggressive\"")
            .theirs("aggressive", "yes")
            .charon("i_dont_care_about_security_and_use_aggressive_mode_psk", "yes")
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child())
            .then("Culvert replaces phase 1", |pair| pair.culvert.rekey_ike()),
        plain("aggressive_mode_behind_nat")
            .behind_nat()
            .ours("ike.mode", "\"aggressive\"")
            .theirs("aggressive", "yes")
            .charon("i_dont_care_about_security_and_use_aggressive_mode_psk", "yes"),
        plain("ipv6_outside").case(|case| case.ipv6_outside = true),
        // In one role Culvert asks, in the other strongSwan: who asks first spares the other one the question.
        plain("liveness")
            .by_role(|case, role| match role {
                Role::Initiates => case.ours.push(("dpd.interval".into(), "\"1s\"".into())),
                Role::Responds => case.theirs.push(("dpd_delay".into(), "1s".into())),
            })
            .then("it is asked and answered", |pair| {
                std::thread::sleep(std::time::Duration::from_secs(3));
                let asks = if pair.case.culvert_at_a() { "N(DPD) ]" } else { "sending DPD request" };
                log_has(pair, asks)?;
                log_has(pair, "DPD_ACK")
            }),
        plain("xauth_client")
            .our_file("secrets/joe.pass", "sesame street")
            .ours("tunnel.a.xauth_user", "\"joe\"")
            .ours("tunnel.a.xauth_password_file", "\"secrets/joe.pass\"")
            .theirs("remote-xauth.auth", "xauth")
            .theirs("/secrets.xauth-joe.id", "joe")
            .theirs("/secrets.xauth-joe.secret", "sesame street")
            .unable(
                Role::Initiates,
                "known fault of ours: our quick mode leaves before our acknowledgement of XAuth, and strongSwan ignores it",
            )
            .unable(Role::Responds, "in XAuth the side that calls is the one that is asked")
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child()),
        plain("xauth_wrong_password")
            .our_file("secrets/joe.pass", "open sesame")
            .ours("tunnel.a.xauth_user", "\"joe\"")
            .ours("tunnel.a.xauth_password_file", "\"secrets/joe.pass\"")
            .theirs("remote-xauth.auth", "xauth")
            .theirs("/secrets.xauth-joe.id", "joe")
            .theirs("/secrets.xauth-joe.secret", "sesame street")
            .unable(Role::Responds, "in XAuth the side that calls is the one that is asked")
            .fails(&["XAuth failed", "refused our user"]),
        plain("wrong_psk")
            .theirs("/secrets.ike-site.secret", "another secret altogether")
            .fails(&["main mode failed", "pre-shared key"]),
        plain("wrong_id_of_the_peer")
            .theirs("local.id", "somebody.else.test")
            .fails(&["main mode failed"])
            .says(Role::Responds, &["somebody.else.test"]),
        plain("no_common_ike_proposal")
            .theirs("proposals", "aes128-sha512-modp3072")
            .fails(&["main mode", "propos"]),
        plain("no_common_esp_proposal")
            .theirs("children.net.esp_proposals", "aes128-sha512-modp2048")
            .fails(&["quick mode", "propos"]),
        plain("no_common_networks")
            .by_role(|case, role| {
                let theirs = if role == Role::Initiates { "10.7.0.0/24" } else { "10.8.0.0/24" };
                case.theirs.push(("children.net.local_ts".into(), theirs.into()));
            })
            .fails(&["quick mode", "networks"]),
    ]
}
