//! Cisco IOS: crypto maps and virtual tunnel interfaces, with IKEv1 and IKEv2.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use culvert_config::{Dpd, DpdAction, Remote, Start};
use culvert_ike::{Identity, Psk};
use ipnet::{IpNet, Ipv4Net};

use super::draft::{identity, psk, weak};
use super::swanctl::{blank, merge};
use super::{ImportError, Report, name, words};
use crate::Offer;
use crate::side::{Side, Tunnel};

/// A command with the lines of its mode.
struct Block<'t> {
    line: usize,
    words: Vec<&'t str>,
    inner: Vec<(usize, Vec<&'t str>)>,
}

impl<'t> Block<'t> {
    fn is(&self, words: &[&str]) -> bool {
        self.words.starts_with(words)
    }

    fn word(&self, index: usize) -> &'t str {
        self.words.get(index).copied().unwrap_or_default()
    }

    /// What follows these words in the first line of the mode that begins with them.
    fn get(&self, words: &[&str]) -> Option<(usize, &[&'t str])> {
        self.inner
            .iter()
            .find(|(_, line)| line.starts_with(words))
            .map(|(number, line)| (*number, &line[words.len()..]))
    }

    fn all<'s>(&'s self, words: &'s [&'s str]) -> impl Iterator<Item = (usize, &'s [&'t str])> {
        self.inner
            .iter()
            .filter(move |(_, line)| line.starts_with(words))
            .map(move |(number, line)| (*number, &line[words.len()..]))
    }
}

/// What begins a mode even where a paste has lost the spaces before its lines.
const TOP: &[&str] =
    &["crypto", "interface", "ip", "ipv6", "access-list", "router", "hostname", "line", "version"];

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let words: Vec<&str> = raw.split_whitespace().collect();
        let Some(first) = words.first().filter(|word| !word.starts_with('!')) else { continue };
        let indented = raw.starts_with([' ', '\t']);
        let mode = |b: &Block<'_>| b.is(&["interface"]) || b.is(&["router"]);
        // `ip address` and `crypto map NAME` stand inside interfaces.
        let inside_interface = blocks.last().is_some_and(mode)
            && ((*first == "ip" && words.get(1) != Some(&"route") && words.get(1) != Some(&"access-list"))
                || (*first == "crypto" && words.len() == 3));
        if indented || !TOP.contains(first) || inside_interface {
            if let Some(block) = blocks.last_mut() {
                block.inner.push((index + 1, words));
            }
        } else {
            blocks.push(Block { line: index + 1, words, inner: Vec::new() });
        }
    }
    blocks
}

/// Everything that connections refer to.
struct File<'t> {
    blocks: Vec<Block<'t>>,
}

impl<'t> File<'t> {
    fn named(&self, words: &[&str], name: &str) -> Option<&Block<'t>> {
        self.blocks.iter().find(|block| block.is(words) && block.word(words.len()) == name)
    }

    fn address_of(&self, interface: &str) -> Option<IpAddr> {
        let block = self.named(&["interface"], interface)?;
        block.get(&["ip", "address"]).and_then(|(_, rest)| rest.first()?.parse().ok())
    }
}

pub(super) fn read(text: &str, report: &mut Report) -> Result<Vec<Side>, ImportError> {
    let file = File { blocks: blocks(text) };
    let mut sides = Vec::new();
    for interface in file.blocks.iter().filter(|block| block.is(&["interface"])) {
        if let Some((_, profile)) = interface.get(&["tunnel", "protection", "ipsec", "profile"]) {
            let profile = profile.first().copied().unwrap_or_default();
            sides.extend(tunnel_interface(&file, interface, profile, report));
        }
    }
    for map in file
        .blocks
        .iter()
        .filter(|block| block.is(&["crypto", "map"]) && block.words.contains(&"ipsec-isakmp"))
    {
        sides.extend(crypto_map(&file, map, report));
    }
    for block in &file.blocks {
        let known = ["crypto", "interface", "access-list", "ip", "ipv6"].contains(&block.word(0));
        if !known {
            report.left_out(block.line, &block.words.join(" "), "not about IPsec");
        }
    }
    Ok(merge(sides, report))
}

fn side(title: &str) -> Side {
    Side {
        name: name(title),
        version: 1,
        aggressive: false,
        local: Vec::new(),
        remote: Vec::new(),
        start: Start::Immediate,
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
    }
}

