//! What goes in beside datagrams (commands) and what comes out (events, datagrams, deadlines).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use culvert_crypto::sign::PublicKey;
use culvert_types::{Spi, TunnelId};

use crate::{
    ChildSa, ConfigError, EapNote, Failure, Identity, IkeSecrets, IkeSuite, Job, PeerConfig, Purpose, Virtual,
};

/// What an owner asks of an [`Endpoint`](crate::Endpoint).
#[derive(Debug, Clone)]
pub enum Command {
    /// Know a tunnel, to respond to its peer and to initiate. A known one is replaced; its SAs keep
    /// what they were negotiated with, and take the new values at the next rekey.
    AddPeer(TunnelId, Box<PeerConfig>),
    /// Forget a tunnel. Its SAs are deleted at the peer and here at once.
    RemovePeer(TunnelId),
    /// Bring the tunnel up: an IKE SA with a CHILD SA, or the CHILD SA that an IKE SA lacks. Nothing
    /// happens where both are there or on their way.
    Initiate(TunnelId),
    /// Take the tunnel's SAs down; with `true` the peer is told.
    Terminate(TunnelId, bool),
    /// Rekey the CHILD SA with this inbound SPI.
    RekeyChild(Spi),
    /// Ask the peer for a CHILD SA beside the first, for the same networks: for a resource, such as a CPU (RFC 9611), or
    /// for small packets. Nothing happens where it is there. A refusal is [`Event::AdditionalRefused`].
    AddResource(TunnelId, Purpose),
    /// The tunnel's networks are others since the last [`Command::AddPeer`]: CHILD SAs that carry what is gone, or lack what is
    /// new, are rekeyed with those of now, what is missing is asked for, and what carries nothing any more is deleted.
    /// Nothing happens where there is no IKE SA.
    Reselect(TunnelId),
    /// Delete the CHILD SA with this inbound SPI, and no other.
    DeleteChild(Spi),
    /// Rekey the tunnel's IKE SA.
    RekeyIke(TunnelId),
    /// Authenticate anew; the new IKE SA stands before the old one goes.
    Reauthenticate(TunnelId),
    /// Ask the peer now whether it lives.
    CheckLiveness(TunnelId),
    /// The answer to [`Event::CheckCertificate`]: the key of the peer's certificate, which is trusted for the
    /// identity and the tunnel named there, or why it is not.
    CertificateChecked(CheckId, Result<PublicKey, CertificateRefused>),
    /// An SA of the tunnel has brought a packet that passed its check: the peer lives (RFC 7296 2.4).
    Heard(TunnelId),
    /// The newest packet of an SA of the tunnel, which passed its check, came from there in UDP. A peer behind a NAT is
    /// answered there from now on (RFC 7296 2.23), and asked whether it is there.
    PeerSeen(TunnelId, SocketAddr),
    /// This host has these addresses that peers may use, and no others: peers that know MOBIKE are told.
    Addresses(Vec<IpAddr>),
    /// Our side of the tunnel has this address from now on. Its SAs follow by MOBIKE (RFC 4555 3.5), or where the peer
    /// does not know that go down with [`DownReason::AddressChanged`].
    Relocate(TunnelId, IpAddr),
    /// The answer to [`Event::EapAsk`].
    EapAnswered(CheckId, EapNote),
    /// Report what messages say, as [`Event::Message`], or no longer.
    Trace(bool),
    /// Delete every SA at its peer, once and without waiting for answers, and take no more input.
    Shutdown,
}

/// What tells a certificate check, or a question of EAP's, from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckId {
    /// Our SPI of the IKE SA that waits.
    pub(crate) sa: u64,
    pub(crate) number: u64,
}

/// Why a certificate is not trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct CertificateRefused {
    /// What is wrong with it.
    pub what: String,
    /// What to do about it; empty for the usual.
    pub mend: String,
    /// What this side trusts and expects; may be empty.
    pub ours: String,
    /// What the certificate says; may be empty.
    pub theirs: String,
}

