//! Why a certificate is not trusted, and what to do.

use culvert_crypto::sign::BadKey;

/// Why a peer's certificate is not trusted. `Display` says what is wrong with it ("it ..."); [`mend`](Self::mend) what to
/// do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// The peer sent none.
    #[error("there is none")]
    None,
    /// More certificates than any chain needs, or larger ones.
    #[error("its chain is too long or too large")]
    TooMuch,
    /// Not X.509, or not by its rules.
    #[error("it cannot be read")]
    Malformed,
    /// X.509 before version 3.
    #[error("it is not of version 3")]
    Version,
    /// Its time is over (RFC 5280 4.1.2.5).
    #[error("it expired {days} days ago")]
    Expired {
        /// Whole days since.
        days: u64,
    },
    /// Its time has not come.
    #[error("it is valid only in {hours} hours")]
    NotYetValid {
        /// Whole hours until then.
        hours: u64,
    },
    /// No path to an authority of ours.
    #[error("no authority of this tunnel vouches for it")]
    UnknownIssuer,
    /// The path ends at an authority whose own certificate is out of date.
    #[error("the certificate of the authority that vouches for it is out of date")]
    AuthorityOutOfDate,
    /// An authority's certificate where a peer's should be.
    #[error("it is an authority's")]
    AuthorityAsPeer,
    /// A peer's certificate where an authority's should be.
    #[error("a certificate in its chain is not an authority's")]
    PeerAsAuthority,
    /// Extended key usages for something else (RFC 4945 5.1.3.12).
    #[error("its extended key usage is for something else")]
    ExtendedUsage,
    /// A key usage without digitalSignature and nonRepudiation (RFC 4945 5.1.3.2).
    #[error("its key usage does not allow signatures")]
    Usage,
    /// An authority in the chain whose key usage lacks keyCertSign (RFC 5280 4.2.1.3).
    #[error("an authority in its chain may not sign certificates")]
    AuthorityUsage,
    /// A name outside of what an authority may vouch for (RFC 5280 4.2.1.10).
    #[error("an authority in its chain may not vouch for its names")]
    NameConstraint,
    /// More authorities below one than it allows (RFC 5280 4.2.1.9), or than anyone has.
    #[error("its chain has more authorities than are allowed")]
    PathLength,
    /// A signature in the chain is wrong.
    #[error("a signature in its chain is wrong")]
    Signature,
    /// A signature algorithm that is not accepted: SHA-1, MD5, or an unknown one.
    #[error("a signature in its chain is of a kind that is not accepted")]
    Algorithm,
    /// A revocation list names it, or an authority in its chain (RFC 5280 5).
    #[error("it has been revoked")]
    Revoked,
    /// A revocation list that is out of date tells nothing any more.
    #[error("the revocation list of its authority is out of date")]
    RevocationStale,
    /// A file that should be a revocation list.
    #[error("a revocation list cannot be read")]
    RevocationMalformed,
    /// A key that is too weak, or of no use.
    #[error("{0}")]
    Key(#[from] BadKey),
    /// The rest.
    #[error("{0}")]
    Other(String),
}

impl PkiError {
    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::None => "give the peer a certificate",
            Self::TooMuch => {
                "let the peer send its own certificate and the authorities between it and the root"
            }
            Self::Malformed => "give the peer an X.509 certificate of version 3",
            Self::Version => "have it made anew by a current tool",
            Self::Expired { .. } => "renew it; and see that this gateway's clock is right",
            Self::NotYetValid { .. } => "see that this gateway's clock is right",
            Self::UnknownIssuer => {
                "add its authority's certificate to `ca`, or let the peer send the certificates between it and that authority"
            }
            Self::AuthorityOutOfDate => {
                "put the authority's current certificate into `ca`; and see that this gateway's clock is right"
            }
            Self::AuthorityAsPeer => "give the peer a certificate of its own, with CA:FALSE",
            Self::PeerAsAuthority => "have it made by an authority, whose certificate has CA:TRUE",
            Self::ExtendedUsage => {
                "have it made with serverAuth, clientAuth or ipsecIKE, or without extended key usages"
            }
            Self::Usage => "have it made with the key usage digitalSignature",
            Self::AuthorityUsage => {
                "have the authority's certificate made anew with the key usage keyCertSign"
            }
            Self::NameConstraint => "have it made by an authority that may vouch for these names",
            Self::PathLength => "have it made by an authority nearer to the root",
            Self::Signature => {
                "give the peer its certificate anew: it was changed, or another authority of that name made it"
            }
            Self::Algorithm => "have it made anew with SHA-256 or better",
            Self::Revoked => "give the peer a new certificate; if it was revoked by mistake too",
            Self::RevocationStale => "put the authority's current list into `crl`; culvert pki crl makes one",
            Self::RevocationMalformed => "put a list in PEM or DER into `crl`",
            Self::Key(_) => "give the peer a certificate with another key",
            Self::Other(_) => "have the certificate made anew by the rules of RFC 5280",
        }
    }
}
