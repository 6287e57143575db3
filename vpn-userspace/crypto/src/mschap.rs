//! MS-CHAPv2 (RFC 2759) and the keys that EAP takes from it (RFC 3079).
//!
//! DES and MD4 prove little today: what protects the password from guessing is that the server has proven itself by a
//! certificate before, inside whose protection these values travel.

use std::fmt;

use des::Des;
use des::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use md4::{Digest as _, Md4};
use sha1::Sha1;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Secret, equal};

/// What a server keeps of a password: MD4 over its UTF-16 form. As good as the password to whoever has it.
#[derive(Clone, PartialEq, Eq)]
pub struct NtHash(Secret);

/// The values of one run of the protocol, as both sides see them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MsChap<'a> {
    /// The server's challenge.
    pub server_challenge: &'a [u8; 16],
    /// The client's challenge.
    pub client_challenge: &'a [u8; 16],
    /// The user's name, without a domain.
    pub user: &'a [u8],
}

/// Length of an EAP master session key, in bytes.
const MSK_LEN: usize = 64;

impl NtHash {
    /// The hash of a password (RFC 2759 8.3).
    pub fn of(password: &str) -> Self {
        let mut utf16: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::with_capacity(2 * password.len()));
        for unit in password.encode_utf16() {
            utf16.extend_from_slice(&unit.to_le_bytes());
        }
        Self::digest(&utf16)
    }

    fn digest(bytes: &[u8]) -> Self {
        let mut digest = Md4::digest(bytes);
        let hash = Self(Secret::from(digest.as_slice()));
        digest.as_mut_slice().zeroize();
        hash
    }

    /// The client's answer to the challenges (RFC 2759 8.1).
    pub fn response(&self, run: &MsChap<'_>) -> [u8; 24] {
        // RFC 2759 8.5: the hash and five zeros are the keys of three DES encryptions of one block.
        let mut padded = Zeroizing::new([0; 21]);
        for (to, from) in padded.iter_mut().zip(self.0.iter()) {
            *to = *from;
        }
        let challenge = run.hash();
        let mut out = [0; 24];
        for (part, out) in padded.as_chunks::<7>().0.iter().zip(out.as_chunks_mut::<8>().0) {
            out.copy_from_slice(&des(part, &challenge));
        }
        out
    }

    /// Whether a client's answer shows that it knows the password. Takes the same time either way.
    pub fn accepts(&self, run: &MsChap<'_>, response: &[u8; 24]) -> bool {
        equal(&self.response(run), response)
    }

    /// What the server proves with that it knows the password, too (RFC 2759 8.7).
    pub fn authenticator(&self, run: &MsChap<'_>, response: &[u8; 24]) -> [u8; 20] {
        let inner = Sha1::new()
            .chain_update(&Self::digest(&self.0).0[..])
            .chain_update(response)
            .chain_update(b"Magic server to client signing constant");
        let outer = Sha1::new()
            .chain_update(inner.finalize())
            .chain_update(run.hash())
            .chain_update(b"Pad to make it do more than one iteration");
        outer.finalize().into()
    }

    /// The master session key that EAP-MSCHAPv2 exports: the server's receive key, its send key, and zeros (RFC 3079 3).
    pub fn msk(&self, response: &[u8; 24]) -> Secret {
        const RECEIVE: &[u8] = b"On the client side, this is the send key; \
            on the server side, it is the receive key.";
        const SEND: &[u8] = b"On the client side, this is the receive key; \
            on the server side, it is the send key.";
        let mut master = Sha1::new()
            .chain_update(&Self::digest(&self.0).0[..])
            .chain_update(response)
            .chain_update(b"This is the MPPE Master Key")
            .finalize();
        let mut msk = Secret::zeroed(MSK_LEN);
        for (out, magic) in msk.as_mut().chunks_mut(16).zip([RECEIVE, SEND]) {
            let mut key = Sha1::new()
                .chain_update(master.as_slice().get(..16).unwrap_or_default())
                .chain_update([0; 40])
                .chain_update(magic)
                .chain_update([0xf2; 40])
                .finalize();
            for (to, from) in out.iter_mut().zip(key.as_slice()) {
                *to = *from;
            }
            key.as_mut_slice().zeroize();
        }
        master.as_mut_slice().zeroize();
        msk
    }
}

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NtHash(..)")
    }
}

