//! Informational exchanges (RFC 2409 5.7): deletes, errors, liveness (RFC 3706). One message each way at most, and none
//! is acknowledged.

use super::sa::IkeSa;
use super::{Arrival, Sa};
use crate::DownReason;
use crate::ctx::{Ctx, log};
use crate::wire::v1::{Chain, Delete, Exchange, Notify, Payload, notify, protocol};

impl IkeSa {
    pub(crate) fn on_informational(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        arrival: &Arrival<'_>,
    ) -> Option<Sa> {
        let id = arrival.header.message_id;
        // A CONNECTED for the commit bit has the id of its quick mode: we never wait for it (RFC 2408 3.1).
        if self.seen.contains(&id) {
            return Some(Sa::Up(self));
        }
        let Some(text) = self.open_hashed(arrival) else { return Some(Sa::Up(self)) };
        let Some(body) = self.parsed(arrival, &text) else { return Some(Sa::Up(self)) };
        self.seen.insert(id);
        self.heard(ctx, arrival);
        let mut ends = false;
        for delete in body.deletes() {
            match delete.protocol {
                protocol::ESP if delete.spi_len == 4 => {
                    for spi in delete.spis.as_chunks::<4>().0 {
                        self.peer_deleted(ctx, u32::from_be_bytes(*spi));
                    }
                }
                protocol::ISAKMP => {
                    let own = [self.cookie_i.to_be_bytes(), self.cookie_r.to_be_bytes()].concat();
                    ends |= delete.spis.is_empty() || delete.spis.chunks(16).any(|spi| spi == own);
                }
                _ => log!(debug, self.config.name, "the peer deletes what is not here"),
            }
        }
        for n in body.notifies() {
            match n.kind {
                notify::DPD_ASK => self.answer_probe(ctx, n),
                notify::DPD_ACK => {}
                notify::INITIAL_CONTACT => {
                    log!(debug, self.config.name, "the peer reports INITIAL-CONTACT outside phase 1");
                }
                kind if kind < notify::STATUS => self.quick_refused(ctx, n.spi, kind),
                kind => log!(debug, self.config.name, "the peer reports status {kind}"),
            }
        }
        if ends {
            self.leave(ctx, DownReason::PeerDeleted);
            return None;
        }
        self.go_on(ctx);
        Some(Sa::Up(self))
    }

    /// RFC 3706 5.4: the answer has the number of the question.
    fn answer_probe(&mut self, ctx: &mut Ctx<'_>, ask: &Notify<'_>) {
        if ask.data.len() == 4 {
            let cookies = [self.cookie_i.to_be_bytes(), self.cookie_r.to_be_bytes()].concat();
            self.notify(ctx, protocol::ISAKMP, &cookies, notify::DPD_ACK, ask.data);
        }
    }

    /// Sends one notification.
    pub(crate) fn notify(&mut self, ctx: &mut Ctx<'_>, protocol: u8, spi: &[u8], kind: u16, data: &[u8]) {
        let mut chain = Chain::new();
        chain.push(&Payload::Notify(Notify { protocol, spi, kind, data }));
        self.send_hashed(ctx, Exchange::Informational, chain);
    }

    /// Sends the delete of SAs: ESP's have 4 bytes each, an ISAKMP SA's has both cookies.
    pub(crate) fn send_delete(&mut self, ctx: &mut Ctx<'_>, protocol: u8, spis: &[u8]) {
        let spi_len = if protocol == protocol::ISAKMP { 16 } else { 4 };
        let mut chain = Chain::new();
        chain.push(&Payload::Delete(Delete { protocol, spi_len, spis }));
        self.send_hashed(ctx, Exchange::Informational, chain);
    }

    /// The peer deletes the SA with this SPI, which is our outbound one.
    fn peer_deleted(&mut self, ctx: &mut Ctx<'_>, outbound: u32) {
        let found = self.children.iter().find(|c| c.outbound.value() == outbound).map(|c| c.inbound);
        match found {
            Some(inbound) => self.drop_child(ctx, inbound, DownReason::PeerDeleted),
            None if self.serves() => {
                log!(debug, self.config.name, "the peer deleted SPI {outbound:08x}, which is not here");
            }
            // The children went on to the SA that took this one's place.
            None => ctx.effects.push(crate::ctx::Effect::DeleteV1 { tunnel: self.tunnel, outbound }),
        }
    }
}
