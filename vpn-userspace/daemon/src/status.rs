//! What `culvert status` and `culvert counters` show, gathered from the machines.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use culvert_api::{
    Algorithm, Attach, Child, Connection, Counter, Counters, Encap, Engine, EngineChoice, EngineStatus,
    Gateway, Guard, Ike, IkeEnd, LanPort, Nat, Status, Tunnel, TunnelDrops, TunnelState, Verdict, Wan,
    WanPort,
};
use culvert_crypto::Suite;
use culvert_dataplane::SaStats;
use culvert_gateway::State;
use culvert_ike::Purpose;
use culvert_sys::guard::AttachedMode;
use culvert_types::{Spi, TunnelId};

use crate::daemon::{self, Daemon};

/// What was asked once for all tunnels.
struct Seen {
    at: Instant,
    sas: HashMap<Spi, SaStats>,
    /// By the interfaces' names.
    mtus: BTreeMap<String, u32>,
    drops: HashMap<TunnelId, BTreeMap<String, u64>>,
}

impl Daemon {
    /// The whole gateway at this moment.
    pub(crate) async fn status(&self) -> Status {
        let seen = Seen {
            at: Instant::now(),
            sas: self.plane.stats().await.into_iter().map(|sa| (sa.inbound, sa)).collect(),
            mtus: self.mtus().await,
            drops: self.drops_by_tunnel(),
        };
        let connections = self.config.connections.iter().map(|connection| {
            let tunnels: Vec<Tunnel> = connection
                .tunnels
                .iter()
                .flat_map(|tunnel| {
                    let own = self.tunnel(&seen, connection, tunnel, None);
                    let id = self.find(&connection.name, &tunnel.name).filter(|_| tunnel.clients.is_some());
                    let clients = id.map(|id| self.clients_of(id)).unwrap_or_default();
                    let client = |(id, _): (TunnelId, &daemon::Tunnel)| {
                        self.tunnel(&seen, connection, tunnel, Some(id))
                    };
                    std::iter::once(own).chain(clients.into_iter().map(client).collect::<Vec<_>>())
                })
                .collect();
            let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect();
            Connection {
                name: connection.name.clone(),
                environment: connection.environment.clone(),
                limits: self.limits_of(connection),
                state: Connection::state_of(&tunnels),
                local: list(&connection.local),
                remote: list(&connection.remote),
                tunnels,
                forwards: self.forwards_of(connection),
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            gateway: Gateway { wan: self.wan() },
            warnings: self.warnings(),
            engines: self.engines(),
            environments: self.environments_status(),
            limits: self.gateway_limits(),
            connections: connections.collect(),
            counters: self.guard_counters(),
            ike_drops: self.ike_drops(),
            notices: self.notices(),
            negotiation_ms: self.latest_negotiation.map(millis),
        }
    }

    /// Every counter.
    pub(crate) fn counters(&self) -> Counters {
        let own = self.tunnels.iter().filter(|(_, t)| t.client_of.is_none());
        let mut drops = self.drops_by_tunnel();
        let tunnels = own.map(|(id, tunnel)| TunnelDrops {
            connection: tunnel.connection.clone(),
            tunnel: tunnel.name.clone(),
            drops: drops.remove(id).unwrap_or_default(),
        });
        Counters { guard: self.guard_counters(), tunnels: tunnels.collect(), ike: self.ike_drops() }
    }

    /// IKE messages that were dropped before they belonged to a tunnel.
    fn ike_drops(&self) -> BTreeMap<String, u64> {
        let all = [("ikev1-refused", self.ike.refused_v1())];
        all.into_iter().filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let secrets = self.secrets.as_ref().and(self.config.log.ike_secrets.as_ref());
        let secrets = secrets.map(|path| {
            format!("the keys of every IKE SA are written to {} (log.ike_secrets)", path.display())
        });
        let undivided =
            self.plane.undivided().map(|why| format!("each WAN address has one inbound worker: {why}"));
        let devices = self.plane.xsk_faults().into_iter().chain(self.guard.faults());
        let devices = devices.chain(crate::spread::faults(&self.config, &self.guard));
        secrets.into_iter().chain(undivided).chain(devices).chain(self.bgp_fault()).collect()
    }

    fn wan(&self) -> Vec<Wan> {
        let guard = match self.guard.mode {
            culvert_config::Guard::On => Guard::On,
            culvert_config::Guard::Off => Guard::Off,
            culvert_config::Guard::Learn => Guard::Learn,
        };
        let wan = |wan: &crate::guard::WanInterface| Wan {
            interface: wan.name.clone(),
            addresses: wan.addresses.iter().map(ToString::to_string).collect(),
            attach: wan.attached.map(|mode| match mode {
                AttachedMode::XdpNative => Attach::XdpNative,
                AttachedMode::XdpGeneric => Attach::XdpGeneric,
                AttachedMode::Tcx => Attach::Tcx,
                AttachedMode::Clsact => Attach::Clsact,
            }),
            attach_reason: wan.reason.clone(),
            guard,
        };
        self.guard.wan.iter().map(wan).collect()
    }

    fn engines(&self) -> Vec<EngineStatus> {
        let algorithm = |(suite, available): &(Suite, Result<(), String>)| Algorithm {
            suite: suite.to_string(),
            available: available.is_ok(),
            reason: available.clone().err(),
        };
        let status = |info: culvert_dataplane::EngineInfo| EngineStatus {
            engine: engine(info.engine),
            available: info.available.is_ok(),
            reason: info.available.err(),
            algorithms: info.suites.iter().map(algorithm).collect(),
            notes: info.notes,
        };
        self.plane.engines().into_iter().map(status).collect()
    }

    fn guard_counters(&self) -> Vec<Counter> {
        let counter = |counter: culvert_sys::guard::GuardCounter| Counter {
            interface: None,
            verdict: match counter.verdict {
                "pass" => Verdict::Pass,
                "drop" => Verdict::Drop,
                _ => Verdict::Learn,
            },
            reason: counter.reason.to_owned(),
            packets: counter.packets,
            bytes: counter.bytes,
        };
        self.guard.counters().into_iter().map(counter).collect()
    }

    /// A tunnel, or one of its clients.
    fn tunnel(
        &self,
        seen: &Seen,
        connection: &culvert_config::Connection,
        tunnel: &culvert_config::Tunnel,
        client: Option<TunnelId>,
    ) -> Tunnel {
        let id = client.or_else(|| self.find(&connection.name, &tunnel.name));
        let entry = id.and_then(|id| self.tunnels.get(&id));
        let state = id.and_then(|id| self.gateway.state(id));
        let (tunnel_state, since, cause) = match entry.filter(|_| client.is_some()) {
            Some(client) => {
                let (state, since) = self.client_state(client);
                (state, since, None)
            }
            None => self.state_of(connection, tunnel),
        };
        let interface = entry
            .zip(id)
            .and_then(|(e, id)| self.plane.interface(id, e.report.engine))
            .unwrap_or(&tunnel.interface);
        let user = entry.filter(|e| e.report.engine == culvert_dataplane::Engine::User);
        Tunnel {
            name: entry.map_or_else(|| tunnel.name.clone(), |e| e.name.clone()),
            interface: interface.to_owned(),
            state: tunnel_state,
            since,
            cause,
            failures: state.map_or(0, |s| s.failures_total),
            local_address: entry.map(|e| e.local.to_string()),
            remote_address: tunnel
                .remote_address
                .address()
                .or(entry.and_then(|e| e.named.as_ref()?.in_use))
                .map(|a| a.to_string()),
            remote_name: tunnel.remote_address.name().map(str::to_owned),
            engine: entry.map(|e| engine(e.report.engine)),
            lan_port: user.map(|e| lan_port(e.report.lan_port)),
            wan_port: user.map(|e| match e.report.wan_port {
                "raw" => WanPort::Raw,
                "xsk" => WanPort::Xsk,
                _ => WanPort::Udp,
            }),
            engine_configured: Some(match connection.engine {
                culvert_config::Engine::Auto => EngineChoice::Auto,
                culvert_config::Engine::User => EngineChoice::User,
                culvert_config::Engine::Xfrm => EngineChoice::Xfrm,
                culvert_config::Engine::Bpf => EngineChoice::Bpf,
            }),
            engine_by_operator: id.and_then(|id| self.plane.wished(id)).map(|wish| match wish {
                culvert_dataplane::EngineChoice::Auto => EngineChoice::Auto,
                culvert_dataplane::EngineChoice::User => EngineChoice::User,
                culvert_dataplane::EngineChoice::Xfrm => EngineChoice::Xfrm,
                culvert_dataplane::EngineChoice::Bpf => EngineChoice::Bpf,
            }),
            engine_reasons: entry.map(|e| e.report.why.clone()).unwrap_or_default(),
            missing_children: id.map(|id| self.missing_children(id)).unwrap_or_default(),
            weight: tunnel.weight.into(),
            active: id.is_some_and(|id| self.gateway.carriers(&connection.name).contains(&id)),
            bgp: self.bgp_of(connection, tunnel),
            health: id.and_then(|id| self.health_of(id, tunnel)),
            returns_in_s: id.and_then(|id| self.returns(seen.at, id)),
            mtu: seen.mtus.get(interface).copied(),
            ike: entry.and_then(|e| Some(ike(seen.at, e.ike.as_ref()?, e.negotiation))),
            children: id.map(|id| self.children_of(id, seen)).unwrap_or_default(),
            drops: id.and_then(|id| seen.drops.get(&id).cloned()).unwrap_or_default(),
        }
    }

    /// What state a tunnel is in, since when (Unix time in seconds), and why it is not up.
    pub(crate) fn state_of(
        &self,
        connection: &culvert_config::Connection,
        tunnel: &culvert_config::Tunnel,
    ) -> (TunnelState, u64, Option<String>) {
        let state = self.find(&connection.name, &tunnel.name).and_then(|id| self.gateway.state(id));
        let shown = match state.map(|s| s.state) {
            Some(State::Up) => TunnelState::Up,
            Some(State::Connecting) => TunnelState::Connecting,
            Some(State::Disabled) if !self.is_enabled(&connection.name, tunnel) => TunnelState::Disabled,
            // Taken down by the operator: down, with that as the cause.
            Some(State::Idle | State::Waiting | State::Disabled) | None => TunnelState::Down,
        };
        let by_operator = self.switched.get(&(connection.name.clone(), tunnel.name.clone())) == Some(&false);
        let cause = match state {
            Some(_) if shown == TunnelState::Disabled && by_operator => {
                Some("disabled by the operator; `culvert tunnel enable` puts it back into service".to_owned())
            }
            Some(_) if shown == TunnelState::Disabled => Some("enabled = false".to_owned()),
            Some(state) => state.cause.clone(),
            None => self.missing.get(&(connection.name.clone(), tunnel.name.clone())).cloned(),
        };
        (shown, Self::unix_seconds(state.map_or(self.started, |s| s.since)), cause)
    }

    fn children_of(&self, id: TunnelId, seen: &Seen) -> Vec<Child> {
        let mut children: Vec<_> = self.children.of(id).collect();
        children.sort_by_key(|(_, child)| std::cmp::Reverse(child.since));
        let entry = self.tunnels.get(&id);
        let child = |(inbound, child): (Spi, &daemon::Child)| {
            let counted = seen.sas.get(&inbound);
            Child {
                spi_in: inbound.to_string(),
                spi_out: child.outbound.to_string(),
                suite: child.suite.to_string(),
                dh: child.dh.clone(),
                encap: if child.encap { Encap::Udp } else { Encap::None },
                local_ts: child.local_ts.clone(),
                remote_ts: child.remote_ts.clone(),
                packets_in: counted.map_or(0, |s| s.packets_in),
                bytes_in: counted.map_or(0, |s| s.bytes_in),
                packets_out: counted.map_or(0, |s| s.packets_out),
                bytes_out: counted.map_or(0, |s| s.bytes_out),
                drops: counted.map(|s| drops(&s.drops)).unwrap_or_default(),
                purpose: (child.purpose != Purpose::All).then(|| child.purpose.to_string()),
                engine: Some(engine(child.engine)),
                engine_reasons: child.why.clone(),
                lan_port: (child.engine == culvert_dataplane::Engine::User)
                    .then(|| lan_port(entry.map_or("tun", |e| e.report.lan_port))),
                wan_port: (child.engine == culvert_dataplane::Engine::User).then(|| {
                    match (entry.map(|e| e.report.wan_port), child.encap) {
                        (Some("xsk"), _) => WanPort::Xsk,
                        (_, true) => WanPort::Udp,
                        (_, false) => WanPort::Raw,
                    }
                }),
                worker: counted.and_then(|s| s.worker),
                sender: counted.and_then(|s| s.sender),
                lan_queue: counted.and_then(|s| s.lan_queue),
                wan_queue: counted.and_then(|s| s.wan_queue),
                rekey_in_s: Some(child.rekey_at.saturating_duration_since(seen.at).as_secs()),
                esn: child.esn,
                replay_window: child.replay_window,
            }
        };
        children.into_iter().map(child).collect()
    }
}

impl Daemon {
    /// The interfaces' MTUs by name.
    async fn mtus(&self) -> BTreeMap<String, u32> {
        let mut mtus = BTreeMap::new();
        let everywhere = self.environments.namespaces().map(|(_, netlink)| netlink);
        for netlink in std::iter::once(&self.netlink).chain(everywhere) {
            let links = netlink.links().await.unwrap_or_else(|error| {
                tracing::warn!("cannot list interfaces: {error}");
                Vec::new()
            });
            mtus.extend(links.into_iter().map(|link| (link.name, link.mtu)));
        }
        mtus
    }

    /// What tunnels' interfaces and workers dropped of no SA.
    fn drops_by_tunnel(&self) -> HashMap<TunnelId, BTreeMap<String, u64>> {
        let mut all: HashMap<TunnelId, BTreeMap<String, u64>> =
            self.plane.tunnel_drops().into_iter().map(|of| (of.tunnel, drops(&of.drops))).collect();
        // The kernel tells of interfaces in their own namespace only.
        for (namespace, _) in self.environments.namespaces() {
            let Ok(Ok(counted)) = namespace.within(culvert_sys::netlink::interface_drops) else { continue };
            for (id, tunnel) in &self.tunnels {
                let there =
                    self.namespace_for(&tunnel.connection).is_some_and(|n| n.name() == namespace.name());
                let interface = self.plane.interface(*id, tunnel.report.engine).filter(|_| there);
                let full = interface.and_then(|name| counted.get(name)).map_or(0, |counted| counted.sent);
                if full > 0 && tunnel.client_of.is_none() {
                    all.entry(*id).or_default().insert("lan-queue-full".to_owned(), full);
                }
            }
        }
        all
    }
}

fn ike(now: Instant, ike: &daemon::Established, negotiation: Option<Duration>) -> Ike {
    let info = &ike.info;
    Ike {
        version: info.version,
        spi_initiator: format!("{:016x}", info.spi_initiator),
        spi_responder: format!("{:016x}", info.spi_responder),
        initiator: info.initiator,
        local: IkeEnd { address: info.local, id: info.local_id.to_string() },
        remote: IkeEnd { address: info.remote, id: info.remote_id.to_string() },
        suite: info.suite.to_string(),
        ppk: info.ppk,
        mobike: info.mobike,
        virtual_ips: info.addresses.ours.clone(),
        peer_virtual_ips: info.addresses.theirs.clone(),
        dns: info.addresses.dns.clone(),
        nat: match (info.nat_local, info.nat_remote) {
            (false, false) => Nat::None,
            (true, false) => Nat::Local,
            (false, true) => Nat::Remote,
            (true, true) => Nat::Both,
        },
        rekey_in_s: Some(info.rekey_in.saturating_sub(now.saturating_duration_since(ike.told)).as_secs()),
        established_s: now.saturating_duration_since(ike.since).as_secs(),
        negotiation_ms: negotiation.map(millis),
    }
}

fn engine(engine: culvert_dataplane::Engine) -> Engine {
    match engine {
        culvert_dataplane::Engine::User => Engine::User,
        culvert_dataplane::Engine::Xfrm => Engine::Xfrm,
        culvert_dataplane::Engine::Bpf => Engine::Bpf,
    }
}

fn drops(drops: &[(&'static str, u64)]) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (reason, count) in drops.iter().filter(|(_, count)| *count > 0) {
        *sum.entry((*reason).to_owned()).or_default() += count;
    }
    sum
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lan_port(name: &str) -> LanPort {
    if name == "xsk" { LanPort::Xsk } else { LanPort::Tun }
}
