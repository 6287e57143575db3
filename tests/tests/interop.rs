//! Culvert with strongSwan 5.9.8: every suite and group, as initiator and as responder, with a NAT in front of the
//! initiator and without; rekeyed by either side while traffic flows. strongSwan's ESP is its user-space plugin here
//! (UDP encapsulation only); its kernel ESP is tested in the VM, see vm_interop.rs.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::wait_for;
use culvert_tests::Initiator::{Culvert, StrongSwan};
use culvert_tests::{Case, no_loss};

/// Negotiates, sends traffic both ways, and asks both sides.
fn connects(case: &Case) -> Result<()> {
    let pair = case.bring_up()?;
    pair.traffic()?;
    pair.agree()
}

macro_rules! suites {
    ($($name:ident: $ike:literal, $esp:literal;)+) => { $(mod $name {
        use super::*;
        #[test]
        fn culvert_initiates() -> Result<()> {
            connects(&Case::new($ike, $esp, Culvert))
        }
        #[test]
        fn strongswan_initiates() -> Result<()> {
            connects(&Case::new($ike, $esp, StrongSwan))
        }
        #[test]
        fn culvert_initiates_behind_nat() -> Result<()> {
            connects(&Case::new($ike, $esp, Culvert).behind_nat())
        }
        #[test]
        fn strongswan_initiates_behind_nat() -> Result<()> {
            connects(&Case::new($ike, $esp, StrongSwan).behind_nat())
        }
    })+ };
}

suites! {
    aes128gcm16_ecp256: "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256";
    aes256gcm16_ecp384: "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384";
    chacha20poly1305_curve25519: "chacha20poly1305-prfsha256-curve25519", "chacha20poly1305-curve25519";
    aes128_sha1_modp2048: "aes128-sha1-modp2048", "aes128-sha1-modp2048";
    aes256_sha256_ecp256: "aes256-sha256-ecp256", "aes256-sha256-ecp256";
    aes256_sha384_modp2048: "aes256-sha384-modp2048", "aes256-sha384-modp2048";
    aes256_sha512_curve25519: "aes256-sha512-curve25519", "aes256-sha512-curve25519";
}

#[test]
fn encapsulation_forced_by_culvert_alone() -> Result<()> {
    let mut case = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Culvert);
    case.swan_encap = false;
    case.culvert_encap = "udp".into();
    connects(&case)
}

#[test]
fn ipv6_outside() -> Result<()> {
    connects(&Case {
        ipv6_outside: true,
        ..Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Culvert)
    })
}

#[test]
fn ipv6_outside_strongswan_initiates() -> Result<()> {
    connects(&Case { ipv6_outside: true, ..Case::new("aes256-sha256-ecp256", "aes256-sha256", StrongSwan) })
}

#[test]
fn ipv6_inside_beside_ipv4() -> Result<()> {
    connects(&Case { ipv6_inside: true, ..Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Culvert) })
}

#[test]
fn ipv6_inside_and_outside_strongswan_initiates() -> Result<()> {
    let case = Case::new("chacha20poly1305-prfsha256-curve25519", "chacha20poly1305", StrongSwan);
    connects(&Case { ipv6_inside: true, ipv6_outside: true, ..case })
}

/// The first group that we offer is not the one that strongSwan takes: INVALID_KE_PAYLOAD (RFC 7296 1.2).
#[test]
fn strongswan_asks_for_another_group() -> Result<()> {
    let case = Case::new("aes128gcm16-prfsha256-ecp384", "aes128gcm16", Culvert);
    let site = culvert_lab::Site::new()?;
    let mut ours = case.culvert_connection(&site, true);
    ours.ike = vec!["aes128gcm16-prfsha256-curve25519-ecp384".into()];
    let theirs = culvert_lab::SwanConnection {
        proposals: case.ike.clone(),
        local_id: culvert_tests::ID_B.into(),
        remote_id: culvert_tests::ID_A.into(),
        ..culvert_lab::SwanConnection::new(case.outside().1, case.outside().0, "10.2.0.0/24", "10.1.0.0/24")
    };
    let swan = culvert_lab::StrongSwan::start(&site.gateway_b, culvert_lab::SwanEngine::User, &[theirs])?;
    let culvert = culvert_lab::Culvert::start(&site.gateway_a, &culvert_lab::GatewayConfig::new(vec![ours]))?;
    let status = culvert.wait_site()?;
    ensure!(status.0["ike"]["suite"] == "aes128gcm16-prfsha256-ecp384", "{:#}", status.0);
    ensure!(swan.ike("site")?.is_some_and(|ike| ike.dh == "ECP_384"));
    no_loss(&site.host_a, culvert_lab::topology::HOST_B)
}

