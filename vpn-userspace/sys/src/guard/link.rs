//! What kind of link an interface is: asked by ioctl, which answers for the calling thread's network namespace (the
//! /sys that is mounted may be of another).
use super::GuardError;
use crate::ifreq;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

/// An interface of the current network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its name.
    pub(super) name: String,
    /// Its index.
    pub(crate) index: u32,
    /// Its driver as ethtool tells it; None if it has no answer (loopback).
    pub(crate) driver: Option<String>,
    /// Do its packets begin with an Ethernet header?
    pub(crate) ethernet: bool,
}

/// Drivers of links that exist in this kernel only, whose senders hand over unsegmented super-packets.
const VIRTUAL: &[&str] = &[
    "veth",
    "tun",
    "bridge",
    "bonding",
    "team",
    "dummy",
    "ifb",
    "macvlan",
    "ipvlan",
    "vxlan",
    "geneve",
    "netkit",
    "802.1Q VLAN Support",
];

impl Link {
    /// Asks for an interface by its name.
    pub(crate) fn find(name: &str) -> Result<Link, GuardError> {
        let unknown = || GuardError::UnknownInterface { interface: name.to_owned() };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(unknown());
        }
        let c_name = CString::new(name).map_err(|_| unknown())?;
        // SAFETY: a terminated string that lives during the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(unknown());
        }
        let hardware = hardware_type(name)
            .map_err(|cause| GuardError::Kernel { what: "ask for an interface's type", cause })?;
        Ok(Link {
            name: name.to_owned(),
            index,
            driver: driver(name),
            ethernet: hardware == libc::ARPHRD_ETHER || hardware == libc::ARPHRD_LOOPBACK,
        })
    }

    /// Is it one of those on which XDP would cost more than it brings?
    pub(crate) fn is_virtual(&self) -> bool {
        match &self.driver {
            Some(driver) => VIRTUAL.contains(&driver.as_str()),
            // Loopback, and whatever else has no hardware behind it.
            None => true,
        }
    }
}

/// Names of all interfaces of the current network namespace.
pub(super) fn names() -> Result<Vec<String>, GuardError> {
    let list = nix::net::if_::if_nameindex()
        .map_err(|error| GuardError::Kernel { what: "list the interfaces", cause: error.into() })?;
    Ok(list.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect())
}

/// ARPHRD_….
fn hardware_type(name: &str) -> io::Result<u16> {
    let (socket, mut request) = ifreq::ask(name)?;
    // SAFETY: SIOCGIFHWADDR reads the name and writes the address, both within an ifreq.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(request.ifr_ifru.ifru_hwaddr.sa_family)
    }
}

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    numbers: [u32; 5],
}

const ETHTOOL_GDRVINFO: u32 = 3;
const _: () = assert!(size_of::<DriverInfo>() == 196);

fn driver(name: &str) -> Option<String> {
    // SAFETY: plain data, for which all zeroes is a value.
    let mut info: DriverInfo = unsafe { std::mem::zeroed() };
    info.command = ETHTOOL_GDRVINFO;
    let (socket, mut request) = ifreq::ask(name).ok()?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: SIOCETHTOOL reads the name, and reads and writes the struct of the command that ifru_data points to.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if answer != 0 {
        return None;
    }
    let end = info.driver.iter().position(|byte| *byte == 0).unwrap_or(info.driver.len());
    let driver = String::from_utf8_lossy(info.driver.get(..end)?).into_owned();
    (!driver.is_empty()).then_some(driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_virtual_link_with_ethernet_headers() {
        let link = Link::find("lo").unwrap();
        assert_eq!(link.index, 1);
        assert!(link.ethernet && link.is_virtual());
        assert!(names().unwrap().contains(&"lo".to_owned()));
    }

    #[test]
    fn unknown_interfaces_are_told() {
        for name in ["", "no-such-if", "a-name-that-is-much-too-long", "nul\0"] {
            assert!(matches!(Link::find(name), Err(GuardError::UnknownInterface { .. })), "{name:?}");
        }
    }
}
