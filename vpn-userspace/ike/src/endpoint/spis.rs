//! Inbound ESP SPIs: which are taken, and by which IKE SA.

use std::collections::HashMap;

use culvert_crypto::Random;
use culvert_types::Spi;

use crate::Parity;

/// Every inbound ESP SPI in use or reserved by a negotiation, with our SPI of its IKE SA.
#[derive(Default)]
pub(crate) struct Spis {
    owners: HashMap<Spi, u64>,
}

impl Spis {
    /// Draws an SPI that nobody has. SPIs are drawn at random, so that one that is free again is not met soon.
    pub(crate) fn reserve(&mut self, random: &mut dyn Random, owner: u64, parity: Option<Parity>) -> Spi {
        loop {
            let mut bytes = [0; 4];
            random.fill(&mut bytes);
            let drawn = u32::from_be_bytes(bytes);
            let value = match parity {
                None => drawn,
                Some(Parity::Even) => drawn & !1,
                Some(Parity::Odd) => drawn | 1,
            };
            if let Ok(spi) = Spi::new(value)
                && !self.owners.contains_key(&spi)
            {
                self.owners.insert(spi, owner);
                return spi;
            }
        }
    }

    pub(crate) fn release(&mut self, spi: Spi) {
        self.owners.remove(&spi);
    }

    /// Another IKE SA of the tunnel has it now.
    pub(crate) fn give(&mut self, spi: Spi, owner: u64) {
        self.owners.insert(spi, owner);
    }

    pub(crate) fn owner(&self, spi: Spi) -> Option<u64> {
        self.owners.get(&spi).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }
}
