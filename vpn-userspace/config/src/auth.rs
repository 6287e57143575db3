//! Who proves what to whom: `auth` and `remote_auth` of a tunnel, and the files that they need.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use culvert_crypto::NtHash;
use culvert_ike::{Identity, Psk};
use zeroize::Zeroizing;

use crate::credentials::{Authorities, Credentials, CredentialsError, PrivateKeyPem};
use crate::error::Fault;
use crate::file;
use crate::model::{LocalProof, RemoteProof, Revocation, RevocationPolicy, TunnelAuth};
use crate::radius::RawRadius;
use crate::secret::{self, FileKind, Files, SecretError};
use crate::section::{At, Section, missing};

/// A way to prove an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Psk,
    Cert,
    EapMschapv2,
    Xauth,
    EapTls,
    EapRadius,
}

impl Method {
    const WORDS: [(&'static str, Self); 6] = [
        ("psk", Self::Psk),
        ("cert", Self::Cert),
        ("eap-mschapv2", Self::EapMschapv2),
        ("xauth", Self::Xauth),
        ("eap-tls", Self::EapTls),
        ("eap-radius", Self::EapRadius),
    ];

    fn is_eap(self) -> bool {
        matches!(self, Self::EapMschapv2 | Self::EapTls | Self::EapRadius)
    }
}

/// The keys of a tunnel that are about authentication.
#[derive(Clone, Default)]
pub(crate) struct RawAuth {
    local: Option<At<Method>>,
    remote: Option<At<Method>>,
    psk_file: Option<At<String>>,
    certificate: Option<At<String>>,
    private_key: Option<At<String>>,
    private_key_password_file: Option<At<String>>,
    crl: Option<At<Vec<At<String>>>>,
    ca: Option<At<Vec<At<String>>>>,
    allow_sha1: Option<At<bool>>,
    eap_identity: Option<At<String>>,
    eap_password_file: Option<At<String>>,
    eap_server_id: Option<At<Identity>>,
    users_file: Option<At<String>>,
    eap_only: Option<At<EapOnly>>,
    radius: Option<RawRadius>,
    revocation: Option<At<RevocationPolicy>>,
    ocsp_url: Option<At<String>>,
    crl_url: Option<At<String>>,
}

/// `eap_only`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EapOnly {
    No,
    Yes,
    /// Also with a password.
    Insist,
}

impl RawAuth {
    pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Self {
        let path =
            |text: &At<&str>, faults: &mut Vec<Fault>| {
                let sound = !text.get_ref().is_empty() && !text.get_ref().contains('\0');
                if !sound {
                    faults.push(Fault::new("an empty path names no file").at(text.span(), "no path").help(
                        "write a path such as \"secrets/NAME.psk\"; it is relative to this file's folder",
                    ));
                }
                sound.then(|| (*text.get_ref()).to_owned())
            };
        Self {
            local: s.word(faults, "auth", &Method::WORDS, &[]),
            remote: s.word(faults, "remote_auth", &Method::WORDS, &[]),
            psk_file: s.parsed(faults, "psk_file", "the path of a file", path),
            certificate: s.parsed(faults, "certificate", "the path of a PEM file", path),
            private_key: s.parsed(faults, "private_key", "the path of a PEM file", path),
            private_key_password_file: s.parsed(
                faults,
                "private_key_password_file",
                "the path of a file",
                path,
            ),
            crl: s.list(faults, "crl", "the path of a revocation list or a list of them", true, path),
            ca: s.list(faults, "ca", "the path of a PEM file or a list of them", true, path),
            allow_sha1: s.boolean(faults, "allow_sha1_signatures"),
            eap_identity: s.parsed(faults, "eap_identity", "the user's name", user_name),
            eap_password_file: s.parsed(faults, "eap_password_file", "the path of a file", path),
            eap_server_id: s.parsed(faults, "eap_server_id", "an identity", file::identity),
            users_file: s.parsed(faults, "users_file", "the path of a file", path),
            eap_only: s.word(faults, "eap_only", &EapOnly::WORDS, &[]),
            revocation: s.word(faults, "revocation", &RevocationPolicy::WORDS, &[]),
            ocsp_url: s.parsed(faults, "ocsp_url", "an http:// URL", url),
            crl_url: s.parsed(faults, "crl_url", "an http:// URL", url),
            radius: s.section(faults, "radius", "`radius`".to_owned()).map(|s| RawRadius::read(s, faults)),
        }
    }

