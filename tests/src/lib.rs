//! What the end-to-end tests share: bringing Culvert and a peer up across a site, and judging what both sides say.
//! The lab underneath is `culvert-lab`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::TunnelStatus;
use culvert_lab::measure::{Echo, Iperf, IperfServer, Ping, ping};
use culvert_lab::strongswan::{SwanChildSa, SwanIke};
use culvert_lab::topology::{
    HOST_A, HOST_A6, HOST_B, HOST_B6, LAN_A, LAN_A6, LAN_B, LAN_B6, WAN_A, WAN_A6, WAN_B, WAN_B6,
};
use culvert_lab::{
    Connection, Culvert, GatewayConfig, Namespace, Site, SiteOptions, StrongSwan, SwanConnection, SwanEngine,
};

/// Identity of site A.
pub const ID_A: &str = "a.culvert.test";
/// Identity of site B.
pub const ID_B: &str = "b.culvert.test";

/// Who starts the negotiation; that side is site A, and behind the NAT if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initiator {
    /// culvertd, at its start.
    Culvert,
    /// strongSwan, by `swanctl --initiate`.
    StrongSwan,
}

/// One way to connect Culvert with a peer.
#[derive(Debug, Clone)]
pub struct Case {
    /// IKE proposal, in strongSwan's notation.
    pub ike: String,
    /// ESP proposal with the group for rekeying, in strongSwan's notation.
    pub esp: String,
    /// Who starts.
    pub initiator: Initiator,
    /// A NAT in front of the initiator.
    pub nat: bool,
    /// The gateways speak IPv6 with each other.
    pub ipv6_outside: bool,
    /// The LANs have IPv6 as well, in the same child SA.
    pub ipv6_inside: bool,
    /// MTU of the WAN's links; 1500 otherwise.
    pub wan_mtu: Option<u32>,
    /// Culvert's `encap`.
    pub culvert_encap: String,
    /// strongSwan pretends a NAT.
    pub swan_encap: bool,
    /// Culvert's `engine`.
    pub engine: String,
    /// Who does strongSwan's ESP.
    pub swan_engine: SwanEngine,
}

impl Case {
    /// IKE and ESP proposals, the rest plain: IPv4, no NAT, encapsulation because strongSwan's user space needs it.
    pub fn new(ike: &str, esp: &str, initiator: Initiator) -> Self {
        Self {
            ike: ike.into(),
            esp: esp.into(),
            initiator,
            nat: false,
            ipv6_outside: false,
            ipv6_inside: false,
            wan_mtu: None,
            culvert_encap: "auto".into(),
            swan_encap: true,
            engine: "auto".into(),
            swan_engine: SwanEngine::User,
        }
    }

    /// Puts the initiator behind a NAT; nobody has to pretend one then.
    pub fn behind_nat(mut self) -> Self {
        self.nat = true;
        self.swan_encap = false;
        self
    }

    /// Addresses of site A and site B as the other side sees them.
    pub fn outside(&self) -> (&'static str, &'static str) {
        if self.ipv6_outside { (WAN_A6, WAN_B6) } else { (WAN_A, WAN_B) }
    }

    /// LANs of site A and site B.
    pub fn inside(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        if self.ipv6_inside { (vec![LAN_A, LAN_A6], vec![LAN_B, LAN_B6]) } else { (vec![LAN_A], vec![LAN_B]) }
    }

    /// Pairs of hosts that must reach each other.
    pub fn hosts(&self) -> Vec<(&'static str, &'static str)> {
        let mut pairs = vec![(HOST_A, HOST_B)];
        if self.ipv6_inside {
            pairs.push((HOST_A6, HOST_B6));
        }
        pairs
    }

    /// The connection of one side for culvertd.
    pub fn culvert_connection(&self, site: &Site, at_a: bool) -> Connection {
        let (outside_a, outside_b) = self.outside();
        let (inside_a, inside_b) = self.inside();
        let own_a = if self.nat { site.local_a() } else { outside_a };
        let mut connection = if at_a {
            Connection::new(own_a, outside_b, &inside_a, &inside_b)
        } else {
            Connection::new(outside_b, outside_a, &inside_b, &inside_a).respond()
        };
        connection.ike = vec![self.ike.clone()];
        connection.esp = vec![self.esp.clone()];
        connection.encap.clone_from(&self.culvert_encap);
        connection.engine.clone_from(&self.engine);
        let (own, other) = if at_a { (ID_A, ID_B) } else { (ID_B, ID_A) };
        for tunnel in &mut connection.tunnels {
            tunnel.local_id = Some(own.into());
            tunnel.remote_id = Some(other.into());
        }
        connection
    }

