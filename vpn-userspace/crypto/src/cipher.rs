//! Ciphers that need a MAC beside them: CBC and CTR, their key schedules worked out once, and CBC's IVs, which
//! nobody can foresee without the key.

use aes::cipher::{
    Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt as _, BlockModeEncrypt as _,
    BlockSizeUser, InnerIvInit as _, KeyInit, StreamCipher as _, StreamCipherCoreWrapper, consts::U16,
};
use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};
use ctr::CtrCore;
use ctr::flavors::Ctr32BE;
use des::TdesEde3;
use zeroize::Zeroizing;

use crate::{Encryption, Hash, Mode, mac::HmacKey};

/// One key of a cipher. IVs and texts have the cipher's lengths: callers check them.
pub(crate) trait Cipher: Send + Sync {
    /// Writes the IV of a counter value.
    fn write_iv(&self, counter: u64, out: &mut [u8]);
    /// Encrypts in place; nothing happens for an IV of a wrong length.
    fn encrypt(&self, iv: &[u8], text: &mut [u8]);
    /// Decrypts in place; nothing happens for an IV of a wrong length.
    fn decrypt(&self, iv: &[u8], text: &mut [u8]);
}

/// The key of one of the ciphers served here, from its key material (with CTR the nonce after the key). `None` for
/// the others and for material of a wrong length.
pub(crate) fn key(encryption: Encryption, material: &[u8]) -> Option<Box<dyn Cipher>> {
    if material.len() != encryption.key_len() + encryption.salt_len() {
        return None;
    }
    let (key, nonce) = material.split_at_checked(encryption.key_len())?;
    Some(match (encryption.mode(), key.len()) {
        (Mode::Cbc, 16) => Box::new(Cbc::<Aes128Enc, Aes128Dec>::new(key)?),
        (Mode::Cbc, 24) if encryption == Encryption::TripleDes => {
            Box::new(Cbc::<TdesEde3, TdesEde3>::new(key)?)
        }
        (Mode::Cbc, 24) => Box::new(Cbc::<Aes192Enc, Aes192Dec>::new(key)?),
        (Mode::Cbc, 32) => Box::new(Cbc::<Aes256Enc, Aes256Dec>::new(key)?),
        (Mode::Ctr, 16) => Box::new(Counter::<Aes128Enc>::new(key, nonce)?),
        (Mode::Ctr, 24) => Box::new(Counter::<Aes192Enc>::new(key, nonce)?),
        (Mode::Ctr, 32) => Box::new(Counter::<Aes256Enc>::new(key, nonce)?),
        _ => return None,
    })
}

/// Key schedules for CBC, and one under another key that makes IVs.
struct Cbc<E, D> {
    enc: E,
    dec: D,
    iv: E,
}

impl<E: BlockCipherEncrypt + KeyInit, D: BlockCipherDecrypt + KeyInit> Cbc<E, D> {
    fn new(key: &[u8]) -> Option<Self> {
        // RFC 3602 3: the IV must be unpredictable. SP 800-38A C, first method: a nonce (here the sequence
        // number) under the block cipher; under a key of its own, so that no block of text meets it.
        let mut iv_key = Zeroizing::new([0; 32]);
        HmacKey::new(Hash::Sha256, key).sign(&[b"culvert cbc iv"], iv_key.as_mut());
        Some(Self {
            enc: E::new_from_slice(key).ok()?,
            dec: D::new_from_slice(key).ok()?,
            iv: E::new_from_slice(iv_key.get(..key.len())?).ok()?,
        })
    }
}

impl<E, D> Cipher for Cbc<E, D>
where
    E: BlockCipherEncrypt + Send + Sync,
    D: BlockCipherDecrypt + BlockSizeUser<BlockSize = E::BlockSize> + Send + Sync,
{
    /// Unique for each counter, and looking random to whoever lacks the key.
    fn write_iv(&self, counter: u64, out: &mut [u8]) {
        let mut block = Block::<E>::default();
        let start = block.len().saturating_sub(8);
        block.iter_mut().skip(start).zip(counter.to_be_bytes()).for_each(|(to, from)| *to = from);
        self.iv.encrypt_block(&mut block);
        out.iter_mut().zip(block).for_each(|(to, from)| *to = from);
    }

    fn encrypt(&self, iv: &[u8], text: &mut [u8]) {
        let Ok(iv) = iv.try_into() else { return };
        let (blocks, _) = Block::<E>::slice_as_chunks_mut(text);
        cbc::Encryptor::inner_iv_init(&self.enc, iv).encrypt_blocks(blocks);
    }

    fn decrypt(&self, iv: &[u8], text: &mut [u8]) {
        let Ok(iv) = iv.try_into() else { return };
        let (blocks, _) = Block::<D>::slice_as_chunks_mut(text);
        cbc::Decryptor::inner_iv_init(&self.dec, iv).decrypt_blocks(blocks);
    }
}

/// Counter mode (RFC 3686 4): the counter block is the nonce of the key material, the packet's IV, and 1.
struct Counter<E> {
    enc: E,
    nonce: [u8; 4],
}

