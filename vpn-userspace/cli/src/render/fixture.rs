//! A gateway in the middle of its day, for tests.

use culvert_api::{Explanation, Status};

/// When it is looked at, Unix seconds.
pub(crate) const NOW_S: u64 = 1_795_311_428;

/// As the daemon would send it: read from JSON, so that the schema is tested along.
pub(crate) fn status() -> Status {
    serde_json::from_str(include_str!("fixture.json")).expect("the fixture is a status")
}

/// Four tunnels: mended, refused, not set up, called by what fits no tunnel.
pub(crate) fn explanation() -> Explanation {
    serde_json::from_str(include_str!("explain.json")).expect("the fixture is an explanation")
}
