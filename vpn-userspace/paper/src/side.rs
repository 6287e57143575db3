//! A connection as one of its two ends says it.

use std::net::IpAddr;
use std::time::Duration;

use culvert_config::{Config, Connection, Dpd, Encap, LocalProof, Profile, Remote, RemoteProof, Start};
use culvert_ike::{Addresses, EspMode, Identity, Pairs, Psk, V1Mode};
use ipnet::IpNet;

use crate::Offer;

/// A connection as one of its two ends says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// IKE's version: 1 or 2.
    pub version: u8,
    /// With version 1: aggressive mode.
    pub aggressive: bool,
    /// Networks behind this end.
    pub local: Vec<IpNet>,
    /// Networks behind the far end.
    pub remote: Vec<IpNet>,
    /// Who begins, and when.
    pub start: Start,
    /// Where the proposals come from, if they are a profile's.
    pub profile: Option<Profile>,
    /// What is offered for IKE, in order of preference.
    pub ike: Vec<Offer>,
    /// What is offered for ESP, in order of preference.
    pub esp: Vec<Offer>,
    /// An IKE SA is rekeyed before it gets so old.
    pub ike_lifetime: Option<Duration>,
    /// A child SA is rekeyed before it gets so old.
    pub esp_lifetime: Option<Duration>,
    /// Dead peer detection; `None`: off, or not said.
    pub dpd: Option<Dpd>,
    /// ESP always goes in UDP, NAT or not.
    pub udp: bool,
    /// A child SA for each pair of networks.
    pub each: bool,
    /// Routes are learned by BGP over the inner addresses.
    pub bgp: Option<Bgp>,
    /// MTU of the tunnel interfaces in bytes.
    pub mtu: Option<u16>,
    /// In order; at least one.
    pub tunnels: Vec<Tunnel>,
}

/// Whom BGP speaks for and with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bgp {
    /// This end's autonomous system.
    pub local: u32,
    /// The far end's.
    pub remote: u32,
}

/// A tunnel of a [`Side`].
#[derive(Debug, Clone, PartialEq)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// This end's address; `None`: whichever it has.
    pub local_address: Option<IpAddr>,
    /// The far end's address.
    pub remote_address: Remote,
    /// What this end calls itself; `None`: its address.
    pub local_id: Option<Identity>,
    /// What the far end calls itself; `None`: its address, or anybody.
    pub remote_id: Option<Identity>,
    /// The key that both know; `None`: not said, or something else proves the ends.
    pub psk: Option<Psk>,
    /// What proves the ends, in words, where it is no key.
    pub proof: Option<&'static str>,
    /// Addresses of this end inside the tunnel, with their networks.
    pub inside: Vec<IpNet>,
    /// Addresses of the far end inside the tunnel.
    pub far_inside: Vec<IpAddr>,
    /// 100 is active, 0 stands by.
    pub weight: u8,
    /// Whether it may come up.
    pub enabled: bool,
}

impl Side {
    /// Culvert's own end, from its configuration.
    pub fn of(config: &Config, connection: &Connection) -> Self {
        let tunnels = connection.tunnels.iter().map(|tunnel| {
            let psk = match (&tunnel.auth.local, &tunnel.auth.remote) {
                (LocalProof::Psk(psk), RemoteProof::Psk(_)) => Some(psk.clone()),
                _ => None,
            };
            let proof = match (&tunnel.auth.local, &tunnel.auth.remote) {
                _ if psk.is_some() => None,
                (LocalProof::Certificate { .. }, RemoteProof::Certificate { .. }) => Some("certificates"),
                _ => Some("EAP, XAuth or different means on the two sides"),
            };
            Tunnel {
                name: tunnel.name.clone(),
                local_address: tunnel.local_address,
                remote_address: tunnel.remote_address.clone(),
                local_id: tunnel.local_id.clone(),
                remote_id: tunnel.remote_id.clone(),
                psk,
                proof,
                far_inside: if tunnel.bgp.is_empty() {
                    tunnel.inside.iter().filter_map(opposite).map(|net| net.addr()).collect()
                } else {
                    tunnel.bgp.iter().map(|neighbor| neighbor.address).collect()
                },
                inside: tunnel.inside.clone(),
                weight: tunnel.weight,
                enabled: tunnel.enabled,
            }
        });
        Self {
            name: connection.name.clone(),
            version: connection.ike.version,
            aggressive: connection.ike.mode == V1Mode::Aggressive,
            local: connection.local.clone(),
            remote: connection.remote.clone(),
            start: connection.start,
            profile: connection.ike.profile.filter(|profile| Some(*profile) == connection.esp.profile),
            ike: connection.ike.proposals.iter().map(Offer::of).collect(),
            esp: connection.esp.proposals.iter().map(Offer::of).collect(),
            ike_lifetime: Some(connection.ike.lifetime),
            esp_lifetime: Some(connection.esp.lifetime),
            dpd: Some(connection.dpd),
            udp: connection.encap == Encap::Udp,
            each: connection.exchange.pairs == Pairs::Each,
            bgp: connection.bgp.as_ref().and_then(|_| {
                let neighbor = connection.tunnels.iter().find_map(|tunnel| tunnel.bgp.first())?;
                Some(Bgp { local: config.gateway.bgp.asn, remote: neighbor.asn })
            }),
            mtu: connection.mtu,
            tunnels: tunnels.collect(),
        }
    }

