//! IKEv1's exchanges and states (RFC 2409). One file per exchange; a state is a struct that its next state consumes.
//!
//! Weaker than IKEv2 in its design: the key of a pre-shared secret must be found before the identity is known, messages
//! have no numbers, informational ones are never acknowledged. It runs only where a tunnel asks for it.

pub(crate) mod aggressive;
pub(crate) mod cause;
pub(crate) mod child;
mod clock;
pub(crate) mod fragment;
mod info;
pub(crate) mod keys;
pub(crate) mod main_mode;
pub(crate) mod method;
mod mode_config;
mod nat;
pub(crate) mod phase1;
pub(crate) mod proof;
pub(crate) mod proposal;
mod quick;
pub(crate) mod sa;
mod transaction;
pub(crate) mod vendor;
mod xauth;

use std::net::SocketAddr;
use std::time::Instant;

use culvert_types::TunnelId;
use proof::Verdict;

use crate::EndpointConfig;
use crate::ctx::{Ctx, log};
use crate::job::Done;
use crate::timer::Soonest;
use crate::wire::WireError;
use crate::wire::v1::{Body, Exchange, HEADER_LEN, Header};

/// Says why IKEv1 should be the last resort.
pub(crate) fn warn(name: &str) {
    log!(
        warn,
        name,
        "version = 1: IKEv1 is weaker than IKEv2 (RFC 9395): it has neither AEADs nor cookies against floods in its first phase, its informational messages are not acknowledged, \
         networks cannot be narrowed; use version = 2 wherever the peer can"
    );
}

/// Where a message came in, and its parsed header.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) header: Header,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Arrival<'a> {
    /// The payloads of a message in the clear.
    pub(crate) fn plain_body(&self) -> Result<Body<'a>, WireError> {
        if self.header.flags.encrypted {
            return Err(WireError::Value("encryption flag"));
        }
        Body::parse(self.header.next, self.bytes.get(HEADER_LEN..).unwrap_or_default(), false)
    }

    /// Whether it belongs to phase 1, in the mode asked for.
    pub(crate) fn is_phase1(&self, aggressive: bool) -> bool {
        let mode = if aggressive { Exchange::Aggressive } else { Exchange::Main };
        self.header.exchange == mode && self.header.message_id == 0
    }
}

/// A message that is read again, once a job or a verdict is there.
pub(crate) struct Stash {
    local: SocketAddr,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

impl Stash {
    pub(crate) fn of(arrival: &Arrival<'_>) -> Self {
        let Arrival { local, remote, bytes, .. } = *arrival;
        Self { local, remote, bytes: bytes.to_vec() }
    }

    /// The message as it came.
    pub(crate) fn arrival(&self) -> Option<Arrival<'_>> {
        let (header, bytes) = Header::parse(&self.bytes).ok()?;
        Some(Arrival { local: self.local, remote: self.remote, header, bytes })
    }

    /// Hands it to a state again.
    pub(crate) fn read<S>(
        self,
        state: Box<S>,
        act: impl FnOnce(Box<S>, &Arrival<'_>) -> Option<Sa>,
        otherwise: impl FnOnce(Box<S>) -> Sa,
    ) -> Option<Sa> {
        match self.arrival() {
            Some(arrival) => act(state, &arrival),
            None => Some(otherwise(state)),
        }
    }
}

/// An ISAKMP SA in one of its states.
pub(crate) enum Sa {
    /// Initiator of aggressive mode, waiting for the second message.
    AggressiveSent(Box<aggressive::AggressiveSent>),
    /// Responder of aggressive mode, whose answer is a job away.
    AggressiveAsked(Box<aggressive::AggressiveAsked>),
    /// Responder of aggressive mode, waiting for the third message.
    AggressiveAnswered(Box<aggressive::AggressiveAnswered>),
    /// Initiator of main mode, waiting for the second message.
    OfferSent(Box<main_mode::OfferSent>),
    /// Initiator of main mode, waiting for the fourth message.
    KeySent(Box<main_mode::KeySent>),
    /// Initiator of main mode, waiting for the sixth message.
    IdSent(Box<main_mode::IdSent>),
    /// Responder of main mode, waiting for the third message.
    OfferAnswered(Box<main_mode::OfferAnswered>),
    /// Responder of main mode, waiting for the fifth message.
    KeyAnswered(Box<main_mode::KeyAnswered>),
    /// Both sides authenticated.
    Up(Box<sa::IkeSa>),
}

impl Sa {
    /// The cookies: the initiator's and the responder's, 0 while unknown.
    pub(crate) fn cookies(&self) -> (u64, u64) {
        let opening = match self {
            Self::AggressiveSent(s) => &s.opening,
            Self::AggressiveAsked(s) => &s.opening,
            Self::AggressiveAnswered(s) => &s.opening,
            Self::OfferSent(s) => &s.opening,
            Self::KeySent(s) => &s.opening,
            Self::IdSent(s) => &s.opening,
            Self::OfferAnswered(s) => &s.opening,
            Self::KeyAnswered(s) => &s.opening,
            Self::Up(s) => return (s.cookie_i, s.cookie_r),
        };
        (opening.cookie_i, opening.cookie_r)
    }

