//! What IKEv2 does beside opening a tunnel: other groups, narrowing, rekeying by either side, deleting.

use std::time::Duration;

use anyhow::Result;
use culvert_lab::wait_for;
use culvert_tests::Pair;
use culvert_tests::matrix::{Cell, Role, rekey_under_traffic};

const THEME: &str = "exchanges";

const GCM: (&str, &str) = ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256");
const GCM256: (&str, &str) = ("aes256gcm16-prfsha384-ecp384", "aes256gcm16");
const CBC: (&str, &str) = ("aes256-sha256-modp2048", "aes256-sha256-modp2048");
const CBC128: (&str, &str) = ("aes128-sha1-modp2048", "aes128-sha1");

type Rekey = fn(&Pair) -> Result<()>;

/// Name, proposals, who does what.
const REKEYS: [(&str, (&str, &str), &str, Rekey); 8] = [
    ("child_by_culvert_gcm", GCM, "Culvert rekeys the child", |p| p.culvert.rekey_child()),
    ("child_by_strongswan_gcm", GCM, "strongSwan rekeys the child", |p| p.swan.rekey_child("net")),
    ("ike_by_culvert_gcm", GCM256, "Culvert rekeys the IKE SA", |p| p.culvert.rekey_ike()),
    ("ike_by_strongswan_gcm", GCM256, "strongSwan rekeys the IKE SA", |p| p.swan.rekey_ike("site")),
    ("child_by_culvert_cbc", CBC, "Culvert rekeys the child", |p| p.culvert.rekey_child()),
    ("child_by_strongswan_cbc", CBC, "strongSwan rekeys the child", |p| p.swan.rekey_child("net")),
    ("ike_by_culvert_cbc", CBC128, "Culvert rekeys the IKE SA", |p| p.culvert.rekey_ike()),
    ("ike_by_strongswan_cbc", CBC128, "strongSwan rekeys the IKE SA", |p| p.swan.rekey_ike("site")),
];

pub(crate) fn rows() -> Vec<Cell> {
    let plain = |name: &str| Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    let mut rows = vec![
        crate::cookies::row(THEME),
        // The first group that the initiator offers is not the responder's: INVALID_KE_PAYLOAD (RFC 7296 1.2).
        plain("another_group_is_asked_for").suites("aes128gcm16-prfsha256-ecp384", "aes128gcm16").by_role(
            |case, role| {
                let (both, one) = ("aes128gcm16-prfsha256-curve25519-ecp384", "aes128gcm16-prfsha256-ecp384");
                let (ours, theirs) = if role == Role::Initiates { (both, one) } else { (one, both) };
                case.ours.push(("ike.proposals".into(), format!("[\"{ours}\"]")));
                case.theirs.push(("proposals".into(), theirs.into()));
            },
        ),
        // A wide proposal of the initiator is narrowed to what the responder has (RFC 7296 2.9).
        plain("selectors_are_narrowed").by_role(|case, role| match role {
            Role::Initiates => case.ours.push(("remote".into(), "[\"10.2.0.0/16\"]".into())),
            Role::Responds => case.theirs.push(("children.net.remote_ts".into(), "10.2.0.0/16".into())),
        }),
        plain("rekeyed_in_turn_by_both_sides").then("each kind twice, one after another", |pair| {
            for _ in 0..2 {
                pair.culvert.rekey_child()?;
                pair.swan.rekey_ike("site")?;
                pair.swan.rekey_child("net")?;
                pair.culvert.rekey_ike()?;
            }
            Ok(())
        }),
        plain("strongswan_deletes_and_culvert_comes_back")
            .then("strongSwan deletes the IKE SA", |pair| {
                let before = pair.culvert.site()?.ike_spis();
                pair.swan.terminate("site")?;
                wait_for("the tunnel to come back", Duration::from_secs(15), || {
                    let now = pair.culvert.site().ok()?;
                    (now.is_up() && now.ike_spis() != before).then_some(())
                })
            })
            .unable(Role::Responds, "who only responds waits for the peer"),
        plain("culvert_down_deletes_at_strongswan")
            .then("culvert down", |pair| {
                pair.culvert.cli(&["down", "site"])?;
                wait_for("strongSwan to lose the IKE SA", Duration::from_secs(3), || {
                    pair.swan.ike_count().is_ok_and(|count| count == 0).then_some(())
                })
            })
            .then("culvert up", |pair| {
                pair.culvert.cli(&["up", "site"])?;
                pair.culvert.wait_site().map(drop)
            }),
    ];
    // RFC 6023: who begins makes no child SA in IKE_AUTH, and the first one has a key exchange of its own.
    rows.push(
        Cell::new(THEME, "childless", "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256")
            .by_role(|case, role| match role {
                Role::Initiates => case.ours.push(("ike.childless".into(), "\"force\"".into())),
                Role::Responds => case.theirs.push(("childless".into(), "force".into())),
            })
            .then("the child came by itself", |pair| {
                let log = pair.swan.log();
                anyhow::ensure!(
                    log.contains("CREATE_CHILD_SA request 2 "),
                    "no CREATE_CHILD_SA right after IKE_AUTH"
                );
                Ok(())
            })
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child()),
    );
    // The groups differ, which IKE_AUTH does not show: rekeying right after it does, and the tunnel stays.
    rows.push(
        Cell::new(THEME, "rekey_test", "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256")
            .ours("esp.rekey_test", "true")
            .theirs("children.net.esp_proposals", "aes128gcm16-ecp384")
            .then("Culvert explains it", |pair| {
                wait_for("the failed test to be explained", Duration::from_secs(10), || {
                    let said = pair.culvert.cli(&["explain", "site"]).ok()?;
                    (said.contains("perfect forward secrecy") && said.contains("ecp256")).then_some(())
                })
            }),
    );
    for (name, (ike, esp), what, rekey) in REKEYS {
        let cell = Cell::new(THEME, &format!("b3_rekey_{name}"), ike, esp);
        // In one role without a NAT, in the other with one in front of strongSwan.
        rows.push(cell.then(what, move |pair| rekey_under_traffic(pair, rekey)).by_role(|case, role| {
            case.nat = role == Role::Responds;
            case.swan_encap = !case.nat;
        }));
    }
    rows
}
