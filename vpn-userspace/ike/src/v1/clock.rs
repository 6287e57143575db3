//! The clocks of an established ISAKMP SA: repetition, lifetimes, liveness (RFC 3706), NAT keepalives.

use super::Sa;
use super::child::State;
use super::sa::{IkeSa, Life, Task};
use crate::ctx::{Ctx, Effect, log};
use crate::error::{Cause, Phase};
use crate::timer::Soonest;
use crate::window::{Due, Retransmission};
use crate::wire::v1::{notify, protocol};
use crate::{DownReason, EndpointConfig};

/// A question whether the peer lives that waits for its answer.
pub(crate) struct Probe {
    sequence: u32,
    retransmission: Retransmission,
}

impl IkeSa {
    pub(crate) fn deadlines(&self, config: &EndpointConfig, soonest: &mut Soonest) {
        for quick in &self.quicks {
            soonest.at(quick.deadline(), "a quick mode");
        }
        soonest.at(self.hard, "IKE SA lifetime ends");
        if let Some(retransmission) = self.transaction.as_ref().and_then(|t| t.retransmission()) {
            soonest.at(retransmission.deadline(), "repeat a transaction");
        }
        if !self.serves() {
            return;
        }
        if let Some(soft) = self.soft {
            soonest.at(soft, "replace the IKEv1 SA");
        }
        for child in &self.children {
            soonest.at(child.hard, "CHILD SA lifetime ends");
            if let Some(soft) = child.soft.filter(|_| child.state == State::Live) {
                soonest.at(soft, "rekey a CHILD SA");
            }
            if let Some(at) = child.delete_at {
                soonest.at(at, "delete a replaced CHILD SA");
            }
        }
        match &self.probe {
            Some(probe) => soonest.at(probe.retransmission.deadline(), "repeat a liveness question"),
            None => {
                if let Some(dpd) = self.config.dpd.filter(|_| self.vendor.dpd) {
                    soonest.at(self.last_heard + dpd.interval, "is the peer alive");
                }
            }
        }
        if self.path.nat_local && !config.nat_keepalive.is_zero() {
            soonest.at(self.last_sent + config.nat_keepalive, "NAT keepalive");
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, ctx: &mut Ctx<'_>) -> Option<Sa> {
        if self.quick_clocks(ctx).is_err() && self.serves() {
            // A peer that answers liveness questions will say so; without them the silence is the answer.
            if self.vendor.dpd {
                self.ask(ctx);
            } else {
                self.leave(ctx, DownReason::LivenessTimeout);
                return None;
            }
        }
        self.transaction_clock(ctx);
        if ctx.now >= self.hard {
            match self.life {
                Life::Authenticating | Life::Configuring => {
                    self.impatience().into_iter().for_each(|failure| ctx.failed(failure));
                    self.farewell(ctx, DownReason::AuthenticationFailed);
                }
                Life::Superseded(ours) => {
                    if ours {
                        self.delete_self(ctx);
                    }
                    self.leave(ctx, DownReason::Replaced);
                }
                Life::Serving => {
                    ctx.failed(self.failure(Phase::MainMode, Cause::Expired));
                    self.farewell(ctx, DownReason::Expired);
                }
            }
            return None;
        }
        if self.serves() {
            let silent = self.probe_clock(ctx);
            if let Some(after) = silent {
                ctx.failed(self.failure(Phase::DeadPeer, Cause::Silent(after)));
                self.leave(ctx, DownReason::LivenessTimeout);
                return None;
            }
            self.on_clocks(ctx);
        }
        self.go_on(ctx);
        Some(Sa::Up(self))
    }

    fn on_clocks(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let due = self.soft.take_if(|soft| now >= *soft).is_some();
        if due || (self.soft.is_some() && self.nearly_used_up()) {
            // Should it fail, it is tried again before the hard end.
            self.soft = Some(
                now + (self.hard.saturating_duration_since(now) / 3).max(std::time::Duration::from_secs(1)),
            );
            ctx.effects.push(Effect::RenewV1 { tunnel: self.tunnel });
        }
        let mut expired = Vec::new();
        let mut old = Vec::new();
        let mut rekey = Vec::new();
        for child in &mut self.children {
            if now >= child.hard {
                expired.push((child.inbound, child.state));
            } else if child.delete_at.is_some_and(|at| now >= at) {
                old.push(child.inbound);
            } else if child.state == State::Live && child.soft.take_if(|soft| now >= *soft).is_some() {
                rekey.push((child.pair.clone(), child.inbound));
            }
        }
        for (pair, inbound) in rekey {
            self.queue(Task::Quick(pair, Some(inbound)));
        }
        for inbound in old {
            self.send_delete(ctx, protocol::ESP, &inbound.to_bytes());
            self.drop_child(ctx, inbound, DownReason::Replaced);
        }
        for (inbound, state) in expired {
            if state == State::Live {
                ctx.failed(self.failure(Phase::QuickModeRekey, Cause::Expired));
            }
            self.send_delete(ctx, protocol::ESP, &inbound.to_bytes());
            self.drop_child(ctx, inbound, DownReason::Expired);
        }
        if let Some(dpd) = self.config.dpd
            && self.vendor.dpd
            && self.probe.is_none()
            && now >= self.last_heard + dpd.interval
        {
            self.ask(ctx);
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

    /// Asks the peer whether it lives, unless a question waits for its answer or the peer does not know the question.
    pub(crate) fn ask(&mut self, ctx: &mut Ctx<'_>) {
        if self.probe.is_some() || !self.vendor.dpd {
            return;
        }
        let sequence = self.dpd_sequence;
        // RFC 3706 6: each question has a number one higher than the one before.
        self.dpd_sequence = self.dpd_sequence.wrapping_add(1);
        let timeout = self.config.dpd.map(|dpd| dpd.timeout);
        let retransmission = Retransmission::new(ctx.now, &ctx.config.retransmit, timeout);
        self.probe = Some(Probe { sequence, retransmission });
        self.send_probe(ctx, sequence);
    }

    fn send_probe(&mut self, ctx: &mut Ctx<'_>, sequence: u32) {
        let cookies = [self.cookie_i.to_be_bytes(), self.cookie_r.to_be_bytes()].concat();
        self.notify(ctx, protocol::ISAKMP, &cookies, notify::DPD_ASK, &sequence.to_be_bytes());
    }

    /// How long the peer has been silent, when that is too long.
    fn probe_clock(&mut self, ctx: &mut Ctx<'_>) -> Option<std::time::Duration> {
        let probe = self.probe.as_mut()?;
        let sequence = probe.sequence;
        match probe.retransmission.on_timeout(ctx.now) {
            Due::Nothing => None,
            Due::Again => {
                // A repetition has a message id of its own: old devices drop what they saw before.
                log!(debug, self.config.name, "repeating a liveness question to {}", self.path.remote);
                self.send_probe(ctx, sequence);
                None
            }
            Due::GiveUp(after) => Some(after),
        }
    }
}
