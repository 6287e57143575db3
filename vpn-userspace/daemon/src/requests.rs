//! What operators ask for over the control socket.

use std::time::Instant;

use culvert_api::{Capture, CapturePlace, ErrorCode, Explanation, Request, Response, Target, TunnelHistory};
use culvert_gateway::Input;
use culvert_ike::{Command, CommandError};
use culvert_types::TunnelId;

use crate::control::Ask;
use crate::daemon::Daemon;

impl Daemon {
    pub(crate) async fn on_ask(&mut self, ask: Ask) {
        let response = match ask.request {
            // Answered when the echoes are back.
            Request::Ping(request) => return self.ping(&request, ask.answer),
            // The routing program may take its time to answer.
            Request::Bgp => return self.ask_bgp(ask.answer),
            Request::Routes => return self.ask_routes(ask.answer),
            Request::Status => Response::Status(Box::new(self.status().await)),
            Request::Counters => Response::Counters(self.counters()),
            Request::Explain { target } => self.explain(&target),
            Request::Up { target } => self.up(&target).await,
            Request::Down { target } => self.with_targets(&target, |daemon, id| {
                if daemon.is_client(id) {
                    daemon.close(id);
                } else {
                    daemon.gateway.handle(Instant::now(), Input::Disable(id));
                }
                Ok(())
            }),
            Request::Failback { target } => self.with_targets(&target, |daemon, id| {
                daemon.gateway.handle(Instant::now(), Input::Release(id));
                Ok(())
            }),
            Request::Rekey { target, ike } => self.with_targets(&target, |daemon, id| daemon.rekey(id, ike)),
            Request::Engine { target, engine } => self.change_engine(&target, engine),
            Request::Graph { target, seconds } => self.graph(&target, seconds),
            Request::TestNotice { name } => self.test_notice(&name),
            Request::Switch { target, enabled } => self.switch(&target, enabled).await,
            Request::Reload => self.reload().await,
            Request::Plan => self.planned().await,
            // The stream itself is served at the socket; it begins when this is answered.
            Request::Trace { .. } => {
                self.trace(true);
                Response::done("")
            }
            // As above.
            Request::Drops(request) => self.drops(&request).await,
            Request::Capture { target } => self.capture(&target),
            Request::Logs(_) => Response::error(ErrorCode::Internal, "logs are served elsewhere", ""),
        };
        self.settle().await;
        // The client may have gone; what it asked for is done all the same.
        let _ = ask.answer.send(response);
    }

    /// Where the packets of tunnels pass. The sockets are opened where the answer is sent.
    fn capture(&self, target: &Target) -> Response {
        let namespace =
            self.namespace_for(target.connection_name()).map(|namespace| namespace.name().to_owned());
        let place = |interface: &str, inside| CapturePlace {
            namespace: namespace.clone().filter(|_| inside),
            interface: interface.to_owned(),
            inside,
            ethernet: false,
        };
        let covered = self.tunnels.iter().filter(|(_, t)| target.covers(&t.connection, &t.name));
        let interfaces = covered.filter_map(|(id, t)| self.plane.interface(*id, t.report.engine));
        let mut places: Vec<CapturePlace> = interfaces.map(|name| place(name, true)).collect();
        places.sort_by(|a, b| a.interface.cmp(&b.interface));
        // Clients of one tunnel share its interface.
        places.dedup();
        if places.is_empty() {
            return unknown(target);
        }
        places.extend(self.config.gateway.wan.iter().map(|interface| place(interface, false)));
        Response::Capture(Capture { places })
    }

    /// What happened to tunnels. Those are told of too that could not be set up.
    fn explain(&self, target: &Target) -> Response {
        let tunnels = self.config.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
        let covered = tunnels.filter(|(c, t)| target.covers(&c.name, &t.name));
        let mut explained: Vec<TunnelHistory> = covered
            .map(|(connection, tunnel)| {
                let (state, since, cause) = self.state_of(connection, tunnel);
                TunnelHistory {
                    connection: connection.name.clone(),
                    tunnel: tunnel.name.clone(),
                    state,
                    since,
                    cause,
                    history: self.history.of(&connection.name, &tunnel.name),
                    strangers: self.history.strangers(tunnel.remote_address.address()),
                }
            })
            .collect();
        explained.extend(self.explain_clients(target));
        if explained.is_empty() {
            return unknown(target);
        }
        Response::Explanation(Explanation { tunnels: explained })
    }

