//! Key exchanges beside the first one (RFC 9370): what a proposal names for each of the seven, and what was chosen.

use std::fmt;

use culvert_crypto::DhGroup;

/// As many additional key exchanges as there are transform types for them.
const COUNT: usize = 7;

/// The additional key exchanges that were chosen, in their order (RFC 9370 2.2.2). None in most suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Additional([Option<DhGroup>; COUNT]);

impl Additional {
    /// The methods, in the order in which they run.
    pub fn methods(self) -> impl Iterator<Item = DhGroup> {
        self.0.into_iter().flatten()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Notes the method of the additional key exchange `number`, 1 to 7.
    pub(crate) fn set(&mut self, number: u8, method: DhGroup) {
        if let Some(slot) = self.0.get_mut(usize::from(number).wrapping_sub(1)) {
            *slot = Some(method);
        }
    }
}

/// As in strongSwan's notation, behind the other algorithms: `-ke1_mlkem768`.
impl fmt::Display for Additional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.0.iter().zip(1..).filter_map(|(method, number)| Some((number, (*method)?)));
        set.into_iter().try_for_each(|(number, method): (u8, _)| write!(f, "-ke{number}_{method}"))
    }
}

/// What a proposal names for each additional key exchange, first preferred; `None` among them: it may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Choices([Vec<Option<DhGroup>>; COUNT]);

impl Choices {
    /// Adds a method to the additional key exchange `number`; `false`: it stands there already.
    pub(super) fn add(&mut self, number: u8, method: Option<DhGroup>) -> bool {
        let Some(list) = self.0.get_mut(usize::from(number).wrapping_sub(1)) else { return false };
        let new = !list.contains(&method);
        list.push(method);
        new
    }

    /// Each additional key exchange with what is named for it, none left out.
    pub(super) fn all(&self) -> impl Iterator<Item = (u8, &[Option<DhGroup>])> {
        (1..).zip(self.0.iter().map(Vec::as_slice))
    }

    /// Every method that is named.
    pub(crate) fn methods(&self) -> impl Iterator<Item = DhGroup> {
        self.0.iter().flatten().copied().flatten()
    }

    /// Whether a negotiation may end without any.
    pub(crate) fn dispensable(&self) -> bool {
        self.0.iter().all(|list| list.is_empty() || list.contains(&None))
    }

    /// Whether there are some that may be left out.
    pub(super) fn may_be_plain(&self) -> bool {
        self.dispensable() && self.methods().next().is_some()
    }

    /// Whether a negotiation may end with these.
    pub(super) fn allow(&self, chosen: Additional) -> bool {
        self.0
            .iter()
            .zip(chosen.0)
            .all(|(list, chosen)| list.contains(&chosen) || (list.is_empty() && chosen.is_none()))
    }

    /// The first method that no choice can avoid taking twice (RFC 9370 2.2.2 forbids that), `first` being the one of
    /// the first key exchange.
    pub(super) fn twice(&self, first: &[DhGroup]) -> Option<(u8, DhGroup)> {
        let mut taken: Vec<DhGroup> = Vec::new();
        if let [only] = first {
            taken.push(*only);
        }
        for (number, list) in self.all() {
            if let [Some(only)] = list {
                if taken.contains(only) {
                    return Some((number, *only));
                }
                taken.push(*only);
            }
        }
        None
    }
}

impl fmt::Display for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, list) in self.all() {
            for method in list {
                match method {
                    Some(method) => write!(f, "-ke{number}_{method}")?,
                    None => write!(f, "-ke{number}_none")?,
                }
            }
        }
        Ok(())
    }
}

/// Reads `ke1_mlkem768` or `ke2_none`: the number, and the method if it names one of ours.
pub(super) fn keyword(word: &str) -> Option<(u8, Option<DhGroup>)> {
    let (number, method) = word.strip_prefix("ke")?.split_once('_')?;
    let number = number.parse().ok().filter(|n| (1..=7).contains(n))?;
    if method == "none" {
        return Some((number, None));
    }
    let method = super::names::canonical(method);
    DhGroup::ALL.into_iter().find(|g| g.name() == method).map(|g| (number, Some(g)))
}
