//! The routing program's life: started with what is wanted of it, told what changes, watched, started again with growing
//! waits when it ends or hangs, and stopped with everything that it made.
//!
//! It has a folder of its own with its files and sockets. By the process ids there the next culvertd finds what one that
//! was killed has left running.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use culvert_bgp::{Program, Report, SessionState, Speaker, bird, frr};
use culvert_config::BgpDaemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};

use crate::bgp_talk::{Bird, Frr};

/// How often the program is looked at, and its sessions are asked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long a program may take to listen, and to end.
const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(5);
/// Waits between starts: from, to.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// One that ran for so long is started again at once when it ends.
const STEADY: Duration = Duration::from_secs(60);
/// So many questions without an answer, and it counts as hanging.
const SILENT: u32 = 3;
/// Lines of what a program said that are kept.
const LAST_WORDS: usize = 5;
/// Where FRR's daemons may be, and where BIRD.
const FRR_FOLDERS: [&str; 3] = ["/usr/lib/frr", "/usr/libexec/frr", "/usr/local/sbin"];
const BIRD_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// What is wanted: in which network namespace (`None`: ours), and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) speaker: Speaker,
    pub(crate) daemon: BgpDaemon,
    pub(crate) folder: PathBuf,
    pub(crate) namespace: Option<PathBuf>,
}

/// How it stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) program: Option<Program>,
    pub(crate) running: bool,
    pub(crate) fault: Option<String>,
    pub(crate) restarts: u32,
    pub(crate) report: Report,
    /// Since when each neighbour is in its state.
    pub(crate) since: BTreeMap<String, (SessionState, Instant)>,
}

/// A session changed its state.
#[derive(Debug)]
pub(crate) enum Event {
    Session { neighbor: String, to: SessionState, error: Option<String> },
    Fault(String),
    Runs(Program),
}

/// Asks for everything, counts and routes included.
type Question = oneshot::Sender<State>;

/// The worker, as the daemon has it.
pub(crate) struct Worker {
    wanted: watch::Sender<Option<Wanted>>,
    state: Arc<Mutex<State>>,
    questions: mpsc::Sender<Question>,
    task: tokio::task::JoinHandle<()>,
}

impl Worker {
    /// A worker without anything to do, and what it tells.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (wanted, receiver) = watch::channel(None);
        let (questions, asked) = mpsc::channel(8);
        let (events, told) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State::default()));
        let life = Life { state: Arc::clone(&state), events, running: None };
        let task = tokio::spawn(life.live(receiver, asked));
        (Self { wanted, state, questions, task }, told)
    }

    /// Changes what is wanted; nothing: the program ends.
    pub(crate) fn want(&self, wanted: Option<Wanted>) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
    }

    /// How it stood when it was looked at last.
    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it stands now, routes included.
    pub(crate) fn ask(&self) -> impl Future<Output = State> + Send + 'static {
        let (questions, last) = (self.questions.clone(), self.state());
        async move {
            let (sender, answer) = oneshot::channel();
            match questions.send(sender).await {
                Ok(()) => answer.await.unwrap_or(last),
                Err(_) => last,
            }
        }
    }

    /// Ends the program and waits for that.
    pub(crate) async fn stop(self) {
        drop(self.wanted);
        let _ = self.task.await;
    }
}

struct Life {
    state: Arc<Mutex<State>>,
    events: mpsc::UnboundedSender<Event>,
    running: Option<Running>,
}

/// A program that runs.
struct Running {
    program: Program,
    wanted: Wanted,
    children: Vec<Process>,
    /// FRR's files as they were told last, by daemon.
    told: BTreeMap<&'static str, String>,
    since: Instant,
    silent: u32,
}

struct Process {
    name: &'static str,
    child: Child,
    words: Arc<Mutex<VecDeque<String>>>,
}

