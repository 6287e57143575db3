//! The gateway's routes, put into the kernel and taken out of it.

use culvert_sys::netlink;

use crate::daemon::Daemon;

impl Daemon {
    fn kernel_route(&self, route: &culvert_gateway::Route) -> Option<netlink::Route> {
        use culvert_gateway::Via;
        Some(match &route.via {
            Via::Unreachable => netlink::Route::unreachable(route.destination, route.metric),
            Via::Tunnel(id) => netlink::Route::via_device(
                route.destination,
                self.index_towards(*id, route.destination)?,
                route.metric,
            ),
            Via::Tunnels(several) => {
                let hop = |(id, weight): &_| Some((self.index_towards(*id, route.destination)?, *weight));
                let hops = several.iter().filter_map(hop).collect();
                netlink::Route::balanced(route.destination, hops, route.metric)
            }
        })
    }

    pub(crate) async fn add_route(&self, route: &culvert_gateway::Route) {
        let Some(wanted) = self.kernel_route(route) else { return };
        if let Err(error) = self.netlink.replace_route(&wanted).await {
            tracing::error!("cannot put the route to {}: {error}", route.destination);
        }
    }

    pub(crate) async fn remove_route(&self, route: &culvert_gateway::Route) {
        // The kernel took it away with its interface.
        let Some(old) = self.kernel_route(route) else { return };
        if let Err(error) = self.netlink.delete_route(&old).await
            && !error.kernel().is_some_and(|kernel| kernel.is_missing())
        {
            tracing::warn!("cannot remove the route to {}: {error}", route.destination);
        }
    }

    /// Removes routes of ours that no connection wants: what a crash left behind.
    pub(crate) async fn sweep_routes(&self) {
        let wanted: Vec<netlink::Route> =
            self.gateway.routes().filter_map(|r| self.kernel_route(r)).collect();
        let stands = |found: &netlink::Route| {
            wanted.iter().any(|w| w.destination == found.destination && w.metric == found.metric)
        };
        match self.netlink.routes().await {
            Ok(routes) => {
                for route in routes.iter().filter(|r| !stands(r)) {
                    if let Err(error) = self.netlink.delete_route(route).await {
                        tracing::warn!("cannot remove a stale route to {}: {error}", route.destination);
                    }
                }
            }
            Err(error) => tracing::warn!("cannot list routes: {error}"),
        }
    }
}
