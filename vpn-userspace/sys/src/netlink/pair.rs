//! The interface of a tunnel of the engine `bpf`: one end of a veth pair, at whose other end, its back, a program takes
//! what is routed into it.

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo};
use rtnetlink::LinkUnspec;

use super::{Link, Netlink, NetlinkError};

/// Address of every such interface on its link, which has no third party.
pub const FRONT_MAC: [u8; 6] = [0x02, 0x63, 0x76, 0, 0, 1];
/// Address of every back.
pub const BACK_MAC: [u8; 6] = [0x02, 0x63, 0x76, 0, 0, 2];

impl Netlink {
    /// Makes such a pair, down: the interface and its back, whose MTU is the most that it lets in. Neither asks for link addresses, and the kernel cuts
    /// super-packets before they enter.
    pub async fn create_tunnel_pair(
        &self,
        name: &str,
        back: &str,
        mtu: u32,
        back_mtu: u32,
    ) -> Result<(Link, Link), NetlinkError> {
        let end = |name: &str, mac: [u8; 6], mtu: u32| {
            LinkUnspec::new_with_name(name)
                .arp(false)
                .multicast(false)
                .mtu(mtu)
                .address(mac.to_vec())
                .append_extra_attribute(LinkAttribute::GsoMaxSegs(1))
        };
        let peer = end(back, BACK_MAC, back_mtu).build();
        let mut message = end(name, FRONT_MAC, mtu).build();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.handle.link().add(message).execute().await.map_err(|e| {
            NetlinkError::from_rtnetlink(format!("create the interface {name} with its back {back}"), e)
        })?;
        Ok((self.link(name).await?, self.link(back).await?))
    }
}
