//! Environments and limits, as the status shows them.

use serde::{Deserialize, Serialize};

use crate::words::words;

/// The environment of connections that name none.
pub const DEFAULT_ENVIRONMENT: &str = "default";

/// Connections that nothing of another environment can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name in the configuration.
    pub name: String,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// The namespace's name or the table's number; `None` for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Why it is so, and not by a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its LAN interfaces.
    #[serde(default)]
    pub lan: Vec<String>,
    /// Why it, or a part of it, is not as the configuration wants it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Connections in it.
    pub connections: u64,
    /// Their tunnels.
    pub tunnels: u64,
    /// Their port forwards.
    pub forwards: u64,
    /// What is limited in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
}

words! {
    /// How an environment is kept apart from the others.
    pub enum Isolation {
        /// It is this namespace with its main table.
        None = "none",
        /// By a network namespace of its own.
        Namespace = "namespace",
        /// By a routing table of its own.
        Table = "table",
    }
}

/// How much there may be of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The key in the configuration: `connections`, `tunnels`, `forwards`, `forward_connections`, `bandwidth`.
    pub name: String,
    /// The limit; bandwidth in bits per second.
    pub most: u64,
    /// How much there is; `None` where that is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// How the limit is kept, or why it is not, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
