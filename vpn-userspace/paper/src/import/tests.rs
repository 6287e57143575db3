//! Samples of every format, and bytes that are none.

use proptest::prelude::*;

use super::*;
use crate::section::section;

const SAMPLES: [(&str, &[u8], Option<Format>); 8] = [
    ("aws-static", include_bytes!("samples/aws-static.txt"), Some(Format::AwsText)),
    ("aws-bgp", include_bytes!("samples/aws-bgp.txt"), Some(Format::AwsText)),
    ("aws-xml", include_bytes!("samples/aws.xml"), Some(Format::AwsXml)),
    ("alibaba", include_bytes!("samples/alibaba.json"), Some(Format::AlibabaJson)),
    ("swanctl", include_bytes!("samples/swanctl.conf"), Some(Format::Swanctl)),
    ("ipsec-conf", include_bytes!("samples/ipsec.conf"), Some(Format::IpsecConf)),
    ("cisco-vti", include_bytes!("samples/cisco-vti.txt"), Some(Format::CiscoIos)),
    ("cisco-map", include_bytes!("samples/cisco-map.txt"), Some(Format::CiscoIos)),
];

const SECRETS: &[u8] = include_bytes!("samples/ipsec.secrets");

/// Parts of the keys of the samples.
const KEYS: [&str; 10] = [
    "key_Of_16char",
    "Tr0ub4dor",
    "an0ther,one",
    "with marks",
    "spare key",
    "c3BhcmUga2V5",
    "key of head",
    "key-Of-VTI",
    "oldKey1",
    "XYZZY",
];

#[test]
fn samples_become_connections() {
    for (name, bytes, format) in SAMPLES {
        let imported = import(bytes, None, Some(SECRETS)).unwrap();
        assert_eq!(Some(imported.format), format, "{name}");
        let mut shown = String::new();
        for side in &imported.sides {
            shown.push_str(&section(side, |tunnel| format!("secrets/{}.psk", tunnel.name), &[]));
            for tunnel in &side.tunnels {
                shown.push_str(&format!("# {} has a key: {}\n", tunnel.name, tunnel.psk.is_some()));
            }
            if let Some(bgp) = side.bgp {
                shown.push_str(&format!("# {bgp:?}\n"));
            }
        }
        for finding in &imported.findings {
            shown.push_str(&format!("{:>4} {:<8} {}\n", finding.line, finding.verdict, finding.text));
        }
        for key in KEYS {
            assert!(!shown.contains(key), "{name} shows a key");
        }
        insta::assert_snapshot!(name, shown);
    }
}

#[test]
fn keys_are_found() {
    let keys = |index: usize| -> Vec<String> {
        let imported = import(SAMPLES[index].1, None, Some(SECRETS)).unwrap();
        let tunnels = imported.sides.iter().flat_map(|side| &side.tunnels);
        tunnels
            .map(|t| {
                t.psk
                    .as_ref()
                    .map_or_else(String::new, |p| String::from_utf8_lossy(p.as_bytes()).into_owned())
            })
            .collect()
    };
    assert_eq!(keys(0), ["first.key_Of_16chars", "second.key_Of_16char"]);
    assert_eq!(keys(2), ["first.key_Of_16chars", "second.key_Of_16char"]);
    assert_eq!(keys(3), ["Tr0ub4dor&3~[x]{y}", "an0ther,one.with;marks"]);
    assert_eq!(keys(4), ["a \"quoted\" key # with marks", "spare key"]);
    assert_eq!(keys(5), ["the key of head"]);
    assert_eq!(keys(6), ["first-key-Of-VTI", "second-key-Of-VTI"]);
    assert_eq!(keys(7), ["oldKey1", ""]);
}

#[test]
fn what_is_no_configuration_is_refused_with_the_mend() {
    let error = |bytes: &[u8], format| import(bytes, format, None).unwrap_err().to_string();
    assert!(error(b"hello\n", None).contains("--format"));
    assert!(error(b"\xff\xfe", None).contains("byte 0 is not UTF-8"));
    assert!(error(b"<vpn_connection><ipsec_tunnel>", None).starts_with("line 1: not XML"));
    assert!(error(b"{\n\"a\": }", None).starts_with("line 2: not JSON"));
    assert!(error(b"connections {\n", None).starts_with("line 1: section `connections` opens"));
    assert!(error(b"conn a\n  left\n", None).starts_with("line 2: "));
    assert!(error(b"x\ty\n", Some(Format::CiscoIos)).contains("no tunnel in it"));
    let bomb = "<!DOCTYPE a [<!ENTITY b \"c\">]><vpn_connection>&b;</vpn_connection>";
    assert!(error(bomb.as_bytes(), None).contains("not XML"));
    assert!(error(&vec![b'a'; MOST + 1], None).contains("more than any"));
}

/// Some of the words of all formats, in any order.
fn soup() -> impl Strategy<Value = String> {
    let words: Vec<String> = SAMPLES
        .iter()
        .flat_map(|(_, bytes, _)| std::str::from_utf8(bytes).unwrap_or_default().split(' '))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    prop::collection::vec(prop::sample::select(words), 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in Format::ALL {
            let _ = import(&bytes, Some(format), Some(&bytes));
        }
    }

    #[test]
    fn no_words_panic(text in soup()) {
        let _ = import(text.as_bytes(), None, None);
        for format in Format::ALL {
            let _ = import(text.as_bytes(), Some(format), Some(text.as_bytes()));
        }
    }

    /// A sample with a piece cut out and another put in.
    #[test]
    fn no_damage_panics(which in 0..SAMPLES.len(), at in 0.0..1.0f64, cut in 0..200usize, put in "\\PC{0,20}|[{}=\"#\n ]{0,5}") {
        let text = std::str::from_utf8(SAMPLES[which].1).unwrap();
        let mut start = (text.len() as f64 * at) as usize;
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = (start + cut).min(text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        let damaged = format!("{}{put}{}", &text[..start], &text[end..]);
        let _ = import(damaged.as_bytes(), None, Some(SECRETS));
        let _ = import(damaged.as_bytes(), SAMPLES[which].2, Some(damaged.as_bytes()));
    }
}
