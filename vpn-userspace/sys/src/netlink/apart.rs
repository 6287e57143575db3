//! What keeps environments apart: rules that lead packets to a routing table, and links that move to another namespace.

use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, LinkUnspec};

use super::{KernelError, Netlink, NetlinkError, ROUTE_PROTOCOL, ignoring};
use crate::netns::NetNs;

/// `pref` of every rule of ours: before those for the main table, after that for the host's own addresses.
pub const RULE_PRIORITY: u32 = 20_300;

/// Which packets a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// That arrive by this interface.
    From(String),
    /// Of sockets that are bound to this interface.
    To(String),
    /// Of sockets with this mark.
    Mark(u32),
}

/// A rule of ours (protocol [`ROUTE_PROTOCOL`], Linux 4.17): such packets go by that table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Which packets.
    pub packets: Match,
    /// Of IPv6, or else of IPv4.
    pub ipv6: bool,
    /// The table.
    pub table: u32,
}

impl Rule {
    fn to_message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.action = RuleAction::ToTable;
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes = vec![
            RuleAttribute::Priority(RULE_PRIORITY),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
            match &self.packets {
                Match::From(name) => RuleAttribute::Iifname(name.clone()),
                Match::To(name) => RuleAttribute::Oifname(name.clone()),
                Match::Mark(mark) => RuleAttribute::FwMark(*mark),
            },
        ];
        message
    }

    /// `None` for rules that are not ours.
    fn from_message(message: &RuleMessage) -> Option<Self> {
        let (mut packets, mut table, mut ours) = (None, u32::from(message.header.table), false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Iifname(name) => packets = Some(Match::From(name.clone())),
                RuleAttribute::Oifname(name) => packets = Some(Match::To(name.clone())),
                RuleAttribute::FwMark(mark) => packets = Some(Match::Mark(*mark)),
                RuleAttribute::Table(id) => table = *id,
                RuleAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::from(ROUTE_PROTOCOL),
                _ => {}
            }
        }
        let ipv6 = message.header.family == AddressFamily::Inet6;
        ours.then_some(())?;
        Some(Self { packets: packets?, ipv6, table })
    }
}

/// What an interface loses when it moves to another namespace.
#[derive(Debug, Clone, Default)]
pub struct Addressing {
    /// Its addresses, but for those that the kernel gives itself.
    pub addresses: Vec<IpNet>,
    routes: Vec<RouteMessage>,
}

