//! Choosing among proposals (RFC 7296 2.7 and 3.3.6), and checking the peer's choice.

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf, Suite};

use super::{Additional, Choices, EspProposal, EspSuite, IkeProposal, IkeSuite};
use crate::wire::{Proposal, Transform, protocol, transform};

/// What we accept of one transform type, in order of preference. Empty: the type must be absent or NONE.
struct Wanted {
    kind: u8,
    transforms: Vec<Transform>,
}

impl Wanted {
    fn encryption(list: &[Encryption]) -> Self {
        let one = |e: &Encryption| Transform::new(transform::ENCRYPTION, e.iana(), e.key_length_attribute());
        Self { kind: transform::ENCRYPTION, transforms: list.iter().map(one).collect() }
    }

    fn prf(list: &[Prf]) -> Self {
        let one = |p: &Prf| Transform::new(transform::PRF, p.iana(), None);
        Self { kind: transform::PRF, transforms: list.iter().map(one).collect() }
    }

    fn integrity(list: &[Integrity]) -> Self {
        let one = |i: &Integrity| Transform::new(transform::INTEGRITY, i.iana(), None);
        Self { kind: transform::INTEGRITY, transforms: list.iter().map(one).collect() }
    }

    fn groups(list: &[DhGroup]) -> Self {
        let one = |g: &DhGroup| Transform::new(transform::DH, g.iana(), None);
        Self { kind: transform::DH, transforms: list.iter().map(one).collect() }
    }

    /// RFC 9370 2.2.1: a transform type for each of the additional key exchanges; `None` is NONE.
    fn additional(choices: &Choices) -> impl Iterator<Item = Self> {
        choices.all().map(|(number, list)| {
            let kind = transform::ADDITIONAL_1 + (number - 1);
            let one =
                |m: &Option<DhGroup>| Transform::new(kind, m.map_or(transform::NONE, DhGroup::iana), None);
            Self { kind, transforms: list.iter().map(one).collect() }
        })
    }

    /// Whether it names a key exchange, the first or an additional one.
    fn is_key_exchange(&self) -> bool {
        is_key_exchange(self.kind)
    }

    fn esn(list: &[bool]) -> Self {
        let one = |esn: &bool| Transform::new(transform::ESN, u16::from(*esn), None);
        Self { kind: transform::ESN, transforms: list.iter().map(one).collect() }
    }

    /// Our first transform of this type that the peer's proposal has too, and that is not `taken` as a key exchange
    /// already. `Some(None)`: none is needed.
    fn choose(&self, offer: &Proposal, taken: &[u16]) -> Option<Option<Transform>> {
        let mut theirs = offer.transforms.iter().filter(|t| t.kind == self.kind).peekable();
        let may_lack = self.kind != transform::DH && self.is_key_exchange();
        let without = may_lack && self.transforms.iter().any(|t| t.id == transform::NONE);
        if self.transforms.is_empty() || (without && theirs.peek().is_none()) {
            // RFC 7296 3.3.3: absent and a lone NONE say the same; answer with what was offered.
            return if theirs.peek().is_none() {
                Some(None)
            } else {
                theirs.find(|t| t.id == transform::NONE && !t.strange).map(|t| Some(*t))
            };
        }
        let theirs: Vec<&Transform> = theirs.collect();
        let free =
            |t: &&Transform| !(self.is_key_exchange() && t.id != transform::NONE && taken.contains(&t.id));
        self.transforms.iter().filter(free).find(|t| theirs.contains(t)).map(|t| Some(*t))
    }
}

fn is_key_exchange(kind: u8) -> bool {
    kind == transform::DH || (transform::ADDITIONAL_1..=transform::ADDITIONAL_7).contains(&kind)
}

fn wanted_of_ike(p: &IkeProposal) -> Vec<Wanted> {
    let mut wanted = vec![
        Wanted::encryption(&p.encryption),
        Wanted::integrity(&p.integrity),
        Wanted::prf(&p.prf),
        Wanted::groups(&p.groups),
    ];
    wanted.extend(Wanted::additional(&p.additional));
    wanted
}

