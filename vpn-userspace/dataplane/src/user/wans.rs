//! The WAN addresses with their sockets and inbound workers, and which worker owns which SA.
//!
//! Where the kernel takes the program that divides a UDP port by SPI, every worker has a socket on every address; else
//! an address has one worker. SAs of one peer are one worker's: their packets may arrive joined to each other. Raw ESP
//! sockets cannot share (each would get every packet), so such SAs are their address's worker's.

use culvert_sys::lock::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_sys::encap::{EncapError, EncapSocket};
use culvert_sys::steer::Steering;
use culvert_sys::wan::{WanOptions, WanSocket};
use culvert_types::Spi;

use super::control::{self, ControlSender, Events, Inbound, Worker};
use super::counters::Flow;
use super::inbound::InboundWorker;
use super::port::WanIn;
use super::port::socket::SocketReceive;
use crate::DataplaneError;
use crate::bpf::OddDoor;
use crate::samples::Tap;

/// The UDP ports by address, `None` where no program divides one. The kernel's engine lets its sockets join.
#[derive(Clone, Default)]
pub(crate) struct Steerings(Arc<Mutex<HashMap<IpAddr, Option<Steering>>>>);

impl Steerings {
    /// Gives the kernel its share of the port: odd SPIs.
    pub(crate) fn admit(&self, socket: &EncapSocket) -> Result<(), EncapError> {
        match self.lock().get_mut(&socket.address().ip()) {
            Some(Some(steering)) => steering
                .add_kernel(socket)
                .map_err(|e| EncapError::undivided(socket.address(), std::io::Error::other(e))),
            _ => socket.divide_by_spi_parity(),
        }
    }

    /// Whether a program divides the port of this address, so that an SPI of either parity may be anybody's.
    pub(crate) fn divided(&self, local: IpAddr) -> bool {
        matches!(self.lock().get(&local), Some(Some(_)))
    }

    /// The same of every address.
    pub(crate) fn all_divided(&self) -> bool {
        let all = self.lock();
        !all.is_empty() && all.values().all(Option::is_some)
    }

    /// An SPI that is not the kernel's by its parity is so all the same.
    pub(crate) fn give_kernel(&self, spi: Spi) {
        for (address, steering) in self.lock().iter_mut() {
            if let Some(Err(error)) = steering.as_mut().map(|steering| steering.own_kernel(spi)) {
                tracing::warn!("ESP for SPI {spi} at {address} does not reach the kernel: {error}");
            }
        }
    }

    /// It is so no more.
    pub(crate) fn take_back(&self, spi: Spi) {
        self.lock().values_mut().flatten().for_each(|steering| steering.forget(spi));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Option<Steering>>> {
        self.0.lock()
    }
}

/// A WAN address.
struct Wan {
    address: IpAddr,
    /// One for each worker, if the port is divided; the first has IKE.
    udp: Vec<Arc<WanSocket>>,
    /// Opened for the first SA without UDP encapsulation.
    esp: Option<Arc<WanSocket>>,
    /// The worker of the first UDP socket, and of the raw one.
    worker: usize,
}

/// To the rest of the data plane.
pub(crate) struct Links {
    pub(crate) steerings: Steerings,
    pub(crate) door: OddDoor,
    pub(crate) tap: Tap,
    pub(crate) events: Events,
}

/// All of them, and the inbound workers.
pub(crate) struct Wans {
    natt_port: u16,
    options: WanOptions,
    door: OddDoor,
    events: Events,
    /// For workers to come.
    tap: Tap,
    list: Vec<Wan>,
    workers: Vec<Worker<Inbound>>,
    /// Packets that met no SA, by worker.
    unknown: Vec<Arc<Flow>>,
    most_workers: usize,
    busy_poll: bool,
    steerings: Steerings,
    /// Why ports are not divided, though there are workers for it.
    undivided: Option<String>,
    /// SPIs whose SAs drain, and until when.
    fading: Vec<(Instant, IpAddr, Spi)>,
    /// How many workers can hand packets to each other.
    acquainted: usize,
    /// SAs whose owner all workers know.
    announced: HashSet<Spi>,
}

impl Wans {
    pub(crate) fn new(
        natt_port: u16,
        options: WanOptions,
        most_workers: usize,
        busy_poll: bool,
        links: Links,
    ) -> Self {
        let Links { steerings, door, tap, events } = links;
        Self {
            natt_port,
            options: WanOptions { share_port: options.share_port || most_workers > 1, ..options },
            door,
            events,
            tap,
            list: Vec::new(),
            workers: Vec::new(),
            unknown: Vec::new(),
            most_workers,
            busy_poll,
            steerings,
            undivided: None,
            fading: Vec::new(),
            acquainted: 0,
            announced: HashSet::new(),
        }
    }

