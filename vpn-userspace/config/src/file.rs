//! What the file says, key by key, before the keys are compared with each other.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};
use culvert_ike::{
    EspMode, EspProposal, ExchangeOptions, Identity, IkeProposal, ModeConfig, ProposalError, V1Mode,
};
use ipnet::IpNet;
use serde_spanned::Spanned;
use toml::de::DeTable;

use crate::auth::RawAuth;
use crate::bgp::{RawBgp, RawGatewayBgp, RawTunnelBgp};
use crate::dataplane::{self, Dataplane};
use crate::duration;
use crate::environment::{self, RawEnvironment};
use crate::error::Fault;
use crate::exchange;
use crate::forward::{self, RawForward};
use crate::health::{self, Failback, RawHealth};
use crate::kernel::{self, RawKernel};
use crate::limits::RawLimits;
use crate::model::{Attach, DpdAction, Encap, Engine, Guard, LogFormat, LogLevel, Start};
use crate::notice::{self, RawNotice};
use crate::own::RawOwn;
use crate::per_cpu::{self, PerCpu};
use crate::port::{LanPort, WanPort};
use crate::profile::{self, Profile};
use crate::remote::{Remote, is_host_name};
use crate::section::{At, NotYet, Section, nearest};
use crate::session::{RawAddresses, RawSession};
use crate::small::{self, RawSmall};
use crate::xauth::RawXauth;

#[derive(Default)]
pub(crate) struct RawFile {
    pub(crate) gateway: RawGateway,
    pub(crate) log: RawLog,
    pub(crate) environments: Vec<RawEnvironment>,
    pub(crate) connections: Vec<RawConnection>,
    pub(crate) notices: Vec<RawNotice>,
}

#[derive(Default)]
pub(crate) struct RawGateway {
    pub(crate) wan: Option<At<Vec<At<String>>>>,
    pub(crate) lan: Option<At<Vec<At<String>>>>,
    pub(crate) guard: Option<At<Guard>>,
    pub(crate) attach: Option<At<Attach>>,
    pub(crate) control_socket: Option<At<String>>,
    pub(crate) workers: Option<At<u32>>,
    pub(crate) ike_port: Option<At<u32>>,
    pub(crate) natt_port: Option<At<u32>>,
    pub(crate) dataplane: Dataplane,
    pub(crate) bgp: RawGatewayBgp,
    pub(crate) limits: RawLimits,
}

#[derive(Default)]
pub(crate) struct RawLog {
    pub(crate) level: Option<At<LogLevel>>,
    pub(crate) format: Option<At<LogFormat>>,
    pub(crate) ike_secrets: Option<At<String>>,
}

pub(crate) struct RawConnection {
    pub(crate) name: At<String>,
    pub(crate) environment: Option<At<String>>,
    pub(crate) limits: RawLimits,
    pub(crate) local: Option<At<Vec<At<IpNet>>>>,
    pub(crate) remote: Option<At<Vec<At<IpNet>>>>,
    pub(crate) start: Option<At<Start>>,
    pub(crate) engine: Option<At<Engine>>,
    pub(crate) encap: Option<At<Encap>>,
    pub(crate) wan_port: Option<At<WanPort>>,
    pub(crate) small: RawSmall,
    pub(crate) kernel: RawKernel,
    pub(crate) lan_port: Option<At<LanPort>>,
    pub(crate) ike_profile: Option<At<Profile>>,
    pub(crate) ike_version: Option<At<u32>>,
    pub(crate) ike_mode: Option<At<V1Mode>>,
    pub(crate) ike_mode_config: Option<At<ModeConfig>>,
    pub(crate) ike_proposals: Option<At<Vec<At<IkeProposal>>>>,
    pub(crate) esp_profile: Option<At<Profile>>,
    pub(crate) ike_lifetime: Option<At<Duration>>,
    pub(crate) esp_proposals: Option<At<Vec<At<EspProposal>>>>,
    pub(crate) esp_lifetime: Option<At<Duration>>,
    pub(crate) replay_window: Option<At<u32>>,
    pub(crate) esn: Option<At<bool>>,
    pub(crate) per_cpu: Option<At<PerCpu>>,
    pub(crate) dpd_interval: Option<At<Duration>>,
    pub(crate) dpd_timeout: Option<At<Duration>>,
    pub(crate) dpd_action: Option<At<DpdAction>>,
    pub(crate) mtu: Option<At<u32>>,
    pub(crate) local_id: Option<At<Identity>>,
    pub(crate) remote_id: Option<At<Identity>>,
    pub(crate) exchange: ExchangeOptions,
    pub(crate) bgp: RawBgp,
    pub(crate) balance: bool,
    pub(crate) failback: Failback,
    pub(crate) session: RawSession,
    pub(crate) tunnels: Vec<RawTunnel>,
    pub(crate) forwards: Vec<RawForward>,
}

