//! Failures, typed by phase, blame and cause; the notification that tells the peer derives from them.

use std::fmt;
use std::time::Duration;

use culvert_crypto::sign::{KeyKind, Scheme, SignError};
use culvert_crypto::{DhError, DhGroup};
use culvert_types::TunnelId;

use crate::job::JobError;
use crate::wire::{WireError, notify};
use crate::{CertificateRefused, EapFault, Identity, IdentityError};

/// Which exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// IKE_SA_INIT (RFC 7296 1.2).
    IkeSaInit,
    /// An additional key exchange before IKE_AUTH (RFC 9242, RFC 9370).
    Intermediate,
    /// IKE_AUTH, the part about the IKE SA.
    IkeAuth,
    /// The negotiation of a CHILD SA, in IKE_AUTH or CREATE_CHILD_SA.
    ChildSa,
    /// Rekeying a CHILD SA.
    RekeyChild,
    /// Rekeying the IKE SA.
    RekeyIke,
    /// INFORMATIONAL: liveness and deletes.
    Informational,
    /// IKEv1's phase 1 in six messages (RFC 2409 5).
    MainMode,
    /// IKEv1's phase 1 in three messages (RFC 2409 5).
    AggressiveMode,
    /// IKEv1's negotiation of a CHILD SA (RFC 2409 5.5).
    QuickMode,
    /// The same in place of another CHILD SA.
    QuickModeRekey,
    /// A user's name and password after IKEv1's phase 1 (draft-beaulieu-ike-xauth-02).
    Xauth,
    /// Inner addresses after IKEv1's phase 1 (draft-dukes-ike-mode-cfg).
    ModeConfig,
    /// IKEv1's dead peer detection (RFC 3706).
    DeadPeer,
}

impl Phase {
    /// Whether it is one of IKEv1.
    pub fn is_v1(self) -> bool {
        use Phase::{AggressiveMode, DeadPeer, MainMode, ModeConfig, QuickMode, QuickModeRekey, Xauth};
        matches!(self, MainMode | AggressiveMode | QuickMode | QuickModeRekey | Xauth | ModeConfig | DeadPeer)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IkeSaInit => "IKE_SA_INIT",
            Self::Intermediate => "IKE_INTERMEDIATE",
            Self::IkeAuth => "IKE_AUTH",
            Self::ChildSa => "CHILD SA negotiation",
            Self::RekeyChild => "CHILD SA rekeying",
            Self::RekeyIke => "IKE SA rekeying",
            Self::Informational => "INFORMATIONAL",
            Self::MainMode => "IKEv1 main mode",
            Self::AggressiveMode => "IKEv1 aggressive mode",
            Self::QuickMode => "IKEv1 quick mode",
            Self::QuickModeRekey => "IKEv1 quick mode rekeying",
            Self::Xauth => "XAuth",
            Self::ModeConfig => "IKEv1 Mode Config",
            Self::DeadPeer => "IKEv1 dead peer detection",
        })
    }
}

