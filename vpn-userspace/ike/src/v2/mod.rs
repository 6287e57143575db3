//! IKEv2's exchanges and states. One file per exchange; a state is a struct that its next state consumes.

pub(crate) mod auth;
pub(crate) mod child;
mod clock;
pub(crate) mod closed;
mod endings;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod mobike;
pub(crate) mod nat;
pub(crate) mod pairs;
mod path;
pub(crate) mod rekey;
pub(crate) mod sa;
pub(crate) mod vip;

use std::net::SocketAddr;
use std::time::Instant;

use culvert_types::TunnelId;

use crate::EapNote;
pub(crate) use crate::ctx::{self, Path};
use crate::job::Done;
use crate::protect::Opened;
use crate::timer::Soonest;
use crate::wire::Header;
use ctx::Ctx;

/// Where a datagram came in, and its parsed header.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) header: Header,
    pub(crate) bytes: &'a [u8],
}

/// A datagram that waits for a job.
pub(crate) struct Stash {
    local: SocketAddr,
    remote: SocketAddr,
    header: Header,
    bytes: Vec<u8>,
}

impl Stash {
    pub(crate) fn of(arrival: &Arrival<'_>) -> Self {
        let Arrival { local, remote, header, bytes } = *arrival;
        Self { local, remote, header, bytes: bytes.to_vec() }
    }

    pub(crate) fn arrival(&self) -> Arrival<'_> {
        Arrival { local: self.local, remote: self.remote, header: self.header, bytes: &self.bytes }
    }
}

/// A protected message of an established IKE SA, checked and decrypted.
pub(crate) struct Message {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) header: Header,
    pub(crate) opened: Opened,
}

/// An IKE SA in one of its states.
pub(crate) enum Sa {
    /// Initiator, waiting for the answer to IKE_SA_INIT.
    InitSent(Box<init::InitSent>),
    /// Responder, whose answer to IKE_SA_INIT waits for a job.
    Opening(Box<init::Opening>),
    /// Initiator, in a round of IKE_INTERMEDIATE.
    Intermediate(Box<auth::Intermediate>),
    /// Initiator, whose signature for IKE_AUTH is being made.
    Proving(Box<auth::Proving>),
    /// Initiator, waiting for the answer to IKE_AUTH.
    AuthSent(Box<auth::AuthSent>),
    /// Responder, waiting for IKE_AUTH.
    HalfOpen(Box<auth::HalfOpen>),
    /// Both sides authenticated.
    Up(Box<sa::IkeSa>),
    /// Gone, but for answering the request that ended it once more.
    Closed(Box<closed::Closed>),
}

impl Sa {
    /// The SPI of the peer, 0 while unknown.
    pub(crate) fn peer_spi(&self) -> u64 {
        match self {
            Self::InitSent(_) => 0,
            Self::Opening(s) => s.spi_i(),
            Self::Intermediate(s) => s.handshake.spi_r,
            Self::Proving(s) => s.handshake.spi_r,
            Self::AuthSent(s) => s.handshake.spi_r,
            Self::HalfOpen(s) => s.handshake.spi_i,
            Self::Up(s) => s.peer_spi(),
            Self::Closed(s) => s.peer_spi,
        }
    }

    /// Whether we are the original initiator of this IKE SA.
    pub(crate) fn initiator(&self) -> bool {
        match self {
            Self::InitSent(_) | Self::Intermediate(_) | Self::Proving(_) | Self::AuthSent(_) => true,
            Self::Opening(_) | Self::HalfOpen(_) => false,
            Self::Up(s) => s.initiator,
            Self::Closed(s) => s.initiator,
        }
    }

    /// The tunnel, once it is known.
    pub(crate) fn tunnel(&self) -> Option<TunnelId> {
        match self {
            Self::InitSent(s) => Some(s.tunnel),
            Self::Intermediate(s) => Some(s.tunnel),
            Self::Proving(s) => Some(s.tunnel),
            Self::AuthSent(s) => Some(s.tunnel),
            Self::Opening(_) | Self::HalfOpen(_) => None,
            Self::Up(s) => Some(s.tunnel),
            Self::Closed(_) => None,
        }
    }

