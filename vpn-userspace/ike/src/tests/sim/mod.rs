//! Simulation: two endpoints and their data planes on virtual time, judged at every moment. `collisions` enumerates the
//! orders in which messages of colliding exchanges can arrive; `weather` draws bad networks from seeds.

mod collisions;
mod orders;
mod weather;
mod world;

pub(super) use world::{Start, Wish, World};

use std::io::Write as _;

/// A line that the test harness does not keep to itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
