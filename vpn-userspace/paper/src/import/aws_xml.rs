//! AWS's `CustomerGatewayConfiguration`: an XML document with an `ipsec_tunnel` for each.

use roxmltree::{Document, Node, ParsingOptions};

use super::draft::{Draft, assemble, psk};
use super::{Format, ImportError, Report, name};
use crate::side::Side;

/// Elements in a document: a connection has two hundred.
const NODES: u32 = 20_000;

pub(super) fn read(text: &str, report: &mut Report) -> Result<Vec<Side>, ImportError> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| ImportError::Syntax {
        line: error.pos().row as usize,
        what: format!("not XML: {error}"),
    })?;
    let root = document.root_element();
    let line = |node: Node<'_, '_>| document.text_pos_at(node.range().start).row as usize;
    let connection = document.descendants().find(|node| node.has_tag_name("vpn_connection"));
    let id = connection.and_then(|node| node.attribute("id")).unwrap_or("aws");
    let mut drafts = Vec::new();
    for tunnel in root.descendants().filter(|node| node.has_tag_name("ipsec_tunnel")) {
        let mut draft = Draft { line: line(tunnel), ..Draft::default() };
        for leaf in tunnel.descendants().filter(|node| node.is_element()) {
            if leaf.children().any(|child| child.is_element()) {
                continue;
            }
            let value = leaf.text().unwrap_or_default().trim();
            let path = path(leaf, tunnel);
            if path == "ike/pre_shared_key" {
                draft.psk = psk(value, line(leaf), report);
            } else if set(&mut draft, &path, value, line(leaf), report) {
                report.taken(line(leaf), format!("{path}: {value}"));
            }
        }
        // The mask stands in an element of its own.
        let inside = tunnel.descendants().find(|node| {
            node.has_tag_name("tunnel_inside_address")
                && node.parent().is_some_and(|parent| parent.has_tag_name("customer_gateway"))
        });
        if let Some(inside) = inside {
            let of = |tag: &str| {
                inside
                    .children()
                    .find(|node| node.has_tag_name(tag))
                    .and_then(|node| node.text())
                    .map(str::trim)
            };
            let net =
                of("ip_address").zip(of("network_cidr")).map(|(address, bits)| format!("{address}/{bits}"));
            draft.inside = net.and_then(|net| net.parse().ok());
        }
        drafts.push(draft);
    }
    if drafts.is_empty() {
        return Err(ImportError::Empty { format: Format::AwsXml, missing: "no element <ipsec_tunnel>" });
    }
    assemble(Format::AwsXml, name(id), drafts, (Vec::new(), Vec::new()), report).map(|side| vec![side])
}

/// Names of the elements from below the tunnel to here.
fn path(leaf: Node<'_, '_>, tunnel: Node<'_, '_>) -> String {
    let mut names: Vec<&str> =
        leaf.ancestors().take_while(|node| *node != tunnel).map(|node| node.tag_name().name()).collect();
    names.reverse();
    names.join("/")
}

fn set(draft: &mut Draft, path: &str, value: &str, line: usize, report: &mut Report) -> bool {
    let number = || value.parse::<u64>().ok();
    let text = || Some(value.to_owned());
    match path {
        "customer_gateway/tunnel_outside_address/ip_address" => draft.local = value.parse().ok(),
        "vpn_gateway/tunnel_outside_address/ip_address" => draft.remote = value.parse().ok(),
        "vpn_gateway/tunnel_inside_address/ip_address" => draft.far_inside = value.parse().ok(),
        "customer_gateway/tunnel_inside_address/ip_address"
        | "customer_gateway/tunnel_inside_address/network_cidr" => {}
        "customer_gateway/bgp/asn" => draft.local_asn = value.parse().ok(),
        "vpn_gateway/bgp/asn" => draft.remote_asn = value.parse().ok(),
        "ike/version" | "ike/ike_version" => {
            draft.version =
                value.chars().last().and_then(|c| c.to_digit(10)).and_then(|v| u8::try_from(v).ok());
        }
        "ike/authentication_protocol" => (draft.ike.line, draft.ike.hash) = (line, text()),
        "ike/encryption_protocol" => (draft.ike.line, draft.ike.cipher) = (line, text()),
        "ike/perfect_forward_secrecy" => (draft.ike.line, draft.ike.group) = (line, text()),
        "ike/lifetime" => draft.ike_lifetime = number(),
        "ike/mode" => draft.aggressive = value == "aggressive",
        "ipsec/authentication_protocol" => (draft.esp.line, draft.esp.hash) = (line, text()),
        "ipsec/encryption_protocol" => (draft.esp.line, draft.esp.cipher) = (line, text()),
        "ipsec/perfect_forward_secrecy" => (draft.esp.line, draft.esp.group) = (line, text()),
        "ipsec/lifetime" => draft.esp_lifetime = number(),
        "ipsec/dead_peer_detection/interval" => draft.dpd_interval = number(),
        "ipsec/dead_peer_detection/retries" => draft.dpd_retries = number(),
        "ipsec/protocol" | "ipsec/mode" => {}
        "ipsec/clear_df_bit" | "ipsec/fragmentation_before_encryption" | "ipsec/tcp_mss_adjustment" => {
            report.left_out(line, path, "Culvert finds the MTU and keeps TCP within it by itself");
            return false;
        }
        _ if path.ends_with("hold_time")
            || path.ends_with("network_mask")
            || path.ends_with("network_cidr") =>
        {
            report.left_out(line, path, "follows from the rest");
            return false;
        }
        _ => {
            report.left_out(line, &format!("{path}: {value}"), "not an element that Culvert knows");
            return false;
        }
    }
    true
}
