//! What a command is about: a connection, or one tunnel of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `CONNECTION` or `CONNECTION/TUNNEL`; a string in JSON and on the command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    connection: String,
    tunnel: Option<String>,
}

/// The text does not name a connection or a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no connection or tunnel; write CONNECTION or CONNECTION/TUNNEL, as in `culvert status`")]
pub struct TargetError(String);

impl Target {
    /// A whole connection, with every tunnel of it.
    pub fn connection(name: impl Into<String>) -> Self {
        Self { connection: name.into(), tunnel: None }
    }

    /// One tunnel.
    pub fn tunnel(connection: impl Into<String>, tunnel: impl Into<String>) -> Self {
        Self { connection: connection.into(), tunnel: Some(tunnel.into()) }
    }

    /// The connection's name.
    pub fn connection_name(&self) -> &str {
        &self.connection
    }

    /// The tunnel's name, if the target is one tunnel.
    pub fn tunnel_name(&self) -> Option<&str> {
        self.tunnel.as_deref()
    }

    /// Whether the target covers the tunnel `tunnel` of the connection `connection`.
    pub fn covers(&self, connection: &str, tunnel: &str) -> bool {
        self.connection == connection && self.tunnel.as_deref().is_none_or(|t| t == tunnel)
    }
}

impl FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let sound = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let (connection, tunnel) = match text.split_once('/') {
            Some((connection, tunnel)) => (connection, Some(tunnel)),
            None => (text, None),
        };
        // A client of a tunnel that serves many has a number.
        let client = |name: &str| match name.split_once('#') {
            Some((name, number)) => {
                sound(name) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
            }
            None => sound(name),
        };
        if !sound(connection) || !tunnel.is_none_or(client) {
            // Quoted in answers and logs: no control characters, no novels.
            return Err(TargetError(text.chars().take(64).flat_map(char::escape_debug).collect()));
        }
        Ok(Self { connection: connection.to_owned(), tunnel: tunnel.map(str::to_owned) })
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.connection)?;
        match &self.tunnel {
            Some(tunnel) => write!(f, "/{tunnel}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_and_print_alike() {
        for text in ["hangzhou", "hangzhou/a", "a-b_c/2"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "/", "/a", "a/", "a/b/c", "a b", "a.b", "a/\n", "ä"] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
        assert!(!"x\u{1b}[2J".parse::<Target>().unwrap_err().to_string().contains('\u{1b}'));
    }

    #[test]
    fn a_connection_covers_its_tunnels() {
        assert!(Target::connection("c").covers("c", "a"));
        assert!(Target::tunnel("c", "a").covers("c", "a"));
        assert!(!Target::tunnel("c", "a").covers("c", "b"));
        assert!(!Target::connection("c").covers("d", "a"));
    }
}
