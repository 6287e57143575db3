//! The ways from host A to host B that are measured, each in a site of its own so that runs can be interleaved.
use crate::setup::peers;
use anyhow::{Context, Result, bail, ensure};
use culvert_lab::measure::{IperfServer, ping};
use culvert_lab::topology::{HOST_B, LAN_A, LAN_B, WAN_A, WAN_B};
use culvert_lab::{Connection, Culvert, GatewayConfig, OpenVpn, Site, StrongSwan, SwanEngine, WireGuard};
use std::path::PathBuf;
use std::time::Duration;

/// A way from host A to host B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Leg {
    /// No encryption: what the hosts and the topology do.
    Plain,
    /// Engine `user`, super-packets in TUN, UDP with GSO.
    #[value(name = "tun+udp")]
    TunUdp,
    /// The same with `latency = "low"`.
    Low,
    /// The same with a second child SA for small packets on engine `bpf`.
    Split,
    /// Engine `user`, plain ESP by a raw socket.
    #[value(name = "tun+raw")]
    TunRaw,
    /// Engine `user`, plain ESP by AF_XDP on the WAN.
    #[value(name = "tun+xsk")]
    TunXsk,
    /// Engine `user`, AF_XDP on the LAN, UDP on the WAN.
    #[value(name = "xsk+udp")]
    XskUdp,
    /// Engine `user`, AF_XDP on both sides.
    #[value(name = "xsk+xsk")]
    XskXsk,
    /// Engine `bpf`: ESP in eBPF under TC.
    Bpf,
    /// The same under XDP.
    #[value(name = "bpf+xdp")]
    BpfXdp,
    /// Engine `xfrm`: the kernel's ESP.
    Xfrm,
    /// What engine `auto` takes on this host.
    Auto,
    /// strongSwan with the kernel's ESP: what engine `xfrm` is compared with.
    #[value(name = "strongswan-kernel")]
    StrongswanKernel,
    /// strongSwan with its user-space ESP, each charon bound to a core.
    Strongswan,
    /// wireguard-go.
    #[value(name = "wireguard-go")]
    WireguardGo,
    /// OpenVPN 2.6 in user space.
    Openvpn,
}

impl Leg {
    /// All, in the order of the tables.
    pub(super) const ALL: [Leg; 16] = [
        Leg::Plain,
        Leg::TunUdp,
        Leg::Low,
        Leg::Split,
        Leg::TunRaw,
        Leg::TunXsk,
        Leg::XskUdp,
        Leg::XskXsk,
        Leg::Bpf,
        Leg::BpfXdp,
        Leg::Xfrm,
        Leg::Auto,
        Leg::StrongswanKernel,
        Leg::Strongswan,
        Leg::WireguardGo,
        Leg::Openvpn,
    ];

    /// Those with which Culvert is compared.
    pub(super) const PEERS: [Leg; 4] =
        [Leg::WireguardGo, Leg::Openvpn, Leg::Strongswan, Leg::StrongswanKernel];

