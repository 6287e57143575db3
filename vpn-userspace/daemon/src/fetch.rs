//! Fetching a small file by HTTP from where a certificate or the configuration says, with limits on everything: what the
//! URL names was written by somebody whom we trust to vouch for peers, not to send this gateway wherever it likes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// For one file, all redirections together.
const TIMEOUT: Duration = Duration::from_secs(4);
const REDIRECTIONS: usize = 3;
const MAX_URL: usize = 1024;
/// Of an answer, before its body.
const MAX_HEAD: usize = 16 * 1024;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) url: &'a str,
    /// Sent by POST, with its media type; without one it is a GET.
    pub(crate) body: Option<(&'static str, &'a [u8])>,
    /// A longer body is refused.
    pub(crate) most: usize,
    /// The operator has written the URL: it may name this host or its link.
    pub(crate) configured: bool,
}

/// Why there is no file.
#[derive(Debug)]
pub(crate) enum FetchError {
    Url,
    /// No address that may be asked.
    Address(String),
    Io(std::io::Error),
    Timeout,
    /// Not HTTP, or a kind that nobody needs here.
    Answer(&'static str),
    Status(u16),
    TooLarge(usize),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("it is no HTTP URL"),
            Self::Address(host) => {
                write!(f, "{host} has no address that a certificate may send this gateway to")
            }
            Self::Io(error) => write!(f, "{error}"),
            Self::Timeout => write!(f, "no answer in {} s", TIMEOUT.as_secs()),
            Self::Answer(what) => write!(f, "the answer {what}"),
            Self::Status(status) => write!(f, "the server answers with status {status}"),
            Self::TooLarge(most) => write!(f, "it is larger than {most} bytes"),
        }
    }
}

impl From<std::io::Error> for FetchError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// The file.
pub(crate) async fn fetch(ask: &Ask<'_>) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(TIMEOUT, follow(ask)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn follow(ask: &Ask<'_>) -> Result<Vec<u8>, FetchError> {
    let mut url = ask.url.to_owned();
    for hop in 0..=REDIRECTIONS {
        // Where a configured server sends us is not configured.
        let configured = ask.configured && hop == 0;
        match once(&url, ask, configured).await? {
            Got::Body(body) => return Ok(body),
            Got::Elsewhere(to) => url = to,
        }
    }
    Err(FetchError::Answer("leads from one place to the next without end"))
}

enum Got {
    Body(Vec<u8>),
    Elsewhere(String),
}

async fn once(url: &str, ask: &Ask<'_>, configured: bool) -> Result<Got, FetchError> {
    let target = Target::parse(url).ok_or(FetchError::Url)?;
    let found = tokio::net::lookup_host((target.host, target.port)).await?;
    let allowed: Vec<SocketAddr> = found.filter(|a| configured || may_be_asked(a.ip())).take(4).collect();
    if allowed.is_empty() {
        return Err(FetchError::Address(target.host.to_owned()));
    }
    let mut stream = TcpStream::connect(allowed.as_slice()).await?;
    let method = if ask.body.is_some() { "POST" } else { "GET" };
    // HTTP/1.0: the answer ends with the connection, and comes in no chunks.
    let mut head = format!(
        "{method} {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: culvert\r\nConnection: close\r\n",
        target.path, target.authority
    );
    if let Some((kind, body)) = ask.body {
        head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if let Some((_, body)) = ask.body {
        stream.write_all(body).await?;
    }
    let mut answer = Vec::new();
    let mut part = vec![0; 8192];
    let most = MAX_HEAD + ask.most;
    loop {
        let length = stream.read(&mut part).await?;
        if length == 0 {
            break;
        }
        answer.extend_from_slice(part.get(..length).unwrap_or_default());
        if let Some(whole) = Head::parse(&answer)?.and_then(|head| head.end())
            && answer.len() >= whole
        {
            break;
        }
        if answer.len() > most {
            return Err(FetchError::TooLarge(ask.most));
        }
    }
    let head = Head::parse(&answer)?.ok_or(FetchError::Answer("ends before its body"))?;
    match head.status {
        200 => {
            let end = head.end().unwrap_or(answer.len());
            let body = answer.get(head.length..end).ok_or(FetchError::Answer("ends too early"))?;
            if body.len() > ask.most {
                Err(FetchError::TooLarge(ask.most))
            } else {
                Ok(Got::Body(body.to_vec()))
            }
        }
        301 | 302 | 303 | 307 | 308 => {
            let to = head.location.ok_or(FetchError::Answer("leads nowhere"))?;
            Ok(Got::Elsewhere(match to.strip_prefix('/') {
                Some(path) => format!("http://{}/{path}", target.authority),
                None => to,
            }))
        }
        other => Err(FetchError::Status(other)),
    }
}

/// Whether an address may be asked that only a certificate names: not this host, nor its link, nor many at once.
fn may_be_asked(address: IpAddr) -> bool {
    let v4 = |a: Ipv4Addr| {
        !(a.is_loopback()
            || a.is_link_local()
            || a.is_unspecified()
            || a.is_multicast()
            || a.is_broadcast()
            || a.octets()[0] == 0)
    };
    let v6 = |a: Ipv6Addr| {
        !(a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.is_unicast_link_local())
    };
    match address {
        IpAddr::V4(a) => v4(a),
        IpAddr::V6(a) => match a.to_ipv4() {
            Some(mapped) => v4(mapped),
            None => v6(a),
        },
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    host: &'a str,
    port: u16,
    /// As the Host field has it.
    authority: &'a str,
    path: &'a str,
}

impl<'a> Target<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        if url.len() > MAX_URL || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let rest = url.strip_prefix("http://")?;
        let rest = rest.split('#').next()?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        // No user names, and no query without a path.
        if authority.is_empty() || authority.contains(['@', '?', '\\']) {
            return None;
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, if rest.is_empty() { 80 } else { rest.strip_prefix(':')?.parse().ok()? })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (authority, 80),
            },
        };
        (!host.is_empty() && port != 0).then_some(Self { host, port, authority, path })
    }
}

