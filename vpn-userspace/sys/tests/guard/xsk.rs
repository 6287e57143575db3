//! AF_XDP on a veth pair: what the guard redirects arrives in frames, what frames hold goes out, and nothing is lost when
//! rings wrap, frames run out, or the device goes and comes back.
use super::bench::{Bench, GATEWAY4, PEER4, ip, wait_for_carrier};
use super::{SPI, esp, guard, natt, plain, spi};
use culvert_ebpf_shared::testing::{ethernet, ip as ip_packet, udp};
use culvert_sys::event::Poller;
use culvert_sys::guard::{AttachMode, SaPath};
use culvert_sys::xsk::{BATCH, Mode, Queue, QueueOptions, Received, Receiver, Umem, XskError, queue_count};
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

const WORKER: u32 = 3;

fn umem() -> Arc<Umem> {
    Arc::new(Umem::new(4096, 2048).unwrap())
}

fn open(bench: &Bench, umem: &Arc<Umem>, fill: usize) -> Receiver {
    bench.gateway.run(|| {
        let options = QueueOptions { fill, ..QueueOptions::default() };
        let queue = Queue::open(umem, "wan", 0, &options).unwrap_or_else(|error| panic!("{error}"));
        Receiver::open(&Arc::new(queue)).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// Waits for this many packets, gives their frames back, and returns what was in them.
fn receive(receiver: &mut Receiver, count: usize) -> Vec<Vec<u8>> {
    let (mut poller, mut packets, mut all) = (Poller::new().unwrap(), Vec::new(), Vec::new());
    poller.add(receiver, 0).unwrap();
    while all.len() < count && poller.wait(Some(Duration::from_secs(5))).unwrap().count() > 0 {
        while receiver.receive(BATCH, &mut packets) > 0 {
            let umem = receiver.queue().umem();
            all.extend(packets.iter().map(|p| umem.bytes(&p.frame)[p.start..p.start + p.len].to_vec()));
            receiver.give_back(packets.drain(..).map(|p| p.frame));
        }
    }
    all
}

#[test]
fn valid_packets_of_an_sa_go_to_its_worker_and_all_others_to_the_stack() {
    let bench = Bench::new();
    let (mut guard, _) = guard(&bench, AttachMode::XdpNative);
    let umem = umem();
    let mut receiver = open(&bench, &umem, 64);
    assert_eq!(bench.gateway.run(|| queue_count("wan")), 1);
    assert_eq!(receiver.queue().mode(), Mode::Copy, "veth has no zero copy");
    let packet = plain(PEER4, GATEWAY4, &esp(SPI, 1, 44));

    // Without a path, without a socket, and of another worker: the stack.
    bench.send(&packet);
    assert!(bench.receive("esp").is_some());
    guard.set_path(spi(SPI), SaPath::Xsk { worker: WORKER }).unwrap();
    bench.send(&packet);
    assert!(bench.receive("esp").is_some());
    guard.add_receiver(WORKER + 1, &receiver.endpoint().unwrap()).unwrap();
    bench.send(&packet);
    assert!(bench.receive("esp").is_some());

    guard.add_receiver(WORKER, &receiver.endpoint().unwrap()).unwrap();
    let encapsulated = natt(PEER4, GATEWAY4, &esp(SPI, 2, 44));
    bench.send(&packet);
    bench.send(&encapsulated);
    let got = receive(&mut receiver, 2);
    assert_eq!(got.iter().map(|frame| &frame[14..]).collect::<Vec<_>>(), [&packet[..], &encapsulated[..]]);
    bench.assert_silent();

    // Too long for a frame, invalid, and of an SA without a path.
    let long = plain(PEER4, GATEWAY4, &esp(SPI, 3, 1400));
    bench.gateway.run(|| ip("link set wan mtu 3000"));
    bench.peer.run(|| ip("link set uplink mtu 3000"));
    let longer = plain(PEER4, GATEWAY4, &esp(SPI, 4, 44 + 2000));
    bench.send(&longer);
    assert_eq!(bench.receive("esp").map(|p| p.len()), Some(longer.len()));
    bench.send(&plain(PEER4, GATEWAY4, &esp(SPI, 5, 42)));
    bench.send(&long);
    assert_eq!(receive(&mut receiver, 1)[0][14..], long[..]);
    bench.assert_silent();

    guard.remove_receivers(receiver.queue().index()).unwrap();
    bench.send(&packet);
    assert!(bench.receive("esp").is_some());
    guard.set_path(spi(SPI), SaPath::Stack).unwrap();
}

#[test]
fn rings_wrap_and_an_empty_fill_ring_loses_packets_but_no_frames() {
    let bench = Bench::new();
    let (mut guard, _) = guard(&bench, AttachMode::XdpNative);
    let umem = umem();
    let mut receiver = open(&bench, &umem, 32);
    let free = umem.free();
    assert_eq!(free, 4096 - 32);
    guard.set_path(spi(SPI), SaPath::Xsk { worker: WORKER }).unwrap();
    guard.add_receiver(WORKER, &receiver.endpoint().unwrap()).unwrap();
    // More than the 2048 entries of the rings, twice.
    let mut sequence = 0;
    for _ in 0..4200 / 30 {
        let packets: Vec<_> = (0..30).map(|i| plain(PEER4, GATEWAY4, &esp(SPI, sequence + i, 44))).collect();
        packets.iter().for_each(|packet| bench.send(packet));
        let got = receive(&mut receiver, 30);
        assert!(got.iter().map(|frame| &frame[14..]).eq(packets.iter().map(|p| &p[..])));
        sequence += 30;
    }
    assert_eq!((umem.free(), receiver.statistics().no_frame), (free, 0));

    // Nobody gives frames back: 32 packets arrive, the rest is dropped and counted.
    for i in 0..40 {
        bench.send(&plain(PEER4, GATEWAY4, &esp(SPI, sequence + i, 44)));
    }
    bench.send(&super::marker(&bench));
    assert!(bench.receive("dns").is_some());
    let mut held = Vec::new();
    assert_eq!(receiver.receive(100, &mut held), 32);
    assert_eq!(receiver.statistics().no_frame, 8, "{:?}", receiver.statistics());
    receiver.give_back(held.drain(..).map(|packet| packet.frame));
    bench.send(&plain(PEER4, GATEWAY4, &esp(SPI, sequence + 40, 44)));
    assert_eq!(receive(&mut receiver, 1).len(), 1);
    assert_eq!(umem.free(), free);
}

fn datagram(number: u32) -> Vec<u8> {
    let (from, to) = (super::address(GATEWAY4), super::address(PEER4));
    let packet = ip_packet(from, to, 17, &udp(from, to, (53, 53), &number.to_be_bytes()));
    ethernet([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1], &[], &packet)
}

/// Sends datagrams of these numbers, as many at once as there are frames.
fn send(queue: &Queue, numbers: std::ops::Range<u32>) {
    let (umem, mut frames, mut packets) = (queue.umem().clone(), Vec::new(), VecDeque::new());
    for number in numbers {
        if frames.is_empty() {
            umem.take(BATCH, &mut frames);
        }
        let mut frame = frames.pop().expect("no frame");
        let bytes = datagram(number);
        umem.bytes_mut(&mut frame)[128..128 + bytes.len()].copy_from_slice(&bytes);
        packets.push_back(Received { frame, start: 128, len: bytes.len() });
        if packets.len() == BATCH {
            queue.enqueue(&mut packets);
            assert!(packets.is_empty() && queue.send().unwrap());
        }
    }
    queue.enqueue(&mut packets);
    assert!(queue.send().unwrap());
    umem.give(frames);
    for _ in 0..1000 {
        queue.reclaim();
        if umem.free() == 4096 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} frames did not come back", 4096 - umem.free());
}

#[test]
fn what_frames_hold_goes_out_in_order_and_frames_come_back() {
    let bench = Bench::new();
    let umem = umem();
    let queue = bench.gateway.run(|| {
        let options = QueueOptions { fill: 0, busy_poll: 0 };
        Queue::open(&umem, "wan", 0, &options).unwrap_or_else(|error| panic!("{error}"))
    });
    let sink = bench.peer.run(|| UdpSocket::bind((PEER4, 53)).unwrap());
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut bytes = [0; 8];
    for start in (0..4400).step_by(200) {
        send(&queue, start..start + 200);
        for number in start..start + 200 {
            assert_eq!(sink.recv(&mut bytes).unwrap(), 4);
            assert_eq!(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), number);
        }
    }
    // A second one for the same queue, a queue and a device that are not there.
    bench.gateway.run(|| {
        let open = |device, number| Queue::open(&umem, device, number, &QueueOptions::default()).unwrap_err();
        assert!(matches!(open("wan", 0), XskError::QueueTaken { queue: 0, .. }));
        assert!(matches!(open("wan", 7), XskError::NoQueue { queue: 7, .. }));
        assert!(matches!(open("nowhere", 0), XskError::NoDevice { .. }));
    });
}

#[test]
fn a_device_that_went_is_noticed_and_served_again_when_it_is_back() {
    let bench = Bench::new();
    let umem = umem();
    let receiver = open(&bench, &umem, 64);
    let queue = receiver.queue().clone();
    assert!(!queue.is_dead());
    bench.gateway.run(|| ip("link del wan"));
    assert!(queue.is_dead() && queue.is_dead());
    let mut packets = VecDeque::new();
    let mut frames = Vec::new();
    umem.take(1, &mut frames);
    packets.extend(frames.into_iter().map(|frame| Received { frame, start: 0, len: 60 }));
    queue.enqueue(&mut packets);
    assert!(queue.send().is_err());
    drop((receiver, queue));

    let peer = bench.peer.path();
    bench.gateway.run(|| {
        ip(&format!("link add wan type veth peer name uplink netns {peer}"));
        ip("link set wan up");
    });
    bench.peer.run(|| ip("link set uplink up"));
    bench.gateway.run(|| wait_for_carrier("wan"));
    let umem = self::umem();
    assert!(!open(&bench, &umem, 64).queue().is_dead());
}
