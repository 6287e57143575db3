//! What the engines `user` and `bpf` do to one packet, side by side: the same verdict, and the same bytes.


use culvert_crypto::{Encryption, Suite, SuiteKeys};
use culvert_ebpf_shared::esp::aead::{self, Direct};
use culvert_ebpf_shared::esp::layout::{MAX_SELECTORS, Selector, Selectors as BpfSelectors};
use culvert_ebpf_shared::esp::{HEAD_WORDS, MAX_INNER, MAX_TEXT, State, inner, mss as bpf_mss, outer};
use culvert_esp::mss::{self, Checksum};
use culvert_esp::packet::Packet;
use culvert_esp::selectors::Selectors;
use culvert_esp::{InboundSa, OpenError, OutboundSa, tunnel};
use culvert_types::{Spi, TrafficSelector};

const SPI: u32 = 0xc0ff_ee00;
/// Of key and salt.
const KEY: u8 = 0x42;
const MTU: usize = 1400;

/// Why a packet is dropped, in words of neither engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drop {
    Malformed,
    Selector,
    TooBig,
    BadPadding,
    Dummy,
    NextHeader,
    Ecn,
    /// More extension headers than the programs walk: the slow path has such packets.
    Odd,
}

/// An input: a byte of choices, and an inner packet, or with bit 0 what is encrypted, trailer and all.
pub(crate) fn engines(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let (esn, ecn) = (choice & 2 != 0, choice >> 2 & 3);
    if choice & 1 == 0 {
        let (user, bpf) = (seal_user(rest, esn), seal_bpf(rest, esn));
        agree(&user, &bpf);
        if let Ok(sealed) = user {
            both_open(&sealed, esn, ecn);
        }
    } else {
        let mut text = rest.to_vec();
        text.truncate(MAX_TEXT as usize / 4 * 4);
        text.truncate(text.len() / 4 * 4);
        let mut s = keyed(&text);
        s.text_len = text.len() as u32;
        outer::number(&mut s, SPI.to_be(), 1, esn);
        if text.len() >= 4 && aead::seal::<Direct>(&mut s) {
            both_open(&esp_of(&s), esn, ecn);
        }
    }
}

fn agree(user: &Result<Vec<u8>, Drop>, bpf: &Result<Vec<u8>, Drop>) {
    if !matches!(bpf, Err(Drop::Odd)) {
        assert_eq!(user, bpf);
    }
}

fn both_open(sealed: &[u8], esn: bool, ecn: u8) {
    agree(&open_user(sealed, esn, ecn), &open_bpf(sealed, esn, ecn));
    // One bit is enough: neither takes it.
    let mut forged = sealed.to_vec();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    let opened = sa_in(esn).open(&mut forged);
    assert!(matches!(opened, Err(OpenError::NotAuthentic)), "{opened:?}");
    assert!(!decrypt(&mut state_of(&forged, esn)));
}

// --- engine user ---

fn suite() -> Suite {
    Suite::new(Encryption::ChaCha20Poly1305, None).expect("a suite")
}

fn keys() -> SuiteKeys {
    SuiteKeys::new(&[KEY; 36], &[])
}

fn spi() -> Spi {
    Spi::new(SPI).expect("a good SPI")
}

fn sa_in(esn: bool) -> InboundSa {
    InboundSa::new(spi(), suite(), &keys(), esn, 64).expect("good keys")
}

/// Our networks, then the peer's, with a port and a protocol among them.
fn networks() -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    let net = |text: &str| TrafficSelector::from_net(text.parse().expect("a network"));
    let one = net("10.3.0.0/16");
    let ports = TrafficSelector::new(one.start(), one.end(), 17, 53..=4500).expect("a selector");
    (vec![net("10.1.0.0/16"), net("fd01::/64")], vec![net("10.2.0.0/16"), ports, net("fd02::/64")])
}

