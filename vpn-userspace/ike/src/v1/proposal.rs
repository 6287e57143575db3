//! Proposals in IKEv1's terms (RFC 2409 appendix A, RFC 2407 4.5): every transform is a whole set of algorithms.

use std::time::Duration;

use culvert_crypto::{DhGroup, Encryption, Integrity, Prf, Suite};

use crate::proposal::Additional;
use crate::wire::v1::{Attribute, Proposal, Sa, Transform, protocol};
use crate::{EspProposal, EspSuite, IkeProposal, IkeSuite};

/// Attributes of phase 1.
mod one {
    pub(super) const ENCRYPTION: u16 = 1;
    pub(super) const HASH: u16 = 2;
    pub(super) const METHOD: u16 = 3;
    pub(super) const GROUP: u16 = 4;
    pub(super) const LIFE_TYPE: u16 = 11;
    pub(super) const LIFE_DURATION: u16 = 12;
    pub(super) const KEY_LENGTH: u16 = 14;
    pub(super) const KEY_IKE: u8 = 1;
}

/// Attributes of phase 2.
mod two {
    pub(super) const LIFE_TYPE: u16 = 1;
    pub(super) const LIFE_DURATION: u16 = 2;
    pub(super) const GROUP: u16 = 3;
    pub(super) const ENCAPSULATION: u16 = 4;
    pub(super) const INTEGRITY: u16 = 5;
    pub(super) const KEY_LENGTH: u16 = 6;
    /// RFC 4304 3.
    pub(super) const ESN: u16 = 11;
}

const SECONDS: u64 = 1;
/// What the wire can count.
const MAX_TRANSFORMS: usize = 255;

/// How ESP travels (RFC 2407 4.5, RFC 3947 5.1 and the drafts before it).
pub(crate) mod encapsulation {
    pub(crate) const TUNNEL: u16 = 1;
    pub(crate) const UDP_TUNNEL: u16 = 3;
    pub(crate) const UDP_TUNNEL_DRAFT: u16 = 61443;
}

/// Numbers of a kind: ours of IKEv2's registry, and IKEv1's.
type Map = [(u16, u16)];

fn there(map: &Map, v2: u16) -> Option<u16> {
    map.iter().find(|(a, _)| *a == v2).map(|(_, b)| *b)
}

fn back(map: &Map, v1: u64) -> Option<u16> {
    map.iter().find(|(_, b)| u64::from(*b) == v1).map(|(a, _)| *a)
}

/// Ciphers of phase 1: 3DES and AES, in CBC.
const CIPHERS_1: &Map = &[(3, 5), (12, 7)];
/// Hashes of phase 1, by the PRF built on them.
const HASHES: &Map = &[(1, 1), (2, 2), (5, 4), (6, 5), (7, 6)];
/// Hashes of phase 1, by the integrity algorithm built on them.
const HASHES_OF_INTEGRITY: &Map = &[(1, 1), (2, 2), (12, 4), (13, 5), (14, 6)];
/// Transforms of ESP: those of IKEv2 but for GMAC.
const CIPHERS_2: &Map = &[
    (3, 3),
    (11, 11),
    (12, 12),
    (13, 13),
    (14, 14),
    (15, 15),
    (16, 16),
    (18, 18),
    (19, 19),
    (20, 20),
    (21, 23),
];
/// Integrity algorithms of ESP.
const INTEGRITY_2: &Map = &[(1, 1), (2, 2), (5, 9), (12, 5), (13, 6), (14, 7)];

/// What an IKEv1 proposal is when it is read: everything that matters, and the transform as it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IkeChoice {
    pub(crate) suite: IkeSuite,
    /// The authentication method (RFC 2409 appendix A).
    pub(crate) method: u16,
    /// The lifetime that the proposal names, where it names one in seconds.
    pub(crate) lifetime: Option<Duration>,
    number: u8,
    transform: Transform<'static>,
}

