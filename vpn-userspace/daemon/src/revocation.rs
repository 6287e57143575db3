//! Whether certificates are revoked, asked online: after a chain is trusted and before its owner is let in. Answers are
//! kept until they are out of date.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use culvert_config::{Revocation, RevocationPolicy};
use culvert_crypto::Hash;
use culvert_crypto::sign::PublicKey;
use culvert_ike::{CertificateRefused, CheckId, Command};
use culvert_pki::{RevocationError, Sources, Status, crl_status, ocsp_request, ocsp_status};
use tokio::task::JoinSet;

use crate::fetch::{Ask, fetch};
use crate::trust;

/// Checks at once; more are decided by the policy, unasked.
const AT_ONCE: usize = 64;
/// For one chain: less than the IKE core waits for a verdict.
const PATIENCE: Duration = Duration::from_secs(8);
const MOST_OCSP: usize = 64 * 1024;
const MOST_CRL: usize = 4 * 1024 * 1024;
/// Certificates whose status is kept, and revocation lists.
const KEPT: usize = 4096;
const KEPT_LISTS: usize = 16;
/// A source that failed is not asked again for so long.
const SULK: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Cache {
    /// By the certificate's hash.
    status: HashMap<Vec<u8>, Status>,
    /// By URL, with the time of their end.
    lists: HashMap<String, (Arc<Vec<u8>>, u64)>,
    failed: HashMap<String, Instant>,
}

/// Checks that are under way, and what they found before.
pub(crate) struct Checks {
    running: JoinSet<Command>,
    cache: Arc<Mutex<Cache>>,
}

impl Checks {
    pub(crate) fn new() -> Self {
        Self { running: JoinSet::new(), cache: Arc::default() }
    }

    /// Finds out whether a certificate of a trusted path (DER, the peer's own first, the authority's last) is revoked.
    /// The verdict is given back where nothing has to be asked.
    pub(crate) fn check(
        &mut self,
        check: CheckId,
        path: Vec<Vec<u8>>,
        key: PublicKey,
        rules: &Revocation,
    ) -> Option<Command> {
        if rules.policy == RevocationPolicy::No {
            return Some(Command::CertificateChecked(check, Ok(key)));
        }
        if self.running.len() >= AT_ONCE {
            let busy = refused(
                &path,
                "too many checks of certificates are under way",
                "try again; see whether the sources of revocation answer",
            );
            let verdict = if rules.policy == RevocationPolicy::Strict { Err(busy) } else { Ok(key) };
            return Some(Command::CertificateChecked(check, verdict));
        }
        let (cache, rules) = (Arc::clone(&self.cache), rules.clone());
        self.running.spawn(async move {
            let verdict = tokio::time::timeout(PATIENCE, judge(&path, &rules, &cache)).await;
            let verdict = verdict.unwrap_or_else(|_| {
                undecided(&rules, &path, &format!("nobody told within {} s", PATIENCE.as_secs()))
            });
            Command::CertificateChecked(check, verdict.map(|()| key))
        });
        None
    }

    /// The next verdict; waits for ever while no check is under way. Nothing is lost when this is dropped half-way.
    pub(crate) async fn next(&mut self) -> Command {
        loop {
            match self.running.join_next().await {
                Some(Ok(verdict)) => return verdict,
                // The IKE core does not wait for ever.
                Some(Err(error)) => tracing::error!("a check of a certificate was lost: {error}"),
                None => return std::future::pending().await,
            }
        }
    }
}

fn refused(path: &[Vec<u8>], what: &str, mend: &str) -> CertificateRefused {
    let theirs = path.first().map(|own| trust::about(own)).unwrap_or_default();
    let ours = String::new();
    CertificateRefused { what: what.to_owned(), mend: mend.to_owned(), ours, theirs }
}

/// Whether no certificate of the path is revoked, by the rules.
async fn judge(path: &[Vec<u8>], rules: &Revocation, cache: &Mutex<Cache>) -> Result<(), CertificateRefused> {
    for pair in path.windows(2) {
        let [certificate, issuer] = pair else { continue };
        match status(certificate, issuer, rules, cache).await {
            Ok(Status { revoked: false, .. }) => {}
            Ok(Status { revoked: true, .. }) => {
                let which = if std::ptr::eq(certificate, &path[0]) {
                    "it has"
                } else {
                    "an authority in its chain has"
                };
                let what = format!("{which} been revoked, as its authority says online");
                return Err(refused(
                    path,
                    &what,
                    "give the peer a new certificate; if it was revoked by mistake too",
                ));
            }
            Err(why) => undecided(rules, path, &why)?,
        }
    }
    Ok(())
}

