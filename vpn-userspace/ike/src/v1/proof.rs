//! Proofs of identity in phase 1 (RFC 2409 5.1, 5.4): a hash, or a signature of it and the certificates for its key.

use culvert_crypto::sign::{PublicKey, Scheme};
use culvert_crypto::{SharedSecret, equal};

use super::cause::V1Cause;
use super::keys::{Keys, skeyid_psk, skeyid_signature};
use super::method::{How, Method};
use super::phase1::Opening;
use super::proposal::IkeChoice;
use crate::auth::signature::collected;
use crate::ctx::Ctx;
use crate::error::Cause;
use crate::wire::v1::{Body, Chain, Payload};
use crate::{CertificateRefused, Identity, PeerConfig, RemoteAuth};

/// X.509 certificate for signatures (RFC 2408 3.9).
pub(crate) const X509_SIGNATURE: u8 = 4;
/// More authorities than this are not named.
const MAX_AUTHORITIES: usize = 20;

/// What the owner said of a certificate.
pub(crate) type Verdict = Result<PublicKey, CertificateRefused>;

/// How far a peer's message proves it.
pub(crate) enum Checked {
    Proven,
    /// For the owner to judge.
    Ask(Vec<Vec<u8>>),
}

fn scheme(how: How) -> Option<Scheme> {
    match how {
        How::Rsa => Some(Scheme::RsaPkcs1Bare),
        How::Psk | How::Nothing => None,
    }
}

/// The keys of phase 1. With a pre-shared key it is the tunnel's; `None` if that has none.
pub(crate) fn keys(
    config: &PeerConfig,
    choice: &IkeChoice,
    opening: &Opening,
    shared: &SharedSecret,
) -> Option<Keys> {
    let (prf, public) = (choice.suite.prf, opening.public());
    let skeyid = if Method::of(choice.method)?.by_psk() {
        skeyid_psk(prf, config.auth.local.as_psk()?, &public)
    } else {
        skeyid_signature(prf, shared, &public)
    };
    Keys::derive(&choice.suite, skeyid, shared, &public)
}

/// Appends what proves our identity, whose payload's body is `id`.
pub(crate) fn write(
    ctx: &mut Ctx<'_>,
    chain: &mut Chain,
    (config, choice): (&PeerConfig, &IkeChoice),
    (opening, keys): (&Opening, &Keys),
    id: &[u8],
) -> Result<(), Cause> {
    let hash = opening.proof(keys, id, opening.initiator);
    let how = Method::of(choice.method).ok_or(Cause::V1(V1Cause::NoKey))?.how(opening.initiator);
    let Some(scheme) = scheme(how) else {
        chain.push(&Payload::Hash(&hash));
        return Ok(());
    };
    // The configuration may be another than when it was offered.
    let signer = config.auth.local.as_signer().ok_or(Cause::V1(V1Cause::NoKey))?;
    for certificate in &signer.chain {
        chain.push(&Payload::Cert(X509_SIGNATURE, certificate));
    }
    // RFC 2409 5.1: the hash itself is signed, in PKCS#1 without the name of its algorithm.
    let signature = signer.key.sign(scheme, &[&hash], ctx.random)?;
    chain.push(&Payload::Signature(&signature));
    Ok(())
}

/// Whether the peer's message proves the identity in it.
pub(crate) fn check(
    choice: &IkeChoice,
    (opening, keys): (&Opening, &Keys),
    body: &Body<'_>,
    identity: &Identity,
    verdict: Option<&Verdict>,
) -> Result<Checked, Cause> {
    let id = body.ids().next().ok_or(Cause::MissingPayload("ID"))?.to_bytes();
    check_id(choice, (opening, keys), body, (&id, identity), verdict)
}

/// The same where the identity came in another message: `id` is the body of its payload.
pub(crate) fn check_id(
    choice: &IkeChoice,
    (opening, keys): (&Opening, &Keys),
    body: &Body<'_>,
    (id, identity): (&[u8], &Identity),
    verdict: Option<&Verdict>,
) -> Result<Checked, Cause> {
    let of_initiator = !opening.initiator;
    let hash = opening.proof(keys, id, of_initiator);
    let how = Method::of(choice.method).ok_or(Cause::V1(V1Cause::NoKey))?.how(of_initiator);
    let Some(scheme) = scheme(how) else {
        let got = body.hash().ok_or(Cause::MissingPayload("HASH"))?;
        return match (equal(&hash, got), how) {
            (true, _) => Ok(Checked::Proven),
            (false, How::Psk) => Err(Cause::WrongPsk(identity.clone())),
            (false, _) => Err(V1Cause::WrongHash.into()),
        };
    };
    let signature = body.signature().ok_or(Cause::MissingPayload("SIG"))?;
    match verdict {
        None => Ok(Checked::Ask(collected(body.certificates(X509_SIGNATURE))?)),
        Some(Err(refused)) => {
            Err(Cause::Certificate { identity: identity.clone(), refused: Box::new(refused.clone()) })
        }
        Some(Ok(key)) => {
            let fits = key.verify(scheme, &[&hash], signature);
            fits.map(|()| Checked::Proven).map_err(|error| Cause::WrongSignature { scheme, error })
        }
    }
}

/// Asks the peer for its certificate, naming the authorities, where one of the tunnels wants it by this method.
pub(crate) fn request<'a>(
    chain: &mut Chain,
    configs: impl Iterator<Item = &'a PeerConfig>,
    method: u16,
    initiator: bool,
) {
    let theirs = Method::of(method).map(|m| m.how(!initiator));
    if theirs.is_none_or(|how| scheme(how).is_none()) {
        return;
    }
    let mut named: Vec<&[u8]> = Vec::new();
    for config in configs {
        let RemoteAuth::Certificate(trust) = &config.auth.remote else { continue };
        for name in &trust.names {
            if !named.contains(&name.as_slice()) && named.len() < MAX_AUTHORITIES {
                named.push(name);
            }
        }
    }
    if named.is_empty() {
        // RFC 2408 3.10: from any authority.
        named.push(&[]);
    }
    for name in named {
        chain.push(&Payload::CertRequest(X509_SIGNATURE, name));
    }
}
