//! How a running routing program is spoken with: FRR's daemons and BIRD listen at sockets of their own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use culvert_bgp::bird;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A program that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes: about 100,000 routes.
const MOST: usize = 64 << 20;
/// FRR's words for "done", and "done, though with a warning" (lib/command.h: `CMD_SUCCESS`, `CMD_WARNING`).
const DONE: [u8; 2] = [0, 1];

/// A conversation with one of FRR's daemons.
pub(crate) struct Frr(UnixStream);

impl Frr {
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream =
            within(UnixStream::connect(socket)).await.with_context(|| format!("{}", socket.display()))?;
        let mut frr = Self(stream);
        frr.ask("enable").await?;
        Ok(frr)
    }

    /// Says a command and returns what it answers.
    pub(crate) async fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        let (answer, status) = self.say(command).await?;
        if !DONE.contains(&status) {
            bail!("FRR refuses `{}`: {}", hidden(command), answer.trim());
        }
        Ok(answer)
    }

    async fn say(&mut self, command: &str) -> anyhow::Result<(String, u8)> {
        within(async {
            self.0.write_all(command.as_bytes()).await?;
            self.0.write_all(&[0]).await
        })
        .await?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = within(self.0.read(&mut buffer)).await?;
            if length == 0 {
                bail!("FRR hung up");
            }
            answer.extend_from_slice(&buffer[..length]);
            // Three NULs and the status.
            if let [text @ .., 0, 0, 0, status] = &answer[..] {
                return Ok((String::from_utf8_lossy(text).into_owned(), *status));
            }
            if answer.len() > MOST {
                bail!("FRR's answer is too long");
            }
        }
    }

    /// Says commands one after the other, to the end whatever becomes of them; the first refusal is the error.
    pub(crate) async fn obey(&mut self, commands: &[String]) -> anyhow::Result<()> {
        let mut refused = Ok(());
        for command in commands {
            let (answer, status) = self.say(command).await?;
            if !DONE.contains(&status) && refused.is_ok() {
                refused = Err(anyhow::anyhow!("FRR refuses `{}`: {}", hidden(command), answer.trim()));
            }
        }
        refused
    }
}

/// A command as it may be shown: without the password.
fn hidden(command: &str) -> &str {
    command.split(" password ").next().unwrap_or_default()
}

/// A conversation with BIRD.
pub(crate) struct Bird(UnixStream);

impl Bird {
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream =
            within(UnixStream::connect(socket)).await.with_context(|| format!("{}", socket.display()))?;
        let mut bird = Self(stream);
        bird.hear().await?;
        Ok(bird)
    }

    /// Says a command and returns what it answers, with the codes.
    pub(crate) async fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        within(self.0.write_all(format!("{command}\n").as_bytes())).await?;
        self.hear().await
    }

    async fn hear(&mut self) -> anyhow::Result<String> {
        let mut answer = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = within(self.0.read(&mut buffer)).await?;
            if length == 0 {
                bail!("BIRD hung up");
            }
            answer.extend_from_slice(&buffer[..length]);
            let tail = answer
                .iter()
                .rev()
                .skip(1)
                .position(|byte| *byte == b'\n')
                .map_or(0, |at| answer.len() - at - 1);
            if bird::is_whole(&String::from_utf8_lossy(&answer[tail..])) {
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            if answer.len() > MOST {
                bail!("BIRD's answer is too long");
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => bail!("no answer in {} s", PATIENCE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn answers_end_where_the_programs_say() {
        let folder = std::env::temp_dir().join(format!("culvert-talk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut frr, _) = listener.accept().await.unwrap();
            let mut heard = [0; 64];
            // In pieces, and with a refusal in the end.
            for answer in
                [&[&b"\0\0\0\0"[..]][..], &[b"{ \"a\"", b": 1 }\0", b"\0\0\0"], &[b"% Unknown\0\0\0\x02"]]
            {
                let _ = frr.read(&mut heard).await.unwrap();
                for piece in answer {
                    frr.write_all(piece).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let (mut bird, _) = listener.accept().await.unwrap();
            bird.write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
            let _ = bird.read(&mut heard).await.unwrap();
            bird.write_all(b"1007-Table master4:\n ").await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            bird.write_all(b"10.0.0.0/8\n0000 \n").await.unwrap();
        });
        let mut frr = Frr::connect(&path).await.unwrap();
        assert_eq!(frr.ask("show").await.unwrap(), "{ \"a\": 1 }");
        let error = frr.ask("neighbor 1.2.3.4 password secret").await.unwrap_err().to_string();
        assert_eq!(error, "FRR refuses `neighbor 1.2.3.4`: % Unknown");
        let mut bird = Bird::connect(&path).await.unwrap();
        assert_eq!(bird.ask("show route").await.unwrap(), "1007-Table master4:\n 10.0.0.0/8\n0000 \n");
        server.await.unwrap();
        let _ = std::fs::remove_dir_all(folder);
    }
}
