//! CHILD SAs beside the first of a tunnel: which are wanted, when a missing one is asked for, and why one is missing.
//!
//! What is wanted is compared with what is there, at every change of the tunnel and, while something is missing, once a
//! second. So rekeyed, deleted, authenticated anew or lost, it comes to the same: what is missing is asked for, less and
//! less often if it does not stay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use culvert_config::{Connection, PerCpu};
use culvert_ike::{Command, ExchangeOptions, Purpose};
use culvert_types::TunnelId;

use crate::daemon::{Child, Daemon};
use crate::plan;

/// The first pause before a missing one is asked for again; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST: Duration = Duration::from_secs(300);
/// One that stood for so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(60);
/// The side that answered the IKE SA leaves the other so much time to ask.
const OTHERS_TURN: Duration = Duration::from_secs(3);

type Key = (TunnelId, Purpose);

/// What was asked for, beside every tunnel's first.
#[derive(Default)]
pub(crate) struct Additional {
    asked: BTreeMap<Key, Asked>,
    /// Tunnels that lack something, or may.
    lacking: BTreeSet<TunnelId>,
}

#[derive(Default)]
struct Asked {
    times: u32,
    /// Not before.
    next: Option<Instant>,
    /// Asking again changes nothing while this IKE SA's peer is there.
    never: bool,
    /// Why it is missing.
    why: Option<String>,
}

impl Asked {
    fn pause(&self) -> Duration {
        let doubled = PAUSE.saturating_mul(1 << self.times.saturating_sub(1).min(16));
        doubled.min(LONGEST)
    }
}

impl Additional {
    /// Whether it may be asked for now; if so, it is counted as asked for.
    fn ask(&mut self, key: Key, now: Instant) -> bool {
        let asked = self.asked.entry(key).or_default();
        if asked.never || asked.next.is_some_and(|next| now < next) {
            return false;
        }
        asked.times = asked.times.saturating_add(1);
        asked.next = Some(now + asked.pause());
        true
    }

    /// The peer, or this host, does not make it.
    pub(crate) fn refused(&mut self, key: Key, never: bool, why: String) {
        self.lacking.insert(key.0);
        let asked = self.asked.entry(key).or_default();
        asked.never |= never;
        asked.why = Some(why);
    }

    /// It is there.
    pub(crate) fn came(&mut self, key: Key) {
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.why = None;
        }
    }

    /// It is gone, or the one that another took the place of.
    pub(crate) fn lost(&mut self, now: Instant, child: &Child) {
        if let Some(asked) = self.asked.get_mut(&(child.tunnel, child.purpose)) {
            if now.saturating_duration_since(child.since) >= STEADY {
                asked.times = 0;
                asked.next = None;
            } else {
                asked.next = Some(now + asked.pause());
            }
        }
    }

    /// A new IKE SA: what its peer takes has to be found out again.
    pub(crate) fn forget(&mut self, tunnel: TunnelId) {
        let first = (tunnel, Purpose::All);
        let of_it: Vec<Key> =
            self.asked.range(first..).map(|(key, _)| *key).take_while(|key| key.0 == tunnel).collect();
        of_it.iter().for_each(|key| drop(self.asked.remove(key)));
        self.lacking.insert(tunnel);
    }

    /// What is wanted of these may have changed.
    pub(crate) fn look_at(&mut self, tunnels: impl Iterator<Item = TunnelId>) {
        self.lacking.extend(tunnels);
    }

    /// Nothing more can come of asking, until the tunnel changes.
    fn is_refused(&self, key: Key) -> bool {
        self.asked.get(&key).is_some_and(|asked| asked.never)
    }
}

/// Whether it wants CHILD SAs beside the first.
fn wants(connection: &Connection) -> bool {
    connection.esp.per_cpu != PerCpu::No || connection.small.is_some()
}

impl Daemon {
    /// Which CHILD SAs a tunnel is to have beside its first.
    fn wanted_beside(&self, id: TunnelId, connection: &Connection) -> Vec<Purpose> {
        let workers = self.plane.workers();
        let resources = (0..connection.esp.per_cpu.wanted(workers)).map(Purpose::Resource);
        let small = connection.small.is_some().then_some(Purpose::Small);
        resources.chain(small).filter(|purpose| self.plane.serves(id, *purpose)).collect()
    }

