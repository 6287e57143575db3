//! Reads what `swanctl --raw` prints: nested sections, lists and values, without quotes.

use serde_json::{Map, Value};

/// Reads one line such as `list-sa event {site {version=2 … child-sas {net-1 {local-ts=[10.1.0.0/24] …}}}}` into an
/// object of objects, lists and strings. `None` when it has no body or is cut short.
pub fn parse_line(line: &str) -> Option<Map<String, Value>> {
    let start = line.find('{')?;
    let mut rest = &line[start + 1..];
    section(&mut rest)
}

/// Reads up to the closing brace.
fn section(rest: &mut &str) -> Option<Map<String, Value>> {
    let mut map = Map::new();
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return Some(map);
        }
        let end = rest.find(['=', '{', '}'])?;
        let key = rest[..end].trim().to_owned();
        let kind = rest[end..].chars().next()?;
        *rest = &rest[end + 1..];
        let value = match kind {
            '{' => Value::Object(section(rest)?),
            '=' if rest.starts_with('[') => {
                let close = rest.find(']')?;
                let items =
                    rest[1..close].split_whitespace().map(|item| Value::String(item.to_owned())).collect();
                *rest = &rest[close + 1..];
                Value::Array(items)
            }
            '=' => {
                // A value ends at the next ` key=`, ` section {` or `}`: it may hold spaces itself.
                let close = rest.find('}')?;
                let end = value_end(&rest[..close]);
                let value = rest[..end].trim().to_owned();
                *rest = &rest[end..];
                Value::String(value)
            }
            _ => return None,
        };
        map.insert(key, value);
    }
}

/// Where a value ends: before the next ` key=` or ` section {`. Keys are in small letters, so that the attributes of a
/// distinguished name (`C=CH, CN=gw`) stay in its value.
fn value_end(text: &str) -> usize {
    let is_key = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    let mut position = 0;
    while let Some(space) = text[position..].find(' ').map(|at| at + position) {
        let next = &text[space + 1..];
        let end = next.find([' ', '=', '{']).unwrap_or(next.len());
        let opens = match next.as_bytes().get(end) {
            Some(b'=') => is_key(&next[..end]),
            Some(b'{') => true,
            Some(_) => next[end..].trim_start().starts_with('{'),
            None => false,
        };
        if opens {
            return space;
        }
        position = space + 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::parse_line;
    use serde_json::json;

    #[test]
    fn an_sa_is_read() {
        let line = "list-sa event {site {uniqueid=1 version=2 remote-id=C=CH, CN=gw nat-any=yes child-sas \
                    {net-1 {name=net spi-in=80081f38 local-ts=[10.1.0.0/24 fd01::/64] remote-ts=[10.2.0.0/24]}}}}";
        let expected = json!({"site": {
            "uniqueid": "1", "version": "2", "remote-id": "C=CH, CN=gw", "nat-any": "yes",
            "child-sas": {"net-1": {"name": "net", "spi-in": "80081f38",
                "local-ts": ["10.1.0.0/24", "fd01::/64"], "remote-ts": ["10.2.0.0/24"]}},
        }});
        assert_eq!(parse_line(line).map(serde_json::Value::Object), Some(expected));
    }

    #[test]
    fn empty_and_cut_answers() {
        assert_eq!(parse_line("list-sas reply {}").map(|m| m.len()), Some(0));
        assert_eq!(parse_line("list-sa event {site {version=2"), None);
        assert_eq!(parse_line(""), None);
    }
}