fn seal_user(packet: &[u8], esn: bool) -> Result<Vec<u8>, Drop> {
    let (local, remote) = networks();
    let parsed = Packet::parse(packet).map_err(|_| Drop::Malformed)?;
    if parsed.total_len() != packet.len() {
        return Err(Drop::Malformed);
    }
    if !Selectors::new(&local, &remote).matches_outbound(&parsed) {
        return Err(Drop::Selector);
    }
    if packet.len() > MTU {
        return Err(Drop::TooBig);
    }
    let mut sa = OutboundSa::new(spi(), suite(), &keys(), esn).expect("good keys");
    let mut buf = vec![0; sa.sealed_len(packet.len())];
    let room = &mut buf[sa.header_len()..];
    room[..packet.len()].copy_from_slice(packet);
    mss::clamp(&mut room[..packet.len()], MTU, Checksum::Complete);
    let next = if parsed.is_ipv4() { 4 } else { 41 };
    let sealed = sa.seal(&mut buf, packet.len(), next).expect("room for the packet");
    buf.truncate(sealed);
    Ok(buf)
}

fn open_user(sealed: &[u8], esn: bool, ecn: u8) -> Result<Vec<u8>, Drop> {
    let (local, remote) = networks();
    let mut buf = sealed.to_vec();
    let opened = sa_in(esn).open(&mut buf).map_err(|error| match error {
        OpenError::BadPadding => Drop::BadPadding,
        OpenError::Dummy => Drop::Dummy,
        OpenError::NextHeader(_) => Drop::NextHeader,
        OpenError::BadInner => Drop::Malformed,
        other => panic!("a packet that was just sealed: {other}"),
    })?;
    let bytes = &mut buf[opened.inner];
    let parsed = Packet::parse(bytes).map_err(|_| Drop::Malformed)?;
    if !Selectors::new(&local, &remote).matches_inbound(&parsed) {
        return Err(Drop::Selector);
    }
    tunnel::decapsulate_ecn(bytes, ecn).map_err(|_| Drop::Ecn)?;
    mss::clamp(bytes, MTU, Checksum::Complete);
    Ok(bytes.to_vec())
}

// --- engine bpf, step by step as its programs ---

fn keyed(text: &[u8]) -> State {
    let mut s = State::EMPTY;
    for (at, byte) in text.iter().enumerate() {
        s.set_byte(at as u32, (*byte).into());
    }
    s.available = text.len() as u32;
    s.input[4..14].fill(u32::from_ne_bytes([KEY; 4]));
    s
}

fn bytes_of(s: &State, len: u32) -> Vec<u8> {
    (0..len).map(|at| s.byte(at) as u8).collect()
}

fn esp_of(s: &State) -> Vec<u8> {
    let head = s.head[HEAD_WORDS - 4..].iter().flat_map(|word| word.to_ne_bytes());
    head.chain(bytes_of(s, s.text_len + 16)).collect()
}

fn bpf_selectors() -> BpfSelectors {
    let side = |from: &[TrafficSelector]| {
        let mut side = [Selector::default(); MAX_SELECTORS];
        for (to, from) in side.iter_mut().zip(from) {
            *to = Selector::new((from.start(), from.end()), from.ports().into_inner(), from.protocol());
        }
        side
    };
    let (local, remote) = networks();
    let (locals, remotes) = (local.len() as u32, remote.len() as u32);
    BpfSelectors { local: side(&local), remote: side(&remote), locals, remotes }
}

/// Reads the headers; more extension headers than the programs walk are no error of the packet's.
fn inspect(s: &mut State, packet: &[u8]) -> Result<(), Drop> {
    if inner::inspect(s) {
        return Ok(());
    }
    let deep = Packet::parse(packet).is_ok_and(|p| !p.is_ipv4());
    Err(if deep { Drop::Odd } else { Drop::Malformed })
}

fn seal_bpf(packet: &[u8], esn: bool) -> Result<Vec<u8>, Drop> {
    if packet.len() > MAX_INNER as usize {
        // Longer than any frame; the program never sees it whole.
        return Err(Drop::Odd);
    }
    let mut s = keyed(packet);
    inspect(&mut s, packet)?;
    if s.inner_len as usize != packet.len() {
        return Err(Drop::Malformed);
    }
    if !inner::matches(&bpf_selectors(), &s, true) {
        return Err(Drop::Selector);
    }
    if s.inner_len as usize > MTU {
        return Err(Drop::TooBig);
    }
    if bpf_mss::is_syn(&s) {
        bpf_mss::clamp(&mut s, MTU as u32);
    }
    inner::pad(&mut s);
    outer::number(&mut s, SPI.to_be(), 1, esn);
    assert!(aead::seal::<Direct>(&mut s));
    Ok(esp_of(&s))
}

