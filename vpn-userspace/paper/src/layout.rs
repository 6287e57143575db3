//! How tunnels are laid between the addresses of two ends, so that losing one address loses as little as can be.

use std::net::IpAddr;

/// One tunnel: its addresses, and how heavy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Laid {
    /// This end's; `None`: whichever it has.
    pub local: Option<IpAddr>,
    /// The far end's.
    pub remote: IpAddr,
    /// 100 is active; the others stand by, the heavier first.
    pub weight: u8,
}

/// Counts that cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Another number of addresses.
    #[error("{0} addresses of {1} end: give 1, 2 or 4")]
    Count(usize, &'static str),
    /// One of IPv4, the other of IPv6.
    #[error("{0} and {1} are of different families: pair addresses of one family, in their order")]
    Families(IpAddr, IpAddr),
    /// Twice the same.
    #[error("{0} is given twice")]
    Twice(IpAddr),
}

/// A tunnel for each address of the end that has more: with two far addresses, one for each of two near ones, two for each
/// of four, or both from one. The first is active, and the next in line goes to another far address, so that losing
/// an address of the cloud is the first that is made good.
///
/// # Errors
/// Other counts than 1, 2 and 4 (or no near address: whichever there is), an address twice, families that do not fit.
pub fn layout(local: &[IpAddr], remote: &[IpAddr]) -> Result<Vec<Laid>, LayoutError> {
    if !matches!(remote.len(), 1 | 2 | 4) {
        return Err(LayoutError::Count(remote.len(), "the far"));
    }
    if !matches!(local.len(), 0 | 1 | 2 | 4) {
        return Err(LayoutError::Count(local.len(), "this"));
    }
    for list in [local, remote] {
        if let Some(twice) = list.iter().enumerate().find(|(i, a)| list[..*i].contains(a)) {
            return Err(LayoutError::Twice(*twice.1));
        }
    }
    let count = remote.len().max(local.len());
    let mut laid = Vec::new();
    for index in 0..count {
        let near = (!local.is_empty()).then(|| local[index * local.len() / count]);
        let far = remote[index * remote.len() / count];
        if let Some(near) = near.filter(|near| near.is_ipv4() != far.is_ipv4()) {
            return Err(LayoutError::Families(near, far));
        }
        laid.push(Laid { local: near, remote: far, weight: 0 });
    }
    // In turn over the far addresses.
    let mut turns: Vec<(usize, usize)> = Vec::new();
    for (index, tunnel) in laid.iter().enumerate() {
        let turn = laid[..index].iter().filter(|before| before.remote == tunnel.remote).count();
        turns.push((turn, index));
    }
    turns.sort_unstable();
    for (rank, (_, index)) in turns.into_iter().enumerate() {
        laid[index].weight = u8::try_from(100 - rank * 100 / count.saturating_sub(1).max(1)).unwrap_or(0);
    }
    Ok(laid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(local: usize, remote: usize) -> Vec<(u8, u8, u8)> {
        let addresses = |net: u8, count: usize| -> Vec<IpAddr> {
            (1..=count).map(|last| IpAddr::from([net, 0, 0, last as u8])).collect()
        };
        let last = |address: IpAddr| match address {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(_) => 0,
        };
        layout(&addresses(10, local), &addresses(20, remote))
            .unwrap()
            .into_iter()
            .map(|t| (t.local.map_or(0, last), last(t.remote), t.weight))
            .collect()
    }

    /// This end's address, the far end's, the weight.
    #[test]
    fn tunnels_follow_from_the_counts() {
        assert_eq!(laid(1, 1), [(1, 1, 100)]);
        assert_eq!(laid(0, 2), [(0, 1, 100), (0, 2, 0)]);
        assert_eq!(laid(1, 2), [(1, 1, 100), (1, 2, 0)]);
        assert_eq!(laid(2, 2), [(1, 1, 100), (2, 2, 0)]);
        assert_eq!(laid(4, 2), [(1, 1, 100), (2, 1, 34), (3, 2, 67), (4, 2, 0)]);
        assert_eq!(laid(2, 1), [(1, 1, 100), (2, 1, 0)]);
        assert_eq!(laid(4, 4), [(1, 1, 100), (2, 2, 67), (3, 3, 34), (4, 4, 0)]);
        assert_eq!(laid(2, 4), [(1, 1, 100), (1, 2, 67), (2, 3, 34), (2, 4, 0)]);
    }

    #[test]
    fn what_cannot_be_laid_is_refused() {
        let a = |text: &str| text.parse::<IpAddr>().unwrap();
        let three = [a("10.0.0.1"), a("10.0.0.2"), a("10.0.0.3")];
        assert_eq!(layout(&[], &three), Err(LayoutError::Count(3, "the far")));
        assert_eq!(layout(&three, &three[..1]), Err(LayoutError::Count(3, "this")));
        assert!(matches!(layout(&[], &[three[0], three[0]]), Err(LayoutError::Twice(_))));
        assert!(matches!(layout(&[a("fd00::1")], &three[..1]), Err(LayoutError::Families(..))));
    }
}
