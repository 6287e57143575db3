//! Environments: what keeps the connections of one from those of all others, made, kept and taken away.
//!
//! A namespace has the tunnels' interfaces, the LAN's, the routes and the sockets of forwards and probes; IKE and ESP stay
//! where culvertd is. A table is chosen by rules, by the interface that a packet comes from or by the mark of a socket, and
//! ends in a route that refuses everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_config::{Config, Engine, Environment, Isolation};
use culvert_forward::{Origin, Protocol, Purpose};
use culvert_sys::netlink::{self, Addressing, Match, Netlink, Rule};
use culvert_sys::netns::NetNs;
use ipnet::IpNet;
use socket2::{Domain, Socket, Type};

use crate::daemon::Daemon;
use crate::environment_state::{InNamespace, State};

/// Begins the names of namespaces that culvertd makes.
const PREFIX: &str = "culvert-";
/// The last route of a table: whatever else there is, wins.
const LAST: u32 = u32::MAX;

/// An environment that is set up.
pub(crate) struct Made {
    pub(crate) how: How,
    /// Why it is not by a namespace, where that was open.
    pub(crate) reason: Option<String>,
    /// What of it is missing: LAN interfaces.
    pub(crate) faults: Vec<String>,
    /// Tells it from one of the same name that was before.
    serial: u64,
    /// Its LAN interfaces that are there, with their indices and addresses.
    lan: Vec<(String, u32, Vec<IpNet>)>,
}

/// What keeps an environment apart.
pub(crate) enum How {
    /// Rules lead to this routing table.
    Table(u32),
    /// A namespace, and a connection to the kernel in it.
    Namespace(Arc<NetNs>, Netlink),
}

/// The environments other than the default one.
pub(crate) struct Environments {
    made: BTreeMap<String, Made>,
    /// Those that could not be made, and why.
    failed: BTreeMap<String, String>,
    state: State,
    /// Of the next one that is made.
    next: u64,
}

impl Environments {
    /// None yet; what an earlier culvertd with this control socket left is known.
    pub(crate) fn new(socket: &std::path::Path) -> Self {
        Self { made: BTreeMap::new(), failed: BTreeMap::new(), state: State::read(socket), next: 0 }
    }

    /// One that is set up. The default one is not among them.
    pub(crate) fn get(&self, name: &str) -> Option<&Made> {
        self.made.get(name)
    }

    /// Why an environment could not be made.
    pub(crate) fn failure(&self, name: &str) -> Option<&str> {
        self.failed.get(name).map(String::as_str)
    }

    /// Whether all that is wanted is there.
    pub(crate) fn whole(&self) -> bool {
        self.failed.is_empty() && self.made.values().all(|made| made.faults.is_empty())
    }

    /// Whether a route is an environment's own: the last of its table, or one out of its LAN.
    pub(crate) fn keeps(&self, route: &netlink::Route) -> bool {
        let made =
            self.made.values().find(|made| matches!(made.how, How::Table(table) if table == route.table));
        made.is_some_and(|made| match &route.target {
            netlink::RouteTarget::Unreachable => route.metric == LAST,
            netlink::RouteTarget::Device { index, .. } => made.lan.iter().any(|(_, lan, _)| lan == index),
            netlink::RouteTarget::Balanced(_) => false,
        })
    }

    /// The namespaces, with connections to the kernel in them.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&Arc<NetNs>, &Netlink)> {
        self.made.values().filter_map(|made| match &made.how {
            How::Namespace(namespace, netlink) => Some((namespace, netlink)),
            How::Table(_) => None,
        })
    }
}

impl Made {
    /// Its namespace, if it is one.
    pub(crate) fn namespace(&self) -> Option<&Arc<NetNs>> {
        match &self.how {
            How::Namespace(namespace, _) => Some(namespace),
            How::Table(_) => None,
        }
    }