    /// Where a way to authenticate is asked for that this version of IKE does not have.
    pub(crate) fn unsayable(&self, v1: bool) -> Option<Range<usize>> {
        let fits = match self.methods() {
            (Method::Psk, Method::Psk) | (Method::Cert, Method::Cert) => true,
            (Method::Xauth, Method::Cert) | (Method::Cert, Method::Xauth) => v1,
            (local, remote) => !v1 && local != Method::Xauth && remote != Method::Xauth,
        };
        let said = [&self.remote, &self.local].into_iter().flatten().map(At::span).next();
        let files = [self.certificate.as_ref().map(At::span), self.ca.as_ref().map(At::span)];
        said.or(files.into_iter().flatten().next()).filter(|_| !fits)
    }

    /// Whether a side proves itself by nothing but a user of XAuth: this one, the peer.
    pub(crate) fn hybrid(&self) -> (bool, bool) {
        let (local, remote) = self.methods();
        (local == Method::Xauth, remote == Method::Xauth)
    }

    /// How each side proves itself, as it is said or as it follows from the files.
    fn methods(&self) -> (Method, Method) {
        let local = match &self.local {
            Some(local) => *local.get_ref(),
            None if self.certificate.is_some() => Method::Cert,
            None => Method::Psk,
        };
        let remote = match &self.remote {
            Some(remote) => *remote.get_ref(),
            None if self.ca.is_some() => Method::Cert,
            // RFC 7296 2.16: who is asked for EAP is sure of whom it tells.
            None if local.is_eap() && self.psk_file.is_some() => Method::Psk,
            None if local.is_eap() || local == Method::Xauth => Method::Cert,
            None => local,
        };
        (local, remote)
    }

    /// The users file, for another use than EAP's.
    pub(crate) fn take_users_file(&mut self) -> Option<At<String>> {
        self.users_file.take()
    }

    /// Takes what is not said here from another tunnel.
    pub(crate) fn fill(&mut self, other: &Self) {
        fn fill<T: Clone>(own: &mut Option<At<T>>, other: &Option<At<T>>) {
            if own.is_none() {
                own.clone_from(other);
            }
        }
        fill(&mut self.local, &other.local);
        fill(&mut self.remote, &other.remote);
        fill(&mut self.psk_file, &other.psk_file);
        fill(&mut self.certificate, &other.certificate);
        fill(&mut self.private_key, &other.private_key);
        fill(&mut self.private_key_password_file, &other.private_key_password_file);
        fill(&mut self.crl, &other.crl);
        fill(&mut self.ca, &other.ca);
        fill(&mut self.allow_sha1, &other.allow_sha1);
        fill(&mut self.eap_identity, &other.eap_identity);
        fill(&mut self.eap_password_file, &other.eap_password_file);
        fill(&mut self.eap_server_id, &other.eap_server_id);
        fill(&mut self.users_file, &other.users_file);
        fill(&mut self.eap_only, &other.eap_only);
        fill(&mut self.revocation, &other.revocation);
        fill(&mut self.ocsp_url, &other.ocsp_url);
        fill(&mut self.crl_url, &other.crl_url);
        if self.radius.is_none() {
            self.radius.clone_from(&other.radius);
        }
    }

