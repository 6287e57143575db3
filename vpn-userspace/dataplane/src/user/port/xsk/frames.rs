//! Packets in frames on their way to the queues of devices: what the ports of the WAN and of the LAN share.
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use culvert_sys::errno;
use culvert_sys::xsk::{BATCH, Frame, Received};

use super::{Devices, Open, queue_of};
use crate::user::counters::Reason;

/// How often a busy device is asked again, and after how long the first time; each wait is longer, to 5 ms.
const WAITS: u32 = 30;
const FIRST_WAIT: Duration = Duration::from_micros(20);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// Packets on their way to one device's queue.
#[derive(Default)]
struct Waiting {
    packets: VecDeque<Received>,
    owners: VecDeque<u32>,
}

/// One worker's frames, and its packets that wait to be sent.
pub(super) struct Frames {
    pub(super) devices: Arc<Devices>,
    /// Whose it is, which says by which of a device's queues it sends.
    worker: usize,
    /// Held while there is something in frames of its memory.
    open: Option<Arc<Open>>,
    spare: Vec<Frame>,
    /// By the devices of `open`.
    waiting: Vec<Waiting>,
    queued: usize,
}

impl Frames {
    pub(super) fn new(devices: Arc<Devices>, worker: usize) -> Self {
        Self { worker, devices, open: None, spare: Vec::with_capacity(BATCH), waiting: Vec::new(), queued: 0 }
    }

    /// The devices as they are open now, the same until [`flush`](Self::flush).
    pub(super) fn open(&mut self) -> Option<&Arc<Open>> {
        if self.open.is_none() {
            self.open = self.devices.current();
            let devices = self.open.as_ref().map_or(0, |open| open.devices.len());
            self.waiting.resize_with(devices, Waiting::default);
        }
        self.open.as_ref()
    }

    /// The devices that are held since the last [`flush`](Self::flush), if something was sent or asked for.
    #[inline]
    pub(super) fn held(&self) -> Option<&Arc<Open>> {
        self.open.as_ref()
    }

    /// Packets that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// A free frame, if there is one.
    pub(super) fn frame(&mut self) -> Option<Frame> {
        if self.spare.is_empty() {
            self.open()?;
            let Self { open, spare, .. } = self;
            let open = open.as_ref()?;
            if open.umem.take(BATCH, spare) == 0 {
                open.devices.iter().flat_map(|d| &d.queues).for_each(|queue| queue.reclaim());
                open.umem.take(BATCH, spare);
            }
        }
        self.spare.pop()
    }

    /// Takes back a frame that is not needed.
    pub(super) fn spare(&mut self, frame: Frame) {
        self.spare.push(frame);
    }

    /// Takes a packet of `owner`'s to be sent by a device, by its place among those that are open.
    pub(super) fn push(&mut self, device: usize, packet: Received, owner: u32) {
        match self.waiting.get_mut(device) {
            Some(waiting) => {
                waiting.packets.push_back(packet);
                waiting.owners.push_back(owner);
                self.queued += 1;
            }
            None => self.spare.push(packet.frame),
        }
    }

    /// Sends everything and lets go of the devices. What cannot be sent is lost, and told: whose, and why.
    pub(super) fn flush(&mut self, lost: &mut dyn FnMut(u32, Reason, u64)) {
        let Some(open) = self.open.take() else { return };
        for device in 0..self.waiting.len() {
            self.send(device, &open, lost);
        }
        self.queued = 0;
        open.umem.give(self.spare.drain(..));
    }

    /// Sends a device's packets. What it does not take in time is lost.
    fn send(&mut self, device: usize, open: &Open, lost: &mut dyn FnMut(u32, Reason, u64)) {
        let Some(queues) = open.devices.get(device).map(|d| &d.queues) else { return };
        let Waiting { packets, owners } = &mut self.waiting[device];
        let Some(queue) = queues.get(queue_of(self.worker, queues.len())).filter(|_| !packets.is_empty())
        else {
            return;
        };
        let mut wait = FIRST_WAIT;
        let mut waits = 0;
        let reason = loop {
            queue.enqueue(packets);
            match queue.send() {
                Ok(true) if packets.is_empty() => break None,
                Ok(true) => {}
                Ok(false) if waits < WAITS => {
                    // A device with a queue discipline says when it is full, and has no other way to say when not.
                    waits += 1;
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                // What is in the ring leaves with the next packets.
                Ok(false) => break Some(Reason::WanBusy),
                Err(error) => break Some(reason_of(&error)),
            }
        };
        if let Some(reason) = reason {
            let sent = owners.len() - packets.len();
            owners.drain(..sent);
            owners.drain(..).for_each(|owner| lost(owner, reason, 1));
            open.umem.give(packets.drain(..).map(|p| p.frame));
        }
        owners.clear();
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.raw_os_error().unwrap_or(0) {
        errno::ENETDOWN | errno::ENXIO => Reason::WanUnreachable,
        errno::ENOBUFS => Reason::WanQueueFull,
        _ => Reason::WanError,
    }
}
