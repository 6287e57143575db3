//! The gateway's routes, put into the kernel and taken out of it.

use culvert_sys::netlink;

use crate::daemon::Daemon;

impl Daemon {
    fn kernel_route(&self, route: &culvert_gateway::Route) -> Option<netlink::Route> {
        use culvert_gateway::Via;
        let kernel = match &route.via {
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
        };
        Some(kernel.in_table(self.table_of(&route.environment)))
    }

    pub(crate) async fn add_route(&self, route: &culvert_gateway::Route) {
        // Put when its environment is set up.
        let Some(netlink) = self.netlink_of(&route.environment) else { return };
        let Some(wanted) = self.kernel_route(route) else { return };
        if let Err(error) = netlink.replace_route(&wanted).await {
            tracing::error!("cannot put the route to {}: {error}", route.destination);
        }
    }

    pub(crate) async fn remove_route(&self, route: &culvert_gateway::Route) {
        let Some(netlink) = self.netlink_of(&route.environment) else { return };
        // The kernel took it away with its interface.
        let Some(old) = self.kernel_route(route) else { return };
        if let Err(error) = netlink.delete_route(&old).await
            && !error.kernel().is_some_and(|kernel| kernel.is_missing())
        {
            tracing::warn!("cannot remove the route to {}: {error}", route.destination);
        }
    }

    /// Removes routes of ours that no connection wants: what a crash left behind, in every environment.
    pub(crate) async fn sweep_routes(&self) {
        let all = std::iter::once((None, &self.netlink));
        let all =
            all.chain(self.environments.namespaces().map(|(namespace, netlink)| (Some(namespace), netlink)));
        for (namespace, netlink) in all {
            let here = |r: &&culvert_gateway::Route| {
                let of = self.environments.get(&r.environment).and_then(|made| made.namespace());
                of.map(|of| of.name()) == namespace.map(|n| n.name())
            };
            let routes = self.gateway.routes().filter(here);
            let wanted: Vec<netlink::Route> = routes.filter_map(|r| self.kernel_route(r)).collect();
            let stands = |found: &netlink::Route| {
                self.environments.keeps(found)
                    || wanted.iter().any(|w| {
                        (w.destination, w.metric, w.table) == (found.destination, found.metric, found.table)
                    })
            };
            match netlink.routes().await {
                Ok(routes) => {
                    for route in routes.iter().filter(|r| !stands(r)) {
                        if let Err(error) = netlink.delete_route(route).await {
                            tracing::warn!("cannot remove a stale route to {}: {error}", route.destination);
                        }
                    }
                }
                Err(error) => tracing::warn!("cannot list routes: {error}"),
            }
        }
    }
}
