//! The guard on real links: the programs pass the kernel's verifier, attach by every hook, and drop and pass real
//! packets. Needs root. Also run under other kernels by `cargo xtask vm`.
#![allow(unsafe_code)]
#[path = "guard/bench.rs"]
mod bench;
#[path = "guard/steer.rs"]
mod steer;
#[path = "guard/xsk.rs"]
mod xsk;

use bench::{Bench, GATEWAY4, GATEWAY6, Namespace, PEER4, PEER6, STRANGER4, UNGUARDED4, ip};
use culvert_ebpf_shared::testing::{esp, extension, ike, ip as ip_packet, ipv4, ipv6, marked, udp};
use culvert_sys::guard::{AttachMode, AttachedMode, Guard, GuardError, GuardMode, GuardOptions, GuardSa};
use culvert_sys::tun::{Tun, VnetHeader};
use culvert_types::Spi;
use std::io::IoSlice;
use std::net::{IpAddr, UdpSocket};

const SPI: u32 = 0xc0ff_ee02;
const SPI6: u32 = 0xc0ff_ee04;
const ROAMING: u32 = 0xc0ff_ee06;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn spi(value: u32) -> Spi {
    Spi::new(value).unwrap()
}

fn options() -> GuardOptions {
    GuardOptions { local_addresses: vec![address(GATEWAY4), address(GATEWAY6)], ..GuardOptions::default() }
}

/// A guard with three SAs: shortest packet 44 bytes, blocks of 4.
fn guard(bench: &Bench, mode: AttachMode) -> (Guard, AttachedMode) {
    let (mut guard, attached) = bench.gateway.run(|| {
        let mut guard = Guard::load(options()).unwrap_or_else(|error| panic!("{error}"));
        let attached = guard.attach("wan", mode).unwrap_or_else(|error| panic!("{error}"));
        (guard, attached)
    });
    for (value, local, remote) in
        [(SPI, GATEWAY4, Some(PEER4)), (SPI6, GATEWAY6, Some(PEER6)), (ROAMING, GATEWAY4, None)]
    {
        let (local, remote) = (address(local), remote.map(address));
        guard
            .insert_sa(GuardSa { spi: spi(value), local, remote, min_len: 44, alignment: 4, esn: true })
            .unwrap();
    }
    (guard, attached.mode)
}

fn count(guard: &Guard, reason: &str) -> u64 {
    guard
        .counters()
        .unwrap()
        .iter()
        .find(|counter| counter.reason == reason && counter.verdict != "would-drop")
        .unwrap()
        .packets
}

fn natt(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (address(source), address(destination));
    ip_packet(source, destination, 17, &udp(source, destination, (4500, 4500), payload))
}

fn plain(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    ip_packet(address(source), address(destination), 50, payload)
}

fn ike_500(source: &str, destination: &str, len: usize) -> Vec<u8> {
    let (source, destination) = (address(source), address(destination));
    ip_packet(source, destination, 17, &udp(source, destination, (500, 500), &ike(len)))
}

/// Sends a packet that must be dropped for `reason`, then one that passes: when that is there, the first would be.
#[track_caller]
fn dropped(bench: &Bench, guard: &Guard, packet: &[u8], reason: &str) {
    let before = count(guard, reason);
    bench.send(packet);
    bench.send(&marker(bench));
    assert!(bench.receive("dns").is_some(), "the packet behind did not arrive");
    assert_eq!(count(guard, reason), before + 1, "{reason}");
    bench.assert_silent();
}

/// Sends a packet that must arrive at `socket` with the given reason.
#[track_caller]
fn passed(bench: &Bench, guard: &Guard, packet: &[u8], socket: &str, reason: &str, tail: &[u8]) {
    let before = count(guard, reason);
    bench.send(packet);
    let Some(received) = bench.receive(socket) else { panic!("nothing arrived at {socket} for {reason}") };
    assert!(received.ends_with(tail), "{socket}");
    assert_eq!(count(guard, reason), before + 1, "{reason}");
    bench.assert_silent();
}

/// To a port that is none of the guard's business.
fn marker(_: &Bench) -> Vec<u8> {
    let (source, destination) = (address(PEER4), address(GATEWAY4));
    ip_packet(source, destination, 17, &udp(source, destination, (1053, 53), b"marker"))
}

