//! Hides secrets that an operator wrote into the main file, before any of it is shown in an error.

/// Keys whose values are secrets. A key that ends in `_file` names a file and is shown.
const SECRET_WORDS: [&str; 8] =
    ["psk", "secret", "password", "passphrase", "passwd", "preshared", "pre_shared", "private_key"];

/// The text with the values of secret keys replaced by `*`, every line and byte offset as before.
pub(crate) fn mask(text: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (before, after) = rest.split_at(at + 1);
        out.extend_from_slice(before.as_bytes());
        rest = after;
        if is_secret(before) {
            let blank = after.len() - after.trim_start_matches([' ', '\t']).len();
            let (hidden, tail) = after.split_at(value_len(after));
            out.extend(hidden.bytes().enumerate().map(|(at, byte)| match byte {
                b'\n' | b'\r' => byte,
                _ if at < blank => byte,
                _ => b'*',
            }));
            rest = tail;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    // Whole characters became as many stars as they had bytes, so this is UTF-8 still.
    String::from_utf8(out).unwrap_or_default()
}

/// Whether the text before a `=` ends in a secret key.
fn is_secret(before: &str) -> bool {
    let key = before.trim_end_matches('=').trim_end().trim_end_matches(['"', '\'']);
    let start = key
        .char_indices()
        .rev()
        .take_while(|(_, c)| c.is_alphanumeric() || matches!(c, '_' | '-'))
        .last()
        .map_or(key.len(), |(at, _)| at);
    let key = key.get(start..).unwrap_or_default().to_ascii_lowercase().replace('-', "_");
    !key.ends_with("_file") && SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// How far a value may reach: to the end of its multi-line string, or of the line.
fn value_len(after: &str) -> usize {
    let value = after.trim_start_matches([' ', '\t']);
    let lead = after.len() - value.len();
    for quote in ["\"\"\"", "'''"] {
        if let Some(inner) = value.strip_prefix(quote) {
            return inner.find(quote).map_or(after.len(), |end| lead + 3 + end + 3);
        }
    }
    after.find('\n').unwrap_or(after.len())
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn secrets_become_stars_and_nothing_moves() {
        let cases = [
            ("psk = \"hunter2\"\nmtu = 1400\n", "psk = *********\nmtu = 1400\n"),
            ("a = 1\npsk='x'", "a = 1\npsk=***"),
            ("t = { psk = \"hun ter\" }\nx=1", "t = { psk = ***********\nx=1"),
            ("\"pre-shared-key\" = 'ü'\n", "\"pre-shared-key\" = ****\n"),
            ("psk_file = \"secrets/a.psk\"\n", "psk_file = \"secrets/a.psk\"\n"),
            ("password = '''a\nb'''\nc = 1", "password = ****\n****\nc = 1"),
            ("Secret = \"\"\"never closed\nb = 1", "Secret = ***************\n*****"),
            ("# psk = old\n", "# psk = ***\n"),
            ("eap.password=\"p\"", "eap.password=***"),
        ];
        for (text, want) in cases {
            assert_eq!(mask(text), want);
            assert_eq!(mask(text).len(), text.len());
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_keeps_its_length(text in "(psk|secret|[a-z]{0,3}|=|'''|\"\"\"|\n|ü| ){0,30}") {
            proptest::prop_assert_eq!(mask(&text).len(), text.len());
        }
    }
}
