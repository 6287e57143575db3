//! Key derivation (RFC 7296 2.13, 2.14, 2.17, 2.18).

use culvert_crypto::{Prf, Secret, SharedSecret, Suite, SuiteKeys, prf_plus};

use crate::IkeSuite;

/// The keys of an IKE SA. Zeroized when dropped.
pub(crate) struct IkeKeys {
    /// Derives the keys of CHILD SAs and of the next IKE SA.
    pub(crate) sk_d: Secret,
    /// Protects what the initiator sends.
    pub(crate) initiator: SuiteKeys,
    /// Protects what the responder sends.
    pub(crate) responder: SuiteKeys,
    /// Goes into the initiator's AUTH.
    pub(crate) sk_pi: Secret,
    /// Goes into the responder's AUTH.
    pub(crate) sk_pr: Secret,
}

/// The nonces of the exchange that made an SA, in the roles of that exchange.
#[derive(Clone, Copy)]
pub(crate) struct Nonces<'a> {
    pub(crate) initiator: &'a [u8],
    pub(crate) responder: &'a [u8],
}

/// SKEYSEED = prf(Ni | Nr, g^ir).
pub(crate) fn first_seed(prf: Prf, nonces: Nonces<'_>, shared: &SharedSecret) -> Secret {
    // RFC 7296 2.14: the PRFs that were made for keys of 128 bits get the first 64 of each nonce.
    let part = |nonce| -> &[u8] {
        let nonce: &[u8] = nonce;
        if prf.halves_nonces() { nonce.get(..8).unwrap_or(nonce) } else { nonce }
    };
    let key = Secret::new([part(nonces.initiator), part(nonces.responder)].concat());
    prf.compute(&key, &[shared])
}

/// SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with the PRF of the old IKE SA. RFC 9370 2.2.4: `more`, what
/// IKE_FOLLOWUP_KE brought, comes after that: SK(0) | Ni | Nr | SK(1) | … SK(n). RFC 9370 2.2.2: after an
/// IKE_INTERMEDIATE its shared secret stands in the first place, and the nonces are those of IKE_SA_INIT.
pub(crate) fn rekey_seed(
    old_prf: Prf,
    old_sk_d: &Secret,
    nonces: Nonces<'_>,
    shared: &SharedSecret,
    more: &[SharedSecret],
) -> Secret {
    let mut parts: Vec<&[u8]> = vec![shared, nonces.initiator, nonces.responder];
    parts.extend(more.iter().map(|s| -> &[u8] { s }));
    old_prf.compute(old_sk_d, &parts)
}

/// Takes consecutive keys off the front of a prf+ stream.
struct Stream {
    bytes: Secret,
    at: usize,
}

impl Stream {
    fn new(prf: Prf, key: &[u8], seed: &[u8], length: usize) -> Self {
        let mut bytes = vec![0; length];
        // The longest, three SHA-512 keys with two of each AES-256 and SHA-512, is 448 of 16320 bytes.
        prf_plus(prf, key, seed, &mut bytes).expect("the keys of one SA are far below the limit of prf+");
        Self { bytes: Secret::new(bytes), at: 0 }
    }

    fn take(&mut self, length: usize) -> Secret {
        let from = self.at;
        self.at += length;
        Secret::from(&self.bytes[from..self.at])
    }
}

impl IkeKeys {
    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr).
    pub(crate) fn derive(
        suite: &IkeSuite,
        seed: &Secret,
        nonces: Nonces<'_>,
        spi_i: u64,
        spi_r: u64,
    ) -> Self {
        let salt =
            [nonces.initiator, nonces.responder, &spi_i.to_be_bytes()[..], &spi_r.to_be_bytes()[..]].concat();
        let prf = suite.prf.output_len();
        let (e, a) = (suite.protection.encryption_key_len(), suite.protection.integrity_key_len());
        let mut stream = Stream::new(suite.prf, seed, &salt, 3 * prf + 2 * (e + a));
        let sk_d = stream.take(prf);
        let (sk_ai, sk_ar) = (stream.take(a), stream.take(a));
        let (sk_ei, sk_er) = (stream.take(e), stream.take(e));
        let (sk_pi, sk_pr) = (stream.take(prf), stream.take(prf));
        let initiator = SuiteKeys::new(&sk_ei, &sk_ai);
        let responder = SuiteKeys::new(&sk_er, &sk_ar);
        Self { sk_d, initiator, responder, sk_pi, sk_pr }
    }
}

