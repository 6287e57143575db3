//! The maps of the engine `bpf`, typed: names and layouts are those of vpn-ebpf.
use super::EspError;
use crate::guard::{Wire, gone, read_plain};
use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use culvert_ebpf_shared::esp::layout::{
    Device, EspSample, Inbound, Key, Outbound, Peer, Selectors, Tunnel, TunnelDrops,
};
use culvert_ebpf_shared::esp::reason;
use culvert_types::Spi;

/// Flag of map updates: the entry must not exist (BPF_NOEXIST).
const MUST_BE_NEW: u64 = 1;
/// Flag of map look-ups: under the entry's spin lock (BPF_F_LOCK).
const LOCKED: u64 = 4;

type Hash<T> = HashMap<MapData, u32, Wire<T>>;

pub(super) struct Maps {
    keys: Array<MapData, Wire<Key>>,
    outbound: Hash<Outbound>,
    inbound: Hash<Inbound>,
    peers: Hash<Peer>,
    selectors: Hash<Selectors>,
    tunnels: Hash<Tunnel>,
    tunnel_drops: Hash<TunnelDrops>,
    devices: Hash<Device>,
    refused: RingBuf<MapData>,
    looking: Array<MapData, u32>,
    samples: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Maps, EspError> {
        let mut map = |name: &'static str| ebpf.take_map(name).ok_or(EspError::Missing(name));
        Ok(Maps {
            keys: map("KEYS")?.try_into().map_err(EspError::map("KEYS"))?,
            outbound: map("OUTBOUND")?.try_into().map_err(EspError::map("OUTBOUND"))?,
            inbound: map("INBOUND")?.try_into().map_err(EspError::map("INBOUND"))?,
            peers: map("PEERS")?.try_into().map_err(EspError::map("PEERS"))?,
            selectors: map("SELECTORS")?.try_into().map_err(EspError::map("SELECTORS"))?,
            tunnels: map("TUNNELS")?.try_into().map_err(EspError::map("TUNNELS"))?,
            tunnel_drops: map("TUNNEL_DROPS")?.try_into().map_err(EspError::map("TUNNEL_DROPS"))?,
            devices: map("DEVICES")?.try_into().map_err(EspError::map("DEVICES"))?,
            refused: map("REFUSED")?.try_into().map_err(EspError::map("REFUSED"))?,
            looking: map("LOOKING")?.try_into().map_err(EspError::map("LOOKING"))?,
            samples: map("SAMPLES")?.try_into().map_err(EspError::map("SAMPLES"))?,
        })
    }

    pub(super) fn set_key(&mut self, at: u32, key: &Key) -> Result<(), EspError> {
        // A copy on the stack, which the caller's is as well: both are overwritten by what comes next, or by the caller.
        let mut wire = Wire(*key);
        let set = self.keys.set(at, wire, 0).map_err(EspError::map("KEYS"));
        zeroize::Zeroize::zeroize(&mut wire.0.key);
        set
    }

    pub(super) fn look(&mut self, epoch: u32) -> Result<(), EspError> {
        self.looking.set(0, epoch, 0).map_err(EspError::map("LOOKING"))
    }

    /// The next sample.
    pub(super) fn sample(&mut self) -> Option<EspSample> {
        self.samples.next().and_then(|item| read_plain(&item))
    }

    pub(super) fn set_peer(&mut self, slot: u32, peer: Peer) -> Result<(), EspError> {
        self.peers.insert(slot, Wire(peer), 0).map_err(EspError::map("PEERS"))
    }

    pub(super) fn set_selectors(&mut self, slot: u32, selectors: Selectors) -> Result<(), EspError> {
        self.selectors.insert(slot, Wire(selectors), 0).map_err(EspError::map("SELECTORS"))
    }

    pub(super) fn insert_outbound(&mut self, slot: u32, outbound: Outbound) -> Result<(), EspError> {
        self.outbound.insert(slot, Wire(outbound), MUST_BE_NEW).map_err(EspError::map("OUTBOUND"))
    }

