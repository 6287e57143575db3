//! Where a forward's sockets are made: in this namespace as they are, or as somebody else makes them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::Protocol;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To listen there for clients.
    Listen(SocketAddr),
    /// To go to the far side.
    Reach,
}

/// Makes a socket, non-blocking and closed on exec, of this protocol; IPv4 or else IPv6.
type Make = dyn Fn(Protocol, bool, Purpose) -> io::Result<OwnedFd> + Send + Sync;

/// Whence the sockets of a forward come. Two of the same name are the same.
#[derive(Clone)]
pub struct Origin {
    name: String,
    make: Option<Arc<Make>>,
}

impl Default for Origin {
    /// This namespace, as it routes.
    fn default() -> Self {
        Self { name: String::new(), make: None }
    }
}

impl Origin {
    /// Sockets that `make` makes.
    pub fn new(
        name: impl Into<String>,
        make: impl Fn(Protocol, bool, Purpose) -> io::Result<OwnedFd> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), make: Some(Arc::new(make)) }
    }

    /// A socket that is bound to nothing yet.
    pub(crate) fn socket(&self, protocol: Protocol, ipv4: bool, purpose: Purpose) -> io::Result<Socket> {
        if let Some(make) = &self.make {
            return Ok(Socket::from(make(protocol, ipv4, purpose)?));
        }
        let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
        let kind = match protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        let socket = Socket::new(domain, kind, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.name).finish()
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Origin {}
