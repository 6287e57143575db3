//! Errors that point at the place in the file and say what to write instead.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity, SourceCode,
};

/// The file that a configuration came from, without what it should not have held.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) source: NamedSource<Arc<str>>,
    /// Where the names of `wan` and `lan` stand.
    pub(crate) interfaces: Vec<(String, Range<usize>)>,
}

impl Origin {
    /// `text` with inline secrets masked, byte for byte as long as the file.
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { source: NamedSource::new(name, Arc::from(crate::mask::mask(text))), interfaces: Vec::new() }
    }

    /// No excerpt at all.
    pub(crate) fn nameless(name: &str) -> Self {
        Self { source: NamedSource::new(name, Arc::from("")), interfaces: Vec::new() }
    }
}

/// Everything that is wrong with a configuration, at once.
///
/// [`ConfigError::render`] draws each problem with the line, a caret and the mend; `Display` is one line
/// for a log. As a [`miette::Diagnostic`] it carries the problems as related diagnostics.
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// `problems` must not be empty.
    pub(crate) fn new(origin: &Origin, faults: Vec<Fault>) -> Self {
        let mut faults = faults;
        // In the order of the file, so that the operator mends from top to bottom.
        faults.sort_by_key(|fault| fault.labels.first().map_or(0, |(span, _)| span.start));
        Self { problems: faults.into_iter().map(|f| Problem::new(origin.source.clone(), f)).collect() }
    }

    /// How many problems there are.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Every problem drawn with its place and mend, for a terminal or a text file.
    pub fn render(&self, colours: bool) -> String {
        let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        // Not wrapped: mends hold commands to paste.
        let handler = GraphicalReportHandler::new_themed(theme).with_wrap_lines(false).with_links(false);
        let mut text = String::new();
        for problem in &self.problems {
            // Writing to a string fails only if the source cannot be read; then the line must do.
            if handler.render_report(&mut text, problem).is_err() {
                text.push_str(&problem.line());
                text.push('\n');
            }
        }
        text
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.problems.first() else { return Ok(()) };
        f.write_str(&first.line())?;
        match self.problems.len() - 1 {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more problem)"),
            more => write!(f, " (and {more} more problems)"),
        }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|p| p as &dyn Diagnostic)))
    }
}

/// One thing that is wrong, before it knows its file.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    /// The first is where to look; the others are what it collides with.
    labels: Vec<(Range<usize>, String)>,
    help: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), labels: Vec::new(), help: None }
    }

    pub(crate) fn at(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    /// Whether this is the place to look at.
    pub(crate) fn is_at(&self, span: &Range<usize>) -> bool {
        self.labels.first().is_some_and(|(first, _)| first == span)
    }

    pub(crate) fn help(mut self, mend: impl Into<String>) -> Self {
        self.help = Some(mend.into());
        self
    }
}

/// One thing that is wrong.
struct Problem {
    source: NamedSource<Arc<str>>,
    fault: Fault,
}

impl Problem {
    fn new(source: NamedSource<Arc<str>>, mut fault: Fault) -> Self {
        let len = source.inner().len();
        if len == 0 {
            fault.labels.clear();
        }
        for (span, _) in &mut fault.labels {
            span.end = span.end.min(len);
            span.start = span.start.min(span.end);
        }
        Self { source, fault }
    }

    /// `culvert.toml:12:5: what is wrong; the mend`
    fn line(&self) -> String {
        let text = self.source.inner();
        let place = self.fault.labels.first().map(|(span, _)| {
            let before = text.get(..span.start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!(":{line}:{column}")
        });
        let mend = self.fault.help.as_ref().map(|help| format!("; {help}"));
        let (place, mend) = (place.unwrap_or_default(), mend.unwrap_or_default());
        format!("{}{place}: {}{mend}", self.source.name(), self.fault.message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault.message)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.fault.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        (!self.fault.labels.is_empty()).then_some(&self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let labels = self.fault.labels.iter().enumerate().map(|(index, (span, label))| {
            let label = (!label.is_empty()).then(|| label.clone());
            if index == 0 {
                LabeledSpan::new_primary_with_span(label, span.clone())
            } else {
                LabeledSpan::new_with_span(label, span.clone())
            }
        });
        Some(Box::new(labels))
    }
}
