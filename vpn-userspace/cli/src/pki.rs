//! `culvert pki`: a small certificate authority in a folder. It talks to no culvertd.
//!
//! The folder holds `ca.pem`, `ca.key` (mode 0600), `ca.crl`, `revoked.json` and `issued/SERIAL.pem`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use culvert_crypto::SystemRandom;
use culvert_crypto::sign::{KeyKind, PrivateKey, generate};
use culvert_pki::{
    AltName, Authority, CrlFacts, Facts, Request, Revoked, Sources, Subject, Usage, blocks, civil, decode,
    encode, private_key,
};
use serde_json::{Value, json};

const DAY: u64 = 86_400;

#[derive(Debug, Subcommand)]
pub(crate) enum Pki {
    /// Make an authority: its key and its certificate, in a new folder
    CreateCa {
        #[command(flatten)]
        folder: Folder,
        /// Its name, such as "C=CH, O=Example, CN=Example VPN"
        #[arg(long)]
        subject: String,
        /// The kind of its key
        #[arg(long, value_enum, default_value_t = Kind::EcdsaP384)]
        key: Kind,
        /// How long it lasts
        #[arg(long, default_value_t = 3650)]
        days: u64,
    },
    /// Make a certificate and its private key
    #[command(after_help = "Examples:\n  \
        culvert pki issue --dir ca --subject gw.example --name gw.example --name 198.51.100.20 --out gw\n  \
        culvert pki issue --dir ca --subject joe --name joe@example.org --usage client --key rsa2048 --out joe")]
    Issue {
        #[command(flatten)]
        folder: Folder,
        /// Whom it is for: a whole name such as "O=Example, CN=gw.example", or only the common name
        #[arg(long)]
        subject: String,
        /// A host name, mail address or address that it is for; may be given more than once
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        /// What it is for
        #[arg(long, value_enum, default_value_t = For::Gateway)]
        usage: For,
        /// The kind of its key
        #[arg(long, value_enum, default_value_t = Kind::EcdsaP256)]
        key: Kind,
        /// How long it lasts
        #[arg(long, default_value_t = 365)]
        days: u64,
        /// Where its revocation list will be: an http:// URL; may be given more than once
        #[arg(long = "crl-url", value_name = "URL")]
        crl_urls: Vec<String>,
        /// Where an OCSP responder will be: an http:// URL; may be given more than once
        #[arg(long = "ocsp-url", value_name = "URL")]
        ocsp_urls: Vec<String>,
        /// Where it is written: OUT.pem and OUT.key
        #[arg(long, value_name = "OUT")]
        out: PathBuf,
    },
    /// Revoke a certificate, and make the revocation list anew
    Revoke {
        #[command(flatten)]
        folder: Folder,
        /// The certificate's file, or its serial number in hexadecimal
        certificate: String,
    },
    /// Make the revocation list anew
    Crl {
        #[command(flatten)]
        folder: Folder,
        /// How long it is good
        #[arg(long, default_value_t = 30)]
        days: u64,
    },
    /// Show what certificates, revocation lists and keys say
    Show {
        /// PEM files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Where the authority is.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The authority's folder
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    Rsa2048,
    Rsa3072,
    Rsa4096,
    #[value(name = "p256")]
    EcdsaP256,
    #[value(name = "p384")]
    EcdsaP384,
    #[value(name = "p521")]
    EcdsaP521,
    Ed25519,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum For {
    /// Begins and answers
    Gateway,
    /// Answers clients
    Server,
    /// Begins
    Client,
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Rsa2048 => Self::Rsa(2048),
            Kind::Rsa3072 => Self::Rsa(3072),
            Kind::Rsa4096 => Self::Rsa(4096),
            Kind::EcdsaP256 => Self::EcdsaP256,
            Kind::EcdsaP384 => Self::EcdsaP384,
            Kind::EcdsaP521 => Self::EcdsaP521,
            Kind::Ed25519 => Self::Ed25519,
        }
    }
}

