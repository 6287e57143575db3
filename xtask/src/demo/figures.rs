//! What the demo measured: medians, shares, the table and the JSON.
use culvert_lab::measure::{IperfResult, median};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A way from host A to host B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Leg {
    /// No encryption.
    Plain,
    /// Two culvertd.
    Culvert,
    /// Two strongSwan with user-space ESP.
    Strongswan,
}

impl Leg {
    pub(crate) const ALL: [Leg; 3] = [Leg::Plain, Leg::Culvert, Leg::Strongswan];

    /// First part of its keys in the JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Leg::Plain => "plain",
            Leg::Culvert => "culvert",
            Leg::Strongswan => "strongswan",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Leg::Plain => "no encryption",
            Leg::Culvert => "Culvert",
            Leg::Strongswan => "strongSwan (user space)",
        }
    }
}

/// One kind of iperf3 run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// TCP streams.
    pub(crate) streams: u32,
    /// From host B to host A.
    pub(crate) reverse: bool,
}

impl Run {
    pub(crate) const ALL: [Run; 4] = [
        Run { streams: 1, reverse: false },
        Run { streams: 1, reverse: true },
        Run { streams: 4, reverse: false },
        Run { streams: 4, reverse: true },
    ];

    /// Middle part of its keys in the JSON.
    pub(crate) fn key(self) -> String {
        format!("tcp{}{}", self.streams, if self.reverse { "_reverse" } else { "" })
    }

    /// Its name for people.
    pub(crate) fn title(self) -> String {
        let direction = if self.reverse { "B to A" } else { "A to B" };
        format!("{} stream{}, {direction}", self.streams, if self.streams == 1 { "" } else { "s" })
    }
}

/// One iperf3 run, done.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) result: IperfResult,
    /// Of the whole machine: hosts, gateways and iperf3.
    pub(crate) cpu_seconds: f64,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) seconds: u32,
    pub(crate) rounds: u32,
    pub(crate) samples: BTreeMap<(Leg, Run), Vec<Sample>>,
    /// Mean round trip in microseconds.
    pub(crate) rtt_us: BTreeMap<Leg, f64>,
    /// What `culvert status --json` of gateway B said at the end.
    pub(crate) status: Option<Value>,
    pub(crate) negotiation_ms: Option<u64>,
}

impl Figures {
    pub(crate) fn new(seconds: u32, rounds: u32) -> Self {
        let samples = BTreeMap::new();
        Self { seconds, rounds, samples, rtt_us: BTreeMap::new(), status: None, negotiation_ms: None }
    }

    /// The median of the rounds, in Gbit/s.
    pub(crate) fn gbps(&self, leg: Leg, run: Run) -> Option<f64> {
        let all = self.samples.get(&(leg, run))?;
        let values: Vec<f64> = all.iter().map(|sample| sample.result.gbps).collect();
        (!values.is_empty()).then(|| median(&values))
    }

    /// CPU seconds of the machine for each gigabyte that arrived; the median.
    fn cpu_per_gb(&self, leg: Leg, run: Run) -> Option<f64> {
        let all = self.samples.get(&(leg, run))?;
        let cost = |sample: &Sample| sample.cpu_seconds / (sample.result.bytes as f64 / 1e9);
        let values: Vec<f64> = all.iter().filter(|sample| sample.result.bytes > 0).map(cost).collect();
        (!values.is_empty()).then(|| median(&values))
    }

    /// Of Culvert to another leg.
    fn ratio(&self, run: Run, to: Leg) -> Option<f64> {
        let (own, other) = (self.gbps(Leg::Culvert, run)?, self.gbps(to, run)?);
        (other > 0.0).then(|| own / other)
    }

    fn tunnel(&self) -> Option<&Value> {
        Some(&self.status.as_ref()?["connections"][0]["tunnels"][0])
    }

    fn wan(&self) -> Option<&Value> {
        Some(&self.status.as_ref()?["gateway"]["wan"][0])
    }

    /// The guard's counters that have counted: verdict, reason, packets, bytes.
    pub(crate) fn counters(&self) -> Vec<(String, String, u64, u64)> {
        let list = self.status.as_ref().and_then(|status| status["counters"].as_array());
        let read = |counter: &Value| {
            let text = |key: &str| counter[key].as_str().unwrap_or_default().to_owned();
            let number = |key: &str| counter[key].as_u64().unwrap_or(0);
            (text("verdict"), text("reason"), number("packets"), number("bytes"))
        };
        list.into_iter().flatten().map(read).filter(|counter| counter.2 > 0).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let mut out = Map::new();
        for ((leg, run), samples) in &self.samples {
            let name = format!("{}_{}", leg.key(), run.key());
            out.insert(format!("{name}_gbps"), rounded(self.gbps(*leg, *run)));
            out.insert(format!("{name}_cpu_s_per_gb"), rounded(self.cpu_per_gb(*leg, *run)));
            let rounds: Vec<Value> = samples.iter().map(|sample| rounded(Some(sample.result.gbps))).collect();
            out.insert(format!("{name}_rounds_gbps"), rounds.into());
        }
        for (leg, rtt) in &self.rtt_us {
            out.insert(format!("{}_rtt_us", leg.key()), rounded(Some(*rtt)));
        }
        for run in Run::ALL {
            let key = run.key();
            if let Some(share) = self.ratio(run, Leg::Plain) {
                out.insert(format!("culvert_{key}_share_of_plain"), rounded(Some(share)));
            }
            if let Some(ratio) = self.ratio(run, Leg::Strongswan) {
                out.insert(format!("culvert_{key}_times_strongswan"), rounded(Some(ratio)));
            }
        }
        if let (Some(tunnel), Some(wan)) = (self.tunnel(), self.wan()) {
            for key in ["engine", "lan_port", "wan_port", "engine_reasons"] {
                out.insert(key.into(), tunnel[key].clone());
            }
            for key in ["attach", "attach_reason", "guard"] {
                out.insert(key.into(), wan[key].clone());
            }
            out.insert("suite".into(), tunnel["children"][0]["suite"].clone());
            out.insert("encap".into(), tunnel["children"][0]["encap"].clone());
            out.insert("negotiation_ms".into(), json!(self.negotiation_ms));
            let counter = |c: &(String, String, u64, u64)| json!({"verdict": c.0, "reason": c.1, "packets": c.2, "bytes": c.3});
            out.insert("xdp_counters".into(), self.counters().iter().map(counter).collect());
        }
        out.insert("seconds".into(), self.seconds.into());
        out.insert("rounds".into(), self.rounds.into());
        out.insert("kernel".into(), kernel().into());
        out.insert("cpus".into(), std::thread::available_parallelism().map_or(0, usize::from).into());
        Value::Object(out)
    }