    fn swan_connection(&self, site: &Site, at_a: bool) -> SwanConnection {
        let (outside_a, outside_b) = self.outside();
        let (inside_a, inside_b) = self.inside();
        let own_a = if self.nat { site.local_a() } else { outside_a };
        let (a, b) = (inside_a.join(","), inside_b.join(","));
        let mut connection = if at_a {
            SwanConnection::new(own_a, outside_b, &a, &b)
        } else {
            SwanConnection::new(outside_b, outside_a, &b, &a)
        };
        let (own, other) = if at_a { (ID_A, ID_B) } else { (ID_B, ID_A) };
        connection.local_id = own.into();
        connection.remote_id = other.into();
        connection.proposals.clone_from(&self.ike);
        connection.encap = self.swan_encap;
        for child in &mut connection.children {
            child.esp_proposals.clone_from(&self.esp);
        }
        connection
    }

    /// Lays the site, starts both daemons and negotiates.
    ///
    /// # Errors
    /// When a daemon does not start or the tunnel does not come up; with the logs.
    pub fn bring_up(&self) -> Result<Pair> {
        let site = Site::with(SiteOptions { nat: self.nat, wan_mtu: self.wan_mtu })?;
        let culvert_at_a = self.initiator == Initiator::Culvert;
        let (culvert_at, swan_at) = if culvert_at_a {
            (&site.gateway_a, &site.gateway_b)
        } else {
            (&site.gateway_b, &site.gateway_a)
        };
        let swan =
            StrongSwan::start(swan_at, self.swan_engine, &[self.swan_connection(&site, !culvert_at_a)])?;
        let config = GatewayConfig::new(vec![self.culvert_connection(&site, culvert_at_a)]);
        let culvert = Culvert::start(culvert_at, &config)?;
        if !culvert_at_a {
            swan.initiate("net").with_context(|| format!("culvertd's log:\n{}", culvert.log()))?;
        }
        let pair = Pair { case: self.clone(), culvert, swan, site };
        pair.culvert.wait_site().with_context(|| format!("charon's log:\n{}", pair.swan.log()))?;
        pair.swan.wait_child("net", Duration::from_secs(5))?;
        Ok(pair)
    }
}

/// Culvert and strongSwan with a tunnel between them.
#[derive(Debug)]
pub struct Pair {
    /// How they were brought up.
    pub case: Case,
    /// Culvert.
    pub culvert: Culvert,
    /// The peer.
    pub swan: StrongSwan,
    /// Where they are. Last, for it must outlive them.
    pub site: Site,
}

impl Pair {
    /// Pings and runs iperf3 in both directions, over each address family.
    ///
    /// # Errors
    /// When a ping is lost or hardly anything arrives.
    pub fn traffic(&self) -> Result<()> {
        traffic(&self.site, &self.case.hosts())
    }

    /// Whether both sides tell the same story, and the right one, of the tunnel and its traffic.
    ///
    /// # Errors
    /// When they do not.
    pub fn agree(&self) -> Result<()> {
        let ours = self.culvert.site()?;
        let ike = self.swan.ike("site")?.context("strongSwan has no IKE SA")?;
        let child = self.swan.child("net")?.context("strongSwan has no child")?;
        let told = || format!("culvert: {:#}\nstrongSwan: {ike:?} {child:?}", ours.0);
        self.ike_agrees(&ours, &ike).with_context(told)?;
        self.child_agrees(&ours, &child).with_context(told)
    }

