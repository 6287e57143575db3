//! Encryption algorithms (transform type 1).

use super::Weakness;

/// How a cipher works, which fixes its lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Cipher block chaining.
    Cbc,
    /// Counter mode (RFC 3686).
    Ctr,
    /// Galois/counter mode with a tag of so many bytes (RFC 4106).
    Gcm(u8),
    /// Counter mode with CBC-MAC and a tag of so many bytes (RFC 4309).
    Ccm(u8),
    /// GCM's authentication alone: nothing is encrypted (RFC 4543).
    Gmac,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

/// One line for each cipher: its name in Rust, strongSwan's keyword, its transform id, the Key Length attribute in
/// bits if it carries one, the length of its key in bytes, its mode.
macro_rules! ciphers {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $iana:literal, $attribute:expr, $key:literal, $mode:expr;)*) => {
        /// An encryption algorithm with its key length (transform type 1).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Encryption {
            $($(#[$doc])* $name,)*
        }

        impl Encryption {
            /// Every cipher, in the enum's order.
            pub const ALL: [Self; [$($iana),*].len()] = [$(Self::$name),*];

            /// The transform id.
            pub const fn iana(self) -> u16 {
                match self { $(Self::$name => $iana,)* }
            }

            /// The value in bits of the Key Length attribute (RFC 7296 3.3.5), for ciphers that carry one.
            /// The salt is not counted.
            pub const fn key_length_attribute(self) -> Option<u16> {
                match self { $(Self::$name => $attribute,)* }
            }

            /// strongSwan's keyword.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Length of the key proper, in bytes.
            pub const fn key_len(self) -> usize {
                match self { $(Self::$name => $key,)* }
            }

            /// How it works.
            pub const fn mode(self) -> Mode {
                match self { $(Self::$name => $mode,)* }
            }
        }
    };
}

ciphers! {
    /// ENCR_3DES (RFC 2451). Weak.
    TripleDes = "3des", 3, None, 24, Mode::Cbc;
    /// ENCR_AES_CBC with a 128-bit key (RFC 3602).
    AesCbc128 = "aes128", 12, Some(128), 16, Mode::Cbc;
    /// ENCR_AES_CBC with a 192-bit key (RFC 3602).
    AesCbc192 = "aes192", 12, Some(192), 24, Mode::Cbc;
    /// ENCR_AES_CBC with a 256-bit key (RFC 3602).
    AesCbc256 = "aes256", 12, Some(256), 32, Mode::Cbc;
    /// ENCR_AES_CTR with a 128-bit key (RFC 3686, RFC 5930).
    AesCtr128 = "aes128ctr", 13, Some(128), 16, Mode::Ctr;
    /// ENCR_AES_CTR with a 192-bit key.
    AesCtr192 = "aes192ctr", 13, Some(192), 24, Mode::Ctr;
    /// ENCR_AES_CTR with a 256-bit key.
    AesCtr256 = "aes256ctr", 13, Some(256), 32, Mode::Ctr;
    /// ENCR_AES_CCM_8 with a 128-bit key (RFC 4309, RFC 5282).
    AesCcm8_128 = "aes128ccm8", 14, Some(128), 16, Mode::Ccm(8);
    /// ENCR_AES_CCM_8 with a 192-bit key.
    AesCcm8_192 = "aes192ccm8", 14, Some(192), 24, Mode::Ccm(8);
    /// ENCR_AES_CCM_8 with a 256-bit key.
    AesCcm8_256 = "aes256ccm8", 14, Some(256), 32, Mode::Ccm(8);
    /// ENCR_AES_CCM_12 with a 128-bit key.
    AesCcm12_128 = "aes128ccm12", 15, Some(128), 16, Mode::Ccm(12);
    /// ENCR_AES_CCM_12 with a 192-bit key.
    AesCcm12_192 = "aes192ccm12", 15, Some(192), 24, Mode::Ccm(12);
    /// ENCR_AES_CCM_12 with a 256-bit key.
    AesCcm12_256 = "aes256ccm12", 15, Some(256), 32, Mode::Ccm(12);
    /// ENCR_AES_CCM_16 with a 128-bit key.
    AesCcm16_128 = "aes128ccm16", 16, Some(128), 16, Mode::Ccm(16);
    /// ENCR_AES_CCM_16 with a 192-bit key.
    AesCcm16_192 = "aes192ccm16", 16, Some(192), 24, Mode::Ccm(16);
    /// ENCR_AES_CCM_16 with a 256-bit key.
    AesCcm16_256 = "aes256ccm16", 16, Some(256), 32, Mode::Ccm(16);
    /// ENCR_AES_GCM_8 with a 128-bit key (RFC 4106, RFC 5282).
    AesGcm8_128 = "aes128gcm8", 18, Some(128), 16, Mode::Gcm(8);
    /// ENCR_AES_GCM_8 with a 192-bit key.
    AesGcm8_192 = "aes192gcm8", 18, Some(192), 24, Mode::Gcm(8);
    /// ENCR_AES_GCM_8 with a 256-bit key.
    AesGcm8_256 = "aes256gcm8", 18, Some(256), 32, Mode::Gcm(8);
    /// ENCR_AES_GCM_12 with a 128-bit key.
    AesGcm12_128 = "aes128gcm12", 19, Some(128), 16, Mode::Gcm(12);
    /// ENCR_AES_GCM_12 with a 192-bit key.
    AesGcm12_192 = "aes192gcm12", 19, Some(192), 24, Mode::Gcm(12);
    /// ENCR_AES_GCM_12 with a 256-bit key.
    AesGcm12_256 = "aes256gcm12", 19, Some(256), 32, Mode::Gcm(12);
    /// ENCR_AES_GCM_16 with a 128-bit key (RFC 4106, RFC 5282).
    AesGcm128 = "aes128gcm16", 20, Some(128), 16, Mode::Gcm(16);
    /// ENCR_AES_GCM_16 with a 192-bit key.
    AesGcm192 = "aes192gcm16", 20, Some(192), 24, Mode::Gcm(16);
    /// ENCR_AES_GCM_16 with a 256-bit key (RFC 4106, RFC 5282).
    AesGcm256 = "aes256gcm16", 20, Some(256), 32, Mode::Gcm(16);
    /// ENCR_NULL_AUTH_AES_GMAC with a 128-bit key (RFC 4543): authenticated, not encrypted; ESP only.
    AesGmac128 = "aes128gmac", 21, Some(128), 16, Mode::Gmac;
    /// ENCR_NULL_AUTH_AES_GMAC with a 192-bit key.
    AesGmac192 = "aes192gmac", 21, Some(192), 24, Mode::Gmac;
    /// ENCR_NULL_AUTH_AES_GMAC with a 256-bit key.
    AesGmac256 = "aes256gmac", 21, Some(256), 32, Mode::Gmac;
    /// ENCR_CHACHA20_POLY1305 (RFC 7634), whose key length is fixed: the attribute must not be sent.
    ChaCha20Poly1305 = "chacha20poly1305", 28, None, 32, Mode::ChaCha20Poly1305;
}