    pub(super) fn insert_inbound(&mut self, spi: Spi, inbound: Inbound) -> Result<(), EspError> {
        self.inbound.insert(key(spi), Wire(inbound), MUST_BE_NEW).map_err(EspError::map("INBOUND"))
    }

    pub(super) fn remove_outbound(&mut self, slot: u32) -> Result<(), EspError> {
        gone(self.outbound.remove(&slot)).map_err(EspError::map("OUTBOUND"))
    }

    pub(super) fn remove_inbound(&mut self, spi: Spi) -> Result<(), EspError> {
        gone(self.inbound.remove(&key(spi))).map_err(EspError::map("INBOUND"))
    }

    pub(super) fn remove_rest(&mut self, slot: u32) -> Result<(), EspError> {
        gone(self.peers.remove(&slot)).map_err(EspError::map("PEERS"))?;
        gone(self.selectors.remove(&slot)).map_err(EspError::map("SELECTORS"))
    }

    pub(super) fn outbound(&self, slot: u32) -> Result<Option<Outbound>, EspError> {
        found(self.outbound.get(&slot, 0)).map_err(EspError::map("OUTBOUND"))
    }

    pub(super) fn inbound(&self, spi: Spi) -> Result<Option<Inbound>, EspError> {
        found(self.inbound.get(&key(spi), LOCKED)).map_err(EspError::map("INBOUND"))
    }

    /// Under the index of the interface and of its back, if it has one.
    pub(super) fn set_tunnel(&mut self, tunnel: &Tunnel) -> Result<(), EspError> {
        match self.tunnel_drops.insert(
            tunnel.interface,
            Wire(TunnelDrops { drops: [0; reason::COUNT] }),
            MUST_BE_NEW,
        ) {
            Ok(()) => {}
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(EspError::map("TUNNEL_DROPS")(error)),
        }
        let back = (!tunnel.is_split()).then_some(tunnel.back);
        for index in [tunnel.interface].into_iter().chain(back) {
            self.tunnels.insert(index, Wire(*tunnel), 0).map_err(EspError::map("TUNNELS"))?;
        }
        Ok(())
    }

    pub(super) fn remove_tunnel(&mut self, interface: u32, back: Option<u32>) -> Result<(), EspError> {
        for index in [interface].into_iter().chain(back) {
            gone(self.tunnels.remove(&index)).map_err(EspError::map("TUNNELS"))?;
        }
        gone(self.tunnel_drops.remove(&interface)).map_err(EspError::map("TUNNEL_DROPS"))
    }

    pub(super) fn tunnel_drops(&self, interface: u32) -> Result<TunnelDrops, EspError> {
        let drops = found(self.tunnel_drops.get(&interface, 0)).map_err(EspError::map("TUNNEL_DROPS"))?;
        Ok(drops.unwrap_or_default())
    }

    /// The next packet that no selector took, behind the index of its tunnel's interface.
    pub(super) fn refused<T>(&mut self, take: impl FnOnce(u32, &[u8]) -> T) -> Option<T> {
        let item = self.refused.next()?;
        let (interface, packet) = item.split_first_chunk()?;
        Some(take(u32::from_ne_bytes(*interface), packet))
    }

    pub(super) fn set_device(&mut self, index: u32, device: Device) -> Result<(), EspError> {
        self.devices.insert(index, Wire(device), 0).map_err(EspError::map("DEVICES"))
    }

    pub(super) fn remove_device(&mut self, index: u32) -> Result<(), EspError> {
        gone(self.devices.remove(&index)).map_err(EspError::map("DEVICES"))
    }
}

fn key(spi: Spi) -> u32 {
    spi.value().to_be()
}

fn found<T>(outcome: Result<Wire<T>, MapError>) -> Result<Option<T>, MapError> {
    match outcome {
        Ok(Wire(value)) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
