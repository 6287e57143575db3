//! EAP: who initiates is the client, and the other one has a certificate.

use anyhow::{Context as _, Result, ensure};
use culvert_tests::matrix::{Cell, Role};
use culvert_tests::pki::{Identity, Key};
use culvert_tests::{Case, Pair};

use crate::auth::{Pki, cell, ids, site};
use crate::ppk;

pub(crate) fn rows(pki: &Pki) -> Vec<Cell> {
    let foreign = || Some(pki.other_ca.clone());
    vec![
        mschapv2(pki, "a1_eap_mschapv2", "correct horse"),
        mschapv2(pki, "a1_eap_mschapv2_wrong_password", "incorrect horse")
            .fails(&["EAP failed"])
            .says(Role::Initiates, &["691"])
            .says(Role::Responds, &["joe", "password"])
            .explains(&["RFC 2759 6", "user \"joe\"", "configuration"])
            .explains_as(Role::Initiates, &["ours", "set the password that the server has for this user"])
            .explains_as(Role::Responds, &["the peer's", "set the same password at the client"]),
        tls(pki, "a2_eap_tls", None, None),
        // RFC 5998: no AUTH of the server's before EAP. RFC 8784: a post-quantum key in the last round.
        tls(pki, "eap_tls_only", None, None)
            .ours("tunnel.a.eap_only", "\"yes\"")
            .by_role(|case, _| theirs(case, &[("local.auth", "eap-tls"), ("remote.auth", "eap-tls")], &[]))
            .then("there was no AUTH before EAP", no_auth_before_eap),
        ppk::with(tls(pki, "eap_tls_with_ppk", None, None)),
        mschapv2(pki, "eap_mschapv2_only", "correct horse")
            .by_role(|case, role| {
                ours(case, &[("eap_only", "\"insist\"")], &[]);
                let server = if role == Role::Initiates { "local" } else { "remote" };
                theirs(case, &[(&format!("{server}.auth"), "eap-mschapv2")], &[]);
            })
            .unable(Role::Responds, "strongSwan as client refuses EAP-MSCHAPv2 as the only proof of a server")
            .then("there was no AUTH before EAP", no_auth_before_eap),
        // strongSwan's certificate is by somebody whom Culvert does not know.
        tls(pki, "eap_tls_of_another_ca", None, foreign())
            .their_file("x509ca/other.pem", pki.other_ca.certificate.clone())
            .fails(&["not trusted", "no authority"])
            .explains(&["by CN=Other CA", "trusts CN=Test CA", "RFC"]),
        // Culvert's is.
        tls(pki, "eap_tls_that_strongswan_refuses", foreign(), None)
            .fails(&["failed"])
            .explains_as(Role::Initiates, &["RFC 5216", "ours", "by CN=Other CA"])
            .explains_as(Role::Responds, &["rejected our identity or certificate", "by CN=Other CA"]),
    ]
}

fn no_auth_before_eap(pair: &mut Pair) -> Result<()> {
    let log = pair.swan.log();
    let last = log.lines().rev().find(|line| line.contains("IKE_AUTH response 1 ["));
    let last = last.context("no answer to IKE_AUTH in charon's log")?;
    ensure!(last.contains("IDr EAP/REQ"), "{last}");
    Ok(())
}

/// Culvert's keys of the tunnel and its files.
pub(crate) fn ours(case: &mut Case, keys: &[(&str, &str)], files: &[(&str, &[u8])]) {
    case.ours.extend(keys.iter().map(|(key, value)| (format!("tunnel.a.{key}"), (*value).to_owned())));
    case.our_files.extend(files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())));
}

/// strongSwan's.
pub(crate) fn theirs(case: &mut Case, keys: &[(&str, &str)], files: &[(&str, &[u8])]) {
    case.theirs.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    case.their_files.extend(files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())));
}

