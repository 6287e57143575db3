//! The keys of `[gateway]` that say how the engine `user` moves packets.

use crate::error::Fault;
use crate::section::{At, NotYet, Section};

/// How the engine `user` moves packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dataplane {
    /// `latency`
    pub latency: Latency,
    /// `offload`
    pub offload: Offload,
}

/// `latency`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Latency {
    /// Workers sleep until packets come.
    #[default]
    Default,
    /// Workers poll for half a millisecond after packets before they sleep.
    Low,
}

/// `offload`: what the kernel does for many packets at once. All on by default, as far as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Super-packets of TCP from and to the tunnels' devices.
    pub tso: bool,
    /// Super-packets of UDP from and to the tunnels' devices.
    pub uso: bool,
    /// Trains of equal datagrams to the WAN, cut by the kernel or the network card.
    pub gso: bool,
    /// Datagrams of the WAN that the kernel or the network card has joined.
    pub gro: bool,
}

impl Default for Offload {
    fn default() -> Self {
        Self { tso: true, uso: true, gso: true, gro: true }
    }
}

/// Words of `latency` for which the data plane is not there yet.
const NOT_YET_LATENCY: &[NotYet] = &[(
    "split",
    "a child SA of its own for small packets needs the engine `bpf`, which comes in a later version",
)];

/// Reads them.
pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Dataplane {
    let words = [("default", Latency::Default), ("low", Latency::Low)];
    let latency = s.word(faults, "latency", &words, NOT_YET_LATENCY).map(At::into_inner).unwrap_or_default();
    let mut offload = Offload::default();
    if let Some(mut table) = s.section(faults, "offload", "`offload` of [gateway]".to_owned()) {
        for (key, switch) in [
            ("tso", &mut offload.tso),
            ("uso", &mut offload.uso),
            ("gso", &mut offload.gso),
            ("gro", &mut offload.gro),
        ] {
            if let Some(on) = table.boolean(faults, key) {
                *switch = on.into_inner();
            }
        }
        table.finish(faults, &[]);
    }
    Dataplane { latency, offload }
}
