//! The gateway's decisions on virtual time.

use super::*;

const A: TunnelId = TunnelId(1);
const B: TunnelId = TunnelId(2);

struct Rig {
    gateway: Gateway,
    now: Instant,
}

impl Rig {
    fn new(start: Start, dead_peer: DeadPeerAction) -> (Self, Vec<Output>) {
        let mut rig = Self { gateway: Gateway::new(), now: Instant::now() };
        let out = rig.put(Input::Set(plan(start, dead_peer, &[(A, 100), (B, 0)])));
        (rig, out)
    }

    fn put(&mut self, input: Input) -> Vec<Output> {
        self.gateway.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| match self.gateway.poll() {
            Output::Deadline(..) | Output::Idle => None,
            other => Some(other),
        })
        .collect()
    }

    fn after(&mut self, wait: Duration) -> Vec<Output> {
        self.now += wait;
        self.gateway.handle_timeout(self.now);
        self.drain()
    }

    fn state(&self, id: TunnelId) -> State {
        self.gateway.state(id).unwrap().state
    }

    fn active_route(&self) -> Via {
        self.gateway.routes().min_by_key(|r| r.metric).unwrap().via.clone()
    }
}

fn plan(start: Start, dead_peer: DeadPeerAction, tunnels: &[(TunnelId, u32)]) -> ConnectionPlan {
    let tunnel = |&(id, weight): &_| TunnelPlan {
        id,
        weight,
        start,
        dead_peer,
        enabled: true,
        health: None,
        probe: None,
        back: Return::After(Duration::ZERO),
        reverse: Vec::new(),
    };
    ConnectionPlan {
        environment: "default".into(),
        name: "site".into(),
        remote: vec!["10.2.0.0/16".parse().unwrap()],
        dynamic: false,
        balance: false,
        tunnels: tunnels.iter().map(tunnel).collect(),
    }
}

fn spi(n: u32) -> Spi {
    Spi::new(n).unwrap()
}

fn child_down(n: u32, loss: Loss) -> Input {
    Input::ChildDown(A, spi(n), loss, "test".into())
}

fn lost(id: TunnelId, loss: Loss) -> Input {
    Input::Lost(id, loss, "test".into())
}

#[test]
fn the_floor_route_is_put_before_anything_is_negotiated() {
    let (_, out) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    let floor =
        out.iter().position(|o| matches!(o, Output::AddRoute(r) if r.via == Via::Unreachable)).unwrap();
    let initiate = out.iter().position(|o| *o == Output::Initiate(A)).unwrap();
    assert!(floor < initiate, "{out:?}");
}

#[test]
fn traffic_moves_to_the_heaviest_tunnel_that_is_up_and_back() {
    let (mut rig, _) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    rig.put(Input::ChildUp(B, spi(512)));
    assert_eq!((rig.active_route(), rig.gateway.carriers("site")), (Via::Tunnel(B), &[B][..]));
    rig.put(Input::ChildUp(A, spi(513)));
    assert_eq!(rig.active_route(), Via::Tunnel(A));
    let out = rig.put(lost(A, Loss::PeerDead));
    assert_eq!(rig.active_route(), Via::Tunnel(B));
    // A replace in the kernel leaves no moment without a route: nothing is removed.
    assert!(!out.iter().any(|o| matches!(o, Output::RemoveRoute(_))), "{out:?}");
    rig.put(lost(B, Loss::PeerDead));
    assert_eq!(rig.active_route(), Via::Tunnel(A), "with nothing up, the preferred interface drops");
}

#[test]
fn a_lost_tunnel_is_negotiated_again_with_growing_waits() {
    let (mut rig, _) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    for wait in [1, 2, 4, 8] {
        let out = rig.put(lost(A, Loss::Failed));
        assert_eq!(rig.state(A), State::Waiting, "{out:?}");
        // The end of the failed IKE SA is reported too; it must not count twice.
        rig.put(lost(A, Loss::Local));
        assert!(rig.after(Duration::from_millis(wait * 1000 - 1)).is_empty());
        assert!(rig.after(Duration::from_millis(1)).contains(&Output::Initiate(A)));
    }
    rig.put(Input::ChildUp(A, spi(512)));
    assert_eq!(rig.gateway.state(A).unwrap().failures, 0);
}

