//! Peers that vanish without a word (`dpd.action`), and ESP that spares the question whether they live.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::measure::echo;
use culvert_lab::topology::HOST_B;
use culvert_lab::wait_for;
use culvert_tests::Pair;
use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "liveness";

pub(crate) fn rows() -> Vec<Cell> {
    let vanishes = |action: &str| {
        let dpd = format!("{{ interval = \"1s\", timeout = \"2s\", action = \"{action}\" }}");
        Cell::new(
            THEME,
            &format!("b4_d5_peer_vanishes_{action}"),
            "aes128gcm16-prfsha256-ecp256",
            "aes128gcm16",
        )
        .ours("dpd", &dpd)
        .then("nothing passes any more", |pair| cut(pair, true))
        .then("Culvert notices", |pair| {
            let down = pair.culvert.wait_down("site", "a", Duration::from_secs(8))?;
            ensure!(down.cause().contains("does not answer"), "the cause is: {}", down.cause());
            cut(pair, false)
        })
    };
    vec![
        vanishes("restart")
            .then("Culvert begins anew", again)
            .unable(Role::Responds, "who only responds waits for the peer"),
        vanishes("clear").then("Culvert waits", |pair| stays_down(pair, 1500)).then(
            "and takes the tunnel up when it is told to, or the peer comes",
            |pair| {
                if pair.case.culvert_at_a() {
                    pair.culvert.cli(&["up", "site"])?;
                    return again(pair);
                }
                pair.swan.swanctl(&["--terminate", "--ike", "site", "--force"])?;
                pair.swan.initiate("net")?;
                again(pair)
            },
        ),
        vanishes("hold").then("Culvert waits for a packet", |pair| stays_down(pair, 500)).then(
            "and here it comes",
            |pair| {
                let (from, to) = if pair.case.culvert_at_a() {
                    (&pair.site.host_a, HOST_B)
                } else {
                    (&pair.site.host_b, culvert_lab::topology::HOST_A)
                };
                // Lost, and wanted.
                let _ = from.run("ping", &["-c", "1", "-W", "1", to]);
                again(pair)
            },
        ),
        Cell::new(THEME, "esp_spares_the_question", "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
            .ours("dpd", "{ interval = \"2s\", timeout = \"6s\", action = \"restart\" }")
            .then("traffic for three intervals", |pair| {
                // The last question before the traffic has its answer.
                std::thread::sleep(Duration::from_millis(200));
                let asked = questions(pair);
                for _ in 0..6 {
                    let (a, b) = (&pair.site.host_a, &pair.site.host_b);
                    let seen = echo(
                        (a, culvert_lab::topology::HOST_A),
                        (b, HOST_B),
                        5,
                        Duration::from_millis(100),
                        56,
                    )?;
                    ensure!(seen.lost() == 0, "{seen:?}");
                    std::thread::sleep(Duration::from_millis(500));
                }
                let now = questions(pair);
                ensure!(now == asked, "Culvert asked {} times though ESP arrived", now - asked);
                wait_for("a question when nothing arrives", Duration::from_secs(6), || {
                    (questions(pair) > now).then_some(())
                })
            }),
    ]
}

/// How many INFORMATIONAL requests of Culvert strongSwan has parsed.
fn questions(pair: &Pair) -> usize {
    let log = pair.swan.log();
    log.lines().filter(|line| line.contains("parsed INFORMATIONAL request")).count()
}

/// Lets nothing pass to gateway B, or everything again.
fn cut(pair: &Pair, cut: bool) -> Result<()> {
    let to = if pair.case.ipv6_outside { "-6 route" } else { "route" };
    let verb = if cut { "add" } else { "del" };
    let (a, b) = pair.case.outside();
    pair.site.wan.ip(&format!("{to} {verb} blackhole {a}"))?;
    pair.site.wan.ip(&format!("{to} {verb} blackhole {b}"))
}

fn again(pair: &mut Pair) -> Result<()> {
    pair.culvert.wait_site().with_context(|| format!("charon's log:\n{}", pair.swan.log()))?;
    Ok(())
}

fn stays_down(pair: &Pair, millis: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(millis));
    let now = pair.culvert.site()?;
    ensure!(!now.is_up(), "it is up again: {:#}", now.0);
    Ok(())
}
