//! Alibaba Cloud's peer configuration: JSON with one tunnel, or with `TunnelsConfig` for two.

use serde_json::{Map, Value};

use super::draft::{Draft, assemble, identity, networks, psk};
use super::{Format, ImportError, Report, name};
use crate::side::Side;

pub(super) fn read(text: &str, report: &mut Report) -> Result<Vec<Side>, ImportError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ImportError::Syntax { line: error.line(), what: format!("not JSON: {error}") })?;
    let whole = Lines { text };
    let config = value.get("VpnConnectionConfig").unwrap_or(&value);
    let Some(config) = config.as_object() else {
        return Err(ImportError::Syntax { line: 1, what: "not an object with `IkeConfig`".to_owned() });
    };
    let nets = |key: &str, report: &mut Report| {
        let text = config.get(key).and_then(Value::as_str).unwrap_or_default();
        if !text.is_empty() {
            report.taken(whole.of(key), format!("{key}: {text}"));
        }
        networks(text, whole.of(key), report)
    };
    let (local, remote) = (nets("LocalSubnet", report), nets("RemoteSubnet", report));
    let tunnels = config.get("TunnelsConfig").and_then(|t| t.get("TunnelConfig")).and_then(Value::as_array);
    let mut drafts: Vec<Draft> = Vec::new();
    match tunnels.filter(|list| !list.is_empty()) {
        Some(list) => {
            for tunnel in list.iter().filter_map(Value::as_object) {
                drafts.push(draft(tunnel, &whole, report));
            }
        }
        None => drafts.push(draft(config, &whole, report)),
    }
    for key in config.keys() {
        let known =
            ["Local", "Remote", "LocalSubnet", "RemoteSubnet", "IkeConfig", "IpsecConfig", "TunnelsConfig"];
        if !known.contains(&key.as_str()) {
            report.left_out(whole.of(key), key, "not a key that Culvert knows");
        }
    }
    let id = ["VpnConnectionId", "Name"].iter().find_map(|key| config.get(*key).and_then(Value::as_str));
    let name = id.map_or_else(|| "alibaba".to_owned(), name);
    assemble(Format::AlibabaJson, name, drafts, (local, remote), report).map(|side| vec![side])
}

/// The parser keeps no places: the first line that names a key is the one to look at.
struct Lines<'t> {
    text: &'t str,
}

impl Lines<'_> {
    fn of(&self, key: &str) -> usize {
        let quoted = format!("\"{key}\"");
        self.text.lines().position(|line| line.contains(&quoted)).map_or(0, |index| index + 1)
    }
}

fn draft(from: &Map<String, Value>, lines: &Lines<'_>, report: &mut Report) -> Draft {
    let mut draft = Draft { line: lines.of("IkeConfig"), ..Draft::default() };
    let string = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (key, value) in from {
        match (key.as_str(), value) {
            ("Local" | "Remote", value) => {
                let text = string(value);
                let address = text.parse().ok();
                if address.is_none() {
                    report.refused(lines.of(key), &format!("{key}: {text}"), "no address");
                } else {
                    report.taken(lines.of(key), format!("{key}: {text}"));
                }
                if key == "Local" { draft.local = address } else { draft.remote = address }
            }
            ("IkeConfig" | "IpsecConfig", Value::Object(phase)) => {
                for (key, value) in phase {
                    let (line, text) = (lines.of(key), string(value));
                    if key == "Psk" {
                        draft.psk = psk(&text, line, report);
                    } else if set(&mut draft, key, &text, line, report) {
                        report.taken(line, format!("{key}: {text}"));
                    }
                }
            }
            _ => {}
        }
    }
    // The ids are the addresses where they are not said otherwise.
    let address = |id: &Option<culvert_ike::Identity>| match id {
        Some(culvert_ike::Identity::Ipv4(a)) => Some((*a).into()),
        _ => None,
    };
    draft.local = draft.local.or_else(|| address(&draft.local_id));
    draft.remote = draft.remote.or_else(|| address(&draft.remote_id));
    draft
}

fn set(draft: &mut Draft, key: &str, value: &str, line: usize, report: &mut Report) -> bool {
    // Only `group14` and its like are groups; `disabled` is no forward secrecy.
    let text = || Some(value.to_owned());
    match key {
        "IkeVersion" => {
            draft.version =
                value.chars().last().and_then(|c| c.to_digit(10)).and_then(|v| u8::try_from(v).ok())
        }
        "IkeMode" => draft.aggressive = value == "aggressive",
        "IkeEncAlg" => (draft.ike.line, draft.ike.cipher) = (line, text()),
        "IkeAuthAlg" => (draft.ike.line, draft.ike.hash) = (line, text()),
        "IkePfs" => (draft.ike.line, draft.ike.group) = (line, text()),
        "IkeLifetime" => draft.ike_lifetime = value.parse().ok(),
        "LocalId" => draft.local_id = identity(value, line, report),
        "RemoteId" => draft.remote_id = identity(value, line, report),
        "IpsecEncAlg" => (draft.esp.line, draft.esp.cipher) = (line, text()),
        "IpsecAuthAlg" => (draft.esp.line, draft.esp.hash) = (line, text()),
        "IpsecPfs" => (draft.esp.line, draft.esp.group) = (line, text()),
        "IpsecLifetime" => draft.esp_lifetime = value.parse().ok(),
        _ => {
            report.left_out(line, &format!("{key}: {value}"), "not a key that Culvert knows");
            return false;
        }
    }
    true
}
