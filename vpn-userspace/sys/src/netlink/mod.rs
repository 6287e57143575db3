//! Links, addresses and routes by rtnetlink, with the kernel's own words in errors.
//!
//! A [`Netlink`] speaks to the network namespace of the thread that made it. It knows nothing of
//! tunnels or connections: the daemon says which routes and addresses; every route made here
//! carries [`ROUTE_PROTOCOL`], by which what is ours is told from what is not.

mod apart;
mod error;
mod features;
mod link;
mod name;
mod nexthop;
mod pair;
mod route;
mod scratch;
mod watch;

pub use apart::{Addressing, Match, RULE_PRIORITY, Rule};
pub use error::{KernelError, NetlinkError};
pub use features::{XdpFeatures, XdpProber};
pub use link::{Link, LinkDrops, LinkKind, interface_drops};
pub use name::{filter_again, filter_loosely};
pub use nexthop::{Flow, NextHop, NextHops};
pub use pair::{BACK_MAC, FRONT_MAC};
pub use route::{Route, RouteTarget, RouteToPeer};
pub use scratch::Scratch;
pub use watch::AddressWatch;

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, LinkXfrm};

/// `rtm_protocol` of every route that is ours; "proto 203" in `ip route`. A number that neither
/// linux/rtnetlink.h, iproute2 nor FRR gives to anyone: 188, say, is OSPF's, and a sweep of what is
/// ours would take a routing daemon's routes along.
pub const ROUTE_PROTOCOL: u8 = 203;

/// Prefix of the names of every tunnel interface.
pub const INTERFACE_PREFIX: &str = "cv-";
/// Begins the names of the other ends of the interfaces of engine `bpf`, at which its programs are.
pub const BACK_PREFIX: &str = "cvb-";

/// An rtnetlink connection; clones share it.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

/// Removes interfaces by their indices, with a connection of its own; blocks. For who ends outside of any runtime.
pub fn delete_links(links: &[u32]) -> Result<(), NetlinkError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NetlinkError::Socket)?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        for link in links {
            netlink.delete_link(*link).await?;
        }
        Ok(())
    })
}

impl Netlink {
    /// Opens a connection in the network namespace of the calling thread; to be called inside a
    /// tokio runtime, on which a task then serves the socket until the last clone is dropped.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        let socket = connection.socket_mut().socket_mut();
        // Text in errors, without an echo of the request; kernel-side filters of dumps (Linux 4.20).
        socket.set_ext_ack(true).map_err(NetlinkError::Socket)?;
        socket.set_cap_ack(true).map_err(NetlinkError::Socket)?;
        socket.set_netlink_get_strict_chk(true).map_err(NetlinkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interface of that name, [`NetlinkError::NoInterface`] if there is none.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        self.find_link(name).await?.ok_or_else(|| NetlinkError::NoInterface(name.to_owned()))
    }

