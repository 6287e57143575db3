//! What an endpoint and its peers are told: addresses, identities, keys, proposals, times.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_types::TrafficSelector;

use crate::{
    Addresses, Auth, EspMode, EspProposal, ExchangeOptions, Identity, IkeProposal, LocalAuth, Psk,
    RemoteAuth, Session,
};

/// Limits and times of an endpoint as a whole. The default is good.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// From this many half-open IKE SAs on, new peers must return a cookie (RFC 7296 2.6).
    pub cookie_threshold: usize,
    /// From this many half-open IKE SAs of one address on, that address must return a cookie.
    pub cookie_threshold_per_address: usize,
    /// At most this many half-open IKE SAs of one address; more are dropped.
    pub half_open_per_address: usize,
    /// At most this many half-open IKE SAs in all; who returns a cookie then takes the place of another.
    pub half_open_limit: usize,
    /// How long a half-open IKE SA waits for IKE_AUTH.
    pub half_open_lifetime: Duration,
    /// How requests are repeated.
    pub retransmit: Retransmit,
    /// How often a NAT keepalive goes out while nothing else does (RFC 3948 4); zero for never.
    pub nat_keepalive: Duration,
    /// This host's addresses that peers may use, to be told to those that know MOBIKE (RFC 4555 3.4);
    /// [`Command::Addresses`](crate::Command::Addresses) says when they change.
    pub addresses: Vec<IpAddr>,
    /// Report the keys of every new IKE SA, as [`Event::Secrets`](crate::Event::Secrets): to look for faults, never
    /// otherwise.
    pub export_secrets: bool,
    #[cfg(test)]
    pub(crate) quirks: Quirks,
}

/// What a stubborn peer does, for tests.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quirks {
    /// Refuses every CHILD SA of CREATE_CHILD_SA with this error.
    pub(crate) refuse: Option<u16>,
    /// Takes one pair of selectors in each CHILD SA.
    pub(crate) single_pair: bool,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            cookie_threshold: 30,
            cookie_threshold_per_address: 3,
            half_open_per_address: 32,
            half_open_limit: 1024,
            half_open_lifetime: Duration::from_secs(30),
            retransmit: Retransmit::default(),
            nat_keepalive: Duration::from_secs(20),
            addresses: Vec::new(),
            export_secrets: false,
            #[cfg(test)]
            quirks: Quirks::default(),
        }
    }
}

/// How a request is repeated until it is answered (RFC 7296 2.4): after `initial`, then each time
/// `factor` later than the time before, `tries` repetitions in all, and once more as long a wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retransmit {
    /// Wait before the first repetition.
    pub initial: Duration,
    /// How much longer each wait is than the one before.
    pub factor: f64,
    /// Repetitions before the peer counts as gone.
    pub tries: u32,
}

impl Default for Retransmit {
    fn default() -> Self {
        Self { initial: Duration::from_secs(4), factor: 1.8, tries: 5 }
    }
}

/// Dead peer detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dpd {
    /// After this long without an authentic message the peer is asked whether it lives.
    pub interval: Duration,
    /// An answer must come within this time, also to any other request.
    pub timeout: Duration,
}

/// Which inbound ESP SPIs a tunnel draws: the lowest bit tells the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// Lowest bit 0.
    Even,
    /// Lowest bit 1.
    Odd,
}

/// One tunnel: how to reach the peer, who both are, what is offered.
#[derive(Clone)]
pub struct PeerConfig {
    /// `connection/tunnel`, for log lines.
    pub name: String,
    /// Our address and the port of IKE (500).
    pub local: SocketAddr,
    /// Our address and the port of NAT traversal (4500).
    pub local_natt: SocketAddr,
    /// The peer's address and port (500); `None`: any, and then we only respond.
    pub remote: Option<SocketAddr>,
    /// The peer may come from other addresses than `remote`, which is only where it is called.
    pub anywhere: bool,
    /// The peer's port of NAT traversal (4500).
    pub remote_natt_port: u16,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer must be; `None`: whoever holds the key.
    pub remote_id: Option<Identity>,
    /// How both prove it.
    pub auth: Auth,
    /// Offered and accepted for the IKE SA, first preferred.
    pub ike_proposals: Vec<IkeProposal>,
    /// Offered and accepted for CHILD SAs, first preferred.
    pub esp_proposals: Vec<EspProposal>,
    /// Inner networks on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Inner networks on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// The IKE SA is rekeyed at 90 to 100 % of this, and closed at 110 %.
    pub ike_lifetime: Duration,
    /// A CHILD SA is rekeyed at 90 to 100 % of this, and closed at 110 %.
    pub child_lifetime: Duration,
    /// Dead peer detection; `None`: only retransmission notices.
    pub dpd: Option<Dpd>,
    /// Have ESP in UDP also where there is no NAT, by claiming that there is one.
    pub force_encap: bool,
    /// Parity of our inbound SPIs.
    pub spi_parity: Option<Parity>,
    /// Offer and accept extended sequence numbers, where the proposal does not say.
    pub esn: bool,
    /// Anti-replay window in packets, handed on with each CHILD SA.
    pub replay_window: u32,
    /// How the exchanges go.
    pub exchange: ExchangeOptions,
    /// Speak IKEv1 with this peer, and nothing else; `None`: IKEv2.
    pub v1: Option<V1Options>,
    /// How its IKE SAs begin and end.
    pub session: Session,
}

