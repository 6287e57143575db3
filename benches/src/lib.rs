//! What the micro-benchmarks share: SAs with fixed keys and packets of given sizes.

use culvert_crypto::{Suite, SuiteKeys};
use culvert_esp::{InboundSa, OutboundSa};
use culvert_types::Spi;

/// Inner packet sizes measured, in bytes: a small one, a full one, a jumbo frame.
pub const SIZES: [usize; 3] = [64, 1400, 8900];

/// The suites measured: every cipher once with a usual integrity algorithm, and SHA-1 for old peers.
pub fn suites() -> impl Iterator<Item = Suite> {
    let names =
        ["aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha1", "aes128-sha256", "aes256-sha512"];
    Suite::all().filter(move |s| names.contains(&s.to_string().as_str()))
}

/// Both halves of one SA, ESN on, a window of 1024.
///
/// # Panics
/// Never: the keys have the suite's lengths.
pub fn pair(suite: Suite) -> (OutboundSa, InboundSa) {
    let keys = SuiteKeys::new(&vec![7; suite.encryption_key_len()], &vec![9; suite.integrity_key_len()]);
    let spi = Spi::new(0xc0de_cafe).expect("not a reserved SPI");
    (
        OutboundSa::new(spi, suite, &keys, true).expect("keys of the right length"),
        InboundSa::new(spi, suite, &keys, true, 1024).expect("keys of the right length"),
    )
}

/// A buffer for an ESP packet with an IPv4 packet of `len` bytes in its place.
pub fn buffer(sa: &OutboundSa, len: usize) -> Vec<u8> {
    let mut buf = vec![0x5a; sa.sealed_len(len)];
    let start = sa.header_len();
    if let Some(inner) = buf.get_mut(start..start + len) {
        write_ipv4(inner);
    }
    buf
}

/// Makes an IPv4/UDP header of the slice's beginning.
pub fn write_ipv4(packet: &mut [u8]) {
    let [high, low] = (packet.len() as u16).to_be_bytes();
    let header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 172, 16, 0, 1];
    for (to, from) in packet.iter_mut().zip(header) {
        *to = from;
    }
}
