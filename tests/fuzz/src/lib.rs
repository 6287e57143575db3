//! What the fuzz targets do with their input. Each target is a program of one line in src/bin; here is its work, so that
//! a corpus can be run by an ordinary test, too.

mod eap;
mod engines;

pub use eap::{revocation_list, seeds as eap_seeds};
pub use engines::seeds as engine_seeds;

use culvert_crypto::sign::{PrivateKey, PublicKey};
use culvert_crypto::{Associated, PacketCipher, Suite, SuiteKeys};
use culvert_esp::InboundSa;
use culvert_esp::packet::Packet;
use culvert_types::Spi;

/// Every target: its name, and what it does with an input.
pub const TARGETS: [(&str, fn(&[u8])); 17] = [
    ("ike_wire", culvert_ike::fuzzing::wire),
    ("ike_endpoint", culvert_ike::fuzzing::endpoint),
    ("ike_sealed", culvert_ike::fuzzing::sealed),
    ("proposals", |input| text(input, culvert_ike::fuzzing::proposals)),
    ("identity", |input| text(input, culvert_ike::fuzzing::identity)),
    ("esp_packet", esp_packet),
    ("esp_open", esp_open),
    ("esp_engines", engines::engines),
    ("classifier", classifier),
    ("config_file", |input| text(input, config_file)),
    ("api_request", api_request),
    ("api_response", api_response),
    ("keys", keys),
    ("certificates", certificates),
    ("ike_v1", culvert_ike::fuzzing::v1::endpoint),
    ("ike_v1_sealed", culvert_ike::fuzzing::v1::sealed),
    ("eap", eap::eap),
];

/// Runs one target. Panics on a name that there is none of.
pub fn run(target: &str, input: &[u8]) {
    let (_, work) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    work(input);
}

fn text(input: &[u8], work: impl Fn(&str)) {
    if let Ok(text) = std::str::from_utf8(input) {
        work(text);
    }
}

/// An inner packet, and all that is asked of it.
fn esp_packet(input: &[u8]) {
    let Ok(packet) = Packet::parse(input) else { return };
    assert!(packet.total_len() <= input.len() && packet.bytes().len() == packet.total_len());
    assert!(packet.transport_offset() <= packet.total_len());
    let _ = (packet.source(), packet.destination(), packet.protocol(), packet.ttl(), packet.dont_fragment());
    let _ = (packet.traffic_class(), packet.fragment(), packet.ports(), packet.icmp(), packet.transport());
}

const SPI: u32 = 0xc0de_cafe;

/// An ESP packet by who has the keys: the first byte chooses the suite, whether the rest is the whole packet or only
/// what is encrypted, and ESN.
fn esp_open(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let suites: Vec<Suite> = Suite::all().collect();
    let suite = suites[usize::from(choice >> 2) % suites.len()];
    let bytes =
        |n: usize, seed: u8| (0..n).map(|i| seed.wrapping_add((i as u8).wrapping_mul(7))).collect::<Vec<_>>();
    let keys = SuiteKeys::new(&bytes(suite.encryption_key_len(), 3), &bytes(suite.integrity_key_len(), 91));
    let spi = Spi::new(SPI).expect("a good SPI");
    let mut sa = InboundSa::new(spi, suite, &keys, choice & 1 != 0, 64).expect("a good suite");
    let mut packet = if choice & 2 == 0 {
        rest.to_vec()
    } else {
        let cipher = PacketCipher::new(suite, &keys).expect("good keys");
        let mut text = rest.to_vec();
        text.truncate(text.len() / suite.alignment() * suite.alignment());
        let header = [&SPI.to_be_bytes()[..], &1_u32.to_be_bytes()].concat();
        let high = (choice & 1 != 0).then_some(0);
        let (mut iv, mut tag) = (vec![0; suite.iv_len()], vec![0; suite.icv_len()]);
        let header: [u8; 8] = header.try_into().expect("eight bytes");
        if cipher.write_iv(1, &mut iv).is_err()
            || cipher.seal(Associated::esp(&header, high), &iv, &mut text, &mut tag).is_err()
        {
            return;
        }
        [&header[..], &iv, &text, &tag].concat()
    };
    if let Ok(opened) = sa.open(&mut packet) {
        assert!(opened.inner.end <= packet.len() && opened.sequence > 0);
        let inner = &packet[opened.inner];
        // The packet may be refused by who looks further into it, but not for its length.
        assert!(Packet::parse(inner).map_or(true, |packet| packet.total_len() == inner.len()));
        assert_eq!(sa.highest_sequence(), opened.sequence);
    }
}

/// A frame at the classifier.
fn classifier(input: &[u8]) {
    let _ = culvert_ebpf_shared::parse_ethernet(input).kind();
    let _ = culvert_ebpf_shared::parse_ip(input, 0).kind();
}

/// A configuration file: it is taken, or refused with words that show no secret.
fn config_file(input: &str) {
    const SECRET: &str = "hunter2-hunter2-hunter2";
    if let Err(error) = culvert_config::Config::of_text(input, SECRET.as_bytes()) {
        let said = format!("{error:?}{error}");
        assert!(!said.is_empty());
        assert!(input.contains(SECRET) || !said.contains(SECRET), "the secret is in the error:\n{said}");
    }
}

fn api_request(input: &[u8]) {
    let _ = culvert_api::frame::decode_request(input);
}

fn api_response(input: &[u8]) {
    let _ = culvert_api::frame::decode_response(input);
}

/// Keys and signatures in DER.
fn keys(input: &[u8]) {
    if let Ok(key) = PrivateKey::from_pkcs8(input) {
        let _ = (key.kind(), key.schemes());
    }
    let _ = (PrivateKey::from_pkcs1(input), PrivateKey::from_sec1(input));
    if let Ok(key) = PublicKey::from_spki(input) {
        assert!(PublicKey::from_spki(&key.to_spki()).is_ok(), "what was read is written as it is read");
    }
}

#[cfg(test)]
mod tests {
    /// The corpora are inputs like any other: none of them is a crash.
    #[test]
    fn corpora_pass() {
        let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (target, work) in super::TARGETS {
            let inputs: Vec<_> = std::fs::read_dir(corpora.join(target)).unwrap().collect();
            assert!(!inputs.is_empty(), "{target} has no corpus");
            inputs.into_iter().for_each(|input| work(&std::fs::read(input.unwrap().path()).unwrap()));
        }
    }
}

/// A file of certificates, revocation lists and keys: what it says, and whether it leads to itself as its authority.
fn certificates(input: &[u8]) {
    let blocks: Vec<Vec<u8>> =
        culvert_pki::blocks(input).filter_map(|(_, block)| culvert_pki::decode(block)).collect();
    let _ = culvert_pki::private_key(input, Some(b"password"));
    // DER as it comes, too: most mutations of base 64 are not even that.
    let whole = [input.to_vec()];
    for chain in [blocks.as_slice(), &whole] {
        for der in chain {
            let _ =
                (culvert_pki::Facts::of(der), culvert_pki::CrlFacts::of(der), culvert_pki::Names::of(der));
        }
        let trust = culvert_pki::Trust { authorities: chain, crls: chain };
        let _ = culvert_pki::verify(chain, trust, 1_800_000_000);
        if let [one, ..] = chain {
            let _ = (culvert_pki::Sources::of(one), culvert_pki::ocsp_request(one, one));
            let _ = culvert_pki::ocsp_status(input, one, one, 1_800_000_000);
            let _ = culvert_pki::crl_status(input, one, one, 1_800_000_000);
        }
    }
}