fn everything(mode: AttachMode, expected: &[AttachedMode]) {
    let bench = Bench::new();
    let (mut guard, attached) = guard(&bench, mode);
    assert!(expected.contains(&attached), "{attached:?}");

    // Of known SAs, plain and in UDP, both families.
    let (good, good6) = (esp(SPI, 5000, 60), esp(SPI6, 1, 60));
    passed(&bench, &guard, &plain(PEER4, GATEWAY4, &good), "esp", "esp", &good);
    passed(&bench, &guard, &natt(PEER4, GATEWAY4, &good), "natt", "esp", &good);
    passed(&bench, &guard, &plain(PEER6, GATEWAY6, &good6), "esp6", "esp", &good6);
    passed(&bench, &guard, &natt(PEER6, GATEWAY6, &good6), "natt6", "esp", &good6);
    let roaming = esp(ROAMING, 1, 44);
    passed(&bench, &guard, &natt(STRANGER4, GATEWAY4, &roaming), "natt", "esp", &roaming);
    // With IPv4 options and IPv6 extension headers.
    let (IpAddr::V4(peer4), IpAddr::V4(gateway4)) = (address(PEER4), address(GATEWAY4)) else {
        unreachable!()
    };
    let (IpAddr::V6(peer6), IpAddr::V6(gateway6)) = (address(PEER6), address(GATEWAY6)) else {
        unreachable!()
    };
    passed(&bench, &guard, &ipv4(peer4, gateway4, 50, &[1; 12], 0, &good), "esp", "esp", &good);
    let extended = ipv6(peer6, gateway6, 60, &extension(60, 2, &extension(50, 9, &good6)));
    passed(&bench, &guard, &extended, "esp6", "esp", &good6);
    // What it counted for them.
    let counted = guard.sa_counters(spi(SPI)).unwrap();
    assert_eq!((counted.packets, counted.bytes), (3, 80 + 88 + 92));
    let counted = guard.sa_counters(spi(SPI6)).unwrap();
    assert_eq!((counted.packets, counted.bytes), (3, 100 + 108 + (40 + 16 + 72 + 60)));

    // What cannot be valid.
    dropped(&bench, &guard, &plain(PEER4, GATEWAY4, &esp(0xdead_beef, 1, 60)), "unknown-spi");
    dropped(&bench, &guard, &natt(PEER6, GATEWAY6, &esp(0xdead_beef, 1, 60)), "unknown-spi");
    dropped(&bench, &guard, &natt(STRANGER4, GATEWAY4, &good), "wrong-source");
    dropped(&bench, &guard, &natt(PEER4, GATEWAY4, &good6), "wrong-destination");
    dropped(&bench, &guard, &natt(PEER4, GATEWAY4, &esp(SPI, 5001, 40)), "esp-short");
    dropped(&bench, &guard, &plain(PEER4, GATEWAY4, &esp(SPI, 5001, 46)), "esp-misaligned");
    dropped(&bench, &guard, &natt(PEER4, GATEWAY4, &[0xff]), "nat-keepalive");
    dropped(&bench, &guard, &natt(PEER6, GATEWAY6, &[0xff]), "nat-keepalive");
    dropped(&bench, &guard, &natt(PEER4, GATEWAY4, &[1, 2]), "malformed");
    dropped(&bench, &guard, &ike_500(PEER4, GATEWAY4, 27), "ike-short");

    // The window moves on.
    guard.publish_replay_floor(spi(SPI), 6000).unwrap();
    dropped(&bench, &guard, &natt(PEER4, GATEWAY4, &good), "stale");
    let fresh = esp(SPI, 6000, 60);
    passed(&bench, &guard, &natt(PEER4, GATEWAY4, &fresh), "natt", "esp", &fresh);

    // IKE, and what is none of the guard's business.
    passed(&bench, &guard, &ike_500(PEER4, GATEWAY4, 60), "ike", "ike", &ike(60));
    passed(&bench, &guard, &ike_500(PEER6, GATEWAY6, 60), "ike6", "ike", &ike(60));
    passed(&bench, &guard, &natt(PEER4, GATEWAY4, &marked(&ike(60))), "natt", "ike", &ike(60));
    let unguarded = esp(0xdead_beef, 1, 60);
    passed(&bench, &guard, &natt(PEER4, UNGUARDED4, &unguarded), "natt", "not-local", &unguarded);

    // A fragmented ESP packet reaches the stack, which puts it together.
    let whole = esp(SPI, 6001, 1204);
    bench.send(&ipv4(peer4, gateway4, 50, &[], 0x2000, &whole[..800]));
    bench.send(&ipv4(peer4, gateway4, 50, &[], 100, &whole[800..]));
    assert!(bench.receive("esp").unwrap().ends_with(&whole));
    assert_eq!(count(&guard, "fragment"), 2);

    shows_what_it_drops(&bench, &mut guard);

    // Learning counts and passes.
    guard.set_mode(GuardMode::Learn).unwrap();
    let unknown = esp(0xdead_beef, 1, 60);
    bench.send(&natt(PEER4, GATEWAY4, &unknown));
    assert_eq!(bench.receive("natt").as_deref(), Some(unknown.as_slice()));
    let counters = guard.counters().unwrap();
    let learned = counters.iter().find(|counter| counter.verdict == "would-drop").unwrap();
    assert_eq!((learned.reason, learned.packets), ("unknown-spi", 1));
    // Off counts nothing.
    guard.set_mode(GuardMode::Off).unwrap();
    bench.send(&natt(PEER4, GATEWAY4, &unknown));
    assert_eq!(bench.receive("natt").as_deref(), Some(unknown.as_slice()));
    assert_eq!(guard.counters().unwrap(), counters);

    // An SA that went is unknown; its SPI may come back.
    guard.set_mode(GuardMode::On).unwrap();
    guard.remove_sa(spi(SPI)).unwrap();
    dropped(&bench, &guard, &natt(PEER4, GATEWAY4, &fresh), "unknown-spi");
    assert!(matches!(guard.sa_counters(spi(SPI)), Err(GuardError::NoSuchSa { .. })));

    // Detached, everything passes.
    bench.gateway.run(|| guard.detach_all().unwrap());
    bench.send(&natt(PEER4, GATEWAY4, &unknown));
    assert_eq!(bench.receive("natt").as_deref(), Some(unknown.as_slice()));
}

