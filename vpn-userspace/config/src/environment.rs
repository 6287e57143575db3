//! `[environment.NAME]`: sets of connections that cannot reach each other, and how they are kept apart.

use std::collections::BTreeMap;
use std::ops::Range;

use culvert_ike::EspMode;

use crate::error::Fault;
use crate::file::{RawConnection, RawFile};
use crate::forward;
use crate::limits::{Limits, RawLimits};
use crate::model::Engine;
use crate::port::LanPort;
use crate::section::{At, Section, nearest};

/// The environment of connections that name none: this namespace, its main routing table.
pub const DEFAULT_ENVIRONMENT: &str = "default";

/// The first table that is given to an environment which names none, and how many there are.
const TABLES: std::ops::Range<u32> = 203_000_000..204_000_000;

/// An environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// How it is kept apart from the others.
    pub isolation: Isolation,
    /// A network namespace of the operator's; `None`: one that culvertd makes, if it is to be one.
    pub namespace: Option<String>,
    /// LAN interfaces that belong to it alone.
    pub lan: Vec<String>,
    /// The routing table, where it is one; also the mark of its sockets.
    pub table: u32,
    /// How much there may be in it.
    pub limits: Limits,
}

/// `isolation`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A namespace if the host and its connections allow it, else a table.
    Auto,
    /// A network namespace.
    Namespace,
    /// A routing table.
    Table,
}

impl Environment {
    /// Whether it is this namespace with its main table.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT_ENVIRONMENT
    }
}

/// What was read.
pub(crate) struct RawEnvironment {
    name: At<String>,
    isolation: Option<At<Isolation>>,
    namespace: Option<At<String>>,
    lan: Option<At<Vec<At<String>>>>,
    table: Option<At<u32>>,
    limits: RawLimits,
}

/// Reads the environments.
pub(crate) fn read(top: &mut Section<'_>, faults: &mut Vec<Fault>) -> Vec<RawEnvironment> {
    let sections = top.named(faults, "environment", |name| format!("[environment.{name}]"));
    sections.into_iter().map(|(name, section)| environment(name, section, faults)).collect()
}

