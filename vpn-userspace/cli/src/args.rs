//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use culvert_api::{DEFAULT_SOCKET, EngineChoice, Level, Target};

use crate::logs::Moment;
use crate::paper::Paper;
use crate::pki::Pki;
use crate::units::Span;

/// Watch and steer the Culvert IPsec gateway.
///
/// TARGET is CONNECTION, for all tunnels of a connection, or CONNECTION/TUNNEL, as `culvert status`
/// shows them. DURATION is a number and its unit: 200ms, 30s, 10m, 2h or 1d.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.\n\n\
        Examples:\n  \
        culvert status\n  \
        culvert up hangzhou\n  \
        culvert logs --follow --connection hangzhou/a\n\n\
        The configuration is checked with `culvertd --config FILE --check`."
)]
pub(crate) struct Args {
    /// The control socket of culvertd
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show connections and tunnels: state, engine, peer, traffic, drops, time to rekey
    #[command(
        after_help = "A * marks the tunnel that carries the routes of its connection. ENGINE is who seals and opens packets (user: user\nspace, xfrm: the kernel, bpf: eBPF), and for user the LAN port + the WAN port, as in the configuration. IN and OUT\ncount inner bytes of the SAs that stand.\n\n\
        Examples:\n  \
        culvert status                 one line per tunnel\n  \
        culvert status -v hangzhou/a   everything about one tunnel, and why the other engines were not chosen\n  \
        culvert status --json | jq '.connections[].tunnels[] | {name, state}'"
    )]
    Status {
        /// Only this connection or tunnel
        target: Option<Target>,
        /// Everything: SPIs, algorithms, selectors, drops by reason, engines and why not
        #[arg(short, long)]
        verbose: bool,
        /// Only the connections of this environment
        #[arg(long, value_name = "NAME")]
        environment: Option<String>,
        /// The whole status as JSON
        #[arg(long, conflicts_with_all = ["verbose", "target", "environment"])]
        json: bool,
    },
    /// Watch the gateway live: rates and drops of each tunnel, plots of the one that is selected
    #[command(
        after_help = "Keys: up and down choose a tunnel, q quits.\n\nExample:\n  culvert monitor hangzhou"
    )]
    Monitor {
        /// Only this connection or tunnel
        target: Option<Target>,
        /// Time between two samples
        #[arg(short, long, value_name = "DURATION", default_value = "1s")]
        interval: Span,
    },
    /// Bring a connection or tunnel up and wait until it is
    #[command(
        after_help = "Exits with 1 and the reason when a tunnel does not come up in time. culvertd goes on trying.\n\n\
        Examples:\n  \
        culvert up hangzhou\n  \
        culvert up hangzhou/a --timeout 2m\n  \
        culvert up hangzhou --no-wait"
    )]
    Up {
        /// What to bring up
        target: Target,
        /// Return as soon as culvertd has begun
        #[arg(long)]
        no_wait: bool,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "30s", conflicts_with = "no_wait")]
        timeout: Span,
    },
    /// Take a connection or tunnel down and keep it down until `culvert up`
    #[command(
        after_help = "The traffic of a tunnel that is down is dropped, never sent in clear.\n\nExample:\n  culvert down hangzhou/b"
    )]
    Down {
        /// What to take down
        target: Target,
    },
    /// Say why a connection or tunnel is as it is: what failed, whose fault, both sides' values, what to change
    #[command(after_help = "Examples:\n  \
        culvert explain hangzhou\n  \
        culvert explain hangzhou/a --verbose   with all of its history that is kept\n  \
        culvert explain hangzhou --json | jq '.tunnels[].history[-1].failure.mend'")]
    Explain {
        /// What to explain
        target: Target,
        /// The whole history
        #[arg(short, long)]
        verbose: bool,
        /// As JSON
        #[arg(long, conflicts_with = "verbose")]
        json: bool,
    },
    /// Look for what is wrong, from the kernel to an echo through each tunnel; each finding with cause and mend
    #[command(
        after_help = "Reads the configuration and the host, and asks culvertd if it runs: kernel, ports, firewall, forwarding, \
        addresses, routes,\noverlapping networks, MTUs, certificates, both phases of IKE, health, drops. Changes nothing. Exits with 1 \
        if there is a fault;\nwarnings and notes are none.\n\n\
        Examples:\n  \
        culvert doctor\n  \
        culvert doctor hangzhou/a\n  \
        culvert doctor --json | jq '.[] | select(.grade == \"fault\")'"
    )]
    Doctor {
        /// Only this connection or tunnel, and the host
        target: Option<Target>,
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = culvert_config::DEFAULT_PATH)]
        config: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show IKE messages as they pass: exchange, payloads, proposals, identities, selectors; no secrets
    #[command(after_help = "Runs until interrupted. `>` was sent, `<` came.\n\n\
        Examples:\n  \
        culvert trace hangzhou/a\n  \
        culvert trace --pcap ike.pcapng    also writes the datagrams for Wireshark\n\n\
        To have Wireshark decrypt them, set ike_secrets in [log], restart culvertd, and take the file as\n\
        Wireshark's `ikev2_decryption_table`.")]
    Trace {
        /// Only this connection or tunnel, and what cannot be told yet whose it is
        target: Option<Target>,
        /// Write the datagrams to this file, in pcap-ng
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Write a tunnel's packets to a file, before ESP and after it
    #[command(
        after_help = "Runs until interrupted or a limit is reached. The file has an interface for each place: the \
        tunnels' own, and the\nWAN's with IKE and ESP of these peers. Packets that go by AF_XDP or \
        through XDP pass no place\nwhere a capture could see them; what engine bpf takes from the LAN itself is seen outside alone.\n\n\
        Examples:\n  \
        culvert capture hangzhou/a --write a.pcapng\n  \
        culvert capture hangzhou --write - --duration 30s | tshark -r -"
    )]
    Capture {
        /// Whose packets
        target: Target,
        /// The file, in pcap-ng; - for the standard output
        #[arg(short, long, value_name = "FILE")]
        write: PathBuf,
        /// End after so many packets
        #[arg(short, long, value_name = "N")]
        count: Option<u64>,
        /// End after this time
        #[arg(short, long, value_name = "DURATION")]
        duration: Option<Span>,
    },
    /// Show which packets were dropped and why; with --follow, as they are dropped
    #[command(after_help = "Without --follow: counts since culvertd started, the most frequent first.\n\
        With --follow: a few packets of each reason and second, by their headers, and how many more there were. What \
        comes in\nnormal running (keepalives, chatter on the link, dummy packets) is shown only when --reason names it. \
        Inner addresses are\nshown of packets that are this side's or were authentic. The kernel's engine, xfrm, \
        shows no packets, only counts.\n\n\
        Examples:\n  \
        culvert drops\n  \
        culvert drops --follow --tunnel hangzhou/a\n  \
        culvert drops --follow --reason unknown-spi --duration 10s --json | jq -r .source.address | sort | uniq -c")]
    Drops {
        /// Show packets as they are dropped, until interrupted or a limit is reached
        #[arg(short, long)]
        follow: bool,
        /// Only those of this connection or tunnel
        #[arg(short, long, value_name = "TARGET")]
        tunnel: Option<Target>,
        /// Only those dropped for this reason
        #[arg(short, long, value_name = "NAME")]
        reason: Option<String>,
        /// End after so many lines
        #[arg(short, long, value_name = "N", requires = "follow")]
        count: Option<u64>,
        /// End after this time
        #[arg(short, long, value_name = "DURATION", requires = "follow")]
        duration: Option<Span>,
        /// As JSON; with --follow one object per line
        #[arg(long)]
        json: bool,
    },
    /// Draw the traffic of tunnels in the past, all on one scale: a failover shows
    #[command(
        after_help = "The last ten minutes are kept by the second, the last day by the minute, as long as culvertd runs.\n\n\
        Examples:\n  \
        culvert graph hangzhou\n  \
        culvert graph hangzhou/a --since 8h\n  \
        culvert graph hangzhou --json | jq '.tunnels[] | {tunnel, out: .bits_out}'   bit/s, oldest first"
    )]
    Graph {
        /// Of which tunnels
        target: Target,
        /// How far back
        #[arg(long, value_name = "DURATION", default_value = "2m")]
        since: Span,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask an address of the far side through given tunnels, and say how much was lost and how long answers took
    #[command(
        after_help = "Each echo goes through the tunnel's own interface, whichever tunnel carries the traffic. The answer comes back \
        by the\npeer's choice: by the same tunnel if it has a route to the source through it. Exits with 1 if a tunnel \
        brings no answer.\n\n\
        Examples:\n  \
        culvert ping hangzhou/b 172.16.10.1\n  \
        culvert ping hangzhou --count 100 --interval 100ms --json   the targets of the health checks"
    )]
    Ping {
        /// Through which tunnels
        target: Target,
        /// The address to ask [default: the target of the tunnel's health check]
        #[arg(value_name = "ADDRESS")]
        to: Option<IpAddr>,
        /// From this address of the gateway [default: the health check's, the inside address, or one in a local network]
        #[arg(short, long, value_name = "ADDRESS")]
        source: Option<IpAddr>,
        /// How many echoes
        #[arg(short, long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Time from one to the next
        #[arg(short, long, value_name = "DURATION", default_value = "1s")]
        interval: Span,
        /// How long an answer may take
        #[arg(short = 'W', long, value_name = "DURATION", default_value = "2s")]
        timeout: Span,
        /// As JSON, times in microseconds
        #[arg(long)]
        json: bool,
    },
    /// Give a connection or tunnel new keys now
    #[command(
        after_help = "A rekey right after set-up shows whether both sides agree on perfect forward secrecy.\n\n\
        Examples:\n  \
        culvert rekey hangzhou/a         its child SAs\n  \
        culvert rekey hangzhou/a --ike   its IKE SA"
    )]
    Rekey {
        /// What to rekey
        target: Target,
        /// The IKE SA instead of the child SAs
        #[arg(long)]
        ike: bool,
    },
    /// Port forwards: what they do, and names for them
    #[command(subcommand)]
    Forward(Forward),
    /// Commands and webhooks that are told what happens: what became of them, and a test
    #[command(subcommand)]
    Notice(Notice),
    /// Show routing by BGP: neighbours, states, prefixes received, accepted and advertised, and the last error
    #[command(
        after_help = "Example:\n  culvert bgp --json | jq -r '.sessions[] | select(.state != \"established\") | .neighbor'"
    )]
    Bgp {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show routes
    #[command(subcommand)]
    Route(Route),
    /// Environments: what keeps them apart, and how full they are
    #[command(subcommand)]
    Environment(Environment),
    /// Choose a tunnel's engine, or let traffic return to it
    #[command(subcommand)]
    Tunnel(Tunnel),
    /// Read the configuration again and apply what changed
    #[command(after_help = "A configuration with a mistake is refused as a whole; what runs goes on.")]
    Reload,
    /// Show the log that culvertd keeps in memory
    #[command(after_help = "Examples:\n  \
        culvert logs --since 10m --level warn\n  \
        culvert logs hangzhou --tunnel a --since 2026-11-22T01:30 --until 2026-11-22T01:40\n  \
        culvert logs --follow --environment production\n\n\
        Of each connection the newest 256 kB are kept, less where there are hundreds.\n\
        Older records are in the journal: journalctl -u culvertd")]
    Logs {
        /// Go on with new records as they come
        #[arg(short, long)]
        follow: bool,
        /// Only records of this connection or tunnel
        target: Option<Target>,
        /// The same
        #[arg(short, long, value_name = "TARGET", conflicts_with = "target")]
        connection: Option<Target>,
        /// Only records of this tunnel of the connection
        #[arg(short, long, value_name = "NAME", requires = "target")]
        tunnel: Option<String>,
        /// Only records of this environment
        #[arg(short, long, value_name = "NAME")]
        environment: Option<String>,
        /// Only records at least this severe: error, warn, info, debug or trace
        #[arg(short, long, value_name = "LEVEL", value_parser = parse_level)]
        level: Option<Level>,
        /// Only records of the last 30s, 10m, 2h, …, or since a time in UTC
        #[arg(long, value_name = "TIME")]
        since: Option<Moment>,
        /// Only records until then
        #[arg(long, value_name = "TIME", conflicts_with = "follow")]
        until: Option<Moment>,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Be a small certificate authority: make, issue, revoke, show; needs no culvertd
    #[command(
        subcommand,
        after_help = "Example:\n  \
        culvert pki create-ca --dir ca --subject \"O=Example, CN=Example VPN\"\n  \
        culvert pki issue --dir ca --subject gw.example --name gw.example --out gw\n  \
        culvert pki show gw.pem"
    )]
    Pki(Pki),
    #[command(flatten)]
    Paper(Paper),
    /// Show what the guard of the WAN passed and dropped, and why; `culvert drops` shows all drops
    #[command(
        after_help = "Example:\n  culvert counters --json | jq '.guard[] | select(.verdict == \"drop\")'"
    )]
    Counters {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Notice {
    /// Show the ways to tell somebody: how much was told, what was given up, and why
    #[command(after_help = "Example:\n  culvert notice list --json | jq '.[] | select(.failed > 0)'")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Send something that did not happen, to see whether it arrives
    #[command(after_help = "Example:\n  culvert notice test ops && culvert notice list")]
    Test {
        /// Its name in the configuration
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Show every route of every connection: where to, by which tunnel, from the configuration or from BGP
    #[command(
        after_help = "Traffic takes those with `*`: the smallest metric of a destination, so that static routes win over learned ones.\n\
        The routes that say `refused` keep what is protected from leaving in clear."
    )]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Forward {
    /// Show port forwards: where they listen and lead, clients, bytes, and what failed
    #[command(after_help = "Example:\n  culvert forward list --json | jq '.hangzhou[].active'")]
    List {
        /// As JSON, by connection
        #[arg(long)]
        json: bool,
    },
    /// Print lines for /etc/hosts, so that a name leads to the forwards: `curl vpn:33000`
    #[command(after_help = "Example:\n  culvert forward hosts --name vpn >> /etc/hosts")]
    Hosts {
        /// The name
        #[arg(long, default_value = "vpn", value_parser = parse_host)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Environment {
    /// Show environments: what keeps them apart, their LAN, what is in them, and their limits
    #[command(after_help = "Example:\n  culvert environment list --json | jq '.[] | {name, place}'")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn parse_host(text: &str) -> Result<String, String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !text.is_empty() && text.len() <= 253 && text.chars().all(sound) {
        return Ok(text.to_owned());
    }
    Err("write letters, digits, `-` and `.`".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tunnel {
    /// Let traffic return now to tunnels that failed and are well again
    #[command(
        after_help = "A tunnel of a higher weight that failed gets its traffic back when it has been well for `failback`; with\n\
        failback = \"manual\" only by this command. `culvert status -v` shows what it waits for.\n\n\
        Examples:\n  \
        culvert tunnel failback hangzhou/a\n  \
        culvert tunnel failback hangzhou"
    )]
    Failback {
        /// Which
        target: Target,
    },
    /// Take a tunnel out of service for maintenance: its traffic moves, the peer is told and refused; the others go on
    #[command(
        after_help = "It lasts until `culvert tunnel enable` or a restart, through reloads and changes of the tunnel's configuration, \
        unless a\nreload changes `enabled`. To keep it out of service over restarts write enabled = false.\n\n\
        Example:\n  culvert tunnel disable hangzhou/a"
    )]
    Disable {
        /// Which
        target: Target,
    },
    /// Put a tunnel back into service, with the configuration that it has now
    #[command(
        after_help = "Also one with enabled = false, until a restart.\n\nExample:\n  culvert tunnel enable hangzhou/a"
    )]
    Enable {
        /// Which
        target: Target,
    },
    /// Move a tunnel to another engine, by a rekey at once: user (user space), xfrm (the kernel), bpf (eBPF)
    #[command(
        after_help = "It lasts until `culvert reload` or a restart, then the configuration holds again. A child SA that \
        the engine refuses\ngoes to another one; `culvert status -v` says which engine each has, and why.\n\n\
        Examples:\n  \
        culvert tunnel engine hangzhou/a user\n  \
        culvert tunnel engine hangzhou auto"
    )]
    Engine {
        /// Whose packets
        target: Target,
        /// user, xfrm, bpf or auto
        #[arg(value_parser = parse_engine)]
        engine: EngineChoice,
    },
}

fn parse_engine(text: &str) -> Result<EngineChoice, String> {
    [EngineChoice::User, EngineChoice::Xfrm, EngineChoice::Bpf, EngineChoice::Auto]
        .into_iter()
        .find(|engine| engine.as_str() == text)
        .ok_or_else(|| "write user, xfrm, bpf or auto".to_owned())
}

fn parse_level(text: &str) -> Result<Level, String> {
    Level::ALL
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| "write error, warn, info, debug or trace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn helps_are_as_reviewed() {
        let mut all = Args::command().render_long_help().to_string();
        for sub in Args::command().get_subcommands_mut() {
            all.push_str(&format!("\n=== {}\n{}", sub.get_name().to_owned(), sub.render_long_help()));
        }
        insta::assert_snapshot!("help", all);
    }
}
