//! Narrowing of traffic selectors (RFC 7296 2.9).

use culvert_types::TrafficSelector;

/// More selectors than this in an answer would only be a peer's attempt to make work.
const MAX: usize = 255;

/// What both lists allow, without repetition: the responder's answer.
pub(crate) fn narrow(offered: &[TrafficSelector], ours: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut out: Vec<TrafficSelector> = Vec::new();
    for both in offered.iter().flat_map(|o| ours.iter().filter_map(|own| own.intersect(o))) {
        if out.iter().any(|have| both.is_subset_of(have)) {
            continue;
        }
        out.retain(|have| !have.is_subset_of(&both));
        if out.len() == MAX {
            break;
        }
        out.push(both);
    }
    out
}

/// Whether an answer is a part of what was offered, and not empty: what the initiator checks.
pub(crate) fn is_part_of(answer: &[TrafficSelector], offered: &[TrafficSelector]) -> bool {
    !answer.is_empty() && answer.iter().all(|a| offered.iter().any(|o| a.is_subset_of(o)))
}

/// Selectors for people.
pub(crate) fn describe(selectors: &[TrafficSelector]) -> String {
    let mut all: Vec<String> = selectors.iter().take(8).map(ToString::to_string).collect();
    if selectors.len() > 8 {
        all.push(format!("and {} more", selectors.len() - 8));
    }
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(nets: &[&str]) -> Vec<TrafficSelector> {
        nets.iter().map(|n| TrafficSelector::from_net(n.parse().unwrap())).collect()
    }

    #[test]
    fn narrowing() {
        let cases: [(&[&str], &[&str], &str); 6] = [
            (&["10.0.0.0/8"], &["10.1.0.0/16", "10.2.0.0/16"], "10.1.0.0/16 10.2.0.0/16"),
            // A packet's own selector first, then the whole (RFC 7296 2.9): no repetition.
            (&["10.1.0.5/32", "10.1.0.0/16"], &["10.0.0.0/8"], "10.1.0.0/16"),
            (&["10.1.0.0/16", "10.1.0.5/32"], &["10.0.0.0/8"], "10.1.0.0/16"),
            (&["10.1.0.0/16"], &["10.2.0.0/16"], ""),
            (&["0.0.0.0/0", "::/0"], &["2001:db8::/32"], "2001:db8::/32"),
            (&[], &["10.0.0.0/8"], ""),
        ];
        for (offered, ours, want) in cases {
            let (offered, ours) = (list(offered), list(ours));
            let got = narrow(&offered, &ours);
            assert_eq!(describe(&got), want);
            assert_eq!(is_part_of(&got, &offered), !want.is_empty());
        }
        assert!(!is_part_of(&list(&["10.0.0.0/8"]), &list(&["10.0.0.0/9", "10.128.0.0/9"])));
    }
}
