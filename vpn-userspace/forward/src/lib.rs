//! Port forwards: what comes to an address of this side goes on to one of the far side, by TCP or UDP.
//!
//! A proxy in user space: the way to the far side is an ordinary socket, so that routes decide which tunnel carries it, and
//! a connection outlives the tunnel that it began in. Listeners are opened and closed while the others run; connections of a
//! forward that is taken away end.

mod budget;
mod counters;
mod origin;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::AbortHandle;

pub use budget::Budget;
pub use counters::Counted;
use counters::Counters;
pub use origin::{Origin, Purpose};

/// A forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where clients come to. For UDP no wildcard: answers must come from the address that was asked.
    pub listen: SocketAddr,
    /// Where it leads.
    pub to: Destination,
    /// The address of this host that the far side sees; `None`: what routes say.
    pub source: Option<IpAddr>,
    /// From where clients may come; empty: from anywhere.
    pub allow: Vec<IpNet>,
    /// Connections, or UDP clients, at once.
    pub most: usize,
    /// A connection, or a UDP client, that is silent for so long is forgotten.
    pub idle: Duration,
    /// What it shares with other forwards, from [`Forwards::budget`].
    pub budgets: Vec<Arc<Budget>>,
    /// Whence its sockets come.
    pub origin: Origin,
}

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Where a forward leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// There.
    Address(SocketAddr),
    /// To whatever this name means when a client comes.
    Name(String, u16),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Destination {
    /// The addresses to try, in turn.
    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Name(name, port) => {
                let found: Vec<_> = tokio::net::lookup_host((name.as_str(), *port)).await?.take(8).collect();
                if found.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
                }
                Ok(found)
            }
        }
    }
}

/// Why a forward cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Another program has the port.
    #[error(
        "{protocol} {listen} is taken by another program; `ss -lnp` tells by which: write another `listen`"
    )]
    Taken {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where.
        listen: SocketAddr,
    },
    /// No such address here.
    #[error("this host has no address {}: write one of its own, or 127.0.0.1, into `listen`", .0.ip())]
    NoAddress(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {protocol} {listen}: {cause}")]
    Listen {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where.
        listen: SocketAddr,
        /// What the kernel says.
        cause: io::Error,
    },
}

impl ForwardError {
    fn new(forward: &Forward, cause: io::Error) -> Self {
        let (protocol, listen) = (forward.protocol, forward.listen);
        match cause.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { protocol, listen },
            io::ErrorKind::AddrNotAvailable => Self::NoAddress(listen),
            _ => Self::Listen { protocol, listen, cause },
        }
    }
}

/// The forwards that run, by name.
#[derive(Debug, Default)]
pub struct Forwards {
    running: BTreeMap<String, Running>,
    budgets: BTreeMap<String, Arc<Budget>>,
}

#[derive(Debug)]
struct Running {
    forward: Forward,
    listen: SocketAddr,
    counters: Arc<Counters>,
    /// Ends the listener and everything that came by it.
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwards {
    /// Starts a forward, in place of one of the same name; of one that is the same already, nothing changes. To be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// When it cannot listen; then the one of that name is gone all the same, unless it was the same.
    pub async fn set(&mut self, name: &str, forward: Forward) -> Result<(), ForwardError> {
        if self.running.get(name).is_some_and(|running| running.forward == forward) {
            return Ok(());
        }
        // Its counters go on: the name is what people look at.
        let before = self.running.remove(name).map(|running| Arc::clone(&running.counters));
        let counters = before.unwrap_or_default();
        let error = |cause| ForwardError::new(&forward, cause);
        let (listen, task) = match forward.protocol {
            Protocol::Tcp => tcp::start(name, &forward, Arc::clone(&counters)).await.map_err(error)?,
            Protocol::Udp => udp::start(name, &forward, Arc::clone(&counters)).await.map_err(error)?,
        };
        self.running.insert(name.to_owned(), Running { forward, listen, counters, task });
        Ok(())
    }

    /// The budget of that name, with so many places from now on; those who are there stay.
    pub fn budget(&mut self, name: &str, most: usize) -> Arc<Budget> {
        // Nobody has those any more.
        self.budgets.retain(|other, budget| other == name || Arc::strong_count(budget) > 1);
        let budget = self.budgets.entry(name.to_owned()).or_insert_with(|| Arc::new(Budget::new(name, most)));
        budget.set(most);
        Arc::clone(budget)
    }

    /// Clients that have a place in the budget of that name.
    pub fn taken(&self, budget: &str) -> usize {
        self.budgets.get(budget).map_or(0, |budget| budget.taken())
    }

    /// Stops a forward and everything that came by it.
    pub fn remove(&mut self, name: &str) {
        self.running.remove(name);
    }

    /// Stops those whose names are not wanted.
    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.running.retain(|name, _| wanted(name));
    }

    /// What runs: name, forward, where it listens, and what it counted, in the order of the names.
    pub fn list(&self) -> impl Iterator<Item = (&str, &Forward, SocketAddr, Counted)> {
        self.running.iter().map(|(name, r)| (name.as_str(), &r.forward, r.listen, r.counters.read()))
    }
}

/// Whether a client may come.
fn allowed(forward: &Forward, client: IpAddr) -> bool {
    forward.allow.is_empty() || forward.allow.iter().any(|net| net.contains(&client.to_canonical()))
}

#[cfg(test)]
mod tests;
