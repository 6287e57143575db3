//! Kernel ESP against the running kernel: every suite, both outer families, plain and in UDP; policies,
//! interfaces, reports, sweeps. Needs root. Where the kernel has no ESP the tests say so and end, except
//! that the probe must say it too; CULVERT_EXPECT_ESP=1 (set in the test VM) makes that a failure.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::{Namespace, pair};
use culvert_crypto::{Encryption, Integrity, Suite, SuiteKeys};
use culvert_sys::encap::EncapSocket;
use culvert_sys::netlink::Netlink;
use culvert_sys::probe::{KernelEsp, Wanted};
use culvert_sys::xfrm::{
    Direction, Encapsulation, IF_ID_BASE, KernelSelector, Limits, Policy, PolicyAction, PolicyId,
    SaDirection, SaOptions, SaSpec, Sequence, Swept, Xfrm, XfrmEvent, XfrmMonitor,
};
use culvert_types::Spi;
use ipnet::IpNet;

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

fn suite(encryption: Encryption, integrity: Option<Integrity>) -> Suite {
    Suite::new(encryption, integrity).unwrap()
}

fn keys(suite: Suite, seed: u8) -> SuiteKeys {
    let key = |n: usize| (0..n).map(|i| seed.wrapping_mul(31).wrapping_add(i as u8)).collect::<Vec<_>>();
    SuiteKeys::new(&key(suite.encryption_key_len()), &key(suite.integrity_key_len()))
}

fn spi(value: u32) -> Spi {
    Spi::new(value).unwrap()
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

/// One end of a tunnel by hand: interface, SA pair and policies of IF_ID_BASE.
struct End {
    xfrm: Xfrm,
    local: IpAddr,
    remote: IpAddr,
    number: u8,
}

const REQID: u32 = 77;

impl End {
    fn new(namespace: &Namespace, ipv6: bool, number: u8) -> Self {
        let address = |n: u8| -> IpAddr {
            if ipv6 { format!("2001:db8::{n}") } else { format!("192.0.2.{n}") }.parse().unwrap()
        };
        let features = KernelEsp::probe().features;
        let xfrm = namespace.enter(move || async move { Xfrm::with(features).unwrap() });
        Self { xfrm, local: address(number), remote: address(3 - number), number }
    }

    /// The interface, with 10.N.0.1 and fd00:N::1 inside, and routes to the other end's.
    fn interface(namespace: &Namespace, number: u8) {
        namespace.enter(move || async move {
            let netlink = Netlink::connect().unwrap();
            let lo = netlink.link("lo").await.unwrap();
            let link = netlink.create_xfrm_interface("cv-test", IF_ID_BASE, lo.index).await.unwrap();
            netlink.set_mtu(link.index, 1380).await.unwrap();
            netlink.set_up(link.index, true).await.unwrap();
            netlink.add_address(link.index, net(&format!("10.{number}.0.1/16"))).await.unwrap();
            netlink.add_address(link.index, net(&format!("fd00:{number}::1/32"))).await.unwrap();
        });
        let other = 3 - number;
        namespace.run(&format!("ip route add 10.{other}.0.0/16 dev cv-test src 10.{number}.0.1"));
        namespace.run(&format!("ip -6 route add fd00:{other}::/32 dev cv-test src fd00:{number}::1"));
    }

    fn sa<'a>(
        &self,
        direction: SaDirection,
        suite: Suite,
        keys: &'a SuiteKeys,
        base: u32,
        udp: bool,
    ) -> SaSpec<'a> {
        // The SA towards end N has SPI base + N.
        let (source, destination, towards) = match direction {
            SaDirection::Outbound => (self.local, self.remote, 3 - self.number),
            SaDirection::Inbound => (self.remote, self.local, self.number),
        };
        SaSpec {
            direction,
            spi: spi(base + u32::from(towards)),
            source,
            destination,
            suite,
            keys,
            esn: true,
            replay_window: 1024,
            encapsulation: udp.then_some(Encapsulation { source_port: 4500, destination_port: 4500 }),
            if_id: IF_ID_BASE,
            reqid: REQID,
            copy_df: true,
            copy_dscp: true,
            limits: Limits::default(),
            sequence: Sequence::default(),
            options: SaOptions::default(),
        }
    }

    fn policies(&self) {
        for ipv4 in [true, false] {
            let selector = KernelSelector::any(ipv4);
            for (direction, outer) in [
                (Direction::Out, (self.local, self.remote)),
                (Direction::In, (self.remote, self.local)),
                (Direction::Forward, (self.remote, self.local)),
            ] {
                let id = PolicyId { selector, direction, if_id: IF_ID_BASE };
                let action = PolicyAction::Protect { reqid: REQID, outer, transport: false };
                self.xfrm.put_policy(&Policy { id, action, priority: 100 }).unwrap();
            }
        }
    }
}