impl Netlink {
    /// Opens a connection in another namespace; to be called inside a tokio runtime.
    pub fn connect_within(namespace: &NetNs) -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace.within(|| {
            // The socket belongs to the namespace of the thread that makes it, its readiness to the runtime.
            let _entered = runtime.enter();
            Self::connect()
        });
        opened.map_err(NetlinkError::Socket)?
    }

    /// The rules of ours, of both families.
    pub async fn rules(&self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let dump: Result<Vec<_>, _> = self.handle.rule().get(version).execute().try_collect().await;
            match dump.map_err(|e| NetlinkError::from_rtnetlink("list rules", e)) {
                Ok(messages) => rules.extend(messages.iter().filter_map(Rule::from_message)),
                // No IPv6, or a kernel without rules for it.
                Err(e) if e.kernel().is_some_and(KernelError::not_supported) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rules)
    }

    /// Adds a rule; nothing happens if it is there already, or if it is for IPv6 and the kernel has none.
    pub async fn add_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.to_message();
        let added = request.execute().await;
        let harmless = |e: &KernelError| e.already_exists() || rule.ipv6 && e.not_supported();
        let action = || format!("add a rule for table {}", rule.table);
        ignoring(harmless, added.map_err(|e| NetlinkError::from_rtnetlink(action(), e)))
    }

    /// Removes a rule; nothing happens if it is gone.
    pub async fn delete_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let deleted = self.handle.rule().del(rule.to_message()).execute().await;
        let action = || format!("remove a rule for table {}", rule.table);
        ignoring(KernelError::is_missing, deleted.map_err(|e| NetlinkError::from_rtnetlink(action(), e)))
    }

    /// Moves an interface to another namespace, where it is down and without addresses.
    pub async fn move_link(&self, index: u32, to: &NetNs) -> Result<(), NetlinkError> {
        self.move_to(index, to.as_fd().as_raw_fd(), to.name()).await
    }

    /// As [`Netlink::move_link`], to the namespace of the process.
    pub async fn move_link_back(&self, index: u32) -> Result<(), NetlinkError> {
        let own = std::fs::File::open("/proc/self/ns/net").map_err(NetlinkError::Socket)?;
        self.move_to(index, own.as_raw_fd(), "of culvertd").await
    }

    async fn move_to(&self, index: u32, namespace: i32, name: &str) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(index).setns_by_fd(namespace).build();
        self.handle.link().change(change).execute().await.map_err(|e| {
            NetlinkError::from_rtnetlink(format!("move interface {index} to the namespace {name}"), e)
        })
    }

    /// What an interface would lose by a move.
    pub async fn addressing(&self, index: u32) -> Result<Addressing, NetlinkError> {
        let addresses = self.addresses(index).await?;
        let kernels = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        let mut routes = self.routes_by(index).await?;
        // What the kernel makes of the addresses it makes again.
        routes.retain(|route| route.header.protocol != RouteProtocol::Kernel);
        Ok(Addressing { addresses: addresses.into_iter().filter(|net| !kernels(net)).collect(), routes })
    }

    /// Brings an interface up and gives it what it lost. What of the routes cannot be had any more is left out.
    pub async fn address_again(&self, index: u32, what: &Addressing) -> Result<(), NetlinkError> {
        self.set_up(index, true).await?;
        for address in &what.addresses {
            self.add_address(index, *address).await?;
        }
        for route in &what.routes {
            let mut route = route.clone();
            for attribute in &mut route.attributes {
                if let RouteAttribute::Oif(oif) = attribute {
                    *oif = index;
                }
            }
            if let Err(error) = self.handle.route().add(route).execute().await {
                tracing::warn!("a route of a moved interface is lost: {error}");
            }
        }
        Ok(())
    }

    /// Copies into a table how the main one leads out of an interface: what is on its link, and what lies behind that.
    pub async fn copies_by(&self, index: u32, table: u32) -> Result<Vec<super::Route>, NetlinkError> {
        let routes = self.routes_by(index).await?;
        Ok(routes.iter().filter_map(|route| super::Route::copy_of(route, index, table)).collect())
    }

    /// The unicast routes of the main table that lead out of an interface alone.
    async fn routes_by(&self, index: u32) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_MAIN;
            let dump: Result<Vec<RouteMessage>, _> =
                self.handle.route().get(request).execute().try_collect().await;
            match dump.map_err(|e| NetlinkError::from_rtnetlink("list routes", e)) {
                Ok(routes) => found.extend(routes),
                Err(e) if e.kernel().is_some_and(KernelError::is_missing) => {}
                Err(e) => return Err(e),
            }
        }
        let link_local = |route: &RouteMessage| {
            route.attributes.iter().any(|a| {
                matches!(a, RouteAttribute::Destination(RouteAddress::Inet6(a)) if a.is_unicast_link_local() || a.is_multicast())
            })
        };
        found.retain(|route| {
            route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.kind == RouteType::Unicast
                && route.header.scope != RouteScope::Host
                && route.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL)
                && route.attributes.contains(&RouteAttribute::Oif(index))
                && !link_local(route)
        });
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written_and_those_of_others_are_not_ours() {
        for packets in [Match::From("lan".into()), Match::To("cv-a-b".into()), Match::Mark(7)] {
            for ipv6 in [false, true] {
                let rule = Rule { packets: packets.clone(), ipv6, table: 203_000_001 };
                assert_eq!(Rule::from_message(&rule.to_message()), Some(rule));
            }
        }
        let mut foreign = Rule { packets: Match::Mark(7), ipv6: false, table: 7 }.to_message();
        foreign.attributes.retain(|a| !matches!(a, RuleAttribute::Protocol(_)));
        assert_eq!(Rule::from_message(&foreign), None);
    }
}
