//! New private keys, as PKCS#8 (for a small authority; not for anything that others' packets can set off).

use std::convert::Infallible;

use crypto_bigint::{BoxedUint, NonZero, Odd, Resize as _};
use crypto_primes::{Flavor, random_prime};
use der::Encode as _;
use der::asn1::{ObjectIdentifier, OctetStringRef, UintRef};
use pkcs8::PrivateKeyInfoRef;
use spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::ecdsa::Curve;
use super::public::{EC, ED25519, RSA};
use super::{BadKey, KeyKind};
use crate::{Random, Secret};

/// The public exponent of every RSA key that we make.
const EXPONENT: u64 = 65_537;

/// A new private key as DER-encoded PKCS#8. RSA of 2048, 3072 or 4096 bits takes up to seconds.
pub fn generate(kind: KeyKind, random: &mut dyn Random) -> Result<Secret, BadKey> {
    match kind {
        KeyKind::Rsa(bits) => {
            if ![2048, 3072, 4096].contains(&bits) {
                return Err(BadKey::RsaSize { bits, min: 2048, max: 4096 });
            }
            rsa(bits as u32, random).ok_or(BadKey::Inconsistent("RSA"))
        }
        KeyKind::EcdsaP256 => ecdsa(Curve::P256, random),
        KeyKind::EcdsaP384 => ecdsa(Curve::P384, random),
        KeyKind::EcdsaP521 => ecdsa(Curve::P521, random),
        KeyKind::Ed25519 => {
            let mut seed = Zeroizing::new([0; 32]);
            random.fill(seed.as_mut());
            // RFC 8410 7: an OCTET STRING within the OCTET STRING.
            let inner = Zeroizing::new([&[4, 32], &seed[..]].concat());
            pkcs8(ED25519, None, &inner).ok_or(BadKey::Inconsistent("Ed25519"))
        }
    }
}

fn pkcs8(oid: ObjectIdentifier, parameters: Option<der::asn1::AnyRef<'_>>, key: &[u8]) -> Option<Secret> {
    let key = OctetStringRef::new(key).ok()?;
    let info = PrivateKeyInfoRef::new(AlgorithmIdentifierRef { oid, parameters }, key);
    info.to_der().ok().map(Secret::new)
}

fn ecdsa(curve: Curve, random: &mut dyn Random) -> Result<Secret, BadKey> {
    let inconsistent = BadKey::Inconsistent("ECDSA");
    // Half of all draws fit at least; the bound is for sources that repeat themselves.
    for _ in 0..128 {
        let mut scalar = Zeroizing::new(vec![0; curve.len()]);
        random.fill(&mut scalar);
        if curve == Curve::P521
            && let Some(first) = scalar.first_mut()
        {
            *first &= 1;
        }
        let Some(point) = curve.public(&scalar) else { continue };
        let key = sec1::EcPrivateKey { private_key: &scalar, parameters: None, public_key: Some(&point) };
        let key = key.to_der().map(Zeroizing::new).map_err(|_| inconsistent)?;
        let oid = curve.oid();
        let parameters = Some((&oid).into());
        return pkcs8(EC, parameters, &key).ok_or(inconsistent);
    }
    Err(inconsistent)
}

/// Our randomness in the words of the prime search.
struct Draw<'a>(&'a mut dyn Random);

