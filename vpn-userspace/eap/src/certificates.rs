//! Certificates in EAP-TLS: rustls asks for ours, and whether the other side's is trusted; the owner judges, and why it
//! refused is kept.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_crypto::SystemRandom;
use culvert_crypto::sign::{KeyKind, PrivateKey, PublicKey, Scheme};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
};

use crate::EapError;

/// Judges the other side's chain (DER, its own certificate first): the key of a certificate that is trusted. As server
/// it must be for the identity that the client presents; as client that identity is empty, and the judge knows whom the
/// certificate must name.
pub type CertificateJudge = dyn Fn(&[Vec<u8>], &str) -> Result<PublicKey, Untrusted> + Send + Sync;

/// Why a certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted {
    /// What the other side is told.
    pub alert: Doubt,
    /// What is wrong with it, and what to do; for people.
    pub what: String,
    /// What to do about it.
    pub mend: String,
    /// What this side expects.
    pub ours: String,
    /// What the certificate says.
    pub theirs: String,
}

/// What TLS can tell the other side about its certificate (RFC 8446 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// `unknown_ca`
    UnknownIssuer,
    /// `certificate_expired`
    Expired,
    /// `certificate_revoked`
    Revoked,
    /// `bad_certificate`
    Other,
}

/// One side of EAP-TLS: what it proves itself by, and who judges the other.
#[derive(Clone)]
pub struct TlsSide {
    /// DER, the own certificate first.
    pub chain: Vec<Vec<u8>>,
    /// The own certificate's key.
    pub key: Arc<PrivateKey>,
    /// Who judges the other side's certificate.
    pub judge: Arc<CertificateJudge>,
}

/// Which TLS a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// 1.3 and 1.2.
    #[default]
    Both,
    /// 1.2 only, for tests of it.
    Only12,
}

impl TlsVersions {
    pub(crate) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Both => rustls::DEFAULT_VERSIONS,
            Self::Only12 => &ONLY_12,
        }
    }
}

static ONLY_12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];

impl TlsSide {
    fn own(&self) -> Arc<SingleCertAndKey> {
        let chain = self.chain.iter().map(|c| CertificateDer::from(c.as_slice()).into_owned()).collect();
        let key = Arc::new(Key(Arc::clone(&self.key)));
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
    }

    /// For one run as client, and where its verdict will stand.
    pub(crate) fn client(&self) -> Result<(Arc<ClientConfig>, Arc<Verdict>), EapError> {
        let verdict = Arc::new(Verdict::new(&self.judge, ""));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::DEFAULT_VERSIONS);
        let builder = builder.map_err(tls)?.dangerous();
        let builder = builder.with_custom_certificate_verifier(Arc::clone(&verdict) as _);
        let mut config = builder.with_client_cert_resolver(self.own());
        config.resumption = Resumption::disabled();
        // The server is known by its certificate; the name is nobody else's business.
        config.enable_sni = false;
        Ok((Arc::new(config), verdict))
    }

    /// For one run as server of a client that presents this identity.
    pub(crate) fn server(
        &self,
        identity: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<(Arc<ServerConfig>, Arc<Verdict>), EapError> {
        let verdict = Arc::new(Verdict::new(&self.judge, identity));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.map_err(tls)?.with_client_cert_verifier(Arc::clone(&verdict) as _);
        let mut config = builder.with_cert_resolver(self.own());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((Arc::new(config), verdict))
    }
}

fn tls(error: Error) -> EapError {
    EapError::Tls(error.to_string())
}

/// The judgement of one run.
pub(crate) struct Verdict {
    judge: Arc<CertificateJudge>,
    identity: String,
    given: Mutex<Option<Result<PublicKey, Untrusted>>>,
}

impl Verdict {
    fn new(judge: &Arc<CertificateJudge>, identity: &str) -> Self {
        Self { judge: Arc::clone(judge), identity: identity.to_owned(), given: Mutex::new(None) }
    }

