//! The keys of `ike` and `esp` that say how the exchanges of a connection go.

use culvert_ike::{ExchangeOptions, Fragmentation};

use crate::error::Fault;
use crate::section::Section;

/// Reads the keys of `ike`.
pub(crate) fn read_ike(s: &mut Section<'_>, options: &mut ExchangeOptions, faults: &mut Vec<Fault>) {
    let words = [("yes", Fragmentation::Yes), ("no", Fragmentation::No), ("force", Fragmentation::Force)];
    if let Some(fragmentation) = s.word(faults, "fragmentation", &words, &[]) {
        options.fragmentation = fragmentation.into_inner();
    }
    if let Some(size) = s.integer(faults, "fragment_size", "a number of bytes", 576..=65535) {
        options.fragment_size = u16::try_from(size.into_inner()).ok();
    }
}