/// Where to look for the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// This gateway itself.
    Local,
    /// The peer broke the protocol.
    Peer,
    /// Nothing comes through.
    Network,
    /// The two sides are configured so that they cannot agree.
    Configuration,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "this gateway",
            Self::Peer => "the peer",
            Self::Network => "the network",
            Self::Configuration => "configuration",
        })
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// No proposal is on both lists; we noticed.
    #[error("no common proposal")]
    NoProposal,
    /// The peer refused all our proposals.
    #[error("the peer accepts none of our proposals (NO_PROPOSAL_CHOSEN)")]
    ProposalsRefused,
    /// The algorithms go together, but the groups for perfect forward secrecy do not; we noticed.
    #[error("the ESP proposals have ciphers in common, but no group for perfect forward secrecy")]
    NoGroup,
    /// The peer refuses in rekeying what it took in IKE_AUTH, where no group is negotiated.
    #[error(
        "the peer refuses to rekey a CHILD SA that it made without a group: its groups for perfect forward secrecy are not ours (NO_PROPOSAL_CHOSEN)"
    )]
    GroupsRefused,
    /// The peer chose what we did not offer.
    #[error("the peer chose what was not offered")]
    WrongChoice,
    /// The peer chose an additional key exchange and does not have the exchange for it.
    #[error("the peer chose an additional key exchange without INTERMEDIATE_EXCHANGE_SUPPORTED")]
    NoIntermediate,
    /// The peer insists on a group that we did not offer or that it has been given.
    #[error("the peer asks for Diffie-Hellman group {0}, which was not offered or was already tried")]
    GroupRefused(u16),
    /// The peer's public value is no good.
    #[error(transparent)]
    Dh(#[from] DhError),
    /// A job of ours was lost.
    #[error("this gateway did not finish its part of the key exchange")]
    Unfinished,
    /// The peer does not use post-quantum pre-shared keys, and we insist.
    #[error("the peer does not use a post-quantum pre-shared key (USE_PPK), which this tunnel requires")]
    PpkUnsupported,
    /// The peer names a key that we do not have.
    #[error("the peer uses a post-quantum pre-shared key of another id than ours")]
    PpkUnknown,
    /// The peer answered without the key, and we insist.
    #[error("the peer does not have our post-quantum pre-shared key, which this tunnel requires")]
    PpkRefused,
    /// The peer's AUTH does not verify with our key.
    #[error("the peer {0} does not have our pre-shared key")]
    WrongPsk(Identity),
    /// The peer says that we failed to authenticate.
    #[error("the peer rejected our identity or pre-shared key (AUTHENTICATION_FAILED)")]
    AuthenticationRefused,
    /// The peer knows no IKE SA without a CHILD SA, and we want one.
    #[error(
        "the peer knows no IKE SA without a CHILD SA (CHILDLESS_IKEV2_SUPPORTED), which this tunnel wants"
    )]
    ChildlessUnsupported,
    /// The peer wants a CHILD SA from IKE_AUTH, and we do not.
    #[error("the peer wants a CHILD SA from IKE_AUTH, and this tunnel makes none there")]
    NotChildless,
    /// The peer says that we failed to authenticate, which we did by something else than a key.
    #[error("the peer rejected our identity or {0} (AUTHENTICATION_FAILED)")]
    ProofRefused(&'static str),
    /// The peer is not who it should be.
    #[error("the peer is {got}, not {expected}")]
    WrongRemoteId {
        /// As configured.
        expected: Identity,
        /// As sent.
        got: Identity,
    },
    /// The peer asks for somebody whom we are not, or is somebody whom no tunnel knows.
    #[error("no tunnel between local id {local} and remote id {remote}")]
    NoSuchPeer {
        /// Whom the peer asks for, or `any`.
        local: String,
        /// Who the peer says it is.
        remote: Identity,
    },
    /// No tunnel is configured for these addresses.
    #[error("no tunnel is configured between {local} and {remote}")]
    UnknownAddress {
        /// Where the message came to.
        local: std::net::IpAddr,
        /// Where it came from.
        remote: std::net::IpAddr,
    },
    /// The peer's identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer authenticates by another method than is configured (RFC 7296 3.8).
    #[error("the peer authenticates by method {got}, not by {expected}")]
    AuthMethod {
        /// IANA's number.
        got: u8,
        /// What is configured.
        expected: String,
    },
    /// The peer's AUTH does not verify with its certificate's key.
    #[error("the peer's signature ({scheme}) is not by the key of its certificate: {error}")]
    WrongSignature {
        /// As the peer names it.
        scheme: Scheme,
        /// What is wrong.
        error: SignError,
    },
    /// The peer signs by an algorithm that we do not take.
    #[error("the peer signs by an algorithm that is not taken: {0}")]
    SignatureScheme(String),
    /// We cannot sign in a way that the peer understands.
    #[error("our {key} key cannot sign by any hash that the peer knows ({hashes:?})")]
    NoSignature {
        /// Our key.
        key: KeyKind,
        /// The peer's SIGNATURE_HASH_ALGORITHMS, by IANA's numbers; empty where it knows nothing of RFC 7427.
        hashes: Vec<u16>,
    },
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The peer's certificate is not trusted.
    #[error("the certificate of {identity} is not trusted: {refused}")]
    Certificate {
        /// Who the peer says it is.
        identity: Identity,
        /// By whom the certificate was judged.
        refused: Box<CertificateRefused>,
    },
    /// Nobody judged the peer's certificate in time.
    #[error("the peer's certificate could not be checked within {} s", .0.as_secs())]
    Unjudged(Duration),
    /// More certificates than anybody needs.
    #[error("the peer sent {certificates} certificates of {bytes} bytes, which is too much")]
    LongChain {
        /// How many.
        certificates: usize,
        /// How long, together.
        bytes: usize,
    },
    /// The peer wants EAP.
    #[error("the peer wants to authenticate by EAP")]
    Eap,
    /// The peer gave us no inner address that we can use.
    #[error("the peer gave no inner address")]
    NoAddress,
    /// The peer has an address of its own where we hand one out.
    #[error("the peer asks for no inner address, and the tunnel has a pool")]
    NoAddressAsked,
    /// No address is left for the peer.
    #[error("the pool has no inner address left for the peer")]
    PoolExhausted,
    /// The tunnel serves as many clients as it may.
    #[error("the tunnel serves {0} clients already, as many as it may")]
    TooManyClients(usize),
    /// The tunnel has an IKE SA, which stays.
    #[error("the peer has an IKE SA already, and the tunnel keeps the first")]
    AlreadyUp,
    /// EAP did not succeed.
    #[error("EAP failed: {0}")]
    EapFailed(Box<EapFault>),
    /// The two sides did not get the same key from EAP.
    #[error("the peer's AUTH is not by the key that EAP gave")]
    EapKey,
    /// No traffic selectors are on both sides; we noticed.
    #[error("no common traffic selectors")]
    NoSelectors,
    /// The peer refused all our selectors.
    #[error("the peer accepts none of our traffic selectors (TS_UNACCEPTABLE)")]
    SelectorsRefused,
    /// The peer answered with selectors beyond what we offered.
    #[error("the peer answered with traffic selectors that were not offered")]
    SelectorsWidened,
    /// The peer wants transport mode.
    #[error("the peer answered with transport mode, which was not offered")]
    TransportMode,
    /// The peer wants tunnel mode, and we do not.
    #[error("the peer wants tunnel mode, and this tunnel is of transport mode")]
    TunnelMode,
    /// The peer refused with another error.
    #[error("the peer refused: {} ({})", notify::name(*.0), .0)]
    Refused(u16),
    /// No answer at all.
    #[error("no answer in {} s", .0.as_secs())]
    Silent(Duration),
    /// The peer answered IKE_SA_INIT, then never again.
    #[error("the peer answered IKE_SA_INIT but nothing after it, for {} s", .0.as_secs())]
    GoneAfterInit(Duration),
    /// A payload that must be there is not.
    #[error("the peer's message has no {0} payload")]
    MissingPayload(&'static str),
    /// The peer's message cannot be read.
    #[error("the peer's message is malformed: {0}")]
    Malformed(#[from] WireError),
    /// The peer sent cookies or INVALID_KE_PAYLOAD without end.
    #[error("the peer asked for cookies or other groups {0} times")]
    Endless(u32),
    /// The peer chose an SPI that cannot be.
    #[error("the peer chose the SPI {0:#x}")]
    BadSpi(u64),
    /// Something that only IKEv1 has.
    #[error(transparent)]
    V1(#[from] crate::V1Cause),
    /// The peer did not return our COOKIE2 (RFC 4555 3.7).
    #[error("the peer could not prove that it is where it says (COOKIE2 did not return)")]
    ReturnRoutability,
    /// The hard lifetime ended before a rekey succeeded.
    #[error("the lifetime ended before rekeying succeeded")]
    Expired,
}

/// A failure that an operator can act on: which phase, whose fault, what either side had, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The tunnel, where it is known.
    pub tunnel: Option<TunnelId>,
    /// The tunnel's name, or the peer's address.
    pub name: String,
    /// The exchange.
    pub phase: Phase,
    /// Where to look.
    pub blame: Blame,
    /// What happened.
    pub cause: Cause,
    /// What this side offered or accepts, where that matters; empty otherwise.
    pub offered_local: String,
    /// What the peer offered, where it said so; empty otherwise.
    pub offered_remote: String,
    /// What to change, and on which side.
    pub mend: String,
    /// Where the rule stands.
    pub rfc: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} failed: {}", self.name, self.phase, self.cause)?;
        write!(f, "; fault: {}", self.blame)?;
        if !self.offered_local.is_empty() {
            write!(f, "; ours: {}", self.offered_local)?;
        }
        if !self.offered_remote.is_empty() {
            write!(f, "; the peer's: {}", self.offered_remote)?;
        }
        write!(f, "; to mend: {} ({})", self.mend, self.rfc)
    }
}