    /// Addresses of its LAN interfaces.
    fn lan_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.lan.iter().flat_map(|(_, _, nets)| nets.iter().map(IpNet::addr))
    }

    /// Where the sockets of its forwards are made.
    pub(crate) fn origin(&self, environment: &str) -> Origin {
        match &self.how {
            How::Namespace(namespace, _) => {
                let namespace = Arc::clone(namespace);
                Origin::new(format!("{environment} {}", self.serial), move |protocol, ipv4, _| {
                    Ok(namespace.within(|| socket(protocol, ipv4))??.into())
                })
            }
            How::Table(table) => {
                let table = *table;
                let lan: Vec<(String, Vec<IpAddr>)> = self
                    .lan
                    .iter()
                    .map(|(name, _, nets)| (name.clone(), nets.iter().map(IpNet::addr).collect()))
                    .collect();
                // Others where interfaces or their addresses are others.
                Origin::new(format!("{environment} {lan:?}"), move |protocol, ipv4, purpose| {
                    let socket = socket(protocol, ipv4)?;
                    // Answers go by its table too.
                    socket.set_mark(table)?;
                    if let Purpose::Listen(address) = purpose
                        && let Some(device) = lan_of(&lan, address)?
                    {
                        socket.bind_device(Some(device.as_bytes()))?;
                    }
                    Ok(socket.into())
                })
            }
        }
    }
}

fn socket(protocol: Protocol, ipv4: bool) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(if ipv4 { Domain::IPV4 } else { Domain::IPV6 }, kind, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// By which LAN interface clients of a listener come; `None`: from this host alone. In one namespace an address of one LAN is
/// reached from every other, so that a listener without an interface would serve them all.
fn lan_of(lan: &[(String, Vec<IpAddr>)], listen: SocketAddr) -> io::Result<Option<String>> {
    let address = listen.ip();
    if address.is_loopback() {
        return Ok(None);
    }
    match lan {
        [(one, _)] if address.is_unspecified() => Ok(Some(one.clone())),
        _ if address.is_unspecified() => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "every address is too much for an environment that is a routing table: write an address of one of its LAN interfaces, or 127.0.0.1",
        )),
        _ => match lan.iter().find(|(_, own)| own.contains(&address)) {
            Some((name, _)) => Ok(Some(name.clone())),
            None => Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "no LAN interface of its environment has that address",
            )),
        },
    }
}

/// By what an environment is kept apart, and why not by a namespace.
fn choose(config: &Config, environment: &Environment) -> (bool, Option<String>) {
    match environment.isolation {
        Isolation::Namespace => (true, None),
        Isolation::Table => (false, None),
        Isolation::Auto => {
            let kernel = config
                .connections
                .iter()
                .find(|c| c.environment == environment.name && c.engine == Engine::Xfrm);
            match kernel {
                Some(c) => (
                    false,
                    Some(format!(
                        "by a table: engine `xfrm` of connection {} cannot be in a namespace",
                        c.name
                    )),
                ),
                None => (true, None),
            }
        }
    }
}

/// Another environment that has a local network of this one.
fn shares_local_networks(config: &Config, name: &str) -> Option<String> {
    let (own, others): (Vec<_>, Vec<_>) = config.connections.iter().partition(|c| c.environment == name);
    let own: Vec<IpNet> = own.iter().flat_map(|c| c.local.iter().copied()).collect();
    let same = |net: &IpNet| own.iter().any(|own| own.contains(net) || net.contains(own));
    let other = others.into_iter().find(|c| c.local.iter().any(same))?;
    Some(format!("connection {} of environment {}", other.name, other.environment))
}

impl Daemon {
    /// The connection to the kernel where an environment's interfaces are; `None` if it is not set up.
    pub(crate) fn netlink_of(&self, environment: &str) -> Option<&Netlink> {
        if environment == culvert_config::DEFAULT_ENVIRONMENT {
            return Some(&self.netlink);
        }
        match &self.environments.get(environment)?.how {
            How::Table(_) => Some(&self.netlink),
            How::Namespace(_, netlink) => Some(netlink),
        }
    }

    /// The same for a connection that is configured.
    pub(crate) fn netlink_for(&self, connection: &str) -> Option<&Netlink> {
        self.netlink_of(&self.config.connection(connection)?.environment)
    }

    /// The namespace of a connection's environment, if that is one.
    pub(crate) fn namespace_for(&self, connection: &str) -> Option<&Arc<NetNs>> {
        self.environments.get(&self.config.connection(connection)?.environment)?.namespace()
    }