#[test]
fn dead_peer_actions_do_what_they_say() {
    for (action, start, want) in [
        (DeadPeerAction::Restart, Start::Immediate, State::Waiting),
        (DeadPeerAction::Restart, Start::OnTraffic, State::Waiting),
        (DeadPeerAction::Restart, Start::Respond, State::Idle),
        (DeadPeerAction::Clear, Start::Immediate, State::Idle),
        (DeadPeerAction::Hold, Start::Immediate, State::Idle),
    ] {
        let (mut rig, _) = Rig::new(start, action);
        rig.put(Input::ChildUp(A, spi(512)));
        rig.put(child_down(512, Loss::PeerDead));
        rig.put(lost(A, Loss::PeerDead));
        assert_eq!(rig.state(A), want, "{action:?} {start:?}");
        let initiated = rig.put(Input::Traffic(A)).contains(&Output::Initiate(A));
        assert_eq!(initiated, action == DeadPeerAction::Hold, "{action:?}: traffic");
    }
}

#[test]
fn a_rekey_is_not_an_outage() {
    let (mut rig, _) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    rig.put(Input::ChildUp(A, spi(512)));
    assert_eq!(rig.put(Input::ChildUp(A, spi(513))), []);
    assert_eq!(rig.put(child_down(512, Loss::Local)), []);
    assert_eq!(rig.state(A), State::Up);
    rig.put(child_down(513, Loss::PeerClosed));
    assert_eq!(rig.state(A), State::Waiting);
    rig.put(lost(A, Loss::PeerClosed));
    assert!(rig.after(Duration::from_secs(1)).contains(&Output::Initiate(A)));
}

#[test]
fn on_traffic_waits_for_traffic_and_respond_never_starts() {
    let (mut rig, out) = Rig::new(Start::OnTraffic, DeadPeerAction::Restart);
    assert!(!out.contains(&Output::Initiate(A)));
    assert!(rig.put(Input::Traffic(A)).contains(&Output::Initiate(A)));
    assert!(!rig.put(Input::Traffic(A)).contains(&Output::Initiate(A)), "one attempt at a time");
    let (mut rig, _) = Rig::new(Start::Respond, DeadPeerAction::Restart);
    assert!(rig.put(Input::Traffic(A)).is_empty());
}

#[test]
fn a_disabled_tunnel_stays_down_even_if_the_peer_comes() {
    let (mut rig, _) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    rig.put(Input::ChildUp(A, spi(512)));
    assert!(rig.put(Input::Disable(A)).contains(&Output::Terminate(A)));
    rig.put(lost(A, Loss::Local));
    assert!(rig.put(Input::ChildUp(A, spi(514))).contains(&Output::Terminate(A)));
    assert_eq!((rig.state(A), rig.active_route()), (State::Disabled, Via::Tunnel(B)));
    rig.put(Input::Disable(B));
    assert_eq!(rig.active_route(), Via::Unreachable);
    assert!(rig.put(Input::Enable(A)).contains(&Output::Initiate(A)));
}

