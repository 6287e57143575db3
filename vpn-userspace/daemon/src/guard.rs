//! The guard (the `wan` classifier) as the daemon uses it: attached to each WAN interface, fed with SAs.
//!
//! It only saves work: whatever it lets through is checked again. So a host that cannot have it, or not where the
//! configuration wants it, still gets its tunnels, with a warning.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use culvert_config::{Attach, Config};
use culvert_dataplane::{Dataplane, LanDevice, Redirects, SaStats};
use culvert_ike::ChildSa;
use culvert_sys::guard::{
    AttachMode, AttachedMode, Guard, GuardCounter, GuardError, GuardMode, GuardOptions, GuardSa, GuardSample,
    SaPath,
};
use culvert_sys::xsk::device_index;
use culvert_types::Spi;

/// Bytes of SPI and sequence number.
const ESP_HEADER: usize = 8;

pub(crate) struct WanGuard {
    guard: Option<Guard>,
    pub(crate) mode: culvert_config::Guard,
    pub(crate) wan: Vec<WanInterface>,
    /// Why packets are not spread over the CPUs that they shall be spread over.
    pub(crate) unspread: Option<String>,
    locals: Vec<IpAddr>,
    /// Inbound SAs that drain: their entries go at that time.
    leaving: Vec<(Instant, Spi)>,
    /// How many IKE SAs stand with an address.
    proven: BTreeMap<IpAddr, usize>,
    /// Why engine `bpf` does not stand at a device, as it was said last.
    bpf_fault: Option<String>,
    /// Devices of the LAN whose packets it cannot take, and why.
    refused: Vec<(LanDevice, String)>,
}

/// A WAN interface and how the guard sits on it.
pub(crate) struct WanInterface {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) attached: Option<AttachedMode>,
    pub(crate) reason: Option<String>,
    /// The device by its index, and whether XDP was wanted, when it was attached or could not be.
    tried: (Option<u32>, bool),
}

