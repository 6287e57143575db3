//! The verdict on a parsed packet: what cannot be valid is dropped before it costs anything.
use crate::address::Address;
use crate::layout::{Sa, SaKey};
use crate::packet::{Class, Parsed};
use crate::reason::Reason;
use crate::replay::is_stale;

/// What the judge knows: BPF maps in the kernel, ordinary collections in tests.
pub trait Tables {
    /// Is this one of the gateway's own WAN addresses?
    fn is_local(&self, address: &Address) -> bool;
    /// The SA with this SPI.
    fn sa(&self, key: &SaKey) -> Option<&Sa>;
    /// Has a peer authenticated from this address?
    fn is_proven(&self, address: &Address) -> bool;
    /// Takes one IKE message from an unproven source into account.
    fn admit(&self, source: &Address) -> Admission;
}

/// What the rate limits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Within both.
    Admitted,
    /// This source sends too much.
    SourceRate,
    /// All unproven sources together send too much.
    Ceiling,
}

/// What is to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Why; the verdict follows from it.
    pub reason: Reason,
    /// Slot of the SA whose packet this is, if it passed as such; else [`NO_SLOT`].
    pub slot: u32,
    /// [`Sa::path`] of that SA; else the stack.
    pub path: u32,
    /// [`Sa::worker`] of that SA; else 0.
    pub worker: u32,
}

/// Of no SA.
pub const NO_SLOT: u32 = u32::MAX;

/// Length of an IKE header (RFC 7296 3.1).
pub const IKE_HEADER: u32 = 28;

/// Judges a packet. Only packets to the gateway's own addresses are dropped: others are forwarded, not ours to judge.
#[inline(always)]
pub fn judge<T: Tables + ?Sized>(parsed: &Parsed, tables: &T) -> Judgement {
    let (mut slot, mut path, mut worker) = (NO_SLOT, Sa::PATH_STACK, 0);
    let reason = if let Class::Other = parsed.class {
        Reason::Other
    } else if !tables.is_local(&parsed.destination) {
        Reason::NotLocal
    } else {
        match parsed.class {
            Class::Other => Reason::Other,
            Class::Malformed => Reason::Malformed,
            Class::Odd => Reason::Odd,
            Class::Fragment => Reason::Fragment,
            Class::Keepalive => Reason::Keepalive,
            Class::Ike if parsed.len < IKE_HEADER => Reason::IkeShort,
            Class::Ike => judge_ike(parsed, tables),
            Class::Esp => match tables.sa(&SaKey(parsed.spi)) {
                None => Reason::UnknownSpi,
                Some(sa) => {
                    let reason = judge_esp(parsed, sa);
                    if let Reason::Esp = reason {
                        (slot, path, worker) = (sa.slot, sa.path, sa.worker);
                    }
                    reason
                }
            },
        }
    };
    Judgement { reason, slot, path, worker }
}

#[inline(always)]
fn judge_ike<T: Tables + ?Sized>(parsed: &Parsed, tables: &T) -> Reason {
    if tables.is_proven(&parsed.source) {
        return Reason::IkeProven;
    }
    match tables.admit(&parsed.source) {
        Admission::Admitted => Reason::Ike,
        Admission::SourceRate => Reason::IkeSourceRate,
        Admission::Ceiling => Reason::IkeCeiling,
    }
}

#[inline(always)]
fn judge_esp(parsed: &Parsed, sa: &Sa) -> Reason {
    // RFC 4301 4.1: the SPI finds the SA; destination and, where the peer has a fixed address, source must agree.
    if parsed.destination != sa.local {
        return Reason::WrongDestination;
    }
    if sa.flags & Sa::ANY_REMOTE == 0 && parsed.source != sa.remote {
        return Reason::WrongSource;
    }
    let min_len = sa.min_len as u32;
    if parsed.len < min_len {
        return Reason::EspShort;
    }
    if (parsed.len - min_len) & sa.align_mask as u32 != 0 {
        return Reason::EspMisaligned;
    }
    if is_stale(parsed.sequence, sa.floor, sa.flags & Sa::ESN != 0) {
        return Reason::Stale;
    }
    Reason::Esp
}
