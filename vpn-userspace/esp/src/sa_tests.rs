//! Both halves of an SA against each other: what one seals the other opens, and nothing else.

use culvert_crypto::{Associated, PacketCipher, Suite, SuiteKeys};
use culvert_types::Spi;
use proptest::prelude::*;

use crate::packet::tests::{ipv4, ipv6};
use crate::{InboundSa, NextHeader, OpenError, OutboundSa, ReplayError, SealError};

const SPI: u32 = 0xc0de_cafe;

fn keys(suite: Suite) -> SuiteKeys {
    let bytes =
        |n: usize, seed: u8| (0..n).map(|i| seed.wrapping_add((i as u8).wrapping_mul(7))).collect::<Vec<_>>();
    SuiteKeys::new(&bytes(suite.encryption_key_len(), 3), &bytes(suite.integrity_key_len(), 91))
}

fn pair(suite: Suite, esn: bool, window: u32) -> (OutboundSa, InboundSa) {
    let spi = Spi::new(SPI).unwrap();
    (
        OutboundSa::new(spi, suite, &keys(suite), esn).unwrap(),
        InboundSa::new(spi, suite, &keys(suite), esn, window).unwrap(),
    )
}

fn seal(sa: &mut OutboundSa, inner: &[u8], next_header: u8) -> Vec<u8> {
    let mut buf = vec![0xee; sa.sealed_len(inner.len())];
    let start = sa.header_len();
    buf[start..start + inner.len()].copy_from_slice(inner);
    let len = sa.seal(&mut buf, inner.len(), next_header).unwrap();
    assert_eq!(len, buf.len());
    buf
}

/// An authentic packet with any decrypted text: what a peer could send that does not keep the rules.
fn craft(suite: Suite, sequence: u32, text: &[u8]) -> Vec<u8> {
    let cipher = PacketCipher::new(suite, &keys(suite)).unwrap();
    let mut header = [0; 8];
    header[..4].copy_from_slice(&SPI.to_be_bytes());
    header[4..].copy_from_slice(&sequence.to_be_bytes());
    let (mut iv, mut tag) = (vec![0; suite.iv_len()], vec![0; suite.icv_len()]);
    cipher.write_iv(sequence.into(), &mut iv).unwrap();
    let mut text = text.to_vec();
    cipher.seal(Associated::esp(&header, None), &iv, &mut text, &mut tag).unwrap();
    [&header[..], &iv, &text, &tag].concat()
}

fn small_v4() -> Vec<u8> {
    ipv4([10, 0, 0, 1], [172, 16, 0, 1], 17, b"payload")
}

fn any_suite() -> impl Strategy<Value = Suite> {
    proptest::sample::select(Suite::all().collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        suite in any_suite(), esn: bool, v6: bool, len in prop_oneof![9 => 0usize..1600, 1 => 1600usize..65000],
        seed: u8, start in prop_oneof![Just(0u64), 0u64..0xffff_fff0, Just(0xffff_fffe), 1u64 << 32..1 << 40],
    ) {
        let start = if esn { start } else { start & 0x7fff_ffff };
        let (mut out, mut inn) = pair(suite, esn, 1024);
        out.start_at(start);
        inn.start_at(start);
        let payload: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
        let (inner, next, kind) = if v6 {
            (ipv6("2001:db8::1", "2001:db8::2", 17, &payload), 41, NextHeader::Ipv6)
        } else {
            (ipv4([10, 0, 0, 1], [172, 16, 0, 1], 17, &payload), 4, NextHeader::Ipv4)
        };
        for step in 1..=3u64 {
            let mut packet = seal(&mut out, &inner, next);
            prop_assert_eq!(packet[..4].to_vec(), SPI.to_be_bytes());
            prop_assert_eq!(packet[4..8].to_vec(), ((start + step) as u32).to_be_bytes());
            prop_assert_eq!((packet.len() - out.header_len() - suite.icv_len()) % suite.alignment(), 0);
            prop_assert!(packet.len() >= inn.min_len());
            // Nothing of the packet shows (a run of eight bytes is no accident), but with GMAC, which hides nothing.
            if inner.len() >= 60 && suite.encryption().mode() != culvert_crypto::Mode::Gmac {
                prop_assert!(!packet.windows(8).any(|w| w == &inner[40..48]));
            }
            let opened = inn.open(&mut packet).unwrap();
            prop_assert_eq!(&packet[opened.inner], &inner[..]);
            prop_assert_eq!((opened.next_header, opened.sequence), (kind, start + step));
            prop_assert_eq!(inn.highest_sequence(), start + step);
        }
    }

    #[test]
    fn any_bytes_are_taken(suite in any_suite(), esn: bool, mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: bool) {
        let (_, mut inn) = pair(suite, esn, 64);
        if ours && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&SPI.to_be_bytes());
        }
        prop_assert!(inn.open(&mut bytes).is_err());
        prop_assert_eq!(inn.highest_sequence(), 0);
    }
}

