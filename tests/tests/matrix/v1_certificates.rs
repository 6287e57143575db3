//! IKEv1 with certificates: signatures in both modes, hybrid authentication, chains in fragments.

use anyhow::{Result, ensure};
use culvert_tests::matrix::{Cell, Role};
use culvert_tests::pki::{Identity, Key, Wish, authority, issue};
use culvert_tests::{Case, ID_A, ID_B, Initiator};

use crate::auth::{ids, site, with};
use crate::v1::{aggressive, plain, xauth};

/// Certificates of both sites by one authority.
#[derive(Clone)]
struct Sites {
    ca: Identity,
    a: Identity,
    b: Identity,
}

impl Sites {
    fn new(ca: &Identity, key: Key) -> Result<Self> {
        Ok(Self { ca: ca.clone(), a: site(ca, ID_A, key)?, b: site(ca, ID_B, key)? })
    }

    fn of(&self, id: &str) -> Identity {
        if id == ID_A { self.a.clone() } else { self.b.clone() }
    }

    /// Both sides by certificate.
    fn sign(&self, cell: Cell) -> Cell {
        let sites = self.clone();
        with(cell, &self.ca, move |ours, theirs| (sites.of(ours), sites.of(theirs)))
    }

    /// Who calls has nothing but a user's name and password; the other side has a certificate.
    fn hybrid(&self, cell: Cell) -> Cell {
        let sites = self.clone();
        cell.by_role(move |case: &mut Case, role| {
            let (our_id, their_id) = ids(role);
            let ours = |case: &mut Case, key: &str, value: &str| {
                case.ours.push((format!("tunnel.a.{key}"), value.to_owned()));
            };
            let theirs = |case: &mut Case, key: &str, value: &str| {
                case.theirs.push((key.to_owned(), value.to_owned()));
            };
            ours(case, "psk_file", "");
            theirs(case, "/secrets.xauth-joe.id", "joe");
            theirs(case, "/secrets.xauth-joe.secret", "sesame street");
            match role {
                Role::Initiates => {
                    for (key, value) in [
                        ("auth", "\"xauth\""),
                        ("xauth_user", "\"joe\""),
                        ("xauth_password_file", "\"joe.pass\""),
                        ("ca", "\"ca.pem\""),
                    ] {
                        ours(case, key, value);
                    }
                    let theirs_ = sites.of(their_id);
                    case.our_files.push(("ca.pem".into(), sites.ca.certificate.clone()));
                    case.our_files.push(("joe.pass".into(), b"sesame street".to_vec()));
                    case.their_files.push(("x509/gw.pem".into(), theirs_.certificate));
                    case.their_files.push(("private/gw.key".into(), theirs_.key));
                    for (key, value) in
                        [("local.auth", "pubkey"), ("local.certs", "gw.pem"), ("remote.auth", "xauth")]
                    {
                        theirs(case, key, value);
                    }
                }
                Role::Responds => {
                    for (key, value) in [
                        ("auth", "\"cert\""),
                        ("certificate", "\"gw.pem\""),
                        ("private_key", "\"gw.key\""),
                        ("remote_auth", "\"xauth\""),
                        ("users_file", "\"users\""),
                    ] {
                        ours(case, key, value);
                    }
                    let own = sites.of(our_id);
                    case.our_files.push(("gw.pem".into(), own.certificate));
                    case.our_files.push(("gw.key".into(), own.key));
                    case.our_files.push(("users".into(), b"joe:sesame street\n".to_vec()));
                    case.their_files.push(("x509ca/ca.pem".into(), sites.ca.certificate.clone()));
                    for (key, value) in
                        [("local.auth", "xauth"), ("local.xauth_id", "joe"), ("remote.auth", "pubkey")]
                    {
                        theirs(case, key, value);
                    }
                }
            }
        })
    }
}

pub(crate) fn rows() -> Vec<Cell> {
    made().unwrap_or_else(|error| {
        let why = format!("no certificates: {error:#}");
        vec![plain("rsa_signatures").unable(Role::Initiates, &why).unable(Role::Responds, &why)]
    })
}

fn made() -> Result<Vec<Cell>> {
    let ca = authority("Test CA", Key::P256)?;
    let rsa = Sites::new(&ca, Key::Rsa2048)?;
    let wish = Wish { common_name: "Test Intermediate", ca: true, ..Wish::default() };
    let intermediate = issue(&ca, &wish, Key::Rsa2048)?;
    let chained = Sites { ca: ca.clone(), ..Sites::new(&intermediate, Key::Rsa2048)? };
    let other = authority("Other CA", Key::P256)?;
    Ok(vec![
        rsa.sign(plain("rsa_signatures"))
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
            .then("who called replaces phase 1", |pair| match pair.case.initiator {
                Initiator::Culvert => pair.culvert.rekey_ike(),
                Initiator::StrongSwan => pair.swan.rekey_ike("site"),
            }),
        rsa.sign(aggressive(plain("rsa_signatures_in_aggressive_mode"))),
        xauth(rsa.sign(plain("rsa_signatures_and_xauth")), "sesame street"),
        rsa.hybrid(plain("hybrid")),
        rsa.hybrid(aggressive(plain("hybrid_in_aggressive_mode"))),
        chain_in_fragments(&chained, &intermediate),
        not_trusted(&rsa, &other),
    ])
}

/// Each sends its certificate and that of the authority between: more than fits into one packet.
fn chain_in_fragments(sites: &Sites, intermediate: &Identity) -> Cell {
    let own = sites.clone();
    let by = intermediate.certificate.clone();
    with(plain("chains_in_fragments"), &sites.ca, move |ours, theirs| {
        let mut own_ = own.of(ours);
        own_.certificate.extend_from_slice(&by);
        (own_, own.of(theirs))
    })
    .their_file("x509ca/intermediate.pem", intermediate.certificate.clone())
    .charon("fragment_size", "600")
    .then("both have sent fragments", |pair| {
        let log = pair.swan.log();
        let seen = (log.contains("splitting IKE message"), log.contains("received fragment #"));
        ensure!(seen == (true, true), "sent and received: {seen:?}");
        Ok(())
    })
}

fn not_trusted(sites: &Sites, other: &Identity) -> Cell {
    let (good, by) = (sites.clone(), other.clone());
    with(plain("certificate_of_another_ca"), &sites.ca, move |ours, theirs| {
        let bad = site(&by, theirs, Key::Rsa2048).expect("openssl made others before");
        (good.of(ours), bad)
    })
    .their_file("x509ca/other.pem", other.certificate.clone())
    .fails(&["main mode", "not trusted", "no authority"])
}
