//! Cookies (RFC 7296 2.6): a stranger leaves IKE SAs half open at the responder, whereupon it asks the next initiator to
//! prove its address.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::Namespace;
use culvert_lab::topology::{WAN_A, WAN_B};
use culvert_tests::matrix::Cell;
use culvert_tests::{Initiator, Pair};

pub(crate) fn row(theme: &str) -> Cell {
    Cell::new(theme, "cookies_under_load", "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
        // strongSwan asks from one half-open IKE SA on; Culvert from the third of an address.
        .charon("cookie_threshold", "1")
        // Before the sums at the end are compared, the strangers are gone.
        .charon("half_open_timeout", "3")
        .then("strangers leave the responder with half-open IKE SAs, and the tunnel is set up anew", |pair| {
            let culvert_initiates = pair.case.initiator == Initiator::Culvert;
            let Pair { culvert, swan, site, .. } = &*pair;
            // Gateway A initiates; the strangers have its address.
            half_open(&site.gateway_a, if culvert_initiates { 1 } else { 3 })?;
            let told = swan.log_len();
            if culvert_initiates {
                culvert.cli(&["down", "site"])?;
                culvert.cli(&["up", "site"])?;
            } else {
                swan.terminate("site")?;
                swan.initiate("net")?;
            }
            culvert.wait_site()?;
            let said = swan.log_since(told);
            let asks = if culvert_initiates {
                "generating IKE_SA_INIT response 0"
            } else {
                "parsed IKE_SA_INIT response 0"
            };
            let asked = said.lines().any(|line| line.contains(asks) && line.contains("N(COOKIE)"));
            ensure!(asked, "nobody was asked for a cookie:\n{said}");
            Ok(())
        })
}

/// Opens so many IKE SAs from other ports of this gateway, each answered, and goes no further.
fn half_open(from: &Namespace, count: u8) -> Result<()> {
    from.within(|| -> Result<()> {
        for number in 1..=count {
            let socket = UdpSocket::bind((WAN_A, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send_to(&ike_sa_init(number), (WAN_B, 500))?;
            let mut answer = [0; 2000];
            let (length, _) =
                socket.recv_from(&mut answer).context("no answer to the stranger's IKE_SA_INIT")?;
            // The responder's SPI is there: it has made an IKE SA.
            ensure!(
                length > 28 && answer[8..16] != [0; 8],
                "the stranger was refused: {:?}",
                &answer[..length]
            );
        }
        Ok(())
    })?
}

/// An IKE_SA_INIT request of the row's proposal; its public value is the generator of P-256 (FIPS 186-4 D.1.2.3).
fn ike_sa_init(number: u8) -> Vec<u8> {
    const GENERATOR: [u8; 64] = [
        0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
        0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3,
        0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33,
        0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
    ];
    let mut body = vec![
        // SA: one proposal of three transforms: AES-GCM-16 with 128 bits, HMAC-SHA-256, P-256.
        34, 0, 0, 40, 0, 0, 0, 36, 1, 1, 0, 3, 3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 0, 128, 3, 0, 0, 8, 2, 0,
        0, 5, 0, 0, 0, 8, 4, 0, 0, 19, // KE.
        40, 0, 0, 72, 0, 19, 0, 0,
    ];
    body.extend_from_slice(&GENERATOR);
    // Nonce.
    body.extend_from_slice(&[0, 0, 0, 36]);
    body.extend_from_slice(&[number; 32]);
    let mut message = vec![number; 8];
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[33, 0x20, 34, 0x08, 0, 0, 0, 0]);
    message.extend_from_slice(&u32::try_from(body.len() + 28).unwrap_or_default().to_be_bytes());
    message.extend_from_slice(&body);
    message
}