#[test]
fn every_forged_byte_is_refused_and_moves_nothing() {
    for suite in Suite::all() {
        for esn in [false, true] {
            let (mut out, mut inn) = pair(suite, esn, 64);
            out.start_at(1000);
            let good = seal(&mut out, &small_v4(), 4);
            for at in 0..good.len() {
                for flip in [0x01, 0x80] {
                    let mut bad = good.clone();
                    bad[at] ^= flip;
                    let error = inn.open(&mut bad).unwrap_err();
                    let want = if at < 4 { OpenError::WrongSpi } else { OpenError::NotAuthentic };
                    assert_eq!(error, want, "{suite} byte {at}");
                    assert!(!error.is_authentic());
                    assert_eq!(inn.highest_sequence(), 0, "{suite} byte {at}");
                }
            }
            let opened = inn.open(&mut good.clone()).unwrap();
            assert_eq!(opened.sequence, 1001);
            assert_eq!(inn.open(&mut good.clone()), Err(OpenError::Replay(ReplayError::Duplicate)));
        }
    }
}

#[test]
fn cut_or_lengthened_packets_are_refused() {
    for suite in Suite::all() {
        let (mut out, mut inn) = pair(suite, true, 64);
        let good = seal(&mut out, &small_v4(), 4);
        for len in 0..good.len() {
            let error = inn.open(&mut good[..len].to_vec()).unwrap_err();
            let want = if len < inn.min_len() {
                OpenError::TooShort
            } else if (good.len() - len).is_multiple_of(suite.alignment()) {
                OpenError::NotAuthentic
            } else {
                OpenError::Misaligned
            };
            assert_eq!(error, want, "{suite} {len}");
        }
        for more in 1..40 {
            let mut long = good.clone();
            long.resize(good.len() + more, 0);
            assert!(inn.open(&mut long).is_err());
        }
        assert_eq!(inn.highest_sequence(), 0);
        inn.open(&mut good.clone()).unwrap();
    }
}

#[test]
fn other_keys_suites_and_modes_do_not_open() {
    let suites: Vec<Suite> = Suite::all().collect();
    for a in &suites {
        let (mut out, mut inn) = pair(*a, true, 64);
        // A peer that has no ESN: for the first 2^32 packets only the check value differs.
        let (mut plain, _) = pair(*a, false, 64);
        let mut packet = seal(&mut plain, &small_v4(), 4);
        assert_eq!(inn.open(&mut packet), Err(OpenError::NotAuthentic), "{a}");
        let good = seal(&mut out, &small_v4(), 4);
        for b in suites.iter().filter(|b| *b != a) {
            let (_, mut other) = pair(*b, true, 64);
            assert!(other.open(&mut good.clone()).is_err(), "{a} opened as {b}");
        }
    }
}

/// Public mistake: counters.
#[test]
fn sequence_numbers_stop_before_they_repeat() {
    for suite in Suite::all() {
        for (esn, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX)] {
            let (mut out, mut inn) = pair(suite, esn, 64);
            out.start_at(last - 2);
            inn.start_at(last - 2);
            assert_eq!(out.remaining(), 2);
            for n in [last - 1, last] {
                let mut packet = seal(&mut out, &small_v4(), 4);
                assert_eq!(inn.open(&mut packet).unwrap().sequence, n);
            }
            let inner = small_v4();
            let mut buf = vec![0; out.sealed_len(inner.len())];
            for _ in 0..3 {
                assert_eq!(out.seal(&mut buf, inner.len(), 4), Err(SealError::Exhausted));
                assert_eq!((out.sequence(), out.remaining()), (last, 0));
            }
            assert!(buf.iter().all(|b| *b == 0), "nothing was written");
        }
    }
}

#[test]
fn a_buffer_without_room_uses_no_number() {
    for suite in Suite::all() {
        let (mut out, _) = pair(suite, true, 64);
        let need = out.sealed_len(100);
        for have in 0..need {
            assert!(matches!(out.seal(&mut vec![0; have], 100, 4), Err(SealError::NoRoom { .. })));
        }
        let huge = out.seal(&mut [0; 64], usize::MAX, 4);
        assert!(matches!(huge, Err(SealError::NoRoom { .. })));
        assert_eq!(out.sequence(), 0);
        assert_eq!(out.seal(&mut vec![0; need + 9], 100, 4), Ok(need));
    }
}

