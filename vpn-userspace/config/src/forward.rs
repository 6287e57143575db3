//! `[connection.NAME.forward.NAME]`: addresses of this side that lead to addresses of the far side.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::duration;
use crate::error::Fault;
use crate::remote::is_host_name;
use crate::section::{At, Section};

const MOST: u32 = 1000;
const IDLE_TCP: Duration = Duration::from_secs(3600);
const IDLE_UDP: Duration = Duration::from_secs(60);

/// A forward, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// Datagrams, and not connections.
    pub udp: bool,
    /// Where clients come to.
    pub listen: SocketAddr,
    /// Where it leads: an address, or a name that is resolved when a client comes.
    pub to: ForwardTo,
    /// The address of this host that the far side sees; `None`: one that is inside `local`.
    pub source: Option<IpAddr>,
    /// From where clients may come; empty: from anywhere.
    pub allow: Vec<IpNet>,
    /// Clients at once.
    pub most: usize,
    /// A client that is silent for so long is forgotten.
    pub idle: Duration,
}

/// Where a forward leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardTo {
    /// There.
    Address(SocketAddr),
    /// To this host and port.
    Name(String, u16),
}

/// What was read.
pub(crate) struct RawForward {
    name: At<String>,
    listen: Option<At<SocketAddr>>,
    to: Option<At<ForwardTo>>,
    udp: Option<At<bool>>,
    source: Option<At<IpAddr>>,
    allow: Option<At<Vec<At<IpNet>>>>,
    most: Option<At<u32>>,
    idle: Option<At<Duration>>,
    faulty: bool,
}

/// Reads the forwards of a connection.
pub(crate) fn read(s: &mut Section<'_>, connection: &str, faults: &mut Vec<Fault>) -> Vec<RawForward> {
    let title = |name: &str| format!("[connection.{connection}.forward.{name}]");
    let sections = s.named(faults, "forward", title);
    sections.into_iter().map(|(name, section)| forward(name, section, faults)).collect()
}

