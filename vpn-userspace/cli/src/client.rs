//! One conversation with culvertd over its control socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use culvert_api::frame::{self, Lines, MAX_RESPONSE};
use culvert_api::{Failure, Request, Response, Status, Target};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// How long culvertd may take to answer. Taking tunnels down waits for the peers, hence so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// As many as come with one answer (SCM_MAX_FD).
const MOST_SOCKETS: usize = 253;

/// A connection to culvertd.
pub(crate) struct Client {
    stream: UnixStream,
    lines: Lines,
    path: PathBuf,
    /// `None`: as long as it takes.
    patience: Option<Duration>,
}

/// Why culvertd cannot be asked, or what it refused.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// There is no socket, or nobody listens.
    NotRunning(PathBuf, io::Error),
    /// The socket is there and not for this user.
    Permission(PathBuf),
    /// The connection cannot be made for another reason, or broke.
    Io(PathBuf, io::Error),
    /// culvertd closed the connection before it had answered.
    Closed(PathBuf),
    /// No answer in time.
    Timeout(PathBuf, Duration),
    /// An answer that this version does not understand.
    Answer(String),
    /// culvertd says no.
    Refused(Failure),
    /// There is no such connection or tunnel.
    NoSuch(Target),
}

impl ClientError {
    pub(crate) fn unexpected(response: &Response) -> Self {
        match response {
            Response::Error(failure) => Self::Refused(failure.clone()),
            Response::Unknown => {
                Self::Answer("an answer of a kind that this culvert does not know".to_owned())
            }
            _ => Self::Answer("an answer to another question".to_owned()),
        }
    }

    pub(crate) fn no_such(target: &Target) -> Self {
        Self::NoSuch(target.clone())
    }

    /// What to do about it.
    pub(crate) fn mend(&self) -> Option<String> {
        Some(match self {
            Self::NotRunning(..) => {
                "start it with `systemctl start culvertd`; if its socket is elsewhere, name it with --socket PATH".to_owned()
            }
            Self::Permission(_) => "only root may steer the gateway: run it with sudo".to_owned(),
            Self::Io(..) | Self::Closed(_) | Self::Timeout(..) => {
                "see `systemctl status culvertd` and `journalctl -u culvertd`".to_owned()
            }
            Self::Answer(_) => {
                "culvert and culvertd are of different versions: compare `culvert --version` and `culvertd --version`".to_owned()
            }
            Self::Refused(failure) if failure.mend.is_empty() => return None,
            Self::Refused(failure) => failure.mend.clone(),
            Self::NoSuch(_) => "`culvert status` lists them".to_owned(),
        })
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(path, error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "culvertd does not run: there is no socket {}", path.display())
            }
            Self::NotRunning(path, _) => {
                write!(f, "culvertd does not run: nobody listens at {}", path.display())
            }
            Self::Permission(path) => write!(f, "no permission to use {}", path.display()),
            Self::Io(path, error) => write!(f, "cannot talk to culvertd at {}: {error}", path.display()),
            Self::Closed(path) => {
                write!(f, "culvertd closed the connection at {} without an answer", path.display())
            }
            Self::Timeout(path, after) => {
                write!(f, "culvertd at {} did not answer within {} s", path.display(), after.as_secs())
            }
            Self::Answer(what) => write!(f, "culvertd sent {what}"),
            Self::Refused(failure) => f.write_str(&failure.message),
            Self::NoSuch(target) => write!(f, "there is no connection or tunnel `{target}`"),
        }
    }
}

impl std::error::Error for ClientError {}

