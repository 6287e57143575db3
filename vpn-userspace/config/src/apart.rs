//! Connections and tunnels must not collide: networks, peers, inside addresses, interfaces.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use culvert_ike::Identity;
use ipnet::IpNet;

use crate::environment::{DEFAULT_ENVIRONMENT, name_of};
use crate::error::Fault;
use crate::file::RawConnection;
use crate::interface;
use crate::remote::Remote;

/// Whether an address is in both networks.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Remote networks of different connections of one environment must not overlap: a packet has one way.
pub(crate) fn remotes_apart(connections: &[RawConnection], faults: &mut Vec<Fault>) {
    // By first address, so that thousands of connections do not meet pair by pair: a network that overlaps
    // another either follows it before its end, or contains it.
    let mut nets: Vec<(&IpNet, Range<usize>, &RawConnection)> = connections
        .iter()
        .flat_map(|c| {
            c.remote.iter().flat_map(|r| r.get_ref()).map(move |net| (net.get_ref(), net.span(), c))
        })
        .collect();
    nets.sort_by_key(|(net, _, _)| (net.network(), net.prefix_len()));
    let mut open: Vec<&(&IpNet, Range<usize>, &RawConnection)> = Vec::new();
    for entry in &nets {
        let (net, span, connection) = entry;
        while open.last().is_some_and(|(outer, _, _)| !outer.contains(*net)) {
            open.pop();
        }
        let other = open.iter().rev().find(|(_, _, other)| {
            // What is learned may have several ways; what the file says wins.
            let learned = other.bgp.dynamic() || connection.bgp.dynamic();
            let apart = name_of(other) != name_of(connection);
            other.name.get_ref() != connection.name.get_ref() && !learned && !apart
        });
        if let Some((outer, outer_span, other)) = other {
            // The later line is the one to look at.
            let (first, second) = if outer_span.start < span.start {
                ((outer, outer_span, other), (net, span, connection))
            } else {
                ((net, span, connection), (outer, outer_span, other))
            };
            faults.push(
                Fault::new(format!(
                    "remote {} of connection `{}` overlaps {} of connection `{}`",
                    second.0,
                    second.2.name.get_ref(),
                    first.0,
                    first.2.name.get_ref()
                ))
                .at(second.1.clone(), "this network")
                .at(first.1.clone(), "overlaps this one")
                .help("a packet has one way: take one of the networks out or split the larger one"),
            );
        }
        open.push(entry);
    }
}

/// A remote network that holds a peer's own address would send the tunnel into itself.
pub(crate) fn peers_outside(connections: &[RawConnection], faults: &mut Vec<Fault>) {
    // The gateways' own packets are in the default environment, whose tunnels they are.
    let routed = connections.iter().filter(|c| name_of(c) == DEFAULT_ENVIRONMENT);
    for net in routed.flat_map(|c| c.remote.iter().flat_map(|r| r.get_ref())) {
        let peers = connections.iter().flat_map(|c| &c.tunnels).filter_map(|t| {
            t.remote_address.as_ref().and_then(|a| a.get_ref().address().map(|address| (address, a.span())))
        });
        let Some((address, span)) = peers.into_iter().find(|(address, _)| net.get_ref().contains(address))
        else {
            continue;
        };
        faults.push(
            Fault::new(format!("remote {} holds the peer's own address {address}", net.get_ref()))
                .at(net.span(), "routed into the tunnel")
                .at(span, "the tunnel's own packets go here")
                .help(
                    "the tunnel's packets would go into the tunnel: list networks without the peer's address",
                ),
        );
    }
}

