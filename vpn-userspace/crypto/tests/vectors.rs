//! The RFCs' own packets through `PacketCipher`: RFC 7634, GCM as RFC 4106 uses it, ESN with each suite.

use culvert_crypto::{Associated, CipherError, Encryption, Integrity, PacketCipher, Suite, SuiteKeys};

fn bytes(hex_digits: &str) -> Vec<u8> {
    hex::decode(hex_digits.split_whitespace().collect::<String>()).unwrap()
}

fn suite(encryption: Encryption, integrity: Option<Integrity>) -> Suite {
    Suite::new(encryption, integrity).unwrap()
}

/// RFC 7634 appendix A: a whole ESP packet with ChaCha20-Poly1305.
#[test]
fn rfc_7634_esp_packet() {
    let key = bytes(
        "80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f 90 91 92 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2 a3",
    );
    let packet = bytes(
        "45 00 00 54 a6 f2 00 00 40 01 e7 78 c6 33 64 05 c0 00 02 05 08 00 5b 7a 3a 08 00 00 55 3b ec 10
         00 07 36 27 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 20 21 22 23
         24 25 26 27 28 29 2a 2b 2c 2d 2e 2f 30 31 32 33 34 35 36 37 01 02 02 04",
    );
    let want = bytes(
        "24 03 94 28 b9 7f 41 7e 3c 13 75 3a 4f 05 08 7b 67 c3 52 e6 a7 fa b1 b9 82 d4 66 ef 40 7a e5 c6
         14 ee 80 99 d5 28 44 eb 61 aa 95 df ab 4c 02 f7 2a a7 1e 7c 4c 4f 64 c9 be fe 2f ac c6 38 e8 f3
         cb ec 16 3f ac 46 9b 50 27 73 f6 fb 94 e6 64 da 91 65 b8 28 29 f6 41 e0",
    );
    let tag = bytes("76 aa a8 26 6b 7f b0 f7 b1 1b 36 99 07 e1 ad 43");
    let cipher =
        PacketCipher::new(suite(Encryption::ChaCha20Poly1305, None), &SuiteKeys::new(&key, &[])).unwrap();
    let header = [1, 2, 3, 4, 0, 0, 0, 5];
    let iv = bytes("10 11 12 13 14 15 16 17");
    let (mut text, mut got_tag) = (packet.clone(), [0; 16]);
    cipher.seal(Associated::esp(&header, None), &iv, &mut text, &mut got_tag).unwrap();
    assert_eq!(hex::encode(&text), hex::encode(&want));
    assert_eq!(hex::encode(got_tag), hex::encode(&tag));
    cipher.open(Associated::esp(&header, None), &iv, &mut text, &tag).unwrap();
    assert_eq!(text, packet);
}

/// The GCM specification's test case 4 (the vectors that RFC 4106 points to): 20 bytes of associated
/// data, a salt and an IV that together are its nonce.
#[test]
fn gcm_specification_case_4() {
    let key = bytes("feffe9928665731c6d6a8f9467308308 cafebabe");
    let iv = bytes("facedbaddecaf888");
    let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let want = bytes(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
    );
    let cipher = PacketCipher::new(suite(Encryption::AesGcm128, None), &SuiteKeys::new(&key, &[])).unwrap();
    let (mut text, mut tag) = (plain.clone(), [0; 16]);
    cipher.seal(Associated::new(&aad), &iv, &mut text, &mut tag).unwrap();
    assert_eq!(text, want);
    assert_eq!(hex::encode(tag), "5bc94fbc3221a5db94fae95ae7121a47");
    cipher.open(Associated::new(&aad), &iv, &mut text, &tag).unwrap();
    assert_eq!(text, plain);
}

