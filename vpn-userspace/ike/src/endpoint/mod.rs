//! The endpoint: tunnels and their IKE SAs, and which of them a datagram, a command or a timeout is for.

mod any;
mod clients;
mod command;
mod effect;
mod guard;
#[cfg(test)]
mod inspect;
mod leases;
mod peers;
mod roam;
mod spis;
mod v1;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::Random;
use culvert_types::TunnelId;

use crate::ctx::{Ctx, Effect};
use crate::error::{Cause, Failure, Phase};
use crate::kex::Answering;
use crate::tap::{Seen, Tap};
use crate::timer::Timers;
use crate::v1::fragment::Reassembler;
use crate::v2::init::{self, Opening, Request, Respond};
use crate::v2::{Arrival, Sa};
use crate::wire::{self, Body, Exchange, HEADER_LEN, Header, WireError, describe, notify};
use crate::{Command, CommandError, EndpointConfig, Event, JobDone, Output, PeerConfig};
pub(crate) use any::AnySa;
pub(crate) use clients::{Clients, instance};
use guard::{Admission, Cookies, HalfOpens, Reports};
pub(crate) use leases::Leases;
pub(crate) use peers::Peers;
pub(crate) use spis::Spis;

/// Every IKE SA of one gateway. See the crate's documentation for how to drive it.
pub struct Endpoint {
    config: EndpointConfig,
    random: Box<dyn Random>,
    peers: Peers,
    sas: HashMap<u64, AnySa>,
    tunnels: HashMap<TunnelId, Line>,
    spis: Spis,
    leases: Leases,
    clients: Clients,
    half_opens: HalfOpens,
    cookies: Cookies,
    reports: Reports,
    timers: Timers,
    outputs: VecDeque<Output>,
    /// Jobs asked for so far.
    jobs: u64,
    tap: Arc<Tap>,
    /// Pieces of messages of IKEv1.
    fragments: Reassembler,
    /// Messages of IKEv1 that came although no tunnel takes them.
    v1_refused: u64,
    shut_down: bool,
}

/// The IKE SAs of a tunnel, by our SPI.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) all: Vec<u64>,
    /// The one that serves it.
    current: Option<u64>,
}

/// How much an endpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// IKE SAs in any state, those included that only remember their last answer.
    pub ike_sas: usize,
    /// IKE SAs whose initiator has proven nothing yet, or failed to.
    pub half_open: usize,
    /// Inbound ESP SPIs, in use or reserved.
    pub spis: usize,
}

