//! What happened to each tunnel, for `culvert explain`: bounded, and kept over reloads.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_api::{Happening, Reason, What};
use culvert_ike::Failure;

/// Happenings kept of a tunnel.
const OF_A_TUNNEL: usize = 64;
/// Happenings kept of all those whom no tunnel could be told from.
const OF_STRANGERS: usize = 128;

/// The histories of all tunnels, by connection and name, and of strangers.
#[derive(Default)]
pub(crate) struct History {
    tunnels: BTreeMap<(String, String), VecDeque<Happening>>,
    /// With the address that it came from.
    strangers: VecDeque<(IpAddr, Happening)>,
}

impl History {
    /// Something happened to a tunnel.
    pub(crate) fn happened(&mut self, connection: &str, tunnel: &str, what: What, text: String) {
        let happening = happening(what, text, None);
        push(self.tunnels.entry((connection.to_owned(), tunnel.to_owned())).or_default(), happening);
    }

    /// An exchange of a tunnel failed.
    pub(crate) fn failed(&mut self, connection: &str, tunnel: &str, failure: &Failure) {
        let list = self.tunnels.entry((connection.to_owned(), tunnel.to_owned())).or_default();
        push(list, from_failure(failure));
    }

    /// Something failed before there was an exchange.
    pub(crate) fn refused(&mut self, connection: &str, tunnel: &str, reason: Reason) {
        let list = self.tunnels.entry((connection.to_owned(), tunnel.to_owned())).or_default();
        let text = format!("{}: {}", reason.phase, reason.cause);
        push(list, happening(What::Failed, text, Some(reason)));
    }

    /// An exchange failed before it was known whose it was; `failure.name` is the peer's address.
    pub(crate) fn stranger_failed(&mut self, failure: &Failure) {
        let Ok(address) = failure.name.parse() else { return };
        let happening = from_failure(failure);
        let same = self.strangers.iter_mut().rev().find(|(a, _)| *a == address).map(|(_, last)| last);
        if same.is_some_and(|last| again(last, &happening)) {
            return;
        }
        if self.strangers.len() == OF_STRANGERS {
            self.strangers.pop_front();
        }
        self.strangers.push_back((address, happening));
    }

    /// What happened to a tunnel, oldest first.
    pub(crate) fn of(&self, connection: &str, tunnel: &str) -> Vec<Happening> {
        let list = self.tunnels.get(&(connection.to_owned(), tunnel.to_owned()));
        list.map(|list| list.iter().cloned().collect()).unwrap_or_default()
    }

    /// The clients of a tunnel that something happened to, also those that are gone.
    pub(crate) fn clients(&self, connection: &str, tunnel: &str) -> Vec<String> {
        let of = format!("{tunnel}#");
        let those = self.tunnels.keys().filter(|(c, t)| c == connection && t.starts_with(&of));
        those.map(|(_, t)| t.clone()).collect()
    }

    /// What failed from an address (`None`: from any), oldest first.
    pub(crate) fn strangers(&self, from: Option<IpAddr>) -> Vec<Happening> {
        let those = self.strangers.iter().filter(|(address, _)| from.is_none_or(|from| from == *address));
        those.map(|(_, happening)| happening.clone()).collect()
    }

    /// Forgets the tunnels that are no longer configured.
    pub(crate) fn keep(&mut self, configured: impl Fn(&str, &str) -> bool) {
        let of = |tunnel: &str| tunnel.split('#').next().unwrap_or_default().to_owned();
        self.tunnels.retain(|(connection, tunnel), _| configured(connection, &of(tunnel)));
    }
}

fn push(list: &mut VecDeque<Happening>, happening: Happening) {
    if list.back_mut().is_some_and(|last| again(last, &happening)) {
        return;
    }
    if list.len() == OF_A_TUNNEL {
        list.pop_front();
    }
    list.push_back(happening);
}

/// Counts the same thing happening again instead of keeping it twice.
fn again(last: &mut Happening, new: &Happening) -> bool {
    let same = last.what == new.what && last.text == new.text && last.failure == new.failure;
    if same {
        last.times += 1;
        last.last_ms = new.time_ms;
    }
    same
}

fn from_failure(failure: &Failure) -> Happening {
    let text = format!("{}: {}", failure.phase, failure.cause);
    let reason = Reason {
        phase: failure.phase.to_string(),
        cause: failure.cause.to_string(),
        fault: failure.blame.to_string(),
        ours: failure.offered_local.clone(),
        theirs: failure.offered_remote.clone(),
        mend: failure.mend.clone(),
        rule: failure.rfc.to_owned(),
    };
    happening(What::Failed, text, Some(reason))
}

fn happening(what: What, text: String, failure: Option<Reason>) -> Happening {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    Happening { time_ms: now, last_ms: now, times: 1, what, text, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_counted_and_the_oldest_go() {
        let mut history = History::default();
        for _ in 0..3 {
            history.happened("c", "t", What::Down, "the peer does not answer".into());
        }
        assert_eq!(history.of("c", "t").len(), 1);
        assert_eq!(history.of("c", "t")[0].times, 3);
        for n in 0..OF_A_TUNNEL {
            history.happened("c", "t", What::Moved, format!("to port {n}"));
        }
        let kept = history.of("c", "t");
        assert_eq!((kept.len(), kept[0].text.as_str()), (OF_A_TUNNEL, "to port 0"));
        assert!(history.of("c", "other").is_empty());
        history.keep(|_, tunnel| tunnel != "t");
        assert!(history.of("c", "t").is_empty());
    }
}
