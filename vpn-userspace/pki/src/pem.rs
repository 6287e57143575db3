//! PEM (RFC 7468): blocks of base64 between two lines.

/// A PEM file that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No block of the label.
    #[error("holds no {0} in PEM")]
    None(&'static str),
    /// A block whose content is no base64.
    #[error("holds a {0} that cannot be read")]
    Unreadable(&'static str),
}

/// The blocks of a PEM file: label, and the text between the two lines.
pub fn blocks(pem: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let mut rest = pem;
    std::iter::from_fn(move || {
        let begin = find(rest, b"-----BEGIN ")?;
        let after = rest.get(begin + 11..)?;
        let label = after.get(..find(after, b"-----")?)?;
        let body = after.get(label.len() + 5..)?;
        let end = find(body, b"-----END ")?;
        rest = body.get(end..)?;
        Some((std::str::from_utf8(label).ok()?, body.get(..end)?))
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// Base64 with line breaks (RFC 4648 4), read strictly.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0u32, 0u32, 0u32);
    for byte in text.iter().filter(|b| !b.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            out.extend_from_slice(bits.to_be_bytes().get(1..)?);
            (bits, count) = (0, 0);
        }
    }
    match (count, padding) {
        (0, 0) => {}
        (2, 2) => out.push(u8::try_from(bits >> 4 & 0xff).ok()?),
        (3, 1) => out.extend_from_slice((bits >> 2 & 0xffff).to_be_bytes().get(2..)?),
        _ => return None,
    }
    Some(out)
}

/// A block of PEM, with a line break at its end.
pub fn encode(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let mut bytes = [0; 4];
            bytes.iter_mut().skip(1).zip(group).for_each(|(to, from)| *to = *from);
            let bits = u32::from_be_bytes(bytes);
            for place in 0..4 {
                let digit = (bits >> (18 - 6 * place) & 63) as usize;
                let letter = ALPHABET.get(digit).filter(|_| place <= group.len());
                text.push(letter.map_or('=', |l| char::from(*l)));
            }
        }
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_strictly() {
        for (text, want) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9v\nYmFy\r\n", Some("foobar")),
            ("Zg", None),
            ("Zg=", None),
            ("Zg==Zg==", None),
            ("Z!==", None),
            ("Zm9vY", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), want.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for len in [0, 1, 2, 3, 47, 48, 49, 200] {
            let der: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let text = [encode("A", &der), encode("B C", &der)].concat();
            let read: Vec<_> = blocks(text.as_bytes()).collect();
            assert_eq!(read.len(), 2);
            assert_eq!((read[0].0, read[1].0), ("A", "B C"));
            assert!(read.iter().all(|(_, body)| decode(body).unwrap() == der));
            assert!(text.lines().all(|line| line.len() <= 64));
        }
    }
}
