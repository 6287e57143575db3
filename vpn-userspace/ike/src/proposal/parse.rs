//! Reading proposals in strongSwan's notation: algorithm keywords joined by `-`.

use std::fmt;
use std::str::FromStr;

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};

use super::{Choices, EspProposal, IkeProposal, additional, names};

/// A proposal string that cannot be used. The message names the part at fault and what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// A keyword that nobody knows.
    #[error("\"{token}\" in proposal \"{proposal}\" is no algorithm; there are: {}", known())]
    Unknown {
        /// The whole string.
        proposal: String,
        /// The part at fault.
        token: String,
    },
    /// A keyword that strongSwan knows and this version does not serve.
    #[error("\"{token}\" in proposal \"{proposal}\" is not supported; there are: {}", known())]
    Unsupported {
        /// The whole string.
        proposal: String,
        /// The part at fault.
        token: String,
    },
    /// A keyword for something too weak to be served at all.
    #[error("\"{token}\" in proposal \"{proposal}\" is refused: {why}")]
    Refused {
        /// The whole string.
        proposal: String,
        /// The part at fault.
        token: String,
        /// Why, and what to use.
        why: &'static str,
    },
    /// An algorithm is named twice.
    #[error("\"{token}\" stands twice in proposal \"{proposal}\"; leave one out")]
    Twice {
        /// The whole string.
        proposal: String,
        /// The part at fault.
        token: String,
    },
    /// A kind of algorithm that must be there is not.
    #[error("proposal \"{proposal}\" names no {kind}; add one, for instance \"{example}\"")]
    Missing {
        /// The whole string.
        proposal: String,
        /// The kind that is missing.
        kind: &'static str,
        /// A good choice.
        example: &'static str,
    },
    /// A kind of algorithm that has no place in this proposal.
    #[error("\"{token}\" has no place in proposal \"{proposal}\": {why}")]
    OutOfPlace {
        /// The whole string.
        proposal: String,
        /// The part at fault.
        token: String,
        /// Why.
        why: &'static str,
    },
    /// AEADs and ciphers that need an integrity algorithm in one proposal (RFC 5282 8).
    #[error(
        "proposal \"{proposal}\" mixes AEADs and ciphers that need an integrity algorithm; write two proposals (RFC 7296 3.3)"
    )]
    Mixed {
        /// The whole string.
        proposal: String,
    },
}

fn known() -> String {
    fn names<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
        super::list(&all.into_iter().collect::<Vec<_>>())
    }
    let plain = |e: &Encryption| !e.name().starts_with("aes");
    format!(
        "aes128, aes192, aes256 (each also with gcm16, gcm12, gcm8, ccm16, ccm12, ccm8, ctr, gmac right after it), \
         {}; {}; {}; {}; ke1_ to ke7_ before one of the last kind or before none; esn, noesn",
        names(Encryption::ALL.into_iter().filter(plain)),
        names(Integrity::ALL),
        names(Prf::ALL),
        names(DhGroup::ALL)
    )
}

enum Token {
    Encryption(Encryption),
    Integrity(Integrity),
    Prf(Prf),
    Group(DhGroup),
    /// `ke1_…` to `ke7_…`.
    Additional(u8, Option<DhGroup>),
    Esn(bool),
}

fn token(word: &str) -> Option<Token> {
    let by_name = |name: &str| {
        let e = Encryption::ALL.into_iter().find(|e| e.name() == name).map(Token::Encryption);
        let i = || Integrity::ALL.into_iter().find(|i| i.name() == name).map(Token::Integrity);
        let p = || Prf::ALL.into_iter().find(|p| p.name() == name).map(Token::Prf);
        let g = || DhGroup::ALL.into_iter().find(|g| g.name() == name).map(Token::Group);
        e.or_else(i).or_else(p).or_else(g)
    };
    match word {
        "esn" => Some(Token::Esn(true)),
        "noesn" => Some(Token::Esn(false)),
        _ => by_name(&names::canonical(word))
            .or_else(|| additional::keyword(word).map(|(number, method)| Token::Additional(number, method))),
    }
}

#[derive(Default)]
struct Parsed {
    encryption: Vec<Encryption>,
    integrity: Vec<Integrity>,
    prf: Vec<Prf>,
    groups: Vec<DhGroup>,
    additional: Choices,
    esn: Vec<bool>,
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    let new = !list.contains(&item);
    list.push(item);
    new
}