    /// Takes in a datagram that names this IKE SA.
    pub(crate) fn on_datagram(self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Self> {
        match self {
            Self::InitSent(s) => s.on_response(ctx, arrival),
            Self::Opening(_) | Self::Proving(_) => Some(self),
            Self::Intermediate(s) => s.on_response(ctx, arrival),
            Self::AuthSent(s) => s.on_response(ctx, arrival),
            Self::HalfOpen(s) => s.on_request(ctx, arrival),
            Self::Up(s) => s.on_datagram(ctx, arrival),
            Self::Closed(s) => s.on_datagram(ctx, arrival),
        }
    }

    /// Takes in what a job brought that was asked for on behalf of this IKE SA. The endpoint does so for one that
    /// is still opening.
    pub(crate) fn on_job(self, ctx: &mut Ctx<'_>, number: u64, done: &mut Option<Done>) -> Option<Self> {
        match self {
            Self::InitSent(s) => s.on_job(ctx, number, done),
            Self::Intermediate(s) => s.on_job(ctx, number, done),
            Self::Proving(s) => s.on_job(ctx, number, done),
            Self::HalfOpen(s) => Some(s.on_job(ctx, number, done)),
            Self::Up(s) => s.on_job(ctx, number, done),
            Self::Opening(_) | Self::AuthSent(_) | Self::Closed(_) => Some(self),
        }
    }

    /// Takes in the owner's verdict on a certificate.
    pub(crate) fn on_checked(self, ctx: &mut Ctx<'_>, number: u64, verdict: auth::Verdict) -> Option<Self> {
        match self {
            Self::AuthSent(s) => s.on_checked(ctx, number, &verdict),
            Self::HalfOpen(s) => Some(s.on_checked(ctx, number, verdict)),
            other => Some(other),
        }
    }

    /// The owner's answer to a question of EAP's.
    pub(crate) fn on_eap_answered(self, ctx: &mut Ctx<'_>, number: u64, note: &EapNote) -> Option<Self> {
        match self {
            Self::HalfOpen(s) => Some(s.on_eap_answered(ctx, number, note)),
            other => Some(other),
        }
    }

    /// Does what is due.
    pub(crate) fn on_timeout(self, ctx: &mut Ctx<'_>) -> Option<Self> {
        match self {
            Self::InitSent(s) => s.on_timeout(ctx),
            Self::Intermediate(s) => s.on_timeout(ctx),
            Self::Proving(s) => s.on_timeout(ctx),
            Self::AuthSent(s) => s.on_timeout(ctx),
            Self::Opening(s) => (ctx.now < s.expires).then_some(Self::Opening(s)),
            Self::HalfOpen(s) => s.on_timeout(ctx),
            Self::Up(s) => s.on_timeout(ctx),
            Self::Closed(s) => (ctx.now < s.expires).then_some(Self::Closed(s)),
        }
    }

    /// When something is due.
    pub(crate) fn deadline(&self, config: &crate::EndpointConfig) -> Option<(Instant, &'static str)> {
        let mut soonest = Soonest::default();
        match self {
            Self::InitSent(s) => soonest.at(s.retransmission.deadline(), "retransmit IKE_SA_INIT"),
            Self::Opening(s) => soonest.at(s.expires, "half-open IKE SA expires"),
            Self::Intermediate(s) => {
                let (when, why) = s.deadline();
                soonest.at(when, why);
            }
            Self::Proving(s) => soonest.at(s.patience, "a signature must be made"),
            Self::AuthSent(s) => s.deadline().into_iter().for_each(|(when, why)| soonest.at(when, why)),
            Self::HalfOpen(s) => soonest.at(s.expires, "half-open IKE SA expires"),
            Self::Up(s) => s.deadlines(config, &mut soonest),
            Self::Closed(s) => soonest.at(s.expires, "closed IKE SA is forgotten"),
        }
        soonest.get()
    }
}
