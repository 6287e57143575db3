//! What of the host keeps a gateway from working, whatever its configuration.

use crate::{Finding, Grade, Host};

/// The oldest kernel that is tested.
const OLDEST: (u32, u32) = (6, 1);
/// 2026-01-01: a clock before that has not been set.
const LAUNCH: u64 = 1_767_225_600;

/// Judges the host. With `running` a culvertd is at work, and the ports of IKE are its own.
pub fn judge(host: &Host, running: bool) -> Vec<Finding> {
    let mut findings = vec![kernel(host)];
    let mut fault = |bad: bool, grade: Grade, text: &str, mend: &str| {
        if bad {
            findings.push(Finding::new(grade, "host", text, mend));
        }
    };
    fault(
        !host.root,
        Grade::Note,
        "not asked by root: who has the ports and what the firewall does may be hidden",
        "run `sudo culvert doctor`",
    );
    fault(
        !host.tun,
        Grade::Fault,
        "/dev/net/tun is missing: engine user has no interfaces",
        "load the module: `modprobe tun`; in a container, make the device available",
    );
    fault(
        !host.btf,
        Grade::Warning,
        "the kernel has no BTF: the guard and engine bpf cannot be loaded",
        "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have, or write guard = \"off\"",
    );
    fault(
        host.on("net/core/bpf_jit_enable") == Some(false),
        Grade::Warning,
        "eBPF programs are interpreted: the guard costs several times as much",
        "sysctl -w net.core.bpf_jit_enable=1",
    );
    fault(
        host.now < LAUNCH,
        Grade::Fault,
        "the clock is not set: certificates are judged by it",
        "set it, or run a time service (systemd-timesyncd, chrony)",
    );
    fault(
        host.sysctl.get("net/ipv4/conf/all/rp_filter").is_some_and(|value| value == "1"),
        Grade::Warning,
        "net.ipv4.conf.all.rp_filter is strict: what comes by another tunnel than it goes is dropped without a trace",
        "sysctl -w net.ipv4.conf.all.rp_filter=2",
    );
    fault(
        host.on("net/ipv4/conf/all/send_redirects") == Some(true),
        Grade::Note,
        "the host sends ICMP redirects: with WAN and LAN on one link it tells hosts of ways around the tunnel",
        "sysctl -w net.ipv4.conf.all.send_redirects=0",
    );
    for listener in &host.listeners {
        let program = listener.program.as_deref().unwrap_or("another program");
        if running || program == "culvertd" {
            continue;
        }
        findings.push(Finding::new(
            Grade::Fault,
            "host",
            format!("UDP port {} is taken by {program}: culvertd cannot start", listener.port),
            format!("stop {program}, or give culvertd other ports (ike_port, natt_port)"),
        ));
    }
    findings.extend(firewall(host));
    findings
}

fn kernel(host: &Host) -> Finding {
    let Some(kernel) = &host.kernel else {
        return Finding::new(Grade::Note, "host", "the kernel's version cannot be read", "mount /proc");
    };
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let text = format!("kernel {kernel} is older than any that Culvert is tested with");
        return Finding::new(Grade::Fault, "host", text, "use Linux 6.1 or newer");
    }
    Finding::fine("host", format!("kernel {kernel}"))
}

/// Rules are many; what is looked for is whether any of them names what the tunnels need.
fn firewall(host: &Host) -> Option<Finding> {
    let Some(firewall) = &host.firewall else {
        let text = "the firewall cannot be asked (no `nft`, or no permission)";
        return Some(Finding::new(Grade::Note, "firewall", text, "install nftables, and run as root"));
    };
    if firewall.drops.is_empty() {
        return Some(Finding::fine("firewall", "no chain drops what comes in by its policy"));
    }
    let names = |port: &str| {
        let words = firewall.rules.split(|c: char| !(c.is_ascii_alphanumeric()));
        words.into_iter().any(|word| word == port)
    };
    let mut missing: Vec<&str> = Vec::new();
    for (word, what) in [("500", "UDP 500"), ("4500", "UDP 4500"), ("esp", "ESP")] {
        if !(names(word) || word == "esp" && names("50")) {
            missing.push(what);
        }
    }
    let tables = firewall.drops.join(" and ");
    if missing.is_empty() {
        return Some(Finding::fine(
            "firewall",
            format!("table {tables} drops by its policy and has rules for IKE and ESP"),
        ));
    }
    Some(Finding::new(
        Grade::Warning,
        "firewall",
        format!("table {tables} drops what no rule accepts, and no rule names {}", missing.join(", ")),
        "accept them from the peers' addresses on the WAN",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Listener;
    use crate::facts::read_ruleset;

    fn sound() -> Host {
        Host {
            kernel: Some("6.12.107+deb13-amd64".into()),
            root: true,
            tun: true,
            btf: true,
            now: LAUNCH + 1,
            firewall: Some(read_ruleset("")),
            ..Host::default()
        }
    }

    fn worst(host: &Host) -> (Grade, String) {
        let all = judge(host, false);
        let worst = all.iter().max_by_key(|finding| finding.grade).unwrap();
        (worst.grade, format!("{} | {}", worst.text, worst.mend))
    }

    #[test]
    fn a_sound_host_is_fine() {
        assert_eq!(worst(&sound()).0, Grade::Fine);
    }

    #[test]
    fn each_fault_has_its_mend() {
        let with = |change: &dyn Fn(&mut Host)| {
            let mut host = sound();
            change(&mut host);
            worst(&host)
        };
        let sysctl = |key: &'static str, value: &'static str| {
            move |host: &mut Host| drop(host.sysctl.insert(key.into(), value.into()))
        };
        for ((grade, said), expected, text) in [
            (with(&|h| h.kernel = Some("5.10.0".into())), Grade::Fault, "Linux 6.1"),
            (with(&|h| h.tun = false), Grade::Fault, "modprobe tun"),
            (with(&|h| h.now = 0), Grade::Fault, "time service"),
            (with(&sysctl("net/ipv4/conf/all/rp_filter", "1")), Grade::Warning, "rp_filter=2"),
            (with(&sysctl("net/core/bpf_jit_enable", "0")), Grade::Warning, "bpf_jit_enable=1"),
            (
                with(&|h| h.listeners = vec![Listener { port: 500, program: Some("charon".into()) }]),
                Grade::Fault,
                "stop charon",
            ),
        ] {
            assert!(grade == expected && said.contains(text), "{grade:?} {said}");
        }
    }

    #[test]
    fn a_firewall_that_drops_must_name_what_tunnels_need() {
        let host = |rules: &str| {
            let text = format!(
                "table inet filter {{\n chain input {{\n  type filter hook input priority 0; policy drop;\n{rules}\n }}\n}}\n"
            );
            Host { firewall: Some(read_ruleset(&text)), ..sound() }
        };
        let (grade, said) = worst(&host("  udp dport 500 accept\n  tcp dport 45000 accept"));
        assert!(grade == Grade::Warning && said.contains("names UDP 4500, ESP"), "{said}");
        assert!(said.contains("table inet filter"), "{said}");
        assert_eq!(worst(&host("  udp dport { 500, 4500 } accept\n  meta l4proto 50 accept")).0, Grade::Fine);
        assert_eq!(worst(&host("  udp dport { 500, 4500 } accept\n  ip protocol esp accept")).0, Grade::Fine);
    }
}