    /// The routing table of an environment, if that is one.
    pub(crate) fn table_of(&self, environment: &str) -> u32 {
        match self.environments.get(environment).map(|made| &made.how) {
            Some(How::Table(table)) => *table,
            _ => netlink::Route::MAIN,
        }
    }

    /// Sets up what is configured and not there, and takes away what is there and not configured. What fails is shown and
    /// tried again.
    pub(crate) async fn settle_environments(&mut self) {
        let wanted: Vec<Environment> =
            self.config.environments.iter().filter(|e| !e.is_default()).cloned().collect();
        let gone: Vec<String> = self
            .environments
            .made
            .keys()
            .filter(|name| !wanted.iter().any(|e| e.name == **name))
            .cloned()
            .collect();
        for name in gone {
            self.remove_environment(&name).await;
        }
        self.environments.failed.retain(|name, _| wanted.iter().any(|e| e.name == *name));
        for environment in &wanted {
            let there = self.environments.made.contains_key(&environment.name);
            let result = if there {
                self.refresh_lan(environment).await.map_err(anyhow::Error::new)
            } else {
                self.make_environment(environment).await
            };
            match result {
                Ok(()) => {
                    self.environments.failed.remove(&environment.name);
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if self.environments.failure(&environment.name) != Some(&text) {
                        tracing::error!("environment {} cannot be set up: {text}", environment.name);
                    }
                    self.environments.failed.insert(environment.name.clone(), text);
                }
            }
        }
        self.give_back_strays().await;
        self.settle_rules().await;
        let of = |c: &culvert_config::Connection| (c.name.clone(), c.environment.clone());
        let apart =
            self.config.connections.iter().filter(|c| c.environment != culvert_config::DEFAULT_ENVIRONMENT);
        self.log.set_environments(apart.map(of).collect());
    }

    async fn make_environment(&mut self, environment: &Environment) -> anyhow::Result<()> {
        let (namespace, mut reason) = choose(&self.config, environment);
        let mut how = How::Table(environment.table);
        if namespace {
            match self.enter_namespace(environment).await {
                Ok((namespace, netlink)) => how = How::Namespace(namespace, netlink),
                Err(error) if environment.isolation == Isolation::Auto => {
                    reason = Some(format!("by a table: {error:#}"));
                }
                Err(error) => return Err(error),
            }
        }
        if let How::Table(table) = how {
            // Before any rule leads there: what no route takes is refused, and goes nowhere else.
            for everything in ["0.0.0.0/0", "::/0"] {
                let last = netlink::Route::unreachable(everything.parse()?, LAST).in_table(table);
                match self.netlink.replace_route(&last).await {
                    Err(error) if error.kernel().is_some_and(|k| k.not_supported()) => {}
                    other => other?,
                }
            }
        }
        let place = match &how {
            How::Table(table) => format!("table {table}"),
            How::Namespace(namespace, _) => format!("namespace {}", namespace.name()),
        };
        tracing::info!("environment {} is {place}", environment.name);
        if matches!(how, How::Table(_))
            && let Some(other) = shares_local_networks(&self.config, &environment.name)
        {
            let text = format!(
                "it has local networks that {other} has too: what this host itself answers there, such as ICMP errors, goes by the main table; set isolation = \"namespace\" where that matters"
            );
            tracing::warn!("environment {}: {text}", environment.name);
            reason = Some(reason.map_or(text.clone(), |reason| format!("{reason}; {text}")));
        }
        let serial = self.environments.next;
        self.environments.next += 1;
        let made = Made { how, reason, faults: Vec::new(), serial, lan: Vec::new() };
        self.environments.made.insert(environment.name.clone(), made);
        self.refresh_lan(environment).await?;
        // Those that were wanted before there was a place for them.
        let routes: Vec<_> =
            self.gateway.routes().filter(|r| r.environment == environment.name).cloned().collect();
        for route in routes {
            self.add_route(&route).await;
        }
        Ok(())
    }

