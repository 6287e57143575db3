//! The cipher by the network card: asked for SA by SA, and left to the kernel where the card has it not.

use culvert_sys::netlink::NetlinkError;
use culvert_sys::xfrm::{SaSpec, Xfrm};

use super::Drive;
use super::tunnel::{Pair, Tunnel};
use crate::user::setup::SaSetup;

/// A network card.
pub(super) struct Card {
    index: u32,
    name: String,
}

impl Drive {
    /// The device by which the packets of an SA leave, if its tunnel wants the cipher there.
    pub(super) async fn card(&self, setup: &SaSetup) -> Option<Card> {
        if !self.shared.state().tunnels.get(&setup.tunnel)?.kernel.offload {
            return None;
        }
        // Without a route nothing is sent, and no card has anything to do.
        let route = self.netlink.route_towards(setup.remote.ip(), Some(setup.local)).await.ok()?;
        let links = self.netlink.links().await.ok()?;
        let link = links.into_iter().find(|link| link.index == route.interface)?;
        Some(Card { index: link.index, name: link.name })
    }
}

impl Tunnel {
    /// Installs the inbound SA of a pair, on the card if it takes it; says which. The outbound one follows it.
    pub(super) fn add_to(
        &mut self,
        xfrm: &Xfrm,
        mut pair: Pair,
        card: &Card,
    ) -> Result<String, NetlinkError> {
        let inbound = pair.inbound;
        let name = &card.name;
        pair.card = Some(card.index);
        self.add(xfrm, pair)?;
        let Some(pair) = self.pairs.get_mut(&inbound) else { return Ok(String::new()) };
        if let Some(why) = &pair.card_refused {
            return Ok(format!("offload: the kernel does the cipher, since {name} does not take it: {why}"));
        }
        // A driver without it leaves it to the kernel without a word.
        if xfrm.sa(pair.inbound_id())?.is_some_and(|state| state.offload.is_some()) {
            return Ok(format!("offload: {name} does the cipher"));
        }
        pair.card = None;
        Ok(format!("offload: the kernel does the cipher: {name} has no IPsec"))
    }
}

/// Tells the kernel of an SA, and once more without the card if that does not take it: says why.
pub(super) fn tell(xfrm: &Xfrm, sa: &SaSpec<'_>) -> Result<Option<String>, NetlinkError> {
    let refused = match xfrm.add_sa(sa) {
        Err(error) if sa.options.offload.is_some() => error,
        told => return told.map(|()| None),
    };
    let Some(kernel) = refused.kernel().filter(|kernel| kernel.refuses_values()) else { return Err(refused) };
    let why = kernel.to_string();
    let mut plain = *sa;
    plain.options.offload = None;
    xfrm.add_sa(&plain)?;
    Ok(Some(why))
}
