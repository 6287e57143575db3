//! Dropped packets for those who follow them (`culvert drops`): samples from the guard and the engines, and how many more there
//! were, from the counters. While nobody follows, nothing is sampled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use culvert_api::{
    DropCount, DropEnd, DropInner, DropPlace, DropRecord, Drops, DropsRequest, ErrorCode, Response,
};
use culvert_dataplane::{DropSample, Engine};
use culvert_sys::guard::GuardSample;
use culvert_types::{Spi, TunnelId};
use tokio::sync::broadcast;

use crate::daemon::Daemon;
use crate::requests::unknown;

/// How far a follower may fall behind, in records.
const LAG: usize = 1024;
/// Between two looks for samples.
const LOOK: Duration = Duration::from_millis(100);
/// Looks in a second, at whose end it is said what was not shown.
const LOOKS: u32 = 10;
/// Samples of one reason in one place that are shown in one second.
const SHOWN: u32 = 10;
/// Samples taken at one look: more than one second's of all reasons.
const MOST: usize = 2000;

/// Who dropped, of which tunnel where that is counted, and why.
type Key = (DropPlace, Option<TunnelId>, String);

/// What followers are told.
pub(crate) struct Following {
    live: broadcast::Sender<Arc<DropRecord>>,
    /// When to look next; `None`: nobody follows.
    next: Option<Instant>,
    looks: u32,
    /// The number of this second, never 0.
    epoch: u32,
    tallies: BTreeMap<Key, Tally>,
    /// Samples shown in this second.
    shown: BTreeMap<(DropPlace, String), u32>,
}

/// One counter, and what was told of it since somebody follows.
#[derive(Debug, Default)]
struct Tally {
    /// What it said last.
    counted: u64,
    /// Packets dropped.
    dropped: u64,
    /// Of these, shown one by one, or told of as not shown.
    told: u64,
}

impl Tally {
    /// Takes in what the counter says; an SA that goes takes its own along.
    fn count(&mut self, counted: u64) {
        self.dropped += counted.saturating_sub(std::mem::replace(&mut self.counted, counted));
    }

    /// How many have not been told of, who now are.
    fn untold(&mut self) -> u64 {
        let untold = self.dropped.saturating_sub(self.told);
        self.told += untold;
        untold
    }
}

impl Following {
    pub(crate) fn new() -> Self {
        Self {
            live: broadcast::channel(LAG).0,
            next: None,
            looks: 0,
            epoch: 0,
            tallies: BTreeMap::new(),
            shown: BTreeMap::new(),
        }
    }

    /// For the control socket, where followers subscribe.
    pub(crate) fn live(&self) -> broadcast::Sender<Arc<DropRecord>> {
        self.live.clone()
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Tells of a sample, if this second had not enough of its kind.
    fn show(&mut self, tunnel: Option<TunnelId>, record: DropRecord) {
        let shown = self.shown.entry((record.place, record.reason.clone())).or_default();
        *shown += 1;
        if *shown > SHOWN {
            return;
        }
        let tally = self.tallies.entry((record.place, tunnel, record.reason.clone())).or_default();
        tally.told += record.packets;
        self.tell(record);
    }

    fn tell(&self, record: DropRecord) {
        // Without receivers it goes nowhere, which is right.
        let _ = self.live.send(Arc::new(record));
    }
}

impl Daemon {
    /// What was dropped, or the beginning of showing it.
    pub(crate) async fn drops(&mut self, request: &DropsRequest) -> Response {
        if let Some(target) = &request.target {
            let known = self.config.connections.iter().any(|c| {
                let mut tunnels = c.tunnels.iter().map(|t| &t.name);
                tunnels.any(|tunnel| target.covers(&c.name, tunnel))
            });
            if !known && !self.tunnels.values().any(|t| target.covers(&t.connection, &t.name)) {
                return unknown(target);
            }
        }
        if request.follow {
            self.follow_drops().await;
            return Response::done("");
        }
        let mut drops: Vec<DropCount> = Vec::new();
        for ((place, tunnel, reason), packets) in self.dropped().await {
            let (connection, tunnel) = self.name_of(tunnel);
            if packets > 0 && request.wants(connection.as_deref(), tunnel.as_deref(), &reason) {
                drops.push(DropCount { place, connection, tunnel, reason, packets });
            }
        }
        drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
        Response::Drops(Drops { drops })
    }

