//! `[notice.NAME]`: who is told what happens, by a command or a webhook.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_ike::Psk;

use crate::auth::read_psk;
use crate::error::Fault;
use crate::file::{RawConnection, a_duration};
use crate::secret::{FileKind, Files};
use crate::section::{At, Section, nearest};

const TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES: u32 = 5;

/// Who is told, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// Of what.
    pub on: Vec<NoticeOn>,
    /// Of which connections; empty: of all.
    pub connections: Vec<String>,
    /// How.
    pub how: NoticeHow,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often a failed attempt is repeated.
    pub retries: u32,
}

/// What somebody can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeOn {
    /// A tunnel is up.
    Up,
    /// A tunnel is down that was up.
    Down,
    /// The traffic of a connection moved to another tunnel, or is carried by none.
    Failover,
    /// A tunnel's health check came to another verdict.
    Health,
    /// A certificate expires soon, or has.
    Certificate,
    /// A tunnel that carries traffic could not be given new keys.
    Rekey,
}

impl NoticeOn {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Down, Self::Failover, Self::Health, Self::Certificate, Self::Rekey];

    /// Its name in the configuration, and for who is told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Failover => "failover",
            Self::Health => "health",
            Self::Certificate => "certificate",
            Self::Rekey => "rekey",
        }
    }
}

/// How somebody is told.
#[derive(Clone, PartialEq, Eq)]
pub enum NoticeHow {
    /// This program is run, without a shell, with these arguments.
    Command(PathBuf, Vec<String>),
    /// This URL gets a POST.
    Webhook {
        /// `http://…` or `https://…`; may hold a token.
        url: String,
        /// What it is signed with.
        secret: Option<Psk>,
        /// Authorities in PEM that its certificate may be by; `None`: those of the system.
        authorities: Option<Vec<u8>>,
    },
}

impl std::fmt::Debug for NoticeHow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(program, arguments) => {
                f.debug_tuple("Command").field(program).field(arguments).finish()
            }
            Self::Webhook { .. } => f.write_str("Webhook(..)"),
        }
    }
}

/// As it stands in the file.
pub(crate) struct RawNotice {
    name: At<String>,
    on: Option<At<Vec<At<NoticeOn>>>>,
    connections: Option<At<Vec<At<String>>>>,
    command: Option<At<Vec<At<String>>>>,
    webhook: Option<At<String>>,
    webhook_file: Option<At<String>>,
    secret_file: Option<At<String>>,
    ca: Option<At<String>>,
    timeout: Option<At<Duration>>,
    retries: Option<At<u32>>,
    faulty: bool,
}

/// Reads all of them.
pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Vec<RawNotice> {
    let sections = s.named(faults, "notice", |name| format!("[notice.{name}]"));
    sections.into_iter().map(|(name, section)| notice(name, section, faults)).collect()
}

fn notice(name: At<String>, mut s: Section<'_>, faults: &mut Vec<Fault>) -> RawNotice {
    let before = faults.len();
    let any = |text: &At<&str>, _: &mut Vec<Fault>| Some((*text.get_ref()).to_owned());
    let mut raw = RawNotice {
        name,
        on: s.list(faults, "on", "a word or a list of words", true, happening),
        connections: s.list(faults, "connections", "the name of a connection or a list of names", true, any),
        command: s.list(faults, "command", "a program and its arguments, as a list", true, any),
        webhook: s.parsed(faults, "webhook", "a URL", url),
        webhook_file: s.string(faults, "webhook_file", "the path of a file"),
        secret_file: s.string(faults, "secret_file", "the path of a file"),
        ca: s.string(faults, "ca", "the path of a file with certificates"),
        timeout: s.parsed(faults, "timeout", "a duration such as \"10s\"", a_duration),
        retries: s.integer(faults, "retries", "a number of repetitions", 0..=20),
        faulty: false,
    };
    let ways = [raw.command.is_some(), raw.webhook.is_some(), raw.webhook_file.is_some()];
    if faults.len() == before && ways.iter().filter(|there| **there).count() != 1 {
        faults.push(
            Fault::new(format!("[notice.{}] needs one way to tell", raw.name.get_ref()))
                .at(raw.name.span(), "`command`, `webhook` or `webhook_file`, and only one of them")
                .help("write command = [\"/usr/local/bin/tell-ops\"] or webhook = \"https://hooks.example/culvert\""),
        );
    }
    raw.faulty = faults.len() > before;
    s.finish(faults, &[]);
    raw
}

