//! RADIUS packets: what is sent, and what no answer may be taken for.

use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"xyzzy5461";
const AUTHENTICATOR: [u8; 16] = [7; 16];

fn request(eap: &[u8]) -> Vec<u8> {
    let request = AccessRequest {
        user: "joe",
        nas_identifier: "gw.example",
        nas_address: Some([192, 0, 2, 1].into()),
        calling_station: "203.0.113.5",
        state: b"state",
        eap,
    };
    request.encode(9, &AUTHENTICATOR, SECRET).unwrap()
}

/// What a server does: attributes, both authenticators.
fn answer(code: u8, attributes: &[(u8, Vec<u8>)], protect: bool) -> Vec<u8> {
    let mut out = vec![code, 9, 0, 0];
    out.extend_from_slice(&AUTHENTICATOR);
    let mut mac_at = None;
    for (kind, value) in attributes {
        attribute(&mut out, *kind, value).unwrap();
    }
    if protect {
        mac_at = Some(out.len() + 2);
        attribute(&mut out, MESSAGE_AUTHENTICATOR, &[0; 16]).unwrap();
    }
    let length = u16::try_from(out.len()).unwrap().to_be_bytes();
    out[2..4].copy_from_slice(&length);
    if let Some(at) = mac_at {
        let mac = hmac(SECRET, &[&out]);
        out[at..at + 16].copy_from_slice(&mac);
    }
    let proof = Hash::Md5.digest(&[&out, SECRET]);
    out[4..20].copy_from_slice(&proof);
    out
}

fn read(packet: &[u8]) -> Result<Answer, RadiusError> {
    Answer::read(packet, 9, &AUTHENTICATOR, SECRET)
}

fn encrypt(key: &[u8], salt: [u8; 2]) -> Vec<u8> {
    let mut plain = vec![u8::try_from(key.len()).unwrap()];
    plain.extend_from_slice(key);
    plain.resize(plain.len().next_multiple_of(16), 0);
    let mut out = salt.to_vec();
    let mut mask = Hash::Md5.digest(&[SECRET, &AUTHENTICATOR, &salt]);
    for block in plain.chunks(16) {
        let cipher: Vec<u8> = block.iter().zip(&mask).map(|(p, m)| p ^ m).collect();
        mask = Hash::Md5.digest(&[SECRET, &cipher]);
        out.extend(cipher);
    }
    out
}

fn mppe(kind: u8, key: &[u8]) -> (u8, Vec<u8>) {
    let value = encrypt(key, [0x80, kind]);
    let mut vendor = MICROSOFT.to_vec();
    vendor.extend_from_slice(&[kind, u8::try_from(value.len() + 2).unwrap()]);
    vendor.extend(value);
    (VENDOR_SPECIFIC, vendor)
}

#[test]
fn a_request_says_who_asks_and_is_authenticated_first_of_all() {
    let eap = vec![2; 600];
    let packet = request(&eap);
    assert_eq!(
        (packet[0], packet[1], usize::from(packet[2]) << 8 | usize::from(packet[3])),
        (1, 9, packet.len())
    );
    assert_eq!(packet[4..20], AUTHENTICATOR);
    assert_eq!(packet[20..22], [MESSAGE_AUTHENTICATOR, 18]);
    let mut zeroed = packet.clone();
    zeroed[22..38].fill(0);
    assert_eq!(packet[22..38], hmac(SECRET, &[&zeroed]));
    let all: Vec<_> = Attributes(&packet[20..]).into_iter().map(Result::unwrap).collect();
    let values = |wanted| all.iter().filter(move |(_, kind, _)| *kind == wanted).map(|(_, _, value)| *value);
    assert_eq!(values(EAP_MESSAGE).collect::<Vec<_>>().concat(), eap);
    assert_eq!(values(EAP_MESSAGE).count(), 3);
    assert_eq!(values(USER_NAME).next(), Some(&b"joe"[..]));
    assert_eq!(values(STATE).next(), Some(&b"state"[..]));
    let long = AccessRequest { eap: &[0; 5000], ..plain() };
    assert_eq!(long.encode(1, &AUTHENTICATOR, SECRET), Err(RadiusError::TooLong));
}

fn plain() -> AccessRequest<'static> {
    AccessRequest {
        user: "",
        nas_identifier: "",
        nas_address: None,
        calling_station: "",
        state: &[],
        eap: &[],
    }
}

