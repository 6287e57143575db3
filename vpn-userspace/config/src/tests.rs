//! Whole files: what loads, with which defaults, and every mistake as the operator sees it.

use std::path::Path;
use std::time::Duration;

use culvert_ike::Psk;
use zeroize::Zeroizing;

use crate::secret::{FileKind, SecretError};
use crate::*;

/// Secret files by name: `good…`, or one for each fault.
fn secrets(path: &Path, kind: FileKind) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let content = |text: &str| Ok(Zeroizing::new(text.as_bytes().to_vec()));
    match &*name {
        "missing.psk" | "missing.pem" => Err(std::io::Error::from_raw_os_error(2).into()),
        "denied.psk" => Err(std::io::Error::from_raw_os_error(13).into()),
        "exposed.psk" | "exposed.pem" => Err(SecretError::Exposed { mode: 0o644 }),
        "foreign.psk" => Err(SecretError::Owner { owner: 1000, user: 0 }),
        "empty.psk" => content("\n"),
        "binary.psk" => content("hunter2\u{1}hunter2"),
        "ca.pem" => content(include_str!("../tests/pki/ca.pem")),
        "gw.pem" => content(include_str!("../tests/pki/gw.pem")),
        "gw.key" => content(include_str!("../tests/pki/gw.key")),
        "other.key" => content(include_str!("../tests/pki/other.key")),
        "users" => content("# who may\njane:other\njoe:sesame street\n"),
        _ if kind != FileKind::Secret => content("no pem"),
        _ => content("hunter2\n"),
    }
}

pub(crate) fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse("culvert.toml", text, Path::new("/etc/culvert"), &mut secrets)
}

const GATEWAY: &str = "[gateway]\nwan = \"eth0\"\n";

/// A file with one connection `c` with one tunnel `a`; keys of both as given.
pub(crate) fn with(connection: &str, tunnel: &str) -> String {
    let mut text = format!("{GATEWAY}[connection.c]\n");
    for (key, default) in
        [("local", "local = [\"192.168.0.0/24\"]\n"), ("remote", "remote = [\"172.16.0.0/16\"]\n")]
    {
        if !connection.lines().any(|line| line.starts_with(&format!("{key} "))) {
            text.push_str(default);
        }
    }
    text.push_str(connection);
    text.push_str("\n[connection.c.tunnel.a]\n");
    let own = tunnel.split('[').next().unwrap_or_default();
    for (key, default) in
        [("remote_address", "remote_address = \"203.0.113.1\"\n"), ("psk_file", "psk_file = \"good.psk\"\n")]
    {
        if !own.lines().any(|line| line.starts_with(key) || line.starts_with("copy")) {
            text.push_str(default);
        }
    }
    text.push_str(tunnel);
    text.push('\n');
    text
}

/// A second connection `d` beside that of [`with`].
const OTHER: &str = "[connection.d]\nlocal = [\"192.168.0.0/24\"]\nremote = [\"172.31.0.0/16\"]\n\
    [connection.d.tunnel.a]\nremote_address = \"203.0.113.9\"\npsk_file = \"good.psk\"\n";

pub(crate) fn check(name: &str, cases: &[(&str, String)]) {
    let mut all = String::new();
    for (title, text) in cases {
        let error = match parse(text) {
            Ok(config) => panic!("{title}: no error\n{text}\n{config:?}"),
            Err(error) => error,
        };
        let rendered = error.render(false);
        assert!(
            !rendered.contains("hunter2") && !error.to_string().contains("hunter2"),
            "{title}: shows a secret"
        );
        all.push_str(&format!("=== {title}\n{}\n", rendered.trim_end()));
        let line = error.to_string();
        assert!(line.starts_with("culvert.toml") && !line.is_empty(), "{title}: {line}");
    }
    insta::assert_snapshot!(name, all);
}

