//! Other people's files: what clouds let one download, and the configurations of other devices, as connections of Culvert.
//!
//! A file is that of this end: the one that Culvert stands in for. What was understood, what was not and why is told with line
//! numbers; nothing of it shows a key.

mod alibaba;
mod aws_text;
mod aws_xml;
mod cisco;
mod draft;
mod ipsec_conf;
mod settings;
mod swanctl;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;
use std::str::FromStr;

use crate::Side;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// AWS's download for "Generic" devices.
    AwsText,
    /// AWS's `CustomerGatewayConfiguration`.
    AwsXml,
    /// Alibaba Cloud's peer configuration (DownloadVpnConnectionConfig).
    AlibabaJson,
    /// strongSwan's swanctl.conf.
    Swanctl,
    /// strongSwan's and Libreswan's ipsec.conf; keys stand in ipsec.secrets.
    IpsecConf,
    /// Cisco IOS: crypto maps and virtual tunnel interfaces.
    CiscoIos,
}

impl Format {
    /// Every one, in the order of the help.
    pub const ALL: [Self; 6] =
        [Self::AwsText, Self::AwsXml, Self::AlibabaJson, Self::Swanctl, Self::IpsecConf, Self::CiscoIos];

    /// The word of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwsText => "aws-text",
            Self::AwsXml => "aws-xml",
            Self::AlibabaJson => "alibaba-json",
            Self::Swanctl => "swanctl",
            Self::IpsecConf => "ipsec-conf",
            Self::CiscoIos => "cisco-ios",
        }
    }

    /// What a text looks like.
    pub fn detect(text: &str) -> Option<Self> {
        let start = text.trim_start_matches('\u{feff}').trim_start();
        if start.starts_with('<') {
            return text.contains("<vpn_connection").then_some(Self::AwsXml);
        }
        if start.starts_with('{') {
            return Some(Self::AlibabaJson);
        }
        let has = |words: &str| text.lines().any(|line| line.trim_start().starts_with(words));
        if text.contains("Internet Key Exchange Configuration") {
            return Some(Self::AwsText);
        }
        if has("crypto isakmp ") || has("crypto ikev2 ") || has("crypto ipsec ") || has("crypto map ") {
            return Some(Self::CiscoIos);
        }
        if text.lines().any(|line| line.starts_with("conn ") || line.starts_with("config setup")) {
            return Some(Self::IpsecConf);
        }
        let section = |name: &str| {
            text.lines().any(|line| {
                line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('{'))
            })
        };
        (section("connections") || section("secrets")).then_some(Self::Swanctl)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|format| format.as_str()).collect();
            format!("there are: {}", all.join(", "))
        })
    }
}

/// A file that gives no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Bytes that are no text.
    #[error("the file is no text (byte {0} is not UTF-8); save it as UTF-8, or name another file")]
    NotText(usize),
    /// Larger than any such file.
    #[error("the file has {0} bytes, more than any such configuration; name the configuration alone")]
    TooLarge(usize),
    /// Nothing known.
    #[error(
        "nobody can tell what this file is; name it with --format: aws-text, aws-xml, alibaba-json, swanctl, ipsec-conf or cisco-ios"
    )]
    Unknown,
    /// Not what it should be.
    #[error("line {line}: {what}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// It is what it should be, and has no tunnel.
    #[error("{format} was read, but there is no tunnel in it: {missing}")]
    Empty {
        /// What it was read as.
        format: Format,
        /// What there would have to be.
        missing: &'static str,
    },
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the connection.
    Understood,
    /// It is not, and need not be.
    Ignored,
    /// It is not, and somebody should look at it.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Understood => "taken",
            Self::Ignored => "left out",
            Self::Refused => "CHECK",
        })
    }
}

/// What became of a line, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line, from 1; 0: of the whole.
    pub line: usize,
    /// What became of it.
    pub verdict: Verdict,
    /// What it says, without keys, and why.
    pub text: String,
}

/// Connections out of a file.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What it was read as.
    pub format: Format,
    /// The connections; at least one.
    pub sides: Vec<Side>,
    /// What became of the lines, in their order.
    pub findings: Vec<Finding>,
}

/// The largest file, in bytes.
const MOST: usize = 4 * 1024 * 1024;

/// Reads a file as `format`, or as what it looks like; `secrets` is an ipsec.secrets beside it.
///
/// # Errors
/// When there is no connection in it.
pub fn import(bytes: &[u8], format: Option<Format>, secrets: Option<&[u8]>) -> Result<Imported, ImportError> {
    let text = text(bytes)?;
    let secrets = secrets.map(self::text).transpose()?;
    let format = match format {
        Some(format) => format,
        None => Format::detect(text).ok_or(ImportError::Unknown)?,
    };
    let mut report = Report::default();
    let mut sides = match format {
        Format::AwsText => aws_text::read(text, &mut report)?,
        Format::AwsXml => aws_xml::read(text, &mut report)?,
        Format::AlibabaJson => alibaba::read(text, &mut report)?,
        Format::Swanctl => swanctl::read(text, &mut report)?,
        Format::IpsecConf => ipsec_conf::read(text, secrets.unwrap_or_default(), &mut report)?,
        Format::CiscoIos => cisco::read(text, &mut report)?,
    };
    if sides.is_empty() || sides.iter().any(|side| side.tunnels.is_empty()) {
        sides.retain(|side| !side.tunnels.is_empty());
    }
    if sides.is_empty() {
        return Err(ImportError::Empty { format, missing: "no two ends that have an address" });
    }
    let mut findings = report.0;
    findings.sort_by_key(|finding| finding.line);
    Ok(Imported { format, sides, findings })
}

fn text(bytes: &[u8]) -> Result<&str, ImportError> {
    if bytes.len() > MOST {
        return Err(ImportError::TooLarge(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| ImportError::NotText(error.valid_up_to()))?;
    Ok(text.trim_start_matches('\u{feff}'))
}

/// Findings as they come.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, line: usize, verdict: Verdict, text: String) {
        let finding = Finding { line, verdict, text };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    pub(crate) fn taken(&mut self, line: usize, text: impl Into<String>) {
        self.add(line, Verdict::Understood, text.into());
    }

    pub(crate) fn left_out(&mut self, line: usize, what: &str, why: &str) {
        self.add(line, Verdict::Ignored, format!("{}: {why}", short(what)));
    }

    pub(crate) fn refused(&mut self, line: usize, what: &str, why: &str) {
        self.add(line, Verdict::Refused, format!("{}: {why}", short(what)));
    }
}

/// As much of a line as tells which it is.
fn short(text: &str) -> String {
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A name that Culvert takes: letters, digits, `-` and `_`.
pub(crate) fn name(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().take(32) {
        let sound = c.is_ascii_alphanumeric() || c == '-' || c == '_';
        name.push(if sound { c } else { '-' });
    }
    let name = name.trim_matches('-');
    if name.is_empty() { "imported".to_owned() } else { name.to_owned() }
}

/// `a`, `b`, …, `z`, `t26`, …
pub(crate) fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index) if index < 26 => char::from(b'a' + index).to_string(),
        _ => format!("t{index}"),
    }
}
