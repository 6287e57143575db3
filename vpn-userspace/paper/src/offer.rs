//! One proposal taken apart, to be said in another device's words.

use std::fmt;

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};

/// A proposal for IKE or ESP, in strongSwan's notation and by its algorithms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    text: String,
    /// Ciphers, first preferred; all of them AEADs or none.
    pub encryption: Vec<Encryption>,
    /// Integrity algorithms; none beside AEADs.
    pub integrity: Vec<Integrity>,
    /// Pseudorandom functions, in proposals for IKE.
    pub prf: Vec<Prf>,
    /// Key exchanges; in proposals for ESP none is a rekey without perfect forward secrecy.
    pub groups: Vec<DhGroup>,
    /// What else it says: additional key exchanges, extended sequence numbers.
    pub rest: Vec<String>,
}

impl Offer {
    /// Takes a proposal apart that [`culvert_ike`] has read, or one in the same notation.
    pub fn of(proposal: &impl fmt::Display) -> Self {
        let text = proposal.to_string();
        let mut offer = Self {
            text: text.clone(),
            encryption: Vec::new(),
            integrity: Vec::new(),
            prf: Vec::new(),
            groups: Vec::new(),
            rest: Vec::new(),
        };
        for word in text.split('-') {
            if let Some(e) = Encryption::ALL.into_iter().find(|e| e.name() == word) {
                offer.encryption.push(e);
            } else if let Some(i) = Integrity::ALL.into_iter().find(|i| i.name() == word) {
                offer.integrity.push(i);
            } else if let Some(p) = Prf::ALL.into_iter().find(|p| p.name() == word) {
                offer.prf.push(p);
            } else if let Some(g) = DhGroup::ALL.into_iter().find(|g| g.name() == word) {
                offer.groups.push(g);
            } else {
                offer.rest.push(word.to_owned());
            }
        }
        offer
    }

    /// Whether its ciphers bring their integrity.
    pub fn is_aead(&self) -> bool {
        self.encryption.first().is_some_and(|e| e.is_aead())
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_is_taken_apart() {
        let offer = Offer::of(&"aes256-aes128-sha384-sha256-prfsha384-ecp384-modp2048-ke1_mlkem768");
        assert_eq!(offer.encryption, [Encryption::AesCbc256, Encryption::AesCbc128]);
        assert_eq!(offer.integrity, [Integrity::HmacSha384_192, Integrity::HmacSha256_128]);
        assert_eq!(offer.prf, [Prf::HmacSha384]);
        assert_eq!(offer.groups, [DhGroup::Ecp384, DhGroup::Modp2048]);
        assert_eq!(offer.rest, ["ke1_mlkem768"]);
        assert!(!offer.is_aead() && Offer::of(&"aes128gcm16").is_aead());
    }
}
