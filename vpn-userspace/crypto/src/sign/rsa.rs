//! RSA beyond ring: PKCS#1 v1.5 with SHA-1, without a DigestInfo, and with moduli of old keys.
//!
//! A signature is checked by building the one padded block that is right and comparing whole blocks;
//! nothing of a peer's padding is parsed, so there is no padding to be lax about.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, Resize as _};
use zeroize::{Zeroize as _, Zeroizing};

use super::{BadKey, KeyKind, MIN_RSA_BITS, Scheme, SignError};
use crate::{Hash, Random, Secret, equal};

/// Moduli below this are factored at home: not accepted even of old peers.
const LEAST_BITS: usize = 1024;
/// Moduli above this only cost time.
const MOST_BITS: usize = 8192;
/// ring takes public exponents of up to 33 bits; more serves nobody.
const MAX_EXPONENT: u64 = (1 << 33) - 1;

/// n and e, checked for size and shape.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RsaPublic {
    pub(super) n: Vec<u8>,
    pub(super) e: Vec<u8>,
    bits: usize,
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

impl RsaPublic {
    /// From big-endian n and e. `min_bits` is never taken below 1024.
    pub(super) fn new(n: &[u8], e: &[u8], min_bits: usize) -> Result<Self, BadKey> {
        let (n, e) = (trimmed(n), trimmed(e));
        let bits = n.len() * 8 - n.first().map_or(0, |b| b.leading_zeros() as usize);
        let min = min_bits.max(LEAST_BITS);
        if bits < min || bits > MOST_BITS {
            return Err(BadKey::RsaSize { bits, min, max: MOST_BITS });
        }
        if n.last().is_none_or(|b| b % 2 == 0) {
            return Err(BadKey::Inconsistent("RSA"));
        }
        let value = (e.len() <= 8).then(|| e.iter().fold(0u64, |v, b| v << 8 | u64::from(*b)));
        match value {
            Some(e) if e % 2 == 1 && (3..=MAX_EXPONENT).contains(&e) => {}
            _ => return Err(BadKey::RsaExponent),
        }
        Ok(Self { n: n.to_vec(), e: e.to_vec(), bits })
    }

    pub(super) fn kind(&self) -> KeyKind {
        KeyKind::Rsa(self.bits)
    }

    /// Length of the modulus and of every signature, in bytes.
    pub(super) fn len(&self) -> usize {
        self.n.len()
    }

    fn params(&self) -> Option<BoxedMontyParams> {
        // The modulus is public: no secret is in the precomputation.
        let n = BoxedUint::from_be_slice_vartime(&self.n);
        Some(BoxedMontyParams::new_vartime(Odd::new(n).into_option()?))
    }

    fn raise(&self, base: &BoxedMontyForm) -> Option<BoxedMontyForm> {
        let bits = u32::try_from(self.e.len() * 8).ok()?;
        let e = BoxedUint::from_be_slice(&self.e, bits.next_multiple_of(64)).ok()?;
        Some(base.pow_bounded_exp(&e, bits))
    }

    /// s^e mod n, as long as the modulus. `None` for an s that is not below n or of another length.
    fn open(&self, signature: &[u8]) -> Option<Vec<u8>> {
        if signature.len() != self.len() {
            return None;
        }
        let params = self.params()?;
        let s = BoxedUint::from_be_slice(signature, params.bits_precision()).ok()?;
        if s >= *params.modulus().as_ref() {
            return None;
        }
        let m = self.raise(&BoxedMontyForm::new(s, &params))?.retrieve();
        last(&m.to_be_bytes(), self.len())
    }

    /// Whether the signature is PKCS#1 v1.5 over the message by the scheme.
    pub(super) fn verify_pkcs1(
        &self,
        scheme: Scheme,
        message: &[&[u8]],
        signature: &[u8],
    ) -> Result<(), SignError> {
        let want = self.padded(scheme, message)?;
        match self.open(signature) {
            Some(got) if equal(&got, &want) => Ok(()),
            _ => Err(SignError::NotAuthentic),
        }
    }