#[test]
fn mistakes_of_form_are_shown_in_their_place() {
    let cases = [
        ("not TOML", with("mtu = 1400 1500", "")),
        ("no closing quote", with("start = \"immediate", "")),
        ("a key twice", with("mtu = 1400\nmtu = 1500", "")),
        ("not a configuration", "hunter2\n".to_owned()),
        ("an empty file", String::new()),
        ("no wan", "[gateway]\nlan = \"eth1\"\n".to_owned()),
        ("gateway is no table", "gateway = 5\n".to_owned()),
        ("unknown key, near", with("remot = [\"10.0.0.0/8\"]", "")),
        ("unknown key, far", with("banana = 1", "")),
        ("unknown section", format!("{GATEWAY}[conection.c]\n")),
        ("a key of another section", with("psk_file = \"a.psk\"", "mtu = 1400")),
        ("keys of ike in the connection", with("lifetime = \"8h\"", "")),
        ("inline secret", with("", "psk = \"hunter2\"")),
        ("secret in a broken line", with("", "psk = \"hunter2\" \"x\"")),
        ("a connection without a name", format!("{GATEWAY}[connection]\nlocal = [\"10.0.0.0/8\"]\n")),
        ("keys into a relative path", format!("{GATEWAY}[log]\nike_secrets = \"secrets\"\n")),
        ("a bad name", format!("{GATEWAY}[connection.\"a/b\"]\n")),
        ("a long name", format!("{GATEWAY}[connection.{}]\n", "x".repeat(33))),
        (
            "no tunnel",
            format!("{GATEWAY}[connection.c]\nlocal = [\"10.0.0.0/24\"]\nremote = [\"10.1.0.0/24\"]\n"),
        ),
        ("no networks", format!("{GATEWAY}[connection.c]\n")),
        ("no address, no key", format!("{}[connection.c.tunnel.b]\nweight = 0\n", with("", ""))),
        (
            "wrong types",
            with(
                "local = \"192.168.0.0/24\"\nmtu = \"1400\"\nstart = true\nike = \"8h\"\nremote = [1]",
                "enabled = 1",
            ),
        ),
    ];
    check("form", &cases);
}

#[test]
fn ways_to_authenticate_that_cannot_be_are_refused() {
    let cert = "auth = \"cert\"\npsk_file = \"a.psk\"\nremote_auth = \"psk\"\n";
    let own = |certificate: &str, key: &str| {
        let keys = format!("certificate = \"{certificate}\"\nprivate_key = \"{key}\"");
        with("", &format!("{cert}{keys}"))
    };
    let cases = [
        ("unknown word", with("", "auth = \"certificate\"")),
        ("no certificate", with("", cert)),
        ("no authority", with("", "remote_auth = \"cert\"")),
        ("a certificate that nothing uses", with("", "auth = \"psk\"\ncertificate = \"gw.pem\"")),
        ("an authority that nothing uses", with("", "remote_auth = \"psk\"\nca = \"ca.pem\"")),
        (
            "a key that nothing uses",
            with(
                "",
                "certificate = \"gw.pem\"\nprivate_key = \"gw.key\"\nca = \"ca.pem\"\npsk_file = \"a.psk\"",
            ),
        ),
        ("no such certificate", own("missing.pem", "gw.key")),
        ("no such key", own("gw.pem", "missing.pem")),
        ("an exposed key", own("gw.pem", "exposed.pem")),
        ("a certificate without PEM", own("nothing.pem", "gw.key")),
        ("a key without PEM", own("gw.pem", "nothing.pem")),
        ("another key's certificate", own("gw.pem", "other.key")),
        ("no such authority", with("", "remote_auth = \"cert\"\nca = [\"ca.pem\", \"missing.pem\"]\n")),
        ("an empty path", with("", "ca = \"\"")),
    ];
    check("authentication", &cases);
}

