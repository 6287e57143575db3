//! What was made for environments, on disk beside the control socket: after a crash the next culvertd gives it back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

/// A namespace in which there is something of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InNamespace {
    /// Ours, and to be deleted.
    pub(crate) created: bool,
    /// Interfaces that were moved there, and the addresses that they had.
    pub(crate) lan: BTreeMap<String, Vec<IpNet>>,
}

/// The file, and what it says: by the namespaces' names.
pub(crate) struct State {
    path: PathBuf,
    pub(crate) namespaces: BTreeMap<String, InNamespace>,
}

impl State {
    /// Of the culvertd with this control socket; empty if there is none, or if it cannot be understood.
    pub(crate) fn read(socket: &Path) -> Self {
        let mut path = socket.as_os_str().to_owned();
        path.push(".environments");
        let path = PathBuf::from(path);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let namespaces = if text.is_empty() { Some(BTreeMap::new()) } else { parse(&text) };
        if namespaces.is_none() {
            tracing::warn!(
                "{} cannot be understood: interfaces of an earlier culvertd may be left in namespaces (`ip netns list`)",
                path.display()
            );
        }
        Self { path, namespaces: namespaces.unwrap_or_default() }
    }

    /// Writes it; to be called before what it tells of is done.
    pub(crate) fn write(&self) {
        let result = if self.namespaces.is_empty() {
            match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            // Whole or not at all: a crash may come at any time.
            let aside = self.path.with_extension("environments-new");
            std::fs::write(&aside, self.text()).and_then(|()| std::fs::rename(&aside, &self.path))
        };
        if let Err(error) = result {
            tracing::warn!(
                "cannot write {}: {error}; after a crash interfaces may be left in namespaces",
                self.path.display()
            );
        }
    }

    fn text(&self) -> String {
        let lan = |lan: &BTreeMap<String, Vec<IpNet>>| -> Value {
            let nets =
                |nets: &Vec<IpNet>| nets.iter().map(|net| Value::String(net.to_string())).collect::<Value>();
            Value::Object(lan.iter().map(|(name, of)| (name.clone(), nets(of))).collect())
        };
        let all = self
            .namespaces
            .iter()
            .map(|(name, of)| (name.clone(), json!({ "created": of.created, "lan": lan(&of.lan) })));
        Value::Object(all.collect()).to_string()
    }
}

fn parse(text: &str) -> Option<BTreeMap<String, InNamespace>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let one = |(name, of): (&String, &Value)| {
        let nets = |nets: &Value| -> Option<Vec<IpNet>> {
            nets.as_array()?.iter().map(|net| net.as_str()?.parse().ok()).collect()
        };
        let lan = of.get("lan")?.as_object()?.iter();
        let lan = lan.map(|(name, of)| Some((name.clone(), nets(of)?))).collect::<Option<_>>()?;
        Some((name.clone(), InNamespace { created: of.get("created")?.as_bool()?, lan }))
    };
    value.as_object()?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let of = InNamespace {
            created: true,
            lan: [("eth2".to_owned(), vec!["10.1.0.1/24".parse().unwrap(), "fd01::1/64".parse().unwrap()])]
                .into(),
        };
        let namespaces: BTreeMap<_, _> =
            [("culvert-a".to_owned(), of), ("blue".to_owned(), InNamespace::default())].into();
        let state = State { path: PathBuf::new(), namespaces: namespaces.clone() };
        assert_eq!(parse(&state.text()), Some(namespaces));
        for wrong in ["", "[]", "{\"a\":1}", "{\"a\":{\"created\":true,\"lan\":{\"eth2\":[\"x\"]}}}"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
