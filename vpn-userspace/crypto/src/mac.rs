//! MACs with their keys worked in once: what a packet or a PRF call costs is a copy of the state.

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use hmac::{Hmac, Mac as _};
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Hash, Integrity, Prf};

/// An HMAC key: the inner and outer hash states after the padded key (RFC 2104 4).
#[derive(Clone)]
pub(crate) enum HmacKey {
    Md5(Hmac<Md5>),
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

/// Runs the same code on each kind of state; the branch is taken once per message.
macro_rules! with_state {
    ($key:expr, $mac:ident => $body:expr) => {
        match $key {
            HmacKey::Md5(state) => {
                let mut $mac = state.clone();
                $body
            }
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
            Hash::Md5 => Self::Md5(Hmac::new_from_slice(key).expect(ANY)),
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

/// AES-128 in CBC-MAC with masks for the last block: AES-XCBC-MAC (RFC 3566) and AES-CMAC (RFC 4493) differ only
/// in where cipher key and masks come from.
#[derive(Clone)]
pub(crate) struct BlockMac {
    cipher: Aes128Enc,
    /// Goes into a last block that is whole.
    whole: [u8; 16],
    /// Goes into a last block that was padded.
    padded: [u8; 16],
}

impl Drop for BlockMac {
    fn drop(&mut self) {
        self.whole.zeroize();
        self.padded.zeroize();
    }
}

impl BlockMac {
    /// RFC 3566 4: three keys from one.
    fn xcbc(key: &[u8; 16]) -> Self {
        let outer = Aes128Enc::new(key.into());
        let derive = |byte| encrypted(&outer, [byte; 16]);
        let first = Zeroizing::new(derive(1));
        Self { cipher: Aes128Enc::new((&*first).into()), whole: derive(2), padded: derive(3) }
    }

    /// RFC 4493 2.3: the masks are the encrypted zero block, doubled once and twice in GF(2^128).
    fn cmac(key: &[u8; 16]) -> Self {
        let cipher = Aes128Enc::new(key.into());
        let double = |block: [u8; 16]| {
            let value = u128::from_be_bytes(block);
            // No branch on a secret: 0x87 where the top bit falls out.
            ((value << 1) ^ ((value >> 127) * 0x87)).to_be_bytes()
        };
        let whole = double(encrypted(&cipher, [0; 16]));
        Self { cipher, whole, padded: double(whole) }
    }

    /// A key of any length for a PRF: shorter ones are padded with zeros or, with CMAC, hashed like longer ones
    /// (RFC 4434 2, RFC 4615 3).
    fn prf(make: fn(&[u8; 16]) -> Self, key: &[u8], pad_short: bool) -> Self {
        let mut fixed = Zeroizing::new([0; 16]);
        match <&[u8; 16]>::try_from(key) {
            Ok(key) => *fixed = *key,
            Err(_) if pad_short && key.len() < 16 => {
                fixed.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
            }
            Err(_) => *fixed = make(&[0; 16]).mac(&[key]),
        }
        make(&fixed)
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 16] {
        let (mut state, mut block, mut filled) = ([0; 16], [0; 16], 0);
        for mut part in parts.iter().copied() {
            while !part.is_empty() {
                // The last block waits: only the end of the message says which mask it gets.
                if filled == 16 {
                    state = encrypted(&self.cipher, xor(state, block));
                    filled = 0;
                }
                let take = part.len().min(16 - filled);
                let (now, later) = part.split_at(take);
                block[filled..filled + take].copy_from_slice(now);
                filled += take;
                part = later;
            }
        }
        let mask = if filled == 16 {
            self.whole
        } else {
            block[filled] = 0x80;
            block[filled + 1..].fill(0);
            self.padded
        };
        encrypted(&self.cipher, xor(xor(state, block), mask))
    }
}

fn encrypted(cipher: &Aes128Enc, block: [u8; 16]) -> [u8; 16] {
    let mut block = block.into();
    cipher.encrypt_block(&mut block);
    block.into()
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

/// A key of any of the MACs.
#[derive(Clone)]
pub(crate) enum MacKey {
    Hmac(HmacKey),
    Block(BlockMac),
}

impl MacKey {
    /// For an integrity algorithm. `None` for a key of another length than it has.
    pub(crate) fn for_integrity(integrity: Integrity, key: &[u8]) -> Option<Self> {
        (key.len() == integrity.key_len()).then(|| Self::for_prf(integrity.prf(), key))
    }

    /// For a PRF; keys of any length.
    pub(crate) fn for_prf(prf: Prf, key: &[u8]) -> Self {
        let hmac = |hash| Self::Hmac(HmacKey::new(hash, key));
        match prf {
            Prf::HmacMd5 => hmac(Hash::Md5),
            Prf::HmacSha1 => hmac(Hash::Sha1),
            Prf::HmacSha256 => hmac(Hash::Sha256),
            Prf::HmacSha384 => hmac(Hash::Sha384),
            Prf::HmacSha512 => hmac(Hash::Sha512),
            Prf::AesXcbc => Self::Block(BlockMac::prf(BlockMac::xcbc, key, true)),
            Prf::AesCmac => Self::Block(BlockMac::prf(BlockMac::cmac, key, false)),
        }
    }

    /// The MAC of the parts, cut to `out`'s length (at most the MAC's).
    #[inline]
    pub(crate) fn sign(&self, parts: &[&[u8]], out: &mut [u8]) {
        match self {
            Self::Hmac(key) => key.sign(parts, out),
            Self::Block(key) => out.iter_mut().zip(key.mac(parts)).for_each(|(to, from)| *to = from),
        }
    }

    /// Whether `tag` is the MAC of the parts cut to its length. Constant time; an empty tag or one longer than the
    /// MAC is never right.
    #[inline]
    #[must_use]
    pub(crate) fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => key.verify(parts, tag),
            Self::Block(key) => match key.mac(parts).get(..tag.len()) {
                Some(want) if !tag.is_empty() => want.ct_eq(tag).into(),
                _ => false,
            },
        }
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

    fn check_prf(prf: Prf, key: &[u8], data: &[u8], want: &str) {
        for cut in [0, data.len() / 3, data.len()] {
            let (a, b) = data.split_at(cut);
            let key = MacKey::for_prf(prf, key);
            let mut got = [0; 16];
            key.sign(&[a, b], &mut got);
            assert_eq!(hex::encode(got), want, "{prf}");
            assert!(key.verify(&[a, &[], b], &got[..12]));
            got[11] ^= 1;
            assert!(!key.verify(&[data], &got[..12]) && !key.verify(&[data], &[]));
        }
    }

    /// RFC 3566 4.6: keys 00..0f, messages of 00, 01, 02...
    #[test]
    fn rfc_3566_xcbc() {
        let bytes: Vec<u8> = (0..34).collect();
        for (len, want) in [
            (0, "75f0251d528ac01c4573dfd584d79f29"),
            (3, "5b376580ae2f19afe7219ceef172756f"),
            (16, "d2a246fa349b68a79998a4394ff7a263"),
            (20, "47f51b4564966215b8985c63055ed308"),
            (32, "f54f0ec8d2b9f3d36807734bd5283fd4"),
            (34, "becbb3bccdb518a30677d5481fb6b4d8"),
        ] {
            check_prf(Prf::AesXcbc, &bytes[..16], &bytes[..len], want);
        }
        check_prf(Prf::AesXcbc, &bytes[..16], &[0; 1000], "f0dafee895db30253761103b5d84528f");
    }

    /// RFC 4434 3: keys of 16, 10 and 18 bytes over 00..13.
    #[test]
    fn rfc_4434_xcbc_prf() {
        let bytes: Vec<u8> = (0..20).collect();
        let key = |len: usize| (0..len as u8).collect::<Vec<u8>>();
        check_prf(Prf::AesXcbc, &key(16), &bytes, "47f51b4564966215b8985c63055ed308");
        check_prf(Prf::AesXcbc, &key(10), &bytes, "0fa087af7d866e7653434e602fdde835");
        let mut long = key(16);
        long.extend([0xed, 0xcb]);
        check_prf(Prf::AesXcbc, &long, &bytes, "8cd3c93ae598a9803006ffb67c40e9e4");
    }

    #[test]
    fn rfc_4493_cmac() {
        let key = hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap();
        let message = hex::decode(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        )
        .unwrap();
        for (len, want) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
            (64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            check_prf(Prf::AesCmac, &key, &message[..len], want);
        }
    }

    /// RFC 4615 4: keys of 18, 16 and 10 bytes over 00..13.
    #[test]
    fn rfc_4615_cmac_prf() {
        let message: Vec<u8> = (0..20).collect();
        let long = hex::decode("000102030405060708090a0b0c0d0e0fedcb").unwrap();
        check_prf(Prf::AesCmac, &long, &message, "84a348a4a45d235babfffc0d2b4da09a");
        check_prf(Prf::AesCmac, &long[..16], &message, "980ae87b5f4c9c5214f5b6a8455e4c2d");
        check_prf(Prf::AesCmac, &long[..10], &message, "290d9e112edb09ee141fcf64c0b72f3d");
    }

    #[test]
    fn rfc_2202_hmac_md5() {
        check(Hash::Md5, &[0x0b; 16], b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d");
        check(Hash::Md5, b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738");
        check(Hash::Md5, &[0x0c; 16], b"Test With Truncation", "56461ef2342edc00f9bab995");
    }

    #[test]
    fn integrity_keys_have_one_length() {
        for integrity in Integrity::ALL {
            let len = integrity.key_len();
            assert!(MacKey::for_integrity(integrity, &vec![1; len]).is_some());
            assert!(MacKey::for_integrity(integrity, &vec![1; len - 1]).is_none());
            assert!(MacKey::for_integrity(integrity, &vec![1; len + 1]).is_none());
        }
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