#[derive(Clone)]
pub(crate) struct RawTunnel {
    pub(crate) name: At<String>,
    pub(crate) copy: Option<At<String>>,
    pub(crate) local_address: Option<At<IpAddr>>,
    /// The inner `None` is "any".
    pub(crate) remote_address: Option<At<Remote>>,
    pub(crate) local_id: Option<At<Identity>>,
    pub(crate) remote_id: Option<At<Identity>>,
    pub(crate) auth: RawAuth,
    pub(crate) addresses: RawAddresses,
    pub(crate) ppk: Option<At<exchange::RawPpk>>,
    pub(crate) xauth: RawXauth,
    pub(crate) inside: Option<At<Vec<At<IpNet>>>>,
    pub(crate) weight: Option<At<u32>>,
    pub(crate) health: RawHealth,
    pub(crate) bgp: RawTunnelBgp,
    pub(crate) own: RawOwn,
    pub(crate) enabled: Option<At<bool>>,
    pub(crate) clients: Option<At<u32>>,
    /// Keys that were there and wrong: not to be called missing as well.
    pub(crate) faulty: bool,
}

const NOT_YET_GATEWAY: &[NotYet] = &[("metrics", "metrics come in a later version")];

/// Reads the whole document; what could not be read stands in `faults`.
pub(crate) fn read<'t>(document: &'t Spanned<DeTable<'t>>, faults: &mut Vec<Fault>) -> RawFile {
    let mut top = Section::new("the file", 0..0, document.get_ref());
    let mut file = RawFile::default();
    match top.section(faults, "gateway", "[gateway]".to_owned()) {
        Some(section) => file.gateway = gateway(section, faults),
        None => {
            if !document.get_ref().iter().any(|(key, _)| key.get_ref() == "gateway") {
                faults
                    .push(Fault::new("the file has no [gateway]").help(
                        "begin with\n[gateway]\nwan = \"eth0\"   # the interface that faces the peers",
                    ));
            }
        }
    }
    if let Some(section) = top.section(faults, "log", "[log]".to_owned()) {
        file.log = log(section, faults);
    }
    file.environments = environment::read(&mut top, faults);
    for (name, section) in top.named(faults, "connection", |name| format!("[connection.{name}]")) {
        file.connections.push(connection(name, section, faults));
    }
    file.notices = notice::read(&mut top, faults);
    top.finish(faults, &[]);
    file
}

