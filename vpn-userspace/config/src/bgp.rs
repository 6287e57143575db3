//! `routing = "bgp"`: `asn`, `router_id` and `bgp_daemon` of the gateway, `bgp` of a connection and of a tunnel.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use culvert_bgp::Password;
use culvert_ike::EspMode;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::duration::show;
use crate::error::Fault;
use crate::file::{RawConnection, RawFile, RawTunnel, a_duration, network};
use crate::model::{DpdAction, Start};
use crate::secret::{FileKind, Files};
use crate::section::{At, Refused, Section};

/// What clouds have where nobody says otherwise; private (RFC 6996).
const ASN: u32 = 65_000;
const HOLD_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(10);
const BFD: BgpBfd = BgpBfd { interval: Duration::from_millis(300), multiplier: 3 };

/// What all sessions have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayBgp {
    /// Our autonomous system.
    pub asn: u32,
    /// Our identifier; `None`: one of our addresses.
    pub router_id: Option<Ipv4Addr>,
    /// Which program speaks.
    pub daemon: BgpDaemon,
}

/// `bgp_daemon`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BgpDaemon {
    /// FRR where it is installed, else BIRD.
    Auto,
    /// FRR.
    Frr,
    /// BIRD 2.
    Bird,
}

/// `bgp` of a connection: its far networks are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// A neighbour silent for so long is gone.
    pub hold_time: Duration,
    /// Between two signs of life.
    pub keepalive: Duration,
    /// Bidirectional forwarding detection.
    pub bfd: Option<BgpBfd>,
    /// Routes of a neighbour that restarts are kept meanwhile.
    pub graceful_restart: bool,
    /// A neighbour that sends more is closed.
    pub max_prefixes: Option<u32>,
    /// What may be learned, with all inside it; inside `remote`.
    pub accept: Vec<IpNet>,
    /// What is announced.
    pub announce: Vec<IpNet>,
    /// What is learned is announced to the other connections with BGP.
    pub propagate: bool,
    /// Of every session.
    pub password: Option<Password>,
}

/// `bfd`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BgpBfd {
    /// Between two packets.
    pub interval: Duration,
    /// So many missing, and the neighbour is gone.
    pub multiplier: u8,
}

/// A neighbour at the far end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BgpNeighbor {
    /// Our inner address.
    pub local: IpAddr,
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub asn: u32,
}

#[derive(Default)]
pub(crate) struct RawGatewayBgp {
    asn: Option<At<u32>>,
    router_id: Option<At<Ipv4Addr>>,
    daemon: Option<At<BgpDaemon>>,
}

#[derive(Default)]
pub(crate) struct RawBgp {
    /// Where `routing = "bgp"` stands.
    routing: Option<Range<usize>>,
    /// Where `bgp` stands.
    at: Option<Range<usize>>,
    remote_asn: Option<At<u32>>,
    hold_time: Option<At<Duration>>,
    keepalive: Option<At<Duration>>,
    bfd: Option<BgpBfd>,
    graceful_restart: bool,
    max_prefixes: Option<At<u32>>,
    accept: Option<At<Vec<At<IpNet>>>>,
    announce: Option<At<Vec<At<IpNet>>>>,
    propagate: bool,
    password_file: Option<At<String>>,
    faulty: bool,
}

#[derive(Clone, Default)]
pub(crate) struct RawTunnelBgp {
    at: Option<Range<usize>>,
    remote_asn: Option<At<u32>>,
    neighbors: Option<At<Vec<At<IpAddr>>>>,
}

impl RawGatewayBgp {
    pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Self {
        Self {
            asn: asn(s, "asn", faults),
            router_id: s.parsed(faults, "router_id", "an IPv4 address", |text, faults| {
                let parsed = text.get_ref().parse::<Ipv4Addr>().ok().filter(|id| !id.is_unspecified());
                if parsed.is_none() {
                    faults.push(
                        Fault::new("`router_id` is no identifier of a router")
                            .at(text.span(), "no IPv4 address")
                            .help("write an IPv4 address of this host that no neighbour has for its own, or take the line out"),
                    );
                }
                parsed
            }),
            daemon: s.word(
                faults,
                "bgp_daemon",
                &[("auto", BgpDaemon::Auto), ("frr", BgpDaemon::Frr), ("bird", BgpDaemon::Bird)],
                &[],
            ),
        }
    }