impl Life {
    async fn live(
        mut self,
        mut wanted: watch::Receiver<Option<Wanted>>,
        mut asked: mpsc::Receiver<Question>,
    ) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut next_start, mut wait) = (Instant::now(), WAIT.0);
        loop {
            let want = wanted.borrow_and_update().clone();
            match (&want, &mut self.running) {
                (None, Some(_)) => self.end().await,
                (Some(want), Some(running)) if running.wanted != *want => {
                    if let Err(error) = running.apply(want).await {
                        // What could not be said is said by a new start.
                        self.fail(format!("{error:#}"), false);
                        self.end().await;
                        next_start = Instant::now();
                    }
                }
                _ => {}
            }
            if let (Some(want), None) = (&want, &self.running)
                && next_start <= Instant::now()
            {
                match Running::start(want).await {
                    Ok(running) => {
                        let _ = self.events.send(Event::Runs(running.program));
                        self.update(|state| {
                            (state.program, state.running, state.fault) = (Some(running.program), true, None);
                        });
                        self.running = Some(running);
                    }
                    Err(error) => {
                        self.fail(format!("{error:#}"), true);
                        next_start = Instant::now() + wait;
                        wait = (wait * 2).min(WAIT.1);
                    }
                }
            }
            if want.is_none() {
                self.update(|state| *state = State::default());
            }
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return self.end().await;
                    }
                }
                Some(question) = asked.recv() => {
                    self.look(true).await;
                    let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let _ = question.send(state);
                }
                _ = look.tick() => {
                    let steady = self.running.as_ref().is_some_and(|r| r.since.elapsed() > STEADY);
                    if steady {
                        wait = WAIT.0;
                    }
                    if let Some(fault) = self.look(false).await {
                        self.fail(fault, true);
                        self.end().await;
                        next_start = Instant::now() + wait;
                        wait = (wait * 2).min(WAIT.1);
                    }
                }
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fail(&self, text: String, restarts: bool) {
        self.update(|state| {
            state.running = false;
            state.restarts += u32::from(restarts && self.running.is_some());
            state.fault = Some(text.clone());
        });
        let _ = self.events.send(Event::Fault(text));
    }

    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        self.hear(Report::default(), true);
    }

    /// Looks at the program; says what is wrong if it must be started again.
    async fn look(&mut self, all: bool) -> Option<String> {
        let running = self.running.as_mut()?;
        if let Some(fault) = running.ended() {
            return Some(fault);
        }
        match running.report(all).await {
            Ok(report) => {
                running.silent = 0;
                self.hear(report, all);
                None
            }
            Err(error) => {
                running.silent += 1;
                let (program, silent) = (running.program.name(), running.silent);
                tracing::debug!("{program} does not tell how it stands: {error:#}");
                (silent >= SILENT)
                    .then(|| format!("{program} does not answer ({error:#}); it is started again"))
            }
        }
    }

    /// Takes a report in, `all` of it or the sessions alone, and tells of what changed.
    fn hear(&self, mut report: Report, all: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut state.since);
        if !all {
            // Counted and listed only when somebody asks: what was told last stays until then.
            for session in &mut report.sessions {
                let old = state.report.sessions.iter().find(|old| old.neighbor == session.neighbor);
                session.received = old.map_or(0, |old| old.received).max(session.accepted);
            }
            report.routes = std::mem::take(&mut state.report.routes);
        }
        for session in &report.sessions {
            let (from, since) =
                before.remove(&session.neighbor).unwrap_or((SessionState::Idle, Instant::now()));
            let changed = from != session.state;
            state.since.insert(
                session.neighbor.clone(),
                (session.state, if changed { Instant::now() } else { since }),
            );
            if changed {
                self.tell(&session.neighbor, from, session.state, session.error.clone());
            }
        }
        for (neighbor, (from, _)) in before {
            self.tell(&neighbor, from, SessionState::Idle, None);
        }
        state.report = report;
    }

    fn tell(&self, neighbor: &str, from: SessionState, to: SessionState, error: Option<String>) {
        let up = |state| state == SessionState::Established;
        if up(from) != up(to) {
            let _ = self.events.send(Event::Session { neighbor: neighbor.to_owned(), to, error });
        }
    }
}

impl Running {
    async fn start(wanted: &Wanted) -> anyhow::Result<Self> {
        let (program, folder_of_programs) = find(wanted.daemon, |path| path.is_file())?;
        sweep(&wanted.folder).await;
        refuse_company(program, wanted)?;
        let owner = match program {
            Program::Frr => Some(User::from_name("frr")?.context(
                "FRR is not installed as its package does: there is no user `frr`; run `apt-get install --reinstall frr`",
            )?),
            Program::Bird => None,
        };
        make_folder(&wanted.folder, owner.as_ref())?;
        let mut running = Self {
            program,
            wanted: wanted.clone(),
            children: Vec::new(),
            told: BTreeMap::new(),
            since: Instant::now(),
            silent: 0,
        };
        let started = match program {
            Program::Frr => running.start_frr(&folder_of_programs, owner.as_ref()).await,
            Program::Bird => running.start_bird(&folder_of_programs).await,
        };
        if let Err(error) = started {
            let words = running.last_words();
            running.stop().await;
            return Err(error.context(format!("{} cannot be started{words}", program.name())));
        }
        Ok(running)
    }

