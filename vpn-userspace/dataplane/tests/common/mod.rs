//! A gateway of the lab: a data plane that lives in a namespace, with keys from nowhere.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use culvert_crypto::{Suite, SuiteKeys};
use culvert_dataplane::testing::{self, Limits, Purpose, SaSetup};
use culvert_dataplane::{
    Dataplane, DataplaneConfig, DataplaneError, DataplaneEvent, EngineChoice, HookChoice, KernelIpsec,
    LanPortChoice, OffloadSwitches, SaStats, SmallPackets, TunnelSpec, WanPortChoice,
};
use culvert_lab::Namespace;
use culvert_lab::topology::{LAN_A, LAN_A6, LAN_B, LAN_B6};
use culvert_sys::wan::WanError;
use culvert_types::{Spi, TrafficSelector, TunnelId};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

/// The one tunnel.
pub(crate) const TUNNEL: TunnelId = TunnelId(1);
/// Its interface, on both sides.
pub(crate) const INTERFACE: &str = "cv-test";

/// How both sides of a test are set up.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) engine: EngineChoice,
    /// Engine `bpf` cuts the way of packets short on the LAN.
    pub(crate) direct: bool,
    pub(crate) suite: &'static str,
    pub(crate) encap: bool,
    pub(crate) esn: bool,
    pub(crate) limits: Option<Limits>,
    /// What lies behind A and behind B.
    pub(crate) nets: (Vec<&'static str>, Vec<&'static str>),
    pub(crate) mtu: Option<u32>,
    pub(crate) busy_poll: bool,
    pub(crate) offloads: OffloadSwitches,
    pub(crate) wan_port: WanPortChoice,
    /// Where the programs of engine `bpf` stand.
    pub(crate) hook: HookChoice,
    /// Small packets have engine `bpf`.
    pub(crate) small: Option<SmallPackets>,
    /// A queue of the device for each worker.
    pub(crate) spread: bool,
    /// The networks are then the gateways' own addresses.
    pub(crate) transport: bool,
    pub(crate) lan_port: LanPortChoice,
    pub(crate) kernel: KernelIpsec,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: EngineChoice::User,
            direct: false,
            suite: "aes128gcm16",
            encap: true,
            esn: true,
            limits: None,
            nets: (vec![LAN_A, LAN_A6], vec![LAN_B, LAN_B6]),
            mtu: None,
            busy_poll: false,
            offloads: OffloadSwitches::default(),
            wan_port: WanPortChoice::Socket,
            hook: HookChoice::Tc,
            small: None,
            spread: false,
            transport: false,
            lan_port: LanPortChoice::Tun,
            kernel: KernelIpsec::default(),
        }
    }
}

pub(crate) fn suite(name: &str) -> Suite {
    Suite::all().find(|s| s.to_string() == name).expect("a suite of that name")
}

pub(crate) struct Gateway<'a> {
    namespace: &'a Namespace,
    runtime: Runtime,
    pub(crate) dataplane: Dataplane,
    pub(crate) events: UnboundedReceiver<DataplaneEvent>,
    pub(crate) local: IpAddr,
    pub(crate) options: Options,
    is_a: bool,
}

type Work<'d, T> = Pin<Box<dyn Future<Output = T> + 'd>>;

impl<'a> Gateway<'a> {
    /// Starts it with its tunnel, routes the peer's networks into it, installs nothing.
    pub(crate) fn start(namespace: &'a Namespace, is_a: bool, local: &str, options: &Options) -> Self {
        let local: IpAddr = local.parse().unwrap();
        // Its thread is of the namespace, and keeps time and listens to the kernel between calls too.
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = namespace.within(runtime).unwrap().unwrap();
        let lan = if options.direct || options.lan_port == LanPortChoice::Xsk {
            vec!["lan".to_owned()]
        } else {
            Vec::new()
        };
        let config = DataplaneConfig {
            wan: vec![local],
            lan,
            bpf_hook: options.hook,
            workers: 2,
            busy_poll: options.busy_poll,
            offloads: options.offloads,
            wan_devices: vec!["wan".to_owned()],
            ..DataplaneConfig::default()
        };
        // A process that another test has just started holds copies of this one's sockets, those of a gateway that is gone
        // among them, until its `exec`.
        let mut patience = 100;
        let (dataplane, events) = loop {
            let config = config.clone();
            match namespace.within(|| runtime.block_on(Dataplane::start(config))).unwrap() {
                Err(DataplaneError::Wan(WanError::PortTaken { .. })) if patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                started => break started.unwrap(),
            }
        };
        let mut gateway =
            Self { namespace, runtime, dataplane, events, local, options: options.clone(), is_a };
        let spec = gateway.spec();
        gateway.run(move |d| Box::pin(d.create_tunnel(spec))).unwrap();
        if options.hook != HookChoice::Tc {
            let Self { namespace, dataplane, .. } = &mut gateway;
            namespace.within(|| dataplane.settle_hooks(None)).unwrap().unwrap();
        }
        let (_, theirs) = gateway.nets();
        for net in theirs.into_iter().filter(|_| !options.transport) {
            namespace.ip(&format!("route add {net} dev {INTERFACE}")).unwrap();
        }
        gateway
    }

