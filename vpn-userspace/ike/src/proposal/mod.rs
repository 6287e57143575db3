//! Proposals: what a side offers, in strongSwan's notation, and the suites that come out of a choice.

mod additional;
mod names;
mod parse;
pub(crate) mod select;

use std::fmt;

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf, Suite, Weakness};

pub use additional::Additional;
pub(crate) use additional::Choices;
pub(crate) use names::describe;
pub use parse::ProposalError;

/// One proposal for an IKE SA, such as `aes256gcm16-prfsha384-ecp384`.
///
/// Several algorithms of a kind may stand in one, first preferred. The ciphers are all AEADs, which
/// bring their integrity, or none is. `ke1_mlkem768` adds a key exchange to the first one (RFC 9370), and `ke1_none`
/// beside it does without, should the peer not have it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IkeProposal {
    pub(crate) encryption: Vec<Encryption>,
    pub(crate) integrity: Vec<Integrity>,
    pub(crate) prf: Vec<Prf>,
    pub(crate) groups: Vec<DhGroup>,
    /// Key exchanges beside the first (RFC 9370).
    pub(crate) additional: Choices,
}

/// One proposal for ESP, such as `aes128gcm16-ecp256`: with a group, rekeying has perfect forward
/// secrecy. `esn` and `noesn` override what the tunnel says about extended sequence numbers.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EspProposal {
    pub(crate) encryption: Vec<Encryption>,
    pub(crate) integrity: Vec<Integrity>,
    pub(crate) groups: Vec<DhGroup>,
    /// Key exchanges beside the first (RFC 9370).
    pub(crate) additional: Choices,
    /// Extended sequence numbers, in order of preference; empty: as the tunnel says.
    pub(crate) esn: Vec<bool>,
}

/// The algorithms of an IKE SA.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IkeSuite {
    /// What protects the messages.
    pub protection: Suite,
    /// What derives the keys.
    pub prf: Prf,
    /// The Diffie-Hellman group.
    pub group: DhGroup,
    /// Key exchanges beside that one (RFC 9370).
    pub additional: Additional,
}

/// The algorithms of a CHILD SA.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EspSuite {
    /// What protects the packets.
    pub protection: Suite,
    /// The group of the exchange that made it, if it had one of its own.
    pub group: Option<DhGroup>,
    /// Key exchanges beside that one (RFC 9370).
    pub additional: Additional,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
}

impl IkeProposal {
    /// Every group that it names, first preferred. Never empty.
    pub fn groups(&self) -> &[DhGroup] {
        &self.groups
    }

    /// Whether IKEv1 can say it, at least in part: it has no AEADs in phase 1.
    pub fn in_v1(&self) -> bool {
        !crate::v1::proposal::ike_suites(self).is_empty()
    }

    /// Whether a negotiation by this proposal may end with the suite.
    pub fn allows(&self, suite: &IkeSuite) -> bool {
        let integrity = suite.protection.integrity();
        self.encryption.contains(&suite.protection.encryption())
            && integrity.is_none_or(|i| self.integrity.contains(&i))
            && self.prf.contains(&suite.prf)
            && self.groups.contains(&suite.group)
            && self.additional.allow(suite.additional)
    }
}

/// Every algorithm of a list that should not be used any more, with the reason.
fn weak<'a, T: Copy + fmt::Display + 'a>(
    list: &'a [T],
    why: fn(T) -> Option<Weakness>,
) -> impl Iterator<Item = (String, Weakness)> + 'a {
    list.iter().filter_map(move |t| why(*t).map(|w| (t.to_string(), w)))
}

impl IkeProposal {
    /// The algorithms in it that should not be used any more, each with the reason and what serves better.
    pub fn weaknesses(&self) -> Vec<(String, Weakness)> {
        weak(&self.encryption, Encryption::weakness)
            .chain(weak(&self.integrity, Integrity::weakness))
            .chain(weak(&self.prf, Prf::weakness))
            .chain(weak(&self.groups, DhGroup::weakness))
            .chain(weak(&self.additional.methods().collect::<Vec<_>>(), DhGroup::weakness))
            .collect()
    }
}

impl EspProposal {
    /// The algorithms in it that should not be used any more, each with the reason and what serves better.
    pub fn weaknesses(&self) -> Vec<(String, Weakness)> {
        weak(&self.encryption, Encryption::weakness)
            .chain(weak(&self.integrity, Integrity::weakness))
            .chain(weak(&self.groups, DhGroup::weakness))
            .chain(weak(&self.additional.methods().collect::<Vec<_>>(), DhGroup::weakness))
            .collect()
    }
}

impl EspProposal {
    /// The groups of a rekey with perfect forward secrecy; empty for one without.
    pub fn groups(&self) -> &[DhGroup] {
        &self.groups
    }

    /// The same groups and kind of sequence numbers, with this cipher alone, which brings its integrity (an AEAD).
    pub fn with_aead(&self, cipher: Encryption) -> Self {
        Self { encryption: vec![cipher], integrity: Vec::new(), ..self.clone() }
    }

    /// Whether IKEv1 can say it, at least in part.
    pub fn in_v1(&self) -> bool {
        crate::v1::proposal::sayable(self)
    }

    /// Every pair of algorithms that a negotiation may end with.
    pub fn suites(&self) -> Vec<Suite> {
        let integrities: Vec<Option<Integrity>> = match self.integrity.as_slice() {
            [] => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        self.encryption
            .iter()
            .flat_map(|e| integrities.iter().filter_map(|i| Suite::new(*e, *i).ok()))
            .collect()
    }
}

fn join(f: &mut fmt::Formatter<'_>, names: impl IntoIterator<Item = &'static str>) -> fmt::Result {
    for (i, name) in names.into_iter().enumerate() {
        f.write_str(if i == 0 { "" } else { "-" })?;
        f.write_str(name)?;
    }
    Ok(())
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.encryption.iter().map(|e| e.name());
        let names = names.chain(self.integrity.iter().map(|i| i.name()));
        join(f, names.chain(self.prf.iter().map(|p| p.name())).chain(self.groups.iter().map(|g| g.name())))?;
        self.additional.fmt(f)
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.encryption.iter().map(|e| e.name());
        let names = names.chain(self.integrity.iter().map(|i| i.name()));
        join(f, names.chain(self.groups.iter().map(|g| g.name())))?;
        self.additional.fmt(f)?;
        self.esn.iter().try_for_each(|esn| f.write_str(if *esn { "-esn" } else { "-noesn" }))
    }
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}{}", self.protection, self.prf, self.group, self.additional)
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protection)?;
        if let Some(group) = self.group {
            write!(f, "-{group}{}", self.additional)?;
        }
        f.write_str(if self.esn { "-esn" } else { "" })
    }
}

macro_rules! debug_as_display {
    ($($t:ty),*) => {$(
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(IkeProposal, EspProposal, IkeSuite, EspSuite);

/// Several proposals as people write them, separated by commas.
pub(crate) fn list<T: fmt::Display>(proposals: &[T]) -> String {
    let names: Vec<String> = proposals.iter().map(T::to_string).collect();
    names.join(", ")
}
