//! EAP in the file: what is read, and what goes not together.

use crate::tests::parse;
use crate::*;

/// One connection with one tunnel of these keys.
fn file(tunnel: &str) -> String {
    format!(
        "[gateway]\nwan = \"eth0\"\n[connection.c]\nlocal = [\"192.168.0.0/24\"]\nremote = [\"172.16.0.0/16\"]\n\
         [connection.c.tunnel.a]\nremote_address = \"203.0.113.1\"\n{tunnel}\n"
    )
}

fn auth(tunnel: &str) -> TunnelAuth {
    parse(&file(tunnel)).unwrap_or_else(|e| panic!("{e:?}")).connections[0].tunnels[0].auth.clone()
}

fn refused(tunnel: &str) -> String {
    parse(&file(tunnel)).expect_err(tunnel).render(false)
}

const KEYS: &str = "certificate = \"gw.pem\"\nprivate_key = \"gw.key\"\nca = \"ca.pem\"";

#[test]
fn eap_tls_takes_a_certificate_and_authorities_on_either_side() {
    let client = auth(&format!("auth = \"eap-tls\"\neap_server_id = \"aaa.example\"\n{KEYS}"));
    let LocalProof::EapTls { user: None, server: Some(server), .. } = &client.local else {
        panic!("{client:?}")
    };
    assert_eq!(server.to_string(), "aaa.example");
    assert!(matches!(client.remote, RemoteProof::Certificate { .. }));
    let server = auth(&format!("auth = \"cert\"\nremote_auth = \"eap-tls\"\neap_only = \"yes\"\n{KEYS}"));
    assert!(matches!(server.remote, RemoteProof::EapTls { .. }));
    assert!(matches!(server.local, LocalProof::Certificate { .. }));
    assert!(server.eap_only && server.warning().is_none());
    for lacks in ["certificate", "private_key", "ca"] {
        let keys: Vec<&str> = KEYS.lines().filter(|line| !line.starts_with(&format!("{lacks} "))).collect();
        let said = refused(&format!("auth = \"eap-tls\"\n{}", keys.join("\n")));
        assert!(said.contains(&format!("`{lacks}`")), "{said}");
    }
    let said = refused(&format!("auth = \"eap-tls\"\nremote_auth = \"eap-tls\"\n{KEYS}"));
    assert!(said.contains("EAP proves the client"), "{said}");
    let said = refused(&format!("auth = \"cert\"\neap_server_id = \"aaa.example\"\n{KEYS}"));
    assert!(said.contains("nothing uses `eap_server_id`"), "{said}");
}

#[test]
fn eap_alone_is_for_methods_that_bear_it() {
    let password =
        "auth = \"eap-mschapv2\"\neap_identity = \"joe\"\neap_password_file = \"good.psk\"\nca = \"ca.pem\"";
    let said = refused(&format!("{password}\neap_only = \"yes\""));
    assert!(said.contains("poses as the server") && said.contains("insist"), "{said}");
    let insisted = auth(&format!("{password}\neap_only = \"insist\""));
    assert!(insisted.eap_only && insisted.warning().is_some_and(|w| w.contains("offline")));
    assert!(!auth(&format!("{password}\neap_only = \"no\"")).eap_only);
    let said = refused(&format!("auth = \"cert\"\neap_only = \"yes\"\n{KEYS}"));
    assert!(said.contains("nothing uses `eap_only`"), "{said}");
}

#[test]
fn radius_servers_have_secrets() {
    let base = "auth = \"psk\"\npsk_file = \"good.psk\"\nremote_auth = \"eap-radius\"\n";
    let servers = "radius = { servers = [\"192.0.2.5\", \"[2001:db8::5]:1645\"], secret_files = \"a.psk\", timeout = \"3s\" }";
    let RemoteProof::EapRadius(radius) = auth(&format!("{base}{servers}")).remote else { panic!() };
    let addresses: Vec<String> = radius.servers.iter().map(|s| s.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.5:1812", "[2001:db8::5]:1645"]);
    assert_eq!((radius.timeout.as_secs(), radius.nas_identifier.as_str()), (3, "culvert"));
    assert!(!format!("{radius:?}").contains("hunter2"));
    for (wrong, says) in [
        ("", "`radius`"),
        ("radius = { secret_files = \"a.psk\" }", "`servers`"),
        ("radius = { servers = \"192.0.2.5\" }", "`secret_files`"),
        ("radius = { servers = \"radius.example\", secret_files = \"a.psk\" }", "addresses"),
        ("radius = { servers = \"192.0.2.5\", secret_files = [\"a.psk\", \"b.psk\"] }", "2 secrets"),
        ("radius = { servers = \"192.0.2.5\", secret_files = \"missing.psk\" }", "missing.psk"),
        ("radius = { servers = \"192.0.2.5\", secret_files = \"a.psk\", timeout = \"1m\" }", "1s to 10s"),
        ("radius = { servers = \"192.0.2.5\", secret_files = \"a.psk\", timout = \"2s\" }", "timeout"),
        ("auth = \"eap-radius\"", "duplicate"),
    ] {
        let said = refused(&format!("{base}{wrong}"));
        assert!(said.contains(says), "{says}: {said}");
    }
    let said = refused("auth = \"eap-radius\"\nremote_auth = \"psk\"\npsk_file = \"good.psk\"");
    assert!(said.contains("for remote_auth only"), "{said}");
}