impl MsChap<'_> {
    /// RFC 2759 8.2.
    fn hash(&self) -> [u8; 8] {
        let digest = Sha1::new()
            .chain_update(self.client_challenge)
            .chain_update(self.server_challenge)
            .chain_update(self.user)
            .finalize();
        let mut out = [0; 8];
        for (to, from) in out.iter_mut().zip(digest) {
            *to = from;
        }
        out
    }
}

/// One block under a key of 56 bits, spread over 64 as DES wants it (RFC 2759 8.6; the parity bits are ignored).
fn des(key: &[u8; 7], block: &[u8; 8]) -> [u8; 8] {
    let bits = key.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut spread = Zeroizing::new([0; 8]);
    for (index, byte) in spread.iter_mut().enumerate() {
        *byte = (bits >> (49 - 7 * index) << 1) as u8;
    }
    let mut out = (*block).into();
    Des::new((&*spread).into()).encrypt_block(&mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: [u8; 16] = hex("5b5d7c7d7b3f2f3e3c2c602132262628");
    const CLIENT: [u8; 16] = hex("21402324255e262a28295f2b3a337c7e");
    const RUN: MsChap<'static> =
        MsChap { server_challenge: &SERVER, client_challenge: &CLIENT, user: b"User" };

    const fn hex<const N: usize>(text: &str) -> [u8; N] {
        const fn digit(c: u8) -> u8 {
            if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 }
        }
        let (mut out, mut i) = ([0; N], 0);
        while i < N {
            out[i] = digit(text.as_bytes()[2 * i]) << 4 | digit(text.as_bytes()[2 * i + 1]);
            i += 1;
        }
        out
    }

    /// RFC 2759 9.2.
    #[test]
    fn the_rfcs_example() {
        let hash = NtHash::of("clientPass");
        assert_eq!(hash.0[..], hex::<16>("44ebba8d5312b8d611474411f56989ae"));
        assert_eq!(RUN.hash(), hex::<8>("d02e4386bce91226"));
        let response = hash.response(&RUN);
        assert_eq!(response, hex::<24>("82309ecd8d708b5ea08faa3981cd83544233114a3d85d6df"));
        assert_eq!(
            hash.authenticator(&RUN, &response),
            hex::<20>("407a5589115fd0d6209f510fe9c04566932cda56")
        );
        assert!(hash.accepts(&RUN, &response));
        assert!(!NtHash::of("clientpass").accepts(&RUN, &response));
        assert!(!hash.accepts(&MsChap { user: b"user", ..RUN }, &response));
    }

    /// RFC 3079 3.5.3: what a client sends with is what the server receives with.
    #[test]
    fn the_rfcs_keys() {
        let hash = NtHash::of("clientPass");
        let msk = hash.msk(&hash.response(&RUN));
        assert_eq!(msk.len(), 64);
        // Its example is for the server's send key.
        assert_eq!(msk[16..32], hex::<16>("8b7cdc149b993a1ba118cb153f56dccb"));
        assert_ne!(msk[..16], msk[16..32]);
        assert_eq!(msk[32..], [0; 32]);
    }

    #[test]
    fn passwords_are_utf_16_and_hidden() {
        assert_ne!(NtHash::of("pässwörd"), NtHash::of("passwrd"));
        // MD4 of nothing (RFC 1320 A.5).
        assert_eq!(NtHash::of("").0[..], hex::<16>("31d6cfe0d16ae931b73c59d7e0c089c0"));
        assert_eq!(format!("{:?}", NtHash::of("x")), "NtHash(..)");
    }
}
