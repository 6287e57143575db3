//! `ike` and `esp` of a tunnel: what it has of its own, where its peer is another than those of the other tunnels.

use std::time::Duration;

use culvert_ike::{EspProposal, IkeProposal, V1Mode};

use crate::check::proposals;
use crate::duration::show;
use crate::error::Fault;
use crate::file::{self, LIFETIME, PROPOSALS};
use crate::model::{Connection, Esp, Ike, LocalProof, RemoteProof, Tunnel};
use crate::profile::{self, Profile};
use crate::section::{At, Section};

/// What stands there.
#[derive(Default, Clone)]
pub(crate) struct RawOwn {
    version: Option<At<u32>>,
    mode: Option<At<V1Mode>>,
    ike_profile: Option<At<Profile>>,
    ike_proposals: Option<At<Vec<At<IkeProposal>>>>,
    ike_lifetime: Option<At<Duration>>,
    esp_profile: Option<At<Profile>>,
    esp_proposals: Option<At<Vec<At<EspProposal>>>>,
    esp_lifetime: Option<At<Duration>>,
}

impl RawOwn {
    pub(crate) fn read(s: &mut Section<'_>, tunnel: &str, faults: &mut Vec<Fault>) -> Self {
        let mut own = Self::default();
        if let Some(mut s) = s.section(faults, "ike", format!("`ike` of tunnel `{tunnel}`")) {
            own.version = s.integer(faults, "version", "1 or 2", 1..=2);
            own.mode =
                s.word(faults, "mode", &[("main", V1Mode::Main), ("aggressive", V1Mode::Aggressive)], &[]);
            own.ike_profile = s.word(faults, "profile", &profile::WORDS, &[]);
            own.ike_proposals = s.list(faults, "proposals", PROPOSALS, false, file::proposal);
            file::at_most(faults, "proposals", &own.ike_proposals, 32);
            own.ike_lifetime = s.parsed(faults, "lifetime", LIFETIME, file::a_duration);
            s.finish(faults, &[]);
        }
        if let Some(mut s) = s.section(faults, "esp", format!("`esp` of tunnel `{tunnel}`")) {
            own.esp_profile = s.word(faults, "profile", &profile::WORDS, &[]);
            own.esp_proposals = s.list(faults, "proposals", PROPOSALS, false, file::proposal);
            file::at_most(faults, "proposals", &own.esp_proposals, 32);
            own.esp_lifetime = s.parsed(faults, "lifetime", LIFETIME, file::a_duration);
            s.finish(faults, &[]);
        }
        own
    }

    /// Takes from another tunnel what this one does not say.
    pub(crate) fn fill(&mut self, from: &Self) {
        fn fill<T: Clone>(own: &mut Option<T>, other: &Option<T>) {
            if own.is_none() {
                own.clone_from(other);
            }
        }
        fill(&mut self.version, &from.version);
        fill(&mut self.mode, &from.mode);
        // The two say the same thing: what is said here stands alone.
        if self.ike_profile.is_none() && self.ike_proposals.is_none() {
            fill(&mut self.ike_profile, &from.ike_profile);
            fill(&mut self.ike_proposals, &from.ike_proposals);
        }
        if self.esp_profile.is_none() && self.esp_proposals.is_none() {
            fill(&mut self.esp_profile, &from.esp_profile);
            fill(&mut self.esp_proposals, &from.esp_proposals);
        }
        fill(&mut self.ike_lifetime, &from.ike_lifetime);
        fill(&mut self.esp_lifetime, &from.esp_lifetime);
    }

