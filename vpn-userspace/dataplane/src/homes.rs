//! The interfaces of a tunnel: one for the engine that leads, whose name the operator knows, and for a while those of
//! others, after a rekey has changed the engine or because an SA is one that the leading engine refuses.

use std::time::{Duration, Instant};

use culvert_crypto::Suite;
use culvert_ike::{Parity, Purpose};
use culvert_sys::netlink::{Netlink, filter_again, filter_loosely};
use culvert_types::{Spi, TunnelId};

use crate::choice::{Asked, Candidate, SPLIT, order};
use crate::user::setup::SaSetup;
use crate::xfrm::is_refusal;
use crate::{Dataplane, DataplaneError, Engine, EngineChoice, InstallReport, TunnelReport, TunnelSpec};

/// How long packets that were on their way into an interface that leads no more may still be sealed by its SA.
const QUEUE_DRAINS: Duration = Duration::from_millis(250);

/// Why engines do not change where the kernel has no interfaces for its IPsec.
const POLICIES: &str = "policies of the host take the tunnel's packets, in transport mode and where the kernel has no xfrm interfaces; set engine in the configuration";

/// A tunnel, and what engines have of it.
pub(crate) struct TunnelEntry {
    spec: TunnelSpec,
    /// The operator's, over the configuration.
    wish: Option<EngineChoice>,
    /// The first leads. Never empty.
    homes: Vec<Home>,
    /// Engine `bpf` has small packets, at the device of engine `user`.
    joined: bool,
    /// What interfaces dropped that are gone.
    dropped: Vec<(&'static str, u64)>,
}

/// What one engine has of a tunnel.
struct Home {
    /// The interface's name now.
    interface: String,
    report: TunnelReport,
    /// SAs of it receive until then, though they are removed.
    busy_until: Instant,
    /// The reverse-path filter's setting that holds again when this is the only one.
    filter: Option<String>,
}

impl TunnelEntry {
    fn home(&self, engine: Engine) -> Option<&Home> {
        self.homes.iter().find(|home| home.report.engine == engine)
    }

    pub(crate) fn engines(&self) -> impl Iterator<Item = Engine> {
        let joined = self.joined.then_some(Engine::Bpf);
        self.homes.iter().map(|home| home.report.engine).chain(joined)
    }

    /// Policies of the host take its packets, and an SA of another engine would not get them.
    fn is_alone(&self) -> bool {
        self.homes.first().is_some_and(|home| home.report.lan_port == "policy")
    }

    fn asked(&self) -> Asked {
        self.wish.map_or(Asked::Configuration, Asked::Operator)
    }

    pub(crate) fn leader(&self) -> Option<Engine> {
        self.engines().next()
    }

    /// Adds what interfaces dropped that are gone.
    pub(crate) fn add_past_drops(&self, drops: &mut Vec<(&'static str, u64)>) {
        sum(drops, &self.dropped);
    }
}

/// Adds counts to those of the same reason.
pub(crate) fn sum(all: &mut Vec<(&'static str, u64)>, more: &[(&'static str, u64)]) {
    for (reason, count) in more {
        match all.iter_mut().find(|(known, _)| known == reason) {
            Some((_, sum)) => *sum += count,
            None => all.push((reason, *count)),
        }
    }
}

impl Dataplane {
    /// Creates a tunnel's interface, up, and says which engine serves it and why the others do not: the engine that will
    /// serve most of its SAs. Without an SA its packets are dropped and counted.
    pub async fn create_tunnel(&mut self, spec: TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        if self.tunnels.contains_key(&spec.id) {
            return Err(DataplaneError::TunnelExists(spec.id));
        }
        if spec.transport {
            let report = self.create_transport(&spec, self.xfrm.obstacles(&spec)).await?;
            self.pass_policies(&report);
            self.enter(spec, report.clone());
            return Ok(report);
        }
        let order = order(&spec, Asked::Configuration, spec.suites.first().copied(), &self.measured);
        let mut why = Vec::new();
        let mut order = order.into_iter();
        let report = loop {
            let Some(candidate) = order.next() else {
                return Err(DataplaneError::NoEngine(why.join("; ")));
            };
            let engine = candidate.engine;
            if let Err(obstacles) = self.can_serve(engine, &spec) {
                if spec.engine != EngineChoice::Auto {
                    return Err(DataplaneError::EngineUnavailable {
                        engine,
                        interface: spec.interface,
                        reason: obstacles.join("; "),
                    });
                }
                why.extend(obstacles.iter().map(|o| format!("{engine}: {o}")));
                continue;
            }
            match self.open_home(engine, &spec).await {
                Ok(report) => break report,
                Err(error) if spec.engine == EngineChoice::Auto && engine != Engine::User => {
                    why.push(format!("{engine}: {error}"));
                }
                Err(error) => return Err(error),
            }
        };
        why.extend(order.map(|c| format!("{}: {}", c.engine, c.behind)));
        why.extend(report.why);
        let mut report = TunnelReport { why, ..report };
        self.pass_policies(&report);
        self.split(&spec, &mut report);
        self.enter(spec, report.clone());
        Ok(report)
    }

