//! FreeRADIUS as the server that knows the users: EAP-MSCHAPv2 with passwords, EAP-TLS with certificates.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cleanup::Scratch;
use crate::netns::Namespace;
use crate::process::Process;

/// What a FreeRADIUS knows.
#[derive(Debug, Clone, Default)]
pub struct RadiusConfig {
    /// What it shares with its clients.
    pub secret: String,
    /// Users and their passwords.
    pub users: Vec<(String, String)>,
    /// Its certificate and key for EAP-TLS, and the authority that vouches for clients; PEM.
    pub certificate: Vec<u8>,
    /// The certificate's key.
    pub key: Vec<u8>,
    /// Who vouches for clients.
    pub ca: Vec<u8>,
}

/// A running FreeRADIUS on port 1812.
#[derive(Debug)]
pub struct FreeRadius {
    process: Process,
    _scratch: Scratch,
}

impl FreeRadius {
    /// Starts it in the namespace, and waits until it serves.
    ///
    /// # Errors
    /// When it is not installed or does not start; with its log.
    pub fn start(namespace: &Namespace, config: &RadiusConfig) -> Result<Self> {
        let scratch = Scratch::new("radius")?;
        let at = scratch.path();
        let mut users = String::new();
        for (user, password) in &config.users {
            // Writing to a string does not fail.
            let _ = writeln!(users, "{user} Cleartext-Password := \"{password}\"");
        }
        fs::write(at.join("users"), users)?;
        fs::write(at.join("dictionary"), "")?;
        fs::write(at.join("server.pem"), &config.certificate)?;
        fs::write(at.join("server.key"), &config.key)?;
        fs::write(at.join("ca.pem"), &config.ca)?;
        fs::write(at.join("radiusd.conf"), settings(&at.display().to_string(), &config.secret))?;
        let mut command = namespace.command("freeradius");
        command.arg("-d").arg(at).args(["-D", "/usr/share/freeradius", "-f", "-l", "stdout"]);
        let mut process = Process::spawn(format!("freeradius in {}", namespace.name()), &mut command)?;
        let started = process.wait_log("Ready to process requests", Duration::from_secs(10));
        started.with_context(|| {
            format!("freeradius did not start (is it installed?); its log:\n{}", process.log())
        })?;
        Ok(Self { process, _scratch: scratch })
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Only what EAP needs, so that nothing of the host's own configuration is read.
fn settings(at: &str, secret: &str) -> String {
    format!(
        r#"
prefix = /usr
libdir = /usr/lib/freeradius
logdir = {at}
run_dir = {at}
db_dir = {at}
raddbdir = {at}
max_request_time = 10
cleanup_delay = 2
hostname_lookups = no
log {{
  destination = stdout
  auth = yes
}}
security {{
  reject_delay = 0
  status_server = no
  allow_vulnerable_openssl = yes
}}
thread pool {{
  start_servers = 1
  max_servers = 2
  min_spare_servers = 1
  max_spare_servers = 1
}}
client culvert {{
  ipaddr = 0.0.0.0/0
  secret = "{secret}"
  require_message_authenticator = yes
}}
modules {{
  mschap {{
  }}
  files {{
    usersfile = {at}/users
  }}
  eap {{
    default_eap_type = mschapv2
    timer_expire = 60
    tls-config tls-common {{
      private_key_file = {at}/server.key
      certificate_file = {at}/server.pem
      ca_file = {at}/ca.pem
      tls_min_version = "1.2"
      tls_max_version = "1.2"
      fragment_size = 1000
    }}
    tls {{
      tls = tls-common
    }}
    mschapv2 {{
    }}
  }}
}}
server default {{
  listen {{
    type = auth
    ipaddr = *
    port = 1812
  }}
  authorize {{
    mschap
    eap {{
      ok = return
    }}
    files
  }}
  authenticate {{
    Auth-Type MS-CHAP {{
      mschap
    }}
    eap
  }}
}}
"#
    )
}