    async fn start_frr(&mut self, programs: &Path, owner: Option<&User>) -> anyhow::Result<()> {
        let folder = self.wanted.folder.clone();
        for (name, text) in files(&self.wanted.speaker) {
            let file = folder.join(format!("{name}.conf"));
            write(&file, &text, owner)?;
            // It would start with half of a file that it does not understand.
            let check = Command::new(programs.join(name))
                .args(["-C", "-f"])
                .arg(&file)
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let check = tokio::time::timeout(START, check)
                .await
                .context("the check of its file takes too long")??;
            if !check.status.success() {
                let said = String::from_utf8_lossy(&check.stdout).into_owned()
                    + &String::from_utf8_lossy(&check.stderr);
                bail!("{name} does not understand its file: {}", said.trim());
            }
            self.told.insert(name, text);
        }
        // zebra first: the others tell it of their routes.
        let mut names = ["zebra", "bfdd", "bgpd"].to_vec();
        names.retain(|name| self.told.contains_key(name));
        for name in names {
            let mut command = self.command(&programs.join(name));
            command.arg("-f").arg(folder.join(format!("{name}.conf")));
            command.arg("-i").arg(folder.join(format!("{name}.pid")));
            command.arg("--vty_socket").arg(&folder).arg("-z").arg(folder.join("zserv.api"));
            command.args(["-P", "0"]);
            self.spawn(name, command)?;
            let socket = folder.join(format!("{name}.vty"));
            self.wait_until(|| async { Frr::connect(&socket).await.map(drop) }).await?;
        }
        Ok(())
    }

    async fn start_bird(&mut self, programs: &Path) -> anyhow::Result<()> {
        let folder = self.wanted.folder.clone();
        write(&folder.join("bird.conf"), &bird::config(&self.wanted.speaker), None)?;
        let mut command = self.command(&programs.join("bird"));
        command.arg("-f").arg("-c").arg(folder.join("bird.conf")).arg("-s").arg(folder.join("bird.ctl"));
        command.arg("-P").arg(folder.join("bird.pid"));
        self.spawn("bird", command)?;
        let socket = folder.join("bird.ctl");
        self.wait_until(|| async { Bird::connect(&socket).await.map(drop) }).await
    }