/// Does what is asked, and says what was done.
pub(crate) fn run(command: &Pki, out: &mut impl Write) -> Result<()> {
    match command {
        Pki::CreateCa { folder, subject, key, days } => {
            create(&folder.dir, subject, (*key).into(), *days, out)
        }
        Pki::Issue { folder, subject, names, usage, key, days, crl_urls, ocsp_urls, out: path } => {
            let usage = match usage {
                For::Gateway => Usage::Gateway,
                For::Server => Usage::Server,
                For::Client => Usage::Client,
            };
            let store = Store::open(&folder.dir)?;
            let (key, pem) = new_key((*key).into())?;
            let urls = crl_urls.iter().chain(ocsp_urls);
            if let Some(bad) = urls.into_iter().find(|u| !u.starts_with("http://") || !u.is_ascii()) {
                bail!(
                    "{bad:?} is no http:// URL: what is signed needs no TLS, which would need certificates"
                );
            }
            let sources = Sources { ocsp: ocsp_urls.clone(), crl: crl_urls.clone() };
            let names: Result<Vec<AltName>, _> = names.iter().map(|n| AltName::parse(n)).collect();
            let request = Request {
                subject: Subject::parse(subject)?,
                names: names?,
                key: key.public_key().clone(),
                usage,
                not_before: now() - 60,
                not_after: now().saturating_add(days.saturating_mul(DAY)),
                sources,
            };
            store.issue(&request, &pem, path, out)
        }
        Pki::Revoke { folder, certificate } => {
            let mut store = Store::open(&folder.dir)?;
            let serial = serial_of(certificate)?;
            store.revoke(&serial)?;
            writeln!(out, "revoked {}", hex(&serial))?;
            store.write_crl(30, out)
        }
        Pki::Crl { folder, days } => Store::open(&folder.dir)?.write_crl(*days, out),
        Pki::Show { files } => files.iter().try_for_each(|file| show(file, out)),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A file that must not be there yet; keys are their owner's alone.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = made.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// A file that is there and becomes another, whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn new_key(kind: KeyKind) -> Result<(PrivateKey, String)> {
    let der = generate(kind, &mut SystemRandom::new())?;
    Ok((PrivateKey::from_pkcs8(&der)?, encode("PRIVATE KEY", &der)))
}

fn create(folder: &Path, subject: &str, kind: KeyKind, days: u64, out: &mut impl Write) -> Result<()> {
    let subject = Subject::parse(subject)?;
    fs::create_dir_all(folder.join("issued")).with_context(|| format!("cannot make {}", folder.display()))?;
    let (key, pem) = new_key(kind)?;
    let span = (now() - 60, now().saturating_add(days.saturating_mul(DAY)));
    let authority = Authority::create(key, &subject, span, &mut SystemRandom::new())?;
    write_new(&folder.join("ca.key"), &pem, 0o600)?;
    write_new(&folder.join("ca.pem"), &encode("CERTIFICATE", authority.certificate()), 0o644)?;
    write_new(&folder.join("revoked.json"), "{\"number\": 0, \"revoked\": []}\n", 0o644)?;
    writeln!(out, "made {} and {}", folder.join("ca.pem").display(), folder.join("ca.key").display())?;
    Store::open(folder)?.write_crl(30, out)
}

/// An authority's folder.
struct Store {
    folder: PathBuf,
    authority: Authority,
    number: u64,
    revoked: Vec<Revoked>,
}

impl Store {
    fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| {
                format!("cannot read {}; culvert pki create-ca makes an authority", path.display())
            })
        };
        let key = private_key(&read("ca.key")?, None).context("ca.key")?;
        let certificate = first(&read("ca.pem")?, "CERTIFICATE").context("ca.pem holds no certificate")?;
        let state: Value = serde_json::from_slice(&read("revoked.json")?).context("revoked.json")?;
        let entry = |v: &Value| -> Option<Revoked> {
            Some(Revoked { serial: unhex(v["serial"].as_str()?)?, since: v["since"].as_u64()? })
        };
        let revoked = state["revoked"].as_array().context("revoked.json has no list")?.iter().map(entry);
        Ok(Self {
            folder: folder.to_owned(),
            authority: Authority::open(&certificate, key)?,
            number: state["number"].as_u64().context("revoked.json has no number")?,
            revoked: revoked.collect::<Option<_>>().context("revoked.json has an entry that is none")?,
        })
    }

    fn save(&self) -> Result<()> {
        let revoked: Vec<Value> =
            self.revoked.iter().map(|r| json!({"serial": hex(&r.serial), "since": r.since})).collect();
        let state = json!({"number": self.number, "revoked": revoked});
        replace(&self.folder.join("revoked.json"), &format!("{state:#}\n"))
    }

    fn issue(&self, request: &Request, key: &str, path: &Path, out: &mut impl Write) -> Result<()> {
        let certificate = self.authority.issue(request, &mut SystemRandom::new())?;
        let text = encode("CERTIFICATE", &certificate);
        let serial = hex(&Facts::of(&certificate)?.serial);
        let (cert, private) = (path.with_added_extension("pem"), path.with_added_extension("key"));
        write_new(&private, key, 0o600)?;
        write_new(&cert, &text, 0o644)?;
        write_new(&self.folder.join("issued").join(format!("{serial}.pem")), &text, 0o644)?;
        writeln!(out, "made {} and {}, serial {serial}", cert.display(), private.display())?;
        Ok(())
    }

    fn revoke(&mut self, serial: &[u8]) -> Result<()> {
        ensure!(self.revoked.iter().all(|r| r.serial != serial), "{} is revoked already", hex(serial));
        let issued = self.folder.join("issued").join(format!("{}.pem", hex(serial)));
        ensure!(issued.exists(), "this authority made no certificate with the serial number {}", hex(serial));
        self.revoked.push(Revoked { serial: serial.to_vec(), since: now() });
        self.save()
    }

    fn write_crl(mut self, days: u64, out: &mut impl Write) -> Result<()> {
        self.number += 1;
        let span = (now() - 60, now().saturating_add(days.saturating_mul(DAY)));
        let list = self.authority.crl(&self.revoked, self.number, span, &mut SystemRandom::new())?;
        self.save()?;
        let path = self.folder.join("ca.crl");
        replace(&path, &encode("X509 CRL", &list))?;
        writeln!(out, "made {}, {} revoked, good for {days} days", path.display(), self.revoked.len())?;
        Ok(())
    }
}

