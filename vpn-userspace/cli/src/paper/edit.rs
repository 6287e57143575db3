//! A connection added to the configuration: its keys into files of their own, its section at the end, everything checked
//! before anything is changed, and nothing left behind where something fails.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use culvert_config::Config;
use culvert_paper::{Side, Tunnel, section};

/// Where the keys stand, beside the configuration.
const SECRETS: &str = "secrets";

/// The file of a tunnel's key, as the configuration names it.
pub(super) fn psk_file(side: &Side, tunnel: &Tunnel) -> String {
    format!("{SECRETS}/{}-{}.psk", side.name, tunnel.name)
}

/// Files that are removed again unless they are kept.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// What would be at the end of the configuration.
pub(super) fn added(sides: &[Side], comments: &[String]) -> String {
    let mut text = String::new();
    for (index, side) in sides.iter().enumerate() {
        text.push('\n');
        let comments = if index == 0 { comments } else { &[] };
        text.push_str(&section(side, |tunnel| psk_file(side, tunnel), comments));
    }
    text
}

/// Adds connections to the configuration. Returns the files that were written, the configuration last.
pub(super) fn add(config: &Path, sides: &[Side], comments: &[String]) -> Result<Vec<PathBuf>> {
    let (mut made, new) = prepare(config, sides, comments)?;
    replace(config, &new)?;
    let mut written = std::mem::take(&mut made.0);
    written.push(config.to_owned());
    Ok(written)
}

/// Whether [`add`] would succeed; nothing is left behind.
pub(super) fn check(config: &Path, sides: &[Side], comments: &[String]) -> Result<()> {
    prepare(config, sides, comments).map(drop)
}

/// The keys' files, and the configuration as it would be, all of it checked.
fn prepare(config: &Path, sides: &[Side], comments: &[String]) -> Result<(Made, String)> {
    let old = fs::read_to_string(config).with_context(|| {
        format!(
            "{} cannot be read; write one with [gateway] first, the example is scripts/culvert.toml",
            config.display()
        )
    })?;
    let before = super::load(config).context("the configuration has mistakes already; mend them first")?;
    for side in sides {
        if before.connection(&side.name).is_some() {
            bail!("there is a connection {} already; choose another name with --name", side.name);
        }
        let own = before.gateway.bgp.asn;
        if let Some(bgp) = side.bgp.filter(|bgp| bgp.local != own) {
            bail!(
                "the far end knows this gateway as AS {}, and it is {own}: write asn = {} in [gateway] first",
                bgp.local,
                bgp.local
            );
        }
        for (nets, key, whose) in [(&side.local, "local", "this"), (&side.remote, "remote", "the far")] {
            if nets.is_empty() {
                bail!(
                    "nothing says which networks are on {whose} side of {}; add --{key} 192.168.0.0/24",
                    side.name
                );
            }
        }
    }
    let folder = config.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut made = Made(Vec::new());
    for side in sides {
        for tunnel in &side.tunnels {
            let Some(psk) = &tunnel.psk else {
                bail!(
                    "nothing says the pre-shared key of tunnel {}/{}; add the connection without --write, and write its key to {}",
                    side.name,
                    tunnel.name,
                    psk_file(side, tunnel)
                );
            };
            let path = folder.join(psk_file(side, tunnel));
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("cannot write {}; nothing is overwritten", path.display()))?;
            made.0.push(path.clone());
            file.write_all(psk.as_bytes())
                .and_then(|()| file.write_all(b"\n"))
                .with_context(|| path.display().to_string())?;
            file.sync_all()?;
        }
    }
    let mut new = old;
    if !new.ends_with('\n') {
        new.push('\n');
    }
    new.push_str(&added(sides, comments));
    // Whatever is wrong shows now, while the old file still stands.
    Config::load_text(config, &new)
        .map_err(|error| anyhow::anyhow!("nothing was changed: {}", error.render(false).trim()))?;
    Ok((made, new))
}

/// The new text in the old file's place in one step, with its owner and mode.
fn replace(path: &Path, text: &str) -> Result<()> {
    // A link stays one.
    let path = fs::canonicalize(path)?;
    let old = fs::metadata(&path)?;
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    let made = Made(vec![beside.clone()]);
    let failed = || format!("cannot write {}", beside.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(old.mode() & 0o777)
        .open(&beside)
        .with_context(failed)?;
    chown(&beside, Some(old.uid()), Some(old.gid())).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.sync_all().with_context(failed)?;
    fs::rename(&beside, &path).with_context(|| format!("cannot replace {}", path.display()))?;
    let mut made = made;
    made.0.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const GATEWAY: &str = "# mine\n[gateway]\nwan = \"eth0\"   # the outside";

    fn side(bytes: &[u8]) -> Side {
        let mut side = culvert_paper::import::import(bytes, None, None).unwrap().sides.remove(0);
        side.name = "head".into();
        side
    }

    const CONF: &[u8] = b"connections { head { remote_addrs = 203.0.113.1\n local { auth = psk }\n remote { auth = psk }\n \
        children { lan { local_ts = 10.1.0.0/24\n remote_ts = 10.2.0.0/24 } } } }\nsecrets { ike { secret = hush } }";

    #[test]
    fn a_connection_is_added_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("culvert.toml");
        fs::write(&config, GATEWAY).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
        let side = side(CONF);
        let written = add(&config, std::slice::from_ref(&side), &["from a file".into()]).unwrap();
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.starts_with(GATEWAY) && text.contains("# from a file\n[connection.head]"), "{text}");
        assert!(!text.contains("hush"));
        let key = folder.path().join("secrets/head-a.psk");
        assert_eq!(written, [key.clone(), config.clone()]);
        assert_eq!(fs::read_to_string(&key).unwrap(), "hush\n");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(Config::load(&config).is_ok());
        // Twice, and over a key that is there.
        let again = add(&config, std::slice::from_ref(&side), &[]).unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
        fs::write(folder.path().join("secrets/other-a.psk"), "mine").unwrap();
        let other =
            Side { name: "other".into(), remote: vec!["10.9.0.0/24".parse().unwrap()], ..side.clone() };
        let refused = format!("{:#}", add(&config, &[other], &[]).unwrap_err());
        assert!(refused.contains("nothing is overwritten"), "{refused}");
        assert_eq!(fs::read_to_string(folder.path().join("secrets/other-a.psk")).unwrap(), "mine");
        // What does not fit the rest leaves nothing behind.
        let clash = Side { name: "clash".into(), ..side };
        let refused = add(&config, &[clash], &[]).unwrap_err().to_string();
        assert!(refused.contains("nothing was changed") && refused.contains("overlaps"), "{refused}");
        assert!(!folder.path().join("secrets/clash-a.psk").exists());
        assert_eq!(fs::read_to_string(&config).unwrap(), text);
    }
}