fn wanted_of_esp(p: &EspProposal, esn: bool, with_group: bool) -> Vec<Wanted> {
    let groups: &[DhGroup] = if with_group { &p.groups } else { &[] };
    let none = Choices::default();
    let mut wanted = vec![
        Wanted::encryption(&p.encryption),
        Wanted::integrity(&p.integrity),
        Wanted::groups(groups),
        Wanted::esn(&esn_of(p, esn)),
    ];
    wanted.extend(Wanted::additional(if with_group { &p.additional } else { &none }));
    wanted
}

fn esn_of(p: &EspProposal, esn: bool) -> Vec<bool> {
    match (p.esn.as_slice(), esn) {
        ([], true) => vec![true, false],
        ([], false) => vec![false],
        (own, _) => own.to_vec(),
    }
}

fn offer_of(wanted: Vec<Wanted>, number: usize, protocol: u8, spi: &[u8]) -> Proposal {
    let transforms = wanted.into_iter().flat_map(|w| w.transforms).collect();
    // A configuration has few proposals; 255 is what the wire can count.
    let number = u8::try_from(number + 1).unwrap_or(u8::MAX);
    Proposal { number, protocol, spi: spi.to_vec(), transforms }
}

/// Our offer for an IKE SA. `spi` is empty in IKE_SA_INIT and our new SPI when rekeying (RFC 7296 3.3.1).
pub(crate) fn offer_ike(ours: &[IkeProposal], spi: &[u8]) -> Vec<Proposal> {
    let plain = |p: &IkeProposal| {
        p.additional.may_be_plain().then(|| IkeProposal { additional: Choices::default(), ..p.clone() })
    };
    let all = ours.iter().flat_map(|p| std::iter::once(p.clone()).chain(plain(p)));
    all.enumerate().map(|(i, p)| offer_of(wanted_of_ike(&p), i, protocol::IKE, spi)).collect()
}

/// Our offer for a CHILD SA. In IKE_AUTH no group is offered (RFC 7296 1.2).
pub(crate) fn offer_esp(ours: &[EspProposal], esn: bool, with_group: bool, spi: &[u8]) -> Vec<Proposal> {
    let plain = |p: &EspProposal| {
        let twice = with_group && p.additional.may_be_plain();
        twice.then(|| EspProposal { additional: Choices::default(), ..p.clone() })
    };
    let all = ours.iter().flat_map(|p| std::iter::once(p.clone()).chain(plain(p)));
    all.enumerate()
        .map(|(i, p)| offer_of(wanted_of_esp(&p, esn, with_group), i, protocol::ESP, spi))
        .collect()
}

/// A choice: the suite, and the proposal that answers with it (its SPI still the offer's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen<S> {
    pub(crate) suite: S,
    pub(crate) answer: Proposal,
}

fn choose_one(wanted: &[Wanted], offer: &Proposal) -> Option<Vec<Transform>> {
    // RFC 7296 3.3.6: a proposal with a transform type that we do not know is not ours to accept.
    let known = |t: &Transform| wanted.iter().any(|w| w.kind == t.kind) || is_absent_esn(t, wanted);
    if !offer.transforms.iter().all(known) {
        return None;
    }
    let mut chosen: Vec<Transform> = Vec::with_capacity(wanted.len());
    // RFC 9370 2.2.2: no method runs twice in one negotiation.
    let mut taken: Vec<u16> = Vec::new();
    for w in wanted {
        match w.choose(offer, &taken) {
            Some(transform) => {
                taken.extend(transform.filter(|t| is_key_exchange(t.kind)).map(|t| t.id));
                chosen.extend(transform);
            }
            // RFC 7296 3.3.2: ESN must be there; old peers leave it out and mean 32-bit numbers.
            None if w.kind == transform::ESN => {
                let absent = !offer.transforms.iter().any(|t| t.kind == transform::ESN);
                if !(absent && w.transforms.iter().any(|t| t.id == 0)) {
                    return None;
                }
            }
            None => return None,
        }
    }
    Some(chosen)
}

