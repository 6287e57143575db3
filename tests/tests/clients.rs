//! One tunnel definition, several clients at once: strongSwan in namespaces of its own, three times over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::netns::{End, link};
use culvert_lab::topology::{HOST_B, LAN_B, WAN_B};
use culvert_lab::{
    Connection, Culvert, GatewayConfig, Namespace, Site, StrongSwan, SwanConfig, SwanConnection, SwanEngine,
    wait_for,
};
use culvert_tests::pki::{Key, Wish, authority, issue};
use culvert_tests::{ID_B, no_loss};
use serde_json::Value;

const POOL: &str = "10.9.0.0/24";

/// The clients' lines in the status.
fn clients(server: &Culvert) -> Result<Vec<Value>> {
    let status = server.status()?;
    let tunnels = status["connections"][0]["tunnels"].as_array().context("no tunnels")?;
    let client = |t: &&Value| t["name"].as_str().is_some_and(|name| name.contains('#'));
    Ok(tunnels.iter().filter(client).cloned().collect())
}

#[test]
fn a3_each_has_an_ike_sa_an_address_a_line_and_a_history() -> Result<()> {
    let site = Site::new()?;
    let ca = authority("Test CA", Key::P256)?;
    let names = format!("DNS:{ID_B}");
    let gw = issue(&ca, &Wish { names: &names, common_name: ID_B, ..Wish::default() }, Key::P256)?;

    let mut connection = Connection::new(WAN_B, "any", &[LAN_B], &[POOL]).respond();
    connection.name = "roads".into();
    connection.set = [
        ("tunnel.a.psk_file", ""),
        ("tunnel.a.remote_address", "\"any\""),
        ("tunnel.a.local_id", &format!("\"{ID_B}\"")),
        ("tunnel.a.remote_id", "\"any\""),
        ("tunnel.a.clients", "3"),
        ("tunnel.a.pool", &format!("[\"{POOL}\"]")),
        ("tunnel.a.auth", "\"cert\""),
        ("tunnel.a.certificate", "\"gw.pem\""),
        ("tunnel.a.private_key", "\"gw.key\""),
        ("tunnel.a.remote_auth", "\"eap-mschapv2\""),
        ("tunnel.a.users_file", "\"users\""),
    ]
    .map(|(path, value)| (path.to_owned(), value.to_owned()))
    .to_vec();
    let mut config = GatewayConfig::new(vec![connection]);
    let users = b"joe:correct horse\nann:correct horse\nbob:correct horse\neve:correct horse\n";
    config.files = vec![
        ("gw.pem".into(), gw.certificate.clone()),
        ("gw.key".into(), gw.key.clone()),
        ("users".into(), users.to_vec()),
    ];
    let server = Culvert::start(&site.gateway_b, &config)?;

    // Hosts of their own on the WAN's router, one of them with an address that is not the first's.
    let mut hosts = Vec::new();
    for (n, user) in ["joe", "ann", "bob", "eve"].into_iter().enumerate() {
        let host = Namespace::new(user)?;
        let (own, router) = (format!("192.0.{n}.2/24"), format!("192.0.{n}.254/24"));
        let name = format!("to-{user}");
        link(
            End { namespace: &host, name: "wan", addresses: &[&own] },
            End { namespace: &site.wan, name: &name, addresses: &[&router] },
            None,
        )?;
        host.ip(&format!("route add default via 192.0.{n}.254"))?;
        hosts.push((host, user));
    }
    let start = |host: &Namespace, user: &str| -> Result<StrongSwan> {
        let mut client = SwanConnection::new("%any", WAN_B, "dynamic", LAN_B);
        client.local_id = format!("{user}@culvert.test");
        client.remote_id = ID_B.into();
        client.set = [
            ("vips", "0.0.0.0"),
            ("remote.auth", "pubkey"),
            ("local.auth", "eap-mschapv2"),
            ("local.eap_id", user),
            ("/secrets.eap.id", user),
            ("/secrets.eap.secret", "correct horse"),
        ]
        .map(|(path, value)| (path.to_owned(), value.to_owned()))
        .to_vec();
        let mut config = SwanConfig::new(SwanEngine::User, &[client]);
        config.charon = vec![("install_virtual_ip".into(), "yes".into())];
        config.files = vec![("x509ca/ca.pem".into(), ca.certificate.clone())];
        StrongSwan::with(host, &config)
    };
    let mut swans = Vec::new();
    for (host, user) in &hosts[..3] {
        let swan = start(host, user)?;
        swan.initiate("net").with_context(|| format!("{user}; culvertd's log:\n{}", server.log()))?;
        swans.push(swan);
    }
    let up = wait_for("three clients", Duration::from_secs(10), || {
        clients(&server).ok().filter(|all| all.len() == 3 && all.iter().all(|c| c["state"] == "up"))
    })
    .with_context(|| server.log())?;
    let field =
        |c: &Value, path: &str| c.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut addresses: Vec<String> = up.iter().map(|c| field(c, "/ike/peer_virtual_ips/0")).collect();
    for (n, (client, user)) in up.iter().zip(["joe", "ann", "bob"]).enumerate() {
        ensure!(client["name"] == format!("a#{}", n + 1), "{client:#}");
        ensure!(field(client, "/ike/remote/id") == format!("{user}@culvert.test"), "{client:#}");
        ensure!(field(client, "/children/0/remote_ts/0") == format!("{}/32", addresses[n]), "{client:#}");
    }
    // At the same time, each with its own address, and each counted on its own.
    for (host, user) in &hosts[..3] {
        no_loss(host, HOST_B).with_context(|| format!("{user}; {}", server.log()))?;
    }
    for address in &addresses {
        no_loss(&site.host_b, address)?;
    }
    ensure!(
        clients(&server)?.iter().all(|c| c["children"][0]["packets_in"].as_u64() >= Some(20)),
        "not counted"
    );
    addresses.dedup();
    ensure!(addresses.len() == 3, "{addresses:?}");

    // One more than there may be: refused with the reason, and nobody else notices.
    let fourth = start(&hosts[3].0, "eve")?;
    ensure!(fourth.initiate("net").is_err(), "a fourth client came in");
    server.wait_log(&["3 clients already", "to mend"], Duration::from_secs(5))?;
    // The second goes; the others stay, and the fourth has its place.
    swans[1].terminate("site")?;
    wait_for("it to go", Duration::from_secs(5), || (clients(&server).ok()?.len() == 2).then_some(()))?;
    fourth.initiate("net").with_context(|| server.log())?;
    no_loss(&hosts[3].0, HOST_B)?;
    no_loss(&hosts[0].0, HOST_B)?;
    let told = server.cli(&["explain", "roads/a#2"])?;
    ensure!(told.contains("ann@culvert.test") && told.contains("eve@culvert.test"), "{told}");
    // The first comes once more from elsewhere: its own IKE SA is replaced, not another's.
    swans[0].kill();
    swans[1].kill();
    let again = start(&hosts[1].0, "joe")?;
    again.initiate("net").with_context(|| server.log())?;
    no_loss(&hosts[1].0, HOST_B)?;
    let now = clients(&server)?;
    ensure!(now.len() == 3 && field(&now[0], "/ike/remote/address").starts_with("192.0.1.2:"), "{now:#?}");
    // The operator takes one down, then all.
    server.cli(&["down", "roads/a#3"])?;
    wait_for("one to go", Duration::from_secs(5), || (clients(&server).ok()?.len() == 2).then_some(()))?;
    server.cli(&["down", "roads"])?;
    wait_for("all to go", Duration::from_secs(5), || clients(&server).ok()?.is_empty().then_some(()))
}
