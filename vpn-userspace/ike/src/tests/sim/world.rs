//! Two endpoints with a model of what their owners install, and what must hold of both at every moment and at rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use culvert_types::Spi;

use crate::testing::{At, Pair, Side, TUNNEL, Turn, config};
use crate::v2::sa::{Attempt, Task};
use crate::{ChildSa, Command, Counts, DownReason, PeerConfig};

/// Something that a side wants of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tests) enum Wish {
    RekeyChild,
    RekeyIke,
    NewChild,
    DeleteChild,
    DeleteIke,
    Initiate,
}

/// What is there before the wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tests) enum Start {
    Nothing,
    /// An IKE SA that has lost its child.
    Childless,
    Tunnel,
    /// The same, where exchanges have two rounds (RFC 9370).
    Rounds,
}

/// An SA as a side's data plane has it.
#[derive(Debug)]
struct Installed {
    sa: ChildSa,
    replaces: Option<Spi>,
    /// Receives until then; for ever while it is up.
    until: Option<Instant>,
}

/// A side's data plane: it sends on the SA that was made active last, and on none once that one is gone.
#[derive(Debug, Default)]
struct Plane {
    seen: usize,
    installed: BTreeMap<Spi, Installed>,
    active: Option<Spi>,
}

impl Plane {
    /// Takes in what has happened since, and says what was wrong with it.
    fn follow(&mut self, side: &Side, now: Instant, may_be_without: bool) -> Result<(), String> {
        for turn in &side.turns[self.seen..] {
            match turn {
                Turn::Up(sa, replaces, at_once) => {
                    let installed = Installed { sa: (**sa).clone(), replaces: *replaces, until: None };
                    self.installed.insert(sa.inbound(), installed);
                    if *at_once {
                        self.active = Some(sa.inbound());
                    }
                }
                Turn::Ready(inbound) => self.active = Some(*inbound),
                Turn::Down(inbound, drain) => {
                    if let Some(installed) = self.installed.get_mut(inbound) {
                        installed.until = Some(now + *drain);
                    }
                    if self.active == Some(*inbound) {
                        self.active = None;
                        let others = self.installed.values().any(|i| i.until.is_none());
                        if others && !may_be_without {
                            return Err(format!("nothing to send on once {inbound} is gone"));
                        }
                    }
                }
            }
        }
        self.seen = side.turns.len();
        Ok(())
    }

    fn receives(&self, spi: Spi, now: Instant) -> Option<&ChildSa> {
        self.installed.get(&spi).filter(|i| i.until.is_none_or(|until| now <= until)).map(|i| &i.sa)
    }
}

/// Two sides between which something is to happen.
pub(in crate::tests) struct World {
    pub(in crate::tests) pair: Pair,
    planes: [Plane; 2],
    /// An SA is meant to go: packets may be lost.
    deleting: bool,
    /// Each side had an SA that the other could open.
    had: bool,
    /// The first thing that was wrong.
    wrong: Option<String>,
}

/// Nothing happens by the clock alone that a wish has not begun.
fn quiet(at: At) -> PeerConfig {
    let day = Duration::from_secs(24 * 3600);
    PeerConfig { dpd: None, ike_lifetime: day, child_lifetime: day, ..config(at) }
}

/// With an additional key exchange that takes no job.
pub(in crate::tests) fn in_rounds(config: PeerConfig) -> PeerConfig {
    PeerConfig {
        ike_proposals: vec!["aes128gcm16-prfsha256-curve25519-ke1_ecp256".parse().expect("a proposal")],
        esp_proposals: vec!["aes128gcm16-curve25519-ke1_ecp256".parse().expect("a proposal")],
        ..config
    }
}

impl World {
    /// A tunnel that is up (or not begun), and datagrams that wait to be delivered.
    pub(in crate::tests) fn new(seed: u64, start: Start) -> Self {
        let side = |at| if start == Start::Rounds { in_rounds(quiet(at)) } else { quiet(at) };
        let mut world = Self::with(seed, start != Start::Nothing, side(At::A), side(At::B));
        if start == Start::Childless {
            world.wish(At::A, Wish::DeleteChild);
            world.settle(Duration::from_secs(40)).expect("a delete without trouble");
            world.pair.link.hold = true;
            (world.deleting, world.had) = (false, false);
        }
        world
    }

    pub(in crate::tests) fn with(seed: u64, connected: bool, a: PeerConfig, b: PeerConfig) -> Self {
        let mut pair = Pair::new(seed, a, b);
        if connected {
            pair.connect();
        }
        pair.link.hold = true;
        let mut world = Self { pair, planes: Default::default(), deleting: false, had: false, wrong: None };
        world.check().expect("nothing has happened yet");
        world
    }

    /// Packets may be lost from now on: only what both sides have in the end counts.
    pub(in crate::tests) fn rough(&mut self) {
        self.deleting = true;
    }

    fn active(&self, at: At) -> Option<&Installed> {
        let plane = &self.planes[at as usize];
        plane.active.and_then(|spi| plane.installed.get(&spi))
    }