    pub(crate) fn check(self) -> GatewayBgp {
        GatewayBgp {
            asn: self.asn.map_or(ASN, At::into_inner),
            router_id: self.router_id.map(At::into_inner),
            daemon: self.daemon.map_or(BgpDaemon::Auto, At::into_inner),
        }
    }
}

/// An autonomous system that a neighbour may have: no reserved one (RFC 7607, 6793, 7300).
fn asn(s: &mut Section<'_>, key: &'static str, faults: &mut Vec<Fault>) -> Option<At<u32>> {
    let number = s.integer(faults, key, "the number of an autonomous system", 0..=u32::MAX)?;
    let why = match *number.get_ref() {
        0 => "reserved (RFC 7607)",
        23_456 => "stands for numbers of four bytes (RFC 6793)",
        65_535 | u32::MAX => "reserved (RFC 7300)",
        _ => return Some(number),
    };
    faults.push(
        Fault::new(format!("{} is no autonomous system's number", number.get_ref()))
            .at(number.span(), why)
            .help("write the number that you were given, or a private one: 64512 to 65534, 4200000000 to 4294967294"),
    );
    None
}

impl RawBgp {
    /// Reads `routing` and `bgp` of a connection.
    pub(crate) fn read(s: &mut Section<'_>, connection: &str, faults: &mut Vec<Fault>) -> Self {
        let before = faults.len();
        let routing = s.word(
            faults,
            "routing",
            &[("static", false), ("bgp", true)],
            &[("policy", Refused::NotYet("policy-based tunnels come in a later version"))],
        );
        let mut raw = Self {
            routing: routing.filter(|dynamic| *dynamic.get_ref()).map(|dynamic| dynamic.span()),
            ..Self::default()
        };
        if let Some(mut t) = s.section(faults, "bgp", format!("`bgp` of [connection.{connection}]")) {
            let nets = "a list of networks such as [\"192.168.0.0/24\"]";
            raw.at = Some(t.span.clone());
            raw.remote_asn = asn(&mut t, "remote_asn", faults);
            raw.hold_time = t.parsed(faults, "hold_time", "a duration such as \"30s\"", a_duration);
            raw.keepalive = t.parsed(faults, "keepalive", "a duration such as \"10s\"", a_duration);
            raw.bfd = bfd(&mut t, connection, faults);
            raw.graceful_restart = t.boolean(faults, "graceful_restart").is_some_and(At::into_inner);
            raw.max_prefixes = t.integer(faults, "max_prefixes", "a number of prefixes", 1..=u32::MAX);
            raw.accept = t.list(faults, "accept", nets, false, network);
            raw.announce = t.list(faults, "announce", nets, false, network);
            raw.propagate = t.boolean(faults, "propagate").is_some_and(At::into_inner);
            raw.password_file = t.string(faults, "password_file", "the path of a file");
            t.finish(faults, &[]);
        }
        raw.faulty = faults.len() > before;
        raw
    }

    /// Whether the far networks are learned.
    pub(crate) fn dynamic(&self) -> bool {
        self.routing.is_some()
    }
}

fn bfd(t: &mut Section<'_>, connection: &str, faults: &mut Vec<Fault>) -> Option<BgpBfd> {
    if t.holds_boolean("bfd") {
        return t.boolean(faults, "bfd").is_some_and(At::into_inner).then_some(BFD);
    }
    let mut table = t.section(faults, "bfd", format!("`bfd` of connection `{connection}`"))?;
    let interval = table.parsed(faults, "interval", "a duration such as \"300ms\"", a_duration);
    let multiplier = table.integer(faults, "multiplier", "a number of packets", 2..=50);
    table.finish(faults, &[]);
    if let Some(at) = &interval
        && !(Duration::from_millis(50)..=Duration::from_secs(10)).contains(at.get_ref())
    {
        faults.push(
            Fault::new("`interval` of `bfd` must be from 50ms to 10s")
                .at(at.span(), "out of bounds")
                .help("usual is 300ms: a neighbour is gone after three of them"),
        );
    }
    Some(BgpBfd {
        interval: interval.map_or(BFD.interval, At::into_inner),
        multiplier: multiplier.and_then(|m| u8::try_from(m.into_inner()).ok()).unwrap_or(BFD.multiplier),
    })
}

