//! Clients of a tunnel that serves many: each has an entry beside the tunnel's own, as CONNECTION/TUNNEL#NUMBER.

use std::time::Instant;

use culvert_api::TunnelState;
use culvert_ike::Command;
use culvert_types::TunnelId;

use crate::daemon::{Daemon, Tunnel};

impl Tunnel {
    /// The tunnel's name in the configuration.
    pub(crate) fn configured(&self) -> &str {
        self.name.split('#').next().unwrap_or(&self.name)
    }
}

impl Daemon {
    /// A client came that was not there.
    pub(crate) fn client_up(&mut self, client: TunnelId, of: TunnelId, number: u32) {
        let Some(tunnel) = self.tunnels.get(&of) else { return };
        let entry = Tunnel {
            connection: tunnel.connection.clone(),
            name: format!("{}#{number}", tunnel.name),
            index: tunnel.index,
            report: tunnel.report.clone(),
            local: tunnel.local,
            ike: None,
            began: None,
            negotiation: None,
            named: None,
            client_of: Some(of),
            scattered: false,
        };
        self.tunnel_names.insert((entry.connection.clone(), entry.name.clone()), client);
        self.tunnels.insert(client, entry);
        self.plane.add_client(client, of);
    }

    /// Its last IKE SA is gone.
    pub(crate) fn client_gone(&mut self, client: TunnelId) {
        self.plane.remove_client(client);
        if let Some(entry) = self.tunnels.remove(&client) {
            self.tunnel_names.remove(&(entry.connection, entry.name));
        }
    }

    /// The tunnel that the gateway knows: the client's, or itself.
    pub(crate) fn template(&self, id: TunnelId) -> TunnelId {
        self.tunnels.get(&id).and_then(|t| t.client_of).unwrap_or(id)
    }

    pub(crate) fn is_client(&self, id: TunnelId) -> bool {
        self.tunnels.get(&id).is_some_and(|t| t.client_of.is_some())
    }

    /// Whether it has clients in place of an IKE SA of its own.
    pub(crate) fn serves_many(&self, id: TunnelId) -> bool {
        let configured =
            self.tunnels.get(&id).and_then(|t| self.config.connection(&t.connection)?.tunnel(&t.name));
        configured.is_some_and(|t| t.clients.is_some())
    }

    /// Takes a client down, or whatever else there is by that id.
    pub(crate) fn close(&mut self, id: TunnelId) {
        // One that is gone already needs nothing.
        let _ = self.ike.handle_command(Instant::now(), Command::Terminate(id, true));
    }

    /// The clients of a tunnel, by their numbers.
    pub(crate) fn clients_of(&self, of: TunnelId) -> Vec<(TunnelId, &Tunnel)> {
        let those = self.tunnels.iter().filter(|(_, t)| t.client_of == Some(of));
        let mut those: Vec<_> = those.map(|(id, t)| (*id, t)).collect();
        let number = |t: &Tunnel| t.name.rsplit('#').next().and_then(|n| n.parse::<u32>().ok());
        those.sort_by_key(|(_, t)| number(t));
        those
    }

    /// What state a client is in, and since when (Unix time in seconds).
    pub(crate) fn client_state(&self, client: &Tunnel) -> (TunnelState, u64) {
        match &client.ike {
            Some(ike) => (TunnelState::Up, Self::unix_seconds(ike.since)),
            None => (TunnelState::Down, Self::unix_seconds(self.started)),
        }
    }
}
