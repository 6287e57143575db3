//! What strangers may cost: cookies (RFC 7296 2.6), half-open limits, and how often they are reported.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use culvert_crypto::{Prf, Random, Secret, equal};

use crate::EndpointConfig;

/// Cookies are good for one to two of these.
const COOKIE_LIFETIME: Duration = Duration::from_secs(60);

/// Stateless cookies: version | HMAC(secret, Ni | IPi | SPIi), with two secrets in turn.
#[derive(Default)]
pub(crate) struct Cookies {
    current: Option<CookieSecret>,
    last: Option<CookieSecret>,
}

struct CookieSecret {
    version: u8,
    secret: Secret,
    since: Instant,
}

impl CookieSecret {
    fn cookie(&self, nonce: &[u8], source: IpAddr, spi_i: u64) -> Vec<u8> {
        let (four, six);
        let ip: &[u8] = match source {
            IpAddr::V4(a) => {
                four = a.octets();
                &four
            }
            IpAddr::V6(a) => {
                six = a.octets();
                &six
            }
        };
        let mac = Prf::HmacSha256.compute(&self.secret, &[nonce, ip, &spi_i.to_be_bytes()]);
        let mut cookie = vec![self.version];
        cookie.extend_from_slice(&mac);
        cookie
    }
}

impl Cookies {
    fn rotate(&mut self, now: Instant, random: &mut dyn Random) {
        if self.current.as_ref().is_some_and(|c| now < c.since + COOKIE_LIFETIME) {
            return;
        }
        let mut secret = vec![0; 32];
        random.fill(&mut secret);
        let version = self.current.as_ref().map_or(0, |c| c.version.wrapping_add(1));
        self.last = self.current.take();
        self.current = Some(CookieSecret { version, secret: Secret::new(secret), since: now });
    }

    /// The cookie for a request.
    pub(crate) fn make(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        nonce: &[u8],
        source: IpAddr,
        spi_i: u64,
    ) -> Vec<u8> {
        self.rotate(now, random);
        self.current.as_ref().map(|c| c.cookie(nonce, source, spi_i)).unwrap_or_default()
    }

    /// Whether a cookie is one of ours for this request.
    pub(crate) fn check(
        &self,
        now: Instant,
        cookie: &[u8],
        nonce: &[u8],
        source: IpAddr,
        spi_i: u64,
    ) -> bool {
        let fresh = |c: &&CookieSecret| now < c.since + 2 * COOKIE_LIFETIME;
        let secrets = self.current.iter().chain(&self.last).filter(fresh);
        secrets.into_iter().any(|c| equal(&c.cookie(nonce, source, spi_i), cookie))
    }
}

/// IKE SAs whose initiator has proven nothing yet.
#[derive(Default)]
pub(crate) struct HalfOpens {
    by_origin: HashMap<(SocketAddr, u64), u64>,
    /// With the number of its coming.
    by_key: HashMap<u64, ((SocketAddr, u64), u64)>,
    per_address: HashMap<IpAddr, usize>,
    come: u64,
}

/// Whom a source counts for: who has an IPv6 address has its /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX)).into(),
        four @ IpAddr::V4(_) => four,
    }
}

/// What to do with a new initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Admit,
    AskForCookie,
    Drop,
}

impl HalfOpens {
    pub(crate) fn insert(&mut self, key: u64, origin: (SocketAddr, u64)) {
        if self.by_key.contains_key(&key) {
            return;
        }
        self.by_origin.insert(origin, key);
        self.come += 1;
        self.by_key.insert(key, (origin, self.come));
        *self.per_address.entry(source_of(origin.0.ip())).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, key: u64) {
        let Some((origin, _)) = self.by_key.remove(&key) else { return };
        self.by_origin.remove(&origin);
        let source = source_of(origin.0.ip());
        if let Some(count) = self.per_address.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&source);
            }
        }
    }

    pub(crate) fn find(&self, origin: (SocketAddr, u64)) -> Option<u64> {
        self.by_origin.get(&origin).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The oldest one of the source that has most, of those that `may` go: the first to.
    pub(crate) fn dispensable(&self, may: impl Fn(u64) -> bool) -> Option<u64> {
        let count = |origin: &(SocketAddr, u64)| self.per_address.get(&source_of(origin.0.ip())).copied();
        let those = self.by_key.iter().filter(|(key, _)| may(**key));
        let first = those.min_by_key(|(_, (origin, number))| (std::cmp::Reverse(count(origin)), *number));
        first.map(|(key, _)| *key)
    }

    /// What becomes of a new initiator. At the limit in all, one that returns a cookie takes the place of the one that
    /// is [`dispensable`](Self::dispensable).
    pub(crate) fn admission(&self, config: &EndpointConfig, source: IpAddr) -> Admission {
        let here = self.per_address.get(&source_of(source)).copied().unwrap_or(0);
        let all = self.by_key.len();
        if here >= config.half_open_per_address {
            Admission::Drop
        } else if all >= config.half_open_limit
            || all >= config.cookie_threshold
            || here >= config.cookie_threshold_per_address
        {
            Admission::AskForCookie
        } else {
            Admission::Admit
        }
    }
}

