//! What is wrong, and what Culvert says of it: one clear line with the mend, and no other tunnel is disturbed.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::{Setup, binary};
use culvert_lab::measure::Echo;
use culvert_lab::topology::{HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{Connection, Culvert, GatewayConfig, Namespace, Site};
use culvert_tests::pki::{Key, Wish, authority, issue};
use culvert_tests::{Case, ID_A, ID_B, Initiator, Twins, no_loss};

/// Where gateway B answers for the connection that fails.
const OTHER_B: &str = "203.0.113.2";

/// Two gateways with a good tunnel, and a connection `bad` that only starts when told to.
struct Neighbours {
    a: Culvert,
    b: Culvert,
    site: Site,
}

impl Neighbours {
    /// `spoil` changes the two ends, at A and at B, of the connection `bad`.
    fn new(spoil: impl FnOnce(&mut Connection, &mut Connection)) -> Result<Self> {
        let site = Site::new()?;
        site.gateway_b.ip(&format!("addr add {OTHER_B}/24 dev wan"))?;
        let good = |own, other, local, remote| {
            let mut connection = Connection::new(own, other, &[local], &[remote]);
            connection.esp = vec!["aes128gcm16".into()];
            connection
        };
        let mut bad_a = good(WAN_A, OTHER_B, "10.8.0.0/24", "10.9.0.0/24").respond().named("bad");
        let mut bad_b = good(OTHER_B, WAN_A, "10.9.0.0/24", "10.8.0.0/24").respond().named("bad");
        spoil(&mut bad_a, &mut bad_b);
        let good_b = good(WAN_B, WAN_A, LAN_B, LAN_A).respond();
        let b = Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![good_b, bad_b]))?;
        let a = Culvert::start(
            &site.gateway_a,
            &GatewayConfig::new(vec![good(WAN_A, WAN_B, LAN_A, LAN_B), bad_a]),
        )?;
        a.wait_site().with_context(|| format!("the peer's log:\n{}", b.log()))?;
        Ok(Self { a, b, site })
    }

    /// Starts `bad` and lets `observe` see what comes of it. Meanwhile the good tunnel loses nothing and stays as it is.
    fn attempt(&self, observe: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let before = self.a.site()?;
        let job = Echo::start(&self.site.host_a, &self.site.host_b, HOST_B, Duration::from_millis(20))?;
        // Its answer is what the log says as well; a failure is expected here.
        let told = self.a.cli(&["up", "bad"]);
        observe(self)?;
        std::thread::sleep(Duration::from_millis(500));
        let seen = job.stop()?;
        ensure!(seen.lost() == 0, "the good tunnel was disturbed: {seen:?}");
        let after = self.a.site()?;
        ensure!(
            before.ike_spis() == after.ike_spis() && before.spi_in() == after.spi_in(),
            "it was renegotiated"
        );
        let tunnel = self.a.tunnel("bad", "a")?;
        ensure!(!tunnel.is_up(), "it came up: {:#}; `culvert up` said {told:?}", tunnel.0);
        Ok(())
    }
}

/// A peer that does not answer is reported with the second retransmission, after 11 s (and given up after 165 s).
const SILENCE: Duration = Duration::from_secs(30);

/// A line of that log names the tunnel and contains the words, once; it says what to do.
fn says(log: &Culvert, words: &[&str]) -> Result<()> {
    let mut parts = vec!["bad"];
    parts.extend(words);
    let patience = if words.contains(&"no answer") { SILENCE } else { Duration::from_secs(20) };
    let line = log.wait_log(&parts, patience)?;
    ensure!(line.contains("to mend: "), "no mend in: {line}");
    let first = words.first().copied().unwrap_or_default().to_lowercase();
    let times = log.log_lines().iter().filter(|line| line.to_lowercase().contains(&first)).count();
    ensure!(times <= 2, "said {times} times:\n{}", log.log());
    Ok(())
}

/// The status tells it, too.
fn cause(culvert: &Culvert, word: &str) -> Result<()> {
    let tunnel = culvert.tunnel("bad", "a")?;
    ensure!(tunnel.cause().to_lowercase().contains(word), "cause: {:?}", tunnel.cause());
    Ok(())
}

