//! How fast the engines are on this host, suite by suite: one stream of TCP through a tunnel between two namespaces of our
//! own, over a virtual link. The whole way counts, from the tunnel's interface to the peer's, and not the cipher alone.
//!
//! The SAs here are of no negotiation, and their keys are no secret: neither namespace leads anywhere.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use culvert_crypto::{Suite, SuiteKeys};
use culvert_ike::Purpose;
use culvert_sys::netlink::{Netlink, Route, Scratch};
use culvert_types::{Spi, TrafficSelector, TunnelId};
use ipnet::{IpNet, Ipv4Net};
use tokio::runtime::Runtime;

use crate::user::setup::{Limits, SaSetup};
use crate::{Dataplane, DataplaneConfig, Engine, Figures, LanPortChoice, TunnelSpec, WanPortChoice};

/// How long a stream is measured, after it has got going.
const MEASURED: Duration = Duration::from_millis(60);
/// How long it may take to get going.
const WARMS_UP: Duration = Duration::from_millis(15);
/// A stream that stands still for so long has failed.
const STALLED: Duration = Duration::from_millis(500);
const TUNNEL: TunnelId = TunnelId(1);
const INTERFACE: &str = "cv-measured";

/// Measures both engines with each suite, in this order, until the time is up; what was not reached is missing. Takes about
/// 200 ms each, half of them CPU time of two cores. Blocks. Suites that an engine refuses are left out.
///
/// # Errors
/// In words: no namespace can be made, or the engines do not start there.
pub fn measure(suites: &[Suite], until: Instant) -> Result<HashMap<Suite, Figures>, String> {
    let suites = suites.to_vec();
    let measuring = move || {
        let mut bench = Bench::new()?;
        let mut figures = HashMap::new();
        for suite in suites {
            if Instant::now() >= until {
                break;
            }
            let rates = [Engine::User, Engine::Xfrm].map(|engine| bench.rate(engine, suite));
            if let [Ok(user), Ok(xfrm)] = rates {
                figures.insert(suite, Figures { user, xfrm });
            } else {
                let why: Vec<String> = rates.into_iter().filter_map(Result::err).collect();
                tracing::debug!("{suite} cannot be measured: {}", why.join("; "));
            }
        }
        Ok(figures)
    };
    // A thread that is in another namespace is of no use to anybody else.
    let thread = std::thread::Builder::new().name("cv-measure".to_owned()).spawn(measuring);
    let thread = thread.map_err(|e| e.to_string())?;
    thread.join().unwrap_or_else(|_| Err("the measurement ended by a fault of its own".to_owned()))
}

struct Bench {
    sides: [Side; 2],
    generation: u32,
}

/// One gateway of the two.
struct Side {
    // Stopped in its namespace, see the drop of the bench.
    plane: Option<Dataplane>,
    netlink: Netlink,
    runtime: Runtime,
    scratch: Scratch,
    number: u8,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let scratch = [Scratch::new().map_err(text)?, Scratch::new().map_err(text)?];
        let [here, there] = scratch;
        here.enter().map_err(text)?;
        let runtime = runtime()?;
        runtime
            .block_on(async { Netlink::connect()?.create_link_to(&there, "wan", "wan-there").await })
            .map_err(text)?;
        let sides = [Side::new(here, 1, "wan")?, Side::new(there, 2, "wan-there")?];
        Ok(Self { sides, generation: 0 })
    }

    /// Bits per second of an engine with a suite, from the first side to the second.
    fn rate(&mut self, engine: Engine, suite: Suite) -> Result<u64, String> {
        self.generation += 1;
        let generation = self.generation;
        let outcome = self.sides.iter_mut().try_for_each(|side| side.open(engine, suite, generation));
        let rate = outcome.and_then(|()| self.stream());
        for side in &mut self.sides {
            side.close();
        }
        rate
    }

    fn stream(&self) -> Result<u64, String> {
        let [from, to] = &self.sides;
        to.scratch.enter().map_err(text)?;
        let listener = TcpListener::bind(SocketAddr::new(inner(2), 0)).map_err(text)?;
        let at = listener.local_addr().map_err(text)?;
        from.scratch.enter().map_err(text)?;
        let mut source = TcpStream::connect_timeout(&at, STALLED).map_err(text)?;
        let (mut sink, _) = listener.accept().map_err(text)?;
        source.set_write_timeout(Some(STALLED)).map_err(text)?;
        sink.set_read_timeout(Some(STALLED)).map_err(text)?;
        let sending = std::thread::spawn(move || {
            let block = vec![0x5a; 256 << 10];
            // Ends when the sink is closed.
            while source.write_all(&block).is_ok() {}
        });
        let began = Instant::now();
        let (mut buffer, mut bytes, mut first) = (vec![0; 256 << 10], 0u64, None);
        let rate = loop {
            match sink.read(&mut buffer) {
                Ok(0) => break Err("the stream ended".to_owned()),
                Err(error) => break Err(text(error)),
                Ok(n) => {
                    let now = Instant::now();
                    match first {
                        None if now - began >= WARMS_UP => first = Some(now),
                        None => {}
                        Some(first) => {
                            bytes += n as u64;
                            let took = now - first;
                            if took >= MEASURED {
                                break Ok((bytes as f64 * 8.0 / took.as_secs_f64()) as u64);
                            }
                        }
                    }
                }
            }
        };
        drop(sink);
        let _ = sending.join();
        rate
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for side in &mut self.sides {
            if side.scratch.enter().is_ok() {
                let plane = side.plane.take();
                side.runtime.block_on(async { drop(plane) });
            }
        }
    }
}

