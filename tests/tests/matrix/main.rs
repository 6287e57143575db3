//! Culvert with strongSwan 5.9.8, cell by cell, in both roles; see `culvert_tests::matrix` for what a cell can say. A
//! theme is a file. strongSwan's ESP is its user-space plugin here (UDP encapsulation only); its kernel ESP is tested in
//! a virtual machine.
//!
//! `cargo test -p culvert-tests --test matrix -- FILTER` runs a part; the rest of the options are those of Rust's harness.

mod addresses;
mod algorithms;
mod auth;
mod children;
mod cookies;
mod eap;
mod exchanges;
mod failures;
mod fragments;
mod liveness;
mod mobility;
mod pki;
mod ports;
mod ppk;
mod radius;
mod v1;
mod v1_certificates;

use std::process::ExitCode;

fn main() -> ExitCode {
    let themes = [
        algorithms::rows(),
        auth::rows(),
        exchanges::rows(),
        fragments::rows(),
        pki::rows(),
        children::rows(),
        ports::rows(),
        ppk::rows(),
        v1::rows(),
        v1_certificates::rows(),
        addresses::rows(),
        mobility::rows(),
        liveness::rows(),
        failures::rows(),
    ];
    culvert_tests::matrix::main(themes.into_iter().flatten().collect())
}
