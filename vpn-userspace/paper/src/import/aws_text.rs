//! AWS's download for "Generic" devices: prose with lines of `- Key : Value`, for each tunnel.

use super::draft::{Draft, assemble, psk};
use super::{Format, ImportError, Report, name};
use crate::side::Side;

/// Under which heading a line stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Ike,
    Esp,
    Outside,
    Inside,
    Routing,
}

pub(super) fn read(text: &str, report: &mut Report) -> Result<Vec<Side>, ImportError> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut part = Part::Ike;
    let mut id = None;
    for (index, raw) in text.lines().enumerate() {
        let (line, text) = (index + 1, raw.trim());
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("ipsec tunnel #") {
            drafts.push(Draft { line, ..Draft::default() });
            part = Part::Ike;
            continue;
        }
        if lower.starts_with('#') {
            part = match lower.trim_start_matches(|c: char| !c.is_ascii_alphabetic()) {
                title if title.starts_with("internet key exchange") => Part::Ike,
                title if title.starts_with("ipsec") => Part::Esp,
                title if title.starts_with("tunnel interface") => Part::Outside,
                title if title.contains("routing") || title.contains("border gateway") => Part::Routing,
                _ => part,
            };
            continue;
        }
        if lower.starts_with("outside ip address") {
            part = Part::Outside;
        } else if lower.starts_with("inside ip address") {
            part = Part::Inside;
        }
        if let Some((key, value)) = text.split_once(':')
            && lower.starts_with("your vpn connection id")
            && key.len() < 60
        {
            id = Some(value.trim().to_owned());
        }
        let Some((key, value)) = text.strip_prefix('-').and_then(|rest| rest.split_once(':')) else {
            continue;
        };
        let key = key.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
        let Some(draft) = drafts.last_mut() else {
            report.left_out(line, text, "it stands before the first tunnel");
            continue;
        };
        // The key itself must not come into the report.
        if key == "pre-shared key" {
            draft.psk = psk(value.trim(), line, report);
        } else if set(draft, part, &key, value.trim(), line, report) {
            report.taken(line, format!("{key}: {}", value.trim()));
        }
    }
    if drafts.is_empty() {
        return Err(ImportError::Empty { format: Format::AwsText, missing: "no heading `IPSec Tunnel #1`" });
    }
    let name = id.map_or_else(|| "aws".to_owned(), |id| name(&id));
    assemble(Format::AwsText, name, drafts, (Vec::new(), Vec::new()), report).map(|side| vec![side])
}

/// Whether the line was understood; the report has it otherwise.
fn set(draft: &mut Draft, part: Part, key: &str, value: &str, line: usize, report: &mut Report) -> bool {
    let number = || value.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    let mut keep = |sound: bool| {
        if !sound {
            report.refused(line, &format!("{key}: {value}"), "this value cannot be read");
        }
        sound
    };
    match (part, key) {
        (_, "ike version") => {
            draft.version =
                value.chars().last().and_then(|c| c.to_digit(10)).and_then(|v| u8::try_from(v).ok());
            keep(matches!(draft.version, Some(1 | 2)))
        }
        (Part::Ike, "authentication algorithm") => {
            (draft.ike.line, draft.ike.hash) = (line, Some(value.to_owned()));
            true
        }
        (Part::Ike, "encryption algorithm") => {
            (draft.ike.line, draft.ike.cipher) = (line, Some(value.to_owned()));
            true
        }
        (Part::Ike, "lifetime") => {
            draft.ike_lifetime = number();
            keep(draft.ike_lifetime.is_some())
        }
        (Part::Ike, "diffie-hellman" | "perfect forward secrecy") => {
            (draft.ike.line, draft.ike.group) = (line, Some(value.to_owned()));
            true
        }
        (Part::Ike, "phase 1 negotiation mode") => {
            draft.aggressive = value.eq_ignore_ascii_case("aggressive");
            true
        }
        (Part::Ike, "authentication method") => {
            if !value.eq_ignore_ascii_case("pre-shared key") {
                report.refused(line, value, "only pre-shared keys are imported; set up certificates by hand");
                return false;
            }
            true
        }
        (Part::Esp, "authentication algorithm") => {
            (draft.esp.line, draft.esp.hash) = (line, Some(value.to_owned()));
            true
        }
        (Part::Esp, "encryption algorithm") => {
            (draft.esp.line, draft.esp.cipher) = (line, Some(value.to_owned()));
            true
        }
        (Part::Esp, "lifetime") => {
            draft.esp_lifetime = number();
            keep(draft.esp_lifetime.is_some())
        }
        (Part::Esp, "perfect forward secrecy") => {
            (draft.esp.line, draft.esp.group) = (line, Some(value.to_owned()));
            true
        }
        (Part::Esp, "dpd interval") => {
            draft.dpd_interval = number();
            keep(draft.dpd_interval.is_some())
        }
        (Part::Esp, "dpd retries") => {
            draft.dpd_retries = number();
            keep(draft.dpd_retries.is_some())
        }
        (Part::Esp, "protocol" | "mode") => true,
        (Part::Outside, "customer gateway") => {
            draft.local = value.parse().ok();
            keep(draft.local.is_some())
        }
        (Part::Outside, "virtual private gateway") => {
            draft.remote = value.parse().ok();
            keep(draft.remote.is_some())
        }
        (Part::Inside, "customer gateway") => {
            draft.inside = value.parse().ok();
            keep(draft.inside.is_some())
        }
        (Part::Inside, "virtual private gateway") => {
            draft.far_inside = value.split('/').next().and_then(|address| address.parse().ok());
            keep(draft.far_inside.is_some())
        }
        (Part::Routing, "customer gateway asn") => {
            draft.local_asn = value.parse().ok();
            keep(draft.local_asn.is_some())
        }
        (Part::Routing, "virtual private gateway asn") => {
            draft.remote_asn = value.parse().ok();
            keep(draft.remote_asn.is_some())
        }
        (Part::Routing, "neighbor ip address" | "next hop") => {
            draft.far_inside = draft.far_inside.or_else(|| value.parse().ok());
            true
        }
        (_, "tcp mss adjustment" | "clear don't fragment bit" | "fragmentation" | "tunnel interface mtu") => {
            report.left_out(line, key, "Culvert finds the MTU and keeps TCP within it by itself");
            false
        }
        (Part::Routing, "neighbor hold time") => {
            report.left_out(line, key, "negotiated");
            false
        }
        _ => {
            report.left_out(line, &format!("{key}: {value}"), "not a line that Culvert knows");
            false
        }
    }
}
