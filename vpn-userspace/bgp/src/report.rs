//! What a routing program says of its sessions and routes.

use std::net::IpAddr;

use ipnet::IpNet;

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In no certain order.
    pub sessions: Vec<SessionReport>,
    /// The best ones, those of our own left out.
    pub routes: Vec<LearnedRoute>,
}

/// A session's state (RFC 4271 8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionState {
    /// Kept down by us, as its tunnel is.
    Shut,
    /// Not trying, for now.
    #[default]
    Idle,
    /// Calling.
    Connect,
    /// Waiting to call again, or to be called.
    Active,
    /// Asking.
    OpenSent,
    /// Answered.
    OpenConfirm,
    /// Up.
    Established,
}

impl SessionState {
    /// RFC 4271's word in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shut => "shut",
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Active => "active",
            Self::OpenSent => "open-sent",
            Self::OpenConfirm => "open-confirm",
            Self::Established => "established",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "Idle" => Self::Idle,
            "Connect" => Self::Connect,
            "Active" => Self::Active,
            "OpenSent" => Self::OpenSent,
            "OpenConfirm" => Self::OpenConfirm,
            "Established" => Self::Established,
            "Down" => Self::Shut,
            _ => return None,
        })
    }
}

/// A session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionReport {
    /// The neighbour's address as text.
    pub neighbor: String,
    /// Its state.
    pub state: SessionState,
    /// Prefixes that the neighbour sends.
    pub received: u64,
    /// Of these, those that the filter let in.
    pub accepted: u64,
    /// Prefixes sent to the neighbour.
    pub advertised: u64,
    /// Why it went down last, or does not come up; `None` if it never failed.
    pub error: Option<String>,
    /// Whether BFD says that the neighbour is reachable; `None` without BFD.
    pub bfd_up: Option<bool>,
}

/// A route that has been learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedRoute {
    /// Where to.
    pub destination: IpNet,
    /// By which neighbour.
    pub neighbor: IpAddr,
    /// Whether it is the best one, or one of several best ones.
    pub best: bool,
    /// The systems on the way, the nearest first.
    pub path: String,
    /// Our preference.
    pub local_preference: Option<u32>,
    /// The neighbour's.
    pub med: Option<u32>,
}
