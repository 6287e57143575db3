//! Ten thousand tunnels in one process: nothing may cost more for each tunnel because there are others.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use culvert_types::TunnelId;

use super::*;
use crate::testing::Seeded;
use crate::{Endpoint, EndpointConfig, Event, Identity, Output};

const TUNNELS: u32 = 10_000;

/// Hub and spokes; what is sent arrives at once. Returns how many children came up at the hub.
fn settle(now: Instant, sides: &mut [Endpoint; 2]) -> usize {
    let mut up = 0;
    loop {
        let mut quiet = true;
        for from in 0..2 {
            let mut sent: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = Vec::new();
            loop {
                match sides[from].poll() {
                    Output::Transmit { local, remote, bytes } => sent.push((remote, local, bytes)),
                    Output::Job(job) => sides[from].handle_job(now, job.run()),
                    Output::Event(Event::ChildUp { .. }) if from == 0 => up += 1,
                    Output::Deadline(..) | Output::Idle => break,
                    _ => {}
                }
            }
            quiet &= sent.is_empty();
            for (local, remote, bytes) in sent {
                sides[1 - from].handle_datagram(now, local, remote, &bytes);
            }
        }
        if quiet {
            return up;
        }
    }
}

#[test]
fn ten_thousand_tunnels_come_up_in_seconds() {
    let (now, started) = (Instant::now(), Instant::now());
    // Nothing is lost and everybody answers at once: the limits on strangers are not what this is about.
    let limits = EndpointConfig { cookie_threshold: usize::MAX, ..EndpointConfig::default() };
    let make = |seed| Endpoint::new(limits.clone(), Box::new(Seeded(seed)));
    let mut sides = [make(1), make(2)];
    let spoke = |n: u32| IpAddr::from([10, 66, (n >> 8) as u8, n as u8]);
    for n in 0..TUNNELS {
        let (mut hub, mut far) = (config(At::A), config(At::B));
        let id = Identity::parse(&format!("s{n}.example")).unwrap();
        hub.remote = Some(SocketAddr::new(spoke(n), 500));
        hub.remote_id = Some(id.clone());
        (far.local, far.local_natt) = (SocketAddr::new(spoke(n), 500), SocketAddr::new(spoke(n), 4500));
        far.local_id = id;
        for (side, config) in sides.iter_mut().zip([hub, far]) {
            side.handle_command(now, Command::AddPeer(TunnelId(n), Box::new(config))).unwrap();
        }
    }
    // A thousand at a time: each is half-open for a moment.
    let mut up = 0;
    for first in (0..TUNNELS).step_by(1000) {
        for n in first..first + 1000 {
            sides[1].handle_command(now, Command::Initiate(TunnelId(n))).unwrap();
        }
        up += settle(now, &mut sides);
    }
    let brought_up = started.elapsed();
    assert_eq!(up, TUNNELS as usize);
    // All are rekeyed, and all go.
    for n in 0..TUNNELS {
        sides[0].handle_command(now, Command::RekeyIke(TunnelId(n))).unwrap();
    }
    settle(now, &mut sides);
    for n in 0..TUNNELS {
        sides[0].handle_command(now, Command::RemovePeer(TunnelId(n))).unwrap();
    }
    settle(now, &mut sides);
    let took = started.elapsed();
    let seconds = (brought_up.as_secs_f32(), took.as_secs_f32());
    println!("{TUNNELS} tunnels up in {:.1} s, up, rekeyed and gone in {:.1} s", seconds.0, seconds.1);
    assert_eq!(sides[0].counts().spis, 0);
    // A handshake takes a fraction of a millisecond; what is quadratic takes minutes.
    assert!(took.as_secs() < 120, "{took:?}");
}
