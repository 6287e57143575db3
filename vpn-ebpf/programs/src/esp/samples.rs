//! Samples of dropped packets for who looks, out of what the state knows of them.
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::{Array, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use culvert_ebpf_shared::esp::State;
use culvert_ebpf_shared::esp::layout::{EspSample, SAMPLE_KINDS};
use culvert_ebpf_shared::sample::{SAMPLES_BYTES, Sampled};

/// The number of this second; 0 while nobody looks.
#[btf_map]
static LOOKING: Array<u32, 1> = Array::new();

#[btf_map]
static SAMPLED: PerCpuArray<Sampled, { SAMPLE_KINDS as usize }> = PerCpuArray::new();

#[btf_map]
static SAMPLES: RingBuf<EspSample, { SAMPLES_BYTES as usize }> = RingBuf::new();

/// Shows a packet that is dropped, if somebody looks and has not seen enough of its kind. A function of its own, which the
/// verifier sees once. `sequence`: its low 32 bits, of a packet that came.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn esp_show(state: *mut State, kind: u32, interface: u32, sequence: u32) -> i32 {
    let epoch = LOOKING.get(0).map_or(0, |epoch| *epoch);
    if state.is_null() || epoch == 0 {
        return 0;
    }
    let Some(sampled) = SAMPLED.get_ptr_mut(kind) else { return 0 };
    // SAFETY: this CPU's own copy.
    if !unsafe { (*sampled).admit(epoch) } {
        return 0;
    }
    // What finds no room is counted all the same.
    let Some(mut place) = SAMPLES.reserve(0) else { return 0 };
    let sample = place.as_mut_ptr();
    // SAFETY: memory for a sample, all of which is written; and the verifier sees to it that a state is passed.
    unsafe {
        let s = &*state;
        (*sample).at = bpf_ktime_get_ns();
        (*sample).source = s.source;
        (*sample).destination = s.destination;
        (*sample).outer_source = s.outer_source;
        (*sample).outer_destination = s.outer_destination;
        (*sample).kind = kind;
        (*sample).interface = interface;
        (*sample).spi = s.esp[0];
        (*sample).sequence = sequence;
        (*sample).esp_len = s.esp_len;
        (*sample).inner_len = s.inner_len;
        (*sample).outer_port = s.outer_port;
        (*sample).protocol = s.protocol;
    }
    place.submit(BPF_RB_NO_WAKEUP as u64);
    1
}
