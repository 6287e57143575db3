//! Two gateways in namespaces, with whichever engines, and packets between them: traffic, rekeying under
//! traffic, moves, tunnels that are down, and what is left afterwards. Needs root. Cases of the engine
//! `xfrm` say that they are skipped where the kernel has no ESP; CULVERT_EXPECT_ESP=1 makes that a failure.

#[path = "../../sys/tests/common/mod.rs"]
mod common;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Namespace, pair};
use culvert_crypto::{Encryption, Integrity, Suite, SuiteKeys};
use culvert_dataplane::testing::{Limits, Purpose, SaSetup, install, install_in};
use culvert_dataplane::{
    Dataplane, DataplaneConfig, DataplaneError, DataplaneEvent, Engine, EngineChoice, KernelIpsec,
    LanPortChoice, SaStats, TunnelReport, TunnelSpec, WanPortChoice,
};
use culvert_ike::ChildSa;
use culvert_ike::testing::{At, config, pair_with};
use culvert_sys::probe::KernelEsp;
use culvert_types::{Spi, TrafficSelector, TunnelId};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const TUNNEL: TunnelId = culvert_ike::testing::TUNNEL;

fn kernel_has_esp() -> bool {
    match KernelEsp::probe().available() {
        Ok(()) => true,
        Err(reason) => {
            assert!(
                std::env::var_os("CULVERT_EXPECT_ESP").is_none(),
                "this kernel should have ESP: {reason}"
            );
            println!("skipped: {reason}");
            false
        }
    }
}

fn gcm() -> Suite {
    Suite::new(Encryption::AesGcm128, None).unwrap()
}

fn suites() -> [Suite; 3] {
    [
        gcm(),
        Suite::new(Encryption::ChaCha20Poly1305, None).unwrap(),
        Suite::new(Encryption::AesCbc256, Some(Integrity::HmacSha256_128)).unwrap(),
    ]
}

type Job = Box<dyn for<'a> FnOnce(&'a mut Dataplane) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

/// A data plane on a thread inside a namespace; ends, and removes what it made, when dropped.
struct Gateway<'n> {
    namespace: &'n Namespace,
    number: u8,
    jobs: Option<UnboundedSender<Job>>,
    events: mpsc::Receiver<DataplaneEvent>,
    thread: Option<JoinHandle<()>>,
}

impl<'n> Gateway<'n> {
    /// Gateway 1 or 2 of the pair.
    fn new(namespace: &'n Namespace, number: u8) -> Self {
        let wan = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
        let wan = wan.iter().map(|a| a.parse().unwrap()).collect();
        Self::with(namespace, number, DataplaneConfig { wan, workers: 1, ..DataplaneConfig::default() })
    }