    /// Its name on the command line, in the JSON and in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Leg::Plain => "plain",
            Leg::TunUdp => "tun+udp",
            Leg::Low => "low",
            Leg::Split => "split",
            Leg::TunRaw => "tun+raw",
            Leg::TunXsk => "tun+xsk",
            Leg::XskUdp => "xsk+udp",
            Leg::XskXsk => "xsk+xsk",
            Leg::Bpf => "bpf",
            Leg::BpfXdp => "bpf+xdp",
            Leg::Xfrm => "xfrm",
            Leg::Auto => "auto",
            Leg::StrongswanKernel => "strongswan-kernel",
            Leg::Strongswan => "strongswan",
            Leg::WireguardGo => "wireguard-go",
            Leg::Openvpn => "openvpn",
        }
    }

    /// What the configuration says for it: keys of a connection with values as TOML; none for what is not Culvert.
    fn settings(self) -> Option<&'static [(&'static str, &'static str)]> {
        Some(match self {
            Leg::TunUdp | Leg::Low => &[("engine", "\"user\""), ("encap", "\"udp\"")],
            Leg::Split => &[("engine", "\"user\""), ("encap", "\"udp\""), ("latency", "\"split\"")],
            Leg::TunRaw => &[("engine", "\"user\""), ("encap", "\"esp\""), ("wan_port", "\"raw\"")],
            Leg::TunXsk => &[("engine", "\"user\""), ("encap", "\"esp\""), ("wan_port", "\"xsk\"")],
            Leg::XskUdp => &[("engine", "\"user\""), ("encap", "\"udp\""), ("lan_port", "\"xsk\"")],
            Leg::XskXsk => &[
                ("engine", "\"user\""),
                ("encap", "\"esp\""),
                ("lan_port", "\"xsk\""),
                ("wan_port", "\"xsk\""),
            ],
            Leg::Bpf | Leg::BpfXdp => &[("engine", "\"bpf\""), ("encap", "\"esp\"")],
            Leg::Xfrm => &[("engine", "\"xfrm\""), ("encap", "\"esp\"")],
            Leg::Auto => &[("engine", "\"auto\""), ("encap", "\"auto\"")],
            Leg::Plain | Leg::Strongswan | Leg::StrongswanKernel | Leg::WireguardGo | Leg::Openvpn => {
                return None;
            }
        })
    }

    /// The same of the whole gateway.
    fn gateway(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Leg::Low => &[("latency", "\"low\"")],
            Leg::BpfXdp => &[("bpf_hook", "\"xdp\"")],
            _ => &[],
        }
    }

    /// Whether it is Culvert.
    pub(super) fn is_culvert(self) -> bool {
        self.settings().is_some()
    }

    /// The cipher that it has in a pass of another: some have but one. `None` leaves it out of that pass.
    pub(super) fn cipher(self, pass: Cipher) -> Option<Cipher> {
        let fixed = match self {
            Leg::Bpf | Leg::BpfXdp | Leg::WireguardGo => Cipher::ChaCha20Poly1305,
            Leg::Openvpn if pass == Cipher::Aes128Sha256 => return None,
            _ => return Some(pass),
        };
        // In the first pass everything is compared with everything.
        (pass == Cipher::Aes128Gcm || pass == fixed).then_some(fixed)
    }
}

/// Ciphers of ESP, one pass for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Cipher {
    #[value(name = "aes128gcm")]
    Aes128Gcm,
    #[value(name = "aes256gcm")]
    Aes256Gcm,
    #[value(name = "chacha20poly1305")]
    ChaCha20Poly1305,
    #[value(name = "aes128-sha256")]
    Aes128Sha256,
}

impl Cipher {
    pub(super) const ALL: [Cipher; 4] =
        [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128Sha256];

    /// In the notation of proposals.
    pub(super) fn esp(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "aes128gcm16",
            Cipher::Aes256Gcm => "aes256gcm16",
            Cipher::ChaCha20Poly1305 => "chacha20poly1305",
            Cipher::Aes128Sha256 => "aes128-sha256",
        }
    }

    fn openvpn(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Cipher::Aes128Sha256 => "AES-128-CBC",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Cipher::Aes128Sha256 => "AES-128-CBC with HMAC-SHA-256",
        }
    }
}

/// What runs in the gateways; kept for its end.
enum Daemons {
    None,
    Culvert(Box<(Culvert, Culvert)>),
    StrongSwan { _pair: Box<(StrongSwan, StrongSwan)> },
    WireGuard { _pair: WireGuard },
    OpenVpn { _pair: OpenVpn },
}

/// A way that is up.
pub(super) struct Standing {
    pub(super) leg: Leg,
    // Before the site: the daemons end first.
    daemons: Daemons,
    pub(super) server: IperfServer,
    pub(super) site: Site,
    /// What Culvert says of engine and ports.
    pub(super) described: Option<String>,
}

/// What varies between passes.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    pub(super) cipher: Cipher,
    /// MTU of every link; 1500 or jumbo frames.
    pub(super) mtu: u32,
    /// Threads of the engine `user`; its own choice otherwise.
    pub(super) workers: Option<usize>,
    /// Where culvertd and culvert are.
    pub(super) binaries: PathBuf,
}

