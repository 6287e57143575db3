//! A happening told by POST, as JSON.
//!
//! With a secret, `X-Culvert-Signature` is `sha256=` and, in hexadecimal, HMAC-SHA256 over the value of
//! `X-Culvert-Timestamp`, a full stop and the body: who checks both cannot be fed an old one.

use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::{Error, Happening, Webhook};

/// Where Debian, Fedora and Alpine keep the authorities that the system trusts.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Scheme and host: the rest may be a secret.
pub(crate) fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Before an @ stand a name and a password.
    format!("{scheme}://{}", host.rsplit('@').next().unwrap_or_default())
}

pub(crate) async fn post(webhook: &Webhook, happening: &Happening, timeout: Duration) -> Result<(), Error> {
    let place = place(&webhook.url);
    let body = serde_json::to_string(happening)
        .map_err(|error| Error::Http { place: place.clone(), error: error.to_string() })?;
    let timestamp = happening.time.to_string();
    let signature = webhook.secret.as_ref().map(|secret| signature(secret, &timestamp, &body));
    let (url, authorities) = (webhook.url.clone(), webhook.authorities.clone());
    // Blocking, with a limit of its own.
    let sent = tokio::task::spawn_blocking(move || {
        let tls = tls(authorities)?;
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent("culvert")
            .proxy(None)
            .tls_config(tls)
            .build();
        let mut request = config.new_agent().post(&url).content_type("application/json");
        request =
            request.header("X-Culvert-Event", event_of(&body)).header("X-Culvert-Timestamp", &timestamp);
        if let Some(signature) = signature {
            request = request.header("X-Culvert-Signature", signature);
        }
        let answer =
            request.send(&body).map_err(|error| Error::Http { place: place.clone(), error: told(&error) })?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(Error::Refused { place, status }),
        }
    });
    sent.await.unwrap_or_else(|error| Err(Error::Tls(format!("the sender ended: {error}"))))
}

/// What is told of a failure: of a URL that cannot be one, not the URL.
fn told(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "the URL is none".to_owned(),
        other => other.to_string(),
    }
}

/// For who routes by headers.
fn event_of(body: &str) -> String {
    let parsed = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
    parsed["event"].as_str().unwrap_or_default().to_owned()
}

fn signature(secret: &[u8], timestamp: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{timestamp}.{body}").as_bytes());
    format!("sha256={}", hex::encode(tag))
}

fn tls(authorities: Option<Vec<u8>>) -> Result<TlsConfig, Error> {
    let pem = match authorities {
        Some(pem) => pem,
        None => SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default(),
    };
    let roots: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

#[cfg(test)]
mod tests {
    use super::{place, signature};

    #[test]
    fn of_a_url_only_the_place_is_told() {
        for (url, told) in [
            ("https://hooks.example/T0/secret?token=1", "https://hooks.example"),
            ("https://user:password@hooks.example:8443/x", "https://hooks.example:8443"),
            ("http://[::1]:80", "http://[::1]:80"),
        ] {
            assert_eq!(place(url), told);
        }
    }

    /// Computed with `printf '1700000000.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn signatures_are_what_others_compute() {
        assert_eq!(signature(b"key", "1700000000", "{}"), format!("sha256={}", EXPECTED));
    }
    const EXPECTED: &str = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
}
