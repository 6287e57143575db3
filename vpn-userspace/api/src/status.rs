//! What `culvert status --json` prints: the whole gateway at one moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::bgp::BgpSession;
use crate::environment::{DEFAULT_ENVIRONMENT, Environment, Limit};
use crate::words::words;

/// The gateway at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// culvertd's version.
    pub version: String,
    /// culvertd's process id.
    pub pid: u32,
    /// Seconds since culvertd started.
    pub uptime_s: u64,
    /// This host.
    pub gateway: Gateway,
    /// What is dangerous and should not stay so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Each engine that this version has, available or not.
    #[serde(default)]
    pub engines: Vec<EngineStatus>,
    /// Environments, the default one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<Environment>,
    /// What is limited in all environments together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// In the order of the configuration file.
    #[serde(default)]
    pub connections: Vec<Connection>,
    /// The guard's counters since culvertd started.
    #[serde(default)]
    pub counters: Vec<Counter>,
    /// IKE messages that were dropped before they belonged to a tunnel, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ike_drops: BTreeMap<String, u64>,
    /// The ways by which somebody is told what happens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
    /// Milliseconds that the latest successful negotiation took, from the first IKE message to a usable
    /// child SA; `None` before the first.
    #[serde(default)]
    pub negotiation_ms: Option<u64>,
}

/// This host, as seen from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// The interfaces that face the peers.
    #[serde(default)]
    pub wan: Vec<Wan>,
}

/// An interface that faces the peers, with the guard (packet classifier) on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wan {
    /// The interface's name.
    pub interface: String,
    /// Its addresses, without prefix length.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Where the guard is attached; `None` when it is not.
    #[serde(default)]
    pub attach: Option<Attach>,
    /// Why it is attached there and not at a faster place, or why not at all.
    #[serde(default)]
    pub attach_reason: Option<String>,
    /// What the guard does with what cannot be valid.
    pub guard: Guard,
}

words! {
    /// What a tunnel's health check says.
    pub enum HealthVerdict {
        /// Not enough probes yet, or the tunnel is not up.
        Pending = "pending",
        /// The tunnel carries traffic.
        Healthy = "healthy",
        /// It does not.
        Unhealthy = "unhealthy",
    }
}

/// A tunnel's health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What it says.
    pub verdict: HealthVerdict,
    /// Unix time in seconds since when.
    pub since: u64,
    /// What is probed.
    pub target: String,
    /// Why the latest probe that failed did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Round trips of the latest probes in microseconds, oldest first; `null` for a lost one. At most 100.
    #[serde(default)]
    pub window_us: Vec<Option<u64>>,
    /// Of these, lost, in percent; `None` before the first.
    #[serde(default)]
    pub loss_percent: Option<u8>,
    /// Mean round trip of these in microseconds; `None` if none was answered.
    #[serde(default)]
    pub latency_us: Option<u64>,
    /// Probes since the tunnel was configured.
    #[serde(default)]
    pub sent: u64,
    /// Of these, lost.
    #[serde(default)]
    pub lost: u64,
}

words! {
    /// Where the guard is attached.
    pub enum Attach {
        /// XDP in the driver.
        XdpNative = "xdp-native",
        /// XDP after the driver, for drivers without XDP.
        XdpGeneric = "xdp-generic",
        /// The traffic-control hook (kernel 6.6 and newer); virtual links keep their GSO.
        Tcx = "tcx",
        /// The older traffic-control hook.
        Clsact = "clsact",
    }
}

words! {
    /// What the guard does with packets that cannot be valid.
    pub enum Guard {
        /// Drops and counts them.
        On = "on",
        /// Is not loaded.
        Off = "off",
        /// Counts and passes them.
        Learn = "learn",
    }
}

words! {
    /// Who does ESP for an SA.
    pub enum Engine {
        /// User-space crypto.
        User = "user",
        /// The kernel.
        Xfrm = "xfrm",
        /// Inside XDP.
        Bpf = "bpf",
    }
}

