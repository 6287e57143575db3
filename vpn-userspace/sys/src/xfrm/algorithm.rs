//! Our suites in the kernel's words (net/xfrm/xfrm_algo.c), and their keys as attributes.

use culvert_crypto::{Encryption, Integrity, Mode, Suite, SuiteKeys};
use netlink_packet_core::{Emitable, Nla};
use netlink_packet_xfrm::{Alg, AlgAead, AlgAuth, XfrmAttrs};
use zeroize::{Zeroize, Zeroizing};

/// Algorithm attributes of an SA, encoded. `None` if the keys are not of the suite's lengths.
pub(super) fn encode(suite: Suite, keys: &SuiteKeys) -> Option<Zeroizing<Vec<u8>>> {
    if keys.encryption().len() != suite.encryption_key_len()
        || keys.integrity().len() != suite.integrity_key_len()
    {
        return None;
    }
    let mut attributes = match suite.integrity() {
        None => vec![XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: padded(encryption_name(suite.encryption())),
            alg_key_len: bits(keys.encryption()),
            alg_icv_len: suite.icv_len() as u32 * 8,
            alg_key: keys.encryption().to_vec(),
        })],
        Some(integrity) => vec![
            XfrmAttrs::EncryptionAlg(Alg {
                alg_name: padded(encryption_name(suite.encryption())),
                alg_key_len: bits(keys.encryption()),
                alg_key: keys.encryption().to_vec(),
            }),
            XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
                alg_name: padded(integrity_name(integrity)),
                alg_key_len: bits(keys.integrity()),
                alg_trunc_len: suite.icv_len() as u32 * 8,
                alg_key: keys.integrity().to_vec(),
            }),
        ],
    };
    let mut bytes = Zeroizing::new(vec![0; attributes.as_slice().buffer_len()]);
    attributes.as_slice().emit(&mut bytes);
    for attribute in &mut attributes {
        match attribute {
            XfrmAttrs::EncryptionAlgAead(a) => a.alg_key.zeroize(),
            XfrmAttrs::EncryptionAlg(a) => a.alg_key.zeroize(),
            XfrmAttrs::AuthenticationAlgTrunc(a) => a.alg_key.zeroize(),
            other => debug_assert!(false, "attribute {} holds no key", other.kind()),
        }
    }
    Some(bytes)
}

/// The kernel's name of a cipher. Keys end in the salt, as in our key material (RFC 4106 8.1, RFC 3686 5.1,
/// RFC 4309 7.1, RFC 4543 5.1, RFC 7634 2).
pub(super) fn encryption_name(encryption: Encryption) -> &'static str {
    match (encryption, encryption.mode()) {
        (Encryption::TripleDes, _) => "cbc(des3_ede)",
        (_, Mode::Cbc) => "cbc(aes)",
        (_, Mode::Ctr) => "rfc3686(ctr(aes))",
        (_, Mode::Gcm(_)) => "rfc4106(gcm(aes))",
        (_, Mode::Ccm(_)) => "rfc4309(ccm(aes))",
        (_, Mode::Gmac) => "rfc4543(gcm(aes))",
        (_, Mode::ChaCha20Poly1305) => "rfc7539esp(chacha20,poly1305)",
    }
}

fn integrity_name(integrity: Integrity) -> &'static str {
    match integrity {
        Integrity::HmacMd5_96 => "hmac(md5)",
        Integrity::HmacSha1_96 => "hmac(sha1)",
        Integrity::AesXcbc96 => "xcbc(aes)",
        Integrity::AesCmac96 => "cmac(aes)",
        Integrity::HmacSha256_128 => "hmac(sha256)",
        Integrity::HmacSha384_192 => "hmac(sha384)",
        Integrity::HmacSha512_256 => "hmac(sha512)",
    }
}

fn bits(key: &[u8]) -> u32 {
    key.len() as u32 * 8
}

fn padded(name: &str) -> [u8; 64] {
    let mut field = [0; 64];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_encodes_with_key_and_icv_lengths_in_bits() {
        for suite in Suite::all() {
            let keys = SuiteKeys::new(
                &vec![0xa5; suite.encryption_key_len()],
                &vec![0x5a; suite.integrity_key_len()],
            );
            let bytes = encode(suite, &keys).unwrap();
            assert_eq!(bytes.iter().filter(|b| **b == 0xa5).count(), suite.encryption_key_len(), "{suite}");
            // struct nlattr, name[64], key length in bits
            let key_bits = u32::from_ne_bytes(bytes[68..72].try_into().unwrap());
            assert_eq!(key_bits as usize, suite.encryption_key_len() * 8, "{suite}");
        }
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        for suite in Suite::all() {
            let short =
                SuiteKeys::new(&vec![0; suite.encryption_key_len() - 1], &vec![0; suite.integrity_key_len()]);
            assert!(encode(suite, &short).is_none(), "{suite}");
        }
    }
}
