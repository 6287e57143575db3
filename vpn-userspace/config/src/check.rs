//! What must hold between the keys, and the defaults of those that are not there.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_ike::{EspProposal, IkeProposal, ModeConfig, V1Mode};
use ipnet::IpNet;

use crate::duration::show;
use crate::error::{Fault, Origin};
use crate::file::{RawConnection, RawFile, RawTunnel};
use crate::kernel::KernelIpsec;
use crate::model::{
    Attach, Config, Connection, Dpd, DpdAction, Engine, Esp, Gateway, Guard, Ike, Log, LogFormat, LogLevel,
    RemoteProof, Start, Tunnel,
};
use crate::per_cpu::{self, PerCpu};
use crate::port::{self, LanPort, WanPort};
use crate::profile::Profile;
use crate::secret::Files;
use crate::section::{At, missing, nearest};
use crate::{
    DEFAULT_CONTROL_SOCKET, DEFAULT_ENVIRONMENT, apart, auth, bgp, dataplane, environment, forward, health,
    interface, notice, own, remote, session, transport,
};

const REPLAY_WINDOW: u32 = 1024;
const DPD: Dpd =
    Dpd { interval: Duration::from_secs(10), timeout: Duration::from_secs(30), action: DpdAction::Restart };

/// The configuration; `None`, or faults, when something is wrong.
pub(crate) fn check(
    mut raw: RawFile,
    origin: Origin,
    folder: &Path,
    secrets: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Config> {
    for connection in &mut raw.connections {
        resolve_copies(connection, faults);
    }
    ports(&raw, faults);
    port::xsk_needs_xdp(&raw, faults);
    port::lan(&raw, faults);
    dataplane::hook_fits_guard(&raw, faults);
    dataplane::guard_spreads(&raw, faults);
    apart::remotes_apart(&raw.connections, faults);
    apart::peers_outside(&raw.connections, faults);
    apart::inside_apart(&raw.connections, faults);
    apart::tunnels_apart(&raw.connections, faults);
    apart::interfaces_apart(&raw.connections, faults);
    bgp::possible(&raw, faults);
    let environments = environment::check(&raw, faults);
    environment::listeners_apart(&raw, &environments, faults);

    let notices = notice::check(raw.notices, &raw.connections, folder, &mut *secrets, faults);

    let routing = raw.gateway.bgp.check();
    // Every connection is built even after a fault, so that its own faults show as well.
    let connections: Vec<_> = raw
        .connections
        .into_iter()
        .map(|c| connection(c, routing.asn, folder, &mut *secrets, faults))
        .collect();
    let names = |list: Option<At<Vec<At<String>>>>| -> Vec<String> {
        list.into_iter().flat_map(|list| list.into_inner()).map(At::into_inner).collect()
    };
    Some(Config {
        gateway: Gateway {
            wan: names(raw.gateway.wan),
            lan: names(raw.gateway.lan),
            guard: or(raw.gateway.guard, Guard::On),
            attach: or(raw.gateway.attach, Attach::Auto),
            control_socket: PathBuf::from(or(raw.gateway.control_socket, DEFAULT_CONTROL_SOCKET.to_owned())),
            workers: raw.gateway.workers.map(|w| w.into_inner() as usize),
            ike_port: port(raw.gateway.ike_port, 500),
            natt_port: port(raw.gateway.natt_port, 4500),
            dataplane: raw.gateway.dataplane,
            bgp: routing,
            limits: raw.gateway.limits.limits(),
        },
        log: Log {
            level: or(raw.log.level, LogLevel::Info),
            format: or(raw.log.format, LogFormat::Text),
            ike_secrets: raw.log.ike_secrets.map(|path| PathBuf::from(path.into_inner())),
        },
        environments,
        connections: connections.into_iter().collect::<Option<_>>()?,
        notices,
        origin,
    })
}

fn or<T>(value: Option<At<T>>, default: T) -> T {
    value.map_or(default, At::into_inner)
}

/// The proposals, or those of the profile. Not both: nobody could say which is meant.
pub(crate) fn proposals<T>(
    list: Option<At<Vec<At<T>>>>,
    profile: &Option<At<Profile>>,
    default: Profile,
    of_profile: fn(Profile) -> Vec<T>,
    faults: &mut Vec<Fault>,
) -> Vec<T> {
    if let (Some(list), Some(profile)) = (&list, profile) {
        faults.push(
            Fault::new("`profile` and `proposals` contradict each other")
                .at(profile.span(), "says what to offer")
                .at(list.span(), "says it again")
                .help("take one of the two out; culvertd --check prints the proposals of a profile"),
        );
    }
    match list {
        Some(list) => list.into_inner().into_iter().map(At::into_inner).collect(),
        None => of_profile(profile.as_ref().map_or(default, |p| *p.get_ref())),
    }
}

/// The reader saw to it that ports fit.
fn port(value: Option<At<u32>>, default: u16) -> u16 {
    value.and_then(|port| u16::try_from(port.into_inner()).ok()).unwrap_or(default)
}

/// Fills what a tunnel does not say itself from the tunnel that it copies, and from the connection.
/// `inside`, `weight` and `enabled` are each tunnel's own.
fn resolve_copies(connection: &mut RawConnection, faults: &mut Vec<Fault>) {
    let originals = connection.tunnels.clone();
    for tunnel in &mut connection.tunnels {
        let mut from = tunnel.copy.clone();
        let mut seen = vec![tunnel.name.get_ref().clone()];
        while let Some(name) = from {
            let Some(source) = originals.iter().find(|t| t.name.get_ref() == name.get_ref()) else {
                // The tunnel whose own `copy` it is reports it.
                if seen.len() == 1 {
                    let names = || originals.iter().map(|t| t.name.get_ref().as_str());
                    let mend = match nearest(name.get_ref(), names().filter(|n| n != tunnel.name.get_ref())) {
                        Some(near) => format!("did you mean \"{near}\"?"),
                        None => format!(
                            "the tunnels of this connection are {}",
                            names().collect::<Vec<_>>().join(", ")
                        ),
                    };
                    faults.push(
                        Fault::new(format!("there is no tunnel `{}` to copy", name.get_ref().escape_debug()))
                            .at(name.span(), "no such tunnel")
                            .help(mend),
                    );
                }
                tunnel.faulty = true;
                break;
            };
            if seen.contains(name.get_ref()) {
                faults.push(
                    Fault::new(format!("tunnel `{}` copies itself", tunnel.name.get_ref()))
                        .at(tunnel.copy.as_ref().map_or(name.span(), At::span), "goes in a circle")
                        .help("let one of the tunnels say everything itself, and the others copy that one"),
                );
                tunnel.faulty = true;
                break;
            }
            seen.push(name.get_ref().clone());
            tunnel.faulty |= source.faulty;
            fill(&mut tunnel.local_address, &source.local_address);
            fill(&mut tunnel.remote_address, &source.remote_address);
            fill(&mut tunnel.local_id, &source.local_id);
            fill(&mut tunnel.remote_id, &source.remote_id);
            tunnel.auth.fill(&source.auth);
            tunnel.addresses.fill(&source.addresses);
            fill(&mut tunnel.ppk, &source.ppk);
            tunnel.xauth.fill(&source.xauth);
            tunnel.health.fill(&source.health);
            tunnel.bgp.fill(&source.bgp);
            tunnel.own.fill(&source.own);
            from = source.copy.clone();
        }
        fill(&mut tunnel.local_id, &connection.local_id);
        fill(&mut tunnel.remote_id, &connection.remote_id);
    }
}

fn fill<T: Clone>(own: &mut Option<At<T>>, other: &Option<At<T>>) {
    if own.is_none() {
        own.clone_from(other);
    }
}

fn ports(raw: &RawFile, faults: &mut Vec<Fault>) {
    let (ike, natt) = (&raw.gateway.ike_port, &raw.gateway.natt_port);
    let number = |port: &Option<At<u32>>, default| port.as_ref().map_or(default, |p| *p.get_ref());
    if let Some(at) = natt.as_ref().or(ike.as_ref())
        && number(ike, 500) == number(natt, 4500)
    {
        faults.push(
            Fault::new("`ike_port` and `natt_port` are the same")
                .at(at.span(), "taken by the other")
                .help("leave both out: 500 and 4500 are what peers expect"),
        );
    }
}

fn connection(
    mut raw: RawConnection,
    own_asn: u32,
    folder: &Path,
    secrets: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Connection> {
    let before = faults.len();
    transport::settle(&mut raw, faults);
    own_networks(&raw, faults);
    session::asks_for_all(&raw, faults);
    weights_differ(&raw, faults);
    remote::start_possible(&raw, faults);
    durations_sound(&raw, faults);
    sayable_in_v1(&raw, faults);
    let encap = port::encap(&raw, faults);
    let wan_port = raw.wan_port.as_ref().map_or(WanPort::Auto, |p| *p.get_ref());
    if let Some(mtu) = &raw.mtu
        && *mtu.get_ref() < 1280
        && raw.remote.iter().flat_map(|r| r.get_ref()).any(|net| net.get_ref().addr().is_ipv6())
    {
        faults.push(
            Fault::new("`mtu` is too small for IPv6")
                .at(mtu.span(), "below 1280")
                .help("IPv6 needs 1280 bytes (RFC 8200 5)"),
        );
    }
    let any_only =
        raw.tunnels.iter().all(|t| t.remote_address.as_ref().is_some_and(|a| a.get_ref().is_any()));
    let default_start = if any_only { Start::Respond } else { Start::Immediate };
    let mut neighbors: Vec<_> =
        raw.tunnels.iter().map(|t| bgp::neighbors(t, &raw, own_asn, faults)).collect();
    let name = raw.name.into_inner();
    let environment = raw.environment.map_or_else(|| DEFAULT_ENVIRONMENT.to_owned(), At::into_inner);
    let limits = raw.limits.limits();
    let remote = raw.remote.as_ref().map_or_else(Vec::new, |r| r.get_ref().clone());
    let local: Option<Vec<IpNet>> =
        raw.local.as_ref().map(|l| l.get_ref().iter().map(|n| *n.get_ref()).collect());
    let v1 = is_v1(raw.ike_version.as_ref());
    let own: Vec<_> = raw.tunnels.iter().map(|t| t.own.clone()).collect();
    let health_span = raw.tunnels.iter().find_map(|t| t.health.span());
    let tunnels: Vec<_> = raw
        .tunnels
        .into_iter()
        .enumerate()
        .map(|(index, t)| {
            let neighbors = std::mem::take(&mut neighbors[index]);
            tunnel(
                t,
                &name,
                (index, neighbors),
                (local.as_deref(), &remote, folder, v1),
                &mut *secrets,
                faults,
            )
        })
        .collect();
    let nets = |list: Option<At<Vec<At<IpNet>>>>| -> Vec<IpNet> {
        list.into_iter().flat_map(At::into_inner).map(At::into_inner).collect()
    };
    let default = default_profile(raw.ike_version.as_ref());
    let v1 = is_v1(raw.ike_version.as_ref());
    let of = |profile: &Option<At<Profile>>| profile.as_ref().map_or(default, |p| *p.get_ref());
    let ike_lifetime = or(raw.ike_lifetime, of(&raw.ike_profile).ike_lifetime());
    let (reauth, unique) = raw.session.check(ike_lifetime, faults);
    let engine_span = raw.engine.as_ref().map(At::span);
    let per_cpu_span = raw.per_cpu.as_ref().map(At::span);
    let (small, kernel) = (raw.small, raw.kernel);
    let networks: Vec<IpNet> = remote.iter().map(|net| *net.get_ref()).collect();
    let forwards = forward::check(raw.forwards, (local.as_deref(), &networks), faults);
    let bgp = raw.bgp.check((local.as_deref().unwrap_or_default(), &networks), folder, secrets, faults);
    let mut connection = Connection {
        name,
        environment,
        limits,
        local: nets(raw.local),
        remote: nets(raw.remote),
        start: or(raw.start, default_start),
        engine: or(raw.engine, Engine::Auto),
        encap,
        wan_port,
        small: None,
        kernel: KernelIpsec::default(),
        lan_port: or(raw.lan_port, LanPort::Auto),
        ike: Ike {
            version: if v1 { 1 } else { 2 },
            mode: or(raw.ike_mode, V1Mode::Main),
            mode_config: or(raw.ike_mode_config, ModeConfig::Pull),
            proposals: proposals(raw.ike_proposals, &raw.ike_profile, default, Profile::ike, faults),
            lifetime: ike_lifetime,
            profile: raw.ike_profile.map(At::into_inner),
        },
        esp: Esp {
            proposals: proposals(raw.esp_proposals, &raw.esp_profile, default, Profile::esp, faults),
            lifetime: or(raw.esp_lifetime, of(&raw.esp_profile).esp_lifetime()),
            profile: raw.esp_profile.map(At::into_inner),
            replay_window: or(raw.replay_window, REPLAY_WINDOW),
            esn: or(raw.esn, true),
            per_cpu: or(raw.per_cpu, PerCpu::No),
        },
        dpd: Dpd {
            interval: or(raw.dpd_interval, DPD.interval),
            timeout: or(raw.dpd_timeout, DPD.timeout),
            action: or(raw.dpd_action, DPD.action),
        },
        exchange: raw.exchange,
        bgp,
        balance: raw.balance,
        failback: raw.failback,
        reauth,
        unique,
        mtu: raw.mtu.and_then(|mtu| u16::try_from(mtu.into_inner()).ok()),
        tunnels: tunnels.into_iter().collect::<Option<_>>()?,
        forwards,
    };
    own::settle(&mut connection, own, faults);
    dataplane::engine_serves(&connection, engine_span, faults);
    per_cpu::check(&connection, per_cpu_span, faults);
    connection.small = small.check(&connection, faults);
    connection.kernel = kernel.check(&connection, faults);
    health::only_where_probes_go(&connection, health_span, faults);
    (faults.len() == before).then_some(connection)
}

/// The networks of one connection: none twice, local and remote apart, of the same families.
fn own_networks(raw: &RawConnection, faults: &mut Vec<Fault>) {
    let list = |nets: &Option<At<Vec<At<IpNet>>>>| nets.as_ref().map_or(Vec::new(), |n| n.get_ref().clone());
    let (local, remote) = (list(&raw.local), list(&raw.remote));
    for nets in [&local, &remote] {
        for (index, net) in nets.iter().enumerate() {
            let outer = nets.iter().enumerate().find(|(other, outer)| {
                *other != index
                    && outer.get_ref().contains(net.get_ref())
                    && (outer.get_ref() != net.get_ref() || *other < index)
            });
            if let Some((_, outer)) = outer {
                faults.push(
                    Fault::new(if net.get_ref() == outer.get_ref() {
                        format!("{} is listed twice", net.get_ref())
                    } else {
                        format!("{} is already in {}", net.get_ref(), outer.get_ref())
                    })
                    .at(net.span(), "not needed")
                    .at(outer.span(), "holds it")
                    .help(format!("take {} out", net.get_ref())),
                );
            }
        }
    }
    for r in &remote {
        if let Some(l) = local.iter().find(|l| apart::overlap(l.get_ref(), r.get_ref())) {
            faults.push(
                Fault::new(format!("remote {} overlaps local {}", r.get_ref(), l.get_ref()))
                    .at(r.span(), "the far side")
                    .at(l.span(), "this side")
                    .help("a network is on one side; list smaller networks, or renumber one side"),
            );
        }
    }
    if let (Some(locals), Some(remotes)) = (&raw.local, &raw.remote) {
        for (family, six) in [("IPv4", false), ("IPv6", true)] {
            let has = |nets: &[At<IpNet>]| nets.iter().any(|net| net.get_ref().addr().is_ipv6() == six);
            let (lacks, with) = match (has(&local), has(&remote)) {
                (true, false) => (("remote", remotes), ("local", locals)),
                (false, true) => (("local", locals), ("remote", remotes)),
                _ => continue,
            };
            // An empty list comes from networks that could not be read, and has been reported.
            if lacks.1.get_ref().is_empty() || with.1.get_ref().is_empty() {
                continue;
            }
            faults.push(
                Fault::new(format!("`{}` has {family} networks and `{}` has none", with.0, lacks.0))
                    .at(lacks.1.span(), format!("no {family} network"))
                    .at(with.1.span(), format!("has {family}"))
                    .help(format!(
                        "add an {family} network to `{}`, or take those of `{}` out",
                        lacks.0, with.0
                    )),
            );
            // The other family would only say the same again.
            break;
        }
    }
}

/// The weight of a tunnel that does not say: the first is active, the others stand by.
fn default_weight(index: usize) -> u32 {
    if index == 0 { 100 } else { 0 }
}

fn weights_differ(raw: &RawConnection, faults: &mut Vec<Fault>) {
    if raw.balance {
        return;
    }
    let mut seen: HashMap<u32, &RawTunnel> = HashMap::new();
    for (index, tunnel) in raw.tunnels.iter().enumerate() {
        let weight = tunnel.weight.as_ref().map_or(default_weight(index), |w| *w.get_ref());
        let place = |t: &RawTunnel| t.weight.as_ref().map_or(t.name.span(), At::span);
        if let Some(other) = seen.get(&weight) {
            faults.push(
                Fault::new(format!(
                    "tunnels `{}` and `{}` of connection `{}` both have weight {weight}",
                    other.name.get_ref(),
                    tunnel.name.get_ref(),
                    raw.name.get_ref()
                ))
                .at(place(tunnel), if tunnel.weight.is_some() { "the same weight" } else { "without weight it is 0" })
                .at(place(other), "as here")
                .help("one tunnel is active and the others stand by: give each another weight, such as 100 and 0; or write balance = true to use them all at once"),
            );
        } else {
            seen.insert(weight, tunnel);
        }
    }
}

/// Those who need IKEv1 have old algorithms as well.
fn default_profile(version: Option<&At<u32>>) -> Profile {
    if is_v1(version) { Profile::Compatible } else { Profile::Modern }
}

fn is_v1(version: Option<&At<u32>>) -> bool {
    version.is_some_and(|v| *v.get_ref() == 1)
}

/// IKEv1 has no words for AEADs in phase 1, nor for ciphers and integrity algorithms younger than it.
fn sayable_in_v1(raw: &RawConnection, faults: &mut Vec<Fault>) {
    let Some(version) = raw.ike_version.as_ref().filter(|v| is_v1(Some(v))) else {
        for (key, span, why) in [
            ("mode", raw.ike_mode.as_ref().map(At::span), "IKEv2 has one way through its first exchanges"),
            ("mode_config", raw.ike_mode_config.as_ref().map(At::span), "in IKEv2 the client asks"),
        ] {
            if let Some(span) = span {
                faults.push(
                    Fault::new(format!("`{key}` belongs to IKEv1"))
                        .at(span, why)
                        .help("take it out, or add version = 1"),
                );
            }
        }
        for span in raw.tunnels.iter().filter_map(|t| t.auth.unsayable(false)) {
            faults.push(
                Fault::new("`xauth` belongs to IKEv1")
                    .at(span, "IKEv2 has EAP for that")
                    .help("write \"eap-mschapv2\", or add ike.version = 1"),
            );
        }
        for span in raw.tunnels.iter().filter_map(|t| t.xauth.span()) {
            faults.push(
                Fault::new("`xauth_user` belongs to IKEv1")
                    .at(span, "IKEv2 has EAP for that")
                    .help("take it out, or add ike.version = 1"),
            );
        }
        return;
    };
    if raw.exchange.mobike.offers() {
        faults.push(
            Fault::new("`mobike` belongs to IKEv2")
                .at(version.span(), "asks for IKEv1")
                .help("take `mobike` out, or write version = 2 on both sides"),
        );
    }
    if let Some(span) = raw.session.reauth_span() {
        faults.push(
            Fault::new("`reauth` belongs to IKEv2")
                .at(span, "IKEv1 authenticates anew whenever `lifetime` ends")
                .help("take it out, or write version = 2 on both sides"),
        );
    }
    for tunnel in &raw.tunnels {
        if let Some(at) = tunnel.auth.unsayable(true) {
            faults.push(
                Fault::new("IKEv1 has no word for this way to authenticate")
                    .at(at, "not with IKEv1")
                    .at(version.span(), "asks for IKEv1")
                    .help("take a psk_file, certificates on both sides, or \"xauth\" on one side and a certificate on the other; or version = 2 on both sides"),
            );
        }
    }
    let mut refuse = |span, what, example| {
        faults.push(
            Fault::new(format!("none of the {what} proposals can be said in IKEv1"))
                .at(span, "for IKEv2 only")
                .at(version.span(), "asks for IKEv1")
                .help(format!("add one such as \"{example}\", or write version = 2 on both sides")),
        );
    };
    let default = default_profile(raw.ike_version.as_ref());
    let of = |profile: &Option<At<Profile>>| profile.as_ref().map_or(default, |p| *p.get_ref());
    let ike = match &raw.ike_proposals {
        Some(list) => list.get_ref().iter().map(|p| p.get_ref().clone()).collect(),
        None => of(&raw.ike_profile).ike(),
    };
    let esp = match &raw.esp_proposals {
        Some(list) => list.get_ref().iter().map(|p| p.get_ref().clone()).collect(),
        None => of(&raw.esp_profile).esp(),
    };
    let said = |span: Option<Range<usize>>| span.unwrap_or(version.span());
    if !ike.iter().any(IkeProposal::in_v1) && !ike.is_empty() {
        let span = raw.ike_proposals.as_ref().map(At::span).or(raw.ike_profile.as_ref().map(At::span));
        refuse(said(span), "IKE", "aes256-sha256-modp2048");
    }
    if !esp.iter().any(EspProposal::in_v1) && !esp.is_empty() {
        let span = raw.esp_proposals.as_ref().map(At::span).or(raw.esp_profile.as_ref().map(At::span));
        refuse(said(span), "ESP", "aes256-sha256");
    }
}

fn durations_sound(raw: &RawConnection, faults: &mut Vec<Fault>) {
    for lifetime in [&raw.ike_lifetime, &raw.esp_lifetime].into_iter().flatten() {
        own::lifetime_sound(lifetime, faults);
    }
    let second = Duration::from_secs(1);
    let hour = Duration::from_secs(3600);
    for (key, value) in [("interval", &raw.dpd_interval), ("timeout", &raw.dpd_timeout)] {
        if let Some(value) = value
            && !(second..=hour).contains(value.get_ref())
        {
            faults.push(
                Fault::new(format!("`{key}` of `dpd` must be from 1s to 1h"))
                    .at(value.span(), "not from 1s to 1h")
                    .help("usual are interval = \"10s\" and timeout = \"30s\""),
            );
        }
    }
    let interval = raw.dpd_interval.as_ref().map_or(DPD.interval, |i| *i.get_ref());
    let timeout = raw.dpd_timeout.as_ref().map_or(DPD.timeout, |t| *t.get_ref());
    if timeout < interval
        && let Some(at) = raw.dpd_timeout.as_ref().or(raw.dpd_interval.as_ref())
    {
        faults.push(
            Fault::new(format!(
                "a peer would be dead after {}, before it is asked after {}",
                show(timeout),
                show(interval)
            ))
            .at(at.span(), "`timeout` is shorter than `interval`")
            .help(format!("write a timeout of {} or more; three intervals are usual", show(interval))),
        );
    }
}

fn tunnel(
    mut raw: RawTunnel,
    connection: &str,
    (index, neighbors): (usize, Vec<bgp::BgpNeighbor>),
    (local, remote, folder, v1): (Option<&[IpNet]>, &[At<IpNet>], &Path, bool),
    secrets: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Tunnel> {
    let title = format!("[connection.{connection}.tunnel.{}]", raw.name.get_ref());
    let lacks = |key: &str, mend: &str| missing(&title, raw.name.span(), key, mend);
    if raw.remote_address.is_none() && !raw.faulty {
        faults.push(lacks(
            "remote_address",
            "write the peer's address or name, or \"any\" to let any peer begin",
        ));
    }
    if let (Some(local), Some(remote)) = (&raw.local_address, &raw.remote_address)
        && let Some(peer) = remote.get_ref().address()
    {
        let wrong = if *local.get_ref() == peer {
            Some(("the peer has the address of this gateway", "the same address"))
        } else if local.get_ref().is_ipv4() != peer.is_ipv4() {
            Some((
                "`local_address` and `remote_address` are of different families",
                "not the family of the other",
            ))
        } else {
            None
        };
        if let Some((message, label)) = wrong {
            faults.push(
                Fault::new(message)
                    .at(remote.span(), label)
                    .at(local.span(), "this side")
                    .help("write the public address of each side, both IPv4 or both IPv6"),
            );
        }
    }
    let remote_id = match (&raw.remote_id, &raw.remote_address) {
        (Some(id), _) => Some(id.get_ref().clone()),
        (None, Some(remote)) => {
            match apart::default_id(remote.get_ref()) {
                Some(id) => Some(id),
                None => {
                    faults.push(
                    Fault::new(format!("{title} lacks `remote_id`"))
                        .at(remote.span(), "any address: who is it?")
                        .help("write the identity that the peer proves, such as remote_id = \"branch.example\""),
                );
                    None
                }
            }
        }
        (None, None) => None,
    };
    // With IKEv1 the users are those of XAuth.
    let users = if v1 { raw.auth.take_users_file() } else { None };
    let auth = raw.auth.check((&title, raw.name.span(), raw.faulty), folder, &mut *secrets, faults);
    let ppk = match raw.ppk {
        Some(ppk) => {
            let ppk = ppk.into_inner();
            let key = auth::read_psk(&ppk.file, folder, &mut *secrets, faults);
            Some(ppk.with(key?))
        }
        None => None,
    };
    // Whoever authenticates: by what only it can have, not by a key that many know.
    let anybody = raw.remote_id.as_ref().filter(|id| apart::is_anybody(id.get_ref()));
    if let (Some(any), Some(RemoteProof::Psk(_))) = (anybody, auth.as_ref().map(|a| &a.remote)) {
        faults.push(
            Fault::new("remote_id = \"any\" needs certificates or EAP")
                .at(any.span(), "a pre-shared key does not tell who it is")
                .help(
                    "write the identity that the peer proves, or remote_auth = \"cert\" or \"eap-mschapv2\"",
                ),
        );
    }
    if let Some(clients) = &raw.clients {
        let any = raw.remote_address.as_ref().is_some_and(|a| a.get_ref().is_any());
        if !any || !raw.addresses.hands_out() || v1 {
            faults.push(
                Fault::new("`clients` needs IKEv2, remote_address = \"any\" and a `pool`")
                    .at(clients.span(), "many at once")
                    .help("add them: each client comes from its own address, and is known inside by the one that it gets"),
            );
        }
    }
    let remote_id = if anybody.is_some() { None } else { Some(remote_id?) };
    let (mut lacks_user, mut lacks_users) = (false, false);
    if v1 && !raw.faulty {
        let (local, remote) = raw.auth.hybrid();
        lacks_user = local && raw.xauth.span().is_none();
        lacks_users = remote && users.is_none();
    }
    if lacks_user {
        faults.push(lacks("xauth_user", "write the user's name, and xauth_password_file beside it"));
    }
    if lacks_users {
        faults.push(lacks(
            "users_file",
            "name the file with users and passwords: users_file = \"secrets/users\"",
        ));
    }
    let xauth = raw.xauth.check(users.as_ref(), folder, secrets, faults);
    let weight = raw.weight.as_ref().map_or(default_weight(index), |w| *w.get_ref());
    let inside: Vec<IpNet> = raw.inside.into_iter().flat_map(At::into_inner).map(At::into_inner).collect();
    let networks: Vec<IpNet> = remote.iter().map(|net| *net.get_ref()).collect();
    let (health, health_sources) = match local {
        // With BGP the inner addresses are reached through the tunnel as well.
        Some(local) if !neighbors.is_empty() => {
            let local: Vec<IpNet> = local.iter().chain(&inside).copied().collect();
            let far: Vec<IpNet> = networks.iter().chain(&inside).map(IpNet::trunc).collect();
            raw.health.check((Some(&local), &far), &inside, faults)
        }
        _ => raw.health.check((local, &networks), &inside, faults),
    };
    Some(Tunnel {
        interface: interface::name(connection, raw.name.get_ref()),
        local_address: raw.local_address.map(At::into_inner),
        remote_address: raw.remote_address?.into_inner(),
        local_id: raw.local_id.map(At::into_inner),
        remote_id,
        clients: raw.clients.map(|c| c.into_inner() as usize),
        auth: auth?,
        ppk,
        addresses: raw.addresses.check(remote, faults),
        xauth,
        inside,
        weight: u8::try_from(weight).ok()?,
        bgp: neighbors,
        ike: None,
        esp: None,
        health,
        health_sources,
        enabled: or(raw.enabled, true),
        name: raw.name.into_inner(),
    })
}
