//! The MODP groups: constant-time exponentiation and the checks on public values (RFC 6989 2.1, 2.2).

mod comb;
mod constants;

use std::sync::LazyLock;

use comb::Comb;
use constants as c;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{DhGroup, Random, Secret};

/// A group with its precomputed values.
pub(crate) struct Group {
    params: BoxedMontyParams,
    generator: Comb,
    /// p - 1: what a public value must be below.
    top: BoxedUint,
    /// The subgroup's order, where the group is not one of a safe prime.
    order: Option<BoxedUint>,
    /// Length of a public value, in bytes.
    len: usize,
    /// Length of an exponent, in bytes.
    exponent_len: usize,
}

/// One lazily made `Group` for each MODP group: precomputing takes longer than a lookup should.
macro_rules! groups {
    ($($group:ident => $make:expr),* $(,)?) => {
        pub(crate) fn group(group: DhGroup) -> Option<&'static Group> {
            match group {
                $(DhGroup::$group => {
                    static GROUP: LazyLock<Group> = LazyLock::new(|| $make);
                    Some(&GROUP)
                })*
                _ => None,
            }
        }
    };
}

// Exponents: at least twice the strength that RFC 7919 A gives a prime of that size, in multiples of 64 bits: a longer one
// costs time and adds nothing, because the prime is then the weaker part.
groups! {
    Modp1024 => Group::safe_prime(c::MODP_1024, 32),
    Modp1536 => Group::safe_prime(c::MODP_1536, 32),
    Modp2048 => Group::safe_prime(c::MODP_2048, 32),
    Modp3072 => Group::safe_prime(c::MODP_3072, 40),
    Modp4096 => Group::safe_prime(c::MODP_4096, 48),
    Modp6144 => Group::safe_prime(c::MODP_6144, 56),
    Modp8192 => Group::safe_prime(c::MODP_8192, 64),
    Modp1024S160 => Group::subgroup(c::P_1024S160, c::Q_1024S160, c::G_1024S160),
    Modp2048S224 => Group::subgroup(c::P_2048S224, c::Q_2048S224, c::G_2048S224),
    Modp2048S256 => Group::subgroup(c::P_2048S256, c::Q_2048S256, c::G_2048S256),
}

fn number(hex: &str) -> BoxedUint {
    let bits = (hex.len() as u32 * 4).next_multiple_of(64);
    let padded = format!("{hex:0>width$}", width = bits as usize / 4);
    BoxedUint::from_be_hex(&padded, bits).into_option().expect("the constants are hexadecimal")
}

impl Group {
    fn safe_prime(p: &str, exponent_len: usize) -> Self {
        Self::new(number(p), BoxedUint::from(2u8), None, exponent_len)
    }

    fn subgroup(p: &str, q: &str, g: &str) -> Self {
        let q = number(q);
        let exponent_len = q.bits_vartime().div_ceil(8) as usize;
        Self::new(number(p), number(g), Some(q), exponent_len)
    }

    fn new(p: BoxedUint, g: BoxedUint, order: Option<BoxedUint>, exponent_len: usize) -> Self {
        let bits = p.bits_precision();
        let top = p.wrapping_sub(BoxedUint::one_with_precision(bits));
        let odd = Odd::new(p).into_option().expect("the primes are odd");
        let params = BoxedMontyParams::new_vartime(odd);
        let g = crypto_bigint::Resize::resize(g, bits);
        // The exponents of this group as they are stored: in whole limbs.
        let exponent_bits = (exponent_len as u32 * 8).next_multiple_of(64);
        let generator = Comb::new(&BoxedMontyForm::new(g, &params), exponent_bits);
        Self { params, generator, top, order, len: bits as usize / 8, exponent_len }
    }