    /// Begins to look, unless somebody follows already.
    async fn follow_drops(&mut self) {
        if self.following.next.is_some() {
            return;
        }
        let counted = self.dropped().await;
        let following = &mut self.following;
        let tally = |(key, counted)| (key, Tally { counted, ..Tally::default() });
        following.tallies = counted.into_iter().map(tally).collect();
        following.shown.clear();
        (following.looks, following.next) = (0, Some(Instant::now() + LOOK));
        self.next_second();
    }

    fn next_second(&mut self) {
        self.following.epoch = self.following.epoch.wrapping_add(1).max(1);
        self.look(self.following.epoch);
    }

    fn look(&mut self, epoch: u32) {
        self.plane.look_at_drops(epoch);
        self.guard.look_at_drops(epoch);
    }

    /// Tells followers what was dropped since the last look.
    pub(crate) async fn on_drops(&mut self) {
        if self.following.live.receiver_count() == 0 {
            self.following.next = None;
            self.look(0);
            return;
        }
        self.following.next = Some(Instant::now() + LOOK);
        self.following.looks += 1;
        // Before the samples, so that none is counted which is shown later.
        let counted =
            if self.following.looks.is_multiple_of(LOOKS) { Some(self.dropped().await) } else { None };
        for _ in 0..MOST {
            let Some(sample) = self.guard.take_drop_sample() else { break };
            let record = self.guard_record(&sample);
            self.following.show(None, record);
        }
        for _ in 0..MOST {
            let Some(sample) = self.plane.take_drop_sample() else { break };
            let record = self.engine_record(&sample);
            self.following.show(sample.seen.tunnel, record);
        }
        let Some(counted) = counted else { return };
        for (key, counted) in counted {
            let tally = self.following.tallies.entry(key.clone()).or_default();
            tally.count(counted);
            let packets = tally.untold();
            if packets == 0 {
                continue;
            }
            let (place, tunnel, reason) = key;
            let (connection, tunnel) = self.name_of(tunnel);
            let record = DropRecord { connection, tunnel, unshown: true, ..record(place, reason, packets) };
            self.following.tell(record);
        }
        self.following.shown.clear();
        self.next_second();
    }

    /// Every counter of dropped packets.
    async fn dropped(&self) -> BTreeMap<Key, u64> {
        let mut all = BTreeMap::new();
        let mut add = |key: Key, packets| *all.entry(key).or_default() += packets;
        for counter in self.guard.counters().into_iter().filter(|c| c.verdict != "pass") {
            add((DropPlace::Guard, None, counter.reason.to_owned()), counter.packets);
        }
        for (engine, tunnel, reason, packets) in self.plane.dropped().await {
            add((place(engine), tunnel, reason.to_owned()), packets);
        }
        for (reason, packets) in self.plane.kernel_drops() {
            add((DropPlace::Kernel, None, reason), packets);
        }
        all
    }

    /// Connection and tunnel.
    fn name_of(&self, tunnel: Option<TunnelId>) -> (Option<String>, Option<String>) {
        tunnel.and_then(|id| self.tunnels.get(&id)).map(|t| (t.connection.clone(), t.name.clone())).unzip()
    }

