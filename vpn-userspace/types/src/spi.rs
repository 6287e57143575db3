//! The ESP security parameters index (RFC 4303 2.1).

use std::fmt;
use std::num::NonZeroU32;

/// An ESP SPI in host byte order. Never 0-255, which RFC 4303 2.1 reserves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(NonZeroU32);

/// The value is one of the reserved SPIs 0-255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SPI {0:#010x} is reserved (RFC 4303 2.1)")]
pub struct SpiError(pub u32);

impl Spi {
    /// An SPI from its host-order value; refuses the reserved range 0-255.
    pub const fn new(value: u32) -> Result<Self, SpiError> {
        match NonZeroU32::new(value) {
            Some(v) if value > 255 => Ok(Self(v)),
            _ => Err(SpiError(value)),
        }
    }

    /// The host-order value.
    pub const fn value(self) -> u32 {
        self.0.get()
    }

    /// The four bytes as they stand in a packet.
    pub const fn to_bytes(self) -> [u8; 4] {
        self.value().to_be_bytes()
    }
}

impl TryFrom<u32> for Spi {
    type Error = SpiError;
    fn try_from(value: u32) -> Result<Self, SpiError> {
        Self::new(value)
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.value())
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_values_are_refused() {
        for v in [0, 1, 255] {
            assert_eq!(Spi::new(v), Err(SpiError(v)));
        }
        assert_eq!(Spi::new(256).unwrap().to_bytes(), [0, 0, 1, 0]);
        assert_eq!(Spi::new(0xc0de_cafe).unwrap().to_string(), "c0decafe");
    }
}
