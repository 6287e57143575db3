//! How the kernel is asked: TUN, sockets, netlink, XFRM, eBPF. All unsafe code of user space lives here.
#![allow(unsafe_code)]

pub mod netlink;