fn mschapv2(pki: &Pki, name: &str, password: &'static str) -> Cell {
    let (sites, ca) = (pki.sites.clone(), pki.ca.certificate.clone());
    cell(name).by_role(move |case, role| {
        let (our_id, their_id) = ids(role);
        ours(case, &[("psk_file", "")], &[]);
        match role {
            Role::Initiates => {
                let site = &sites[&(their_id, Key::P256)];
                ours(
                    case,
                    &[
                        ("auth", "\"eap-mschapv2\""),
                        ("eap_identity", "\"joe\""),
                        ("eap_password_file", "\"joe.password\""),
                        ("ca", "\"ca.pem\""),
                    ],
                    &[("ca.pem", &ca), ("joe.password", password.as_bytes())],
                );
                theirs(
                    case,
                    &[
                        ("local.auth", "pubkey"),
                        ("local.certs", "gw.pem"),
                        ("remote.auth", "eap-mschapv2"),
                        ("remote.eap_id", "%any"),
                        ("/secrets.eap-joe.id", "joe"),
                        ("/secrets.eap-joe.secret", "correct horse"),
                    ],
                    &[("x509/gw.pem", &site.certificate), ("private/gw.key", &site.key)],
                );
            }
            Role::Responds => {
                let site = &sites[&(our_id, Key::P256)];
                ours(
                    case,
                    &[
                        ("auth", "\"cert\""),
                        ("certificate", "\"gw.pem\""),
                        ("private_key", "\"gw.key\""),
                        ("remote_auth", "\"eap-mschapv2\""),
                        ("users_file", "\"users\""),
                    ],
                    &[
                        ("gw.pem", &site.certificate),
                        ("gw.key", &site.key),
                        ("users", b"# users\njane:other\njoe:correct horse\n"),
                    ],
                );
                theirs(
                    case,
                    &[
                        ("remote.auth", "pubkey"),
                        ("local.auth", "eap-mschapv2"),
                        ("local.eap_id", "joe"),
                        ("/secrets.eap-joe.id", "joe"),
                        ("/secrets.eap-joe.secret", password),
                    ],
                    &[("x509ca/ca.pem", &ca)],
                );
            }
        }
    })
}

/// A certificate, and what comes with it: PEM.
fn identity(pki: &Pki, id: &'static str, by: Option<&Identity>) -> Identity {
    match by {
        Some(ca) => site(ca, id, Key::P256).expect("openssl made others before"),
        None => pki.sites[&(id, Key::P256)].clone(),
    }
}

/// EAP-TLS; certificates of either side may be by another authority than the other one trusts.
pub(crate) fn tls(pki: &Pki, name: &str, our_ca: Option<Identity>, their_ca: Option<Identity>) -> Cell {
    let pki = pki.clone();
    cell(name).by_role(move |case, role| {
        let (our_id, their_id) = ids(role);
        let own = identity(&pki, our_id, our_ca.as_ref());
        let other = identity(&pki, their_id, their_ca.as_ref());
        let (our_auth, their_auth) = match role {
            Role::Initiates => {
                ([("auth", "\"eap-tls\""), ("remote_auth", "\"cert\"")], ["pubkey", "eap-tls"])
            }
            Role::Responds => ([("auth", "\"cert\""), ("remote_auth", "\"eap-tls\"")], ["eap-tls", "pubkey"]),
        };
        ours(
            case,
            &our_auth,
            &[("gw.pem", &own.certificate), ("gw.key", &own.key), ("ca.pem", &pki.ca.certificate)],
        );
        ours(
            case,
            &[
                ("psk_file", ""),
                ("certificate", "\"gw.pem\""),
                ("private_key", "\"gw.key\""),
                ("ca", "[\"ca.pem\"]"),
            ],
            &[],
        );
        let [local, remote] = their_auth;
        theirs(
            case,
            &[("local.auth", local), ("local.certs", "gw.pem"), ("remote.auth", remote)],
            &[
                ("x509/gw.pem", &other.certificate),
                ("private/gw.key", &other.key),
                ("x509ca/ca.pem", &pki.ca.certificate),
            ],
        );
    })
}
