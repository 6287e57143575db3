//! The user engine's part in AF_XDP: opening the devices of the WAN and of the LAN when a tunnel wants them, giving each
//! worker its receivers, and doing so again when a device went and is back.
use std::sync::Arc;

use culvert_sys::guard::SaPath;
use culvert_sys::netlink::NextHops;
use culvert_sys::wan::WanSocket;
use culvert_types::Spi;

use super::UserEngine;
use super::control::{Inbound, Outbound};
use super::port::xsk::{Devices, LanReceive, XskPath, XskReceive};
use super::port::{WanIn, WanPath};
use crate::{DataplaneError, LanDevice, Redirects};

/// Microseconds for which the kernel polls a device from a system call, where workers poll too.
const BUSY_POLL: u32 = 50;

impl UserEngine {
    /// The devices of the WAN, of the LAN, or of both, as a tunnel wants them; opened if nothing is open yet. Where others are
    /// open, these follow when [`tend`](Self::tend) next looks: the kernel serves meanwhile.
    pub(super) fn xsk(&mut self, wan: bool, lan: bool) -> Result<&Arc<Devices>, DataplaneError> {
        if self.xsk.is_none() {
            let hops = NextHops::start()?;
            let busy_poll = if self.busy_poll { BUSY_POLL } else { 0 };
            let (wan_devices, lan_devices) = (self.xsk_devices.clone(), self.lan_devices.clone());
            let devices = Arc::new(Devices::new(wan_devices, lan_devices, hops, busy_poll));
            devices.want(wan, lan)?;
            devices.open()?;
            self.xsk = Some(devices);
            self.add_all_receivers()?;
        }
        let devices = self.xsk.as_ref().ok_or(DataplaneError::WorkerGone)?;
        devices.want(wan, lan)?;
        Ok(devices)
    }

    /// Gives every worker a receiver of each queue, and says so to the guard.
    fn add_all_receivers(&mut self) -> Result<(), DataplaneError> {
        (0..self.wans.controls().count()).try_for_each(|worker| self.add_receivers(worker))?;
        (0..self.outbound.len()).try_for_each(|worker| self.add_lan_receivers(worker))?;
        let open = self.xsk.as_ref().and_then(|devices| devices.current());
        for device in open.iter().flat_map(|open| &open.devices).filter(|d| d.lan) {
            let (name, index, mac) = (device.name.clone(), device.index, device.mac);
            self.redirects.lans.push(LanDevice { name, index, mac });
        }
        Ok(())
    }

    /// Gives an inbound worker a receiver of each queue of the WAN.
    pub(super) fn add_receivers(&mut self, worker: usize) -> Result<(), DataplaneError> {
        let Some(devices) = &self.xsk else { return Ok(()) };
        for receiver in devices.receivers(false)? {
            let endpoint = receiver.endpoint().map_err(DataplaneError::Worker)?;
            self.redirects.added.push((worker as u32, endpoint));
            let port = WanIn::Xsk(XskReceive::new(receiver));
            self.wans.control(worker).send(Inbound::AddPort(port))?;
        }
        Ok(())
    }

    /// Gives an outbound worker a receiver of each queue of the LAN.
    pub(super) fn add_lan_receivers(&mut self, worker: usize) -> Result<(), DataplaneError> {
        let (Some(devices), Some(outbound)) = (&self.xsk, self.outbound.get(worker)) else { return Ok(()) };
        for receiver in devices.receivers(true)? {
            let endpoint = receiver.endpoint().map_err(DataplaneError::Worker)?;
            self.redirects.lan_added.push((worker as u32, endpoint));
            outbound.control.send(Outbound::AddFrames(Box::new(LanReceive::new(receiver))))?;
        }
        Ok(())
    }

    /// The queue of the tunnel's device that the SA's workers have, or of the LAN's devices by which its packets leave.
    pub(super) fn lan_queue(&self, sa: &super::Sa) -> Option<usize> {
        let tunnel = self.tunnels.get(&sa.tunnel)?;
        match &tunnel.shared.frames {
            Some(devices) => devices.queue(true, sa.worker),
            None => (tunnel.shared.width() > 1).then_some(sa.sender),
        }
    }

    /// The queue of the WAN's devices by which the SA's packets leave.
    pub(super) fn wan_queue(&self, sa: &super::Sa) -> Option<usize> {
        let devices = self.xsk.as_ref().filter(|_| self.tunnels.get(&sa.tunnel).is_some_and(|t| t.xsk))?;
        devices.queue(false, sa.sender)
    }

    /// Why devices are not served by AF_XDP that should be, a line each.
    pub(crate) fn xsk_faults(&self) -> Vec<String> {
        let Some(devices) = &self.xsk else { return Vec::new() };
        let meanwhile = "by AF_XDP; the kernel has its packets until then";
        let absent = devices.absent().into_iter();
        let absent = absent.map(|name| format!("{name} is not there and will be served {meanwhile}"));
        let fault = self.xsk_fault.iter().map(|why| format!("no device is served {meanwhile}: {why}"));
        absent.chain(fault).collect()
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
                "the devices of AF_XDP have changed: they are opened anew, the kernel serves meanwhile"
            );
            self.redirects.added.clear();
            self.redirects.lan_added.clear();
            self.redirects.lans.clear();
            self.redirects.gone.extend(gone);
            for control in self.wans.controls() {
                // A worker that is gone has said so.
                let _ = control.send(Inbound::DropReceivers);
            }
            for worker in &self.outbound {
                let _ = worker.control.send(Outbound::DropFrames);
            }
            // The workers let go of the sockets first; next time.
            return;
        }
        let opened = devices.open().map_err(DataplaneError::from);
        let opened = opened.and_then(|()| self.add_all_receivers());
        self.xsk_fault = opened.as_ref().err().map(ToString::to_string);
        let outcome = match &opened {
            Ok(()) => devices.describe().join("; "),
            Err(error) => {
                devices.close();
                self.redirects.added.clear();
                self.redirects.lan_added.clear();
                self.redirects.lans.clear();
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
