//! What strongSwan tells of its SAs, with its names of algorithms turned into the notation of proposals.

use serde_json::Value;

/// An IKE SA of strongSwan.
#[derive(Debug, Clone)]
pub struct SwanIke {
    /// Its running number.
    pub unique: u64,
    /// Major version of IKE.
    pub version: u8,
    /// `ESTABLISHED` and others.
    pub state: String,
    /// Whether strongSwan initiated it.
    pub initiator: bool,
    /// 16 hexadecimal digits.
    pub spi_initiator: String,
    /// 16 hexadecimal digits.
    pub spi_responder: String,
    /// The peer's UDP port.
    pub remote_port: u16,
    /// Its own id.
    pub local_id: String,
    /// The peer's proven id.
    pub remote_id: String,
    /// Whether strongSwan is behind a NAT (or pretends it).
    pub nat_local: bool,
    /// Whether the peer is (or pretends it).
    pub nat_remote: bool,
    /// `aes128gcm16-prfsha256-ecp256`; names that this lab does not know as strongSwan writes them.
    pub suite: String,
    /// Everything that strongSwan tells of it.
    pub all: Value,
}

impl SwanIke {
    pub(crate) fn read(sa: &Value) -> Option<Self> {
        let text = |key: &str| sa[key].as_str().unwrap_or_default().to_owned();
        Some(Self {
            unique: text("uniqueid").parse().ok()?,
            version: text("version").parse().ok()?,
            state: text("state"),
            initiator: text("initiator") == "yes",
            spi_initiator: text("initiator-spi"),
            spi_responder: text("responder-spi"),
            remote_port: text("remote-port").parse().ok()?,
            local_id: text("local-id"),
            remote_id: text("remote-id"),
            nat_local: text("nat-local") == "yes",
            nat_remote: text("nat-remote") == "yes",
            suite: suite(sa),
            all: sa.clone(),
        })
    }
}

/// A child SA of strongSwan.
#[derive(Debug, Clone)]
pub struct SwanChildSa {
    /// The name of its configuration.
    pub name: String,
    /// Its running number.
    pub unique: u64,
    /// 8 hexadecimal digits.
    pub spi_in: String,
    /// 8 hexadecimal digits.
    pub spi_out: String,
    /// Whether ESP goes in UDP.
    pub encap: bool,
    /// `aes128gcm16`, `aes256-sha256`; names that this lab does not know as strongSwan writes them.
    pub suite: String,
    /// The group of its own key exchange (`ecp256`), if any.
    pub dh: Option<String>,
    /// `TUNNEL` or `TRANSPORT`.
    pub mode: String,
    /// Whether sequence numbers have 64 bits.
    pub esn: bool,
    /// Inner bytes in.
    pub bytes_in: u64,
    /// Inner bytes out.
    pub bytes_out: u64,
    /// Own networks.
    pub local_ts: Vec<String>,
    /// The peer's networks.
    pub remote_ts: Vec<String>,
}

impl SwanChildSa {
    pub(crate) fn read(child: &Value) -> Self {
        let text = |key: &str| child[key].as_str().unwrap_or_default().to_owned();
        let list = |key: &str| {
            let items = child[key].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        Self {
            name: text("name"),
            unique: text("uniqueid").parse().unwrap_or(0),
            spi_in: text("spi-in"),
            spi_out: text("spi-out"),
            encap: text("encap") == "yes",
            suite: esp_suite(child),
            dh: Some(text("dh-group")).filter(|group| !group.is_empty()).map(|group| word(&group)),
            mode: text("mode"),
            esn: text("esn") == "1",
            bytes_in: text("bytes-in").parse().unwrap_or(0),
            bytes_out: text("bytes-out").parse().unwrap_or(0),
            local_ts: list("local-ts"),
            remote_ts: list("remote-ts"),
        }
    }
}

/// Cipher, integrity, PRF (where integrity does not imply it) and group.
fn suite(sa: &Value) -> String {
    let text = |key: &str| sa[key].as_str().unwrap_or_default();
    let mut words = vec![esp_suite(sa)];
    let prf = word(text("prf-alg"));
    let implied = prf.strip_prefix("prf").is_some_and(|prf| word(text("integ-alg")) == prf);
    if !prf.is_empty() && !implied {
        words.push(prf);
    }
    words.push(word(text("dh-group")));
    words.join("-")
}

fn esp_suite(sa: &Value) -> String {
    let text = |key: &str| sa[key].as_str().unwrap_or_default();
    let bits = text("encr-keysize");
    let cipher = match text("encr-alg") {
        "AES_CBC" => format!("aes{bits}"),
        "AES_CTR" => format!("aes{bits}ctr"),
        "NULL_AES_GMAC" => format!("aes{bits}gmac"),
        other => match other.rsplit_once('_') {
            Some(("AES_GCM", tag)) => format!("aes{bits}gcm{tag}"),
            Some(("AES_CCM", tag)) => format!("aes{bits}ccm{tag}"),
            _ => word(other),
        },
    };
    match word(text("integ-alg")) {
        integrity if integrity.is_empty() => cipher,
        integrity => format!("{cipher}-{integrity}"),
    }
}

/// strongSwan's name of an algorithm in the notation of proposals.
fn word(name: &str) -> String {
    let known = match name {
        "CHACHA20_POLY1305" => "chacha20poly1305",
        "3DES_CBC" => "3des",
        "HMAC_MD5_96" => "md5",
        "HMAC_SHA1_96" => "sha1",
        "HMAC_SHA2_256_128" => "sha256",
        "HMAC_SHA2_384_192" => "sha384",
        "HMAC_SHA2_512_256" => "sha512",
        "AES_XCBC_96" => "aesxcbc",
        "AES_CMAC_96" => "aescmac",
        "PRF_HMAC_MD5" => "prfmd5",
        "PRF_HMAC_SHA1" => "prfsha1",
        "PRF_HMAC_SHA2_256" => "prfsha256",
        "PRF_HMAC_SHA2_384" => "prfsha384",
        "PRF_HMAC_SHA2_512" => "prfsha512",
        "PRF_AES128_XCBC" => "prfaesxcbc",
        "PRF_AES128_CMAC" => "prfaescmac",
        // MODP_2048, MODP_2048_256, ECP_256, CURVE_25519, CURVE_448
        other => {
            let group = other.replace("MODP_", "modp").replace("ECP_", "ecp").replace("CURVE_", "curve");
            return group.replace('_', "s").to_lowercase();
        }
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{esp_suite, suite};
    use serde_json::json;

    #[test]
    fn suites_are_written_as_proposals() {
        let gcm = json!({"encr-alg": "AES_GCM_16", "encr-keysize": "128", "prf-alg": "PRF_HMAC_SHA2_256", "dh-group": "ECP_256"});
        assert_eq!(suite(&gcm), "aes128gcm16-prfsha256-ecp256");
        let cbc = json!({"encr-alg": "AES_CBC", "encr-keysize": "256", "integ-alg": "HMAC_SHA2_256_128",
            "prf-alg": "PRF_HMAC_SHA2_256", "dh-group": "MODP_2048_256"});
        assert_eq!(
            (suite(&cbc), esp_suite(&cbc)),
            ("aes256-sha256-modp2048s256".into(), "aes256-sha256".into())
        );
        let chacha =
            json!({"encr-alg": "CHACHA20_POLY1305", "encr-keysize": "256", "dh-group": "CURVE_25519"});
        assert_eq!(suite(&chacha), "chacha20poly1305-curve25519");
    }
}
