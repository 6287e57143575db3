//! strongSwan's swanctl.conf: a connection with its children, and secrets.

use std::net::IpAddr;
use std::time::Duration;

use culvert_config::{Dpd, DpdAction, Remote, Start};
use culvert_ike::{Identity, Psk};
use ipnet::IpNet;

use super::draft::{are_any, identity, networks, weak};
use super::settings::{self, Entry};
use super::{ImportError, Report, letter, name, words};
use crate::Offer;
use crate::side::{Side, Tunnel};

/// A key and those whom it is for.
pub(super) struct Secret {
    pub(super) ids: Vec<Identity>,
    pub(super) psk: Psk,
}

pub(super) fn read(text: &str, report: &mut Report) -> Result<Vec<Side>, ImportError> {
    let file = settings::parse(text)?;
    let mut secrets = Vec::new();
    for entry in file.iter().filter(|entry| entry.key == "secrets").flat_map(Entry::section) {
        secrets.extend(self::secret(entry, report));
    }
    let mut sides = Vec::new();
    for entry in &file {
        match entry.key.as_str() {
            "connections" => {
                for connection in entry.section() {
                    sides.extend(self::connection(connection, &secrets, report));
                }
            }
            "secrets" => {}
            other => report.left_out(entry.line, other, "not part of a connection"),
        }
    }
    Ok(merge(sides, report))
}

/// Connections between the same networks are tunnels of one.
pub(super) fn merge(sides: Vec<Side>, report: &mut Report) -> Vec<Side> {
    let mut merged: Vec<Side> = Vec::new();
    for side in sides {
        let same = merged.iter_mut().find(|other| {
            (&other.local, &other.remote, other.version) == (&side.local, &side.remote, side.version)
                && !side.remote.is_empty()
        });
        let Some(first) = same else {
            merged.push(side);
            continue;
        };
        report.taken(0, format!("{}: a tunnel of {}, whose networks it has", side.name, first.name));
        for offer in side.ike {
            if !first.ike.contains(&offer) {
                first.ike.push(offer);
            }
        }
        for offer in side.esp {
            if !first.esp.contains(&offer) {
                first.esp.push(offer);
            }
        }
        for mut tunnel in side.tunnels {
            tunnel.name = letter(first.tunnels.len());
            tunnel.weight = 0;
            first.tunnels.push(tunnel);
        }
    }
    // One connection has at most one tunnel of each weight.
    for side in &mut merged {
        for (index, tunnel) in side.tunnels.iter_mut().enumerate() {
            tunnel.weight = u8::try_from(100usize.saturating_sub(index * 50)).unwrap_or(0);
        }
    }
    merged
}

fn secret(entry: &Entry, report: &mut Report) -> Option<Secret> {
    if !entry.key.starts_with("ike") {
        report.left_out(entry.line, &entry.key, "only secrets of IKE's pre-shared keys are imported");
        return None;
    }
    let mut ids = Vec::new();
    let mut key = None;
    for item in entry.section() {
        let text = item.text().unwrap_or_default();
        if item.key.starts_with("id") {
            ids.extend(identity(text, item.line, report));
        } else if item.key == "secret" {
            key = psk(text, item.line, report);
        }
    }
    Some(Secret { ids, psk: key? })
}

/// A key in strongSwan's notation.
pub(super) fn psk(text: &str, line: usize, report: &mut Report) -> Option<Psk> {
    let why = match settings::secret(text) {
        // A file of Culvert holds a line of text.
        Some(bytes) if bytes.iter().any(u8::is_ascii_control) => {
            "it has control characters, which a file of Culvert cannot hold"
        }
        Some(bytes) => match Psk::new(bytes) {
            Ok(psk) => {
                report.taken(line, "a pre-shared key");
                return Some(psk);
            }
            Err(_) => "it is empty",
        },
        None => "neither hexadecimal nor Base64 after 0x or 0s",
    };
    report.refused(line, "a pre-shared key", why);
    None
}

