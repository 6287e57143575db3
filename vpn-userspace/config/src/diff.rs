//! What a reload changes: two configurations in, a list of differences out.

use std::fmt;

use crate::environment::Environment;
use crate::model::{Config, Connection, LocalProof, RemoteProof, Tunnel};

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What differs.
    pub subject: Subject,
    /// How.
    pub kind: Kind,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// `[gateway]`
    Gateway,
    /// `[log]`
    Log,
    /// One environment; a change of it touches every connection in it.
    Environment(String),
    /// A connection; a change of it touches every tunnel of it.
    Connection(String),
    /// One tunnel: connection, tunnel.
    Tunnel(String, String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Log => f.write_str("log"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Connection(name) => write!(f, "connection {name}"),
            Self::Tunnel(connection, name) => write!(f, "tunnel {connection}/{name}"),
        }
    }
}

/// How a subject differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Only the new configuration has it. For a connection: with all its tunnels, which are not listed again.
    Added,
    /// Only the old configuration has it. For a connection: with all its tunnels, which are not listed again.
    Removed,
    /// Both have it.
    Changed {
        /// The keys that differ, as in the file (`ike.lifetime`).
        keys: Vec<&'static str>,
        /// What it takes.
        effect: Effect,
    },
}

/// What it takes to apply a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: SAs stay.
    Live,
    /// SAs are negotiated anew.
    Renegotiate,
    /// culvertd must restart.
    Restart,
}

impl Change {
    /// What it takes to apply the change; additions and removals touch nothing else.
    pub fn effect(&self) -> Effect {
        match &self.kind {
            Kind::Changed { effect, .. } => *effect,
            Kind::Added | Kind::Removed => Effect::Live,
        }
    }

    /// The keys that differ.
    pub fn keys(&self) -> &[&'static str] {
        match &self.kind {
            Kind::Changed { keys, .. } => keys,
            Kind::Added | Kind::Removed => &[],
        }
    }
}

impl Config {
    /// What differs from `old` to `new`: gateway and log first, then removals, additions and changes in
    /// the order of the files. Empty when both say the same.
    pub fn diff(old: &Self, new: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut gateway = Keys::default();
        gateway.compare("wan", &old.gateway.wan, &new.gateway.wan, Effect::Restart);
        gateway.compare("lan", &old.gateway.lan, &new.gateway.lan, Effect::Restart);
        gateway.compare("guard", &old.gateway.guard, &new.gateway.guard, Effect::Restart);
        gateway.compare("attach", &old.gateway.attach, &new.gateway.attach, Effect::Restart);
        gateway.compare(
            "control_socket",
            &old.gateway.control_socket,
            &new.gateway.control_socket,
            Effect::Restart,
        );
        gateway.compare("workers", &old.gateway.workers, &new.gateway.workers, Effect::Restart);
        let (before, after) = (&old.gateway.dataplane, &new.gateway.dataplane);
        gateway.compare("latency", &before.latency, &after.latency, Effect::Restart);
        gateway.compare("bpf_hook", &before.bpf_hook, &after.bpf_hook, Effect::Restart);
        gateway.compare("steer", &before.steer, &after.steer, Effect::Restart);
        gateway.compare("offload", &before.offload, &after.offload, Effect::Restart);
        gateway.compare("ike_port", &old.gateway.ike_port, &new.gateway.ike_port, Effect::Restart);
        gateway.compare("natt_port", &old.gateway.natt_port, &new.gateway.natt_port, Effect::Restart);
        let (before, after) = (&old.gateway.bgp, &new.gateway.bgp);
        gateway.compare("asn", &before.asn, &after.asn, Effect::Live);
        gateway.compare("router_id", &before.router_id, &after.router_id, Effect::Live);
        gateway.compare("bgp_daemon", &before.daemon, &after.daemon, Effect::Live);
        gateway.compare("limits", &old.gateway.limits, &new.gateway.limits, Effect::Live);
        gateway.finish(Subject::Gateway, &mut changes);

        let mut log = Keys::default();
        log.compare("level", &old.log.level, &new.log.level, Effect::Live);
        log.compare("format", &old.log.format, &new.log.format, Effect::Restart);
        log.compare("ike_secrets", &old.log.ike_secrets, &new.log.ike_secrets, Effect::Restart);
        log.finish(Subject::Log, &mut changes);
        diff_environments(old, new, &mut changes);

        let mut notices = Keys::default();
        notices.compare("notice", &old.notices, &new.notices, Effect::Live);
        notices.finish(Subject::Gateway, &mut changes);

        for connection in &old.connections {
            match new.connection(&connection.name) {
                None => changes.push(Change {
                    subject: Subject::Connection(connection.name.clone()),
                    kind: Kind::Removed,
                }),
                Some(after) => {
                    for tunnel in connection.tunnels.iter().filter(|t| after.tunnel(&t.name).is_none()) {
                        let subject = Subject::Tunnel(connection.name.clone(), tunnel.name.clone());
                        changes.push(Change { subject, kind: Kind::Removed });
                    }
                }
            }
        }
        for connection in &new.connections {
            match old.connection(&connection.name) {
                None => changes.push(Change {
                    subject: Subject::Connection(connection.name.clone()),
                    kind: Kind::Added,
                }),
                Some(before) => diff_connection(before, connection, &mut changes),
            }
        }
        changes
    }
}

