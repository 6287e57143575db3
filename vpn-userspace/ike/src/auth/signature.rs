//! Signatures in AUTH payloads: RFC 7427's method 14, and the methods before it (RFC 7296 3.8, RFC 4754).

use std::fmt;
use std::sync::Arc;

use culvert_crypto::Prf;
use culvert_crypto::sign::{KeyKind, PrivateKey, PublicKey, Scheme};

use super::signing::Make;
use super::{Proof, SignedOctets};
use crate::error::Cause;
use crate::wire::{Body, Chain, Notify, Payload, X509_SIGNATURE, notify};

/// A private key, and the certificates that vouch for its public half.
#[derive(Clone)]
pub struct Signer {
    /// The key.
    pub key: Arc<PrivateKey>,
    /// DER: the key's own certificate, then those of the authorities between it and a root; the root itself need
    /// not be there. At most [`MAX_CERTIFICATES`], of [`MAX_CHAIN`] bytes in all.
    pub chain: Vec<Vec<u8>>,
    /// How to sign, first preferred; empty: as the key prefers ([`PrivateKey::schemes`]).
    pub schemes: Vec<Scheme>,
    /// Sign RSA with SHA-1 (method 1) for a peer that knows nothing of RFC 7427. Weak.
    pub sha1: bool,
    /// What the certificate says, for people; may be empty.
    pub about: String,
}

/// Which certificates are believed; the endpoint's owner judges them, see
/// [`Event::CheckCertificate`](crate::Event::CheckCertificate).
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// SHA-1 of the SubjectPublicKeyInfo of each trusted authority, to tell the peer (RFC 7296 3.7).
    pub authorities: Vec<[u8; 20]>,
    /// The subject of each, DER, to tell a peer of IKEv1 (RFC 2408 3.10).
    pub names: Vec<Vec<u8>>,
    /// Take RSA signatures with SHA-1 (method 1) from a peer that knows nothing of RFC 7427. Weak.
    pub sha1: bool,
}

/// More certificates than this are neither sent nor taken.
pub const MAX_CERTIFICATES: usize = 10;
/// More bytes of certificates than this in all are neither sent nor taken.
pub const MAX_CHAIN: usize = 32 * 1024;
/// More authorities than this are not named in a request.
const MAX_AUTHORITIES: usize = 20;

const RSA: u8 = 1;
const ECDSA_P256: u8 = 9;
const ECDSA_P384: u8 = 10;
const ECDSA_P521: u8 = 11;
/// RFC 7427 3: the AlgorithmIdentifier stands before the signature.
const DIGITAL_SIGNATURE: u8 = 14;

pub(crate) fn is_method(method: u8) -> bool {
    matches!(method, RSA | ECDSA_P256 | ECDSA_P384 | ECDSA_P521 | DIGITAL_SIGNATURE)
}

impl Signer {
    /// A method and a scheme that the peer understands. `peer_hashes`: its SIGNATURE_HASH_ALGORITHMS.
    fn choose(&self, peer_hashes: &[u16]) -> Option<(u8, Scheme)> {
        let own = self.key.schemes();
        let schemes = if self.schemes.is_empty() { own } else { &self.schemes };
        let known = |s: &&Scheme| own.contains(s) && s.hash_id().is_some_and(|id| peer_hashes.contains(&id));
        if let Some(scheme) = schemes.iter().find(known) {
            return Some((DIGITAL_SIGNATURE, *scheme));
        }
        match self.key.kind() {
            KeyKind::Rsa(_) => self.sha1.then_some((RSA, Scheme::RsaPkcs1Sha1)),
            KeyKind::EcdsaP256 => Some((ECDSA_P256, Scheme::EcdsaP256Fixed)),
            KeyKind::EcdsaP384 => Some((ECDSA_P384, Scheme::EcdsaP384Fixed)),
            KeyKind::EcdsaP521 => Some((ECDSA_P521, Scheme::EcdsaP521Fixed)),
            KeyKind::Ed25519 => None,
        }
    }

    pub(super) fn sign(
        &self,
        prf: Prf,
        octets: &SignedOctets<'_>,
        peer_hashes: &[u16],
        make: &mut Make<'_>,
    ) -> Option<Result<Proof, Cause>> {
        let Some((method, scheme)) = self.choose(peer_hashes) else {
            let (key, hashes) = (self.key.kind(), peer_hashes.to_vec());
            return Some(Err(Cause::NoSignature { key, hashes }));
        };
        let parts = [octets.message, octets.peer_nonce, &octets.maced_id(prf), octets.int_auth];
        let signature = match make(&self.key, scheme, &parts)? {
            Ok(signature) => signature,
            Err(cause) => return Some(Err(cause)),
        };
        let mut data = Vec::new();
        if method == DIGITAL_SIGNATURE {
            let identifier = scheme.algorithm_identifier().unwrap_or_default();
            data.push(u8::try_from(identifier.len()).expect("algorithm identifiers are short"));
            data.extend_from_slice(identifier);
        }
        data.extend_from_slice(&signature);
        Some(Ok(Proof { method, data }))
    }

