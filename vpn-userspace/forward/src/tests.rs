//! Forwards over loopback: both protocols and families, limits, and what happens when the far side is not there.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

fn forward(protocol: Protocol, to: SocketAddr) -> Forward {
    let listen = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    Forward {
        protocol,
        listen: listen.parse().unwrap(),
        to: Destination::Address(to),
        source: None,
        allow: Vec::new(),
        most: 100,
        idle: Duration::from_secs(60),
        budgets: Vec::new(),
        origin: Origin::default(),
    }
}

/// A server that sends everything back, and its address.
async fn echo(listen: &str) -> SocketAddr {
    let listener = TcpListener::bind(listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn echo_udp(listen: &str) -> SocketAddr {
    let socket = UdpSocket::bind(listen).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    address
}

fn listen(forwards: &Forwards, name: &str) -> SocketAddr {
    forwards.list().find(|(known, ..)| *known == name).unwrap().2
}

fn counted(forwards: &Forwards, name: &str) -> Counted {
    forwards.list().find(|(known, ..)| *known == name).unwrap().3
}

/// What comes back until the other side ends.
async fn through(address: SocketAddr, data: &[u8]) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(address).await?;
    let (mut read, mut write) = stream.into_split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(data).await?;
        write.shutdown().await
    };
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut back));
    sent.and(received).map(|_| back)
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain");
}

#[tokio::test]
async fn connections_of_both_families_go_there_and_back_whole() {
    let mut forwards = Forwards::default();
    for (name, address) in [("four", "127.0.0.1:0"), ("six", "[::1]:0")] {
        forwards.set(name, forward(Protocol::Tcp, echo(address).await)).await.unwrap();
        let data: Vec<u8> = (0..1_000_003_u32).map(|n| (n * 7) as u8).collect();
        assert!(through(listen(&forwards, name), &data).await.unwrap() == data);
        eventually(|| counted(&forwards, name).active == 0).await;
        let counted = counted(&forwards, name);
        assert_eq!((counted.clients, counted.bytes_there, counted.bytes_back), (1, 1_000_003, 1_000_003));
    }
}

#[tokio::test]
async fn datagrams_find_their_clients() {
    let mut forwards = Forwards::default();
    for (name, address) in [("four", "127.0.0.1:0"), ("six", "[::1]:0")] {
        forwards.set(name, forward(Protocol::Udp, echo_udp(address).await)).await.unwrap();
        let to = listen(&forwards, name);
        let mut clients = Vec::new();
        for number in 0..20_u8 {
            let client = UdpSocket::bind(address).await.unwrap();
            client.connect(to).await.unwrap();
            client.send(&[number; 1400]).await.unwrap();
            clients.push(client);
        }
        for (number, client) in clients.iter().enumerate() {
            let mut buffer = [0; 2000];
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], &[number as u8; 1400][..]);
        }
        let counted = counted(&forwards, name);
        assert_eq!((counted.active, counted.bytes_there, counted.bytes_back), (20, 28_000, 28_000));
    }
}

#[tokio::test]
async fn who_is_silent_is_forgotten() {
    let mut forwards = Forwards::default();
    let idle = Duration::from_millis(200);
    let tcp = Forward { idle, ..forward(Protocol::Tcp, echo("127.0.0.1:0").await) };
    let udp = Forward { idle, ..forward(Protocol::Udp, echo_udp("127.0.0.1:0").await) };
    forwards.set("tcp", tcp).await.unwrap();
    forwards.set("udp", udp).await.unwrap();
    let mut stream = TcpStream::connect(listen(&forwards, "tcp")).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"x", listen(&forwards, "udp")).await.unwrap();
    // As long as something comes, nobody is.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        client.send_to(b"x", listen(&forwards, "udp")).await.unwrap();
    }
    assert_eq!((counted(&forwards, "tcp").active, counted(&forwards, "udp").active), (1, 1));
    eventually(|| counted(&forwards, "tcp").active + counted(&forwards, "udp").active == 0).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn only_so_many_and_only_from_there() {
    let mut forwards = Forwards::default();
    let to = echo("127.0.0.1:0").await;
    let few = Forward { most: 2, ..forward(Protocol::Tcp, to) };
    forwards.set("few", few).await.unwrap();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(listen(&forwards, "few")).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        kept.push(stream);
    }
    assert!(through(listen(&forwards, "few"), b"x").await.map_or(true, |back| back.is_empty()));
    assert_eq!(counted(&forwards, "few").too_many, 1);
    kept.pop();
    eventually(|| counted(&forwards, "few").active == 1).await;
    assert_eq!(through(listen(&forwards, "few"), b"again").await.unwrap(), b"again");
    for (allow, fine) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let guarded = Forward { allow: vec![allow.parse().unwrap()], ..forward(Protocol::Tcp, to) };
        forwards.set("guarded", guarded).await.unwrap();
        let back = through(listen(&forwards, "guarded"), b"x").await;
        assert_eq!(back.is_ok_and(|back| back == b"x"), fine, "{allow}");
    }
    assert_eq!(counted(&forwards, "guarded").not_allowed, 1);
}

