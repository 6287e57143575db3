//! `health` and `health_sources` of a tunnel, `balance` and `failback` of a connection: which tunnels carry the traffic,
//! and how that is found out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use culvert_ike::EspMode;
use ipnet::IpNet;

use crate::duration;
use crate::error::Fault;
use crate::model::Connection;
use crate::section::{At, Section};

const INTERVAL: Duration = Duration::from_secs(3);
const RETRIES: u32 = 3;
/// A probe is not waited for any longer, unless the file says so: so failover takes interval x retries and this.
const TIMEOUT: Duration = Duration::from_secs(1);
const FAILBACK: Duration = Duration::from_secs(10);

/// `health`: how a tunnel is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub target: Probe,
    /// From which address of this host; `None`: the tunnel's own.
    pub source: Option<IpAddr>,
    /// Between two probes.
    pub interval: Duration,
    /// A probe that was not answered for so long is lost.
    pub timeout: Duration,
    /// So many lost in a row, or answered in a row, change the verdict.
    pub retries: u32,
    /// Negotiate anew what fails, too.
    pub restart: bool,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An ICMP echo.
    Icmp(IpAddr),
    /// A TCP connection.
    Tcp(SocketAddr),
    /// A page that must be there (any status from 200 to 399).
    Http {
        /// Of the server.
        address: SocketAddr,
        /// With the leading `/`.
        path: String,
    },
}

impl Probe {
    /// Parses an address, `ADDRESS:PORT` or `http://ADDRESS[:PORT]/PATH`. Names are not taken: a health check must not
    /// depend on a resolver that may be behind the tunnel.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Icmp(address));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Tcp(address));
        }
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let bare = || authority.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let address = authority.parse().ok().or_else(|| Some(SocketAddr::new(bare()?, 80)))?;
        // Nothing that could end the request's first line.
        let sound = path.bytes().all(|byte| byte.is_ascii_graphic());
        let path = if path.is_empty() { "/" } else { path };
        sound.then(|| Self::Http { address, path: path.to_owned() })
    }

    /// Where the probe goes.
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Icmp(address) => *address,
            Self::Tcp(address) | Self::Http { address, .. } => address.ip(),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp(address) => write!(f, "{address}"),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Http { address, path } => write!(f, "http://{address}{path}"),
        }
    }
}

/// `failback`: when the traffic returns to a preferred tunnel that failed and is well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failback {
    /// After so long without another failure; the wait doubles with each failure that follows soon.
    After(Duration),
    /// When the operator says so.
    Manual,
}

/// What was read of a tunnel.
#[derive(Clone, Default)]
pub(crate) struct RawHealth {
    health: Option<RawCheck>,
    sources: Option<At<Vec<At<IpNet>>>>,
}

#[derive(Clone)]
struct RawCheck {
    at: Range<usize>,
    target: Option<At<Probe>>,
    source: Option<At<IpAddr>>,
    interval: Option<At<Duration>>,
    timeout: Option<At<Duration>>,
    retries: Option<At<u32>>,
    restart: bool,
    faulty: bool,
}

