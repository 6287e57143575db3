//! IKEv1.

use anyhow::{Result, ensure};
use culvert_lab::topology::{HOST_A, HOST_A_TOO, HOST_B, HOST_B_TOO, LAN_A, LAN_A_TOO, LAN_B, LAN_B_TOO};
use culvert_tests::matrix::{Cell, Role};
use culvert_tests::{Initiator, Pair};

use crate::addresses::with_virtual_address;

const THEME: &str = "v1";

fn cell(name: &str, ike: &str, esp: &str) -> Cell {
    Cell::new(THEME, name, ike, esp)
        .ours("ike.version", "1")
        .theirs("version", "1")
        // Otherwise strongSwan leaves what it rekeyed to its lifetime.
        .charon("delete_rekeyed", "yes")
}

pub(crate) fn plain(name: &str) -> Cell {
    cell(name, "aes256-sha256-modp2048", "aes256-sha256-modp2048")
}

fn log_has(pair: &Pair, words: &str) -> Result<()> {
    ensure!(pair.swan.log().contains(words), "strongSwan never said \"{words}\"");
    Ok(())
}

pub(crate) fn aggressive(cell: Cell) -> Cell {
    cell.ours("ike.mode", "\"aggressive\"")
        .theirs("aggressive", "yes")
        .charon("i_dont_care_about_security_and_use_aggressive_mode_psk", "yes")
}

/// Who calls is asked for a user's name and password: joe's is "sesame street".
pub(crate) fn xauth(cell: Cell, password: &'static str) -> Cell {
    cell.by_role(move |case, role| {
        let mut theirs = |key: &str, value: &str| case.theirs.push((key.into(), value.into()));
        theirs("/secrets.xauth-joe.id", "joe");
        match role {
            Role::Initiates => {
                theirs("remote-xauth.auth", "xauth");
                theirs("/secrets.xauth-joe.secret", "sesame street");
                case.ours.push(("tunnel.a.xauth_user".into(), "\"joe\"".into()));
                case.ours.push(("tunnel.a.xauth_password_file".into(), "\"joe.pass\"".into()));
                case.our_files.push(("joe.pass".into(), password.into()));
            }
            Role::Responds => {
                theirs("local-xauth.auth", "xauth");
                theirs("local-xauth.xauth_id", "joe");
                theirs("/secrets.xauth-joe.secret", password);
                case.ours.push(("tunnel.a.users_file".into(), "\"users\"".into()));
                case.our_files.push(("users".into(), b"jane:other\njoe:sesame street\n".to_vec()));
            }
        }
    })
}

/// Two networks behind either gateway, each with one of the other's: a quick mode for each pair.
fn several_children(cell: Cell) -> Cell {
    cell.by_role(|case, role| {
        let ((a, a_too), (b, b_too)) = ((LAN_A, LAN_A_TOO), (LAN_B, LAN_B_TOO));
        let initiates = role == Role::Initiates;
        let (ours, theirs) = if initiates { ([a, a_too], [b, b_too]) } else { ([b, b_too], [a, a_too]) };
        case.ours.push(("local".into(), format!("[\"{}\"]", ours.join("\", \""))));
        case.ours.push(("remote".into(), format!("[\"{}\"]", theirs.join("\", \""))));
        for (n, (theirs, ours)) in theirs.into_iter().flat_map(|t| ours.map(|o| (t, o))).enumerate() {
            let child = if n == 0 { "net".to_owned() } else { format!("net{n}") };
            for (key, value) in
                [("local_ts", theirs), ("remote_ts", ours), ("esp_proposals", "aes256-sha256-modp2048")]
            {
                case.theirs.push((format!("children.{child}.{key}"), value.to_owned()));
            }
        }
    })
    .children(4, &[(HOST_A, HOST_B_TOO), (HOST_A_TOO, HOST_B), (HOST_A_TOO, HOST_B_TOO)])
    .unable(Role::Responds, "the lab initiates one child of strongSwan's")
}

pub(crate) fn rows() -> Vec<Cell> {
    vec![
        plain("b1_main_mode")
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child())
            .then("Culvert replaces phase 1", |pair| pair.culvert.rekey_ike()),
        cell("main_mode_sha1_without_pfs", "aes128-sha1-modp2048", "aes128-sha1"),
        cell("main_mode_ecp_gcm", "aes256-sha384-ecp384", "aes256gcm16-ecp384"),
        cell("main_mode_curve25519_gcm", "aes128-sha512-curve25519", "aes128gcm16-curve25519"),
        plain("b1_behind_nat").behind_nat(),
        aggressive(plain("aggressive_mode"))
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child())
            .then("Culvert replaces phase 1", |pair| pair.culvert.rekey_ike()),
        aggressive(plain("aggressive_mode_behind_nat")).behind_nat(),
        plain("ipv6_outside").case(|case| case.ipv6_outside = true),
        // In one role Culvert asks, in the other strongSwan: who asks first spares the other one the question.
        plain("b4_liveness")
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
        xauth(plain("xauth"), "sesame street")
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
            .then("the client replaces phase 1", |pair| match pair.case.initiator {
                Initiator::Culvert => pair.culvert.rekey_ike(),
                Initiator::StrongSwan => pair.swan.rekey_ike("site"),
            }),
        xauth(aggressive(plain("xauth_in_aggressive_mode")), "sesame street").behind_nat(),
        xauth(plain("xauth_wrong_password"), "open sesame")
            .fails(&["XAuth failed"])
            .says(Role::Initiates, &["refused our user"])
            .says(Role::Responds, &["joe", "password is wrong"]),
        with_virtual_address(plain("mode_config_pull"))
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
            .then("Culvert replaces phase 1", |pair| pair.culvert.rekey_ike()),
        xauth(with_virtual_address(plain("mode_config_push_after_xauth")), "sesame street")
            .ours("ike.mode_config", "\"push\"")
            .theirs("pull", "no"),
        several_children(plain("several_children"))
            .then("Culvert replaces phase 1", |pair| pair.culvert.rekey_ike()),
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
