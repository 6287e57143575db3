//! Algorithms as clouds and devices call them.

use culvert_crypto::DhGroup;
use culvert_ike::{EspProposal, IkeProposal};

use super::Report;
use crate::Offer;

/// strongSwan's keyword for a cipher: `AES256`, `aes-128-cbc`, `AES128-GCM-16`, `aes`, `3des`.
pub(super) fn cipher(text: &str) -> Option<String> {
    let plain: String = text.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    if plain.contains("3des") || plain.contains("tripledes") {
        return Some("3des".to_owned());
    }
    if plain.contains("chacha") {
        return Some("chacha20poly1305".to_owned());
    }
    let rest = plain.strip_prefix("aes").or_else(|| plain.strip_prefix("espaes"))?;
    let bits = ["128", "192", "256"].into_iter().find(|bits| rest.contains(bits)).unwrap_or("128");
    if rest.contains("gcm") {
        let after = rest.split("gcm").nth(1).unwrap_or_default();
        let tag = match after {
            "8" | "64" => "8",
            "12" | "96" => "12",
            _ => "16",
        };
        return Some(format!("aes{bits}gcm{tag}"));
    }
    Some(format!("aes{bits}"))
}

/// strongSwan's keyword for a hash: `sha1`, `SHA2-256`, `hmac-sha1-96`, `md5`.
pub(super) fn hash(text: &str) -> Option<&'static str> {
    let plain: String = text.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let plain = plain.trim_start_matches("hmac");
    let plain = plain.trim_end_matches("hmac");
    match plain {
        _ if plain.starts_with("md5") => Some("md5"),
        "sha" | "sha1" | "sha196" => Some("sha1"),
        _ if plain.starts_with("sha2256") || plain.starts_with("sha256") => Some("sha256"),
        _ if plain.starts_with("sha2384") || plain.starts_with("sha384") => Some("sha384"),
        _ if plain.starts_with("sha2512") || plain.starts_with("sha512") => Some("sha512"),
        _ => None,
    }
}

/// strongSwan's keyword for a group: `Diffie-Hellman Group 2`, `group14`, `20`.
pub(super) fn group(text: &str) -> Option<&'static str> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let number = digits.parse().ok()?;
    DhGroup::from_iana(number).map(|group| group.name())
}

/// A proposal for IKE, or the reason why not in the report.
pub(super) fn ike(text: &str, line: usize, report: &mut Report) -> Option<Offer> {
    match IkeProposal::parse(text) {
        Ok(proposal) => Some(Offer::of(&proposal)),
        Err(error) => {
            report.refused(line, text, &reason(&error.to_string()));
            None
        }
    }
}

/// A proposal for ESP, or the reason why not in the report.
pub(super) fn esp(text: &str, line: usize, report: &mut Report) -> Option<Offer> {
    match EspProposal::parse(text) {
        Ok(proposal) => Some(Offer::of(&proposal)),
        Err(error) => {
            report.refused(line, text, &reason(&error.to_string()));
            None
        }
    }
}

/// Without the list of everything that there is.
fn reason(words: &str) -> String {
    words.split("; there are").next().unwrap_or(words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_words_are_known() {
        for (text, want) in [
            ("aes-128-cbc", "aes128"),
            ("AES256", "aes256"),
            ("aes", "aes128"),
            ("aes192", "aes192"),
            ("AES128-GCM-16", "aes128gcm16"),
            ("aes-256-gcm-16", "aes256gcm16"),
            ("aes-cbc-256", "aes256"),
            ("3des", "3des"),
        ] {
            assert_eq!(cipher(text).as_deref(), Some(want), "{text}");
        }
        for (text, want) in [
            ("sha1", "sha1"),
            ("hmac-sha1-96", "sha1"),
            ("SHA2-256", "sha256"),
            ("hmac-sha2-256-128", "sha256"),
            ("sha-384", "sha384"),
            ("esp-sha-hmac", ""),
            ("md5", "md5"),
        ] {
            assert_eq!(hash(text).unwrap_or_default(), want, "{text}");
        }
        assert_eq!(group("Diffie-Hellman Group 2"), Some("modp1024"));
        assert_eq!(group("group20"), Some("ecp384"));
        assert_eq!(group("1"), None);
        assert_eq!(group("disabled"), None);
    }
}
