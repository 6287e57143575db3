//! A configuration as it is written: lines, comments, and what it could not say.

use std::time::Duration;

use culvert_config::Dpd;

use super::{Exported, Options};
use crate::side::{Side, Tunnel};

/// A text with comments in the target's manner.
pub(super) struct Page {
    /// What begins a comment.
    mark: &'static str,
    device: &'static str,
    title: String,
    body: String,
    notes: Vec<String>,
    options: Options,
}

/// Adds a line, as `format!` makes it.
macro_rules! put {
    ($page:expr, $($arguments:tt)+) => {{
        let line = format!($($arguments)+);
        $page.line(&line);
    }};
}
pub(super) use put;

impl Page {
    pub(super) fn new(mark: &'static str, device: &'static str, side: &Side, options: Options) -> Self {
        let title = format!("{device}: the far end of Culvert's connection {}", side.name);
        let mut page = Self { mark, device, title, body: String::new(), notes: Vec::new(), options };
        for tunnel in &side.tunnels {
            if let Some(proof) = tunnel.proof {
                page.note(&format!(
                    "tunnel {} proves itself by {proof}: that part is left out, write it by hand",
                    tunnel.name
                ));
            }
            if tunnel.remote_address.is_any() {
                page.note(&format!(
                    "nothing says the address of Culvert's end of tunnel {}: give it with --address, or let Culvert begin",
                    tunnel.name
                ));
            }
        }
        page
    }

    pub(super) fn line(&mut self, text: &str) {
        self.body.push_str(text);
        self.body.push('\n');
    }

    pub(super) fn blank(&mut self) {
        self.body.push('\n');
    }

    /// A comment.
    pub(super) fn say(&mut self, text: &str) {
        for line in text.lines() {
            self.body.push_str(&format!("{} {line}\n", self.mark));
        }
    }

    /// What the target cannot say, or what is left to do: here, at the top and beside the text. Once.
    pub(super) fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|note| note == text) {
            self.notes.push(text.to_owned());
        }
    }

    /// Algorithms that have no word on this device.
    pub(super) fn left_out(&mut self, names: &[&str]) {
        for name in names {
            self.note(&format!("{name} is left out: no word for it on {}", self.device));
        }
    }

    /// The key of a tunnel, or what stands for it.
    pub(super) fn psk(&mut self, tunnel: &Tunnel) -> String {
        match &tunnel.psk {
            Some(psk) if self.options.secrets => match std::str::from_utf8(psk.as_bytes()) {
                Ok(text) => text.to_owned(),
                Err(_) => {
                    self.note(&format!(
                        "the key of tunnel {} is no text: a placeholder stands for it",
                        tunnel.name
                    ));
                    placeholder(tunnel)
                }
            },
            Some(_) => {
                self.note(&format!(
                    "{} stands for the pre-shared key; --with-secrets writes the key itself",
                    placeholder(tunnel)
                ));
                placeholder(tunnel)
            }
            None => placeholder(tunnel),
        }
    }

    pub(super) fn finish(self) -> Exported {
        let mut text = format!("{} {}\n", self.mark, self.title);
        for note in &self.notes {
            text.push_str(&format!("{} NOTE: {note}\n", self.mark));
        }
        text.push('\n');
        text.push_str(&self.body);
        Exported { text, notes: self.notes }
    }

    /// The same without comments, for languages that have none.
    pub(super) fn plain(self, text: String) -> Exported {
        Exported { text, notes: self.notes }
    }
}

fn placeholder(tunnel: &Tunnel) -> String {
    format!("KEY-OF-TUNNEL-{}", tunnel.name.to_ascii_uppercase())
}

/// `hangzhou-a`, at most so long. The same names give the same always.
pub(super) fn name(side: &Side, tunnel: &Tunnel, most: usize) -> String {
    let whole = format!("{}-{}", side.name, tunnel.name);
    if whole.len() <= most {
        return whole;
    }
    // FNV-1a.
    let hash =
        whole.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let head: String = whole.chars().take(most.saturating_sub(7)).collect();
    format!("{head}-{:06x}", (hash >> 8) ^ (hash & 0xff))
}

/// A number of its own for each tunnel, of those that devices leave to users.
pub(super) fn number(index: usize) -> usize {
    101 + index
}

/// The netmask of an IPv4 network, `255.255.255.0`.
pub(super) fn mask(net: &ipnet::IpNet) -> String {
    net.netmask().to_string()
}

/// The mask of an access list, `0.0.0.255`.
pub(super) fn wildcard(net: &ipnet::IpNet) -> String {
    net.hostmask().to_string()
}

/// Whole seconds.
pub(super) fn seconds(lifetime: Option<Duration>, default: u64) -> u64 {
    lifetime.map_or(default, |lifetime| lifetime.as_secs())
}

/// The interval of liveness checks in seconds, and after how many without answer the peer is dead.
pub(super) fn dpd(dpd: &Dpd) -> (u64, u64) {
    let interval = dpd.interval.as_secs().max(1);
    (interval, (dpd.timeout.as_secs() / interval).max(1))
}

/// The far end's address, or what stands for it.
pub(super) fn far(tunnel: &Tunnel) -> String {
    match tunnel.remote_address.address() {
        Some(address) => address.to_string(),
        None => "ADDRESS-OF-CULVERT".to_owned(),
    }
}

/// This end's address, or what stands for it.
pub(super) fn near(tunnel: &Tunnel) -> String {
    tunnel.local_address.map_or_else(|| "ADDRESS-OF-THIS-DEVICE".to_owned(), |address| address.to_string())
}

/// The distance of a static route: the heaviest tunnel's is the shortest.
pub(super) fn distance(tunnel: &Tunnel) -> u8 {
    (100 - tunnel.weight.min(100)) / 10 * 2 + 1
}
