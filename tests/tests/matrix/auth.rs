//! Authentication: who proves what to whom.

use std::collections::HashMap;

use culvert_tests::matrix::{Cell, Role};
use culvert_tests::pki::{Identity, Key, Wish, authority, issue};
use culvert_tests::{Case, ID_A, ID_B};

use crate::{eap, radius};

pub(crate) const THEME: &str = "auth";

pub(crate) fn rows() -> Vec<Cell> {
    let mut rows = vec![cell("b1_psk")];
    match Pki::new() {
        Ok(pki) => {
            rows.extend(certificates(&pki));
            rows.extend(eap::rows(&pki));
            rows.extend(radius::rows(&pki));
        }
        Err(error) => {
            let why = format!("no certificates: {error:#}");
            rows.push(cell("certificates").unable(Role::Initiates, &why).unable(Role::Responds, &why));
        }
    }
    rows
}

pub(crate) fn cell(name: &str) -> Cell {
    Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
}

/// A small authority, and certificates of both sites for every kind of key.
#[derive(Clone)]
pub(crate) struct Pki {
    pub(crate) ca: Identity,
    intermediate: Identity,
    pub(crate) other_ca: Identity,
    /// By the site's identity.
    pub(crate) sites: HashMap<(&'static str, Key), Identity>,
}

impl Pki {
    fn new() -> anyhow::Result<Self> {
        let ca = authority("Test CA", Key::P256)?;
        let wish = Wish { common_name: "Test Intermediate", ca: true, ..Wish::default() };
        let mut sites = HashMap::new();
        for id in [ID_A, ID_B] {
            for key in Key::ALL {
                sites.insert((id, key), site(&ca, id, key)?);
            }
        }
        Ok(Self {
            intermediate: issue(&ca, &wish, Key::P384)?,
            other_ca: authority("Other CA", Key::P256)?,
            ca,
            sites,
        })
    }
}

pub(crate) fn site(ca: &Identity, id: &str, key: Key) -> anyhow::Result<Identity> {
    let names = format!("DNS:{id}");
    issue(ca, &Wish { names: &names, common_name: id, ..Wish::default() }, key)
}

/// The identities of Culvert and of strongSwan.
pub(crate) fn ids(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Initiates => (ID_A, ID_B),
        Role::Responds => (ID_B, ID_A),
    }
}

/// Certificates on both sides, made for each role.
pub(crate) fn with(
    cell: Cell,
    ca: &Identity,
    pick: impl Fn(&'static str, &'static str) -> (Identity, Identity) + Send + Sync + 'static,
) -> Cell {
    let cell = cell
        .ours("tunnel.a.psk_file", "")
        .ours("tunnel.a.auth", "\"cert\"")
        .ours("tunnel.a.certificate", "\"gw.pem\"")
        .ours("tunnel.a.private_key", "\"gw.key\"")
        .ours("tunnel.a.ca", "[\"ca.pem\"]")
        .our_file("ca.pem", ca.certificate.clone())
        .theirs("local.auth", "pubkey")
        .theirs("local.certs", "gw.pem")
        .theirs("remote.auth", "pubkey")
        .their_file("x509ca/ca.pem", ca.certificate.clone());
    cell.by_role(move |case: &mut Case, role| {
        let (our_id, their_id) = ids(role);
        let (ours, theirs) = pick(our_id, their_id);
        case.our_files.push(("gw.pem".into(), ours.certificate));
        case.our_files.push(("gw.key".into(), ours.key));
        case.their_files.push(("x509/gw.pem".into(), theirs.certificate));
        case.their_files.push(("private/gw.key".into(), theirs.key));
    })
}

fn both(pki: &Pki, name: &str, ours: Key, theirs: Key) -> Cell {
    let sites = pki.sites.clone();
    with(cell(name), &pki.ca, move |a, b| (sites[&(a, ours)].clone(), sites[&(b, theirs)].clone()))
}

