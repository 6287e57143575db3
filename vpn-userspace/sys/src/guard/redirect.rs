//! Which packets leave the stack's way: SAs with a path of their own, and the AF_XDP sockets that they lead to.
use super::{AttachedMode, Guard, GuardError};
use crate::xsk::Endpoint;
use aya::programs::ProgramFd;
use culvert_ebpf_shared::layout::Sa;
use culvert_ebpf_shared::redirect::{MAX_XSKS, NEXT_LAN, NEXT_WAN, XskKey, XskSlot};
use culvert_types::Spi;
use std::collections::HashMap;
use std::os::fd::AsFd;

/// Where the valid packets of an SA go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaPath {
    /// The kernel's stack.
    #[default]
    Stack,
    /// The AF_XDP socket of this worker at the queue where the packet arrived. A packet that arrives where there is none,
    /// one too long for its frames, and all packets of interfaces whose guard is not XDP, go to the stack.
    Xsk {
        /// The worker.
        worker: u32,
    },
    /// The kernel's stack on this CPU, if packets are spread over it ([`Guard::spread`]) and the guard of the interface is
    /// XDP; else on the CPU where the packet arrived.
    Cpu {
        /// Its number.
        cpu: u32,
    },
    /// The engine `bpf`, where it stands behind the guard; elsewhere on to the stack, and so to the engine under TC.
    Bpf,
}

/// Packets that wait for a CPU at most: twice what a driver takes from a ring of usual size at once.
pub const CPU_QUEUE: u32 = 2048;

/// The sockets that the guard knows, by where they are in the map.
#[derive(Debug, Default)]
pub(super) struct Redirects {
    slots: HashMap<XskKey, u32>,
}

impl Guard {
    /// Lets go of an interface, which may be gone: it can be attached to anew.
    pub fn detach(&mut self, ifname: &str) {
        for hook in self.hooks.extract_if(.., |hook| hook.interface() == ifname) {
            if let Err(error) = hook.detach() {
                tracing::debug!(%error, "the guard's interface is gone");
            }
        }
    }

    /// Sends the SA's packets this way from now on.
    ///
    /// # Errors
    ///
    /// [`GuardError::NoSuchSa`].
    pub fn set_path(&mut self, spi: Spi, path: SaPath) -> Result<(), GuardError> {
        let entry = self.sas.get_mut(&spi).ok_or(GuardError::NoSuchSa { spi })?;
        (entry.path, entry.worker) = match path {
            SaPath::Stack => (Sa::PATH_STACK, 0),
            SaPath::Xsk { worker } => (Sa::PATH_XSK, worker),
            SaPath::Bpf => (Sa::PATH_BPF, 0),
            SaPath::Cpu { cpu } => (Sa::PATH_CPU, cpu),
        };
        self.maps.update_sa(spi, *entry)
    }

    /// Lets packets be handed to these CPUs ([`SaPath::Cpu`]): for each the kernel starts a thread and a queue, beyond whose
    /// [`CPU_QUEUE`] packets it drops.
    ///
    /// # Errors
    ///
    /// [`GuardError::Map`] for a CPU that the host does not have.
    pub fn spread(&mut self, cpus: impl IntoIterator<Item = u32>) -> Result<(), GuardError> {
        cpus.into_iter().try_for_each(|cpu| self.maps.set_cpu(cpu, CPU_QUEUE))
    }

    /// How it stands at an interface, if it does.
    pub(crate) fn stands_at(&self, ifname: &str) -> Option<AttachedMode> {
        self.hooks.iter().find(|hook| hook.interface() == ifname).map(|hook| hook.mode)
    }

    /// Has this program take, behind the guard's under XDP, what that lets through and is the engine's: at WAN devices
    /// packets of SAs with [`SaPath::Bpf`], at LAN devices what no AF_XDP socket takes.
    pub(crate) fn precede(&mut self, lan: bool, program: &ProgramFd) -> Result<(), GuardError> {
        self.maps.set_next(if lan { NEXT_LAN } else { NEXT_WAN }, program)
    }

    /// Gives packets of SAs of this worker, arriving at the receiver's queue, to the receiver, in place of another one if
    /// there was one.
    ///
    /// # Errors
    ///
    /// [`GuardError::TooManySockets`].
    pub fn add_receiver(&mut self, worker: u32, receiver: &Endpoint) -> Result<(), GuardError> {
        let key = XskKey { device: receiver.device, queue: receiver.queue, worker };
        let slot = match self.redirects.slots.get(&key) {
            Some(slot) => *slot,
            None => (0..MAX_XSKS)
                .find(|slot| !self.redirects.slots.values().any(|used| used == slot))
                .ok_or(GuardError::TooManySockets { most: MAX_XSKS })?,
        };
        let longest = u32::try_from(receiver.longest).unwrap_or(u32::MAX);
        self.maps.set_xsk(key, XskSlot { slot, longest }, receiver.as_fd())?;
        self.redirects.slots.insert(key, slot);
        Ok(())
    }

    /// Gives no more packets to the sockets at a device, by its index: they go to the stack.
    pub fn remove_receivers(&mut self, device: u32) -> Result<(), GuardError> {
        let keys: Vec<XskKey> =
            self.redirects.slots.keys().copied().filter(|key| key.device == device).collect();
        for key in keys {
            if let Some(slot) = self.redirects.slots.remove(&key) {
                self.maps.unset_xsk(key, slot)?;
            }
        }
        Ok(())
    }
}
