//! Enumerates every order in which two wishes, and the messages that follow from them, can take effect.
//!
//! What has happened is, for each side, the sequence of what that side met: wishes and datagrams. Two interleavings with
//! the same two sequences lead to the same state, so each state is visited once, and the orders that lead through it are
//! counted. Every state is judged, the ends also at rest.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::world::{Start, Wish, World};
use crate::testing::At;

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Act {
    /// The side's own wish.
    Wish(Letter),
    /// The sender's datagram with this number arrives at the other side.
    Deliver(Letter, usize),
    /// It arrives, and will once more.
    Duplicate(Letter, usize),
    /// It is lost.
    Lose(Letter, usize),
    /// Nothing is on its way: the next clock of either side runs out.
    Wait,
}

/// A side, as a part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Letter {
    A,
    B,
}

impl Letter {
    fn at(self) -> At {
        match self {
            Self::A => At::A,
            Self::B => At::B,
        }
    }

    fn of(at: At) -> Self {
        match at {
            At::A => Self::A,
            At::B => Self::B,
        }
    }
}

/// What tells two states apart: what each side has met, and what was lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Key {
    met: [Vec<Act>; 2],
    lost: BTreeSet<(Letter, usize)>,
}

impl Key {
    fn after(&self, act: Act) -> Self {
        let mut next = self.clone();
        match act {
            Act::Wish(Letter::A) | Act::Deliver(Letter::B, _) | Act::Duplicate(Letter::B, _) => {
                next.met[0].push(act);
            }
            Act::Wish(Letter::B) | Act::Deliver(Letter::A, _) | Act::Duplicate(Letter::A, _) => {
                next.met[1].push(act);
            }
            Act::Lose(from, number) => drop(next.lost.insert((from, number))),
            // Time passes on both sides.
            Act::Wait => next.met.iter_mut().for_each(|met| met.push(act)),
        }
        next
    }
}

/// What the network may do besides delivering in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Datagrams that may be lost; each is repeated by its sender.
    pub(super) losses: usize,
    /// Datagrams that may arrive twice.
    pub(super) duplicates: usize,
}

/// What was enumerated.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count {
    /// Different orders.
    pub(super) orders: u128,
    /// Different states, each judged once.
    pub(super) states: usize,
    /// States in which nothing is left to happen.
    pub(super) ends: usize,
}

/// One collision: what A wants and what B wants, and what is there before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Collision {
    pub(super) seed: u64,
    pub(super) wishes: [Wish; 2],
    pub(super) start: Start,
    pub(super) budget: Budget,
}

type Judge<'a> = dyn Fn(&World) -> Result<(), String> + 'a;

impl Collision {
    /// Visits every state; `judge` has the last word on each end, at rest. Panics at the first that is wrong, with the
    /// steps that lead to it.
    pub(super) fn enumerate(&self, judge: &Judge<'_>) -> Count {
        let mut walk = Walk { collision: self, judge, known: HashMap::new(), path: Vec::new(), ends: 0 };
        let world = World::new(self.seed, self.start);
        let orders = walk.visit(Key::default(), world);
        Count { orders, states: walk.known.len(), ends: walk.ends }
    }

    fn replay(&self, path: &[Act]) -> World {
        let mut world = World::new(self.seed, self.start);
        path.iter().for_each(|act| self.apply(&mut world, *act));
        world
    }

    fn apply(&self, world: &mut World, act: Act) {
        let find = |world: &World, from: Letter, number: usize| {
            let to = from.at().other();
            let found = world.pair.held.iter().position(|held| held.to == to && held.number == number);
            found.expect("the datagram is on its way")
        };
        match act {
            Act::Wish(side) => world.wish(side.at(), self.wishes[side as usize]),
            Act::Deliver(from, number) => {
                let at = find(world, from, number);
                world.pair.deliver(at, false);
            }
            Act::Duplicate(from, number) => {
                let at = find(world, from, number);
                world.pair.deliver(at, true);
            }
            Act::Lose(from, number) => {
                let at = find(world, from, number);
                world.pair.held.remove(at);
            }
            Act::Wait => {
                if let Some(when) = world.pair.next_deadline() {
                    world.pair.step(when);
                }
            }
        }
        // The world remembers what is wrong; the walk asks for it.
        let _ = world.check();
    }
}

struct Walk<'a> {
    collision: &'a Collision,
    judge: &'a Judge<'a>,
    /// How many orders lead from a state to an end.
    known: HashMap<Key, u128>,
    path: Vec<Act>,
    ends: usize,
}

impl Walk<'_> {
    fn visit(&mut self, key: Key, mut world: World) -> u128 {
        self.demand(&world.check(), &world);
        let acts = self.possible(&key, &world);
        let mut orders = 0;
        if acts.is_empty() {
            let rest = world
                .settle(Duration::from_secs(400))
                .and_then(|()| world.agreed())
                .and_then(|()| (self.judge)(&world));
            self.demand(&rest, &world);
            self.ends += 1;
            orders = 1;
        }
        // The first way on takes this world along; the others begin anew.
        let mut here = Some(world);
        for act in acts {
            let next = key.after(act);
            if let Some(known) = self.known.get(&next) {
                orders += known;
                continue;
            }
            let mut world = here.take().unwrap_or_else(|| self.collision.replay(&self.path));
            self.path.push(act);
            self.collision.apply(&mut world, act);
            orders += self.visit(next, world);
            self.path.pop();
        }
        self.known.insert(key, orders);
        assert!(self.known.len() < 2_000_000, "more states than can be meant");
        orders
    }

    fn demand(&self, judged: &Result<(), String>, world: &World) {
        if let Err(wrong) = judged {
            panic!("{wrong}\nin {:?}\nafter {:?}\n{}", self.collision, self.path, world.story());
        }
    }

    fn possible(&self, key: &Key, world: &World) -> Vec<Act> {
        let mut acts = Vec::new();
        for side in [Letter::A, Letter::B] {
            if !key.met[side as usize].contains(&Act::Wish(side)) {
                acts.push(Act::Wish(side));
            }
        }
        let met = key.met.iter().flatten();
        let duplicates = met.filter(|act| matches!(act, Act::Duplicate(..))).count();
        let Budget { losses, duplicates: may } = self.collision.budget;
        for held in &world.pair.held {
            let (from, number) = (Letter::of(held.to.other()), held.number);
            acts.push(Act::Deliver(from, number));
            if key.lost.len() < losses {
                acts.push(Act::Lose(from, number));
            }
            if duplicates < may {
                acts.push(Act::Duplicate(from, number));
            }
        }
        // What was lost is repeated, and meets what there is then.
        let soon =
            world.pair.next_deadline().is_some_and(|at| at <= world.pair.time + Duration::from_secs(30));
        if acts.is_empty() && !key.lost.is_empty() && soon {
            acts.push(Act::Wait);
        }
        acts
    }
}