/// While somebody looks: with its headers, and a few of each reason.
fn shows_what_it_drops(bench: &Bench, guard: &mut Guard) {
    assert_eq!(guard.take_sample(), None, "nobody has looked yet");
    guard.look(1).unwrap();
    let (esp4, esp6) = (esp(0xdead_beef, 7, 60), esp(SPI6, 8, 40));
    dropped(bench, guard, &natt(PEER4, GATEWAY4, &esp4), "unknown-spi");
    dropped(bench, guard, &plain(PEER6, GATEWAY6, &esp6), "esp-short");
    dropped(bench, guard, &ike_500(PEER4, GATEWAY4, 27), "ike-short");
    let mut sample = || guard.take_sample().expect("nothing was shown");
    let (unknown, short, ike) = (sample(), sample(), sample());
    assert_eq!((unknown.verdict, unknown.reason, unknown.packets), ("drop", "unknown-spi", 1));
    assert_eq!((unknown.source, unknown.destination), (Some(address(PEER4)), Some(address(GATEWAY4))));
    assert_eq!((unknown.ports, unknown.spi), (Some((4500, 4500)), Some(0xdead_beef)));
    assert_eq!((unknown.sequence, unknown.length), (7, 14 + 28 + 60));
    assert!(unknown.age < std::time::Duration::from_secs(5), "{unknown:?}");
    assert_eq!((short.source, short.ports, short.spi), (Some(address(PEER6)), None, Some(SPI6)));
    assert_eq!((ike.ports, ike.spi, ike.length), (Some((500, 500)), None, 14 + 28 + 27));
    // A flood, of whatever CPU, leaves room for others.
    (0..50).for_each(|_| bench.send(&natt(PEER4, GATEWAY4, &esp4)));
    dropped(bench, guard, &natt(PEER4, GATEWAY4, &[1, 2]), "malformed");
    let shown: Vec<_> = std::iter::from_fn(|| guard.take_sample()).map(|sample| sample.reason).collect();
    let flood = shown.iter().filter(|reason| **reason == "unknown-spi").count();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(flood > 0 && flood <= 10 * cpus && flood < 50 && shown.contains(&"malformed"), "{shown:?}");
    guard.look(0).unwrap();
    dropped(bench, guard, &natt(PEER4, GATEWAY4, &esp4), "unknown-spi");
    assert_eq!(guard.take_sample(), None, "nobody looks any more");
}

#[test]
fn xdp_native_judges_real_packets() {
    everything(AttachMode::XdpNative, &[AttachedMode::XdpNative]);
}

