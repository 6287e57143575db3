//! What the bench has measured: for every metric a list of rounds for each leg; medians, spreads, ratios, JSON.
use super::legs::{Cipher, Leg};
use culvert_lab::measure::median;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a metric's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Gbit/s, more is better.
    Gbps,
    /// CPU seconds of the whole machine for each gigabyte that arrived; less is better.
    CpuPerGb,
    /// Packets per second; more is better.
    Pps,
    /// Microseconds; less is better.
    Micros,
    /// A share of one; more is better.
    Share,
    /// Packets; fewer is better.
    Packets,
    /// How many there were; no more is asked than were ordered.
    Rekeys,
    /// KiB; less is better.
    KiB,
    /// Seconds; less is better.
    Seconds,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Gbps => "Gbit/s",
            Unit::CpuPerGb => "CPU-s/GB",
            Unit::Pps => "packets/s",
            Unit::Micros => "µs",
            Unit::Share => "share",
            Unit::Packets => "packets",
            Unit::Rekeys => "rekeys",
            Unit::KiB => "KiB",
            Unit::Seconds => "s",
        }
    }

    /// For people.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Unit::Gbps | Unit::CpuPerGb => format!("{value:.2}"),
            Unit::Pps if value >= 1000.0 => format!("{:.0}k", value / 1000.0),
            Unit::Pps | Unit::Micros | Unit::Packets | Unit::Rekeys => format!("{value:.0}"),
            Unit::Share => format!("{:.1} %", value * 100.0),
            Unit::KiB => format!("{value:.1}"),
            Unit::Seconds => format!("{value:.3}"),
        }
    }
}

/// One kind of measurement, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its name in the JSON.
    pub(super) key: String,
    pub(super) title: String,
    pub(super) unit: Unit,
    pub(super) cipher: Cipher,
    pub(super) cells: BTreeMap<Leg, Vec<f64>>,
    /// Legs whose figure is only a bound: the generator could do no more.
    pub(super) at_least: BTreeSet<Leg>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) rows: Vec<Row>,
    /// Legs that are not there, and why.
    pub(super) absent: Vec<(Leg, String)>,
    /// Runs that failed.
    pub(super) failures: Vec<String>,
    /// What Culvert said of the engine and ports of a leg.
    pub(super) described: BTreeMap<Leg, String>,
}

/// Names a metric: key, title, unit.
#[derive(Debug, Clone)]
pub(super) struct Metric(pub(super) String, pub(super) String, pub(super) Unit);

impl Book {
    /// Adds one figure.
    pub(super) fn put(&mut self, metric: &Metric, cipher: Cipher, leg: Leg, value: f64) {
        let row = self.row_mut(metric, cipher);
        row.cells.entry(leg).or_default().push(value);
    }

    /// Says that a leg's figures are limited by the generator.
    pub(super) fn bounded(&mut self, metric: &Metric, cipher: Cipher, leg: Leg) {
        self.row_mut(metric, cipher).at_least.insert(leg);
    }

