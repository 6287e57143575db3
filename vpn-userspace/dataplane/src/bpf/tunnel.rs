//! One tunnel of the engine `bpf` and its SA pairs, as user space knows them: what packets change stands in the
//! programs' maps.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_esp::selectors::Selectors;
use culvert_esp::tunnel::Overhead;
use culvert_sys::esp_bpf::{EspBpf, EspInterface, EspPath, Slot, named};
use culvert_types::{Spi, TunnelId};

use crate::user::setup::{Limits, SaSetup};
use crate::user::tunnel::TunnelShared;
use crate::{DataplaneError, Engine, SaStats};

/// What is behind a tunnel's interface.
pub(super) enum Behind {
    /// The other end of a pair, by its name and index.
    Back(String, u32),
    /// The engine `user`, whose bulk goes through the same TUN device.
    User(Arc<TunnelShared>),
}

/// A tunnel.
pub(super) struct Tunnel {
    pub(super) id: TunnelId,
    pub(super) interface: String,
    pub(super) link: EspInterface,
    pub(super) behind: Behind,
    /// Largest inner packet in bytes.
    pub(super) mtu: u32,
    /// By the configuration.
    pub(super) fixed_mtu: bool,
    /// IPv6 goes through it: the MTU must not fall below what that needs.
    pub(super) ipv6: bool,
    /// Inbound SPIs of the pairs that are sent with, the newest first.
    pub(super) active: Vec<Spi>,
    /// Packets that met no SA, when it was looked last.
    pub(super) unserved: u64,
    /// When the owner was told of such packets.
    pub(super) triggered: Option<Instant>,
    /// Opened packets may go past the stack.
    pub(super) direct: bool,
}

impl Tunnel {
    /// Where the program stands that seals.
    pub(super) fn hooked(&self) -> String {
        match &self.behind {
            Behind::Back(name, _) => name.clone(),
            Behind::User(shared) => shared.tun().name(),
        }
    }

    /// Tells the programs what is sent with, and the MTU.
    pub(super) fn tell(&self, esp: &mut EspBpf, pairs: &HashMap<Spi, Pair>) -> Result<(), DataplaneError> {
        let slots: Vec<Slot> =
            self.active.iter().filter_map(|spi| pairs.get(spi)).map(|pair| pair.slot).collect();
        Ok(esp.set_tunnel(self.link, &slots, self.mtu, self.direct)?)
    }
}

/// Which limit has been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Warned {
    Nothing,
    Soft,
    Hard,
}

/// An SA pair.
pub(super) struct Pair {
    pub(super) tunnel: TunnelId,
    pub(super) outbound: Spi,
    pub(super) slot: Slot,
    pub(super) path: EspPath,
    pub(super) selectors: Selectors,
    pub(super) overhead: Overhead,
    pub(super) limits: Limits,
    pub(super) esn: bool,
    pub(super) warned: Warned,
    /// Where the peer was seen last, elsewhere.
    pub(super) seen: Option<SocketAddr>,
    /// Packets too big for the path, when it was looked last.
    pub(super) too_big: u64,
}

impl Pair {
    pub(super) fn new(setup: &SaSetup, slot: Slot, path: EspPath) -> Self {
        Self {
            tunnel: setup.tunnel,
            outbound: setup.outbound,
            slot,
            path,
            selectors: Selectors::new(&setup.local_ts, &setup.remote_ts),
            overhead: setup.overhead(),
            limits: setup.limits,
            esn: setup.esn,
            warned: Warned::Nothing,
            seen: None,
            too_big: 0,
        }
    }

    /// What the programs have counted for it.
    pub(super) fn stats(&self, esp: &EspBpf, inbound: Spi) -> SaStats {
        let out = esp.outbound(self.slot).ok().flatten();
        let inn = esp.inbound(inbound).ok().flatten();
        // Beyond the last number the counter counts on, for packets that were dropped.
        let sent = out.map_or(0, |o| o.sequence.min(o.last));
        let mut drops = out.map(|o| named(&o.drops)).unwrap_or_default();
        for (reason, count) in inn.map(|i| named(&i.drops)).unwrap_or_default() {
            match drops.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += count,
                None => drops.push((reason, count)),
            }
        }
        SaStats {
            tunnel: self.tunnel,
            inbound,
            outbound: self.outbound,
            engine: Engine::Bpf,
            worker: None,
            sender: None,
            lan_queue: None,
            wan_queue: None,
            packets_in: inn.map_or(0, |i| i.packets),
            bytes_in: inn.map_or(0, |i| i.bytes),
            packets_out: sent,
            bytes_out: out.map_or(0, |o| o.bytes),
            drops,
            replay_floor: inn.map_or(0, |i| i.window.floor()),
            sequence_in: inn.map_or(0, |i| i.window.highest),
            sequence_out: sent,
        }
    }
}