impl<E: KeyInit> Counter<E> {
    fn new(key: &[u8], nonce: &[u8]) -> Option<Self> {
        Some(Self { enc: E::new_from_slice(key).ok()?, nonce: nonce.try_into().ok()? })
    }
}

impl<E: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + Send + Sync> Cipher for Counter<E> {
    /// The counter itself: RFC 3686 3.1 asks only that no IV comes twice.
    fn write_iv(&self, counter: u64, out: &mut [u8]) {
        out.iter_mut().zip(counter.to_be_bytes()).for_each(|(to, from)| *to = from);
    }

    fn encrypt(&self, iv: &[u8], text: &mut [u8]) {
        let Ok(iv) = <&[u8; 8]>::try_from(iv) else { return };
        let mut block = [0; 16];
        block[..4].copy_from_slice(&self.nonce);
        block[4..12].copy_from_slice(iv);
        block[15] = 1;
        let core = CtrCore::<&E, Ctr32BE>::inner_iv_init(&self.enc, &block.into());
        // 2^32 blocks are more than any packet has.
        let _ = StreamCipherCoreWrapper::from_core(core).try_apply_keystream(text);
    }

    fn decrypt(&self, iv: &[u8], text: &mut [u8]) {
        self.encrypt(iv, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(encryption: Encryption, material: &str, iv: &str, text: &str, want: &str) {
        let cipher = key(encryption, &hex::decode(material).unwrap()).unwrap();
        let iv = hex::decode(iv).unwrap();
        let mut bytes = hex::decode(text).unwrap();
        cipher.encrypt(&iv, &mut bytes);
        assert_eq!(hex::encode(&bytes), want);
        cipher.decrypt(&iv, &mut bytes);
        assert_eq!(hex::encode(&bytes), text);
    }

    #[test]
    fn rfc_3602_cbc() {
        // RFC 3602 4, cases 1 and 2.
        check(
            Encryption::AesCbc128,
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            &hex::encode("Single block msg"),
            "e353779c1079aeb82708942dbe77181a",
        );
        check(
            Encryption::AesCbc128,
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        );
    }

    #[test]
    fn sp_800_38a_cbc() {
        let text = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
        check(
            Encryption::AesCbc192,
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            "000102030405060708090a0b0c0d0e0f",
            text,
            "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
        );
        check(
            Encryption::AesCbc256,
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "000102030405060708090a0b0c0d0e0f",
            text,
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
        );
    }

    /// RFC 3686 6, test vectors 1, 3, 5 and 8: one block, a remainder, 192 and 256 bits.
    #[test]
    fn rfc_3686_ctr() {
        let text: String = (0..36).map(|b| format!("{b:02x}")).collect();
        check(
            Encryption::AesCtr128,
            "ae6852f8121067cc4bf7a5765577f39e00000030",
            "0000000000000000",
            &hex::encode("Single block msg"),
            "e4095d4fb7a7b3792d6175a3261311b8",
        );
        check(
            Encryption::AesCtr128,
            "7691be035e5020a8ac6e618529f9a0dc00e0017b",
            "27777f3f4a1786f0",
            &text,
            "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f",
        );
        check(
            Encryption::AesCtr192,
            "7c5cb2401b3dc33c19e7340819e0f69c678c3db8e6f6a91a0096b03b",
            "020c6eadc2cb500d",
            &text[..64],
            "453243fc609b23327edfaafa7131cd9f8490701c5ad4a79cfc1fe0ff42f4fb00",
        );
        check(
            Encryption::AesCtr256,
            "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a2388400faac24",
            "c1585ef15a43d875",
            &text[..64],
            "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c",
        );
    }

    /// Three single-DES keys, each with odd parity: OpenSSL's `des-ede3-cbc` over the same bytes.
    #[test]
    fn triple_des() {
        check(
            Encryption::TripleDes,
            "0123456789abcdef23456789abcdef01456789abcdef0123",
            "f69f2445df4f9b17",
            "6bc1bee22e409f96e93d7e117393172a",
            "2079c3d53aa763e193b79e2569ab5262",
        );
    }

    #[test]
    fn ivs_differ_by_counter_and_key() {
        for encryption in Encryption::ALL {
            let len = encryption.key_len() + encryption.salt_len();
            let Some(a) = key(encryption, &vec![1; len]) else { continue };
            let b = key(encryption, &vec![2; len]).unwrap();
            let iv = |cipher: &dyn Cipher, counter| {
                let mut iv = vec![0; encryption.iv_len()];
                cipher.write_iv(counter, &mut iv);
                iv
            };
            assert_ne!(iv(&*a, 1), iv(&*a, 2));
            if encryption.mode() == Mode::Cbc {
                assert_ne!(iv(&*a, 1), iv(&*b, 1));
                // Not the counter under the SA's own key, which a block of text could meet.
                let mut block = vec![0; encryption.block_len()];
                *block.last_mut().unwrap() = 1;
                a.encrypt(&vec![0; encryption.block_len()], &mut block);
                assert_ne!(block, iv(&*a, 1));
            }
            for wrong in [0, len - 1, len + 1] {
                assert!(key(encryption, &vec![0; wrong]).is_none());
            }
        }
    }
}
