//! Division of UDP 4500 between the kernel's ESP and ours. Needs root.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::Namespace;
use culvert_sys::encap::EncapSocket;
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