    /// Reads the files. `title` and `span`: the tunnel's; `faulty`: keys of it were wrong already.
    pub(crate) fn check(
        &self,
        (title, span, faulty): (&str, Range<usize>, bool),
        folder: &Path,
        files: Files<'_>,
        faults: &mut Vec<Fault>,
    ) -> Option<TunnelAuth> {
        let (local, remote) = self.methods();
        let lacks = |key: &str, mend: &str, faults: &mut Vec<Fault>| {
            if !faulty {
                faults.push(missing(title, span.clone(), key, mend));
            }
        };
        if local == Method::EapRadius {
            let at = self.local.as_ref().map_or(span.clone(), At::span);
            faults.push(
                Fault::new("RADIUS servers know clients; this side proves itself by something of its own")
                    .at(at, "for remote_auth only")
                    .help("write remote_auth = \"eap-radius\", and auth = \"cert\""),
            );
            return None;
        }
        if local.is_eap() && remote.is_eap() {
            let at = self.remote.as_ref().map_or(span.clone(), At::span);
            faults.push(
                Fault::new("EAP proves the client; the server needs a certificate or a key")
                    .at(at, "EAP on both sides")
                    .help("write auth = \"cert\" on the server, and remote_auth = \"cert\" on the client"),
            );
            return None;
        }
        let uses = |method| local == method || remote == method;
        let eap_only = self.check_eap_only(local, remote, faults)?;
        self.refuse_idle(&uses, local, remote, faults);
        let allow_sha1 = self.allow_sha1.as_ref().is_some_and(|a| *a.get_ref());
        let psk = match &self.psk_file {
            Some(file) if uses(Method::Psk) => read_psk(file, folder, &mut *files, faults),
            None if uses(Method::Psk) => {
                let mend = "name the file with the pre-shared key: psk_file = \"secrets/NAME.psk\"";
                lacks("psk_file", mend, faults);
                None
            }
            _ => None,
        };
        let credentials = if with_certificate(local, remote) {
            for (key, value) in [("certificate", &self.certificate), ("private_key", &self.private_key)] {
                if value.is_none() {
                    lacks(key, &format!("name the PEM file: {key} = \"pki/NAME.pem\""), faults);
                }
            }
            let (certificate, key) = (self.certificate.as_ref()?, self.private_key.as_ref()?);
            let password = self.private_key_password_file.as_ref();
            read_credentials(certificate, (key, password), folder, &mut *files, faults)
        } else {
            None
        };
        let authorities = match &self.ca {
            Some(ca) if with_authorities(local, remote) => {
                read_authorities(ca, self.crl.as_ref(), folder, &mut *files, faults)
            }
            None if with_authorities(local, remote) => {
                let mend =
                    "name the certificates of the authorities that vouch for peers: ca = [\"pki/ca.pem\"]";
                lacks("ca", mend, faults);
                None
            }
            _ => None,
        };
        let local = match local {
            Method::Psk => psk.clone().map(LocalProof::Psk),
            Method::Xauth => Some(LocalProof::User),
            Method::Cert => {
                credentials.clone().map(|credentials| LocalProof::Certificate { credentials, allow_sha1 })
            }
            Method::EapTls => match (credentials.clone(), authorities.clone()) {
                (Some(credentials), Some(authorities)) => Some(LocalProof::EapTls {
                    user: self.eap_identity.as_ref().map(|user| user.get_ref().clone()),
                    credentials,
                    authorities,
                    server: self.eap_server_id.as_ref().map(|id| id.get_ref().clone()),
                }),
                _ => None,
            },
            // Refused above.
            Method::EapRadius => None,
            Method::EapMschapv2 => {
                if self.eap_identity.is_none() {
                    lacks("eap_identity", "write the user's name: eap_identity = \"NAME\"", faults);
                }
                if self.eap_password_file.is_none() {
                    let mend =
                        "name the file with the password: eap_password_file = \"secrets/NAME.password\"";
                    lacks("eap_password_file", mend, faults);
                }
                let user = self.eap_identity.as_ref()?.get_ref().clone();
                let hash = read_password(self.eap_password_file.as_ref()?, folder, &mut *files, faults)?;
                Some(LocalProof::EapMschapv2 { user, hash })
            }
        };
        let remote = match remote {
            Method::Psk => psk.map(RemoteProof::Psk),
            Method::Xauth => Some(RemoteProof::User),
            Method::Cert => {
                let revocation = self.revocation();
                authorities.map(|authorities| RemoteProof::Certificate {
                    authorities,
                    allow_sha1,
                    revocation,
                })
            }
            Method::EapTls => match (credentials, authorities) {
                (Some(credentials), Some(authorities)) => {
                    Some(RemoteProof::EapTls { credentials, authorities })
                }
                _ => None,
            },
            Method::EapRadius => match &self.radius {
                Some(radius) => radius.check(folder, &mut *files, faults).map(RemoteProof::EapRadius),
                None => {
                    let mend = "name the servers: radius = { servers = [\"192.0.2.5\"], secret_files = [\"secrets/radius\"] }";
                    lacks("radius", mend, faults);
                    None
                }
            },
            Method::EapMschapv2 => match &self.users_file {
                Some(file) => {
                    let hash = |password: &str| Some(NtHash::of(password));
                    read_users(file, folder, &mut *files, faults, hash).map(RemoteProof::EapMschapv2)
                }
                None => {
                    let mend = "name the file with users and passwords: users_file = \"secrets/users\"";
                    lacks("users_file", mend, faults);
                    None
                }
            },
        };
        Some(TunnelAuth { local: local?, remote: remote?, eap_only })
    }