    fn with(namespace: &'n Namespace, number: u8, config: DataplaneConfig) -> Self {
        let file = std::fs::File::open(format!("/run/netns/{}", namespace.name())).unwrap();
        let (jobs, mut work) = unbounded_channel::<Job>();
        let (report, events) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let (mut plane, mut events) = Dataplane::start(config).await.unwrap();
                ready.send(()).unwrap();
                loop {
                    tokio::select! {
                        job = work.recv() => match job {
                            Some(job) => job(&mut plane).await,
                            None => return,
                        },
                        Some(event) = events.recv() => {
                            let _ = report.send(event);
                        }
                    }
                }
            });
        });
        is_ready.recv_timeout(Duration::from_secs(60)).expect("the data plane did not start");
        Self { namespace, number, jobs: Some(jobs), events, thread: Some(thread) }
    }

    fn call<T: Send + 'static>(
        &self,
        f: impl for<'a> FnOnce(&'a mut Dataplane) -> Pin<Box<dyn Future<Output = T> + 'a>> + Send + 'static,
    ) -> T {
        let (answer, is_answered) = mpsc::channel();
        let job: Job = Box::new(move |plane| {
            Box::pin(async move {
                let _ = answer.send(f(plane).await);
            })
        });
        self.jobs.as_ref().unwrap().send(job).ok().unwrap();
        is_answered.recv_timeout(Duration::from_secs(60)).expect("the data plane panicked or hangs")
    }

    /// A tunnel with 10.N.0.1 and fd00:N::1 inside, and routes to the other side's.
    fn create(&self, engine: EngineChoice) -> Result<TunnelReport, DataplaneError> {
        let other = 3 - self.number;
        let spec = TunnelSpec {
            id: TUNNEL,
            interface: "cv-lab-a".to_owned(),
            engine,
            suites: suites().to_vec(),
            inside: Vec::new(),
            mtu: None,
            encap: true,
            spread: false,
            wan_port: WanPortChoice::Socket,
            transport: false,
            lan_port: LanPortChoice::Tun,
            remote_nets: vec![net(&format!("10.{other}.0.0/16")), net(&format!("fd00:{other}::/32"))],
            small: None,
            many: false,
            kernel: KernelIpsec::default(),
        };
        let report = self.call(|plane| Box::pin(async move { plane.create_tunnel(spec).await }))?;
        self.address("cv-lab-a");
        Ok(report)
    }

    /// Addresses inside, and routes to the other side's.
    fn address(&self, interface: &str) {
        let (mine, other, inside) = (self.number, 3 - self.number, self.namespace);
        inside.run(&format!("ip addr replace 10.{mine}.0.1/16 dev {interface}"));
        inside.run(&format!("ip -6 addr replace fd00:{mine}::1/32 dev {interface} nodad"));
        inside.run(&format!("ip route replace 10.{other}.0.0/16 dev {interface} src 10.{mine}.0.1"));
        inside.run(&format!("ip -6 route replace fd00:{other}::/32 dev {interface} src fd00:{mine}::1"));
    }

    fn install(&self, setup: &SaSetup, use_outbound: bool) {
        let setup = setup.clone();
        self.call(move |plane| Box::pin(async move { install(plane, &setup, use_outbound).await })).unwrap();
    }

    fn install_child(&self, sa: &ChildSa) -> Result<(), DataplaneError> {
        let sa = sa.clone();
        self.call(move |plane| Box::pin(async move { plane.install(&sa, None, true).await.map(drop) }))
    }

    fn activate(&self, inbound: Spi) {
        self.call(move |plane| Box::pin(async move { plane.activate_outbound(inbound).await })).unwrap();
    }

    fn remove(&self, inbound: Spi, drain: Duration) {
        self.call(move |plane| Box::pin(async move { plane.remove(inbound, drain).await })).unwrap();
    }

    fn move_peer(&self, local: &str, remote: &str) {
        let (local, remote) = (address(local), address(remote));
        self.call(move |plane| Box::pin(async move { plane.move_peer(TUNNEL, local, remote, true).await }))
            .unwrap();
    }

    fn stats(&self, inbound: Spi) -> Option<SaStats> {
        let all = self.call(|plane| Box::pin(async move { plane.stats().await }));
        all.into_iter().find(|s| s.inbound == inbound)
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let all = self.call(|plane| Box::pin(async move { plane.tunnel_drops() }));
        all.into_iter().find(|d| d.tunnel == TUNNEL).unwrap().drops
    }

    fn expect(&self, what: &str, wanted: impl Fn(&DataplaneEvent) -> bool) -> DataplaneEvent {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if wanted(&event) => return event,
                Ok(_) => {}
                Err(_) => panic!("no {what}"),
            }
        }
    }

    fn pings(&self, to: &str) -> bool {
        self.namespace.output(&format!("ping -c 1 -W 2 {to}")).status.success()
    }
}

