//! `culvert reload` and SIGHUP: what the file says now, applied to what runs, touching only what changed.

use std::time::Instant;

use culvert_api::{Change, ChangeKind, ErrorCode, Reloaded, Response};
use culvert_config::{Config, Effect, Kind, Subject};
use culvert_gateway::Input;
use culvert_ike::Command;

use crate::daemon::Daemon;
use crate::{log, plan};

impl Daemon {
    /// Reads the file again and applies it. A file that is wrong changes nothing.
    pub(crate) async fn reload(&mut self) -> Response {
        let new = match self.read_again("reload refused, the running configuration stays").await {
            Ok(new) => new,
            Err(refusal) => return *refusal,
        };
        let changes = Config::diff(&self.config, &new);
        // What needs a restart keeps its old value until then, so that the next reload still tells of it.
        let old = std::mem::replace(&mut self.config, new);
        let (bgp, limits) = (self.config.gateway.bgp, std::mem::take(&mut self.config.gateway.limits));
        self.config.gateway = culvert_config::Gateway { bgp, limits, ..old.gateway.clone() };
        self.routing.touch();
        self.config.log.format = old.log.format;
        self.config.log.ike_secrets.clone_from(&old.log.ike_secrets);
        let _ = self.level.reload(log::filter(plan::log_level(self.config.log.level)));

        self.leave_environments(&changes, &old).await;
        self.forget_switches(&changes);
        for change in &changes {
            self.take_away(change).await;
        }
        self.settle_environments().await;
        self.missing.clear();
        for connection in self.config.connections.clone() {
            self.add_connection(&connection).await;
        }
        for change in &changes {
            self.follow_networks(change);
        }
        self.forget_wishes();
        self.additional.look_at(self.tunnels.keys().copied());
        self.settle().await;
        self.settle_forwards().await;
        self.settle_notices();
        self.forget_told();
        self.forget_graphs();
        self.drop_unused_sockets();
        let config = &self.config;
        let configured = |c: &str, t: &str| config.connection(c).is_some_and(|c| c.tunnel(t).is_some());
        self.history.keep(configured);
        if !self.missing.is_empty() {
            let failure = |((connection, tunnel), text): (&(String, String), &String)| {
                format!("{connection}/{tunnel} cannot be set up: {text}")
            };
            let text: Vec<String> = self.missing.iter().map(failure).collect();
            let mend = "everything else is applied; mend the file and reload again";
            return Response::error(ErrorCode::Configuration, text.join("\n"), mend);
        }
        tracing::info!("configuration reloaded, changes: {}", changes.len());
        Response::Reload(Reloaded { changes: changes.iter().map(report).collect() })
    }

    /// What [`Self::reload`] would change now; nothing is touched.
    pub(crate) async fn planned(&self) -> Response {
        match self.read_again("a reload would be refused").await {
            Ok(new) => {
                let changes = Config::diff(&self.config, &new);
                Response::Reload(Reloaded { changes: changes.iter().map(report).collect() })
            }
            Err(refusal) => *refusal,
        }
    }

    /// The configuration as the file says it now, or why it cannot be applied; `what` of it is logged.
    async fn read_again(&self, what: &str) -> Result<Config, Box<Response>> {
        let refuse = |text: String| {
            Box::new(Response::error(ErrorCode::Configuration, text, "mend the file and reload again"))
        };
        let mut new = Config::load(&self.paths.config).map_err(|error| {
            tracing::error!("{what}: {error}");
            refuse(error.render(false))
        })?;
        if let Some(path) = &self.paths.control_socket {
            new.gateway.control_socket.clone_from(path);
        }
        let refused = self.refused_forwards(&new).await;
        if !refused.is_empty() {
            let text = refused.join("\n");
            tracing::error!("{what}: {text}");
            return Err(refuse(text));
        }
        Ok(new)
    }

    /// Takes the tunnels out of environments that are gone or are to be others, and those environments away.
    async fn leave_environments(&mut self, changes: &[culvert_config::Change], old: &Config) {
        for change in changes {
            let (
                Subject::Environment(environment),
                Kind::Removed | Kind::Changed { effect: Effect::Renegotiate, .. },
            ) = (&change.subject, &change.kind)
            else {
                continue;
            };
            let names: Vec<String> = old
                .connections
                .iter()
                .filter(|c| c.environment == *environment)
                .map(|c| c.name.clone())
                .collect();
            self.remove_tunnels(|connection, _| names.iter().any(|name| name == connection)).await;
            for name in names {
                self.gateway.handle(Instant::now(), Input::Remove(name));
            }
            self.settle().await;
            self.remove_environment(environment).await;
        }
    }

    /// Removes what is gone, and what must be negotiated anew; the latter comes back with the new values.
    async fn take_away(&mut self, change: &culvert_config::Change) {
        match (&change.subject, &change.kind) {
            (Subject::Connection(name), Kind::Removed) => {
                self.remove_tunnels(|connection, _| connection == name).await;
                self.gateway.handle(Instant::now(), Input::Remove(name.clone()));
                self.settle().await;
            }
            (Subject::Connection(name), Kind::Changed { effect: Effect::Renegotiate, .. }) => {
                self.remove_tunnels(|connection, _| connection == name).await;
            }
            (Subject::Tunnel(connection, name), Kind::Removed)
            | (Subject::Tunnel(connection, name), Kind::Changed { effect: Effect::Renegotiate, .. }) => {
                self.remove_tunnels(|c, t| c == connection && t == name).await;
            }
            _ => {}
        }
    }

    /// Child SAs of tunnels that stand are rekeyed with the networks that their connection has now; its routes are put already.
    fn follow_networks(&mut self, change: &culvert_config::Change) {
        let (Subject::Connection(name), Kind::Changed { keys, effect: Effect::Live }) =
            (&change.subject, &change.kind)
        else {
            return;
        };
        let Some(connection) = self.config.connection(name) else { return };
        if !keys.iter().any(|key| ["local", "remote"].contains(key)) {
            return;
        }
        let remote = connection.remote.clone();
        let own = |t: &crate::daemon::Tunnel| t.connection == *name && t.client_of.is_none();
        let ids: Vec<_> = self.tunnels.iter().filter(|(_, t)| own(t)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Err(error) = self.plane.set_remote_nets(id, remote.clone()) {
                tracing::error!(connection = name, "the data plane does not take the new networks: {error}");
            }
            self.tell_peer(id);
            if let Err(error) = self.ike.handle_command(Instant::now(), Command::Reselect(id)) {
                tracing::error!(connection = name, "{error}");
            }
        }
    }

    async fn remove_tunnels(&mut self, which: impl Fn(&str, &str) -> bool) {
        let ids: Vec<_> = self
            .tunnels
            .iter()
            .filter(|(_, t)| t.client_of.is_none() && which(&t.connection, &t.name))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove_tunnel(id).await;
        }
    }

    fn drop_unused_sockets(&mut self) {
        let used: Vec<_> = self.tunnels.values().map(|t| t.local).collect();
        self.sockets.retain(|address| used.contains(&address));
    }
}

fn report(change: &culvert_config::Change) -> Change {
    Change {
        subject: change.subject.to_string(),
        kind: match change.kind {
            Kind::Added => ChangeKind::Added,
            Kind::Removed => ChangeKind::Removed,
            Kind::Changed { .. } => ChangeKind::Changed,
        },
        keys: change.keys().iter().map(ToString::to_string).collect(),
        renegotiate: change.effect() == Effect::Renegotiate,
        restart: change.effect() == Effect::Restart,
    }
}