/// A PRF or ESN transform that says "none" in a proposal that has no use for it.
fn is_absent_esn(t: &Transform, wanted: &[Wanted]) -> bool {
    t.kind == transform::ESN && t.id == 0 && wanted.iter().all(|w| w.kind != transform::ESN)
}

fn choose<'p, P, S>(
    ours: &'p [P],
    offers: &[Proposal],
    usable: impl Fn(&Proposal) -> bool,
    wanted: impl Fn(&'p P) -> Vec<Wanted>,
    suite: impl Fn(&[Transform]) -> Option<S>,
) -> Option<Chosen<S>> {
    // The responder's preference decides (RFC 7296 2.7 leaves it to the responder).
    ours.iter().find_map(|own| {
        let wanted = wanted(own);
        offers.iter().filter(|o| usable(o)).find_map(|offer| {
            let transforms = choose_one(&wanted, offer)?;
            let suite = suite(&transforms)?;
            Some(Chosen { suite, answer: Proposal { transforms, ..offer.clone() } })
        })
    })
}

/// An offer without its additional key exchanges, for a peer that does not say that it has IKE_INTERMEDIATE
/// (RFC 9370 2.2.1): what insists on them is left out.
pub(crate) fn without_additional(offers: &[Proposal]) -> Vec<Proposal> {
    let additional = |t: &Transform| t.kind != transform::DH && is_key_exchange(t.kind);
    let may_lack =
        |offer: &Proposal, kind| offer.transforms.iter().any(|t| t.kind == kind && t.id == transform::NONE);
    let usable = |o: &&Proposal| o.transforms.iter().all(|t| !additional(t) || may_lack(o, t.kind));
    let mut offers: Vec<Proposal> = offers.iter().filter(usable).cloned().collect();
    offers.iter_mut().for_each(|o| o.transforms.retain(|t| !additional(t) || t.id == transform::NONE));
    offers
}

/// Picks from the peer's offer for an IKE SA, by our preference.
pub(crate) fn choose_ike(
    ours: &[IkeProposal],
    offers: &[Proposal],
    spi_len: usize,
) -> Option<Chosen<IkeSuite>> {
    let usable = |o: &Proposal| o.protocol == protocol::IKE && o.spi.len() == spi_len;
    choose(ours, offers, usable, wanted_of_ike, ike_suite)
}

/// Picks from the peer's offer for a CHILD SA, by our preference. In IKE_AUTH groups in the offer are
/// overlooked, as nothing carries a key there.
pub(crate) fn choose_esp(
    ours: &[EspProposal],
    esn: bool,
    with_group: bool,
    offers: &[Proposal],
) -> Option<Chosen<EspSuite>> {
    let usable = |o: &Proposal| o.protocol == protocol::ESP && o.spi.len() == 4;
    let wanted = |p| wanted_of_esp(p, esn, with_group);
    if with_group {
        return choose(ours, offers, usable, wanted, esp_suite);
    }
    let mut offers = offers.to_vec();
    for offer in &mut offers {
        offer.transforms.retain(|t| !is_key_exchange(t.kind));
    }
    choose(ours, &offers, usable, wanted, esp_suite)
}

/// The peer's answer to our offer: one proposal, one transform of each type, all of them offered
/// (RFC 7296 2.7, 3.3).
fn accepted(offered: &[Proposal], answer: &[Proposal]) -> Option<Vec<Transform>> {
    let [answer] = answer else { return None };
    let of = |kind| answer.transforms.iter().filter(move |t| t.kind == kind);
    let is_none = |t: &Transform| {
        t.id == transform::NONE
            && (matches!(t.kind, transform::INTEGRITY | transform::ESN) || is_key_exchange(t.kind))
    };
    offered.iter().find_map(|offer| {
        let same = offer.number == answer.number && offer.protocol == answer.protocol;
        let offered = |t: &Transform| {
            offer.transforms.contains(t) || (is_none(t) && !offer.transforms.iter().any(|o| o.kind == t.kind))
        };
        // An additional key exchange that may be left out need not be named to be so.
        let may_lack = |t: &Transform| {
            let none = Transform::new(t.kind, transform::NONE, None);
            t.kind == transform::ESN
                || (t.kind >= transform::ADDITIONAL_1 && offer.transforms.contains(&none))
        };
        let complete = offer
            .transforms
            .iter()
            .all(|t| of(t.kind).count() == 1 || (may_lack(t) && of(t.kind).count() == 0));
        let once = |t: &Transform| {
            let same = |o: &&Transform| is_key_exchange(o.kind) && o.id == t.id;
            t.id == transform::NONE
                || !is_key_exchange(t.kind)
                || answer.transforms.iter().filter(same).count() == 1
        };
        (same && answer.transforms.iter().all(|t| offered(t) && once(t)) && complete)
            .then(|| answer.transforms.clone())
    })
}