/// The head of an answer.
struct Head {
    status: u16,
    /// With the empty line.
    length: usize,
    body: Option<usize>,
    location: Option<String>,
}

impl Head {
    /// `None`: there is more to come.
    fn parse(answer: &[u8]) -> Result<Option<Self>, FetchError> {
        let end = answer.windows(4).take(MAX_HEAD).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else {
            return if answer.len() > MAX_HEAD {
                Err(FetchError::Answer("has too long a head"))
            } else {
                Ok(None)
            };
        };
        let text = std::str::from_utf8(answer.get(..end).unwrap_or_default());
        let text = text.map_err(|_| FetchError::Answer("is no HTTP"))?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status =
            first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|s| s.parse().ok());
        let mut head = Self {
            status: status.ok_or(FetchError::Answer("is no HTTP"))?,
            length: end + 4,
            body: None,
            location: None,
        };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let length = value.parse().map_err(|_| FetchError::Answer("has no sound length"))?;
                    if head.body.replace(length).is_some_and(|before| before != length) {
                        return Err(FetchError::Answer("has two lengths"));
                    }
                }
                "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => {
                    return Err(FetchError::Answer("comes in chunks, to a request of HTTP/1.0"));
                }
                "content-encoding" if !value.eq_ignore_ascii_case("identity") => {
                    return Err(FetchError::Answer("is compressed"));
                }
                "location" => head.location = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(Some(head))
    }

    /// Where the body ends, if the head tells.
    fn end(&self) -> Option<usize> {
        self.length.checked_add(self.body?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn urls() {
        let parse = |url| Target::parse(url).map(|t| (t.host.to_owned(), t.port, t.path.to_owned()));
        let host = |h: &str, port, path: &str| Some((h.to_owned(), port, path.to_owned()));
        assert_eq!(parse("http://crl.example/ca.crl#x"), host("crl.example", 80, "/ca.crl"));
        assert_eq!(parse("http://192.0.2.1:8080"), host("192.0.2.1", 8080, "/"));
        assert_eq!(parse("http://[2001:db8::1]:81/a?b"), host("2001:db8::1", 81, "/a?b"));
        for bad in [
            "https://crl.example/",
            "ldap://crl.example/",
            "http://",
            "http:///x",
            "http://a@b/",
            "http://crl.example:0/",
            "http://crl.example:99999/",
            "http://[::1/",
            "http://crl.example/a b",
            "http://crl.example/\r\nX: y",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("http://crl.example/{}", "x".repeat(MAX_URL))), None);
    }

    #[test]
    fn a_certificate_sends_nobody_home() {
        for refused in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::",
        ] {
            assert!(!may_be_asked(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["192.0.2.1", "10.0.0.5", "2001:db8::1", "fd00::1"] {
            assert!(may_be_asked(allowed.parse().unwrap()), "{allowed}");
        }
    }

    /// A server that answers each connection with the next of these.
    async fn server(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        format!("http://{at}/file")
    }

    async fn get(url: &str, most: usize) -> Result<Vec<u8>, String> {
        let ask = Ask { url, body: None, most, configured: true };
        fetch(&ask).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn answers() {
        let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes();
        for (answer, wanted) in [
            (ok("Content-Length: 5\r\n\r\nhello and more"), Ok("hello")),
            (ok("\r\nto the end"), Ok("to the end")),
            (ok("Content-Length: 50\r\n\r\nhello"), Err("early")),
            (ok("Content-Length: x\r\n\r\nhello"), Err("length")),
            (ok("Content-Length: 1\r\nContent-Length: 2\r\n\r\nhello"), Err("two lengths")),
            (ok("Transfer-Encoding: chunked\r\n\r\n5\r\nhello"), Err("chunks")),
            (ok("Content-Encoding: gzip\r\n\r\nhello"), Err("compressed")),
            (b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(), Err("404")),
            (b"220 mail.example\r\n\r\n".to_vec(), Err("no HTTP")),
            (ok(&format!("\r\n{}", "x".repeat(2000))), Err("larger")),
            (ok(&format!("X: {}", "x".repeat(20_000))), Err("head")),
            (Vec::new(), Err("ends before")),
        ] {
            let url = server(vec![answer]).await;
            match (get(&url, 1000).await, wanted) {
                (Ok(body), Ok(wanted)) => assert_eq!(body, wanted.as_bytes()),
                (Err(error), Err(word)) => assert!(error.contains(word), "{error}"),
                (got, wanted) => panic!("{got:?}, not {wanted:?}"),
            }
        }
    }

    #[tokio::test]
    async fn redirections_end_and_lead_nobody_home() {
        let elsewhere = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\n").into_bytes();
        // The first hop is configured, the second is what somebody else says.
        let url = server(vec![elsewhere("/other"), b"HTTP/1.0 200 OK\r\n\r\nx".to_vec()]).await;
        assert!(get(&url, 10).await.unwrap_err().contains("no address"));
        let url = server(vec![elsewhere("ftp://192.0.2.1/")]).await;
        assert!(get(&url, 10).await.unwrap_err().contains("no HTTP URL"));
        let ask = Ask { url: "http://127.0.0.1:1/", body: None, most: 10, configured: false };
        assert!(fetch(&ask).await.unwrap_err().to_string().contains("no address"));
    }
}
