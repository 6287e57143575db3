//! Messages as text, for people who look for a fault. No keys, nonces, public values or signatures.

use std::fmt::{self, Write};

use super::{Body, Delete, Exchange, Header, Id, Notify, Payload, WireError, kind, notify, protocol};
use crate::Identity;
use crate::error::group_name;
use crate::{proposal, selector};

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SaInit => f.write_str("IKE_SA_INIT"),
            Self::Auth => f.write_str("IKE_AUTH"),
            Self::CreateChild => f.write_str("CREATE_CHILD_SA"),
            Self::Informational => f.write_str("INFORMATIONAL"),
            Self::Intermediate => f.write_str("IKE_INTERMEDIATE"),
            Self::FollowupKe => f.write_str("IKE_FOLLOWUP_KE"),
            Self::Other(value) => write!(f, "exchange {value}"),
        }
    }
}

/// `IKE_AUTH request 1 [ IDi(a.example) AUTH(pre-shared key) … ]`
pub(crate) fn message(header: &Header, body: Result<&Body<'_>, WireError>) -> String {
    let what = if header.flags.response { "response" } else { "request" };
    let mut out = format!("{} {what} {} [", header.exchange, header.message_id);
    // Writing to a string does not fail.
    match body {
        Ok(body) => body.payloads().iter().for_each(|p| {
            let _ = write!(out, " {}", payload(p));
        }),
        Err(error) => {
            let _ = write!(out, " malformed: {error}");
        }
    }
    out.push_str(" ]");
    out
}

fn payload(payload: &Payload<'_>) -> String {
    match payload {
        Payload::Sa(proposals) => {
            let spis: Vec<String> = proposals.iter().filter_map(|p| spi(&p.spi)).take(1).collect();
            let kind = proposals.first().map_or(protocol::NONE, |p| p.protocol);
            format!("SA({}{} {})", protocol_name(kind), spis.concat(), proposal::describe(proposals))
        }
        Payload::Ke { group, data } => format!("KE({}, {} bytes)", group_name(*group), data.len()),
        Payload::IdI(id) => format!("IDi({})", identity(*id)),
        Payload::IdR(id) => format!("IDr({})", identity(*id)),
        Payload::Auth { method, .. } => format!("AUTH({})", method_name(*method)),
        Payload::Nonce(data) => format!("nonce({} bytes)", data.len()),
        Payload::Notify(n) => notification(n),
        Payload::Delete(d) => delete(d),
        Payload::TsI(ts) => format!("TSi({})", selector::describe(ts)),
        Payload::TsR(ts) => format!("TSr({})", selector::describe(ts)),
        Payload::Cert { encoding, data } => {
            format!("CERT({}, {} bytes)", encoding_name(*encoding), data.len())
        }
        Payload::CertRequest { encoding, data } => {
            // RFC 7296 3.7: a SHA-1 hash for each authority.
            format!("CERTREQ({}, {} authorities)", encoding_name(*encoding), data.len() / 20)
        }
        Payload::Config(config) => {
            let names: Vec<String> =
                config.attributes.iter().take(32).map(|a| attribute_name(a.kind)).collect();
            format!("CP({:?}: {})", config.kind, names.join(" "))
        }
        Payload::Eap(message) => eap(message),
        Payload::Other { kind, data } => format!("{}({} bytes)", kind_name(*kind), data.len()),
    }
}

fn identity(id: Id<'_>) -> String {
    Identity::from_wire(id)
        .map_or_else(|_| format!("type {}, {} bytes", id.kind, id.data.len()), |id| id.to_string())
}

fn notification(n: &Notify<'_>) -> String {
    let name = match n.kind {
        notify::INITIAL_CONTACT => "INITIAL_CONTACT",
        notify::NAT_DETECTION_SOURCE_IP => "NAT_DETECTION_SOURCE_IP",
        notify::NAT_DETECTION_DESTINATION_IP => "NAT_DETECTION_DESTINATION_IP",
        notify::COOKIE => "COOKIE",
        notify::USE_TRANSPORT_MODE => "USE_TRANSPORT_MODE",
        notify::REKEY_SA => "REKEY_SA",
        notify::ESP_TFC_PADDING_NOT_SUPPORTED => "ESP_TFC_PADDING_NOT_SUPPORTED",
        16387 => "IPCOMP_SUPPORTED",
        16392 => "SET_WINDOW_SIZE",
        16395 => "NON_FIRST_FRAGMENTS_ALSO",
        notify::MOBIKE_SUPPORTED => "MOBIKE_SUPPORTED",
        notify::ADDITIONAL_IP4_ADDRESS => "ADDITIONAL_IP4_ADDRESS",
        notify::ADDITIONAL_IP6_ADDRESS => "ADDITIONAL_IP6_ADDRESS",
        notify::NO_ADDITIONAL_ADDRESSES => "NO_ADDITIONAL_ADDRESSES",
        notify::UPDATE_SA_ADDRESSES => "UPDATE_SA_ADDRESSES",
        notify::COOKIE2 => "COOKIE2",
        notify::NO_NATS_ALLOWED => "NO_NATS_ALLOWED",
        16404 => "MULTIPLE_AUTH_SUPPORTED",
        16406 => "REDIRECT_SUPPORTED",
        16417 => "EAP_ONLY_AUTHENTICATION",
        notify::CHILDLESS_SUPPORTED => "CHILDLESS_IKEV2_SUPPORTED",
        16430 => "IKEV2_FRAGMENTATION_SUPPORTED",
        16431 => "SIGNATURE_HASH_ALGORITHMS",
        16435 => "USE_PPK",
        16436 => "PPK_IDENTITY",
        16437 => "NO_PPK_AUTH",
        notify::INTERMEDIATE_SUPPORTED => "INTERMEDIATE_EXCHANGE_SUPPORTED",
        notify::SA_RESOURCE_INFO => "SA_RESOURCE_INFO",
        notify::ADDITIONAL_KEY_EXCHANGE => "ADDITIONAL_KEY_EXCHANGE",
        error if error < notify::STATUS => return format!("N({}, {error})", notify::name(error)),
        status => return format!("N({status})"),
    };
    match spi(n.spi) {
        Some(spi) => format!("N({name}{spi})"),
        None => format!("N({name})"),
    }
}

