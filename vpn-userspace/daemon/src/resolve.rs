//! Peers by name: the system's resolver is asked beside the event loop, before every attempt, and the addresses that it
//! gives are tried in turn.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use culvert_api::Reason;
use culvert_gateway::{Input, Loss};
use culvert_ike::Command;
use culvert_types::TunnelId;
use tokio::sync::mpsc;

use crate::daemon::Daemon;
use crate::plan;

/// How long the resolver may take.
const LOOK_UP: Duration = Duration::from_secs(10);
/// How long one of several addresses may stay silent before the next is tried.
const TRY: Duration = Duration::from_secs(15);

/// What the resolver said.
pub(crate) struct Found {
    pub(crate) tunnel: TunnelId,
    pub(crate) answer: Result<Vec<IpAddr>, String>,
}

/// The questions to the resolver.
pub(crate) struct Names {
    sender: mpsc::UnboundedSender<Found>,
    asked: BTreeSet<TunnelId>,
}

impl Names {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Found>) {
        let (sender, found) = mpsc::unbounded_channel();
        (Self { sender, asked: BTreeSet::new() }, found)
    }

    /// Asks for the addresses of a host, unless that is under way.
    pub(crate) fn look_up(&mut self, tunnel: TunnelId, name: &str) {
        if !self.asked.insert(tunnel) {
            return;
        }
        let (sender, name) = (self.sender.clone(), name.to_owned());
        tokio::spawn(async move {
            // getaddrinfo on a thread for what blocks: /etc/hosts, DNS and whatever else nsswitch.conf names.
            let looked = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((name.as_str(), 0))).await;
            let answer = match looked {
                Ok(Ok(addresses)) => {
                    let mut list: Vec<IpAddr> = Vec::new();
                    for address in addresses.map(|a| a.ip()) {
                        if !list.contains(&address) {
                            list.push(address);
                        }
                    }
                    Ok(list)
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer in {} s", LOOK_UP.as_secs())),
            };
            // Nobody listens while culvertd stops.
            let _ = sender.send(Found { tunnel, answer });
        });
    }
}

/// The addresses of a peer, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    addresses: Vec<IpAddr>,
    next: usize,
}

impl Turn {
    /// What the resolver said last. The turn stays where it is: the resolver may well answer in another order.
    pub(crate) fn refresh(&mut self, addresses: Vec<IpAddr>) {
        let due = self.addresses.get(self.next % self.addresses.len().max(1)).copied();
        self.next = due.and_then(|due| addresses.iter().position(|a| *a == due)).unwrap_or(0);
        self.addresses = addresses;
    }

    /// The next to try.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        let due = self.addresses.get(self.next % self.addresses.len().max(1)).copied();
        self.next = (self.next + 1) % self.addresses.len().max(1);
        due
    }

    /// This one answered: it is the first to try next time.
    pub(crate) fn answered(&mut self, address: IpAddr) {
        self.next = self.addresses.iter().position(|a| *a == address).unwrap_or(self.next);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }
}

/// A tunnel's peer that has a name.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) turn: Turn,
    /// The address that is tried or in use.
    pub(crate) in_use: Option<IpAddr>,
    /// When the next one is tried.
    pub(crate) until: Option<Instant>,
}

impl Named {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), turn: Turn::default(), in_use: None, until: None }
    }
}

impl Daemon {
    /// Begins a negotiation; a peer with a name is looked up first.
    pub(crate) fn initiate(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        if let Some(named) = &tunnel.named {
            tunnel.began = Some(Instant::now());
            return self.names.look_up(id, &named.name);
        }
        self.negotiate(id);
    }

    /// The resolver has answered.
    pub(crate) async fn on_found(&mut self, found: Found) {
        let Found { tunnel: id, answer } = found;
        self.names.asked.remove(&id);
        let configured =
            self.tunnels.get(&id).and_then(|t| self.config.connection(&t.connection)?.tunnel(&t.name));
        let local = configured.and_then(|t| t.local_address);
        let Some(named) = self.tunnels.get_mut(&id).and_then(|t| t.named.as_mut()) else { return };
        let name = named.name.clone();
        let fits = |a: &IpAddr| local.is_none_or(|l| l.is_ipv4() == a.is_ipv4());
        match answer {
            Ok(all) => {
                let fitting: Vec<IpAddr> = all.iter().copied().filter(fits).collect();
                if fitting.is_empty() {
                    let told = if all.is_empty() { "none".to_owned() } else { list(&all) };
                    let mend =
                        "let the name have an address of the family of local_address, or leave that out";
                    return self.unreachable(
                        id,
                        format!("{name} has no address that fits; it has: {told}"),
                        mend,
                    );
                }
                named.turn.refresh(fitting);
                self.try_next(id).await;
            }
            Err(said) => {
                let mend = "correct remote_address, or see that the resolver (/etc/resolv.conf) answers here";
                self.unreachable(id, format!("{name} cannot be resolved: {said}"), mend);
            }
        }
    }

