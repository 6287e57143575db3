//! Keys, hashes and encryption of IKEv1 (RFC 2409 5, 5.5, appendix B).

use culvert_crypto::{CbcChain, Hash, Prf, Secret, SharedSecret, Suite, SuiteKeys, equal};

use crate::wire::WireError;
use crate::wire::v1::{Chain, HEADER_LEN, Header};
use crate::{IkeSuite, Psk};

/// What both sides sent in the first four messages.
#[derive(Clone, Copy)]
pub(crate) struct Public<'a> {
    pub(crate) cookie_i: u64,
    pub(crate) cookie_r: u64,
    pub(crate) ni: &'a [u8],
    pub(crate) nr: &'a [u8],
    pub(crate) gxi: &'a [u8],
    pub(crate) gxr: &'a [u8],
}

/// The keys of an ISAKMP SA. Zeroized when dropped.
pub(crate) struct Keys {
    prf: Prf,
    skeyid: Secret,
    /// Derives the keys of CHILD SAs.
    d: Secret,
    /// Authenticates the messages of phase 2.
    a: Secret,
    cipher: CbcChain,
    /// The IV of the next message of phase 1; after phase 1, what the IVs of phase 2 come from.
    iv: Vec<u8>,
}

/// The hash that was negotiated, over the parts. Every PRF of IKEv1 here is built on one.
pub(crate) fn digest(prf: Prf, parts: &[&[u8]]) -> Vec<u8> {
    prf.hash().unwrap_or(Hash::Sha256).digest(parts)
}

/// A message that was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the message is not encrypted")]
    NotEncrypted,
    #[error("the encrypted part is no multiple of the cipher's block")]
    Blocks,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// SKEYID with pre-shared keys: prf(key, Ni_b | Nr_b).
pub(crate) fn skeyid_psk(prf: Prf, psk: &Psk, public: &Public<'_>) -> Secret {
    prf.compute(psk.secret(), &[public.ni, public.nr])
}

/// SKEYID with signatures: prf(Ni_b | Nr_b, g^xy).
pub(crate) fn skeyid_signature(prf: Prf, shared: &SharedSecret, public: &Public<'_>) -> Secret {
    prf.compute(&Secret::new([public.ni, public.nr].concat()), &[shared])
}

impl Keys {
    pub(crate) fn derive(
        suite: &IkeSuite,
        skeyid: Secret,
        shared: &SharedSecret,
        public: &Public<'_>,
    ) -> Option<Self> {
        let prf = suite.prf;
        let (ci, cr) = (public.cookie_i.to_be_bytes(), public.cookie_r.to_be_bytes());
        let d = prf.compute(&skeyid, &[shared, &ci, &cr, &[0]]);
        let a = prf.compute(&skeyid, &[&d, shared, &ci, &cr, &[1]]);
        let e = prf.compute(&skeyid, &[&a, shared, &ci, &cr, &[2]]);
        let encryption = suite.protection.encryption();
        let key = cipher_key(prf, &e, encryption.key_len());
        let cipher = CbcChain::new(encryption, &key)?;
        // RFC 2409 appendix B: the first IV is the hash of both public values, cut to the block.
        let mut iv = digest(prf, &[public.gxi, public.gxr]);
        iv.truncate(cipher.block_len());
        Some(Self { prf, skeyid, d, a, cipher, iv })
    }

    /// HASH_I = prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b), and with the roles exchanged HASH_R.
    pub(crate) fn proof(&self, public: &Public<'_>, sa: &[u8], id: &[u8], of_initiator: bool) -> Secret {
        let (ci, cr) = (public.cookie_i.to_be_bytes(), public.cookie_r.to_be_bytes());
        if of_initiator {
            self.prf.compute(&self.skeyid, &[public.gxi, public.gxr, &ci, &cr, sa, id])
        } else {
            self.prf.compute(&self.skeyid, &[public.gxr, public.gxi, &cr, &ci, sa, id])
        }
    }

