//! Health checks, failover and return: tunnels whose paths fail and mend in every order, on virtual time.

use std::collections::BTreeMap;

use super::*;

const INTERVAL: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(1);
const RETRIES: u32 = 3;
const HOLD: Duration = Duration::from_secs(10);
/// Failover with these must not take longer (interval x retries + 1 s).
const BOUND: Duration = Duration::from_secs(10);
const TRIP: Duration = Duration::from_millis(20);
const NEGOTIATION: Duration = Duration::from_millis(100);
/// Until the IKE core gives a peer up that does not answer it.
const DEAD: Duration = Duration::from_secs(30);

fn health() -> HealthPlan {
    HealthPlan { interval: INTERVAL, timeout: TIMEOUT, retries: RETRIES, action: HealthAction::Demote }
}

fn tunnel(id: u32, weight: u32, health: Option<HealthPlan>) -> TunnelPlan {
    TunnelPlan {
        id: TunnelId(id),
        weight,
        start: Start::Immediate,
        dead_peer: DeadPeerAction::Restart,
        enabled: true,
        health,
        probe: None,
        back: Return::After(HOLD),
        reverse: Vec::new(),
    }
}

fn connection(tunnels: Vec<TunnelPlan>) -> ConnectionPlan {
    ConnectionPlan {
        environment: "default".into(),
        name: "site".into(),
        remote: vec!["10.2.0.0/16".parse().unwrap()],
        dynamic: false,
        balance: false,
        tunnels,
    }
}

/// The world outside the gateway: paths, peers, and the kernel's routes.
struct World {
    gateway: Gateway,
    now: Instant,
    began: Instant,
    paths: BTreeMap<TunnelId, Path>,
    /// What comes to pass, by time and order.
    agenda: BTreeMap<(Instant, u64), Input>,
    count: u64,
    routes: BTreeMap<(IpNet, u32), Via>,
    moves: Vec<(Duration, Vec<TunnelId>)>,
    spi: u32,
}

#[derive(Clone, Copy)]
struct Path {
    carries: bool,
    since: Instant,
    /// The CHILD SA that both sides have.
    child: Option<Spi>,
}

impl World {
    fn new(plan: ConnectionPlan) -> Self {
        let now = Instant::now();
        let path = |t: &TunnelPlan| (t.id, Path { carries: true, since: now, child: None });
        let mut world = Self {
            gateway: Gateway::new(),
            now,
            began: now,
            paths: plan.tunnels.iter().map(path).collect(),
            agenda: BTreeMap::new(),
            count: 0,
            routes: BTreeMap::new(),
            moves: Vec::new(),
            spi: 256,
        };
        world.handle(Input::Set(plan));
        world
    }

    fn handle(&mut self, input: Input) {
        self.gateway.handle(self.now, input);
        self.drain();
    }

    fn later(&mut self, wait: Duration, input: Input) {
        self.count += 1;
        self.agenda.insert((self.now + wait, self.count), input);
    }

    fn drain(&mut self) {
        loop {
            match self.gateway.poll() {
                Output::Deadline(..) | Output::Idle => break,
                Output::AddRoute(route) => {
                    self.routes.insert((route.destination, route.metric), route.via);
                }
                Output::RemoveRoute(route) => {
                    assert!(self.routes.remove(&(route.destination, route.metric)).is_some(), "{route:?}");
                }
                Output::Initiate(id) => self.negotiate(id),
                Output::Terminate(id) => {
                    if let Some(spi) = self.paths.get_mut(&id).and_then(|path| path.child.take()) {
                        self.later(Duration::ZERO, Input::ChildDown(id, spi, Loss::Local, "local".into()));
                    }
                }
                Output::Probe(id, sequence) => {
                    let path = self.paths[&id];
                    assert!(path.child.is_some(), "a probe through a tunnel that is down");
                    if path.carries {
                        self.later(TRIP, Input::Probed(id, sequence, Ok(TRIP)));
                    }
                }
                Output::Moved { to, .. } => self.moves.push((self.now - self.began, to)),
                Output::AskPeer(_) | Output::Changed(..) | Output::HealthChanged(..) => {}
            }
        }
    }

    fn negotiate(&mut self, id: TunnelId) {
        if self.paths[&id].carries {
            self.spi += 1;
            self.later(NEGOTIATION, Input::ChildUp(id, Spi::new(self.spi).unwrap()));
        } else {
            self.later(DEAD, Input::Lost(id, Loss::Failed, "no answer".into()));
        }
    }