    /// The result for the terminal.
    pub(crate) fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "TCP, Gbit/s",
            "no encryption",
            "Culvert",
            "of no encryption",
            "strongSwan",
            "Culvert / strongSwan",
        ]);
        for run in Run::ALL {
            let gbps = |leg| self.gbps(leg, run).map_or("-".into(), |value| format!("{value:.2}"));
            table.add_row([
                run.title(),
                gbps(Leg::Plain),
                gbps(Leg::Culvert),
                self.ratio(run, Leg::Plain).map_or("-".into(), |share| format!("{:.0} %", share * 100.0)),
                gbps(Leg::Strongswan),
                self.ratio(run, Leg::Strongswan).map_or("-".into(), |ratio| format!("{ratio:.1} x")),
            ]);
        }
        let run = Run { streams: 1, reverse: false };
        let of = |value: Option<f64>, unit: &str| {
            value.map_or("-".to_owned(), |value| format!("{value:.1}{unit}"))
        };
        let cells = |values: [String; 3]| {
            let [plain, culvert, swan] = values;
            [plain, culvert, "".into(), swan, "".into()]
        };
        let cpu = Leg::ALL.map(|leg| of(self.cpu_per_gb(leg, run), ""));
        table.add_row(std::iter::once("CPU seconds per GB".to_owned()).chain(cells(cpu)));
        let rtt = Leg::ALL.map(|leg| of(self.rtt_us.get(&leg).copied(), " µs"));
        table.add_row(std::iter::once("round trip, mean".to_owned()).chain(cells(rtt)));
        let mut text = format!("{table}\n");
        let _ = writeln!(text, "medians of {} interleaved runs of {} s each", self.rounds, self.seconds);
        if let (Some(tunnel), Some(wan)) = (self.tunnel(), self.wan()) {
            let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let child = &tunnel["children"][0];
            let _ = writeln!(
                text,
                "engine {} (LAN port {}, WAN port {}), {} in {}, negotiated in {} ms; guard attached by {}{}",
                word(&tunnel["engine"]),
                word(&tunnel["lan_port"]),
                word(&tunnel["wan_port"]),
                word(&child["suite"]),
                if child["encap"] == "udp" { "UDP" } else { "plain ESP" },
                self.negotiation_ms.map_or("-".into(), |ms| ms.to_string()),
                word(&wan["attach"]),
                wan["attach_reason"].as_str().map(|why| format!(" ({why})")).unwrap_or_default(),
            );
            let _ = writeln!(text, "\nclassifier of gateway B, packets:");
            for (verdict, reason, packets, bytes) in self.counters() {
                let _ = writeln!(
                    text,
                    "  {verdict:<6} {reason:<24} {packets:>12}  {:>10.1} MB",
                    bytes as f64 / 1e6
                );
            }
        }
        text
    }
}

fn rounded(value: Option<f64>) -> Value {
    value.map_or(Value::Null, |value| json!((value * 1000.0).round() / 1000.0))
}

/// The kernel's version.
pub(crate) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(gbps: f64) -> Sample {
        Sample {
            result: IperfResult { gbps, bytes: 1_000_000_000, ..IperfResult::default() },
            cpu_seconds: 2.0,
        }
    }

    #[test]
    fn medians_and_ratios() {
        let run = Run { streams: 1, reverse: false };
        let mut figures = Figures::new(1, 3);
        figures.samples.insert((Leg::Plain, run), vec![sample(10.0), sample(20.0), sample(16.0)]);
        figures.samples.insert((Leg::Culvert, run), vec![sample(8.0)]);
        figures.samples.insert((Leg::Strongswan, run), vec![sample(0.5)]);
        let json = figures.json();
        assert_eq!(json["plain_tcp1_gbps"], 16.0);
        assert_eq!(json["culvert_tcp1_share_of_plain"], 0.5);
        assert_eq!(json["culvert_tcp1_times_strongswan"], 16.0);
        assert_eq!(json["culvert_tcp1_cpu_s_per_gb"], 2.0);
        assert!(figures.table().contains("50 %"));
        // What was not measured is absent, not zero.
        assert_eq!(json.get("culvert_tcp4_gbps"), None);
    }
}