impl Client {
    /// Connects to the socket of a running culvertd.
    pub(crate) fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.to_owned(), error)
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission(path.to_owned()),
            _ => ClientError::Io(path.to_owned(), error),
        })?;
        let client =
            Self { stream, lines: Lines::new(MAX_RESPONSE), path: path.to_owned(), patience: Some(PATIENCE) };
        client.stream.set_write_timeout(client.patience).map_err(|error| client.failed(error))?;
        Ok(client)
    }

    /// From now on answers may take as long as they take: a log that is followed.
    pub(crate) fn wait_for_ever(&mut self) -> Result<(), ClientError> {
        self.wait_for(None)
    }

    /// From now on answers may take so long; `None`: as long as they take.
    pub(crate) fn wait_for(&mut self, patience: Option<Duration>) -> Result<(), ClientError> {
        self.patience = patience;
        self.stream.set_read_timeout(patience).map_err(|error| self.failed(error))
    }

    /// The gateway at this moment.
    pub(crate) fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(ClientError::unexpected(&other)),
        }
    }

    /// One question, one answer; a refusal is an error.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// As [`Client::ask`], with the answer as it came.
    pub(crate) fn ask_raw(&mut self, request: &Request) -> Result<serde_json::Value, ClientError> {
        self.send(request)?;
        let line = self.receive_line()?;
        if let Response::Error(failure) = decode(&line)? {
            return Err(ClientError::Refused(failure));
        }
        serde_json::from_slice(&line).map_err(|error| ClientError::Answer(format!("no JSON: {error}")))
    }

    /// Asks without waiting.
    pub(crate) fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.stream.write_all(&frame::encode(request)) {
            Ok(()) => Ok(()),
            // It may have said why before it hung up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => match self.receive() {
                Err(refused @ ClientError::Refused(_)) => Err(refused),
                _ => Err(ClientError::Closed(self.path.clone())),
            },
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The next answer; a refusal is an error.
    pub(crate) fn receive(&mut self) -> Result<Response, ClientError> {
        let line = self.receive_line()?;
        match decode(&line)? {
            Response::Error(failure) => Err(ClientError::Refused(failure)),
            response => Ok(response),
        }
    }

    /// The next answer, with the sockets that come with it.
    pub(crate) fn receive_with_sockets(&mut self) -> Result<(Response, Vec<OwnedFd>), ClientError> {
        let mut sockets = Vec::new();
        let mut chunk = [0; 16 * 1024];
        self.stream.set_read_timeout(self.patience).map_err(|error| self.failed(error))?;
        loop {
            if let Some(line) = self.lines.next_line().map_err(|e| ClientError::Answer(e.to_string()))? {
                return match decode(&line)? {
                    Response::Error(failure) => Err(ClientError::Refused(failure)),
                    response => Ok((response, sockets)),
                };
            }
            let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let mut parts = [io::IoSliceMut::new(&mut chunk)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.stream, &mut parts, &mut control, flags) {
                Ok(message) if message.bytes == 0 => return Err(ClientError::Closed(self.path.clone())),
                Ok(message) => self.lines.push(chunk.get(..message.bytes).unwrap_or_default()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(self.failed(error.into())),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    sockets.extend(more);
                }
            }
        }
    }

    fn receive_line(&mut self) -> Result<Vec<u8>, ClientError> {
        let begin = Instant::now();
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(error) => return Err(ClientError::Answer(error.to_string())),
            }
            if let Some(patience) = self.patience {
                let left = patience.saturating_sub(begin.elapsed());
                if left.is_zero() {
                    return Err(ClientError::Timeout(self.path.clone(), patience));
                }
                self.stream.set_read_timeout(Some(left)).map_err(|error| self.failed(error))?;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed(self.path.clone())),
                Ok(length) => self.lines.push(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, error: io::Error) -> ClientError {
        match (error.kind(), self.patience) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(patience)) => {
                ClientError::Timeout(self.path.clone(), patience)
            }
            (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _) => {
                ClientError::Closed(self.path.clone())
            }
            _ => ClientError::Io(self.path.clone(), error),
        }
    }
}

fn decode(line: &[u8]) -> Result<Response, ClientError> {
    frame::decode_response(line).map_err(|error| ClientError::Answer(format!("an answer that {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn patience_ends_however_slowly_bytes_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect(&path).unwrap();
        client.patience = Some(Duration::from_millis(300));
        let (mut stream, _) = listener.accept().unwrap();
        let drip = std::thread::spawn(move || {
            // Never a whole line; ends when the client hangs up.
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let begin = Instant::now();
        let error = client.ask(&Request::Status).unwrap_err();
        assert!(matches!(error, ClientError::Timeout(..)), "{error}");
        assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&begin.elapsed()));
        assert!(error.mend().unwrap().contains("journalctl"));
        drop(client);
        drip.join().unwrap();
    }
}
