//! One direction of one SA, ready to seal and open: used by ESP and by IKE's SK payload.
//!
//! Nothing here allocates or derives a key per packet. The text is worked on in place.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::cipher::{BLOCK, CbcKey};
use crate::mac::{Hash, HmacKey};
use crate::{Encryption, Integrity, Suite, SuiteKeys};

/// Keys whose lengths are not those of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{suite} takes {want_encryption} + {want_integrity} bytes of keys, not {encryption} + {integrity}")]
pub struct KeyError {
    /// The suite.
    pub suite: Suite,
    /// Bytes given for the cipher.
    pub encryption: usize,
    /// Bytes given for integrity.
    pub integrity: usize,
    /// Bytes that the cipher takes, an AEAD's salt included.
    pub want_encryption: usize,
    /// Bytes that integrity takes.
    pub want_integrity: usize,
}

/// Why a packet was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// The check value does not fit the packet: forged, corrupted, or of other keys. The text's
    /// content is then unspecified and must not be used.
    #[error("the packet's check value is wrong")]
    NotAuthentic,
    /// IV, tag or text has a length that the suite does not have: the caller's mistake when sealing,
    /// a malformed packet when opening.
    #[error("the packet's IV, text or check value has a length that the suite does not have")]
    Length,
}

/// What a packet authenticates beside its text: the bytes before the IV, and with extended sequence
/// numbers the high half, which travels in no packet.
#[derive(Debug, Clone, Copy)]
pub struct Associated<'a> {
    head: &'a [u8],
    esn_high: Option<[u8; 4]>,
}

impl<'a> Associated<'a> {
    /// Just the bytes before the IV: for IKE, the message up to and with the SK payload's header.
    #[inline]
    pub fn new(head: &'a [u8]) -> Self {
        Self { head, esn_high: None }
    }

    /// An ESP header (SPI and low sequence number) with the high half of an extended sequence number.
    /// An AEAD sees SPI | high | low (RFC 4106 5), an HMAC sees the high half after the text
    /// (RFC 4303 2.2.1). `None` without ESN.
    #[inline]
    pub fn esp(header: &'a [u8; 8], esn_high: Option<u32>) -> Self {
        Self { head: header, esn_high: esn_high.map(u32::to_be_bytes) }
    }

    #[inline]
    fn aad<R>(&self, run: impl FnOnce(Aad<&[u8]>) -> R) -> R {
        match (self.esn_high, self.head) {
            (Some(h), [a, b, c, d, low @ ..]) => {
                let mut aad = [0; 12];
                aad[..4].copy_from_slice(&[*a, *b, *c, *d]);
                aad[4..8].copy_from_slice(&h);
                // `esp` is the only way to a high half: the head is eight bytes, `low` four.
                let len = low.len().min(4);
                aad[8..8 + len].copy_from_slice(&low[..len]);
                run(Aad::from(&aad))
            }
            _ => run(Aad::from(self.head)),
        }
    }

    #[inline]
    fn tail(&self) -> &[u8] {
        match &self.esn_high {
            Some(high) => high,
            None => &[],
        }
    }
}

/// Seals or opens the packets of one direction of one SA.
///
/// The suite's lengths are [`Suite::iv_len`] and [`Suite::icv_len`]; with CBC the text is a multiple of
/// 16 bytes. For ESP and for IKE alike the packet is `head | IV | text | tag`.
pub struct PacketCipher {
    suite: Suite,
    kind: Kind,
}

enum Kind {
    Aead { key: Box<LessSafeKey>, salt: [u8; 4] },
    Cbc(Box<CbcHmac>),
}

struct CbcHmac {
    cbc: CbcKey,
    hmac: HmacKey,
}

impl PacketCipher {
    /// Works the keys in: expands schedules, hashes the HMAC pads.
    pub fn new(suite: Suite, keys: &SuiteKeys) -> Result<Self, KeyError> {
        let error = KeyError {
            suite,
            encryption: keys.encryption().len(),
            integrity: keys.integrity().len(),
            want_encryption: suite.encryption_key_len(),
            want_integrity: suite.integrity_key_len(),
        };
        if (error.encryption, error.integrity) != (error.want_encryption, error.want_integrity) {
            return Err(error);
        }
        let aead = match suite.encryption() {
            Encryption::AesGcm128 => Some(&AES_128_GCM),
            Encryption::AesGcm256 => Some(&AES_256_GCM),
            Encryption::ChaCha20Poly1305 => Some(&CHACHA20_POLY1305),
            Encryption::AesCbc128 | Encryption::AesCbc256 => None,
        };
        let kind = match (aead, suite.integrity()) {
            (Some(algorithm), _) => {
                // RFC 4106 8.1, RFC 7634 2: the salt is the last four bytes of the key material.
                let (key, salt) = keys.encryption().split_last_chunk().ok_or(error)?;
                let key = UnboundKey::new(algorithm, key).map_err(|_| error)?;
                Kind::Aead { key: Box::new(LessSafeKey::new(key)), salt: *salt }
            }
            (None, Some(integrity)) => {
                let hash = match integrity {
                    Integrity::HmacSha1_96 => Hash::Sha1,
                    Integrity::HmacSha256_128 => Hash::Sha256,
                    Integrity::HmacSha384_192 => Hash::Sha384,
                    Integrity::HmacSha512_256 => Hash::Sha512,
                };
                Kind::Cbc(Box::new(CbcHmac {
                    cbc: CbcKey::new(keys.encryption()).ok_or(error)?,
                    hmac: HmacKey::new(hash, keys.integrity()),
                }))
            }
            (None, None) => return Err(error),
        };
        Ok(Self { suite, kind })
    }