impl WanGuard {
    /// Loads the guard and attaches it to the interfaces, as far as the host lets it.
    pub(crate) fn start(config: &Config, interfaces: Vec<(String, Vec<IpAddr>)>) -> Self {
        let mode = config.gateway.guard;
        let interface = |(name, addresses)| WanInterface {
            name,
            addresses,
            attached: None,
            reason: None,
            tried: (None, false),
        };
        let wan: Vec<WanInterface> = interfaces.into_iter().map(interface).collect();
        let locals = wan.iter().flat_map(|w| w.addresses.iter().copied()).collect();
        let mut this = Self {
            guard: None,
            mode,
            wan,
            unspread: None,
            locals,
            leaving: Vec::new(),
            proven: BTreeMap::new(),
            bpf_fault: None,
            refused: Vec::new(),
        };
        // Also with `guard = "off"`: a culvertd that was killed may have left one.
        match Guard::cleanup_stale() {
            Ok(stale) if !stale.is_empty() => {
                tracing::warn!("removed stale eBPF programs: {}", stale.join(", "))
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("cannot look for stale eBPF programs: {error}"),
        }
        let kernel_mode = match mode {
            culvert_config::Guard::Off => {
                this.explain_absence("guard = \"off\"");
                return this;
            }
            culvert_config::Guard::On => GuardMode::On,
            culvert_config::Guard::Learn => GuardMode::Learn,
        };
        let options = GuardOptions {
            mode: kernel_mode,
            local_addresses: this.locals.clone(),
            ..GuardOptions::default()
        };
        let mut guard = match Guard::load(options) {
            Ok(guard) => guard,
            Err(error) => {
                tracing::warn!("runs without the guard: {error}");
                this.explain_absence(&error.to_string());
                return this;
            }
        };
        for interface in &mut this.wan {
            attach(&mut guard, interface, config);
        }
        this.unspread = guard.spread(crate::spread::cpus(config)).err().map(|error| error.to_string());
        this.guard = Some(guard);
        this
    }

    fn explain_absence(&mut self, reason: &str) {
        for interface in &mut self.wan {
            interface.reason = Some(reason.to_owned());
        }
    }

    /// The interfaces' addresses are these now, for the status.
    pub(crate) fn set_addresses(&mut self, interfaces: Vec<(String, Vec<IpAddr>)>) {
        for (name, addresses) in interfaces {
            if let Some(wan) = self.wan.iter_mut().find(|w| w.name == name) {
                wan.addresses = addresses;
            }
        }
    }

    /// Judges packets to this address too.
    pub(crate) fn add_local(&mut self, address: IpAddr) {
        if !self.locals.contains(&address) {
            self.locals.push(address);
            let locals = self.locals.clone();
            self.with("learn a local address", |guard| guard.set_local_addresses(&locals));
        }
    }

    /// Lets the SA's packets through; those of a peer that `roams` from wherever they come.
    pub(crate) fn insert_sa(&mut self, sa: &ChildSa, roams: bool) {
        let suite = sa.suite();
        let shortest = ESP_HEADER + suite.iv_len() + suite.alignment() + suite.icv_len();
        let entry = GuardSa {
            spi: sa.inbound(),
            local: sa.local(),
            remote: (!roams).then(|| sa.remote()),
            min_len: u16::try_from(shortest).unwrap_or(u16::MAX),
            alignment: u8::try_from(suite.alignment()).unwrap_or(1),
            esn: sa.esn(),
        };
        self.with("learn an SA", |guard| guard.insert_sa(entry));
    }

    /// Attaches anew where a device is another one than it was, or where AF_XDP is wanted now and was not.
    pub(crate) fn tend(&mut self, config: &Config) {
        let Some(guard) = &mut self.guard else { return };
        for interface in &mut self.wan {
            let index = device_index(&interface.name);
            if index.is_none() || interface.tried == (index, wants_xdp(config)) {
                continue;
            }
            guard.detach(&interface.name);
            (interface.attached, interface.reason) = (None, None);
            attach(guard, interface, config);
        }
        let refused = std::mem::take(&mut self.refused);
        for (device, _) in refused {
            match device.attach(guard) {
                Ok(()) => tracing::info!("packets of the LAN are taken at {}", device.name),
                // The status says so for as long as it is so; the log did when it began.
                Err(error) => self.refused.push((device, lan_refusal(&error))),
            }
        }
    }

    /// Devices whose packets come by the kernel though AF_XDP or engine `bpf` is wanted there: why, and what to do, a line each.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        let told = |(device, why): &(LanDevice, String)| {
            format!("{} is not served by lan_port = \"xsk\", the kernel has its packets: {why}", device.name)
        };
        let bpf = self.bpf_fault.iter();
        let bpf = bpf.map(|fault| format!("{fault}; packets of engine bpf take the stack's way there"));
        self.refused.iter().map(told).chain(bpf)
    }

    /// Leads packets to AF_XDP sockets, and no more to those that are gone.
    pub(crate) fn redirect(&mut self, mut redirects: Redirects) {
        let lans = std::mem::take(&mut redirects.lans);
        self.refused.retain(|(device, _)| !redirects.gone.contains(&device.index));
        match &mut self.guard {
            Some(guard) => {
                for (what, error) in redirects.tell(guard) {
                    tracing::warn!("the guard cannot {what}: {error}; the kernel serves there");
                }
                for device in lans {
                    if let Err(error) = device.attach(guard) {
                        tracing::warn!("cannot take packets of the LAN at {}: {error}", device.name);
                        self.refused.push((device, lan_refusal(&error)));
                    }
                }
            }
            None => {
                let why = "there is no guard, which would redirect them: see GUARD above";
                self.refused.extend(lans.into_iter().map(|device| (device, why.to_owned())));
            }
        }
    }

    /// Has the programs of engine `bpf` stand behind it, or alone where it is not.
    pub(crate) fn precede(&mut self, plane: &mut Dataplane) {
        let fault = plane.settle_hooks(self.guard.as_mut()).err().map(|error| error.to_string());
        if self.bpf_fault != fault
            && let Some(fault) = &fault
        {
            tracing::warn!("{fault}; packets of engine bpf take the stack's way there");
        }
        self.bpf_fault = fault;
    }

    /// Which way the SA's packets go.
    pub(crate) fn set_path(&mut self, inbound: Spi, path: SaPath) {
        self.with("set an SA's path", |guard| match guard.set_path(inbound, path) {
            // Its insertion failed, which was said then.
            Err(GuardError::NoSuchSa { .. }) => Ok(()),
            other => other,
        });
    }

    /// Follows an SA's peer; without a remote address it may be anywhere.
    pub(crate) fn move_sa(&mut self, inbound: Spi, local: IpAddr, remote: Option<IpAddr>) {
        self.with("follow a peer", |guard| guard.move_sa(inbound, local, remote));
    }

    /// Stops letting the SA's packets through, once it has drained.
    pub(crate) fn remove_sa(&mut self, inbound: Spi, at: Instant) {
        self.leaving.push((at, inbound));
    }

    /// Does what [`remove_sa`](Self::remove_sa) promised.
    pub(crate) fn expire(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.leaving).into_iter().partition(|(at, _)| *at <= now);
        self.leaving = later;
        let due: Vec<(Instant, Spi)> = due;
        for (_, spi) in due {
            self.with("forget an SA", |guard| match guard.remove_sa(spi) {
                // Its insertion failed, which was said then.
                Err(GuardError::NoSuchSa { .. }) => Ok(()),
                other => other,
            });
        }
    }

    /// Takes the limits off a source that authenticated.
    pub(crate) fn prove(&mut self, source: IpAddr) {
        let count = self.proven.entry(source).or_default();
        *count += 1;
        if *count == 1 {
            self.with("trust a peer's address", |guard| guard.prove_source(source));
        }
    }

    /// Takes note that one IKE SA with a source is gone.
    pub(crate) fn forget(&mut self, source: IpAddr) {
        let Some(count) = self.proven.get_mut(&source) else { return };
        *count -= 1;
        if *count == 0 {
            self.proven.remove(&source);
            self.with("forget a peer's address", |guard| guard.forget_source(source));
        }
    }

    /// Tells the guard how old a packet may be, from what the engines have seen.
    pub(crate) fn publish(&mut self, stats: &[SaStats]) {
        for sa in stats {
            self.with("publish a replay floor", |guard| {
                match guard.publish_replay_floor(sa.inbound, sa.replay_floor) {
                    Err(GuardError::NoSuchSa { .. }) => Ok(()),
                    other => other,
                }
            });
        }
    }

    pub(crate) fn counters(&self) -> Vec<GuardCounter> {
        let read = self.guard.as_ref().map(Guard::counters).transpose();
        read.unwrap_or_else(|error| {
            tracing::warn!("cannot read the guard's counters: {error}");
            None
        })
        .unwrap_or_default()
    }

    /// Has samples taken of what is dropped in this second; 0: no more.
    pub(crate) fn look_at_drops(&mut self, epoch: u32) {
        self.with("show what it drops", |guard| guard.look(epoch));
    }

    /// The next sample.
    pub(crate) fn take_drop_sample(&mut self) -> Option<GuardSample> {
        self.guard.as_mut().and_then(Guard::take_sample)
    }

    /// The name of the WAN interface with this index.
    pub(crate) fn interface(&self, index: u32) -> Option<String> {
        let of = |wan: &&WanInterface| device_index(&wan.name) == Some(index);
        self.wan.iter().find(of).map(|wan| wan.name.clone())
    }

    /// Detaches it and takes its maps away.
    pub(crate) fn stop(&mut self) {
        self.guard = None;
    }

    fn with(&mut self, what: &str, act: impl FnOnce(&mut Guard) -> Result<(), GuardError>) {
        if let Some(guard) = &mut self.guard
            && let Err(error) = act(guard)
        {
            tracing::warn!("the guard cannot {what}: {error}");
        }
    }
}

