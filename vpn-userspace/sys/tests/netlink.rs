//! Links, addresses and routes against the running kernel, in a network namespace of the test's own.
//! Needs root.

mod common;

use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use common::pair;
use culvert_sys::netlink::{
    Flow, LinkKind, Netlink, NetlinkError, NextHop, NextHops, ROUTE_PROTOCOL, Route, RouteTarget,
};
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a fresh network namespace on a thread of its own; the namespace goes with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare: this test needs root");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    })
    .join()
    .unwrap();
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

async fn veth(netlink: &Netlink) -> u32 {
    ip("link add net0 type veth peer name net1");
    ip("link set net0 up");
    ip("link set net1 up");
    netlink.link("net0").await.unwrap().index
}

#[test]
fn links_say_what_they_are() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = veth(&netlink).await;
        ip("link add br0 type bridge");
        ip("tuntap add cv-tap mode tap");
        let link = netlink.link("net0").await.unwrap();
        assert_eq!((link.kind.clone(), link.up, link.mtu), (LinkKind::Veth, true, 1500));
        assert_eq!(netlink.link("lo").await.unwrap().kind, LinkKind::Loopback);
        assert_eq!(netlink.link("br0").await.unwrap().kind, LinkKind::Bridge);
        assert_eq!(netlink.link("cv-tap").await.unwrap().kind, LinkKind::Tun);

        netlink.set_mtu(index, 1400).await.unwrap();
        netlink.set_up(index, false).await.unwrap();
        let link = netlink.link("net0").await.unwrap();
        assert_eq!((link.mtu, link.up), (1400, false));

        assert_eq!(netlink.find_link("absent").await.unwrap(), None);
        assert_eq!(netlink.find_link("a-name-that-is-too-long").await.unwrap(), None);
        assert!(matches!(netlink.link("absent").await, Err(NetlinkError::NoInterface(n)) if n == "absent"));
    });
}

#[test]
fn stale_tunnel_interfaces_go_and_others_stay() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        ip("tuntap add cv-old mode tun");
        ip("tuntap add tun7 mode tun");
        ip("link add cv-veth type veth peer name cv-peer");
        ip("link add cv-front type veth peer name cvb-1");
        assert_eq!(netlink.delete_stale_interfaces().await.unwrap(), ["cv-old", "cv-front"]);
        for (name, stays) in
            [("tun7", true), ("cv-veth", true), ("cv-peer", true), ("cv-front", false), ("cvb-1", false)]
        {
            assert_eq!(netlink.find_link(name).await.unwrap().is_some(), stays, "{name}");
        }
        let gone = netlink.link("tun7").await.unwrap().index;
        netlink.delete_link(gone).await.unwrap();
        netlink.delete_link(gone).await.unwrap();
    });
}

#[test]
fn addresses_are_added_listed_and_removed_twice_without_complaint() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = veth(&netlink).await;
        for address in [net("169.254.10.2/30"), net("2001:db8::2/64")] {
            netlink.add_address(index, address).await.unwrap();
            netlink.add_address(index, address).await.unwrap();
            assert!(netlink.addresses(index).await.unwrap().contains(&address));
            netlink.delete_address(index, address).await.unwrap();
            netlink.delete_address(index, address).await.unwrap();
            assert!(!netlink.addresses(index).await.unwrap().contains(&address));
        }
        let lo = netlink.link("lo").await.unwrap().index;
        assert!(netlink.addresses(lo).await.unwrap().contains(&net("127.0.0.1/8")));
        assert_eq!(netlink.addresses(4242).await.unwrap(), []);
    });
}

