//! Looks at what the programs counted, and makes events of it: limits, peers that moved, tunnels without an SA that
//! somebody wants to use, paths that carry less. Forgets SAs that have drained.

use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_esp::icmp;
use culvert_esp::packet::Packet;
use culvert_esp::tunnel::Overhead;
use culvert_sys::esp_bpf::{FrameSender, reason::Reason, seen, set_mtu};
use culvert_sys::wan::route_mtu;
use culvert_types::{Spi, TunnelId};

use super::tunnel::{Behind, Pair, Warned};
use super::{ETHERNET_MTU, IPV6_MIN_MTU, MAX_INNER, Shared, State};
use crate::user::rate::RateLimit;
use crate::{DataplaneError, DataplaneEvent};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// Paths that are asked for their MTU at one look, in turn: up to 80 SAs each is asked once per second.
const PATHS: usize = 8;
/// At most one trigger for a tunnel in this time.
const TRIGGER: Duration = Duration::from_secs(1);
/// No more refused packets than these are taken out of the ring at one look.
const MOST_REFUSED: usize = 2000;
/// Sequence numbers of 32 bits leave the peer an eighth, in which it must have rekeyed.
const SOFT_SEQUENCE: u64 = u32::MAX as u64 - (u32::MAX / 8) as u64;

