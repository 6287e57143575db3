//! Requests about an interface by its name (netdevice(7)), and a socket to make them on.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A request about an interface. A name that is too long is cut.
pub(crate) fn named(interface: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain integers and byte arrays, for which all zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let most = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(most).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// The same, with a socket of the calling thread's network namespace to make it on.
///
/// # Errors
/// There can be no interface of this name, or the kernel gives no socket.
pub(crate) fn ask(interface: &str) -> io::Result<(OwnedFd, libc::ifreq)> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok((socket, named(interface)))
}
