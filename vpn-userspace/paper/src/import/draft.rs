//! A tunnel as a cloud tells it, key by key, and the connection that several of them make.

use std::net::IpAddr;
use std::time::Duration;

use culvert_config::{Dpd, DpdAction, Remote, Start};
use culvert_ike::{Identity, Psk};
use ipnet::IpNet;

use super::{Format, ImportError, Report, letter, words};
use crate::side::{Bgp, Side, Tunnel};

/// What was said of a tunnel so far.
#[derive(Default, Clone)]
pub(super) struct Draft {
    pub(super) line: usize,
    pub(super) version: Option<u8>,
    pub(super) aggressive: bool,
    pub(super) ike: Algorithms,
    pub(super) esp: Algorithms,
    pub(super) ike_lifetime: Option<u64>,
    pub(super) esp_lifetime: Option<u64>,
    pub(super) dpd_interval: Option<u64>,
    pub(super) dpd_retries: Option<u64>,
    pub(super) psk: Option<Psk>,
    pub(super) local: Option<IpAddr>,
    pub(super) remote: Option<IpAddr>,
    pub(super) local_id: Option<Identity>,
    pub(super) remote_id: Option<Identity>,
    pub(super) inside: Option<IpNet>,
    pub(super) far_inside: Option<IpAddr>,
    pub(super) local_asn: Option<u32>,
    pub(super) remote_asn: Option<u32>,
}

/// Of one phase, in the file's words.
#[derive(Default, Clone)]
pub(super) struct Algorithms {
    pub(super) line: usize,
    pub(super) cipher: Option<String>,
    pub(super) hash: Option<String>,
    pub(super) group: Option<String>,
}

impl Algorithms {
    /// The proposal in strongSwan's notation; `None`, and the report says why, where a word is not known.
    fn proposal(&self, ike: bool, report: &mut Report) -> Option<String> {
        let cipher = self.cipher.as_deref()?;
        let Some(word) = words::cipher(cipher) else {
            report.refused(
                self.line,
                cipher,
                "not a cipher that Culvert has; AES is what the other side should have",
            );
            return None;
        };
        let mut proposal = word.clone();
        if let Some(hash) = &self.hash {
            match words::hash(hash) {
                // Beside an AEAD it names the PRF.
                Some(hash) if word.contains("gcm") && ike => proposal.push_str(&format!("-prf{hash}")),
                Some(_) if word.contains("gcm") => {}
                Some(hash) => proposal.push_str(&format!("-{hash}")),
                None => report.refused(self.line, hash, "not a hash that Culvert has"),
            }
        }
        match self.group.as_deref() {
            None => {}
            Some(group) => match words::group(group) {
                Some(group) => proposal.push_str(&format!("-{group}")),
                None if group.eq_ignore_ascii_case("disabled") || group.eq_ignore_ascii_case("none") => {}
                None => report.refused(
                    self.line,
                    group,
                    "not a group that Culvert has; set another on both sides",
                ),
            },
        }
        Some(proposal)
    }
}

/// The one connection of several tunnels.
pub(super) fn assemble(
    format: Format,
    name: String,
    drafts: Vec<Draft>,
    (local, remote): (Vec<IpNet>, Vec<IpNet>),
    report: &mut Report,
) -> Result<Side, ImportError> {
    let version = drafts.iter().find_map(|draft| draft.version).unwrap_or(1);
    let mut side = Side {
        name,
        version,
        aggressive: drafts.iter().any(|draft| draft.aggressive),
        local,
        remote,
        start: Start::Immediate,
        profile: None,
        ike: Vec::new(),
        esp: Vec::new(),
        ike_lifetime: drafts.iter().find_map(|d| d.ike_lifetime).map(|s| sooner(s, 800)),
        esp_lifetime: drafts.iter().find_map(|d| d.esp_lifetime).map(|s| sooner(s, 600)),
        dpd: drafts.iter().find_map(dpd),
        udp: false,
        each: false,
        bgp: None,
        mtu: None,
        tunnels: Vec::new(),
    };
    if side.ike_lifetime.is_some() || side.esp_lifetime.is_some() {
        report.taken(0, "lifetimes: a little shorter than the other side's, so that Culvert rekeys first");
    }
    for draft in &drafts {
        if draft.version.unwrap_or(version) != version {
            let why = "another IKE version than the first tunnel's; write ike.version, and proposals, into this tunnel by hand";
            report.refused(draft.line, "this tunnel", why);
        }
        if let Some(proposal) = draft.ike.proposal(true, report)
            && let Some(offer) = words::ike(&proposal, draft.ike.line, report)
            && !side.ike.contains(&offer)
        {
            side.ike.push(offer);
        }
        if let Some(proposal) = draft.esp.proposal(false, report)
            && let Some(offer) = words::esp(&proposal, draft.esp.line, report)
            && !side.esp.contains(&offer)
        {
            side.esp.push(offer);
        }
        let (Some(remote), index) = (draft.remote, side.tunnels.len()) else {
            report.refused(
                draft.line,
                "this tunnel",
                "nothing says the address of its far end; it is left out",
            );
            continue;
        };
        if draft.psk.is_none() {
            report.refused(draft.line, "this tunnel", "nothing says its pre-shared key");
        }
        if let (Some(local), Some(remote)) = (draft.local_asn, draft.remote_asn) {
            side.bgp = Some(Bgp { local, remote });
        }
        side.tunnels.push(Tunnel {
            name: letter(index),
            local_address: draft.local,
            remote_address: Remote::Address(remote),
            // What a gateway calls itself by default is its public address, NAT or not.
            local_id: draft.local_id.clone(),
            remote_id: draft.remote_id.clone(),
            psk: draft.psk.clone(),
            proof: None,
            far_inside: draft.far_inside.into_iter().collect(),
            inside: draft.inside.into_iter().collect(),
            weight: if index == 0 { 100 } else { 0 },
            enabled: true,
        });
    }
    if side.tunnels.is_empty() {
        return Err(ImportError::Empty { format, missing: "nothing says the address of a far end" });
    }
    weak(&side, report);
    Ok(side)
}

