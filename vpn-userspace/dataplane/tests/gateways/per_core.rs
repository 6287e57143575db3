//! Several queues of one tunnel's device: an SA for each worker (RFC 9611), and one owner where the peer has no more.

use std::time::Duration;

use culvert_dataplane::testing::Purpose;
use culvert_lab::measure::{Iperf, IperfServer, reaches};
use culvert_lab::topology::{HOST_A, HOST_B, WAN_A, WAN_B};
use culvert_lab::{Flood, Site};

use crate::common::{Gateway, Options};
use crate::{address, bulk, up};

/// Flows in each direction.
const FLOWS: usize = 6;

fn spread() -> Options {
    Options { spread: true, ..Options::default() }
}

/// One that the peer rekeys: installed on both sides for the same purpose.
fn install(a: &mut Gateway<'_>, b: &mut Gateway<'_>, generation: u32, purpose: Purpose) {
    let inbound = b.install_for(generation, address(WAN_A), purpose, false);
    a.install_for(generation, address(WAN_B), purpose, true);
    b.activate(inbound);
}

fn floods(site: &Site) -> Vec<Flood> {
    let there = (0..FLOWS).map(|n| Flood::start(&site.host_a, &site.host_b, HOST_B, 100 + 40 * n).unwrap());
    let back = (0..FLOWS).map(|n| Flood::start(&site.host_b, &site.host_a, HOST_A, 120).map(|f| (n, f)));
    there.chain(back.map(|flood| flood.unwrap().1)).collect()
}

#[test]
fn each_worker_seals_with_its_own_sa_and_rekeys_of_each_lose_nothing() {
    let site = Site::new().unwrap();
    for gateway in [&site.gateway_a, &site.gateway_b] {
        // Packets of one peer are joined whatever their SPIs: they come to the worker of the first.
        gateway.run("ethtool", &["-K", "wan", "gro", "on"]).unwrap();
    }
    let (mut a, mut b) = up(&site, &spread(), (WAN_A, WAN_B));
    install(&mut a, &mut b, 2, Purpose::Resource(0));
    install(&mut a, &mut b, 3, Purpose::Resource(1));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    let floods = floods(&site);
    for (generation, purpose) in [(4, Purpose::Resource(0)), (5, Purpose::Resource(1)), (6, Purpose::All)] {
        std::thread::sleep(Duration::from_millis(200));
        install(&mut a, &mut b, generation, purpose);
        let old = if purpose == Purpose::All { 1 } else { generation - 2 };
        for gateway in [&mut a, &mut b] {
            let old = gateway.setup(old, "[::]:0".parse().unwrap()).inbound;
            gateway.remove(old, Duration::from_millis(300)).unwrap();
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let (of_a, of_b) = (a.stats(), b.stats());
    for flood in floods {
        let seen = flood.stop().unwrap();
        let drops = [&a, &b].map(|g| (g.dataplane.wan_drops(), g.dataplane.tunnel_drops()));
        assert!(seen.sent > 200 && seen.lost() == 0 && seen.again == 0, "{seen:?}, dropped {drops:?}");
    }
    for stats in [&of_a, &of_b] {
        assert_eq!(stats.len(), 3, "{stats:?}");
        for (sa, worker) in stats.iter().zip([0, 1]) {
            assert!(sa.packets_out > 100 && sa.packets_in > 100, "{sa:?}");
            assert_eq!(sa.worker, Some(worker), "{sa:?}");
        }
        assert_eq!(stats[2].packets_out, 0, "nothing needs the one for all: {stats:?}");
    }
    // One lost alone: its flows go on by the one for all.
    for gateway in [&mut a, &mut b] {
        let gone = gateway.setup(5, "[::]:0".parse().unwrap()).inbound;
        gateway.remove(gone, Duration::ZERO).unwrap();
    }
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    assert!(bulk(&site, HOST_B, &Iperf { streams: 6, ..Iperf::default() }) > 0.05);
    assert_eq!(a.dropped("no-outbound-sa") + b.dropped("unknown-spi"), 0);
}

#[test]
fn without_more_sas_one_worker_seals_what_the_others_hand_over() {
    let site = Site::new().unwrap();
    let (mut a, mut b) = up(&site, &spread(), (WAN_A, WAN_B));
    assert!(reaches(&site.host_a, HOST_B).unwrap());
    let floods = floods(&site);
    std::thread::sleep(Duration::from_millis(500));
    for flood in floods {
        let seen = flood.stop().unwrap();
        let drops =
            [&mut a, &mut b].map(|g| (g.dataplane.wan_drops(), g.dataplane.tunnel_drops(), g.stats()));
        assert!(seen.sent > 200 && seen.lost() == 0 && seen.again == 0, "{seen:?}, {drops:?}");
        // The kernel moves a flow to the owner's queue with the first answer, once: what was sent before may come after.
        assert!(seen.late * 10 < seen.sent, "{seen:?}, {drops:?}");
    }
    // Nothing comes back of these: they stay in the queues of both workers.
    let server = IperfServer::start(&site.host_b).unwrap();
    let one_way = Iperf { streams: 6, udp: Some("8M".to_owned()), ..Iperf::default() };
    let seen = server.measure(&site.host_a, HOST_B, &one_way).unwrap();
    assert!(seen.datagrams > 1000 && seen.lost * 100 < seen.datagrams, "{seen:?}");
    assert_eq!(a.dropped("handover-full"), 0);
    drop(server);
    for reverse in [false, true] {
        let what = Iperf { streams: 4, reverse, ..Iperf::default() };
        assert!(bulk(&site, HOST_B, &what) > 0.05, "reverse {reverse}");
    }
}
