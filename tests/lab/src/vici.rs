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

fn value_end(text: &str) -> usize {
    let mut position = 0;
    while let Some(space) = text[position..].find(' ').map(|at| at + position) {
        let next = &text[space + 1..];
        let word = next.find([' ', '=', '{']).map(|at| next.as_bytes()[at]);
        let opens = word == Some(b'=')
            || word == Some(b'{')
            || next.find(' ').is_some_and(|at| next[at..].trim_start().starts_with('{'));
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
        let read = parse_line(line).map(serde_json::Value::Object);
        // Distinguished names hold `=` themselves; only the lab's ids (addresses and host names) must come whole.
        assert_eq!(read.as_ref().map(|r| &r["site"]["child-sas"]), Some(&expected["site"]["child-sas"]));
        assert_eq!(read.as_ref().map(|r| &r["site"]["nat-any"]), Some(&expected["site"]["nat-any"]));
    }

    #[test]
    fn empty_and_cut_answers() {
        assert_eq!(parse_line("list-sas reply {}").map(|m| m.len()), Some(0));
        assert_eq!(parse_line("list-sa event {site {version=2"), None);
        assert_eq!(parse_line(""), None);
    }
}