#[test]
fn routes_come_back_as_they_were_made() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = veth(&netlink).await;
        ip("addr add 10.9.0.1/24 dev net0");
        ip("-6 addr add 2001:db8:9::1/64 dev net0 nodad");
        ip("route add 10.50.0.0/16 dev net0 proto 99");
        let gateway = |s: &str| RouteTarget::Device { index, gateway: Some(s.parse().unwrap()) };
        let routes = [
            Route {
                mtu: Some(1400),
                advmss: Some(1360),
                source: Some("10.9.0.1".parse().unwrap()),
                ..Route::via_device(net("172.16.0.0/16"), index, 100)
            },
            Route { target: gateway("10.9.0.9"), ..Route::via_device(net("172.17.0.0/16"), 0, 100) },
            Route { table: 4000, ..Route::via_device(net("172.18.0.0/16"), index, 100) },
            Route::unreachable(net("172.16.0.0/16"), 4_294_967_000),
            Route::via_device(net("0.0.0.0/0"), index, 9000),
            Route {
                mtu: Some(1380),
                source: Some("2001:db8:9::1".parse().unwrap()),
                ..Route::via_device(net("2001:db8:a::/48"), index, 100)
            },
            Route::unreachable(net("2001:db8:a::/48"), 4_294_967_000),
            Route { target: gateway("2001:db8:9::9"), ..Route::via_device(net("2001:db8:b::/48"), 0, 100) },
        ];
        for route in &routes {
            netlink.add_route(route).await.unwrap();
        }
        let mut listed = netlink.routes().await.unwrap();
        assert_eq!(listed.len(), routes.len(), "{listed:#?}");
        for route in &routes {
            assert!(listed.contains(route), "{route:?} is not in {listed:#?}");
        }
        assert!(ip("route show 172.16.0.0/16").contains(&format!("proto {ROUTE_PROTOCOL}")));

        let again = netlink.add_route(&routes[0]).await.unwrap_err();
        assert!(again.kernel().unwrap().already_exists(), "{again}");
        netlink.delete_route(&routes[0]).await.unwrap();
        netlink.delete_route(&routes[0]).await.unwrap();
        listed = netlink.routes().await.unwrap();
        assert!(!listed.contains(&routes[0]) && listed.contains(&routes[3]), "{listed:#?}");

        assert_eq!(netlink.delete_all_routes().await.unwrap(), routes.len() - 1);
        assert_eq!(netlink.routes().await.unwrap(), []);
        // Another protocol's route is not ours to list or remove, even when asked by its destination.
        netlink.delete_route(&Route::via_device(net("10.50.0.0/16"), index, 0)).await.unwrap();
        assert!(ip("route").contains("10.50.0.0/16"));
    });
}

#[test]
fn replace_changes_a_route_in_place() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = veth(&netlink).await;
        let other = netlink.link("net1").await.unwrap().index;
        for destination in [net("172.16.0.0/16"), net("2001:db8:a::/48")] {
            for route in [
                Route::via_device(destination, index, 50),
                Route { mtu: Some(1300), ..Route::via_device(destination, index, 50) },
                Route::via_device(destination, other, 50),
                Route::unreachable(destination, 50),
                Route::via_device(destination, index, 50),
            ] {
                netlink.replace_route(&route).await.unwrap();
                assert_eq!(netlink.routes().await.unwrap(), std::slice::from_ref(&route));
            }
            netlink.delete_all_routes().await.unwrap();
        }
    });
}

#[test]
fn the_route_to_a_peer_names_source_device_and_gateway() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = veth(&netlink).await;
        ip("addr add 10.9.0.1/24 dev net0");
        ip("addr add 10.9.0.2/24 dev net0");
        ip("route add 203.0.113.0/24 via 10.9.0.9 mtu 1444");
        ip("-6 addr add 2001:db8:9::1/64 dev net0 nodad");
        let addr = |s: &str| s.parse::<IpAddr>().unwrap();
        let peer = netlink.route_towards(addr("203.0.113.7"), None).await.unwrap();
        assert_eq!((peer.source, peer.interface), (addr("10.9.0.1"), index));
        assert_eq!((peer.gateway, peer.mtu, peer.local), (Some(addr("10.9.0.9")), Some(1444), false));
        let bound = netlink.route_towards(addr("203.0.113.7"), Some(addr("10.9.0.2"))).await.unwrap();
        assert_eq!(bound.source, addr("10.9.0.2"));
        let six = netlink.route_towards(addr("2001:db8:9::77"), None).await.unwrap();
        assert_eq!((six.source, six.interface, six.gateway), (addr("2001:db8:9::1"), index, None));
        assert!(netlink.route_towards(addr("10.9.0.1"), None).await.unwrap().local);
        let none = netlink.route_towards(addr("198.51.100.1"), None).await.unwrap_err();
        assert!(matches!(&none, NetlinkError::NoRoute(a, _) if *a == addr("198.51.100.1")), "{none}");
    });
}

