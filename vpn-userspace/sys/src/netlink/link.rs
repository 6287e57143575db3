//! What an interface is: kind and driver, from which the attach mode of the classifier is chosen.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has carrier.
    pub running: bool,
    /// What it is.
    pub kind: LinkKind,
    /// The interface that it hangs on, by its index: of a veth, its other end.
    pub lower: Option<u32>,
}

/// Packets that an interface did not carry, as the kernel counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkDrops {
    /// Received and dropped.
    pub received: u64,
    /// To be sent and dropped.
    pub sent: u64,
    /// Not sent because there was no way on; on an xfrm interface: no SA, or a policy
    /// that blocks.
    pub no_carrier: u64,
}

/// What the interfaces of the calling thread's network namespace dropped, by name. Blocks, briefly.
pub fn interface_drops() -> io::Result<HashMap<String, LinkDrops>> {
    // Not /proc/net: that is the namespace of the process's first thread.
    Ok(parse_interface_drops(&std::fs::read_to_string("/proc/thread-self/net/dev")?))
}

fn parse_interface_drops(text: &str) -> HashMap<String, LinkDrops> {
    let line = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        // Eight of receiving (the fourth: dropped), eight of sending (the fourth: dropped, the seventh: carrier).
        let drops =
            LinkDrops { received: *numbers.get(3)?, sent: *numbers.get(11)?, no_carrier: *numbers.get(14)? };
        Some((name.trim().to_owned(), drops))
    };
    text.lines().filter_map(line).collect()
}

/// What an interface is. `Physical` is everything without a `kind` of its own: NICs, virtio, and
/// other devices that a driver made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// The loopback device.
    Loopback,
    /// One end of a veth pair.
    Veth,
    /// A TUN or TAP device.
    Tun,
    /// A bridge.
    Bridge,
    /// An xfrm interface and its if_id.
    Xfrm {
        /// The id by which policies and SAs belong to the interface; 0 if the kernel does not say.
        if_id: u32,
    },
    /// Any other virtual kind, by rtnetlink's name ("vlan", "bond", "vxlan", …).
    Virtual(String),
    /// A device without an rtnetlink kind; see [`Link::driver`].
    Physical,
}

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let (mut name, mut mtu) = (String::new(), 0);
        let mut kind = if message.header.link_layer_type == LinkLayerType::Loopback {
            LinkKind::Loopback
        } else {
            LinkKind::Physical
        };
        let (mut if_id, mut lower) = (0, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name.clone_from(n),
                LinkAttribute::Mtu(m) => mtu = *m,
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Veth) => kind = LinkKind::Veth,
                            LinkInfo::Kind(InfoKind::Tun) => kind = LinkKind::Tun,
                            LinkInfo::Kind(InfoKind::Bridge) => kind = LinkKind::Bridge,
                            LinkInfo::Kind(InfoKind::Xfrm) => kind = LinkKind::Xfrm { if_id: 0 },
                            LinkInfo::Kind(other) => kind = LinkKind::Virtual(other.to_string()),
                            LinkInfo::Data(InfoData::Xfrm(data)) => {
                                for item in data {
                                    if let InfoXfrm::IfId(id) = item {
                                        if_id = *id;
                                    }
                                }
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let LinkKind::Xfrm { if_id: slot } = &mut kind {
            *slot = if_id;
        }
        let flags = message.header.flags;
        Self {
            index: message.header.index,
            name,
            mtu,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            kind,
            lower,
        }
    }

    /// The driver's name as `ethtool -i` shows it ("virtio_net", "veth", "tun", …), `None` if the
    /// device has none. Asks by name in the network namespace of the calling thread (sysfs would
    /// show the namespace it was mounted in).
    pub fn driver(&self) -> io::Result<Option<String>> {
        driver(&self.name)
    }
}

const ETHTOOL_GDRVINFO: u32 = 3;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

fn driver(name: &str) -> io::Result<Option<String>> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    // SAFETY: ifreq is a C struct for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the request points at `info`, which is of the size that ETHTOOL_GDRVINFO writes and
    // outlives the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        };
    }
    let end = info.driver.iter().position(|b| *b == 0).unwrap_or(info.driver.len());
    let text = String::from_utf8_lossy(&info.driver[..end]).into_owned();
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_right_columns() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop \
                    fifo colls carrier compressed\n\
                    cv-a-b:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n    lo: 1 2 3\n";
        let drops = parse_interface_drops(text);
        assert_eq!(drops.len(), 1, "{drops:?}");
        assert_eq!(drops["cv-a-b"], LinkDrops { received: 4, sent: 12, no_carrier: 15 });
    }
}
