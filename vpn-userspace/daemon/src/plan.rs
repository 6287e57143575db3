//! From the configuration's words to those of the IKE core, the data plane and the gateway.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use culvert_api::Level;
use culvert_config::{Config, Connection, LocalProof, RemoteProof, Tunnel, TunnelAuth};
use culvert_crypto::Encryption;
use culvert_dataplane::{EngineChoice, HookChoice, KernelIpsec, LanPortChoice, SmallPackets, WanPortChoice};
use culvert_gateway::{ConnectionPlan, DeadPeerAction, HealthAction, HealthPlan, Return, Start, TunnelPlan};
use culvert_ike::{
    Auth, Dpd, EspMode, EspProposal, ExchangeOptions, Identity, LocalAuth, Parity, PeerConfig, RemoteAuth,
    Session, Signer, Trust,
};
use culvert_sys::netlink::Netlink;
use culvert_types::{TrafficSelector, TunnelId};

use crate::{eap, log, radius, trust};

/// What the file configures, in a few words.
pub(crate) fn summary(config: &Config) -> String {
    let tunnels: usize = config.connections.iter().map(|c| c.tunnels.len()).sum();
    let plural = |n: usize, word| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    format!("{} with {}", plural(config.connections.len(), "connection"), plural(tunnels, "tunnel"))
}

/// What each connection offers and accepts, for `--check`: with a profile nobody sees it in the file.
pub(crate) fn proposals(config: &Config) -> String {
    let mut text = String::new();
    for c in &config.connections {
        let profile =
            |p: Option<culvert_config::Profile>| p.map_or(String::new(), |p| format!(" ({})", p.as_str()));
        let mut line = |kind: &str, from: String, all: Vec<String>| {
            let _ = writeln!(text, "  {} {kind}{from}: {}", c.name, all.join(", "));
        };
        line("ike", profile(c.ike.profile), c.ike.proposals.iter().map(ToString::to_string).collect());
        line("esp", profile(c.esp.profile), c.esp.proposals.iter().map(ToString::to_string).collect());
        for tunnel in &c.tunnels {
            if let Some(ike) = &tunnel.ike {
                let all = ike.proposals.iter().map(ToString::to_string).collect();
                line(&format!("IKEv{} of tunnel {}", ike.version, tunnel.name), profile(ike.profile), all);
            }
            if let Some(esp) = &tunnel.esp {
                let all = esp.proposals.iter().map(ToString::to_string).collect();
                line(&format!("esp of tunnel {}", tunnel.name), profile(esp.profile), all);
            }
        }
        for warning in warnings(c) {
            let _ = writeln!(text, "  {} {warning}", c.name);
        }
    }
    text
}

/// Whether a connection carries what the two gateways send each other, without an interface or a route.
pub(crate) fn transport(connection: &Connection) -> bool {
    connection.exchange.mode == EspMode::Transport
}

/// What of a connection is weaker than it could be, and what to use.
pub(crate) fn warnings(connection: &Connection) -> Vec<String> {
    let tunnels = connection.tunnels.iter();
    let of_tunnels =
        tunnels.filter_map(|t| t.auth.warning().map(|warning| format!("tunnel {}: {warning}", t.name)));
    weaknesses(connection).into_iter().chain(of_tunnels).chain(connection.psk_faults()).collect()
}

/// The weak algorithms that a connection offers, why each is weaker, and what to use; `None` if there are none.
fn weaknesses(connection: &Connection) -> Option<String> {
    let own = || connection.tunnels.iter();
    let ike = std::iter::once(&connection.ike).chain(own().filter_map(|t| t.ike.as_ref()));
    let esp = std::iter::once(&connection.esp).chain(own().filter_map(|t| t.esp.as_ref()));
    let ike = ike.flat_map(|ike| &ike.proposals).flat_map(|p| p.weaknesses());
    let esp = esp.flat_map(|esp| &esp.proposals).flat_map(|p| p.weaknesses());
    let mut all: Vec<String> = Vec::new();
    for (name, weakness) in ike.chain(esp) {
        let line = format!("{name}: {weakness}");
        if !all.contains(&line) {
            all.push(line);
        }
    }
    (!all.is_empty()).then(|| format!("offers weak algorithms: {}", all.join("; ")))
}

