//! QEMU: the machine, and how its exit code comes out (over a serial port of its own, so that no output can pass for it).
use super::tool;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// MiB.
    pub(super) memory: u32,
    pub(super) cpus: u32,
    pub(super) kvm: bool,
    pub(super) timeout: Duration,
    /// For the files of this run.
    pub(super) work: &'a Path,
    /// What the guest writes to [`super::OUTPUT`] is written here.
    pub(super) output: &'a Path,
}

impl Machine<'_> {
    /// Boots, waits, and returns the exit code of the command.
    pub(super) fn run(&self) -> Result<u8> {
        let report = self.work.join("exit-code");
        // One thread for all virtual CPUs: with a thread each, a CPU now and then runs the breakpoint that another has just
        // taken out of the kernel's code (text_poke), and the kernel panics.
        let (accelerator, cpu) = if self.kvm { ("kvm", "host") } else { ("tcg,thread=single", "max") };
        let mut qemu = tool("qemu-system-x86_64")?
            .args(["-accel", accelerator, "-cpu", cpu])
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()])
            .args(["-no-reboot", "-nodefaults", "-display", "none", "-monitor", "none", "-net", "none"])
            .args(["-chardev", "stdio,id=console,signal=on,mux=off", "-serial", "chardev:console"])
            .arg("-serial")
            .arg(format!("file:{}", report.display()))
            .arg("-serial")
            .arg(format!("file:{}", self.output.display()))
            .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off nokaslr"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot run qemu-system-x86_64")?;
        let end = Instant::now() + self.timeout;
        let status = loop {
            if let Some(status) = qemu.try_wait()? {
                break status;
            }
            if Instant::now() >= end {
                let _ = qemu.kill();
                let _ = qemu.wait();
                bail!("the machine was stopped after {} s", self.timeout.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let reported = fs::read_to_string(&report).unwrap_or_default();
        parse_code(&reported).with_context(|| {
            format!(
                "the machine stopped before the command had ended ({status}); look above for a kernel panic"
            )
        })
    }
}

fn parse_code(reported: &str) -> Option<u8> {
    reported.lines().map(str::trim).find(|line| !line.is_empty())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_with_the_terminals_line_ends() {
        assert_eq!(parse_code("0\r\n"), Some(0));
        assert_eq!(parse_code("137\n"), Some(137));
        assert_eq!(parse_code(""), None);
    }
}
