//! The keys of `ike` and `esp` that say how the exchanges of a connection go.

use culvert_ike::{Childless, EspMode, ExchangeOptions, Fragmentation, Mobike, Pairs, Ppk, Psk};

use crate::error::Fault;
use crate::section::{At, Section};

/// Reads the keys of `ike`.
pub(crate) fn read_ike(s: &mut Section<'_>, options: &mut ExchangeOptions, faults: &mut Vec<Fault>) {
    let words = [("yes", Fragmentation::Yes), ("no", Fragmentation::No), ("force", Fragmentation::Force)];
    if let Some(fragmentation) = s.word(faults, "fragmentation", &words, &[]) {
        options.fragmentation = fragmentation.into_inner();
    }
    let words = [
        ("accept", Mobike::Accept),
        ("yes", Mobike::Yes),
        ("without-nat", Mobike::WithoutNat),
        ("no", Mobike::No),
    ];
    if let Some(mobike) = s.word(faults, "mobike", &words, &[]) {
        options.mobike = mobike.into_inner();
    }
    let words = [("never", Childless::Never), ("allow", Childless::Allow), ("force", Childless::Force)];
    if let Some(childless) = s.word(faults, "childless", &words, &[]) {
        options.childless = childless.into_inner();
    }
    if let Some(size) = s.integer(faults, "fragment_size", "a number of bytes", 576..=65535) {
        options.fragment_size = u16::try_from(size.into_inner()).ok();
    }
}

/// Reads the keys of `esp`.
pub(crate) fn read_esp(s: &mut Section<'_>, options: &mut ExchangeOptions, faults: &mut Vec<Fault>) {
    let words = [("tunnel", EspMode::Tunnel), ("transport", EspMode::Transport)];
    if let Some(mode) = s.word(faults, "mode", &words, &[]) {
        options.mode = mode.into_inner();
    }
    let words = [("together", Pairs::Together), ("each", Pairs::Each)];
    if let Some(pairs) = s.word(faults, "pairs", &words, &[]) {
        options.pairs = pairs.into_inner();
    }
    options.rekey_test = s.boolean(faults, "rekey_test").is_some_and(At::into_inner);
}

/// `ppk` of a tunnel.
#[derive(Clone)]
pub(crate) struct RawPpk {
    pub(crate) id: String,
    pub(crate) file: At<String>,
    pub(crate) required: bool,
}

impl RawPpk {
    /// The key with the secret that its file holds.
    pub(crate) fn with(self, secret: Psk) -> Ppk {
        Ppk { id: self.id, secret, required: self.required }
    }
}

/// Reads `ppk` of a tunnel.
pub(crate) fn read_ppk(mut s: Section<'_>, faults: &mut Vec<Fault>) -> Option<At<RawPpk>> {
    let span = s.span.clone();
    let before = faults.len();
    let id = s.parsed(faults, "id", "a name of 1 to 255 bytes", |text, faults| {
        if (1..=255).contains(&text.get_ref().len()) {
            return Some((*text.get_ref()).to_owned());
        }
        faults.push(
            Fault::new("`id` of `ppk` must be a name of 1 to 255 bytes")
                .at(text.span(), format!("{} bytes", text.get_ref().len()))
                .help("write the name by which the peer knows the key"),
        );
        None
    });
    let file = s.string(faults, "file", "the path of a file");
    let required = s.boolean(faults, "required");
    if faults.len() == before {
        for (key, there, mend) in [
            ("id", id.is_some(), "write the name by which the peer knows the key: id = \"NAME\""),
            ("file", file.is_some(), "name the file with the key: file = \"secrets/NAME.ppk\""),
        ] {
            if !there {
                faults.push(s.missing(key, mend));
            }
        }
    }
    s.finish(faults, &[]);
    let required = required.is_none_or(At::into_inner);
    Some(At::new(span, RawPpk { id: id?.into_inner(), file: file?, required }))
}
