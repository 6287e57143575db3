//! The probes of health checks: each goes through the interface of its own tunnel, whoever carries the traffic.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_config::{Health, Probe};
use culvert_esp::checksum;
use culvert_sys::netns::NetNs;
use culvert_types::TunnelId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;

/// Of a status line such as `HTTP/1.1 200 OK`, as much as is looked at.
const STATUS: usize = 12;
/// Of an echo, header included: what `ping` sends.
const ECHO: usize = 64;

/// What became of a probe.
pub(crate) struct Probed {
    pub(crate) tunnel: TunnelId,
    pub(crate) sequence: u64,
    /// The round trip, or why there is none.
    pub(crate) outcome: Result<Duration, String>,
}

/// Sends probes and hears of them.
pub(crate) struct Prober {
    answers: mpsc::UnboundedReceiver<Probed>,
    sender: mpsc::UnboundedSender<Probed>,
}

impl Prober {
    pub(crate) fn new() -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        Self { answers, sender }
    }

    /// Sends a probe through an interface, in another namespace if one is given. Of one that is not answered in time nothing is heard.
    pub(crate) fn send(
        &self,
        tunnel: TunnelId,
        sequence: u64,
        interface: String,
        health: &Health,
        namespace: Option<Arc<NetNs>>,
    ) {
        let (sender, health) = (self.sender.clone(), health.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = tokio::time::timeout(
                health.timeout,
                ask(sequence, &interface, &health, namespace.as_deref()),
            );
            if let Ok(answer) = answer.await {
                let outcome = answer.map(|()| began.elapsed()).map_err(|error| explain(&health, &error));
                // Nobody listens any more when the daemon stops.
                let _ = sender.send(Probed { tunnel, sequence, outcome });
            }
        });
    }

    /// The next answer.
    pub(crate) fn next(&mut self) -> impl Future<Output = Option<Probed>> + '_ {
        self.answers.recv()
    }
}

fn explain(health: &Health, error: &io::Error) -> String {
    let target = &health.target;
    match (error.kind(), health.source) {
        (io::ErrorKind::AddrNotAvailable, Some(source)) => {
            format!("this host has no address {source}: write another `source` for the health check")
        }
        (io::ErrorKind::ConnectionRefused, _) => format!("{target} refuses: nothing listens there"),
        _ => format!("{target}: {error}"),
    }
}

async fn ask(sequence: u64, interface: &str, health: &Health, namespace: Option<&NetNs>) -> io::Result<()> {
    match &health.target {
        Probe::Icmp(address) => echo(sequence, (namespace, interface), health.source, *address).await,
        Probe::Tcp(address) => connect((namespace, interface), health.source, *address).await.map(drop),
        Probe::Http { address, path } => {
            let mut stream = connect((namespace, interface), health.source, *address).await?;
            let request = format!(
                "GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: culvert\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut status = [0; STATUS];
            stream.read_exact(&mut status).await?;
            judge_status(&status)
        }
    }
}

fn judge_status(line: &[u8; STATUS]) -> io::Result<()> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    let status =
        text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(io::Error::other(format!("answers with status {status}"))),
        None => Err(io::Error::other("does not answer in HTTP")),
    }
}

/// An interface, in a namespace if that is not this one.
type Interface<'a> = (Option<&'a NetNs>, &'a str);

/// A socket at an interface.
fn socket(at: Interface<'_>, domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let (namespace, interface) = at;
    let make = || {
        let socket = Socket::new(domain, kind, protocol)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        Ok(socket)
    };
    match namespace {
        Some(namespace) => namespace.within(make)?,
        None => make(),
    }
}

async fn connect(at: Interface<'_>, source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = socket(at, domain, Type::STREAM, None)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(to).await
}

/// One ICMP echo and its reply (RFC 792, RFC 4443 4.1).
pub(crate) async fn echo(
    sequence: u64,
    at: Interface<'_>,
    source: Option<IpAddr>,
    to: IpAddr,
) -> io::Result<()> {
    let (domain, protocol) =
        if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = socket(at, domain, Type::RAW, Some(protocol))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    // From now on the kernel lets in only what comes from there.
    socket.connect(&SocketAddr::new(to, 0).into())?;
    // Raw sockets have no ports: the identifier tells this probe from others'.
    let identifier = std::os::fd::AsRawFd::as_raw_fd(&socket) as u16 ^ std::process::id() as u16;
    let request = request(to.is_ipv4(), identifier, sequence);
    // To send and to receive, a raw socket that is connected is like one of UDP.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&request).await?;
    let mut bytes = [0; 256];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if answers(bytes.get(..length).unwrap_or_default(), &request, to.is_ipv4()) {
            return Ok(());
        }
    }
}

