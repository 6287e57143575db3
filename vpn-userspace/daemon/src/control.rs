//! The control socket: lines of JSON in, answers out. Log requests are served here; everything else goes
//! to the event loop.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use culvert_api::frame::{self, FrameError, Lines};
use culvert_api::{
    DropRecord, DropsRequest, ErrorCode, LogRecord, LogsRequest, Request, Response, Target, TraceRecord,
};
use culvert_sys::capture::PacketSocket;
use culvert_sys::netns::NetNs;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::drops::lagged;
use crate::log::LogStore;
use crate::trace::Watchers;

/// A request for the event loop, and where its answer goes.
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Response>,
}

/// What clients can follow.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) log: Arc<LogStore>,
    pub(crate) watchers: Watchers,
    pub(crate) drops: broadcast::Sender<Arc<DropRecord>>,
}

/// Clients served at once; more wait in the socket's backlog.
const CLIENTS: usize = 64;
/// A client that does not read for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The listening socket; its file goes with it.
pub(crate) struct ControlSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path` (mode 0600). Refuses to take it from a culvertd that still answers there.
pub(crate) async fn listen(path: &Path, live: Live) -> anyhow::Result<(ControlSocket, mpsc::Receiver<Ask>)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            bail!("{} exists and is no socket; remove it or choose another control_socket", path.display());
        }
        if UnixStream::connect(path).await.is_ok() {
            bail!(
                "another culvertd answers at {}; stop it first (`systemctl stop culvertd`) or choose another control_socket",
                path.display()
            );
        }
        std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale socket {}", path.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the permissions of {}", path.display()))?;
    let (asks, receiver) = mpsc::channel(CLIENTS);
    let task = tokio::spawn(accept(listener, asks, live));
    Ok((ControlSocket { path: path.to_owned(), task }, receiver))
}

async fn accept(listener: UnixListener, asks: mpsc::Sender<Ask>, live: Live) {
    let places = Arc::new(tokio::sync::Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (asks, live) = (asks.clone(), live.clone());
                tokio::spawn(async move {
                    // The mode of the socket keeps others out; this holds if somebody widens it.
                    let uid = stream.peer_cred().map(|c| c.uid());
                    if uid.is_ok_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw()) {
                        let _ = Client { stream, asks, live }.serve().await;
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(target: "culvertd", "control socket: cannot accept a client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Client {
    stream: UnixStream,
    asks: mpsc::Sender<Ask>,
    live: Live,
}

impl Client {
    async fn serve(mut self) -> std::io::Result<()> {
        let mut lines = Lines::new(frame::MAX_REQUEST);
        let mut buffer = vec![0; 4096];
        loop {
            match lines.next_line() {
                Ok(Some(line)) => match frame::decode_request(&line) {
                    Ok(Request::Logs(request)) => self.logs(request).await?,
                    Ok(Request::Trace { target, datagrams }) => self.trace(target, datagrams).await?,
                    Ok(Request::Drops(request)) if request.follow => self.drops(request).await?,
                    Ok(request @ Request::Capture { .. }) => self.capture(request).await?,
                    Ok(request) => {
                        let response = self.ask(request).await;
                        self.write(&response).await?;
                    }
                    Err(error) => self.write(&error.to_response()).await?,
                },
                Ok(None) => match self.stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    n => lines.push(buffer.get(..n).unwrap_or_default()),
                },
                Err(error @ FrameError::TooLong { .. }) => return self.write(&error.to_response()).await,
                Err(error) => self.write(&error.to_response()).await?,
            }
        }
    }

    async fn ask(&self, request: Request) -> Response {
        let (answer, wait) = oneshot::channel();
        let gone = || {
            Response::error(
                ErrorCode::Internal,
                "culvertd is shutting down",
                "start it again and repeat the command",
            )
        };
        if self.asks.send(Ask { request, answer }).await.is_err() {
            return gone();
        }
        wait.await.unwrap_or_else(|_| gone())
    }

    async fn logs(&mut self, request: LogsRequest) -> std::io::Result<()> {
        let of = request.connection.as_ref().map(Target::connection_name);
        let (kept, live) = self.live.log.follow(of);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let from = request.since_ms.map_or(0, |since| now.saturating_sub(since));
        for record in kept.iter().filter(|r| r.time_ms >= from && request.wants(r)) {
            self.write(&Response::Log((**record).clone())).await?;
        }
        if !request.follow {
            return self.write(&Response::done("")).await;
        }
        let shown = |record: &LogRecord| request.wants(record).then(|| Response::Log(record.clone()));
        let lagged = |lost| {
            let text = format!("{lost} log records were lost: the reader was too slow");
            Response::error(ErrorCode::Internal, text, "narrow it with --connection or --level")
        };
        self.follow(live, shown, lagged).await
    }

    /// Answers with what is `shown` of each record, until the client goes or says anything; with `lagged` where it reads so
    /// slowly that some are lost.
    async fn follow<T: Send + Sync>(
        &mut self,
        mut live: broadcast::Receiver<Arc<T>>,
        shown: impl Fn(&T) -> Option<Response>,
        lagged: impl Fn(u64) -> Response,
    ) -> std::io::Result<()> {
        let mut scratch = [0; 64];
        loop {
            let record = tokio::select! {
                record = live.recv() => record,
                // Whatever a following client sends, it ends the stream; mostly it just goes away.
                read = self.stream.read(&mut scratch) => {
                    if read? == 0 { return Ok(()); }
                    break;
                }
            };
            let response = match record {
                Ok(record) => shown(&record),
                Err(broadcast::error::RecvError::Lagged(lost)) => Some(lagged(lost)),
                Err(broadcast::error::RecvError::Closed) => break,
            };
            if let Some(response) = response {
                self.write(&response).await?;
            }
        }
        self.write(&Response::done("")).await
    }

    async fn trace(&mut self, target: Option<Target>, datagrams: bool) -> std::io::Result<()> {
        // Watching before it begins, so that nothing is missed.
        let live = self.live.watchers.watch();
        let begun = self.ask(Request::Trace { target: target.clone(), datagrams }).await;
        if !matches!(begun, Response::Done(_)) {
            return self.write(&begun).await;
        }
        let shown = |record: &TraceRecord| {
            let of = record.connection.as_deref().zip(record.tunnel.as_deref());
            // Whose it is may not be known; then it may be the one that is looked for.
            let wanted = match (&target, of) {
                (Some(target), Some((connection, tunnel))) => target.covers(connection, tunnel),
                _ => true,
            };
            (wanted && (datagrams || record.datagram.is_none())).then(|| Response::Trace(record.clone()))
        };
        let lagged = |lost| {
            let text = format!("{lost} records were lost: the reader was too slow");
            Response::error(ErrorCode::Internal, text, "name a connection")
        };
        self.follow(live, shown, lagged).await
    }

    async fn drops(&mut self, request: DropsRequest) -> std::io::Result<()> {
        let live = self.live.drops.subscribe();
        let begun = self.ask(Request::Drops(request.clone())).await;
        // What it is, and that it begins.
        self.write(&begun).await?;
        if !matches!(begun, Response::Done(_)) {
            return Ok(());
        }
        let shown = |record: &DropRecord| {
            let wanted =
                request.wants(record.connection.as_deref(), record.tunnel.as_deref(), &record.reason);
            wanted.then(|| Response::Drop(record.clone()))
        };
        self.follow(live, shown, lagged).await
    }

    /// Answers with packet sockets, and has nothing more to do with what they see.
    async fn capture(&mut self, request: Request) -> std::io::Result<()> {
        let mut capture = match self.ask(request).await {
            Response::Capture(capture) => capture,
            other => return self.write(&other).await,
        };
        let mut sockets = Vec::new();
        for place in &mut capture.places {
            let opened = match &place.namespace {
                Some(name) => {
                    NetNs::open(name).and_then(|n| n.within(|| PacketSocket::open(&place.interface))?)
                }
                None => PacketSocket::open(&place.interface),
            };
            match opened {
                Ok(socket) => {
                    place.ethernet = socket.ethernet;
                    sockets.push(socket.fd);
                }
                Err(error) => {
                    let text = format!("cannot listen on {}: {error}", place.interface);
                    let mend = "culvertd needs CAP_NET_RAW, and the interface must be there";
                    return self.write(&Response::error(ErrorCode::Internal, text, mend)).await;
                }
            }
        }
        let line = frame::encode(&Response::Capture(capture));
        let numbers: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let send = async {
            loop {
                self.stream.writable().await?;
                let sent = self.stream.try_io(tokio::io::Interest::WRITABLE, || {
                    let with = [ControlMessage::ScmRights(&numbers)];
                    let parts = [std::io::IoSlice::new(&line)];
                    let flags = MsgFlags::MSG_NOSIGNAL;
                    Ok(sendmsg::<()>(self.stream.as_raw_fd(), &parts, &with, flags, None)?)
                });
                match sent {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            }
        };
        let sent = tokio::time::timeout(WRITE_TIMEOUT, send).await??;
        let rest = line.get(sent..).unwrap_or_default();
        tokio::time::timeout(WRITE_TIMEOUT, self.stream.write_all(rest)).await?
    }

    async fn write(&mut self, response: &Response) -> std::io::Result<()> {
        let line = frame::encode(response);
        tokio::time::timeout(WRITE_TIMEOUT, self.stream.write_all(&line)).await?
    }
}
