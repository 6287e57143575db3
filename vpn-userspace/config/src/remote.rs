//! `remote_address` of a tunnel: an address, a host name, or anybody.

use std::fmt;
use std::net::IpAddr;

use crate::error::Fault;
use crate::file::RawConnection;
use crate::model::Start;

/// Where the peer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Remote {
    /// Anywhere: only the peer begins.
    Any,
    /// There.
    Address(IpAddr),
    /// Where the system's resolver says, asked anew before each attempt. The peer may come from elsewhere.
    Name(String),
}

impl Remote {
    /// The address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Any | Self::Name(_) => None,
        }
    }

    /// The host name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Any | Self::Address(_) => None,
        }
    }

    /// Whether nobody can be called.
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Whether a text can be the name of a host (RFC 1123 2.1). One whose last part has digits only is a mistyped address.
pub(crate) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.chars().all(|c| c.is_ascii_digit())
}

/// Only the peer can begin when its address is not known.
pub(crate) fn start_possible(raw: &RawConnection, faults: &mut Vec<Fault>) {
    let Some(start) = raw.start.as_ref().filter(|s| *s.get_ref() != Start::Respond) else { return };
    let any = raw.tunnels.iter().find_map(|t| t.remote_address.as_ref().filter(|a| a.get_ref().is_any()));
    if let Some(any) = any {
        let word = if *start.get_ref() == Start::Immediate { "immediate" } else { "on-traffic" };
        faults.push(
            Fault::new(format!("start = \"{word}\" needs the peer's address"))
                .at(start.span(), "whom to call?")
                .at(any.span(), "any address")
                .help("write the peer's address, or start = \"respond\" to let the peer begin"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::is_host_name;

    #[test]
    fn names_are_told_from_mistyped_addresses() {
        for good in ["peer.example", "a", "vpn-1.example.net.", "x_y.example", "1.example"] {
            assert!(is_host_name(good), "{good}");
        }
        for bad in
            ["", ".", "203.0.113.300", "203.0.113", "a..b", "-a.b", "a-.b", "b\u{fc}ro.example", "a b", "::g"]
        {
            assert!(!is_host_name(bad), "{bad}");
        }
        assert!(!is_host_name(&"a".repeat(64)) && !is_host_name(&["a"; 130].join(".")));
    }
}
