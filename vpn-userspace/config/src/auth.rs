//! Who proves what to whom: `auth` and `remote_auth` of a tunnel, and the files that they need.

use std::ops::Range;
use std::path::Path;

use culvert_ike::Psk;

use crate::credentials::{Authorities, Credentials, CredentialsError, PrivateKeyPem};
use crate::error::Fault;
use crate::model::{LocalProof, RemoteProof, TunnelAuth};
use crate::secret::{self, FileKind, Files, SecretError};
use crate::section::{At, Section, missing};

/// A way to prove an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Psk,
    Cert,
}

impl Method {
    const WORDS: [(&'static str, Self); 2] = [("psk", Self::Psk), ("cert", Self::Cert)];
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
            local: s.word(faults, "auth", &Method::WORDS, NOT_YET),
            remote: s.word(faults, "remote_auth", &Method::WORDS, NOT_YET),
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
        }
    }

    /// Where something else than a pre-shared key is asked for.
    pub(crate) fn other_than_psk(&self) -> Option<Range<usize>> {
        let methods = [&self.local, &self.remote].into_iter().flatten();
        methods.filter(|m| *m.get_ref() != Method::Psk).map(At::span).next()
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
    }

    /// Reads the files. `title` and `span`: the tunnel's; `faulty`: keys of it were wrong already.
    pub(crate) fn check(
        &self,
        (title, span, faulty): (&str, Range<usize>, bool),
        folder: &Path,
        files: Files<'_>,
        faults: &mut Vec<Fault>,
    ) -> Option<TunnelAuth> {
        let local = match &self.local {
            Some(local) => *local.get_ref(),
            None if self.certificate.is_some() => Method::Cert,
            None => Method::Psk,
        };
        let remote = match &self.remote {
            Some(remote) => *remote.get_ref(),
            None if self.ca.is_some() => Method::Cert,
            None => local,
        };
        let lacks = |key: &str, mend: &str, faults: &mut Vec<Fault>| {
            if !faulty {
                faults.push(missing(title, span.clone(), key, mend));
            }
        };
        let uses = |method| local == method || remote == method;
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
        let local = match local {
            Method::Psk => psk.clone().map(LocalProof::Psk),
            Method::Cert => {
                for (key, value) in [("certificate", &self.certificate), ("private_key", &self.private_key)] {
                    if value.is_none() {
                        lacks(key, &format!("name the PEM file: {key} = \"pki/NAME.pem\""), faults);
                    }
                }
                let (certificate, key) = (self.certificate.as_ref()?, self.private_key.as_ref()?);
                let password = self.private_key_password_file.as_ref();
                read_credentials(certificate, (key, password), folder, &mut *files, faults)
                    .map(|credentials| LocalProof::Certificate { credentials, allow_sha1 })
            }
        };
        let remote = match remote {
            Method::Psk => psk.map(RemoteProof::Psk),
            Method::Cert => match &self.ca {
                Some(ca) => read_authorities(ca, self.crl.as_ref(), folder, &mut *files, faults)
                    .map(|authorities| RemoteProof::Certificate { authorities, allow_sha1 }),
                None => {
                    let mend = "name the certificates of the authorities that vouch for peers: ca = [\"pki/ca.pem\"]";
                    lacks("ca", mend, faults);
                    None
                }
            },
        };
        Some(TunnelAuth { local: local?, remote: remote? })
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
        if local != Method::Cert {
            let mend = "take it out, or write auth = \"cert\"";
            idle("certificate", self.certificate.as_ref().map(At::span), mend);
            idle("private_key", self.private_key.as_ref().map(At::span), mend);
            let password = self.private_key_password_file.as_ref().map(At::span);
            idle("private_key_password_file", password, mend);
        }
        if remote != Method::Cert {
            idle("ca", self.ca.as_ref().map(At::span), "take it out, or write remote_auth = \"cert\"");
            idle("crl", self.crl.as_ref().map(At::span), "take it out, or write remote_auth = \"cert\"");
        }
    }
}

const NOT_YET: &[(&str, &str)] = &[];

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