fn tunnel_interface(
    file: &File<'_>,
    interface: &Block<'_>,
    profile: &str,
    report: &mut Report,
) -> Option<Side> {
    let title = interface.words.get(1..).unwrap_or_default().concat();
    let mut side = side(&title.to_ascii_lowercase());
    let mut tunnel = blank();
    let Some((line, to)) = interface.get(&["tunnel", "destination"]) else {
        report.refused(interface.line, &title, "it has no tunnel destination");
        return None;
    };
    let to = to.first().copied().unwrap_or_default();
    tunnel.remote_address = match to.parse() {
        Ok(address) => Remote::Address(address),
        Err(_) => Remote::Name(to.to_owned()),
    };
    report.taken(line, format!("tunnel destination {to}"));
    if let Some((line, from)) = interface.get(&["tunnel", "source"]) {
        let from = from.concat();
        tunnel.local_address = from.parse().ok().or_else(|| file.address_of(&from));
        report.taken(line, format!("tunnel source {from}"));
    }
    if let Some((line, [address, mask])) = interface.get(&["ip", "address"]) {
        tunnel.inside.extend(network(address, mask, false));
        report.taken(line, format!("ip address {address} {mask}"));
    }
    // Where its routes lead is the far side.
    for route in file.blocks.iter().filter(|b| b.is(&["ip", "route"]) && b.word(4) == interface.word(1)) {
        if let Some(net) = network(route.word(2), route.word(3), true) {
            side.remote.push(net);
            report.taken(route.line, format!("ip route {net}"));
        }
    }
    if let Some((_, list)) = interface.get(&["tunnel", "protection", "ipsec", "policy", "ipv4"]) {
        side.remote.clear();
        access_list(file, list.first().copied().unwrap_or_default(), &mut side, report);
    }
    if side.local.is_empty() {
        report.refused(
            interface.line,
            &title,
            "nothing says which networks are on this side: give them with --local",
        );
    }
    let Some(block) = file.named(&["crypto", "ipsec", "profile"], profile) else {
        report.refused(interface.line, profile, "there is no such `crypto ipsec profile` in the file");
        return None;
    };
    protection(file, block, &mut side, &mut tunnel, report);
    done(side, tunnel, interface.line, report)
}

fn crypto_map(file: &File<'_>, map: &Block<'_>, report: &mut Report) -> Option<Side> {
    let mut side = side(&format!("{}-{}", map.word(2), map.word(3)));
    if let Some((_, list)) = map.get(&["match", "address"]) {
        access_list(file, list.first().copied().unwrap_or_default(), &mut side, report);
    } else {
        report.refused(
            map.line,
            &map.words.join(" "),
            "it matches no access list: give the networks with --local and --remote",
        );
    }
    let outside = file.blocks.iter().find(|block| {
        block.is(&["interface"])
            && block.get(&["crypto", "map"]).is_some_and(|(_, n)| n.first() == Some(&map.word(2)))
    });
    let own = outside.and_then(|block| file.address_of(block.word(1)));
    let mut made: Option<Side> = None;
    for (line, peer) in map.all(&["set", "peer"]) {
        let peer = peer.first().copied().unwrap_or_default();
        let mut tunnel = blank();
        tunnel.local_address = own;
        tunnel.remote_address = match peer.parse() {
            Ok(address) => Remote::Address(address),
            Err(_) => Remote::Name(peer.to_owned()),
        };
        report.taken(line, format!("set peer {peer}"));
        let mut one = side.clone();
        protection(file, map, &mut one, &mut tunnel, report);
        let Some(one) = done(one, tunnel, map.line, report) else { continue };
        match &mut made {
            None => made = Some(one),
            Some(first) => first.tunnels.extend(one.tunnels),
        }
    }
    if made.is_none() {
        report.refused(map.line, &map.words.join(" "), "it has no `set peer`");
    }
    let mut made = made?;
    for (index, tunnel) in made.tunnels.iter_mut().enumerate() {
        tunnel.name = super::letter(index);
    }
    Some(made)
}

