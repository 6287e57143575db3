//! ESP with ChaCha20-Poly1305 (RFC 7634) inside eBPF: the packet in work, and every step that is done to it.
//!
//! A packet is copied into one [`State`], worked on there, and copied back: the same steps serve XDP and TC, packets
//! whose bytes lie in pages, and the tests of user space. Under the kernel's verifier each step is a function of its
//! own, verified once ([`aead::Steps`] is how they call each other), and all offsets into the state are masked or
//! compared with constants.
pub mod aead;
pub mod chacha;
pub mod inner;
pub mod layout;
pub mod mss;
pub mod outer;
pub mod poly;
pub mod reason;
pub mod small;
pub mod window;

use crate::address::Address;
use core::mem::{offset_of, size_of};

/// Words of the room before the text: link header, outer IPv6 and UDP headers, ESP header and IV need 78 bytes.
pub const HEAD_WORDS: usize = 24;
/// Bytes of it.
pub const HEAD: usize = 4 * HEAD_WORDS;
/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
/// Bytes of ESP header and IV.
pub const ESP_AND_IV: u32 = 16;
/// Bytes of the check value.
pub const ICV: u32 = 16;
/// Words of the text and its check value.
pub const TEXT_WORDS: usize = 512;
/// Longest text, in bytes: with its check value it fits, and an inner packet of any Ethernet MTU does.
pub const MAX_TEXT: u32 = 1920;
/// Longest inner packet that is sealed, in bytes: its trailer is at most 5.
pub const MAX_INNER: u32 = MAX_TEXT - 8;

/// One packet in work. In the kernel: the value of a map with an entry for each CPU, for the stack is 512 bytes.
///
/// The bytes of the packet come first and all else behind, so that a copy whose length the verifier knows only roughly
/// stays within the value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct State {
    /// What stands before the text, at its end; words as on the wire.
    pub head: [u32; HEAD_WORDS],
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
    /// What is asked of the kernel's routes.
    pub fib: Fib,
    /// Inner source and destination, upper and lower half; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u64; 2],
    /// The other.
    pub destination: [u64; 2],
    /// Bytes that there are of the inner packet and of what stands behind it.
    pub available: u32,
    /// Bytes of the inner packet, by its header.
    pub inner_len: u32,
    /// 4 or 6.
    pub family: u32,
    /// Upper-layer protocol.
    pub protocol: u32,
    /// Source and destination port, or twice ICMP's type and code; of use if `shows_ports` is not 0.
    pub ports: [u32; 2],
    /// Whether the packet shows them.
    pub shows_ports: u32,
    /// Where the upper-layer header is, in bytes.
    pub transport: u32,
    /// Not 0 for options, extension headers and fragments, which go the slow path where there is one.
    pub odd: u32,
    /// TTL or hop limit.
    pub ttl: u32,
    /// Type of service or traffic class.
    pub class: u32,
    /// Next header of an opened text.
    pub next_header: u32,
    /// Where the ESP header of a packet that came is, in bytes.
    pub esp_at: u32,
    /// Bytes of it, to the end of the check value.
    pub esp_len: u32,
    /// UDP port that it came from, in network byte order; 0 without UDP.
    pub outer_port: u32,
    /// Address that it came from.
    pub outer_source: Address,
    /// Address that it came to.
    pub outer_destination: Address,
    /// Not 0: an opened packet may go straight to a LAN device.
    pub direct: u32,
    /// Bytes of the frame that came.
    pub frame_len: u32,
    /// Ethertype of the packet that came, as it is on the wire.
    pub outer_family: u32,
    /// Always 0.
    pub reserved: u32,
    /// Words of [`State::head`] before the outer IP header.
    pub head_at: u32,
    /// ESP header and IV of a packet that is to be opened.
    pub esp: [u32; 4],
}

/// `struct bpf_fib_lookup` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fib {
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Ports in network byte order.
    pub ports: [u16; 2],
    /// Bytes of the packet; afterwards the MTU that it exceeds.
    pub len: u16,
    /// Where the packet came in; afterwards, where it leaves.
    pub interface: u32,
    /// Type of service.
    pub tos: u32,
    /// Source address.
    pub source: [u32; 4],
    /// Destination; afterwards the next hop.
    pub destination: [u32; 4],
    /// VLAN tag of the interface.
    pub vlan: u32,
    /// Our address on the link.
    pub source_mac: [u8; 6],
    /// The next hop's.
    pub destination_mac: [u8; 6],
}

impl Fib {
    /// Of nothing.
    pub const EMPTY: Fib = Fib {
        family: 0,
        protocol: 0,
        ports: [0; 2],
        len: 0,
        interface: 0,
        tos: 0,
        source: [0; 4],
        destination: [0; 4],
        vlan: 0,
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };
}

/// AF_INET.
pub const AF_INET: u8 = 2;
/// AF_INET6.
pub const AF_INET6: u8 = 10;

impl State {
    /// Of nothing.
    pub const EMPTY: State = State {
        head: [0; HEAD_WORDS],
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
        fib: Fib::EMPTY,
        source: [0; 2],
        destination: [0; 2],
        available: 0,
        inner_len: 0,
        family: 0,
        protocol: 0,
        ports: [0; 2],
        shows_ports: 0,
        transport: 0,
        odd: 0,
        ttl: 0,
        class: 0,
        next_header: 0,
        esp_at: 0,
        esp_len: 0,
        outer_port: 0,
        outer_source: Address::UNSPECIFIED,
        outer_destination: Address::UNSPECIFIED,
        direct: 0,
        frame_len: 0,
        outer_family: 0,
        reserved: 0,
        head_at: 0,
        esp: [0; 4],
    };

    /// One byte of the text; any offset is brought into it.
    #[inline(always)]
    pub fn byte(&self, at: u32) -> u32 {
        self.text[(at >> 2) as usize & (TEXT_WORDS - 1)].to_le() >> (8 * (at & 3)) & 0xff
    }

    /// Writes one byte of the text.
    #[inline(always)]
    pub fn set_byte(&mut self, at: u32, value: u32) {
        let word = &mut self.text[(at >> 2) as usize & (TEXT_WORDS - 1)];
        let shift = 8 * (at & 3);
        *word = (word.to_le() & !(0xff << shift) | (value & 0xff) << shift).to_le();
    }

    /// Two bytes of the text in network byte order.
    #[inline(always)]
    pub fn half(&self, at: u32) -> u32 {
        self.byte(at) << 8 | self.byte(at + 1)
    }

    /// Writes two bytes.
    #[inline(always)]
    pub fn set_half(&mut self, at: u32, value: u32) {
        self.set_byte(at, value >> 8);
        self.set_byte(at + 1, value);
    }

    /// One aligned word of the text, in network byte order.
    #[inline(always)]
    pub fn word(&self, index: u32) -> u32 {
        u32::from_be(self.text[index as usize & (TEXT_WORDS - 1)])
    }
}

const _: () = {
    assert!(offset_of!(State, text) == HEAD);
    assert!(offset_of!(State, input) == HEAD + 4 * TEXT_WORDS);
    assert!(size_of::<State>().is_multiple_of(8));
    // What a copy to or from the head may reach beyond the text, by the verifier's reckoning.
    assert!(size_of::<State>() >= HEAD + 4 * TEXT_WORDS + HEAD);
    assert!(size_of::<Fib>() == 64);
    assert!(offset_of!(Fib, interface) == 8);
    assert!(offset_of!(Fib, source_mac) == 52);
    assert!(MAX_TEXT as usize + 16 <= 4 * TEXT_WORDS);
};