    /// A peer's public value if it may be used: of the group's length, in 2..=p-2, and of order q in the
    /// groups that have a smaller q.
    fn checked(&self, public: &[u8]) -> Option<BoxedMontyForm> {
        if public.len() != self.len {
            return None;
        }
        let y = BoxedUint::from_be_slice(public, self.params.bits_precision()).ok()?;
        let one = BoxedUint::one_with_precision(y.bits_precision());
        // RFC 6989 2.1: with a safe prime 1 < y < p-1 is the whole check.
        if y <= one || y >= self.top {
            return None;
        }
        let y = BoxedMontyForm::new(y, &self.params);
        match &self.order {
            // RFC 6989 2.2: otherwise y^q = 1, or a small subgroup gives the exponent away bit by bit.
            Some(q) if y.pow(q).retrieve() != one => None,
            _ => Some(y),
        }
    }

    fn bytes(&self, value: &BoxedMontyForm) -> Vec<u8> {
        let mut number = value.retrieve();
        // Constants and results have the prime's precision, so exactly `len` bytes.
        let bytes = Zeroizing::new(number.to_be_bytes());
        number.zeroize();
        bytes.to_vec()
    }
}

/// A private exponent.
pub(crate) struct Exponent {
    group: &'static Group,
    x: BoxedUint,
}

impl Drop for Exponent {
    fn drop(&mut self) {
        self.x.zeroize();
    }
}

impl Exponent {
    /// Draws an exponent: with a safe prime one with its top bit set, so that it is never trivially small;
    /// in a subgroup one in 1..q.
    pub(crate) fn generate(group: &'static Group, random: &mut dyn Random) -> Self {
        let mut bytes = Zeroizing::new(vec![0; group.exponent_len]);
        let bits = (group.exponent_len as u32 * 8).next_multiple_of(64);
        let read = |bytes: &[u8]| {
            BoxedUint::from_be_slice(bytes, bits).expect("the precision holds the exponent's bytes")
        };
        let Some(order) = &group.order else {
            random.fill(&mut bytes);
            if let Some(first) = bytes.first_mut() {
                *first |= 0x80;
            }
            return Self { group, x: read(&bytes) };
        };
        // Half of all draws fit at least. A source that never gives one that does is a broken one: then
        // the last draw with its top bit cleared, which is below q.
        for _ in 0..64 {
            random.fill(&mut bytes);
            let x = read(&bytes);
            if !bool::from(x.is_zero()) && x < *order {
                return Self { group, x };
            }
        }
        if let [first, .., last] = &mut bytes[..] {
            *first &= 0x7f;
            *last |= 1;
        }
        Self { group, x: read(&bytes) }
    }

