//! Key exchange methods (transform type 4): MODP and elliptic-curve groups, and ML-KEM.

use super::Weakness;

/// A Diffie-Hellman group or another key exchange method (transform type 4, RFC 9370 2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DhGroup {
    /// Group 2 (RFC 7296 B.2). Weak.
    Modp1024,
    /// Group 5 (RFC 3526). Weak.
    Modp1536,
    /// Group 14 (RFC 3526).
    Modp2048,
    /// Group 15 (RFC 3526).
    Modp3072,
    /// Group 16 (RFC 3526).
    Modp4096,
    /// Group 17 (RFC 3526).
    Modp6144,
    /// Group 18 (RFC 3526).
    Modp8192,
    /// Group 19, NIST P-256 (RFC 5903).
    Ecp256,
    /// Group 20, NIST P-384 (RFC 5903).
    Ecp384,
    /// Group 21, NIST P-521 (RFC 5903).
    Ecp521,
    /// Group 22, 1024 bits with a subgroup of 160 (RFC 5114). Weak.
    Modp1024S160,
    /// Group 23, 2048 bits with a subgroup of 224 (RFC 5114). Weak.
    Modp2048S224,
    /// Group 24, 2048 bits with a subgroup of 256 (RFC 5114). Weak.
    Modp2048S256,
    /// Group 31 (RFC 8031).
    Curve25519,
    /// 35: ML-KEM-512 (FIPS 203; draft-ietf-ipsecme-ikev2-mlkem).
    MlKem512,
    /// 36: ML-KEM-768.
    MlKem768,
    /// 37: ML-KEM-1024.
    MlKem1024,
}

impl DhGroup {
    /// Every method, by number.
    pub const ALL: [Self; 17] = [
        Self::Modp1024,
        Self::Modp1536,
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::Modp6144,
        Self::Modp8192,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::Modp1024S160,
        Self::Modp2048S224,
        Self::Modp2048S256,
        Self::Curve25519,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// The transform id, which is also the number in the KE payload.
    pub const fn iana(self) -> u16 {
        match self {
            Self::Modp1024 => 2,
            Self::Modp1536 => 5,
            Self::Modp2048 => 14,
            Self::Modp3072 => 15,
            Self::Modp4096 => 16,
            Self::Modp6144 => 17,
            Self::Modp8192 => 18,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::Ecp521 => 21,
            Self::Modp1024S160 => 22,
            Self::Modp2048S224 => 23,
            Self::Modp2048S256 => 24,
            Self::Curve25519 => 31,
            Self::MlKem512 => 35,
            Self::MlKem768 => 36,
            Self::MlKem1024 => 37,
        }
    }

    /// The method of a transform id, if it is one of ours.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.iana() == id)
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modp1024 => "modp1024",
            Self::Modp1536 => "modp1536",
            Self::Modp2048 => "modp2048",
            Self::Modp3072 => "modp3072",
            Self::Modp4096 => "modp4096",
            Self::Modp6144 => "modp6144",
            Self::Modp8192 => "modp8192",
            Self::Ecp256 => "ecp256",
            Self::Ecp384 => "ecp384",
            Self::Ecp521 => "ecp521",
            Self::Modp1024S160 => "modp1024s160",
            Self::Modp2048S224 => "modp2048s224",
            Self::Modp2048S256 => "modp2048s256",
            Self::Curve25519 => "curve25519",
            Self::MlKem512 => "mlkem512",
            Self::MlKem768 => "mlkem768",
            Self::MlKem1024 => "mlkem1024",
        }
    }

    /// Length in bytes of the public value that the initiator sends: with ML-KEM the encapsulation key.
    pub const fn public_len(self) -> usize {
        match self {
            Self::Modp1024 | Self::Modp1024S160 => 128,
            Self::Modp1536 => 192,
            Self::Modp2048 | Self::Modp2048S224 | Self::Modp2048S256 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Modp6144 => 768,
            Self::Modp8192 => 1024,
            // RFC 5903 7: x and y, without the point format byte.
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Ecp521 => 132,
            Self::Curve25519 => 32,
            // FIPS 203, table 3.
            Self::MlKem512 => 800,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Length in bytes of the value that the responder answers with: with ML-KEM the ciphertext, otherwise
    /// as long as the initiator's.
    pub const fn response_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            _ => self.public_len(),
        }
    }

    /// Whether it is a key encapsulation: only the initiator has a key pair (RFC 9370 2.1).
    pub const fn is_kem(self) -> bool {
        matches!(self, Self::MlKem512 | Self::MlKem768 | Self::MlKem1024)
    }

    /// Why it should not be used any more, if so.
    pub const fn weakness(self) -> Option<Weakness> {
        const USE: &str = "curve25519, ecp384 or modp3072";
        Some(match self {
            Self::Modp1024 => {
                Weakness::new("1024-bit primes are within reach of states (RFC 8247 2.4: SHOULD NOT)", USE)
            }
            Self::Modp1536 => Weakness::new("1536-bit primes give less than 100 bits of security", USE),
            Self::Modp1024S160 | Self::Modp2048S224 | Self::Modp2048S256 => Weakness::new(
                "nobody knows how its constants were chosen, and its small subgroups have let keys leak (RFC 8247 2.4)",
                USE,
            ),
            _ => return None,
        })
    }
}
