//! One tunnel's life: idle, connecting, up, waiting to try again, disabled.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use culvert_types::Spi;

use crate::fitness::{Damping, Fitness};
use crate::health::{Health, HealthAction, HealthReport, Verdict};
use crate::{DeadPeerAction, Loss, Output, Start, TunnelPlan, backoff};

/// What a tunnel is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing: it waits for the peer, for traffic, or for the operator.
    Idle,
    /// A negotiation is under way.
    Connecting,
    /// It carries traffic.
    Up,
    /// The last attempt failed; the next one has its time.
    Waiting,
    /// The operator or the configuration took it down.
    Disabled,
}

/// State with its history, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelState {
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why it is not up, as far as known.
    pub cause: Option<String>,
    /// Attempts that failed since it was last up.
    pub failures: u32,
    /// Attempts that failed since it is known.
    pub failures_total: u64,
}

impl TunnelState {
    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.state != State::Disabled
    }
}

#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) plan: TunnelPlan,
    pub(crate) state: TunnelState,
    children: BTreeSet<Spi>,
    retry: Option<Instant>,
    health: Option<Health>,
    damping: Damping,
    /// It is one of those that carry the traffic.
    pub(crate) carries: bool,
}

type Outputs = VecDeque<Output>;

impl Tunnel {
    pub(crate) fn new(now: Instant, plan: TunnelPlan) -> Self {
        let state = if plan.enabled { State::Idle } else { State::Disabled };
        let state = TunnelState { state, since: now, cause: None, failures: 0, failures_total: 0 };
        let health = plan.health.map(|plan| Health::new(now, plan));
        let damping = Damping::new();
        Self { plan, state, children: BTreeSet::new(), retry: None, health, damping, carries: false }
    }

    /// The configuration changed; what the tunnel does goes on, unless it is enabled or disabled by that.
    pub(crate) fn set_plan(&mut self, now: Instant, plan: TunnelPlan, out: &mut Outputs) {
        let switched = (self.plan.enabled != plan.enabled).then_some(plan.enabled);
        self.health = match (self.health.take(), plan.health) {
            (Some(mut health), Some(plan)) => {
                if health.plan() != plan {
                    health.set_plan(now, plan);
                }
                Some(health)
            }
            (None, Some(plan)) => {
                let mut health = Health::new(now, plan);
                if self.state.is_up() {
                    health.start(now);
                }
                Some(health)
            }
            (_, None) => None,
        };
        self.plan = plan;
        match switched {
            Some(false) => {
                self.on_disable(now, out);
                self.state.cause = None;
            }
            Some(true) if !self.state.is_enabled() => {
                (self.state.cause, self.state.failures) = (None, 0);
                self.enter(now, State::Idle, out);
                self.start(now, out);
            }
            Some(true) | None => {}
        }
        self.judge(now);
    }

    /// How fit it is to carry traffic.
    pub(crate) fn fitness(&self) -> Fitness {
        if !self.state.is_up() {
            return Fitness::Down;
        }
        match self.health.as_ref().map(Health::verdict) {
            Some(Verdict::Unhealthy) => Fitness::Sick,
            // What carries the traffic already need not give it away while its first answer is on the way.
            Some(Verdict::Unknown) if !self.carries => Fitness::Probation,
            _ if self.damping.holds() => Fitness::Probation,
            _ => Fitness::Fit,
        }
    }

    /// What its health check knows; `None` without one.
    pub(crate) fn health(&self) -> Option<HealthReport> {
        self.health.as_ref().map(Health::report)
    }

    /// When traffic may return to it, if that is a matter of time.
    pub(crate) fn returns(&self) -> Option<Instant> {
        self.damping.deadline()
    }

    /// It carries the traffic, or is to: it need not prove itself first.
    pub(crate) fn release(&mut self, now: Instant) {
        if self.health.as_ref().is_none_or(|health| health.verdict() == Verdict::Healthy) {
            self.damping.release(now);
        }
    }

    pub(crate) fn on_probed(
        &mut self,
        now: Instant,
        sequence: u64,
        outcome: Result<std::time::Duration, String>,
        out: &mut Outputs,
    ) {
        self.with_health(now, out, |health, _, _| health.on_probed(now, sequence, outcome));
    }

    fn with_health(
        &mut self,
        now: Instant,
        out: &mut Outputs,
        change: impl FnOnce(&mut Health, &mut Outputs, &TunnelPlan),
    ) {
        let Some(health) = &mut self.health else { return };
        let before = health.verdict();
        change(health, out, &self.plan);
        let after = health.verdict();
        if before == after {
            return;
        }
        out.push_back(Output::HealthChanged(self.plan.id, after));
        let action = health.plan().action;
        self.judge(now);
        match (after, action) {
            (Verdict::Unhealthy, HealthAction::Demote) => out.push_back(Output::AskPeer(self.plan.id)),
            (Verdict::Unhealthy, HealthAction::Restart) => {
                self.children.clear();
                self.state.cause = Some("its health check failed".into());
                out.push_back(Output::Terminate(self.plan.id));
                self.recover(now, Loss::Unhealthy, out);
            }
            _ => {}
        }
    }