#[tokio::test]
async fn what_cannot_be_reached_or_listened_on_is_said() {
    let mut forwards = Forwards::default();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    forwards.set("closed", forward(Protocol::Tcp, closed)).await.unwrap();
    let back = through(listen(&forwards, "closed"), b"x").await;
    assert!(back.is_err(), "the client must see a reset: {back:?}");
    eventually(|| counted(&forwards, "closed").failed == 1).await;
    let error = counted(&forwards, "closed").error.unwrap();
    assert!(error.contains(&closed.to_string()), "{error}");

    let taken = Forward { listen: listen(&forwards, "closed"), ..forward(Protocol::Tcp, closed) };
    let error = forwards.set("taken", taken.clone()).await.unwrap_err().to_string();
    assert!(error.contains("taken by another program"), "{error}");
    let foreign = Forward { listen: "192.0.2.1:80".parse().unwrap(), ..taken.clone() };
    let error = forwards.set("foreign", foreign).await.unwrap_err().to_string();
    assert!(error.contains("no address 192.0.2.1"), "{error}");
    let anywhere = Forward { protocol: Protocol::Udp, listen: "0.0.0.0:0".parse().unwrap(), ..taken };
    let error = forwards.set("anywhere", anywhere).await.unwrap_err().to_string();
    assert!(error.contains("the address that clients send to"), "{error}");
    assert_eq!(forwards.list().count(), 1);
}

#[tokio::test]
async fn names_are_resolved_when_a_client_comes() {
    let mut forwards = Forwards::default();
    let to = echo("127.0.0.1:0").await;
    let named = Forward {
        to: Destination::Name("localhost".into(), to.port()),
        source: Some("127.0.0.1".parse().unwrap()),
        ..forward(Protocol::Tcp, to)
    };
    forwards.set("named", named).await.unwrap();
    assert_eq!(through(listen(&forwards, "named"), b"x").await.unwrap(), b"x");
}

/// A change of one touches no other, and takes its own connections along.
#[tokio::test]
async fn forwards_come_and_go_while_others_run() {
    let mut forwards = Forwards::default();
    let to = echo("127.0.0.1:0").await;
    for name in ["a", "b"] {
        forwards.set(name, forward(Protocol::Tcp, to)).await.unwrap();
    }
    let mut streams = Vec::new();
    for name in ["a", "b"] {
        let mut stream = TcpStream::connect(listen(&forwards, name)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        streams.push(stream);
    }
    let same = Forward { listen: forwards.list().next().unwrap().1.listen, ..forward(Protocol::Tcp, to) };
    forwards.set("a", same).await.unwrap();
    forwards.set("b", Forward { most: 5, ..forward(Protocol::Tcp, to) }).await.unwrap();
    streams[0].write_all(b"y").await.unwrap();
    assert_eq!(streams[0].read_u8().await.unwrap(), b'y');
    assert!(matches!(streams[1].read(&mut [0; 8]).await, Ok(0) | Err(_)));
    assert_eq!(counted(&forwards, "b").clients, 1, "its counters go on");
    forwards.keep(|name| name == "b");
    assert!(matches!(streams[0].read(&mut [0; 8]).await, Ok(0) | Err(_)));
    assert!(through(listen(&forwards, "b"), b"z").await.is_ok());
    forwards.remove("b");
    assert_eq!(forwards.list().count(), 0);
}

#[tokio::test]
async fn forwards_share_a_budget_and_the_limit_is_named() {
    let to = echo("127.0.0.1:0").await;
    let mut forwards = Forwards::default();
    for name in ["a", "b"] {
        let budgets = vec![forwards.budget("limit forward_connections of connection site", 1)];
        forwards.set(name, Forward { budgets, ..forward(Protocol::Tcp, to) }).await.unwrap();
    }
    let mut first = TcpStream::connect(listen(&forwards, "a")).await.unwrap();
    let mut back = [0; 2];
    first.write_all(b"hi").await.unwrap();
    first.read_exact(&mut back).await.unwrap();
    assert_eq!(forwards.taken("limit forward_connections of connection site"), 1);
    let _ = through(listen(&forwards, "b"), b"one too many").await;
    let refused = counted(&forwards, "b");
    assert_eq!((refused.too_many, refused.clients), (1, 0));
    let why = refused.error.unwrap();
    assert_eq!(why, "limit forward_connections of connection site is 1: a client was refused");
    // A higher limit holds for those that run.
    forwards.budget("limit forward_connections of connection site", 2);
    assert_eq!(through(listen(&forwards, "b"), b"welcome").await.unwrap(), b"welcome");
    drop(first);
}

/// Sockets that somebody else makes are those that are used.
#[tokio::test]
async fn sockets_come_from_where_they_are_said_to_come() {
    use std::sync::Mutex;
    let to = echo("127.0.0.1:0").await;
    let made = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&made);
    let origin = Origin::new("elsewhere", move |protocol, ipv4, purpose| {
        seen.lock().unwrap().push(purpose);
        Origin::default().socket(protocol, ipv4, purpose).map(Into::into)
    });
    let mut forwards = Forwards::default();
    forwards.set("a", Forward { origin, ..forward(Protocol::Tcp, to) }).await.unwrap();
    assert_eq!(through(listen(&forwards, "a"), b"hello").await.unwrap(), b"hello");
    let listened = Purpose::Listen("127.0.0.1:0".parse().unwrap());
    assert_eq!(*made.lock().unwrap(), [listened, Purpose::Reach]);
}
