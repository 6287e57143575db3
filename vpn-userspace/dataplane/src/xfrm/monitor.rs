//! The kernel's reports turned into events, and what was lost of them made good.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use culvert_sys::xfrm::{SaId, XfrmEvent, XfrmMonitor};
use culvert_types::{Spi, TunnelId};

use super::Shared;
use super::tunnel::{OutboundState, Scope, Tunnel};
use crate::DataplaneEvent;

/// At most one trigger per tunnel in this time. Between them the tunnel's packets meet a policy that
/// drops without a report, so that the kernel does not remember every flow that wants through.
const TRIGGER_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(mut monitor: XfrmMonitor, shared: Weak<Shared>) {
    loop {
        let report = monitor.next().await;
        let Some(shared) = shared.upgrade() else { return };
        match report {
            Ok(XfrmEvent::Expired { id, hard }) => expired(&shared, id, hard),
            Ok(XfrmEvent::PeerMoved { id, from, to }) => moved(&shared, id, from, to),
            Ok(XfrmEvent::Acquire { if_id, to }) => wanted(&shared, if_id, to),
            Ok(XfrmEvent::Overrun) => resync(&shared),
            Err(e) => {
                shared.fault(
                    None,
                    &format_args!("the kernel's reports on SAs are cut off: {e}; restart the daemon"),
                );
                return;
            }
        }
    }
}

fn send(shared: &Shared, event: DataplaneEvent) {
    let _ = shared.events.send(event);
}

/// The pair of which an SA is one half.
fn pair_of(tunnels: &[&Tunnel], id: SaId) -> Option<Spi> {
    let pairs = tunnels.iter().flat_map(|t| t.pairs.values());
    pairs.into_iter().find(|p| p.inbound_id() == id || p.outbound_id() == id).map(|p| p.inbound)
}

fn expired(shared: &Shared, id: SaId, hard: bool) {
    let state = shared.state();
    let tunnels: Vec<&Tunnel> = state.tunnels.values().collect();
    let Some(inbound) = pair_of(&tunnels, id) else { return };
    send(
        shared,
        if hard { DataplaneEvent::HardLimit { inbound } } else { DataplaneEvent::SoftLimit { inbound } },
    );
}

fn moved(shared: &Shared, id: SaId, from: SocketAddr, to: SocketAddr) {
    let state = shared.state();
    let pairs = state.tunnels.values().flat_map(|t| t.pairs.values());
    let Some(pair) = pairs.into_iter().find(|p| p.inbound_id() == id) else { return };
    // The kernel compares with the address that the SA was installed with, also after the peer's move
    // was followed.
    if pair.remote != to {
        let from = if pair.remote.port() != 0 { pair.remote } else { from };
        send(shared, DataplaneEvent::PeerMoved { inbound: pair.inbound, from, to });
    }
}

fn wanted(shared: &Arc<Shared>, if_id: u32, to: IpAddr) {
    let mut state = shared.state();
    let asks = |t: &Tunnel| if if_id == 0 { t.leads_to(to) } else { t.scope == (Scope::Interface { if_id }) };
    let Some(tunnel) = state.tunnels.values_mut().find(|t| asks(t)) else { return };
    let now = Instant::now();
    if tunnel.last_trigger.is_some_and(|last| now.duration_since(last) < TRIGGER_INTERVAL) {
        return;
    }
    tunnel.last_trigger = Some(now);
    let id = tunnel.id;
    send(shared, DataplaneEvent::Trigger { tunnel: id });
    arm(shared, tunnel, false);
    let weak = Arc::downgrade(shared);
    tokio::spawn(async move {
        tokio::time::sleep(TRIGGER_INTERVAL).await;
        let Some(shared) = weak.upgrade() else { return };
        let mut state = shared.state();
        if let Some(tunnel) = state.tunnels.get_mut(&id) {
            arm(&shared, tunnel, true);
        }
    });
}

fn arm(shared: &Shared, tunnel: &mut Tunnel, armed: bool) {
    tunnel.armed = armed;
    if let Err(e) = tunnel.reconcile(&shared.xfrm) {
        shared.fault(Some(tunnel.id), &e);
    }
}

/// Reports were lost: an SA that should be there and is not has reached a limit. A peer that moved and a
/// packet that wants through are reported again by themselves.
fn resync(shared: &Shared) {
    let lost: Vec<(TunnelId, Spi)> = {
        let state = shared.state();
        let gone = |id: SaId| matches!(shared.xfrm.sa(id), Ok(None));
        let pairs = state.tunnels.values().flat_map(|t| t.pairs.values().map(move |p| (t.id, p)));
        pairs
            .filter(|(_, p)| {
                let sends = p.outbound_state == OutboundState::Active;
                gone(p.inbound_id()) || (sends && gone(p.outbound_id()))
            })
            .map(|(t, p)| (t, p.inbound))
            .collect()
    };
    tracing::warn!(
        missing = lost.len(),
        "the kernel's reports on SAs came too fast; compared with what it has"
    );
    for (_, inbound) in lost {
        send(shared, DataplaneEvent::HardLimit { inbound });
    }
}