words! {
    /// Which engine is asked for.
    pub enum EngineChoice {
        /// The one that serves best here, SA by SA.
        Auto = "auto",
        /// User-space crypto.
        User = "user",
        /// The kernel.
        Xfrm = "xfrm",
        /// eBPF.
        Bpf = "bpf",
    }
}

words! {
    /// How packets of the LAN reach the `user` engine.
    pub enum LanPort {
        /// A TUN device with super-packets.
        Tun = "tun",
        /// AF_XDP.
        Xsk = "xsk",
    }
}

words! {
    /// How packets of the WAN reach the `user` engine.
    pub enum WanPort {
        /// UDP 4500 with GSO and GRO.
        Udp = "udp",
        /// A raw socket, for plain ESP.
        Raw = "raw",
        /// AF_XDP.
        Xsk = "xsk",
    }
}

/// An engine and what it can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Which one.
    pub engine: Engine,
    /// Whether at least one suite works.
    pub available: bool,
    /// Why not, in words; `None` when available.
    #[serde(default)]
    pub reason: Option<String>,
    /// Suite by suite.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    /// What else an operator should know of it, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A suite on an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Algorithm {
    /// strongSwan's notation, `aes128gcm16`.
    pub suite: String,
    /// Whether the engine does it on this host.
    pub available: bool,
    /// Why not, in words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A way by which somebody is told what happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its name in the configuration.
    pub name: String,
    /// What it is; of a webhook only the host.
    #[serde(default)]
    pub way: String,
    /// Happenings that were told.
    #[serde(default)]
    pub told: u64,
    /// Happenings that were given up after the last attempt.
    #[serde(default)]
    pub failed: u64,
    /// Happenings that were never tried, because too many waited.
    #[serde(default)]
    pub dropped: u64,
    /// Why the latest attempt that failed did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A port forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Its name in the configuration.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where clients come to.
    pub listen: String,
    /// Where it leads.
    pub to: String,
    /// Why it does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Connections, or UDP clients, that came and were let in.
    #[serde(default)]
    pub clients: u64,
    /// Of these, there now.
    #[serde(default)]
    pub active: u64,
    /// Refused: not from an allowed network.
    #[serde(default)]
    pub not_allowed: u64,
    /// Refused: as many there as may be at once.
    #[serde(default)]
    pub too_many: u64,
    /// Let in, but the far side could not be reached.
    #[serde(default)]
    pub failed: u64,
    /// Bytes from clients to the far side.
    #[serde(default)]
    pub bytes_there: u64,
    /// Bytes from the far side to clients.
    #[serde(default)]
    pub bytes_back: u64,
    /// Why the far side could not be reached the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A connection and its tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its name in the configuration.
    pub name: String,
    /// The environment that it is in.
    #[serde(default = "default_environment")]
    pub environment: String,
    /// What is limited in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// The sum of its tunnels.
    pub state: ConnectionState,
    /// Local networks, CIDR.
    #[serde(default)]
    pub local: Vec<String>,
    /// Remote networks, CIDR.
    #[serde(default)]
    pub remote: Vec<String>,
    /// In the order of the configuration file.
    #[serde(default)]
    pub tunnels: Vec<Tunnel>,
    /// Its port forwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
}

fn default_environment() -> String {
    DEFAULT_ENVIRONMENT.to_owned()
}

words! {
    /// The sum of a connection's enabled tunnels.
    pub enum ConnectionState {
        /// Every one is up.
        Up = "up",
        /// Some are up.
        Partial = "partial",
        /// None is up.
        Down = "down",
    }
}

