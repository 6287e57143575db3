//! The guard's maps, typed: names and layouts are those of vpn-ebpf.
use super::GuardError;
use aya::maps::xdp::XdpMapError;
use aya::maps::{
    Array, CpuMap, HashMap, MapData, MapError, PerCpuArray, PerCpuValues, ProgramArray, RingBuf, XskMap,
};
use aya::programs::ProgramFd;
use culvert_ebpf_shared::lan::{Lan, LanTunnel};
use culvert_ebpf_shared::layout::{Config, Counter, Plain, Present, Sa, SaKey, counter_index};
use culvert_ebpf_shared::redirect::{XskKey, XskSlot};
use culvert_ebpf_shared::sample::Sample;
use culvert_ebpf_shared::{Address, Reason};
use culvert_types::Spi;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A value as aya takes it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: repr(transparent) around a type that `Plain` vouches for: repr(C), no padding, every bit pattern valid.
unsafe impl<T: Plain> aya::Pod for Wire<T> {}

const PRESENT: Wire<Present> = Wire(Present { present: 1 });
/// Flag of map updates: the entry must exist (BPF_EXIST).
const MUST_EXIST: u64 = 2;
/// Flag of map updates: the entry must not exist (BPF_NOEXIST).
const MUST_BE_NEW: u64 = 1;

pub(super) struct Maps {
    config: Array<MapData, Wire<Config>>,
    locals: HashMap<MapData, Wire<Address>, Wire<Present>>,
    proven: HashMap<MapData, Wire<Address>, Wire<Present>>,
    sas: HashMap<MapData, Wire<SaKey>, Wire<Sa>>,
    sa_counters: PerCpuArray<MapData, Wire<Counter>>,
    counters: PerCpuArray<MapData, Wire<Counter>>,
    xsks: XskMap<MapData>,
    xsk_slots: HashMap<MapData, Wire<XskKey>, Wire<XskSlot>>,
    lans: HashMap<MapData, u32, Wire<Lan>>,
    lan_tunnels: HashMap<MapData, u32, Wire<LanTunnel>>,
    next: ProgramArray<MapData>,
    cpus: CpuMap<MapData>,
    samples: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Maps, GuardError> {
        let mut map = |name: &'static str| ebpf.take_map(name).ok_or(GuardError::Missing(name));
        Ok(Maps {
            config: map("CONFIG")?.try_into().map_err(GuardError::map("CONFIG"))?,
            locals: map("LOCALS")?.try_into().map_err(GuardError::map("LOCALS"))?,
            proven: map("PROVEN")?.try_into().map_err(GuardError::map("PROVEN"))?,
            sas: map("SAS")?.try_into().map_err(GuardError::map("SAS"))?,
            sa_counters: map("SA_COUNTERS")?.try_into().map_err(GuardError::map("SA_COUNTERS"))?,
            counters: map("COUNTERS")?.try_into().map_err(GuardError::map("COUNTERS"))?,
            xsks: map("XSKS")?.try_into().map_err(GuardError::map("XSKS"))?,
            xsk_slots: map("XSK_SLOTS")?.try_into().map_err(GuardError::map("XSK_SLOTS"))?,
            lans: map("LANS")?.try_into().map_err(GuardError::map("LANS"))?,
            lan_tunnels: map("LAN_TUNNELS")?.try_into().map_err(GuardError::map("LAN_TUNNELS"))?,
            next: map("NEXT")?.try_into().map_err(GuardError::map("NEXT"))?,
            cpus: map("CPUS")?.try_into().map_err(GuardError::map("CPUS"))?,
            samples: map("SAMPLES")?.try_into().map_err(GuardError::map("SAMPLES"))?,
        })
    }

    pub(super) fn set_config(&mut self, config: Config) -> Result<(), GuardError> {
        self.config.set(0, Wire(config), 0).map_err(GuardError::map("CONFIG"))
    }

    pub(super) fn add_local(&mut self, address: Address) -> Result<(), GuardError> {
        self.locals.insert(Wire(address), PRESENT, 0).map_err(GuardError::map("LOCALS"))
    }

    pub(super) fn remove_local(&mut self, address: Address) -> Result<(), GuardError> {
        gone(self.locals.remove(&Wire(address))).map_err(GuardError::map("LOCALS"))
    }

    pub(super) fn add_proven(&mut self, address: Address) -> Result<(), GuardError> {
        self.proven.insert(Wire(address), PRESENT, 0).map_err(GuardError::map("PROVEN"))
    }

    pub(super) fn remove_proven(&mut self, address: Address) -> Result<(), GuardError> {
        gone(self.proven.remove(&Wire(address))).map_err(GuardError::map("PROVEN"))
    }

    pub(super) fn insert_sa(&mut self, spi: Spi, sa: Sa) -> Result<(), GuardError> {
        self.sas.insert(key(spi), Wire(sa), MUST_BE_NEW).map_err(GuardError::map("SAS"))
    }