impl std::error::Error for Failure {}

impl From<JobError> for Cause {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Dh(e) => Self::Dh(e),
            JobError::Lost => Self::Unfinished,
        }
    }
}

impl Cause {
    /// Blame, mend and RFC section of a cause in a phase.
    fn verdict(&self, phase: Phase) -> (Blame, &'static str, &'static str) {
        use Blame::{Configuration, Local, Network, Peer};
        let esp = !matches!(phase, Phase::IkeSaInit | Phase::Intermediate | Phase::IkeAuth | Phase::RekeyIke);
        let proposals = if esp {
            "make the ESP proposals of both sides overlap, PFS group included"
        } else {
            "make the IKE proposals of both sides overlap"
        };
        match self {
            Self::NoProposal | Self::ProposalsRefused => (Configuration, proposals, "RFC 7296 2.7"),
            Self::NoGroup | Self::GroupsRefused => (
                Configuration,
                "give the ESP proposals of both sides the same group (PFS), or take it out on both; the tunnel works only until its first rekeying is due",
                "RFC 7296 2.17, 1.3.3",
            ),
            Self::WrongChoice => {
                (Peer, "ask the peer's vendor: it chose a proposal that was not offered", "RFC 7296 2.7")
            }
            Self::NoIntermediate => (
                Peer,
                "ask the peer's vendor, or offer no additional key exchange (ke1_…) to this peer",
                "RFC 9370 2.2.1",
            ),
            Self::GroupRefused(_) => (
                Configuration,
                "offer the Diffie-Hellman group that the peer asks for, or enable one of ours at the peer",
                "RFC 7296 1.3",
            ),
            Self::Dh(DhError::Random(_)) => {
                (Local, "see that the system gives random numbers", "RFC 7296 2.12")
            }
            Self::Dh(_) => {
                (Peer, "ask the peer's vendor: its Diffie-Hellman value is not valid", "RFC 6989 2")
            }
            Self::Unfinished => (
                Local,
                "see whether this gateway is short of processor time; it is tried again",
                "RFC 7296 1.2",
            ),
            Self::PpkUnsupported | Self::PpkUnknown | Self::PpkRefused => (
                Configuration,
                "set the same ppk, id and secret, on both sides, or let it be optional here (required = false)",
                "RFC 8784 3",
            ),
            Self::WrongPsk(_) => {
                (Configuration, "set the same pre-shared key on both sides", "RFC 7296 2.15")
            }
            Self::AuthenticationRefused => (
                Configuration,
                "compare pre-shared key, local id and remote id with the peer's; its log says which of them differs",
                "RFC 7296 2.21.2",
            ),
            Self::ChildlessUnsupported | Self::NotChildless => (
                Configuration,
                "write ike.childless = \"allow\" here, or let the peer make IKE SAs without a CHILD SA",
                "RFC 6023 3",
            ),
            Self::ProofRefused("certificate") => (
                Configuration,
                "see that the peer trusts the authority of our certificate, that it is neither out of date nor revoked, and that our local id is in it and is what the peer expects; its log says which",
                "RFC 7296 2.21.2",
            ),
            Self::ProofRefused(_) => (
                Configuration,
                "see that the peer serves EAP for our identity, and compare local id and remote id with the peer's; its log says what differs",
                "RFC 7296 2.16",
            ),
            Self::WrongRemoteId { .. } => (
                Configuration,
                "set remote_id here to what the peer sends, or the peer's local id to what is expected here",
                "RFC 7296 2.15",
            ),
            Self::NoSuchPeer { .. } => (
                Configuration,
                "set local_id and remote_id of the tunnel to what the peer asks for and sends",
                "RFC 7296 2.15",
            ),
            Self::UnknownAddress { .. } => (
                Configuration,
                "configure a tunnel with these addresses, or a remote address of \"any\"",
                "RFC 7296 2.21.1",
            ),
            Self::Identity(_) => (
                Configuration,
                "let the peer identify itself by an address, a name, user@host or a key id",
                "RFC 7296 3.5",
            ),
            Self::AuthMethod { .. } | Self::Eap => (
                Configuration,
                "let the peer authenticate as remote_auth says, or change that",
                "RFC 7296 3.8",
            ),
            Self::WrongSignature { .. } => (
                Configuration,
                "give the peer the private key that belongs to its certificate",
                "RFC 7296 2.15",
            ),
            Self::SignatureScheme(_) => (
                Configuration,
                "let the peer sign with SHA-2 (RSA, ECDSA or Ed25519); SHA-1 must be allowed here by name",
                "RFC 8247 3.2",
            ),
            Self::NoSignature { .. } => (
                Configuration,
                "use an ECDSA key, or let the peer speak RFC 7427; with RSA and an old peer, allow SHA-1 by name",
                "RFC 7427 3",
            ),
            Self::Sign(_) => (Local, "look whether the private key is sound", "RFC 7296 2.15"),
            Self::Certificate { .. } => (
                Configuration,
                "give the peer a certificate of an authority in `ca` with its id in it, or add the authority",
                "RFC 7296 3.6",
            ),
            Self::Unjudged(_) => {
                (Local, "look into the log why certificates cannot be checked here", "RFC 7296 3.6")
            }
            Self::LongChain { .. } => (
                Peer,
                "let the peer send its own certificate and what lies between it and the root",
                "RFC 7296 3.6",
            ),
            Self::NoAddress => {
                (Configuration, "let the peer hand out an address, or take virtual_ip out", "RFC 7296 2.19")
            }
            Self::NoAddressAsked => {
                (Configuration, "let the peer ask for an address, or take the pool out", "RFC 7296 2.19")
            }
            Self::PoolExhausted => (Configuration, "make the pool larger", "RFC 7296 2.19"),
            Self::TooManyClients(_) => (
                Configuration,
                "write a larger `clients`, or let one of them go (`culvert down CONNECTION/TUNNEL#NUMBER`)",
                "RFC 7296 2.4",
            ),
            Self::AlreadyUp => (
                Configuration,
                "end the first IKE SA, or write unique = \"replace\" to let the newest win",
                "RFC 7296 2.4",
            ),
            // The method knows better, see `Failure::new`.
            Self::EapFailed(fault) => (fault.blame, "", fault.rfc),
            Self::EapKey => (Peer, "ask the peer's vendor: somebody may stand between", "RFC 7296 2.16"),
            Self::NoSelectors | Self::SelectorsRefused => (
                Configuration,
                "make the local networks of each side overlap the remote networks of the other",
                "RFC 7296 2.9",
            ),
            Self::SelectorsWidened => (
                Peer,
                "ask the peer's vendor: its selectors are not a part of what was offered",
                "RFC 7296 2.9",
            ),
            Self::TunnelMode => (
                Configuration,
                "configure transport mode at the peer, or tunnel mode here (esp.mode)",
                "RFC 7296 1.3.1",
            ),
            Self::TransportMode => (Peer, "configure tunnel mode at the peer", "RFC 7296 1.3.1"),
            Self::Refused(notify::SINGLE_PAIR_REQUIRED) => (
                Configuration,
                "configure one pair of networks per tunnel: the peer takes no more",
                "RFC 7296 2.9",
            ),
            Self::Refused(
                notify::INVALID_SYNTAX | notify::UNSUPPORTED_CRITICAL_PAYLOAD | notify::INVALID_MAJOR_VERSION,
            ) => (Peer, "look into the peer's log: it could not read our message", "RFC 7296 2.21"),
            Self::Refused(notify::INTERNAL_ADDRESS_FAILURE | notify::FAILED_CP_REQUIRED) => (
                Configuration,
                "write virtual_ip where the peer hands out addresses, or let its pool have one left",
                "RFC 7296 2.19",
            ),
            Self::Refused(notify::UNACCEPTABLE_ADDRESSES | notify::UNEXPECTED_NAT_DETECTED) => (
                Configuration,
                "let the peer take the address that this gateway moved to; with mobike = \"without-nat\" no NAT may lie between",
                "RFC 4555 3.5",
            ),
            Self::Refused(_) => (Configuration, "look into the peer's log for the cause", "RFC 7296 3.10.1"),
            Self::Silent(_) if phase == Phase::IkeSaInit => (
                Network,
                "see that the peer's address is right, that it runs IKEv2 for our address, and that UDP 500 passes both ways",
                "RFC 7296 2.4",
            ),
            Self::Silent(_) => (
                Network,
                "see that the peer still runs and that UDP 500 and 4500 pass both ways",
                "RFC 7296 2.4",
            ),
            Self::GoneAfterInit(_) => (
                Network,
                "see that UDP 4500 passes both ways and that fragments are not dropped",
                "RFC 7296 2.4",
            ),
            Self::MissingPayload(_) | Self::Malformed(_) | Self::BadSpi(_) => {
                (Peer, "ask the peer's vendor: its message breaks RFC 7296", "RFC 7296 2.21")
            }
            Self::Endless(_) => {
                (Peer, "ask the peer's vendor: it never accepts its own cookies or groups", "RFC 7296 2.6.1")
            }
            Self::ReturnRoutability => (
                Peer,
                "ask the peer's vendor: its answer breaks RFC 4555; or write mobike = \"no\"",
                "RFC 4555 3.7",
            ),
            Self::V1(_) => (Configuration, "look into the peer's log for the cause", "RFC 2409"),
            Self::Expired => (Configuration, "look at the rekeying failures before this one", "RFC 7296 2.8"),
        }
    }