impl Standing {
    /// Lays a site and brings the way up in it.
    pub(super) fn raise(leg: Leg, conditions: &Conditions) -> Result<Self> {
        let site = Site::new()?;
        if conditions.mtu != 1500 {
            for (namespace, interface) in [
                (&site.host_a, "eth0"),
                (&site.gateway_a, "lan"),
                (&site.gateway_a, "wan"),
                (&site.wan, "to-a"),
                (&site.wan, "to-b"),
                (&site.gateway_b, "wan"),
                (&site.gateway_b, "lan"),
                (&site.host_b, "eth0"),
            ] {
                namespace.ip(&format!("link set dev {interface} mtu {}", conditions.mtu))?;
            }
        }
        let cipher = leg.cipher(conditions.cipher).context("it has no such cipher")?;
        let daemons = match leg {
            Leg::Plain => {
                site.route_plain()?;
                Daemons::None
            }
            Leg::Strongswan | Leg::StrongswanKernel => {
                let kernel = leg == Leg::StrongswanKernel;
                let engine = if kernel { SwanEngine::Kernel } else { SwanEngine::User };
                let pair = StrongSwan::pair(&site, engine, cipher.esp()).map_err(|error| {
                    // charon's log is long; its end is told by the tests of the lab.
                    let hint = if kernel { " (is there ESP in this kernel?)" } else { "" };
                    anyhow::anyhow!(
                        "strongSwan's tunnel does not come up{hint}: {}",
                        told(&format!("{error:#}"))
                    )
                })?;
                Daemons::StrongSwan { _pair: Box::new(pair) }
            }
            Leg::WireguardGo => {
                let program = peers::wireguard_go()?;
                Daemons::WireGuard { _pair: WireGuard::start(&site, &program, conditions.mtu)? }
            }
            Leg::Openvpn => {
                peers::openvpn()?;
                Daemons::OpenVpn { _pair: OpenVpn::start(&site, cipher.openvpn(), conditions.mtu)? }
            }
            _ => {
                let connection = |a| vec![connection(leg, cipher, a)];
                Daemons::Culvert(Box::new(culverts(
                    &site,
                    conditions,
                    leg,
                    [connection(true), connection(false)],
                )?))
            }
        };
        let seen = ping(&site.host_a, HOST_B, 5, Duration::from_millis(20))?;
        ensure!(seen.received > 0, "host B does not answer");
        let server = IperfServer::start(&site.host_b)?;
        let mut this = Self { leg, daemons, server, site, described: None };
        this.described = this.describe()?;
        this.rest(true)?;
        Ok(this)
    }

    /// A pair that was brought up elsewhere.
    pub(super) fn of_culvert(leg: Leg, site: Site, server: IperfServer, pair: (Culvert, Culvert)) -> Self {
        Self { leg, daemons: Daemons::Culvert(Box::new(pair)), server, site, described: None }
    }

    /// Both Culverts, if it is a leg of theirs.
    pub(super) fn culvert(&self) -> Option<(&Culvert, &Culvert)> {
        match &self.daemons {
            Daemons::Culvert(pair) => Some((&pair.0, &pair.1)),
            _ => None,
        }
    }

    /// Runs `work` with the leg awake. One whose workers poll sleeps otherwise, or it would slow the others down.
    pub(super) fn awake<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.rest(false)?;
        let outcome = work(self);
        self.rest(true)?;
        outcome
    }

    fn rest(&self, rest: bool) -> Result<()> {
        if self.leg == Leg::Low
            && let Some((a, b)) = self.culvert()
        {
            a.pause(rest)?;
            b.pause(rest)?;
            // What has come due meanwhile is done first.
            std::thread::sleep(Duration::from_millis(if rest { 0 } else { 100 }));
        }
        Ok(())
    }

    fn describe(&self) -> Result<Option<String>> {
        let Some((a, _)) = self.culvert() else { return Ok(None) };
        let tunnel = a.site()?;
        let word = |key: &str| tunnel.0[key].as_str().unwrap_or("-").to_owned();
        let child = tunnel.child();
        Ok(Some(format!(
            "engine {}, LAN port {}, WAN port {}, {}, {}",
            word("engine"),
            word("lan_port"),
            word("wan_port"),
            child["suite"].as_str().unwrap_or("-"),
            if child["encap"] == "udp" { "ESP in UDP" } else { "plain ESP" },
        )))
    }

    /// Turns segmentation of TCP and UDP behind the WAN's links on or off, as a NIC without it would have it.
    pub(super) fn wan_offload(&self, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        for (namespace, interface) in [
            (&self.site.gateway_a, "wan"),
            (&self.site.wan, "to-a"),
            (&self.site.wan, "to-b"),
            (&self.site.gateway_b, "wan"),
        ] {
            namespace.run(
                "ethtool",
                &["-K", interface, "tso", state, "tx-udp-segmentation", state, "gso", state],
            )?;
        }
        Ok(())
    }
}