    /// The namespace of an environment: the operator's, one that is left, or a new one.
    async fn enter_namespace(&mut self, environment: &Environment) -> anyhow::Result<(Arc<NetNs>, Netlink)> {
        let ours = format!("{PREFIX}{}", environment.name);
        let name = environment.namespace.as_deref().unwrap_or(&ours);
        let namespace = match NetNs::open(name) {
            Ok(namespace) => namespace,
            Err(error) if environment.namespace.is_some() => {
                anyhow::bail!(
                    "there is no namespace {name} ({error}); make it with `ip netns add {name}`, or leave `namespace` out"
                );
            }
            Err(_) => {
                self.environments.state.namespaces.entry(name.to_owned()).or_default().created = true;
                self.environments.state.write();
                match NetNs::create(name) {
                    Ok(namespace) => namespace,
                    Err(error) => {
                        self.environments.state.namespaces.remove(name);
                        self.environments.state.write();
                        anyhow::bail!(
                            "cannot make a namespace: {error}; make one with `ip netns add {ours}`, or set isolation = \"table\""
                        );
                    }
                }
            }
        };
        let netlink = Netlink::connect_within(&namespace)?;
        let created = self.environments.state.namespaces.get(name).is_some_and(|of| of.created);
        if created {
            namespace.within(|| {
                for family in ["ipv4/conf/all", "ipv6/conf/all", "ipv6/conf/default"] {
                    // A host without IPv6 has no such file.
                    let _ = std::fs::write(format!("/proc/sys/net/{family}/forwarding"), "1");
                }
            })?;
            let loopback = netlink.link("lo").await?;
            netlink.set_up(loopback.index, true).await?;
        }
        Ok((Arc::new(namespace), netlink))
    }

    /// Has an environment's LAN interfaces in it, as far as they are there, and its table the routes out of them.
    async fn refresh_lan(&mut self, environment: &Environment) -> Result<(), netlink::NetlinkError> {
        let mut faults = Vec::new();
        let mut lan = Vec::new();
        for name in &environment.lan {
            let Some(netlink) = self.netlink_of(&environment.name).cloned() else { return Ok(()) };
            let mut found = netlink.find_link(name).await?;
            if found.is_none()
                && let Some(namespace) =
                    self.environments.get(&environment.name).and_then(Made::namespace).cloned()
                && let Some(here) = self.netlink.find_link(name).await?
            {
                match self.move_lan(name, here.index, &namespace, &netlink).await {
                    Ok(()) => found = netlink.find_link(name).await?,
                    Err(error) => faults.push(format!("LAN interface {name}: {error}")),
                }
            }
            match found {
                Some(link) => {
                    let addresses = netlink.addresses(link.index).await?;
                    lan.push((name.clone(), link.index, addresses));
                }
                None if faults.is_empty() => {
                    faults.push(format!(
                        "there is no LAN interface {name}; correct `lan`, or wait for it to appear"
                    ));
                }
                None => {}
            }
        }
        let table = match self.environments.get(&environment.name).map(|made| &made.how) {
            Some(How::Table(table)) => Some(*table),
            _ => None,
        };
        if let Some(table) = table {
            for (name, index, _) in &lan {
                // Two environments may have the same networks: answers come from where they are asked.
                let _ = netlink::filter_loosely(name);
                for route in self.netlink.copies_by(*index, table).await? {
                    self.netlink.replace_route(&route).await?;
                }
            }
        }
        let Some(made) = self.environments.made.get_mut(&environment.name) else { return Ok(()) };
        for fault in &faults {
            if !made.faults.contains(fault) {
                tracing::warn!("environment {}: {fault}", environment.name);
            }
        }
        (made.faults, made.lan) = (faults, lan);
        Ok(())
    }

    /// Moves a LAN interface into a namespace, with its addresses and routes.
    async fn move_lan(
        &mut self,
        name: &str,
        index: u32,
        namespace: &NetNs,
        there: &Netlink,
    ) -> Result<(), netlink::NetlinkError> {
        let mut what = self.netlink.addressing(index).await?;
        let of = self.environments.state.namespaces.entry(namespace.name().to_owned()).or_default();
        // A namespace that went with its interfaces gave them back bare.
        if what.addresses.is_empty() {
            what.addresses = of.lan.get(name).cloned().unwrap_or_default();
        }
        of.lan.insert(name.to_owned(), what.addresses.clone());
        self.environments.state.write();
        self.netlink.move_link(index, namespace).await?;
        let link = there.link(name).await?;
        there.address_again(link.index, &what).await
    }