    fn ike_agrees(&self, ours: &TunnelStatus, ike: &SwanIke) -> Result<()> {
        let said = &ours.0["ike"];
        ensure!(
            ours.ike_spis() == Some((ike.spi_initiator.clone(), ike.spi_responder.clone())),
            "IKE SPIs differ"
        );
        ensure!(said["initiator"] != ike.initiator, "both or none initiated");
        let (own, other) =
            if self.case.initiator == Initiator::Culvert { (ID_A, ID_B) } else { (ID_B, ID_A) };
        ensure!(said["local"]["id"] == own && said["remote"]["id"] == other, "ids");
        ensure!(ike.remote_id == own, "strongSwan knows us as {}", ike.remote_id);
        let suite = said["suite"].as_str().context("no IKE suite")?;
        ensure!(without_prf(suite) == without_prf(&self.case.ike), "IKE suite is not {}", self.case.ike);
        if self.case.nat {
            // strongSwan's user-space ESP needs UDP, so it pretends a NAT whatever its `encap` says.
            let expected = match (self.case.initiator, self.case.swan_engine) {
                (Initiator::StrongSwan, _) => "remote",
                (Initiator::Culvert, SwanEngine::User) => "both",
                (Initiator::Culvert, SwanEngine::Kernel) => "local",
            };
            ensure!(said["nat"] == expected, "nat is not {expected}");
        }
        Ok(())
    }

    fn child_agrees(&self, ours: &TunnelStatus, child: &SwanChildSa) -> Result<()> {
        let said = ours.child();
        ensure!(ours.spi_in().as_ref() == Some(&child.spi_out), "their outbound is not our inbound");
        ensure!(ours.spi_out().as_ref() == Some(&child.spi_in), "their inbound is not our outbound");
        let suite = suite_of(&self.case.esp);
        ensure!(said["suite"] == suite.as_str(), "ESP suite is not {suite}");
        ensure!(swan_suite(child)? == suite, "strongSwan took another ESP suite than {suite}");
        ensure!((said["encap"] == "udp") == child.encap, "one encapsulates, the other does not");
        ensure!(ours.count("bytes_in") > 0 && ours.count("bytes_out") > 0, "we counted no traffic");
        ensure!(child.bytes_in > 0 && child.bytes_out > 0, "strongSwan counted no traffic");
        Ok(())
    }

    /// Sends 100 datagrams a second there and back while `rekey` does its work, and tells what was lost. The tunnel works after.
    ///
    /// # Errors
    /// When rekeying fails, or the sides do not agree afterwards.
    pub fn rekey_under_traffic(&self, rekey: impl FnOnce(&Self) -> Result<()>) -> Result<Ping> {
        let before = self.culvert.site()?;
        let job = Echo::start(&self.site.host_a, &self.site.host_b, HOST_B, Duration::from_millis(10))?;
        std::thread::sleep(Duration::from_millis(500));
        rekey(self)?;
        // Long enough for the old SA to be deleted and drained under traffic, too.
        std::thread::sleep(Duration::from_millis(3500));
        let seen = job.stop()?;
        ensure!(seen.sent > 100, "it hardly ran: {seen:?}");
        let after = self.culvert.site()?;
        let same = before.spi_in() == after.spi_in() && before.ike_spis() == after.ike_spis();
        ensure!(!same, "nothing was rekeyed: {:#}", after.0);
        self.agree()?;
        let children = self.swan.children("net")?;
        ensure!(children.len() == 1, "strongSwan is left with {} children", children.len());
        ensure!(self.swan.ike_count()? == 1, "strongSwan is left with {} IKE SAs", self.swan.ike_count()?);
        Ok(seen)
    }
}

/// Pings and runs iperf3 in both directions between hosts of site A and site B.
///
/// # Errors
/// When a ping is lost or hardly anything arrives.
pub fn traffic(site: &Site, hosts: &[(&str, &str)]) -> Result<()> {
    let server = IperfServer::start(&site.host_b)?;
    for (a, b) in hosts {
        no_loss(&site.host_a, b)?;
        no_loss(&site.host_b, a)?;
        for reverse in [false, true] {
            let result = server.measure(&site.host_a, b, &Iperf { reverse, ..Iperf::default() })?;
            ensure!(result.bytes > 1_000_000, "hardly anything arrives (reverse: {reverse}): {result:?}");
        }
    }
    Ok(())
}

/// Ten pings, all answered.
///
/// # Errors
/// When one is not.
pub fn no_loss(from: &Namespace, to: &str) -> Result<()> {
    let seen = ping(from, to, 10, Duration::from_millis(20))?;
    ensure!(seen.lost() == 0, "ping from {} to {to}: {seen:?}", from.name());
    Ok(())
}

