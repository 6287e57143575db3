//! The real `culvert` against a socket that plays culvertd: questions, answers, streams, silence.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A culvertd that answers by a script, one client.
struct Daemon {
    folder: tempfile::TempDir,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Daemon {
    /// `play` gets the client's stream and a reader of its lines, and returns the requests that it saw.
    fn start(play: impl FnOnce(Client) -> Vec<String> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("culvert.sock")).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            play(Client { reader: BufReader::new(stream.try_clone().unwrap()), stream })
        });
        Self { folder, thread: Some(thread) }
    }

    /// Answers each request with the next of these lines.
    fn answering(answers: &[&str]) -> Self {
        let answers: Vec<String> = answers.iter().map(|a| a.to_string()).collect();
        Self::start(move |mut client| answers.iter().map(|answer| client.answer(answer)).collect())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("culvert.sock")
    }

    fn culvert(&self, args: &[&str]) -> Output {
        culvert(self.socket().to_str().unwrap(), args)
    }

    /// What the client asked.
    fn requests(mut self) -> Vec<String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

struct Client {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Client {
    fn request(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn send(&mut self, line: &str) {
        self.stream.write_all(line.as_bytes()).unwrap();
        self.stream.write_all(b"\n").unwrap();
    }

    fn answer(&mut self, line: &str) -> String {
        let request = self.request();
        self.send(line);
        request
    }
}

fn culvert(socket: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert")).args(["--socket", socket]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The status of one tunnel `c/a`.
fn status(state: &str, failures: u64, cause: &str) -> String {
    format!(
        r#"{{"response":"status","version":"0.1.0","pid":1,"uptime_s":5,"gateway":{{"wan":[]}},"novelty":[1],
        "connections":[{{"name":"c","state":"{up}","tunnels":[{{"name":"a","interface":"cv-c-a","state":"{state}",
        "since":0,"cause":{cause},"failures":{failures},"engine":"user","lan_port":"tun","wan_port":"udp"}}]}}]}}"#,
        up = if state == "up" { "up" } else { "down" },
    )
    .replace('\n', " ")
}

const DONE: &str = r#"{"response":"done","message":"begun"}"#;

#[test]
fn status_is_a_table_or_json() {
    let daemon = Daemon::answering(&[&status("up", 0, "null")]);
    let output = daemon.culvert(&["status"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("user tun+udp"), "{output:?}");
    assert_eq!(daemon.requests(), [r#"{"request":"status"}"#]);

    let daemon = Daemon::answering(&[&status("up", 0, "null")]);
    let output = daemon.culvert(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["connections"][0]["tunnels"][0]["interface"], "cv-c-a");
    assert_eq!(json["novelty"][0], 1, "fields of a newer culvertd are passed on");
    assert!(json.get("response").is_none());

    let daemon = Daemon::answering(&[&status("up", 0, "null")]);
    let output = daemon.culvert(&["status", "c/z"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "culvert: there is no connection or tunnel `c/z`\n         `culvert status` lists them\n"
    );
}

#[test]
fn explain_tells_cause_and_mend() {
    let answer = include_str!("../src/render/explain.json").replace('\n', " ").replacen(
        '{',
        r#"{"response":"explanation","#,
        1,
    );
    let daemon = Daemon::answering(&[&answer]);
    let output = daemon.culvert(&["explain", "hangzhou/b"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("to mend    set remote_id here"), "{output:?}");
    assert_eq!(daemon.requests(), [r#"{"request":"explain","target":"hangzhou/b"}"#]);

    let daemon = Daemon::answering(&[&answer]);
    let json: serde_json::Value =
        serde_json::from_slice(&daemon.culvert(&["explain", "x", "--json"]).stdout).unwrap();
    assert_eq!(json["tunnels"][1]["history"][2]["failure"]["theirs"], "gw2.example");
}

#[test]
fn commands_ask_what_they_say() {
    let cases: [(&[&str], &str); 5] = [
        (&["down", "c/a"], r#"{"request":"down","target":"c/a"}"#),
        (&["rekey", "c"], r#"{"request":"rekey","target":"c","ike":false}"#),
        (&["rekey", "c/a", "--ike"], r#"{"request":"rekey","target":"c/a","ike":true}"#),
        (&["up", "c", "--no-wait"], r#"{"request":"up","target":"c"}"#),
        (
            &["logs", "--since", "10m", "--level", "warn", "-c", "c"],
            r#"{"request":"logs","connection":"c","level":"warn","since_ms":600000,"follow":false}"#,
        ),
    ];
    for (args, request) in cases {
        let daemon = Daemon::answering(&[DONE]);
        let output = daemon.culvert(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        if args[0] != "logs" {
            assert_eq!(text(&output.stdout), "begun\n", "{args:?}");
        }
        assert_eq!(daemon.requests(), [request], "{args:?}");
    }
}

#[test]
fn refusals_show_cause_and_mend() {
    let refusal = r#"{"response":"error","code":"configuration","message":"first line\n  second\u001b[2J","mend":"write it so"}"#;
    for args in [
        &["reload"][..],
        &["status"],
        &["status", "--json"],
        &["counters"],
        &["logs"],
        &["up", "c"],
        &["down", "c"],
    ] {
        let daemon = Daemon::answering(&[refusal]);
        let output = daemon.culvert(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(
            text(&output.stderr),
            "culvert: first line\n  second\u{fffd}[2J\n         write it so\n",
            "{args:?}"
        );
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
}

#[test]
fn up_waits_for_the_tunnel() {
    let daemon = Daemon::answering(&[
        &status("down", 1, "\"old\""),
        DONE,
        &status("connecting", 1, "\"old\""),
        &status("connecting", 1, "\"old\""),
        &status("up", 1, "null"),
    ]);
    let output = daemon.culvert(&["up", "c"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("c/a: up, user tun+udp"), "{output:?}");
    assert_eq!(daemon.requests()[1], r#"{"request":"up","target":"c"}"#);
}

#[test]
fn up_says_why_a_tunnel_failed() {
    let daemon =
        Daemon::answering(&[&status("down", 1, "\"old\""), DONE, &status("connecting", 2, "\"wrong key\"")]);
    let output = daemon.culvert(&["up", "c/a"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "culvert: c/a: wrong key\n");
    drop(daemon.requests());
}

#[test]
fn up_of_a_disabled_tunnel_says_so() {
    let daemon = Daemon::answering(&[&status("disabled", 0, "null"), DONE]);
    let output = daemon.culvert(&["up", "c"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("culvert: no tunnel of c is enabled\n"), "{output:?}");
}

#[test]
fn up_gives_up_in_time() {
    let daemon = Daemon::start(|mut client| {
        client.answer(&status("down", 0, "null"));
        client.answer(DONE);
        let mut asked = 0;
        while !client.request().is_empty() {
            client.send(&status("connecting", 0, "null"));
            asked += 1;
        }
        vec![asked.to_string()]
    });
    let begin = Instant::now();
    let output = daemon.culvert(&["up", "c", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(begin.elapsed() >= Duration::from_secs(1) && begin.elapsed() < Duration::from_secs(15));
    assert!(
        text(&output.stderr).starts_with("culvert: c/a: still connecting after 1s; culvertd goes on"),
        "{output:?}"
    );
    let asked: usize = daemon.requests()[0].parse().unwrap();
    assert!((2..=12).contains(&asked), "asked {asked} times in a second");
}

#[test]
fn followed_logs_come_one_by_one() {
    let record = |n: u32| {
        format!(r#"{{"response":"log","time_ms":{n},"level":"info","connection":"c","message":"line {n}"}}"#)
    };
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let daemon = Daemon::start(move |mut client| {
        let request = client.request();
        client.send(&record(1));
        client.send(r#"{"response":"sculpture"}"#);
        // Only once the first line was seen: it must not wait for more.
        wait.recv_timeout(Duration::from_secs(20)).unwrap();
        client.send(&record(2));
        vec![request]
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["--socket", daemon.socket().to_str().unwrap(), "logs", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "1970-01-01T00:00:00.001Z info  c: line 1\n");
    go.send(()).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "1970-01-01T00:00:00.002Z info  c: line 2\n");
    let output = child.wait_with_output().unwrap();
    // culvertd went away: the operator must notice.
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("closed the connection"), "{output:?}");
    assert_eq!(
        daemon.requests(),
        [r#"{"request":"logs","connection":null,"level":null,"since_ms":null,"follow":true}"#]
    );
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let output = culvert(socket.to_str().unwrap(), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error
            .starts_with(&format!("culvert: culvertd does not run: there is no socket {}", socket.display()))
    );
    assert!(error.contains("systemctl start culvertd"), "{error}");

    // Left over from a daemon that died.
    drop(UnixListener::bind(&socket).unwrap());
    let error = text(&culvert(socket.to_str().unwrap(), &["status"]).stderr);
    assert!(error.contains("nobody listens at"), "{error}");
}

#[test]
fn a_socket_of_another_user_asks_for_sudo() {
    let daemon = tempfile::tempdir().unwrap();
    let socket = daemon.path().join("culvert.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Root may use any socket: become nobody where the test runs as root.
    std::fs::set_permissions(daemon.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = folder.path().join("culvert");
    std::fs::copy(env!("CARGO_BIN_EXE_culvert"), &binary).unwrap();
    let mut command = Command::new(&binary);
    command.args(["--socket", socket.to_str().unwrap(), "status"]);
    if nobody_is_needed(&socket) {
        use std::os::unix::process::CommandExt;
        command.uid(65534).gid(65534);
    } else {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    // A test beside this one may be forking, and for that moment holds the copy open for writing.
    let output = (0..500).find_map(|_| match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
            std::thread::sleep(std::time::Duration::from_millis(10));
            None
        }
        other => Some(other.unwrap()),
    });
    let output = output.expect("the copy stays busy");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("culvert: no permission to use") && error.contains("sudo"), "{error}");
}

fn nobody_is_needed(socket: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(socket).unwrap().uid() == 0
}

#[test]
fn broken_answers_are_reported() {
    let cases = [
        ("gibberish", "an answer that cannot be read"),
        (r#"{"response":"sculpture"}"#, "an answer of a kind that this culvert does not know"),
        (DONE, "an answer to another question"),
    ];
    for (answer, what) in cases {
        let daemon = Daemon::answering(&[answer]);
        let output = daemon.culvert(&["counters"]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains(what) && error.contains("--version"), "{error}");
    }
    let daemon = Daemon::answering(&[]);
    let error = text(&daemon.culvert(&["status"]).stderr);
    assert!(error.contains("closed the connection") && error.contains("journalctl"), "{error}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["dance"][..],
        &["up"],
        &["up", "a b"],
        &["logs", "--since", "10"],
        &["logs", "--level", "loud"],
        &[],
    ] {
        let output = culvert("/nonexistent", args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    let error = text(&culvert("/nonexistent", &["up", "a b"]).stderr);
    assert!(error.contains("CONNECTION/TUNNEL"), "{error}");
}
