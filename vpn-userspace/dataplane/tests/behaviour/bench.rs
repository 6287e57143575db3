//! A gateway between two cables whose other ends are in the test's hands.
//!
//! ```text
//!  host ---- lan [ gateway: kernel routing, the data plane with one tunnel ] wan ---- peer
//!  10.1.0.2      10.1.0.1                                    198.51.100.1      198.51.100.2
//!  fd01::2       fd01::1                                  2001:db8:a::1      2001:db8:a::2
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use culvert_crypto::{Suite, SuiteKeys};
use culvert_dataplane::testing::{self, Limits, Purpose, SaSetup};
use culvert_dataplane::{
    Dataplane, DataplaneConfig, DataplaneEvent, Engine, EngineChoice, HookChoice, LanPortChoice,
    OffloadSwitches, TunnelSpec, WanPortChoice,
};
use culvert_ebpf_shared::testing::{ethernet, ip, udp};
use culvert_esp::packet::Packet;
use culvert_lab::Namespace;
use culvert_lab::netns::{End, link};
use culvert_sys::guard::{AttachMode, Guard, GuardMode, GuardOptions, GuardSa, SaPath};
use culvert_types::{Spi, TrafficSelector, TunnelId};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::esp::{Peer, Sealed};
use crate::packets::{Make, right_header, routed};
use crate::wire::Wire;

const TUNNEL: TunnelId = TunnelId(1);
const INTERFACE: &str = "cv-test";
/// Of the gateway, inbound and outbound; the parity of the former says whose it is.
const INBOUND: u32 = 0x4444_0000;
const OUTBOUND: u32 = 0x5555_0001;
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// Of the tag, where the links carry one: what the frames' maker writes.
const VLAN: u16 = 7;
/// What is to come is waited for so long; a machine that builds beside the test is slow.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is not to come is waited for so long.
const SILENCE: Duration = Duration::from_millis(3);

/// An engine with its ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) engine: EngineChoice,
    pub(crate) suite: &'static str,
    /// ESP in UDP.
    pub(crate) encap: bool,
    /// IPv6 outside.
    pub(crate) outer_ipv6: bool,
    /// How packets of the user engine reach the WAN.
    pub(crate) wan_port: WanPortChoice,
    /// How packets of the user engine come from the LAN, and go there.
    pub(crate) lan_port: LanPortChoice,
    /// Workers that share the WAN address.
    pub(crate) workers: usize,
    pub(crate) links: Links,
    /// Where the programs of engine `bpf` stand at the devices.
    pub(crate) hook: HookChoice,
    /// One packet at a time, by workers that never sleep; else all offloads that there are.
    pub(crate) plainly: bool,
}

/// What the cables carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// 1500 bytes.
    Ethernet,
    /// The same behind a VLAN tag on LAN and WAN; a guard of XDP stands at the device below, and sees the tags.
    Tagged,
    /// 9000 bytes.
    Jumbo,
}

/// What is to become of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It leaves sealed: these inner packets, under an outer header of this traffic class.
    Sealed(u8, Vec<Vec<u8>>),
    /// The same, where packets to different destinations may overtake each other.
    SealedByFlow(Vec<Vec<u8>>),
    /// It comes out at the host, as these packets.
    Delivered(Vec<Vec<u8>>),
    /// It is dropped and counted under this name; by the kernel under several.
    Dropped(&'static [&'static str]),
    /// Its sender, the host or one behind the peer, is told by ICMP: type, code and the second word.
    Told(u8, u8, u32),
    /// It is an IKE message for the daemon.
    Ike(Vec<u8>),
}

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    sealed: Vec<(u8, Vec<u8>)>,
    delivered: Vec<Vec<u8>>,
    /// Frames that are neither.
    other: Vec<String>,
    ike: Vec<Vec<u8>>,
}

