//! What the HTML reports share: a page that needs nothing else, scales that read well, text that stays text.

/// The beginning of a page, up to and with `<body>`.
pub(crate) fn head(title: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head><body>",
        escape(title)
    )
}

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em}\
pre{overflow-x:auto;font-size:13px;line-height:1.35}svg{width:100%;height:auto}svg text{font-size:12px;fill:currentColor}\
.grid{stroke:currentColor;opacity:.18}.key span{display:inline-block;margin-right:1.5em}\
.key i{display:inline-block;width:26px;margin-right:6px;vertical-align:middle}\
table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #8884}\
.met{color:#0b7a5c}.missed{color:#b4541a}";

/// The next round number: 1, 2, 4 or 8 times a power of ten, so that quarters of it read well.
pub(crate) fn nice(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(highest.log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|end| *end >= highest)
        .unwrap_or(highest)
}

/// Text in HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_reach_over_the_highest() {
        for (highest, end) in [(0.0, 1.0), (0.31, 0.4), (8.4, 10.0), (18.0, 20.0), (4.0, 4.0)] {
            assert!((nice(highest) - end).abs() < 1e-9, "{highest}: {}", nice(highest));
        }
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
        assert!(head("<x>").contains("<title>&lt;x&gt;</title>"));
    }
}
