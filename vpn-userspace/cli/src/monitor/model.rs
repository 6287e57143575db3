//! What the monitor shows, made of one status after the other: rates and their history. Reads no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use culvert_api::{Status, Target, TunnelState, Verdict};

use crate::render;

/// Samples kept for the plots.
pub(crate) const HISTORY: usize = 120;

/// Per second, over one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) bits_in: f64,
    pub(crate) bits_out: f64,
    pub(crate) packets_in: f64,
    pub(crate) packets_out: f64,
    pub(crate) drops: f64,
}

/// One tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// CONNECTION/TUNNEL.
    pub(crate) name: String,
    pub(crate) state: TunnelState,
    /// Carries the routes of its connection.
    pub(crate) active: bool,
    /// Engine and ports.
    pub(crate) engine: String,
    pub(crate) cause: Option<String>,
    pub(crate) now: Rates,
    /// The newest last.
    pub(crate) history: VecDeque<Rates>,
    /// What was dropped since the monitor began, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

/// Counters of a child SA; a rekeyed one begins at 0.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    bytes_in: u64,
    bytes_out: u64,
    packets_in: u64,
    packets_out: u64,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) rows: Vec<Row>,
    pub(crate) selected: usize,
    /// Packets that the guard dropped, per second.
    pub(crate) guard: f64,
    pub(crate) head: String,
    pub(crate) warnings: Vec<String>,
    /// By the inbound SPI, and the tunnel's name.
    children: HashMap<(String, String), Sums>,
    drops: HashMap<(String, String), u64>,
    guard_sum: Option<u64>,
}

impl Model {
    /// Takes the next status, `seconds` after the one before; of the first only the sums are kept.
    pub(crate) fn update(&mut self, status: &Status, target: Option<&Target>, seconds: f64) {
        let first = self.guard_sum.is_none();
        let per_second = |count: u64| if first || seconds <= 0.0 { 0.0 } else { count as f64 / seconds };
        let mut before: HashMap<String, Row> =
            self.rows.drain(..).map(|row| (row.name.clone(), row)).collect();
        let (mut children, mut drops) = (HashMap::new(), HashMap::new());
        for connection in &status.connections {
            for tunnel in connection
                .tunnels
                .iter()
                .filter(|t| target.is_none_or(|w| w.covers(&connection.name, &t.name)))
            {
                let name = format!("{}/{}", render::clean(&connection.name), render::clean(&tunnel.name));
                let mut grown = Sums::default();
                for child in &tunnel.children {
                    let key = (name.clone(), child.spi_in.clone());
                    let was = self.children.get(&key).copied().unwrap_or_default();
                    grown.bytes_in += child.bytes_in.saturating_sub(was.bytes_in);
                    grown.bytes_out += child.bytes_out.saturating_sub(was.bytes_out);
                    grown.packets_in += child.packets_in.saturating_sub(was.packets_in);
                    grown.packets_out += child.packets_out.saturating_sub(was.packets_out);
                    let sums = Sums {
                        bytes_in: child.bytes_in,
                        bytes_out: child.bytes_out,
                        packets_in: child.packets_in,
                        packets_out: child.packets_out,
                    };
                    children.insert(key, sums);
                }
                let mut row = before.remove(&name).unwrap_or_else(|| Row {
                    name: name.clone(),
                    state: tunnel.state,
                    active: false,
                    engine: String::new(),
                    cause: None,
                    now: Rates::default(),
                    history: VecDeque::with_capacity(HISTORY),
                    drops: BTreeMap::new(),
                });
                let mut dropped = 0;
                let of_children =
                    tunnel.children.iter().flat_map(|c| c.drops.iter().map(|d| (c.spi_in.as_str(), d)));
                let of_tunnel = tunnel.drops.iter().map(|d| ("", d));
                for (owner, (reason, count)) in of_children.chain(of_tunnel) {
                    let key = (format!("{name} {owner}"), reason.clone());
                    let more = count.saturating_sub(self.drops.get(&key).copied().unwrap_or(0));
                    drops.insert(key, *count);
                    if !first && more > 0 {
                        *row.drops.entry(render::clean(reason)).or_default() += more;
                        dropped += more;
                    }
                }
                row.state = tunnel.state;
                row.active = tunnel.active;
                row.engine = render::engine(tunnel);
                row.cause = tunnel.cause.as_ref().map(|cause| render::clean(cause));
                row.now = Rates {
                    bits_in: per_second(grown.bytes_in) * 8.0,
                    bits_out: per_second(grown.bytes_out) * 8.0,
                    packets_in: per_second(grown.packets_in),
                    packets_out: per_second(grown.packets_out),
                    drops: per_second(dropped),
                };
                if !first {
                    if row.history.len() == HISTORY {
                        row.history.pop_front();
                    }
                    row.history.push_back(row.now);
                }
                self.rows.push(row);
            }
        }
        let of_guard = status.counters.iter().filter(|c| c.verdict == Verdict::Drop);
        let sum = of_guard.fold(0u64, |sum, c| sum.saturating_add(c.packets));
        self.guard = per_second(sum.saturating_sub(self.guard_sum.unwrap_or(sum)));
        (self.children, self.drops, self.guard_sum) = (children, drops, Some(sum));
        self.selected = self.selected.min(self.rows.len().saturating_sub(1));
        self.head = format!(
            "culvertd {}, running for {}",
            render::clean(&status.version),
            crate::units::duration(status.uptime_s)
        );
        self.warnings = status.warnings.iter().map(|w| render::clean(w)).collect();
    }

    /// All tunnels together.
    pub(crate) fn total(&self) -> Rates {
        self.rows.iter().fold(Rates::default(), |sum, row| Rates {
            bits_in: sum.bits_in + row.now.bits_in,
            bits_out: sum.bits_out + row.now.bits_out,
            packets_in: sum.packets_in + row.now.packets_in,
            packets_out: sum.packets_out + row.now.packets_out,
            drops: sum.drops + row.now.drops,
        })
    }

    /// The next tunnel of the list, or the one before.
    pub(crate) fn select(&mut self, down: bool) {
        let last = self.rows.len().saturating_sub(1);
        self.selected = if down { (self.selected + 1).min(last) } else { self.selected.saturating_sub(1) };
    }
}
