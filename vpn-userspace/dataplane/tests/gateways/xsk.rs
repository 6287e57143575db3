//! The ports `xsk`: packets go by AF_XDP while nothing of the stack would let them pass, and by the stack where AF_XDP
//! does not serve.
use std::time::Duration;

use culvert_dataplane::{LanPortChoice, WanPortChoice};
use culvert_lab::measure::{Echo, Iperf, ping, reaches};
use culvert_lab::topology::{HOST_B, HOST_B6, WAN_A, WAN_A6, WAN_B, WAN_B6};
use culvert_lab::{Namespace, Site, wait_for};
use culvert_sys::guard::{AttachMode, Guard, GuardOptions, GuardSa, SaPath};
use culvert_sys::xsk::device_index;

use super::common::{Gateway, Options};
use super::{address, bulk};

/// The guard of one gateway, as the daemon would keep it.
struct Guarded<'a> {
    namespace: &'a Namespace,
    guard: Guard,
}

impl<'a> Guarded<'a> {
    fn start(namespace: &'a Namespace, gateway: &mut Gateway<'_>) -> Self {
        let options = GuardOptions { local_addresses: vec![gateway.local], ..GuardOptions::default() };
        let guard = namespace
            .within(|| {
                let mut guard = Guard::load(options).unwrap();
                let xsk = gateway.options.wan_port == WanPortChoice::Xsk;
                let mode = if xsk { AttachMode::XdpNative } else { AttachMode::Tcx };
                guard.attach("wan", mode).unwrap();
                guard
            })
            .unwrap();
        let mut this = Self { namespace, guard };
        this.follow(gateway);
        for sa in gateway.stats() {
            let (local, esn) = (gateway.local, gateway.options.esn);
            let entry = GuardSa { spi: sa.inbound, local, remote: None, min_len: 32, alignment: 4, esn };
            this.guard.insert_sa(entry).unwrap();
            let path = gateway.dataplane.sa_path(sa.inbound);
            let xsk = gateway.options.wan_port == WanPortChoice::Xsk;
            assert_eq!(matches!(path, SaPath::Xsk { .. }), xsk, "{path:?}");
            this.guard.set_path(sa.inbound, path).unwrap();
        }
        this
    }

    fn follow(&mut self, gateway: &mut Gateway<'_>) {
        let redirects = gateway.dataplane.take_redirects();
        let Self { namespace, guard } = self;
        let refused = namespace.within(|| redirects.tell(guard)).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
    }

    fn attach_anew(&mut self) {
        self.guard.detach("wan");
        let Self { namespace, guard } = self;
        namespace.within(|| guard.attach("wan", AttachMode::XdpNative).map(drop)).unwrap().unwrap();
    }
}

const FILTER: &str = "table inet noesp {
    chain inward { type filter hook input priority 0; meta l4proto esp drop; udp dport 4500 drop; }
    chain outward { type filter hook output priority 0; meta l4proto esp drop; udp sport 4500 drop; }
}";

/// Lets no ESP through the gateways' stacks, in either direction.
fn forbid(site: &Site) {
    for gateway in [&site.gateway_a, &site.gateway_b] {
        gateway.run("nft", &[FILTER]).unwrap();
    }
}

fn allow(site: &Site) {
    for gateway in [&site.gateway_a, &site.gateway_b] {
        gateway.run("nft", &["delete table inet noesp"]).unwrap();
    }
}

fn sides<'a>(site: &'a Site, options: &Options, wan: (&str, &str)) -> [(Gateway<'a>, Guarded<'a>); 2] {
    let (mut a, mut b) = super::up(site, options, wan);
    let guard_a = Guarded::start(&site.gateway_a, &mut a);
    let guard_b = Guarded::start(&site.gateway_b, &mut b);
    [(a, guard_a), (b, guard_b)]
}

fn options(encap: bool, suite: &'static str) -> Options {
    Options { encap, suite, wan_port: WanPortChoice::Xsk, ..Options::default() }
}

/// Until next hops are known, packets go by the stack.
fn settle(site: &Site) {
    wait_for("a way by AF_XDP alone", Duration::from_secs(10), || {
        let one = || ping(&site.host_a, HOST_B, 1, Duration::from_millis(10)).unwrap().received == 1;
        one();
        std::thread::sleep(Duration::from_millis(50));
        forbid(site);
        let fast = one();
        allow(site);
        fast.then_some(())
    })
    .unwrap();
}