/// `culvert explain` names the cause and the mend, on the side that initiated and on the one that responded.
fn explains(both: &Neighbours, initiator: &str, responder: &str) -> Result<()> {
    for (side, cause) in [(&both.a, initiator), (&both.b, responder)] {
        let told = side.cli(&["explain", "bad"])?;
        let value = |key: &str| {
            let line = told.lines().find_map(|line| line.trim_start().strip_prefix(key));
            line.map(str::trim).with_context(|| format!("no {key} in:\n{told}"))
        };
        ensure!(value("cause ")?.contains(cause), "the cause is not `{cause}` in:\n{told}");
        ensure!(!value("to mend ")?.is_empty() && value("rule ")?.starts_with("RFC"), "{told}");
        ensure!(told.contains("failed "), "no history in:\n{told}");
    }
    Ok(())
}

#[test]
fn wrong_psk() -> Result<()> {
    Neighbours::new(|a, _| a.tunnels[0].psk = "another secret altogether".into())?.attempt(|both| {
        says(&both.a, &["IKE_AUTH", "pre-shared key"])?;
        says(&both.b, &["IKE_AUTH", "pre-shared key"])?;
        cause(&both.a, "pre-shared key")?;
        explains(both, "rejected our identity or pre-shared key", "does not have our pre-shared key")
    })
}

#[test]
fn wrong_id() -> Result<()> {
    Neighbours::new(|a, _| a.tunnels[0].local_id = Some("somebody.else.test".into()))?.attempt(|both| {
        says(&both.a, &["IKE_AUTH", "identity"])?;
        let line = both.b.wait_log(&["somebody.else.test"], Duration::from_secs(5))?;
        ensure!(line.contains("to mend: "), "no mend in: {line}");
        explains(both, "AUTHENTICATION_FAILED", "somebody.else.test")
    })
}

#[test]
fn the_peer_is_somebody_else() -> Result<()> {
    Neighbours::new(|a, _| a.tunnels[0].remote_id = Some("expected.test".into()))?.attempt(|both| {
        both.a.wait_log(&["bad", "id"], Duration::from_secs(5)).map(drop)?;
        both.b.wait_log(&["expected.test"], Duration::from_secs(5)).map(drop)
    })
}

/// Two gateways with certificates; that of `liar` (A or B) is for somebody else than it says. What either explains: the
/// one that judges, and the one at fault.
fn certificate_without_the_id(liar_at_a: bool, initiator: &str, responder: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ca = authority("Test CA", Key::P256)?;
    let put = |name: &str, content: &[u8]| -> Result<String> {
        let path = folder.path().join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(format!("\"{}\"", path.display()))
    };
    let authorities = put("ca.pem", &ca.certificate)?;
    let keys = |id: &str, named: &str| -> Result<Vec<(String, String)>> {
        let names = format!("DNS:{named}");
        let own = issue(&ca, &Wish { names: &names, common_name: named, ..Wish::default() }, Key::P256)?;
        let set = [
            ("psk_file", String::new()),
            ("auth", "\"cert\"".to_owned()),
            ("certificate", put(&format!("{id}.pem"), &own.certificate)?),
            ("private_key", put(&format!("{id}.key"), &own.key)?),
            ("ca", authorities.clone()),
        ];
        Ok(set.map(|(key, value)| (format!("tunnel.a.{key}"), value)).into())
    };
    let named = |id: &'static str, lies: bool| if lies { "else.culvert.test" } else { id };
    let (own, other) = (keys(ID_A, named(ID_A, liar_at_a))?, keys(ID_B, named(ID_B, !liar_at_a))?);
    let both = Neighbours::new(|a, b| {
        for (end, set, local, remote) in [(a, own, ID_A, ID_B), (b, other, ID_B, ID_A)] {
            end.tunnels[0].local_id = Some(local.into());
            end.tunnels[0].remote_id = Some(remote.into());
            end.set = set;
        }
    })?;
    both.attempt(|both| {
        let judge = if liar_at_a { &both.b } else { &both.a };
        says(judge, &["not trusted", "else.culvert.test"])?;
        explains(both, initiator, responder)?;
        for side in [&both.a, &both.b] {
            let told = side.cli(&["explain", "bad"])?;
            ensure!(told.contains("certificate") && told.contains("else.culvert.test"), "{told}");
        }
        Ok(())
    })
}

