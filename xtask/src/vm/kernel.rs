//! Debian's kernels: found by series in the archive, unpacked aside, kept. Never installed.
use super::tool;
use crate::debian::{Archive, Offer};
use crate::process;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Series that are provided for, and the suite that has each.
const SERIES: &[(&str, &str)] = &[("6.1", "bookworm"), ("6.12", "trixie"), ("7.3", "trixie-backports")];

/// A kernel with its modules.
pub(super) struct Kernel {
    /// As `uname -r` tells it.
    pub(super) version: String,
    /// The bootable image.
    pub(super) image: PathBuf,
    /// The directory that has `lib/modules/VERSION`.
    pub(super) root: PathBuf,
}

impl Kernel {
    /// The kernel of a series: from the cache, or fetched.
    pub(super) fn provide(cache: &Path, series: &str, refresh: bool) -> Result<Kernel> {
        let Some((_, suite)) = SERIES.iter().find(|(known, _)| *known == series) else {
            let known: Vec<&str> = SERIES.iter().map(|(series, _)| *series).collect();
            bail!("no kernel {series:?} is provided for; there are {}", known.join(", "));
        };
        let root = cache.join("kernels").join(series);
        if !refresh && let Ok(kernel) = Kernel::unpacked(&root) {
            return Ok(kernel);
        }
        println!("vm: fetching kernel {series} (Debian {suite}), once; about 100 MB");
        let archive = Archive::open(&cache.join("debian").join(suite), &[suite])?;
        let offer = choose(&archive.versions("linux-image-amd64")?, series)
            .with_context(|| format!("Debian {suite} has no package linux-image-amd64"))?;
        if !of_series(&offer.version, series) {
            println!("vm: Debian {suite} has no {series} any more; taking its newest, {}", offer.version);
        }
        let partial = cache.join("kernels").join(format!("{series}.partial"));
        let _ = fs::remove_dir_all(&partial);
        for package in closure(&archive, offer)? {
            archive.unpack(&package, &partial)?;
        }
        finish(&partial)?;
        let _ = fs::remove_dir_all(&root);
        fs::rename(&partial, &root).with_context(|| format!("cannot make {}", root.display()))?;
        Kernel::unpacked(&root)
    }

    /// What is in the directory, if it is whole.
    fn unpacked(root: &Path) -> Result<Kernel> {
        let modules = root.join("lib/modules");
        let version = fs::read_dir(&modules)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|version| modules.join(version).join("modules.dep").is_file())
            .with_context(|| format!("{} has no modules", modules.display()))?;
        let image = root.join("boot").join(format!("vmlinuz-{version}"));
        if !image.is_file() {
            bail!("{} is missing", image.display());
        }
        Ok(Kernel { version, image, root: fs::canonicalize(root)? })
    }
}

/// The newest of the series, or the newest at all. `offers` is sorted, newest first.
fn choose(offers: &[Offer], series: &str) -> Option<Offer> {
    offers.iter().find(|offer| of_series(&offer.version, series)).or(offers.first()).cloned()
}

fn of_series(version: &str, series: &str) -> bool {
    version.strip_prefix(series).is_some_and(|rest| rest.starts_with(['.', '-', '~', '+']))
}

/// The packages that the kernel consists of: those of exactly its version that it depends on.
fn closure(archive: &Archive, offer: Offer) -> Result<Vec<Offer>> {
    let version = offer.version.clone();
    let mut wanted = vec![offer];
    let mut done = 0;
    while let Some(package) = wanted.get(done).cloned() {
        done += 1;
        for dependency in archive.depends(&package)? {
            if dependency.version == version && !wanted.contains(&dependency) {
                wanted.push(dependency);
            }
        }
    }
    Ok(wanted)
}

/// Brings what was unpacked into one shape: `lib/modules`, with the lists that modprobe reads; the image in `boot`.
fn finish(root: &Path) -> Result<()> {
    let (merged, lib) = (root.join("usr/lib/modules"), root.join("lib"));
    if merged.is_dir() && !lib.join("modules").exists() {
        fs::create_dir_all(&lib)?;
        fs::rename(&merged, lib.join("modules"))?;
    }
    for entry in fs::read_dir(lib.join("modules")).context("the kernel packages have no modules")? {
        let dir = entry?.path();
        if !dir.join("kernel").is_dir() {
            continue;
        }
        let version = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let image = root.join("boot").join(format!("vmlinuz-{version}"));
        if !image.is_file() {
            // Newer packages keep it with the modules.
            let beside = dir.join("vmlinuz");
            fs::create_dir_all(root.join("boot"))?;
            fs::copy(&beside, &image).with_context(|| format!("no kernel image: {}", beside.display()))?;
        }
        process::output(tool("depmod")?.arg("-b").arg(root).arg(&version))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_a_prefix() {
        assert!(of_series("6.1.176-1", "6.1"));
        assert!(!of_series("6.12.107-1", "6.1"));
        assert!(of_series("7.3.4-1~bpo13+1", "7.3"));
    }

    #[test]
    fn the_newest_of_the_series_is_chosen() {
        let offers: Vec<Offer> = ["7.4.1-1", "7.3.4-1", "7.3.2-1"]
            .map(|version| Offer { package: "linux-image-amd64".to_owned(), version: version.to_owned() })
            .into();
        assert_eq!(choose(&offers, "7.3").unwrap().version, "7.3.4-1");
        assert_eq!(choose(&offers, "7.2").unwrap().version, "7.4.1-1");
        assert_eq!(choose(&[], "7.2"), None);
    }
}