fn happening(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<NoticeOn> {
    let word = *text.get_ref();
    let known = NoticeOn::ALL.into_iter().find(|on| on.as_str() == word);
    if known.is_none() {
        let words = NoticeOn::ALL.map(NoticeOn::as_str);
        let mend = match nearest(word, words.into_iter()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write {}", words.join(", ")),
        };
        let text_ = format!("`on` cannot be \"{}\"", word.escape_debug());
        faults.push(Fault::new(text_).at(text.span(), "unknown word").help(mend));
    }
    known
}

fn url(text: &At<&str>, faults: &mut Vec<Fault>) -> Option<String> {
    let word = *text.get_ref();
    if is_url(word) {
        return Some(word.to_owned());
    }
    faults.push(Fault::new("`webhook` is no URL of a web server").at(text.span(), "not understood").help(
        "write \"https://hooks.example/culvert\"; one that holds a token belongs into a `webhook_file`",
    ));
    None
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    !host.is_empty() && text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What they say together with the connections and the files that they name.
pub(crate) fn check(
    raw: Vec<RawNotice>,
    connections: &[RawConnection],
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Notice> {
    raw.into_iter().filter_map(|notice| notice.check(connections, folder, &mut *files, faults)).collect()
}

impl RawNotice {
    fn check(
        self,
        known: &[RawConnection],
        folder: &Path,
        files: Files<'_>,
        faults: &mut Vec<Fault>,
    ) -> Option<Notice> {
        if self.faulty {
            return None;
        }
        let before = faults.len();
        let names = || known.iter().map(|connection| connection.name.get_ref().as_str());
        for name in self.connections.iter().flat_map(|list| list.get_ref()) {
            if !names().any(|known| known == name.get_ref()) {
                let mend = match nearest(name.get_ref(), names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => {
                        "name one of the file's connections, or take `connections` out for all".to_owned()
                    }
                };
                let text = format!("there is no connection `{}`", name.get_ref().escape_debug());
                faults.push(Fault::new(text).at(name.span(), "no such connection").help(mend));
            }
        }
        let timeout = self.timeout.as_ref().map_or(TIMEOUT, |at| *at.get_ref());
        if let Some(at) = self.timeout.as_ref().filter(|_| !(1..=300).contains(&timeout.as_secs())) {
            faults.push(
                Fault::new("`timeout` of a notice is not from 1s to 5m")
                    .at(at.span(), "no good")
                    .help("usual is 10s"),
            );
        }
        if let (Some(_), Some(idle)) = (&self.command, self.secret_file.as_ref().or(self.ca.as_ref())) {
            faults.push(
                Fault::new("a command needs neither `secret_file` nor `ca`")
                    .at(idle.span(), "for a webhook only")
                    .help("take it out"),
            );
        }
        let how = match (self.command, self.webhook) {
            (Some(command), _) => program(command, faults),
            (None, direct) => {
                let secret = match &self.secret_file {
                    Some(file) => Some(read_psk(file, folder, &mut *files, faults)?),
                    None => None,
                };
                let url = match (direct, &self.webhook_file) {
                    (Some(url), _) => url.into_inner(),
                    (None, file) => url_of_file(file.as_ref()?, folder, &mut *files, faults)?,
                };
                let authorities = match &self.ca {
                    Some(file) => Some(certificates(file, folder, &mut *files, faults)?),
                    None => None,
                };
                Some(NoticeHow::Webhook { url, secret, authorities })
            }
        };
        let list = |list: Option<At<Vec<At<String>>>>| -> Vec<String> {
            list.into_iter().flat_map(At::into_inner).map(At::into_inner).collect()
        };
        let on = self.on.map(|on| on.into_inner().into_iter().map(At::into_inner).collect());
        (faults.len() == before).then_some(())?;
        Some(Notice {
            name: self.name.into_inner(),
            on: on.unwrap_or_else(|| NoticeOn::ALL.to_vec()),
            connections: list(self.connections),
            how: how?,
            timeout,
            retries: self.retries.map_or(RETRIES, At::into_inner),
        })
    }
}

fn program(command: At<Vec<At<String>>>, faults: &mut Vec<Fault>) -> Option<NoticeHow> {
    let mut words = command.into_inner().into_iter();
    let first = words.next()?;
    let path = PathBuf::from(first.get_ref());
    let runs = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let fault = if !path.is_absolute() {
        Some((
            "`command` does not begin with an absolute path",
            "write the whole path: [\"/usr/local/bin/tell-ops\"]",
        ))
    } else if !runs {
        Some((
            "`command` is no program that can be run",
            "name a file that is there and executable (`chmod +x`)",
        ))
    } else {
        None
    };
    if let Some((text, mend)) = fault {
        faults.push(Fault::new(text).at(first.span(), "no good").help(mend));
        return None;
    }
    Some(NoticeHow::Command(path, words.map(At::into_inner).collect()))
}

fn url_of_file(
    file: &At<String>,
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<String> {
    let secret = read_psk(file, folder, files, faults)?;
    let url = std::str::from_utf8(secret.as_bytes()).ok().filter(|url| is_url(url));
    if url.is_none() {
        faults.push(
            Fault::new(format!("{} holds no URL of a web server", folder.join(file.get_ref()).display()))
                .at(file.span(), "not understood")
                .help("write the URL into it, on one line, beginning with https://"),
        );
    }
    url.map(str::to_owned)
}

fn certificates(
    file: &At<String>,
    folder: &Path,
    files: Files<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Vec<u8>> {
    let path = folder.join(file.get_ref());
    let said = match files(&path, FileKind::Public) {
        Ok(pem) if pem.windows(27).any(|w| w == b"-----BEGIN CERTIFICATE-----") => return Some(pem.to_vec()),
        Ok(_) => "holds no certificate in PEM".to_owned(),
        Err(error) => error.to_string(),
    };
    faults.push(
        Fault::new(format!("the file {} {said}", path.display()))
            .at(file.span(), "no good")
            .help("name a PEM file with the authority of the web server's certificate"),
    );
    None
}

#[cfg(test)]
mod tests {
    use crate::tests::{parse, with};

    fn file(keys: &str) -> String {
        format!("{}\n[notice.ops]\n{keys}\n", with("", ""))
    }

    #[test]
    fn defaults_are_filled_in_and_secrets_are_not_shown() {
        let keys = "webhook = \"https://hooks.example/token\"\nsecret_file = \"good.psk\"";
        let config = parse(&file(keys)).unwrap();
        let [notice] = config.notices.as_slice() else { panic!() };
        assert_eq!((notice.on.len(), notice.retries, notice.timeout.as_secs()), (6, 5, 10));
        let shown = format!("{config:?}");
        assert!(!shown.contains("hooks.example") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_mend() {
        for (keys, says) in [
            ("on = \"up\"", "needs one way to tell"),
            ("command = [\"/bin/true\"]\nwebhook = \"https://h.example\"", "needs one way to tell"),
            ("command = [\"true\"]", "absolute path"),
            ("command = [\"/no/such/program\"]", "no program that can be run"),
            ("command = [\"/bin/true\"]\nsecret_file = \"good.psk\"", "a command needs neither"),
            ("webhook = \"ftp://h.example\"", "no URL"),
            ("webhook = \"https://h.example\"\non = [\"upp\"]", "did you mean \"up\""),
            ("webhook = \"https://h.example\"\nconnections = \"nobody\"", "there is no connection `nobody`"),
            ("webhook = \"https://h.example\"\ntimeout = \"1h\"", "from 1s to 5m"),
            ("webhook = \"https://h.example\"\nca = \"good.pem\"", "holds no certificate"),
            ("webhook = \"https://h.example\"\nsecret_file = \"missing.psk\"", "cannot be read"),
            ("webhook_file = \"good.psk\"", "holds no URL"),
        ] {
            let error = parse(&file(keys)).expect_err(keys).render(false);
            assert!(
                error.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ").contains(says),
                "{says}: {error}"
            );
        }
    }
}