    /// Issues a wish, if it makes sense at this moment.
    pub(in crate::tests) fn wish(&mut self, at: At, wish: Wish) {
        let time = self.pair.time;
        let current = self.active(at).map(|i| i.sa.inbound());
        self.deleting |= matches!(wish, Wish::DeleteChild | Wish::DeleteIke);
        let endpoint = &mut self.pair.side(at).endpoint;
        // A command is refused where the tunnel has just gone: then there is nothing to wish for.
        let _ = match (wish, current) {
            (Wish::RekeyChild, Some(spi)) => endpoint.handle_command(time, Command::RekeyChild(spi)),
            (Wish::RekeyIke, _) => endpoint.handle_command(time, Command::RekeyIke(TUNNEL)),
            (Wish::DeleteIke, _) => endpoint.handle_command(time, Command::Terminate(TUNNEL, true)),
            (Wish::Initiate, _) => endpoint.handle_command(time, Command::Initiate(TUNNEL)),
            (Wish::NewChild, _) => {
                endpoint.task(time, TUNNEL, |sa| sa.queue(Task::CreateChild(Attempt::default(), None)));
                Ok(())
            }
            (Wish::DeleteChild, Some(spi)) => {
                endpoint.task(time, TUNNEL, |sa| sa.delete(spi, DownReason::LocalRequest));
                Ok(())
            }
            (Wish::RekeyChild | Wish::DeleteChild, None) => Ok(()),
        };
        self.pair.drain(at);
    }

    /// What must hold at every moment: what a side sends on, the other can open, with the same keys.
    pub(in crate::tests) fn check(&mut self) -> Result<(), String> {
        if self.wrong.is_none() {
            self.wrong = self.judge().err();
        }
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn judge(&mut self) -> Result<(), String> {
        let now = self.pair.time;
        let may_be_without = self.deleting || !self.had;
        for (plane, side) in self.planes.iter_mut().zip([&self.pair.a, &self.pair.b]) {
            plane.follow(side, now, may_be_without)?;
        }
        let mut both = true;
        for at in [At::A, At::B] {
            let Some(sends) = self.active(at) else {
                if self.had && !self.deleting {
                    return Err(format!("{at:?} has nothing to send on"));
                }
                both = false;
                continue;
            };
            match self.planes[at.other() as usize].receives(sends.sa.outbound(), now) {
                Some(other) => {
                    if other.inbound_keys() != sends.sa.outbound_keys() {
                        return Err(format!("{at:?} sends with keys that are not the other's"));
                    }
                }
                // The responder of a new SA may be ahead of the initiator: nothing was before.
                None if sends.replaces.is_none() => both = false,
                None if self.deleting => both = false,
                None => return Err(format!("{at:?} sends on what the other cannot open")),
            }
        }
        self.had |= both;
        Ok(())
    }

    /// Lets everything come to its end, in order and without loss.
    pub(in crate::tests) fn settle(&mut self, duration: Duration) -> Result<(), String> {
        self.pair.release();
        self.check()?;
        let limit = self.pair.time + duration;
        let mut steps = 0_u32;
        while self.pair.step(limit) {
            self.check()?;
            steps += 1;
            if steps > 100_000 {
                return Err("the endpoints never come to rest".to_owned());
            }
        }
        Ok(())
    }

    /// What must hold at rest, whatever happened: both sides have the same, and nothing is left over.
    pub(in crate::tests) fn agreed(&self) -> Result<(), String> {
        let (a, b) = (&self.pair.a, &self.pair.b);
        let spis = |side: &Side| side.ike.as_ref().map(|ike| (ike.spi_initiator, ike.spi_responder));
        if spis(a) != spis(b) {
            return Err("the IKE SAs differ".to_owned());
        }
        if a.children.len() != b.children.len() {
            return Err(format!("{} children at A, {} at B", a.children.len(), b.children.len()));
        }
        for sa in a.children.values() {
            let other = b.children.get(&sa.outbound());
            let same = other.is_some_and(|other| {
                other.outbound() == sa.inbound()
                    && other.inbound_keys() == sa.outbound_keys()
                    && other.outbound_keys() == sa.inbound_keys()
            });
            if !same {
                return Err(format!("the child {} of A is not B's", sa.inbound()));
            }
        }
        for (side, plane) in [a, b].into_iter().zip(&self.planes) {
            let ike_sas = usize::from(side.ike.is_some());
            let expected = Counts { ike_sas, half_open: 0, spis: side.children.len() };
            if side.endpoint.counts() != expected {
                return Err(format!("left over: {:?}, not {expected:?}", side.endpoint.counts()));
            }
            if plane.active.is_some() == side.children.is_empty() {
                return Err(format!("children {:?}, sending on {:?}", side.children.keys(), plane.active));
            }
        }
        Ok(())
    }

    /// Both sides' events, for who must find out.
    pub(in crate::tests) fn story(&self) -> String {
        format!("A: {:#?}\nB: {:#?}", self.pair.a.log, self.pair.b.log)
    }
}