#[test]
fn a_tunnel_is_disabled_and_enabled_while_the_other_goes_on() {
    for start in [Start::Immediate, Start::OnTraffic, Start::Respond] {
        let (mut rig, _) = Rig::new(start, DeadPeerAction::Restart);
        rig.put(Input::ChildUp(A, spi(512)));
        rig.put(Input::ChildUp(B, spi(513)));
        let switched = |on: bool| {
            let mut plan = plan(start, DeadPeerAction::Restart, &[(A, 100), (B, 50)]);
            plan.tunnels[0].enabled = on;
            Input::Set(plan)
        };
        let out = rig.put(switched(false));
        let moved = out.iter().position(|o| matches!(o, Output::AddRoute(_)));
        let closed = out.iter().position(|o| *o == Output::Terminate(A));
        assert!(moved.is_some() && moved < closed, "traffic leaves before the SAs do: {out:?}");
        assert!(!out.contains(&Output::Terminate(B)));
        assert_eq!((rig.state(A), rig.state(B)), (State::Disabled, State::Up));
        assert_eq!(rig.put(switched(false)), [], "once is enough");
        assert_eq!(rig.put(Input::Traffic(A)), []);
        let out = rig.put(switched(true));
        assert_eq!(out.contains(&Output::Initiate(A)), start == Start::Immediate, "{out:?}");
        assert_ne!(rig.state(A), State::Disabled);
        rig.put(Input::ChildUp(A, spi(514)));
        assert_eq!((rig.state(A), rig.state(B)), (State::Up, State::Up));
    }
}

#[test]
fn removing_a_connection_takes_everything_along() {
    let (mut rig, _) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    rig.put(Input::ChildUp(A, spi(512)));
    let out = rig.put(Input::Remove("site".into()));
    assert!(out.contains(&Output::Terminate(A)) && out.contains(&Output::Terminate(B)));
    assert_eq!(out.iter().filter(|o| matches!(o, Output::RemoveRoute(_))).count(), 2);
    assert!(rig.gateway.routes().next().is_none());
    assert_eq!(rig.put(child_down(512, Loss::Local)), [], "late news of a removed tunnel");
}

#[test]
fn a_changed_configuration_keeps_the_tunnels_that_stay() {
    const C: TunnelId = TunnelId(3);
    let (mut rig, _) = Rig::new(Start::Immediate, DeadPeerAction::Restart);
    rig.put(Input::ChildUp(A, spi(512)));
    rig.put(Input::ChildUp(B, spi(513)));
    let mut changed = plan(Start::Immediate, DeadPeerAction::Restart, &[(A, 10), (B, 20)]);
    assert!(!rig.put(Input::Set(changed.clone())).contains(&Output::Initiate(A)));
    assert_eq!(
        (rig.state(A), rig.active_route()),
        (State::Up, Via::Tunnel(B)),
        "new weights move the traffic"
    );
    changed = plan(Start::Immediate, DeadPeerAction::Restart, &[(A, 10), (C, 20)]);
    changed.remote = vec!["10.3.0.0/16".parse().unwrap()];
    let out = rig.put(Input::Set(changed));
    assert!(out.contains(&Output::Terminate(B)) && out.contains(&Output::Initiate(C)), "{out:?}");
    assert!(rig.gateway.routes().all(|r| r.destination == "10.3.0.0/16".parse().unwrap()));
    assert_eq!(out.iter().filter(|o| matches!(o, Output::RemoveRoute(_))).count(), 2);
    assert_eq!(rig.active_route(), Via::Tunnel(A));
}

#[test]
fn with_a_routing_protocol_only_the_floor_stands() {
    let mut rig = Rig { gateway: Gateway::new(), now: Instant::now() };
    let mut dynamic = plan(Start::Immediate, DeadPeerAction::Restart, &[(A, 100), (B, 40)]);
    dynamic.dynamic = true;
    rig.put(Input::Set(dynamic));
    assert_eq!(rig.gateway.standing(A), Standing::Down);
    rig.put(Input::ChildUp(A, spi(512)));
    rig.put(Input::ChildUp(B, spi(513)));
    assert!(rig.gateway.routes().all(|route| route.via == Via::Unreachable));
    assert_eq!(
        (rig.gateway.standing(A), rig.gateway.standing(B)),
        (Standing::Carries, Standing::StandsBy(40))
    );
    rig.put(lost(A, Loss::PeerDead));
    assert_eq!((rig.gateway.standing(A), rig.gateway.standing(B)), (Standing::Down, Standing::Carries));
}
