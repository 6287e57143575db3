//! Environments and limits as the status shows them, and the budgets that forwards share.

use std::sync::Arc;

use culvert_api::{Isolation, Limit};
use culvert_config::{Config, Connection, DEFAULT_ENVIRONMENT, Limits};
use culvert_forward::{Budget, Forwards};

use crate::daemon::Daemon;
use crate::environment::How;

/// What the budget of clients is called by whose it is; also what is said when it is used up.
fn budget_name(whose: &str) -> String {
    format!("limit forward_connections of {whose}")
}

/// What limits the clients of a connection's forwards at once, from the narrowest.
pub(crate) fn budgets(forwards: &mut Forwards, config: &Config, connection: &Connection) -> Vec<Arc<Budget>> {
    let environment = config.environment(&connection.environment).map(|e| &e.limits);
    let all = [
        (format!("connection {}", connection.name), Some(&connection.limits)),
        (format!("environment {}", connection.environment), environment),
        ("the gateway".to_owned(), Some(&config.gateway.limits)),
    ];
    let most = all.into_iter().filter_map(|(whose, limits)| Some((whose, limits?.forward_connections?)));
    most.map(|(whose, most)| forwards.budget(&budget_name(&whose), most as usize)).collect()
}

impl Daemon {
    /// What is limited in these connections.
    fn limits(&self, whose: &str, limits: &Limits, connections: &[&Connection]) -> Vec<Limit> {
        let tunnels: usize = connections.iter().map(|c| c.tunnels.len()).sum();
        let forwards: usize = connections.iter().map(|c| c.forwards.len()).sum();
        let limit = |name: &str, most: Option<u64>, used: Option<usize>| {
            Some(Limit { name: name.to_owned(), most: most?, used: used.map(|n| n as u64), note: None })
        };
        let number = |n: Option<u32>| n.map(u64::from);
        let taken = self.forwards.taken(&budget_name(whose));
        [
            limit("connections", number(limits.connections), Some(connections.len())),
            limit("tunnels", number(limits.tunnels), Some(tunnels)),
            limit("forwards", number(limits.forwards), Some(forwards)),
            limit("forward_connections", number(limits.forward_connections), Some(taken)),
            limit("bandwidth", limits.bandwidth, None),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is limited in a connection.
    pub(crate) fn limits_of(&self, connection: &Connection) -> Vec<Limit> {
        self.limits(&format!("connection {}", connection.name), &connection.limits, &[connection])
    }

    /// What is limited in all environments together.
    pub(crate) fn gateway_limits(&self) -> Vec<Limit> {
        let all: Vec<&Connection> = self.config.connections.iter().collect();
        self.limits("the gateway", &self.config.gateway.limits, &all)
    }

    /// All environments, the default one first.
    pub(crate) fn environments_status(&self) -> Vec<culvert_api::Environment> {
        let named = self.config.environments.iter().filter(|e| !e.is_default()).map(|e| e.name.as_str());
        std::iter::once(DEFAULT_ENVIRONMENT).chain(named).map(|name| self.environment_status(name)).collect()
    }

    fn environment_status(&self, name: &str) -> culvert_api::Environment {
        let configured = self.config.environment(name);
        let connections: Vec<&Connection> =
            self.config.connections.iter().filter(|c| c.environment == name).collect();
        let made = self.environments.get(name);
        let (isolation, place) = match made.map(|made| &made.how) {
            Some(How::Table(table)) => (Isolation::Table, Some(table.to_string())),
            Some(How::Namespace(namespace, _)) => (Isolation::Namespace, Some(namespace.name().to_owned())),
            None => (Isolation::None, None),
        };
        let failure = self.environments.failure(name).map(str::to_owned);
        let none = Limits::default();
        let lan = if name == DEFAULT_ENVIRONMENT {
            self.config.gateway.lan.clone()
        } else {
            configured.map(|e| e.lan.clone()).unwrap_or_default()
        };
        let limits = configured.map_or(&none, |e| &e.limits);
        culvert_api::Environment {
            name: name.to_owned(),
            isolation,
            place,
            reason: made.and_then(|made| made.reason.clone()),
            lan,
            faults: failure.into_iter().chain(made.map(|m| m.faults.clone()).unwrap_or_default()).collect(),
            connections: connections.len() as u64,
            tunnels: connections.iter().map(|c| c.tunnels.len() as u64).sum(),
            forwards: connections.iter().map(|c| c.forwards.len() as u64).sum(),
            limits: self.limits(&format!("environment {name}"), limits, &connections),
        }
    }
}
