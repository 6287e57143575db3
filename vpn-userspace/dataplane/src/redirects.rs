//! What the owner of the guard must tell it, so that packets come to the AF_XDP sockets of the engine `user`.

use culvert_sys::guard::{Guard, GuardError};
use culvert_sys::xsk::Endpoint;

/// A device of the LAN that takes packets of tunnels by AF_XDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanDevice {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

/// Sockets that came and went, and the tunnels and devices that they serve.
#[derive(Debug, Default)]
pub struct Redirects {
    /// Devices, by their indices, whose sockets are gone. Before what was added.
    pub gone: Vec<u32>,
    /// An inbound worker and a socket of its own.
    pub added: Vec<(u32, Endpoint)>,
    /// Devices of the LAN at which packets are taken.
    pub lans: Vec<LanDevice>,
    /// An outbound worker and a socket of its own at one of those.
    pub lan_added: Vec<(u32, Endpoint)>,
    /// Tunnels, by the index of their interface, and the worker that seals the packets that routes lead there; `None`: they
    /// are the stack's.
    pub tunnels: Vec<(u32, Option<u32>)>,
}

impl LanDevice {
    /// Has the guard take packets there, in the network namespace of the device.
    ///
    /// # Errors
    /// Those of [`Guard::attach_lan`].
    pub fn attach(&self, guard: &mut Guard) -> Result<(), GuardError> {
        // What was attached to a device of the same name went with it.
        guard.detach(&self.name);
        guard.attach_lan(&self.name)?;
        guard.set_lan(self.index, self.mac)
    }
}

impl Redirects {
    /// Tells the guard, in the network namespace of the devices. Returns what it refused, each with what was tried: there
    /// the stack serves.
    pub fn tell(self, guard: &mut Guard) -> Vec<(String, GuardError)> {
        let mut refused = Vec::new();
        let mut attempt = |what: String, outcome: Result<(), GuardError>| {
            if let Err(error) = outcome {
                refused.push((what, error));
            }
        };
        for device in self.gone {
            attempt("forget AF_XDP sockets".to_owned(), guard.remove_receivers(device));
            attempt("forget a LAN device".to_owned(), guard.remove_lan(device));
        }
        for (worker, endpoint) in self.added {
            attempt("lead to an AF_XDP socket".to_owned(), guard.add_receiver(worker, &endpoint));
        }
        for (worker, endpoint) in self.lan_added {
            attempt("lead a LAN to an AF_XDP socket".to_owned(), guard.add_lan_receiver(worker, &endpoint));
        }
        for device in self.lans {
            attempt(format!("take packets of the LAN at {}", device.name), device.attach(guard));
        }
        for (interface, worker) in self.tunnels {
            let outcome = match worker {
                Some(worker) => guard.set_lan_tunnel(interface, worker),
                None => guard.remove_lan_tunnel(interface),
            };
            attempt("lead packets of the LAN to a tunnel".to_owned(), outcome);
        }
        refused
    }
}
