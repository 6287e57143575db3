//! Which engine each SA is in: one, from birth to death. Sequence numbers, IVs and replay windows never move, so there
//! is no way to give an SA that is installed another engine; to change engine, rekey.

use std::collections::HashMap;

use culvert_types::{Spi, TunnelId};

use crate::{DataplaneError, Engine};

/// An SA that an engine has. Made when it is installed, by [`InstalledSas`] only, and never changed.
#[derive(Debug)]
pub(crate) struct InstalledSa {
    /// Its tunnel, or the client of one.
    owner: TunnelId,
    engine: Engine,
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
    pub(crate) fn add(&mut self, inbound: Spi, owner: TunnelId, engine: Engine) {
        self.0.entry(inbound).or_insert(InstalledSa { owner, engine });
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
        sas.add(spi, tunnel, Engine::Xfrm);
        assert!(matches!(sas.check_free(spi), Err(DataplaneError::SpiTaken(_))));
        sas.add(spi, TunnelId(2), Engine::User);
        assert_eq!(sas.get(spi).unwrap().engine(), Engine::Xfrm);
        assert_eq!(sas.of(tunnel, Engine::Xfrm), [spi]);
        assert!(sas.of(tunnel, Engine::User).is_empty());
        sas.remove(spi);
        sas.check_free(spi).unwrap();
        sas.add(spi, tunnel, Engine::User);
        assert_eq!(sas.get(spi).unwrap().engine(), Engine::User);
    }
}