fn done(mut side: Side, tunnel: Tunnel, line: usize, report: &mut Report) -> Option<Side> {
    if tunnel.psk.is_none() {
        report.refused(line, &side.name, "no pre-shared key for its far end is in the file");
    }
    side.remote.dedup();
    // IOS negotiates each line of an access list by itself.
    side.each = side.pairs().len() > 1;
    weak(&side, report);
    side.tunnels.push(tunnel);
    Some(side)
}

/// What a profile or a map entry says of both phases.
fn protection(file: &File<'_>, block: &Block<'_>, side: &mut Side, tunnel: &mut Tunnel, report: &mut Report) {
    let group = block.get(&["set", "pfs"]).and_then(|(_, rest)| words::group(rest.first()?));
    if let Some((_, sets)) = block.get(&["set", "transform-set"]) {
        for set in sets {
            let Some(found) = file.named(&["crypto", "ipsec", "transform-set"], set) else {
                report.refused(block.line, set, "there is no such transform set in the file");
                continue;
            };
            if let Some(offer) = transform_set(found, group, report)
                && !side.esp.contains(&offer)
            {
                side.esp.push(offer);
            }
        }
    }
    if let Some((line, [seconds, ..])) = block.get(&["set", "security-association", "lifetime", "seconds"]) {
        side.esp_lifetime = seconds.parse().ok().map(|s: u64| Duration::from_secs(s.clamp(60, 604_800)));
        report.taken(line, format!("set security-association lifetime seconds {seconds}"));
    }
    let far = tunnel.remote_address.address();
    if let Some((_, profile)) = block.get(&["set", "ikev2-profile"]) {
        side.version = 2;
        let profile = profile.first().copied().unwrap_or_default();
        match file.named(&["crypto", "ikev2", "profile"], profile) {
            Some(profile) => ikev2(file, profile, far, side, tunnel, report),
            None => {
                report.refused(block.line, profile, "there is no such `crypto ikev2 profile` in the file")
            }
        }
    } else {
        isakmp(file, far, side, tunnel, report);
    }
}

fn transform_set(block: &Block<'_>, group: Option<&str>, report: &mut Report) -> Option<Offer> {
    let words = block.words.get(4..).unwrap_or_default();
    let mut proposal = String::new();
    for (index, word) in words.iter().enumerate() {
        let bits =
            words.get(index + 1).filter(|w| w.chars().all(|c| c.is_ascii_digit())).copied().unwrap_or("128");
        match *word {
            "esp-aes" => proposal = format!("aes{bits}"),
            "esp-gcm" => proposal = format!("aes{bits}gcm16"),
            "esp-3des" => "3des".clone_into(&mut proposal),
            _ if word.ends_with("-hmac") => {
                let hash = word.trim_start_matches("esp-").trim_end_matches("-hmac");
                proposal.push_str(&format!("-{}", words::hash(hash).unwrap_or(hash)));
            }
            _ if word.chars().all(|c| c.is_ascii_digit()) => {}
            other => report.refused(block.line, other, "not an algorithm that Culvert has"),
        }
    }
    if let Some(group) = group {
        proposal.push_str(&format!("-{group}"));
    }
    let offer = words::esp(&proposal, block.line, report)?;
    report.taken(block.line, block.words.join(" "));
    Some(offer)
}

