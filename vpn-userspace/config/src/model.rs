//! What a valid configuration says, with every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use culvert_crypto::NtHash;
use culvert_ike::{
    Addresses, EspProposal, ExchangeOptions, Identity, IkeProposal, ModeConfig, Ppk, Psk, Unique, V1Mode,
    Xauth,
};
use ipnet::IpNet;

use crate::bgp::{Bgp, BgpNeighbor, GatewayBgp};
use crate::credentials::{Authorities, Credentials};
use crate::dataplane::Dataplane;
use crate::environment::Environment;
use crate::forward::Forward;
use crate::health::{Failback, Health};
use crate::kernel::KernelIpsec;
use crate::limits::Limits;
use crate::notice::Notice;
use crate::per_cpu::PerCpu;
use crate::port::{LanPort, WanPort};
use crate::profile::Profile;
use crate::radius::Radius;
use crate::remote::Remote;
use crate::small::SmallPackets;

/// A configuration that passed every check that needs only the file and its secrets.
///
/// What it does not know: whether the interfaces exist ([`Config::check_interfaces`]), which addresses they
/// have, what the kernel can do.
#[derive(Clone)]
pub struct Config {
    /// This host.
    pub gateway: Gateway,
    /// The log.
    pub log: Log,
    /// In the order of the file; then those that only connections name. Without the default one, unless it is declared.
    pub environments: Vec<Environment>,
    /// In the order of the file.
    pub connections: Vec<Connection>,
    /// Who is told what happens.
    pub notices: Vec<Notice>,
    pub(crate) origin: crate::error::Origin,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("gateway", &self.gateway)
            .field("log", &self.log)
            .field("environments", &self.environments)
            .field("connections", &self.connections)
            .field("notices", &self.notices)
            .finish_non_exhaustive()
    }
}

/// `[gateway]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Interfaces that face the peers; at least one.
    pub wan: Vec<String>,
    /// Interfaces that face the local networks.
    pub lan: Vec<String>,
    /// What the packet classifier does.
    pub guard: Guard,
    /// Where the packet classifier is attached.
    pub attach: Attach,
    /// The control socket's path, absolute.
    pub control_socket: PathBuf,
    /// Threads of the `user` engine; `None`: as many as the host has cores.
    pub workers: Option<usize>,
    /// UDP port of IKE.
    pub ike_port: u16,
    /// UDP port of IKE and ESP through NAT.
    pub natt_port: u16,
    /// How the engine `user` moves packets.
    pub dataplane: Dataplane,
    /// What all BGP sessions have in common.
    pub bgp: GatewayBgp,
    /// How much there may be in all environments together.
    pub limits: Limits,
}

/// `guard`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Drop what cannot be valid.
    On,
    /// Do not load it.
    Off,
    /// Count what `On` would drop, and pass it.
    Learn,
}

/// `attach`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// The fastest that the interface takes without losing its offloads.
    Auto,
    /// XDP in the driver.
    XdpNative,
    /// XDP after the driver.
    XdpGeneric,
    /// Traffic control.
    Tcx,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is recorded.
    pub level: LogLevel,
    /// How lines are written.
    pub format: LogFormat,
    /// The file that takes the keys of every IKE SA, to decrypt a capture; `None`, as always but when a fault is
    /// looked for: they go nowhere.
    pub ike_secrets: Option<PathBuf>,
}

/// `level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Failures that need an operator.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what an operator wants to know in normal running.
    Info,
    /// And why things happened.
    Debug,
    /// And every message.
    Trace,
}

impl LogLevel {
    /// The word in lower case, as `tracing` filters take it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[connection.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The environment that it is in.
    pub environment: String,
    /// How much there may be in it.
    pub limits: Limits,
    /// Networks of this side, none inside another; at least one, unless the tunnels get an address from the peer.
    pub local: Vec<IpNet>,
    /// Networks of the far side; at least one, none inside another or inside one of another connection.
    pub remote: Vec<IpNet>,
    /// Who begins, and when.
    pub start: Start,
    /// Who does ESP.
    pub engine: Engine,
    /// How ESP travels.
    pub encap: Encap,
    /// How packets of the engine `user` reach the WAN.
    pub wan_port: WanPort,
    /// Which packets have a child SA of their own, on the engine `bpf`; `None`: none.
    pub small: Option<SmallPackets>,
    /// How packets of the LAN reach the engine `user`.
    pub lan_port: LanPort,
    /// What the engine `xfrm` is asked for beside its SAs.
    pub kernel: KernelIpsec,
    /// IKE SAs.
    pub ike: Ike,
    /// Child SAs.
    pub esp: Esp,
    /// Dead peer detection.
    pub dpd: Dpd,
    /// How the IKE exchanges go.
    pub exchange: ExchangeOptions,
    /// Authenticate anew before this time is over; `None`: never.
    pub reauth: Option<Duration>,
    /// What happens when the peer authenticates once more.
    pub unique: Unique,
    /// How the networks of the far side are learned; `None`: they are those of `remote`.
    pub bgp: Option<Bgp>,
    /// Traffic goes through all tunnels that have a weight, in proportion.
    pub balance: bool,
    /// When it returns to a preferred tunnel that failed.
    pub failback: Failback,
    /// MTU of the tunnel interfaces in bytes; `None`: from the WAN interface and the suite.
    pub mtu: Option<u16>,
    /// In the order of the file; at least one.
    pub tunnels: Vec<Tunnel>,
    /// In the order of the file.
    pub forwards: Vec<Forward>,
}

