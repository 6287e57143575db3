//! Packets of an SA on the CPU that was chosen for it.
use super::bench::{Bench, GATEWAY4, PEER4, has_seen, sockets_by_cpu};
use super::{SPI, guard, plain, spi};
use culvert_ebpf_shared::testing::esp;
use culvert_sys::guard::{AttachMode, SaPath};

#[test]
fn packets_of_an_sa_reach_the_stack_on_its_cpu() {
    let bench = Bench::new();
    let (mut guard, _) = guard(&bench, AttachMode::XdpNative);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let sockets = sockets_by_cpu(&bench);
    let mut sequence = 0;
    let mut arrives_on = |which: &str| {
        sequence += 1;
        let packet = plain(PEER4, GATEWAY4, &esp(SPI, sequence, 44));
        bench.send(&packet);
        assert!(bench.receive("esp").is_some(), "{which}: packet {sequence} is lost");
        let seen: Vec<bool> = sockets.iter().map(|socket| has_seen(socket, &packet)).collect();
        seen.iter().position(|seen| *seen).unwrap_or_else(|| panic!("{which}: {seen:?}"))
    };
    // Nothing is spread yet: it goes on where it is.
    guard.set_path(spi(SPI), SaPath::Cpu { cpu: 0 }).unwrap();
    arrives_on("before");
    guard.spread(0..cpus as u32).unwrap();
    for round in 0..4 {
        let cpu = round % cpus;
        guard.set_path(spi(SPI), SaPath::Cpu { cpu: cpu as u32 }).unwrap();
        for _ in 0..5 {
            assert_eq!(arrives_on("spread"), cpu);
        }
    }
    // A CPU that packets are not spread over is no black hole, and what is invalid is dropped as ever.
    guard.set_path(spi(SPI), SaPath::Cpu { cpu: 1023 }).unwrap();
    arrives_on("elsewhere");
    bench.send(&plain(PEER4, GATEWAY4, &esp(SPI, 1000, 42)));
    arrives_on("after an invalid one");
    bench.assert_silent();
    assert!(guard.spread([1 << 20]).is_err(), "no host has so many CPUs");
}