/// What is special about a tunnel of IKEv1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct V1Options {
    /// Which phase 1 we open, and take from the peer.
    pub mode: V1Mode,
    /// A user's name and password after phase 1 (XAuth).
    pub xauth: Option<Xauth>,
    /// Who begins with inner addresses, where [`Session::addresses`] has them.
    pub mode_config: ModeConfig,
}

/// Who begins Mode Config (draft-dukes-ike-mode-cfg 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModeConfig {
    /// Who wants an address asks for it.
    #[default]
    Pull,
    /// Who has addresses tells them unasked. A peer that asks all the same is answered.
    Push,
}

/// Which side of XAuth we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xauth {
    /// We are asked, and answer with this.
    Client(XauthUser),
    /// We ask the peer, which must be one of these.
    Server(Vec<XauthUser>),
}

/// A user of XAuth. The password is redacted in `Debug` and zeroized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XauthUser {
    /// At most 255 bytes.
    pub name: String,
    /// Any bytes, not empty, at most 255.
    pub password: Psk,
}

/// The two ways through phase 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum V1Mode {
    /// Identities are encrypted.
    #[default]
    Main,
    /// Half the messages; identities in the clear, and the pre-shared key open to guessing by whoever sends one
    /// message. Main mode is taken, too.
    Aggressive,
}

/// What a [`PeerConfig`] cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No proposals of a kind.
    #[error("there are no {0} proposals; write at least one")]
    NoProposals(&'static str),
    /// More than the wire can count.
    #[error("there are more than {1} {0}; write fewer")]
    TooMany(&'static str, usize),
    /// No traffic selectors on a side.
    #[error("there are no {0} traffic selectors; write at least one network")]
    NoSelectors(&'static str),
    /// The outer addresses are of different families.
    #[error("the local and remote addresses are of different families ({0}, {1})")]
    Families(IpAddr, IpAddr),
    /// The two local addresses differ.
    #[error("IKE and NAT traversal must use one local address, not {0} and {1}")]
    LocalAddresses(IpAddr, IpAddr),
    /// The certificates are none, or too many to send.
    #[error(
        "a certificate chain must have 1 to {} certificates of {} bytes in all",
        crate::MAX_CERTIFICATES,
        crate::MAX_CHAIN
    )]
    Chain,
    /// A pattern where one identity must stand.
    #[error("the local id must be one identity, without \"*\"")]
    LocalPattern,
    /// No proposal of a kind that IKEv1 could say.
    #[error(
        "none of the {0} proposals can be said in IKEv1; write one such as {1}, or let the tunnel speak IKEv2"
    )]
    V1Proposals(&'static str, &'static str),
    /// A way to authenticate that IKEv1 does not have here.
    #[error(
        "IKEv1 needs a pre-shared key for both sides, RSA certificates on both, or a certificate on one and a user of XAuth on the other; or let the tunnel speak IKEv2"
    )]
    V1Auth,
    /// A large answer to whoever sends one message.
    #[error(
        "certificates in aggressive mode need a remote address: with \"any\" strangers could aim our answers at others; use main mode"
    )]
    V1Aggressive,
    /// What only IKEv1 has.
    #[error("a user of XAuth needs IKEv1; in IKEv2 use EAP")]
    V2User,
    /// EAP on both sides.
    #[error("EAP proves one side only; let the server have a certificate or a key")]
    Eap,
    /// `eap_only` without EAP.
    #[error("eap_only needs EAP on one side; take it out")]
    EapOnly,
    /// What only IKEv2 has here.
    #[error("reauth needs IKEv2: IKEv1 authenticates anew whenever its lifetime ends; take it out")]
    V1Session,
    /// Addresses that can be neither asked for nor handed out.
    #[error("inner addresses are asked for once per family, or handed out from at least one network")]
    Addresses,
    /// A lifetime that is too short to rekey within.
    #[error("an {0} lifetime of {1:?} is too short; at least 10 s")]
    Lifetime(&'static str, Duration),
    /// Fragments that are too small to carry anything.
    #[error("fragments in packets of {0} bytes are too small; at least 576")]
    FragmentSize(u16),
    /// Networks where two hosts must stand.
    #[error(
        "transport mode carries what the two gateways send each other: its selectors must be one address on each side"
    )]
    Transport,
    /// A post-quantum pre-shared key that cannot be named.
    #[error("the id of a ppk has 1 to 255 bytes")]
    PpkId,
}

