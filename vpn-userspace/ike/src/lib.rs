//! IKEv2, sans-IO: datagrams, commands and time in; datagrams, events and deadlines out.
//!
//! An [`Endpoint`] serves any number of tunnels, as initiator and as responder. Its owner feeds it with
//! [`Endpoint::handle_datagram`], [`Endpoint::handle_command`] and [`Endpoint::handle_timeout`], and
//! after each of them drains [`Endpoint::poll`]. Slow cryptography leaves as a [`Job`], runs wherever the owner
//! likes and comes back by [`Endpoint::handle_job`]. Nothing here reads a clock, opens a socket or draws
//! randomness that was not handed in.
//!
//! Inside: `wire` is the message format and knows no state; `proposal`, `selector`, `identity`, `auth`
//! and `keymat` are the parts of a negotiation and know no messages in flight; `v2` has one file per
//! exchange and one struct per state; `endpoint` finds the IKE SA that a datagram belongs to and guards
//! what strangers may cost. Knows nothing of ESP packets, of the kernel or of the configuration file.

mod auth;
mod child;
mod config;
mod ctx;
mod endpoint;
mod error;
mod event;
mod exchange;
mod fragment;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod identity;
mod job;
mod kex;
mod keymat;
pub mod proposal;
mod protect;
mod purpose;
mod selector;
mod session;
mod tap;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod timer;
mod v1;
mod v2;
mod window;
mod wire;

pub use auth::{
    Auth, Eap, EapFault, EapMethod, EapNote, EapRun, EapStep, LocalAuth, MAX_CERTIFICATES, MAX_CHAIN, Ppk,
    Psk, PskError, RemoteAuth, Signer, Trust,
};
pub use child::ChildSa;
pub use config::{
    ConfigError, Dpd, EndpointConfig, ModeConfig, Parity, PeerConfig, Retransmit, V1Mode, V1Options, Xauth,
    XauthUser,
};
pub use endpoint::{Counts, Endpoint};
pub use error::{Blame, Cause, Failure, Phase};
pub use event::{CertificateRefused, CheckId, Command, CommandError, DownReason, Event, IkeInfo, Output};
pub use exchange::{Childless, EspMode, ExchangeOptions, Fragmentation, Mobike, Pairs};
pub use identity::{Dn, Identity, IdentityError};
pub use job::{Job, JobDone, JobId};
pub use proposal::{Additional, EspProposal, EspSuite, IkeProposal, IkeSuite, ProposalError};
pub use purpose::Purpose;
pub use session::{Addresses, Pool, Session, Unique, Virtual};
pub use tap::IkeSecrets;
pub use v1::cause::V1Cause;
pub use wire::WireError;