/// Inside addresses: each once, in networks of their own.
pub(crate) fn inside_apart(connections: &[RawConnection], faults: &mut Vec<Fault>) {
    let mut nets: Vec<(&IpNet, Range<usize>, String, &str)> = Vec::new();
    for connection in connections {
        for tunnel in &connection.tunnels {
            for net in tunnel.inside.iter().flat_map(|i| i.get_ref()) {
                let title = format!("{}/{}", connection.name.get_ref(), tunnel.name.get_ref());
                nets.push((net.get_ref(), net.span(), title, name_of(connection)));
            }
        }
    }
    let mut by_start: Vec<_> = nets.iter().collect();
    by_start.sort_by_key(|(net, span, ..)| (net.network(), net.prefix_len(), span.start));
    let mut open: Vec<&(&IpNet, Range<usize>, String, &str)> = Vec::new();
    for entry in by_start {
        let (net, span, title, environment) = entry;
        while open.last().is_some_and(|(outer, ..)| !outer.contains(*net)) {
            open.pop();
        }
        let same = open.iter().rev().find(|(.., other)| other == environment);
        if let Some((outer, outer_span, outer_title, _)) = same {
            let ((a, a_span, a_title), (b, b_span, b_title)) = if outer_span.start < span.start {
                ((outer, outer_span, outer_title), (net, span, title))
            } else {
                ((net, span, title), (outer, outer_span, outer_title))
            };
            let fault = if a.addr() == b.addr() {
                Fault::new(format!(
                    "inside address {} of tunnel `{b_title}` is taken by tunnel `{a_title}`",
                    b.addr()
                ))
            } else {
                Fault::new(format!("inside {b} of tunnel `{b_title}` overlaps {a} of tunnel `{a_title}`"))
            };
            faults.push(
                fault
                    .at(b_span.clone(), "used again")
                    .at(a_span.clone(), "used here")
                    .help("give each tunnel a network of its own, such as another /30 of 169.254.0.0/16"),
            );
        }
        open.push(entry);
    }
}

/// What a tunnel is recognised by when a peer calls.
type PeerKey = (Option<IpAddr>, Remote, String);

/// Two tunnels to the same peer from the same address cannot be told apart.
pub(crate) fn tunnels_apart(connections: &[RawConnection], faults: &mut Vec<Fault>) {
    let mut seen: HashMap<PeerKey, (String, Range<usize>)> = HashMap::new();
    for connection in connections {
        for tunnel in &connection.tunnels {
            let Some(remote) = &tunnel.remote_address else { continue };
            let local = tunnel.local_address.as_ref().map(|l| *l.get_ref());
            let id = match (&tunnel.remote_id, remote.get_ref()) {
                (Some(id), _) => id.get_ref().clone(),
                (None, remote) => match default_id(remote) {
                    Some(id) => id,
                    None => continue,
                },
            };
            let title = format!("{}/{}", connection.name.get_ref(), tunnel.name.get_ref());
            // Names compare without regard to case.
            match seen.entry((local, remote.get_ref().clone(), id.to_string().to_ascii_lowercase())) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert((title, tunnel.name.span()));
                }
                std::collections::hash_map::Entry::Occupied(slot) => {
                    let (other, span) = slot.get();
                    faults.push(
                        Fault::new(format!(
                            "tunnels `{other}` and `{title}` have the same addresses and the same peer"
                        ))
                        .at(tunnel.name.span(), "cannot be told apart")
                        .at(span.clone(), "from this one")
                        .help("let remote_address, local_address or remote_id differ"),
                    );
                }
            }
        }
    }
}

pub(crate) fn interfaces_apart(connections: &[RawConnection], faults: &mut Vec<Fault>) {
    let mut seen: HashMap<String, (String, Range<usize>)> = HashMap::new();
    for connection in connections {
        for tunnel in &connection.tunnels {
            let name = interface::name(connection.name.get_ref(), tunnel.name.get_ref());
            let title = format!("{}/{}", connection.name.get_ref(), tunnel.name.get_ref());
            if let Some((other, span)) = seen.get(&name) {
                faults.push(
                    Fault::new(format!(
                        "tunnels `{other}` and `{title}` would both have the interface {name}"
                    ))
                    .at(tunnel.name.span(), "the same interface")
                    .at(span.clone(), "as this one")
                    .help("rename one of the tunnels or connections"),
                );
            } else {
                seen.insert(name, (title, tunnel.name.span()));
            }
        }
    }
}

/// Whether `remote_id` says that it may be anybody.
pub(crate) fn is_anybody(id: &Identity) -> bool {
    Identity::parse("any").is_ok_and(|any| any == *id)
}

/// Who the peer is where the file does not say; `None`: it must.
pub(crate) fn default_id(remote: &Remote) -> Option<Identity> {
    match remote {
        Remote::Any => None,
        Remote::Address(address) => Some(Identity::from(*address)),
        Remote::Name(name) => Identity::parse(name.trim_end_matches('.')).ok(),
    }
}