#[test]
fn answers_are_read() {
    let challenge =
        answer(11, &[(EAP_MESSAGE, vec![1; 253]), (EAP_MESSAGE, vec![2; 9]), (STATE, vec![5; 4])], true);
    let got = read(&challenge).unwrap();
    assert_eq!((got.verdict, got.eap), (Verdict::Challenge(vec![5; 4]), [vec![1; 253], vec![2; 9]].concat()));
    let reject =
        answer(3, &[(REPLY_MESSAGE, b"not\x07 today".to_vec()), (EAP_MESSAGE, vec![4, 1, 0, 4])], true);
    let got = read(&reject).unwrap();
    assert_eq!((got.verdict, got.message.as_str()), (Verdict::Reject, "not today"));
    for length in [16, 32] {
        let (send, receive) = (vec![0x55; length], vec![0xaa; length]);
        let accept = answer(2, &[mppe(MS_MPPE_SEND_KEY, &send), mppe(MS_MPPE_RECV_KEY, &receive)], true);
        let Verdict::Accept(Some(msk)) = read(&accept).unwrap().verdict else { panic!() };
        assert_eq!(msk.len(), 64);
        assert_eq!(msk[..2 * length], [receive, send].concat());
        assert!(msk[2 * length..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(read(&answer(2, &[], true)).unwrap().verdict, Verdict::Accept(None));
    // Padding behind the packet is none of it.
    assert!(read(&[answer(2, &[], true), vec![9; 7]].concat()).is_ok());
}

/// Blast-RADIUS (CVE-2024-3596): who can forge the Response Authenticator forges nothing else.
#[test]
fn an_answer_without_a_message_authenticator_is_none() {
    for code in [2, 3, 11] {
        assert_eq!(
            read(&answer(code, &[(EAP_MESSAGE, vec![3, 1, 0, 4])], false)),
            Err(RadiusError::Unprotected)
        );
    }
    // The same with a wrong one under a good Response Authenticator.
    let mut forged = answer(2, &[], true);
    forged[22] ^= 1;
    forged[4..20].copy_from_slice(&AUTHENTICATOR);
    let proof = Hash::Md5.digest(&[&forged, SECRET]);
    forged[4..20].copy_from_slice(&proof);
    assert_eq!(read(&forged), Err(RadiusError::MessageAuthenticator));
}

#[test]
fn answers_to_something_else_are_none() {
    let good = answer(2, &[], true);
    assert_eq!(Answer::read(&good, 8, &AUTHENTICATOR, SECRET), Err(RadiusError::Stray));
    assert_eq!(Answer::read(&good, 9, &[8; 16], SECRET), Err(RadiusError::Authenticator));
    assert_eq!(Answer::read(&good, 9, &AUTHENTICATOR, b"other"), Err(RadiusError::Authenticator));
    assert_eq!(read(&answer(5, &[], true)), Err(RadiusError::Code(5)));
    assert_eq!(
        read(&answer(2, &[(VENDOR_SPECIFIC, [&MICROSOFT[..], &[17, 5, 1, 2, 3]].concat())], true)),
        Err(RadiusError::Key)
    );
}

proptest! {
    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes).is_err());
    }

    /// A good answer with any bit changed is none.
    #[test]
    fn a_changed_answer_is_refused(bit in 0..8_usize, at in any::<prop::sample::Index>()) {
        let mut packet = answer(2, &[(EAP_MESSAGE, vec![3, 1, 0, 4]), mppe(MS_MPPE_RECV_KEY, &[1; 32])], true);
        let at = at.index(packet.len());
        packet[at] ^= 1 << bit;
        prop_assert!(read(&packet).is_err());
    }

    /// Whatever stands in the attributes, reading ends, without a panic.
    #[test]
    fn any_attributes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut out = vec![2, 9, 0, 0];
        out.extend_from_slice(&AUTHENTICATOR);
        out.extend_from_slice(&bytes);
        let length = u16::try_from(out.len()).unwrap().to_be_bytes();
        out[2..4].copy_from_slice(&length);
        let proof = Hash::Md5.digest(&[&out, SECRET]);
        out[4..20].copy_from_slice(&proof);
        let _ = read(&out);
        let _ = Answer::read_proven(2, &bytes, &AUTHENTICATOR, SECRET);
    }
}
