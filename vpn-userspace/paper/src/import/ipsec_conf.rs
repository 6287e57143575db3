//! ipsec.conf of strongSwan and Libreswan: a `conn` for each tunnel; keys stand in ipsec.secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use culvert_config::{Dpd, DpdAction, Start};

use super::draft::{identity, networks};
use super::swanctl::{Secret, address, blank, finish, merge, proposals, psk, remote, yes};
use super::{ImportError, Report, name, settings, words};
use crate::side::Side;

/// Values of a `conn`, each with its line.
type Keys<'t> = BTreeMap<&'t str, (usize, &'t str)>;

pub(super) fn read(text: &str, secrets: &str, report: &mut Report) -> Result<Vec<Side>, ImportError> {
    let mut conns: Vec<(&str, usize, Keys<'_>)> = Vec::new();
    let mut in_conn = false;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let text = without_comment(raw);
        if text.trim().is_empty() {
            continue;
        }
        if !text.starts_with([' ', '\t']) {
            let mut words = text.split_whitespace();
            match (words.next(), words.next()) {
                (Some("conn"), Some(name)) => {
                    in_conn = true;
                    conns.push((name, line, Keys::new()));
                }
                (Some("config" | "ca" | "version"), _) => {
                    in_conn = false;
                    report.left_out(line, text, "not part of a connection");
                }
                (Some("include"), _) => {
                    in_conn = false;
                    report.refused(line, text, "other files are not read: import them by themselves");
                }
                _ => {
                    let what =
                        "not a section: `conn NAME`, `config setup` or `ca NAME` was expected".to_owned();
                    return Err(ImportError::Syntax { line, what });
                }
            }
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            return Err(ImportError::Syntax {
                line,
                what: "neither a section nor a line of key=value".to_owned(),
            });
        };
        if in_conn && let Some((_, _, keys)) = conns.last_mut() {
            keys.insert(key.trim(), (line, value.trim().trim_matches('"')));
        }
    }
    let secrets = self::secrets(secrets, report);
    let all: BTreeMap<&str, Keys<'_>> = conns.iter().map(|(name, _, keys)| (*name, keys.clone())).collect();
    let mut sides = Vec::new();
    for (name, line, keys) in &conns {
        let with = inherited(keys, &all);
        // A template for others.
        if *name == "%default" || !with.contains_key("right") {
            continue;
        }
        sides.extend(conn(name, *line, &with, &secrets, report));
    }
    Ok(merge(sides, report))
}

fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            // `@#0a` is a key id.
            '#' if !quoted && !line[..at].ends_with('@') => return line[..at].trim_end(),
            _ => {}
        }
    }
    line.trim_end()
}

/// With what it takes from others by `also`, and from `%default`.
fn inherited<'t>(keys: &Keys<'t>, all: &BTreeMap<&'t str, Keys<'t>>) -> Keys<'t> {
    let mut with = all.get("%default").cloned().unwrap_or_default();
    let mut chain = vec![keys];
    let mut seen: Vec<&str> = Vec::new();
    while let Some((_, also)) = chain.last().and_then(|last| last.get("also")) {
        let Some(next) = all.get(also).filter(|_| !seen.contains(also)) else { break };
        seen.push(also);
        chain.push(next);
    }
    for keys in chain.into_iter().rev() {
        with.extend(keys.iter().map(|(key, value)| (*key, *value)));
    }
    with
}

/// Lines of `ID ID : PSK "KEY"`.
fn secrets(text: &str, report: &mut Report) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for raw in text.lines() {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let found = line.split_once(" : ").or_else(|| line.strip_prefix(": ").map(|rest| ("", rest)));
        let Some((ids, rest)) =
            found.and_then(|(ids, rest)| Some((ids, rest.trim().strip_prefix("PSK")?.trim())))
        else {
            continue;
        };
        let ids = ids.split_whitespace().filter_map(|id| identity(id, 0, report)).collect();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let key = match quote {
            // In quotes nothing has another meaning.
            Some(quote) => rest.trim_matches(quote).to_owned(),
            None => rest.to_owned(),
        };
        if let Some(psk) = psk(&key, 0, report) {
            secrets.push(Secret { ids, psk });
        }
    }
    secrets
}