    /// What the tunnel has instead of its connection's, if it has anything.
    fn check(
        self,
        connection: &Connection,
        tunnel: &Tunnel,
        faults: &mut Vec<Fault>,
    ) -> (Option<Ike>, Option<Esp>) {
        for lifetime in [&self.ike_lifetime, &self.esp_lifetime].into_iter().flatten() {
            lifetime_sound(lifetime, faults);
        }
        let version =
            self.version.as_ref().map_or(connection.ike.version, |v| if *v.get_ref() == 1 { 1 } else { 2 });
        let changed = self.version.as_ref().filter(|_| version != connection.ike.version);
        if let Some(at) = changed {
            let psk = matches!(
                (&tunnel.auth.local, &tunnel.auth.remote),
                (LocalProof::Psk(_), RemoteProof::Psk(_))
            );
            if !psk {
                faults.push(
                    Fault::new("a tunnel with another IKE version than its connection needs pre-shared keys")
                        .at(at.span(), "another version")
                        .help("write psk_file, or make a connection of its own of this tunnel"),
                );
            }
            if version == 1 && (connection.exchange.mobike.offers() || connection.reauth.is_some()) {
                faults.push(
                    Fault::new("`mobike` and `reauth` belong to IKEv2")
                        .at(at.span(), "asks for IKEv1")
                        .help("take them out of the connection, or write version = 2"),
                );
            }
        }
        if let Some(mode) = self.mode.as_ref().filter(|_| version == 2) {
            faults.push(
                Fault::new("`mode` belongs to IKEv1")
                    .at(mode.span(), "IKEv2 has one way through its first exchanges")
                    .help("take it out, or add version = 1"),
            );
        }
        // Those of the connection serve the other version, if it says none and has its defaults.
        let default = if version == 1 { Profile::Compatible } else { Profile::Modern };
        let says_ike = self.version.is_some()
            || self.mode.is_some()
            || self.ike_profile.is_some()
            || self.ike_proposals.is_some()
            || self.ike_lifetime.is_some();
        let ike = says_ike.then(|| {
            let of_profile = self.ike_profile.as_ref().map(|p| *p.get_ref());
            let new = of_profile.is_some() || self.ike_proposals.is_some() || changed.is_some();
            let lifetime = self.ike_lifetime.map(At::into_inner);
            Ike {
                version,
                mode: self.mode.map_or(connection.ike.mode, At::into_inner),
                mode_config: connection.ike.mode_config,
                proposals: if new {
                    proposals(self.ike_proposals, &self.ike_profile, default, Profile::ike, faults)
                } else {
                    connection.ike.proposals.clone()
                },
                profile: if new { of_profile } else { connection.ike.profile },
                lifetime: lifetime
                    .or(of_profile.map(Profile::ike_lifetime))
                    .unwrap_or(connection.ike.lifetime),
            }
        });
        let says_esp = changed.is_some()
            || self.esp_profile.is_some()
            || self.esp_proposals.is_some()
            || self.esp_lifetime.is_some();
        let esp = says_esp.then(|| {
            let of_profile = self.esp_profile.as_ref().map(|p| *p.get_ref());
            let new = of_profile.is_some() || self.esp_proposals.is_some() || changed.is_some();
            let lifetime = self.esp_lifetime.map(At::into_inner);
            Esp {
                proposals: if new {
                    proposals(self.esp_proposals, &self.esp_profile, default, Profile::esp, faults)
                } else {
                    connection.esp.proposals.clone()
                },
                profile: if new { of_profile } else { connection.esp.profile },
                lifetime: lifetime
                    .or(of_profile.map(Profile::esp_lifetime))
                    .unwrap_or(connection.esp.lifetime),
                ..connection.esp.clone()
            }
        });
        if version == 1 {
            let ike_said = ike.as_ref().unwrap_or(&connection.ike).proposals.iter().any(IkeProposal::in_v1);
            let esp_said = esp.as_ref().unwrap_or(&connection.esp).proposals.iter().any(EspProposal::in_v1);
            if let (Some(at), false) = (self.version.as_ref(), ike_said && esp_said) {
                faults.push(
                    Fault::new("none of the proposals of this tunnel can be said in IKEv1")
                        .at(at.span(), "asks for IKEv1")
                        .help("add ones such as aes256-sha256-modp2048, for ike and for esp, or write version = 2 on both sides"),
                );
            }
        }
        (ike, esp)
    }
}

/// Gives each tunnel what it has of its own.
pub(crate) fn settle(connection: &mut Connection, own: Vec<RawOwn>, faults: &mut Vec<Fault>) {
    let mut settled = Vec::new();
    for (tunnel, own) in connection.tunnels.iter().zip(own) {
        settled.push(own.check(connection, tunnel, faults));
    }
    for (tunnel, (ike, esp)) in connection.tunnels.iter_mut().zip(settled) {
        (tunnel.ike, tunnel.esp) = (ike, esp);
    }
}