/// IPv4 packets that a namespace received.
fn received(namespace: &Namespace) -> u64 {
    let snmp = namespace.run("cat /proc/thread-self/net/snmp");
    let mut rows = snmp.lines().filter(|l| l.starts_with("Ip:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let at = names.split_whitespace().position(|n| n == "InReceives").unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn address(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

/// The two halves of a child SA, as two IKE daemons would have negotiated it. `n` tells SAs apart; the
/// parity of each side's inbound SPI is that of its engine.
fn negotiate(engines: [Engine; 2], suite: Suite, ipv6: bool, encap: bool, n: u32) -> [SaSetup; 2] {
    let spi = |side: usize| {
        let parity = u32::from(engines[side] == Engine::Xfrm);
        Spi::new(0x1000_0000 * (side as u32 + 1) + n * 2 + parity).unwrap()
    };
    let key =
        |seed: u8, len: usize| (0..len).map(|i| seed.wrapping_add(n as u8) ^ i as u8).collect::<Vec<_>>();
    let keys = |seed| {
        SuiteKeys::new(&key(seed, suite.encryption_key_len()), &key(seed ^ 0x80, suite.integrity_key_len()))
    };
    let outer = |side: usize| -> IpAddr {
        if ipv6 { format!("2001:db8::{}", side + 1) } else { format!("192.0.2.{}", side + 1) }
            .parse()
            .unwrap()
    };
    let inner = |side: usize| {
        [format!("10.{}.0.0/16", side + 1), format!("fd00:{}::/32", side + 1)]
            .map(|n| TrafficSelector::from_net(net(&n)))
            .to_vec()
    };
    [0, 1].map(|me| {
        let you = 1 - me;
        SaSetup {
            tunnel: TUNNEL,
            inbound: spi(me),
            outbound: spi(you),
            suite,
            inbound_keys: keys(me as u8 + 1),
            outbound_keys: keys(you as u8 + 1),
            esn: true,
            replay_window: 1024,
            local_ts: inner(me),
            remote_ts: inner(you),
            local: outer(me),
            remote: SocketAddr::new(outer(you), if encap { 4500 } else { 0 }),
            encap,
            purpose: Purpose::All,
            limits: Limits::of(suite, true),
        }
    })
}

struct Flood(Child);

impl Flood {
    /// 150 pings, a hundred a second.
    fn start(from: &Namespace, to: &str) -> Self {
        let arguments = format!("--net=/run/netns/{} ping -i 0.01 -c 150 -W 5 {to}", from.name());
        let child =
            Command::new("nsenter").args(arguments.split(' ')).stdout(Stdio::piped()).spawn().unwrap();
        Self(child)
    }

    /// When all are answered, or given up: sent and received.
    fn finish(self) -> (u32, u32) {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary =
            text.lines().find(|l| l.contains("packets transmitted")).unwrap_or_else(|| panic!("{text}"));
        let mut numbers = summary.split_whitespace().filter_map(|w| w.parse().ok());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}

/// Traffic of both inner families, then rekeying under traffic in the order of RFC 7296 2.8: the responder
/// installs and waits, the initiator installs and sends, the responder follows, both forget the old one.
fn carries_and_rekeys(engines: [Engine; 2], name: &str) {
    let sides = pair(name);
    let gateways = [Gateway::new(&sides[0], 1), Gateway::new(&sides[1], 2)];
    for (gateway, engine) in gateways.iter().zip(engines) {
        let choice = if engine == Engine::Xfrm { EngineChoice::Xfrm } else { EngineChoice::User };
        assert_eq!(gateway.create(choice).unwrap().engine, engine);
    }
    let mut n = 0;
    for (suite, ipv6, encap) in suites()
        .into_iter()
        .flat_map(|s| [(s, false, true), (s, true, false)])
        .chain([(gcm(), false, false), (gcm(), true, true)])
    {
        let what = format!("{suite} ipv6={ipv6} encap={encap}");
        n += 2;
        let old = negotiate(engines, suite, ipv6, encap, n);
        gateways[1].install(&old[1], true);
        gateways[0].install(&old[0], true);
        assert!(gateways[0].pings("10.2.0.1"), "{what}: IPv4 does not pass");
        assert!(gateways[1].pings("fd00:1::1"), "{what}: IPv6 does not pass");

        let new = negotiate(engines, suite, ipv6, encap, n + 1);
        let flood = Flood::start(&sides[0], "10.2.0.1");
        std::thread::sleep(Duration::from_millis(300));
        gateways[1].install(&new[1], false);
        gateways[0].install(&new[0], true);
        std::thread::sleep(Duration::from_millis(100));
        gateways[1].activate(new[1].inbound);
        std::thread::sleep(Duration::from_millis(50));
        gateways[0].remove(old[0].inbound, Duration::from_millis(500));
        gateways[1].remove(old[1].inbound, Duration::from_millis(500));
        let (sent, received) = flood.finish();
        std::thread::sleep(Duration::from_millis(600));
        assert!(sent == 150 && sent == received, "{what}: {received} of {sent} came back over a rekey");

        for (gateway, (old, new)) in gateways.iter().zip(old.iter().zip(&new)) {
            assert_eq!(gateway.stats(old.inbound), None, "{what}");
            let stats = gateway.stats(new.inbound).unwrap();
            assert_eq!((stats.outbound, stats.engine), (new.outbound, engines[gateway.number as usize - 1]));
            assert!(stats.packets_in > 0 && stats.packets_out > 0, "{what}: {stats:?}");
            assert_eq!(stats.sequence_in, stats.packets_in, "{what}: {stats:?}");
            assert_eq!(stats.bytes_in / stats.packets_in, 84, "{what}: inner bytes are counted: {stats:?}");
            assert_eq!(stats.bytes_out / stats.packets_out, 84, "{what}: inner bytes are counted: {stats:?}");
            assert_eq!(stats.drops, [], "{what}");
            gateway.remove(new.inbound, Duration::ZERO);
        }
        assert!(!gateways[0].pings("10.2.0.1"), "{what}: something passes without an SA");
    }
}

#[test]
fn xfrm_with_xfrm_carries_and_loses_nothing_in_a_rekey() {
    if kernel_has_esp() {
        carries_and_rekeys([Engine::Xfrm, Engine::Xfrm], "xx");
    }
}

#[test]
fn xfrm_with_user_carries_and_loses_nothing_in_a_rekey() {
    if kernel_has_esp() {
        carries_and_rekeys([Engine::Xfrm, Engine::User], "xu");
    }
}

#[test]
fn user_with_user_carries_and_loses_nothing_in_a_rekey() {
    carries_and_rekeys([Engine::User, Engine::User], "uu");
}

/// The way of the daemon: two IKE endpoints negotiate, the parity of SPIs is that of the engines, and
/// what comes out is installed. Encapsulated, so that the parity decides whose the packets are.
fn carries_what_was_negotiated(engines: [Engine; 2], name: &str) {
    let sides = pair(name);
    let gateways = [Gateway::new(&sides[0], 1), Gateway::new(&sides[1], 2)];
    let mut configs = [At::A, At::B].map(config);
    for ((gateway, engine), config) in gateways.iter().zip(engines).zip(&mut configs) {
        let choice = if engine == Engine::Xfrm { EngineChoice::Xfrm } else { EngineChoice::User };
        config.spi_parity = gateway.create(choice).unwrap().spi_parity;
        config.force_encap = true;
    }
    let [a, b] = configs;
    let (mine, yours) = pair_with(a, b);
    assert!(mine.encap().is_some() && yours.encap().is_some());
    gateways[1].install_child(&yours).unwrap();
    gateways[0].install_child(&mine).unwrap();
    assert!(gateways[0].pings("10.2.0.1") && gateways[1].pings("10.1.0.1"), "{engines:?}");
    let again = gateways[0].install_child(&mine).unwrap_err();
    assert!(matches!(again, DataplaneError::SpiTaken(spi) if spi == mine.inbound()), "{again}");
    assert!(gateways[0].pings("10.2.0.1"), "what was there stays");
    // Outside of what was negotiated.
    assert!(!gateways[0].pings("fd00:2::1"));
}

#[test]
fn user_carries_what_ike_negotiated() {
    carries_what_was_negotiated([Engine::User, Engine::User], "nuu");
}

#[test]
fn xfrm_carries_what_ike_negotiated() {
    if kernel_has_esp() {
        carries_what_was_negotiated([Engine::Xfrm, Engine::Xfrm], "nxx");
        carries_what_was_negotiated([Engine::Xfrm, Engine::User], "nxu");
    }
}

#[test]
fn the_engine_is_chosen_by_what_the_kernel_takes_and_the_report_says_why() {
    let esp = KernelEsp::probe().available();
    let side = &pair("choice")[0];
    let gateway = Gateway::new(side, 1);
    let remove = || gateway.call(|plane| Box::pin(async move { plane.remove_tunnel(TUNNEL).await })).unwrap();
    let user = gateway.create(EngineChoice::User).unwrap();
    assert_eq!((user.engine, user.lan_port, user.wan_port), (Engine::User, "tun", "udp"));
    remove();
    let auto = gateway.create(EngineChoice::Auto).unwrap();
    remove();
    match esp {
        Ok(()) => {
            assert_eq!((auto.engine, auto.lan_port), (Engine::Xfrm, "xfrm"));
            assert!(auto.why.iter().all(|w| w.starts_with("user: ")), "{:?}", auto.why);
            assert_eq!(gateway.create(EngineChoice::Xfrm).unwrap().engine, Engine::Xfrm);
            remove();
        }
        Err(reason) => {
            assert!(std::env::var_os("CULVERT_EXPECT_ESP").is_none(), "{reason}");
            assert_eq!(auto.engine, Engine::User);
            assert_eq!(auto.why, [format!("xfrm: {reason}")]);
            let refused = gateway.create(EngineChoice::Xfrm).unwrap_err().to_string();
            assert!(refused.contains(&reason) && refused.contains("\"auto\" or \"user\""), "{refused}");
        }
    }
    assert!(!side.output("ip link show cv-lab-a").status.success(), "the interface is gone");
}

/// An SA that the kernel refuses is user space's, and the next one that it takes is the kernel's again.
#[test]
fn xfrm_leaves_to_user_what_it_refuses() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("refused");
    let gateways = [Gateway::new(&sides[0], 1), Gateway::new(&sides[1], 2)];
    gateways[0].create(EngineChoice::Xfrm).unwrap();
    gateways[1].create(EngineChoice::User).unwrap();
    let engines = [Engine::Xfrm, Engine::User];
    let mut before: Option<[SaSetup; 2]> = None;
    for (n, window, engine) in [(1, 8192, Engine::User), (2, 4096, Engine::Xfrm)] {
        let mut setups = negotiate(engines, gcm(), false, true, n);
        setups[0].replay_window = window;
        gateways[1].install(&setups[1], true);
        let setup = setups[0].clone();
        let report = gateways[0]
            .call(move |plane| Box::pin(async move { install_in(plane, &setup, None, true).await }))
            .unwrap();
        assert_eq!(report.engine, engine, "{report:?}");
        let why = report.why.join("; ");
        let refused = why.contains("xfrm: a replay window of 8192 packets: the kernel has 4096 at most");
        assert_eq!(refused, engine == Engine::User, "{why}");
        gateways[0].call(move |plane| Box::pin(async move { plane.lead(TUNNEL, engine).await })).unwrap();
        if let Some(old) = before {
            gateways[0].remove(old[0].inbound, Duration::from_millis(10));
            gateways[1].remove(old[1].inbound, Duration::ZERO);
        }
        // What an owner does: addresses and routes are on the interface that leads.
        gateways[0].address("cv-lab-a");
        assert!(gateways[0].pings("10.2.0.1") && gateways[1].pings("10.1.0.1"), "{engine} does not carry");
        let stats = gateways[0].stats(setups[0].inbound).unwrap();
        assert_eq!((stats.engine, stats.packets_in > 0), (engine, true));
        before = Some(setups);
        // The interface that leads no more goes with its last SA.
        let deadline = Instant::now() + Duration::from_secs(5);
        while sides[0].run("ip -o link").matches("cv-").count() > 1 {
            assert!(Instant::now() < deadline, "{}", sides[0].run("ip -o link"));
            std::thread::sleep(Duration::from_millis(100));
            gateways[0].call(|plane| Box::pin(async move { plane.retire().await }));
        }
    }
}

#[test]
fn while_it_is_down_a_kernel_tunnel_drops_reports_and_leaks_nothing() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("down");
    let gateway = Gateway::new(&sides[0], 1);
    gateway.create(EngineChoice::Xfrm).unwrap();
    // The way out that a leak would take.
    sides[0].run("ip route add default via 192.0.2.2 dev wan");
    assert!(gateway.pings("192.0.2.2"));
    let before = received(&sides[1]);
    for _ in 0..5 {
        assert!(!gateway.pings("10.2.0.1"));
    }
    assert_eq!(received(&sides[1]), before, "nothing leaves in clear");
    gateway.expect("trigger", |e| *e == DataplaneEvent::Trigger { tunnel: TUNNEL });
    let drops = gateway.drops();
    assert!(drops.iter().map(|(_, n)| n).sum::<u64>() >= 5, "{drops:?}");
    // And again, for another flow, after a while.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!gateway.pings("10.2.0.77"));
    gateway.expect("second trigger", |e| *e == DataplaneEvent::Trigger { tunnel: TUNNEL });
}

#[test]
fn a_kernel_tunnel_leaves_nothing_behind_and_touches_nothing_of_others() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("clean");
    let other = "src 10.77.0.0/16 dst 10.78.0.0/16 dir out action block if_id 0x9";
    sides[0].run(&format!("ip xfrm policy add {other}"));
    let ours = || {
        let text = sides[0].run("ip xfrm state") + &sides[0].run("ip xfrm policy");
        text.matches("if_id 0x43").count()
    };
    let setup = &negotiate([Engine::Xfrm; 2], gcm(), false, true, 1)[0];
    {
        let gateway = Gateway::new(&sides[0], 1);
        gateway.create(EngineChoice::Xfrm).unwrap();
        gateway.install(setup, true);
        assert!(ours() >= 2 + 6, "{}", ours());
        gateway.call(|plane| Box::pin(async move { plane.remove_tunnel(TUNNEL).await })).unwrap();
        assert_eq!(ours(), 0, "after remove_tunnel");
        gateway.create(EngineChoice::Xfrm).unwrap();
        gateway.install(setup, true);
    }
    assert_eq!(ours(), 0, "after the end");
    assert!(!sides[0].output("ip link show cv-lab-a").status.success());

    // A process that dies leaves all of it; the next one clears it away.
    let gateway = Gateway::new(&sides[0], 1);
    gateway.create(EngineChoice::Xfrm).unwrap();
    gateway.install(setup, true);
    std::mem::forget(gateway);
    assert!(ours() > 0);
    let wan = vec!["192.0.2.1".parse().unwrap()];
    let config = DataplaneConfig { wan, natt_port: 4501, workers: 1, ..DataplaneConfig::default() };
    let next = Gateway::with(&sides[0], 1, config);
    assert_eq!(ours(), 0, "swept at start");
    assert!(!sides[0].output("ip link show cv-lab-a").status.success());
    drop(next);
    assert_eq!(sides[0].run("ip xfrm policy").matches("if_id 0x9").count(), 1, "another's policy stays");
}

/// An SA that may send few bytes is told of before they are used up, and carries nothing beyond; its successor goes on.
fn reaches_its_limits_by_bytes(gateways: &[Gateway; 2]) {
    let mut few = negotiate([Engine::Xfrm; 2], gcm(), false, true, 3);
    (few[0].limits.soft_bytes, few[0].limits.hard_bytes) = (300, 900);
    let inbound = few[0].inbound;
    for (gateway, setup) in gateways.iter().zip(&few) {
        gateway.install(setup, true);
    }
    // 84 bytes each.
    let passed = (0..20).take_while(|_| gateways[0].pings("10.2.0.1")).count();
    assert!((10..=12).contains(&passed), "{passed} packets passed");
    gateways[0].expect("soft limit", |e| *e == DataplaneEvent::SoftLimit { inbound });
    gateways[0].expect("hard limit", |e| *e == DataplaneEvent::HardLimit { inbound });
    let next = negotiate([Engine::Xfrm; 2], gcm(), false, true, 4);
    for (gateway, (old, new)) in gateways.iter().zip(few.iter().zip(&next)) {
        gateway.remove(old.inbound, Duration::ZERO);
        gateway.install(new, true);
    }
    assert!(gateways[0].pings("10.2.0.1") && gateways[1].pings("10.1.0.1"));
    for (gateway, setup) in gateways.iter().zip(&next) {
        gateway.remove(setup.inbound, Duration::ZERO);
    }
}

/// Reports that nobody reads in time are lost, of an SA that reached its limit too: it is found by a comparison.
#[test]
fn xfrm_makes_good_the_reports_that_it_lost() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("lost");
    let gateways = [Gateway::new(&sides[0], 1), Gateway::new(&sides[1], 2)];
    let mut setups = negotiate([Engine::Xfrm; 2], gcm(), false, true, 1);
    setups[0].limits.hard_packets = 5;
    for gateway in &gateways {
        gateway.create(EngineChoice::Xfrm).unwrap();
    }
    reaches_its_limits_by_bytes(&gateways);
    for (gateway, setup) in gateways.iter().zip(&setups) {
        gateway.install(setup, true);
    }
    assert!(gateways[0].pings("10.2.0.1"));
    // Packets of another program's policy, each of which asks for an SA.
    sides[0].run("ip xfrm policy add src 0.0.0.0/0 dst 10.60.0.0/16 dir out tmpl proto esp mode transport");
    sides[0].run("ip route add 10.60.0.0/16 via 192.0.2.2");
    let (release, held) = mpsc::channel::<()>();
    let hold: Job = Box::new(move |_| {
        Box::pin(async move {
            let _ = held.recv_timeout(Duration::from_secs(40));
        })
    });
    gateways[0].jobs.as_ref().unwrap().send(hold).ok().unwrap();
    sides[0].enter(async || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        for n in 0..4000u16 {
            let [high, low] = n.to_be_bytes();
            let _ = socket.send_to(b"?", (std::net::Ipv4Addr::new(10, 60, high, low), 9));
        }
    });
    while gateways[0].pings("10.2.0.1") {}
    let sockets = sides[0].run("cat /proc/thread-self/net/netlink");
    let of_xfrm = sockets.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|l| l[1] == "6");
    let lost: u32 = of_xfrm.map(|l| l[8].parse::<u32>().unwrap()).sum();
    assert!(lost > 0, "{sockets}");
    release.send(()).unwrap();
    let inbound = setups[0].inbound;
    gateways[0].expect("hard limit", |e| *e == DataplaneEvent::HardLimit { inbound });
    // As before, with SAs of its own making only.
    let next = negotiate([Engine::Xfrm; 2], gcm(), false, true, 2);
    for (gateway, (old, new)) in gateways.iter().zip(setups.iter().zip(&next)) {
        gateway.remove(old.inbound, Duration::ZERO);
        gateway.install(new, true);
    }
    assert!(gateways[0].pings("10.2.0.1") && gateways[1].pings("10.1.0.1"));
    assert_eq!(
        sides[0].run("ip xfrm policy").matches("dst 10.60.0.0/16").count(),
        1,
        "another's policy stays"
    );
}

