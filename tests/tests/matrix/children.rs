//! Several networks on each side: in one child SA, or in one for each pair.

use culvert_lab::topology::{HOST_A, HOST_A_TOO, HOST_B, HOST_B_TOO, LAN_A, LAN_A_TOO, LAN_B, LAN_B_TOO};
use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "children";

/// Two networks behind either gateway; strongSwan has them all in one child's configuration, and narrows.
fn cell(name: &str) -> Cell {
    Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256").by_role(|case, role| {
        let (a, b) = ([LAN_A, LAN_A_TOO], [LAN_B, LAN_B_TOO]);
        let (ours, theirs) = if role == Role::Initiates { (a, b) } else { (b, a) };
        case.ours.push(("local".into(), format!("[\"{}\"]", ours.join("\", \""))));
        case.ours.push(("remote".into(), format!("[\"{}\"]", theirs.join("\", \""))));
        case.theirs.push(("children.net.local_ts".into(), theirs.join(",")));
        case.theirs.push(("children.net.remote_ts".into(), ours.join(",")));
    })
}

const HOSTS: [(&str, &str); 3] = [(HOST_A, HOST_B_TOO), (HOST_A_TOO, HOST_B), (HOST_A_TOO, HOST_B_TOO)];

pub(crate) fn rows() -> Vec<Cell> {
    vec![
        cell("all_networks_together")
            .children(1, &HOSTS)
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child()),
        cell("one_for_each_pair")
            .ours("esp.pairs", "\"each\"")
            .children(4, &HOSTS)
            .unable(Role::Responds, "strongSwan offers all networks of a child together, gets one pair, and does not ask for the others")
            .then("Culvert rekeys the IKE SA", |pair| pair.culvert.rekey_ike()),
        // The peer takes two of the four pairs: those it has.
        cell("only_the_pairs_that_the_peer_has")
            .ours("esp.pairs", "\"each\"")
            .by_role(|case, _| {
                for (key, value) in [
                    ("children.net.local_ts", LAN_B),
                    ("children.net.remote_ts", LAN_A),
                    ("children.too.local_ts", LAN_B_TOO),
                    ("children.too.remote_ts", LAN_A_TOO),
                    ("children.too.esp_proposals", "aes128gcm16-ecp256"),
                ] {
                    case.theirs.push((key.into(), value.into()));
                }
            })
            .children(2, &[(HOST_A_TOO, HOST_B_TOO)])
            .unable(Role::Responds, "who begins decides"),
    ]
}
