//! RADIUS for EAP: a client's messages go to a server that knows the users, the server's come back (RFC 3579).
//!
//! The conversation with a server is kept with the half-open IKE SA whose it is, and ends with it. A request has a socket
//! of its own while it is outstanding, and there are only so many of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_config::{Radius, RadiusServer};
use culvert_crypto::{Random, SystemRandom};
use culvert_eap::{AccessRequest, Answer, RadiusError, RadiusVerdict};
use culvert_ike::{Blame, CheckId, Command, Eap, EapFault, EapMethod, EapNote, EapRun, EapStep};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Requests outstanding at once.
const OUTSTANDING: usize = 256;
/// Times that a request is sent to one server.
const TRIES: u32 = 3;
/// A server that did not answer is asked last for so long.
const DOWN: Duration = Duration::from_secs(60);
/// RFC 2865 3.
const MAX_PACKET: usize = 4096;

/// EAP by RADIUS, as the IKE core takes it.
pub(crate) fn server(radius: &Radius) -> Eap {
    Eap::new(Method(Arc::new(radius.clone())))
}

struct Method(Arc<Radius>);

struct Run {
    radius: Arc<Radius>,
    user: Option<String>,
    /// The server's own of its last challenge.
    state: Vec<u8>,
    /// Who began goes on.
    server: Option<usize>,
    /// Of the last EAP message to the client.
    id: u8,
}

/// What a server is asked.
struct Question {
    radius: Arc<Radius>,
    user: String,
    state: Vec<u8>,
    server: Option<usize>,
    eap: Vec<u8>,
}

/// What came of it: the answer and whose it is, or what people are told.
type Outcome = Result<(usize, Answer), Silence>;

/// Why there is no answer.
#[derive(Debug, Clone)]
struct Silence {
    what: String,
    blame: Blame,
    mend: &'static str,
}

impl EapMethod for Method {
    fn begin(&self, random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        let mut id = [0];
        random.fill(&mut id);
        let [id] = id;
        let run = Run { radius: Arc::clone(&self.0), user: None, state: Vec::new(), server: None, id };
        // RFC 3579 2: the gateway asks for the identity, by which the server is found.
        (Box::new(run), Some(vec![1, id, 0, 5, 1]))
    }

    fn name(&self) -> &'static str {
        "EAP (RADIUS)"
    }
}

impl Run {
    fn failure(&self, fault: EapFault) -> EapStep {
        EapStep::Failure(vec![4, self.id, 0, 4], fault)
    }
}

impl EapRun for Run {
    fn handle(&mut self, message: &[u8], _random: &mut dyn Random) -> EapStep {
        let sound = match message {
            [2, id, high, low, ..] => {
                *id == self.id && usize::from(u16::from_be_bytes([*high, *low])) == message.len()
            }
            _ => false,
        };
        let user = match (&self.user, message) {
            (Some(user), _) => Some(user.clone()),
            (None, [_, _, _, _, 1, name @ ..]) if (1..=253).contains(&name.len()) => {
                std::str::from_utf8(name).ok().map(str::to_owned)
            }
            _ => None,
        };
        let (true, Some(user)) = (sound, user) else {
            return self.failure(EapFault {
                blame: Blame::Peer,
                mend: "ask the peer's vendor: its EAP breaks RFC 3748".to_owned(),
                rfc: "RFC 3748 4",
                ..EapFault::new("the client's EAP message is malformed or out of order")
            });
        };
        self.user = Some(user.clone());
        EapStep::Ask(EapNote::new(Question {
            radius: Arc::clone(&self.radius),
            user,
            state: std::mem::take(&mut self.state),
            server: self.server,
            eap: message.to_vec(),
        }))
    }