/// A wide proposal of ours is narrowed to what strongSwan has (RFC 7296 2.9).
#[test]
fn selectors_are_narrowed_to_what_strongswan_has() -> Result<()> {
    let case = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Culvert);
    let site = culvert_lab::Site::new()?;
    let mut ours = case.culvert_connection(&site, true);
    ours.remote = vec!["10.2.0.0/16".into()];
    let theirs = culvert_lab::SwanConnection {
        proposals: case.ike.clone(),
        local_id: culvert_tests::ID_B.into(),
        remote_id: culvert_tests::ID_A.into(),
        ..culvert_lab::SwanConnection::new(case.outside().1, case.outside().0, "10.2.0.0/24", "10.1.0.0/24")
    };
    let _swan = culvert_lab::StrongSwan::start(&site.gateway_b, culvert_lab::SwanEngine::User, &[theirs])?;
    let culvert = culvert_lab::Culvert::start(&site.gateway_a, &culvert_lab::GatewayConfig::new(vec![ours]))?;
    let status = culvert.wait_site()?;
    let selectors = status.child()["remote_ts"].to_string();
    ensure!(selectors.contains("10.2.0.0/24") && !selectors.contains("/16"), "{selectors}");
    no_loss(&site.host_a, culvert_lab::topology::HOST_B)
}

/// strongSwan's user-space ESP takes its new SA into use and drops its old one without overlap, and it handles a packet
/// at a time: what is in flight at that moment can be lost. At 100 packets a second that is one or two; Culvert itself
/// loses none (twins.rs, and vm_interop.rs with strongSwan on the kernel's ESP).
const LOSS_OF_LIBIPSEC: u32 = 2;

macro_rules! rekeyed {
    ($($name:ident: $ike:literal, $esp:literal, $rekey:expr;)+) => { $(mod $name {
        use super::*;
        fn rekeyed(case: Case) -> Result<()> {
            let pair = case.bring_up()?;
            pair.traffic()?;
            let seen = pair.rekey_under_traffic($rekey)?;
            ensure!(seen.lost() <= LOSS_OF_LIBIPSEC, "{seen:?}");
            pair.traffic()
        }
        #[test]
        fn culvert_initiated() -> Result<()> {
            rekeyed(Case::new($ike, $esp, Culvert))
        }
        #[test]
        fn strongswan_initiated_behind_nat() -> Result<()> {
            rekeyed(Case::new($ike, $esp, StrongSwan).behind_nat())
        }
    })+ };
}

rekeyed! {
    child_rekeyed_by_culvert_gcm: "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256", |p| p.culvert.rekey_child();
    child_rekeyed_by_strongswan_gcm: "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256", |p| p.swan.rekey_child("net");
    ike_rekeyed_by_culvert_gcm: "aes256gcm16-prfsha384-ecp384", "aes256gcm16", |p| p.culvert.rekey_ike();
    ike_rekeyed_by_strongswan_gcm: "aes256gcm16-prfsha384-ecp384", "aes256gcm16", |p| p.swan.rekey_ike("site");
    child_rekeyed_by_culvert_cbc: "aes256-sha256-modp2048", "aes256-sha256-modp2048", |p| p.culvert.rekey_child();
    child_rekeyed_by_strongswan_cbc: "aes256-sha256-modp2048", "aes256-sha256-modp2048", |p| p.swan.rekey_child("net");
    ike_rekeyed_by_culvert_cbc: "aes128-sha1-modp2048", "aes128-sha1", |p| p.culvert.rekey_ike();
    ike_rekeyed_by_strongswan_cbc: "aes128-sha1-modp2048", "aes128-sha1", |p| p.swan.rekey_ike("site");
}

/// Every kind one after another, on one pair: what one rekey leaves, the next one needs.
#[test]
fn rekeyed_in_turn_by_both_sides() -> Result<()> {
    let pair = Case::new("aes128gcm16-prfsha256-curve25519", "aes128gcm16-curve25519", Culvert).bring_up()?;
    pair.traffic()?;
    for _ in 0..2 {
        pair.culvert.rekey_child()?;
        pair.swan.rekey_ike("site")?;
        pair.swan.rekey_child("net")?;
        pair.culvert.rekey_ike()?;
    }
    pair.traffic()?;
    wait_for("the old SAs to go", Duration::from_secs(10), || {
        let left = (pair.swan.children("net").ok()?.len(), pair.swan.ike_count().ok()?);
        (left == (1, 1)).then_some(())
    })?;
    pair.agree()
}

#[test]
fn strongswan_deletes_and_culvert_comes_back() -> Result<()> {
    let pair = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Culvert).bring_up()?;
    let before = pair.culvert.site()?.ike_spis();
    pair.swan.terminate("site")?;
    wait_for("the tunnel to come back", Duration::from_secs(15), || {
        let now = pair.culvert.site().ok()?;
        (now.is_up() && now.ike_spis() != before).then_some(())
    })?;
    pair.traffic()?;
    pair.agree()
}

#[test]
fn culvert_down_deletes_at_strongswan() -> Result<()> {
    let pair = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Culvert).bring_up()?;
    pair.culvert.cli(&["down", "site"])?;
    wait_for("strongSwan to lose the IKE SA", Duration::from_secs(3), || {
        pair.swan.ike_count().is_ok_and(|count| count == 0).then_some(())
    })?;
    pair.culvert.cli(&["up", "site"])?;
    pair.culvert.wait_site()?;
    pair.traffic()
}
