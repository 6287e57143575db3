//! Whether a peer's certificate is trusted: its chain by `culvert-pki`, then whether it is for the peer, and what people
//! are told of it.

use std::time::{Duration, SystemTime};

use culvert_eap::Doubt;
use culvert_ike::{CertificateRefused, Dn, Identity};
use culvert_pki::{Facts, Names, PkiError, Trust, Verified, civil};

/// Why a certificate is not trusted, for people and for TLS.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: CertificateRefused,
    pub(crate) doubt: Doubt,
}

/// Whom a certificate must be for.
#[derive(Clone, Copy)]
pub(crate) enum Expected<'a> {
    /// An IKE peer or a server; may be a pattern.
    Peer(&'a Identity),
    /// A user, who may be called by the common name only (RFC 5216 5.2).
    User(&'a Identity),
}

/// A peer's certificate, if the chain (DER, the peer's own first) leads to one of the authorities (DER), holds
/// now, is in no revocation list and names the identity, or one of those whom a pattern stands for.
pub(crate) fn verify(
    chain: &[Vec<u8>],
    authorities: &[Vec<u8>],
    crls: &[Vec<u8>],
    expected: Expected<'_>,
    now: SystemTime,
) -> Result<Verified, Refused> {
    let (Expected::Peer(identity) | Expected::User(identity)) = expected;
    let refuse = |doubt, what: String, mend: &str| {
        let theirs = chain.first().map(|own| about(own)).unwrap_or_default();
        let ours = format!("trusts {}; expects {identity}", trusted(authorities));
        Refused { doubt, why: CertificateRefused { what, mend: mend.to_owned(), ours, theirs } }
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let verified = culvert_pki::verify(chain, Trust { authorities, crls }, now)
        .map_err(|error: PkiError| refuse(doubt(&error), error.to_string(), error.mend()))?;
    let user = matches!(expected, Expected::User(_)) && is_user(&verified.names, identity);
    if !user && !names(&verified.names, identity) {
        let what = format!("it is not for {identity}, but for {}", describe(&verified.names));
        let mend = "have the peer's id put into its certificate as a subject alternative name, or set remote_id here and the peer's local id to a name in it";
        return Err(refuse(Doubt::Other, what, mend));
    }
    Ok(verified)
}

fn doubt(error: &PkiError) -> Doubt {
    match error {
        PkiError::Expired { .. } | PkiError::NotYetValid { .. } => Doubt::Expired,
        PkiError::UnknownIssuer | PkiError::AuthorityOutOfDate => Doubt::UnknownIssuer,
        PkiError::Revoked => Doubt::Revoked,
        _ => Doubt::Other,
    }
}

/// Whether the certificate is for the identity (RFC 4945 3.1, 5.1.3.6).
fn names(names: &Names, identity: &Identity) -> bool {
    match identity {
        Identity::Fqdn(_) if identity.is_pattern() => {
            names.dns.iter().any(|name| identity.matches(&Identity::Fqdn(name.clone())))
        }
        Identity::Email(_) if identity.is_pattern() => {
            names.emails.iter().any(|name| identity.matches(&Identity::Email(name.clone())))
        }
        Identity::Ipv4(a) => names.has_address((*a).into()),
        Identity::Ipv6(a) => names.has_address((*a).into()),
        Identity::Fqdn(name) => names.has_dns(name),
        Identity::Email(mailbox) => names.has_email(mailbox),
        Identity::Dn(_) => {
            let own = subject(names).map(|subject| Identity::Dn(Box::new(subject)));
            own.is_some_and(|own| identity.matches(&own))
        }
        Identity::KeyId(id) => names.has_key_id(id),
    }
}

/// RFC 5216 5.2: a certificate without alternative names is known by its subject; a bare name means the common name.
fn is_user(names: &Names, identity: &Identity) -> bool {
    let Identity::Fqdn(name) = identity else { return false };
    names.dns.is_empty()
        && names.emails.is_empty()
        && names.addresses.is_empty()
        && !identity.is_pattern()
        && subject(names).is_some_and(|subject| subject.common_name() == Some(name.as_str()))
}

fn subject(names: &Names) -> Option<Dn> {
    Dn::from_der(&names.subject).ok()
}

/// What a certificate (DER) says, in one line: whose it is, by whom, how long it lasts.
pub(crate) fn about(certificate: &[u8]) -> String {
    let Ok(facts) = Facts::of(certificate) else { return "one that cannot be read".to_owned() };
    let date = |unix| {
        let (year, month, day, ..) = civil(unix);
        format!("{year:04}-{month:02}-{day:02}")
    };
    format!(
        "for {}, by {}, valid {} to {}",
        describe(&facts.names),
        facts.issuer,
        date(facts.not_before),
        date(facts.not_after)
    )
}

/// The authorities that are trusted, for people.
fn trusted(authorities: &[Vec<u8>]) -> String {
    let names: Vec<String> =
        authorities.iter().take(4).filter_map(|a| Facts::of(a).ok()).map(|facts| facts.subject).collect();
    match authorities.len() - names.len().min(authorities.len()) {
        0 if names.is_empty() => "nobody".to_owned(),
        0 => names.join("; "),
        more => format!("{} and {more} more", names.join("; ")),
    }
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