    /// Listens on a further address, unless it does already.
    pub(crate) fn add(&mut self, address: IpAddr) -> Result<(), DataplaneError> {
        if self.list.iter().any(|w| w.address == address) {
            return Ok(());
        }
        let first = WanSocket::udp(SocketAddr::new(address, self.natt_port), &self.options)?;
        let sockets = self.divide(first);
        // An undivided address takes the next worker; all of a divided one begin at the first.
        let worker = if sockets.len() > 1 { 0 } else { self.list.len() % self.most_workers };
        let needed = if sockets.len() > 1 { sockets.len() } else { worker + 1 };
        while self.workers.len() < needed {
            self.start_worker()?;
        }
        for (index, socket) in sockets.iter().enumerate() {
            let port = WanIn::Socket(SocketReceive::new(socket.clone()));
            self.workers[worker + index].control.send(Inbound::AddPort(port))?;
        }
        self.list.push(Wan { address, udp: sockets, esp: None, worker });
        Ok(())
    }

    /// Lets what the sockets send, and what comes to them, pass the policies of the host.
    pub(crate) fn bypass_policies(&self) -> std::io::Result<()> {
        self.list
            .iter()
            .flat_map(|wan| &wan.udp)
            .try_for_each(|socket| culvert_sys::xfrm::bypass(socket.as_fd(), socket.local().is_ipv4()))
    }

    /// The sockets of a port: one for each worker, or the one.
    fn divide(&mut self, first: WanSocket) -> Vec<Arc<WanSocket>> {
        let first = Arc::new(first);
        if !self.options.share_port || self.undivided.is_some() {
            return vec![first];
        }
        let mut sockets = vec![first.clone()];
        let joined = (1..self.most_workers).map(|_| first.join(&self.options)).collect::<Result<Vec<_>, _>>();
        let steering = match joined {
            Ok(more) => {
                sockets.extend(more.into_iter().map(Arc::new));
                Steering::attach(sockets.iter().map(|s| &**s)).map_err(|e| e.to_string())
            }
            Err(e) => Err(e.to_string()),
        };
        match steering {
            Ok(steering) => {
                self.steerings.lock().insert(first.local().ip(), Some(steering));
                sockets
            }
            Err(reason) => {
                self.steerings.lock().insert(first.local().ip(), None);
                if self.most_workers > 1 {
                    tracing::warn!(reason, "each WAN address has one inbound worker");
                    self.undivided = Some(reason);
                }
                vec![first]
            }
        }
    }

    fn start_worker(&mut self) -> Result<(), DataplaneError> {
        let unknown = Arc::new(Flow::default());
        let (flow, events, busy) = (unknown.clone(), self.events.clone(), self.busy_poll);
        let (door, tap) = (self.door.clone(), self.tap.clone());
        let index = self.workers.len();
        let name = format!("cv-in-{index}");
        let worker = Worker::spawn(
            name,
            &self.events,
            || Inbound::Stop,
            move |control| InboundWorker::new(index, flow, busy, door, tap, events).run(control),
        )?;
        // What the path says about a packet comes to any socket of a port, so to any worker.
        for other in &self.workers {
            other.control.send(Inbound::Sibling(worker.control.clone()))?;
            worker.control.send(Inbound::Sibling(other.control.clone()))?;
        }
        self.unknown.push(unknown);
        self.workers.push(worker);
        if self.acquainted > 0 { self.acquaint() } else { Ok(()) }
    }

    /// Lets workers hand packets to each other.
    pub(crate) fn acquaint(&mut self) -> Result<(), DataplaneError> {
        control::acquaint(&self.workers, self.acquainted, Inbound::Other, Inbound::Handed)?;
        self.acquainted = self.workers.len();
        Ok(())
    }

