//! From a path to a configuration.

use std::path::Path;

use toml::de::DeTable;

use crate::error::{ConfigError, Fault, Origin};
use crate::model::Config;
use crate::secret::{self, Files};
use crate::{check, file, section};

/// The largest configuration file, in bytes: some ten thousand tunnels.
const MAX_FILE: u64 = 16 * 1024 * 1024;

impl Config {
    /// Reads the file and the secrets that it names (relative to its folder), and checks all of it.
    ///
    /// # Errors
    /// Everything that is wrong, at once; neither text nor excerpts show a secret.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let failed = |fault: Fault| ConfigError::new(&Origin::nameless(&name), vec![fault]);
        let bytes = read(path).map_err(|error| {
            let mend = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "name the configuration with --config FILE, or write one; the example is culvert.toml beside the documentation"
                }
                std::io::ErrorKind::PermissionDenied => "run as root, or as the file's owner",
                _ => "name a regular file of at most 16 MiB with --config FILE",
            };
            failed(Fault::new(format!("the configuration cannot be read: {error}")).help(mend))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            failed(
                Fault::new(format!("the configuration is not UTF-8 text (byte {at})"))
                    .help("save the file as UTF-8"),
            )
        })?;
        Self::load_text(path, &text)
    }

    /// As [`Config::load`], with this text in place of what the file holds.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn load_text(path: impl AsRef<Path>, text: &str) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        Self::parse(&path.display().to_string(), text, folder, &mut secret::read)
    }

    /// As [`Config::load`] of this text, in which every file that it names holds `content`.
    ///
    /// # Errors
    /// As for [`Config::load`].
    #[cfg(feature = "testing")]
    pub fn of_text(text: &str, content: &[u8]) -> Result<Self, ConfigError> {
        let files: Files<'_> = &mut |_, _| Ok(zeroize::Zeroizing::new(content.to_vec()));
        Self::parse("culvert.toml", text, Path::new("/etc/culvert"), files)
    }

    /// As [`Config::load`], with the text at hand and the files that it names read by `files`.
    pub(crate) fn parse(
        name: &str,
        text: &str,
        folder: &Path,
        files: Files<'_>,
    ) -> Result<Self, ConfigError> {
        let mut origin = Origin::new(name, text);
        let document = DeTable::parse(text).map_err(|error| {
            // A file without any table is something else, a key perhaps: nothing of it is shown.
            let sections = ["[gateway", "[connection", "[log"];
            if !text.lines().any(|line| sections.iter().any(|s| line.trim_start().starts_with(s))) {
                let fault = Fault::new("this is not a configuration of Culvert: it has no [gateway]");
                return ConfigError::new(
                    &Origin::nameless(name),
                    vec![fault.help("name the configuration with --config FILE")],
                );
            }
            let span = error.span().unwrap_or(0..0);
            let fault =
                Fault::new("the file is not valid TOML").at(span, error.message().replace('\n', ", "));
            ConfigError::new(
                &origin,
                vec![fault.help(
                    "strings need quotes, lists brackets, and each key stands once; see https://toml.io",
                )],
            )
        })?;
        let mut faults = Vec::new();
        let raw = file::read(&document, &mut faults);
        let interfaces = [&raw.gateway.wan, &raw.gateway.lan];
        origin.interfaces = interfaces
            .into_iter()
            .flatten()
            .flat_map(|list| list.get_ref())
            .map(|name| (name.get_ref().clone(), name.span()))
            .collect();
        let config = check::check(raw, origin.clone(), folder, files, &mut faults);
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigError::new(&origin, faults)),
        }
    }

    /// Whether every interface of `wan` and `lan` is among those that the host has.
    ///
    /// # Errors
    /// Each one that is missing, with its place in the file.
    pub fn check_interfaces<S: AsRef<str>>(&self, present: &[S]) -> Result<(), ConfigError> {
        let present: Vec<&str> = present.iter().map(AsRef::as_ref).collect();
        let faults: Vec<_> = self
            .origin
            .interfaces
            .iter()
            .filter(|(name, _)| !present.contains(&name.as_str()))
            .map(|(name, span)| {
                let mend = match section::nearest(name, present.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("this host has {}", present.join(", ")),
                };
                Fault::new(format!("there is no interface `{name}`"))
                    .at(span.clone(), "no such interface")
                    .help(mend)
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(ConfigError::new(&self.origin, faults)) }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    // Before opening: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            if metadata.is_file() { "it is larger than 16 MiB" } else { "it is not a regular file" },
        ));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