#[test]
fn inner_addresses_and_sessions() {
    let cases = [
        ("asks and hands out", with("", "virtual_ip = true\npool = \"172.16.0.0/24\"")),
        ("a pool without a route", with("", "pool = [\"10.9.0.0/24\"]")),
        ("DNS for nobody", with("", "dns = \"10.1.0.53\"\ndns_domains = [\"corp.example\"]")),
        ("two of one family", with("", "virtual_ip = [\"0.0.0.0\", \"10.9.0.1\"]")),
        ("no address", with("", "virtual_ip = \"yes\"")),
        ("no domain", with("", "pool = \"172.16.0.0/24\"\ndns_domains = \"a b\"")),
        ("networks of a client", with("local = [\"192.168.0.0/24\"]", "virtual_ip = true")),
        ("anybody by a key", with("", "remote_address = \"any\"\nremote_id = \"any\"")),
        ("many from one address", with("", "pool = \"172.16.0.0/24\"\nclients = 5")),
        ("many without a pool", with("", "remote_address = \"any\"\nremote_id = \"b\"\nclients = 5")),
        ("no clients", with("", "clients = 0")),
        ("reauth too often", with("ike = { reauth = \"10s\" }", "")),
        ("reauth", with("ike = { reauth = 5, unique = \"always\" }", "")),
    ];
    check("session", &cases);
    let client = with("ike = { reauth = true, unique = \"keep\" }", "virtual_ip = true");
    let client =
        parse(&client.replace("local = [\"192.168.0.0/24\"]\n", "")).unwrap_or_else(|e| panic!("{e:?}"));
    let connection = &client.connections[0];
    assert_eq!((connection.reauth, connection.local.len()), (Some(connection.ike.lifetime), 0));
    assert_eq!(connection.tunnels[0].offers(connection), ["0.0.0.0/0".parse().unwrap()]);
    let server = parse(&with("", "pool = \"172.16.5.0/24\"\ndns = \"192.168.0.53\"")).unwrap();
    let culvert_ike::Addresses::Pool(pool) = &server.connections[0].tunnels[0].addresses else { panic!() };
    assert_eq!((pool.nets.len(), pool.dns.len()), (1, 1));
    let many = "remote_address = \"any\"\nremote_id = \"any\"\nclients = 100\npool = \"172.16.5.0/24\"\n\
                remote_auth = \"cert\"\nca = \"ca.pem\"";
    let many = parse(&with("", many)).unwrap_or_else(|e| panic!("{e:?}"));
    let tunnel = &many.connections[0].tunnels[0];
    assert_eq!((tunnel.clients, &tunnel.remote_id), (Some(100), &None));
}

#[test]
fn certificates_are_read() {
    let text =
        with("", "auth = \"cert\"\ncertificate = \"gw.pem\"\nprivate_key = \"gw.key\"\nca = \"ca.pem\"");
    let config = parse(&text.replace("psk_file = \"good.psk\"\n", "")).unwrap_or_else(|e| panic!("{e:?}"));
    let tunnel = &config.connections[0].tunnels[0];
    let LocalProof::Certificate { credentials, allow_sha1: false } = &tunnel.auth.local else { panic!() };
    assert_eq!(credentials.subject().to_string(), "C=CH, O=Culvert, CN=gw.example");
    assert_eq!(credentials.chain().len(), 1);
    let RemoteProof::Certificate { authorities, .. } = &tunnel.auth.remote else { panic!() };
    // openssl x509 -in ca.pem -noout -pubkey | openssl pkey -pubin -outform der | sha1sum
    assert_eq!(authorities.key_hashes().len(), 1);
    assert!(!format!("{config:?}").contains("PRIVATE"));
    // The same files, the same configuration.
    assert!(Config::diff(&config, &config.clone()).is_empty());
}