fn pings(from: &Namespace, to: &str) -> bool {
    from.output(&format!("ping -c 1 -W 2 {to}")).status.success()
}

#[test]
fn the_probe_says_what_there_is_and_why_the_rest_is_not() {
    let esp = KernelEsp::probe();
    println!("{esp}");
    let gcm = suite(Encryption::AesGcm128, None);
    let obstacles = esp.obstacles(&Wanted { suites: &[gcm], ipv6: false, udp: true, esn: true });
    if std::env::var_os("CULVERT_EXPECT_ESP").is_some() {
        assert_eq!(obstacles, [""; 0]);
        let lacks = |l: &&str| l.contains("not available") && !l.contains("came with Linux");
        assert_eq!(esp.to_string().lines().find(lacks), None);
        let version = std::env::var("CULVERT_VM").unwrap_or_default();
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        if let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) {
            let since = |release: (u32, u32)| (major, minor) >= release;
            assert_eq!(esp.features.direction, since((6, 10)), "Linux {version}");
            // Debian's 6.12.107 has it too, and does as it says (`gateways xfrm_cpus`).
            assert!(esp.features.cpu || !since((6, 13)), "Linux {version}");
            assert!(!esp.features.cpu || since((6, 12)), "Linux {version}");
        }
        return;
    }
    let text = esp.to_string();
    assert_eq!(text.lines().count(), 5 + 3 * Suite::all().count());
    for line in text.lines().filter(|l| l.contains("not available")) {
        assert!(line.split_once("not available, ").is_some_and(|(_, why)| why.len() > 5), "{line}");
    }
    assert_eq!(esp.available().is_ok(), obstacles.is_empty(), "{obstacles:?}");
}

#[test]
fn every_suite_carries_both_inner_families_over_both_outer_ones_plain_and_in_udp() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("suites");
    for (side, number) in sides.iter().zip([1, 2]) {
        End::interface(side, number);
    }
    let sockets: Vec<_> = sides
        .iter()
        .zip([1, 2])
        .flat_map(|(side, n)| {
            [format!("192.0.2.{n}:4500"), format!("[2001:db8::{n}]:4500")].map(|at| {
                let at: SocketAddr = at.parse().unwrap();
                side.enter(move || async move { EncapSocket::open(at).unwrap() })
            })
        })
        .collect();
    let mut base = 0x1000;
    for ipv6 in [false, true] {
        let ends = [End::new(&sides[0], ipv6, 1), End::new(&sides[1], ipv6, 2)];
        for end in &ends {
            end.policies();
        }
        for udp in [false, true] {
            // Every suite once; over IPv6 and in UDP one of each key layout.
            let layouts = ["aes128-sha256", "aes256ctr-sha1", "aes128gcm16", "aes192ccm12", "aes256gmac"];
            let chosen = |s: &Suite| !(ipv6 || udp) || layouts.contains(&s.to_string().as_str());
            for suite in Suite::all().filter(chosen) {
                let what = format!("{suite} ipv6={ipv6} udp={udp}");
                base += 0x10;
                let keys = [keys(suite, 1), keys(suite, 2)];
                let mut ids = Vec::new();
                for (i, end) in ends.iter().enumerate() {
                    for (direction, key) in
                        [(SaDirection::Outbound, &keys[i]), (SaDirection::Inbound, &keys[1 - i])]
                    {
                        let spec = end.sa(direction, suite, key, base, udp);
                        end.xfrm.add_sa(&spec).unwrap_or_else(|e| panic!("{what}: {e}"));
                        ids.push((i, direction, spec.id()));
                    }
                }
                assert!(pings(&sides[0], "10.2.0.1"), "{what}: IPv4 does not pass");
                assert!(pings(&sides[1], "fd00:1::1"), "{what}: IPv6 does not pass");
                for (i, direction, id) in ids {
                    let state = ends[i].xfrm.sa(id).unwrap().unwrap();
                    assert_eq!((state.id, state.if_id, state.reqid), (id, IF_ID_BASE, REQID), "{what}");
                    assert!(state.packets >= 2 && state.bytes >= 2 * 84, "{what}: {state:?}");
                    let Sequence { outbound, inbound } = state.sequence;
                    let (used, unused) = match direction {
                        SaDirection::Outbound => (outbound, inbound),
                        SaDirection::Inbound => (inbound, outbound),
                    };
                    assert!(used >= 2 && unused == 0, "{what}: {state:?}");
                    // Where it knows the direction the kernel keeps no window for what it sends.
                    let window = if state.direction == Some(SaDirection::Outbound) { 0 } else { 1024 };
                    assert_eq!((state.esn, state.replay_window), (true, window));
                    assert!(state.direction.is_none_or(|d| d == direction), "{what}: {state:?}");
                    assert_eq!(state.encapsulation.is_some(), udp);
                    assert_eq!((state.too_old, state.replayed, state.integrity_failed), (0, 0, 0), "{what}");
                    assert!(ends[i].xfrm.delete_sa(id).unwrap());
                    assert!(!ends[i].xfrm.delete_sa(id).unwrap());
                    assert_eq!(ends[i].xfrm.sa(id).unwrap(), None);
                }
            }
        }
        assert!(!pings(&sides[0], "10.2.0.1"), "without an SA nothing passes");
    }
    drop(sockets);
}