    /// What of a connection of Culvert no paperwork can say: an inner address from the peer, transport mode.
    pub fn beyond(connection: &Connection) -> Vec<String> {
        let mut beyond = Vec::new();
        if connection.tunnels.iter().any(|tunnel| tunnel.addresses != Addresses::Own) {
            beyond
                .push("inner addresses that one side gives the other (virtual_ip, pool) are left out".into());
        }
        if connection.exchange.mode == EspMode::Transport {
            beyond.push("transport mode is left out: what follows says tunnel mode".into());
        }
        for tunnel in connection.tunnels.iter().filter(|tunnel| tunnel.ike.is_some() || tunnel.esp.is_some())
        {
            beyond.push(format!(
                "tunnel {} has an ike or esp of its own: what follows says the connection's",
                tunnel.name
            ));
        }
        if connection.tunnels.iter().any(|tunnel| tunnel.ppk.is_some()) {
            beyond.push("the post-quantum key beside the first (ppk) is left out".into());
        }
        beyond
    }

    /// The same connection as the far end says it.
    pub fn mirror(&self) -> Self {
        let start = match self.start {
            Start::Immediate => Start::Respond,
            Start::Respond => Start::Immediate,
            Start::OnTraffic => Start::OnTraffic,
        };
        let tunnels = self.tunnels.iter().map(|tunnel| {
            let addresses = tunnel.far_inside.iter();
            let inside = addresses.filter_map(|far| {
                let own = tunnel.inside.iter().find(|net| net.addr().is_ipv4() == far.is_ipv4())?;
                IpNet::new(*far, own.prefix_len()).ok()
            });
            Tunnel {
                name: tunnel.name.clone(),
                local_address: tunnel.remote_address.address(),
                remote_address: tunnel.local_address.map_or(Remote::Any, Remote::Address),
                local_id: tunnel.remote_id.clone(),
                remote_id: tunnel.local_id.clone().or_else(|| tunnel.local_address.map(Identity::from)),
                psk: tunnel.psk.clone(),
                proof: tunnel.proof,
                inside: inside.collect(),
                far_inside: tunnel.inside.iter().map(IpNet::addr).collect(),
                weight: tunnel.weight,
                enabled: tunnel.enabled,
            }
        });
        Self {
            local: self.remote.clone(),
            remote: self.local.clone(),
            start,
            bgp: self.bgp.map(|bgp| Bgp { local: bgp.remote, remote: bgp.local }),
            tunnels: tunnels.collect(),
            ..self.clone()
        }
    }

    /// Gives this end an address where it says none; its id too.
    pub fn with_address(mut self, address: IpAddr) -> Self {
        for tunnel in &mut self.tunnels {
            // Behind a NAT it calls itself by what it has, unless it says otherwise.
            let own = tunnel.local_address.replace(address);
            if tunnel.local_id.is_none() {
                tunnel.local_id = Some(own.unwrap_or(address).into());
            }
        }
        self
    }

    /// Every pair of networks of the two ends that are of one family.
    pub fn pairs(&self) -> Vec<(IpNet, IpNet)> {
        let of = |local: &IpNet| {
            let local = *local;
            let remote = self.remote.iter().filter(move |r| r.addr().is_ipv4() == local.addr().is_ipv4());
            remote.map(move |remote| (local, *remote))
        };
        self.local.iter().flat_map(of).collect()
    }
}

/// The other host of a network with two: the far end's inner address.
pub(crate) fn opposite(net: &IpNet) -> Option<IpNet> {
    let bits = net.max_prefix_len() - net.prefix_len();
    let hosts: Vec<IpAddr> = if (1..=2).contains(&bits) { net.hosts().collect() } else { Vec::new() };
    let [first, second] = hosts.as_slice() else {
        // An IPv6 network of four addresses: those beside its first one (RFC 4291 2.6.1) are the hosts.
        return hosts
            .into_iter()
            .skip(1)
            .find(|h| *h != net.addr())
            .and_then(|h| IpNet::new(h, net.prefix_len()).ok());
    };
    let other = if *first == net.addr() { second } else { first };
    IpNet::new(*other, net.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hosts_of_a_network_are_each_others_opposite() {
        let other = |net: &str| opposite(&net.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(other("169.254.10.2/30").as_deref(), Some("169.254.10.1/30"));
        assert_eq!(other("169.254.10.1/30").as_deref(), Some("169.254.10.2/30"));
        assert_eq!(other("10.0.0.0/31").as_deref(), Some("10.0.0.1/31"));
        assert_eq!(other("fd00::1/127").as_deref(), Some("fd00::/127"));
        assert_eq!(other("10.0.0.1/24"), None);
        assert_eq!(other("10.0.0.1/32"), None);
    }
}
