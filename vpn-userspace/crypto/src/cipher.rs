//! AES-CBC with its key schedules worked out once, and IVs that nobody can foresee without the key.

use aes::cipher::{
    Block, BlockCipherEncrypt as _, BlockModeDecrypt as _, BlockModeEncrypt as _, InnerIvInit as _,
    KeyInit as _,
};
use aes::{Aes128Dec, Aes128Enc, Aes256Dec, Aes256Enc};

use crate::mac::{Hash, HmacKey};

/// A CBC block in bytes.
pub(crate) const BLOCK: usize = 16;

/// AES key schedules for CBC, and one under another key that makes IVs.
pub(crate) enum CbcKey {
    Aes128 { enc: Aes128Enc, dec: Aes128Dec, iv: Aes128Enc },
    Aes256 { enc: Aes256Enc, dec: Aes256Dec, iv: Aes256Enc },
}

impl CbcKey {
    /// From a 16- or 32-byte key; `None` for any other length.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        // RFC 3602 3: the IV must be unpredictable. SP 800-38A C, first method: a nonce (here the sequence
        // number) under the block cipher; under a key of its own, so that no block of text meets it.
        let mut iv_key = zeroize::Zeroizing::new([0; 32]);
        HmacKey::new(Hash::Sha256, key).sign(&[b"culvert cbc iv"], iv_key.as_mut());
        match key.len() {
            16 => Some(Self::Aes128 {
                enc: Aes128Enc::new_from_slice(key).ok()?,
                dec: Aes128Dec::new_from_slice(key).ok()?,
                iv: Aes128Enc::new_from_slice(iv_key.get(..16)?).ok()?,
            }),
            32 => Some(Self::Aes256 {
                enc: Aes256Enc::new_from_slice(key).ok()?,
                dec: Aes256Dec::new_from_slice(key).ok()?,
                iv: Aes256Enc::new_from_slice(iv_key.as_ref()).ok()?,
            }),
            _ => None,
        }
    }

    /// The IV of a counter value: unique for each, and looking random to whoever lacks the key.
    #[inline]
    pub(crate) fn iv(&self, counter: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[8..].copy_from_slice(&counter.to_be_bytes());
        let mut block = block.into();
        match self {
            Self::Aes128 { iv, .. } => iv.encrypt_block(&mut block),
            Self::Aes256 { iv, .. } => iv.encrypt_block(&mut block),
        }
        block.into()
    }

    /// Encrypts whole blocks in place; a remainder that is no block is left alone (callers refuse it).
    #[inline]
    pub(crate) fn encrypt(&self, iv: &[u8; BLOCK], text: &mut [u8]) {
        let (blocks, _) = Block::<Aes128Enc>::slice_as_chunks_mut(text);
        match self {
            Self::Aes128 { enc, .. } => cbc::Encryptor::inner_iv_init(enc, iv.into()).encrypt_blocks(blocks),
            Self::Aes256 { enc, .. } => cbc::Encryptor::inner_iv_init(enc, iv.into()).encrypt_blocks(blocks),
        }
    }

    /// Decrypts whole blocks in place; a remainder that is no block is left alone (callers refuse it).
    #[inline]
    pub(crate) fn decrypt(&self, iv: &[u8; BLOCK], text: &mut [u8]) {
        let (blocks, _) = Block::<Aes128Enc>::slice_as_chunks_mut(text);
        match self {
            Self::Aes128 { dec, .. } => cbc::Decryptor::inner_iv_init(dec, iv.into()).decrypt_blocks(blocks),
            Self::Aes256 { dec, .. } => cbc::Decryptor::inner_iv_init(dec, iv.into()).decrypt_blocks(blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, iv: &str, text: &str, want: &str) {
        let cbc = CbcKey::new(&hex::decode(key).unwrap()).unwrap();
        let iv: [u8; 16] = hex::decode(iv).unwrap().try_into().unwrap();
        let mut bytes = hex::decode(text).unwrap();
        cbc.encrypt(&iv, &mut bytes);
        assert_eq!(hex::encode(&bytes), want);
        cbc.decrypt(&iv, &mut bytes);
        assert_eq!(hex::encode(&bytes), text);
    }

    #[test]
    fn rfc_3602_cbc() {
        // RFC 3602 4, cases 1 and 2.
        check(
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            &hex::encode("Single block msg"),
            "e353779c1079aeb82708942dbe77181a",
        );
        check(
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        );
    }

    #[test]
    fn sp_800_38a_cbc_aes256() {
        check(
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "000102030405060708090a0b0c0d0e0f",
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
        );
    }

    #[test]
    fn ivs_differ_by_counter_and_key() {
        let (a, b) = (CbcKey::new(&[1; 16]).unwrap(), CbcKey::new(&[2; 16]).unwrap());
        assert_ne!(a.iv(1), a.iv(2));
        assert_ne!(a.iv(1), b.iv(1));
        // Not the counter under the SA's own key, which a block of text could meet.
        let mut block = [0; 16];
        block[15] = 1;
        a.encrypt(&[0; 16], &mut block);
        assert_ne!(block, a.iv(1));
        for len in [0, 15, 17, 24, 31, 33] {
            assert!(CbcKey::new(&vec![0; len]).is_none());
        }
    }
}