    fn path(&mut self, id: TunnelId, carries: bool) {
        let path = self.paths.get_mut(&id).unwrap();
        (path.carries, path.since) = (carries, self.now);
        if !carries && let Some(spi) = path.child {
            self.later(DEAD, Input::ChildDown(id, spi, Loss::PeerDead, "dead".into()));
        }
    }

    /// Lets this much time pass, and looks at every moment of it.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let agenda = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let deadline = match self.gateway.poll() {
                Output::Deadline(at, _) => Some(at),
                _ => None,
            };
            let Some(next) = agenda.into_iter().chain(deadline).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if agenda == Some(next) {
                let ((_, _), input) = self.agenda.pop_first().unwrap();
                self.come(input);
            } else {
                self.gateway.handle_timeout(self.now);
                self.drain();
            }
            self.check();
        }
        self.now = end;
    }

    fn come(&mut self, input: Input) {
        match &input {
            Input::ChildUp(id, spi) => {
                let path = self.paths.get_mut(id).unwrap();
                if !path.carries {
                    return self.later(DEAD, Input::Lost(*id, Loss::Failed, "no answer".into()));
                }
                path.child = Some(*spi);
            }
            Input::ChildDown(id, spi, Loss::PeerDead, _) => {
                let path = self.paths.get_mut(id).unwrap();
                // It answered in time after all, or has another SA by now.
                if path.child != Some(*spi) || path.carries && path.since + DEAD > self.now {
                    return;
                }
                path.child = None;
            }
            _ => {}
        }
        self.handle(input);
    }

    fn carrier(&self) -> Option<TunnelId> {
        match self.routes.values().next()? {
            Via::Tunnel(id) => Some(*id),
            Via::Tunnels(several) => several.first().map(|(id, _)| *id),
            Via::Unreachable => None,
        }
    }

    /// What must be so at every moment.
    fn check(&self) {
        let floor = ("10.2.0.0/16".parse().unwrap(), UNREACHABLE_METRIC);
        assert!(self.routes.contains_key(&floor), "protected traffic could leave in clear");
        let Some(carrier) = self.carrier() else { panic!("no route at all") };
        let path = self.paths[&carrier];
        let works = |p: &Path| p.carries && p.child.is_some();
        // Whether another one has worked all the time that this one has not, and before, so that it was known to.
        let bound = if self.gateway.health(carrier).is_some() { BOUND } else { DEAD };
        let long = self.now.saturating_duration_since(path.since) > bound;
        let mut others = self.paths.iter().filter(|(id, _)| **id != carrier);
        let better = others.find(|(_, p)| works(p) && p.since + BOUND < path.since);
        let late = !path.carries && long && better.is_some_and(|(id, _)| self.is_known(*id));
        assert!(
            !late,
            "{:?}: traffic is still sent into {carrier:?}: {:?}",
            self.now - self.began,
            self.moves
        );
    }

    fn is_known(&self, id: TunnelId) -> bool {
        self.gateway.health(id).is_none_or(|h| h.verdict == Verdict::Healthy && h.since + BOUND < self.now)
    }
}

/// Every order in which each of so many tunnels fails and then mends.
fn orders(tunnels: u32) -> Vec<Vec<(TunnelId, bool)>> {
    fn go(state: &mut Vec<u8>, done: &mut Vec<(TunnelId, bool)>, all: &mut Vec<Vec<(TunnelId, bool)>>) {
        if done.len() == 2 * state.len() {
            all.push(done.clone());
        }
        for index in 0..state.len() {
            if state[index] < 2 {
                done.push((TunnelId(index as u32 + 1), state[index] == 1));
                state[index] += 1;
                go(state, done, all);
                state[index] -= 1;
                done.pop();
            }
        }
    }
    let mut all = Vec::new();
    go(&mut vec![0; tunnels as usize], &mut Vec::new(), &mut all);
    all
}

/// Fails and mends in every order, with this much time between, and says how many orders there were.
fn every_order(tunnels: u32, pause: Duration, health: Option<HealthPlan>) -> usize {
    let weights = [100, 50, 20, 0];
    let plans = || (1..=tunnels).map(|id| tunnel(id, weights[id as usize - 1], health)).collect();
    let all = orders(tunnels);
    for order in &all {
        let mut world = World::new(connection(plans()));
        world.run(Duration::from_secs(60));
        assert_eq!(world.carrier(), Some(TunnelId(1)), "before anything failed");
        world.moves.clear();
        for (id, carries) in order {
            world.path(*id, *carries);
            world.run(pause);
        }
        // Negotiation waits a minute at most, and the traffic as long as damping says.
        world.run(Duration::from_secs(400));
        assert_eq!(world.carrier(), Some(TunnelId(1)), "{order:?}: {:?}", world.moves);
        assert!((1..=tunnels).all(|id| world.gateway.state(TunnelId(id)).unwrap().state == State::Up));
        assert!(world.moves.len() <= 2 * order.len(), "{order:?}: {:?}", world.moves);
    }
    all.len()
}

