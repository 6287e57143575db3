//! Measuring: ping, iperf3 and the machine's CPU time.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::Namespace;
use crate::process::Process;

/// What ping saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: u32,
    /// Answers.
    pub received: u32,
    /// The longest time without an answer; zero where only `ping` was asked.
    pub silence: Duration,
    /// Median is not to be had from ping: the mean, in microseconds; 0 without answers.
    pub mean_us: f64,
}

impl Ping {
    /// Requests without an answer.
    pub fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received)
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.contains("packets transmitted"))?;
        let mut numbers =
            line.split(", ").filter_map(|part| part.split_whitespace().next()?.parse::<u32>().ok());
        let (sent, received) = (numbers.next()?, numbers.next()?);
        // `rtt min/avg/max/mdev = 0.728/1.119/1.510/0.391 ms`
        let mean = text.lines().find_map(|line| {
            let (_, values) = line.strip_prefix("rtt ")?.split_once(" = ")?;
            values.split('/').nth(1)?.parse::<f64>().ok()
        });
        Some(Self { sent, received, silence: Duration::ZERO, mean_us: mean.unwrap_or(0.0) * 1000.0 })
    }
}

/// Sends `count` echo requests, one each `interval`, and waits at most five seconds for the last answer.
///
/// # Errors
/// When ping cannot run. Loss is no error.
pub fn ping(from: &Namespace, to: &str, count: u32, interval: Duration) -> Result<Ping> {
    let mut command = from.command("ping");
    command.args([
        "-n",
        "-q",
        "-W",
        "1",
        "-i",
        &format!("{:.3}", interval.as_secs_f64()),
        "-c",
        &count.to_string(),
    ]);
    let mut process = Process::spawn(format!("ping {to}"), command.arg(to).env("LC_ALL", "C"))?;
    process.wait(interval * count + Duration::from_secs(30))?;
    Ping::parse(&process.log()).with_context(|| format!("cannot read ping's answer:\n{}", process.log()))
}

/// Like [`ping`] with five requests; whether all were answered.
///
/// # Errors
/// When ping cannot run.
pub fn reaches(from: &Namespace, to: &str) -> Result<bool> {
    Ok(ping(from, to, 5, Duration::from_millis(50))?.lost() == 0)
}

/// Datagrams that a host sends at a steady pace and the other returns, beside the test. Unlike ping it knows at its end
/// which are still on their way, and waits for them: what it counts as lost is lost, on a busy machine, too.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Ping>,
    answering: JoinHandle<()>,
    ended: Arc<AtomicBool>,
}

impl Echo {
    /// Starts to send from `from` to the address `to`, which the namespace `at` has.
    ///
    /// # Errors
    /// When the sockets cannot be opened.
    pub fn start(from: &Namespace, at: &Namespace, to: &str, interval: Duration) -> Result<Self> {
        let any = if to.contains(':') { "::" } else { "0.0.0.0" };
        Self::between((from, any), (at, to), interval, 8)
    }

    /// The same from an address of the sender's, with so many bytes in each datagram, from 8 to 1400.
    ///
    /// # Errors
    /// When the sockets cannot be opened.
    pub fn between(
        (from, source): (&Namespace, &str),
        (at, to): (&Namespace, &str),
        interval: Duration,
        bytes: usize,
    ) -> Result<Self> {
        let source: IpAddr = source.parse().context("no address")?;
        let to: IpAddr = to.parse().context("no address")?;
        let open = |namespace: &Namespace, address: SocketAddr| -> Result<UdpSocket> {
            let socket =
                namespace.within(|| UdpSocket::bind(address))?.context("cannot open a UDP socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(2)))?;
            Ok(socket)
        };
        let server = open(at, SocketAddr::new(to, 0))?;
        let port = server.local_addr()?.port();
        let client = open(from, SocketAddr::new(source, 0))?;
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&ended);
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 1400];
            while !asked.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], peer);
                }
            }
        });
        let asked = Arc::clone(&stop);
        let to = SocketAddr::new(to, port);
        let sender = std::thread::spawn(move || exchange(&client, to, interval, bytes, &asked));
        Ok(Self { stop, sender, answering, ended })
    }

    /// Stops sending, waits up to two seconds for the last answers, and tells what was seen.
    ///
    /// # Errors
    /// When a thread has panicked.
    pub fn stop(self) -> Result<Ping> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.sender.join();
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.answering.join();
        seen.ok().context("the sender has panicked")
    }
}

/// Sends `count` datagrams that come back, see [`Echo::between`].
///
/// # Errors
/// As for [`Echo`]. Loss is no error.
pub fn echo(
    from: (&Namespace, &str),
    to: (&Namespace, &str),
    count: u32,
    interval: Duration,
    bytes: usize,
) -> Result<Ping> {
    let job = Echo::between(from, to, interval, bytes)?;
    std::thread::sleep(interval * count);
    job.stop()
}

