//! What the facade takes and gives: configuration, reports, statistics, events, errors.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use culvert_crypto::Suite;
use culvert_ike::{Parity, Purpose};
use culvert_sys::encap::EncapError;
use culvert_sys::esp_bpf::{EspError, HookChoice};
use culvert_sys::netlink::NetlinkError;
use culvert_sys::tun::TunError;
use culvert_sys::wan::WanError;
use culvert_sys::xfrm::SelectorPairError;
use culvert_sys::xsk::XskError;
use culvert_types::{Spi, TunnelId};
use ipnet::IpNet;

use crate::SmallPackets;

/// How to start a [`Dataplane`](crate::Dataplane).
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// The WAN addresses. Each gets a UDP socket on `natt_port`, and a raw ESP socket when an SA needs one.
    pub wan: Vec<IpAddr>,
    /// LAN devices on which engine `bpf`, and the LAN port `xsk`, take packets before the stack sees them, and give them past
    /// it.
    pub lan: Vec<String>,
    /// Which hook the programs of engine `bpf` have at the devices of LAN and WAN.
    pub bpf_hook: HookChoice,
    /// UDP port of ESP and IKE together (RFC 3948), 4500.
    pub natt_port: u16,
    /// Most threads for either direction.
    pub workers: usize,
    /// Set DF on outer packets, and learn the path's MTU. Without it routers may fragment.
    pub dont_fragment: bool,
    /// Copy the inner DSCP outward. ECN is always carried through (RFC 6040).
    pub copy_dscp: bool,
    /// Socket buffers of the WAN sockets, in bytes, each direction.
    pub socket_buffer: usize,
    /// Names of the WAN's devices, for AF_XDP.
    pub wan_devices: Vec<String>,
    /// Open the UDP sockets so that a kernel ESP socket can share their port (SO_REUSEPORT).
    pub share_natt_port: bool,
    /// Workers that serve a tunnel poll for half a millisecond after packets before they sleep: less latency, more CPU time.
    pub busy_poll: bool,
    /// CPUs that inbound packets of the engine `xfrm` are spread over, SA by SA; without any they stay where they arrive.
    pub steer: Vec<u32>,
    /// Offloads of the engine `user` that may be used.
    pub offloads: OffloadSwitches,
}

/// What the kernel does for many packets at once, where it can and may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadSwitches {
    /// Super-packets of TCP at the tunnels' devices.
    pub tso: bool,
    /// Super-packets of UDP at the tunnels' devices (Linux 6.2).
    pub uso: bool,
    /// Trains of datagrams to the WAN.
    pub gso: bool,
    /// Joined datagrams from the WAN.
    pub gro: bool,
}

impl Default for OffloadSwitches {
    fn default() -> Self {
        Self { tso: true, uso: true, gso: true, gro: true }
    }
}

impl Default for DataplaneConfig {
    fn default() -> Self {
        Self {
            wan: Vec::new(),
            lan: Vec::new(),
            bpf_hook: HookChoice::Auto,
            natt_port: 4500,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            dont_fragment: true,
            copy_dscp: true,
            socket_buffer: 8 << 20,
            wan_devices: Vec::new(),
            share_natt_port: false,
            busy_poll: false,
            steer: Vec::new(),
            offloads: OffloadSwitches::default(),
        }
    }
}

/// Which engine a tunnel should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The one that the host serves best, found by probing.
    #[default]
    Auto,
    /// The kernel's, or none.
    Xfrm,
    /// User space, or none.
    User,
    /// eBPF, or none; never chosen without being asked for.
    Bpf,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::User => Self::User,
            Engine::Xfrm => Self::Xfrm,
            Engine::Bpf => Self::Bpf,
        }
    }
}

/// Which WAN port a tunnel of the engine `user` should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WanPortChoice {
    /// Sockets: UDP, or raw for plain ESP.
    #[default]
    Socket,
    /// AF_XDP, with the sockets for what it cannot carry.
    Xsk,
}

/// Which LAN port a tunnel of the engine `user` should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanPortChoice {
    /// The tunnel's device.
    #[default]
    Tun,
    /// AF_XDP at the LAN's devices, with the tunnel's device for what it leaves to the stack.
    Xsk,
}

/// Who does ESP for a tunnel's SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// User-space crypto in workers.
    User,
    /// The kernel.
    Xfrm,
    /// Programs of ours in the kernel.
    Bpf,
}

impl Engine {
    /// Whether it can have SAs for this purpose beside those for all packets.
    pub(crate) fn takes(self, purpose: Purpose) -> bool {
        match (self, purpose) {
            (_, Purpose::All)
            | (Self::User | Self::Xfrm, Purpose::Resource(_))
            | (Self::Bpf, Purpose::Small) => true,
            (Self::User | Self::Xfrm | Self::Bpf, _) => false,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Xfrm => "xfrm",
            Self::Bpf => "bpf",
        })
    }
}