pub(crate) fn log_level(level: culvert_config::LogLevel) -> Level {
    use culvert_config::LogLevel::{Debug, Error, Info, Trace, Warn};
    match level {
        Error => Level::Error,
        Warn => Level::Warn,
        Info => Level::Info,
        Debug => Level::Debug,
        Trace => Level::Trace,
    }
}

pub(crate) fn log_format(format: culvert_config::LogFormat) -> log::Format {
    match format {
        culvert_config::LogFormat::Text => log::Format::Text,
        culvert_config::LogFormat::Json => log::Format::Json,
    }
}

/// `interfaces`: the kernel's IPsec has tunnel interfaces here.
pub(crate) fn engine_choice(connection: &Connection, interfaces: bool) -> EngineChoice {
    match connection.engine {
        // Policies of the host would take every packet of it.
        culvert_config::Engine::Auto if connection.bgp.is_some() && !interfaces => EngineChoice::User,
        culvert_config::Engine::Auto => EngineChoice::Auto,
        culvert_config::Engine::Xfrm => EngineChoice::Xfrm,
        culvert_config::Engine::User => EngineChoice::User,
        culvert_config::Engine::Bpf => EngineChoice::Bpf,
    }
}

/// The address that a tunnel uses on this side: the configured one, or the one that the kernel would use
/// towards the peer at `remote`, or the first of the WAN interfaces.
pub(crate) async fn local_address(
    tunnel: &Tunnel,
    remote: Option<IpAddr>,
    netlink: &Netlink,
    wan: &[IpAddr],
) -> anyhow::Result<IpAddr> {
    if let Some(address) = tunnel.local_address {
        return Ok(address);
    }
    match remote {
        Some(remote) => {
            let route = netlink.route_towards(remote, None).await.with_context(|| {
                format!("no local address leads to {remote}; add a route to it or set local_address")
            })?;
            Ok(route.source)
        }
        None => wan.first().copied().context(
            "the WAN interface has no address yet; give it one, or set local_address for the tunnel",
        ),
    }
}

/// Which packets shall have an engine of their own.
pub(crate) fn small_packets(connection: &Connection) -> Option<SmallPackets> {
    connection.small.as_ref().map(|small| SmallPackets {
        longest: small.length.into(),
        dscp: small.dscp.iter().fold(0, |all, point| all | 1 << (point & 63)),
    })
}

/// What the kernel's IPsec is asked for.
pub(crate) fn kernel_ipsec(connection: &Connection) -> KernelIpsec {
    let culvert_config::KernelIpsec { offload, output_mark } = connection.kernel;
    KernelIpsec { offload, output_mark }
}

/// What is offered for their child SA: the connection's key exchanges, and the only cipher of engine `bpf`.
pub(crate) fn small_proposals(connection: &Connection) -> Vec<EspProposal> {
    let mut all: Vec<EspProposal> = Vec::new();
    for proposal in &connection.esp.proposals {
        let proposal = proposal.with_aead(Encryption::ChaCha20Poly1305);
        if !all.contains(&proposal) {
            all.push(proposal);
        }
    }
    all
}

pub(crate) fn bpf_hook(config: &Config) -> HookChoice {
    match config.gateway.dataplane.bpf_hook {
        culvert_config::BpfHook::Auto => HookChoice::Auto,
        culvert_config::BpfHook::Xdp => HookChoice::Xdp,
        culvert_config::BpfHook::Tc => HookChoice::Tc,
    }
}

pub(crate) fn wan_port(connection: &Connection) -> WanPortChoice {
    match connection.wan_port {
        culvert_config::WanPort::Xsk => WanPortChoice::Xsk,
        _ => WanPortChoice::Socket,
    }
}

