//! HMAC with its key worked in once: what a packet or a PRF call costs is a copy of the state.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;

/// Which hash an HMAC is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// An HMAC key: the inner and outer hash states after the padded key (RFC 2104 4).
#[derive(Clone)]
pub(crate) enum HmacKey {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

/// Runs the same code on each kind of state; the branch is taken once per message.
macro_rules! with_state {
    ($key:expr, $mac:ident => $body:expr) => {
        match $key {
            HmacKey::Sha1(state) => {
                let mut $mac = state.clone();
                $body
            }
            HmacKey::Sha256(state) => {
                let mut $mac = state.clone();
                $body
            }
            HmacKey::Sha384(state) => {
                let mut $mac = state.clone();
                $body
            }
            HmacKey::Sha512(state) => {
                let mut $mac = state.clone();
                $body
            }
        }
    };
}

impl HmacKey {
    /// Works the key in. HMAC takes keys of any length.
    pub(crate) fn new(hash: Hash, key: &[u8]) -> Self {
        const ANY: &str = "HMAC takes a key of any length";
        match hash {
            Hash::Sha1 => Self::Sha1(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha256 => Self::Sha256(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha384 => Self::Sha384(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha512 => Self::Sha512(Hmac::new_from_slice(key).expect(ANY)),
        }
    }

    /// The MAC of the parts, cut to `out`'s length (at most the hash's).
    #[inline]
    pub(crate) fn sign(&self, parts: &[&[u8]], out: &mut [u8]) {
        with_state!(self, mac => {
            for part in parts {
                mac.update(part);
            }
            let tag = mac.finalize().into_bytes();
            let len = out.len().min(tag.len());
            out[..len].copy_from_slice(&tag[..len]);
        });
    }

    /// Whether `tag` is the MAC of the parts cut to its length. Constant time; an empty tag or one
    /// longer than the hash is never right.
    #[inline]
    #[must_use]
    pub(crate) fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        with_state!(self, mac => {
            for part in parts {
                mac.update(part);
            }
            let want = mac.finalize().into_bytes();
            match want.get(..tag.len()) {
                Some(want) if !tag.is_empty() => want.ct_eq(tag).into(),
                _ => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hash: Hash, key: &[u8], data: &[u8], want: &str) {
        let want = hex::decode(want).unwrap();
        let key = HmacKey::new(hash, key);
        let mut got = vec![0; want.len()];
        key.sign(&[data], &mut got);
        assert_eq!(hex::encode(&got), hex::encode(&want));
        let (a, b) = data.split_at(data.len() / 2);
        assert!(key.verify(&[a, b], &want));
        for i in 0..want.len() {
            let mut bad = want.clone();
            bad[i] ^= 1;
            assert!(!key.verify(&[data], &bad));
        }
        assert!(!key.verify(&[data], &[]));
        assert!(!key.verify(&[data], &[want.as_slice(), &[0; 65]].concat()));
    }

    #[test]
    fn rfc_2202_hmac_sha1() {
        check(Hash::Sha1, &[0x0b; 20], b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00");
        check(
            Hash::Sha1,
            b"Jefe",
            b"what do ya want for nothing?",
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
        );
        check(Hash::Sha1, &[0x0c; 20], b"Test With Truncation", "4c1a03424b55e07fe7f27be1");
        check(
            Hash::Sha1,
            &[0xaa; 80],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "aa4ae5e15272d00e95705637ce8a3b55ed402112",
        );
    }

    #[test]
    fn rfc_4868_hmac_sha2() {
        // RFC 4868 2.7.1, PRF test cases 1 and 2.
        check(
            Hash::Sha256,
            &[0x0b; 20],
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        );
        check(
            Hash::Sha384,
            &[0x0b; 20],
            b"Hi There",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        );
        check(
            Hash::Sha512,
            &[0x0b; 20],
            b"Hi There",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        );
        // RFC 4868 2.7.2.1, AUTH256-1: a 32-byte key, cut to 128 bits.
        check(Hash::Sha256, &[0x0b; 32], b"Hi There", "198a607eb44bfbc69903a0f1cf2bbdc5");
        // RFC 4868 2.7.2.3, AUTH512-1.
        check(
            Hash::Sha512,
            &[0x0b; 64],
            b"Hi There",
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
        );
    }
}
