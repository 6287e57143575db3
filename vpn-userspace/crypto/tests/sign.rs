//! Keys of every kind, made by OpenSSL: what they sign verifies, and nothing else does.

use culvert_crypto::SystemRandom;
use culvert_crypto::sign::{BadKey, KeyKind, PrivateKey, PublicKey, Scheme, SignError};

const RSA_2048: &[u8] = include_bytes!("keys/rsa2048.pk8");
const RSA_3072: &[u8] = include_bytes!("keys/rsa3072.pk8");
const RSA_1024: &[u8] = include_bytes!("keys/rsa1024.pk8");
const RSA_E3: &[u8] = include_bytes!("keys/rsa2048-e3.pk8");
const P256: &[u8] = include_bytes!("keys/p256.pk8");
const P384: &[u8] = include_bytes!("keys/p384.pk8");
const P521: &[u8] = include_bytes!("keys/p521.pk8");
const ED25519: &[u8] = include_bytes!("keys/ed25519.pk8");

fn keys() -> Vec<PrivateKey> {
    [RSA_2048, RSA_3072, P256, P384, P521, ED25519].map(|der| PrivateKey::from_pkcs8(der).unwrap()).into()
}

#[test]
fn every_key_signs_by_its_schemes_and_no_other() {
    let mut random = SystemRandom::new();
    for key in keys() {
        let public = PublicKey::from_spki(&key.public_key().to_spki()).unwrap();
        assert_eq!(&public, key.public_key());
        let mut signed = Vec::new();
        for scheme in Scheme::ALL {
            let parts: &[&[u8]] = &[b"real message | ", b"", b"nonce | prf(SK_p, ID)"];
            match key.sign(scheme, parts, &mut random) {
                Ok(signature) => {
                    let whole = parts.concat();
                    assert_eq!(public.verify(scheme, &[&whole], &signature), Ok(()), "{key:?} {scheme}");
                    let other = public.verify(scheme, &[&whole[1..]], &signature);
                    assert_eq!(other, Err(SignError::NotAuthentic), "{key:?} {scheme}");
                    signed.push(scheme);
                }
                Err(error) => {
                    assert_eq!(error, SignError::WrongKey { key: key.kind(), scheme });
                    assert!(!key.schemes().contains(&scheme));
                }
            }
        }
        assert!(key.schemes().iter().all(|s| signed.contains(s)));
        let fixed = match key.kind() {
            KeyKind::Rsa(_) => vec![Scheme::RsaPkcs1Sha1, Scheme::RsaPkcs1Bare],
            KeyKind::EcdsaP256 => vec![Scheme::EcdsaP256Fixed],
            KeyKind::EcdsaP384 => vec![Scheme::EcdsaP384Fixed],
            KeyKind::EcdsaP521 => vec![Scheme::EcdsaP521Fixed],
            KeyKind::Ed25519 => vec![],
        };
        assert_eq!(signed.len(), key.schemes().len() + fixed.len());
        assert!(fixed.iter().all(|s| signed.contains(s)));
    }
}

/// RFC 4754 7: r | s, each as long as the curve's order.
#[test]
fn fixed_encodings_have_their_lengths() {
    let mut random = SystemRandom::new();
    for (der, scheme, len) in [
        (P256, Scheme::EcdsaP256Fixed, 64),
        (P384, Scheme::EcdsaP384Fixed, 96),
        (P521, Scheme::EcdsaP521Fixed, 132),
    ] {
        let key = PrivateKey::from_pkcs8(der).unwrap();
        for _ in 0..8 {
            assert_eq!(key.sign(scheme, &[b"m"], &mut random).unwrap().len(), len);
        }
    }
}

/// Public mistake: signatures. Zero r or s.
#[test]
fn zero_r_or_s_is_refused() {
    let mut random = SystemRandom::new();
    for (der, scheme) in
        [(P256, Scheme::EcdsaP256Fixed), (P384, Scheme::EcdsaP384Fixed), (P521, Scheme::EcdsaP521Fixed)]
    {
        let key = PrivateKey::from_pkcs8(der).unwrap();
        let good = key.sign(scheme, &[b"m"], &mut random).unwrap();
        let half = good.len() / 2;
        let (r, s) = good.split_at(half);
        let zero = vec![0; half];
        for bad in [[&zero, s].concat(), [r, &zero].concat(), [&zero, &zero[..]].concat(), [s, r].concat()] {
            let verified = key.public_key().verify(scheme, &[b"m"], &bad);
            assert_eq!(verified, Err(SignError::NotAuthentic), "{scheme}");
        }
    }
    // The same in DER, on each curve: SEQUENCE { 0, 0 }, { 1, 0 }, { 0, 1 } and an empty one.
    for (der, scheme) in [
        (P256, Scheme::EcdsaSha256),
        (P256, Scheme::EcdsaSha512),
        (P384, Scheme::EcdsaSha384),
        (P521, Scheme::EcdsaSha512),
    ] {
        let key = PrivateKey::from_pkcs8(der).unwrap();
        let bad: [&[u8]; 5] = [
            &[0x30, 6, 2, 1, 0, 2, 1, 0],
            &[0x30, 6, 2, 1, 1, 2, 1, 0],
            &[0x30, 6, 2, 1, 0, 2, 1, 1],
            &[0x30, 0],
            &[],
        ];
        for bad in bad {
            let verified = key.public_key().verify(scheme, &[b"m"], bad);
            assert_eq!(verified, Err(SignError::NotAuthentic), "{scheme} {bad:?}");
        }
    }
}