/// Checks the peer's choice from our offer for an IKE SA.
pub(crate) fn accept_ike(offered: &[Proposal], answer: &[Proposal]) -> Option<IkeSuite> {
    ike_suite(&accepted(offered, answer)?)
}

/// Checks the peer's choice from our offer for a CHILD SA.
pub(crate) fn accept_esp(offered: &[Proposal], answer: &[Proposal]) -> Option<EspSuite> {
    esp_suite(&accepted(offered, answer)?)
}

fn find(transforms: &[Transform], kind: u8) -> Option<&Transform> {
    transforms.iter().find(|t| t.kind == kind && (kind == transform::ESN || t.id != transform::NONE))
}

fn protection(transforms: &[Transform]) -> Option<Suite> {
    let e = find(transforms, transform::ENCRYPTION)?;
    let encryption = Encryption::from_iana(e.id, e.key_bits)?;
    let integrity = match find(transforms, transform::INTEGRITY) {
        Some(t) => Some(Integrity::from_iana(t.id)?),
        None => None,
    };
    Suite::new(encryption, integrity).ok()
}

/// The additional key exchanges among the transforms; `None` for a method that is not ours.
fn additional(transforms: &[Transform]) -> Option<Additional> {
    let mut chosen = Additional::default();
    let additional = |t: &&Transform| t.kind >= transform::ADDITIONAL_1 && t.id != transform::NONE;
    for t in transforms.iter().filter(additional) {
        chosen.set(t.kind - transform::ADDITIONAL_1 + 1, DhGroup::from_iana(t.id)?);
    }
    Some(chosen)
}

fn ike_suite(transforms: &[Transform]) -> Option<IkeSuite> {
    let prf = Prf::from_iana(find(transforms, transform::PRF)?.id)?;
    let group = DhGroup::from_iana(find(transforms, transform::DH)?.id)?;
    let additional = additional(transforms)?;
    Some(IkeSuite { protection: protection(transforms)?, prf, group, additional })
}

