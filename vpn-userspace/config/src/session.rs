//! The keys that say how IKE SAs begin and end: `reauth` and `unique` of `ike`, inner addresses of a tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use culvert_ike::{Addresses, Pool, Unique};
use ipnet::IpNet;

use crate::error::Fault;
use crate::file::{self, RawConnection};
use crate::section::{At, Section};

/// `reauth` and `unique`.
#[derive(Default)]
pub(crate) struct RawSession {
    /// `None`: as often as the IKE SA's lifetime says.
    reauth: Option<At<Option<Duration>>>,
    unique: Option<At<Unique>>,
}

impl RawSession {
    pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Self {
        let words = [("replace", Unique::Replace), ("keep", Unique::Keep), ("never", Unique::Never)];
        let reauth = if s.holds_boolean("reauth") {
            let flag = s.boolean(faults, "reauth");
            flag.filter(|f| *f.get_ref()).map(|f| At::new(f.span(), None))
        } else {
            let after = s.parsed(faults, "reauth", "true or a duration such as \"24h\"", file::a_duration);
            after.map(|after| At::new(after.span(), Some(after.into_inner())))
        };
        Self { reauth, unique: s.word(faults, "unique", &words, &[]) }
    }

    /// Where `reauth` stands, if it does.
    pub(crate) fn reauth_span(&self) -> Option<std::ops::Range<usize>> {
        self.reauth.as_ref().map(At::span)
    }

    /// When to authenticate anew, and what of a second IKE SA.
    pub(crate) fn check(self, lifetime: Duration, faults: &mut Vec<Fault>) -> (Option<Duration>, Unique) {
        let reauth = self.reauth.map(|reauth| {
            let after = reauth.get_ref().unwrap_or(lifetime);
            if after < Duration::from_secs(60) {
                faults.push(
                    Fault::new("`reauth` is below 60s")
                        .at(reauth.span(), "below 60s")
                        .help("authenticating takes time: write 60s or more; usual is 24h"),
                );
            }
            after
        });
        (reauth, self.unique.map(At::into_inner).unwrap_or_default())
    }
}

/// `virtual_ip`, or `pool`, `dns` and `dns_domains`.
#[derive(Clone, Default)]
pub(crate) struct RawAddresses {
    request: Option<At<Vec<IpAddr>>>,
    pool: Option<At<Vec<At<IpNet>>>>,
    dns: Option<At<Vec<At<IpAddr>>>>,
    domains: Option<At<Vec<At<String>>>>,
}

impl RawAddresses {
    pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Self {
        let any4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let request = if s.holds_boolean("virtual_ip") {
            let flag = s.boolean(faults, "virtual_ip");
            flag.filter(|f| *f.get_ref()).map(|f| At::new(f.span(), vec![any4]))
        } else {
            let what = "true, or addresses such as [\"0.0.0.0\", \"::\"]";
            let list = s.list(faults, "virtual_ip", what, true, an_address);
            list.map(|list| {
                let span = list.span();
                let wanted: Vec<IpAddr> = list.into_inner().into_iter().map(At::into_inner).collect();
                if [false, true]
                    .into_iter()
                    .any(|six| wanted.iter().filter(|w| w.is_ipv6() == six).count() > 1)
                {
                    faults.push(
                        Fault::new("`virtual_ip` asks for two addresses of one family")
                            .at(span.clone(), "one IPv4 and one IPv6 at most")
                            .help("write [\"0.0.0.0\", \"::\"] for any address of either family"),
                    );
                }
                At::new(span, wanted)
            })
        };
        let raw = Self {
            request,
            pool: s.list(
                faults,
                "pool",
                "a network such as \"10.9.0.0/24\" or a list of them",
                true,
                file::network,
            ),
            dns: s.list(
                faults,
                "dns",
                "an address such as \"10.1.0.53\" or a list of them",
                true,
                an_address,
            ),
            domains: s.list(
                faults,
                "dns_domains",
                "a domain such as \"corp.example\" or a list of them",
                true,
                domain,
            ),
        };
        raw.refuse(faults);
        raw
    }

