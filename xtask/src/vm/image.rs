//! The initramfs: a static busybox, the modules that reach the host's files, and two scripts. The first mounts the
//! host's root below a layer in memory, the second runs the command there and reports its exit code.
use super::kernel::Kernel;
use super::tool;
use crate::process::{self, find_program};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What the guest is to do.
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) command: &'a [String],
    /// Seconds until the command is stopped.
    pub(super) timeout: u64,
}

/// Needed before the host's files are there: virtio's bus, 9p over it, and the layer on top.
const EARLY_MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Loaded before the command, where the kernel has them as modules: what is not found by itself.
const LATE_MODULES: &str =
    "veth tun esp4 esp6 xfrm_user xfrm_interface drbg aesni_intel af_packet sch_ingress cls_bpf act_mirred";

/// Where the guest finds its scripts, after the switch to the host's files.
const STAGE: &str = "/run/culvert-vm";

pub(super) fn write(guest: &Guest<'_>, to: &Path) -> Result<()> {
    let tree = to.with_extension("tree");
    for dir in ["bin", "dev", "proc", "sys", "host", "memory", "root", "modules"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    let busybox = static_busybox()?;
    fs::copy(&busybox, tree.join("bin/busybox"))?;
    symlink("busybox", tree.join("bin/sh"))?;
    let modules = early_modules(guest.kernel, &tree.join("modules"))?;
    script(&tree.join("init"), &init(&modules))?;
    script(&tree.join("stage2"), &stage2(guest)?)?;

    let archive = fs::File::create(to)?;
    let mut list = String::new();
    for entry in walk(&tree, Path::new(""))? {
        list.push_str(&entry.to_string_lossy());
        list.push('\n');
    }
    let mut cpio = tool("cpio")?
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(&tree)
        .stdin(Stdio::piped())
        .stdout(archive)
        .spawn()
        .context("cannot run cpio")?;
    if let Some(mut stdin) = cpio.stdin.take() {
        std::io::Write::write_all(&mut stdin, list.as_bytes())?;
    }
    let status = cpio.wait()?;
    if !status.success() {
        bail!("cpio failed ({status})");
    }
    fs::remove_dir_all(&tree)?;
    Ok(())
}

/// Debian's busybox-static replaces the dynamic one at the same place.
fn static_busybox() -> Result<PathBuf> {
    find_program("busybox").context("busybox is missing; run `cargo xtask setup`")
}

/// Copies the early modules, uncompressed, with all they depend on; their names in the order of insertion.
fn early_modules(kernel: &Kernel, into: &Path) -> Result<Vec<String>> {
    let dir = kernel.root.join("lib/modules").join(&kernel.version);
    let list = fs::read_to_string(dir.join("modules.dep"))?;
    let builtin = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    let mut names = Vec::new();
    for file in load_order(&list, &builtin, EARLY_MODULES)? {
        let name = format!("{}.ko", module_name(&file));
        let to = into.join(&name);
        if file.ends_with(".xz") {
            let unpacked =
                process::output(tool("xz")?.args(["--decompress", "--stdout"]).arg(dir.join(&file)))?;
            fs::write(&to, unpacked.stdout)?;
        } else if file.ends_with(".ko") {
            fs::copy(dir.join(&file), &to)?;
        } else {
            bail!("{file} is compressed in a way that is not known here");
        }
        names.push(name);
    }
    Ok(names)
}

/// Files of the wanted modules and of what they need, each after what it needs; built-in ones left out.
fn load_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        if builtin.lines().any(|file| module_name(file) == *name) {
            continue;
        }
        let Some((file, needs)) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| module_name(file) == *name)
        else {
            bail!("the kernel has no module {name}");
        };
        // modules.dep lists what is needed in the reverse order of insertion.
        for needed in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|have| have == needed) {
                order.push(needed.to_owned());
            }
        }
    }
    Ok(order)
}

/// `kernel/fs/9p/9p.ko.xz` is module `9p`; dashes and underscores are the same.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

fn init(modules: &[String]) -> String {
    let insert: String = modules.iter().map(|module| format!("b insmod /modules/{module}\n")).collect();
    format!(
        "#!/bin/sh
b() {{ /bin/busybox \"$@\" || {{ echo \"vm: $* failed\" >/dev/console; }}; }}
b mount -t proc proc /proc
b mount -t sysfs sysfs /sys
b mount -t devtmpfs dev /dev
{insert}b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 host /host
b mount -t tmpfs memory /memory
b mkdir /memory/upper /memory/work
b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root
b mkdir -p /root/run /root/tmp /root/proc /root/sys /root/dev
b mount -t tmpfs -o mode=755 run /root/run
b mount -t tmpfs -o mode=1777 tmp /root/tmp
b mkdir /root{STAGE}
b cp /stage2 /root{STAGE}/stage2
b umount /proc
b umount /sys
b umount /dev
exec /bin/busybox switch_root /root /bin/sh {STAGE}/stage2
"
    )
}

fn stage2(guest: &Guest<'_>) -> Result<String> {
    let directory = std::env::current_dir()?;
    let modules = guest.kernel.root.join("lib/modules");
    let command: Vec<String> = guest.command.iter().map(|argument| quoted(argument)).collect();
    let mut environment = String::new();
    for name in ["PATH", "HOME", "TERM", "RUST_BACKTRACE", "CARGO_HOME", "RUSTUP_HOME"] {
        if let Ok(value) = std::env::var(name) {
            environment.push_str(&format!("export {name}={}\n", quoted(&value)));
        }
    }
    Ok(format!(
        "# Runs as process 1, in the host's files.
{environment}export PATH=\"$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"
export CULVERT_VM={version}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ln -sf /proc/self/fd /dev/fd
exec </dev/null >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 -onlcr 2>/dev/null
mkdir -p /lib/modules
mount --bind {modules} /lib/modules
for module in {LATE_MODULES}; do modprobe -q $module; done
ip link set lo up
cd {directory}
setsid timeout --kill-after=10 {timeout} {command}
code=$?
[ $code = 124 ] && echo 'vm: stopped after {timeout} s'
echo $code >/dev/ttyS1
sync; dmesg -n 1
sleep 0.2
echo o >/proc/sysrq-trigger
sleep 60
",
        version = quoted(&guest.kernel.version),
        modules = quoted(&modules.to_string_lossy()),
        directory = quoted(&directory.to_string_lossy()),
        timeout = guest.timeout,
        command = command.join(" "),
    ))
}

/// One word for a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// All entries below `tree`, parents before their children.
fn walk(tree: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(tree.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        found.push(path.clone());
        if entry.file_type()?.is_dir() {
            found.extend(walk(tree, &path)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
                            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n\
                            kernel/net/9p/9pnet.ko.xz:\n";
        let builtin = "kernel/drivers/virtio/virtio-pci.ko\n";
        let order = load_order(dependencies, builtin, &["virtio_pci", "9pnet_virtio", "9p"]).unwrap();
        let names: Vec<String> = order.iter().map(|file| module_name(file)).collect();
        assert_eq!(names, ["9pnet", "9pnet_virtio", "netfs", "9p"]);
        assert!(load_order(dependencies, builtin, &["missing"]).is_err());
    }

    #[test]
    fn arguments_stay_words() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
