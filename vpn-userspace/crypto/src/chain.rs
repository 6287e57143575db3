//! CBC whose IVs the caller chains from message to message, as IKEv1 does (RFC 2409 appendix B).

use std::fmt;

use crate::cipher::{self, Cipher};
use crate::{CipherError, Encryption, Mode};

/// A cipher in CBC mode without integrity: for IKEv1's messages, which carry hashes of their own, and nothing else.
pub struct CbcChain {
    encryption: Encryption,
    key: Box<dyn Cipher>,
}

impl CbcChain {
    /// `None` for a cipher that has no CBC, or a key of another length than the cipher's.
    pub fn new(encryption: Encryption, key: &[u8]) -> Option<Self> {
        if encryption.mode() != Mode::Cbc {
            return None;
        }
        Some(Self { encryption, key: cipher::key(encryption, key)? })
    }

    /// The cipher.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// Length of a block and of the IV, in bytes.
    pub fn block_len(&self) -> usize {
        self.encryption.block_len()
    }

    /// Encrypts whole blocks in place. The last block is the IV of the message after this one.
    pub fn encrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), CipherError> {
        self.check(iv, text)?;
        self.key.encrypt(iv, text);
        Ok(())
    }

    /// Decrypts whole blocks in place.
    pub fn decrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), CipherError> {
        self.check(iv, text)?;
        self.key.decrypt(iv, text);
        Ok(())
    }

    fn check(&self, iv: &[u8], text: &[u8]) -> Result<(), CipherError> {
        let block = self.block_len();
        if text.len().is_multiple_of(block) && iv.len() == block { Ok(()) } else { Err(CipherError::Length) }
    }
}

impl fmt::Debug for CbcChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CbcChain({})", self.encryption)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_messages_is_one_cbc_text() {
        let cbc = CbcChain::new(Encryption::AesCbc128, &[7; 16]).unwrap();
        let mut whole = [3; 64];
        cbc.encrypt(&[9; 16], &mut whole).unwrap();
        let (mut first, mut second) = ([3; 32], [3; 32]);
        cbc.encrypt(&[9; 16], &mut first).unwrap();
        cbc.encrypt(&first[16..], &mut second).unwrap();
        assert_eq!([first, second].concat(), whole);
        cbc.decrypt(&first[16..], &mut second).unwrap();
        assert_eq!(second, [3; 32]);
    }

    #[test]
    fn lengths_are_checked() {
        assert!(CbcChain::new(Encryption::AesCbc128, &[7; 32]).is_none());
        assert!(CbcChain::new(Encryption::AesGcm128, &[7; 20]).is_none());
        let des = CbcChain::new(Encryption::TripleDes, &[7; 24]).unwrap();
        assert_eq!((des.block_len(), des.encrypt(&[0; 8], &mut [0; 24])), (8, Ok(())));
        let cbc = CbcChain::new(Encryption::AesCbc256, &[7; 32]).unwrap();
        assert_eq!(cbc.encrypt(&[0; 16], &mut [0; 15]), Err(CipherError::Length));
        assert_eq!(cbc.decrypt(&[0; 8], &mut [0; 16]), Err(CipherError::Length));
        assert_eq!(format!("{cbc:?}"), "CbcChain(aes256)");
    }
}