impl Encryption {
    /// The cipher of a transform id and Key Length attribute, if it is one of ours. AES without the
    /// attribute is none: RFC 7296 3.3.5 makes it mandatory there.
    pub fn from_iana(id: u16, key_length: Option<u16>) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.iana() == id && e.key_length_attribute() == key_length)
    }

    /// Whether it authenticates too, so that no integrity algorithm goes with it.
    pub const fn is_aead(self) -> bool {
        !matches!(self.mode(), Mode::Cbc | Mode::Ctr)
    }

    /// Whether it may protect IKE's own messages: all but GMAC, which hides nothing (RFC 4543 is for ESP
    /// and AH).
    pub const fn serves_ike(self) -> bool {
        !matches!(self.mode(), Mode::Gmac)
    }

    /// Length of the salt taken from the key material after the key, in bytes (RFC 4106 8.1, RFC 4309 7.1,
    /// RFC 3686 5.1, RFC 4543 5.1, RFC 7634 2).
    pub const fn salt_len(self) -> usize {
        match self.mode() {
            Mode::Cbc => 0,
            Mode::Ccm(_) => 3,
            Mode::Ctr | Mode::Gcm(_) | Mode::Gmac | Mode::ChaCha20Poly1305 => 4,
        }
    }

    /// Length of the IV in the packet, in bytes.
    pub const fn iv_len(self) -> usize {
        match self.mode() {
            Mode::Cbc => self.block_len(),
            _ => 8,
        }
    }

    /// The cipher's block in bytes: the encrypted text is a multiple of it.
    pub const fn block_len(self) -> usize {
        match (self, self.mode()) {
            (Self::TripleDes, _) => 8,
            (_, Mode::Cbc) => 16,
            _ => 1,
        }
    }

    /// Length of the AEAD's tag in bytes; 0 for a cipher that has none.
    pub const fn tag_len(self) -> usize {
        match self.mode() {
            Mode::Cbc | Mode::Ctr => 0,
            Mode::Gcm(tag) | Mode::Ccm(tag) => tag as usize,
            Mode::Gmac | Mode::ChaCha20Poly1305 => 16,
        }
    }

    /// Why it should not be used any more, if so.
    pub const fn weakness(self) -> Option<Weakness> {
        match self {
            Self::TripleDes => Some(Weakness::new(
                "its 64-bit blocks repeat within hours of traffic (Sweet32), and it is slow (RFC 8221 5)",
                "aes128gcm16 or aes128-sha256",
            )),
            _ => None,
        }
    }
}
