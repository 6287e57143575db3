//! How an established IKE SA ends: closed by us, gone with the peer, or replaced by another one of its tunnel.

use std::time::Instant;

use super::ctx::{Ctx, Effect, log};
use super::sa::{IkeSa, Life, OUTBOUND_GRACE, Pending, SUPERSEDED_LIFETIME, Task};
use crate::DownReason;
use crate::window::Window;
use crate::wire::Exchange;

impl IkeSa {
    /// Takes everything down that hangs on this IKE SA; what is left is the window.
    pub(crate) fn leave(mut self: Box<Self>, ctx: &mut Ctx<'_>, reason: DownReason) -> Window {
        self.take_down(ctx, reason);
        self.window
    }

    fn take_down(&mut self, ctx: &mut Ctx<'_>, reason: DownReason) {
        match self.pending.take() {
            Some(Pending::Child(exchange)) => ctx.spis.release(exchange.offer.inbound),
            // RFC 7296 2.25.2: the peer deleted the old one after its own rekeying: that one goes on.
            Some(Pending::Ike(exchange)) => {
                if let Some(met) = exchange.met {
                    self.hand_over(ctx, met.key);
                }
            }
            _ => {}
        }
        self.tasks.clear();
        self.again.clear();
        self.making = None;
        self.drop_following(ctx);
        self.drop_children(ctx, reason);
        if self.life == Life::Serving {
            log!(info, self.config.name, "IKE SA down: {reason}");
            ctx.effects.push(Effect::Left { tunnel: self.tunnel, key: self.key(), reason });
        }
    }

    /// Takes its CHILD SAs out.
    pub(crate) fn drop_children(&mut self, ctx: &mut Ctx<'_>, reason: DownReason) {
        while let Some(inbound) = self.children.first().map(|c| c.inbound) {
            self.drop_child(ctx, inbound, reason);
        }
    }

    /// Takes the tunnel down here and now, and asks the peer to do the same.
    pub(crate) fn close(&mut self, ctx: &mut Ctx<'_>, reason: DownReason) {
        if self.life == Life::Closing {
            return;
        }
        // What our rekeying makes at the peer must be deleted there as well: its answer is waited for.
        let rekeying =
            self.pending.take_if(|p| matches!(p, Pending::Ike(exchange) if exchange.met.is_none()));
        self.take_down(ctx, reason);
        self.life = Life::Closing;
        if rekeying.is_some() {
            self.pending = rekeying;
        } else if self.response.take().is_some() {
            // An answer that waits for a job is an answer.
            self.window.answered();
        } else if self.window.inflight().is_some() {
            self.pending = Some(Pending::Abandoned);
        }
        self.queue(Task::DeleteIke);
        self.send_next(ctx);
    }

    /// Takes the tunnel down and says so to the peer, once: nothing waits for an answer.
    pub(crate) fn farewell(mut self: Box<Self>, ctx: &mut Ctx<'_>) {
        // Whatever is in flight is not repeated: its id is used up at the peer, or the peer is not there.
        let header = self.header(Exchange::Informational, false, self.window.next_id());
        let bytes = self.protection.seal(&header, &super::info::farewell());
        ctx.send(&self.path, bytes);
        self.leave(ctx, DownReason::LocalRequest);
    }

    /// Gives the children to another IKE SA of the tunnel; the peer is to delete this one.
    pub(crate) fn hand_over(&mut self, ctx: &mut Ctx<'_>, to: u64) {
        let children = std::mem::take(&mut self.children);
        self.making = None;
        self.drop_following(ctx);
        let (keep, go): (Vec<_>, Vec<_>) = self
            .tasks
            .drain(..)
            .partition(|t| matches!(t, Task::DeleteIke | Task::Liveness | Task::RekeyIke(_)));
        self.tasks = keep.into_iter().filter(|t| *t == Task::DeleteIke).collect();
        let go = go.into_iter().chain(self.again.drain(..).map(|(_, task)| task)).collect();
        ctx.effects.push(Effect::Adopt { tunnel: self.tunnel, from: self.key(), to, children, tasks: go });
        self.supersede(ctx.now);
    }

    /// Serves no more, and is closed once the peer has certainly heard that another one does.
    pub(crate) fn close_later(&mut self, now: Instant) {
        self.supersede(now);
        self.soft = Some(now + OUTBOUND_GRACE);
    }

    /// Waits for the peer to delete this IKE SA, which serves no more.
    pub(crate) fn supersede(&mut self, now: Instant) {
        self.life = Life::Superseded;
        self.soft = None;
        self.hard = now + SUPERSEDED_LIFETIME;
    }
}
