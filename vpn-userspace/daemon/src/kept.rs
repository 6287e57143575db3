//! Log records kept in memory: a ring for each connection, so that a noisy one pushes out nothing of the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use culvert_api::LogRecord;

/// Bytes kept of each connection.
const OF_ONE: usize = 256 << 10;
/// Bytes kept of what belongs to no connection.
const OF_NONE: usize = 4 << 20;
/// Bytes kept of all together; beyond it every ring shrinks to an equal share.
const OF_ALL: usize = 32 << 20;
/// What a record takes beside its texts, about.
const RECORD: usize = 200;

/// The records that are kept.
#[derive(Default)]
pub(crate) struct Kept {
    /// By connection; `None`: of no connection.
    rings: BTreeMap<Option<String>, Ring>,
    bytes: usize,
    /// The number of the next record: rings are merged by it.
    next: u64,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<(u64, Arc<LogRecord>)>,
    bytes: usize,
}

impl Kept {
    pub(crate) fn push(&mut self, record: Arc<LogRecord>) {
        let size = size(&record);
        let most = if record.connection.is_some() { OF_ONE } else { OF_NONE };
        let ring = self.rings.entry(record.connection.clone()).or_default();
        ring.records.push_back((self.next, record));
        ring.bytes += size;
        self.next += 1;
        self.bytes = self.bytes + size - ring.shrink(most);
        if self.bytes > OF_ALL {
            // Below the limit by a tenth, so that it is not done for every record.
            let share = OF_ALL / 10 * 9 / self.rings.len().max(1);
            self.bytes -= self.rings.values_mut().map(|ring| ring.shrink(share)).sum::<usize>();
        }
    }

    /// The records of a connection, or all of them, oldest first.
    pub(crate) fn of(&self, connection: Option<&str>) -> Vec<Arc<LogRecord>> {
        let wanted = |name: &Option<String>| connection.is_none() || name.as_deref() == connection;
        let rings = self.rings.iter().filter(|(name, _)| wanted(name));
        let mut all: Vec<_> = rings.flat_map(|(_, ring)| ring.records.iter().cloned()).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, record)| record).collect()
    }
}

impl Ring {
    /// Forgets the oldest records until so many bytes are left, but never the newest; says how many bytes went.
    fn shrink(&mut self, most: usize) -> usize {
        let before = self.bytes;
        while self.bytes > most && self.records.len() > 1 {
            self.bytes -= self.records.pop_front().map_or(0, |(_, record)| size(&record));
        }
        before - self.bytes
    }
}

fn size(record: &LogRecord) -> usize {
    let fields: usize = record.fields.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
    let names = [&record.connection, &record.tunnel, &record.environment].into_iter().flatten();
    RECORD + record.message.len() + record.target.len() + names.map(String::len).sum::<usize>() + fields
}

#[cfg(test)]
mod tests {
    use culvert_api::Level;

    use super::*;

    fn record(n: usize, connection: Option<&str>, text: &str) -> Arc<LogRecord> {
        Arc::new(LogRecord {
            time_ms: n as u64,
            level: Level::Info,
            environment: None,
            connection: connection.map(str::to_owned),
            tunnel: None,
            target: String::new(),
            message: text.to_owned(),
            fields: BTreeMap::new(),
        })
    }

    #[test]
    fn a_noisy_connection_pushes_out_nothing_of_a_quiet_one() {
        let mut kept = Kept::default();
        kept.push(record(0, Some("quiet"), "once"));
        (1..5000).for_each(|n| kept.push(record(n, Some("noisy"), "again and again")));
        kept.push(record(5000, None, "of nobody"));
        assert_eq!(kept.of(Some("quiet")).len(), 1);
        let noisy = kept.of(Some("noisy"));
        assert!(noisy.len() > 1000 && noisy.len() < 2000, "{}", noisy.len());
        assert_eq!(noisy.last().unwrap().time_ms, 4999);
        let times: Vec<u64> = kept.of(None).iter().map(|r| r.time_ms).collect();
        assert!(times.is_sorted() && times.first() == Some(&0) && times.last() == Some(&5000));
    }

    #[test]
    fn thousands_of_connections_stay_within_the_memory_of_all() {
        let mut kept = Kept::default();
        let long = "x".repeat(2000);
        for n in 0..40_000 {
            kept.push(record(n, Some(&format!("c{}", n % 4000)), &long));
            assert!(kept.bytes <= OF_ALL + 4000);
        }
        let counted: usize = kept.rings.values().map(|ring| ring.bytes).sum();
        assert_eq!(kept.bytes, counted);
        assert!((0..4000).all(|n| !kept.of(Some(&format!("c{n}"))).is_empty()));
    }
}
