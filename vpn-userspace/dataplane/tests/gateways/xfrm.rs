//! The engine `xfrm` between two gateways of the lab. Where the kernel has no ESP the cases say that they are skipped;
//! CULVERT_EXPECT_ESP=1 makes that a failure.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use culvert_dataplane::testing::install_in;
use culvert_dataplane::{DataplaneEvent, Engine, EngineChoice, KernelIpsec};
use culvert_ike::Purpose;
use culvert_lab::measure::{Echo, ping, reaches};
use culvert_lab::topology::{HOST_A, HOST_B, HOST_B6, WAN_A, WAN_A6, WAN_B, WAN_B6};
use culvert_lab::{Capture, Namespace, Site, capture};
use culvert_sys::probe::KernelEsp;

use super::common::{Gateway, INTERFACE, Options, TUNNEL};
use super::{address, rekeys_at_full_rate, up};

fn kernel_has_esp() -> bool {
    let Err(reason) = KernelEsp::probe().available() else { return true };
    assert!(std::env::var_os("CULVERT_EXPECT_ESP").is_none(), "this kernel should have ESP: {reason}");
    println!("skipped: {reason}");
    false
}

fn options(encap: bool) -> Options {
    Options { engine: EngineChoice::Xfrm, encap, ..Options::default() }
}

/// What of ours is in the kernel: lines of states, of policies.
fn left(namespace: &Namespace) -> (usize, usize) {
    let count = |what: &str, word: &str| namespace.ip_text(what).unwrap().matches(word).count();
    // What asked for an SA is remembered by the kernel, without an SPI. A socket's own policy has no direction here.
    let asked = count("xfrm state", "proto esp spi 0x00000000");
    (count("xfrm state", "proto esp") - asked, count("xfrm policy", "dir "))
}

fn lasts(namespace: &Namespace, to: &str) -> bool {
    ping(namespace, to, 2, Duration::from_millis(50)).is_ok_and(|seen| seen.received == 2)
}

#[test]
fn xfrm_rekeys_at_full_rate_lose_nothing() {
    if kernel_has_esp() {
        rekeys_at_full_rate(&options(true), 6);
    }
}

