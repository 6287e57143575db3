//! CREATE_CHILD_SA (RFC 7296 1.3): new and rekeyed CHILD SAs, rekeyed IKE SAs; both roles, collisions included.
//!
//! What a request meets, and what becomes of it (RFC 7296 2.25):
//!
//! | our own exchange in flight | peer rekeys this CHILD SA | peer rekeys the IKE SA |
//! | --- | --- | --- |
//! | none, or liveness | new SA, the peer deletes the old one | new SA takes the children |
//! | rekey of the same CHILD SA | both are made, the one with the lowest nonce goes | TEMPORARY_FAILURE |
//! | another CHILD SA made or deleted | new SA | TEMPORARY_FAILURE |
//! | delete of this CHILD SA | TEMPORARY_FAILURE | TEMPORARY_FAILURE |
//! | rekey of the IKE SA | TEMPORARY_FAILURE | both are made, the one with the lowest nonce goes |
//! | delete of the IKE SA | TEMPORARY_FAILURE | TEMPORARY_FAILURE |

mod child;
mod ike;

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_crypto::{DhGroup, KeyPair, SharedSecret};
use culvert_types::Spi;

use super::child::Offer;
use super::ctx::Ctx;
use super::sa::{Attempt, IkeSa, Life, Reply};
use crate::error::Cause;
use crate::wire::{Body, Proposal, notify, protocol};

/// Our request for a CHILD SA, in flight.
pub(crate) struct ChildExchange {
    pub(crate) offer: Offer,
    /// Inbound SPI of the SA to be replaced.
    pub(crate) replaces: Option<Spi>,
    nonce: Vec<u8>,
    pair: Option<KeyPair>,
    attempt: Attempt,
    /// The peer rekeyed the same SA meanwhile.
    met: Option<Met<Spi>>,
}

/// Our request for a rekeyed IKE SA, in flight.
pub(crate) struct IkeExchange {
    spi: u64,
    nonce: Vec<u8>,
    pair: KeyPair,
    offered: Vec<Proposal>,
    attempt: Attempt,
    /// The peer rekeyed the IKE SA meanwhile.
    pub(crate) met: Option<Met<u64>>,
}

/// What the peer's exchange made, and the lower of its two nonces.
pub(crate) struct Met<K> {
    pub(crate) key: K,
    lowest: Vec<u8>,
}

/// RFC 7296 2.8.1: the SA of the exchange with the lowest of the four nonces goes. Both sides see the same.
fn ours_loses(ours: &[u8], theirs: &[u8]) -> bool {
    ours < theirs
}

/// Other groups that a peer may ask for, one after the other.
const MAX_REGROUPED: u32 = 3;

impl Attempt {
    /// The attempt after INVALID_KE_PAYLOAD, if the group may be tried.
    fn regrouped(
        self,
        body: &Body<'_>,
        current: Option<DhGroup>,
        allowed: &[DhGroup],
    ) -> Result<Self, Cause> {
        let data = body.notify(notify::INVALID_KE_PAYLOAD).map(|n| n.data).unwrap_or_default();
        let wanted = <[u8; 2]>::try_from(data).map_or(0, u16::from_be_bytes);
        let group = DhGroup::from_iana(wanted).filter(|g| allowed.contains(g) && Some(*g) != current);
        match group {
            Some(group) if self.regrouped < MAX_REGROUPED => {
                Ok(Self { group: Some(group), regrouped: self.regrouped + 1 })
            }
            _ => Err(Cause::GroupRefused(wanted)),
        }
    }
}

/// The key agreement of an answer to our request.
fn agree(pair: KeyPair, body: &Body<'_>) -> Result<SharedSecret, Cause> {
    let (group, value) = body.ke().ok_or(Cause::MissingPayload("KE"))?;
    if group == pair.group().iana() { Ok(pair.agree(value)?) } else { Err(Cause::WrongChoice) }
}

impl IkeSa {
    /// Takes over what was configured since the last negotiation.
    fn refresh_config(&mut self, ctx: &Ctx<'_>) {
        if let Some(config) = ctx.peers.get(self.tunnel) {
            self.config = Arc::clone(config);
        }
    }

    /// When to try again what failed, given when it must have succeeded.
    fn retry_at(ctx: &mut Ctx<'_>, hard: Instant) -> Instant {
        let patience = ctx.jittered(Duration::from_secs(15), 0.6);
        let left = hard.saturating_duration_since(ctx.now) / 4;
        ctx.now + patience.min(left).max(Duration::from_secs(1))
    }

    /// A CREATE_CHILD_SA request.
    pub(crate) fn on_create_child(&mut self, ctx: &mut Ctx<'_>, body: &Body<'_>) -> Reply {
        // RFC 7296 2.25.2: nothing new on an IKE SA that is being closed or is replaced.
        if self.life != Life::Serving {
            return Reply::notify(notify::TEMPORARY_FAILURE, &[]);
        }
        let Some(offers) = body.sa() else { return Reply::notify(notify::INVALID_SYNTAX, &[]) };
        self.refresh_config(ctx);
        if offers.iter().any(|p| p.protocol == protocol::IKE) {
            self.on_rekey_ike(ctx, body, offers)
        } else {
            self.on_child_request(ctx, body)
        }
    }
}