/// A tunnel to create.
#[derive(Debug, Clone)]
pub struct TunnelSpec {
    /// Its id.
    pub id: TunnelId,
    /// Name of its network interface, `cv-…`, at most 15 bytes.
    pub interface: String,
    /// The engine asked for.
    pub engine: EngineChoice,
    /// Every suite that may be negotiated.
    pub suites: Vec<Suite>,
    /// Its inner addresses. The facade does not assign them.
    pub inside: Vec<IpNet>,
    /// MTU of the interface, in bytes; `None`: what fits the path to the peer.
    pub mtu: Option<u32>,
    /// ESP is expected to go in UDP.
    pub encap: bool,
    /// The WAN port asked for.
    pub wan_port: WanPortChoice,
    /// The LAN port asked for.
    pub lan_port: LanPortChoice,
    /// What lies behind the peer; in transport mode the peer itself.
    pub remote_nets: Vec<IpNet>,
    /// Packets of the engine `user` that engine `bpf` shall have, in SAs installed into that; where it can.
    pub small: Option<SmallPackets>,
    /// It may have SAs for one worker each ([`Purpose::Resource`]): engine `user` gives each worker a queue of the device.
    pub spread: bool,
    /// Transport mode: what the two gateways send each other. There is no interface, and engine `xfrm` alone serves it.
    pub transport: bool,
    /// It serves many clients, whose SAs share its interface.
    pub many: bool,
    /// What the engine `xfrm` is asked for beside its SAs.
    pub kernel: KernelIpsec,
}

/// What the kernel's IPsec is asked for beside SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelIpsec {
    /// The network card does the cipher, where it can.
    pub offload: bool,
    /// Mark of sealed packets. No other engine sets it: no other has an SA that asks for it.
    pub output_mark: Option<u32>,
}

impl TunnelSpec {
    /// Whether a port of the engine `user` is asked for that passes the stack by.
    pub(crate) fn asks_for_xsk(&self) -> bool {
        self.wan_port == WanPortChoice::Xsk || self.lan_port == LanPortChoice::Xsk
    }
}

/// How a tunnel was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelReport {
    /// The engine that serves it.
    pub engine: Engine,
    /// How packets come from and go to the LAN: `tun`, `xsk`, `xfrm`, `policy` where the kernel takes them without an
    /// interface, or `tc`.
    pub lan_port: &'static str,
    /// How they reach the WAN: `udp`, `raw`, `xsk`, `xfrm`, or `tc`.
    pub wan_port: &'static str,
    /// Why the other engines were not chosen, a line each.
    pub why: Vec<String>,
    /// What parity the inbound SPIs of this tunnel's SAs must have, if any.
    pub spi_parity: Option<Parity>,
    /// Engine `bpf` takes small packets, once an SA is installed into it.
    pub small: bool,
}

/// How an SA was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallReport {
    /// The engine that has it from now on, until it is removed.
    pub engine: Engine,
    /// Why those that come before it have not, a line each.
    pub why: Vec<String>,
}

/// An engine, and what it can serve on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The engine.
    pub engine: Engine,
    /// Whether it can serve at all, or why not.
    pub available: Result<(), String>,
    /// Every suite, and whether the engine takes it or why not.
    pub suites: Vec<(Suite, Result<(), String>)>,
    /// What else an operator should know of it, a line each.
    pub notes: Vec<String>,
}

impl EngineInfo {
    pub(crate) fn user(notes: Vec<String>) -> Self {
        let suites = Suite::all().map(|suite| (suite, Ok(()))).collect();
        Self { engine: Engine::User, available: Ok(()), suites, notes }
    }
}

/// One SA pair's state and counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaStats {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// SPI of packets to us.
    pub inbound: Spi,
    /// SPI of packets to the peer.
    pub outbound: Spi,
    /// Who does its ESP.
    pub engine: Engine,
    /// The inbound worker that owns it, counted from 0; `None` in the kernel.
    pub worker: Option<u32>,
    /// The outbound worker that seals its packets; `None` in the kernel.
    pub sender: Option<u32>,
    /// The queue of the tunnel's device that both have, where it has several; with the LAN port `xsk` that of the LAN's devices
    /// by which opened packets leave.
    pub lan_queue: Option<u32>,
    /// With the WAN port `xsk` the queue of the WAN's devices by which sealed packets leave. They come in by any.
    pub wan_queue: Option<u32>,
    /// Packets opened and delivered.
    pub packets_in: u64,
    /// Inner bytes of them.
    pub bytes_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Inner bytes of them.
    pub bytes_out: u64,
    /// Packets of this SA that were dropped, by reason; only reasons that occurred.
    pub drops: Vec<(&'static str, u64)>,
    /// Inbound sequence numbers below this one are refused, for the classifier.
    pub replay_floor: u64,
    /// Highest inbound sequence number.
    pub sequence_in: u64,
    /// Last outbound sequence number.
    pub sequence_out: u64,
}