fn first(pem: &[u8], label: &str) -> Option<Vec<u8>> {
    blocks(pem).find(|(found, _)| *found == label).and_then(|(_, body)| decode(body))
}

/// A serial number, from a file or as it is.
fn serial_of(certificate: &str) -> Result<Vec<u8>> {
    match fs::read(certificate) {
        Ok(pem) => {
            let der =
                first(&pem, "CERTIFICATE").with_context(|| format!("{certificate} holds no certificate"))?;
            Ok(Facts::of(&der)?.serial)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => unhex(certificate)
            .with_context(|| format!("{certificate} is neither a file nor a serial number in hexadecimal")),
        Err(error) => bail!("cannot read {certificate}: {error}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let plain = digits.replace(':', "");
    if plain.is_empty() || !plain.len().is_multiple_of(2) || !plain.is_ascii() {
        return None;
    }
    plain
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn date(unix: u64) -> String {
    let (year, month, day, hour, minute, _) = civil(unix);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

fn show(file: &Path, out: &mut impl Write) -> Result<()> {
    let pem = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut any = false;
    for (label, body) in blocks(&pem) {
        any = true;
        let der = decode(body).with_context(|| format!("{} is no PEM", file.display()))?;
        match label {
            "CERTIFICATE" => show_certificate(&Facts::of(&der)?, out)?,
            "X509 CRL" => show_crl(&CrlFacts::of(&der)?, out)?,
            label if label.ends_with("PRIVATE KEY") => match private_key(&pem, None) {
                Ok(key) => writeln!(out, "private key   {}", key.kind())?,
                Err(error) => writeln!(out, "private key   {error}")?,
            },
            label => writeln!(out, "{label}")?,
        }
    }
    ensure!(any, "{} holds nothing in PEM", file.display());
    Ok(())
}

fn show_certificate(facts: &Facts, out: &mut impl Write) -> Result<()> {
    let kind = if facts.authority { "authority" } else { "certificate" };
    let state = match now() {
        now if now < facts.not_before => " (not yet valid)",
        now if now > facts.not_after => " (expired)",
        _ => "",
    };
    let names = &facts.names;
    let mut all: Vec<String> = names.dns.iter().chain(&names.emails).cloned().collect();
    all.extend(names.addresses.iter().map(ToString::to_string));
    let lines = [
        (kind, facts.subject.clone()),
        ("  names", all.join(", ")),
        ("  by", facts.issuer.clone()),
        ("  serial", hex(&facts.serial)),
        ("  valid", format!("{} to {}{state}", date(facts.not_before), date(facts.not_after))),
        ("  key", facts.key.map_or("of a kind that is not taken".to_owned(), |k| k.to_string())),
        ("  key id", names.key_id.as_deref().map(hex).unwrap_or_default()),
    ];
    for (what, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        // What a stranger wrote into a certificate is not for the terminal to obey.
        writeln!(out, "{what:<13} {}", crate::render::clean_lines(value))?;
    }
    Ok(())
}

fn show_crl(facts: &CrlFacts, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{:<13} {}", "revocations", crate::render::clean_lines(&facts.issuer))?;
    let until = facts.next_update.map_or("for ever".to_owned(), date);
    let state = if facts.next_update.is_some_and(|t| t < now()) { " (out of date)" } else { "" };
    writeln!(out, "{:<13} {} to {until}{state}", "  valid", date(facts.this_update))?;
    for (serial, since) in &facts.revoked {
        writeln!(out, "{:<13} {} since {}", "  revoked", hex(serial), date(*since))?;
    }
    Ok(())
}
