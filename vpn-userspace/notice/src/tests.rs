//! Commands that do well, fail and hang; webhooks that answer, refuse, come back and hang.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn happening(text: &str) -> Happening {
    Happening {
        event: "failover",
        time: 1_700_000_000,
        gateway: "edge".into(),
        connection: "hangzhou".into(),
        tunnel: "b".into(),
        text: text.into(),
    }
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("tell");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn way(how: How, retries: u32) -> Way {
    Way { how, timeout: Duration::from_secs(2), retries }
}

/// Until a way has told or failed so often.
async fn settled(notices: &Notices, told: u64, failed: u64) -> Counts {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let counts = notices.counts().next().unwrap().2;
        if (counts.told, counts.failed) == (told, failed) {
            return counts;
        }
        assert!(Instant::now() < end, "{counts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn one(way: Way) -> Notices {
    let mut notices = Notices::default();
    notices.set(BTreeMap::from([("ops".to_owned(), way)]));
    notices
}

#[tokio::test]
async fn a_command_gets_what_happened_in_its_environment_and_no_shell_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let text = format!(
        "printf '%s|%s|%s|%s' \"$1\" \"$CULVERT_EVENT\" \"$CULVERT_TEXT\" \"$HOME\" > {}",
        out.display()
    );
    let program = script(folder.path(), &text);
    let notices = one(way(How::Command(program, vec!["$(id)".into()]), 0));
    assert!(
        notices.tell("ops", &happening("`touch /tmp/x`; $(id)\nnext"))
            && !notices.tell("nobody", &happening(""))
    );
    settled(&notices, 1, 0).await;
    assert_eq!(std::fs::read_to_string(out).unwrap(), "$(id)|failover|`touch /tmp/x`; $(id)\nnext|");
}

#[tokio::test]
async fn a_command_that_fails_says_why_and_one_that_hangs_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(folder.path(), "echo no   such channel >&2; exit 3");
    let notices = one(way(How::Command(program, Vec::new()), 0));
    notices.tell("ops", &happening(""));
    let error = settled(&notices, 0, 1).await.error.unwrap();
    assert!(error.contains("exit status: 3: no such channel"), "{error}");

    let pid = folder.path().join("pid");
    let program = script(folder.path(), &format!("echo $$ > {}; exec sleep 60", pid.display()));
    let late = Way { timeout: Duration::from_millis(500), ..way(How::Command(program, Vec::new()), 0) };
    let notices = one(late);
    notices.tell("ops", &happening(""));
    settled(&notices, 0, 1).await;
    let pid = std::fs::read_to_string(pid).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    // A zombie until it is reaped; then gone.
    while std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()))
        .is_ok_and(|line| line.contains("sleep"))
    {
        assert!(Instant::now() < end, "it still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers one request after another with these statuses; returns what came.
async fn server(statuses: &'static [u16]) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        let mut all = Vec::new();
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            while !String::from_utf8_lossy(&text).contains("\"text\":") {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).await.unwrap();
                assert!(length > 0, "{}", String::from_utf8_lossy(&text));
                text.extend_from_slice(&part[..length]);
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            all.push(String::from_utf8(text).unwrap());
        }
        all
    });
    (url, serve)
}

fn hook(url: String, secret: Option<&[u8]>) -> How {
    How::Webhook(Webhook { url, secret: secret.map(|s| Zeroizing::new(s.to_vec())), authorities: None })
}

#[tokio::test]
async fn a_webhook_is_signed_and_asked_again_when_its_server_fails() {
    let (url, serve) = server(&[503, 204]).await;
    let notices = one(way(hook(url, Some(b"sesame")), 3));
    notices.tell("ops", &happening("traffic moves"));
    let counts = settled(&notices, 1, 0).await;
    assert!(counts.error.unwrap().contains("status 503"));
    let came = serve.await.unwrap();
    assert_eq!(came.len(), 2);
    let (head, body) = came[1].split_once("\r\n\r\n").unwrap();
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((value["event"].as_str(), value["tunnel"].as_str()), (Some("failover"), Some("b")));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"sesame");
    let signature = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("x-culvert-signature: sha256=").map(str::to_owned));
    let tag = hex::decode(signature.unwrap()).unwrap();
    ring::hmac::verify(&key, format!("1700000000.{body}").as_bytes(), &tag).unwrap();
    assert!(head.to_lowercase().contains("x-culvert-timestamp: 1700000000"));
}

#[tokio::test]
async fn a_webhook_that_refuses_is_not_asked_again_and_one_that_hangs_is_given_up() {
    let (url, serve) = server(&[403]).await;
    let notices = one(way(hook(url, None), 5));
    notices.tell("ops", &happening(""));
    assert!(settled(&notices, 0, 1).await.error.unwrap().ends_with("status 403"));
    let came = serve.await.unwrap();
    assert!(!came[0].to_lowercase().contains("x-culvert-signature"));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/secret-token", listener.local_addr().unwrap());
    let notices = one(Way { timeout: Duration::from_millis(300), ..way(hook(url, None), 0) });
    notices.tell("ops", &happening(""));
    let error = settled(&notices, 0, 1).await.error.unwrap();
    assert!(!error.contains("secret-token"), "{error}");
    // And the queue of one that hangs ends somewhere.
    for _ in 0..QUEUE * 2 {
        notices.tell("ops", &happening(""));
    }
    assert!(notices.counts().next().unwrap().2.dropped > 0);
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?}", way(hook("https://h.example/token".into(), Some(b"sesame")), 0));
    assert_eq!(shown, "webhook at https://h.example");
}