pub(crate) fn lan_port(connection: &Connection) -> LanPortChoice {
    match connection.lan_port {
        culvert_config::LanPort::Xsk => LanPortChoice::Xsk,
        _ => LanPortChoice::Tun,
    }
}

/// Whether ESP goes in UDP though there may be no NAT: that is what makes the user engine fast; the kernel needs it only
/// behind a NAT.
pub(crate) fn force_encap(connection: &Connection, engine: culvert_dataplane::Engine) -> bool {
    match connection.encap {
        culvert_config::Encap::Udp => true,
        culvert_config::Encap::Esp => false,
        // Frames of AF_XDP gain nothing from it.
        culvert_config::Encap::Auto => {
            engine == culvert_dataplane::Engine::User && connection.wan_port != culvert_config::WanPort::Xsk
        }
    }
}

/// What the IKE core must know of a tunnel, between these addresses.
pub(crate) fn peer(
    config: &Config,
    connection: &Connection,
    tunnel: &Tunnel,
    (local, remote): (IpAddr, Option<IpAddr>),
    force_encap: bool,
    spi_parity: Option<Parity>,
) -> anyhow::Result<PeerConfig> {
    let gateway = &config.gateway;
    if remote.is_some_and(|remote| remote.is_ipv4() != local.is_ipv4()) {
        bail!(
            "its local and remote address are of different families; set a local_address of the peer's family"
        );
    }
    let local_id = match (&tunnel.local_id, &tunnel.auth.local) {
        (Some(id), _) => id.clone(),
        (None, LocalProof::Certificate { credentials, .. } | LocalProof::EapTls { credentials, .. }) => {
            credentials.subject().clone()
        }
        (None, LocalProof::Psk(_) | LocalProof::EapMschapv2 { .. } | LocalProof::User) => {
            Identity::from(local)
        }
    };
    let (ike, esp) = (connection.ike_of(tunnel), connection.esp_of(tunnel));
    let selectors = |nets: &[ipnet::IpNet]| nets.iter().copied().map(TrafficSelector::from_net).collect();
    Ok(PeerConfig {
        name: format!("{}/{}", connection.name, tunnel.name),
        local: SocketAddr::new(local, gateway.ike_port),
        local_natt: SocketAddr::new(local, gateway.natt_port),
        remote: remote.map(|remote| SocketAddr::new(remote, gateway.ike_port)),
        anywhere: tunnel.remote_address.name().is_some(),
        remote_natt_port: gateway.natt_port,
        auth: auth(&tunnel.auth, &local_id, tunnel.remote_id.as_ref())?,
        local_id,
        remote_id: tunnel.remote_id.clone(),
        ike_proposals: ike.proposals.clone(),
        esp_proposals: esp.proposals.clone(),
        local_ts: selectors(&tunnel.offers(connection)),
        remote_ts: selectors(&connection.asks()),
        ike_lifetime: ike.lifetime,
        child_lifetime: esp.lifetime,
        dpd: Some(Dpd { interval: connection.dpd.interval, timeout: connection.dpd.timeout }),
        force_encap,
        spi_parity,
        esn: esp.esn,
        replay_window: esp.replay_window,
        v1: (ike.version == 1).then(|| culvert_ike::V1Options {
            mode: ike.mode,
            xauth: tunnel.xauth.clone(),
            mode_config: ike.mode_config,
        }),
        exchange: ExchangeOptions {
            ppk: tunnel.ppk.clone(),
            eap_only: tunnel.auth.eap_only,
            ..connection.exchange.clone()
        },
        session: Session {
            addresses: tunnel.addresses.clone(),
            unique: connection.unique,
            reauth: connection.reauth,
            clients: tunnel.clients,
        },
    })
}

