//! The Ethernet header toward a host, kept as the kernel's routes, neighbours and links change.
//!
//! Who sends frames past the kernel's stack asks here. A destination that is asked for is watched from then on; where
//! there is no answer (yet), or no more, the packet goes to the kernel, which resolves the neighbour, and the answer is here
//! soon after. A neighbour that nobody confirms any more is given to the kernel to be probed, as its own traffic would do.

use crate::lock::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;

use super::{Netlink, NetlinkError};

/// Destinations that are watched at most; more go by the kernel.
const MOST: usize = 8192;
/// Changes within this time are taken together.
const TOGETHER: Duration = Duration::from_millis(10);
/// How often neighbours that nobody has confirmed are given to the kernel.
const PROBE: Duration = Duration::from_secs(5);
/// How often all is read anew, whatever has been told.
const REFRESH: Duration = Duration::from_secs(60);

/// How a frame gets to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device that it leaves by.
    pub device: u32,
    /// Link-layer address of the next hop.
    pub destination: [u8; 6],
    /// Link-layer address of the device.
    pub source: [u8; 6],
    /// The largest IP packet, in bytes: of the device, or of the route if that has one of its own.
    pub mtu: u32,
}

/// A destination, and the source address that its route is looked up with (source routing rules may depend on it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Our address, if it is the gateway that sends.
    pub source: Option<IpAddr>,
    /// Where to.
    pub destination: IpAddr,
}

/// A view of the kernel's tables, for as many threads as want it. A thread of its own keeps it.
#[derive(Debug)]
pub struct NextHops {
    table: Mutex<HashMap<Flow, Option<NextHop>>>,
    /// Counts changes of the table.
    generation: AtomicU64,
    /// Something new is to be looked up, or the thread is to end.
    wanted: Arc<Notify>,
}

