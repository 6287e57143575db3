//! Post-quantum pre-shared keys in IKE_AUTH (RFC 8784): what the keys become with one, and whether both sides use it.

use super::Handshake;
use crate::PeerConfig;
use crate::auth::Ppk;
use crate::error::Cause;
use crate::keymat::PpkKeys;
use crate::wire::{Body, Chain, Notify, Payload, notify};

impl Handshake {
    /// Mixes a PPK into the keys that it changes; returns these as they were.
    pub(super) fn mix(&mut self, ppk: &Ppk) -> PpkKeys {
        self.ppk = true;
        let mixed = self.keys.with_ppk(self.suite.prf, ppk.secret());
        self.keys.exchange(mixed)
    }

    /// Goes on without the PPK.
    pub(super) fn unmix(&mut self, plain: PpkKeys) {
        self.ppk = false;
        drop(self.keys.exchange(plain));
    }
}

/// What the initiator offers in its first IKE_AUTH.
pub(super) struct Offered {
    /// The keys without the PPK, for a peer that does not have it.
    plain: PpkKeys,
    required: bool,
}

impl Offered {
    /// Mixes the tunnel's PPK into the keys, where both sides said in IKE_SA_INIT that they use one.
    pub(super) fn start(handshake: &mut Handshake, config: &PeerConfig) -> Result<Option<Self>, Cause> {
        match &config.exchange.ppk {
            Some(ppk) if handshake.peer_ppk => {
                let plain = handshake.mix(ppk);
                Ok(Some(Self { plain, required: ppk.required }))
            }
            Some(ppk) if ppk.required => Err(Cause::PpkUnsupported),
            _ => Ok(None),
        }
    }

    /// PPK_IDENTITY, and with `plain` the AUTH that a peer without the PPK takes.
    pub(super) fn write(chain: &mut Chain, ppk: &Ppk, plain: Option<&[u8]>) {
        chain.push(&Payload::Notify(Notify::new(notify::PPK_IDENTITY, &ppk.identity())));
        if let Some(plain) = plain {
            chain.push(&Payload::Notify(Notify::new(notify::NO_PPK_AUTH, plain)));
        }
    }

    /// Takes it back: the request cannot be put together yet.
    pub(super) fn withdraw(self, handshake: &mut Handshake) {
        handshake.unmix(self.plain);
    }

    /// Whether a peer that does not have the PPK is served.
    pub(super) fn optional(&self) -> bool {
        !self.required
    }

    /// What the responder's answer says of it: it used the PPK, or did not, where that is allowed.
    pub(super) fn settle(self, handshake: &mut Handshake, body: &Body<'_>) -> Result<(), Cause> {
        if body.notify(notify::PPK_IDENTITY).is_some() {
            return Ok(());
        }
        if self.required {
            return Err(Cause::PpkRefused);
        }
        handshake.unmix(self.plain);
        Ok(())
    }
}

/// How a responder reads a request's AUTH for one tunnel.
pub(super) enum Reading<'a> {
    /// With the tunnel's PPK.
    Mixed(&'a Ppk),
    /// Without, by this data of AUTH.
    Plain(&'a [u8]),
}

/// Which AUTH of a request counts for a tunnel (RFC 8784 3).
pub(super) fn read<'a>(
    handshake: &Handshake,
    config: &'a PeerConfig,
    body: &Body<'a>,
    auth: &'a [u8],
) -> Result<Reading<'a>, Cause> {
    let named = body.notify(notify::PPK_IDENTITY).filter(|_| handshake.peer_ppk).map(|n| n.data);
    let ours = config.exchange.ppk.as_ref();
    match (named, ours) {
        (Some(named), Some(ppk)) if ppk.is(named) => Ok(Reading::Mixed(ppk)),
        (named, Some(ppk)) if ppk.required => {
            Err(if named.is_some() { Cause::PpkUnknown } else { Cause::PpkUnsupported })
        }
        (Some(_), _) => match body.notify(notify::NO_PPK_AUTH) {
            Some(plain) => Ok(Reading::Plain(plain.data)),
            None => Err(Cause::PpkUnknown),
        },
        (None, _) => Ok(Reading::Plain(auth)),
    }
}