#[test]
fn our_certificate_is_for_somebody_else() -> Result<()> {
    certificate_without_the_id(true, "rejected our identity or certificate", "it is not for")
}

#[test]
fn the_peers_certificate_is_for_somebody_else() -> Result<()> {
    certificate_without_the_id(false, "it is not for", "rejected our identity or certificate")
}

#[test]
fn no_common_ike_proposal() -> Result<()> {
    Neighbours::new(|a, _| a.ike = vec!["aes256-sha512-modp2048".into()])?.attempt(|both| {
        // What either side offers is in the line of the side that sees both.
        says(&both.b, &["no common proposal", "aes128gcm16", "aes256-sha512"])?;
        says(&both.a, &["IKE_SA_INIT", "NO_PROPOSAL_CHOSEN"])?;
        cause(&both.a, "propos")?;
        explains(both, "NO_PROPOSAL_CHOSEN", "no common proposal")
    })
}

#[test]
fn no_common_esp_proposal() -> Result<()> {
    Neighbours::new(|a, _| a.esp = vec!["aes256-sha512".into()])?.attempt(|both| {
        says(&both.b, &["no common proposal", "aes128gcm16", "aes256-sha512"])?;
        says(&both.a, &["NO_PROPOSAL_CHOSEN"])?;
        explains(both, "NO_PROPOSAL_CHOSEN", "no common proposal")
    })
}

#[test]
fn no_common_selector() -> Result<()> {
    Neighbours::new(|a, _| a.remote = vec!["10.77.0.0/24".into()])?.attempt(|both| {
        says(&both.b, &["traffic selectors", "10.77.0.0/24", "10.9.0.0/24"])?;
        says(&both.a, &["TS_UNACCEPTABLE"])?;
        cause(&both.a, "selector")?;
        explains(both, "TS_UNACCEPTABLE", "no common traffic selectors")
    })
}

#[test]
fn the_peer_is_silent() -> Result<()> {
    let both = Neighbours::new(|_, _| {})?;
    let drop_all = format!("add rule inet filter input ip daddr {OTHER_B} drop");
    filter(&both.site.gateway_b, &drop_all)?;
    both.attempt(|both| says(&both.a, &["no answer", OTHER_B]))
}

/// Only IKE_AUTH is lost: its number, 35, is the 19th byte of IKE, behind the 8 bytes of UDP.
#[test]
fn the_peer_is_gone_after_ike_sa_init() -> Result<()> {
    let both = Neighbours::new(|_, _| {})?;
    let drop_auth =
        format!("add rule inet filter input ip daddr {OTHER_B} udp dport {{ 500, 4500 }} @th,208,8 35 drop");
    filter(&both.site.gateway_b, &drop_auth)?;
    let drop_marked =
        format!("add rule inet filter input ip daddr {OTHER_B} udp dport 4500 @th,240,8 35 drop");
    filter(&both.site.gateway_b, &drop_marked)?;
    both.attempt(|both| says(&both.a, &["no answer", "IKE_AUTH"]))
}

fn filter(namespace: &Namespace, rule: &str) -> Result<()> {
    namespace.run("nft", &["add table inet filter"])?;
    namespace.run("nft", &["add chain inet filter input { type filter hook input priority 0; }"])?;
    namespace.run("nft", &[rule]).map(drop)
}

