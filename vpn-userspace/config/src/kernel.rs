//! `offload` and `output_mark` of a connection: what the kernel's IPsec is asked for beside its SAs.

use std::ops::Range;

use crate::error::Fault;
use crate::model::{Connection, Engine};
use crate::section::{At, Refused, Section};

/// `offload` and `output_mark`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelIpsec {
    /// `offload = "crypto"`: the network card that the SAs' packets pass does the cipher.
    pub offload: bool,
    /// `output_mark`: the mark of sealed packets, for routing rules and firewalls of the host.
    pub output_mark: Option<u32>,
}

/// As the file has them.
#[derive(Default)]
pub(crate) struct RawKernel {
    offload: Option<At<bool>>,
    mark: Option<At<u32>>,
}

const NOT_PACKETS: &[(&str, Refused)] = &[(
    "packet",
    Refused::NotYet(
        "a card that does all of ESP wants the policies as well; write \"crypto\", with which it does the cipher",
    ),
)];

/// Reads the keys.
pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> RawKernel {
    RawKernel {
        offload: s.word(faults, "offload", &[("none", false), ("crypto", true)], NOT_PACKETS),
        mark: s.integer(faults, "output_mark", "a mark from 1 to 4294967295", 1..=u32::MAX),
    }
}

impl RawKernel {
    /// Refuses them where another engine may have the SAs, which knows neither.
    pub(crate) fn check(self, connection: &Connection, faults: &mut Vec<Fault>) -> KernelIpsec {
        let offload = self.offload.filter(|on| *on.get_ref());
        if connection.engine != Engine::Xfrm {
            let mut refuse = |key: &str, span: Option<Range<usize>>| {
                let Some(span) = span else { return };
                faults.push(
                    Fault::new(format!("`{key}` belongs to the engine `xfrm`"))
                        .at(span, "another engine may have this connection's SAs")
                        .help(format!("write engine = \"xfrm\", or take `{key}` out")),
                );
            };
            refuse("offload", offload.as_ref().map(At::span));
            refuse("output_mark", self.mark.as_ref().map(At::span));
        }
        KernelIpsec { offload: offload.is_some(), output_mark: self.mark.map(At::into_inner) }
    }
}
