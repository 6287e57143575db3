//! `limits` of the gateway, an environment or a connection: how much there may be of what, refused by name beyond it.

use crate::error::Fault;
use crate::file::RawConnection;
use crate::section::{At, Section};

/// The slowest bandwidth that can be kept, in bits per second: one packet of full length in 120 ms.
const SLOWEST: u64 = 100_000;

/// How much there may be; `None`: as much as there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections in the configuration.
    pub connections: Option<u32>,
    /// Tunnels in the configuration.
    pub tunnels: Option<u32>,
    /// Port forwards in the configuration.
    pub forwards: Option<u32>,
    /// Clients of all its port forwards at once.
    pub forward_connections: Option<u32>,
    /// Bits per second of inner packets, in each direction.
    pub bandwidth: Option<u64>,
}

/// What was read.
#[derive(Clone, Default)]
pub(crate) struct RawLimits {
    connections: Option<At<u32>>,
    tunnels: Option<At<u32>>,
    forwards: Option<At<u32>>,
    forward_connections: Option<At<u32>>,
    bandwidth: Option<At<u64>>,
}

impl RawLimits {
    /// Reads `limits`. A connection is one; to count connections belongs to what has several.
    pub(crate) fn read(s: &mut Section<'_>, whose: &str, several: bool, faults: &mut Vec<Fault>) -> Self {
        let Some(mut table) = s.section(faults, "limits", format!("`limits` of {whose}")) else {
            return Self::default();
        };
        let mut number = |key, what: &str| table.integer(faults, key, what, 0..=1_000_000);
        let raw = Self {
            connections: several.then(|| number("connections", "a number of connections")).flatten(),
            tunnels: number("tunnels", "a number of tunnels"),
            forwards: number("forwards", "a number of port forwards"),
            forward_connections: number("forward_connections", "a number of clients at once"),
            bandwidth: table.parsed(faults, "bandwidth", "a rate such as \"100Mbit\"", rate),
        };
        if let Some(rate) = &raw.bandwidth {
            faults.push(
                Fault::new("limit `bandwidth` is not in this version")
                    .at(rate.span(), "not in this version")
                    .help("take it out; `tc qdisc` on the tunnel's interface limits what is sent"),
            );
        }
        table.finish(faults, &[]);
        raw
    }

    pub(crate) fn limits(&self) -> Limits {
        let number = |value: &Option<At<u32>>| value.as_ref().map(|value| *value.get_ref());
        Limits {
            connections: number(&self.connections),
            tunnels: number(&self.tunnels),
            forwards: number(&self.forwards),
            forward_connections: number(&self.forward_connections),
            bandwidth: self.bandwidth.as_ref().map(|rate| *rate.get_ref()),
        }
    }

    /// Refuses what these connections have beyond it.
    pub(crate) fn check(&self, whose: &str, connections: &[&RawConnection], faults: &mut Vec<Fault>) {
        let named = connections.iter().map(|c| c.name.span());
        let tunnels = connections.iter().flat_map(|c| c.tunnels.iter().map(|t| t.name.span()));
        let forwards = connections.iter().flat_map(|c| c.forwards.iter().map(|f| f.place()));
        over("connections", &self.connections, whose, named.collect(), faults);
        over("tunnels", &self.tunnels, whose, tunnels.collect(), faults);
        over("forwards", &self.forwards, whose, forwards.collect(), faults);
    }
}

/// Refuses the first that is one too many.
fn over(
    what: &str,
    limit: &Option<At<u32>>,
    whose: &str,
    all: Vec<std::ops::Range<usize>>,
    faults: &mut Vec<Fault>,
) {
    let Some(limit) = limit else { return };
    let most = *limit.get_ref();
    if let Some(first) = all.get(most as usize) {
        faults.push(
            Fault::new(format!("limit {what} of {whose} is {most}: {} are configured", all.len()))
                .at(first.clone(), "one too many")
                .at(limit.span(), "the limit")
                .help(format!(
                    "take {} out, or raise the limit {what} of {whose}",
                    all.len() - most as usize
                )),
        );
    }
}

/// `100Mbit`: bits per second, by powers of 1000.
fn rate(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<u64> {
    let word = text.get_ref().trim();
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "kbit" => Some(1000),
        "mbit" => Some(1_000_000),
        "gbit" => Some(1_000_000_000),
        _ => None,
    };
    let parsed: Option<u64> = factor.and_then(|factor: u64| number.parse::<u64>().ok()?.checked_mul(factor));
    // tbf and police count bytes in 64 bits; beyond this nothing here is that fast.
    let fits = |rate: &u64| (SLOWEST..=1_000_000_000_000).contains(rate);
    let parsed = parsed.filter(fits);
    if parsed.is_none() {
        faults.push(
            Fault::new(format!("`{}` is no bandwidth", word.escape_debug()))
                .at(text.span(), "not understood")
                .help("write a number and its unit from \"100kbit\" to \"1000Gbit\", such as \"100Mbit\""),
        );
    }
    parsed
}