fn diff_environments(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let subject = |e: &Environment| Subject::Environment(e.name.clone());
    for gone in old.environments.iter().filter(|e| new.environment(&e.name).is_none()) {
        changes.push(Change { subject: subject(gone), kind: Kind::Removed });
    }
    for environment in &new.environments {
        let Some(before) = old.environment(&environment.name) else {
            changes.push(Change { subject: subject(environment), kind: Kind::Added });
            continue;
        };
        let mut keys = Keys::default();
        keys.compare("isolation", &before.isolation, &environment.isolation, Effect::Renegotiate);
        keys.compare("namespace", &before.namespace, &environment.namespace, Effect::Renegotiate);
        keys.compare("lan", &before.lan, &environment.lan, Effect::Renegotiate);
        keys.compare("table", &before.table, &environment.table, Effect::Renegotiate);
        keys.compare("limits", &before.limits, &environment.limits, Effect::Live);
        keys.finish(subject(environment), changes);
    }
}

fn diff_connection(old: &Connection, new: &Connection, changes: &mut Vec<Change>) {
    let mut keys = Keys::default();
    keys.compare("environment", &old.environment, &new.environment, Effect::Renegotiate);
    keys.compare("limits", &old.limits, &new.limits, Effect::Live);
    keys.compare("routing", &old.bgp.is_some(), &new.bgp.is_some(), Effect::Renegotiate);
    keys.compare("bgp", &old.bgp, &new.bgp, Effect::Live);
    // With BGP a peer is asked for every address, whatever the networks are; else child SAs follow by rekeying. But an
    // interface that is to carry IPv6 too needs another MTU.
    let ipv6 = |c: &Connection| c.remote.iter().any(|net| net.addr().is_ipv6());
    let follows = match (&old.bgp, &new.bgp) {
        (Some(_), Some(_)) => old.asks() == new.asks(),
        (None, None) => ipv6(old) == ipv6(new),
        _ => false,
    };
    let networks = if follows { Effect::Live } else { Effect::Renegotiate };
    keys.compare("local", &old.local, &new.local, networks);
    keys.compare("remote", &old.remote, &new.remote, networks);
    keys.compare("start", &old.start, &new.start, Effect::Live);
    keys.compare("engine", &old.engine, &new.engine, Effect::Renegotiate);
    keys.compare("wan_port", &old.wan_port, &new.wan_port, Effect::Renegotiate);
    keys.compare("latency", &old.small.is_some(), &new.small.is_some(), Effect::Renegotiate);
    if let (Some(before), Some(after)) = (&old.small, &new.small) {
        keys.compare("small_packets", before, after, Effect::Renegotiate);
    }
    keys.compare("lan_port", &old.lan_port, &new.lan_port, Effect::Renegotiate);
    keys.compare("offload", &old.kernel.offload, &new.kernel.offload, Effect::Renegotiate);
    keys.compare("output_mark", &old.kernel.output_mark, &new.kernel.output_mark, Effect::Renegotiate);
    keys.compare("encap", &old.encap, &new.encap, Effect::Renegotiate);
    keys.compare("ike.version", &old.ike.version, &new.ike.version, Effect::Renegotiate);
    keys.compare("ike.mode", &old.ike.mode, &new.ike.mode, Effect::Renegotiate);
    keys.compare("ike.mode_config", &old.ike.mode_config, &new.ike.mode_config, Effect::Renegotiate);
    keys.compare("ike.proposals", &old.ike.proposals, &new.ike.proposals, Effect::Renegotiate);
    keys.compare("ike.lifetime", &old.ike.lifetime, &new.ike.lifetime, Effect::Renegotiate);
    let (before, after) = (&old.exchange, &new.exchange);
    keys.compare("ike.fragmentation", &before.fragmentation, &after.fragmentation, Effect::Renegotiate);
    keys.compare("ike.fragment_size", &before.fragment_size, &after.fragment_size, Effect::Renegotiate);
    keys.compare("ike.mobike", &before.mobike, &after.mobike, Effect::Renegotiate);
    keys.compare("ike.reauth", &old.reauth, &new.reauth, Effect::Renegotiate);
    keys.compare("ike.unique", &old.unique, &new.unique, Effect::Renegotiate);
    keys.compare("esp.pairs", &before.pairs, &after.pairs, Effect::Renegotiate);
    keys.compare("esp.proposals", &old.esp.proposals, &new.esp.proposals, Effect::Renegotiate);
    keys.compare("esp.lifetime", &old.esp.lifetime, &new.esp.lifetime, Effect::Renegotiate);
    keys.compare("esp.replay_window", &old.esp.replay_window, &new.esp.replay_window, Effect::Renegotiate);
    keys.compare("esp.per_cpu", &old.esp.per_cpu, &new.esp.per_cpu, Effect::Renegotiate);
    keys.compare("esp.esn", &old.esp.esn, &new.esp.esn, Effect::Renegotiate);
    keys.compare("dpd.interval", &old.dpd.interval, &new.dpd.interval, Effect::Renegotiate);
    keys.compare("dpd.timeout", &old.dpd.timeout, &new.dpd.timeout, Effect::Renegotiate);
    keys.compare("dpd.action", &old.dpd.action, &new.dpd.action, Effect::Live);
    keys.compare("balance", &old.balance, &new.balance, Effect::Live);
    keys.compare("forward", &old.forwards, &new.forwards, Effect::Live);
    keys.compare("failback", &old.failback, &new.failback, Effect::Live);
    keys.compare("mtu", &old.mtu, &new.mtu, Effect::Renegotiate);
    keys.finish(Subject::Connection(new.name.clone()), changes);

    for tunnel in &new.tunnels {
        let subject = Subject::Tunnel(new.name.clone(), tunnel.name.clone());
        match old.tunnel(&tunnel.name) {
            None => changes.push(Change { subject, kind: Kind::Added }),
            Some(before) => diff_tunnel(before, tunnel).finish(subject, changes),
        }
    }
}