/// Every length from nothing to beyond an IKE header, then some large ones; zeroes, ones, noise, and what begins like
/// IKE, like ESP of the very tunnel, and like a keepalive; from a stranger and from the peer's own address.
#[test]
fn malformed_datagrams() -> Result<()> {
    let Twins { mut a, b, site } = {
        let case = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Initiator::Culvert);
        Twins::bring_up(&Case { culvert_encap: "udp".into(), ..case })?
    };
    let before = a.site()?;
    let spi = u32::from_str_radix(&before.spi_in().context("no SPI")?, 16)?.to_be_bytes();
    let (ike_i, ike_r) = before.ike_spis().context("no IKE SPIs")?;
    let job = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(20))?;
    let send = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let mut count = 0;
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        let lengths = (0..=80).chain([128, 255, 256, 1000, 1400, 4000]);
        for length in lengths {
            for kind in 0..7 {
                let mut bytes = vec![if kind == 1 { 0xff } else { 0 }; length];
                if kind >= 2 {
                    for byte in &mut bytes {
                        noise ^= noise << 13;
                        noise ^= noise >> 7;
                        noise ^= noise << 17;
                        *byte = noise as u8;
                    }
                }
                let start: Vec<u8> = match kind {
                    // IKE_SA_INIT request that says it is as long as it is, of noise.
                    3 => header([7; 8], [0; 8], 34, 0x08, length),
                    // A message of the established IKE SA, which cannot be authentic.
                    4 => header(hex(&ike_i), hex(&ike_r), 37, 0x00, length),
                    // With the non-ESP marker, lengths off by one.
                    5 => [vec![0; 4], header([9; 8], [0; 8], 34, 0x08, length.wrapping_sub(3))].concat(),
                    6 => spi.to_vec(),
                    _ => Vec::new(),
                };
                for (byte, value) in bytes.iter_mut().zip(start) {
                    *byte = value;
                }
                for port in [500, 4500] {
                    // Too large for a datagram, or refused for a moment: no matter.
                    let _ = socket.send_to(&bytes, (WAN_A, port));
                    count += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(count)
    };
    for from in [&site.wan, &site.gateway_b] {
        ensure!(from.within(send)?? > 1000);
    }
    std::thread::sleep(Duration::from_millis(300));
    ensure!(a.is_running(), "culvertd died; its log:\n{}", a.log());
    let seen = job.stop()?;
    ensure!(seen.lost() == 0, "the tunnel was disturbed: {seen:?}");
    let after = a.site()?;
    ensure!(after.is_up() && after.ike_spis() == before.ike_spis() && after.spi_in() == before.spi_in());
    no_loss(&site.host_b, "10.1.0.2")?;
    // A flood of bad datagrams is no flood of log lines.
    let lines = a.log_lines().len();
    ensure!(lines < 200, "{lines} log lines");
    drop(b);
    Ok(())
}

/// An IKE header (RFC 7296 3.1) that tells `length`.
fn header(initiator: [u8; 8], responder: [u8; 8], exchange: u8, flags: u8, length: usize) -> Vec<u8> {
    let mut bytes = [initiator, responder].concat();
    bytes.extend([33, 0x20, exchange, flags, 0, 0, 0, 9]);
    bytes.extend((length as u32).to_be_bytes());
    bytes
}

fn hex(text: &str) -> [u8; 8] {
    u64::from_str_radix(text, 16).unwrap_or(0).to_be_bytes()
}

/// culvertd refuses to start and says these words; nothing is left behind.
fn refuses(site: &Site, config: &GatewayConfig, words: &[&str]) -> Result<()> {
    let before = site.gateway_a.interfaces()?;
    let (status, said) = Setup::new(config)?.refused(&site.gateway_a)?;
    ensure!(!status.success(), "it started:\n{said}");
    judge(&said, words)?;
    ensure!(site.gateway_a.interfaces()? == before, "interfaces were left behind");
    let routes = site.gateway_a.ip_text("route show table all")?;
    ensure!(!routes.contains(LAN_B), "routes were left behind:\n{routes}");
    Ok(())
}

fn judge(said: &str, words: &[&str]) -> Result<()> {
    let lower = said.to_lowercase();
    for word in words {
        ensure!(lower.contains(&word.to_lowercase()), "it does not say `{word}`:\n{said}");
    }
    ensure!(!lower.contains("panicked"), "it panicked:\n{said}");
    ensure!(said.lines().count() < 20, "too many words:\n{said}");
    Ok(())
}

fn one() -> Connection {
    Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B])
}

#[test]
fn b10_overlapping_networks() -> Result<()> {
    let mut other = Connection::new(WAN_A, OTHER_B, &[LAN_A], &["10.2.0.128/25"]).named("other");
    other.tunnels[0].name = "b".into();
    refuses(
        &Site::new()?,
        &GatewayConfig::new(vec![one(), other]),
        &["overlap", "10.2.0.128/25", "site", "other"],
    )
}