/// The suite in an ESP proposal: all of it but the key exchange.
pub fn suite_of(esp: &str) -> String {
    let groups = ["modp", "ecp", "curve"];
    let kept: Vec<&str> =
        esp.split('-').filter(|word| !groups.iter().any(|group| word.starts_with(group))).collect();
    kept.join("-")
}

/// A PRF that is that of the integrity algorithm may stand in an IKE proposal or be left out.
fn without_prf(ike: &str) -> String {
    let implied =
        |word: &str| word.strip_prefix("prf").is_some_and(|prf| ike.split('-').any(|other| other == prf));
    let kept: Vec<&str> = ike.split('-').filter(|word| !implied(word)).collect();
    kept.join("-")
}

/// strongSwan's names, in the notation of proposals.
fn swan_suite(child: &SwanChildSa) -> Result<String> {
    let bits = child.key_bits.map(|bits| bits.to_string()).unwrap_or_default();
    let integrity = match child.integrity.as_str() {
        "" => "",
        "HMAC_SHA1_96" => "-sha1",
        "HMAC_SHA2_256_128" => "-sha256",
        "HMAC_SHA2_384_192" => "-sha384",
        "HMAC_SHA2_512_256" => "-sha512",
        other => anyhow::bail!("unknown integrity {other}"),
    };
    Ok(match child.encryption.as_str() {
        "AES_GCM_16" => format!("aes{bits}gcm16"),
        "CHACHA20_POLY1305" => "chacha20poly1305".to_owned(),
        "AES_CBC" => format!("aes{bits}{integrity}"),
        other => anyhow::bail!("unknown cipher {other}"),
    })
}

/// Two culvertd across a site.
#[derive(Debug)]
pub struct Twins {
    /// The initiator, at site A.
    pub a: Culvert,
    /// The responder, at site B.
    pub b: Culvert,
    /// Where they are.
    pub site: Site,
}

impl Twins {
    /// Brings both up as `case` says (its strongSwan part does not count).
    ///
    /// # Errors
    /// When a daemon does not start or the tunnel does not come up; with the logs.
    pub fn bring_up(case: &Case) -> Result<Self> {
        let site = Site::with(SiteOptions { nat: case.nat, wan_mtu: case.wan_mtu })?;
        let b = Culvert::start(
            &site.gateway_b,
            &GatewayConfig::new(vec![case.culvert_connection(&site, false)]),
        )?;
        let a =
            Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![case.culvert_connection(&site, true)]))?;
        let twins = Self { a, b, site };
        twins.a.wait_site().with_context(|| format!("the peer's log:\n{}", twins.b.log()))?;
        twins.b.wait_site()?;
        Ok(twins)
    }

    /// Whether both sides tell the same story.
    ///
    /// # Errors
    /// When they do not.
    pub fn agree(&self) -> Result<()> {
        let (a, b) = (self.a.site()?, self.b.site()?);
        let told = || format!("a: {:#}\nb: {:#}", a.0, b.0);
        ensure!(a.ike_spis() == b.ike_spis() && a.ike_spis().is_some(), "IKE SPIs differ; {}", told());
        ensure!(a.spi_in() == b.spi_out() && a.spi_out() == b.spi_in(), "ESP SPIs differ; {}", told());
        ensure!(a.child()["suite"] == b.child()["suite"], "suites differ; {}", told());
        ensure!(a.child()["encap"] == b.child()["encap"], "encapsulations differ; {}", told());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{suite_of, without_prf};

    #[test]
    fn the_group_is_no_part_of_the_suite() {
        assert_eq!(suite_of("aes128gcm16-ecp256"), "aes128gcm16");
        assert_eq!(suite_of("aes256-sha384-modp2048"), "aes256-sha384");
        assert_eq!(suite_of("chacha20poly1305"), "chacha20poly1305");
        assert_eq!(without_prf("aes256-sha256-prfsha256-ecp256"), "aes256-sha256-ecp256");
        assert_eq!(without_prf("aes256gcm16-prfsha384-ecp384"), "aes256gcm16-prfsha384-ecp384");
    }
}