impl RawHealth {
    pub(crate) fn read(s: &mut Section<'_>, tunnel: &str, faults: &mut Vec<Fault>) -> Self {
        let before = faults.len();
        let mut raw = Self {
            health: None,
            sources: s.list(
                faults,
                "health_sources",
                "an address from which the peer checks this tunnel, or a list",
                true,
                network,
            ),
        };
        if let Some(mut table) = s.section(faults, "health", format!("`health` of tunnel `{tunnel}`")) {
            let time = |key, table: &mut Section<'_>, faults: &mut Vec<Fault>| {
                table.parsed(faults, key, "a duration such as \"3s\" or \"100ms\"", |text, faults| {
                    let parsed = duration::parse(text.get_ref());
                    if parsed.is_none() {
                        faults.push(
                            Fault::new(format!("`{key}` is no duration"))
                                .at(text.span(), "not understood")
                                .help("write a number with its unit: \"3s\", \"100ms\""),
                        );
                    }
                    parsed
                })
            };
            let actions = [("demote", false), ("restart", true)];
            raw.health = Some(RawCheck {
                at: table.span.clone(),
                target: table.parsed(faults, "target", "what to probe", |text, faults| {
                    let probe = Probe::parse(text.get_ref());
                    if probe.is_none() {
                        faults.push(
                            Fault::new(format!("\"{}\" cannot be probed", text.get_ref().escape_debug()))
                                .at(text.span(), "not understood")
                                .help(
                                    "write an address (ICMP echo), \"ADDRESS:PORT\" (TCP) or \
                                     \"http://ADDRESS:PORT/PATH\"; names are not taken",
                                ),
                        );
                    }
                    probe
                }),
                source: table.parsed(faults, "source", "an address of this host", |text, faults| {
                    let parsed = text.get_ref().parse().ok();
                    if parsed.is_none() {
                        faults.push(
                            Fault::new("`source` is no address")
                                .at(text.span(), "not understood")
                                .help("write an address of this host that is inside `local`"),
                        );
                    }
                    parsed
                }),
                interval: time("interval", &mut table, faults),
                timeout: time("timeout", &mut table, faults),
                retries: table.integer(faults, "retries", "a number of probes from 1 to 100", 1..=100),
                restart: table.word(faults, "action", &actions, &[]).is_some_and(At::into_inner),
                faulty: false,
            });
            table.finish(faults, &[]);
        }
        if let Some(check) = &mut raw.health {
            check.faulty = faults.len() > before;
        }
        raw
    }

    /// Where `health` stands.
    pub(crate) fn span(&self) -> Option<Range<usize>> {
        self.health.as_ref().map(|check| check.at.clone())
    }

    /// Takes what is not said here from the tunnel that is copied. `health_sources` are each tunnel's own.
    pub(crate) fn fill(&mut self, from: &Self) {
        if self.health.is_none() {
            self.health.clone_from(&from.health);
        }
    }

    /// What it says together with the rest: the networks of both sides, and the tunnel's own addresses.
    pub(crate) fn check(
        self,
        (local, remote): (Option<&[IpNet]>, &[IpNet]),
        inside: &[IpNet],
        faults: &mut Vec<Fault>,
    ) -> (Option<Health>, Vec<IpNet>) {
        let mut sources = Vec::new();
        for source in self.sources.into_iter().flat_map(At::into_inner) {
            if remote.iter().any(|net| net.contains(source.get_ref())) || local.is_none() {
                sources.push(source.into_inner());
            } else {
                faults.push(
                    Fault::new("the peer cannot check this tunnel from there")
                        .at(source.span(), "not inside `remote`")
                        .help("what comes from other networks is dropped: add the address to `remote`, on both sides"),
                );
            }
        }
        (self.health.and_then(|raw| raw.check(local, remote, inside, faults)), sources)
    }
}

impl RawCheck {
    fn check(
        self,
        local: Option<&[IpNet]>,
        remote: &[IpNet],
        inside: &[IpNet],
        faults: &mut Vec<Fault>,
    ) -> Option<Health> {
        if self.faulty {
            return None;
        }
        let Some(target) = self.target else {
            faults.push(
                Fault::new("`health` lacks `target`")
                    .at(self.at, "whom to ask?")
                    .help("write an address of the far side: target = \"172.16.10.1\""),
            );
            return None;
        };
        let address = target.get_ref().address();
        if !remote.iter().any(|net| net.contains(&address)) {
            faults.push(
                Fault::new(format!("the health check's target {address} is not behind this tunnel"))
                    .at(target.span(), "not inside `remote`")
                    .help("the tunnel carries nothing to it: name an address of the far side's networks"),
            );
        }
        // Where the peer gives the address, nothing is known of it yet.
        if let Some(local) = local {
            let ours = |address: &IpAddr| local.iter().any(|net| net.contains(address));
            match &self.source {
                Some(source) if !ours(source.get_ref()) => faults.push(
                    Fault::new(format!("the health check's source {} is outside of `local`", source.get_ref()))
                        .at(source.span(), "the peer would drop it")
                        .help("write an address of this host that is inside `local`, or add its network to `local` on both sides"),
                ),
                Some(_) => {}
                None if inside.iter().any(|net| ours(&net.addr()) && same_family(&net.addr(), &address)) => {}
                None => faults.push(
                    Fault::new("`health` lacks `source`")
                        .at(self.at.clone(), "from which address?")
                        .help("the tunnel has no inside address within `local`: write source = an address of this host that is inside `local`"),
                ),
            }
        }
        if let Some(source) = &self.source
            && !same_family(source.get_ref(), &address)
        {
            faults.push(
                Fault::new("`source` and `target` of `health` are of different families")
                    .at(source.span(), "not the family of the target")
                    .help("write both as IPv4 or both as IPv6"),
            );
        }
        let mut within =
            |key: &str, value: &Option<At<Duration>>, bounds: (Duration, Duration), mend: &str| {
                if let Some(value) = value
                    && !(bounds.0..=bounds.1).contains(value.get_ref())
                {
                    faults.push(
                        Fault::new(format!(
                            "`{key}` of `health` must be from {} to {}",
                            duration::show(bounds.0),
                            duration::show(bounds.1)
                        ))
                        .at(value.span(), "out of bounds")
                        .help(mend),
                    );
                }
            };
        let shortest = Duration::from_millis(50);
        within(
            "interval",
            &self.interval,
            (shortest, Duration::from_secs(3600)),
            "usual are 3s, or 100ms to fail over in less than half a second",
        );
        within(
            "timeout",
            &self.timeout,
            (Duration::from_millis(10), Duration::from_secs(60)),
            "usual is 1s: longer than any round trip that is still of use",
        );
        let interval = self.interval.map_or(INTERVAL, At::into_inner);
        let source = self.source.map(At::into_inner).or_else(|| {
            let own = inside.iter().map(IpNet::addr).find(|own| same_family(own, &address));
            own.filter(|own| local.is_none_or(|local| local.iter().any(|net| net.contains(own))))
        });
        Some(Health {
            source,
            target: target.into_inner(),
            interval,
            timeout: self.timeout.map_or(TIMEOUT.min(interval), At::into_inner),
            retries: self.retries.map_or(RETRIES, At::into_inner),
            restart: self.restart,
        })
    }
}

