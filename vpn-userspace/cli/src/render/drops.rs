//! Dropped packets: counts as a table, packets as lines.

use culvert_api::{DropPlace, DropRecord, Drops};

use super::clean;
use super::table::Table;
use crate::units;

/// The counts, the most frequent first.
pub(crate) fn drops(drops: &Drops) -> String {
    if drops.drops.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let mut table = Table::new(&["DROPPED BY", "TUNNEL", "REASON", "PACKETS"], &[3]);
    for drop in &drops.drops {
        let whose = whose(drop.connection.as_deref(), drop.tunnel.as_deref()).unwrap_or_default();
        table.row([by(drop.place).to_owned(), whose, clean(&drop.reason), drop.packets.to_string()]);
    }
    table.finish()
}

/// `2026-11-22T01:37:08.123Z guard wan: unknown-spi, 203.0.113.9:4500 > 198.51.100.20:4500, spi c0ffee02 seq 7, 152 bytes`
pub(crate) fn drop_line(record: &DropRecord) -> String {
    let mut line = format!("{} {}", units::timestamp(record.time_us / 1000), by(record.place));
    if let Some(interface) = &record.interface {
        line.push_str(&format!(" {}", clean(interface)));
    }
    if let Some(whose) = whose(record.connection.as_deref(), record.tunnel.as_deref()) {
        line.push_str(&format!(" {whose}"));
    }
    let reason = clean(&record.reason);
    if record.unshown {
        let why = match record.place {
            DropPlace::Xfrm | DropPlace::Kernel => "were dropped in the kernel, which shows no packets",
            _ => "were not shown",
        };
        line.push_str(&format!(": and {} more of {reason} {why}\n", record.packets));
        return line;
    }
    line.push_str(match record.place {
        DropPlace::Guard if record.passed => " would drop: ",
        DropPlace::Guard => ": ",
        _ if record.outward => " out: ",
        _ => " in: ",
    });
    let mut parts = vec![reason];
    match (&record.source, &record.destination) {
        (Some(from), Some(to)) => parts.push(format!("{from} > {to}")),
        (Some(from), None) => parts.push(format!("from {from}")),
        (None, Some(to)) => parts.push(format!("to {to}")),
        (None, None) => {}
    }
    match (&record.spi, record.sequence) {
        (Some(spi), Some(sequence)) => parts.push(format!("spi {} seq {sequence}", clean(spi))),
        (Some(spi), None) => parts.push(format!("spi {}", clean(spi))),
        (None, _) => {}
    }
    if let Some(inner) = &record.inner {
        let protocol = match inner.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            number => format!("protocol {number}"),
        };
        parts.push(format!("inner {} > {} {protocol}", inner.source, inner.destination));
    }
    if let Some(length) = record.length {
        parts.push(format!("{length} bytes"));
    }
    if record.packets > 1 {
        parts.push(format!("{} packets", record.packets));
    }
    line.push_str(&parts.join(", "));
    line.push('\n');
    line
}

fn by(place: DropPlace) -> &'static str {
    match place {
        DropPlace::User => "engine user",
        DropPlace::Xfrm => "engine xfrm",
        DropPlace::Bpf => "engine bpf",
        // All SAs of this host, whoever's they are.
        DropPlace::Kernel => "kernel IPsec",
        place => place.as_str(),
    }
}

fn whose(connection: Option<&str>, tunnel: Option<&str>) -> Option<String> {
    connection.zip(tunnel).map(|(connection, tunnel)| format!("{}/{}", clean(connection), clean(tunnel)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_api::DropCount;

    fn record(json: &str) -> DropRecord {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn lines_are_as_reviewed() {
        let lines = [
            r#"{"time_us":1795311428123000,"place":"guard","interface":"wan","reason":"unknown-spi","packets":1,
                "length":152,"source":{"address":"203.0.113.9","port":4500},
                "destination":{"address":"198.51.100.20","port":4500},"spi":"c0ffee02","sequence":7}"#,
            r#"{"time_us":1795311428124000,"place":"guard","interface":"wan","connection":"hangzhou","tunnel":"a",
                "reason":"wrong-source","packets":2,"passed":true,"length":3000,
                "source":{"address":"2001:db8::9"},"destination":{"address":"2001:db8::1"},
                "spi":"c0ffee04","sequence":8}"#,
            r#"{"time_us":1795311428125000,"place":"user","connection":"hangzhou","tunnel":"a",
                "reason":"replay-duplicate","packets":1,"length":120,
                "source":{"address":"203.0.113.21","port":4500},"spi":"c0ffee02","sequence":12}"#,
            r#"{"time_us":1795311428126000,"place":"user","connection":"hangzhou","tunnel":"a","outward":true,
                "reason":"selector-mismatch","packets":1,"length":84,
                "inner":{"source":"10.9.9.9","destination":"172.16.0.1","protocol":1}}"#,
            r#"{"time_us":1795311428127000,"place":"user","connection":"hangz\u001bhou","tunnel":"a",
                "reason":"tun-down","packets":3}"#,
            r#"{"time_us":1795311429000000,"place":"guard","reason":"unknown-spi","packets":4990,"unshown":true}"#,
            r#"{"time_us":1795311429000000,"place":"xfrm","connection":"hangzhou","tunnel":"b",
                "reason":"replay","packets":2,"unshown":true}"#,
        ]
        .map(|json| drop_line(&record(json)));
        insta::assert_snapshot!("drops_followed", lines.concat());
    }

    #[test]
    fn counts_are_as_reviewed() {
        let count = |place, tunnel: Option<&str>, reason: &str, packets| DropCount {
            place,
            connection: tunnel.map(|_| "hangzhou".to_owned()),
            tunnel: tunnel.map(str::to_owned),
            reason: reason.to_owned(),
            packets,
        };
        let all = vec![
            count(DropPlace::Guard, None, "unknown-spi", 51_234),
            count(DropPlace::User, Some("a"), "replay-duplicate", 12),
            count(DropPlace::Kernel, None, "XfrmInNoStates", 1),
        ];
        insta::assert_snapshot!("drops", drops(&Drops { drops: all }));
        assert_eq!(drops(&Drops::default()), "nothing was dropped\n");
    }
}
