//! IKE messages larger than a packet may be (RFC 7383).

use anyhow::{Result, ensure};
use culvert_lab::topology::{LAN_A, LAN_B};
use culvert_tests::Pair;
use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "fragments";

/// The first network of our side, and so many more that a message which lists them all takes several fragments.
/// strongSwan's user-space ESP takes one network on its own side.
fn networks(first: &str) -> Vec<String> {
    let more = (0..50).map(|n| format!("10.81.{n}.0/25"));
    std::iter::once(first.to_owned()).chain(more).collect()
}

fn cell(name: &str) -> Cell {
    Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
        .charon("fragment_size", "600")
        .by_role(|case, role| {
            let ours = networks(if role == Role::Initiates { LAN_A } else { LAN_B });
            case.ours.push(("local".into(), format!("[\"{}\"]", ours.join("\", \""))));
            case.theirs.push(("children.net.remote_ts".into(), ours.join(",")));
        })
}

/// What charon logs when it sends and when it takes fragments.
fn fragments_seen(pair: &Pair) -> Result<(bool, bool)> {
    let log = pair.swan.log();
    Ok((log.contains("splitting IKE message"), log.contains("received fragment #")))
}

pub(crate) fn rows() -> Vec<Cell> {
    vec![
        cell("ike_auth_and_rekey_in_both_directions")
            .then("both have sent fragments", |pair| {
                ensure!(fragments_seen(pair)? == (true, true));
                Ok(())
            })
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
            .then("Culvert rekeys the IKE SA", |pair| pair.culvert.rekey_ike())
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child()),
        cell("off_here").charon("fragment_size", "601").ours("ike.fragmentation", "\"no\"").then(
            "nobody has sent any",
            |pair| {
                ensure!(fragments_seen(pair)? == (false, false));
                Ok(())
            },
        ),
        cell("off_there").charon("fragment_size", "602").theirs("fragmentation", "no").then(
            "nobody has sent any",
            |pair| {
                ensure!(fragments_seen(pair)? == (false, false));
                Ok(())
            },
        ),
    ]
}