    /// The suite.
    #[inline]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Writes the IV of a counter value that is used once under these keys (the sequence number, the
    /// number of the IKE message): for an AEAD the counter itself (RFC 4106 3.1), for CBC the counter
    /// under a secret key, so that it cannot be foreseen (RFC 3602 3). `out` is [`Suite::iv_len`] bytes.
    #[inline]
    pub fn write_iv(&self, counter: u64, out: &mut [u8]) -> Result<(), CipherError> {
        match &self.kind {
            Kind::Aead { .. } => {
                let out: &mut [u8; 8] = out.try_into().map_err(|_| CipherError::Length)?;
                *out = counter.to_be_bytes();
                Ok(())
            }
            Kind::Cbc(keys) => {
                let out: &mut [u8; BLOCK] = out.try_into().map_err(|_| CipherError::Length)?;
                *out = keys.cbc.iv(counter);
                Ok(())
            }
        }
    }

    /// Encrypts `text` in place and writes the check value to `tag`.
    ///
    /// An IV must never serve twice under the same keys: see [`write_iv`](Self::write_iv).
    #[inline]
    pub fn seal(
        &self,
        associated: Associated<'_>,
        iv: &[u8],
        text: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), CipherError> {
        match &self.kind {
            Kind::Aead { key, salt } => {
                let nonce = nonce(salt, iv)?;
                let tag: &mut [u8; 16] = tag.try_into().map_err(|_| CipherError::Length)?;
                let sealed = associated
                    .aad(|aad| key.seal_in_place_separate_tag(nonce, aad, text))
                    .map_err(|_| CipherError::Length)?;
                tag.copy_from_slice(sealed.as_ref());
                Ok(())
            }
            Kind::Cbc(keys) => {
                let block_iv = self.check_cbc(iv, text, tag)?;
                keys.cbc.encrypt(block_iv, text);
                keys.hmac.sign(&[associated.head, iv, text, associated.tail()], tag);
                Ok(())
            }
        }
    }

    /// Checks `tag` in constant time and decrypts `text` in place. After an error the text's content
    /// is unspecified.
    #[inline]
    pub fn open(
        &self,
        associated: Associated<'_>,
        iv: &[u8],
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), CipherError> {
        match &self.kind {
            Kind::Aead { key, salt } => {
                let nonce = nonce(salt, iv)?;
                let tag: [u8; 16] = tag.try_into().map_err(|_| CipherError::Length)?;
                associated
                    .aad(|aad| {
                        key.open_in_place_separate_tag(nonce, aad, Tag::from(tag), text, 0..).map(|_| ())
                    })
                    .map_err(|_| CipherError::NotAuthentic)
            }
            Kind::Cbc(keys) => {
                let block_iv = self.check_cbc(iv, text, tag)?;
                if !keys.hmac.verify(&[associated.head, iv, text, associated.tail()], tag) {
                    return Err(CipherError::NotAuthentic);
                }
                keys.cbc.decrypt(block_iv, text);
                Ok(())
            }
        }
    }

    #[inline]
    fn check_cbc<'a>(&self, iv: &'a [u8], text: &[u8], tag: &[u8]) -> Result<&'a [u8; BLOCK], CipherError> {
        if !text.len().is_multiple_of(BLOCK) || tag.len() != self.suite.icv_len() {
            return Err(CipherError::Length);
        }
        iv.try_into().map_err(|_| CipherError::Length)
    }
}

#[inline]
fn nonce(salt: &[u8; 4], iv: &[u8]) -> Result<Nonce, CipherError> {
    let iv: &[u8; 8] = iv.try_into().map_err(|_| CipherError::Length)?;
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(salt);
    nonce[4..].copy_from_slice(iv);
    Ok(Nonce::assume_unique_for_key(nonce))
}

impl fmt::Debug for PacketCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketCipher({})", self.suite)
    }
}
