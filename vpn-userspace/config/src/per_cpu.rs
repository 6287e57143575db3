//! `esp.per_cpu`: CHILD SAs beside the first, one for each worker or CPU (RFC 9611).

use std::ops::Range;

use culvert_ike::Pairs;

use crate::error::Fault;
use crate::model::Connection;
use crate::section::{At, Section};

/// How many may be asked for.
const MOST: u16 = 64;
/// How many a peer may have, who may have more CPUs.
const TAKEN: u16 = 64;

/// `esp.per_cpu`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerCpu {
    /// The first CHILD SA carries all, and the peer gets no other.
    #[default]
    No,
    /// As many as there are workers.
    Workers,
    /// So many.
    Count(u16),
}

impl PerCpu {
    /// How many are wanted where there are so many workers.
    pub fn wanted(self, workers: usize) -> u16 {
        match self {
            Self::No => 0,
            Self::Workers => u16::try_from(workers).unwrap_or(MOST).min(MOST),
            Self::Count(count) => count,
        }
    }

    /// How many the peer may have for itself.
    pub fn taken(self) -> u16 {
        if self == Self::No { 0 } else { TAKEN }
    }
}

/// Reads it: a boolean, or a number.
pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Option<At<PerCpu>> {
    if s.holds_boolean("per_cpu") {
        let on = s.boolean(faults, "per_cpu")?;
        let value = if *on.get_ref() { PerCpu::Workers } else { PerCpu::No };
        return Some(At::new(on.span(), value));
    }
    let count =
        s.integer(faults, "per_cpu", "`true`, `false` or a number of child SAs", 1..=u32::from(MOST))?;
    let value = PerCpu::Count(u16::try_from(*count.get_ref()).unwrap_or(MOST));
    Some(At::new(count.span(), value))
}

/// Refuses what cannot be negotiated.
pub(crate) fn check(connection: &Connection, span: Option<Range<usize>>, faults: &mut Vec<Fault>) {
    let (Some(span), true) = (span, connection.esp.per_cpu != PerCpu::No) else { return };
    if connection.ike.version == 1 {
        faults.push(
            Fault::new("`per_cpu` needs IKEv2")
                .at(span, "IKEv1 has no child SAs for a CPU")
                .help("take it out, or take ike.version = 1 out"),
        );
    } else if connection.exchange.pairs == Pairs::Each {
        faults.push(
            Fault::new("`per_cpu` and pairs = \"each\" exclude each other")
                .at(span, "each pair of networks has a child SA already")
                .help("take one of the two out"),
        );
    }
}