fn diff_tunnel(old: &Tunnel, new: &Tunnel) -> Keys {
    let mut keys = Keys::default();
    keys.compare("local_address", &old.local_address, &new.local_address, Effect::Renegotiate);
    keys.compare("remote_address", &old.remote_address, &new.remote_address, Effect::Renegotiate);
    keys.compare("local_id", &old.local_id, &new.local_id, Effect::Renegotiate);
    keys.compare("remote_id", &old.remote_id, &new.remote_id, Effect::Renegotiate);
    let psk = |t: &Tunnel| match (&t.auth.local, &t.auth.remote) {
        (LocalProof::Psk(psk), _) | (_, RemoteProof::Psk(psk)) => Some(psk.clone()),
        _ => None,
    };
    keys.compare("psk_file", &psk(old), &psk(new), Effect::Renegotiate);
    if psk(old).is_none() || psk(new).is_none() {
        keys.compare("auth", &old.auth.local, &new.auth.local, Effect::Renegotiate);
        keys.compare("remote_auth", &old.auth.remote, &new.auth.remote, Effect::Renegotiate);
    }
    keys.compare("eap_only", &old.auth.eap_only, &new.auth.eap_only, Effect::Renegotiate);
    keys.compare("xauth_user", &old.xauth, &new.xauth, Effect::Renegotiate);
    keys.compare("ppk", &old.ppk, &new.ppk, Effect::Renegotiate);
    keys.compare("ike", &old.ike, &new.ike, Effect::Renegotiate);
    keys.compare("esp", &old.esp, &new.esp, Effect::Renegotiate);
    keys.compare("virtual_ip or pool", &old.addresses, &new.addresses, Effect::Renegotiate);
    keys.compare("clients", &old.clients, &new.clients, Effect::Renegotiate);
    keys.compare("inside", &old.inside, &new.inside, Effect::Renegotiate);
    keys.compare("weight", &old.weight, &new.weight, Effect::Live);
    keys.compare("health", &old.health, &new.health, Effect::Live);
    keys.compare("health_sources", &old.health_sources, &new.health_sources, Effect::Live);
    keys.compare("bgp", &old.bgp, &new.bgp, Effect::Live);
    keys.compare("enabled", &old.enabled, &new.enabled, Effect::Renegotiate);
    keys
}

#[derive(Default)]
struct Keys {
    keys: Vec<&'static str>,
    effect: Option<Effect>,
}

impl Keys {
    fn compare<T: PartialEq>(&mut self, key: &'static str, old: &T, new: &T, effect: Effect) {
        if old != new {
            self.keys.push(key);
            self.effect = self.effect.max(Some(effect));
        }
    }

    fn finish(self, subject: Subject, changes: &mut Vec<Change>) {
        if let Some(effect) = self.effect {
            changes.push(Change { subject, kind: Kind::Changed { keys: self.keys, effect } });
        }
    }
}
