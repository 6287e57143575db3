//! Choosing among proposals (RFC 7296 2.7 and 3.3.6), and checking the peer's choice.

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf, Suite};

use super::{EspProposal, EspSuite, IkeProposal, IkeSuite};
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

    fn esn(list: &[bool]) -> Self {
        let one = |esn: &bool| Transform::new(transform::ESN, u16::from(*esn), None);
        Self { kind: transform::ESN, transforms: list.iter().map(one).collect() }
    }

    /// Our first transform of this type that the peer's proposal has too. `Some(None)`: none is needed.
    fn choose(&self, offer: &Proposal) -> Option<Option<Transform>> {
        let mut theirs = offer.transforms.iter().filter(|t| t.kind == self.kind).peekable();
        if self.transforms.is_empty() {
            // RFC 7296 3.3.3: absent and a lone NONE say the same; answer with what was offered.
            return if theirs.peek().is_none() {
                Some(None)
            } else {
                theirs.find(|t| t.id == transform::NONE && !t.strange).map(|t| Some(*t))
            };
        }
        let theirs: Vec<&Transform> = theirs.collect();
        self.transforms.iter().find(|t| theirs.contains(t)).map(|t| Some(*t))
    }
}

fn wanted_of_ike(p: &IkeProposal) -> Vec<Wanted> {
    vec![
        Wanted::encryption(&p.encryption),
        Wanted::integrity(&p.integrity),
        Wanted::prf(&p.prf),
        Wanted::groups(&p.groups),
    ]
}

fn wanted_of_esp(p: &EspProposal, esn: bool, with_group: bool) -> Vec<Wanted> {
    let groups: &[DhGroup] = if with_group { &p.groups } else { &[] };
    vec![
        Wanted::encryption(&p.encryption),
        Wanted::integrity(&p.integrity),
        Wanted::groups(groups),
        Wanted::esn(&esn_of(p, esn)),
    ]
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
    let one = |(i, p)| offer_of(wanted_of_ike(p), i, protocol::IKE, spi);
    ours.iter().enumerate().map(one).collect()
}

/// Our offer for a CHILD SA. In IKE_AUTH no group is offered (RFC 7296 1.2).
pub(crate) fn offer_esp(ours: &[EspProposal], esn: bool, with_group: bool, spi: &[u8]) -> Vec<Proposal> {
    let one = |(i, p)| offer_of(wanted_of_esp(p, esn, with_group), i, protocol::ESP, spi);
    ours.iter().enumerate().map(one).collect()
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
    let mut chosen = Vec::with_capacity(wanted.len());
    for w in wanted {
        match w.choose(offer) {
            Some(transform) => chosen.extend(transform),
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
        offer.transforms.retain(|t| t.kind != transform::DH);
    }
    choose(ours, &offers, usable, wanted, esp_suite)
}

/// The peer's answer to our offer: one proposal, one transform of each type, all of them offered
/// (RFC 7296 2.7, 3.3).
fn accepted(offered: &[Proposal], answer: &[Proposal]) -> Option<Vec<Transform>> {
    let [answer] = answer else { return None };
    let of = |kind| answer.transforms.iter().filter(move |t| t.kind == kind);
    let is_none = |t: &Transform| {
        t.id == transform::NONE && matches!(t.kind, transform::INTEGRITY | transform::DH | transform::ESN)
    };
    offered.iter().find_map(|offer| {
        let same = offer.number == answer.number && offer.protocol == answer.protocol;
        let offered = |t: &Transform| {
            offer.transforms.contains(t) || (is_none(t) && !offer.transforms.iter().any(|o| o.kind == t.kind))
        };
        let complete = offer
            .transforms
            .iter()
            .all(|t| of(t.kind).count() == 1 || (t.kind == transform::ESN && of(t.kind).count() == 0));
        (same && answer.transforms.iter().all(offered) && complete).then(|| answer.transforms.clone())
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

fn ike_suite(transforms: &[Transform]) -> Option<IkeSuite> {
    let prf = Prf::from_iana(find(transforms, transform::PRF)?.id)?;
    let group = DhGroup::from_iana(find(transforms, transform::DH)?.id)?;
    Some(IkeSuite { protection: protection(transforms)?, prf, group })
}

fn esp_suite(transforms: &[Transform]) -> Option<EspSuite> {
    let group = match find(transforms, transform::DH) {
        Some(t) => Some(DhGroup::from_iana(t.id)?),
        None => None,
    };
    let esn = find(transforms, transform::ESN).is_some_and(|t| t.id == 1);
    Some(EspSuite { protection: protection(transforms)?, group, esn })
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
        unknown[0].transforms.push(Transform::new(6, 35, None));
        assert_eq!(choose_esp(&ours, false, true, &unknown), None);
        let mut strange = offer.clone();
        strange[0].transforms[0].strange = true;
        assert_eq!(choose_esp(&ours, false, true, &strange), None);
        let mut old = offer.clone();
        old[0].transforms.retain(|t| t.kind != transform::ESN);
        assert!(!choose_esp(&ours, true, true, &old).unwrap().suite.esn);
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
