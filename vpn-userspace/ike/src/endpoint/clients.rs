//! Tunnels that serve many clients at once: each identity has an instance, a tunnel of its own with its own IKE SA.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use culvert_types::TunnelId;

use crate::{Identity, PeerConfig};

/// Instances have ids from here on; owners give lower ones.
const FIRST: u32 = 1 << 31;

/// Which client has which instance of which tunnel.
#[derive(Default)]
pub(crate) struct Clients {
    by_identity: HashMap<(TunnelId, Identity), TunnelId>,
    instances: HashMap<TunnelId, Client>,
    /// The numbers that are in use.
    numbers: HashMap<TunnelId, BTreeSet<u32>>,
    next: u32,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// The tunnel that is configured.
    pub(crate) of: TunnelId,
    pub(crate) identity: Identity,
    /// From 1; the lowest that is free.
    pub(crate) number: u32,
}

impl Clients {
    /// The instance of an identity, if it has one.
    pub(crate) fn find(&self, of: TunnelId, identity: &Identity) -> Option<TunnelId> {
        self.by_identity.get(&(of, identity.clone())).copied()
    }

    /// The instance of an identity, made if it has none, and with its number then. `None`: there are `most` already.
    pub(crate) fn assign(
        &mut self,
        of: TunnelId,
        identity: &Identity,
        most: usize,
    ) -> Option<(TunnelId, Option<u32>)> {
        if let Some(id) = self.find(of, identity) {
            return Some((id, None));
        }
        let used = self.numbers.entry(of).or_default();
        if used.len() >= most {
            return None;
        }
        let number = (1..).find(|n| !used.contains(n))?;
        used.insert(number);
        let id = loop {
            let id = TunnelId(FIRST | self.next);
            self.next = self.next.wrapping_add(1) & !FIRST;
            if !self.instances.contains_key(&id) {
                break id;
            }
        };
        self.by_identity.insert((of, identity.clone()), id);
        self.instances.insert(id, Client { of, identity: identity.clone(), number });
        Some((id, Some(number)))
    }

    /// The client is gone.
    pub(crate) fn remove(&mut self, id: TunnelId) -> Option<Client> {
        let client = self.instances.remove(&id)?;
        self.by_identity.remove(&(client.of, client.identity.clone()));
        if let Some(used) = self.numbers.get_mut(&client.of) {
            used.remove(&client.number);
            if used.is_empty() {
                self.numbers.remove(&client.of);
            }
        }
        Some(client)
    }

    /// What is known of an instance.
    pub(crate) fn get(&self, id: TunnelId) -> Option<&Client> {
        self.instances.get(&id)
    }

    /// The instances of a tunnel.
    pub(crate) fn of(&self, tunnel: TunnelId) -> Vec<TunnelId> {
        self.instances.iter().filter(|(_, c)| c.of == tunnel).map(|(id, _)| *id).collect()
    }
}

/// The configuration of one client's instance.
pub(crate) fn instance(config: &PeerConfig, identity: &Identity, number: u32) -> Arc<PeerConfig> {
    let mut config = config.clone();
    config.name = format!("{}#{number}", config.name);
    config.remote_id = Some(identity.clone());
    config.session.clients = None;
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_again_and_never_more_than_there_may_be() {
        let (mut all, of) = (Clients::default(), TunnelId(1));
        let id = |name: &str| Identity::parse(name).unwrap();
        let (a, first) = all.assign(of, &id("a"), 2).unwrap();
        let (b, second) = all.assign(of, &id("b"), 2).unwrap();
        assert_eq!((first, second), (Some(1), Some(2)));
        assert_eq!(all.assign(of, &id("A"), 2), Some((a, None)), "the same one once more");
        assert_eq!(all.assign(of, &id("c"), 2), None);
        assert_eq!(all.assign(TunnelId(2), &id("c"), 2).map(|c| c.1), Some(Some(1)), "another tunnel");
        assert_eq!(all.of(of).len(), 2);
        all.remove(a);
        assert_eq!(all.remove(a), None);
        assert_eq!(all.assign(of, &id("c"), 2).map(|c| c.1), Some(Some(1)));
        all.remove(b);
        assert_eq!(all.find(of, &id("b")), None);
    }
}
