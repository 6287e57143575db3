//! IKE under load, without a data plane: a responder, and a generator of handshakes, each one `Endpoint` over real UDP
//! sockets in one thread, as the daemon has it. `cargo xtask bench ike` runs both.
//!
//! ```text
//! culvert-load certificates FOLDER                            makes certificates for both
//! culvert-load respond  ADDRESS COUNT IKE ESP [FOLDER]          says "ready", then serves COUNT peers until it is killed
//! culvert-load initiate ADDRESS COUNT IKE ESP AT-ONCE [FOLDER]  one IKE SA with one child from each of COUNT addresses
//! ```
//!
//! With FOLDER both sides authenticate by certificates, else by a pre-shared key.
//!
//! The peers' addresses begin at 100.64.0.1; the host routes them all to itself (`ip route add local 100.64.0.0/12 dev lo`).

mod certificates;
mod socket;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_crypto::SystemRandom;
use culvert_ike::{Auth, Command, Endpoint, EndpointConfig, Event, Identity, Output, PeerConfig, Psk};
use culvert_types::{TrafficSelector, TunnelId};

use certificates::Certificates;
use socket::Wan;

/// The lab's pre-shared key.
const PSK: &str = "correct horse battery staple";
/// The network behind the responder.
const BEHIND: &str = "10.2.0.0/24";

struct Args {
    initiates: bool,
    responder: Ipv4Addr,
    count: u32,
    ike: String,
    esp: String,
    at_once: usize,
    certificates: Option<Certificates>,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| {
        words.get(at).map(String::as_str).context("a word is missing; see the source's first lines")
    };
    let initiates = match word(0)? {
        "certificates" => return certificates::make(Path::new(word(1)?)),
        "initiate" => true,
        "respond" => false,
        other => bail!("neither certificates, initiate nor respond: {other}"),
    };
    let folder = words.get(if initiates { 6 } else { 5 });
    let args = Args {
        initiates,
        responder: word(1)?.parse()?,
        count: word(2)?.parse()?,
        ike: word(3)?.to_owned(),
        esp: word(4)?.to_owned(),
        at_once: if initiates { word(5)?.parse()? } else { 0 },
        certificates: folder.map(|folder| Certificates::read(Path::new(folder), initiates)).transpose()?,
    };
    if args.initiates { initiate(&args) } else { respond(&args) }
}

/// The address of a peer.
fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(100, 64, 0, 1)) + number)
}

/// The network of one address behind a peer, of its own: a route to it must not cut off the peer itself.
fn behind_client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + number)
}

/// The tunnel of a peer, on either side.
fn peer(args: &Args, number: u32) -> Result<PeerConfig> {
    let (client, responder) = (IpAddr::V4(client(number)), IpAddr::V4(args.responder));
    let (local, remote) = if args.initiates { (client, responder) } else { (responder, client) };
    let net =
        |text: &str| -> Result<Vec<TrafficSelector>> { Ok(vec![TrafficSelector::from_net(text.parse()?)]) };
    let (behind, alone) = (net(BEHIND)?, net(&format!("{}/32", behind_client(number)))?);
    let (local_ts, remote_ts) = if args.initiates { (alone, behind) } else { (behind, alone) };
    let (local_id, remote_id, auth) = match &args.certificates {
        Some(proofs) => (proofs.local_id.clone(), proofs.remote_id.clone(), proofs.auth.clone()),
        None => {
            let id = |address: IpAddr| Identity::parse(&address.to_string());
            (id(local)?, id(remote)?, Auth::psk(Psk::new(PSK)?))
        }
    };
    let day = Duration::from_secs(24 * 3600);
    Ok(PeerConfig {
        name: format!("load/{number}"),
        local: SocketAddr::new(local, 500),
        local_natt: SocketAddr::new(local, 4500),
        remote: Some(SocketAddr::new(remote, 500)),
        anywhere: false,
        remote_natt_port: 4500,
        local_id,
        remote_id: Some(remote_id),
        auth,
        ike_proposals: vec![args.ike.parse()?],
        esp_proposals: vec![args.esp.parse()?],
        local_ts,
        remote_ts,
        ike_lifetime: day,
        child_lifetime: day,
        dpd: None,
        force_encap: false,
        spi_parity: None,
        esn: false,
        replay_window: 1024,
        exchange: Default::default(),
        v1: None,
        session: Default::default(),
    })
}