    fn answered(&mut self, note: &EapNote, _random: &mut dyn Random) -> EapStep {
        let user = self.user.clone().unwrap_or_default();
        let (server, answer) = match note.get::<Outcome>() {
            Some(Ok((server, answer))) => (*server, answer.clone()),
            Some(Err(silence)) => {
                return self.failure(EapFault {
                    blame: silence.blame,
                    mend: silence.mend.to_owned(),
                    theirs: format!("user {user:?}"),
                    rfc: "RFC 3579 2.6",
                    ..EapFault::new(silence.what.clone())
                });
            }
            None => return self.failure(EapFault::new("RADIUS was not asked")),
        };
        self.server = Some(server);
        if let Some(id) = answer.eap.get(1) {
            self.id = *id;
        }
        let of = || self.radius.servers.get(server).map_or(String::new(), |s| s.address.to_string());
        let refused = |what: &str| {
            EapFault {
            theirs: format!("user {user:?}"),
            ours: format!("RADIUS server {}", of()),
            mend: "compare the user's name, password or certificate with what the RADIUS server has; its log says what it did not like".to_owned(),
            rfc: "RFC 3579 2.6.3",
            ..EapFault::new(match answer.message.as_str() {
                "" => what.to_owned(),
                said => format!("{what}: {said:?}"),
            })
        }
        };
        match answer.verdict {
            // RFC 2759 6: some clients go away without acknowledging an MSCHAPv2 Failure (type 26, code 4).
            RadiusVerdict::Challenge(ref state) if matches!(answer.eap[..], [1, _, _, _, 26, 4, ..]) => {
                self.state = state.clone();
                let fault = refused(&format!("the RADIUS server refuses user {user:?} or the password"));
                EapStep::Refuse(answer.eap, fault)
            }
            RadiusVerdict::Challenge(ref state) if answer.eap.first() == Some(&1) => {
                self.state = state.clone();
                EapStep::Send(answer.eap)
            }
            RadiusVerdict::Accept(Some(ref msk)) => {
                tracing::info!("RADIUS server {}: user {user:?} is let in", of());
                let success = if answer.eap.first() == Some(&3) { answer.eap } else { vec![3, self.id, 0, 4] };
                EapStep::Success(success, msk.clone())
            }
            RadiusVerdict::Reject => {
                let fault = refused(&format!("the RADIUS server rejects user {user:?}"));
                let told = if answer.eap.first() == Some(&4) { answer.eap } else { vec![4, self.id, 0, 4] };
                EapStep::Failure(told, fault)
            }
            RadiusVerdict::Accept(None) => self.failure(EapFault {
                mend: "let the server use an EAP method that gives a key, and send it as MS-MPPE keys (FreeRADIUS: use_mppe)".to_owned(),
                ours: format!("RADIUS server {}", of()),
                rfc: "RFC 7296 2.16",
                ..EapFault::new("the RADIUS server lets the client in without a key")
            }),
            RadiusVerdict::Challenge(_) => self.failure(EapFault {
                mend: "let the server speak EAP for this user".to_owned(),
                ours: format!("RADIUS server {}", of()),
                rfc: "RFC 3579 2.6.3",
                ..EapFault::new("the RADIUS server's challenge holds no EAP request")
            }),
        }
    }
}

/// Requests that are outstanding.
pub(crate) struct Relay {
    running: JoinSet<(CheckId, Outcome)>,
    down: Arc<Mutex<HashMap<SocketAddr, Instant>>>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self { running: JoinSet::new(), down: Arc::default() }
    }

    /// Asks for the IKE SA of `check`, whose client is at `remote`. An answer that is there at once is given back.
    pub(crate) fn ask(&mut self, check: CheckId, remote: IpAddr, note: EapNote) -> Option<Command> {
        if self.running.len() >= OUTSTANDING {
            let outcome: Outcome = Err(Silence {
                what: format!("{OUTSTANDING} requests to RADIUS servers are waiting for answers"),
                blame: Blame::Local,
                mend: "see whether the RADIUS servers answer, and how fast",
            });
            return Some(Command::EapAnswered(check, EapNote::new(outcome)));
        }
        let down = Arc::clone(&self.down);
        self.running.spawn(async move {
            let outcome = match note.get::<Question>() {
                Some(question) => question.put(remote, &down).await,
                None => Err(Silence { what: "no question".to_owned(), blame: Blame::Local, mend: "" }),
            };
            (check, outcome)
        });
        None
    }

    /// The next answer; waits for ever while nothing is outstanding. Nothing is lost when this is dropped half-way.
    pub(crate) async fn next(&mut self) -> Command {
        loop {
            match self.running.join_next().await {
                Some(Ok((check, outcome))) => return Command::EapAnswered(check, EapNote::new(outcome)),
                // It panicked, or was ended; the half-open IKE SA goes by its own time.
                Some(Err(error)) => tracing::error!("a request to a RADIUS server was lost: {error}"),
                None => return std::future::pending().await,
            }
        }
    }
}