fn gateway(mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawGateway {
    let interfaces = "the name of an interface or a list of names";
    let before = faults.len();
    let raw = RawGateway {
        wan: s.list(faults, "wan", interfaces, true, interface),
        lan: s.list(faults, "lan", interfaces, true, interface),
        guard: s.word(
            faults,
            "guard",
            &[("on", Guard::On), ("off", Guard::Off), ("learn", Guard::Learn)],
            &[],
        ),
        attach: s.word(
            faults,
            "attach",
            &[
                ("auto", Attach::Auto),
                ("xdp-native", Attach::XdpNative),
                ("xdp-generic", Attach::XdpGeneric),
                ("tcx", Attach::Tcx),
            ],
            &[],
        ),
        control_socket: s.parsed(faults, "control_socket", "an absolute path", socket_path),
        workers: s.integer(faults, "workers", "a number of threads", 1..=256),
        ike_port: s.integer(faults, "ike_port", "a UDP port", 1..=65535),
        natt_port: s.integer(faults, "natt_port", "a UDP port", 1..=65535),
        dataplane: dataplane::read(&mut s, faults),
        bgp: RawGatewayBgp::read(&mut s, faults),
        limits: RawLimits::read(&mut s, "the gateway", true, faults),
    };
    if raw.wan.is_none() && faults.len() == before {
        faults.push(s.missing("wan", "name the interface that faces the peers: wan = \"eth0\""));
    }
    s.finish(faults, NOT_YET_GATEWAY);
    raw
}

fn log(mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawLog {
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let raw = RawLog {
        level: s.word(faults, "level", &levels.map(|level| (level.as_str(), level)), &[]),
        format: s.word(faults, "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)], &[]),
        ike_secrets: s.parsed(faults, "ike_secrets", "an absolute path", absolute_path),
    };
    s.finish(faults, &[]);
    raw
}

fn connection(name: At<String>, mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawConnection {
    let title = format!("[connection.{}]", name.get_ref());
    let nets = "a list of networks such as [\"192.168.0.0/24\"]";
    let before = faults.len();
    let forwards = forward::read(&mut s, name.get_ref(), faults);
    let (balance, failback) = health::read_connection(&mut s, faults);
    let bgp = RawBgp::read(&mut s, name.get_ref(), faults);
    let limits = RawLimits::read(&mut s, &format!("connection {}", name.get_ref()), false, faults);
    let mut raw = RawConnection {
        environment: environment::read_name(&mut s, faults),
        limits,
        local: s.list(faults, "local", nets, false, network),
        remote: s.list(faults, "remote", nets, false, network),
        start: s.word(
            faults,
            "start",
            &[("immediate", Start::Immediate), ("on-traffic", Start::OnTraffic), ("respond", Start::Respond)],
            &[],
        ),
        engine: s.word(
            faults,
            "engine",
            &[("auto", Engine::Auto), ("xfrm", Engine::Xfrm), ("user", Engine::User), ("bpf", Engine::Bpf)],
            &[],
        ),
        encap: s.word(
            faults,
            "encap",
            &[("auto", Encap::Auto), ("udp", Encap::Udp), ("esp", Encap::Esp)],
            &[],
        ),
        wan_port: s.word(
            faults,
            "wan_port",
            &[("auto", WanPort::Auto), ("udp", WanPort::Udp), ("raw", WanPort::Raw), ("xsk", WanPort::Xsk)],
            &[],
        ),
        small: small::read(&mut s, faults),
        kernel: kernel::read(&mut s, faults),
        lan_port: s.word(
            faults,
            "lan_port",
            &[("auto", LanPort::Auto), ("tun", LanPort::Tun), ("xsk", LanPort::Xsk)],
            &[],
        ),
        ike_profile: None,
        ike_version: None,
        ike_mode: None,
        ike_mode_config: None,
        ike_proposals: None,
        esp_profile: None,
        ike_lifetime: None,
        esp_proposals: None,
        esp_lifetime: None,
        replay_window: None,
        esn: None,
        per_cpu: None,
        dpd_interval: None,
        dpd_timeout: None,
        dpd_action: None,
        mtu: s.integer(faults, "mtu", "a number of bytes", 576..=65535),
        local_id: s.parsed(faults, "local_id", ID, identity),
        remote_id: s.parsed(faults, "remote_id", ID, identity),
        exchange: ExchangeOptions::default(),
        bgp,
        balance,
        failback,
        forwards,
        session: RawSession::default(),
        tunnels: Vec::new(),
        name,
    };
    let sound = faults.len() == before;
    at_most(faults, "local", &raw.local, 255);
    at_most(faults, "remote", &raw.remote, 255);
    if let Some(ike) = s.section(faults, "ike", format!("`ike` of {title}")) {
        read_ike(ike, &mut raw, faults);
    }
    if let Some(esp) = s.section(faults, "esp", format!("`esp` of {title}")) {
        read_esp(esp, &mut raw, faults);
    }
    if let Some(dpd) = s.section(faults, "dpd", format!("`dpd` of {title}")) {
        read_dpd(dpd, &mut raw, faults);
    }
    let before = faults.len();
    let tunnels =
        s.named(faults, "tunnel", |tunnel| format!("[connection.{}.tunnel.{tunnel}]", raw.name.get_ref()));
    if tunnels.is_empty() && faults.len() == before {
        faults.push(s.missing(
            "tunnel",
            &format!("add [connection.{}.tunnel.a] with remote_address and psk_file", raw.name.get_ref()),
        ));
    }
    for (name, section) in tunnels {
        raw.tunnels.push(tunnel(name, section, faults));
    }
    // Who gets an address has that and no networks; so has transport mode.
    let transport = raw.exchange.mode == EspMode::Transport;
    let asks = !raw.tunnels.is_empty() && raw.tunnels.iter().all(|t| t.addresses.asks() || t.copy.is_some());
    for (key, value) in [("local", &raw.local), ("remote", &raw.remote)] {
        if value.is_none() && sound && !transport && !(key == "local" && asks) {
            let side = if key == "local" { "this" } else { "the far" };
            let mend = format!("list the networks of {side} side: {key} = [\"192.168.0.0/24\"]");
            faults.push(s.missing(key, &mend));
        }
    }
    s.finish(faults, &[]);
    raw
}

pub(crate) const PROPOSALS: &str = "a list of proposals such as [\"aes256gcm16-prfsha384-ecp384\"]";
pub(crate) const LIFETIME: &str = "a duration such as \"8h\"";
const ID: &str = "an address, a host name, user@host or @keyid";

fn read_ike(mut s: Section<'_>, raw: &mut RawConnection, faults: &mut Vec<Fault>) {
    raw.ike_version = s.integer(faults, "version", "1 or 2", 1..=2);
    raw.ike_mode = s.word(faults, "mode", &[("main", V1Mode::Main), ("aggressive", V1Mode::Aggressive)], &[]);
    raw.ike_mode_config =
        s.word(faults, "mode_config", &[("pull", ModeConfig::Pull), ("push", ModeConfig::Push)], &[]);
    raw.ike_profile = s.word(faults, "profile", &profile::WORDS, &[]);
    raw.ike_proposals = s.list(faults, "proposals", PROPOSALS, false, proposal);
    at_most(faults, "proposals", &raw.ike_proposals, 32);
    raw.ike_lifetime = s.parsed(faults, "lifetime", LIFETIME, a_duration);
    exchange::read_ike(&mut s, &mut raw.exchange, faults);
    raw.session = RawSession::read(&mut s, faults);
    s.finish(faults, &[]);
}

fn read_esp(mut s: Section<'_>, raw: &mut RawConnection, faults: &mut Vec<Fault>) {
    raw.esp_profile = s.word(faults, "profile", &profile::WORDS, &[]);
    raw.esp_proposals = s.list(faults, "proposals", PROPOSALS, false, proposal);
    at_most(faults, "proposals", &raw.esp_proposals, 32);
    raw.esp_lifetime = s.parsed(faults, "lifetime", LIFETIME, a_duration);
    raw.replay_window = s.integer(faults, "replay_window", "a number of packets", 64..=8192);
    if let Some(window) = &raw.replay_window
        && window.get_ref() % 64 != 0
    {
        let near = window.get_ref().next_multiple_of(64);
        faults.push(
            Fault::new("`replay_window` must be a multiple of 64")
                .at(window.span(), "not a multiple of 64")
                .help(format!("write {near}")),
        );
    }
    raw.esn = s.boolean(faults, "esn");
    raw.per_cpu = per_cpu::read(&mut s, faults);
    exchange::read_esp(&mut s, &mut raw.exchange, faults);
    s.finish(faults, &[]);
}

fn read_dpd(mut s: Section<'_>, raw: &mut RawConnection, faults: &mut Vec<Fault>) {
    raw.dpd_interval = s.parsed(faults, "interval", "a duration such as \"10s\"", a_duration);
    raw.dpd_timeout = s.parsed(faults, "timeout", "a duration such as \"30s\"", a_duration);
    raw.dpd_action = s.word(
        faults,
        "action",
        &[("restart", DpdAction::Restart), ("clear", DpdAction::Clear), ("hold", DpdAction::Hold)],
        &[],
    );
    s.finish(faults, &[]);
}

fn tunnel(name: At<String>, mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawTunnel {
    let before = faults.len();
    let health = RawHealth::read(&mut s, name.get_ref(), faults);
    let bgp = RawTunnelBgp::read(&mut s, name.get_ref(), faults);
    let own = RawOwn::read(&mut s, name.get_ref(), faults);
    let mut raw = RawTunnel {
        name,
        health,
        bgp,
        own,
        copy: s.string(faults, "copy", "the name of another tunnel of the connection"),
        local_address: s.parsed(faults, "local_address", "an address", |text, faults| {
            address("local_address", text, faults)
        }),
        remote_address: s.parsed(
            faults,
            "remote_address",
            "an address, a host name or \"any\"",
            |text, faults| match *text.get_ref() {
                "any" => Some(Remote::Any),
                name if name.parse::<IpAddr>().is_err() && is_host_name(name) => {
                    Some(Remote::Name(name.to_owned()))
                }
                _ => address("remote_address", text, faults).map(Remote::Address),
            },
        ),
        local_id: s.parsed(faults, "local_id", ID, identity),
        remote_id: s.parsed(faults, "remote_id", ID, identity),
        auth: RawAuth::read(&mut s, faults),
        addresses: RawAddresses::read(&mut s, faults),
        xauth: RawXauth::read(&mut s, faults),
        inside: s.list(
            faults,
            "inside",
            "an address with its prefix length such as \"169.254.10.2/30\"",
            true,
            inside,
        ),
        weight: s.integer(faults, "weight", "a number from 0 (standby) to 100 (active)", 0..=100),
        enabled: s.boolean(faults, "enabled"),
        clients: s.integer(faults, "clients", "a number of clients", 1..=100_000),
        ppk: None,
        faulty: false,
    };
    if let Some(ppk) = s.section(faults, "ppk", format!("`ppk` of tunnel `{}`", raw.name.get_ref())) {
        raw.ppk = exchange::read_ppk(ppk, faults);
    }
    raw.faulty = faults.len() > before;
    s.finish(faults, &[]);
    raw
}

/// What fits into one IKE message (RFC 7296 3.13: the number of selectors is one byte).
pub(crate) fn at_most<T>(faults: &mut Vec<Fault>, key: &str, list: &Option<At<Vec<At<T>>>>, most: usize) {
    if let Some(list) = list.as_ref().filter(|list| list.get_ref().len() > most) {
        faults.push(
            Fault::new(format!("`{key}` has {} entries", list.get_ref().len()))
                .at(list.span(), format!("more than {most}"))
                .help(format!("a peer is told at most {most}: join some of them")),
        );
    }
}

pub(crate) fn interface(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let name = *text.get_ref();
    // The kernel's rule (dev_valid_name), and nothing that a terminal would interpret.
    let sound = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if (1..=15).contains(&name.len()) && name.chars().all(sound) && name != "." && name != ".." {
        return Some(name.to_owned());
    }
    faults.push(
        Fault::new(format!("`{}` cannot be the name of an interface", name.escape_debug()))
            .at(text.span(), "no interface name")
            .help("an interface name has 1 to 15 characters, without spaces, `/` and `:`; `ip -brief link` lists them"),
    );
    None
}

fn socket_path(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let path = *text.get_ref();
    let wrong = if !path.starts_with('/') {
        "not an absolute path"
    } else if path.len() > 107 {
        "longer than 107 bytes"
    } else if path.contains('\0') {
        "has a NUL"
    } else {
        return Some(path.to_owned());
    };
    faults.push(
        Fault::new("`control_socket` cannot be the path of a socket")
            .at(text.span(), wrong)
            .help("write an absolute path of at most 107 bytes, such as \"/run/culvert/culvert.sock\""),
    );
    None
}

fn absolute_path(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let path = *text.get_ref();
    if path.starts_with('/') && !path.contains('\0') {
        return Some(path.to_owned());
    }
    faults.push(
        Fault::new("`ike_secrets` cannot be the path of a file")
            .at(text.span(), "not an absolute path")
            .help("write an absolute path, such as \"/run/culvert/ike-secrets\""),
    );
    None
}

pub(crate) fn network(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<IpNet> {
    let shown = text.get_ref().escape_debug();
    let fault = match (text.get_ref().parse::<IpNet>(), text.get_ref().parse::<IpAddr>()) {
        (Ok(net), _) if net.trunc() == net => return Some(net),
        (Ok(net), _) => Fault::new(format!("`{shown}` is an address in a network, not a network"))
            .at(text.span(), "bits beyond the prefix")
            .help(format!(
                "write \"{}\", or \"{}\" for the one address",
                net.trunc(),
                IpNet::from(net.addr())
            )),
        (_, Ok(address)) => Fault::new(format!("`{shown}` lacks its prefix length"))
            .at(text.span(), "no prefix length")
            .help(format!("write \"{}\" for the one address", IpNet::from(address))),
        _ => Fault::new(format!("`{shown}` is no network"))
            .at(text.span(), "no network")
            .help("write an address and a prefix length, such as \"192.168.0.0/24\" or \"2001:db8::/48\""),
    };
    faults.push(fault);
    None
}

fn inside(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<IpNet> {
    let shown = text.get_ref().escape_debug();
    let example = "write the address of this end and its prefix length, such as \"169.254.10.2/30\"";
    let Ok(net) = text.get_ref().parse::<IpNet>() else {
        let (what, mend) = match text.get_ref().parse::<IpAddr>() {
            Ok(address) => {
                ("lacks its prefix length", format!("write \"{address}/30\" or what the peer's side says"))
            }
            Err(_) => ("is no address with a prefix length", example.to_owned()),
        };
        faults.push(Fault::new(format!("`{shown}` {what}")).at(text.span(), "").help(mend));
        return None;
    };
    let host_bits = net.max_prefix_len() - net.prefix_len();
    let wrong = if host_bits > 1 && net.addr() == net.network() {
        "the network itself, not an address in it"
    } else if host_bits > 1 && net.addr().is_ipv4() && net.addr() == net.broadcast() {
        "the broadcast address of its network"
    } else if let Some(wrong) = unusable(net.addr()) {
        wrong
    } else {
        return Some(net);
    };
    faults.push(
        Fault::new(format!("`{shown}` cannot be the address of an interface"))
            .at(text.span(), wrong)
            .help(example),
    );
    None
}

fn address(key: &str, text: &At<&str>, faults: &mut Vec<Fault>) -> Option<IpAddr> {
    let shown = text.get_ref().escape_debug();
    let any = if key == "remote_address" { ", or \"any\" to let any peer begin" } else { "" };
    let fault = match text.get_ref().parse::<IpAddr>() {
        Ok(address) => match unusable(address) {
            None => return Some(address),
            Some(why) => Fault::new(format!("`{shown}` cannot be a `{key}`"))
                .at(text.span(), why)
                .help(format!("write the address of one interface{any}")),
        },
        Err(_) if key == "remote_address" => Fault::new(format!("`{shown}` is no address and no host name"))
            .at(text.span(), "neither")
            .help(format!(
                "write the peer's address such as \"203.0.113.21\", or its name such as \"vpn.example\"{any}"
            )),
        Err(_) => Fault::new(format!("`{shown}` is no address"))
            .at(text.span(), "no address")
            .help(format!("write an address without a prefix length, such as \"203.0.113.21\"{any}")),
    };
    faults.push(fault);
    None
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        Some("the broadcast address")
    } else {
        None
    }
}

pub(crate) fn a_duration(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<Duration> {
    let parsed = duration::parse(text.get_ref());
    if parsed.is_none() {
        let digits = !text.get_ref().is_empty() && text.get_ref().bytes().all(|b| b.is_ascii_digit());
        let mend = if digits {
            format!("write its unit: \"{}s\"", text.get_ref())
        } else {
            "write numbers with units d, h, m or s, such as \"8h\", \"30s\" or \"1h30m\"".to_owned()
        };
        faults.push(
            Fault::new(format!("`{}` is no duration", text.get_ref().escape_debug()))
                .at(text.span(), if digits { "no unit" } else { "no duration" })
                .help(mend),
        );
    }
    parsed
}

pub(crate) fn proposal<T: FromStr<Err = ProposalError>>(
    text: &At<&str>,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let error = match text.get_ref().parse() {
        Ok(proposal) => return Some(proposal),
        Err(error) => error,
    };
    let words = error.to_string();
    let (message, mend) = split(&words);
    let mut fault = Fault::new(message);
    let mut mend = mend.map(str::to_owned);
    match &error {
        ProposalError::Unknown { token, .. } => {
            if let Some(near) = nearest(token, algorithms()) {
                mend = Some(format!("did you mean \"{near}\"?"));
            }
            fault = fault.at(part(text, token), "no algorithm");
        }
        ProposalError::Unsupported { token, .. } => {
            fault = fault.at(part(text, token), "not in this version")
        }
        ProposalError::Refused { token, why, .. } => {
            mend = why.split_once("; ").map(|(_, mend)| mend.to_owned());
            fault = fault.at(part(text, token), "too weak");
        }
        ProposalError::Twice { token, .. } => fault = fault.at(part(text, token), "stands twice"),
        ProposalError::OutOfPlace { token, .. } => {
            mend = Some(format!("take \"{token}\" out"));
            fault = fault.at(part(text, token), "out of place");
        }
        ProposalError::Missing { kind, .. } => fault = fault.at(text.span(), format!("no {kind}")),
        ProposalError::Mixed { .. } => fault = fault.at(text.span(), "two kinds of cipher"),
    }
    faults.push(fault.help(mend.unwrap_or_else(|| format!("write {PROPOSALS}"))));
    None
}

fn algorithms() -> impl Iterator<Item = &'static str> {
    let ciphers = Encryption::ALL.into_iter().map(|e| e.name());
    let ciphers = ciphers.chain(Integrity::ALL.into_iter().map(|i| i.name()));
    ciphers.chain(Prf::ALL.into_iter().map(|p| p.name())).chain(DhGroup::ALL.into_iter().map(|g| g.name()))
}

/// Where a part of a proposal stands; the whole string when it is written with escapes.
fn part(text: &At<&str>, token: &str) -> std::ops::Range<usize> {
    let span = text.span();
    let plain = span.len() == text.get_ref().len() + 2;
    match text.get_ref().rfind(token) {
        Some(at) if plain => span.start + 1 + at..span.start + 1 + at + token.len(),
        _ => span,
    }
}

pub(crate) fn identity(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<Identity> {
    match Identity::parse(text.get_ref()) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let words = error.to_string();
            let (message, mend) = split(&words);
            faults.push(Fault::new(message).at(text.span(), "no identity").help(mend.unwrap_or(ID)));
            None
        }
    }
}

/// An error of the IKE core says what is wrong, then the mend.
fn split(words: &str) -> (&str, Option<&str>) {
    match words.split_once("; ") {
        Some((message, mend)) => (message, Some(mend)),
        None => (words, None),
    }
}