/// Packets around 2^32 arrive shuffled and some twice: each is accepted once (RFC 4303 appendix A).
#[test]
fn extended_numbers_survive_reordering_across_2_to_32() {
    let suite = Suite::all().find(|s| s.is_aead()).unwrap();
    let (mut out, mut inn) = pair(suite, true, 256);
    let start = (1u64 << 32) - 150;
    out.start_at(start);
    inn.start_at(start);
    let packets: Vec<_> = (0..300).map(|_| seal(&mut out, &small_v4(), 4)).collect();
    // 7 is coprime to 300: blocks of the order jump back and forth by less than the window.
    let mut order: Vec<usize> = (0..300).collect();
    for block in order.chunks_mut(60) {
        let copy = block.to_vec();
        for (i, slot) in block.iter_mut().enumerate() {
            *slot = copy[i * 7 % 60];
        }
    }
    for i in order {
        let opened = inn.open(&mut packets[i].clone()).unwrap();
        assert_eq!(opened.sequence, start + 1 + i as u64);
        assert_eq!(inn.open(&mut packets[i].clone()), Err(OpenError::Replay(ReplayError::Duplicate)));
    }
    assert_eq!(inn.highest_sequence(), start + 300);
    // Left of the window a number is taken for one of the next 2^32, and its check value says otherwise.
    assert_eq!(inn.replay_floor(), start + 300 - 255);
    assert_eq!(inn.open(&mut packets[10].clone()), Err(OpenError::NotAuthentic));
    let (mut out, mut inn) = pair(suite, false, 64);
    let old = seal(&mut out, &small_v4(), 4);
    for _ in 0..64 {
        inn.open(&mut seal(&mut out, &small_v4(), 4)).unwrap();
    }
    assert_eq!(inn.open(&mut old.clone()), Err(OpenError::Replay(ReplayError::TooOld)));
}

#[test]
fn only_tunnel_mode_next_headers() {
    let suite = Suite::all().last().unwrap();
    for next in 0..=255u8 {
        let (mut out, mut inn) = pair(suite, true, 64);
        let opened = inn.open(&mut seal(&mut out, &small_v4(), next));
        match next {
            4 => assert_eq!(opened.unwrap().next_header, NextHeader::Ipv4),
            41 => assert_eq!(opened, Err(OpenError::BadInner)),
            59 => assert_eq!(opened, Err(OpenError::Dummy)),
            _ => assert_eq!(opened, Err(OpenError::NextHeader(next))),
        }
        // Authentic all the same: its number is used up.
        assert_eq!(inn.highest_sequence(), 1);
    }
    let (mut out, mut inn) = pair(suite, true, 64);
    assert_eq!(inn.open(&mut seal(&mut out, &[], 59)), Err(OpenError::Dummy));
}

/// Public mistake: pad length.
#[test]
fn padding_is_checked() {
    let inner = small_v4(); // 27 bytes
    for suite in Suite::all() {
        let text = |padding: &[u8], pad_len: u8| {
            let mut t = [&inner[..], padding, &[pad_len, 4]].concat();
            // Traffic-flow padding in front of the padding proper keeps the block whole.
            let gap = t.len().next_multiple_of(16) - t.len();
            t.splice(inner.len()..inner.len(), vec![0xf1; gap]);
            t
        };
        let open = |text: &[u8]| pair(suite, false, 64).1.open(&mut craft(suite, 1, text));
        let all: Vec<u8> = (1..=255).collect();
        for len in [0, 1, 2, 15, 16, 100, 255] {
            let opened = open(&text(&all[..len], len as u8)).unwrap();
            assert_eq!(opened.inner.len(), inner.len(), "{suite} {len}");
        }
        assert_eq!(open(&text(&[1, 2, 4], 3)), Err(OpenError::BadPadding));
        assert_eq!(open(&text(&[0, 0, 0], 3)), Err(OpenError::BadPadding));
        assert_eq!(open(&text(&[2, 3, 4], 3)), Err(OpenError::BadPadding));
        // Longer than the packet, by one and by much.
        let mut t = vec![0; 16];
        for (pad_len, want) in [(15, OpenError::BadPadding), (255, OpenError::BadPadding)] {
            t[14..].copy_from_slice(&[pad_len, 4]);
            assert_eq!(open(&t), Err(want));
        }
        let mut t: Vec<u8> = (1..=14).collect();
        t.extend([14, 4]);
        assert_eq!(open(&t), Err(OpenError::BadInner), "nothing but padding");
        t[15] = 59;
        assert_eq!(open(&t), Err(OpenError::Dummy));
    }
}

