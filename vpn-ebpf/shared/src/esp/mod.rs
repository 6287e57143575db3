//! ESP with ChaCha20-Poly1305 (RFC 7634) inside eBPF: the packet in work, and every step that is done to it.
//!
//! A packet is copied into one [`State`], worked on there, and copied back: the same steps serve XDP and TC, packets
//! whose bytes lie in pages, and the tests of user space. Under the kernel's verifier each step is a function of its
//! own, verified once ([`aead::Steps`] is how they call each other), and all offsets into the state are masked or
//! compared with constants.
pub mod aead;
pub mod chacha;
pub mod poly;

use core::mem::{offset_of, size_of};

/// Room before the text: link header with a VLAN tag, outer IPv6 and UDP headers, ESP header and IV need 82 bytes.
pub const HEAD: usize = 96;
/// Words of the text and its check value.
pub const TEXT_WORDS: usize = 512;
/// Longest text, in bytes: with its check value it fits, and an inner packet of any Ethernet MTU does.
pub const MAX_TEXT: u32 = 1984;
/// Longest inner packet that is sealed, in bytes: its trailer is at most 5.
pub const MAX_INNER: u32 = MAX_TEXT - 8;

/// One packet in work. In the kernel: the value of a map with an entry for each CPU, for the stack is 512 bytes.
///
/// The bytes of the packet come first and all else behind, so that a copy whose length the verifier knows only roughly
/// stays within the value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct State {
    /// What stands before the text, at its end.
    pub head: [u8; HEAD],
    /// The inner packet, its padding, and behind it the check value; words of four bytes in the order of the wire.
    pub text: [u32; TEXT_WORDS],
    /// ChaCha20's input: key in 4 to 11, block counter, salt, IV (RFC 7634 2).
    pub input: [u32; 16],
    /// ChaCha20's output.
    pub stream: [u32; 16],
    /// Poly1305's accumulator.
    pub sum: [u64; 5],
    /// Poly1305's r.
    pub r: [u32; 4],
    /// Five quarters of r's words.
    pub r54: [u32; 4],
    /// Poly1305's s.
    pub pad: [u32; 4],
    /// The check value that was computed.
    pub tag: [u32; 4],
    /// What is authenticated beside the text: SPI, upper half of an extended sequence number, lower half.
    pub aad: [u32; 4],
    /// Bytes of that: 8, or 12 with extended sequence numbers.
    pub aad_len: u32,
    /// Bytes of the text, a multiple of 4.
    pub text_len: u32,
}

impl State {
    /// Of nothing.
    pub const EMPTY: State = State {
        head: [0; HEAD],
        text: [0; TEXT_WORDS],
        input: [0; 16],
        stream: [0; 16],
        sum: [0; 5],
        r: [0; 4],
        r54: [0; 4],
        pad: [0; 4],
        tag: [0; 4],
        aad: [0; 4],
        aad_len: 0,
        text_len: 0,
    };
}

const _: () = {
    assert!(offset_of!(State, text) == HEAD);
    assert!(offset_of!(State, input) == HEAD + 4 * TEXT_WORDS);
    assert!(size_of::<State>().is_multiple_of(8));
    assert!(MAX_TEXT as usize + 16 <= 4 * TEXT_WORDS);
};
