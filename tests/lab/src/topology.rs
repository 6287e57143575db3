//! The topology of the tests and of the demo: two sites, each a host behind a gateway, joined by a WAN.
//!
//! ```text
//!  host_a ------ gateway_a --------[ nat ]-------- wan -------- gateway_b ------ host_b
//!  10.1.0.2      10.1.0.1                       (a router)       10.2.0.1      10.2.0.2
//!  fd01::2       198.51.100.1                                 203.0.113.1       fd02::2
//!                2001:db8:a::1                              2001:db8:b::1
//! ```

use anyhow::Result;

use crate::netns::{End, Namespace, link};

/// What varies between sites.
#[derive(Debug, Clone, Copy, Default)]
pub struct SiteOptions {
    /// Puts a masquerading router between gateway A and the WAN. IPv4 only outside then.
    pub nat: bool,
    /// MTU of the WAN's links; 1500 otherwise.
    pub wan_mtu: Option<u32>,
}

/// The six (with NAT) namespaces and their links.
#[derive(Debug)]
pub struct Site {
    /// A host of site A: `eth0`.
    pub host_a: Namespace,
    /// Gateway of site A: `lan`, `wan`.
    pub gateway_a: Namespace,
    /// The masquerading router: `inside`, `outside`.
    pub nat: Option<Namespace>,
    /// The router between: `to-a`, `to-b`.
    pub wan: Namespace,
    /// Gateway of site B: `lan`, `wan`.
    pub gateway_b: Namespace,
    /// A host of site B: `eth0`.
    pub host_b: Namespace,
}

/// Host A.
pub const HOST_A: &str = "10.1.0.2";
/// Host A, IPv6.
pub const HOST_A6: &str = "fd01::2";
/// Host B.
pub const HOST_B: &str = "10.2.0.2";
/// Host B, IPv6.
pub const HOST_B6: &str = "fd02::2";
/// Host A in the second network of site A.
pub const HOST_A_TOO: &str = "10.11.0.2";
/// Host B in the second network of site B.
pub const HOST_B_TOO: &str = "10.12.0.2";
/// The second network of site A, on the same link.
pub const LAN_A_TOO: &str = "10.11.0.0/24";
/// The second network of site B, on the same link.
pub const LAN_B_TOO: &str = "10.12.0.0/24";
/// The network of site A.
pub const LAN_A: &str = "10.1.0.0/24";
/// The network of site A, IPv6.
pub const LAN_A6: &str = "fd01::/64";
/// The network of site B.
pub const LAN_B: &str = "10.2.0.0/24";
/// The network of site B, IPv6.
pub const LAN_B6: &str = "fd02::/64";
/// Gateway A on the WAN, or the NAT in front of it.
pub const WAN_A: &str = "198.51.100.1";
/// Gateway A on the WAN, IPv6.
pub const WAN_A6: &str = "2001:db8:a::1";
/// Gateway A behind the NAT.
pub const WAN_A_NATTED: &str = "192.168.77.2";
/// Gateway B on the WAN.
pub const WAN_B: &str = "203.0.113.1";
/// Gateway B on the WAN, IPv6.
pub const WAN_B6: &str = "2001:db8:b::1";

/// Names of the namespaces of a lasting lab, in the order of the topology.
pub const LASTING: [&str; 5] =
    ["culvert-hostA", "culvert-gatewayA", "culvert-wan", "culvert-gatewayB", "culvert-hostB"];

impl Site {
    /// Lays the plain site.
    ///
    /// # Errors
    /// When a namespace or link cannot be made.
    pub fn new() -> Result<Self> {
        Self::with(SiteOptions::default())
    }

    /// Lays a site.
    ///
    /// # Errors
    /// When a namespace or link cannot be made.
    pub fn with(options: SiteOptions) -> Result<Self> {
        let nat = if options.nat { Some(Namespace::new("nat")?) } else { None };
        Self::lay(options, nat, Namespace::new)
    }

    /// Lays a site that outlives the process, under the names [`LASTING`].
    ///
    /// # Errors
    /// When a namespace or link cannot be made, as when they exist.
    pub fn lasting() -> Result<Self> {
        Self::lay(SiteOptions::default(), None, |label| Namespace::lasting(&format!("culvert-{label}")))
    }