#[test]
fn values_that_cannot_be_are_refused() {
    let cases = [
        ("interface name", "[gateway]\nwan = [\"eth0\", \"a-very-long-interface\"]\n".to_owned()),
        ("guard", format!("{GATEWAY}guard = \"lern\"\n")),
        ("attach", format!("{GATEWAY}attach = \"xdp_native\"\n")),
        ("socket", format!("{GATEWAY}control_socket = \"culvert.sock\"\n")),
        ("workers", format!("{GATEWAY}workers = 0\n")),
        ("latency", format!("{GATEWAY}latency = \"lowest\"\n")),
        ("latency split", format!("{GATEWAY}latency = \"split\"\n")),
        ("offload", format!("{GATEWAY}offload = {{ gso = \"off\" }}\n")),
        ("bpf_hook", format!("{GATEWAY}bpf_hook = \"tcx\"\n")),
        ("bpf_hook before the guard", format!("{GATEWAY}bpf_hook = \"xdp\"\nattach = \"tcx\"\n")),
        ("offload, unknown", format!("{GATEWAY}offload = {{ lro = false }}\n")),
        ("the same ports", format!("{GATEWAY}natt_port = 500\n")),
        ("port", format!("{GATEWAY}ike_port = 70000\n")),
        ("log", format!("{GATEWAY}[log]\nlevel = \"verbose\"\n")),
        ("host bits", with("local = [\"192.168.0.1/24\"]", "")),
        ("no prefix", with("local = [\"192.168.0.0\"]", "")),
        ("no network", with("remote = [\"hangzhou\"]", "")),
        ("empty list", with("remote = []", "")),
        ("start", with("start = \"imediate\"", "")),
        ("engine", with("engine = \"kernel\"", "")),
        ("mtu", with("mtu = 100", "")),
        (
            "mtu for IPv6",
            with("mtu = 1200\nlocal = [\"2001:db8:1::/48\"]\nremote = [\"2001:db8:2::/48\"]", ""),
        ),
        ("duration without unit", with("ike = { lifetime = \"28800\" }", "")),
        ("duration as a number", with("ike = { lifetime = 28800 }", "")),
        ("no duration", with("dpd = { interval = \"often\" }", "")),
        ("short lifetime", with("esp = { lifetime = \"30s\" }", "")),
        ("long lifetime", with("ike = { lifetime = \"30d\" }", "")),
        ("dpd timeout", with("dpd = { interval = \"30s\", timeout = \"10s\" }", "")),
        ("dpd interval alone", with("dpd = { interval = \"1m\" }", "")),
        ("dpd off", with("dpd = { interval = \"0s\" }", "")),
        ("replay window", with("esp = { replay_window = 100 }", "")),
        ("proposal, near", with("ike = { proposals = [\"aes128-sha265-modp2048\"] }", "")),
        ("proposal, not supported", with("esp = { proposals = [\"camellia128-sha1\"] }", "")),
        ("proposal, incomplete", with("ike = { proposals = [\"aes256gcm16-prfsha384\"] }", "")),
        ("proposal, out of place", with("esp = { proposals = [\"aes256gcm16-prfsha384\"] }", "")),
        ("proposal, mixed", with("esp = { proposals = [\"aes256gcm16-aes128-sha256\"] }", "")),
        ("proposal, none", with("esp = { proposals = [] }", "")),
        ("address", with("", "remote_address = \"203.0.113.300\"")),
        ("address with prefix", with("", "local_address = \"198.51.100.20/32\"")),
        ("host name", with("", "remote_address = \"vpn..example\"")),
        ("unspecified", with("", "remote_address = \"0.0.0.0\"")),
        ("the same address", with("", "local_address = \"203.0.113.1\"")),
        ("two families", with("", "local_address = \"2001:db8::1\"")),
        ("any without id", with("start = \"respond\"", "remote_address = \"any\"")),
        ("any and immediate", with("start = \"immediate\"", "remote_address = \"any\"\nremote_id = \"b\"")),
        ("any and on-traffic", with("start = \"on-traffic\"", "remote_address = \"any\"\nremote_id = \"b\"")),
        ("identity", with("", "remote_id = \"\"\nlocal_id = \"CN=gw\"")),
        ("no name", with("", "remote_address = \"peer..example\"")),
        ("inside", with("", "inside = \"169.254.10.0/30\"")),
        ("inside broadcast", with("", "inside = [\"169.254.10.3/30\"]")),
        ("inside without prefix", with("", "inside = \"169.254.10.2\"")),
        ("weight", with("", "weight = 200")),
        ("ports contradict", with("wan_port = \"raw\"\nencap = \"udp\"", "")),
        ("ports of the kernel by AF_XDP", with("wan_port = \"xsk\"\nengine = \"xfrm\"", "")),
        (
            "AF_XDP without XDP",
            format!("{GATEWAY}attach = \"tcx\"\n{}", with("wan_port = \"xsk\"", "").replace(GATEWAY, "")),
        ),
        ("latency low of a connection", with("latency = \"low\"", "")),
        ("split with a kernel's engine", with("latency = \"split\"\nengine = \"xfrm\"", "")),
        ("split with IKEv1", with("latency = \"split\"\nike = { version = 1 }", "")),
        ("split into pairs", with("latency = \"split\"\nesp = { pairs = \"each\" }", "")),
        ("small packets without split", with("small_packets = { length = 100 }", "")),
        (
            "small packets",
            with(
                "latency = \"split\"\nsmall_packets = { length = 2000, dscp = [\"ef\", \"cs9\"], tcp = true }",
                "",
            ),
        ),
        ("LAN port xsk without a LAN", with("lan_port = \"xsk\"", "")),
        (
            "LAN port xsk of the kernel, without the guard",
            format!(
                "{GATEWAY}lan = [\"eth1\"]\nguard = \"off\"\n{}",
                with("lan_port = \"xsk\"\nengine = \"xfrm\"", "").replace(GATEWAY, "")
            ),
        ),
        ("ports of the kernel", with("wan_port = \"udp\"\nengine = \"xfrm\"", "")),
        ("child SAs per CPU with IKEv1", with("ike = { version = 1 }\nesp = { per_cpu = true }", "")),
        ("child SAs per CPU and pair", with("esp = { per_cpu = 4, pairs = \"each\" }", "")),
        ("too many child SAs per CPU", with("esp = { per_cpu = 65 }", "")),
        ("the kernel's keys with any engine", with("offload = \"crypto\"\noutput_mark = 7", "")),
        ("packets by the card", with("engine = \"xfrm\"\noffload = \"packet\"\noutput_mark = 0", "")),
    ];
    check("values", &cases);
}