    fn row_mut(&mut self, Metric(key, title, unit): &Metric, cipher: Cipher) -> &mut Row {
        let at = self.rows.iter().position(|row| row.key == *key && row.cipher == cipher);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                key: key.clone(),
                title: title.clone(),
                unit: *unit,
                cipher,
                cells: BTreeMap::new(),
                at_least: BTreeSet::new(),
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// The median of a metric in the pass with AES-128-GCM, in which all legs take part.
    pub(super) fn median(&self, key: &str, leg: Leg) -> Option<f64> {
        self.rows.iter().find(|row| row.key == key && row.cipher == Cipher::Aes128Gcm)?.median(leg)
    }

    /// One leg's median by another's.
    pub(super) fn ratio(&self, key: &str, leg: Leg, to: Leg) -> Option<f64> {
        let (own, other) = (self.median(key, leg)?, self.median(key, to)?);
        (other > 0.0).then(|| own / other)
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            let cell = |(leg, values): (&Leg, &Vec<f64>)| {
                let (low, high) = extremes(values);
                let cell = json!({
                    "median": rounded(median(values)), "lowest": rounded(low), "highest": rounded(high),
                    "rounds": values.iter().map(|value| rounded(*value)).collect::<Vec<_>>(),
                    "limited_by_generator": row.at_least.contains(leg),
                    "of_plain": row.median(Leg::Plain).filter(|plain| *plain > 0.0).map(|plain| rounded(median(values) / plain)),
                });
                (leg.name().to_owned(), cell)
            };
            json!({
                "metric": row.key, "title": row.title, "unit": row.unit.name(), "cipher": row.cipher.esp(),
                "legs": row.cells.iter().map(cell).collect::<Map<_, _>>(),
            })
        };
        let absent = |(leg, why): &(Leg, String)| json!({"leg": leg.name(), "reason": why});
        let described: Map<String, Value> =
            self.described.iter().map(|(leg, text)| (leg.name().to_owned(), text.clone().into())).collect();
        json!({
            "results": self.rows.iter().map(row).collect::<Vec<_>>(),
            "absent": self.absent.iter().map(absent).collect::<Vec<_>>(),
            "failures": self.failures,
            "legs": described,
        })
    }
}

impl Row {
    pub(super) fn median(&self, leg: Leg) -> Option<f64> {
        self.cells.get(&leg).map(|values| median(values))
    }

    /// Median and spread, for people: half the range in percent of the median.
    pub(super) fn shown(&self, leg: Leg) -> String {
        let Some(values) = self.cells.get(&leg) else { return String::new() };
        let middle = median(values);
        let (low, high) = extremes(values);
        let bound = if self.at_least.contains(&leg) { "≥ " } else { "" };
        let spread = if values.len() > 1 && middle > 0.0 {
            format!(" ±{:.0} %", (high - low) / 2.0 / middle * 100.0)
        } else {
            String::new()
        };
        format!("{bound}{}{spread}", self.unit.show(middle))
    }
}

/// The lowest and the highest.
pub(super) fn extremes(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric() -> Metric {
        Metric("tcp1".into(), "1 stream".into(), Unit::Gbps)
    }

    #[test]
    fn rounds_become_medians_spreads_and_ratios() {
        let mut book = Book::default();
        for value in [10.0, 20.0, 16.0] {
            book.put(&metric(), Cipher::Aes128Gcm, Leg::Plain, value);
        }
        book.put(&metric(), Cipher::Aes128Gcm, Leg::TunUdp, 8.0);
        book.put(&metric(), Cipher::Aes256Gcm, Leg::TunUdp, 7.0);
        assert_eq!(book.rows.len(), 2);
        assert_eq!(book.median("tcp1", Leg::Plain), Some(16.0));
        assert_eq!(book.ratio("tcp1", Leg::TunUdp, Leg::Plain), Some(0.5));
        // What was not measured is absent, not zero.
        assert_eq!(book.ratio("tcp1", Leg::TunUdp, Leg::Openvpn), None);
        assert_eq!(book.rows[0].shown(Leg::Plain), "16.00 ±31 %");
        assert_eq!(book.rows[0].shown(Leg::TunUdp), "8.00");
        assert_eq!(book.rows[0].shown(Leg::Openvpn), "");
        let json = book.json();
        assert_eq!(json["results"][0]["legs"]["tun+udp"]["of_plain"], 0.5);
        assert_eq!(json["results"][0]["legs"]["plain"]["highest"], 20.0);
        assert_eq!(json["results"][1]["legs"]["tun+udp"]["of_plain"], Value::Null);
    }

    #[test]
    fn bounds_are_marked() {
        let (mut book, pps) = (Book::default(), Metric("pps".into(), "64".into(), Unit::Pps));
        book.put(&pps, Cipher::Aes128Gcm, Leg::Plain, 512_345.0);
        book.bounded(&pps, Cipher::Aes128Gcm, Leg::Plain);
        assert_eq!(book.rows[0].shown(Leg::Plain), "≥ 512k");
    }
}