/// RFC 4106 5 and RFC 4303 2.2.1: with ESN the AEAD's associated data is SPI | high | low, and the
/// HMAC runs over header | IV | text | high.
#[test]
fn extended_sequence_numbers_are_authenticated_where_the_rfcs_say() {
    let header = [0xc0, 0xde, 0xca, 0xfe, 0, 0, 0, 9];
    let mut aad = vec![0xc0, 0xde, 0xca, 0xfe];
    aad.extend([0, 0, 0, 7, 0, 0, 0, 9]);
    // GMAC's head takes in the IV and has room for ESP's header alone: its own test is below.
    let aeads = Encryption::ALL.into_iter().filter(|e| e.is_aead());
    for encryption in aeads {
        let suite = suite(encryption, None);
        let keys = SuiteKeys::new(&vec![7; suite.encryption_key_len()], &[]);
        let cipher = PacketCipher::new(suite, &keys).unwrap();
        let tag = vec![0; suite.icv_len()];
        let (mut a, mut b, mut tag_a, mut tag_b) = ([3; 40], [3; 40], tag.clone(), tag);
        cipher.seal(Associated::esp(&header, Some(7)), &[1; 8], &mut a, &mut tag_a).unwrap();
        cipher.seal(Associated::new(&aad), &[1; 8], &mut b, &mut tag_b).unwrap();
        assert_eq!((a, &tag_a), (b, &tag_b), "{suite}");
        let wrong = cipher.open(Associated::esp(&header, Some(8)), &[1; 8], &mut a, &tag_a);
        assert_eq!(wrong, Err(CipherError::NotAuthentic));
    }
    for integrity in Integrity::ALL {
        let suite = suite(Encryption::AesCbc256, Some(integrity));
        let keys = SuiteKeys::new(&[7; 32], &vec![9; integrity.key_len()]);
        let cipher = PacketCipher::new(suite, &keys).unwrap();
        let (iv, mut text, mut tag) = ([5; 16], [3; 48], vec![0; integrity.icv_len()]);
        cipher.seal(Associated::esp(&header, Some(7)), &iv, &mut text, &mut tag).unwrap();
        // The same MAC from the PRF, whose key is used as it is.
        let prf = integrity.prf();
        let mac = prf.compute(keys.integrity(), &[&header, &iv, &text, &[0, 0, 0, 7]]);
        assert_eq!(tag, mac[..integrity.icv_len()]);
        let wrong = cipher.open(Associated::esp(&header, None), &iv, &mut text, &tag);
        assert_eq!(wrong, Err(CipherError::NotAuthentic));
        cipher.open(Associated::esp(&header, Some(7)), &iv, &mut text, &tag).unwrap();
        assert_eq!(text, [3; 48]);
    }
}

#[test]
fn keys_and_parts_of_other_lengths_are_refused() {
    for suite in Suite::all() {
        let (e, i) = (suite.encryption_key_len(), suite.integrity_key_len());
        for (de, di) in [(e - 1, i), (e + 1, i), (0, i), (e, i + 1), (e, 1)] {
            let error = PacketCipher::new(suite, &SuiteKeys::new(&vec![1; de], &vec![1; di])).unwrap_err();
            assert_eq!((error.want_encryption, error.want_integrity), (e, i));
        }
        let cipher = PacketCipher::new(suite, &SuiteKeys::new(&vec![1; e], &vec![1; i])).unwrap();
        let head = Associated::new(&[1; 8]);
        let (iv, mut tag) = (vec![0; suite.iv_len()], vec![0; suite.icv_len()]);
        let length = Err(CipherError::Length);
        assert_eq!(cipher.seal(head, &iv[1..], &mut [0; 32], &mut tag), length);
        assert_eq!(cipher.open(head, &iv[1..], &mut [0; 32], &tag), length);
        assert_eq!(cipher.open(head, &iv, &mut [0; 32], &tag[1..]), length);
        let mut long = tag.clone();
        long.push(0);
        assert_eq!(cipher.seal(head, &iv, &mut [0; 32], &mut long), length);
        assert_eq!(cipher.write_iv(1, &mut vec![0; suite.iv_len() + 1]), length);
        if suite.encryption().block_len() > 1 {
            assert_eq!(cipher.open(head, &iv, &mut [0; 33], &tag), length);
            assert_eq!(cipher.seal(head, &iv, &mut [0; 15], &mut tag), length);
        }
        assert!(!format!("{cipher:?}").contains("1, 1"));
    }
}

