//! Addresses of this host that change: what each IKE SA does about it.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use culvert_types::TunnelId;

use super::{AnySa, Endpoint};
use crate::v2::Sa;
use crate::v2::sa::Task;
use crate::{CommandError, DownReason, PeerConfig};

impl Endpoint {
    /// Peers that know MOBIKE are told which addresses there are (RFC 4555 3.6).
    pub(super) fn addresses(&mut self, now: Instant, addresses: Vec<IpAddr>) {
        if self.config.addresses == addresses {
            return;
        }
        self.config.addresses = addresses;
        let all: Vec<u64> = self.tunnels.values().filter_map(|t| t.current).collect();
        for key in all {
            if self.up(key).is_some_and(|sa| sa.is_mobile() && sa.serves()) {
                self.queue(now, key, Task::TellAddresses);
            }
        }
    }

    /// ESP of the tunnel proves that the peer lives.
    pub(super) fn heard(&mut self, now: Instant, tunnel: TunnelId) -> Result<(), CommandError> {
        let current = self.current(tunnel)?;
        self.step_up_v1(now, current, |sa, ctx| sa.last_heard = ctx.now);
        self.step_up(now, current, |mut sa, ctx| {
            sa.last_heard = ctx.now;
            Some(Sa::Up(sa))
        });
        Ok(())
    }

    /// ESP of the tunnel came from there.
    pub(super) fn peer_seen(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        remote: SocketAddr,
    ) -> Result<(), CommandError> {
        let current = self.current(tunnel)?;
        // IKEv1 has no such rule: its answer to a question moves it.
        self.step_up_v1(now, current, crate::v1::sa::IkeSa::ask);
        self.step_up(now, current, |mut sa, ctx| {
            sa.seen_at(ctx, remote);
            sa.send_next(ctx);
            Some(Sa::Up(sa))
        });
        Ok(())
    }

    /// Our side of the tunnel has another address.
    pub(super) fn relocate(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        local: IpAddr,
    ) -> Result<(), CommandError> {
        self.known(tunnel)?;
        let Some(config) = self.peers.get(tunnel) else { return Ok(()) };
        let mut config = PeerConfig::clone(config);
        config.local = SocketAddr::new(local, config.local.port());
        config.local_natt = SocketAddr::new(local, config.local_natt.port());
        config.check()?;
        // A client's instance has no address by which others would find it.
        if self.clients.get(tunnel).is_some() {
            self.peers.add_client(tunnel, std::sync::Arc::new(config));
        } else {
            self.peers.add(tunnel, config);
        }
        let all = self.tunnels.get(&tunnel).map(|t| t.all.clone()).unwrap_or_default();
        let mut begun = false;
        for key in all {
            let sa = self.sas.get(&key);
            begun |= matches!(sa, Some(AnySa::V2(Sa::InitSent(_) | Sa::Intermediate(_) | Sa::AuthSent(_))));
            self.terminate_v1(now, key, false);
            self.step_v2(now, key, |sa, ctx| match sa {
                Sa::Up(mut sa) => {
                    if sa.relocate(ctx, local) {
                        sa.send_next(ctx);
                        return Some(Sa::Up(sa));
                    }
                    sa.leave(ctx, DownReason::AddressChanged);
                    None
                }
                Sa::AuthSent(state) => {
                    state.forget(ctx);
                    None
                }
                Sa::InitSent(_) | Sa::Intermediate(_) => None,
                other => Some(other),
            });
        }
        // What was under way from the old address begins again from the new one.
        if begun { self.initiate(now, tunnel) } else { Ok(()) }
    }
}
