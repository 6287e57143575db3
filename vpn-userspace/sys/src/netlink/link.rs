//! What an interface is, and what it dropped.

use std::collections::HashMap;
use std::io;

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

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
    /// A device without an rtnetlink kind.
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
