//! What is wrong with a gateway, from the kernel up to a probe through each tunnel: findings with cause and mend.
//!
//! [`Host::look`] reads the facts of this host, and the judges turn facts into findings: [`host::judge`] of the host alone,
//! [`config::judge`] of the configuration on this host, [`tunnels::judge`] of what a running culvertd says.

pub mod config;
mod facts;
pub mod host;
pub mod tunnels;

pub use facts::{Firewall, Host, Listener};

use serde::Serialize;

/// How bad a finding is, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// As it should be.
    Fine,
    /// Worth knowing.
    Note,
    /// It may cost traffic or safety.
    Warning,
    /// It keeps something from working.
    Fault,
}

/// What was found in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `host`, `firewall`, `configuration`, `connection NAME` or `tunnel CONNECTION/NAME`.
    pub place: String,
    /// How bad it is.
    pub grade: Grade,
    /// What was found, and why that is so.
    pub text: String,
    /// What to change; empty where nothing needs to be.
    pub mend: String,
}

impl Finding {
    fn fine(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), grade: Grade::Fine, text: text.into(), mend: String::new() }
    }

    fn new(grade: Grade, place: impl Into<String>, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { place: place.into(), grade, text: text.into(), mend: mend.into() }
    }
}
