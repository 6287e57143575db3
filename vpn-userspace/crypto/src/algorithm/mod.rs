//! The algorithms, with their IANA transform ids (RFC 7296 3.3.2) and strongSwan's names.

mod encryption;
mod group;
mod integrity;
mod prf;

use std::fmt;

pub use encryption::{Encryption, Mode};
pub use group::DhGroup;
pub use integrity::Integrity;
pub use prf::Prf;

/// Why an algorithm should not be used any more, and what serves better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weakness {
    /// Why.
    pub why: &'static str,
    /// What to use, in the notation of proposals.
    pub instead: &'static str,
}

impl Weakness {
    const fn new(why: &'static str, instead: &'static str) -> Self {
        Self { why, instead }
    }
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; use {}", self.why, self.instead)
    }
}

macro_rules! display_by_name {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    )*};
}
display_by_name!(DhGroup, Prf, Encryption, Integrity);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iana_numbers_lead_back() {
        for g in DhGroup::ALL {
            assert_eq!(DhGroup::from_iana(g.iana()), Some(g));
        }
        for p in Prf::ALL {
            assert_eq!(Prf::from_iana(p.iana()), Some(p));
        }
        for i in Integrity::ALL {
            assert_eq!(Integrity::from_iana(i.iana()), Some(i));
        }
        for e in Encryption::ALL {
            assert_eq!(Encryption::from_iana(e.iana(), e.key_length_attribute()), Some(e));
        }
    }

    /// The registry's numbers, by hand (IKEv2 parameters, transform types 1-4).
    #[test]
    fn the_registrys_numbers() {
        let groups = [
            (2, "modp1024"),
            (5, "modp1536"),
            (14, "modp2048"),
            (15, "modp3072"),
            (16, "modp4096"),
            (17, "modp6144"),
            (18, "modp8192"),
            (19, "ecp256"),
            (20, "ecp384"),
            (21, "ecp521"),
            (22, "modp1024s160"),
            (23, "modp2048s224"),
            (24, "modp2048s256"),
            (31, "curve25519"),
            (35, "mlkem512"),
            (36, "mlkem768"),
            (37, "mlkem1024"),
        ];
        assert_eq!(groups.len(), DhGroup::ALL.len());
        for (id, name) in groups {
            assert_eq!(DhGroup::from_iana(id).unwrap().name(), name);
        }
        for unknown in [0, 1, 3, 4, 6, 13, 25, 27, 32, 34, 38] {
            assert_eq!(DhGroup::from_iana(unknown), None);
        }
        let prfs =
            ["", "prfmd5", "prfsha1", "", "prfaesxcbc", "prfsha256", "prfsha384", "prfsha512", "prfaescmac"];
        for (id, name) in prfs.into_iter().enumerate() {
            assert_eq!(Prf::from_iana(id as u16).map_or("", Prf::name), name);
        }
        let macs = [
            (1, "md5"),
            (2, "sha1"),
            (5, "aesxcbc"),
            (8, "aescmac"),
            (12, "sha256"),
            (13, "sha384"),
            (14, "sha512"),
        ];
        assert_eq!(macs.len(), Integrity::ALL.len());
        for (id, name) in macs {
            assert_eq!(Integrity::from_iana(id).unwrap().name(), name);
        }
        let ciphers = [
            (12, ""),
            (13, "ctr"),
            (14, "ccm8"),
            (15, "ccm12"),
            (16, "ccm16"),
            (18, "gcm8"),
            (19, "gcm12"),
            (20, "gcm16"),
            (21, "gmac"),
        ];
        for (id, mode) in ciphers {
            for bits in [128, 192, 256] {
                let name = format!("aes{bits}{mode}");
                assert_eq!(Encryption::from_iana(id, Some(bits)).unwrap().name(), name);
            }
            assert_eq!(Encryption::from_iana(id, None), None);
            assert_eq!(Encryption::from_iana(id, Some(512)), None);
        }
        assert_eq!(Encryption::ALL.len(), ciphers.len() * 3 + 2);
        assert_eq!(Encryption::from_iana(3, None), Some(Encryption::TripleDes));
        assert_eq!(Encryption::from_iana(28, None), Some(Encryption::ChaCha20Poly1305));
        assert_eq!(Encryption::from_iana(28, Some(256)), None);
    }

    /// Salt, IV, block and tag by each cipher's RFC.
    #[test]
    fn lengths_by_the_rfcs() {
        let lengths = |name: &str| {
            let e = Encryption::ALL.into_iter().find(|e| e.name() == name).unwrap();
            (e.key_len(), e.salt_len(), e.iv_len(), e.block_len(), e.tag_len())
        };
        assert_eq!(lengths("3des"), (24, 0, 8, 8, 0));
        assert_eq!(lengths("aes192"), (24, 0, 16, 16, 0));
        assert_eq!(lengths("aes256ctr"), (32, 4, 8, 1, 0));
        assert_eq!(lengths("aes128ccm12"), (16, 3, 8, 1, 12));
        assert_eq!(lengths("aes192gcm8"), (24, 4, 8, 1, 8));
        assert_eq!(lengths("aes256gmac"), (32, 4, 8, 1, 16));
        assert_eq!(lengths("chacha20poly1305"), (32, 4, 8, 1, 16));
    }

    #[test]
    fn names_are_strongswans() {
        assert_eq!(format!("{:>12}", Encryption::AesGcm128), " aes128gcm16");
        assert_eq!(Integrity::HmacSha256_128.to_string(), "sha256");
        assert_eq!(Prf::HmacSha512.to_string(), "prfsha512");
        assert_eq!(DhGroup::Modp2048.to_string(), "modp2048");
    }

    /// FIPS 203, table 3: encapsulation key and ciphertext.
    #[test]
    fn mlkem_lengths() {
        let lengths = |g: DhGroup| (g.public_len(), g.response_len());
        assert_eq!(lengths(DhGroup::MlKem512), (800, 768));
        assert_eq!(lengths(DhGroup::MlKem768), (1184, 1088));
        assert_eq!(lengths(DhGroup::MlKem1024), (1568, 1568));
    }
}