    /// The hashes of phase 2: prf(SKEYID_a, M-ID | parts).
    pub(crate) fn hash(&self, message_id: u32, parts: &[&[u8]]) -> Secret {
        let id = message_id.to_be_bytes();
        let mut all: Vec<&[u8]> = vec![&id];
        all.extend_from_slice(parts);
        self.prf.compute(&self.a, &all)
    }

    /// HASH(3) of quick mode: prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b).
    pub(crate) fn hash_3(&self, message_id: u32, ni: &[u8], nr: &[u8]) -> Secret {
        self.prf.compute(&self.a, &[&[0], &message_id.to_be_bytes(), ni, nr])
    }

    /// Whether a hash that came is the one that belongs there.
    pub(crate) fn hash_fits(&self, message_id: u32, parts: &[&[u8]], got: &[u8]) -> bool {
        equal(&self.hash(message_id, parts), got)
    }

    /// The keys of one direction of a CHILD SA (RFC 2409 5.5): the SPI is that of the packets' receiver.
    pub(crate) fn child(
        &self,
        suite: Suite,
        protocol: u8,
        spi: [u8; 4],
        shared: Option<&SharedSecret>,
        (ni, nr): (&[u8], &[u8]),
    ) -> SuiteKeys {
        let (e, a) = (suite.encryption_key_len(), suite.integrity_key_len());
        let shared: &[u8] = shared.map_or(&[], |s| s);
        let mut out = Vec::with_capacity(e + a + 64);
        let mut block = Secret::new(Vec::new());
        // K1 = prf(SKEYID_d, seed), Kn = prf(SKEYID_d, Kn-1 | seed)
        while out.len() < e + a {
            block = self.prf.compute(&self.d, &[&block, shared, &[protocol], &spi, ni, nr]);
            out.extend_from_slice(&block);
        }
        let out = Secret::new(out);
        SuiteKeys::new(out.get(..e).unwrap_or_default(), out.get(e..e + a).unwrap_or_default())
    }

    /// The IV of the first message of an exchange of phase 2: hash(last block of phase 1 | M-ID).
    pub(crate) fn iv(&self, message_id: u32) -> Vec<u8> {
        let mut iv = digest(self.prf, &[&self.iv, &message_id.to_be_bytes()]);
        iv.truncate(self.cipher.block_len());
        iv
    }

    /// An encrypted message, and the IV of the one after it.
    pub(crate) fn seal(&self, iv: &[u8], header: &Header, chain: &Chain) -> (Vec<u8>, Vec<u8>) {
        let block = self.cipher.block_len();
        let text_len = chain.bytes().len().next_multiple_of(block);
        let length = HEADER_LEN + text_len;
        let mut header = Header { next: chain.first(), ..*header };
        header.flags.encrypted = true;
        let mut out = header.encode(length).to_vec();
        out.extend_from_slice(chain.bytes());
        out.resize(length, 0);
        let (_, text) = out.split_at_mut(HEADER_LEN);
        self.cipher.encrypt(iv, text).expect("the text is whole blocks and the IV the cipher's");
        let next = text.last_chunk_of(block).unwrap_or(iv).to_vec();
        (out, next)
    }

    /// The text of an encrypted message, and the IV of the one after it: to be kept only if the text makes sense.
    pub(crate) fn open(
        &self,
        iv: &[u8],
        header: &Header,
        message: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), OpenError> {
        if !header.flags.encrypted {
            return Err(OpenError::NotEncrypted);
        }
        let mut text = message.get(HEADER_LEN..).unwrap_or_default().to_vec();
        let next = text.last_chunk_of(self.cipher.block_len()).ok_or(OpenError::Blocks)?.to_vec();
        self.cipher.decrypt(iv, &mut text).map_err(|_| OpenError::Blocks)?;
        Ok((text, next))
    }

    /// As [`seal`](Self::seal), in phase 1.
    pub(crate) fn seal_phase1(&mut self, header: &Header, chain: &Chain) -> Vec<u8> {
        let (message, next) = self.seal(&self.iv, header, chain);
        self.iv = next;
        message
    }

