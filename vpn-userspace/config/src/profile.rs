//! Policy profiles: named lists of proposals and lifetimes, for peers whose habits are known.

use std::str::FromStr;
use std::time::Duration;

/// `profile` of `ike` and `esp`: what is offered and accepted where no `proposals` stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What current software should use; the default.
    Modern,
    /// Everything that is served, weak algorithms last.
    Compatible,
    /// NSA's Commercial National Security Algorithm Suite 2.0, as far as it goes without its signatures.
    Cnsa2,
    /// AWS Site-to-Site VPN.
    Aws,
    /// Alibaba Cloud VPN Gateway.
    Alibaba,
    /// JD Cloud VPN and border gateways.
    JdCloud,
    /// Cisco IOS, IOS XE and ASA.
    Cisco,
}

/// The words of the configuration.
pub(crate) const WORDS: [(&str, Profile); 7] = [
    ("modern", Profile::Modern),
    ("compatible", Profile::Compatible),
    ("cnsa2", Profile::Cnsa2),
    ("aws", Profile::Aws),
    ("alibaba", Profile::Alibaba),
    ("jdcloud", Profile::JdCloud),
    ("cisco", Profile::Cisco),
];

/// Groups of the modern lists, fastest first.
macro_rules! modern_groups {
    () => {
        "curve25519-ecp256-ecp384-modp2048"
    };
}

/// Every group that is served, weak ones last.
macro_rules! all_groups {
    () => {
        "curve25519-ecp256-ecp384-ecp521-modp2048-modp3072-modp4096-modp6144-modp8192-modp2048s256-modp2048s224-modp1536-modp1024"
    };
}

/// What AWS takes of it (groups 14-21): group 2 is left out, as nothing there needs it.
macro_rules! aws_groups {
    () => {
        "ecp384-ecp256-ecp521-modp2048-modp3072-modp4096-modp6144-modp8192"
    };
}

