//! What the gateway wants of health checks and failover, done and told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_api::{HealthVerdict, What};
use culvert_config::NoticeOn;
use culvert_gateway::{HealthReport, Verdict};
use culvert_ike::Command;
use culvert_sys::netns::NetNs;
use culvert_types::TunnelId;

use crate::daemon::Daemon;
use crate::probe::Probed;

impl Daemon {
    /// Sends a probe through a tunnel's interface.
    pub(crate) fn probe(&self, id: TunnelId, sequence: u64) {
        let Some((_, tunnel)) = self.configured(id) else { return };
        let Some(health) = &tunnel.health else { return };
        // An interface that is just being exchanged: the probe counts as lost.
        if let Some((namespace, interface)) = self.probed_interface(id, health.target.address()) {
            self.prober.send(id, sequence, interface, health, namespace);
        }
    }

    /// The interface by which a tunnel is asked for an address, and the namespace that it is in if that is not this one.
    pub(crate) fn probed_interface(&self, id: TunnelId, to: IpAddr) -> Option<(Option<Arc<NetNs>>, String)> {
        let entry = self.tunnels.get(&id)?;
        if let Some(namespace) = self.namespace_for(&entry.connection) {
            // It has one interface, whose index here is not that there.
            let interface = self.plane.interface(id, entry.report.engine)?;
            return Some((Some(Arc::clone(namespace)), interface.to_owned()));
        }
        let index = self.index_towards(id, to.into())?;
        let name = nix::net::if_::if_indextoname(index).ok()?;
        Some((None, name.into_string().ok()?))
    }

    pub(crate) fn on_probed(&mut self, probed: Probed) {
        let Probed { tunnel, sequence, outcome } = probed;
        self.gateway.handle(Instant::now(), culvert_gateway::Input::Probed(tunnel, sequence, outcome));
    }

    /// A second opinion on a tunnel whose health check fails: if its peer is gone, it is negotiated anew.
    pub(crate) fn ask_peer(&mut self, id: TunnelId) {
        // Its IKE SA may have gone in the meantime.
        let _ = self.ike.handle_command(Instant::now(), Command::CheckLiveness(id));
    }

    pub(crate) fn health_changed(&mut self, id: TunnelId, verdict: Verdict) {
        let Some((connection, tunnel)) = self.configured(id) else { return };
        let Some(target) = tunnel.health.as_ref().map(|health| health.target.to_string()) else { return };
        let (connection, tunnel) = (connection.name.clone(), tunnel.name.clone());
        let report = self.gateway.health(id);
        let cause = report.as_ref().and_then(|r| r.cause.clone()).unwrap_or_default();
        match verdict {
            Verdict::Healthy => {
                tracing::info!(connection, tunnel, "health check of {target} is answered");
                let text = format!("{target} answers");
                self.tell(NoticeOn::Health, &connection, &tunnel, &text);
                self.history.happened(&connection, &tunnel, What::Healthy, text);
            }
            Verdict::Unhealthy => {
                tracing::warn!(connection, tunnel, "health check fails: {cause}{}", loss(report.as_ref()));
                self.tell(NoticeOn::Health, &connection, &tunnel, &cause);
                self.history.happened(&connection, &tunnel, What::Unhealthy, cause);
            }
            Verdict::Unknown => {}
        }
    }

    pub(crate) fn moved(&mut self, connection: &str, from: &[TunnelId], to: &[TunnelId]) {
        let names = |ids: &[TunnelId]| {
            let name = |id| self.tunnels.get(id).map_or("one that is gone", |t| t.name.as_str());
            ids.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        let (before, after) = (names(from), names(to));
        match (from, to) {
            ([], _) => tracing::info!(connection, "traffic goes by tunnel {after}"),
            (_, []) => {
                let text = "no tunnel carries the traffic: it is dropped";
                tracing::warn!(connection, "{text}");
                self.tell(NoticeOn::Failover, connection, "", text);
            }
            _ => {
                let text = format!("traffic moves from tunnel {before} to {after}");
                tracing::warn!(connection, "{text}");
                self.tell(NoticeOn::Failover, connection, &after, &text);
            }
        }
        let all: Vec<TunnelId> = from.iter().chain(to).copied().collect();
        for id in all {
            let Some(tunnel) = self.tunnels.get(&id).map(|t| t.name.clone()) else { continue };
            let text = match (from.contains(&id), to.contains(&id)) {
                (false, true) if from.is_empty() => "carries the traffic".to_owned(),
                (false, true) => format!("carries the traffic, in place of {before}"),
                (true, false) if to.is_empty() => "carries the traffic no more, and no other does".to_owned(),
                (true, false) => format!("carries the traffic no more, {after} does"),
                _ => continue,
            };
            self.history.happened(connection, &tunnel, What::Traffic, text);
        }
    }
}

fn loss(report: Option<&HealthReport>) -> String {
    let loss = report.and_then(HealthReport::loss);
    loss.map_or(String::new(), |loss| format!(" ({loss} % of the latest probes lost)"))
}

impl Daemon {
    pub(crate) fn health_of(
        &self,
        id: TunnelId,
        tunnel: &culvert_config::Tunnel,
    ) -> Option<culvert_api::Health> {
        let report = self.gateway.health(id)?;
        let micros = |trip: Duration| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX);
        Some(culvert_api::Health {
            verdict: match report.verdict {
                Verdict::Unknown => HealthVerdict::Pending,
                Verdict::Healthy => HealthVerdict::Healthy,
                Verdict::Unhealthy => HealthVerdict::Unhealthy,
            },
            since: Self::unix_seconds(report.since),
            target: tunnel.health.as_ref().map(|health| health.target.to_string()).unwrap_or_default(),
            loss_percent: report.loss(),
            latency_us: report.latency().map(micros),
            window_us: report.window.iter().map(|trip| trip.map(micros)).collect(),
            cause: report.cause,
            sent: report.sent,
            lost: report.lost,
        })
    }

    /// In how many seconds traffic may return to a tunnel that failed and is well again.
    pub(crate) fn returns(&self, now: Instant, id: TunnelId) -> Option<u64> {
        let (_, at) = self.gateway.fitness(id)?;
        at.map(|at| at.saturating_duration_since(now).as_secs())
    }
}