/// The gateway with the other ends of its cables.
pub(crate) struct Bench {
    pub(crate) path: Path,
    pub(crate) engine: Engine,
    pub(crate) peer: Peer,
    host: Wire,
    net: Wire,
    dataplane: Dataplane,
    events: UnboundedReceiver<DataplaneEvent>,
    runtime: Runtime,
    /// The counters after the last case.
    before: BTreeMap<String, u64>,
    failures: String,
    run: usize,
    gateway: Namespace,
    _outside: Namespace,
    guard: Option<Guard>,
    /// XDP of their own at the far ends, which let all pass: without it they take no frames that XDP sends.
    _far: Vec<Guard>,
}

fn suite(name: &str) -> Suite {
    Suite::all().find(|s| s.to_string() == name).expect("a suite of that name")
}

fn keys(suite: Suite, seed: u8) -> SuiteKeys {
    let bytes: Vec<u8> = (0..160u8).map(|i| i.wrapping_mul(7).wrapping_add(seed)).collect();
    SuiteKeys::new(&bytes[..suite.encryption_key_len()], &bytes[80..80 + suite.integrity_key_len()])
}

/// The guard before the WAN, as the daemon keeps it.
fn guard(dataplane: &mut Dataplane, setup: &SaSetup, of: Path, mode: AttachMode) -> Guard {
    let options = GuardOptions { local_addresses: vec![setup.local], ..GuardOptions::default() };
    let mut guard = Guard::load(options).unwrap();
    guard.attach(if mode == AttachMode::Tcx { "wan" } else { wan_device(of) }, mode).unwrap();
    let refused = dataplane.take_redirects().tell(&mut guard);
    assert!(refused.is_empty(), "{refused:?}");
    let shortest = 8 + setup.suite.iv_len() + setup.suite.alignment() + setup.suite.icv_len();
    let entry = GuardSa {
        spi: setup.inbound,
        local: setup.local,
        // A NAT may give the peer another port, and no other address.
        remote: Some(setup.remote.ip()),
        min_len: shortest as u16,
        alignment: setup.suite.alignment() as u8,
        esn: setup.esn,
    };
    guard.insert_sa(entry).unwrap();
    let path = dataplane.sa_path(setup.inbound);
    assert_eq!(matches!(path, SaPath::Xsk { .. }), of.wan_port == WanPortChoice::Xsk, "{path:?}");
    guard.set_path(setup.inbound, path).unwrap();
    dataplane.settle_hooks(Some(&mut guard)).unwrap();
    guard
}

/// What the WAN's cable is plugged into.
fn wan_device(path: Path) -> &'static str {
    if path.links == Links::Tagged { "wan0" } else { "wan" }
}

impl Path {
    /// Of the links, in bytes of IP.
    pub(crate) fn link_mtu(self) -> usize {
        if self.links == Links::Jumbo { 9000 } else { 1500 }
    }

    /// The tunnel's.
    pub(crate) fn mtu(self) -> usize {
        self.link_mtu() - 100
    }

    fn framed(self, to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
        ethernet(to, from, if self.links == Links::Tagged { &[0x8100] } else { &[] }, packet)
    }
}

fn selectors(nets: &[&str]) -> Vec<TrafficSelector> {
    nets.iter().map(|n| TrafficSelector::from_net(n.parse().unwrap())).collect()
}

