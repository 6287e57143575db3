//! A gateway in the middle of its day, for tests.

use culvert_api::Status;

/// When it is looked at, Unix seconds.
pub(crate) const NOW_S: u64 = 1_795_311_428;

/// As the daemon would send it: read from JSON, so that the schema is tested along.
pub(crate) fn status() -> Status {
    serde_json::from_str(include_str!("fixture.json")).expect("the fixture is a status")
}