    pub(super) fn update_sa(&mut self, spi: Spi, sa: Sa) -> Result<(), GuardError> {
        self.sas.insert(key(spi), Wire(sa), MUST_EXIST).map_err(GuardError::map("SAS"))
    }

    pub(super) fn remove_sa(&mut self, spi: Spi) -> Result<(), GuardError> {
        gone(self.sas.remove(&key(spi))).map_err(GuardError::map("SAS"))
    }

    pub(super) fn clear_sa_counter(&mut self, slot: u32) -> Result<(), GuardError> {
        PerCpuValues::try_from(vec![Wire(Counter::default()); host_cpus()? as usize])
            .map_err(|cause| GuardError::Kernel { what: "ask for the number of CPUs", cause })
            .and_then(|zeroes| self.sa_counters.set(slot, zeroes, 0).map_err(GuardError::map("SA_COUNTERS")))
    }

    pub(super) fn sa_counter(&self, slot: u32) -> Result<Counter, GuardError> {
        self.sa_counters.get(&slot, 0).map(|values| sum(&values)).map_err(GuardError::map("SA_COUNTERS"))
    }

    pub(super) fn counter(&self, reason: Reason, learning: bool) -> Result<Counter, GuardError> {
        let index = counter_index(reason, learning);
        self.counters.get(&index, 0).map(|values| sum(&values)).map_err(GuardError::map("COUNTERS"))
    }
}

impl Maps {
    /// The next sample.
    pub(super) fn sample(&mut self) -> Option<Sample> {
        self.samples.next().and_then(|item| read_plain(&item))
    }

    pub(super) fn set_xsk(
        &mut self,
        key: XskKey,
        slot: XskSlot,
        socket: BorrowedFd<'_>,
    ) -> Result<(), GuardError> {
        // The socket first: an entry that leads to none would be no loss, but a detour.
        self.xsks.set(slot.slot, socket.as_raw_fd(), 0).map_err(GuardError::map("XSKS"))?;
        self.xsk_slots.insert(Wire(key), Wire(slot), 0).map_err(GuardError::map("XSK_SLOTS"))
    }

    pub(super) fn unset_xsk(&mut self, key: XskKey, slot: u32) -> Result<(), GuardError> {
        gone(self.xsk_slots.remove(&Wire(key))).map_err(GuardError::map("XSK_SLOTS"))?;
        // The kernel empties the place of a socket that was closed.
        gone(self.xsks.unset(slot)).map_err(GuardError::map("XSKS"))
    }

    pub(super) fn set_cpu(&mut self, cpu: u32, queue: u32) -> Result<(), GuardError> {
        let refused = |cause| match cause {
            XdpMapError::MapError(cause) => GuardError::map("CPUS")(cause),
            XdpMapError::ChainedProgramNotSupported => GuardError::Missing("CPUS"),
        };
        self.cpus.set(cpu, queue, None, 0).map_err(refused)
    }

    pub(super) fn set_next(&mut self, place: u32, program: &ProgramFd) -> Result<(), GuardError> {
        self.next.set(place, program, 0).map_err(GuardError::map("NEXT"))
    }

    pub(super) fn set_lan(&mut self, device: u32, lan: Lan) -> Result<(), GuardError> {
        self.lans.insert(device, Wire(lan), 0).map_err(GuardError::map("LANS"))
    }

    pub(super) fn remove_lan(&mut self, device: u32) -> Result<(), GuardError> {
        gone(self.lans.remove(&device)).map_err(GuardError::map("LANS"))
    }

    pub(super) fn set_lan_tunnel(&mut self, interface: u32, tunnel: LanTunnel) -> Result<(), GuardError> {
        self.lan_tunnels.insert(interface, Wire(tunnel), 0).map_err(GuardError::map("LAN_TUNNELS"))
    }

    pub(super) fn remove_lan_tunnel(&mut self, interface: u32) -> Result<(), GuardError> {
        gone(self.lan_tunnels.remove(&interface)).map_err(GuardError::map("LAN_TUNNELS"))
    }
}

/// CPUs that the host could have.
pub(super) fn host_cpus() -> Result<u32, GuardError> {
    let cpus = aya::util::nr_cpus();
    let cpus = cpus.map_err(|(_, cause)| GuardError::Kernel { what: "ask for the number of CPUs", cause })?;
    Ok(u32::try_from(cpus).unwrap_or(u32::MAX))
}

fn key(spi: Spi) -> Wire<SaKey> {
    Wire(SaKey(spi.value().to_be()))
}

fn sum(values: &PerCpuValues<Wire<Counter>>) -> Counter {
    values.iter().fold(Counter::default(), |sum, Wire(counter)| Counter {
        packets: sum.packets.wrapping_add(counter.packets),
        bytes: sum.bytes.wrapping_add(counter.bytes),
    })
}

/// A value out of a ring.
pub(crate) fn read_plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: so many bytes are there, and every pattern of them is a value (`Plain`).
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Removing what is not there is as good as removing it.
pub(crate) fn gone(outcome: Result<(), MapError>) -> Result<(), MapError> {
    match outcome {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}
