//! Which socket of a shared UDP port gets a datagram.

/// SAs whose owner the program knows; the others are the first worker's.
pub const MAX_OWNED: u32 = 65_536;
/// Most workers that share a port.
pub const MAX_WORKERS: u32 = 256;
/// Index of the first worker's socket, which gets IKE, keepalives and what has no owner.
pub const FIRST: u32 = 0;
/// Index of the socket whose ESP the kernel takes.
pub const KERNEL: u32 = MAX_WORKERS;
/// Length of the map of sockets.
pub const SOCKETS: u32 = MAX_WORKERS + 1;
/// Where the payload begins in what the program sees, in bytes.
pub const UDP_HEADER: u32 = 8;

/// The index of the socket for a datagram that begins with this word (zero too for one that is shorter).
///
/// SPIs of SAs in the kernel are odd; a zero word is the non-ESP marker (RFC 3948 2.2).
#[inline(always)]
pub fn socket_of(spi: u32, owner: Option<u32>) -> u32 {
    match owner {
        Some(worker) => worker,
        None if spi & 1 == 1 => KERNEL,
        None => FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spi_has_its_socket() {
        for (spi, owner, socket) in [
            (0, None, FIRST),
            (0x1000, None, FIRST),
            (0x1000, Some(3), 3),
            (0x1001, None, KERNEL),
            (0x1001, Some(2), 2),
        ] {
            assert_eq!(socket_of(spi, owner), socket, "{spi:#x}");
        }
    }
}