#[test]
fn both_families_pass_in_frames_plain_and_in_udp() {
    for (wan, encap, suite) in
        [((WAN_A, WAN_B), false, "aes256-sha256"), ((WAN_A6, WAN_B6), true, "chacha20poly1305")]
    {
        let site = Site::new().unwrap();
        let [(mut a, _ga), (mut b, _gb)] = sides(&site, &options(encap, suite), wan);
        settle(&site);
        forbid(&site);
        let udp = Iperf { udp: Some("50M".to_owned()), reverse: true, ..Iperf::default() };
        for (host, what) in [(HOST_B, Iperf { streams: 2, ..Iperf::default() }), (HOST_B6, udp)] {
            assert!(reaches(&site.host_a, host).unwrap(), "{host} over {wan:?} encap {encap}");
            let gbps = bulk(&site, host, &what);
            assert!(gbps > 0.03, "{host} over {wan:?} encap {encap}: {gbps} Gbit/s");
        }
        for reason in ["not-authentic", "replay-duplicate", "unknown-spi", "inner-malformed", "wan-error"] {
            assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason} over {wan:?} encap {encap}");
        }
    }
}

#[test]
fn where_af_xdp_does_not_serve_the_sockets_do_and_the_sa_is_the_same() {
    let site = Site::new().unwrap();
    let [(mut a, mut guard_a), (mut b, _gb)] = sides(&site, &options(true, "aes128gcm16"), (WAN_A, WAN_B));
    settle(&site);
    let echo = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(5)).unwrap();
    let pause = || std::thread::sleep(Duration::from_millis(200));
    // Nothing is redirected at A; then nothing is sent in frames, as the next hop is not known; then all is well again.
    let inbound = a.stats()[0].inbound;
    guard_a.guard.set_path(inbound, SaPath::Stack).unwrap();
    pause();
    site.gateway_a.ip("neigh replace 198.51.100.254 dev wan nud failed").unwrap();
    pause();
    guard_a.guard.set_path(inbound, a.dataplane.sa_path(inbound)).unwrap();
    pause();
    assert_eq!(echo.stop().unwrap().lost(), 0);
    settle(&site);
    for reason in ["replay-duplicate", "replay-too-old", "not-authentic"] {
        assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason}");
    }

    // The device goes, and another of the same name comes.
    site.gateway_a.ip("link del wan").unwrap();
    a.run(|d| Box::pin(async { d.tend() }));
    guard_a.follow(&mut a);
    a.run(|d| Box::pin(async { d.tend() }));
    let name = site.gateway_a.name();
    site.wan.ip(&format!("link add to-a type veth peer name wan netns {name}")).unwrap();
    for line in ["addr add 198.51.100.254/24 dev to-a", "link set to-a up"] {
        site.wan.ip(line).unwrap();
    }
    for line in
        ["addr add 198.51.100.1/24 dev wan", "link set wan up", "route add default via 198.51.100.254"]
    {
        site.gateway_a.ip(line).unwrap();
    }
    // By the stack first.
    wait_for("the link", Duration::from_secs(5), || reaches(&site.host_a, HOST_B).unwrap().then_some(()))
        .unwrap();
    guard_a.attach_anew();
    wait_for("AF_XDP", Duration::from_secs(5), || {
        a.run(|d| Box::pin(async { d.tend() }));
        let redirects = a.dataplane.take_redirects();
        let opened = !redirects.added.is_empty();
        assert!(redirects.tell(&mut guard_a.guard).is_empty());
        opened.then_some(())
    })
    .unwrap();
    settle(&site);
    forbid(&site);
    assert_eq!(ping(&site.host_a, HOST_B, 20, Duration::from_millis(10)).unwrap().received, 20);
}

/// Lets the stack of A forward nothing from or to its LAN.
fn forward(site: &Site, allowed: bool) {
    let chain = "chain forward { type filter hook forward priority 0; iifname lan drop; oifname lan drop; }";
    match allowed {
        false => site.gateway_a.run("nft", &[&format!("table inet nolan {{ {chain}; }}")]).unwrap(),
        true => site.gateway_a.run("nft", &["delete table inet nolan"]).unwrap(),
    };
}

/// Until the hosts' next hops are known, packets to them go by the stack.
fn settle_lan(site: &Site, host: &str) {
    wait_for("a way past the LAN's stack", Duration::from_secs(10), || {
        let one = || ping(&site.host_a, host, 1, Duration::from_millis(10)).unwrap().received == 1;
        one();
        std::thread::sleep(Duration::from_millis(50));
        forward(site, false);
        let fast = one();
        forward(site, true);
        fast.then_some(())
    })
    .unwrap();
}

/// The LAN's device of A goes, and another of the same name comes.
fn replace_lan(site: &Site, a: &mut Gateway<'_>, guard_a: &mut Guarded<'_>) {
    site.gateway_a.ip("link del lan").unwrap();
    let name = site.gateway_a.name();
    site.host_a.ip(&format!("link add eth0 type veth peer name lan netns {name}")).unwrap();
    for line in ["addr add 10.1.0.2/24 dev eth0", "link set eth0 up"] {
        site.host_a.ip(line).unwrap();
    }
    for line in ["addr add 10.1.0.1/24 dev lan", "link set lan up"] {
        site.gateway_a.ip(line).unwrap();
    }
    site.host_a.ip("route add default via 10.1.0.1").unwrap();
    wait_for("AF_XDP", Duration::from_secs(5), || {
        a.run(|d| Box::pin(async { d.tend() }));
        let redirects = a.dataplane.take_redirects();
        let opened = !redirects.lans.is_empty();
        let guard = &mut guard_a.guard;
        let refused = site.gateway_a.within(|| redirects.tell(guard)).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        opened.then_some(())
    })
    .unwrap();
}