/// What the policy makes of not knowing.
fn undecided(rules: &Revocation, path: &[Vec<u8>], why: &str) -> Result<(), CertificateRefused> {
    if rules.policy == RevocationPolicy::Strict {
        let what = format!("whether it is revoked cannot be found out: {why}");
        let mend = "let this gateway reach the authority's responder or revocation list, or name one that it reaches (ocsp_url, crl_url); or write revocation = \"ifpossible\"";
        return Err(refused(path, &what, mend));
    }
    let theirs = path.first().map(|own| trust::about(own)).unwrap_or_default();
    tracing::warn!(
        "whether a certificate {theirs} is revoked cannot be found out ({why}); it is taken all the same (revocation = \"ifpossible\")"
    );
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the issuer says of a certificate, or why nobody could be heard.
async fn status(
    certificate: &[u8],
    issuer: &[u8],
    rules: &Revocation,
    cache: &Mutex<Cache>,
) -> Result<Status, String> {
    let known = |c: &mut Cache, id: &[u8]| c.status.get(id).filter(|s| s.until > now()).copied();
    let id = Hash::Sha256.digest(&[certificate]);
    if let Some(status) = known(&mut cache.lock().unwrap_or_else(PoisonError::into_inner), &id) {
        return Ok(status);
    }
    let mut sources = Sources::of(certificate);
    let configured = rules.ocsp_url.is_some() || rules.crl_url.is_some();
    if configured {
        sources = Sources {
            ocsp: rules.ocsp_url.iter().cloned().collect(),
            crl: rules.crl_url.iter().cloned().collect(),
        };
    }
    let mut told = Vec::new();
    for (url, ocsp) in
        sources.ocsp.iter().map(|url| (url, true)).chain(sources.crl.iter().map(|url| (url, false)))
    {
        let sulks = |c: &Cache| c.failed.get(url).is_some_and(|since| since.elapsed() < SULK);
        if sulks(&cache.lock().unwrap_or_else(PoisonError::into_inner)) {
            told.push(format!("{url} failed less than a minute ago"));
            continue;
        }
        let found = if ocsp {
            ask_ocsp(url, certificate, issuer, configured).await
        } else {
            ask_list(url, certificate, issuer, configured, cache).await
        };
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(status) => {
                cache.failed.remove(url);
                if cache.status.len() >= KEPT {
                    cache.status.clear();
                }
                cache.status.insert(id, status);
                return Ok(status);
            }
            Err(why) => {
                if cache.failed.len() >= KEPT {
                    cache.failed.clear();
                }
                cache.failed.insert(url.clone(), Instant::now());
                told.push(format!("{url}: {why}"));
            }
        }
    }
    Err(if told.is_empty() {
        "it names no source that can be asked by HTTP".to_owned()
    } else {
        told.join("; ")
    })
}

async fn ask_ocsp(url: &str, certificate: &[u8], issuer: &[u8], configured: bool) -> Result<Status, String> {
    let request = ocsp_request(certificate, issuer).ok_or("there is no asking for it")?;
    let body = Some(("application/ocsp-request", request.as_slice()));
    let ask = Ask { url, body, most: MOST_OCSP, configured };
    let answer = fetch(&ask).await.map_err(|error| error.to_string())?;
    ocsp_status(&answer, certificate, issuer, now()).map_err(|error| error.to_string())
}

async fn ask_list(
    url: &str,
    certificate: &[u8],
    issuer: &[u8],
    configured: bool,
    cache: &Mutex<Cache>,
) -> Result<Status, String> {
    let kept = {
        let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.lists.get(url).filter(|(_, until)| *until > now()).map(|(list, _)| Arc::clone(list))
    };
    let list = match kept {
        Some(list) => list,
        None => {
            let ask = Ask { url, body: None, most: MOST_CRL, configured };
            let file = fetch(&ask).await.map_err(|error| error.to_string())?;
            Arc::new(culvert_pki::list_of(file))
        }
    };
    let status =
        crl_status(&list, certificate, issuer, now()).map_err(|error: RevocationError| error.to_string())?;
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.lists.len() >= KEPT_LISTS {
        cache.lists.clear();
    }
    cache.lists.insert(url.to_owned(), (list, status.until));
    Ok(status)
}