fn conn(title: &str, line: usize, keys: &Keys<'_>, secrets: &[Secret], report: &mut Report) -> Option<Side> {
    let mut tunnel = blank();
    let mut side = Side {
        name: name(title),
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
    let (mut delay, mut timeout, mut action) = (None, None, DpdAction::Clear);
    for (key, (line, text)) in keys {
        let (line, text) = (*line, *text);
        let lifetime = || settings::seconds(text).map(|s| Duration::from_secs(s.clamp(60, 604_800)));
        // Libreswan has the list in brackets.
        let nets = text.trim_matches(['{', '}']);
        match *key {
            "keyexchange" | "ikev2" => {
                side.version = if matches!(text, "ikev1" | "no" | "never") { 1 } else { 2 }
            }
            "aggressive" | "aggrmode" => side.aggressive = yes(text),
            "left" => tunnel.local_address = address(text, line, report),
            "right" => tunnel.remote_address = remote(text, line, report),
            "leftid" => tunnel.local_id = identity(text, line, report),
            "rightid" => tunnel.remote_id = identity(text, line, report),
            "leftsubnet" | "leftsubnets" => side.local = networks(nets, line, report),
            "rightsubnet" | "rightsubnets" => side.remote = networks(nets, line, report),
            "ike" => side.ike = proposals(&notation(text), line, report, words::ike),
            "esp" | "phase2alg" => side.esp = proposals(&notation(text), line, report, words::esp),
            "ikelifetime" => side.ike_lifetime = lifetime(),
            "lifetime" | "keylife" | "salifetime" => side.esp_lifetime = lifetime(),
            "dpddelay" => delay = settings::seconds(text).filter(|s| *s > 0),
            "dpdtimeout" => timeout = settings::seconds(text).filter(|s| *s > 0),
            "dpdaction" => {
                action = match text {
                    "restart" => DpdAction::Restart,
                    "hold" | "trap" => DpdAction::Hold,
                    _ => DpdAction::Clear,
                };
            }
            "forceencaps" | "encapsulation" => side.udp = yes(text),
            "auto" => {
                side.start = match text {
                    "start" | "up" => Start::Immediate,
                    "route" | "ondemand" | "trap" => Start::OnTraffic,
                    _ => Start::Respond,
                };
            }
            "authby" | "leftauth" | "rightauth" if matches!(text, "secret" | "psk") => {}
            "authby" | "leftauth" | "rightauth" => {
                tunnel.proof = Some("something else than a key");
                report.refused(
                    line,
                    &format!("{key}={text}"),
                    "only pre-shared keys are imported; set `auth` up by hand",
                );
                continue;
            }
            "type" if text == "tunnel" => {}
            "type" => {
                report.refused(line, &format!("type={text}"), "only tunnel mode is imported");
                continue;
            }
            "also" => {}
            other => {
                report.left_out(line, other, "Culvert has its own way, or a key of its own for it");
                continue;
            }
        }
        report.taken(line, format!("{title}: {key}={text}"));
    }
    if let Some(delay) = delay {
        let interval = delay.clamp(1, 3600);
        let timeout = timeout.unwrap_or(interval * 3).clamp(interval, 3600);
        let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
        side.dpd = Some(Dpd { interval, timeout, action });
    }
    finish(side, tunnel, line, secrets, report)
}

/// Libreswan's proposals in strongSwan's notation: `aes_gcm256-sha2_384;dh20` is `aes256gcm16-sha384-ecp384`.
fn notation(text: &str) -> String {
    let one = |proposal: &str| {
        let words = proposal.split(['-', ';', '+']).map(str::trim).filter(|word| !word.is_empty());
        let words = words.map(|word| match word.strip_prefix("dh") {
            Some(number) if number.chars().all(|c| c.is_ascii_digit()) => {
                words::group(number).unwrap_or(word).to_owned()
            }
            _ if word.starts_with("aes_gcm") => words::cipher(word).unwrap_or_else(|| word.to_owned()),
            _ if word == "chacha20_poly1305" => "chacha20poly1305".to_owned(),
            _ if word == "null" => String::new(),
            _ => words::hash(word).map_or_else(|| word.to_owned(), str::to_owned),
        });
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    };
    text.trim_end_matches('!').split(',').map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::notation;

    #[test]
    fn libreswans_notation_is_read() {
        assert_eq!(
            notation("aes_gcm256-sha2_384;dh20,aes256-sha2_256;modp2048!"),
            "aes256gcm16-sha384-ecp384,aes256-sha256-modp2048"
        );
        assert_eq!(notation("aes128-sha1-modp1024"), "aes128-sha1-modp1024");
        assert_eq!(notation("aes128gcm16-prfsha256-ecp256"), "aes128gcm16-prfsha256-ecp256");
        assert_eq!(notation("aes_gcm128-null"), "aes128gcm16");
    }
}
