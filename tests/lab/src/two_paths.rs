//! A second address at each gateway, and with it a second path for a second tunnel; what cuts the first.

use anyhow::Result;

use crate::culvert::Connection;
use crate::topology::{Site, WAN_A, WAN_B};

/// The second address of gateway A.
pub const WAN_A_TOO: &str = "198.51.100.2";
/// The second address of gateway B.
pub const WAN_B_TOO: &str = "203.0.113.2";

/// From where a side checks a tunnel: answers come back by the tunnel whose source it is.
pub fn source(at_a: bool, tunnel: &str) -> String {
    format!("10.{}.0.{}", if at_a { 1 } else { 2 }, if tunnel == "a" { 3 } else { 4 })
}

/// Gives both gateways their second WAN address and the sources of their health checks.
///
/// # Errors
/// When `ip` fails.
pub fn prepare(site: &Site) -> Result<()> {
    site.gateway_a.ip(&format!("addr add {WAN_A_TOO}/24 dev wan"))?;
    site.gateway_b.ip(&format!("addr add {WAN_B_TOO}/24 dev wan"))?;
    for (gateway, at_a, six) in [(&site.gateway_a, true, "fd01"), (&site.gateway_b, false, "fd02")] {
        for (tunnel, last) in [("a", 3), ("b", 4)] {
            gateway.ip(&format!("addr add {}/24 dev lan", source(at_a, tunnel)))?;
            gateway.ip(&format!("addr add {six}::{last}/64 dev lan nodad"))?;
        }
    }
    Ok(())
}

/// Adds the tunnel `b`, which is as the first but between the gateways' second addresses (of side B: this one).
pub fn second_tunnel(connection: &mut Connection, at_a: bool, second_b: &str) {
    let mut second = connection.tunnels[0].clone();
    second.name = "b".into();
    let (own, other) = if at_a { (WAN_A_TOO, second_b) } else { (second_b, WAN_A_TOO) };
    (second.local_address, second.remote_address) = (own.into(), Some(other.into()));
    connection.tunnels.push(second);
}

/// Lets nothing through between the first addresses, or all again.
///
/// # Errors
/// When `nft` fails.
pub fn cut(site: &Site, cut: bool) -> Result<()> {
    let rule = format!(
        "table inet cut {{ chain path {{ type filter hook forward priority 0; ip saddr {{ {WAN_A}, {WAN_B} }} drop\n }}\n }}"
    );
    let command = if cut { rule } else { "delete table inet cut".to_owned() };
    site.wan.run("nft", &[&command]).map(drop)
}
