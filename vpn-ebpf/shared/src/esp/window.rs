//! The anti-replay window (RFC 4303 3.4.3, bitmap of RFC 6479) with extended sequence numbers (appendix A), as a map
//! value: what `culvert-esp` does, on memory of a fixed size.

/// Words of the ring: the largest window, 8192 packets, and one word more, a power of two.
pub const WORDS: usize = 256;

/// Which numbers were accepted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The highest number accepted, 0 before the first.
    pub highest: u64,
    /// Size in packets, 64 to 8192.
    pub size: u32,
    /// Extended sequence numbers.
    pub esn: u32,
    /// A ring of bits.
    pub words: [u64; WORDS],
}

/// What a number is to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// New.
    New,
    /// Seen before.
    Duplicate,
    /// Left of the window.
    TooOld,
}

impl Window {
    /// An empty one; other sizes are brought to the nearest of 64 to 8192.
    pub fn new(size: u32, esn: bool) -> Window {
        Window { highest: 0, size: size.clamp(64, 8192), esn: esn.into(), words: [0; WORDS] }
    }

    /// The whole number of a packet that shows its low half; 0, which none has, where that would lie before the first
    /// or after the last there is. RFC 4303 A2.2.
    #[inline(always)]
    pub fn infer(&self, low: u32) -> u64 {
        if self.esn == 0 {
            return low as u64;
        }
        let highest = self.highest;
        let (high, top) = (highest >> 32, highest as u32);
        let left = self.size - 1;
        let bottom = top.wrapping_sub(left);
        let behind = low >= bottom;
        let high = if top >= left {
            if behind { high } else { high + 1 }
        } else if behind {
            // Before the first epoch there is none: the subtraction shows in the bits above 32.
            high.wrapping_sub(1)
        } else {
            high
        };
        if high >> 32 != 0 { 0 } else { high << 32 | low as u64 }
    }

    /// Whether the number is new. Changes nothing.
    #[inline(always)]
    pub fn check(&self, sequence: u64) -> Place {
        let highest = self.highest;
        if sequence > highest {
            return Place::New;
        }
        if sequence == 0 || highest - sequence >= self.size as u64 {
            return Place::TooOld;
        }
        let word = self.words[(sequence >> 6) as usize & (WORDS - 1)];
        if word >> (sequence & 63) & 1 == 0 { Place::New } else { Place::Duplicate }
    }

    /// Checks again and marks the number as seen. Only after the packet's check value was verified.
    #[inline(always)]
    pub fn accept(&mut self, sequence: u64) -> Place {
        let place = self.check(sequence);
        if let Place::New = place {
            if sequence > self.highest {
                let from = self.highest >> 6;
                let ahead = (sequence >> 6) - from;
                let mut i = 1;
                while i <= WORDS as u64 {
                    if i > ahead {
                        break;
                    }
                    self.words[(from + i) as usize & (WORDS - 1)] = 0;
                    i += 1;
                }
                self.highest = sequence;
            }
            self.words[(sequence >> 6) as usize & (WORDS - 1)] |= 1 << (sequence & 63);
        }
        place
    }

    /// The lowest number that could still be accepted.
    pub fn floor(&self) -> u64 {
        self.highest.saturating_sub(self.size as u64 - 1).max(1)
    }
}