    /// Tells all workers whose the packets of this SPI are: the kernel joins datagrams of one peer whatever their SPIs.
    pub(crate) fn announce(&mut self, spi: Spi, owner: usize) -> Result<(), DataplaneError> {
        self.announced.insert(spi);
        let others = self.workers.iter().enumerate().filter(|(index, _)| *index != owner);
        let mut others = others.map(|(_, worker)| worker);
        others.try_for_each(|worker| worker.control.send(Inbound::Elsewhere(spi, Some(owner))))
    }

    /// Why each address has one worker only; `None` if there are more, or shall not be.
    pub(crate) fn undivided(&self) -> Option<&str> {
        self.undivided.as_deref()
    }

    /// Whether all addresses are of IPv6.
    pub(crate) fn is_ipv6(&self) -> bool {
        !self.list.is_empty() && self.list.iter().all(|w| w.address.is_ipv6())
    }

    /// The first UDP socket of an address.
    pub(crate) fn udp(&self, local: IpAddr) -> Result<&Arc<WanSocket>, DataplaneError> {
        let wan = self.list.iter().find(|w| w.address == local);
        wan.and_then(|w| w.udp.first()).ok_or(DataplaneError::NotWan(local))
    }

    /// The socket that an SA's packets leave from, and the workers that may own the SA.
    pub(crate) fn socket(
        &mut self,
        local: IpAddr,
        encap: bool,
    ) -> Result<(Arc<WanSocket>, std::ops::Range<usize>), DataplaneError> {
        let wan = self.list.iter_mut().find(|w| w.address == local).ok_or(DataplaneError::NotWan(local))?;
        if encap {
            let socket = wan.udp.first().cloned().ok_or(DataplaneError::NotWan(local))?;
            return Ok((socket, wan.worker..wan.worker + wan.udp.len()));
        }
        let only = wan.worker..wan.worker + 1;
        if let Some(esp) = &wan.esp {
            return Ok((esp.clone(), only));
        }
        let esp = Arc::new(WanSocket::esp(local, &self.options)?);
        let port = WanIn::Socket(SocketReceive::new(esp.clone()));
        self.workers[wan.worker].control.send(Inbound::AddPort(port))?;
        wan.esp = Some(esp.clone());
        Ok((esp, only))
    }

    /// The packets of the SPI that arrive at the address are that worker's from now on.
    pub(crate) fn own(&mut self, local: IpAddr, spi: Spi, worker: usize) -> bool {
        self.fade(Instant::now());
        self.fading.retain(|(_, _, fading)| *fading != spi);
        let mut steerings = self.steerings.lock();
        let Some(Some(steering)) = steerings.get_mut(&local) else { return true };
        steering.own(spi, worker as u32).is_ok()
    }

    /// The SPI is free when the SA has drained.
    pub(crate) fn disown(&mut self, local: IpAddr, spi: Spi, drain: Duration) {
        let now = Instant::now();
        self.fading.push((now + drain, local, spi));
        self.fade(now);
    }

    fn fade(&mut self, now: Instant) {
        let Self { steerings, fading, announced, workers, .. } = self;
        let mut steerings = steerings.lock();
        fading.retain(|(until, local, spi)| {
            if *until > now {
                return true;
            }
            if let Some(Some(steering)) = steerings.get_mut(local) {
                steering.forget(*spi);
            }
            if announced.remove(spi) {
                for worker in workers.iter() {
                    // One that is gone has said so.
                    let _ = worker.control.send(Inbound::Elsewhere(*spi, None));
                }
            }
            false
        });
    }

    pub(crate) fn control(&self, worker: usize) -> &ControlSender<Inbound> {
        &self.workers[worker].control
    }

    pub(crate) fn controls(&self) -> impl Iterator<Item = &ControlSender<Inbound>> {
        self.workers.iter().map(|w| &w.control)
    }

    /// What met no SA, by reason.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        let mut all = Vec::new();
        self.unknown.iter().for_each(|u| u.drops.collect(&mut all));
        let sockets = self.list.iter().flat_map(|w| w.udp.iter().chain(&w.esp));
        let full = sockets.map(|s| u64::from(s.receive_drops())).sum();
        if full > 0 {
            all.push(("wan-receive-full", full));
        }
        all
    }
}
