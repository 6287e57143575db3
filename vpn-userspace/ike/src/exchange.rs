//! How a tunnel's exchanges go: the protocol's options, apart from who the peers are and what protects the traffic.

use crate::{ConfigError, EspProposal, Ppk};

/// Options of the exchanges of one tunnel. The default is good for most peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExchangeOptions {
    /// Whether large messages go in fragments.
    pub fragmentation: Fragmentation,
    /// The largest IP packet with a fragment, in bytes; `None`: 576 over IPv4, 1280 over IPv6 (RFC 7383 2.5.1).
    pub fragment_size: Option<u16>,
    /// How networks are spread over CHILD SAs.
    pub pairs: Pairs,
    /// A post-quantum pre-shared key.
    pub ppk: Option<Ppk>,
    /// Whether addresses may change.
    pub mobike: Mobike,
    /// Whether IKE_AUTH makes a CHILD SA.
    pub childless: Childless,
    /// Rekey the CHILD SA of IKE_AUTH once, soon after: it has no key exchange of its own, so that different groups for
    /// perfect forward secrecy show in its first rekeying only, which is hours later otherwise.
    pub rekey_test: bool,
    /// What CHILD SAs carry.
    pub mode: EspMode,
    /// How many CHILD SAs beside the first the peer may have for the same networks, each for a resource of its own such
    /// as a CPU (RFC 9611).
    pub per_resource: u16,
    /// What is offered and taken for one more CHILD SA for the same networks, which carries small packets
    /// ([`Purpose::Small`](crate::Purpose::Small)). Empty: there is none.
    pub small: Vec<EspProposal>,
    /// Where one side proves itself by EAP, let the method prove the server as well, with no AUTH of the server's before
    /// (RFC 5998): as client it is asked for, as server granted to who asks. Only for methods in which both sides prove
    /// themselves and get a key.
    pub eap_only: bool,
}

/// Whether large IKE messages go in fragments (RFC 7383; for IKEv1 the scheme of Cisco and Microsoft).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fragmentation {
    /// To peers that say they take them.
    #[default]
    Yes,
    /// Never, and the peer is told so.
    No,
    /// As `Yes`; with IKEv1 also to peers that do not say so.
    Force,
}

/// Whether an IKE SA and its CHILD SAs may change their outer addresses (RFC 4555).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mobike {
    /// If the peer opens the IKE SA and offers it.
    #[default]
    Accept,
    /// As initiator it is offered, too. From IKE_AUTH on everything goes by the port of NAT traversal then (RFC 4555 3.3).
    Yes,
    /// As `Yes`, but a path with a NAT is none to move to.
    WithoutNat,
    /// Never.
    No,
}

/// What CHILD SAs carry (RFC 7296 1.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EspMode {
    /// Packets between networks, whole.
    #[default]
    Tunnel,
    /// What the two gateways send each other themselves, without another IP header. The selectors are then our address
    /// and the peer's, as each side sees them; behind a NAT the other side puts in what it sees (RFC 7296 2.23.1). A
    /// peer that insists on tunnel mode is refused.
    Transport,
}

/// Whether IKE_AUTH makes a CHILD SA (RFC 6023).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Childless {
    /// Always; peers that would rather not are refused.
    Never,
    /// As initiator yes, as responder as the peer likes.
    #[default]
    Allow,
    /// Never: each comes from CREATE_CHILD_SA, the first one too, with a key exchange of its own. Peers that know no
    /// IKE SA without one are refused.
    Force,
}

/// How a tunnel's networks are spread over CHILD SAs (RFC 7296 2.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pairs {
    /// One CHILD SA for all; a peer that insists is given one for each pair.
    #[default]
    Together,
    /// One CHILD SA for each pair of a local and a remote network.
    Each,
}

impl ExchangeOptions {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        // The identity goes into a notification, whose length is counted in two bytes.
        if self.ppk.as_ref().is_some_and(|ppk| !(1..=255).contains(&ppk.id.len())) {
            return Err(ConfigError::PpkId);
        }
        match self.fragment_size {
            Some(size) if size < 576 => Err(ConfigError::FragmentSize(size)),
            _ => Ok(()),
        }
    }
}