/// Refuses health checks where there is no tunnel to probe through, or no single far side.
pub(crate) fn only_where_probes_go(
    connection: &Connection,
    at: Option<Range<usize>>,
    faults: &mut Vec<Fault>,
) {
    let Some(at) = at else { return };
    let (what, mend) = if connection.exchange.mode == EspMode::Transport {
        (
            "transport mode has no health check",
            "take `health` out: dead peer detection (`dpd`) watches the peer",
        )
    } else if connection.tunnels.iter().any(|t| t.clients.is_some() && t.health.is_some()) {
        ("a tunnel of many clients has no health check", "take `health` out: each client is watched by `dpd`")
    } else {
        return apart(connection, &at, faults);
    };
    faults.push(Fault::new(what).at(at, "nothing to probe through").help(mend));
}

/// Tunnels whose answers the peer could not tell apart: it sends both by the tunnel that it prefers, and then both checks
/// fail when that one does.
fn apart(connection: &Connection, at: &Range<usize>, faults: &mut Vec<Fault>) {
    let mut seen: Vec<(IpAddr, &str)> = Vec::new();
    for tunnel in &connection.tunnels {
        let Some(source) = tunnel.health.as_ref().and_then(|health| health.source) else { continue };
        if let Some((_, other)) = seen.iter().find(|(known, _)| *known == source) {
            faults.push(
                Fault::new(format!(
                    "the health checks of tunnels `{other}` and `{}` have the same source {source}",
                    tunnel.name
                ))
                .at(at.clone(), "answers would come back by one of the two")
                .help(
                    "give each tunnel a `source` of its own, and have the peer route it back by that tunnel: for Culvert \
                     `health_sources` of the tunnel there, elsewhere a /32 route",
                ),
            );
        }
        seen.push((source, &tunnel.name));
    }
}

