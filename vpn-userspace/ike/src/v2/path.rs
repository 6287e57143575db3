//! Where an IKE SA's messages go when the peer is seen elsewhere, without MOBIKE (RFC 7296 2.23).

use std::net::SocketAddr;

use super::ctx::{Ctx, log};
use super::sa::{IkeSa, Task};
use crate::Event;

impl IkeSa {
    /// RFC 7296 2.23: the way of an authentic message is the way back, unless we alone are behind a NAT.
    pub(crate) fn follow(&mut self, ctx: &mut Ctx<'_>, local: SocketAddr, remote: SocketAddr) {
        // RFC 4555 3.5: with MOBIKE, addresses change when the peer says so.
        let (mobile, path) = (self.carried.mobility.is_some(), &mut self.path);
        if mobile || (path.local, path.remote) == (local, remote) || (path.nat_local && !path.nat_remote) {
            return;
        }
        // Without encapsulation the ports are IKE's own affair.
        let same_hosts = (path.local.ip(), path.remote.ip()) == (local.ip(), remote.ip());
        (path.local, path.remote) = (local, remote);
        if !same_hosts || path.encap {
            log!(info, self.config.name, "the peer moved to {remote} (here {local})");
            let encap = self.path.encap;
            ctx.event(Event::PeerMoved { tunnel: self.tunnel, local, remote, encap });
        }
    }

    /// Authentic ESP came from there. RFC 7296 2.23: a peer behind a NAT is where its last valid packet came from.
    pub(crate) fn seen_at(&mut self, ctx: &mut Ctx<'_>, remote: SocketAddr) {
        if self.path.nat_remote && self.path.encap && remote != self.path.remote {
            self.follow(ctx, self.path.local, remote);
        }
        if self.window.free().is_some() {
            self.queue(Task::Liveness);
        }
    }
}