    /// Whether we opened it.
    pub(crate) fn initiator(&self) -> bool {
        match self {
            Self::AggressiveSent(_) | Self::OfferSent(_) | Self::KeySent(_) | Self::IdSent(_) => true,
            Self::AggressiveAsked(_)
            | Self::AggressiveAnswered(_)
            | Self::OfferAnswered(_)
            | Self::KeyAnswered(_) => false,
            Self::Up(s) => s.initiator,
        }
    }

    /// The tunnel, once it is known.
    pub(crate) fn tunnel(&self) -> Option<TunnelId> {
        match self {
            Self::AggressiveSent(s) => Some(s.tunnel),
            Self::OfferSent(s) => Some(s.tunnel),
            Self::KeySent(s) => Some(s.tunnel),
            Self::IdSent(s) => Some(s.tunnel),
            Self::AggressiveAsked(_)
            | Self::AggressiveAnswered(_)
            | Self::OfferAnswered(_)
            | Self::KeyAnswered(_) => None,
            Self::Up(s) => Some(s.tunnel),
        }
    }

    /// Whether it is still to serve its tunnel.
    pub(crate) fn opens(&self) -> bool {
        !matches!(self, Self::Up(s) if !s.opens())
    }

    /// Takes in a message that names this SA, whole.
    pub(crate) fn on_datagram(self, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Self> {
        match self {
            Self::AggressiveSent(s) => s.on_datagram(ctx, arrival),
            // The same again: the answer is on its way.
            Self::AggressiveAsked(s) => Some(Self::AggressiveAsked(s)),
            Self::AggressiveAnswered(s) => s.on_datagram(ctx, arrival),
            Self::OfferSent(s) => s.on_datagram(ctx, arrival),
            Self::KeySent(s) => s.on_datagram(ctx, arrival),
            Self::IdSent(s) => s.on_datagram(ctx, arrival),
            Self::OfferAnswered(s) => s.on_datagram(ctx, arrival),
            Self::KeyAnswered(s) => s.on_datagram(ctx, arrival),
            Self::Up(s) => s.on_datagram(ctx, arrival),
        }
    }

    /// Takes in what a job brought that was asked for on its behalf.
    pub(crate) fn on_job(self, ctx: &mut Ctx<'_>, number: u64, done: &mut Option<Done>) -> Option<Self> {
        match self {
            Self::AggressiveSent(s) => s.on_job(ctx, number, done),
            Self::AggressiveAsked(s) => s.on_job(ctx, number, done),
            Self::KeySent(s) => s.on_job(ctx, number, done),
            Self::OfferAnswered(s) => s.on_job(ctx, number, done),
            Self::Up(mut s) => {
                s.on_job(ctx, number, done);
                s.go_on(ctx);
                Some(Self::Up(s))
            }
            other => Some(other),
        }
    }

    /// Takes in the owner's verdict on a certificate, the `number`th that was asked for.
    pub(crate) fn on_checked(self, ctx: &mut Ctx<'_>, number: u64, verdict: &Verdict) -> Option<Self> {
        match self {
            Self::AggressiveSent(s) => s.on_checked(ctx, verdict),
            Self::AggressiveAnswered(s) => s.on_checked(ctx, number, verdict),
            Self::IdSent(s) => s.on_checked(ctx, verdict),
            Self::KeyAnswered(s) => s.on_checked(ctx, number, verdict),
            other => Some(other),
        }
    }

    /// Does what is due.
    pub(crate) fn on_timeout(self, ctx: &mut Ctx<'_>) -> Option<Self> {
        match self {
            Self::AggressiveSent(s) => s.on_timeout(ctx),
            Self::AggressiveAsked(s) => (ctx.now < s.expires).then_some(Self::AggressiveAsked(s)),
            Self::AggressiveAnswered(s) => (ctx.now < s.expires).then_some(Self::AggressiveAnswered(s)),
            Self::OfferSent(s) => s.on_timeout(ctx),
            Self::KeySent(s) => s.on_timeout(ctx),
            Self::IdSent(s) => s.on_timeout(ctx),
            Self::OfferAnswered(s) => (ctx.now < s.expires).then_some(Self::OfferAnswered(s)),
            Self::KeyAnswered(s) => s.on_timeout(ctx),
            Self::Up(s) => s.on_timeout(ctx),
        }
    }

    /// When something is due.
    pub(crate) fn deadline(&self, config: &EndpointConfig) -> Option<(Instant, &'static str)> {
        let mut soonest = Soonest::default();
        let patience = match self {
            Self::AggressiveSent(s) => Some(&s.patience),
            Self::AggressiveAsked(s) => {
                soonest.at(s.expires, "half-open IKE SA expires");
                None
            }
            Self::AggressiveAnswered(s) => {
                soonest.at(s.expires, "half-open IKE SA expires");
                None
            }
            Self::OfferSent(s) => Some(&s.patience),
            Self::KeySent(s) => Some(&s.patience),
            Self::IdSent(s) => Some(&s.patience),
            Self::OfferAnswered(s) => {
                soonest.at(s.expires, "half-open IKE SA expires");
                None
            }
            Self::KeyAnswered(s) => {
                soonest.at(s.expires, "half-open IKE SA expires");
                None
            }
            Self::Up(s) => {
                s.deadlines(config, &mut soonest);
                None
            }
        };
        if let Some(patience) = patience {
            soonest.at(patience.retransmission.deadline(), "retransmit a message of phase 1");
        }
        soonest.get()
    }
}
