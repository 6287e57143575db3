//! `cargo xtask vm`: runs a command, or the VM test, under a Debian kernel in QEMU, on this host's files.
mod image;
mod kernel;
mod qemu;

use crate::process::{self, cargo, target_dir};
use crate::setup;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Run a command as root under another kernel, in a virtual machine.
///
/// The machine has this host's files (what it writes stays in its memory), no network but its own, and the current
/// directory. Output is passed on as it comes; the exit status is the command's. Without a command: the VM test, which
/// loads the eBPF programs, attaches them by every hook and has them judge real packets.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel, by its series: 6.1 (the oldest supported), 6.12, or 7.3.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Seconds until the machine is stopped.
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// Use KVM (faster, where the host has it) and not emulation.
    #[arg(long)]
    kvm: bool,
    /// Fetch the newest kernel of the series, even if there is one already.
    #[arg(long)]
    refresh: bool,
    /// The command and its arguments.
    #[arg(last = true)]
    command: Vec<String>,
}

/// The guest's third serial port: what it writes there comes out as a file.
pub(crate) const OUTPUT: &str = "/dev/ttyS2";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    run_with_output(args, None)
}

fn run_with_output(args: &Args, output: Option<&Path>) -> Result<ExitCode> {
    let part = if args.command.is_empty() { setup::Part::All } else { setup::Part::Programs };
    setup::ensure(part)?;
    if std::env::consts::ARCH != "x86_64" {
        bail!("the machine runs this host's programs, and only Debian's kernels for x86_64 are provided for");
    }
    let cache = target_dir().join("vm");
    let kernel = kernel::Kernel::provide(&cache, &args.kernel, args.refresh)?;
    let test = args.command.is_empty();
    let command =
        if test { vec![built_test()?, "--test-threads=1".to_owned()] } else { args.command.clone() };
    let work = Scratch::new(&cache)?;
    let initramfs = work.0.join("initramfs.cpio");
    let guest = image::Guest { kernel: &kernel, command: &command, timeout: args.timeout };
    image::write(&guest, &initramfs).context("cannot make the machine's initramfs")?;
    let (program, shown) = (command.first().map_or("", String::as_str), &kernel.version);
    eprintln!("vm: Linux {shown}, {} CPUs, {} MiB: {program}", args.cpus, args.memory);
    let unused = work.0.join("output");
    let machine = qemu::Machine {
        output: output.unwrap_or(&unused),
        kernel: &kernel.image,
        initramfs: &initramfs,
        memory: args.memory,
        cpus: args.cpus,
        kvm: args.kvm,
        // The guest stops by itself before; this is for a guest that hangs.
        timeout: Duration::from_secs(args.timeout + 60),
        work: &work.0,
    };
    let code = machine.run()?;
    if test {
        let outcome = if code == 0 { "passed" } else { "FAILED" };
        eprintln!("vm: the VM test {outcome} on Linux {shown}");
    }
    Ok(ExitCode::from(code))
}

/// Runs a command in a machine of the given kernel with the usual memory and CPUs; stops it after `timeout` seconds. What
/// it writes to [`OUTPUT`] goes to the file.
pub(crate) fn run_command(
    kernel: &str,
    timeout: u64,
    command: Vec<String>,
    output: Option<&Path>,
) -> Result<ExitCode> {
    let kernel = kernel.to_owned();
    let args = Args { kernel, memory: 3072, cpus: 2, timeout, kvm: false, refresh: false, command };
    run_with_output(&args, output)
}

/// The guard's test program, built for this host.
fn built_test() -> Result<String> {
    eprintln!("vm: building the test");
    let output = process::output(cargo().args([
        "test",
        "--package=culvert-sys",
        "--test=guard",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "guard")
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .context("cargo did not tell where it put the test program")
}

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &std::path::Path) -> Result<Scratch> {
        let dir = cache.join(format!("run-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program of this host that the machine needs.
fn tool(name: &str) -> Result<Command> {
    process::find_program(name)
        .map(Command::new)
        .with_context(|| format!("{name} is missing; run `cargo xtask setup`"))
}