fn certificates(pki: &Pki) -> Vec<Cell> {
    let mut rows = vec![
        both(pki, "a2_cert_rsa2048", Key::Rsa2048, Key::Rsa2048),
        both(pki, "cert_rsa3072", Key::Rsa3072, Key::Rsa3072),
        both(pki, "a2_cert_ecdsa_p256", Key::P256, Key::P256),
        both(pki, "cert_ecdsa_p384", Key::P384, Key::P384),
        both(pki, "cert_ecdsa_p521", Key::P521, Key::P521),
        both(pki, "cert_ed25519", Key::Ed25519, Key::Ed25519),
        both(pki, "cert_rsa_pss_by_strongswan", Key::Rsa2048, Key::Rsa2048)
            .theirs("local.auth", "rsa/pss-sha384"),
        both(pki, "cert_rsa_pkcs1_by_strongswan", Key::P256, Key::Rsa2048)
            .theirs("local.auth", "rsa/pkcs1-sha512"),
    ];
    // What peers before RFC 7427 do: ECDSA by a method for each curve.
    for (name, key) in [
        ("cert_p256_method_9", Key::P256),
        ("cert_p384_method_10", Key::P384),
        ("cert_p521_method_11", Key::P521),
    ] {
        rows.push(both(pki, name, key, key).charon("signature_authentication", "no"));
    }
    rows.push(
        both(pki, "cert_rsa_method_1", Key::Rsa2048, Key::Rsa2048)
            .charon("signature_authentication", "no")
            .ours("tunnel.a.allow_sha1_signatures", "true"),
    );
    rows.push(both(pki, "cert_by_subject", Key::P256, Key::P256).by_role(|case, role| {
        let (ours, theirs) = ids(role);
        case.ours.push(("tunnel.a.local_id".into(), String::new()));
        case.ours.push(("tunnel.a.remote_id".into(), "\"C=CH, O=Culvert, CN=*\"".into()));
        case.theirs.push(("local.id".into(), format!("C=CH, O=Culvert, CN={theirs}")));
        case.theirs.push(("remote.id".into(), format!("C=CH, O=Culvert, CN={ours}")));
    }));
    rows.push(mixed(pki, "cert_ours_psk_theirs", true));
    rows.push(mixed(pki, "psk_ours_cert_theirs", false));
    rows.push(chain(pki));
    rows.extend(refusals(pki));
    rows
}

/// A certificate on one side, the pre-shared key on the other.
fn mixed(pki: &Pki, name: &str, ours_by_cert: bool) -> Cell {
    let sites = pki.sites.clone();
    let psk = cell(name);
    let ca = pki.ca.certificate.clone();
    let cell = if ours_by_cert {
        psk.ours("tunnel.a.certificate", "\"gw.pem\"")
            .ours("tunnel.a.private_key", "\"gw.key\"")
            .ours("tunnel.a.remote_auth", "\"psk\"")
            .theirs("remote.auth", "pubkey")
            .their_file("x509ca/ca.pem", ca)
    } else {
        psk.ours("tunnel.a.ca", "\"ca.pem\"")
            .our_file("ca.pem", ca)
            .theirs("local.auth", "pubkey")
            .theirs("local.certs", "gw.pem")
    };
    cell.by_role(move |case, role| {
        let (our_id, their_id) = ids(role);
        if ours_by_cert {
            let site = sites[&(our_id, Key::P256)].clone();
            case.our_files.push(("gw.pem".into(), site.certificate));
            case.our_files.push(("gw.key".into(), site.key));
        } else {
            let site = sites[&(their_id, Key::P256)].clone();
            case.their_files.push(("x509/gw.pem".into(), site.certificate));
            case.their_files.push(("private/gw.key".into(), site.key));
        }
    })
}

/// Both certificates are by an intermediate authority, which each sends along.
fn chain(pki: &Pki) -> Cell {
    let intermediate = pki.intermediate.clone();
    let by = pki.intermediate.clone();
    with(cell("cert_chain"), &pki.ca, move |ours, theirs| {
        let mut own = site(&by, ours, Key::P256).expect("openssl made others before");
        own.certificate.extend_from_slice(&by.certificate);
        (own, site(&by, theirs, Key::P256).expect("openssl made others before"))
    })
    // strongSwan sends the authorities that it has between its certificate and a root.
    .their_file("x509ca/intermediate.pem", intermediate.certificate)
}