impl PeerConfig {
    /// Whether the parts go together.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let count = |what, len: usize, most| match len {
            0 => Err(ConfigError::NoProposals(what)),
            n if n > most => Err(ConfigError::TooMany(what, most)),
            _ => Ok(()),
        };
        count("IKE", self.ike_proposals.len(), 32)?;
        count("ESP", self.esp_proposals.len(), 32)?;
        for (what, selectors) in [("local", &self.local_ts), ("remote", &self.remote_ts)] {
            match selectors.len() {
                0 => return Err(ConfigError::NoSelectors(what)),
                1..=255 => {}
                _ => return Err(ConfigError::TooMany("traffic selectors", 255)),
            }
        }
        if self.local.ip() != self.local_natt.ip() {
            return Err(ConfigError::LocalAddresses(self.local.ip(), self.local_natt.ip()));
        }
        if let Some(remote) = self.remote
            && remote.is_ipv4() != self.local.is_ipv4()
        {
            return Err(ConfigError::Families(self.local.ip(), remote.ip()));
        }
        if let Some(signer) = self.auth.local.as_signer() {
            let (count, bytes) = (signer.chain.len(), signer.chain.iter().map(Vec::len).sum::<usize>());
            if !(1..=crate::MAX_CERTIFICATES).contains(&count) || bytes > crate::MAX_CHAIN {
                return Err(ConfigError::Chain);
            }
        }
        let one_each = |six| match &self.session.addresses {
            Addresses::Request(wanted) => wanted.iter().filter(|w| w.is_ipv6() == six).count() <= 1,
            _ => true,
        };
        let some = match &self.session.addresses {
            Addresses::Own => true,
            Addresses::Request(wanted) => !wanted.is_empty(),
            Addresses::Pool(pool) => !pool.nets.is_empty(),
        };
        if !some || !one_each(false) || !one_each(true) {
            return Err(ConfigError::Addresses);
        }
        if self.local_id.is_pattern() {
            return Err(ConfigError::LocalPattern);
        }
        let eap =
            matches!(self.auth.local, LocalAuth::Eap(_)) || matches!(self.auth.remote, RemoteAuth::Eap(_));
        let both = matches!((&self.auth.local, &self.auth.remote), (LocalAuth::Eap(_), RemoteAuth::Eap(_)));
        if both {
            return Err(ConfigError::Eap);
        }
        if self.exchange.eap_only && !eap {
            return Err(ConfigError::EapOnly);
        }
        if self.v1.is_some() {
            self.check_v1()?;
        } else if matches!(self.auth.local, LocalAuth::User) || matches!(self.auth.remote, RemoteAuth::User) {
            return Err(ConfigError::V2User);
        }
        for (what, lifetime) in [("IKE", self.ike_lifetime), ("ESP", self.child_lifetime)] {
            if lifetime < Duration::from_secs(10) {
                return Err(ConfigError::Lifetime(what, lifetime));
            }
        }
        if self.exchange.mode == EspMode::Transport {
            let host = |ts: &[TrafficSelector]| matches!(ts, [one] if one.start() == one.end());
            // Whoever comes from anywhere has an address that is not known yet.
            let remote = self.remote.is_none() || host(&self.remote_ts);
            if !host(&self.local_ts) || !remote || self.session.addresses != Addresses::Own {
                return Err(ConfigError::Transport);
            }
        }
        self.exchange.check()
    }

    /// Whether IKEv1 can say what the rest asks for.
    fn check_v1(&self) -> Result<(), ConfigError> {
        if !self.ike_proposals.iter().any(IkeProposal::in_v1) {
            return Err(ConfigError::V1Proposals("IKE", "aes256-sha256-modp2048"));
        }
        if !self.esp_proposals.iter().any(EspProposal::in_v1) {
            return Err(ConfigError::V1Proposals("ESP", "aes256-sha256 or aes128gcm16"));
        }
        if crate::v1::method::offered(self).is_none() || crate::v1::method::accepted(self).is_none() {
            return Err(ConfigError::V1Auth);
        }
        let aggressive = self.v1.as_ref().is_some_and(|v1| v1.mode == V1Mode::Aggressive);
        if aggressive && self.remote.is_none() && self.auth.local.as_signer().is_some() {
            return Err(ConfigError::V1Aggressive);
        }
        if self.session.reauth.is_some() {
            return Err(ConfigError::V1Session);
        }
        Ok(())
    }

    /// Hard limit of a lifetime: 10 % above.
    pub(crate) fn hard(lifetime: Duration) -> Duration {
        lifetime + lifetime / 10
    }
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("name", &self.name)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("local_id", &self.local_id)
            .field("remote_id", &self.remote_id)
            .field("auth", &self.auth)
            .field("ike_proposals", &self.ike_proposals)
            .field("esp_proposals", &self.esp_proposals)
            .field("local_ts", &self.local_ts)
            .field("remote_ts", &self.remote_ts)
            .finish_non_exhaustive()
    }
}