    /// The interface of that name, or `None`.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let action = || format!("look up interface {name}");
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::from_message)),
            Err(e) => match NetlinkError::from_rtnetlink(action(), e) {
                e if e.kernel().is_some_and(KernelError::is_missing) => Ok(None),
                e => Err(e),
            },
        }
    }

    /// Every interface of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| NetlinkError::from_rtnetlink("list interfaces", e))?;
        Ok(messages.iter().map(Link::from_message).collect())
    }

    /// Addresses of an interface, with their prefix lengths.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let mut request = self.handle.address().get().set_link_index_filter(index);
        request.message_mut().header.index = index;
        let messages: Vec<AddressMessage> = match request.execute().try_collect().await {
            Ok(messages) => messages,
            Err(e) => {
                return match NetlinkError::from_rtnetlink(
                    format!("list the addresses of interface {index}"),
                    e,
                ) {
                    e if e.kernel().is_some_and(KernelError::is_missing) => Ok(Vec::new()),
                    e => Err(e),
                };
            }
        };
        Ok(messages.iter().filter_map(address_of).collect())
    }

    /// Adds an address; nothing happens if the interface has it already.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        ignoring(
            KernelError::already_exists,
            request.execute().await.map_err(|e| {
                NetlinkError::from_rtnetlink(format!("add address {address} to interface {index}"), e)
            }),
        )
    }

    /// Removes an address; nothing happens if it or the interface is gone.
    pub async fn delete_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let message = match address {
            IpNet::V4(a) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(index)
                .address(a.addr(), a.prefix_len())
                .build(),
            IpNet::V6(a) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(a.addr(), a.prefix_len())
                .build(),
        };
        ignoring(
            KernelError::is_missing,
            self.handle.address().del(message).execute().await.map_err(|e| {
                NetlinkError::from_rtnetlink(format!("remove address {address} from interface {index}"), e)
            }),
        )
    }

    /// Brings an interface up or down.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(index);
        let change = if up { change.up() } else { change.down() };
        self.handle.link().change(change.build()).execute().await.map_err(|e| {
            let verb = if up { "up" } else { "down" };
            NetlinkError::from_rtnetlink(format!("bring interface {index} {verb}"), e)
        })
    }

    /// Has the kernel give the interface no IPv6 address of its own, and so send nothing there
    /// unasked. Nothing happens where the kernel has no IPv6.
    pub async fn no_link_local_address(&self, index: u32) -> Result<(), NetlinkError> {
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let change = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]))
            .build();
        ignoring(
            KernelError::not_supported,
            self.handle.link().change(change).execute().await.map_err(|e| {
                NetlinkError::from_rtnetlink(format!("set the IPv6 addressing of interface {index}"), e)
            }),
        )
    }

    /// Sets the MTU of an interface, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.handle.link().change(change).execute().await.map_err(|e| {
            NetlinkError::from_rtnetlink(format!("set the MTU of interface {index} to {mtu}"), e)
        })
    }

    /// Makes an xfrm interface (Linux 4.19, CONFIG_XFRM_INTERFACE), down. Packets routed to it are
    /// matched against the policies that carry `if_id` and no others; `underlay` is the device whose
    /// link state and MTU it borrows (the loopback device where no single one fits).
    pub async fn create_xfrm_interface(
        &self,
        name: &str,
        if_id: u32,
        underlay: u32,
    ) -> Result<Link, NetlinkError> {
        let message = LinkXfrm::new(name, underlay, if_id).build();
        self.handle.link().add(message).execute().await.map_err(|e| {
            NetlinkError::from_rtnetlink(format!("create xfrm interface {name} (if_id {if_id:#x})"), e)
        })?;
        self.link(name).await
    }

    /// Removes an interface; nothing happens if it is gone.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        ignoring(
            KernelError::is_missing,
            self.handle
                .link()
                .del(index)
                .execute()
                .await
                .map_err(|e| NetlinkError::from_rtnetlink(format!("remove interface {index}"), e)),
        )
    }

    /// Removes the tunnel interfaces that a process that died left behind: TUN devices and xfrm interfaces
    /// whose names begin with [`INTERFACE_PREFIX`], and veths of such a name whose other end is a back
    /// ([`BACK_PREFIX`]). Returns their names.
    pub async fn delete_stale_interfaces(&self) -> Result<Vec<String>, NetlinkError> {
        let links = self.links().await?;
        let is_back = |index: u32| links.iter().any(|l| l.index == index && l.name.starts_with(BACK_PREFIX));
        let mut removed = Vec::new();
        for link in links.iter().filter(|l| l.name.starts_with(INTERFACE_PREFIX)) {
            let ours = match link.kind {
                LinkKind::Tun | LinkKind::Xfrm { .. } => true,
                LinkKind::Veth => link.lower.is_some_and(is_back),
                _ => false,
            };
            if ours {
                self.delete_link(link.index).await?;
                removed.push(link.name.clone());
            }
        }
        Ok(removed)
    }

    /// Adds a route; refused by the kernel (`already_exists`) if there is one with the same
    /// destination, metric and table.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.handle
            .route()
            .add(route.to_message())
            .execute()
            .await
            .map_err(|e| NetlinkError::from_rtnetlink(format!("add route {route}"), e))
    }

    /// Adds a route, in place of the one with the same destination, metric and table if there is one.
    pub async fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.handle
            .route()
            .add(route.to_message())
            .replace()
            .execute()
            .await
            .map_err(|e| NetlinkError::from_rtnetlink(format!("replace route {route}"), e))
    }

    /// Removes a route of ours; nothing happens if it is gone. Never touches a route of another protocol.
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        ignoring(
            KernelError::is_missing,
            self.handle
                .route()
                .del(route.to_delete_message())
                .execute()
                .await
                .map_err(|e| NetlinkError::from_rtnetlink(format!("remove route {route}"), e)),
        )
    }

    /// Every route that carries [`ROUTE_PROTOCOL`], of both families and every table.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let messages: Vec<_> = self
                .handle
                .route()
                .get(route::dump_request(family))
                .execute()
                .try_collect()
                .await
                .map_err(|e| NetlinkError::from_rtnetlink("list routes", e))?;
            routes.extend(
                messages.iter().filter(|m| m.header.address_family == family).filter_map(Route::from_message),
            );
        }
        Ok(routes)
    }

    /// Removes every route that carries [`ROUTE_PROTOCOL`]; returns how many there were.
    pub async fn delete_all_routes(&self) -> Result<usize, NetlinkError> {
        let routes = self.routes().await?;
        for route in &routes {
            self.delete_route(route).await?;
        }
        Ok(routes.len())
    }

    /// How the kernel would send to `remote`: the source address it would choose, device and MTU.
    /// `source`, if given, is what the sender has bound to (source routing rules then apply).
    pub async fn route_towards(
        &self,
        remote: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<RouteToPeer, NetlinkError> {
        let request = self.handle.route().get(route::lookup_request(remote, source));
        let message = match request.execute().try_next().await {
            Ok(message) => message,
            Err(e) => {
                return Err(match NetlinkError::from_rtnetlink(format!("find the route to {remote}"), e) {
                    NetlinkError::Refused { reason, .. } => NetlinkError::NoRoute(remote, reason),
                    e => e,
                });
            }
        };
        message.as_ref().and_then(|m| RouteToPeer::from_message(m, source)).ok_or_else(|| {
            NetlinkError::broken(format!("find the route to {remote}"), "the kernel's answer names no device")
        })
    }
}

/// The interface's own address in an address message (on point-to-point links IFA_LOCAL, not IFA_ADDRESS).
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(addr) if local => Some(*addr),
            AddressAttribute::Address(addr) if !local => Some(*addr),
            _ => None,
        })
    };
    IpNet::new(find(true).or_else(|| find(false))?, message.header.prefix_len).ok()
}

fn ignoring(
    harmless: impl Fn(&KernelError) -> bool,
    result: Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    match result {
        Err(e) if e.kernel().is_some_and(harmless) => Ok(()),
        other => other,
    }
}
