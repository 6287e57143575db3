//! DER (X.690), written and read: tag, length, content.

/// A value of a tag.
pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(len) if len < 0x80 => out.push(len),
        _ => {
            let bytes = content.len().to_be_bytes();
            let start = bytes.iter().take_while(|b| **b == 0).count();
            let bytes = bytes.get(start..).unwrap_or_default();
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of encoded values.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

/// SET of one encoded value.
pub(crate) fn set(part: &[u8]) -> Vec<u8> {
    value(0x31, part)
}

/// OBJECT IDENTIFIER from its encoded content.
pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    value(6, content)
}

/// INTEGER, not negative, from big-endian bytes.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    let bytes = bytes.get(zeros..).unwrap_or_default();
    match bytes.first() {
        None => value(2, &[0]),
        Some(first) if *first >= 0x80 => value(2, &[&[0], bytes].concat()),
        Some(_) => value(2, bytes),
    }
}

/// OCTET STRING.
pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    value(4, content)
}

/// BIT STRING of whole bytes.
pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    value(3, &[&[0], content].concat())
}

/// A time of RFC 5280 4.1.2.5: UTCTime until 2049, then GeneralizedTime.
pub(crate) fn time(unix: u64) -> Vec<u8> {
    let (year, month, day, hour, minute, second) = crate::civil(unix);
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if year < 2050 {
        value(0x17, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        value(0x18, format!("{year:04}{rest}").as_bytes())
    }
}

/// Reads DER, value after value; refuses lengths that are not the shortest (X.690 10.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(der: &'a [u8]) -> Self {
        Self(der)
    }

    /// The tag of the next value.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value: its tag and content.
    pub(crate) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
                let shortest = length >= 0x80 && bytes.first() != Some(&0);
                (shortest.then_some(length)?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next value, if it has this tag; otherwise it stays.
    pub(crate) fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.whole(tag).map(|(content, _)| content)
    }

    /// The same, and the value with its tag and length.
    pub(crate) fn whole(&mut self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        if self.peek() != Some(tag) {
            return None;
        }
        let before = self.0;
        let (_, content) = self.any()?;
        Some((content, before.get(..before.len() - self.0.len())?))
    }

    /// The inside of the next value, if it has this tag.
    pub(crate) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.next(tag).map(Self)
    }

    /// The inside of the only value.
    pub(crate) fn only(mut self, tag: u8) -> Option<Self> {
        let inside = self.enter(tag)?;
        self.0.is_empty().then_some(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers_are_the_shortest() {
        assert_eq!(value(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(value(4, &[7; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(value(4, &[7; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(value(4, &[7; 0x100])[..4], [4, 0x82, 1, 0]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(time(2_524_607_999), *b"\x17\x0d491231235959Z");
        assert_eq!(time(2_524_608_000), *b"\x18\x0f20500101000000Z");
    }
}
