//! What happened to a tunnel and why: the answer to `culvert explain`.

use serde::{Deserialize, Serialize};

use crate::status::TunnelState;
use crate::words::words;

/// The history of one or more tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// In the order of the configuration.
    #[serde(default)]
    pub tunnels: Vec<TunnelHistory>,
}

/// What happened to one tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelHistory {
    /// The connection's name.
    pub connection: String,
    /// The tunnel's name.
    pub tunnel: String,
    /// What state it is in.
    pub state: TunnelState,
    /// Unix time in seconds since when.
    pub since: u64,
    /// Why it is not up, where that is no failure of a negotiation.
    #[serde(default)]
    pub cause: Option<String>,
    /// What happened, oldest first; the oldest of a long life are forgotten.
    #[serde(default)]
    pub history: Vec<Happening>,
    /// What failed between the tunnel's addresses before anything told which tunnel was meant, oldest first.
    #[serde(default)]
    pub strangers: Vec<Happening>,
}

impl TunnelHistory {
    /// The failure that explains the present state: the latest one since the tunnel was last up.
    pub fn reason(&self) -> Option<&Happening> {
        let failed = |list: &'_ [Happening]| list.iter().rposition(|h| h.failure.is_some());
        let up = self.history.iter().rposition(|h| h.what == What::Up);
        match failed(&self.history) {
            Some(at) if up.is_none_or(|up| up < at) => self.history.get(at),
            _ if self.state == TunnelState::Up => None,
            _ => failed(&self.strangers).and_then(|at| self.strangers.get(at)),
        }
    }
}

words! {
    /// What happened to a tunnel.
    pub enum What {
        /// An IKE SA was established.
        Up = "up",
        /// The IKE SA was rekeyed.
        Rekeyed = "rekeyed",
        /// The peer's address changed.
        Moved = "moved",
        /// The IKE SA is gone.
        Down = "down",
        /// An exchange failed.
        Failed = "failed",
        /// Its health check is answered.
        Healthy = "healthy",
        /// Its health check fails.
        Unhealthy = "unhealthy",
        /// The connection's traffic came to it, or left it.
        Traffic = "traffic",
        /// A BGP session over it came up or went down.
        Routing = "routing",
    }
}

/// Something that happened, one or several times in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Unix time in milliseconds, the first time.
    pub time_ms: u64,
    /// Unix time in milliseconds, the last time.
    pub last_ms: u64,
    /// How often in a row.
    pub times: u64,
    /// What it was.
    pub what: What,
    /// One line for the operator.
    pub text: String,
    /// With `failed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Reason>,
}

/// Why an exchange failed, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The exchange, `IKE_AUTH`.
    pub phase: String,
    /// What went wrong.
    pub cause: String,
    /// Where to look: `this gateway`, `the peer`, `the network` or `configuration`.
    pub fault: String,
    /// What this side offered or expects; may be empty.
    #[serde(default)]
    pub ours: String,
    /// What the peer offered or sent; may be empty.
    #[serde(default)]
    pub theirs: String,
    /// What to change, and on which side.
    pub mend: String,
    /// Where the rule stands, `RFC 7296 2.15`.
    pub rule: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(what: What) -> Happening {
        let reason = || Reason {
            phase: "IKE_AUTH".into(),
            cause: "c".into(),
            fault: "f".into(),
            ours: String::new(),
            theirs: String::new(),
            mend: "m".into(),
            rule: "r".into(),
        };
        let failure = (what == What::Failed).then(reason);
        Happening { time_ms: 1, last_ms: 2, times: 1, what, text: what.to_string(), failure }
    }

    fn history(state: TunnelState, own: &[What], strangers: &[What]) -> TunnelHistory {
        let list = |whats: &[What]| whats.iter().map(|what| happening(*what)).collect();
        TunnelHistory {
            connection: "c".into(),
            tunnel: "t".into(),
            state,
            since: 0,
            cause: None,
            history: list(own),
            strangers: list(strangers),
        }
    }

    #[test]
    fn the_reason_is_the_latest_failure_that_nothing_has_mended() {
        use TunnelState::{Down, Up as StateUp};
        use What::{Down as Gone, Failed, Rekeyed, Up};
        let reason =
            |state, own: &[What], strangers: &[What]| history(state, own, strangers).reason().is_some();
        assert!(reason(Down, &[Failed], &[]));
        assert!(reason(Down, &[Up, Failed, Gone], &[]));
        assert!(!reason(StateUp, &[Failed, Up, Rekeyed], &[]), "it came up after all");
        assert!(reason(StateUp, &[Up, Failed], &[]), "a rekey failed since");
        assert!(reason(Down, &[Up, Gone], &[Failed]), "the peer calls with what fits no tunnel");
        assert!(!reason(StateUp, &[Up], &[Failed]));
        assert!(!reason(Down, &[], &[]));
    }
}
