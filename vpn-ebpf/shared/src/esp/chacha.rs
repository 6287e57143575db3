//! The ChaCha20 block function (RFC 8439 2.3), for machines of 32-bit words and loops.
use super::State;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

macro_rules! quarter {
    ($a:ident, $b:ident, $c:ident, $d:ident) => {
        $a = $a.wrapping_add($b);
        $d = ($d ^ $a).rotate_left(16);
        $c = $c.wrapping_add($d);
        $b = ($b ^ $c).rotate_left(12);
        $a = $a.wrapping_add($b);
        $d = ($d ^ $a).rotate_left(8);
        $c = $c.wrapping_add($d);
        $b = ($b ^ $c).rotate_left(7);
    };
}

/// The key stream of one block, for the key, counter and nonce of [`State::input`].
///
/// Sixteen variables and not an array: BPF has ten registers, and the compiler spills single words better.
#[inline(always)]
pub fn block(s: &mut State) {
    let [c0, c1, c2, c3] = CONSTANTS;
    let i = s.input;
    let (mut x0, mut x1, mut x2, mut x3) = (c0, c1, c2, c3);
    let (mut x4, mut x5, mut x6, mut x7) = (i[4], i[5], i[6], i[7]);
    let (mut x8, mut x9, mut x10, mut x11) = (i[8], i[9], i[10], i[11]);
    let (mut x12, mut x13, mut x14, mut x15) = (i[12], i[13], i[14], i[15]);
    let mut round = 0;
    while round < 10 {
        quarter!(x0, x4, x8, x12);
        quarter!(x1, x5, x9, x13);
        quarter!(x2, x6, x10, x14);
        quarter!(x3, x7, x11, x15);
        quarter!(x0, x5, x10, x15);
        quarter!(x1, x6, x11, x12);
        quarter!(x2, x7, x8, x13);
        quarter!(x3, x4, x9, x14);
        round += 1;
    }
    // From the input again and not from `i`: what the rounds keep needs the stack.
    s.stream[0] = x0.wrapping_add(c0);
    s.stream[1] = x1.wrapping_add(c1);
    s.stream[2] = x2.wrapping_add(c2);
    s.stream[3] = x3.wrapping_add(c3);
    s.stream[4] = x4.wrapping_add(s.input[4]);
    s.stream[5] = x5.wrapping_add(s.input[5]);
    s.stream[6] = x6.wrapping_add(s.input[6]);
    s.stream[7] = x7.wrapping_add(s.input[7]);
    s.stream[8] = x8.wrapping_add(s.input[8]);
    s.stream[9] = x9.wrapping_add(s.input[9]);
    s.stream[10] = x10.wrapping_add(s.input[10]);
    s.stream[11] = x11.wrapping_add(s.input[11]);
    s.stream[12] = x12.wrapping_add(s.input[12]);
    s.stream[13] = x13.wrapping_add(s.input[13]);
    s.stream[14] = x14.wrapping_add(s.input[14]);
    s.stream[15] = x15.wrapping_add(s.input[15]);
}