/// The connection of one side, as a leg wants it.
pub(super) fn connection(leg: Leg, cipher: Cipher, a: bool) -> Connection {
    let mut connection = if a {
        Connection::new(WAN_A, WAN_B, &[LAN_A], &[LAN_B])
    } else {
        Connection::new(WAN_B, WAN_A, &[LAN_B], &[LAN_A]).respond()
    };
    connection.esp = vec![cipher.esp().into()];
    // A gateway that is kept from its CPU for some seconds is not dead.
    connection.dpd = "{ interval = \"10s\", timeout = \"60s\", action = \"restart\" }".into();
    for (key, value) in leg.settings().unwrap_or_default() {
        connection.set.push(((*key).to_owned(), (*value).to_owned()));
    }
    connection
}

/// Starts culvertd on both sides and waits for the tunnel. What the configuration refuses is said in its own words.
pub(super) fn culverts(
    site: &Site,
    conditions: &Conditions,
    leg: Leg,
    [a, b]: [Vec<Connection>; 2],
) -> Result<(Culvert, Culvert)> {
    let config = |connections: Vec<Connection>| {
        let config = GatewayConfig::new(connections).binaries(Some(conditions.binaries.clone()));
        let config = leg.gateway().iter().fold(config, |config, (key, value)| config.gateway(key, value));
        match conditions.workers {
            Some(workers) => config.gateway("workers", &workers.to_string()),
            None => config,
        }
    };
    let start = |namespace, connections| {
        Culvert::start(namespace, &config(connections)).map_err(|error| refusal(&format!("{error:#}")))
    };
    let b = start(&site.gateway_b, b)?;
    let a = start(&site.gateway_a, a)?;
    if a.wait_up("site", "a", Duration::from_secs(15)).is_err() {
        let tunnel = a.site()?;
        let reasons: Vec<&str> =
            tunnel.0["engine_reasons"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
        bail!("the tunnel does not come up: {} {}", tunnel.cause(), reasons.join("; "));
    }
    Ok((a, b))
}

/// The line of an error that says what failed.
fn told(text: &str) -> String {
    let telling =
        |line: &&str| ["failed", "unable", "error"].iter().any(|word| line.to_lowercase().contains(word));
    text.lines().skip(1).find(telling).or(text.lines().next()).unwrap_or_default().trim().to_owned()
}

/// What culvertd said when it did not start: in one line, and plainly where it refuses what a later version will have.
fn refusal(log: &str) -> anyhow::Error {
    let plain: Vec<&str> =
        log.lines().map(|line| line.trim_matches(|c: char| " │╭╰─·×".contains(c))).collect();
    for line in &plain {
        if line.contains("later version") || line.contains("not in this version") {
            return anyhow::anyhow!("not in this version: {line}");
        }
        // A key that is to come is one that this version does not know.
        if line.contains("has no key `latency`") {
            return anyhow::anyhow!("not in this version: {line}");
        }
    }
    let telling = plain.iter().find(|line| {
        let line = line.to_lowercase();
        ["error", "refuse", "cannot", "unknown", "no such"].iter().any(|word| line.contains(word))
    });
    anyhow::anyhow!(
        "culvertd does not start: {}",
        telling.or(plain.first()).copied().unwrap_or("no word of it")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn legs_have_the_names_of_the_command_line() {
        for leg in Leg::ALL {
            assert_eq!(leg.to_possible_value().unwrap().get_name(), leg.name());
        }
        assert_eq!(Leg::ALL.len(), Leg::value_variants().len());
    }

    #[test]
    fn ciphers_that_a_leg_does_not_have_leave_it_out() {
        assert_eq!(Leg::WireguardGo.cipher(Cipher::Aes128Gcm), Some(Cipher::ChaCha20Poly1305));
        assert_eq!(Leg::WireguardGo.cipher(Cipher::Aes256Gcm), None);
        assert_eq!(Leg::TunUdp.cipher(Cipher::Aes256Gcm), Some(Cipher::Aes256Gcm));
        assert_eq!(Leg::Openvpn.cipher(Cipher::Aes128Sha256), None);
    }

    #[test]
    fn refusals_are_told_in_one_line() {
        let log = "culvertd did not start; its log:\n  × AF_XDP ports come in a later version\n   ╭─[culvert.toml:3:1]";
        assert_eq!(refusal(log).to_string(), "not in this version: AF_XDP ports come in a later version");
        let log =
            "culvertd did not start; its log:\n  × [connection.s] has no key `latency`\n   ╭─[c.toml:6:1]";
        assert_eq!(refusal(log).to_string(), "not in this version: [connection.s] has no key `latency`");
        let log = "culvertd did not start; its log:\nERROR site/a: cannot be set up";
        assert_eq!(refusal(log).to_string(), "culvertd does not start: ERROR site/a: cannot be set up");
    }
}
