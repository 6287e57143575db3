//! One way to connect Culvert with a peer, and the configurations of both sides that follow from it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::topology::{
    HOST_A, HOST_A6, HOST_B, HOST_B6, LAN_A, LAN_A6, LAN_B, LAN_B6, WAN_A, WAN_A6, WAN_B, WAN_B6,
};
use culvert_lab::{
    Connection, Culvert, FreeRadius, GatewayConfig, Namespace, Process, RadiusConfig, Site, SiteOptions,
    StrongSwan, SwanConfig, SwanConnection, SwanEngine,
};

use crate::pair::Servers;
use crate::{ID_A, ID_B, Pair, suite_of};

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
    /// The suites that must come out, where they are not what `ike` and `esp` say: several are offered, or the two
    /// sides have different ones.
    pub suites: Option<(String, String)>,
    /// How many children both must have.
    pub children: usize,
    /// Pairs of hosts that must reach each other beside those of the first networks.
    pub more_hosts: Vec<(String, String)>,
    /// Site A has no network, only an inner address that site B gives to its gateway.
    pub client_at_a: bool,
    /// Changes to Culvert's connection, see [`Connection::set`].
    pub ours: Vec<(String, String)>,
    /// Lines of Culvert's `[gateway]`, see [`GatewayConfig::gateway`].
    pub our_gateway: Vec<(String, String)>,
    /// Changes to strongSwan's, see [`SwanConnection::set`].
    pub theirs: Vec<(String, String)>,
    /// Changes to charon's own settings, see [`SwanConfig::charon`].
    pub charon: Vec<(String, String)>,
    /// Files beside Culvert's configuration.
    pub our_files: Vec<(String, Vec<u8>)>,
    /// What Culvert sees as /etc/hosts; that of the host otherwise.
    pub our_hosts: Option<String>,
    /// Files under swanctl's directory.
    pub their_files: Vec<(String, Vec<u8>)>,
    /// Programs on the host behind Culvert, which run while the case does: arguments, and what they say once they serve;
    /// in a folder with these files.
    pub servers: Vec<(Vec<String>, String)>,
    /// The files for them.
    pub server_files: Vec<(String, Vec<u8>)>,
    /// A FreeRADIUS on the host behind Culvert.
    pub radius: Option<RadiusConfig>,
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
            suites: None,
            children: 1,
            more_hosts: Vec::new(),
            client_at_a: false,
            ours: Vec::new(),
            our_gateway: Vec::new(),
            theirs: Vec::new(),
            charon: Vec::new(),
            our_files: Vec::new(),
            our_hosts: None,
            their_files: Vec::new(),
            servers: Vec::new(),
            server_files: Vec::new(),
            radius: None,
        }
    }

    /// Whether Culvert is at site A: at the side that begins.
    pub fn culvert_at_a(&self) -> bool {
        self.initiator == Initiator::Culvert
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
    pub fn hosts(&self) -> Vec<(&str, &str)> {
        let mut pairs = vec![(HOST_A, HOST_B)];
        if self.ipv6_inside {
            pairs.push((HOST_A6, HOST_B6));
        }
        pairs.extend(self.more_hosts.iter().map(|(a, b)| (a.as_str(), b.as_str())));
        pairs
    }

    /// The IKE suite and the ESP suite that both sides must name.
    pub fn expected_suites(&self) -> (String, String) {
        self.suites.clone().unwrap_or_else(|| (self.ike.clone(), suite_of(&self.esp)))
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
        connection.set.clone_from(&self.ours);
        connection
    }

    /// The configuration of Culvert against strongSwan.
    pub fn culvert_config(&self, site: &Site) -> GatewayConfig {
        let connection = self.culvert_connection(site, self.culvert_at_a());
        let (files, hosts) = (self.our_files.clone(), self.our_hosts.clone());
        let config = GatewayConfig { files, hosts, ..GatewayConfig::new(vec![connection]) };
        self.our_gateway.iter().fold(config, |config, (key, value)| config.gateway(key, value))
    }

    /// The configuration of strongSwan against Culvert.
    pub fn swan_config(&self, site: &Site) -> SwanConfig {
        SwanConfig {
            engine: self.swan_engine,
            charon: self.charon.clone(),
            connections: vec![self.swan_connection(site, !self.culvert_at_a())],
            files: self.their_files.clone(),
        }
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
        connection.set.clone_from(&self.theirs);
        connection
    }

    /// The site that it needs.
    ///
    /// # Errors
    /// When it cannot be laid.
    pub fn site(&self) -> Result<Site> {
        Site::with(SiteOptions { nat: self.nat, wan_mtu: self.wan_mtu })
    }

    /// Starts the servers of the case in a namespace.
    fn serve(&self, namespace: &Namespace) -> Result<Servers> {
        let folder = tempfile::tempdir()?;
        for (name, content) in &self.server_files {
            std::fs::write(folder.path().join(name), content)?;
        }
        let mut running = Vec::new();
        for (arguments, ready) in &self.servers {
            let (program, rest) = arguments.split_first().context("no program")?;
            let mut command = namespace.command(program);
            command.args(rest).current_dir(folder.path());
            let mut process = Process::spawn(program.clone(), &mut command)?;
            if !ready.is_empty() {
                let log = process.wait_log(ready, Duration::from_secs(5));
                log.with_context(|| format!("{program} does not serve:\n{}", process.log()))?;
            }
            running.push(process);
        }
        Ok(Servers { _running: running, _folder: folder })
    }

    /// Lays the site, starts both daemons and negotiates.
    ///
    /// # Errors
    /// When a daemon does not start or the tunnel does not come up; with the logs.
    pub fn bring_up(&self) -> Result<Pair> {
        let pair = self.start(self.site()?, None)?;
        pair.connect()?;
        Ok(pair)
    }

    /// Starts both daemons in a site, or gives a charon that is there this case's configuration. Where Culvert
    /// initiates, it begins at once.
    ///
    /// # Errors
    /// When a daemon does not start or refuses its configuration.
    pub fn start(&self, site: Site, running: Option<StrongSwan>) -> Result<Pair> {
        let (culvert_at, swan_at) = if self.culvert_at_a() {
            (&site.gateway_a, &site.gateway_b)
        } else {
            (&site.gateway_b, &site.gateway_a)
        };
        let config = self.swan_config(&site);
        let swan = match running.filter(|swan| swan.can_load(&config)) {
            Some(swan) => {
                swan.load_all(&config)?;
                swan
            }
            None => StrongSwan::with(swan_at, &config)?,
        };
        let beside = if self.culvert_at_a() { &site.host_a } else { &site.host_b };
        let radius = self.radius.as_ref().map(|config| FreeRadius::start(beside, config)).transpose()?;
        let servers = self.serve(beside)?;
        let culvert = Culvert::start(culvert_at, &self.culvert_config(&site))?;
        Ok(Pair { case: self.clone(), culvert, swan, radius, servers, site })
    }
}