fn environment(name: At<String>, mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawEnvironment {
    let words = [("auto", Isolation::Auto), ("namespace", Isolation::Namespace), ("table", Isolation::Table)];
    let interfaces = "the name of an interface or a list of names";
    let whose = format!("environment {}", name.get_ref());
    let raw = RawEnvironment {
        isolation: s.word(faults, "isolation", &words, &[]),
        namespace: s.parsed(faults, "namespace", "the name of a network namespace", namespace),
        lan: s.list(faults, "lan", interfaces, true, crate::file::interface),
        table: s.integer(faults, "table", "the number of a routing table", 1..=u32::MAX),
        limits: RawLimits::read(&mut s, &whose, true, faults),
        name,
    };
    s.finish(faults, &[]);
    raw
}

fn namespace(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let name = *text.get_ref();
    let sound = |c: char| c.is_ascii_graphic() && c != '/';
    if (1..=64).contains(&name.len()) && name.chars().all(sound) && name != "." && name != ".." {
        return Some(name.to_owned());
    }
    faults.push(
        Fault::new(format!("`{}` cannot be the name of a network namespace", name.escape_debug()))
            .at(text.span(), "no name")
            .help("write a name that `ip netns list` shows"),
    );
    None
}

/// The environment that a connection names.
pub(crate) fn name_of(connection: &RawConnection) -> &str {
    connection.environment.as_ref().map_or(DEFAULT_ENVIRONMENT, |name| name.get_ref())
}

/// The environments of the file, and those that only connections name.
pub(crate) fn check(raw: &RawFile, faults: &mut Vec<Fault>) -> Vec<Environment> {
    let all: Vec<&RawConnection> = raw.connections.iter().collect();
    raw.gateway.limits.check("the gateway", &all, faults);
    for connection in &raw.connections {
        let whose = format!("connection {}", connection.name.get_ref());
        connection.limits.check(&whose, &[connection], faults);
        known(raw, connection, faults);
        isolable(raw, connection, faults);
    }
    for environment in &raw.environments {
        let name = environment.name.get_ref();
        let those: Vec<&RawConnection> = all.iter().copied().filter(|c| name_of(c) == name).collect();
        environment.limits.check(&format!("environment {name}"), &those, faults);
        alone(environment, faults);
    }
    apart(raw, faults);
    let mut environments: Vec<Environment> =
        raw.environments.iter().map(RawEnvironment::environment).collect();
    for connection in &raw.connections {
        let name = name_of(connection);
        if name != DEFAULT_ENVIRONMENT && !environments.iter().any(|e| e.name == name) {
            environments.push(Environment {
                name: name.to_owned(),
                isolation: Isolation::Auto,
                namespace: None,
                lan: Vec::new(),
                table: table(name),
                limits: Limits::default(),
            });
        }
    }
    tables_apart(raw, &environments, faults);
    environments
}

impl RawEnvironment {
    fn environment(&self) -> Environment {
        let isolation = match (&self.isolation, &self.namespace, &self.table) {
            (Some(isolation), ..) => *isolation.get_ref(),
            (None, Some(_), _) => Isolation::Namespace,
            (None, None, Some(_)) => Isolation::Table,
            (None, None, None) => Isolation::Auto,
        };
        Environment {
            name: self.name.get_ref().clone(),
            isolation,
            namespace: self.namespace.as_ref().map(|name| name.get_ref().clone()),
            lan: self.lan.iter().flat_map(|lan| lan.get_ref()).map(|name| name.get_ref().clone()).collect(),
            table: self.table.as_ref().map_or_else(|| table(self.name.get_ref()), |table| *table.get_ref()),
            limits: self.limits.limits(),
        }
    }
}

/// The same for a name always, so that what a crash left behind is found again. FNV-1a.
fn table(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    TABLES.start + hash % (TABLES.end - TABLES.start)
}

/// A name that is almost that of another environment is a mistake: it would be one more.
fn known(raw: &RawFile, connection: &RawConnection, faults: &mut Vec<Fault>) {
    let Some(name) = &connection.environment else { return };
    let word = name.get_ref().as_str();
    let declared = || raw.environments.iter().map(|e| e.name.get_ref().as_str());
    if word == DEFAULT_ENVIRONMENT || declared().any(|known| known == word) {
        return;
    }
    if let Some(near) = nearest(word, declared().chain([DEFAULT_ENVIRONMENT])) {
        faults.push(
            Fault::new(format!("there is no environment `{}`", word.escape_debug()))
                .at(name.span(), "not declared")
                .help(format!("did you mean \"{near}\"? Otherwise add [environment.{word}]")),
        );
    }
}

/// Ways of a packet that go past the kernel's routes cannot be kept apart by them.
fn isolable(raw: &RawFile, connection: &RawConnection, faults: &mut Vec<Fault>) {
    let name = name_of(connection);
    if name == DEFAULT_ENVIRONMENT {
        return;
    }
    let why = "not in an environment of its own";
    let fault = |what: &str, span: Range<usize>, help: &str| {
        Fault::new(format!("{what} cannot be in environment `{name}`")).at(span, why).help(help)
    };
    let engine = connection.engine.as_ref().map(|engine| (*engine.get_ref(), engine.span()));
    if let Some((Engine::Bpf, span)) = &engine {
        faults.push(fault(
            "engine `bpf`",
            span.clone(),
            "its packets go past routes and namespaces; set engine = \"user\", or environment = \"default\"",
        ));
    }
    let in_namespace = raw
        .environments
        .iter()
        .find(|e| e.name.get_ref() == name)
        .is_some_and(|e| e.environment().isolation == Isolation::Namespace);
    if let Some((Engine::Xfrm, span)) = &engine
        && in_namespace
    {
        faults.push(fault("engine `xfrm`", span.clone(), "the kernel's SAs stay in the gateway's namespace; set engine = \"user\", or isolation = \"table\" for the environment"));
    }
    if let Some(port) = connection.lan_port.as_ref().filter(|port| *port.get_ref() == LanPort::Xsk) {
        faults.push(fault(
            "lan_port `xsk`",
            port.span(),
            "its packets go past routes and namespaces; set lan_port = \"tun\"",
        ));
    }
    if let Some(span) = connection.small.split() {
        faults.push(fault(
            "latency `split`",
            span,
            "its small packets are the engine's `bpf`; leave latency out",
        ));
    }
    if connection.bgp.dynamic() {
        faults.push(fault(
            "routing by BGP",
            connection.name.span(),
            "its routing daemon is in the default environment; write routing = \"static\", or take `environment` out",
        ));
    }
    if connection.exchange.mode == EspMode::Transport {
        faults.push(fault(
            "transport mode",
            connection.name.span(),
            "it has no interface that could be kept apart; take `environment` out",
        ));
    }
}

/// What one environment says must fit together.
fn alone(environment: &RawEnvironment, faults: &mut Vec<Fault>) {
    let isolation = environment.isolation.as_ref().map(|isolation| *isolation.get_ref());
    if environment.name.get_ref() == DEFAULT_ENVIRONMENT {
        let keys = [
            environment.isolation.as_ref().map(|i| ("isolation", i.span())),
            environment.namespace.as_ref().map(|n| ("namespace", n.span())),
            environment.lan.as_ref().map(|l| ("lan", l.span())),
            environment.table.as_ref().map(|t| ("table", t.span())),
        ];
        for (key, span) in keys.into_iter().flatten() {
            faults.push(
                Fault::new(format!("environment `default` has no `{key}`"))
                    .at(span, "the gateway's own")
                    .help(
                        "it is the namespace of culvertd with its main table; its LAN is `lan` in [gateway]",
                    ),
            );
        }
    }
    let other = |key: &str, span: Range<usize>, word: &str| {
        Fault::new(format!("`{key}` and isolation = \"{word}\" contradict each other"))
            .at(span, format!("not with {word}"))
            .help("take one of the two out")
    };
    match (isolation, &environment.namespace, &environment.table) {
        (Some(Isolation::Table), Some(namespace), _) => {
            faults.push(other("namespace", namespace.span(), "table"))
        }
        (Some(Isolation::Namespace), _, Some(table)) => {
            faults.push(other("table", table.span(), "namespace"))
        }
        (None, Some(_), Some(table)) => faults.push(other("table", table.span(), "namespace")),
        _ => {}
    }
    if let Some(table) = &environment.table
        && matches!(*table.get_ref(), 253..=255)
    {
        faults.push(
            Fault::new(format!("table {} is the kernel's own", table.get_ref()))
                .at(table.span(), "default, main or local")
                .help("write another number, such as 1001"),
        );
    }
}

/// No interface and no namespace in two environments.
fn apart(raw: &RawFile, faults: &mut Vec<Fault>) {
    let mut seen: BTreeMap<&str, (String, Range<usize>)> = BTreeMap::new();
    for (key, list) in [("wan", &raw.gateway.wan), ("lan", &raw.gateway.lan)] {
        for name in list.iter().flat_map(|list| list.get_ref()) {
            seen.entry(name.get_ref()).or_insert_with(|| (format!("`{key}` of [gateway]"), name.span()));
        }
    }
    let mut namespaces: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    for environment in &raw.environments {
        for name in environment.lan.iter().flat_map(|lan| lan.get_ref()) {
            if let Some((other, span)) = seen.get(name.get_ref().as_str()) {
                faults.push(
                    Fault::new(format!("interface {} is in two environments", name.get_ref()))
                        .at(name.span(), "used again")
                        .at(span.clone(), format!("in {other}"))
                        .help("an interface belongs to one environment: take it out of the other"),
                );
            }
            let of = format!("environment {}", environment.name.get_ref());
            seen.entry(name.get_ref()).or_insert_with(|| (of, name.span()));
        }
        if let Some(namespace) = &environment.namespace {
            if let Some(span) = namespaces.get(namespace.get_ref().as_str()) {
                faults.push(
                    Fault::new(format!("two environments have the namespace {}", namespace.get_ref()))
                        .at(namespace.span(), "used again")
                        .at(span.clone(), "used here")
                        .help("give each environment a namespace of its own, or leave `namespace` out"),
                );
            }
            namespaces.insert(namespace.get_ref(), namespace.span());
        }
    }
}

fn tables_apart(raw: &RawFile, environments: &[Environment], faults: &mut Vec<Fault>) {
    let mut seen: BTreeMap<u32, &str> = BTreeMap::new();
    for environment in environments.iter().filter(|e| !e.is_default()) {
        let Some(other) = seen.insert(environment.table, &environment.name) else { continue };
        let declared = raw.environments.iter().find(|e| *e.name.get_ref() == environment.name);
        let span = declared.map_or(0..0, |e| e.table.as_ref().map_or(e.name.span(), At::span));
        faults.push(
            Fault::new(format!("environments `{other}` and `{}` have the same table", environment.name))
                .at(span, format!("table {}", environment.table))
                .help("give each a `table` of its own, such as 1001"),
        );
    }
}

/// Forwards of one environment listen each at a place of its own.
pub(crate) fn listeners_apart(raw: &RawFile, environments: &[Environment], faults: &mut Vec<Fault>) {
    let named = environments.iter().filter(|e| !e.is_default()).map(|e| e.name.as_str());
    for name in named.chain([DEFAULT_ENVIRONMENT]) {
        let those = raw.connections.iter().filter(|c| name_of(c) == name);
        let forwards = those.flat_map(|c| c.forwards.iter().map(|f| (c.name.get_ref().as_str(), f)));
        forward::listeners_apart(forwards, faults);
    }
}

/// A name as it stands in `environment = "NAME"`.
pub(crate) fn read_name(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Option<At<String>> {
    s.parsed(faults, "environment", "the name of an environment", |text, faults| {
        match crate::section::check_name("environment", text.get_ref(), text.span()) {
            Ok(()) => Some((*text.get_ref()).to_owned()),
            Err(fault) => {
                faults.push(fault);
                None
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{parse, with};

    const OTHER: &str = "[connection.d]\nlocal = [\"192.168.0.0/24\"]\nremote = [\"172.16.0.0/16\"]\nenvironment = \"beta\"\n\
        [connection.d.tunnel.a]\nremote_address = \"203.0.113.9\"\npsk_file = \"good.psk\"\n";

    /// Connection `c` in environment `alpha` and `d` with the same networks in `beta`.
    fn two(sections: &str) -> String {
        format!("{}{OTHER}{sections}", with("environment = \"alpha\"", ""))
    }

    fn refused(text: &str, said: &str) {
        let error = parse(text).expect_err(said).render(false);
        let words = error.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ");
        assert!(words.contains(said), "{said}: {error}");
    }

    #[test]
    fn the_same_networks_may_be_in_two_environments_and_not_in_one() {
        let config = parse(&two("")).unwrap();
        let names: Vec<&str> = config.environments.iter().map(|e| e.name.as_str()).collect();
        assert_eq!((names, config.connections[1].environment.as_str()), (vec!["alpha", "beta"], "beta"));
        assert!(config.environments.iter().all(|e| TABLES.contains(&e.table)));
        assert_ne!(config.environments[0].table, config.environments[1].table);
        refused(&two("").replace("\"beta\"", "\"alpha\""), "overlaps 172.16.0.0/16 of connection `c`");
    }

    #[test]
    fn all_keys_and_what_follows_from_them() {
        let all = "[environment.alpha]\nlan = \"eth2\"\ntable = 1001\nlimits = { connections = 1, tunnels = 2, forwards = 3, forward_connections = 4 }\n\
                   [environment.beta]\nnamespace = \"blue\"\nlan = [\"eth3\", \"eth4\"]\n";
        let config = parse(&two(all)).unwrap();
        let [alpha, beta] = &config.environments[..] else { panic!() };
        assert_eq!(
            (alpha.isolation, alpha.table, &alpha.lan[..]),
            (Isolation::Table, 1001, &["eth2".to_owned()][..])
        );
        assert_eq!(alpha.limits.forward_connections, Some(4));
        assert_eq!((beta.isolation, beta.namespace.as_deref()), (Isolation::Namespace, Some("blue")));
    }

    #[test]
    fn what_cannot_be_kept_apart_is_refused_with_the_mend() {
        let in_alpha = |keys: &str| with(&format!("environment = \"alpha\"\n{keys}"), "");
        for (text, said) in [
            (two("[environment.alpha]\nlan = \"eth0\""), "in `wan` of [gateway]"),
            (
                two("[environment.alpha]\nlan = \"eth2\"\n[environment.beta]\nlan = \"eth2\""),
                "in environment alpha",
            ),
            (two("[environment.alpha]\ntable = 254"), "the kernel's own"),
            (two("[environment.alpha]\ntable = 7\n[environment.beta]\ntable = 7"), "have the same table"),
            (two("[environment.alpha]\nisolation = \"table\"\nnamespace = \"x\""), "contradict each other"),
            (
                two("[environment.alpha]\nnamespace = \"x\"\n[environment.beta]\nnamespace = \"x\""),
                "a namespace of its own",
            ),
            (two("[environment.alpha]\nnamespace = \"a/b\""), "cannot be the name of a network namespace"),
            (two("[environment.alpha]\nisolation = \"vrf\""), "\"auto\", \"namespace\" or \"table\""),
            (two("[environment.betta]\n"), "did you mean \"betta\"?"),
            (two("[environment.default]\nlan = \"eth2\""), "its LAN is `lan` in [gateway]"),
            (
                in_alpha("engine = \"bpf\"\nesp = { proposals = [\"chacha20poly1305-curve25519\"] }"),
                "go past routes",
            ),
            (in_alpha("lan_port = \"xsk\""), "set lan_port = \"tun\""),
            (
                in_alpha("engine = \"xfrm\"") + "[environment.alpha]\nisolation = \"namespace\"\n",
                "isolation = \"table\" for the environment",
            ),
            (with("environment = \"a b\"", ""), "has ` `"),
        ] {
            refused(&text, said);
        }
        assert!(parse(&in_alpha("engine = \"xfrm\"")).is_ok(), "in a table the kernel serves");
    }

    #[test]
    fn limits_are_refused_by_name() {
        let forward = |n| {
            format!("[connection.c.forward.f{n}]\nlisten = \"127.0.0.1:3300{n}\"\nto = \"172.16.0.1:80\"\n")
        };
        let forwards = forward(1) + &forward(2);
        let base = |limits: &str| with(limits, "") + &forwards;
        for (text, said) in [
            (base("limits = { forwards = 1 }"), "limit forwards of connection c is 1: 2 are configured"),
            (base("limits = { tunnels = 0 }"), "limit tunnels of connection c is 0: 1 are configured"),
            (base("limits = { connections = 1 }"), "has no key `connections`"),
            (base("limits = { bandwidth = \"20Mbit\" }"), "not in this version"),
            (base("limits = { bandwidth = \"20 parsec\" }"), "is no bandwidth"),
            (base("limits = { bandwidth = \"1kbit\" }"), "is no bandwidth"),
            (
                base("environment = \"alpha\"") + "[environment.alpha]\nlimits = { forwards = 1 }\n",
                "limit forwards of environment alpha is 1: 2 are configured",
            ),
            (
                two(
                    "[environment.default]\nlimits = { connections = 0 }\n[environment.alpha]\nlimits = { connections = 0 }",
                ),
                "limit connections of environment alpha is 0: 1 are configured",
            ),
            (
                two("").replace("wan = ", "limits = { connections = 1 }\nwan = "),
                "limit connections of the gateway is 1: 2 are configured",
            ),
        ] {
            refused(&text, said);
        }
        let config = parse(&base("limits = { forwards = 2, forward_connections = 5 }")).unwrap();
        let limits = &config.connections[0].limits;
        assert_eq!((limits.forwards, limits.forward_connections), (Some(2), Some(5)));
    }
}
