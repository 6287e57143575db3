//! Which of a proposal's algorithms a device has words for.

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf};

use super::page::Page;
use crate::Offer;

/// A device's words; `None`: it has none for that.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) cipher: fn(Encryption) -> Option<&'static str>,
    pub(super) integrity: fn(Integrity) -> Option<&'static str>,
    pub(super) prf: fn(Prf) -> Option<&'static str>,
    pub(super) group: fn(DhGroup) -> Option<&'static str>,
}

/// A proposal in a device's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) ciphers: Vec<&'static str>,
    pub(super) integrities: Vec<&'static str>,
    pub(super) prfs: Vec<&'static str>,
    pub(super) groups: Vec<&'static str>,
    pub(super) aead: bool,
}

impl Words {
    /// The proposals of which something is left; what is not goes into the page's notes. `needs_group`: a proposal without a
    /// key exchange is none.
    pub(super) fn say(&self, page: &mut Page, offers: &[Offer], needs_group: bool) -> Vec<Said> {
        let mut said = Vec::new();
        for offer in offers {
            let mut lost = Vec::new();
            let one = Said {
                ciphers: pick(&offer.encryption, self.cipher, |e| e.name(), &mut lost),
                integrities: pick(&offer.integrity, self.integrity, |i| i.name(), &mut lost),
                prfs: pick(&offer.prf, self.prf, |p| p.name(), &mut lost),
                groups: pick(&offer.groups, self.group, |g| g.name(), &mut lost),
                aead: offer.is_aead(),
            };
            let rest: Vec<&str> =
                offer.rest.iter().map(String::as_str).filter(|r| !r.contains("esn")).collect();
            page.left_out(&lost);
            page.left_out(&rest);
            let groups_sound =
                if needs_group || !offer.groups.is_empty() { !one.groups.is_empty() } else { true };
            if one.ciphers.is_empty() || (one.integrities.is_empty() && !one.aead) || !groups_sound {
                page.note(&format!("the proposal {offer} cannot be said and is left out"));
            } else if !said.contains(&one) {
                said.push(one);
            }
        }
        if said.is_empty() {
            page.note("no proposal is left: offer others in Culvert, such as aes256-sha256-modp2048");
        }
        said
    }
}

fn pick<T: Copy>(
    all: &[T],
    word: impl Fn(T) -> Option<&'static str>,
    name: impl Fn(T) -> &'static str,
    lost: &mut Vec<&'static str>,
) -> Vec<&'static str> {
    let mut words = Vec::new();
    for one in all {
        match word(*one) {
            Some(word) => words.push(word),
            None => lost.push(name(*one)),
        }
    }
    words
}

/// Every combination of one cipher, one integrity algorithm (or none) and one group (or none), the preferred first, at
/// most so many.
pub(super) fn combinations(
    said: &[Said],
    most: usize,
) -> Vec<(&'static str, Option<&'static str>, Option<&'static str>, bool)> {
    let mut all = Vec::new();
    for one in said {
        let or_none = |words: &[&'static str]| -> Vec<Option<&'static str>> {
            if words.is_empty() { vec![None] } else { words.iter().copied().map(Some).collect() }
        };
        let integrities = if one.aead { vec![None] } else { or_none(&one.integrities) };
        for group in or_none(&one.groups) {
            for cipher in &one.ciphers {
                all.extend(integrities.iter().map(|integrity| (*cipher, *integrity, group, one.aead)));
            }
        }
    }
    all.truncate(most);
    all
}

/// The first group that a rekey may use; `None`: rekeys without perfect forward secrecy.
pub(super) fn pfs(said: &[Said]) -> Option<&'static str> {
    said.iter().find_map(|one| one.groups.first().copied())
}

/// A group as `group14`, for devices whose word is its number, of those given.
macro_rules! numbered_groups {
    ($prefix:literal: $($group:ident = $number:literal),+) => {
        |group: culvert_crypto::DhGroup| match group {
            $(culvert_crypto::DhGroup::$group => Some(concat!($prefix, $number)),)+
            _ => None,
        }
    };
}
pub(super) use numbered_groups;
