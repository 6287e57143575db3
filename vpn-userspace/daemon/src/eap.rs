//! EAP's methods (`culvert-eap`) in the shape in which the IKE core takes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use culvert_crypto::{NtHash, Random};
use culvert_eap::{
    Client, ClientConfig, ClientMethod, ClientStep, Server, ServerConfig, ServerMethod, ServerStep, Users,
};
use culvert_ike::{Eap, EapMethod, EapRun, EapStep};

/// EAP-MSCHAPv2 as client.
pub(crate) fn client(user: &str, hash: &NtHash) -> Eap {
    let method = ClientMethod::MsChapV2 { user: user.to_owned(), hash: hash.clone() };
    Eap::new(ClientSide(ClientConfig { identity: user.to_owned(), method }))
}

/// EAP-MSCHAPv2 as server of these users.
pub(crate) fn server(users: &BTreeMap<String, NtHash>) -> Eap {
    let methods = vec![ServerMethod::MsChapV2(Arc::new(Users(users.clone())))];
    Eap::new(ServerSide(Arc::new(ServerConfig { name: "culvert".to_owned(), methods })))
}

struct ClientSide(ClientConfig);

struct ServerSide(Arc<ServerConfig>);

struct ClientRun(Client);

struct ServerRun(Server);

impl EapMethod for ClientSide {
    fn begin(&self, _random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        (Box::new(ClientRun(Client::new(self.0.clone()))), None)
    }

    fn name(&self) -> &'static str {
        "EAP-MSCHAPv2"
    }
}

impl EapMethod for ServerSide {
    fn begin(&self, random: &mut dyn Random) -> (Box<dyn EapRun>, Option<Vec<u8>>) {
        let (server, request) = Server::begin(Arc::clone(&self.0), random);
        (Box::new(ServerRun(server)), Some(request))
    }

    fn name(&self) -> &'static str {
        "EAP-MSCHAPv2"
    }
}

impl EapRun for ClientRun {
    fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> EapStep {
        match self.0.handle(message, random) {
            Ok(ClientStep::Respond(response)) => EapStep::Send(response),
            Ok(ClientStep::Success(msk)) => EapStep::Success(Vec::new(), msk),
            Err(error) => EapStep::Failure(Vec::new(), error.to_string()),
        }
    }
}

impl EapRun for ServerRun {
    fn handle(&mut self, message: &[u8], random: &mut dyn Random) -> EapStep {
        match self.0.handle(message, random) {
            // RFC 2759 6: an MSCHAPv2 Failure (type 26, code 4); some clients go away without acknowledging it.
            ServerStep::Request(request) if matches!(request[..], [1, _, _, _, 26, 4, ..]) => {
                let why = format!("user {:?} does not exist, or its password is wrong", self.0.identity());
                EapStep::Refuse(request, why)
            }
            ServerStep::Request(request) => EapStep::Send(request),
            ServerStep::Success { message, user, msk } => {
                tracing::debug!("EAP-MSCHAPv2: user {user:?} is let in");
                EapStep::Success(message, msk)
            }
            ServerStep::Failure { message, error } => EapStep::Failure(message, error.to_string()),
        }
    }
}
