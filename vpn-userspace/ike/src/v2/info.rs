//! INFORMATIONAL (RFC 7296 1.4): deletes and liveness; both roles.

use std::net::SocketAddr;

use culvert_types::Spi;

use super::child::State;
use super::ctx::{Ctx, log};
use super::mobike::Moved;
use super::sa::{IkeSa, Pending, Reply};
use crate::error::{Cause, Phase};
use crate::wire::{Body, Chain, Delete, Exchange, Payload, notify, protocol};
use crate::{DownReason, Event};

fn delete_esp(chain: &mut Chain, spis: &[u8]) {
    chain.push(&Payload::Delete(Delete { protocol: protocol::ESP, spi_len: 4, spis }));
}

impl IkeSa {
    pub(crate) fn start_delete_child(&mut self, ctx: &mut Ctx<'_>, inbound: Spi, reason: DownReason) {
        // The peer may have deleted it while this waited.
        if self.child(inbound).is_none() {
            return;
        }
        let mut chain = Chain::new();
        delete_esp(&mut chain, &inbound.to_bytes());
        self.request(ctx, Exchange::Informational, &chain, Pending::DeleteChild(inbound, reason));
    }

    pub(crate) fn start_delete_stray(&mut self, ctx: &mut Ctx<'_>, inbound: Spi) {
        let mut chain = Chain::new();
        delete_esp(&mut chain, &inbound.to_bytes());
        self.request(ctx, Exchange::Informational, &chain, Pending::DeleteStray);
        ctx.spis.release(inbound);
    }

    /// RFC 7296 1.4.1: the delete of an IKE SA names no SPI and takes its children along.
    pub(crate) fn start_delete_ike(&mut self, ctx: &mut Ctx<'_>) {
        self.request(ctx, Exchange::Informational, &farewell(), Pending::DeleteIke);
    }

    /// A request, which came to the first of these from the second: an empty one asks whether we live.
    pub(crate) fn on_informational(
        &mut self,
        ctx: &mut Ctx<'_>,
        body: &Body<'_>,
        ends: (SocketAddr, SocketAddr),
    ) -> Reply {
        if body.deletes().any(|d| d.protocol == protocol::IKE) {
            // RFC 7296 1.4.1: acknowledged by an empty answer.
            return Reply::Last(Chain::new(), DownReason::PeerDeleted);
        }
        if body.notify(notify::AUTHENTICATION_FAILED).is_some() {
            // RFC 7296 2.21.2: the initiator does not believe who we are.
            let failure = self.failure(Phase::IkeAuth, self.config.auth.local.refused());
            let ours = self.config.auth.local.describe(&self.config.local_id);
            ctx.failed(failure.offered(ours, ""));
            return Reply::Last(Chain::new(), DownReason::AuthenticationFailed);
        }
        if body.notify(notify::INVALID_SYNTAX).is_some() {
            ctx.failed(self.failure(Phase::Informational, Cause::Refused(notify::INVALID_SYNTAX)));
            return Reply::Last(Chain::new(), DownReason::PeerError);
        }
        let mut answer = Vec::new();
        let named: Vec<u32> = body.deletes().flat_map(Delete::esp_spis).collect();
        for spi in named {
            self.peer_deleted(ctx, spi, &mut answer);
        }
        let mut chain = Chain::new();
        if !answer.is_empty() {
            delete_esp(&mut chain, &answer);
        }
        if let Moved::Refused(kind) = self.on_mobility(ctx, body, ends, &mut chain) {
            return Reply::notify(kind, &[]);
        }
        Reply::Answer(chain)
    }

    /// The peer deletes the SA with this SPI, which is our outbound one; ours goes into the answer.
    fn peer_deleted(&mut self, ctx: &mut Ctx<'_>, outbound: u32, answer: &mut Vec<u8>) {
        let Some(child) = self.children.iter().find(|c| c.outbound.value() == outbound) else {
            // It may be that of the SA which we have asked for: this has overtaken the answer.
            if let Some(Pending::Child(exchange)) = &mut self.pending {
                exchange.note_deleted(outbound);
            }
            log!(debug, self.config.name, "the peer deleted SPI {outbound:08x}, which is not here");
            return;
        };
        let (inbound, state, replaces, ours) = (child.inbound, child.state, child.replaces, child.ours);
        // RFC 7296 1.4.1: when both delete at the same time, neither names the SA in its answer.
        if state != State::Deleting {
            answer.extend_from_slice(&inbound.to_bytes());
        }
        self.drop_child(ctx, inbound, DownReason::PeerDeleted);
        if state == State::Live {
            self.revive(ctx, replaces);
            self.lost_alone(ctx.now, ours);
        }
    }

    /// The peer took back the SA that it had rekeyed this one into: this one serves again.
    fn revive(&mut self, ctx: &mut Ctx<'_>, old: Option<Spi>) {
        let ours = matches!(&self.pending, Some(Pending::Child(exchange)) if exchange.replaces == old);
        let Some(child) = old.filter(|_| !ours).and_then(|old| self.child(old)) else { return };
        if child.state == State::Replaced {
            child.state = State::Live;
            child.soft = Some(Self::retry_at(ctx, child.hard));
            let inbound = child.inbound;
            ctx.event(Event::OutboundReady { tunnel: self.tunnel, inbound });
        }
    }

    /// The children's outbound sides are the ones to use, after another IKE SA of the tunnel went.
    pub(crate) fn use_children(&self, ctx: &mut Ctx<'_>) {
        for child in self.children.iter().filter(|c| c.state == State::Live && c.outbound_due.is_none()) {
            ctx.event(Event::OutboundReady { tunnel: self.tunnel, inbound: child.inbound });
        }
    }
}

/// The delete of an IKE SA.
pub(crate) fn farewell() -> Chain {
    let mut chain = Chain::new();
    chain.push(&Payload::Delete(Delete { protocol: protocol::IKE, spi_len: 0, spis: &[] }));
    chain
}