fn parse(proposal: &str) -> Result<Parsed, ProposalError> {
    let mut all = Parsed::default();
    for word in proposal.split('-') {
        let lower = word.trim().to_ascii_lowercase();
        let (proposal, name) = (proposal.to_owned(), word.to_owned());
        let new = match token(&lower) {
            Some(Token::Encryption(e)) => add(&mut all.encryption, e),
            Some(Token::Integrity(i)) => add(&mut all.integrity, i),
            Some(Token::Prf(p)) => add(&mut all.prf, p),
            Some(Token::Group(g)) => add(&mut all.groups, g),
            Some(Token::Additional(number, method)) => all.additional.add(number, method),
            Some(Token::Esn(esn)) => add(&mut all.esn, esn),
            None if names::refused(&lower).is_some() => {
                let why = names::refused(&lower).unwrap_or_default();
                return Err(ProposalError::Refused { proposal, token: name, why });
            }
            None if names::is_strongswans(&lower) => {
                return Err(ProposalError::Unsupported { proposal, token: name });
            }
            None => return Err(ProposalError::Unknown { proposal, token: name }),
        };
        if !new {
            return Err(ProposalError::Twice { proposal, token: name });
        }
    }
    let missing = |kind, example| ProposalError::Missing { proposal: proposal.to_owned(), kind, example };
    let Some(first) = all.encryption.first() else {
        return Err(missing("cipher", "aes128gcm16"));
    };
    let aead = first.is_aead();
    if all.encryption.iter().any(|e| e.is_aead() != aead) {
        return Err(ProposalError::Mixed { proposal: proposal.to_owned() });
    }
    if all.integrity.is_empty() && !aead {
        return Err(missing("integrity algorithm", "sha256"));
    }
    if all.groups.is_empty() && all.additional.methods().next().is_some() {
        return Err(missing("key exchange before the additional ones", "curve25519"));
    }
    if let Some((number, method)) = all.additional.twice(&all.groups) {
        let why = "no method may run twice in one negotiation (RFC 9370 2.2.2); name another one";
        let token = format!("ke{number}_{method}");
        return Err(ProposalError::OutOfPlace { proposal: proposal.to_owned(), token, why });
    }
    Ok(all)
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    /// Reads `aes256gcm16-prfsha384-ecp384` or `aes128-sha256-modp2048`. Without a PRF those of the
    /// integrity algorithms are offered; with an AEAD and an integrity algorithm that one names the PRF,
    /// as in strongSwan.
    fn from_str(proposal: &str) -> Result<Self, ProposalError> {
        let mut all = parse(proposal)?;
        let text = || proposal.to_owned();
        if !all.esn.is_empty() {
            let why = "extended sequence numbers belong to ESP proposals";
            return Err(ProposalError::OutOfPlace { proposal: text(), token: "esn".into(), why });
        }
        if let Some(gmac) = all.encryption.iter().find(|e| !e.serves_ike()) {
            let why = "GMAC encrypts nothing and serves ESP alone (RFC 4543)";
            return Err(ProposalError::OutOfPlace { proposal: text(), token: gmac.name().into(), why });
        }
        if all.groups.is_empty() {
            let (kind, example) = ("Diffie-Hellman group", "curve25519");
            return Err(ProposalError::Missing { proposal: text(), kind, example });
        }
        if all.prf.is_empty() {
            all.prf.extend(all.integrity.iter().map(|i| i.prf()));
        }
        if all.prf.is_empty() {
            let (kind, example) = ("pseudorandom function", "prfsha256");
            return Err(ProposalError::Missing { proposal: text(), kind, example });
        }
        if all.encryption.iter().any(|e| e.is_aead()) {
            all.integrity.clear();
        }
        let Parsed { encryption, integrity, prf, groups, additional, .. } = all;
        Ok(Self { encryption, integrity, prf, groups, additional })
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    /// Reads `aes128gcm16-ecp256`, `aes128-sha256`, `chacha20poly1305-noesn`. An integrity algorithm
    /// beside an AEAD is not used, as in strongSwan.
    fn from_str(proposal: &str) -> Result<Self, ProposalError> {
        let mut all = parse(proposal)?;
        if let Some(prf) = all.prf.first() {
            let why = "pseudorandom functions belong to IKE proposals";
            let (proposal, token) = (proposal.to_owned(), prf.name().to_owned());
            return Err(ProposalError::OutOfPlace { proposal, token, why });
        }
        if all.encryption.iter().any(|e| e.is_aead()) {
            all.integrity.clear();
        }
        let Parsed { encryption, integrity, groups, additional, esn, .. } = all;
        Ok(Self { encryption, integrity, groups, additional, esn })
    }
}

impl IkeProposal {
    /// The same as [`str::parse`].
    pub fn parse(proposal: &str) -> Result<Self, ProposalError> {
        proposal.parse()
    }
}

impl EspProposal {
    /// The same as [`str::parse`].
    pub fn parse(proposal: &str) -> Result<Self, ProposalError> {
        proposal.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongswans_notation_is_read_and_written() {
        let ike = [
            ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
            ("aes128-sha256-modp2048", "aes128-sha256-prfsha256-modp2048"),
            (
                "aes128-aes256-sha1-sha512-ecp256-x25519",
                "aes128-aes256-sha1-sha512-prfsha1-prfsha512-ecp256-curve25519",
            ),
            ("aes-sha-prfsha256-modp2048", "aes128-sha1-prfsha256-modp2048"),
            ("AES128GCM128-sha256-curve25519", "aes128gcm16-prfsha256-curve25519"),
            ("3des-md5-modp1024", "3des-md5-prfmd5-modp1024"),
            ("aes192-aesxcbc-modp8192", "aes192-aesxcbc-prfaesxcbc-modp8192"),
            ("aes256ctr-aescmac-ecp521", "aes256ctr-aescmac-prfaescmac-ecp521"),
            ("aes192gcm64-aes256ccm96-prfaescmac-mlkem768", "aes192gcm8-aes256ccm12-prfaescmac-mlkem768"),
            ("aes128ccm-prfsha1-modp2048s256", "aes128ccm16-prfsha1-modp2048s256"),
            (
                "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_x25519-ke2_none-ke1_ecp384",
                "aes256gcm16-prfsha384-curve25519-ke1_mlkem768-ke1_ecp384-ke2_curve25519-ke2_none",
            ),
        ];
        for (text, want) in ike {
            let got = IkeProposal::parse(text).unwrap();
            assert_eq!(got.to_string(), want, "{text}");
            assert_eq!(IkeProposal::parse(want).unwrap(), got);
        }
        let esp = [
            ("aes128gcm16-ecp256", "aes128gcm16-ecp256"),
            ("chacha20poly1305", "chacha20poly1305"),
            ("aes256-sha2_256-esn-noesn", "aes256-sha256-esn-noesn"),
            ("aes256gmac-modp1536", "aes256gmac-modp1536"),
            ("aes256gcm16-noesn-ecp384-ke1_mlkem1024", "aes256gcm16-ecp384-ke1_mlkem1024-noesn"),
        ];
        for (text, want) in esp {
            let got = EspProposal::parse(text).unwrap();
            assert_eq!(got.to_string(), want, "{text}");
            assert_eq!(EspProposal::parse(want).unwrap(), got);
        }
        let suites = EspProposal::parse("aes128-aes256-sha1-sha256").unwrap().suites();
        assert_eq!(super::super::list(&suites), "aes128-sha1, aes128-sha256, aes256-sha1, aes256-sha256");
    }

    #[test]
    fn errors_name_the_part_and_the_mend() {
        let ike = |s| IkeProposal::parse(s).unwrap_err().to_string();
        assert!(ike("aes128gcm16-prfsha999-ecp256").starts_with(
            "\"prfsha999\" in proposal \"aes128gcm16-prfsha999-ecp256\" is no algorithm; there are: aes128, "
        ));
        assert!(ike("camellia128-sha1-modp1024").contains("\"camellia128\" in proposal"));
        assert!(ike("camellia128-sha1-modp1024").contains("is not supported; there are: "));
        assert!(
            ike("aes128-sha1-modp768").contains("\"modp768\" in proposal \"aes128-sha1-modp768\" is refused")
        );
        assert!(ike("des-sha1-modp2048").contains("use aes128gcm16"));
        assert!(ike("aes128gmac-prfsha1-modp2048").contains("serves ESP alone"));
        assert!(
            ike("aes128gcm16-ecp256")
                .contains("names no pseudorandom function; add one, for instance \"prfsha256\"")
        );
        assert!(ike("aes128-modp2048").contains("names no integrity algorithm"));
        assert!(ike("aes128-sha256").contains("names no Diffie-Hellman group"));
        assert!(ike("aes128-aes128gcm16-sha256-ecp256").contains("write two proposals"));
        assert!(ike("aes128-aes128-sha256-ecp256").contains("stands twice"));
        assert!(ike("aes128-sha256-ecp256-esn").contains("belong to ESP"));
        assert!(ike("").contains("is no algorithm"));
        let esp = |s| EspProposal::parse(s).unwrap_err().to_string();
        assert!(esp("aes128gcm16-prfsha256").contains("belong to IKE proposals"));
        assert!(esp("ecp256").contains("names no cipher"));
        assert!(esp("aes128gcm16-ke1_mlkem768").contains("names no key exchange before the additional"));
        assert!(ike("aes128gcm16-prfsha256-ecp256-ke8_mlkem768").contains("is not supported"));
        assert!(ike("aes128gcm16-prfsha256-ecp256-ke1_frodol3").contains("ke1_ to ke7_ before"));
        assert!(ike("aes128gcm16-prfsha256-ecp256-ke1_mlkem768-ke1_mlkem768").contains("stands twice"));
        assert!(ike("aes128gcm16-prfsha256-ecp256-ke1_ecp256").contains("no method may run twice"));
        assert!(
            ike("aes128gcm16-prfsha256-ecp256-ke1_mlkem768-ke3_mlkem768").contains("\"ke3_mlkem768\" has no")
        );
    }
}