#[test]
fn a_sweep_takes_what_is_ours_and_leaves_what_is_not() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("sweep");
    let end = End::new(&sides[0], false, 1);
    let suite = suite(Encryption::AesGcm128, None);
    let key = keys(suite, 1);
    sides[0].run("ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x4242 reqid 1 mode tunnel aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128 if_id 0x7");
    sides[0].run("ip xfrm policy add src 10.7.0.0/16 dst 10.8.0.0/16 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel if_id 0x7");
    sides[0].run("ip xfrm policy add src 10.7.0.0/16 dst 10.9.0.0/16 dir out action block");
    end.policies();
    for direction in [SaDirection::Outbound, SaDirection::Inbound] {
        end.xfrm.add_sa(&end.sa(direction, suite, &key, 0x1000, false)).unwrap();
    }
    let again = end.xfrm.add_sa(&end.sa(SaDirection::Inbound, suite, &key, 0x1000, false)).unwrap_err();
    assert!(again.kernel().unwrap().already_exists(), "{again}");
    assert!(!again.to_string().contains("Secret") && again.to_string().contains("00001001"), "{again}");

    assert_eq!(end.xfrm.sweep(|id| id != IF_ID_BASE).unwrap(), Swept::default());
    assert_eq!(end.xfrm.sweep(|_| true).unwrap(), Swept { states: 2, policies: 6 });
    assert_eq!(end.xfrm.sweep(|_| true).unwrap(), Swept::default());
    assert_eq!(sides[0].run("ip xfrm state").matches("spi 0x").count(), 1);
    assert_eq!(sides[0].run("ip xfrm policy").matches("dir out").count(), 2);
}

#[test]
fn policies_keep_to_their_selectors_and_replace_each_other() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("policy");
    for (side, number) in sides.iter().zip([1, 2]) {
        End::interface(side, number);
    }
    let ends = [End::new(&sides[0], false, 1), End::new(&sides[1], false, 2)];
    let suite = suite(Encryption::AesCbc128, Some(Integrity::HmacSha256_128));
    let keys = [keys(suite, 1), keys(suite, 2)];
    for (i, end) in ends.iter().enumerate() {
        end.policies();
        end.xfrm.add_sa(&end.sa(SaDirection::Outbound, suite, &keys[i], 0x1000, false)).unwrap();
        end.xfrm.add_sa(&end.sa(SaDirection::Inbound, suite, &keys[1 - i], 0x1000, false)).unwrap();
    }
    assert!(pings(&sides[0], "10.2.0.1"));
    let any = PolicyId { selector: KernelSelector::any(true), direction: Direction::Out, if_id: IF_ID_BASE };
    let policy = |id, action, priority| Policy { id, action, priority };
    ends[0].xfrm.put_policy(&policy(any, PolicyAction::Block, 100)).unwrap();
    assert!(!pings(&sides[0], "10.2.0.1"), "the same selector's policy is replaced");
    // A host of its own, with a smaller number, passes; its neighbour does not.
    let one = PolicyId {
        selector: KernelSelector {
            source: net("10.1.0.1/32"),
            destination: net("10.2.0.1/32"),
            ..KernelSelector::any(true)
        },
        ..any
    };
    let outer = (ends[0].local, ends[0].remote);
    let protect = PolicyAction::Protect { reqid: REQID, outer, transport: false };
    ends[0].xfrm.put_policy(&policy(one, protect, 50)).unwrap();
    sides[1].run("ip addr add 10.2.0.2/16 dev cv-test");
    assert!(pings(&sides[0], "10.2.0.1"));
    assert!(!pings(&sides[0], "10.2.0.2"));
    assert!(ends[0].xfrm.policies().unwrap().contains(&one));
    assert!(ends[0].xfrm.delete_policy(&one).unwrap());
    assert!(!ends[0].xfrm.delete_policy(&one).unwrap());
    assert!(!pings(&sides[0], "10.2.0.1"));
    // Inbound: what the SA opens must match as well (RFC 4301 5.2).
    ends[0].xfrm.put_policy(&policy(any, protect, 100)).unwrap();
    assert!(pings(&sides[0], "10.2.0.1"));
    let inbound = PolicyId { direction: Direction::In, ..any };
    ends[1].xfrm.put_policy(&policy(inbound, PolicyAction::Block, 100)).unwrap();
    assert!(!pings(&sides[0], "10.2.0.1"));
}