#[test]
fn secrets_that_cannot_be_used_say_what_to_run() {
    let cases = ["missing", "denied", "exposed", "foreign", "empty", "binary"]
        .map(|name| (name, with("", &format!("psk_file = \"secrets/{name}.psk\""))));
    check("secrets", &cases);
    let copies = with(
        "",
        "psk_file = \"missing.psk\"\n[connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"",
    );
    assert_eq!(parse(&copies).unwrap_err().count(), 1, "the same file is reported once");
}

#[test]
fn connections_that_exclude_each_other_are_refused() {
    let two = |connection: &str, tunnel: &str, other: &str| format!("{}{other}", with(connection, tunnel));
    let cases = [
        ("remotes overlap", two("", "", &OTHER.replace("172.31.0.0/16", "172.16.4.0/24"))),
        ("remotes overlap, larger later", two("", "", &OTHER.replace("172.31.0.0/16", "172.0.0.0/8"))),
        ("remote twice", with("remote = [\"172.16.0.0/16\", \"172.16.0.0/16\"]", "")),
        ("remote within remote", with("remote = [\"172.16.4.0/24\", \"172.16.0.0/16\"]", "")),
        ("local and remote", with("remote = [\"192.168.0.0/16\"]", "")),
        ("families", with("remote = [\"2001:db8::/32\"]", "")),
        ("the peer in its own remote", with("remote = [\"203.0.113.0/24\"]", "")),
        (
            "inside twice",
            two("", "inside = \"169.254.10.2/30\"", &format!("{OTHER}inside = \"169.254.10.2/30\"\n")),
        ),
        (
            "inside overlap",
            two("", "inside = \"169.254.10.2/30\"", &format!("{OTHER}inside = [\"169.254.10.1/24\"]\n")),
        ),
        ("the same peer twice", two("", "", &OTHER.replace("203.0.113.9", "203.0.113.1"))),
        (
            "the same caller twice",
            two(
                "",
                "remote_address = \"any\"\nremote_id = \"branch\"",
                &OTHER.replace("\"203.0.113.9\"", "\"any\"\nremote_id = \"BRANCH\""),
            ),
        ),
        (
            "equal weights",
            with(
                "",
                "weight = 50\n[connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"\nweight = 50",
            ),
        ),
        (
            "weights by default",
            with(
                "",
                "[connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"\n[connection.c.tunnel.e]\ncopy = \"a\"\nremote_address = \"203.0.113.3\"",
            ),
        ),
        ("copy of nothing", with("", "[connection.c.tunnel.b]\ncopy = \"aa\"")),
        ("copies in a circle", with("", "copy = \"b\"\n[connection.c.tunnel.b]\ncopy = \"a\"\nweight = 0")),
        (
            "interfaces",
            two("", "", &OTHER.replace("connection.d", "connection.c-a").replace("tunnel.a", "tunnel.b"))
                + &with("", "")
                    .replace(GATEWAY, "")
                    .replace("connection.c", "connection.c-")
                    .replace("172.16", "172.17")
                    .replace("tunnel.a", "tunnel.x")
                    .replace("203.0.113.1", "203.0.113.7")
                + "[connection.c.tunnel.a-b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"\n",
        ),
    ];
    check("across", &cases);
}

#[test]
fn engine_bpf_takes_its_only_cipher() {
    let nets: Vec<String> = (0..9).map(|n| format!("\"172.16.{n}.0/24\"")).collect();
    let chacha = "engine = \"bpf\"\nesp = { proposals = [\"chacha20poly1305-curve25519\"] }";
    let cases = [
        ("engine bpf with what is offered by default", with("engine = \"bpf\"", "")),
        ("engine bpf with a port", with(&format!("{chacha}\nwan_port = \"udp\""), "")),
        ("engine bpf with many networks", with(&format!("remote = [{}]\n{chacha}", nets.join(", ")), "")),
    ];
    check("bpf", &cases);
    assert_eq!(parse(&with(chacha, "")).unwrap().connections[0].engine, crate::Engine::Bpf);
}