words! {
    /// Where a tunnel stands.
    pub enum TunnelState {
        /// It has an IKE SA and a usable child SA.
        Up = "up",
        /// It negotiates.
        Connecting = "connecting",
        /// It has no SA and does not negotiate; `cause` says why.
        Down = "down",
        /// Switched off in the configuration.
        Disabled = "disabled",
    }
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name in the configuration.
    pub name: String,
    /// Its network interface, `cv-…`.
    pub interface: String,
    /// Where it stands.
    pub state: TunnelState,
    /// When it came to this state: Unix time in seconds.
    pub since: u64,
    /// Why it is not up, in one line that ends with the mend; while `connecting`, what the last attempt
    /// failed of.
    #[serde(default)]
    pub cause: Option<String>,
    /// Attempts to come up that failed since culvertd started.
    #[serde(default)]
    pub failures: u64,
    /// The local address of the configuration.
    #[serde(default)]
    pub local_address: Option<String>,
    /// The remote address of the configuration, or of its host name the one in use; `None` for any.
    #[serde(default)]
    pub remote_address: Option<String>,
    /// The host name of the configuration.
    #[serde(default)]
    pub remote_name: Option<String>,
    /// Which engine serves it; `None` before it was chosen.
    #[serde(default)]
    pub engine: Option<Engine>,
    /// The `user` engine's LAN port.
    #[serde(default)]
    pub lan_port: Option<LanPort>,
    /// The `user` engine's WAN port.
    #[serde(default)]
    pub wan_port: Option<WanPort>,
    /// Which engine the configuration asks for.
    #[serde(default)]
    pub engine_configured: Option<EngineChoice>,
    /// Which one the operator asked for since, until the next reload of the configuration.
    #[serde(default)]
    pub engine_by_operator: Option<EngineChoice>,
    /// Why the other engines and ports were not chosen, one line each.
    #[serde(default)]
    pub engine_reasons: Vec<String>,
    /// What became of child SAs beside the first that are missing, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_children: Vec<String>,
    /// 100 active, 0 standby.
    #[serde(default)]
    pub weight: u32,
    /// Whether the connection's routes point at this tunnel now.
    #[serde(default)]
    pub active: bool,
    /// Its BGP sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bgp: Vec<BgpSession>,
    /// What its health check knows; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// It failed and is well again: traffic may return to it in so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns_in_s: Option<u64>,
    /// The interface's MTU in bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The IKE SA, when there is one.
    #[serde(default)]
    pub ike: Option<Ike>,
    /// The child SAs, newest first.
    #[serde(default)]
    pub children: Vec<Child>,
    /// Packets that were dropped without belonging to a child SA (tunnel down, no selector, …), by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// An established IKE SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ike {
    /// Major version: 1 or 2.
    pub version: u8,
    /// 16 hexadecimal digits.
    pub spi_initiator: String,
    /// 16 hexadecimal digits.
    pub spi_responder: String,
    /// Whether this gateway initiated it.
    pub initiator: bool,
    /// This side.
    pub local: IkeEnd,
    /// The peer.
    pub remote: IkeEnd,
    /// strongSwan's notation, `aes256gcm16-prfsha384-ecp384`.
    pub suite: String,
    /// A post-quantum pre-shared key is in its keys (RFC 8784).
    #[serde(default)]
    pub ppk: bool,
    /// Its addresses may change without a new negotiation (MOBIKE, RFC 4555).
    #[serde(default)]
    pub mobike: bool,
    /// Inner addresses that the peer gave this gateway.
    #[serde(default)]
    pub virtual_ips: Vec<IpAddr>,
    /// Inner addresses that the peer has from this gateway.
    #[serde(default)]
    pub peer_virtual_ips: Vec<IpAddr>,
    /// DNS servers behind the tunnel that the peer named.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Who is behind a NAT.
    pub nat: Nat,
    /// Seconds until this gateway rekeys it; `None` when the peer does.
    #[serde(default)]
    pub rekey_in_s: Option<u64>,
    /// Seconds since it was established.
    pub established_s: u64,
    /// Milliseconds that the negotiation took, to the first usable child SA.
    #[serde(default)]
    pub negotiation_ms: Option<u64>,
}

/// One end of an IKE SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeEnd {
    /// Address and UDP port, `198.51.100.20:4500`.
    pub address: SocketAddr,
    /// The identity that it proved.
    pub id: String,
}

words! {
    /// Who is behind a NAT (RFC 7296 2.23).
    pub enum Nat {
        /// Nobody.
        None = "none",
        /// This gateway.
        Local = "local",
        /// The peer.
        Remote = "remote",
        /// Both.
        Both = "both",
    }
}

