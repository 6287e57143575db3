//! The AEADs that ring has not: GCM with short tags or 192-bit keys, GMAC, CCM.

use aes::cipher::array::ArraySize;
use aes::cipher::{
    Array, BlockCipherEncrypt, BlockSizeUser, InnerIvInit as _, KeyInit as _, StreamCipher as _,
    StreamCipherCoreWrapper, consts::U16,
};
use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use ccm::aead::AeadInOut;
use ccm::consts::{U8, U11, U12};
use ccm::{Ccm, TagSize};
use ctr::CtrCore;
use ctr::flavors::Ctr32BE;
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use subtle::ConstantTimeEq as _;

use crate::{Encryption, Mode};

/// One key of an AEAD. The nonce is the salt and the IV; the tag has the algorithm's length (callers check it).
pub(crate) trait Aead: Send + Sync {
    /// Encrypts in place and writes the tag; `None` for lengths that the algorithm does not take.
    fn seal(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Option<()>;
    /// Decrypts in place if the tag is right; `None` otherwise.
    fn open(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Option<()>;
}

/// The key of one of the ciphers served here; `None` for the others and for keys of a wrong length.
pub(crate) fn key(encryption: Encryption, key: &[u8]) -> Option<Box<dyn Aead>> {
    /// The same mode with AES of the key's length.
    macro_rules! sized {
        ($kind:ident) => {
            match key.len() {
                16 => Box::new($kind::new(Aes128Enc::new_from_slice(key).ok()?)) as Box<dyn Aead>,
                24 => Box::new($kind::new(Aes192Enc::new_from_slice(key).ok()?)),
                32 => Box::new($kind::new(Aes256Enc::new_from_slice(key).ok()?)),
                _ => return None,
            }
        };
    }
    macro_rules! ccm {
        ($tag:ty) => {
            match key.len() {
                16 => Box::new(Ccm::<Aes128Enc, $tag, U11>::new_from_slice(key).ok()?) as Box<dyn Aead>,
                24 => Box::new(Ccm::<Aes192Enc, $tag, U11>::new_from_slice(key).ok()?),
                32 => Box::new(Ccm::<Aes256Enc, $tag, U11>::new_from_slice(key).ok()?),
                _ => return None,
            }
        };
    }
    if key.len() != encryption.key_len() {
        return None;
    }
    Some(match encryption.mode() {
        Mode::Gcm(_) => sized!(Gcm),
        Mode::Gmac => sized!(Gmac),
        Mode::Ccm(8) => ccm!(U8),
        Mode::Ccm(12) => ccm!(U12),
        Mode::Ccm(_) => ccm!(U16),
        Mode::Cbc | Mode::Ctr | Mode::ChaCha20Poly1305 => return None,
    })
}

/// Galois/counter mode (SP 800-38D) with a nonce of 12 bytes.
pub(crate) struct Gcm<C> {
    cipher: C,
    ghash: GHash,
}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>> Gcm<C> {
    fn new(cipher: C) -> Self {
        let mut h = Array::default();
        cipher.encrypt_block(&mut h);
        Self { ghash: <GHash as ghash::universal_hash::KeyInit>::new(&h), cipher }
    }

    /// Counter mode from block 2 on: block 1 masks the tag.
    fn crypt(&self, nonce: &[u8; 12], text: &mut [u8]) -> Option<()> {
        let core = CtrCore::<&C, Ctr32BE>::inner_iv_init(&self.cipher, &counter(nonce, 2).into());
        StreamCipherCoreWrapper::from_core(core).try_apply_keystream(text).ok()
    }

    /// The whole tag over associated data (in two parts, padded as one) and ciphertext.
    fn tag(&self, nonce: &[u8; 12], aad: [&[u8]; 2], text: &[u8]) -> [u8; 16] {
        let mut ghash = self.ghash.clone();
        let [head, rest] = aad;
        // The head (ESP's header, perhaps an IV) is short: it is filled up to blocks with what follows it.
        let mut joined = [0; 48];
        let room = head.len().next_multiple_of(16).min(joined.len());
        let take = rest.len().min(room.saturating_sub(head.len()));
        if head.len() <= joined.len() {
            joined[..head.len()].copy_from_slice(head);
            joined[head.len()..head.len() + take].copy_from_slice(&rest[..take]);
            ghash.update_padded(&joined[..head.len() + take]);
            ghash.update_padded(&rest[take..]);
        } else {
            // A long head comes alone (an IKE message's header is 32 bytes).
            ghash.update_padded(&[head, rest].concat());
        }
        ghash.update_padded(text);
        let bits = |len: usize| (len as u64 * 8).to_be_bytes();
        let mut lengths = [0; 16];
        lengths[..8].copy_from_slice(&bits(head.len() + rest.len()));
        lengths[8..].copy_from_slice(&bits(text.len()));
        ghash.update(&[lengths.into()]);
        let mut mask = counter(nonce, 1).into();
        self.cipher.encrypt_block(&mut mask);
        let mut tag: [u8; 16] = ghash.finalize().into();
        tag.iter_mut().zip(mask).for_each(|(tag, mask)| *tag ^= mask);
        tag
    }
}

fn counter(nonce: &[u8; 12], value: u32) -> [u8; 16] {
    let mut block = [0; 16];
    block[..12].copy_from_slice(nonce);
    block[12..].copy_from_slice(&value.to_be_bytes());
    block
}

fn write(tag: [u8; 16], out: &mut [u8]) -> Option<()> {
    out.copy_from_slice(tag.get(..out.len())?);
    Some(())
}

/// Constant time. An empty tag is never right.
fn same(want: [u8; 16], tag: &[u8]) -> Option<()> {
    let want = want.get(..tag.len()).filter(|want| !want.is_empty())?;
    bool::from(want.ct_eq(tag)).then_some(())
}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + Send + Sync> Aead for Gcm<C> {
    fn seal(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Option<()> {
        let nonce = nonce.try_into().ok()?;
        self.crypt(nonce, text)?;
        write(self.tag(nonce, [aad, &[]], text), tag)
    }

    fn open(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Option<()> {
        let nonce = nonce.try_into().ok()?;
        same(self.tag(nonce, [aad, &[]], text), tag)?;
        self.crypt(nonce, text)
    }
}

/// GMAC for ESP (RFC 4543 3.3): header, IV and payload are all associated data, nothing is encrypted.
pub(crate) struct Gmac<C>(Gcm<C>);

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>> Gmac<C> {
    fn new(cipher: C) -> Self {
        Self(Gcm::new(cipher))
    }

    fn tag(&self, nonce: &[u8], aad: &[u8], text: &[u8]) -> Option<[u8; 16]> {
        let nonce: &[u8; 12] = nonce.try_into().ok()?;
        let mut head = [0; 12 + 8];
        let len = aad.len() + 8;
        head.get_mut(..aad.len())?.copy_from_slice(aad);
        head.get_mut(aad.len()..len)?.copy_from_slice(&nonce[4..]);
        Some(self.0.tag(nonce, [head.get(..len)?, text], &[]))
    }
}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + Send + Sync> Aead for Gmac<C> {
    fn seal(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Option<()> {
        write(self.tag(nonce, aad, text)?, tag)
    }

    fn open(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Option<()> {
        same(self.tag(nonce, aad, text)?, tag)
    }
}

impl<C, M> Aead for Ccm<C, M, U11>
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
    M: ArraySize + TagSize + Send + Sync,
    Self: AeadInOut<NonceSize = U11, TagSize = M>,
{
    fn seal(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Option<()> {
        let nonce = nonce.try_into().ok()?;
        let made = self.encrypt_inout_detached(nonce, aad, text.into()).ok()?;
        tag.copy_from_slice(made.get(..).filter(|made| made.len() == tag.len())?);
        Some(())
    }

    fn open(&self, nonce: &[u8], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Option<()> {
        let (nonce, tag) = (nonce.try_into().ok()?, tag.try_into().ok()?);
        self.decrypt_inout_detached(nonce, aad, text.into(), tag).ok()
    }
}
