//! A happening told by a program: no shell, and nothing of culvertd's own environment but PATH.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::{Error, Happening};

/// Of what a failing program says, as much as stands in the log.
const SAID: u64 = 300;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) async fn run(
    program: &Path,
    arguments: &[String],
    happening: &Happening,
    timeout: Duration,
) -> Result<(), Error> {
    let shown = program.display().to_string();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/");
    command.env("CULVERT_EVENT", happening.event).env("CULVERT_TIME", happening.time.to_string());
    for (name, value) in [
        ("CULVERT_GATEWAY", &happening.gateway),
        ("CULVERT_CONNECTION", &happening.connection),
        ("CULVERT_TUNNEL", &happening.tunnel),
        ("CULVERT_TEXT", &happening.text),
    ] {
        // The environment of a process has no NUL.
        command.env(name, value.replace('\0', ""));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| Error::Start { program: shown.clone(), error })?;
    let stderr = child.stderr.take();
    let ended = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            // What goes on writing after that gets SIGPIPE no more than it gets read: the pipe is emptied.
            let _ = (&mut stderr).take(SAID).read_to_end(&mut said).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
        (child.wait().await, said)
    };
    // Whoever is late is killed, by the drop of `child`.
    let (status, said) = tokio::time::timeout(timeout, ended).await.map_err(|_| Error::Late(timeout))?;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let said = String::from_utf8_lossy(&said);
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let said = if words.is_empty() { words } else { format!(": {words}") };
            Err(Error::Status { program: shown, status, said })
        }
        Err(error) => Err(Error::Start { program: shown, error }),
    }
}
