//! Notices: who is told of what happens, and what the status says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use culvert_api::{ErrorCode, Response};
use culvert_config::{LocalProof, Notice, NoticeHow, NoticeOn};
use culvert_notice::{Happening, How, Notices, Way, Webhook};
use culvert_pki::Facts;
use culvert_types::TunnelId;
use zeroize::Zeroizing;

use crate::daemon::Daemon;

/// A certificate is told of so long before its end.
const SOON: Duration = Duration::from_secs(30 * 86_400);
/// How often certificates are looked at.
const LOOK: Duration = Duration::from_secs(3600);
/// Of a tunnel whose keys cannot be renewed, as often as somebody is told.
const AGAIN: Duration = Duration::from_secs(600);

/// The ways, and what was told already.
#[derive(Default)]
pub(crate) struct Teller {
    ways: Notices,
    next_look: Option<Instant>,
    /// Days that were told of a tunnel's certificate, so that nobody is told each hour.
    certificates: BTreeMap<(String, String), i64>,
    rekeys: BTreeMap<(String, String), Instant>,
    /// Tunnels that were told to be up: their end is worth telling.
    up: BTreeSet<(String, String)>,
}

impl Daemon {
    /// Has the ways that the configuration names, and no others.
    pub(crate) fn settle_notices(&mut self) {
        let ways = self.config.notices.iter().map(|notice| (notice.name.clone(), way(notice))).collect();
        self.teller.ways.set(ways);
        // New ones hear of certificates at once.
        self.teller.next_look = None;
    }

    /// Tells of something, who asked for it.
    pub(crate) fn tell(&self, on: NoticeOn, connection: &str, tunnel: &str, text: &str) {
        let wants = |notice: &&Notice| {
            let of = &notice.connections;
            notice.on.contains(&on) && (of.is_empty() || of.iter().any(|name| name == connection))
        };
        let mut wanting = self.config.notices.iter().filter(wants).peekable();
        if wanting.peek().is_none() {
            return;
        }
        let happening = happening(on.as_str(), connection, tunnel, text);
        for notice in wanting {
            self.teller.ways.tell(&notice.name, &happening);
        }
    }

    /// A tunnel came up, or is not up any more. One that was never up is not told to be down.
    fn tell_state(&mut self, connection: &str, tunnel: &str, up: bool, text: &str) {
        let key = (connection.to_owned(), tunnel.to_owned());
        let changed = if up { self.teller.up.insert(key) } else { self.teller.up.remove(&key) };
        if changed {
            self.tell(if up { NoticeOn::Up } else { NoticeOn::Down }, connection, tunnel, text);
        }
    }

    /// The same, with the cause.
    pub(crate) fn tell_change(&mut self, id: TunnelId, connection: &str, tunnel: &str, up: bool) {
        let text = if up {
            "the tunnel is up".to_owned()
        } else {
            let cause =
                self.configured(id).and_then(|(connection, tunnel)| self.state_of(connection, tunnel).2);
            cause.map_or("the tunnel is down".to_owned(), |cause| format!("the tunnel is down: {cause}"))
        };
        self.tell_state(connection, tunnel, up, &text);
    }

    /// A tunnel that carries traffic could not be given new keys.
    pub(crate) fn tell_rekey(&mut self, connection: &str, tunnel: &str, text: &str) {
        let key = (connection.to_owned(), tunnel.to_owned());
        let now = Instant::now();
        if self.teller.rekeys.get(&key).is_none_or(|told| now.duration_since(*told) >= AGAIN) {
            self.teller.rekeys.insert(key, now);
            self.tell(NoticeOn::Rekey, connection, tunnel, text);
        }
    }