words! {
    /// How ESP travels.
    pub enum Encap {
        /// In UDP, port 4500 (RFC 3948).
        Udp = "udp",
        /// As IP protocol 50.
        None = "none",
    }
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Of the inbound SA: 8 hexadecimal digits.
    pub spi_in: String,
    /// Of the outbound SA: 8 hexadecimal digits.
    pub spi_out: String,
    /// strongSwan's notation, `aes128gcm16`.
    pub suite: String,
    /// The group of the key exchange that this child had of its own (`ecp256`), if any.
    #[serde(default)]
    pub dh: Option<String>,
    /// How its packets travel.
    pub encap: Encap,
    /// Traffic selectors of this side.
    #[serde(default)]
    pub local_ts: Vec<String>,
    /// Traffic selectors of the peer's side.
    #[serde(default)]
    pub remote_ts: Vec<String>,
    /// Inner packets opened.
    #[serde(default)]
    pub packets_in: u64,
    /// Inner bytes opened.
    #[serde(default)]
    pub bytes_in: u64,
    /// Inner packets sealed.
    #[serde(default)]
    pub packets_out: u64,
    /// Inner bytes sealed.
    #[serde(default)]
    pub bytes_out: u64,
    /// Packets dropped, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// What it is for, beside the tunnel's first one: `cpu0` and so on (RFC 9611), `small` for small packets. `None`: for
    /// everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Who does its ESP, for as long as it lives.
    #[serde(default)]
    pub engine: Option<Engine>,
    /// Why no other engine, a line each.
    #[serde(default)]
    pub engine_reasons: Vec<String>,
    /// How its packets reach the `user` engine from the LAN.
    #[serde(default)]
    pub lan_port: Option<LanPort>,
    /// The same from the WAN.
    #[serde(default)]
    pub wan_port: Option<WanPort>,
    /// The worker of the `user` engine that opens its packets, counted from 0.
    #[serde(default)]
    pub worker: Option<u32>,
    /// The worker of the `user` engine that seals them, counted from 0.
    #[serde(default)]
    pub sender: Option<u32>,
    /// The queue of the tunnel's interface that both workers have, where it has several; with the LAN port `xsk` the queue of
    /// the LAN's interfaces by which opened packets leave.
    #[serde(default)]
    pub lan_queue: Option<u32>,
    /// With the WAN port `xsk`, the queue of the WAN's interfaces by which sealed packets leave; they come in by any.
    #[serde(default)]
    pub wan_queue: Option<u32>,
    /// Seconds until this gateway rekeys it; `None` when the peer does.
    #[serde(default)]
    pub rekey_in_s: Option<u64>,
    /// Whether sequence numbers have 64 bits.
    #[serde(default)]
    pub esn: bool,
    /// Replay window, in packets.
    #[serde(default)]
    pub replay_window: u32,
}

words! {
    /// What the guard did.
    pub enum Verdict {
        /// Let the packet through.
        Pass = "pass",
        /// Dropped it.
        Drop = "drop",
        /// Would have dropped it, had it not been learning.
        Learn = "learn",
    }
}

/// One of the guard's counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The interface; `None` for the sum of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What happened to the packets.
    pub verdict: Verdict,
    /// Why, a fixed word such as `unknown-spi`.
    pub reason: String,
    /// How many packets.
    pub packets: u64,
    /// How many bytes, with link-layer headers.
    pub bytes: u64,
}

impl Connection {
    /// The sum of tunnel states: disabled tunnels do not count; without enabled tunnels it is down.
    pub fn state_of(tunnels: &[Tunnel]) -> ConnectionState {
        let mut enabled = tunnels.iter().filter(|t| t.state != TunnelState::Disabled).peekable();
        if enabled.peek().is_none() {
            return ConnectionState::Down;
        }
        let (mut up, mut all) = (0, 0);
        for tunnel in enabled {
            all += 1;
            up += usize::from(tunnel.state == TunnelState::Up);
        }
        match up {
            0 => ConnectionState::Down,
            n if n == all => ConnectionState::Up,
            _ => ConnectionState::Partial,
        }
    }
}
