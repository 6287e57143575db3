//! X.509 for IKE: whether a peer's certificate is to be trusted, private keys from files, and a small authority.
//!
//! Certificates are judged by the rules of RFC 5280 with IKE's own of RFC 4945, on top of rustls-webpki, whose work on
//! hostile chains is bounded. Time is an argument, and so are revocation lists: nothing is fetched here.
//!
//! Knows nothing of IKE messages, of configuration files or of the network.

mod authority;
mod der;
mod error;
mod facts;
mod key;
mod names;
mod pem;
mod revocation;
mod time;
mod verify;

pub use authority::{AltName, Authority, AuthorityError, Request, Revoked, Subject, Usage};
pub use error::PkiError;
pub use facts::{CrlFacts, Facts};
pub use key::{KeyFileError, private_key};
pub use names::Names;
pub use pem::{PemError, blocks, decode, encode};
pub use revocation::{RevocationError, Sources, Status, crl_status, list_of, ocsp_request, ocsp_status};
pub use time::civil;
pub use verify::{MAX_CERTIFICATE_LEN, MAX_CERTIFICATES, Trust, Verified, verify};