impl Bench {
    /// Lays the cables, starts the data plane, installs the SA.
    pub(crate) fn new(path: Path) -> Self {
        let gateway = Namespace::new("gateway").unwrap();
        let outside = Namespace::new("outside").unwrap();
        outside.sysctl("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let tagged = path.links == Links::Tagged;
        for (name, device, far, addresses) in [
            ("lan", if tagged { "lan0" } else { "lan" }, "host", ["10.1.0.1/24", "fd01::1/64"]),
            ("wan", wan_device(path), "net", ["198.51.100.1/24", "2001:db8:a::1/64"]),
        ] {
            let near = End { namespace: &gateway, name: device, addresses: &[] };
            let mtu = (path.links == Links::Jumbo).then_some(path.link_mtu() as u32);
            link(near, End { namespace: &outside, name: far, addresses: &[] }, mtu).unwrap();
            outside.run("ethtool", &["-K", far, "gro", "off"]).unwrap();
            // Frames as a wire carries them: cut, tagged, and with their checksums. The gateway joins what belongs together.
            gateway.run("ethtool", &["-K", device, "tx", "off", "txvlan", "off", "rxvlan", "off"]).unwrap();
            if tagged {
                gateway.ip(&format!("link add link {device} name {name} type vlan id {VLAN}")).unwrap();
                gateway.run("ethtool", &["-K", name, "tx", "off"]).unwrap();
                gateway.ip(&format!("link set dev {name} up")).unwrap();
            }
            for address in addresses {
                let flags = if address.contains(':') { "nodad" } else { "" };
                gateway.ip(&format!("addr add {address} dev {name} {flags}")).unwrap();
            }
        }
        let colons = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
        gateway.ip(&format!("link set dev lan address {}", colons(LAN_MAC))).unwrap();
        gateway.ip(&format!("link set dev wan address {}", colons(WAN_MAC))).unwrap();
        for (address, mac, dev) in [
            ("10.1.0.2", HOST_MAC, "lan"),
            ("fd01::2", HOST_MAC, "lan"),
            ("198.51.100.2", PEER_MAC, "wan"),
            ("2001:db8:a::2", PEER_MAC, "wan"),
        ] {
            let mac = colons(mac);
            gateway.ip(&format!("neigh replace {address} lladdr {mac} dev {dev} nud permanent")).unwrap();
        }
        let (host, net) = outside.within(|| (Wire::open("host"), Wire::open("net"))).unwrap();
        let far = if path.hook == HookChoice::Xdp { vec!["host", "net"] } else { Vec::new() };
        let listening = |far: &str| {
            let mut listening =
                Guard::load(GuardOptions { mode: GuardMode::Off, ..GuardOptions::default() }).unwrap();
            listening.attach(far, AttachMode::XdpNative).unwrap();
            listening
        };
        let far: Vec<Guard> =
            far.into_iter().map(|name| outside.within(|| listening(name)).unwrap()).collect();
        for name in ["host", "net"] {
            // XDP has brought it back.
            outside.run("ethtool", &["-K", name, "gro", "off"]).unwrap();
        }

        let (local, remote) = if path.outer_ipv6 {
            ("2001:db8:a::1", "2001:db8:a::2")
        } else {
            ("198.51.100.1", "198.51.100.2")
        };
        let local: IpAddr = local.parse().unwrap();
        let remote = SocketAddr::new(remote.parse().unwrap(), if path.encap { 4500 } else { 0 });
        let suite = suite(path.suite);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut config =
            DataplaneConfig { wan: vec![local], workers: path.workers, ..DataplaneConfig::default() };
        config.wan_devices = vec!["wan".to_owned()];
        config.bpf_hook = path.hook;
        if path.engine == EngineChoice::Bpf || path.lan_port == LanPortChoice::Xsk {
            config.lan = vec!["lan".to_owned()];
        }
        if path.plainly {
            config.busy_poll = true;
            config.offloads = OffloadSwitches { tso: false, uso: false, gso: false, gro: false };
        }
        let (mut dataplane, events) =
            gateway.within(|| runtime.block_on(Dataplane::start(config))).unwrap().unwrap();
        let spec = TunnelSpec {
            id: TUNNEL,
            interface: INTERFACE.to_owned(),
            engine: path.engine,
            suites: vec![suite],
            inside: Vec::new(),
            mtu: Some(path.mtu() as u32),
            encap: path.encap,
            spread: false,
            wan_port: path.wan_port,
            transport: false,
            lan_port: path.lan_port,
            remote_nets: vec!["10.2.0.0/24".parse().unwrap(), "fd02::/64".parse().unwrap()],
            small: None,
            many: false,
            kernel: culvert_dataplane::KernelIpsec::default(),
        };
        let report = gateway.within(|| runtime.block_on(dataplane.create_tunnel(spec))).unwrap().unwrap();
        // 10.3.0.0/24 and fd03:: are behind the tunnel too, but no selector has them.
        for net in ["10.2.0.0/24", "10.3.0.0/24", "fd02::/64", "fd03::/64"] {
            gateway.ip(&format!("route add {net} dev {INTERFACE}")).unwrap();
        }
        // A way out for what no selector lets in.
        gateway.ip("route add 10.9.0.0/24 via 10.1.0.2").unwrap();
        // The engines tell their SPIs apart by their last bit.
        let inbound = INBOUND | u32::from(report.engine == Engine::Xfrm);
        let setup = SaSetup {
            tunnel: TUNNEL,
            inbound: Spi::new(inbound).unwrap(),
            outbound: Spi::new(OUTBOUND).unwrap(),
            suite,
            inbound_keys: keys(suite, 1),
            outbound_keys: keys(suite, 2),
            esn: true,
            replay_window: 1024,
            local_ts: selectors(&["10.1.0.0/24", "fd01::/64"]),
            remote_ts: selectors(&["10.2.0.0/24", "fd02::/64"]),
            local,
            remote,
            encap: path.encap,
            purpose: Purpose::All,
            limits: Limits::of(suite, true),
        };
        gateway.within(|| runtime.block_on(testing::install(&mut dataplane, &setup, true))).unwrap().unwrap();
        let mode = match (path.wan_port, path.engine) {
            (WanPortChoice::Xsk, _) => Some(AttachMode::XdpNative),
            (_, EngineChoice::Bpf) if path.hook == HookChoice::Xdp => Some(AttachMode::XdpNative),
            (_, EngineChoice::Bpf) => Some(AttachMode::Tcx),
            _ if tagged => Some(AttachMode::XdpNative),
            _ if path.lan_port == LanPortChoice::Xsk => Some(AttachMode::Tcx),
            _ => None,
        };
        let guard = mode.map(|mode| gateway.within(|| guard(&mut dataplane, &setup, path, mode)).unwrap());
        let peer = Peer::new(suite, (inbound, &keys(suite, 1)), (OUTBOUND, &keys(suite, 2)));
        Self {
            path,
            engine: report.engine,
            peer,
            host,
            net,
            dataplane,
            events,
            runtime,
            before: BTreeMap::new(),
            failures: String::new(),
            run: 0,
            gateway,
            _outside: outside,
            guard,
            _far: far,
        }
    }

    /// Waits until all next hops are known, and lets nothing plain pass by the stack any more where AF_XDP should carry it.
    pub(crate) fn settle(&mut self) {
        // The first packets have the next hops looked up, and go by the stack themselves.
        for (from, to) in [("10.1.0.2", "10.2.0.9"), ("fd01::2", "fd02::9")] {
            let first = Make::new(from, to, 60).udp();
            self.out("the first of all", &first, &Expect::Sealed(0, vec![routed(&first)]));
            let answer = Make::new(to, from, 60).udp();
            self.inn("its answer", &answer, &Expect::Delivered(vec![routed(&answer)]));
        }
        std::thread::sleep(Duration::from_millis(1500));
        if self.path.wan_port == WanPortChoice::Xsk {
            let rule = "meta l4proto esp drop; udp sport 4500 drop;";
            let chain = format!("chain outward {{ type filter hook output priority 0; {rule} }};");
            let table = format!("table inet noesp {{ {chain} }}");
            self.gateway.run("nft", &[&table]).unwrap();
        }
    }

    /// Sends an IP packet from the host, and compares what becomes of it.
    pub(crate) fn out(&mut self, name: &str, packet: &[u8], expect: &Expect) {
        self.host.send(&self.path.framed(LAN_MAC, HOST_MAC, packet));
        self.judge(name, expect);
    }

    /// Sends many at once.
    pub(crate) fn out_many(&mut self, name: &str, packets: &[Vec<u8>], expect: &Expect) {
        packets.iter().for_each(|p| self.host.send(&self.path.framed(LAN_MAC, HOST_MAC, p)));
        self.judge(name, expect);
    }

    /// Sends many ESP packets at once.
    pub(crate) fn esp_many(&mut self, name: &str, packets: &[Vec<u8>], expect: &Expect) {
        packets.iter().for_each(|esp| self.wan_quietly(&self.outer(esp, 0)));
        self.judge(name, expect);
    }

    /// Whether the kernel does the ESP.
    pub(crate) fn is_kernel(&self) -> bool {
        self.engine == Engine::Xfrm
    }

    /// Whether the guard judges what comes from the WAN first.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// What is right, or what the kernel does instead.
    pub(crate) fn kernel<T>(&self, by_the_book: T, kernel: T) -> T {
        if self.is_kernel() { kernel } else { by_the_book }
    }

    /// Sends an ESP packet from the peer, its outer header of that traffic class.
    pub(crate) fn esp(&mut self, name: &str, esp: &[u8], tos: u8, expect: &Expect) {
        let packet = self.outer(esp, tos);
        self.wan(name, &packet, expect);
    }

    /// Sends an inner packet from the peer, sealed as it should be.
    pub(crate) fn inn(&mut self, name: &str, inner: &[u8], expect: &Expect) {
        self.inn_marked(name, inner, 0, expect);
    }

    /// The same with a traffic class outside.
    pub(crate) fn inn_marked(&mut self, name: &str, inner: &[u8], tos: u8, expect: &Expect) {
        let esp = self.peer.seal(&Sealed::new(inner));
        self.esp(name, &esp, tos, expect);
    }

    /// Sends an IP packet from the peer.
    pub(crate) fn wan(&mut self, name: &str, packet: &[u8], expect: &Expect) {
        self.wan_quietly(packet);
        self.judge(name, expect);
    }

    /// Sends an IP packet from the peer, before others that it belongs to.
    pub(crate) fn wan_quietly(&self, packet: &[u8]) {
        self.net.send(&self.path.framed(WAN_MAC, PEER_MAC, packet));
    }

    /// The outer addresses: the peer's, the gateway's.
    pub(crate) fn ends(&self) -> (IpAddr, IpAddr) {
        let ends = if self.path.outer_ipv6 {
            ["2001:db8:a::2", "2001:db8:a::1"]
        } else {
            ["198.51.100.2", "198.51.100.1"]
        };
        (ends[0].parse().unwrap(), ends[1].parse().unwrap())
    }

    /// The outer packet around ESP.
    pub(crate) fn outer(&self, esp: &[u8], tos: u8) -> Vec<u8> {
        let (from, to) = self.ends();
        let mut packet = if self.path.encap {
            ip(from, to, 17, &udp(from, to, (4500, 4500), esp))
        } else {
            ip(from, to, 50, esp)
        };
        if self.path.outer_ipv6 {
            packet[0] = 0x60 | tos >> 4;
            packet[1] = tos << 4;
        } else {
            packet[1] = tos;
            right_header(&mut packet);
        }
        packet
    }

    /// Every counter of drops.
    fn drops(&mut self) -> BTreeMap<String, u64> {
        // Kernel ESP beside a raw socket of ours counts what it finds no SA of its own for.
        let kernel = self.is_kernel();
        let Self { gateway, runtime, dataplane, guard, .. } = self;
        gateway
            .within(|| {
                let mut all: BTreeMap<String, u64> = BTreeMap::new();
                let mut add = |reason: &str, n: u64| *all.entry(reason.to_owned()).or_default() += n;
                let stats = runtime.block_on(dataplane.stats());
                stats.iter().flat_map(|s| &s.drops).for_each(|(reason, n)| add(reason, *n));
                let tunnels = dataplane.tunnel_drops();
                tunnels.iter().flat_map(|t| &t.drops).for_each(|(reason, n)| add(reason, *n));
                dataplane.wan_drops().iter().for_each(|(reason, n)| add(reason, *n));
                if kernel {
                    dataplane.kernel_drops().iter().for_each(|(reason, n)| add(reason, *n));
                }
                for counter in guard.iter().flat_map(|g| g.counters().unwrap()) {
                    if counter.verdict == "drop" {
                        add(counter.reason, counter.packets);
                    }
                }
                all.retain(|_, n| *n > 0);
                // The kernel's own chatter on a new interface.
                all.remove("link-local");
                all
            })
            .unwrap()
    }

    /// Waits for what is to come and a moment longer, and compares.
    fn judge(&mut self, name: &str, expect: &Expect) {
        self.run += 1;
        let wanted = match expect {
            Expect::Sealed(_, packets) | Expect::SealedByFlow(packets) | Expect::Delivered(packets) => {
                packets.len()
            }
            Expect::Told(..) | Expect::Ike(_) => 1,
            Expect::Dropped(_) => 0,
        };
        let until = Instant::now() + PATIENCE;
        let mut seen = Outcome::default();
        loop {
            let done = match expect {
                Expect::Dropped(_) => self.drops() != self.before,
                _ => seen.count() >= wanted,
            };
            if done || Instant::now() > until {
                break;
            }
            self.observe(&mut seen, Duration::from_millis(1));
        }
        self.observe(&mut seen, SILENCE);
        let counted = self.drops();
        if let Err(why) = self.compare(expect, &seen, &counted) {
            let _ = writeln!(self.failures, "  {name}: {why}");
        }
        self.before = counted;
    }

    fn observe(&mut self, seen: &mut Outcome, wait: Duration) {
        while let Some(frame) = self.host.next(Duration::ZERO) {
            seen.delivered.push(ip_of(&frame));
        }
        while let Ok(event) = self.events.try_recv() {
            match event {
                DataplaneEvent::Ike { bytes, .. } => seen.ike.push(bytes),
                DataplaneEvent::Fault { cause, .. } => seen.other.push(cause),
                _ => {}
            }
        }
        let mut wait = wait;
        while let Some(frame) = self.net.next(wait) {
            wait = Duration::ZERO;
            let outer = ip_of(&frame);
            match self.opened(&outer) {
                Ok(sealed) => seen.sealed.push(sealed),
                Err(why) => seen.other.push(why),
            }
        }
    }

    /// The traffic class outside and the packet inside.
    fn opened(&self, outer: &[u8]) -> Result<(u8, Vec<u8>), String> {
        let packet = Packet::parse(outer).map_err(|e| e.to_string())?;
        if packet.fragment().is_some() {
            return Err("a fragment outside".to_owned());
        }
        let esp = match (packet.protocol(), self.path.encap, packet.transport()) {
            (17, true, [0x11, 0x94, 0x11, 0x94, _, _, _, _, esp @ ..]) => esp,
            (50, false, esp) => esp,
            (protocol, ..) => {
                return Err(format!("a packet of protocol {protocol} on the WAN: {:02x?}", packet.bytes()));
            }
        };
        Ok((packet.traffic_class(), self.peer.open(esp)?))
    }

    fn compare(
        &self,
        expect: &Expect,
        seen: &Outcome,
        counted: &BTreeMap<String, u64>,
    ) -> Result<(), String> {
        let surplus =
            |name: &str, there: bool| if there { Err(format!("{name}: {seen:02x?}")) } else { Ok(()) };
        surplus("something else came", !seen.other.is_empty())?;
        match expect {
            Expect::Sealed(class, packets) => {
                surplus("something went to the host", !seen.delivered.is_empty())?;
                let inner: Vec<Vec<u8>> = seen.sealed.iter().map(|(_, p)| p.clone()).collect();
                alike(&inner, packets)?;
                match seen.sealed.iter().find(|(c, _)| c != class) {
                    Some((other, _)) => Err(format!("traffic class {other:#04x} outside, not {class:#04x}")),
                    None => Ok(()),
                }
            }
            Expect::SealedByFlow(packets) => {
                let mut inner: Vec<Vec<u8>> = seen.sealed.iter().map(|(_, p)| p.clone()).collect();
                let mut packets = packets.clone();
                // Stable: the order within a flow stays.
                let flow = |p: &Vec<u8>| Packet::parse(p).map(|p| (p.destination(), p.protocol())).ok();
                inner.sort_by_key(flow);
                packets.sort_by_key(flow);
                alike(&inner, &packets)
            }
            Expect::Delivered(packets) => {
                surplus("something went to the peer", !seen.sealed.is_empty())?;
                alike(&seen.delivered, packets)
            }
            Expect::Dropped(names) => {
                surplus("it was not dropped", seen.count() > 0)?;
                let rose: Vec<&str> = counted
                    .iter()
                    .filter(|(name, n)| self.before.get(*name).copied().unwrap_or(0) != **n)
                    .map(|(name, _)| name.as_str())
                    .collect();
                if rose == *names { Ok(()) } else { Err(format!("counted as {rose:?}, not {names:?}")) }
            }
            Expect::Told(kind, code, parameter) => {
                let sealed = seen.sealed.iter().map(|(_, p)| p);
                let all: Vec<&Vec<u8>> = seen.delivered.iter().chain(sealed).collect();
                let [one] = all[..] else { return Err(format!("not one answer: {seen:02x?}")) };
                let packet = Packet::parse(one).map_err(|e| e.to_string())?;
                let word = packet.transport().get(4..8).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
                if packet.icmp() == Some((*kind, *code)) && word == Some(*parameter) {
                    return Ok(());
                }
                Err(format!("told ICMP {:?} {word:?}, not {kind} {code} {parameter}", packet.icmp()))
            }
            Expect::Ike(message) => {
                surplus("it went on", !seen.delivered.is_empty() || !seen.sealed.is_empty())?;
                if seen.ike == [message.clone()] { Ok(()) } else { Err(format!("IKE: {:02x?}", seen.ike)) }
            }
        }
    }

    /// Ends the test: with the list of what was otherwise than expected.
    pub(crate) fn finish(self) {
        assert!(self.run > 50, "only {} cases ran", self.run);
        if self.path.hook == HookChoice::Xdp {
            // Most are plain packets, or lead to one; nothing else redirects here.
            for device in ["lan", "wan"] {
                let text = self.gateway.run("ethtool", &["-S", device]).unwrap();
                let counters = text.lines().filter(|l| l.contains("_xdp_redirect:"));
                let redirected: usize =
                    counters.filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok()).sum();
                assert!(redirected > self.run / 4, "XDP took {redirected} at {device} of {}", self.run);
            }
        }
        assert!(self.failures.is_empty(), "of {} cases on {:?}:\n{}", self.run, self.path, self.failures);
        println!("{} cases on {:?}", self.run, self.path);
    }
}