#[test]
fn missing_interface() -> Result<()> {
    let config = GatewayConfig::new(vec![one()]).gateway("wan", "\"wan7\"");
    refuses(&Site::new()?, &config, &["wan7", "wan"])
}

#[test]
fn an_address_that_is_not_ours() -> Result<()> {
    let mut connection = one();
    connection.tunnels[0].local_address = "192.0.2.77".into();
    refuses(&Site::new()?, &GatewayConfig::new(vec![connection]), &["192.0.2.77"])
}

#[test]
fn a_key_that_is_not_known() -> Result<()> {
    let config = GatewayConfig::new(vec![one()]).gateway("wann", "\"wan\"");
    // With the line, and the key that was meant.
    refuses(&Site::new()?, &config, &["wann", "did you mean", "culvert.toml"])
}

#[test]
fn a_secret_that_others_can_read() -> Result<()> {
    let site = Site::new()?;
    let setup = Setup::new(&GatewayConfig::new(vec![one()]))?;
    let secret = setup.config().with_file_name("site-a.psk");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644))?;
    let (status, said) = setup.refused(&site.gateway_a)?;
    ensure!(!status.success(), "it started:\n{said}");
    judge(&said, &["site-a.psk", "chmod"])?;
    ensure!(!said.contains("correct horse"), "the secret is in the error");
    Ok(())
}

#[test]
fn port_500_is_taken() -> Result<()> {
    let site = Site::new()?;
    let _taken = site.gateway_a.within(|| UdpSocket::bind((WAN_A, 500)))??;
    refuses(&site, &GatewayConfig::new(vec![one()]), &["500", "taken", "another"])
}

#[test]
fn port_4500_is_taken() -> Result<()> {
    let site = Site::new()?;
    let _taken = site.gateway_a.within(|| UdpSocket::bind((WAN_A, 4500)))??;
    refuses(&site, &GatewayConfig::new(vec![one()]), &["4500"])
}

#[test]
fn not_root() -> Result<()> {
    let site = Site::new()?;
    let setup = Setup::new(&GatewayConfig::new(vec![one()]))?;
    // Nobody can read neither root's files nor, perhaps, the directory in which it was built.
    let directory = setup.config().parent().context("no directory")?.to_path_buf();
    let program = directory.join("culvertd");
    fs::copy(binary("culvertd")?, &program)?;
    culvert_lab::process::run(Command::new("chown").args(["-R", "65534:65534"]).arg(&directory))?;
    let mut command = site.gateway_a.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]).arg(&program);
    command.arg("--config").arg(setup.config()).arg("--control-socket").arg(setup.socket());
    let (status, said) = setup.ends(&mut command)?;
    ensure!(!status.success(), "it started:\n{said}");
    judge(&said, &["root"])
}

/// A bridge has no XDP of its own: it is attached in the generic hook or in TCX, with the reason, and the tunnel works.
#[test]
fn no_native_xdp_on_the_interface() -> Result<()> {
    let site = Site::new()?;
    for step in [
        "link add br0 type bridge",
        "link set dev br0 up",
        "addr flush dev wan",
        "link set dev wan master br0",
        "addr add 198.51.100.1/24 dev br0",
        "route replace default via 198.51.100.254",
    ] {
        site.gateway_a.ip(step)?;
    }
    let case = Case::new("aes128gcm16-prfsha256-ecp256", "aes128gcm16", Initiator::Culvert);
    let b =
        Culvert::start(&site.gateway_b, &GatewayConfig::new(vec![case.culvert_connection(&site, false)]))?;
    let config = GatewayConfig::new(vec![case.culvert_connection(&site, true)])
        .gateway("wan", "\"br0\"")
        .gateway("attach", "\"xdp-native\"");
    let a = Culvert::start(&site.gateway_a, &config)?;
    a.wait_site().with_context(|| format!("the peer's log:\n{}", b.log()))?;
    let wan = a.status()?["gateway"]["wan"][0].clone();
    ensure!(wan["attach"] != "xdp-native", "{wan:#}");
    ensure!(wan["attach_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{wan:#}");
    a.wait_log(&["br0", "xdp"], Duration::from_secs(1))?;
    no_loss(&site.host_a, HOST_B)
}
