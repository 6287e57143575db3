//! The endpoint: tunnels and their IKE SAs, and which of them a datagram, a command or a timeout is for.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_crypto::Random;
use culvert_types::TunnelId;

use crate::{Command, CommandError, EndpointConfig, Output, PeerConfig};

/// Every IKE SA of one gateway. See the crate's documentation for how to drive it.
pub struct Endpoint {
    config: EndpointConfig,
    random: Box<dyn Random>,
    peers: BTreeMap<TunnelId, Arc<PeerConfig>>,
    outputs: VecDeque<Output>,
}

impl Endpoint {
    /// An endpoint without tunnels.
    pub fn new(config: EndpointConfig, random: Box<dyn Random>) -> Self {
        Self { config, random, peers: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// Takes in one IKE datagram, without the non-ESP marker. `local` and `remote` are its destination
    /// and source; the local port tells 500 from 4500.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let _ = (now, local, remote, bytes, &self.config, &mut self.random);
    }

    /// Does what is due at `now`. To call at the time of [`Output::Deadline`]; calling it early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Carries out a command, or says why that is impossible; nothing has changed then.
    pub fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        let _ = now;
        if let Command::AddPeer(tunnel, config) = command {
            config.check()?;
            self.peers.insert(tunnel, Arc::from(config));
        }
        Ok(())
    }

    /// The next thing to do. To call until it returns [`Output::Deadline`] or [`Output::Idle`]. Events come
    /// before the datagrams that reveal them to the peer.
    pub fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or(Output::Idle)
    }
}