fn state_of(sealed: &[u8], esn: bool) -> State {
    let mut s = keyed(&sealed[16..]);
    for (word, bytes) in s.esp.iter_mut().zip(sealed.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    }
    s.text_len = inner::text_len(sealed.len() as u32).expect("a whole packet");
    outer::renumber(&mut s, 1, esn);
    s
}

fn decrypt(s: &mut State) -> bool {
    aead::open::<Direct>(s)
}

fn open_bpf(sealed: &[u8], esn: bool, ecn: u8) -> Result<Vec<u8>, Drop> {
    let mut s = state_of(sealed, esn);
    assert!(decrypt(&mut s), "a packet that was just sealed");
    if !inner::unpad(&mut s) {
        return Err(Drop::BadPadding);
    }
    match inner::held(&s) {
        inner::Unpacked::Packet => {}
        inner::Unpacked::Dummy => return Err(Drop::Dummy),
        inner::Unpacked::NextHeader => return Err(Drop::NextHeader),
        _ => return Err(Drop::Malformed),
    }
    let text = bytes_of(&s, s.available);
    inspect(&mut s, &text)?;
    if !inner::is_of_family(&s) {
        return Err(Drop::Malformed);
    }
    if !inner::matches(&bpf_selectors(), &s, false) {
        return Err(Drop::Selector);
    }
    if !inner::decapsulate_ecn(&mut s, ecn.into()) {
        return Err(Drop::Ecn);
    }
    if bpf_mss::is_syn(&s) {
        bpf_mss::clamp(&mut s, MTU as u32);
    }
    Ok(bytes_of(&s, s.inner_len))
}

/// Packets that pass, and some that do not: of each family and direction, with each trailer.
pub fn seeds() -> Vec<Vec<u8>> {
    let tcp = |flags: u8, options: &[u8]| {
        let mut tcp = vec![1, 2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 1, 0xbe, 0xef, 0, 0];
        tcp[12] = (((20 + options.len()) / 4) << 4) as u8;
        tcp.extend(options);
        tcp
    };
    let udp = [&[0, 53, 0, 53, 0, 13, 0, 0][..], b"hello"].concat();
    let bodies =
        [(17, udp), (6, tcp(2, &[2, 4, 5, 0xb4])), (6, tcp(0x18, b"data")), (1, vec![8, 0, 0, 0, 0, 0])];
    let mut packets = Vec::new();
    for (protocol, body) in &bodies {
        for (from, to) in [([10, 1, 0, 2], [10, 2, 0, 2]), ([10, 1, 0, 2], [10, 3, 0, 2])] {
            let total = (20 + body.len()) as u16;
            let [high, low] = total.to_be_bytes();
            let mut p = vec![0x45, 2, high, low, 0x12, 0x34, 0x40, 0, 64, *protocol, 0, 0];
            p.extend([from, to].concat());
            culvert_esp::checksum::write_ipv4_header(&mut p);
            p.extend(body);
            packets.push((p, [&to[..], &from].concat(), 12, 4));
        }
        let mut p = vec![0x60, 0x20, 0, 0, 0, body.len() as u8, *protocol, 64];
        let ends: [&[u8]; 2] = [
            &[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            &[0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        ];
        p.extend(ends.concat());
        p.extend(body);
        packets.push((p, [ends[1], ends[0]].concat(), 8, 41));
    }
    let mut seeds = Vec::new();
    for (packet, turned, at, next) in packets {
        for choice in [0, 2] {
            seeds.push([&[choice], packet.as_slice()].concat());
        }
        // As the peer sends it.
        let mut back = packet.clone();
        back[at..at + turned.len()].copy_from_slice(&turned);
        let pad = (4 - (back.len() + 2) % 4) % 4;
        for (ecn, next) in [(0, next), (1, next), (3, next), (0, 59), (0, 6)] {
            let mut text = back.clone();
            text.extend((1..=pad as u8).chain([pad as u8, next]));
            seeds.push([&[1 | ecn << 2], text.as_slice()].concat());
        }
    }
    seeds
}