#[test]
fn every_order_of_failures_of_two_tunnels() {
    for milliseconds in [0, 500, 2_999, 9_500, 31_000, 100_000] {
        let pause = Duration::from_millis(milliseconds);
        assert_eq!(every_order(2, pause, Some(health())), 6);
        assert_eq!(every_order(2, pause, None), 6);
    }
}

#[test]
fn every_order_of_failures_of_four_tunnels() {
    for milliseconds in [500, 9_500, 45_000] {
        assert_eq!(every_order(4, Duration::from_millis(milliseconds), Some(health())), 2520);
    }
}

#[test]
fn a_dead_path_moves_the_traffic_in_time_and_a_mended_one_gets_it_back_after_its_wait() {
    let mut world =
        World::new(connection(vec![tunnel(1, 100, Some(health())), tunnel(2, 0, Some(health()))]));
    // Just after a probe was answered: the worst moment.
    world.run(Duration::from_millis(60_125));
    world.moves.clear();
    world.path(TunnelId(1), false);
    world.run(Duration::from_secs(20));
    let [(at, to)] = &world.moves[..] else { panic!("{:?}", world.moves) };
    assert_eq!(to, &[TunnelId(2)]);
    assert!(*at - Duration::from_millis(60_125) <= BOUND, "{at:?}");
    world.path(TunnelId(1), true);
    world.run(Duration::from_secs(9 + 10));
    let (back, to) = world.moves.last().unwrap();
    assert_eq!(to, &[TunnelId(1)], "{:?}", world.moves);
    // Three answers, then ten seconds.
    assert!(*back >= Duration::from_millis(60_125 + 20_000 + 6_000 + 10_000 - 3_000), "{back:?}");
}

#[test]
fn probes_each_tenth_of_a_second_move_the_traffic_within_half_a_second() {
    let fast = HealthPlan {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(100),
        retries: 3,
        action: HealthAction::Demote,
    };
    for millisecond in 0..100 {
        let mut world = World::new(connection(vec![tunnel(1, 100, Some(fast)), tunnel(2, 0, Some(fast))]));
        world.run(Duration::from_millis(5_000 + millisecond));
        world.moves.clear();
        let cut = world.now - world.began;
        world.path(TunnelId(1), false);
        world.run(Duration::from_millis(500));
        assert_eq!(world.carrier(), Some(TunnelId(2)), "cut at {cut:?}");
    }
}

/// The lighter tunnel is up first and answered first: the traffic moves once, to the heavier when that is answered.
#[test]
fn the_order_of_a_start_moves_the_traffic_once() {
    let (light, heavy) = (tunnel(1, 0, Some(health())), tunnel(2, 100, Some(health())));
    let mut world = World::new(connection(vec![light, heavy]));
    world.run(Duration::from_secs(30));
    let to: Vec<_> = world.moves.iter().map(|(_, to)| to.clone()).collect();
    assert_eq!(to, [vec![TunnelId(1)], vec![TunnelId(2)]], "{:?}", world.moves);
}

#[test]
fn a_path_that_flaps_keeps_the_traffic_away_longer_each_time() {
    let mut world =
        World::new(connection(vec![tunnel(1, 100, Some(health())), tunnel(2, 0, Some(health()))]));
    world.run(Duration::from_secs(60));
    world.moves.clear();
    for _ in 0..30 {
        world.path(TunnelId(1), false);
        world.run(Duration::from_secs(12));
        world.path(TunnelId(1), true);
        world.run(Duration::from_secs(48));
    }
    // Undamped it would have moved sixty times.
    assert!(world.moves.len() <= 8, "{:?}", world.moves);
    assert_eq!(world.carrier(), Some(TunnelId(2)));
    world.run(Duration::from_secs(700));
    assert_eq!(world.carrier(), Some(TunnelId(1)), "it is not banished for ever");
}