#[test]
fn a_lan_in_frames_needs_no_stack_and_has_one_where_frames_do_not_serve() {
    for wan_port in [WanPortChoice::Xsk, WanPortChoice::Socket] {
        let site = Site::new().unwrap();
        let options = Options { lan_port: LanPortChoice::Xsk, wan_port, ..options(true, "aes128gcm16") };
        let [(mut a, mut guard_a), (mut b, _gb)] = sides(&site, &options, (WAN_A, WAN_B));
        settle_lan(&site, HOST_B);
        settle_lan(&site, HOST_B6);
        forward(&site, false);
        // Host A leaves its checksums to a device that has none.
        for reverse in [false, true] {
            let gbps = bulk(&site, HOST_B, &Iperf { streams: 2, reverse, ..Iperf::default() });
            assert!(gbps > 0.03, "{wan_port:?}, reverse {reverse}: {gbps} Gbit/s");
        }
        let six = || reaches(&site.host_a, HOST_B6).unwrap().then_some(());
        wait_for("IPv6 past the stack", Duration::from_secs(5), six).unwrap();
        forward(&site, true);

        // No frame is taken at A, nor has any a next hop there: the stack serves, by the same SA.
        let echo = Echo::start(&site.host_a, &site.host_b, HOST_B, Duration::from_millis(5)).unwrap();
        let pause = || std::thread::sleep(Duration::from_millis(200));
        let device = site.gateway_a.within(|| device_index("lan").unwrap()).unwrap();
        guard_a.guard.remove_lan(device).unwrap();
        pause();
        assert_eq!(echo.stop().unwrap().lost(), 0, "{wan_port:?}");

        if wan_port == WanPortChoice::Socket {
            replace_lan(&site, &mut a, &mut guard_a);
            settle_lan(&site, HOST_B);
        }
        for reason in ["not-authentic", "replay-duplicate", "unknown-spi", "inner-malformed", "lan-busy"] {
            assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason} of {wan_port:?}");
        }
    }
}

/// Also in the virtual machines, whose verifiers and drivers are older and newer ones: both ports at A, and no stack there.
#[test]
fn frames_pass_on_other_kernels() {
    let site = Site::new().unwrap();
    let sockets = Options { wan_port: WanPortChoice::Socket, ..options(true, "aes128gcm16") };
    let frames = Options { lan_port: LanPortChoice::Xsk, wan_port: WanPortChoice::Xsk, ..sockets.clone() };
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &frames);
    let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &sockets);
    a.install(1, address(WAN_B), true);
    b.install(1, address(WAN_A), true);
    let _guard = Guarded::start(&site.gateway_a, &mut a);
    let stack = |serves: bool| {
        forward(&site, serves);
        let rules = if serves { "delete table inet noesp" } else { FILTER };
        site.gateway_a.run("nft", &[rules]).unwrap();
    };
    let answered = |host, count| ping(&site.host_a, host, count, Duration::from_millis(10)).unwrap().received;
    for host in [HOST_B, HOST_B6] {
        wait_for("a way past the stack", Duration::from_secs(20), || {
            answered(host, 1);
            stack(false);
            let fast = answered(host, 1) == 1;
            stack(true);
            fast.then_some(())
        })
        .unwrap();
    }
    stack(false);
    for host in [HOST_B, HOST_B6] {
        assert_eq!(answered(host, 20), 20, "{host}: {:?} {:?}", a.stats(), b.stats());
    }
    for reason in ["not-authentic", "replay-duplicate", "unknown-spi", "inner-malformed", "lan-busy"] {
        assert_eq!(a.dropped(reason) + b.dropped(reason), 0, "{reason}");
    }
}

#[test]
fn a_wan_without_the_device_is_told() {
    let site = Site::new().unwrap();
    let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &Options::default());
    site.gateway_a.ip("link set wan down").unwrap();
    site.gateway_a.ip("link set wan name other").unwrap();
    let mut spec = a.spec();
    (spec.id, spec.interface) = (culvert_types::TunnelId(2), "cv-two".to_owned());
    spec.wan_port = WanPortChoice::Xsk;
    let error = a.run(move |d| Box::pin(d.create_tunnel(spec))).unwrap_err().to_string();
    assert_eq!(error, "there is no interface \"wan\"; see `ip link`");
    assert_eq!(address(WAN_A), a.local);
}