    pub(crate) fn spec(&self) -> TunnelSpec {
        TunnelSpec {
            id: TUNNEL,
            interface: INTERFACE.to_owned(),
            engine: self.options.engine,
            suites: vec![suite(self.options.suite)],
            inside: Vec::new(),
            mtu: self.options.mtu,
            encap: self.options.encap,
            spread: self.options.spread,
            wan_port: self.options.wan_port,
            transport: self.options.transport,
            lan_port: self.options.lan_port,
            remote_nets: self.nets().1.iter().map(|n| n.parse().unwrap()).collect(),
            small: self.options.small,
            many: false,
            kernel: self.options.kernel,
        }
    }

    fn nets(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let (a, b) = self.options.nets.clone();
        if self.is_a { (a, b) } else { (b, a) }
    }

    /// Calls the data plane inside the namespace.
    pub(crate) fn run<T: Send>(
        &mut self,
        work: impl for<'d> FnOnce(&'d mut Dataplane) -> Work<'d, T> + Send,
    ) -> T {
        let Self { namespace, runtime, dataplane, .. } = self;
        namespace.within(|| runtime.block_on(work(dataplane))).unwrap()
    }

    /// The SA pair of a generation: 1 is the first, 2 what it is rekeyed to...
    pub(crate) fn setup(&self, generation: u32, remote: SocketAddr) -> SaSetup {
        let suite = suite(self.options.suite);
        let keys = |seed: u32| {
            let bytes: Vec<u8> = (0..160u32).map(|i| (i * 7 + seed * 13 + generation) as u8).collect();
            SuiteKeys::new(&bytes[..suite.encryption_key_len()], &bytes[80..80 + suite.integrity_key_len()])
        };
        // Kernel SAs have odd SPIs, by which a packet in UDP finds the kernel's socket.
        let parity = u32::from(self.options.engine == EngineChoice::Xfrm);
        let (spi_a, spi_b) = (0x1000 + generation * 2 + parity, 0x8000 + generation * 2 + parity);
        let ((inbound, mine), (outbound, theirs)) =
            if self.is_a { ((spi_a, 1), (spi_b, 2)) } else { ((spi_b, 2), (spi_a, 1)) };
        let selectors = |nets: Vec<&str>| {
            nets.into_iter().map(|n| TrafficSelector::from_net(n.parse().unwrap())).collect()
        };
        let (ours, peers) = self.nets();
        SaSetup {
            tunnel: TUNNEL,
            inbound: Spi::new(inbound).unwrap(),
            outbound: Spi::new(outbound).unwrap(),
            suite,
            inbound_keys: keys(mine),
            outbound_keys: keys(theirs),
            esn: self.options.esn,
            replay_window: 1024,
            local_ts: selectors(ours),
            remote_ts: selectors(peers),
            local: self.local,
            remote,
            encap: self.options.encap,
            purpose: Purpose::All,
            limits: self.options.limits.unwrap_or(Limits::of(suite, self.options.esn)),
        }
    }

    pub(crate) fn install(&mut self, generation: u32, peer: IpAddr, use_outbound: bool) -> Spi {
        self.install_for(generation, peer, Purpose::All, use_outbound)
    }

    /// The same, for a purpose.
    pub(crate) fn install_for(
        &mut self,
        generation: u32,
        peer: IpAddr,
        purpose: Purpose,
        use_outbound: bool,
    ) -> Spi {
        let remote = SocketAddr::new(peer, if self.options.encap { 4500 } else { 0 });
        let setup = SaSetup { purpose, ..self.setup(generation, remote) };
        let inbound = setup.inbound;
        self.run(move |d| Box::pin(async move { testing::install(d, &setup, use_outbound).await })).unwrap();
        inbound
    }

    pub(crate) fn activate(&mut self, inbound: Spi) {
        self.run(move |d| Box::pin(d.activate_outbound(inbound))).unwrap();
    }

    pub(crate) fn remove(&mut self, inbound: Spi, drain: Duration) -> Result<(), DataplaneError> {
        self.run(move |d| Box::pin(d.remove(inbound, drain)))
    }

    pub(crate) fn stats(&mut self) -> Vec<SaStats> {
        let mut stats = self.run(|d| Box::pin(async { d.stats().await }));
        stats.sort_by_key(|s| s.inbound);
        stats
    }

    /// Packets dropped for a reason, wherever it is counted.
    pub(crate) fn dropped(&mut self, reason: &str) -> u64 {
        let of = |drops: &[(&'static str, u64)]| -> u64 {
            drops.iter().filter(|(r, _)| *r == reason).map(|(_, n)| n).sum()
        };
        let sas: u64 = self.stats().iter().map(|s| of(&s.drops)).sum();
        let tunnels: u64 =
            self.run(|d| Box::pin(async { d.tunnel_drops() })).iter().map(|t| of(&t.drops)).sum();
        sas + tunnels + of(&self.dataplane.wan_drops())
    }

    /// The first event that is meant, within five seconds; others are passed over.
    pub(crate) fn event<T>(&mut self, mut meant: impl FnMut(&DataplaneEvent) -> Option<T>) -> Option<T> {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            match self.events.try_recv() {
                Ok(event) => {
                    if let Some(found) = meant(&event) {
                        return Some(found);
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        None
    }
}
