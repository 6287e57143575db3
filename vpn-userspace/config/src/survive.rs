//! No text makes the reader panic, and every refusal says something.

use proptest::prelude::*;

use crate::tests::parse;

/// Pieces of real files in any order: reaches further than random characters.
fn soup() -> impl Strategy<Value = String> {
    let pieces = include_str!("../../../scripts/culvert.toml")
        .split_inclusive(['\n', '=', '"', '{', ',', ']'])
        .map(str::to_owned)
        .chain(
            [
                "\"any\"",
                "\"\u{e4}\"",
                "\"\"",
                "-1",
                "1e9",
                "[[",
                "''",
                "\"1.2.3.4/33\"",
                "\u{0}",
                "copy = \"b\"\n",
            ]
            .map(str::to_owned),
        )
        .collect::<Vec<_>>();
    prop::collection::vec(prop::sample::select(pieces), 0..60).prop_map(|pieces| pieces.concat())
}

/// The example with a value replaced by another.
fn mutated() -> impl Strategy<Value = String> {
    let lines: Vec<String> = include_str!("../../../scripts/culvert.toml")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    let values = [
        "5",
        "-5",
        "\"any\"",
        "[]",
        "[[]]",
        "{}",
        "true",
        "\"8h\"",
        "\"10.0.0.0/8\"",
        "[\"::/0\"]",
        "\"\"",
        "0.5",
        "\"ü\"",
        "1979-05-27",
        "\"b\"",
    ];
    (prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(values.to_vec())), 1..4))
        .prop_map(move |changes| {
            let mut lines = lines.clone();
            for (index, value) in changes {
                let at = index.index(lines.len());
                if let Some((key, _)) = lines[at].split_once('=') {
                    lines[at] = format!("{key}= {value}");
                } else {
                    lines.remove(at);
                }
            }
            lines.join("\n")
        })
}

fn survive(text: &str) {
    if let Err(error) = parse(text) {
        assert!(error.count() > 0);
        assert!(!error.render(false).is_empty() && !error.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn on_any_characters(text in "\\PC{0,200}") {
        survive(&text);
    }

    #[test]
    fn on_pieces_of_a_file(text in soup()) {
        survive(&text);
    }

    #[test]
    fn on_a_file_with_other_values(text in mutated()) {
        survive(&text);
    }
}
