//! An authority with one certificate for the responder and one for all peers, ECDSA on P-256: made, written for
//! strongSwan, read, and judged.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use culvert_crypto::SystemRandom;
use culvert_crypto::sign::{KeyKind, PrivateKey, PublicKey, generate};
use culvert_ike::{Auth, CertificateRefused, Identity, LocalAuth, RemoteAuth, Signer, Trust};
use culvert_pki::{AltName, Authority, Request, Subject, Usage};

/// The identity of the responder, as of `responder.pem`.
const RESPONDER: &str = "responder.load.test";
/// That of all peers, as of `peers.pem`.
const PEERS: &str = "peers.load.test";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes them in a folder: `ca.pem`, `responder.pem`, `responder.key`, `peers.pem`, `peers.key`.
pub(crate) fn make(folder: &Path) -> Result<()> {
    let random = &mut SystemRandom::new();
    let key = || -> Result<(PrivateKey, String)> {
        let der = generate(KeyKind::EcdsaP256, &mut SystemRandom::new())?;
        Ok((PrivateKey::from_pkcs8(&der)?, culvert_pki::encode("PRIVATE KEY", &der)))
    };
    let (from, until) = (now() - 60, now() + 24 * 3600);
    let authority = Authority::create(key()?.0, &Subject::parse("Load CA")?, (from, until + 60), random)?;
    fs::write(folder.join("ca.pem"), culvert_pki::encode("CERTIFICATE", authority.certificate()))?;
    for (file, name) in [("responder", RESPONDER), ("peers", PEERS)] {
        let (key, pem) = key()?;
        let request = Request {
            subject: Subject::parse(name)?,
            names: vec![AltName::parse(name)?],
            key: key.public_key().clone(),
            usage: Usage::Gateway,
            not_before: from,
            not_after: until,
            sources: culvert_pki::Sources::default(),
        };
        let certificate = authority.issue(&request, random)?;
        fs::write(folder.join(file).with_extension("pem"), culvert_pki::encode("CERTIFICATE", &certificate))?;
        fs::write(folder.join(file).with_extension("key"), pem)?;
    }
    Ok(())
}

/// What one side knows.
pub(crate) struct Certificates {
    authorities: Vec<Vec<u8>>,
    pub(crate) auth: Auth,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
}

impl Certificates {
    pub(crate) fn read(folder: &Path, initiates: bool) -> Result<Self> {
        let read = |name: &str| fs::read(folder.join(name)).with_context(|| format!("cannot read {name}"));
        let certificate = |name: &str| {
            let text = read(name)?;
            let found = culvert_pki::blocks(&text).find(|(label, _)| *label == "CERTIFICATE");
            found
                .and_then(|(_, block)| culvert_pki::decode(block))
                .with_context(|| format!("{name} is no certificate"))
        };
        let (own, local_id, remote_id) =
            if initiates { ("peers", PEERS, RESPONDER) } else { ("responder", RESPONDER, PEERS) };
        let signer = Signer {
            key: Arc::new(culvert_pki::private_key(&read(&format!("{own}.key"))?, None)?),
            chain: vec![certificate(&format!("{own}.pem"))?],
            schemes: Vec::new(),
            sha1: false,
            about: String::new(),
        };
        Ok(Self {
            authorities: vec![certificate("ca.pem")?],
            auth: Auth {
                local: LocalAuth::Signature(signer),
                // No authority is asked for by its hash: both sides have but one certificate.
                remote: RemoteAuth::Certificate(Trust::default()),
            },
            local_id: Identity::parse(local_id)?,
            remote_id: Identity::parse(remote_id)?,
        })
    }

    /// As the daemon judges: the path, the time, the name.
    pub(crate) fn judge(
        &self,
        identity: &Identity,
        chain: &[Vec<u8>],
    ) -> Result<PublicKey, CertificateRefused> {
        let judged = || -> Result<PublicKey> {
            let trust = culvert_pki::Trust { authorities: &self.authorities, ..Default::default() };
            let verified = culvert_pki::verify(chain, trust, now())?;
            let named = matches!(identity, Identity::Fqdn(name) if verified.names.has_dns(name));
            ensure!(named, "the certificate is not for {identity}");
            Ok(verified.key)
        };
        judged().map_err(|error| CertificateRefused {
            what: format!("{error:#}"),
            mend: "make the certificates again".to_owned(),
            ..CertificateRefused::default()
        })
    }
}