    fn revocation(&self) -> Revocation {
        let url = |at: &Option<At<String>>| at.as_ref().map(|url| url.get_ref().clone());
        Revocation {
            policy: self.revocation.as_ref().map_or(RevocationPolicy::No, |p| *p.get_ref()),
            ocsp_url: url(&self.ocsp_url),
            crl_url: url(&self.crl_url),
        }
    }

    /// RFC 5998 3: only methods in which both sides prove themselves and get a key; MSCHAPv2 does, at a price.
    fn check_eap_only(&self, local: Method, remote: Method, faults: &mut Vec<Fault>) -> Option<bool> {
        let Some(eap_only) = &self.eap_only else { return Some(false) };
        let uses = |method| local == method || remote == method;
        let wrong = match eap_only.get_ref() {
            EapOnly::No => return Some(false),
            _ if !local.is_eap() && !remote.is_eap() => (
                "nothing uses `eap_only` of this tunnel",
                "take it out, or write auth = \"eap-tls\" (client) or remote_auth = \"eap-tls\" (server)",
            ),
            EapOnly::Yes if uses(Method::EapMschapv2) => (
                "EAP-MSCHAPv2 alone does not keep a password from whoever poses as the server",
                "let the server have a certificate, or use eap-tls; or write eap_only = \"insist\", which lets whoever answers in the server's place try passwords offline",
            ),
            EapOnly::Yes | EapOnly::Insist => return Some(true),
        };
        faults.push(Fault::new(wrong.0).at(eap_only.span(), "not so").help(wrong.1));
        None
    }

    /// Keys that nothing reads are mistakes.
    fn refuse_idle(
        &self,
        uses: &dyn Fn(Method) -> bool,
        local: Method,
        remote: Method,
        faults: &mut Vec<Fault>,
    ) {
        let mut idle = |key: &str, span: Option<Range<usize>>, mend: &str| {
            if let Some(span) = span {
                faults.push(
                    Fault::new(format!("nothing uses `{key}` of this tunnel"))
                        .at(span, "not used")
                        .help(mend),
                );
            }
        };
        if !uses(Method::Psk) {
            idle(
                "psk_file",
                self.psk_file.as_ref().map(At::span),
                "take it out, or write remote_auth = \"psk\"",
            );
        }
        if !with_certificate(local, remote) {
            let mend = "take it out, or write auth = \"cert\"";
            idle("certificate", self.certificate.as_ref().map(At::span), mend);
            idle("private_key", self.private_key.as_ref().map(At::span), mend);
            let password = self.private_key_password_file.as_ref().map(At::span);
            idle("private_key_password_file", password, mend);
        }
        if !local.is_eap() {
            let mend = "take it out, or write auth = \"eap-mschapv2\" or \"eap-tls\"";
            idle("eap_identity", self.eap_identity.as_ref().map(At::span), mend);
        }
        if local != Method::EapTls {
            let mend = "take it out, or write auth = \"eap-tls\"";
            idle("eap_server_id", self.eap_server_id.as_ref().map(At::span), mend);
        }
        if local != Method::EapMschapv2 {
            let mend = "take it out, or write auth = \"eap-mschapv2\"";
            idle("eap_password_file", self.eap_password_file.as_ref().map(At::span), mend);
        }
        if remote != Method::EapMschapv2 {
            let mend = "take it out, or write remote_auth = \"eap-mschapv2\"";
            idle("users_file", self.users_file.as_ref().map(At::span), mend);
        }
        if remote != Method::Cert {
            let mend = "take it out, or write remote_auth = \"cert\"; with EAP-TLS, name revocation lists in files (crl)";
            idle("revocation", self.revocation.as_ref().map(At::span), mend);
        }
        if remote != Method::Cert || self.revocation().policy == RevocationPolicy::No {
            let mend = "take it out, or write revocation = \"ifpossible\" or \"strict\"";
            idle("ocsp_url", self.ocsp_url.as_ref().map(At::span), mend);
            idle("crl_url", self.crl_url.as_ref().map(At::span), mend);
        }
        if remote != Method::EapRadius {
            let mend = "take it out, or write remote_auth = \"eap-radius\"";
            idle("radius", self.radius.as_ref().map(RawRadius::span), mend);
        }
        if !with_authorities(local, remote) {
            idle("ca", self.ca.as_ref().map(At::span), "take it out, or write remote_auth = \"cert\"");
            idle("crl", self.crl.as_ref().map(At::span), "take it out, or write remote_auth = \"cert\"");
        }
    }
}

