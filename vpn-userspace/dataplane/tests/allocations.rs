//! What packets cost beside work: no allocation, no lock. A program of its own, because it counts those of all its threads.
//! Needs root.

// Shared with tests that use more of it.
#[allow(dead_code)]
mod common;

use std::time::Duration;

use common::{Gateway, Options};
use culvert_lab::measure::{Iperf, IperfServer, reaches};
use culvert_lab::topology::{HOST_A, HOST_B, WAN_A, WAN_B};
use culvert_lab::{Flood, Site};
use culvert_sys::lock;
use culvert_sys::testing::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Allocations, and locks, of whoever runs beside the packets: reading the output of iperf3, timers of the test.
const BESIDE: u64 = 40;

#[test]
fn packets_of_all_sizes_allocate_and_lock_nothing_in_either_direction() {
    for encap in [true, false] {
        let site = Site::new().unwrap();
        let options = Options { encap, ..Options::default() };
        let mut a = Gateway::start(&site.gateway_a, true, WAN_A, &options);
        let mut b = Gateway::start(&site.gateway_b, false, WAN_B, &options);
        a.install(1, WAN_B.parse().unwrap(), true);
        b.install(1, WAN_A.parse().unwrap(), true);
        assert!(reaches(&site.host_a, HOST_B).unwrap());

        // Small datagrams one way, larger ones the other, super-packets of TCP besides.
        let small = Flood::start(&site.host_a, &site.host_b, HOST_B, 40).unwrap();
        let large = Flood::start(&site.host_b, &site.host_a, HOST_A, 900).unwrap();
        let server = IperfServer::start(&site.host_b).unwrap();
        let bulk = server.begin(&site.host_a, HOST_B, &Iperf { seconds: 2, ..Iperf::default() }).unwrap();
        // Until every buffer has been touched once.
        std::thread::sleep(Duration::from_millis(700));
        let packets = |a: &mut Gateway<'_>, b: &mut Gateway<'_>| {
            a.stats()[0].packets_out + a.stats()[0].packets_in + b.stats()[0].packets_out
        };
        let (packets_before, before, free) = (packets(&mut a, &mut b), ALLOCATOR.count(), lock::taken());
        std::thread::sleep(Duration::from_millis(800));
        let (after, locks) = (ALLOCATOR.count(), lock::taken() - free);
        let packets_after = packets(&mut a, &mut b);
        let (allocations, packets) = (after - before, packets_after - packets_before);
        assert!(packets > 5_000, "{packets} packets are too few to tell, encap {encap}");
        assert!(allocations <= BESIDE, "{allocations} allocations for {packets} packets, encap {encap}");
        assert!(locks <= BESIDE, "{locks} locks for {packets} packets, encap {encap}");
        assert!(bulk.finish().unwrap().gbps > 0.01);
        for flood in [small, large] {
            assert!(flood.stop().unwrap().received > 500);
        }
    }
}