    fn lay(
        options: SiteOptions,
        nat: Option<Namespace>,
        make: impl Fn(&str) -> Result<Namespace>,
    ) -> Result<Self> {
        let site = Self {
            host_a: make("hostA")?,
            gateway_a: make("gatewayA")?,
            nat,
            wan: make("wan")?,
            gateway_b: make("gatewayB")?,
            host_b: make("hostB")?,
        };
        let end = |namespace, name, addresses| End { namespace, name, addresses };
        let mtu = options.wan_mtu;
        link(
            end(&site.host_a, "eth0", &["10.1.0.2/24", "10.11.0.2/24", "fd01::2/64"]),
            end(&site.gateway_a, "lan", &["10.1.0.1/24", "10.11.0.1/24", "fd01::1/64"]),
            None,
        )?;
        match &site.nat {
            None => link(
                end(&site.gateway_a, "wan", &["198.51.100.1/24", "2001:db8:a::1/64"]),
                end(&site.wan, "to-a", &["198.51.100.254/24", "2001:db8:a::fe/64"]),
                mtu,
            )?,
            Some(nat) => {
                link(
                    end(&site.gateway_a, "wan", &["192.168.77.2/24"]),
                    end(nat, "inside", &["192.168.77.1/24"]),
                    mtu,
                )?;
                link(
                    end(nat, "outside", &["198.51.100.1/24"]),
                    end(&site.wan, "to-a", &["198.51.100.254/24"]),
                    mtu,
                )?;
                nat.ip("route add default via 198.51.100.254")?;
                nat.run("nft", &["add table ip nat"])?;
                nat.run("nft", &["add chain ip nat post { type nat hook postrouting priority srcnat; }"])?;
                nat.run("nft", &["add rule ip nat post oifname outside masquerade"])?;
            }
        }
        link(
            end(&site.gateway_b, "wan", &["203.0.113.1/24", "2001:db8:b::1/64"]),
            end(&site.wan, "to-b", &["203.0.113.254/24", "2001:db8:b::fe/64"]),
            mtu,
        )?;
        link(
            end(&site.host_b, "eth0", &["10.2.0.2/24", "10.12.0.2/24", "fd02::2/64"]),
            end(&site.gateway_b, "lan", &["10.2.0.1/24", "10.12.0.1/24", "fd02::1/64"]),
            None,
        )?;
        for (host, v4, v6) in [(&site.host_a, "10.1.0.1", "fd01::1"), (&site.host_b, "10.2.0.1", "fd02::1")] {
            host.ip(&format!("route add default via {v4}"))?;
            host.ip(&format!("-6 route add default via {v6}"))?;
        }
        let via = if site.nat.is_some() { "192.168.77.1" } else { "198.51.100.254" };
        site.gateway_a.ip(&format!("route add default via {via}"))?;
        site.gateway_b.ip("route add default via 203.0.113.254")?;
        if site.nat.is_none() {
            site.gateway_a.ip("-6 route add default via 2001:db8:a::fe")?;
            site.gateway_b.ip("-6 route add default via 2001:db8:b::fe")?;
        }
        Ok(site)
    }

    /// Tells the WAN's router the way to both LANs, so that they reach each other without encryption: to measure
    /// what the topology forwards, and to let a leak arrive.
    ///
    /// # Errors
    /// When a route cannot be set.
    pub fn route_plain(&self) -> Result<()> {
        let via_a = if self.nat.is_some() { "198.51.100.1" } else { WAN_A };
        self.wan.ip(&format!("route replace {LAN_A} via {via_a}"))?;
        self.wan.ip(&format!("route replace {LAN_B} via {WAN_B}"))?;
        if self.nat.is_none() {
            self.wan.ip(&format!("-6 route replace {LAN_A6} via {WAN_A6}"))?;
            self.wan.ip(&format!("-6 route replace {LAN_B6} via {WAN_B6}"))?;
        }
        Ok(())
    }

    /// The address that gateway A has itself.
    pub fn local_a(&self) -> &'static str {
        if self.nat.is_some() { WAN_A_NATTED } else { WAN_A }
    }
}