/// Why packets of the LAN cannot be taken, where the guard's own words name a mend that is for the WAN.
fn lan_refusal(error: &GuardError) -> String {
    match error {
        GuardError::Occupied { interface } => format!(
            "another XDP program is attached to it; remove that (`ip link set dev {interface} xdp off`), or set lan_port = \"tun\""
        ),
        GuardError::AlreadyAttached { interface } => {
            format!("{interface} is an interface of the WAN too; take it out of lan in [gateway]")
        }
        error => error.to_string(),
    }
}

/// Whether packets are spread over CPUs, a connection's packets come by AF_XDP, or shall be the engine's `bpf` under XDP, before
/// which it must stand.
fn wants_xdp(config: &Config) -> bool {
    let early = config.gateway.dataplane.bpf_hook == culvert_config::BpfHook::Xdp;
    config.gateway.dataplane.steer
        || config.connections.iter().any(|c| {
            c.wan_port == culvert_config::WanPort::Xsk || early && c.engine == culvert_config::Engine::Bpf
        })
}

/// Attaches as asked for, or else as the interface takes it: a slower guard is better than none. AF_XDP asks for XDP.
fn attach(guard: &mut Guard, interface: &mut WanInterface, config: &Config) {
    interface.tried = (device_index(&interface.name), wants_xdp(config));
    let wanted = match config.gateway.attach {
        Attach::Auto if wants_xdp(config) => &[AttachMode::XdpNative, AttachMode::XdpGeneric][..],
        Attach::Auto => &[],
        Attach::XdpNative => &[AttachMode::XdpNative],
        Attach::XdpGeneric => &[AttachMode::XdpGeneric],
        Attach::Tcx => &[AttachMode::Tcx],
    };
    let mut refused = None;
    let mut result = Err(None);
    for mode in wanted.iter().copied().chain([AttachMode::Auto]) {
        match guard.attach(&interface.name, mode) {
            Ok(attached) => {
                result = Ok(attached);
                break;
            }
            Err(error) if mode != AttachMode::Auto => {
                if config.gateway.attach != Attach::Auto {
                    tracing::warn!(
                        "{error}; set attach = \"auto\" in [gateway] for what the interface takes"
                    );
                }
                refused = Some(error.to_string());
            }
            Err(error) => result = Err(Some(error)),
        }
    }
    match result {
        Ok(attached) => {
            let reason = refused.or(attached.reason);
            let because = reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
            tracing::info!("guard attached to {} by {}{because}", interface.name, attached.mode.name());
            interface.attached = Some(attached.mode);
            interface.reason = reason;
        }
        Err(error) => {
            let error = error.map(|e| e.to_string()).unwrap_or_default();
            tracing::warn!("{} runs without the guard: {error}", interface.name);
            interface.reason = Some(error);
        }
    }
}
