//! MODP-2048 (RFC 3526 3): constant-time exponentiation and the checks on public values.

use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U384, U2048, const_monty_params};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Random, Secret};

const_monty_params!(
    P,
    U2048,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    "The prime of group 14, 2^2048 - 2^1984 - 1 + 2^64 * (floor(2^1918 pi) + 124476)."
);
type Element = ConstMontyForm<P, { U2048::LIMBS }>;

/// Length of a public value and of the shared secret, in bytes.
pub(crate) const LEN: usize = 256;

/// A private exponent. 384 bits: RFC 3526 8 asks for at least 220-320 bits with this prime.
pub(crate) struct Exponent(U384);

impl Drop for Exponent {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Exponent {
    /// Draws an exponent; its top bit is set, so that it is never trivially small.
    pub(crate) fn generate(random: &mut dyn Random) -> Self {
        let mut bytes = Zeroizing::new([0; 48]);
        random.fill(bytes.as_mut());
        bytes[0] |= 0x80;
        Self(U384::from_be_slice(bytes.as_ref()))
    }

    /// g^x, 256 bytes.
    pub(crate) fn public(&self) -> [u8; LEN] {
        let two = Element::new(&U2048::from_u8(2));
        to_bytes(&two.pow(&self.0).retrieve())
    }

    /// y^x, 256 bytes with the leading zeros (RFC 7296 2.14). `None` for a public value that is of
    /// another length or not in 2..=p-2.
    pub(crate) fn agree(&self, peer_public: &[u8]) -> Option<Secret> {
        if peer_public.len() != LEN {
            return None;
        }
        let y = U2048::from_be_slice(peer_public);
        // RFC 6989 2.1: for a safe prime 1 < y < p-1 is the whole check.
        let top = <P as crypto_bigint::modular::ConstMontyParams<{ U2048::LIMBS }>>::PARAMS
            .modulus()
            .wrapping_sub(&U2048::ONE);
        if y <= U2048::ONE || y >= top {
            return None;
        }
        let mut shared = Element::new(&y).pow(&self.0).retrieve();
        let secret = Secret::new(to_bytes(&shared).to_vec());
        shared.zeroize();
        Some(secret)
    }
}

fn to_bytes(value: &U2048) -> [u8; LEN] {
    let mut out = [0; LEN];
    out.copy_from_slice(value.to_be_bytes().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);
    impl Random for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            for b in out {
                self.0 = self.0.wrapping_mul(31).wrapping_add(7);
                *b = self.0;
            }
        }
    }

    fn p_minus(n: u8) -> [u8; LEN] {
        let p = <P as crypto_bigint::modular::ConstMontyParams<{ U2048::LIMBS }>>::PARAMS;
        to_bytes(&p.modulus().wrapping_sub(&U2048::from_u8(n)))
    }

    fn small(n: u8) -> [u8; LEN] {
        let mut v = [0; LEN];
        v[LEN - 1] = n;
        v
    }

    #[test]
    fn both_sides_agree() {
        let (a, b) = (Exponent::generate(&mut Fixed(1)), Exponent::generate(&mut Fixed(2)));
        let (ga, gb) = (a.public(), b.public());
        assert_ne!(ga, gb);
        assert_eq!(a.agree(&gb).unwrap(), b.agree(&ga).unwrap());
    }

    /// 2^x for small x is a shift: g and the arithmetic are right without another implementation.
    #[test]
    fn powers_of_two() {
        let x = Exponent(U384::from_u16(2047));
        let mut want = [0; LEN];
        want[0] = 0x80;
        assert_eq!(x.public(), want);
        // 2^2048 mod p = 2^2048 - p
        let x = Exponent(U384::from_u16(2048));
        let want = U2048::ZERO.wrapping_sub(&U2048::from_be_slice(&p_minus(0)));
        assert_eq!(x.public(), to_bytes(&want));
    }

    /// Against another implementation (Python's `pow`), with p made from RFC 3526 3's formula and pi there:
    /// the SHA-256 of each 256-byte value.
    #[test]
    fn agrees_with_another_implementation() {
        let exponent = |digits| Exponent(U384::from_be_hex(digits));
        let x = exponent(
            "d752c2c51fba0e29aa190570a9d4253e44077a058d3297fa3a5630d5bd012622f97c28acaed313b5c83bb990caa7da85",
        );
        let y = exponent(
            "883c52bd6105dadf36411ccbc5b3b19f9926f3ffacbf0275b3b7ed6e1228aff6c5585a2e77f1e8fdef6a23e31b838cf6",
        );
        let digest = |bytes: &[u8]| {
            use sha2::Digest as _;
            hex::encode(sha2::Sha256::digest(bytes))
        };
        assert_eq!(digest(&x.public()), "497f60a17817906a548c411f72cfa7f4a0c8ed37480cf819d79281fe85fb6213");
        assert_eq!(digest(&y.public()), "824f3b28ef12b706c901d56e360ea94e5ca6886341ae491523da16c9cdc71dcd");
        assert_eq!(
            digest(&x.agree(&y.public()).unwrap()),
            "8dee648b782169d6b07b20fde235a15f157fdc51c65ad849f2a5217fd45948bc"
        );
    }

    #[test]
    fn only_2_to_p_minus_2_is_accepted() {
        let x = Exponent::generate(&mut Fixed(3));
        for bad in [small(0), small(1), p_minus(1), p_minus(0), [0xff; LEN]] {
            assert!(x.agree(&bad).is_none());
        }
        for good in [small(2), small(3), p_minus(2)] {
            assert!(x.agree(&good).is_some());
        }
        for len in [0, 1, 32, 255, 257, 512] {
            assert!(x.agree(&vec![2; len]).is_none(), "{len}");
        }
    }
}