/// `start`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// As soon as culvertd runs, and again whenever it is down.
    Immediate,
    /// With the first packet for the far side.
    OnTraffic,
    /// Only the peer begins.
    Respond,
}

/// `engine`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The fastest that this host can.
    Auto,
    /// The kernel.
    Xfrm,
    /// User space.
    User,
    /// eBPF.
    Bpf,
}

/// `encap`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encap {
    /// UDP where the peer takes it or a NAT needs it.
    Auto,
    /// Always in UDP, NAT or not.
    Udp,
    /// As IP protocol 50 unless there is a NAT.
    Esp,
}

/// `ike`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ike {
    /// 2, or 1 where the peer can do no better.
    pub version: u8,
    /// With version 1: which phase 1.
    pub mode: V1Mode,
    /// With version 1: who begins with inner addresses.
    pub mode_config: ModeConfig,
    /// In order of preference.
    pub proposals: Vec<IkeProposal>,
    /// Where they come from, if the file names a profile.
    pub profile: Option<Profile>,
    /// An IKE SA is rekeyed before it gets so old.
    pub lifetime: Duration,
}

/// `esp`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// In order of preference.
    pub proposals: Vec<EspProposal>,
    /// Where they come from, if the file names a profile.
    pub profile: Option<Profile>,
    /// A child SA is rekeyed before it gets so old.
    pub lifetime: Duration,
    /// In packets: a multiple of 64 from 64 to 8192.
    pub replay_window: u32,
    /// Whether sequence numbers of 64 bits are offered.
    pub esn: bool,
    /// Child SAs beside the first, one for each worker or CPU.
    pub per_cpu: PerCpu,
}

/// `dpd`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dpd {
    /// A peer that was silent for so long is asked.
    pub interval: Duration,
    /// A peer that did not answer for so long is dead; not shorter than the interval.
    pub timeout: Duration,
    /// What to do then.
    pub action: DpdAction,
}

/// `action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DpdAction {
    /// Take the tunnel down and begin anew. Towards any peer (`remote_address = "any"`) the same as `Clear`.
    Restart,
    /// Take the tunnel down and wait for the peer or the operator.
    Clear,
    /// Take the tunnel down and begin anew with the next packet for the far side.
    Hold,
}

/// `[connection.NAME.tunnel.NAME]`, with what it copies from another tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The network interface, at most 15 bytes, unique.
    pub interface: String,
    /// `None`: the address of the WAN interface that leads to the peer.
    pub local_address: Option<IpAddr>,
    /// Where the peer is called, and where it comes from.
    pub remote_address: Remote,
    /// `None`: the subject of the certificate, or else the local address in use.
    pub local_id: Option<Identity>,
    /// What the peer must call itself: the remote address or name where the file does not say.
    /// `None`: whoever authenticates.
    pub remote_id: Option<Identity>,
    /// So many clients at once, each with an IKE SA of its own; `None`: one peer.
    pub clients: Option<usize>,
    /// What both sides prove their identity with.
    pub auth: TunnelAuth,
    /// What it has of its own in place of the connection's; see [`Connection::ike_of`].
    pub ike: Option<Ike>,
    /// What it has of its own in place of the connection's; see [`Connection::esp_of`].
    pub esp: Option<Esp>,
    /// A post-quantum pre-shared key beside it.
    pub ppk: Option<Ppk>,
    /// Inner addresses asked for or handed out.
    pub addresses: Addresses,
    /// With IKEv1: a user's name and password after phase 1.
    pub xauth: Option<Xauth>,
    /// Addresses of the tunnel interface with their networks.
    pub inside: Vec<IpNet>,
    /// 100 is active, 0 is standby; no two of a connection are equal unless it balances.
    pub weight: u8,
    /// Whom it speaks BGP with: at most one of each family.
    pub bgp: Vec<BgpNeighbor>,
    /// How it is found out whether it carries traffic; `None`: it does when it is up.
    pub health: Option<Health>,
    /// From where the peer checks this tunnel: answers go back through it.
    pub health_sources: Vec<IpNet>,
    /// Whether it may come up.
    pub enabled: bool,
}