/// What two gateways send each other: sealed, or not sent. IKE passes always.
#[test]
fn xfrm_in_transport_mode_protects_two_hosts() {
    if !kernel_has_esp() {
        return;
    }
    for ((a, b), prefix, encap) in [((WAN_A, WAN_B), 32, true), ((WAN_A6, WAN_B6), 128, false)] {
        let site = Site::new().unwrap();
        let nets = [a, b].map(|at| vec![&*format!("{at}/{prefix}").leak()]);
        let [nets_a, nets_b] = nets;
        let options = Options { transport: true, nets: (nets_a, nets_b), ..options(encap) };
        assert!(lasts(&site.gateway_a, b), "in clear before");
        let mut left_side = Gateway::start(&site.gateway_a, true, a, &options);
        let mut right_side = Gateway::start(&site.gateway_b, false, b, &options);
        assert!(!site.gateway_a.interfaces().unwrap().contains(&INTERFACE.to_owned()), "no interface");
        assert!(!lasts(&site.gateway_a, b), "no SA, and something passes");
        let trigger = |e: &DataplaneEvent| (*e == DataplaneEvent::Trigger { tunnel: TUNNEL }).then_some(());
        assert_eq!(left_side.event(trigger), Some(()), "wants an SA");
        // IKE, in either direction, to the port that it shares with ESP.
        let ends = [a, b].map(|at| SocketAddr::new(address(at), 4500));
        left_side.dataplane.send_ike(ends[0], ends[1], &[7; 40]).unwrap();
        let ike = |e: &DataplaneEvent| match e {
            DataplaneEvent::Ike { remote, bytes, .. } => Some((*remote, bytes.len())),
            _ => None,
        };
        assert_eq!(right_side.event(ike), Some((ends[0], 40)));

        left_side.install(1, address(b), true);
        right_side.install(1, address(a), true);
        let watch = Capture::start(&site.wan).unwrap();
        for (from, to) in [(&site.gateway_a, b), (&site.gateway_b, a)] {
            assert!(
                lasts(from, to),
                "encap {encap}: {:?} {:?}",
                left_side.stats(),
                left_side.dataplane.kernel_drops()
            );
        }
        let seen = watch.finish();
        let clear: Vec<_> = seen.keys().filter(|flow| flow.protocol == 1).collect();
        assert!(clear.is_empty(), "in clear: {clear:?}");
        let stats = left_side.stats();
        assert!(stats[0].packets_out >= 4 && stats[0].packets_in >= 4, "{stats:?}");
        // A rekey loses nothing here either.
        let running = Echo::start(&site.gateway_a, &site.gateway_b, b, Duration::from_millis(5)).unwrap();
        let next = right_side.install(2, address(a), false);
        left_side.install(2, address(b), true);
        right_side.activate(next);
        for gateway in [&mut left_side, &mut right_side] {
            let old = gateway.setup(1, ends[0]).inbound;
            gateway.remove(old, Duration::from_millis(300)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(400));
        let seen = running.stop().unwrap();
        assert!(seen.sent > 10 && seen.lost() == 0, "{seen:?}");
        assert_eq!(left_side.stats().len(), 1);
        left_side.run(|d| Box::pin(d.remove_tunnel(TUNNEL))).unwrap();
        right_side.run(|d| Box::pin(d.remove_tunnel(TUNNEL))).unwrap();
        assert_eq!((left(&site.gateway_a), left(&site.gateway_b)), ((0, 0), (0, 0)));
        assert!(lasts(&site.gateway_a, b), "in clear after");
    }
}

/// A kernel without xfrm interfaces, for as long as the value lives. In a machine of one's own only.
struct WithoutInterfaces(String);

const MODPROBE: &str = "/proc/sys/kernel/modprobe";

impl WithoutInterfaces {
    fn new() -> Self {
        let loader = std::fs::read_to_string(MODPROBE).unwrap();
        assert!(Command::new("modprobe").args(["-r", "xfrm_interface"]).status().unwrap().success());
        std::fs::write(MODPROBE, "/bin/false").unwrap();
        Self(loader)
    }
}

impl Drop for WithoutInterfaces {
    fn drop(&mut self) {
        let _ = std::fs::write(MODPROBE, self.0.trim());
        let _ = Command::new("modprobe").arg("xfrm_interface").status();
    }
}

#[test]
fn xfrm_without_interfaces_protects_by_policies_alone() {
    if std::env::var_os("CULVERT_VM").is_none() {
        return println!("skipped: takes a module out of the kernel, which is for a machine of its own");
    }
    // Which also loads the ciphers: nothing else can be loaded meanwhile.
    if !kernel_has_esp() {
        return;
    }
    let kernel = WithoutInterfaces::new();
    let site = Site::new().unwrap();
    let foreign = "src 10.77.0.0/16 dst 10.78.0.0/16 dir out action block";
    site.gateway_a.ip(&format!("xfrm policy add {foreign}")).unwrap();
    let (mut a, mut b) = up(&site, &options(true), (WAN_A, WAN_B));
    let info = a.dataplane.engines().into_iter().find(|e| e.engine == Engine::Xfrm).unwrap();
    assert!(info.available.is_ok() && info.notes.join(" ").contains("no xfrm interface"), "{info:?}");
    for host in [HOST_B, HOST_B6] {
        assert!(
            reaches(&site.host_a, host).unwrap(),
            "{host}: {:?} {:?}",
            a.stats(),
            a.dataplane.kernel_drops()
        );
    }
    assert!(reaches(&site.host_b, HOST_A).unwrap());
    assert!(a.stats()[0].packets_out >= 2 && a.stats()[0].packets_in >= 2, "{:?}", a.stats());
    // Without an SA nothing passes, and nothing leaves in clear; a packet asks for one.
    let inbound = a.stats()[0].inbound;
    a.remove(inbound, Duration::ZERO).unwrap();
    let watch = Capture::start(&site.wan).unwrap();
    assert!(!reaches(&site.host_a, HOST_B).unwrap());
    let leaked = capture::within(&watch.finish(), &["10.1.0.0/24", "10.2.0.0/24"]);
    assert!(leaked.is_empty(), "in clear on the WAN: {leaked:?}");
    let trigger = |e: &DataplaneEvent| (*e == DataplaneEvent::Trigger { tunnel: TUNNEL }).then_some(());
    assert_eq!(a.event(trigger), Some(()));
    // What a process that died left is known by its numbers, and another's is not touched.
    a.install(2, address(WAN_B), true);
    assert_eq!(left(&site.gateway_a).0, 2);
    let swept = site.gateway_a.within(|| culvert_sys::xfrm::Xfrm::open().unwrap().sweep(|_| true).unwrap());
    assert_eq!(swept.unwrap().states, 2);
    assert_eq!(left(&site.gateway_a), (0, 1), "{}", site.gateway_a.ip_text("xfrm policy").unwrap());
    let _ = b.stats();
    drop(kernel);
}

const NO_CARD: &str = "offload: the kernel does the cipher: wan has no IPsec";

/// A card that has no IPsec leaves the cipher to the kernel, and the report says so. What is sealed has the mark that was
/// asked for.
#[test]
fn xfrm_says_that_a_card_has_no_ipsec_and_marks_what_it_sealed() {
    if !kernel_has_esp() {
        return;
    }
    for encap in [true, false] {
        let site = Site::new().unwrap();
        let kernel = KernelIpsec { offload: true, output_mark: Some(0x77) };
        let asked = Options { kernel, ..options(encap) };
        let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &asked);
        let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options(encap));
        let setup = a.setup(1, SocketAddr::new(address(WAN_B), if encap { 4500 } else { 0 }));
        let report =
            a.run(move |d| Box::pin(async move { install_in(d, &setup, None, true).await })).unwrap();
        let why = report.why.join("; ");
        assert_eq!((report.engine, why.as_str()), (Engine::Xfrm, NO_CARD));
        let refused = a.dataplane.wish(TUNNEL, Some(EngineChoice::User)).unwrap_err().to_string();
        assert!(refused.contains("output_mark is set by the kernel's IPsec alone"), "{refused}");
        b.install(1, address(WAN_A), true);
        let chain = "chain sealed { type filter hook output priority 0; meta mark 0x77 counter; }";
        site.gateway_a.run("nft", &[&format!("table inet marks {{ {chain}; }}")]).unwrap();
        assert!(reaches(&site.host_a, HOST_B).unwrap(), "encap {encap}: {:?}", a.stats());
        let counted = site.gateway_a.run("nft", &["list table inet marks"]).unwrap();
        assert!(counted.contains("counter packets 5 "), "{counted}");
    }
}

