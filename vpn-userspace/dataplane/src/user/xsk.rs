//! The user engine's part in AF_XDP: opening the WAN's devices when a tunnel wants them, giving each inbound worker its
//! receivers, and doing so again when a device went and is back.
use std::sync::Arc;

use culvert_sys::guard::SaPath;
use culvert_sys::netlink::NextHops;
use culvert_sys::wan::WanSocket;
use culvert_types::Spi;

use super::UserEngine;
use super::control::Inbound;
use super::port::xsk::{Devices, XskPath, XskReceive};
use super::port::{WanIn, WanPath};
use crate::{DataplaneError, Redirects};

/// Microseconds for which the kernel polls a device from a system call, where workers poll too.
const BUSY_POLL: u32 = 50;

impl UserEngine {
    /// The WAN's devices, opened if they are not yet.
    pub(super) fn xsk(&mut self) -> Result<&Arc<Devices>, DataplaneError> {
        if self.xsk.is_none() {
            let hops = NextHops::start()?;
            let devices = Arc::new(Devices::new(
                self.xsk_devices.clone(),
                hops,
                if self.busy_poll { BUSY_POLL } else { 0 },
            ));
            devices.open()?;
            self.xsk = Some(devices);
            (0..self.wans.controls().count()).try_for_each(|worker| self.add_receivers(worker))?;
        }
        self.xsk.as_ref().ok_or(DataplaneError::WorkerGone)
    }

    /// Gives a worker a receiver of each queue.
    pub(super) fn add_receivers(&mut self, worker: usize) -> Result<(), DataplaneError> {
        let Some(devices) = &self.xsk else { return Ok(()) };
        for receiver in devices.receivers()? {
            let endpoint = receiver.endpoint().map_err(DataplaneError::Worker)?;
            self.redirects.added.push((worker as u32, endpoint));
            let port = WanIn::Xsk(XskReceive::new(receiver));
            self.wans.control(worker).send(Inbound::AddPort(port))?;
        }
        Ok(())
    }

    /// How packets of an SA go out by this socket, or before it.
    pub(super) fn path(&self, wants_xsk: bool, socket: Arc<WanSocket>) -> WanPath {
        match &self.xsk {
            Some(devices) if wants_xsk => {
                WanPath::Xsk(XskPath { devices: devices.clone(), socket, dont_fragment: self.dont_fragment })
            }
            _ => WanPath::Socket(socket),
        }
    }

    /// Looks after devices that went or came.
    pub(crate) fn tend(&mut self) {
        let Some(devices) = self.xsk.clone().filter(|d| d.changed()) else { return };
        let gone = devices.close();
        if !gone.is_empty() {
            tracing::warn!(
                "a WAN device has changed: AF_XDP is opened anew, the kernel's sockets serve meanwhile"
            );
            self.redirects.added.clear();
            self.redirects.gone.extend(gone);
            for control in self.wans.controls() {
                // A worker that is gone has said so.
                let _ = control.send(Inbound::DropReceivers);
            }
            // The workers let go of the sockets first; next time.
            return;
        }
        let opened = devices.open().map_err(DataplaneError::from);
        let workers = self.wans.controls().count();
        let opened = opened.and_then(|()| (0..workers).try_for_each(|w| self.add_receivers(w)));
        let outcome = match &opened {
            Ok(()) => devices.describe().join("; "),
            Err(error) => {
                devices.close();
                self.redirects.added.clear();
                error.to_string()
            }
        };
        // Said when it is new, not at every attempt.
        if outcome != self.xsk_state {
            tracing::info!("{outcome}");
            self.xsk_state = outcome;
        }
    }

    /// What the guard is to be told since it was last asked.
    pub(crate) fn take_redirects(&mut self) -> Redirects {
        std::mem::take(&mut self.redirects)
    }

    /// Where the guard shall send the packets of an SA.
    pub(crate) fn sa_path(&self, inbound: Spi) -> SaPath {
        let wants = |sa: &&super::Sa| self.tunnels.get(&sa.tunnel).is_some_and(|t| t.xsk);
        match self.sas.get(&inbound).filter(wants) {
            Some(sa) => SaPath::Xsk { worker: sa.worker as u32 },
            None => SaPath::Stack,
        }
    }
}