/// Two P-521 signatures of one message never share their nonce, even where randomness repeats; nor do
/// signatures of two messages.
#[test]
fn p521_nonces_do_not_repeat() {
    struct Stuck;
    impl culvert_crypto::Random for Stuck {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(7);
        }
    }
    let key = PrivateKey::from_pkcs8(P521).unwrap();
    let r = |message: &[u8], random: &mut dyn culvert_crypto::Random| {
        key.sign(Scheme::EcdsaP521Fixed, &[message], random).unwrap()[..66].to_vec()
    };
    assert_eq!(r(b"a", &mut Stuck), r(b"a", &mut Stuck));
    assert_ne!(r(b"a", &mut Stuck), r(b"b", &mut Stuck));
    assert_ne!(r(b"a", &mut SystemRandom::new()), r(b"a", &mut SystemRandom::new()));
}

#[test]
fn weak_keys_are_refused_with_a_reason() {
    let refused = |der| PrivateKey::from_pkcs8(der).unwrap_err();
    assert_eq!(refused(RSA_1024), BadKey::RsaSize { bits: 1024, min: 2048, max: 8192 });
    assert_eq!(refused(RSA_E3), BadKey::RsaExponent);
    let small = include_bytes!("keys/rsa1024.spki");
    assert!(matches!(PublicKey::from_spki(small), Err(BadKey::RsaSize { bits: 1024, .. })));
    let small = PublicKey::from_spki_min_rsa(small, 1024).unwrap();
    // OpenSSL's signatures over "culvert", by SHA-1 and SHA-256.
    for (scheme, signature) in [
        (Scheme::RsaPkcs1Sha1, &include_bytes!("keys/rsa1024.sha1.sig")[..]),
        (Scheme::RsaPkcs1Sha256, &include_bytes!("keys/rsa1024.sha256.sig")[..]),
    ] {
        assert_eq!(small.verify(scheme, &[b"culvert"], signature), Ok(()));
        assert_eq!(small.verify(scheme, &[b"culverT"], signature), Err(SignError::NotAuthentic));
    }
}

/// An EC key without its public half, as some tools write it, and one whose public half is another's.
#[test]
fn ec_keys_are_checked_against_their_public_half() {
    for der in [P256, P384, P521] {
        let key = PrivateKey::from_pkcs8(der).unwrap();
        let point_at = der.len() - 10;
        let mut other = der.to_vec();
        other[point_at] ^= 1;
        assert_eq!(PrivateKey::from_pkcs8(&other).unwrap_err(), BadKey::Inconsistent("ECDSA"));
        assert!(format!("{key:?}").starts_with("PrivateKey(ECDSA P-"));
    }
    let bare = include_bytes!("keys/p256-bare.pk8");
    assert_eq!(
        PrivateKey::from_pkcs8(bare).unwrap().public_key(),
        PrivateKey::from_pkcs8(P256).unwrap().public_key()
    );
}

#[test]
fn broken_encodings_are_refused_without_a_panic() {
    for der in [RSA_2048, P256, P521, ED25519] {
        let spki = PrivateKey::from_pkcs8(der).unwrap().public_key().to_spki();
        for len in 0..der.len() {
            assert!(PrivateKey::from_pkcs8(&der[..len]).is_err());
        }
        for len in 0..spki.len() {
            assert!(PublicKey::from_spki(&spki[..len]).is_err());
        }
        // Any one byte changed: refused or another key, but never a panic.
        for i in 0..spki.len() {
            let mut other = spki.clone();
            other[i] ^= 0x41;
            assert_ne!(PublicKey::from_spki(&other).ok().map(|k| k.to_spki()), Some(spki.clone()));
        }
    }
}