#[test]
fn a_refusal_carries_the_kernels_words() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = veth(&netlink).await;
        let refused = netlink.set_mtu(index, 20).await.unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("mtu less than device minimum"), "{text}");
        assert!(text.contains(&format!("set the MTU of interface {index} to 20")), "{text}");
    });
}

/// Asks until the answer is as expected, for a while.
async fn until(hops: &NextHops, flow: Flow, expected: impl Fn(Option<NextHop>) -> bool) -> Option<NextHop> {
    let mut hop = None;
    for _ in 0..500 {
        hop = hops.find(flow);
        if expected(hop) {
            return hop;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{flow:?}: {hop:?}")
}

#[test]
fn next_hops_follow_neighbours_routes_and_links() {
    let [a, b] = pair("hops");
    a.run("ip link set wan address 02:00:00:00:00:01");
    b.run("ip link set wan address 02:00:00:00:00:02");
    let name = a.name().to_owned();
    a.enter(async move || {
        let run = |line: &str| common::run("nsenter", &format!("--net=/run/netns/{name} {line}"));
        let hops = NextHops::start().unwrap();
        let index = Netlink::connect().unwrap().link("wan").await.unwrap().index;
        let flow = |to: &str, from: Option<&str>| Flow {
            source: from.map(|a| a.parse().unwrap()),
            destination: to.parse().unwrap(),
        };
        let (peer, peer6) = (flow("192.0.2.2", Some("192.0.2.1")), flow("2001:db8::2", None));
        let far = flow("203.0.113.9", None);
        for nobody in [peer, peer6, far, flow("192.0.2.1", None)] {
            assert_eq!(hops.find(nobody), None);
        }
        // The kernel's own traffic resolves the neighbour.
        run("ping -c 1 -W 5 192.0.2.2");
        run("ping -c 1 -W 5 2001:db8::2");
        let expected =
            NextHop { device: index, destination: [2, 0, 0, 0, 0, 2], source: [2, 0, 0, 0, 0, 1], mtu: 1500 };
        assert_eq!(until(&hops, peer, |hop| hop.is_some()).await, Some(expected));
        assert_eq!(until(&hops, peer6, |hop| hop.is_some()).await, Some(expected));
        assert_eq!(hops.find(far), None);
        let before = hops.generation();
        run("ip route add 203.0.113.0/24 via 192.0.2.2 mtu 1400");
        assert_eq!(until(&hops, far, |hop| hop.is_some()).await, Some(NextHop { mtu: 1400, ..expected }));
        assert_ne!(hops.generation(), before);
        run("ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:09 dev wan nud permanent");
        let moved = NextHop { destination: [2, 0, 0, 0, 0, 9], ..expected };
        until(&hops, peer, |hop| hop == Some(moved)).await;
        until(&hops, far, |hop| hop == Some(NextHop { mtu: 1400, ..moved })).await;
        run("ip link set wan mtu 1300");
        until(&hops, peer, |hop| hop == Some(NextHop { mtu: 1300, ..moved })).await;
        run("ip neigh del 192.0.2.2 dev wan");
        until(&hops, far, |hop| hop.is_none()).await;
        // One that nobody has confirmed for long stays known, because the kernel is made to probe it.
        run("ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev wan nud stale");
        until(&hops, peer, |hop| hop == Some(NextHop { mtu: 1300, ..expected })).await;
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while ip("neigh show 192.0.2.2").contains("STALE") {
            assert!(tokio::time::Instant::now() < end, "nobody probes");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        run("ip link set wan down");
        until(&hops, peer, |hop| hop.is_none()).await;
        hops.forget(peer);
    });
}