fn esp_suite(transforms: &[Transform]) -> Option<EspSuite> {
    let group = match find(transforms, transform::DH) {
        Some(t) => Some(DhGroup::from_iana(t.id)?),
        None => None,
    };
    let esn = find(transforms, transform::ESN).is_some_and(|t| t.id == 1);
    let additional = additional(transforms)?;
    Some(EspSuite { protection: protection(transforms)?, group, additional, esn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(list: &[&str]) -> Vec<IkeProposal> {
        list.iter().map(|p| p.parse().unwrap()).collect()
    }

    fn esp(list: &[&str]) -> Vec<EspProposal> {
        list.iter().map(|p| p.parse().unwrap()).collect()
    }

    #[test]
    fn the_responders_preference_decides() {
        let cases: [(&[&str], &[&str], Option<&str>); 5] = [
            (
                &["aes128gcm16-prfsha256-ecp256"],
                &["aes128gcm16-prfsha256-ecp256"],
                Some("aes128gcm16-prfsha256-ecp256"),
            ),
            (
                &["aes256-aes128-sha256-sha1-modp2048-ecp256"],
                &["aes128-sha1-modp2048", "aes256-aes128-sha256-ecp256"],
                // Between two that one of ours accepts, the peer's order counts.
                Some("aes128-sha1-prfsha1-modp2048"),
            ),
            (
                &["aes128gcm16-prfsha256-ecp256", "aes128-sha256-modp2048"],
                &["aes128-sha256-modp2048", "aes128gcm16-prfsha256-ecp256"],
                Some("aes128gcm16-prfsha256-ecp256"),
            ),
            (&["aes128gcm16-prfsha256-ecp256"], &["aes128gcm16-prfsha384-ecp256"], None),
            (&["aes128-sha256-ecp256"], &["aes128gcm16-prfsha256-ecp256"], None),
        ];
        for (ours, theirs, want) in cases {
            let offer = offer_ike(&ike(theirs), &[]);
            let got = choose_ike(&ike(ours), &offer, 0);
            assert_eq!(got.as_ref().map(|c| c.suite.to_string()).as_deref(), want, "{ours:?} {theirs:?}");
            if let Some(chosen) = got {
                assert_eq!(accept_ike(&offer, &[chosen.answer]), Some(chosen.suite));
            }
        }
    }

    #[test]
    fn esp_groups_and_sequence_numbers() {
        type Case = (&'static str, bool, &'static str, bool, bool, Option<&'static str>);
        let cases: [Case; 8] = [
            ("aes128gcm16", true, "aes128gcm16", true, false, Some("aes128gcm16-esn")),
            ("aes128gcm16", true, "aes128gcm16", false, false, Some("aes128gcm16")),
            ("aes128gcm16-noesn", true, "aes128gcm16", true, false, Some("aes128gcm16")),
            ("aes128gcm16-esn", true, "aes128gcm16", false, false, None),
            ("aes128gcm16-ecp256", false, "aes128gcm16-ecp256", false, true, Some("aes128gcm16-ecp256")),
            ("aes128gcm16-ecp256", false, "aes128gcm16-ecp256", false, false, Some("aes128gcm16")),
            ("aes128gcm16-ecp256", false, "aes128gcm16", false, true, None),
            ("aes128gcm16", false, "aes128gcm16-ecp256", false, true, None),
        ];
        for (ours, our_esn, theirs, their_esn, group, want) in cases {
            let offer = offer_esp(&esp(&[theirs]), their_esn, group, &[1, 2, 3, 4]);
            let got = choose_esp(&esp(&[ours]), our_esn, group, &offer);
            assert_eq!(got.as_ref().map(|c| c.suite.to_string()).as_deref(), want, "{ours} {theirs}");
            if let Some(chosen) = got {
                assert_eq!(accept_esp(&offer, &[chosen.answer]), Some(chosen.suite));
            }
        }
    }

    #[test]
    fn none_and_strange_transforms() {
        let ours = esp(&["aes128gcm16"]);
        let mut offer = offer_esp(&ours, false, true, &[1, 2, 3, 4]);
        offer[0].transforms.push(Transform::new(transform::INTEGRITY, 0, None));
        offer[0].transforms.push(Transform::new(transform::DH, 0, None));
        let chosen = choose_esp(&ours, false, true, &offer).unwrap();
        assert_eq!(chosen.suite.to_string(), "aes128gcm16");
        // RFC 7296 3.3.3: one transform of each type that was offered.
        assert_eq!(chosen.answer.transforms.len(), 4);
        let mut unknown = offer.clone();
        unknown[0].transforms.push(Transform::new(13, 35, None));
        assert_eq!(choose_esp(&ours, false, true, &unknown), None);
        let mut strange = offer.clone();
        strange[0].transforms[0].strange = true;
        assert_eq!(choose_esp(&ours, false, true, &strange), None);
        let mut old = offer.clone();
        old[0].transforms.retain(|t| t.kind != transform::ESN);
        assert!(!choose_esp(&ours, true, true, &old).unwrap().suite.esn);
    }

    /// RFC 9370 2.2.2: each additional key exchange by our preference, none twice, absent where both can do without.
    #[test]
    fn additional_key_exchanges_are_chosen() {
        let both = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768-ke1_none";
        let hybrid = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768";
        let plain = "aes256gcm16-prfsha384-curve25519";
        let three =
            "aes256gcm16-prfsha384-curve25519-ke1_mlkem1024-ke1_mlkem768-ke2_mlkem1024-ke2_ecp384-ke7_none";
        let cases: [(&[&str], &[&str], Option<&str>); 10] = [
            (&[hybrid], &[hybrid], Some(hybrid)),
            (&[hybrid], &[plain], None),
            (&[plain], &[hybrid], None),
            (&[hybrid, plain], &[plain, hybrid], Some(hybrid)),
            (&[hybrid, plain], &[plain], Some(plain)),
            (&[both], &[plain], Some(plain)),
            (&[plain], &[both], Some(plain)),
            (&[both], &[both], Some(hybrid)),
            (&[both], &[three], None),
            (&[three], &[three], Some("aes256gcm16-prfsha384-curve25519-ke1_mlkem1024-ke2_ecp384")),
        ];
        for (ours, theirs, want) in cases {
            let offer = offer_ike(&ike(theirs), &[]);
            let got = choose_ike(&ike(ours), &offer, 0);
            assert_eq!(got.as_ref().map(|c| c.suite.to_string()).as_deref(), want, "{ours:?} {theirs:?}");
            if let Some(chosen) = got {
                assert_eq!(accept_ike(&offer, &[chosen.answer]), Some(chosen.suite));
                assert!(ike(ours).iter().any(|p| p.allows(&chosen.suite)));
            }
        }
        let of = |list: &[&str]| offer_ike(&ike(list), &[]);
        let left = without_additional(&of(&[hybrid, both, plain]));
        // What may be left out is offered without as well, to peers that know no such transform (RFC 7296 3.3.6).
        assert_eq!(left.iter().map(|p| p.number).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(left[1].transforms.iter().all(|t| t.kind < transform::ADDITIONAL_1));
        assert_eq!(choose_ike(&ike(&[both]), &left, 0).unwrap().suite.to_string(), plain);
        assert_eq!(choose_ike(&ike(&[hybrid]), &left, 0), None);
        // The peer takes a method twice.
        let offer = of(&["aes256gcm16-prfsha384-curve25519-mlkem768-ke1_curve25519-ke1_mlkem768"]);
        let mut answer = choose_ike(&ike(&[hybrid]), &offer, 0).unwrap().answer;
        assert!(accept_ike(&offer, std::slice::from_ref(&answer)).is_some());
        answer.transforms.iter_mut().filter(|t| t.kind == transform::ADDITIONAL_1).for_each(|t| t.id = 31);
        assert_eq!(accept_ike(&offer, &[answer]), None);
        // In IKE_AUTH nothing carries a key, in CREATE_CHILD_SA all of them.
        let ours = esp(&["aes256gcm16-curve25519-ke1_mlkem768-noesn"]);
        for (with_group, want) in [(false, "aes256gcm16"), (true, "aes256gcm16-curve25519-ke1_mlkem768")] {
            let offer = offer_esp(&ours, true, with_group, &[1, 2, 3, 4]);
            let chosen = choose_esp(&ours, true, with_group, &offer).unwrap();
            assert_eq!(chosen.suite.to_string(), want);
            assert_eq!(accept_esp(&offer, &[chosen.answer]), Some(chosen.suite));
        }
    }

    #[test]
    fn a_choice_that_was_not_offered_is_refused() {
        let offer = offer_ike(&ike(&["aes256gcm16-prfsha384-ecp384", "aes128-sha256-modp2048"]), &[]);
        let good = choose_ike(&ike(&["aes128-sha256-modp2048"]), &offer, 0).unwrap().answer;
        assert!(accept_ike(&offer, std::slice::from_ref(&good)).is_some());
        let change = |f: &dyn Fn(&mut Proposal)| {
            let mut p = good.clone();
            f(&mut p);
            accept_ike(&offer, &[p])
        };
        assert_eq!(change(&|p| p.number = 1), None);
        assert_eq!(change(&|p| p.transforms[0].key_bits = Some(256)), None);
        assert_eq!(change(&|p| p.transforms.truncate(3)), None);
        assert_eq!(change(&|p| p.transforms.push(p.transforms[0])), None);
        assert_eq!(change(&|p| p.protocol = protocol::ESP), None);
        assert_eq!(accept_ike(&offer, &[good.clone(), good.clone()]), None);
        assert_eq!(accept_ike(&offer, &[]), None);
    }
}