/// The keys that a post-quantum pre-shared key changes (RFC 8784 3). Zeroized when dropped.
pub(crate) struct PpkKeys {
    sk_d: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
}

impl PpkKeys {
    pub(crate) fn sk_pi(&self) -> &Secret {
        &self.sk_pi
    }
}

impl IkeKeys {
    /// SK_d = prf+(PPK, SK_d'), SK_pi = prf+(PPK, SK_pi'), SK_pr = prf+(PPK, SK_pr').
    pub(crate) fn with_ppk(&self, prf: Prf, ppk: &Secret) -> PpkKeys {
        let length = prf.output_len();
        let mix = |key: &Secret| Stream::new(prf, ppk, key, length).take(length);
        PpkKeys { sk_d: mix(&self.sk_d), sk_pi: mix(&self.sk_pi), sk_pr: mix(&self.sk_pr) }
    }

    /// Puts these keys in the place of ours, which are returned.
    pub(crate) fn exchange(&mut self, keys: PpkKeys) -> PpkKeys {
        PpkKeys {
            sk_d: std::mem::replace(&mut self.sk_d, keys.sk_d),
            sk_pi: std::mem::replace(&mut self.sk_pi, keys.sk_pi),
            sk_pr: std::mem::replace(&mut self.sk_pr, keys.sk_pr),
        }
    }
}

/// KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr): first the keys from the exchange's initiator to its
/// responder, encryption before integrity, then those of the other direction (RFC 7296 2.17). `more`: what
/// IKE_FOLLOWUP_KE brought, behind the nonces (RFC 9370 2.2.4).
pub(crate) fn child_keys(
    prf: Prf,
    sk_d: &Secret,
    shared: Option<&SharedSecret>,
    more: &[SharedSecret],
    nonces: Nonces<'_>,
    suite: Suite,
) -> (SuiteKeys, SuiteKeys) {
    let shared: &[u8] = shared.map_or(&[], |s| s);
    let mut parts: Vec<&[u8]> = vec![shared, nonces.initiator, nonces.responder];
    parts.extend(more.iter().map(|s| -> &[u8] { s }));
    // One allocation of the whole length: nothing of a secret is left behind in one that grew.
    let seed = Secret::new(parts.concat());
    let (e, a) = (suite.encryption_key_len(), suite.integrity_key_len());
    let mut stream = Stream::new(prf, sk_d, &seed, 2 * (e + a));
    let mut keys = || {
        let encryption = stream.take(e);
        SuiteKeys::new(&encryption, &stream.take(a))
    };
    let initiator = keys();
    (initiator, keys())
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_crypto::{DhGroup, Encryption, Integrity};

    const NONCES: Nonces<'static> = Nonces { initiator: &[1; 16], responder: &[2; 16] };

    #[test]
    fn fixed_key_prfs_take_half_of_each_nonce() {
        let (ni, nr) = ([1; 32], [2; 20]);
        let nonces = Nonces { initiator: &ni, responder: &nr };
        let shared = Secret::from(&[3; 32][..]);
        for prf in Prf::ALL {
            let key = match prf {
                Prf::AesXcbc | Prf::AesCmac => [&ni[..8], &nr[..8]].concat(),
                _ => [&ni[..], &nr].concat(),
            };
            assert_eq!(first_seed(prf, nonces, &shared), prf.compute(&key, &[&[3; 32]]), "{prf}");
        }
    }

    #[test]
    fn ike_keys_stand_in_the_order_of_rfc_7296_2_14() {
        let protection = Suite::new(Encryption::AesCbc256, Some(Integrity::HmacSha384_192)).unwrap();
        let suite = IkeSuite {
            protection,
            prf: Prf::HmacSha256,
            group: DhGroup::Ecp256,
            additional: Default::default(),
        };
        let seed = first_seed(suite.prf, NONCES, &Secret::from(&[3; 32][..]));
        assert_eq!(seed, suite.prf.compute(&[[1; 16], [2; 16]].concat(), &[&[3; 32]]));
        let keys = IkeKeys::derive(&suite, &seed, NONCES, 4, 5);
        let mut all = vec![0; 3 * 32 + 2 * (32 + 48)];
        let salt = [&[1; 16][..], &[2; 16], &[0, 0, 0, 0, 0, 0, 0, 4], &[0, 0, 0, 0, 0, 0, 0, 5]].concat();
        prf_plus(suite.prf, &seed, &salt, &mut all).unwrap();
        let got = [
            &keys.sk_d[..],
            keys.initiator.integrity(),
            keys.responder.integrity(),
            keys.initiator.encryption(),
            keys.responder.encryption(),
            &keys.sk_pi,
            &keys.sk_pr,
        ];
        assert_eq!(got.concat(), all);
    }

    #[test]
    fn child_keys_stand_in_the_order_of_rfc_7296_2_17() {
        let sk_d = Secret::from(&[9; 20][..]);
        let shared = Secret::from(&[7; 32][..]);
        for suite in Suite::all() {
            for shared in [None, Some(&shared)] {
                let (i, r) = child_keys(Prf::HmacSha1, &sk_d, shared, &[], NONCES, suite);
                let seed = [shared.map_or(&[][..], |s| s), &[1; 16], &[2; 16]].concat();
                let mut all = vec![0; 2 * (suite.encryption_key_len() + suite.integrity_key_len())];
                prf_plus(Prf::HmacSha1, &sk_d, &seed, &mut all).unwrap();
                assert_eq!(
                    [i.encryption(), i.integrity(), r.encryption(), r.integrity()].concat(),
                    all,
                    "{suite}"
                );
            }
        }
    }

    #[test]
    fn a_ppk_changes_three_keys_by_prf_plus() {
        let protection = Suite::new(Encryption::AesCbc256, Some(Integrity::HmacSha384_192)).unwrap();
        let suite = IkeSuite {
            protection,
            prf: Prf::HmacSha384,
            group: DhGroup::Ecp256,
            additional: Default::default(),
        };
        let seed = first_seed(suite.prf, NONCES, &Secret::from(&[3; 32][..]));
        let mut keys = IkeKeys::derive(&suite, &seed, NONCES, 4, 5);
        let plain = [keys.sk_d.clone(), keys.sk_pi.clone(), keys.sk_pr.clone()];
        let ppk = Secret::from(&b"a post-quantum pre-shared key"[..]);
        let mixed = keys.with_ppk(suite.prf, &ppk);
        let before = keys.exchange(mixed);
        for (key, plain) in [&keys.sk_d, &keys.sk_pi, &keys.sk_pr].into_iter().zip(&plain) {
            // The first block of prf+ (RFC 7296 2.13): prf(K, S | 0x01).
            assert_eq!(*key, suite.prf.compute(&ppk, &[plain, &[1]]));
        }
        drop(keys.exchange(before));
        assert_eq!([keys.sk_d, keys.sk_pi, keys.sk_pr], plain);
    }

    #[test]
    fn a_rekeyed_seed_takes_the_old_key_and_the_new_nonces() {
        let (sk_d, shared) = (Secret::from(&[9; 32][..]), Secret::from(&[7; 32][..]));
        let want = Prf::HmacSha512.compute(&[9; 32], &[&[7; 32], &[1; 16], &[2; 16]]);
        assert_eq!(rekey_seed(Prf::HmacSha512, &sk_d, NONCES, &shared, &[]), want);
    }

    #[test]
    fn additional_key_exchanges_stand_behind_the_nonces() {
        let (sk_d, first) = (Secret::from(&[9; 32][..]), Secret::from(&[7; 32][..]));
        let more = [Secret::from(&[5; 66][..]), Secret::from(&[6; 32][..])];
        let all = [&[7; 32][..], &[1; 16], &[2; 16], &[5; 66], &[6; 32]].concat();
        let want = Prf::HmacSha384.compute(&sk_d, &[&all]);
        assert_eq!(rekey_seed(Prf::HmacSha384, &sk_d, NONCES, &first, &more), want);
        let suite = Suite::new(Encryption::AesCbc256, Some(Integrity::HmacSha256_128)).unwrap();
        let (i, r) = child_keys(Prf::HmacSha384, &sk_d, Some(&first), &more, NONCES, suite);
        let mut stream = vec![0; 2 * (32 + 32)];
        prf_plus(Prf::HmacSha384, &sk_d, &all, &mut stream).unwrap();
        assert_eq!([i.encryption(), i.integrity(), r.encryption(), r.integrity()].concat(), stream);
    }
}