    fn guard_record(&self, sample: &GuardSample) -> DropRecord {
        let spi = sample.spi.and_then(|spi| Spi::new(spi).ok());
        let tunnel = spi.and_then(|spi| self.children.get(spi)).map(|child| child.tunnel);
        let (connection, tunnel) = self.name_of(tunnel);
        let (from, to) = sample.ports.unzip();
        let end = |address: Option<_>, port| address.map(|address| DropEnd { address, port });
        DropRecord {
            time_us: micros(SystemTime::now().checked_sub(sample.age).unwrap_or(UNIX_EPOCH)),
            interface: self.guard.interface(sample.interface),
            connection,
            tunnel,
            passed: sample.verdict == "would-drop",
            length: Some(sample.length.into()),
            source: end(sample.source, from),
            destination: end(sample.destination, to),
            spi: sample.spi.map(|spi| format!("{spi:08x}")),
            sequence: sample.spi.map(|_| sample.sequence.into()),
            ..record(DropPlace::Guard, sample.reason.to_owned(), sample.packets)
        }
    }

    fn engine_record(&self, sample: &DropSample) -> DropRecord {
        let seen = &sample.seen;
        let (connection, tunnel) = self.name_of(seen.tunnel);
        let end = |end: SocketAddr| {
            let port = Some(end.port()).filter(|port| *port != 0);
            (!end.ip().is_unspecified()).then_some(DropEnd { address: end.ip(), port })
        };
        DropRecord {
            time_us: micros(sample.at),
            connection,
            tunnel,
            outward: seen.outward,
            length: (seen.length > 0).then_some(seen.length as u64),
            source: seen.from.and_then(end),
            destination: seen.to.and_then(end),
            spi: seen.spi.map(|spi| format!("{spi:08x}")),
            sequence: seen.sequence,
            inner: seen.inner.map(|(source, destination, protocol)| DropInner {
                source,
                destination,
                protocol,
            }),
            ..record(place(sample.engine), sample.reason.to_owned(), sample.packets)
        }
    }
}

/// That of which nothing is known but where, why and how often; now.
fn record(place: DropPlace, reason: String, packets: u64) -> DropRecord {
    DropRecord {
        time_us: micros(SystemTime::now()),
        place,
        interface: None,
        connection: None,
        tunnel: None,
        reason,
        packets,
        unshown: false,
        passed: false,
        outward: false,
        length: None,
        source: None,
        destination: None,
        spi: None,
        sequence: None,
        inner: None,
    }
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn place(engine: Engine) -> DropPlace {
    match engine {
        Engine::User => DropPlace::User,
        Engine::Xfrm => DropPlace::Xfrm,
        Engine::Bpf => DropPlace::Bpf,
    }
}

/// What a follower is told who has fallen behind.
pub(crate) fn lagged(lost: u64) -> Response {
    let text = format!("{lost} records were lost: the reader was too slow");
    Response::error(ErrorCode::Internal, text, "narrow it with --tunnel or --reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_told_once() {
        let mut tally = Tally { counted: 100, ..Tally::default() };
        tally.count(100);
        assert_eq!(tally.untold(), 0, "what was before is nobody's news");
        tally.count(5_100);
        tally.told += 10;
        assert_eq!((tally.untold(), tally.untold()), (4_990, 0));
        // A sample that came before its count is not told of twice.
        tally.told += 1;
        tally.count(5_101);
        assert_eq!(tally.untold(), 0);
        // An SA went, and took what it had counted along.
        tally.count(0);
        tally.count(7);
        assert_eq!(tally.untold(), 7);
    }

    #[test]
    fn a_flood_is_shown_by_a_few() {
        let mut following = Following::new();
        let mut live = following.live().subscribe();
        for _ in 0..100 {
            following.show(None, record(DropPlace::Guard, "unknown-spi".to_owned(), 1));
        }
        following.show(None, record(DropPlace::Guard, "stale".to_owned(), 1));
        let mut shown = Vec::new();
        while let Ok(record) = live.try_recv() {
            shown.push(record.reason.clone());
        }
        assert_eq!(shown.len(), SHOWN as usize + 1);
        assert_eq!(shown.last().map(String::as_str), Some("stale"));
        let key = (DropPlace::Guard, None, "unknown-spi".to_owned());
        assert_eq!(following.tallies[&key].told, u64::from(SHOWN));
    }
}
