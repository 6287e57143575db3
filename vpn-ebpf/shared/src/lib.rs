//! What the eBPF programs and user space share: the packet parser, the verdict on a packet, the layout of the maps.
//!
//! `no_std`, without dependencies, and without `unsafe` outside of [`layout`]. The same code runs in the kernel, where
//! the verifier must be able to follow it (no recursion, loops with a constant bound, no panic), and on slices in user
//! space, where it is tested and fuzzed.
#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code)]

pub mod address;
pub mod esp;
pub mod judge;
pub mod lan;
pub mod layout;
pub mod limit;
pub mod mss;
pub mod packet;
pub mod reason;
pub mod redirect;
pub mod replay;
pub mod sample;
pub mod steer;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use address::Address;
pub use judge::{Admission, Judgement, Tables, judge};
pub use packet::{Bytes, Class, Kind, Parsed, parse_ethernet, parse_ip};
pub use reason::{Reason, Verdict};
