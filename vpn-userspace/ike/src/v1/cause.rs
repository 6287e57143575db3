//! What goes wrong in IKEv1 only, and what IKEv1's RFCs and habits say about what goes wrong in both.

use std::time::Duration;

use crate::error::{Blame, Cause, Phase};
use crate::wire::v1::notify;

/// A cause that only IKEv1 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum V1Cause {
    /// The first encrypted message makes no sense with any key that may be meant.
    #[error("the peer's first encrypted message does not decrypt: its pre-shared key is not ours")]
    Undecipherable,
    /// The answer to our first encrypted message makes no sense with our key.
    #[error("the peer's answer to our identity does not decrypt: its pre-shared key is not ours")]
    AnswerUndecipherable,
    /// The peer answered until keys were there, then never again.
    #[error("the peer answered until the keys were made, then not for {} s", .0.as_secs())]
    GoneAfterKeys(Duration),
    /// The peer refused with an error that nobody vouches for, or in an informational exchange.
    #[error("the peer refused: {} ({})", notify::name(*.0), .0)]
    Refused(u16),
    /// The peer says that we failed to authenticate.
    #[error("the peer rejected our pre-shared key or identity: {} ({})", notify::name(*.0), .0)]
    AuthenticationRefused(u16),
    /// The peer refused the pair of networks.
    #[error("the peer does not accept this pair of networks (INVALID-ID-INFORMATION)")]
    SelectorsRefused,
    /// The peer opens aggressive mode.
    #[error("the peer opens aggressive mode, which no tunnel between these addresses allows")]
    ModeNotAllowed,
    /// The peer's user or password is not among ours.
    #[error("the peer's user name or password is wrong")]
    WrongUser,
    /// The peer refused our user or password.
    #[error("the peer refused our user name or password")]
    UserRefused,
    /// There is no key to negotiate with.
    #[error("the tunnel has no key for this way to authenticate")]
    NoKey,
    /// A hash that no secret goes into is wrong.
    #[error("the hash over the first messages is wrong: they were altered on the way")]
    WrongHash,
}

/// Blame, mend and section in a phase of IKEv1; `None`: what IKEv2 says holds.
pub(crate) fn verdict(cause: &Cause, phase: Phase) -> Option<(Blame, &'static str, &'static str)> {
    use Blame::{Configuration, Local, Network, Peer};
    let quick = matches!(phase, Phase::QuickMode | Phase::QuickModeRekey);
    let psk = "set the same pre-shared key on both sides: the peer may hold it for another address of ours";
    Some(match cause {
        Cause::NoProposal | Cause::ProposalsRefused | Cause::WrongChoice if quick => (
            Configuration,
            "make the ESP proposals of both sides overlap; group (PFS), key length and encapsulation included",
            "RFC 2407 4.5",
        ),
        Cause::NoProposal | Cause::ProposalsRefused | Cause::WrongChoice => (
            Configuration,
            "make the IKE proposals of both sides overlap; authentication method and key length included",
            "RFC 2409 5",
        ),
        Cause::WrongPsk(_) => (Configuration, psk, "RFC 2409 5.4"),
        Cause::V1(V1Cause::Undecipherable | V1Cause::AnswerUndecipherable) => {
            (Configuration, psk, "RFC 2409 5.4")
        }
        Cause::V1(V1Cause::ModeNotAllowed) => (
            Configuration,
            "configure main mode at the peer; or mode = \"aggressive\" here, with a long random key",
            "RFC 2409 5.4",
        ),
        Cause::V1(V1Cause::WrongUser) => (
            Configuration,
            "compare the user and password of the peer with those configured here",
            "draft-beaulieu-ike-xauth-02 4",
        ),
        Cause::V1(V1Cause::UserRefused) => (
            Configuration,
            "compare xauth_user and its password with the peer's list",
            "draft-beaulieu-ike-xauth-02 4",
        ),
        Cause::V1(V1Cause::NoKey) => {
            (Local, "give the tunnel a psk_file, or a certificate with its private key", "RFC 2409 5")
        }
        Cause::V1(V1Cause::WrongHash) => {
            (Network, "look for who changes packets between here and the peer", "RFC 2409 5")
        }
        Cause::WrongSignature { .. } => {
            (Configuration, "give the peer the private key that belongs to its certificate", "RFC 2409 5.1")
        }
        Cause::V1(V1Cause::GoneAfterKeys(_)) => (
            Configuration,
            "compare the pre-shared keys and ids, most likely they differ (the peer's log says it); and see that UDP 4500 passes both ways",
            "RFC 2409 5.4",
        ),
        Cause::V1(V1Cause::AuthenticationRefused(_)) => (
            Configuration,
            "compare pre-shared key, local id and remote id with the peer's; its log says which of them differs",
            "RFC 2409 5.4",
        ),
        Cause::V1(V1Cause::Refused(_)) => {
            (Configuration, "look into the peer's log for the cause", "RFC 2408 3.14.1")
        }
        Cause::NoSelectors | Cause::V1(V1Cause::SelectorsRefused) => (
            Configuration,
            "give both sides exactly the same pairs of networks: IKEv1 cannot narrow them (a route-based peer asks for 0.0.0.0/0 on both sides)",
            "RFC 2409 5.5",
        ),
        Cause::SelectorsWidened => (
            Peer,
            "give both sides exactly the same pairs of networks: the peer answered with others",
            "RFC 2409 5.5",
        ),
        Cause::WrongRemoteId { .. } => (
            Configuration,
            "set remote_id here to what the peer sends, or the peer's local id to what is expected here; behind a NAT a peer often sends its inner address",
            "RFC 2407 4.6.2",
        ),
        Cause::Silent(_) if matches!(phase, Phase::MainMode | Phase::AggressiveMode) => (
            Network,
            "see that the peer's address is right, that it runs IKEv1 in the same mode for our address, and that UDP 500 passes both ways",
            "RFC 2408 5.1",
        ),
        Cause::Silent(_) if quick => (
            Configuration,
            "look into the peer's log: many peers drop a quick mode that they refuse without a word",
            "RFC 2409 5.5",
        ),
        Cause::Silent(_) => {
            (Network, "see that the peer still runs and that UDP 500 and 4500 pass both ways", "RFC 3706 5.4")
        }
        Cause::MissingPayload(_) | Cause::Malformed(_) | Cause::BadSpi(_) => {
            (Peer, "ask the peer's vendor: its message breaks RFC 2408", "RFC 2408 5")
        }
        Cause::UnknownAddress { .. } => (
            Configuration,
            "configure a tunnel with these addresses and ike version = 1, or a remote address of \"any\"",
            "RFC 2408 5.4",
        ),
        Cause::Expired => (Configuration, "look at the rekeying failures before this one", "RFC 2408 4.1"),
        _ => return None,
    })
}