impl Outcome {
    fn count(&self) -> usize {
        self.sealed.len() + self.delivered.len() + self.other.len() + self.ike.len()
    }
}

/// The IP packet of a frame, behind VLAN tags and without padding.
fn ip_of(frame: &[u8]) -> Vec<u8> {
    let packet = match frame.get(12..14) {
        Some([0x81, 0x00]) => &frame[18..],
        _ => &frame[14..],
    };
    Packet::parse(packet).map_or_else(|_| packet.to_vec(), |p| p.bytes().to_vec())
}

fn alike(seen: &[Vec<u8>], wanted: &[Vec<u8>]) -> Result<(), String> {
    if seen.len() != wanted.len() {
        return Err(format!("{} packets, not {}: {seen:02x?}", seen.len(), wanted.len()));
    }
    for (number, (seen, wanted)) in seen.iter().zip(wanted).enumerate() {
        if seen != wanted {
            let at = seen.iter().zip(wanted).position(|(a, b)| a != b);
            let start = |p: &[u8]| format!("{:02x?}", &p[..p.len().min(64)]);
            return Err(format!(
                "packet {number} of {} bytes, not {}, differs from byte {at:?} on:\n    {}\n    {}",
                seen.len(),
                wanted.len(),
                start(seen),
                start(wanted)
            ));
        }
    }
    Ok(())
}
