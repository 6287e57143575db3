//! A private view of Debian's archive: which versions a suite has, and the package files, unpacked aside.
//!
//! apt itself does it (it verifies the signatures of the release files and the hashes of the packages, and honours
//! the host's proxy settings), with lists and a cache of its own, so that nothing of it reaches the host's apt.
use crate::process::{self, find_program};
use crate::setup::packages;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists older than this are fetched again before something is downloaded by them.
const LISTS_STALE: Duration = Duration::from_secs(6 * 3600);

/// Some suites of the archive, with apt's state for them below one directory.
pub(crate) struct Archive {
    dir: PathBuf,
}

/// One version of a package that the archive offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) package: String,
    pub(crate) version: String,
}

impl Archive {
    /// The archive as `suites` show it. `dir` is made if missing. Fetches the lists when they are missing or old.
    pub(crate) fn open(dir: &Path, suites: &[&str]) -> Result<Archive> {
        if find_program("apt-get").is_none() {
            bail!("this needs apt-get (Debian or Ubuntu) to fetch packages of Debian");
        }
        if !Path::new(KEYRING).is_file() {
            packages::install(&["debian-archive-keyring"], "to verify packages of Debian")?;
        }
        for part in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("cannot make {}", dir.join(part).display()))?;
        }
        let archive = Archive { dir: fs::canonicalize(dir)? };
        let sources: String = suites
            .iter()
            .map(|suite| {
                let mirror = if suite.ends_with("-security") { security_mirror() } else { mirror() };
                format!("deb [signed-by={KEYRING} target=Packages] {mirror} {suite} main\n")
            })
            .collect();
        let list = archive.dir.join("etc/sources.list");
        let fetched = archive.dir.join("fetched");
        let fresh = fs::read_to_string(&list).is_ok_and(|old| old == sources)
            && fs::metadata(&fetched)
                .and_then(|meta| meta.modified())
                .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < LISTS_STALE));
        if !fresh {
            fs::write(&list, sources)?;
            println!("  fetching the package lists of Debian {} …", suites.join(", "));
            process::output(archive.apt("apt-get").arg("update").arg("--error-on=any")).context(
                "the package lists of Debian could not be fetched; check the network, or set CULVERT_DEBIAN_MIRROR",
            )?;
            fs::write(&fetched, "")?;
        }
        Ok(archive)
    }

    /// Versions of `package`, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<Offer>> {
        let text = process::text(self.apt("apt-cache").args(["madison", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split('|').map(str::trim);
                let (package, version) = (fields.next()?, fields.next()?);
                Some(Offer { package: package.to_owned(), version: version.to_owned() })
            })
            .collect())
    }

    /// The packages that `offer` depends on by name (first alternative of each).
    pub(crate) fn depends(&self, offer: &Offer) -> Result<Vec<Offer>> {
        let text = process::text(
            self.apt("apt-cache").arg("show").arg(format!("{}={}", offer.package, offer.version)),
        )?;
        Ok(parse_depends(&text))
    }

    /// Downloads the package (verified by apt) and unpacks it into `into`.
    pub(crate) fn unpack(&self, offer: &Offer, into: &Path) -> Result<()> {
        let downloads = self.dir.join("download");
        let _ = fs::remove_dir_all(&downloads);
        fs::create_dir_all(&downloads)?;
        println!("  downloading {} {} …", offer.package, offer.version);
        process::output(
            self.apt("apt-get")
                .current_dir(&downloads)
                .arg("download")
                .arg(format!("{}={}", offer.package, offer.version)),
        )?;
        let file = fs::read_dir(&downloads)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get left no file of {}", offer.package))?;
        fs::create_dir_all(into)?;
        process::output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
        fs::remove_dir_all(&downloads)?;
        Ok(())
    }

    /// An apt program that sees only this archive.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |part: &str| self.dir.join(part).display().to_string();
        // The empty status file: what the host has installed is of no interest here.
        let status = self.dir.join("etc/status");
        if !status.exists() {
            let _ = fs::write(&status, "");
        }
        for option in [
            format!("Dir::Etc::SourceList={}", at("etc/sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State={}", at("")),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("etc/status")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Check-Valid-Until=true".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::http::Timeout=30".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.env("LC_ALL", "C");
        command
    }
}

fn mirror() -> String {
    std::env::var("CULVERT_DEBIAN_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned())
}

fn security_mirror() -> String {
    std::env::var("CULVERT_DEBIAN_SECURITY_MIRROR")
        .unwrap_or_else(|_| "http://deb.debian.org/debian-security".to_owned())
}

/// `Depends:` of the first stanza, those with an exact version (`=`) keeping it.
fn parse_depends(show: &str) -> Vec<Offer> {
    let Some(line) =
        show.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("Depends:"))
    else {
        return Vec::new();
    };
    line.split(',')
        .filter_map(|clause| {
            let first = clause.split('|').next()?.trim();
            let (name, rest) = first.split_once(' ').unwrap_or((first, ""));
            let version = rest.trim().trim_start_matches('(').trim_end_matches(')');
            let version = version.strip_prefix('=').map(str::trim).unwrap_or_default();
            let name = name.split(':').next()?;
            (!name.is_empty()).then(|| Offer { package: name.to_owned(), version: version.to_owned() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_keep_exact_versions_and_the_first_alternative() {
        let show = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-40-amd64 (= 6.1.153-1), kmod | module-init, \
                    linux-base:any (>= 4.3~)\nOther: x\n\nPackage: other\nDepends: nothing\n";
        let found: Vec<(String, String)> =
            parse_depends(show).into_iter().map(|offer| (offer.package, offer.version)).collect();
        let expected = [("linux-image-6.1.0-40-amd64", "6.1.153-1"), ("kmod", ""), ("linux-base", "")];
        assert_eq!(found, expected.map(|(package, version)| (package.to_owned(), version.to_owned())));
    }

    #[test]
    fn no_depends_is_no_package() {
        assert_eq!(parse_depends("Package: x\n\nDepends: y\n"), Vec::new());
    }
}