    /// Why the other side's certificate was refused, if it was.
    pub(crate) fn refused(&self) -> Option<Untrusted> {
        match &*self.given.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Err(untrusted)) => Some(untrusted.clone()),
            _ => None,
        }
    }

    /// A certificate was judged, and trusted.
    pub(crate) fn trusted(&self) -> bool {
        matches!(&*self.given.lock().unwrap_or_else(PoisonError::into_inner), Some(Ok(_)))
    }

    fn judge(&self, own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let chain: Vec<Vec<u8>> = std::iter::once(own).chain(others).map(|c| c.to_vec()).collect();
        let given = (self.judge)(&chain, &self.identity);
        let told = match &given {
            Ok(_) => Ok(()),
            Err(untrusted) => Err(Error::InvalidCertificate(match untrusted.alert {
                Doubt::UnknownIssuer => CertificateError::UnknownIssuer,
                Doubt::Expired => CertificateError::Expired,
                Doubt::Revoked => CertificateError::Revoked,
                Doubt::Other => CertificateError::BadEncoding,
            })),
        };
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
        told
    }

    fn check(&self, message: &[u8], dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        let bad = || Error::InvalidCertificate(CertificateError::BadSignature);
        let (scheme, _) = SCHEMES.iter().find(|(_, wire)| *wire == dss.scheme).ok_or_else(bad)?;
        match &*self.given.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(key)) => key
                .verify(*scheme, &[message], dss.signature())
                .map(|()| HandshakeSignatureValid::assertion())
                .map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verdict")
    }
}

/// Our schemes and TLS's. In TLS 1.3 those of ECDSA name the curve, too (RFC 8446 4.2.3).
const SCHEMES: [(Scheme, SignatureScheme); 10] = [
    (Scheme::EcdsaSha256, SignatureScheme::ECDSA_NISTP256_SHA256),
    (Scheme::EcdsaSha384, SignatureScheme::ECDSA_NISTP384_SHA384),
    (Scheme::EcdsaSha512, SignatureScheme::ECDSA_NISTP521_SHA512),
    (Scheme::Ed25519, SignatureScheme::ED25519),
    (Scheme::RsaPssSha256, SignatureScheme::RSA_PSS_SHA256),
    (Scheme::RsaPssSha384, SignatureScheme::RSA_PSS_SHA384),
    (Scheme::RsaPssSha512, SignatureScheme::RSA_PSS_SHA512),
    (Scheme::RsaPkcs1Sha256, SignatureScheme::RSA_PKCS1_SHA256),
    (Scheme::RsaPkcs1Sha384, SignatureScheme::RSA_PKCS1_SHA384),
    (Scheme::RsaPkcs1Sha512, SignatureScheme::RSA_PKCS1_SHA512),
];

fn schemes() -> Vec<SignatureScheme> {
    SCHEMES.iter().map(|(_, wire)| *wire).collect()
}

/// RFC 8446 4.2.3: the curve must be the scheme's.
fn fits_1_3(key: &PublicKey, scheme: SignatureScheme) -> bool {
    match key.kind() {
        KeyKind::EcdsaP256 => scheme == SignatureScheme::ECDSA_NISTP256_SHA256,
        KeyKind::EcdsaP384 => scheme == SignatureScheme::ECDSA_NISTP384_SHA384,
        KeyKind::EcdsaP521 => scheme == SignatureScheme::ECDSA_NISTP521_SHA512,
        KeyKind::Rsa(_) | KeyKind::Ed25519 => true,
    }
}

impl Verdict {
    fn check_1_3(
        &self,
        message: &[u8],
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let fits = match &*self.given.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(key)) => fits_1_3(key, dss.scheme),
            _ => false,
        };
        if !fits {
            return Err(Error::InvalidCertificate(CertificateError::BadSignature));
        }
        self.check(message, dss)
    }
}

impl ServerCertVerifier for Verdict {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_1_3(message, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Verdict {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // RFC 8446 4.2.4 lets them out: clients have one certificate for this.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_1_3(message, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// A private key of ours at TLS's service.
#[derive(Debug)]
struct Key(Arc<PrivateKey>);

#[derive(Debug)]
struct KeyWith(Arc<PrivateKey>, Scheme, SignatureScheme);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let named = |own: &Scheme| SCHEMES.iter().find(|(scheme, _)| scheme == own);
        let mut own = self.0.schemes().iter().filter_map(named);
        let (scheme, wire) = own.find(|(_, wire)| offered.contains(wire))?;
        Some(Box::new(KeyWith(Arc::clone(&self.0), *scheme, *wire)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.kind() {
            KeyKind::Rsa(_) => SignatureAlgorithm::RSA,
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => SignatureAlgorithm::ECDSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

impl Signer for KeyWith {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.0.sign(self.1, &[message], &mut SystemRandom::new());
        signed.map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.2
    }
}