impl RawTunnelBgp {
    pub(crate) fn read(s: &mut Section<'_>, tunnel: &str, faults: &mut Vec<Fault>) -> Self {
        let mut raw = Self::default();
        if let Some(mut t) = s.section(faults, "bgp", format!("`bgp` of tunnel `{tunnel}`")) {
            raw.at = Some(t.span.clone());
            raw.remote_asn = asn(&mut t, "remote_asn", faults);
            raw.neighbors =
                t.list(faults, "neighbor", "an address, or a list of them", true, |text, faults| {
                    let parsed = text.get_ref().parse().ok();
                    if parsed.is_none() {
                        faults.push(
                            Fault::new(format!("`{}` is no address", text.get_ref().escape_debug()))
                                .at(text.span(), "not understood")
                                .help("write the neighbour's inner address, without a prefix length"),
                        );
                    }
                    parsed
                });
            t.finish(faults, &[]);
        }
        raw
    }
}

impl RawTunnelBgp {
    /// Takes the system from the tunnel that is copied. The neighbour is each tunnel's own.
    pub(crate) fn fill(&mut self, from: &Self) {
        if self.remote_asn.is_none() {
            self.remote_asn.clone_from(&from.remote_asn);
        }
    }
}

/// Refuses what a connection with BGP cannot be, for all connections.
pub(crate) fn possible(raw: &RawFile, faults: &mut Vec<Fault>) {
    for connection in &raw.connections {
        let bgp = &connection.bgp;
        if !bgp.dynamic() {
            let lone = connection.tunnels.iter().find_map(|t| t.bgp.at.clone());
            if let Some(at) = bgp.at.clone().or(lone) {
                faults.push(
                    Fault::new("`bgp` belongs to routing = \"bgp\"")
                        .at(at, "this connection's routes are static")
                        .help("write routing = \"bgp\" above it, or take it out"),
                );
            }
            continue;
        }
        fits(connection, faults);
    }
}

fn fits(connection: &RawConnection, faults: &mut Vec<Fault>) {
    let Some(routing) = connection.bgp.routing.clone() else { return };
    let mut refuse = |span: Range<usize>, what: &str, label: &str, mend: &str| {
        faults.push(
            Fault::new(format!("routing = \"bgp\" does not go with {what}"))
                .at(span, label)
                .at(routing.clone(), "routes are learned")
                .help(mend),
        );
    };
    if connection.exchange.mode == EspMode::Transport {
        refuse(
            connection.name.span(),
            "transport mode",
            "has no interface",
            "write esp.mode = \"tunnel\" on both sides, or take `routing` out",
        );
    }
    if let Some(start) = connection.start.as_ref().filter(|s| *s.get_ref() == Start::OnTraffic) {
        refuse(
            start.span(),
            "start = \"on-traffic\"",
            "no route leads there before the session is up",
            "write start = \"immediate\", or \"respond\"",
        );
    }
    if let Some(action) = connection.dpd_action.as_ref().filter(|a| *a.get_ref() == DpdAction::Hold) {
        refuse(
            action.span(),
            "dpd.action = \"hold\"",
            "no route leads there while it is down",
            "write action = \"restart\"",
        );
    }
    for tunnel in &connection.tunnels {
        if tunnel.clients.is_some() || tunnel.addresses.asks() || tunnel.addresses.hands_out() {
            refuse(
                tunnel.name.span(),
                "virtual_ip, pool and clients",
                "inner addresses are negotiated",
                "write `inside` with the addresses that both sides agreed on",
            );
        }
    }
}

