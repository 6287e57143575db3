//! The CHILD SAs that stand, by their inbound SPIs and by their tunnels: with thousands of them nothing may look through all
//! for one.

use std::collections::{BTreeMap, BTreeSet};

use culvert_types::{Spi, TunnelId};

use crate::daemon::Child;

/// All CHILD SAs of this gateway.
#[derive(Default)]
pub(crate) struct Children {
    all: BTreeMap<Spi, Child>,
    of: BTreeMap<TunnelId, BTreeSet<Spi>>,
}

impl Children {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn contains(&self, inbound: Spi) -> bool {
        self.all.contains_key(&inbound)
    }

    pub(crate) fn get(&self, inbound: Spi) -> Option<&Child> {
        self.all.get(&inbound)
    }

    /// To be changed, but for the tunnel that it belongs to.
    pub(crate) fn get_mut(&mut self, inbound: Spi) -> Option<&mut Child> {
        self.all.get_mut(&inbound)
    }

    pub(crate) fn insert(&mut self, inbound: Spi, child: Child) {
        self.remove(inbound);
        self.of.entry(child.tunnel).or_default().insert(inbound);
        self.all.insert(inbound, child);
    }

    pub(crate) fn remove(&mut self, inbound: Spi) -> Option<Child> {
        let child = self.all.remove(&inbound)?;
        if let Some(of_tunnel) = self.of.get_mut(&child.tunnel) {
            of_tunnel.remove(&inbound);
            if of_tunnel.is_empty() {
                self.of.remove(&child.tunnel);
            }
        }
        Some(child)
    }

    /// Those of a tunnel, or of one client.
    pub(crate) fn of(&self, tunnel: TunnelId) -> impl Iterator<Item = (Spi, &Child)> {
        let spis = self.of.get(&tunnel).into_iter().flatten();
        spis.filter_map(|spi| self.all.get(spi).map(|child| (*spi, child)))
    }

    /// The SPIs of those of a tunnel, or of one client.
    pub(crate) fn spis_of(&self, tunnel: TunnelId) -> Vec<Spi> {
        self.of.get(&tunnel).into_iter().flatten().copied().collect()
    }

    /// Forgets those of a tunnel.
    pub(crate) fn remove_of(&mut self, tunnel: TunnelId) {
        for spi in self.of.remove(&tunnel).unwrap_or_default() {
            self.all.remove(&spi);
        }
    }
}
