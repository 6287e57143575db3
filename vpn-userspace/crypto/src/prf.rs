//! PRFs, prf+ (RFC 7296 2.13) and the SHA-1 that NAT detection needs.

use sha1::Digest as _;

use crate::mac::MacKey;
use crate::{Hash, Prf, Secret};

/// More key material was asked for than prf+ can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("prf+ with {prf} gives at most {most} bytes, {asked} were asked for (RFC 7296 2.13)")]
pub struct PrfPlusError {
    /// The PRF.
    pub prf: Prf,
    /// How many bytes were asked for.
    pub asked: usize,
    /// How many there can be: 255 outputs.
    pub most: usize,
}

impl Prf {
    /// prf(key, part | part | ...), [`output_len`](Self::output_len) bytes. Keys of any length.
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let mut out = Secret::zeroed(self.output_len());
        MacKey::for_prf(self, key).sign(parts, out.as_mut());
        out
    }

    /// The hash that the PRF is built on, if it is: IKEv1 negotiates that (RFC 2409 5).
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::HmacMd5 => Some(Hash::Md5),
            Self::HmacSha1 => Some(Hash::Sha1),
            Self::HmacSha256 => Some(Hash::Sha256),
            Self::HmacSha384 => Some(Hash::Sha384),
            Self::HmacSha512 => Some(Hash::Sha512),
            Self::AesXcbc | Self::AesCmac => None,
        }
    }
}

/// Fills `out` with prf+(key, seed) (RFC 7296 2.13). At most 255 outputs of the PRF.
pub fn prf_plus(prf: Prf, key: &[u8], seed: &[u8], out: &mut [u8]) -> Result<(), PrfPlusError> {
    let step = prf.output_len();
    if out.len() > 255 * step {
        return Err(PrfPlusError { prf, asked: out.len(), most: 255 * step });
    }
    let key = MacKey::for_prf(prf, key);
    // T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n)
    let mut last = Secret::zeroed(step);
    for (index, chunk) in out.chunks_mut(step).enumerate() {
        let mut next = Secret::zeroed(step);
        let before: &[u8] = if index == 0 { &[] } else { &last };
        key.sign(&[before, seed, &[index as u8 + 1]], next.as_mut());
        chunk.copy_from_slice(&next[..chunk.len()]);
        last = next;
    }
    Ok(())
}

/// SHA-1 of the parts: the hash of the NAT detection payloads (RFC 7296 2.23). For nothing secret.
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = sha1::Sha1::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prf_plus_is_the_chain_of_rfc_7296() {
        for prf in Prf::ALL {
            let (key, seed) = (b"SKEYSEED".as_slice(), b"Ni | Nr | SPIi | SPIr".as_slice());
            let n = prf.output_len();
            let t1 = prf.compute(key, &[seed, &[1]]);
            let t2 = prf.compute(key, &[&t1, seed, &[2]]);
            let t3 = prf.compute(key, &[&t2, seed, &[3]]);
            let all = [&t1[..], &t2[..], &t3[..]].concat();
            for len in [0, 1, n - 1, n, n + 1, 2 * n, 3 * n - 1, 3 * n] {
                let mut out = vec![0xee; len];
                prf_plus(prf, key, seed, &mut out).unwrap();
                assert_eq!(out, all[..len], "{prf} {len}");
            }
        }
    }

    /// For a seed of up to one block prf+ is HKDF-Expand (RFC 5869 2.3): its vectors serve here.
    #[test]
    fn prf_plus_agrees_with_hkdf_expand() {
        // RFC 5869 A.1 and A.4: PRK, info, OKM.
        let cases = [
            (
                Prf::HmacSha256,
                "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                Prf::HmacSha1,
                "9b6c18c432a7bf8f0e71c8eb88f4b30baa2ba243",
                "085a01ea1b10f36933068b56efa5ad81a4f14b822f5b091568a9cdd4f155fda2c22e422478d305f3f896",
            ),
        ];
        for (prf, prk, want) in cases {
            let mut out = [0; 42];
            let info = hex::decode("f0f1f2f3f4f5f6f7f8f9").unwrap();
            prf_plus(prf, &hex::decode(prk).unwrap(), &info, &mut out).unwrap();
            assert_eq!(hex::encode(out), want);
        }
    }

    #[test]
    fn prf_plus_stops_at_255_outputs() {
        let mut out = vec![0; 255 * 20];
        prf_plus(Prf::HmacSha1, b"k", b"s", &mut out).unwrap();
        out.push(0);
        let most = 255 * 20;
        assert_eq!(
            prf_plus(Prf::HmacSha1, b"k", b"s", &mut out),
            Err(PrfPlusError { prf: Prf::HmacSha1, asked: most + 1, most })
        );
    }

    #[test]
    fn the_hash_of_a_prf_has_its_length() {
        for prf in Prf::ALL {
            assert!(prf.hash().is_none_or(|hash| hash.output_len() == prf.output_len()), "{prf}");
        }
    }

    #[test]
    fn sha1_of_parts_is_sha1_of_the_whole() {
        assert_eq!(hex::encode(sha1(&[b"a", b"", b"bc"])), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