/// Each CPU sends with its SA; one that has none sends with the SA for all. Rekeying that changes nothing of it.
#[test]
fn xfrm_cpus_send_with_sas_of_their_own() {
    if !kernel_has_esp() {
        return;
    }
    if !KernelEsp::probe().features.cpu {
        return println!("skipped: SAs for a CPU came with Linux 6.13");
    }
    let site = Site::new().unwrap();
    let (mut a, mut b) = up(&site, &options(true), (WAN_A, WAN_B));
    let install = |a: &mut Gateway<'_>, b: &mut Gateway<'_>, generation, purpose| {
        let inbound = b.install_for(generation, address(WAN_A), purpose, false);
        a.install_for(generation, address(WAN_B), purpose, true);
        b.activate(inbound);
    };
    for cpu in 0..2 {
        install(&mut a, &mut b, 2 + u32::from(cpu), Purpose::Resource(cpu));
    }
    let inbound =
        |a: &Gateway<'_>, generation| a.setup(generation, SocketAddr::new(address(WAN_B), 4500)).inbound;
    let sent_with = |a: &mut Gateway<'_>, cpu: &str, generation| {
        let spi = inbound(a, generation);
        let count =
            |a: &mut Gateway<'_>| a.stats().iter().find(|s| s.inbound == spi).map_or(0, |s| s.packets_out);
        let before = count(a);
        let said = site
            .host_a
            .run("taskset", &["-c", cpu, "ping", "-c", "5", "-i", "0.05", "-W", "2", HOST_B])
            .unwrap();
        assert!(said.contains(" 5 received"), "{said}");
        count(a) - before
    };
    assert_eq!((sent_with(&mut a, "0", 2), sent_with(&mut a, "1", 3)), (5, 5), "{:?}", a.stats());
    // The SA for all is rekeyed, and then, as is asked for, those for a CPU.
    install(&mut a, &mut b, 4, Purpose::All);
    for generation in [2, 3] {
        let inbound = inbound(&a, generation);
        let asked = |e: &DataplaneEvent| (*e == DataplaneEvent::SoftLimit { inbound }).then_some(());
        assert_eq!(a.event(asked), Some(()));
    }
    install(&mut a, &mut b, 5, Purpose::Resource(0));
    install(&mut a, &mut b, 6, Purpose::Resource(1));
    let forget = |gateway: &mut Gateway<'_>, generation, drain| {
        let old = inbound(gateway, generation);
        gateway.remove(old, drain).unwrap();
    };
    for old in 1..4 {
        forget(&mut a, old, Duration::from_millis(300));
        forget(&mut b, old, Duration::from_millis(300));
    }
    assert_eq!((sent_with(&mut a, "0", 5), sent_with(&mut a, "1", 6)), (5, 5), "{:?}", a.stats());
    forget(&mut a, 5, Duration::ZERO);
    forget(&mut b, 5, Duration::ZERO);
    assert_eq!((sent_with(&mut a, "0", 4), sent_with(&mut a, "1", 6)), (5, 5), "{:?}", a.stats());
}
