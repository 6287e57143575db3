//! Which pre-shared keys there may be: Culvert's rule, and those of the clouds; and new ones.

use culvert_crypto::Random;
use zeroize::Zeroizing;

use crate::model::{Connection, LocalProof};
use crate::profile::Profile;

/// Beside letters and digits.
const MARKS: &[u8] = b"~`!@#$%^&*()_-+={}[]\\|;:',.<>/?";

/// Who takes the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PskRules {
    /// Culvert: 1 to 100 characters.
    Culvert,
    /// AWS: 8 to 64.
    Aws,
    /// Alibaba Cloud: 1 to 100.
    Alibaba,
    /// JD Cloud: at most 20.
    JdCloud,
    /// Devices whose consoles take some marks for their own: letters and digits alone.
    Cisco,
}

/// Why a key is refused. Says nothing of it but the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PskFault {
    /// Too short.
    #[error("it has {0} characters; at least {1} are asked for")]
    Short(usize, usize),
    /// Too long.
    #[error("it has {0} characters; at most {1} are allowed")]
    Long(usize, usize),
    /// Something that may not stand in it.
    #[error("character {place} may not stand in it; allowed are {allowed}")]
    Character {
        /// Which, from 1.
        place: usize,
        /// What may.
        allowed: &'static str,
    },
    /// How it begins.
    #[error("it must not begin with {0}")]
    Begins(&'static str),
}

impl PskRules {
    /// Every one, in the order of the help.
    pub const ALL: [Self; 5] = [Self::Culvert, Self::Aws, Self::Alibaba, Self::JdCloud, Self::Cisco];

    /// The word of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Culvert => "culvert",
            Self::Aws => "aws",
            Self::Alibaba => "alibaba",
            Self::JdCloud => "jdcloud",
            Self::Cisco => "cisco",
        }
    }

    fn lengths(self) -> (usize, usize) {
        match self {
            Self::Culvert | Self::Alibaba => (1, 100),
            Self::Aws => (8, 64),
            Self::JdCloud => (1, 20),
            Self::Cisco => (1, 127),
        }
    }

    /// How long a new one is.
    fn length(self) -> usize {
        match self {
            Self::Aws => 32,
            Self::Cisco => 24,
            Self::Culvert | Self::Alibaba | Self::JdCloud => 16,
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Self::Culvert | Self::Alibaba => {
                "letters, digits and ~`!@#$%^&*()_-+={}[]\\|;:',.<>/?, no spaces"
            }
            Self::Aws => "letters, digits, . and _",
            Self::JdCloud => "letters, digits, - and _",
            Self::Cisco => "letters and digits",
        }
    }

    fn may_have(self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || match self {
                Self::Culvert | Self::Alibaba => MARKS.contains(&byte),
                Self::Aws => matches!(byte, b'.' | b'_'),
                Self::JdCloud => matches!(byte, b'-' | b'_'),
                Self::Cisco => false,
            }
    }

    /// Whether the key is one that it takes.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, key: &[u8]) -> Result<(), PskFault> {
        let (least, most) = self.lengths();
        if key.len() < least {
            return Err(PskFault::Short(key.len(), least));
        }
        if key.len() > most {
            return Err(PskFault::Long(key.len(), most));
        }
        if let Some(at) = key.iter().position(|byte| !self.may_have(*byte)) {
            return Err(PskFault::Character { place: at + 1, allowed: self.allowed() });
        }
        match self {
            Self::Aws if key.starts_with(b"0") => Err(PskFault::Begins("0")),
            Self::JdCloud if key.starts_with(b"0x") || key.starts_with(b"0s") => {
                Err(PskFault::Begins("0x or 0s"))
            }
            _ => Ok(()),
        }
    }

    /// A new key: 16 characters or more, each of the characters that it takes as likely as the others.
    pub fn generate(self, random: &mut dyn Random) -> Zeroizing<String> {
        let alphabet: Vec<u8> = (b'!'..=b'~').filter(|byte| self.may_have(*byte)).collect();
        // The largest multiple of the alphabet's size that a byte can hold: what is beyond it would favour some.
        let bound = 256 / alphabet.len() * alphabet.len();
        loop {
            let mut key = Zeroizing::new(String::with_capacity(self.length()));
            while key.len() < self.length() {
                let mut byte = [0];
                random.fill(&mut byte);
                if usize::from(byte[0]) < bound {
                    key.push(char::from(alphabet[usize::from(byte[0]) % alphabet.len()]));
                }
            }
            // `0x` and `0s` mean something else to strongSwan.
            let soft = key.starts_with("0x") || key.starts_with("0s");
            if self.check(key.as_bytes()).is_ok() && !soft {
                return key;
            }
        }
    }
}