    /// EMSA-PKCS1-v1_5 (RFC 8017 9.2): 00 01 FF .. FF 00 T.
    fn padded(&self, scheme: Scheme, message: &[&[u8]]) -> Result<Vec<u8>, SignError> {
        let t = match (scheme, scheme.hash()) {
            (Scheme::RsaPkcs1Bare, _) => message.concat(),
            (_, Some(hash)) => match digest_info(hash) {
                Some(prefix) => [prefix, hash.digest(message)].concat(),
                None => return Err(SignError::WrongKey { key: self.kind(), scheme }),
            },
            (_, None) => return Err(SignError::WrongKey { key: self.kind(), scheme }),
        };
        // Eight bytes of FF at least, and something to sign.
        let fill = self.len().checked_sub(t.len() + 3).filter(|fill| *fill >= 8 && !t.is_empty());
        let fill = fill.ok_or(SignError::TooShort)?;
        let mut block = Vec::with_capacity(self.len());
        block.extend_from_slice(&[0, 1]);
        block.resize(2 + fill, 0xff);
        block.push(0);
        block.extend_from_slice(&t);
        Ok(block)
    }
}

fn last(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let start = bytes.len().checked_sub(len)?;
    bytes.get(start..).map(<[u8]>::to_vec)
}

/// DER of DigestInfo up to the digest (RFC 8017 9.2, note 1).
fn digest_info(hash: Hash) -> Option<Vec<u8>> {
    let sha2 = |arc: u8| {
        let len = hash.output_len() as u8;
        let oid = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, arc, 0x05, 0x00, 0x04, len];
        [&[0x30, 17 + len, 0x30, 0x0d][..], &oid].concat()
    };
    Some(match hash {
        Hash::Sha1 => {
            vec![0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14]
        }
        Hash::Sha256 => sha2(1),
        Hash::Sha384 => sha2(2),
        Hash::Sha512 => sha2(3),
        Hash::Md5 => return None,
    })
}

/// d with its public half, for the private operation that ring does not offer.
pub(super) struct RsaPrivate {
    pub(super) public: RsaPublic,
    d: Secret,
}

impl RsaPrivate {
    /// From big-endian n, e and d, which ring has checked to belong together.
    pub(super) fn new(n: &[u8], e: &[u8], d: &[u8]) -> Result<Self, BadKey> {
        Ok(Self { public: RsaPublic::new(n, e, MIN_RSA_BITS)?, d: d.into() })
    }

    /// Signs by PKCS#1 v1.5. The exponentiation takes the same time whatever d and the message are, and
    /// the base is blinded with a random factor; the result is checked before it is given away, so that a
    /// computation gone wrong tells nothing of the factors.
    pub(super) fn sign_pkcs1(
        &self,
        scheme: Scheme,
        message: &[&[u8]],
        random: &mut dyn Random,
    ) -> Result<Vec<u8>, SignError> {
        self.sign_block(&self.public.padded(scheme, message)?, random)
    }

    fn sign_block(&self, block: &[u8], random: &mut dyn Random) -> Result<Vec<u8>, SignError> {
        let params = self.public.params().ok_or(SignError::Fault)?;
        let bits = params.bits_precision();
        let base = BoxedUint::from_be_slice(block, bits).map_err(|_| SignError::Fault)?;
        let base = BoxedMontyForm::new(base, &params);
        let mut d = BoxedUint::from_be_slice(&self.d, bits)
            .or_else(|_| BoxedUint::from_be_slice(trimmed(&self.d), bits))
            .map_err(|_| SignError::Fault)?;
        let (factor, unblind) = self.blinding(&params, random).ok_or(SignError::Fault)?;
        let s = base.mul(&factor).pow(&d).mul(&unblind);
        d.zeroize();
        let signature = last(&s.retrieve().to_be_bytes(), self.public.len()).ok_or(SignError::Fault)?;
        match self.public.open(&signature) {
            Some(opened) if equal(&opened, block) => Ok(signature),
            _ => Err(SignError::Fault),
        }
    }

