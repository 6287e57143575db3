//! Port forwards: over whichever tunnel is up, changed while they run, through a failover.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::topology::{HOST_A, HOST_B6};
use culvert_lab::{Capture, Namespace, capture, wait_for};
use serde_json::Value;

use super::failover::{PATIENCE, Pair, by_ping};

/// Sends everything back, at these ports of a host.
fn echo(host: &Namespace, tcp: &str, udp: &str) -> Result<()> {
    let listener = host.within(|| TcpListener::bind(tcp))??;
    let socket = host.within(|| UdpSocket::bind(udp))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

fn connect(host: &Namespace, to: &str) -> Result<TcpStream> {
    let to: SocketAddr = to.parse()?;
    let stream = host.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn goes_through(stream: &mut TcpStream, data: &[u8]) -> Result<()> {
    stream.write_all(data)?;
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).context("nothing came back")?;
    ensure!(back == data, "something else came back");
    Ok(())
}

const FIRST: &str = "[connection.site.forward.hello]\nlisten = \"127.0.0.1:33000\"\nto = \"10.2.0.2:8080\"\n\
    [connection.site.forward.lan]\nlisten = \"10.1.0.1:33000\"\nto = \"10.2.0.2:8080\"\nallow = [\"10.1.0.2\"]\n\
    [connection.site.forward.six]\nlisten = \"[::1]:33000\"\nto = \"[fd02::2]:8080\"\n\
    [connection.site.forward.name]\nlisten = \"127.0.0.1:33001\"\nto = \"intranet.example:8080\"\n";
const UDP: &str = "[connection.site.forward.ask]\nlisten = \"10.1.0.1:33053\"\nto = \"10.2.0.2:5353\"\nprotocol = \"udp\"\n";

/// Both protocols and families, by address and by name, from this host and from the LAN; added and removed at run time.
#[test]
fn a5_forwards_come_and_go_while_others_run() -> Result<()> {
    let pair = Pair::start(&[], by_ping("1s"))?;
    let (gateway, host) = (&pair.site.gateway_a, &pair.site.host_a);
    echo(&pair.site.host_b, "[::]:8080", "0.0.0.0:5353")?;
    let watch = Capture::start(&pair.site.wan)?;
    let reload = |forwards: &str| -> Result<String> {
        pair.write_a(forwards)?;
        pair.a.cli(&["reload"])
    };
    reload(FIRST)?;
    let mut first = connect(gateway, "127.0.0.1:33000")?;
    goes_through(&mut first, &[7; 100_000])?;
    for (from, to) in [(host, "10.1.0.1:33000"), (gateway, "[::1]:33000"), (gateway, "127.0.0.1:33001")] {
        goes_through(&mut connect(from, to)?, &[9; 1000])
            .with_context(|| format!("{to}\n{}", pair.a.log()))?;
    }
    // The gateway itself is not among those who may.
    let refused = goes_through(&mut connect(gateway, "10.1.0.1:33000")?, b"x");
    ensure!(refused.is_err(), "the access list lets anybody in");

    // One more: the others, and their connections, do not notice.
    reload(&format!("{FIRST}{UDP}"))?;
    goes_through(&mut first, b"still there")?;
    let socket = host.within(|| UdpSocket::bind((HOST_A, 0)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"who is it", "10.1.0.1:33053")?;
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer)?;
    ensure!(&buffer[..length] == b"who is it" && from.to_string() == "10.1.0.1:33053", "{from}");

    let list: Value = serde_json::from_str(&pair.a.cli(&["forward", "list", "--json"])?)?;
    let of =
        |name: &str| list["site"].as_array().and_then(|all| all.iter().find(|f| f["name"] == name)).cloned();
    let (hello, lan) = (of("hello").context("no hello")?, of("lan").context("no lan")?);
    ensure!(hello["active"] == 1 && hello["bytes_back"] == 100_011, "{list:#}");
    ensure!(lan["not_allowed"] == 1 && lan["clients"] == 1, "{list:#}");
    let hosts = pair.a.cli(&["forward", "hosts"])?;
    ensure!(
        hosts.contains("vpn:33053 leads to 10.2.0.2:5353") && hosts.contains("\n127.0.0.1 vpn\n"),
        "{hosts}"
    );

    // A port that is taken refuses the whole reload, and nothing is touched.
    let _taken = gateway.within(|| TcpListener::bind("127.0.0.1:33002"))??;
    let wrong = FIRST.replace("127.0.0.1:33001", "127.0.0.1:33002");
    let error = reload(&wrong).expect_err("the port is taken").to_string();
    ensure!(error.contains("127.0.0.1:33002 is taken by another program"), "{error}");
    goes_through(&mut first, b"and still")?;

    reload(UDP)?;
    let mut rest = Vec::new();
    ensure!(first.read_to_end(&mut rest).map_or(true, |n| n == 0), "a forward that is gone goes on");
    ensure!(connect(gateway, "127.0.0.1:33000").is_err(), "a forward that is gone listens");
    let flows = watch.finish();
    ensure!(
        capture::within(&flows, &["10.1.0.0/16", "10.2.0.0/16", HOST_B6]).is_empty(),
        "in clear: {flows:?}"
    );
    Ok(())
}

/// A connection outlives the tunnel that it began in.
#[test]
fn a6_a_forwarded_connection_survives_the_failover() -> Result<()> {
    let pair = Pair::start(&[("failback", "\"1s\"")], by_ping("100ms"))?;
    echo(&pair.site.host_b, "0.0.0.0:8080", "0.0.0.0:5353")?;
    pair.write_a(&FIRST.replace("33001", "33009"))?;
    pair.a.cli(&["reload"])?;
    pair.wait_active("a")?;
    let mut stream = connect(&pair.site.host_a, "10.1.0.1:33000")?;
    goes_through(&mut stream, &[1; 10_000])?;
    pair.cut(true)?;
    pair.wait_active("b")?;
    goes_through(&mut stream, &[2; 10_000])?;
    pair.cut(false)?;
    pair.wait_active("a")?;
    goes_through(&mut stream, &[3; 10_000])?;
    wait_for("one connection all the time", PATIENCE, || {
        let list: Value = serde_json::from_str(&pair.a.cli(&["forward", "list", "--json"]).ok()?).ok()?;
        let lan = list["site"].as_array()?.iter().find(|f| f["name"] == "lan")?.clone();
        (lan["clients"] == 1 && lan["active"] == 1).then_some(())
    })
}
