//! What states an endpoint's IKE SAs are in, and messages that they would seal, for tests that go through all of them.

use super::{AnySa, Endpoint};
use crate::fragment::Sealed;
use crate::v2::Sa;
use crate::wire::{Chain, Exchange, Flags, Header};

impl Endpoint {
    /// The states of all IKE SAs of IKEv2 with those of their children, sorted.
    pub(crate) fn states(&self) -> String {
        let mut all: Vec<String> = self.sas.values().filter_map(|sa| Some(state(as_v2(sa)?))).collect();
        all.sort();
        if all.is_empty() { "nothing".to_owned() } else { all.join(" + ") }
    }

    /// An authentic request of the only IKE SA, in whatever state it has keys.
    pub(crate) fn seal_any(&mut self, exchange: Exchange, chain: &Chain) -> Option<Sealed> {
        let sa = self.sas.values_mut().find_map(|sa| match sa {
            AnySa::V2(sa) => Some(sa),
            AnySa::V1(_) => None,
        })?;
        let (handshake, id) = match sa {
            Sa::Up(sa) => {
                let header = sa.header(exchange, false, sa.window.next_id());
                return Some(sa.protection.seal(&header, chain));
            }
            // The request in flight may be the one that is played with.
            Sa::Intermediate(s) => (&mut s.handshake, 1),
            Sa::AuthSent(s) => (&mut s.handshake, s.window.next_id() - 1),
            Sa::InitSent(_) | Sa::Opening(_) | Sa::Proving(_) | Sa::HalfOpen(_) | Sa::Closed(_) => {
                return None;
            }
        };
        let flags = Flags { initiator: true, response: false };
        let (spi_i, spi_r) = (handshake.spi_i, handshake.spi_r);
        let header = Header { spi_i, spi_r, next: 0, exchange, flags, message_id: id };
        Some(handshake.protection.seal(&header, chain))
    }
}

fn as_v2(sa: &AnySa) -> Option<&Sa> {
    match sa {
        AnySa::V2(sa) => Some(sa),
        AnySa::V1(_) => None,
    }
}

fn state(sa: &Sa) -> String {
    match sa {
        Sa::InitSent(_) => "InitSent".to_owned(),
        Sa::Opening(_) => "Opening".to_owned(),
        Sa::Intermediate(_) => "Intermediate".to_owned(),
        Sa::Proving(_) => "Proving".to_owned(),
        Sa::AuthSent(_) => "AuthSent".to_owned(),
        Sa::HalfOpen(_) => "HalfOpen".to_owned(),
        Sa::Closed(_) => "Closed".to_owned(),
        Sa::Up(sa) => {
            let mut children: Vec<String> = sa.children.iter().map(|c| format!("{:?}", c.state)).collect();
            children.sort();
            format!("{:?}[{}]", sa.life, children.join(" "))
        }
    }
}