#[test]
fn xdp_generic_judges_real_packets() {
    everything(AttachMode::XdpGeneric, &[AttachedMode::XdpGeneric]);
}

#[test]
fn tc_judges_real_packets() {
    everything(AttachMode::Tcx, &[AttachedMode::Tcx, AttachedMode::Clsact]);
}

#[test]
fn auto_takes_tc_on_a_veth_and_says_why() {
    let bench = Bench::new();
    bench.gateway.run(|| {
        let mut guard = Guard::load(options()).unwrap();
        let attached = guard.attach("wan", AttachMode::Auto).unwrap();
        assert!(matches!(attached.mode, AttachedMode::Tcx | AttachedMode::Clsact), "{attached:?}");
        assert!(attached.reason.unwrap().contains("veth"));
        assert!(matches!(guard.attach("wan", AttachMode::Auto), Err(GuardError::AlreadyAttached { .. })));
        assert!(matches!(
            guard.attach("nowhere", AttachMode::Auto),
            Err(GuardError::UnknownInterface { .. })
        ));
    });
}

#[test]
fn a_second_xdp_program_is_told_of_the_first() {
    let bench = Bench::new();
    bench.gateway.run(|| {
        let mut first = Guard::load(options()).unwrap();
        first.attach("wan", AttachMode::XdpNative).unwrap();
        let mut second = Guard::load(options()).unwrap();
        let refused = second.attach("wan", AttachMode::XdpNative).unwrap_err();
        assert!(matches!(refused, GuardError::Occupied { .. }), "{refused}");
        drop(first);
        second.attach("wan", AttachMode::XdpNative).unwrap();
    });
}

#[test]
fn ike_from_unproven_sources_is_limited() {
    let bench = Bench::new();
    let (mut guard, _) = guard(&bench, AttachMode::Auto);
    let flood = |source: &str, packets: u32| {
        for _ in 0..packets {
            bench.send(&ike_500(source, GATEWAY4, 60));
        }
        bench.send(&marker(&bench));
        assert!(bench.receive("dns").is_some());
    };
    let drain = || std::iter::from_fn(|| bench.receive_now("ike")).count() as u64;
    // The default burst is 200, and 50 more each second.
    flood(STRANGER4, 600);
    let (admitted, refused) = (count(&guard, "ike"), count(&guard, "ike-source-rate"));
    assert_eq!(admitted + refused, 600);
    assert!((200..400).contains(&admitted), "{admitted}");
    assert_eq!(drain(), admitted);
    // Another source is not to suffer for it.
    flood(PEER4, 50);
    assert_eq!(count(&guard, "ike"), admitted + 50);
    // Proven sources are not limited; forgotten ones are again.
    guard.prove_source(address(STRANGER4)).unwrap();
    flood(STRANGER4, 300);
    assert_eq!(count(&guard, "ike-proven"), 300);
    guard.forget_source(address(STRANGER4)).unwrap();
    guard.forget_source(address(STRANGER4)).unwrap();
    flood(STRANGER4, 300);
    assert_eq!(count(&guard, "ike-proven"), 300);
    assert!(count(&guard, "ike-source-rate") > refused);
}

#[test]
fn the_ceiling_holds_against_many_sources() {
    let bench = Bench::new();
    let mut guard = bench.gateway.run(|| {
        let options = GuardOptions { ike_ceiling: 10, ike_ceiling_burst: 20, ..options() };
        let mut guard = Guard::load(options).unwrap();
        guard.attach("wan", AttachMode::Auto).unwrap();
        guard
    });
    for host in 0..200 {
        bench.send(&ike_500(&format!("198.51.100.{host}"), GATEWAY4, 60));
    }
    bench.send(&marker(&bench));
    assert!(bench.receive("dns").is_some());
    let (admitted, refused) = (count(&guard, "ike"), count(&guard, "ike-ceiling"));
    assert_eq!(admitted + refused, 200);
    assert!((20..60).contains(&admitted), "{admitted}");
    bench.gateway.run(|| guard.detach_all().unwrap());
}

