//! One direction of one SA, ready to seal and open: used by ESP and by IKE's SK payload.
//!
//! Nothing here allocates or derives a key per packet. The text is worked on in place.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::aead::Aead;
use crate::cipher::Cipher;
use crate::mac::MacKey;
use crate::{Encryption, Suite, SuiteKeys, aead, cipher};

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
    /// ring's: AES-GCM with whole tags and ChaCha20-Poly1305, the fast ones.
    Ring { key: Box<LessSafeKey>, salt: [u8; 4] },
    /// The other AEADs, with the salt and its length.
    Aead { key: Box<dyn Aead>, salt: [u8; 4], salt_len: usize },
    /// A cipher and a MAC.
    Pair { cipher: Box<dyn Cipher>, mac: Box<MacKey> },
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
        let encryption = suite.encryption();
        let ring = match encryption {
            Encryption::AesGcm128 => Some(&AES_128_GCM),
            Encryption::AesGcm256 => Some(&AES_256_GCM),
            Encryption::ChaCha20Poly1305 => Some(&CHACHA20_POLY1305),
            _ => None,
        };
        let kind = match (ring, suite.integrity()) {
            (Some(algorithm), _) => {
                // RFC 4106 8.1, RFC 7634 2: the salt is the last four bytes of the key material.
                let (key, salt) = keys.encryption().split_last_chunk().ok_or(error)?;
                let key = UnboundKey::new(algorithm, key).map_err(|_| error)?;
                Kind::Ring { key: Box::new(LessSafeKey::new(key)), salt: *salt }
            }
            (None, None) => {
                let (key, given) = keys.encryption().split_at_checked(encryption.key_len()).ok_or(error)?;
                let key = aead::key(encryption, key).ok_or(error)?;
                let mut salt = [0; 4];
                let salt_len = given.len();
                // At the end, before the IV: see `nonce`.
                let start = salt.len().checked_sub(salt_len).ok_or(error)?;
                salt.get_mut(start..).ok_or(error)?.copy_from_slice(given);
                Kind::Aead { key, salt, salt_len }
            }
            (None, Some(integrity)) => Kind::Pair {
                cipher: cipher::key(encryption, keys.encryption()).ok_or(error)?,
                mac: Box::new(MacKey::for_integrity(integrity, keys.integrity()).ok_or(error)?),
            },
        };
        Ok(Self { suite, kind })
    }

    /// The suite.
    #[inline]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Writes the IV of a counter value that is used once under these keys (the sequence number, the
    /// number of the IKE message): for AEADs and CTR the counter itself (RFC 4106 3.1), for CBC the counter
    /// under a secret key, so that it cannot be foreseen (RFC 3602 3). `out` is [`Suite::iv_len`] bytes.
    #[inline]
    pub fn write_iv(&self, counter: u64, out: &mut [u8]) -> Result<(), CipherError> {
        match &self.kind {
            Kind::Pair { cipher, .. } => {
                if out.len() != self.suite.iv_len() {
                    return Err(CipherError::Length);
                }
                cipher.write_iv(counter, out);
                Ok(())
            }
            Kind::Ring { .. } | Kind::Aead { .. } => {
                let out: &mut [u8; 8] = out.try_into().map_err(|_| CipherError::Length)?;
                *out = counter.to_be_bytes();
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
            Kind::Ring { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(nonce(salt, iv)?);
                let tag: &mut [u8; 16] = tag.try_into().map_err(|_| CipherError::Length)?;
                let sealed = associated
                    .aad(|aad| key.seal_in_place_separate_tag(nonce, aad, text))
                    .map_err(|_| CipherError::Length)?;
                tag.copy_from_slice(sealed.as_ref());
                Ok(())
            }
            Kind::Aead { key, salt, salt_len } => {
                self.check(iv, text, tag)?;
                let nonce = nonce(salt, iv)?;
                let nonce = short_nonce(&nonce, *salt_len).ok_or(CipherError::Length)?;
                associated.aad(|aad| key.seal(nonce, aad.as_ref(), text, tag)).ok_or(CipherError::Length)
            }
            Kind::Pair { cipher, mac } => {
                self.check(iv, text, tag)?;
                cipher.encrypt(iv, text);
                mac.sign(&[associated.head, iv, text, associated.tail()], tag);
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
            Kind::Ring { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(nonce(salt, iv)?);
                let tag: [u8; 16] = tag.try_into().map_err(|_| CipherError::Length)?;
                associated
                    .aad(|aad| {
                        key.open_in_place_separate_tag(nonce, aad, Tag::from(tag), text, 0..).map(|_| ())
                    })
                    .map_err(|_| CipherError::NotAuthentic)
            }
            Kind::Aead { key, salt, salt_len } => {
                self.check(iv, text, tag)?;
                let nonce = nonce(salt, iv)?;
                let nonce = short_nonce(&nonce, *salt_len).ok_or(CipherError::Length)?;
                associated
                    .aad(|aad| key.open(nonce, aad.as_ref(), text, tag))
                    .ok_or(CipherError::NotAuthentic)
            }
            Kind::Pair { cipher, mac } => {
                self.check(iv, text, tag)?;
                if !mac.verify(&[associated.head, iv, text, associated.tail()], tag) {
                    return Err(CipherError::NotAuthentic);
                }
                cipher.decrypt(iv, text);
                Ok(())
            }
        }
    }

    #[inline]
    fn check(&self, iv: &[u8], text: &[u8], tag: &[u8]) -> Result<(), CipherError> {
        let whole = text.len().is_multiple_of(self.suite.encryption().block_len());
        let fits = tag.len() == self.suite.icv_len() && iv.len() == self.suite.iv_len();
        if whole && fits { Ok(()) } else { Err(CipherError::Length) }
    }
}

/// Salt and IV at the end of twelve bytes: a shorter salt leaves bytes unused at the front.
#[inline]
fn nonce(salt: &[u8; 4], iv: &[u8]) -> Result<[u8; 12], CipherError> {
    let iv: &[u8; 8] = iv.try_into().map_err(|_| CipherError::Length)?;
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(salt);
    nonce[4..].copy_from_slice(iv);
    Ok(nonce)
}

#[inline]
fn short_nonce(nonce: &[u8; 12], salt_len: usize) -> Option<&[u8]> {
    nonce.get(4usize.checked_sub(salt_len)?..)
}

impl fmt::Debug for PacketCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketCipher({})", self.suite)
    }
}
