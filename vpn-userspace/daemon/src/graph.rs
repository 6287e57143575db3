//! Rates of each tunnel in the past: ten minutes by the second, a day by the minute, in 16 KiB for each that has had traffic.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_api::{Graph, Response, Target, TunnelGraph};
use culvert_dataplane::SaStats;
use culvert_types::{Spi, TunnelId};

use crate::daemon::Daemon;
use crate::requests::unknown;

/// Samples kept by the second, and by the minute.
const SECONDS: usize = 600;
const MINUTES: usize = 1440;
/// Rates are kept in this many bytes per second: 32 bits are enough for 2 Tbit/s.
const UNIT: u64 = 64;

/// In and out.
type Sample = [u32; 2];

/// The past of one tunnel; the newest sample is last.
#[derive(Debug, Default)]
struct Past {
    seconds: VecDeque<Sample>,
    minutes: VecDeque<Sample>,
    /// Bytes of the minute that has begun.
    sum: [u64; 2],
}

/// The past of all tunnels, by connection and name.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    tunnels: BTreeMap<(String, String), Past>,
    /// Bytes of each SA when they were looked at last.
    seen: BTreeMap<Spi, [u64; 2]>,
    /// Seconds of the minute that has begun.
    second: u32,
}

impl Graphs {
    /// Once a second: what the SAs have counted, and whose they are.
    fn sample(&mut self, sas: &[SaStats], owner: impl Fn(TunnelId) -> Option<(String, String)>) {
        let mut bytes: BTreeMap<(String, String), [u64; 2]> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for sa in sas {
            let now = [sa.bytes_in, sa.bytes_out];
            // One that is new has counted from nothing.
            let before = self.seen.get(&sa.inbound).copied().unwrap_or_default();
            seen.insert(sa.inbound, now);
            let grown = [0, 1].map(|side: usize| now[side].saturating_sub(before[side]));
            if grown != [0, 0]
                && let Some(owner) = owner(sa.tunnel)
            {
                let sum = bytes.entry(owner).or_default();
                *sum = [0, 1].map(|side: usize| sum[side] + grown[side]);
            }
        }
        self.seen = seen;
        self.add(&bytes);
    }

    fn add(&mut self, bytes: &BTreeMap<(String, String), [u64; 2]>) {
        for key in bytes.keys() {
            if !self.tunnels.contains_key(key) {
                self.tunnels.insert(key.clone(), Past::default());
            }
        }
        self.second += 1;
        let minute = self.second == 60;
        for (key, past) in &mut self.tunnels {
            let grown = bytes.get(key).copied().unwrap_or_default();
            push(&mut past.seconds, SECONDS, grown.map(kept));
            past.sum = [0, 1].map(|side: usize| past.sum[side] + grown[side]);
            if minute {
                push(&mut past.minutes, MINUTES, past.sum.map(|sum| kept(sum / 60)));
                past.sum = [0, 0];
            }
        }
        if minute {
            self.second = 0;
        }
    }

    /// The latest `seconds` of a tunnel, in bit/s: by the second as long as they are kept, else by the minute.
    fn of(&self, connection: &str, tunnel: &str, seconds: usize) -> [Vec<u64>; 2] {
        let past = self.tunnels.get(&(connection.to_owned(), tunnel.to_owned()));
        let (kept, count) = if seconds <= SECONDS {
            (past.map(|past| &past.seconds), seconds)
        } else {
            (past.map(|past| &past.minutes), seconds.div_ceil(60).min(MINUTES))
        };
        let there = kept.map_or(0, VecDeque::len).min(count);
        let side = |side: usize| {
            let samples = kept.into_iter().flat_map(|samples| samples.iter().skip(samples.len() - there));
            let rates = samples.map(|sample| u64::from(sample[side]) * UNIT * 8);
            std::iter::repeat_n(0, count - there).chain(rates).collect()
        };
        [side(0), side(1)]
    }
}

fn push(list: &mut VecDeque<Sample>, most: usize, sample: Sample) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(sample);
}

/// Little traffic is not none.
fn kept(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Daemon {
    /// Takes a sample, once a second.
    pub(crate) fn sample_rates(&mut self, sas: &[SaStats]) {
        let tunnels = &self.tunnels;
        self.graphs.sample(sas, |id| {
            let entry = tunnels.get(&id)?;
            // Clients of one tunnel are drawn together.
            Some((entry.connection.clone(), entry.configured().to_owned()))
        });
    }

    /// Forgets tunnels that are no longer configured.
    pub(crate) fn forget_graphs(&mut self) {
        let config = &self.config;
        self.graphs.tunnels.retain(|(c, t), _| config.connection(c).is_some_and(|c| c.tunnel(t).is_some()));
    }

    pub(crate) fn graph(&self, target: &Target, seconds: u32) -> Response {
        let seconds = (seconds as usize).clamp(1, MINUTES * 60);
        let all = self.config.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
        let covered = all.filter(|(c, t)| target.covers(&c.name, &t.name));
        let tunnels: Vec<TunnelGraph> = covered
            .map(|(c, t)| {
                let [bits_in, bits_out] = self.graphs.of(&c.name, &t.name, seconds);
                TunnelGraph { connection: c.name.clone(), tunnel: t.name.clone(), bits_in, bits_out }
            })
            .collect();
        if tunnels.is_empty() {
            return unknown(target);
        }
        let end = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        Response::Graph(Graph { end, step_s: if seconds <= SECONDS { 1 } else { 60 }, tunnels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tunnel: &str) -> (String, String) {
        ("site".to_owned(), tunnel.to_owned())
    }

    #[test]
    fn lists_are_as_long_as_asked_and_what_was_not_known_is_zero() {
        let mut graphs = Graphs::default();
        graphs.add(&BTreeMap::from([(key("a"), [6400, 1])]));
        graphs.add(&BTreeMap::from([(key("b"), [0, 128])]));
        assert_eq!(graphs.of("site", "a", 3), [vec![0, 51_200, 0], vec![0, 512, 0]]);
        assert_eq!(graphs.of("site", "b", 3)[1], [0, 0, 1024]);
        assert_eq!(graphs.of("site", "none", 2), [vec![0, 0], vec![0, 0]]);
    }

    #[test]
    fn minutes_are_means_and_both_ends_are_bounded() {
        let mut graphs = Graphs::default();
        for second in 0..(SECONDS as u64 + 120) {
            let bytes = if second % 60 < 30 { 12_800 } else { 0 };
            graphs.add(&BTreeMap::from([(key("a"), [bytes, 0])]));
        }
        let past = &graphs.tunnels[&key("a")];
        assert_eq!((past.seconds.len(), past.minutes.len()), (SECONDS, SECONDS / 60 + 2));
        let [minutes, _] = graphs.of("site", "a", SECONDS + 60);
        assert!(minutes.iter().all(|bits| *bits == 6400 * 8), "{minutes:?}");
        assert_eq!(graphs.of("site", "a", usize::MAX / 2)[0].len(), MINUTES);
    }
}