    /// CERT payloads, our own certificate first (RFC 7296 3.6).
    pub(crate) fn write_certificates(&self, chain: &mut Chain) {
        for certificate in &self.chain {
            chain.push(&Payload::Cert { encoding: X509_SIGNATURE, data: certificate });
        }
    }
}

/// Checks an AUTH payload with the key of the peer's certificate.
pub(crate) fn verify(
    prf: Prf,
    trust: &Trust,
    key: &PublicKey,
    octets: &SignedOctets<'_>,
    (method, data): (u8, &[u8]),
) -> Result<(), Cause> {
    let (scheme, signature) = match method {
        DIGITAL_SIGNATURE => {
            let split = data.split_first().and_then(|(length, rest)| rest.split_at_checked((*length).into()));
            let (identifier, signature) = split.ok_or(Cause::SignatureScheme("cut short".to_owned()))?;
            let scheme = Scheme::from_algorithm_identifier(identifier);
            (scheme.ok_or_else(|| Cause::SignatureScheme(hex(identifier)))?, signature)
        }
        RSA => (Scheme::RsaPkcs1Sha1, data),
        ECDSA_P256 => (Scheme::EcdsaP256Fixed, data),
        ECDSA_P384 => (Scheme::EcdsaP384Fixed, data),
        _ => (Scheme::EcdsaP521Fixed, data),
    };
    if scheme == Scheme::RsaPkcs1Sha1 && !trust.sha1 {
        return Err(Cause::SignatureScheme("RSA with SHA-1, which is not allowed here".to_owned()));
    }
    let parts = [octets.message, octets.peer_nonce, &octets.maced_id(prf), octets.int_auth];
    key.verify(scheme, &parts, signature).map_err(|error| Cause::WrongSignature { scheme, error })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(64).map(|b| format!("{b:02x}")).collect()
}

/// Tells the peer which hashes its signature may use (RFC 7427 4, RFC 8420 2).
pub(crate) fn write_hashes(chain: &mut Chain, sha1: bool) {
    let all: &[u16] = if sha1 { &[2, 3, 4, 5, 1] } else { &[2, 3, 4, 5] };
    let data: Vec<u8> = all.iter().flat_map(|id| id.to_be_bytes()).collect();
    chain.push(&Payload::Notify(Notify::new(notify::SIGNATURE_HASH_ALGORITHMS, &data)));
}

/// What the peer's signature check knows.
pub(crate) fn read_hashes(body: &Body<'_>) -> Vec<u16> {
    let data = body.notify(notify::SIGNATURE_HASH_ALGORITHMS).map(|n| n.data).unwrap_or_default();
    data.as_chunks::<2>().0.iter().take(16).map(|id| u16::from_be_bytes(*id)).collect()
}

/// Asks the peer for its certificate, naming the authorities (RFC 7296 3.7).
pub(crate) fn write_request<'a>(chain: &mut Chain, trusts: impl Iterator<Item = &'a Trust>) {
    let mut named: Vec<[u8; 20]> = Vec::new();
    for hash in trusts.flat_map(|t| &t.authorities) {
        if !named.contains(hash) && named.len() < MAX_AUTHORITIES {
            named.push(*hash);
        }
    }
    chain.push(&Payload::CertRequest { encoding: X509_SIGNATURE, data: named.as_flattened() });
}

/// The peer's certificates, its own first, where there are any and not too many.
pub(crate) fn read_certificates(body: &Body<'_>) -> Result<Vec<Vec<u8>>, Cause> {
    collected(body.certificates())
}

/// The same of a message of either version.
pub(crate) fn collected<'a>(all: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, Cause> {
    let chain: Vec<Vec<u8>> = all.map(<[u8]>::to_vec).collect();
    let bytes: usize = chain.iter().map(Vec::len).sum();
    if chain.is_empty() {
        // RFC 7296 3.6: others stand there too, and hash-and-URL was not asked for.
        return Err(Cause::MissingPayload("CERT (X.509)"));
    }
    if chain.len() > MAX_CERTIFICATES || bytes > MAX_CHAIN {
        return Err(Cause::LongChain { certificates: chain.len(), bytes });
    }
    Ok(chain)
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("key", &self.key)
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}
