//! One tunnel, many clients: each identity has an instance with an IKE SA of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use culvert_types::TunnelId;

use super::*;
use crate::testing::Seeded;
use crate::{Addresses, Cause, Endpoint, EndpointConfig, Event, Identity, Output, Pool, Unique};

/// A server, and clients that all live in one endpoint; what is sent arrives at once.
struct World {
    now: Instant,
    server: Endpoint,
    clients: Endpoint,
    /// What the server told.
    told: Vec<Event>,
}

const SERVER: TunnelId = TunnelId(1);

impl World {
    fn new(most: usize, unique: Unique) -> Self {
        let make = |seed| Endpoint::new(EndpointConfig::default(), Box::new(Seeded(seed)));
        let mut world = Self { now: Instant::now(), server: make(1), clients: make(2), told: Vec::new() };
        let mut config = config(At::B);
        (config.remote, config.remote_id) = (None, None);
        config.remote_ts = vec![culvert_types::TrafficSelector::from_net("10.9.0.0/24".parse().unwrap())];
        config.session.clients = Some(most);
        config.session.unique = unique;
        let nets = vec!["10.9.0.0/24".parse().unwrap()];
        config.session.addresses = Addresses::Pool(Pool { nets, ..Pool::default() });
        world.server.handle_command(world.now, Command::AddPeer(SERVER, Box::new(config))).unwrap();
        world
    }

    /// A client comes, by a tunnel of this number and with this name.
    fn come(&mut self, tunnel: u32, name: &str) {
        let mut config = config(At::A);
        config.local_id = Identity::parse(name).unwrap();
        config.session.addresses = Addresses::Request(vec!["0.0.0.0".parse().unwrap()]);
        config.local_ts = vec![culvert_types::TrafficSelector::from_net("0.0.0.0/0".parse().unwrap())];
        self.clients.handle_command(self.now, Command::AddPeer(TunnelId(tunnel), Box::new(config))).unwrap();
        self.clients.handle_command(self.now, Command::Initiate(TunnelId(tunnel))).unwrap();
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let (mut quiet, now) = (true, self.now);
            for server in [true, false] {
                let side = if server { &mut self.server } else { &mut self.clients };
                let mut sent: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = Vec::new();
                loop {
                    match side.poll() {
                        Output::Transmit { local, remote, bytes } => sent.push((remote, local, bytes)),
                        Output::Event(event) if server => self.told.push(event),
                        Output::Job(job) => side.handle_job(now, job.run()),
                        Output::Deadline(..) | Output::Idle => break,
                        _ => {}
                    }
                }
                quiet &= sent.is_empty();
                let other = if server { &mut self.clients } else { &mut self.server };
                for (local, remote, bytes) in sent {
                    other.handle_datagram(now, local, remote, &bytes);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// The instances that are up now, with their clients' names.
    fn up(&self) -> BTreeMap<TunnelId, String> {
        let mut up = BTreeMap::new();
        for event in &self.told {
            match event {
                Event::IkeUp { tunnel, info } => {
                    up.insert(*tunnel, info.remote_id.to_string());
                }
                Event::IkeDown { tunnel, .. } => drop(up.remove(tunnel)),
                _ => {}
            }
        }
        up
    }

    fn causes(&self) -> Vec<&Cause> {
        let failures = self.told.iter().filter_map(|event| match event {
            Event::Failed(failure) => Some(&failure.cause),
            _ => None,
        });
        failures.collect()
    }
}

#[test]
fn each_client_has_an_ike_sa_an_address_and_a_number_of_its_own() {
    let mut world = World::new(3, Unique::Replace);
    for (n, name) in ["a.example", "b.example", "c.example"].iter().enumerate() {
        world.come(10 + n as u32, name);
    }
    let up = world.up();
    assert_eq!(up.values().map(String::as_str).collect::<Vec<_>>(), ["a.example", "b.example", "c.example"]);
    assert!(!up.contains_key(&SERVER));
    let mut numbers = Vec::new();
    let mut addresses = Vec::new();
    for event in &world.told {
        match event {
            Event::ClientUp { of, number, .. } => {
                assert_eq!(*of, SERVER);
                numbers.push(*number);
            }
            Event::ChildUp { sa, .. } => {
                assert!(up.contains_key(&sa.tunnel()));
                addresses.push(sa.remote_ts().to_vec());
            }
            _ => {}
        }
    }
    addresses.dedup();
    assert_eq!((numbers, addresses.len()), (vec![1, 2, 3], 3));
    // One more than there may be is told so, and the others stay.
    world.come(13, "d.example");
    assert_eq!(world.causes(), [&Cause::TooManyClients(3)]);
    assert_eq!(world.up(), up);
    // One goes, and the next has its number.
    let second = *up.iter().find(|(_, name)| *name == "b.example").unwrap().0;
    world.clients.handle_command(world.now, Command::Terminate(TunnelId(11), true)).unwrap();
    world.settle();
    assert!(world.told.iter().any(|e| matches!(e, Event::ClientGone { tunnel } if *tunnel == second)));
    world.come(14, "e.example");
    let last = world.told.iter().rev().find_map(|e| match e {
        Event::ClientUp { number, .. } => Some(*number),
        _ => None,
    });
    assert_eq!((last, world.up().len()), (Some(2), 3));
    // An instance is a tunnel like any other: its IKE SA is rekeyed, and the whole goes with the tunnel that is configured.
    let first = *world.up().keys().next().unwrap();
    world.server.handle_command(world.now, Command::RekeyIke(first)).unwrap();
    world.settle();
    assert!(world.told.iter().any(|e| matches!(e, Event::IkeRekeyed { tunnel, .. } if *tunnel == first)));
    world.server.handle_command(world.now, Command::RemovePeer(SERVER)).unwrap();
    world.settle();
    assert!(world.up().is_empty());
    let gone = world.told.iter().filter(|e| matches!(e, Event::ClientGone { .. })).count();
    assert_eq!(gone, 4);
}

#[test]
fn who_comes_again_takes_its_own_place_and_nobody_elses() {
    let mut world = World::new(3, Unique::Replace);
    world.come(10, "a.example");
    world.come(11, "b.example");
    let before = world.up();
    // The same identity from another device.
    world.come(12, "a.example");
    assert_eq!(world.up(), before, "the instance stays, with another IKE SA");
    let ups = |world: &World| world.told.iter().filter(|e| matches!(e, Event::IkeUp { .. })).count();
    assert_eq!(ups(&world), 3);
    // Where the first is kept, the second is refused, and others are not.
    let mut world = World::new(3, Unique::Keep);
    world.come(10, "a.example");
    world.come(11, "a.example");
    world.come(12, "b.example");
    assert_eq!((world.causes(), ups(&world)), (vec![&Cause::AlreadyUp], 2));
}