fn ikev2(
    file: &File<'_>,
    profile: &Block<'_>,
    far: Option<IpAddr>,
    side: &mut Side,
    tunnel: &mut Tunnel,
    report: &mut Report,
) {
    report.taken(profile.line, profile.words.join(" "));
    let id = |rest: &[&str], line: usize, report: &mut Report| match rest {
        ["address", address, ..] => identity(address, line, report),
        ["fqdn", name, ..] => Identity::parse(&format!("fqdn:{name}")).ok(),
        ["email", name, ..] => Identity::parse(&format!("email:{name}")).ok(),
        ["key-id", name, ..] => Identity::parse(&format!("keyid:{name}")).ok(),
        _ => None,
    };
    if let Some((line, rest)) = profile.get(&["identity", "local"]) {
        tunnel.local_id = id(rest, line, report);
    }
    if let Some((line, rest)) = profile.get(&["match", "identity", "remote"]) {
        tunnel.remote_id = id(rest, line, report);
    }
    if let Some((_, [seconds, ..])) = profile.get(&["lifetime"]) {
        side.ike_lifetime = seconds.parse().ok().map(|s: u64| Duration::from_secs(s.clamp(60, 604_800)));
    }
    if let Some((_, [interval, retry, ..])) = profile.get(&["dpd"]) {
        side.dpd = dpd(interval, retry);
    }
    for proposal in file.blocks.iter().filter(|block| block.is(&["crypto", "ikev2", "proposal"])) {
        let words = |key: &str| proposal.get(&[key]).map(|(_, rest)| rest.to_vec()).unwrap_or_default();
        let mut all: Vec<String> = words("encryption").iter().filter_map(|w| words::cipher(w)).collect();
        all.extend(words("integrity").iter().filter_map(|w| words::hash(w)).map(str::to_owned));
        all.extend(words("prf").iter().filter_map(|w| words::hash(w)).map(|hash| format!("prf{hash}")));
        all.extend(words("group").iter().filter_map(|w| words::group(w)).map(str::to_owned));
        if let Some(offer) = words::ike(&all.join("-"), proposal.line, report) {
            report.taken(proposal.line, proposal.words.join(" "));
            if !side.ike.contains(&offer) {
                side.ike.push(offer);
            }
        }
    }
    let keyring =
        profile.get(&["keyring", "local"]).and_then(|(_, rest)| rest.first().copied()).unwrap_or_default();
    let Some(ring) = file.named(&["crypto", "ikev2", "keyring"], keyring) else { return };
    // Peers stand one after the other in it.
    let mut fits = false;
    for (line, words) in &ring.inner {
        match words.as_slice() {
            ["peer", ..] => fits = false,
            ["address", address, rest @ ..] => {
                fits = match (address.parse::<Ipv4Addr>(), rest.first(), far) {
                    (Ok(address), _, Some(IpAddr::V4(far))) if address == far || address.is_unspecified() => {
                        true
                    }
                    (Ok(_), Some(mask), Some(far)) => {
                        network(address, mask, true).is_some_and(|net| net.contains(&far))
                    }
                    _ => false,
                };
            }
            ["pre-shared-key", rest @ ..] if fits => {
                tunnel.psk = key(rest, *line, report);
            }
            _ => {}
        }
    }
}

/// A key in a command: plain, or after `0` or `local`; type 6 is encrypted.
fn key(words: &[&str], line: usize, report: &mut Report) -> Option<Psk> {
    match words {
        ["local" | "remote", rest @ ..] => key(rest, line, report),
        ["6" | "7", _, ..] => {
            report.refused(line, "the pre-shared key", "it is encrypted: write the key itself to its file");
            None
        }
        ["0", key] | [key] => psk(key, line, report),
        _ => None,
    }
}

fn isakmp(file: &File<'_>, far: Option<IpAddr>, side: &mut Side, tunnel: &mut Tunnel, report: &mut Report) {
    for policy in file.blocks.iter().filter(|block| block.is(&["crypto", "isakmp", "policy"])) {
        let get = |keys: &[&str]| {
            keys.iter().find_map(|key| policy.get(&[key]).map(|(_, rest)| rest.join(" "))).unwrap_or_default()
        };
        // IOS leaves its defaults out.
        let cipher = match get(&["encr", "encryption"]) {
            text if text.is_empty() || text == "des" => "des".to_owned(),
            text => words::cipher(&text).unwrap_or(text),
        };
        let hash = match get(&["hash"]) {
            text if text.is_empty() => "sha1",
            text => words::hash(&text).unwrap_or("sha1"),
        };
        let group = match get(&["group"]) {
            text if text.is_empty() => "modp768",
            text => words::group(&text).unwrap_or("modp768"),
        };
        if get(&["authentication"]) != "pre-share" {
            report.refused(policy.line, &policy.words.join(" "), "only pre-shared keys are imported");
            continue;
        }
        if let Some(seconds) =
            policy.get(&["lifetime"]).and_then(|(_, rest)| rest.first()?.parse::<u64>().ok())
        {
            side.ike_lifetime = Some(Duration::from_secs(seconds.clamp(60, 604_800)));
        }
        if let Some(offer) = words::ike(&format!("{cipher}-{hash}-{group}"), policy.line, report) {
            report.taken(policy.line, policy.words.join(" "));
            if !side.ike.contains(&offer) {
                side.ike.push(offer);
            }
        }
    }
    for block in &file.blocks {
        let inner = block.inner.iter().map(|(line, words)| (*line, words.as_slice()));
        let lines = if block.is(&["crypto", "keyring"]) {
            inner.collect()
        } else if block.is(&["crypto", "isakmp", "key"]) {
            vec![(block.line, &block.words[1..])]
        } else {
            Vec::new()
        };
        for (line, words) in lines {
            let found = match words {
                ["pre-shared-key", "address", address, rest @ ..] => {
                    rest.iter().position(|w| *w == "key").map(|at| (*address, &rest[at + 1..]))
                }
                ["isakmp", "key", rest @ ..] => rest
                    .iter()
                    .position(|w| *w == "address")
                    .and_then(|at| Some((*rest.get(at + 1)?, &rest[..at]))),
                _ => None,
            };
            let Some((address, words)) = found else { continue };
            let fits = match (address.parse::<IpAddr>(), far) {
                (Ok(address), Some(far)) => address == far || address.is_unspecified(),
                _ => false,
            };
            if fits && tunnel.psk.is_none() {
                tunnel.psk = key(words, line, report);
            }
        }
        if block.is(&["crypto", "isakmp", "keepalive"]) {
            side.dpd = dpd(block.word(3), block.word(4));
            report.taken(block.line, block.words.join(" "));
        }
    }
}