/// Public mistake: inner parsing.
#[test]
fn the_inner_header_tells_the_length() {
    let suite = Suite::all().find(|s| !s.is_aead()).unwrap();
    let open = |inner: &[u8], next: u8| {
        let (mut out, mut inn) = pair(suite, false, 64);
        let mut packet = seal(&mut out, inner, next);
        inn.open(&mut packet).map(|o| packet[o.inner].to_vec())
    };
    // Traffic-flow padding (RFC 4303 2.7) is cut off.
    let (four, six) = (small_v4(), ipv6("::1", "::2", 17, b"payload"));
    assert_eq!(open(&[&four[..], &[0; 333]].concat(), 4).as_ref(), Ok(&four));
    assert_eq!(open(&[&six[..], &[0; 333]].concat(), 41).as_ref(), Ok(&six));
    let total = |len: u16| {
        let mut p = small_v4();
        p[2..4].copy_from_slice(&len.to_be_bytes());
        p
    };
    for len in [0, 1, 19, 28, 30, 65535] {
        assert_eq!(open(&total(len), 4), Err(OpenError::BadInner), "total length {len}");
    }
    for nibble in 0..16u8 {
        let mut p = small_v4();
        p[0] = nibble << 4 | 5;
        assert_eq!(open(&p, 4).is_ok(), nibble == 4, "version {nibble}");
        p[0] = 0x40 | nibble;
        assert_eq!(open(&p, 4).is_ok(), matches!(nibble, 5 | 6), "header length {nibble}");
        let mut p = six.clone();
        p[0] = nibble << 4;
        assert_eq!(open(&p, 41).is_ok(), nibble == 6, "version {nibble}");
    }
    let mut p = six.clone();
    p[5] += 1;
    assert_eq!(open(&p, 41), Err(OpenError::BadInner));
    for len in 0..20 {
        assert_eq!(open(&four[..len], 4), Err(OpenError::BadInner));
    }
    for len in 0..40 {
        assert_eq!(open(&six[..len], 41), Err(OpenError::BadInner));
    }
    assert_eq!(open(&six, 4), Err(OpenError::BadInner));
}

/// RFC 7634 appendix A: a packet that another implementation sealed.
#[test]
fn rfc_7634_packet_opens() {
    let hex = |digits: &str| -> Vec<u8> {
        let digits: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect()
    };
    let key: Vec<u8> = (0x80..=0xa3).collect();
    let mut packet =
        hex("01 02 03 04 00 00 00 05 10 11 12 13 14 15 16 17 24 03 94 28 b9 7f 41 7e 3c 13 75 3a 4f 05 08 7b
         67 c3 52 e6 a7 fa b1 b9 82 d4 66 ef 40 7a e5 c6 14 ee 80 99 d5 28 44 eb 61 aa 95 df ab 4c 02 f7
         2a a7 1e 7c 4c 4f 64 c9 be fe 2f ac c6 38 e8 f3 cb ec 16 3f ac 46 9b 50 27 73 f6 fb 94 e6 64 da
         91 65 b8 28 29 f6 41 e0 76 aa a8 26 6b 7f b0 f7 b1 1b 36 99 07 e1 ad 43");
    let suite = Suite::all().find(|s| s.to_string() == "chacha20poly1305").unwrap();
    let keys = SuiteKeys::new(&key, &[]);
    let mut inn = InboundSa::new(Spi::new(0x0102_0304).unwrap(), suite, &keys, false, 64).unwrap();
    let opened = inn.open(&mut packet).unwrap();
    assert_eq!((opened.sequence, opened.next_header), (5, NextHeader::Ipv4));
    let ping = crate::packet::Packet::parse(&packet[opened.inner]).unwrap();
    assert_eq!((ping.total_len(), ping.icmp()), (84, Some((8, 0))));
    assert_eq!((ping.source(), ping.destination()), ([198, 51, 100, 5].into(), [192, 0, 2, 5].into()));
    assert!(crate::checksum::transport_is_right(&ping));
}

/// Workers own SAs and may be other threads than the one that installs them.
#[test]
fn sas_may_move_between_threads() {
    fn movable<T: Send + Sync + 'static>(_: &T) {}
    let (out, inn) = pair(Suite::all().next().unwrap(), true, 64);
    movable(&out);
    movable(&inn);
}

#[test]
fn keys_do_not_show() {
    let (out, inn) = pair(Suite::all().next().unwrap(), true, 64);
    let shown = format!("{out:?} {inn:?}");
    assert!(shown.contains("PacketCipher(3des-md5)") && !shown.contains("91, 98"), "{shown}");
}