fn auth(configured: &TunnelAuth, local_id: &Identity, remote_id: Option<&Identity>) -> anyhow::Result<Auth> {
    let local = match &configured.local {
        LocalProof::Psk(key) => LocalAuth::Psk(key.clone()),
        LocalProof::User => LocalAuth::User,
        LocalProof::EapMschapv2 { user, hash } => LocalAuth::Eap(eap::client(user, hash)),
        LocalProof::Certificate { credentials, allow_sha1 } => LocalAuth::Signature(Signer {
            key: Arc::clone(credentials.key()),
            chain: credentials.chain().to_vec(),
            schemes: Vec::new(),
            sha1: *allow_sha1,
            about: credentials.chain().first().map(|own| trust::about(own)).unwrap_or_default(),
        }),
        LocalProof::EapTls { user, credentials, authorities, server } => {
            let user = user.clone().unwrap_or_else(|| local_id.to_string());
            let server = server.as_ref().or(remote_id);
            let server = server
                .context("whom must the server's certificate name? Write remote_id or eap_server_id")?;
            LocalAuth::Eap(eap::tls_client(&user, credentials, authorities, server))
        }
    };
    let remote = match &configured.remote {
        RemoteProof::Psk(key) => RemoteAuth::Psk(key.clone()),
        RemoteProof::User => RemoteAuth::User,
        RemoteProof::EapMschapv2(users) => RemoteAuth::Eap(eap::server(users)),
        RemoteProof::EapRadius(servers) => RemoteAuth::Eap(radius::server(servers)),
        RemoteProof::EapTls { credentials, authorities } => {
            RemoteAuth::Eap(eap::tls_server(credentials, authorities))
        }
        RemoteProof::Certificate { authorities, allow_sha1, .. } => RemoteAuth::Certificate(Trust {
            authorities: authorities.key_hashes().to_vec(),
            names: authorities.subjects().to_vec(),
            sha1: *allow_sha1,
        }),
    };
    Ok(Auth { local, remote })
}

/// What the gateway must know of a connection, with the tunnels that exist.
pub(crate) fn connection(connection: &Connection, id: impl Fn(&str) -> Option<TunnelId>) -> ConnectionPlan {
    let start = match connection.start {
        culvert_config::Start::Immediate => Start::Immediate,
        culvert_config::Start::OnTraffic => Start::OnTraffic,
        culvert_config::Start::Respond => Start::Respond,
    };
    let dead_peer = match connection.dpd.action {
        culvert_config::DpdAction::Clear => DeadPeerAction::Clear,
        culvert_config::DpdAction::Restart => DeadPeerAction::Restart,
        culvert_config::DpdAction::Hold => DeadPeerAction::Hold,
    };
    let tunnel = |tunnel: &Tunnel| {
        Some(TunnelPlan {
            id: id(&tunnel.name)?,
            weight: tunnel.weight.into(),
            // Nobody to call: a peer that may be anywhere comes by itself.
            start: if tunnel.remote_address.is_any() { Start::Respond } else { start },
            dead_peer,
            enabled: tunnel.enabled,
            health: tunnel.health.as_ref().map(health),
            probe: tunnel.health.as_ref().and_then(|health| match health.target.address() {
                IpAddr::V6(target) => Some(target),
                IpAddr::V4(_) => None,
            }),
            back: match connection.failback {
                culvert_config::Failback::After(wait) => Return::After(wait),
                culvert_config::Failback::Manual => Return::Manual,
            },
            reverse: tunnel.health_sources.clone(),
        })
    };
    ConnectionPlan {
        environment: connection.environment.clone(),
        name: connection.name.clone(),
        remote: if transport(connection) { Vec::new() } else { connection.remote.clone() },
        dynamic: connection.bgp.is_some(),
        balance: connection.balance,
        tunnels: connection.tunnels.iter().filter_map(tunnel).collect(),
    }
}

fn health(health: &culvert_config::Health) -> HealthPlan {
    HealthPlan {
        interval: health.interval,
        timeout: health.timeout,
        retries: health.retries,
        action: if health.restart { HealthAction::Restart } else { HealthAction::Demote },
    }
}

/// The offloads that the configuration allows.
pub(crate) fn offloads(offload: &culvert_config::Offload) -> culvert_dataplane::OffloadSwitches {
    let culvert_config::Offload { tso, uso, gso, gro } = *offload;
    culvert_dataplane::OffloadSwitches { tso, uso, gso, gro }
}
