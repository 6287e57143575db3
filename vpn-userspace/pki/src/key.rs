//! Private keys from PEM: PKCS#8, encrypted PKCS#8 (PBES2, RFC 8018), PKCS#1 and SEC 1.

use culvert_crypto::sign::{BadKey, PrivateKey};
use pkcs8::EncryptedPrivateKeyInfoRef;
use zeroize::Zeroizing;

use crate::pem::{PemError, blocks, decode};

/// What is wrong with a private key's file; says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not PEM, or no key in it.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Encrypted, and no password is given.
    #[error("holds an encrypted private key, and no password is given")]
    NeedsPassword,
    /// The password does not open it, or it is encrypted in a way that is not served.
    #[error("holds a private key that the password does not open")]
    Password,
    /// Encrypted as tools did it in the last century (RFC 1421).
    #[error("holds a private key that is encrypted in the way before PKCS#8")]
    OldEncryption,
    /// A key that is not taken.
    #[error("holds a private key that cannot be used: {0}")]
    Key(#[from] BadKey),
}

/// The first private key of a PEM file, decrypted where it needs to be.
pub fn private_key(pem: &[u8], password: Option<&[u8]>) -> Result<PrivateKey, KeyFileError> {
    let what = "private key";
    let block = blocks(pem).find(|(label, _)| label.ends_with("PRIVATE KEY"));
    let (label, block) = block.ok_or(PemError::None(what))?;
    if block.windows(9).any(|w| w == b"ENCRYPTED") {
        return Err(KeyFileError::OldEncryption);
    }
    let der = decode(block).map(Zeroizing::new).ok_or(PemError::Unreadable(what))?;
    Ok(match label {
        "ENCRYPTED PRIVATE KEY" => {
            let password = password.ok_or(KeyFileError::NeedsPassword)?;
            let info = EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
                .map_err(|_| PemError::Unreadable(what))?;
            let plain = info.decrypt(password).map_err(|_| KeyFileError::Password)?;
            PrivateKey::from_pkcs8(plain.as_bytes())?
        }
        "RSA PRIVATE KEY" => PrivateKey::from_pkcs1(&der)?,
        "EC PRIVATE KEY" => PrivateKey::from_sec1(&der)?,
        _ => PrivateKey::from_pkcs8(&der)?,
    })
}
