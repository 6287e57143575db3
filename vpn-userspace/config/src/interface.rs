//! Names of tunnel interfaces: `cv-CONNECTION-TUNNEL`, in the kernel's 15 bytes.

/// The longest interface name, in bytes (IFNAMSIZ without its NUL).
const MAX: usize = 15;

/// The interface of a tunnel: `cv-CONNECTION-TUNNEL` where that fits, else the connection's first
/// characters and a hash of both names. The same names give the same interface always.
pub(crate) fn name(connection: &str, tunnel: &str) -> String {
    let whole = format!("cv-{connection}-{tunnel}");
    if whole.len() <= MAX {
        return whole;
    }
    // FNV-1a, 24 of its 32 bits.
    let hash = connection
        .bytes()
        .chain([b'/'])
        .chain(tunnel.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let head: String = connection.chars().take(5).collect();
    format!("cv-{head}-{:06x}", (hash >> 8) ^ (hash & 0xff))
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_fit_and_stay() {
        let cases = [
            ("a", "b", "cv-a-b"),
            ("hangzhou", "a", "cv-hangzhou-a"),
            ("hangzhou1", "ab", "cv-hangzhou1-ab"),
        ];
        for (connection, tunnel, want) in cases {
            assert_eq!(name(connection, tunnel), want);
        }
        let long = name("hangzhou-production", "a");
        assert!(long.starts_with("cv-hangz-") && long.len() == 15, "{long}");
        assert_ne!(long, name("hangzhou-production", "b"));
        assert_eq!(name(&"x".repeat(32), &"y".repeat(32)).len(), 15);
        // Pinned: scripts and firewall rules of operators depend on it.
        assert_eq!(long, "cv-hangz-1d56d4");
    }
}