#[test]
fn where_every_check_fails_the_heaviest_carries_on() {
    // The target may be what is broken: traffic is better sent than not.
    let mut world =
        World::new(connection(vec![tunnel(1, 100, Some(health())), tunnel(2, 0, Some(health()))]));
    world.run(Duration::from_secs(60));
    for id in [2, 1] {
        world.path(TunnelId(id), false);
        world.run(Duration::from_secs(1));
    }
    world.run(Duration::from_secs(15));
    assert_eq!(world.gateway.fitness(TunnelId(1)).unwrap().0, Fitness::Sick);
    assert_eq!(world.gateway.carriers("site"), [TunnelId(1)]);
}

#[test]
fn a_manual_return_waits_for_the_operator() {
    let manual = |id, weight| TunnelPlan { back: Return::Manual, ..tunnel(id, weight, Some(health())) };
    let mut world = World::new(connection(vec![manual(1, 100), manual(2, 0)]));
    world.run(Duration::from_secs(60));
    world.path(TunnelId(1), false);
    world.run(Duration::from_secs(15));
    world.path(TunnelId(1), true);
    world.run(Duration::from_secs(3600));
    assert_eq!(world.carrier(), Some(TunnelId(2)));
    world.handle(Input::Release(TunnelId(1)));
    assert_eq!(world.carrier(), Some(TunnelId(1)));
}

#[test]
fn balanced_traffic_goes_through_every_fit_tunnel_with_a_weight() {
    let plans = vec![tunnel(1, 100, Some(health())), tunnel(2, 50, Some(health())), tunnel(3, 0, None)];
    let mut world = World::new(ConnectionPlan { balance: true, ..connection(plans) });
    world.run(Duration::from_secs(60));
    let via = |world: &World| world.routes.values().next().unwrap().clone();
    assert_eq!(via(&world), Via::Tunnels(vec![(TunnelId(1), 100), (TunnelId(2), 50)]));
    world.path(TunnelId(2), false);
    world.run(BOUND);
    assert_eq!(via(&world), Via::Tunnel(TunnelId(1)));
    world.path(TunnelId(1), false);
    world.run(BOUND);
    assert_eq!(via(&world), Via::Tunnel(TunnelId(3)), "the one without a weight stands by");
}

#[test]
fn answers_to_the_peers_checks_go_back_through_the_tunnel_they_came_by() {
    let source: IpNet = "100.64.1.1/32".parse().unwrap();
    let mut plans = vec![tunnel(1, 100, None), tunnel(2, 0, None)];
    plans[1].reverse = vec![source];
    let mut world = World::new(connection(plans));
    world.run(Duration::from_secs(5));
    assert_eq!(world.gateway.carriers("site"), [TunnelId(1)]);
    let reverse: Vec<_> = world.routes.iter().filter(|((net, _), _)| *net == source).collect();
    assert_eq!(reverse[0].1, &Via::Tunnel(TunnelId(2)));
    assert_eq!(reverse[1].1, &Via::Unreachable);
}

#[test]
fn traffic_leaves_a_tunnel_before_its_sas_do() {
    let mut gateway = Gateway::new();
    let now = Instant::now();
    gateway.handle(now, Input::Set(connection(vec![tunnel(1, 100, None), tunnel(2, 0, None)])));
    for id in [1, 2] {
        gateway.handle(now, Input::ChildUp(TunnelId(id), Spi::new(255 + id).unwrap()));
    }
    while !matches!(gateway.poll(), Output::Idle | Output::Deadline(..)) {}
    gateway.handle(now, Input::Disable(TunnelId(1)));
    let first = gateway.poll();
    assert!(matches!(&first, Output::AddRoute(r) if r.via == Via::Tunnel(TunnelId(2))), "{first:?}");
}

#[test]
fn loss_and_latency_are_those_of_the_window() {
    let now = Instant::now();
    let mut health = crate::health::Health::new(now, health());
    health.start(now);
    let mut at = now;
    for round in 0..250 {
        let sequence = health.on_timeout(at).unwrap();
        let outcome = if round % 10 == 0 { Err("refused".to_owned()) } else { Ok(TRIP) };
        health.on_probed(at, sequence, outcome);
        at += INTERVAL;
    }
    let report = health.report();
    assert_eq!((report.window.len(), report.sent, report.lost), (100, 250, 25));
    assert_eq!((report.loss(), report.latency()), (Some(10), Some(TRIP)));
    assert_eq!((report.verdict, report.cause.as_deref()), (Verdict::Healthy, Some("refused")));
}