    /// Gives interfaces back, and deletes namespaces, of which no environment that is set up has any use.
    async fn give_back_strays(&mut self) {
        let wanted = |name: &str, interface: Option<&str>| {
            let of = |e: &&Environment| {
                let own = e.namespace.clone().unwrap_or_else(|| format!("{PREFIX}{}", e.name));
                own == name && choose(&self.config, e).0
            };
            let environment = self.config.environments.iter().filter(|e| !e.is_default()).find(of);
            environment.is_some_and(|e| interface.is_none_or(|i| e.lan.iter().any(|lan| lan == i)))
        };
        let state = &self.environments.state.namespaces;
        let strays: Vec<(String, Vec<String>, bool)> = state
            .iter()
            .map(|(name, of)| {
                let lan = of.lan.keys().filter(|i| !wanted(name, Some(i))).cloned().collect();
                (name.clone(), lan, wanted(name, None))
            })
            .filter(|(_, lan, wanted): &(_, Vec<String>, _)| !wanted || !lan.is_empty())
            .collect();
        for (name, lan, wanted) in strays {
            self.give_back(&name, lan, !wanted).await;
        }
    }

    /// Gives interfaces of a namespace back, and with `delete` has done with it.
    async fn give_back(&mut self, name: &str, lan: Vec<String>, delete: bool) {
        let Some(of) = self.environments.state.namespaces.get(name).cloned() else { return };
        let mut left = false;
        if let Ok(namespace) = NetNs::open(name) {
            let done = async {
                let there = Netlink::connect_within(&namespace)?;
                if delete {
                    there.delete_all_routes().await?;
                }
                for interface in &lan {
                    let Some(link) = there.find_link(interface).await? else { continue };
                    let what: Addressing = there.addressing(link.index).await?;
                    there.move_link_back(link.index).await?;
                    let link = self.netlink.link(interface).await?;
                    self.netlink.address_again(link.index, &what).await?;
                }
                Ok::<(), netlink::NetlinkError>(())
            };
            if let Err(error) = done.await {
                left = true;
                tracing::error!("cannot give back the interfaces of namespace {name}: {error}");
            }
        }
        if left {
            return;
        }
        if delete
            && of.created
            && let Err(error) = NetNs::delete(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot delete the namespace {name}: {error}");
        }
        if delete {
            self.environments.state.namespaces.remove(name);
        } else if let Some(of) = self.environments.state.namespaces.get_mut(name) {
            of.lan.retain(|interface, _| !lan.contains(interface));
        }
        self.environments.state.write();
    }

    /// Takes an environment away: its routes, its rules, its namespace. Its tunnels are gone already.
    pub(crate) async fn remove_environment(&mut self, name: &str) {
        let Some(made) = self.environments.made.remove(name) else { return };
        match made.how {
            How::Namespace(namespace, netlink) => {
                let name = namespace.name().to_owned();
                // Nobody is in it any more.
                drop((namespace, netlink));
                let lan = self
                    .environments
                    .state
                    .namespaces
                    .get(&name)
                    .map(|of: &InNamespace| of.lan.keys().cloned().collect());
                self.give_back(&name, lan.unwrap_or_default(), true).await;
            }
            How::Table(table) => {
                // The rules first: while they stand, nothing may be let through.
                self.settle_rules().await;
                self.sweep_table(table).await;
            }
        }
    }

    async fn sweep_table(&self, table: u32) {
        match self.netlink.routes().await {
            Ok(routes) => {
                for route in routes.iter().filter(|route| route.table == table) {
                    if let Err(error) = self.netlink.delete_route(route).await {
                        tracing::warn!("{error}");
                    }
                }
            }
            Err(error) => tracing::warn!("cannot list routes: {error}"),
        }
    }

