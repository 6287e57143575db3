//! Two endpoints in one test: every exchange, with everything that can happen to it.

mod abuse;
mod additional;
mod certificates;
mod childless;
mod clients;
mod eap;
mod failure;
mod fragments;
mod handshake;
mod jobs;
mod loss;
mod many;
mod mistakes;
mod mobike;
mod pairs;
mod pfs;
mod ppk;
mod rekey;
mod resources;
mod roaming;
mod session;
mod sim;
mod transitions;
mod transport;
mod v1;
mod v1_abuse;
mod v1_mistakes;
mod v1_natt;
mod v1_signatures;
mod v1_users;

use std::time::Duration;

use crate::testing::{At, Pair, TUNNEL, config};
use crate::{Command, PeerConfig};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A tunnel's two configurations, both changed in the same way.
fn both(change: impl Fn(&mut PeerConfig)) -> (PeerConfig, PeerConfig) {
    let with = |at| {
        let mut c = config(at);
        change(&mut c);
        c
    };
    (with(At::A), with(At::B))
}
