//! The program at LAN interfaces: which of them, and which tunnels' workers get the packets that routes lead there.
use super::attach::{self, Attached};
use super::{Guard, GuardError};
use crate::xsk::Endpoint;
use culvert_ebpf_shared::lan::{Lan, LanTunnel, SEALS};

impl Guard {
    /// Attaches the program that leads packets into tunnels to a LAN interface (of the network namespace of the calling
    /// thread): natively, or else generically. Until it is told of sockets and tunnels all packets go to the stack.
    ///
    /// # Errors
    ///
    /// [`GuardError::AlreadyAttached`] for an interface of the WAN, otherwise as [`Guard::attach`].
    pub fn attach_lan(&mut self, ifname: &str) -> Result<Attached, GuardError> {
        if self.hooks.iter().any(|hook| hook.interface() == ifname) {
            return Err(GuardError::AlreadyAttached { interface: ifname.to_owned() });
        }
        self.maps.set_config(self.config)?;
        let (hook, attached) = attach::attach_lan(&mut self.ebpf, ifname)?;
        self.hooks.push(hook);
        Ok(attached)
    }

    /// Takes packets to this link-layer address at a LAN interface, by its index.
    pub fn set_lan(&mut self, device: u32, mac: [u8; 6]) -> Result<(), GuardError> {
        self.maps.set_lan(device, Lan::new(mac))
    }

    /// Takes no packets there any more. Fine if it never did.
    pub fn remove_lan(&mut self, device: u32) -> Result<(), GuardError> {
        self.maps.remove_lan(device)
    }

    /// Gives what routes lead to this interface, a tunnel's, to a worker that seals.
    pub fn set_lan_tunnel(&mut self, interface: u32, worker: u32) -> Result<(), GuardError> {
        self.maps.set_lan_tunnel(interface, LanTunnel { worker: worker & !SEALS })
    }

    /// Leaves what routes lead to this interface to the stack.
    pub fn remove_lan_tunnel(&mut self, interface: u32) -> Result<(), GuardError> {
        self.maps.remove_lan_tunnel(interface)
    }

    /// Gives packets of tunnels of this worker, arriving at the receiver's queue of a LAN interface, to the receiver.
    ///
    /// # Errors
    ///
    /// As [`Guard::add_receiver`].
    pub fn add_lan_receiver(&mut self, worker: u32, receiver: &Endpoint) -> Result<(), GuardError> {
        self.add_receiver(worker | SEALS, receiver)
    }
}
