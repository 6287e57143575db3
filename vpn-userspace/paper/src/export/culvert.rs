//! Culvert: a configuration with this connection.

use super::page::{Page, put};
use super::{Exported, Options};
use crate::section::section;
use crate::side::Side;

pub(super) fn write(side: &Side, options: Options) -> Exported {
    let mut page = Page::new("#", "Culvert", side, options);
    page.say("Save as /etc/culvert/culvert.toml, or add the connection to what is there, and check it with");
    page.say("  culvertd --config /etc/culvert/culvert.toml --check");
    put!(page, "[gateway]");
    put!(page, "wan = \"eth0\"   # <- the interface that faces the peer");
    if let Some(bgp) = side.bgp {
        put!(page, "asn = {}", bgp.local);
    }
    page.blank();
    if side.tunnels.iter().any(|tunnel| tunnel.remote_address.is_any() && tunnel.remote_id.is_none()) {
        page.note("remote_address = \"any\" needs a remote_id: give Culvert's address with --address, or its local_id a value");
    }
    page.say("The keys stand in files, mode 600:");
    for tunnel in side.tunnels.iter().filter(|tunnel| tunnel.proof.is_none()) {
        let key = page.psk(tunnel).replace('\'', r"'\''");
        let file = file(side, &tunnel.name);
        page.say(&format!(
            "  (umask 077; mkdir -p /etc/culvert/secrets; printf '%s\\n' '{key}' > /etc/culvert/{file})"
        ));
    }
    page.blank();
    let text = section(side, |tunnel| file(side, &tunnel.name), &[]);
    page.line(text.trim_end());
    page.finish()
}

fn file(side: &Side, tunnel: &str) -> String {
    format!("secrets/{}-{tunnel}.psk", side.name)
}