/// Every suite: what one side seals the other opens, and any changed byte of packet, IV or tag is refused.
#[test]
fn every_suite_opens_what_it_sealed_and_nothing_else() {
    let header = [1, 2, 3, 4, 0, 0, 0, 5];
    for suite in Suite::all() {
        let keys =
            SuiteKeys::new(&vec![0x11; suite.encryption_key_len()], &vec![0x22; suite.integrity_key_len()]);
        let cipher = PacketCipher::new(suite, &keys).unwrap();
        for esn in [None, Some(0), Some(9)] {
            let head = Associated::esp(&header, esn);
            for len in [0, 16, 32, 48, 1408] {
                let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let (mut iv, mut tag) = (vec![0; suite.iv_len()], vec![0; suite.icv_len()]);
                cipher.write_iv(77, &mut iv).unwrap();
                let mut text = plain.clone();
                cipher.seal(head, &iv, &mut text, &mut tag).unwrap();
                let hidden = suite.encryption().serves_ike();
                assert_eq!(text == plain, !hidden || len == 0, "{suite} {len}");
                let open = |mut text: Vec<u8>, iv: &[u8], tag: &[u8], header: &[u8; 8]| {
                    cipher.open(Associated::esp(header, esn), iv, &mut text, tag).map(|()| text)
                };
                assert_eq!(open(text.clone(), &iv, &tag, &header).unwrap(), plain, "{suite}");
                let bad = Err(CipherError::NotAuthentic);
                for at in [0, tag.len() - 1] {
                    let mut tag = tag.clone();
                    tag[at] ^= 1;
                    assert_eq!(open(text.clone(), &iv, &tag, &header), bad, "{suite}");
                }
                for at in [0, len / 2].into_iter().filter(|at| *at < len) {
                    let mut text = text.clone();
                    text[at] ^= 0x80;
                    assert_eq!(open(text, &iv, &tag, &header), bad, "{suite}");
                }
                let mut other = iv.clone();
                other[3] ^= 1;
                assert_eq!(open(text.clone(), &other, &tag, &header), bad, "{suite}");
                assert_eq!(open(text, &iv, &tag, &[1, 2, 3, 4, 0, 0, 0, 6]), bad, "{suite}");
            }
        }
    }
}

/// RFC 4543 3.3: GMAC's tag is GCM's over header | IV | payload with nothing to encrypt.
#[test]
fn gmac_is_gcm_of_nothing() {
    let header = [9, 8, 7, 6, 0, 0, 0, 1];
    for (gmac, gcm) in [
        (Encryption::AesGmac128, Encryption::AesGcm128),
        (Encryption::AesGmac192, Encryption::AesGcm192),
        (Encryption::AesGmac256, Encryption::AesGcm256),
    ] {
        let keys = SuiteKeys::new(&vec![0x42; gmac.key_len() + 4], &[]);
        let gmac = PacketCipher::new(suite(gmac, None), &keys).unwrap();
        let gcm = PacketCipher::new(suite(gcm, None), &keys).unwrap();
        for (esn, len) in [(None, 0), (None, 5), (None, 64), (Some(3), 1), (Some(3), 12), (Some(3), 1400)] {
            let (iv, mut payload) = ([6; 8], vec![0xab; len]);
            let mut tag = [0; 16];
            gmac.seal(Associated::esp(&header, esn), &iv, &mut payload, &mut tag).unwrap();
            assert_eq!(payload, vec![0xab; len]);
            let high: Vec<u8> = esn.map_or(vec![], |h: u32| h.to_be_bytes().to_vec());
            let all = [&header[..4], &high, &header[4..], &iv, &payload].concat();
            let mut want = [0; 16];
            gcm.seal(Associated::new(&all), &iv, &mut [], &mut want).unwrap();
            assert_eq!(tag, want, "{esn:?} {len}");
        }
    }
}

