//! Which engines an SA may have, the best first, and why.

use std::collections::HashMap;

use culvert_crypto::Suite;

use crate::{Engine, EngineChoice, TunnelSpec};

/// Why engine `user` leads a tunnel of two engines.
pub(crate) const SPLIT: &str =
    "latency \"split\" asks for engine user, beside which bpf has the small packets";

/// What engines came to on this host, in bits per second of inner packets on one core, sealed and opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Of engine `user`.
    pub user: u64,
    /// Of the kernel's IPsec.
    pub xfrm: u64,
}

/// Figures by suite, and when they were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// The day, for people.
    pub day: String,
    /// The suites that were measured.
    pub suites: HashMap<Suite, Figures>,
}

/// An engine that may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) engine: Engine,
    /// Why it is not taken, if one before it is.
    pub(crate) behind: String,
}

/// Who asks for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The configuration.
    Configuration,
    /// The operator, over the configuration.
    Operator(EngineChoice),
}

/// The engines for an SA of this suite, the best first.
pub(crate) fn order(
    spec: &TunnelSpec,
    asked: Asked,
    suite: Option<Suite>,
    measured: &Measured,
) -> Vec<Candidate> {
    let (choice, who) = match asked {
        Asked::Configuration => (spec.engine, "the configuration asks for"),
        Asked::Operator(choice) => (choice, "the operator asks for"),
    };
    let first = match choice {
        EngineChoice::Auto if spec.asks_for_xsk() || spec.small.is_some() => Engine::User,
        EngineChoice::Auto => return by_speed(suite, measured),
        EngineChoice::User => Engine::User,
        EngineChoice::Xfrm => Engine::Xfrm,
        EngineChoice::Bpf => Engine::Bpf,
    };
    let behind = match choice {
        EngineChoice::Auto if spec.small.is_some() => SPLIT.to_owned(),
        EngineChoice::Auto => {
            "the configuration asks for AF_XDP, which is a port of the engine user".to_owned()
        }
        _ => format!("{who} {first}"),
    };
    // What the first refuses user space takes: it takes everything.
    let mut engines = vec![first];
    engines.extend([Engine::User, Engine::Xfrm].into_iter().filter(|engine| *engine != first));
    engines.into_iter().map(|engine| Candidate { engine, behind: behind.clone() }).collect()
}

/// The kernel and user space, the faster one first; the kernel where nothing was measured.
fn by_speed(suite: Option<Suite>, measured: &Measured) -> Vec<Candidate> {
    let candidate = |engine, behind: String| Candidate { engine, behind };
    let known = suite.and_then(|suite| Some((suite, *measured.suites.get(&suite)?)));
    let Some((suite, Figures { user, xfrm })) = known else {
        let suite = suite.map_or("the suites".to_owned(), |s| s.to_string());
        let behind = format!("the kernel takes {suite}, and how fast either is was not measured");
        let user = candidate(Engine::User, behind);
        return vec![candidate(Engine::Xfrm, "user takes everything".to_owned()), user];
    };
    let day = &measured.day;
    let says = |(own, own_rate): (Engine, u64), (other, other_rate): (Engine, u64)| {
        let (own_rate, other_rate) = (gigabits(own_rate), gigabits(other_rate));
        candidate(own, format!("{own_rate} against {other} {other_rate} Gbit/s, measured {day} for {suite}"))
    };
    let (u, x) = ((Engine::User, user), (Engine::Xfrm, xfrm));
    if user >= xfrm { vec![says(u, x), says(x, u)] } else { vec![says(x, u), says(u, x)] }
}

fn gigabits(bits: u64) -> String {
    format!("{:.1}", bits as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use culvert_crypto::{Encryption, Integrity};
    use culvert_types::TunnelId;

    use super::*;
    use crate::{LanPortChoice, WanPortChoice};

    fn spec(engine: EngineChoice) -> TunnelSpec {
        TunnelSpec {
            id: TunnelId(1),
            interface: "cv-a-b".to_owned(),
            engine,
            suites: Vec::new(),
            inside: Vec::new(),
            mtu: None,
            encap: true,
            wan_port: WanPortChoice::Socket,
            lan_port: LanPortChoice::Tun,
            remote_nets: Vec::new(),
            small: None,
            spread: false,
            transport: false,
            many: false,
            kernel: crate::KernelIpsec::default(),
        }
    }

    fn engines(order: &[Candidate]) -> Vec<Engine> {
        order.iter().map(|c| c.engine).collect()
    }

    #[test]
    fn auto_takes_the_faster_engine_suite_by_suite_and_says_the_figures() {
        let gcm = Suite::new(Encryption::AesGcm128, None).unwrap();
        let cbc = Suite::new(Encryption::AesCbc256, Some(Integrity::HmacSha256_128)).unwrap();
        let chacha = Suite::new(Encryption::ChaCha20Poly1305, None).unwrap();
        let measured = Measured {
            day: "2026-11-22".to_owned(),
            suites: HashMap::from([
                (gcm, Figures { user: 6_000_000_000, xfrm: 3_100_000_000 }),
                (cbc, Figures { user: 900_000_000, xfrm: 2_000_000_000 }),
            ]),
        };
        let auto = spec(EngineChoice::Auto);
        let fast = order(&auto, Asked::Configuration, Some(gcm), &measured);
        assert_eq!(engines(&fast), [Engine::User, Engine::Xfrm]);
        assert_eq!(fast[1].behind, "3.1 against user 6.0 Gbit/s, measured 2026-11-22 for aes128gcm16");
        let kernel = order(&auto, Asked::Configuration, Some(cbc), &measured);
        assert_eq!(engines(&kernel), [Engine::Xfrm, Engine::User]);
        assert!(kernel[1].behind.starts_with("0.9 against xfrm 2.0 Gbit/s"), "{}", kernel[1].behind);
        // What was not measured is the kernel's where it takes it.
        assert_eq!(
            engines(&order(&auto, Asked::Configuration, Some(chacha), &measured)),
            [Engine::Xfrm, Engine::User]
        );
        for xsk in [
            TunnelSpec { wan_port: WanPortChoice::Xsk, ..auto.clone() },
            TunnelSpec { lan_port: LanPortChoice::Xsk, ..auto },
        ] {
            assert_eq!(engines(&order(&xsk, Asked::Configuration, Some(cbc), &measured))[0], Engine::User);
        }
    }

    #[test]
    fn a_wish_comes_before_the_configuration_and_that_before_the_figures() {
        let none = Measured::default();
        let user = spec(EngineChoice::User);
        let order_of = |asked| order(&user, asked, None, &none);
        let operator = |choice| order_of(Asked::Operator(choice));
        assert_eq!(engines(&order_of(Asked::Configuration)), [Engine::User, Engine::Xfrm]);
        assert_eq!(order_of(Asked::Configuration)[1].behind, "the configuration asks for user");
        assert_eq!(engines(&operator(EngineChoice::Xfrm)), [Engine::Xfrm, Engine::User]);
        assert_eq!(operator(EngineChoice::Xfrm)[1].behind, "the operator asks for xfrm");
        // Never chosen, but by being asked for; then user space takes what it does not.
        assert_eq!(engines(&operator(EngineChoice::Bpf)), [Engine::Bpf, Engine::User, Engine::Xfrm]);
    }
}
