//! What the engine `bpf` asks of interfaces: whose address is whose, and that the kernel cuts
//! super-packets and finishes checksums before a tunnel's interface gets them.
use super::EspError;
use crate::ifreq;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// Commands of linux/ethtool.h that set one feature.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGRO: u32 = 0x2c;
/// The command that tells some features, and the one that takes VLAN tags off what comes in.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
/// VLAN devices of the calling thread's network namespace; missing where the kernel has none.
const VLANS: &str = "/proc/thread-self/net/vlan/config";

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The interface that has this address, in the network namespace of the calling thread.
pub fn interface_of(address: IpAddr) -> io::Result<Option<String>> {
    let mut all = nix::ifaddrs::getifaddrs()?;
    let has = |one: &nix::ifaddrs::InterfaceAddress| {
        let Some(storage) = &one.address else { return false };
        match address {
            IpAddr::V4(v4) => storage.as_sockaddr_in().is_some_and(|a| a.ip() == v4),
            IpAddr::V6(v6) => storage.as_sockaddr_in6().is_some_and(|a| a.ip() == v6),
        }
    };
    Ok(all.find(has).map(|one| one.interface_name))
}

/// Has the kernel finish checksums and cut super-packets before they enter the interface.
pub fn segment_before(interface: &str) -> Result<(), EspError> {
    for command in [ETHTOOL_STSO, ETHTOOL_STXCSUM] {
        ethtool(interface, &mut Value { command, data: 0 }).map_err(|cause| EspError::Device {
            interface: interface.to_owned(),
            what: "turn off the offloads",
            cause,
        })?;
    }
    Ok(())
}

/// Has one end of a veth pair listen for frames that XDP sends by the other: it does while it joins packets.
pub(super) fn forwards_frames(interface: &str) -> io::Result<()> {
    ethtool(interface, &mut Value { command: ETHTOOL_SGRO, data: 1 })
}

/// Whether VLAN devices stand on the interface while its driver takes tags off: programs under XDP would take their packets for
/// the interface's own.
pub(super) fn hides_tags(interface: &str) -> bool {
    let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
    std::fs::read_to_string(VLANS).is_ok_and(|table| carries(&table, interface))
        && ethtool(interface, &mut flags).is_ok()
        && flags.data & ETH_FLAG_RXVLAN != 0
}

/// Whether the kernel's table has a VLAN device on this one: `lan.7 | 7 | lan` below two lines of titles.
fn carries(table: &str, interface: &str) -> bool {
    table.lines().skip(2).any(|line| line.rsplit('|').next().is_some_and(|below| below.trim() == interface))
}

/// The name of the interface with this index.
pub(super) fn name_of(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IFNAMSIZ];
    // SAFETY: the buffer is as long as the longest name with its end.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    std::ffi::CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}

/// Sets the MTU of an interface, in bytes. Blocks for microseconds.
pub fn set_mtu(interface: &str, mtu: u32) -> Result<(), EspError> {
    let set = || {
        let (fd, mut request) = ifreq::ask(interface)?;
        request.ifr_ifru.ifru_mtu = mtu as i32;
        // SAFETY: SIOCSIFMTU reads the name and the MTU of an ifreq, which outlives the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFMTU as _, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    set().map_err(|cause| EspError::Device { interface: interface.to_owned(), what: "set the MTU", cause })
}

/// Which of the families asked for is not forwarded by this host, as the name of its setting: the kernel's routes
/// then answer nobody but its own senders.
pub fn forwarding_is_off(ipv4: bool, ipv6: bool) -> Option<&'static str> {
    let settings = [
        (ipv4, "net/ipv4/conf/lo/forwarding", "net.ipv4.ip_forward"),
        (ipv6, "net/ipv6/conf/lo/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    let off = |path: &str| {
        std::fs::read_to_string(format!("/proc/sys/{path}")).is_ok_and(|text| text.trim() == "0")
    };
    settings.into_iter().find(|(asked, path, _)| *asked && off(path)).map(|(_, _, name)| name)
}

fn ethtool(interface: &str, value: &mut Value) -> io::Result<()> {
    let (fd, mut request) = ifreq::ask(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut *value).cast();
    // SAFETY: the request points at a value of the size that these commands read, and it outlives the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::carries;

    #[test]
    fn vlan_devices_are_found_by_what_carries_them() {
        let table = "VLAN Dev name\t | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n\
                     lan             | 7  | lan0\nwan.9          | 9  | eth1\n";
        assert!(carries(table, "lan0") && carries(table, "eth1"));
        assert!(!carries(table, "lan") && !carries(table, "wan.9") && !carries("", "lan0"));
    }
}
