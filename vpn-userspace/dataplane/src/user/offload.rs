//! Which offloads are used: those that may be, and that work on this kernel.

use culvert_sys::selftest::UdpOffloads;

use crate::OffloadSwitches;

/// Those of the wanted ones that pass the test, and what to tell the operator.
pub(crate) fn choose(wanted: OffloadSwitches) -> (OffloadSwitches, Vec<String>) {
    decide(wanted, UdpOffloads::test)
}

fn decide(wanted: OffloadSwitches, test: impl FnOnce() -> UdpOffloads) -> (OffloadSwitches, Vec<String>) {
    let (mut used, mut notes) = (wanted, Vec::new());
    let names = [("tso", wanted.tso), ("uso", wanted.uso), ("gso", wanted.gso), ("gro", wanted.gro)];
    let off: Vec<_> = names.iter().filter(|(_, on)| !on).map(|(name, _)| *name).collect();
    if !off.is_empty() {
        notes.push(format!("offload off by configuration: {}", off.join(", ")));
    }
    if !wanted.gso && !wanted.gro {
        return (used, notes);
    }
    let found = test();
    for (name, result, switch) in [
        ("gso (trains of datagrams to the WAN)", found.segmentation, &mut used.gso),
        ("gro (joined datagrams from the WAN)", found.receive, &mut used.gro),
    ] {
        if *switch && let Err(reason) = result {
            tracing::warn!(reason, "offload {name} fails its self-test and is off");
            notes.push(format!("offload {name} is off: it fails its self-test over loopback: {reason}"));
            *switch = false;
        }
    }
    if used == wanted {
        notes.push("offloads of UDP pass their self-test over loopback".to_owned());
    }
    (used, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_off_and_said() {
        let all = OffloadSwitches::default();
        let works = || UdpOffloads { segmentation: Ok(()), receive: Ok(()) };
        let (used, notes) = decide(all, works);
        assert_eq!((used, notes.len()), (all, 1));
        assert!(notes[0].contains("pass"));
        let (used, notes) =
            decide(all, || UdpOffloads { segmentation: Err("other bytes".to_owned()), receive: Ok(()) });
        assert_eq!(used, OffloadSwitches { gso: false, ..all });
        assert!(notes[0].contains("gso") && notes[0].ends_with("other bytes"), "{notes:?}");
        let none = OffloadSwitches { gso: false, gro: false, ..all };
        let (used, notes) = decide(none, || unreachable!("nothing to test"));
        assert_eq!((used, notes), (none, vec!["offload off by configuration: gso, gro".to_owned()]));
    }
}