    /// The same of clients, also of those that are gone.
    fn explain_clients(&self, target: &Target) -> Vec<TunnelHistory> {
        let tunnels = self.config.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
        let many = tunnels.filter(|(_, t)| t.clients.is_some());
        let clients = many.flat_map(|(c, t)| {
            self.history.clients(&c.name, &t.name).into_iter().map(move |client| (c, client))
        });
        clients
            .filter(|(c, client)| target.covers(&c.name, client))
            .map(|(c, client)| {
                let entry = self.find(&c.name, &client).and_then(|id| self.tunnels.get(&id));
                let gone = (culvert_api::TunnelState::Down, Self::unix_seconds(self.started));
                let (state, since) = entry.map_or(gone, |e| self.client_state(e));
                TunnelHistory {
                    connection: c.name.clone(),
                    history: self.history.of(&c.name, &client),
                    tunnel: client,
                    state,
                    since,
                    cause: None,
                    strangers: Vec::new(),
                }
            })
            .collect()
    }

    async fn up(&mut self, target: &Target) -> Response {
        // One that is out of service comes back into it by this too.
        let disabled = self.config.connections.iter().any(|c| {
            c.tunnels.iter().any(|t| target.covers(&c.name, &t.name) && !self.is_enabled(&c.name, t))
        });
        if disabled {
            self.switch(target, true).await;
        }
        self.with_targets(target, |daemon, id| {
            // It came by itself, and is there.
            if daemon.is_client(id) {
                return Ok(());
            }
            let name = daemon.tunnels.get(&id).map(|t| (t.connection.clone(), t.name.clone()));
            let anywhere = name.is_some_and(|(connection, tunnel)| {
                let tunnel = daemon.config.connection(&connection).and_then(|c| c.tunnel(&tunnel));
                tunnel.is_some_and(|t| t.remote_address.is_any())
            });
            daemon.gateway.handle(Instant::now(), Input::Enable(id));
            if anywhere { Err(CommandError::NoRemote(id)) } else { Ok(()) }
        })
    }

    fn rekey(&mut self, id: TunnelId, ike: bool) -> Result<(), CommandError> {
        let now = Instant::now();
        // Its clients are targets of their own.
        if self.serves_many(id) {
            return Ok(());
        }
        if ike {
            if self.configured(id).is_some_and(|(c, t)| !self.is_enabled(&c.name, t)) {
                return Err(CommandError::NotUp(id));
            }
            return self.ike.handle_command(now, Command::RekeyIke(id));
        }
        let children = self.children.spis_of(id);
        if children.is_empty() {
            return Err(CommandError::NotUp(id));
        }
        children.into_iter().try_for_each(|spi| self.ike.handle_command(now, Command::RekeyChild(spi)))
    }

    fn with_targets(
        &mut self,
        target: &Target,
        mut act: impl FnMut(&mut Self, TunnelId) -> Result<(), CommandError>,
    ) -> Response {
        let ids: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| target.covers(&t.connection, &t.name))
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() {
            return unknown(target);
        }
        for id in ids {
            if let Err(error) = act(self, id) {
                let name =
                    self.tunnels.get(&id).map(|t| format!("{}/{}", t.connection, t.name)).unwrap_or_default();
                let text = error.to_string().replace(&format!("{id:?}"), &name);
                return Response::error(
                    ErrorCode::State,
                    text,
                    "`culvert status` shows where the tunnel stands",
                );
            }
        }
        Response::done("")
    }
}

pub(crate) fn unknown(target: &Target) -> Response {
    Response::error(
        ErrorCode::UnknownTarget,
        format!("there is no connection or tunnel `{target}`"),
        "`culvert status` lists them; a new one needs `culvert reload`",
    )
}
