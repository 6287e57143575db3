//! The test bench: two network namespaces without names, a veth pair between them, sockets on both ends.
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The gateway's outer addresses.
pub(crate) const GATEWAY4: &str = "192.0.2.1";
pub(crate) const GATEWAY6: &str = "2001:db8:2::1";
/// An address that is the gateway host's, but not one of those the guard watches over.
pub(crate) const UNGUARDED4: &str = "192.0.2.33";
/// The peer's.
pub(crate) const PEER4: &str = "192.0.2.2";
pub(crate) const PEER6: &str = "2001:db8:2::2";
/// Somebody else on the same link.
pub(crate) const STRANGER4: &str = "192.0.2.66";

/// A network namespace, gone with its last descriptor.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Namespace {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("making network namespaces needs root");
            let namespace = Namespace(File::open("/proc/thread-self/ns/net").unwrap());
            ip("link set lo up");
            namespace
        })
        .join()
        .unwrap()
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("cannot run ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Keeps the other tests of this program out. Each of them starts processes, which hold copies of the descriptors of this
/// one until their `exec`: for so long the kernel keeps a link attached that another test has just closed.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gateway and peer on one link.
pub(crate) struct Bench {
    pub(crate) gateway: Namespace,
    pub(crate) peer: Namespace,
    gateway_mac: [u8; 6],
    peer_mac: [u8; 6],
    wire: Socket,
    received: Vec<(&'static str, Socket)>,
    // Last: until the rest is gone.
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// `wan` in the gateway's namespace, `uplink` in the peer's.
    pub(crate) fn new() -> Bench {
        let alone = alone();
        let (gateway, peer) = (Namespace::new(), Namespace::new());
        let (gateway_mac, peer_mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        gateway.run(|| {
            ip(&format!(
                "link add wan address 02:00:00:00:00:01 type veth peer name uplink address 02:00:00:00:00:02 netns {}",
                peer.path()
            ));
            for address in [GATEWAY4, UNGUARDED4] {
                ip(&format!("addr add {address}/24 dev wan"));
            }
            ip(&format!("addr add {GATEWAY6}/64 dev wan nodad"));
            ip("link set wan up");
            ip(&format!("neigh add {PEER4} lladdr 02:00:00:00:00:02 dev wan"));
            ip(&format!("neigh add {PEER6} lladdr 02:00:00:00:00:02 dev wan"));
        });
        let wire = peer.run(|| {
            for address in [PEER4, STRANGER4] {
                ip(&format!("addr add {address}/24 dev uplink"));
            }
            ip(&format!("addr add {PEER6}/64 dev uplink nodad"));
            ip("link set uplink up");
            ip(&format!("neigh add {GATEWAY4} lladdr 02:00:00:00:00:01 dev uplink"));
            // Protocol 0: it sends only.
            packet_socket("uplink", 0)
        });
        let received = gateway.run(|| {
            wait_for_carrier("wan");
            let any4: IpAddr = "0.0.0.0".parse().unwrap();
            let any6: IpAddr = "::".parse().unwrap();
            vec![
                ("ike", datagram_socket(any4, 500)),
                ("natt", datagram_socket(any4, 4500)),
                ("esp", raw_socket(Domain::IPV4, 50)),
                ("ike6", datagram_socket(any6, 500)),
                ("natt6", datagram_socket(any6, 4500)),
                ("esp6", raw_socket(Domain::IPV6, 50)),
                ("dns", datagram_socket(any4, 53)),
            ]
        });
        Bench { gateway, peer, gateway_mac, peer_mac, wire, received, _alone: alone }
    }

    /// Puts an IP packet onto the link, from the peer's end.
    pub(crate) fn send(&self, packet: &[u8]) {
        let frame = culvert_ebpf_shared::testing::ethernet(self.gateway_mac, self.peer_mac, &[], packet);
        self.wire.send(&frame).unwrap();
    }

    /// What arrives at the named socket in a short while.
    pub(crate) fn receive(&self, name: &str) -> Option<Vec<u8>> {
        let (_, socket) = self.received.iter().find(|(known, _)| *known == name).unwrap();
        receive(socket, Duration::from_secs(5))
    }

    /// What is waiting at the named socket.
    pub(crate) fn receive_now(&self, name: &str) -> Option<Vec<u8>> {
        let (_, socket) = self.received.iter().find(|(known, _)| *known == name).unwrap();
        receive(socket, Duration::ZERO)
    }

    /// That nothing is waiting at any socket. Call it after something later has arrived: the link keeps the order.
    pub(crate) fn assert_silent(&self) {
        for (name, socket) in &self.received {
            assert_eq!(receive(socket, Duration::ZERO), None, "{name}");
        }
    }
}

fn receive(socket: &Socket, patience: Duration) -> Option<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut buffer = vec![0; 65536];
    loop {
        match (&mut &*socket).read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Some(buffer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= end {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn datagram_socket(address: IpAddr, port: u16) -> Socket {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&SocketAddr::new(address, port).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn raw_socket(domain: Domain, protocol: i32) -> Socket {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Two sockets that see all packets of `wan`, each those that every second CPU hands to the stack.
pub(crate) fn sockets_by_cpu(bench: &Bench) -> [Socket; 2] {
    let by_cpu = (nix::libc::PACKET_FANOUT_CPU as i32) << 16;
    bench.gateway.run(|| {
        [(); 2].map(|()| {
            let socket = packet_socket("wan", (nix::libc::ETH_P_ALL as u16).to_be());
            socket.set_nonblocking(true).unwrap();
            // SAFETY: the option's value is an int of its own.
            let done = unsafe {
                nix::libc::setsockopt(
                    socket.as_raw_fd(),
                    nix::libc::SOL_PACKET,
                    nix::libc::PACKET_FANOUT,
                    (&raw const by_cpu).cast(),
                    size_of::<i32>() as nix::libc::socklen_t,
                )
            };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
            socket
        })
    })
}

/// Whether this packet is among those that wait at a socket of [`sockets_by_cpu`].
pub(crate) fn has_seen(socket: &Socket, packet: &[u8]) -> bool {
    std::iter::from_fn(|| receive(socket, Duration::ZERO))
        .fold(false, |seen, frame| seen | frame.ends_with(packet))
}

fn packet_socket(interface: &str, protocol: u16) -> Socket {
    wait_for_carrier(interface);
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    let address = nix::libc::sockaddr_ll {
        sll_family: nix::libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: a sockaddr_ll is written into the storage, which is larger, with its own length.
    let (_, address) = unsafe {
        socket2::SockAddr::try_init(|storage, len| {
            storage.cast::<nix::libc::sockaddr_ll>().write(address);
            *len = size_of::<nix::libc::sockaddr_ll>() as nix::libc::socklen_t;
            Ok(())
        })
        .unwrap()
    };
    socket.bind(&address).unwrap();
    socket
}

pub(crate) fn wait_for_carrier(interface: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let output = Command::new("ip").args(["-o", "link", "show", "dev", interface]).output().unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("state UP") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{interface} does not come up");
}
