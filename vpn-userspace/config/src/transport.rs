//! Transport mode (`esp = { mode = "transport" }`): what the two gateways send each other, and nothing else.

use std::net::IpAddr;

use culvert_ike::EspMode;
use ipnet::IpNet;

use crate::error::Fault;
use crate::file::RawConnection;
use crate::model::Engine;
use crate::section::At;

/// Refuses what transport mode cannot be, and makes the two addresses its networks.
pub(crate) fn settle(raw: &mut RawConnection, faults: &mut Vec<Fault>) {
    if raw.exchange.mode != EspMode::Transport {
        return;
    }
    let name = raw.name.span();
    for (key, nets) in [("local", &raw.local), ("remote", &raw.remote)] {
        if let Some(nets) = nets {
            faults.push(
                Fault::new(format!("`{key}` has no meaning in transport mode"))
                    .at(nets.span(), "no network is behind it")
                    .help(format!(
                        "take `{key}` out: transport mode carries what local_address and remote_address send each other; \
                         for networks write mode = \"tunnel\""
                    )),
            );
        }
    }
    if let Some(engine) = raw.engine.as_ref().filter(|e| !matches!(e.get_ref(), Engine::Auto | Engine::Xfrm))
    {
        faults.push(
            Fault::new("transport mode needs engine \"xfrm\"")
                .at(engine.span(), "makes interfaces for networks")
                .help("write engine = \"xfrm\" or \"auto\", on a kernel with ESP; or mode = \"tunnel\" at both ends"),
        );
    }
    if let Some(version) = raw.ike_version.as_ref().filter(|v| *v.get_ref() == 1) {
        faults.push(
            Fault::new("transport mode needs IKEv2 here")
                .at(version.span(), "asks for IKEv1")
                .help("write version = 2 on both sides, or mode = \"tunnel\""),
        );
    }
    let [tunnel] = &raw.tunnels[..] else {
        faults.push(
            Fault::new("transport mode has one tunnel: packets between two addresses have one way")
                .at(name, format!("has {}", raw.tunnels.len()))
                .help("make a connection of each pair of addresses"),
        );
        return;
    };
    let remote = tunnel.remote_address.as_ref().map(|at| (at.span(), at.get_ref().address()));
    let known: [(&str, Option<IpAddr>, _); 2] = [
        (
            "local_address",
            tunnel.local_address.as_ref().map(|at| *at.get_ref()),
            tunnel.local_address.as_ref().map(At::span),
        ),
        ("remote_address", remote.as_ref().and_then(|(_, address)| *address), remote.map(|(span, _)| span)),
    ];
    for (key, _, span) in known.iter().filter(|(_, address, _)| address.is_none()) {
        faults.push(
            Fault::new(format!("transport mode needs `{key}`, as an address"))
                .at(span.clone().unwrap_or(tunnel.name.span()), "what is to be protected?")
                .help(format!(
                    "write {key} = \"ADDRESS\": everything between the two addresses is sealed or dropped"
                )),
        );
    }
    if let [(_, Some(local), Some(here)), (_, Some(remote), Some(there))] = known {
        let net = |address: IpAddr, span: std::ops::Range<usize>| {
            Some(At::new(span.clone(), vec![At::new(span, IpNet::from(address))]))
        };
        (raw.local, raw.remote) = (net(local, here), net(remote, there));
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::parse;

    fn file(connection: &str, tunnel: &str) -> String {
        format!(
            "[gateway]\nwan = \"eth0\"\n[connection.c]\nesp = {{ mode = \"transport\" }}\n{connection}\n\
             [connection.c.tunnel.a]\npsk_file = \"good.psk\"\nremote_address = \"203.0.113.1\"\n{tunnel}\n"
        )
    }

    #[test]
    fn the_two_addresses_are_its_networks() {
        let config = parse(&file("", "local_address = \"198.51.100.1\"")).unwrap();
        let connection = &config.connections[0];
        assert_eq!(connection.local, ["198.51.100.1/32".parse().unwrap()]);
        assert_eq!(connection.remote, ["203.0.113.1/32".parse().unwrap()]);
    }

    #[test]
    fn what_it_cannot_be_is_refused_with_the_mend() {
        let local = "local_address = \"198.51.100.1\"";
        for (connection, tunnel, said) in [
            ("remote = [\"10.0.0.0/8\"]", local, "take `remote` out"),
            ("engine = \"user\"", local, "write engine = \"xfrm\""),
            ("ike = { version = 1 }", local, "write version = 2"),
            ("", "", "write local_address = \"ADDRESS\""),
            (
                "",
                "local_address = \"198.51.100.1\"\n[connection.c.tunnel.b]\ncopy = \"a\"",
                "a connection of each pair",
            ),
        ] {
            let error = parse(&file(connection, tunnel)).unwrap_err().render(false);
            let words =
                |text: &str| text.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ");
            assert!(words(&error).contains(said), "{error}");
        }
    }
}