fn same_family(a: &IpAddr, b: &IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// An address or a network.
fn network(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<IpNet> {
    let word = *text.get_ref();
    let found =
        word.parse::<IpAddr>().map(IpNet::from).or_else(|_| word.parse::<IpNet>().map(|net| net.trunc()));
    if found.is_err() {
        faults.push(
            Fault::new(format!("\"{}\" is no address", word.escape_debug()))
                .at(text.span(), "not understood")
                .help("write the address that the peer's health check comes from"),
        );
    }
    found.ok()
}

/// Reads `balance` and `failback` of a connection.
pub(crate) fn read_connection(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> (bool, Failback) {
    let balance = s.boolean(faults, "balance").is_some_and(At::into_inner);
    let what = "\"manual\" or a duration such as \"10s\"";
    let failback = s.parsed(faults, "failback", what, |text, faults| match *text.get_ref() {
        "manual" => Some(Failback::Manual),
        word => {
            let parsed = duration::parse(word).filter(|wait| *wait <= Duration::from_secs(86_400));
            if parsed.is_none() {
                faults.push(
                    Fault::new("`failback` is neither \"manual\" nor a duration up to 1d")
                        .at(text.span(), "not understood")
                        .help(
                            "write how long a tunnel must be well again before the traffic returns: \"10s\"",
                        ),
                );
            }
            parsed.map(Failback::After)
        }
    });
    (balance, failback.map_or(Failback::After(FAILBACK), At::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{parse, with};

    #[test]
    fn what_can_be_probed() {
        for (text, shown) in [
            ("172.16.10.1", "172.16.10.1"),
            ("fd00::1", "fd00::1"),
            ("172.16.10.1:443", "172.16.10.1:443"),
            ("[fd00::1]:443", "[fd00::1]:443"),
            ("http://172.16.10.1", "http://172.16.10.1:80/"),
            ("http://172.16.10.1:8080/health?a=b", "http://172.16.10.1:8080/health?a=b"),
            ("http://[fd00::1]/x", "http://[fd00::1]:80/x"),
        ] {
            assert_eq!(Probe::parse(text).map(|probe| probe.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in [
            "",
            "host",
            "host:80",
            "https://172.16.10.1/",
            "http://host/",
            "http://172.16.10.1/a b",
            "172.16.10.1/24",
        ] {
            assert_eq!(Probe::parse(text), None, "{text}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_clouds() {
        let tunnel = "health = { target = \"172.16.10.1\", source = \"192.168.0.1\" }";
        let config = parse(&with("", tunnel)).unwrap();
        let connection = &config.connections[0];
        let health = connection.tunnels[0].health.as_ref().unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((health.interval, health.timeout, health.retries), (seconds(3), seconds(1), 3));
        assert!(!health.restart && !connection.balance);
        assert_eq!(connection.failback, Failback::After(seconds(10)));
        let fast =
            with("failback = \"manual\"\nbalance = true", &tunnel.replace(" }", ", interval = \"100ms\" }"));
        let config = parse(&fast).unwrap();
        let health = config.connections[0].tunnels[0].health.clone().unwrap();
        assert_eq!(health.timeout, Duration::from_millis(100), "not longer than the interval");
        assert_eq!((config.connections[0].failback, config.connections[0].balance), (Failback::Manual, true));
    }

    #[test]
    fn the_tunnels_own_address_is_the_source_where_the_networks_have_it() {
        let tunnel = "inside = \"192.168.0.2/30\"\nhealth = { target = \"172.16.10.1\" }";
        let config = parse(&with("", tunnel)).unwrap();
        let source = config.connections[0].tunnels[0].health.as_ref().unwrap().source;
        assert_eq!(source, Some("192.168.0.2".parse().unwrap()));
    }

    #[test]
    fn copies_take_the_check_along_but_not_the_peers_sources() {
        let text = "inside = \"192.168.0.1/30\"\nhealth = { target = \"172.16.10.1\" }\nhealth_sources = \"172.16.0.9\"\n\
                    [connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"\ninside = \"192.168.0.5/30\"";
        let config = parse(&with("", text)).unwrap();
        let [a, b] = &config.connections[0].tunnels[..] else { panic!() };
        let source = |tunnel: &crate::Tunnel| tunnel.health.as_ref().unwrap().source.unwrap().to_string();
        assert_eq!((source(a).as_str(), source(b).as_str()), ("192.168.0.1", "192.168.0.5"));
        assert_eq!((a.health_sources.len(), b.health_sources.len()), (1, 0));
    }

    #[test]
    fn impossible_checks_are_refused_with_the_mend() {
        let tunnel = |health: &str| with("", &format!("health = {{ {health} }}"));
        let (target, source) = ("target = \"172.16.10.1\"", "source = \"192.168.0.1\"");
        for (text, said) in [
            (tunnel(source), "write an address of the far side"),
            (tunnel(target), "write source = an address of this host"),
            (tunnel(&format!("{target}, source = \"10.9.9.9\"")), "inside `local`"),
            (tunnel(&format!("target = \"10.9.9.9\", {source}")), "the far side's networks"),
            (tunnel(&format!("{target}, source = \"fd00::1\"")), "both as IPv4 or both as IPv6"),
            (tunnel(&format!("target = \"host\", {source}")), "names are not taken"),
            (tunnel(&format!("{target}, {source}, interval = \"10ms\"")), "or 100ms to fail over"),
            (tunnel(&format!("{target}, {source}, retries = 0")), "from 1 to 100"),
            (tunnel(&format!("{target}, {source}, action = \"reboot\"")), "\"demote\" or \"restart\""),
            (tunnel(&format!("{target}, {source}, intervall = \"3s\"")), "interval"),
            (
                tunnel(&format!("{target}, {source}"))
                    + "[connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"\n",
                "give each tunnel a `source` of its own",
            ),
            (with("", "health_sources = \"10.9.9.9\""), "add the address to `remote`"),
            (with("failback = \"soon\"", ""), "how long a tunnel must be well again"),
        ] {
            let error = parse(&text).expect_err(&text).render(false);
            let words =
                |text: &str| text.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ");
            assert!(words(&error).contains(said), "{said}: {error}");
        }
    }
}