    /// The error to tell the peer, for causes that are told (RFC 7296 2.21).
    pub(crate) fn notify(&self) -> Option<u16> {
        Some(match self {
            Self::NoProposal
            | Self::TunnelMode
            | Self::NoGroup
            | Self::NotChildless
            | Self::WrongChoice
            | Self::UnknownAddress { .. } => notify::NO_PROPOSAL_CHOSEN,
            Self::Dh(_) | Self::MissingPayload(_) | Self::BadSpi(_) => notify::INVALID_SYNTAX,
            Self::Malformed(WireError::UnsupportedCritical(_)) => notify::UNSUPPORTED_CRITICAL_PAYLOAD,
            Self::Malformed(_) => notify::INVALID_SYNTAX,
            Self::PpkUnsupported
            | Self::PpkUnknown
            | Self::PpkRefused
            | Self::WrongPsk(_)
            | Self::WrongRemoteId { .. }
            | Self::NoSuchPeer { .. }
            | Self::Identity(_)
            | Self::AuthMethod { .. }
            | Self::WrongSignature { .. }
            | Self::SignatureScheme(_)
            | Self::NoSignature { .. }
            | Self::Sign(_)
            | Self::Certificate { .. }
            | Self::Unjudged(_)
            | Self::AlreadyUp
            | Self::TooManyClients(_)
            | Self::EapFailed(_)
            | Self::EapKey
            | Self::LongChain { .. }
            | Self::Eap => notify::AUTHENTICATION_FAILED,
            Self::NoAddressAsked => notify::FAILED_CP_REQUIRED,
            Self::PoolExhausted => notify::INTERNAL_ADDRESS_FAILURE,
            Self::Refused(kind) => *kind,
            Self::NoSelectors | Self::SelectorsWidened => notify::TS_UNACCEPTABLE,
            // RFC 7296 2.25: something transient on our side.
            Self::Unfinished => notify::TEMPORARY_FAILURE,
            _ => return None,
        })
    }
}

