//! Names of interfaces that change, and the reverse-path filter that must not see a packet on the one of two.

use rtnetlink::LinkUnspec;

use super::{Netlink, NetlinkError};

impl Netlink {
    /// Gives an interface that may be up another name. Before Linux 6.2 one that is up keeps its name: EBUSY.
    pub async fn rename(&self, name: &str, new: &str) -> Result<(), NetlinkError> {
        let index = self.link(name).await?.index;
        let change = LinkUnspec::new_with_index(index).name(new.to_owned()).build();
        self.handle
            .link()
            .change(change)
            .execute()
            .await
            .map_err(|e| NetlinkError::from_rtnetlink(format!("rename interface {name} to {new}"), e))
    }

    /// Gives an interface a further name, by which rtnetlink finds it (Linux 5.5).
    pub async fn add_name(&self, name: &str, further: &str) -> Result<(), NetlinkError> {
        let index = self.link(name).await?.index;
        let names = [further];
        self.handle.link().property_add(index).alt_ifname(&names).execute().await.map_err(|e| {
            NetlinkError::from_rtnetlink(format!("give interface {name} the further name {further}"), e)
        })
    }
}

/// Has the reverse-path filter of IPv4 take packets of sources that are routed to another interface, if it is strict
/// (RFC 3704 2.2 and 2.4), and returns what to give [`filter_again`]; `None` if nothing had to be changed.
pub fn filter_loosely(interface: &str) -> Option<String> {
    let read = |interface: &str| std::fs::read_to_string(setting(interface)).ok();
    let (own, all) = (read(interface)?, read("all")?);
    let strictest = own.trim().max(all.trim());
    if strictest != "1" || std::fs::write(setting(interface), "2").is_err() {
        return None;
    }
    Some(own)
}

/// Puts back what [`filter_loosely`] returned.
pub fn filter_again(interface: &str, before: &str) {
    // An interface that is gone needs no filter.
    let _ = std::fs::write(setting(interface), before);
}

fn setting(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter")
}
