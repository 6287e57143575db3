//! The configured tunnels, by id and by the addresses that a responder meets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use culvert_types::TunnelId;

use crate::PeerConfig;

/// Every tunnel that the endpoint knows.
#[derive(Default)]
pub(crate) struct Peers {
    by_id: BTreeMap<TunnelId, Arc<PeerConfig>>,
    /// By remote address; `None` are those that take anybody.
    by_remote: HashMap<Option<IpAddr>, BTreeSet<TunnelId>>,
}

impl Peers {
    pub(crate) fn add(&mut self, tunnel: TunnelId, config: PeerConfig) {
        self.remove(tunnel);
        for key in comes_from(&config) {
            self.by_remote.entry(key).or_default().insert(tunnel);
        }
        self.by_id.insert(tunnel, Arc::new(config));
    }

    /// A client's instance: nobody else comes to it.
    pub(crate) fn add_client(&mut self, tunnel: TunnelId, config: Arc<PeerConfig>) {
        self.by_id.insert(tunnel, config);
    }

    pub(crate) fn remove(&mut self, tunnel: TunnelId) -> bool {
        let Some(old) = self.by_id.remove(&tunnel) else { return false };
        for key in comes_from(&old) {
            if let Some(set) = self.by_remote.get_mut(&key) {
                set.remove(&tunnel);
                if set.is_empty() {
                    self.by_remote.remove(&key);
                }
            }
        }
        true
    }

    /// Whether any tunnel takes IKEv1.
    pub(crate) fn any_v1(&self) -> bool {
        self.by_id.values().any(|c| c.v1.is_some())
    }

    pub(crate) fn get(&self, tunnel: TunnelId) -> Option<&Arc<PeerConfig>> {
        self.by_id.get(&tunnel)
    }

    /// The tunnels that a message between these addresses may be for: those that name the peer's address first.
    pub(crate) fn candidates(&self, local: IpAddr, remote: IpAddr) -> Vec<(TunnelId, Arc<PeerConfig>)> {
        let sets = [Some(remote), None].into_iter().filter_map(|key| self.by_remote.get(&key));
        let mut seen = BTreeSet::new();
        sets.flatten()
            .filter(|id| seen.insert(**id))
            .filter_map(|id| self.by_id.get(id).map(|c| (*id, c)))
            .filter(|(_, c)| c.local.ip() == local || c.local.ip().is_unspecified())
            .map(|(id, c)| (id, Arc::clone(c)))
            .collect()
    }
}

/// Where a tunnel's peer may come from; `None`: anywhere.
fn comes_from(config: &PeerConfig) -> impl Iterator<Item = Option<IpAddr>> {
    let remote = config.remote.map(|r| r.ip());
    std::iter::once(remote).chain((config.anywhere && remote.is_some()).then_some(None))
}