impl Side {
    fn new(scratch: Scratch, number: u8, wan: &str) -> Result<Self, String> {
        scratch.enter().map_err(text)?;
        let runtime = runtime()?;
        let started = runtime.block_on(async {
            let netlink = Netlink::connect().map_err(text)?;
            let link = netlink.link(wan).await.map_err(text)?.index;
            netlink.add_address(link, net(outer(number), 24)).await.map_err(text)?;
            netlink.set_up(link, true).await.map_err(text)?;
            let config = DataplaneConfig {
                wan: vec![outer(number)],
                workers: 1,
                share_natt_port: true,
                ..DataplaneConfig::default()
            };
            let (plane, _) = Dataplane::start(config).await.map_err(text)?;
            Ok::<_, String>((plane, netlink))
        });
        let (plane, netlink) = started?;
        Ok(Self { plane: Some(plane), netlink, runtime, scratch, number })
    }

    /// A tunnel of the engine with one SA, and the other side's address behind it.
    fn open(&mut self, engine: Engine, suite: Suite, generation: u32) -> Result<(), String> {
        self.scratch.enter().map_err(text)?;
        let (me, you) = (self.number, 3 - self.number);
        let spec = TunnelSpec {
            id: TUNNEL,
            interface: INTERFACE.to_owned(),
            engine: engine.into(),
            suites: vec![suite],
            inside: Vec::new(),
            mtu: None,
            encap: engine == Engine::User,
            wan_port: WanPortChoice::Socket,
            lan_port: LanPortChoice::Tun,
            remote_nets: vec![net(inner(you), 32)],
            small: None,
            spread: false,
            transport: false,
            many: false,
            kernel: crate::KernelIpsec::default(),
        };
        let setup = setup(engine, suite, generation, me)?;
        let Self { plane: Some(plane), netlink, runtime, .. } = self else {
            return Err("it has ended".to_owned());
        };
        runtime.block_on(async {
            plane.create_tunnel(spec).await.map_err(text)?;
            let link = netlink.link(INTERFACE).await.map_err(text)?.index;
            netlink.add_address(link, net(inner(me), 32)).await.map_err(text)?;
            netlink.add_route(&Route::via_device(net(inner(you), 32), link, 0)).await.map_err(text)?;
            let installed =
                plane.install_setup(setup, Duration::from_secs(60), None, true).await.map_err(text)?;
            if installed.engine != engine { Err(installed.why.join("; ")) } else { Ok(()) }
        })
    }

    fn close(&mut self) {
        if self.scratch.enter().is_err() {
            return;
        }
        if let Some(plane) = &mut self.plane {
            // There is none if it could not be opened.
            let _ = self.runtime.block_on(plane.remove_tunnel(TUNNEL));
        }
    }
}

fn setup(engine: Engine, suite: Suite, generation: u32, me: u8) -> Result<SaSetup, String> {
    let you = 3 - me;
    let encap = engine == Engine::User;
    let spi = |side: u8| {
        let number = 0x1_0000 * u32::from(side) + generation * 2 + u32::from(engine == Engine::Xfrm);
        Spi::new(number).map_err(text)
    };
    let keys = |seed: u8| {
        let key =
            |len: usize| (0..len).map(|i| seed.wrapping_mul(31).wrapping_add(i as u8)).collect::<Vec<_>>();
        SuiteKeys::new(&key(suite.encryption_key_len()), &key(suite.integrity_key_len()))
    };
    let selector = |side: u8| vec![TrafficSelector::from_net(net(inner(side), 32))];
    Ok(SaSetup {
        tunnel: TUNNEL,
        inbound: spi(me)?,
        outbound: spi(you)?,
        suite,
        inbound_keys: keys(me),
        outbound_keys: keys(you),
        esn: true,
        replay_window: 1024,
        local_ts: selector(me),
        remote_ts: selector(you),
        local: outer(me),
        remote: SocketAddr::new(outer(you), if encap { 4500 } else { 0 }),
        encap,
        limits: Limits::of(suite, true),
        purpose: Purpose::All,
    })
}

fn outer(side: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, side).into()
}

fn inner(side: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, side).into()
}

fn net(address: IpAddr, prefix: u8) -> IpNet {
    IpNet::new(address, prefix).unwrap_or(IpNet::V4(Ipv4Net::default()))
}

fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