/// `auth`, `remote_auth` and the files that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelAuth {
    /// What this side proves its identity with.
    pub local: LocalProof,
    /// What the peer must prove its identity with.
    pub remote: RemoteProof,
    /// EAP proves the server as well (RFC 5998).
    pub eap_only: bool,
}

impl TunnelAuth {
    /// What is weaker than it looks, and what to do; `None` if nothing is.
    pub fn warning(&self) -> Option<&'static str> {
        let password = matches!(self.local, LocalProof::EapMschapv2 { .. })
            || matches!(self.remote, RemoteProof::EapMschapv2(_));
        (self.eap_only && password).then_some(
            "EAP-MSCHAPv2 alone (eap_only = \"insist\"): whoever answers in the server's place gets what it takes to try passwords offline; let the server have a certificate, or use eap-tls",
        )
    }
}

/// `auth`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalProof {
    /// A pre-shared key.
    Psk(Psk),
    /// A certificate and its private key.
    Certificate {
        /// Both.
        credentials: Credentials,
        /// Sign RSA with SHA-1 for peers that know nothing better.
        allow_sha1: bool,
    },
    /// A user's password, by EAP-MSCHAPv2.
    EapMschapv2 {
        /// The user's name.
        user: String,
        /// Of the password.
        hash: NtHash,
    },
    /// With IKEv1: nothing but the user of `xauth_user` (hybrid).
    User,
    /// A certificate, by EAP-TLS.
    EapTls {
        /// What the client calls itself; `None`: its id.
        user: Option<String>,
        /// Its certificate and private key.
        credentials: Credentials,
        /// Who vouches for the server.
        authorities: Authorities,
        /// Whom the server's certificate in EAP-TLS must name; `None`: as `remote_id`.
        server: Option<Identity>,
    },
}

/// Whether, and where, it is asked online if a certificate is revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocation {
    /// `revocation`
    pub policy: RevocationPolicy,
    /// An OCSP responder in place of those that certificates name.
    pub ocsp_url: Option<String>,
    /// A revocation list in place of those that certificates name.
    pub crl_url: Option<String>,
}

/// What becomes of a certificate of which it cannot be found out whether it is revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// It is not asked.
    #[default]
    No,
    /// It is taken.
    IfPossible,
    /// It is refused.
    Strict,
}

/// `remote_auth`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteProof {
    /// A pre-shared key.
    Psk(Psk),
    /// A certificate that one of these authorities vouches for.
    Certificate {
        /// The authorities.
        authorities: Authorities,
        /// Take RSA signatures with SHA-1.
        allow_sha1: bool,
        /// Whether it is asked online if the certificate is revoked.
        revocation: Revocation,
    },
    /// A user's password, by EAP-MSCHAPv2: users and their passwords' hashes.
    EapMschapv2(BTreeMap<String, NtHash>),
    /// With IKEv1: nothing but one of the users of XAuth (hybrid).
    User,
    /// What RADIUS servers let in.
    EapRadius(Radius),
    /// A certificate, by EAP-TLS.
    EapTls {
        /// This side's certificate and private key in EAP-TLS.
        credentials: Credentials,
        /// Who vouches for clients.
        authorities: Authorities,
    },
}

impl Config {
    /// An environment by its name; `None` for the default one, unless it is declared.
    pub fn environment(&self, name: &str) -> Option<&Environment> {
        self.environments.iter().find(|e| e.name == name)
    }

    /// A connection by its name.
    pub fn connection(&self, name: &str) -> Option<&Connection> {
        self.connections.iter().find(|c| c.name == name)
    }
}

impl Tunnel {
    /// Networks of this side as they are offered to the peer: those of its connection, any address where the peer
    /// gives one or routes decide.
    pub fn offers(&self, connection: &Connection) -> Vec<IpNet> {
        match &self.addresses {
            Addresses::Request(_) => crate::session::any_of(&self.addresses),
            _ if connection.bgp.is_some() => connection.any_address(),
            _ => connection.local.clone(),
        }
    }
}

impl Connection {
    /// Networks of the far side as they are offered to the peer: any where they are learned.
    pub fn asks(&self) -> Vec<IpNet> {
        if self.bgp.is_some() { self.any_address() } else { self.remote.clone() }
    }

    /// Every address of the families that its networks have.
    fn any_address(&self) -> Vec<IpNet> {
        let has = |six: bool| self.local.iter().chain(&self.remote).any(|net| net.addr().is_ipv6() == six);
        let all = [(false, IpNet::from(IpAddr::from([0; 4]))), (true, IpNet::from(IpAddr::from([0; 16])))];
        let any = |net: IpNet| IpNet::new(net.addr(), 0).unwrap_or(net);
        all.into_iter().filter(|(six, _)| has(*six)).map(|(_, net)| any(net)).collect()
    }

    /// A tunnel by its name.
    pub fn tunnel(&self, name: &str) -> Option<&Tunnel> {
        self.tunnels.iter().find(|t| t.name == name)
    }
}
