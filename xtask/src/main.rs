//! cargo xtask: sets up, builds, tests, demonstrates and packages Culvert.
fn main() {}