impl IkeChoice {
    /// The SA payload that says so.
    pub(crate) fn answer(&self) -> Sa<'static> {
        let transforms = vec![self.transform.clone()];
        let number = self.number;
        Sa { proposals: vec![Proposal { number, protocol: protocol::ISAKMP, spi: Vec::new(), transforms }] }
    }
}

/// Every suite that a proposal allows in IKEv1: CBC ciphers with a hash that is PRF and integrity in one.
pub(crate) fn ike_suites(p: &IkeProposal) -> Vec<IkeSuite> {
    // It has one key exchange, and what was meant to be hybrid is not to be less.
    if !p.additional.dispensable() {
        return Vec::new();
    }
    let mut all = Vec::new();
    for e in p.encryption.iter().filter(|e| there(CIPHERS_1, e.iana()).is_some()) {
        for i in &p.integrity {
            let hash = there(HASHES_OF_INTEGRITY, i.iana());
            let prf = p.prf.iter().find(|prf| hash.is_some() && there(HASHES, prf.iana()) == hash);
            let (Some(prf), Ok(protection)) = (prf, Suite::new(*e, Some(*i))) else { continue };
            all.extend(p.groups.iter().map(|g| IkeSuite {
                protection,
                prf: *prf,
                group: *g,
                additional: Additional::default(),
            }));
        }
    }
    all
}

/// Every suite that a list of proposals allows, with this group or any.
fn suites(ours: &[IkeProposal], group: Option<DhGroup>) -> Vec<IkeSuite> {
    let all = ours.iter().flat_map(ike_suites);
    all.filter(|s| group.is_none_or(|g| g == s.group)).collect()
}

/// The first group that a tunnel's proposals allow: the only one that aggressive mode can offer.
pub(crate) fn first_group(ours: &[IkeProposal]) -> Option<DhGroup> {
    suites(ours, None).first().map(|s| s.group)
}

fn ike_transform(
    number: u8,
    suite: &IkeSuite,
    method: u16,
    lifetime: Duration,
) -> Option<Transform<'static>> {
    let encryption = suite.protection.encryption();
    let mut attributes = vec![
        Attribute::short(one::ENCRYPTION, there(CIPHERS_1, encryption.iana())?),
        Attribute::short(one::HASH, there(HASHES, suite.prf.iana())?),
        Attribute::short(one::METHOD, method),
        Attribute::short(one::GROUP, suite.group.iana()),
        Attribute::short(one::LIFE_TYPE, 1),
        Attribute::number(one::LIFE_DURATION, lifetime.as_secs()),
    ];
    attributes.extend(encryption.key_length_attribute().map(|bits| Attribute::short(one::KEY_LENGTH, bits)));
    Some(Transform { number, id: one::KEY_IKE, attributes })
}

/// Our offer of phase 1; with a group, only what uses it.
pub(crate) fn offer_ike(
    ours: &[IkeProposal],
    method: u16,
    lifetime: Duration,
    group: Option<DhGroup>,
) -> Sa<'static> {
    let suites = suites(ours, group);
    let numbered = (1..=u8::MAX).zip(&suites);
    let transforms = numbered.filter_map(|(n, s)| ike_transform(n, s, method, lifetime)).collect();
    let proposal = Proposal { number: 1, protocol: protocol::ISAKMP, spi: Vec::new(), transforms };
    Sa { proposals: vec![proposal] }
}

