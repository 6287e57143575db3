//! EAP by RADIUS: strongSwan is the client, Culvert passes its messages on, FreeRADIUS behind Culvert knows the users.

use culvert_lab::RadiusConfig;
use culvert_lab::topology::HOST_B;
use culvert_tests::matrix::{Cell, Role};
use culvert_tests::pki::Key;
use culvert_tests::{Case, ID_A, ID_B};

use crate::auth::{Pki, cell};
use crate::eap::{ours, theirs};

const NO_CLIENT: &str = "Culvert is the RADIUS server's client, so strongSwan is the one who calls";
const SECRET: &str = "testing 123 and more";

pub(crate) fn rows(pki: &Pki) -> Vec<Cell> {
    let server = HOST_B;
    vec![
        row(pki, "a3_radius_mschapv2", "correct horse", server, SECRET),
        // The first server does not exist: the second is asked.
        row(pki, "radius_tls_failover", "", &format!("10.2.0.77\", \"{server}"), SECRET),
        row(pki, "radius_wrong_password", "incorrect horse", server, SECRET)
            .fails(&["EAP failed", "RADIUS", "joe"])
            .explains(&["RADIUS server 10.2.0.2:1812", "user \"joe\"", "RFC 3579"]),
        row(pki, "radius_wrong_secret", "correct horse", server, "another secret")
            .ours("tunnel.a.radius.timeout", "\"1s\"")
            .fails(&["no RADIUS server answers"])
            .explains(&["10.2.0.2:1812", "RFC 3579"]),
    ]
}

/// By a password, or without one by a certificate.
fn row(pki: &Pki, name: &str, password: &'static str, servers: &str, secret: &str) -> Cell {
    let pki = pki.clone();
    let (servers, secret) = (servers.to_owned(), secret.as_bytes().to_vec());
    cell(name).unable(Role::Initiates, NO_CLIENT).by_role(move |case: &mut Case, _| {
        let (own, other) = (&pki.sites[&(ID_B, Key::P256)], &pki.sites[&(ID_A, Key::P256)]);
        let ca = &pki.ca.certificate;
        let servers = format!("[\"{servers}\"]");
        ours(
            case,
            &[
                ("psk_file", ""),
                ("auth", "\"cert\""),
                ("certificate", "\"gw.pem\""),
                ("private_key", "\"gw.key\""),
                ("remote_auth", "\"eap-radius\""),
                ("radius.servers", &servers),
                ("radius.secret_files", "[\"radius.secret\"]"),
            ],
            &[("gw.pem", &own.certificate), ("gw.key", &own.key), ("radius.secret", &secret)],
        );
        let ca_file: (&str, &[u8]) = ("x509ca/ca.pem", ca);
        theirs(case, &[("remote.auth", "pubkey")], &[ca_file]);
        if password.is_empty() {
            theirs(
                case,
                &[("local.auth", "eap-tls"), ("local.certs", "gw.pem"), ("local.aaa_id", ID_B)],
                &[("x509/gw.pem", &other.certificate), ("private/gw.key", &other.key)],
            );
        } else {
            theirs(
                case,
                &[
                    ("local.auth", "eap-mschapv2"),
                    ("local.eap_id", "joe"),
                    ("/secrets.eap-joe.id", "joe"),
                    ("/secrets.eap-joe.secret", password),
                ],
                &[],
            );
        }
        case.radius = Some(RadiusConfig {
            secret: SECRET.to_owned(),
            users: vec![("joe".to_owned(), "correct horse".to_owned())],
            certificate: own.certificate.clone(),
            key: own.key.clone(),
            ca: ca.clone(),
        });
    })
}