/// What is offered although it should not be used any more.
pub(super) fn weak(side: &Side, report: &mut Report) {
    let mut words: Vec<&str> = Vec::new();
    for offer in side.ike.iter().chain(&side.esp) {
        let ciphers = offer.encryption.iter().filter(|e| e.weakness().is_some()).map(|e| e.name());
        let hashes = offer.integrity.iter().filter(|i| i.weakness().is_some()).map(|i| i.name());
        let groups = offer.groups.iter().filter(|g| g.weakness().is_some()).map(|g| g.name());
        words.extend(ciphers.chain(hashes).chain(groups));
    }
    words.sort_unstable();
    words.dedup();
    if !words.is_empty() {
        let why = "weak, taken because the file says so; set better ones on both sides";
        report.refused(0, &words.join(", "), why);
    }
}

/// The other side's lifetime less so much that Culvert is first to rekey.
fn sooner(seconds: u64, by: u64) -> Duration {
    let first = if seconds > 4 * by { seconds - by } else { seconds * 4 / 5 };
    Duration::from_secs(first.clamp(60, 7 * 86_400))
}

fn dpd(draft: &Draft) -> Option<Dpd> {
    let interval = draft.dpd_interval?.clamp(1, 3600);
    let timeout = (interval * draft.dpd_retries.unwrap_or(3).clamp(1, 100)).clamp(interval, 3600);
    Some(Dpd {
        interval: Duration::from_secs(interval),
        timeout: Duration::from_secs(timeout),
        action: DpdAction::Restart,
    })
}

/// A key, or the reason why it is none.
pub(super) fn psk(text: &str, line: usize, report: &mut Report) -> Option<Psk> {
    if text.chars().any(char::is_control) {
        report.refused(line, "the pre-shared key", "it has control characters");
        return None;
    }
    if text.contains("****") || text.starts_with('<') {
        report.refused(line, "the pre-shared key", "something stands for it; the file was made without keys");
        return None;
    }
    match Psk::new(text.as_bytes()) {
        Ok(psk) => {
            report.taken(line, "the pre-shared key");
            Some(psk)
        }
        Err(_) => {
            report.refused(line, "the pre-shared key", "it is empty");
            None
        }
    }
}

/// An identity; `None` for anybody, and with a reason for what is none.
pub(super) fn identity(text: &str, line: usize, report: &mut Report) -> Option<Identity> {
    if text.is_empty() || text == "%any" || text == "any" {
        return None;
    }
    match Identity::parse(text) {
        Ok(id) => Some(id),
        Err(error) => {
            report.refused(line, text, &error.to_string());
            None
        }
    }
}

/// Networks separated by commas or spaces; what is none goes into the report.
pub(super) fn networks(text: &str, line: usize, report: &mut Report) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for word in text.split([',', ' ', '\t']).map(str::trim).filter(|word| !word.is_empty()) {
        let net = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
        match net {
            Some(net) if !nets.contains(&net.trunc()) => nets.push(net.trunc()),
            Some(_) => {}
            None => report.refused(line, word, "no network; write an address and a prefix length"),
        }
    }
    nets
}

/// Whether networks are the whole of a family: then the file does not say which.
pub(super) fn are_any(nets: &[IpNet]) -> bool {
    nets.iter().all(|net| net.prefix_len() == 0)
}

/// `Debug` would show the key.
impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("line", &self.line).finish_non_exhaustive()
    }
}
