//! What is wanted of a routing program.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

/// A routing program that Culvert drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// FRR 8 or newer: `zebra`, `bgpd` and `bfdd`.
    Frr,
    /// BIRD 2.
    Bird,
}

impl Program {
    /// The name that people know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frr => "FRR",
            Self::Bird => "BIRD",
        }
    }

    /// Debian's package.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Frr => "frr",
            Self::Bird => "bird2",
        }
    }
}

/// All that one routing program does: one autonomous system, in one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Our autonomous system.
    pub asn: u32,
    /// Our identifier; unique among those who speak with each other.
    pub router_id: Ipv4Addr,
    /// Routing table that learned routes go to; `None`: the main one.
    pub table: Option<u32>,
    /// In the order of the configuration; no two with the same neighbour.
    pub sessions: Vec<Session>,
}

/// A session with a neighbour at the far end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `CONNECTION/TUNNEL`, or with `.6` behind it for the IPv6 session of a tunnel that has both.
    pub name: String,
    /// The connection: sessions of one announce the same.
    pub connection: String,
    /// The tunnel's interface.
    pub interface: String,
    /// Our inner address.
    pub local: IpAddr,
    /// The neighbour's, in the same network.
    pub neighbor: IpAddr,
    /// The neighbour's autonomous system.
    pub remote_asn: u32,
    /// A neighbour silent for so long is gone; whole seconds, from 3.
    pub hold_time: Duration,
    /// Between two signs of life; whole seconds, less than `hold_time`.
    pub keepalive: Duration,
    /// Bidirectional forwarding detection (RFC 5880) beside it.
    pub bfd: Option<Bfd>,
    /// Routes of a neighbour that restarts are kept meanwhile (RFC 4724).
    pub graceful_restart: bool,
    /// A neighbour that sends more prefixes is closed, and tried again after five minutes.
    pub max_prefixes: Option<u32>,
    /// TCP-MD5 (RFC 2385).
    pub password: Option<Password>,
    /// What may be learned: these networks and all inside them. Of the family of the addresses, like all below.
    pub accept: Vec<IpNet>,
    /// What is announced whether there is a route or not.
    pub announce: Vec<IpNet>,
    /// What is announced if it has been learned from another connection: these networks and all inside them.
    pub transit: Vec<IpNet>,
    /// How the tunnel stands among those of its connection.
    pub preference: Preference,
}

/// How a tunnel stands among those of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference {
    /// False: the session is kept down.
    pub enabled: bool,
    /// Among our own ways: higher wins.
    pub local_preference: u32,
    /// Told to the neighbour: lower wins among sessions with the same system.
    pub med: u32,
    /// How often our system is repeated in announced paths: fewer win, also with several systems.
    pub prepend: u8,
}

/// How fast bidirectional forwarding detection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// Between two packets, from 10 ms.
    pub interval: Duration,
    /// So many missing in a row, and the neighbour is gone.
    pub multiplier: u8,
}

/// A session's password.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The most characters that TCP-MD5 takes (linux/tcp.h: `TCP_MD5SIG_MAXKEYLEN`).
    pub const LONGEST: usize = 80;

    /// Takes what both programs can be told: 1 to 80 visible ASCII characters, no `"`. `None` for anything else.
    pub fn new(text: Zeroizing<String>) -> Option<Self> {
        let sound = |byte: u8| byte.is_ascii_graphic() && byte != b'"';
        let fits = (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(sound);
        fits.then_some(Self(text))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Session {
    /// Whether it carries IPv6 routes; else IPv4's.
    pub const fn is_ipv6(&self) -> bool {
        self.neighbor.is_ipv6()
    }

    /// What names filters and protocols of it: letters, digits and `_`, of its place in the list.
    pub(crate) fn identifier(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let address: String = self.neighbor.to_string().chars().map(plain).collect();
        format!("cv_{address}")
    }
}