impl RevocationPolicy {
    const WORDS: [(&'static str, Self); 3] =
        [("no", Self::No), ("ifpossible", Self::IfPossible), ("strict", Self::Strict)];
}

fn url(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let sound = text.get_ref().strip_prefix("http://").is_some_and(|rest| !rest.is_empty())
        && text.get_ref().bytes().all(|b| b.is_ascii_graphic());
    if !sound {
        faults.push(
            Fault::new("this is no http:// URL")
                .at(text.span(), "no URL")
                .help("write http://HOST/PATH: what is fetched is signed and needs no TLS"),
        );
    }
    sound.then(|| (*text.get_ref()).to_owned())
}

impl EapOnly {
    const WORDS: [(&'static str, Self); 3] = [("no", Self::No), ("yes", Self::Yes), ("insist", Self::Insist)];
}

/// A certificate of this side's has a use.
fn with_certificate(local: Method, remote: Method) -> bool {
    matches!(local, Method::Cert | Method::EapTls) || remote == Method::EapTls
}

/// Certificates of the peer are judged.
fn with_authorities(local: Method, remote: Method) -> bool {
    local == Method::EapTls || matches!(remote, Method::Cert | Method::EapTls)
}

/// Notes a file that cannot be used; tunnels that copy name the same file at the same place: once is enough.
fn complain(at: Range<usize>, text: String, mend: String, faults: &mut Vec<Fault>) {
    if !faults.iter().any(|fault| fault.is_at(&at)) {
        faults.push(Fault::new(text).at(at, "this file").help(mend));
    }
}

/// What a secret file holds.
pub(crate) fn read_psk(
    file: &At<String>,
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Psk> {
    let path = folder.join(file.get_ref());
    let psk = files(&path, FileKind::Secret).and_then(secret::from_content);
    psk.map_err(|error| {
        let text = format!("the secret file {} {error}", path.display());
        complain(file.span(), text, error.mend(&path), faults);
    })
    .ok()
}

fn refused(error: &SecretError, path: &Path) -> String {
    match error {
        SecretError::Io(e) if e.kind() == std::io::ErrorKind::NotFound => {
            "name a file that exists".to_owned()
        }
        other => other.mend(path),
    }
}

fn read_credentials(
    certificate: &At<String>,
    (key, password): (&At<String>, Option<&At<String>>),
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Credentials> {
    let path = folder.join(key.get_ref());
    let mut wrong = |at: &At<String>, path: &Path, error: &dyn std::fmt::Display, mend: String| {
        complain(at.span(), format!("the file {} {error}", path.display()), mend, faults);
    };
    let pem =
        files(&path, FileKind::PrivateKey).map_err(|e| wrong(key, &path, &e, refused(&e, &path))).ok()?;
    let password = match password {
        None => None,
        Some(at) => {
            let path = folder.join(at.get_ref());
            let content = files(&path, FileKind::PrivateKey);
            Some(content.map_err(|e| wrong(at, &path, &e, refused(&e, &path))).ok()?)
        }
    };
    // The line break that editors put at the end is no part of the password.
    let password = password.as_ref().map(|p| p.trim_ascii_end());
    let private = PrivateKeyPem::read(&pem, password);
    let private = private.map_err(|e| wrong(key, &path, &e, e.mend().to_owned())).ok()?;
    let path = folder.join(certificate.get_ref());
    let pem =
        files(&path, FileKind::Public).map_err(|e| wrong(certificate, &path, &e, refused(&e, &path))).ok()?;
    let credentials: Result<Credentials, CredentialsError> = Credentials::read(&pem, &private);
    credentials.map_err(|e| wrong(certificate, &path, &e, e.mend().to_owned())).ok()
}

fn read_authorities(
    ca: &At<Vec<At<String>>>,
    crl: Option<&At<Vec<At<String>>>>,
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Authorities> {
    let mut authorities = Authorities::new();
    let before = faults.len();
    let crls = crl.into_iter().flat_map(At::get_ref).map(|file| (file, true));
    for (file, is_crl) in ca.get_ref().iter().map(|file| (file, false)).chain(crls) {
        let path = folder.join(file.get_ref());
        let mut wrong = |error: &dyn std::fmt::Display, mend: String| {
            complain(file.span(), format!("the file {} {error}", path.display()), mend, faults);
        };
        match files(&path, FileKind::Public) {
            Ok(pem) => {
                let added = if is_crl { authorities.add_crl(&pem) } else { authorities.add(&pem) };
                let _ = added.map_err(|e| wrong(&e, e.mend().to_owned()));
            }
            Err(e) => wrong(&e, refused(&e, &path)),
        }
    }
    (faults.len() == before && !authorities.certificates().is_empty()).then_some(authorities)
}

/// RFC 2759 4: a name of at most 256 bytes; EAP carries 253 of an identity.
fn user_name(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let sound = (1..=253).contains(&text.get_ref().len()) && !text.get_ref().chars().any(char::is_control);
    if !sound {
        faults.push(
            Fault::new("`eap_identity` cannot be a user's name")
                .at(text.span(), "no name")
                .help("write 1 to 253 bytes without control characters"),
        );
    }
    sound.then(|| (*text.get_ref()).to_owned())
}

fn read_text(
    file: &At<String>,
    folder: &Path,
    kind: FileKind,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Zeroizing<String>> {
    let path = folder.join(file.get_ref());
    let content = files(&path, kind).map_err(|error| {
        let text = format!("the secret file {} {error}", path.display());
        complain(file.span(), text, refused(&error, &path), faults);
    });
    match std::str::from_utf8(&content.ok()?) {
        Ok(text) => Some(Zeroizing::new(text.to_owned())),
        Err(_) => {
            let text = format!("the secret file {} is not UTF-8 text", path.display());
            complain(file.span(), text, "save the file as UTF-8".to_owned(), faults);
            None
        }
    }
}

fn read_password(
    file: &At<String>,
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<NtHash> {
    let text = read_text(file, folder, FileKind::Secret, files, faults)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.chars().any(char::is_control) {
        let text = format!("the secret file {} holds no password", folder.join(file.get_ref()).display());
        complain(file.span(), text, "write the password and nothing else, on one line".to_owned(), faults);
        return None;
    }
    Some(NtHash::of(password))
}

/// Lines of `user:password`; empty ones and those that begin with `#` are passed over. `keep`: what is kept of a password.
pub(crate) fn read_users<T>(
    file: &At<String>,
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
    keep: impl Fn(&str) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let text = read_text(file, folder, FileKind::PrivateKey, files, faults)?;
    let path = folder.join(file.get_ref());
    let mut users = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // Says nothing of the line: it may be a password.
        let parts = line.split_once(':').filter(|(user, password)| !user.is_empty() && !password.is_empty());
        let wrong = match parts.and_then(|(user, password)| Some((user, keep(password)?))) {
            Some((user, kept)) => users.insert(user.to_owned(), kept).map(|_| "is a second one for its user"),
            None => Some("is not user:password"),
        };
        if let Some(wrong) = wrong {
            let text = format!("line {} of the users file {} {wrong}", number + 1, path.display());
            complain(
                file.span(),
                text,
                "write one line for each user: name, colon, password".to_owned(),
                faults,
            );
            return None;
        }
    }
    if users.is_empty() {
        let text = format!("the users file {} names nobody", path.display());
        complain(file.span(), text, "write one line for each user: name, colon, password".to_owned(), faults);
        return None;
    }
    Some(users)
}