fn exchange(socket: &UdpSocket, to: SocketAddr, interval: Duration, bytes: usize, stop: &AtomicBool) -> Ping {
    let mut sent_at: Vec<Option<Instant>> = Vec::new();
    let (mut received, mut sum) = (0_u32, Duration::ZERO);
    let mut next = Instant::now();
    let (mut latest, mut silence) = (next, Duration::ZERO);
    let mut buffer = [0; 1400];
    let bytes = bytes.clamp(8, buffer.len());
    let mut end = None;
    loop {
        let sending = !stop.load(Ordering::Relaxed);
        let deadline = *end.get_or_insert_with(|| Instant::now() + Duration::from_secs(2));
        if sending {
            end = None;
        } else if received as usize == sent_at.len() || Instant::now() >= deadline {
            break;
        }
        if sending && Instant::now() >= next {
            // What the kernel refuses to send (no route, no buffer) is lost as well.
            let mut datagram = (sent_at.len() as u64).to_be_bytes().to_vec();
            datagram.resize(bytes, 0xa5);
            let _ = socket.send_to(&datagram, to);
            sent_at.push(Some(Instant::now()));
            next = Instant::now() + interval;
        }
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            if length != bytes {
                continue;
            }
            let number = u64::from_be_bytes(buffer[..8].try_into().unwrap_or_default()) as usize;
            // Only the first answer counts.
            if let Some(at) = sent_at.get_mut(number).and_then(Option::take) {
                received += 1;
                sum += at.elapsed();
                silence = silence.max(latest.elapsed());
                latest = Instant::now();
            }
        }
    }
    let mean_us = if received == 0 { 0.0 } else { sum.as_secs_f64() * 1e6 / f64::from(received) };
    Ping { sent: sent_at.len() as u32, received, silence, mean_us }
}

/// What to send by iperf3.
#[derive(Debug, Clone)]
pub struct Iperf {
    /// Seconds; with `bytes`, how long it may take.
    pub seconds: u32,
    /// Ends after so many bytes.
    pub bytes: Option<u32>,
    /// Streams in parallel.
    pub streams: u32,
    /// The server sends.
    pub reverse: bool,
    /// UDP at this rate, as iperf3 writes it (`20M`), in place of TCP.
    pub udp: Option<String>,
    /// Seconds at the start that do not count.
    pub omit: u32,
    /// Milliseconds between two samples.
    pub sample_ms: u32,
}

impl Default for Iperf {
    fn default() -> Self {
        Self { seconds: 1, bytes: None, streams: 1, reverse: false, udp: None, omit: 0, sample_ms: 500 }
    }
}

/// What iperf3 measured.
#[derive(Debug, Clone, Default)]
pub struct IperfResult {
    /// What arrived, in Gbit/s.
    pub gbps: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Second since the start (of the interval's end) and Gbit/s.
    pub samples: Vec<(f64, f64)>,
    /// UDP datagrams lost and sent.
    pub lost: u64,
    /// UDP datagrams sent.
    pub datagrams: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
}

/// An iperf3 server.
#[derive(Debug)]
pub struct IperfServer {
    process: Process,
    port: u16,
}

impl IperfServer {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When iperf3 cannot be started or does not listen.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        Self::at(namespace, 5201)
    }

    /// Starts one at a TCP port, beside others, and waits until it listens.
    ///
    /// # Errors
    /// When iperf3 cannot be started or does not listen.
    pub fn at(namespace: &Namespace, port: u16) -> Result<Self> {
        let mut process = namespace.spawn(&format!("iperf3 -s -p {port} --forceflush"))?;
        process.wait_log("Server listening", Duration::from_secs(5))?;
        Ok(Self { process, port })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs a client against it.
    ///
    /// # Errors
    /// When the client fails, or does not end ten seconds after it should.
    pub fn measure(&self, from: &Namespace, to: &str, what: &Iperf) -> Result<IperfResult> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match self.begin(from, to, what)?.finish() {
                // The server may still be clearing up after the last client.
                Err(error) if error.to_string().contains("server is busy") && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                outcome => return outcome,
            }
        }
    }

    /// Starts a client that runs beside the test.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&self, from: &Namespace, to: &str, what: &Iperf) -> Result<IperfJob> {
        let mut command = from.command("iperf3");
        command.args([
            "-c",
            to,
            "-p",
            &self.port.to_string(),
            "-J",
            "-i",
            &format!("{}", f64::from(what.sample_ms) / 1000.0),
            "--connect-timeout",
            "3000",
        ]);
        match what.bytes {
            Some(bytes) => command.args(["-n", &bytes.to_string()]),
            None => command.args(["-t", &what.seconds.to_string(), "-O", &what.omit.to_string()]),
        };
        command.args(["-P", &what.streams.to_string()]);
        if what.reverse {
            command.arg("-R");
        }
        if let Some(rate) = &what.udp {
            // 1200 bytes fit through every tunnel and every MTU of the tests without fragments.
            command.args(["-u", "-b", rate, "-l", "1200"]);
        }
        let process = Process::spawn(format!("iperf3 to {to}"), &mut command)?;
        Ok(IperfJob { process, timeout: Duration::from_secs(u64::from(what.seconds + what.omit) + 10) })
    }
}