fn refusals(pki: &Pki) -> Vec<Cell> {
    let sites = pki.sites.clone();
    let theirs = move |make: fn(&Identity, &str) -> anyhow::Result<Identity>, ca: Identity| {
        let sites = sites.clone();
        move |ours: &'static str, theirs: &'static str| {
            let bad = make(&ca, theirs).expect("openssl made others before");
            (sites[&(ours, Key::P256)].clone(), bad)
        }
    };
    let good: fn(&Identity, &str) -> anyhow::Result<Identity> = |ca, id| site(ca, id, Key::P256);
    let expired: fn(&Identity, &str) -> anyhow::Result<Identity> = |ca, id| {
        let names = format!("DNS:{id}");
        issue(ca, &Wish { names: &names, common_name: id, expired: true, ..Wish::default() }, Key::P256)
    };
    let other_name: fn(&Identity, &str) -> anyhow::Result<Identity> = |ca, id| {
        let names = format!("DNS:{id}, DNS:else.culvert.test");
        // strongSwan says what its certificate says; the tunnel expects somebody else.
        issue(ca, &Wish { names: &names, common_name: id, ..Wish::default() }, Key::P256)
    };
    let (ca, other) = (pki.ca.clone(), pki.other_ca.clone());
    vec![
        with(cell("cert_of_another_ca"), &ca, theirs(good, other.clone()))
            .their_file("x509ca/other.pem", other.certificate.clone())
            .fails(&["not trusted", "no authority"])
            .explains(&[
                "configuration",
                "trusts CN=Test CA",
                "by CN=Other CA",
                "add its authority's certificate to `ca`",
                "RFC 7296 3.6",
            ]),
        with(cell("cert_expired"), &ca, theirs(expired, ca.clone()))
            .fails(&["not trusted", "expired"])
            .explains(&["valid 2020-01-01 to 2020-12-31", "renew it", "RFC 7296 3.6"]),
        with(cell("cert_wrong_id"), &ca, theirs(other_name, ca.clone()))
            .theirs("local.id", "else.culvert.test")
            .theirs("remote.id", "%any")
            .fails(&[])
            .says(Role::Initiates, &["AUTHENTICATION_FAILED"])
            .says(Role::Responds, &["else.culvert.test"])
            // As initiator it asks for an id that strongSwan does not have; as responder it is told of one.
            .explains_as(Role::Initiates, &["ours", "rejected our identity or certificate"])
            .explains_as(Role::Responds, &["ours", "the peer's", "else.culvert.test"]),
        // Ours is the one that is refused: strongSwan does not say why, and we say what to compare.
        at_fault("cert_that_strongswan_refuses", pki, good, other).explains(&["by CN=Other CA"]),
        at_fault("cert_of_ours_expired", pki, expired, ca.clone())
            .explains(&["valid 2020-01-01 to 2020-12-31"]),
        at_fault("cert_of_ours_without_our_id", pki, good, ca)
            .ours("tunnel.a.local_id", "\"somebody.culvert.test\"")
            .theirs("remote.id", "somebody.culvert.test")
            .explains(&["local id somebody.culvert.test", "certificate for"]),
    ]
}

/// strongSwan refuses the certificate of Culvert's that `make` makes.
fn at_fault(
    name: &str,
    pki: &Pki,
    make: fn(&Identity, &str) -> anyhow::Result<Identity>,
    ca: Identity,
) -> Cell {
    let sites = pki.sites.clone();
    let good = with(cell(name), &pki.ca, move |ours, theirs| {
        let bad = make(&ca, ours).expect("openssl made others before");
        (bad, sites[&(theirs, Key::P256)].clone())
    });
    good.fails(&["AUTHENTICATION_FAILED"]).explains(&[
        "rejected our identity or certificate",
        "the peer trusts the authority of our certificate",
        "local id",
        "RFC 7296 2.21.2",
    ])
}