impl Cause {
    /// The data of the notification.
    pub(crate) fn notify_data(&self) -> Vec<u8> {
        match self {
            Self::Malformed(WireError::UnsupportedCritical(kind)) => vec![*kind],
            _ => Vec::new(),
        }
    }
}

impl Failure {
    /// A failure with the blame, the mend and the RFC section of its cause.
    pub(crate) fn new(tunnel: Option<TunnelId>, name: &str, phase: Phase, cause: Cause) -> Self {
        let in_v1 = if phase.is_v1() { crate::v1::cause::verdict(&cause, phase) } else { None };
        let (blame, mend, rfc) = in_v1.unwrap_or_else(|| cause.verdict(phase));
        let (offered_local, offered_remote) = match &cause {
            Cause::Certificate { refused, .. } => (refused.ours.clone(), refused.theirs.clone()),
            Cause::EapFailed(fault) => (fault.ours.clone(), fault.theirs.clone()),
            _ => (String::new(), String::new()),
        };
        let mend = match &cause {
            Cause::Certificate { refused, .. } if !refused.mend.is_empty() => refused.mend.clone(),
            Cause::EapFailed(fault) => fault.mend.clone(),
            _ => mend.to_owned(),
        };
        Self { tunnel, name: name.to_owned(), phase, blame, cause, offered_local, offered_remote, mend, rfc }
    }

    /// The same, in another exchange; what to do about it does not depend on that.
    pub(crate) fn during(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// EAP did not succeed.
    pub(crate) fn of_eap(what: &str) -> Cause {
        Cause::EapFailed(Box::new(EapFault::new(what)))
    }

    /// With what either side had.
    pub(crate) fn offered(mut self, local: impl Into<String>, remote: impl Into<String>) -> Self {
        self.offered_local = local.into();
        self.offered_remote = remote.into();
        self
    }
}

/// The group that a peer was given or asked for, for people.
pub(crate) fn group_name(group: u16) -> String {
    DhGroup::from_iana(group).map_or_else(|| format!("group {group}"), |g| g.to_string())
}