/// Reads a transform of phase 1; `None` for one that we do not serve, or that says what we do not know.
fn read_ike(number: u8, t: &Transform<'_>) -> Option<IkeChoice> {
    let known = [
        one::ENCRYPTION,
        one::HASH,
        one::METHOD,
        one::GROUP,
        one::LIFE_TYPE,
        one::LIFE_DURATION,
        one::KEY_LENGTH,
    ];
    if t.id != one::KEY_IKE || !t.attributes.iter().all(|a| known.contains(&a.kind)) {
        return None;
    }
    let bits = t.number(one::KEY_LENGTH).and_then(|b| u16::try_from(b).ok());
    let encryption = Encryption::from_iana(back(CIPHERS_1, t.number(one::ENCRYPTION)?)?, bits)?;
    let hash = t.number(one::HASH)?;
    let prf = Prf::from_iana(back(HASHES, hash)?)?;
    let integrity = Integrity::from_iana(back(HASHES_OF_INTEGRITY, hash)?)?;
    let group = DhGroup::from_iana(u16::try_from(t.number(one::GROUP)?).ok()?)?;
    let protection = Suite::new(encryption, Some(integrity)).ok()?;
    let method = u16::try_from(t.number(one::METHOD)?).ok()?;
    let lifetime = lifetime(t, one::LIFE_TYPE, one::LIFE_DURATION);
    let suite = IkeSuite { protection, prf, group, additional: Additional::default() };
    Some(IkeChoice { suite, method, lifetime, number, transform: t.clone().into_owned() })
}

/// The duration in seconds that a transform's pairs of life type and duration name.
fn lifetime(t: &Transform<'_>, kind: u16, duration: u16) -> Option<Duration> {
    read_lifetime(&t.attributes, kind, duration)
}

fn read_lifetime(attributes: &[Attribute<'_>], kind: u16, duration: u16) -> Option<Duration> {
    let mut unit = None;
    for a in attributes {
        if a.kind == kind {
            unit = a.as_number();
        } else if a.kind == duration && unit == Some(SECONDS) {
            // A peer that sets no limit of its own says 0 (strongSwan without `rekey_time`).
            return a.as_number().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        }
    }
    None
}

/// What a RESPONDER-LIFETIME notification of an ESP SA says, in seconds.
pub(crate) fn responder_lifetime(attributes: &[Attribute<'_>]) -> Option<Duration> {
    read_lifetime(attributes, two::LIFE_TYPE, two::LIFE_DURATION)
}

/// The data of such a notification.
pub(crate) fn lifetime_attributes(lifetime: Duration) -> [Attribute<'static>; 2] {
    [Attribute::short(two::LIFE_TYPE, 1), Attribute::number(two::LIFE_DURATION, lifetime.as_secs())]
}

fn ike_choices<'a>(sa: &'a Sa<'_>) -> impl Iterator<Item = IkeChoice> + 'a {
    // RFC 2408 4.2: an SPI in phase 1 is redundant and overlooked.
    let usable = sa.proposals.iter().filter(|p| p.protocol == protocol::ISAKMP);
    usable.flat_map(|p| p.transforms.iter().filter_map(|t| read_ike(p.number, t)))
}

/// Picks from the peer's offer of phase 1, by our preference, what one of `methods` allows.
pub(crate) fn choose_ike(ours: &[IkeProposal], methods: &[u16], sa: &Sa<'_>) -> Option<IkeChoice> {
    let theirs: Vec<IkeChoice> = ike_choices(sa).filter(|c| methods.contains(&c.method)).collect();
    suites(ours, None).iter().find_map(|s| theirs.iter().find(|c| c.suite == *s).cloned())
}

/// Checks the peer's choice from our offer of phase 1: one transform, as it was offered. A lifetime may differ.
pub(crate) fn accept_ike(offered: &Sa<'_>, answer: &Sa<'_>) -> Option<IkeChoice> {
    let chosen = sole(answer)?;
    let choice = read_ike(answer.proposals.first()?.number, chosen)?;
    let same = |c: IkeChoice| (c.suite, c.method) == (choice.suite, choice.method);
    ike_choices(offered).any(same).then_some(choice)
}

/// The only transform of the only proposal of an answer.
fn sole<'a, 'b>(answer: &'a Sa<'b>) -> Option<&'a Transform<'b>> {
    let [proposal] = answer.proposals.as_slice() else { return None };
    let [transform] = proposal.transforms.as_slice() else { return None };
    Some(transform)
}

/// A choice of phase 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EspChoice {
    pub(crate) suite: EspSuite,
    pub(crate) encapsulation: u16,
    pub(crate) lifetime: Option<Duration>,
    /// The peer's SPI.
    pub(crate) spi: [u8; 4],
    number: u8,
    transform: Transform<'static>,
}

impl EspChoice {
    /// The SA payload that says so, with our SPI.
    pub(crate) fn answer(&self, spi: [u8; 4]) -> Sa<'static> {
        let transforms = vec![self.transform.clone()];
        let proposal =
            Proposal { number: self.number, protocol: protocol::ESP, spi: spi.to_vec(), transforms };
        Sa { proposals: vec![proposal] }
    }
}

