//! What the project wants to reach, beside what was measured.
use super::figures::{Book, Row, Unit};
use super::legs::Leg;
use serde_json::{Value, json};

/// One aim and its outcome.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) aim: &'static str,
    pub(super) wanted: String,
    /// `None`: not measured in this run.
    pub(super) measured: Option<String>,
    pub(super) met: Option<bool>,
}

#[derive(Clone, Copy)]
enum Want {
    AtLeast(f64),
    AtMost(f64),
}

/// Every aim, met or not.
pub(super) fn judge(book: &Book) -> Vec<Outcome> {
    use Want::{AtLeast, AtMost};
    let of = |key: &str, leg: Leg, to: Leg| book.ratio(key, leg, to);
    // The best that Culvert has for it.
    let best =
        |key: &str, legs: &[Leg]| legs.iter().filter_map(|leg| book.median(key, *leg)).reduce(f64::max);
    let culvert: Vec<Leg> = Leg::ALL.into_iter().filter(|leg| leg.is_culvert()).collect();
    let best_of = |key: &str, legs: &[Leg], to: Leg| {
        Some(best(key, legs)? / book.median(key, to).filter(|v| *v > 0.0)?)
    };
    let plain_esp = [Leg::TunRaw, Leg::TunXsk, Leg::XskXsk];
    let sas = |key: &str| {
        let counts = |row: &&Row| row.key.starts_with(key) && matches!(row.unit, Unit::Gbps | Unit::Pps);
        let all: Vec<f64> =
            book.rows.iter().filter(counts).filter_map(|row| row.median(Leg::TunUdp)).collect();
        (all.len() > 1 && all[0] > 0.0).then(|| all[all.len() - 1] / all[0])
    };
    let worst_flood = book
        .rows
        .iter()
        .filter(|row| row.key.starts_with("flood_") && !row.key.ends_with("_tcp"))
        .filter_map(|row| row.median(Leg::TunUdp))
        .reduce(f64::min);
    let lost = book
        .rows
        .iter()
        .filter(|row| row.key == "rekey_lost")
        .flat_map(|row| row.cells.values().flatten().copied())
        .reduce(f64::max);
    let memory =
        book.rows.iter().find(|row| row.key == "memory_tunnel").and_then(|row| row.median(Leg::TunUdp));
    let thousand =
        book.rows.iter().find(|row| row.key == "tunnels_2000_up").and_then(|row| row.median(Leg::TunUdp));
    let percent = |value: f64| format!("{:.0} %", value * 100.0);
    let times = |value: f64| format!("{value:.1} x");
    let gbps = |value: f64| format!("{value:.2} Gbit/s");
    let micros = |value: f64| format!("{value:.0} µs");
    let kpps = |value: f64| format!("{:.0}k/s", value / 1000.0);
    let plain = |value: f64| format!("{value:.2}");
    let count = |value: f64| format!("{value:.0}");
    type Shown<'a> = &'a dyn Fn(f64) -> String;
    let list: [(&'static str, Want, Option<f64>, Shown<'_>); 26] = [
        (
            "tun+udp, TCP one stream, of plain forwarding",
            AtLeast(0.55),
            of("tcp1", Leg::TunUdp, Leg::Plain),
            &percent,
        ),
        (
            "tun+udp, TCP one stream, to wireguard-go",
            AtLeast(3.2),
            of("tcp1", Leg::TunUdp, Leg::WireguardGo),
            &times,
        ),
        ("tun+udp, CPU-seconds per GB", AtMost(1.5), book.median("tcp1_cpu", Leg::TunUdp), &plain),
        (
            "tun+udp, WAN without GSO, to wireguard-go there",
            AtLeast(2.3),
            of("tcp1_nogso", Leg::TunUdp, Leg::WireguardGo),
            &times,
        ),
        (
            "plain ESP, TCP one stream (where plain forwarding does 18)",
            AtLeast(5.5),
            best("tcp1", &plain_esp),
            &gbps,
        ),
        (
            "plain ESP, TCP one stream, of plain forwarding",
            AtLeast(5.5 / 18.0),
            best_of("tcp1", &plain_esp, Leg::Plain),
            &percent,
        ),
        ("64-byte packets, one flow", AtLeast(370e3), best("pps_64_1", &culvert), &kpps),
        (
            "64-byte packets, one flow, to wireguard-go",
            AtLeast(10.0),
            best_of("pps_64_1", &culvert, Leg::WireguardGo),
            &times,
        ),
        ("mixed sizes, 64 flows", AtLeast(300e3), best("pps_imix_64", &culvert), &kpps),
        (
            "mixed sizes, 64 flows, to wireguard-go",
            AtLeast(10.0),
            best_of("pps_imix_64", &culvert, Leg::WireguardGo),
            &times,
        ),
        (
            "round trip p50, default (plain forwarding 20)",
            AtMost(100.0),
            book.median("rtt_idle_p50", Leg::TunUdp),
            &micros,
        ),
        ("round trip p50, latency = \"low\"", AtMost(45.0), book.median("rtt_idle_p50", Leg::Low), &micros),
        ("round trip p50, engine bpf", AtMost(30.0), book.median("rtt_idle_p50", Leg::Bpf), &micros),
        ("round trip p50, bpf+xdp", AtMost(30.0), book.median("rtt_idle_p50", Leg::BpfXdp), &micros),
        ("engine bpf, 64-byte packets, one flow", AtLeast(240e3), book.median("pps_64_1", Leg::Bpf), &kpps),
        ("bpf+xdp, 64-byte packets, one flow", AtLeast(240e3), book.median("pps_64_1", Leg::BpfXdp), &kpps),
        (
            "latency = \"split\", TCP of tun+udp alone",
            AtLeast(0.9),
            of("tcp1", Leg::Split, Leg::TunUdp),
            &percent,
        ),
        (
            "latency = \"split\", round trip p50",
            AtMost(40.0),
            book.median("rtt_idle_p50", Leg::Split),
            &micros,
        ),
        ("most SAs against one, TCP one stream", AtLeast(0.9), sas("tcp1_sas"), &percent),
        ("most SAs against one, 64-byte packets", AtLeast(0.9), sas("pps_64_1_sas"), &percent),
        ("memory of a tunnel with its child SA, KiB", AtMost(64.0), memory, &plain),
        ("1,000 connections of two tunnels up, seconds", AtMost(60.0), thousand, &plain),
        ("valid traffic beside floods, worst kind", AtLeast(0.95), worst_flood, &percent),
        ("packets lost by rekeys under load", AtMost(0.0), lost, &count),
        ("tun+udp, TCP one stream, to OpenVPN", AtLeast(1.0), of("tcp1", Leg::TunUdp, Leg::Openvpn), &times),
        (
            "tun+udp, TCP one stream, to strongSwan",
            AtLeast(1.0),
            of("tcp1", Leg::TunUdp, Leg::Strongswan),
            &times,
        ),
    ];
    list.into_iter()
        .map(|(aim, want, value, show)| {
            let (sign, bound, met) = match want {
                AtLeast(bound) => ("≥", bound, value.map(|value| value >= bound)),
                AtMost(bound) => ("≤", bound, value.map(|value| value <= bound)),
            };
            Outcome { aim, wanted: format!("{sign} {}", show(bound)), measured: value.map(show), met }
        })
        .collect()
}