impl NextHops {
    /// Begins to watch the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn start() -> Result<Arc<Self>, NetlinkError> {
        let this = Arc::new(Self {
            table: Mutex::new(HashMap::new()),
            generation: AtomicU64::new(0),
            wanted: Arc::new(Notify::new()),
        });
        let (view, wanted) = (Arc::downgrade(&this), this.wanted.clone());
        let (begun, began) = std::sync::mpsc::channel();
        // A thread begins in the namespace of the one that makes it.
        let thread = std::thread::Builder::new().name("cv-hops".to_owned());
        let keep = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let opened = runtime.map_err(NetlinkError::Socket).and_then(|runtime| {
                let opened = runtime.block_on(async { Mirror::open() })?;
                Ok((runtime, opened))
            });
            match opened {
                Ok((runtime, (mirror, messages))) => {
                    let _ = begun.send(Ok(()));
                    runtime.block_on(mirror.run(&view, &wanted, messages));
                }
                Err(error) => {
                    let _ = begun.send(Err(error));
                }
            }
        };
        thread.spawn(keep).map_err(NetlinkError::Socket)?;
        match began.recv() {
            Ok(outcome) => outcome.map(|()| this),
            Err(_) => Err(NetlinkError::Socket(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Changes whenever an answer of [`find`](Self::find) may have changed. Cheap.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The next hop toward a destination, if one is known. The destination is watched from now on.
    pub fn find(&self, flow: Flow) -> Option<NextHop> {
        let mut table = self.table();
        match table.get(&flow) {
            Some(known) => *known,
            None => {
                if table.len() < MOST {
                    table.insert(flow, None);
                    drop(table);
                    self.wanted.notify_one();
                }
                None
            }
        }
    }

    /// Watches this destination no more.
    pub fn forget(&self, flow: Flow) {
        self.table().remove(&flow);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Flow, Option<NextHop>>> {
        self.table.lock()
    }
}

impl Drop for NextHops {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

/// What the kernel has told.
struct Mirror {
    netlink: Netlink,
    /// Ethernet devices that are up: link-layer address and MTU.
    links: HashMap<u32, ([u8; 6], u32)>,
    /// By device and address; whether somebody should confirm it.
    neighbours: HashMap<(u32, IpAddr), ([u8; 6], bool)>,
    /// Of watched destinations: device, next hop, MTU of the route.
    routes: HashMap<Flow, Option<(u32, IpAddr, Option<u32>)>>,
}

type Messages = futures::channel::mpsc::UnboundedReceiver<(
    netlink_packet_core::NetlinkMessage<RouteNetlinkMessage>,
    rtnetlink::sys::SocketAddr,
)>;

impl Mirror {
    fn open() -> Result<(Self, Messages), NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
        tokio::spawn(connection);
        let this = Self {
            netlink: Netlink::connect()?,
            links: HashMap::new(),
            neighbours: HashMap::new(),
            routes: HashMap::new(),
        };
        Ok((this, messages))
    }

    /// Until the view is dropped.
    async fn run(mut self, view: &Weak<NextHops>, wanted: &Notify, mut messages: Messages) {
        let mut probe = tokio::time::interval(PROBE);
        let mut refresh = tokio::time::interval(REFRESH);
        loop {
            let mut reread = false;
            tokio::select! {
                message = messages.next() => {
                    let Some((message, _)) = message else { return };
                    reread |= self.take(message.payload);
                    // What belongs together comes together.
                    tokio::time::sleep(TOGETHER).await;
                    while let Ok((message, _)) = messages.try_recv() {
                        reread |= self.take(message.payload);
                    }
                }
                () = wanted.notified() => {}
                _ = probe.tick() => {
                    self.probe().await;
                    continue;
                }
                _ = refresh.tick() => reread = true,
            }
            let Some(hops) = view.upgrade() else { return };
            if reread {
                self.routes.clear();
                self.read_links().await;
                self.read_neighbours().await;
            }
            self.look_up(&hops).await;
            self.publish(&hops);
        }
    }

    /// Takes a change in. True if routes may lead elsewhere now.
    fn take(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match payload {
            NetlinkPayload::InnerMessage(inner) => match inner {
                RouteNetlinkMessage::NewNeighbour(message) => {
                    self.neighbour(&message, true);
                    false
                }
                RouteNetlinkMessage::DelNeighbour(message) => {
                    self.neighbour(&message, false);
                    false
                }
                _ => true,
            },
            // Reports were lost: see for oneself.
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }

    fn neighbour(&mut self, message: &NeighbourMessage, there: bool) {
        let (mut address, mut hardware) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    hardware = <[u8; 6]>::try_from(&bytes[..]).ok()
                }
                _ => {}
            }
        }
        let Some(address) = address else { return };
        let key = (message.header.ifindex, address);
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        let state = message.header.state;
        match hardware {
            Some(hardware)
                if there && matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp) =>
            {
                self.neighbours.insert(key, (hardware, state == Stale));
            }
            _ => {
                self.neighbours.remove(&key);
            }
        }
    }

    async fn read_links(&mut self) {
        let request = self.netlink.handle.link().get().execute();
        let Ok(messages) = request.try_collect::<Vec<_>>().await else { return };
        self.links = messages.iter().filter_map(ethernet).collect();
    }

    async fn read_neighbours(&mut self) {
        let request = self.netlink.handle.neighbours().get().execute();
        let Ok(messages) = request.try_collect::<Vec<_>>().await else { return };
        self.neighbours.clear();
        for message in &messages {
            self.neighbour(message, true);
        }
    }

    /// Asks for the routes of what is watched and not known.
    async fn look_up(&mut self, hops: &NextHops) {
        let flows: Vec<Flow> = hops.table().keys().copied().collect();
        self.routes.retain(|flow, _| flows.contains(flow));
        for flow in flows {
            if self.routes.contains_key(&flow) {
                continue;
            }
            let route = self.netlink.route_towards(flow.destination, flow.source).await;
            let known = route
                .ok()
                .filter(|r| !r.local)
                .map(|r| (r.interface, r.gateway.unwrap_or(flow.destination), r.mtu));
            self.routes.insert(flow, known);
        }
    }

    fn publish(&self, hops: &NextHops) {
        let mut changed = false;
        for (flow, hop) in hops.table().iter_mut() {
            let now = self.routes.get(flow).copied().flatten().and_then(|(device, gateway, mtu)| {
                let (source, device_mtu) = self.links.get(&device).copied()?;
                let (destination, _) = self.neighbours.get(&(device, gateway)).copied()?;
                let mtu = mtu.filter(|m| *m > 0).map_or(device_mtu, |m| m.min(device_mtu));
                Some(NextHop { device, destination, source, mtu })
            });
            changed |= std::mem::replace(hop, now) != now;
        }
        if changed {
            // Release: whoever sees the number sees the table (which has its lock besides).
            hops.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Has the kernel confirm the next hops in use that nobody has confirmed for long.
    async fn probe(&self) {
        let used = self.routes.values().flatten().map(|(device, gateway, _)| (*device, *gateway));
        let stale = used.filter(|key| self.neighbours.get(key).is_some_and(|(_, stale)| *stale));
        let stale: std::collections::HashSet<_> = stale.collect();
        for (device, address) in stale {
            let request = self.netlink.handle.neighbours().add(device, address);
            let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
            // Best effort: a neighbour that is gone by now is asked for by the kernel's own traffic.
            let _ = request.execute().await;
        }
    }
}

fn ethernet(message: &LinkMessage) -> Option<(u32, ([u8; 6], u32))> {
    let up = message.header.flags.contains(LinkFlags::Up);
    if message.header.link_layer_type != LinkLayerType::Ether || !up {
        return None;
    }
    let (mut address, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => address = <[u8; 6]>::try_from(&bytes[..]).ok(),
            LinkAttribute::Mtu(m) => mtu = Some(*m),
            _ => {}
        }
    }
    Some((message.header.index, (address?, mtu?)))
}
