//! Durations as operators write them: `8h`, `30s`, `1h30m`.

use std::time::Duration;

/// Parses one or more numbers with units d, h, m, s or ms, each unit at most once and largest first.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut next_unit = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let index = UNITS.iter().position(|(name, _)| *name == unit)?;
        if index < next_unit {
            return None;
        }
        next_unit = index + 1;
        let (_, factor) = UNITS.get(index)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = tail;
    }
    Some(Duration::from_millis(total))
}

/// The shortest text that [`parse`] reads as this duration (to the millisecond).
pub(crate) fn show(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    let mut text = String::new();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let count = millis / factor;
        millis %= factor;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let cases = [
            ("8h", Some(28_800_000)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("250ms", Some(250)),
            (" 0s ", Some(0)),
            ("30", None),
            ("", None),
            ("h", None),
            ("30 s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("-1s", None),
            ("1.5h", None),
            ("8H", None),
            ("99999999999999999999s", None),
            ("999999999999999999d", None),
            ("5µs", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn shown_durations_read_back(millis in 0u64..u64::MAX / 2) {
            let duration = Duration::from_millis(millis);
            proptest::prop_assert_eq!(parse(&show(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