/// What an [`Endpoint`](crate::Endpoint) wants done, in order.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// Send this IKE message. The non-ESP marker is the sender's to add when the local port is that
    /// of NAT traversal.
    Transmit {
        /// From.
        local: SocketAddr,
        /// To.
        remote: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Send the one byte 0xFF, without a marker (RFC 3948 2.3).
    Keepalive {
        /// From, a port of NAT traversal.
        local: SocketAddr,
        /// To.
        remote: SocketAddr,
    },
    /// Run this anywhere, and hand back what comes out by [`handle_job`](crate::Endpoint::handle_job).
    Job(Job),
    /// Something that the owner must know.
    Event(Event),
    /// Nothing more for now; call [`handle_timeout`](crate::Endpoint::handle_timeout) at this time, for
    /// this reason.
    Deadline(Instant, &'static str),
    /// Nothing more, and nothing to wait for but input.
    Idle,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A client of a tunnel that serves many authenticated: what follows of it is told of the instance, as of any tunnel.
    ClientUp {
        /// The instance.
        tunnel: TunnelId,
        /// The tunnel that is configured.
        of: TunnelId,
        /// The lowest number, from 1, that no other client of the tunnel had.
        number: u32,
    },
    /// The last IKE SA of an instance is gone, and so is the instance.
    ClientGone {
        /// The instance.
        tunnel: TunnelId,
    },
    /// A peer authenticated: the tunnel has an IKE SA.
    IkeUp {
        /// The tunnel.
        tunnel: TunnelId,
        /// The IKE SA.
        info: IkeInfo,
    },
    /// The tunnel's IKE SA is now another: rekeyed, or the other one of two that met.
    IkeRekeyed {
        /// The tunnel.
        tunnel: TunnelId,
        /// The new IKE SA.
        info: IkeInfo,
    },
    /// The tunnel has no IKE SA any more. Its CHILD SAs went before, each with its own event.
    IkeDown {
        /// The tunnel.
        tunnel: TunnelId,
        /// Why.
        reason: DownReason,
    },
    /// A CHILD SA is negotiated: install it, inbound first.
    ChildUp {
        /// The SA.
        sa: ChildSa,
        /// Inbound SPI of the SA that it takes the place of; that one's end is an event of its own.
        replaces: Option<Spi>,
        /// Send on it at once. If not, wait for [`OutboundReady`](Self::OutboundReady) (RFC 7296 2.8).
        use_outbound: bool,
    },
    /// Send on this SA from now on.
    OutboundReady {
        /// The tunnel.
        tunnel: TunnelId,
        /// The SA's inbound SPI.
        inbound: Spi,
    },
    /// A CHILD SA is gone.
    ChildDown {
        /// The tunnel.
        tunnel: TunnelId,
        /// Our SPI.
        inbound: Spi,
        /// The peer's SPI.
        outbound: Spi,
        /// How long its inbound side should still receive.
        drain: Duration,
        /// Why.
        reason: DownReason,
    },
    /// The peer's address or port, or ours towards it, is another one (proven by an authentic message).
    PeerMoved {
        /// The tunnel.
        tunnel: TunnelId,
        /// Our side of the path.
        local: SocketAddr,
        /// The peer's side.
        remote: SocketAddr,
        /// ESP goes in UDP on this path.
        encap: bool,
    },
    /// Judge the certificate of a peer that has not authenticated yet, and answer with
    /// [`Command::CertificateChecked`] within a few seconds: its chain ends at an authority of the tunnel, it is
    /// valid now, it may sign, and it names the identity.
    CheckCertificate {
        /// For the answer.
        check: CheckId,
        /// The tunnel whose rules hold.
        tunnel: TunnelId,
        /// Who the peer says it is; it fits what the tunnel expects.
        identity: Identity,
        /// DER, the peer's own certificate first; as sent, nothing is checked. At most
        /// [`MAX_CERTIFICATES`](crate::MAX_CERTIFICATES), of [`MAX_CHAIN`](crate::MAX_CHAIN) bytes in all.
        chain: Vec<Vec<u8>>,
    },
    /// A method of EAP, as server, needs to know this of somebody else; answer with [`Command::EapAnswered`].
    EapAsk {
        /// For the answer.
        check: CheckId,
        /// Where the client is.
        remote: SocketAddr,
        /// The question, which the method understands.
        note: EapNote,
    },
    /// The peer refused a CHILD SA beside the first, which goes on alone.
    AdditionalRefused {
        /// The tunnel.
        tunnel: TunnelId,
        /// What it was to be for.
        purpose: Purpose,
        /// The peer makes no more of them (TS_MAX_QUEUE, RFC 9611 5.2): asking again changes nothing.
        never: bool,
        /// Why, in words.
        cause: String,
    },
    /// Something failed.
    Failed(Failure),
    /// A message was sent or opened, in words; only after [`Command::Trace`].
    Message {
        /// The tunnel, where it is known.
        tunnel: Option<TunnelId>,
        /// The peer, where it is known.
        remote: Option<SocketAddr>,
        /// We sent it.
        sent: bool,
        /// Exchange, role, message id and payloads, on one line. No secrets.
        text: String,
    },
    /// The keys of a new IKE SA; only with [`EndpointConfig::export_secrets`](crate::EndpointConfig::export_secrets).
    Secrets(Box<IkeSecrets>),
}

/// Why an SA is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DownReason {
    /// The peer deleted it.
    PeerDeleted,
    /// The peer did not answer within the dead peer detection's timeout.
    LivenessTimeout,
    /// Another SA took its place.
    Replaced,
    /// A command.
    LocalRequest,
    /// Its hard lifetime ended.
    Expired,
    /// The peer or we reported that authentication failed.
    AuthenticationFailed,
    /// Our address is another one, and the peer cannot follow.
    AddressChanged,
    /// The peer broke the protocol, see the failure before this event.
    PeerError,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerDeleted => "deleted by the peer",
            Self::LivenessTimeout => "the peer does not answer",
            Self::Replaced => "replaced",
            Self::LocalRequest => "on request",
            Self::Expired => "lifetime ended",
            Self::AuthenticationFailed => "authentication failed",
            Self::AddressChanged => "our address changed",
            Self::PeerError => "the peer broke the protocol",
        })
    }
}

