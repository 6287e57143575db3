//! `culvert doctor`: everything that can be wrong, from the kernel to an echo through each tunnel, with cause and mend.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use culvert_api::{Explanation, PingRequest, Pings, Request, Response, Status, Target};
use culvert_config::Config;
use culvert_doctor::{Finding, Grade, Host, config, host, tunnels};

use crate::client::{Client, ClientError};
use crate::render::{clean, clean_lines};

/// How long an echo may take.
const PATIENCE_MS: u64 = 2000;

pub(crate) struct Options<'a> {
    pub(crate) target: Option<&'a Target>,
    pub(crate) config: &'a Path,
    pub(crate) socket: &'a Path,
    pub(crate) json: bool,
    pub(crate) colour: bool,
}

/// Exits with 1 if there is a fault.
pub(crate) fn doctor(out: &mut impl Write, options: &Options<'_>) -> Result<ExitCode> {
    let mut findings = Vec::new();
    let loaded = Config::load(options.config);
    let (peers, ports) = match &loaded {
        Ok(config) => {
            let tunnels = config.connections.iter().flat_map(|connection| &connection.tunnels);
            let peers = tunnels.filter_map(|tunnel| tunnel.remote_address.address()).collect();
            (peers, vec![config.gateway.ike_port, config.gateway.natt_port])
        }
        Err(_) => (Vec::new(), vec![500, 4500]),
    };
    let facts = Host::look(&peers, &ports);
    let asked = ask(options);
    findings.extend(host::judge(&facts, asked.is_ok()));
    match &loaded {
        Ok(config) => {
            if let Some(target) = options.target
                && config.connection(target.connection_name()).is_none()
            {
                return Err(ClientError::no_such(target).into());
            }
            let wanted = |name: &str| options.target.is_none_or(|target| target.connection_name() == name);
            findings.extend(config::judge(&facts, config, wanted));
        }
        Err(error) => findings.push(Finding {
            place: "configuration".to_owned(),
            grade: Grade::Fault,
            text: error.render(false),
            mend: "mend the file, or name another with --config".to_owned(),
        }),
    }
    match asked {
        Ok((status, explained, pings)) => {
            let wanted = |connection: &str, tunnel: &str| {
                options.target.is_none_or(|target| target.covers(connection, tunnel))
            };
            findings.extend(tunnels::judge(&status, explained.as_ref(), pings.as_ref(), wanted));
        }
        Err(error) => findings.push(Finding {
            place: "culvertd".to_owned(),
            grade: Grade::Fault,
            text: error.to_string(),
            mend: error.mend().unwrap_or_default(),
        }),
    }
    let faults = findings.iter().filter(|finding| finding.grade == Grade::Fault).count();
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        out.write_all(render(&findings, options.colour).as_bytes())?;
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What culvertd says of its tunnels. Of the last two, what cannot be had is not judged.
fn ask(options: &Options<'_>) -> Result<(Status, Option<Explanation>, Option<Pings>), ClientError> {
    let mut client = Client::connect(options.socket)?;
    let status = client.status()?;
    let targets: Vec<Target> = match options.target {
        Some(target) => vec![target.clone()],
        None => status.connections.iter().filter_map(|connection| connection.name.parse().ok()).collect(),
    };
    client.wait_for(Some(Duration::from_millis(PATIENCE_MS) + Duration::from_secs(10)))?;
    let (mut explained, mut pings) = (Explanation::default(), Pings { pings: Vec::new() });
    for target in targets {
        if let Ok(Response::Explanation(more)) = client.ask(&Request::Explain { target: target.clone() }) {
            explained.tunnels.extend(more.tunnels);
        }
        let request = PingRequest { target, to: None, source: None, timeout_ms: PATIENCE_MS };
        if let Ok(Response::Pings(more)) = client.ask(&Request::Ping(request)) {
            pings.pings.extend(more.pings);
        }
    }
    Ok((status, Some(explained), Some(pings)))
}

fn render(findings: &[Finding], colour: bool) -> String {
    let paint = |grade: Grade| {
        let (word, code) = match grade {
            Grade::Fine => ("ok", "32"),
            Grade::Note => ("note", "36"),
            Grade::Warning => ("WARNING", "33"),
            Grade::Fault => ("FAULT", "31"),
        };
        let word = format!("{word:<8}");
        if colour { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word }
    };
    let mut text = String::new();
    for finding in findings {
        let said = clean_lines(&finding.text).to_string();
        let mut lines = said.lines();
        let first = lines.next().unwrap_or_default();
        text.push_str(&format!("{}{}: {first}\n", paint(finding.grade), clean(&finding.place)));
        lines.for_each(|line| text.push_str(&format!("        {line}\n")));
        if !finding.mend.is_empty() {
            text.push_str(&format!("        mend: {}\n", clean(&finding.mend)));
        }
    }
    let count = |grade: Grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let s = |count: usize| if count == 1 { "" } else { "s" };
    let (faults, warnings, notes) = (count(Grade::Fault), count(Grade::Warning), count(Grade::Note));
    text.push_str(&format!(
        "\n{faults} fault{}, {warnings} warning{}, {notes} note{}\n",
        s(faults),
        s(warnings),
        s(notes)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_with_their_mend() {
        let finding = |grade, text: &str, mend: &str| Finding {
            place: "tunnel hangzhou/a".into(),
            grade,
            text: text.into(),
            mend: mend.into(),
        };
        let all = [finding(Grade::Fine, "up", ""), finding(Grade::Fault, "IKE_AUTH fails\nmore", "same PSK")];
        assert_eq!(
            render(&all, false),
            "ok      tunnel hangzhou/a: up\nFAULT   tunnel hangzhou/a: IKE_AUTH fails\n        more\n        mend: same PSK\n\n\
             1 fault, 0 warnings, 0 notes\n"
        );
    }
}