/// The key for two ends: that which names most of them.
pub(super) fn key_for(tunnel: &Tunnel, secrets: &[Secret]) -> Option<Psk> {
    let own = tunnel.local_id.clone().or_else(|| tunnel.local_address.map(Identity::from));
    let far = tunnel.remote_id.clone().or_else(|| tunnel.remote_address.address().map(Identity::from));
    let fits = |secret: &&Secret| {
        let has = |id: &Option<Identity>| id.as_ref().is_some_and(|id| secret.ids.contains(id));
        secret.ids.is_empty() || has(&own) || has(&far)
    };
    let rank = |secret: &&Secret| {
        let has = |id: &Option<Identity>| id.as_ref().is_some_and(|id| secret.ids.contains(id));
        (usize::from(has(&far)), usize::from(has(&own)))
    };
    secrets.iter().filter(fits).max_by_key(rank).map(|secret| secret.psk.clone())
}

/// What a list of proposals says; `default` and its like leave it to Culvert.
pub(super) fn proposals(
    text: &str,
    line: usize,
    report: &mut Report,
    one: fn(&str, usize, &mut Report) -> Option<Offer>,
) -> Vec<Offer> {
    let words = text.split(',').map(|word| word.trim().trim_end_matches('!')).filter(|word| !word.is_empty());
    let mut offers = Vec::new();
    for word in words {
        if word == "default" {
            report.left_out(line, word, "Culvert's own proposals stand for strongSwan's");
        } else {
            offers.extend(one(word, line, report));
        }
    }
    offers
}

fn connection(entry: &Entry, secrets: &[Secret], report: &mut Report) -> Option<Side> {
    let mut side = Side {
        name: name(&entry.key),
        // strongSwan without a version begins with 2 and answers both.
        version: 2,
        aggressive: false,
        local: Vec::new(),
        remote: Vec::new(),
        start: Start::Respond,
        profile: None,
        ike: Vec::new(),
        esp: Vec::new(),
        ike_lifetime: None,
        esp_lifetime: None,
        dpd: None,
        udp: false,
        each: false,
        bgp: None,
        mtu: None,
        tunnels: Vec::new(),
    };
    let mut tunnel = blank();
    let (mut delay, mut timeout, mut action) = (None, None, DpdAction::Clear);
    for item in entry.section() {
        let text = item.text().unwrap_or_default();
        let taken = format!("{}.{} = {text}", entry.key, item.key);
        let lifetime =
            || settings::seconds(text).filter(|s| *s > 0).map(|s| Duration::from_secs(s.clamp(60, 604_800)));
        match item.key.as_str() {
            "version" => side.version = if text == "1" { 1 } else { 2 },
            "aggressive" => side.aggressive = yes(text),
            "local_addrs" => tunnel.local_address = address(text, item.line, report),
            "remote_addrs" => tunnel.remote_address = remote(text, item.line, report),
            "proposals" => side.ike = proposals(text, item.line, report, words::ike),
            "rekey_time" | "reauth_time" => side.ike_lifetime = lifetime().or(side.ike_lifetime),
            "dpd_delay" => delay = settings::seconds(text).filter(|s| *s > 0),
            "dpd_timeout" => timeout = settings::seconds(text).filter(|s| *s > 0),
            "encap" => side.udp = yes(text),
            "children" => {
                for child in item.section() {
                    self::child(child, &mut side, &mut action, report);
                }
                continue;
            }
            key if key.starts_with("local") || key.starts_with("remote") => {
                for of in item.section() {
                    let value = of.text().unwrap_or_default();
                    match of.key.as_str() {
                        "id" if key.starts_with("local") => {
                            tunnel.local_id = identity(value, of.line, report)
                        }
                        "id" => tunnel.remote_id = identity(value, of.line, report),
                        "auth" if value == "psk" => {}
                        "auth" => {
                            tunnel.proof = Some("something else than a key");
                            report.refused(
                                of.line,
                                value,
                                "only pre-shared keys are imported; set `auth` up by hand",
                            );
                        }
                        other => report.left_out(of.line, other, "not about pre-shared keys"),
                    }
                    report.taken(of.line, format!("{key}.{} = {value}", of.key));
                }
                continue;
            }
            other => {
                report.left_out(item.line, other, "Culvert has its own way, or a key of its own for it");
                continue;
            }
        }
        report.taken(item.line, taken);
    }
    if let Some(delay) = delay {
        let interval = delay.clamp(1, 3600);
        let timeout = timeout.unwrap_or(interval * 3).clamp(interval, 3600);
        let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
        side.dpd = Some(Dpd { interval, timeout, action });
    }
    finish(side, tunnel, entry.line, secrets, report)
}

