//! Paperwork: what Culvert writes for the other side, and what it makes of others' files, brought up against strongSwan.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::{Setup, binary};
use culvert_lab::topology::{HOST_A, HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{
    Connection, Culvert, GatewayConfig, Site, StrongSwan, SwanConnection, SwanEngine, wait_for,
};
use culvert_tests::no_loss;

/// `culvert ARGUMENTS`: whether it succeeded, its output and its errors.
fn culvert(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(binary("culvert")?).args(arguments).env("NO_COLOR", "1").output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// The same where it must succeed; its output.
fn culvert_says(arguments: &[&str]) -> Result<String> {
    let (code, out, err) = culvert(arguments)?;
    ensure!(code == Some(0), "culvert {arguments:?} ended with {code:?}: {err}");
    Ok(out)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// A charon of which nothing is configured.
fn bare(site: &Site) -> Result<StrongSwan> {
    StrongSwan::start(&site.gateway_b, SwanEngine::User, &[])
}

/// Has strongSwan load a swanctl.conf in place of what it has.
fn load(swan: &StrongSwan, text: &str) -> Result<()> {
    let file = swan.directory().join("printed.conf");
    std::fs::write(&file, text)?;
    swan.swanctl(&["--load-all", "--clear", "--noprompt", "--file", path(&file)?]).map(drop)
}

fn pings(site: &Site) -> Result<()> {
    // The other side may still be installing what this one has.
    for (from, to) in [(&site.host_a, HOST_B), (&site.host_b, HOST_A)] {
        let arrives = || no_loss(from, to).ok();
        wait_for("pings without loss", Duration::from_secs(10), arrives)?;
    }
    Ok(())
}

#[test]
fn c6_strongswan_comes_up_from_what_export_prints() -> Result<()> {
    let site = Site::new()?;
    let swan = bare(&site)?;
    let mut two = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    two.ike = vec!["aes256gcm16-prfsha384-ecp384".into(), "aes128-sha256-modp2048".into()];
    two.esp = vec!["chacha20poly1305-ecp384".into(), "aes128-sha256-modp2048".into()];
    // Everything that has a meaning of its own in swanctl.conf.
    two.tunnels[0].psk = "~`!@#$%^&*()_-+={}[]\\|;:',.<>/?\"".into();
    two.tunnels[0].local_id = Some("gw.example".into());
    two.tunnels[0].remote_id = Some("branch@example".into());
    let mut one = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    one.set = vec![("ike.version".into(), "1".into())];
    one.ike = vec!["aes128-sha256-modp2048".into()];
    one.esp = vec!["aes128-sha256-modp2048".into()];
    one.tunnels[0].psk = "0sLooksLikeBase64".into();
    // Which begins is the other way round at the far end.
    let one = one.respond();
    for (connection, version) in [(two, 2), (one, 1)] {
        let setup = Setup::new(&GatewayConfig::new(vec![connection]))?;
        let export = ["export", "site", "--for", "strongswan", "--config"];
        let config = setup.config();
        let printed = culvert_says(&[&export[..], &[path(&config)?, "--with-secrets"]].concat())?;
        let mut ours = Culvert::resume(&site.gateway_a, setup)?;
        load(&swan, &printed).with_context(|| printed.clone())?;
        let up = ours.wait_site().with_context(|| format!("{printed}\ncharon's log:\n{}", swan.log()))?;
        ensure!(up.0["ike"]["version"] == version, "{:#}", up.0);
        pings(&site)?;
        ensure!(ours.stop()?.success(), "culvertd ended badly: {}", ours.log());
    }
    Ok(())
}

/// What it prints for a Culvert is a configuration that a Culvert takes, and the two come up.
#[test]
fn c6_culvert_comes_up_from_what_export_prints() -> Result<()> {
    let site = Site::new()?;
    let mut ours = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    ours.tunnels[0].inside = Some("169.254.10.2/30".into());
    let setup = Setup::new(&GatewayConfig::new(vec![ours]))?;
    let config = setup.config();
    let config = path(&config)?;
    let (code, hidden, told) = culvert(&["export", "site", "--for", "culvert", "--config", config])?;
    ensure!(
        code == Some(0) && !hidden.contains("battery staple") && told.contains("--with-secrets"),
        "{told}"
    );
    let printed =
        culvert_says(&["export", "site", "--for", "culvert", "--config", config, "--with-secrets"])?;
    ensure!(printed.contains("correct horse battery staple"), "{printed}");
    // As its comments say: a file, the interface's name, and the key in its place.
    let theirs = Setup::new(&GatewayConfig::new(vec![]))?;
    std::fs::write(theirs.config(), printed.replace("wan = \"eth0\"", "wan = \"wan\""))?;
    let folder = theirs.config().with_file_name("secrets");
    std::fs::create_dir_all(&folder)?;
    let ours_key = setup.config().with_file_name("site-a.psk");
    std::fs::copy(ours_key, folder.join("site-a.psk"))?;
    let b = Culvert::resume(&site.gateway_b, theirs).with_context(|| printed.clone())?;
    let a = Culvert::resume(&site.gateway_a, setup)?;
    a.wait_site().with_context(|| b.log())?;
    pings(&site)?;
    let (code, _, told) = culvert(&["export", "nowhere", "--for", "culvert", "--config", config])?;
    ensure!(code == Some(1) && told.contains("there is no connection nowhere; there are: site"), "{told}");
    Ok(())
}

/// What AWS lets its customers download, for two tunnels whose other ends strongSwan is here.
#[test]
fn b8_tunnels_come_up_from_a_clouds_download() -> Result<()> {
    const WAN_B_TOO: &str = "203.0.113.2";
    let site = Site::new()?;
    site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
    let download = include_str!("../../../vpn-userspace/paper/src/import/samples/aws-static.txt");
    let setup = Setup::new(&GatewayConfig::new(vec![]))?;
    let config = setup.config();
    let config = path(&config)?;
    let file = setup.config().with_file_name("download.txt");
    std::fs::write(&file, download)?;
    let import = ["import", path(&file)?, "--config", config, "--name", "cloud"];
    // Only shown first: no key, and nothing written.
    let (code, shown, report) = culvert(&import)?;
    ensure!(code == Some(0) && shown.contains("[connection.cloud.tunnel.b]"), "{shown}{report}");
    ensure!(!shown.contains("first.key") && !report.contains("first.key"), "{shown}{report}");
    ensure!(report.contains("line   54 left out  flux capacitor"), "{report}");
    let (code, _, told) = culvert(&[&import[..], &["--write"]].concat())?;
    ensure!(code == Some(1) && told.contains("add --local"), "{told}");
    let nets = ["--local", LAN_A, "--remote", LAN_B, "--write"];
    culvert_says(&[&import[..], &nets].concat())?;
    let (code, _, told) = culvert(&[&import[..], &nets].concat())?;
    ensure!(code == Some(1) && told.contains("there is a connection cloud already"), "{told}");
    // The cloud.
    let far = |address: &str, key: &str| {
        let mut far = SwanConnection::new(address, WAN_A, LAN_B, LAN_A);
        far.name = format!("to-{}", address.replace('.', "-"));
        far.psk = key.into();
        // Both have the customer's id.
        far.set.push((format!("/secrets.ike-{}.id-local", far.name), address.into()));
        far.proposals = "aes128-sha256-modp2048".into();
        for child in &mut far.children {
            child.name = format!("net-{}", address.replace('.', "-"));
            child.esp_proposals = "aes128-sha256-modp2048".into();
        }
        far
    };
    let ends = [far(WAN_B, "first.key_Of_16chars"), far(WAN_B_TOO, "second.key_Of_16char")];
    let swan = StrongSwan::start(&site.gateway_b, SwanEngine::User, &ends)?;
    let ours = Culvert::resume(&site.gateway_a, setup)?;
    for tunnel in ["a", "b"] {
        let up = ours.wait_up("cloud", tunnel, Duration::from_secs(20));
        up.with_context(|| format!("charon's log:\n{}", swan.log()))?;
    }
    pings(&site)
}

/// A new key is one that strongSwan takes as it is, marks and all.
#[test]
fn c5_a_generated_key_brings_a_tunnel_up() -> Result<()> {
    let site = Site::new()?;
    let mut key = String::new();
    // Letters and digits alone come once in thousands of times.
    while key.chars().all(|c| c.is_ascii_alphanumeric()) {
        key = culvert_says(&["psk", "generate"])?.trim_end().to_owned();
        ensure!(key.len() == 16 && !key.contains(' '), "{key}");
    }
    for whose in ["aws", "alibaba", "jdcloud", "cisco"] {
        let new = culvert_says(&["psk", "generate", "--for", whose])?;
        ensure!(new.trim_end().len() >= 16, "{new}");
    }
    let mut far = SwanConnection::new(WAN_B, WAN_A, LAN_B, LAN_A);
    far.psk = format!("0x{}", key.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    let swan = StrongSwan::start(&site.gateway_b, SwanEngine::User, &[far])?;
    let mut connection = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    connection.tunnels[0].psk.clone_from(&key);
    let ours = Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![connection.clone()]))?;
    ours.wait_site().with_context(|| format!("charon's log:\n{}", swan.log()))?;
    pings(&site)?;
    // One that clouds refuse is told when the configuration is checked, without the key itself.
    connection.tunnels[0].psk = "with a space".into();
    let setup = Setup::new(&GatewayConfig::new(vec![connection]))?;
    let output =
        Command::new(binary("culvertd")?).arg("--check").arg("--config").arg(setup.config()).output()?;
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(told.contains("character 5 may not stand in it") && !told.contains("with a space"), "{told}");
    Ok(())
}

/// Two addresses of the cloud and four of this side make four tunnels, two to each; one of each makes one.
#[test]
fn d1_tunnels_are_laid_from_the_counts_of_addresses() -> Result<()> {
    let setup = Setup::new(&GatewayConfig::new(vec![]))?;
    let config = setup.config();
    let config = path(&config)?;
    let create = [
        "connection",
        "create",
        "border",
        "--config",
        config,
        "--local",
        "10.1.0.0/24",
        "--remote",
        "10.2.0.0/24",
    ];
    let cloud = ["--remote-address", "203.0.113.1,203.0.113.2"];
    let four = ["--local-address", "198.51.100.1,198.51.100.2,198.51.100.3,198.51.100.4"];
    let shown = culvert_says(&[&create[..], &cloud, &four, &["--dry-run"]].concat())?;
    ensure!(!std::fs::read_to_string(config)?.contains("border"), "a dry run wrote");
    for (tunnel, local, remote, weight) in
        [("a", 1, 1, 100), ("b", 2, 1, 34), ("c", 3, 2, 67), ("d", 4, 2, 0)]
    {
        let section: Vec<&str> = shown
            .lines()
            .skip_while(|line| *line != format!("+ [connection.border.tunnel.{tunnel}]"))
            .take_while(|line| line.len() > 1)
            .collect();
        let section = section.join("\n");
        for line in [
            format!("+ local_address = \"198.51.100.{local}\""),
            format!("+ remote_address = \"203.0.113.{remote}\""),
            format!("+ weight = {weight}"),
        ] {
            ensure!(section.contains(&line), "{tunnel}: no {line} in\n{shown}");
        }
    }
    let (code, _, told) =
        culvert(&[&create[..], &["--remote-address", "203.0.113.1,203.0.113.2,203.0.113.3"]].concat())?;
    ensure!(code == Some(1) && told.contains("give 1, 2 or 4"), "{told}");
    Ok(())
}

/// A connection made by commands alone on both sides: created here, exported there, planned, applied, up.
#[test]
fn d2_a_created_connection_comes_up() -> Result<()> {
    let site = Site::new()?;
    let setup = Setup::new(&GatewayConfig::new(vec![]))?;
    let (config, socket) = (setup.config(), setup.socket());
    let (config, socket) = (path(&config)?, path(&socket)?);
    let ours = Culvert::resume(&site.gateway_a, setup)?;
    ensure!(culvert_says(&["--socket", socket, "plan"])? == "nothing changes\n");
    let before = std::fs::read_to_string(config)?;
    std::fs::write(config, format!("# a comment of mine\n{before}"))?;
    let create = [
        "connection",
        "create",
        "site",
        "--config",
        config,
        "--local",
        LAN_A,
        "--remote",
        LAN_B,
        "--remote-address",
        WAN_B,
        "--local-address",
        WAN_A,
        "--profile",
        "aws",
        "--inside",
        "169.254.10.2/30",
    ];
    let told = culvert_says(&create)?;
    ensure!(told.contains("+ ike.profile = \"aws\"") && told.contains("secrets/site-a.psk"), "{told}");
    ensure!(std::fs::read_to_string(config)?.starts_with("# a comment of mine\n"));
    let key = std::fs::read_to_string(Path::new(config).with_file_name("secrets").join("site-a.psk"))?;
    ensure!(!told.contains(key.trim()) && key.trim().len() == 32, "{told}");
    // The same network once more, and the same name.
    let (code, _, refused) = culvert(&create)?;
    ensure!(code == Some(1) && refused.contains("already"), "{refused}");
    let clash = [
        "connection",
        "create",
        "two",
        "--config",
        config,
        "--local",
        LAN_A,
        "--remote",
        LAN_B,
        "--remote-address",
        "203.0.113.9",
    ];
    let (code, _, refused) = culvert(&clash)?;
    ensure!(code == Some(1) && refused.contains("overlaps"), "{refused}");
    // The other side.
    let printed =
        culvert_says(&["export", "site", "--for", "strongswan", "--with-secrets", "--config", config])?;
    let swan = bare(&site)?;
    load(&swan, &printed)?;
    let (code, planned, _) = culvert(&["--socket", socket, "plan"])?;
    ensure!(code == Some(3) && planned == "+ connection site\n", "{code:?} {planned}");
    let (code, _, asked) = culvert(&["--socket", socket, "apply"])?;
    ensure!(code == Some(1) && asked.contains("--yes"), "{asked}");
    culvert_says(&["--socket", socket, "apply", "--yes"])?;
    ours.wait_site().with_context(|| format!("{printed}\ncharon's log:\n{}", swan.log()))?;
    pings(&site)?;
    // What a change would take, before it is made.
    let old = std::fs::read_to_string(config)?;
    std::fs::write(config, old.replace("weight = 100", "weight = 90"))?;
    let (code, planned, _) = culvert(&["--socket", socket, "plan"])?;
    ensure!(code == Some(3) && planned.contains("~ tunnel site/a: weight (while it runs"), "{planned}");
    let other = Path::new(config).with_file_name("other.toml");
    std::fs::write(&other, old.replace("aws", "cisco"))?;
    let (code, planned, _) = culvert(&["plan", path(&other)?, "--config", config])?;
    ensure!(
        code == Some(3) && planned.contains("ike.proposals") && planned.contains("negotiated anew"),
        "{planned}"
    );
    std::fs::write(config, "nonsense")?;
    let (code, _, told) = culvert(&["--socket", socket, "plan"])?;
    ensure!(code == Some(1) && told.contains("not a configuration of Culvert"), "{told}");
    Ok(())
}

/// Lets nothing in or out of the gateway itself but what is asked for on the LAN.
const CLOSED: &str = "table inet closed {
    chain inward { type filter hook input priority 0; policy drop; iifname { lo, lan } accept; }
    chain outward { type filter hook output priority 0; policy drop; oifname { lo, lan } accept; }
}";

/// Behind a firewall that drops by default a tunnel needs the rules that Culvert installs.
#[test]
fn b11_installed_rules_let_a_tunnel_through_a_closed_firewall() -> Result<()> {
    let site = Site::new()?;
    let far = Connection::new(WAN_B, WAN_A, &[LAN_B], &[LAN_A]).respond();
    let _far = Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![far]))?;
    site.gateway_a.run("nft", &[CLOSED])?;
    let setup = Setup::new(&GatewayConfig::new(vec![Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B])]))?;
    let config = setup.config();
    let config = path(&config)?;
    let printed = culvert_says(&["firewall", "site", "--config", config])?;
    ensure!(printed.contains("UDP to port 500 (IKE)") && printed.contains(WAN_B), "{printed}");
    let ours = Culvert::resume(&site.gateway_a, setup)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(!ours.site()?.is_up(), "the firewall lets everything through");
    let program = binary("culvert")?;
    let firewall = |arguments: &[&str]| {
        site.gateway_a.run(path(&program)?, &[&["firewall", "--config", config], arguments].concat())
    };
    // Twice is as once.
    for _ in 0..2 {
        firewall(&["--install"])?;
    }
    let rules = site.gateway_a.run("nft", &["list", "chain", "inet", "closed", "inward"])?;
    ensure!(rules.matches("culvert: site/a").count() == 2, "{rules}");
    ours.wait_site()?;
    pings(&site)?;
    let counted = site.gateway_a.run("nft", &["list", "table", "inet", "culvert"])?;
    ensure!(counted.contains("udp dport 4500 counter packets"), "{counted}");
    firewall(&["--remove"])?;
    let rules = site.gateway_a.run("nft", &["list", "ruleset"])?;
    ensure!(!rules.contains("culvert") && rules.contains("table inet closed"), "{rules}");
    Ok(())
}