/// RFC 4106 6: short tags are the whole tag cut; ring's own GCM gives the whole one.
#[test]
fn short_gcm_tags_are_the_whole_tag_cut() {
    for (short, whole) in [
        (Encryption::AesGcm8_128, Encryption::AesGcm128),
        (Encryption::AesGcm12_128, Encryption::AesGcm128),
        (Encryption::AesGcm8_256, Encryption::AesGcm256),
        (Encryption::AesGcm12_256, Encryption::AesGcm256),
    ] {
        let keys = SuiteKeys::new(&vec![0x24; whole.key_len() + 4], &[]);
        let (cut, all) = (suite(short, None), suite(whole, None));
        for (aad, len) in [(8, 0), (8, 1), (12, 100), (32, 64), (60, 999)] {
            let aad = vec![7; aad];
            let (mut a, mut b) = (vec![1; len], vec![1; len]);
            let (mut tag, mut long) = (vec![0; cut.icv_len()], [0; 16]);
            let seal = |suite, text: &mut [u8], tag: &mut [u8]| {
                let cipher = PacketCipher::new(suite, &keys).unwrap();
                cipher.seal(Associated::new(&aad), &[5; 8], text, tag).unwrap();
            };
            seal(cut, &mut a, &mut tag);
            seal(all, &mut b, &mut long);
            assert_eq!((&a, &tag[..]), (&b, &long[..cut.icv_len()]), "{cut}");
        }
    }
}

/// CCM with tags of 8 and 12 bytes, against OpenSSL's: keys 00, 01.., nonce a0.., associated data 00..0b.
#[test]
fn ccm_with_short_tags() {
    let nonce: Vec<u8> = (0xa0..0xab).collect();
    let aad: Vec<u8> = (0..12).collect();
    for (encryption, want) in [
        (
            Encryption::AesCcm8_128,
            "e4bd4a63f2888097e4992dd5bf5dcd8e3506fe6426e80a92c29b79528d5a6022b608c81b463969d74a9d2aee58",
        ),
        (
            Encryption::AesCcm12_128,
            "e4bd4a63f2888097e4992dd5bf5dcd8e3506fe6426e80a92c29b79528d5a6022b608c81b46c730f2702b0765361b2f7c90",
        ),
        (
            Encryption::AesCcm8_192,
            "669ebed0bea4e95e74c4cce83ebc78c94cd4bbeb5566156cd6d17b1bae208273cf4857434b36dc67b59decabb5",
        ),
        (
            Encryption::AesCcm12_192,
            "669ebed0bea4e95e74c4cce83ebc78c94cd4bbeb5566156cd6d17b1bae208273cf4857434b6975cbc0ba0d45a05284a7c4",
        ),
        (
            Encryption::AesCcm8_256,
            "98a64d9aed71de7fd0c473bf62bed680babb205c15a208f15a24fb9085f2f7adb1d0c0eb9c14e559a1ce929f03",
        ),
        (
            Encryption::AesCcm12_256,
            "98a64d9aed71de7fd0c473bf62bed680babb205c15a208f15a24fb9085f2f7adb1d0c0eb9c2368bd08fda50a3b4ce78867",
        ),
    ] {
        let key: Vec<u8> = (0..encryption.key_len() as u8).collect();
        let (salt, iv) = nonce.split_at(3);
        let suite = suite(encryption, None);
        let cipher = PacketCipher::new(suite, &SuiteKeys::new(&[&key, salt].concat(), &[])).unwrap();
        let mut text: Vec<u8> = (0..37u8).map(|i| i.wrapping_mul(7)).collect();
        let mut tag = vec![0; suite.icv_len()];
        cipher.seal(Associated::new(&aad), iv, &mut text, &mut tag).unwrap();
        assert_eq!(hex::encode([text, tag].concat()), want, "{encryption}");
    }
}
