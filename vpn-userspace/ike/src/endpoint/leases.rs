//! Inner addresses handed out to peers: one per identity and family, for as long as an IKE SA of it stands.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Identity, Pool};

/// Addresses tried in one network before it counts as full.
const MAX_TRIES: u128 = 1 << 16;

/// Who has which address.
#[derive(Default)]
pub(crate) struct Leases {
    holders: HashMap<IpAddr, Holder>,
    by_identity: HashMap<Identity, Vec<IpAddr>>,
    by_sa: HashMap<u64, Vec<IpAddr>>,
}

struct Holder {
    identity: Identity,
    /// IKE SAs, by our SPI: more than one while one takes another's place.
    sas: Vec<u64>,
}

impl Leases {
    /// An address of a family for an identity, held by the IKE SA `sa`: the one that it has, else the one that it wants,
    /// else one that its name leads to, so that it mostly gets the same again. `None`: the pool is exhausted.
    pub(crate) fn assign(
        &mut self,
        pool: &Pool,
        identity: &Identity,
        ipv6: bool,
        wanted: Option<IpAddr>,
        sa: u64,
    ) -> Option<IpAddr> {
        let nets = || pool.nets.iter().filter(|net| net.addr().is_ipv6() == ipv6);
        let within = |address: &IpAddr| nets().any(|net| usable(net, *address));
        let has = self.by_identity.get(identity).and_then(|all| all.iter().copied().find(within));
        let free = |a: &IpAddr| !self.holders.contains_key(a);
        let address = has
            .or_else(|| wanted.filter(|a| within(a) && free(a)))
            .or_else(|| nets().find_map(|net| candidates(net, identity).find(free)))?;
        let holder = self
            .holders
            .entry(address)
            .or_insert_with(|| Holder { identity: identity.clone(), sas: Vec::new() });
        holder.sas.push(sa);
        let known = self.by_identity.entry(identity.clone()).or_default();
        if !known.contains(&address) {
            known.push(address);
        }
        self.by_sa.entry(sa).or_default().push(address);
        Some(address)
    }

    /// A rekeyed IKE SA holds what the one before it does.
    pub(crate) fn share(&mut self, sa: u64, addresses: &[IpAddr]) {
        for address in addresses {
            if let Some(holder) = self.holders.get_mut(address).filter(|h| !h.sas.contains(&sa)) {
                holder.sas.push(sa);
                self.by_sa.entry(sa).or_default().push(*address);
            }
        }
    }

    /// The IKE SA is gone.
    pub(crate) fn release(&mut self, sa: u64) {
        for address in self.by_sa.remove(&sa).unwrap_or_default() {
            if let Some(holder) = self.holders.get_mut(&address) {
                holder.sas.retain(|s| *s != sa);
                if holder.sas.is_empty()
                    && let Some(Holder { identity, .. }) = self.holders.remove(&address)
                    && let Some(known) = self.by_identity.get_mut(&identity)
                {
                    known.retain(|a| *a != address);
                    if known.is_empty() {
                        self.by_identity.remove(&identity);
                    }
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }
}

/// Neither the network's own address nor, for IPv4, its broadcast address.
fn usable(net: &IpNet, address: IpAddr) -> bool {
    let point_to_point = net.max_prefix_len() - net.prefix_len() <= 1;
    net.contains(&address)
        && (point_to_point || (address != net.network() && (address.is_ipv6() || address != net.broadcast())))
}

/// The addresses of a network, from the one that the identity leads to.
fn candidates(net: &IpNet, identity: &Identity) -> impl Iterator<Item = IpAddr> {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
    let (start, net) = (u128::from(hasher.finish()) % size, *net);
    let address = move |n: u128| -> IpAddr {
        match net.network() {
            IpAddr::V4(a) => Ipv4Addr::from(u32::from(a).wrapping_add(u32::try_from(n).unwrap_or(0))).into(),
            IpAddr::V6(a) => Ipv6Addr::from(u128::from(a).wrapping_add(n)).into(),
        }
    };
    (0..size.min(MAX_TRIES)).map(move |n| address((start + n) % size)).filter(move |a| usable(&net, *a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(nets: &[&str]) -> Pool {
        Pool { nets: nets.iter().map(|n| n.parse().unwrap()).collect(), ..Pool::default() }
    }

    fn id(name: &str) -> Identity {
        Identity::parse(name).unwrap()
    }

    #[test]
    fn each_identity_has_one_address_until_its_last_ike_sa_is_gone() {
        let (pool, mut leases) = (pool(&["10.9.0.0/29", "2001:db8::/64"]), Leases::default());
        let a = leases.assign(&pool, &id("a"), false, None, 1).unwrap();
        assert_eq!(
            leases.assign(&pool, &id("A"), false, None, 2),
            Some(a),
            "the same name, the same address"
        );
        let six = leases.assign(&pool, &id("a"), true, None, 1).unwrap();
        assert!(six.is_ipv6() && a.is_ipv4());
        leases.share(3, &[a, six]);
        leases.release(1);
        leases.release(2);
        assert_eq!(leases.len(), 2);
        leases.release(3);
        assert_eq!(leases.len(), 0);
        assert_eq!(leases.assign(&pool, &id("a"), false, None, 4), Some(a), "and again after a while");
    }

    #[test]
    fn an_exhausted_pool_says_so() {
        let (pool, mut leases) = (pool(&["10.9.0.0/29"]), Leases::default());
        let mut seen = std::collections::HashSet::new();
        for n in 0..6 {
            let got = leases.assign(&pool, &id(&format!("p{n}")), false, None, n).unwrap();
            assert!(seen.insert(got) && got.to_string() != "10.9.0.0" && got.to_string() != "10.9.0.7");
        }
        assert_eq!(leases.assign(&pool, &id("late"), false, None, 9), None);
        assert_eq!(leases.assign(&pool, &id("six"), true, None, 9), None);
        leases.release(0);
        assert!(leases.assign(&pool, &id("late"), false, None, 9).is_some());
    }

    #[test]
    fn wishes_are_granted_where_possible() {
        let (pool, mut leases) = (pool(&["10.9.0.0/24"]), Leases::default());
        let wish = Some("10.9.0.77".parse().unwrap());
        assert_eq!(leases.assign(&pool, &id("a"), false, wish, 1), wish);
        assert_ne!(leases.assign(&pool, &id("b"), false, wish, 2), wish);
        for bad in ["10.9.0.0", "10.9.0.255", "10.8.0.1", "0.0.0.0"] {
            let got = leases.assign(&pool, &id(bad), false, Some(bad.parse().unwrap()), 3).unwrap();
            assert_ne!(got.to_string(), bad);
        }
    }
}