/// Packets that were dropped before an SA was found for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelDrops {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Packets by reason; only reasons that occurred.
    pub drops: Vec<(&'static str, u64)>,
}

/// What the owner must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataplaneEvent {
    /// An IKE message on the UDP port shared with ESP, without its non-ESP marker.
    Ike {
        /// Our address and port.
        local: SocketAddr,
        /// Who sent it.
        remote: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The SA nears a limit of its cipher or of its sequence numbers: rekey it.
    SoftLimit {
        /// The SA.
        inbound: Spi,
    },
    /// The SA reached the limit and sends nothing any more.
    HardLimit {
        /// The SA.
        inbound: Spi,
    },
    /// An authentic packet of the SA came from another address or port than the peer's.
    PeerMoved {
        /// The SA.
        inbound: Spi,
        /// The peer's address until now; port 0 without UDP encapsulation.
        from: SocketAddr,
        /// Where the packet came from.
        to: SocketAddr,
    },
    /// A packet wants to go through a tunnel that has no outbound SA. At most once per second and tunnel.
    Trigger {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// The path to the peer carries less, or more again, than it did: the interface's MTU was changed.
    Mtu {
        /// The tunnel.
        tunnel: TunnelId,
        /// The interface's MTU now, in bytes.
        mtu: u32,
    },
    /// Something broke that the data plane cannot mend itself.
    Fault {
        /// The tunnel, if one is concerned.
        tunnel: Option<TunnelId>,
        /// What broke, and what to do.
        cause: String,
    },
}

/// Why the data plane refused.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A WAN socket cannot be opened.
    #[error(transparent)]
    Wan(#[from] WanError),
    /// AF_XDP cannot be had.
    #[error(transparent)]
    Xsk(#[from] XskError),
    /// A TUN device cannot be had.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The programs of engine `bpf` cannot be had, or refuse.
    #[error(transparent)]
    Bpf(#[from] EspError),
    /// The kernel refused an interface, an SA or a policy.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// The kernel's socket for ESP in UDP cannot be had.
    #[error(transparent)]
    Encap(#[from] EncapError),
    /// The negotiated selectors cannot be told to the kernel.
    #[error(transparent)]
    Selectors(#[from] SelectorPairError),
    /// Workers cannot be started.
    #[error("cannot start a worker: {0}")]
    Worker(std::io::Error),
    /// A worker ended; an event of kind `Fault` said why.
    #[error("a worker has died: restart the daemon, and report the fault that the log shows before this")]
    WorkerGone,
    /// The engine asked for does not serve here.
    #[error("engine {engine} cannot serve {interface}: {reason}; set engine = \"auto\" or \"user\"")]
    EngineUnavailable {
        /// The engine.
        engine: Engine,
        /// The tunnel's interface.
        interface: String,
        /// Why not.
        reason: String,
    },
    /// The tunnel has no interface of the engine that was wished for.
    #[error("{tunnel:?} has no interface of engine {engine}")]
    NotServedBy {
        /// The tunnel.
        tunnel: TunnelId,
        /// The engine.
        engine: Engine,
    },
    /// Nobody here carries transport mode.
    #[error(
        "transport mode needs the kernel's ESP, which cannot serve {interface}: {reason}; use a kernel with ESP \
         (CONFIG_INET_ESP), or mode = \"tunnel\" at both ends"
    )]
    Transport {
        /// What the tunnel's interface would be called.
        interface: String,
        /// Why not.
        reason: String,
    },
    /// No engine takes the SA, or the tunnel.
    #[error("no engine takes it: {0}")]
    NoEngine(String),
    /// There is no such tunnel.
    #[error("{0:?} has not been created")]
    UnknownTunnel(TunnelId),
    /// There is one already.
    #[error("{0:?} has been created already")]
    TunnelExists(TunnelId),
    /// There is no such SA.
    #[error("no SA with inbound SPI {0} is installed")]
    UnknownSpi(Spi),
    /// There is one already: an SPI of ours must be of one SA only.
    #[error("an SA with inbound SPI {0} is installed already")]
    SpiTaken(Spi),
    /// SAs for this purpose are not for this engine.
    #[error("engine {0} has no SAs for {1} packets beside those for all: the peer should not ask for them")]
    Purpose(Engine, Purpose),
    /// The address is none of the configured WAN addresses.
    #[error("{0} is none of the WAN addresses that the gateway listens on")]
    NotWan(IpAddr),
    /// The negotiated keys do not fit the suite.
    #[error("the SA's keys do not fit its suite: {0}")]
    Key(#[from] culvert_crypto::KeyError),
    /// The kernel refused to send.
    #[error("cannot send to {to}: {source}")]
    Send {
        /// Where to.
        to: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}
