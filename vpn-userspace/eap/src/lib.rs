//! EAP (RFC 3748): MSCHAPv2 and TLS, as client and as server. Messages in, messages and a master session key out.
//!
//! [`Client`] and [`Server`] know nothing of IKE, sockets or retransmission: whoever carries the messages does that. Both
//! are strict about order: a Success before the method has succeeded on our side, too, is an error, whatever its
//! state. The server of an EAP method proves itself to the client by other means before (RFC 7296 2.16), or by the
//! method (EAP-TLS, and MSCHAPv2 by its authenticator response).
//!
//! MSCHAPv2 draws its randomness from what it is handed; EAP-TLS is rustls', which draws its own. Certificates are judged by
//! whoever is handed in, who knows the time and what is revoked.

mod certificates;
mod client;
mod error;
mod mschapv2;
mod packet;
mod radius;
mod server;
#[cfg(test)]
mod tests;
mod tls;

pub use certificates::{CertificateJudge, Doubt, TlsSide, TlsVersions, Untrusted};
pub use client::{Client, ClientConfig, ClientMethod, ClientStep};
pub use error::EapError;
pub use packet::MAX_MESSAGE;
pub use radius::{AccessRequest, Answer, RadiusError, Verdict as RadiusVerdict};
pub use server::{Server, ServerConfig, ServerMethod, ServerStep, Users};

/// EAP method types (RFC 3748 5, and the registry).
pub(crate) mod kind {
    pub(crate) const IDENTITY: u8 = 1;
    pub(crate) const NOTIFICATION: u8 = 2;
    pub(crate) const NAK: u8 = 3;
    pub(crate) const TLS: u8 = 13;
    pub(crate) const MSCHAPV2: u8 = 26;

    /// The name of a method, for people.
    pub(crate) fn name(kind: u8) -> String {
        match kind {
            IDENTITY => "EAP-Identity".to_owned(),
            NOTIFICATION => "EAP-Notification".to_owned(),
            NAK => "EAP-NAK".to_owned(),
            4 => "EAP-MD5".to_owned(),
            6 => "EAP-GTC".to_owned(),
            TLS => "EAP-TLS".to_owned(),
            18 => "EAP-SIM".to_owned(),
            21 => "EAP-TTLS".to_owned(),
            23 => "EAP-AKA".to_owned(),
            25 => "EAP-PEAP".to_owned(),
            MSCHAPV2 => "EAP-MSCHAPv2".to_owned(),
            other => format!("EAP method {other}"),
        }
    }
}