/// A tunnel of which nothing is said.
pub(super) fn blank() -> Tunnel {
    Tunnel {
        name: letter(0),
        local_address: None,
        remote_address: Remote::Any,
        local_id: None,
        remote_id: None,
        psk: None,
        proof: None,
        inside: Vec::new(),
        far_inside: Vec::new(),
        weight: 100,
        enabled: true,
    }
}

/// The side with its tunnel and key; what lacks is told.
pub(super) fn finish(
    mut side: Side,
    mut tunnel: Tunnel,
    line: usize,
    secrets: &[Secret],
    report: &mut Report,
) -> Option<Side> {
    let title = side.name.clone();
    tunnel.psk = if tunnel.proof.is_none() { key_for(&tunnel, secrets) } else { None };
    if tunnel.psk.is_none() && tunnel.proof.is_none() {
        report.refused(line, &title, "no pre-shared key for it is in the file");
    }
    if tunnel.remote_address.is_any() {
        if tunnel.remote_id.is_none() {
            report.refused(
                line,
                &title,
                "anybody may be its far end; Culvert needs an address or a remote_id",
            );
        }
        side.start = Start::Respond;
    }
    if are_any(&side.local) {
        side.local.clear();
    }
    if are_any(&side.remote) {
        side.remote.clear();
    }
    weak(&side, report);
    side.tunnels.push(tunnel);
    Some(side)
}

fn child(entry: &Entry, side: &mut Side, action: &mut DpdAction, report: &mut Report) {
    let add = |nets: &mut Vec<IpNet>, more: Vec<IpNet>| {
        for net in more {
            if !nets.contains(&net) {
                nets.push(net);
            }
        }
    };
    for item in entry.section() {
        let text = item.text().unwrap_or_default();
        match item.key.as_str() {
            "local_ts" if text == "dynamic" => {}
            "remote_ts" if text == "dynamic" => {}
            "local_ts" => add(&mut side.local, networks(text, item.line, report)),
            "remote_ts" => add(&mut side.remote, networks(text, item.line, report)),
            "esp_proposals" => {
                for offer in proposals(text, item.line, report, words::esp) {
                    if !side.esp.contains(&offer) {
                        side.esp.push(offer);
                    }
                }
            }
            "rekey_time" => {
                let seconds = settings::seconds(text).filter(|s| *s > 0);
                side.esp_lifetime = seconds.map(|s| Duration::from_secs(s.clamp(60, 604_800)));
            }
            "start_action" => {
                side.start = if text.contains("start") {
                    Start::Immediate
                } else if text.contains("trap") {
                    Start::OnTraffic
                } else {
                    Start::Respond
                };
            }
            "dpd_action" => {
                *action = match text {
                    "restart" | "start" => DpdAction::Restart,
                    "trap" | "hold" => DpdAction::Hold,
                    _ => DpdAction::Clear,
                };
            }
            "mode" if text == "tunnel" => {}
            "mode" => report.refused(item.line, text, "only tunnel mode is imported"),
            other => {
                report.left_out(item.line, other, "Culvert has its own way, or a key of its own for it");
                continue;
            }
        }
        report.taken(item.line, format!("{}.{} = {text}", entry.key, item.key));
    }
}

pub(super) fn yes(text: &str) -> bool {
    matches!(text, "yes" | "true" | "1" | "enabled")
}

/// The first address of a list; `%any` is none.
pub(super) fn address(text: &str, line: usize, report: &mut Report) -> Option<IpAddr> {
    let first = text.split(',').map(str::trim).find(|word| !word.is_empty())?;
    if first.starts_with('%') || first == "0.0.0.0" || first == "::" {
        return None;
    }
    let address = first.parse().ok();
    if address.is_none() {
        report.refused(line, first, "no address of this host; set local_address by hand");
    }
    address
}

/// An address, a name, or anybody.
pub(super) fn remote(text: &str, line: usize, report: &mut Report) -> Remote {
    let mut all = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let first = all.next().unwrap_or("%any");
    if all.next().is_some() {
        report.refused(
            line,
            text,
            "a tunnel of Culvert has one far address: the first is taken, make tunnels of the others",
        );
    }
    if first.starts_with('%') || first.contains('/') || first == "0.0.0.0" || first == "::" {
        return Remote::Any;
    }
    match first.parse() {
        Ok(address) => Remote::Address(address),
        Err(_) => Remote::Name(first.to_owned()),
    }
}