    /// The networks behind the tunnel's peer are these now.
    ///
    /// # Errors
    ///
    /// The tunnel is not known, or the kernel refuses a policy.
    pub fn set_remote_nets(&mut self, id: TunnelId, nets: Vec<ipnet::IpNet>) -> Result<(), DataplaneError> {
        let entry = self.tunnels.get_mut(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        entry.spec.remote_nets.clone_from(&nets);
        if entry.engines().any(|engine| engine == Engine::Xfrm) {
            self.xfrm.set_remote_nets(id, nets)?;
        }
        Ok(())
    }

    fn enter(&mut self, spec: TunnelSpec, report: TunnelReport) {
        let (interface, busy_until) = (spec.interface.clone(), Instant::now());
        let home = Home { interface, busy_until, report: report.clone(), filter: None };
        let entry =
            TunnelEntry { spec, wish: None, homes: vec![home], joined: report.small, dropped: Vec::new() };
        self.tunnels.insert(entry.spec.id, entry);
    }

    /// Whether an engine can serve a tunnel, or what stands in the way.
    fn can_serve(&self, engine: Engine, spec: &TunnelSpec) -> Result<(), Vec<String>> {
        match engine {
            Engine::User | Engine::Bpf if spec.kernel.output_mark.is_some() => {
                Err(vec!["output_mark is set by the kernel's IPsec alone".to_owned()])
            }
            Engine::User => Ok(()),
            Engine::Xfrm | Engine::Bpf if spec.small.is_some() => Err(vec![SPLIT.to_owned()]),
            Engine::Xfrm if spec.engine == EngineChoice::Xfrm && spec.asks_for_xsk() => {
                Err(vec!["the configuration asks for AF_XDP, which is a port of the engine user".to_owned()])
            }
            // Clients share an interface, and where no program divides the port an SPI tells its engine by its parity
            // before the suite is known: then the one must take everything.
            Engine::Xfrm => {
                let all = spec.many || !self.steerings.all_divided() || !self.xfrm.has_interfaces();
                self.xfrm.serves(spec, all)
            }
            Engine::Bpf => {
                let obstacles = self.bpf.obstacles(spec);
                if obstacles.is_empty() { Ok(()) } else { Err(obstacles) }
            }
        }
    }

    async fn open_home(&mut self, engine: Engine, spec: &TunnelSpec) -> Result<TunnelReport, DataplaneError> {
        match engine {
            Engine::User => self.user.create_tunnel(spec),
            Engine::Xfrm => self.xfrm.create_tunnel(spec).await,
            Engine::Bpf => self.bpf.create_tunnel(spec).await,
        }
    }

    async fn close_home(&mut self, engine: Engine, id: TunnelId) -> Result<(), DataplaneError> {
        match engine {
            Engine::User => self.user.remove_tunnel(id).await,
            Engine::Xfrm => self.xfrm.remove_tunnel(id).await,
            Engine::Bpf => self.bpf.remove_tunnel(id).await,
        }
    }

    /// Removes a tunnel with its SAs and its interfaces. Returns when they are gone.
    pub async fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), DataplaneError> {
        let entry = self.tunnels.remove(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        let mut outcome = Ok(());
        // What joined a device goes before the device.
        for engine in entry.engines().collect::<Vec<_>>().into_iter().rev() {
            let closed = self.close_home(engine, id).await;
            outcome = outcome.and(closed);
        }
        self.sas.retain(|owner| self.clients.get(&owner).unwrap_or(&owner) != &id);
        self.late.retain(|(_, inbound, _)| self.sas.get(*inbound).is_ok());
        self.clients.retain(|_, of| *of != id);
        outcome
    }

    /// Removes tunnels, as [`remove_tunnel`](Self::remove_tunnel) does each, together where that is faster. Returns those that
    /// could not be.
    pub async fn remove_tunnels(&mut self, ids: Vec<TunnelId>) -> Vec<(TunnelId, DataplaneError)> {
        let alone = |id: &TunnelId| {
            self.tunnels.get(id).is_some_and(|entry| entry.engines().all(|engine| engine == Engine::User))
        };
        let (together, others): (Vec<TunnelId>, Vec<TunnelId>) = ids.into_iter().partition(alone);
        self.user.remove_tunnels(&together).await;
        let together: std::collections::BTreeSet<TunnelId> = together.into_iter().collect();
        self.tunnels.retain(|id, _| !together.contains(id));
        self.sas.retain(|owner| !together.contains(self.clients.get(&owner).unwrap_or(&owner)));
        self.clients.retain(|_, of| !together.contains(of));
        let mut failed = Vec::new();
        for id in others {
            failed.extend(self.remove_tunnel(id).await.err().map(|error| (id, error)));
        }
        failed
    }

    /// The operator wants this engine for the tunnel's SAs, from the next one on; `None`: what the configuration says.
    ///
    /// # Errors
    /// The engine cannot serve the tunnel; nothing is changed.
    pub fn wish(&mut self, id: TunnelId, wish: Option<EngineChoice>) -> Result<(), DataplaneError> {
        let entry = self.tunnels.get(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        let engine =
            [Engine::User, Engine::Xfrm, Engine::Bpf].into_iter().find(|e| wish == Some((*e).into()));
        if let Some(engine) = engine
            && let Err(obstacles) = self.can_serve(engine, &entry.spec)
        {
            return Err(DataplaneError::EngineUnavailable {
                engine,
                interface: entry.spec.interface.clone(),
                reason: obstacles.join("; "),
            });
        }
        if entry.is_alone() || (engine == Some(Engine::Xfrm) && !self.xfrm.has_interfaces()) {
            let reason = POLICIES.to_owned();
            return Err(DataplaneError::EngineUnavailable {
                engine: engine.unwrap_or(Engine::User),
                interface: entry.spec.interface.clone(),
                reason,
            });
        }
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.wish = wish;
        }
        Ok(())
    }

    /// What the operator wants for the tunnel, over the configuration.
    pub fn wished(&self, id: TunnelId) -> Option<EngineChoice> {
        self.tunnels.get(&self.tunnel_of(id))?.wish
    }

    /// The engine that the tunnel's next SA of this suite, or of the one that is offered first, should have, as far as it
    /// can be told before it is installed.
    pub fn preferred(&self, id: TunnelId, suite: Option<Suite>) -> Option<Engine> {
        let entry = self.tunnels.get(&self.tunnel_of(id))?;
        let suite = suite.or(entry.spec.suites.first().copied());
        let order = order(&entry.spec, entry.asked(), suite, &self.measured);
        order.into_iter().map(|c| c.engine).find(|engine| self.can_serve(*engine, &entry.spec).is_ok())
    }

    /// What parity the inbound SPIs of an engine's SAs must have.
    pub fn spi_parity(&self, engine: Engine) -> Parity {
        match engine {
            Engine::Xfrm => Parity::Odd,
            // What the programs of bpf leave to the stack comes to the sockets of user.
            Engine::User | Engine::Bpf => Parity::Even,
        }
    }

    pub(crate) async fn install_setup(
        &mut self,
        mut setup: SaSetup,
        lifetime: Duration,
        wish: Option<Engine>,
        use_outbound: bool,
    ) -> Result<InstallReport, DataplaneError> {
        let owner = setup.tunnel;
        setup.tunnel = self.tunnel_of(owner);
        self.sas.check_free(setup.inbound)?;
        let mut why = Vec::new();
        let mut last = None;
        let mut candidates = self.candidates(owner, setup.suite, setup.purpose, wish)?.into_iter();
        while let Some(Candidate { engine, .. }) = candidates.next() {
            if let Err(reason) = self.takes(engine, &setup) {
                why.push(format!("{engine}: {reason}"));
                continue;
            }
            let installed = match self.house(setup.tunnel, engine).await {
                Ok(()) => self.put(engine, &setup, lifetime, use_outbound).await,
                Err(error) => Err(error),
            };
            match installed {
                Ok(note) => {
                    self.sas.add(setup.inbound, owner, engine, setup.purpose);
                    why.extend(note);
                    why.extend(candidates.map(|c| format!("{}: {}", c.engine, c.behind)));
                    return Ok(InstallReport { engine, why });
                }
                Err(error) if engine != Engine::User && is_refusal(&error) => {
                    self.steerings.take_back(setup.inbound);
                    why.push(format!("{engine}: {error}"));
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| DataplaneError::NoEngine(why.join("; "))))
    }

    /// The engines for an SA, the best first.
    fn candidates(
        &self,
        owner: TunnelId,
        suite: Suite,
        purpose: Purpose,
        wish: Option<Engine>,
    ) -> Result<Vec<Candidate>, DataplaneError> {
        let id = self.tunnel_of(owner);
        let entry = self.tunnels.get(&id).ok_or(DataplaneError::UnknownTunnel(owner))?;
        let only = wish.or((purpose == Purpose::Small).then_some(Engine::Bpf));
        if let Some(engine) = only {
            if !entry.engines().any(|there| there == engine) {
                return Err(DataplaneError::NotServedBy { tunnel: owner, engine });
            }
            return Ok(vec![Candidate { engine, behind: String::new() }]);
        }
        let asked = entry.asked();
        let mut candidates = order(&entry.spec, asked, Some(suite), &self.measured);
        // Those for a worker stand beside the one for all packets, or nowhere.
        let beside = matches!(purpose, Purpose::Resource(_));
        // Packets to clients find the one interface of their tunnel, policies of the host take what is theirs from all.
        if beside || entry.spec.many || entry.is_alone() {
            candidates.retain(|c| Some(c.engine) == entry.leader());
        }
        if entry.spec.kernel.output_mark.is_some() {
            candidates.retain(|c| c.engine == Engine::Xfrm);
        }
        Ok(candidates)
    }

    /// Whether an engine takes this SA, as far as it can be told before it is tried.
    fn takes(&self, engine: Engine, setup: &SaSetup) -> Result<(), String> {
        let odd = setup.inbound.value() & 1 == 1;
        let misplaced =
            (engine == Engine::Xfrm) != odd && setup.encap && !self.steerings.divided(setup.local);
        if misplaced && (engine == Engine::Xfrm || self.xfrm.is_open()) {
            return Err(format!(
                "the SPI {} is another engine's, and no program divides UDP port {} here",
                setup.inbound, self.natt_port
            ));
        }
        if !self.can_have(engine, setup.purpose) {
            return Err(DataplaneError::Purpose(engine, setup.purpose).to_string());
        }
        match engine {
            Engine::User => Ok(()),
            Engine::Xfrm => self.xfrm.takes(setup),
            Engine::Bpf => self.bpf.takes(setup),
        }
    }

    /// Has the engine have an interface for the tunnel. It has another name than the tunnel's while that is taken.
    async fn house(&mut self, id: TunnelId, engine: Engine) -> Result<(), DataplaneError> {
        let entry = self.tunnels.get(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        if entry.home(engine).is_some() || (entry.joined && engine == Engine::Bpf) {
            return Ok(());
        }
        self.can_serve(engine, &entry.spec).map_err(|obstacles| DataplaneError::EngineUnavailable {
            engine,
            interface: entry.spec.interface.clone(),
            reason: obstacles.join("; "),
        })?;
        if engine == Engine::Xfrm && !self.xfrm.has_interfaces() {
            return Err(DataplaneError::EngineUnavailable {
                engine,
                interface: entry.spec.interface.clone(),
                reason: POLICIES.to_owned(),
            });
        }
        let spec = TunnelSpec { interface: beside(id, engine), ..entry.spec.clone() };
        let report = self.open_home(engine, &spec).await?;
        let busy_until = Instant::now() + QUEUE_DRAINS;
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.homes.push(Home { interface: spec.interface, report, busy_until, filter: None });
            // Packets may come in by the one and be routed out by the other for a while.
            for home in entry.homes.iter_mut().filter(|home| home.filter.is_none()) {
                home.filter = filter_loosely(&home.interface);
            }
        }
        Ok(())
    }

    /// Says what the engine has to tell of it.
    async fn put(
        &mut self,
        engine: Engine,
        setup: &SaSetup,
        lifetime: Duration,
        use_outbound: bool,
    ) -> Result<Option<String>, DataplaneError> {
        match engine {
            Engine::User => self.user.install(setup, use_outbound).await.map(|()| None),
            Engine::Xfrm => {
                if setup.encap && setup.inbound.value() & 1 == 0 {
                    self.steerings.give_kernel(setup.inbound);
                }
                self.xfrm.install(setup, lifetime, use_outbound).await
            }
            Engine::Bpf => {
                self.user.listen(setup.local, setup.encap)?;
                self.bpf.install(setup, use_outbound).await.map(|()| None)
            }
        }
    }

    /// The name of the interface that an engine has for a tunnel.
    pub fn interface(&self, id: TunnelId, engine: Engine) -> Option<&str> {
        let entry = self.tunnels.get(&self.tunnel_of(id))?;
        entry.home(engine).map(|home| home.interface.as_str())
    }

    /// How the engine that leads a tunnel serves it.
    pub fn leading(&self, id: TunnelId) -> Option<&TunnelReport> {
        self.tunnels.get(&self.tunnel_of(id))?.homes.first().map(|home| &home.report)
    }

    /// From now on the tunnel's interface is that of this engine, and gets the tunnel's name if the kernel renames
    /// interfaces that are up (Linux 6.2); with an older one when those before it are gone, as a further name. Routes and addresses
    /// are the caller's to move at once. Those of the others go when they have no SA any more, see [`retire`](Self::retire).
    pub async fn lead(&mut self, id: TunnelId, engine: Engine) -> Result<TunnelReport, DataplaneError> {
        let id = self.tunnel_of(id);
        let entry = self.tunnels.get_mut(&id).ok_or(DataplaneError::UnknownTunnel(id))?;
        let unknown = DataplaneError::NotServedBy { tunnel: id, engine };
        let at = entry.homes.iter().position(|home| home.report.engine == engine).ok_or(unknown)?;
        if at > 0 {
            let home = entry.homes.remove(at);
            entry.homes.insert(0, home);
            self.exchange_names(id).await;
        }
        self.leading(id).cloned().ok_or(DataplaneError::UnknownTunnel(id))
    }

    /// Gives the leading interface the tunnel's name, if one that has it gives it up.
    async fn exchange_names(&mut self, id: TunnelId) {
        let Ok(netlink) = Netlink::connect() else { return };
        let Some(entry) = self.tunnels.get_mut(&id) else { return };
        let name = entry.spec.interface.clone();
        if let Some(holder) = entry.homes.iter_mut().skip(1).find(|home| home.interface == name) {
            let aside = beside(id, holder.report.engine);
            if netlink.rename(&name, &aside).await.is_err() {
                return;
            }
            holder.interface.clone_from(&aside);
            let engine = holder.report.engine;
            self.tell_name(id, engine, &aside);
        }
        self.take_name(id, &netlink).await;
    }

    /// Gives the leading interface the tunnel's name, which nobody has.
    async fn take_name(&mut self, id: TunnelId, netlink: &Netlink) {
        let Some(entry) = self.tunnels.get_mut(&id) else { return };
        let name = entry.spec.interface.clone();
        let Some(leader) = entry.homes.first_mut().filter(|home| home.interface != name) else { return };
        match netlink.rename(&leader.interface, &name).await {
            Ok(()) => {
                leader.interface.clone_from(&name);
                let engine = leader.report.engine;
                self.tell_name(id, engine, &name);
            }
            Err(error) => {
                let interface = leader.interface.clone();
                match netlink.add_name(&interface, &name).await {
                    Ok(()) => {
                        tracing::warn!(interface, "{name} is a further name of this interface only: {error}")
                    }
                    Err(further) => {
                        tracing::warn!(interface, "the tunnel's interface is not {name}: {error}; {further}");
                    }
                }
            }
        }
    }

    fn tell_name(&mut self, id: TunnelId, engine: Engine, name: &str) {
        match engine {
            // A TUN device knows its name.
            Engine::User => {}
            Engine::Xfrm => self.xfrm.renamed(id, name),
            Engine::Bpf => self.bpf.renamed(id, name),
        }
    }

    /// Sends with this SA no more, and accepts its packets for `drain` still. One whose interface leads no more seals
    /// what was on its way into that for a moment longer.
    pub async fn remove(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        let sa = self.sas.get(inbound)?;
        let entry = self.tunnels.get(&self.tunnel_of(sa.owner()));
        let leads = |entry: &TunnelEntry| {
            entry.leader() == Some(sa.engine()) || (entry.joined && sa.engine() == Engine::Bpf)
        };
        if !drain.is_zero() && entry.is_some_and(|entry| !leads(entry)) {
            self.late.push((Instant::now() + QUEUE_DRAINS, inbound, drain));
            return Ok(());
        }
        self.end(inbound, drain)
    }

    fn end(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        let sa = self.sas.get(inbound)?;
        let (engine, id) = (sa.engine(), self.tunnel_of(sa.owner()));
        let removed = match engine {
            Engine::User => self.user.remove(inbound, drain),
            Engine::Xfrm => self.xfrm.remove(inbound, drain),
            Engine::Bpf => self.bpf.remove(inbound, drain),
        };
        self.sas.remove(inbound);
        if engine == Engine::Xfrm {
            self.steerings.take_back(inbound);
        }
        let home = self.tunnels.get_mut(&id);
        if let Some(home) =
            home.and_then(|entry| entry.homes.iter_mut().find(|home| home.report.engine == engine))
        {
            home.busy_until = home.busy_until.max(Instant::now() + drain + QUEUE_DRAINS);
        }
        removed
    }

    /// Ends what has drained: SAs whose interfaces lead no more, and then those interfaces. To be called every second or so.
    /// Returns the tunnels whose interfaces are others now.
    pub async fn retire(&mut self) -> Vec<TunnelId> {
        let now = Instant::now();
        let due: Vec<_> = self.late.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, inbound, drain) in due {
            if let Err(error) = self.end(inbound, drain) {
                tracing::warn!("cannot remove a CHILD SA (in {inbound}): {error}");
            }
        }
        let mut idle = Vec::new();
        for (id, entry) in &self.tunnels {
            for home in entry.homes.iter().skip(1).filter(|home| home.busy_until <= now) {
                if !self.sas.any(|owner, engine| self.tunnel_of(owner) == *id && engine == home.report.engine)
                {
                    idle.push((*id, home.report.engine));
                }
            }
        }
        let mut changed = Vec::new();
        for (id, engine) in idle {
            let drops = self.drops_in(engine).into_iter().find(|drops| drops.tunnel == id);
            if let Err(error) = self.close_home(engine, id).await {
                tracing::warn!("cannot remove what engine {engine} had of {id:?}: {error}");
            }
            let Some(entry) = self.tunnels.get_mut(&id) else { continue };
            entry.homes.retain(|home| home.report.engine != engine);
            sum(&mut entry.dropped, &drops.map(|d| d.drops).unwrap_or_default());
            if let [only] = entry.homes.as_mut_slice()
                && let Some(before) = only.filter.take()
            {
                filter_again(&only.interface, &before);
            }
            if let Ok(netlink) = Netlink::connect() {
                self.take_name(id, &netlink).await;
            }
            changed.push(id);
        }
        changed
    }
}

/// The name of an interface that is not, or not yet, its tunnel's.
fn beside(id: TunnelId, engine: Engine) -> String {
    let letter = match engine {
        Engine::User => 'u',
        Engine::Xfrm => 'x',
        Engine::Bpf => 'b',
    };
    format!("cv-~{:x}{letter}", id.0)
}