/// What a CHILD SA shall be like beside its algorithms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) group: Option<DhGroup>,
    pub(crate) encapsulation: u16,
    pub(crate) lifetime: Duration,
}

/// Every suite that a proposal allows in IKEv1, with and without extended sequence numbers as it says. Where it says
/// nothing they are not offered: old devices refuse a whole transform for an attribute that they do not know.
fn esp_suites(p: &EspProposal, group: Option<DhGroup>) -> Vec<EspSuite> {
    let esn: &[bool] = if p.esn.is_empty() { &[false] } else { &p.esn };
    let encodable = |s: &Suite| {
        there(CIPHERS_2, s.encryption().iana()).is_some()
            && s.integrity().is_none_or(|i| there(INTEGRITY_2, i.iana()).is_some())
    };
    let additional = Additional::default();
    let suites = p.suites().into_iter().filter(|s| p.additional.dispensable() && encodable(s));
    suites
        .flat_map(|protection| {
            esn.iter().map(move |esn| EspSuite { protection, group, additional, esn: *esn })
        })
        .collect()
}

/// Whether a proposal has a suite that IKEv1 can say.
pub(crate) fn sayable(p: &EspProposal) -> bool {
    !esp_suites(p, None).is_empty()
}

fn esp_transform(number: u8, suite: &EspSuite, terms: &Terms) -> Option<Transform<'static>> {
    let encryption = suite.protection.encryption();
    let mut attributes = vec![Attribute::short(two::ENCAPSULATION, terms.encapsulation)];
    attributes.extend(suite.group.map(|g| Attribute::short(two::GROUP, g.iana())));
    attributes.push(Attribute::short(two::LIFE_TYPE, 1));
    attributes.push(Attribute::number(two::LIFE_DURATION, terms.lifetime.as_secs()));
    if let Some(integrity) = suite.protection.integrity() {
        attributes.push(Attribute::short(two::INTEGRITY, there(INTEGRITY_2, integrity.iana())?));
    }
    attributes.extend(encryption.key_length_attribute().map(|bits| Attribute::short(two::KEY_LENGTH, bits)));
    if suite.esn {
        attributes.push(Attribute::short(two::ESN, 1));
    }
    let id = u8::try_from(there(CIPHERS_2, encryption.iana())?).ok()?;
    Some(Transform { number, id, attributes })
}

/// Our offer of a CHILD SA. All transforms have the one group of the exchange's key (RFC 2409 5.5).
pub(crate) fn offer_esp(ours: &[EspProposal], terms: &Terms, spi: [u8; 4]) -> Sa<'static> {
    let fits = |p: &&EspProposal| terms.group.map_or(p.groups.is_empty(), |g| p.groups.contains(&g));
    let suites = ours.iter().filter(fits).flat_map(|p| esp_suites(p, terms.group));
    // Transforms with different ciphers stand side by side, as every peer takes them.
    let numbered = (1..=u8::MAX).zip(suites).take(MAX_TRANSFORMS);
    let transforms = numbered.filter_map(|(n, s)| esp_transform(n, &s, terms)).collect();
    Sa { proposals: vec![Proposal { number: 1, protocol: protocol::ESP, spi: spi.to_vec(), transforms }] }
}