    /// A program, in the network namespace that is wanted.
    fn command(&self, program: &Path) -> Command {
        match &self.wanted.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
                command
            }
        }
    }

    fn spawn(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        let words = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(output) = child.stdout.take() {
            tokio::spawn(listen(name, output, Arc::clone(&words)));
        }
        if let Some(output) = child.stderr.take() {
            tokio::spawn(listen(name, output, Arc::clone(&words)));
        }
        self.children.push(Process { name, child, words });
        Ok(())
    }

    async fn wait_until<F: Future<Output = anyhow::Result<()>>>(
        &mut self,
        attempt: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let error = match attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(fault) = self.ended() {
                bail!("{fault}");
            }
            if began.elapsed() > START {
                return Err(error.context("it does not listen"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Which process ended, if one did, and its last words.
    fn ended(&mut self) -> Option<String> {
        for process in &mut self.children {
            if let Ok(Some(status)) = process.child.try_wait() {
                let words = process.last_words();
                return Some(format!("{} ended ({status}){words}", process.name));
            }
        }
        None
    }

    fn last_words(&self) -> String {
        self.children.last().map(Process::last_words).unwrap_or_default()
    }

    /// Tells the running program what changed.
    async fn apply(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let (old, new) = (&self.wanted, wanted);
        let same_place =
            old.daemon == new.daemon && old.folder == new.folder && old.namespace == new.namespace;
        let needs_bfd = |speaker: &Speaker| speaker.sessions.iter().any(|s| s.bfd.is_some());
        if !same_place
            || old.speaker.asn != new.speaker.asn
            || old.speaker.table != new.speaker.table
            || (self.program == Program::Frr && needs_bfd(&old.speaker) != needs_bfd(&new.speaker))
        {
            bail!("the routing program is started anew, for what changed cannot be changed while it runs");
        }
        match self.program {
            Program::Frr => {
                for (name, text) in files(&new.speaker) {
                    let before = self.told.insert(name, text.clone()).unwrap_or_default();
                    let commands = frr::commands(&before, &text);
                    if commands.is_empty() {
                        continue;
                    }
                    tracing::debug!("{name} is told of {} lines", commands.len());
                    let mut socket = Frr::connect(&self.wanted.folder.join(format!("{name}.vty"))).await?;
                    socket.obey(&commands).await?;
                    if name == "bgpd" {
                        for command in frr::REFRESH {
                            // Refused where no neighbour is of that family.
                            let _ = socket.ask(command).await;
                        }
                    }
                }
            }
            Program::Bird => {
                write(&self.wanted.folder.join("bird.conf"), &bird::config(&new.speaker), None)?;
                let mut socket = Bird::connect(&self.wanted.folder.join("bird.ctl")).await?;
                bird::lines(&socket.ask("configure").await?)?;
            }
        }
        self.wanted = wanted.clone();
        Ok(())
    }

    async fn report(&self, all: bool) -> anyhow::Result<Report> {
        match self.program {
            Program::Frr => {
                let mut socket = Frr::connect(&self.wanted.folder.join("bgpd.vty")).await?;
                let mut sessions = frr::neighbors(&socket.ask(frr::NEIGHBORS).await?)?;
                if !all {
                    return Ok(frr::report(sessions, Vec::new()));
                }
                for session in sessions.iter_mut().filter(|s| s.state == SessionState::Established) {
                    if let Ok(address) = session.neighbor.parse() {
                        let counts = socket.ask(&frr::prefix_counts_of(address)).await?;
                        session.received = frr::prefix_counts(&counts)?;
                    }
                }
                let mut routes = frr::routes(&socket.ask(frr::ROUTES).await?)?;
                routes.extend(frr::routes(&socket.ask(frr::ROUTES6).await?)?);
                Ok(frr::report(sessions, routes))
            }
            Program::Bird => {
                let mut socket = Bird::connect(&self.wanted.folder.join("bird.ctl")).await?;
                let protocols = socket.ask(bird::PROTOCOLS).await?;
                let bfd = socket.ask(bird::BFD).await?;
                let routes = if all { socket.ask(bird::ROUTES).await? } else { String::new() };
                Ok(bird::report(&protocols, &bfd, &routes)?)
            }
        }
    }

    /// Ends the processes, those that use others first; what they put into the kernel goes with them.
    async fn stop(mut self) {
        for process in self.children.iter_mut().rev() {
            let Some(pid) = process.child.id().and_then(|pid| i32::try_from(pid).ok()) else { continue };
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            if tokio::time::timeout(END, process.child.wait()).await.is_err() {
                tracing::warn!("{} does not end; it is killed", process.name);
                let _ = process.child.kill().await;
            }
        }
        let _ = std::fs::remove_dir_all(&self.wanted.folder);
    }
}

impl Process {
    fn last_words(&self) -> String {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() { String::new() } else { format!(": {}", Vec::from(words.clone()).join("; ")) }
    }
}

/// FRR's files by daemon.
fn files(speaker: &Speaker) -> Vec<(&'static str, String)> {
    let mut files = vec![("zebra", frr::zebra(speaker)), ("bgpd", frr::bgpd(speaker))];
    if speaker.sessions.iter().any(|s| s.bfd.is_some()) {
        // Profiles are there before a neighbour names one.
        files.insert(1, ("bfdd", frr::bfdd(speaker)));
    }
    files
}

/// The program to drive, and the folder where it is.
fn find(daemon: BgpDaemon, there: impl Fn(&Path) -> bool) -> anyhow::Result<(Program, PathBuf)> {
    let in_one = |folders: [&str; 3], name: &str| {
        folders.iter().map(Path::new).find(|folder| there(&folder.join(name))).map(Path::to_owned)
    };
    let frr = || in_one(FRR_FOLDERS, "bgpd").map(|folder| (Program::Frr, folder));
    let bird = || in_one(BIRD_FOLDERS, "bird").map(|folder| (Program::Bird, folder));
    let missing = |program: Program| {
        format!("{} is not installed: run `apt-get install {}`", program.name(), program.package())
    };
    match daemon {
        BgpDaemon::Auto => {
            frr().or_else(bird).context("neither FRR nor BIRD is installed: run `apt-get install frr`")
        }
        BgpDaemon::Frr => frr().with_context(|| missing(Program::Frr)),
        BgpDaemon::Bird => bird().with_context(|| missing(Program::Bird)),
    }
}

/// Two of a kind in one network namespace take each other's routes away, for the kernel's routes say only of which kind they are.
fn refuse_company(program: Program, wanted: &Wanted) -> anyhow::Result<()> {
    let (name, other, unit) = match program {
        Program::Frr => ("zebra", "bird", "frr"),
        Program::Bird => ("bird", "frr", "bird"),
    };
    let namespace = |path: &Path| std::fs::metadata(path).map(|namespace| namespace.ino()).ok();
    let ours = namespace(wanted.namespace.as_deref().unwrap_or(Path::new("/proc/self/ns/net")));
    for process in std::fs::read_dir("/proc").context("cannot list processes")?.flatten() {
        let path = process.path();
        let is = std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        if is && ours.is_some() && namespace(&path.join("ns/net")) == ours {
            bail!(
                "another {} runs here (process {}), and the two would take each other's routes away: \
                 stop it (`systemctl disable --now {unit}`), or write bgp_daemon = \"{other}\"",
                program.name(),
                process.file_name().display()
            );
        }
    }
    Ok(())
}

fn make_folder(folder: &Path, owner: Option<&User>) -> anyhow::Result<()> {
    let what = || format!("cannot make the folder {}", folder.display());
    if let Some(outer) = folder.parent() {
        if !outer.exists() {
            std::fs::create_dir_all(outer).with_context(what)?;
            // Whatever the umask is.
            std::fs::set_permissions(outer, std::fs::Permissions::from_mode(0o755)).with_context(what)?;
        }
        if let Some(user) = owner
            && std::fs::metadata(outer).with_context(what)?.mode() & 0o001 == 0
        {
            bail!("user {} cannot enter {}: run `chmod o+x {1}`", user.name, outer.display());
        }
    }
    let _ = std::fs::remove_dir_all(folder);
    std::fs::DirBuilder::new().mode(0o700).create(folder).with_context(what)?;
    give(folder, owner)
}

fn give(path: &Path, owner: Option<&User>) -> anyhow::Result<()> {
    match owner {
        Some(user) => nix::unistd::chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give {} to user {}", path.display(), user.name)),
        None => Ok(()),
    }
}

/// Writes a file that may hold passwords.
fn write(path: &Path, text: &str, owner: Option<&User>) -> anyhow::Result<()> {
    use std::io::Write as _;
    let what = || format!("cannot write {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(path).with_context(what)?;
    file.write_all(text.as_bytes()).with_context(what)?;
    give(path, owner)
}

/// Ends what a culvertd that was killed has left running in this folder.
async fn sweep(folder: &Path) {
    let of_folder = || -> Vec<Pid> {
        let pid = |name: &str| {
            let text = std::fs::read_to_string(folder.join(format!("{name}.pid"))).ok()?;
            let pid: i32 = text.trim().parse().ok().filter(|pid| *pid > 1)?;
            // The number may be another's by now.
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy()).then(|| Pid::from_raw(pid))
        };
        ["bgpd", "bfdd", "zebra", "bird"].into_iter().filter_map(pid).collect()
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let left = of_folder();
        if left.is_empty() {
            return;
        }
        tracing::warn!("ending a routing program that an earlier culvertd left behind");
        for pid in left {
            let _ = kill(pid, signal);
        }
        let began = Instant::now();
        while !of_folder().is_empty() && began.elapsed() < END {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn listen(name: &'static str, output: impl AsyncRead + Unpin, words: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(target: "culvertd::bgp", "{name}: {line}");
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let none = |_: &Path| false;
        let said = |daemon| find(daemon, none).unwrap_err().to_string();
        assert!(said(BgpDaemon::Auto).contains("apt-get install frr"));
        assert!(said(BgpDaemon::Frr).contains("FRR is not installed: run `apt-get install frr`"));
        assert!(said(BgpDaemon::Bird).contains("BIRD is not installed: run `apt-get install bird2`"));
        let bird = |path: &Path| path.ends_with("bird");
        assert_eq!(find(BgpDaemon::Auto, bird).unwrap().0, Program::Bird);
        assert_eq!(find(BgpDaemon::Auto, |_| true).unwrap().0, Program::Frr);
    }
}
