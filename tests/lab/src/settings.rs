//! strongSwan's configuration language: nested sections of keys and values, made from dotted paths.

use std::fmt::Write as _;

/// A tree of settings that keeps the order in which sections and keys were first named: strongSwan tries connections
/// and children in that order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<(String, Node)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Value(String),
    Section(Settings),
}

impl Settings {
    /// No settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `connections.site.version` and the like. An empty value takes the key away, or the whole section.
    pub fn set(&mut self, path: &str, value: impl Into<String>) {
        let value = value.into();
        match path.split_once('.') {
            Some((section, rest)) => self.section(section).set(rest, value),
            None => {
                let at = self.entries.iter().position(|(name, _)| name == path);
                match (at, value.is_empty()) {
                    (Some(at), true) => drop(self.entries.remove(at)),
                    (None, true) => {}
                    (Some(at), false) => self.entries[at].1 = Node::Value(value),
                    (None, false) => self.entries.push((path.to_owned(), Node::Value(value))),
                }
            }
        }
    }

    fn section(&mut self, name: &str) -> &mut Self {
        let at = self.entries.iter().position(|(key, _)| key == name).unwrap_or_else(|| {
            self.entries.push((name.to_owned(), Node::Section(Self::new())));
            self.entries.len() - 1
        });
        let node = &mut self.entries[at].1;
        if let Node::Value(_) = node {
            *node = Node::Section(Self::new());
        }
        match node {
            Node::Section(section) => section,
            Node::Value(_) => unreachable!("it was made a section above"),
        }
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        for (name, node) in &self.entries {
            match node {
                Node::Value(value) => {
                    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                    let _ = writeln!(out, "{indent}{name} = \"{escaped}\"");
                }
                Node::Section(section) => {
                    let _ = writeln!(out, "{indent}{name} {{");
                    section.write(out, depth + 1);
                    let _ = writeln!(out, "{indent}}}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn paths_become_sections() {
        let mut settings = Settings::new();
        for (path, value) in [
            ("connections.site.version", "2"),
            ("connections.site.local.id", "C=CH, CN=\"x\""),
            ("connections.site.mobike", "no"),
            ("connections.site.version", "1"),
            ("connections.site.mobike", ""),
        ] {
            settings.set(path, value);
        }
        assert_eq!(
            settings.render(),
            "connections {\n  site {\n    version = \"1\"\n    local {\n      id = \"C=CH, CN=\\\"x\\\"\"\n    }\n  }\n}\n"
        );
        settings.set("connections", "");
        assert_eq!(settings, Settings::new());
    }
}