fn read_esp(number: u8, spi: [u8; 4], t: &Transform<'_>) -> Option<EspChoice> {
    let known = [
        two::LIFE_TYPE,
        two::LIFE_DURATION,
        two::GROUP,
        two::ENCAPSULATION,
        two::INTEGRITY,
        two::KEY_LENGTH,
        two::ESN,
    ];
    if !t.attributes.iter().all(|a| known.contains(&a.kind)) {
        return None;
    }
    let has = |kind| t.attributes.iter().any(|a| a.kind == kind);
    let bits = t.number(two::KEY_LENGTH).and_then(|b| u16::try_from(b).ok());
    let encryption = Encryption::from_iana(back(CIPHERS_2, t.id.into())?, bits)?;
    let integrity = match t.number(two::INTEGRITY) {
        // Some peers name an integrity algorithm beside an AEAD; it is none.
        Some(_) if encryption.is_aead() => None,
        Some(i) => Some(Integrity::from_iana(back(INTEGRITY_2, i)?)?),
        None if has(two::INTEGRITY) => return None,
        None => None,
    };
    let group = match t.number(two::GROUP) {
        Some(g) => Some(DhGroup::from_iana(u16::try_from(g).ok()?)?),
        None if has(two::GROUP) => return None,
        None => None,
    };
    let esn = match t.number(two::ESN) {
        Some(1) => true,
        Some(0) => false,
        None if !has(two::ESN) => false,
        _ => return None,
    };
    // RFC 2407 4.5: without the attribute the mode is up to the host: tunnel mode.
    let encapsulation = t.number(two::ENCAPSULATION).unwrap_or(encapsulation::TUNNEL.into());
    Some(EspChoice {
        suite: EspSuite {
            protection: Suite::new(encryption, integrity).ok()?,
            group,
            additional: Additional::default(),
            esn,
        },
        encapsulation: u16::try_from(encapsulation).ok()?,
        lifetime: lifetime(t, two::LIFE_TYPE, two::LIFE_DURATION),
        spi,
        number,
        transform: t.clone().into_owned(),
    })
}

fn esp_choices<'a>(sa: &'a Sa<'_>) -> impl Iterator<Item = EspChoice> + 'a {
    // RFC 2408 4.2: proposals of one number are to be taken together; we do not do AH or IPComp beside ESP.
    let alone = |p: &&Proposal<'_>| sa.proposals.iter().filter(|q| q.number == p.number).count() == 1;
    let esp = sa.proposals.iter().filter(|p| p.protocol == protocol::ESP).filter(alone);
    esp.filter_map(|p| <[u8; 4]>::try_from(p.spi.as_slice()).ok().map(|spi| (p, spi)))
        .flat_map(|(p, spi)| p.transforms.iter().filter_map(move |t| read_esp(p.number, spi, t)))
}

