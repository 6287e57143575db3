//! Whether a peer's certificate is to be trusted: a path to an authority of the tunnel, valid now, for the identity.

use std::time::{Duration, SystemTime};

use culvert_crypto::sign::PublicKey;
use culvert_ike::{CertificateRefused, Dn, Identity};
use culvert_pki::{Names, PkiError, Trust};

/// The key of a peer's certificate, if the chain (DER, the peer's own first) leads to one of the authorities (DER), holds
/// now, is in no revocation list and names the identity.
pub(crate) fn verify(
    chain: &[Vec<u8>],
    authorities: &[Vec<u8>],
    crls: &[Vec<u8>],
    identity: &Identity,
    now: SystemTime,
) -> Result<PublicKey, CertificateRefused> {
    let refuse = |what: String, mend: &str| CertificateRefused { what, mend: mend.to_owned() };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let verified = culvert_pki::verify(chain, Trust { authorities, crls }, now)
        .map_err(|error: PkiError| refuse(error.to_string(), error.mend()))?;
    if !names(&verified.names, identity) {
        let what = format!("it is not for {identity}, but for {}", describe(&verified.names));
        let mend = "have the peer's id put into its certificate as a subject alternative name, or set remote_id here and the peer's local id to a name in it";
        return Err(refuse(what, mend));
    }
    Ok(verified.key)
}

/// Whether the certificate is for the identity (RFC 4945 3.1, 5.1.3.6).
fn names(names: &Names, identity: &Identity) -> bool {
    match identity {
        Identity::Ipv4(a) => names.has_address((*a).into()),
        Identity::Ipv6(a) => names.has_address((*a).into()),
        Identity::Fqdn(name) => names.has_dns(name),
        Identity::Email(mailbox) => names.has_email(mailbox),
        Identity::Dn(name) => subject(names).is_some_and(|subject| subject == **name),
        Identity::KeyId(id) => names.has_key_id(id),
    }
}

fn subject(names: &Names) -> Option<Dn> {
    Dn::from_der(&names.subject).ok()
}

/// Whom a certificate is for, for people.
fn describe(names: &Names) -> String {
    let dns = names.dns.iter().filter_map(|n| Identity::parse(&format!("fqdn:{n}")).ok());
    let emails = names.emails.iter().filter_map(|n| Identity::parse(&format!("email:{n}")).ok());
    let mut all: Vec<String> = dns.chain(emails).map(|id| id.to_string()).collect();
    all.extend(names.addresses.iter().map(ToString::to_string));
    all.truncate(8);
    all.extend(subject(names).map(|name| name.to_string()));
    if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
}
