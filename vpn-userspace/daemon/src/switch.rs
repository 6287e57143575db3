//! Tunnels taken out of service and put back, by the operator (`culvert tunnel disable`) or by the configuration (`enabled`).
//!
//! The IKE core does not know one that is out of service: its peer is refused, and cannot bring it up.

use std::time::Instant;

use culvert_api::{ErrorCode, Response, Target};
use culvert_config::{Change, Connection, Kind, Subject, Tunnel};
use culvert_ike::Command;

use crate::daemon::Daemon;
use crate::requests;

impl Daemon {
    /// Whether a tunnel is in service.
    pub(crate) fn is_enabled(&self, connection: &str, tunnel: &Tunnel) -> bool {
        let wish = self.switched.get(&(connection.to_owned(), tunnel.name.clone()));
        wish.copied().unwrap_or(tunnel.enabled)
    }

    /// `culvert tunnel enable` and `disable`, for all tunnels that the target covers, also those that cannot be set up now.
    pub(crate) async fn switch(&mut self, target: &Target, on: bool) -> Response {
        let config = &self.config;
        let all = config.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
        let those: Vec<(Connection, Tunnel)> = all
            .filter(|(c, t)| target.covers(&c.name, &t.name))
            .map(|(c, t)| (c.clone(), t.clone()))
            .collect();
        if those.is_empty() {
            let clients = self
                .tunnels
                .iter()
                .any(|(id, t)| self.is_client(*id) && target.covers(&t.connection, &t.name));
            if clients {
                return Response::error(
                    ErrorCode::State,
                    format!("{target} is a client, which comes by itself"),
                    "`culvert down` closes it; disable the tunnel that serves it",
                );
            }
            return requests::unknown(target);
        }
        let mut changed = 0;
        for (connection, tunnel) in &those {
            if self.is_enabled(&connection.name, tunnel) == on {
                continue;
            }
            changed += 1;
            let key = (connection.name.clone(), tunnel.name.clone());
            if tunnel.enabled == on {
                self.switched.remove(&key);
            } else {
                self.switched.insert(key, on);
            }
            let word = if on { "in service again" } else { "out of service" };
            tracing::info!(connection = connection.name, tunnel = tunnel.name, "{word}, by the operator");
            if on {
                self.introduce(&connection.name, &tunnel.name);
            }
            self.plan(connection);
            if !on {
                // The peer is told before it is forgotten.
                self.settle().await;
                self.withdraw(&connection.name, &tunnel.name);
            }
        }
        Response::done(match (changed, on) {
            (0, true) => "nothing to do: enabled already".to_owned(),
            (0, false) => "nothing to do: disabled already".to_owned(),
            (_, true) => String::new(),
            (_, false) => {
                "disabled until `culvert tunnel enable`, a restart, or a reload that changes `enabled`"
                    .to_owned()
            }
        })
    }

    /// Lets the IKE core know the tunnel as it is configured now.
    fn introduce(&mut self, connection: &str, tunnel: &str) {
        if let Some(id) = self.find(connection, tunnel) {
            self.tell_peer(id);
        }
    }

    /// The IKE core knows the tunnel no more.
    pub(crate) fn withdraw(&mut self, connection: &str, tunnel: &str) {
        if let Some(id) = self.find(connection, tunnel) {
            // It may not have known it.
            let _ = self.ike.handle_command(Instant::now(), Command::RemovePeer(id));
        }
    }

    /// Where a reload changes `enabled`, or a tunnel is gone, what the operator wanted holds no longer.
    pub(crate) fn forget_switches(&mut self, changes: &[Change]) {
        let says = |change: &Change, connection: &str, tunnel: &str| match (&change.subject, &change.kind) {
            (Subject::Connection(c), Kind::Removed) => c == connection,
            (Subject::Tunnel(c, t), Kind::Removed) => (c.as_str(), t.as_str()) == (connection, tunnel),
            (Subject::Tunnel(c, t), Kind::Changed { keys, .. }) => {
                (c.as_str(), t.as_str()) == (connection, tunnel) && keys.contains(&"enabled")
            }
            _ => false,
        };
        self.switched.retain(|(c, t), _| !changes.iter().any(|change| says(change, c, t)));
    }
}
