//! Paperwork: what Culvert writes for the other side, and what it makes of others' files, brought up against strongSwan.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::{Setup, binary};
use culvert_lab::topology::{HOST_A, HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{Connection, Culvert, GatewayConfig, Site, StrongSwan, SwanEngine};
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
    no_loss(&site.host_a, HOST_B)?;
    no_loss(&site.host_b, HOST_A)
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
