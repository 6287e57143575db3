//! What an IKE SA is beyond its keys: inner addresses handed out, who may take its place, when it authenticates anew.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// How a tunnel's IKE SAs begin and end. The default is a site-to-site tunnel whose IKE SA is rekeyed only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Inner addresses by configuration payload (RFC 7296 2.19).
    pub addresses: Addresses,
    /// What happens when the peer authenticates once more.
    pub unique: Unique,
    /// As initiator, authenticate anew before this time is over (at 90 to 100 % of it); the new IKE SA stands before the
    /// old one goes. `None`: never, rekeying goes on.
    pub reauth: Option<Duration>,
    /// As responder, serve so many clients at once, each identity with an instance of its own: its events name the
    /// instance, which [`Event::ClientUp`](crate::Event::ClientUp) announces. `None`: one peer.
    pub clients: Option<usize>,
}

/// Inner addresses by configuration payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Both sides have their own.
    #[default]
    Own,
    /// We ask for one of each family listed; one that is not unspecified is a wish. Our selectors become what we get.
    Request(Vec<IpAddr>),
    /// The peer gets them from us, and its selectors become what it gets.
    Pool(Pool),
}

/// Where a peer's addresses come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// Networks; their first and last IPv4 address are not handed out.
    pub nets: Vec<IpNet>,
    /// DNS servers to tell the peer.
    pub dns: Vec<IpAddr>,
    /// Domains that those servers serve (RFC 8598); empty: every one.
    pub domains: Vec<String>,
}

/// What happens when a peer authenticates while a tunnel has an IKE SA with it. Peers that begin at the same moment
/// settle it between them in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unique {
    /// The new IKE SA takes the place of the old one; INITIAL_CONTACT is believed (RFC 7296 2.4).
    #[default]
    Replace,
    /// The old one stays and the new one is refused, until liveness checks find the old one dead.
    Keep,
    /// As `Replace`, but the peer is told of the old one's end whatever it says of its first contact.
    Never,
}

/// Inner addresses that a configuration payload brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Virtual {
    /// Given to us.
    pub ours: Vec<IpAddr>,
    /// Given to the peer.
    pub theirs: Vec<IpAddr>,
    /// DNS servers behind the tunnel, told to us.
    pub dns: Vec<IpAddr>,
    /// Domains that those serve; empty: every one.
    pub domains: Vec<String>,
}