#[test]
fn a_kernel_sa_follows_its_peer_and_never_counts_back() {
    if !kernel_has_esp() {
        return;
    }
    let engines = [Engine::Xfrm, Engine::Xfrm];
    let sides = pair("move");
    sides[0].run("ip addr add 192.0.2.11/24 dev wan");
    let wan = ["192.0.2.1", "192.0.2.11"].map(|a| a.parse().unwrap()).to_vec();
    let roaming =
        Gateway::with(&sides[0], 1, DataplaneConfig { wan, workers: 1, ..DataplaneConfig::default() });
    let fixed = Gateway::new(&sides[1], 2);
    roaming.create(EngineChoice::Xfrm).unwrap();
    fixed.create(EngineChoice::Xfrm).unwrap();
    let [mine, yours] = negotiate(engines, gcm(), false, true, 1);
    fixed.install(&yours, true);
    roaming.install(&mine, true);
    for _ in 0..5 {
        assert!(roaming.pings("10.2.0.1"));
    }
    let before = roaming.stats(mine.inbound).unwrap();

    // Our address changes; the peer learns it from the first packet that authenticates.
    roaming.move_peer("192.0.2.11:4500", "192.0.2.2:4500");
    roaming.pings("10.2.0.1");
    let (from, to) = (address("192.0.2.1:4500"), address("192.0.2.11:4500"));
    fixed.expect("move", |e| *e == DataplaneEvent::PeerMoved { inbound: yours.inbound, from, to });
    fixed.move_peer("192.0.2.2:4500", "192.0.2.11:4500");
    for _ in 0..3 {
        assert!(roaming.pings("10.2.0.1"), "after the move");
    }
    let after = roaming.stats(mine.inbound).unwrap();
    assert!(after.sequence_out > before.sequence_out + 3, "{before:?} {after:?}");
    assert!(after.sequence_in > before.sequence_in, "{before:?} {after:?}");
    // Who only hears of the other's move goes on with the SA, and the window, that it receives with.
    let heard = fixed.stats(yours.inbound).unwrap();
    assert_eq!((heard.drops, heard.packets_in >= 9), (vec![], true), "{} packets", heard.packets_in);
    // Both know: no more reports.
    std::thread::sleep(Duration::from_secs(6));
    assert!(roaming.pings("10.2.0.1"));
    let late = fixed.events.try_iter().find(|e| matches!(e, DataplaneEvent::PeerMoved { .. }));
    assert_eq!(late, None);
}

#[test]
fn a_replayed_or_forged_packet_is_dropped_and_counted() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("forged");
    let gateway = Gateway::new(&sides[0], 1);
    gateway.create(EngineChoice::Xfrm).unwrap();
    let setup = negotiate([Engine::Xfrm; 2], gcm(), false, true, 1)[0].clone();
    gateway.install(&setup, true);
    let mut packet = setup.inbound.to_bytes().to_vec();
    packet.extend_from_slice(&1u32.to_be_bytes());
    packet.extend_from_slice(&[0xab; 120]);
    sides[1].enter(move || async move {
        let socket = std::net::UdpSocket::bind("192.0.2.2:4500").unwrap();
        socket.send_to(&packet, "192.0.2.1:4500").unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    while gateway.stats(setup.inbound).unwrap().drops != [("not-authentic", 1)] {
        assert!(Instant::now() < deadline, "{:?}", gateway.stats(setup.inbound));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(gateway.stats(setup.inbound).unwrap().packets_in, 0);
}