#[test]
fn what_later_versions_do_is_refused_by_name() {
    let cases = [
        ("routing policy", with("routing = \"policy\"", "")),
        ("mode without IKEv1", with("ike = { mode = \"aggressive\" }", "")),
        ("IKEv1 with EAP", with("ike = { version = 1 }", "remote_auth = \"eap-mschapv2\"")),
        ("IKEv1 with a certificate on one side", with("ike = { version = 1 }", "ca = \"ca.pem\"")),
        ("hybrid without a user", with("ike = { version = 1 }", "auth = \"xauth\"\nca = \"ca.pem\"")),
        ("xauth with IKEv2", with("", "auth = \"xauth\"\nca = \"ca.pem\"")),
        (
            "IKEv1 with an AEAD",
            with("ike = { version = 1, proposals = [\"aes256gcm16-prfsha384-ecp384\"] }", ""),
        ),
    ];
    check("later", &cases);
}

#[test]
fn the_example_loads() {
    let text = include_str!("../../../scripts/culvert.toml");
    let config = parse(text).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(config.connections.len(), 2);
    let hangzhou = config.connection("hangzhou").unwrap();
    let b = hangzhou.tunnel("b").unwrap();
    assert_eq!(b.local_address, Some("198.51.100.20".parse().unwrap()));
    assert_eq!(b.remote_id.as_ref().unwrap().to_string(), "203.0.113.22");
    assert_eq!((b.weight, b.interface.as_str()), (0, "cv-hangzhou-b"));
    assert_eq!(config.connection("branch").unwrap().tunnels[0].remote_address, Remote::Any);
}