/// The thread that watches, in the network namespace of the thread that started it.
pub(super) struct Watch {
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, DataplaneError> {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            run(&shared, &stopped);
            shared.remove_interfaces();
        };
        let thread = std::thread::Builder::new().name("cv-bpf".to_owned()).spawn(run);
        Ok(Self { stop, thread: Some(thread.map_err(DataplaneError::Worker)?) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs until it is told to stop.
fn run(shared: &Shared, stopped: &mpsc::Receiver<()>) {
    let mut turn = 0;
    let mut answers = Answers::new(shared);
    while stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
        let now = Instant::now();
        let (paths, all) = look(shared, now, turn);
        turn = if turn + PATHS < all { turn + PATHS } else { 0 };
        for (tunnel, overhead, local, remote) in paths {
            fit_mtu(shared, tunnel, overhead, local, remote);
        }
        answers.give(shared, now);
    }
}

/// What is said to those whose packets no selector takes.
struct Answers {
    sender: Option<FrameSender>,
    limit: RateLimit,
}

impl Answers {
    fn new(shared: &Shared) -> Self {
        let sender = FrameSender::new().inspect_err(|error| shared.fault(None, error)).ok();
        Self { sender, limit: RateLimit::new(100, 50) }
    }

    /// Answers what was refused since the last look, as the engine `user` does: in the name of the destination. What is
    /// too much is let go.
    fn give(&mut self, shared: &Shared, now: Instant) {
        let mut state = shared.state();
        let State { esp, tunnels, .. } = &mut *state;
        let Self { sender, limit } = self;
        let mut answer = |interface: u32, bytes: &[u8]| {
            let tunnel = tunnels.values().find(|t| t.link.index() == interface)?;
            let Behind::Back(_, back) = &tunnel.behind else { return None };
            let sender = sender.as_ref().filter(|_| limit.allow(now))?;
            let error = icmp::unreachable(bytes, Packet::parse(bytes).ok()?.destination())?;
            // Best effort, as ICMP is.
            sender.receive(*back, &error).ok()
        };
        for _ in 0..MOST_REFUSED {
            if esp.refused(&mut answer).is_none() {
                break;
            }
        }
    }
}

type Path = (TunnelId, Overhead, IpAddr, IpAddr);

/// One look; returns the paths whose MTU is to be asked for, beginning with this one in the order of turns, and how many
/// there are.
fn look(shared: &Shared, now: Instant, turn: usize) -> (Vec<Path>, usize) {
    let mut state = shared.state();
    let due: Vec<_> = state.draining.extract_if(.., |(until, _, _)| *until <= now).collect();
    for (_, spi, pair) in due {
        if let Err(error) = state.forget(spi, &pair) {
            shared.fault(Some(pair.tunnel), &error);
        }
    }
    let State { esp, tunnels, pairs, .. } = &mut *state;
    for tunnel in tunnels.values_mut() {
        if let Behind::User(user) = &tunnel.behind
            && tunnel.mtu != user.mtu() as u32
        {
            tunnel.mtu = user.mtu() as u32;
            if let Err(error) = tunnel.tell(esp, pairs) {
                shared.fault(Some(tunnel.id), &error);
            }
        }
        let counted = esp.tunnel_drops(tunnel.link.index()).unwrap_or_default();
        let unserved = counted.iter().find(|(name, _)| *name == "no-outbound-sa").map_or(0, |(_, n)| *n);
        let due = tunnel.triggered.is_none_or(|at| now.duration_since(at) >= TRIGGER);
        if unserved != tunnel.unserved && due {
            tunnel.unserved = unserved;
            tunnel.triggered = Some(now);
            shared.send(DataplaneEvent::Trigger { tunnel: tunnel.id });
        }
    }
    let mut paths = Vec::new();
    let all = pairs.len();
    for (index, (spi, pair)) in pairs.iter_mut().enumerate() {
        if let Ok(Some(out)) = esp.outbound(pair.slot) {
            check_limits(shared, *spi, pair, out.sequence, out.bytes);
            let too_big = out.drops[Reason::WanTooBig as usize];
            if (turn..turn + PATHS).contains(&index) || too_big != pair.too_big {
                pair.too_big = too_big;
                paths.push((pair.tunnel, pair.overhead, pair.path.local.ip(), pair.path.remote.ip()));
            }
        }
        if let Ok(Some(inbound)) = esp.inbound(*spi) {
            // RFC 7296 2.23: only an authentic packet moves the peer, and only the newest one.
            if let Some(to) = seen(&inbound)
                && to != pair.path.remote
                && pair.seen != Some(to)
            {
                pair.seen = Some(to);
                let (inbound, from) = (*spi, pair.path.remote);
                shared.send(DataplaneEvent::PeerMoved { inbound, from, to });
            }
            if !pair.esn && pair.warned == Warned::Nothing && inbound.window.highest >= SOFT_SEQUENCE {
                pair.warned = Warned::Soft;
                shared.send(DataplaneEvent::SoftLimit { inbound: *spi });
            }
        }
    }
    (paths, all)
}

fn check_limits(shared: &Shared, inbound: Spi, pair: &mut Pair, sequence: u64, bytes: u64) {
    let limits = &pair.limits;
    let hard = sequence >= limits.hard_packets || bytes >= limits.hard_bytes;
    let soft = sequence >= limits.soft_packets || bytes >= limits.soft_bytes;
    if soft && pair.warned < Warned::Soft {
        pair.warned = Warned::Soft;
        shared.send(DataplaneEvent::SoftLimit { inbound });
    }
    if hard && pair.warned < Warned::Hard {
        pair.warned = Warned::Hard;
        shared.send(DataplaneEvent::HardLimit { inbound });
    }
}

/// Has the tunnel's MTU follow what the kernel knows of the path: its route, and what routers on it have said.
pub(super) fn fit_mtu(shared: &Shared, id: TunnelId, overhead: Overhead, local: IpAddr, remote: IpAddr) {
    let outer = route_mtu(local, remote).map_or(ETHERNET_MTU, |mtu| mtu as usize);
    let (interface, mtu) = {
        let mut state = shared.state();
        let State { esp, tunnels, pairs, .. } = &mut *state;
        let Some(tunnel) = tunnels.get_mut(&id) else { return };
        let floor = if tunnel.ipv6 { IPV6_MIN_MTU } else { 0 };
        let mtu = (overhead.inner_mtu(outer) as u32).max(floor).min(MAX_INNER);
        if tunnel.fixed_mtu || tunnel.mtu == mtu {
            return;
        }
        tunnel.mtu = mtu;
        if let Err(error) = tunnel.tell(esp, pairs) {
            shared.fault(Some(id), &error);
        }
        (tunnel.interface.clone(), mtu)
    };
    match set_mtu(&interface, mtu) {
        Ok(()) => shared.send(DataplaneEvent::Mtu { tunnel: id, mtu }),
        Err(error) => shared.fault(Some(id), &error),
    }
}
