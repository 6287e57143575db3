//! The facts of this host: read once, judged elsewhere. What cannot be read is not known, and not judged.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use nix::net::if_::InterfaceFlags;

/// Who has a UDP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// The program, if it can be told.
    pub program: Option<String>,
}

/// What the firewall does with packets for this host that no rule names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Tables whose chain for incoming packets drops by its policy.
    pub drops: Vec<String>,
    /// The text of all rules.
    pub rules: String,
}

/// The facts of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// `6.12.107+deb13-amd64`
    pub kernel: Option<String>,
    /// Whether whoever asks is root; others cannot see everything.
    pub root: bool,
    /// Whether /dev/net/tun is there.
    pub tun: bool,
    /// Whether the kernel describes its own types, which eBPF programs need.
    pub btf: bool,
    /// Values of `net.*`, by their path under /proc/sys, as text.
    pub sysctl: BTreeMap<String, String>,
    /// Addresses with the prefix lengths of their links, by interface.
    pub addresses: Vec<(String, IpNet)>,
    /// Interfaces and their MTUs, where these can be told.
    pub interfaces: BTreeMap<String, Option<u32>>,
    /// Interfaces that have no carrier, or are down.
    pub down: Vec<String>,
    /// Who has the ports of IKE.
    pub listeners: Vec<Listener>,
    /// `None` where there is no `nft`, or it may not be asked.
    pub firewall: Option<Firewall>,
    /// Unix time in seconds.
    pub now: u64,
    /// From which address this host would send to these peers; `None`: it has no route.
    pub sources: BTreeMap<IpAddr, Option<IpAddr>>,
}

const SYSCTLS: [&str; 6] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/accept_redirects",
    "net/ipv4/conf/all/send_redirects",
    "net/core/bpf_jit_enable",
];

impl Host {
    /// Reads them. `peers` are asked for their routes, `ports` for who has them.
    pub fn look(peers: &[IpAddr], ports: &[u16]) -> Self {
        let text = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let mut host = Self {
            kernel: text("/proc/sys/kernel/osrelease"),
            root: nix::unistd::geteuid().is_root(),
            tun: Path::new("/dev/net/tun").exists(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            listeners: listeners(ports),
            firewall: firewall(),
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            sources: peers.iter().map(|peer| (*peer, source_to(*peer))).collect(),
            ..Self::default()
        };
        for key in SYSCTLS {
            host.sysctl.extend(text(&format!("/proc/sys/{key}")).map(|value| (key.to_owned(), value)));
        }
        for one in nix::ifaddrs::getifaddrs().into_iter().flatten() {
            let name = one.interface_name;
            if let Some(net) = one.address.zip(one.netmask).and_then(|(a, m)| net(&a, &m)) {
                host.addresses.push((name.clone(), net));
            }
            // Of this network namespace, which /sys need not be; it is IPv6's, where the kernel has that.
            let mtu = text(&format!("/proc/sys/net/ipv6/conf/{name}/mtu")).and_then(|mtu| mtu.parse().ok());
            host.interfaces.insert(name.clone(), mtu);
            let works = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            if !one.flags.contains(works) && !host.down.contains(&name) {
                host.down.push(name);
            }
        }
        host
    }

    /// Whether a switch is on.
    pub(crate) fn on(&self, key: &str) -> Option<bool> {
        self.sysctl.get(key).map(|value| value != "0")
    }
}

fn net(
    address: &nix::sys::socket::SockaddrStorage,
    mask: &nix::sys::socket::SockaddrStorage,
) -> Option<IpNet> {
    let ip = |s: &nix::sys::socket::SockaddrStorage| {
        let v4 = s.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| s.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    let length = ipnet::ip_mask_to_prefix(ip(mask)?).ok()?;
    IpNet::new(ip(address)?, length).ok()
}

/// A connected UDP socket knows its source, and sends nothing.
fn source_to(peer: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((peer, 500)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn listeners(ports: &[u16]) -> Vec<Listener> {
    let mut found: Vec<(u16, String)> = Vec::new();
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(inode)) = (fields.get(1), fields.get(9)) else { continue };
            let port = local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
            if let Some(port) = port.filter(|port| ports.contains(port)) {
                found.push((port, (*inode).to_owned()));
            }
        }
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for (port, inode) in found {
        let listener = Listener { port, program: program_of(&inode) };
        if !listeners.contains(&listener) {
            listeners.push(listener);
        }
    }
    listeners
}

/// The program that has a socket, by its inode.
fn program_of(inode: &str) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        if !process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
        if targets.any(|target| target.as_os_str() == socket.as_str()) {
            return fs::read_to_string(process.path().join("comm")).ok().map(|name| name.trim().to_owned());
        }
    }
    None
}

fn firewall() -> Option<Firewall> {
    let output = Command::new("nft").args(["-n", "list", "ruleset"]).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(read_ruleset(&String::from_utf8_lossy(&output.stdout)))
}

/// From what `nft list ruleset` prints.
pub(crate) fn read_ruleset(text: &str) -> Firewall {
    let mut table = String::new();
    let mut drops = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim().to_owned();
        }
        if line.contains("hook input") && line.contains("policy drop") {
            drops.push(table.clone());
        }
    }
    Firewall { drops, rules: text.to_owned() }
}