    /// r^e and r^-1 for a random r.
    fn blinding(
        &self,
        params: &BoxedMontyParams,
        random: &mut dyn Random,
    ) -> Option<(BoxedMontyForm, BoxedMontyForm)> {
        // An r without an inverse would hold a factor of n: nobody meets one; the bound is for
        // sources of randomness that repeat themselves.
        for _ in 0..8 {
            let mut bytes = Zeroizing::new(vec![0; self.public.len() + 16]);
            random.fill(&mut bytes);
            let wide = u32::try_from(bytes.len() * 8).ok()?.next_multiple_of(64);
            let r = BoxedUint::from_be_slice(&bytes, wide).ok()?;
            let modulus = params.modulus().as_ref().resize(wide);
            let r = r.rem(&crypto_bigint::NonZero::new(modulus).into_option()?);
            let r = BoxedMontyForm::new(r.resize(params.bits_precision()), params);
            if let Some(inverse) = r.invert().into_option() {
                return Some((self.public.raise(&r)?, inverse));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;
    use crate::sign::PublicKey;
    use crate::sign::public::Kind;
    use der::Decode as _;

    fn key(pkcs8: &[u8]) -> RsaPrivate {
        let info = pkcs8::PrivateKeyInfoRef::try_from(pkcs8).unwrap();
        let key = pkcs1::RsaPrivateKeyRef::from_der(info.private_key.as_bytes()).unwrap();
        let parts = [key.modulus, key.public_exponent, key.private_exponent];
        let [n, e, d] = parts.map(|part| part.as_bytes());
        RsaPrivate::new(n, e, d).unwrap()
    }

    fn keys() -> [RsaPrivate; 2] {
        [
            key(include_bytes!("../../tests/keys/rsa2048.pk8")),
            key(include_bytes!("../../tests/keys/rsa2048-e3.pk8")),
        ]
    }

    /// 00 01 FF*fill 00 t, with whatever follows.
    fn block(len: usize, kind: u8, fill: Option<usize>, t: &[u8], after: &[u8]) -> Vec<u8> {
        let fill = fill.unwrap_or(len - 3 - t.len() - after.len());
        let mut block = [&[0, kind], &vec![0xff; fill][..], &[0], t, after].concat();
        block.resize(len, 0x5a);
        block
    }

    /// Public mistake: signatures. Lax padding, short hash, with e = 65537 and e = 3. Each block is
    /// signed with the real key, so only the check of its padding stands between it and acceptance.
    #[test]
    fn lax_padding_and_short_hashes_are_refused() {
        let message: &[u8] = b"<SignedOctets>";
        for key in keys() {
            let len = key.public.len();
            let public = PublicKey::new(Kind::Rsa(key.public.clone()));
            let sign = |block: Vec<u8>| key.sign_block(&block, &mut SystemRandom::new()).unwrap();
            for scheme in [Scheme::RsaPkcs1Sha1, Scheme::RsaPkcs1Sha256, Scheme::RsaPkcs1Sha512] {
                let hash = scheme.hash().unwrap();
                let digest = hash.digest(&[message]);
                let info = digest_info(hash).unwrap();
                let t = [&info[..], &digest].concat();
                let good = sign(block(len, 1, None, &t, &[]));
                assert_eq!(public.verify(scheme, &[message], &good), Ok(()), "{scheme}");
                let without_null = {
                    let mut t = t.clone();
                    let at = info.len() - 4;
                    t.drain(at..at + 2);
                    t[1] -= 2;
                    t[3] -= 2;
                    t
                };
                let long_length = [&[0x30, 0x81, t[1]], &t[2..]].concat();
                let half = digest.len() / 2;
                let bad: [(&str, Vec<u8>); 9] = [
                    ("garbage after the hash", block(len, 1, Some(8), &t, &[])),
                    ("one byte after the hash", block(len, 1, None, &t, &[0])),
                    ("no padding at all", block(len, 1, Some(0), &t, &[])),
                    ("block type 2", block(len, 2, None, &t, &[])),
                    ("no NULL", block(len, 1, None, &without_null, &[])),
                    ("a length in BER's long form", block(len, 1, None, &long_length, &[])),
                    ("half a hash", block(len, 1, None, &t[..info.len() + half], &[])),
                    ("no hash", block(len, 1, None, &info, &[])),
                    ("no DigestInfo", block(len, 1, None, &digest, &[])),
                ];
                for (what, block) in bad {
                    let forged = sign(block);
                    assert_eq!(
                        public.verify(scheme, &[message], &forged),
                        Err(SignError::NotAuthentic),
                        "{scheme}: {what}"
                    );
                }
            }
        }
    }

    #[test]
    fn ikev1_signs_the_bare_hash() {
        for key in keys() {
            let (public, hash) = (PublicKey::new(Kind::Rsa(key.public.clone())), [7; 20]);
            let mut random = SystemRandom::new();
            let signature = key.sign_pkcs1(Scheme::RsaPkcs1Bare, &[&hash], &mut random).unwrap();
            assert_eq!(signature.len(), 256);
            let check =
                |hash: &[u8], signature: &[u8]| public.verify(Scheme::RsaPkcs1Bare, &[hash], signature);
            assert_eq!(check(&hash, &signature), Ok(()));
            assert_eq!(check(&hash[..19], &signature), Err(SignError::NotAuthentic));
            assert_eq!(check(&[7; 21], &signature), Err(SignError::NotAuthentic));
            assert_eq!(check(&[], &signature), Err(SignError::TooShort));
            for i in [0, 1, 128, 255] {
                let mut other = signature.clone();
                other[i] ^= 1;
                assert_eq!(check(&hash, &other), Err(SignError::NotAuthentic));
            }
            for len in [0, 1, 255, 257] {
                assert_eq!(check(&hash, &vec![1; len]), Err(SignError::NotAuthentic));
            }
            assert_eq!(check(&hash, &key.public.n), Err(SignError::NotAuthentic));
        }
    }

    /// Blinding changes nothing but the way: the same signature whatever is drawn, and an unlucky draw
    /// (zero has no inverse) is drawn again, a bounded number of times.
    #[test]
    fn blinding_cancels_out() {
        struct Byte(u8);
        impl Random for Byte {
            fn fill(&mut self, out: &mut [u8]) {
                out.fill(self.0);
            }
        }
        let [key, _] = keys();
        let sign = |byte| key.sign_pkcs1(Scheme::RsaPkcs1Sha1, &[b"m"], &mut Byte(byte));
        assert_eq!(sign(1).unwrap(), sign(200).unwrap());
        assert_eq!(sign(0), Err(SignError::Fault));
    }

    #[test]
    fn tiny_moduli_and_exponents() {
        let refused = |n: &[u8], e: &[u8], min| RsaPublic::new(n, e, min).err();
        let modulus = |bits: usize| {
            let mut n = vec![0xff; bits / 8];
            n[0] = 0x80;
            n
        };
        let size = |bits, min| Some(BadKey::RsaSize { bits, min, max: 8192 });
        assert_eq!(refused(&modulus(2048), &[3], 2048), None);
        assert_eq!(refused(&modulus(2040), &[3], 2048), size(2040, 2048));
        assert_eq!(refused(&modulus(1024), &[3], 1024), None);
        assert_eq!(refused(&modulus(1016), &[3], 0), size(1016, 1024));
        assert_eq!(refused(&[0; 300], &[3], 0), size(0, 1024));
        assert_eq!(refused(&modulus(8200), &[3], 0), size(8200, 1024));
        let n = modulus(2048);
        for e in [&[][..], &[0], &[1], &[0, 0, 1], &[2], &[1, 0, 0], &[4, 0, 0, 0, 1], &[1; 9]] {
            assert_eq!(refused(&n, e, 2048), Some(BadKey::RsaExponent), "{e:?}");
        }
        assert_eq!(refused(&[&n[..255], &[0]].concat(), &[3], 2048), Some(BadKey::Inconsistent("RSA")));
    }
}