impl Connection {
    /// What of its keys is against the rules of Culvert, or of the cloud that its profile names: those of other peers may be
    /// anything, so that nothing is refused.
    pub fn psk_faults(&self) -> Vec<String> {
        let rules = match self.ike.profile {
            Some(Profile::Aws) => PskRules::Aws,
            Some(Profile::Alibaba) => PskRules::Alibaba,
            Some(Profile::JdCloud) => PskRules::JdCloud,
            _ => PskRules::Culvert,
        };
        let mut faults = Vec::new();
        for tunnel in &self.tunnels {
            let LocalProof::Psk(psk) = &tunnel.auth.local else { continue };
            if let Err(fault) = rules.check(psk.as_bytes()) {
                faults.push(format!(
                    "tunnel {}: the pre-shared key may not be taken by the peer: {fault}; `culvert psk generate --for {}` makes one that is",
                    tunnel.name,
                    rules.as_str()
                ));
            }
        }
        faults
    }
}

impl std::str::FromStr for PskRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|rules| rules.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|rules| rules.as_str()).collect();
            format!("there are: {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_rule() {
        let every: Vec<u8> = (b'a'..=b'z').chain(b'0'..=b'9').chain(MARKS.iter().copied()).collect();
        assert_eq!(PskRules::Culvert.check(&every), Ok(()));
        assert_eq!(PskRules::Culvert.check(b""), Err(PskFault::Short(0, 1)));
        assert_eq!(PskRules::Culvert.check(&[b'x'; 101]), Err(PskFault::Long(101, 100)));
        for bad in [&b"a b"[..], b"a\"b", b"a\tb", "a\u{fc}".as_bytes()] {
            let fault = PskRules::Culvert.check(bad).unwrap_err();
            assert!(matches!(fault, PskFault::Character { place: 2, .. }), "{fault}");
        }
        assert_eq!(PskRules::Aws.check(b"01234567"), Err(PskFault::Begins("0")));
        assert_eq!(PskRules::Aws.check(b"1234567"), Err(PskFault::Short(7, 8)));
        assert_eq!(
            PskRules::Aws.check(b"a.b_c-de").unwrap_err().to_string(),
            "character 6 may not stand in it; allowed are letters, digits, . and _"
        );
        assert_eq!(PskRules::JdCloud.check(b"0xabc"), Err(PskFault::Begins("0x or 0s")));
        assert_eq!(PskRules::JdCloud.check(&[b'a'; 21]), Err(PskFault::Long(21, 20)));
        assert_eq!(
            PskRules::Cisco.check(b"abc?"),
            Err(PskFault::Character { place: 4, allowed: "letters and digits" })
        );
    }

    #[test]
    fn new_keys_keep_the_rule_and_differ() {
        let mut random = culvert_crypto_random();
        for rules in PskRules::ALL {
            let (one, other) = (rules.generate(&mut random), rules.generate(&mut random));
            assert_eq!(rules.check(one.as_bytes()), Ok(()));
            assert!(one.len() >= 16 && *one != *other, "{rules:?}");
        }
        // All the odd ones come.
        let mut seen = [false; 256];
        for _ in 0..1000 {
            PskRules::Culvert.generate(&mut random).bytes().for_each(|byte| seen[usize::from(byte)] = true);
        }
        assert!(MARKS.iter().all(|mark| seen[usize::from(*mark)]));
    }

    /// The same numbers each time.
    fn culvert_crypto_random() -> impl Random {
        struct Counter(u64);
        impl Random for Counter {
            fn fill(&mut self, out: &mut [u8]) {
                for byte in out {
                    self.0 = self
                        .0
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    *byte = (self.0 >> 56) as u8;
                }
            }
        }
        Counter(7)
    }
}
