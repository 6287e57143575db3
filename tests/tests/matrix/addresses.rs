//! Address families inside and outside, encapsulation.

use anyhow::ensure;
use culvert_tests::Initiator;
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
        virtual_address("a3_virtual_address"),
        virtual_address("virtual_address_through_rekeys")
            .then("Culvert rekeys the IKE SA", |pair| pair.culvert.rekey_ike())
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net")),
        virtual_address("virtual_address_after_reauthentication")
            .by_role(|case, role| {
                if role == Role::Initiates {
                    case.ours.push(("ike.reauth".into(), "\"60s\"".into()));
                }
            })
            .unable(
                Role::Responds,
                "strongSwan breaks before it makes; its `make_before_break` is charon's own business",
            )
            .then("Culvert authenticates anew", |pair| {
                let before = pair.culvert.site()?.ike_spis();
                culvert_lab::wait_for("another IKE SA", std::time::Duration::from_secs(70), || {
                    let now = pair.culvert.site().ok()?;
                    (now.is_up() && now.ike_spis() != before).then_some(())
                })
            }),
        gcm("ipv6_inside_beside_ipv4").case(|case| case.ipv6_inside = true),
        chacha("ipv6_inside_and_outside").case(|case| {
            case.ipv6_inside = true;
            case.ipv6_outside = true;
        }),
    ]
}

/// The gateway at site A gets an inner address from site B's pool.
fn virtual_address(name: &str) -> Cell {
    with_virtual_address(Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16"))
}

/// The same of any cell.
pub(crate) fn with_virtual_address(cell: Cell) -> Cell {
    cell.case(|case| case.client_at_a = true)
        .by_role(|case, role| match role {
            Role::Initiates => {
                case.ours.push(("local".into(), String::new()));
                case.ours.push(("tunnel.a.virtual_ip".into(), "true".into()));
                case.theirs.push(("pools".into(), "vips".into()));
                case.theirs.push(("/pools.vips.addrs".into(), "10.9.0.0/28".into()));
                case.theirs.push(("/pools.vips.dns".into(), "10.2.0.53".into()));
                case.theirs.push(("children.net.remote_ts".into(), "dynamic".into()));
            }
            Role::Responds => {
                case.ours.push(("remote".into(), "[\"10.9.0.0/28\"]".into()));
                case.ours.push(("tunnel.a.pool".into(), "[\"10.9.0.0/28\"]".into()));
                case.ours.push(("tunnel.a.dns".into(), "[\"10.2.0.53\"]".into()));
                case.theirs.push(("vips".into(), "0.0.0.0".into()));
                case.theirs.push(("children.net.local_ts".into(), "dynamic".into()));
                case.charon.push(("install_virtual_ip".into(), "yes".into()));
            }
        })
        .then("the addresses show", |pair| {
            let ike = &pair.culvert.site()?.0["ike"];
            let key =
                if pair.case.initiator == Initiator::Culvert { "virtual_ips" } else { "peer_virtual_ips" };
            let address = ike[key][0].as_str().unwrap_or_default();
            ensure!(address.starts_with("10.9.0."), "{key}: {ike:#}");
            let dns =
                if key == "virtual_ips" { ike["dns"] == serde_json::json!(["10.2.0.53"]) } else { true };
            ensure!(dns, "DNS: {ike:#}");
            Ok(())
        })
}