    fn refuse(&self, faults: &mut Vec<Fault>) {
        if let (Some(request), Some(pool)) = (&self.request, &self.pool) {
            faults.push(
                Fault::new("a tunnel asks for an address or hands one out, not both")
                    .at(request.span(), "asks")
                    .at(pool.span(), "hands out")
                    .help("take one of them out"),
            );
        }
        for (key, span) in
            [("dns", self.dns.as_ref().map(At::span)), ("dns_domains", self.domains.as_ref().map(At::span))]
        {
            if let (Some(span), None) = (span, &self.pool) {
                faults.push(
                    Fault::new(format!("`{key}` is told to peers that get their address here"))
                        .at(span, "without `pool`, told to nobody")
                        .help("add pool = [\"10.9.0.0/24\"], or take it out"),
                );
            }
        }
    }

    pub(crate) fn fill(&mut self, other: &Self) {
        if self.request.is_none() && self.pool.is_none() {
            self.clone_from(other);
        }
    }

    /// Whether peers get their address here.
    pub(crate) fn hands_out(&self) -> bool {
        self.pool.is_some()
    }

    /// Whether this side has the address that it gets and no networks of its own.
    pub(crate) fn asks(&self) -> bool {
        self.request.is_some()
    }

    pub(crate) fn check(self, remote: &[At<IpNet>], faults: &mut Vec<Fault>) -> Addresses {
        if let Some(request) = self.request {
            return Addresses::Request(request.into_inner());
        }
        let Some(pool) = self.pool else { return Addresses::Own };
        for net in pool.get_ref() {
            if !remote.iter().any(|r| r.get_ref().contains(net.get_ref())) {
                faults.push(
                    Fault::new(format!("the pool {} is not in `remote`", net.get_ref()))
                        .at(net.span(), "no route leads to these peers")
                        .help(format!("add \"{}\" to `remote` of the connection", net.get_ref())),
                );
            }
        }
        fn plain<T>(list: At<Vec<At<T>>>) -> Vec<T> {
            list.into_inner().into_iter().map(At::into_inner).collect()
        }
        Addresses::Pool(Pool {
            nets: plain(pool),
            dns: self.dns.map(plain).unwrap_or_default(),
            domains: self.domains.map(plain).unwrap_or_default(),
        })
    }
}

fn an_address(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<IpAddr> {
    let parsed = text.get_ref().parse();
    if parsed.is_err() {
        faults.push(
            Fault::new(format!("`{}` is no address", text.get_ref().escape_debug()))
                .at(text.span(), "no address")
                .help("write an address without a prefix length; \"0.0.0.0\" or \"::\" for any, \"10.9.0.7\" as a wish"),
        );
    }
    parsed.ok()
}

fn domain(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text_ok = (1..=253).contains(&text.get_ref().len()) && text.get_ref().chars().all(name);
    if !text_ok {
        faults.push(
            Fault::new(format!("`{}` is no domain", text.get_ref().escape_debug()))
                .at(text.span(), "no domain")
                .help("write a name such as \"corp.example\""),
        );
    }
    text_ok.then(|| (*text.get_ref()).to_owned())
}

/// Any address of the families that are asked for: what a client offers before it knows what it gets.
pub(crate) fn any_of(addresses: &Addresses) -> Vec<IpNet> {
    let Addresses::Request(wanted) = addresses else { return Vec::new() };
    wanted
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(_) => IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok(),
            IpAddr::V6(_) => IpNet::new(Ipv6Addr::UNSPECIFIED.into(), 0).ok(),
        })
        .collect()
}

/// Networks of this side have no place behind an address that the peer gives.
pub(crate) fn asks_for_all(raw: &RawConnection, faults: &mut Vec<Fault>) {
    let asks = raw.tunnels.iter().any(|t| t.addresses.asks());
    if let (true, Some(local)) = (asks, &raw.local) {
        faults.push(
            Fault::new("`local` has no meaning with `virtual_ip`")
                .at(local.span(), "not reachable by the peer")
                .help("take `local` out: this side has the address that the peer gives it"),
        );
    }
}
