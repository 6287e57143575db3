//! `radius` of a tunnel: the servers that decide who is let in.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use culvert_ike::Psk;

use crate::error::Fault;
use crate::file;
use crate::secret::Files;
use crate::section::{At, Section};

/// RADIUS servers (RFC 2865, RFC 3579) and how they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Radius {
    /// The first that answers is asked.
    pub servers: Vec<RadiusServer>,
    /// What this gateway calls itself.
    pub nas_identifier: String,
    /// How long an answer may take before the request is repeated.
    pub timeout: Duration,
}

/// A RADIUS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RadiusServer {
    /// Where it is.
    pub address: SocketAddr,
    /// What it shares with this gateway.
    pub secret: Psk,
}

const PORT: u16 = 1812;

/// As it stands in the file.
#[derive(Clone)]
pub(crate) struct RawRadius {
    span: Range<usize>,
    servers: Option<At<Vec<At<SocketAddr>>>>,
    secret_files: Option<At<Vec<At<String>>>>,
    nas_identifier: Option<At<String>>,
    timeout: Option<At<Duration>>,
    faulty: bool,
}

impl RawRadius {
    pub(crate) fn read(mut s: Section<'_>, faults: &mut Vec<Fault>) -> Self {
        let before = faults.len();
        let mut raw = Self {
            span: s.span.clone(),
            servers: s.list(
                faults,
                "servers",
                "an address, with :PORT or without, or a list of them",
                true,
                server,
            ),
            secret_files: s.list(
                faults,
                "secret_files",
                "the path of a file or a list of them",
                true,
                |text, _| Some((*text.get_ref()).to_owned()),
            ),
            nas_identifier: s.parsed(faults, "nas_identifier", "a name", name),
            timeout: s.parsed(faults, "timeout", "a duration such as \"2s\"", file::a_duration),
            faulty: false,
        };
        s.finish(faults, &[]);
        raw.faulty = faults.len() > before;
        raw
    }

    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Reads the secrets.
    pub(crate) fn check(&self, folder: &Path, files: Files<'_>, faults: &mut Vec<Fault>) -> Option<Radius> {
        if self.faulty {
            return None;
        }
        let mut lacks = |key: &str, mend: &str| {
            faults.push(crate::section::missing("`radius`", self.span.clone(), key, mend));
        };
        if self.servers.is_none() {
            lacks("servers", "name at least one: servers = [\"192.0.2.5\"]");
        }
        if self.secret_files.is_none() {
            lacks("secret_files", "name the file with the secret: secret_files = [\"secrets/radius\"]");
        }
        let (servers, paths) = (self.servers.as_ref()?, self.secret_files.as_ref()?);
        let (count, secrets) = (servers.get_ref().len(), paths.get_ref().len());
        if secrets != 1 && secrets != count {
            faults.push(
                Fault::new(format!("{count} servers have {secrets} secrets"))
                    .at(paths.span(), "which is whose?")
                    .help("name one file for all servers, or one for each, in their order"),
            );
            return None;
        }
        let timeout = self.timeout.as_ref().map_or(Duration::from_secs(2), |t| *t.get_ref());
        if let Some(at) = self.timeout.as_ref().filter(|_| !(1..=10).contains(&timeout.as_secs())) {
            faults.push(
                Fault::new("`timeout` of `radius` is not from 1s to 10s")
                    .at(at.span(), "no good")
                    .help("a client waits half a minute in all: write 2s"),
            );
            return None;
        }
        let secrets: Option<Vec<Psk>> = paths
            .get_ref()
            .iter()
            .map(|file| crate::auth::read_psk(file, folder, &mut *files, faults))
            .collect();
        let secrets = secrets?;
        let servers = servers.get_ref().iter().enumerate().map(|(at, address)| RadiusServer {
            address: *address.get_ref(),
            secret: secrets.get(at).unwrap_or(&secrets[0]).clone(),
        });
        Some(Radius {
            servers: servers.collect(),
            nas_identifier: self
                .nas_identifier
                .as_ref()
                .map_or("culvert".to_owned(), |n| n.get_ref().clone()),
            timeout,
        })
    }
}

fn server(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<SocketAddr> {
    let whole = text.get_ref();
    let read = whole.parse().ok().or_else(|| Some(SocketAddr::new(whole.parse().ok()?, PORT)));
    if read.is_none() {
        faults.push(
            Fault::new("`servers` of `radius` must be addresses")
                .at(text.span(), "no address")
                .help("write \"192.0.2.5\", \"192.0.2.5:1645\" or \"[2001:db8::5]:1812\""),
        );
    }
    read
}

fn name(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let sound = (1..=253).contains(&text.get_ref().len()) && !text.get_ref().chars().any(char::is_control);
    if !sound {
        faults.push(
            Fault::new("`nas_identifier` cannot be a name")
                .at(text.span(), "no name")
                .help("write 1 to 253 bytes without control characters"),
        );
    }
    sound.then(|| (*text.get_ref()).to_owned())
}