/// Lets a burst of reports through and then one a second.
pub(crate) struct Reports {
    left: u32,
    since: Option<Instant>,
}

const BURST: u32 = 20;

impl Default for Reports {
    fn default() -> Self {
        Self { left: BURST, since: None }
    }
}

impl Reports {
    pub(crate) fn allowed(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        if seconds > 0 {
            self.left = self.left.saturating_add(u32::try_from(seconds).unwrap_or(BURST)).min(BURST);
            self.since = Some(since + Duration::from_secs(seconds));
        }
        self.left > 0
    }

    pub(crate) fn used(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_crypto::SystemRandom;

    #[test]
    fn cookies_are_good_for_one_request_and_a_while() {
        let (mut random, mut cookies) = (SystemRandom::new(), Cookies::default());
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let cookie = cookies.make(start, &mut random, &[1; 32], source, 7);
        assert!(cookies.check(at(1), &cookie, &[1; 32], source, 7));
        assert!(!cookies.check(at(1), &cookie, &[2; 32], source, 7));
        assert!(!cookies.check(at(1), &cookie, &[1; 32], "192.0.2.2".parse().unwrap(), 7));
        assert!(!cookies.check(at(1), &cookie, &[1; 32], source, 8));
        assert!(!cookies.check(at(1), &cookie[..5], &[1; 32], source, 7));
        // The secret before is still good; the one before that is not.
        cookies.make(at(61), &mut random, &[1; 32], source, 7);
        assert!(cookies.check(at(61), &cookie, &[1; 32], source, 7));
        cookies.make(at(122), &mut random, &[1; 32], source, 7);
        assert!(!cookies.check(at(122), &cookie, &[1; 32], source, 7));
    }

    #[test]
    fn limits_are_per_address_and_in_all() {
        let config = EndpointConfig {
            cookie_threshold: 4,
            cookie_threshold_per_address: 2,
            half_open_per_address: 3,
            half_open_limit: 5,
            ..EndpointConfig::default()
        };
        let mut all = HalfOpens::default();
        let from = |n: u8| SocketAddr::from(([192, 0, 2, n], 500));
        let add = |all: &mut HalfOpens, n: u8, key| all.insert(key, (from(n), key));
        let ask = |all: &HalfOpens, n: u8| all.admission(&config, from(n).ip());
        add(&mut all, 1, 1);
        assert_eq!(ask(&all, 1), Admission::Admit);
        add(&mut all, 1, 2);
        assert_eq!((ask(&all, 1), ask(&all, 2)), (Admission::AskForCookie, Admission::Admit));
        add(&mut all, 1, 3);
        assert_eq!((ask(&all, 1), ask(&all, 2)), (Admission::Drop, Admission::Admit));
        add(&mut all, 2, 4);
        assert_eq!(ask(&all, 3), Admission::AskForCookie);
        add(&mut all, 3, 5);
        assert_eq!((ask(&all, 4), ask(&all, 1)), (Admission::AskForCookie, Admission::Drop));
        // Full: the oldest of who has most goes first.
        assert_eq!((all.dispensable(|_| true), all.dispensable(|key| key > 3)), (Some(1), Some(4)));
        for key in 1..=5 {
            all.remove(key);
            all.remove(key);
        }
        assert_eq!((all.len(), ask(&all, 1)), (0, Admission::Admit));
        assert!(all.per_address.is_empty() && all.by_origin.is_empty());
    }

    #[test]
    fn who_has_an_ipv6_address_has_a_whole_network() {
        let mut all = HalfOpens::default();
        let from = |n: u16| SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n), 500));
        for n in 1..=32 {
            all.insert(u64::from(n), (from(n), 1));
        }
        let config = EndpointConfig::default();
        assert_eq!(all.admission(&config, from(99).ip()), Admission::Drop);
        assert_ne!(all.admission(&config, "2001:db8:0:1::1".parse().unwrap()), Admission::Drop);
    }

    #[test]
    fn reports_come_in_a_burst_then_one_a_second() {
        let (start, mut reports) = (Instant::now(), Reports::default());
        let mut count = |ms: u64| {
            let mut n = 0;
            while n < 100 && reports.allowed(start + Duration::from_millis(ms)) {
                reports.used();
                n += 1;
            }
            n
        };
        assert_eq!((count(0), count(500), count(1500), count(3900), count(1_000_000)), (20, 0, 1, 2, 20));
    }
}
