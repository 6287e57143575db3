//! Network namespaces for tests: named, joined by a veth pair, removed when dropped. Needs root.
#![allow(dead_code)]

use std::fs::File;
use std::process::{Command, Output};

use nix::sched::{CloneFlags, setns};

pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("net-{name}-{}", std::process::id());
        run("ip", &format!("netns add {name}"));
        let namespace = Self(name);
        namespace.run("ip link set lo up");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Runs a command line inside; panics if it fails.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        assert!(output.status.success(), "{line}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn output(&self, line: &str) -> Output {
        // nsenter rather than `ip netns exec`, which would mount a new /sys.
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.0))
            .args(line.split_whitespace())
            .output()
            .unwrap()
    }

    /// Runs a function on a thread inside, in a tokio runtime of its own.
    pub(crate) fn enter<T: Send + 'static>(&self, f: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f())
        })
        .join()
        .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Two namespaces with `wan` devices that see each other: 192.0.2.1 and 2001:db8::1, .2 and ::2.
pub(crate) fn pair(name: &str) -> [Namespace; 2] {
    let sides = [Namespace::new(&format!("{name}-a")), Namespace::new(&format!("{name}-b"))];
    let [a, b] = &sides;
    run("ip", &format!("link add wan netns {} type veth peer name wan netns {}", a.name(), b.name()));
    for (side, last) in sides.iter().zip([1, 2]) {
        side.run(&format!("ip addr add 192.0.2.{last}/24 dev wan"));
        side.run(&format!("ip addr add 2001:db8::{last}/64 dev wan nodad"));
        side.run("ip link set wan up");
    }
    sides
}

pub(crate) fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