    /// As [`open`](Self::open), in phase 1; [`accept_phase1`](Self::accept_phase1) goes on from there.
    pub(crate) fn open_phase1(
        &self,
        header: &Header,
        message: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), OpenError> {
        self.open(&self.iv, header, message)
    }

    /// The message was the peer's: its last block is the next IV.
    pub(crate) fn accept_phase1(&mut self, next: Vec<u8>) {
        self.iv = next;
    }
}

/// RFC 2409 appendix B: SKEYID_e where it is long enough, and otherwise K1 | K2 | ..., K1 = prf(SKEYID_e, 0).
fn cipher_key(prf: Prf, e: &Secret, length: usize) -> Secret {
    if let Some(key) = e.get(..length) {
        return Secret::from(key);
    }
    let mut out = Vec::with_capacity(length + 64);
    let mut block = Secret::new(vec![0]);
    while out.len() < length {
        block = prf.compute(e, &[&block]);
        out.extend_from_slice(&block);
    }
    let out = Secret::new(out);
    Secret::from(out.get(..length).unwrap_or_default())
}

/// The last bytes of a slice.
trait LastChunk {
    fn last_chunk_of(&self, length: usize) -> Option<&[u8]>;
}

impl LastChunk for [u8] {
    fn last_chunk_of(&self, length: usize) -> Option<&[u8]> {
        self.len().checked_sub(length).and_then(|at| self.get(at..)).filter(|_| !self.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1::{Exchange, Flags, Payload};
    use culvert_crypto::{DhGroup, Encryption, Integrity};

    const PUBLIC: Public<'static> =
        Public { cookie_i: 1, cookie_r: 2, ni: &[3; 16], nr: &[4; 16], gxi: &[5; 256], gxr: &[6; 256] };

    fn suite(encryption: Encryption, integrity: Integrity, prf: Prf) -> IkeSuite {
        IkeSuite {
            protection: Suite::new(encryption, Some(integrity)).unwrap(),
            prf,
            group: DhGroup::Modp2048,
            additional: Default::default(),
        }
    }

    fn keys(suite: &IkeSuite) -> Keys {
        let psk = Psk::new("key").unwrap();
        let skeyid = skeyid_psk(suite.prf, &psk, &PUBLIC);
        Keys::derive(suite, skeyid, &Secret::from(&[7; 256][..]), &PUBLIC).unwrap()
    }

    fn header() -> Header {
        let flags = Flags::default();
        Header { cookie_i: 1, cookie_r: 2, next: 0, exchange: Exchange::Quick, flags, message_id: 9 }
    }

    /// RFC 2409 5 put together by hand from the PRF alone.
    #[test]
    fn keys_are_those_of_rfc_2409() {
        let prf = Prf::HmacSha256;
        let k = keys(&suite(Encryption::AesCbc256, Integrity::HmacSha256_128, prf));
        let hmac = |key: &[u8], data: &[u8]| prf.compute(key, &[data]).to_vec();
        let cookies = [&1u64.to_be_bytes()[..], &2u64.to_be_bytes()].concat();
        let skeyid = hmac(b"key", &[[3; 16], [4; 16]].concat());
        let d = hmac(&skeyid, &[&[7; 256][..], &cookies, &[0]].concat());
        let a = hmac(&skeyid, &[&d[..], &[7; 256], &cookies, &[1]].concat());
        let e = hmac(&skeyid, &[&a[..], &[7; 256], &cookies, &[2]].concat());
        assert_eq!((&k.skeyid[..], &k.d[..], &k.a[..]), (&skeyid[..], &d[..], &a[..]));
        // 32 bytes of SKEYID_e are the key: what it encrypts tells.
        let mut text = [0; 16];
        CbcChain::new(Encryption::AesCbc256, &e).unwrap().encrypt(&k.iv, &mut text).unwrap();
        let mut ours = [0; 16];
        k.cipher.encrypt(&k.iv, &mut ours).unwrap();
        assert_eq!(ours, text);
        assert_eq!(k.iv, digest(prf, &[&[5; 256], &[6; 256]])[..16]);
        assert_eq!(k.iv(9), digest(prf, &[&k.iv, &[0, 0, 0, 9]])[..16]);
        let reversed = [cookies[8..].to_vec(), cookies[..8].to_vec()].concat();
        let hash_i = hmac(&skeyid, &[&[5; 256][..], &[6; 256], &cookies, b"sa", b"id"].concat());
        let hash_r = hmac(&skeyid, &[&[6; 256][..], &[5; 256], &reversed, b"sa", b"id"].concat());
        assert_eq!(k.proof(&PUBLIC, b"sa", b"id", true)[..], hash_i);
        assert_eq!(k.proof(&PUBLIC, b"sa", b"id", false)[..], hash_r);
        assert_eq!(k.hash(9, &[b"rest"])[..], hmac(&a, b"\0\0\0\x09rest"));
        assert_eq!(k.hash_3(9, b"ni", b"nr")[..], hmac(&a, b"\0\0\0\0\x09ninr"));
    }

    /// A key longer than SKEYID_e: K1 = prf(SKEYID_e, 0), K2 = prf(SKEYID_e, K1).
    #[test]
    fn a_short_seed_is_stretched() {
        let e = Secret::from(&[8; 20][..]);
        let k1 = Prf::HmacSha1.compute(&e, &[&[0]]);
        let k2 = Prf::HmacSha1.compute(&e, &[&k1]);
        assert_eq!(cipher_key(Prf::HmacSha1, &e, 32)[..], [&k1[..], &k2].concat()[..32]);
        assert_eq!(cipher_key(Prf::HmacSha1, &e, 16)[..], e[..16]);
    }

    #[test]
    fn child_keys_chain_over_protocol_spi_and_nonces() {
        let k = keys(&suite(Encryption::AesCbc128, Integrity::HmacSha1_96, Prf::HmacSha1));
        let shared = Secret::from(&[9; 32][..]);
        for suite in Suite::all() {
            for shared in [None, Some(&shared)] {
                let got = k.child(suite, 3, [1, 2, 3, 4], shared, (b"ni", b"nr"));
                let seed = [shared.map_or(&[][..], |s| s), &[3, 1, 2, 3, 4], b"ni", b"nr"].concat();
                let mut all = Vec::new();
                let mut last = Vec::new();
                while all.len() < 160 {
                    last = Prf::HmacSha1.compute(&k.d, &[&last, &seed]).to_vec();
                    all.extend_from_slice(&last);
                }
                let want = &all[..suite.encryption_key_len() + suite.integrity_key_len()];
                assert_eq!([got.encryption(), got.integrity()].concat(), want, "{suite}");
            }
        }
    }

    #[test]
    fn messages_chain_their_ivs() {
        let k = keys(&suite(Encryption::AesCbc128, Integrity::HmacSha1_96, Prf::HmacSha1));
        let mut chain = Chain::new();
        chain.push(&Payload::Nonce(&[1; 17]));
        let (one, iv) = k.seal(&k.iv(9), &header(), &chain);
        let (two, _) = k.seal(&iv, &header(), &chain);
        assert_ne!(one, two);
        let (parsed, whole) = Header::parse(&one).unwrap();
        assert!(parsed.flags.encrypted);
        let (text, next) = k.open(&k.iv(9), &parsed, whole).unwrap();
        assert_eq!(next, iv);
        assert_eq!(&text[..21], chain.bytes());
        assert_eq!(&k.open(&next, &parsed, &two).unwrap().0[..21], chain.bytes());
        assert_ne!(&k.open(&k.iv(9), &parsed, &two).unwrap().0[..16], &chain.bytes()[..16]);
        assert_eq!(k.open(&next, &parsed, &two[..27]).err(), Some(OpenError::Blocks));
        assert_eq!(k.open(&next, &parsed, &two[..28]).err(), Some(OpenError::Blocks));
        assert_eq!(k.open(&next, &header(), &two).err(), Some(OpenError::NotEncrypted));
    }
}
