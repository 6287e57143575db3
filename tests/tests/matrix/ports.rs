//! Ports of the engine `user`, and the engine `bpf`.

use anyhow::ensure;
use culvert_tests::matrix::Cell;

const THEME: &str = "ports";

pub(crate) fn rows() -> Vec<Cell> {
    // strongSwan's ESP comes in UDP here.
    vec![
        Cell::new(THEME, "wan_xsk", "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .ours("wan_port", "\"xsk\"")
            .then("the WAN is AF_XDP's", |pair| {
                let site = pair.culvert.site()?;
                ensure!(site.0["wan_port"] == "xsk" && site.child()["encap"] == "udp", "{:#}", site.0);
                Ok(())
            })
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net")),
        Cell::new(THEME, "engine_bpf", "aes128gcm16-prfsha256-ecp256", "chacha20poly1305-ecp256")
            .ours("engine", "\"bpf\"")
            .then("the engine is bpf", |pair| {
                let site = pair.culvert.site()?;
                ensure!(site.0["engine"] == "bpf", "{:#}", site.0);
                Ok(())
            })
            .then("Culvert rekeys the child", |pair| pair.culvert.rekey_child())
            .then("strongSwan rekeys the IKE SA", |pair| pair.swan.rekey_ike("site")),
    ]
}