    /// What the peer may ask for, into what the IKE core knows of it.
    pub(crate) fn take_additional(
        &self,
        id: TunnelId,
        connection: &Connection,
        options: &mut ExchangeOptions,
    ) {
        if self.plane.serves(id, Purpose::Resource(0)) {
            options.per_resource = connection.esp.per_cpu.taken();
        }
        if connection.small.is_some() && self.plane.serves(id, Purpose::Small) {
            options.small = plan::small_proposals(connection);
        }
    }

    /// Asks for what is wanted and missing, of all tunnels that lack something.
    pub(crate) fn ask_for_additional(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.additional.lacking) {
            self.look_for_additional(now, id);
        }
    }

    /// Asks for what a tunnel that has changed lacks; looks again every second while it lacks something.
    pub(crate) fn look_for_additional(&mut self, now: Instant, id: TunnelId) {
        if self.lacks(now, id) {
            self.additional.lacking.insert(id);
        } else {
            self.additional.lacking.remove(&id);
        }
    }

    /// Whether something is missing that may still come; it is asked for.
    fn lacks(&mut self, now: Instant, id: TunnelId) -> bool {
        let Some(tunnel) = self.tunnels.get(&id) else { return false };
        // Clients ask for themselves.
        let Some(ike) = tunnel.ike.as_ref().filter(|ike| ike.info.version == 2) else { return false };
        let Some(connection) = self.config.connection(&tunnel.connection) else { return false };
        if tunnel.client_of.is_some() || !wants(connection) {
            return false;
        }
        let first = self.children.of(id).filter(|(_, child)| child.purpose == Purpose::All);
        let Some(since) = first.map(|(_, child)| child.since).min() else { return false };
        if !ike.info.initiator && now.saturating_duration_since(since) < OTHERS_TURN {
            return true;
        }
        let mut missing = self.wanted_beside(id, connection);
        let there: BTreeSet<Purpose> = self.children.of(id).map(|(_, child)| child.purpose).collect();
        missing.retain(|purpose| !there.contains(purpose) && !self.additional.is_refused((id, *purpose)));
        for purpose in &missing {
            if self.additional.ask((id, *purpose), now)
                && let Err(error) = self.ike.handle_command(now, Command::AddResource(id, *purpose))
            {
                tracing::debug!("a CHILD SA for {purpose} of {id:?} cannot be asked for: {error}");
            }
        }
        !missing.is_empty()
    }

    /// Why CHILD SAs that are wanted are not there, a line for each reason.
    pub(crate) fn missing_children(&self, id: TunnelId) -> Vec<String> {
        let Some(tunnel) = self.tunnels.get(&id).filter(|t| t.ike.is_some() && t.client_of.is_none()) else {
            return Vec::new();
        };
        let Some(connection) = self.config.connection(&tunnel.connection) else { return Vec::new() };
        let per_cpu = connection.esp.per_cpu;
        let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if per_cpu != PerCpu::No && !self.plane.serves(id, Purpose::Resource(0)) {
            let line = format!("engine {} does not spread packets over several", tunnel.report.engine);
            lines.entry(line).or_default().push("per_cpu".to_owned());
        }
        for purpose in self.wanted_beside(id, connection) {
            if self.children.of(id).any(|(_, child)| child.purpose == purpose) {
                continue;
            }
            let asked = self.additional.asked.get(&(id, purpose));
            let why = match asked {
                Some(Asked { never: true, why: Some(why), .. }) => {
                    format!("{why}; the others carry its packets")
                }
                Some(Asked { why: Some(why), .. }) => format!("{why}; it is asked for again"),
                _ => "being asked for".to_owned(),
            };
            lines.entry(why).or_default().push(purpose.to_string());
        }
        lines.into_iter().map(|(why, which)| format!("{}: {why}", which.join(", "))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_stay_is_asked_for_less_and_less_often_and_what_is_refused_for_good_never() {
        let (mut additional, start) = (Additional::default(), Instant::now());
        let key = (TunnelId(1), Purpose::Resource(0));
        let mut asked = Vec::new();
        for second in 0..1200 {
            if additional.ask(key, start + Duration::from_secs(second)) {
                asked.push(second);
            }
        }
        assert_eq!(asked, [0, 2, 6, 14, 30, 62, 126, 254, 510, 810, 1110]);
        additional.refused(key, true, "no more".to_owned());
        assert!(!additional.ask(key, start + Duration::from_secs(100_000)));
        additional.forget(key.0);
        assert!(additional.ask(key, start));
        assert!(!additional.ask(key, start) && additional.ask((TunnelId(1), Purpose::Small), start));
    }
}