    /// Keeps the record of failures.
    fn judge(&mut self, now: Instant) {
        let verdict = self.health.as_ref().map(Health::verdict);
        match (self.state.is_up(), verdict) {
            (true, Some(Verdict::Unhealthy)) => self.damping.failed(now, self.plan.back),
            (true, Some(Verdict::Healthy) | None) => self.damping.well(now, self.plan.back),
            _ => {}
        }
    }

    pub(crate) fn start(&mut self, now: Instant, out: &mut Outputs) {
        if self.state.is_enabled() && self.plan.start == Start::Immediate {
            self.connect(now, out);
        }
    }

    /// The next time at which something is to be done for it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let health = self.health.as_ref().and_then(Health::deadline);
        [self.retry, health, self.damping.deadline()].into_iter().flatten().min()
    }

    pub(crate) fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        self.damping.on_timeout(now);
        self.with_health(now, out, |health, out, plan| {
            if let Some(sequence) = health.on_timeout(now) {
                out.push_back(Output::Probe(plan.id, sequence));
            }
        });
        if self.retry.is_some_and(|at| at <= now) {
            self.connect(now, out);
        }
    }

    pub(crate) fn on_child_up(&mut self, now: Instant, spi: Spi, out: &mut Outputs) {
        if !self.state.is_enabled() {
            // The peer came while the operator wants it down.
            out.push_back(Output::Terminate(self.plan.id));
            return;
        }
        self.children.insert(spi);
        self.retry = None;
        self.state.cause = None;
        self.state.failures = 0;
        self.enter(now, State::Up, out);
    }

    pub(crate) fn on_child_down(
        &mut self,
        now: Instant,
        spi: Spi,
        loss: Loss,
        cause: String,
        out: &mut Outputs,
    ) {
        if self.children.remove(&spi) && self.children.is_empty() && self.state.is_up() {
            self.state.cause = Some(cause);
            self.recover(now, loss, out);
        }
    }

    pub(crate) fn on_lost(&mut self, now: Instant, loss: Loss, cause: String, out: &mut Outputs) {
        self.children.clear();
        match self.state.state {
            State::Disabled => {}
            // The end of the IKE SA follows that of its last child, which has been dealt with.
            State::Waiting | State::Idle => {
                if loss == Loss::Failed || self.state.cause.is_none() {
                    self.state.cause = Some(cause);
                }
            }
            _ => {
                self.state.cause = Some(cause);
                self.state.failures_total += u64::from(self.state.state == State::Connecting);
                self.recover(now, loss, out);
            }
        }
    }

    pub(crate) fn on_traffic(&mut self, now: Instant, out: &mut Outputs) {
        let wanted = self.plan.start == Start::OnTraffic || self.plan.dead_peer == DeadPeerAction::Hold;
        if self.state.state == State::Idle && wanted {
            self.connect(now, out);
        }
    }

    pub(crate) fn on_enable(&mut self, now: Instant, out: &mut Outputs) {
        if !self.state.is_up() && self.state.state != State::Connecting {
            self.state.failures = 0;
            self.connect(now, out);
        }
    }

    pub(crate) fn on_disable(&mut self, now: Instant, out: &mut Outputs) {
        self.retry = None;
        self.children.clear();
        self.state.cause = Some("taken down by the operator".into());
        out.push_back(Output::Terminate(self.plan.id));
        self.enter(now, State::Disabled, out);
    }

    fn connect(&mut self, now: Instant, out: &mut Outputs) {
        self.retry = None;
        self.enter(now, State::Connecting, out);
        out.push_back(Output::Initiate(self.plan.id));
    }

    fn recover(&mut self, now: Instant, loss: Loss, out: &mut Outputs) {
        let again = match (loss, self.plan.dead_peer) {
            (Loss::PeerDead, DeadPeerAction::Clear | DeadPeerAction::Hold) => false,
            (Loss::PeerDead, DeadPeerAction::Restart) | (Loss::Unhealthy, _) => {
                self.plan.start != Start::Respond
            }
            _ => self.plan.start == Start::Immediate,
        };
        if !again {
            return self.enter(now, State::Idle, out);
        }
        self.state.failures = self.state.failures.saturating_add(1);
        self.retry = Some(now + backoff::wait(self.state.failures));
        self.enter(now, State::Waiting, out);
    }

    fn enter(&mut self, now: Instant, state: State, out: &mut Outputs) {
        if self.state.state != state {
            let was_up = self.state.is_up();
            self.state.state = state;
            match (&mut self.health, state == State::Up) {
                (Some(health), true) => health.start(now),
                (Some(health), false) => health.stop(now),
                (None, _) => {}
            }
            // The operator's wish is no failure.
            if was_up && state != State::Disabled {
                self.damping.failed(now, self.plan.back);
            }
            self.judge(now);
            self.state.since = now;
            out.push_back(Output::Changed(self.plan.id, state));
        }
    }
}
