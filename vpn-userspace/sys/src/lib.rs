//! How the kernel is asked: TUN, sockets, netlink, XFRM, eBPF. All unsafe code of user space lives here.
#![allow(unsafe_code)]

mod address;
pub mod batch;
pub mod capture;
pub mod cpus;
pub mod encap;
pub mod errno;
pub mod esp_bpf;
pub mod event;
pub mod guard;
mod ifreq;
pub mod lock;
pub mod mss;
pub mod netlink;
pub mod netns;
pub mod probe;
pub mod selftest;
pub mod steer;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tun;
pub mod wan;
pub mod xfrm;
pub mod xsk;