/// An IKE SA, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeInfo {
    /// The version of IKE: 1 or 2.
    pub version: u8,
    /// SPI of the side that initiated this IKE SA.
    pub spi_initiator: u64,
    /// SPI of the other side.
    pub spi_responder: u64,
    /// Whether we initiated it.
    pub initiator: bool,
    /// Its algorithms.
    pub suite: IkeSuite,
    /// A post-quantum pre-shared key is in its keys (RFC 8784).
    pub ppk: bool,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer proved to be.
    pub remote_id: Identity,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT, or claims to be.
    pub nat_remote: bool,
    /// ESP goes in UDP.
    pub encap: bool,
    /// Its addresses may change (RFC 4555).
    pub mobike: bool,
    /// Inner addresses by configuration payload.
    pub addresses: Virtual,
    /// Time until we rekey it.
    pub rekey_in: Duration,
    /// Time until it is closed if nobody rekeys it.
    pub expires_in: Duration,
}

/// A command that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The tunnel was never added.
    #[error("{0:?} is not known")]
    UnknownTunnel(TunnelId),
    /// The tunnel has no IKE SA.
    #[error("{0:?} is not up")]
    NotUp(TunnelId),
    /// What is asked for is no CHILD SA beside the first, or the tunnel has no proposals for it.
    #[error("{0:?} has nothing to offer for a CHILD SA for {1} packets beside its first one")]
    Purpose(TunnelId, Purpose),
    /// No CHILD SA has this inbound SPI.
    #[error("there is no CHILD SA with inbound SPI {0}")]
    UnknownSpi(Spi),
    /// The tunnel's peer may be anywhere: only it can initiate.
    #[error("{0:?} has no remote address: only the peer can initiate; configure its address")]
    NoRemote(TunnelId),
    /// The peer is a client of XAuth: it renews phase 1.
    #[error("{0:?} has a client of XAuth as its peer: it is the client that renews phase 1")]
    ClientsPart(TunnelId),
    /// The tunnel's configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// After [`Command::Shutdown`].
    #[error("the endpoint is shut down")]
    ShutDown,
}
