//! Poly1305 (RFC 8439 2.5) in words of 32 bits: BPF multiplies 64 by 64 bits into 64, so no product may be longer.
//!
//! r is clamped below 2^28 a word, the accumulator's words are kept below 2^34: five products sum up below 2^64.
use super::State;

/// Takes r and s from the key stream of block 0 (RFC 8439 2.6), and begins.
#[inline(always)]
pub fn begin(s: &mut State) {
    s.r = [
        s.stream[0] & 0x0fff_ffff,
        s.stream[1] & 0x0fff_fffc,
        s.stream[2] & 0x0fff_fffc,
        s.stream[3] & 0x0fff_fffc,
    ];
    // r's upper words are multiples of 4, so that 5/4 of them are whole: what reduces modulo 2^130 - 5.
    let mut i = 1;
    while i < 4 {
        s.r54[i] = s.r[i] + (s.r[i] >> 2);
        i += 1;
    }
    s.pad = [s.stream[4], s.stream[5], s.stream[6], s.stream[7]];
    s.sum = [0; 5];
}

/// One block of 16 bytes; `top` is the bit behind it, 1 for a whole block.
#[inline(always)]
pub fn absorb(s: &State, h: &mut [u64; 5], m: [u32; 4], top: u64) {
    let a = [h[0] + m[0] as u64, h[1] + m[1] as u64, h[2] + m[2] as u64, h[3] + m[3] as u64, h[4] + top];
    let (r0, r1, r2, r3) = (s.r[0] as u64, s.r[1] as u64, s.r[2] as u64, s.r[3] as u64);
    let (s1, s2, s3) = (s.r54[1] as u64, s.r54[2] as u64, s.r54[3] as u64);
    let w = u64::wrapping_mul;
    let d0 = w(a[0], r0).wrapping_add(w(a[1], s3)).wrapping_add(w(a[2], s2)).wrapping_add(w(a[3], s1));
    let d1 = w(a[0], r1).wrapping_add(w(a[1], r0)).wrapping_add(w(a[2], s3)).wrapping_add(w(a[3], s2));
    let d1 = d1.wrapping_add(w(a[4], s1)).wrapping_add(d0 >> 32);
    let d2 = w(a[0], r2).wrapping_add(w(a[1], r1)).wrapping_add(w(a[2], r0)).wrapping_add(w(a[3], s3));
    let d2 = d2.wrapping_add(w(a[4], s2)).wrapping_add(d1 >> 32);
    let d3 = w(a[0], r3).wrapping_add(w(a[1], r2)).wrapping_add(w(a[2], r1)).wrapping_add(w(a[3], r0));
    let d3 = d3.wrapping_add(w(a[4], s3)).wrapping_add(d2 >> 32);
    let d4 = w(a[4], r0).wrapping_add(d3 >> 32);
    h[0] = (d0 as u32 as u64).wrapping_add((d4 >> 2).wrapping_mul(5));
    h[1] = d1 as u32 as u64;
    h[2] = d2 as u32 as u64;
    h[3] = d3 as u32 as u64;
    h[4] = d4 & 3;
}

/// The accumulator brought below 2^130 - 5 and s added: the check value, in [`State::tag`].
#[inline(always)]
pub fn finish(s: &mut State) {
    let mut h = s.sum;
    let mut pass = 0;
    while pass < 2 {
        h[1] += h[0] >> 32;
        h[0] = h[0] as u32 as u64;
        h[2] += h[1] >> 32;
        h[1] = h[1] as u32 as u64;
        h[3] += h[2] >> 32;
        h[2] = h[2] as u32 as u64;
        h[4] += h[3] >> 32;
        h[3] = h[3] as u32 as u64;
        if pass == 0 {
            h[0] += (h[4] >> 2) * 5;
            h[4] &= 3;
        }
        pass += 1;
    }
    // h - p, and which of the two it is, without a branch.
    let g0 = h[0] + 5;
    let g1 = h[1] + (g0 >> 32);
    let g2 = h[2] + (g1 >> 32);
    let g3 = h[3] + (g2 >> 32);
    let g4 = h[4] + (g3 >> 32);
    let mask = 0u32.wrapping_sub((g4 >> 2 & 1) as u32);
    let chosen = |g: u64, h: u64| ((g as u32) & mask | (h as u32) & !mask) as u64;
    let t0 = chosen(g0, h[0]) + s.pad[0] as u64;
    let t1 = chosen(g1, h[1]) + s.pad[1] as u64 + (t0 >> 32);
    let t2 = chosen(g2, h[2]) + s.pad[2] as u64 + (t1 >> 32);
    let t3 = chosen(g3, h[3]) + s.pad[3] as u64 + (t2 >> 32);
    s.tag = [t0 as u32, t1 as u32, t2 as u32, t3 as u32];
}