fn dpd(interval: &str, retry: &str) -> Option<Dpd> {
    let interval = interval.parse::<u64>().ok()?.clamp(1, 3600);
    // Five tries so far apart.
    let timeout = (interval + 5 * retry.parse::<u64>().unwrap_or(2).min(60)).clamp(interval, 3600);
    let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
    Some(Dpd { interval, timeout, action: DpdAction::Restart })
}

/// The networks of both sides, from the lines that permit.
fn access_list(file: &File<'_>, title: &str, side: &mut Side, report: &mut Report) {
    let mut lines: BTreeMap<usize, &[&str]> = BTreeMap::new();
    for block in &file.blocks {
        if block.is(&["ip", "access-list", "extended"]) && block.word(3) == title {
            lines.extend(block.inner.iter().map(|(line, words)| (*line, words.as_slice())));
        } else if block.is(&["access-list"]) && block.word(1) == title {
            lines.insert(block.line, block.words.get(2..).unwrap_or_default());
        }
    }
    for (line, words) in lines {
        // A number may stand before the rule.
        let words = if words.first().is_some_and(|w| w.chars().all(|c| c.is_ascii_digit())) {
            &words[1..]
        } else {
            words
        };
        let pair = match words {
            ["permit", "ip", rest @ ..] => {
                place(rest).and_then(|(local, rest)| Some((local, place(rest)?.0)))
            }
            _ => None,
        };
        match pair {
            Some((local, remote)) => {
                report.taken(line, words.join(" "));
                if !side.local.contains(&local) {
                    side.local.push(local);
                }
                if !side.remote.contains(&remote) {
                    side.remote.push(remote);
                }
            }
            None => report.refused(line, &words.join(" "), "only `permit ip NETWORK NETWORK` can be taken"),
        }
    }
    if side.local.is_empty() {
        report.refused(
            0,
            title,
            "there is no such access list in the file, or nothing that can be taken in it",
        );
    }
}

/// A network with its wildcard, `host ADDRESS` or `any`, and what follows.
fn place<'a, 't>(words: &'a [&'t str]) -> Option<(IpNet, &'a [&'t str])> {
    match words {
        ["any", rest @ ..] => Some((IpNet::V4(Ipv4Net::default()), rest)),
        ["host", address, rest @ ..] => Some((IpNet::from(address.parse::<IpAddr>().ok()?), rest)),
        [address, wildcard, rest @ ..] => {
            let wildcard: Ipv4Addr = wildcard.parse().ok()?;
            let mask = Ipv4Addr::from(!u32::from(wildcard));
            let net = Ipv4Net::with_netmask(address.parse().ok()?, mask).ok()?;
            Some((IpNet::V4(net.trunc()), rest))
        }
        _ => None,
    }
}

/// An address with its mask, as a network or as the address of an interface.
fn network(address: &str, mask: &str, whole: bool) -> Option<IpNet> {
    let net = Ipv4Net::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
    Some(IpNet::V4(if whole { net.trunc() } else { net }))
}
