//! Reading one table: typed values with their spans, and what was left unread.

use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Fault;

/// A value and where it stands in the file.
pub(crate) type At<T> = Spanned<T>;

/// A key of the file, its name, and why this version refuses it.
pub(crate) type NotYet = (&'static str, &'static str);

/// Why a word of the language is refused where it stands, and what to do about it.
pub(crate) enum Refused {
    /// It comes in a later version.
    NotYet(&'static str),
    /// It is right elsewhere, which is no promise.
    NotHere(&'static str),
}

/// A table that is being read.
pub(crate) struct Section<'t> {
    /// As an operator would write it: `[connection.hangzhou]`.
    title: String,
    /// Its header, or its key.
    pub(crate) span: Range<usize>,
    entries: Vec<Entry<'t>>,
    known: Vec<&'static str>,
}

struct Entry<'t> {
    key: &'t str,
    span: Range<usize>,
    value: &'t DeValue<'t>,
    value_span: Range<usize>,
}

/// Keys that read nowhere but in these sections, to say where a key belongs.
const HOMES: [(&str, &[&str]); 9] = [
    (
        "[gateway]",
        &[
            "wan",
            "lan",
            "guard",
            "attach",
            "control_socket",
            "workers",
            "latency",
            "offload",
            "steer",
            "ike_port",
            "natt_port",
            "asn",
            "router_id",
            "bgp_daemon",
        ],
    ),
    (
        "[connection.NAME]",
        &[
            "local",
            "remote",
            "start",
            "engine",
            "encap",
            "ike",
            "esp",
            "dpd",
            "mtu",
            "output_mark",
            "small_packets",
            "balance",
            "failback",
            "routing",
            "bgp",
            "forward",
            "tunnel",
        ],
    ),
    (
        "[connection.NAME.tunnel.NAME]",
        &[
            "local_address",
            "remote_address",
            "auth",
            "remote_auth",
            "psk_file",
            "certificate",
            "private_key",
            "private_key_password_file",
            "ca",
            "crl",
            "allow_sha1_signatures",
            "eap_identity",
            "eap_password_file",
            "eap_server_id",
            "users_file",
            "revocation",
            "ocsp_url",
            "crl_url",
            "eap_only",
            "radius",
            "ppk",
            "inside",
            "virtual_ip",
            "pool",
            "clients",
            "dns",
            "dns_domains",
            "weight",
            "health",
            "health_sources",
            "enabled",
            "copy",
        ],
    ),
    ("`ike` or `esp` of a connection", &["profile", "proposals", "lifetime"]),
    ("`ike` of a connection", &["fragmentation", "fragment_size", "mobike", "childless"]),
    ("`esp` of a connection", &["replay_window", "esn", "mode", "pairs", "rekey_test"]),
    ("[log]", &["level", "format", "ike_secrets"]),
    ("[notice.NAME]", &["on", "connections", "command", "webhook", "webhook_file", "secret_file"]),
    ("`dpd` of a connection", &["interval", "timeout", "action"]),
];

