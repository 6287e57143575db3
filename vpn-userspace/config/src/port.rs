//! Engines and ports of a connection: what their keys mean together.

use crate::error::Fault;
use crate::file::{RawConnection, RawFile};
use crate::model::{Attach, Encap, Engine, Guard};
use crate::section::At;

/// `wan_port`: how packets of the engine `user` reach the WAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WanPort {
    /// By UDP, or by a raw socket, as `encap` says.
    Auto,
    /// UDP with segmentation offload.
    Udp,
    /// A raw socket: ESP is IP protocol 50.
    Raw,
    /// AF_XDP.
    Xsk,
}

/// `lan_port`: how packets of the LAN reach the engine `user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanPort {
    /// By the tunnel's device.
    Auto,
    /// The same.
    Tun,
    /// AF_XDP at the devices of `[gateway] lan`.
    Xsk,
}

/// `lan_port = "xsk"`: which engine has it, and where.
pub(crate) fn lan(raw: &RawFile, faults: &mut Vec<Fault>) {
    for connection in &raw.connections {
        let Some(port) = connection.lan_port.as_ref().filter(|p| *p.get_ref() == LanPort::Xsk) else {
            continue;
        };
        let kernel = |e: &&At<Engine>| [Engine::Xfrm, Engine::Bpf].contains(e.get_ref());
        if let Some(engine) = connection.engine.as_ref().filter(kernel) {
            faults.push(
                Fault::new("`lan_port` belongs to the engine `user`")
                    .at(port.span(), "no meaning here")
                    .at(engine.span(), "what works in the kernel has no ports")
                    .help("take `lan_port` out, or write engine = \"user\""),
            );
        }
        let of = |names: &Option<At<Vec<At<String>>>>| -> Vec<String> {
            names.iter().flat_map(|n| n.get_ref()).map(|n| n.get_ref().clone()).collect()
        };
        let (lan, wan) = (of(&raw.gateway.lan), of(&raw.gateway.wan));
        if !lan.iter().any(|name| !wan.contains(name)) {
            faults.push(
                Fault::new("`lan_port = \"xsk\"` needs a LAN interface")
                    .at(port.span(), "AF_XDP takes packets at interfaces")
                    .help("name the interfaces of the local networks in [gateway]: lan = [\"eth1\"]; none that `wan` has"),
            );
        }
        if raw.gateway.guard.as_ref().is_some_and(|g| *g.get_ref() == Guard::Off) {
            faults.push(
                Fault::new("`lan_port = \"xsk\"` needs the guard's programs")
                    .at(port.span(), "gets its packets from them")
                    .help("take `guard = \"off\"` out of [gateway], or write guard = \"learn\""),
            );
        }
    }
}

/// `encap`, and `wan_port`, which says the same in the words of ports.
pub(crate) fn encap(raw: &RawConnection, faults: &mut Vec<Fault>) -> Encap {
    let encap = raw.encap.as_ref().map_or(Encap::Auto, |e| *e.get_ref());
    let Some(port) = &raw.wan_port else { return encap };
    let from_port = match port.get_ref() {
        WanPort::Auto => return encap,
        WanPort::Udp => Encap::Udp,
        WanPort::Raw => Encap::Esp,
        // Carries both.
        WanPort::Xsk => encap,
    };
    if let Some(engine) = raw.engine.as_ref().filter(|e| [Engine::Xfrm, Engine::Bpf].contains(e.get_ref())) {
        faults.push(
            Fault::new("`wan_port` belongs to the engine `user`")
                .at(port.span(), "no meaning here")
                .at(engine.span(), "what works in the kernel has no ports")
                .help("take `wan_port` out, or write engine = \"user\""),
        );
    }
    if let Some(written) = raw.encap.as_ref().filter(|e| ![Encap::Auto, from_port].contains(e.get_ref())) {
        faults.push(
            Fault::new("`wan_port` and `encap` contradict each other")
                .at(port.span(), if from_port == Encap::Udp { "in UDP" } else { "as IP protocol 50" })
                .at(written.span(), if from_port == Encap::Udp { "as IP protocol 50" } else { "in UDP" })
                .help("take one of them out"),
        );
    }
    from_port
}

/// AF_XDP gets its packets from XDP, and nowhere else.
pub(crate) fn xsk_needs_xdp(raw: &RawFile, faults: &mut Vec<Fault>) {
    let Some(attach) = raw.gateway.attach.as_ref().filter(|a| *a.get_ref() == Attach::Tcx) else { return };
    let ports = raw.connections.iter().filter_map(|c| c.wan_port.as_ref());
    for port in ports.filter(|p| *p.get_ref() == WanPort::Xsk) {
        faults.push(
            Fault::new("AF_XDP gets its packets from XDP")
                .at(port.span(), "needs XDP")
                .at(attach.span(), "is not XDP")
                .help("take `attach` out, or write attach = \"xdp-native\" or \"xdp-generic\""),
        );
    }
}