/// No cookies and no limits: all load is wanted.
fn endpoint() -> Endpoint {
    let without = usize::MAX;
    let config = EndpointConfig {
        cookie_threshold: without,
        cookie_threshold_per_address: without,
        half_open_per_address: without,
        half_open_limit: without,
        ..EndpointConfig::default()
    };
    Endpoint::new(config, Box::new(SystemRandom::new()))
}

fn respond(args: &Args) -> Result<()> {
    let mut endpoint = endpoint();
    for number in 0..args.count {
        endpoint.handle_command(
            Instant::now(),
            Command::AddPeer(TunnelId(number), Box::new(peer(args, number)?)),
        )?;
    }
    let wan = Wan::open(args.responder)?;
    println!("ready");
    let mut deadline = None;
    loop {
        wan.receive(deadline, |local, remote, bytes| {
            endpoint.handle_datagram(Instant::now(), local, remote, bytes);
            deadline = drain(&mut endpoint, &wan, args, |_| ());
        })?;
        if deadline.is_some_and(|when| when <= Instant::now()) {
            endpoint.handle_timeout(Instant::now());
        }
        deadline = drain(&mut endpoint, &wan, args, |_| ());
    }
}

fn initiate(args: &Args) -> Result<()> {
    let mut endpoint = endpoint();
    for number in 0..args.count {
        endpoint.handle_command(
            Instant::now(),
            Command::AddPeer(TunnelId(number), Box::new(peer(args, number)?)),
        )?;
    }
    let wan = Wan::open(Ipv4Addr::UNSPECIFIED)?;
    let (mut next, mut up, mut failed) = (0_u32, 0, Vec::new());
    let (start, mut last) = (Instant::now(), Instant::now());
    let mut deadline = None;
    while up < args.count as usize {
        while (next as usize) < args.count as usize && next as usize - up < args.at_once {
            endpoint.handle_command(Instant::now(), Command::Initiate(TunnelId(next)))?;
            next += 1;
        }
        let mut seen = |event: Event| match event {
            Event::ChildUp { .. } => up += 1,
            Event::Failed(failure) => failed.push(failure.to_string()),
            _ => {}
        };
        deadline = drain(&mut endpoint, &wan, args, &mut seen).or(deadline);
        wan.receive(deadline, |local, remote, bytes| {
            endpoint.handle_datagram(Instant::now(), local, remote, bytes);
            deadline = drain(&mut endpoint, &wan, args, &mut seen);
            last = Instant::now();
        })?;
        endpoint.handle_timeout(Instant::now());
        if last.elapsed() > Duration::from_secs(20) {
            bail!("nothing is heard for 20 s; {up} up, failures: {failed:#?}");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "up": up, "failures": failed.len(), "seconds": seconds }));
    Ok(())
}

/// Sends what is to be sent, runs jobs and judges certificates here and now; returns the next deadline.
fn drain(endpoint: &mut Endpoint, wan: &Wan, args: &Args, mut seen: impl FnMut(Event)) -> Option<Instant> {
    loop {
        match endpoint.poll() {
            Output::Transmit { local, remote, bytes } => wan.send(local, remote, &bytes),
            Output::Event(Event::CheckCertificate { check, identity, chain, .. }) => {
                if let Some(proofs) = &args.certificates {
                    let verdict = proofs.judge(&identity, &chain);
                    let _ =
                        endpoint.handle_command(Instant::now(), Command::CertificateChecked(check, verdict));
                }
            }
            Output::Event(event) => seen(event),
            Output::Job(job) => endpoint.handle_job(Instant::now(), job.run()),
            Output::Keepalive { .. } => {}
            Output::Deadline(when, _) => return Some(when),
            Output::Idle => return None,
        }
    }
}
