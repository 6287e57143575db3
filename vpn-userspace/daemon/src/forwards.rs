//! Port forwards: from the configuration into the proxy, and what it counts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_config::{Config, Connection, DEFAULT_ENVIRONMENT, ForwardTo};
use culvert_forward::{Destination, Forward, Forwards, Origin, Protocol};
use ipnet::IpNet;

use crate::daemon::Daemon;
use crate::environment_status::budgets;

impl Daemon {
    /// Starts the forwards that the configuration has, and ends those that it has no more. What cannot listen is told
    /// once, shown in the status, and tried again.
    pub(crate) async fn settle_forwards(&mut self) {
        let mut own: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for name in self.config.connections.iter().map(|c| &c.environment) {
            if !own.contains_key(name) {
                own.insert(name.clone(), self.addresses_in(name).await);
            }
        }
        let mut wanted = Vec::new();
        for connection in &self.config.connections {
            let budgets = budgets(&mut self.forwards, &self.config, connection);
            let Some(origin) = self.origin(&connection.environment) else { continue };
            for configured in &connection.forwards {
                let own = own.get(&connection.environment).map_or(&[][..], Vec::as_slice);
                let planned = plan(connection, configured, own);
                let planned = Forward { budgets: budgets.clone(), origin: origin.clone(), ..planned };
                wanted.push((name(connection, configured), planned));
            }
        }
        self.forwards.keep(|running| wanted.iter().any(|(name, _)| name == running));
        self.forward_faults.retain(|faulty, _| wanted.iter().any(|(name, _)| name == faulty));
        for (name, forward) in wanted {
            match self.forwards.set(&name, forward).await {
                Ok(()) => {
                    self.forward_faults.remove(&name);
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.forward_faults.get(&name) != Some(&text) {
                        tracing::error!(forward = name, "{text}");
                    }
                    self.forward_faults.insert(name, text);
                }
            }
        }
    }

    /// What a new configuration wants to listen on and cannot, before anything is touched.
    pub(crate) async fn refused_forwards(&self, new: &Config) -> Vec<String> {
        let mut refused = Vec::new();
        for connection in &new.connections {
            // One that is not there yet has no place to try it.
            let Some(origin) = self.origin(&connection.environment) else { continue };
            for configured in &connection.forwards {
                let wanted = Forward { origin: origin.clone(), ..plan(connection, configured, &[]) };
                // What one of ours has is free for another of ours.
                let ours = self.forwards.list().any(|(_, running, ..)| {
                    (running.protocol, running.listen, &running.origin)
                        == (wanted.protocol, wanted.listen, &wanted.origin)
                });
                let name = name(connection, configured);
                if !ours && let Err(error) = Forwards::default().set(&name, wanted).await {
                    refused.push(format!("forward {name}: {error}"));
                }
            }
        }
        refused
    }

    /// What the forwards of a connection do.
    pub(crate) fn forwards_of(&self, connection: &Connection) -> Vec<culvert_api::Forward> {
        let status = |configured: &culvert_config::Forward| {
            let whole = name(connection, configured);
            let running = self.forwards.list().find(|(name, ..)| *name == whole);
            let counted = running.map(|(.., counted)| counted).unwrap_or_default();
            culvert_api::Forward {
                name: configured.name.clone(),
                protocol: if configured.udp { Protocol::Udp } else { Protocol::Tcp }.to_string(),
                listen: configured.listen.to_string(),
                to: destination(&configured.to).to_string(),
                fault: self.forward_faults.get(&whole).cloned(),
                clients: counted.clients,
                active: counted.active,
                not_allowed: counted.not_allowed,
                too_many: counted.too_many,
                failed: counted.failed,
                bytes_there: counted.bytes_there,
                bytes_back: counted.bytes_back,
                error: counted.error,
            }
        };
        connection.forwards.iter().map(status).collect()
    }

    /// Whence sockets of an environment come; `None` if it is not set up.
    fn origin(&self, environment: &str) -> Option<Origin> {
        if environment == DEFAULT_ENVIRONMENT {
            return Some(Origin::default());
        }
        self.environments.get(environment).map(|made| made.origin(environment))
    }
}

fn name(connection: &Connection, forward: &culvert_config::Forward) -> String {
    format!("{}/{}", connection.name, forward.name)
}

fn destination(to: &ForwardTo) -> Destination {
    match to {
        ForwardTo::Address(address) => Destination::Address(*address),
        ForwardTo::Name(name, port) => Destination::Name(name.clone(), *port),
    }
}

/// A forward as the proxy takes it. What the far side sees must be inside `local`, or the tunnel does not carry it.
fn plan(connection: &Connection, forward: &culvert_config::Forward, own: &[IpAddr]) -> Forward {
    let to = destination(&forward.to);
    // The peer answers those of health checks by one tunnel, whoever carries the traffic.
    let checks = connection.tunnels.iter().filter_map(|t| t.health.as_ref()?.source);
    let checks: Vec<IpAddr> = checks.collect();
    let free: Vec<IpAddr> = own.iter().copied().filter(|address| !checks.contains(address)).collect();
    let any = |own: &[IpAddr]| source(&connection.local, &to, own);
    let source = forward.source.or_else(|| any(&free)).or_else(|| any(own));
    Forward {
        protocol: if forward.udp { Protocol::Udp } else { Protocol::Tcp },
        listen: forward.listen,
        to,
        source,
        allow: forward.allow.clone(),
        most: forward.most,
        idle: forward.idle,
        budgets: Vec::new(),
        origin: Origin::default(),
    }
}

/// The first address of this host that is inside `local` and of the destination's family.
fn source(local: &[IpNet], to: &Destination, own: &[IpAddr]) -> Option<IpAddr> {
    let fits = |address: &&IpAddr| match to {
        Destination::Address(to) => to.is_ipv4() == address.is_ipv4(),
        Destination::Name(..) => true,
    };
    let inside = |address: &&IpAddr| local.iter().any(|net| net.contains(*address));
    own.iter().filter(fits).find(inside).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_side_sees_an_address_that_the_tunnel_carries() {
        let local = ["192.168.0.0/24", "fd00::/64"].map(|net| net.parse().unwrap());
        let own = ["127.0.0.1", "198.51.100.1", "192.168.0.1", "fd00::1"].map(|a| a.parse().unwrap());
        for (to, want) in [("172.16.0.1:1", "192.168.0.1"), ("[fd01::1]:1", "fd00::1")] {
            let to = Destination::Address(to.parse().unwrap());
            assert_eq!(source(&local, &to, &own), want.parse().ok());
            assert_eq!(source(&local, &to, &own[..2]), None);
        }
        let named = Destination::Name("intranet.example".into(), 80);
        assert_eq!(source(&local, &named, &own), "192.168.0.1".parse().ok());
    }
}