impl Question {
    /// Puts it to one server after the other, those last that did not answer lately.
    async fn put(&self, remote: IpAddr, down: &Mutex<HashMap<SocketAddr, Instant>>) -> Outcome {
        let mut order: Vec<usize> = match self.server {
            // RFC 2865 5.24: the state is that server's own.
            Some(began) => vec![began],
            None => (0..self.radius.servers.len()).collect(),
        };
        {
            let down = down.lock().unwrap_or_else(PoisonError::into_inner);
            let is_down = |at: &usize| {
                let since = self.radius.servers.get(*at).and_then(|s| down.get(&s.address));
                since.is_some_and(|since| since.elapsed() < DOWN)
            };
            order.sort_by_key(is_down);
        }
        let mut told: Vec<String> = Vec::new();
        let mut wrong_secret = false;
        for at in order {
            let Some(server) = self.radius.servers.get(at) else { continue };
            match self.put_to(server, remote).await {
                Ok(answer) => {
                    down.lock().unwrap_or_else(PoisonError::into_inner).remove(&server.address);
                    return Ok((at, answer));
                }
                Err(why) => {
                    tracing::warn!("RADIUS server {}: {why}", server.address);
                    wrong_secret |= matches!(why, NoAnswer::Refused(_));
                    told.push(format!("{}: {why}", server.address));
                    down.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(server.address, Instant::now());
                }
            }
        }
        let mend = if wrong_secret {
            "set the same secret here (secret_files of radius) and at the server, for this gateway's address; and let the server send a Message-Authenticator in every answer"
        } else {
            "see that the RADIUS server runs, knows this gateway as a client by its address and secret, and that UDP passes both ways"
        };
        let blame = if wrong_secret { Blame::Configuration } else { Blame::Network };
        Err(Silence { what: format!("no RADIUS server answers ({})", told.join("; ")), blame, mend })
    }

    async fn put_to(&self, server: &RadiusServer, remote: IpAddr) -> Result<Answer, NoAnswer> {
        let any: IpAddr = if server.address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        // A port of its own: who does not see the request cannot guess where the answer is awaited.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server.address).await?;
        let (mut authenticator, mut identifier) = ([0; 16], [0]);
        let mut random = SystemRandom::new();
        random.fill(&mut authenticator);
        random.fill(&mut identifier);
        let [identifier] = identifier;
        let calling_station = remote.to_string();
        let request = AccessRequest {
            user: &self.user,
            nas_identifier: &self.radius.nas_identifier,
            nas_address: socket.local_addr().ok().map(|a| a.ip()),
            calling_station: &calling_station,
            state: &self.state,
            eap: &self.eap,
        };
        let secret = server.secret.as_bytes();
        let packet = request.encode(identifier, &authenticator, secret).map_err(NoAnswer::Refused)?;
        let mut refused = None;
        let mut buffer = vec![0; MAX_PACKET];
        for _ in 0..TRIES {
            // RFC 5080 2.2.1: the same packet again, with the same authenticator.
            socket.send(&packet).await?;
            let until = tokio::time::Instant::now() + self.radius.timeout;
            while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
                let received = match received {
                    Ok(length) => buffer.get(..length).unwrap_or_default(),
                    // Nobody listens, for now.
                    Err(_) => {
                        tokio::time::sleep_until(until).await;
                        break;
                    }
                };
                match Answer::read(received, identifier, &authenticator, secret) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => refused = Some(error),
                }
            }
        }
        Err(refused.map_or(NoAnswer::Silent(TRIES), NoAnswer::Refused))
    }
}

/// Why one server gave no answer.
#[derive(Debug)]
enum NoAnswer {
    Silent(u32),
    /// The last answer that was not taken, or why there could be no question.
    Refused(RadiusError),
    Io(std::io::Error),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(times) => write!(f, "no answer to {times} requests"),
            Self::Refused(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<std::io::Error> for NoAnswer {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