/// A running iperf3 client.
#[derive(Debug)]
pub struct IperfJob {
    process: Process,
    timeout: Duration,
}

impl IperfJob {
    /// Waits for the end and returns what was measured.
    ///
    /// # Errors
    /// When iperf3 tells an error or does not end.
    pub fn finish(mut self) -> Result<IperfResult> {
        self.process.wait(self.timeout)?;
        let text = self.process.log();
        let answer: Value =
            serde_json::from_str(&text).with_context(|| format!("iperf3 said no JSON:\n{text}"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("iperf3: {error}");
        }
        Ok(read_iperf(&answer))
    }
}

fn read_iperf(answer: &Value) -> IperfResult {
    let end = &answer["end"];
    let udp = answer["start"]["test_start"]["protocol"] == "UDP";
    let sum = if udp { &end["sum"] } else { &end["sum_received"] };
    let lost = sum["lost_packets"].as_u64().unwrap_or(0);
    let datagrams = sum["packets"].as_u64().unwrap_or(0);
    let mut bits = sum["bits_per_second"].as_f64().unwrap_or(0.0);
    if udp && datagrams > 0 {
        // iperf3's sum for UDP is what was sent.
        bits *= 1.0 - lost as f64 / datagrams as f64;
    }
    let intervals = answer["intervals"].as_array().into_iter().flatten();
    let sample = |interval: &Value| {
        let sum = &interval["sum"];
        let counts = !sum["omitted"].as_bool().unwrap_or(false);
        counts.then_some((sum["end"].as_f64()?, sum["bits_per_second"].as_f64()? / 1e9))
    };
    IperfResult {
        gbps: bits / 1e9,
        bytes: sum["bytes"].as_u64().unwrap_or(0),
        samples: intervals.filter_map(sample).collect(),
        lost,
        datagrams,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    }
}

/// CPU seconds that the whole machine has been busy since it started; differences of it tell the cost of a run.
///
/// # Errors
/// When /proc/stat cannot be read.
pub fn busy_cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_ticks(&text).map(|ticks| ticks as f64 / 100.0).context("cannot understand /proc/stat")
}

/// user, nice, system, irq, softirq and steal: all but idle and iowait. USER_HZ is 100 on every Linux of today.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7];
    (fields.len() >= 8).then(|| busy.iter().filter_map(|at| fields.get(*at)).sum())
}

/// The middle one (the mean of the middle two) of some figures; 0 of none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_is_read() {
        let text = "5 packets transmitted, 4 received, +1 errors, 20% packet loss, time 201ms\n\
                    rtt min/avg/max/mdev = 0.728/1.119/1.510/0.391 ms\n";
        assert_eq!(
            Ping::parse(text),
            Some(Ping { sent: 5, received: 4, silence: Duration::ZERO, mean_us: 1119.0 })
        );
        let none = "2 packets transmitted, 0 received, 100% packet loss, time 1ms\n";
        assert_eq!(
            Ping::parse(none),
            Some(Ping { sent: 2, received: 0, silence: Duration::ZERO, mean_us: 0.0 })
        );
        assert_eq!(Ping::parse("ping: unknown host"), None);
    }

    #[test]
    fn busy_time_leaves_idle_out() {
        assert_eq!(busy_ticks("cpu  1 2 3 1000 1000 4 5 6 0 0\ncpu0 …"), Some(21));
        assert_eq!(busy_ticks("intr 1"), None);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn iperf_answer_is_read() {
        let answer = serde_json::json!({
            "start": {"test_start": {"protocol": "TCP"}},
            "intervals": [
                {"sum": {"end": 0.5, "bits_per_second": 1e9, "omitted": true}},
                {"sum": {"end": 0.5, "bits_per_second": 2e9, "omitted": false}},
            ],
            "end": {"sum_received": {"bits_per_second": 1.5e9, "bytes": 7}, "sum_sent": {"retransmits": 3}},
        });
        let result = read_iperf(&answer);
        assert_eq!((result.gbps, result.bytes, result.retransmits), (1.5, 7, 3));
        assert_eq!(result.samples, vec![(0.5, 2.0)]);
    }
}