impl Endpoint {
    /// An endpoint without tunnels.
    pub fn new(config: EndpointConfig, random: Box<dyn Random>) -> Self {
        let tap = Arc::new(Tap::default());
        tap.open_secrets(config.export_secrets);
        Self {
            config,
            random,
            peers: Peers::default(),
            sas: HashMap::new(),
            tunnels: HashMap::new(),
            spis: Spis::default(),
            leases: Leases::default(),
            clients: Clients::default(),
            half_opens: HalfOpens::default(),
            cookies: Cookies::default(),
            reports: Reports::default(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            jobs: 0,
            tap,
            fragments: Reassembler::default(),
            v1_refused: 0,
            shut_down: false,
        }
    }

    /// Takes in one IKE datagram, without the non-ESP marker. `local` and `remote` are its destination
    /// and source; the local port tells 500 from 4500.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        if self.shut_down {
            return;
        }
        if wire::v1::Header::is_v1(bytes) {
            return self.on_v1(now, local, remote, bytes);
        }
        let header = match Header::parse(bytes) {
            Ok(header) => header,
            Err(e) => return self.on_bad_header(local, remote, bytes, e),
        };
        let arrival = Arrival { local, remote, header, bytes };
        if header.exchange == Exchange::SaInit {
            self.tap.message(false, || in_clear(&header, bytes));
        }
        if header.exchange == Exchange::SaInit && header.spi_r == 0 && !header.flags.response {
            // RFC 7296 3.1: the first message has the initiator flag, id 0 and no SPI of the responder.
            if header.flags.initiator && header.message_id == 0 {
                self.on_init_request(now, &arrival);
            }
            return;
        }
        let (ours, theirs) =
            if header.flags.initiator { (header.spi_r, header.spi_i) } else { (header.spi_i, header.spi_r) };
        let fits = matches!(self.sas.get(&ours), Some(AnySa::V2(sa)) if {
            // The flag says that the sender is the original initiator: then we are not.
            sa.initiator() != header.flags.initiator && (sa.peer_spi() == theirs || sa.peer_spi() == 0)
        });
        if fits {
            self.step_v2(now, ours, |sa, ctx| sa.on_datagram(ctx, &arrival));
        } else {
            tracing::debug!(%remote, "dropped a message for an unknown IKE SA {ours:016x}");
        }
    }

    /// Takes in what a [`Job`](crate::Job) brought. One whose IKE SA is gone is dropped.
    pub fn handle_job(&mut self, now: Instant, done: JobDone) {
        let JobDone { id, done } = done;
        if self.shut_down {
            return;
        }
        let mut done = Some(done);
        match self.sas.remove(&id.sa) {
            Some(AnySa::V2(Sa::Opening(mut opening))) => {
                if opening.answering.on_job(id.number, &mut done) {
                    let Opening { stash, answering, .. } = *opening;
                    self.open(now, &stash.arrival(), id.sa, Some(answering));
                } else {
                    self.sas.insert(id.sa, AnySa::V2(Sa::Opening(opening)));
                }
            }
            Some(sa) => {
                self.sas.insert(id.sa, sa);
                self.step(now, id.sa, |sa, ctx| sa.on_job(ctx, id.number, &mut done));
            }
            None => {}
        }
    }

    /// Does what is due at `now`. To call at the time of [`Output::Deadline`]; calling it early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.due(now) {
            self.step(now, key, AnySa::on_timeout);
        }
    }

    /// Carries out a command, or says why that is impossible; nothing has changed then.
    pub fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        if self.shut_down {
            return Err(CommandError::ShutDown);
        }
        self.command(now, command)
    }

    /// The next thing to do. To call until it returns [`Output::Deadline`] or [`Output::Idle`]. Events come
    /// before the datagrams that reveal them to the peer.
    pub fn poll(&mut self) -> Output {
        let output = self.outputs.pop_front();
        output.unwrap_or_else(|| match self.timers.next() {
            Some((when, why)) => Output::Deadline(when, why),
            None => Output::Idle,
        })
    }

    /// How much is held now.
    pub fn counts(&self) -> Counts {
        Counts { ike_sas: self.sas.len(), half_open: self.half_opens.len(), spis: self.spis.len() }
    }

    /// What a stubborn peer does.
    #[cfg(test)]
    pub(crate) fn quirks(&mut self) -> &mut crate::config::Quirks {
        &mut self.config.quirks
    }

    /// An authentic request of the tunnel's IKE SA with these payloads, which this endpoint knows nothing of.
    #[cfg(test)]
    pub(crate) fn forge(
        &mut self,
        tunnel: TunnelId,
        exchange: Exchange,
        chain: &crate::wire::Chain,
    ) -> crate::fragment::Sealed {
        let key = self.tunnels[&tunnel].current.expect("it is up");
        let Some(AnySa::V2(Sa::Up(sa))) = self.sas.get_mut(&key) else { panic!("it is up") };
        let header = sa.header(exchange, false, sa.window.next_id());
        sa.protection.seal(&header, chain)
    }

    /// How many messages of IKEv1 came although no tunnel takes them, since the start.
    pub fn refused_v1(&self) -> u64 {
        self.v1_refused
    }

    fn on_bad_header(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8], error: WireError) {
        tracing::debug!(%remote, "dropped a malformed message of {} bytes: {error}", bytes.len());
        // RFC 7296 2.5: a higher major version is told ours; never with more bytes than came.
        let (WireError::Version(3..), Some(head)) = (error, bytes.first_chunk::<HEADER_LEN>()) else {
            return;
        };
        let mut ours = *head;
        ours[17] = 0x20;
        ours[24..].copy_from_slice(&[0, 0, 0, 28]);
        let Ok(header) = Header::parse(&ours) else { return };
        let answer = init::refusal(&header, notify::INVALID_MAJOR_VERSION, &[]);
        if !header.flags.response && answer.len() <= bytes.len() {
            self.outputs.push_back(Output::Transmit { local, remote, bytes: answer });
        }
    }

    fn on_init_request(&mut self, now: Instant, arrival: &Arrival<'_>) {
        let Arrival { local, remote, header, bytes } = *arrival;
        let origin = (remote, header.spi_i);
        if let Some(key) = self.half_opens.find(origin) {
            return self.step_v2(now, key, |sa, ctx| {
                if let Sa::HalfOpen(half_open) = &sa {
                    half_open.repeat(ctx, arrival);
                }
                Some(sa)
            });
        }
        let answer = |kind, data: &[u8]| init::refusal(&header, kind, data);
        let body = match Body::parse(header.next, bytes.get(HEADER_LEN..).unwrap_or_default()) {
            Ok(body) => body,
            Err(e) => {
                tracing::debug!(%remote, "dropped a malformed IKE_SA_INIT request: {e}");
                if let WireError::UnsupportedCritical(kind) = e {
                    self.answer(arrival, answer(notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]));
                }
                return;
            }
        };
        let Some(request) = Request::read(&body) else {
            tracing::debug!(%remote, "dropped an IKE_SA_INIT request without SA, KE or nonce");
            return;
        };
        let candidates = self.candidates_v2(local, remote);
        if candidates.is_empty() {
            let cause = Cause::UnknownAddress { local: local.ip(), remote: remote.ip() };
            let failure = Failure::new(None, &remote.ip().to_string(), Phase::IkeSaInit, cause);
            self.with_ctx(now, |ctx| ctx.stranger_failed(failure));
            return self.answer(arrival, answer(notify::NO_PROPOSAL_CHOSEN, &[]));
        }
        match self.half_opens.admission(&self.config, remote.ip()) {
            Admission::Admit => {}
            Admission::Drop => {
                tracing::debug!(%remote, "too many half-open IKE SAs: dropped an IKE_SA_INIT request");
                return;
            }
            Admission::AskForCookie => {
                let cookie = body.notify(notify::COOKIE).map(|n| n.data).unwrap_or_default();
                if !self.cookies.check(now, cookie, request.nonce, remote.ip(), header.spi_i) {
                    let random = self.random.as_mut();
                    let cookie = self.cookies.make(now, random, request.nonce, remote.ip(), header.spi_i);
                    return self.answer(arrival, answer(notify::COOKIE, &cookie));
                }
                if !self.make_room() {
                    tracing::debug!(%remote, "too many half-open IKE SAs: dropped an IKE_SA_INIT request");
                    return;
                }
            }
        }
        let spi_r = self.with_ctx(now, |ctx| ctx.ike_spi());
        self.open(now, arrival, spi_r, None);
    }

    /// Where there are as many half-open IKE SAs as there may be, one goes: whoever floods loses its own, and an honest
    /// peer, which is through in a round trip or two, gets in. Those that a job is at work for stay, so that there are
    /// never more jobs than half-open IKE SAs. `false`: there is no room.
    fn make_room(&mut self) -> bool {
        if self.half_opens.len() < self.config.half_open_limit {
            return true;
        }
        let idle = |key: u64| matches!(self.sas.get(&key), Some(AnySa::V2(Sa::HalfOpen(_))));
        let Some(key) = self.half_opens.dispensable(idle) else { return false };
        tracing::debug!("too many half-open IKE SAs: {key:016x} goes to make room");
        let before = self.sas.remove(&key).as_ref().and_then(AnySa::tunnel);
        self.settle(key, before, None);
        true
    }

    /// The tunnels of IKEv2 that a message between these addresses may be for.
    fn candidates_v2(&self, local: SocketAddr, remote: SocketAddr) -> Vec<(TunnelId, Arc<PeerConfig>)> {
        let mut candidates = self.peers.candidates(local.ip(), remote.ip());
        candidates.retain(|(_, c)| c.v1.is_none());
        candidates
    }

    /// Answers an IKE_SA_INIT request that has been admitted; `ready` is what a job has brought for it.
    fn open(&mut self, now: Instant, arrival: &Arrival<'_>, spi_r: u64, ready: Option<Answering>) {
        let Arrival { local, remote, header, bytes } = *arrival;
        let body = Body::parse(header.next, bytes.get(HEADER_LEN..).unwrap_or_default()).ok();
        let candidates = self.candidates_v2(local, remote);
        let request = body.as_ref().and_then(Request::read);
        // The tunnels may have been removed while a job was at work.
        let (Some(body), Some(request), false) = (&body, request, candidates.is_empty()) else {
            return self.settle(spi_r, None, None);
        };
        let next = self.with_ctx(now, |ctx| {
            let respond = init::respond(ctx, arrival, body, &request, &candidates, spi_r, ready);
            match respond {
                Respond::Open(half_open) => Ok(Sa::HalfOpen(half_open)),
                Respond::Later(answering) => Ok(Sa::Opening(Opening::new(ctx, arrival, answering))),
                Respond::Refuse { notify, data, failure } => {
                    failure.into_iter().for_each(|failure| ctx.stranger_failed(*failure));
                    Err(init::refusal(&header, notify, &data))
                }
            }
        });
        if next.is_ok() {
            self.half_opens.insert(spi_r, (remote, header.spi_i));
        }
        match next {
            Ok(sa) => self.settle(spi_r, None, Some(AnySa::V2(sa))),
            Err(refusal) => {
                self.settle(spi_r, None, None);
                self.answer(arrival, refusal);
            }
        }
    }

    /// Answers a stranger, never with more bytes than came.
    fn answer(&mut self, arrival: &Arrival<'_>, bytes: Vec<u8>) {
        if bytes.len() <= arrival.bytes.len() {
            let (local, remote) = (arrival.local, arrival.remote);
            let answer = Output::Transmit { local, remote, bytes };
            self.tapped(None, std::slice::from_ref(&answer));
            self.outputs.push_back(answer);
        }
    }

    /// One step of one IKE SA, and what follows from it for others.
    fn step(&mut self, now: Instant, key: u64, act: impl FnOnce(AnySa, &mut Ctx<'_>) -> Option<AnySa>) {
        let Some(sa) = self.sas.remove(&key) else { return };
        let tunnel = sa.tunnel();
        let (next, effects, transmits) = self.run(now, |ctx| act(sa, ctx));
        self.tapped(next.as_ref().and_then(AnySa::tunnel).or(tunnel), &transmits);
        self.settle(key, tunnel, next);
        self.follow(now, effects, transmits);
    }

    /// What a step leaves behind. Its own messages go after all events, and before those that its effects cause: a
    /// quick mode of IKEv1 is nothing to a peer that has not seen what ended the exchange before it.
    fn follow(&mut self, now: Instant, effects: Vec<Effect>, transmits: Vec<Output>) {
        let before = self.outputs.len();
        for effect in effects {
            self.apply(now, effect);
        }
        let caused = self.outputs.split_off(before);
        let sends = |output: &Output| matches!(output, Output::Transmit { .. } | Output::Keepalive { .. });
        let (later, told): (Vec<_>, Vec<_>) = caused.into_iter().partition(sends);
        self.outputs.extend(told.into_iter().chain(transmits).chain(later));
    }

    /// A step of an IKE SA of IKEv2; nothing for others.
    fn step_v2(&mut self, now: Instant, key: u64, act: impl FnOnce(Sa, &mut Ctx<'_>) -> Option<Sa>) {
        self.step(now, key, |sa, ctx| match sa {
            AnySa::V2(sa) => act(sa, ctx).map(AnySa::V2),
            other @ AnySa::V1(_) => Some(other),
        });
    }

    /// Something that concerns no IKE SA that is there.
    fn with_ctx<R>(&mut self, now: Instant, act: impl FnOnce(&mut Ctx<'_>) -> R) -> R {
        let (result, effects, transmits) = self.run(now, act);
        self.tapped(None, &transmits);
        self.follow(now, effects, transmits);
        result
    }

    fn run<R>(&mut self, now: Instant, act: impl FnOnce(&mut Ctx<'_>) -> R) -> (R, Vec<Effect>, Vec<Output>) {
        let may_report = self.reports.allowed(now);
        let mut ctx = Ctx {
            now,
            config: &self.config,
            random: self.random.as_mut(),
            peers: &self.peers,
            spis: &mut self.spis,
            leases: &mut self.leases,
            others: &self.sas,
            tunnels: &self.tunnels,
            clients: &mut self.clients,
            tap: &self.tap,
            outputs: &mut self.outputs,
            transmits: Vec::new(),
            effects: Vec::new(),
            may_report,
            jobs: &mut self.jobs,
        };
        let result = act(&mut ctx);
        let Ctx { effects, transmits, may_report: left, .. } = ctx;
        if may_report && !left {
            self.reports.used();
        }
        (result, effects, transmits)
    }

    /// Reports what passed the tap in a step of a tunnel that sends these.
    fn tapped(&mut self, tunnel: Option<TunnelId>, transmits: &[Output]) {
        let mut remote = None;
        if !self.tap.is_open() {
            return;
        }
        for transmit in transmits {
            let Output::Transmit { remote: to, bytes, .. } = transmit else { continue };
            remote = Some(*to);
            self.tap_in_clear(bytes);
        }
        for seen in self.tap.take() {
            let event = match seen {
                Seen::Message { sent, text } => Event::Message { tunnel, remote, sent, text },
                Seen::Secrets(secrets) => Event::Secrets(secrets),
            };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// IKE_SA_INIT is not sealed, so it does not pass the tap by itself.
    fn tap_in_clear(&self, bytes: &[u8]) {
        if let Ok(header) = Header::parse(bytes)
            && header.exchange == Exchange::SaInit
        {
            self.tap.message(true, || in_clear(&header, bytes));
        }
    }

    /// Puts an IKE SA (back) into the tables, or takes its traces out of them.
    fn settle(&mut self, key: u64, before: Option<TunnelId>, next: Option<AnySa>) {
        let after = next.as_ref().and_then(AnySa::tunnel);
        let mut gone = None;
        if let Some(tunnel) = before.filter(|b| after != Some(*b))
            && let Some(entry) = self.tunnels.get_mut(&tunnel)
        {
            entry.all.retain(|k| *k != key);
            if entry.all.is_empty() && entry.current.is_none() {
                self.tunnels.remove(&tunnel);
                gone = Some(tunnel);
            }
        }
        if let Some(tunnel) = after {
            let entry = self.tunnels.entry(tunnel).or_default();
            if !entry.all.contains(&key) {
                entry.all.push(key);
            }
        }
        match &next {
            Some(AnySa::V2(Sa::Up(sa))) => self.leases.share(key, &sa.carried.addresses.theirs),
            // What it has been assigned and has not acknowledged yet it holds as well.
            Some(AnySa::V1(crate::v1::Sa::Up(sa))) => self.leases.share(key, &sa.addresses.theirs),
            _ => self.leases.release(key),
        }
        if next.as_ref().is_none_or(AnySa::is_up) {
            self.half_opens.remove(key);
        }
        if next.is_none() && !self.fragments.is_empty() {
            self.fragments.forget(key);
        }
        self.timers.set(key, next.as_ref().and_then(|sa| sa.deadline(&self.config)));
        if let Some(sa) = next {
            self.sas.insert(key, sa);
        }
        if let Some(tunnel) = gone {
            self.client_gone(tunnel);
        }
    }
}

/// An IKE_SA_INIT message in words.
fn in_clear(header: &Header, bytes: &[u8]) -> String {
    let text = bytes.get(HEADER_LEN..).unwrap_or_default();
    match Body::parse(header.next, text) {
        Ok(body) => describe::message(header, Ok(&body)),
        Err(error) => describe::message(header, Err(error)),
    }
}