impl<'t> Section<'t> {
    pub(crate) fn new(title: impl Into<String>, span: Range<usize>, table: &'t DeTable<'t>) -> Self {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().as_ref(),
                span: key.span(),
                value: value.get_ref(),
                value_span: value.span(),
            })
            .collect();
        entries.sort_by_key(|entry| entry.span.start);
        Self { title: title.into(), span, entries, known: Vec::new() }
    }

    /// Looks a key up; from then on it counts as known.
    fn take(&mut self, key: &'static str) -> Option<(&'t DeValue<'t>, Range<usize>, Range<usize>)> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(at);
        Some((entry.value, entry.value_span, entry.span))
    }

    /// A string that `parse` understands. `what` describes it: "`mtu` must be {what}".
    pub(crate) fn parsed<T>(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        what: &str,
        mut parse: impl FnMut(&At<&'t str>, &mut Vec<Fault>) -> Option<T>,
    ) -> Option<At<T>> {
        let (value, span, _) = self.take(key)?;
        let text = self.expect_string(faults, key, what, value, span.clone())?;
        let value = parse(&text, faults)?;
        Some(At::new(span, value))
    }

    /// Any string.
    pub(crate) fn string(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        what: &str,
    ) -> Option<At<String>> {
        self.parsed(faults, key, what, |text, _| Some((*text.get_ref()).to_owned()))
    }

    /// One of a few words. `refused` are words of the language that do not serve here.
    pub(crate) fn word<T: Copy>(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        words: &[(&'static str, T)],
        refused: &[(&str, Refused)],
    ) -> Option<At<T>> {
        let list = or_list(words.iter().map(|(word, _)| *word));
        self.parsed(faults, key, &list, |text, faults| {
            let word = *text.get_ref();
            if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
                return Some(*value);
            }
            let mut fault = Fault::new(format!("`{key} = \"{}\"` is not known", word.escape_debug()));
            if let Some((_, refused)) = refused.iter().find(|(known, _)| *known == word) {
                let (is, not, mend) = match refused {
                    Refused::NotYet(mend) => ("is ", "not in this version", mend),
                    Refused::NotHere(mend) => ("", "does not belong here", mend),
                };
                fault = Fault::new(format!("`{key} = \"{word}\"` {is}{not}"))
                    .at(text.span(), not)
                    .help(format!("{mend}; write {list}"));
            } else if let Some(near) = nearest(word, words.iter().map(|(word, _)| *word)) {
                fault = fault.at(text.span(), "unknown word").help(format!("did you mean \"{near}\"?"));
            } else {
                fault = fault.at(text.span(), "unknown word").help(format!("write {list}"));
            }
            faults.push(fault);
            None
        })
    }

    /// An integer within bounds, both included.
    pub(crate) fn integer(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        what: &str,
        bounds: std::ops::RangeInclusive<u32>,
    ) -> Option<At<u32>> {
        let (value, span, _) = self.take(key)?;
        let DeValue::Integer(number) = value else {
            faults.push(self.wrong_type(key, what, value, span));
            return None;
        };
        let digits = number.as_str().replace('_', "");
        match u32::from_str_radix(digits.trim_start_matches('+'), number.radix()) {
            Ok(number) if bounds.contains(&number) => Some(At::new(span, number)),
            _ => {
                faults.push(
                    Fault::new(format!("`{key}` must be {what}"))
                        .at(span, format!("not from {} to {}", bounds.start(), bounds.end()))
                        .help(format!("write a number from {} to {}", bounds.start(), bounds.end())),
                );
                None
            }
        }
    }

    /// Whether a key is there and says `true` or `false`, for keys that say something else as well.
    pub(crate) fn holds_boolean(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && matches!(entry.value, DeValue::Boolean(_)))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, faults: &mut Vec<Fault>, key: &'static str) -> Option<At<bool>> {
        let (value, span, _) = self.take(key)?;
        match value {
            DeValue::Boolean(value) => Some(At::new(span, *value)),
            _ => {
                faults.push(self.wrong_type(key, "`true` or `false`", value, span));
                None
            }
        }
    }

    /// A list of strings; with `lone` also one string. The span is that of the whole list.
    pub(crate) fn list<T>(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        what: &str,
        lone: bool,
        mut parse: impl FnMut(&At<&'t str>, &mut Vec<Fault>) -> Option<T>,
    ) -> Option<At<Vec<At<T>>>> {
        let (value, span, _) = self.take(key)?;
        let mut list = Vec::new();
        match value {
            DeValue::Array(array) => {
                for item in array.iter() {
                    if let Some(text) = self.expect_string(faults, key, what, item.get_ref(), item.span())
                        && let Some(value) = parse(&text, faults)
                    {
                        list.push(At::new(item.span(), value));
                    }
                }
                if array.is_empty() {
                    faults.push(
                        Fault::new(format!("`{key}` is empty"))
                            .at(span, "nothing in it")
                            .help(format!("`{key}` must be {what}")),
                    );
                    return None;
                }
            }
            _ if lone => {
                let text = self.expect_string(faults, key, what, value, span.clone())?;
                list.push(At::new(span.clone(), parse(&text, faults)?));
            }
            _ => {
                let mut fault = self.wrong_type(key, what, value, span.clone());
                if let DeValue::String(text) = value {
                    fault = fault.help(format!("write {key} = [\"{}\"]", text.escape_debug()));
                }
                faults.push(fault);
                return None;
            }
        }
        Some(At::new(span, list))
    }

    /// A table inside this one.
    pub(crate) fn section(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        title: String,
    ) -> Option<Section<'t>> {
        let (value, span, key_span) = self.take(key)?;
        match value {
            DeValue::Table(table) => Some(Section::new(title, key_span, table)),
            _ => {
                faults.push(self.wrong_type(key, "a table", value, span));
                None
            }
        }
    }

    /// Every table inside the table `key`, by name and in the order of the file: `[connection.NAME]`.
    pub(crate) fn named(
        &mut self,
        faults: &mut Vec<Fault>,
        key: &'static str,
        title: impl Fn(&str) -> String,
    ) -> Vec<(At<String>, Section<'t>)> {
        let Some(mut outer) = self.section(faults, key, title("NAME")) else { return Vec::new() };
        let mut sections = Vec::new();
        for entry in outer.entries.drain(..) {
            let Some(table) = entry.value.as_table() else {
                faults.push(
                    Fault::new(format!(
                        "`{}` stands outside of any {}",
                        entry.key.escape_debug(),
                        title("NAME")
                    ))
                    .at(entry.span, "needs a name")
                    .help(format!("write {} above it", title("NAME"))),
                );
                continue;
            };
            if let Err(fault) = check_name(key, entry.key, entry.span.clone()) {
                faults.push(fault);
                continue;
            }
            let name = At::new(entry.span.clone(), entry.key.to_owned());
            sections.push((name, Section::new(title(entry.key), entry.span, table)));
        }
        sections
    }

    /// Refuses what was not read: words of later versions with their reason, all else as unknown.
    pub(crate) fn finish(self, faults: &mut Vec<Fault>, not_yet: &[NotYet]) {
        for entry in &self.entries {
            let key = entry.key;
            let shown = key.escape_debug();
            if let Some((_, why)) = not_yet.iter().find(|(name, _)| *name == key) {
                faults.push(
                    Fault::new(format!("`{shown}` is not in this version"))
                        .at(entry.span.clone(), "not in this version")
                        .help(format!("{why}; take it out")),
                );
                continue;
            }
            let fault = Fault::new(format!("{} has no key `{shown}`", self.title))
                .at(entry.span.clone(), "unknown key");
            let lower = key.to_ascii_lowercase();
            faults.push(if ["psk", "secret", "password", "pre_shared_key"].contains(&lower.as_str()) {
                fault.help(
                    "secrets do not belong in this file: write it to a file of its own with mode 600 and name that, psk_file = \"secrets/NAME.psk\"",
                )
            } else if let Some((home, _)) = HOMES.iter().find(|(_, keys)| keys.contains(&key)) {
                fault.help(format!("`{shown}` belongs to {home}"))
            } else if let Some(near) = nearest(key, self.known.iter().copied()) {
                fault.help(format!("did you mean `{near}`?"))
            } else {
                fault.help(format!("its keys are {}", self.known.join(", ")))
            });
        }
    }

    /// A fault about the section as a whole: a key that is missing.
    pub(crate) fn missing(&self, key: &str, mend: &str) -> Fault {
        missing(&self.title, self.span.clone(), key, mend)
    }

    fn expect_string(
        &self,
        faults: &mut Vec<Fault>,
        key: &str,
        what: &str,
        value: &'t DeValue<'t>,
        span: Range<usize>,
    ) -> Option<At<&'t str>> {
        match value {
            DeValue::String(text) => Some(At::new(span, text.as_ref())),
            _ => {
                faults.push(self.wrong_type(key, what, value, span));
                None
            }
        }
    }

    fn wrong_type(&self, key: &str, what: &str, value: &DeValue<'_>, span: Range<usize>) -> Fault {
        let is = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "`true` or `false`",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let mend = match value {
            DeValue::Integer(number) if what.contains("duration") => {
                format!("write {key} = \"{}s\"", number.as_str())
            }
            DeValue::String(text) if what.starts_with("a number") && text.parse::<u32>().is_ok() => {
                format!("write {key} = {text}, without quotes")
            }
            _ if what == "a table" => {
                format!("write {key} = {{ KEY = VALUE, … }}, or a section of that name")
            }
            _ => format!("write {what}"),
        };
        Fault::new(format!("`{key}` must be {what}")).at(span, format!("this is {is}")).help(mend)
    }
}

