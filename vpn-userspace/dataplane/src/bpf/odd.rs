//! Packets of the engine `bpf` that come to a socket of the engine `user`: the stack put them together from fragments,
//! or had joined them with others. They are opened by the program all the same.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_sys::esp_bpf::OddOpener;
use culvert_types::Spi;

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
    /// By SPI, the index of the back of the SA's tunnel.
    sas: HashMap<u32, u32>,
}

impl OddDoor {
    /// Opens packets with this from now on.
    pub(super) fn equip(&self, opener: OddOpener) {
        self.state().opener = Some(opener);
    }

    /// Packets of this SA are the engine's.
    pub(super) fn add(&self, spi: Spi, back: u32) {
        let mut state = self.state();
        state.sas.insert(spi.value(), back);
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
        let (Some(&back), Some(opener)) = (sas.get(&spi), opener) else { return false };
        // Too long for the programs, or an interface that is just going: lost like on any wire.
        let _ = opener.open(back, ends, tos, esp);
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