impl rand_core::TryRng for Draw<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = [0; 4];
        self.0.fill(&mut out);
        Ok(u32::from_ne_bytes(out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = [0; 8];
        self.0.fill(&mut out);
        Ok(u64::from_ne_bytes(out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Draw<'_> {}

/// Two primes, and everything that RSAPrivateKey (RFC 8017 A.1.2) holds.
fn rsa(bits: u32, random: &mut dyn Random) -> Option<Secret> {
    let wide = bits + 64;
    let one = BoxedUint::one_with_precision(wide);
    let less = |v: &BoxedUint| v.wrapping_sub(&one);
    let divisor = |v: &BoxedUint| NonZero::new(v.clone()).into_option();
    let e = BoxedUint::from(EXPONENT).resize(wide);
    // Both primes have their top bit set; half of the products and more are as long as they should be.
    for _ in 0..64 {
        let mut prime = || -> BoxedUint {
            random_prime::<BoxedUint, _>(&mut Draw(random), Flavor::Any, bits / 2).resize(wide)
        };
        let (mut p, mut q) = (prime(), prime());
        if p < q {
            std::mem::swap(&mut p, &mut q);
        }
        let n = p.wrapping_mul(&q);
        let phi = less(&p).wrapping_mul(less(&q));
        let remainder =
            phi.rem(&divisor(&e)?).to_be_bytes().last_chunk::<8>().map(|b| u64::from_be_bytes(*b))?;
        if n.bits_vartime() != bits || p == q || remainder == 0 {
            continue;
        }
        // d = (k phi + 1) / e with k = -1 / phi (mod e): exact, as e is prime.
        let k = EXPONENT - power(remainder, EXPONENT - 2);
        let d = phi.wrapping_mul(BoxedUint::from(k).resize(wide)).wrapping_add(&one);
        let (d, rest) = d.div_rem(&divisor(&e)?);
        if !bool::from(rest.is_zero()) {
            return None;
        }
        let (dp, dq) = (d.rem(&divisor(&less(&p))?), d.rem(&divisor(&less(&q))?));
        let odd_p = Odd::new(p.clone()).into_option()?;
        let coefficient = q.invert_odd_mod(&odd_p).into_option()?;
        let bytes =
            [n, e.clone(), d, p, q, dp, dq, coefficient].map(|v| Zeroizing::new(v.to_be_bytes().to_vec()));
        let [n, e, d, p, q, dp, dq, coefficient] = &bytes;
        let number = |b: &'_ Zeroizing<Vec<u8>>| -> Option<usize> { b.iter().position(|b| *b != 0) };
        fn uint(bytes: &[u8], start: Option<usize>) -> Option<UintRef<'_>> {
            UintRef::new(bytes.get(start?..)?).ok()
        }
        let key = pkcs1::RsaPrivateKeyRef {
            modulus: uint(n, number(n))?,
            public_exponent: uint(e, number(e))?,
            private_exponent: uint(d, number(d))?,
            prime1: uint(p, number(p))?,
            prime2: uint(q, number(q))?,
            exponent1: uint(dp, number(dp))?,
            exponent2: uint(dq, number(dq))?,
            coefficient: uint(coefficient, number(coefficient))?,
            other_prime_infos: None,
        };
        let der = Zeroizing::new(key.to_der().ok()?);
        return pkcs8(RSA, Some(der::asn1::AnyRef::NULL), &der);
    }
    None
}

/// base^exponent mod 65537.
fn power(base: u64, exponent: u64) -> u64 {
    let (mut base, mut exponent, mut result) = (base % EXPONENT, exponent, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % EXPONENT;
        }
        base = base * base % EXPONENT;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;
    use crate::sign::PrivateKey;

    #[test]
    fn new_keys_are_of_their_kind_and_sign() {
        let mut random = SystemRandom::new();
        for kind in
            [KeyKind::Rsa(2048), KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::EcdsaP521, KeyKind::Ed25519]
        {
            let der = generate(kind, &mut random).unwrap();
            assert_ne!(generate(KeyKind::Ed25519, &mut random).unwrap(), der);
            // Reading it checks that its parts belong together.
            let key = PrivateKey::from_pkcs8(&der).unwrap();
            assert_eq!(key.kind(), kind);
            let scheme = key.schemes()[0];
            let signature = key.sign(scheme, &[b"m"], &mut random).unwrap();
            assert_eq!(key.public_key().verify(scheme, &[b"m"], &signature), Ok(()));
        }
        assert!(generate(KeyKind::Rsa(1024), &mut random).is_err());
    }
}
