//! How the facade speaks to a worker thread: commands over a channel, an eventfd to wake it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_sys::event::{Poller, Ready, Waker};
use culvert_sys::wan::PathError;
use culvert_types::{Spi, TunnelId};
use tokio::sync::{mpsc, oneshot};

use super::handover::{self, HandOver, HandedOver};
use super::inbound::{FromWan, InboundEntry};
use super::outbound::{FromLan, OutboundEntry};
use super::port::xsk::LanReceive;
use super::port::{Route, WanIn, WanPath};
use super::tunnel::TunnelShared;
use crate::{DataplaneError, DataplaneEvent};

/// Where events go.
pub(crate) type Events = mpsc::UnboundedSender<DataplaneEvent>;

/// For a worker of the outbound direction.
pub(crate) enum Outbound {
    /// Read this queue of the tunnel's device.
    AddTunnel(Arc<TunnelShared>, usize),
    /// Another worker, by its number, and the way to hand packets to it.
    Other(usize, HandOver<FromLan>),
    /// What another worker hands over.
    Handed(HandedOver<FromLan>),
    RemoveTunnel(TunnelId, oneshot::Sender<()>),
    /// Own the SA; send with it at once if told so.
    Add(Box<OutboundEntry>, bool),
    Activate(TunnelId, Spi),
    Remove(TunnelId, Spi),
    /// Send the packets of these SAs, by their inbound SPI, on this path to that address.
    Move(TunnelId, Arc<[Spi]>, WanPath, Route),
    /// Take packets of tunnels from the LAN's frames too.
    AddFrames(Box<LanReceive>),
    /// Let go of every socket of those.
    DropFrames,
    Stop,
}

/// For a worker of the inbound direction.
pub(crate) enum Inbound {
    AddPort(WanIn),
    /// Let go of every AF_XDP socket.
    DropReceivers,
    /// Another worker, whose packets' errors may come here, and the other way round.
    Sibling(ControlSender<Inbound>),
    /// What the path said about packets of SAs of whoever has them.
    PathErrors(Arc<[PathError]>),
    /// Another worker, by its number, and the way to hand packets to it.
    Other(usize, HandOver<FromWan>),
    /// What another worker hands over.
    Handed(HandedOver<FromWan>),
    /// Packets of this SA are that worker's, and may come here joined to others; `None`: there is no such SA any more.
    Elsewhere(Spi, Option<usize>),
    /// Own the SA, and say so.
    Add(Box<InboundEntry>, oneshot::Sender<()>),
    /// Own an SA that another worker owned.
    Adopt(Box<InboundEntry>),
    /// Forget it after this long.
    Remove(Spi, Duration),
    RemoveTunnel(TunnelId),
    /// The peer of these SAs is there now.
    Move(Arc<[Spi]>, SocketAddr),
    /// The peer of these SAs is there now, and another worker owns the socket that its packets come to: give
    /// the SAs to it.
    HandOver(Arc<[Spi]>, SocketAddr, ControlSender<Inbound>),
    Stop,
}

/// The sending half; wakes the worker.
pub(crate) struct ControlSender<C> {
    sender: Sender<C>,
    waker: Arc<Waker>,
}

impl<C> Clone for ControlSender<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

impl<C> ControlSender<C> {
    pub(crate) fn send(&self, command: C) -> Result<(), DataplaneError> {
        self.sender.send(command).map_err(|_| DataplaneError::WorkerGone)?;
        self.waker.wake();
        Ok(())
    }
}

/// How long a busy wait asks before it sleeps. On a host whose cores have other work a thread that never sleeps is the
/// last to be run: what wakes up goes first.
const BUSY: Duration = Duration::from_micros(500);
/// The token of a worker's waker; every other token is an index.
pub(crate) const WAKE: u64 = u64::MAX;

/// The receiving half, with the poller that it wakes.
pub(crate) struct Control<C> {
    receiver: Receiver<C>,
    waker: Arc<Waker>,
    pub(crate) poller: Poller,
}

impl<C> Control<C> {
    /// Call when [`WAKE`] is ready, before taking the commands.
    pub(crate) fn woken(&self) {
        self.waker.drain();
    }

    /// Waits for what is ready, at most for that long. A busy wait first asks again and again, and lets others run in
    /// between.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        busy: bool,
        ready: &mut Vec<Ready>,
    ) -> std::io::Result<()> {
        ready.clear();
        if !busy {
            ready.extend(self.poller.wait(timeout)?);
            return Ok(());
        }
        let until = Instant::now() + BUSY;
        loop {
            ready.extend(self.poller.wait(Some(Duration::ZERO))?);
            if !ready.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                break;
            }
            std::thread::yield_now();
        }
        ready.extend(self.poller.wait(timeout)?);
        Ok(())
    }

    /// Has the next wait end at once, by [`WAKE`].
    pub(crate) fn again(&self) {
        self.waker.wake();
    }

    pub(crate) fn next(&self) -> Option<C> {
        self.receiver.try_recv().ok()
    }
}

/// Lets each worker hand packets to each other one, but for those of the first `known`, who can already.
pub(crate) fn acquaint<C: Send + 'static, M>(
    workers: &[Worker<C>],
    known: usize,
    other: fn(usize, HandOver<M>) -> C,
    handed: fn(HandedOver<M>) -> C,
) -> Result<(), DataplaneError> {
    for (from, one) in workers.iter().enumerate() {
        for (to, two) in workers.iter().enumerate().filter(|(to, _)| *to != from && from.max(*to) >= known) {
            let (over, taken) = handover::pair(two.control.waker.clone(), one.control.waker.clone());
            two.control.send(handed(taken))?;
            one.control.send(other(to, over))?;
        }
    }
    Ok(())
}

/// A running worker. Stopped and awaited when dropped.
pub(crate) struct Worker<C> {
    pub(crate) control: ControlSender<C>,
    stop: fn() -> C,
    thread: Option<JoinHandle<()>>,
}

impl<C: Send + 'static> Worker<C> {
    /// Starts a thread that `run`s until it is told to stop.
    pub(crate) fn spawn(
        name: String,
        events: &Events,
        stop: fn() -> C,
        run: impl FnOnce(Control<C>) -> std::io::Result<()> + Send + 'static,
    ) -> Result<Self, DataplaneError> {
        let waker = Arc::new(Waker::new().map_err(DataplaneError::Worker)?);
        let poller = Poller::new().map_err(DataplaneError::Worker)?;
        poller.add(&*waker, WAKE).map_err(DataplaneError::Worker)?;
        let (sender, receiver) = channel();
        let control = Control { receiver, waker: waker.clone(), poller };
        let last_words = LastWords { name: name.clone(), events: events.clone() };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let last_words = last_words;
                if let Err(error) = run(control) {
                    last_words.say(format!("worker {} cannot go on: {error}", last_words.name));
                }
            })
            .map_err(DataplaneError::Worker)?;
        Ok(Self { control: ControlSender { sender, waker }, stop, thread: Some(thread) })
    }
}

impl<C> Drop for Worker<C> {
    fn drop(&mut self) {
        let _ = self.control.send((self.stop)());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reports a worker that panics.
struct LastWords {
    name: String,
    events: Events,
}

impl LastWords {
    fn say(&self, cause: String) {
        let _ = self.events.send(DataplaneEvent::Fault { tunnel: None, cause });
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.say(format!("worker {} panicked; this is a defect, please report it", self.name));
        }
    }
}
