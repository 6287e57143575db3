//! Which engine each SA is in: one, from birth to death. Sequence numbers, IVs and replay windows never move, so there
//! is no way to give an SA that is installed another engine; to change engine, rekey.

use std::collections::HashMap;

use culvert_ike::Purpose;
use culvert_types::{Spi, TunnelId};

use crate::{DataplaneError, Engine};

/// An SA that an engine has. Made when it is installed, by [`InstalledSas`] only, and never changed.
#[derive(Debug)]
pub(crate) struct InstalledSa {
    /// Its tunnel, or the client of one.
    owner: TunnelId,
    engine: Engine,
    purpose: Purpose,
}

impl InstalledSa {
    /// Its tunnel, or the client of one.
    pub(crate) fn owner(&self) -> TunnelId {
        self.owner
    }

    /// Who does its ESP.
    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }
}

/// Every SA that is installed, by its inbound SPI.
#[derive(Debug, Default)]
pub(crate) struct InstalledSas(HashMap<Spi, InstalledSa>);

impl InstalledSas {
    /// Whether an SA may be installed by this SPI.
    pub(crate) fn check_free(&self, inbound: Spi) -> Result<(), DataplaneError> {
        if self.0.contains_key(&inbound) { Err(DataplaneError::SpiTaken(inbound)) } else { Ok(()) }
    }

    /// The engine has it now. One that is installed already stays where it is.
    pub(crate) fn add(&mut self, inbound: Spi, owner: TunnelId, engine: Engine, purpose: Purpose) {
        self.0.entry(inbound).or_insert(InstalledSa { owner, engine, purpose });
    }

    /// Which of the CPUs shall have an SA's inbound packets: each of those for a CPU another one, the rest by their SPIs. `None`
    /// without CPUs.
    pub(crate) fn share(&self, inbound: Spi, cpus: &[u32]) -> Option<u32> {
        let number = match self.0.get(&inbound).map(|sa| sa.purpose) {
            Some(Purpose::Resource(number)) if cpus.contains(&u32::from(number)) => {
                return Some(number.into());
            }
            Some(Purpose::Resource(number)) => u32::from(number),
            // Fibonacci hashing: SPIs may all be even, or differ in a few bits.
            _ => inbound.value().wrapping_mul(0x9e37_79b1) >> 16,
        };
        cpus.get((number as usize).checked_rem(cpus.len())?).copied()
    }

    pub(crate) fn get(&self, inbound: Spi) -> Result<&InstalledSa, DataplaneError> {
        self.0.get(&inbound).ok_or(DataplaneError::UnknownSpi(inbound))
    }

    /// The engine has it no more.
    pub(crate) fn remove(&mut self, inbound: Spi) {
        self.0.remove(&inbound);
    }

    /// Forgets those whose owners are gone.
    pub(crate) fn retain(&mut self, stays: impl Fn(TunnelId) -> bool) {
        self.0.retain(|_, sa| stays(sa.owner));
    }

    /// Whether there is one that a tunnel or client has in an engine.
    pub(crate) fn any(&self, wanted: impl Fn(TunnelId, Engine) -> bool) -> bool {
        self.0.values().any(|sa| wanted(sa.owner, sa.engine))
    }

    /// Those of a tunnel or client in an engine.
    pub(crate) fn of(&self, owner: TunnelId, engine: Engine) -> Vec<Spi> {
        let those = self.0.iter().filter(|(_, sa)| sa.owner == owner && sa.engine == engine);
        those.map(|(spi, _)| *spi).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_keeps_its_engine_until_it_is_gone() {
        let (spi, tunnel) = (Spi::new(0x1000).unwrap(), TunnelId(1));
        let mut sas = InstalledSas::default();
        sas.add(spi, tunnel, Engine::Xfrm, Purpose::All);
        assert!(matches!(sas.check_free(spi), Err(DataplaneError::SpiTaken(_))));
        sas.add(spi, TunnelId(2), Engine::User, Purpose::All);
        assert_eq!(sas.get(spi).unwrap().engine(), Engine::Xfrm);
        assert_eq!(sas.of(tunnel, Engine::Xfrm), [spi]);
        assert!(sas.of(tunnel, Engine::User).is_empty());
        sas.remove(spi);
        sas.check_free(spi).unwrap();
        sas.add(spi, tunnel, Engine::User, Purpose::All);
        assert_eq!(sas.get(spi).unwrap().engine(), Engine::User);
    }

    #[test]
    fn each_cpu_has_its_share() {
        let mut sas = InstalledSas::default();
        let spi = |n: u16| Spi::new(0x1000 + 4 * u32::from(n)).unwrap();
        for cpu in 0..4 {
            sas.add(spi(cpu), TunnelId(1), Engine::Xfrm, Purpose::Resource(cpu));
        }
        sas.add(spi(4), TunnelId(1), Engine::Xfrm, Purpose::All);
        let cpus = [0, 1, 2, 3];
        let shares: Vec<_> = (0..5).map(|n| sas.share(spi(n), &cpus).unwrap()).collect();
        assert_eq!(shares[..4], cpus, "those for a CPU have one each, whatever their SPIs");
        assert!(shares[4] < 4);
        let mut counts = [0; 4];
        for n in 0..4000 {
            let share = sas.share(Spi::new(0x8000_0000 + 2 * n).unwrap(), &cpus).unwrap();
            counts[share as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        // The peer may have more CPUs, and some here may be off.
        assert_eq!((0..4).map(|n| sas.share(spi(n), &[1, 3]).unwrap()).collect::<Vec<_>>(), [1, 1, 1, 3]);
        assert_eq!(sas.share(spi(0), &[]), None);
    }
}