impl Profile {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(_, profile)| *profile == self).map_or("modern", |(word, _)| word)
    }

    fn ike_texts(self) -> &'static [&'static str] {
        match self {
            Self::Modern => &[
                concat!("aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-", modern_groups!()),
                concat!("aes256-aes128-sha384-sha256-", modern_groups!()),
            ],
            Self::Compatible => &[
                concat!(
                    "aes256gcm16-aes192gcm16-aes128gcm16-chacha20poly1305-aes256ccm16-aes128ccm16-prfsha512-prfsha384-",
                    "prfsha256-prfsha1-",
                    all_groups!()
                ),
                concat!("aes256-aes192-aes128-sha512-sha384-sha256-sha1-", all_groups!()),
                "3des-sha256-sha1-md5-modp2048-modp1536-modp1024",
            ],
            Self::Cnsa2 => &["aes256gcm16-prfsha384-mlkem1024", "aes256gcm16-prfsha384-ecp384"],
            Self::Aws => &[
                concat!("aes256gcm16-aes128gcm16-prfsha512-prfsha384-prfsha256-", aws_groups!()),
                concat!("aes256-aes128-sha512-sha384-sha256-", aws_groups!()),
            ],
            Self::Alibaba => &["aes256-aes192-aes128-sha512-sha384-sha256-modp2048"],
            Self::JdCloud => &["aes256-aes192-aes128-sha384-sha256-ecp384-ecp256-modp2048"],
            Self::Cisco => &[
                "aes256gcm16-aes128gcm16-prfsha512-prfsha384-prfsha256-ecp384-ecp256-ecp521-modp4096-modp2048",
                "aes256-aes192-aes128-sha512-sha384-sha256-sha1-ecp384-ecp256-ecp521-modp4096-modp2048-modp1536",
            ],
        }
    }

    fn esp_texts(self) -> &'static [&'static str] {
        match self {
            Self::Modern => &[
                concat!("aes256gcm16-aes128gcm16-chacha20poly1305-", modern_groups!()),
                concat!("aes256-aes128-sha384-sha256-", modern_groups!()),
            ],
            Self::Compatible => &[
                concat!(
                    "aes256gcm16-aes192gcm16-aes128gcm16-chacha20poly1305-aes256ccm16-aes128ccm16-",
                    all_groups!()
                ),
                concat!("aes256-aes192-aes128-sha512-sha384-sha256-sha1-", all_groups!()),
                "aes256gcm16-aes128gcm16",
                "aes256-aes192-aes128-sha512-sha384-sha256-sha1",
                "3des-sha256-sha1-md5",
            ],
            Self::Cnsa2 => &["aes256gcm16-mlkem1024", "aes256gcm16-ecp384"],
            Self::Aws => &[
                concat!("aes256gcm16-aes128gcm16-", aws_groups!()),
                concat!("aes256-aes128-sha512-sha384-sha256-", aws_groups!()),
            ],
            Self::Alibaba => &["aes256-aes192-aes128-sha512-sha384-sha256-modp2048"],
            // Perfect forward secrecy is off there unless asked for.
            Self::JdCloud => &[
                "aes256-aes192-aes128-sha384-sha256-ecp384-ecp256-modp2048",
                "aes256-aes192-aes128-sha384-sha256",
            ],
            Self::Cisco => &[
                "aes256gcm16-aes128gcm16-ecp384-ecp256-ecp521-modp4096-modp2048",
                "aes256-aes192-aes128-sha512-sha384-sha256-sha1-ecp384-ecp256-ecp521-modp4096-modp2048-modp1536",
                "aes256gcm16-aes128gcm16",
                "aes256-aes192-aes128-sha512-sha384-sha256-sha1",
            ],
        }
    }

    /// The proposals of `ike`, which the tests see to be sound.
    pub(crate) fn ike<T: FromStr>(self) -> Vec<T> {
        self.ike_texts().iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// The proposals of `esp`, which the tests see to be sound.
    pub(crate) fn esp<T: FromStr>(self) -> Vec<T> {
        self.esp_texts().iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// How old an IKE SA gets. AWS rekeys in a random margin before 28800 s and JD Cloud at 14400 s: being first
    /// leaves one side to do it.
    pub(crate) fn ike_lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Aws | Self::Alibaba => 28_000,
            Self::JdCloud => 13_600,
            Self::Modern | Self::Compatible | Self::Cnsa2 | Self::Cisco => 4 * 3600,
        })
    }

    /// How old a child SA gets; the clouds' end at 3600 s.
    pub(crate) fn esp_lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Aws | Self::Alibaba | Self::JdCloud => 3000,
            Self::Modern | Self::Compatible | Self::Cnsa2 | Self::Cisco => 3600,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_ike::{EspProposal, IkeProposal};

    #[test]
    fn every_text_is_a_proposal() {
        for (word, profile) in WORDS {
            assert_eq!(profile.as_str(), word);
            for text in profile.ike_texts() {
                assert!(text.parse::<IkeProposal>().is_ok(), "{word}: {text}");
            }
            for text in profile.esp_texts() {
                assert!(text.parse::<EspProposal>().is_ok(), "{word}: {text}");
            }
            assert_eq!(profile.ike::<IkeProposal>().len(), profile.ike_texts().len());
            assert_eq!(profile.esp::<EspProposal>().len(), profile.esp_texts().len());
        }
    }

    /// Weak algorithms stand only in the profiles of those who need them.
    #[test]
    fn only_old_peers_profiles_are_weak() {
        for (word, profile) in WORDS {
            let ike = profile.ike::<IkeProposal>();
            let esp = profile.esp::<EspProposal>();
            let weak = ike.iter().any(|p| !p.weaknesses().is_empty())
                || esp.iter().any(|p| !p.weaknesses().is_empty());
            assert_eq!(weak, matches!(profile, Profile::Compatible | Profile::Cisco), "{word}");
        }
    }
}