    /// Negotiates with the next of the peer's addresses that a way leads to.
    async fn try_next(&mut self, id: TunnelId) {
        let Some(named) = self.tunnels.get(&id).and_then(|t| t.named.as_ref()) else { return };
        let (name, count) = (named.name.clone(), named.turn.len());
        let mut why = Vec::new();
        for _ in 0..count {
            let named = self.tunnels.get_mut(&id).and_then(|t| t.named.as_mut());
            let Some(address) = named.and_then(|n| n.turn.take()) else { break };
            match self.aim(id, address).await {
                Ok(()) => {
                    if let Some(named) = self.tunnels.get_mut(&id).and_then(|t| t.named.as_mut()) {
                        named.in_use = Some(address);
                        named.until = (count > 1).then(|| Instant::now() + TRY);
                    }
                    return self.negotiate(id);
                }
                Err(error) => why.push(format!("{address}: {error:#}")),
            }
        }
        let mend = "add a route, or correct remote_address";
        self.unreachable(id, format!("no way leads to {name}: {}", why.join("; ")), mend);
    }

    /// Tells the IKE core which address the peer has now.
    async fn aim(&mut self, id: TunnelId, remote: IpAddr) -> anyhow::Result<()> {
        let entry = self.tunnels.get(&id).context("the tunnel is gone")?;
        let engine = self.plane.preferred(id, None).unwrap_or(entry.report.engine);
        let parity = Some(self.plane.spi_parity(engine));
        let Some(connection) = self.config.connection(&entry.connection).cloned() else {
            bail!("it is gone")
        };
        let Some(tunnel) = connection.tunnel(&entry.name).cloned() else { bail!("it is gone") };
        if !self.is_enabled(&connection.name, &tunnel) {
            return Ok(());
        }
        let local = plan::local_address(&tunnel, Some(remote), &self.netlink, &self.wan_addresses).await?;
        self.listen_on(local).await?;
        let force = plan::force_encap(&connection, engine);
        let ends = (local, Some(remote));
        let mut peer = plan::peer(&self.config, &connection, &tunnel, ends, force, parity)?;
        self.take_additional(id, &connection, &mut peer.exchange);
        self.ike.handle_command(Instant::now(), Command::AddPeer(id, Box::new(peer)))?;
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.local = local;
        }
        Ok(())
    }

    /// Passes to the next address where one of several does not answer.
    pub(crate) async fn next_addresses(&mut self) {
        let now = Instant::now();
        let silent = |named: &Named| named.until.is_some_and(|until| until <= now);
        let due: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| t.ike.is_none() && t.named.as_ref().is_some_and(silent))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let _ = self.ike.handle_command(now, Command::Terminate(id, false));
            self.settle().await;
            self.try_next(id).await;
        }
    }

    /// A peer that has a name answered.
    pub(crate) fn answered(&mut self, id: TunnelId, remote: IpAddr) {
        if let Some(named) = self.tunnels.get_mut(&id).and_then(|t| t.named.as_mut()) {
            named.turn.answered(remote);
            (named.in_use, named.until) = (Some(remote), None);
        }
    }

    fn unreachable(&mut self, id: TunnelId, cause: String, mend: &str) {
        let Some(entry) = self.tunnels.get(&id) else { return };
        let (connection, tunnel) = (entry.connection.clone(), entry.name.clone());
        tracing::warn!(connection, tunnel, "{cause}; fault: configuration; to mend: {mend}");
        let reason = Reason {
            phase: "name resolution".to_owned(),
            cause: cause.clone(),
            fault: culvert_ike::Blame::Configuration.to_string(),
            ours: String::new(),
            theirs: String::new(),
            mend: mend.to_owned(),
            rule: "RFC 1123 6.1".to_owned(),
        };
        self.history.refused(&connection, &tunnel, reason);
        let text = format!("{cause}; to mend: {mend}");
        self.gateway.handle(Instant::now(), Input::Lost(id, Loss::Failed, text));
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tried_in_turn_and_the_one_that_answered_comes_first() {
        let ips = |list: &[u8]| list.iter().map(|n| IpAddr::from([192, 0, 2, *n])).collect::<Vec<_>>();
        let one = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let mut turn = Turn::default();
        assert_eq!(turn.take(), None);
        turn.refresh(ips(&[1, 2, 3]));
        assert_eq!([turn.take(), turn.take(), turn.take(), turn.take()], [one(1), one(2), one(3), one(1)]);
        // In whatever order the resolver names them.
        turn.refresh(ips(&[3, 2, 1]));
        assert_eq!([turn.take(), turn.take()], [one(2), one(1)]);
        turn.answered(IpAddr::from([192, 0, 2, 2]));
        assert_eq!(turn.take(), one(2));
        // One that is gone is not tried again.
        turn.refresh(ips(&[9]));
        assert_eq!([turn.take(), turn.take()], [one(9), one(9)]);
    }
}