fn delete(delete: &Delete<'_>) -> String {
    match delete.protocol {
        protocol::IKE => "D(IKE)".to_owned(),
        protocol::ESP => {
            let spis: Vec<String> = delete.esp_spis().take(16).map(|spi| format!(" {spi:08x}")).collect();
            format!("D(ESP{})", spis.concat())
        }
        other => format!("D(protocol {other})"),
    }
}

fn spi(spi: &[u8]) -> Option<String> {
    let digits: String = spi.iter().map(|byte| format!("{byte:02x}")).collect();
    (!spi.is_empty()).then(|| format!(" {digits}"))
}

fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        protocol::IKE => "IKE",
        protocol::ESP => "ESP",
        2 => "AH",
        _ => "?",
    }
}

/// RFC 7296 3.8 and the registry.
fn method_name(method: u8) -> String {
    match method {
        1 => "RSA signature".to_owned(),
        2 => "pre-shared key".to_owned(),
        9..=11 => "ECDSA signature".to_owned(),
        13 => "NULL".to_owned(),
        14 => "digital signature".to_owned(),
        other => format!("method {other}"),
    }
}

/// RFC 7296 3.6.
fn encoding_name(encoding: u8) -> String {
    match encoding {
        4 => "X.509".to_owned(),
        12 => "hash and URL".to_owned(),
        15 => "raw public key".to_owned(),
        other => format!("encoding {other}"),
    }
}

/// RFC 7296 3.15.1 and the registry.
fn attribute_name(kind: u16) -> String {
    match kind {
        1 => "IP4_ADDRESS",
        2 => "IP4_NETMASK",
        3 => "IP4_DNS",
        4 => "IP4_NBNS",
        7 => "APPLICATION_VERSION",
        8 => "IP6_ADDRESS",
        10 => "IP6_DNS",
        13 => "IP4_SUBNET",
        15 => "IP6_SUBNET",
        25 => "DNS_DOMAIN",
        other => return format!("attribute{other}"),
    }
    .to_owned()
}

/// RFC 3748 4: code, identifier, and the method, whose data is not told.
fn eap(message: &[u8]) -> String {
    let code = match message.first() {
        Some(1) => "request",
        Some(2) => "response",
        Some(3) => "success",
        Some(4) => "failure",
        _ => "?",
    };
    let method = match message.get(4) {
        None => String::new(),
        Some(1) => " identity".to_owned(),
        Some(3) => " NAK".to_owned(),
        Some(13) => " TLS".to_owned(),
        Some(26) => " MSCHAPv2".to_owned(),
        Some(other) => format!(" method {other}"),
    };
    format!("EAP({code}{method})")
}

fn kind_name(kind: u8) -> String {
    match kind {
        kind::VENDOR => "V".to_owned(),
        other => format!("payload {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Chain, Flags};

    #[test]
    fn messages_are_one_line_and_keep_secrets() {
        let mut chain = Chain::new();
        let id = Id { kind: 2, reserved: [0; 3], data: b"evil\n\x1b[2J" };
        chain.push(&Payload::IdI(id));
        chain.push(&Payload::Auth { method: 2, data: b"secret!!" });
        chain.push(&Payload::Notify(Notify::new(notify::INITIAL_CONTACT, &[])));
        chain.push(&Payload::Notify(Notify {
            protocol: 3,
            spi: &[1, 2, 3, 4],
            kind: notify::REKEY_SA,
            data: &[],
        }));
        chain.push(&Payload::Delete(Delete { protocol: 3, spi_len: 4, spis: &[0xc0, 0, 0, 1] }));
        chain.push(&Payload::Notify(Notify::new(notify::NO_PROPOSAL_CHOSEN, &[])));
        chain.push(&Payload::Ke { group: 31, data: &[7; 32] });
        let flags = Flags { initiator: true, response: false };
        let header = Header { spi_i: 1, spi_r: 2, next: 0, exchange: Exchange::Auth, flags, message_id: 1 };
        let body = Body::parse(chain.first(), chain.bytes()).unwrap();
        let text = message(&header, Ok(&body));
        assert!(text.starts_with("IKE_AUTH request 1 [ IDi("), "{text}");
        assert!(
            text.ends_with(
                "AUTH(pre-shared key) N(INITIAL_CONTACT) N(REKEY_SA 01020304) D(ESP c0000001) \
                 N(NO_PROPOSAL_CHOSEN, 14) KE(curve25519, 32 bytes) ]"
            ),
            "{text}"
        );
        assert!(!text.contains("secret") && !text.contains(char::is_control), "{text}");
        let broken = message(&header, Err(WireError::Trailing));
        assert!(broken.contains("malformed"), "{broken}");
    }
}