fn forward(name: At<String>, mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawForward {
    let before = faults.len();
    let mut raw = RawForward {
        name,
        listen: s.parsed(faults, "listen", "an address with a port", |text, faults| {
            let parsed = text.get_ref().parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
            if parsed.is_none() {
                faults.push(
                    Fault::new("`listen` must be an address of this host with a port")
                        .at(text.span(), "not understood")
                        .help("write \"127.0.0.1:33000\" for clients on this host, or an address of the LAN"),
                );
            }
            parsed
        }),
        to: s.parsed(faults, "to", "an address or a name with a port", destination),
        udp: s.word(faults, "protocol", &[("tcp", false), ("udp", true)], &[]),
        source: s.parsed(faults, "source", "an address of this host", |text, faults| {
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
        allow: s.list(
            faults,
            "allow",
            "a list of networks such as [\"10.0.0.0/8\"]",
            true,
            |text, faults| {
                let word = *text.get_ref();
                let net = word.parse::<IpAddr>().map(IpNet::from);
                let net = net.or_else(|_| word.parse::<IpNet>().map(|net| net.trunc())).ok();
                if net.is_none() {
                    faults.push(
                        Fault::new(format!("\"{}\" is no network", word.escape_debug()))
                            .at(text.span(), "not understood")
                            .help("write an address or a network such as \"10.0.0.0/8\""),
                    );
                }
                net
            },
        ),
        most: s.integer(faults, "connections", "a number of clients at once", 1..=1_000_000),
        idle: s.parsed(faults, "idle", "a duration such as \"1h\"", |text, faults| {
            let fits = |idle: &Duration| (1..=7 * 86_400).contains(&idle.as_secs());
            let parsed = duration::parse(text.get_ref()).filter(fits);
            if parsed.is_none() {
                faults.push(
                    Fault::new("`idle` must be a duration from 1s to 7d")
                        .at(text.span(), "not understood")
                        .help("usual are \"1h\" for TCP and \"60s\" for UDP"),
                );
            }
            parsed
        }),
        faulty: false,
    };
    if raw.listen.is_none() && faults.len() == before {
        faults.push(s.missing("listen", "write where clients come to: listen = \"127.0.0.1:33000\""));
    }
    if raw.to.is_none() && faults.len() == before {
        faults.push(s.missing("to", "write where it leads: to = \"172.16.100.30:8080\""));
    }
    raw.faulty = faults.len() > before;
    s.finish(faults, &[]);
    raw
}

fn destination(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<ForwardTo> {
    let word = *text.get_ref();
    if let Ok(address) = word.parse::<SocketAddr>()
        && address.port() != 0
    {
        return Some(ForwardTo::Address(address));
    }
    let named = word.rsplit_once(':').and_then(|(name, port)| {
        let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
        (name.parse::<IpAddr>().is_err() && is_host_name(name))
            .then(|| ForwardTo::Name(name.to_owned(), port))
    });
    if named.is_none() {
        faults.push(
            Fault::new("`to` must be an address or a name of the far side with a port")
                .at(text.span(), "not understood")
                .help("write \"172.16.100.30:8080\" or \"intranet.example:80\""),
        );
    }
    named
}

/// What all forwards say together with the networks of their connection.
pub(crate) fn check(
    raw: Vec<RawForward>,
    (local, remote): (Option<&[IpNet]>, &[IpNet]),
    faults: &mut Vec<Fault>,
) -> Vec<Forward> {
    raw.into_iter().filter_map(|forward| forward.check(local, remote, faults)).collect()
}

/// No two forwards may listen at one place, whoever's they are.
pub(crate) fn listeners_apart<'a>(
    all: impl Iterator<Item = (&'a str, &'a RawForward)>,
    faults: &mut Vec<Fault>,
) {
    let mut seen: Vec<(SocketAddr, bool, String, std::ops::Range<usize>)> = Vec::new();
    for (connection, raw) in all {
        let Some(listen) = &raw.listen else { continue };
        let address = *listen.get_ref();
        let udp = raw.udp.as_ref().is_some_and(|udp| *udp.get_ref());
        let same = |a: &SocketAddr| {
            let either = a.ip().is_unspecified() || address.ip().is_unspecified();
            a.port() == address.port()
                && (a.ip() == address.ip() || either && a.is_ipv4() == address.is_ipv4())
        };
        if let Some((_, _, other, span)) = seen.iter().find(|(a, u, ..)| *u == udp && same(a)) {
            faults.push(
                Fault::new(format!("forward `{}` listens where forward `{other}` does", raw.name.get_ref()))
                    .at(listen.span(), "taken")
                    .at(span.clone(), "by this one")
                    .help("give each forward a port of its own"),
            );
        }
        seen.push((address, udp, format!("{connection}/{}", raw.name.get_ref()), listen.span()));
    }
}

impl RawForward {
    /// Where it stands in the file.
    pub(crate) fn place(&self) -> std::ops::Range<usize> {
        self.name.span()
    }

    fn check(self, local: Option<&[IpNet]>, remote: &[IpNet], faults: &mut Vec<Fault>) -> Option<Forward> {
        if self.faulty {
            return None;
        }
        let (Some(listen), Some(to)) = (self.listen, self.to) else { return None };
        let udp = self.udp.is_some_and(At::into_inner);
        if udp && listen.get_ref().ip().is_unspecified() {
            faults.push(
                Fault::new("a UDP forward cannot listen on every address at once")
                    .at(listen.span(), "answers must come from one address")
                    .help("write the address that clients send to; for several addresses several forwards"),
            );
        }
        if let ForwardTo::Address(address) = to.get_ref()
            && !remote.iter().any(|net| net.contains(&address.ip()))
        {
            faults.push(
                Fault::new(format!("{} is not behind this connection", address.ip()))
                    .at(to.span(), "not inside `remote`")
                    .help("write an address of the far side's networks, or move the forward to the connection that has it"),
            );
        }
        if let (Some(source), Some(local)) = (&self.source, local)
            && !local.iter().any(|net| net.contains(source.get_ref()))
        {
            faults.push(
                Fault::new(format!("the source {} is outside of `local`", source.get_ref()))
                    .at(source.span(), "the peer would drop it")
                    .help("write an address of this host that is inside `local`, or leave it out"),
            );
        }
        Some(Forward {
            name: self.name.into_inner(),
            udp,
            listen: listen.into_inner(),
            to: to.into_inner(),
            source: self.source.map(At::into_inner),
            allow: self.allow.into_iter().flat_map(At::into_inner).map(At::into_inner).collect(),
            most: self.most.map_or(MOST, At::into_inner) as usize,
            idle: self.idle.map_or(if udp { IDLE_UDP } else { IDLE_TCP }, At::into_inner),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{parse, with};

    fn file(keys: &str) -> String {
        with("", &format!("[connection.c.forward.hello]\n{keys}"))
    }

    const GOOD: &str = "listen = \"127.0.0.1:33000\"\nto = \"172.16.100.30:8080\"\n";

    #[test]
    fn defaults_and_all_keys() {
        let config = parse(&file(GOOD)).unwrap();
        let [forward] = &config.connections[0].forwards[..] else { panic!() };
        assert_eq!((forward.udp, forward.most, forward.idle), (false, 1000, Duration::from_secs(3600)));
        let all = "listen = \"[::1]:53\"\nto = \"ns.example:53\"\nprotocol = \"udp\"\nsource = \"192.168.0.1\"\n\
                   allow = [\"10.0.0.0/8\", \"192.0.2.1\"]\nconnections = 7\nidle = \"10s\"";
        let config = parse(&file(all)).unwrap();
        let forward = config.connections[0].forwards[0].clone();
        assert_eq!(forward.to, ForwardTo::Name("ns.example".into(), 53));
        assert_eq!((forward.udp, forward.most, forward.allow.len()), (true, 7, 2));
        let idle = parse(&file(&all.replace("idle = \"10s\"", ""))).unwrap();
        assert_eq!(idle.connections[0].forwards[0].idle, Duration::from_secs(60));
    }

    #[test]
    fn impossible_forwards_are_refused_with_the_mend() {
        for (keys, said) in [
            ("to = \"172.16.0.1:80\"", "write where clients come to"),
            ("listen = \"127.0.0.1:33000\"", "write where it leads"),
            (&*GOOD.replace("127.0.0.1:33000", "33000"), "for clients on this host"),
            (&*GOOD.replace("127.0.0.1:33000", "127.0.0.1:0"), "for clients on this host"),
            (&*GOOD.replace("172.16.100.30:8080", "172.16.100.30"), "intranet.example:80"),
            (&*GOOD.replace("172.16.", "172.99."), "not inside `remote`"),
            (&*format!("{GOOD}source = \"10.0.0.1\""), "inside `local`, or leave it out"),
            (&*format!("{GOOD}protocol = \"sctp\""), "\"tcp\" or \"udp\""),
            (&*format!("{GOOD}idle = \"0s\""), "from 1s to 7d"),
            (&*format!("{GOOD}limit = 5"), "its keys are"),
            (
                &*format!("{}protocol = \"udp\"", GOOD.replace("127.0.0.1", "0.0.0.0")),
                "the address that clients send to",
            ),
            (
                &*format!("{GOOD}[connection.c.forward.too]\n{}", GOOD.replace("127.0.0.1", "0.0.0.0")),
                "a port of its own",
            ),
        ] {
            let error = parse(&file(keys)).expect_err(keys).render(false);
            let words =
                |text: &str| text.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ");
            assert!(words(&error).contains(said), "{said}: {error}");
        }
        // The same port of the other protocol is another place.
        let both = format!("{GOOD}[connection.c.forward.too]\n{GOOD}protocol = \"udp\"");
        assert_eq!(parse(&file(&both)).unwrap().connections[0].forwards.len(), 2);
    }
}