    /// g^x, of the group's length.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.group.bytes(&self.group.generator.pow(&self.x))
    }

    /// y^x, of the group's length with the leading zeros (RFC 7296 2.14). `None` for a public value that
    /// is not one.
    pub(crate) fn agree(&self, peer_public: &[u8]) -> Option<Secret> {
        let y = self.group.checked(peer_public)?;
        let shared = y.pow(&self.x);
        Some(Secret::new(self.group.bytes(&shared)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: [(DhGroup, usize); 7] = [
        (DhGroup::Modp1024, 128),
        (DhGroup::Modp1536, 192),
        (DhGroup::Modp2048, 256),
        (DhGroup::Modp3072, 384),
        (DhGroup::Modp4096, 512),
        (DhGroup::Modp6144, 768),
        (DhGroup::Modp8192, 1024),
    ];
    const SUB: [DhGroup; 3] = [DhGroup::Modp1024S160, DhGroup::Modp2048S224, DhGroup::Modp2048S256];

    struct Fixed(u8);
    impl Random for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            for b in out {
                self.0 = self.0.wrapping_mul(31).wrapping_add(7);
                *b = self.0;
            }
        }
    }

    /// The comb is only for the fixed base: its powers must be those of the general way.
    #[test]
    fn the_comb_agrees_with_plain_exponentiation() {
        for group in SAFE.map(|(group, _)| group).into_iter().chain(SUB) {
            let group = super::group(group).unwrap();
            let base = group.generator.base();
            let mut draw = Fixed(7);
            let bits = (group.exponent_len as u32 * 8).next_multiple_of(64);
            let mut exponents: Vec<BoxedUint> =
                (0..3).map(|_| Exponent::generate(group, &mut draw).x.clone()).collect();
            exponents.push(BoxedUint::zero_with_precision(bits));
            exponents.push(BoxedUint::one_with_precision(bits));
            exponents.push(BoxedUint::max(bits));
            for x in exponents {
                assert_eq!(group.generator.pow(&x).retrieve(), base.pow(&x).retrieve());
            }
        }
    }

    fn exponent(group: DhGroup, hex_digits: &str) -> Exponent {
        Exponent { group: super::group(group).unwrap(), x: number(hex_digits) }
    }

    fn digest(bytes: &[u8]) -> String {
        hex::encode(crate::Hash::Sha256.digest(&[bytes]))
    }

    /// Values computed with another implementation (arbitrary-precision integers of an interpreter):
    /// the SHA-256 of each 256-byte value.
    #[test]
    fn agrees_with_another_implementation() {
        let x =
            exponent(DhGroup::Modp2048, "d752c2c51fba0e29aa190570a9d4253e44077a058d3297fa3a5630d5bd012622");
        let y =
            exponent(DhGroup::Modp2048, "883c52bd6105dadf36411ccbc5b3b19f9926f3ffacbf0275b3b7ed6e1228aff6");
        assert_eq!(digest(&x.public()), "fb602b1f3d5bd288db55d4acdc2cb2e61f63c532889ed88318fb53a3628fa393");
        assert_eq!(digest(&y.public()), "402b9c536495c1769265dc28ca607b12d559fcc651a4fef6d46e6c463294b594");
        assert_eq!(
            digest(&x.agree(&y.public()).unwrap()),
            "5063fcbdfb852f0ecc240bd2f92ee8aaaffac63611823249f0386b2c25f7af2d"
        );
    }

    fn check(group: DhGroup, a: &str, b: &str, want: [&str; 3]) {
        let (a, b) = (exponent(group, a), exponent(group, b));
        let (ga, gb) = (a.public(), b.public());
        let shared = a.agree(&gb).unwrap();
        assert_eq!(b.agree(&ga).unwrap(), shared);
        assert_eq!([digest(&ga), digest(&gb), digest(&shared)], want, "{group}");
    }

    /// RFC 5114 A.1-A.3: xA and xB, and the SHA-256 of yA, yB and Z, whose whole values are long.
    #[test]
    fn rfc_5114_appendix_a() {
        let cases = [
            (
                DhGroup::Modp1024S160,
                "b9a3b3ae8fefc1a2930496507086f8455d48943e",
                "9392c9f9eb6a7a6a9022f7d83e7223c6835bbdda",
                [
                    "33bc36bb57958663a8014d9830598b0de00c766f0aca7ec9d486bafe2e84b703",
                    "8cb9ce9b3a092b9c436498b2a242751405e00a78da00a9f89eb1126aaf57276b",
                    "efaf3f62d608cdbd9ccd679f8f3f010d0883e1fe436840b852be9e5571fe23f3",
                ],
            ),
            (
                DhGroup::Modp2048S224,
                "22e62601dbffd06708a680f747f361f76d8f4f721a0548e483294b0c",
                "4ff3bc96c7fc6a6d71d3b363800a7cdfef6fc41b4417ea15353b7590",
                [
                    "149588a0f8b466223d7f41bc948c3a158e5cef1669579d7d985b52dc7778f11e",
                    "2aab48359cedc46db91bac808f601f905aebec30795371f34f8fc8d34935b32b",
                    "885bb5ebe4da0bd256299131a3f2ecfc683ba48652048c6bb21b7461f29cf49b",
                ],
            ),
            (
                DhGroup::Modp2048S256,
                "0881382cdb87660c6dc13e614938d5b9c8b2f248581cc5e31b35454397fce50e",
                "7d62a7e3ef36de617b13d1afb82c780d83a23bd4ee6705645121f371f546a53d",
                [
                    "ba101a638cd0382ded9814bbf575c26ac8bb2a7e0977ec68ac964ecc4b62a6c4",
                    "f6c9bb57f3f682a66969bcf5471b2ba364c834dd833278e09536028d6c72553e",
                    "01eb7b326b9093eea16968f04915ea1097194caee5bc657dba57bb69c6b7613d",
                ],
            ),
        ];
        for (group, a, b, want) in cases {
            check(group, a, b, want);
        }
    }

    /// The other safe primes, against an interpreter's integers: exponents of each group's length, SHA-256 of the values.
    #[test]
    fn other_groups_agree_with_another_implementation() {
        let cases = [
            (
                DhGroup::Modp1024,
                "b982a7f345348aa179ea66672b0af4a4ece095f92d8f7854a59ea42d9e794e42",
                "15be954fc997112f5b612f9847c901355ff66e138dbdbb8a73298fac9adc8348",
                [
                    "10fbe0d418a2c1dc3bd5e0a3a70123f0c91e04c4d1bf9179ed8af4763c99ebc5",
                    "3aeb1d88c43e2fd71428edc0982c7f00514a65a7db4234ab80183f18783d0253",
                    "d01eca9b85da3f944bcd50b0c7128be2114c2883ca80003cce9a339fbe1ded92",
                ],
            ),
            (
                DhGroup::Modp1536,
                "16700b7823ff88c3533176579f791c29bdd7996252f228d233569b5dc1718208",
                "dccaa91b54c886208689afbab010936c88e5c01af9fdeea07c74f66281de4e94",
                [
                    "15161b9f36469f237fa7b1f196a98ad6bd66eb299a37d85e6b115bf233e58aca",
                    "9fdf479e963a071a348081a604a423ba7742f55fc2602b43d17a22b6b071cdad",
                    "ac37c89e7d6a4ae49f74cf14fa9f3c6db2b833306a443950efe120f6635d75c9",
                ],
            ),
            (
                DhGroup::Modp3072,
                "302b99bc592b6c47e9b157bf262afc73b5176e5a0eb3f6c7611026565c563734764040450f2e8626",
                "7f9ce0165dd1a804ae66bf4258990065f7772fc2ce03a81eaf54ef0c0ecb3a6ed2cb72ee1b78c048",
                [
                    "9c0c04147c4e2c06973c8277d72624cf2672756e7a03cfde7d0b35dd6517dbf1",
                    "cef59b4233fc5e2d98ca3a1002907b6a0a2365a98acb9f256d30038ec858afa2",
                    "9bfd290cb7ed73ca1a9cd67dada6d6979aba67500a02cb5437aae6448b1229da",
                ],
            ),
            (
                DhGroup::Modp4096,
                "da9fb000dd2fb5c25a2d2d46ffb129a6f19e10fc2db295a7352a87011f8a4537088ecd3c1211c3c4e6da85c92425e459",
                "4026352afc0170e10dc77adbb591c99e5a8d77b73edee8715979921d66f15f0bfb3ff3ba4e5fd8eda295a90704f81f23",
                [
                    "b93b3a0fd488d87b19dfc61b693fc661fd788037e5044c686ad1623e7b0317e7",
                    "795e88656528829aa0f9f42ad527194c6246c27b07745db24554e9cde64b6867",
                    "2d7b195c0d3c55b39bef6cecc6ef6231ebe4568a07fdcbc34b367f1799487a14",
                ],
            ),
            (
                DhGroup::Modp6144,
                "b9f7daefaf72ae9dbfb5d1cab64e0dcbc88b343746380b26b8c7049886261bce41dae0ed6731bb846aeed7ca6d68d22cb9f7daefaf72ae9d",
                "44b18a18024c9f141d4d2d4835fe76005d676a47f29d20c20cec19ede9ece4c485868f3f41fb30e775abf9abf5a4b79b44b18a18024c9f14",
                [
                    "89012c2e3b5e82cd55a783d42733a536b792d08a7ce929351548e4a3607300eb",
                    "fb565aeef8ccb2ac6fdf4bbd1724ea74fff4798dc732f1c79d6e0dec72cd1cbe",
                    "29e572db209381b62f8870f025b1d59efc98aebd5cac4112403f70ebcd4aee72",
                ],
            ),
            (
                DhGroup::Modp8192,
                "22e6ea53c27538cbf3c29b3022ce4b15997248f2fcaf97ee6d4b72e549c0a98575ed86ecbe43f6b32b71431c0141d52422e6ea53c27538cbf3c29b3022ce4b15",
                "5a3e8bb36ae9ded2dc359dee488cca35f3a583ca91bf33ab477a4e3309de9d1d16d4d1a6df3232f0006e1256c086fb835a3e8bb36ae9ded2dc359dee488cca35",
                [
                    "53f389ddbbe033982a882aca2eb8d5d3aa698017974efd5fc2210013ddd3f4e1",
                    "24cd4aef1ffcb1b88ae2dc02d38c3d6e95b7ccff30cf0ab97fa8b294410c8268",
                    "c055d1cd1b4a9520098eab085e12f0437cde1beb669818636072efb2d2145c38",
                ],
            ),
        ];
        for (group, a, b, want) in cases {
            check(group, a, b, want);
        }
    }

    #[test]
    fn lengths_and_ranges_of_the_safe_primes() {
        for (group, len) in SAFE {
            let x = Exponent::generate(super::group(group).unwrap(), &mut Fixed(3));
            assert_eq!(x.public().len(), len, "{group}");
            let top = x.group.top.to_be_bytes();
            let small = |v: u8| [&vec![0; len - 1][..], &[v]].concat();
            let less = |n: u8| {
                let mut b = top.to_vec();
                b[len - 1] -= n;
                b
            };
            let mut p = top.to_vec();
            p[len - 1] += 1;
            for bad in [small(0), small(1), top.to_vec(), p, vec![0xff; len]] {
                assert!(x.agree(&bad).is_none(), "{group}");
            }
            for good in [small(2), small(3), less(1)] {
                assert!(x.agree(&good).is_some(), "{group}");
            }
            for wrong in [0, 1, 32, len - 1, len + 1, 2 * len] {
                assert!(x.agree(&vec![2; wrong]).is_none(), "{group} {wrong}");
            }
        }
    }

    /// Groups 22-24: whatever is not of order q is refused, though it is in range.
    #[test]
    fn small_subgroups_are_refused() {
        for group in SUB {
            let x = Exponent::generate(super::group(group).unwrap(), &mut Fixed(9));
            let len = x.group.len;
            let public = x.public();
            assert!(x.agree(&public).is_some());
            // 2 and 3 generate more than the subgroup; p - g^x = -g^x has order 2q.
            for outside in [2, 3] {
                assert!(x.agree(&[&vec![0; len - 1][..], &[outside]].concat()).is_none(), "{group}");
            }
            let y = BoxedUint::from_be_slice(&public, x.group.params.bits_precision()).unwrap();
            let minus = x.group.params.modulus().as_ref().wrapping_sub(&y);
            assert!(x.agree(&minus.to_be_bytes()).is_none(), "{group}");
            for bad in [vec![0; len], x.group.top.to_be_bytes().to_vec(), vec![0xff; len]] {
                assert!(x.agree(&bad).is_none(), "{group}");
            }
            // A broken source still gives an exponent in 1..q.
            struct Ones;
            impl Random for Ones {
                fn fill(&mut self, out: &mut [u8]) {
                    out.fill(0xff);
                }
            }
            let x = Exponent::generate(super::group(group).unwrap(), &mut Ones);
            assert!(x.x < *x.group.order.as_ref().unwrap());
        }
    }
}
