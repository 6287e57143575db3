//! The steps of `culvert_ebpf_shared::esp`, each a global function: the verifier sees it once, by itself, and calls cost
//! it nothing. Each answers with a number, which the verifier demands of global functions.
use crate::maps;
use culvert_ebpf_shared::esp::State;
use culvert_ebpf_shared::esp::aead::{self, Steps};
use culvert_ebpf_shared::esp::layout::{MAX_ACTIVE, Peer, Selectors, Tunnel};
use culvert_ebpf_shared::esp::{chacha, inner, mss, outer, small};

macro_rules! step {
    ($(#[$doc:meta])* $name:ident, $s:ident $(, $argument:ident: $type:ty)* => $body:expr) => {
        $(#[$doc])*
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name(state: *mut State $(, $argument: $type)*) -> i32 {
            if state.is_null() {
                return -1;
            }
            // SAFETY: the verifier sees to it that a state is passed.
            let $s = unsafe { &mut *state };
            $body
        }
    };
}

step!(esp_block, s => {
    chacha::block(s);
    0
});
step!(esp_begin, s => {
    aead::begin(s);
    0
});
step!(esp_finish, s => {
    aead::finish(s);
    0
});
step!(esp_seal_block, s, block: u32 => {
    aead::seal_block(s, block);
    0
});
step!(esp_seal_rest, s, block: u32, words: u32 => {
    aead::seal_rest(s, block, words);
    0
});
step!(esp_open_block, s, block: u32 => {
    aead::open_block(s, block);
    0
});
step!(esp_open_rest, s, block: u32, words: u32 => {
    aead::open_rest(s, block, words);
    0
});
step!(
    /// 1 if it was done.
    esp_seal, s => aead::seal::<Global>(s) as i32
);
step!(
    /// 1 if it is authentic.
    esp_open, s => aead::open::<Global>(s) as i32
);
step!(
    /// 1 if the headers make sense.
    esp_inspect, s => inner::inspect(s) as i32
);
step!(
    /// 1 if the padding is right.
    esp_unpad, s => inner::unpad(s) as i32
);
step!(esp_clamp, s, mtu: u32 => {
    if mss::is_syn(s) {
        mss::clamp(s, mtu);
    }
    0
});
step!(esp_decrement_ttl, s => {
    inner::decrement_ttl(s);
    0
});
step!(
    /// 1 if the packet goes on.
    esp_decapsulate_ecn, s, outer: u32 => inner::decapsulate_ecn(s, outer) as i32
);
step!(
    /// 1 if its path may be cut short.
    esp_is_plain, s => inner::is_plain(s) as i32
);
step!(esp_pad, s => {
    inner::pad(s);
    0
});
step!(esp_ask_inner, s, interface: u32 => {
    outer::ask_inner(s, interface);
    0
});
step!(esp_unwrap, s => {
    outer::unwrap(s);
    0
});
step!(esp_ask, s, peer: *const Peer => {
    if peer.is_null() {
        return -1;
    }
    // SAFETY: the verifier sees to it.
    outer::ask(s, unsafe { &*peer });
    0
});
step!(esp_wrap, s, peer: *const Peer => {
    if peer.is_null() {
        return -1;
    }
    // SAFETY: the verifier sees to it.
    outer::wrap(s, unsafe { &*peer });
    0
});
step!(
    /// 1 if an SA carries the packet.
    esp_matches, s, selectors: *const Selectors, outbound: u32 => {
        if selectors.is_null() {
            return -1;
        }
        // SAFETY: the verifier sees to it.
        let selectors = unsafe { &*selectors };
        if outbound != 0 {
            inner::matches(selectors, s, true) as i32
        } else {
            inner::matches(selectors, s, false) as i32
        }
    }
);
step!(
    /// 1 if it is this engine's.
    esp_is_small, s, tunnel: *const Tunnel => {
        if tunnel.is_null() {
            return -1;
        }
        // SAFETY: the verifier sees to it.
        small::is_small(s, unsafe { &*tunnel }) as i32
    }
);
step!(esp_finish_checksum, s => {
    small::finish_checksum(s);
    0
});
step!(
    /// The slot of the first SA in use that carries the packet, or -1.
    esp_select, s, tunnel: *const Tunnel => {
        if tunnel.is_null() {
            return -1;
        }
        // SAFETY: the verifier sees to it.
        let tunnel = unsafe { &*tunnel };
        let mut i = 0;
        while i < MAX_ACTIVE {
            if i as u32 >= tunnel.active {
                break;
            }
            let slot = tunnel.slots[i];
            i += 1;
            let Some(selectors) = maps::SELECTORS.get_ptr(&slot) else { continue };
            if esp_matches(s, selectors, 1) == 1 {
                return (slot & 0xffff) as i32;
            }
        }
        -1
    }
);

/// Calls of the functions above.
struct Global;

impl Steps for Global {
    #[inline(always)]
    fn block(s: &mut State) {
        esp_block(s);
    }
    #[inline(always)]
    fn begin(s: &mut State) {
        esp_begin(s);
    }
    #[inline(always)]
    fn seal_block(s: &mut State, block: u32) {
        esp_seal_block(s, block);
    }
    #[inline(always)]
    fn seal_rest(s: &mut State, block: u32, words: u32) {
        esp_seal_rest(s, block, words);
    }
    #[inline(always)]
    fn open_block(s: &mut State, block: u32) {
        esp_open_block(s, block);
    }
    #[inline(always)]
    fn open_rest(s: &mut State, block: u32, words: u32) {
        esp_open_rest(s, block, words);
    }
    #[inline(always)]
    fn finish(s: &mut State) {
        esp_finish(s);
    }
}