/// "Keys that are commented out show their defaults", says the example.
#[test]
fn the_defaults_of_the_example_are_the_defaults() {
    let text = include_str!("../../../scripts/culvert.toml");
    let keys = [
        "guard",
        "attach",
        "control_socket",
        "ike_port",
        "natt_port",
        "latency",
        "offload",
        "bpf_hook",
        "level",
        "format",
        "start",
        "engine",
        "encap",
        "wan_port",
        "lan_port",
        "esp.replay_window",
        "esp.esn",
        "enabled",
    ];
    let mut uncommented = 0;
    let plain = parse(text).unwrap();
    for key in keys {
        let marked = format!("# {key} = ");
        let changed: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if line.starts_with(&marked) => {
                    uncommented += 1;
                    format!("{}\n", if key.starts_with("esp.") { "" } else { rest })
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let config = parse(&changed).unwrap_or_else(|error| panic!("{key}: {error:?}"));
        assert_eq!(Config::diff(&plain, &config), [], "{key}");
    }
    // `latency` and `offload` are keys of the gateway and of a connection.
    assert_eq!(uncommented, keys.len() + 2);
}

#[test]
fn the_example_of_the_design_loads() {
    let text = r#"
[gateway]
wan = "eth0"
lan = ["eth1"]

[connection.hangzhou]
local  = ["192.168.0.0/24"]
remote = ["172.16.0.0/16"]
routing = "static"
start = "immediate"
engine = "auto"
lan_port = "auto"
wan_port = "auto"
ike = { version = 2, proposals = ["aes256gcm16-prfsha384-ecp384", "aes128-sha256-modp2048"], lifetime = "8h" }
esp = { proposals = ["aes256gcm16-ecp384", "aes128-sha256-modp2048"], lifetime = "1h" }
dpd = { interval = "10s", timeout = "30s", action = "restart" }

[connection.hangzhou.tunnel.a]
local_address  = "198.51.100.20"
remote_address = "203.0.113.21"
psk_file = "secrets/hangzhou-a.psk"
inside = "169.254.10.2/30"
weight = 100

[connection.hangzhou.tunnel.b]
copy = "a"
remote_address = "203.0.113.22"
inside = "169.254.10.6/30"
weight = 0
"#;
    let config = parse(text).unwrap_or_else(|error| panic!("{error:?}"));
    let hangzhou = &config.connections[0];
    assert_eq!(hangzhou.ike.lifetime, Duration::from_secs(8 * 3600));
    assert_eq!(hangzhou.ike.proposals[1].to_string(), "aes128-sha256-prfsha256-modp2048");
    assert_eq!(hangzhou.tunnels[1].auth.local, LocalProof::Psk(Psk::new(*b"hunter2").unwrap()));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn defaults_are_filled_in() {
    let config = parse(&with("", "")).unwrap();
    let connection = &config.connections[0];
    insta::assert_debug_snapshot!("defaults", (&config.gateway, &config.log, connection));
    // A default that did not parse would be missing here.
    assert_eq!((connection.ike.proposals.len(), connection.esp.proposals.len()), (2, 2));
    let any = parse(&with("", "remote_address = \"any\"\nremote_id = \"b\"")).unwrap();
    assert_eq!(any.connections[0].start, Start::Respond);
}

#[test]
fn a_tunnel_takes_ids_from_the_copied_tunnel_before_the_connection() {
    let text = with(
        "local_id = \"gw.connection\"\nremote_id = \"peer.connection\"",
        "local_id = \"gw.tunnel\"\n[connection.c.tunnel.b]\ncopy = \"a\"\nlocal_address = \"198.51.100.2\"\nenabled = false",
    );
    let config = parse(&text).unwrap_or_else(|error| panic!("{error:?}"));
    let [a, b] = &*config.connections[0].tunnels else { panic!() };
    for tunnel in [a, b] {
        assert_eq!(tunnel.local_id.as_ref().unwrap().to_string(), "gw.tunnel");
        assert_eq!(tunnel.remote_id.as_ref().unwrap().to_string(), "peer.connection");
    }
    assert_eq!((a.weight, b.weight, a.enabled, b.enabled), (100, 0, true, false));
}

#[test]
fn ports_say_the_encapsulation() {
    for (keys, encap) in [
        ("wan_port = \"udp\"", Encap::Udp),
        ("wan_port = \"raw\"", Encap::Esp),
        ("wan_port = \"raw\"\nencap = \"auto\"", Encap::Esp),
        ("wan_port = \"auto\"\nencap = \"udp\"", Encap::Udp),
        ("wan_port = \"xsk\"\nencap = \"udp\"", Encap::Udp),
        ("wan_port = \"xsk\"", Encap::Auto),
        ("encap = \"esp\"", Encap::Esp),
    ] {
        assert_eq!(parse(&with(keys, "")).unwrap().connections[0].encap, encap, "{keys}");
    }
}

#[test]
fn hubs_and_neighbouring_networks_are_not_refused() {
    let hub = format!(
        "{}{}",
        with("local = [\"10.2.0.0/16\"]\nremote = [\"10.1.0.0/16\"]", ""),
        OTHER.replace("192.168.0.0/24", "10.1.0.0/16").replace("172.31.0.0/16", "10.2.0.0/16")
    );
    parse(&hub).unwrap_or_else(|error| panic!("{error:?}"));
    let neighbours = with(
        "remote = [\"10.0.0.0/9\", \"10.128.0.0/10\"]",
        "inside = [\"169.254.1.1/32\", \"fd00::1/127\"]",
    );
    parse(&neighbours).unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn interfaces_are_checked_against_the_host() {
    let config = parse("[gateway]\nwan = [\"eth0\", \"ens33\"]\nlan = \"lan0\"\n").unwrap();
    config.check_interfaces(&["lo", "eth0", "ens33", "lan0"]).unwrap();
    let error = config.check_interfaces(&["lo", "eth0", "ens3"]).unwrap_err();
    insta::assert_snapshot!("interfaces", error.render(false));
}

#[test]
fn reload_finds_what_changed() {
    let old = format!("{}{OTHER}", with("", ""));
    let check = |new: String, expected: &[(&str, &str, Effect)]| {
        let (old, new) = (parse(&old).unwrap(), parse(&new).unwrap_or_else(|error| panic!("{error:?}")));
        let got: Vec<_> = Config::diff(&old, &new)
            .into_iter()
            .map(|change| {
                let kind = match &change.kind {
                    Kind::Added => "added".to_owned(),
                    Kind::Removed => "removed".to_owned(),
                    Kind::Changed { keys, .. } => keys.join(" "),
                };
                (change.subject.to_string(), kind, change.effect())
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|(s, k, e)| (s.to_string(), k.to_string(), *e)).collect();
        assert_eq!(got, expected);
    };
    check(old.clone(), &[]);
    check(format!("# a comment\n{old}"), &[]);
    check(with("", ""), &[("connection d", "removed", Effect::Live)]);
    check(
        format!(
            "{old}{}",
            OTHER.replace("connection.d", "connection.e").replace("31", "30").replace(".9", ".8")
        ),
        &[("connection e", "added", Effect::Live)],
    );
    check(old.replace("172.31.0.0/16", "172.31.0.0/17"), &[("connection d", "remote", Effect::Live)]);
    check(
        format!("{}{OTHER}", with("start = \"respond\"\ndpd = { action = \"clear\" }", "weight = 7")),
        &[("connection c", "start dpd.action", Effect::Live), ("tunnel c/a", "weight", Effect::Live)],
    );
    check(
        format!(
            "{}{OTHER}",
            with("", "[connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"")
        ),
        &[("tunnel c/b", "added", Effect::Live)],
    );
    check(
        format!("{}{OTHER}", with("", "psk_file = \"empty-not.psk\"\nlocal_address = \"198.51.100.1\"")),
        &[("tunnel c/a", "local_address", Effect::Renegotiate)],
    );
    check(
        old.replace("[connection.c]", "workers = 3\n[log]\nlevel = \"debug\"\n[connection.c]"),
        &[("gateway", "workers", Effect::Restart), ("log", "level", Effect::Live)],
    );
}

#[test]
fn a_changed_key_is_a_change_although_its_file_is_the_same() {
    let text = with("", "");
    let other = &mut |_: &Path, _| Ok(Zeroizing::new(b"another".to_vec()));
    let new = Config::parse("culvert.toml", &text, Path::new("."), other).unwrap();
    let changes = Config::diff(&parse(&text).unwrap(), &new);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].keys(), changes[0].effect()), (&["psk_file"][..], Effect::Renegotiate));
}

#[test]
fn load_reads_the_file_and_its_secrets() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("culvert.toml");
    let secret = folder.path().join("good.psk");
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.contains("cannot be read") && error.contains("--config FILE"), "{error}");
    std::fs::write(&path, with("", "")).unwrap();
    std::fs::write(&secret, "swordfish\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Config::load(&path).unwrap_err();
    assert!(error.to_string().contains(&format!("run `chmod 600 {}`", secret.display())), "{error}");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = Config::load(&path).unwrap_or_else(|error| panic!("{error:?}"));
    let swordfish = Psk::new(*b"swordfish").unwrap();
    assert_eq!(config.connections[0].tunnels[0].auth.remote, RemoteProof::Psk(swordfish));
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("not UTF-8"));
    assert!(Config::load(folder.path()).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn ten_thousand_connections_are_checked_in_seconds() {
    let mut text = GATEWAY.to_owned();
    for n in 0..10_000u32 {
        let (high, low) = (n >> 8, n & 0xff);
        text.push_str(&format!(
            "[connection.n{n}]\nlocal = [\"192.168.0.0/24\"]\nremote = [\"10.{high}.{low}.0/24\"]\n\
             [connection.n{n}.tunnel.a]\nremote_address = \"100.64.{high}.{low}\"\npsk_file = \"good.psk\"\n\
             inside = \"169.{high}.{low}.1/30\"\n"
        ));
    }
    text = text.replace("\"100.64.0.0\"", "\"100.64.0.255\"").replace(
        "\"100.64.0.255\"\npsk_file = \"good.psk\"\ninside = \"169.0.255.1/30\"",
        "\"100.65.0.1\"\npsk_file = \"good.psk\"",
    );
    let begin = std::time::Instant::now();
    match parse(&text) {
        Ok(config) => assert_eq!(config.connections.len(), 10_000),
        Err(error) => panic!("{error}"),
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn offloads_are_switched_one_by_one() {
    let config =
        parse(&format!("{GATEWAY}latency = \"low\"\noffload = {{ gso = false, uso = false }}\n")).unwrap();
    let plane = config.gateway.dataplane;
    assert_eq!(plane.latency, crate::Latency::Low);
    assert_eq!(plane.offload, crate::Offload { gso: false, uso: false, ..crate::Offload::default() });
    let changes = Config::diff(&parse(GATEWAY).unwrap(), &config);
    assert_eq!(changes.len(), 1, "{changes:?}");
}

#[test]
fn the_hook_of_bpf_goes_with_a_guard_in_native_xdp_or_none() {
    for (guard, fits) in [
        ("", true),
        ("attach = \"xdp-native\"\n", true),
        ("attach = \"xdp-generic\"\n", false),
        ("attach = \"tcx\"\nguard = \"off\"\n", true),
    ] {
        let parsed = parse(&format!("{GATEWAY}bpf_hook = \"xdp\"\n{guard}"));
        let hook = parsed.map(|config| config.gateway.dataplane.bpf_hook);
        assert_eq!(hook.ok(), fits.then_some(crate::BpfHook::Xdp), "{guard}");
    }
}
