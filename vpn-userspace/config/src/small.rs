//! `latency` and `small_packets` of a connection: a child SA of its own for small packets, on the engine `bpf`, while
//! bulk stays on the engine `user`.

use std::ops::Range;

use culvert_ike::Pairs;

use crate::dataplane::BPF_NETWORKS;
use crate::error::Fault;
use crate::model::{Connection, Engine};
use crate::section::{At, Refused, Section};

/// The longest small packet, if the file says nothing: most of what people and telephones send each other.
const LENGTH: u16 = 256;
/// EF (RFC 3246) and VOICE-ADMIT (RFC 5865).
const DSCP: [u8; 2] = [46, 44];

/// `small_packets`: which packets have a child SA of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallPackets {
    /// Packets of at most so many bytes, IP header included.
    pub length: u16,
    /// Packets with one of these DSCPs, as long as they fit the tunnel.
    pub dscp: Vec<u8>,
}

/// What was read.
#[derive(Default)]
pub(crate) struct RawSmall {
    /// Where `latency = "split"` stands.
    split: Option<Range<usize>>,
    table: Option<Range<usize>>,
    length: Option<u16>,
    dscp: Option<Vec<u8>>,
}

const ELSEWHERE: &[(&str, Refused)] =
    &[("low", Refused::NotHere("it is a key of [gateway], for all connections together"))];

impl RawSmall {
    /// Where `latency = "split"` stands.
    pub(crate) fn split(&self) -> Option<Range<usize>> {
        self.split.clone()
    }
}

/// Reads the keys.
pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> RawSmall {
    let mut raw = RawSmall::default();
    let latency = s.word(faults, "latency", &[("default", false), ("split", true)], ELSEWHERE);
    raw.split = latency.filter(|split| *split.get_ref()).map(|split| split.span());
    if let Some(mut table) = s.section(faults, "small_packets", "`small_packets` of a connection".to_owned())
    {
        raw.table = Some(table.span.clone());
        let length = table.integer(faults, "length", "a number of bytes", 0..=1500);
        raw.length = length.and_then(|length| u16::try_from(length.into_inner()).ok());
        let what = "a list of DSCPs such as [\"ef\", \"cs6\", \"34\"]";
        let dscp = table.list(faults, "dscp", what, false, |text, faults| {
            let found = code_point(text.get_ref());
            if found.is_none() {
                faults.push(
                    Fault::new(format!("\"{}\" is no DSCP", text.get_ref().escape_debug()))
                        .at(text.span(), "unknown")
                        .help("write a number from \"0\" to \"63\", or ef, va, le, cs0 to cs7, af11 to af43"),
                );
            }
            found
        });
        raw.dscp = dscp.map(|list| list.into_inner().into_iter().map(At::into_inner).collect());
        table.finish(faults, &[]);
    }
    raw
}

/// A DSCP by its name (RFC 2474, 2597, 3246, 5865, 8622) or its number.
fn code_point(text: &str) -> Option<u8> {
    let digit = |c: Option<char>, from: u32, to: u32| c?.to_digit(10).filter(|d| (from..=to).contains(d));
    let mut rest = text.chars().skip(2);
    let point = match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("ef") => 46,
        Some("va") => 44,
        Some("le") => 1,
        Some("cs") => 8 * digit(rest.next(), 0, 7)?,
        Some("af") => 8 * digit(rest.next(), 1, 4)? + 2 * digit(rest.next(), 1, 3)?,
        _ => return text.parse().ok().filter(|n| *n < 64),
    };
    rest.next().is_none().then_some(point as u8)
}

impl RawSmall {
    /// What it says together with the rest of the connection.
    pub(crate) fn check(self, connection: &Connection, faults: &mut Vec<Fault>) -> Option<SmallPackets> {
        let Some(split) = self.split else {
            if let Some(table) = self.table {
                faults.push(
                    Fault::new("`small_packets` says nothing without latency = \"split\"")
                        .at(table, "of no use")
                        .help("write latency = \"split\" beside it, or take it out"),
                );
            }
            return None;
        };
        let mut refuse = |what: &str, here: &str, help: &str| {
            faults.push(Fault::new(what).at(split.clone(), here).help(help));
        };
        if matches!(connection.engine, Engine::Xfrm | Engine::Bpf) {
            refuse(
                "latency = \"split\" is for the engine `user`, beside which `bpf` takes the small packets",
                "needs engine = \"user\"",
                "take `engine` out, or write engine = \"user\"",
            );
        }
        if connection.ike.version == 1 {
            refuse(
                "latency = \"split\" needs IKEv2",
                "IKEv1 cannot say what a second child SA is for",
                "take it out, or take ike.version = 1 out",
            );
        }
        if connection.exchange.pairs == Pairs::Each {
            refuse(
                "latency = \"split\" and pairs = \"each\" exclude each other",
                "one child SA beside the one for all networks",
                "take one of the two out",
            );
        }
        if connection.local.len() > BPF_NETWORKS || connection.remote.len() > BPF_NETWORKS {
            refuse(
                &format!("engine \"bpf\" looks through {BPF_NETWORKS} networks of each side"),
                "more than that here",
                "write fewer and larger networks, or take it out",
            );
        }
        Some(SmallPackets {
            length: self.length.unwrap_or(LENGTH),
            dscp: self.dscp.unwrap_or_else(|| DSCP.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_have_names_and_numbers() {
        let known = [
            ("ef", 46),
            ("EF", 46),
            ("va", 44),
            ("le", 1),
            ("cs0", 0),
            ("cs6", 48),
            ("af11", 10),
            ("af43", 38),
            ("0", 0),
            ("63", 63),
        ];
        for (text, number) in known {
            assert_eq!(code_point(text), Some(number), "{text}");
        }
        for text in
            ["", "e", "efx", "cs", "cs8", "cs61", "af1", "af51", "af14", "af111", "64", "-1", "é", "éé"]
        {
            assert_eq!(code_point(text), None, "{text}");
        }
    }
}
