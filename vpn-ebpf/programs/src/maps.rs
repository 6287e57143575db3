//! The maps, and the classifier's view of them. Their layout is `culvert_ebpf_shared::layout`.
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use culvert_ebpf_shared::layout::{
    COUNTERS as COUNTERS_LEN, Config, Counter, Limit, MAX_LOCALS, MAX_PROVEN, MAX_SAS, MAX_SOURCES, MODE_OFF,
    Present, Sa, SaKey, counter_index,
};
use culvert_ebpf_shared::limit::Rate;
use culvert_ebpf_shared::{Address, Admission, Reason, Tables};

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
static LOCALS: HashMap<Address, Present, { MAX_LOCALS as usize }> = HashMap::new();

#[btf_map]
static SAS: HashMap<SaKey, Sa, { MAX_SAS as usize }> = HashMap::new();

#[btf_map]
static SA_COUNTERS: PerCpuArray<Counter, { MAX_SAS as usize }> = PerCpuArray::new();

#[btf_map]
static PROVEN: HashMap<Address, Present, { MAX_PROVEN as usize }> = HashMap::new();

#[btf_map]
static LIMITS: LruHashMap<Address, Limit, { MAX_SOURCES as usize }> = LruHashMap::new();

#[btf_map]
static CEILING: Array<Limit, 1> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counter, { COUNTERS_LEN as usize }> = PerCpuArray::new();

/// Tries to charge a limit that other CPUs charge at the same time, before it counts as exceeded.
const ATTEMPTS: u32 = 4;

pub(crate) fn mode() -> u32 {
    CONFIG.get(0).map_or(MODE_OFF, |config| config.mode)
}

/// The second in which somebody looks at what is dropped; 0: nobody does.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    CONFIG.get(0).map_or(0, |config| config.epoch)
}

#[inline(always)]
pub(crate) fn count(reason: Reason, learning: bool, packets: u64, bytes: u64) {
    add(COUNTERS.get_ptr_mut(counter_index(reason, learning)), packets, bytes);
}

#[inline(always)]
pub(crate) fn count_sa(slot: u32, packets: u64, bytes: u64) {
    add(SA_COUNTERS.get_ptr_mut(slot), packets, bytes);
}

#[inline(always)]
fn add(counter: Option<*mut Counter>, packets: u64, bytes: u64) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own copy, and programs of one CPU do not interrupt each other here.
        unsafe {
            (*counter).packets += packets;
            (*counter).bytes += bytes;
        }
    }
}

/// The maps as the judge asks them.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        LOCALS.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn sa(&self, key: &SaKey) -> Option<&Sa> {
        // SAFETY: user space replaces whole entries; the old one stays readable until this program ends (RCU), and at
        // worst a re-used one is read as a mixture, which costs a packet its verdict, not memory.
        SAS.get_ptr(key).map(|sa| unsafe { &*sa })
    }

    #[inline(always)]
    fn is_proven(&self, address: &Address) -> bool {
        PROVEN.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn admit(&self, source: &Address) -> Admission {
        let Some(config) = CONFIG.get(0) else { return Admission::Admitted };
        // SAFETY: a helper without preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        let source = source.limited_as();
        match LIMITS.get_ptr_mut(&source) {
            Some(limit) => {
                if !charge(limit, &config.ike_source, now) {
                    return Admission::SourceRate;
                }
            }
            None => {
                let due = config.ike_source.admit(0, now).unwrap_or(now);
                // Cannot fail but for want of memory, and then the ceiling still holds.
                let _ = LIMITS.insert(&source, Limit { due }, 0);
            }
        }
        match CEILING.get_ptr_mut(0) {
            Some(limit) if !charge(limit, &config.ike_ceiling, now) => Admission::Ceiling,
            _ => Admission::Admitted,
        }
    }
}

/// Takes one event off a limit. All CPUs share it.
#[inline(always)]
fn charge(limit: *mut Limit, rate: &Rate, now: u64) -> bool {
    // SAFETY: a map value, aligned to 8 bytes.
    unsafe {
        let due = &raw mut (*limit).due;
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            let seen = due.read_volatile();
            let Some(next) = rate.admit(seen, now) else { return false };
            let (_, swapped) =
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(due, seen, next);
            if swapped {
                return true;
            }
            attempt += 1;
        }
    }
    // Only a flood makes so many CPUs collide.
    false
}