/// Whether SAs may get so old.
pub(crate) fn lifetime_sound(lifetime: &At<Duration>, faults: &mut Vec<Fault>) {
    const SHORTEST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(7 * 86_400);
    let value = *lifetime.get_ref();
    let (wrong, mend) = if value < SHORTEST {
        ("below 60s", "rekeying takes time: write 60s or more; usual are 4h for IKE and 1h for ESP")
    } else if value > LONGEST {
        ("above 7d", "keys must change: write 7d or less; usual are 4h for IKE and 1h for ESP")
    } else {
        return;
    };
    faults.push(
        Fault::new(format!("a lifetime of {} is {wrong}", show(value))).at(lifetime.span(), wrong).help(mend),
    );
}

impl Connection {
    /// The IKE of a tunnel: its own, or the connection's.
    pub fn ike_of<'a>(&'a self, tunnel: &'a Tunnel) -> &'a Ike {
        tunnel.ike.as_ref().unwrap_or(&self.ike)
    }

    /// The ESP of a tunnel: its own, or the connection's.
    pub fn esp_of<'a>(&'a self, tunnel: &'a Tunnel) -> &'a Esp {
        tunnel.esp.as_ref().unwrap_or(&self.esp)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::Config;

    fn config(tunnels: &str) -> Result<Config, crate::ConfigError> {
        let text = format!(
            "[gateway]\nwan = \"eth0\"\n[connection.c]\nlocal = [\"10.1.0.0/24\"]\nremote = [\"10.2.0.0/24\"]\n\
             ike = {{ proposals = [\"aes256gcm16-prfsha384-ecp384\"], lifetime = \"2h\" }}\n{tunnels}"
        );
        Config::parse("c.toml", &text, Path::new("/"), &mut |_, _| {
            Ok(zeroize::Zeroizing::new(b"key".to_vec()))
        })
    }

    const A: &str = "[connection.c.tunnel.a]\nremote_address = \"203.0.113.1\"\npsk_file = \"a\"\n";

    #[test]
    fn a_tunnel_may_differ_from_its_connection() {
        let b = "[connection.c.tunnel.b]\ncopy = \"a\"\nremote_address = \"203.0.113.2\"\n\
            ike = { version = 1, proposals = [\"aes128-sha256-modp2048\"] }\nesp = { lifetime = \"30m\", proposals = [\"aes128-sha256\"] }\n\
            [connection.c.tunnel.c]\ncopy = \"b\"\nremote_address = \"203.0.113.3\"\nweight = 50\n";
        let config = config(&format!("{A}{b}")).unwrap();
        let c = &config.connections[0];
        let of = |name| {
            let tunnel = c.tunnel(name).unwrap();
            let (ike, esp) = (c.ike_of(tunnel), c.esp_of(tunnel));
            (ike.version, ike.proposals[0].to_string(), ike.lifetime.as_secs(), esp.lifetime.as_secs())
        };
        assert_eq!(of("a"), (2, "aes256gcm16-prfsha384-ecp384".into(), 7200, 3600));
        assert_eq!(of("b"), (1, "aes128-sha256-prfsha256-modp2048".into(), 7200, 1800));
        assert_eq!(of("c"), of("b"), "`copy` takes it along");
        let changes = Config::diff(
            &self::config(A).unwrap(),
            &self::config(&A.replace("psk_file", "ike.lifetime = \"1h\"\npsk_file")).unwrap(),
        );
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].keys(), changes[0].effect()), (&["ike"][..], crate::Effect::Renegotiate));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = |line: &str| {
            config(&A.replace("psk_file", &format!("{line}\npsk_file"))).unwrap_err().to_string()
        };
        assert!(
            error("ike.version = 1\nike.proposals = [\"aes256gcm16-prfsha384-ecp384\"]").contains("in IKEv1")
        );
        assert!(error("ike.mode = \"main\"").contains("belongs to IKEv1"));
        assert!(error("esp.lifetime = \"5s\"").contains("below 60s"));
        assert!(error("esp.profile = \"aws\"\nesp.proposals = [\"aes128-sha256\"]").contains("contradict"));
        assert!(error("ike.fragmentation = \"no\"").contains("has no key"));
    }
}
