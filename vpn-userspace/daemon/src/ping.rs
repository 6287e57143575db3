//! `culvert ping`: an echo through each of some tunnels, answered when the last has come back or is late.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_api::{ErrorCode, Ping, PingRequest, Pings, Response};
use culvert_sys::netns::NetNs;
use culvert_types::TunnelId;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::daemon::Daemon;
use crate::probe;
use crate::requests::unknown;

/// As long as an answer may be waited for.
const LONGEST: Duration = Duration::from_secs(20);

impl Daemon {
    /// Sends the echoes; the answer goes out when they are back, and nothing else waits for it.
    pub(crate) fn ping(&mut self, request: &PingRequest, answer: oneshot::Sender<Response>) {
        let target = &request.target;
        let mut ids: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| target.covers(&t.connection, &t.name))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_by(|a, b| self.tunnels.get(a).map(|t| &t.name).cmp(&self.tunnels.get(b).map(|t| &t.name)));
        if ids.is_empty() {
            let _ = answer.send(unknown(target));
            return;
        }
        let timeout = Duration::from_millis(request.timeout_ms);
        if timeout.is_zero() || timeout > LONGEST {
            let text =
                format!("a timeout of {} ms is outside 1 ms to {} s", timeout.as_millis(), LONGEST.as_secs());
            let _ = answer.send(Response::error(ErrorCode::BadRequest, text, "write another --timeout"));
            return;
        }
        // Tells this echo from those of before.
        let sequence = self.started.elapsed().as_micros() as u64;
        let asked: Vec<Asked> = ids.into_iter().filter_map(|id| self.asked(id, request)).collect();
        tokio::spawn(async move {
            let mut running = JoinSet::new();
            for (index, one) in asked.into_iter().enumerate() {
                running.spawn(async move { (index, one.ask(sequence, timeout).await) });
            }
            let mut pings: Vec<_> = running.join_all().await;
            pings.sort_by_key(|(index, _)| *index);
            let pings = pings.into_iter().map(|(_, ping)| ping).collect();
            // The client may have gone.
            let _ = answer.send(Response::Pings(Pings { pings }));
        });
    }

    fn asked(&self, id: TunnelId, request: &PingRequest) -> Option<Asked> {
        let (connection, tunnel) = self.configured(id)?;
        let health = tunnel.health.as_ref();
        let to = request.to.or_else(|| health.map(|health| health.target.address()));
        let chosen = request.source.or_else(|| {
            let to = to?;
            let fits = |address: &IpAddr| address.is_ipv4() == to.is_ipv4();
            let inside = tunnel.inside.iter().map(|net| net.addr()).find(fits);
            health.and_then(|health| health.source).filter(fits).or(inside).or_else(|| {
                // Others would be outside the selectors of the SAs.
                let namespace = self.namespace_for(&connection.name);
                let own =
                    namespace.map_or_else(own_addresses, |n| n.within(own_addresses).unwrap_or_default());
                own.into_iter().filter(fits).find(|own| connection.local.iter().any(|net| net.contains(own)))
            })
        });
        let at = self.probed_interface(id, to.unwrap_or(IpAddr::from([0, 0, 0, 0])));
        let ping = Ping {
            connection: connection.name.clone(),
            tunnel: tunnel.name.clone(),
            to,
            source: chosen,
            round_trip_us: None,
            error: None,
        };
        Some(Asked { at, ping })
    }
}

/// An echo that is to be sent.
struct Asked {
    /// With its namespace, if that is not this one.
    at: Option<(Option<Arc<NetNs>>, String)>,
    ping: Ping,
}

impl Asked {
    async fn ask(self, sequence: u64, timeout: Duration) -> Ping {
        let Self { at, mut ping } = self;
        let (Some((namespace, interface)), Some(to)) = (at, ping.to) else {
            let cause = if ping.to.is_some() {
                "the tunnel has no interface now"
            } else {
                "name an address to ask: the tunnel has no health check whose target could be taken"
            };
            ping.error = Some(cause.to_owned());
            return ping;
        };
        let began = Instant::now();
        let at = (namespace.as_deref(), interface.as_str());
        match tokio::time::timeout(timeout, probe::echo(sequence, at, ping.source, to)).await {
            Ok(Ok(())) => ping.round_trip_us = u64::try_from(began.elapsed().as_micros()).ok(),
            Ok(Err(error)) => ping.error = Some(explain(&error, ping.source)),
            Err(_) => {}
        }
        ping
    }
}

fn explain(error: &std::io::Error, source: Option<IpAddr>) -> String {
    match (error.kind(), source) {
        (std::io::ErrorKind::AddrNotAvailable, Some(source)) => {
            format!("this host has no address {source}: name another --source")
        }
        _ => error.to_string(),
    }
}

/// Of all interfaces but the loopback.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let addresses = all.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    addresses.filter(|address| !address.is_loopback()).collect()
}