/// The neighbours of a tunnel, one for each family that the connection's networks have.
pub(crate) fn neighbors(
    tunnel: &RawTunnel,
    connection: &RawConnection,
    own_asn: u32,
    faults: &mut Vec<Fault>,
) -> Vec<BgpNeighbor> {
    let bgp = &connection.bgp;
    if !bgp.dynamic() || tunnel.faulty || bgp.faulty {
        return Vec::new();
    }
    let title = format!("{}/{}", connection.name.get_ref(), tunnel.name.get_ref());
    let Some(asn) = tunnel.bgp.remote_asn.as_ref().or(bgp.remote_asn.as_ref()) else {
        faults.push(
            Fault::new(format!("the neighbour of tunnel `{title}` has no autonomous system"))
                .at(tunnel.bgp.at.clone().or(bgp.at.clone()).unwrap_or(tunnel.name.span()), "no `remote_asn`")
                .help("write bgp = { remote_asn = 64512 } for the connection, with the number that the peer's side says"),
        );
        return Vec::new();
    };
    if *asn.get_ref() == own_asn {
        faults.push(
            Fault::new(format!("the neighbour has our own autonomous system {own_asn}"))
                .at(asn.span(), "the same as `asn` of [gateway]")
                .help("sessions are between two systems (eBGP): give each side its own, such as asn = 65001 in [gateway]"),
        );
    }
    let networks = [&connection.local, &connection.remote].into_iter().flatten().flat_map(|n| n.get_ref());
    let families: Vec<bool> = networks.map(|net| net.get_ref().addr().is_ipv6()).collect();
    let mut neighbors = Vec::new();
    for six in [false, true] {
        if !families.contains(&six) {
            continue;
        }
        let (family, example) = if six { ("IPv6", "fd00:10::2/126") } else { ("IPv4", "169.254.10.2/30") };
        let inside = tunnel.inside.iter().flat_map(|i| i.get_ref());
        let Some(inside) = inside.into_iter().find(|net| net.get_ref().addr().is_ipv6() == six) else {
            faults.push(
                Fault::new(format!("tunnel `{title}` has no {family} address inside, and the connection has {family} networks"))
                    .at(tunnel.inside.as_ref().map_or(tunnel.name.span(), At::span), "BGP needs one")
                    .help(format!("write the address that the peer's side says: inside = \"{example}\", both families as a list")),
            );
            continue;
        };
        let said = tunnel.bgp.neighbors.iter().flat_map(|n| n.get_ref());
        let said = said.into_iter().find(|address| address.get_ref().is_ipv6() == six);
        let net = *inside.get_ref();
        let (address, span) = match said {
            Some(address) => (Some(*address.get_ref()), address.span()),
            None => (other_end(net), inside.span()),
        };
        match address {
            Some(address) if address != net.addr() && net.contains(&address) => {
                neighbors.push(BgpNeighbor { local: net.addr(), address, asn: *asn.get_ref() });
            }
            Some(address) => faults.push(
                Fault::new(format!("the neighbour {address} of tunnel `{title}` is not at its far end"))
                    .at(
                        span,
                        if address == net.addr() {
                            "our own address"
                        } else {
                            "not in the network of `inside`"
                        },
                    )
                    .at(inside.span(), "this end")
                    .help(format!("write the other address of {}", net.trunc())),
            ),
            None => faults.push(
                Fault::new(format!("which address of {} is the neighbour of tunnel `{title}`?", net.trunc()))
                    .at(span, "more than two addresses")
                    .help("write bgp = { neighbor = \"ADDRESS\" } for the tunnel"),
            ),
        }
    }
    neighbors
}

/// The other one of a network of two addresses.
fn other_end(net: IpNet) -> Option<IpAddr> {
    let bits = net.max_prefix_len() - net.prefix_len();
    let mut others: Vec<IpAddr> = match bits {
        1 => vec![net.network(), net.broadcast()],
        2 => net.hosts().collect(),
        _ => return None,
    };
    // Of four IPv6 addresses the first is the routers' (RFC 4291 2.6.1), and nobody has the last.
    if let (2, IpNet::V6(v6)) = (bits, net) {
        let first = u128::from(v6.network());
        others = vec![IpAddr::V6((first + 1).into()), IpAddr::V6((first + 2).into())];
    }
    others.contains(&net.addr()).then(|| others.into_iter().find(|other| *other != net.addr()))?
}

