//! A gateway with fixed keys, to measure the packet path alone: two of them, `a` and `b`, make a tunnel.
//!
//! `fixed_keys a|b LOCAL REMOTE INSIDE-NET PEER-NET [udp|raw] [SUITE-NAME] [low|bpf]`, as root, in the gateway's
//! namespace, where the LAN device of engine `bpf` is `lan`. The keys are public: never carry anything through it.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use culvert_crypto::{Suite, SuiteKeys};
use culvert_dataplane::testing::{self, Limits, Purpose, SaSetup};
use culvert_dataplane::{Dataplane, DataplaneConfig, EngineChoice, LanPortChoice, TunnelSpec, WanPortChoice};
use culvert_types::{Spi, TrafficSelector, TunnelId};
use ipnet::IpNet;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Failure::from).and_then(|r| r.block_on(run(&arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fixed_keys: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), Failure> {
    let [side, local, remote, inside, peer, rest @ ..] = arguments else {
        return Err(
            "usage: fixed_keys a|b LOCAL REMOTE INSIDE-NET PEER-NET [udp|raw] [SUITE] [low|bpf]".into()
        );
    };
    let (local, remote): (IpAddr, IpAddr) = (local.parse()?, remote.parse()?);
    let (inside, peer): (IpNet, IpNet) = (inside.parse()?, peer.parse()?);
    let encap = rest.first().is_none_or(|w| w == "udp");
    let name = rest.get(1).map_or("aes128gcm16", String::as_str);
    let suite = Suite::all().find(|s| s.to_string() == name).ok_or("no such suite")?;
    let (id, first) = (TunnelId(1), side == "a");
    let busy_poll = rest.get(2).is_some_and(|w| w == "low");

    let (engine, lan) = match rest.get(2).map(String::as_str) {
        Some("bpf") => (EngineChoice::Bpf, vec!["lan".to_owned()]),
        _ => (EngineChoice::User, Vec::new()),
    };

    let config = DataplaneConfig { wan: vec![local], lan, busy_poll, ..DataplaneConfig::default() };
    let (mut dataplane, mut events) = Dataplane::start(config).await?;
    let spec = TunnelSpec {
        id,
        interface: "cv-fixed".to_owned(),
        engine,
        suites: vec![suite],
        inside: Vec::new(),
        mtu: None,
        encap,
        spread: false,
        wan_port: WanPortChoice::Socket,
        transport: false,
        lan_port: LanPortChoice::Tun,
        remote_nets: vec![peer],
        small: None,
        many: false,
        kernel: culvert_dataplane::KernelIpsec::default(),
    };
    println!("{:?}", dataplane.create_tunnel(spec).await?);
    let keys = |seed: u8| {
        let bytes: Vec<u8> = (0..128).map(|i| seed.wrapping_mul(i | 1).wrapping_add(i)).collect();
        SuiteKeys::new(&bytes[..suite.encryption_key_len()], &bytes[64..64 + suite.integrity_key_len()])
    };
    let of = |a: bool| (if a { 0x1000 } else { 0x2000 }, keys(if a { 3 } else { 7 }));
    let ((inbound, inbound_keys), (outbound, outbound_keys)) = (of(first), of(!first));
    let setup = SaSetup {
        tunnel: id,
        inbound: Spi::new(inbound)?,
        outbound: Spi::new(outbound)?,
        suite,
        inbound_keys,
        outbound_keys,
        esn: true,
        replay_window: 1024,
        local_ts: vec![TrafficSelector::from_net(inside)],
        remote_ts: vec![TrafficSelector::from_net(peer)],
        local,
        remote: SocketAddr::new(remote, if encap { 4500 } else { 0 }),
        encap,
        purpose: Purpose::All,
        limits: Limits::of(suite, true),
    };
    testing::install(&mut dataplane, &setup, true).await?;

    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            event = events.recv() => println!("{event:?}"),
            _ = every.tick() => {
                println!("{:?} wan {:?} tunnel {:?}", dataplane.stats().await, dataplane.wan_drops(), dataplane.tunnel_drops());
            }
        }
    }
}
