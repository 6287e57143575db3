//! strongSwan's keywords for transforms, ours and others', so that a peer's offer can be shown.

use crate::wire::{Proposal, Transform, transform};

/// Other spellings of keywords that we serve.
pub(super) fn canonical(word: &str) -> String {
    let plain = match word {
        "aes" => "aes128",
        "aesgcm16" => "aes128gcm16",
        "chacha20poly1305compat" => "chacha20poly1305",
        "sha" => "sha1",
        "sha2_256" => "sha256",
        "sha2_384" => "sha384",
        "sha2_512" => "sha512",
        "prfsha2_256" => "prfsha256",
        "prfsha2_384" => "prfsha384",
        "prfsha2_512" => "prfsha512",
        "x25519" => "curve25519",
        other => other,
    };
    // Tags are told in bytes or in bits; with GCM alone, whole ones are meant.
    for (long, short) in [("m64", "m8"), ("m96", "m12"), ("m128", "m16")] {
        if let Some(stem) = plain.strip_suffix(long).filter(|s| s.starts_with("aes")) {
            return format!("{stem}{short}");
        }
    }
    match plain {
        "aes128gcm" | "aes192gcm" | "aes256gcm" | "aes128ccm" | "aes192ccm" | "aes256ccm" => {
            format!("{plain}16")
        }
        other => other.to_owned(),
    }
}

/// Why a keyword that everybody knows is refused for good.
pub(super) fn refused(word: &str) -> Option<&'static str> {
    Some(match word {
        "modp768" => "768-bit primes have been broken (RFC 8247 2.4: MUST NOT); use curve25519 or modp2048",
        "des" => "DES has keys of 56 bits and has been broken (RFC 8221 5: MUST NOT); use aes128gcm16",
        "null" => "NULL encryption hides nothing; where only integrity is wanted use aes128gmac",
        _ => return None,
    })
}

/// Whether a keyword is one of strongSwan's that we do not serve.
pub(super) fn is_strongswans(word: &str) -> bool {
    let exact = ["cast128", "md5_128", "sha1_160", "sha256_96", "x448", "curve448", "modpnone", "default"];
    let families = ["modp", "ecp", "aes", "camellia", "blowfish", "twofish", "serpent", "chacha20", "ke"];
    exact.contains(&word) || families.iter().any(|f| word.starts_with(f))
}

fn encryption(t: &Transform) -> String {
    let bits = t.key_bits.map(|b| b.to_string()).unwrap_or_default();
    match t.id {
        3 => "3des".into(),
        7 => format!("blowfish{bits}"),
        11 => "null".into(),
        12 => format!("aes{bits}"),
        13 => format!("aes{bits}ctr"),
        14 => format!("aes{bits}ccm8"),
        15 => format!("aes{bits}ccm12"),
        16 => format!("aes{bits}ccm16"),
        18 => format!("aes{bits}gcm8"),
        19 => format!("aes{bits}gcm12"),
        20 => format!("aes{bits}gcm16"),
        21 => format!("aes{bits}gmac"),
        23 => format!("camellia{bits}"),
        28 => "chacha20poly1305".into(),
        id => format!("encr{id}({bits})"),
    }
}

fn one(t: &Transform) -> String {
    let known = match (t.kind, t.id) {
        (transform::ENCRYPTION, _) => return encryption(t),
        (transform::ADDITIONAL_1..=transform::ADDITIONAL_7, transform::NONE) => {
            return format!("ke{}_none", t.kind - transform::ADDITIONAL_1 + 1);
        }
        (transform::ADDITIONAL_1..=transform::ADDITIONAL_7, id) => {
            let method = one(&Transform::new(transform::DH, id, None));
            return format!("ke{}_{method}", t.kind - transform::ADDITIONAL_1 + 1);
        }
        (transform::PRF, 1) => "prfmd5",
        (transform::PRF, 2) => "prfsha1",
        (transform::PRF, 4) => "prfaesxcbc",
        (transform::PRF, 5) => "prfsha256",
        (transform::PRF, 6) => "prfsha384",
        (transform::PRF, 7) => "prfsha512",
        (transform::PRF, 8) => "prfaescmac",
        (transform::INTEGRITY, 1) => "md5",
        (transform::INTEGRITY, 2) => "sha1",
        (transform::INTEGRITY, 5) => "aesxcbc",
        (transform::INTEGRITY, 8) => "aescmac",
        (transform::INTEGRITY, 12) => "sha256",
        (transform::INTEGRITY, 13) => "sha384",
        (transform::INTEGRITY, 14) => "sha512",
        (transform::DH, 1) => "modp768",
        (transform::DH, 2) => "modp1024",
        (transform::DH, 5) => "modp1536",
        (transform::DH, 14) => "modp2048",
        (transform::DH, 15) => "modp3072",
        (transform::DH, 16) => "modp4096",
        (transform::DH, 17) => "modp6144",
        (transform::DH, 18) => "modp8192",
        (transform::DH, 19) => "ecp256",
        (transform::DH, 20) => "ecp384",
        (transform::DH, 21) => "ecp521",
        (transform::DH, 22) => "modp1024s160",
        (transform::DH, 23) => "modp2048s224",
        (transform::DH, 24) => "modp2048s256",
        (transform::DH, 31) => "curve25519",
        (transform::DH, 32) => "curve448",
        (transform::DH, 35) => "mlkem512",
        (transform::DH, 36) => "mlkem768",
        (transform::DH, 37) => "mlkem1024",
        (transform::DH, transform::NONE) => "modpnone",
        (transform::ESN, 0) => "noesn",
        (transform::ESN, 1) => "esn",
        (transform::INTEGRITY, transform::NONE) => "noauth",
        (kind, id) => return format!("transform{kind}({id})"),
    };
    known.into()
}

/// A peer's proposals, separated by commas, for people. At most the first eight.
pub(crate) fn describe(proposals: &[Proposal]) -> String {
    let shown = proposals.iter().take(8).map(|p| {
        let names: Vec<String> = p.transforms.iter().take(24).map(one).collect();
        names.join("-")
    });
    let mut all: Vec<String> = shown.collect();
    if proposals.len() > 8 {
        all.push(format!("and {} more", proposals.len() - 8));
    }
    all.join(", ")
}
