//! The keys of `[gateway]` that say how the engines `user` and `bpf` move packets, and what the engine of a connection can serve.

use std::ops::Range;

use culvert_crypto::Encryption;

use crate::error::Fault;
use crate::file::RawFile;
use crate::model::{Attach, Connection, Engine, Guard};
use crate::section::{At, Refused, Section};

/// How the engines `user` and `bpf` move packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dataplane {
    /// `latency`
    pub latency: Latency,
    /// `offload`
    pub offload: Offload,
    /// `bpf_hook`
    pub bpf_hook: BpfHook,
    /// `steer`: packets for kernel ESP are spread over the CPUs by XDP.
    pub steer: bool,
}

/// `bpf_hook`: where the programs of the engine `bpf` stand at the devices of `wan` and `lan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BpfHook {
    /// XDP where the driver has it and the device is no virtual link, else TC.
    #[default]
    Auto,
    /// XDP where the driver has it, else TC.
    Xdp,
    /// TC.
    Tc,
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

/// Words of `latency` that belong elsewhere.
const ELSEWHERE: &[(&str, Refused)] =
    &[("split", Refused::NotHere("it is a key of a connection: write it into [connection.NAME]"))];

/// Reads them.
pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Dataplane {
    let words = [("default", Latency::Default), ("low", Latency::Low)];
    let latency = s.word(faults, "latency", &words, ELSEWHERE).map(At::into_inner).unwrap_or_default();
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
    let hooks = [("auto", BpfHook::Auto), ("xdp", BpfHook::Xdp), ("tc", BpfHook::Tc)];
    let bpf_hook = s.word(faults, "bpf_hook", &hooks, &[]).map(At::into_inner).unwrap_or_default();
    let steer = s.boolean(faults, "steer").is_some_and(At::into_inner);
    Dataplane { latency, offload, bpf_hook, steer }
}

/// Refuses a guard that would stand behind the programs whose packets it is to judge first.
pub(crate) fn hook_fits_guard(raw: &RawFile, faults: &mut Vec<Fault>) {
    let Some(attach) = raw.gateway.attach.as_ref() else { return };
    let behind = matches!(attach.get_ref(), Attach::Tcx | Attach::XdpGeneric);
    let off = raw.gateway.guard.as_ref().is_some_and(|guard| *guard.get_ref() == Guard::Off);
    if raw.gateway.dataplane.bpf_hook == BpfHook::Xdp && behind && !off {
        faults.push(
            Fault::new("`bpf_hook = \"xdp\"` wants the guard in native XDP too")
                .at(attach.span(), "would see packets after the engine `bpf` has taken them")
                .help("take `attach` out, or write attach = \"xdp-native\", or bpf_hook = \"tc\""),
        );
    }
}

/// Refuses a guard that could not spread packets over CPUs.
pub(crate) fn guard_spreads(raw: &RawFile, faults: &mut Vec<Fault>) {
    let off = raw.gateway.guard.as_ref().filter(|guard| *guard.get_ref() == Guard::Off);
    let tc = raw.gateway.attach.as_ref().filter(|attach| *attach.get_ref() == Attach::Tcx);
    let (span, mend) = match (off, tc) {
        (Some(off), _) => (off.span(), "take `guard` out"),
        (_, Some(tc)) => (tc.span(), "take `attach` out, or write attach = \"xdp-native\""),
        _ => return,
    };
    if raw.gateway.dataplane.steer {
        faults.push(
            Fault::new("`steer` is the guard's work, under XDP")
                .at(span, "hands no packet to another CPU")
                .help(format!("{mend}, or take `steer` out")),
        );
    }
}

/// Selectors of one side that the engine `bpf` looks through.
pub(crate) const BPF_NETWORKS: usize = 8;

/// Refuses what the engine that was asked for never carries.
pub(crate) fn engine_serves(connection: &Connection, engine: Option<Range<usize>>, faults: &mut Vec<Fault>) {
    let (Engine::Bpf, Some(engine)) = (connection.engine, engine) else { return };
    let others = || {
        let suites = connection.esp.proposals.iter().flat_map(|proposal| proposal.suites());
        suites.filter(|suite| suite.encryption() != Encryption::ChaCha20Poly1305)
    };
    if let Some(other) = others().next() {
        faults.push(
            Fault::new(format!("engine \"bpf\" cannot do {other}, which `esp` offers"))
                .at(engine.clone(), "does ChaCha20-Poly1305 alone")
                .help(
                    "eBPF has no carry-less multiplication and no AES, and the kernel's are out of reach of our programs: write \
                     esp = { proposals = [\"chacha20poly1305-curve25519\"] }, or engine = \"user\"",
                ),
        );
    }
    if connection.local.len() > BPF_NETWORKS || connection.remote.len() > BPF_NETWORKS {
        faults.push(
            Fault::new(format!("engine \"bpf\" looks through {BPF_NETWORKS} networks of each side"))
                .at(engine, "more than that here")
                .help("write fewer and larger networks, or engine = \"user\""),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::parse;

    #[test]
    fn spreading_wants_the_guard_under_xdp() {
        let gateway = "[gateway]\nwan = \"eth0\"\nsteer = true\n";
        assert!(parse(gateway).unwrap().gateway.dataplane.steer);
        assert!(!parse(&gateway.replace("true", "false")).unwrap().gateway.dataplane.steer);
        for fits in ["attach = \"xdp-generic\"\n", "guard = \"learn\"\n"] {
            parse(&format!("{gateway}{fits}")).unwrap();
        }
        for (wrong, mend) in
            [("attach = \"tcx\"\n", "take `attach` out"), ("guard = \"off\"\n", "take `guard` out")]
        {
            let refused = parse(&format!("{gateway}{wrong}")).unwrap_err().to_string();
            assert!(refused.contains("`steer` is the guard's work") && refused.contains(mend), "{refused}");
        }
    }
}