#[test]
fn the_kernel_reports_limits_moves_and_wants() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("monitor");
    for (side, number) in sides.iter().zip([1, 2]) {
        End::interface(side, number);
    }
    let ends = [End::new(&sides[0], false, 1), End::new(&sides[1], false, 2)];
    let listen = |side: usize| -> std::sync::mpsc::Receiver<XfrmEvent> {
        let (events, seen) = std::sync::mpsc::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = format!("/run/netns/{}", sides[side].name());
        std::thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut monitor = XfrmMonitor::open().unwrap();
                ready.send(()).unwrap();
                while let Ok(event) = monitor.next().await {
                    if events.send(event).is_err() {
                        return;
                    }
                }
            });
        });
        is_ready.recv().unwrap();
        seen
    };
    let expect = |seen: &std::sync::mpsc::Receiver<XfrmEvent>, want: XfrmEvent| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event == want => return,
                Ok(_) => {}
                Err(_) => panic!("no {want:?}"),
            }
        }
    };
    let events = [listen(0), listen(1)];
    let socket = sides[1].enter(|| async { EncapSocket::open("192.0.2.2:4500".parse().unwrap()).unwrap() });

    let selector = KernelSelector::any(true);
    let out = PolicyId { selector, direction: Direction::Out, if_id: IF_ID_BASE };
    let trap = Policy { id: out, action: PolicyAction::Trap { reqid: 9 }, priority: 100 };
    ends[0].xfrm.put_policy(&trap).unwrap();
    assert!(!pings(&sides[0], "10.2.0.1"));
    expect(&events[0], XfrmEvent::Acquire { if_id: IF_ID_BASE, to: "10.2.0.1".parse().unwrap() });

    let suite = suite(Encryption::ChaCha20Poly1305, None);
    let keys = [keys(suite, 1), keys(suite, 2)];
    let mut out_spec = None;
    for (i, end) in ends.iter().enumerate() {
        end.policies();
        let mut out = end.sa(SaDirection::Outbound, suite, &keys[i], 0x1000, true);
        out.limits = Limits { packets: Some((3, 5)), ..Limits::default() };
        end.xfrm.add_sa(&out).unwrap();
        end.xfrm.add_sa(&end.sa(SaDirection::Inbound, suite, &keys[1 - i], 0x1000, true)).unwrap();
        out_spec.get_or_insert(out);
    }
    // The sender's port changes, as behind a NAT that was restarted: told once it authenticated.
    let mut moved = out_spec.unwrap();
    moved.encapsulation = Some(Encapsulation { source_port: 4511, destination_port: 4500 });
    ends[0].xfrm.update_sa(&moved).unwrap();
    pings(&sides[0], "10.2.0.1");
    let inbound = ends[1].sa(SaDirection::Inbound, suite, &keys[0], 0x1000, true).id();
    expect(
        &events[1],
        XfrmEvent::PeerMoved {
            id: inbound,
            from: "192.0.2.1:4500".parse().unwrap(),
            to: "192.0.2.1:4511".parse().unwrap(),
        },
    );
    for _ in 0..6 {
        sides[0].output("ping -c 1 -W 1 10.2.0.1");
    }
    expect(&events[0], XfrmEvent::Expired { id: moved.id(), hard: false });
    expect(&events[0], XfrmEvent::Expired { id: moved.id(), hard: true });
    assert_eq!(ends[0].xfrm.sa(moved.id()).unwrap(), None, "a hard limit ends the SA");
    drop(socket);
}

#[test]
fn an_sa_that_takes_over_goes_on_counting() {
    if !kernel_has_esp() {
        return;
    }
    let sides = pair("sequence");
    let end = End::new(&sides[0], false, 1);
    let suite = suite(Encryption::AesGcm256, None);
    let key = keys(suite, 3);
    for (direction, sequence) in [
        (SaDirection::Inbound, Sequence { outbound: 0, inbound: 0x1_0000_0009 }),
        (SaDirection::Outbound, Sequence { outbound: 0x2_0000_0005, inbound: 0 }),
    ] {
        let spec = SaSpec { sequence, ..end.sa(direction, suite, &key, 0x1000, false) };
        end.xfrm.add_sa(&spec).unwrap();
        let state = end.xfrm.sa(spec.id()).unwrap().unwrap();
        assert_eq!(state.sequence, sequence);
        assert_eq!(end.xfrm.sas().unwrap(), [state]);
        assert!(end.xfrm.delete_sa(spec.id()).unwrap());
    }
}