/// Picks from the peer's offer of a CHILD SA, by our preference. `with_key`: the group of the key that the peer sent
/// is told only by the transforms; without one no transform may name a group.
pub(crate) fn choose_esp(
    ours: &[EspProposal],
    encapsulations: &[u16],
    with_key: bool,
    sa: &Sa<'_>,
) -> Option<EspChoice> {
    let fits =
        |c: &EspChoice| encapsulations.contains(&c.encapsulation) && c.suite.group.is_some() == with_key;
    let theirs: Vec<EspChoice> = esp_choices(sa).filter(fits).collect();
    ours.iter().find_map(|own| {
        let groups: Vec<Option<DhGroup>> = match own.groups.as_slice() {
            [] => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        let suites = groups.into_iter().flat_map(|g| esp_suites(own, g));
        suites.into_iter().find_map(|s| theirs.iter().find(|c| c.suite == s).cloned())
    })
}

/// Checks the peer's choice from our offer of a CHILD SA.
pub(crate) fn accept_esp(offered: &Sa<'_>, answer: &Sa<'_>) -> Option<EspChoice> {
    sole(answer)?;
    let choice = esp_choices(answer).next()?;
    let same = |c: EspChoice| (c.suite, c.encapsulation) == (choice.suite, choice.encapsulation);
    esp_choices(offered).any(same).then_some(choice)
}

/// Our proposals for people, as far as IKEv1 can say them.
pub(crate) fn describe_ours(ours: &[IkeProposal]) -> String {
    let all: Vec<String> = suites(ours, None).iter().take(16).map(ToString::to_string).collect();
    all.join(", ")
}

/// A peer's transforms for people: by name where we serve them, by number where not. At most the first twelve.
pub(crate) fn describe(sa: &Sa<'_>) -> String {
    let transforms = sa.proposals.iter().flat_map(|p| p.transforms.iter().map(move |t| (p, t)));
    let one = |(p, t): (&Proposal<'_>, &Transform<'_>)| {
        let known = match p.protocol {
            protocol::ISAKMP => read_ike(p.number, t).map(|c| c.suite.to_string()),
            protocol::ESP => read_esp(p.number, [0; 4], t).map(|c| {
                let mode = if c.encapsulation == encapsulation::TUNNEL { "" } else { " in UDP" };
                format!("{}{mode}", c.suite)
            }),
            _ => None,
        };
        known.unwrap_or_else(|| {
            let all = t.attributes.iter().map(|a| match a.as_number() {
                Some(n) => format!("{}={n}", a.kind),
                None => format!("{}=?", a.kind),
            });
            let all: Vec<String> = all.take(12).collect();
            format!("transform {} of protocol {} ({})", t.id, p.protocol, all.join(" "))
        })
    };
    let count = transforms.clone().count();
    let mut all: Vec<String> = transforms.take(12).map(one).collect();
    if count > 12 {
        all.push(format!("and {} more", count - 12));
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(28_800);

    fn ike(list: &[&str]) -> Vec<IkeProposal> {
        list.iter().map(|p| p.parse().unwrap()).collect()
    }

    fn esp(list: &[&str]) -> Vec<EspProposal> {
        list.iter().map(|p| p.parse().unwrap()).collect()
    }

    #[test]
    fn phase_1_is_chosen_by_the_responders_preference() {
        let ours = ike(&["aes256-aes128-sha256-sha1-modp2048-ecp256"]);
        let theirs =
            ike(&["aes128gcm16-prfsha256-ecp256", "aes128-sha1-ecp256-modp2048", "aes128-sha256-modp2048"]);
        let offer = offer_ike(&theirs, 1, LIFE, None);
        // An AEAD cannot be said in IKEv1.
        assert_eq!(offer.proposals[0].transforms.len(), 3);
        let chosen = choose_ike(&ours, &[1], &offer).unwrap();
        assert_eq!(chosen.suite.to_string(), "aes128-sha256-prfsha256-modp2048");
        assert_eq!(chosen.lifetime, Some(LIFE));
        assert_eq!(accept_ike(&offer, &chosen.answer()), Some(chosen.clone()));
        assert_eq!(choose_ike(&ours, &[3], &offer), None);
        let other = offer_ike(&ike(&["aes256-sha512-modp2048"]), 1, LIFE, None);
        assert_eq!((choose_ike(&ours, &[1], &other), accept_ike(&other, &chosen.answer())), (None, None));
        let twice = Sa { proposals: [chosen.answer().proposals, chosen.answer().proposals].concat() };
        assert_eq!(accept_ike(&offer, &twice), None);
    }

    #[test]
    fn phase_2_agrees_on_group_mode_and_sequence_numbers() {
        let terms =
            |group, encapsulation| Terms { group, encapsulation, lifetime: Duration::from_secs(3600) };
        let modes = &[encapsulation::TUNNEL];
        let g = Some(DhGroup::Modp2048);
        type Case = (&'static str, &'static str, Option<DhGroup>, Option<&'static str>);
        let cases: [Case; 7] = [
            ("aes128-sha1", "aes128-sha1", None, Some("aes128-sha1")),
            ("aes128gcm16", "aes128gcm16", None, Some("aes128gcm16")),
            ("aes128-sha1-modp2048", "aes128-sha1-modp2048", g, Some("aes128-sha1-modp2048")),
            ("aes128-sha1", "aes128-sha1-modp2048", g, None),
            ("aes128-sha1-modp2048", "aes128-sha1", None, None),
            ("aes256-aes128-sha256-esn-noesn", "aes128-sha256-esn", None, Some("aes128-sha256-esn")),
            ("aes128-sha256", "aes128-sha256-esn", None, None),
        ];
        for (ours, theirs, group, want) in cases {
            let offer = offer_esp(&esp(&[theirs]), &terms(group, 1), [1, 2, 3, 4]);
            let got = choose_esp(&esp(&[ours]), modes, group.is_some(), &offer);
            assert_eq!(got.as_ref().map(|c| c.suite.to_string()).as_deref(), want, "{ours} {theirs}");
            if let Some(chosen) = got {
                assert_eq!(chosen.spi, [1, 2, 3, 4]);
                let accepted = accept_esp(&offer, &chosen.answer([5, 6, 7, 8])).unwrap();
                assert_eq!((accepted.suite, accepted.spi), (chosen.suite, [5, 6, 7, 8]));
            }
            assert_eq!(choose_esp(&esp(&[ours]), &[3], group.is_some(), &offer), None);
        }
        // Every suite that we have and IKEv1 can name reads back.
        for suite in Suite::all().filter(|s| there(CIPHERS_2, s.encryption().iana()).is_some()) {
            if suite.integrity().is_some_and(|i| there(INTEGRITY_2, i.iana()).is_none()) {
                continue;
            }
            let ours = esp(&[&suite.to_string()]);
            let offer = offer_esp(&ours, &terms(None, 3), [1, 2, 3, 4]);
            assert_eq!(
                choose_esp(&ours, &[3], false, &offer).map(|c| c.suite.protection),
                Some(suite),
                "{suite}"
            );
        }
    }

    #[test]
    fn lifetimes_in_kilobytes_and_seconds_are_told_apart() {
        let both = [
            Attribute::short(two::LIFE_TYPE, 2),
            Attribute::number(two::LIFE_DURATION, 4_608_000),
            Attribute::short(two::LIFE_TYPE, 1),
            Attribute::number(two::LIFE_DURATION, 3600),
        ];
        assert_eq!(responder_lifetime(&both), Some(Duration::from_secs(3600)));
        assert_eq!(responder_lifetime(&both[..2]), None);
        let none = [Attribute::short(two::LIFE_TYPE, 1), Attribute::number(two::LIFE_DURATION, 0)];
        assert_eq!(responder_lifetime(&none), None, "0 is no limit");
        let data = Attribute::encode_list(&lifetime_attributes(LIFE));
        assert_eq!(responder_lifetime(&Attribute::parse_list(&data).unwrap()), Some(LIFE));
    }

    #[test]
    fn what_nobody_knows_is_not_chosen_but_shown() {
        let mut offer = offer_ike(&ike(&["aes128-sha1-modp2048"]), 1, LIFE, None);
        offer.proposals[0].transforms[0].attributes.push(Attribute::short(99, 1));
        assert_eq!(choose_ike(&ike(&["aes128-sha1-modp2048"]), &[1], &offer), None);
        assert!(describe(&offer).contains("99=1"), "{}", describe(&offer));
        let fine = offer_ike(&ike(&["aes128-sha1-modp2048"]), 1, LIFE, None);
        assert_eq!(describe(&fine), "aes128-sha1-prfsha1-modp2048");
    }
}
