//! The clocks of an established IKE SA: repetition, lifetimes, liveness, NAT keepalives.

use super::Sa;
use super::child::State;
use super::ctx::{Ctx, Effect, log};
use super::sa::{Attempt, IkeSa, Life, Pending, SUPERSEDED_LIFETIME, Task};
use crate::error::{Cause, Phase};
use crate::timer::Soonest;
use crate::window::Due;
use crate::{DownReason, EndpointConfig, Event};

impl IkeSa {
    pub(crate) fn deadlines(&self, config: &EndpointConfig, soonest: &mut Soonest) {
        // An answer that waits for a job is an answer.
        if let Some(inflight) = self.window.inflight().filter(|_| self.response.is_none()) {
            soonest.at(inflight.retransmission.deadline(), "retransmit a request");
        }
        soonest.at(self.hard, "IKE SA lifetime ends");
        if let Some(soft) = self.soft.filter(|_| self.life != Life::Closing) {
            let rekey = self.life == Life::Serving;
            soonest.at(soft, if rekey { "rekey the IKE SA" } else { "close the IKE SA" });
        }
        if self.life != Life::Serving {
            return;
        }
        self.again.iter().for_each(|(when, _)| soonest.at(*when, "ask the peer again"));
        if let Some(following) = &self.following {
            soonest.at(following.expires, "the peer's exchange is forgotten");
        }
        if let Some(reauth) = self.carried.reauth {
            soonest.at(reauth, "authenticate anew");
        }
        if let Some(when) = self.missing_at {
            soonest.at(when, "ask for missing CHILD SAs");
        }
        for child in &self.children {
            soonest.at(child.hard, "CHILD SA lifetime ends");
            if let Some(soft) = child.soft.filter(|_| child.state == State::Live) {
                soonest.at(soft, "rekey a CHILD SA");
            }
            if let Some(due) = child.outbound_due {
                soonest.at(due, "use a new outbound SA");
            }
        }
        if let (Some(dpd), None) = (self.config.dpd, self.window.inflight()) {
            soonest.at(self.last_heard + dpd.interval, "is the peer alive");
        }
        if self.path.nat_local && !config.nat_keepalive.is_zero() {
            soonest.at(self.last_sent + config.nat_keepalive, "NAT keepalive");
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        let inflight = self.window.inflight_mut().filter(|_| self.response.is_none());
        let due = inflight.map_or(Due::Nothing, |i| i.retransmission.on_timeout(ctx.now));
        match due {
            Due::Nothing => {}
            Due::Again => {
                let message = self.window.inflight().map(|i| i.message.clone());
                log!(debug, self.config.name, "repeating a request to {}", self.path.remote);
                self.last_sent = ctx.now;
                let others = self.other_paths(ctx);
                if let Some(message) = message {
                    for (local, remote) in others {
                        ctx.transmit(local, remote, message.clone());
                    }
                    ctx.send(&self.path, message);
                }
            }
            Due::GiveUp(after) => {
                if self.serves() {
                    let phase = self.pending.as_ref().map_or(Phase::Informational, Pending::phase);
                    ctx.failed(self.failure(phase, Cause::Silent(after)));
                }
                self.leave(ctx, DownReason::LivenessTimeout);
                return None;
            }
        }
        if ctx.now >= self.hard {
            if self.life != Life::Serving {
                self.leave(ctx, DownReason::Replaced);
                return None;
            }
            ctx.failed(self.failure(Phase::RekeyIke, Cause::Expired));
            self.hard = ctx.now + SUPERSEDED_LIFETIME;
            self.close(ctx, DownReason::Expired);
            return Some(Sa::Up(self));
        }
        match self.life {
            Life::Serving => self.on_clocks(ctx),
            Life::Superseded if self.soft.take_if(|soft| ctx.now >= *soft).is_some() => {
                self.close(ctx, DownReason::Replaced);
            }
            Life::Superseded | Life::Closing => {}
        }
        self.send_next(ctx);
        Some(Sa::Up(self))
    }

    fn on_clocks(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        if self.soft.take_if(|soft| now >= *soft).is_some()
            || (self.soft.is_some() && self.window.nearly_used_up())
        {
            self.soft = None;
            self.queue(Task::RekeyIke(Attempt::default()));
        }
        if self.following.as_ref().is_some_and(|f| now >= f.expires) {
            self.drop_following(ctx);
        }
        for (_, task) in self.again.extract_if(.., |(when, _)| now >= *when).collect::<Vec<_>>() {
            self.queue(task);
        }
        if let Some(due) = self.carried.reauth.filter(|due| now >= *due) {
            // Again, should it fail: until the end of this IKE SA's lifetime.
            self.carried.reauth = Some(Self::retry_at(ctx, self.hard.max(due)));
            ctx.effects.push(Effect::Reauthenticate { tunnel: self.tunnel });
        }
        if self.missing_at.is_some_and(|at| now >= at) {
            self.queue_missing(false);
        }
        let mut expired = Vec::new();
        let mut ready = Vec::new();
        let mut rekey = Vec::new();
        for child in &mut self.children {
            if now >= child.hard {
                expired.push((child.inbound, child.state));
            } else if child.state == State::Live && child.soft.take_if(|soft| now >= *soft).is_some() {
                rekey.push(child.inbound);
            }
            if child.outbound_due.take_if(|due| now >= *due).is_some() && child.state == State::Live {
                ready.push(child.inbound);
            }
        }
        for inbound in ready {
            ctx.event(Event::OutboundReady { tunnel: self.tunnel, inbound });
        }
        for inbound in rekey {
            self.queue(Task::RekeyChild(inbound, Attempt::default()));
        }
        for (inbound, state) in expired {
            if state == State::Live {
                ctx.failed(self.failure(Phase::RekeyChild, Cause::Expired));
            }
            // It must not be used from now on; the peer hears of it when the window allows.
            self.drop_child(ctx, inbound, DownReason::Expired);
            self.queue(Task::DeleteStray(inbound));
        }
        if let Some(dpd) = self.config.dpd
            && self.window.inflight().is_none()
            && now >= self.last_heard + dpd.interval
        {
            self.queue(Task::Liveness);
        }
        if self.path.nat_local
            && !ctx.config.nat_keepalive.is_zero()
            && now >= self.last_sent + ctx.config.nat_keepalive
        {
            self.last_sent = now;
            let (local, remote) = (self.path.local, self.path.remote);
            ctx.transmits.push(crate::Output::Keepalive { local, remote });
        }
    }
}
