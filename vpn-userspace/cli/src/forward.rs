//! `culvert forward`: what the port forwards do, and names for where they listen.

use std::io::{self, Write};
use std::net::SocketAddr;

use culvert_api::Status;

use crate::render::{Table, clean};
use crate::units;

/// The forwards of every connection.
pub(crate) fn list(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let headings =
        ["FORWARD", "LISTENS ON", "LEADS TO", "NOW", "CLIENTS", "REFUSED", "FAILED", "THERE", "BACK"];
    let mut table = Table::new(&headings, &[3, 4, 5, 6, 7, 8]);
    let mut faults = String::new();
    let mut any = false;
    for connection in &status.connections {
        for forward in &connection.forwards {
            any = true;
            let name = format!("{}/{}", clean(&connection.name), clean(&forward.name));
            for (what, text) in [("", &forward.fault), ("last failure: ", &forward.error)] {
                if let Some(text) = text {
                    faults.push_str(&format!("{name}: {what}{}\n", clean(text)));
                }
            }
            table.row([
                name,
                format!("{} {}", clean(&forward.protocol), clean(&forward.listen)),
                clean(&forward.to),
                forward.active.to_string(),
                forward.clients.to_string(),
                (forward.not_allowed + forward.too_many).to_string(),
                forward.failed.to_string(),
                units::bytes(forward.bytes_there),
                units::bytes(forward.bytes_back),
            ]);
        }
    }
    if !any {
        return writeln!(
            out,
            "no forwards: add [connection.NAME.forward.NAME] to the configuration, then `culvert reload`"
        );
    }
    out.write_all(table.finish().as_bytes())?;
    if !faults.is_empty() {
        write!(out, "\n{faults}")?;
    }
    Ok(())
}

/// Lines for /etc/hosts, so that `NAME:PORT` reaches the forwards.
pub(crate) fn hosts(out: &mut impl Write, status: &Status, name: &str) -> io::Result<()> {
    let mut addresses = Vec::new();
    for forward in status.connections.iter().flat_map(|c| &c.forwards) {
        let Ok(listen) = forward.listen.parse::<SocketAddr>() else { continue };
        let address = match listen {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => "127.0.0.1".to_owned(),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => "::1".to_owned(),
            other => other.ip().to_string(),
        };
        writeln!(out, "# {name}:{} leads to {}", listen.port(), clean(&forward.to))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        writeln!(out, "# no forwards")?;
    }
    for address in addresses {
        writeln!(out, "{address} {name}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use culvert_api::{Connection, ConnectionState, Forward};

    use super::*;

    fn status() -> Status {
        let mut status = crate::render::fixture::status();
        let forward = |name: &str, listen: &str, to: &str| Forward {
            name: name.into(),
            protocol: "tcp".into(),
            listen: listen.into(),
            to: to.into(),
            fault: (name == "taken").then(|| "tcp 127.0.0.1:33001 is taken\u{1b}[2J".into()),
            clients: 7,
            active: 2,
            not_allowed: 1,
            too_many: 3,
            failed: 1,
            bytes_there: 2048,
            bytes_back: 1 << 20,
            error: None,
        };
        status.connections = vec![Connection {
            name: "site".into(),
            environment: culvert_api::DEFAULT_ENVIRONMENT.into(),
            limits: Vec::new(),
            state: ConnectionState::Up,
            local: Vec::new(),
            remote: Vec::new(),
            tunnels: Vec::new(),
            forwards: vec![
                forward("hello", "0.0.0.0:33000", "172.16.100.30:8080"),
                forward("taken", "127.0.0.1:33001", "intranet.example:80"),
            ],
        }];
        status
    }

    #[test]
    fn a_line_for_each_forward_and_one_for_each_fault() {
        let mut out = Vec::new();
        list(&mut out, &status()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("site/hello") && text.contains("intranet.example:80"), "{text}");
        assert!(
            text.contains("site/taken: tcp 127.0.0.1:33001 is taken") && !text.contains('\u{1b}'),
            "{text}"
        );
        let mut none = Vec::new();
        list(&mut none, &crate::render::fixture::status()).unwrap();
        assert!(String::from_utf8(none).unwrap().contains("no forwards"));
    }

    #[test]
    fn names_lead_to_where_forwards_listen() {
        let mut out = Vec::new();
        hosts(&mut out, &status(), "vpn").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "# vpn:33000 leads to 172.16.100.30:8080\n# vpn:33001 leads to intranet.example:80\n127.0.0.1 vpn\n"
        );
    }
}
