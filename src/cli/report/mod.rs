//! What people and other programs see of a run: a file per format.

pub mod evaluated;
mod figures;
pub mod html;
mod metrics;
pub mod plots;
pub mod results;
mod tables;
pub mod tensorboard;
mod terminal;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::event::Event;
use crate::files::is_stdout;
pub use metrics::Metrics;
use metrics::metrics_line;
use tensorboard::EventFile;
use terminal::{Bar, tensorflow_line};
pub use terminal::{clear_line, for_stderr, for_stdout};

/// The first error of [`line()`].
static LINE_FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes a line of standard output. A full disk there, or a reader that has gone away (`| head`),
/// is no reason to lose a run: the error is kept for [`ensure_written`].
pub fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        let _ = LINE_FAILED.set(error);
    }
}

/// Reports on standard output what was written to `path`; if it was written to standard output
/// itself, on standard error.
pub fn written(path: &Path, text: &str) {
    match is_stdout(path) {
        true => notice(text),
        false => line(text),
    }
}

/// Errors if some [`line()`] could not be written.
///
/// # Errors
/// The first error of a `line`, such as a full disk.
pub fn ensure_written() -> io::Result<()> {
    match LINE_FAILED.get() {
        Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        None => io::stdout().flush(),
    }
}

/// A message without the numbers of the system's errors, `(os error 17)`, which stand beside
/// their words.
pub fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        out.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// Writes a notice on standard error: one line, or wrapped to the width of a terminal.
pub fn notice(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", for_stderr(&without_numbers(text)));
}

/// Says that a command reads `what` from the terminal, if that is its standard input.
pub fn say_waiting(what: &str) {
    if io::stdin().is_terminal() {
        notice(&format!("reading {what} from the terminal; Ctrl-D ends the text"));
    }
}

/// A number with its noun: `1 word`, `2 words`.
pub fn plural(number: impl Into<i128>, noun: &str) -> String {
    let number = number.into();
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `16,914`
pub fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Shows a run in progress: the original's lines on standard output, a progress bar on standard
/// error if that is a terminal, the metrics file, TensorBoard's events.
pub struct Reporter {
    metrics: Option<Metrics>,
    events: Option<EventFile>,
    bar: Bar,
    /// If quiet: the last lines for the training, validation and test texts, for the end.
    quiet: Option<[Option<String>; 3]>,
}

impl Reporter {
    /// A reporter for a run of `max_max_epoch` epochs, or of `max_steps` steps if that is less.
    pub fn new(
        metrics: Option<Metrics>,
        events: Option<EventFile>,
        max_max_epoch: i64,
        max_steps: Option<i64>,
    ) -> Self {
        Reporter { metrics, events, bar: Bar::new(max_max_epoch, max_steps), quiet: None }
    }

    /// If `quiet`, nothing is shown but warnings, and at the end the final perplexities.
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet.then(Default::default);
        self
    }

    /// Writes a metrics line of its own, such as the `start` event. A full disk ends the metrics,
    /// not the run.
    pub fn metric(&mut self, value: &Value) {
        if let Some(metrics) = &mut self.metrics
            && let Err(error) = metrics.write(value)
        {
            self.bar.suspend(|| notice(&format!("{error:#}; training goes on without them")));
            self.metrics = None;
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        if self.quiet.is_none() {
            self.bar.show(event);
        }
        match (&mut self.quiet, tensorflow_line(event)) {
            (None, Some(text)) => self.bar.suspend(|| line(&text)),
            (Some(held), text) => match event {
                Event::EpochEnd { split: "train", .. } => held[0] = text,
                Event::EpochEnd { .. } => held[1] = text,
                Event::Final(_) => held[2] = text,
                _ => {}
            },
            (None, None) => {}
        }
        if let Some(value) = metrics_line(event) {
            self.metric(&value);
        }
        if let Some(events) = &mut self.events
            && let Err(error) = events.show(event)
        {
            self.bar.suspend(|| notice(&format!("{error:#}; training goes on without them")));
            self.events = None;
        }
        let word = match event {
            Event::SaveFailed { error } => Some(format!(
                "warning: {error}; training goes on, the earlier checkpoints are kept"
            )),
            Event::Notice { text } => Some(text.clone()),
            _ => None,
        };
        if let Some(text) = word {
            self.bar.suspend(|| notice(&text));
        }
    }

    /// Takes the progress bar away.
    pub fn clear(&self) {
        self.bar.clear();
    }

    /// The run is over: takes the progress bar away; if quiet, prints the final perplexities.
    pub fn finish(self) {
        self.clear();
        self.quiet.into_iter().flatten().flatten().for_each(|text| line(&text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_have_no_numbers() {
        assert_eq!(without_numbers("a: Is a directory (os error 21)"), "a: Is a directory");
        assert_eq!(without_numbers("a (os error 2); b (os error 17): c"), "a; b: c");
        assert_eq!(without_numbers("plain (words)"), "plain (words)");
    }
}