pub(super) fn json(outcomes: &[Outcome]) -> Value {
    let one = |o: &Outcome| json!({"aim": o.aim, "wanted": o.wanted, "measured": o.measured, "met": o.met});
    outcomes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::Metric;
    use super::super::legs::Cipher;
    use super::*;

    #[test]
    fn aims_are_met_missed_or_not_measured() {
        let (mut book, cipher) = (Book::default(), Cipher::Aes128Gcm);
        let tcp = Metric("tcp1".into(), "".into(), Unit::Gbps);
        book.put(&tcp, cipher, Leg::Plain, 18.0);
        book.put(&tcp, cipher, Leg::TunUdp, 9.0);
        book.put(&tcp, cipher, Leg::TunRaw, 5.6);
        book.put(&tcp, cipher, Leg::WireguardGo, 2.5);
        let lost = Metric("rekey_lost".into(), "".into(), Unit::Packets);
        book.put(&lost, cipher, Leg::TunUdp, 0.0);
        book.put(&lost, cipher, Leg::TunRaw, 3.0);
        let outcomes = judge(&book);
        let met = |start: &str| outcomes.iter().find(|o| o.aim.starts_with(start)).unwrap().met;
        assert_eq!(met("tun+udp, TCP one stream, of plain"), Some(false));
        assert_eq!(met("tun+udp, TCP one stream, to wireguard-go"), Some(true));
        assert_eq!(met("plain ESP, TCP one stream, of"), Some(true));
        assert_eq!(met("packets lost"), Some(false));
        assert_eq!(met("engine bpf"), None);
        for (count, gbps) in [(1, 8.0), (10_000, 7.6)] {
            for (suffix, unit, value) in [("", Unit::Gbps, gbps), ("_cpu", Unit::CpuPerGb, 2.0)] {
                let metric = Metric(format!("tcp1_sas_{count}{suffix}"), "".into(), unit);
                book.put(&metric, cipher, Leg::TunUdp, value);
            }
        }
        let many = judge(&book).into_iter().find(|o| o.aim.starts_with("most SAs against one, TCP")).unwrap();
        assert_eq!((many.measured.as_deref(), many.met), (Some("95 %"), Some(true)));
        assert_eq!(outcomes[0].measured.as_deref(), Some("50 %"));
    }
}