#[test]
fn super_packets_are_judged_by_their_first_header_and_counted_by_segments() {
    let bench = Bench::new();
    let (guard, _) = guard(&bench, AttachMode::Tcx);
    // 8 segments of 1000 bytes, sent at once: the link carries them as one.
    let segments: Vec<u8> = (0..8).flat_map(|n| esp(SPI, 7000 + n, 1000)).collect();
    let socket = bench.peer.run(|| UdpSocket::bind((PEER4, 4500)).unwrap());
    send_segmented(&socket, &segments, 1000);
    for n in 0..8 {
        assert_eq!(bench.receive("natt").as_deref(), Some(esp(SPI, 7000 + n, 1000).as_slice()));
    }
    assert_eq!(count(&guard, "esp"), 8);
    assert_eq!(guard.sa_counters(spi(SPI)).unwrap().packets, 8);
    // Segments that are no multiple of the block are refused, though the train as a whole would be one.
    let segments: Vec<u8> = (0..4).flat_map(|n| esp(SPI, 8000 + n, 1001)).collect();
    send_segmented(&socket, &segments, 1001);
    bench.send(&marker(&bench));
    assert!(bench.receive("dns").is_some());
    assert_eq!(count(&guard, "esp-misaligned"), 4);
    bench.assert_silent();
}

fn send_segmented(socket: &UdpSocket, bytes: &[u8], segment: u16) {
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
    use std::os::fd::AsRawFd;
    let IpAddr::V4(gateway) = address(GATEWAY4) else { unreachable!() };
    let to: SockaddrIn = std::net::SocketAddrV4::new(gateway, 4500).into();
    let sent = sendmsg(
        socket.as_raw_fd(),
        &[std::io::IoSlice::new(bytes)],
        &[ControlMessage::UdpGsoSegments(&segment)],
        MsgFlags::empty(),
        Some(&to),
    )
    .unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn a_tun_device_has_no_ethernet_headers() {
    let _alone = bench::alone();
    let namespace = Namespace::new();
    namespace.run(|| {
        let device = Tun::create("culverttun").unwrap();
        device.set_up().unwrap();
        ip(&format!("addr add {GATEWAY4}/24 dev culverttun"));
        let send = |packet: &[u8]| {
            let header = VnetHeader::decode(&[0; 10]).unwrap().encode();
            device.write(&[IoSlice::new(&header), IoSlice::new(packet)]).unwrap();
        };
        let socket = UdpSocket::bind(("0.0.0.0", 4500)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut guard = Guard::load(options()).unwrap();
        let refused = guard.attach("culverttun", AttachMode::XdpGeneric).unwrap_err();
        assert!(matches!(refused, GuardError::NotEthernet { .. }), "{refused}");
        let attached = guard.attach("culverttun", AttachMode::Auto).unwrap();
        assert!(attached.reason.unwrap().contains("Ethernet"));
        let sa = GuardSa {
            spi: spi(SPI),
            local: address(GATEWAY4),
            remote: Some(address(PEER4)),
            min_len: 44,
            alignment: 4,
            esn: false,
        };
        guard.insert_sa(sa).unwrap();
        assert!(matches!(guard.insert_sa(sa), Err(GuardError::DuplicateSpi { .. })));
        let good = esp(SPI, 1, 60);
        send(&natt(PEER4, GATEWAY4, &esp(0xdead_beef, 1, 60)));
        send(&natt(PEER4, GATEWAY4, &good));
        let mut buffer = [0; 2000];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], good);
        assert_eq!((count(&guard, "esp"), count(&guard, "unknown-spi")), (1, 1));
    });
}

#[test]
fn nothing_stays_behind() {
    let bench = Bench::new();
    for mode in [AttachMode::XdpNative, AttachMode::XdpGeneric, AttachMode::Tcx] {
        let (guard, _) = guard(&bench, mode);
        bench.gateway.run(|| {
            drop(guard);
            assert_eq!(Guard::cleanup_stale().unwrap(), Vec::<String>::new());
        });
        let shown = bench.gateway.run(|| {
            let output =
                std::process::Command::new("ip").args(["-d", "link", "show", "dev", "wan"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        assert!(!shown.contains("xdp"), "{shown}");
    }
    // A filter of a process that was killed, on kernels where it can stay.
    let (guard, attached) = guard(&bench, AttachMode::Tcx);
    if attached == AttachedMode::Clsact {
        std::mem::forget(guard);
        bench.gateway.run(|| {
            assert_eq!(Guard::cleanup_stale().unwrap(), ["wan"]);
            assert_eq!(Guard::cleanup_stale().unwrap(), Vec::<String>::new());
        });
        bench.send(&natt(PEER4, GATEWAY4, &esp(0xdead_beef, 1, 60)));
        assert!(bench.receive("natt").is_some());
    }
}
