//! Packets of the engine `bpf` that come to a socket of the engine `user`: the stack put them together from fragments,
//! or had joined them with others. They are opened by the program all the same.

use culvert_sys::lock::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use culvert_sys::esp_bpf::OddOpener;
use culvert_sys::tun::VnetHeader;
use culvert_types::Spi;

use super::tunnel::Behind;
use crate::user::tunnel::TunnelShared;

/// The door that inbound workers knock at with a packet of an SPI that they do not know. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct OddDoor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// How many SAs there are behind it: most gateways have none, and their workers take no lock.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    opener: Option<OddOpener>,
    /// By SPI, where what is in its packets goes.
    sas: HashMap<u32, Destination>,
}

enum Destination {
    /// A tunnel's back, by its index.
    Back(u32),
    Tun(Arc<TunnelShared>),
}

impl OddDoor {
    /// Opens packets with this from now on.
    pub(super) fn equip(&self, opener: OddOpener) {
        self.state().opener = Some(opener);
    }

    /// Packets of this SA are the engine's.
    pub(super) fn add(&self, spi: Spi, behind: &Behind) {
        let mut state = self.state();
        let into = match behind {
            Behind::Back(_, index) => Destination::Back(*index),
            Behind::User(shared) => Destination::Tun(shared.clone()),
        };
        state.sas.insert(spi.value(), into);
        self.0.count.store(state.sas.len(), Ordering::Relaxed);
    }

    /// They are no more.
    pub(super) fn remove(&self, spi: Spi) {
        let mut state = self.state();
        state.sas.remove(&spi.value());
        self.0.count.store(state.sas.len(), Ordering::Relaxed);
    }

    /// Whether the packet was the engine's; then it is dealt with. What cannot be opened the program has counted.
    pub(crate) fn open(&self, spi: u32, ends: (SocketAddr, SocketAddr), tos: u8, esp: &[u8]) -> bool {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut state = self.state();
        let State { opener, sas } = &mut *state;
        let (Some(into), Some(opener)) = (sas.get(&spi), opener) else { return false };
        // Too long for the programs, or an interface that is just going: lost like on any wire.
        match into {
            Destination::Back(index) => {
                let _ = opener.open(*index, ends, tos, esp);
            }
            Destination::Tun(shared) => {
                if let Ok(Some(packet)) = opener.open_packet(ends, tos, esp) {
                    let header = VnetHeader::default().encode();
                    let _ = shared.tun().write(&[IoSlice::new(&header), IoSlice::new(packet)]);
                }
            }
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}
