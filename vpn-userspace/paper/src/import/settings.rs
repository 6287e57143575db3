//! strongSwan's configuration language: nested sections of keys and values, with the lines where they stand.

use super::ImportError;

/// Sections within sections; strongSwan's own have four.
const DEEPEST: usize = 16;

/// A key with its value, or a section with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Section(Vec<Entry>),
}

impl Entry {
    /// What the section holds; nothing of a value.
    pub(super) fn section(&self) -> &[Entry] {
        match &self.value {
            Value::Section(entries) => entries,
            Value::Text(_) => &[],
        }
    }

    /// The value; `None` of a section.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Section(_) => None,
        }
    }
}

struct Scanner<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    fn skip_comment(&mut self) {
        while self.rest.peek().is_some_and(|c| *c != '\n') {
            self.next();
        }
    }

    /// Up to the end of the line, a comment or a bracket; what stands in quotes as it is.
    fn value(&mut self) -> Result<String, ImportError> {
        let mut text = String::new();
        // Spaces at the end count only inside quotes.
        let mut kept = 0;
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '\n' | '#' | '}' | '{' => break,
                '"' => {
                    let begun = self.line;
                    self.next();
                    loop {
                        match self.next() {
                            Some('"') => break,
                            Some('\\') => match self.next() {
                                Some('n') => text.push('\n'),
                                Some('t') => text.push('\t'),
                                Some('r') => text.push('\r'),
                                Some('\n') => {}
                                Some(other) => text.push(other),
                                None => {}
                            },
                            Some(other) => text.push(other),
                            None => {
                                let what = "a quotation mark that opens and does not close".to_owned();
                                return Err(ImportError::Syntax { line: begun, what });
                            }
                        }
                    }
                    kept = text.len();
                }
                c if c.is_whitespace() => {
                    self.next();
                    if !text.is_empty() {
                        text.push(' ');
                    }
                }
                c => {
                    self.next();
                    text.push(c);
                    kept = text.len();
                }
            }
        }
        text.truncate(kept);
        Ok(text)
    }
}

/// The whole of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, ImportError> {
    let mut scanner = Scanner { rest: text.chars().peekable(), line: 1 };
    // The sections that are open, outermost first, each with the name and line that it will have.
    let mut open: Vec<(String, usize, Vec<Entry>)> = vec![(String::new(), 0, Vec::new())];
    let mut key = String::new();
    let mut begun = 1;
    while let Some(c) = scanner.rest.peek().copied() {
        match c {
            '#' => scanner.skip_comment(),
            '{' => {
                scanner.next();
                // `name : template {` takes the template's values, which are not looked up.
                let name = key.split(':').next().unwrap_or_default().trim().to_owned();
                key.clear();
                if open.len() > DEEPEST {
                    let what = format!("more than {DEEPEST} sections within each other");
                    return Err(ImportError::Syntax { line: scanner.line, what });
                }
                open.push((name, begun, Vec::new()));
            }
            '}' => {
                scanner.next();
                key.clear();
                let Some((name, line, entries)) = (open.len() > 1).then(|| open.pop()).flatten() else {
                    let what = "a bracket that closes and was not opened".to_owned();
                    return Err(ImportError::Syntax { line: scanner.line, what });
                };
                if let Some((_, _, outer)) = open.last_mut() {
                    outer.push(Entry { key: name, line, value: Value::Section(entries) });
                }
            }
            '=' => {
                scanner.next();
                let value = Value::Text(scanner.value()?);
                let entry = Entry { key: key.trim().to_owned(), line: begun, value };
                key.clear();
                if let Some((_, _, entries)) = open.last_mut() {
                    entries.push(entry);
                }
            }
            c if c.is_whitespace() => {
                scanner.next();
                if key.trim_start().starts_with("include") && c == '\n' {
                    let entry = Entry {
                        key: "include".to_owned(),
                        line: begun,
                        value: Value::Text(key.trim().trim_start_matches("include").trim().to_owned()),
                    };
                    key.clear();
                    if let Some((_, _, entries)) = open.last_mut() {
                        entries.push(entry);
                    }
                }
                if !key.is_empty() {
                    key.push(' ');
                }
            }
            c => {
                if key.is_empty() {
                    begun = scanner.line;
                }
                scanner.next();
                key.push(c);
            }
        }
    }
    match (open.len(), open.pop()) {
        (1, Some((_, _, entries))) => Ok(entries),
        (_, Some((name, line, _))) => {
            Err(ImportError::Syntax { line, what: format!("section `{name}` opens and does not close") })
        }
        (_, None) => Ok(Vec::new()),
    }
}

/// A time as strongSwan writes it, in seconds: `4h`, `30m`, `90`, `1d`.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().ok()?;
    let unit = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A key as secrets write it: `0x` and hexadecimal, `0s` and Base64, or as it is.
pub(super) fn secret(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("0x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| *c != '_')
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()?;
        return (digits.len().is_multiple_of(2))
            .then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect());
    }
    let Some(base64) = text.strip_prefix("0s") else { return Some(text.as_bytes().to_vec()) };
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for c in base64.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_read() {
        let text = "a { b = 1 # one\n c : t { d = \"x \\\" # }\" y } }\ninclude conf.d/*\ne=";
        let all = parse(text).unwrap();
        assert_eq!(
            all.iter().map(|e| (e.key.as_str(), e.line)).collect::<Vec<_>>(),
            [("a", 1), ("include", 3), ("e", 4)]
        );
        assert_eq!(all[0].section()[0].text(), Some("1"));
        assert_eq!(all[0].section()[1].section()[0].text(), Some("x \" # } y"));
        for (bad, line) in [("a {\n", 1), ("}\n", 1), ("a = \"\n", 1), ("\n\na { b {", 3)] {
            assert!(matches!(parse(bad), Err(ImportError::Syntax { line: l, .. }) if l == line), "{bad:?}");
        }
        assert!(parse(&"a{".repeat(1000)).is_err());
    }

    #[test]
    fn times_and_secrets_are_read() {
        assert_eq!(seconds("4h"), Some(14_400));
        assert_eq!(seconds("90"), Some(90));
        assert_eq!(seconds("99999999999999999999d"), None);
        assert_eq!(seconds("h"), None);
        assert_eq!(secret("0x6b6579").unwrap(), b"key");
        assert_eq!(secret("0sa2V5").unwrap(), b"key");
        assert_eq!(secret("0sa2V5MQ==").unwrap(), b"key1");
        assert_eq!(secret("plain").unwrap(), b"plain");
        assert!(secret("0x6").is_none() && secret("0s!").is_none());
    }
}
