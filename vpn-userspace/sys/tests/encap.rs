//! Division of UDP 4500 between the kernel's ESP and ours, and among workers. Needs root.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::Namespace;
use culvert_sys::batch::ReceiveBatch;
use culvert_sys::encap::EncapSocket;
use culvert_sys::steer::Steering;
use culvert_sys::wan::{WanOptions, WanSocket};
use culvert_types::Spi;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

fn shared_socket(at: SocketAddr) -> UdpSocket {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::ReusePort, &true).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at)).unwrap();
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

#[test]
fn odd_spis_are_the_kernels_and_all_else_is_ours() {
    Namespace::new("encap").enter(|| async {
        for at in ["127.0.0.1:4500", "[::1]:4500"] {
            let at: SocketAddr = at.parse().unwrap();
            let ours = shared_socket(at);
            let kernel = match EncapSocket::open(at) {
                Err(e) if e.errno() == Some(libc::ENOPROTOOPT) => {
                    println!("skipped for {at}: {e}");
                    continue;
                }
                other => other.unwrap(),
            };
            assert_eq!(kernel.address(), at);
            kernel.divide_by_spi_parity().unwrap();
            let sender = UdpSocket::bind((at.ip(), 0)).unwrap();
            let esp = |spi: u32, n: u8| [&spi.to_be_bytes()[..], &[n; 40]].concat();
            let (odd, even) = (0x1234_5601, 0x1234_5600);
            for n in 0..20 {
                sender.send_to(&esp(odd, n), at).unwrap();
                sender.send_to(&esp(even, n), at).unwrap();
            }
            sender.send_to(&esp(0, 0), at).unwrap(); // IKE
            sender.send_to(&[0xff], at).unwrap(); // keepalive
            let mut seen = Vec::new();
            let mut buffer = [0; 100];
            while let Ok(length) = ours.recv(&mut buffer) {
                seen.push(buffer[..length].to_vec());
            }
            let mut want: Vec<_> = (0..20).map(|n| esp(even, n)).collect();
            want.extend([esp(0, 0), vec![0xff]]);
            assert_eq!(seen, want, "{at}");

            drop(kernel);
            sender.send_to(&esp(odd, 9), at).unwrap();
            assert_eq!(ours.recv(&mut buffer).unwrap(), 44, "without the kernel's socket all are ours");
        }
    });
}

/// The first bytes of what waits at the socket, as words and lengths.
fn waiting(socket: &WanSocket) -> Vec<(u8, usize)> {
    let (mut batch, mut seen) = (ReceiveBatch::new(16), Vec::new());
    while batch.receive(socket).is_ok() {
        let (buf, datagrams) = batch.parts();
        for d in datagrams {
            seen.extend(buf[d.start..d.start + d.len].chunks(d.segment).map(|p| (p[p.len() - 1], p.len())));
        }
    }
    seen
}

#[test]
fn every_spi_reaches_the_worker_that_owns_it_in_order() {
    Namespace::new("steer").enter(|| async {
        for at in ["127.0.0.1:4500", "[::1]:4500"] {
            let at: SocketAddr = at.parse().unwrap();
            let options = WanOptions { share_port: true, ..WanOptions::default() };
            let first = WanSocket::udp(at, &options).unwrap();
            let sockets = [first.join(&options).unwrap(), first.join(&options).unwrap()];
            let [second, third] = &sockets;
            let mut steering = Steering::attach([&first, second, third]).unwrap();
            let spi = |n| Spi::new(n).unwrap();
            steering.own(spi(0x1000), 1).unwrap();
            steering.own(spi(0x1002), 2).unwrap();
            // Senders of many ports: by their hash they would be spread over all sockets.
            for port in 0..8u8 {
                let sender = UdpSocket::bind((at.ip(), 0)).unwrap();
                let send = |spi: u32, n: u8| {
                    sender.send_to(&[&spi.to_be_bytes()[..], &[n; 40]].concat(), at).unwrap();
                };
                for spi in [0x1000, 0x1002, 0x1004, 0x1001, 0] {
                    send(spi, port);
                }
                sender.send_to(&[0xff], at).unwrap();
            }
            let each = |ports: std::ops::Range<u8>| ports.map(|n| (n, 44)).collect::<Vec<_>>();
            assert_eq!(waiting(second), each(0..8), "{at}");
            assert_eq!(waiting(third), each(0..8), "{at}");
            let unowned = (0..8).flat_map(|n| [(n, 44), (n, 44), (n, 44), (0xff, 1)]).collect::<Vec<_>>();
            assert_eq!(
                waiting(&first),
                unowned,
                "{at}: nobody's, the kernel's that has no socket, IKE, keepalives"
            );

            let sender = UdpSocket::bind((at.ip(), 0)).unwrap();
            let send = |spi: u32| sender.send_to(&[&spi.to_be_bytes()[..], &[7; 40]].concat(), at).unwrap();
            steering.forget(spi(0x1000));
            steering.own(spi(0x1002), 1).unwrap();
            send(0x1000);
            send(0x1002);
            assert_eq!((waiting(&first), waiting(second)), (each(7..8), each(7..8)), "{at}: after a change");
            if let Ok(kernel) = EncapSocket::open(at) {
                steering.add_kernel(&kernel).unwrap();
                send(0x1001);
                send(0x1004);
                assert_eq!(waiting(&first), each(7..8), "{at}: the odd one is the kernel's");
            }
        }
    });
}