/// A key that must be there and is not.
pub(crate) fn missing(title: &str, span: Range<usize>, key: &str, mend: &str) -> Fault {
    Fault::new(format!("{title} lacks `{key}`")).at(span, format!("no `{key}`")).help(mend)
}

/// Names go into interface names, logs and the command line.
pub(crate) fn check_name(kind: &str, name: &str, span: Range<usize>) -> Result<(), Fault> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let shown = name.escape_debug();
    if name.is_empty() || name.len() > 32 {
        return Err(Fault::new(format!("`{shown}` cannot name a {kind}"))
            .at(span, format!("{} characters", name.chars().count()))
            .help("a name has 1 to 32 characters"));
    }
    match name.chars().find(|c| !sound(*c)) {
        None => Ok(()),
        Some(bad) => Err(Fault::new(format!("`{shown}` cannot name a {kind}"))
            .at(span, format!("has `{}`", bad.escape_debug()))
            .help("a name has letters, digits, `-` and `_`")),
    }
}

/// `"a", "b" or "c"`
fn or_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// The candidate that a typing mistake most likely meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(64).flat_map(char::to_lowercase).collect();
    candidates
        .map(|candidate| (distance(&word.replace('-', "_"), &candidate.replace('-', "_")), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(&b) {
            let above = *slot;
            left = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_find_their_word() {
        let keys = ["local", "remote", "start", "remote_address", "lifetime", "psk_file", "xdp-native"];
        let cases = [
            ("remot", Some("remote")),
            ("Local", Some("local")),
            ("remote-address", Some("remote_address")),
            ("life_time", Some("lifetime")),
            ("pskfile", Some("psk_file")),
            ("xdp_native", Some("xdp-native")),
            ("banana", None),
            ("", None),
        ];
        for (word, want) in cases {
            assert_eq!(nearest(word, keys.into_iter()), want, "{word}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