/// The kernel counts the checksum of ICMPv6, that of ICMP is ours.
fn request(v4: bool, identifier: u16, sequence: u64) -> [u8; ECHO] {
    let mut bytes = [0; ECHO];
    bytes[0] = if v4 { 8 } else { 128 };
    bytes[4..6].copy_from_slice(&identifier.to_be_bytes());
    bytes[6..8].copy_from_slice(&(sequence as u16).to_be_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_be_bytes());
    if v4 {
        let checksum = checksum::finish(checksum::sum(&bytes, 0));
        bytes[2..4].copy_from_slice(&checksum);
    }
    bytes
}

/// Whether this is the reply to the request: of ICMP with the IPv4 header before it.
fn answers(received: &[u8], request: &[u8; ECHO], v4: bool) -> bool {
    let header = match (v4, received.first()) {
        (true, Some(first)) => usize::from(first & 15) * 4,
        _ => 0,
    };
    let Some([kind, 0, _, _, rest @ ..]) = received.get(header..) else { return false };
    *kind == if v4 { 0 } else { 129 } && Some(rest) == request.get(4..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_told_from_everything_else() {
        for v4 in [true, false] {
            let request = request(v4, 7, 9);
            let header = if v4 { vec![0x45; 20] } else { Vec::new() };
            let mut reply = [header, request.to_vec()].concat();
            let at = reply.len() - ECHO;
            assert!(!answers(&reply, &request, v4), "our own request is no reply");
            reply[at] = if v4 { 0 } else { 129 };
            assert!(answers(&reply, &request, v4));
            for index in [0, 1, 4, 7, 15, ECHO - 1] {
                let mut other = reply.clone();
                other[at + index] ^= 1;
                assert!(!answers(&other, &request, v4), "byte {index}");
            }
            for length in 0..reply.len() {
                assert!(!answers(&reply[..length], &request, v4), "{length} bytes");
            }
        }
        // RFC 1071: a sum over data and checksum is all ones.
        assert_eq!(checksum::fold(checksum::sum(&request(true, 7, 9), 0)), 0xffff);
    }

    #[test]
    fn only_a_page_that_is_there_counts() {
        for (line, fine) in [
            (b"HTTP/1.1 200", true),
            (b"HTTP/1.0 302", true),
            (b"HTTP/1.1 404", false),
            (b"HTTP/1.1 503", false),
            (b"SSH-2.0-Open", false),
            (b"HTTP/1.1 xyz", false),
        ] {
            assert_eq!(judge_status(line).is_ok(), fine, "{line:?}");
        }
    }

    #[tokio::test]
    async fn probes_of_this_host_are_answered_or_say_why_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        };
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let probe = |target, source: &str| Health {
            target,
            source: Some(source.parse().unwrap()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            retries: 1,
            restart: false,
        };
        let page = Probe::Http { address, path: "/".to_owned() };
        let cases = [
            (probe(Probe::Icmp("127.0.0.1".parse().unwrap()), "127.0.0.1"), None),
            (probe(Probe::Tcp(address), "127.0.0.1"), None),
            (probe(page, "127.0.0.1"), None),
            (probe(Probe::Tcp(closed), "127.0.0.1"), Some("refuses")),
            (probe(Probe::Tcp(address), "192.0.2.77"), Some("no address 192.0.2.77")),
        ];
        let ask = async {
            let mut prober = Prober::new();
            for (sequence, (health, wrong)) in cases.iter().enumerate() {
                prober.send(TunnelId(1), sequence as u64, "lo".to_owned(), health, None);
                let probed =
                    tokio::time::timeout(Duration::from_secs(5), prober.next()).await.unwrap().unwrap();
                assert_eq!(probed.sequence, sequence as u64);
                match (probed.outcome, wrong) {
                    (Ok(trip), None) => assert!(trip < Duration::from_secs(1)),
                    (Err(cause), Some(wrong)) => assert!(cause.contains(wrong), "{cause}"),
                    (outcome, _) => panic!("{health:?}: {outcome:?}"),
                }
            }
        };
        tokio::select! { () = serve => {}, () = ask => {} }
    }
}