/// One tunnel by IKEv2, the other by IKEv1 with ciphers, lifetimes and a key of its own.
#[test]
fn d2_each_tunnel_has_its_own_ike() -> Result<()> {
    const WAN_B_TOO: &str = "203.0.113.2";
    let site = Site::new()?;
    site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
    let end = |address: &str, version: &str, key: &str, suite: &str, esp: &str| {
        let mut end = SwanConnection::new(address, WAN_A, LAN_B, LAN_A);
        end.name = format!("v{version}");
        end.psk = key.into();
        end.proposals = suite.into();
        end.set.push(("version".into(), version.into()));
        end.set.push((format!("/secrets.ike-v{version}.id-local"), address.into()));
        for child in &mut end.children {
            child.name = format!("net{version}");
            child.esp_proposals = esp.into();
        }
        end
    };
    let old = ("aes128-sha256-modp2048", "aes128-sha256");
    let new = ("aes256gcm16-prfsha384-ecp384", "aes256gcm16");
    let ends = [end(WAN_B, "2", "first", new.0, new.1), end(WAN_B_TOO, "1", "second", old.0, old.1)];
    let swan = StrongSwan::start(&site.gateway_b, SwanEngine::User, &ends)?;
    let mut ours = Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B]);
    (ours.ike, ours.esp) = (vec![new.0.into()], vec![new.1.into()]);
    ours.tunnels[0].psk = "first".into();
    let mut second = ours.tunnels[0].clone();
    second.name = "b".into();
    second.remote_address = Some(WAN_B_TOO.into());
    second.psk = "second".into();
    second.extra = vec![
        ("ike".into(), format!("{{ version = 1, proposals = [\"{}\"], lifetime = \"8h\" }}", old.0)),
        ("esp".into(), format!("{{ proposals = [\"{}\"], lifetime = \"30m\" }}", old.1)),
    ];
    ours.tunnels.push(second);
    let ours = Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![ours]))?;
    for (tunnel, version, suite) in [("a", 2, new.1), ("b", 1, old.1)] {
        let up = ours.wait_up("site", tunnel, Duration::from_secs(20));
        let up = up.with_context(|| format!("charon's log:\n{}", swan.log()))?;
        ensure!(up.0["ike"]["version"] == version && up.child()["suite"] == suite, "{tunnel}: {:#}", up.0);
    }
    pings(&site)
}