    /// Looks at the end of our own certificates, now and then.
    pub(crate) fn look_at_certificates(&mut self) {
        let now = Instant::now();
        if self.teller.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.teller.next_look = Some(now + LOOK);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut found = Vec::new();
        for connection in &self.config.connections {
            for tunnel in &connection.tunnels {
                let credentials = match &tunnel.auth.local {
                    LocalProof::Certificate { credentials, .. } | LocalProof::EapTls { credentials, .. } => {
                        credentials
                    }
                    _ => continue,
                };
                // The one of the chain that ends first.
                let ends = credentials.chain().iter().filter_map(|der| Facts::of(der).ok());
                let Some(end) = ends.map(|facts| facts.not_after).min() else { continue };
                if let Some(days) = days_left(end, unix) {
                    found.push(((connection.name.clone(), tunnel.name.clone()), days));
                }
            }
        }
        self.teller.certificates.retain(|key, _| found.iter().any(|(other, _)| other == key));
        for ((connection, tunnel), days) in found {
            let told = self.teller.certificates.insert((connection.clone(), tunnel.clone()), days);
            if told == Some(days) {
                continue;
            }
            let text = if days < 0 {
                "the certificate of this side has expired: the peer refuses it".to_owned()
            } else {
                format!("the certificate of this side expires in {days} days")
            };
            tracing::warn!(connection, tunnel, "{text}");
            self.tell(NoticeOn::Certificate, &connection, &tunnel, &text);
        }
    }

    /// Sends something that did not happen, to see whether it arrives.
    pub(crate) fn test_notice(&self, name: &str) -> Response {
        let text = "a test, asked for by `culvert notice test`: nothing has happened";
        if self.teller.ways.tell(name, &happening("test", "", "", text)) {
            return Response::done(format!("sent; `culvert notice list` shows whether {name} took it"));
        }
        Response::error(
            ErrorCode::UnknownTarget,
            format!("there is no notice `{name}`"),
            "`culvert notice list` lists them; a new one needs `culvert reload`",
        )
    }

    /// What each way has done.
    pub(crate) fn notices(&self) -> Vec<culvert_api::Notice> {
        let status = |(name, way, counts): (&str, &Way, culvert_notice::Counts)| culvert_api::Notice {
            name: name.to_owned(),
            way: format!("{way:?}"),
            told: counts.told,
            failed: counts.failed,
            dropped: counts.dropped,
            error: counts.error,
        };
        self.teller.ways.counts().map(status).collect()
    }

    /// Forgets what was told of tunnels that are no longer configured.
    pub(crate) fn forget_told(&mut self) {
        let config = &self.config;
        let configured = |(c, t): &(String, String)| {
            config.connection(c).is_some_and(|connection| connection.tunnel(t).is_some())
        };
        self.teller.rekeys.retain(|key, _| configured(key));
        self.teller.up.retain(configured);
    }
}

/// Whole days until then, if they are few; below zero if it is over.
fn days_left(end: u64, now: Duration) -> Option<i64> {
    let left = i64::try_from(end).ok()? - i64::try_from(now.as_secs()).ok()?;
    (left < i64::try_from(SOON.as_secs()).ok()?).then(|| left.div_euclid(86_400))
}

fn happening(event: &'static str, connection: &str, tunnel: &str, text: &str) -> Happening {
    let gateway = std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    Happening {
        event,
        time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        gateway: gateway.unwrap_or_default(),
        connection: connection.to_owned(),
        tunnel: tunnel.to_owned(),
        text: text.to_owned(),
    }
}

fn way(notice: &Notice) -> Way {
    let how = match &notice.how {
        NoticeHow::Command(program, arguments) => How::Command(program.clone(), arguments.clone()),
        NoticeHow::Webhook { url, secret, authorities } => How::Webhook(Webhook {
            url: url.clone(),
            secret: secret.as_ref().map(|secret| Zeroizing::new(secret.as_bytes().to_vec())),
            authorities: authorities.clone(),
        }),
    };
    Way { how, timeout: notice.timeout, retries: notice.retries }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_of_in_their_last_days() {
        let day = 86_400;
        let now = Duration::from_secs(1000 * day);
        for (end, days) in [(1040, None), (1030, None), (1029, Some(29)), (1000, Some(0)), (999, Some(-1))] {
            assert_eq!(days_left(end * day, now), days, "{end}");
        }
    }
}