impl RawBgp {
    /// What it says together with the connection's networks; `None` for static routes.
    pub(crate) fn check(
        self,
        (local, remote): (&[IpNet], &[IpNet]),
        folder: &Path,
        secrets: Files<'_>,
        faults: &mut Vec<Fault>,
    ) -> Option<Bgp> {
        self.routing.as_ref()?;
        let within = |value: &Option<At<Duration>>,
                      key: &str,
                      least: u64,
                      most: u64,
                      faults: &mut Vec<Fault>| {
            if let Some(at) = value
                && (!(least..=most).contains(&at.get_ref().as_secs()) || at.get_ref().subsec_nanos() > 0)
            {
                faults.push(
                    Fault::new(format!("`{key}` must be whole seconds from {least}s to {most}s"))
                        .at(at.span(), "not one of those")
                        .help("usual are hold_time = \"30s\" and keepalive = \"10s\"; for less than a second there is bfd = true"),
                );
            }
        };
        within(&self.hold_time, "hold_time", 3, 3600, faults);
        within(&self.keepalive, "keepalive", 1, 1200, faults);
        let hold_time = self.hold_time.as_ref().map_or(HOLD_TIME, |h| *h.get_ref());
        // A third of the other, where only one is said (RFC 4271 4.4).
        let third = Duration::from_secs((hold_time.as_secs() / 3).max(1));
        let keepalive = self.keepalive.as_ref().map_or(KEEPALIVE.min(third), |k| *k.get_ref());
        if keepalive >= hold_time
            && let Some(at) = self.keepalive.as_ref().or(self.hold_time.as_ref())
        {
            faults.push(
                Fault::new(format!(
                    "the neighbour would be gone after {}, before it is heard after {}",
                    show(hold_time),
                    show(keepalive)
                ))
                .at(at.span(), "`keepalive` is not shorter than `hold_time`")
                .help(format!("write keepalive = \"{}\"", show(third))),
            );
        }
        for net in self.accept.iter().flat_map(|list| list.get_ref()) {
            if !remote.iter().any(|outer| outer.contains(net.get_ref())) {
                faults.push(
                    Fault::new(format!("{} may not be learned: it is not inside `remote`", net.get_ref()))
                        .at(net.span(), "not protected")
                        .help(format!(
                            "add {} to `remote`: what is there never leaves in clear, whatever is learned",
                            net.get_ref()
                        )),
                );
            }
        }
        for net in self.announce.iter().flat_map(|list| list.get_ref()) {
            if let Some(outer) = remote.iter().find(|outer| outer.contains(net.get_ref())) {
                faults.push(
                    Fault::new(format!("{} is announced, and is the far side's", net.get_ref()))
                        .at(net.span(), format!("inside {outer} of `remote`"))
                        .help("announce networks of this side; networks of other connections are announced by propagate = true there"),
                );
            }
        }
        let nets = |list: Option<At<Vec<At<IpNet>>>>, default: &[IpNet]| match list {
            Some(list) => list.into_inner().into_iter().map(At::into_inner).collect(),
            None => default.to_vec(),
        };
        let password = match &self.password_file {
            Some(file) => Some(password(file, folder, secrets, faults)?),
            None => None,
        };
        Some(Bgp {
            hold_time,
            keepalive,
            bfd: self.bfd,
            graceful_restart: self.graceful_restart,
            max_prefixes: self.max_prefixes.map(At::into_inner),
            accept: nets(self.accept, remote),
            announce: nets(self.announce, local),
            propagate: self.propagate,
            password,
        })
    }
}

fn password(
    file: &At<String>,
    folder: &Path,
    secrets: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Password> {
    let path = folder.join(file.get_ref());
    let content: Zeroizing<Vec<u8>> = match secrets(&path, FileKind::Secret) {
        Ok(content) => content,
        Err(error) => {
            faults.push(
                Fault::new(format!("the password file {} {error}", path.display()))
                    .at(file.span(), "cannot be used")
                    .help(error.mend(&path)),
            );
            return None;
        }
    };
    let text = std::str::from_utf8(&content)
        .ok()
        .map(|text| Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()));
    let password = text.and_then(Password::new);
    if password.is_none() {
        faults.push(
            Fault::new(format!("the password file {} holds no password of BGP", path.display()))
                .at(file.span(), "cannot be used")
                .help("write 1 to 80 letters, digits and signs on one line, without blanks and `\"`"),
        );
    }
    password
}

#[cfg(test)]
#[path = "bgp_tests.rs"]
mod tests;
