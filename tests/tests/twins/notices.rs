//! Who is told what happens: a command and a webhook.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use culvert_lab::wait_for;
use serde_json::Value;

use super::failover::{PATIENCE, Pair, by_ping};

/// Takes one POST after another and sends on what they hold.
fn hooks() -> Result<(String, mpsc::Receiver<Value>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let _ = reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            if send.send(serde_json::from_slice(&body).unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    Ok((url, receive))
}

/// Up, failover, health and down, each told once by either way, with its cause.
#[test]
fn b13_a_command_and_a_webhook_are_told_of_up_down_and_failover() -> Result<()> {
    let pair = Pair::start(&[("failback", "\"1s\"")], by_ping("100ms"))?;
    pair.wait_active("a")?;
    let folder = tempfile::tempdir()?;
    let (program, told) = (folder.path().join("tell"), folder.path().join("told"));
    let line = "$CULVERT_EVENT $CULVERT_CONNECTION/$CULVERT_TUNNEL $CULVERT_TEXT";
    std::fs::write(&program, format!("#!/bin/sh\necho \"{line}\" >> {}\n", told.display()))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    // The namespace of the gateway has a loopback of its own.
    let (url, hooked) = pair.site.gateway_a.within(hooks)??;
    // The last one hangs: it delays nobody.
    pair.append_a(&format!(
        "[notice.ops]\ncommand = [\"{}\"]\non = [\"up\", \"down\", \"failover\"]\n\
         [notice.web]\nwebhook = \"{url}\"\non = [\"failover\", \"health\"]\nconnections = \"site\"\n\
         [notice.dead]\nwebhook = \"http://192.0.2.1:9\"\ntimeout = \"1s\"\nretries = 0\n",
        program.display()
    ))?;
    let said = pair.a.cli(&["reload"])?;
    ensure!(said.contains("notice"), "{said}");
    pair.a.cli(&["notice", "test", "ops"])?;
    let has = |text: &str| {
        let all = std::fs::read_to_string(&told).unwrap_or_default();
        wait_for(&format!("`{text}` among what was told"), PATIENCE, || {
            std::fs::read_to_string(&told).unwrap_or_default().contains(text).then_some(())
        })
        .with_context(|| format!("told so far:\n{all}"))
    };
    has("test / ")?;
    pair.cut(true)?;
    pair.wait_active("b")?;
    has("failover site/b traffic moves from tunnel a to b")?;
    let mut events = Vec::new();
    let came = |events: &[Value], what: &str| events.iter().any(|e| e["event"] == what);
    while !(came(&events, "failover") && came(&events, "health")) {
        events.push(hooked.recv_timeout(PATIENCE).context("no webhook came")?);
    }
    let health = events.iter().find(|e| e["event"] == "health").context("no `health`")?;
    ensure!(health["connection"] == "site" && health["tunnel"] == "a", "{events:?}");
    ensure!(health["text"].as_str().is_some_and(|text| text.contains("no answer")), "{events:?}");
    pair.cut(false)?;
    pair.wait_active("a")?;
    pair.a.cli(&["down", "site/b"])?;
    has("down site/b the tunnel is down")?;
    pair.a.cli(&["up", "site/b"])?;
    has("up site/b the tunnel is up")?;
    let list: Value = serde_json::from_str(&pair.a.cli(&["notice", "list", "--json"])?)?;
    let of = |name: &str| list.as_array().and_then(|all| all.iter().find(|n| n["name"] == name)).cloned();
    let ops = of("ops").context("no `ops`")?;
    ensure!(ops["told"].as_u64().is_some_and(|n| n >= 4) && ops["failed"] == 0, "{list:#}");
    ensure!(of("dead").is_some_and(|dead| dead["failed"].as_u64().is_some_and(|n| n > 0)), "{list:#}");
    let (fine, said) = pair.a.cli_any(&["notice", "test", "nobody"])?;
    ensure!(!fine && said.contains("there is no notice `nobody`"), "{said}");
    Ok(())
}