    /// Makes the rules what they should be: those of every environment that is a table.
    pub(crate) async fn settle_rules(&self) {
        let mut wanted = BTreeSet::new();
        for (name, made) in &self.environments.made {
            let How::Table(table) = made.how else { continue };
            let mut packets = vec![Match::Mark(table)];
            packets.extend(made.lan.iter().map(|(lan, ..)| Match::From(lan.clone())));
            let configured = self.config.environment(name).map(|e| e.lan.clone()).unwrap_or_default();
            packets.extend(configured.into_iter().map(Match::From));
            for connection in self.config.connections.iter().filter(|c| c.environment == *name) {
                for tunnel in &connection.tunnels {
                    packets.push(Match::From(tunnel.interface.clone()));
                    packets.push(Match::To(tunnel.interface.clone()));
                }
            }
            for packets in packets {
                wanted.extend([false, true].map(|ipv6| Rule { packets: packets.clone(), ipv6, table }));
            }
        }
        let there: BTreeSet<Rule> = match self.netlink.rules().await {
            Ok(rules) => rules.into_iter().collect(),
            Err(error) => return tracing::error!("cannot keep environments apart: {error}"),
        };
        for rule in wanted.difference(&there) {
            if let Err(error) = self.netlink.add_rule(rule).await {
                tracing::error!("cannot keep environments apart: {error}");
            }
        }
        for rule in there.difference(&wanted) {
            if let Err(error) = self.netlink.delete_rule(rule).await {
                tracing::warn!("{error}");
            }
        }
    }

    /// Takes all environments away.
    pub(crate) async fn remove_environments(&mut self) {
        let names: Vec<String> = self.environments.made.keys().cloned().collect();
        for name in names {
            self.remove_environment(&name).await;
        }
    }

    /// Has a tunnel's interface where its environment is; returns the connection to the kernel there.
    pub(crate) async fn place_interface(
        &self,
        environment: &str,
        interface: &str,
    ) -> anyhow::Result<Netlink> {
        if environment == culvert_config::DEFAULT_ENVIRONMENT {
            return Ok(self.netlink.clone());
        }
        let made = self.environments.get(environment);
        let made = made.ok_or_else(|| self.not_made(environment))?;
        let How::Namespace(namespace, netlink) = &made.how else { return Ok(self.netlink.clone()) };
        let link = self.netlink.link(interface).await?;
        self.netlink.move_link(link.index, namespace).await?;
        let link = netlink.link(interface).await?;
        // What was said of it where it was made holds there no more.
        netlink.no_link_local_address(link.index).await?;
        Ok(netlink.clone())
    }

    /// Why a tunnel has no place.
    pub(crate) fn not_made(&self, environment: &str) -> anyhow::Error {
        let why = self.environments.failure(environment).unwrap_or("not set up yet");
        anyhow::anyhow!("environment {environment}: {why}")
    }

    /// The addresses of this host in an environment.
    pub(crate) async fn addresses_in(&self, environment: &str) -> Vec<IpAddr> {
        match self.environments.get(environment).map(|made| (&made.how, made)) {
            Some((How::Table(_), made)) => {
                let tunnels = self.config.connections.iter().filter(|c| c.environment == environment);
                let inside =
                    tunnels.flat_map(|c| c.tunnels.iter().flat_map(|t| t.inside.iter().map(IpNet::addr)));
                made.lan_addresses().chain(inside).collect()
            }
            Some((How::Namespace(_, netlink), _)) => all_addresses(netlink).await,
            None => all_addresses(&self.netlink).await,
        }
    }
}

async fn all_addresses(netlink: &Netlink) -> Vec<IpAddr> {
    let mut own = Vec::new();
    for link in netlink.links().await.unwrap_or_default() {
        let of_link = netlink.addresses(link.index).await.unwrap_or_default();
        own.extend(of_link.iter().map(IpNet::addr));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_a_table_is_at_one_lan_interface_or_at_this_host() {
        let lan = |names: &[&str]| -> Vec<(String, Vec<IpAddr>)> {
            let one = |(n, name): (usize, &&str)| {
                ((*name).to_owned(), vec![format!("10.{n}.0.1").parse().unwrap()])
            };
            names.iter().enumerate().map(one).collect()
        };
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(lan_of(&lan(&["a", "b"]), at("127.0.0.1:1")).unwrap(), None);
        assert_eq!(lan_of(&lan(&["a", "b"]), at("10.1.0.1:1")).unwrap(), Some("b".into()));
        assert_eq!(lan_of(&lan(&["a"]), at("0.0.0.0:1")).unwrap(), Some("a".into()));
        assert!(lan_of(&lan(&["a", "b"]), at("0.0.0.0:1")).is_err());
        assert!(lan_of(&lan(&["a"]), at("10.9.0.1:1")).is_err());
        assert!(lan_of(&[], at("[::]:1")).is_err());
    }
}
