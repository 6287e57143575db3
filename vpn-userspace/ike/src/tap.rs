//! A tap on what IKE messages say, and on the keys that protect them, for whoever looks for a fault.
//!
//! Shut unless the endpoint's owner opens it. Texts name payloads, algorithms, identities and selectors, never keys,
//! nonces, public values or signatures.

use std::fmt;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_crypto::{Encryption, Integrity, Mode, Suite, SuiteKeys};

/// What was seen since it was last taken.
#[derive(Default)]
pub(crate) struct Tap {
    messages: AtomicBool,
    secrets: AtomicBool,
    seen: Mutex<Vec<Seen>>,
}

/// One thing that passed the tap.
pub(crate) enum Seen {
    Message { sent: bool, text: String },
    Secrets(Box<IkeSecrets>),
}

impl Tap {
    pub(crate) fn open_messages(&self, open: bool) {
        self.messages.store(open, Ordering::Relaxed);
    }

    pub(crate) fn open_secrets(&self, open: bool) {
        self.secrets.store(open, Ordering::Relaxed);
    }

    /// Notes a message; the text is made only while somebody wants it.
    pub(crate) fn message(&self, sent: bool, text: impl FnOnce() -> String) {
        if self.messages.load(Ordering::Relaxed) {
            self.push(Seen::Message { sent, text: text() });
        }
    }

    /// Notes the keys of an IKE SA, while somebody wants them.
    pub(crate) fn secrets(&self, secrets: impl FnOnce() -> IkeSecrets) {
        if self.secrets.load(Ordering::Relaxed) {
            self.push(Seen::Secrets(Box::new(secrets())));
        }
    }

    fn push(&self, seen: Seen) {
        // A poisoned lock means a panic elsewhere: what is lost is a line of a trace.
        if let Ok(mut list) = self.seen.lock() {
            list.push(seen);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.messages.load(Ordering::Relaxed) || self.secrets.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Vec<Seen> {
        self.seen.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
    }
}

/// The keys that protect the messages of an IKE SA, for a packet analyser. Handed out only where
/// [`EndpointConfig::export_secrets`](crate::EndpointConfig::export_secrets) is set. Zeroized when dropped.
#[derive(Clone)]
pub struct IkeSecrets {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) suite: Suite,
    pub(crate) initiator: SuiteKeys,
    pub(crate) responder: SuiteKeys,
}

impl fmt::Debug for IkeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IkeSecrets({:016x} {:016x} {})", self.spi_i, self.spi_r, self.suite)
    }
}

impl IkeSecrets {
    /// A line of Wireshark's `ikev2_decryption_table`, secrets included. `None` for algorithms that Wireshark does not
    /// name.
    pub fn to_wireshark(&self) -> Option<String> {
        let encryption = self.suite.encryption();
        let bits = encryption.key_len() * 8;
        let name = match (encryption, encryption.mode()) {
            (Encryption::TripleDes, _) => "3DES [RFC2451]".to_owned(),
            (_, Mode::Cbc) => format!("AES-CBC-{bits} [RFC3602]"),
            (_, Mode::Ctr) => format!("AES-CTR-{bits} [RFC5930]"),
            (_, Mode::Gcm(icv)) => format!("AES-GCM-{bits} with {icv} octet ICV [RFC5282]"),
            (_, Mode::Ccm(icv)) => format!("AES-CCM-{bits} with {icv} octet ICV [RFC5282]"),
            (_, Mode::Gmac | Mode::ChaCha20Poly1305) => return None,
        };
        let integrity = match self.suite.integrity() {
            None => "NONE [RFC4306]",
            Some(Integrity::HmacMd5_96) => "HMAC_MD5_96 [RFC2403]",
            Some(Integrity::HmacSha1_96) => "HMAC_SHA1_96 [RFC2404]",
            Some(Integrity::HmacSha256_128) => "HMAC_SHA2_256_128 [RFC4868]",
            Some(Integrity::HmacSha384_192) => "HMAC_SHA2_384_192 [RFC4868]",
            Some(Integrity::HmacSha512_256) => "HMAC_SHA2_512_256 [RFC4868]",
            Some(Integrity::AesXcbc96 | Integrity::AesCmac96) => return None,
        };
        let mut line = format!("{:016x},{:016x}", self.spi_i, self.spi_r);
        hex(&mut line, self.initiator.encryption());
        hex(&mut line, self.responder.encryption());
        let _ = write!(line, ",\"{name}\"");
        hex(&mut line, self.initiator.integrity());
        hex(&mut line, self.responder.integrity());
        let _ = write!(line, ",\"{integrity}\"");
        Some(line)
    }
}

fn hex(line: &mut String, bytes: &[u8]) {
    line.push(',');
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(line, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(encryption: Encryption, integrity: Option<Integrity>) -> IkeSecrets {
        let suite = Suite::new(encryption, integrity).unwrap();
        let keys = |byte| {
            SuiteKeys::new(&vec![byte; suite.encryption_key_len()], &vec![byte; suite.integrity_key_len()])
        };
        IkeSecrets { spi_i: 1, spi_r: 0xfe, suite, initiator: keys(0xa1), responder: keys(0xb2) }
    }

    #[test]
    fn lines_are_wiresharks() {
        let gcm = secrets(Encryption::AesGcm128, None);
        assert_eq!(
            gcm.to_wireshark().unwrap(),
            format!(
                "0000000000000001,00000000000000fe,{},{},\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"",
                "a1".repeat(20),
                "b2".repeat(20)
            )
        );
        let cbc = secrets(Encryption::AesCbc256, Some(Integrity::HmacSha256_128)).to_wireshark().unwrap();
        assert!(cbc.ends_with(&format!(
            ",\"AES-CBC-256 [RFC3602]\",{},{},\"HMAC_SHA2_256_128 [RFC4868]\"",
            "a1".repeat(32),
            "b2".repeat(32)
        )));
        let ccm = secrets(Encryption::AesCcm8_192, None).to_wireshark().unwrap();
        assert!(ccm.contains(",\"AES-CCM-192 with 8 octet ICV [RFC5282]\",,,"), "{ccm}");
        assert_eq!(secrets(Encryption::ChaCha20Poly1305, None).to_wireshark(), None);
    }

    #[test]
    fn nothing_passes_a_shut_tap() {
        let tap = Tap::default();
        tap.message(true, || panic!("no text is made"));
        tap.secrets(|| panic!("no keys are copied"));
        assert!(tap.take().is_empty());
        tap.open_messages(true);
        tap.message(false, || "one".to_owned());
        assert!(matches!(tap.take().as_slice(), [Seen::Message { sent: false, text }] if text == "one"));
        assert!(tap.take().is_empty());
    }

    #[test]
    fn debug_shows_no_keys() {
        let text = format!("{:?}", secrets(Encryption::AesGcm256, None));
        assert_eq!(text, "IkeSecrets(0000000000000001 00000000000000fe aes256gcm16)");
    }
}
